"""Components ``W W'/m`` from markers, never formed: streamed genotypes, random probes, blocks for the jackknife."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ...design import Design
from ...errors import DataError, OptionError, shortlist

# Bytes of decoded genotypes at a time.
BLOCK_BYTES = 16 * 1024 * 1024
BED_MAGIC = b"\x6c\x1b\x01"
# Copies of the first allele for the four 2-bit codes of a .bed file; code 1 is missing and becomes 0 here.
BED_COPIES = np.array([2.0, 0.0, 1.0, 0.0], dtype=np.float32)
# Below this many genotypes arithmetic is in float64 throughout.
SMALL = 20_000_000


class Genotypes(ABC):
    """Markers read in blocks, one row a marker.

    Attributes
    ----------
    n, m : int
        Individuals in use, markers.
    """

    n: int
    m: int

    @abstractmethod
    def read(self, start: int, stop: int) -> tuple[np.ndarray, np.ndarray | None]:
        """Dosages of markers ``start:stop`` (markers x n, float32 or float64), and which are missing (they hold 0)."""

    @cached_property
    def are_dosages(self) -> bool:
        """Whether genotypes count alleles, 0 to 2; told from the first markers."""
        first, _ = self.read(0, min(self.m, 64))
        return bool(first.min() >= 0 and first.max() <= 2)

    @property
    def block(self) -> int:
        """Markers read at a time."""
        return max(16, BLOCK_BYTES // (4 * max(1, self.n)))


class TableGenotypes(Genotypes):
    """An n x m array or memory map of dosages; int8 stays int8 until a block is used."""

    def __init__(self, table: Any, rows: np.ndarray | None = None):
        self.table, self.rows = table, rows
        self.n = table.shape[0] if rows is None else len(rows)
        self.m = table.shape[1]
        self.dtype = np.float64 if self.n * self.m <= SMALL else np.float32

    def read(self, start: int, stop: int) -> tuple[np.ndarray, np.ndarray | None]:
        """Columns of the table."""
        part = self.table[:, start:stop]
        part = part if self.rows is None else part[self.rows]
        dosage = np.ascontiguousarray(part.T, dtype=self.dtype)
        if np.isinf(dosage).any():
            raise DataError(
                f"markers: marker {start + int(np.isinf(dosage).any(axis=1).argmax())} holds an infinite value."
            )
        missing = np.isnan(dosage)
        if not missing.any():
            return dosage, None
        return np.where(missing, 0.0, dosage), missing


class BedGenotypes(Genotypes):
    """A PLINK .bed file (SNP-major), two bits a genotype."""

    def __init__(self, path: str | Path, n_file: int | None = None, rows: np.ndarray | None = None):
        self.path, self.rows = Path(path), rows
        if n_file is None:
            fam = self.path.with_suffix(".fam")
            if not fam.exists():
                raise DataError(
                    f"markers: {fam.name!r} is missing beside {self.path.name!r}; it says who the rows are."
                )
            n_file = sum(1 for line in fam.read_text().splitlines() if line.strip())
        self.n_file, self.bytes_each = n_file, (n_file + 3) // 4
        with open(self.path, "rb") as file:
            magic = file.read(3)
        if magic != BED_MAGIC:
            raise DataError(
                f"markers: {self.path.name!r} is not a SNP-major PLINK .bed file (its first bytes are {magic!r})."
            )
        self.m, left = divmod(self.path.stat().st_size - 3, self.bytes_each)
        if left:
            raise DataError(f"markers: the size of {self.path.name!r} does not fit {n_file} individuals.")
        self.n = n_file if rows is None else len(rows)
        codes = np.arange(256)[:, None] >> np.array([0, 2, 4, 6]) & 3
        self._copies = BED_COPIES[codes]
        self._missing = (codes == 1).any(axis=1)
        self._codes = codes

    def read(self, start: int, stop: int) -> tuple[np.ndarray, np.ndarray | None]:
        """Decoded by a table of all 256 bytes."""
        count = (stop - start) * self.bytes_each
        raw = np.fromfile(self.path, dtype=np.uint8, count=count, offset=3 + start * self.bytes_each)
        raw = raw.reshape(stop - start, self.bytes_each)
        dosage = self._copies.take(raw, axis=0).reshape(stop - start, -1)
        missing = None
        if self._missing.take(raw).any():
            missing = (self._codes.take(raw, axis=0) == 1).reshape(stop - start, -1)
        if self.rows is not None or dosage.shape[1] != self.n:
            keep = slice(self.n) if self.rows is None else self.rows
            dosage = np.ascontiguousarray(dosage[:, keep])
            missing = None if missing is None else missing[:, keep]
        return dosage, missing


@dataclass(frozen=True, eq=False)
class MarkerTerm:
    """One component ``W W'/m``.

    Attributes
    ----------
    label : str
    genotypes : Genotypes
        Shared by the bins of one table.
    members : ndarray of bool, length m, or None
        Markers in this bin.
    """

    label: str
    genotypes: Genotypes
    members: np.ndarray | None = None


@dataclass(frozen=True, eq=False)
class MarkerBlock:
    """What one block of markers adds to one bin: ``W_b W_b' X`` (n x c), ``|W_b|^2`` and the number of markers."""

    product: np.ndarray
    size: float
    count: int


