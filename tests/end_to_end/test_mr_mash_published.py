"""mr.mash.alpha 0.3.44, sweep by sweep: the K matrices given one by one, the null being 1e-8 I as there."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from slamglmm.fitters.mr_mash.mash import Mash, fit, maximise, start, sweep
from slamglmm.fitters.mr_mash.missing import MissingCells
from slamglmm.fitters.mr_mash.posterior import marker_posteriors, responsibilities
from slamglmm.genotypes import read_markers
from slamglmm.linalg.projection import project_markers
from slamglmm.priors.mixture import MixturePrior, automatic_grid, canonical_covariances

FOLDER = Path(__file__).parents[3] / "shared" / "reference" / "mrmash"
pytestmark = pytest.mark.skipif(not FOLDER.exists(), reason="shared reference files are not here")
NAMES = ["m1_n500_p1000_j5", "m2_n500_p1000_j5_miss20", "m3_n500_p1000_j5_diag_nostd", "m4_n700_p2000_j20"]


def load(name):
    info = next(entry for entry in json.loads((FOLDER / "fits.json").read_text())["fits"] if entry["name"] == name)
    with np.load(FOLDER / f"{name}.npz") as stored:
        return info, {key: stored[key] for key in stored}


def listed(stored, p, jitter=1e-8):
    """Every V_t as a covariance of its own."""
    matrices = [jitter * np.eye(p)]
    for U in canonical_covariances(p).values():
        matrices += [U * scale + jitter * np.eye(p) for scale in stored["grid_var"]]
    return MixturePrior(tuple(f"V{t}" for t in range(len(matrices))), np.array(matrices), np.ones(1), False)


def make(info, stored, prior=None):
    Y = np.ascontiguousarray(stored["Y"].T)
    p, n = Y.shape
    X = read_markers(stored["X_times64"] / 64)
    markers = project_markers(X.columns(), np.ones((n, 1)), None, info["standardize"])
    prior = listed(stored, p) if prior is None else prior
    sigma = stored["Vinit"] if "Vinit" in stored else np.cov(Y)
    if info["V_method"] == "diagonal":
        sigma = np.diag(np.diag(sigma))
    model = Mash(markers, prior, Y, MissingCells.of(Y), info["V_method"], 0, True)
    return model, start(model, sigma, np.full(prior.n_mix, 1 / prior.n_mix))


@pytest.mark.parametrize("name", [*NAMES, pytest.param("m5_n900_p5000_j50", marks=pytest.mark.slow)])
def test_traces(name):
    """Bound of every sweep, coefficients, weights and residual covariance at the end; missing responses included."""
    info, stored = load(name)
    model, state = make(info, stored)
    for t in range(len(stored["elbo"])):
        if t:
            maximise(model, state)
        sweep(model, state)
    n = model.Y.shape[1]
    np.testing.assert_allclose(np.array(state.elbo) - 0.5 * np.log(n), stored["elbo"], rtol=0, atol=1e-8)
    scale = model.markers.scale[:, None]
    np.testing.assert_allclose(state.coef * scale, stored["mu1"], rtol=0, atol=1e-6)
    np.testing.assert_allclose(state.sigma, stored["V"], rtol=1e-8, atol=1e-8)
    np.testing.assert_allclose(state.used_weights, stored["w0"], rtol=0, atol=1e-8)
    if len(state.elbo) > 1:
        assert np.diff(state.elbo).min() > 0
    posterior = marker_posteriors(model, state)
    np.testing.assert_allclose((posterior.sd * scale) ** 2, stored["S1diag"].T, rtol=1e-5, atol=1e-9)
    if "w1" in stored:
        np.testing.assert_allclose(responsibilities(model, state, slice(None)), stored["w1"], rtol=0, atol=1e-6)
    if "Yimp" in stored:
        np.testing.assert_allclose(state.complete.T, stored["Yimp"], rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", NAMES[:3])
def test_shared_rotations_equal_the_list(name):
    """All multiples of one covariance share a rotation; each matrix in a list has its own. Same V_t, same numbers."""
    info, stored = load(name)
    p = stored["Y"].shape[1]
    named = canonical_covariances(p)
    shared = MixturePrior(tuple(named), np.array(list(named.values())), stored["grid_var"], True)
    each = listed(stored, p, jitter=0.0)
    each = MixturePrior(each.names[1:], each.covariances[1:], np.ones(1), True)
    ends = []
    for prior in (shared, each):
        model, state = make(info, stored, prior)
        for t in range(8):
            if t:
                maximise(model, state)
            sweep(model, state)
        ends.append(state)
    np.testing.assert_allclose(ends[0].elbo, ends[1].elbo, rtol=1e-10)
    np.testing.assert_allclose(ends[0].coef, ends[1].coef, rtol=0, atol=1e-10)
    np.testing.assert_allclose(ends[0].weights, ends[1].weights, rtol=0, atol=1e-10)


def test_low_rank_residual_covariance_climbs():
    """The plug-in scatter, without the posterior's, would let the bound fall."""
    info, stored = load(NAMES[0])
    model, state = make({**info, "V_method": "low_rank"}, stored)
    model = replace(model, rank=2)
    for t in range(12):
        if t:
            maximise(model, state)
        sweep(model, state)
    assert np.diff(state.elbo[1:]).min() > 0
    values = np.linalg.eigvalsh(state.sigma)
    np.testing.assert_allclose(values[:3], values[0], rtol=1e-10)


def test_prediction_is_no_worse():
    """Held-out rows: within 0.01 of the stored mean squared correlation."""
    info, stored = load(NAMES[0])
    p = stored["Y"].shape[1]
    named = canonical_covariances(p)
    prior = MixturePrior(tuple(named), np.array(list(named.values())), stored["grid_var"], True)
    model, state = make(info, stored, prior)
    fit(model, state, tol=1e-3, max_iter=500)
    X, Xtest = stored["X_times64"] / 64, stored["Xtest_times64"] / 64
    coef = state.coef * model.markers.scale[:, None]
    predicted = stored["Y"].mean(axis=0) + (Xtest - X.mean(axis=0)) @ coef
    r2 = np.mean([np.corrcoef(predicted[:, j], stored["Ytest"][:, j])[0, 1] ** 2 for j in range(p)])
    assert r2 > info["meanR2test"] - 0.01


def test_automatic_grid_is_the_anchor_s():
    """gmin, gmax and the number of points from univariate statistics."""
    _info, stored = load(NAMES[0])
    X, Y = stored["X_times64"] / 64, stored["Y"]
    X, Y = (X - X.mean(axis=0)) / X.std(axis=0, ddof=1), Y - Y.mean(axis=0)
    d = (X**2).sum(axis=0)[:, None]
    effect = X.T @ Y / d
    error = np.sqrt(((Y**2).sum(axis=0) - d * effect**2) / (len(Y) - 2) / d)
    np.testing.assert_allclose(automatic_grid(effect, error), stored["grid_var"], rtol=1e-6)
