"""One function for each full conditional; docs/models/slam.md has the equations.

Arrays are trait-major: a trait or a factor is a row, contiguous in memory.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import scipy.sparse as sp
from scipy.linalg import lapack

from ..._kernels.factors import move_shares
from ..._kernels.gaussian import draw_gaussians, draw_regressions, draw_rows, work_size
from ..._kernels.loadings import draw_sites
from ...errors import FitError
from ...linalg.covariances import Covariances, TurnedRows
from ...linalg.gig import draw_gig
from ...linalg.threads import BlockPool
from ...links import Parameters
from ...priors import PrecisionPrior, TraitPrecisions
from .cis import CisPart, integrate_out, integrate_out_of_block, take_out
from .own_rows import OwnRows
from .problem import LinkedTraits, Problem, TraitGroup
from .state import SUMMED_TOGETHER, State

# Told (problem, part, traits, mean, precision, parameters) of each block of latent traits of a link.
Watch: TypeAlias = Callable[[Problem, LinkedTraits, slice, np.ndarray, np.ndarray, Parameters], None]
# Rows that must share a precision on average before it pays to factor it once for all of them.
ROWS_PER_PATTERN = 8
# Relative to that of the data: a prior that holds at zero what the data of a trait cannot tell.
HELD_PRECISION = 1e12
# Rays tried in one update of the shares; all of them cost as much as the rest of an iteration.
RAYS_TRIED = 5


@dataclass(frozen=True)
class Regressors:
    """What all traits of a group share in the loadings step.

    Attributes
    ----------
    common : ndarray, shape (b + k, n_s)
        Fixed-effect columns and factors in the common coordinates of the group's covariances.
    by_basis : dict of int to ndarray, shape (b + k, rank)
        The same in each basis in use, inside.
    grams : ndarray, shape (n_used, b + k, b + k)
        ``D diag(w_g) D'`` for each grid point in use.
    position : ndarray of int, shape (n_points,)
        Where a grid point's Gram matrix is.
    rays : ndarray of int
        Rays on which shares are looked for.
    """

    common: np.ndarray
    by_basis: dict[int, np.ndarray]
    grams: np.ndarray
    position: np.ndarray
    rays: np.ndarray


def prepare_regressors(problem: Problem, group: TraitGroup, state: State, pool: BlockPool) -> Regressors:
    """Rotate the regressors of a group and form the Gram matrix of each grid point in use."""
    cov = group.cov
    design = np.concatenate((problem.x, state.factors))
    if len(group.rows) < problem.n:
        design = design[:, group.rows]
    b = problem.b
    design[:b][~group.estimable] = 0.0
    used = np.unique(state.g[group.traits])
    common = cov.enter(design)
    by_basis = {int(a): cov.in_basis(common, a) for a in np.unique(cov.basis[used])}
    position = np.zeros(len(cov.basis), dtype=np.intp)
    position[used] = np.arange(len(used))
    rays = draw_rays(cov, state.streams.common)
    return Regressors(common, by_basis, cov.grams(common, by_basis, used, pool), position, rays)


def draw_rays(cov: Covariances, rng: np.random.Generator) -> np.ndarray:
    """Draw the rays on which all rows look for their shares in this iteration, beside their own; eq. SLAM-34."""
    return np.sort(rng.permutation(len(cov.inner))[:RAYS_TRIED])


def draw_loadings(
    problem: Problem,
    group: TraitGroup,
    shared: Regressors,
    state: State,
    block: slice,
    rng: np.random.Generator,
) -> tuple[TurnedRows, np.ndarray]:
    """Draw (tau, B, Lambda) of a block of traits jointly, U integrated out; eq. SLAM-7.

    Loadings with a spike at zero are drawn given tau instead; eq. SLAM-24. Effects of a trait's own covariates are
    integrated out of both and drawn afterwards; eq. SLAM-51.

    Returns
    -------
    residual : TurnedRows, shape (block, n_s)
        ``y - XB - C a - F Lambda``.
    fixed_residual : ndarray, shape (block, n_s)
        ``y - XB - C a``, in common coordinates.
    """
    cov, b = group.cov, problem.b
    g = state.g[block]
    y = state.y[block] if len(group.rows) == problem.n else state.y[block][:, group.rows]
    y = cov.enter(y)
    coordinates = cov.turn(y, g).coordinates
    weighted = cov.weights[g]
    weighted *= coordinates
    yy = np.einsum("ij,ij->i", weighted, coordinates)
    members = _members(cov, shared, g)
    m = b + problem.n_factors
    rhs = np.empty((len(g), m))
    for a, rows in members:
        rhs[rows] = weighted[rows] @ shared.by_basis[a].T
    if cov.rank < cov.n:
        left = cov.residual_share[g]
        yy += cov.sum_outside(y, y) / left
        rhs += (y[:, cov.rank :] @ shared.common[:, cov.rank :].T) / left[:, None]
    prior_prec = np.empty((len(g), m))
    # The column of an effect that these rows cannot estimate is zeroed: any precision will do.
    prior_prec[:, :b] = np.where(group.estimable, state.effect_scales.trait_prec(problem.covariates, block), 1.0)
    held = group.held[block.start - group.traits.start : block.stop - group.traits.start]
    if held.any():
        sizes = np.einsum("sbb->sb", shared.grams[:, :b, :b]).max(axis=0)
        prior_prec[:, :b] = np.where(held, HELD_PRECISION * (1.0 + sizes), prior_prec[:, :b])
    np.multiply(state.scales.local[block], state.scales.row, out=prior_prec[:, b:])
    dof = cov.n - np.count_nonzero(group.estimable & problem.covariates.flat & ~held, axis=1).astype(float)
    grams, which, own = shared.grams, shared.position[g], list[CisPart]()
    if problem.cis.n:
        own = integrate_out_of_block(problem.cis, group, block, g, shared.common, shared.by_basis, y, coordinates)
    if own:
        grams, which = take_out(own, grams, which, rhs, yy)
    draw_coefficients(problem, grams, which, dof, state, block, prior_prec, rhs, yy, rng)
    state.coef[block, :b][~group.estimable | held] = 0.0
    coef = state.coef[block]
    fixed_residual = y - coef[:, :b] @ shared.common[:b]
    if own:
        for part in own:
            part.draw(state.cis, coef[part.trait], state.tau[block][part.trait], rng)
        added = problem.cis.values(state.cis, block, group)
        fixed_residual -= added
    residual = fixed_residual - coef[:, b:] @ shared.common[b:]
    if not cov.inner:
        return cov.turn(residual, g), fixed_residual
    for a, rows in members:
        coordinates[rows] -= coef[rows] @ shared.by_basis[a]
    if own:
        coordinates -= cov.turn(added, g).coordinates
    return TurnedRows(cov, residual, g, coordinates), fixed_residual


def draw_coefficients(
    problem: Problem,
    grams: np.ndarray,
    which: np.ndarray,
    dof: float | np.ndarray,
    state: State,
    block: slice,
    prior_prec: np.ndarray,
    rhs: np.ndarray,
    yy: np.ndarray,
    rng: np.random.Generator,
) -> None:
    """Draw (tau, B, Lambda) of a block of traits given the sums of the data.

    Parameters
    ----------
    problem : Problem
    grams : ndarray, shape (n_grams, b + k, b + k)
    which : ndarray of int, shape (block,)
        Gram matrix of each trait.
    dof : float or ndarray, shape (block,)
        Rows of each trait less the flat fixed effects they can tell apart.
    state : State
    block : slice
    prior_prec, rhs : ndarray, shape (block, b + k)
    yy : ndarray, shape (block,)
        Weighted sums of squares.
    rng : Generator
    """
    if state.scales.included is not None:
        _draw_by_site(problem, grams, which, state, block, prior_prec, rhs, rng)
        return
    covariates = problem.trait_covariates
    if covariates.q:
        mean = covariates.x[block] @ state.loading_effects.T
        _shift(grams, which, mean, rhs, yy)
    _draw_jointly(problem, grams, which, dof, state, block, prior_prec, rhs, yy, rng)
    if covariates.q:
        state.coef[block, problem.b :] += mean


def _shift(grams: np.ndarray, which: np.ndarray, mean: np.ndarray, rhs: np.ndarray, yy: np.ndarray) -> None:
    """Take prior means of the loadings off the data, in the sums of the data: a prior mean of zero is left."""
    k = mean.shape[1]
    for i in np.unique(which):
        rows = np.flatnonzero(which == i)
        gram_mean = mean[rows] @ grams[i, -k:]
        explained = 2.0 * rhs[rows, -k:] - gram_mean[:, -k:]
        yy[rows] -= np.einsum("jl,jl->j", explained, mean[rows])
        rhs[rows] -= gram_mean


def _draw_jointly(
    problem: Problem,
    grams: np.ndarray,
    which: np.ndarray,
    dof: float | np.ndarray,
    state: State,
    block: slice,
    prior_prec: np.ndarray,
    rhs: np.ndarray,
    yy: np.ndarray,
    rng: np.random.Generator,
) -> None:
    """Draw (tau, B, Lambda) given the sums of the data; eq. SLAM-7."""
    prior, g = _trait_precisions(problem, block), state.g[block]
    rate, unit = 1.0, None
    if isinstance(prior, PrecisionPrior):
        rate = prior.rate
    else:
        # Loadings and tau in units of y that make each rate one.
        unit = np.sqrt(prior.rate[np.arange(len(g)), g])
        rhs, yy = rhs / unit[:, None], yy / unit**2
    bad = draw_regressions(
        grams,
        which,
        prior_prec,
        rhs,
        yy,
        rng.standard_normal(rhs.shape),
        rng.standard_gamma(prior.shape + 0.5 * dof, len(g)),
        rate,
        np.argsort(which, kind="stable"),
        np.empty(work_size(rhs.shape[1])),
        state.coef[block],
        state.tau[block],
    )
    if bad >= 0:
        raise FitError(
            f"iteration {state.iteration}: the precision of the loadings of trait {block.start + bad} is not positive "
            "definite. Subtract their means from covariates far from zero, divide large ones by a constant, and report "
            "this with the data if it stays."
        )
    if unit is not None:
        state.coef[block] *= unit[:, None]
        state.tau[block] /= unit**2


def _draw_by_site(
    problem: Problem,
    grams: np.ndarray,
    which: np.ndarray,
    state: State,
    block: slice,
    prior_prec: np.ndarray,
    rhs: np.ndarray,
    rng: np.random.Generator,
) -> None:
    """Draw loadings that may be zero one after the other, B integrated out, then B; all given tau; eq. SLAM-24."""
    b, tau, coef = problem.b, state.tau[block], state.coef[block]
    scales = state.scales
    assert scales.included is not None
    assert scales.inclusion is not None
    own_prec = state.effect_scales.local_trait is not None or bool(np.ptp(prior_prec[:, :b], axis=0).any())
    # Traits that share everything but their loadings.
    _, first, kind = np.unique(np.arange(len(tau)) if own_prec else which, return_index=True, return_inverse=True)
    grams = grams[which[first]]
    fixed = grams[:, :b, :b].copy()
    fixed[:, np.arange(b), np.arange(b)] += prior_prec[first, :b]
    # G_XX^-1 G_XF: what is taken off the factors to integrate B out.
    slopes = np.linalg.solve(fixed, grams[:, :b, b:])
    loadings = np.ascontiguousarray(coef[:, b:])
    draw_sites(
        grams[:, b:, b:] - np.swapaxes(grams[:, :b, b:], 1, 2) @ slopes,
        kind,
        np.ascontiguousarray(prior_prec[:, b:]),
        rhs[:, b:] - np.einsum("jb,jbl->jl", rhs[:, :b], slopes[kind], optimize=False),
        np.log(scales.inclusion) - np.log1p(-scales.inclusion),
        tau,
        rng.standard_normal(loadings.shape),
        rng.random(loadings.shape),
        np.empty(loadings.shape[1]),
        loadings,
    )
    coef[:, b:] = loadings
    scales.included[block] = loadings != 0.0
    roots = np.linalg.cholesky(fixed)
    noise = rng.standard_normal((len(tau), b)) / np.sqrt(tau)[:, None]
    for i in range(len(first)):
        traits = np.flatnonzero(kind == i)
        rest = np.linalg.solve(roots[i], (rhs[traits, :b] - loadings[traits] @ grams[i, :b, b:].T).T)
        coef[traits, :b] = np.linalg.solve(roots[i].T, rest + noise[traits].T).T


def draw_trait_shares(
    problem: Problem,
    group: TraitGroup,
    state: State,
    block: slice,
    residual: TurnedRows,
    rays: np.ndarray,
    rng: np.random.Generator,
) -> TurnedRows:
    """Draw (g_j, tau_j) jointly given the coefficients, U integrated out; eq. SLAM-8 on some rays, eq. SLAM-34.

    Returns
    -------
    TurnedRows
        The residuals at the new grid points.
    """
    cov = group.cov
    state.g[block], state.tau[block] = draw_shares_of_traits(
        problem, state, block, residual.forms(rays), cov.logdet, cov.n, rng
    )
    return residual.at(state.g[block])


def draw_shares_of_traits(
    problem: Problem,
    state: State,
    block: slice,
    forms: np.ndarray,
    logdet: np.ndarray,
    n_rows: int | np.ndarray,
    rng: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray]:
    """Draw (g_j, tau_j) given the quadratic forms of the residuals of a block; eq. SLAM-8.

    Parameters
    ----------
    problem : Problem
    state : State
    block : slice
    forms : ndarray, shape (block, n_points)
        Overwritten.
    logdet : ndarray, shape (n_points,) or (block, n_points)
    n_rows : int or ndarray of int, shape (block,)
    rng : Generator

    Returns
    -------
    points : ndarray of int, shape (block,)
    precisions : ndarray, shape (block,)
    """
    b = problem.b
    loadings = state.loading_deviations(problem, block)
    penalty = np.einsum(
        "jl,jl,jl,l->j", loadings, loadings, state.scales.local[block], state.scales.row, optimize=False
    )
    included = state.scales.included
    n_active = problem.n_factors if included is None else included[block].sum(axis=1)
    n_shrunk = problem.covariates.n_shrunk
    if n_shrunk:
        penalty += np.sum(
            state.coef[block, :b] ** 2 * state.effect_scales.trait_prec(problem.covariates, block), axis=1
        )
        n_active = n_active + n_shrunk
    if problem.cis.n:
        n_own, of_own = problem.cis.penalty(state.cis, block)
        penalty += of_own
        n_active = n_active + n_own
    forms += penalty[:, None]
    return draw_shares(
        forms, logdet, problem.log_prior_traits, _trait_precisions(problem, block), n_rows + n_active, rng
    )


def _trait_precisions(problem: Problem, block: slice) -> PrecisionPrior | TraitPrecisions:
    prior = problem.trait_precisions
    return prior if isinstance(prior, PrecisionPrior) else prior.of(block)


def draw_shares(
    forms: np.ndarray,
    logdet: np.ndarray,
    log_prior: np.ndarray,
    prior: PrecisionPrior | TraitPrecisions,
    n_terms: int | np.ndarray,
    rng: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray]:
    """Draw grid points with the precision integrated out, then the precisions; eq. SLAM-8 and SLAM-10.

    Parameters
    ----------
    forms : ndarray, shape (c, n_points)
        Quadratic forms at every grid point.
    logdet : ndarray, shape (n_points,) or (c, n_points)
    log_prior : ndarray, shape (n_points,)
    prior : PrecisionPrior or TraitPrecisions
        Its rate may depend on the row and on the grid point; eq. SLAM-27.
    n_terms : int or ndarray of int, shape (c,)
        Number of Gaussian terms that carry the precision.
    rng : Generator

    Returns
    -------
    points : ndarray of int, shape (c,)
    precisions : ndarray, shape (c,)
    """
    shape = prior.shape + 0.5 * n_terms
    power = shape[:, None] if isinstance(shape, np.ndarray) else shape
    log_mass = (log_prior - 0.5 * logdet) - power * np.log(prior.rate + 0.5 * forms)
    if not isinstance(prior, PrecisionPrior):
        log_mass += prior.shape[:, None] * np.log(prior.rate)
    log_mass -= log_mass.max(axis=1, keepdims=True)
    cumulative = np.cumsum(np.exp(log_mass), axis=1)
    # 1 - u lies in (0, 1]: a point without mass is never drawn, not even the first or the last.
    targets = (1.0 - rng.random(len(forms))) * cumulative[:, -1]
    points = np.sum(cumulative < targets[:, None], axis=1).astype(np.intp)
    chosen = (np.arange(len(forms)), points)
    rates = (prior.rate if isinstance(prior, PrecisionPrior) else prior.rate[chosen]) + 0.5 * forms[chosen]
    return points, rng.standard_gamma(shape, len(forms)) / rates


def draw_random_rows(residual: TurnedRows, prec: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Draw ``Z U`` (the sum over random effects) given residuals, in common coordinates; eq. SLAM-11.

    Element-wise in the basis of each grid point: mean ``(1 - (1-s) w) e``, variance ``(1-s) (1 - (1-s) w) / prec``.
    Zero outside.
    """
    cov, points = residual.cov, residual.points
    left = cov.residual_share[points][:, None]
    share = 1.0 - left * cov.weights[points]
    np.maximum(share, 0.0, out=share)
    noise = rng.standard_normal(share.shape)
    noise *= np.sqrt(share * (left / prec[:, None]))
    inside = cov.from_coordinates(share * residual.coordinates + noise, points)
    if cov.rank == cov.n:
        return inside
    out = np.zeros_like(residual.common)
    out[:, : cov.rank] = inside
    return out