def marker_blocks(
    markers: Sequence[MarkerTerm], columns: np.ndarray, n_blocks: int = 1
) -> Iterator[tuple[int, list[MarkerBlock]]]:
    """Stream the markers of one table.

    Parameters
    ----------
    markers : sequence of MarkerTerm
        All with the same genotypes.
    columns : ndarray, n x c
    n_blocks : int
        Blocks of the jackknife; a block of markers read at once never spans two.

    Yields
    ------
    block : int
    sums : list of MarkerBlock, one for each bin
    """
    genotypes = markers[0].genotypes
    edges = np.linspace(0, genotypes.m, n_blocks + 1).astype(int)
    for j in range(n_blocks):
        for start in range(edges[j], edges[j + 1], genotypes.block):
            stop = min(start + genotypes.block, int(edges[j + 1]))
            yield j, _block_sums(markers, genotypes, columns, start, stop)


def _block_sums(
    markers: Sequence[MarkerTerm], genotypes: Genotypes, columns: np.ndarray, start: int, stop: int
) -> list[MarkerBlock]:
    dosage, missing = genotypes.read(start, stop)
    right = np.column_stack([np.ones(genotypes.n), columns]).astype(dosage.dtype)
    product = (dosage @ right).astype(np.float64)
    seen = np.full(len(dosage), float(genotypes.n)) if missing is None else (~missing).sum(axis=1).astype(float)
    mean = np.divide(product[:, 0], seen, out=np.zeros(len(dosage)), where=seen > 0)
    squares = np.einsum("ka,ka->k", dosage, dosage).astype(np.float64)
    spread = squares - seen * mean**2
    # dosages are scaled by their variance in Hardy-Weinberg proportions, anything else by its own variance
    variance = mean * (1 - mean / 2) if genotypes.are_dosages else spread / np.maximum(seen, 1)
    varies = (spread > 1e-6 * np.maximum(squares, 1e-300)) & (variance > 0)
    inverse = np.where(varies, 1 / np.where(varies, variance, 1.0), 0.0)
    if missing is not None:
        # a missing genotype is the mean, so that its W is zero
        dosage = np.where(missing, mean[:, None].astype(dosage.dtype), dosage)
        product = (dosage @ right).astype(np.float64)
    totals = columns.sum(axis=0)
    centred = product[:, 1:] - mean[:, None] * totals
    out = []
    for marker in markers:
        weight = inverse if marker.members is None else inverse * marker.members[start:stop]
        scores = centred * weight[:, None]
        back = (dosage.T @ scores.astype(dosage.dtype)).astype(np.float64) - mean @ scores
        out.append(MarkerBlock(back, float(spread @ weight), int((weight > 0).sum())))
    return out


