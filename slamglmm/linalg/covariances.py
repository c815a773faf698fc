"""The covariances ``V_g`` of one set of rows at every grid point, each diagonal in the basis of its ray."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from .rotation import Rotation, joint_eigenbasis, range_basis, symmetric_eigen


@dataclass(frozen=True)
class Covariances:
    """``V_g = sum_m h_gm Z_m K_m Z_m' + (1 - s_g) I = Q_a diag(v_g) Q_a'``, ``a`` the ray of ``g``; eq. SLAM-3.

    All bases begin with the same rotation, `outer`: rows that it has turned are in *common* coordinates, and every
    method but `enter` and `leave` works there. With one basis these are its own coordinates. With several, each
    basis turns the first `rank` of them further; outside, every V_g is the residual share times the identity.

    Attributes
    ----------
    outer : Rotation
    inner : tuple of ndarray, each (rank, rank)
        What each basis does after `outer`; empty when there is one basis.
    basis : ndarray of int, shape (n_points,)
        Basis in which a grid point is diagonal.
    weights : ndarray, shape (n_points, n)
        ``1 / v_g`` in that basis.
    logdet : ndarray, shape (n_points,)
    residual_share : ndarray, shape (n_points,)
        ``1 - s_g``.
    kind : str
        How the bases were found: "diagonal", "rays" or "independent".
    rank : int
        Dimension of the joint column space of the random effects in these rows.
    """

    outer: Rotation
    inner: tuple[np.ndarray, ...]
    basis: np.ndarray
    weights: np.ndarray
    logdet: np.ndarray
    residual_share: np.ndarray
    kind: str
    rank: int

    @property
    def n(self) -> int:
        """Number of rows."""
        return self.weights.shape[1]

    @property
    def nbytes(self) -> int:
        """Memory of the bases and weights."""
        outer = 0 if self.outer.matrix is None else self.outer.matrix.nbytes
        return self.weights.nbytes + outer + sum(matrix.nbytes for matrix in self.inner)

    def without_outer(self) -> Covariances:
        """The same covariances for data that are in common coordinates from the start."""
        return replace(self, outer=Rotation())

    def enter(self, data: np.ndarray) -> np.ndarray:
        """Rows of ``data`` (c, n) in common coordinates."""
        return self.outer.forward(data)

    def leave(self, common: np.ndarray) -> np.ndarray:
        """Inverse of `enter`."""
        return self.outer.back(common)

    def in_basis(self, common: np.ndarray, basis: int) -> np.ndarray:
        """All rows in one basis."""
        if not self.inner:
            return common
        turned = common.copy()
        np.matmul(common[:, : self.rank], self.inner[basis], out=turned[:, : self.rank])
        return turned

    def coordinates(self, common: np.ndarray, points: np.ndarray) -> np.ndarray:
        """Each row in the basis of its grid point."""
        return self._turn_inside(common, points, inverse=False)

    def from_coordinates(self, coordinates: np.ndarray, points: np.ndarray) -> np.ndarray:
        """Inverse of `coordinates`."""
        return self._turn_inside(coordinates, points, inverse=True)

    def quadratic_forms(self, common: np.ndarray) -> np.ndarray:
        """``e' V_g^-1 e`` of each row at every grid point, shape (c, n_points); one matrix product per basis."""
        if not self.inner:
            return (common * common) @ self.weights.T
        inside, outside = np.ascontiguousarray(common[:, : self.rank]), common[:, self.rank :]
        out = np.empty((len(common), len(self.basis)))
        for a, turn in enumerate(self.inner):
            on_basis = np.flatnonzero(self.basis == a)
            squares = inside @ turn
            squares *= squares
            out[:, on_basis] = squares @ self.weights[on_basis, : self.rank].T
        out += np.einsum("ij,ij->i", outside, outside)[:, None] / self.residual_share
        return out

    def solve(self, common: np.ndarray, points: np.ndarray) -> np.ndarray:
        """``V_g^-1 e`` of each row at its own grid point, shape (c, n)."""
        return self.from_coordinates(self.coordinates(common, points) * self.weights[points], points)

    def _turn_inside(self, rows: np.ndarray, points: np.ndarray, inverse: bool) -> np.ndarray:
        if not self.inner:
            return rows
        out = rows.copy()
        bases = self.basis[points]
        for a in np.unique(bases):
            members = np.flatnonzero(bases == a)
            turn = self.inner[a].T if inverse else self.inner[a]
            out[members, : self.rank] = rows[members, : self.rank] @ turn
        return out


def build_covariances(
    kernels: Sequence[np.ndarray],
    shares: np.ndarray,
    ray: np.ndarray,
    directions: np.ndarray,
    n: int,
    joint: tuple[np.ndarray, np.ndarray] | None = None,
) -> Covariances:
    """Find the cheapest bases for a grid of covariances.

    Parameters
    ----------
    kernels : sequence of ndarray, each (n, n)
        ``Z_m K_m Z_m'`` of each random effect.
    shares : ndarray, shape (n_points, n_effects)
    ray : ndarray of int, shape (n_points,)
    directions : ndarray, shape (n_rays, n_effects)
    n : int
        Number of rows.
    joint : tuple of ndarray, optional
        What `joint_eigenbasis` says of these kernels, if it has been asked.

    Notes
    -----
    Effects that commute share one basis. Otherwise the joint column space is split off first (outside it every V_g is
    a multiple of the identity), and inside it each ray of the grid has one basis.
    """
    residual_share = 1.0 - shares.sum(axis=1)
    v = np.repeat(residual_share[:, None], n, axis=1)
    outer, basis, kind, rank = Rotation(), np.zeros_like(ray), "independent", 0
    turns: list[np.ndarray] = []
    if kernels and n:
        joint = joint or joint_eigenbasis(kernels)
        if joint is not None:
            values, vectors = joint
            v += shares @ values
            total = values.sum(axis=0)
            outer, kind, rank = Rotation(vectors), "diagonal", int(np.sum(total > 1e-10 * total.max()))
        else:
            vectors, rank = range_basis(np.sum(kernels, axis=0))
            inside = [vectors[:, :rank].T @ kernel @ vectors[:, :rank] for kernel in kernels]
            for a, direction in enumerate(directions):
                values, turn = symmetric_eigen(np.tensordot(direction, inside, axes=1))
                turns.append(turn)
                on_ray = ray == a
                v[np.ix_(on_ray, np.arange(rank))] += np.outer(shares[on_ray].sum(axis=1), values)
            outer, basis, kind = Rotation(vectors), ray, "rays"
    return Covariances(
        outer, tuple(turns), basis.astype(np.intp), 1.0 / v, np.log(v).sum(axis=1), residual_share, kind, rank
    )
