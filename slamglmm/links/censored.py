"""Values known only to lie in an interval: below a detection limit, after the end of a study, between two visits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import numpy as np
import pandas as pd

from ..errors import DataError, OptionError, shortlist
from ..linalg.truncated_normal import draw_truncated_normal
from ..options import is_number, shown
from .base import Likelihood, Link, Measurements, Parameters, fill_gaps, residual_scales
from .data_scale import DataScale, IdentityScale


@dataclass(frozen=True, eq=False)
class Censored(Link):
    """``y_ij = eta_ij`` where measured; elsewhere eta lies in a known interval; eq. LINK-35.

    Parameters
    ----------
    left : number, dict or Series, array or DataFrame, optional
        Limit of detection: a value at or below it says only that eta is at most the limit. One number, one for each
        trait by name, one for each row of the data, or one for each cell (rows of a DataFrame by label).
    right : same, optional
        A value at or above it says only that eta is at least the limit.
    upper : array or DataFrame, optional
        Upper ends of intervals, one for each cell: where given, eta lies between the value and this (no value: below
        this; infinite: above the value), whatever `left` and `right` say. NaN, or the value itself, elsewhere.
    """

    left: Any = field(default=None, repr=False)
    right: Any = field(default=None, repr=False)
    upper: Any = field(default=None, repr=False)

    by_row: ClassVar[tuple[str, ...]] = ("left", "right", "upper")
    by_trait: ClassVar[tuple[str, ...]] = ("left", "right")

    def prepare(self, data: Measurements) -> CensoredLikelihood:
        """Sort cells into measured, censored and missing; an offset comes off."""
        if self.left is None and self.right is None and self.upper is None:
            raise OptionError("censored: nothing is censored. Give left=, right= or upper=, or use 'identity'.")
        values = data.by_column
        left = _limits("left", self.left, data, -np.inf)
        right = _limits("right", self.right, data, np.inf)
        if np.any(left >= right):
            j, i = np.argwhere(left >= right)[0]
            raise OptionError(
                f"censored: left={left[j, i]:g} is not below right={right[j, i]:g} for '{data.columns[j]}' in row "
                f"{data.rows[i]} (counted from 0)."
            )
        width = np.full(values.shape, np.nan)
        if self.upper is not None:
            upper = data.by_cell("upper", self.upper)
            _check_intervals(values, upper, data)
            given = ~np.isnan(upper) & (upper != values)
            only_above, only_below = given & np.isposinf(upper), given & np.isnan(values)
            right = np.where(only_above, values, np.where(given, np.inf, right))
            left = np.where(only_below, upper, np.where(given, -np.inf, left))
            values = np.where(only_below, upper, values)
            width = np.where(given & ~only_above & ~only_below, upper - values, np.nan)
        scheme = CensoringScheme(left - data.offset, right - data.offset, values - data.offset, width)
        values = values - data.offset
        lower, upper = scheme.bounds(values)
        # Where a limit is all there is, start there.
        with np.errstate(invalid="ignore"):
            near = np.where(np.isneginf(lower), upper, np.where(np.isposinf(upper), lower, 0.5 * (lower + upper)))
        near = np.where(np.isnan(values), np.nan, near)
        coef, scale = residual_scales(near, data)
        start = fill_gaps(near, coef @ data.fixed.flat)
        known = lower == upper
        return CensoredLikelihood(
            data.columns, start, known, ~np.isnan(values), coef, scale, lower, upper, scheme, data.offset
        )


def _limits(name: str, option: Any, data: Measurements, default: float) -> np.ndarray:
    """A limit for each cell, shape (q, n)."""
    if option is None:
        return np.full((len(data.columns), len(data.rows)), default)
    if isinstance(option, Mapping | pd.Series):
        limits_of = dict(option)
        unknown = [key for key in limits_of if key not in data.columns]
        if unknown:
            raise OptionError(f"censored: {name}= names {shortlist(unknown)}, not among {shortlist(data.columns)}.")
        wrong = [key for key, limit in limits_of.items() if not is_number(limit) or np.isnan(limit)]
        if wrong:
            raise OptionError(
                f"censored: {name}= has {shown(limits_of[wrong[0]])} for {str(wrong[0])!r}: expected a number. Leave "
                "out a trait without a limit."
            )
        by_trait = np.array([float(limits_of.get(key, default)) for key in data.columns])
        return np.broadcast_to(by_trait[:, None], (len(data.columns), len(data.rows))).copy()
    limits = data.by_cell(name, option)
    if np.isnan(limits).all():
        raise OptionError(
            f"censored: {name}= is NaN everywhere, so it says nothing: expected limits (NaN only in cells without)."
        )
    return np.where(np.isnan(limits), default, limits)


def _check_intervals(values: np.ndarray, upper: np.ndarray, data: Measurements) -> None:
    reversed_ = upper < values
    if reversed_.any():
        j, i = np.argwhere(reversed_)[0]
        raise DataError(
            f"censored: the interval of '{data.columns[j]}' in row {data.rows[i]} (counted from 0) goes from "
            f"{values[j, i]:g} to {upper[j, i]:g}, and {int(reversed_.sum()) - 1} more like it. Give upper= values at "
            "or above those of the data."
        )


@dataclass(frozen=True)
class CensoringScheme:
    """What becomes of a value, for each cell, shape (p, n).

    Attributes
    ----------
    left, right : ndarray
        Limits; infinite without.
    origin, width : ndarray
        Inspection at ``origin + i width``, i whole; a width of NaN is measurement.
    """

    left: np.ndarray
    right: np.ndarray
    origin: np.ndarray
    width: np.ndarray

    def bounds(self, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Between which numbers eta lies: the value itself twice where measured, infinite where missing."""
        start = self._last_visit(values)
        lower = np.where(np.isnan(start), values, start)
        upper = np.where(np.isnan(start), values, start + self.width)
        lower = np.where(values <= self.left, -np.inf, np.where(values >= self.right, self.right, lower))
        upper = np.where(values <= self.left, self.left, np.where(values >= self.right, np.inf, upper))
        missing = np.isnan(values)
        return np.where(missing, -np.inf, lower), np.where(missing, np.inf, upper)

    def values(self, eta: np.ndarray) -> np.ndarray:
        """What is written down for a latent trait."""
        start = self._last_visit(eta)
        return np.clip(np.where(np.isnan(start), eta, start), self.left, self.right)

    def _last_visit(self, values: np.ndarray) -> np.ndarray:
        # A little more, so that a visit's own value belongs to it after rounding.
        return self.origin + np.floor((values - self.origin) / self.width + 1e-9) * self.width


