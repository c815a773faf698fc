"""Joint-distribution tests of the whole iteration, and errors planted in it that they must find.

One false alarm in 10 000 runs of this file, over all its cases and statistics together (Bonferroni); seeds are fixed.
"""

import numpy as np
import pytest

from slamglmm.fitters.slam import blocks
from slamglmm.fitters.slam import problem as problem_module
from slamglmm.fitters.slam.sweep import sweep
from slamglmm.linalg.covariances import TurnedRows
from slamglmm.priors import (
    FlatEffects,
    Horseshoe,
    HorseshoeEffects,
    Infinite,
    PrecisionPrior,
    Priors,
    SharedEffects,
    SpikeSlab,
    ThreeParameterBeta,
    VarianceComponents,
)
from tests.reference.geweke import FixedGlobal, joint_test, threshold, worst
from tests.reference.problems import tiny_problem, uncollapsed

FALSE_ALARM = 1e-4
N_TESTS = 162  # at least the number of joint tests below and in test_geweke_cis.py, long ones included

ONE, TWO = "~ 0 + (1 | g)", "~ 0 + (1 | g) + (1 | h)"
SCATTERED = [([0, 3], 1), ([5, 6, 7], 2)]
LIGHT = {
    "horseshoe": FixedGlobal(n_sweeps=3),
    "infinite": Infinite(df=6.0, delta_1=(5.0, 4.0), delta_rest=(6.0, 4.0), n_sweeps=3),
    "spike_slab": SpikeSlab(delta_1=(5.0, 4.0), delta_rest=(6.0, 4.0), n_sweeps=3),
    "tpb": ThreeParameterBeta(a=1.5, b=3.0, delta_1=(5.0, 4.0), delta_rest=(6.0, 4.0), n_sweeps=3),
}
HEAVY = {
    "horseshoe": Horseshoe(n_sweeps=3),
    "infinite": Infinite(n_sweeps=3),
    "spike_slab": SpikeSlab(n_sweeps=3),
    "tpb": ThreeParameterBeta(n_sweeps=3),
}

# What each case passes through that the others do not.
CASES = {
    "U integrated out, t = 1 on the grid": {"formula": ONE},
    "U integrated out, no random effect": {"formula": "~ x"},
    "U integrated out, two effects that commute": {"formula": TWO, "levels": 3},  # equal blocks,
    "U integrated out, singular K, fixed effects": {"formula": "~ x + (1 | g)", "rank": 5},
    "U in the chain, one effect": {"formula": ONE, "rank": 7, "uncollapse": True},
    # Two of the five rays tried at a time, where the number is given.
    "U in the chain, two effects on rays": {"formula": TWO, "rays": 2},
    # Seven levels of nine rows, and three families of rows with two coordinates each.
    "U integrated out, repeated records, fixed effects": {"formula": "~ x + (1 | g)", "levels": 7},
    "U in the chain, intercepts and slopes, repeated records": {"formula": "~ 0 + (1 + x | h)", "rays": 1},
    "patterns, one effect, fixed effects": {"formula": "~ x + (1 | g)", "missing": SCATTERED},
    "patterns, two effects on rays": {"formula": TWO, "missing": SCATTERED},
    "imputed, one effect": {"formula": ONE, "missing": SCATTERED, "budget": 0},
    "imputed, two effects on rays, fixed effects": {
        "formula": "~ x + (1 | g) + (1 | h)",
        "missing": SCATTERED,
        "budget": 0,
    },
    "U integrated out, missing cells drawn, fixed effects": {
        "formula": "~ x + (1 | g)",
        "missing": SCATTERED,
        "scatter": np.inf,
    },
    "U integrated out, missing cells drawn, two effects that commute": {
        "formula": TWO,
        "levels": 3,
        "missing": SCATTERED,
        "scatter": np.inf,
    },
    # Room for the seven rows of the second trait; the third joins them with one cell to draw.
    "a pattern with an imputed cell": {
        "formula": ONE,
        "missing": [([0, 3], 1), ([0, 3, 6], 2)],
        "budget": 8 * (81 + 49),
    },
}


