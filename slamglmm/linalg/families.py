"""Rows that share random effects with each other and with nobody else: kernels as stacks of small blocks."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp
from scipy.sparse.csgraph import connected_components

from .rotation import symmetric_eigen

# A dense K with more of its entries in use is taken for one family without looking.
CONNECTED_DENSITY = 0.25


@dataclass(frozen=True)
class RandomEffect:
    """``Z u`` with ``u ~ N(0, K)`` and one level for each row.

    Attributes
    ----------
    codes : ndarray of int, shape (n,)
        Level of each row.
    values : ndarray, shape (n,)
        What the effect of the level is multiplied with.
    K : ndarray or scipy CSR, shape (r, r), or None
        None is the identity.
    """

    codes: np.ndarray
    values: np.ndarray
    K: np.ndarray | sp.csr_array | None

    def on(self, rows: np.ndarray) -> RandomEffect:
        """The same for some rows."""
        return RandomEffect(self.codes[rows], self.values[rows], self.K)

    def diagonal(self) -> np.ndarray:
        """Diagonal of ``Z K Z'``, shape (n,)."""
        own = 1.0 if self.K is None else self.K.diagonal()[self.codes]
        return self.values**2 * own

    def blocks(self, members: list[np.ndarray]) -> list[np.ndarray]:
        """``Z K Z'`` of families, one stack (f, s, s) for each (f, s) array of rows."""
        alone = max(rows.shape[1] for rows in members) == 1
        sparse = None if alone or self.K is None or isinstance(self.K, np.ndarray) else self._spread(self.K)
        return [self._block(rows, sparse) for rows in members]

    def _block(self, rows: np.ndarray, sparse: sp.coo_array | None) -> np.ndarray:
        f, s = rows.shape
        if s == 1:
            return self.diagonal()[rows][:, :, None]
        codes, values = self.codes[rows], self.values[rows]
        if sparse is not None:
            family, place = np.full(len(self.codes), -1), np.zeros(len(self.codes), dtype=np.intp)
            family[rows], place[rows] = np.arange(f)[:, None], np.arange(s)
            i, j = sparse.coords
            here = family[i] >= 0
            i, j = i[here], j[here]
            block = np.zeros((f, s, s))
            block[family[i], place[i], place[j]] = sparse.data[here]
        elif self.K is None:
            block = (codes[:, :, None] == codes[:, None, :]).astype(float)
        else:
            block = np.asarray(self.K)[codes[:, :, None], codes[:, None, :]]
        block *= values[:, :, None]
        block *= values[:, None, :]
        return 0.5 * (block + block.swapaxes(1, 2))

    def _spread(self, K: sp.csr_array) -> sp.coo_array:
        """K spread over the rows, without the values; a row's family holds all its entries."""
        n = len(self.codes)
        levels = sp.csr_array((np.ones(n), self.codes, np.arange(n + 1)), shape=(n, K.shape[0]))
        return sp.coo_array(levels @ K @ levels.T)

    def linked_levels(self) -> np.ndarray:
        """A number for each row; rows that K or their level ties together, directly or not, share it."""
        present, at = np.unique(self.codes, return_inverse=True)
        if self.K is None:
            return at
        if isinstance(self.K, np.ndarray):
            among = self.K if len(present) == len(self.K) else self.K[np.ix_(present, present)]
            if np.count_nonzero(among) > CONNECTED_DENSITY * among.size:
                return np.zeros(len(at), dtype=np.intp)
            among = sp.csr_array(among)
        else:
            among = self.K[present][:, present]
        return connected_components(among, directed=False)[1][at]


def find_families(effects: list[RandomEffect]) -> list[np.ndarray]:
    """Connected components of the sum of all kernels, those of one size together.

    Returns
    -------
    list of ndarray of int, each (f, s)
        Rows of f families of s members, largest families first.
    """
    n = len(effects[0].codes)
    links = [effect.linked_levels() for effect in effects]
    columns, width = [], n
    for link in links:
        columns.append(width + link)
        width += int(link.max()) + 1
    rows = np.tile(np.arange(n), len(effects))
    graph = sp.csr_array((np.ones(len(rows)), (rows, np.concatenate(columns))), shape=(width, width))
    family = connected_components(graph, directed=False)[1][:n]
    _, family, sizes = np.unique(family, return_inverse=True, return_counts=True)
    order = np.lexsort((np.arange(n), family, -sizes[family]))
    ends = np.flatnonzero(np.diff(sizes[family[order]])) + 1
    return [part.reshape(-1, sizes[family[part[0]]]) for part in np.split(order, ends)]


def kernel_root(K: np.ndarray | sp.csr_array) -> np.ndarray | sp.csr_array:
    """``L`` with ``K = L L'``, family by family, for any positive semi-definite K."""
    everyone = RandomEffect(np.arange(K.shape[0]), np.ones(K.shape[0]), K)
    members = find_families([everyone])
    parts = []
    for rows, block in zip(members, everyone.blocks(members), strict=True):
        values, vectors = symmetric_eigen(block)
        if rows.shape == (1, K.shape[0]):
            return vectors[0] * np.sqrt(values[0])
        i, j = np.broadcast_arrays(rows[:, :, None], rows[:, None, :])
        parts.append((i.ravel(), j.ravel(), (vectors * np.sqrt(values)[:, None, :]).ravel()))
    i, j, root = (np.concatenate(part) for part in zip(*parts, strict=True))
    return sp.csr_array((root, (i, j)), shape=K.shape)