def weigh_collapsed(
    problem: Problem, group: TraitGroup, state: State, block: slice, fixed_residual: np.ndarray
) -> None:
    """Store ``tau_j V^-1 (y - XB - C a)`` of a block for `add_to_sums`."""
    cov, g, first = group.cov, state.g[block], block.start % SUMMED_TOGETHER
    weighted = state.weighted[first : first + len(g)]
    np.multiply(cov.weights[g], fixed_residual[:, : cov.rank], out=weighted[:, : cov.rank])
    np.divide(fixed_residual[:, cov.rank :], cov.residual_share[g][:, None], out=weighted[:, cov.rank :])
    weighted *= state.tau[block][:, None]


def add_to_sums(problem: Problem, state: State, traits: slice, pool: BlockPool) -> None:
    """Add what some traits (at most `SUMMED_TOGETHER`) say of the factors, U integrated out: ``c_i`` of eq. SLAM-12."""
    loadings = state.coef[traits, problem.b :].T
    weighted = state.weighted[: loadings.shape[1]]

    def add(rows: slice) -> None:
        state.sums[:, rows] += loadings @ weighted[:, rows]

    pool.run(add, problem.row_blocks)


def weigh_given_random(
    problem: Problem,
    group: TraitGroup,
    state: State,
    block: slice,
    residual: TurnedRows,
    fixed_residual: np.ndarray,
    rng: np.random.Generator,
) -> None:
    """Draw ``Z U_R`` of a block and store ``omega_j (y - XB - Z U_R)`` on the rows kept for these traits."""
    cov, g, tau, rows = group.cov, state.g[block], state.tau[block], group.rows
    assert state.random is not None
    random = draw_random_rows(residual, tau, rng)
    rest = cov.leave(fixed_residual - random)
    rest *= (tau / cov.residual_share[g])[:, None]
    state.weighted[block][:, rows] = rest
    state.random[block][:, rows] = cov.leave(random)


