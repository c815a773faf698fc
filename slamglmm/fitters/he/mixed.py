"""Solving with ``V = I + sum_t Z_t (G_t x K_t) Z_t'``: what REML, fixed effects and BLUPs share.

Four ways, the first that fits: an eigen-rotation (one dense kinship), sparse factors among levels, dense factors among
levels or rows, whichever are fewer; and conjugate gradients where no factor can be held.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np
import scipy.linalg
from scipy import sparse
from scipy.sparse import csgraph
from scipy.sparse import linalg as sparse_linalg

from ...errors import FitError, OptionError
from .inference import apply_components
from .problem import Problem
from .sources import Source
from .spread import Spread, row_matrix

# Largest dense matrix that is factorised.
DENSE_LIMIT = 6000
# Largest connected block of a sparse kernel that is factorised as a dense one.
BLOCK_LIMIT = 3000
CG_TOLERANCE = 1e-10
CG_ITERATIONS = 2000
# Numbers in one n x c array of several traits solved at a time.
CG_NUMBERS = 20_000_000


class Factor(ABC):
    """V at one set of relative covariances."""

    logdet: float

    @abstractmethod
    def solve(self, U: np.ndarray) -> np.ndarray:
        """``V^-1 U``."""


class MixedSystem(ABC):
    """V for all relative covariances of one problem."""

    @abstractmethod
    def factor(self, relative: Sequence[np.ndarray]) -> Factor:
        """V for one e x e covariance (per unit of residual variance) of each term."""

    def solve_each(self, relatives: Sequence[Sequence[np.ndarray]], rights: Sequence[np.ndarray]) -> list[np.ndarray]:
        """``V_j^-1 U_j`` for the relative covariances of several traits."""
        return [self.factor(relative).solve(U) for relative, U in zip(relatives, rights, strict=True)]


def mixed_system(problem: Problem, with_logdet: bool = False) -> MixedSystem:
    """Choose a way.

    Parameters
    ----------
    problem : Problem
    with_logdet : bool
        Whether log determinants are needed (likelihoods).

    Raises
    ------
    OptionError
        A likelihood is asked for at a size where V cannot be factorised.
    """
    terms = problem.terms
    if problem.markers:
        return _iterative(problem, with_logdet)
    dense = [term for term in terms if isinstance(term.kernel, Source)]
    if dense:
        q = sum(term.r * term.n_effects for term in terms)
        if len(terms) == 1 and terms[0].n_effects == 1 and with_logdet and problem.n <= DENSE_LIMIT:
            return RotatedSystem(problem)
        if min(q, problem.n) > DENSE_LIMIT:
            return _iterative(problem, with_logdet)
        return DenseRows(problem) if q > 0.8 * problem.n else DenseLevels(problem)
    if all(_has_small_blocks(term) for term in terms):
        return SparseLevels(problem)
    if problem.n <= DENSE_LIMIT:
        return DenseRows(problem)
    return _iterative(problem, with_logdet)


def _iterative(problem: Problem, with_logdet: bool) -> MixedSystem:
    if with_logdet:
        raise OptionError(
            f"a likelihood for {problem.n} rows with these kinships would need factors beyond {DENSE_LIMIT} x "
            f"{DENSE_LIMIT}. Use method='rehe'."
        )
    return IterativeSystem(problem)


# -- factors among levels ---------------------------------------------------------------------------------


def _has_small_blocks(term: Spread) -> bool:
    if term.kernel is None:
        return True
    _, block_of = csgraph.connected_components(term.kernel, directed=False)
    return int(np.bincount(block_of).max()) <= BLOCK_LIMIT


def kernel_root(kernel: Any, r: int) -> Any:
    """L with ``L L' = K``: sparse for identity and sparse kernels (block by block), dense else.

    A symmetric root by eigenvectors: kinships with identical twins are singular, and have no Cholesky factor.
    """
    if kernel is None:
        return sparse.eye_array(r, format="csr")
    if isinstance(kernel, Source):
        return _symmetric_root(kernel.toarray())
    n_blocks, block_of = csgraph.connected_components(kernel, directed=False)
    sizes = np.bincount(block_of, minlength=n_blocks)
    order = np.argsort(block_of, kind="stable")
    starts = np.concatenate([[0], np.cumsum(sizes)[:-1]])
    entries = kernel.tocoo()
    rank = np.empty(r, dtype=np.intp)
    rank[order] = np.arange(r)
    local = rank - starts[block_of]
    first, second = entries.coords
    rows, columns, values = [], [], []
    for size in np.unique(sizes):
        blocks = np.flatnonzero(sizes == size)
        position = np.full(n_blocks, -1)
        position[blocks] = np.arange(len(blocks))
        chosen = position[block_of[first]] >= 0
        stack = np.zeros((len(blocks), size, size))
        stack[position[block_of[first[chosen]]], local[first[chosen]], local[second[chosen]]] = entries.data[chosen]
        roots = _symmetric_root(stack)
        members = order[starts[blocks][:, None] + np.arange(size)]
        rows.append(np.broadcast_to(members[:, :, None], roots.shape).ravel())
        columns.append(np.broadcast_to(members[:, None, :], roots.shape).ravel())
        values.append(roots.ravel())
    root = sparse.csr_array((np.concatenate(values), (np.concatenate(rows), np.concatenate(columns))), shape=(r, r))
    root.eliminate_zeros()
    return root


def _symmetric_root(matrix: np.ndarray) -> np.ndarray:
    values, vectors = np.linalg.eigh(matrix)
    return (vectors * np.sqrt(values.clip(min=0.0))[..., None, :]) @ np.swapaxes(vectors, -1, -2)


def relative_root(covariance: np.ndarray) -> np.ndarray:
    """Lower triangular L with ``L L' = G`` for a small, perhaps singular G."""
    values, vectors = np.linalg.eigh(covariance)
    root = vectors * np.sqrt(values.clip(min=0.0))
    return np.asarray(np.linalg.qr(root.T, mode="r")).T if len(root) > 1 else np.abs(root)


