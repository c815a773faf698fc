"""Corners of the full conditionals that their laws do not show."""

import dataclasses

import numpy as np
import pytest

from slamglmm.errors import FitError, SlamWarning
from slamglmm.fitters.slam import blocks
from slamglmm.fitters.slam import problem as problem_module
from slamglmm.fitters.slam import state as state_module
from slamglmm.fitters.slam import sweep as sweep_module
from slamglmm.fitters.slam.state import start_state
from slamglmm.fitters.slam.sweep import sweep
from slamglmm.linalg.threads import BlockPool, single_threaded_blas
from slamglmm.priors import PRIORS, PrecisionPrior, Priors
from tests.reference.problems import tiny_frame, tiny_problem

PRIOR = PrecisionPrior(V=0.5, nu=5)


class Fixed:
    """A generator whose uniforms are given."""

    def __init__(self, u):
        self.u = u

    def random(self, size):
        return np.full(size, self.u)

    def standard_gamma(self, shape, size):
        return np.full(size, shape)


@pytest.mark.parametrize("u", [0.0, 1e-17, 0.5, np.nextafter(1.0, 0.0)])
@pytest.mark.parametrize("masses", [[0, 0, 1, 0], [0, 1, 1, 0], [1, 0, 0, 0], [0, 0, 0, 1], [0, 1, 0, 1]])
def test_points_without_mass_are_never_drawn(u, masses):
    """Not at the ends of the unit interval, and not where rounding leaves the cumulative sum flat."""
    with np.errstate(divide="ignore"):
        log_prior = np.log(np.array(masses, dtype=float) / np.sum(masses))
    forms = np.array([[1.0, 2.0, 3.0, 4.0], [1e-300, 1e300, 1e10, 0.0], [5.0, 5.0, 5.0, 5.0]])
    points, prec = blocks.draw_shares(forms, np.zeros(4), log_prior, PRIOR, 10, Fixed(u))
    assert all(masses[g] > 0 for g in points)
    np.testing.assert_allclose(prec, (4 + 5) / (2.5 + 0.5 * forms[np.arange(3), points]))


def test_a_point_with_all_the_mass_is_drawn():
    """Log masses apart by thousands must not overflow."""
    forms = np.array([[1e6, 1.0, 1e6]])
    rng = np.random.default_rng(1)
    for _ in range(20):
        assert blocks.draw_shares(forms, np.zeros(3), np.log(np.ones(3) / 3), PRIOR, 2000, rng)[0] == [1]
        assert blocks.draw_shares(np.ones((1, 3)), np.array([0, -9e3, 0]), np.zeros(3), PRIOR, 9, rng)[0] == [1]


def test_shares_stay_where_the_prior_puts_them():
    """One grid point with mass, another one for factors: the chain never leaves them (the 'G = 1' model)."""
    only = Priors(h2=[0, 0, 1, 0, 0], h2_factors=[0, 0, 0, 1, 0])
    problem = tiny_problem(priors=only)
    state, pool = start_state(problem, np.random.SeedSequence(1)), BlockPool(1)
    for _ in range(20):
        sweep(problem, state, pool)
        assert np.array_equal(state.g, [2, 2, 2])
        assert np.array_equal(state.gamma, [3, 3])


def test_broken_systems_are_reported(monkeypatch):
    """A failed factorisation must stop the chain with its iteration and trait, not leave old numbers behind."""
    problem, pool = tiny_problem(), BlockPool(1)
    state = start_state(problem, np.random.SeedSequence(1))
    state.iteration = 7
    with monkeypatch.context() as patch:
        patch.setattr(blocks, "draw_regressions", lambda *arguments: 1)
        with pytest.raises(FitError, match="iteration 7: the precision of the loadings of trait 1 is not positive"):
            sweep(problem, state, pool)
    with monkeypatch.context() as patch:
        patch.setattr(blocks, "draw_rows", lambda *arguments: 0)
        with pytest.raises(FitError, match="iteration 7: the precision of the factors is not positive definite"):
            sweep(problem, state, pool)


