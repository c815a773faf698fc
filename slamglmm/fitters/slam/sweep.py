"""One iteration: the full conditionals in their order.

U is integrated out of every trait and factor step, so an order that draws ``Z U`` after the shares and uses it before
the next loadings step is a valid partially collapsed Gibbs sampler (van Dyk & Park 2008, JASA 103:790).
"""

from __future__ import annotations

from ...linalg.threads import BlockPool
from . import blocks as draw
from .draws import RunningMeans
from .problem import Problem
from .state import State


def sweep(problem: Problem, state: State, pool: BlockPool, running: RunningMeans | None = None) -> None:
    """Move a chain by one iteration, in place; add to the running means if any are given."""
    rng = state.streams.common
    b, k = problem.b, problem.n_factors
    if running is not None:
        running.start_draw(problem, state)
    first_stream = 0
    for group in problem.groups:
        shared = draw.prepare_regressors(problem, group, state, pool)
        streams = state.streams.traits[first_stream : first_stream + len(group.blocks)]
        first_stream += len(group.blocks)

        def draw_block(i: int, group=group, shared=shared, streams=streams) -> None:  # type: ignore[no-untyped-def]
            block, stream = group.blocks[i], streams[i]
            residual, fixed_residual = draw.draw_loadings(problem, group, shared, state, block, stream)
            draw.draw_trait_shares(problem, group, state, block, residual, stream)
            draw.draw_local_scales(problem, state, block, stream)
            if problem.collapsed:
                draw.weigh_collapsed(problem, group, state, block, fixed_residual)
            else:
                draw.weigh_given_random(problem, group, state, block, residual, fixed_residual, stream)
            if running is not None:
                running.add_block(problem, group, state, block, residual)

        pool.run(draw_block, range(len(group.blocks)))
    if k:
        draw.draw_factor_effects(problem, state, rng, pool)
        draw.draw_factor_shares(problem, state, rng)
        if problem.collapsed:
            draw.draw_factors(problem, state, None, pool)
        else:
            cov = problem.factor_cov
            random = cov.leave(
                draw.draw_random_rows(cov, cov.enter(state.factor_residual(problem)), state.gamma, state.kappa, rng)
            )
            likelihood = draw.draw_factors(problem, state, random, pool)
            assert likelihood is not None
            draw.move_factor_shares(problem, state, random, likelihood, rng)
        q = draw.loading_sums(state, b)
        draw.move_scales(problem, state, q, rng)
        draw.swap_neighbours(problem, state, q, rng)
        problem.priors.loadings_prior.draw_rows(q, state.scales, problem.n, rng)
    draw.draw_effect_scales(problem, state, rng)
    if problem.links:
        draw.draw_linked_traits(problem, state, pool)
    elif problem.impute:
        draw.draw_missing(problem, state, rng)
    state.iteration += 1
