"""Covariates of single traits: planted eQTLs, labels, prediction, streams, messages."""

import dataclasses

import numpy as np
import pandas as pd
import pytest

import slamglmm as sg
from slamglmm.errors import DataError, DroppedRowsWarning, OptionError
from slamglmm.fitters.slam import problem as problem_module

GENES = 30


def eqtls(seed=1, families=20, **options):
    """Expression of genes with three cis markers each, one gene in two with an effect of the first of them."""
    data = sg.simulate.slam(families=families, n_traits=GENES, n_factors=3, seed=seed, **options)
    rng = np.random.default_rng([seed, 1])
    names = [f"rs{j}" for j in range(3 * GENES)]
    dosages = pd.DataFrame(rng.binomial(2, 0.3, (len(data.frame), len(names))), columns=names)
    cis = {gene: names[3 * j : 3 * j + 3] for j, gene in enumerate(data.Y.columns)}
    effects = pd.Series(0.0, index=pd.MultiIndex.from_tuples([(g, rs) for g, own in cis.items() for rs in own]))
    effects.iloc[::6] = rng.choice([-1, 1], len(effects.iloc[::6])) * rng.uniform(0.3, 0.8, len(effects.iloc[::6]))
    Y = data.Y + np.column_stack([dosages[cis[g]] @ effects[g] for g in data.Y.columns])
    return data, data.frame.join(dosages), Y, cis, effects


def fit(data, frame, Y, cis, **options):
    settings = {"n_factors": 5, "draws": 250, "burn": 200, "chains": 2, "seed": 1, "progress": False} | options
    return sg.slam(data.formula, frame, Y=Y, relmat=data.relmat, cis=cis, **settings)


@pytest.mark.parametrize("missing", [0.0, 0.3])
def test_planted_effects_and_heritabilities_are_found(missing):
    """Effects with intervals that cover, and the h2 there would be without these effects; with missing cells too."""
    data, frame, Y, cis, effects = eqtls(missing=missing)
    # Heritabilities of 250 draws scatter as much as what is compared below.
    longer = {"draws": 600, "burn": 300}
    result = fit(data, frame, Y, cis, **longer)
    table = result.cis(prob=0.9)
    assert list(table.index) == list(effects.index)
    assert table.index.names == ["trait", "covariate"]
    truth = effects.to_numpy()
    covered = ((table["lower"] < truth) & (truth < table["upper"])).mean()
    assert 0.8 <= covered <= 0.97  # of 90 effects: 0.9 give or take two and a half standard errors
    planted = truth != 0
    assert np.corrcoef(table["mean"], truth)[0, 1] > (0.92 if missing else 0.95)
    # The prior shrinks by one part in n.
    slope = np.polyfit(truth[planted], table["mean"][planted], 1)[0]
    assert abs(slope - 1) < 0.1
    h2, ignored, clean = (
        made.h2().loc["animal", "mean"]
        for made in (result, fit(data, frame, Y, None, **longer), fit(data, frame, data.Y, None, **longer))
    )
    assert (h2 - data.truth["h2"].iloc[0]).abs().mean() < 0.12
    genes = effects.groupby(level=0, sort=False).any()
    assert genes.sum() == GENES / 2
    assert (h2 - clean)[genes].abs().mean() < 0.6 * (ignored - clean)[genes].abs().mean()


@pytest.fixture(scope="module")
def small():
    data, frame, Y, cis, _ = eqtls(families=6, missing=0.05)
    Y.iloc[3] = np.nan
    cis = {gene: cis[gene] for gene in list(cis)[:0:-3]}  # some genes, in another order than Y's
    options = {"draws": 12, "burn": 8}
    return data, frame, Y, cis, options, fit(data, frame, Y, cis, **options)


def assert_same(first, second):
    assert set(first.posterior) == set(second.posterior)
    for name in first.posterior:
        np.testing.assert_array_equal(first.posterior[name], second.posterior[name], err_msg=name)


