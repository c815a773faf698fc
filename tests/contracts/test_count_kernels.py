"""The kernels of counts equal their twins, and draw from the density they are meant for."""

import math

import numpy as np
import pytest
import scipy.stats

from slamglmm._kernels import counts as kernels
from slamglmm.errors import FitError
from slamglmm.links.counts import NegativeBinomialLikelihood
from slamglmm.links.log_concave import draw_cells
from tests.reference import counts as twin

SHAPES = [(0, 3), (1, 1), (3, 17), (5, 40)]
pytestmark = pytest.mark.timeout(120, method="thread")


def problem(shape, seed):
    rng = np.random.default_rng([seed, *shape])
    y = rng.poisson(np.exp(rng.uniform(-2, 6, shape))).astype(float)
    return {
        "y": y,
        "size": y + rng.gamma(1.0, 5.0, shape),
        "offset": np.broadcast_to(rng.standard_normal(shape[1]), shape),
        "mean": 3 * rng.standard_normal(shape),
        "prec": np.exp(rng.uniform(-6, 6, shape[0])),
    }


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", ["draw_poisson_eta", "draw_binomial_eta"])
def test_draws_equal_the_twin(name, shape):
    """The same cells accepted, the same values, the rejected ones in front."""
    given = problem(shape, 1)
    if "poisson" in name:
        del given["size"]
    rng = np.random.default_rng(2)
    cells = rng.permutation(shape[0] * shape[1])[: max(1, shape[0] * shape[1] - 2)]
    if shape[0] == 0:
        cells = cells[:0]
    noise = rng.random(len(cells)), rng.standard_exponential(len(cells))
    results = []
    for module in (kernels, twin):
        pending, eta = cells.astype(np.intp), np.full(shape, np.nan)
        left = getattr(module, name)(*given.values(), pending, *noise, eta)
        results.append((left, pending[:left], eta))
    assert results[0][0] == results[1][0]
    np.testing.assert_array_equal(results[0][1], results[1][1])
    np.testing.assert_allclose(results[0][2], results[1][2], rtol=1e-7, atol=1e-7)
    assert np.isfinite(results[0][2]).sum() == len(cells) - results[0][0]


@pytest.mark.parametrize("shape", SHAPES)
def test_likelihood_of_the_dispersion_equals_the_twin(shape):
    """Differences between shapes: the kernel leaves out what has no shape in it."""
    given = problem(shape, 3)
    y = np.where(np.random.default_rng(4).random(shape) < 0.2, np.nan, given["y"])
    shapes = np.exp(np.random.default_rng(5).uniform(-3, 6, (shape[0], 3)))
    ours, theirs = np.empty_like(shapes), np.empty_like(shapes)
    kernels.sum_negative_binomial(y, given["mean"], shapes, ours)
    twin.sum_negative_binomial(y, given["mean"], shapes, theirs)
    np.testing.assert_allclose(np.diff(ours), np.diff(theirs), rtol=1e-9, atol=1e-8)


@pytest.mark.parametrize("y", [0, 1, 2, 14, 15, 16, 17, 18, 40])
def test_likelihood_of_one_count_by_hand(y):
    """Few counts are a product, from 16 on Stirling's series: both sides of where they meet."""
    shapes = np.array([[0.03, 0.7, 1.0, 4.0, 15.5, 16.0, 300.0]])
    mean, ours = 2.5, np.empty_like(shapes)
    kernels.sum_negative_binomial(np.array([[float(y)]]), np.log([[mean]]), shapes, ours)
    rising = [sum(math.log(r + k) for k in range(y)) for r in shapes[0]]
    expected = [g + r * math.log(r) - (y + r) * math.log(r + mean) for g, r in zip(rising, shapes[0], strict=True)]
    np.testing.assert_allclose(np.diff(ours[0]), np.diff(expected), rtol=1e-11, atol=1e-11)


# (y, size or None for Poisson, offset, mean, precision): few and many counts, tight and hardly any model.
LAWS = [
    (0, None, 0.0, 0.0, 1.0),
    (3, None, 1.0, -1.0, 0.3),
    (1e5, None, 11.0, 0.0, 0.5),
    (0, None, 0.0, 0.0, 1e-6),
    (5, None, 0.0, 40.0, 2.0),
    (40, None, -200.0, 0.0, 1e-3),
    (0, 1, 0.0, 0.0, 0.01),
    (1, 1, 0.0, -40.0, 1.0),
    (3, 10, -1.0, 0.0, 1e3),
    (0, 0.1, 0.0, 0.0, 1e-4),
    (1e5, 1e5 + 3, 0.0, 0.0, 0.2),
    (7, 50.0, 0.0, 30.0, 0.1),
]


def thresholds_by_bisection(attempt, data, mean, prec, u):
    """The exponential from which each cell of one row is accepted, found by trying."""
    low, high = np.full(len(u), -1.0), np.full(len(u), 1e4)
    for _ in range(60):
        e, eta = 0.5 * (low + high), np.full((1, len(u)), np.nan)
        attempt(*data, mean, prec, np.arange(len(u)), u, e, eta)
        accepted = np.isfinite(eta[0])
        low, high = np.where(accepted, low, e), np.where(accepted, e, high)
    return high


