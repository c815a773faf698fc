"""Markers of new rows: lined up with those of the fit, and multiplied by their effects."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from .._kernels.columns import add_columns
from ..design.row_labels import RowLabels
from ..errors import DataError, shortlist
from ..genotypes import Markers, read_markers


def marker_part(markers: Any, coef: pd.DataFrame, means: np.ndarray, newdata: Any) -> np.ndarray:
    """``G coef`` in new rows.

    Parameters
    ----------
    markers : whatever `genotypes.read_markers` takes
        Of the new rows, or of more.
    coef : DataFrame, m x p
        Effects of one unit of dosage, labelled by the markers of the fit.
    means : ndarray, length m
        Mean dosages in the fit, which stand for missing genotypes.
    newdata : DataFrame
        The new rows, whose index or a column of which says who they are.

    Returns
    -------
    ndarray, len(newdata) x p
    """
    table = _same_markers(markers, coef.index, means)
    rows = RowLabels.of(newdata, "newdata")
    at, _ = rows.match(table.labels, table.n, "markers", repeats=True, by_position=table.by_position)
    # Rows of a .bed are picked afterwards, those of unpacked markers before.
    table, at = (table, at) if table.packed else (table.take(at), np.arange(len(at)))
    out = np.zeros((coef.shape[1], table.n))
    effects = np.ascontiguousarray(coef.to_numpy(dtype=float).T)
    add_columns(table.columns(fill=means), effects, np.empty(0), out)
    return out[:, at].T


def _same_markers(markers: Any, names: pd.Index, means: np.ndarray) -> Markers:
    """New markers, in the order of the fit's."""
    if isinstance(markers, pd.DataFrame):
        absent = names.difference(markers.columns)
        if len(absent):
            raise DataError(f"markers lack {len(absent)} of the {len(names)} of the fit: {shortlist(absent)}.")
        markers = markers[names]
    table = read_markers(markers, fill=means)
    if table.m != len(names):
        raise DataError(f"markers have {table.m} columns; the fit had {len(names)}.")
    if not table.names.equals(names) and not isinstance(table.names, pd.RangeIndex):
        first = int(np.argmax(np.asarray(table.names != names)))
        raise DataError(
            f"markers are not those of the fit: marker {first + 1} is {str(table.names[first])!r}, "
            f"expected {str(names[first])!r}."
        )
    return table
