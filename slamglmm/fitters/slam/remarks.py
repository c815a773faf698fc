"""What a fit says against itself: where the words of the call promise more than the model or its draws hold."""

from __future__ import annotations

import numpy as np
import xarray as xr

from ...design import Design
from ...errors import shortlist
from ...links import Regression
from ...priors import Horseshoe
from ...results.alignment import factors_carrying
from .problem import Problem

# The default loadings are made for many traits: up to so many, covariances are said to be drawn to zero.
FEW_TRAITS = 5
# A covariate whose mean is so many standard deviations from zero makes a slope nearly an intercept.
FAR_FROM_ZERO = 5.0
# A posterior narrower than half a step of the grid is on three points or fewer in a thousand draws, and from there on
# its standard deviation and limits are those of the grid (Poisson summation: above, they are right to some per cent).
FEW_POINTS = 4
# Upper tail of an interval of 90 %: with less mass above zero it is [0, 0].
NO_WIDTH = 0.05
# Of fewer draws nothing is said: of the points they are on they tell less than of where most of them are.
LEAST_DRAWS, LEAST_DRAWS_OF_POINTS = 100, 200
# So many tell which points there are.
MOST_DRAWS = 1000
# Steps that are advised, in those there were, by number of random effects: each step costs a basis for two and more.
FINER = {1: 20, 2: 5}
FINER_FOR_MORE = 2
# Factors in use, as a share of those there are, from which on more are advised.
NEARLY_ALL = 0.9


def on_independent_slopes(design: Design) -> list[str]:
    """One line for each random term whose bar promises correlated effects."""
    lines = []
    for term in design.terms:
        if term.correlated and len(term.effects) > 1:
            group = term.label.split("|")[-1]
            effects = " + ".join("1" if effect == "Intercept" else effect for effect in term.effects)
            lines.append(
                f"({effects} | {group}): slam gives these effects of '{group}' independent variances, without the "
                "correlation that one bar stands for. Write '||' if that is what you mean; slamglmm.he(..., "
                "method='reml') fits the correlation"
            )
    return lines


def on_slopes_far_from_zero(design: Design) -> list[str]:
    """One line for each slope beside an intercept of its group whose covariate is far from zero, such as a year.

    Where the covariate is zero is then part of the model, as the two effects are independent there: a variance that
    slopes have around the mean is given to the residual.
    """
    with_intercept = {term.group for term in design.terms if "Intercept" in term.effects}
    lines = []
    for term in design.terms:
        for effect, values in zip(term.effects, np.asarray(term.M).T, strict=True):
            numeric = effect != "Intercept" and len(np.unique(values)) > 2
            mean, sd = values.mean(), values.std()
            if numeric and term.group in with_intercept and abs(mean) > FAR_FROM_ZERO * sd:
                lines.append(
                    f"slope of '{effect}' on '{term.group}': '{effect}' is far from zero (mean {mean:.4g}, standard "
                    f"deviation {sd:.4g}), where intercept and slope are held independent; that hides differences "
                    f"among slopes, and adds them to the residual. Center it: a column of {effect} - {mean:.4g}"
                )
    return lines


def on_few_traits(problem: Problem) -> list[str]:
    """One line when few traits have the default prior of the loadings."""
    few = 2 <= problem.p <= FEW_TRAITS and problem.most_factors > 0
    if not few or problem.priors.loadings_prior != Horseshoe():
        return []
    what = "coefficients of curves" if _only_curves(problem) else "traits"
    return [
        f"{problem.p} {what} with the default prior of the loadings, which is made for many: weak covariances and "
        "correlations among them are drawn to zero, and their intervals are then too short. Pass a prior for few "
        "traits, priors=slamglmm.Priors(loadings=slamglmm.Infinite(df=50, delta_1=(2, 4), delta_rest=(50, 50)), "
        f"residual=slamglmm.PrecisionPrior(V=0.2, nu=3)) with n_factors={min(problem.n, problem.p)} ('Few traits' in "
        "the manual's Priors)"
    ]


def _only_curves(problem: Problem) -> bool:
    return bool(problem.links) and all(isinstance(part.link.link, Regression) for part in problem.links)


def remarks_on_draws(posterior: xr.Dataset, problem: Problem, steps: int) -> list[str]:
    """What the draws show, one line each; these are warnings too.

    Parameters
    ----------
    posterior : xarray.Dataset
    problem : Problem
    steps : int
        Of the grid, `h2_grid`.
    """
    if not problem.components or posterior.sizes["chain"] * posterior.sizes["draw"] < LEAST_DRAWS:
        return []
    return [*_at_the_edge_of_the_grid(posterior, problem, steps), *_on_few_points(posterior, problem, steps)]


def _finer(problem: Problem) -> int:
    return FINER.get(len(problem.components), FINER_FOR_MORE)


