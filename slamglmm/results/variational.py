"""Results of the variational fitters: `sparse_lmm` and `mr_mash`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np
import pandas as pd
from scipy.special import expit

from ..design.aliasing import fixed_part
from ..errors import OptionError, shortlist
from ..options import Options, probability
from .base import Result
from .files import FIT, read_pickle, write_pickle
from .new_markers import marker_part
from .show import Summary, mr_mash_summary, sparse_lmm_fits_summary, sparse_lmm_summary

if TYPE_CHECKING:
    from ..plots import SparseLmmFitsPlots, VariationalPlots


class Regression(Protocol):
    """What `sparse_lmm` leaves behind for questions that need the markers again."""

    def explained_variances(self, draws: int, seed: int | None) -> np.ndarray:
        """Draws of the share of variance explained by the markers."""

    def single_effects(self, leads: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """For each lead, every marker's probability of being the effect there, and its correlation with the lead."""


class Mixture(Protocol):
    """The prior of `mr_mash`: named covariances (K, p, p), each at every variance of the grid, and perhaps a null."""

    @property
    def names(self) -> tuple[str, ...]:
        """Of the covariances."""

    @property
    def covariances(self) -> np.ndarray:
        """Shape (K, p, p)."""

    @property
    def grid(self) -> np.ndarray:
        """Variances each covariance is multiplied by."""

    @property
    def null(self) -> bool:
        """Whether effects may be zero altogether."""


@dataclass(frozen=True, eq=False, repr=False)
class VariationalResult(Result):
    """What the variational fits have in common.

    Attributes
    ----------
    elbo : ndarray
        Lower bound of the log marginal likelihood after each accepted sweep.
    converged : bool
    covariates : ndarray, shape (b, p)
        Effects of the columns of X; NaN for a column that is a combination of those before it.
    covariates_sd : ndarray, shape (b, p)
        Posterior standard deviations, NaN likewise.
    marker_means : ndarray, length m
        Mean dosages, which stand for missing genotypes in new rows.
    fitted_values : ndarray, shape (n, p)
        Fixed effects and markers (and random effects) in the rows of the fit.
    """

    elbo: np.ndarray
    converged: bool
    covariates: np.ndarray
    covariates_sd: np.ndarray
    marker_means: np.ndarray
    fitted_values: np.ndarray

    @property
    def plot(self) -> VariationalPlots:
        """Pictures: ``plot.elbo()``, ``.fit()`` and the fitter's own; needs matplotlib (extra ``plot``)."""
        from ..plots import VariationalPlots

        return VariationalPlots(self)

    def fitted(self) -> pd.DataFrame:
        """Fitted values, row × response: what `predict` gives without new data."""
        return pd.DataFrame(self.fitted_values, index=self.design.X.index, columns=self.design.traits)

    def _fixef(self) -> pd.DataFrame:
        index = pd.MultiIndex.from_product([self.design.X.columns, self.design.traits], names=["fixef", "trait"])
        return pd.DataFrame({"mean": self.covariates.ravel(), "sd": self.covariates_sd.ravel()}, index=index)

    def _write(self, folder: Path) -> None:
        _write_fields(self, folder)

    @classmethod
    def _read(cls, folder: Path, checksum: bool) -> VariationalResult:
        return cls(**read_pickle(folder / FIT, checksum))


def _write_fields(result: Result, folder: Path) -> None:
    write_pickle(folder / FIT, {f.name: getattr(result, f.name) for f in fields(result)})