@dataclass(frozen=True)
class CensoredLikelihood(Likelihood):
    """Measured cells are known, censored ones lie between bounds.

    Attributes
    ----------
    lower, upper : ndarray, shape (p, n)
        Bounds of eta.
    scheme : CensoringScheme
    offset : ndarray, shape (n,)
    """

    lower: np.ndarray
    upper: np.ndarray
    scheme: CensoringScheme
    offset: np.ndarray

    def draw(
        self,
        eta: np.ndarray,
        mean: np.ndarray,
        prec: np.ndarray,
        parameters: Parameters,
        traits: slice,
        rng: np.random.Generator,
    ) -> None:
        """Normal between the bounds; eq. LINK-35."""
        rows, columns = np.nonzero(~self.known[traits])
        sd, center = 1.0 / np.sqrt(prec[rows]), mean[rows, columns]
        lower, upper = self.lower[traits][rows, columns], self.upper[traits][rows, columns]
        drawn = center + sd * draw_truncated_normal((lower - center) / sd, (upper - center) / sd, rng)
        # Rounding of an interval far from the mean.
        eta[rows, columns] = np.clip(drawn, lower, upper)

    def log_density(self, eta: np.ndarray, parameters: Parameters) -> np.ndarray:
        """Zero within the bounds, minus infinity outside."""
        inside = np.where((self.lower <= eta) & (eta <= self.upper), 0.0, -np.inf)
        return np.where(self.informative, inside, np.nan)

    def simulate(self, eta: np.ndarray, parameters: Parameters, rng: np.random.Generator) -> np.ndarray:
        """Eta and the offset, cut at limits; for an interval its lower end, visits being equally spaced."""
        return np.where(self.informative, self.scheme.values(eta) + self.offset, np.nan)

    def with_data(self, data: np.ndarray) -> CensoredLikelihood:
        """Other values under the same limits and visits; cells that are known stay known, as the sampler needs."""
        values = np.where(self.informative, data - self.offset, np.nan)
        lower, upper = self.scheme.bounds(values)
        return replace(self, lower=lower, upper=upper, start=np.where(self.known, values, self.start))

    def data_scales(self) -> tuple[DataScale, ...]:
        """Of the values before censoring."""
        return (IdentityScale(),) * len(self.traits)