# Nearly all cases with two priors, the others where steps differ; the long version below has all of all.
QUICK = [
    (case, prior)
    for prior in ("horseshoe", "infinite")
    for case in CASES
    if prior == "infinite" or not ("repeated" in case or "cells drawn, two" in case)
] + [
    ("U integrated out, singular K, fixed effects", "spike_slab"),
    ("U integrated out, t = 1 on the grid", "tpb"),
]


def make(case, loadings, monkeypatch, **others):
    options = {"n": 9} | CASES[case]
    uncollapse = options.pop("uncollapse", False)
    if "budget" in options:
        monkeypatch.setattr(problem_module, "PATTERN_BYTES", options.pop("budget"))
    # Missing cells are drawn with U integrated out where a case says so, and nowhere else.
    monkeypatch.setattr(problem_module, "COST_OF_RANDOM", options.pop("scatter", 0.0))
    monkeypatch.setattr(blocks, "RAYS_TRIED", options.pop("rays", 5))
    # Shares of traits and factors with priors of their own, and not flat.
    if "residual" not in others:
        others["h2"] = lambda h: 1.0 + h.sum(axis=1)
    priors = Priors(
        loadings=loadings,
        h2_factors=lambda h: 2.0 - h.sum(axis=1),
        factor=PrecisionPrior(V=0.8, nu=4),  # wide, so that its part in each step shows
        **others,
    )
    problem = tiny_problem(priors=priors, **options)
    problem = uncollapsed(problem) if uncollapse else problem
    assert problem.impute == ("budget" in CASES[case] or "scatter" in CASES[case])
    assert problem.collapsed == case.startswith("U integrated")
    return problem


def check(z, df):
    bound = threshold(len(z) * N_TESTS, df, FALSE_ALARM)
    assert len(z) >= 40
    print(f"{len(z)} statistics, their z has standard deviation {np.std(list(z.values())):.2f}; {worst(z)}")
    assert max(map(abs, z.values())) < bound, f"beyond {bound:.2f}: {worst(z)}"


@pytest.mark.filterwarnings("ignore::slamglmm.errors.ScaleWarning")
@pytest.mark.parametrize(("case", "prior"), QUICK)
def test_iteration_keeps_the_joint_law(case, prior, monkeypatch):
    """A wrong conditional, or steps in an order that does not leave the posterior alone."""
    problem = make(case, LIGHT[prior], monkeypatch)
    check(joint_test(problem, chains=150, length=50, draws=4000, seed=list(f"{case}{prior}".encode())), 149)


@pytest.mark.filterwarnings("ignore::slamglmm.errors.ScaleWarning")
@pytest.mark.parametrize(
    ("case", "prior", "sizes"),
    [
        ("U integrated out, singular K, fixed effects", "horseshoe", {"p": 2, "k": 4}),
        ("patterns, one effect, fixed effects", "infinite", {"p": 3, "k": 5}),
    ],
)
def test_more_factors_than_traits_keep_the_joint_law(case, prior, sizes, monkeypatch):
    """Two covariances of full rank have more factors than there are traits: none of the steps may count on fewer."""
    monkeypatch.setitem(CASES, case, CASES[case] | sizes)
    problem = make(case, LIGHT[prior], monkeypatch)
    assert problem.n_factors > problem.p
    check(joint_test(problem, chains=150, length=50, draws=4000, seed=list(f"wide {case}".encode())), 149)


@pytest.mark.parametrize(
    ("case", "prior"),
    [("U integrated out, singular K, fixed effects", prior) for prior in HEAVY]
    + [("patterns, two effects on rays", prior) for prior in ("horseshoe", "infinite")],
)
def test_two_iterations_from_exact_draws(case, prior, monkeypatch):
    """The same with the priors that users get, half-Cauchy scales included: no chain, so tails do not matter."""
    problem = make(case, HEAVY[prior], monkeypatch)
    seed = list(f"{case}{prior}".encode())
    check(joint_test(problem, chains=1500, length=2, draws=4000, seed=seed, redraw=False), 1499)


