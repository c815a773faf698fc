"""Repeated records: rows that share the levels of every random effect, turned until few of them feel the effects."""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp

from .rotation import Permutation, Reflections, Step

# Relative length below which a column says nothing that earlier ones have not said.
RANK_TOLERANCE = 1e-10


def compress_replicates(codes: np.ndarray, values: np.ndarray) -> tuple[tuple[Step, ...], np.ndarray, np.ndarray]:
    """Split off the coordinates that no random effect reaches; eq. SLAM-31.

    Rows with equal codes form a cell of n_c rows, in which the designs of all effects together are an n_c × n_effects
    matrix. Householder reflections inside the cell bring it to the first few rows: one where the effects are
    intercepts (replicates share a row), two with a slope. The other coordinates are contrasts within the cell, on
    which every covariance of the grid is the residual share times the identity.

    Parameters
    ----------
    codes : ndarray of int, shape (n, n_effects)
        Level of each effect in each row.
    values : ndarray, shape (n, n_effects)
        What the effect of this level is multiplied with.

    Returns
    -------
    steps : tuple of Step
        The rotation, leading coordinates first; empty when nothing can be split off.
    codes, values : ndarray, shape (q, n_effects)
        Designs of the leading coordinates.
    """
    n, n_effects = codes.shape
    _, cell = np.unique(codes, axis=0, return_inverse=True)
    cell = cell.reshape(-1)
    order = np.argsort(cell, kind="stable")
    cell = cell[order]
    starts = np.flatnonzero(np.diff(cell, prepend=-1))
    sizes = np.diff(starts, append=n)
    position = np.arange(n) - starts[cell]
    rest = values[order].astype(float)
    lengths = np.sqrt(np.add.reduceat(rest * rest, starts))
    rank = np.zeros(len(starts), dtype=np.intp)
    vectors = []
    for e in range(n_effects):
        v = np.where(position >= rank[cell], rest[:, e], 0.0)
        norm = np.sqrt(np.add.reduceat(v * v, starts))
        new = norm > RANK_TOLERANCE * lengths[:, e]
        turned = new & (sizes - rank > 1)
        v[~turned[cell]] = 0.0
        pivots = (starts + rank)[turned]
        v[pivots] += np.copysign(norm[turned], v[pivots])
        norm = np.sqrt(np.add.reduceat(v * v, starts))
        v /= np.where(turned, norm, 1.0)[cell]
        rest -= 2.0 * v[:, None] * np.add.reduceat(v[:, None] * rest, starts)[cell]
        vectors.append(sp.csr_array((v, (order, cell)), shape=(n, len(starts))))
        rank += new
    leading = position < rank[cell]
    if leading.all():
        return (), codes, values
    first = Permutation(np.concatenate((order[leading], order[~leading])))
    return (Reflections(tuple(vectors)), first), codes[order[leading]], rest[leading]
