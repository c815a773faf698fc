"""Joint-distribution tests with links whose latent traits are not the columns of the data, and errors planted in them.

Missing cells, one random effect and no fixed effects, as in test_geweke_links.py; bounds as in test_geweke.py.
"""

import numpy as np
import pandas as pd
import pytest

import slamglmm as sg
from slamglmm.fitters.slam.problem import build_problem
from slamglmm.links import Probes, Regression
from slamglmm.links.cross_products import CrossProducts
from slamglmm.links.probes import ProbeLikelihood
from slamglmm.links.regression import Curves
from slamglmm.priors import Infinite, PrecisionPrior, Priors
from tests.reference.geweke import joint_test
from tests.reference.problems import relationship, tiny_frame
from tests.statistical.test_geweke import check

N = 9
PRIORS = Priors(
    loadings=Infinite(df=6.0, delta_1=(5.0, 4.0), delta_rest=(6.0, 4.0), n_sweeps=3),
    factor=PrecisionPrior(V=0.8, nu=4),
    h2=lambda h: 1.0 + h.sum(axis=1),
    h2_factors=lambda h: 2.0 - h.sum(axis=1),
)
SHARED = pd.DataFrame(
    {"a": [1, 1, 0.5, 0, 0, 0], "b": [0, 0, 1, 1, 0, 0], "c": [0, 0, 0, 0, 1, 1]}, index=[f"q{q}" for q in range(6)]
)


def long_data(n=N):
    """One to four times for each individual but the last, a trait that was not always measured."""
    rng = np.random.default_rng(3)
    codes = np.repeat(np.arange(n - 1), np.resize([1, 2, 3, 4, 3, 2, 3, 4], n - 1))
    t = rng.uniform(-1, 1, len(codes))
    long = pd.DataFrame({"g": [f"i{i:03d}" for i in codes], "t": t, "u": rng.standard_normal(len(codes))})
    long["v"] = rng.standard_normal(len(codes))
    long.loc[::4, "v"] = np.nan
    return long


def make(case, n=N):
    frame, labels, rng = tiny_frame(n)
    Y = None
    if case == "regression":
        link = Regression("u + v ~ t", long_data(n), individual="g", noise_V=0.5, noise_nu=5.0).bind(frame)
    else:
        link = Probes(SHARED, noise_nu=5.0)
        Y = pd.DataFrame(rng.standard_normal((n, 6)), columns=SHARED.index)
        Y.iloc[0, :3] = Y.iloc[3, 1] = Y.iloc[5, 4:] = np.nan
    K = pd.DataFrame(relationship(n, n - 2), labels, labels)
    design = sg.design("~ 0 + (1 | g)", frame, Y=Y, relmat={"g": K})
    problem = build_problem(design, PRIORS, 2, 4, link=link)
    assert problem.impute
    return problem


@pytest.mark.filterwarnings("ignore::slamglmm.errors.ScaleWarning")
@pytest.mark.parametrize("case", ["regression", "probes"])
def test_iteration_keeps_the_joint_law(case):
    check(joint_test(make(case), chains=120, length=40, draws=3000, seed=list(case.encode())), 119)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::slamglmm.errors.ScaleWarning")
@pytest.mark.parametrize("case", ["regression", "probes"])
def test_iteration_keeps_the_joint_law_long(case):
    """Errors a third as large."""
    check(joint_test(make(case), chains=400, length=120, draws=30_000, seed=list(f"long{case}".encode())), 399)


def plant_prior_precision(patch):
    """Coefficients: twice the precision of the model."""
    right = CrossProducts.draw
    patch.setattr(CrossProducts, "draw", lambda self, phi, prec, rhs, z: right(self, phi, 2 * prec, rhs, z))


def plant_sum_of_squares(patch):
    """Noise: the squares around the start, not around the coefficients."""
    patch.setattr(Curves, "sum_of_squares", lambda self, eta: self.rss)


def plant_stale_mean(patch):
    """Genes: the levels of the probes forgotten."""
    right = ProbeLikelihood.draw

    def wrong(self, eta, mean, prec, parameters, traits, rng):
        right(self, eta, mean, prec, {**parameters, "probe_mean": 0.0 * parameters["probe_mean"]}, traits, rng)

    patch.setattr(ProbeLikelihood, "draw", wrong)


PLANTED = {
    "precision of coefficients": (plant_prior_precision, "regression"),
    "sum of squares of the noise": (plant_sum_of_squares, "regression"),
    "levels of probes": (plant_stale_mean, "probes"),
}


@pytest.mark.parametrize(
    "error", [pytest.param(error, marks=[pytest.mark.slow] if i else []) for i, error in enumerate(PLANTED)]
)
@pytest.mark.filterwarnings("ignore::slamglmm.errors.ScaleWarning")
def test_planted_errors_are_found(error, monkeypatch):
    plant, case = PLANTED[error]
    problem = make(case)
    plant(monkeypatch)
    with pytest.raises(AssertionError, match="beyond"):
        check(joint_test(problem, chains=200, length=80, draws=2000, seed=1), 199)
