"""`he` as a user meets it: invariances, every kind of error, effects, several traits, messages."""

import pickle
import warnings
from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
from scipy import sparse

import slamglmm as sg
from slamglmm.errors import (
    BoundaryWarning,
    DataError,
    DroppedRowsWarning,
    FitError,
    OptionError,
    RelmatError,
    SlamWarning,
)
from slamglmm.fitters.he import inference
from slamglmm.fitters.he.moments import compute_moments
from slamglmm.fitters.he.problem import build_problem
from slamglmm.fitters.he.subsampling import balanced_draws, close_families
from slamglmm.genotypes import write_plink
from slamglmm.relmat import Relmat
from tests.reference import kinship as slow

quiet = pytest.mark.filterwarnings("ignore::slamglmm.errors.BoundaryWarning")


def twins(**options):
    return sg.simulate.ace(**{"pairs": 60, "seed": 3, **options})


def fit_twins(data, formula=None, **options):
    return sg.he(formula or data.formula, data.frame, Y=data.Y, relmat=data.relmat, **options)


def genotype_frame(n=80, m=300, seed=1):
    rng = np.random.default_rng(seed)
    G = rng.binomial(2, rng.uniform(0.1, 0.5, m), (n, m)).astype(np.int8)
    f = G.mean(axis=0)
    W = (G - f) / np.sqrt(f * (1 - f / 2))
    y = W @ rng.standard_normal(m) / np.sqrt(m) + rng.standard_normal(n)
    return pd.DataFrame({"y": y, "x": rng.standard_normal(n)}), G, W @ W.T / m


# -- invariance -------------------------------------------------------------------------------------------


@quiet
@pytest.mark.parametrize("inner", ["full", "triangle", "offdiag"])
@pytest.mark.parametrize("method", ["he", "rehe"])
def test_invariances(method, inner):
    frame, _, K = genotype_frame()
    rng = np.random.default_rng(0)
    frame = frame.assign(id=[f"i{k}" for k in range(80)], z=rng.standard_normal(80))
    relmat = {"id": (K, frame["id"].to_list())}
    options = {"method": method, "inner": inner, "relmat": relmat}
    base = sg.he("y ~ x + z + (1 | id)", frame, **options)
    close = {"rtol": 1e-10, "atol": 1e-10}

    mixed = frame.assign(p=2 * frame["x"] - frame["z"] + 3, q=frame["x"] + 0.1 * frame["z"])
    found = sg.he("y ~ p + q + (1 | id)", mixed, **options)
    np.testing.assert_allclose(found.theta, base.theta, **close)
    np.testing.assert_allclose(found.varcorr()["se"], base.varcorr()["se"], **close)

    shifted = frame.assign(y=frame["y"] + 100 - 20 * frame["x"] + 7 * frame["z"])
    np.testing.assert_allclose(sg.he("y ~ x + z + (1 | id)", shifted, **options).theta, base.theta, **close)

    scaled = sg.he("y ~ x + z + (1 | id)", frame, **{**options, "relmat": {"id": (4.0 * K, frame["id"].to_list())}})
    np.testing.assert_allclose(scaled.theta[1] * 4, base.theta[1], **close)
    np.testing.assert_allclose(scaled.theta[0], base.theta[0], **close)

    order = rng.permutation(80)
    found = sg.he("y ~ x + z + (1 | id)", frame.iloc[order], **options)
    np.testing.assert_allclose(found.theta, base.theta, **close)
    np.testing.assert_allclose(found.fixef(), base.fixef(), **close)

    twice = sg.he("y ~ x + z + (1 | id)", frame.assign(y=3 * frame["y"]), **options)
    np.testing.assert_allclose(twice.theta, 9 * base.theta, **close)


@quiet
def test_the_basis_of_the_null_space_does_not_matter():
    """Rows L of an orthonormal basis of null(X'): full inner products of L y and L K L' are ours."""
    frame, _, K = genotype_frame()
    X = np.column_stack([np.ones(80), frame["x"]])
    rng = np.random.default_rng(2)
    L = np.linalg.qr(np.column_stack([X, rng.standard_normal((80, 78))]))[0][:, 2:].T
    rotation = np.linalg.qr(rng.standard_normal((78, 78)))[0]
    fit = sg.he("y ~ x + (1 | id)", frame.assign(id=range(80)), relmat={"id": (K, range(80))}, method="he", se=None)
    for basis in (L, rotation @ L):
        y = basis @ frame["y"].to_numpy()
        A = [np.eye(78), basis @ K @ basis.T]
        S = [[np.sum(a * b) for b in A] for a in A]
        np.testing.assert_allclose(fit.theta[:, 0, 0], np.linalg.solve(S, [y @ a @ y for a in A]), rtol=1e-10)


def test_weights_are_precisions_of_the_rows():
    """Integer weights say what a mean of that many rows says: its residual variance is divided by them."""
    frame, _, K = genotype_frame()
    w = np.random.default_rng(1).integers(1, 5, 80).astype(float)
    frame = frame.assign(id=range(80), w=w)
    fit = sg.he("y ~ x + (1 | id)", frame, relmat={"id": (K, range(80))}, weights="w", method="he", se=None)
    root = np.sqrt(w)
    X = np.column_stack([np.ones(80), frame["x"]]) * root[:, None]
    S, c = slow.equations([root[:, None] * K * root], X, (frame["y"].to_numpy() * root)[:, None], "full", True)
    np.testing.assert_allclose(fit.theta[:, 0, 0], np.linalg.solve(S, c[:, 0, 0]), rtol=1e-10)
    reml = sg.he("y ~ x + (1 | id)", frame, relmat={"id": (K, range(80))}, weights=w, method="reml", se=None)
    V = reml.theta[1, 0, 0] * K + reml.theta[0, 0, 0] * np.diag(1 / w)
    X = np.column_stack([np.ones(80), frame["x"]])
    beta = np.linalg.solve(X.T @ np.linalg.solve(V, X), X.T @ np.linalg.solve(V, frame["y"]))
    np.testing.assert_allclose(reml.fixef().to_numpy()[:, 0], beta, rtol=1e-8)


# -- fixed and random effects -------------------------------------------------------------------------------


def dense_effects(fit, problem):
    V = fit.model.variances[0][0] * np.eye(problem.n)
    K = slow.dense_components(problem)
    V = V + sum(s * A for s, A in zip(fit.model.variances[0][1:], K, strict=True))
    inverse = np.linalg.inv(V)
    X, y = problem.x, problem.y[:, 0]
    beta = np.linalg.solve(X.T @ inverse @ X, X.T @ inverse @ y)
    return beta, np.linalg.inv(X.T @ inverse @ X), inverse @ (y - X @ beta)


@quiet
@pytest.mark.parametrize("kind", ["sparse", "dense", "levels", "iterative"])
def test_gls_and_blups(kind, monkeypatch):
    data = twins()
    relmat = data.relmat
    if kind != "sparse":
        relmat = {"id": relmat["id"].to_frame()}
    formula = "~ age + sex + (1 | id)" if kind == "levels" else data.formula
    frame, Y = data.frame, data.Y
    if kind == "levels":  # more rows than levels
        frame, Y = pd.concat([frame] * 3, ignore_index=True), pd.concat([Y] * 3, ignore_index=True)
        Y = Y + np.random.default_rng(0).standard_normal(Y.shape)
    if kind == "iterative":
        monkeypatch.setattr("slamglmm.fitters.he.mixed.DENSE_LIMIT", 10)
    fit = sg.he(formula, frame, Y=Y, relmat=relmat, se=None)
    problem = fit.model.problem
    beta, covariance, rest = dense_effects(fit, problem)
    np.testing.assert_allclose(fit.fixef().to_numpy()[:, 0], beta, rtol=1e-7)
    np.testing.assert_allclose(fit.fixef(0.9)["se"], np.sqrt(np.diag(covariance)), rtol=1e-7)
    A = data.relmat["id"].to_frame().to_numpy()
    Z = np.eye(120)[problem.terms[0].codes]
    np.testing.assert_allclose(fit.ranef("id").to_numpy()[:, 0], fit.theta[1, 0, 0] * A @ Z.T @ rest, atol=1e-7)


