"""One iteration: the full conditionals in their order.

U is integrated out of every trait and factor step, so an order that draws ``Z U`` after the shares and uses it before
the next loadings step is a valid partially collapsed Gibbs sampler (van Dyk & Park 2008, JASA 103:790).
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from ...linalg.threads import BLOCK, BlockPool, blocks
from . import blocks as draw
from .draws import RunningMeans
from .own_rows import OwnRows
from .problem import Problem
from .state import SUMMED_TOGETHER, State


def sweep(problem: Problem, state: State, pool: BlockPool, running: RunningMeans | None = None) -> None:
    """Move a chain by one iteration, in place; add to the running means if any are given."""
    rng = state.streams.common
    k = problem.n_factors
    if running is not None:
        running.start_draw(problem, state)
    if problem.collapsed:
        state.sums = np.zeros((k, problem.n))
    streams_of = _streams_of_groups(problem, state)
    together = {s for own in problem.own_rows for s in range(own.groups.start, own.groups.stop)}
    for s, group in enumerate(problem.groups):
        if s in together:
            continue
        shared = draw.prepare_regressors(problem, group, state, pool)

        def draw_block(i: int, group=group, shared=shared, streams=streams_of[s]) -> None:  # type: ignore[no-untyped-def]
            block, stream = group.blocks[i], streams[i]
            residual, fixed_residual = draw.draw_loadings(problem, group, shared, state, block, stream)
            residual = draw.draw_trait_shares(problem, group, state, block, residual, shared.rays, stream)
            draw.draw_local_scales(problem, state, block, stream)
            if problem.collapsed:
                draw.weigh_collapsed(problem, group, state, block, fixed_residual)
            else:
                draw.weigh_given_random(problem, group, state, block, residual, fixed_residual, stream)
            if running is not None:
                running.add_block(problem, group, state, block, residual)

        at_once = SUMMED_TOGETHER // BLOCK if problem.collapsed else len(group.blocks)
        for part in blocks(len(group.blocks), at_once):
            pool.run(draw_block, range(part.start, part.stop))
            if problem.collapsed:
                traits = slice(group.blocks[part.start].start, group.blocks[part.stop - 1].stop)
                draw.add_to_sums(problem, state, traits, pool)

    def draw_own_rows(own: OwnRows) -> None:
        stream = streams_of[own.groups.start][0]
        residual = draw.draw_own_traits(problem, own, state, stream)
        draw.draw_local_scales(problem, state, own.traits, stream)
        draw.weigh_own_traits(problem, own, state, residual, stream)
        if running is not None:
            running.add_own_rows(problem, own, state, residual)

    pool.run(draw_own_rows, problem.own_rows)
    if k:
        draw.draw_factor_effects(problem, state, rng, pool)
        cov = problem.factor_cov
        factors = cov.turn(cov.enter(state.factor_residual(problem)), state.gamma)
        factors, forms = draw.draw_factor_shares(problem, state, factors, rng)
        if problem.trait_covariates.q:
            draw.draw_loading_effects(problem, state, rng)
        q = draw.loading_sums(problem, state)
        # Here because the forms are known, and before anything is drawn that a scale would make stale.
        scale = draw.move_scales(problem, state, q, forms, rng)
        if problem.collapsed:
            state.sums /= scale[:, None]
            draw.draw_factors(problem, state, None, pool)
        else:
            random = cov.leave(draw.draw_random_rows(factors.scaled(scale), state.kappa, rng))
            likelihood = draw.draw_factors(problem, state, random, pool)
            assert likelihood is not None
            draw.move_factor_shares(problem, state, random, likelihood, rng)
        draw.swap_neighbours(problem, state, q, rng)
        problem.priors.loadings_prior.draw_rows(q, state.scales, problem.n, rng)
    draw.draw_effect_scales(problem, state, rng)
    if problem.links:
        draw.draw_linked_traits(problem, state, pool, None if running is None else running.add_data)
    elif problem.impute and problem.collapsed:
        (group,), (streams,) = problem.groups, streams_of

        def draw_cells(i: int) -> None:
            draw.draw_scattered(problem, group, state, group.blocks[i], streams[i])

        pool.run(draw_cells, range(len(group.blocks)))
    elif problem.impute:
        draw.draw_missing(problem, state, rng)
    state.iteration += 1


def _streams_of_groups(problem: Problem, state: State) -> list[list[np.random.Generator]]:
    """Random streams of the blocks of each group."""
    ends = np.cumsum([0, *(len(group.blocks) for group in problem.groups)])
    return [state.streams.traits[a:b] for a, b in pairwise(ends)]
