"""Random terms spread over rows, as ``Z_a G Z_b'``: rows are only ever met through the levels they belong to.

A component of variance is a pair (a, b) of effect columns of one term. Its n x n matrix is never formed: products and
traces are taken among levels, so a million rows in a hundred thousand groups cost what the groups cost.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
from scipy import sparse
from scipy.sparse import csgraph

from .sources import ArraySource, Source

# Entries of a sparse row-level matrix that may be formed.
SPARSE_LIMIT = 20_000_000


@dataclass(frozen=True, eq=False)
class Spread:
    """One random term.

    Attributes
    ----------
    label, group : str
    effects : tuple of str, length e
    levels : pandas.Index, length r
    codes : ndarray of int, length n
        Level of each row.
    M : ndarray, n x e
        Effect columns, times the square root of the observation weights.
    kernel : None, csr_array or Source, r x r
        Relationship matrix of the levels; None for identity.
    correlated : bool
        Whether the effect columns have covariances.
    space : int
        Terms with the same codes and levels share this number, and one reading of their kernels.
    """

    label: str
    group: str
    effects: tuple[str, ...]
    levels: pd.Index
    codes: np.ndarray
    M: np.ndarray
    kernel: Any
    correlated: bool
    space: int

    @property
    def r(self) -> int:
        """Number of levels."""
        return len(self.levels)

    @property
    def n_effects(self) -> int:
        """Number of effect columns."""
        return self.M.shape[1]

    @cached_property
    def is_rows(self) -> bool:
        """Whether rows and levels are the same thing in the same order."""
        return (
            self.n_effects == 1
            and len(self.codes) == self.r
            and bool((self.M == 1).all())
            and np.array_equal(self.codes, np.arange(self.r))
        )

    @cached_property
    def Z(self) -> tuple[sparse.csr_array, ...]:
        """One n x r design for each effect column."""
        n = len(self.codes)
        indptr = np.arange(n + 1)
        return tuple(
            sparse.csr_array((np.ascontiguousarray(self.M[:, a]), self.codes, indptr), shape=(n, self.r))
            for a in range(self.n_effects)
        )

    def to_levels(self, U: np.ndarray, a: int) -> np.ndarray:
        """``Z_a' U``, r x c."""
        return U if self.is_rows else self.Z[a].T @ U

    def to_rows(self, V: np.ndarray, a: int) -> np.ndarray:
        """``Z_a V``, n x c."""
        return V if self.is_rows else self.M[:, a, None] * V[self.codes]

    def squares(self, a: int, b: int) -> np.ndarray:
        """Diagonal of ``Z_a' Z_b``, length r."""
        return np.bincount(self.codes, weights=self.M[:, a] * self.M[:, b], minlength=self.r)

    def apply(self, V: np.ndarray) -> np.ndarray:
        """``G V``."""
        if self.kernel is None:
            return V
        if isinstance(self.kernel, Source):
            return multiply(self.kernel, V)
        return self.kernel @ V

    def take(self, rows: np.ndarray) -> Spread:
        """The term for some of the rows (which may repeat), with the levels they use."""
        used, codes = np.unique(self.codes[rows], return_inverse=True)
        kernel = self.kernel
        if isinstance(kernel, Source):
            kernel = ArraySource(kernel.submatrix(used))
        elif kernel is not None:
            kernel = sparse.csr_array(kernel[used][:, used])
        return Spread(
            self.label,
            self.group,
            self.effects,
            self.levels[used],
            codes,
            self.M[rows],
            kernel,
            self.correlated,
            self.space,
        )


@dataclass(frozen=True, eq=False)
class Component:
    """One unknown: the variance of an effect column (a = b), or the covariance of two.

    Attributes
    ----------
    label : str
    term : int
        Position among the spreads.
    a, b : int
        Effect columns.
    """

    label: str
    term: int
    a: int
    b: int

    @property
    def sides(self) -> tuple[tuple[int, int], ...]:
        """The products ``Z_a G Z_b'`` it sums."""
        return ((self.a, self.a),) if self.a == self.b else ((self.a, self.b), (self.b, self.a))


def components_of(terms: Sequence[Spread]) -> tuple[Component, ...]:
    """All unknowns but the residual, in the order of the formula."""
    out = []
    for t, term in enumerate(terms):
        for a in range(term.n_effects):
            for b in range(a, term.n_effects if term.correlated else a + 1):
                out.append(Component(_component_label(term, a, b), t, a, b))
    return tuple(out)


