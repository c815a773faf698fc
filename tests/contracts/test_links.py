"""What every link must do; a new one is tested by being registered here with data it can have made."""

import dataclasses
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import slamglmm as sg
from slamglmm.linalg.fixed_part import FixedPart
from slamglmm.links import (
    LINKS,
    Bernoulli,
    Binomial,
    Censored,
    GaussianWeights,
    Identity,
    Measurements,
    NegativeBinomial,
    Ordinal,
    Poisson,
    Probit,
)
from tests.reference.dense import whitened_z

N, P = 9, 4


def measurements(values, offset=0.0):
    frame = pd.DataFrame(np.asarray(values, dtype=float).T, columns=[f"t{j}" for j in range(len(values))])
    n = len(frame)
    return Measurements(frame, np.full(n, offset), np.arange(n), n, FixedPart.constant(n))


def holes(values):
    values = np.array(values, dtype=float)
    values[0, [1, 5]] = values[2, 3:7] = np.nan
    return values


def make_identity(rng):
    return Identity(), holes(rng.standard_normal((P, N)))


def make_gaussian_weights(rng):
    return GaussianWeights(rng.gamma(2.0, 1.0, (N, P))), holes(rng.standard_normal((P, N)))


def make_probit(rng):
    return Probit(), holes(np.arange(P * N).reshape(P, N) % 2)


def make_ordinal(rng):
    return Ordinal(), holes(
        1 + np.array([[2], [3], [4], [3]]) * rng.permuted(np.arange(N) / N * np.ones((P, 1)), axis=1) // 1
    )


def make_censored(rng):
    """Detection limits, and intervals in one trait."""
    values = holes(rng.standard_normal((P, N)))
    upper = np.full((N, P), np.nan)
    upper[:, 3] = values[3] + 0.5
    return Censored(left={"t0": -0.5, "t1": 0.0}, right=0.8, upper=upper), values


def make_counts(link, dispersion):
    def make(rng):
        y = rng.poisson(rng.gamma(1 / dispersion, 3 * dispersion, (P, N)))
        return link, holes(y)

    return make


def make_binomial(rng):
    trials = rng.integers(1, 9, (N, P))
    return Binomial(trials), holes(rng.binomial(trials, 0.4).T)


def make_bernoulli(rng):
    return Bernoulli(), holes(np.tile([0, 1, 0, 0, 1, 1, 1, 0, 1], (P, 1)))


SIZES = np.linspace(0.5, 2.0, N)

# Link and data (traits × rows) with missing cells, by the name of the link.
MAKERS = {
    "identity": make_identity,
    "gaussian": make_identity,
    "gaussian_weights": make_gaussian_weights,
    "poisson": make_counts(Poisson(SIZES), 0.1),
    "negative_binomial": make_counts(NegativeBinomial(SIZES), 0.5),
    "binomial": make_binomial,
    "bernoulli": make_bernoulli,
    "probit": make_probit,
    "ordinal": make_ordinal,
    "censored": make_censored,
}
# Data that follow from eta without any noise.
STEPS = ("probit", "ordinal", "censored")


def prepared(name, seed=1):
    rng = np.random.default_rng(seed)
    link, data = MAKERS[name](rng)
    return link.prepare(measurements(data)), data, rng


def latent(likelihood, rng):
    """Latent traits that agree with the data where those fix them, a mean and a precision given the model."""
    eta = np.where(likelihood.known, likelihood.start, rng.standard_normal(likelihood.start.shape))
    return eta, rng.standard_normal(eta.shape), np.array([0.5, 1.0, 4.0, 2.0])


def test_every_link_is_tested():
    """Here, or in a file of its own when its latent traits are not the data columns."""
    elsewhere = {name for name in LINKS if (Path(__file__).parent / f"test_link_{name}.py").exists()}
    assert set(MAKERS) | elsewhere == set(LINKS)


@pytest.mark.parametrize("name", MAKERS)
def test_start_is_finite(name):
    """A NaN left in a missing cell would spread through every step."""
    likelihood, data, _ = prepared(name)
    assert likelihood.start.shape == (len(likelihood.traits), N)
    assert np.all(np.isfinite(likelihood.start))
    assert np.all(likelihood.scale > 0)
    assert np.all(np.isfinite(likelihood.base_coef))
    assert np.array_equal(likelihood.informative, ~np.isnan(data))


