"""Latent traits seen with a known precision in each cell, such as log-counts with voom's weights."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from ..errors import DataError, OptionError, shortlist
from .base import Likelihood, Link, Measurements, Parameters, center_and_scale
from .data_scale import DataScale, IdentityScale
from .pseudo import draw_given_pseudo


@dataclass(frozen=True, eq=False)
class GaussianWeights(Link):
    """``y_ij ~ N(eta_ij, 1 / w_ij)`` with known weights.

    Parameters
    ----------
    weights : number, array or DataFrame
        Precision of each cell, in 1 / (units of y)^2: rows as in the data, columns as the traits. 0 is the same as a
        missing value, infinity says ``y_ij = eta_ij``.
    """

    weights: Any = field(repr=False)

    def prepare(self, data: Measurements) -> WeightedLikelihood:
        """Cells start between the trait's mean and their value, by what the value is worth; an offset comes off."""
        values = data.by_column - data.offset
        weights = data.by_cell("weights", self.weights)
        bad = np.isnan(weights) & ~np.isnan(values) | (weights < 0)
        if bad.any():
            j, i = np.argwhere(bad)[0]
            raise OptionError(
                f"weights: expected precisions of at least 0 (0 where missing), got {weights[j, i]} for "
                f"'{data.columns[j]}' in row {data.rows[i]} (counted from 0), and {int(bad.sum()) - 1} more like it."
            )
        weights = np.where(np.isnan(values), 0.0, weights)
        silent = ~(weights > 0).any(axis=1)
        if silent.any():
            raise DataError(
                f"trait(s) {shortlist(np.array(data.columns)[silent])} have zero weight in every row with a value. "
                "Leave them out, or give them weights."
            )
        values = np.where(weights > 0, values, np.nan)
        center_and_scale(values, data.columns)
        center, scale = spread_beyond_noise(values, weights)
        known = np.isinf(weights)
        finite = np.where(known, 0.0, weights)
        filled = np.where(weights > 0, values, center[:, None])
        with np.errstate(divide="ignore"):
            trust = scale[:, None] ** 2 / (scale[:, None] ** 2 + 1.0 / weights)
        start = np.where(known, filled, center[:, None] + trust * (filled - center[:, None]))
        return WeightedLikelihood(
            data.columns, start, known, weights > 0, center, scale, finite, finite * filled, data.offset
        )


def spread_beyond_noise(values: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of what was seen with noise of variance 1/w, trait by trait (Paule & Mandel 1982).

    With infinite weights they are the mean and the standard deviation of the values. The variance is at least a
    twentieth of the noise's (of the mean precision).

    Parameters
    ----------
    values, weights : ndarray, shape (p, n)
        Values NaN where the weight is zero.
    """
    seen = weights > 0
    y = np.where(seen, values, 0.0)
    with np.errstate(divide="ignore"):
        noise = np.where(seen, 1.0 / weights, np.inf)
        floor = 0.05 * seen.sum(axis=1) / weights.sum(axis=1)
    degrees = seen.sum(axis=1) - 1
    plain = np.where(seen, y - (y.sum(axis=1) / (degrees + 1))[:, None], 0.0)
    # Never beyond the plain variance: the sum below falls as the variance grows, so halving finds its place.
    low, high = np.zeros(len(y)), 2.0 * np.square(plain).sum(axis=1) / degrees
    for _ in range(40):
        variance = 0.5 * (low + high)
        precision = 1.0 / (variance[:, None] + noise)
        center = (precision * y).sum(axis=1) / precision.sum(axis=1)
        scatter = (precision * (y - center[:, None]) ** 2).sum(axis=1)
        low, high = np.where(scatter > degrees, variance, low), np.where(scatter > degrees, high, variance)
    variance = np.maximum(0.5 * (low + high), floor)
    precision = 1.0 / (variance[:, None] + noise)
    return (precision * y).sum(axis=1) / precision.sum(axis=1), np.sqrt(variance)


@dataclass(frozen=True)
class WeightedLikelihood(Likelihood):
    """Data with known precision.

    Attributes
    ----------
    weights, weighted : ndarray, shape (p, n)
        w, and w y; zero in missing and in known cells.
    offset : ndarray, shape (n,)
    """

    weights: np.ndarray
    weighted: np.ndarray
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
        """The model's mean and the data, weighted by their precisions; eq. LINK-2."""
        draw_given_pseudo(eta, self.weighted[traits], self.weights[traits], mean, prec, rng)

    def log_density(self, eta: np.ndarray, parameters: Parameters) -> np.ndarray:
        """Normal log density; zero where the weight is infinite."""
        w = np.where(self.weights > 0, self.weights, 1.0)
        density = 0.5 * np.log(w / (2 * np.pi)) - 0.5 * w * (self.weighted / w - eta) ** 2
        return np.where(self.known, 0.0, np.where(self.informative, density, np.nan))

    def simulate(self, eta: np.ndarray, parameters: Parameters, rng: np.random.Generator) -> np.ndarray:
        """Eta, the offset, and noise of the given precision."""
        with np.errstate(divide="ignore"):
            sd = np.where(self.known, 0.0, 1.0 / np.sqrt(self.weights))
        noise = rng.standard_normal(eta.shape) * np.where(self.informative, sd, np.nan)
        return eta + self.offset + noise

    def with_data(self, data: np.ndarray) -> WeightedLikelihood:
        """The same weights."""
        values = data - self.offset
        return replace(
            self,
            start=np.where(self.known, values, self.start),
            weighted=np.where(self.weights > 0, self.weights * values, 0.0),
        )

    def data_scales(self) -> tuple[DataScale, ...]:
        """The latent traits themselves."""
        return (IdentityScale(),) * len(self.traits)
