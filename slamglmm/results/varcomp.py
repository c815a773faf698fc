"""Results of fits that estimate variance components: `HeResult` and `NetgsaResult`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import NormalDist
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np
import pandas as pd

from ..design.aliasing import fixed_part
from ..errors import OptionError, shortlist
from ..options import probability
from .base import Result
from .files import FIT, read_pickle, write_pickle
from .new_markers import marker_part

if TYPE_CHECKING:
    from .show import Summary

RESIDUAL = "Residual"


@dataclass(frozen=True, eq=False)
class MarkerEffects:
    """BLUPs of one component and of its markers, for every trait.

    Attributes
    ----------
    table : str
        Label of the table of markers.
    names : pandas.Index, length m
    coef : ndarray, m x t
        Effect of one copy of the allele; zero for markers that do not vary, or of another bin.
    means : ndarray, length m
        Mean dosages, at which the effects are zero.
    rows : ndarray, n x t
        What the markers add to the rows of the fit.
    """

    table: str
    names: pd.Index
    coef: np.ndarray
    means: np.ndarray
    rows: np.ndarray


class MixedModel(Protocol):
    """What a result needs of the fit for fixed effects and BLUPs."""

    def coefficients(self) -> tuple[np.ndarray, np.ndarray]:
        """Fixed effects (t x b) and covariances (t x b x b)."""

    def random_effects(self, t: int) -> np.ndarray:
        """BLUPs of one term, traits x levels x effects."""

    @property
    def marker_effects(self) -> Sequence[MarkerEffects]:
        """BLUPs of every component of markers."""


class PairsOfTraits(Protocol):
    """Fits of traits that are known in different rows, on the rows of both."""

    def covers(self, u: int, v: int) -> bool:
        """Whether two traits are known in different rows."""

    def of(self, u: int, v: int) -> tuple[np.ndarray, Any, tuple[int, int]] | None:
        """Estimates, uncertainty, and where the two traits stand in them; None if they share too few rows."""


class Uncertainty(Protocol):
    """Covariances of estimated (co)variances."""

    def covariance(self, first: tuple[int, int], second: tuple[int, int]) -> np.ndarray:
        """Covariance of all components of two pairs of traits, (q+1) x (q+1)."""


@dataclass(frozen=True, eq=False)
class TraitCovariances:
    """Covariance of the estimates of each trait; nothing is known across traits.

    Attributes
    ----------
    values : ndarray, t x (q+1) x (q+1)
    kind : str
        Where they come from.
    draws : ndarray, t x n_draws x (q+1), or None
        Bootstrap estimates.
    """

    values: np.ndarray
    kind: str
    draws: np.ndarray | None = None

    def covariance(self, first: tuple[int, int], second: tuple[int, int]) -> np.ndarray:
        """Known for one trait with itself, else NaN."""
        if first == second and first[0] == first[1]:
            return self.values[first[0]]
        return np.full(self.values.shape[1:], np.nan)


@dataclass(frozen=True, eq=False, repr=False)
class HeResult(Result):
    """Variance components by moments (or REML).

    Attributes
    ----------
    names : tuple of str, length q+1
        Residual first, then the components in the order of the formula, then the markers.
    traits : tuple of str
    is_variance : tuple of bool
        False for a covariance of two effects of one term.
    term_of : tuple of str or None
        Label of the random term of each component; that of the component itself for markers.
    theta : ndarray, (q+1) x t x t
        Estimates; off the diagonal the covariances among traits.
    unconstrained : ndarray, (q+1) x t x t
        HE, at which intervals are centred.
    uncertainty : Uncertainty or None
    moments : NormalEquations or None
        Gram matrix `S` and right-hand side `c`; those of disjoint cohorts add up.
    model : MixedModel
    loglik : tuple of float
        REML or ML only, one for each trait.
    factors : tuple of ndarray
        REML or ML only: lme4's theta of each trait.
    p_values : ndarray or None
        Distances only: permutation p value of each component.
    n_skipped : int
        reREHE only: subsamples that could not be solved.
    pairwise : PairsOfTraits or None
        Where traits lack different rows: variances are of a trait's own rows, covariances of the rows of both.
    """

    names: tuple[str, ...]
    traits: tuple[str, ...]
    is_variance: tuple[bool, ...]
    term_of: tuple[str | None, ...]
    theta: np.ndarray
    unconstrained: np.ndarray
    uncertainty: Uncertainty | None
    moments: Any
    model: MixedModel
    loglik: tuple[float, ...] = ()
    factors: tuple[np.ndarray, ...] = ()
    p_values: np.ndarray | None = None
    n_skipped: int = 0
    pairwise: PairsOfTraits | None = None

    # -- variances ---------------------------------------------------------------------------------

    def varcorr(self) -> pd.DataFrame:
        """Variance of every component and of the residual, by trait.

        Returns
        -------
        DataFrame
            Index (term, trait), the residual last; columns variance, se and share (of the sum of variances; NaN for
            covariances of effects), and p for a distance.
        """
        se = self._se()
        rows = self._order()
        values = np.einsum("itt->it", self.theta)
        table = pd.DataFrame(
            {
                "variance": values[rows].ravel(),
                "se": se[rows].ravel(),
                "share": self._shares(values)[rows].ravel(),
            },
            index=self._index(rows),
        )
        if self.p_values is not None:
            table["p"] = self.p_values[rows]
        return table

    def h2(self, label: str | None = None) -> Any:
        """Share of a component in the sum of all variances.

        Parameters
        ----------
        label : str, optional
            A component; all but the residual when left out. A term with several effects, such as intercept and
            slope, has a share for each of them. That of a slope is at one unit of its covariate, so it changes with
            the unit: divide the covariate by its root mean square first for the slope's part of the mean variance.

        Returns
        -------
        float, Series or DataFrame
            A number for one trait, a Series by trait for several; a component x trait DataFrame without `label`.
        """
        shares = self._shares(np.einsum("itt->it", self.theta))
        if label is None:
            keep = [i for i in self._order()[:-1] if self.is_variance[i]]
            return pd.DataFrame(
                shares[keep], index=pd.Index([self.names[i] for i in keep], name="term"), columns=list(self.traits)
            )
        row = shares[self._position(label)]
        return float(row[0]) if len(row) == 1 else pd.Series(row, index=list(self.traits), name=label)

    def conf_int(self, level: float = 0.95, of: str = "variance", kind: str = "wald") -> pd.DataFrame:
        """Confidence intervals of variances or shares.

        Parameters
        ----------
        level : float
        of : {"variance", "share"}
        kind : {"wald", "quantile"}
            Estimate plus or minus normal quantiles times the standard error; or percentiles of the bootstrap.

        Returns
        -------
        DataFrame
            Index (term, trait); columns estimate, lower, upper. With sandwich and jackknife errors the interval is
            centred at the unconstrained estimate, so it may reach below zero and need not hold the REHE estimate's
            midpoint; bounds are not clipped.

        Raises
        ------
        OptionError
            The fit has no standard errors, or no bootstrap draws for ``kind="quantile"``.
        """
        if self.uncertainty is None:
            raise OptionError("this fit has no standard errors; fit again with se='sandwich'.")
        if of not in ("variance", "share"):
            raise OptionError(f"of must be 'variance' or 'share', got {of!r}.")
        if kind not in ("wald", "quantile"):
            raise OptionError(f"kind must be 'wald' or 'quantile', got {kind!r}.")
        rows = self._order()
        values = np.einsum("itt->it", self.theta)
        z = _normal_quantile(level, "level")
        if kind == "quantile":
            lower, upper = self._quantiles(level, of)
        else:
            centre = values if self._centred_at_estimate else np.einsum("itt->it", self.unconstrained)
            half = z * (self._se() if of == "variance" else self._share_se())
            centre = centre if of == "variance" else self._shares(centre)
            lower, upper = centre - half, centre + half
        shown = values if of == "variance" else self._shares(values)
        table = pd.DataFrame(
            {"estimate": shown[rows].ravel(), "lower": lower[rows].ravel(), "upper": upper[rows].ravel()},
            index=self._index(rows),
        )
        return table if of == "variance" else table[np.repeat([self.is_variance[i] for i in rows], len(self.traits))]

    def covariance(self, label: str, trait: str | None = None) -> pd.DataFrame:
        """Covariance matrix of the effects of one term, such as intercept and slope.

        Parameters
        ----------
        label : str
            Of the random term.
        trait : str, optional
            One of several traits; the first unless given.

        Returns
        -------
        DataFrame, effects x effects
        """
        term = self.design.term(label)
        if trait is not None and trait not in self.traits:
            raise OptionError(f"no trait {trait!r}; the traits are {shortlist(self.traits)}.")
        j = 0 if trait is None else self.traits.index(trait)
        members = [i for i, own in enumerate(self.term_of) if own == label]
        e = len(term.effects)
        matrix = np.zeros((e, e))
        at = iter(members)
        for a in range(e):
            for b in range(a, e if term.correlated else a + 1):
                matrix[a, b] = matrix[b, a] = self.theta[next(at), j, j]
        return pd.DataFrame(matrix, index=term.effects, columns=term.effects)

    # -- several traits ------------------------------------------------------------------------------

    def G(self, label: str) -> pd.DataFrame:
        """Covariances among traits of one component, trait x trait.

        Parameters
        ----------
        label : str
            Of the component. With one trait also a term with several effects, which gives their covariances,
            effect x effect; with several traits see `covariance`.
        """
        if len(self.traits) == 1 and self._components_of(label):
            return self.covariance(label)
        matrix = self.theta[self._position(label)]
        return pd.DataFrame(matrix, index=pd.Index(self.traits, name="trait"), columns=list(self.traits))

    def R(self) -> pd.DataFrame:
        """Residual covariances among traits, trait x trait."""
        return self.G(RESIDUAL)

    def rg(self, label: str | None = None, level: float = 0.95) -> pd.DataFrame:
        """Correlations among traits of the effects of a component, such as genetic correlations.

        Parameters
        ----------
        label : str, optional
            One component; all but the residual when left out.
        level : float
            Probability of the intervals.

        Returns
        -------
        DataFrame
            Index (term, trait1, trait2); columns rg, se, lower, upper (delta method). NaN where a variance is not
            above zero.

        Raises
        ------
        OptionError
            There is one trait only, or the fit was by REML.
        """
        t = len(self.traits)
        if t < 2 or np.isnan(self.theta[:, ~np.eye(t, dtype=bool)]).all():
            raise OptionError(
                "rg() needs several traits fitted together by moments: give Y= and method='rehe' or 'he'."
            )
        chosen = [i for i in self._order()[:-1] if self.is_variance[i]] if label is None else [self._position(label)]
        z = _normal_quantile(level, "level")
        rows, index = [], []
        for i in chosen:
            for u in range(t):
                for v in range(u + 1, t):
                    value, se = self._correlation(i, u, v)
                    rows.append((value, se, value - z * se, value + z * se))
                    index.append((self.names[i], self.traits[u], self.traits[v]))
        return pd.DataFrame(
            rows,
            index=pd.MultiIndex.from_tuples(index, names=["term", "trait1", "trait2"]),
            columns=["rg", "se", "lower", "upper"],
        )

    # -- effects -----------------------------------------------------------------------------------------

    def fixef(self, prob: float | None = None) -> pd.DataFrame:
        """Fixed effects by generalised least squares at the estimated variances (none below zero).

        Parameters
        ----------
        prob : float, optional
            None gives estimates, fixef x trait; a number gives the long table with intervals of this probability.

        Returns
        -------
        DataFrame
            NaN for a column that is a combination of earlier ones.
        """
        self._refuse_distance("fixed effects")
        names = list(self.design.X.columns)
        coef, covariance = self.model.coefficients()
        if prob is None:
            return pd.DataFrame(coef.T, index=pd.Index(names, name="fixef"), columns=list(self.traits))
        se = np.sqrt(np.einsum("tbb->tb", covariance))
        half = _normal_quantile(prob, "prob") * se
        index = pd.MultiIndex.from_product([names, list(self.traits)], names=["fixef", "trait"])
        columns = {"estimate": coef, "se": se, "lower": coef - half, "upper": coef + half}
        return pd.DataFrame({name: value.T.ravel() for name, value in columns.items()}, index=index)

    def ranef(self, label: str | None = None) -> pd.DataFrame:
        """Random effects of one term, as best linear unbiased predictions at the estimated variances.

        Parameters
        ----------
        label : str, optional
            Of the random term, of one of its effects ("Days|Subject"), or of a component of markers; may be left out
            when there is one term.

        Returns
        -------
        DataFrame
            Levels (those of the relationship matrix, with and without records) x traits; x effects for a term with
            several effects and one trait; x (trait, effect) for both. Of markers rows of the fit x traits.
        """
        self._refuse_distance("random effects")
        terms = self._chosen("all")
        if label is None:
            if len(terms) != 1:
                raise OptionError(f"ranef() needs a label; the terms are {shortlist(terms)}.")
            label = terms[0]
        if label in self._marker_labels:
            values = self.model.marker_effects[self._marker_labels.index(label)].rows
            return pd.DataFrame(values, index=self.design.X.index, columns=list(self.traits))
        own = label if label in terms else dict(zip(self.names, self.term_of, strict=True)).get(label)
        if own is None:
            raise OptionError(f"no random term {label!r}; the terms are {shortlist(terms)}.")
        term = self.design.term(own)
        values = self.model.random_effects(terms.index(own))
        if label != own:
            effects = [i for i in self._components_of(own) if self.is_variance[i]]
            if self.names.index(label) not in effects:
                raise OptionError(
                    f"{label!r} is a covariance and has no effects; ask for {own!r} or one of "
                    f"{shortlist(self.names[i] for i in effects)}."
                )
            values = values[:, :, [effects.index(self.names.index(label))]]
        n_traits, r, e = values.shape
        columns: Any = list(self.traits) if e == 1 else list(term.effects)
        if e > 1 and n_traits > 1:
            columns = pd.MultiIndex.from_product([self.traits, term.effects], names=["trait", "effect"])
        values = values.transpose(1, 0, 2).reshape(r, n_traits * e)
        return pd.DataFrame(values, index=term.levels.rename(term.group), columns=columns)

    def marker_effects(self, label: str | None = None) -> pd.DataFrame:
        """Effects of one copy of the allele of every marker, as best linear unbiased predictions.

        Parameters
        ----------
        label : str, optional
            Of a component of markers; may be left out when there is one.

        Returns
        -------
        DataFrame, marker x trait
            Zero for a marker that does not vary, or is not in this bin.

        Raises
        ------
        OptionError
            The fit has no markers, or not these.
        """
        labels = self._marker_labels
        if not labels:
            raise OptionError("marker_effects: this fit has no markers=.")
        if label is None and len(labels) == 1:
            label = labels[0]
        if label not in labels:
            raise OptionError(f"marker_effects: no markers {label!r}; there are {shortlist(labels)}.")
        found = self.model.marker_effects[labels.index(label)]
        return pd.DataFrame(found.coef, index=found.names, columns=list(self.traits))

    def fitted(self) -> pd.DataFrame:
        """Fixed effects, random effects, markers and offset of the rows of the fit, row x trait."""
        return self.predict()

    def predict(
        self,
        newdata: Any = None,
        *,
        markers: Mapping[str, Any] | None = None,
        random: Literal["all", "none"] | Sequence[str] = "all",
        new_levels: Literal["error", "zero", "relmat"] = "error",
    ) -> pd.DataFrame:
        """Predict the responses of the rows of the fit, or of new rows.

        Parameters
        ----------
        newdata : DataFrame, optional
            New rows; those of the fit by default.
        markers : dict, optional
            Of the new rows, with the keys of the fit's ``markers=``: label -> table. Columns of a DataFrame are found
            by name, rows as in the fit, by label in the index or in a column of `newdata`. Missing genotypes count as
            the mean in the fit.
        random : "all", "none" or list of labels
            Random terms and components of markers to add.
        new_levels : {"error", "zero", "relmat"}
            For grouping levels without records; see `Design.new`.

        Returns
        -------
        DataFrame, row x trait

        Raises
        ------
        OptionError
            A label the fit does not have, or new rows without the markers they need.
        """
        chosen = self._chosen(random)
        labels = [label for label in chosen if label not in self._marker_labels]
        of_markers = [label for label in chosen if label in self._marker_labels]
        design = self.design if newdata is None else self.design.new(newdata, new_levels, terms=labels)
        values = fixed_part(self.design, design, self.fixef().to_numpy())
        if design.offset is not None:
            values = values + design.offset[:, None]
        for label in labels:
            term = design.term(label)
            effects = self.model.random_effects([t.label for t in self.design.terms].index(label))
            known = term.codes >= 0
            rows = np.einsum("ne,tne->nt", term.M, effects[:, np.where(known, term.codes, 0)])
            values += rows * known[:, None]
        for label in of_markers:
            values += self.ranef(label).to_numpy() if newdata is None else self._of_new(label, markers, newdata)
        return pd.DataFrame(values, index=design.X.index, columns=list(self.traits))

    @property
    def aic(self) -> float:
        """Akaike's criterion of a REML or ML fit of one trait."""
        return -2 * self._one_loglik + 2 * self._n_parameters

    @property
    def bic(self) -> float:
        """Bayesian information criterion of a REML or ML fit of one trait."""
        return -2 * self._one_loglik + float(np.log(self.nobs)) * self._n_parameters

    def summary(self) -> Summary:
        """Printable summary; ``to_frame()`` gives `varcorr`."""
        from .show import he_summary

        return he_summary(self)

    # -- inside ------------------------------------------------------------------------------------------

    @property
    def _one_loglik(self) -> float:
        if len(self.loglik) != 1:
            raise OptionError("aic and bic need one trait fitted by method='reml' or 'ml'.")
        return self.loglik[0]

    @property
    def _n_parameters(self) -> int:
        # A column that is a combination of others has no parameter of its own.
        n_fixed = int(np.count_nonzero(~np.isnan(self.model.coefficients()[0][0])))
        return n_fixed + len(self.factors[0]) + 1

    @property
    def _centred_at_estimate(self) -> bool:
        return isinstance(self.uncertainty, TraitCovariances) and self.uncertainty.kind in (
            "bootstrap",
            "observed information",
        )

    def _order(self) -> list[int]:
        return [*range(1, len(self.names)), 0]

    def _index(self, rows: list[int]) -> pd.MultiIndex:
        return pd.MultiIndex.from_product([[self.names[i] for i in rows], list(self.traits)], names=["term", "trait"])

    @property
    def _marker_labels(self) -> list[str]:
        """Of the components of markers."""
        terms = {term.label for term in self.design.terms}
        return [name for name, own in zip(self.names, self.term_of, strict=True) if own == name and own not in terms]

    def _components_of(self, label: str) -> list[int]:
        """Positions of the components of a term with several effects."""
        return [i for i, own in enumerate(self.term_of) if own == label != self.names[i]]

    def _chosen(self, random: str | Sequence[str]) -> list[str]:
        """Labels of terms and of components of markers."""
        known = [*(term.label for term in self.design.terms), *self._marker_labels]
        if random == "all":
            return known
        if random == "none":
            return []
        chosen = [random] if isinstance(random, str) else list(random)
        for label in chosen:
            if label not in known:
                raise OptionError(f"no random term {label!r}; the terms are {shortlist(known)}.")
        return chosen

    def _of_new(self, label: str, markers: Mapping[str, Any] | None, newdata: Any) -> np.ndarray:
        """What a component of markers adds to new rows."""
        found = self.model.marker_effects[self._marker_labels.index(label)]
        if not isinstance(markers, Mapping) or found.table not in markers:
            raise OptionError(
                f"predict: new rows need their markers; pass markers={{{found.table!r}: table}} with newdata, or leave "
                f"{label!r} out of random=."
            )
        coef = self.marker_effects(label)
        return marker_part(markers[found.table], coef, found.means, newdata) - found.means @ found.coef

    def _position(self, label: str) -> int:
        members = self._components_of(label)
        if members:
            raise OptionError(
                f"{label!r} has several effects; ask for one of its components, "
                f"{shortlist(self.names[i] for i in members)}, or for covariance({label!r})."
            )
        if label not in self.names:
            raise OptionError(f"no component {label!r}; there are {shortlist(self.names)}.")
        return self.names.index(label)

    def _shares(self, values: np.ndarray) -> np.ndarray:
        is_variance = np.array(self.is_variance)
        total = values[is_variance].sum(axis=0)
        shares = values / np.where(total > 0, total, np.nan)
        shares[~is_variance] = np.nan
        return shares

    def _se(self) -> np.ndarray:
        t = len(self.traits)
        if self.uncertainty is None:
            return np.full((len(self.names), t), np.nan)
        variances = [np.diag(self.uncertainty.covariance((j, j), (j, j))) for j in range(t)]
        return np.sqrt(np.where(np.array(variances) >= 0, variances, np.nan)).T

    def _share_se(self) -> np.ndarray:
        """Delta method."""
        assert self.uncertainty is not None
        out = np.full((len(self.names), len(self.traits)), np.nan)
        is_variance = np.array(self.is_variance, dtype=float)
        source = self.theta if self._centred_at_estimate else self.unconstrained
        for j in range(len(self.traits)):
            values = source[:, j, j]
            total = values @ is_variance
            covariance = self.uncertainty.covariance((j, j), (j, j))
            gradient = np.eye(len(values)) / total - np.outer(values, is_variance) / total**2
            # a variance at zero has no standard error under REML; the others are conditional on it
            known = ~np.isnan(np.diag(covariance))
            part = gradient[np.ix_(known, known)]
            variance = np.einsum("ik,kl,il->i", part, covariance[np.ix_(known, known)], part)
            out[known, j] = np.sqrt(variance.clip(min=0.0))
        return out

    def _quantiles(self, level: float, of: str) -> tuple[np.ndarray, np.ndarray]:
        draws = getattr(self.uncertainty, "draws", None)
        if draws is None:
            raise OptionError("kind='quantile' needs bootstrap draws; fit again with se='bootstrap'.")
        if of == "share":
            draws = np.array([self._shares(part.T).T for part in draws])
        tails = [(1 - level) / 2, (1 + level) / 2]
        lower, upper = np.quantile(draws, tails, axis=1)
        return lower.T, upper.T

    def _correlation(self, i: int, u: int, v: int) -> tuple[float, float]:
        theta, uncertainty = self.theta, self.uncertainty
        if self.pairwise is not None and self.pairwise.covers(u, v):
            both = self.pairwise.of(u, v)
            if both is None:
                return np.nan, np.nan
            theta, uncertainty, (u, v) = both
        a, b, c = theta[i, u, u], theta[i, v, v], theta[i, u, v]
        if not (a > 0 and b > 0):
            return np.nan, np.nan
        value = float(c / np.sqrt(a * b))
        if uncertainty is None:
            return value, np.nan
        pairs = [(u, u), (v, v), (u, v)]
        covariance = np.array([[uncertainty.covariance(p, q)[i, i] for q in pairs] for p in pairs])
        gradient = np.array([-value / (2 * a), -value / (2 * b), 1 / np.sqrt(a * b)])
        variance = float(gradient @ covariance @ gradient)
        return value, float(np.sqrt(variance)) if variance >= 0 else np.nan

    def _refuse_distance(self, what: str) -> None:
        if self.design.Y is None:
            raise OptionError(f"a distance response has no {what}: it is no vector of values.")

    def _write(self, folder: Path) -> None:
        write_pickle(folder / FIT, self)

    @classmethod
    def _read(cls, folder: Path, checksum: bool) -> HeResult:
        return read_pickle(folder / FIT, checksum)