@pytest.mark.parametrize("name", MAKERS)
def test_cells_without_data_follow_the_model(name):
    """N(mean, 1 / precision of the trait), independent: whatever the link, a missing cell says nothing.

    |z| < 5 for 27 moments: one false alarm in 60 000 runs.
    """
    likelihood, data, rng = prepared(name, 3)
    cells = np.isnan(data)
    eta, mean, prec = latent(likelihood, rng)
    parameters = likelihood.simulate_parameters(rng)
    drawn = np.empty((20_000, cells.sum()))
    for row in drawn:
        likelihood.draw(eta, mean.copy(), prec, parameters, slice(0, P), rng)
        row[:] = eta[cells]
    variance = np.broadcast_to(1 / prec[:, None], data.shape)[cells]
    assert np.abs(whitened_z(drawn, mean[cells], np.diag(variance))).max() < 5.0


@pytest.mark.parametrize("name", MAKERS)
def test_blocks_of_traits_do_not_meet(name):
    """Drawing some traits leaves the parameters of the others alone, and takes only their rows."""
    likelihood, _, rng = prepared(name, 4)
    eta, mean, prec = latent(likelihood, rng)
    parameters = likelihood.simulate_parameters(rng)
    before = {key: values.copy() for key, values in parameters.items()}
    part = eta[1:3].copy()
    likelihood.draw(part, mean[1:3].copy(), prec[1:3], parameters, slice(1, 3), rng)
    for key, dims in likelihood.labels().items():
        if dims[0][0] == "trait":
            assert np.array_equal(parameters[key][[0, 3]], before[key][[0, 3]])


@pytest.mark.parametrize("name", [name for name in MAKERS if name not in STEPS])
def test_simulated_data_have_the_log_density(name):
    """The mean of exp(log density under another eta - log density) over data simulated given eta is one.

    |z| < 5 for 4 x 9 cells.
    """
    likelihood, data, rng = prepared(name, 5)
    eta, _, _ = latent(likelihood, rng)
    parameters = likelihood.simulate_parameters(rng)
    other = np.where(likelihood.known, eta, eta + 0.2)
    ratio = np.empty((20_000, *data.shape))
    for t in range(len(ratio)):
        again = likelihood.with_data(likelihood.simulate(eta, parameters, rng))
        ratio[t] = np.exp(again.log_density(other, parameters) - again.log_density(eta, parameters))
    assert np.array_equal(np.isnan(ratio[0]), np.isnan(data))
    seen = ~np.isnan(data)
    means, sd = ratio.mean(axis=0)[seen], ratio.std(axis=0)[seen]
    assert np.abs((means - 1) / np.maximum(sd / np.sqrt(len(ratio)), 1e-12)).max() < 5.0


@pytest.mark.parametrize("name", STEPS)
def test_data_that_are_a_function_of_eta(name):
    """Simulated data allow the eta they came from, always; and only eta that gives the same data."""
    likelihood, data, rng = prepared(name, 5)
    likelihood = dataclasses.replace(likelihood, known=np.zeros_like(likelihood.known))
    parameters = likelihood.simulate_parameters(rng)
    for _ in range(200):
        eta, other = rng.standard_normal((2, P, N))
        values = likelihood.simulate(eta, parameters, rng)
        again = likelihood.with_data(values)
        assert np.array_equal(np.isnan(values), np.isnan(data))
        seen = ~np.isnan(data)
        assert np.all(again.log_density(eta, parameters)[seen] == 0.0)
        same = likelihood.simulate(other, parameters, rng) == values
        assert np.array_equal(again.log_density(other, parameters)[seen] == 0.0, same[seen])
        again.draw(eta, other, np.ones(P), dict(parameters), slice(0, P), rng)


def gaussian(values, weights):
    return GaussianWeights(np.asarray(weights, dtype=float).T).prepare(measurements(values))