VARIANCES = {
    "U integrated out, singular K, fixed effects": VarianceComponents(V={"g": 0.1, "Residual": 1.0}, nu=6.0),
    "patterns, two effects on rays": VarianceComponents(V=0.7, nu={"g": 5.0, "h": 7.0, "Residual": 6.0}, relative=True),
}


@pytest.mark.parametrize(
    "case", [pytest.param(case, marks=[pytest.mark.slow] if "rays" in case else []) for case in VARIANCES]
)
def test_priors_of_variances_keep_the_joint_law(case, monkeypatch):
    """A rate for each trait and grid point: in tau, in the shares, and in their prior."""
    problem = make(case, LIGHT["infinite"], monkeypatch, residual=VARIANCES[case])
    assert np.ptp(problem.trait_precisions.rate, axis=0).max() > 0 or VARIANCES[case].relative
    check(joint_test(problem, chains=150, length=50, draws=4000, seed=list(case.encode())), 149)


FACTOR_EFFECTS = {
    "U integrated out": {"formula": "~ x + (1 | g)", "rank": 5, "factor_formula": "~ x + w"},
    "U integrated out, flat on traits": {"formula": "~ x + (1 | g)", "rank": 5, "factor_formula": "~ x + w"},
    "U in the chain": {"formula": "~ x + (1 | g) + (1 | h)", "missing": SCATTERED, "factor_formula": "~ x + w"},
    "imputed, more columns than rows": {
        "formula": "~ x + I(x**2) + w + x:w + C(h) + h:x + h:w + I(w**2) + (1 | g)",
        "missing": SCATTERED,
        "factor_formula": "~ 0 + w",
        "budget": 0,
    },
}


def make_with_factor_effects(case, monkeypatch, loadings="infinite", fixef=None):
    options = {"n": 9} | FACTOR_EFFECTS[case]
    if "budget" in options:
        monkeypatch.setattr(problem_module, "PATTERN_BYTES", options.pop("budget"))
    fixef = fixef or (FlatEffects if "flat" in case else SharedEffects)(V=0.5, nu=8.0, df=6.0)
    priors = Priors(loadings=LIGHT[loadings], factor=PrecisionPrior(V=0.8, nu=4), fixef=fixef)
    problem = tiny_problem(priors=priors, **options)
    assert problem.collapsed == case.startswith("U integrated")
    return problem


@pytest.mark.parametrize(
    "case",
    [pytest.param(case, marks=[pytest.mark.slow] if i in (1, 3) else []) for i, case in enumerate(FACTOR_EFFECTS)],
)
@pytest.mark.filterwarnings("ignore::slamglmm.errors.ScaleWarning")
def test_effects_on_factors_keep_the_joint_law(case, monkeypatch):
    """Fixed effects with shared variances on traits and factors, in every step they enter."""
    problem = make_with_factor_effects(case, monkeypatch)
    check(joint_test(problem, chains=150, length=50, draws=4000, seed=list(case.encode())), 149)


class HeldScales(HorseshoeEffects):
    """The horseshoe with its global scales held, so that effects are of the size of the data."""

    def simulate(self, columns, n_traits, n_factors, n_rows, rng):
        scales = super().simulate(columns, n_traits, n_factors, n_rows, rng)
        scales.global_trait[:], scales.global_factor[:] = 0.3, 0.3
        return scales

    def draw(self, columns, scales, on_traits, on_factors, n_rows, rng):
        super().draw(columns, scales, on_traits, on_factors, n_rows, rng)
        scales.global_trait[:], scales.global_factor[:] = 0.3, 0.3


