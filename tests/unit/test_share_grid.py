"""The grid of variance shares and the priors on it."""

import numpy as np
import pytest
from scipy.spatial import ConvexHull

from slamglmm.errors import OptionError
from slamglmm.priors import prior_masses, share_grid
from slamglmm.priors.h2_grid import MAX_DIRECTIONS, simplex_lattice


@pytest.mark.parametrize("n_effects", [0, 1, 2, 3, 4, 5])
@pytest.mark.parametrize("divisions", [2, 5, 20])
@pytest.mark.parametrize("include_one", [False, True])
def test_points(n_effects, divisions, include_one):
    """A total that is missing, doubled or not reached; h = 0 more than once; cells that do not sum to one."""
    grid = share_grid(n_effects, divisions, include_one)
    totals = grid.shares.sum(axis=1)
    assert grid.cell.sum() == pytest.approx(1.0, abs=1e-14)
    assert np.all(grid.cell > 0)
    assert len(np.unique(grid.shares.round(12), axis=0)) == len(grid.shares)
    assert np.sum(totals == 0) == 1
    if n_effects == 0:
        assert grid.shares.shape == (1, 0)
        return
    last = divisions if include_one else divisions - 1
    np.testing.assert_allclose(np.unique(totals.round(12)), np.arange(last + 1) / divisions, atol=1e-12)
    np.testing.assert_allclose(grid.shares, totals[:, None] * grid.directions[grid.ray], atol=1e-15)
    np.testing.assert_allclose(grid.directions.sum(axis=1), 1.0, atol=1e-15)
    expected = {1: 1, 2: divisions + 1}
    if n_effects in expected:
        assert len(grid.directions) == expected[n_effects]
    assert len(grid.directions) <= MAX_DIRECTIONS
    assert len(grid.cell) == 1 + last * len(grid.directions)
    assert grid.residual_share.min() == pytest.approx(1 - last / divisions, abs=1e-15)


def test_no_rounding_at_the_ends():
    """A residual share of -1e-16 at t = 1, or 1e-17 left at h = 0, would break exact comparisons."""
    for n_effects in (1, 2, 3):
        for divisions in range(2, 41):
            grid = share_grid(n_effects, divisions, True)
            totals = grid.shares.sum(axis=1)
            assert grid.residual_share[0] == 1.0
            assert np.all(grid.residual_share[totals < 0.999] > 0)
            assert np.abs(grid.residual_share[totals > 0.999]).max() < 5e-16
            assert grid.residual_share.min() >= 0.0


@pytest.mark.parametrize("include_one", [False, True])
def test_one_effect_has_equal_weights(include_one):
    """The specification of a plain grid: no half cells at the ends."""
    assert np.array_equal(share_grid(1, 20, include_one).cell, np.full(20 + include_one, 1 / (20 + include_one)))


@pytest.mark.parametrize("divisions", [2, 4, 7])
@pytest.mark.parametrize("include_one", [False, True])
def test_two_effects_are_uniform_on_the_triangle(divisions, include_one):
    """Each cell's weight is its area: totals and directions within half a step, cut to [0, 1], as polygons."""
    grid = share_grid(2, divisions, include_one)
    half = 0.5 / divisions
    areas = []
    for shares in grid.shares:
        total = shares.sum()
        if total == 0:
            corners = [(0, 0), (half, 0), (0, half)]
        else:
            low, high = total - half, min(total + half, 1.0)
            a = shares[0] / total
            first, last = max(a - half, 0.0), min(a + half, 1.0)
            corners = [(t * d, t * (1 - d)) for t in (low, high) for d in (first, last)]
        areas.append(ConvexHull(corners).volume)
    np.testing.assert_allclose(grid.cell, np.array(areas) / np.sum(areas), rtol=1e-9)
    if include_one:
        assert np.sum(areas) == pytest.approx(0.5, abs=1e-12)


