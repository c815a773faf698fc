"""Orthogonal changes of basis under which every covariance of the grid is diagonal, put together from compact steps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import scipy.linalg
import scipy.sparse as sp

# Relative size below which a commutator counts as zero.
COMMUTATOR_TOLERANCE = 1e-10
# Stacks of matrices up to this size are decomposed in one call; larger ones by the faster driver, one at a time.
STACKED_SIZE = 64


class Step(Protocol):
    """An orthogonal map of row vectors."""

    def forward(self, rows: np.ndarray) -> np.ndarray:
        """Image of each row of a (c, n) array."""
        ...

    def back(self, rows: np.ndarray) -> np.ndarray:
        """Inverse of `forward`."""
        ...

    @property
    def nbytes(self) -> int:
        """Memory."""
        ...


@dataclass(frozen=True)
class Permutation:
    """Coordinates in another order.

    Attributes
    ----------
    order : ndarray of int, shape (n,)
        Where each new coordinate comes from.
    """

    order: np.ndarray

    def forward(self, rows: np.ndarray) -> np.ndarray:
        """Rows in the new order."""
        return np.take(rows, self.order, axis=1)

    def back(self, rows: np.ndarray) -> np.ndarray:
        """Inverse of `forward`."""
        out = np.empty_like(rows, order="C")
        out[:, self.order] = rows
        return out

    @property
    def nbytes(self) -> int:
        """Memory of the order."""
        return self.order.nbytes


@dataclass(frozen=True)
class Reflections:
    """Householder reflections ``x -> x (I - 2 V V')``, one after the other.

    Attributes
    ----------
    vectors : tuple of CSR, each (n, n_cells)
        Columns have disjoint support and unit length, or are zero.
    """

    vectors: tuple[sp.csr_array, ...]

    def forward(self, rows: np.ndarray) -> np.ndarray:
        """Reflected rows."""
        for vectors in self.vectors:
            rows = rows - 2.0 * ((rows @ vectors) @ vectors.T)
        return np.ascontiguousarray(rows)

    def back(self, rows: np.ndarray) -> np.ndarray:
        """Inverse of `forward`."""
        for vectors in self.vectors[::-1]:
            rows = rows - 2.0 * ((rows @ vectors) @ vectors.T)
        return np.ascontiguousarray(rows)

    @property
    def nbytes(self) -> int:
        """Memory of the vectors."""
        return sum(v.data.nbytes + v.indices.nbytes + v.indptr.nbytes for v in self.vectors)


@dataclass(frozen=True)
class Blocks:
    """A block-diagonal orthogonal matrix on the leading coordinates, ``x -> x Q``; the others stay.

    Attributes
    ----------
    matrices : tuple of ndarray, each (f, s, s)
        f consecutive blocks of s coordinates.
    """

    matrices: tuple[np.ndarray, ...]

    def forward(self, rows: np.ndarray) -> np.ndarray:
        """Rows in the basis of the columns of Q."""
        return self._multiply(rows, self.matrices)

    def back(self, rows: np.ndarray) -> np.ndarray:
        """Inverse of `forward`."""
        return self._multiply(rows, [matrix.swapaxes(1, 2) for matrix in self.matrices])

    @staticmethod
    def _multiply(rows: np.ndarray, matrices: Sequence[np.ndarray]) -> np.ndarray:
        out = np.empty(rows.shape)
        start = 0
        for matrix in matrices:
            f, s, _ = matrix.shape
            part = slice(start, start + f * s)
            if f == 1:
                np.matmul(rows[:, part], matrix[0], out=out[:, part])
            else:
                by_block = (rows[:, part].reshape(-1, f, s), out[:, part].reshape(-1, f, s))
                np.matmul(by_block[0].swapaxes(0, 1), matrix, out=by_block[1].swapaxes(0, 1))
            start = part.stop
        out[:, start:] = rows[:, start:]
        return out

    @property
    def nbytes(self) -> int:
        """Memory of the blocks."""
        return sum(matrix.nbytes for matrix in self.matrices)


@dataclass(frozen=True)
class Rotation:
    """An orthogonal change of basis for row vectors, step by step.

    Attributes
    ----------
    steps : tuple of Step
        None is the identity.
    """

    steps: tuple[Step, ...] = ()

    def forward(self, rows: np.ndarray) -> np.ndarray:
        """Coordinates of each row of a (c, n) array in the new basis."""
        for step in self.steps:
            rows = step.forward(rows)
        return np.ascontiguousarray(rows)

    def back(self, rows: np.ndarray) -> np.ndarray:
        """Inverse of `forward`."""
        for step in self.steps[::-1]:
            rows = step.back(rows)
        return np.ascontiguousarray(rows)

    @property
    def nbytes(self) -> int:
        """Memory of all steps."""
        return sum(step.nbytes for step in self.steps)


def symmetric_eigen(matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Eigenvalues (clipped at zero) and eigenvectors of positive semi-definite matrices (..., s, s), largest first.

    Signs are fixed (the entry of largest modulus is positive), so that equal input gives equal output.
    """
    if matrix.ndim == 2 or matrix.shape[-1] > STACKED_SIZE:
        values, vectors = np.empty(matrix.shape[:-1]), np.empty(matrix.shape)
        for at in np.ndindex(matrix.shape[:-2]):
            values[at], vectors[at] = scipy.linalg.eigh(matrix[at], check_finite=False)
    else:
        values, vectors = np.linalg.eigh(matrix)
    values, vectors = values[..., ::-1], vectors[..., ::-1]
    if vectors.size:
        pivots = np.take_along_axis(vectors, np.argmax(np.abs(vectors), axis=-2, keepdims=True), axis=-2)
        vectors = vectors * np.where(pivots < 0, -1.0, 1.0)
    return np.maximum(values, 0.0), np.ascontiguousarray(vectors)


def _norm(matrices: np.ndarray) -> np.ndarray:
    return np.linalg.norm(matrices, axis=(-2, -1))


def all_commute(matrices: Sequence[np.ndarray]) -> bool:
    """Whether every pair of symmetric matrices, or stacks of them, commutes, to a relative 1e-10."""
    for i, first in enumerate(matrices):
        for second in matrices[i + 1 :]:
            product = first @ second
            bound = COMMUTATOR_TOLERANCE * _norm(first) * _norm(second)
            if np.any(_norm(product - product.swapaxes(-2, -1)) > bound):
                return False
    return True


def joint_eigenbasis(matrices: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray] | None:
    """One basis that diagonalises all matrices, or None if there is none; of stacks (..., s, s), one for each place.

    Returns
    -------
    values : ndarray, shape (n_matrices, ..., s)
    vectors : ndarray, shape (..., s, s)

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
    norms = [_norm(matrix) for matrix in matrices]
    scales = [np.where(norm > 0, norm, 1.0) for norm in norms]
    coefficients = np.sqrt([2.0, 3.0, 5.0, 7.0, 11.0, 13.0, 17.0, 19.0])
    coefficients = np.resize(coefficients, len(matrices)) * np.linspace(1.0, 2.0, len(matrices))
    mixed = sum((c / s)[..., None, None] * m for c, s, m in zip(coefficients, scales, matrices, strict=True))
    _, vectors = symmetric_eigen(mixed)
    values = np.empty((len(matrices), *vectors.shape[:-1]))
    for i, (matrix, scale) in enumerate(zip(matrices, scales, strict=True)):
        rotated = vectors.swapaxes(-2, -1) @ matrix @ vectors
        values[i] = np.diagonal(rotated, axis1=-2, axis2=-1)
        if np.any(_norm(rotated - values[i][..., None] * np.eye(len(vectors.T))) > 1e-8 * scale):
            return None
    return np.maximum(values, 0.0), vectors
