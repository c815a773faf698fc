import numpy as np
import pytest
import scipy.integrate
import scipy.stats

from slamglmm.linalg.truncated_normal import draw_truncated_normal, log_interval_probability

INF = np.inf
# Both sides of every branch: the middle, tails near and far, narrow intervals there, and their mirror images.
INTERVALS = [
    (-INF, INF), (-0.5, 0.3), (-1.0, INF), (0.0, INF), (0.01, 9.0), (2.0, 2.5), (7.5, INF), (8.0, 8.2), (20.0, 21.0),
    (29.9, 30.2), (30.1, INF), (36.0, 36.001), (39.0, INF), (80.0, 80.1), (1e4, INF), (-40.0, 1.0), (-1.0, 60.0),
]  # fmt: skip


def cdf(x, lower, upper):
    """Of the law truncated to the right of a positive `lower` or across zero, without cancellation."""
    if lower > 5:
        # Density ratio to the bound: exp(-(d^2 / 2 + lower d)), d = x - lower, integrated by log cdfs.
        top = scipy.stats.norm.logsf(lower)
        mass = -np.expm1(scipy.stats.norm.logsf(upper) - top)
        return -np.expm1(scipy.stats.norm.logsf(x) - top) / mass
    return scipy.stats.truncnorm(lower, upper).cdf(x)


@pytest.mark.parametrize(("lower", "upper"), INTERVALS)
@pytest.mark.parametrize("mirrored", [False, True])
def test_law(lower, upper, mirrored):
    """Kolmogorov-Smirnov, p > 1e-7 for each of 34 cases: one false alarm in 300 000 runs."""
    rng = np.random.default_rng([int(min(lower, 1e6)) % 997 if np.isfinite(lower) else 1, mirrored])
    bounds = (-upper, -lower) if mirrored else (lower, upper)
    drawn = draw_truncated_normal(np.full(20_000, bounds[0]), np.full(20_000, bounds[1]), rng)
    assert np.all((drawn >= bounds[0]) & (drawn <= bounds[1]))
    x = -drawn if mirrored else drawn
    assert scipy.stats.kstest(x, lambda t: cdf(t, lower, upper)).pvalue > 1e-7


def test_far_tail_is_exponential():
    """At 1e4 standard deviations the excess times 1e4 is exponential with rate one, to 1e-8."""
    drawn = draw_truncated_normal(np.full(20_000, 1e4), np.full(20_000, INF), np.random.default_rng(5))
    assert scipy.stats.kstest((drawn - 1e4) * 1e4, "expon").pvalue > 1e-6


def test_elements_have_their_own_bounds():
    rng = np.random.default_rng(6)
    lower = rng.normal(0, 20, 5000)
    upper = lower + rng.exponential(3.0, 5000)
    drawn = draw_truncated_normal(lower, upper, rng)
    assert np.all((drawn >= lower) & (drawn <= upper))
    # Positions within intervals are uniform on the scale of the cdf.
    inside = log_interval_probability(lower, drawn) - log_interval_probability(lower, upper)
    assert scipy.stats.kstest(np.exp(inside), "uniform").pvalue > 1e-6


def test_equal_bounds_and_no_elements():
    rng = np.random.default_rng(7)
    point = np.array([-50.0, -3.0, 0.0, 3.0, 50.0])
    np.testing.assert_array_equal(draw_truncated_normal(point, point, rng), point)
    assert draw_truncated_normal(np.empty(0), np.empty(0), rng).shape == (0,)


@pytest.mark.parametrize(("lower", "upper"), INTERVALS)
def test_probability(lower, upper):
    """Against the density integrated after its value at the nearer bound is taken out."""
    top = max(lower, 0.0)
    ends = (max(lower, -40.0), min(upper, top + 40.0 / max(top, 1.0)))
    area, _ = scipy.integrate.quad(
        lambda x: np.exp(-0.5 * (x - top) * (x + top)), *ends, epsabs=0.0, epsrel=1e-11, limit=500, points=[top]
    )
    exact = np.log(area) - 0.5 * top**2 - 0.5 * np.log(2 * np.pi)
    ours = log_interval_probability(np.array([lower, -upper]), np.array([upper, -lower]))
    np.testing.assert_allclose(ours, exact, rtol=1e-11, atol=1e-11)
