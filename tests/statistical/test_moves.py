"""Moves and scale updates one at a time, from exact draws of a tiny joint: each must leave the law alone.

One false alarm in 10 000 runs of this file (Bonferroni over all statistics); seeds are fixed.
"""

import numpy as np
import pytest
import scipy.stats

from slamglmm.fitters.slam import blocks
from slamglmm.fitters.slam.state import start_state
from slamglmm.fitters.slam.sweep import sweep
from slamglmm.linalg.threads import BlockPool, single_threaded_blas
from slamglmm.priors import Horseshoe, Infinite, Priors, SpikeSlab, ThreeParameterBeta
from tests.reference.geweke import FixedGlobal, joint_test, threshold, worst
from tests.reference.problems import relationship, tiny_problem, uncollapsed

FALSE_ALARM = 1e-4
N_TESTS = 30
LOADINGS = {
    "fixed": FixedGlobal(n_sweeps=3),
    "horseshoe": Horseshoe(n_sweeps=3),
    "infinite": Infinite(n_sweeps=3),
    "spike_slab": SpikeSlab(n_sweeps=3),
    "tpb": ThreeParameterBeta(n_sweeps=3),
}


def move_scales(problem, state, q):
    cov = problem.factor_cov
    forms = cov.quadratic_forms(cov.enter(state.factors))[np.arange(problem.n_factors), state.gamma]
    blocks.move_scales(problem, state, q, forms, state.streams.common)


def scale_move(problem, state, pool):
    move_scales(problem, state, blocks.loading_sums(problem, state))


def swap(problem, state, pool):
    blocks.swap_neighbours(problem, state, blocks.loading_sums(problem, state), state.streams.common)


def local_scales(problem, state, pool):
    for group in problem.groups:
        blocks.draw_local_scales(problem, state, group.traits, state.streams.common)


def row_scales(problem, state, pool):
    q = blocks.loading_sums(problem, state)
    problem.priors.loadings_prior.draw_rows(q, state.scales, problem.n, state.streams.common)


def moves_in_a_row(problem, state, pool):
    """As in a sweep, on one vector of sums that each move keeps up to date."""
    q = blocks.loading_sums(problem, state)
    move_scales(problem, state, q)
    blocks.swap_neighbours(problem, state, q, state.streams.common)
    np.testing.assert_allclose(q, blocks.loading_sums(problem, state), rtol=1e-9)
    problem.priors.loadings_prior.draw_rows(q, state.scales, problem.n, state.streams.common)


MOVES = [scale_move, swap, local_scales, row_scales, moves_in_a_row]


# A spike changes the moves (zeros do not count), the three-parameter beta only its local scales.
CASES = [(move, prior) for move in MOVES for prior in ("fixed", "horseshoe", "infinite")] + [
    (scale_move, "spike_slab"),
    (swap, "spike_slab"),
    (moves_in_a_row, "spike_slab"),
    (local_scales, "tpb"),
]


@pytest.mark.parametrize(("move", "prior"), CASES, ids=lambda value: getattr(value, "__name__", value))
def test_move_keeps_the_joint_law(move, prior):
    """A wrong order of the GIG, a wrong acceptance, a wrong shape: apart from everything else in the iteration.

    Two effects on rays for the fixed scales, one effect and U integrated out for the others; three factors, so that
    both parities of a swap occur; n < p for the horseshoe (a GIG of negative order).
    """
    formula = "~ 0 + (1 | g) + (1 | h)" if prior == "fixed" else "~ 0 + (1 | g)"
    n, p = (5, 8) if prior == "horseshoe" else (8, 3)
    problem = tiny_problem(formula, n=n, p=p, k=3, grid=3, priors=Priors(loadings=LOADINGS[prior]))
    seed = list(f"{move.__name__}{prior}".encode())
    z = joint_test(problem, chains=4000, length=3, draws=8000, seed=seed, transition=move, redraw=False)
    bound = threshold(len(z) * N_TESTS, 3999, FALSE_ALARM)
    assert max(map(abs, z.values())) < bound, f"beyond {bound:.2f}: {worst(z)}"


@pytest.mark.parametrize("k", [1, 2, 3, 5])
def test_swaps_reach_every_pair(k):
    """Pairs of both parities, and never a column lost or doubled."""
    problem = tiny_problem(n=8, p=6, k=k, grid=3, factor_formula="~ x", loadings_on="~ t")
    state = start_state(problem, np.random.SeedSequence(1))
    state.scales.row[:] = 1.0  # every exchange is accepted
    state.kappa[:] = np.arange(k)
    state.factors[:] = np.arange(k)[:, None]
    state.coef[:, problem.b :] = np.arange(k)
    state.scales.local[:] = np.arange(k)
    state.coef_factor[:] = np.arange(k)[:, None]
    state.loading_effects[:] = np.arange(k)[:, None]
    state.loading_effect_var[:] = np.arange(k)
    state.gamma[:] = np.arange(k) % len(problem.grid.cell)
    seen = set()
    for _ in range(200):
        before = state.kappa.copy()
        q = before.copy()
        blocks.swap_neighbours(problem, state, q, state.streams.common)
        moved = np.flatnonzero(state.kappa != before)
        seen |= {(int(a), int(b)) for a, b in zip(moved[::2], moved[1::2], strict=True)}
        assert sorted(state.kappa) == list(range(k))
        moved_too = (q, state.factors[:, 0], state.coef[0, problem.b :], state.scales.local[0], state.coef_factor[:, 0])
        for same in (*moved_too, state.loading_effects[:, 0], state.loading_effects[:, 1], state.loading_effect_var):
            assert np.array_equal(same, state.kappa)
        assert np.array_equal(state.gamma, state.kappa.astype(int) % len(problem.grid.cell))
    assert seen == {(i, i + 1) for i in range(k - 1)}


