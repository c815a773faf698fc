"""Several traits that lack different rows: each has the variances of a fit by itself, and nothing is dropped unsaid."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import slamglmm as sg
from slamglmm.errors import DroppedRowsWarning, SlamWarning

SHARED = Path(__file__).resolve().parents[3] / "shared"
pytestmark = [
    pytest.mark.filterwarnings("ignore::slamglmm.errors.BoundaryWarning"),
    pytest.mark.filterwarnings("ignore:reREHE. the kinship ties all rows"),
]


@pytest.fixture(scope="module")
def data():
    """160 records of 40 animals in pens; four traits, of which three lack rows, two of them the same ones."""
    rng = np.random.default_rng(5)
    animals = [f"a{i:02d}" for i in range(40)]
    K = sg.kinship(pd.DataFrame(rng.integers(0, 3, (40, 300)).astype(float), index=animals))
    root = np.linalg.cholesky(K + 1e-6 * np.eye(40))
    frame = pd.DataFrame(
        {
            "animal": np.repeat(animals, 4),
            "pen": rng.choice(list("pqrstuvw"), 160),
            "x": rng.normal(size=160),
            "w": rng.gamma(5, 0.2, 160),
        },
        index=[f"row{i:03d}" for i in range(160)],
    )
    shared = root @ rng.normal(size=(40, 1))
    genetic = (shared + 0.6 * root @ rng.normal(size=(40, 4))).repeat(4, axis=0)
    Y = pd.DataFrame(
        genetic + rng.normal(size=(160, 4)) + frame[["x"]].to_numpy() + 3.0, frame.index, ["t1", "t2", "t3", "t4"]
    )
    gone = rng.random((160, 2)) < [0.25, 0.1]
    Y["t2"], Y["t4"], Y["t3"] = Y["t2"].mask(gone[:, 0]), Y["t4"].mask(gone[:, 0]), Y["t3"].mask(gone[:, 1])
    # A pen in which t3 was never measured.
    Y["t3"] = Y["t3"].mask(frame["pen"] == "w")
    return frame, Y, K


FORMULA = "~ x + (1 | animal) + (1 | pen)"
OPTIONS = {
    "reml": {"method": "reml"},
    "ml, weights": {"method": "ml", "weights": "w"},
    "rehe": {},
    "he, triangle": {"method": "he", "inner": "triangle"},
    "jackknife": {"se": "jackknife"},
    "bootstrap": {"se": "bootstrap", "seed": 3},
    "rerehe": {"method": "rerehe", "se": None, "seed": 3, "subsample": {"ratio": 0.5, "times": 4}},
    "slopes": {"formula": "~ x + (1 + x | animal)"},
}


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_each_trait_equals_its_own_fit(data, options):
    frame, Y, K = data
    options = {"formula": FORMULA, **options}
    fit = sg.he(data=frame, Y=Y, relmat={"animal": K}, **options)
    assert fit.nobs == 160
    for trait in Y:
        known = Y[trait].notna()
        alone = sg.he(data=frame[known], Y=Y.loc[known, [trait]], relmat={"animal": K}, **options)
        ours = fit.varcorr().xs(trait, level="trait")
        np.testing.assert_allclose(ours, alone.varcorr().droplevel("trait"), rtol=1e-10, atol=1e-10, err_msg=trait)
        np.testing.assert_allclose(fit.fixef()[trait], alone.fixef()[trait], rtol=1e-10, atol=1e-12)
        ranef = fit.ranef("animal")[trait]
        expected = alone.ranef("animal")
        np.testing.assert_allclose(ranef.to_numpy().ravel(), expected.to_numpy().ravel(), rtol=1e-8, atol=1e-10)
        if "pen" in options["formula"]:
            pens = alone.ranef("pen")[trait]
            np.testing.assert_allclose(fit.ranef("pen")[trait].reindex(pens.index), pens, rtol=1e-8, atol=1e-10)
            assert (fit.ranef("pen")[trait].drop(pens.index) == 0).all()
        np.testing.assert_allclose(fit.predict().loc[known, trait], alone.predict()[trait], rtol=1e-8, atol=1e-9)
        if fit.loglik:
            position = list(Y).index(trait)
            np.testing.assert_allclose(fit.loglik[position], alone.loglik[0], rtol=1e-12)
            np.testing.assert_allclose(fit.factors[position], alone.factors[0], rtol=1e-10)
        if fit.uncertainty is not None:
            intervals = [f.conf_int(of="share").xs(trait, level="trait") for f in (fit, alone)]
            np.testing.assert_allclose(*intervals, rtol=1e-9, atol=1e-10)


def test_what_is_dropped_is_counted_by_trait(data):
    frame, Y, K = data
    fit = sg.he(FORMULA, frame, Y=Y, relmat={"animal": K}, method="reml")
    counts = ", ".join(f"'{name}' {int(Y[name].isna().sum())}" for name in ("t2", "t3", "t4"))
    assert any(f"each trait is fitted on the rows where it is known (missing in 160: {counts})" in n for n in fit.notes)
    assert counts in str(fit)
    complete = sg.he(FORMULA, frame, Y=Y[["t1"]], relmat={"animal": K})
    assert not any("missing" in note for note in complete.notes)


def test_rows_without_any_trait_are_dropped_and_said(data):
    frame, Y, K = data
    none = Y.copy()
    none.iloc[[3, 7]] = np.nan
    with pytest.warns(DroppedRowsWarning, match="2 of 160 rows dropped because of missing values in 't1' .2., 't2'"):
        fit = sg.he(FORMULA, frame, Y=none, relmat={"animal": K})
    assert fit.nobs == 158


@pytest.mark.parametrize("method", ["rehe", "he"])
def test_covariances_are_those_of_the_rows_of_both(data, method):
    frame, Y, K = data
    fit = sg.he(FORMULA, frame, Y=Y, relmat={"animal": K}, method=method)
    assert any("covariances and correlations among traits on the rows of both" in note for note in fit.notes)
    for u, v in [("t1", "t2"), ("t1", "t3"), ("t2", "t3"), ("t4", "t3"), ("t2", "t4")]:
        known = Y[[u, v]].notna().all(axis=1)
        both = sg.he(FORMULA, frame[known], Y=Y.loc[known, [u, v]], relmat={"animal": K}, method=method)
        for label in ("animal", "pen", "Residual"):
            np.testing.assert_allclose(fit.G(label).loc[u, v], both.G(label).loc[u, v], rtol=1e-9, atol=1e-12)
            assert fit.G(label).loc[u, v] == fit.G(label).loc[v, u]
        ours = fit.rg("animal")
        pair = (u, v) if ("animal", u, v) in ours.index else (v, u)
        np.testing.assert_allclose(ours.loc[("animal", *pair)], both.rg("animal").iloc[0], rtol=1e-8)


def test_traits_of_different_animals_have_no_covariance(data):
    frame, Y, K = data
    apart = Y[["t1", "t2"]].copy()
    half = frame["animal"] < "a20"
    apart["t1"], apart["t2"] = Y["t1"].mask(half), Y["t1"].where(half)
    with pytest.warns(SlamWarning, match="too few rows have both: no covariance of 't1 with t2'"):
        fit = sg.he(FORMULA, frame, Y=apart, relmat={"animal": K})
    assert np.isnan(fit.G("animal").loc["t1", "t2"])
    assert fit.varcorr().notna().all(axis=None)


def test_order_of_traits_and_a_saved_fit(data, tmp_path):
    frame, Y, K = data
    fit = sg.he(FORMULA, frame, Y=Y, relmat={"animal": K})
    other = sg.he(FORMULA, frame, Y=Y[["t3", "t2", "t1", "t4"]], relmat={"animal": K})
    np.testing.assert_allclose(other.G("animal").loc[Y.columns, Y.columns], fit.G("animal"), rtol=1e-9)
    np.testing.assert_allclose(other.fixef()[Y.columns], fit.fixef(), rtol=1e-9)
    np.testing.assert_allclose(other.varcorr().reindex(fit.varcorr().index), fit.varcorr(), rtol=1e-9)
    read = sg.load(fit.save(tmp_path / "fit"))
    pd.testing.assert_frame_equal(read.varcorr(), fit.varcorr())
    pd.testing.assert_frame_equal(read.rg(), fit.rg())
    pd.testing.assert_frame_equal(read.predict(), fit.predict())


@pytest.mark.filterwarnings("ignore::slamglmm.errors.DroppedRowsWarning")
def test_a_covariate_that_one_trait_cannot_tell(data):
    frame, Y, K = data
    frame = frame.assign(sex=np.where(Y["t3"].isna(), "m", "f"))
    with pytest.warns(SlamWarning, match=r"^'t3': fixed effects are collinear: 'sex\[T.m\]' is zero in every row"):
        fit = sg.he("~ x + sex + (1 | animal)", frame, Y=Y, relmat={"animal": K}, method="reml")
    assert fit.fixef().isna().sum().to_dict() == {"t1": 0, "t2": 0, "t3": 1, "t4": 0}
    alone = sg.he("~ x + (1 | animal)", frame, Y=Y[["t3"]], relmat={"animal": K}, method="reml")
    np.testing.assert_allclose(fit.varcorr().xs("t3", level="trait"), alone.varcorr().droplevel("trait"), rtol=1e-9)


def test_markers_are_read_once_for_complete_rows(data):
    frame, Y, _ = data
    rng = np.random.default_rng(1)
    markers = pd.DataFrame(rng.integers(0, 3, (160, 50)).astype(float), index=frame.index)
    complete = Y.notna().all(axis=1)
    message = (
        rf"markers= are read once for all traits, so {int((~complete).sum())} of 160 rows, .* \('t2' \d+, 't3' \d+"
    )
    with pytest.warns(DroppedRowsWarning, match=message):
        fit = sg.he("~ x", frame, Y=Y, markers={"snp": markers}, seed=1)
    other = sg.he("~ x", frame[complete], Y=Y[complete], markers={"snp": markers[complete]}, seed=1)
    np.testing.assert_allclose(fit.varcorr(), other.varcorr(), rtol=1e-10)
    np.testing.assert_allclose(fit.marker_effects(), other.marker_effects(), rtol=1e-8, atol=1e-10)


@pytest.mark.skipif(not (SHARED / "data" / "mice_A.npz").exists(), reason="the mice are not here")
@pytest.mark.filterwarnings("ignore::slamglmm.errors.DroppedRowsWarning")
def test_mice():
    """1,814 mice, where 'another trait is missing' dropped a third of the rows of each."""
    table = pd.read_csv(SHARED / "data" / "mice_pheno.csv.gz")
    stored = np.load(SHARED / "data" / "mice_A.npz", allow_pickle=True)
    K = pd.DataFrame(stored["A"], stored["ids"], stored["ids"])
    traits = ["Biochem.Albumin", "Biochem.HDL", "Biochem.Glucose"]
    frame = table.rename(columns={"SUBJECT.NAME": "mouse"})
    fit = sg.he("~ GENDER + (1 | mouse)", frame, Y=frame[traits], relmat={"mouse": K}, se=None)
    for trait in traits:
        alone = sg.he("~ GENDER + (1 | mouse)", frame, Y=frame[[trait]], relmat={"mouse": K}, se=None)
        np.testing.assert_allclose(
            fit.varcorr().xs(trait, level="trait")["variance"], alone.varcorr()["variance"], rtol=1e-10
        )