@pytest.mark.parametrize(
    ("case", "loadings"),
    [
        ("U integrated out", "infinite"),
        pytest.param("U integrated out", "spike_slab", marks=pytest.mark.slow),
        pytest.param("U in the chain", "infinite", marks=pytest.mark.slow),
        pytest.param("imputed, more columns than rows", "infinite", marks=pytest.mark.slow),
    ],
)
@pytest.mark.filterwarnings("ignore::slamglmm.errors.ScaleWarning")
def test_horseshoe_effects_keep_the_joint_law(case, loadings, monkeypatch):
    """Local scales of the effects on each trait and each factor."""
    problem = make_with_factor_effects(case, monkeypatch, loadings, HeldScales())
    seed = list(f"horseshoe{case}{loadings}".encode())
    check(joint_test(problem, chains=150, length=50, draws=4000, seed=seed), 149)


@pytest.mark.filterwarnings("ignore::slamglmm.errors.ScaleWarning")
def test_two_iterations_with_horseshoe_effects(monkeypatch):
    """Half-Cauchy global scales as well, from exact draws."""
    problem = make_with_factor_effects("U integrated out", monkeypatch, fixef=HorseshoeEffects(prop_0=0.4))
    check(joint_test(problem, chains=1500, length=2, draws=4000, seed=7, redraw=False), 1499)


def plant_no_mean(patch):
    """Factor step: the fixed effects of the factors forgotten."""
    right = blocks.draw_factors

    def wrong(problem, state, *rest):
        effects = state.coef_factor.copy()
        state.coef_factor[:] = 0.0
        out = right(problem, state, *rest)
        state.coef_factor[:] = effects
        return out

    patch.setattr(blocks, "draw_factors", wrong)


def plant_scale_without_effects(patch):
    """Scale move: the effects on factors scaled but not counted."""
    right = blocks.draw_gig
    patch.setattr(blocks, "draw_gig", lambda order, chi, psi, rng: right(order - 1.0, chi, psi, rng))


def plant_effect_counts(patch):
    """Variance of effects: only those on traits counted."""
    right = FlatEffects.draw_variance
    patch.setattr(FlatEffects, "draw_variance", lambda self, counts, *rest: right(self, counts - 2, *rest))


def plant_trait_scales(patch):
    """Horseshoe on traits: half-Cauchy local scales drawn from squared effects in place of half of them."""
    right = HorseshoeEffects._draw_scales

    def wrong(self, squares, local, *rest):
        right(self, 2.0 * squares, local, *rest)

    patch.setattr(HorseshoeEffects, "_draw_scales", wrong)


def plant_penalty_without_effects(patch):
    """(g, tau): shrunk effects counted but not summed."""
    right = blocks.draw_trait_shares

    def wrong(problem, group, state, block, *rest):
        kept = state.coef[block, : problem.b].copy()
        state.coef[block, : problem.b] = 0.0
        residual = right(problem, group, state, block, *rest)
        state.coef[block, : problem.b] = kept
        return residual

    patch.setattr(blocks, "draw_trait_shares", wrong)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::slamglmm.errors.ScaleWarning")
@pytest.mark.parametrize("plant", [plant_trait_scales, plant_penalty_without_effects])
def test_errors_planted_in_the_horseshoe_are_found(plant, monkeypatch):
    problem = make_with_factor_effects("U integrated out", monkeypatch, fixef=HeldScales())
    plant(monkeypatch)
    with pytest.raises(AssertionError, match="beyond"):
        check(joint_test(problem, chains=150, length=50, draws=4000, seed=1), 149)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::slamglmm.errors.ScaleWarning")
@pytest.mark.parametrize(
    ("plant", "case"),
    [
        (plant_no_mean, "U integrated out"),
        (plant_no_mean, "U in the chain"),
        (plant_scale_without_effects, "U integrated out"),
        (plant_effect_counts, "U integrated out"),
    ],
)
def test_errors_planted_in_effects_are_found(plant, case, monkeypatch):
    problem = make_with_factor_effects(case, monkeypatch)
    plant(monkeypatch)
    with pytest.raises(AssertionError, match="beyond"):
        check(joint_test(problem, chains=150, length=50, draws=4000, seed=1), 149)


LOADINGS_ON = {
    "U integrated out": {"formula": "~ x + (1 | g)", "rank": 5, "factor_formula": "~ w"},
    "patterns, two effects on rays": {"formula": TWO, "missing": SCATTERED},
}