@pytest.mark.parametrize("n_effects", [2, 3])
def test_uniform_prior_has_the_moments_of_the_simplex(n_effects):
    """E h_m = 1 / (R + 2) at R = 2 (Dirichlet of ones with R + 1 parts); weights by direction alone would miss it."""
    grid = share_grid(n_effects, 40, include_one=True)
    np.testing.assert_allclose(grid.cell @ grid.shares, 1 / (n_effects + 1), rtol=0.01)
    second = 2.0 / ((n_effects + 1) * (n_effects + 2))
    np.testing.assert_allclose(grid.cell @ grid.shares**2, second, rtol=0.03)


def test_three_effects_by_monte_carlo():
    """Weights of the cells of three effects against the share of uniform points nearest to them (direction, total).

    One false alarm in 10 000: |z| below 5 for each of the directions' sums.
    """
    grid = share_grid(3, 4, include_one=True)
    rng, N = np.random.default_rng(1), 200_000
    points = rng.dirichlet(np.ones(4), N)[:, :3]
    total = points.sum(axis=1)
    # Nearest direction in the plane of the simplex: hexagons around the lattice, halves and sixths at its border.
    a = points / total[:, None]
    nearest = np.argmin(((a[:, None] - grid.directions) ** 2).sum(axis=2), axis=1)
    shell = np.round(total * 4).astype(int)
    for t in range(1, 5):
        inside = shell == t
        counts = np.bincount(nearest[inside], minlength=len(grid.directions))
        at = np.abs(grid.shares.sum(axis=1) - t / 4) < 1e-9
        expected = grid.cell[at] * N
        z = (counts - expected) / np.sqrt(expected)
        assert np.abs(z).max() < 5.2, (t, np.abs(z).max())


def test_lattice():
    points = simplex_lattice(3, 2)
    assert sorted(map(tuple, points)) == sorted(
        [(1, 0, 0), (0, 1, 0), (0, 0, 1), (0.5, 0.5, 0), (0.5, 0, 0.5), (0, 0.5, 0.5)]
    )


# ---- masses ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n_effects", [1, 2])
def test_named_masses(n_effects):
    grid = share_grid(n_effects, 5)
    assert np.array_equal(prior_masses("uniform", grid), grid.cell / grid.cell.sum())
    spike = prior_masses("spike", grid)
    assert spike[0] == pytest.approx(0.5)
    np.testing.assert_allclose(spike[1:], 0.5 * grid.cell[1:] / grid.cell[1:].sum())
    assert prior_masses("spike", share_grid(0, 5)) == [1.0]


def test_a_density_is_weighted_by_its_cells():
    """A callable is a density of the shares, not a list of masses."""
    grid = share_grid(2, 5)
    masses = prior_masses(lambda h: 2.0 + h[:, 0], grid)
    np.testing.assert_allclose(masses, (2.0 + grid.shares[:, 0]) * grid.cell / ((2.0 + grid.shares[:, 0]) @ grid.cell))


def test_an_array_is_the_masses():
    grid = share_grid(1, 4)
    given = np.array([3.0, 0.0, 1.0, 0.0])
    assert np.array_equal(prior_masses(given, grid), given / 4)
    assert np.array_equal(given, [3.0, 0.0, 1.0, 0.0])


@pytest.mark.parametrize(
    ("prior", "message"),
    [
        ("flat", r"Priors\(h2='flat'\): expected 'uniform', 'spike', a callable density or an array of masses"),
        (np.ones(5), r"Priors\(h2=...\): expected 4 masses, one for each grid point of 1 variance share\(s\), got 5"),
        (lambda h: np.ones(3), r"expected 4 masses.*got 3.*a callable receives them as an array \(points × effects\)"),
        ([1, 1, -1, 1], r"masses must be finite, not negative and not all zero"),
        ([1, 1, np.nan, 1], r"masses must be finite"),
        (lambda h: 0 * h, r"not all zero"),
        (lambda h: h[:, 0] / (h[:, 0] - 0.5), r"finite"),
    ],
)
@pytest.mark.filterwarnings("ignore:divide by zero:RuntimeWarning")
def test_messages(prior, message):
    with pytest.raises(OptionError, match=message):
        prior_masses(prior, share_grid(1, 4), "h2")


def test_the_message_names_the_argument():
    with pytest.raises(OptionError, match=r"Priors\(h2_factors=\.\.\.\)"):
        prior_masses(np.ones(2), share_grid(1, 4), "h2_factors")
