"""Bases of curves: what formulaic does not have."""

import numpy as np
import pandas as pd
import pytest

import slamglmm as sg
from slamglmm.design.bases import coefficients_of_differences
from slamglmm.errors import SlamError


@pytest.fixture
def frame():
    rng = np.random.default_rng(5)
    return pd.DataFrame({"y": rng.normal(size=60), "t": rng.uniform(0.0, 10.0, 60)})


@pytest.mark.parametrize("order", [1, 2, 3])
def test_coefficients_have_the_differences_they_are_made_of(order):
    n = 7
    C = coefficients_of_differences(n, order)
    assert C.shape == (n, n - 1)
    np.testing.assert_allclose(C.sum(axis=0), 0.0, atol=1e-12)
    differences = np.diff(C, order, axis=0)
    np.testing.assert_allclose(differences[:, order - 1 :], np.eye(n - order), atol=1e-10)
    if order == 2:
        np.testing.assert_allclose(np.diff(C[:, 0]), 1.0)  # the mean slope


@pytest.mark.parametrize("order", [1, 2])
def test_differences_span_the_splines(frame, order):
    plain = sg.design("y ~ bs(t, df=6)", frame).X.to_numpy()
    ours = sg.design(f"y ~ bs_diff(t, df=6, differences={order})", frame).X
    assert list(ours.columns)[1] == f"bs_diff(t, df=6, differences={order})[1]"
    assert ours.shape == plain.shape
    fitted = plain @ np.linalg.lstsq(plain, ours.to_numpy(), rcond=None)[0]
    np.testing.assert_allclose(fitted, ours, atol=1e-10)
    assert np.linalg.matrix_rank(ours.to_numpy()) == 7


def test_equal_coefficients_have_no_differences(frame):
    """A line in the coefficients is one difference, the same everywhere: what shrinkage pulls towards."""
    X = sg.design("y ~ bs_diff(t, df=5, differences=2)", frame).X.to_numpy()
    slope = X[:, 1]
    full = sg.design("y ~ 0 + bs(t, df=6, include_intercept=True)", frame).X.to_numpy()
    np.testing.assert_allclose(slope, full @ (np.arange(6) - 2.5), atol=1e-12)


def test_periodic_curves_close_smoothly():
    t = np.linspace(0.0, 12.0, 241)
    design = sg.design(
        "y ~ bs_diff(t, df=6, periodic=True, lower_bound=0, upper_bound=12)", pd.DataFrame({"y": t, "t": t})
    )
    X = design.X.to_numpy()
    assert np.linalg.matrix_rank(X) == 7
    np.testing.assert_allclose(X[0], X[-1], atol=1e-12)
    step = t[1]
    np.testing.assert_allclose((X[1] - X[0]) / step, (X[-1] - X[-2]) / step, atol=0.02)
    later = design.new(pd.DataFrame({"t": t[:40] + 36.0}))
    np.testing.assert_allclose(later.X, X[:40], atol=1e-10)


@pytest.mark.parametrize(
    "basis", ["bs_diff(t, df=6)", "bs_diff(t, df=5, periodic=True)", "bs(t, df=6)", "poly(t, 3)", "cr(t, df=4)"]
)
def test_new_times_get_the_basis_of_the_fit(frame, basis):
    """Knots and ranges come from the data of the fit, however few the new times are."""
    design = sg.design(f"y ~ {basis}", frame)
    np.testing.assert_allclose(design.new(frame.iloc[7:9]).X, design.X.iloc[7:9], atol=1e-12)


@pytest.mark.parametrize(
    ("basis", "message"),
    [
        ("bs_diff(t, df=5, differences=6)", "expected an order from 1 to df = 5"),
        ("bs_diff(t, df=2, periodic=True, degree=3)", "needs lower_bound < upper_bound"),
        ("bs_diff(t, df=5, periodic=True, lower_bound=3, upper_bound=3)", "needs lower_bound < upper_bound"),
        ("bs_diff(t, df=1)", "df"),
    ],
)
def test_what_cannot_be(frame, basis, message):
    with pytest.raises(SlamError, match=message):
        sg.design(f"y ~ {basis}", frame)