def test_fitted_predict_and_new_levels():
    frame = sg.datasets.load("sleepstudy").frame
    fit = sg.he("Reaction ~ Days + (1 + Days | Subject)", frame)
    u = fit.ranef("Subject")
    assert list(u.columns) == ["Intercept", "Days"]
    b = fit.fixef()["Reaction"]
    subject = frame["Subject"].astype(u.index.dtype)
    expected = b["Intercept"] + u.loc[subject, "Intercept"].to_numpy()
    expected = expected + (b["Days"] + u.loc[subject, "Days"].to_numpy()) * frame["Days"]
    np.testing.assert_allclose(fit.fitted()["Reaction"], expected, rtol=1e-10)
    np.testing.assert_allclose(fit.predict(frame), fit.fitted(), rtol=1e-12)
    fixed = fit.predict(frame, random="none")["Reaction"]
    np.testing.assert_allclose(fixed, b["Intercept"] + b["Days"] * frame["Days"])
    pd.testing.assert_frame_equal(fit.predict(frame, random="Subject"), fit.predict(frame))
    for wrong in ("subject", ["subject"]):
        with pytest.raises(OptionError, match="no random term 'subject'; the terms are 'Subject'"):
            fit.predict(frame, random=wrong)
    new = pd.DataFrame({"Days": [0, 1], "Subject": ["nobody", str(u.index[0])]})
    with pytest.raises(DataError, match="nobody"):
        fit.predict(new)
    found = fit.predict(new, new_levels="zero")["Reaction"]
    assert found.iloc[0] == pytest.approx(b["Intercept"])


def test_probabilities_and_seeds_are_checked():
    frame = sg.datasets.load("sleepstudy").frame
    fit = sg.he("Reaction ~ Days + (1 | Subject)", frame)
    for ask in (lambda: fit.conf_int(95), lambda: fit.conf_int(95, kind="quantile")):
        with pytest.raises(OptionError, match="level=95: expected a probability between 0 and 1"):
            ask()
    with pytest.raises(OptionError, match="prob=1: expected a probability"):
        fit.fixef(prob=1)
    with pytest.raises(OptionError, match="seed='one': expected an integer of at least 0, or None"):
        sg.he("Reaction ~ Days + (1 | Subject)", frame, seed="one")


def test_levels_without_records_get_effects():
    data = twins()
    # Twenty second twins have none; with no pair left complete there would be nothing to estimate a share from.
    kept = np.delete(np.arange(120), np.arange(1, 40, 2))
    most = data.frame.iloc[kept].assign(y=data.Y.iloc[kept, 0])
    fit = sg.he("y ~ age + (1 | id)", most, relmat={"id": data.relmat["id"].to_frame()}, method="reml", se=None)
    u = fit.ranef()
    assert len(u) == 120
    identical = u.iloc[:60].to_numpy().reshape(30, 2)
    np.testing.assert_allclose(identical[:, 0], identical[:, 1], atol=1e-6)


# -- standard errors ----------------------------------------------------------------------------------------


@quiet
@pytest.mark.parametrize("inner", ["full", "triangle", "offdiag"])
@pytest.mark.parametrize("project", [True, False])
def test_sandwich_of_sparse_families_is_the_dense_one(inner, project, monkeypatch):
    data = twins(n_traits=2)
    options = {"inner": inner, "project": project}
    found = fit_twins(data, **options)
    monkeypatch.setattr(inference, "SPARSE_SHARE", 0.0)
    dense = fit_twins(data, **options)
    for pairs in (((0, 0), (0, 0)), ((0, 1), (0, 1)), ((0, 0), (0, 1))):
        np.testing.assert_allclose(
            found.uncertainty.covariance(*pairs), dense.uncertainty.covariance(*pairs), rtol=1e-8, atol=1e-12
        )


@quiet
@pytest.mark.parametrize("inner", ["full", "triangle", "offdiag"])
def test_sandwich_is_the_variance_of_the_estimator(inner):
    """Against the exact covariance of quadratic forms, written out."""
    data = twins()
    fit = fit_twins(data, inner=inner)
    problem = fit.model.problem
    n = problem.n
    P = np.eye(n) - problem.basis @ problem.basis.T
    K = [np.eye(n), *slow.dense_components(problem)]
    V = P @ sum(s * A for s, A in zip(fit.model.variances[0], K, strict=True)) @ P
    weight = {"full": 1.0, "triangle": 0.5 + 0.5 * np.eye(n), "offdiag": 0.5 - 0.5 * np.eye(n)}[inner]
    projected = [P @ A @ P for A in K]
    M = [weight * A for A in projected]
    if inner == "offdiag":
        M[0] = projected[0]
    C = np.array([[2 * np.trace(a @ V @ b @ V) for b in M] for a in M])
    S = np.array([[np.sum(a * b) for b in projected] for a in M])
    if inner == "offdiag":
        S[0] = [np.trace(a) for a in projected]
        S[0, 0] = n - problem.m
        S[1:, 0] = 0.0
    expected = np.linalg.solve(S, np.linalg.solve(S, C).T)
    np.testing.assert_allclose(fit.uncertainty.covariance((0, 0), (0, 0)), expected, rtol=1e-8, atol=1e-12)


@quiet
@pytest.mark.parametrize("project", [True, False])
@pytest.mark.parametrize("n_traits", [1, 2])
def test_sandwich_of_one_grouping_factor(n_traits, project, monkeypatch):
    """Large groups, weights and covariates, without any n x n matrix."""
    rng = np.random.default_rng(1)
    frame = pd.DataFrame({"g": rng.integers(0, 6, 90), "x": rng.standard_normal(90), "w": rng.uniform(0.5, 2, 90)})
    Y = pd.DataFrame(rng.standard_normal((6, n_traits))[frame["g"]] + rng.standard_normal((90, n_traits)))
    options = {"Y": Y, "weights": "w", "project": project}
    found = sg.he("~ x + (1 | g)", frame, **options)
    monkeypatch.setattr("slamglmm.fitters.he.spread.Spread.squares", None)  # the short cut is not taken below
    monkeypatch.setattr(
        inference, "row_matrices", lambda problem, project, inner: inference.form_row_matrices(problem, project, True)
    )
    dense = sg.he("~ x + (1 | g)", frame, **options)
    for t in range(n_traits):
        np.testing.assert_allclose(
            found.uncertainty.covariance((0, 0), (0, t)),
            dense.uncertainty.covariance((0, 0), (0, t)),
            rtol=1e-8,
            atol=1e-14,
        )


@quiet
def test_sandwich_by_probes(monkeypatch):
    frame, _, K = genotype_frame()
    frame = frame.assign(id=range(80))
    exact = sg.he("y ~ x + (1 | id)", frame, relmat={"id": (K, range(80))})
    monkeypatch.setattr(inference, "DENSE_LIMIT", 10)
    found = sg.he("y ~ x + (1 | id)", frame, relmat={"id": (K, range(80))}, n_probes=2000, seed=1)
    np.testing.assert_allclose(found.varcorr()["se"], exact.varcorr()["se"], rtol=0.05)
    assert any("2000 random probes (seed 1); Monte Carlo error up to" in note for note in found.notes)
    with pytest.raises(OptionError, match=r"se='sandwich' with inner='triangle' needs n <= 10 or sparse kinships"):
        sg.he("y ~ x + (1 | id)", frame, relmat={"id": (K, range(80))}, inner="triangle")


