"""Counts of successes in a known number of trials, through the logit."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import numpy as np
from scipy.special import expit, gammaln

from .._kernels.counts import draw_binomial_eta
from ..errors import DataError, OptionError, shortlist
from ..linalg.fixed_part import likelihood_regression, weighted_regression
from .base import Likelihood, Link, Measurements, Parameters
from .counts import check_counts
from .data_scale import DataScale, LogitScale
from .log_concave import draw_cells


@dataclass(frozen=True, eq=False)
class Binomial(Link):
    """``y_ij ~ Binomial(trials_ij, 1 / (1 + exp(-eta_ij)))``.

    Parameters
    ----------
    trials : number, array, Series or DataFrame
        One for each row of the data (by label, or in the same order) or for each cell; 0 is the same as a missing
        count.
    """

    trials: Any = field(repr=False)

    by_row: ClassVar[tuple[str, ...]] = ("trials",)
    example: ClassVar[str] = (
        "Binomial(trials=frame['trials']), with the number of successes as response (R's cbind(successes, failures): "
        "trials is their sum); for a response of 0 and 1 link='bernoulli'"
    )

    def prepare(self, data: Measurements) -> BinomialLikelihood:
        """Start between the fixed effects and the logit of the cell, by what its trials are worth."""
        return _lay_out(data, self.trials)


@dataclass(frozen=True)
class Bernoulli(Link):
    """``y_ij`` is 1 with probability ``1 / (1 + exp(-eta_ij))``, otherwise 0."""

    def prepare(self, data: Measurements) -> BinomialLikelihood:
        """As for `Binomial` with one trial."""
        values = data.by_column
        bad = ~np.isnan(values) & (values != 0) & (values != 1)
        if bad.any():
            j, i = np.argwhere(bad)[0]
            raise DataError(
                f"link='bernoulli' takes 0 and 1, but '{data.columns[j]}' has {values[j, i]:g} in row {data.rows[i]} "
                "(counted from 0). Counts of several trials need slamglmm.links.Binomial(trials)."
            )
        return _lay_out(data, 1.0)


def _lay_out(data: Measurements, option: Any) -> BinomialLikelihood:
    y, trials = data.by_column, data.by_cell("trials", option)
    check_counts(y, data.columns, data.rows)
    seen = ~np.isnan(y)
    if np.isnan(trials[seen]).any() or (trials[seen] < 0).any() or (trials[seen] != np.floor(trials[seen])).any():
        raise OptionError("trials: expected whole numbers of at least 0 in every cell that has a count.")
    over = seen & (y > trials)
    if over.any():
        j, i = np.argwhere(over)[0]
        raise DataError(
            f"{int(over.sum())} cell(s) have more successes than trials (first: {y[j, i]:g} of {trials[j, i]:g} for "
            f"'{data.columns[j]}' in row {data.rows[i]}, counted from 0). The response is the number of successes."
        )
    seen &= trials > 0
    y, trials = np.where(seen, y, np.nan), np.where(seen, trials, 0.0)
    successes = np.where(seen, y, 0.0)
    n_trials = trials.sum(axis=1)
    flat = (successes.sum(axis=1) == 0) | (successes.sum(axis=1) == n_trials)
    if flat.any():
        raise DataError(
            f"trait(s) {shortlist(np.array(data.columns)[flat])} have only successes or only failures. Leave them out."
        )
    offset = np.broadcast_to(data.offset, y.shape)
    b = data.fixed.b
    coef, share, left = np.empty((len(y), b)), np.empty(y.shape), np.empty(len(y))
    for traits, design in data.fixed.designs(data.columns):
        joint = _logit_regression(successes[traits], trials[traits], offset[traits], design)
        coef[traits] = joint[:, :b]
        share[traits] = expit(offset[traits] + joint @ design)
        counts = seen[traits].sum(axis=1)
        left[traits] = np.maximum(counts - len(design), 1) / counts
    unit = np.where(seen, share * (1.0 - share), 0.0)
    # E (y - N m)^2 = N m (1-m) + N (N-1) (m (1-m))^2 v to first order, for a latent variance v.
    rest = np.where(seen, (successes - trials * share) ** 2, 0.0).sum(axis=1) / left
    pairs = (trials * (trials - 1.0) * unit**2).sum(axis=1)
    of_noise = (trials * unit).sum(axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        variance = np.where(pairs > 0, (rest - of_noise) / pairs, 1.0)
    noise = seen.sum(axis=1) / of_noise
    variance = np.clip(variance, np.where(pairs > 0, 0.05 * noise, 0.0), 4.0)
    base = coef @ data.fixed.flat
    guess = np.log((successes + 0.5) / (trials - successes + 0.5)) - offset
    worth = variance[:, None] / (variance[:, None] + 1.0 / np.maximum(trials * unit, 0.1))
    start = base + np.where(seen, worth * (guess - base), 0.0)
    known = np.zeros_like(seen)
    return BinomialLikelihood(data.columns, start, known, seen, coef, np.sqrt(variance), y, trials, offset)


def _logit_regression(successes: np.ndarray, trials: np.ndarray, offset: np.ndarray, design: np.ndarray) -> np.ndarray:
    """Coefficients of a logistic regression of each trait, shape (p, q)."""

    def slopes(eta: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        share = expit(eta + offset)
        return successes - trials * share, trials * share * (1.0 - share)

    share = (successes + 0.5) / (trials + 1.0)
    first = weighted_regression(design, np.log(share / (1.0 - share)) - offset, trials * share * (1.0 - share))
    return likelihood_regression(design, first, slopes)


@dataclass(frozen=True)
class BinomialLikelihood(Likelihood):
    """Successes y of a number of trials.

    Attributes
    ----------
    y : ndarray, shape (p, n)
        NaN where missing.
    trials, offset : ndarray, shape (p, n)
    """

    y: np.ndarray
    trials: np.ndarray
    offset: np.ndarray

    @property
    def residual_unseen(self) -> np.ndarray:
        """Traits of single trials: a residual beside that of the logistic law only changes the link's slope."""
        return np.asarray(self.trials.max(axis=1, initial=0.0) <= 1.0)

    def draw(
        self,
        eta: np.ndarray,
        mean: np.ndarray,
        prec: np.ndarray,
        parameters: Parameters,
        traits: slice,
        rng: np.random.Generator,
    ) -> None:
        """Each cell from its conditional law; eq. LINK-4."""
        data = (self.y[traits], self.trials[traits], self.offset[traits])
        draw_cells(draw_binomial_eta, data, self.informative[traits], eta, mean, prec, rng)

    def data_scales(self) -> tuple[DataScale, ...]:
        """The proportion of successes, of one trial."""
        return (LogitScale(),) * len(self.traits)

    def log_density(self, eta: np.ndarray, parameters: Parameters) -> np.ndarray:
        """Binomial log probability."""
        y, trials, logit = self.y, self.trials, eta + self.offset
        ways = gammaln(trials + 1.0) - gammaln(y + 1.0) - gammaln(trials - y + 1.0)
        return ways + y * logit - trials * np.logaddexp(0.0, logit)

    def simulate(self, eta: np.ndarray, parameters: Parameters, rng: np.random.Generator) -> np.ndarray:
        """Binomial counts."""
        successes = rng.binomial(self.trials.astype(np.int64), expit(eta + self.offset))
        return np.where(self.informative, successes, np.nan)

    def with_data(self, data: np.ndarray) -> BinomialLikelihood:
        """Other successes."""
        return replace(self, y=data)