def test_weighted_cells_follow_the_dense_conditional():
    """All moments of one draw against N((w y + omega mu) / (w + omega), 1 / (w + omega))."""
    rng = np.random.default_rng(6)
    y, w = rng.standard_normal((2, 5)), rng.gamma(1.0, 2.0, (2, 5))
    likelihood = gaussian(y, w)
    mean, prec = rng.standard_normal((2, 5)), np.array([0.5, 3.0])
    drawn = np.empty((40_000, 10))
    eta = np.empty((2, 5))
    for row in drawn:
        likelihood.draw(eta, mean.copy(), prec, {}, slice(0, 2), rng)
        row[:] = eta.ravel()
    total = w + prec[:, None]
    expected = (w * y + prec[:, None] * mean) / total
    assert np.abs(whitened_z(drawn, expected.ravel(), np.diag(1 / total.ravel()))).max() < 5.0


def test_no_weight_is_missing_and_infinite_weight_is_identity():
    rng = np.random.default_rng(7)
    y = rng.standard_normal((P, N))
    w = rng.gamma(2.0, 1.0, (P, N))
    w[0, [1, 5]] = w[2, 3:7] = 0.0
    w[1] = np.inf
    zero, missing = gaussian(y, w), gaussian(holes(y), np.where(w == 0, 5.0, w))
    for name in ("start", "known", "informative", "base_coef", "scale", "weights", "weighted"):
        assert np.array_equal(getattr(zero, name), getattr(missing, name)), name
    identity = Identity().prepare(measurements(y))
    assert zero.known[1].all()
    assert not zero.known[[0, 2, 3]].any()
    assert np.array_equal(zero.start[1], identity.start[1])
    everywhere = gaussian(y, np.full((P, N), np.inf))
    np.testing.assert_allclose(everywhere.base_coef, identity.base_coef, rtol=1e-9)
    np.testing.assert_allclose(everywhere.scale, identity.scale, rtol=1e-9)
    # Towards infinity: the draw goes to the data.
    eta = np.empty((P, N))
    gaussian(y, np.full((P, N), 1e14)).draw(eta, np.zeros((P, N)), np.ones(P), {}, slice(0, P), rng)
    np.testing.assert_allclose(eta, y, atol=1e-6)


def test_unit_of_a_trait_is_its_spread_beyond_the_noise():
    """20 traits of variance 4 under noise of unequal variance, mean 10: 3 standard errors of their mean, about 10 %."""
    rng = np.random.default_rng(8)
    noise = rng.gamma(0.5, 20.0, (20, 400))
    y = 3 + 2 * rng.standard_normal(noise.shape) + np.sqrt(noise) * rng.standard_normal(noise.shape)
    likelihood = gaussian(y, 1 / noise)
    np.testing.assert_allclose(np.mean(likelihood.scale**2), 4.0, rtol=0.12)
    np.testing.assert_allclose(np.mean(likelihood.base_coef), 3.0, atol=0.1)


def test_bad_weights():
    y = np.arange(8.0).reshape(2, 4)
    with pytest.raises(sg.errors.OptionError, match=r"got -1.0 for 't1' in row 2 \(counted from 0\), and 0 more"):
        gaussian(y, [[1, 1, 1, 1], [1, 1, -1, 1]])
    with pytest.raises(sg.errors.DataError, match="'t0' have zero weight in every row"):
        gaussian(y, [[0, 0, 0, 0], [1, 1, 1, 1]])
    with pytest.raises(sg.errors.OptionError, match=r"expected a number, 4 numbers .* got shape \(2, 4\)"):
        GaussianWeights(np.ones((2, 4))).prepare(measurements(y))
    with pytest.raises(sg.errors.OptionError, match="no column 't1'"):
        GaussianWeights(pd.DataFrame({"t0": np.ones(4)})).prepare(measurements(y))


def test_options_follow_the_rows_and_names():
    """Rows that the design leaves out, and columns in another order."""
    values = pd.DataFrame({"a": [1.0, 2.0, 3.0], "b": [4.0, 5.0, 7.0]})
    w = pd.DataFrame({"b": [10.0, 20, 30, 40, 50], "other": np.nan, "a": [1.0, 2, 3, 4, 5]})
    data = Measurements(values, np.zeros(3), np.array([0, 2, 4]), 5, FixedPart.constant(3))
    np.testing.assert_array_equal(data.by_cell("weights", w), [[1, 3, 5], [10, 30, 50]])
    np.testing.assert_array_equal(data.take(np.array([2])).by_cell("weights", w), [[5], [50]])
    np.testing.assert_array_equal(data.by_cell("weights", w["a"]), [[1, 3, 5]] * 2)


