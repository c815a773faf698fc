"""`he` against REHE's R code, GENESIS, RHE-mc and exact solutions stored with their inputs."""

import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from scipy import sparse

import slamglmm as sg
from slamglmm.errors import SlamWarning
from slamglmm.fitters.he.inference import bootstrap
from slamglmm.fitters.he.moments import compute_moments
from slamglmm.fitters.he.solvers import solve_equations
from slamglmm.fitters.he.spread import cones_of
from slamglmm.fitters.he.subsampling import combine, subsample_equations
from slamglmm.linalg.nnls import nonnegative_least_squares, solve_symmetric
from tests.reference import published

pytestmark = [
    pytest.mark.skipif(not published.names("rehe"), reason="the reference folder is not here"),
    pytest.mark.filterwarnings("ignore::slamglmm.errors.BoundaryWarning"),
]

CASES = [
    name
    for name in published.names("rehe")
    if name.startswith(("h1", "h2")) and (published.FOLDER / "rehe" / name / "inputs.npz").exists()
]
INNER = {"full": "full", "tri": "triangle", "off": "offdiag"}


def having(key, cases=CASES):
    return [name for name in cases if key in published.expected("rehe", name)]


def r_code(key):
    return [
        name
        for name in having("rehe_r_code")
        if isinstance(published.expected("rehe", name)["rehe_r_code"].get(key), dict)
    ]


@pytest.mark.parametrize("name", CASES)
def test_gram_rhs_he_and_rehe(name):
    stored, expected = published.arrays("rehe", name), published.expected("rehe", name)
    moments = compute_moments(published.he_problem(stored, published.kinships(stored)))
    checked = 0
    for scheme, project in (("unproj", False), ("proj", True)):
        for short, inner in INNER.items():
            want = expected.get(f"{scheme}_{short}")
            if want is None:
                continue
            equations = moments.equations(inner, project)
            S, c = equations.S, equations.c[:, 0, 0]
            np.testing.assert_allclose(S, want["gram"], rtol=1e-10, atol=1e-10 * np.abs(want["gram"]).max())
            np.testing.assert_allclose(c, want["rhs"], rtol=1e-10, atol=1e-10 * np.abs(want["rhs"]).max())
            np.testing.assert_allclose(solve_symmetric(S, c), want["he"], rtol=0, atol=1e-8)
            np.testing.assert_allclose(nonnegative_least_squares(S, c), want["rehe"], rtol=0, atol=1e-8)
            checked += 1
    assert checked


@pytest.mark.parametrize("name", r_code("rehe"))
def test_rehe_r_code(name):
    stored, expected = published.arrays("rehe", name), published.expected("rehe", name)["rehe_r_code"]
    formula, frame, relmat = published.he_case(stored, published.kinships(stored))
    fit = sg.he(f"y ~ {formula}", frame, relmat=relmat, project=False, se=None)
    np.testing.assert_allclose(fit.theta[:, 0, 0], expected["rehe"]["rehe"], atol=1e-8)
    full = expected.get("rehe_full")
    if full:
        np.testing.assert_allclose(fit.fixef().to_numpy()[:, 0], full["beta_gls"], atol=1e-7)


@pytest.mark.parametrize("name", r_code("rehe_sparse"))
def test_rehe_r_code_of_sparse_kinships(name):
    """The R code takes the triangle when K is sparse."""
    stored, want = published.arrays("rehe", name), published.expected("rehe", name)["rehe_r_code"]["rehe_sparse"]
    formula, frame, _ = published.he_case(stored, published.kinships(stored))
    K = sparse.csr_array(stored["K1"])
    assert K.nnz == want["nnz"] or K.nnz == 2 * want["nnz"] - len(stored["y"])
    fit = sg.he(
        f"y ~ {formula}",
        frame,
        relmat={"K1": (K, frame["id"])},
        project=False,
        inner="triangle",
        se=None,
    )
    np.testing.assert_allclose(fit.theta[:, 0, 0], want["rehe"], atol=1e-8)


@pytest.mark.slow
def test_the_case_that_is_too_large_to_store(tmp_path):
    """Its generator is, with checksums of the arrays."""
    name = "h1_trio_c3_n3000"
    script = published.FOLDER / "rehe" / "make_inputs.py"
    subprocess.run([sys.executable, script, tmp_path, "--seed", "20240601", "--only", name], check=True)
    with np.load(tmp_path / name / "inputs.npz") as made:
        stored = {key: made[key] for key in made}
    moments = compute_moments(published.he_problem(stored, published.kinships(stored)))
    expected = published.expected("rehe", name)
    for short, inner in INNER.items():
        equations, want = moments.equations(inner, False), expected[f"unproj_{short}"]
        np.testing.assert_allclose(equations.S, want["gram"], rtol=1e-10)
        np.testing.assert_allclose(equations.c[:, 0, 0], want["rhs"], rtol=1e-8)
        np.testing.assert_allclose(
            nonnegative_least_squares(equations.S, equations.c[:, 0, 0]), want["rehe"], atol=1e-8
        )