# ---- the two schemes ------------------------------------------------------------------------------------------------


def h2_of(problem, iterations, seed):
    """Traits' h2 after each iteration, shape (iterations, p)."""
    state, pool = start_state(problem, np.random.SeedSequence(seed)), BlockPool(1)
    out = np.empty((iterations, problem.p))
    total = problem.grid.shares.sum(axis=1)
    with single_threaded_blas():
        for i in range(-500, iterations):
            sweep(problem, state, pool)
            if i >= 0:
                squared = state.coef[:, problem.b :] ** 2 / state.kappa
                own = 1.0 / state.tau
                out[i] = (squared @ total[state.gamma] + own * total[state.g]) / (squared.sum(axis=1) + own)
    return out


def correlated_responses(n, p, seed):
    """Two heritable factors in p traits, so that the loadings matter to h2."""
    rng = np.random.default_rng(seed)
    root = np.linalg.cholesky(relationship(n, n - 1, 0) + 1e-9 * np.eye(n))
    factors = 0.8 * root @ rng.standard_normal((n, 2)) + 0.6 * rng.standard_normal((n, 2))
    own = 0.5 * root @ rng.standard_normal((n, p)) + rng.standard_normal((n, p))
    return factors @ rng.standard_normal((2, p)) + own


def compare_schemes(iterations, worst_error):
    n, p, n_batches = 40, 5, 50
    responses = correlated_responses(n, p, 3)
    # A singular K: no total share of one on the grid, which U in the chain could not condition on.
    problem = tiny_problem("~ x + (1 | g)", n=n, p=p, k=2, grid=10, rank=n - 1, responses=responses)
    assert problem.collapsed
    assert problem.grid.shares.max() == 0.9
    mean, error = [], []
    for scheme, seed in ((problem, 1), (uncollapsed(problem), 2)):
        batches = h2_of(scheme, iterations, seed).reshape(n_batches, -1, p).mean(axis=1)
        mean.append(batches.mean(axis=0))
        error.append(batches.std(axis=0, ddof=1) / np.sqrt(n_batches))
    assert np.max(error) < worst_error
    z = (mean[0] - mean[1]) / np.hypot(*error)
    assert np.abs(z).max() < 4.0, f"z = {z.round(1)} for {mean[0].round(3)} and {mean[1].round(3)}"
    return mean, error


def test_schemes_agree_on_h2():
    """F given U or U integrated out: two samplers of one posterior (5 traits, |z| < 4: 3 false alarms in 10 000)."""
    compare_schemes(12_000, 0.02)


@pytest.mark.slow
def test_schemes_agree_on_h2_long():
    """The same to a third of the Monte Carlo error."""
    compare_schemes(150_000, 0.006)


# ---- half-Cauchy scales ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("prior", [Horseshoe(), Horseshoe(prop_0=0.4), Infinite(), Infinite(df=1.0)], ids=str)
def test_local_update_keeps_its_prior(prior):
    """phi given lambda: 120 000 independent loadings, phi against its exact law and tau lambda^2 D against chi^2_1."""
    rng, p, k, n = np.random.default_rng(4), 40_000, 3, 50
    scales = prior.simulate(p, k, n, rng)
    tau = rng.gamma(3.0, 0.5, p)
    squared = rng.standard_normal((p, k)) ** 2 / (tau[:, None] * scales.local * scales.row)
    before = scales.local.copy()
    prior.draw_local(squared * tau[:, None], scales, slice(0, p), rng)
    if isinstance(prior, Horseshoe):
        values, law = scales.local**-0.5, scipy.stats.halfcauchy
    else:
        values, law = scales.local, scipy.stats.gamma(prior.df / 2, scale=2 / prior.df)
    assert scipy.stats.kstest(values.ravel(), law.cdf).pvalue > 1e-6
    pivot = tau[:, None] * squared * scales.local * scales.row
    assert scipy.stats.kstest(pivot.ravel(), scipy.stats.chi2(1).cdf).pvalue > 1e-6
    assert not np.any(scales.local == before)


@pytest.mark.parametrize(
    "prior", [Horseshoe(), Horseshoe(n_sweeps=1, prop_0=0.4), Infinite(), Infinite(n_sweeps=1)], ids=str
)
def test_row_update_keeps_its_prior(prior):
    """t and delta given lambda, from 6000 independent draws of the prior: each against its exact law."""
    rng, p, k, n, replicates = np.random.default_rng(5), 4, 3, 50, 6000
    t, delta, pivots = np.empty(replicates), np.empty((replicates, k)), np.empty((replicates, k))
    for i in range(replicates):
        scales = prior.simulate(p, k, n, rng)
        q = rng.standard_gamma(p / 2, k) / scales.row
        prior.draw_rows(q, scales, n, rng)
        t[i], delta[i], pivots[i] = np.sqrt(scales.t2), scales.delta, q * scales.row
    laws = []
    if isinstance(prior, Horseshoe):
        laws.append((t, scipy.stats.halfcauchy(scale=prior.global_scale(n))))
        rest = scipy.stats.invgamma(prior.delta_shape, scale=prior.delta_rate)
    else:
        laws.append((delta[:, 0], scipy.stats.gamma(prior.delta_1[0], scale=1 / prior.delta_1[1])))
        rest = scipy.stats.gamma(prior.delta_rest[0], scale=1 / prior.delta_rest[1])
    laws += [(delta[:, h], rest) for h in range(1, k)]
    laws += [(pivots[:, ell], scipy.stats.gamma(p / 2)) for ell in range(k)]
    for values, law in laws:
        assert scipy.stats.kstest(values, law.cdf).pvalue > 1e-6