def make_with_loadings_on(case, loadings, **others):
    priors = Priors(
        loadings=loadings,
        factor=PrecisionPrior(V=0.8, nu=4),
        loading_effects=PrecisionPrior(V=0.5, nu=6),
        fixef=SharedEffects(V=0.5, nu=8.0, df=6.0),
        **others,
    )
    return tiny_problem(n=9, priors=priors, loadings_on="~ t", **LOADINGS_ON[case])


@pytest.mark.parametrize(
    ("case", "prior"),
    [
        ("U integrated out", "infinite"),
        pytest.param("U integrated out", "tpb", marks=pytest.mark.slow),
        pytest.param("patterns, two effects on rays", "horseshoe", marks=pytest.mark.slow),
    ],
)
@pytest.mark.filterwarnings("ignore::slamglmm.errors.ScaleWarning")
def test_loadings_on_covariates_keep_the_joint_law(case, prior):
    """Loadings with prior means: in the sums of the data, the shares, the scales and the moves."""
    problem = make_with_loadings_on(case, LIGHT[prior])
    assert problem.trait_covariates.q == 2
    seed = list(f"on{case}{prior}".encode())
    check(joint_test(problem, chains=150, length=50, draws=4000, seed=seed), 149)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::slamglmm.errors.ScaleWarning")
def test_loadings_on_covariates_with_priors_of_variances():
    """Sums of the data in units that make each rate one, after the prior means were taken off."""
    problem = make_with_loadings_on(
        "U integrated out", LIGHT["infinite"], residual=VarianceComponents(V={"g": 0.1, "Residual": 1.0}, nu=6.0)
    )
    check(joint_test(problem, chains=150, length=50, draws=4000, seed=3), 149)


@pytest.mark.filterwarnings("ignore::slamglmm.errors.ScaleWarning")
def test_two_iterations_of_loadings_on_covariates():
    """With half-Cauchy scales, from exact draws."""
    problem = make_with_loadings_on("U integrated out", HEAVY["horseshoe"])
    check(joint_test(problem, chains=1500, length=2, draws=4000, seed=2, redraw=False), 1499)


def plant_order_without_loading_effects(patch):
    """Scale move: the effects on loadings scaled but not counted (two of them)."""
    right = blocks.draw_gig
    patch.setattr(blocks, "draw_gig", lambda order, *rest: right(order + 1.0, *rest))


def plant_shares_around_zero(patch):
    """(g, tau): loadings taken for their deviations."""
    right = blocks.draw_trait_shares

    def wrong(problem, group, state, block, *rest):
        effects = state.loading_effects.copy()
        state.loading_effects[:] = 0.0
        residual = right(problem, group, state, block, *rest)
        state.loading_effects[:] = effects
        return residual

    patch.setattr(blocks, "draw_trait_shares", wrong)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::slamglmm.errors.ScaleWarning")
@pytest.mark.parametrize("plant", [plant_order_without_loading_effects, plant_shares_around_zero])
def test_errors_planted_in_loadings_on_covariates_are_found(plant, monkeypatch):
    problem = make_with_loadings_on("U integrated out", LIGHT["infinite"])
    plant(monkeypatch)
    with pytest.raises(AssertionError, match="beyond"):
        check(joint_test(problem, chains=150, length=50, draws=4000, seed=1), 149)


def test_a_forgotten_power_of_the_rate_is_found(monkeypatch):
    """Shares given the data without the factor ``b_g^a0``."""
    case = "U integrated out, singular K, fixed effects"
    problem, right = make(case, LIGHT["infinite"], monkeypatch, residual=VARIANCES[case]), blocks.draw_shares

    def wrong(forms, logdet, log_prior, prior, *rest):
        if not isinstance(prior, PrecisionPrior):
            log_prior = log_prior - prior.shape[0] * np.log(prior.rate[0])
        return right(forms, logdet, log_prior, prior, *rest)

    monkeypatch.setattr(blocks, "draw_shares", wrong)
    with pytest.raises(AssertionError, match="beyond"):
        check(joint_test(problem, chains=150, length=50, draws=4000, seed=1), 149)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::slamglmm.errors.ScaleWarning")
