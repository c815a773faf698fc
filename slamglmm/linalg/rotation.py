"""Eigen-rotations under which every covariance of the grid is diagonal."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import scipy.linalg

# Relative size below which an eigenvalue, or a commutator, counts as zero.
RANK_TOLERANCE = 1e-10
COMMUTATOR_TOLERANCE = 1e-10


@dataclass(frozen=True)
class Rotation:
    """An orthogonal change of basis for row vectors: ``x -> x Q``.

    Attributes
    ----------
    matrix : ndarray, shape (n, n), or None
        Orthogonal; None is the identity.
    """

    matrix: np.ndarray | None = None

    def forward(self, rows: np.ndarray) -> np.ndarray:
        """Coordinates of each row of a (c, n) array in the new basis."""
        return np.ascontiguousarray(rows) if self.matrix is None else rows @ self.matrix

    def back(self, rows: np.ndarray) -> np.ndarray:
        """Inverse of `forward`."""
        return np.ascontiguousarray(rows) if self.matrix is None else rows @ self.matrix.T


def symmetric_eigen(matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Eigenvalues (clipped at zero) and eigenvectors of a positive semi-definite matrix, largest first.

    Signs are fixed (the entry of largest modulus is positive), so that equal input gives equal output.
    """
    values, vectors = scipy.linalg.eigh(matrix, check_finite=False)
    values, vectors = values[::-1], vectors[:, ::-1]
    pivots = vectors[np.argmax(np.abs(vectors), axis=0), np.arange(vectors.shape[1])]
    return np.maximum(values, 0.0), np.ascontiguousarray(vectors * np.where(pivots < 0, -1.0, 1.0))


def all_commute(matrices: Sequence[np.ndarray]) -> bool:
    """Whether every pair of symmetric matrices commutes, to a relative 1e-10."""
    for i, first in enumerate(matrices):
        for second in matrices[i + 1 :]:
            product = first @ second
            if np.linalg.norm(product - product.T) > COMMUTATOR_TOLERANCE * np.linalg.norm(first) * np.linalg.norm(
                second
            ):
                return False
    return True


def joint_eigenbasis(matrices: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray] | None:
    """One basis that diagonalises all matrices, or None if there is none.

    Returns
    -------
    values : ndarray, shape (n_matrices, n)
    vectors : ndarray, shape (n, n)

    Notes
    -----
    A combination with unrelated coefficients has the joint eigenspaces as its eigenspaces; the result is checked,
    because two of its eigenvalues may come close by chance.
    """
    if len(matrices) == 1:
        values, vectors = symmetric_eigen(matrices[0])
        return values[None], vectors
    if not all_commute(matrices):
        return None
    scales = [np.linalg.norm(matrix) or 1.0 for matrix in matrices]
    coefficients = np.sqrt([2.0, 3.0, 5.0, 7.0, 11.0, 13.0, 17.0, 19.0])
    coefficients = np.resize(coefficients, len(matrices)) * np.linspace(1.0, 2.0, len(matrices))
    _, vectors = symmetric_eigen(sum(c / s * m for c, s, m in zip(coefficients, scales, matrices, strict=True)))
    values = np.empty((len(matrices), len(vectors)))
    for i, (matrix, scale) in enumerate(zip(matrices, scales, strict=True)):
        rotated = vectors.T @ matrix @ vectors
        values[i] = np.diag(rotated)
        if np.linalg.norm(rotated - np.diag(values[i])) > 1e-8 * scale:
            return None
    return np.maximum(values, 0.0), vectors


def range_basis(matrix: np.ndarray) -> tuple[np.ndarray, int]:
    """Orthogonal matrix whose first q columns span the range of a positive semi-definite matrix, and q.

    With ``matrix`` the sum of all ``Z K Z'`` this is the joint column space of the random effects: outside it every
    covariance of the grid is the residual share times the identity.
    """
    values, vectors = symmetric_eigen(matrix)
    return vectors, int(np.sum(values > RANK_TOLERANCE * max(values[0], np.finfo(float).tiny)))
