"""Draws of probit, ordinal and censored links against their laws, their limits, and what they refuse."""

import numpy as np
import pandas as pd
import pytest
import scipy.stats

from slamglmm.diagnostics import diagnose
from slamglmm.errors import DataError, OptionError
from slamglmm.linalg.fixed_part import FixedPart
from slamglmm.linalg.truncated_normal import log_interval_probability
from slamglmm.links import Censored, Identity, Measurements, Ordinal, Probit

INF = np.inf


def measurements(values, offset=0.0):
    values = np.atleast_2d(np.asarray(values, dtype=float))
    frame = pd.DataFrame(values.T, columns=[f"t{j}" for j in range(len(values))])
    n = len(frame)
    return Measurements(frame, np.full(n, offset), np.arange(n), n, FixedPart.constant(n))


def test_cut_points_have_their_posterior():
    """Four categories given mu: moments of the cut points against a grid; |z| < 4.5 for five."""
    rng, n, sd, prior_sd = np.random.default_rng(1), 60, 0.8, 2.0
    mean = rng.standard_normal(n)
    y = np.searchsorted([0.0, 0.6, 1.4], mean + sd * rng.standard_normal(n))
    likelihood = Ordinal(categories=range(4), cut_sd=prior_sd).prepare(measurements(y))
    grid = np.linspace(0.0, 5.0, 501)[1:]

    def fit(category, lower, upper):
        x = mean[y == category]
        return log_interval_probability((lower - x) / sd, (upper - x) / sd).sum()

    log_mass = np.full((500, 500), -INF)
    first, last = [fit(1, 0.0, a) for a in grid], [fit(3, b, INF) for b in grid]
    for i, a in enumerate(grid[:300]):
        for j in range(i + 1, 500):
            log_mass[i, j] = first[i] + fit(2, a, grid[j]) + last[j] - 0.5 * (a**2 + grid[j] ** 2) / prior_sd**2
    mass = np.exp(log_mass - log_mass.max())
    mass /= mass.sum()
    a, b = grid[:, None], grid[None, :]
    expected = [np.sum(mass * v) for v in (a, b, a**2, b**2, a * b)]
    parameters, eta = likelihood.start_parameters(), likelihood.start.copy()
    drawn = np.empty((6000, 2))
    for row in drawn:
        likelihood.draw(eta, mean[None].copy(), np.array([1 / sd**2]), parameters, slice(0, 1), rng)
        row[:] = parameters["cuts"][0, 1:]
    x, z = drawn.T
    seen = np.column_stack((x, z, x**2, z**2, x * z))[500:]
    table = diagnose(seen[None], pd.RangeIndex(5))
    assert np.abs((table["mean"] - expected) / table["mcse"]).max() < 4.5
    assert table["ess_bulk"].min() > 400


@pytest.mark.parametrize("mu", [-3.0, 0.4, 6.0])
def test_eta_lies_in_its_category_with_the_law_of_the_model(mu):
    """Kolmogorov-Smirnov in each of four categories, p > 1e-6."""
    rng, sd = np.random.default_rng(2), 0.7
    likelihood = Ordinal(categories=[1, 2, 3, 7]).prepare(measurements([1, 2, 3, 7]))
    parameters = {"cuts": np.array([[0.0, 0.5, 1.5]])}
    drawn = np.empty((5000, 4))
    for row in drawn:
        # The cut points stay: a walk with steps of zero.
        likelihood.steps[:] = 0.0
        likelihood.draw(row[None], np.full((1, 4), mu), np.array([1 / sd**2]), parameters, slice(0, 1), rng)
    edges = np.array([-INF, 0.0, 0.5, 1.5, INF])
    for c in range(4):
        law = scipy.stats.truncnorm((edges[c] - mu) / sd, (edges[c + 1] - mu) / sd, mu, sd)
        assert scipy.stats.kstest(drawn[:, c], law.cdf).pvalue > 1e-6
    np.testing.assert_allclose(parameters["cuts"], [[0.0, 0.5, 1.5]], rtol=1e-12)


