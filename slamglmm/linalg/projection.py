"""Regression on markers after covariates and observation weights, without ever forming the projected markers.

With weights w and covariates Z, let Q be an orthonormal basis of ``diag(w)^1/2 Z``. Marker k of the model is
``x_k = c_k (I - QQ') diag(w)^1/2 g_k``, where g_k is the column as stored. Because every residual R is orthogonal
to Q, ``x_k'R = c_k (g_k' S + a_k'u)`` with ``a_k = Q' diag(w)^1/2 g_k``, ``S = diag(w)^1/2 R_raw`` and
``R = R_raw + Q u``: only the small u needs to know of the projection (eq. VB-2).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import scipy.linalg

from .._kernels.columns import Columns, add_columns, add_squares, column_products, column_squares
from .independent import column_basis, independent_columns
from .threads import BlockPool, blocks

# A marker whose squares fall below this share after projection is a combination of the covariates.
COLLINEAR = 1e-9
# Columns to a task of the thread pool.
COLUMN_BLOCK = 2048


@dataclass(frozen=True)
class CovariateBasis:
    """Orthonormal basis of weighted covariates.

    Attributes
    ----------
    Q : ndarray, shape (n, q)
    kept : ndarray of int, length q
        The independent columns, in order of the columns.
    triangle : ndarray, shape (q, q)
        ``diag(w)^1/2 Z[:, kept] = Q triangle``.
    logdet : float
        ``log |Z'WZ|`` of the kept columns.
    """

    Q: np.ndarray
    kept: np.ndarray
    triangle: np.ndarray
    logdet: float

    @property
    def rank(self) -> int:
        """Number of independent covariates."""
        return self.Q.shape[1]


def covariate_basis(
    Z: np.ndarray, root_weights: np.ndarray | None = None, constant: np.ndarray | None = None
) -> CovariateBasis:
    """Basis of the columns of Z, leaving out each column that depends on those before it.

    Parameters
    ----------
    Z : ndarray, shape (n, b)
    root_weights : ndarray, length n, optional
    constant : ndarray, length n, optional
        What a column of ones became in rows that were rotated; ones by default.
    """
    weighted = Z
    if root_weights is not None:
        weighted = Z * root_weights[:, None]
        constant = root_weights if constant is None else constant * root_weights
    kept = independent_columns(weighted, constant)
    Q, triangle = column_basis(weighted, kept, constant)
    logdet = 2.0 * float(np.log(np.abs(np.diag(triangle))).sum())
    return CovariateBasis(Q, np.flatnonzero(kept), triangle, logdet)


@dataclass(frozen=True, eq=False)
class ProjectedMarkers:
    """Markers as the model sees them: weighted, free of covariates, scaled.

    Attributes
    ----------
    columns : Columns
        n rows and m columns as stored.
    basis : CovariateBasis
    weights : ndarray, length n or 0
        Observation weights; empty for all ones. A row of weight zero is not in the data.
    projections : ndarray, shape (m, q)
        ``a_k``.
    scale : ndarray, length m
        ``c_k``; 0 for a marker that does not vary.
    gram : ndarray, length m
        ``x_k'x_k``.
    order : ndarray of int
        Markers that vary, in the order of a sweep.
    """

    columns: Columns
    basis: CovariateBasis
    weights: np.ndarray
    projections: np.ndarray
    scale: np.ndarray
    gram: np.ndarray
    order: np.ndarray

    @property
    def m(self) -> int:
        """Number of markers."""
        return len(self.gram)

    @property
    def constant(self) -> np.ndarray:
        """Markers that do not vary, or are combinations of the covariates."""
        return np.flatnonzero(self.scale == 0.0)

    @property
    def root_weights(self) -> np.ndarray | None:
        """Square roots of the weights, or None."""
        return np.sqrt(self.weights) if len(self.weights) else None

    def scaled_by(self, scale: np.ndarray) -> ProjectedMarkers:
        """The same with columns ``c_k`` times as large (not for columns that are scaled already); eq. VB-2.

        Parameters
        ----------
        scale : ndarray, length m
        """
        return replace(self, scale=self.scale * scale, gram=self.gram * scale**2)

    def project(self, Y: np.ndarray) -> np.ndarray:
        """Responses (T, n) after weights and covariates, times the root weights: a residual S to start from."""
        Q, root = self.basis.Q, self.root_weights
        weighted = np.array(Y if root is None else Y * root, dtype=float, order="C")
        weighted -= (weighted @ Q) @ Q.T
        weighted -= (weighted @ Q) @ Q.T
        return weighted if root is None else weighted * root

    def settle(self, residual: np.ndarray, carried: np.ndarray) -> None:
        """Move what is carried along Q into the residual (T, n), in place."""
        along = carried @ self.basis.Q.T
        residual += along if self.root_weights is None else along * self.root_weights
        carried[:] = 0.0

    def inner(self, residual: np.ndarray) -> np.ndarray:
        """``R R'`` (T, T) of settled residuals."""
        if not len(self.weights):
            return residual @ residual.T
        inverse = np.divide(1.0, self.weights, out=np.zeros_like(self.weights), where=self.weights > 0)
        return (residual * inverse) @ residual.T

    def subtract(self, coef: np.ndarray, residual: np.ndarray, carried: np.ndarray) -> None:
        """Take ``X coef_t`` off each residual, in place; `coef` is (T, m) on the scale of x."""
        scaled = np.ascontiguousarray(-coef * self.scale)
        add_columns(self.columns, scaled, self.weights, residual)
        carried -= scaled @ self.projections

    def products(self, residual: np.ndarray, pool: BlockPool | None = None) -> np.ndarray:
        """``x_k'R_t`` for all markers, shape (m, T)."""
        out = np.empty((self.m, len(residual)))

        def one(part: slice) -> None:
            column_products(self.columns, residual, part.start, part.stop, out[part])

        (pool or BlockPool()).run(one, blocks(self.m, COLUMN_BLOCK))
        out *= self.scale[:, None]
        return out

    def fitted(self, coef: np.ndarray) -> np.ndarray:
        """``G coef_t``, without projection or weights, shape (T, n); `coef` is (T, m) on the scale of the columns."""
        out = np.zeros((len(coef), self.columns.shape[0]))
        add_columns(self.columns, np.ascontiguousarray(coef), np.empty(0), out)
        return out

    def weighted_squares(self, coef: np.ndarray) -> np.ndarray:
        """``sum_k coef_k g_ik^2`` for each row, length n."""
        n = self.columns.shape[0]
        out = np.zeros(n)
        add_squares(self.columns, np.ascontiguousarray(coef), np.empty(n), out)
        return out


