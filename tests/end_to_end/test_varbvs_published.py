"""The spike-and-slab regression against varbvs 2.6-8: bounds sweep by sweep, weighted grids, a logistic regression."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import slamglmm as sg
from slamglmm.fitters.sparse_lmm.binomial import Logistic, fit_logistic_grid
from slamglmm.fitters.sparse_lmm.data import RegressionData
from slamglmm.fitters.sparse_lmm.fit import fit_grid
from slamglmm.fitters.sparse_lmm.spike_slab import SpikeSlab, start, sweep
from slamglmm.genotypes import read_markers
from slamglmm.linalg.projection import project_markers
from slamglmm.linalg.threads import BlockPool

FOLDER = Path(__file__).parents[3] / "shared" / "reference" / "varbvs"
pytestmark = pytest.mark.skipif(not FOLDER.exists(), reason="shared reference files are not here")
LN10 = np.log(10.0)


@pytest.fixture(scope="module")
def inputs():
    with np.load(FOLDER / "v1_inputs.npz") as stored:
        packed, Z, Y = stored["X2bit"], stored["Z"], stored["Y"]
    G = np.empty((4 * len(packed), packed.shape[1]), dtype=np.int8)
    for s in range(4):
        G[s::4] = (packed >> (2 * s)) & 3
    markers = read_markers(G)
    return project_markers(markers.columns(), np.column_stack((np.ones(len(Z)), Z))), Y


@pytest.mark.parametrize("n0", [0, 10])
@pytest.mark.parametrize("scenario", range(1, 10))
def test_traces(inputs, scenario, n0):
    """Fixed prior odds, forward order: the bound of every sweep, and the inclusion probabilities at the end."""
    markers, Y = inputs
    y, m = Y[:, scenario - 1], markers.m
    with np.load(FOLDER / "v1_traces.npz") as stored:
        bounds, alpha = stored[f"s{scenario}_n0_{n0}_logw"], stored[f"s{scenario}_n0_{n0}_alpha"]
    model = SpikeSlab(markers, np.zeros(m), len(y), 0.0, frozenset({"v", "a"}), prior_a=(n0, 1.0))
    fits = start(model, y[None], [y.var(ddof=1)], [1.0], [-3 * LN10], alpha=1 / m)
    got = []
    for _ in bounds:
        got.append(sweep(model, fits, np.array([0]), BlockPool(1))[0, 0])
    np.testing.assert_allclose(got, bounds, rtol=0, atol=1e-8)
    np.testing.assert_allclose(fits.alpha[0], alpha, rtol=0, atol=1e-6)
    if n0 == 0:
        assert np.diff(got).min() > -1e-9 * abs(got[-1])


@pytest.mark.parametrize(
    ("scenario", "least"), [(5, 1e-8), *(pytest.param(i, -1.0, marks=pytest.mark.slow) for i in (1, 5, 8))]
)
def test_weighted_grid(inputs, scenario, least):
    """Twenty prior odds, each fitted twice, and the average; the short version leaves out odds that weigh nothing."""
    markers, Y = inputs
    y, m = Y[:, scenario - 1], markers.m
    stored = json.loads((FOLDER / "v1_fits.json").read_text())["grid"]
    grid = next(entry for entry in stored if entry["scen"] == scenario)
    weight_there = np.array(grid["w"])
    weighs = weight_there > least
    log_odds = LN10 * np.array(grid["grid_logodds10"])[weighs]
    model = SpikeSlab(
        markers, np.zeros(m), len(y), -0.5 * markers.basis.logdet, frozenset({"v", "a"}), prior_a=(10, 1.0)
    )
    T = len(log_odds)
    fits = fit_grid(
        model,
        y,
        log_odds,
        np.full(T, y.var(ddof=1)),
        np.ones(T),
        tol=1e-5,
        max_iter=1000,
        alpha=1 / m,
        accelerate=False,
    )
    height = np.array([trace[-1] for trace in fits.elbo])
    weight = np.exp(height - height.max())
    weight /= weight.sum()
    np.testing.assert_allclose(weight, weight_there[weighs], rtol=0, atol=1e-4)
    with np.load(FOLDER / "v1_grid.npz") as arrays:
        np.testing.assert_allclose(weight @ fits.alpha, arrays[f"s{scenario}_pip"], rtol=0, atol=1e-4)
        np.testing.assert_allclose(weight @ fits.coef, arrays[f"s{scenario}_beta"], rtol=0, atol=1e-4)


def test_leukemia_trace():
    """The logistic bound, sweep by sweep, with the prior held fixed."""
    with np.load(FOLDER / "v2_leukemia.npz") as stored:
        X, y, bounds, alpha, eta = (stored[key] for key in ("X", "y", "trace_logw", "trace_alpha", "trace_eta"))
    n, m = X.shape
    markers = read_markers(X)
    data = RegressionData(
        markers, markers, markers.columns(), y, np.ones((n, 1)), None, n, markers, np.arange(n), 0.0, None
    )
    fit = Logistic(data, np.zeros(m), frozenset(), 1.0, -2.5 * LN10, alpha=1 / m)
    for _ in bounds:
        fit.step(BlockPool(1))
    np.testing.assert_allclose(fit.fits.elbo[0], bounds, rtol=0, atol=1e-8)
    np.testing.assert_allclose(fit.fits.alpha[0], alpha, rtol=0, atol=1e-6)
    np.testing.assert_allclose(fit.eta, eta, rtol=0, atol=1e-6)
    assert np.diff(fit.fits.elbo[0]).min() > -1e-9 * abs(bounds[-1])


def test_leukemia_grid():
    """Six prior odds, each fitted twice, and the average over them."""
    with np.load(FOLDER / "v2_leukemia.npz") as stored:
        X, y, pip, beta = (stored[key] for key in ("X", "y", "pip", "beta"))
    reference = json.loads((FOLDER / "v2_leukemia.json").read_text())["fit"]
    n, m = X.shape
    markers = read_markers(X)
    data = RegressionData(
        markers, markers, markers.columns(), y, np.ones((n, 1)), None, n, markers, np.arange(n), 0.0, None
    )
    log_odds = LN10 * np.array(reference["grid_logodds10"])
    runs = fit_logistic_grid(data, np.zeros(m), frozenset(), log_odds, np.ones(6), tol=1e-6, max_iter=1000)
    height = np.array([run.fits.elbo[0][-1] for run in runs])
    np.testing.assert_allclose(height, reference["logw"], atol=1e-4)
    weight = np.exp(height - height.max()) / np.exp(height - height.max()).sum()
    np.testing.assert_allclose(weight, reference["w"], atol=1e-4)
    np.testing.assert_allclose(weight @ [run.fits.alpha[0] for run in runs], pip, atol=1e-4)
    np.testing.assert_allclose(weight @ [run.fits.coef[0] for run in runs], beta, atol=1e-4)


def test_leukemia_by_formula():
    """The public call at one prior odds, against the grid point of varbvs with the same odds."""
    with np.load(FOLDER / "v2_leukemia.npz") as stored:
        X, y, alpha = stored["X"], stored["y"], stored["trace_alpha"]
    pi = 1 / (1 + 10**2.5)
    fit = sg.sparse_lmm("y ~ 1", pd.DataFrame({"y": y}), markers=X, family="binomial", pi=pi, prior_var=1.0, tol=1e-8)
    np.testing.assert_allclose(fit.pip, alpha, rtol=0, atol=1e-4)
