"""Components ``W W'/m`` from markers, never formed: streamed genotypes, random probes, blocks for the jackknife."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from ... import genotypes
from ...design import Design
from ...design.row_labels import RowLabels
from ...errors import DataError, OptionError, shortlist
from ...genotypes import Markers
from ...options import membership, shown
from ...results.varcomp import MarkerEffects

# Bytes of decoded genotypes at a time.
BLOCK_BYTES = 16 * 1024 * 1024
# What the four genotypes of each byte of a .bed file are: copies of the first allele (missing ones 0), and gaps.
_CODES = np.arange(256)[:, None] >> np.array([0, 2, 4, 6]) & 3
BED_COPIES = np.array([2.0, 0.0, 1.0, 0.0], dtype=np.float32)[_CODES]
BED_MISSING = _CODES == 1
BED_ANY_MISSING = BED_MISSING.any(axis=1)
# Below this many genotypes arithmetic is in float64 throughout.
SMALL = 20_000_000


@dataclass(frozen=True, eq=False)
class Genotypes:
    """Markers of the rows of a fit, decoded a block at a time.

    Attributes
    ----------
    markers : Markers
        In their own packing.
    rows : ndarray of int or None
        Row of `markers` for each row of the fit; None when they are the same.
    root : ndarray, length n, or None
        Square roots of the observation weights, which multiply the rows of W.
    notes : tuple of str
        How rows were matched, where that needs saying.
    """

    markers: Markers
    rows: np.ndarray | None = None
    root: np.ndarray | None = None
    notes: tuple[str, ...] = ()

    @property
    def n(self) -> int:
        """Rows of the fit."""
        return self.markers.n if self.rows is None else len(self.rows)

    @property
    def m(self) -> int:
        """Number of markers."""
        return self.markers.m

    @property
    def block(self) -> int:
        """Markers decoded at a time."""
        return max(16, BLOCK_BYTES // (4 * max(1, self.n)))

    @cached_property
    def are_dosages(self) -> bool:
        """Whether genotypes count alleles, 0 to 2; told from the first markers."""
        first, _ = self.read(0, min(self.m, 64))
        return bool(first.min() >= 0 and first.max() <= 2)

    def read(self, start: int, stop: int) -> tuple[np.ndarray, np.ndarray | None]:
        """Dosages of markers ``start:stop`` (markers x n), and which are missing (they hold 0) if any are."""
        markers = self.markers
        dtype = np.float64 if self.n * self.m <= SMALL else np.float32
        missing = None
        if markers.kind == "bed":
            raw = markers.values[start:stop]
            dosage = BED_COPIES.take(raw, axis=0).reshape(stop - start, -1)[:, : markers.n]
            if BED_ANY_MISSING.take(raw).any():
                missing = BED_MISSING.take(raw, axis=0).reshape(stop - start, -1)[:, : markers.n]
        elif markers.kind == "csc":
            dosage = markers.values[:, start:stop].T.toarray()
        else:
            dosage = markers.values[start:stop]
            if markers.kind == "int8" and (dosage < -126).any():
                missing = dosage < -126
                dosage = np.where(missing, 0, dosage)
        if self.rows is not None:
            dosage = dosage[:, self.rows]
            missing = None if missing is None else missing[:, self.rows]
        return np.ascontiguousarray(dosage, dtype=dtype), missing


@dataclass(frozen=True, eq=False)
class MarkerTerm:
    """One component ``W W'/m``.

    Attributes
    ----------
    label : str
    table : str
        Label of the table of markers.
    genotypes : Genotypes
        Shared by the bins of one table.
    members : ndarray of bool, length m, or None
        Markers in this bin.
    """

    label: str
    table: str
    genotypes: Genotypes
    members: np.ndarray | None = None


@dataclass(frozen=True, eq=False)
class MarkerBlock:
    """What one block of markers adds to one bin.

    Attributes
    ----------
    product : ndarray, n x c
        ``W_b W_b' X``.
    size : float
        ``|W_b|^2``.
    count : int
        Markers that vary.
    scores : ndarray, markers x c
        ``W_b' X`` per copy of the allele (divided by the standard deviation once more).
    means : ndarray, length markers
        Mean dosages.
    """

    product: np.ndarray
    size: float
    count: int
    scores: np.ndarray
    means: np.ndarray


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
    table = markers[0].genotypes
    edges = np.linspace(0, table.m, n_blocks + 1).astype(int)
    for j in range(n_blocks):
        for start in range(edges[j], edges[j + 1], table.block):
            stop = min(start + table.block, int(edges[j + 1]))
            yield j, _block_sums(markers, table, columns, start, stop)


def _block_sums(
    markers: Sequence[MarkerTerm], table: Genotypes, columns: np.ndarray, start: int, stop: int
) -> list[MarkerBlock]:
    dosage, missing = table.read(start, stop)
    if table.root is not None:
        columns = columns * table.root[:, None]
    right = np.column_stack([np.ones(table.n), columns]).astype(dosage.dtype)
    product = (dosage @ right).astype(np.float64)
    seen = np.full(len(dosage), float(table.n)) if missing is None else (~missing).sum(axis=1).astype(float)
    mean = np.divide(product[:, 0], seen, out=np.zeros(len(dosage)), where=seen > 0)
    squares = np.einsum("ka,ka->k", dosage, dosage).astype(np.float64)
    spread = squares - seen * mean**2
    # dosages are scaled by their variance in Hardy-Weinberg proportions, anything else by its own variance
    variance = mean * (1 - mean / 2) if table.are_dosages else spread / np.maximum(seen, 1)
    varies = (spread > 1e-6 * np.maximum(squares, 1e-300)) & (variance > 0)
    inverse = np.where(varies, 1 / np.where(varies, variance, 1.0), 0.0)
    if missing is not None:
        # a missing genotype is the mean, so that its W is zero
        dosage = np.where(missing, mean[:, None].astype(dosage.dtype), dosage)
        product = (dosage @ right).astype(np.float64)
    totals = columns.sum(axis=0)
    centred = product[:, 1:] - mean[:, None] * totals
    sizes = spread
    if table.root is not None:
        # only now: means and variances of markers know nothing of the weights
        weights = table.root**2
        first, second = (np.einsum("ka,a->k", part, weights) for part in (dosage, dosage**2))
        sizes = second - 2 * mean * first + mean**2 * weights.sum()
    out = []
    for marker in markers:
        weight = inverse if marker.members is None else inverse * marker.members[start:stop]
        scores = centred * weight[:, None]
        back = (dosage.T @ scores.astype(dosage.dtype)).astype(np.float64) - mean @ scores
        if table.root is not None:
            back *= table.root[:, None]
        out.append(MarkerBlock(back, float(sizes @ weight), int((weight > 0).sum()), scores, mean))
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
    for members in _by_table(markers):
        for j, parts in marker_blocks([markers[k] for k in members], columns, n_blocks):
            for k, part in zip(members, parts, strict=True):
                sums[k][0][j] += part.product
                sums[k][1][j] += part.size
                sums[k][2][j] += part.count
    return sums


def take_rows(markers: Sequence[MarkerTerm], rows: np.ndarray) -> tuple[MarkerTerm, ...]:
    """The same components for some rows of the fit."""
    tables: dict[int, Genotypes] = {}
    for term in markers:
        table = term.genotypes
        of_table = rows if table.rows is None else table.rows[rows]
        root = None if table.root is None else table.root[rows]
        tables.setdefault(id(table), replace(table, rows=of_table, root=root))
    return tuple(replace(term, genotypes=tables[id(term.genotypes)]) for term in markers)


def _by_table(markers: Sequence[MarkerTerm]) -> list[list[int]]:
    """Positions of the bins of each table, which is read once for all of them."""
    tables: dict[int, list[int]] = {}
    for k, marker in enumerate(markers):
        tables.setdefault(id(marker.genotypes), []).append(k)
    return list(tables.values())


def marker_effects(markers: Sequence[MarkerTerm], rests: np.ndarray, variances: np.ndarray) -> list[MarkerEffects]:
    """BLUPs ``W (s/m) W' V^-1 (y - X b)`` in one reading; eq. HE-17.

    Parameters
    ----------
    markers : sequence of MarkerTerm
    rests : ndarray, n x t
        ``V^-1 (y - X b)`` of every trait, whitened rows.
    variances : ndarray, markers x t
    """
    blocks: list[list[MarkerBlock]] = [[] for _ in markers]
    for members in _by_table(markers):
        for _, parts in marker_blocks([markers[k] for k in members], rests):
            for k, part in zip(members, parts, strict=True):
                blocks[k].append(part)
    out = []
    for marker, parts, s in zip(markers, blocks, variances, strict=True):
        scale = s / sum(part.count for part in parts)
        rows = sum(part.product for part in parts) * scale
        root = marker.genotypes.root
        out.append(
            MarkerEffects(
                marker.table,
                marker.genotypes.markers.names,
                np.concatenate([part.scores for part in parts]) * scale,
                np.concatenate([part.means for part in parts]),
                rows if root is None else rows / root[:, None],
            )
        )
    return out


# -- what a user gives -----------------------------------------------------------------------------------


def read_markers(
    markers: Mapping[str, Any] | None, annotation: Any, design: Design, whose: RowLabels
) -> tuple[MarkerTerm, ...]:
    """Check the ``markers=`` argument.

    Parameters
    ----------
    markers : mapping or None
        Label -> anything that `genotypes.read_markers` takes, individuals in rows.
    annotation : DataFrame or array, m x bins, or None
        Which markers belong to which bin, for a single table.
    design : Design
    whose : RowLabels
        Who the rows of the data are.

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
    taken = shortlist(term.label for term in design.terms if term.label in markers)
    if taken:
        raise OptionError(f"markers are called {taken} like a random term; give them a name of their own.")
    out: list[MarkerTerm] = []
    for label, table in markers.items():
        found = _genotypes(table, f"markers[{str(label)!r}]", design, whose)
        if annotation is None:
            out.append(MarkerTerm(str(label), str(label), found))
            continue
        bins, note = _bins(annotation, str(label), found)
        found = replace(found, notes=(*found.notes, *note))
        out += [MarkerTerm(f"{label}[{name}]", str(label), found, members.to_numpy()) for name, members in bins.items()]
    return tuple(out)


