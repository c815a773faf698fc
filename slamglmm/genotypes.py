"""Markers as a stream of columns: arrays, int8, sparse matrices and PLINK .bed files, each in its own packing.

Nothing is expanded: an int8 matrix stays int8, a .bed file stays at two bits a genotype and is mapped, not read.
Missing genotypes count as the mean of their marker over the rows of the fit.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy import sparse

from ._kernels.columns import Columns, column_products
from .errors import DataError, shortlist

# int8 codes that mean "missing": ours, and the one bed-reader writes.
MISSING_INT8 = (-128, -127)
# Columns converted at a time.
BLOCK = 1024
BED_MAGIC = b"\x6c\x1b\x01"
# bed-reader's names of the columns of a .fam and a .bim.
PLINK_COLUMNS = (
    "fid", "iid", "father", "mother", "sex", "pheno",
    "chromosome", "sid", "cm_position", "bp_position", "allele_1", "allele_2",
)  # fmt: skip
# Copies of the first allele for the codes 00, 01 (missing), 10, 11.
BED_DOSAGE = (2.0, np.nan, 1.0, 0.0)

_NO_TABLE = np.empty(0)
_NO_STARTS = np.empty(0, dtype=np.int64)
_NO_ROWS = np.empty(0, dtype=np.int32)
_NO_SHIFT = np.empty(0)


@dataclass(frozen=True, eq=False, repr=False)
class Markers:
    """A matrix of n individuals by m markers in its own packing.

    Attributes
    ----------
    kind : {"int8", "bed", "float32", "float64", "csc"}
    n, m : int
    names : pandas.Index, length m
    labels : pandas.Index, length n, or None
        Who the rows are, if they say.
    values : ndarray or scipy.sparse.csc_array
        (m, n) columns one after the other (bed: (m, bytes)); NaN or a code where missing.
    path : Path or None
        The .bed file.
    """

    kind: str
    n: int
    m: int
    names: pd.Index
    labels: pd.Index | None
    values: Any
    path: Path | None = None

    def __repr__(self) -> str:
        return f"Markers({self.n} rows x {self.m} markers, {self.kind})"

    def __getstate__(self) -> dict[str, Any]:
        # A mapped file is found again by its path.
        return {**self.__dict__, "values": None if self.kind == "bed" else self.values}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        if self.kind == "bed":
            self.__dict__["values"] = open_plink(state["path"]).values

    @property
    def by_position(self) -> str:
        """What a user may write to have the rows taken in the order they are in."""
        if self.kind == "bed":
            return "data.set_axis(slamglmm.genotypes.open_plink(path).labels)"
        return "markers.to_numpy()"

    @property
    def packed(self) -> bool:
        """Whether rows cannot be picked without unpacking: a fit on some rows gives the others weight zero."""
        return self.kind == "bed"

    @property
    def nbytes(self) -> int:
        """Bytes of the packed genotypes, in memory or mapped."""
        if self.kind == "csc":
            return int(self.values.data.nbytes + self.values.indices.nbytes + self.values.indptr.nbytes)
        return int(self.values.nbytes)

    def take(self, rows: np.ndarray) -> Markers:
        """The given rows, in that order (not for packed markers).

        Parameters
        ----------
        rows : ndarray of int
            May repeat.

        Returns
        -------
        Markers
        """
        if len(rows) == self.n and np.array_equal(rows, np.arange(self.n)):
            return self
        labels = None if self.labels is None else self.labels[rows]
        if self.kind == "csc":
            values: Any = sparse.csc_array(self.values.tocsr()[rows])
        else:
            values = np.empty((self.m, len(rows)), dtype=self.values.dtype)
            for start in range(0, self.m, BLOCK):
                values[start : start + BLOCK] = self.values[start : start + BLOCK][:, rows]
        return Markers(self.kind, len(rows), self.m, self.names, labels, values)

    def unpacked(self) -> Markers:
        """The same markers as int8 in memory, so that rows can be repeated (.bed), or as they are."""
        if self.kind != "bed":
            return self
        values = np.empty((self.m, self.n), dtype=np.int8)
        for start in range(0, self.m, BLOCK):
            dosage = _unpack(self.values[start : start + BLOCK], self.n)
            values[start : start + BLOCK] = np.where(np.isnan(dosage), MISSING_INT8[0], dosage)
        return Markers("int8", self.n, self.m, self.names, self.labels, values)

    def means(self, used: np.ndarray | None = None) -> np.ndarray:
        """Mean dosage of each marker over its observed genotypes, length m.

        Parameters
        ----------
        used : ndarray of bool, length n, optional
            Rows to average over; all by default.
        """
        counted = np.ones((1, self.n)) if used is None else used.astype(float)[None]
        out = np.empty((self.m, 1))
        # Missing ones stand at the mean of the observed, which leaves the mean where it is.
        column_products(self.columns(used), counted, 0, self.m, out)
        return out[:, 0] / counted.sum()

    def columns(self, used: np.ndarray | None = None, fill: np.ndarray | None = None) -> Columns:
        """What the kernels read, missing genotypes set to the mean of their marker.

        Parameters
        ----------
        used : ndarray of bool, length n, optional
            The rows that make the mean (packed markers only); all by default.
        fill : ndarray, length m, optional
            Set missing genotypes to these instead.
        """
        if self.kind == "bed":
            return _bed_columns(self.values, self.n, used, fill)
        if self.kind == "int8":
            return _int8_columns(self.values, fill)
        if self.kind == "csc":
            matrix = self.values
            return Columns(
                "csc",
                self.n,
                self.m,
                np.ascontiguousarray(matrix.data, dtype=np.float64).view(np.uint8),
                0,
                _NO_TABLE,
                np.ascontiguousarray(matrix.indptr, dtype=np.int64),
                np.ascontiguousarray(matrix.indices, dtype=np.int32),
                _NO_SHIFT,
            )
        values = self.values
        return Columns(
            self.kind, self.n, self.m, values.reshape(-1).view(np.uint8), values.strides[0],
            _NO_TABLE, _NO_STARTS, _NO_ROWS, _NO_SHIFT,
        )  # fmt: skip

    def blocks(self, size: int = BLOCK) -> Iterator[tuple[slice, np.ndarray]]:
        """Slices of markers with their dosages, float64 of shape (n, markers), missing ones at the mean.

        Parameters
        ----------
        size : int
            Markers at a time.
        """
        for start in range(0, self.m, size):
            part = slice(start, min(self.m, start + size))
            yield part, self.dosages(part)

    def dosages(self, part: slice) -> np.ndarray:
        """Dosages of consecutive markers, float64 of shape (n, markers), missing ones at the mean.

        Parameters
        ----------
        part : slice
        """
        if self.kind == "bed":
            values = _unpack(self.values[part], self.n)
        elif self.kind == "csc":
            return np.asarray(self.values[:, part].todense(), dtype=np.float64)
        else:
            values = self.values[part].astype(np.float64)
            if self.kind == "int8":
                values[np.isin(self.values[part], MISSING_INT8)] = np.nan
        seen = ~np.isnan(values)
        count = seen.sum(axis=1)
        mean = np.divide(np.where(seen, values, 0.0).sum(axis=1), count, out=np.zeros(len(count)), where=count > 0)
        return np.where(seen, values, mean[:, None]).T


def _int8_columns(values: np.ndarray, fill: np.ndarray | None) -> Columns:
    m, n = values.shape
    counts = np.zeros(m + 1, dtype=np.int64)
    rows, shift = [], np.zeros(m)
    for start in range(0, m, BLOCK):
        block = values[start : start + BLOCK]
        gone = block < -126
        per_marker = gone.sum(axis=1)
        if not per_marker.any():
            continue
        counts[start + 1 : start + 1 + len(block)] = per_marker
        rows.append(np.nonzero(gone)[1].astype(np.int32))
        mean = np.where(gone, 0, block).sum(axis=1) / np.maximum(n - per_marker, 1)
        mean = mean if fill is None else fill[start : start + len(block)]
        codes = np.where(gone, block, 127).min(axis=1)
        if (gone & (block != codes[:, None])).any():
            raise DataError("int8 markers use both -127 and -128 for missing in one marker; use one of them.")
        shift[start : start + len(block)] = np.where(per_marker > 0, mean - codes, 0.0)
    return Columns(
        "int8",
        n,
        m,
        values.reshape(-1).view(np.uint8),
        values.strides[0],
        _NO_TABLE,
        np.cumsum(counts),
        np.concatenate(rows) if rows else _NO_ROWS,
        shift,
    )


def _bed_columns(packed: np.ndarray, n: int, used: np.ndarray | None, fill: np.ndarray | None) -> Columns:
    m, stride = packed.shape
    counted = np.ones((1, n)) if used is None else used.astype(float)[None]

    def with_table(table: np.ndarray) -> Columns:
        data = packed.reshape(-1)
        return Columns("bed", n, m, data, stride, table.reshape(-1), _NO_STARTS, _NO_ROWS, _NO_SHIFT)

    def sums(values: tuple[float, ...]) -> np.ndarray:
        out = np.empty((m, 1))
        column_products(with_table(np.tile(np.array(values), (m, 1))), counted, 0, m, out)
        return out[:, 0]

    table = np.tile(np.array((2.0, 0.0, 1.0, 0.0)), (m, 1))
    if fill is None:
        total, missing = sums((2.0, 0.0, 1.0, 0.0)), sums((0.0, 1.0, 0.0, 0.0))
        fill = total / np.maximum(counted.sum() - missing, 1.0)
    table[:, 1] = fill
    return with_table(table)


def _unpack(packed: np.ndarray, n: int) -> np.ndarray:
    """Dosages (markers, n) with NaN of two-bit columns."""
    codes = (packed[:, :, None] >> np.array([0, 2, 4, 6], dtype=np.uint8)) & 3
    return np.array(BED_DOSAGE)[codes.reshape(len(packed), -1)[:, :n]]


# -- reading ---------------------------------------------------------------------------------------------------------


def read_markers(markers: Any, fill: np.ndarray | None = None) -> Markers:
    """Take markers in any of the forms a user may have them.

    Parameters
    ----------
    markers : DataFrame, array, scipy sparse matrix, path of a .bed file, memory map, or Markers
        n × m, individuals in rows. int8 stays int8 (-128 and -127 are missing); whole numbers are stored as int8 when
        they fit, exactly; other numbers stay float32 or float64 (NaN is missing). A column-major (Fortran) int8 or
        float array, or memory map, is used in place.
    fill : ndarray, length m, optional
        Set NaN of float markers to these instead of the mean of their marker.

    Returns
    -------
    Markers

    Raises
    ------
    DataError
        For empty, non-numeric, infinite or duplicate-named markers, or an unreadable file.
    """
    if isinstance(markers, Markers):
        return markers
    if isinstance(markers, str | Path):
        return open_plink(markers)
    labels = names = None
    if isinstance(markers, pd.DataFrame):
        for column, dtype in zip(markers.columns, markers.dtypes, strict=True):
            if not pd.api.types.is_numeric_dtype(dtype):
                raise DataError(
                    f"markers must be numeric dosages; column {str(column)!r} is {dtype}. Make labels the index "
                    "(markers.set_index(...)) and recode genotypes as 0, 1, 2."
                )
        labels, names = markers.index, markers.columns.rename(None)
        extension = any(not isinstance(dtype, np.dtype) for dtype in markers.dtypes)
        table: Any = markers.to_numpy(dtype=np.float64, na_value=np.nan) if extension else markers.to_numpy()
    elif sparse.issparse(markers):
        table = sparse.csc_array(markers)
    else:
        table = markers if isinstance(markers, np.ndarray) else np.asarray(markers)
        names = getattr(markers, "columns", None)  # polars and its like
    if table.ndim != 2:
        what = type(markers).__name__ if table.ndim == 0 else f"{table.ndim} dimension(s)"
        raise DataError(f"markers must be a matrix, individuals in rows; got {what}.")
    n, m = table.shape
    if n == 0 or m == 0:
        raise DataError(f"markers are empty ({n} rows x {m} markers).")
    if table.dtype.kind not in "biuf":
        raise DataError(f"markers must be numeric dosages; got an array of {table.dtype}.")
    index = pd.RangeIndex(m) if names is None else pd.Index(names)
    if not index.is_unique:
        raise DataError(f"markers have the same name twice: {shortlist(index[index.duplicated()].unique())}.")
    if sparse.issparse(table):
        matrix = table.astype(np.float64)
        if not np.isfinite(matrix.data).all():
            raise DataError("sparse markers must be finite; fill missing genotypes first, or pass a dense array.")
        return Markers("csc", n, m, index, labels, matrix)
    kind, values = _packed(table, index, fill)
    return Markers(kind, n, m, index, labels, values)


def _packed(table: np.ndarray, names: pd.Index, fill: np.ndarray | None) -> tuple[str, np.ndarray]:
    """Storage kind, and values (m, n) in C order."""
    if table.dtype == np.int8:
        values = np.ascontiguousarray(table.T)
        if (values == -9).any():
            raise DataError("int8 markers hold -9, which PLINK writes for missing; recode it to -128.")
        return "int8", values
    if _whole_and_small(table):
        values = np.empty(table.shape[::-1], dtype=np.int8)
        for start in range(0, table.shape[1], BLOCK):
            block = table[:, start : start + BLOCK].T
            if table.dtype.kind == "f":
                block = np.where(np.isnan(block), MISSING_INT8[0], block)
            values[start : start + BLOCK] = block
        return "int8", values
    kind = "float32" if table.dtype == np.float32 else "float64"
    values = np.ascontiguousarray(table.T, dtype=kind)
    for start in range(0, len(values), BLOCK):
        block = values[start : start + BLOCK]
        if np.isinf(block).any():
            k, i = (int(at[0]) for at in np.nonzero(np.isinf(block)))
            raise DataError(f"marker {str(names[start + k])!r} is infinite in row {i} (counted from 0).")
        gone = np.isnan(block)
        if gone.any():
            if np.shares_memory(values, table):
                values = values.copy()
                block = values[start : start + BLOCK]
            seen = np.maximum((~gone).sum(axis=1), 1)
            means = np.where(gone, 0.0, block).sum(axis=1) / seen if fill is None else fill[start : start + BLOCK]
            block[gone] = means[np.nonzero(gone)[0]]
    return kind, values


def _whole_and_small(table: np.ndarray) -> bool:
    if table.dtype.kind == "b":
        return True
    for start in range(0, table.shape[1], BLOCK):
        block = table[:, start : start + BLOCK]
        if table.dtype.kind == "f":
            with np.errstate(invalid="ignore"):
                fits = ((block == np.rint(block)) & (np.abs(block) <= 100)) | np.isnan(block)
        else:
            fits = (block <= 100) if table.dtype.kind == "u" else (block >= -100) & (block <= 100)
        if not fits.all():
            return False
    return True


def open_plink(path: str | Path) -> Markers:
    """Map a PLINK 1 .bed file with its .bim and .fam; nothing of it is read before it is used.

    Parameters
    ----------
    path : str or Path
        The .bed file, or the three files' common stem.

    Returns
    -------
    Markers
        Dosages count the first allele of the .bim; rows are labelled by the individual ids of the .fam (with the
        family id, as ``family:individual``, where individual ids repeat), markers by the .bim's names (by
        ``chromosome:position:allele:allele`` where names repeat).

    Raises
    ------
    DataError
        When a file is absent, is no .bed, is in individual-major order, or has the wrong length.
    """
    bed = Path(path)
    if not bed.name:
        raise DataError(f"markers={str(path)!r}: expected the path of a PLINK .bed file, or dosages.")
    if bed.suffix != ".bed":
        bed = bed.with_name(bed.name + ".bed")
    for part in (bed, bed.with_suffix(".bim"), bed.with_suffix(".fam")):
        if not part.exists():
            raise DataError(f"{str(part)!r} does not exist; a PLINK data set is three files, .bed, .bim and .fam.")
    labels = _plink_ids(bed, ".fam", "iid", ("fid", "iid"))
    names = _plink_ids(bed, ".bim", "sid", ("chromosome", "bp_position", "allele_1", "allele_2"))
    n, m = len(labels), len(names)
    with open(bed, "rb") as file:
        magic = file.read(3)
    if magic[:2] != BED_MAGIC[:2] or len(magic) < 3:
        raise DataError(f"{str(bed)!r} is not a PLINK 1 .bed file: it starts with {magic.hex(' ')}, not 6c 1b 01.")
    if magic[2] != 1:
        raise DataError(f"{str(bed)!r} is in individual-major order; rewrite it with 'plink --make-bed'.")
    stride = (n + 3) // 4
    size, expected = bed.stat().st_size, 3 + m * stride
    if size != expected:
        raise DataError(
            f"{str(bed)!r} has {size} bytes, but {m} markers of {n} individuals take {expected}: it is truncated, or "
            "the .bim and .fam belong to another file."
        )
    if n == 0 or m == 0:
        raise DataError(f"markers are empty ({n} rows x {m} markers).")
    values = np.memmap(bed, dtype=np.uint8, mode="r", offset=3, shape=(m, stride))
    return Markers("bed", n, m, names, labels, values, bed.resolve())


def _plink_ids(bed: Path, suffix: str, key: str, wider: tuple[str, ...]) -> pd.Index:
    """Column `key` of the .fam or .bim; where it repeats, the columns `wider` joined."""
    part = bed.with_suffix(suffix)
    if b"#" in part.read_bytes():
        raise DataError(
            f"{str(part)!r} holds a '#', after which bed-reader ignores the rest of a line; rename the ids."
        )
    unread = {name: None for name in PLINK_COLUMNS if name not in (key, *wider)}
    with _bed_reader().open_bed(bed, properties=unread, skip_format_check=True) as file:
        try:
            index = pd.Index(getattr(file, key), dtype=str)
        except ValueError as error:
            raise DataError(
                f"{str(part)!r} cannot be read: {error}. A .fam has six columns, a .bim six that tabs separate."
            ) from error
        if not index.is_unique:
            columns = [map(str, getattr(file, name)) for name in wider]
            index = pd.Index([":".join(row) for row in zip(*columns, strict=True)], dtype=str)
    if not index.is_unique:
        raise DataError(f"{str(part)!r} has the same id twice: {shortlist(index[index.duplicated()].unique())}.")
    return index


def _bed_reader() -> Any:
    try:
        import bed_reader
    except ImportError as error:
        raise DataError(
            "PLINK files need the package bed-reader, which is not installed: pip install 'slamglmm[plink]'."
        ) from error
    return bed_reader


def write_plink(
    path: str | Path,
    blocks: Iterable[np.ndarray],
    individuals: Iterable[Any],
    names: Iterable[Any],
    *,
    chromosome: str = "1",
    positions: Any = None,
) -> None:
    """Write a PLINK 1 data set, some markers at a time.

    Parameters
    ----------
    path : str or Path
        The .bed file; .bim and .fam go beside it.
    blocks : iterable of arrays, n × some markers
        0, 1 or 2 copies of the first allele; NaN, -127 or -128 (int8) where missing. One block is held at a time.
    individuals : sequence of str
        Individual ids (also used as family ids).
    names : sequence of str
        Names of all markers.
    chromosome : str
    positions : sequence of int, optional
        Base pairs; 1, 2, .. by default.

    Raises
    ------
    DataError
        Ids that repeat or hold blanks, other dosages, or blocks of another shape; no .bed is left behind.

    Examples
    --------
    >>> import numpy as np, tempfile, pathlib
    >>> bed = pathlib.Path(tempfile.mkdtemp()) / "tiny.bed"
    >>> write_plink(bed, [np.array([[0, 1], [2, np.nan], [1, 0]])], ["a", "b", "c"], ["m1", "m2"])
    >>> open_plink(bed)
    Markers(3 rows x 2 markers, bed)
    """
    bed = Path(path)
    ids, sids = [str(label) for label in individuals], [str(name) for name in names]
    for what, labels in (("individuals", ids), ("markers", sids)):
        wrong = [label for label in labels if not label or "#" in label or any(map(str.isspace, label))]
        if wrong:
            raise DataError(f"{str(bed)!r}: ids of {what} may not be empty or hold blanks or '#': {shortlist(wrong)}.")
    if len(set(ids)) < len(ids):
        raise DataError(f"{str(bed)!r}: individuals must have different ids.")
    n, m = len(ids), len(sids)
    properties = {
        "fid": ids,
        "iid": ids,
        "pheno": ["-9"] * n,
        "chromosome": [chromosome] * m,
        "sid": sids,
        "bp_position": np.arange(1, m + 1) if positions is None else np.asarray(positions),
        "allele_1": ["A"] * m,
        "allele_2": ["B"] * m,
    }
    file = _bed_reader().create_bed(bed, iid_count=n, sid_count=m, properties=properties)
    written = 0
    try:
        for block in blocks:
            if block.shape[0] != n or written + block.shape[1] > m:
                raise DataError(f"dosages are {block.shape}, expected {n} rows and at most {m - written} more markers.")
            for dosages in _plink_dosages(block):
                file.write(dosages)
            written += block.shape[1]
        if written < m:
            raise DataError(f"{str(bed)!r}: {m} markers are named, but there are dosages of {written}.")
    except BaseException as error:
        # Closing takes the unfinished file away, and complains that it is unfinished.
        with suppress(ValueError):
            file.close()
        bed.unlink(missing_ok=True)
        if isinstance(error, ValueError) and not isinstance(error, DataError):
            raise DataError("dosages of a .bed file must be 0, 1, 2 or missing.") from error
        raise
    file.close()


def _plink_dosages(block: np.ndarray) -> np.ndarray:
    """Marker by marker, in a type and with the missing code that bed-reader writes."""
    if block.dtype != np.int8:
        return np.ascontiguousarray(block.T, dtype=np.float64)
    ours, theirs = MISSING_INT8
    columns = block.T
    return np.where(columns == ours, np.int8(theirs), columns)