@quiet
@pytest.mark.parametrize("inner", ["full", "triangle", "offdiag"])
def test_jackknife_leaves_families_out(inner, monkeypatch):
    """Against sums over pairs with a family struck out."""
    data = twins(pairs=15)
    fit = fit_twins(data, inner=inner, se="jackknife")
    problem = fit.model.problem
    n = problem.n
    P = np.eye(n) - problem.basis @ problem.basis.T
    K = [P @ A @ P for A in [np.eye(n), *slow.dense_components(problem)]]
    r = problem.residuals[:, 0]
    sparse_first = inference.sparse_size(problem.terms) <= inference.SPARSE_SHARE * n**2
    estimates = []
    for home in range(15):
        keep = np.arange(n) // 2 != home
        weight = (
            np.outer(keep, keep)
            * {
                "full": np.ones((n, n)),
                "triangle": np.triu(np.ones((n, n))),
                "offdiag": np.triu(np.ones((n, n)), 1),
            }[inner]
        )
        A = K if inner != "offdiag" else K[1:]
        s = np.linalg.solve([[np.sum(weight * a * b) for b in A] for a in A], [r @ (weight * a) @ r for a in A])
        if inner == "offdiag":
            traces = [np.trace(a[np.ix_(keep, keep)]) for a in K]
            s = np.concatenate([[(r[keep] @ r[keep] - s @ traces[1:]) / traces[0]], s])
        estimates.append(s)
    expected = 14 / 15 * np.sum((np.array(estimates) - np.mean(estimates, axis=0)) ** 2, axis=0)
    np.testing.assert_allclose(np.diag(fit.uncertainty.covariance((0, 0), (0, 0))), expected, rtol=1e-8)
    assert "jackknife over 15 families" in fit.notes
    monkeypatch.setattr(inference, "SPARSE_SHARE", 0.0 if sparse_first else 1.0)
    again = fit_twins(data, inner=inner, se="jackknife")
    np.testing.assert_allclose(again.varcorr()["se"], fit.varcorr()["se"], rtol=1e-8)


@quiet
def test_jackknife_over_groups_of_many_families(monkeypatch):
    monkeypatch.setattr(inference, "MAX_UNITS", 20)
    fit = fit_twins(twins(), se="jackknife", seed=1)
    assert "jackknife over 20 random groups of the 60 family units" in fit.notes
    assert (fit.varcorr()["se"] > 0).all()


@quiet
def test_jackknife_without_families():
    frame, _, K = genotype_frame()
    fit = sg.he("y ~ x + (1 | id)", frame.assign(id=range(80)), relmat={"id": (K, range(80))}, se="jackknife")
    assert any(note.startswith("jackknife over individuals: all rows are related") for note in fit.notes)


@quiet
def test_bootstrap_intervals():
    data = twins()
    fit = fit_twins(data, se="bootstrap", n_draws=300, seed=1)
    sandwich = fit_twins(data)
    np.testing.assert_allclose(fit.varcorr()["se"].iloc[-1], sandwich.varcorr()["se"].iloc[-1], rtol=0.4)
    wald, quantile = fit.conf_int(), fit.conf_int(kind="quantile")
    assert (quantile["lower"] >= 0).all()
    np.testing.assert_allclose(wald[["lower", "upper"]].mean(axis=1), wald["estimate"], rtol=1e-10)
    share = fit.conf_int(of="share", kind="quantile")
    assert ((share["lower"] >= 0) & (share["upper"] <= 1)).all()
    again = fit_twins(data, se="bootstrap", n_draws=300, seed=1)
    np.testing.assert_array_equal(fit.uncertainty.draws, again.uncertainty.draws)
    triangle = fit_twins(data, se="bootstrap", inner="triangle", n_draws=300, seed=1)
    np.testing.assert_allclose(triangle.varcorr()["se"], fit.varcorr()["se"], rtol=0.3)


@quiet
def test_intervals_are_centred_at_the_unconstrained_estimate():
    data = twins(common=0.0, seed=1)
    he, rehe = fit_twins(data, method="he"), fit_twins(data)
    assert he.varcorr()["variance"].min() < 0
    interval = rehe.conf_int(0.9)
    np.testing.assert_allclose(interval[["lower", "upper"]].mean(axis=1), he.varcorr()["variance"])
    assert rehe.conf_int(of="share").shape == (3, 3)
    assert fit_twins(data, se=None).varcorr()["se"].isna().all()


# -- slopes and several traits ------------------------------------------------------------------------------


def test_correlated_slopes_stay_in_the_cone():
    frame = sg.datasets.load("sleepstudy").frame
    free = sg.he("Reaction ~ Days + (1 + Days | Subject)", frame, method="he")
    names = ["Intercept|Subject", "Intercept:Days|Subject", "Days|Subject"]
    assert list(free.varcorr().index.get_level_values("term")) == [*names, "Residual"]
    G = free.covariance("Subject")
    reml = sg.he("Reaction ~ Days + (1 + Days | Subject)", frame, method="reml").covariance("Subject")
    assert np.abs(G / reml - 1).loc["Days", "Days"] < 0.2
    # fewer people: the unconstrained matrix is indefinite, that of REHE is not
    rng = np.random.default_rng(4)
    small = frame.assign(Reaction=rng.standard_normal(len(frame)))
    with pytest.warns(BoundaryWarning):
        free = sg.he("Reaction ~ Days + (1 + Days | Subject)", small, method="he", se=None)
    with pytest.warns(BoundaryWarning, match=r"covariance matrix of 'Subject' is estimated on the boundary \(singular"):
        kept = sg.he("Reaction ~ Days + (1 + Days | Subject)", small, se=None)
    assert np.linalg.eigvalsh(free.covariance("Subject"))[0] < 0
    assert np.linalg.eigvalsh(kept.covariance("Subject"))[0] >= -1e-10
    bars = sg.he("Reaction ~ Days + (1 + Days || Subject)", frame)
    assert list(bars.varcorr().index.get_level_values("term")) == ["Subject", "Days|Subject", "Residual"]


def test_terms_by_their_labels():
    """lme4's words for a slope: the term, or one of its components; what has no answer says what has one."""
    frame = sg.datasets.load("sleepstudy").frame
    fit = sg.he("Reaction ~ Days + (1 + Days | Subject)", frame)
    G = fit.G("Subject")
    assert list(G.index) == list(G.columns) == ["Intercept", "Days"]
    pd.testing.assert_frame_equal(G, fit.covariance("Subject"))
    assert G.loc["Days", "Days"] == fit.G("Days|Subject").iloc[0, 0] == fit.theta[3, 0, 0]
    u = fit.ranef("Subject")
    for effect in u.columns:
        one = fit.ranef(f"{effect}|Subject")
        assert list(one.columns) == ["Reaction"]
        np.testing.assert_array_equal(one["Reaction"], u[effect])
    several = r"'Subject' has several effects; ask for one of its components, 'Intercept\|Subject', 'Intercept:Days"
    with pytest.raises(OptionError, match=several):
        fit.h2("Subject")
    with pytest.raises(
        OptionError, match=r"'Intercept:Days\|Subject' is a covariance and has no effects; ask for 'Subj"
    ):
        fit.ranef("Intercept:Days|Subject")
    for wrong in ("subject", "Residual"):
        with pytest.raises(OptionError, match=f"no random term '{wrong}'; the terms are 'Subject'"):
            fit.ranef(wrong)
    both = sg.he("~ Days + (1 + Days | Subject)", frame, Y=frame[["Reaction"]].assign(b=frame["Reaction"] ** 0.5))
    assert both.covariance("Subject", "b").loc["Days", "Days"] == both.G("Days|Subject").loc["b", "b"]
    with pytest.raises(OptionError, match=several):
        both.G("Subject")
    with pytest.raises(OptionError, match="no trait 'c'; the traits are 'Reaction', 'b'"):
        both.covariance("Subject", "c")


