"""Data frames at the border: pandas or polars in, tidy pandas columns of the kept rows out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from numbers import Number
from typing import Any

import narwhals as nw
import numpy as np
import pandas as pd
from pandas.api import types

from ..errors import DataError, shortlist


def open_frame(data: Any, name: str = "data") -> Any:
    """A pandas DataFrame as it is, a mapping as pandas, any other eager frame through narwhals.

    Parameters
    ----------
    data : DataFrame or mapping of columns
    name : str
        What to call it in messages.

    Returns
    -------
    pandas.DataFrame or narwhals.DataFrame
        Both have ``.columns`` and a length; no column is copied.

    Raises
    ------
    DataError
    """
    if isinstance(data, pd.DataFrame):
        return data
    if isinstance(data, Mapping):
        try:
            return pd.DataFrame(dict(data))
        except ValueError as error:
            raise DataError(f"{name}: {error}") from None
    try:
        return nw.from_native(data, eager_only=True)
    except TypeError:
        kind = type(data).__name__
        raise DataError(f"{name} must be a data frame (pandas, polars, ...), got {kind}.") from None


def take_columns(frame: Any, names: Sequence[str], name: str = "data") -> pd.DataFrame:
    """The named columns as a pandas frame.

    Parameters
    ----------
    frame : result of `open_frame`
    names : sequence of str
    name : str

    Returns
    -------
    pandas.DataFrame
        With the index of a pandas frame, else 0 .. n-1.

    Raises
    ------
    DataError
        For a column that is absent or there twice.
    """
    columns = Counter(frame.columns)
    absent = [column for column in names if column not in columns]
    if absent:
        raise DataError(f"{name} lacks the column(s) {shortlist(absent)}; it has {shortlist(list(frame.columns))}.")
    if isinstance(frame, pd.DataFrame):
        twice = [column for column in names if columns[column] > 1]
        if twice:
            raise DataError(f"{name} has more than one column named {shortlist(twice)}. Rename one of them.")
        return frame[list(names)]
    return pd.DataFrame({column: _from_narwhals(frame[column]) for column in names}, index=pd.RangeIndex(len(frame)))


def _from_narwhals(series: Any) -> Any:
    if isinstance(series.dtype, nw.Categorical | nw.Enum):
        labels = pd.Series(series.cast(nw.String).to_list(), dtype=object)
        # a polars Enum has an order of its own; a Categorical only that of first appearance anywhere
        levels = list(series.dtype.categories) if isinstance(series.dtype, nw.Enum) else None
        return pd.Categorical(labels, categories=levels)
    if series.dtype == nw.Boolean and series.null_count():
        return pd.array(series.to_list(), dtype="boolean")
    if series.dtype.is_integer() and series.null_count():
        return pd.array(series.to_list(), dtype="UInt64" if series.dtype.is_unsigned_integer() else "Int64")
    if series.dtype.is_decimal():
        return series.cast(nw.Float64).to_numpy()
    if series.dtype.is_numeric() or series.dtype == nw.Boolean:
        return series.to_numpy()
    return pd.Series(series.to_list())


def column_names(frame: Any) -> tuple[tuple[str, ...], Callable[[str], bool]]:
    """Names of the columns that a formula can read, and a function that tells which of them hold words.

    Parameters
    ----------
    frame : result of `open_frame`
    """
    names = tuple(name for name in frame.columns if isinstance(name, str))

    @cache
    def holds_words(name: str) -> bool:
        column = take_columns(frame, [name])[name]
        return not is_number(_tidy(column[~is_missing(column)]).dtype)

    return names, holds_words


def row_labels(frame: Any) -> pd.Index:
    """Labels of the rows: the index of a pandas frame, else 0 .. n-1."""
    return frame.index if isinstance(frame, pd.DataFrame) else pd.RangeIndex(len(frame))


def missing_rows(columns: Mapping[str, Any], n: int) -> tuple[np.ndarray, dict[str, int]]:
    """Rows in which any of the columns is missing, and the count of each column.

    Parameters
    ----------
    columns : mapping
        Name -> array or Series of length n.
    n : int

    Returns
    -------
    numpy.ndarray of bool (n), dict
    """
    mask = np.zeros(n, dtype=bool)
    counts: dict[str, int] = {}
    for name, values in columns.items():
        here = is_missing(values)
        if here.any():
            mask |= here
            counts[name] = int(here.sum())
    return mask, counts


def is_missing(values: Any) -> np.ndarray:
    """Where a column has no value; a NaN inside a nullable column of floats is none either."""
    here = np.array(pd.isna(values))
    dtype = getattr(values, "dtype", None)
    if types.is_extension_array_dtype(dtype) and types.is_float_dtype(dtype):
        here |= np.isnan(values.to_numpy(dtype=np.float64, na_value=np.nan))
    return here


def is_number(dtype: Any) -> bool:
    """Whether a column of this type counts as numbers: real ones, and booleans as 0 and 1."""
    return (types.is_numeric_dtype(dtype) and not types.is_complex_dtype(dtype)) or types.is_bool_dtype(dtype)


def tidy(frame: pd.DataFrame) -> pd.DataFrame:
    """Columns without missing values in the few types that formulaic and we handle.

    Unused categories go (they would be zero columns of X), nullable and object columns become plain ones.

    Parameters
    ----------
    frame : pandas.DataFrame

    Returns
    -------
    pandas.DataFrame

    Raises
    ------
    DataError
        For entries that are neither numbers, words nor dates, such as lists.
    """
    # the dictionary is keyed by name, so this also drops nothing: names are unique here
    return pd.DataFrame({str(name): _tidy(column) for name, column in frame.items()}, index=frame.index)


def _tidy(column: pd.Series) -> pd.Series:
    dtype = column.dtype
    if isinstance(dtype, pd.CategoricalDtype):
        column = column.cat.remove_unused_categories()
        categories = column.cat.categories
        # nullable strings as categories would be another type than plain ones
        return column.cat.rename_categories(categories.to_list()) if _is_nullable(categories.dtype) else column
    if types.is_bool_dtype(dtype) and not types.is_object_dtype(dtype):
        return column.astype(bool)
    if types.is_extension_array_dtype(dtype) and types.is_numeric_dtype(dtype):
        kind = np.float64
        if types.is_integer_dtype(dtype):
            kind = np.uint64 if types.is_unsigned_integer_dtype(dtype) else np.int64  # type: ignore[assignment]
        return pd.Series(column.to_numpy(dtype=kind), index=column.index, name=column.name)
    if _is_nullable(dtype):
        column = pd.Series(column.to_list(), index=column.index, name=column.name)
    return _plain_objects(column.infer_objects()) if types.is_object_dtype(column.dtype) else column


def _is_nullable(dtype: Any) -> bool:
    """Whether these are words or arrow values with a missing value of their own, not the plain ones of pandas."""
    if isinstance(dtype, pd.StringDtype):
        return dtype.na_value is pd.NA
    return isinstance(dtype, pd.ArrowDtype)


def _plain_objects(column: pd.Series) -> pd.Series:
    """Objects as numbers if all are (Decimal as well), as text if they are words and numbers; dates as they are."""
    if not types.is_object_dtype(column.dtype):
        return column
    kind = types.infer_dtype(column, skipna=False)
    if kind in ("string", "date", "datetime", "datetime64", "timedelta", "timedelta64", "time", "period", "empty"):
        return column
    is_real = np.array([isinstance(v, Number | np.bool_) and not isinstance(v, complex) for v in column])
    if is_real.all():
        if kind == "integer":  # not made int64 or uint64 by infer_objects
            raise DataError(
                f"column '{column.name}' holds whole numbers beyond 64 bits. Labels make text, .astype(str), numbers "
                "make floats, .astype(float)."
            )
        return column.astype(np.float64)
    wrong = ~is_real & ~np.array([isinstance(v, str) for v in column])
    if wrong.any():
        at = int(np.argmax(wrong))
        found = type(column.iloc[at]).__name__
        how = (
            "Decode them, frame[name].str.decode('utf-8')"
            if found == "bytes"
            else "Make a column of each part you need"
        )
        raise DataError(
            f"column '{column.name}' holds {found} objects (first: row {str(column.index[at])!r}); expected numbers, "
            f"words or categories. {how}."
        )
    return column.astype(str)


def numbers_of(column: pd.Series) -> np.ndarray | None:
    """Values of a column as float64, NaN where missing; None if they are not numbers.

    Parameters
    ----------
    column : pandas.Series, length n
    """
    if isinstance(column.dtype, np.dtype) and is_number(column.dtype):
        return column.to_numpy(dtype=np.float64)
    known = ~is_missing(column)
    values = _tidy(column[known])
    if not is_number(values.dtype) and known.any():
        return None
    out = np.full(len(column), np.nan)
    out[known] = values.to_numpy(dtype=np.float64)
    return out


@dataclass(frozen=True)
class ColumnKind:
    """What a predictor was in the fit: numeric, or a factor with these levels."""

    levels: pd.Index | None
    ordered: bool = False


def kinds_of(frame: pd.DataFrame, predictors: Iterable[str]) -> dict[str, ColumnKind]:
    """The kind of each predictor, for the check of new rows.

    Parameters
    ----------
    frame : pandas.DataFrame
        After `tidy`.
    predictors : iterable of str

    Returns
    -------
    dict

    Raises
    ------
    DataError
        For Inf, and for columns that are neither numbers nor categories.
    """
    out: dict[str, ColumnKind] = {}
    for name in predictors:
        column = frame[name]
        if isinstance(column.dtype, pd.CategoricalDtype):
            out[name] = ColumnKind(column.cat.categories, bool(column.cat.ordered))
        elif is_number(column.dtype):
            refuse_infinite(column, f"column '{name}'", frame.index)
            out[name] = ColumnKind(None)
        elif types.infer_dtype(column) == "string":
            out[name] = ColumnKind(pd.Index(column.unique()).sort_values())
        else:
            raise DataError(
                f"column '{name}' is {_kind(column)}: turn it into numbers or categories first{_how(column)}."
            )
    return out


def _kind(column: pd.Series) -> str:
    return types.infer_dtype(column) if types.is_object_dtype(column.dtype) else str(column.dtype)


def _how(column: pd.Series) -> str:
    """What to write for a column that is no covariate, as the end of a sentence."""
    name, kind = str(column.name), _kind(column)
    if kind.startswith("complex"):
        return f", such as frame['{name}'].abs()"
    if kind.startswith("timedelta"):
        return f", such as frame['{name}'].dt.total_seconds()"
    if "date" in kind:
        days = f"(pandas.to_datetime(frame['{name}']) - pandas.Timestamp(2000, 1, 1)).dt.days"
        return f", such as days, {days}, or frame['{name}'].astype(str)"
    return f", such as frame['{name}'].astype(str)"


def as_fitted(frame: pd.DataFrame, kinds: Mapping[str, ColumnKind]) -> pd.DataFrame:
    """New rows with every predictor of the kind, and the levels, it had in the fit.

    Parameters
    ----------
    frame : pandas.DataFrame
        New rows, without missing values.
    kinds : mapping
        Predictors to check.

    Returns
    -------
    pandas.DataFrame

    Raises
    ------
    DataError
        For a category that was not seen, or a column of another kind.
    """
    out = {str(name): column for name, column in frame.items()}
    for name, kind in kinds.items():
        column = out[name]
        numeric = is_number(column.dtype)
        if kind.levels is None:
            if not numeric:
                raise DataError(f"column '{name}' was numeric in the fit, newdata has {column.dtype}.")
            refuse_infinite(column, f"newdata column '{name}'", frame.index)
            continue
        codes = kind.levels.get_indexer(pd.Index(column))
        if (codes < 0).any():
            unseen = pd.unique(column[codes < 0])
            raise DataError(
                f"newdata has categories of '{name}' that the fit has not seen: {shortlist(unseen)}. "
                f"The fit knows {shortlist(kind.levels, 8)}."
            )
        coded = pd.Categorical.from_codes(codes, categories=kind.levels, ordered=kind.ordered)
        out[name] = pd.Series(coded, index=frame.index)
    return pd.DataFrame(out, index=frame.index)


def refuse_infinite(values: Any, what: str, index: pd.Index) -> None:
    """Refuse Inf in one column, naming it and the first row."""
    array = np.asarray(values)
    if array.dtype.kind != "f":
        return
    bad = np.isinf(array)
    if bad.any():
        first = str(index[int(np.argmax(bad))])
        raise DataError(
            f"{what} is infinite in {int(bad.sum())} row(s) (first: row {first!r}). Correct it or set it to NaN."
        )