@pytest.mark.parametrize("name", having("wald_sandwich"))
def test_sandwich_and_gls(name):
    stored, expected = published.arrays("rehe", name), published.expected("rehe", name)
    formula, frame, relmat = published.he_case(stored, published.kinships(stored))
    fit = sg.he(f"y ~ {formula}", frame, relmat=relmat)
    want = expected["wald_sandwich"]
    np.testing.assert_allclose(fit.theta[:, 0, 0], want["theta"], atol=1e-8)
    covariance = fit.uncertainty.covariance((0, 0), (0, 0))
    np.testing.assert_allclose(covariance, want["cov"], atol=1e-8 * np.abs(want["cov"]).max())
    np.testing.assert_allclose(fit.varcorr()["se"].to_numpy()[[-1, *range(len(want["se"]) - 1)]], want["se"], rtol=1e-7)
    gls = expected.get("gls_at_rehe")
    if gls:
        np.testing.assert_allclose(fit.fixef().to_numpy()[:, 0], gls["beta"], atol=1e-8)
        se = fit.fixef(0.95)["se"].to_numpy()
        np.testing.assert_allclose(se, np.sqrt(np.diag(gls["cov_beta"])), rtol=1e-7)


@pytest.mark.parametrize("name", [n for n in having("jackknife_individual_se_unproj_full") if "3000" not in n])
def test_individual_jackknife(name):
    stored, expected = published.arrays("rehe", name), published.expected("rehe", name)
    formula, frame, relmat = published.he_case(stored, published.kinships(stored))
    fit = sg.he(f"y ~ {formula}", frame, relmat=relmat, project=False, se="jackknife", jackknife_unit="individual")
    se = np.sqrt(np.diag(fit.uncertainty.covariance((0, 0), (0, 0))))
    np.testing.assert_allclose(se, expected["jackknife_individual_se_unproj_full"], rtol=1e-8)


@pytest.mark.parametrize("name", [n for n in having("reml") if "3000" not in n])
def test_reml(name):
    stored, want = published.arrays("rehe", name), published.expected("rehe", name)["reml"]
    formula, frame, relmat = published.he_case(stored, published.kinships(stored), intercept=stored["X"].shape[1] == 0)
    fit = sg.he(f"y ~ {formula}", frame, relmat=relmat, method="reml", se=None)
    np.testing.assert_allclose(fit.theta[:, 0, 0], want["theta"], atol=1e-5)
    assert fit.loglik[0] == pytest.approx(want["loglik"], abs=1e-6)
    np.testing.assert_allclose(fit.fixef().to_numpy()[:, 0], np.ravel(want["beta"]), atol=1e-5)


REPLAYS = [
    (name, ratio)
    for name in having("rehe_r_code")
    for ratio in ("0.05", "0.1", "0.3")
    if (published.FOLDER / "rehe" / name / f"rerehe_idx_{ratio}.npz").exists()
    and isinstance(published.expected("rehe", name)["rehe_r_code"].get(f"rerehe_{ratio}"), dict)
]


def stopped():
    """Runs in which the R code stopped, for which the drawn indices are not stored."""
    for name in having("rehe_r_code"):
        for key, value in published.expected("rehe", name)["rehe_r_code"].items():
            if key.startswith("rerehe") and isinstance(value, str):
                yield name, float(key.removeprefix("rerehe_"))


@pytest.mark.parametrize(("name", "ratio"), REPLAYS)
def test_replayed_rerehe(name, ratio):
    stored = published.arrays("rehe", name)
    want = published.expected("rehe", name)["rehe_r_code"][f"rerehe_{ratio}"]
    draws = published.arrays("rehe", name, f"rerehe_idx_{ratio}")["idx"]
    whole = published.he_problem(stored, published.kinships(stored))
    parts = [subsample_equations(whole, rows, "full", False, whole.residuals[rows]) for rows in draws]
    estimates = np.array([nonnegative_least_squares(part.S, part.c[:, 0, 0]) for part in parts])
    np.testing.assert_allclose(estimates.mean(axis=0), want["mean"], atol=1e-8)
    np.testing.assert_allclose(np.median(estimates, axis=0), want["median"], atol=1e-8)


