"""Every word of `sparse_lmm` and `mr_mash` results recomputed from their own fixed point by dense matrices.

At the end of the climb each marker's posterior is the exact one given all others, so a result can be checked without
climbing: markers in linkage disequilibrium, one that does not vary, weights, a covariate, an offset, missing cells.
"""

import warnings

import numpy as np
import pandas as pd
import pytest
from scipy.special import expit, softmax
from scipy.stats import norm

import slamglmm as sg
from tests.reference import tables

N, M = 150, 24
CONSTANT = 7


def markers(rng):
    """Dosages in blocks of linkage disequilibrium; one marker that is the same in all rows."""
    common = np.repeat(rng.standard_normal((N, M // 4)), 4, axis=1)
    G = np.digitize(0.8 * common + 0.6 * rng.standard_normal((N, M)), [-0.5, 0.7]).astype(float)
    G[:, CONSTANT] = 1.0
    return pd.DataFrame(G, [f"r{i:03d}" for i in range(N)], [f"m{k:02d}" for k in range(M)])


def quietly(fitter, *args, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", sg.errors.SlamWarning)
        return fitter(*args, **options)


# -- sparse_lmm ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(2)
    G = markers(rng)
    G["m03"] = np.where(
        np.arange(N) < 3, (G["m02"] + 1) % 3, G["m02"]
    )  # nearly the same: neither can be told from the other
    frame = pd.DataFrame({"x": rng.standard_normal(N), "o": 2 * rng.standard_normal(N)}, G.index)
    signal = 0.8 * G["m02"] - 0.7 * G["m13"] + 0.4 * G["m20"]
    frame["y"] = 5 + frame["x"] + frame["o"] + signal + rng.standard_normal(N)
    return G, frame, rng.uniform(0.5, 2.0, N)


FORMULA = "y ~ 1 + x + offset(o)"


def projected(G, frame, root, name="y"):
    """Markers, response less the offset and covariates, weighted; and free of the covariates."""
    Z = root @ np.column_stack((np.ones(N), frame["x"]))
    X, y = root @ G.to_numpy(), root @ (frame[name] - frame["o"]).to_numpy()
    P = np.eye(N) - Z @ np.linalg.pinv(Z)
    return X, y, Z, P


def check_fixed_point(fit, X, y, P, atol, pi=None):
    """Each marker's inclusion, mean and sd given all others; then the parameters at their maxima."""
    v, a, b = fit.residual_var, fit.prior_var, fit.coef.to_numpy()
    Xp, r = P @ X, P @ y - P @ X @ b
    d = np.sum(Xp**2, axis=0)
    theta = np.log(fit.pi / (1 - fit.pi))
    varies = np.arange(M) != CONSTANT
    alpha, second = np.zeros(M), np.zeros(M)
    for k in np.flatnonzero(varies):
        precision = d[k] + 1 / a
        mu, s = Xp[:, k] @ (r + Xp[:, k] * b[k]) / precision, v / precision
        alpha[k] = expit(theta + 0.5 * np.log(s / (a * v)) + 0.5 * mu**2 / s)
        second[k] = alpha[k] * (s + mu**2)
        np.testing.assert_allclose(b[k], alpha[k] * mu, atol=atol)
    np.testing.assert_allclose(fit.pip, alpha, atol=atol)
    variance = second - b**2
    np.testing.assert_allclose(fit.coef_sd, np.sqrt(variance), atol=5 * atol)
    np.testing.assert_allclose(a, second.sum() / (v * alpha.sum()), rtol=100 * atol)
    of_v = (r @ r + d @ variance + second.sum() / a) / (N + alpha.sum())
    np.testing.assert_allclose(v, of_v, rtol=100 * atol)
    if pi is None:
        np.testing.assert_allclose(fit.pi, alpha[varies].mean(), rtol=100 * atol)
    return r, Xp, d


def test_sparse_lmm(data):
    G, frame, weights = data
    fit = quietly(sg.sparse_lmm, FORMULA, frame, markers=G, weights=weights, tol=1e-9, max_iter=20_000, seed=1)
    X, y, Z, P = projected(G, frame, np.diag(np.sqrt(weights)))
    r, Xp, d = check_fixed_point(fit, X, y, P, 1e-4)
    assert (fit.pip["m02"], fit.pip.iloc[CONSTANT]) == (pytest.approx(1, abs=0.01), 0.0)
    v, b = fit.residual_var, fit.coef.to_numpy()
    # Covariates: least squares on what the markers leave; their spread follows that of the markers.
    A = np.linalg.solve(Z.T @ Z, Z.T)
    mean = A @ (y - X @ b)
    covariance = v * np.linalg.inv(Z.T @ Z) + (A @ X) @ np.diag(fit.coef_sd**2) @ (A @ X).T
    np.testing.assert_allclose(fit.fixef()["mean"], mean, rtol=1e-6)
    np.testing.assert_allclose(fit.fixef()["sd"], np.sqrt(np.diag(covariance)), rtol=1e-6)
    np.testing.assert_allclose(fit.varcorr()["variance"], [v])
    whole = mean[0] + mean[1] * frame["x"] + frame["o"] + G @ b
    np.testing.assert_allclose(fit.fitted()["y"], whole, rtol=1e-6)
    # New rows, columns in another order, a missing genotype.
    new = frame.iloc[:3].assign(x=[1.0, -2.0, 0.5], o=[0.0, 4.0, -1.0]).set_axis(["a", "b", "c"])
    dosages = G.iloc[[9, 40, 77], ::-1].set_axis(["a", "b", "c"]).copy()
    dosages.loc["b", "m02"] = np.nan
    filled = dosages.fillna({"m02": G["m02"].mean()})[G.columns]
    expected = mean[0] + mean[1] * new["x"] + new["o"] + filled @ b
    np.testing.assert_allclose(fit.predict(new, markers=dosages)["y"], expected, rtol=1e-6)
    check_credible_sets(fit, r, Xp, d)
    check_explained(fit, Xp, d, r)


def check_credible_sets(fit, r, Xp, d):
    """One effect in the lead's place, at each marker with its exact probability; the smallest set that reaches .9."""
    v, a, b = fit.residual_var, fit.prior_var, fit.coef.to_numpy()
    found = fit.credible_set(0.9)
    leads = np.flatnonzero(fit.pip > 0.5)
    assert set(found.index.get_level_values("lead")) == set(fit.pip.index[leads])
    assert found.groupby(level="lead").size().max() > 1
    for k in leads:
        rest = r + Xp[:, k] * b[k]
        log = -0.5 * np.log1p(a * d) + 0.5 * (Xp.T @ rest) ** 2 / (v * (d + 1 / a))
        prob = softmax(np.where(np.arange(M) == CONSTANT, -np.inf, log))
        order = np.argsort(-prob)
        size = 1
        while prob[order[:size]].sum() < 0.9:
            size += 1
        table = found.loc[fit.pip.index[k]]
        assert list(table.index) == list(fit.pip.index[order[:size]])
        np.testing.assert_allclose(table["prob"], prob[order[:size]], rtol=1e-3)
        correlation = Xp.T @ Xp[:, k] / np.sqrt(np.maximum(d, 1e-300) * d[k])
        np.testing.assert_allclose(table["correlation"], correlation[order[:size]], rtol=1e-6)


def check_explained(fit, Xp, d, r):
    """Draws of our own from the spike-and-slab posterior: share of variance of the markers, mean and both ends."""
    v, a, b = fit.residual_var, fit.prior_var, fit.coef.to_numpy()
    rng, precision = np.random.default_rng(1), d + 1 / a
    mu = np.array([Xp[:, k] @ (r + Xp[:, k] * b[k]) for k in range(M)]) / precision
    draws = (rng.random((4000, M)) < fit.pip.to_numpy()) * (
        mu + np.sqrt(v / precision) * rng.standard_normal((4000, M))
    )
    explained = np.sum((draws @ Xp.T) ** 2, axis=1) / N
    share = explained / (explained + v)
    ours = fit.pve(0.8, draws=4000, seed=2)
    expected = [share.mean(), tables.quantile(share, 0.1), tables.quantile(share, 0.9)]
    np.testing.assert_allclose(ours[["mean", "lower", "upper"]], expected, atol=0.01)


def test_sparse_lmm_over_a_grid(data):
    """One fit for each prior share; means over fits weigh by the bound, and the spread between fits is in the sd."""
    G, frame, weights = data
    weak = 0.25 * G[["m02", "m13", "m17", "m20"]].sum(axis=1) + np.random.default_rng(8).standard_normal(N)
    frame = frame.assign(y=5 + frame["x"] + frame["o"] + weak)
    options = {"markers": G, "weights": weights, "tol": 1e-9, "max_iter": 20_000, "prior_var": 0.5}
    fit = quietly(sg.sparse_lmm, FORMULA, frame, pi="grid", **options)
    alone = [quietly(sg.sparse_lmm, FORMULA, frame, pi=float(pi), **options) for pi in fit.grid["pi"]]
    np.testing.assert_allclose(fit.grid["elbo"], [one.elbo[-1] for one in alone], rtol=1e-9)
    weight = softmax([one.elbo[-1] for one in alone])
    np.testing.assert_allclose(fit.grid["weight"], weight, rtol=1e-6)
    coef = np.array([one.coef for one in alone])
    square = np.array([one.coef_sd**2 + one.coef**2 for one in alone])
    np.testing.assert_allclose(fit.pip, weight @ np.array([one.pip for one in alone]), rtol=1e-6)
    np.testing.assert_allclose(fit.coef, weight @ coef, rtol=1e-6)
    sd = np.sqrt(weight @ square - (weight @ coef) ** 2)
    np.testing.assert_allclose(fit.coef_sd, sd, rtol=1e-6)
    within = np.sqrt(weight @ np.array([one.coef_sd**2 for one in alone]))
    assert np.abs(sd / np.maximum(within, 1e-12) - 1).max() > 1e-3, "the fits agree: nothing to see"
    np.testing.assert_allclose(fit.residual_var, weight @ [one.residual_var for one in alone], rtol=1e-6)


def test_sparse_lmm_with_a_random_effect(data):
    """The same fixed point after whitening by h K + (1 - h) I; BLUPs and their prediction."""
    G, frame, _ = data
    rng = np.random.default_rng(5)
    names = [f"i{i:03d}" for i in range(N)]
    blocks = np.kron(np.eye(N // 5), 0.5 * np.ones((5, 5))) + 0.5 * np.eye(N)
    u = np.linalg.cholesky(blocks) @ rng.standard_normal(N)
    shuffled = rng.permutation(N)
    K = pd.DataFrame(blocks, names, names).iloc[shuffled, shuffled]
    with_u = frame.assign(id=names, y=frame["y"] + u)
    formula = FORMULA + " + (1 | id)"
    fit = quietly(sg.sparse_lmm, formula, with_u, markers=G, relmat={"id": K}, tol=1e-9, max_iter=20_000)
    assert 0.1 < fit.share < 0.9
    V = fit.share * blocks + (1 - fit.share) * np.eye(N)
    X, y, Z, P = projected(G, with_u, np.linalg.inv(np.linalg.cholesky(V)))
    check_fixed_point(fit, X, y, P, 2e-3)
    b = fit.coef.to_numpy()
    mean = np.linalg.lstsq(Z, y - X @ b, rcond=None)[0]
    np.testing.assert_allclose(fit.fixef()["mean"], mean, rtol=1e-4)
    rest = (with_u["y"] - frame["o"] - G @ b - mean[0] - mean[1] * frame["x"]).to_numpy()
    blup = pd.Series(fit.share * blocks @ np.linalg.solve(V, rest), names)
    np.testing.assert_allclose(fit.ranef()["y"].loc[names], blup, atol=1e-3)
    table = fit.varcorr()
    v = fit.residual_var
    np.testing.assert_allclose(table["variance"].loc[["id", "Residual"]], [v * fit.share, v * (1 - fit.share)])
    np.testing.assert_allclose(table["share"].loc[["id", "Residual"]], [fit.share, 1 - fit.share])
    in_fit = mean[0] + mean[1] * frame["x"] + frame["o"] + G @ b
    np.testing.assert_allclose(fit.predict(random="none")["y"], in_fit, atol=2e-3)
    np.testing.assert_allclose(fit.fitted()["y"], in_fit + blup.to_numpy(), atol=2e-3)
    new, dosages = with_u.iloc[[5, 60]].assign(o=[1.0, -2.0]), G.iloc[[5, 60]]
    fixed = mean[0] + mean[1] * new["x"] + new["o"] + dosages @ b
    np.testing.assert_allclose(fit.predict(new, markers=dosages, random="none")["y"], fixed, atol=2e-3)
    np.testing.assert_allclose(fit.predict(new, markers=dosages)["y"], fixed + blup.iloc[[5, 60]].to_numpy(), atol=2e-3)


# -- mr_mash ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=[False, True], ids=["dosages", "standardized"])
def mash(request):
    rng = np.random.default_rng(3)
    G = markers(rng)
    frame = pd.DataFrame({"x": rng.standard_normal(N), "o": 2 * rng.standard_normal(N)}, G.index)
    root = np.array([[1.0, 0.0, 0.0], [0.6, 0.8, 0.0], [-0.3, 0.2, 0.9]])
    B = np.zeros((M, 3))
    B[[2, 13, 20]] = [[0.8, 0.7, 0.6], [-0.6, 0.0, 0.0], [0.2, 0.25, 0.3]]
    Y = frame[["x"]].to_numpy() * [1.0, -1, 0] + G.to_numpy() @ B + rng.standard_normal((N, 3)) @ root.T + 4
    Y = pd.DataFrame(Y + frame[["o"]].to_numpy(), G.index, ["a", "b", "c"])
    holes = rng.random(Y.shape) < 0.1
    holes[holes.all(axis=1)] = False
    options = {"standardize": request.param, "tol": 1e-8, "max_iter": 50_000, "grid": [0.05, 0.3]}
    fit = quietly(sg.mr_mash, "~ 1 + x + offset(o)", frame, Y=Y.mask(holes), markers=G, **options)
    assert fit.converged
    return fit, G, frame, Y, holes, request.param


def test_mr_mash(mash):
    """Every marker's mixture posterior by p x p matrices, then weights and residual covariance at their maxima."""
    fit, G, frame, _, holes, standardized = mash
    Z = np.column_stack((np.ones(N), frame["x"]))
    P = np.eye(N) - Z @ np.linalg.pinv(Z)
    size = P @ G.to_numpy()
    spread = np.sqrt(np.sum(size**2, axis=0) / (N - 1)) if standardized else np.ones(M)
    unit = np.where(np.arange(M) == CONSTANT, 1.0, spread)
    X, Sigma = size / unit, fit.residual_cov.to_numpy()
    b = fit.coef.to_numpy() * unit[:, None]
    complete = fit.imputed.to_numpy() - frame[["o"]].to_numpy()
    R = P @ complete - X @ b
    V = [np.zeros((3, 3))] + [s * U for U in fit.prior.covariances for s in fit.prior.grid]
    share_sum, scatter = np.zeros(len(V)), R.T @ R
    for k in range(M):
        if k == CONSTANT:
            assert (fit.coef.iloc[k] == 0).all()
            assert (fit.lfsr.iloc[k] == 1).all()
            continue
        d = X[:, k] @ X[:, k]
        least = X[:, k] @ (R + np.outer(X[:, k], b[k])) / d
        S = Sigma / d
        log, means, covariances = [], [], []
        for V_t, weight in zip(V, fit.weights, strict=True):
            total = V_t + S
            log.append(
                np.log(weight + 1e-300)
                - 0.5 * np.linalg.slogdet(total)[1]
                - 0.5 * least @ np.linalg.solve(total, least)
            )
            means.append(V_t @ np.linalg.solve(total, least))
            covariances.append(V_t - V_t @ np.linalg.solve(total, V_t))
        share = softmax(log)
        share_sum += share
        mean = share @ np.array(means)
        second = sum(w * (C + np.outer(m, m)) for w, m, C in zip(share, means, covariances, strict=True))
        scatter += d * (second - np.outer(mean, mean))
        np.testing.assert_allclose(b[k], mean, atol=1e-4)
        sd = np.sqrt(np.diag(second) - mean**2)
        np.testing.assert_allclose(fit.coef_sd.iloc[k] * unit[k], sd, atol=1e-4)
        above, below = np.zeros(3), np.zeros(3)
        for w, m, C in zip(share, means, covariances, strict=True):
            own = np.sqrt(np.maximum(np.diag(C), 0.0))
            moves = own > 1e-9
            above[moves] += w * norm.cdf(m[moves] / own[moves])
            below[moves] += w * norm.cdf(-m[moves] / own[moves])
        np.testing.assert_allclose(fit.lfsr.iloc[k], 1 - np.maximum(above, below), atol=1e-4)
        np.testing.assert_allclose(fit.null.iloc[k], share[0], atol=1e-4)
    assert fit.weights.sum() == pytest.approx(1.0, abs=1e-9)
    np.testing.assert_allclose(fit.weights, share_sum / (M - 1), atol=1e-4)
    by_covariance = fit.weights.to_numpy()[1:].reshape(-1, 2).sum(axis=1)
    np.testing.assert_allclose(fit.covariance_weights, [fit.weights.iloc[0], *by_covariance], rtol=1e-12)
    # What missing cells may still be, given the measured ones of their row.
    for hole in holes:
        if hole.any():
            seen = ~hole
            own = Sigma[np.ix_(hole, hole)]
            if seen.any():
                cross = Sigma[np.ix_(hole, seen)]
                own = own - cross @ np.linalg.solve(Sigma[np.ix_(seen, seen)], cross.T)
            scatter[np.ix_(hole, hole)] += own
    np.testing.assert_allclose(Sigma, scatter / N, atol=1e-3)
    np.testing.assert_array_equal(fit.R(), fit.residual_cov)
    np.testing.assert_array_equal(fit.varcorr()["variance"], np.diag(Sigma))


def test_mr_mash_covariates_missing_cells_and_predictions(mash):
    fit, G, frame, Y, holes, _ = mash
    Z, B = np.column_stack((np.ones(N), frame["x"])), fit.coef.to_numpy()
    complete, Sigma = fit.imputed.to_numpy() - frame[["o"]].to_numpy(), fit.residual_cov.to_numpy()
    mean = np.linalg.lstsq(Z, complete - G.to_numpy() @ B, rcond=None)[0]
    table = fit.fixef()
    np.testing.assert_allclose(table["mean"].to_numpy().reshape(2, 3), mean, rtol=1e-5, atol=1e-6)
    A = np.linalg.pinv(Z) @ G.to_numpy()
    variance = np.outer(np.diag(np.linalg.inv(Z.T @ Z)), np.diag(Sigma)) + A**2 @ fit.coef_sd.to_numpy() ** 2
    np.testing.assert_allclose(table["sd"].to_numpy().reshape(2, 3), np.sqrt(variance), rtol=1e-6)
    fitted = Z @ mean + G.to_numpy() @ B + frame[["o"]].to_numpy()
    np.testing.assert_allclose(fit.fitted(), fitted, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(fit.imputed.to_numpy()[~holes], Y.to_numpy()[~holes], rtol=1e-12)
    for i in np.flatnonzero(holes.any(axis=1)):
        hole, seen = holes[i], ~holes[i]
        slope = Sigma[np.ix_(hole, seen)] @ np.linalg.inv(Sigma[np.ix_(seen, seen)])
        expected = fitted[i, hole] + slope @ (Y.to_numpy()[i, seen] - fitted[i, seen])
        np.testing.assert_allclose(fit.imputed.to_numpy()[i, hole], expected, atol=1e-3)
    new, dosages = frame.iloc[[4, 90]].assign(o=[1.0, -3.0], x=[0.0, 2.0]), G.iloc[[4, 90], ::-1]
    expected = mean[0] + np.outer(new["x"], mean[1]) + G.iloc[[4, 90]].to_numpy() @ B + new[["o"]].to_numpy()
    np.testing.assert_allclose(fit.predict(new, markers=dosages), expected, rtol=1e-5, atol=1e-5)