@pytest.mark.parametrize(("n", "p", "k"), [(4, 1, 0), (4, 1, 1), (4, 9, 4), (12, 2, 2), (5, 40, 3), (70, 70, 2)])
@pytest.mark.parametrize("formula", ["~ 0 + (1 | g)", "~ x + (1 | g)", "~ x"])
def test_small_and_wide_problems_run(formula, n, p, k):
    """One trait, as many factors as rows, more traits than rows, no random effect: finite numbers all along."""
    problem = tiny_problem(formula, n=n, p=p, k=k)
    state, pool = start_state(problem, np.random.SeedSequence(2)), BlockPool(1)
    for _ in range(30):
        sweep(problem, state, pool)
    assert state.iteration == 30
    for values in (state.coef, state.tau, state.factors, state.kappa, state.scales.local, state.scales.row):
        assert np.all(np.isfinite(values))
    assert np.all(state.tau > 0)


@pytest.mark.parametrize("prior", ["horseshoe", "infinite"])
def test_row_scales_see_the_loadings_as_they_are(prior, monkeypatch):
    """The sums go from the scale move to the swap to the row scales: each must leave them up to date."""
    problem = tiny_problem(k=3, priors=Priors(loadings=prior))
    state, pool, seen = start_state(problem, np.random.SeedSequence(3)), BlockPool(1), []

    def spy(self, q, scales, n_rows, rng, right=PRIORS[prior].draw_rows):
        seen.append(q / blocks.loading_sums(problem, state))
        right(self, q, scales, n_rows, rng)

    monkeypatch.setattr(PRIORS[prior], "draw_rows", spy)
    for _ in range(20):
        sweep(problem, state, pool)
    np.testing.assert_allclose(seen, np.ones((20, 3)), rtol=1e-9)


@pytest.mark.parametrize("prior", ["horseshoe", "infinite"])
@pytest.mark.parametrize(
    "options",
    [{}, {"formula": "~ x + (1 | g) + (1 | h)", "missing": [([0, 3], 1)]}, {"missing": [([0, 3], 1)], "budget": 0}],
    ids=["U integrated out", "patterns on rays", "imputed"],
)
def test_every_part_of_the_state_moves(options, prior, monkeypatch):
    """A step left out keeps the joint law, so the joint tests cannot see it."""
    options = dict(options)
    if "budget" in options:
        monkeypatch.setattr(problem_module, "PATTERN_BYTES", options.pop("budget"))
    problem = tiny_problem(priors=Priors(loadings=prior), **options)
    state, pool = start_state(problem, np.random.SeedSequence(4)), BlockPool(1)
    g, gamma, spiked = [], [], []
    for _ in range(60):
        before = state.copy(problem)
        before.y = state.y.copy()
        sweep(problem, state, pool)
        both_zero = (state.coef == 0) & (before.coef == 0)
        assert np.all((state.coef != before.coef) | both_zero)
        for name in ("tau", "factors", "kappa"):
            assert np.all(getattr(state, name) != getattr(before, name)), name
        if state.scales.included is None:
            assert not both_zero.any()
            assert np.all(state.scales.local != before.scales.local)
        else:
            assert np.array_equal(state.scales.included, state.coef[:, problem.b :] != 0)
            assert np.all(state.scales.inclusion != before.scales.inclusion)
            spiked.append(state.scales.included.ravel().copy())
        assert np.all(state.scales.row != before.scales.row)
        assert state.scales.delta[1] != before.scales.delta[1]
        assert (state.scales.t2 != before.scales.t2) == (prior == "horseshoe")
        imputed = np.concatenate([group.imputed.ravel() for group in problem.groups])
        if problem.impute:
            assert np.array_equal((state.y != before.y).ravel(), imputed)
        g.append(state.g.copy())
        gamma.append(state.gamma.copy())
    assert all(len(set(column)) >= 4 for column in (*np.transpose(g), *np.transpose(gamma)))
    assert all(len(set(column)) == 2 for column in np.transpose(spiked)) or not spiked


