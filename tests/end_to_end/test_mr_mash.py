"""mr_mash by formula: what it finds, shares, fills in and predicts, and bad input."""

import numpy as np
import pandas as pd
import pytest

import slamglmm as sg
from slamglmm.errors import ConvergenceWarning, DataError, DroppedRowsWarning, FitError, OptionError, SlamWarning
from slamglmm.priors.mixture import automatic_grid, canonical_covariances, pca_covariances
from tests.reference.markers import bed_columns


def data(n=250, m=60, p=4, seed=0):
    rng = np.random.default_rng(seed)
    G = rng.binomial(2, 0.3, (n, m)).astype(float)
    B = np.zeros((m, p))
    B[5] = 0.8  # the same effect on all responses
    B[min(20, m - 1), 1] = 1.0  # on one only
    L = np.linalg.cholesky(0.4 * np.eye(p) + 0.6)
    ids = [f"id{i:03d}" for i in range(n)]
    frame = pd.DataFrame({"x": rng.standard_normal(n)}, index=ids)
    values = 2 + frame[["x"]].to_numpy() + G @ B + rng.standard_normal((n, p)) @ L.T
    Y = pd.DataFrame(values, index=ids, columns=[f"t{j}" for j in range(p)])
    markers = pd.DataFrame(G, index=ids, columns=[f"snp{k}" for k in range(m)])
    return frame, Y, markers, B, L @ L.T


def test_finds_what_is_there():
    """A shared effect in all responses, a private one in its own only; the residual covariance near the truth."""
    frame, Y, markers, B, sigma = data()
    fit = sg.mr_mash("~ x", frame, Y=Y, markers=markers)
    assert (fit.lfsr.loc["snp5"] < 0.01).all()
    assert fit.lfsr.loc["snp20", "t1"] < 0.01
    assert (fit.lfsr.loc["snp20"].drop("t1") > 0.05).all()
    assert np.abs(fit.coef - B).max(axis=None) < 0.3
    assert np.abs(fit.R() - sigma).max(axis=None) < 0.3
    np.testing.assert_allclose(fit.weights.sum(), 1.0)
    np.testing.assert_allclose(fit.covariance_weights.sum(), 1.0)
    assert fit.null["snp5"] < 1e-3
    np.testing.assert_allclose(fit.fixef().loc["x", "mean"], 1.0, atol=0.25)
    assert ((fit.coef - B).abs() < 4 * fit.coef_sd + 0.1).all(axis=None)
    assert list(fit.varcorr().index[0]) == ["Residual", "t0"]
    assert "4" in str(fit)
    assert "<table" in fit._repr_html_()
    with pytest.raises(OptionError, match="no random effects"):
        fit.ranef()


def test_responses_in_the_formula():
    """Names left of the tilde are the same as Y=."""
    frame, Y, markers, _, _ = data()
    one = sg.mr_mash("~ x", frame, Y=Y[["t0", "t1"]], markers=markers)
    two = sg.mr_mash("t0 + t1 ~ x", frame.join(Y), markers=markers)
    np.testing.assert_array_equal(one.coef, two.coef)


def test_missing_responses():
    """Observed cells stay, missing ones are filled by their expectation; a row without any is predicted."""
    frame, Y, markers, B, _ = data()
    holes = Y.mask(np.random.default_rng(1).random(Y.shape) < 0.2)
    holes.iloc[7] = np.nan
    fit = sg.mr_mash("~ x", frame, Y=holes, markers=markers)
    seen = holes.notna().to_numpy()
    np.testing.assert_array_equal(fit.imputed.to_numpy()[seen], holes.to_numpy()[seen])
    gap = ~seen
    gap[7] = False
    assert np.corrcoef(fit.imputed.to_numpy()[gap], Y.to_numpy()[gap])[0, 1] > 0.75
    np.testing.assert_allclose(fit.imputed.iloc[7], fit.fitted().iloc[7])
    np.testing.assert_allclose(
        fit.imputed.iloc[[7]], fit.predict(frame.iloc[[7]], markers=markers.iloc[[7]]), atol=1e-8
    )
    assert np.abs(fit.coef - B).max(axis=None) < 0.35


def test_prediction_and_storage(tmp_path):
    """Fitted values are predictions; two bits a genotype give the same; results survive a file."""
    frame, Y, markers, _, _ = data()
    fit = sg.mr_mash("~ x", frame, Y=Y, markers=markers)
    np.testing.assert_allclose(fit.predict(frame, markers=markers), fit.fitted(), atol=1e-10)
    np.testing.assert_allclose(fit.predict(frame.iloc[[3, 1]], markers=markers), fit.fitted().iloc[[3, 1]], atol=1e-10)
    packed = bed_columns(markers.to_numpy(), tmp_path)
    two = sg.mr_mash("~ x", frame.set_axis(packed.labels), Y=Y.set_axis(packed.labels), markers=packed)
    assert "bed" in two.notes[0]
    np.testing.assert_allclose(two.coef, fit.coef, atol=1e-7)
    half = frame.set_axis(packed.labels).iloc[::2]
    three = sg.mr_mash("~ x", half, Y=Y.set_axis(packed.labels).iloc[::2], markers=packed)
    four = sg.mr_mash("~ x", frame.iloc[::2], Y=Y.iloc[::2], markers=markers.iloc[::2])
    np.testing.assert_allclose(three.coef, four.coef, atol=1e-7)
    fit.save(tmp_path / "fit")
    pd.testing.assert_frame_equal(sg.load(tmp_path / "fit").lfsr, fit.lfsr)
    with pytest.raises(OptionError, match="new rows need their markers"):
        fit.predict(frame)