@pytest.mark.parametrize("kind", ["scattered", "own rows", "drawn given U", "complete", "spike_slab"])
def test_one_run_extended_saved_threaded_and_streamed(small, kind, tmp_path, monkeypatch):
    data, frame, Y, cis, options, _ = small
    notes = {"scattered": "integrated out", "own rows": "30 group(s)", "drawn given U": "1 group(s)"}
    if kind in ("own rows", "drawn given U"):
        monkeypatch.setattr(problem_module, "COST_OF_RANDOM", 0.0)
        options = options | {"missing_memory": 2**30 if kind == "own rows" else 0}
        Y = Y.mask(np.random.default_rng(1).random(Y.shape) < 0.2)
    elif kind == "complete":
        Y = Y.fillna(Y.mean())
    elif kind == "spike_slab":
        options = options | {"priors": sg.Priors(loadings="spike_slab")}
    whole = fit(data, frame, Y, cis, **options)
    assert notes.get(kind, "") in whole.notes[-1]
    assert np.isfinite(whole.posterior["cis"]).all()
    part = fit(data, frame, Y, cis, **(options | {"draws": 5, "n_threads": 2, "n_jobs": 2}))
    part.save(tmp_path / "part")
    assert_same(whole, sg.load(tmp_path / "part").extend(7))
    streamed = fit(data, frame, Y, cis, out=tmp_path / "run", **options)
    assert_same(whole, streamed)
    pd.testing.assert_frame_equal(whole.cis(), sg.load(tmp_path / "run").cis())
    other = frame.assign(**{next(iter(cis.values()))[0]: 1.0 * np.arange(len(frame))})
    with pytest.raises(OptionError, match=r"differs in cis\.values"):
        fit(data, other, Y, cis, out=tmp_path / "run", **options)
    with pytest.raises(OptionError, match=r"differs in cis\.of_trait"):
        fit(data, frame, Y, dict(list(cis.items())[1:]), out=tmp_path / "run", **options)


def test_units_and_origin_of_a_covariate_do_not_matter(small):
    """Half the dosage, counted from elsewhere: the same draws, effects doubled, intercepts moved."""
    data, frame, Y, cis, options, result = small
    names = [name for own in cis.values() for name in own]
    other = fit(data, frame.assign(**{name: 3.0 + 0.5 * frame[name] for name in names}), Y, cis, **options)
    np.testing.assert_allclose(other.posterior["h2"], result.posterior["h2"], rtol=1e-6)
    np.testing.assert_allclose(other.posterior["B"].sel(fixef="x"), result.posterior["B"].sel(fixef="x"), rtol=1e-5)
    np.testing.assert_allclose(other.posterior["cis"], 2.0 * result.posterior["cis"], rtol=1e-5)
    np.testing.assert_allclose(other.fitted(), result.fitted(), rtol=1e-5, atol=1e-7)


def test_order_of_the_mapping_does_not_matter(small):
    data, frame, Y, cis, options, result = small
    other = fit(data, frame, Y, dict(reversed(cis.items())), **options)
    for name in ("h2", "B"):
        np.testing.assert_array_equal(other.posterior[name], result.posterior[name])
    pd.testing.assert_frame_equal(other.cis().loc[result.cis().index], result.cis())