def _bins(annotation: Any, label: str, found: Genotypes) -> tuple[pd.DataFrame, list[str]]:
    """The bins in the order of the markers, by name when `annotation` has names; and a note of how."""
    names = found.markers.names
    labelled = isinstance(annotation, pd.DataFrame | pd.Series)
    frame = annotation.to_frame() if isinstance(annotation, pd.Series) else annotation
    values = membership("annotation", frame)
    if values.ndim not in (1, 2):
        raise OptionError(f"annotation={shown(annotation)}: expected a table of bool, markers x bins.")
    bins = pd.DataFrame(values, frame.index, frame.columns) if labelled else pd.DataFrame(values)
    if len(bins) != found.m:
        raise OptionError(f"annotation has {len(bins)} rows, '{label}' has {found.m} markers; give one row a marker.")
    if not labelled:
        return bins, []
    markers = RowLabels(names, None, f"markers[{label!r}]", f"the names of markers[{label!r}]")
    at, note = markers.match(bins.index, len(bins), "annotation")
    return bins.iloc[at], [] if note is None else [note]


def _genotypes(table: Any, name: str, design: Design, whose: RowLabels) -> Genotypes:
    markers = genotypes.read_markers(table)
    rows, note = whose.match(
        markers.labels, markers.n, name, rows=design.rows, repeats=True, by_position=markers.by_position
    )
    same = len(rows) == markers.n and np.array_equal(rows, np.arange(markers.n))
    root = None if design.weights is None else np.sqrt(design.weights)
    return Genotypes(markers, None if same else rows, root, () if note is None else (note,))