@pytest.mark.parametrize("residual_cov", ["diagonal", "spherical", "low_rank"])
def test_residual_covariances(residual_cov):
    """Each stays in its family."""
    frame, Y, markers, _, _ = data()
    fit = sg.mr_mash("~ x", frame, Y=Y, markers=markers, residual_cov=residual_cov)
    R = fit.R().to_numpy()
    if residual_cov == "low_rank":
        values = np.linalg.eigvalsh(R)
        np.testing.assert_allclose(values[:3], values[0], rtol=1e-8)
    else:
        np.testing.assert_array_equal(R, np.diag(np.diag(R)))
        assert (np.ptp(np.diag(R)) < 1e-12) == (residual_cov == "spherical")


def test_known_residual_covariance_is_kept():
    """Also as a labelled table in another order."""
    frame, Y, markers, _, sigma = data()
    sigma = pd.DataFrame(sigma + np.diag([0.1, 0.2, 0.3, 0.4]), Y.columns, Y.columns)
    fit = sg.mr_mash("~ x", frame, Y=Y, markers=markers, residual_cov=sigma.iloc[::-1, ::-1])
    pd.testing.assert_frame_equal(fit.R(), sigma, check_names=False)


def test_more_responses_than_rows():
    """The covariance of the responses is singular; the start must not be."""
    frame, Y, markers, _, _ = data(n=30, p=40)
    fit = sg.mr_mash("~ 1", frame, Y=Y, markers=markers, residual_cov="low_rank", rank=2, start="total", max_iter=2000)
    assert np.isfinite(fit.coef).all(axis=None)


def test_a_response_that_is_a_combination_of_others():
    """What it means that the covariance is singular."""
    rng = np.random.default_rng(0)
    Y = rng.standard_normal((60, 3))
    Y[:, 2] = 1 - Y[:, 0]
    with pytest.raises(FitError, match="a response is a combination of others"):
        sg.mr_mash("~ 1", pd.DataFrame(index=range(60)), Y=Y, markers=rng.integers(0, 3, (60, 5)))


def test_priors():
    """Canonical, principal components, and both; covariances have unit maximum; labels say what and how large."""
    frame, Y, markers, _, _ = data()
    canonical = canonical_covariances(3)
    assert list(canonical)[:3] == ["only 1", "only 2", "only 3"]
    assert len(canonical) == 8
    scores = np.random.default_rng(0).standard_normal((200, 3)) * [5, 1, 1]
    for U in [*canonical.values(), *pca_covariances(scores).values()]:
        np.testing.assert_allclose(np.diag(U).max(), 1.0)
        assert np.linalg.eigvalsh(U)[0] > -1e-12
    fit = sg.mr_mash("~ x", frame, Y=Y, markers=markers, covariances="canonical+pca")
    assert {"PC 1", "PCs", "empirical", "only t1", "correlation 0.25"} <= set(fit.prior.names)
    assert fit.weights.index[0] == "null"
    grid = automatic_grid(np.full((5, 2), 1.0), np.full((5, 2), 0.1))
    np.testing.assert_allclose(grid[-1], 4 * (1 - 0.01))
    assert grid[0] <= 0.01**2 * 4


def test_given_weights_are_kept():
    """By position or by name."""
    frame, Y, markers, _, _ = data(m=10)
    fit = sg.mr_mash("~ x", frame, Y=Y, markers=markers, grid=[0.1], prior_weights=np.full(10, 0.1))
    np.testing.assert_array_equal(fit.weights, 0.1)
    again = sg.mr_mash("~ x", frame, Y=Y, markers=markers, grid=[0.1], prior_weights=fit.weights[::-1])
    np.testing.assert_array_equal(fit.coef, again.coef)


