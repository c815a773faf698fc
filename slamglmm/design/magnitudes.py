"""Responses and covariates whose numbers leave no result: too large, too small, or nothing left to explain."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from ..errors import DataError

# What least squares leave of a response that the covariates explain exactly is below this share of it: rounding.
EXACT = 1e-13
# Columns with larger numbers leave the range in which squares can be summed.
LARGEST_COLUMN = 1e140
# Values whose squares, summed over a million rows, float64 holds.
SMALLEST_VALUE, LARGEST_VALUE = 1e-150, 1e151


def refuse_unusable(
    y: np.ndarray, residuals: np.ndarray, names: Sequence[object], largest: float, weighted: bool = False
) -> None:
    """Refuse a response that the fixed effects explain exactly, or whose squares a computer cannot hold.

    Parameters
    ----------
    y, residuals : ndarray, shape (n, t)
        Responses, and what least squares leave of them; NaN where missing.
    names : sequence, length t
    largest : float
        Largest typical residual; its inverse is the smallest.
    weighted : bool
        Whether the rows were multiplied by the roots of observation weights.

    Raises
    ------
    DataError
    """
    for name, values, rest in zip(names, y.T, residuals.T, strict=True):
        whole, left = _size(values), _size(rest)
        if left <= EXACT * whole:
            known = values[~np.isnan(values)]
            if not weighted and np.ptp(known) == 0:
                raise DataError(f"response '{name}' is {known[0]:g} in all {len(known)} rows; nothing to explain.")
            raise DataError(
                f"response '{name}' is explained exactly by the fixed effects; nothing is left to estimate variances "
                "or other effects from. Is a covariate computed from the response?"
            )
        what = f"response '{name}'" + (", times the roots of its weights," if weighted else "")
        also = "Or divide the weights by their mean." if weighted else ""
        refuse_extreme(f"{what} has a standard deviation beyond the fixed effects of", left, 1 / largest, largest, also)


def refuse_extreme(what: str, size: float, smallest: float, largest: float, also: str = "") -> None:
    """Refuse data in a unit in which variances, or their squares, are infinite or zero.

    Parameters
    ----------
    what : str
        Start of the message, which goes on with `size`: "response 'y' has values up to".
    size, smallest, largest : float
    also : str
        What else may help.

    Raises
    ------
    DataError
    """
    if smallest < size < largest:
        return
    unit = f"Change its unit: divide by {size:.0e}, say. {also}".rstrip()
    raise DataError(
        f"{what} {size:.3g}, too {'large' if size > largest else 'small'} for variances, which are squares: expected "
        f"sizes from {smallest:.0e} to {largest:.0e}. {unit}"
    )


def refuse_extreme_responses(Y: pd.DataFrame) -> None:
    """Refuse responses in such a unit before anything is known of the fixed effects; all zeros pass.

    Parameters
    ----------
    Y : DataFrame, n x p
        NaN where missing.

    Raises
    ------
    DataError
    """
    for name, values in Y.items():
        size = float(np.abs(values.to_numpy()[values.notna()]).max(initial=0.0))
        if size:
            refuse_extreme(f"response '{name}' has values up to", size, SMALLEST_VALUE, LARGEST_VALUE)


def refuse_huge_columns(X: np.ndarray, names: Sequence[object]) -> None:
    """Refuse fixed effects whose squares overflow.

    Parameters
    ----------
    X : ndarray, shape (n, b)
    names : sequence, length b

    Raises
    ------
    DataError
    """
    for name, size in zip(names, np.abs(X).max(axis=0, initial=0.0), strict=True):
        if size > LARGEST_COLUMN:
            raise DataError(
                f"fixed-effect column '{name}' has values up to {size:.3g}, whose squares overflow. Divide it by a "
                "constant first."
            )


def _size(values: np.ndarray) -> float:
    """Root mean square of the numbers that are not missing, whatever their magnitude."""
    known = values[~np.isnan(values)]
    largest = float(np.abs(known).max(initial=0.0))
    return largest * float(np.sqrt(np.mean((known / largest) ** 2))) if largest else 0.0