@dataclass(frozen=True, eq=False, repr=False)
class SparseLmmResult(VariationalResult):
    """Spike-and-slab effects of markers beside covariates; what `sparse_lmm` returns.

    Attributes
    ----------
    pip : Series, length m
        Posterior inclusion probability of each marker.
    coef, coef_sd : Series, length m
        Posterior mean and standard deviation of the effect of one unit of dosage (0 included).
    residual_var : float
        In squared units of the response (1 for the binomial family).
    prior_var : float
        Variance of an effect that is not zero, in units of the residual variance.
    pi : float
        Prior probability that a marker has an effect (at offset zero).
    grid : DataFrame or None
        Columns log_odds (natural), pi, elbo, weight, residual_var, prior_var, sweeps, when averaged over a grid.
    starts : DataFrame
        One row a start: pi at the start, elbo, sweeps, pi at the end.
    random : Series or None
        Random effects by level.
    share : float or None
        The random effect's share h of the variance that markers and covariates leave.
    family : str
    regression : Regression
    """

    pip: pd.Series
    coef: pd.Series
    coef_sd: pd.Series
    residual_var: float
    prior_var: float
    pi: float
    grid: pd.DataFrame | None
    starts: pd.DataFrame
    random: pd.Series | None
    share: float | None
    family: str
    regression: Regression

    def fixef(self) -> pd.DataFrame:
        """Effects of the covariates: index (fixef, trait), columns mean and sd; NaN for a column left out."""
        return self._fixef()

    def ranef(self, label: str | None = None) -> pd.DataFrame:
        """Random effects (BLUP given the markers' effects), level × trait.

        Parameters
        ----------
        label : str, optional
            May be left out, as there is at most one.
        """
        if self.random is None:
            raise OptionError("this fit has no random effect.")
        if label is not None:
            self.design.term(label)
        return self.random.to_frame(self.design.traits[0])

    def varcorr(self) -> pd.DataFrame:
        """Variances: the random effect (per unit of its matrix) and the residual; columns variance and share."""
        rows = {"Residual": self.residual_var * (1.0 if self.share is None else 1.0 - self.share)}
        if self.share is not None:
            rows = {self.design.terms[0].label: self.residual_var * self.share, **rows}
        table = pd.DataFrame({"variance": rows})
        table.index.name = "term"
        table["share"] = table["variance"] / table["variance"].sum()
        return table

    def pve(self, interval: float = 0.95, draws: int = 500, seed: int | None = None) -> pd.Series:
        """Proportion of variance explained by the markers, after the covariates.

        Parameters
        ----------
        interval : float
            Mass of the equal-tailed interval.
        draws : int
            Draws of the effects from the fitted posterior.
        seed : int, optional
            The fit's seed unless given.

        Returns
        -------
        Series
            mean, lower, upper. For the binomial family on the scale of the linear predictor, the logistic
            distribution's variance counting as residual.

        Notes
        -----
        The fitted posterior takes the variances as known and the markers as independent, so the interval is too short:
        intervals of 90 % held the truth in two of three simulated data sets (250 rows, 40 markers in pairs).
        """
        tail = (1.0 - probability(interval, "interval")) / 2.0
        check = Options({"draws": draws, "seed": seed}, "pve")
        check.whole("draws", least=1)
        check.seed()
        values = self.regression.explained_variances(draws, self.options["seed"] if seed is None else seed)
        return pd.Series(
            {"mean": values.mean(), "lower": np.quantile(values, tail), "upper": np.quantile(values, 1.0 - tail)}
        )

    def credible_set(self, level: float = 0.95, threshold: float = 0.5, min_correlation: float = 0.0) -> pd.DataFrame:
        """Markers that may stand behind each one that was found.

        The factorised posterior puts all its weight on one of several markers in linkage disequilibrium. So each
        marker with a PIP above `threshold` is taken out again, one effect is put in its place, and the probability of
        that effect being at each marker is worked out exactly.

        Parameters
        ----------
        level : float
            Each set is the smallest that reaches this probability.
        threshold : float
            PIP from which a marker has a set.
        min_correlation : float
            Markers less correlated with the lead (in absolute value, after the covariates) are not considered. With
            many markers, small probabilities of unlinked ones may otherwise add up and make a set very long; 0.1, say,
            asks where the effect is, given that it is near the lead.

        Returns
        -------
        DataFrame
            Index (lead, marker), most probable first; columns prob and correlation (with the lead).
        """
        probability(level, "level")
        check = Options({"threshold": threshold, "min_correlation": min_correlation}, "credible_set")
        check.number("threshold", "min_correlation", least=0, most=1)
        leads = np.flatnonzero(self.pip.to_numpy() > threshold)
        names = self.pip.index
        parts: list[pd.DataFrame] = []
        if len(leads):
            for lead, prob, correlation in zip(leads, *self.regression.single_effects(leads), strict=True):
                prob = np.where(np.abs(correlation) < min(min_correlation, 1.0 - 1e-9), 0.0, prob)
                prob /= prob.sum()
                ranked = np.argsort(-prob, kind="stable")
                size = 1 + int(np.searchsorted(np.cumsum(prob[ranked]), level))
                chosen = ranked[:size]
                index = pd.MultiIndex.from_product([[names[lead]], names[chosen]], names=["lead", "marker"])
                parts.append(pd.DataFrame({"prob": prob[chosen], "correlation": correlation[chosen]}, index=index))
        if not parts:
            empty = pd.MultiIndex.from_arrays([names[:0], names[:0]], names=["lead", "marker"])
            return pd.DataFrame({"prob": np.empty(0), "correlation": np.empty(0)}, index=empty)
        return pd.concat(parts)

    def predict(
        self,
        newdata: Any = None,
        *,
        markers: Any = None,
        random: Literal["all", "none"] = "all",
        new_levels: Literal["error", "zero", "relmat"] = "error",
        scale: Literal["response", "link"] = "response",
    ) -> pd.DataFrame:
        """Fixed effects, markers and random effects in new rows (by default, the rows of the fit).

        Parameters
        ----------
        newdata : DataFrame, optional
            Covariates of the new rows.
        markers : same forms as in `sparse_lmm`, optional
            Markers of the new rows, or of more: columns of a DataFrame are found by name, rows as in the fit, by label
            in the index or in a column of `newdata`. Missing genotypes count as the mean in the fit.
        random : {"all", "none"}
            Whether random effects are added.
        new_levels : {"error", "zero", "relmat"}
            As in ``design.new``.
        scale : {"response", "link"}
            Binomial family: probabilities, or their log odds.

        Returns
        -------
        DataFrame, row × response
        """
        check = Options({"random": random, "new_levels": new_levels, "scale": scale}, "predict")
        check.choice("random", ("all", "none"))
        check.choice("new_levels", ("error", "zero", "relmat"))
        check.choice("scale", ("response", "link"))
        if newdata is None:
            values = self.fitted_values
            index = self.design.X.index
            if random == "none" and self.random is not None:
                values = values - self.random.to_numpy()[self.design.terms[0].codes][:, None]
        else:
            if markers is None:
                raise OptionError("predict: new rows need their markers; pass markers= with newdata.")
            labels = None if random == "all" and self.random is not None else ()
            rows = self.design.new(newdata, new_levels, labels)
            index = rows.X.index
            values = fixed_part(self.design, rows, self.covariates)
            values = values + marker_part(markers, self.coef.to_frame(), self.marker_means, newdata)
            if rows.offset is not None:
                values = values + rows.offset[:, None]
            for term in rows.terms:
                effects = np.append(self.random.to_numpy(), 0.0)  # type: ignore[union-attr]  # code -1: none
                values = values + effects[term.codes][:, None]
        if self.family == "binomial" and scale == "response":
            values = expit(values)
        return pd.DataFrame(values, index=index, columns=self.design.traits)

    def summary(self, prob: float = 0.95) -> Summary:
        """Printable summary.

        Parameters
        ----------
        prob : float
            Mass of the interval of the share of variance explained.
        """
        return sparse_lmm_summary(self, probability(prob))