def draw_own_traits(problem: Problem, own: OwnRows, state: State, rng: np.random.Generator) -> np.ndarray:
    """Draw (tau, B, Lambda), then (g, tau), of all these traits, U integrated out; eq. SLAM-7 and SLAM-8.

    Returns
    -------
    ndarray, shape (N,)
        ``y - XB - C a - F Lambda`` in common coordinates.
    """
    b, block = problem.b, own.traits
    m, c = b + problem.n_factors, len(own.spans)
    # Regressors and response one under the other: one product gives all sums.
    design = np.empty((m + 1, len(own.row)))
    design[:b] = own.x
    on_rows = np.concatenate((state.factors[:, own.row], own.gather(state.y)[None]))
    own.enter(on_rows, out=design[b:])
    weights = own.weights_of(state.g[block])
    scaled = design * np.sqrt(weights)
    products = np.empty((c, m + 1, m + 1))
    for j, span in enumerate(own.spans):
        np.matmul(scaled[:, span], scaled[:, span].T, out=products[j])
    parts = []
    for j, effects in problem.cis.having(block) if problem.cis.n else ():
        span = own.spans[j]
        columns = problem.cis.entered[block.start + j][problem.cis.local[effects]]
        weighted = columns * weights[span]
        parts.append(integrate_out(j, effects, weighted @ columns.T, weighted @ design[:, span].T, problem.cis.prec))
        products[j] -= parts[-1].explained
    prior_prec = np.empty((c, m))
    prior_prec[:, :b] = np.where(own.estimable, state.effect_scales.trait_prec(problem.covariates, block), 1.0)
    np.multiply(state.scales.local[block], state.scales.row, out=prior_prec[:, b:])
    draw_coefficients(
        problem,
        np.ascontiguousarray(products[:, :m, :m]),
        np.arange(c),
        own.n_rows - np.count_nonzero(own.estimable & problem.covariates.flat, axis=1),
        state,
        block,
        prior_prec,
        np.ascontiguousarray(products[:, m, :m]),
        np.ascontiguousarray(products[:, m, m]),
        rng,
    )
    state.coef[block, :b][~own.estimable] = 0.0
    residual = design[m] - np.einsum("qi,qi->i", state.coef[block].T[:, own.trait], design[:m])
    for part in parts:
        part.draw(state.cis, state.coef[block][part.trait], state.tau[block][part.trait], rng)
        columns = problem.cis.entered[block.start + part.trait][problem.cis.local[part.effects]]
        residual[own.spans[part.trait]] -= state.cis[part.effects] @ columns
    forms = np.ascontiguousarray(own.sums(own.weights * residual**2).T)
    state.g[block], state.tau[block] = draw_shares_of_traits(problem, state, block, forms, own.logdet, own.n_rows, rng)
    return residual


