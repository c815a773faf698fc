"""Joint-distribution tests of covariates of single traits (`cis`), and errors planted in their steps.

One false alarm in 10 000 runs of this file and of `test_geweke` together, as there.
"""

import pytest

from slamglmm.fitters.slam import blocks
from slamglmm.fitters.slam import cis as cis_module
from slamglmm.fitters.slam import problem as problem_module
from slamglmm.fitters.slam.cis import CisEffects
from slamglmm.priors import PrecisionPrior, Priors, VarianceComponents
from tests.reference.geweke import joint_test
from tests.reference.problems import tiny_problem
from tests.statistical.test_geweke import LIGHT, ONE, SCATTERED, TWO, check

# One trait without, one with one column, one with two; a column of two traits; one that is in X too.
CIS = {"y2": ["w"], "y3": ["z", "w"]}
# Each trait misses rows of its own: small groups, drawn together.
OWN_ROWS = [([0, 3], 0), ([5, 6], 1), ([1, 7, 8], 2)]
CASES = {
    "U integrated out": {"formula": "~ x + (1 | g)", "rank": 5, "cis": {"y2": ["x"], "y3": ["z", "w"]}},
    "U integrated out, loadings on covariates": {"formula": ONE, "loadings_on": "~ t"},
    "U integrated out, missing cells drawn": {"formula": ONE, "missing": SCATTERED, "scatter": float("inf")},
    "traits with rows of their own": {"formula": "~ x + (1 | g)", "missing": OWN_ROWS},
    "patterns, two effects on rays": {"formula": TWO, "missing": SCATTERED},
    "imputed, one effect": {"formula": ONE, "missing": SCATTERED, "budget": 0},
}


def make(case, monkeypatch, loadings="infinite", **priors):
    options = {"n": 9, "cis": CIS} | CASES[case]
    if "budget" in options:
        monkeypatch.setattr(problem_module, "PATTERN_BYTES", options.pop("budget"))
    # Missing cells are drawn with U integrated out where a case says so, and nowhere else.
    monkeypatch.setattr(problem_module, "COST_OF_RANDOM", options.pop("scatter", 0.0))
    chosen = Priors(loadings=LIGHT[loadings], factor=PrecisionPrior(V=0.8, nu=4), cis=0.5, **priors)
    problem = tiny_problem(priors=chosen, **options)
    assert problem.cis.n == 3
    assert problem.collapsed == case.startswith("U integrated")
    assert bool(problem.own_rows) == ("own" in case)
    assert problem.impute == ("cells" in case or "imputed" in case)
    return problem


SLOW = ("U integrated out, loadings on covariates", "imputed, one effect")


@pytest.mark.parametrize(
    ("case", "loadings"),
    [pytest.param(case, "infinite", marks=[pytest.mark.slow] if case in SLOW else []) for case in CASES]
    + [
        ("U integrated out", "spike_slab"),
        pytest.param("traits with rows of their own", "spike_slab", marks=pytest.mark.slow),
        pytest.param("patterns, two effects on rays", "horseshoe", marks=pytest.mark.slow),
    ],
)
@pytest.mark.filterwarnings("ignore::slamglmm.errors.ScaleWarning")
def test_cis_effects_keep_the_joint_law(case, loadings, monkeypatch):
    """Integrated out of the loadings step and drawn; counted in the shares; taken off wherever data are."""
    problem = make(case, monkeypatch, loadings)
    seed = list(f"cis{case}{loadings}".encode())
    check(joint_test(problem, chains=150, length=50, draws=4000, seed=seed), 149)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::slamglmm.errors.ScaleWarning")
def test_cis_effects_with_priors_of_variances(monkeypatch):
    """tau and the effects in units of y, the sums in units that make each rate one."""
    residual = VarianceComponents(V={"g": 0.1, "Residual": 1.0}, nu=6.0)
    problem = make("U integrated out", monkeypatch, residual=residual)
    check(joint_test(problem, chains=150, length=50, draws=4000, seed=5), 149)


def plant_no_count(patch):
    """(g, tau): the quadratic form of the effects without half their number in the shape, as in MegaLMM."""
    right = CisEffects.penalty
    patch.setattr(CisEffects, "penalty", lambda self, *rest: (0 * right(self, *rest)[0], right(self, *rest)[1]))


def plant_no_form(patch):
    """(g, tau): the number of the effects without their quadratic form."""
    right = CisEffects.penalty
    patch.setattr(CisEffects, "penalty", lambda self, *rest: (right(self, *rest)[0], 0 * right(self, *rest)[1]))


def plant_not_integrated(patch):
    """Loadings step: the effects drawn given the coefficients, but not integrated out of these."""
    patch.setattr(blocks, "take_out", lambda parts, grams, which, rhs, yy: (grams, which))


def plant_prior(patch):
    """Twice the prior precision in the loadings step."""
    right = cis_module.integrate_out
    patch.setattr(cis_module, "integrate_out", lambda *rest: right(*rest[:-1], 2.0 * rest[-1]))


def plant_not_taken_off(patch):
    """Factor step: data with the covariates' part still in them."""
    right = blocks.weigh_collapsed

    def wrong(problem, group, state, block, fixed_residual):
        right(problem, group, state, block, fixed_residual + problem.cis.values(state.cis, block, group))

    patch.setattr(blocks, "weigh_collapsed", wrong)


@pytest.mark.parametrize(
    "plant",
    [
        plant_no_count,
        pytest.param(plant_no_form, marks=pytest.mark.slow),
        pytest.param(plant_not_integrated, marks=pytest.mark.slow),
        pytest.param(plant_prior, marks=pytest.mark.slow),
        pytest.param(plant_not_taken_off, marks=pytest.mark.slow),
    ],
)
@pytest.mark.filterwarnings("ignore::slamglmm.errors.ScaleWarning")
def test_errors_planted_in_cis_effects_are_found(plant, monkeypatch):
    problem = make("U integrated out", monkeypatch)
    plant(monkeypatch)
    with pytest.raises(AssertionError, match="beyond"):
        check(joint_test(problem, chains=150, length=50, draws=4000, seed=1), 149)