def _component_label(term: Spread, a: int, b: int) -> str:
    if term.n_effects == 1:
        return term.label
    names = [term.effects[a]] if a == b else [term.effects[a], term.effects[b]]
    group = term.label.split("|")[-1]
    return f"{':'.join(names)}|{group}"


def cones_of(components: Sequence[Component], terms: Sequence[Spread]) -> list[np.ndarray]:
    """Where the entries of each covariance matrix stand among the components: e x e for `||` terms 1 x 1 each."""
    cones = []
    for t, term in enumerate(terms):
        members = [i for i, component in enumerate(components) if component.term == t]
        if not term.correlated:
            cones += [np.array([[i]]) for i in members]
            continue
        cone = np.zeros((term.n_effects, term.n_effects), dtype=np.intp)
        for i in members:
            cone[components[i].a, components[i].b] = cone[components[i].b, components[i].a] = i
        cones.append(cone)
    return cones


def component_product(term: Spread, component: Component, U: np.ndarray) -> np.ndarray:
    """``K U`` at the level of rows, n x c."""
    total = np.zeros((len(term.codes), U.shape[1]))
    for a, b in component.sides:
        total += term.to_rows(term.apply(term.to_levels(U, b)), a)
    return total


def mean_diagonal(term: Spread, a: int) -> float:
    """Mean diagonal of ``Z_a G Z_a'``."""
    own = np.ones(term.r) if term.kernel is None else np.asarray(term.kernel.diagonal())
    return float(np.mean(term.M[:, a] ** 2 * own[term.codes]))


def multiply(source: Source, V: np.ndarray) -> np.ndarray:
    """``G V`` in one reading; in the precision of V."""
    out = np.zeros((source.size, V.shape[1]))
    with source.reader() as read:
        for low, high in source.blocks():
            tile = read(low, high)
            if source.packed:
                out[low:high] += tile @ V[:high]
                tile = tile.copy()
                tile[np.arange(high - low), np.arange(low, high)] = 0.0
                out[:high] += tile.T @ V[low:high]
            else:
                out[low:high] = tile @ V
    return out


# -- n x n matrices, where they are small enough ---------------------------------------------------------


def row_matrix(term: Spread, component: Component, dense: bool) -> Any:
    """The component's n x n matrix: ndarray, or csr_array."""
    if dense:
        kernel = term.kernel
        if isinstance(kernel, Source):
            kernel = kernel.toarray()
            total: Any = np.zeros((len(term.codes),) * 2)
            inner = kernel if term.is_rows else kernel[np.ix_(term.codes, term.codes)]
            for a, b in component.sides:
                total += inner * term.M[:, a, None] * term.M[:, b]
            return total
        return _sparse_rows(term, component).toarray()
    return _sparse_rows(term, component)


def _sparse_rows(term: Spread, component: Component) -> sparse.csr_array:
    total = None
    for a, b in component.sides:
        part = term.Z[a] @ (term.Z[b].T if term.kernel is None else term.kernel @ term.Z[b].T)
        total = part if total is None else total + part
    return sparse.csr_array(total)


def sparse_size(terms: Sequence[Spread]) -> float:
    """Upper bound for the entries of all row-level matrices together; infinite with a dense kernel."""
    total = 0.0
    for term in terms:
        if isinstance(term.kernel, Source):
            return np.inf
        counts = np.bincount(term.codes, minlength=term.r).astype(float)
        total += float(counts @ counts if term.kernel is None else counts @ ((term.kernel != 0) @ counts))
    return total


def families(terms: Sequence[Spread], n: int) -> np.ndarray:
    """Connected components of all sparse kernels and grouping factors together.

    Returns
    -------
    ndarray of int, length n
        Family of each row; all 0 when a kernel is dense.
    """
    if any(isinstance(term.kernel, Source) for term in terms):
        return np.zeros(n, dtype=np.intp)
    # vertices: rows, then the levels of each term
    edges = []
    offset = n
    for term in terms:
        edges.append((np.arange(n), term.codes + offset))
        if term.kernel is not None:
            entries = term.kernel.tocoo()
            first, second = entries.coords
            linked = (first < second) & (entries.data != 0)
            edges.append((first[linked] + offset, second[linked] + offset))
        offset += term.r
    if not edges:
        return np.arange(n)
    rows = np.concatenate([a for a, _ in edges])
    columns = np.concatenate([b for _, b in edges])
    graph = sparse.coo_array((np.ones(len(rows), dtype=np.int8), (rows, columns)), shape=(offset, offset))
    _, labels = csgraph.connected_components(graph.tocsr(), directed=False)
    return np.unique(labels[:n], return_inverse=True)[1]