def test_predictions_need_and_use_the_columns(small):
    data, frame, Y, cis, options, result = small
    gene, (rs, *_) = next(iter(cis.items()))
    new = frame.iloc[:5].reset_index(drop=True)
    more = new.assign(**{rs: new[rs] + 1})
    before, after = result.predict(new), result.predict(more)
    effect = result.cis().loc[(gene, rs), "mean"]
    np.testing.assert_allclose(after[gene] - before[gene], effect, rtol=1e-9)
    pd.testing.assert_frame_equal(after.drop(columns=gene), before.drop(columns=gene))
    # The draws' mean is that of the prediction, and the rows of the fit are new rows like others.
    drawn = result.predict(new, random="none", interval=0.9)
    np.testing.assert_allclose(drawn[gene, "mean"], result.predict(new, random="none")[gene], rtol=1e-9)
    np.testing.assert_allclose(result.predict(random="none").iloc[:5], result.predict(new, random="none"), rtol=1e-9)
    # A row without data has fixed, cis and random effects.
    every = fit(data, frame, Y, cis, **(options | {"thin": 2}))
    np.testing.assert_allclose(every.fitted().iloc[3], every.predict(frame).iloc[3], rtol=1e-8, atol=1e-9)
    with pytest.raises(DataError, match=rf"newdata lacks '{rs}' \(first needed by trait '{gene}'\)"):
        result.predict(new.drop(columns=rs))
    with pytest.raises(DataError, match=rf"column '{rs}' \(trait '{gene}'\) is missing or infinite in 1 row.*row '2'"):
        result.predict(new.assign(**{rs: [0, 1, np.nan, 1, 2]}))
    lean = fit(data, frame, Y, cis, **(options | {"store": ("B", "h2")}))
    with pytest.raises(OptionError, match="'cis' was not stored"):
        lean.predict(new, random="none")


def test_frames_of_other_kinds_and_dropped_rows(small):
    """Columns of a polars frame, and rows left out for what they lack elsewhere: cis may be missing there too."""
    polars = pytest.importorskip("polars")
    data, frame, Y, cis, options, result = small
    same = polars.DataFrame({name: frame[name].tolist() for name in frame})
    np.testing.assert_array_equal(fit(data, same, Y, cis, **options).posterior["cis"], result.posterior["cis"])
    holes = frame.astype({name: float for own in cis.values() for name in own})
    holes.loc[5, ["x", *next(iter(cis.values()))]] = np.nan
    with pytest.warns(DroppedRowsWarning, match="1 of 60 rows dropped"):
        one = fit(data, holes, Y, cis, **options)
    other = fit(data, frame.drop(index=5), Y.drop(index=5), cis, **options)
    np.testing.assert_array_equal(one.posterior["cis"], other.posterior["cis"])


def test_diagnostics_and_notes_know_them(small, monkeypatch):
    cis, result = small[3], small[-1]
    assert "cis: 30 effect(s) of 30 column(s) on 10 trait(s)" in result.notes
    gene, (rs, *_) = next(iter(cis.items()))
    table = result.diagnostics()
    assert table.loc[("cis", rs, gene), "mean"] == pytest.approx(result.cis().loc[(gene, rs), "mean"])
    assert len(table.loc["cis"]) == 30
    monkeypatch.setattr("slamglmm.results.posterior.DIAGNOSED_CIS", 7)
    assert len(dataclasses.replace(result).diagnostics().loc["cis"]) == 7


def test_counts_with_cis_effects():
    """With a link the effects act on the latent trait, and the scale of the data averages over their columns."""
    data = sg.simulate.slam(families=15, n_traits=4, n_factors=1, link="poisson", intercept=1.0, seed=2)
    rng = np.random.default_rng(1)
    frame = data.frame.assign(rs=rng.binomial(2, 0.4, len(data.frame)))
    gene = data.Y.columns[1]
    Y = data.Y.copy()
    Y[gene] = rng.poisson(np.exp(data.truth["H"][gene] + 0.7 * frame["rs"]))
    result = fit(data, frame, Y, {gene: "rs"}, link="poisson", n_factors=1, draws=400, store=(*sg.DEFAULT_STORE, "U"))
    row = result.cis(prob=0.99).loc[(gene, "rs")]
    assert row["lower"] < 0.7 < row["upper"]
    assert row["sd"] < 0.2
    expected = result.predict(scale="data", random="none")
    ratio = result.predict(frame.assign(rs=2), scale="data", random="none") / result.predict(
        frame.assign(rs=0), scale="data", random="none"
    )
    assert np.exp(2 * row["lower"]) < ratio[gene].mean() < np.exp(2 * row["upper"])
    assert np.isfinite(expected.to_numpy()).all()
    # Without the effect in the fixed part, the data would vary less at given variances.
    h2 = result.h2(scale="data").loc[("animal", gene), "mean"]
    other = fit(data, frame, data.Y, None, link="poisson", n_factors=1, draws=400)
    assert 0 < h2 < other.h2(scale="data").loc[("animal", gene), "mean"] + 0.15