@pytest.mark.parametrize("prior", LIGHT)
@pytest.mark.parametrize("case", CASES)
def test_iteration_keeps_the_joint_law_long(case, prior, monkeypatch):
    """Errors a third as large."""
    problem = make(case, LIGHT[prior], monkeypatch)
    check(joint_test(problem, chains=400, length=150, draws=30_000, seed=list(f"long{case}{prior}".encode())), 399)


# ---- planted errors -------------------------------------------------------------------------------------------------


def plant_tau_shape(patch):
    """tau in the loadings step: shape a0 + n in place of a0 + n/2."""
    right, rng = blocks.draw_regressions, np.random.default_rng(1)

    def wrong(*arguments):
        arguments = list(arguments)
        arguments[6] = arguments[6] + rng.standard_gamma(4.5, len(arguments[6]))  # n = 9
        return right(*arguments)

    patch.setattr(blocks, "draw_regressions", wrong)


def plant_missing_k(patch):
    """(g, tau) given the loadings: only the n = 9 residuals carry tau, not the k = 2 loadings."""
    right = blocks.draw_shares

    def wrong(forms, logdet, log_prior, prior, n_terms, rng):
        return right(forms, logdet, log_prior, prior, n_terms - 2 * (n_terms == 11), rng)

    patch.setattr(blocks, "draw_shares", wrong)


def plant_logdet(patch):
    """Shares: half of log|V| forgotten."""
    right = blocks.draw_shares

    def wrong(forms, logdet, *rest):
        return right(forms, 0.5 * logdet, *rest)

    patch.setattr(blocks, "draw_shares", wrong)


def plant_gig_order(patch):
    """Scale move: the Jacobian of f -> c f without that of lambda -> lambda / c."""
    right = blocks.draw_gig

    def wrong(order, chi, psi, rng):
        return right(order + 1.5, chi, psi, rng)  # p = 3

    patch.setattr(blocks, "draw_gig", wrong)


def plant_swap(patch):
    """Neighbours always exchanged."""
    right = blocks.swap_neighbours

    def wrong(problem, state, q, rng):
        row = state.scales.row.copy()
        state.scales.row[:] = 1.0  # the ratio is one
        right(problem, state, q, rng)
        state.scales.row[:] = row

    patch.setattr(blocks, "swap_neighbours", wrong)


def plant_factor_precision(patch):
    """Factor step: kappa forgotten in the prior."""
    right = blocks.draw_factors

    def wrong(problem, state, random, pool):
        kappa = state.kappa.copy()
        state.kappa[:] = 1.0
        likelihood = right(problem, state, random, pool)
        state.kappa[:] = kappa
        return likelihood

    patch.setattr(blocks, "draw_factors", wrong)


def plant_moved_shares(patch):
    """Factors and shares moved together: the density of the random part counted although it is held standardised."""
    right = blocks.move_shares

    def wrong(precisions, which, linear, totals, ray, log_prior, *rest):
        density = -0.5 * linear.shape[1] * np.log(np.maximum(totals, 1e-9))
        right(precisions, which, linear, totals, ray, log_prior + density, *rest)

    patch.setattr(blocks, "move_shares", wrong)


def plant_random_variance(patch):
    """Z U: variance (1-s)(1-(1-s)w) taken for 1-(1-s)w."""

    def wrong(residual, prec, rng):
        cov, points = residual.cov, residual.points
        left = cov.residual_share[points][:, None]
        share = np.maximum(1.0 - left * cov.weights[points], 0.0)
        noise = rng.standard_normal(share.shape) * np.sqrt(share / prec[:, None])
        out = np.zeros(residual.common.shape)
        out[:, : cov.rank] = cov.from_coordinates(share * residual.coordinates + noise, points)
        return out

    patch.setattr(blocks, "draw_random_rows", wrong)


