"""Responses: columns named in the formula, or a table given as ``Y=`` that may hold thousands of traits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from pandas.api import types

from ..errors import DataError, shortlist
from .bars import Response
from .columns import open_frame, take_columns, tidy
from .encoding import encode, expression_term


def from_formula(
    responses: Sequence[Response],
    needed: Sequence[Sequence[str]],
    frame: pd.DataFrame,
    formula: str,
    context: Mapping[str, Any],
) -> pd.DataFrame:
    """Evaluate the responses on the left of ``~``.

    Parameters
    ----------
    responses : sequence of Response, length p
    needed : sequence of sequences of str, length p
        Columns that each response reads.
    frame : pandas.DataFrame, n rows
    formula : str
    context : mapping

    Returns
    -------
    pandas.DataFrame, n x p, float64
        NaN where any column of that response is missing.

    Raises
    ------
    DataError
        When a response is not numeric, or infinite.
    """
    values = np.full((len(frame), len(responses)), np.nan)
    for j, (response, columns) in enumerate(zip(responses, needed, strict=True)):
        if response.is_column:
            values[:, j] = _numbers(frame[[columns[0]]])[:, 0]
            continue
        # complete rows only: one NaN would empty scale(y)
        known = np.asarray(frame[list(columns)].notna().all(axis=1))
        if not known.any():
            continue
        term = expression_term(response.piece, formula)
        column, _ = encode([term], tidy(frame.loc[known, list(columns)]), columns, formula, {}, context)
        if column.shape[1] != 1:
            raise DataError(f"response '{response.name}' gives {column.shape[1]} columns instead of one.")
        values[known, j] = column[:, 0]
    names = pd.Index([response.name for response in responses])
    return _checked(pd.DataFrame(values, index=frame.index, columns=names))


def from_table(Y: Any, index: pd.Index) -> pd.DataFrame:
    """Read the table given as ``Y=`` and line its rows up with the data.

    Parameters
    ----------
    Y : DataFrame, Series or array, n x p
        An array gets traits y1 .. yp.
    index : pandas.Index, length n
        Row labels of the data.

    Returns
    -------
    pandas.DataFrame, n x p, float64
        With `index`.

    Raises
    ------
    DataError
        For another number of rows, row labels that contradict those of the data, traits that are not numeric,
        infinite values, or a trait name used twice.
    """
    if isinstance(Y, pd.Series):
        Y = Y.to_frame(name="y1" if Y.name is None else Y.name)
    if isinstance(Y, list | tuple):
        Y = np.asarray(Y)
    if isinstance(Y, np.ndarray):
        if Y.ndim not in (1, 2):
            raise DataError(f"Y must have one row per row of data and one column per trait, got {Y.ndim} dimensions.")
        Y = Y[:, None] if Y.ndim == 1 else Y
        Y = pd.DataFrame(Y, columns=[f"y{j + 1}" for j in range(Y.shape[1])])
    else:
        opened = open_frame(Y, "Y")
        Y = opened if isinstance(opened, pd.DataFrame) else take_columns(opened, opened.columns, "Y")
    if Y.shape[1] == 0:
        raise DataError("Y has no columns, so there is no trait.")
    order = _row_order(Y.index, index, "Y")
    values = _numbers(Y)
    if order is not None:
        values = values[order]
    return _checked(pd.DataFrame(values, index=index, columns=Y.columns))


def aligned_vector(values: Any, index: pd.Index, name: str) -> np.ndarray:
    """Line a weights-like argument up with the data; see `from_table` for the rules.

    Parameters
    ----------
    values : array or Series, length n
    index : pandas.Index, length n
    name : str

    Returns
    -------
    numpy.ndarray, length n, float64
    """
    column = values if isinstance(values, pd.Series) else pd.Series(np.asarray(values).reshape(-1))
    order = _row_order(column.index, index, name)
    numbers = _numbers(column.to_frame(name=name))[:, 0]
    return numbers if order is None else numbers[order]


def _row_order(given: pd.Index, index: pd.Index, name: str) -> np.ndarray | None:
    if len(given) != len(index):
        raise DataError(f"{name} has {len(given)} rows, data has {len(index)}. Give one row per row of data.")
    if given.equals(index):
        return None
    if _is_default(given) or _is_default(index):
        # A shuffled or sorted table beside data that only count their rows.
        if not _is_default(given) and given.is_unique and given.isin(index).all():
            raise DataError(
                f"{name} has the row labels of data in another order, and those of data only count rows: it is unclear "
                f"whether rows go by label or by position. By label: give {name}.loc[data.index]; by position: "
                f"{name}.reset_index(drop=True)."
            )
        return None
    if given.is_unique and index.is_unique:
        order = given.get_indexer(index)
        if (order >= 0).all():
            return order
    missing = index[~index.isin(given)]
    shown = f"{name} lacks {shortlist(missing)}" if len(missing) else "labels repeat, in another order"
    raise DataError(
        f"row labels of {name} and data disagree ({shown}). Give them the same index, or drop both by "
        ".reset_index(drop=True) when the rows correspond one to one."
    )


def _is_default(index: pd.Index) -> bool:
    return isinstance(index, pd.RangeIndex) and index.start == 0 and index.step == 1


def _numbers(table: pd.DataFrame) -> np.ndarray:
    """Float64 copy in C order; integers and booleans become 0.0, 1.0, ..."""
    kinds = {dtype: types.is_numeric_dtype(dtype) or types.is_bool_dtype(dtype) for dtype in set(table.dtypes)}
    kinds |= {dtype: False for dtype in kinds if types.is_complex_dtype(dtype)}
    if not all(kinds.values()):
        wrong = [name for name, dtype in zip(table.columns, table.dtypes, strict=True) if not kinds[dtype]]
        found = shortlist(sorted({str(dtype) for dtype, good in kinds.items() if not good}))
        raise DataError(
            f"not numeric: {shortlist(wrong)} (dtype {found}). Convert with pandas.to_numeric first; for categories in "
            "an order (link='ordinal') use the numbers that pandas gives them, frame[name].cat.codes."
        )
    return np.array(table.to_numpy(dtype=np.float64, na_value=np.nan), order="C")


def _checked(Y: pd.DataFrame) -> pd.DataFrame:
    if not Y.columns.is_unique:
        twice = shortlist(Y.columns[Y.columns.duplicated()].unique())
        raise DataError(f"more than one trait is named {twice}. Rename them.")
    values = Y.to_numpy()
    bad = np.isinf(values)
    if bad.any():
        row, column = (int(i) for i in np.argwhere(bad)[0])
        raise DataError(
            f"response '{Y.columns[column]}' is infinite in row {str(Y.index[row])!r} ({int(bad.sum())} infinite "
            "values in all). Correct it or set it to NaN."
        )
    return Y


def refuse_empty_traits(Y: pd.DataFrame) -> None:
    """Refuse traits without a single value among the kept rows.

    Parameters
    ----------
    Y : pandas.DataFrame

    Raises
    ------
    DataError
    """
    empty = np.isnan(Y.to_numpy()).all(axis=0)
    if empty.any():
        raise DataError(f"no values at all (all NaN) in trait {shortlist(Y.columns[empty])}. Leave it out.")