def test_probit_is_ordinal_with_two_categories():
    y = np.array([[0, 1, 1, 0, np.nan, 1.0], [1, 0, np.nan, 0, 1, 1]])
    first, second = Probit().prepare(measurements(y)), Ordinal().prepare(measurements(y))
    third = Ordinal().prepare(measurements(y + 4))
    for name in ("start", "known", "informative", "base_coef", "scale", "codes"):
        assert np.array_equal(getattr(first, name), getattr(second, name)), name
        assert np.array_equal(getattr(second, name), getattr(third, name)), name
    eta = [np.zeros((2, 6)) for _ in range(3)]
    for likelihood, values in zip((first, second, third), eta, strict=True):
        assert likelihood.start_parameters() == {}
        likelihood.draw(values, np.zeros((2, 6)), np.ones(2), {}, slice(0, 2), np.random.default_rng(3))
    assert np.array_equal(eta[0], eta[1])
    assert np.array_equal(eta[1], eta[2])


def test_traits_with_different_numbers_of_categories():
    """Padding: each trait's cut points are those it has alone, with the same noise."""
    rng = np.random.default_rng(4)
    y = np.array([rng.integers(0, k, 40) for k in (2, 5, 3)])
    likelihood = Ordinal().prepare(measurements(y))
    assert list(likelihood.n_cuts) == [1, 4, 2]
    cuts = likelihood.start_parameters()["cuts"]
    assert np.array_equal(np.isinf(cuts).sum(axis=1), [3, 0, 2])
    for j in range(3):
        alone = Ordinal().prepare(measurements(y[j]))
        np.testing.assert_array_equal(alone.start, likelihood.start[[j]])
        np.testing.assert_array_equal(alone.start_cuts[0], likelihood.start_cuts[j, : likelihood.n_cuts[j]])
        parameters, eta, own = {"cuts": cuts.copy()}, np.zeros((1, 40)), np.zeros((1, 40))
        likelihood.draw(eta, np.zeros((1, 40)), np.ones(1), parameters, slice(j, j + 1), np.random.default_rng(j))
        single = alone.start_parameters()
        alone.draw(own, np.zeros((1, 40)), np.ones(1), single, slice(0, 1), np.random.default_rng(j))
        np.testing.assert_array_equal(eta, own)


def test_thresholds_refuse():
    def refused(link, values, message, error=DataError, offset=0.0):
        with pytest.raises(error, match=message):
            link.prepare(measurements(values, offset))

    refused(Probit(), [0, 1, 2, 2], r"probit: expected 0 and 1, got 2 for 't0' in row 2 \(counted from 0\), and 1 more")
    refused(Probit(), [1, 1, np.nan, 1], "trait 't0': the same value in all rows")
    refused(Ordinal(), [1, 2.5, 3], r"ordinal: expected whole numbers, got 2.5 for 't0' in row 1")
    refused(Ordinal(), [2, 2, 2], "trait 't0': one category")
    refused(Ordinal(categories=[1, 2, 3]), [1, 2, 4], r"trait 't0': '4' not among categories=\[1, 2, 3\]")
    refused(Ordinal(), [1, 2, 3], "categories have thresholds of their own", OptionError, 1.0)
    with pytest.raises(OptionError, match="at least two integers in increasing order"):
        Ordinal(categories=[2, 1])
    with pytest.raises(OptionError, match=r"Ordinal\(cut_sd=0\): expected a finite positive number"):
        Ordinal(cut_sd=0)
    with pytest.raises(DataError, match=r"categories '5\.0' were not among the '1\.0', '2\.0' of the fit"):
        Ordinal().prepare(measurements([1, 2, 1])).with_data(np.array([[1.0, 2.0, 5.0]]))


# ---- censored -------------------------------------------------------------------------------------------------------