def refused(link, values, error, message):
    with pytest.raises(error, match=message):
        link.prepare(measurements(values))


def test_bad_counts():
    good = np.array([[0.0, 3, 5, 1], [1, 0, 2, 9]])
    data, option = sg.errors.DataError, sg.errors.OptionError
    minus, half, zero = good.copy(), good.copy(), good.copy()
    minus[1, 2], half[0, 1:3], zero[1] = -2, 0.5, 0
    for link in (Poisson(), NegativeBinomial(), Binomial(20)):
        refused(link, minus, data, r"1 are negative \(first: -2 for 't1' in row 2, counted from 0\)")
        refused(link, half, data, r"2 are not whole \(first: 0.5 for 't0' in row 1")
    refused(Poisson(), zero, data, "'t1' have no counts above zero")
    refused(Poisson([1, 1, 0, 1]), good, option, r"size_factors must be above 0 and finite; 't0' has 0 in row 2")
    refused(Poisson("libraries"), good, option, "expected numbers or 'library'")
    refused(
        NegativeBinomial(dispersion=[1.0, -1.0]),
        good,
        option,
        r"dispersion=\[1.0, -1.0\]\): expected a finite positive number, or two of them",
    )
    with pytest.raises(option, match=r"prior=\(0.2, 0.0\)\): .* They are the median of d and the sd of log d"):
        NegativeBinomial(prior=(0.2, 0.0))
    refused(Binomial(4), good, data, r"2 cell\(s\) have more successes than trials \(first: 5 of 4 for 't0' in row 2")
    refused(Binomial(1.5), np.zeros((2, 4)), option, "expected whole numbers of at least 0")
    refused(Binomial(9), zero, data, "'t1' have only successes or only failures")
    refused(Bernoulli(), good, data, r"takes 0 and 1, but 't0' has 3 in row 1 \(counted from 0\)")


def test_size_factors_of_libraries():
    y = np.array([[0.0, 3, 5, 1], [2, 1, 5, 9]])
    offset = Poisson("library").prepare(measurements(y, offset=0.5)).offset
    np.testing.assert_allclose(offset[0], 0.5 + np.log(np.array([2, 4, 10, 10]) / 6.5))


def test_no_trials_is_missing():
    rng = np.random.default_rng(9)
    trials = rng.integers(1, 9, (N, P)).astype(float)
    y = rng.binomial(trials.astype(int), 0.4).T.astype(float)
    without = trials.copy()
    without[1, 0] = 0
    gap = y.copy()
    gap[0, 1] = np.nan
    zeroed = y.copy()
    zeroed[0, 1] = 0
    first, second = Binomial(without).prepare(measurements(zeroed)), Binomial(trials).prepare(measurements(gap))
    for name in ("start", "informative", "y", "trials", "base_coef", "scale"):
        np.testing.assert_array_equal(getattr(first, name), getattr(second, name), err_msg=name)


@pytest.mark.parametrize("dispersion", [None, 0.3])
def test_unit_of_counts_is_the_spread_of_eta(dispersion):
    """Latent variance 0.25 from moments of 20 traits x 2000 counts: 3 standard errors are about 10 %."""
    rng = np.random.default_rng(10)
    noise = 1.0 if dispersion is None else rng.gamma(1 / dispersion, dispersion, (20, 2000))
    y = rng.poisson(np.exp(1.0 + 0.5 * rng.standard_normal((20, 2000))) * noise)
    link = Poisson() if dispersion is None else NegativeBinomial(dispersion=dispersion)
    likelihood = link.prepare(measurements(y))
    np.testing.assert_allclose(np.mean(likelihood.scale**2), 0.25, rtol=0.1)
    np.testing.assert_allclose(np.mean(likelihood.base_coef), 1.0, atol=0.03)


def test_identity_starts_at_the_mean():
    data = holes(np.random.default_rng(4).standard_normal((P, N)))
    eta = Identity().prepare(measurements(data)).start
    seen = ~np.isnan(data)
    assert np.array_equal(eta[seen], data[seen])
    np.testing.assert_allclose(eta[2, 3:7], np.nanmean(data[2]))