def weigh_own_traits(
    problem: Problem, own: OwnRows, state: State, residual: np.ndarray, rng: np.random.Generator
) -> None:
    """Draw ``Z U_R`` of these traits and store ``omega_j (y - XB - Z U_R)`` on their rows; eq. SLAM-11."""
    assert state.random is not None
    g, tau = state.g[own.traits], state.tau[own.traits]
    left = problem.grid.residual_share[g]
    kept = left[own.trait]
    share = np.maximum(1.0 - kept * own.weights_of(g), 0.0)
    noise = rng.standard_normal(len(share))
    random = own.leave(share * residual + noise * np.sqrt(share * kept / tau[own.trait]))
    fixed = np.einsum("qi,qi->i", state.coef[own.traits, : problem.b].T[:, own.trait], own.x_rows)
    if problem.cis.n:
        fixed += problem.cis.values(state.cis, own.traits)[own.trait, own.row]
    state.random[own.traits][own.trait, own.row] = random
    state.weighted[own.traits][own.trait, own.row] = (own.gather(state.y) - fixed - random) * (tau / left)[own.trait]


def draw_factor_effects(problem: Problem, state: State, rng: np.random.Generator, pool: BlockPool) -> None:
    """Draw (kappa_l, B_F) of each factor jointly given its share, U_F integrated out; eq. SLAM-29."""
    b, cov, gamma = problem.n_factor_effects, problem.factor_cov, state.gamma
    if b == 0:
        return
    columns, factors = cov.enter(problem.x_factor), cov.enter(state.factors)
    used, which = np.unique(gamma, return_inverse=True)
    by_basis = {int(a): cov.in_basis(columns, int(a)) for a in np.unique(cov.basis[used])}
    solved = cov.turn(factors, gamma).solve()
    prior_prec = state.effect_scales.factor_prec(problem.covariates)
    bad = draw_regressions(
        cov.grams(columns, by_basis, used, pool),
        which,
        prior_prec,
        solved @ columns.T,
        np.einsum("li,li->l", solved, factors),
        rng.standard_normal((len(gamma), b)),
        rng.standard_gamma(problem.priors.factor.shape + 0.5 * cov.n, len(gamma)),
        problem.priors.factor.rate,
        np.argsort(which, kind="stable"),
        np.empty(work_size(b)),
        state.coef_factor,
        state.kappa,
    )
    if bad >= 0:
        raise FitError(
            f"iteration {state.iteration}: the precision of a factor's fixed effects is not positive definite."
        )


