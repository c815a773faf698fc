"""What every link must do; a new one is tested by being registered."""

import numpy as np
import pytest

from slamglmm.links import LINKS
from tests.reference.dense import whitened_z


def holes(rng, p=4, n=9):
    data = rng.integers(1, 9, (p, n)).astype(float)
    data[0, [1, 5]] = data[2, 3:7] = np.nan
    return data


@pytest.mark.parametrize("name", LINKS)
def test_start_is_finite_and_leaves_the_data_alone(name):
    """A NaN left in a missing cell would spread through every step."""
    data = holes(np.random.default_rng(1))
    kept = data.copy()
    eta = LINKS[name]().start(data)
    assert np.array_equal(data, kept, equal_nan=True)
    assert eta.shape == data.shape
    assert np.all(np.isfinite(eta))


@pytest.mark.parametrize("name", LINKS)
def test_draw_updates_its_cells_only(name):
    rng = np.random.default_rng(2)
    link, data = LINKS[name](), holes(rng)
    eta = link.start(data)
    before, cells = eta.copy(), np.isnan(data)
    link.draw(eta, cells, rng.standard_normal(data.shape), np.full(4, 2.0), rng)
    assert np.array_equal(eta[~cells], before[~cells])
    assert np.all(eta[cells] != before[cells])
    link.draw(eta, np.zeros_like(cells), np.zeros_like(data), np.full(4, 2.0), rng)


@pytest.mark.parametrize("name", LINKS)
def test_cells_without_data_follow_the_model(name):
    """N(mean, 1 / precision of the trait), independent: whatever the link, a missing cell says nothing.

    |z| < 5 for 27 moments: one false alarm in 60 000 runs.
    """
    rng = np.random.default_rng(3)
    link, data = LINKS[name](), holes(rng)
    eta, cells = link.start(data), np.isnan(data)
    mean, prec = rng.standard_normal(data.shape), np.array([0.5, 1.0, 4.0, 2.0])
    drawn = np.empty((20_000, cells.sum()))
    for row in drawn:
        link.draw(eta, cells, mean, prec, rng)
        row[:] = eta[cells]
    variance = np.broadcast_to(1 / prec[:, None], data.shape)[cells]
    assert np.abs(whitened_z(drawn, mean[cells], np.diag(variance))).max() < 5.0


def test_identity_starts_at_the_mean():
    data = holes(np.random.default_rng(4))
    eta = LINKS["identity"]().start(data)
    seen = ~np.isnan(data)
    assert np.array_equal(eta[seen], data[seen])
    np.testing.assert_allclose(eta[2, 3:7], np.nanmean(data[2]))