@quiet
def test_several_traits_in_one_pass():
    data = twins(n_traits=3)
    together = fit_twins(data)
    for j, trait in enumerate(data.Y):
        alone = sg.he(f"{trait} {data.formula}", data.frame.join(data.Y), relmat=data.relmat)
        np.testing.assert_allclose(together.theta[:, j, j], alone.theta[:, 0, 0], rtol=1e-10, atol=1e-14)
        np.testing.assert_allclose(together.varcorr()["se"].xs(trait, level="trait"), alone.varcorr()["se"].to_numpy())
    assert together.h2().shape == (2, 3)
    assert list(together.h2("id").index) == list(data.Y)
    np.testing.assert_allclose(together.G("id"), together.G("id").T)
    assert together.R().shape == (3, 3)
    assert together.fixef().shape == (3, 3)
    assert together.ranef("id").shape == (120, 3)
    assert len(together.rg("id")) == 3
    assert len(together.rg()) == 6


def test_correlation_interval_by_simulation():
    """The delta method's standard error of a correlation is that of repeated data."""
    rng = np.random.default_rng(1)
    block = np.linalg.cholesky([[1.0, 0.8, 0.2], [0.8, 1.0, 0.4], [0.2, 0.4, 1.0]])
    root = np.linalg.cholesky([[1.0, 0.6], [0.6, 1.0]])
    data = sg.simulate.trio(families=200, seed=1)
    found, errors = [], []
    for _ in range(60):
        u = (block @ rng.standard_normal((200, 3, 2))).reshape(600, 2) @ root.T
        Y = pd.DataFrame(u + 0.7 * rng.standard_normal((600, 2)), columns=["a", "b"])
        rg = sg.he("~ 1 + (1 | id)", data.frame, Y=Y, relmat=data.relmat).rg()
        found.append(rg["rg"].iloc[0])
        errors.append(rg["se"].iloc[0])
    assert np.mean(found) == pytest.approx(0.6, abs=0.03)
    assert np.mean(errors) == pytest.approx(np.std(found, ddof=1), rel=0.3)


# -- markers ------------------------------------------------------------------------------------------------


@quiet
def test_markers_are_a_kinship_never_formed(tmp_path):
    frame, G, K = genotype_frame()
    ids = [f"i{k}" for k in range(80)]
    frame = frame.assign(id=ids)
    exact = sg.he("y ~ x + (1 | id)", frame, relmat={"id": (K, ids)}, method="he", se=None)
    write_plink(tmp_path / "m.bed", [G], ids, [f"m{j}" for j in range(G.shape[1])])
    tables = {
        "int8": G,
        "float": G.astype(float),
        "frame": pd.DataFrame(G, index=ids),
        "sparse": sparse.csc_array(G),
        "bed": tmp_path / "m.bed",
    }
    first = None
    for table in tables.values():
        fit = sg.he("y ~ x", frame, markers={"chip": table}, method="he", se=None, n_probes=400, seed=1)
        np.testing.assert_allclose(fit.moments.c, exact.moments.c, rtol=1e-6)
        assert fit.moments.S[0, 1] == pytest.approx(exact.moments.S[0, 1], rel=1e-6)
        assert fit.moments.S[1, 1] == pytest.approx(exact.moments.S[1, 1], rel=0.05)
        first = fit if first is None else first
        np.testing.assert_allclose(fit.theta, first.theta, rtol=1e-5)


@quiet
def test_markers_with_missing_genotypes_and_dropped_rows(tmp_path):
    frame, G, _ = genotype_frame()
    ids = [f"i{k}" for k in range(80)]
    gaps = G.astype(float)
    gaps[np.random.default_rng(0).random(G.shape) < 0.05] = np.nan
    write_plink(tmp_path / "m.bed", [gaps], ids, [f"m{j}" for j in range(G.shape[1])])
    with pytest.warns(DroppedRowsWarning):
        holes = sg.he(
            "y ~ x",
            frame.assign(id=ids, x=frame["x"].where(frame.index != 7)),
            markers={"a": tmp_path / "m.bed"},
            seed=1,
        )
    kept = np.arange(80) != 7
    f = np.nanmean(gaps[kept], axis=0)
    W = np.where(np.isnan(gaps[kept]), 0.0, (gaps[kept] - f) / np.sqrt(f * (1 - f / 2)))
    r = holes.model.problem.residuals[:, 0]
    np.testing.assert_allclose(holes.moments.c[1, 0, 0], np.sum((W.T @ r) ** 2) / W.shape[1], rtol=1e-6)
    assert (holes.varcorr()["se"] > 0).all()


@quiet
@pytest.mark.parametrize("with_weights", [False, True])
def test_markers_in_predictions(with_weights, tmp_path):
    """What the markers add to rows, old and new, is the BLUP of the formed kinship; under weights too."""
    frame, G, _ = genotype_frame(n=100)
    ids = [f"i{k}" for k in range(100)]
    frame = frame.assign(z=frame["x"] ** 2, y=frame["y"] + np.random.default_rng(2).standard_normal(100)).set_axis(ids)
    gaps = G.astype(float)
    gaps[np.random.default_rng(0).random(G.shape) < 0.05] = np.nan
    table = pd.DataFrame(gaps, index=ids).add_prefix("m")
    weights = np.random.default_rng(1).uniform(0.3, 3.0, 80) if with_weights else None
    old, new = frame.iloc[:80], frame.iloc[80:]
    f = np.nanmean(gaps[:80], axis=0)
    W = np.where(np.isnan(gaps), 0.0, (gaps - f) / np.sqrt(f * (1 - f / 2)))
    K = W @ W.T / W.shape[1]
    exact = sg.he("y + z ~ x + (1 | id)", old.assign(id=ids[:80]), relmat={"id": (K, ids)}, weights=weights, se=None)
    fit = sg.he("y + z ~ x", old, markers={"chip": table}, weights=weights, se=None, n_probes=1000, seed=1)
    np.testing.assert_allclose(fit.moments.c, exact.moments.c, rtol=1e-10)
    np.testing.assert_allclose(fit.moments.S, exact.moments.S, rtol=0.02)
    # at the variances found with the probes
    variances = fit.model.variances
    assert (variances[0] > 0.1).all()
    for j, trait in enumerate(["y", "z"]):
        root = np.ones(80) if weights is None else np.sqrt(weights)
        V = variances[j, 0] * np.eye(80) + variances[j, 1] * (root[:, None] * K[:80, :80] * root)
        X = np.column_stack([np.ones(100), frame["x"]])
        whitened = X[:80] * root[:, None]
        beta = np.linalg.solve(
            whitened.T @ np.linalg.solve(V, whitened), whitened.T @ np.linalg.solve(V, root * old[trait])
        )
        u = variances[j, 1] * K[:, :80] @ (root * np.linalg.solve(V, root * (old[trait] - X[:80] @ beta)))
        np.testing.assert_allclose(fit.ranef("chip")[trait], u[:80], atol=1e-7)
        np.testing.assert_allclose(fit.fitted()[trait], (X @ beta + u)[:80], atol=1e-7)
        found = fit.predict(new, markers={"chip": table})[trait]
        np.testing.assert_allclose(found, (X @ beta + u)[80:], atol=1e-7)
        np.testing.assert_allclose(fit.predict(new, random="none")[trait], (X @ beta)[80:], atol=1e-7)
    # the same from a .bed, and from new rows alone, columns in another order
    write_plink(tmp_path / "m.bed", [gaps], ids, table.columns)
    bed = sg.he("y + z ~ x", old, markers={"chip": tmp_path / "m.bed"}, weights=weights, se=None, n_probes=1000, seed=1)
    np.testing.assert_allclose(
        bed.predict(new, markers={"chip": tmp_path / "m.bed"}), fit.predict(new, markers={"chip": table}), atol=1e-6
    )
    np.testing.assert_allclose(
        fit.predict(new, markers={"chip": table.loc[new.index].iloc[:, ::-1]}),
        fit.predict(new, markers={"chip": table}),
        atol=1e-10,
    )
    assert list(fit.marker_effects().index) == list(table.columns)
    again = pickle.loads(pickle.dumps(fit))
    pd.testing.assert_frame_equal(again.fitted(), fit.fitted())