@pytest.mark.parametrize("missing", [None, [([0, 3], 1)]], ids=["U integrated out", "patterns"])
@pytest.mark.parametrize("fixef", ["flat", "shared", "horseshoe"])
def test_effects_on_factors_move(fixef, missing):
    """Every effect, variance and local scale in every iteration; flat effects on traits have no variance."""
    priors = Priors(fixef=fixef)
    problem = tiny_problem("~ x + (1 | g)", factor_formula="~ x + w", priors=priors, missing=missing, levels=5)
    assert problem.covariates.names == ("x", "w")
    assert problem.covariates.trait.tolist() == ([-1, -1] if fixef == "flat" else [-1, 0])
    state, pool = start_state(problem, np.random.SeedSequence(4)), BlockPool(1)
    for _ in range(10):
        before = state.copy(problem)
        sweep(problem, state, pool)
        for name in ("coef", "coef_factor"):
            assert np.all(getattr(state, name) != getattr(before, name)), name
        now, then = state.effect_scales, before.effect_scales
        moving = ("global_trait", "global_factor") if fixef == "horseshoe" else ("variance",)
        for name in ("local_factor", *moving):
            assert np.all(getattr(now, name) != getattr(then, name)), name
        if fixef == "horseshoe":  # the intercept is flat
            assert np.all((now.local_trait != then.local_trait) == ([False, True]))
        np.testing.assert_allclose(state.factor_residual(problem), state.factors - state.coef_factor @ problem.x_factor)


def test_swaps_carry_the_effects_of_a_factor():
    """Effects and their local scales follow the factor they belong to."""
    problem = tiny_problem("~ x + (1 | g)", n=12, p=6, k=4, factor_formula="~ w")
    state = start_state(problem, np.random.SeedSequence(1))
    state.scales.row[:] = 1.0  # every exchange is accepted
    state.kappa[:] = np.arange(4)
    state.coef_factor[:, 0] = state.effect_scales.local_factor[:, 0] = np.arange(4)
    seen = set()
    for _ in range(20):
        blocks.swap_neighbours(problem, state, state.kappa.copy(), state.streams.common)
        assert np.array_equal(state.coef_factor[:, 0], state.kappa)
        assert np.array_equal(state.effect_scales.local_factor[:, 0], state.kappa)
        seen.add(tuple(state.kappa))
    assert len(seen) > 3


class Centre:
    """A generator without noise: the same numbers whatever is drawn before."""

    def standard_normal(self, size):
        return np.zeros(size)

    def standard_gamma(self, shape, size):
        return np.broadcast_to(np.asarray(shape, dtype=float), size).copy()

    def random(self, size):
        return np.full(size, 0.4)


@pytest.mark.parametrize("loadings", ["horseshoe", "spike_slab"])
def test_traits_drawn_together_equal_traits_drawn_one_by_one(loadings, monkeypatch):
    """Traits with rows of their own, side by side or group by group: the same numbers but for rounding.

    The last rows have a level of the covariate that one trait never sees: its effect there is held at zero.
    """
    monkeypatch.setattr(problem_module, "COST_OF_RANDOM", 0.0)  # traits with missing cells keep rows of their own
    missing = [([0, 3], 1), ([5, 6, 7], 2), ([8, 9], 3)]
    responses = np.random.default_rng(2).standard_normal((10, 4))
    with pytest.warns(SlamWarning, match="cannot be told from the rows where a trait has data"):
        problem = tiny_problem(
            "~ I(1.0 * (x > 1.05)) + w + (1 | g)",
            p=4,
            missing=[*missing, (list(np.flatnonzero(_x(10, 4) > 1.05)), 2)],
            responses=responses,
            priors=Priors(loadings=loadings),
            cis={"y2": ["z"], "y4": ["w", "z"]},
        )
    (own,) = problem.own_rows
    assert own.traits == slice(0, 4)
    assert len(problem.groups) == 4
    one, other = (start_state(problem, np.random.SeedSequence(1)) for _ in range(2))
    assert np.ptp(one.g) > 0
    if loadings == "spike_slab":
        for state in (one, other):
            state.scales.included[:] = True
    rng, pool = Centre(), BlockPool(1)
    residual = blocks.draw_own_traits(problem, own, one, rng)
    blocks.weigh_own_traits(problem, own, one, residual, rng)
    for group, span in zip(problem.groups, own.spans, strict=True):
        shared = blocks.prepare_regressors(problem, group, other, pool)
        alone, fixed = blocks.draw_loadings(problem, group, shared, other, group.traits, rng)
        alone = blocks.draw_trait_shares(problem, group, other, group.traits, alone, shared.rays, rng)
        blocks.weigh_given_random(problem, group, other, group.traits, alone, fixed, rng)
        np.testing.assert_allclose(residual[span], alone.common[0], atol=1e-10)
    assert np.all(one.cis != 0.0)
    for name in ("coef", "cis", "tau", "g", "weighted", "random"):
        np.testing.assert_allclose(getattr(one, name), getattr(other, name), rtol=1e-9, atol=1e-10, err_msg=name)
    assert np.any(one.coef[:, :2] == 0.0)


