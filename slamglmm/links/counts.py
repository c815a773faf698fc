"""Counts without an upper limit: Poisson and negative binomial around ``exp(eta)``."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import numpy as np
import pandas as pd
from scipy.special import gammaln

from .._kernels.counts import draw_binomial_eta, draw_poisson_eta, sum_negative_binomial
from ..design.row_labels import counts_rows
from ..errors import DataError, OptionError, shortlist
from ..linalg.fixed_part import likelihood_regression, weighted_regression
from ..options import Options
from .base import Likelihood, Link, Measurements, Parameters
from .data_scale import CountScale, DataScale
from .log_concave import draw_cells

# Simulated counts stay below what NumPy can draw.
MOST_LOG_MEAN = 40.0
# Steps of the log dispersion, log-uniform between these: small for many rows, large for few.
STEPS = (0.05, 2.0)


@dataclass(frozen=True, eq=False)
class Poisson(Link):
    """``y_ij ~ Poisson(s_ij exp(eta_ij))``; what the model does not explain of eta is overdispersion.

    Parameters
    ----------
    size_factors : number, array, Series, DataFrame or "library", optional
        s: exposure, effort, or size of a library; one for each row of the data (by label, or in the same order) or for
        each cell. ``"library"`` takes the row sums of this link's columns over their mean.
    """

    size_factors: Any = field(default=None, repr=False)

    by_row: ClassVar[tuple[str, ...]] = ("size_factors",)

    def prepare(self, data: Measurements) -> PoissonLikelihood:
        """Start between the fixed effects and the logarithm of the count, by what a count of that mean is worth."""
        return PoissonLikelihood(**_lay_out(data, self.size_factors, np.zeros(len(data.columns))))


@dataclass(frozen=True, eq=False)
class NegativeBinomial(Link):
    """``y_ij`` has mean ``m = s_ij exp(eta_ij)`` and variance ``m + d_j m^2``; the usual model of RNA-seq counts.

    Parameters
    ----------
    size_factors : number, array, Series, DataFrame or "library", optional
        s, as in `Poisson`.
    dispersion : number, Series or array, optional
        d, the same for all traits or one for each (a Series by name); sampled unless given, as
        ``posterior["dispersion"]``.
    prior : (float, float)
        Median of d, and standard deviation of its logarithm, when d is sampled (log-normal).
    """

    size_factors: Any = field(default=None, repr=False)
    dispersion: Any = None
    prior: tuple[float, float] = (0.2, 1.5)

    by_row: ClassVar[tuple[str, ...]] = ("size_factors",)

    def __post_init__(self) -> None:
        Options(vars(self), "NegativeBinomial").numbers(
            "prior", length=2, above=0, advice="They are the median of d and the sd of log d."
        )

    def prepare(self, data: Measurements) -> NegativeBinomialLikelihood:
        """As for `Poisson`."""
        q = len(data.columns)
        given: Any = self.prior[0]
        if self.dispersion is not None:
            given = self._by_name(data.columns)
            Options({"dispersion": given}, "NegativeBinomial").numbers("dispersion", length=q, single=True, above=0)
        start = np.broadcast_to(np.asarray(given, dtype=float), q).copy()
        fields = _lay_out(data, self.size_factors, start)
        return NegativeBinomialLikelihood(
            **fields, start_dispersion=start, sampled=self.dispersion is None, prior=self.prior
        )

    def _by_name(self, traits: tuple[str, ...]) -> Any:
        """The dispersions in the order of the traits, if they have names."""
        given = self.dispersion
        if not isinstance(given, pd.Series) or counts_rows(given.index):
            return given
        lacking = [trait for trait in traits if trait not in given.index]
        if lacking or not given.index.is_unique:
            raise OptionError(
                f"dispersion: expected one number for each of {shortlist(traits)}, by name; got numbers for "
                f"{shortlist(given.index)}."
            )
        return given.loc[list(traits)]


def check_counts(values: np.ndarray, columns: tuple[str, ...], rows: np.ndarray) -> None:
    """Refuse what is not a count.

    Raises
    ------
    DataError
        Naming the first offending cell.
    """
    for what, bad in (("negative", values < 0), ("not whole", values != np.floor(values))):
        bad &= ~np.isnan(values)
        if bad.any():
            j, i = np.argwhere(bad)[0]
            raise DataError(
                f"counts must be whole numbers of at least 0, but {int(bad.sum())} are {what} (first: {values[j, i]:g} "
                f"for '{columns[j]}' in row {rows[i]}, counted from 0). Use link='identity' for measurements."
            )


def _lay_out(data: Measurements, size_factors: Any, dispersion: np.ndarray) -> dict[str, Any]:
    """Fields of `CountLikelihood`."""
    y = data.by_column
    check_counts(y, data.columns, data.rows)
    seen = ~np.isnan(y)
    counts = np.where(seen, y, 0.0)
    if isinstance(size_factors, str):
        if size_factors != "library":
            raise OptionError(f"size_factors={size_factors!r}: expected numbers or 'library'.")
        sizes = counts.sum(axis=0)
        sizes = np.broadcast_to(sizes / sizes.mean(), y.shape)
    else:
        sizes = data.by_cell("size_factors", 1.0 if size_factors is None else size_factors)
    if not (sizes[seen] > 0).all() or not np.isfinite(sizes[seen]).all():
        j, i = np.argwhere(~((sizes > 0) & np.isfinite(sizes)) & seen)[0]
        raise OptionError(
            f"size_factors must be above 0 and finite; '{data.columns[j]}' has {sizes[j, i]:g} in row {data.rows[i]} "
            "(counted from 0)."
        )
    offset = np.log(np.where(seen, sizes, 1.0)) + data.offset
    total = counts.sum(axis=1)
    if not total.all():
        zero = np.array(data.columns)[total == 0]
        raise DataError(f"trait(s) {shortlist(zero)} have no counts above zero. Leave them out.")
    b = data.fixed.b
    coef, model, left = np.empty((len(y), b)), np.empty(y.shape), np.empty(len(y))
    for traits, design in data.fixed.designs(data.columns):
        joint = _log_regression(counts[traits], seen[traits], offset[traits], design)
        coef[traits] = joint[:, :b]
        model[traits] = np.where(seen[traits], np.exp(np.minimum(offset[traits] + joint @ design, MOST_LOG_MEAN)), 0.0)
        left[traits] = _share_left(seen[traits], len(design))
    # E (y - s m)^2 = s m + (s m)^2 (e^v (1 + d) - 1), for a latent variance v; m follows the data by its columns.
    excess = (((counts - model) ** 2).sum(axis=1) / left - total) / (model**2).sum(axis=1)
    variance = np.log(np.maximum((1.0 + excess) / (1.0 + dispersion), 1.0))
    # Like `GaussianWeights`: at least a twentieth of what the noise of a typical count amounts to.
    noise = 1.0 / (total / seen.sum(axis=1)) + dispersion
    variance = np.maximum(variance, 0.05 * noise)
    # The mean of e^eta is above that of eta.
    coef -= 0.5 * variance[:, None] * data.fixed.of_constant
    base = coef @ data.fixed.flat
    worth = variance[:, None] / (
        variance[:, None] + 1.0 / np.where(seen, np.maximum(model, 1e-9), 1.0) + dispersion[:, None]
    )
    guess = np.log(counts + 0.5) - offset
    start = base + np.where(seen, worth * (guess - base), 0.0)
    return {
        "traits": data.columns,
        "start": start,
        "known": np.zeros_like(seen),
        "informative": seen,
        "base_coef": coef,
        "scale": np.sqrt(variance),
        "y": y,
        "offset": offset,
    }


def _log_regression(counts: np.ndarray, seen: np.ndarray, offset: np.ndarray, design: np.ndarray) -> np.ndarray:
    """Coefficients of a Poisson regression of each trait, shape (p, q)."""

    def slopes(eta: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        mean = np.where(seen, np.exp(np.minimum(eta + offset, MOST_LOG_MEAN)), 0.0)
        return np.where(seen, counts - mean, 0.0), mean

    first = weighted_regression(design, np.log(counts + 0.5) - offset, np.where(seen, counts + 0.5, 0.0))
    return likelihood_regression(design, first, slopes)


def _share_left(seen: np.ndarray, columns: int) -> np.ndarray:
    """Share of the degrees of freedom of each trait that its regression leaves, shape (p,)."""
    counts = seen.sum(axis=1)
    return np.asarray(np.maximum(counts - columns, 1) / counts)


@dataclass(frozen=True)
class CountLikelihood(Likelihood):
    """Counts y (NaN where missing) around ``exp(eta + offset)``.

    Attributes
    ----------
    y, offset : ndarray, shape (p, n)
    """

    y: np.ndarray
    offset: np.ndarray

    def with_data(self, data: np.ndarray) -> CountLikelihood:
        """Other counts."""
        return replace(self, y=data)

    def _blank(self, values: np.ndarray) -> np.ndarray:
        return np.where(self.informative, values, np.nan)

    def _log_mean(self, eta: np.ndarray) -> np.ndarray:
        return np.minimum(eta + self.offset, MOST_LOG_MEAN)


@dataclass(frozen=True)
class PoissonLikelihood(CountLikelihood):
    """Poisson counts."""

    def draw(
        self,
        eta: np.ndarray,
        mean: np.ndarray,
        prec: np.ndarray,
        parameters: Parameters,
        traits: slice,
        rng: np.random.Generator,
    ) -> None:
        """Each cell from its conditional law; eq. LINK-3."""
        data = (self.y[traits], self.offset[traits])
        draw_cells(draw_poisson_eta, data, self.informative[traits], eta, mean, prec, rng)

    def data_scales(self) -> tuple[DataScale, ...]:
        """Counts at a size factor of one."""
        return (CountScale(),) * len(self.traits)

    def log_density(self, eta: np.ndarray, parameters: Parameters) -> np.ndarray:
        """Poisson log probability."""
        log_mean = eta + self.offset
        return self.y * log_mean - np.exp(log_mean) - gammaln(self.y + 1.0)

    def simulate(self, eta: np.ndarray, parameters: Parameters, rng: np.random.Generator) -> np.ndarray:
        """Poisson counts."""
        return self._blank(rng.poisson(np.exp(self._log_mean(eta))))


@dataclass(frozen=True)
class NegativeBinomialLikelihood(CountLikelihood):
    """Negative binomial counts.

    Attributes
    ----------
    start_dispersion : ndarray, shape (p,)
    sampled : bool
    prior : (float, float)
    """

    start_dispersion: np.ndarray
    sampled: bool
    prior: tuple[float, float]

    def labels(self) -> dict[str, tuple[tuple[str, tuple[str, ...]], ...]]:
        """The dispersion of each trait, when it is sampled."""
        return {"dispersion": (("trait", self.traits),)} if self.sampled else {}

    def start_parameters(self) -> Parameters:
        """The median of the prior, or what was given."""
        return {"dispersion": self.start_dispersion.copy()}

    def simulate_parameters(self, rng: np.random.Generator) -> Parameters:
        """Log-normal dispersions."""
        if not self.sampled:
            return self.start_parameters()
        median, sd = self.prior
        return {"dispersion": median * np.exp(sd * rng.standard_normal(len(self.traits)))}

    def draw(
        self,
        eta: np.ndarray,
        mean: np.ndarray,
        prec: np.ndarray,
        parameters: Parameters,
        traits: slice,
        rng: np.random.Generator,
    ) -> None:
        """A step of the dispersions, then each cell from its conditional law; eq. LINK-6 and LINK-7."""
        dispersion = parameters["dispersion"][traits]
        y, offset = self.y[traits], self.offset[traits]
        if self.sampled:
            self._move_dispersion(dispersion, y, eta + offset, rng)
        size = 1.0 / dispersion[:, None]
        # Given the shape 1/d the count is binomial in form: y of y + 1/d, with odds d s e^eta.
        data = (y, y + size, offset + np.log(dispersion)[:, None])
        draw_cells(draw_binomial_eta, data, self.informative[traits], eta, mean, prec, rng)

    def _move_dispersion(
        self, dispersion: np.ndarray, y: np.ndarray, log_mean: np.ndarray, rng: np.random.Generator
    ) -> None:
        """Metropolis on the log scale with steps of all sizes; eq. LINK-7."""
        low, high = np.log(STEPS)
        step = np.exp(rng.uniform(low, high, len(y))) * rng.standard_normal(len(y))
        values = np.log(dispersion)[:, None] + np.column_stack((np.zeros(len(y)), step))
        log_law = np.empty_like(values)
        sum_negative_binomial(y, log_mean, np.exp(-values), log_law)
        median, sd = self.prior
        log_law -= 0.5 * ((values - np.log(median)) / sd) ** 2
        moved = np.log(1.0 - rng.random(len(y))) < log_law[:, 1] - log_law[:, 0]
        dispersion[moved] = np.exp(values[moved, 1])

    def data_scales(self) -> tuple[DataScale, ...]:
        """Counts at a size factor of one."""
        if self.sampled:
            return (CountScale("dispersion"),) * len(self.traits)
        return tuple(CountScale(float(d)) for d in self.start_dispersion)

    def log_density(self, eta: np.ndarray, parameters: Parameters) -> np.ndarray:
        """Negative binomial log probability."""
        size = 1.0 / parameters["dispersion"][:, None]
        odds = eta + self.offset - np.log(size)
        y = self.y
        binomial = gammaln(y + size) - gammaln(size) - gammaln(y + 1.0)
        return binomial + y * odds - (y + size) * np.logaddexp(0.0, odds)

    def simulate(self, eta: np.ndarray, parameters: Parameters, rng: np.random.Generator) -> np.ndarray:
        """Poisson counts with gamma means."""
        dispersion = parameters["dispersion"][:, None]
        noise = rng.standard_gamma(np.broadcast_to(1.0 / dispersion, eta.shape)) * dispersion
        return self._blank(rng.poisson(np.minimum(np.exp(self._log_mean(eta)) * noise, 1e17)))
