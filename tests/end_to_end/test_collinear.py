"""Collinear fixed effects in every fitter: left out and named as by `lm`, NaN in `fixef`, zero in `predict`."""

import re

import numpy as np
import pandas as pd
import pytest

import slamglmm as sg
from slamglmm.errors import SlamWarning

N = 90
OPTIONS = {"draws": 60, "burn": 60, "chains": 1, "seed": 3, "progress": False}
NAMED = (
    "fixed effects are collinear: 'twice' is a combination of 'Intercept', 'x'; it is left out, and its effect is NaN"
)


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(8)
    lines = np.repeat([f"l{i:02d}" for i in range(30)], 3)
    frame = pd.DataFrame({"line": lines, "x": rng.normal(size=N), "f": np.tile(["a", "b", "c", "d", "e", "f"], 15)})
    frame["twice"] = 2 * frame["x"] + 1
    markers = pd.DataFrame(rng.integers(0, 3, (N, 12)).astype(float)).add_prefix("m")
    Y = rng.normal(size=(30, 3)).repeat(3, axis=0) + rng.normal(size=(N, 3)) + frame[["x"]].to_numpy()
    Y = Y + 0.8 * markers[["m1"]].to_numpy() + 5.0
    return frame, pd.DataFrame(Y, columns=["y1", "y2", "y3"]), markers


FITS = {
    "slam": lambda f, frame, Y, W, **kw: sg.slam(f"{f} + (1 | line)", frame, Y=Y, **OPTIONS),
    "slam, shared": lambda f, frame, Y, W, **kw: sg.slam(
        f"{f} + (1 | line)", frame, Y=Y, priors=sg.Priors(fixef="shared"), **OPTIONS
    ),
    "reml": lambda f, frame, Y, W, **kw: sg.he(f"{f} + (1 | line)", frame, Y=Y, method="reml"),
    "rehe": lambda f, frame, Y, W, **kw: sg.he(f"{f} + (1 | line)", frame, Y=Y),
    "sparse_lmm": lambda f, frame, Y, W, **kw: sg.sparse_lmm(f, frame, Y=Y.iloc[:, :1], markers=W),
    "sparse_lmm, random": lambda f, frame, Y, W, **kw: sg.sparse_lmm(
        f"{f} + (1 | line)", frame, Y=Y.iloc[:, :1], markers=W
    ),
    "mr_mash": lambda f, frame, Y, W, **kw: sg.mr_mash(f, frame, Y=Y, markers=W),
}


def effects(fit):
    """Fixed effects, fixef x trait."""
    table = fit.fixef()
    return table["mean"].unstack("trait") if "mean" in table else table  # noqa: PD010


def predicted(fit, frame, markers):
    kind = type(fit).__name__
    extra = {} if kind in ("SlamResult", "HeResult") else {"markers": markers}
    kept = {} if kind == "MrMashResult" else {"random": "none"}
    return fit.predict(frame, **kept, **extra)


@pytest.mark.parametrize("fitter", [name for name in FITS if name != "slam, shared"])
def test_an_aliased_column_changes_nothing_but_its_own_effect(data, fitter):
    frame, Y, markers = data
    plain = FITS[fitter]("~ x + f", frame, Y, markers)
    with pytest.warns(SlamWarning) as caught:
        fit = FITS[fitter]("~ x + twice + f", frame, Y, markers)
    assert [str(w.message) for w in caught if "collinear" in str(w.message)] == [NAMED]
    assert NAMED in fit.notes
    ours, expected = effects(fit), effects(plain)
    assert ours.loc["twice"].isna().all()
    others = ours.drop(index="twice")
    assert others.notna().all(axis=None)
    # The sampler draws noise for the column, so its chain is another one.
    rtol = 0.0 if fitter == "slam" else 1e-6
    np.testing.assert_allclose(others.loc[expected.index], expected, rtol=rtol, atol=0.6 if fitter == "slam" else 1e-8)
    both = [predicted(f, frame.iloc[:7], markers.iloc[:7]) for f in (fit, plain)]
    np.testing.assert_allclose(*both, atol=0.6 if fitter == "slam" else 1e-6)
    # A row that does not follow the combination needs what nobody knows.
    odd = frame.iloc[:7].assign(twice=[1e3, *frame["twice"].iloc[1:7]])
    with pytest.warns(SlamWarning, match=r"predict: 1 row\(s\) \(first: '0'\) need the effect of 'twice', which the"):
        strange = predicted(fit, odd, markers.iloc[:7])
    np.testing.assert_allclose(strange, both[0], rtol=1e-12)