def _factor_penalty(problem: Problem, state: State) -> np.ndarray:
    """Quadratic form of each factor's fixed effects, in units of kappa, shape (k,)."""
    prec = state.effect_scales.factor_prec(problem.covariates)
    return np.einsum("lq,lq,lq->l", prec, state.coef_factor, state.coef_factor)


def draw_factor_shares(
    problem: Problem, state: State, residual: TurnedRows, rng: np.random.Generator
) -> tuple[TurnedRows, np.ndarray]:
    """Draw (gamma_l, kappa_l) jointly given the factors and their fixed effects, U_F integrated out; eq. SLAM-10.

    Parameters
    ----------
    problem : Problem
    state : State
    residual : TurnedRows, shape (k, n)
        Factors without their fixed effects, at the grid points of the state.
    rng : Generator

    Returns
    -------
    residual : TurnedRows
        The same at the new grid points.
    forms : ndarray, shape (k,)
        Quadratic form of each factor and its effects at the new share, in units of kappa.
    """
    cov = problem.factor_cov
    forms = residual.forms(draw_rays(cov, rng))
    if problem.n_factor_effects:
        forms += _factor_penalty(problem, state)[:, None]
    n_terms = cov.n + problem.n_factor_effects
    state.gamma[:], state.kappa[:] = draw_shares(
        forms, cov.logdet, problem.log_prior_factors, problem.priors.factor, n_terms, rng
    )
    return residual.at(state.gamma), forms[np.arange(len(forms)), state.gamma]


def draw_effect_scales(problem: Problem, state: State, rng: np.random.Generator) -> None:
    """Update the scales of the fixed effects; eq. SLAM-30 or SLAM-41."""
    columns = problem.covariates
    if not columns.names:
        return
    on_traits = state.tau[:, None] * state.coef[:, : problem.b] ** 2 * columns.trait_square
    on_factors = state.kappa[:, None] * state.coef_factor**2 * columns.factor_square
    problem.priors.fixef_prior.draw(columns, state.effect_scales, on_traits, on_factors, problem.n, rng)


def trait_precision_sums(problem: Problem, state: State, pool: BlockPool) -> tuple[np.ndarray, np.ndarray]:
    """``S = sum_j c_j lambda_j lambda_j'`` by grid point (c = tau) or, given U, by group of rows (c = omega).

    Returns
    -------
    keys : ndarray of int
        Grid points in use, or all groups.
    sums : ndarray, shape (len(keys), k, k)
    """
    b, k = problem.b, problem.n_factors
    loadings = state.coef[:, b:]
    if problem.collapsed:
        keys = np.unique(state.g)
        members = [np.flatnonzero(state.g == g) for g in keys]
        prec = state.tau
    else:
        keys = np.arange(len(problem.groups))
        members = [np.arange(group.traits.start, group.traits.stop) for group in problem.groups]
        prec = state.tau / problem.grid.residual_share[state.g]
    if len(keys) == problem.p and not problem.collapsed:
        scaled = loadings * np.sqrt(prec)[:, None]
        return keys, scaled[:, :, None] * scaled[:, None, :]
    sums = np.empty((len(keys), k, k))

    def form(i: int) -> None:
        scaled = loadings[members[i]] * np.sqrt(prec[members[i]])[:, None]
        np.matmul(scaled.T, scaled, out=sums[i])

    pool.run(form, range(len(keys)))
    return keys, sums


@dataclass(frozen=True)
class FactorLikelihood:
    """Likelihood of the factors given U: row i has ``linear[:, i]' f - f' P f / 2``, P that of its pattern of groups.

    Attributes
    ----------
    precisions : ndarray, shape (n_patterns, k, k)
    linear : ndarray, shape (k, n)
    """

    precisions: np.ndarray
    linear: np.ndarray


