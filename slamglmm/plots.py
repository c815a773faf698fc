"""Pictures of a fit: traces, intervals of variance shares, heat maps of covariances and loadings.

Every function takes and returns a matplotlib Axes. Matplotlib is imported inside the functions: it is an extra.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from scipy.cluster import hierarchy
from scipy.optimize import isotonic_regression
from scipy.spatial.distance import squareform

from .errors import OptionError, shortlist

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.axes import Axes

    from .priors.implied import ImpliedPrior
    from .results.posterior import SlamResult
    from .results.variational import SparseLmmFits, VariationalResult

RESIDUAL = "Residual"
# Beyond this many names on one axis they could not be read: only their number is given.
MOST_LABELS = 80
LONGEST_LABEL = 40
NAME_POINTS = 7.0
# Beyond this many responses a legend says nothing.
MOST_COLOURS = 10
# Strips of a trace when the traits are not named.
TRACED = 6
NEGATIVE_TO_POSITIVE = "RdBu_r"


class SlamPlots:
    """The pictures of a SLAM fit; what ``fit.plot`` is.

    Parameters
    ----------
    fit : SlamResult
    """

    def __init__(self, fit: SlamResult):
        self._fit = fit

    def __repr__(self) -> str:
        return f"Pictures of a fit of {self._fit.formula!r}: .trace(), .h2(), .G(label), .loadings()"

    def trace(
        self,
        variables: str | Sequence[str] = "h2",
        traits: str | Sequence[str] | None = None,
        ax: Axes | None = None,
    ) -> Axes:
        """Draws against their number, one strip a quantity and one colour a chain.

        Parameters
        ----------
        variables : str or sequence of str
            ``"h2"``, ``"G"`` and ``"R"`` (variances of the random effects and of the residual), or any variable of
            ``fit.posterior`` with draws of one number a trait.
        traits : str or sequence of str, optional
            Which traits, in this order. By default the six quantities with the smallest effective sample size: what
            looks good there looks good everywhere.
        ax : matplotlib Axes, optional
            Where to draw; a new figure by default.

        Returns
        -------
        matplotlib Axes

        Raises
        ------
        OptionError
            An unknown variable or trait.
        """
        from .diagnostics import diagnose

        names = [variables] if isinstance(variables, str) else list(variables)
        wanted = None if traits is None else [traits] if isinstance(traits, str) else list(traits)
        quantities = pd.concat([self._quantities(name, wanted, len(names) > 1) for name in names], axis=1)
        chains, draws = (self._fit.posterior.sizes[dim] for dim in ("chain", "draw"))
        values = quantities.to_numpy().reshape(chains, draws, -1)
        table = diagnose(values, quantities.columns)
        if wanted is None:
            chosen = np.argsort(table["ess_bulk"].fillna(np.inf).to_numpy(), kind="stable")[:TRACED]
            values, table = values[:, :, chosen], table.iloc[chosen]
        count = len(table)
        if ax is None:
            ax = _new_axes(9.0, 1.2 + 0.7 * count)
        low, high = values.min(axis=(0, 1)), values.max(axis=(0, 1))
        heights = np.where(high > low, high - low, 1.0)
        for i in range(count):
            bottom = count - 1 - i
            for chain in range(chains):
                strip = bottom + 0.08 + 0.84 * (values[chain, :, i] - low[i]) / heights[i]
                ax.plot(np.arange(draws), strip, color=f"C{chain}", linewidth=0.5, alpha=0.8)
            if bottom:
                ax.axhline(bottom, color="0.8", linewidth=0.8)
        ax.set_xlim(0, max(draws - 1, 1))
        ax.set_ylim(0, count)
        middle = count - 0.5 - np.arange(count)
        ranges = [f"{a:.3g} to {b:.3g}" for a, b in zip(low, high, strict=True)]
        checks = [
            f"R-hat {_plain(r_hat, '.3f')}\nESS {_plain(ess, '.0f')}"
            for r_hat, ess in zip(table["r_hat"], table["ess_bulk"], strict=True)
        ]
        names_of = [f"{_shortened(str(name))}\n{span}" for name, span in zip(table.index, ranges, strict=True)]
        ax.set_yticks(middle, names_of, fontsize=8)
        right = ax.secondary_yaxis("right")
        right.set_yticks(middle, checks, fontsize=8)
        for axis in (ax, right):
            axis.tick_params(axis="y", length=0)
        ax.set_xlabel("kept draw")
        which = ": smallest effective sample sizes" if wanted is None else ""
        colours = f" ({chains} chains by colour)" if chains > 1 else ""
        ax.set_title(f"Trace of {', '.join(names)}{which}{colours}", fontsize=11)
        return ax

    def h2(self, prob: float = 0.9, term: str | None = None, ax: Axes | None = None, *, sort: bool = True) -> Axes:
        """Intervals of the variance shares, one row a trait.

        Parameters
        ----------
        prob : float
            Mass of the equal-tailed intervals.
        term : str, optional
            One random effect; by default all of them, side by side in different colours.
        ax : matplotlib Axes, optional
            Where to draw; a new figure by default.
        sort : bool
            Largest share on top (of the first random effect drawn); otherwise the order of the data.

        Returns
        -------
        matplotlib Axes

        Raises
        ------
        OptionError
            The fit has no random effects, or none of this name.
        """
        terms = self._terms(term)
        table = self._fit.h2(prob)
        traits = self._fit.traits
        order = np.argsort(-table.loc[terms[0], "mean"].to_numpy(), kind="stable") if sort else np.arange(len(traits))
        if ax is None:
            ax = _new_axes(7.5, _row_height(len(traits), 0.24))
        rows = np.arange(len(traits))[::-1]
        few = len(traits) <= MOST_LABELS
        for m, name in enumerate(terms):
            part = table.loc[name].iloc[order]
            at = rows + 0.5 * ((len(terms) - 1) / 2 - m) / len(terms)
            color = f"C{m}"
            ax.hlines(at, part["lower"], part["upper"], color=color, linewidth=2.0 if few else 0.7, alpha=0.6)
            ax.plot(part["mean"], at, "o", color=color, markersize=4.5 if few else 1.5, label=name)
        _name_rows(ax, rows, traits[order])
        ax.set_ylim(-0.7, len(traits) - 0.3)
        ax.set_xlim(0, 1)
        ax.grid(axis="x", color="0.9")
        ax.set_axisbelow(True)
        for side in ("top", "right"):
            ax.spines[side].set_visible(False)
        of_what = f"'{terms[0]}'" if len(terms) == 1 else "each random effect"
        ax.set_xlabel(f"share of {of_what} in the variance")
        ax.set_title(f"Variance shares (h2): posterior mean and {prob:.0%} interval", fontsize=11)
        if len(terms) > 1:
            ax.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), fontsize=8, frameon=False)
        return ax

    def G(self, label: str | None = None, correlation: bool = True, ax: Axes | None = None) -> Axes:
        """Heat map of the correlations or covariances among traits of one random effect.

        Parameters
        ----------
        label : str, optional
            A random effect, or ``"Residual"`` for R; may be left out when there is one random effect.
        correlation : bool
            Correlations, or covariances on the scale of the data. Both are in the order in which the correlations
            cluster.
        ax : matplotlib Axes, optional
            Where to draw; a new figure by default.

        Returns
        -------
        matplotlib Axes

        Raises
        ------
        OptionError
            No random effect of this name, or none named and several to choose from.
        """
        correlations = self._fit.correlation(label)
        name = label if label is not None else str(self._fit.posterior["term"].to_numpy()[0])
        if correlation:
            frame, word, limit = correlations, "correlation", 1.0
        else:
            frame = self._fit.R() if name == RESIDUAL else self._fit.G(name)
            word, limit = "covariance", None
        order = clustered_order(correlations.to_numpy())
        of_what = "the residual" if name == RESIDUAL else f"'{name}'"
        return heatmap(
            frame.iloc[order, order],
            ax,
            title=f"{word.capitalize()} among traits: {of_what}",
            label=f"posterior mean {word}",
            limit=limit,
            square=True,
        )

    def loadings(self, ax: Axes | None = None) -> Axes:
        """Heat map of the loadings, factor × trait, the traits in the order of the first heat map of G.

        Each trait's loadings are divided by its standard deviation, so that traits in different units compare: a
        squared entry is about the share of that trait's variance that the factor explains.

        Parameters
        ----------
        ax : matplotlib Axes, optional
            Where to draw; a new figure by default.

        Returns
        -------
        matplotlib Axes

        Raises
        ------
        OptionError
            The fit has no factors.
        """
        loadings = self._fit.loadings()
        if not len(loadings):
            raise OptionError("plot.loadings(): the fit has n_factors=0, so there are no loadings.")
        terms = self._fit.posterior["term"].to_numpy()
        order = clustered_order(self._fit.correlation(str(terms[0]) if len(terms) else RESIDUAL).to_numpy())
        total = (self._variance("G").sum("term") + self._variance("R")).mean(("chain", "draw")).to_numpy()
        scaled = loadings / np.sqrt(total)
        scaled.index = pd.Index([f"factor {i}" for i in loadings.index])
        return heatmap(
            scaled.iloc[:, order],
            ax,
            title="Loadings of the factors, matched across draws and chains",
            label="loading / standard deviation of the trait",
        )

    # -- inside -----------------------------------------------------------------------------------------------------

    def _terms(self, term: str | None) -> list[str]:
        known = [str(name) for name in self._fit.posterior["term"].to_numpy()]
        if not known:
            raise OptionError("plot.h2(): the fit has no random effects, so there are no variance shares.")
        if term is not None and term not in known:
            raise OptionError(f"plot.h2(term={term!r}): expected one of {shortlist(known, 20)}.")
        return known if term is None else [term]

    def _variance(self, name: str) -> xr.DataArray:
        """Draws of the diagonal of every G, or of R."""
        if name == "R":
            return self._fit.variance_draws(RESIDUAL)
        import xarray as xr

        terms = self._fit.posterior["term"]
        return xr.concat([self._fit.variance_draws(str(term)) for term in terms.to_numpy()], dim=terms)

    def _quantities(self, name: str, traits: list[str] | None, several: bool) -> pd.DataFrame:
        """One column a quantity, one row a draw (chains one after the other)."""
        posterior = self._fit.posterior
        if name in ("G", "R"):
            array = self._variance(name)
        elif name in posterior and set(posterior[name].dims) <= {"chain", "draw", "term", "trait", "fixef"}:
            array = posterior[name]
        else:
            fitting = [v for v in posterior if set(posterior[v].dims) <= {"chain", "draw", "term", "trait", "fixef"}]
            known = shortlist(dict.fromkeys([*fitting, "G", "R"]), 20)
            raise OptionError(f"plot.trace(variables={name!r}): expected one of {known}.")
        if traits is not None:
            unknown = [trait for trait in traits if trait not in self._fit.traits]
            if unknown:
                raise OptionError(f"plot.trace(traits=...): no trait is called {shortlist(unknown)}.")
            array = array.sel(trait=traits)
        between = [dim for dim in ("term", "fixef") if dim in array.dims]
        array = array.transpose("chain", "draw", *between, "trait")
        # A single random effect goes without saying.
        told = [dim for dim in (*between, "trait") if dim != "term" or array.sizes[dim] > 1]
        parts = [[name]] * several + [array[dim].to_numpy() for dim in told]
        columns = [" ".join(map(str, key)) for key in product(*parts)]
        return pd.DataFrame(array.to_numpy().reshape(-1, len(columns)), columns=columns)


class VariationalPlots:
    """The pictures of a variational fit; what ``fit.plot`` is.

    Parameters
    ----------
    fit : SparseLmmResult or MrMashResult
    """

    def __init__(self, fit: VariationalResult):
        # Attributes differ by fitter: `_only` checks before they are used.
        self._fit: Any = fit

    def elbo(self, ax: Axes | None = None) -> Axes:
        """Distance of the bound from its end, sweep by sweep, on a logarithmic scale.

        Parameters
        ----------
        ax : matplotlib Axes, optional

        Returns
        -------
        matplotlib Axes
        """
        ax = ax or _new_axes(5, 3)
        bound = self._fit.elbo
        rest = bound[-1] - bound[:-1]
        ax.semilogy(np.arange(1, len(bound)), np.maximum(rest, 1e-12), marker=".")
        ax.set_xlabel("sweep")
        ax.set_ylabel("bound: distance from the end")
        return ax

    def fit(self, trait: str | None = None, ax: Axes | None = None) -> Axes:
        """Observed responses against fitted ones.

        Parameters
        ----------
        trait : str, optional
            One response; all of them unless given, each in units of its standard deviation.
        ax : matplotlib Axes, optional

        Returns
        -------
        matplotlib Axes
        """
        observed, fitted = self._fit.design.Y, self._fit.predict()
        if trait is not None:
            if trait not in fitted.columns:
                raise OptionError(f"no response {trait!r}; the responses are {shortlist(fitted.columns)}.")
            observed, fitted = observed[[trait]], fitted[[trait]]
        centre, spread = observed.mean(), observed.std(ddof=0)
        scaled = observed.shape[1] > 1
        few = fitted.shape[1] <= MOST_COLOURS
        ax = ax or _new_axes(6 if scaled and few else 4, 4)
        for name in fitted.columns:
            x, y = fitted[name], observed[name]
            if scaled:
                x, y = (x - centre[name]) / spread[name], (y - centre[name]) / spread[name]
            ax.plot(x, y, ".", alpha=0.4, markersize=4, label=_shortened(str(name)), color=None if few else "C0")
        if scaled and few:
            ax.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), fontsize=8, frameon=False)
        low, high = ax.get_xlim()
        ax.plot([low, high], [low, high], color="grey", linewidth=0.8, zorder=0)
        ax.set_xlabel("fitted" + (" (standardised)" if scaled else ""))
        ax.set_ylabel("observed" + (" (standardised)" if scaled else f" {observed.columns[0]}"))
        return ax

    def manhattan(self, map: pd.DataFrame | None = None, ax: Axes | None = None, name_above: float = 0.5) -> Axes:
        """Inclusion probability of every marker along the genome (`sparse_lmm`), or 1 - lfsr (`mr_mash`: the smallest).

        Parameters
        ----------
        map : DataFrame, optional
            One row a marker: columns marker (or the index), chromosome, and position_cM or position. Without it
            markers stand in their own order.
        ax : matplotlib Axes, optional
        name_above : float
            Markers above this are named.

        Returns
        -------
        matplotlib Axes
        """
        ax = ax or _new_axes(9, 3.6)
        if hasattr(self._fit, "pip"):
            height, label = self._fit.pip, "PIP"
        else:
            height, label = 1.0 - self._fit.lfsr.min(axis=1), "1 - smallest lfsr"
        place, chromosome = _genome(height.index, map)
        centres = {}
        for i, (name, members) in enumerate(chromosome.groupby(chromosome, sort=False).groups.items()):
            at = chromosome.index.get_indexer(members)
            centres[name] = float(np.ptp(place[at]) / 2 + place[at].min())
            ax.vlines(place[at], 0, height.to_numpy()[at], color=f"C{i % 2}", linewidth=0.6)
            ax.plot(place[at], height.to_numpy()[at], ".", color=f"C{i % 2}", markersize=4)
        ax.margins(x=0.01)
        ax.set_ylim(0, 1.15)
        ax.set_yticks(np.linspace(0, 1, 6))
        shown = np.flatnonzero(height.to_numpy() > name_above)
        if 0 < len(shown) <= MOST_LABELS // 2:
            shown = shown[np.argsort(place[shown], kind="stable")]
            _name_above(ax, place[shown], height.to_numpy()[shown], height.index[shown])
        ax.set_ylabel(label)
        ax.set_xlabel("marker" if map is None else "chromosome")
        if map is not None:
            ax.set_xticks(list(centres.values()), list(centres))
            ax.tick_params(axis="x", length=0)
        return ax

    def weights(self, ax: Axes | None = None, most: int = 20) -> Axes:
        """Mixture weights of the prior covariances (`mr_mash`), largest first.

        Parameters
        ----------
        ax : matplotlib Axes, optional
        most : int
            Bars drawn.

        Returns
        -------
        matplotlib Axes
        """
        self._only("weights", "covariance_weights", "mr_mash")
        weights = self._fit.covariance_weights.sort_values(ascending=False).head(most)[::-1]
        ax = ax or _new_axes(5, 0.6 + 0.22 * len(weights))
        ax.barh(np.arange(len(weights)), weights.to_numpy())
        ax.set_yticks(np.arange(len(weights)), [_shortened(str(name)) for name in weights.index])
        ax.set_xlabel("weight")
        return ax

    def effects(self, lfsr: float = 0.05, ax: Axes | None = None) -> Axes:
        """Heat map of effects on all responses of the markers whose sign is sure for one at least (`mr_mash`).

        Parameters
        ----------
        lfsr : float
            Markers with a smaller local false sign rate somewhere are shown; other cells of theirs are pale.
        ax : matplotlib Axes, optional

        Returns
        -------
        matplotlib Axes
        """
        self._only("effects", "lfsr", "mr_mash")
        sure = self._fit.lfsr < lfsr
        rows = sure.any(axis=1)
        coef = self._fit.coef[rows]
        spread = self._fit.design.Y.std(ddof=0).replace(0.0, 1.0)
        scaled = (coef / spread).to_numpy()
        ax = ax or _new_axes(2 + 0.25 * coef.shape[1], 1.2 + _row_height(len(coef), 0.2))
        limit = np.abs(scaled).max(initial=1e-12)
        opacity = np.where(sure[rows].to_numpy(), 1.0, 0.35)
        image = ax.imshow(scaled, cmap=NEGATIVE_TO_POSITIVE, vmin=-limit, vmax=limit, aspect="auto", alpha=opacity)
        if len(coef) <= MOST_LABELS:
            _name_rows(ax, np.arange(len(coef)), coef.index)
        else:
            ax.set_yticks([])
            ax.set_ylabel(f"{len(coef)} markers")
        _name_columns(ax, np.arange(coef.shape[1]), coef.columns)
        ax.figure.colorbar(image, ax=ax, label="effect, in standard deviations", shrink=0.8)
        return ax

    def _only(self, picture: str, attribute: str, fitter: str) -> None:
        if not hasattr(self._fit, attribute):
            raise OptionError(f"plot.{picture}() is for fits of {fitter}.")


class SparseLmmFitsPlots:
    """The pictures of fits of several responses; what ``fits.plot`` is. Others are those of ``fits[response].plot``.

    Parameters
    ----------
    fits : SparseLmmFits
    """

    def __init__(self, fits: SparseLmmFits):
        self._fits = fits

    def manhattan(
        self, map: pd.DataFrame | None = None, axes: Sequence[Axes] | None = None, name_above: float = 0.5
    ) -> tuple[Axes, ...]:
        """Inclusion probability of every marker along the genome, one picture a response below the other.

        Parameters
        ----------
        map : DataFrame, optional
            As for one response, `VariationalPlots.manhattan`.
        axes : sequence of matplotlib Axes, optional
            One for each response.
        name_above : float
            Markers above this are named.

        Returns
        -------
        tuple of Axes
        """
        count = len(self._fits)
        if axes is None:
            first = _new_axes(9, 2.7 * count)
            chosen = tuple(first.figure.subplots(count, 1, squeeze=False)[:, 0])
            first.remove()
        else:
            chosen = tuple(axes)
        if len(chosen) != count:
            raise OptionError(f"plot.manhattan: expected {count} axes, one a response, got {len(chosen)}.")
        for (trait, fit), ax in zip(self._fits.items(), chosen, strict=True):
            fit.plot.manhattan(map, ax, name_above).set_ylabel(f"PIP, {_shortened(trait)}")
        return chosen


def _genome(names: pd.Index, map: pd.DataFrame | None) -> tuple[np.ndarray, pd.Series]:
    """Place of each marker on the horizontal axis, chromosomes side by side, and its chromosome."""
    if map is None:
        return np.arange(len(names)), pd.Series("", index=names)
    table = map.set_index("marker") if "marker" in map.columns else map
    column = next((name for name in ("position_cM", "position") if name in table.columns), None)
    if column is None or "chromosome" not in table.columns:
        raise OptionError("map needs the columns marker, chromosome, and position_cM or position.")
    absent = names.difference(table.index)
    if len(absent):
        raise OptionError(f"map lacks {len(absent)} markers: {shortlist(absent)}.")
    table = table.loc[names]
    chromosome = table["chromosome"].astype(str)
    place = table[column].to_numpy(dtype=float).copy()
    start = 0.0
    for name in dict.fromkeys(chromosome):
        at = (chromosome == name).to_numpy()
        length = np.ptp(place[at])
        place[at] += start - place[at].min()
        start += 1.05 * length + 1e-9
    return place, chromosome


def _name_above(ax: Axes, at: np.ndarray, height: np.ndarray, names: pd.Index) -> None:
    """Upright names along the top, pushed apart where they would touch, each with a line to its point."""
    low, high = ax.get_xlim()
    # An upright name is as wide as its letters are high.
    gap = (high - low) * (NAME_POINTS + 1.0) / (72.0 * ax.bbox.width / ax.figure.dpi)
    spread = _pushed_apart(at, gap, low + 0.5 * gap, high - 0.5 * gap)
    ceiling = ax.get_ylim()[1]
    for x, y, name_x in zip(at, height, spread, strict=True):
        ax.plot([x, x, name_x], [y, 1.03, ceiling], color="0.7", linewidth=0.6, zorder=0)
    top = ax.secondary_xaxis("top")
    top.set_xticks(spread, [_shortened(str(name)) for name in names], rotation=90, fontsize=NAME_POINTS)
    top.tick_params(axis="x", length=0)


def _pushed_apart(at: np.ndarray, gap: float, low: float, high: float) -> np.ndarray:
    """Sorted places, moved as little as it takes to lie `gap` apart between two ends (closer if they must)."""
    count = len(at)
    gap = min(gap, (high - low) / max(count - 1, 1))
    steps = gap * np.arange(count)
    # Least squares under an order: the places less what lies before them may not fall.
    rest = isotonic_regression(at - steps).x
    return np.clip(rest, low, high - steps[-1]) + steps


def clustered_order(correlation: np.ndarray) -> np.ndarray:
    """Order in which similar traits are neighbours: average linkage on ``1 - correlation``.

    Parameters
    ----------
    correlation : ndarray, shape (p, p)

    Returns
    -------
    ndarray of int, shape (p,)
    """
    p = len(correlation)
    if p < 3:
        return np.arange(p)
    distance = np.clip(1.0 - 0.5 * (correlation + correlation.T), 0.0, 2.0)
    np.fill_diagonal(distance, 0.0)
    condensed = squareform(distance, checks=False)
    return hierarchy.leaves_list(hierarchy.linkage(condensed, "average", optimal_ordering=p <= 500))


def heatmap(
    frame: pd.DataFrame,
    ax: Axes | None = None,
    *,
    title: str = "",
    label: str = "",
    limit: float | None = None,
    square: bool = False,
) -> Axes:
    """Labelled heat map, blue below zero and red above, white at zero.

    Parameters
    ----------
    frame : DataFrame
        Rows and columns are drawn in their order.
    ax : matplotlib Axes, optional
        Where to draw; a new figure by default.
    title, label : str
        Of the picture, and of its colour bar.
    limit : float, optional
        Value of the darkest colours; by default the largest absolute value.
    square : bool
        Whether rows and columns are the same things: equal steps, square figure.

    Returns
    -------
    matplotlib Axes
    """
    values = frame.to_numpy(dtype=float)
    n_rows, n_columns = values.shape
    if ax is None:
        width = _row_height(n_columns, 0.24) + 3.0
        ax = _new_axes(width, width - 0.8 if square else _row_height(n_rows, 0.26) + 2.2)
    if limit is None:
        limit = float(np.nanmax(np.abs(values), initial=0.0)) or 1.0
    image = ax.imshow(
        values,
        cmap=NEGATIVE_TO_POSITIVE,
        vmin=-limit,
        vmax=limit,
        aspect="equal" if square else "auto",
        interpolation="nearest",
    )
    _name_rows(ax, np.arange(n_rows), frame.index)
    _name_columns(ax, np.arange(n_columns), frame.columns)
    ax.set_title(title, fontsize=11)
    ax.figure.colorbar(image, ax=ax, label=label, shrink=0.8)
    return ax


def implied_prior(implied: ImpliedPrior, axes: Sequence[Axes] | None = None) -> tuple[Axes, Axes]:
    """Histograms of what priors imply; what ``Priors.plot`` shows.

    Parameters
    ----------
    implied : ImpliedPrior
    axes : sequence of two Axes, optional

    Returns
    -------
    tuple of Axes
    """
    if axes is None:
        first = _new_axes(8.0, 3.2)
        figure = first.figure
        first.remove()
        axes = figure.subplots(1, 2)
    left, right = axes
    left.hist(implied.h2.ravel(), bins=20, range=(0.0, 1.0), density=True, color="0.6", edgecolor="white")
    left.set(xlabel="h2 of a trait", ylabel="prior density", xlim=(0.0, 1.0))
    counts = np.bincount(implied.n_used)
    right.bar(np.arange(len(counts)), counts / counts.sum(), color="0.6")
    right.set(xlabel="factors that carry 99 % of the shared variance", ylabel="prior probability")
    return left, right


def _new_axes(width: float, height: float) -> Axes:
    try:
        import matplotlib.pyplot as plt
    except ImportError as error:
        raise ImportError('pictures need matplotlib; install it with: pip install "slamglmm[plot]"') from error
    return plt.subplots(figsize=(width, height), layout="constrained")[1]


def _row_height(count: int, each: float) -> float:
    """Inches for this many rows, within reason."""
    return float(np.clip(1.4 + each * count, 2.4, 12.0))


def _font(count: int) -> float:
    return 8.0 if count <= 45 else 5.0


def _name_rows(ax: Axes, at: np.ndarray, names: pd.Index) -> None:
    if len(names) > MOST_LABELS:
        ax.set_yticks([])
        ax.set_ylabel(f"{len(names)} traits")
    else:
        ax.set_yticks(at, [_shortened(str(name)) for name in names], fontsize=_font(len(names)))


def _name_columns(ax: Axes, at: np.ndarray, names: pd.Index) -> None:
    if len(names) > MOST_LABELS:
        ax.set_xticks([])
        ax.set_xlabel(f"{len(names)} traits")
    else:
        shown = [_shortened(str(name)) for name in names]
        ax.set_xticks(at, shown, fontsize=_font(len(names)), rotation=90)


def _shortened(name: str) -> str:
    """A long name without its middle: names of traits differ at both ends."""
    if len(name) <= LONGEST_LABEL:
        return name
    half = LONGEST_LABEL // 2
    return f"{name[:half]}…{name[-half + 1 :]}"


def _plain(value: Any, form: str) -> str:
    return format(value, form) if np.isfinite(value) else "-"