def _at_the_edge_of_the_grid(posterior: xr.Dataset, problem: Problem, steps: int) -> list[str]:
    """One line when the grid is too coarse: most draws of a trait have the smallest residual share there is."""
    shares = problem.grid.shares
    smallest = 1.0 - shares.sum(axis=1).max(initial=0.0)
    if "h2" not in posterior or smallest < 1e-9:
        return []
    # A few hundred draws tell, and of a large run not all of them fit in memory.
    h2 = posterior["h2"].isel(draw=slice(None, None, 1 + posterior.sizes["draw"] // 200))
    residual = 1.0 - h2.sum("term").to_numpy()
    # Not quite the smallest where factors mix in shares of their own.
    often = (residual < 1.1 * smallest).mean(axis=(0, 1)) > 0.5
    if not often.any():
        return []
    return [
        f"residual of {shortlist(posterior['trait'].to_numpy()[often])}: its share is the smallest on the grid "
        f"({smallest:.2g}) in most draws, so it is too large and other variances are off: refit with a finer grid, "
        f"h2_grid={min(5, _finer(problem)) * steps}"
    ]


def _on_few_points(posterior: xr.Dataset, problem: Problem, steps: int) -> list[str]:
    """One line for each random effect some of whose shares are narrower than the steps of the grid.

    At zero a few points are enough, as long as an interval has some width: it says that the share is less than a step.
    A share that is zero in nearly all draws counts, since the grid cannot tell it from half a step. Shares of the
    factors are not looked at: a trait's h2 mixes several, and where these make its h2 vary by more than half a step of
    what is its own, that step does no harm.
    """
    name = "h2_residual" if "h2_residual" in posterior else "h2"
    if name not in posterior or (name == "h2" and problem.most_factors):
        return []
    total = posterior.sizes["chain"] * posterior.sizes["draw"]
    if total < LEAST_DRAWS_OF_POINTS:
        return []
    draws = posterior[name].isel(draw=slice(None, None, max(1, total // MOST_DRAWS))).to_numpy().astype(float)
    draws = np.sort(draws.reshape(-1, *draws.shape[2:]), axis=0)
    points = 1 + np.sum(np.diff(draws, axis=0) > 1e-6, axis=0)
    # A prior with mass on few points is the user's own.
    possible = np.isfinite(problem.log_prior_traits)
    offered = np.array([len(np.unique(share[possible].round(9))) for share in problem.grid.shares.T])
    largest = problem.grid.shares[possible].max(axis=0)
    harmful = _narrower_than_a_step(posterior, problem, steps)
    lines = []
    for m, label in enumerate(posterior["term"].to_numpy()):
        few = (points[m] < FEW_POINTS) & (points[m] < offered[m])
        few &= harmful[m]
        few &= (draws[0, m] > 0.0) | (np.mean(draws[:, m] > 0.0, axis=0) < NO_WIDTH)
        if few.any():
            # With all draws on one point its neighbours have less than one draw in so many: half of what that allows.
            at_most = 0.5 / (steps * np.sqrt(2.0 * np.log(len(draws))))
            sd = max(float(draws[:, m, few].std(axis=0).min()), at_most)
            wanted = int(np.clip(10 * np.ceil(0.1 / sd), 2 * steps, _finer(problem) * steps))
            which = "" if problem.most_factors == 0 else " of what is their own"
            lines.append(
                f"grid of shares: all draws of the share of '{label}'{which} in "
                f"{shortlist(posterior['trait'].to_numpy()[few])} are on {_range(points[m, few])} of the grid's points "
                f"(steps of {1 / steps:g}), so its spread and interval are the grid's and not the posterior's: refit "
                f"with h2_grid={wanted}"
                + (
                    " (some are all on the last point, where chains may be stuck: if they disagree, longer ones or "
                    "fewer factors come first)"
                    if np.any(draws[0, m, few] > largest[m] - 1e-6)
                    else ""
                )
            )
    return lines


def _narrower_than_a_step(posterior: xr.Dataset, problem: Problem, steps: int) -> np.ndarray:
    """Whether h2 varies by less than half a step of a trait's own part, shape (n_components, p); yes if unknown."""
    if not problem.most_factors or any(name not in posterior for name in ("h2", "Lambda", "residual_var")):
        return np.ones((len(problem.components), problem.p), dtype=bool)
    some = posterior[["h2", "Lambda", "residual_var"]].isel(draw=slice(None, None, 1 + posterior.sizes["draw"] // 200))
    own = some["residual_var"].mean(("chain", "draw")).to_numpy()
    shared = (some["Lambda"] ** 2).sum("factor").mean(("chain", "draw")).to_numpy()
    return np.asarray(some["h2"].std(("chain", "draw")).to_numpy() < 0.5 / steps * own / (own + shared))


def _range(counts: np.ndarray) -> str:
    low, high = int(counts.min()), int(counts.max())
    return str(low) if low == high else f"{low} to {high}"


def factors_in_use(posterior: xr.Dataset, problem: Problem) -> list[str]:
    """One line when nearly all factors are used although there could be more."""
    k = problem.most_factors
    most = min(problem.n - 1, problem.p)
    if "Lambda" not in posterior or k < 2 or k >= most:
        return []
    loadings = posterior["Lambda"].isel(draw=slice(None, None, 1 + posterior.sizes["draw"] // 100)).to_numpy()
    used = float(np.mean(factors_carrying(loadings)))
    if used < NEARLY_ALL * k:
        return []
    return [
        f"factors: {used:.1f} of {k} carry 99 % of the shared variance, so there may be more: refit with "
        f"n_factors={min(most, 2 * k)} and compare"
    ]