def draw_factors(problem: Problem, state: State, random: np.ndarray | None, pool: BlockPool) -> FactorLikelihood | None:
    """Draw the factors, row by row; eq. SLAM-12 (U integrated out) or SLAM-13 (given ``Z U_F`` = ``random``).

    Returns
    -------
    FactorLikelihood or None
        Given U, for `move_factor_shares`.
    """
    keys, sums = trait_precision_sums(problem, state, pool)
    if random is None:
        pool.run(_factors_collapsed(problem, state, keys, sums), range(len(problem.row_blocks)))
        return None
    loadings = np.ascontiguousarray(state.coef[:, problem.b :].T)
    precisions = np.tensordot(problem.pattern_groups.astype(float), sums, axes=1)
    likelihood = FactorLikelihood(precisions, np.empty_like(state.factors))
    draw = _factors_given_random(problem, state, loadings, likelihood, random)
    pool.run(draw, range(len(problem.row_blocks)))
    return likelihood


def _factors_collapsed(problem: Problem, state: State, keys: np.ndarray, sums: np.ndarray) -> Callable[[int], None]:
    """Draw a block of rows with a precision each, ``sum_g w_gi S_g + diag(kappa w_i)``; eq. SLAM-12.

    Outside all rows have the same; eq. SLAM-33.
    """
    cov, k = problem.factor_cov, problem.n_factors
    lower = sums[:, *np.tril_indices(k)]
    prior_weights = state.kappa[:, None] * cov.weights[state.gamma]
    mean = state.factor_mean(problem) if problem.n_factor_effects else None
    if cov.rank < cov.n:
        prior_outside = state.kappa / cov.residual_share[state.gamma]
        precision = np.tensordot(1.0 / cov.residual_share[keys], sums, axes=1)
        precision[np.diag_indices(k)] += prior_outside
        draw_outside = _shared_precision(precision, state)

    def draw(i: int) -> None:
        rows = problem.row_blocks[i]
        outside = rows.start >= cov.rank
        rhs = state.sums[:, rows].copy()
        if mean is not None:
            rhs += (prior_outside[:, None] if outside else prior_weights[:, rows]) * mean[:, rows]
        noise = state.streams.rows[i].standard_normal(rhs.shape)
        if outside:
            state.factors[:, rows] = draw_outside(rhs, noise)
            return
        drawn = np.empty_like(rhs)
        bad = draw_rows(
            lower.T @ cov.weights[keys, rows],
            np.ascontiguousarray(prior_weights[:, rows]),
            rhs,
            noise,
            np.empty(work_size(k)),
            drawn,
        )
        _check_factors(bad, state)
        state.factors[:, rows] = drawn

    return draw


def _shared_precision(precision: np.ndarray, state: State) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    """Draws of many columns ``N(P^-1 rhs, P^-1)`` with one P, from ``rhs`` and standard normals, both (k, n)."""
    root, bad = lapack.dpotrf(precision, lower=True)
    _check_factors(-1 if bad == 0 else bad, state)
    inverse, _ = lapack.dtrtri(root, lower=True)
    return lambda rhs, noise: inverse.T @ (inverse @ rhs + noise)


def _factors_given_random(
    problem: Problem, state: State, loadings: np.ndarray, likelihood: FactorLikelihood, random: np.ndarray
) -> Callable[[int], None]:
    """Draw a block of rows; rows kept by the same groups of traits share a precision; eq. SLAM-13.

    A few patterns are factored once each; many go through the lanes, row by row.
    """
    k, linear = problem.n_factors, likelihood.linear
    by_row = len(likelihood.precisions) * ROWS_PER_PATTERN > problem.n
    prior_prec = state.kappa / problem.grid.residual_share[state.gamma]
    mean = random + state.factor_mean(problem) if problem.n_factor_effects else random
    if by_row:
        lower = likelihood.precisions[:, *np.tril_indices(k)]
    else:
        precisions = likelihood.precisions.copy()
        precisions[:, np.arange(k), np.arange(k)] += prior_prec

    def draw(i: int) -> None:
        rows = problem.row_blocks[i]
        which = problem.row_pattern[rows]
        linear[:, rows] = loadings @ state.weighted[:, rows]
        rhs = linear[:, rows] + prior_prec[:, None] * mean[:, rows]
        noise = state.streams.rows[i].standard_normal((len(which), k))
        work = np.empty(work_size(k))
        if by_row:
            packed, diagonal = np.ascontiguousarray(lower[which].T), np.repeat(prior_prec[:, None], len(which), axis=1)
            drawn = np.empty_like(rhs)
            bad = draw_rows(packed, diagonal, rhs, np.ascontiguousarray(noise.T), work, drawn)
        else:
            drawn = np.empty((len(which), k))
            bad = draw_gaussians(precisions, which, np.ascontiguousarray(rhs.T), noise, work, drawn)
            drawn = drawn.T
        _check_factors(bad, state)
        state.factors[:, rows] = drawn

    return draw


def move_factor_shares(
    problem: Problem, state: State, random: np.ndarray, likelihood: FactorLikelihood, rng: np.random.Generator
) -> None:
    """Move factors and their shares together, with the standardised parts of each factor held; eq. SLAM-23.

    Given U_F a factor holds its share where it is, and the share holds U_F: this move, in the other of the two
    parametrisations, breaks that (Yu & Meng 2011, J. Comput. Graph. Statist. 20:531). ``random`` is kept up to date.
    """
    grid, linear = problem.grid, likelihood.linear
    if problem.n_factor_effects:
        # What moves is the factor without its fixed effects.
        mean = state.factor_mean(problem)
        linear = linear - np.einsum("ilm,mi->li", likelihood.precisions[problem.row_pattern], mean)
        state.factors -= mean
    move_shares(
        likelihood.precisions,
        problem.row_pattern,
        linear,
        grid.shares.sum(axis=1),
        grid.ray,
        problem.log_prior_factors,
        rng.random(problem.n_factors),
        np.empty(problem.n),
        np.empty(len(grid.cell)),
        random,
        state.factors,
        state.gamma,
    )
    if problem.n_factor_effects:
        state.factors += mean


