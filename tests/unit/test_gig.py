import numpy as np
import pytest
import scipy.integrate
import scipy.stats

from slamglmm.errors import FitError
from slamglmm.linalg.gig import draw_gig

N = 10_000
ORDERS = [-400.0, -40.5, -3.0, -1.0, -0.5, -0.01, 0.0, 0.01, 0.5, 1.0, 2.5, 60.0, 900.0]
# sqrt(chi psi) and sqrt(chi / psi)
CONCENTRATIONS, SCALES = [1e-7, 1e-3, 0.05, 1.0, 30.0, 1e4], [1e-5, 1.0, 1e6]


def draw(order, concentration, scale):
    chi, psi = concentration * scale, concentration / scale
    rng = np.random.default_rng(list(f"{order} {concentration} {scale}".encode()))
    return draw_gig(np.full(N, order), np.full(N, chi), np.full(N, psi), rng)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("concentration", CONCENTRATIONS)
def test_law(order, concentration):
    """A wrong envelope in some corner (order near 0 with chi psi near 0, or very peaked).

    Kolmogorov-Smirnov of log x against the density integrated on a grid: scipy's own cdf fails at these corners.
    p > 1e-7 for each of 78 cases: one false alarm in 100 000 runs.
    """
    y = np.sort(np.log(draw(order, concentration, 1.0)))
    mode = np.arcsinh(order / concentration)

    def log_density(y):
        with np.errstate(over="ignore"):
            return order * (y - mode) - concentration * (np.cosh(y) - np.cosh(mode))

    low, high = mode, mode
    step = 0.01
    while log_density(low) > -45:
        low -= step
        step *= 1.2
    step = 0.01
    while log_density(high) > -45:
        high += step
        step *= 1.2
    grid = np.union1d(np.linspace(low, high, 20_001), np.linspace(max(low, y[0]), min(high, y[-1]), 20_001))
    cdf = scipy.integrate.cumulative_trapezoid(np.exp(log_density(grid)), grid, initial=0.0)
    assert scipy.stats.kstest(y, lambda t: np.interp(t, grid, cdf / cdf[-1])).pvalue > 1e-7


@pytest.mark.parametrize("order", [-3.0, -0.5, 0.0, 0.5, 2.5, 60.0])
@pytest.mark.parametrize("concentration", [0.05, 1.0, 30.0])
@pytest.mark.parametrize("scale", SCALES)
def test_against_scipy(order, concentration, scale):
    """The parametrisation: order, chi and psi in their places (p > 1e-7 for each of 54 cases)."""
    x = draw(order, concentration, scale)[:2000] / scale
    assert scipy.stats.kstest(x, scipy.stats.geninvgauss(order, concentration).cdf).pvalue > 1e-7


def test_elements_are_independent_of_their_neighbours():
    """Rejection rounds that write an accepted draw to the wrong element."""
    rng = np.random.default_rng(3)
    order, chi, psi = rng.uniform(-5, 5, 40), rng.uniform(0.1, 5, 40), rng.uniform(0.1, 5, 40)
    drawn = np.array([draw_gig(order, chi, psi, rng) for _ in range(4000)])
    logs = np.log(drawn)
    expected = [_mean_log(*parameters) for parameters in zip(order, chi, psi, strict=True)]
    z = (logs.mean(axis=0) - expected) / (logs.std(axis=0) / np.sqrt(4000))
    assert np.abs(z).max() < 5.2  # 1e-5 over 40
    assert np.abs(np.corrcoef(logs.T) - np.eye(40)).max() * np.sqrt(4000) < 5.8  # 1e-5 over 780


def _mean_log(order, chi, psi):
    y = np.linspace(-15.0, 15.0, 30_001)
    mass = np.exp(order * y - 0.5 * (psi * np.exp(y) + chi * np.exp(-y)))
    return y @ mass / mass.sum()


def test_no_elements():
    assert draw_gig(np.empty(0), np.empty(0), np.empty(0), np.random.default_rng(0)).shape == (0,)


@pytest.mark.parametrize("order", [-200.0, -45.0, -0.5, 0.0, 0.5, 3.0, 200.0])
@pytest.mark.parametrize(("chi", "psi"), [(0.0, 10.0), (1e-300, 10.0), (10.0, 0.0), (1e300, 1e300)])
def test_vanishing_parameters_are_survived(order, chi, psi):
    """A factor without loadings: an endless loop (this happened for order <= 0, p >= n), or a NaN."""
    with np.errstate(over="raise", invalid="raise", divide="raise"):
        x = draw_gig(np.full(200, order), np.full(200, chi), np.full(200, psi), np.random.default_rng(1))
    assert np.all(np.isfinite(np.log(x)))


def test_limits_are_gamma_and_inverse_gamma():
    """What the smallest parameters must lead to (p > 1e-6 each)."""
    three, nothing, ten, rng = np.full(N, 3.0), np.zeros(N), np.full(N, 10.0), np.random.default_rng(2)
    gamma, inverse = draw_gig(three, nothing, ten, rng), draw_gig(-three, ten, nothing, rng)
    assert scipy.stats.kstest(gamma, scipy.stats.gamma(3.0, scale=0.2).cdf).pvalue > 1e-6
    assert scipy.stats.kstest(inverse, scipy.stats.invgamma(3.0, scale=5.0).cdf).pvalue > 1e-6


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("position", [0, 1, 2])
def test_parameters_that_are_not_finite_raise(position, bad):
    """A NaN is never accepted: an endless loop."""
    parameters = [np.ones(3) for _ in range(3)]
    parameters[position][1] = bad
    with pytest.raises(FitError, match="no longer finite"):
        draw_gig(*parameters, np.random.default_rng(0))