@quiet
def test_bins_add_up_in_predictions():
    frame, G, _ = genotype_frame()
    bins = pd.DataFrame({"coding": np.arange(300) % 3 == 0, "other": np.arange(300) % 3 != 0})
    frame = frame.assign(home=np.arange(80) // 4)
    fit = sg.he("y ~ x + (1 | home)", frame, markers={"chip": G}, annotation=bins, se=None, n_probes=100, seed=1)
    assert (fit.marker_effects("chip[coding]").to_numpy()[~bins["coding"]] == 0).all()
    parts = [fit.ranef(label).to_numpy() for label in ("chip[coding]", "chip[other]")]
    home = fit.ranef("home").to_numpy()[frame["home"]]
    np.testing.assert_allclose(fit.fitted() - fit.predict(random="none"), parts[0] + parts[1] + home, atol=1e-12)
    np.testing.assert_allclose(fit.predict(frame, markers={"chip": G}), fit.fitted(), atol=1e-10)
    one = fit.predict(frame, markers={"chip": G}, random=["chip[other]"]) - fit.predict(random="none")
    np.testing.assert_allclose(one, parts[1], atol=1e-10)
    for markers in (None, {"chip[other]": G}, G):
        with pytest.raises(
            OptionError, match=r"new rows need their markers; pass markers=\{'chip': table\} with newdata"
        ):
            fit.predict(frame, markers=markers)
    with pytest.raises(OptionError, match=r"no random term 'chip'; the terms are 'home', 'chip\[coding\]'"):
        fit.predict(frame, random="chip")
    with pytest.raises(OptionError, match=r"no markers None; there are 'chip\[coding\]', 'chip\[other\]'"):
        fit.marker_effects()
    with pytest.raises(OptionError, match=r"this fit has no markers="):
        sg.he("y ~ x + (1 | home)", frame).marker_effects()
    with pytest.raises(OptionError, match="no random term 'chip'; the formula has none"):
        sg.he("y ~ x", frame, markers={"chip": G}, se=None).covariance("chip")
    with pytest.raises(OptionError, match="markers are called 'home' like a random term"):
        sg.he("y ~ x + (1 | home)", frame, markers={"home": G})


@quiet
def test_bins_and_the_jackknife_over_blocks():
    frame, G, _ = genotype_frame(m=600)
    bins = pd.DataFrame({"coding": np.arange(600) % 3 == 0, "other": np.arange(600) % 3 != 0})
    fit = sg.he("y ~ x", frame, markers={"chip": G}, annotation=bins, method="he", se="jackknife", n_blocks=20, seed=1)
    assert fit.names == ("Residual", "chip[coding]", "chip[other]")
    assert (fit.varcorr()["se"] > 0).all()
    one = sg.he("y ~ x", frame, markers={"chip": G}, method="he", se="jackknife", n_blocks=20, n_probes=50, seed=1)
    # against leaving blocks out by hand, with the same probes
    edges = np.linspace(0, 600, 21).astype(int)
    left = []
    for a, b in pairwise(edges):
        rest = np.delete(G, np.arange(a, b), axis=1)
        left.append(sg.he("y ~ x", frame, markers={"chip": rest}, method="he", se=None, n_probes=50, seed=1).theta)
    left = np.array(left)[:, :, 0, 0]
    expected = np.sqrt(19 / 20 * np.sum((left - left.mean(axis=0)) ** 2, axis=0))
    np.testing.assert_allclose(one.varcorr()["se"], expected[[1, 0]], rtol=1e-3)


@quiet
def test_markers_beside_a_kinship():
    frame, G, K = genotype_frame()
    frame = frame.assign(home=np.arange(80) // 4, id=range(80))
    exact = sg.he("y ~ x + (1 | home) + (1 | id)", frame, relmat={"id": (K, range(80))}, method="he", se=None)
    fit = sg.he("y ~ x + (1 | home)", frame, markers={"chip": G}, method="he", se=None, n_probes=3000, seed=1)
    np.testing.assert_allclose(fit.moments.S, exact.moments.S, rtol=0.05)
    fixed = fit.fixef()
    assert fixed.notna().all(axis=None)


def test_refused_markers():
    frame, G, _ = genotype_frame()
    with pytest.raises(OptionError, match="markers must be a dict"):
        sg.he("y ~ 1", frame, markers=G)
    with pytest.raises(OptionError, match=r"annotation has 3 rows, 'a' has 300 markers"):
        sg.he("y ~ 1", frame, markers={"a": G}, annotation=np.ones((3, 1)))
    with pytest.raises(OptionError, match=r"annotation= splits one table of markers, got 2"):
        sg.he("y ~ 1", frame, markers={"a": G, "b": G}, annotation=np.ones((300, 1)))
    with pytest.raises(OptionError, match="annotation= says how to split"):
        sg.he("y ~ 1", frame, annotation=np.ones((300, 1)))
    with pytest.raises(OptionError, match=r"markers= need inner='full'"):
        sg.he("y ~ 1", frame, markers={"a": G}, inner="triangle")
    with pytest.raises(OptionError, match=r"method='reml' needs formed kinships"):
        sg.he("y ~ 1", frame, markers={"a": G}, method="reml")
    with pytest.raises(OptionError, match="draws individuals from formed kinships"):
        sg.he("y ~ 1", frame, markers={"a": G}, method="rerehe")
    with pytest.raises(DataError, match="no marker varies"):
        sg.he("y ~ 1", frame, markers={"a": np.ones((80, 5))})
    with pytest.raises(OptionError, match="bootstrap"):
        sg.he("y ~ 1", frame, markers={"a": G}, se="bootstrap")


# -- distances -----------------------------------------------------------------------------------------------


class LabelledMatrix:
    """As scikit-bio's DistanceMatrix: data and ids."""

    def __init__(self, data, ids):
        self.data, self.ids = data, tuple(ids)


@quiet
def test_labelled_distances_are_matched():
    data = sg.simulate.microbiome(pairs=30, seed=2)
    D = data.distances["aitchison"]
    base = sg.he(data.formula, data.frame, relmat=data.relmat, distance=D, permutations=19, seed=1)
    order = np.random.default_rng(1).permutation(60)
    forms = [D.iloc[order, order[::-1]], LabelledMatrix(D.to_numpy(), D.index), (D.to_numpy(), D.index), D.to_numpy()]
    for form in forms:
        fit = sg.he(data.formula, data.frame, relmat=data.relmat, distance=form, permutations=19, seed=1)
        np.testing.assert_allclose(fit.theta, base.theta, rtol=1e-10)
    assert base.varcorr()["p"].iloc[:-1].between(0.05, 1).all()
    assert np.isnan(base.varcorr()["p"].iloc[-1])
    again = sg.he(data.formula, data.frame, relmat=data.relmat, distance=D, permutations=19, seed=1)
    np.testing.assert_array_equal(base.p_values, again.p_values)
    with pytest.raises(OptionError, match="a distance response has no fixed effects"):
        base.fixef()


@quiet
@pytest.mark.parametrize("inner", ["full", "triangle", "offdiag"])
@pytest.mark.parametrize("project", [True, False])
def test_distance_moments_by_definition(inner, project):
    data = sg.simulate.microbiome(pairs=15, seed=2)
    D = data.distances["aitchison"].to_numpy()
    fit = sg.he(data.formula, data.frame, relmat=data.relmat, distance=D, permutations=0, inner=inner, project=project)
    problem = fit.model.problem
    n = problem.n
    J = np.eye(n) - 1 / n
    P = np.eye(n) - problem.basis @ problem.basis.T
    M = P @ (-0.5 * J @ D**2 @ J) @ P
    K = [np.eye(n), *slow.dense_components(problem)]
    K = [P @ A @ P for A in K] if project else K
    weight = {"full": np.ones((n, n)), "triangle": np.triu(np.ones((n, n))), "offdiag": np.triu(np.ones((n, n)), 1)}
    c = [np.sum(weight[inner] * A * M) for A in K]
    np.testing.assert_allclose(fit.moments.c[:, 0, 0], c[1:] if inner == "offdiag" else c, rtol=1e-9)


@quiet
def test_distance_is_the_sum_over_its_traits():
    """Squared Euclidean distances of several traits add up, and so do their moments."""
    data = twins(n_traits=4)
    Y = data.Y.to_numpy()
    D = np.sqrt(((Y[:, None] - Y) ** 2).sum(axis=2))
    fit = sg.he(data.formula, data.frame, relmat=data.relmat, distance=D, method="he", permutations=0)
    traits = fit_twins(data, method="he", se=None)
    np.testing.assert_allclose(fit.theta[:, 0, 0], np.einsum("itt->i", traits.theta), rtol=1e-8, atol=1e-10)


@quiet
def test_permutations_find_structure_and_only_that():
    data = sg.simulate.microbiome(pairs=40, seed=3)
    formula = "~ age + (1 | household)"
    fit = sg.he(formula, data.frame, distance=data.distances["aitchison"], permutations=99, seed=1)
    assert fit.varcorr()["p"].iloc[0] == 0.01
    shuffled = np.random.default_rng(1).permutation(80)
    D = data.distances["aitchison"].to_numpy()[np.ix_(shuffled, shuffled)]
    assert sg.he(formula, data.frame, distance=D, permutations=99, seed=1).varcorr()["p"].iloc[0] > 0.05


@quiet
def test_distance_corrections():
    data = sg.simulate.microbiome(pairs=30, seed=2)
    D = data.distances["bray_curtis"]
    with pytest.warns(SlamWarning, match=r"the distance is not Euclidean: \d+ of 60 eigenvalues"):
        sg.he(data.formula, data.frame, relmat=data.relmat, distance=D, permutations=0)
    for correction in ("sqrt", "lingoes"):
        fit = sg.he(data.formula, data.frame, relmat=data.relmat, distance=D, correction=correction, permutations=0)
        assert f"the distance is Euclidean after correction='{correction}'" in fit.notes


def test_refused_distances():
    data = sg.simulate.microbiome(pairs=10, seed=2)
    D = data.distances["aitchison"]

    def fit(distance=D, formula="~ age + (1 | household)", **options):
        return sg.he(formula, data.frame, distance=distance, permutations=0, **options)

    with pytest.raises(DataError, match="distance must be square"):
        fit(np.zeros((2, 3)))
    with pytest.raises(DataError, match=r"distance: expected 20 rows, as data has, got 5"):
        fit(np.zeros((5, 5)))
    with pytest.raises(DataError, match=r"1 of 20 rows of data are not among the 19 rows of distance: 'p01'"):
        fit(D.iloc[1:, 1:])
    with pytest.raises(DataError, match="distance must be symmetric"):
        fit(D.to_numpy() + np.triu(np.ones((20, 20)), 1))
    with pytest.raises(DataError, match="is it a similarity"):
        fit(np.eye(20))
    with pytest.raises(DataError, match="missing or infinite"):
        fit(D.where(D < 1e9).to_numpy() * np.nan)
    with pytest.raises(OptionError, match="a distance response needs an intercept"):
        fit(formula="~ 0 + age + (1 | household)")
    with pytest.raises(OptionError, match="distance= takes the place of the response"):
        fit(formula="age ~ 1 + (1 | household)")
    with pytest.raises(OptionError, match="correction='cailliez': expected 'sqrt', 'lingoes' or None"):
        fit(correction="cailliez")
    with pytest.raises(OptionError, match=r"distance= is fitted by moments"):
        fit(method="reml")


# -- subsamples ----------------------------------------------------------------------------------------------


@quiet
def test_rerehe_draws_families_and_pools():
    data = sg.simulate.trio(families=200, seed=1)
    fit = sg.he(data.formula, data.frame, Y=data.Y, relmat=data.relmat, method="rerehe", seed=1)
    assert fit.notes[0] == "reREHE: 50 subsamples of 10% of the families, pooled"
    assert fit.n_skipped == 0
    full = sg.he(data.formula, data.frame, Y=data.Y, relmat=data.relmat)
    np.testing.assert_allclose(fit.theta, full.theta, atol=0.04)
    whole = sg.he(
        data.formula, data.frame, Y=data.Y, relmat=data.relmat, method="rerehe", subsample={"ratio": 1.0, "times": 3}
    )
    np.testing.assert_allclose(whole.theta, full.theta, rtol=1e-10)
    for rule in ("mean", "median"):
        one = sg.he(
            data.formula,
            data.frame,
            Y=data.Y,
            relmat=data.relmat,
            method="rerehe",
            subsample={"rule": rule, "times": 7},
            seed=2,
        )
        assert np.isfinite(one.theta).all()


@quiet
def test_rerehe_finds_families_in_a_nearly_sparse_kinship():
    data = sg.simulate.trio(families=30, condition=3, seed=1)
    problem = build_problem(sg.design(data.formula, data.frame, Y=data.Y, relmat=data.relmat))
    np.testing.assert_array_equal(close_families(problem), np.repeat(np.arange(30), 3))


@quiet
def test_rerehe_of_a_dense_kinship_warns():
    frame, _, K = genotype_frame()
    with pytest.warns(SlamWarning, match="the kinship ties all rows together, so individuals are drawn"):
        sg.he(
            "y ~ 1 + (1 | id)",
            frame.assign(id=range(80)),
            relmat={"id": (K, range(80))},
            method="rerehe",
            seed=1,
            se=None,
            subsample={"ratio": 0.5},
        )


@pytest.mark.parametrize(("n", "size", "times"), [(10, 3, 7), (7, 7, 3), (30, 3, 50), (5, 4, 20)])
def test_balanced_draws(n, size, times):
    draws = balanced_draws(n, size, times, np.random.default_rng(0))
    assert all(len(set(draw.tolist())) == size for draw in draws)
    counts = np.bincount(np.concatenate(draws), minlength=n)
    assert counts.max() - counts.min() <= 2


def test_refused_subsamples():
    data = sg.simulate.trio(families=20, seed=1)

    def fit(subsample, **options):
        return sg.he(
            data.formula, data.frame, Y=data.Y, relmat=data.relmat, method="rerehe", subsample=subsample, **options
        )

    for subsample, message in (
        ({"ratio": 0}, r"subsample\['ratio'\]=0: expected a finite number above 0 and of at most 1"),
        ({"times": 0}, r"subsample\['times'\]=0: expected an integer of at least 1"),
        ({"rule": "mode"}, r"subsample\['rule'\]='mode': expected 'pooled', 'mean' or 'median'"),
        ({"unit": "house"}, r"subsample\['unit'\]='house': expected 'auto', 'family' or 'individual'"),
        ({"share": 0.1}, r"subsample has 'share'; it knows ratio, times, rule, unit, replace"),
    ):
        with pytest.raises(OptionError, match=message):
            fit(subsample)
    with pytest.raises(OptionError, match="a person meets itself"):
        fit({"replace": True, "unit": "individual"}, inner="offdiag")
    with pytest.raises(FitError, match="none of the 3 subsamples can tell the components apart"):
        fit({"ratio": 0.01, "times": 3, "unit": "individual"}, se=None, seed=4)


# -- REML ---------------------------------------------------------------------------------------------------


@quiet
def test_reml_ways_agree(monkeypatch):
    """Rotation, dense rows, dense levels and sparse levels give one optimum."""
    data = twins(seed=5)
    K = data.relmat["id"].to_frame()
    formula = "~ age + (1 | id)"
    fits = {"sparse": sg.he(formula, data.frame, Y=data.Y, relmat=data.relmat, method="reml")}
    fits["rotation"] = sg.he(formula, data.frame, Y=data.Y, relmat={"id": K}, method="reml")
    both = "~ age + (1 | id) + (1 | household)"
    fits["sparse two"] = sg.he(both, data.frame, Y=data.Y, relmat=data.relmat, method="reml")
    fits["rows two"] = sg.he(both, data.frame, Y=data.Y, relmat={"id": K}, method="reml")
    for a, b in (("sparse", "rotation"), ("sparse two", "rows two")):
        np.testing.assert_allclose(fits[a].theta, fits[b].theta, atol=1e-5)
        assert fits[a].loglik[0] == pytest.approx(fits[b].loglik[0], abs=1e-7)
        np.testing.assert_allclose(fits[a].varcorr()["se"], fits[b].varcorr()["se"], rtol=1e-3)


def test_reml_standard_errors_are_those_of_repeated_data():
    found = []
    for seed in range(40):
        data = sg.simulate.trio(families=150, seed=seed)
        fit = sg.he("~ 1 + (1 | id)", data.frame, Y=data.Y, relmat=data.relmat, method="reml")
        found.append([*fit.varcorr()["variance"], *fit.varcorr()["se"]])
    found = np.array(found)
    np.testing.assert_allclose(found[:, 2:].mean(axis=0), found[:, :2].std(axis=0, ddof=1), rtol=0.3)


def test_reml_without_random_terms_is_least_squares():
    frame, _, _ = genotype_frame()
    fit = sg.he("y ~ x", frame, method="reml")
    X = np.column_stack([np.ones(80), frame["x"]])
    beta, squares, *_ = np.linalg.lstsq(X, frame["y"], rcond=None)
    np.testing.assert_allclose(fit.fixef()["y"], beta)
    assert fit.varcorr()["variance"].iloc[0] == pytest.approx(squares[0] / 78)


def test_likelihood_of_too_many_rows_is_refused(monkeypatch):
    monkeypatch.setattr("slamglmm.fitters.he.mixed.DENSE_LIMIT", 10)
    frame, _, K = genotype_frame()
    with pytest.raises(OptionError, match=r"a likelihood for 80 rows"):
        sg.he("y ~ x + (1 | id)", frame.assign(id=range(80)), relmat={"id": (K, range(80))}, method="reml")


# -- messages ------------------------------------------------------------------------------------------------


def test_estimate_at_zero_and_below():
    data = twins(common=0.0, seed=1)
    with pytest.warns(BoundaryWarning, match=r"variance of 'household' is estimated at zero \(boundary\)"):
        fit = fit_twins(data)
    assert fit.theta[2, 0, 0] == 0.0
    assert any("estimated at zero" in note for note in fit.notes)
    assert "* variance of 'household' is estimated at zero" in str(fit)
    with pytest.warns(BoundaryWarning, match=r"estimated below zero \(-0\.\d+\); method='rehe' keeps it at zero"):
        fit_twins(data, method="he")
    several = twins(common=0.0, seed=8, n_traits=4)
    with pytest.warns(BoundaryWarning, match=r"estimated at zero \(boundary\) for 'trait"):
        fit_twins(several)


def test_share_above_one():
    rng = np.random.default_rng(0)
    g = np.repeat(np.arange(30), 2)
    u = rng.standard_normal(30)[g]
    # members of a group differ less than independent noise would let them: repulsion makes the residual negative
    frame = pd.DataFrame({"g": g, "y": u + 1e-3 * rng.standard_normal(60)})
    frame["id"] = np.arange(60)
    A = np.kron(np.eye(30), [[1.0, 0.5], [0.5, 1.0]])
    with pytest.warns(BoundaryWarning) as caught:
        sg.he("y ~ 1 + (1 | id)", frame, relmat={"id": (A, range(60))}, method="he")
    text = " ".join(str(w.message) for w in caught)
    assert "share of 'id' is above 1 (h2 = " in text
    assert "variance of the residual is estimated below zero" in text


@quiet
def test_collinear_kinships():
    data = twins(identical=1.0)  # all pairs identical: genes and household are one matrix
    K = data.relmat["id"].to_frame()
    K += 1e-7 * np.eye(120)
    with pytest.warns(SlamWarning, match=r"kinships are collinear: the Gram matrix.*'id' and 'household' correlate"):
        sg.he("~ age + (1 | id) + (1 | household)", data.frame, Y=data.Y, relmat={"id": K})


@quiet
def test_collinear_fixed_effects():
    data = twins()
    frame = data.frame.assign(months=12 * data.frame["age"])
    with pytest.warns(
        SlamWarning, match=r"fixed effects are collinear: 'months' is a combination of 'age'; it is left out"
    ):
        fit = sg.he("~ age + months + (1 | household)", frame, Y=data.Y)
    assert np.isnan(fit.fixef().loc["months"].iloc[0])
    plain = sg.he("~ age + (1 | household)", frame, Y=data.Y)
    np.testing.assert_allclose(fit.theta, plain.theta, rtol=1e-10)
    np.testing.assert_allclose(fit.fitted(), plain.fitted(), rtol=1e-9)


def test_refused_models():
    frame, _, K = genotype_frame()
    frame = frame.assign(id=range(80), one="a")
    with pytest.raises(DataError, match=r"the formula has no random term"):
        sg.he("y ~ x", frame)
    with pytest.raises(DataError, match=r"he\(\) needs a response"):
        sg.he("~ x + (1 | id)", frame)
    with pytest.raises(DataError, match=r"random term 'id' cannot be told from the residual"):
        sg.he("y ~ x + (1 | id)", frame)
    with pytest.raises(
        DataError, match=r"between levels. In its relationship matrix these are zero \(is it an inverse"
    ):
        sg.he("y ~ x + (1 | id)", frame, relmat={"id": (np.eye(80), range(80))})
    with pytest.raises(DataError, match=r"random term 'one' has a single level \('a'\)"):
        sg.he("y ~ x + (1 | one)", frame)
    with pytest.raises(RelmatError, match=r"relmat for group 'id' lacks 1 of 80 levels \(first: '79'\)"):
        sg.he("y ~ x + (1 | id)", frame, relmat={"id": (K[:79, :79], range(79))})
    crooked = K.copy()
    crooked[3, 4] += 1
    with pytest.raises(RelmatError, match=r"must be symmetric; entry \('3', '4'\)"):
        sg.he("y ~ x + (1 | id)", frame, relmat={"id": (crooked, range(80))})
    few = frame.iloc[:3].assign(a=[1.0, 2, 4], b=[1.0, 3, 2])
    with pytest.raises(DataError, match=r"3 rows cannot estimate 3 fixed effects and a variance; more rows"):
        sg.he("y ~ a + b + (1 | id)", few, relmat={"id": (K, range(80))})
    with pytest.raises(DataError, match=r"component 'g' is zero once the fixed effects are taken off"):
        sg.he("y ~ 0 + g + (1 | g)", frame.assign(g=list("ab") * 40))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "minque"}, r"method='minque': expected 'rehe', 'he', 'rerehe', 'reml' or 'ml'"),
        ({"inner": "upper"}, r"inner='upper': expected 'full', 'triangle' or 'offdiag'"),
        ({"se": "wild"}, r"se='wild': expected 'sandwich', 'jackknife', 'bootstrap' or None"),
        ({"backend": "ray"}, r"backend='ray': expected 'dask' or None"),
        ({"n_draws": 1}, r"n_draws=1: expected an integer of at least 2\."),
        ({"n_probes": 1}, r"n_probes=1: expected an integer of at least 2, or None"),
        ({"n_probes": 2.5}, r"n_probes=2.5: expected an integer of at least 2, or None"),
        ({"n_blocks": "a"}, r"n_blocks='a': expected an integer of at least 2\."),
        ({"permutations": 1.5}, r"permutations=1.5: expected an integer of at least 0\."),
        ({"project": "a"}, r"project='a': expected True or False\."),
        ({"seed": True}, r"seed=True: expected an integer of at least 0, or None"),
        ({"method": ["reml"]}, r"method=\['reml'\]: expected 'rehe', 'he'"),
        ({"subsample": 3}, r"subsample=3: expected a dict such as {'ratio': 0.1, 'times': 50}"),
        ({"subsample": {"ratio": "a"}}, r"subsample\['ratio'\]='a': expected a finite number above 0 and of at most 1"),
        ({"subsample": {"times": 1.5}}, r"subsample\['times'\]=1.5: expected an integer of at least 1"),
        ({"subsample": {"replace": 3}}, r"subsample\['replace'\]=3: expected True or False"),
        ({"contrasts": 3}, r"contrasts=3: expected a dict from columns to 'poly', 'sum', 'treatment' or 'helmert'"),
        ({"correction": "zzz"}, r"correction='zzz': expected 'sqrt', 'lingoes' or None"),
        ({"correction": "sqrt"}, r"correction='sqrt' is of a distance, and there is none; give distance= too"),
    ],
)
def test_refused_options(options, message):
    with pytest.raises(OptionError, match=message):
        fit_twins(twins(), **options)


