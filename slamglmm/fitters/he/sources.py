"""Kinships too large to hold: each kind is read a block of rows at a time."""

from __future__ import annotations

import mmap
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ...errors import OptionError, RelmatError
from ...relmat import Relmat

# Bytes of a block of rows: it should stay in the second-level cache between the reading and the arithmetic.
BLOCK_BYTES = 512 * 1024

Reader = Callable[[int, int], np.ndarray]


class Source(ABC):
    """A symmetric r x r matrix read by blocks of rows.

    Attributes
    ----------
    size : int
        r.
    dtype : numpy.dtype
        float32 or float64.
    packed : bool
        Whether only the lower triangle is stored; a block of rows ``start:stop`` then has ``stop`` columns.
    """

    size: int
    dtype: np.dtype
    packed = False

    @abstractmethod
    @contextmanager
    def reader(self) -> Iterator[Reader]:
        """Open the matrix; ``read(start, stop)`` gives a block that is valid until the next call."""

    def blocks(self, start: int = 0, stop: int | None = None) -> list[tuple[int, int]]:
        """Row ranges that cover ``start:stop``."""
        stop = self.size if stop is None else stop
        height = max(4, BLOCK_BYTES // max(1, self.size * self.dtype.itemsize) // 4 * 4)
        return [(a, min(a + height, stop)) for a in range(start, stop, height)]

    def toarray(self) -> np.ndarray:
        """The whole matrix, float64."""
        full = np.zeros((self.size, self.size))
        with self.reader() as read:
            for start, stop in self.blocks():
                block = read(start, stop)
                full[start:stop, : block.shape[1]] = block
        if self.packed:
            full = np.tril(full) + np.tril(full, -1).T
        return full

    def submatrix(self, levels: np.ndarray) -> np.ndarray:
        """Rows and columns ``levels``, float64."""
        out = np.empty((len(levels), len(levels)))
        order = np.argsort(levels, kind="stable")
        with self.reader() as read:
            for k, row in enumerate(levels[order]):
                if self.packed:
                    # the part right of the diagonal stands in later rows; it comes by symmetry
                    line = read(int(row), int(row) + 1)[0]
                    earlier = order[: k + 1]
                    out[order[k], earlier] = line[levels[earlier]]
                    out[earlier, order[k]] = out[order[k], earlier]
                else:
                    out[order[k]] = read(int(row), int(row) + 1)[0][levels]
        return out

    def diagonal(self) -> np.ndarray:
        """Diagonal, float64."""
        out = np.empty(self.size)
        with self.reader() as read:
            for start, stop in self.blocks():
                out[start:stop] = np.diagonal(read(start, stop)[:, start:stop])
        return out


class ArraySource(Source):
    """A matrix in memory."""

    def __init__(self, array: np.ndarray):
        dtype = np.dtype(np.float32) if array.dtype == np.float32 else np.dtype(np.float64)
        self.array = np.ascontiguousarray(array, dtype=dtype)
        self.size, self.dtype = len(array), dtype

    @contextmanager
    def reader(self) -> Iterator[Reader]:
        """Views of the array."""
        yield lambda start, stop: self.array[start:stop]

    def submatrix(self, levels: np.ndarray) -> np.ndarray:
        """Rows and columns ``levels``, float64."""
        return self.array[np.ix_(levels, levels)].astype(np.float64)


class FileSource(Source):
    """A square matrix on disk, row after row.

    The file is read into a small buffer and not mapped: page faults cost more than the copy, and a file that is not
    in the page cache is then read at the speed of the disk.
    """

    def __init__(self, path: str | Path, size: int, dtype: Any = np.float32, offset: int = 0):
        self.path, self.size, self.dtype, self.offset = str(path), int(size), np.dtype(dtype), int(offset)
        needed = self.offset + self._bytes(self.size)
        have = os.path.getsize(self.path)
        if have < needed:
            raise RelmatError(
                f"{self.path!r} holds {have} bytes; a {size} x {size} matrix of {self.dtype} needs {needed}. "
                "Check the number of individuals, the dtype and the offset."
            )

    def _bytes(self, rows: int) -> int:
        return rows * self.size * self.dtype.itemsize

    def _shape(self, start: int, stop: int) -> tuple[int, int]:
        return self._bytes(start), (stop - start) * self.size

    @contextmanager
    def reader(self) -> Iterator[Reader]:
        """Reads by position, ahead of which the system is told to fetch."""
        buffer = np.empty(0, dtype=self.dtype)
        with open(self.path, "rb", buffering=0) as file:
            if hasattr(os, "posix_fadvise"):
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_SEQUENTIAL)

            def read(start: int, stop: int) -> np.ndarray:
                nonlocal buffer
                at, count = self._shape(start, stop)
                if len(buffer) < count:
                    buffer = np.empty(count, dtype=self.dtype)
                view = memoryview(buffer[:count]).cast("B")  # type: ignore[arg-type]
                file.seek(self.offset + at)
                while len(view):
                    got = file.readinto(view)
                    if not got:
                        raise RelmatError(f"{self.path!r} ended while rows {start} to {stop} were read.")
                    view = view[got:]
                return self._block(buffer[:count], start, stop)

            yield read

    def _block(self, values: np.ndarray, start: int, stop: int) -> np.ndarray:
        return values.reshape(stop - start, self.size)