def plant_stale_random(patch):
    """Z U drawn at the shares and tau from before their update: an order that is not a valid collapsed sampler."""
    shares, weigh, stale = blocks.draw_trait_shares, blocks.weigh_given_random, {}

    def remember(problem, group, state, block, residual, *rest):
        stale.update(g=state.g[block].copy(), tau=state.tau[block].copy())
        shares(problem, group, state, block, residual, *rest)
        return residual

    def wrong(problem, group, state, block, residual, fixed_residual, rng):
        g, tau = state.g[block].copy(), state.tau[block].copy()
        state.g[block], state.tau[block] = stale["g"], stale["tau"]
        weigh(problem, group, state, block, residual, fixed_residual, rng)
        state.g[block], state.tau[block] = g, tau

    patch.setattr(blocks, "draw_trait_shares", remember)
    patch.setattr(blocks, "weigh_given_random", wrong)


def plant_imputed_variance(patch):
    """Missing cells drawn with the total precision of the trait, as if U were not given."""
    right = blocks.draw_missing

    def wrong(problem, state, rng):
        tau = state.tau.copy()
        state.tau *= problem.grid.residual_share[state.g]
        right(problem, state, rng)
        state.tau[:] = tau

    patch.setattr(blocks, "draw_missing", wrong)


def plant_scattered_variance(patch):
    """Missing cells drawn with twice their variance."""
    right = blocks.draw_scattered

    def wrong(problem, group, state, block, rng):
        state.tau[block] *= 0.5
        right(problem, group, state, block, rng)
        state.tau[block] *= 2.0

    patch.setattr(blocks, "draw_scattered", wrong)


def plant_upward_rays(patch):
    """Shares on rays: the own one and the next, from which there is no way back."""
    right = TurnedRows.forms

    def wrong(self, rays):
        cov = self.cov
        forms, steps = right(self, np.arange(len(cov.inner))), cov.basis - cov.basis[self.points][:, None]
        return np.where((steps == 0) | (steps == 1), forms, np.inf)

    patch.setattr(TurnedRows, "forms", wrong)


class WrongLocal(Infinite):
    """phi: shape df/2 instead of (df+1)/2."""

    def draw_local(self, scaled, scales, block, rng):
        local = scales.local[block]
        local[:] = rng.standard_gamma(0.5 * self.df, local.shape) / (0.5 * (self.df + scales.row * scaled))


class WrongRows(FixedGlobal):
    """delta: one loading too many in its shape."""

    def draw_rows(self, q, scales, n_rows, rng):
        FixedGlobal(delta_shape=self.delta_shape + 0.5, n_sweeps=3).draw_rows(q, scales, n_rows, rng)


def plant_all_loadings(patch):
    """(g, tau): loadings that are zero counted in."""
    right = blocks.draw_shares

    def wrong(forms, logdet, log_prior, prior, n_terms, rng):
        return right(forms, logdet, log_prior, prior, n_terms if np.ndim(n_terms) == 0 else 11, rng)

    patch.setattr(blocks, "draw_shares", wrong)


def plant_all_in_scale_move(patch):
    """Scale move: order (n - p)/2 whatever the number of loadings."""
    right = blocks.draw_gig

    def wrong(order, chi, psi, rng):
        return right(np.full(len(order), 3.0), chi, psi, rng)

    patch.setattr(blocks, "draw_gig", wrong)


def plant_odds(patch):
    """Spike: odds that are e times too large."""
    right = blocks.draw_sites

    def wrong(grams, which, prior_prec, rhs, log_odds, *rest):
        return right(grams, which, prior_prec, rhs, log_odds + 1.0, *rest)

    patch.setattr(blocks, "draw_sites", wrong)


def plant_site_gram(patch):
    """Spike: a tenth of the Gram matrices lost."""
    right = blocks.draw_sites

    def wrong(grams, which, prior_prec, rhs, log_odds, *rest):
        return right(0.9 * grams, which, prior_prec, rhs, log_odds, *rest)

    patch.setattr(blocks, "draw_sites", wrong)


