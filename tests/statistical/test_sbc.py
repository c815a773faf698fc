"""Simulation-based calibration: over many fits, true values rank uniformly among the draws of their posteriors.

One false alarm in 1000 runs of this file, over all cases and quantities together (Bonferroni); seeds are fixed. To add
a case, name a problem in CASES; for a link, pass `simulate` with it.
"""

import numpy as np
import pytest

from slamglmm.fitters.slam import problem as problem_module
from slamglmm.priors import (
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
from tests.reference.problems import tiny_problem
from tests.reference.sbc import linked, ranks, uniformity
from tests.statistical import test_geweke_coefficients, test_geweke_links

FALSE_ALARM = 1e-3
N_TESTS = 250  # at least the number of quantities below, over all cases

ONE, TWO = "~ x + (1 | g)", "~ x + (1 | g) + (1 | h)"
# Missing in blocks, as in a trial with lines in some environments only.
BLOCKS = [(list(range(8)), 1), (list(range(20, 30)), 2)]
INFINITE = Infinite(df=6.0, delta_1=(5.0, 4.0), delta_rest=(6.0, 4.0), n_sweeps=3)
CASES = {
    "horseshoe": {"formula": ONE, "loadings": Horseshoe(prop_0=0.5, n_sweeps=5)},
    "infinite": {"formula": ONE, "loadings": INFINITE},
    "spike and slab": {
        "formula": ONE,
        "loadings": SpikeSlab(delta_1=(5.0, 4.0), delta_rest=(6.0, 4.0), n_sweeps=3),
    },
    "three-parameter beta": {
        "formula": ONE,
        "loadings": ThreeParameterBeta(a=1.5, b=3.0, delta_1=(5.0, 4.0), delta_rest=(6.0, 4.0), n_sweeps=3),
    },
    "two effects": {"formula": TWO},
    "missing cells integrated out": {"formula": ONE, "missing": BLOCKS},
    "two effects, missing cells integrated out": {"formula": TWO, "missing": BLOCKS},
    "missing cells drawn": {"formula": ONE, "missing": BLOCKS, "budget": 0},
    "priors of variances": {
        "formula": ONE,
        "residual": VarianceComponents(V=0.7, nu={"g": 5.0, "Residual": 6.0}, relative=True),
    },
    "shared effects": {"formula": ONE, "factor_formula": "~ x + w", "fixef": SharedEffects(V=0.5, nu=8.0, df=6.0)},
    "loadings on covariates of traits": {
        "formula": ONE,
        "loadings_on": "~ t",
        "loading_effects": PrecisionPrior(V=0.5, nu=6),
    },
    "covariates of one trait": {"formula": ONE, "cis": {"y1": ["w"], "y4": ["z", "w", "x"]}, "cis_var": 0.5},
    "horseshoe effects": {"formula": ONE, "factor_formula": "~ x + w", "fixef": HorseshoeEffects(prop_0=0.5)},
}


def make(case, monkeypatch):
    options = {"n": 30, "p": 4, "k": 2, "grid": 8, "levels": 15} | CASES[case]
    if "budget" in options:
        monkeypatch.setattr(problem_module, "PATTERN_BYTES", options.pop("budget"))
    named = ("loadings", "residual", "fixef", "loading_effects")
    priors = {name: options.pop(name) for name in named if name in options}
    if "cis_var" in options:
        priors["cis"] = options.pop("cis_var")
    return tiny_problem(
        priors=Priors(**({"loadings": INFINITE, "factor": PrecisionPrior(V=0.8, nu=8)} | priors)), **options
    )


def check(found, draws=59):
    p_values = {name: uniformity(of_quantity, draws) for name, of_quantity in found.items()}
    worst = min(p_values, key=lambda name: p_values[name])
    print(
        f"{len(found)} quantities, smallest p {p_values[worst]:.3f} ({worst}), "
        f"mean rank {np.mean([r.mean() for r in found.values()]):.1f} of 0 to {draws}"
    )
    assert p_values[worst] > FALSE_ALARM / N_TESTS, (
        f"{worst}: {np.bincount(found[worst] * 10 // (draws + 1), minlength=10)}"
    )


@pytest.mark.parametrize("case", ["infinite"])
def test_ranks_are_uniform(case, monkeypatch):
    check(ranks(make(case, monkeypatch), fits=50, seed=list(case.encode()), burn=80, thin=3))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::slamglmm.errors.ScaleWarning")
@pytest.mark.parametrize("case", CASES)
def test_ranks_are_uniform_long(case, monkeypatch):
    """Fits enough to see a posterior that is a sixth too narrow."""
    check(ranks(make(case, monkeypatch), fits=200, seed=list(case.encode())))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::slamglmm.errors.ScaleWarning")
@pytest.mark.parametrize("case", ["regression", "probes"])
def test_ranks_with_coefficients_are_uniform(case):
    """Links whose latent traits are not the columns of the data.

    Thinned by more than elsewhere: R takes up to 80 iterations to forget itself where coefficients are drawn, and ranks
    among dependent draws are not uniform.
    """
    problem = test_geweke_coefficients.make(case, n=20)
    found = ranks(problem, fits=110, seed=list(case.encode()), draws=29, burn=300, thin=80, simulate=linked)
    check(found, draws=29)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::slamglmm.errors.ScaleWarning")
@pytest.mark.parametrize("case", test_geweke_links.CASES)
def test_ranks_with_links_are_uniform(case):
    """Latent traits that the data only bound, or show with noise; thinned as coefficients are.

    Single 0/1 records say nearly nothing about R, whose draws 40 iterations apart still correlate by 0.2 to 0.5.
    """
    length = {"draws": 19, "thin": 200, "burn": 1000} if case == "bernoulli" else {"draws": 29, "thin": 40, "burn": 200}
    problem = test_geweke_links.make(case, n=20)
    check(ranks(problem, fits=120, seed=list(case.encode()), simulate=linked, **length), draws=length["draws"])