class PackedSource(FileSource):
    """The lower triangle with its diagonal, row after row: GCTA's ``.grm.bin``."""

    packed = True

    def _bytes(self, rows: int) -> int:
        return rows * (rows + 1) // 2 * self.dtype.itemsize

    def _shape(self, start: int, stop: int) -> tuple[int, int]:
        return self._bytes(start), stop * (stop + 1) // 2 - start * (start + 1) // 2

    def _block(self, values: np.ndarray, start: int, stop: int) -> np.ndarray:
        block = np.zeros((stop - start, stop), dtype=self.dtype)
        block[np.arange(stop) <= np.arange(start, stop)[:, None]] = values
        return block


class DaskSource(Source):
    """A dask array; only one block of rows is computed at a time."""

    def __init__(self, array: Any):
        self.array, self.size = array, array.shape[0]
        self.dtype = np.dtype(np.float32) if array.dtype == np.float32 else np.dtype(np.float64)

    def blocks(self, start: int = 0, stop: int | None = None) -> list[tuple[int, int]]:
        """Row chunks of the array."""
        stop = self.size if stop is None else stop
        edges = np.concatenate([[0], np.cumsum(self.array.chunks[0])])
        edges = np.unique(np.clip(edges, start, stop))
        return [(int(a), int(b)) for a, b in pairwise(edges)]

    @contextmanager
    def reader(self) -> Iterator[Reader]:
        """Computed blocks."""
        yield lambda start, stop: np.ascontiguousarray(self.array[start:stop].compute(), dtype=self.dtype)


# -- from what a user gives -------------------------------------------------------------------------


def as_source(matrix: Any) -> Source | None:
    """A source for a matrix that should not be copied, or None for one that is small enough to check.

    Parameters
    ----------
    matrix : Source, numpy.memmap or dask array
    """
    if isinstance(matrix, Source):
        return matrix
    if isinstance(matrix, np.memmap):
        if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1]:
            raise RelmatError(f"a memory-mapped relmat must be square, got shape {matrix.shape}.")
        whole = isinstance(matrix.base, mmap.mmap) and matrix.flags.c_contiguous and matrix.filename is not None
        if whole and matrix.dtype in (np.float32, np.float64):
            return FileSource(str(matrix.filename), len(matrix), matrix.dtype, matrix.offset)
        return ArraySource(matrix)
    if type(matrix).__module__.split(".")[0] == "dask":
        if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1]:
            raise RelmatError(f"a dask relmat must be square, got shape {matrix.shape}.")
        return DaskSource(matrix)
    return None


def read_streamed(relmat: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Wrap the large matrices of ``relmat=``, so that the design neither copies nor factorises them.

    Parameters
    ----------
    relmat : mapping or None
        Beside what `slamglmm.design` takes: ``(memmap, labels)``, ``(dask array, labels)`` or the path of a GCTA
        ``.grm.bin`` file (with its ``.grm.id`` beside it).

    Returns
    -------
    dict or None
        The same keys; a streamed matrix has become a `Relmat` whose ``matrix`` is a `Source`.
    """
    if relmat is None or not isinstance(relmat, Mapping):
        return relmat
    out: dict[str, Any] = {}
    for key, value in relmat.items():
        if isinstance(value, str | Path):
            value = _read_grm(Path(value))
        if isinstance(value, tuple) and len(value) == 2:
            source = as_source(value[0])
            if source is not None:
                value = Relmat(_unique(pd.Index(value[1]), key, source.size), source, key)
        out[key] = value
    return out


def _read_grm(path: Path) -> tuple[Source, list[str]]:
    if not path.name.endswith(".grm.bin"):
        raise OptionError(
            f"relmat: {str(path)!r} is not a GCTA .grm.bin file. For another file give (numpy.memmap(...), labels)."
        )
    ids = path.with_name(path.name.removesuffix("bin") + "id")
    if not ids.exists():
        raise RelmatError(f"relmat: {ids.name!r} is missing beside {path.name!r}; it holds the labels.")
    labels = [line.split()[-1] for line in ids.read_text().splitlines() if line.strip()]
    return PackedSource(path, len(labels)), labels


def _unique(labels: pd.Index, key: str, size: int) -> pd.Index:
    if len(labels) != size:
        raise RelmatError(f"relmat for group '{key}' has {size} rows but {len(labels)} labels.")
    if not labels.is_unique:
        raise RelmatError(f"relmat for group '{key}' has the label {str(labels[labels.duplicated()][0])!r} twice.")
    return labels