@pytest.mark.parametrize("loadings", ["horseshoe", "spike_slab"])
def test_an_effect_that_a_trait_cannot_tell_is_as_if_its_column_were_not_there(monkeypatch, loadings):
    """Rows are shared and cells drawn, so that only the prior can hold the effect: tau and the others are unchanged."""
    monkeypatch.setattr(problem_module, "PATTERN_BYTES", 0)
    gone = list(np.flatnonzero(_x(10, 3) > 0.5))
    with pytest.warns(SlamWarning, match=r"2 fixed effect\(s\) cannot be told .*'I\(1.0 \* \(x > 0.5\)\)' on 'y2'"):
        problem = tiny_problem(
            "~ I(1.0 * (x > 0.5)) + w + (1 | g)", missing=[(gone, 1), (gone, 2)], priors=Priors(loadings=loadings)
        )
    (group,) = problem.groups
    assert group.estimable.all()
    assert group.held[problem.order].tolist() == [[False] * 3, [False, True, False], [False, True, False]]
    without = dataclasses.replace(group, estimable=np.array([True, False, True]), held=np.zeros((3, 3), dtype=bool))
    states = []
    for chosen in (group, without):
        states.append(state := start_state(problem, np.random.SeedSequence(1)))
        if loadings == "spike_slab":
            state.scales.included[:] = True
        shared = blocks.prepare_regressors(problem, chosen, state, BlockPool(1))
        blocks.draw_loadings(problem, chosen, shared, state, chosen.traits, Centre())
    held = group.held.any(axis=1)
    for name in ("coef", "tau"):
        held_there, never_there = (getattr(state, name)[held] for state in states)
        np.testing.assert_allclose(held_there, never_there, rtol=1e-8, atol=1e-9, err_msg=name)
    assert (states[0].coef[held, 1] == 0).all()
    assert (states[0].coef[~held, 1] != 0).all()


def _x(n, p):
    """The covariate of `tiny_design`."""
    return tiny_frame(n, p)[0]["x"].to_numpy()


def test_factor_sums_do_not_depend_on_how_many_traits_are_summed_together(monkeypatch):
    """Three parts of at most 64 traits, or all at once; the parts with two threads to the bit."""
    problem = tiny_problem("~ x + (1 | g)", n=12, p=150, k=3)
    assert problem.collapsed
    states = []
    for size, threads in ((64, 1), (64, 2), (32 * 64, 1)):
        for module in (blocks, state_module, sweep_module):
            monkeypatch.setattr(module, "SUMMED_TOGETHER", size)
        states.append(start_state(problem, np.random.SeedSequence(1)))
        assert len(states[-1].weighted) == min(150, size)
        with BlockPool(threads) as pool, single_threaded_blas():
            for _ in range(2):
                sweep_module.sweep(problem, states[-1], pool)
    for name in ("sums", "factors", "coef", "tau"):
        parts, threaded, together = (getattr(state, name) for state in states)
        assert np.array_equal(parts, threaded)
        np.testing.assert_allclose(parts, together, rtol=1e-8, err_msg=name)


def test_many_patterns_give_the_same_factors_as_few(monkeypatch):
    """Rows through the lanes one by one, or a factorisation for each pattern."""
    monkeypatch.setattr(problem_module, "COST_OF_RANDOM", 0.0)  # traits with missing cells keep rows of their own
    problem = tiny_problem(n=12, p=4, k=3, missing=[([0, 3], 1), ([5, 6, 7], 2), ([8, 9], 3)])
    drawn = []
    for rows_per_pattern in (0, 100):
        monkeypatch.setattr(blocks, "ROWS_PER_PATTERN", rows_per_pattern)
        state = start_state(problem, np.random.SeedSequence(1))
        state.weighted[:] = np.random.default_rng(1).standard_normal(state.weighted.shape)
        blocks.draw_factors(problem, state, np.zeros_like(state.factors), BlockPool(1))
        drawn.append(state.factors)
    np.testing.assert_allclose(drawn[0], drawn[1], rtol=1e-9, atol=1e-12)
