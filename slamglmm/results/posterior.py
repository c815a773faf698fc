"""The result of `slam`: a labelled posterior and the questions users ask of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np
import pandas as pd
import xarray as xr

from .. import __version__
from ..design.aliasing import warn_not_estimable
from ..diagnostics import diagnose
from ..errors import OptionError, shortlist
from ..options import Options, probability
from ..relmat import effects_of_markers
from . import covariance, data_scale
from .alignment import align_loadings, factors_carrying
from .arrays import damage_named, open_arrays, write_arrays
from .base import Result
from .curves import CurveBasis, curve_table
from .data_scale import TraitScale
from .files import FIT, HERE, POSTERIOR, read_pickle, write_manifest, write_pickle
from .show import Summary, slam_summary

if TYPE_CHECKING:
    from ..design import Design
    from ..design.cis import CisColumns
    from ..plots import SlamPlots

RESIDUAL = "Residual"
# Off-diagonal elements of G that diagnostics look at: all pairs of at most this many traits, evenly spread.
DIAGNOSED_TRAITS = 8
# Effects of covariates of single traits that they look at.
DIAGNOSED_CIS = 500
# Saved draws of more than this are read piece by piece.
LAZY_BYTES = 2**29
# What the covariance matrices are computed from.
PARTS = ("Lambda", "h2_factor", "h2_residual", "residual_var")


class Continuation(Protocol):
    """What a fitter leaves behind so that a result can go on."""

    def extend(self, result: SlamResult, draws: int, progress: bool | None) -> SlamResult:
        """A new result with more draws from the same streams."""


@dataclass(frozen=True)
class EndedChains:
    """Chains that another version of slamglmm ran: their states may be in other units, so they cannot go on here.

    Attributes
    ----------
    version : str
    """

    version: str

    def extend(self, result: SlamResult, draws: int, progress: bool | None) -> SlamResult:
        """Refuse.

        Raises
        ------
        OptionError
        """
        raise OptionError(
            f"extend: these chains were run by another version of slamglmm (saved by {self.version}, this is "
            f"{__version__}), whose sampler may count in other units. Its draws stay good; for more of them extend "
            "with that version, or fit again."
        )


@dataclass(frozen=True)
class ComponentLabel:
    """One variance share: its label, the term of the design it belongs to, and its column there.

    Attributes
    ----------
    label, term : str
    effect : int
    unit : float
        Root mean square of that column: shares and `h2` are at this value of it, variances and effects are of one.
    """

    label: str
    term: str
    effect: int
    unit: float = 1.0


@dataclass(frozen=True, eq=False, repr=False)
class SlamResult(Result):
    """Posterior of the sparse-factor mixed model.

    Attributes
    ----------
    posterior : xarray.Dataset
        Draws, dims (chain, draw, ...): ``h2`` (term, trait), ``h2_factor`` (term, factor), ``Lambda`` (factor, trait),
        ``residual_var`` (trait), ``h2_residual`` (term, trait), ``B`` (fixef, trait); posterior means by chain:
        ``U_mean_<label>`` (level, trait) and ``Eta_mean`` (row, trait), with links ``Data_mean`` (row, trait).
        Everything is in the units of the latent traits, and factors have unit variance. What ``store=`` may add: draws
        of ``G_diag`` (term, trait), ``R_diag`` (trait), ``G``, ``R`` and ``U_<label>``, and the posterior variances
        ``U_var_<label>`` (level, trait) by chain.
    grid : DataFrame
        Grid of the variance shares: one row a point, a column for each term, and the prior masses.
    components : tuple of ComponentLabel
        The variance shares, in the order of ``posterior.term``.
    chains : Continuation
        Sampler states, for `extend`.
    traits : pandas.Index
        Names of the latent traits: those of the responses, unless a link makes others of them.
    factor_design : Design or None
        Fixed effects of the factors; ``posterior["B_factor"]`` (fixef_factor, factor) has the coefficients.
    curve_bases : tuple of CurveBasis
        For `curves`, one for each formula of a link `slamglmm.links.Regression`.
    trait_design : Design or None
        Covariates of the traits; ``posterior["loading_effects"]`` (trait_covariate, factor) has their effects.
    data_scales : tuple of TraitScale or None
        For ``scale="data"``, one for each trait (None where the link has none); empty when the data are the latent
        traits.
    markers : dict of str to DataFrame
        Dosages of the levels of the grouping factors that were given markers, for `marker_effects`.
    cis_columns : CisColumns or None
        Covariates of single traits; ``posterior["cis"]`` (cis_effect) has their effects, "trait: covariate".
    prior_only : tuple of (str, str)
        Random effects and traits about whose share the data say nothing: h2 repeats the prior there.
    """

    posterior: xr.Dataset
    grid: pd.DataFrame
    components: tuple[ComponentLabel, ...]
    chains: Continuation
    traits: pd.Index
    factor_design: Design | None = None
    curve_bases: tuple[CurveBasis, ...] = ()
    trait_design: Design | None = None
    data_scales: tuple[TraitScale | None, ...] = ()
    markers: Mapping[str, pd.DataFrame] = field(default_factory=dict)
    cis_columns: CisColumns | None = None
    prior_only: tuple[tuple[str, str], ...] = ()

    # -- variances --------------------------------------------------------------------------------------------------

    def h2(self, prob: float = 0.9, *, scale: Literal["latent", "data"] = "latent") -> pd.DataFrame:
        """Heritability (variance share of each random effect) of every trait.

        The share of a slope is that at the root mean square of its covariate, over the rows of the fit.

        Parameters
        ----------
        prob : float
            Mass of the equal-tailed interval.
        scale : {"latent", "data"}
            Of the latent traits, or of the counts and categories themselves: the additive variance there over the
            variance of the data, fixed effects included.

        Returns
        -------
        DataFrame
            Index (term, trait); columns mean, sd, lower, upper.
        """
        index = pd.MultiIndex.from_product([self._terms, self.traits], names=["term", "trait"])
        if _is_data(scale) and self.data_scales:
            chosen = self._data_draws
            slope, total = self._data_moments
            additive = [slope**2 * _pooled(self._variance_part(name))[chosen] for name in self._terms]
            values = np.stack([of_term / total for of_term in additive], axis=1)[None]
        else:
            values = self._h2_draws("h2()")
        return _interval_table(values.reshape(*values.shape[:2], len(index)), index, prob)

    def varcorr(self, prob: float = 0.9) -> pd.DataFrame:
        """Variance of every random effect and of the residual, by trait.

        Parameters
        ----------
        prob : float

        Returns
        -------
        DataFrame
            Index (term, trait), the residual's term being "Residual"; columns mean, sd, lower, upper (squared units of
            the trait; of a slope, for one unit of its covariate) and share, the posterior mean of the variance share
            (of a slope, at the root mean square of its covariate).
        """
        names = [*self._terms, RESIDUAL]
        parts = [self._variance_part(name) for name in names]
        total = np.sum(parts, axis=0)
        tables = []
        for name, draws in zip(names, parts, strict=True):
            table = _interval_table(draws / self._square_unit(name), pd.Index(self.traits, name="trait"), prob)
            table["share"] = (draws / total).mean(axis=(0, 1))
            tables.append(table)
        return pd.concat(tables, keys=names, names=["term"])

    def G(self, label: str | None = None, *, scale: Literal["latent", "data"] = "latent") -> pd.DataFrame:
        """Posterior mean of the covariance among traits of one random effect.

        Parameters
        ----------
        label : str, optional
            A random effect; may be left out when there is one.
        scale : {"latent", "data"}
            Of the latent traits, or of their additive effects on the counts and categories themselves.

        Returns
        -------
        DataFrame, trait × trait
        """
        name = self._one_term(label)
        if not (_is_data(scale) and self.data_scales):
            return self._mean_covariance(name, "G()")
        slope, chosen = self._data_moments[0], self._data_draws
        stored = self._stored_covariances(name)
        if stored is not None:
            drawn = _pooled(stored)[chosen] * slope[:, :, None] * slope[:, None, :]
            return self._trait_frame(drawn.mean(axis=0))
        loadings, share, own = (values[chosen] for values in self._stacked(name, "G()"))
        return self._trait_frame(covariance.mean_covariance(loadings * slope[:, None, :], share, own * slope**2))

    def R(self, *, scale: Literal["latent", "data"] = "latent") -> pd.DataFrame:
        """Posterior mean of the residual covariance among traits, trait × trait.

        Parameters
        ----------
        scale : {"latent", "data"}
            ``"data"`` only when the data are the latent traits.

        Returns
        -------
        DataFrame, trait × trait
        """
        if _is_data(scale) and self.data_scales:
            raise OptionError(
                'R(scale="data"): what random effects leave of counts and categories has no covariance matrix of its '
                'own: part of it comes from the effects, by the curvature of the link. h2(scale="data") and '
                'G(label, scale="data") are defined; R() is that of the latent traits.'
            )
        return self._mean_covariance(RESIDUAL, "R()")

    def correlation(self, label: str | None = None) -> pd.DataFrame:
        """Posterior mean of the correlation among traits of one random effect, or of the residual.

        Parameters
        ----------
        label : str, optional
            A random effect, or ``"Residual"``; may be left out when there is one random effect.

        Returns
        -------
        DataFrame, trait × trait
        """
        name = self._one_term(label)
        stored = self._stored_covariances(name)
        if stored is not None:
            return self._trait_frame(covariance.mean_of_correlations(_pooled(stored)))
        return self._trait_frame(covariance.mean_correlation(*self._stacked(name, "correlation()")))

    def covariance_draws(self, label: str | None = None) -> xr.DataArray:
        """Draws of G of one random effect, or of R.

        Parameters
        ----------
        label : str, optional
            A random effect, or ``"Residual"``; may be left out when there is one random effect.

        Returns
        -------
        xarray.DataArray, dims (chain, draw, trait, trait2)
        """
        name = self._one_term(label)
        values = self._stored_covariances(name)
        if values is None:
            shape = (self.posterior.sizes["chain"], self.posterior.sizes["draw"], *2 * (len(self.traits),))
            parts = self._stacked(name, "covariance_draws()")
            values = np.array(list(covariance.covariance_draws(*parts))).reshape(shape)
        traits = list(self.traits)
        coords = {**self._draw_coords(), "trait": traits, "trait2": traits}
        return xr.DataArray(values, coords=coords, dims=("chain", "draw", "trait", "trait2"), name=f"G[{name}]")

    def variance_draws(self, label: str | None = None) -> xr.DataArray:
        """Draws of the variance of one random effect, or of the residual: the diagonal of G, or of R.

        Parameters
        ----------
        label : str, optional
            A random effect, or ``"Residual"``; may be left out when there is one random effect.

        Returns
        -------
        xarray.DataArray, dims (chain, draw, trait)
        """
        name = self._one_term(label)
        values = self._variances(name)
        if values is None:
            diagonal, whole = ("R_diag", "R") if name == RESIDUAL else ("G_diag", "G")
            raise self._not_stored("variances", PARTS, f"'{diagonal}' or '{whole}'")
        coords = {**self._draw_coords(), "trait": list(self.traits)}
        return xr.DataArray(values, coords=coords, dims=("chain", "draw", "trait"), name=f"variance[{name}]")

    # -- effects ----------------------------------------------------------------------------------------------------

    def fixef(self, prob: float | None = None, *, total: bool = False) -> pd.DataFrame:
        """Fixed effects; with ``cis`` the intercept is that at zero of a trait's own covariates.

        NaN for a column that is a combination of earlier ones in the rows where a trait has data: as in R's `lm` it is
        left out, and a note names it.

        Parameters
        ----------
        prob : float, optional
            None gives posterior means, fixef × trait; a number gives the long table with intervals.
        total : bool
            Whether to add what acts through factors, ``B_F Lambda``; rows are then those of both formulas.

        Returns
        -------
        DataFrame
        """
        if total:
            draws, names = self._total_effects()
            if prob is None:
                return pd.DataFrame(draws.mean(axis=(0, 1)), index=pd.Index(names, name="fixef"), columns=self.traits)
            tables = [
                _interval_table(draws[:, :, i], pd.Index(self.traits, name="trait"), prob) for i in range(len(names))
            ]
            return pd.concat(tables, keys=names, names=["fixef"])
        draws, names = self._values("B"), self.design.X.columns
        if prob is None:
            means = draws.mean(axis=(0, 1))
            return pd.DataFrame(means, index=pd.Index(names, name="fixef"), columns=self.traits)
        index = pd.MultiIndex.from_product([names, self.traits], names=["fixef", "trait"])
        return _interval_table(draws.reshape(*draws.shape[:2], len(index)), index, prob)

    def cis(self, prob: float = 0.9) -> pd.DataFrame:
        """Effects of the covariates of single traits (``cis=``), of one unit in units of the trait.

        Parameters
        ----------
        prob : float
            Mass of the equal-tailed interval.

        Returns
        -------
        DataFrame
            Index (trait, covariate); columns mean, sd, lower, upper.

        Raises
        ------
        OptionError
            The fit has no ``cis``.
        """
        probability(prob)
        if self.cis_columns is None:
            raise OptionError("cis(): fit with cis={trait: columns of the data} first.")
        return _interval_table(self._values("cis"), self.cis_columns.effects, prob)

    def ranef(self, label: str | None = None) -> pd.DataFrame:
        """Posterior mean of the total effects ``U_F Lambda + U_R`` of one random effect, level × trait.

        Levels of the relationship matrix without records are included.

        Parameters
        ----------
        label : str, optional
            A random effect; may be left out when there is one.

        Returns
        -------
        DataFrame, level × trait
        """
        component = self._component(self._one_term(label, residual=False))
        mean, draws = f"U_mean_{component.label}", f"U_{component.label}"
        if mean not in self.posterior and draws in self.posterior:
            return self._level_frame(component, self._values(draws).mean(axis=(0, 1)))
        return self._level_frame(component, self._values(mean, "U_mean").mean(axis=0))

    def ranef_sd(self, label: str | None = None) -> pd.DataFrame:
        """Posterior standard deviation of the total effects of one random effect: how far `ranef` may be off.

        Its square is what breeders call the prediction error variance. Needs ``"U_var"`` (or the draws, ``"U"``) in
        ``store=``.

        Parameters
        ----------
        label : str, optional
            A random effect; may be left out when there is one.

        Returns
        -------
        DataFrame, level × trait
        """
        component = self._component(self._one_term(label, residual=False))
        draws, variance, mean = (f"{name}_{component.label}" for name in ("U", "U_var", "U_mean"))
        if not self._has((variance, mean)) and draws in self.posterior:
            return self._level_frame(component, self._values(draws).std(axis=(0, 1)))
        within = self._values(variance, "U_var").mean(axis=0)
        between = self._values(mean, "U_mean").var(axis=0)
        return self._level_frame(component, np.sqrt(within + between))

    def marker_effects(self, label: str | None = None) -> pd.DataFrame:
        """Posterior mean of the effects of one allele of every marker on every trait, through factors and direct.

        Parameters
        ----------
        label : str, optional
            A random effect whose group was given ``markers``; may be left out when there is one random effect.

        Returns
        -------
        DataFrame, marker × trait
            Zero for a marker that does not vary.

        Raises
        ------
        OptionError
            The random effect has no markers.
        """
        component = self._component(self._one_term(label, residual=False))
        key = self.design.term(component.term).cov or ""
        if key not in self.markers:
            raise OptionError(
                f"marker_effects: '{component.label}' has no markers. Fit with markers={{'{component.term}': dosages}}."
            )
        return effects_of_markers(self.markers[key], self.ranef(label))

    def n_factors_used(self, prob: float = 0.9) -> pd.DataFrame:
        """How many factors carry 99 % of the shared variance.

        Parameters
        ----------
        prob : float
            Mass of the interval.

        Returns
        -------
        DataFrame
            One row a chain; columns mean, lower, upper (over draws) and n_factors, those there are (loadings not all
            zero in the last draw).
        """
        low, high = _tails(prob)
        used = factors_carrying(self._loadings)
        return pd.DataFrame(
            {
                "mean": used.mean(axis=1),
                "lower": np.quantile(used, low, axis=1),
                "upper": np.quantile(used, high, axis=1),
                "n_factors": np.any(self._loadings[:, -1] != 0.0, axis=-1).sum(axis=-1),
            },
            index=pd.Index(self.posterior["chain"].values, name="chain"),
        )

    def loadings(self) -> pd.DataFrame:
        """Posterior mean of the loadings, factor × trait, signs and order matched across draws and chains.

        Factors come in the order of their mean size; a factor that is not matched from draw to draw averages to little.
        """
        flat = _pooled(self._loadings)
        order, sign = self._alignment
        flat = flat[self._alignment_draws]
        matched = np.take_along_axis(flat, order[:, :, None], axis=1) * sign[:, :, None]
        return pd.DataFrame(
            matched.mean(axis=0, dtype=float),
            index=pd.RangeIndex(1, matched.shape[1] + 1, name="factor"),
            columns=self.traits,
        )

    def loading_effects(self) -> pd.DataFrame:
        """Posterior mean of the effects of covariates of the traits on loadings, trait_covariate × factor.

        In standard deviations of a trait for one unit of a covariate; factors in the order and with the signs of
        `loadings`.

        Raises
        ------
        OptionError
            The fit has no ``loadings_on``.
        """
        if self.trait_design is None:
            raise OptionError("loading_effects: fit with loadings_on= and trait_data= first.")
        flat = _pooled(self._values("loading_effects"))[self._alignment_draws]
        order, sign = self._alignment
        matched = np.take_along_axis(flat, order[:, None, :], axis=2) * sign[:, None, :]
        return pd.DataFrame(
            matched.mean(axis=0),
            index=pd.Index(self.posterior["trait_covariate"].values, name="trait_covariate"),
            columns=pd.RangeIndex(1, matched.shape[2] + 1, name="factor"),
        )

    def predict_loadings(self, trait_data: Any) -> pd.DataFrame:
        """Prior means of the loadings of new traits given what was learned from those of the fit.

        Parameters
        ----------
        trait_data : DataFrame
            Covariates of the new traits, such as environments not tried.

        Returns
        -------
        DataFrame
            Factor × trait, in standard deviations of a trait.

        Raises
        ------
        OptionError
            The fit has no ``loadings_on``.
        """
        if self.trait_design is None:
            raise OptionError("predict_loadings: fit with loadings_on= and trait_data= first.")
        made = self.trait_design.new(trait_data)
        return self.loading_effects().T @ made.X.set_axis(self.posterior["trait_covariate"].values, axis=1).T

    def fitted(self, *, scale: Literal["latent", "data"] = "latent") -> pd.DataFrame:
        """Posterior mean of ``XB + F Lambda + Z U_R``, row × trait; a row without any data has ``XB + Z U``.

        Effects of a trait's own covariates (``cis``) are in both.

        Parameters
        ----------
        scale : {"latent", "data"}
            ``"data"`` gives the posterior mean of the expected data instead: counts (at a size factor of one),
            proportions, values of categories; NaN in a row without any data.

        Returns
        -------
        DataFrame, row × trait
        """
        name = "Eta_mean"
        if _is_data(scale) and self.data_scales:
            self._all_data_scales()
            name = "Data_mean"
        # Draws of "Eta" would not do: latent traits have their residuals in them, measured ones are the data.
        return pd.DataFrame(self._values(name).mean(axis=0), index=self.design.X.index, columns=self.traits)

    def predict(
        self,
        newdata: Any = None,
        *,
        random: Literal["all", "none"] | Sequence[str] = "all",
        new_levels: Literal["error", "zero", "relmat"] = "error",
        interval: float | None = None,
        scale: Literal["latent", "data"] = "latent",
    ) -> pd.DataFrame:
        """Predict the traits of the rows of the fit, or of new rows.

        Parameters
        ----------
        newdata : DataFrame, optional
            New rows: fixed plus random effects, no row residual; with ``cis`` they need its columns. None with
            ``random="all"`` gives `fitted`.
        random : "all", "none" or list of labels
            Random effects to add.
        new_levels : {"error", "zero", "relmat"}
            For grouping levels that neither had records nor are in the relationship matrix; see `Design.new`.
        interval : float, optional
            Mass of an equal-tailed interval of the mean; needs a fit with ``store=(..., "U")`` unless
            ``random="none"``.
        scale : {"latent", "data"}
            ``"data"`` predicts the expected data: counts (at a size factor of one), proportions, values of categories,
            over the law of the residual and of the random effects that are not added. It needs what an interval needs.

        Returns
        -------
        DataFrame
            Row × trait; with `interval`, columns (trait, mean | lower | upper).

        Raises
        ------
        DataError
            New rows that cannot be encoded.
        OptionError
            Unknown labels, or an interval without the draws it needs.

        Examples
        --------
        >>> import slamglmm as sg
        >>> frame = sg.datasets.load("sleepstudy").frame
        >>> fit = sg.slam("Reaction ~ Days + (1 + Days || Subject)", frame, store=(*sg.DEFAULT_STORE, "U"),
        ...               draws=50, burn=50, seed=1)
        >>> new = frame.iloc[:2].assign(Days=[10, 11])
        >>> fit.predict(new, interval=0.9).columns.tolist()
        [('Reaction', 'mean'), ('Reaction', 'lower'), ('Reaction', 'upper')]
        >>> fit.predict(new.assign(Subject=["new one", "another"]), new_levels="zero").equals(
        ...     fit.predict(new, random="none")
        ... )
        True
        """
        if interval is not None:
            probability(interval, "interval")
        labels = self._labels_of(random)
        to_data = _is_data(scale) and bool(self.data_scales)
        if to_data:
            self._all_data_scales()
        if newdata is None and random == "all" and interval is None:
            return self.fitted(scale=scale)
        terms = list(dict.fromkeys(self._component(label).term for label in labels))
        design = self.design if newdata is None else self.design.new(newdata, new_levels, terms=terms)
        X = self._total_columns(design, newdata)
        effects, _ = self._total_effects()
        left_out = np.isnan(effects[0, 0])
        warn_not_estimable(self.design, design, left_out[: self.design.X.shape[1]])
        effects = np.where(left_out, 0.0, effects)
        offset = 0.0 if design.offset is None else design.offset[:, None]
        rows = {label: self._rows_of(design, self._component(label)) for label in labels}
        if interval is None and not to_data:
            values = X @ effects.mean(axis=(0, 1)) + offset
            self._add_cis(values, newdata)
            for label, (codes, multiplier) in rows.items():
                values += multiplier * self.ranef(label).to_numpy()[codes]
            return pd.DataFrame(values, index=design.X.index, columns=self.traits)
        missing = [label for label in labels if f"U_{label}" not in self.posterior]
        if missing:
            what = 'scale="data"' if to_data else f"interval={interval}"
            raise OptionError(
                f"predict({what}): the draws of U for {shortlist(missing)} were not stored. "
                'Refit with store=(*slamglmm.DEFAULT_STORE, "U").'
            )
        draws = np.einsum("nb,cdbp->cdnp", X, effects) + offset
        self._add_cis(draws, newdata)
        for label, (codes, multiplier) in rows.items():
            draws += multiplier * self._values(f"U_{label}")[:, :, codes]
        if to_data:
            draws = self._expected_data(draws, labels)
        if interval is None:
            return pd.DataFrame(draws.mean(axis=(0, 1)), index=design.X.index, columns=self.traits)
        low, high = np.quantile(draws, _tails(interval, "interval"), axis=(0, 1))
        parts = {"mean": draws.mean(axis=(0, 1)), "lower": low, "upper": high}
        frames = {name: pd.DataFrame(v, index=design.X.index, columns=self.traits) for name, v in parts.items()}
        table = pd.concat(frames, axis=1).swaplevel(axis=1)
        return table[[(trait, name) for trait in self.traits for name in parts]]

    def _add_cis(self, out: np.ndarray, newdata: Any) -> None:
        """Add what the covariates of single traits do to means (row, trait) or draws (chain, draw, row, trait)."""
        if self.cis_columns is None:
            return
        effects = self._values("cis")
        if out.ndim == 2:
            effects = effects.mean(axis=(0, 1))
        self.cis_columns.add(out, effects, self.cis_columns.of_rows(newdata), list(self.traits))

    def _total_effects(self) -> tuple[np.ndarray, list[str]]:
        """Draws of ``B + B_F Lambda`` (chain, draw, column, trait), and the columns: the traits', then the factors'."""
        direct, names = self._values("B"), list(self.design.X.columns)
        if "B_factor" not in self.posterior:
            return direct, names
        through = np.matmul(self._values("B_factor"), self._loadings)
        own = [str(name) for name in self.posterior["fixef_factor"].values]
        names += [name for name in own if name not in names]
        total = np.zeros((*direct.shape[:2], len(names), direct.shape[3]))
        total[:, :, : direct.shape[2]] = direct
        for i, name in enumerate(own):
            total[:, :, names.index(name)] += through[:, :, i]
        return total, names

    def _total_columns(self, design: Design, newdata: Any) -> np.ndarray:
        """Columns of the total effects on the rows of a design, or on new rows."""
        names = self._total_effects()[1]
        extra = [name for name in names if name not in design.X.columns]
        if not extra:
            return design.X[names].to_numpy()
        assert self.factor_design is not None
        own = self.factor_design if newdata is None else self.factor_design.new(newdata)
        columns = own.X[extra].set_axis(own.rows).reindex(design.rows)
        return np.column_stack((design.X.to_numpy(), columns.to_numpy()))

    # -- the scale of the data --------------------------------------------------------------------------------------

    @cached_property
    def _data_draws(self) -> np.ndarray:
        """Positions of the draws, all chains together, that are taken to the scale of the data."""
        total = self.posterior.sizes["chain"] * self.posterior.sizes["draw"]
        return np.unique(np.linspace(0, total - 1, min(total, data_scale.MOST_DRAWS)).round().astype(int))

    @cached_property
    def _data_moments(self) -> tuple[np.ndarray, np.ndarray]:
        """Draws of slopes and of variances of the data, both (draw, trait); eq. LINK-37."""
        chosen, scales = self._data_draws, self._all_data_scales()
        effects = np.nan_to_num(_pooled(self._total_effects()[0])[chosen])
        variance = _pooled(self._variance_of([*self._terms, RESIDUAL]))[chosen]
        offset = np.zeros(self.design.n) if self.design.offset is None else self.design.offset
        columns = self._total_columns(self.design, None)
        rows, weights = data_scale.distinct_rows(np.column_stack((columns, offset)))
        own_effects = np.zeros(0) if self.cis_columns is None else _pooled(self._values("cis"))[chosen]
        slope, total = np.empty((2, len(chosen), len(scales)))
        for j, of in enumerate(scales):
            own = {key: values[chosen] for key, values in self._link_parameters(of).items()}
            fixed, on_rows, shares = effects[:, :, j], rows, weights
            if self.cis_columns is not None and self.traits[j] in self.cis_columns.spans:
                span = self.cis_columns.spans[self.traits[j]]
                covariates = self.cis_columns.of_rows()[:, self.cis_columns.column[span]]
                fixed = np.column_stack((fixed, own_effects[:, span]))
                on_rows, shares = data_scale.distinct_rows(np.column_stack((columns, covariates, offset)))
            slope[:, j], total[:, j] = data_scale.moments_over_rows(of, fixed, on_rows, shares, variance[:, j], own)
        return slope, total

    def _expected_data(self, draws: np.ndarray, labels: Sequence[str]) -> np.ndarray:
        """Expected data of latent predictions (chain, draw, row, trait), over what is not in them."""
        left = [name for name in [*self._terms, RESIDUAL] if name not in labels]
        variance = self._variance_of(left)
        expected = np.empty_like(draws)
        for j, of in enumerate(self._all_data_scales()):
            shape = draws.shape[:2]
            own = {key: v.reshape(*shape, 1, *v.shape[1:]) for key, v in self._link_parameters(of).items()}
            expected[..., j] = of.scale.moments(draws[..., j], variance[..., None, j], own).mean
        return expected

    def _variance_of(self, names: Sequence[str]) -> np.ndarray:
        """Draws of the latent variance of some random effects together, (chain, draw, trait)."""
        return np.sum([self._variance_part(name) for name in names], axis=0)

    def _all_data_scales(self) -> list[TraitScale]:
        scales = [of for of in self.data_scales if of is not None]
        if len(scales) < len(self.data_scales):
            bad = [name for name, of in zip(self.traits, self.data_scales, strict=True) if of is None]
            raise OptionError(
                f'scale="data": {shortlist(bad)} are latent traits without data of their own. Use the latent scale'
                f"{', or curves()' if self.curve_bases else ''}."
            )
        return scales

    def _link_parameters(self, of: TraitScale) -> dict[str, np.ndarray]:
        """Draws of a trait's own parameters of its link, all chains together."""
        return {key: _pooled(self._values(name, "links"))[:, at] for key, (name, at) in of.variables.items()}

    # -- curves -----------------------------------------------------------------------------------------------------

    def curves(
        self, newdata: Any = None, *, individuals: Sequence[Any] | None = None, prob: float = 0.9
    ) -> pd.DataFrame:
        """Curves of individuals, from the draws of their coefficients (link `slamglmm.links.Regression`).

        Parameters
        ----------
        newdata : DataFrame, optional
            Times, in the columns that the link's formula names: every individual's curve at all of them, or, with the
            column that names the individual, one point a row. None gives the times of the measurements.
        individuals : sequence, optional
            Only these.
        prob : float
            Mass of the equal-tailed interval at each point: of the curve, without the noise of a measurement.

        Returns
        -------
        DataFrame
            One row for each trait, individual and time: trait, the individual, the columns of `newdata`, mean, sd,
            lower, upper.

        Raises
        ------
        DataError
            Unknown individuals; times that cannot be encoded, such as some beyond the range of a spline.
        OptionError
            A fit without curves, or whose ``store=`` left out "Eta".
        """
        tails = _tails(prob)
        self._need_curves("curves()")
        if not self._has(("Eta",)):
            raise self._not_stored("curves()", ("Eta",))
        eta, tables = self.posterior["Eta"], []
        for basis in self.curve_bases:
            times = basis.times if newdata is None else basis.read(newdata)
            if newdata is None and individuals is not None:
                times, individuals = times[times[basis.individual].isin(list(individuals))], None
            X = basis.at(times)
            codes, rows = basis.pairs(times, individuals)
            labels = times.iloc[rows].reset_index(drop=True)
            labels[basis.individual] = basis.individuals[codes]
            for trait in basis.measured:
                draws = _pooled(eta.sel(trait=basis.coefficients(trait)).to_numpy())
                points = curve_table(draws, X, codes, rows, tails)
                tables.append(pd.concat([labels, points], axis=1).assign(trait=trait))
        table = pd.concat(tables, ignore_index=True)
        first = ["trait", *dict.fromkeys(basis.individual for basis in self.curve_bases)]
        return table[[*first, *(name for name in table.columns if name not in first)]]

    def curve_variances(self, newdata: Any, *, prob: float = 0.9) -> pd.DataFrame:
        """Variance of curves among individuals at given times, by random effect (link `slamglmm.links.Regression`).

        With a row x of the basis and the coefficients' G and R: ``x'Gx`` and ``x'Rx``. The noise of a
        measurement is not in it.

        Parameters
        ----------
        newdata : DataFrame
            Times, in the columns that the link's formula names.
        prob : float
            Mass of the equal-tailed intervals.

        Returns
        -------
        DataFrame
            One row for each trait, term ("Residual" for R) and time: trait, term, the columns of `newdata`, mean, sd,
            lower, upper, and share, the posterior mean of the share in the variance of the curve: of a genetic term the
            heritability.

        Raises
        ------
        DataError
            Times that cannot be encoded.
        OptionError
            A fit without curves, or whose ``store=`` left out what variances are computed from.
        """
        probability(prob)
        self._need_curves("curve_variances()")
        if not self._has(PARTS):
            raise self._not_stored("curve_variances()", PARTS)
        names, tables = [*self._terms, RESIDUAL], []
        for basis in self.curve_bases:
            times = basis.read(newdata).drop(columns=basis.individual, errors="ignore")
            X = basis.at(times)
            for trait in basis.measured:
                columns = self.traits.get_indexer(basis.coefficients(trait))
                loadings = self._loadings[..., columns] @ X.T
                draws = {}
                for name in names:
                    share, own = self._parts(name)
                    draws[name] = covariance.variances(loadings, share, own[..., columns] @ (X**2).T)
                parts = {name: of_term * self._square_unit(name) for name, of_term in draws.items()}
                total = np.sum(list(parts.values()), axis=0)
                for name, of_term in draws.items():
                    table = _interval_table(of_term, times.index, prob)
                    table["share"] = (parts[name] / total).mean(axis=(0, 1))
                    tables.append(pd.concat([times, table], axis=1).assign(trait=trait, term=name))
        out = pd.concat(tables, ignore_index=True)
        return out[["trait", "term", *(name for name in out.columns if name not in ("trait", "term"))]]

    def _need_curves(self, what: str) -> None:
        if not self.curve_bases:
            raise OptionError(f"{what} is for fits with link=slamglmm.links.Regression(...).")

    # -- chains -----------------------------------------------------------------------------------------------------

    @cached_property
    def _diagnostics(self) -> pd.DataFrame:
        tables = []
        traits = self.traits
        if self._terms and self._has_h2:
            values = self._h2_draws("diagnostics()")
            index = pd.MultiIndex.from_product([["h2"], self._terms, traits])
            tables.append(diagnose(values.reshape(*values.shape[:2], -1), index))
        chosen = np.unique(np.linspace(0, len(traits) - 1, min(DIAGNOSED_TRAITS, len(traits))).round().astype(int))
        first, second = (chosen[i] for i in np.triu_indices(len(chosen), 1))
        pairs = [f"{traits[i]} ~ {traits[j]}" for i, j in zip(first, second, strict=True)]
        for term in [*self._terms, RESIDUAL]:
            symbol = "R" if term == RESIDUAL else "G"
            diagonal = self._variances(term)
            if diagonal is not None:
                tables.append(diagnose(diagonal, pd.MultiIndex.from_product([[symbol], [term], traits])))
            elements = self._covariance_elements(term, first, second)
            if pairs and elements is not None:
                tables.append(diagnose(elements, pd.MultiIndex.from_product([[symbol], [term], pairs])))
        if self.cis_columns is not None and "cis" in self.posterior:
            named = self.cis_columns.effects
            some = np.unique(np.linspace(0, len(named) - 1, min(DIAGNOSED_CIS, len(named))).round().astype(int))
            index = pd.MultiIndex.from_tuples([("cis", covariate, trait) for trait, covariate in named[some]])
            tables.append(diagnose(self._values("cis")[..., some], index))
        if not tables:
            return pd.DataFrame()
        table = pd.concat(tables)
        table.index = table.index.set_names(["variable", "term", "trait"])
        return table

    def diagnostics(self) -> pd.DataFrame:
        """Convergence of quantities that do not depend on the labels of factors.

        Returns
        -------
        DataFrame
            Index (variable, term, trait): h2 of every trait, variances (G and R), and covariances among some pairs of
            traits, as far as ``store=`` kept them; effects of ``cis`` (at most 500, evenly spread), the covariate in
            place of the term. Columns mean, sd, mcse, ess_bulk, ess_tail, r_hat. ``.attrs`` has ``seconds_per_draw``
            and ``seconds``.
        """
        if self._diagnostics.empty:
            raise self._not_stored("diagnostics()", ("h2",), "'G_diag' and 'R_diag'")
        table = self._diagnostics.copy()
        kept = self.posterior.sizes["chain"] * self.posterior.sizes["draw"]
        table.attrs = {"seconds": self.seconds, "seconds_per_draw": self.seconds / max(kept, 1)}
        return table

    def summary(self, prob: float = 0.9) -> Summary:
        """Text or HTML summary; ``to_frame()`` gives the table of variance shares with diagnostics.

        Parameters
        ----------
        prob : float
            Mass of the intervals of h2.

        Returns
        -------
        Summary
        """
        return slam_summary(self, probability(prob))

    def extend(self, draws: int, *, progress: bool | None = None) -> SlamResult:
        """Continue every chain on its own random stream.

        Parameters
        ----------
        draws : int
            Further draws to keep from each chain; 200 draws and then 300 more equal 500 at once, to the bit.
        progress : bool, optional

        Returns
        -------
        SlamResult
            A new result; this one is unchanged.

        Raises
        ------
        OptionError
            The fit was loaded, and another version of slamglmm made it.

        Examples
        --------
        >>> import slamglmm as sg
        >>> frame = sg.datasets.load("pastes").frame
        >>> fit = sg.slam("strength ~ 1 + (1 | batch / cask)", frame, draws=20, burn=20, seed=1)
        >>> fit = fit.extend(30)
        >>> fit.posterior.sizes["draw"]
        50
        """
        check = Options({"draws": draws, "progress": progress}, "extend")
        check.whole("draws", least=1)
        check.flag("progress", optional=True)
        return self.chains.extend(self, draws, progress)

    @property
    def plot(self) -> SlamPlots:
        """Pictures: ``plot.trace()``, ``.h2()``, ``.G()``, ``.loadings()``; needs matplotlib (extra ``plot``)."""
        from ..plots import SlamPlots

        return SlamPlots(self)

    def to_inferencedata(self) -> Any:
        """ArviZ's container (InferenceData, or a DataTree from arviz 1.0 on); needs the extra ``arviz``."""
        draws = self.posterior[[name for name, v in self.posterior.items() if "draw" in v.dims]]
        try:
            import arviz
        except ImportError:
            return xr.DataTree.from_dict({"/posterior": draws})
        if hasattr(arviz, "InferenceData") and hasattr(arviz, "convert_to_inference_data"):
            return arviz.InferenceData(posterior=draws)
        return xr.DataTree.from_dict({"/posterior": draws})

    # -- disk -------------------------------------------------------------------------------------------------------

    def _write(self, folder: Path) -> None:
        write_arrays(self.posterior, folder / POSTERIOR)
        self._write_rest(folder)

    def finish(self, folder: Path) -> None:
        """Turn the folder of a streamed run, which has the draws, into a saved result.

        Parameters
        ----------
        folder : Path
        """
        means = [name for name, values in self.posterior.items() if "draw" not in values.dims]
        write_arrays(self.posterior[means].assign_coords(self.posterior.coords), folder / POSTERIOR, mode="a")
        self._write_rest(folder)
        write_manifest(folder, type(self), HERE)
        object.__setattr__(self, "_home", folder)

    def _write_rest(self, folder: Path) -> None:
        write_pickle(folder / FIT, {f.name: getattr(self, f.name) for f in fields(self) if f.name != "posterior"})

    @classmethod
    def _read(cls, folder: Path, checksum: bool) -> SlamResult:
        rest = read_pickle(folder / FIT, checksum)
        if not checksum:  # of a time when the version did not change with the sampler
            rest["chains"] = EndedChains(f"an early {rest['version']}")
        elif rest["version"] != __version__:
            rest["chains"] = EndedChains(rest["version"])
        posterior = open_arrays(folder / POSTERIOR, checksum)
        if posterior.nbytes < LAZY_BYTES:
            with damage_named(folder / POSTERIOR):
                posterior = posterior.load()
            return cls(posterior=posterior, **rest)
        fit = cls(posterior=posterior, **rest)
        object.__setattr__(fit, "_home", folder)
        return fit

    def with_draws(self, posterior: xr.Dataset, chains: Continuation, seconds: float, draws: int) -> SlamResult:
        """The same fit with another posterior; what `extend` returns.

        Parameters
        ----------
        posterior : xarray.Dataset
        chains : Continuation
            Where these draws stop.
        seconds : float
        draws : int
            Kept draws of each chain, all runs together.

        Returns
        -------
        SlamResult
        """
        options = {**self.options, "draws": draws}
        return replace(self, posterior=posterior, chains=chains, seconds=seconds, options=options)

    # -- inside -----------------------------------------------------------------------------------------------------

    def __dir__(self) -> list[str]:
        # Tab completion without what only the fitter asks of a result.
        return [name for name in super().__dir__() if name not in ("chains", "finish", "with_draws")]

    @property
    def _terms(self) -> list[str]:
        return [component.label for component in self.components]

    @cached_property
    def _loadings(self) -> np.ndarray:
        # As stored: in single precision a copy in double would take more room than the draws.
        self._check_stored("Lambda")
        return self.posterior["Lambda"].to_numpy()

    @cached_property
    def _alignment_draws(self) -> np.ndarray:
        total = self._loadings.shape[0] * self._loadings.shape[1]
        return np.unique(np.linspace(0, total - 1, min(total, 1000)).round().astype(int))

    @cached_property
    def _alignment(self) -> tuple[np.ndarray, np.ndarray]:
        return align_loadings(_pooled(self._loadings)[self._alignment_draws])

    def _check_stored(self, name: str, option: str | None = None) -> None:
        if name not in self.posterior:
            now = self.options.get("store")
            raise OptionError(f"'{option or name}' was not stored. Refit with it in store= (now: {now}).")

    def _values(self, name: str, option: str | None = None) -> np.ndarray:
        """A variable in double precision, named `option` in ``store=``."""
        self._check_stored(name, option)
        return self.posterior[name].to_numpy().astype(float, copy=False)

    def _has(self, names: Sequence[str]) -> bool:
        return all(name in self.posterior for name in names)

    def _not_stored(self, what: str, names: Sequence[str], instead: str | None = None) -> OptionError:
        missing = [name for name in names if name not in self.posterior]
        return OptionError(
            f"{what}: {', '.join(map(repr, missing))} not stored. Refit with store= naming "
            f"{', '.join(map(repr, names))}{'' if instead is None else f', or {instead}'} "
            f"(now: {self.options.get('store')})."
        )

    @property
    def _has_h2(self) -> bool:
        return self._has(["h2"]) or all(self._can_tell_variances(name) for name in [*self._terms, RESIDUAL])

    def _can_tell_variances(self, name: str) -> bool:
        stored = ("R_diag", "R") if name == RESIDUAL else ("G_diag", "G")
        return self._has(PARTS) or any(symbol in self.posterior for symbol in stored)

    def _h2_draws(self, what: str) -> np.ndarray:
        """Draws of the variance shares, (chain, draw, term, trait)."""
        if "h2" in self.posterior:
            return self._values("h2")
        if not self._has_h2:
            raise self._not_stored(what, ("h2",), "'G_diag' and 'R_diag'")
        of_terms = np.stack([self._variance_part(name) for name in [*self._terms, RESIDUAL]], axis=2)
        return of_terms[:, :, :-1] / of_terms.sum(axis=2, keepdims=True)

    def _square_unit(self, name: str) -> float:
        """What the variance of one unit of a random effect is multiplied by to be its part of a trait's variance."""
        return 1.0 if name == RESIDUAL else self._component(name).unit ** 2

    def _variance_part(self, name: str) -> np.ndarray:
        """Draws of a random effect's part in the variance of the traits, (chain, draw, trait)."""
        return self.variance_draws(name).to_numpy() * self._square_unit(name)

    def _variances(self, name: str) -> np.ndarray | None:
        """Draws of the diagonal of G or R, (chain, draw, trait); None when they were not stored."""
        diagonal = "R_diag" if name == RESIDUAL else "G_diag"
        if diagonal in self.posterior:
            values = self._values(diagonal)
            return values if name == RESIDUAL else values[:, :, self._terms.index(name)]
        whole = self._stored_covariances(name)
        if whole is not None:
            return np.einsum("cdtt->cdt", whole)
        return covariance.variances(self._loadings, *self._parts(name)) if self._has(PARTS) else None

    def _covariance_elements(self, name: str, first: np.ndarray, second: np.ndarray) -> np.ndarray | None:
        """Draws of some elements of G or R; None when they were not stored."""
        whole = self._stored_covariances(name)
        if whole is not None:
            return whole[:, :, first, second]
        if not self._has(PARTS):
            return None
        return covariance.covariance_elements(self._loadings, *self._parts(name), first, second)

    def _stored_covariances(self, name: str) -> np.ndarray | None:
        """Draws of G or R as they were stored, (chain, draw, trait, trait); None when they were not."""
        symbol = "R" if name == RESIDUAL else "G"
        if symbol not in self.posterior:
            return None
        values = self.posterior[symbol]
        if name != RESIDUAL:
            values = values[:, :, self._terms.index(name)]
        return values.to_numpy().astype(float, copy=False)

    def _mean_covariance(self, name: str, what: str) -> pd.DataFrame:
        stored = self._stored_covariances(name)
        if stored is not None:
            return self._trait_frame(stored.mean(axis=(0, 1)))
        return self._trait_frame(covariance.mean_covariance(*self._stacked(name, what)))

    def _level_frame(self, component: ComponentLabel, values: np.ndarray) -> pd.DataFrame:
        term = self.design.term(component.term)
        return pd.DataFrame(values, index=term.levels.rename(term.group), columns=self.traits)

    def _parts(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """Variance of a term in each factor and in each trait's own part, with chain and draw."""
        factor, own = self._values("h2_factor"), self._values("h2_residual")
        variance = self._values("residual_var")
        if name == RESIDUAL:
            return 1.0 - factor.sum(axis=2), (1.0 - own.sum(axis=2)) * variance
        m, square = self._terms.index(name), self._square_unit(name)
        return factor[:, :, m] / square, own[:, :, m] * variance / square

    def _stacked(self, name: str, what: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        if not self._has(PARTS):
            raise self._not_stored(what, PARTS, "'R'" if name == RESIDUAL else "'G'")
        share, own = self._parts(name)
        return _pooled(self._loadings), _pooled(share), _pooled(own)

    def _one_term(self, label: str | None, residual: bool = True) -> str:
        known = [*self._terms, RESIDUAL] if residual else self._terms
        if label is None and len(self._terms) == 1:
            return self._terms[0]
        if not known:
            raise OptionError(f"label={label!r}: the formula {self.formula!r} has no random effects.")
        if label not in known:
            raise OptionError(f"label={label!r}: expected one of {shortlist(known, 20)}.")
        return str(label)

    def _component(self, label: str) -> ComponentLabel:
        return self.components[self._terms.index(label)]

    def _labels_of(self, random: str | Sequence[str]) -> list[str]:
        if random == "all":
            return self._terms
        if random == "none":
            return []
        return [self._one_term(label, residual=False) for label in ([random] if isinstance(random, str) else random)]

    @staticmethod
    def _rows_of(design: Design, component: ComponentLabel) -> tuple[np.ndarray, np.ndarray]:
        """Level of each row, and its multiplier (zero for an unknown level)."""
        term = design.term(component.term)
        return term.codes, np.where(term.codes >= 0, term.M[:, component.effect], 0.0)[:, None]

    def _trait_frame(self, values: np.ndarray) -> pd.DataFrame:
        return pd.DataFrame(values, index=self.traits.rename("trait"), columns=self.traits)

    def _draw_coords(self) -> Mapping[str, Any]:
        return {name: self.posterior.coords[name].to_numpy() for name in ("chain", "draw")}


def _pooled(draws: np.ndarray) -> np.ndarray:
    """Draws of all chains one after the other; also when there are no factors, so nothing to count them by."""
    return draws.reshape(draws.shape[0] * draws.shape[1], *draws.shape[2:])


def _is_data(scale: str) -> bool:
    Options({"scale": scale}).choice("scale", ("latent", "data"))
    return scale == "data"


def _tails(prob: float, name: str = "prob") -> list[float]:
    mass = probability(prob, name)
    return [0.5 * (1 - mass), 0.5 * (1 + mass)]


def _interval_table(draws: np.ndarray, index: pd.Index, prob: float) -> pd.DataFrame:
    low, high = np.quantile(_pooled(draws), _tails(prob), axis=0)
    # Of a sample, as in `diagnostics`.
    sd = draws.std(axis=(0, 1), ddof=1 if draws.shape[0] * draws.shape[1] > 1 else 0)
    columns = {"mean": draws.mean(axis=(0, 1)), "sd": sd, "lower": low, "upper": high}
    return pd.DataFrame(columns, index=index)
