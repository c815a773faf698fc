"""What every prior on the loadings must do; a new one is tested by being registered."""

import dataclasses

import numpy as np
import pytest
import scipy.stats

from slamglmm.errors import OptionError
from slamglmm.priors import FIXEF, PRIORS, PrecisionPrior, Priors, VarianceComponents, prior_masses, share_grid

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


# What no number, pair or switch of a prior may be; every one of them is positive.
IMPOSSIBLE = {
    "float": ["a", None, True, (1.0,), np.array([1.0, 2.0]), np.nan, np.inf, 0, -1.0],
    "int": ["a", None, True, (1,), np.nan, np.inf, 0, -1, 1.5, 2.0],
    "tuple[float, float]": ["ab", None, 3.0, (1.0,), (1.0, 1.0, 1.0), ("a", 1.0), (-1, 1), (1, -1), (0, 1), (1, np.nan),
                            (np.inf, 1), [[1.0, 1.0]], [[1.0], 2.0]],
    "float | Mapping[str, float]": ["a", None, True, np.nan, np.inf, 0, -1.0, {}, {"g": 0, "Residual": 1}, {"g": "a"}],
    "bool": ["a", None, 2, 1.0],
}  # fmt: skip
PARTS = [*PRIORS.values(), *FIXEF.values(), PrecisionPrior, VarianceComponents]
FIELDS = [pytest.param(part, f, id=f"{part.__name__}.{f.name}") for part in PARTS for f in dataclasses.fields(part)]


def valid(part):
    """Values of the fields that have no default."""
    needed = [f.name for f in dataclasses.fields(part) if f.default is dataclasses.MISSING]
    return dict.fromkeys(needed, 2.0)


@pytest.mark.parametrize(("part", "field"), FIELDS)
def test_impossible_numbers_are_refused_when_a_prior_is_made(part, field):
    """Of every field of every prior, by its kind: a new prior is covered by being registered."""
    part(**valid(part))
    for value in IMPOSSIBLE[field.type]:
        with pytest.raises(OptionError, match=rf"{part.__name__}\(.*{field.name}=.*expected ") as caught:
            part(**(valid(part) | {field.name: value}))
        assert len(str(caught.value)) < 300


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"fixef": 3}, "Priors.fixef=3.: expected a name or an instance, got int. Choose one of 'flat', 'horseshoe'"),
        ({"loadings": 3}, "Priors.loadings=3.: expected a name or an instance, got int. Choose one of 'horseshoe'"),
        ({"loadings": PRIORS["horseshoe"]}, r"got the class itself. Write loadings=Horseshoe\(\)"),
        ({"fixef": FIXEF["shared"]}, r"got the class itself. Write fixef=SharedEffects\(\)"),
        ({"residual": 3}, r"residual=3.: expected slamglmm.PrecisionPrior\(V, nu\) or slamglmm.VarianceComponents"),
        ({"residual": "a"}, r"residual='a'.: expected slamglmm.PrecisionPrior\(V, nu\)"),
        ({"factor": 3}, r"factor=3.: expected slamglmm.PrecisionPrior\(V, nu\)"),
        ({"factor": VarianceComponents(1, 1)}, r"factor=VarianceComponents\(.*expected slamglmm.PrecisionPrior"),
        ({"loading_effects": None}, r"loading_effects=None.: expected slamglmm.PrecisionPrior\(V, nu\)"),
        ({"cis": True}, "cis=True.: expected a positive variance"),
        ({"h2": "beta"}, "Priors.h2='beta'.: expected 'uniform', 'spike', a callable density or an array of masses"),
        ({"h2": 3}, "Priors.h2=3.: expected 'uniform', 'spike'"),
        ({"h2_factors": ["a", "b"]}, "Priors.h2_factors=.*: expected 'uniform', 'spike'"),
        ({"h2": [[1.0], 2.0]}, "Priors.h2=.*: expected 'uniform', 'spike'"),
    ],
)
def test_impossible_priors_are_refused_when_they_are_made(options, text):
    with pytest.raises(OptionError, match=text):
        Priors(**options)


@pytest.mark.parametrize(
    ("density", "text"),
    [
        (lambda shares: 1 / 0, r"the callable failed with ZeroDivisionError: .* an array of shape \(21, 1\)"),
        (lambda shares, more: shares, "the callable failed with TypeError"),
        (lambda shares: shares[:3], "expected 21 masses, one for each grid point of 1 variance share.s., got 3"),
        (lambda shares: np.ones((21, 2)), "expected 21 masses.*got 42"),
        (lambda shares: None, "the callable returned None: expected 21 numbers"),
        (lambda shares: "a", "the callable returned 'a': expected 21 numbers"),
        (lambda shares: np.nan * shares, r"masses must be finite.*that of the shares \[0.0\] is nan"),
        (lambda shares: 0.5 - shares, r"masses must be finite, not negative.*that of the shares \[0.55\] is -"),
        (lambda shares: 0 * shares, "not all zero; they sum to 0"),
        (lambda shares: np.full(len(shares), np.inf), "masses must be finite"),
    ],
)
def test_densities_that_are_none(density, text):
    """What a callable returns is looked at once the grid is known."""
    with pytest.raises(OptionError, match=rf"Priors\(h2=...\): .*{text}"):
        prior_masses(density, share_grid(1, 20, include_one=True))


def test_a_density_cannot_change_the_grid():
    grid = share_grid(1, 20)
    before = grid.shares.copy()

    def density(shares):
        shares[:] = 0.5
        return np.ones(len(shares))

    prior_masses(density, grid)
    assert np.array_equal(grid.shares, before)


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