def project_markers(
    columns: Columns,
    Z: np.ndarray,
    weights: np.ndarray | None = None,
    standardize: bool = False,
    pool: BlockPool | None = None,
    constant: np.ndarray | None = None,
) -> ProjectedMarkers:
    """Work out everything a sweep needs to know of the markers, in one pass over them.

    Parameters
    ----------
    columns : Columns
    Z : ndarray, shape (n, b)
        Covariates, any rank.
    weights : ndarray, length n, optional
    standardize : bool
        Scale every x to ``x'x = (number of rows with weight) - 1``.
    pool : BlockPool, optional
    constant : ndarray, length n, optional
        As in `covariate_basis`.
    """
    n, m = columns.shape
    weight = np.ones(n) if weights is None else np.ascontiguousarray(weights, dtype=float)
    root = None if weights is None else np.sqrt(weight)
    basis = covariate_basis(Z, root, constant)
    loads = np.ascontiguousarray((basis.Q if root is None else basis.Q * root[:, None]).T)
    projections = np.empty((m, basis.rank))
    squares = np.empty(m)

    def one(part: slice) -> None:
        column_products(columns, loads, part.start, part.stop, projections[part])
        column_squares(columns, weight, part.start, part.stop, np.empty(n), squares[part])

    (pool or BlockPool()).run(one, blocks(m, COLUMN_BLOCK))
    gram = squares - np.einsum("kq,kq->k", projections, projections)
    varies = gram > COLLINEAR * squares
    scale = varies.astype(float)
    gram[~varies] = 0.0
    if standardize:
        target = float(np.count_nonzero(weight) - 1)
        scale[varies] = np.sqrt(target / gram[varies])
        gram[varies] = target
    return ProjectedMarkers(
        columns,
        basis,
        np.empty(0) if weights is None else weight,
        projections,
        scale,
        gram,
        np.flatnonzero(varies),
    )


def covariate_effects(basis: CovariateBasis, target: np.ndarray, root_weights: np.ndarray | None) -> np.ndarray:
    """Least-squares coefficients of the kept covariates for each response (T, n), shape (T, q)."""
    weighted: Any = target if root_weights is None else target * root_weights
    return scipy.linalg.solve_triangular(basis.triangle, (weighted @ basis.Q).T).T
