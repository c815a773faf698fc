"""A number of factors that follows the data during burn-in, and stays from then on."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from .problem import Problem
from .state import State

# Looked at every so many iterations of the first three quarters of burn-in; the rest settles with the number fixed.
EVERY = 10
ADAPTING_SHARE = 0.75
# A factor is used when it explains this share of the variance of at least two traits.
LEAST_SHARE, LEAST_TRAITS = 0.01, 2


def adapt_factors(problem: Problem, state: State, burn: int) -> Problem:
    """Drop the factors that are not used, all but one; add one when all are: ``state`` in place, and its problem.

    Parameters
    ----------
    problem : Problem
    state : State
    burn : int
        Iterations of burn-in, after which nothing is changed.
    """
    if state.iteration % EVERY or state.iteration > ADAPTING_SHARE * burn:
        return problem
    used = used_factors(problem, state)
    spare = np.flatnonzero(~used)
    if len(spare) > 1:
        _keep(problem, state, np.sort(np.append(np.flatnonzero(used), spare[0])))
    elif not len(spare) and problem.n_factors < problem.most_factors:
        _add(problem, state)
    return with_factors_of(problem, state)


def with_factors_of(problem: Problem, state: State) -> Problem:
    """The problem with as many factors as a state has."""
    k = len(state.kappa)
    return problem if k == problem.n_factors else replace(problem, n_factors=k)


def used_factors(problem: Problem, state: State) -> np.ndarray:
    """Which factors explain enough of enough traits, shape (k,)."""
    squared = state.coef[:, problem.b :] ** 2 / state.kappa
    share = squared / (squared.sum(axis=1) + 1.0 / state.tau)[:, None]
    least = min(LEAST_TRAITS, problem.p)
    return np.asarray(np.sum(share > LEAST_SHARE, axis=0) >= least)


def _keep(problem: Problem, state: State, kept: np.ndarray) -> None:
    b, scales, effects = problem.b, state.scales, state.effect_scales
    state.coef = np.ascontiguousarray(
        np.delete(state.coef, b + np.setdiff1d(np.arange(problem.n_factors), kept), axis=1)
    )
    for name in ("factors", "kappa", "gamma", "coef_factor", "loading_effects", "loading_effect_var"):
        setattr(state, name, np.ascontiguousarray(getattr(state, name)[kept]))
    effects.local_factor, effects.global_factor = effects.local_factor[kept], effects.global_factor[kept]
    scales.local = np.ascontiguousarray(scales.local[:, kept])
    # Row scales belong to places: the last ones go.
    scales.row, scales.delta = scales.row[: len(kept)].copy(), scales.delta[: len(kept)].copy()
    if scales.included is not None and scales.inclusion is not None:
        scales.included, scales.inclusion = np.ascontiguousarray(scales.included[:, kept]), scales.inclusion[kept]


def _add(problem: Problem, state: State) -> None:
    """One factor more, last in the order, from the prior; its values on the rows as if it were not heritable."""
    rng, priors, scales = state.streams.common, problem.priors, state.scales
    p, n, q = problem.p, problem.n, problem.trait_covariates.q
    drawn = priors.loadings_prior.simulate(p, 2, n, rng)
    step = drawn.row[1] / drawn.row[0]
    scales.local = np.column_stack((scales.local, drawn.local[:, 1]))
    scales.row = np.append(scales.row, scales.row[-1] * step)
    scales.delta = np.append(scales.delta, drawn.delta[1])
    loadings = rng.standard_normal(p) / np.sqrt(state.tau * scales.local[:, -1] * scales.row[-1])
    if scales.included is not None and scales.inclusion is not None and drawn.included is not None:
        assert drawn.inclusion is not None
        loadings *= drawn.included[:, 1]
        scales.included = np.column_stack((scales.included, loadings != 0.0))
        scales.inclusion = np.append(scales.inclusion, drawn.inclusion[1])
    state.coef = np.column_stack((state.coef, loadings))
    state.factors = np.vstack((state.factors, rng.standard_normal(n)))
    state.kappa = np.append(state.kappa, 1.0)
    masses = np.exp(problem.log_prior_factors)
    state.gamma = np.append(state.gamma, rng.choice(len(masses), p=masses)).astype(np.intp)
    more = priors.fixef_prior.start(problem.covariates, p, 1, n)
    effects = state.effect_scales
    effects.local_factor = np.vstack((effects.local_factor, more.local_factor))
    effects.global_factor = np.append(effects.global_factor, more.global_factor)
    state.coef_factor = np.vstack((state.coef_factor, np.zeros((1, problem.n_factor_effects))))
    state.loading_effects = np.vstack((state.loading_effects, np.zeros((1, q))))
    state.loading_effect_var = np.append(state.loading_effect_var, 1.0)