class WrongShare(SpikeSlab):
    """pi: successes and failures the other way round."""

    def draw_rows(self, q, scales, n_rows, rng):
        super().draw_rows(q, scales, n_rows, rng)
        scales.inclusion[:] = 1 - scales.inclusion


class WrongOrder(ThreeParameterBeta):
    """psi: order a in place of a - 1/2."""

    def draw_local(self, scaled, scales, block, rng):
        ThreeParameterBeta(a=self.a + 0.5, b=self.b - 0.5).draw_local(scaled, scales, block, rng)


ONE_EFFECT, ON_RAYS = "U integrated out, singular K, fixed effects", "U in the chain, two effects on rays"
PLANTED = {
    "factors moved with their shares": (plant_moved_shares, "U in the chain, one effect", LIGHT["horseshoe"]),
    "tau shape": (plant_tau_shape, ONE_EFFECT, LIGHT["infinite"]),
    "missing k": (plant_missing_k, ONE_EFFECT, LIGHT["infinite"]),
    "half the log determinant": (plant_logdet, ONE_EFFECT, LIGHT["infinite"]),
    "order of the scale move": (plant_gig_order, ONE_EFFECT, LIGHT["infinite"]),
    "swap always": (plant_swap, ONE_EFFECT, LIGHT["horseshoe"]),
    "factor precision": (plant_factor_precision, ON_RAYS, LIGHT["horseshoe"]),
    "rays upwards": (plant_upward_rays, ON_RAYS, LIGHT["infinite"]),
    "variance of Z U": (plant_random_variance, "U in the chain, one effect", LIGHT["horseshoe"]),
    "Z U out of order": (plant_stale_random, "U in the chain, one effect", LIGHT["horseshoe"]),
    "variance of imputed cells": (plant_imputed_variance, "imputed, one effect", LIGHT["horseshoe"]),
    "variance of scattered cells": (
        plant_scattered_variance,
        "U integrated out, missing cells drawn, fixed effects",
        LIGHT["horseshoe"],
    ),
    "zeros counted": (plant_all_loadings, ONE_EFFECT, LIGHT["spike_slab"]),
    "zeros counted in the scale move": (plant_all_in_scale_move, ONE_EFFECT, LIGHT["spike_slab"]),
    "odds of the spike": (plant_odds, ONE_EFFECT, LIGHT["spike_slab"]),
    "Gram of the spike": (plant_site_gram, ONE_EFFECT, LIGHT["spike_slab"]),
    "share of the spike": (None, ONE_EFFECT, WrongShare(delta_1=(5.0, 4.0), delta_rest=(6.0, 4.0), n_sweeps=3)),
    "order of psi": (
        None,
        ONE_EFFECT,
        WrongOrder(a=1.5, b=3.0, delta_1=(5.0, 4.0), delta_rest=(6.0, 4.0), n_sweeps=3),
    ),
    "shape of phi": (None, ONE_EFFECT, WrongLocal(df=6.0, delta_1=(5.0, 4.0), delta_rest=(6.0, 4.0), n_sweeps=3)),
    "shape of delta": (None, ONE_EFFECT, WrongRows(n_sweeps=3)),
}


LATE = ("rays upwards", "zeros counted in the scale move", "odds of the spike", "Gram of the spike")


@pytest.mark.parametrize(
    "error", [pytest.param(error, marks=[pytest.mark.slow] if error in LATE else []) for error in PLANTED]
)
def test_planted_errors_are_found(error, monkeypatch):
    """The power of the tests above: each must break the short one, those of LATE the long one."""
    plant, case, loadings = PLANTED[error]
    problem = make(case, loadings, monkeypatch)
    if plant is not None:
        plant(monkeypatch)
    chains, length, draws = (400, 150, 30_000) if error in LATE else (150, 50, 4000)
    z = joint_test(problem, chains=chains, length=length, draws=draws, seed=1, transition=sweep)
    with pytest.raises(AssertionError, match="beyond"):
        check(z, chains - 1)