def test_cross_validation_carries_the_columns(small):
    """Columns of the data need no argument of their own: whole rows left out are predicted with them."""
    data, frame, Y, cis, effects = eqtls(families=8, seed=3)
    frame["fold"] = np.arange(len(frame)) % 2
    options = {"relmat": data.relmat, "n_factors": 3, "draws": 60, "burn": 60, "chains": 1, "progress": False}
    scores = [
        sg.cross_validate(sg.slam, data.formula, frame, Y=Y, by="fold", folds=2, cis=own, **options)
        for own in (None, cis)
    ]
    with_effect = [gene for gene in Y.columns if effects[gene].abs().max() > 0.5]
    gain = scores[1].summary()["correlation"] - scores[0].summary()["correlation"]
    assert gain[with_effect].mean() > 0.05


def test_messages(small):
    data, frame, Y, _, options, _ = small
    gene = Y.columns[0]
    cases = [
        ({gene: ["rs1", "nothing"]}, DataError, rf"data lacks 'nothing' \(first needed by trait '{gene}'\).*data.join"),
        ({"no gene": ["rs1"]}, DataError, r"cis names 'no gene', which are not among the traits \('trait01', "),
        ({gene: ["rs1", "rs1"]}, OptionError, rf"cis\['{gene}'\] names 'rs1' more than once"),
        ({gene: ["word"]}, DataError, rf"column 'word' \(trait '{gene}'\) is .*; expected numbers"),
        ({gene: ["flat"]}, DataError, rf"column 'flat' \(trait '{gene}'\) does not vary on the 59 rows with data"),
        ({gene: ["hole"]}, DataError, rf"column 'hole' \(trait '{gene}'\) is missing or infinite in 2 row\(s\) of"),
        (["rs1"], OptionError, r"expected a mapping of traits to columns of the data.*got list"),
    ]
    hole = frame["rs1"].astype(float)
    hole.iloc[[4, 9]] = np.nan
    flat = np.ones(len(frame))
    flat[3] = 0.0  # the row without data
    odd = frame.assign(word="a", flat=flat, hole=hole)
    for own, kind, message in cases:
        with pytest.raises(kind, match=message):
            fit(data, odd, Y, own, **options)
    with pytest.raises(OptionError, match=r"Priors\(cis=0\): expected a positive variance"):
        sg.Priors(cis=0)
    with pytest.raises(OptionError, match=r"cis\(\): fit with cis="):
        fit(data, frame, Y, None, **options).cis()
    assert_same(fit(data, frame, Y, {}, **options), fit(data, frame, Y, None, **options))


def test_coefficients_of_curves_may_have_their_own():
    """A link's latent traits are named as such: a marker that shifts whole curves acts on the intercept."""
    data = sg.simulate.curves(families=30, per_family=4, seed=2, basis="poly(time, 2)")
    frame = data.frame.assign(rs=np.random.default_rng(1).binomial(2, 0.4, len(data.frame)))
    dosage = frame.set_index(data.individual)["rs"]
    long = data.long.assign(height=data.long["height"] + 1.5 * dosage.loc[data.long[data.individual]].to_numpy())
    link = sg.links.Regression(data.curve, long, individual=data.individual)
    options = {"n_factors": 2, "draws": 200, "burn": 200, "chains": 1, "seed": 1, "progress": False}
    cis = {"height[Intercept]": "rs"}
    result = sg.slam(data.formula, frame, relmat=data.relmat, link=link, cis=cis, **options)
    row = result.cis(prob=0.99).loc[("height[Intercept]", "rs")]
    assert row["lower"] < 1.5 < row["upper"]
    assert row["sd"] < 0.3