@pytest.mark.parametrize("distance", ["a", 3j, [[1, 2], [3]], {"a": 1}, pd.DataFrame([["a"]])], ids=repr)
def test_a_distance_that_is_none(distance):
    frame, _, K = genotype_frame()
    with pytest.raises(DataError, match=r"distance must hold numbers, a row and a column for each row of data, got "):
        sg.he("~ x + (1 | id)", frame.assign(id=range(80)), relmat={"id": (K, range(80))}, distance=distance)


@quiet
def test_refused_questions():
    fit = fit_twins(twins(), se=None)
    with pytest.raises(OptionError, match="this fit has no standard errors"):
        fit.conf_int()
    with pytest.raises(OptionError, match="rg\\(\\) needs several traits"):
        fit.rg()
    with pytest.raises(OptionError, match="no component 'mother'; there are 'Residual', 'id', 'household'"):
        fit.h2("mother")
    with pytest.raises(OptionError, match="ranef\\(\\) needs a label"):
        fit.ranef()
    with pytest.raises(OptionError, match="aic and bic need one trait"):
        _ = fit.aic
    sandwich = fit_twins(twins())
    with pytest.raises(OptionError, match="kind='quantile' needs bootstrap draws"):
        sandwich.conf_int(kind="quantile")
    with pytest.raises(OptionError, match="of must be"):
        sandwich.conf_int(of="ratio")