def test_censored_cells_lie_between_their_bounds():
    """Left of a limit, right of one, in an interval, below and above a bound, missing: Kolmogorov-Smirnov, p > 1e-6."""
    rng, sd, mu = np.random.default_rng(5), 0.6, 0.3
    y = [-1.0, 2.0, 0.1, np.nan, 0.7, 0.2, np.nan]
    upper = np.array([np.nan, np.nan, 0.4, -0.2, INF, 0.2, np.nan])
    likelihood = Censored(left=-0.5, right=1.0, upper=upper).prepare(measurements(y))
    bounds = [(-INF, -0.5), (1.0, INF), (0.1, 0.4), (-INF, -0.2), (0.7, INF), (0.2, 0.2), (-INF, INF)]
    np.testing.assert_array_equal(np.column_stack((likelihood.lower[0], likelihood.upper[0])), bounds)
    np.testing.assert_array_equal(likelihood.known[0], [False] * 5 + [True, False])
    np.testing.assert_array_equal(likelihood.informative[0], [True] * 6 + [False])
    eta = np.full((1, 7), 9.0)
    drawn = np.empty((5000, 7))
    for row in drawn:
        likelihood.draw(eta, np.full((1, 7), mu), np.array([1 / sd**2]), {}, slice(0, 1), rng)
        row[:] = eta
    assert np.all(drawn[:, 5] == 9.0)
    for c in (0, 1, 2, 3, 4, 6):
        law = scipy.stats.truncnorm(*((b - mu) / sd for b in bounds[c]), mu, sd)
        assert scipy.stats.kstest(drawn[:, c], law.cdf).pvalue > 1e-6


def test_limits_out_of_reach_are_the_identity_and_narrow_intervals_go_there():
    rng = np.random.default_rng(6)
    y = rng.standard_normal((2, 8))
    y[0, 3] = np.nan
    far, identity = Censored(left=-99.0).prepare(measurements(y, 0.5)), Identity().prepare(measurements(y, 0.5))
    for name in ("start", "known", "informative", "base_coef", "scale"):
        np.testing.assert_allclose(getattr(far, name), getattr(identity, name), err_msg=name)
    narrow = Censored(upper=(y + 1e-9).T).prepare(measurements(y))
    assert not narrow.known.any()
    eta = np.zeros((2, 8))
    narrow.draw(eta, np.full((2, 8), 3.0), np.ones(2), {}, slice(0, 2), rng)
    seen = ~np.isnan(y)
    np.testing.assert_allclose(eta[seen], y[seen], atol=1.1e-9)


def test_limits_by_trait_row_and_cell():
    y = np.array([[1.0, 2.0, 3.0], [1.0, 2.0, 3.0]])
    by_trait = Censored(right={"t1": 2.0}).prepare(measurements(y))
    np.testing.assert_array_equal(by_trait.known, [[True, True, True], [True, False, False]])
    by_row = Censored(right=np.array([0.5, 5.0, 5.0])).prepare(measurements(y))
    np.testing.assert_array_equal(by_row.known, [[False, True, True]] * 2)
    by_cell = Censored(right=pd.DataFrame({"t0": [5.0, 5, 5], "t1": [5.0, 1, 5]})).prepare(measurements(y))
    np.testing.assert_array_equal(by_cell.known, [[True, True, True], [True, False, True]])
    # Where a limit is all there is, the chain starts at the limit.
    np.testing.assert_array_equal(by_cell.start[1], [1.0, 1.0, 3.0])
    assert list(pd.Series(by_trait.traits)) == ["t0", "t1"]


def test_censored_refuses():
    def refused(message, error, values=(1.0, 2.0, 3.0), **options):
        with pytest.raises(error, match=message):
            Censored(**options).prepare(measurements(values))

    refused("nothing is censored", OptionError)
    refused(r"left=2 is not below right=1 for 't0' in row 0 \(counted from 0\)", OptionError, left=2, right=1)
    refused("left= names 'weight', not among 't0'", OptionError, left={"weight": 1.0})
    refused(
        r"the interval of 't0' in row 1 \(counted from 0\) goes from 2 to 1, and 0 more", DataError, upper=[1, 1, 4.0]
    )
    refused("'t0' are constant", DataError, left=9.0)
    refused(r"upper: expected a number, 3 numbers", OptionError, upper=[1.0, 2.0])