@pytest.mark.parametrize(("name", "ratio"), list(stopped()))
def test_rerehe_skips_where_the_r_code_stops(name, ratio):
    stored = published.arrays("rehe", name)
    formula, frame, relmat = published.he_case(stored, published.kinships(stored))
    fit = sg.he(
        f"y ~ {formula}",
        frame,
        relmat=relmat,
        method="rerehe",
        se=None,
        project=False,
        subsample={"ratio": ratio, "unit": "individual", "replace": True, "rule": "mean"},
        seed=2,
    )
    assert fit.n_skipped > 0
    assert any("skipped" in note for note in fit.notes)
    assert np.isfinite(fit.theta).all()


@pytest.mark.parametrize("name", r_code("ci_bootstrap100"))
def test_replayed_bootstrap_intervals(name):
    stored = published.arrays("rehe", name)
    want = published.expected("rehe", name)["rehe_r_code"]["ci_bootstrap100"]
    kinships = published.kinships(stored)
    problem = published.he_problem(stored, kinships)
    moments = compute_moments(problem)
    equations = moments.equations("full", False)
    theta = solve_equations(equations, "rehe", cones_of(problem.components, problem.terms))[:, 0, 0]
    V = theta[0] * np.eye(problem.n) + sum(s * K for s, K in zip(theta[1:], kinships, strict=True))
    draws = np.linalg.cholesky(V) @ published.arrays("rehe", name, "ci_z")["z"]
    found = bootstrap(problem, equations, np.zeros((len(theta), problem.n)), draws, "rehe", "full", False)
    half = 1.959964 * found.std(axis=0, ddof=1)
    np.testing.assert_allclose(np.column_stack([theta - half, theta + half]), want["ci"]["CIvc"]["wald"], atol=1e-6)
    quantiles = np.quantile(found, [0.025, 0.975], axis=0).T
    np.testing.assert_allclose(quantiles, want["ci"]["CIvc"]["quantile"], atol=1e-8)
    shares = np.quantile(found / found.sum(axis=1, keepdims=True), [0.025, 0.975], axis=0).T
    np.testing.assert_allclose(shares, want["ci"]["CIheri"]["quantile"], atol=1e-8)


# -- distances, two traits, markers ---------------------------------------------------------------------


@pytest.mark.parametrize("which", ["D_braycurtis", "D_sqrt_braycurtis", "D_aitchison", "D_onetrait"])
def test_distance(which):
    stored, expected = published.arrays("rehe", "h4_micro_n200"), published.expected("rehe", "h4_micro_n200")
    formula, frame, relmat = published.he_case({"X": stored["X"]}, published.kinships(stored))
    want = expected[which]
    options = {"relmat": relmat, "distance": stored[which], "permutations": 0}
    if want["M_neg_eig_count"]:
        with pytest.warns(SlamWarning, match=f"not Euclidean: {want['M_neg_eig_count']} of 200 eigenvalues"):
            fit = sg.he(f"~ {formula}", frame, **options)
        assert any(f"{want['M_neg_eig_share']:.1%}" in note for note in fit.notes)
    else:
        fit = sg.he(f"~ {formula}", frame, **options)
    np.testing.assert_allclose(fit.moments.S, expected["gram_proj_full"], rtol=1e-10)
    np.testing.assert_allclose(fit.moments.c[:, 0, 0], want["rhs_proj_full"], rtol=1e-10)
    scale = np.abs(want["he"]).max()
    np.testing.assert_allclose(fit.unconstrained[:, 0, 0], want["he"], atol=1e-8 * scale)
    np.testing.assert_allclose(fit.theta[:, 0, 0], want["rehe"], atol=1e-8 * scale)
    assert fit.h2("gr(id, K1)") == pytest.approx(want["h2"], abs=1e-8)
    assert fit.h2("gr(id, K2)") == pytest.approx(want["c2"], abs=1e-8)


def test_distance_by_square_root():
    stored, expected = published.arrays("rehe", "h4_micro_n200"), published.expected("rehe", "h4_micro_n200")
    formula, frame, relmat = published.he_case({"X": stored["X"]}, published.kinships(stored))
    fit = sg.he(
        f"~ {formula}", frame, relmat=relmat, distance=stored["D_braycurtis"], correction="sqrt", permutations=0
    )
    np.testing.assert_allclose(fit.theta[:, 0, 0], expected["D_sqrt_braycurtis"]["rehe"], atol=1e-8)


def test_distance_of_one_trait_is_the_vector_fit():
    stored, expected = published.arrays("rehe", "h4_micro_n200"), published.expected("rehe", "h4_micro_n200")
    formula, frame, relmat = published.he_case(
        {"X": stored["X"], "y": stored["y_onetrait"]}, published.kinships(stored)
    )
    fit = sg.he(f"y ~ {formula}", frame, relmat=relmat, method="he", se=None)
    np.testing.assert_allclose(fit.theta[:, 0, 0], expected["onetrait_vector_he"], atol=1e-8)