@quiet
def test_rows_without_a_response_are_dropped():
    data = twins()
    Y = data.Y.copy()
    Y.iloc[5] = np.nan
    with pytest.warns(DroppedRowsWarning, match=r"1 of 120 rows dropped"):
        fit = sg.he(data.formula, data.frame, Y=Y, relmat=data.relmat)
    assert fit.nobs == 119
    assert "119 (1 dropped" in str(fit)


@quiet
def test_results_are_saved_printed_and_pickled(tmp_path):
    fit = fit_twins(twins(n_traits=2))
    fit.save(tmp_path / "fit")
    again = sg.load(tmp_path / "fit")
    pd.testing.assert_frame_equal(again.varcorr(), fit.varcorr())
    pd.testing.assert_frame_equal(pickle.loads(pickle.dumps(fit)).ranef("id"), fit.ranef("id"))
    text = str(fit)
    assert text.startswith("REHE: Haseman-Elston regression")
    assert "<table" in fit._repr_html_()
    pd.testing.assert_frame_equal(fit.to_frame(), fit.varcorr())
    reml = fit_twins(twins(), method="reml", se=None)
    assert "log likelihood" in str(reml)


@quiet
def test_inputs_stay_as_they_were():
    data = twins()
    frame, Y, K = data.frame.copy(), data.Y.copy(), data.relmat["id"].matrix.copy()
    fit_twins(data, se="jackknife").ranef("id")
    fit_twins(data, method="reml")
    pd.testing.assert_frame_equal(frame, data.frame)
    pd.testing.assert_frame_equal(Y, data.Y)
    assert (data.relmat["id"].matrix != K).nnz == 0