@pytest.mark.parametrize("law", LAWS)
def test_acceptance_bounds_are_those_of_the_twin(law):
    """A bound a thousandth off biases every draw by less than any test of draws can see."""
    y, size, offset, mean, prec = law
    u = np.concatenate(([1e-9, 1e-4], np.linspace(0.004, 0.996, 63), [1 - 1e-4, 1 - 1e-9]))
    shape = (1, len(u))
    data = (np.full(shape, float(y)), np.full(shape, offset))
    attempt, cumulant = kernels.draw_poisson_eta, twin.poisson_cumulant
    if size is not None:
        data, attempt = (data[0], np.full(shape, float(size)), data[1]), kernels.draw_binomial_eta
        cumulant = twin.binomial_cumulant
    ours = thresholds_by_bisection(attempt, data, np.full(shape, mean), np.array([prec]), u)
    theirs = np.array([twin.propose(cumulant, y, size, mean + offset, prec, one)[1] for one in u])
    assert theirs.max() > 0.1
    np.testing.assert_allclose(ours, theirs, rtol=1e-7, atol=1e-7)
    assert ours.min() >= -1e-7  # the envelope is nowhere below the density


@pytest.mark.parametrize("law", LAWS)
def test_draws_follow_the_density(law):
    """Probability transforms of 30 000 draws by numerical integration: Kolmogorov-Smirnov, 1 in 10 000 each."""
    y, size, offset, mean, prec = law
    N, rng = 30_000, np.random.default_rng(list(repr(law).encode()))
    shape = (1, N)
    data = (np.full(shape, float(y)), np.full(shape, offset))
    attempt = kernels.draw_poisson_eta
    if size is not None:
        data, attempt = (data[0], np.full(shape, float(size)), data[1]), kernels.draw_binomial_eta
    eta = np.empty(shape)
    draw_cells(attempt, data, np.ones(shape, dtype=bool), eta, np.full(shape, mean), np.array([prec]), rng)
    low, high = eta.min(), eta.max()
    grid = np.linspace(low - 0.5 * (high - low), high + 0.5 * (high - low), 200_001)
    t = grid + offset
    cumulant = np.exp(np.minimum(t, 700.0)) if size is None else size * np.logaddexp(0.0, t)
    log_density = y * t - cumulant - 0.5 * prec * (grid - mean) ** 2
    density = np.exp(log_density - log_density.max())
    mass = np.concatenate(([0.0], np.cumsum(density[1:] + density[:-1])))
    assert scipy.stats.kstest(np.interp(eta[0], grid, mass / mass[-1]), "uniform").pvalue > 1e-4


def test_a_mean_that_is_not_finite_is_refused():
    one = np.ones((1, 2))
    with pytest.raises(FitError, match=r"1 latent count\(s\) could not be drawn.*first: mean nan"):
        draw_cells(
            kernels.draw_poisson_eta,
            (one, one),
            one > 0,
            one.copy(),
            np.array([[0.0, np.nan]]),
            np.ones(1),
            np.random.default_rng(1),
        )


def test_steps_of_the_dispersion_follow_its_law():
    """A chain of steps given eta against the density on a grid: its mean and spread at 4 Monte Carlo errors."""
    rng = np.random.default_rng(6)
    n, copies = 40, 400
    log_mean = np.tile(rng.normal(1.5, 0.5, n), (copies, 1))
    y = np.tile(rng.poisson(np.exp(log_mean[0]) * rng.gamma(2.0, 0.5, n)).astype(float), (copies, 1))
    y[:, :3] = np.nan
    blank = np.zeros(1)
    law = NegativeBinomialLikelihood(
        *((), blank, blank, blank, blank, blank, blank, blank, blank), sampled=True, prior=(0.2, 1.5)
    )
    grid = np.linspace(-9, 4, 4001)
    density = np.empty((1, len(grid)))
    twin.sum_negative_binomial(y[:1], log_mean[:1], np.exp(-grid)[None], density)
    density = density[0] - 0.5 * ((grid - np.log(0.2)) / 1.5) ** 2
    mass = np.exp(density - density.max())
    mass /= mass.sum()
    mean = mass @ grid
    sd = np.sqrt(mass @ (grid - mean) ** 2)
    # Each copy starts at an exact draw, so it stays one.
    dispersion = np.exp(rng.choice(grid, copies, p=mass))
    drawn = np.empty((60, copies))
    for row in drawn:
        for _ in range(5):
            law._move_dispersion(dispersion, y, log_mean, rng)
        row[:] = np.log(dispersion)
    means, squares = drawn.mean(axis=0), ((drawn - mean) ** 2).mean(axis=0)
    assert np.ptp(drawn, axis=0).min() > 0.5 * sd
    for values, expected in ((means, mean), (squares, sd**2)):
        assert abs(values.mean() - expected) < 4 * values.std() / np.sqrt(copies)
