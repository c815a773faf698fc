"""Joint-distribution tests of the whole iteration with links, and errors planted in their draws.

Missing cells, one random effect and no fixed effects (a flat one would shift eta away from its data). Bounds as in
test_geweke.py.
"""

import dataclasses

import numpy as np
import pytest

from slamglmm.links import Censored, GaussianWeights, Ordinal, Probit, pseudo, thresholds
from slamglmm.links import gaussian_weights as gaussian_weights_module
from slamglmm.priors import Infinite, PrecisionPrior, Priors
from tests.reference.geweke import joint_test
from tests.reference.problems import tiny_problem
from tests.statistical.test_geweke import SCATTERED, check

N = 9
LOADINGS = Infinite(df=6.0, delta_1=(5.0, 4.0), delta_rest=(6.0, 4.0), n_sweeps=3)
RNG = np.random.default_rng(0)


def weights():
    w = np.random.default_rng(1).gamma(1.0, 2.0, (N, 3))
    w[4, 0] = 0.0
    w[2, 1] = w[:, 2] = np.inf
    return w


class EveryCellDrawn(Censored):
    """Measured cells are drawn as well, between equal bounds: which are measured changes with the data."""

    def prepare(self, data):
        likelihood = super().prepare(data)
        return dataclasses.replace(likelihood, known=np.zeros_like(likelihood.known))


# Link, and the first data (anything the link accepts; each draw replaces them).
CASES = {
    "gaussian_weights": (GaussianWeights(weights()), RNG.standard_normal((N, 3))),
    "probit": (Probit(), np.add.outer(np.arange(N), np.arange(3)) % 2),
    "ordinal": (Ordinal(categories=[1, 2, 3, 5], cut_sd=1.0), 1 + np.add.outer(np.arange(N), np.arange(3)) % 3),
    "censored": (EveryCellDrawn(left=-0.4, right={"y2": 0.7, "y3": 0.2}), RNG.standard_normal((N, 3))),
}


# What others in this file cover as well, in the run of every day.
SLOW = {"probit", "law of the cut points", "eta within its category"}


def slow(name):
    return pytest.param(name, marks=pytest.mark.slow)


def make(case):
    link, responses = CASES[case]
    priors = Priors(
        loadings=LOADINGS,
        factor=PrecisionPrior(V=0.8, nu=4),
        h2=lambda h: 1.0 + h.sum(axis=1),
        h2_factors=lambda h: 2.0 - h.sum(axis=1),
    )
    problem = tiny_problem(n=N, rank=7, priors=priors, link=link, responses=responses, missing=SCATTERED)
    assert problem.links
    assert problem.impute
    return problem


def run(problem, seed):
    return joint_test(problem, chains=150, length=50, draws=4000, seed=seed)


@pytest.mark.filterwarnings("ignore::slamglmm.errors.ScaleWarning")
@pytest.mark.parametrize("case", [slow(case) if case in SLOW else case for case in CASES])
def test_iteration_keeps_the_joint_law(case):
    check(run(make(case), list(case.encode())), 149)


def plant_model_precision(patch):
    """Eta with the model's total precision in place of that given U."""

    def wrong(eta, weighted, weights, mean, prec, rng):
        pseudo.draw_given_pseudo(eta, weighted, weights, mean, 0.5 * prec, rng)

    patch.setattr(gaussian_weights_module, "draw_given_pseudo", wrong)


def plant_narrow_cuts(patch):
    """Cut points with the prior of another scale."""
    right = thresholds.move_cuts

    def wrong(cuts, codes, mean, sd, steps, prior_sd, rng):
        right(cuts, codes, mean, sd, steps, prior_sd / 1.7, rng)

    patch.setattr(thresholds, "move_cuts", wrong)


def plant_low_end(patch):
    """Eta between its bounds, but the lower of two draws."""
    right = thresholds.draw_truncated_normal
    patch.setattr(thresholds, "draw_truncated_normal", lambda *bounds: np.minimum(right(*bounds), right(*bounds)))


PLANTED = {
    "precision of eta": (plant_model_precision, "gaussian_weights"),
    "law of the cut points": (plant_narrow_cuts, "ordinal"),
    "eta within its category": (plant_low_end, "probit"),
}


@pytest.mark.parametrize("error", [slow(error) if error in SLOW else error for error in PLANTED])
@pytest.mark.filterwarnings("ignore::slamglmm.errors.ScaleWarning")
def test_planted_errors_are_found(error, monkeypatch):
    plant, case = PLANTED[error]
    problem = make(case)
    plant(monkeypatch)
    with pytest.raises(AssertionError, match="beyond"):
        check(run(problem, 1), 149)