class _Levels(MixedSystem):
    """``V^-1 = I - A (A'A + I)^-1 A'`` with ``A = Z0 Lambda`` and ``Z0 = Z root(K)``."""

    def __init__(self, problem: Problem):
        blocks = []
        for term in problem.terms:
            root = kernel_root(term.kernel, term.r)
            blocks += [Z @ root for Z in term.Z]
        self.sizes = [(term.n_effects, term.r) for term in problem.terms]
        self.Z0 = self._stack(blocks, problem.n)
        self.gram = self.Z0.T @ self.Z0
        self.transposed = self.Z0.T

    def _stack(self, blocks: list[Any], n: int) -> Any:
        raise NotImplementedError

    def _lambda(self, relative: Sequence[np.ndarray]) -> sparse.csr_array:
        parts = [
            sparse.kron(relative_root(covariance), sparse.eye_array(r), format="csr")
            for covariance, (_, r) in zip(relative, self.sizes, strict=True)
        ]
        return sparse.csr_array(sparse.block_diag(parts, format="csr"))


class SparseLevels(_Levels):
    """Sparse factor of ``A'A + I``."""

    def _stack(self, blocks: list[Any], n: int) -> Any:
        return sparse.csr_array(sparse.hstack(blocks, format="csr")) if blocks else sparse.csr_array((n, 0))

    def factor(self, relative: Sequence[np.ndarray]) -> Factor:
        """LDL' by SuperLU without pivoting."""
        if self.Z0.shape[1] == 0:
            return _LevelFactor(self.Z0, None, lambda U: U, 0.0)
        Lambda = self._lambda(relative)
        inner = Lambda.T @ self.gram @ Lambda
        system = sparse.csc_array(inner + sparse.eye_array(inner.shape[0]))
        lu = sparse_linalg.splu(
            system, permc_spec="MMD_AT_PLUS_A", diag_pivot_thresh=0.0, options={"SymmetricMode": True}
        )
        logdet = float(np.log(np.abs(lu.U.diagonal())).sum())
        return _LevelFactor(self.Z0, Lambda, lu.solve, logdet)


class DenseLevels(_Levels):
    """Dense factor of ``A'A + I``."""

    def _stack(self, blocks: list[Any], n: int) -> Any:
        return np.column_stack([block.toarray() if sparse.issparse(block) else block for block in blocks])

    def factor(self, relative: Sequence[np.ndarray]) -> Factor:
        """Cholesky."""
        Lambda = self._lambda(relative)
        system = Lambda.T @ (Lambda.T @ self.gram.T).T
        system[np.diag_indices_from(system)] += 1.0
        lower = scipy.linalg.cho_factor(system, lower=True, overwrite_a=True, check_finite=False)
        return _LevelFactor(
            self.Z0,
            Lambda,
            lambda U: scipy.linalg.cho_solve(lower, U, check_finite=False),
            float(2 * np.log(np.diag(lower[0])).sum()),
        )


class _LevelFactor(Factor):
    def __init__(self, Z0: Any, Lambda: Any, solve_inner: Any, logdet: float):
        self.Z0, self.Lambda, self.solve_inner, self.logdet = Z0, Lambda, solve_inner, logdet

    def solve(self, U: np.ndarray) -> np.ndarray:
        """``U - A (A'A + I)^-1 A'U``."""
        if self.Lambda is None:
            return U
        inner = self.solve_inner(np.ascontiguousarray(self.Lambda.T @ (self.Z0.T @ U)))
        return U - np.asarray(self.Z0 @ (self.Lambda @ inner))


# -- factors among rows -------------------------------------------------------------------------------------