@dataclass(frozen=True, eq=False, repr=False)
class NetgsaResult:
    """Pathway tests that know the network.

    Attributes
    ----------
    options : Mapping
        Arguments of the call.
    version : str
    seconds : float
    notes : tuple of str
    genes, conditions, pathways : tuple of str
    n_samples : tuple of int
        By condition.
    sigma2_epsilon, sigma2_gamma : float
        Variance of the noise and of the latent gene effects.
    S, c : ndarray, 2 x 2 and 2
        Normal equations, noise first.
    beta : ndarray, conditions x genes
        Baseline effects ``D_k^-1`` times the mean of condition k.
    table : DataFrame
        Index pathway; columns size, statistic, df (df1, df2 for more than two conditions), p, q.
    """

    options: Mapping[str, Any]
    version: str
    seconds: float
    notes: tuple[str, ...]
    genes: tuple[str, ...]
    conditions: tuple[str, ...]
    pathways: tuple[str, ...]
    n_samples: tuple[int, ...]
    sigma2_epsilon: float
    sigma2_gamma: float
    S: np.ndarray
    c: np.ndarray
    beta: np.ndarray
    table: pd.DataFrame

    def varcorr(self) -> pd.DataFrame:
        """Variances of latent gene effects and of noise; columns variance and share."""
        values = np.array([self.sigma2_gamma, self.sigma2_epsilon])
        return pd.DataFrame(
            {"variance": values, "share": values / values.sum()}, index=pd.Index(["gene", RESIDUAL], name="term")
        )

    def fixef(self) -> pd.DataFrame:
        """Baseline effects, gene x condition."""
        return pd.DataFrame(self.beta.T, index=pd.Index(self.genes, name="gene"), columns=list(self.conditions))

    def summary(self) -> Summary:
        """Printable summary; ``to_frame()`` gives `table`."""
        from .show import netgsa_summary

        return netgsa_summary(self)

    def to_frame(self) -> pd.DataFrame:
        """The table of pathways."""
        return self.table.copy()

    def __repr__(self) -> str:
        return str(self.summary())

    def _repr_html_(self) -> str:
        return self.summary()._repr_html_()


def _normal_quantile(level: float, name: str) -> float:
    """Standard errors on either side of an estimate that hold this probability."""
    return NormalDist().inv_cdf((1 + probability(level, name)) / 2)