def test_strong_effects_on_many_responses_need_the_second_start():
    """Started from the covariance of the responses alone, the known loci of the glucosinolates are not found."""
    data = sg.datasets.load("glucosinolates")
    Y = data.Y.apply(lambda y: np.log(y + 0.5 * y[y > 0].min()))
    place = data.map.set_index("marker")
    fits = {s: sg.mr_mash("~ 1", data.frame, Y=Y, markers=data.markers, start=s) for s in ("total", "best")}
    assert fits["best"].elbo[-1] > fits["total"].elbo[-1] + 100
    sure = place.loc[(fits["best"].lfsr < 0.01).sum(axis=1).sort_values(ascending=False).index[:6]]
    assert ((sure["chromosome"] == "5") & sure["position_cM"].between(30, 40)).any()
    assert ((sure["chromosome"] == "4") & sure["position_cM"].between(2, 14)).any()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"covariances": "flash"}, "covariances must be 'canonical', 'pca', 'canonical.pca', a dict or a list"),
        ({"covariances": [np.eye(3)]}, r"covariance 'U1' has shape \(3, 3\); there are 4 responses"),
        ({"covariances": {"bad": -np.eye(4)}}, "covariance 'bad' is not positive semi-definite"),
        ({"covariances": {"bad": np.triu(np.ones((4, 4)))}}, "covariance 'bad' must be finite and symmetric"),
        ({"covariances": []}, "covariances are empty"),
        ({"grid": "wide"}, "grid must be 'auto' or variances, got 'wide'"),
        ({"grid": [-1.0]}, "grid must be positive variances"),
        ({"residual_cov": "wishart"}, "residual_cov must be 'full', 'diagonal', 'spherical', 'low_rank' or a matrix"),
        ({"residual_cov": np.zeros((4, 4))}, "residual_cov must be a positive definite 4 x 4 matrix"),
        (
            {"residual_cov": "low_rank", "rank": 4},
            "rank=4: expected an integer from 1 to 3, below the number of responses",
        ),
        ({"rank": 2}, "rank is for residual_cov='low_rank' only"),
        ({"prior_weights": [0.5, 0.5]}, "probabilities that sum to 1, one for each component"),
        ({"start": "zero"}, "start='zero': expected 'best', 'total' or 'residual'"),
        ({"tol": -1}, "tol=-1: expected a finite positive number"),
        ({"formula": "~ 1 + (1 | x)"}, "mr_mash takes no random effects; found 'x'"),
        ({"Y": None}, "mr_mash needs responses"),
    ],
)
def test_refused_options(change, message):
    """Each names the value that came."""
    frame, Y, markers, _, _ = data(n=60, m=10)
    arguments = {"formula": "~ x", "data": frame, "Y": Y, "markers": markers, **change}
    with pytest.raises(OptionError, match=message):
        sg.mr_mash(**arguments)


def test_refused_data(tmp_path):
    """Too few rows, markers that do not vary or match, a broken file, a response that is a covariate, NaN."""
    frame, Y, markers, _, _ = data(n=60, m=10)
    with pytest.raises(DataError, match=r"1 row\(s\) with a response are too few; at least 3"):
        sg.mr_mash("~ x", frame.iloc[:1], Y=Y.iloc[:1], markers=markers.iloc[:1])
    with pytest.raises(DataError, match=r"markers are empty \(60 rows x 0 markers\)"):
        sg.mr_mash("~ x", frame, Y=Y, markers=markers.iloc[:, :0])
    with pytest.raises(DataError, match="1 of 60 rows of data are not among the 59 rows of markers: 'id000'"):
        sg.mr_mash("~ x", frame, Y=Y, markers=markers.iloc[1:])
    bed_columns(markers.to_numpy(), tmp_path)
    with open(tmp_path / "twin.bed", "r+b") as file:
        file.truncate(100)
    with pytest.raises(DataError, match=r"has 100 bytes, but 10 markers of 60 individuals take 153: it is truncated"):
        sg.mr_mash("~ x", frame, Y=Y, markers=tmp_path / "twin.bed")
    gap = frame.assign(x=frame["x"].mask(frame["x"] > 1))
    with pytest.warns(DroppedRowsWarning, match="missing values in 'x'"):
        sg.mr_mash("~ x", gap, Y=Y, markers=markers)
    with pytest.warns(SlamWarning, match=r"1 of 11 markers do not vary .* \('flat'\); their effects are 0"):
        fit = sg.mr_mash("~ x", frame, Y=Y, markers=markers.assign(flat=1, again=markers["snp5"]).drop(columns="snp0"))
    assert np.isfinite(fit.coef).all(axis=None)
    assert (fit.lfsr.loc["flat"] == 1).all()
    with pytest.raises(DataError, match=r"2 row\(s\) with a response are too few; at least 4"):
        sg.mr_mash("~ x", frame, Y=Y.where(np.tile(np.arange(60) < 2, (4, 1)).T), markers=markers)
    with pytest.raises(DataError, match="none of the 10 markers varies"):
        sg.mr_mash("~ x", frame, Y=Y, markers=0 * markers)
    with pytest.raises(DataError, match="response 't2' is explained exactly by the fixed effects"):
        sg.mr_mash("~ x", frame, Y=Y.assign(t2=frame["x"]), markers=markers)
    with pytest.warns(ConvergenceWarning, match="has not converged in 2 sweeps"):
        sg.mr_mash("~ x", frame, Y=Y, markers=markers, max_iter=2)