class DenseRows(MixedSystem):
    """Cholesky factor of V itself."""

    def __init__(self, problem: Problem):
        self.components = problem.components
        self.matrices = [row_matrix(problem.terms[c.term], c, True) for c in problem.components]
        self.n = problem.n

    def factor(self, relative: Sequence[np.ndarray]) -> Factor:
        """Cholesky."""
        V = np.eye(self.n)
        for component, matrix in zip(self.components, self.matrices, strict=True):
            scale = relative[component.term][component.a, component.b]
            if scale:
                V += scale * matrix
        return _RowFactor(V)


class _RowFactor(Factor):
    def __init__(self, V: np.ndarray):
        try:
            self.lower = scipy.linalg.cho_factor(V, lower=True, overwrite_a=True, check_finite=False)
        except scipy.linalg.LinAlgError:
            raise FitError("V is not positive definite; is a relationship matrix indefinite?") from None
        self.logdet = float(2 * np.log(np.diag(self.lower[0])).sum())

    def solve(self, U: np.ndarray) -> np.ndarray:
        """Two triangular solves."""
        return scipy.linalg.cho_solve(self.lower, U, check_finite=False)


class RotatedSystem(MixedSystem):
    """One scalar component: after a rotation by the eigenvectors of ``Z K Z'`` every V is diagonal."""

    def __init__(self, problem: Problem):
        matrix = row_matrix(problem.terms[0], problem.components[0], True)
        self.values, self.vectors = scipy.linalg.eigh(matrix, overwrite_a=True, check_finite=False)

    def factor(self, relative: Sequence[np.ndarray]) -> Factor:
        """Diagonal."""
        return _RotatedFactor(1.0 + relative[0][0, 0] * self.values.clip(min=0.0), self.vectors)


class _RotatedFactor(Factor):
    def __init__(self, diagonal: np.ndarray, vectors: np.ndarray):
        self.diagonal, self.vectors = diagonal, vectors
        self.logdet = float(np.log(diagonal).sum())

    def solve(self, U: np.ndarray) -> np.ndarray:
        """Rotate, divide, rotate back."""
        return self.vectors @ ((self.vectors.T @ U) / self.diagonal[:, None])


class IterativeSystem(MixedSystem):
    """Conjugate gradients with products only; no determinant."""

    def __init__(self, problem: Problem):
        self.problem = problem

    def factor(self, relative: Sequence[np.ndarray]) -> Factor:
        """Nothing to factorise."""
        return _IterativeFactor(self.problem, self._scales(relative)[:, None])

    def solve_each(self, relatives: Sequence[Sequence[np.ndarray]], rights: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Many traits at a time, so that kinships and markers are read once an iteration for all of them."""
        out: list[np.ndarray] = []
        step = max(1, CG_NUMBERS // max(1, rights[0].size))
        for start in range(0, len(rights), step):
            columns = [U.shape[1] for U in rights[start : start + step]]
            scales = np.column_stack([self._scales(relative) for relative in relatives[start : start + step]])
            factor = _IterativeFactor(self.problem, np.repeat(scales, columns, axis=1))
            solved = factor.solve(np.column_stack(rights[start : start + step]))
            out += np.split(solved, np.cumsum(columns)[:-1], axis=1)
        return out

    def _scales(self, relative: Sequence[np.ndarray]) -> np.ndarray:
        scales = [1.0]
        scales += [float(relative[c.term][c.a, c.b]) for c in self.problem.components]
        scales += [float(covariance[0, 0]) for covariance in relative[len(self.problem.terms) :]]
        return np.array(scales)


class _IterativeFactor(Factor):
    """``scales``: of every component, residual first, for each column or one for all, q+1 x c or 1."""

    logdet = np.nan

    def __init__(self, problem: Problem, scales: np.ndarray):
        self.problem, self.scales = problem, scales

    def solve(self, U: np.ndarray) -> np.ndarray:
        """All columns at once, so that a kinship is read once in each iteration."""
        solution = np.zeros_like(U)
        rest = U.copy()
        direction = rest.copy()
        size = np.einsum("nc,nc->c", rest, rest)
        goal = CG_TOLERANCE**2 * np.maximum(size, 1e-300)
        for _ in range(CG_ITERATIONS):
            parts = apply_components(self.problem, direction)
            product = sum(scale * part for scale, part in zip(self.scales, parts, strict=True))
            step = size / np.maximum(np.einsum("nc,nc->c", direction, product), 1e-300)
            solution += step * direction
            rest -= step * product
            before, size = size, np.einsum("nc,nc->c", rest, rest)
            if (size <= goal).all():
                return solution
            direction = rest + size / np.maximum(before, 1e-300) * direction
        raise FitError(
            f"conjugate gradients did not converge in {CG_ITERATIONS} iterations: V is nearly singular. "
            "A residual variance close to zero is the usual reason."
        )