def test_two_traits():
    stored, want = published.arrays("rehe", "h5_bivar_n500"), published.expected("rehe", "h5_bivar_n500")
    formula, frame, relmat = published.he_case(stored, published.kinships(stored))
    fit = sg.he(f"~ {formula}", frame, Y=pd.DataFrame(stored["Y"], columns=["a", "b"]), relmat=relmat, method="he")
    np.testing.assert_allclose(fit.moments.S, want["gram_proj_full"], rtol=1e-10)
    np.testing.assert_allclose(fit.R(), want["Sigma_e"], atol=1e-8)
    np.testing.assert_allclose(fit.G("K1") if "K1" in fit.names else fit.G(fit.names[1]), want["Sigma_g"], atol=1e-8)
    rg = fit.rg()
    assert rg["rg"].iloc[0] == pytest.approx(want["rg"], abs=1e-8)
    assert 0.05 < rg["se"].iloc[0] < 1.0


def test_rhemc_example_with_exact_traces():
    stored, expected = published.arrays("rehe", "rhemc_example"), published.expected("rehe", "rhemc_example")
    f = stored["G"].mean(axis=0)
    W = (stored["G"] - f) / np.sqrt(f * (1 - f / 2))
    bins = stored["annot"].astype(bool)
    kinships = [W[:, b] @ W[:, b].T / b.sum() for b in bins.T]
    centred = stored["y"] - stored["y"].mean()
    for key, X in (
        ("no_covariates_exact_trace", np.zeros((200, 0))),
        ("covariates_no_intercept_exact_trace", stored["cov"]),
        ("intercept_and_covariates_exact_trace", np.column_stack([np.ones(200), stored["cov"]])),
    ):
        case = published.he_case({"X": X, "y": centred}, kinships)
        fit = sg.he(f"y ~ {case[0]}", case[1], relmat=case[2], method="he", se=None)
        theta = fit.theta[:, 0, 0]
        np.testing.assert_allclose([*theta[1:], theta[0]], expected[key], atol=1e-8)


def test_rhemc_example_by_probes():
    stored, expected = published.arrays("rehe", "rhemc_example"), published.expected("rehe", "rhemc_example")
    frame = pd.DataFrame(stored["cov"], columns=list("abcd")).assign(y=stored["y"] - stored["y"].mean())
    fit = sg.he(
        "y ~ 0 + a + b + c + d",
        frame,
        markers={"chip": stored["G"]},
        annotation=stored["annot"],
        method="he",
        n_probes=3000,
        se=None,
        seed=1,
    )
    theta = fit.theta[:, 0, 0]
    # the published program at 3000 probes is off by as much
    np.testing.assert_allclose([*theta[1:], theta[0]], expected["covariates_no_intercept_exact_trace"], atol=0.004)


@pytest.mark.parametrize("name", having("random_trace"))
def test_random_trace_with_stored_probes(name):
    stored = published.arrays("rehe", name)
    want = published.expected("rehe", name)["random_trace"]
    z = published.arrays("rehe", name, "probes")["Z"].astype(float)
    from slamglmm.fitters.he.markers import Genotypes, MarkerTerm
    from slamglmm.fitters.he.problem import build_problem
    from slamglmm.genotypes import read_markers

    frame = pd.DataFrame(stored["X"], columns=list("abc")).assign(y=stored["y"])
    problem = build_problem(
        sg.design("y ~ 0 + a + b + c", frame), (MarkerTerm("chip", "chip", Genotypes(read_markers(stored["G"]))),)
    )
    moments = compute_moments(problem, z)
    assert moments.equations("full", False).S[1, 1] == pytest.approx(want["trK2_hat_unproj"], rel=1e-8)
    projected = z - problem.basis @ (problem.basis.T @ z)
    moments = compute_moments(problem, projected)
    S = moments.equations("full", True).S
    assert S[1, 1] == pytest.approx(want["trPKPK_hat"], rel=1e-8)
    assert S[0, 1] == pytest.approx(want["trPK_exact"], rel=1e-8)


def test_combine_counts_what_it_skips():
    stored = published.arrays("rehe", "h1_trio_c1_n300")
    problem = published.he_problem(stored, published.kinships(stored))
    good = compute_moments(problem).equations("full", False)
    singular = type(good)(good.names, np.ones_like(good.S), good.c, good.leftover)
    fit = combine(problem, [good, singular, good], 3, "mean", "family")
    assert fit.n_skipped == 1
    np.testing.assert_allclose(fit.theta, solve_equations(good, "rehe", cones_of(problem.components, problem.terms)))