def marker_sums(markers: Sequence[MarkerTerm], columns: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    """``K X`` and the diagonal of K for every marker component; only the mean of the diagonal is kept.

    Raises
    ------
    DataError
        No marker of a component varies.
    """
    blocks = jackknife_blocks(markers, columns, 1)
    out = []
    for marker, (products, sizes, counts) in zip(markers, blocks, strict=True):
        if not counts[0]:
            raise DataError(f"markers '{marker.label}': no marker varies among the {len(columns)} rows.")
        out.append((products[0] / counts[0], np.full(len(columns), sizes[0] / counts[0] / len(columns))))
    return out


def jackknife_blocks(
    markers: Sequence[MarkerTerm], columns: np.ndarray, n_blocks: int
) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Sums of each block of markers: ``W_b W_b' X`` (blocks x n x c), ``|W_b|^2`` and counts, for every component."""
    n, c = columns.shape
    dtype = np.float64 if n_blocks == 1 else np.float32
    sums = [
        (np.zeros((n_blocks, n, c), dtype=dtype), np.zeros(n_blocks), np.zeros(n_blocks, dtype=int)) for _ in markers
    ]
    tables: dict[int, list[int]] = {}
    for k, marker in enumerate(markers):
        tables.setdefault(id(marker.genotypes), []).append(k)
    for members in tables.values():
        for j, parts in marker_blocks([markers[k] for k in members], columns, n_blocks):
            for k, part in zip(members, parts, strict=True):
                sums[k][0][j] += part.product
                sums[k][1][j] += part.size
                sums[k][2][j] += part.count
    return sums


# -- what a user gives -----------------------------------------------------------------------------------


def read_markers(markers: Mapping[str, Any] | None, annotation: Any, design: Design) -> tuple[MarkerTerm, ...]:
    """Check the ``markers=`` argument.

    Parameters
    ----------
    markers : mapping or None
        Label -> DataFrame (individuals in rows), array, memory map, or path of a .bed file. A labelled table is matched
        with the index of the data, another one must have a row for each row of the data.
    annotation : DataFrame or array, m x bins, or None
        Which markers belong to which bin, for a single table.
    design : Design

    Raises
    ------
    OptionError, DataError
    """
    if markers is None:
        if annotation is not None:
            raise OptionError("annotation= says how to split markers into bins; give markers= too.")
        return ()
    if not isinstance(markers, Mapping):
        raise OptionError(f"markers must be a dict {{'name': table}}, got {type(markers).__name__}.")
    if annotation is not None and len(markers) != 1:
        raise OptionError(f"annotation= splits one table of markers, got {len(markers)}: {shortlist(markers)}.")
    out: list[MarkerTerm] = []
    for label, table in markers.items():
        genotypes = _genotypes(label, table, design)
        if annotation is None:
            out.append(MarkerTerm(str(label), genotypes))
            continue
        bins = annotation if isinstance(annotation, pd.DataFrame) else pd.DataFrame(np.asarray(annotation))
        if len(bins) != genotypes.m:
            raise OptionError(
                f"annotation has {len(bins)} rows, '{label}' has {genotypes.m} markers; give one row a marker."
            )
        out += [MarkerTerm(f"{label}[{name}]", genotypes, bins[name].to_numpy().astype(bool)) for name in bins.columns]
    return tuple(out)


def _genotypes(label: str, table: Any, design: Design) -> Genotypes:
    index, n_data = design.X.index, design.n + design.n_dropped
    rows = None if design.n_dropped == 0 else design.rows
    if isinstance(table, str | Path):
        bed = BedGenotypes(table, None, rows)
        _same_rows(label, bed.n_file, n_data)
        return bed
    if isinstance(table, pd.DataFrame):
        if not isinstance(index, pd.RangeIndex) and not isinstance(table.index, pd.RangeIndex):
            where = table.index.get_indexer(index)
            absent = index[where < 0]
            if len(absent):
                raise DataError(
                    f"markers '{label}' lack {len(absent)} of {len(index)} rows (first: {shortlist(absent)})."
                )
            return TableGenotypes(table.to_numpy(), where)
        table = table.to_numpy()
    table = table if isinstance(table, np.ndarray) else np.asarray(table)
    if table.ndim != 2 or table.dtype.kind not in "biuf":
        raise DataError(
            f"markers '{label}' must be a numeric table, individuals in rows; got {table.ndim} dimensions of "
            f"{table.dtype}."
        )
    _same_rows(label, len(table), n_data)
    return TableGenotypes(table, rows)


def _same_rows(label: str, have: int, want: int) -> None:
    if have != want:
        raise DataError(f"markers '{label}' have {have} individuals, data has {want} rows; give one row a row of data.")
