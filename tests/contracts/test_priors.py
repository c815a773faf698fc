"""What every prior on the loadings must do; a new one is tested by being registered."""

import numpy as np
import pytest
import scipy.stats

from slamglmm.errors import OptionError
from slamglmm.priors import FIXEF, PRIORS, PrecisionPrior, Priors

BLOCKS = [slice(0, 2), slice(2, 5)]


def has_spike(scales):
    return scales.included is not None


def update(prior, scales, n_rows, rng):
    """Loadings given the scales, then the scales given the loadings, as in an iteration."""
    p, _k = scales.local.shape
    tau = rng.gamma(4.0, 0.4, p)
    loadings = scales.simulate_loadings(tau, rng)
    scaled = tau[:, None] * loadings**2
    for block in BLOCKS:
        prior.draw_local(scaled[block], scales, block, rng)
    prior.draw_rows(0.5 * np.sum(scaled * scales.local, axis=0), scales, n_rows, rng)


@pytest.mark.parametrize("name", PRIORS)
def test_simulate_then_draw_keeps_the_prior(name):
    """Scales from the prior, loadings given them, one update: the law of all scales must be the prior's.

    Two-sample Kolmogorov-Smirnov on 12 functions with their tails; p > 1e-6 each.
    """
    prior, rng, replicates, p, k, n = PRIORS[name](), np.random.default_rng(11), 4000, 5, 3, 20

    def functions(scales):
        local, row = np.log(scales.local), np.log(scales.row)
        spike = [*scales.inclusion, *scales.n_active, scales.included[1].sum()] if has_spike(scales) else []
        return [*row, *np.log(scales.delta[1:]), np.log(scales.t2), local[0, 0], local[4, 2], local.mean(), local.max(),
                (local[1] + row).max(), np.ptp(row), *spike]  # fmt: skip

    before, after = [], []
    for _ in range(replicates):
        before.append(functions(prior.simulate(p, k, n, rng)))
        scales = prior.simulate(p, k, n, rng)
        update(prior, scales, n, rng)
        after.append(functions(scales))
    for old, new in zip(np.array(before).T, np.array(after).T, strict=True):
        if np.ptp(old) > 0:
            assert scipy.stats.ks_2samp(old, new).pvalue > 1e-6


@pytest.mark.parametrize("name", PRIORS)
@pytest.mark.parametrize(("p", "k"), [(5, 0), (5, 1), (1, 1), (5, 4)])
def test_scales_are_consistent(name, p, k):
    """Row precisions are those the ratios make, and an update changes only its own block."""
    prior, rng = PRIORS[name](), np.random.default_rng(3)
    for scales in (prior.start(p, k, 10), prior.simulate(p, k, 10, rng)):
        assert scales.local.shape == (p, k)
        assert scales.row.shape == scales.delta.shape == (k,)
        before = scales.local.copy()
        prior.draw_local(rng.standard_exponential((p - 1, k)), scales, slice(1, p), rng)
        assert np.array_equal(scales.local[:1], before[:1])
        if not has_spike(scales):  # a normal slab has no local scales
            assert np.all(scales.local[1:] != before[1:])
        prior.draw_rows(rng.standard_exponential(k), scales, 10, rng)
        steps = np.abs(np.log(scales.row[1:] / scales.row[:-1]))
        np.testing.assert_allclose(steps, np.abs(np.log(scales.delta[1:])), rtol=1e-9)


@pytest.mark.parametrize("name", PRIORS)
def test_scales_survive_extreme_loadings(name):
    """A loading of zero, or one far too large, must leave finite positive scales."""
    prior, rng = PRIORS[name](), np.random.default_rng(4)
    scales = prior.start(200, 3, 50)
    scaled = np.broadcast_to([0.0, 1e-300, 1e20], (200, 3)).copy()
    for _ in range(20):
        prior.draw_local(scaled, scales, slice(0, 200), rng)
        prior.draw_rows(0.5 * np.sum(scaled * scales.local, axis=0), scales, 50, rng)
        for values in (scales.local, scales.row, scales.delta, np.array([scales.t2])):
            assert np.all(np.isfinite(values))
            assert np.all(values > 0)


@pytest.mark.parametrize("name", PRIORS)
def test_same_noise_same_scales(name):
    prior, results = PRIORS[name](), []
    for _ in range(2):
        rng = np.random.default_rng(5)
        scales = prior.simulate(5, 3, 20, rng)
        update(prior, scales, 20, rng)
        results.append(np.concatenate((scales.local.ravel(), scales.row)))
    assert np.array_equal(*results)


@pytest.mark.parametrize("name", PRIORS)
def test_a_name_stands_for_its_defaults(name):
    assert Priors(loadings=name).loadings_prior == PRIORS[name]()
    assert Priors(loadings=PRIORS[name]()).loadings_prior == PRIORS[name]()
    assert "\n" not in PRIORS[name]().describe()


def test_messages():
    with pytest.raises(OptionError, match=r"Priors\(loadings='lasso'\): unknown prior. Choose one of 'horseshoe'"):
        Priors(loadings="lasso")
    with pytest.raises(OptionError, match=r"PrecisionPrior\(V=0, nu=5\): expected V > 0 and nu > 1"):
        PrecisionPrior(0, 5)
    with pytest.raises(OptionError, match=r"Priors\(fixef='normal'\)"):
        Priors(fixef="normal")
    with pytest.raises(OptionError, match=r"Horseshoe\(prop_0=1.0\): expected a share between 0 and 1"):
        PRIORS["horseshoe"](prop_0=1.0)
    with pytest.raises(OptionError, match=r"ThreeParameterBeta\(a=0\): expected a finite positive number"):
        PRIORS["tpb"](a=0)
    with pytest.raises(
        OptionError, match=r"SpikeSlab\(inclusion=\(1.0, -1.0\)\): expected two finite positive numbers"
    ):
        PRIORS["spike_slab"](inclusion=(1.0, -1.0))
    with pytest.raises(OptionError, match=r"HorseshoeEffects\(prop_0=0\): expected a share between 0 and 1"):
        FIXEF["horseshoe"](prop_0=0)


def test_three_parameter_beta_contains_the_horseshoe():
    """a = b = 1/2: the standard deviation of a loading is half-Cauchy."""
    scales = PRIORS["tpb"]().simulate(5000, 4, 20, np.random.default_rng(8))
    assert scipy.stats.kstest(scales.local.ravel() ** -0.5, scipy.stats.halfcauchy.cdf).pvalue > 1e-6


def test_precision_prior_in_words():
    """Shape nu - 1 and rate nu V: the mean of the variance is nu V / (nu - 2)."""
    prior = PrecisionPrior(V=0.5, nu=5)
    assert (prior.shape, prior.rate) == (4.0, 2.5)
    variance = scipy.stats.invgamma(prior.shape, scale=prior.rate).mean()
    assert variance == pytest.approx(5 * 0.5 / 3)