@pytest.mark.parametrize("fitter", ["slam, shared", "slam"])
def test_shrunk_columns_may_be_collinear(data, fitter):
    """Prior variances tell shrunk effects apart, so nothing is left out; flat ones are."""
    frame, Y, markers = data
    if fitter == "slam":
        with pytest.warns(SlamWarning, match="'twice' is a combination"):
            assert effects(FITS[fitter]("~ x + twice", frame, Y, markers)).loc["twice"].isna().all()
    else:
        assert effects(FITS[fitter]("~ x + twice", frame, Y, markers)).notna().all(axis=None)


# -- a level that a trait never sees ------------------------------------------------------------------------

PATHS = {
    "own rows": {},
    "few bytes": {"missing_memory": 0},
    "counts": {"link": "poisson"},
    "spikes": {"priors": sg.Priors(loadings="spike_slab")},
    "two terms": {"formula": "{} + (1 | line) + (1 | pen)"},
}


@pytest.mark.parametrize("fixed", ["~ x + f", "~ 0 + f + x"])
@pytest.mark.parametrize("path", PATHS)
def test_slam_leaves_out_a_level_without_data_of_a_trait(data, path, fixed):
    """Of y2 the rows with level 'c' are missing: NaN there, and all else as if the level were not in the data.

    Such cells may be drawn in the chain (few bytes, counts). An effect on them and them alone is then a random walk,
    which is what it was before.
    """
    frame, Y, _ = data
    frame = frame.assign(pen=np.resize(["p", "q", "r", "s", "t", "u", "v"], N))
    options = OPTIONS | {"draws": 150, "burn": 100} | PATHS[path]
    formula = options.pop("formula", "{} + (1 | line)").format(fixed)
    if path == "counts":
        Y = np.floor(np.exp(0.3 * (Y - 5.0)) * 4)
    Y = Y.assign(y2=Y["y2"].mask(frame["f"] == "c"))
    level = "f[c]" if "0 +" in fixed else "f[T.c]"
    with pytest.warns(SlamWarning, match=r"1 fixed effect\(s\) cannot be told from the rows where a trait has data"):
        fit = sg.slam(formula, frame, Y=Y, **options)
    assert any(f"(first: '{level}' on 'y2')" in note for note in fit.notes)
    table = effects(fit)
    assert table.isna().sum().sum() == 1
    assert np.isnan(table.loc[level, "y2"])
    alone = frame["f"] != "c"
    y2 = np.log(Y["y2"] + 0.5) if path == "counts" else Y["y2"]
    least = np.linalg.lstsq(fit.design.X.loc[alone].to_numpy(), y2[alone].to_numpy(), rcond=None)[0]
    for name, ours, theirs in zip(table.index, table["y2"], least, strict=True):
        assert name == level or abs(ours - theirs) < 0.75, (name, ours, theirs)
    with pytest.warns(SlamWarning, match=re.escape(f"need the effect of '{level}' on 'y2', which the rows of")):
        values = fit.predict(frame.iloc[:4], random="none")
    kept = np.nan_to_num(table)
    np.testing.assert_allclose(values, fit.design.X.iloc[:4].to_numpy() @ kept, rtol=1e-9)
    assert np.isfinite(fit.fitted()).all(axis=None)


def test_mr_mash_leaves_out_a_level_without_data_of_a_response(data):
    frame, Y, markers = data
    Y = Y.assign(y2=Y["y2"].mask(frame["f"] == "c"))
    with pytest.warns(SlamWarning, match=r"1 fixed effect\(s\) cannot be told .* 'f\[T.c\]' on 'y2'\)"):
        fit = sg.mr_mash("~ x + f", frame, Y=Y, markers=markers)
    assert effects(fit).isna().sum().sum() == 1
    assert np.isnan(effects(fit).loc["f[T.c]", "y2"])
    assert np.isfinite(fit.fitted()).all(axis=None)
    with pytest.warns(SlamWarning, match=r"predict: 1 row\(s\).* on 'y2', which the rows of the fit cannot tell"):
        fit.predict(frame.iloc[:4], markers=markers.iloc[:4])
    # Of a trait whose own rows make a column a combination: the others say the same of these rows.
    frame = frame.assign(z=np.where(frame["f"] == "c", 1.0, 3 - 2 * frame["x"]))
    with pytest.warns(SlamWarning, match=r"1 fixed effect\(s\) cannot be told .* 'z' on 'y2'\)"):
        fit = sg.mr_mash("~ x + z", frame, Y=Y, markers=markers)
    seen = Y["y2"].notna()
    away = (fit.fitted()["y2"] - Y["y2"])[seen]
    assert abs(away.mean()) < 0.05
    assert abs(np.corrcoef(away, frame["x"][seen])[0, 1]) < 0.05
