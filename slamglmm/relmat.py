"""Labelled relationship matrices: from markers, from a pedigree, or given by the user and checked.

Whatever the source, a fitter sees a `Relmat`: labels, a symmetric positive semi-definite matrix
(dense or sparse), and one way to line it up with the levels of a grouping factor.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import narwhals as nw
import numpy as np
import pandas as pd
from scipy import linalg, sparse
from scipy.sparse import csgraph
from scipy.sparse import linalg as sparse_linalg

from .errors import PedigreeError, RelmatError, SlamWarning, shortlist, warn
from .options import shown

# Both are relative to the largest entry. The second is multiplied by the number of rows: a kinship of rank n - 1
# has an eigenvalue of zero in theory, and one written to a file with six digits must still pass.
ASYMMETRY_TOLERANCE = 1e-8
INDEFINITE_TOLERANCE = 1e-7

# Largest connected block of a sparse matrix that is factorised as a dense one.
DENSE_BLOCK = 2000

# Rows compared with their mirror images at a time.
SYMMETRY_BLOCK = 256

# Markers turned to float64 at a time, so that int8 genotypes are never expanded as a whole.
MARKER_BLOCK = 4096


@dataclass(frozen=True, eq=False, repr=False)
class Relmat:
    """A relationship matrix with its labels.

    Build one with `as_relmat`, `pedigree_relmat` or, from markers, ``as_relmat(kinship(markers), name)``;
    they do the checks, the class itself only those of kinds, shape and finite entries.

    Attributes
    ----------
    labels : pandas.Index, length r
        One label for each row and column.
    matrix : numpy.ndarray (r x r, float64, C order) or scipy.sparse.csr_array
        Symmetric and positive semi-definite.
    name : str
        The grouping factor it is for; used in messages.
    inverse : scipy.sparse.csc_array or None
        Sparse inverse, in the same order; pedigrees only.
    inbreeding : pandas.Series or None
        Inbreeding coefficient of every label; pedigrees only.
    """

    labels: pd.Index
    matrix: Any
    name: str = ""
    inverse: Any = None
    inbreeding: pd.Series | None = None

    def __post_init__(self) -> None:
        is_array = self.matrix is None or (hasattr(self.matrix, "dtype") and not isinstance(self.matrix, np.generic))
        if not isinstance(self.labels, pd.Index) or isinstance(self.matrix, pd.Index) or not is_array:
            raise RelmatError(
                "Relmat: expected labels (a pandas Index), then the matrix (an array), got "
                f"{type(self.labels).__name__}, then {type(self.matrix).__name__}. As relmat= give a labelled "
                "DataFrame or a tuple (matrix, labels), which are checked too."
            )
        if isinstance(self.matrix, np.ndarray) or sparse.issparse(self.matrix):
            r = len(self.labels)
            if self.matrix.shape != (r, r):
                raise RelmatError(f"Relmat: expected a matrix of {r} × {r} for {r} labels, got {self.matrix.shape}.")
            values = self.matrix.data if sparse.issparse(self.matrix) else self.matrix
            if values.dtype.kind not in "biuf" or not np.isfinite(values).all():
                raise RelmatError(
                    "Relmat: expected finite numbers in the matrix, got NaN, infinity or another kind. Correct them, "
                    "or give (matrix, labels) to `as_relmat`, which names the entry."
                )

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        return self.matrix.shape

    @property
    def is_sparse(self) -> bool:
        """Whether `matrix` is a scipy sparse array."""
        return sparse.issparse(self.matrix)

    def positions(self, levels: Iterable[Any]) -> np.ndarray:
        """Where each level stands among the labels.

        Labels are compared as they are. Only when not a single level is found that way are both sides
        compared as text (so ``7``, ``7.0`` and ``"7"`` meet): ids turn from numbers into strings, or back, on
        their way through csv files.

        Parameters
        ----------
        levels : iterable of labels, length q

        Returns
        -------
        numpy.ndarray of intp, length q
            0-based positions, -1 for a level that is absent.
        """
        return _positions(self.labels, _as_index(levels))

    def take(self, levels: Iterable[Any], name: str | None = None) -> Any:
        """Matrix with rows and columns in the order of `levels`.

        Parameters
        ----------
        levels : iterable of labels, length q
        name : str, optional
            Group to name in a message; `Relmat.name` unless given.

        Returns
        -------
        numpy.ndarray or scipy.sparse.csr_array, q x q
            A copy, dense or sparse as `matrix` is.

        Raises
        ------
        RelmatError
            When a level has no label; the first ones are shown.
        """
        wanted = _as_index(levels)
        where = self.positions(wanted)
        absent = wanted[where < 0]
        if len(absent):
            raise RelmatError(
                f"{_called(self.name if name is None else name)} lacks {len(absent)} of {len(wanted)} levels "
                f"(first: {shortlist(absent)}). Add them or drop these rows."
            )
        if self.is_sparse:
            return self.matrix[where][:, where]
        return np.ascontiguousarray(self.matrix[np.ix_(where, where)])

    def to_frame(self) -> pd.DataFrame:
        """Labelled dense DataFrame, r x r."""
        return pd.DataFrame(np.array(self), index=self.labels, columns=self.labels)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        if self.is_sparse:
            return self.matrix.toarray().astype(dtype or np.float64, copy=False)
        return np.array(self.matrix, dtype=dtype, copy=copy)

    def __repr__(self) -> str:
        kind = f"sparse, {self.matrix.nnz} entries" if self.is_sparse else "dense"
        group = f"'{self.name}', " if self.name else ""
        extra = ", with inverse" if self.inverse is not None else ""
        return f"Relmat({group}{self.shape[0]} x {self.shape[1]}, {kind}{extra})"


# -- matrices given by the user ------------------------------------------------------------------


def as_relmat(value: Any, name: str = "") -> Relmat:
    """Check a relationship matrix and give it the form fitters work with.

    Parameters
    ----------
    value : DataFrame, (matrix, labels) or Relmat
        A square DataFrame whose index and columns hold the same labels (in any order; the index decides), or
        an array or scipy sparse matrix together with its labels. A `Relmat` is taken as checked.
    name : str
        The grouping factor it is for; used in messages.

    Returns
    -------
    Relmat
        Float64 copy, exactly symmetric; the input is left as it was.

    Raises
    ------
    RelmatError
        When it is unlabelled, not square, has a label twice, a value that is not finite, is asymmetric by more
        than 1e-8 of its largest entry, or has an eigenvalue below zero by more than rounding explains.

    Warns
    -----
    SlamWarning
        When it looks like the inverse of a relationship matrix.
    """
    called = _called(name)
    if isinstance(value, Relmat):
        if value.is_sparse:
            _warn_of_inverse(value.matrix, called)
        return replace(value, name=name or value.name)
    if isinstance(value, pd.DataFrame):
        labels, matrix = _from_frame(value, called)
    elif isinstance(value, tuple) and len(value) == 2:
        labels, matrix = _from_pair(value, called)
    else:
        kind = f"{type(value).__module__.split('.')[0]}.{type(value).__name__}".removeprefix("builtins.")
        raise RelmatError(
            f"{called} is unlabelled (a {kind}), so its rows cannot be matched to levels. "
            "Give a pandas DataFrame with the labels as index and columns, or a tuple (matrix, labels)."
        )
    matrix = _checked(matrix, labels, called)
    _warn_of_inverse(matrix, called)
    return Relmat(labels, matrix, name)


def _called(name: str) -> str:
    return f"relmat for group '{name}'" if name else "relmat"


def _from_frame(frame: pd.DataFrame, called: str) -> tuple[pd.Index, np.ndarray]:
    if frame.shape[0] != frame.shape[1]:
        raise RelmatError(
            f"{called} must be square, got {frame.shape[0]} x {frame.shape[1]}. "
            "If it was read from a file, were its labels made the index (read_csv(..., index_col=0))?"
        )
    labels = _unique_labels(_as_index(frame.index), called)
    columns = _unique_labels(_as_index(frame.columns), called)
    order = _positions(columns, labels)
    if (order < 0).any():
        raise RelmatError(
            f"{called} must have the same labels as index and columns; "
            f"not among the columns: {shortlist(labels[order < 0])}. "
            "If it was read from a file, were its labels made the index (read_csv(..., index_col=0))?"
        )
    for column, dtype in zip(frame.columns, frame.dtypes, strict=True):
        if pd.api.types.is_complex_dtype(dtype):
            raise RelmatError(f"{called} must be real; column {str(column)!r} is {dtype}.")
        if not pd.api.types.is_numeric_dtype(dtype):
            raise RelmatError(f"{called} must be numeric; column {str(column)!r} is {dtype}.")
    values = frame.to_numpy(dtype=np.float64, na_value=np.nan)
    if not np.array_equal(order, np.arange(len(order))):
        values = values[:, order]
    return labels, np.array(values, order="C")


def _from_pair(pair: tuple[Any, Any], called: str) -> tuple[pd.Index, Any]:
    values, given = pair
    if isinstance(values, pd.DataFrame):
        raise RelmatError(f"{called}: a DataFrame brings its own labels; give it alone, not as (frame, labels).")
    if isinstance(given, str) or not isinstance(given, Iterable):
        raise RelmatError(
            f"{called}: expected (matrix, labels), got {type(given).__name__} in the place of the labels."
        )
    labels = _unique_labels(_as_index(given), called)
    if np.iscomplexobj(values):
        raise RelmatError(f"{called} must be real; the matrix of (matrix, labels) is complex.")
    if sparse.issparse(values):
        matrix = sparse.csr_array(values, dtype=np.float64, copy=True)
        matrix.sum_duplicates()
    else:
        try:
            matrix = np.array(values, dtype=np.float64, order="C")
        except (TypeError, ValueError):
            raise RelmatError(
                f"{called} must be numeric; the matrix of (matrix, labels) is {type(values).__name__}."
            ) from None
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1]:
        raise RelmatError(f"{called} must be square, got shape {matrix.shape}.")
    if len(labels) != matrix.shape[0]:
        raise RelmatError(f"{called} has {matrix.shape[0]} rows but {len(labels)} labels.")
    return labels, matrix


def _unique_labels(labels: pd.Index, called: str) -> pd.Index:
    if labels.hasnans:
        raise RelmatError(f"{called} has a missing label at position {int(np.argmax(labels.isna()))}.")
    if not labels.is_unique:
        raise RelmatError(f"{called} has labels more than once: {shortlist(labels[labels.duplicated()].unique())}.")
    return labels


def _checked(matrix: Any, labels: pd.Index, called: str) -> Any:
    """The same matrix, exactly symmetric, or an error that names the trouble."""
    entries = matrix.data if sparse.issparse(matrix) else matrix
    if not np.isfinite(entries).all():
        row, column = _first_not_finite(matrix)
        raise RelmatError(
            f"{called} must be finite; entry ({str(labels[row])!r}, {str(labels[column])!r}) is "
            f"{matrix[row, column]}. Fill or remove such individuals."
        )
    largest = float(np.abs(entries).max(initial=0.0))
    worst = _asymmetry(matrix)
    if worst > ASYMMETRY_TOLERANCE * largest:
        gap = abs(matrix - matrix.T)
        row, column = (int(i) for i in np.unravel_index(int(gap.argmax()), matrix.shape))
        a, b = str(labels[row]), str(labels[column])
        raise RelmatError(
            f"{called} must be symmetric; entry ({a!r}, {b!r}) is {matrix[row, column]:.10g} but "
            f"({b!r}, {a!r}) is {matrix[column, row]:.10g}. If both are meant to be equal, give (K + K.T) / 2."
        )
    if worst > 0:
        matrix = (matrix + matrix.T) / 2
        matrix = sparse.csr_array(matrix) if sparse.issparse(matrix) else matrix
    tolerance = INDEFINITE_TOLERANCE * largest * max(1, len(labels))
    smallest = _negative_eigenvalue(matrix, tolerance)
    if smallest is not None:
        raise RelmatError(
            f"{called} must be positive semi-definite; its smallest eigenvalue is {smallest:.6g} "
            f"(allowed for rounding: {-tolerance:.2g}). Correlations or kinships patched entry by entry, or "
            "computed from different markers for different pairs, are the usual cause: compute it in one piece, "
            "or replace negative eigenvalues by zero."
        )
    return matrix


def _asymmetry(matrix: Any) -> float:
    """Largest difference between an entry and its mirror image."""
    if sparse.issparse(matrix):
        return float(abs(matrix - matrix.T).max()) if matrix.shape[0] else 0.0
    worst = 0.0
    for start in range(0, len(matrix), SYMMETRY_BLOCK):
        rows = slice(start, start + SYMMETRY_BLOCK)
        gap = matrix[rows, start:] - matrix[start:, rows].T
        worst = max(worst, float(np.abs(gap, out=gap).max()))
    return worst


def _warn_of_inverse(matrix: Any, called: str) -> None:
    """Tell the inverse of a pedigree's or a phylogeny's matrix, which animal model programs ask for, by its signs.

    Off its diagonal most is zero, and what is negative (parents with children: -1 in all for each child) outweighs what
    is positive (mates: 1/4) four times, or more where the two fall together. Covariances of mixed signs stay below 3.
    """
    n, entries, diagonal = matrix.shape[0], matrix.data if sparse.issparse(matrix) else matrix, matrix.diagonal()
    zero = 1e-10 * diagonal.max(initial=0.0)
    size = np.abs(entries)
    n_related = np.count_nonzero(size > zero) - np.count_nonzero(diagonal > zero)
    difference, total = (float(whole - diagonal.sum()) for whole in (entries.sum(), size.sum()))
    if 0 < n_related < n * (n - 1) / 2 and difference < -total / 2:
        warn(
            f"{called} looks like the inverse of a relationship matrix: between different labels most entries are "
            f"zero, and the others mostly negative (down to {entries.min():.3g}). Give the relationship "
            "matrix itself, as slamglmm.pedigree_relmat(pedigree) makes it.",
            SlamWarning,
        )


def _first_not_finite(matrix: Any) -> tuple[int, int]:
    if not sparse.issparse(matrix):
        row, column = np.unravel_index(int(np.argmin(np.isfinite(matrix))), matrix.shape)
        return int(row), int(column)
    entries = matrix.tocoo()
    first = int(np.argmin(np.isfinite(entries.data)))
    return int(entries.row[first]), int(entries.col[first])


def _negative_eigenvalue(matrix: Any, tolerance: float) -> float | None:
    """Smallest eigenvalue when it lies below -tolerance, else None."""
    if not sparse.issparse(matrix):
        return _negative_eigenvalue_dense(matrix, tolerance)
    n_blocks, block_of = csgraph.connected_components(matrix, directed=False)
    order = np.argsort(block_of, kind="stable")
    sizes = np.bincount(block_of, minlength=n_blocks)
    ends = np.cumsum(sizes)
    found = [float(matrix.diagonal().min(initial=0.0))]  # all there is to know of blocks of one
    for size, end in zip(sizes, ends, strict=True):
        if size == 1:
            continue
        members = order[end - size : end]
        block = matrix[members][:, members]
        check = _negative_eigenvalue_dense if size <= DENSE_BLOCK else _negative_eigenvalue_sparse
        smallest = check(block.toarray() if size <= DENSE_BLOCK else block, tolerance)
        if smallest is not None:
            found.append(smallest)
    return min(found) if min(found) < -tolerance else None


def _negative_eigenvalue_dense(matrix: np.ndarray, tolerance: float) -> float | None:
    # A Cholesky factor of K + tolerance I exists exactly when no eigenvalue is below -tolerance, and costs a
    # fraction of the eigenvalues; those are needed only to write the message.
    if not len(matrix):
        return None
    shifted = matrix.copy()
    shifted[np.diag_indices_from(shifted)] += tolerance
    # In place: of a symmetric matrix in C order the transpose is the same in the order that LAPACK works in.
    _, indefinite = linalg.lapack.dpotrf(shifted.T, lower=1, clean=0, overwrite_a=1)
    if indefinite:
        smallest = float(linalg.eigvalsh(matrix, subset_by_index=(0, 0), check_finite=False)[0])
        return smallest if smallest < -tolerance else None
    return None


def _negative_eigenvalue_sparse(matrix: Any, tolerance: float) -> float | None:
    # L D L' without pivoting: by Sylvester's law the signs of D are the signs of the eigenvalues.
    shifted = sparse.csc_array(matrix + tolerance * sparse.eye_array(matrix.shape[0]))
    try:
        factor = sparse_linalg.splu(
            shifted, permc_spec="MMD_AT_PLUS_A", diag_pivot_thresh=0.0, options={"SymmetricMode": True}
        )
        if np.array_equal(factor.perm_r, factor.perm_c) and (factor.U.diagonal() > 0).all():
            return None
    except RuntimeError:  # an exactly zero pivot
        pass
    try:
        smallest = float(sparse_linalg.eigsh(matrix, k=1, which="SA", tol=1e-6, return_eigenvectors=False)[0])
    except sparse_linalg.ArpackNoConvergence:
        return _negative_eigenvalue_dense(matrix.toarray(), tolerance)
    return smallest if smallest < -tolerance else None


# -- labels ----------------------------------------------------------------------------------------


def _as_index(labels: Iterable[Any]) -> pd.Index:
    if isinstance(labels, pd.CategoricalIndex | pd.Categorical):
        return pd.Index(np.asarray(labels))
    if isinstance(labels, pd.Series) and isinstance(labels.dtype, pd.CategoricalDtype):
        return pd.Index(np.asarray(labels))
    return labels if isinstance(labels, pd.Index) else pd.Index(labels if hasattr(labels, "dtype") else list(labels))


def _positions(labels: pd.Index, wanted: pd.Index) -> np.ndarray:
    where = labels.get_indexer(wanted)
    if len(wanted) and (where < 0).all():
        as_text = _text(labels)
        if as_text.is_unique:
            where = as_text.get_indexer(_text(wanted))
    return where.astype(np.intp, copy=False)


def _text(labels: pd.Index) -> pd.Index:
    """Labels as strings, whole numbers without a decimal point."""
    return pd.Index([_one_text(label) for label in labels], dtype=object)


def _one_text(label: Any) -> str:
    if isinstance(label, float | np.floating) and float(label).is_integer():
        return str(int(label))
    return str(label)


# -- from markers ----------------------------------------------------------------------------------


def kinship(markers: Any, method: str = "vanraden") -> pd.DataFrame:
    r"""Genomic relationship matrix of the rows of a marker table.

    With :math:`W = M - 2p`, where :math:`p` is half the mean dosage of each marker:

    * ``"vanraden"``: :math:`K = W W' / (2 \sum_j p_j (1 - p_j))`, method 1 of VanRaden (2008). Individuals of a
      random-mating population have diagonal 1 on average, fully inbred lines (dosages 0 and 2) have 2, because
      :math:`K_{ii} = 1 + F_i`. A heritability is then per unit of that scale.
    * ``"standardized"``: every marker divided by its own standard deviation in this sample (n in the
      denominator, observed genotypes only), :math:`K = W W' / m`. Without missing genotypes the mean of the
      diagonal is exactly 1, whatever the coding or the inbreeding. VanRaden's method 2 and GCTA (Yang et al.
      2010) differ from it in dividing by the expected variance :math:`2 p_j (1 - p_j)` instead.

    Parameters
    ----------
    markers : DataFrame or array, n x m
        Dosages of one allele: 0, 1, 2 or anything between them; any numeric type (int8 stays int8 until used).
        NaN is replaced by the mean of the marker. Rows are individuals; an array gets labels 0 .. n-1.
        ``"standardized"`` takes any numeric coding, so 0 and 1 for inbred lines too.
    method : {"vanraden", "standardized"}

    Returns
    -------
    pandas.DataFrame, n x n
        Symmetric, labelled by the rows of `markers` on both sides; rank at most n - 1.

    Raises
    ------
    RelmatError
        For an unknown method, values that are not numbers or are infinite, dosages outside 0 to 2 with
        ``"vanraden"``, a label twice, or when no marker varies.

    Warns
    -----
    SlamWarning
        Names the markers that do not vary (or were never observed); they are left out.

    References
    ----------
    VanRaden PM (2008) Efficient methods to compute genomic predictions. J Dairy Sci 91:4414-4423.

    Yang J et al. (2010) Common SNPs explain a large proportion of the heritability for human height.
    Nat Genet 42:565-569.

    Examples
    --------
    >>> import pandas as pd, slamglmm as sg
    >>> markers = pd.DataFrame({"snp1": [0, 1, 2], "snp2": [2, 2, 0]}, index=["a", "b", "c"])
    >>> sg.kinship(markers, method="standardized").round(2)
          a     b     c
    a  1.00  0.25 -1.25
    b  0.25  0.25 -0.50
    c -1.25 -0.50  1.75
    """
    if not isinstance(method, str) or method not in ("vanraden", "standardized"):
        raise RelmatError(f"kinship: method must be 'vanraden' or 'standardized', got {method!r}.")
    table, labels, names = _marker_table(markers)
    n, m = table.shape
    total = np.zeros((n, n))
    scale = 0.0
    constant: list[Any] = []
    unobserved: list[Any] = []
    for start in range(0, m, MARKER_BLOCK):
        stop = min(m, start + MARKER_BLOCK)
        dosage = _marker_block(table, start, stop)
        _refuse_bad_dosages(dosage, names[start:stop], labels, method)
        seen = ~np.isnan(dosage)
        count = seen.sum(axis=0)
        mean = np.divide(np.where(seen, dosage, 0.0).sum(axis=0), count, out=np.zeros(len(count)), where=count > 0)
        low = np.where(seen, dosage, np.inf).min(axis=0)
        varies = low < np.where(seen, dosage, -np.inf).max(axis=0)
        constant += list(names[start:stop][~varies & (count > 0)])
        unobserved += list(names[start:stop][count == 0])
        centred = np.where(seen, dosage - mean, 0.0)[:, varies]
        if method == "vanraden":
            p = mean[varies] / 2
            scale += float(2 * (p * (1 - p)).sum())
        else:
            centred /= np.sqrt((centred**2).sum(axis=0) / count[varies])
            scale += centred.shape[1]
        total += centred @ centred.T
    left_out = len(constant) + len(unobserved)
    if left_out == m:
        raise RelmatError(f"kinship: none of the {m} markers varies among the {n} rows; there is nothing to relate.")
    if left_out:
        why = [f"monomorphic: {shortlist(constant)}"] if constant else []
        why += [f"without any genotype: {shortlist(unobserved)}"] if unobserved else []
        warn(
            f"kinship: {left_out} of {m} markers say nothing and are left out ({'; '.join(why)}).",
            SlamWarning,
        )
    return pd.DataFrame(total / scale, index=labels, columns=labels.rename(None))


def effects_of_markers(markers: pd.DataFrame, effects: pd.DataFrame) -> pd.DataFrame:
    """Effects of one allele of each marker from the effects of individuals that they add up to.

    With markers W standardised and effects ``u = W a`` of individuals, ``a = W' (W W')^- u``: for normal ``a`` of equal
    variances its mean given u, and so its posterior mean given that of u.

    Parameters
    ----------
    markers : DataFrame, n x m
        As for ``kinship(markers, "standardized")``, which is the relationship matrix of u.
    effects : DataFrame, n x p
        Posterior means, labelled as the rows of `markers`.

    Returns
    -------
    DataFrame, m x p
        Zero for a marker that does not vary.
    """
    values, vectors = linalg.eigh(kinship(markers, "standardized").to_numpy())
    kept = values > 1e-10 * values[-1]
    solved = vectors[:, kept] @ ((vectors[:, kept].T @ effects.loc[markers.index].to_numpy()) / values[kept, None])
    table = markers.to_numpy()
    out, varying = np.zeros((table.shape[1], effects.shape[1])), 0
    for start in range(0, len(out), MARKER_BLOCK):
        dosage = _marker_block(table, start, min(len(out), start + MARKER_BLOCK))
        centred = dosage - np.nanmean(dosage, axis=0)
        variance = np.nanmean(centred**2, axis=0)
        varies = variance > 0
        varying += int(varies.sum())
        slopes = np.where(np.isnan(centred), 0.0, centred)[:, varies].T @ solved
        out[start : start + len(varies)][varies] = slopes / variance[varies, None]
    return pd.DataFrame(out / varying, index=markers.columns, columns=effects.columns)


def _marker_table(markers: Any) -> tuple[Any, pd.Index, np.ndarray]:
    """Rows x markers as it came, labels of the rows, names of the markers."""
    if isinstance(markers, pd.DataFrame):
        for column, dtype in zip(markers.columns, markers.dtypes, strict=True):
            if not pd.api.types.is_numeric_dtype(dtype) or pd.api.types.is_complex_dtype(dtype):
                raise RelmatError(
                    f"kinship: markers must be numeric dosages; column {str(column)!r} is {dtype}. "
                    "Make labels the index (markers.set_index(...)) and recode genotypes as 0, 1, 2."
                )
        table: Any = markers
        labels = _as_index(markers.index)
        names = np.array(markers.columns, dtype=object)
    else:
        table = np.asarray(markers)
        if table.ndim != 2 or table.dtype.kind not in "biuf":
            raise RelmatError(
                "kinship: markers must be a two-dimensional numeric array or a DataFrame, individuals in rows; "
                f"got {table.ndim} dimensions of type {table.dtype}."
            )
        labels = pd.RangeIndex(table.shape[0])
        names = np.array(getattr(markers, "columns", range(table.shape[1])), dtype=object)
    if 0 in table.shape:
        raise RelmatError(f"kinship: markers are empty ({table.shape[0]} rows x {table.shape[1]} markers).")
    return table, _unique_labels(labels, "kinship: the marker table"), names


def _marker_block(table: Any, start: int, stop: int) -> np.ndarray:
    if isinstance(table, pd.DataFrame):
        return table.iloc[:, start:stop].to_numpy(dtype=np.float64, na_value=np.nan)
    return table[:, start:stop].astype(np.float64)


def _refuse_bad_dosages(dosage: np.ndarray, names: np.ndarray, labels: pd.Index, method: str) -> None:
    if method == "vanraden":
        bad = (dosage < 0) | (dosage > 2)
        advice = "must lie between 0 and 2; recode them, or use method='standardized' for another coding"
    else:
        bad = np.isinf(dosage)
        advice = "must be finite or NaN"
    if bad.any():
        row, column = np.unravel_index(int(np.argmax(bad)), bad.shape)
        raise RelmatError(
            f"kinship: dosages {advice}. Marker {str(names[column])!r} has {dosage[row, column]:g} "
            f"in row {str(labels[row])!r}."
        )


# -- from a pedigree ---------------------------------------------------------------------------------

# What programs write for an unknown parent: most 0, R NA, ASReml also *, SAS a dot.
_UNKNOWN_PARENTS = {0, "0", "NA", "*", "."}
_PEDIGREE_COLUMNS = {
    "id": ("id", "animal", "individual", "label"),
    "dam": ("dam", "mother"),
    "sire": ("sire", "father"),
}


def pedigree_relmat(ped: Any, name: str = "") -> Relmat:
    r"""Additive relationship matrix A of a pedigree, with its sparse inverse.

    With P holding 1/2 for each known parent, T = (I - P)\ :sup:`-1` and D the Mendelian variances
    (1, 3/4 - F\ :sub:`s`/4 or 1/2 - (F\ :sub:`s` + F\ :sub:`d`)/4 for none, one or two parents known),
    A = T D T' and A\ :sup:`-1` = (I - P)' D\ :sup:`-1` (I - P): Henderson's rules with inbreeding.

    Parameters
    ----------
    ped : DataFrame (pandas, polars or another that narwhals reads)
        One row an individual, in any order, with columns for the individual (id, animal, individual or
        label), dam (or mother) and sire (or father); upper or lower case. An unknown parent is NaN, None or an
        empty string, or 0, NA, * or a dot when no individual is called so. One individual may be dam here and
        sire there, or both at once (selfing), as in plants.
    name : str
        The grouping factor it is for; used in messages.

    Returns
    -------
    Relmat
        `labels`: parents without a row of their own first (they are taken as founders), then the individuals
        in the order of `ped`. `matrix` is sparse (CSR), `inverse` is sparse (CSC), `inbreeding` a Series.
        `inverse` is None when a Mendelian variance has vanished (more than 50 generations of selfing).

    Raises
    ------
    PedigreeError
        When a column is missing, an individual is missing or comes twice, or somebody is his own ancestor; the
        loop is shown.

    References
    ----------
    Henderson CR (1976) A simple method for computing the inverse of a numerator relationship matrix used in
    prediction of breeding values. Biometrics 32:69-83.

    Quaas RL (1976) Computing the diagonal elements and inverse of a large numerator relationship matrix.
    Biometrics 32:949-953.

    Examples
    --------
    >>> import pandas as pd, slamglmm as sg
    >>> ped = pd.DataFrame({"id": ["lamb", "twin"], "dam": ["ewe", "ewe"], "sire": ["ram", None]})
    >>> A = sg.pedigree_relmat(ped)
    >>> A.to_frame().loc["lamb"].to_dict()
    {'ewe': 0.5, 'ram': 0.5, 'lamb': 1.0, 'twin': 0.25}
    >>> A.inverse.shape
    (4, 4)
    """
    if not isinstance(name, str):
        raise PedigreeError(f"pedigree_relmat(name={shown(name)}): expected the name of a grouping factor.")
    labels, dam, sire = _pedigree_codes(ped)
    n = len(labels)
    generation = _generations(dam, sire, labels)

    # From here on individuals are numbered by generation: each is a slice, and parents lie in earlier ones.
    order = np.argsort(generation, kind="stable")
    rank = np.empty(n + 1, dtype=np.intp)
    rank[order] = np.arange(n)
    rank[-1] = -1  # code -1 (unknown) stays -1
    dam, sire = rank[dam[order]], rank[sire[order]]
    bounds = np.concatenate([[0], np.cumsum(np.bincount(generation))])

    descent, inbreeding, mendelian = _descent(dam, sire, bounds)
    parents = _selector(dam, 0.5, n) + _selector(sire, 0.5, n)
    a = _relationships(descent, mendelian, parents, bounds)
    inverse = None
    if (mendelian > 0).all():
        path = sparse.eye_array(n, format="csr") - parents
        inverse = sparse.csc_array(path.T @ sparse.diags_array(1 / mendelian) @ path)

    back = rank[:-1]
    return Relmat(
        labels,
        sparse.csr_array(a[back][:, back]),
        name,
        None if inverse is None else sparse.csc_array(inverse[:, back][back]),
        pd.Series(inbreeding[back], index=labels, name="inbreeding"),
    )


def _pedigree_codes(ped: Any) -> tuple[pd.Index, np.ndarray, np.ndarray]:
    """Labels, and for each the position of its dam and sire (-1 for unknown)."""
    columns = _pedigree_columns(ped)
    ids = columns["id"]
    if not ids:
        raise PedigreeError("pedigree has no rows.")
    for row, label in enumerate(ids):
        if label is None or label == "":
            raise PedigreeError(f"pedigree has no id in row {row} (counted from 0).")
    listed = set(ids)
    if len(listed) < len(ids):
        count = Counter(ids)
        raise PedigreeError(
            f"pedigree has individuals more than once: {shortlist(label for label in count if count[label] > 1)}. "
            "Keep one row for each."
        )
    unknown = {None, ""} | (_UNKNOWN_PARENTS - listed)
    parents = dict.fromkeys(parent for pair in zip(columns["dam"], columns["sire"], strict=True) for parent in pair)
    added = [parent for parent in parents if parent not in unknown and parent not in listed]
    position = {label: i for i, label in enumerate([*added, *ids])}
    dam, sire = (
        np.array([-1] * len(added) + [position.get(parent, -1) for parent in columns[role]], dtype=np.intp)
        for role in ("dam", "sire")
    )
    return pd.Index(list(position), name="id"), dam, sire


def _pedigree_columns(ped: Any) -> dict[str, list[Any]]:
    """The three columns, labels all of one kind (numbers or strings), None where missing."""
    try:
        frame: Any = nw.from_native(ped, eager_only=True)
    except TypeError:
        raise PedigreeError(
            f"pedigree must be a data frame with columns id, dam, sire; got {type(ped).__name__}."
        ) from None
    by_lower = {str(column).strip().lower(): column for column in frame.columns}
    columns: dict[str, list[Any]] = {}
    for role, spellings in _PEDIGREE_COLUMNS.items():
        found = [by_lower[spelling] for spelling in spellings if spelling in by_lower]
        if len(found) != 1:
            trouble = "has no column" if not found else f"has {len(found)} columns"
            raise PedigreeError(
                f"pedigree {trouble} for the {role} (called {', '.join(map(repr, spellings))}); "
                f"columns are {shortlist(frame.columns, 8)}."
            )
        columns[role] = frame.get_column(found[0]).to_list()
    tidy = _one_text if any(isinstance(value, str) for column in columns.values() for value in column) else _whole
    return {role: [None if pd.isna(value) else tidy(value) for value in column] for role, column in columns.items()}


def _whole(label: Any) -> Any:
    # A column of integer ids with one NaN arrives as floats.
    return int(label) if isinstance(label, float) and label.is_integer() else label


def _generations(dam: np.ndarray, sire: np.ndarray, labels: pd.Index) -> np.ndarray:
    """Generation of each individual: 0 for founders, else one more than the later parent."""
    generation = np.full(len(labels) + 1, -1, dtype=np.intp)
    # The extra last element stands for an unknown parent (code -1): known, and before everybody.
    done = np.zeros(len(labels) + 1, dtype=bool)
    done[-1] = True
    waiting = np.arange(len(labels))
    while len(waiting):
        ready = done[dam[waiting]] & done[sire[waiting]]
        if not ready.any():
            raise PedigreeError(_loop_message(waiting, dam, sire, labels))
        now = waiting[ready]
        generation[now] = 1 + np.maximum(generation[dam[now]], generation[sire[now]])
        done[now] = True
        waiting = waiting[~ready]
    return generation[:-1]


def _loop_message(waiting: np.ndarray, dam: np.ndarray, sire: np.ndarray, labels: pd.Index) -> str:
    # Everybody still waiting has a waiting parent, so walking up must come back to somebody.
    still = set(waiting.tolist())
    walk = [int(waiting[0])]
    while True:
        parent = next(int(code[walk[-1]]) for code in (dam, sire) if int(code[walk[-1]]) in still)
        if parent in walk:
            loop = [*walk[walk.index(parent) :], parent]
            break
        walk.append(parent)
    shown = " -> ".join(repr(str(labels[i])) for i in loop)
    return f"pedigree has a loop, each the child of the next: {shown}. Nobody can be his own ancestor."


def _selector(columns: np.ndarray, weight: float, n: int) -> Any:
    """Rows x n with `weight` at each given column, and an empty row for -1."""
    known = np.flatnonzero(columns >= 0)
    return sparse.csr_array((np.full(len(known), weight), (known, columns[known])), shape=(len(columns), n))


def _combine_rows(pick: Any, blocks: list[Any], bounds: np.ndarray) -> Any:
    """``pick @ M`` for a matrix M of which the generations so far are kept as one block of rows each."""
    used = np.unique(np.searchsorted(bounds, pick.indices, side="right") - 1)
    parts = [sparse.csr_array(pick[:, bounds[g] : bounds[g + 1]] @ blocks[g]) for g in used]
    for part in parts:
        part.sort_indices()  # products leave rows unsorted; sorted rows add several times faster
    return sum(parts[1:], start=parts[0]) if parts else sparse.csr_array(pick.shape)


def _descent(dam: np.ndarray, sire: np.ndarray, bounds: np.ndarray) -> tuple[Any, np.ndarray, np.ndarray]:
    """T (n x n, share of each individual's genes from each other), inbreeding and Mendelian variances.

    One generation at a time: the rows of T of the parents give the inbreeding of the children,
    F = (T_s D T_d') / 2, and their mean is the children's own row.
    """
    n = len(dam)
    inbreeding = np.zeros(n + 1)
    inbreeding[-1] = -1.0  # an unknown parent: then 1/2 - (F_s + F_d)/4 gives 3/4 - F_s/4, and 1 for none
    mendelian = np.zeros(n)
    blocks: list[Any] = []
    for start, stop in pairwise(bounds):
        dams, sires = dam[start:stop], sire[start:stop]
        from_dam = _combine_rows(_selector(dams, 1.0, n), blocks, bounds)
        from_sire = _combine_rows(_selector(sires, 1.0, n), blocks, bounds)
        inbreeding[start:stop] = 0.5 * (from_dam.multiply(from_sire) @ mendelian)
        mendelian[start:stop] = 0.5 - 0.25 * (inbreeding[dams] + inbreeding[sires])
        own = _selector(np.arange(start, stop), 1.0, n)
        blocks.append(sparse.csr_array(0.5 * (from_dam + from_sire) + own))
    return sparse.vstack(blocks, format="csr"), inbreeding[:-1], mendelian


def _relationships(descent: Any, mendelian: np.ndarray, parents: Any, bounds: np.ndarray) -> Any:
    """A = T D T', by solving (I - P) A = D T' down the generations.

    Each row of A is the mean of the parents' rows plus its row of D T', so the work is in proportion to the
    entries of A; the product of T and T' would cost the cube of the number of relatives.
    """
    own = sparse.csr_array(sparse.diags_array(mendelian) @ descent.T)
    blocks: list[Any] = []
    for start, stop in pairwise(bounds):
        blocks.append(_combine_rows(parents[start:stop], blocks, bounds) + own[start:stop])
    a = sparse.vstack(blocks, format="csr")
    blocks.clear()  # a second copy of A
    a = a + a.T  # the two triangles differ by rounding; half of it below, in place
    a.data *= 0.5
    return a
