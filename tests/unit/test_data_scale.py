"""Moments on the scale of the data against integrals, samples, and published closed forms."""

import numpy as np
import pytest
import scipy.integrate
import scipy.special
import scipy.stats

from slamglmm.links.data_scale import (
    category_probabilities,
    count_moments,
    identity_moments,
    logit_moments,
    threshold_moments,
)

LAWS = {
    "identity": (identity_moments, lambda latent, rng: latent, lambda x: x),
    "poisson": (count_moments, lambda latent, rng: rng.poisson(np.exp(latent)), np.exp),
    "negative_binomial": (
        lambda m, v: count_moments(m, v, 0.5),
        lambda latent, rng: rng.poisson(np.exp(latent) * rng.gamma(2.0, 0.5, latent.shape)),
        np.exp,
    ),
    "logit": (
        logit_moments,
        lambda latent, rng: rng.random(latent.shape) < scipy.special.expit(latent),
        scipy.special.expit,
    ),
    "probit": (
        lambda m, v: threshold_moments(m, v, np.array([0.0])),
        lambda latent, rng: latent > 0,
        None,
    ),
    "ordinal": (
        lambda m, v: threshold_moments(m, v, np.array([0.0, 0.7, 1.1])),
        lambda latent, rng: np.searchsorted([0.0, 0.7, 1.1], latent),
        None,
    ),
}


@pytest.mark.parametrize("name", LAWS)
def test_moments_are_those_of_samples(name):
    """Mean and variance of a million y; slope as the regression of y on the latent trait (Stein). |z| < 5."""
    moments, sample, _ = LAWS[name]
    rng = np.random.default_rng(1)
    for location, variance in [(0.3, 0.4), (-1.0, 0.8)]:
        latent = location + np.sqrt(variance) * rng.standard_normal(1_000_000)
        y = sample(latent, rng).astype(float)
        ours = moments(np.array(location), np.array(variance))
        products = (y - ours.mean) * (latent - location) / variance
        for seen, expected in [(y, ours.mean), (products, ours.slope), ((y - ours.mean) ** 2, ours.variance)]:
            assert abs(seen.mean() - expected) < 5.0 * seen.std() / 1000 + 1e-12


@pytest.mark.parametrize("variance", [0.01, 1.0, 4.0, 16.0])
@pytest.mark.parametrize("location", [-6.0, -1.0, 0.0, 2.0])
def test_logit_quadrature(location, variance):
    ours = logit_moments(np.array(location), np.array(variance))
    law = scipy.stats.norm(location, np.sqrt(variance))

    def integral(f):
        ends = (location - 12 * np.sqrt(variance), location + 12 * np.sqrt(variance))
        return scipy.integrate.quad(lambda x: f(x) * law.pdf(x), *ends, epsabs=1e-13, limit=400)[0]

    slope = integral(lambda x: scipy.special.expit(x) * scipy.special.expit(-x))
    np.testing.assert_allclose(ours.mean, integral(scipy.special.expit), rtol=1e-7)
    np.testing.assert_allclose(ours.slope, slope, rtol=1e-6)


def test_dempster_and_lerner():
    """h2 of a 0/1 trait: that of liability times z^2 / (p (1 - p)), z the normal density at the threshold."""
    additive, total, location = 0.8, 2.0, -0.9
    ours = threshold_moments(np.array(location), np.array(total), np.array([0.0]))
    p = scipy.stats.norm.cdf(location / np.sqrt(total))
    z = scipy.stats.norm.pdf(scipy.stats.norm.ppf(p))
    observed = ours.slope**2 * additive / ours.variance
    np.testing.assert_allclose(observed, additive / total * z**2 / (p * (1 - p)), rtol=1e-12)


def test_poisson_as_in_foulley_and_im():
    """h2 = lambda V_A / (lambda (exp(V) - 1) + 1), lambda the mean count (also QGglmm's closed form)."""
    additive, total, location = 0.3, 0.9, 1.1
    ours = count_moments(np.array(location), np.array(total))
    mean = np.exp(location + total / 2)
    expected = mean * additive / (mean * np.expm1(total) + 1)
    np.testing.assert_allclose(ours.slope**2 * additive / ours.variance, expected, rtol=1e-12)


@pytest.mark.parametrize("name", [name for name, law in LAWS.items() if law[2] is not None])
def test_no_latent_variance(name):
    """The limit is the distribution given its mean: slope g' (a step has none)."""
    moments, _, inverse = LAWS[name]
    ours = moments(np.array(0.4), np.array(1e-12))
    np.testing.assert_allclose(ours.mean, inverse(0.4), rtol=1e-6)
    np.testing.assert_allclose(ours.slope, (inverse(0.4 + 1e-5) - inverse(0.4 - 1e-5)) / 2e-5, rtol=1e-6)


def test_over_rows():
    """Rows with different fixed effects: the mixture's variance has their differences in it."""
    rng = np.random.default_rng(2)
    location, weights = rng.normal(size=(3, 5)), np.array([0.1, 0.2, 0.3, 0.15, 0.25])
    by_row = count_moments(location, np.full((3, 1), 0.4))
    ours = by_row.over_rows(weights)
    row = rng.choice(5, 400_000, p=weights)
    for i in range(3):
        y = rng.poisson(np.exp(location[i, row] + np.sqrt(0.4) * rng.standard_normal(len(row))))
        assert abs(y.mean() - ours.mean[i]) < 5 * y.std() / np.sqrt(len(y))
        squares = (y - ours.mean[i]) ** 2
        assert abs(squares.mean() - ours.variance[i]) < 5 * squares.std() / np.sqrt(len(y))
    np.testing.assert_allclose(ours.slope, by_row.slope @ weights)


def test_categories():
    """Probabilities sum to one, agree with the moments, and a trait with fewer cuts has empty categories."""
    location, variance = np.array([0.2, -0.5]), np.array([1.5, 0.5])
    cuts = np.array([[0.0, 0.6, 1.5], [0.0, 0.9, np.inf]])
    chance = category_probabilities(location, variance, cuts)
    np.testing.assert_allclose(chance.sum(axis=1), 1.0)
    assert chance[1, 3] == 0.0
    for levels in (np.arange(4.0), np.array([-1.0, 2.0, 3.0, 7.0])):
        ours = threshold_moments(location, variance, cuts, levels)
        np.testing.assert_allclose(chance @ levels, ours.mean)
        np.testing.assert_allclose(chance @ levels**2 - (chance @ levels) ** 2, ours.variance)
    middle = scipy.stats.norm(0.2, np.sqrt(1.5))
    np.testing.assert_allclose(chance[0, 1], middle.cdf(0.6) - middle.cdf(0.0))
