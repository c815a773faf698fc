"""One reading of the kinships of one grouping factor: everything the moments need, a tile at a time.

Sums over tiles add up in any order and grouping, so tiles may come from many machines.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..._kernels import kinship  # type: ignore[attr-defined]
from ...errors import RelmatError
from .sources import Source

# Relative disagreement of K z and K'z for one random z; float32 files carry rounding of this order.
ASYMMETRY_TOLERANCE = {4: 1e-4, 8: 1e-9}


@dataclass(frozen=True, eq=False)
class Request:
    """What is wanted of the matrices that share one set of levels.

    Attributes
    ----------
    sources : tuple of Source, each r x r
    inputs : tuple of ndarray, each r x c_s
        Columns each source is multiplied with.
    pairs : tuple of (int, int, ndarray or None, ndarray or None)
        ``left' (K_s o K_t) right`` for the columns of ``left`` and ``right`` (both r x k); None stands for ones.
    gathers : tuple of (int, csr_array)
        ``sum(K_s o E)`` for a sparse r x r matrix E.
    z : ndarray, length r
        For the test of symmetry.
    """

    sources: tuple[Source, ...]
    inputs: tuple[np.ndarray, ...]
    pairs: tuple[tuple[int, int, np.ndarray | None, np.ndarray | None], ...]
    gathers: tuple[tuple[int, Any], ...]
    z: np.ndarray


@dataclass(frozen=True, eq=False)
class TileSums:
    """Sums over some tiles; ``+`` joins those of disjoint sets of tiles.

    Attributes
    ----------
    start, stop : int
        Rows of the products below.
    products : tuple of ndarray, each (stop - start) x c_s
    diagonals : ndarray, sources x (stop - start)
    pairs : tuple of ndarray, each of length k
    gathers : ndarray, length n_gathers
    forward : ndarray, sources x (stop - start)
        ``K z``; empty for packed sources, which are symmetric as stored.
    backward : ndarray, sources x r
        ``K'z``.
    """

    start: int
    stop: int
    products: tuple[np.ndarray, ...]
    diagonals: np.ndarray
    pairs: tuple[np.ndarray, ...]
    gathers: np.ndarray
    forward: np.ndarray
    backward: np.ndarray

    def __add__(self, other: TileSums) -> TileSums:
        start, stop = min(self.start, other.start), max(self.stop, other.stop)

        def joined(first: np.ndarray, second: np.ndarray, axis: int = 0) -> np.ndarray:
            shape = list(first.shape)
            shape[axis] = stop - start
            out = np.zeros(shape)
            for part, at in ((first, self), (second, other)):
                where = slice(at.start - start, at.stop - start)
                out[(slice(None),) * axis + (where,)] += part
            return out

        return TileSums(
            start,
            stop,
            tuple(joined(a, b) for a, b in zip(self.products, other.products, strict=True)),
            joined(self.diagonals, other.diagonals, 1),
            tuple(a + b for a, b in zip(self.pairs, other.pairs, strict=True)),
            self.gathers + other.gathers,
            joined(self.forward, other.forward, 1) if self.forward.shape[1] else self.forward,
            self.backward + other.backward,
        )

    def check_symmetry(self, sources: Sequence[Source], names: Sequence[str]) -> None:
        """Compare K z with K'z.

        Raises
        ------
        RelmatError
        """
        for s, (source, name) in enumerate(zip(sources, names, strict=True)):
            gap = np.linalg.norm(self.forward[s] - self.backward[s])
            size = float(np.linalg.norm(self.forward[s]))
            if gap > ASYMMETRY_TOLERANCE[source.dtype.itemsize] * max(size, 1e-300):
                worst = int(np.argmax(np.abs(self.forward[s] - self.backward[s])))
                raise RelmatError(
                    f"relmat for group '{name}' must be symmetric; K z and K'z differ for a random z, most in row "
                    f"{worst} (counted from 0). If only one triangle is stored, add the other."
                )


def stream(request: Request, start: int = 0, stop: int | None = None) -> TileSums:
    """Read rows ``start:stop`` of all sources once.

    Parameters
    ----------
    request : Request
    start, stop : int
        Of the stored rows; all by default.

    Returns
    -------
    TileSums
    """
    stop = len(request.z) if stop is None else stop
    if any(source.packed for source in request.sources):
        return _stream_lower(request, start, stop)
    return _stream_square(request, start, stop)


def _stream_square(request: Request, start: int, stop: int) -> TileSums:
    sources, r = request.sources, len(request.z)
    # the random column rides along as the last one; kernels want columns as rows
    columns = [
        np.ascontiguousarray(np.column_stack([u, request.z]).T, dtype=source.dtype)
        for source, u in zip(sources, request.inputs, strict=True)
    ]
    z = [np.ascontiguousarray(request.z, dtype=source.dtype) for source in sources]
    products = [np.zeros((stop - start, len(u))) for u in columns]
    squares = np.zeros((len(sources), stop - start))
    backward = np.zeros((len(sources), r))
    diagonals = np.zeros((len(sources), stop - start))
    pairs = [np.zeros(1 if left is None else left.shape[1]) for _, _, left, _ in request.pairs]
    gathers = np.zeros(len(request.gathers))
    with ExitStack() as stack:
        read = [stack.enter_context(source.reader()) for source in sources]
        for low, high in min((source.blocks(start, stop) for source in sources), key=len, default=[]):
            at = slice(low - start, high - start)
            tiles = [reader(low, high) for reader in read]
            for s, tile in enumerate(tiles):
                multiply = kinship.multiply_tile_single if tile.dtype == np.float32 else kinship.multiply_tile_double
                multiply(tile, columns[s], z[s][low:high], products[s][at], squares[s, at], backward[s])
                diagonals[s, at] = np.diagonal(tile[:, low:high])
            for k, (s, t, left, right) in enumerate(request.pairs):
                if s == t and left is None:
                    continue  # row sums of squares are there already
                pairs[k] += _pair(tiles[s], tiles[t], left, right, low, high)
            _gather(gathers, request, tiles, low, high)
    for k, (s, t, left, _) in enumerate(request.pairs):
        if s == t and left is None:
            pairs[k][:] = squares[s].sum()
    forward = np.array([product[:, -1] for product in products])
    return TileSums(
        start,
        stop,
        tuple(product[:, :-1] for product in products),
        diagonals,
        tuple(pairs),
        gathers,
        forward,
        backward,
    )


def _pair(
    first: np.ndarray, second: np.ndarray, left: np.ndarray | None, right: np.ndarray | None, low: int, high: int
) -> np.ndarray:
    if left is None or right is None:
        if first.dtype != second.dtype:
            first, second = first.astype(np.float64), second.astype(np.float64)
        inner = kinship.inner_product_single if first.dtype == np.float32 else kinship.inner_product_double
        return np.array([inner(first, second)])
    both = np.multiply(first, second, dtype=np.float64)
    return np.einsum("ak,ak->k", left[low:high], both @ right[: both.shape[1]])


def _gather(out: np.ndarray, request: Request, tiles: Sequence[np.ndarray], low: int, high: int) -> None:
    for k, (s, entries) in enumerate(request.gathers):
        indptr = entries.indptr[low : high + 1]
        rows = np.repeat(np.arange(high - low), np.diff(indptr))
        columns = entries.indices[indptr[0] : indptr[-1]]
        out[k] += tiles[s][rows, columns].astype(np.float64) @ entries.data[indptr[0] : indptr[-1]]


def _stream_lower(request: Request, start: int, stop: int) -> TileSums:
    """The same from lower triangles: each entry serves both its row and its column."""
    sources = request.sources
    products = [np.zeros((stop, u.shape[1])) for u in request.inputs]
    diagonals = np.zeros((len(sources), stop))
    pairs = [np.zeros(1 if left is None else left.shape[1]) for _, _, left, _ in request.pairs]
    gathers = np.zeros(len(request.gathers))
    ones = np.ones((len(request.z), 1))
    with ExitStack() as stack:
        read = [stack.enter_context(source.reader()) for source in sources]
        for low, high in min((source.blocks(start, stop) for source in sources), key=len, default=[]):
            inside = np.arange(high) <= np.arange(low, high)[:, None]
            whole = [np.where(inside, reader(low, high)[:, :high], 0.0) for reader in read]
            # the diagonal goes with the rows only
            strict = [tile.copy() for tile in whole]
            for s, tile in enumerate(strict):
                diagonals[s, low:high] = np.diagonal(tile[:, low:high])
                np.fill_diagonal(tile[:, low:high], 0.0)
                u = request.inputs[s]
                products[s][low:high] += whole[s] @ u[:high]
                products[s][:high] += tile.T @ u[low:high]
            for k, (s, t, left, right) in enumerate(request.pairs):
                left, right = (ones if left is None else left), (ones if right is None else right)
                pairs[k] += np.einsum("ak,ak->k", left[low:high], (whole[s] * whole[t]) @ right[:high])
                pairs[k] += np.einsum("ak,ak->k", right[low:high], (strict[s] * strict[t]) @ left[:high])
            for k, (s, entries) in enumerate(request.gathers):
                block = entries[low:high, :high].tocoo()
                gathers[k] += whole[s][block.coords] @ block.data
                block = entries[:high, low:high].T.tocoo()
                gathers[k] += strict[s][block.coords] @ block.data
    empty = np.zeros((len(sources), 0))
    return TileSums(0, stop, tuple(products), diagonals, tuple(pairs), gathers, empty, empty)


def stream_tile(request: Request, tiles: Sequence[np.ndarray], row: int, column: int) -> TileSums:
    """The sums of one rectangle of every source, given as arrays with their upper left corner at (row, column)."""
    rows, columns = tiles[0].shape
    bottom, right_end = row + rows, column + columns
    tiles = [np.asarray(tile, dtype=np.float64) for tile in tiles]
    r = len(request.z)
    diagonals = np.zeros((len(tiles), rows))
    on_diagonal = np.arange(max(row, column), min(bottom, right_end))
    backward = np.zeros((len(tiles), r))
    gathers = np.zeros(len(request.gathers))
    for s, tile in enumerate(tiles):
        diagonals[s, on_diagonal - row] = tile[on_diagonal - row, on_diagonal - column]
        backward[s, column:right_end] = tile.T @ request.z[row:bottom]
    ones = np.ones((r, 1))
    pairs = []
    for s, t, left, right in request.pairs:
        left, right = (ones if left is None else left), (ones if right is None else right)
        pairs.append(np.einsum("ak,ak->k", left[row:bottom], (tiles[s] * tiles[t]) @ right[column:right_end]))
    for k, (s, entries) in enumerate(request.gathers):
        block = entries[row:bottom, column:right_end].tocoo()
        gathers[k] = tiles[s][block.coords] @ block.data
    return TileSums(
        row,
        bottom,
        tuple(tile @ u[column:right_end] for tile, u in zip(tiles, request.inputs, strict=True)),
        diagonals,
        tuple(pairs),
        gathers,
        np.array([tile @ request.z[column:right_end] for tile in tiles]),
        backward,
    )
