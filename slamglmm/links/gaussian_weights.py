"""Latent traits seen with a known precision in each cell, such as log-counts with voom's weights."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import numpy as np

from ..errors import DataError, OptionError, shortlist
from ..linalg.fixed_part import weighted_regression
from .base import Likelihood, Link, Measurements, Parameters, residual_scales
from .data_scale import DataScale, IdentityScale
from .pseudo import draw_given_pseudo


@dataclass(frozen=True, eq=False)
class GaussianWeights(Link):
    """``y_ij ~ N(eta_ij, 1 / w_ij)`` with known weights.

    Parameters
    ----------
    weights : number, array or DataFrame
        Precision of each cell, in 1 / (units of y)^2: rows as in the data (by label, or in the same order), columns as
        the traits. 0 is the same as a missing value, infinity says ``y_ij = eta_ij``.
    """

    weights: Any = field(repr=False)

    by_row: ClassVar[tuple[str, ...]] = ("weights",)
    example: ClassVar[str] = "GaussianWeights(weights), the precision 1 / variance of each cell"

    def prepare(self, data: Measurements) -> WeightedLikelihood:
        """Cells start between the fixed effects and their value, by what the value is worth; an offset comes off."""
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
        _, plain = residual_scales(values, data)
        coef, scale = np.empty((len(values), data.fixed.b)), np.empty(len(values))
        for traits, design in data.fixed.designs(data.columns):
            joint, scale[traits] = spread_beyond_noise(values[traits], weights[traits], design, plain[traits])
            coef[traits] = joint[:, : data.fixed.b]
        known = np.isinf(weights)
        finite = np.where(known, 0.0, weights)
        base = coef @ data.fixed.flat
        filled = np.where(weights > 0, values, base)
        with np.errstate(divide="ignore"):
            trust = scale[:, None] ** 2 / (scale[:, None] ** 2 + 1.0 / weights)
        start = np.where(known, filled, base + trust * (filled - base))
        return WeightedLikelihood(
            data.columns, start, known, weights > 0, coef, scale, finite, finite * filled, data.offset
        )


def spread_beyond_noise(
    values: np.ndarray, weights: np.ndarray, design: np.ndarray, plain: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Regression of what was seen with noise of variance 1/w, and the standard deviation beyond it and the noise.

    Trait by trait, by moments (Paule & Mandel 1982). With infinite weights it is least squares. The variance is at
    least a twentieth of the noise's (of the mean precision).

    Parameters
    ----------
    values, weights : ndarray, shape (p, n)
        Values NaN where the weight is zero.
    design : ndarray, shape (q, n)
    plain : ndarray, shape (p,)
        Standard deviation that least squares leave.

    Returns
    -------
    coef : ndarray, shape (p, q)
    scale : ndarray, shape (p,)
    """
    seen = weights > 0
    with np.errstate(divide="ignore"):
        noise = np.where(seen, 1.0 / weights, np.inf)
        floor = 0.05 * seen.sum(axis=1) / weights.sum(axis=1)
    y = np.where(seen, values, 0.0)
    rank = np.linalg.matrix_rank(design)
    ranks = [rank if cells.all() else np.linalg.matrix_rank(design[:, cells]) for cells in seen]
    degrees = seen.sum(axis=1) - np.array(ranks)
    # Hardly beyond the plain variance: the sum below falls as the variance grows, so halving finds its place.
    low, high = np.zeros(len(y)), 2.0 * plain**2
    for _ in range(40):
        variance = 0.5 * (low + high)
        precision = 1.0 / (variance[:, None] + noise)
        rest = y - weighted_regression(design, y, precision) @ design
        scatter = (precision * rest**2).sum(axis=1)
        low, high = np.where(scatter > degrees, variance, low), np.where(scatter > degrees, high, variance)
    variance = np.maximum(0.5 * (low + high), floor)
    return weighted_regression(design, y, 1.0 / (variance[:, None] + noise)), np.sqrt(variance)


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