@dataclass(frozen=True, eq=False, repr=False)
class SparseLmmFits(Result, Mapping[str, SparseLmmResult]):
    """Fits of several responses, one by one; what `sparse_lmm` returns when there are several.

    A mapping: ``fits["height"]`` is that response's `SparseLmmResult`. Everything a single result answers about all
    markers or rows is answered here for all responses, side by side.

    Attributes
    ----------
    fits : dict of response -> SparseLmmResult
    """

    fits: Mapping[str, SparseLmmResult]

    def __getitem__(self, trait: str) -> SparseLmmResult:
        if trait not in self.fits:
            raise OptionError(f"there is no response {trait!r}; there are {shortlist(self.fits)}.")
        return self.fits[trait]

    @property
    def plot(self) -> SparseLmmFitsPlots:
        """Pictures of all responses: ``plot.manhattan()``; needs matplotlib (extra ``plot``)."""
        from ..plots import SparseLmmFitsPlots

        return SparseLmmFitsPlots(self)

    def __iter__(self) -> Iterator[str]:
        return iter(self.fits)

    def __len__(self) -> int:
        return len(self.fits)

    def __contains__(self, trait: object) -> bool:
        return trait in self.fits

    def _by_marker(self, name: str) -> pd.DataFrame:
        return pd.DataFrame({trait: getattr(fit, name) for trait, fit in self.fits.items()})

    @property
    def pip(self) -> pd.DataFrame:
        """Posterior inclusion probabilities, marker × response."""
        return self._by_marker("pip")

    @property
    def coef(self) -> pd.DataFrame:
        """Posterior means of the effects of one unit of dosage, marker × response."""
        return self._by_marker("coef")

    @property
    def coef_sd(self) -> pd.DataFrame:
        """Posterior standard deviations, marker × response."""
        return self._by_marker("coef_sd")

    @property
    def converged(self) -> bool:
        """Whether all responses have converged."""
        return all(fit.converged for fit in self.fits.values())

    def fixef(self) -> pd.DataFrame:
        """Effects of the covariates: index (fixef, trait), columns mean and sd; NaN for a column left out."""
        table = pd.concat([fit.fixef() for fit in self.fits.values()])
        order = pd.MultiIndex.from_product([self.design.X.columns, list(self.fits)], names=table.index.names)
        return table.reindex(order)

    def ranef(self, label: str | None = None) -> pd.DataFrame:
        """Random effects (BLUP given the markers' effects), level × response.

        Parameters
        ----------
        label : str, optional
            May be left out, as there is at most one.
        """
        return pd.concat([fit.ranef(label) for fit in self.fits.values()], axis=1)

    def varcorr(self) -> pd.DataFrame:
        """Variances: index (term, trait), columns variance and share."""
        table = pd.concat({trait: fit.varcorr() for trait, fit in self.fits.items()}, names=["trait", "term"])
        return table.swaplevel().sort_index(level="term", sort_remaining=False, kind="stable")

    def pve(self, interval: float = 0.95, draws: int = 500, seed: int | None = None) -> pd.DataFrame:
        """Proportion of variance explained by the markers, after the covariates.

        Parameters
        ----------
        interval : float
            Mass of the equal-tailed interval.
        draws : int
        seed : int, optional

        Returns
        -------
        DataFrame
            Response × (mean, lower, upper).
        """
        return pd.DataFrame({trait: fit.pve(interval, draws, seed) for trait, fit in self.fits.items()}).T

    def fitted(self) -> pd.DataFrame:
        """Fitted values, row × response."""
        return pd.concat([fit.fitted() for fit in self.fits.values()], axis=1)

    def predict(self, newdata: Any = None, *, markers: Any = None, **options: Any) -> pd.DataFrame:
        """Fixed effects, markers and random effects in new rows (by default, the rows of the fit).

        Parameters
        ----------
        newdata : DataFrame, optional
            Covariates of the new rows.
        markers : same forms as in `sparse_lmm`, optional
            Markers of the new rows.
        **options
            As in `SparseLmmResult.predict`.

        Returns
        -------
        DataFrame, row × response
        """
        return pd.concat([fit.predict(newdata, markers=markers, **options) for fit in self.fits.values()], axis=1)

    def summary(self, prob: float = 0.95) -> Summary:
        """Printable summary: one row a response.

        Parameters
        ----------
        prob : float
            Mass of the interval of the share of variance explained.
        """
        return sparse_lmm_fits_summary(self, probability(prob))

    def _write(self, folder: Path) -> None:
        _write_fields(self, folder)

    @classmethod
    def _read(cls, folder: Path, checksum: bool) -> SparseLmmFits:
        return cls(**read_pickle(folder / FIT, checksum))