def test_a_million_pairs_of_levels_are_never_formed():
    """Two groups of 40 levels in 200,000 rows: an n x n pattern would have 5e9 entries."""
    rng = np.random.default_rng(1)
    n = 200_000
    frame = pd.DataFrame({"g": rng.integers(0, 40, n), "h": rng.integers(0, 40, n)})
    u, v = rng.standard_normal((2, 40))
    frame["y"] = u[frame["g"]] + v[frame["h"]] + rng.standard_normal(n)
    fit = sg.he("y ~ 1 + (1 | g) + (1 | h)", frame, se=None)
    np.testing.assert_allclose(fit.varcorr()["variance"], [1, 1, 1], atol=0.8)
    assert fit.varcorr()["variance"].iloc[-1] == pytest.approx(1.0, abs=0.05)
    np.testing.assert_allclose(fit.ranef("g").to_numpy()[:, 0] - u + u.mean(), 0, atol=0.3)


def test_moments_object_is_reusable():
    data = twins()
    problem = build_problem(sg.design(data.formula, data.frame, Y=data.Y, relmat=data.relmat))
    moments = compute_moments(problem)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fit = fit_twins(data)
    np.testing.assert_allclose(moments.equations().S, fit.moments.S)
    assert fit.model.moments.equations("triangle").S.shape == (3, 3)
    with pytest.raises(OptionError):
        moments + compute_moments(problem.take(np.arange(100)))


def test_relmat_objects_pass_through():
    data = twins()
    dense = Relmat(pd.Index(data.frame["id"]), np.asarray(data.relmat["id"].to_frame()), "id")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        np.testing.assert_allclose(
            sg.he(data.formula, data.frame, Y=data.Y, relmat={"id": dense}, se=None).theta,
            fit_twins(data, se=None).theta,
            atol=1e-12,
        )
