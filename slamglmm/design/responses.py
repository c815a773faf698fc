"""Responses: columns named in the formula, or a table given as ``Y=`` that may hold thousands of traits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from ..errors import DataError, shortlist
from .bars import Response
from .columns import is_number, missing_rows, numbers_of, open_frame, take_columns, tidy
from .encoding import encode, expression_term
from .row_labels import RowLabels, counts_rows


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
        known = ~missing_rows({column: frame[column] for column in columns}, len(frame))[0]
        if not known.any():
            continue
        term = expression_term(response.piece, formula)
        column, _ = encode([term], tidy(frame.loc[known, list(columns)]), columns, formula, {}, context)
        if column.shape[1] != 1:
            raise DataError(f"response '{response.name}' gives {column.shape[1]} columns instead of one.")
        values[known, j] = column[:, 0]
    names = pd.Index([response.name for response in responses])
    return _checked(pd.DataFrame(values, index=frame.index, columns=names))


def from_table(Y: Any, rows: RowLabels) -> tuple[pd.DataFrame, str | None]:
    """Read the table given as ``Y=`` and line its rows up with the data.

    Parameters
    ----------
    Y : DataFrame, Series or array, n x p
        An array gets traits y1 .. yp.
    rows : RowLabels
        Of the data.

    Returns
    -------
    pandas.DataFrame, n x p, float64
        With the index of the data.
    str or None
        How rows were matched, where that needs saying.

    Raises
    ------
    DataError
        For rows that are not those of the data (see `RowLabels.match`), traits that are not numeric, infinite values,
        or a trait name used twice.
    """
    labels = _own_labels(Y)
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
    order, note = rows.match(labels, len(Y), "Y")
    values = _numbers(Y)
    if len(order) != len(values) or not np.array_equal(order, np.arange(len(order))):
        values = values[order]
    return _checked(pd.DataFrame(values, index=rows.index, columns=Y.columns)), note


def aligned_vector(values: Any, rows: RowLabels, name: str) -> tuple[np.ndarray, str | None]:
    """Line a weights-like argument up with the data; see `from_table` for the rules.

    Parameters
    ----------
    values : array or Series, length n
    rows : RowLabels
    name : str

    Returns
    -------
    numpy.ndarray, length n, float64
    str or None
        How rows were matched, where that needs saying.
    """
    column = values if isinstance(values, pd.Series) else pd.Series(np.asarray(values).reshape(-1))
    order, note = rows.match(_own_labels(values), len(column), name)
    return _numbers(column.to_frame(name=name))[order, 0], note


def _own_labels(table: Any) -> pd.Index | None:
    """Row labels that the user gave: none of arrays, of frames other than pandas', and of columns in a dict."""
    if isinstance(table, pd.DataFrame | pd.Series):
        return table.index
    if isinstance(table, Mapping):
        index = open_frame(table, "Y").index
        return None if counts_rows(index) else index
    return None


def _numbers(table: pd.DataFrame) -> np.ndarray:
    """Float64 copy in C order; integers and booleans become 0.0, 1.0, ..."""
    if all(isinstance(dtype, np.dtype) and is_number(dtype) for dtype in set(table.dtypes)):
        return np.array(table.to_numpy(dtype=np.float64), order="C")
    columns = [numbers_of(table.iloc[:, j]) for j in range(table.shape[1])]
    wrong = [j for j, values in enumerate(columns) if values is None]
    if wrong:
        found = shortlist(sorted({str(table.dtypes.iloc[j]) for j in wrong}))
        raise DataError(
            f"not numeric: {shortlist(table.columns[wrong])} (dtype {found}). Convert with pandas.to_numeric first, "
            "dates to days or seconds; for categories in an order (link='ordinal') use the numbers that pandas gives "
            "them, frame[name].cat.codes."
        )
    return np.array(np.column_stack([values for values in columns if values is not None]), order="C")


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