@dataclass(frozen=True, eq=False, repr=False)
class MrMashResult(VariationalResult):
    """Effects of markers on many responses with a mixture of covariances; what `mr_mash` returns.

    Attributes
    ----------
    coef, coef_sd : DataFrame, m × p
        Posterior mean and standard deviation of the effect of one unit of dosage.
    lfsr : DataFrame, m × p
        Local false sign rate, ``1 - max(P(effect > 0), P(effect < 0))``. Both are hopeful: the posterior treats markers
        as independent (the manual has figures).
    null : Series, length m
        Probability that a marker has no effect on any response.
    weights : Series
        Mixture weights by component.
    prior : Mixture
        Covariances, their names and the grid.
    residual_cov : DataFrame, p × p
    imputed : DataFrame, n × p
        Responses with missing cells filled by their expectation.
    """

    coef: pd.DataFrame
    coef_sd: pd.DataFrame
    lfsr: pd.DataFrame
    null: pd.Series
    weights: pd.Series
    prior: Mixture
    residual_cov: pd.DataFrame
    imputed: pd.DataFrame

    def fixef(self) -> pd.DataFrame:
        """Effects of the covariates: index (fixef, trait), columns mean and sd; NaN for a column left out."""
        return self._fixef()

    def ranef(self, label: str | None = None) -> pd.DataFrame:
        """There are no random effects in this model.

        Parameters
        ----------
        label : str, optional
        """
        raise OptionError("mr_mash has no random effects.")

    def R(self) -> pd.DataFrame:
        """Residual covariance, response × response."""
        return self.residual_cov.copy()

    def varcorr(self) -> pd.DataFrame:
        """Residual variance by response: index (term, trait), column variance."""
        index = pd.MultiIndex.from_product([["Residual"], self.design.traits], names=["term", "trait"])
        return pd.DataFrame({"variance": np.diag(self.residual_cov.to_numpy())}, index=index)

    @cached_property
    def covariance_weights(self) -> pd.Series:
        """Mixture weights summed over the grid: one number for each covariance of the prior, and the null."""
        values = self.weights.to_numpy()
        start = int(self.prior.null)
        summed = values[start:].reshape(len(self.prior.names), -1).sum(axis=1)
        names = [*(["null"] if self.prior.null else []), *self.prior.names]
        return pd.Series(np.concatenate((values[:start], summed)), index=names, name="weight")

    def predict(self, newdata: Any = None, *, markers: Any = None) -> pd.DataFrame:
        """Fixed effects and markers in new rows (by default, the rows of the fit).

        Parameters
        ----------
        newdata : DataFrame, optional
            Covariates of the new rows.
        markers : same forms as in `mr_mash`, optional
            Markers of the new rows, or of more: columns of a DataFrame are found by name, rows as in the fit, by label
            in the index or in a column of `newdata`.

        Returns
        -------
        DataFrame, row × response
        """
        if newdata is None:
            return self.fitted()
        if markers is None:
            raise OptionError("predict: new rows need their markers; pass markers= with newdata.")
        rows = self.design.new(newdata)
        index = rows.X.index
        values = fixed_part(self.design, rows, self.covariates)
        values = values + marker_part(markers, self.coef, self.marker_means, newdata)
        if rows.offset is not None:
            values = values + rows.offset[:, None]
        return pd.DataFrame(values, index=index, columns=self.design.traits)

    def summary(self) -> Summary:
        """Printable summary."""
        return mr_mash_summary(self)
