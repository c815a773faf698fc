"""Latent traits that only their data tie together: a small Gaussian system for each row."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.linalg import solve_triangular

from .._kernels.gaussian import draw_rows, work_size
from ..errors import FitError

# From this many rows with the same matrix on, one Cholesky and two matrix products beat a Cholesky each.
SHARED_BY = 200


@dataclass(frozen=True)
class CrossProducts:
    """``G_i = X_i'X_i`` of all rows: one matrix where many have the same, packed triangles for the others.

    Attributes
    ----------
    shared : tuple of (ndarray of int or slice, ndarray of shape (b, b))
        Rows and their matrix.
    others : ndarray of int or slice
        The other rows.
    packed : ndarray, shape (b (b + 1) / 2, number of others)
        Their lower triangles, row after row.
    """

    shared: tuple[tuple[np.ndarray | slice, np.ndarray], ...]
    others: np.ndarray | slice
    packed: np.ndarray

    @classmethod
    def of(cls, grams: np.ndarray, which: np.ndarray) -> CrossProducts:
        """From distinct matrices and which each row has."""
        n, counts = len(which), np.bincount(which, minlength=len(grams))
        everyone = slice(None)
        shared = tuple(
            (everyone if counts[m] == n else np.flatnonzero(which == m), grams[m])
            for m in np.flatnonzero(counts >= SHARED_BY)
        )
        others = np.flatnonzero(counts[which] < SHARED_BY)
        rows, columns = np.tril_indices(grams.shape[1])
        packed = np.ascontiguousarray(grams[:, rows, columns][which[others]].T)
        return cls(shared, everyone if len(others) == n else others, packed)

    def form(self, eta: np.ndarray) -> float:
        """``sum_i eta_i' G_i eta_i`` for eta of shape (b, n)."""
        total = sum(float(np.vdot(eta[:, rows], gram @ eta[:, rows])) for rows, gram in self.shared)
        rows, columns = np.tril_indices(len(eta))
        some = eta[:, self.others]
        sums = np.einsum("ei,ei,ei->e", self.packed, some[rows], some[columns])
        return total + float(sums @ np.where(rows == columns, 1.0, 2.0))

    def draw(self, noise_prec: float, prec: np.ndarray, rhs: np.ndarray, z: np.ndarray) -> np.ndarray:
        """Draw ``N(P_i^-1 r_i, P_i^-1)`` with ``P_i = phi G_i + diag(omega)``; eq. LINK-21.

        Parameters
        ----------
        noise_prec : float
            phi.
        prec : ndarray, shape (b,)
            omega.
        rhs, z : ndarray, shape (b, n)
            r, and standard normals.

        Returns
        -------
        ndarray, shape (b, n)

        Raises
        ------
        FitError
        """
        out = np.empty_like(rhs)
        for rows, gram in self.shared:
            root = np.linalg.cholesky(noise_prec * gram + np.diag(prec))
            inverse = solve_triangular(root, np.eye(len(root)), lower=True)
            out[:, rows] = inverse.T @ (inverse @ rhs[:, rows] + z[:, rows])
        n_others = self.packed.shape[1]
        if n_others:
            drawn = np.empty((len(rhs), n_others))
            bad = draw_rows(
                noise_prec * self.packed,
                np.repeat(prec[:, None], n_others, axis=1),
                np.ascontiguousarray(rhs[:, self.others]),
                np.ascontiguousarray(z[:, self.others]),
                np.empty(work_size(len(rhs))),
                drawn,
            )
            if bad >= 0:
                raise FitError(
                    "the precision of latent traits given the data is not positive definite. Rescale the data."
                )
            out[:, self.others] = drawn
        return out