def _check_factors(bad: int, state: State) -> None:
    if bad >= 0:
        raise FitError(f"iteration {state.iteration}: the precision of the factors is not positive definite.")


def move_scales(
    problem: Problem, state: State, q: np.ndarray, forms: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """Move each factor along ``f -> c f, lambda -> lambda / c``, which leaves the likelihood alone; eq. SLAM-18.

    Parameters
    ----------
    problem : Problem
    state : State
    q : ndarray, shape (k,)
        ``sum_j tau_j local_lj lambda_lj^2 / 2``; rescaled with the loadings.
    forms : ndarray, shape (k,)
        What `draw_factor_shares` returns.
    rng : Generator

    Returns
    -------
    ndarray, shape (k,)
        The factors' c.
    """
    order = 0.5 * (problem.n + problem.n_factor_effects - state.scales.n_active)
    chi = 2.0 * q * state.scales.row
    if problem.trait_covariates.q:
        order -= 0.5 * problem.trait_covariates.q
        chi += np.sum(state.loading_effects**2, axis=1) / state.loading_effect_var
    c2 = draw_gig(order, chi, state.kappa * forms, rng)
    c = np.sqrt(c2)
    # A new array: without a rotation `residual` of the caller is the old one.
    state.factors = state.factors * c[:, None]
    state.coef_factor *= c[:, None]
    state.coef[:, problem.b :] /= c
    state.loading_effects /= c[:, None]
    q /= c2
    return c


def swap_neighbours(problem: Problem, state: State, q: np.ndarray, rng: np.random.Generator) -> None:
    """Exchange adjacent factors with the right probability; only the row scales tell them apart; eq. SLAM-19.

    Parameters
    ----------
    problem : Problem
    state : State
    q : ndarray, shape (k,)
        ``sum_j tau_j local_lj lambda_lj^2 / 2``; permuted with the factors.
    rng : Generator
    """
    k = problem.n_factors
    first = np.arange(rng.integers(2), k - 1, 2)
    if not len(first):
        return
    row = state.scales.row
    log_ratio = (q[first + 1] - q[first]) * (row[first + 1] - row[first])
    if state.scales.included is not None:
        active = state.scales.n_active
        log_ratio += 0.5 * (active[first + 1] - active[first]) * np.log(row[first] / row[first + 1])
    accepted = first[np.log(1.0 - rng.random(len(first))) < log_ratio]
    if not len(accepted):
        return
    order = np.arange(k)
    order[accepted], order[accepted + 1] = accepted + 1, accepted
    state.factors[:] = state.factors[order]
    state.coef_factor[:] = state.coef_factor[order]
    state.effect_scales.permute(order)
    state.loading_effects[:] = state.loading_effects[order]
    state.loading_effect_var[:] = state.loading_effect_var[order]
    loadings = state.coef[:, problem.b :]
    loadings[:] = loadings[:, order]
    state.scales.permute(order)
    state.kappa[:], state.gamma[:], q[:] = state.kappa[order], state.gamma[order], q[order]


def draw_loading_effects(problem: Problem, state: State, rng: np.random.Generator) -> None:
    """Draw the effects of covariates of the traits on the loadings of each factor, then their variance; eq. SLAM-43."""
    x, prior = problem.trait_covariates.x, problem.priors.loading_effects
    loadings, q = state.coef[:, problem.b :], problem.trait_covariates.q
    prec = (state.tau[:, None] * state.scales.local * state.scales.row).T
    C = np.einsum("lj,jq,jr->lqr", prec, x, x, optimize=True)
    C[:, np.arange(q), np.arange(q)] += 1.0 / state.loading_effect_var[:, None]
    root = np.linalg.cholesky(C)
    rest = np.linalg.solve(root, ((prec * loadings.T) @ x)[:, :, None])
    rest += rng.standard_normal(rest.shape)
    state.loading_effects[:] = np.linalg.solve(np.swapaxes(root, 1, 2), rest)[:, :, 0]
    rate = prior.rate + 0.5 * np.sum(state.loading_effects**2, axis=1)
    state.loading_effect_var[:] = rate / rng.standard_gamma(prior.shape + 0.5 * q, len(rate))


def loading_sums(problem: Problem, state: State) -> np.ndarray:
    """``q_l = sum_j tau_j local_lj (lambda_lj - mu_lj)^2 / 2``, shape (k,)."""
    loadings = state.loading_deviations(problem)
    return 0.5 * np.einsum("jl,jl,jl,j->l", loadings, loadings, state.scales.local, state.tau, optimize=False)


def draw_local_scales(problem: Problem, state: State, block: slice, rng: np.random.Generator) -> None:
    """Update the local scales of a block of traits."""
    loadings = state.loading_deviations(problem, block)
    problem.priors.loadings_prior.draw_local(loadings * loadings * state.tau[block][:, None], state.scales, block, rng)


def draw_missing(problem: Problem, state: State, rng: np.random.Generator) -> None:
    """Draw the missing cells that lie inside a group's rows, given U, F and the loadings; eq. SLAM-20."""
    assert state.random is not None
    for group in problem.groups:
        if not group.imputed.any():
            continue
        members = group.traits
        mean = state.coef[members] @ np.concatenate((problem.x, state.factors))[:, group.rows]
        mean += state.random[members][:, group.rows]
        if problem.cis.n:
            mean += problem.cis.values(state.cis, members)[:, group.rows]
        eta = state.y[members][:, group.rows]
        prec = state.tau[members] / problem.grid.residual_share[state.g[members]]
        traits, cells = np.nonzero(group.imputed)
        eta[traits, cells] = mean[traits, cells] + rng.standard_normal(len(traits)) / np.sqrt(prec[traits])
        state.y[members][:, group.rows] = eta


def draw_scattered(problem: Problem, group: TraitGroup, state: State, block: slice, rng: np.random.Generator) -> None:
    """Draw the missing cells of a block of traits with U integrated out, on the collapsed path; eq. SLAM-35.

    Only the rows of the basis that belong to a trait's missing cells are needed.
    """
    cov, g = group.cov, state.g[block]
    solved = state.coef[block] @ np.concatenate((problem.x, state.factors))
    if problem.cis.n:
        solved += problem.cis.values(state.cis, block)
    solved = cov.turn(state.y[block] - solved, g).solve()
    missing = group.imputed[block.start - group.traits.start : block.stop - group.traits.start]
    noise = rng.standard_normal(np.count_nonzero(missing)) / np.sqrt(np.repeat(state.tau[block], missing.sum(axis=1)))
    first = 0
    for j, cells in enumerate(missing):
        turns = problem.basis[cells]
        if not len(turns):
            continue
        scaled = turns * np.sqrt(cov.all_weights(int(g[j])))
        root, bad = lapack.dpotrf(scaled @ scaled.T, lower=True)
        if bad:
            raise FitError(f"iteration {state.iteration}: the precision of missing cells is not positive definite.")
        step, _ = lapack.dtrtrs(root, -(turns @ solved[j]), lower=True)
        step, _ = lapack.dtrtrs(root, step + noise[first : first + len(turns)], lower=True, trans=1)
        state.y[block.start + j] += step @ turns
        first += len(turns)


def draw_linked_traits(problem: Problem, state: State, pool: BlockPool, watch: Watch | None = None) -> None:
    """Draw the latent traits of every link given its data, U, F and the loadings, and its parameters; eq. LINK-1.

    Links work in natural units: ``eta = base_coef x + scale y``.

    Parameters
    ----------
    problem : Problem
    state : State
    pool : BlockPool
    watch : callable, optional
        Is told the mean and the precision that the model gives to each block of latent traits.
    """
    assert state.random is not None
    random, imputed = state.random, problem.groups[0].imputed
    design = np.concatenate((problem.x, state.factors))
    scale = problem.scale[problem.order]
    for part, parameters, streams in zip(problem.links, state.links, state.streams.links, strict=True):
        first = part.traits.start

        def draw_block(i: int, part=part, parameters=parameters, streams=streams, first=first) -> None:  # type: ignore[no-untyped-def]
            own = part.blocks[i]
            block = slice(first + own.start, first + own.stop)
            at, unit = problem.base(block), scale[block, None]
            mean = state.coef[block] @ design
            mean += random[block]
            if problem.cis.n:
                mean += problem.cis.values(state.cis, block)
            mean *= unit
            mean += at
            eta = state.y[block] * unit
            eta += at
            prec = state.tau[block] / problem.grid.residual_share[state.g[block]] / scale[block] ** 2
            if watch is not None:
                watch(problem, part, own, mean, prec, parameters)
            part.likelihood.draw(eta, mean, prec, parameters, own, streams[i])
            eta -= at
            eta /= unit
            np.copyto(state.y[block], eta, where=imputed[block])

        pool.run(draw_block, range(len(part.blocks)))
        if part.likelihood.has_shared:
            eta = state.y[part.traits] * scale[part.traits, None] + problem.base(part.traits)
            part.likelihood.draw_shared(eta, parameters, streams[-1])


def draw_effects(
    problem: Problem,
    roots: Sequence[np.ndarray | sp.csr_array | None],
    cov: Covariances,
    rows: np.ndarray,
    residual: np.ndarray,
    points: np.ndarray,
    prec: np.ndarray,
    rng: np.random.Generator,
) -> list[np.ndarray]:
    """Draw the effects of all levels of every component, given residuals, by Matheron's rule; eq. SLAM-21.

    A draw from the prior is corrected by ``h K Z' V^-1`` times what it misses of the residual, so singular K, zero
    shares and levels without records need no special case.

    Parameters
    ----------
    problem : Problem
    roots : sequence of ndarray, scipy CSR or None
        ``L`` with ``K = L L'`` for each component (None for the identity).
    cov : Covariances
        Of `rows`, in the basis of `residual`.
    rows : ndarray of int, shape (n_s,)
    residual : ndarray, shape (c, n_s)
        What the random effects and the residual add up to.
    points : ndarray of int, shape (c,)
    prec : ndarray, shape (c,)
    rng : Generator

    Returns
    -------
    list of ndarray, one (c, r_m) for each component.
    """
    sd = 1.0 / np.sqrt(prec)[:, None]
    shares = problem.grid.shares[points]
    effects, on_rows = [], np.zeros((len(points), problem.n))
    for m, (component, root) in enumerate(zip(problem.components, roots, strict=True)):
        effect = rng.standard_normal((len(points), component.Z.shape[1]))
        if root is not None:
            effect = effect @ root.T
        effect *= np.sqrt(shares[:, m])[:, None] * sd
        on_rows += effect @ component.Z.T
        effects.append(effect)
    noise = rng.standard_normal(residual.shape) * np.sqrt(cov.residual_share[points])[:, None] * sd
    missed = residual - noise - problem.rotation.forward(on_rows[:, rows])
    alpha = np.zeros_like(on_rows)
    alpha[:, rows] = problem.rotation.back(cov.leave(cov.turn(cov.enter(missed), points).solve()))
    for m, (component, effect) in enumerate(zip(problem.components, effects, strict=True)):
        effect += shares[:, m][:, None] * component.levels_from_rows(alpha)
    return effects


def _members(cov: Covariances, shared: Regressors, g: np.ndarray) -> Sequence[tuple[int, slice | np.ndarray]]:
    """Traits of a block by basis; a slice (no copies) when there is one."""
    if len(shared.by_basis) == 1:
        return [(next(iter(shared.by_basis)), slice(None))]
    bases = cov.basis[g]
    return [(a, np.flatnonzero(bases == a)) for a in shared.by_basis if np.any(bases == a)]
