"""Joint-distribution tests of the whole iteration with links, and errors planted in their draws.

Missing cells, one random effect and no fixed effects (a flat one would shift eta away from its data). Bounds as in
test_geweke.py.
"""

import dataclasses

import numpy as np
import pytest

from slamglmm.errors import FitError
from slamglmm.links import (
    Bernoulli,
    Binomial,
    Censored,
    GaussianWeights,
    NegativeBinomial,
    Ordinal,
    Poisson,
    Probit,
    counts,
    pseudo,
    thresholds,
)
from slamglmm.links import gaussian_weights as gaussian_weights_module
from slamglmm.priors import Infinite, PrecisionPrior, Priors
from tests.reference.geweke import joint_test
from tests.reference.problems import tiny_problem
from tests.statistical.test_geweke import SCATTERED, check

N = 9
LOADINGS = Infinite(df=6.0, delta_1=(5.0, 4.0), delta_rest=(6.0, 4.0), n_sweeps=3)


def weights(n):
    w = np.random.default_rng(1).gamma(1.0, 2.0, (n, 3))
    w[4, 0] = 0.0
    w[2, 1] = w[:, 2] = np.inf
    return w


class EveryCellDrawn(Censored):
    """Measured cells are drawn as well, between equal bounds: which are measured changes with the data."""

    def prepare(self, data):
        likelihood = super().prepare(data)
        return dataclasses.replace(likelihood, known=np.zeros_like(likelihood.known))


CASES = (
    *("gaussian_weights", "probit", "ordinal", "censored", "poisson", "negative_binomial", "binomial", "bernoulli"),
    "combined",
)


def linked_data(case, n):
    """A link, and the first data (anything the link accepts; each draw replaces them)."""
    rng = np.random.default_rng(0)
    categories = np.add.outer(np.arange(n), np.arange(3))
    trials = np.arange(n) % 9 + 1
    return {
        "gaussian_weights": lambda: (GaussianWeights(weights(n)), rng.standard_normal((n, 3))),
        "probit": lambda: (Probit(), categories % 2),
        "ordinal": lambda: (Ordinal(categories=[1, 2, 3, 5], cut_sd=1.0), 1 + categories % 3),
        "censored": lambda: (EveryCellDrawn(left=-0.4, right={"y2": 0.7, "y3": 0.2}), rng.standard_normal((n, 3))),
        "poisson": lambda: (Poisson(np.linspace(0.5, 4.0, n)), rng.poisson(4.0, (n, 3))),
        "negative_binomial": lambda: (
            NegativeBinomial(np.linspace(1.0, 6.0, n), prior=(0.3, 0.8)),
            rng.poisson(5.0, (n, 3)),
        ),
        "binomial": lambda: (Binomial(trials), rng.binomial(trials, 0.5, (3, n)).T),
        "bernoulli": lambda: (Bernoulli(), np.tile([0, 1, 1], (n, 1)) ^ (np.arange(n) % 2)[:, None]),
        # Kinds in another order than their columns.
        "combined": lambda: (
            [(Poisson(np.linspace(0.5, 4.0, n)), "y3"), ("ordinal", "y1"), (GaussianWeights(weights(n)[:, :1]), "y2")],
            np.column_stack((1 + categories[:, 0] % 3, rng.standard_normal(n), rng.poisson(4.0, n))),
        ),
    }[case]()


# What others in this file cover as well, in the run of every day.
SLOW = {
    *("probit", "binomial", "bernoulli"),
    *("law of the cut points", "eta within its category", "size of a negative binomial", "Jacobian of the dispersion"),
}


def slow(name):
    return pytest.param(name, marks=pytest.mark.slow)


def make(case, n=N):
    link, responses = linked_data(case, n)
    priors = Priors(
        loadings=LOADINGS,
        factor=PrecisionPrior(V=0.8, nu=4),
        h2=lambda h: 1.0 + h.sum(axis=1),
        h2_factors=lambda h: 2.0 - h.sum(axis=1),
    )
    problem = tiny_problem(n=n, rank=n - 2, priors=priors, link=link, responses=responses, missing=SCATTERED)
    assert problem.links
    assert problem.impute
    return problem


def run(problem, seed, chains=100, length=30, draws=3000):
    return joint_test(problem, chains=chains, length=length, draws=draws, seed=seed)


# Moves slowly from where chains start.
LONGER = {"Jacobian of the dispersion", "size of a negative binomial"}


@pytest.mark.filterwarnings("ignore::slamglmm.errors.ScaleWarning")
@pytest.mark.parametrize("case", [slow(case) if case in SLOW else case for case in CASES])
def test_iteration_keeps_the_joint_law(case):
    check(run(make(case), list(case.encode())), 99)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::slamglmm.errors.ScaleWarning")
@pytest.mark.parametrize("case", CASES)
def test_iteration_keeps_the_joint_law_long(case):
    """Errors a fourth as large."""
    check(run(make(case), list(f"long {case}".encode()), chains=400, length=120, draws=30_000), 399)


def plant_model_precision(patch):
    """Eta with half the model's precision."""

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


def plant_offset(patch):
    """Poisson cells without their size factors."""
    right = counts.draw_poisson_eta
    patch.setattr(counts, "draw_poisson_eta", lambda y, offset, *rest: right(y, 0 * offset, *rest))


def plant_size(patch):
    """Negative binomial cells with too many failures."""
    right = counts.draw_binomial_eta
    patch.setattr(counts, "draw_binomial_eta", lambda y, size, *rest: right(y, size + 2.0 * y, *rest))


def plant_dispersion(patch):
    """The density of d taken for that of log d."""
    right = counts.sum_negative_binomial

    def wrong(y, log_mean, shape, out):
        right(y, log_mean, shape, out)
        out += np.log(shape)

    patch.setattr(counts, "sum_negative_binomial", wrong)


PLANTED = {
    "precision of eta": (plant_model_precision, "gaussian_weights"),
    "law of the cut points": (plant_narrow_cuts, "ordinal"),
    "eta within its category": (plant_low_end, "probit"),
    "size factors": (plant_offset, "poisson"),
    "size of a negative binomial": (plant_size, "negative_binomial"),
    "Jacobian of the dispersion": (plant_dispersion, "negative_binomial"),
}


@pytest.mark.parametrize("error", [slow(error) if error in SLOW else error for error in PLANTED])
@pytest.mark.filterwarnings("ignore::slamglmm.errors.ScaleWarning")
def test_planted_errors_are_found(error, monkeypatch):
    plant, case = PLANTED[error]
    problem = make(case)
    plant(monkeypatch)
    # Or the chain runs away, which none does without the error.
    with pytest.raises((AssertionError, FitError), match=r"beyond|could not be drawn: their mean or precision"):
        check(run(problem, 1, length=120 if error in LONGER else 30), 99)
