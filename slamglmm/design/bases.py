"""Bases of curves that formulaic does not have; known to every formula by name."""

from __future__ import annotations

from typing import Any

import numpy as np
from formulaic.materializers.types import FactorValues
from formulaic.transforms import TRANSFORMS
from formulaic.utils.stateful_transforms import stateful_transform
from scipy.interpolate import BSpline


@stateful_transform
def bs_diff(
    x: Any,
    df: int,
    degree: int = 3,
    differences: int = 1,
    periodic: bool = False,
    lower_bound: float | None = None,
    upper_bound: float | None = None,
    extrapolation: str = "raise",
    _state: dict[str, Any] = {},  # noqa: B006 (the decorator hands in one of the formula's own)
) -> FactorValues[dict[int, np.ndarray]]:
    """B-splines in terms of successive differences of their coefficients, so that shrinkage makes curves smooth.

    With the formula's intercept the columns span the same curves as ``bs(x, df)``: the intercept is the mean of the
    ``df + 1`` B-spline coefficients, column i the difference between coefficients i + 1 and i. With ``differences=2``
    the first column is the mean slope of the coefficients and the others are second differences, and so on.

    Parameters
    ----------
    x : array, length n
    df : int
        Columns.
    degree : int
        Of the polynomial pieces.
    differences : int
        Order of the differences.
    periodic : bool
        Whether curves close smoothly over [lower_bound, upper_bound]; knots are then evenly spaced.
    lower_bound, upper_bound : float, optional
        Range of x; that of the data unless given.
    extrapolation : str
        What to do beyond it when not periodic; see formulaic's ``bs``.
    """
    x = np.asarray(x, dtype=float)
    if not 1 <= differences <= df:
        raise ValueError(f"differences={differences!r}: expected an order from 1 to df = {df}.")
    if periodic:
        splines = _periodic_splines(x, df + 1, degree, lower_bound, upper_bound, _state)
    else:
        full = TRANSFORMS["bs"](
            x,
            df=df + 1,
            degree=degree,
            include_intercept=True,
            lower_bound=lower_bound,
            upper_bound=upper_bound,
            extrapolation=extrapolation,
            _state=_state,
        )
        splines = np.column_stack([full[i] for i in sorted(full)])
    columns = splines @ coefficients_of_differences(df + 1, differences)
    return FactorValues(
        {i + 1: columns[:, i] for i in range(df)},
        kind="numerical",
        spans_intercept=False,
        format="{name}[{field}]",
        encoded=False,
    )


def coefficients_of_differences(n: int, order: int) -> np.ndarray:
    """Matrix that turns powers of the index and differences of the given order into n centred coefficients.

    Parameters
    ----------
    n : int
    order : int

    Returns
    -------
    ndarray, shape (n, n - 1)
        Powers 1 .. order - 1 of the centred index, then columns orthogonal to these and to the constant.
    """
    steps = np.diff(np.eye(n), order, axis=0)
    index = np.arange(n) - 0.5 * (n - 1)
    powers = np.column_stack([index**i for i in range(order)])
    trend = powers[:, 1:] - powers[:, 1:].mean(axis=0)
    return np.concatenate((trend, steps.T @ np.linalg.inv(steps @ steps.T)), axis=1)


def _periodic_splines(
    x: np.ndarray, n: int, degree: int, lower: float | None, upper: float | None, state: dict[str, Any]
) -> np.ndarray:
    """B-splines on n evenly spaced knots of a circle, shape (len(x), n)."""
    if "period" not in state:
        state["period"] = (
            float(np.nanmin(x)) if lower is None else float(lower),
            float(np.nanmax(x)) if upper is None else float(upper),
        )
    start, stop = state["period"]
    if not stop > start or n <= degree:
        raise ValueError(f"a periodic basis needs lower_bound < upper_bound and df >= degree, got {start:g}, {stop:g}.")
    width = (stop - start) / n
    knots = start + width * np.arange(-degree, n + degree + 1)
    # The remainder may come out as the period itself.
    inside = start + np.minimum(np.mod(x - start, stop - start), np.nextafter(stop - start, 0))
    unrolled = BSpline.design_matrix(inside, knots, degree).toarray()
    unrolled[:, :degree] += unrolled[:, n:]
    return unrolled[:, :n]
