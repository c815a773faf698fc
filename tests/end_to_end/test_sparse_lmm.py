"""sparse_lmm by formula: what it finds, what it predicts, the random effect, the binomial family, and bad input."""

import numpy as np
import pandas as pd
import pytest
from scipy import optimize

import slamglmm as sg
from slamglmm.errors import ConvergenceWarning, DataError, OptionError
from slamglmm.fitters.sparse_lmm.data import reml_share
from slamglmm.genotypes import write_plink
from tests.reference.markers import bed_columns


def data(n=300, m=150, seed=0):
    rng = np.random.default_rng(seed)
    G = rng.binomial(2, 0.3, (n, m)).astype(float)
    beta = np.zeros(m)
    beta[[m // 15, 2 * m // 5, 11 * m // 15]] = 1.0, -0.8, 0.6
    ids = [f"id{i:03d}" for i in range(n)]
    frame = pd.DataFrame({"sex": np.where(rng.random(n) < 0.5, "f", "m"), "age": rng.normal(40, 10, n)}, index=ids)
    frame["y"] = 2 + 1.5 * (frame["sex"] == "m") + 0.02 * frame["age"] + G @ beta + rng.standard_normal(n)
    markers = pd.DataFrame(G, index=ids, columns=[f"snp{k}" for k in range(m)])
    return frame, markers, beta


def test_finds_what_is_there():
    """Three effects among 150 markers, two covariates, an interval of the explained variance that holds the truth."""
    frame, markers, beta = data()
    fit = sg.sparse_lmm("y ~ 1 + sex + age", frame, markers=markers, seed=1)
    assert set(fit.pip.index[fit.pip > 0.9]) == {"snp10", "snp60", "snp110"}
    assert np.abs(fit.coef - beta).max() < 0.25
    effects = fit.fixef()["mean"]
    assert abs(effects[("sex[T.m]", "y")] - 1.5) < 0.4
    truth = np.var(markers.to_numpy() @ beta)
    pve = fit.pve(0.95)
    assert pve["lower"] < truth / (truth + 1) < pve["upper"]
    assert fit.pve(0.5)["lower"] > pve["lower"]
    np.testing.assert_array_equal(fit.pve(), fit.pve())
    assert abs(fit.residual_var - 1) < 0.25
    assert fit.varcorr().loc["Residual", "share"] == 1.0
    assert "3 with PIP > 0.5" in str(fit)
    assert "<table" in fit._repr_html_()
    assert fit.to_frame().index[0] in {"snp10", "snp60", "snp110"}
    with pytest.raises(OptionError, match="no random effect"):
        fit.ranef()


def test_prediction(tmp_path):
    """Without new data the fitted values; with the same data the same; missing genotypes at the fit's means."""
    frame, markers, _ = data()
    fit = sg.sparse_lmm("y ~ 1 + sex + age", frame, markers=markers)
    np.testing.assert_allclose(fit.predict(), fit.fitted())
    again = fit.predict(frame, markers=markers)
    np.testing.assert_allclose(again, fit.fitted(), atol=1e-10)
    by_hand = fit.design.X.to_numpy() @ fit.fixef()["mean"].to_numpy() + markers.to_numpy() @ fit.coef
    np.testing.assert_allclose(again["y"], by_hand, atol=1e-10)
    some = frame.iloc[[5, 2]]
    shuffled = markers.iloc[:, ::-1]
    np.testing.assert_allclose(fit.predict(some, markers=shuffled), again.iloc[[5, 2]], atol=1e-10)
    gap = markers.iloc[[0]].copy()
    gap["snp10"] = np.nan
    change = fit.predict(frame.iloc[[0]], markers=gap).iloc[0, 0] - again.iloc[0, 0]
    expected = fit.coef["snp10"] * (markers["snp10"].mean() - markers["snp10"].iloc[0])
    np.testing.assert_allclose(change, expected, atol=1e-6)
    with pytest.raises(OptionError, match="new rows need their markers"):
        fit.predict(frame)
    with pytest.raises(DataError, match=r"markers lack 1 of the 150 of the fit: 'snp3'"):
        fit.predict(frame, markers=markers.drop(columns="snp3"))
    with pytest.raises(DataError, match="1 of 300 rows of newdata are not among the 299 rows of markers: 'id000'"):
        fit.predict(frame, markers=markers.iloc[1:])
    with pytest.raises(DataError, match=r"row labels of markers repeat \('id000'\), and are not those of newdata"):
        fit.predict(frame, markers=pd.concat([markers, markers.iloc[:1]]))
    with pytest.raises(
        DataError, match="markers: expected 300 rows, as newdata has, got 299, and no labels to match them by"
    ):
        fit.predict(frame, markers=markers.to_numpy()[1:])
    with pytest.raises(DataError, match="markers have 3 columns; the fit had 150"):
        fit.predict(frame, markers=markers.to_numpy()[:, :3])


@pytest.mark.parametrize("packed", [False, True])
def test_new_rows_find_their_markers(packed, tmp_path):
    """By label when both have one, also when there are as many in another order; else by position."""
    frame, markers, _ = data(n=60, m=20)
    if packed:
        write_plink(tmp_path / "m.bed", [markers.to_numpy()], markers.index, markers.columns)
    source = tmp_path / "m.bed" if packed else markers
    one = sg.sparse_lmm("y ~ 1 + age", frame, markers=source)
    two = sg.mr_mash("~ 1 + age", frame, Y=frame[["y"]], markers=source)
    turned = frame.iloc[::-1]
    for fit in (one, two):
        np.testing.assert_allclose(fit.predict(turned, markers=source), fit.fitted().loc[turned.index], atol=1e-10)
        np.testing.assert_allclose(
            fit.predict(turned.iloc[3:9], markers=source), fit.fitted().loc[turned.index[3:9]], atol=1e-10
        )
        # without the index, by the column that has the ids
        counted = turned.reset_index(names="who")
        np.testing.assert_allclose(
            fit.predict(counted, markers=source), fit.fitted().loc[turned.index].reset_index(drop=True), atol=1e-10
        )
        bare = markers.to_numpy()[::-1]
        np.testing.assert_allclose(fit.predict(turned, markers=bare), fit.fitted().loc[turned.index], atol=1e-10)
    for unknown in (frame.set_axis([f"x{i}" for i in range(60)]), frame.reset_index(drop=True)):
        with pytest.raises(DataError, match=r"row labels of markers .* were compared with the index of newdata"):
            one.predict(unknown, markers=source)


def test_save_and_load(tmp_path):
    """Everything, the questions that need the markers again included."""
    frame, markers, _ = data()
    for source in (markers, bed_columns(markers.to_numpy(), tmp_path)):
        data_frame = frame if source is markers else frame.set_axis(source.labels)
        fit = sg.sparse_lmm("y ~ 1 + sex", data_frame, markers=source)
        fit.save(tmp_path / "fit")
        again = sg.load(tmp_path / "fit")
        np.testing.assert_array_equal(again.pip, fit.pip)
        pd.testing.assert_frame_equal(again.credible_set(), fit.credible_set())
        np.testing.assert_array_equal(again.pve(seed=3), fit.pve(seed=3))
        np.testing.assert_array_equal(again.fitted(), fit.fitted())


def test_credible_sets():
    """Two copies of a causal marker share its set evenly; the posterior itself takes one of them."""
    frame, markers, _ = data()
    markers["copy"] = markers["snp10"]
    fit = sg.sparse_lmm("y ~ 1 + sex + age", frame, markers=markers)
    assert abs(fit.pip["snp10"] + fit.pip["copy"] - 1) < 0.05
    sets = fit.credible_set(0.95)
    lead = "snp10" if fit.pip["snp10"] > 0.5 else "copy"
    one = sets.loc[lead]
    assert set(one.index) == {"snp10", "copy"}
    np.testing.assert_allclose(one["prob"], 0.5, atol=0.01)
    np.testing.assert_allclose(one["correlation"], 1.0)
    assert (sets["prob"].groupby(level="lead").sum() >= 0.95).all()
    assert list(fit.credible_set(threshold=1.0).columns) == ["prob", "correlation"]


def test_credible_sets_near_the_lead():
    """Markers that are hardly correlated with the lead leave the set, and the others share its probability."""
    frame, markers, _ = data(n=60, m=40)
    fit = sg.sparse_lmm("y ~ 1 + age", frame, markers=markers, pi=0.05)
    options = {"level": 1 - 1e-12, "threshold": 0.2}
    wide, near = fit.credible_set(**options), fit.credible_set(**options, min_correlation=0.2)
    leads = near.index.get_level_values("lead").unique()
    assert len(leads) >= 1
    for lead in leads:
        one = wide.loc[lead]
        kept = one[one["correlation"].abs() >= 0.2]["prob"]
        assert 1 < len(kept) < len(one) == 40
        np.testing.assert_allclose(near.loc[lead, "prob"], kept / kept.sum(), rtol=1e-6)
    assert len(fit.credible_set(**options, min_correlation=1.0)) == len(leads)
    with pytest.raises(
        OptionError,
        match=r"credible_set\(min_correlation=1\.5\): expected a finite number of at least 0 and of at most 1",
    ):
        fit.credible_set(min_correlation=1.5)


def test_single_effects_are_exact():
    """The probabilities of a set against marginal likelihoods of dense covariances."""
    frame, markers, _ = data(n=60, m=12)
    fit = sg.sparse_lmm("y ~ 1 + age", frame, markers=markers, pi=0.1, prior_var=0.5, residual_var=1.0)
    lead = int(np.argmax(fit.pip))
    prob, _ = fit.regression.single_effects(np.array([lead]))
    Q, _ = np.linalg.qr(fit.design.X.to_numpy())
    X = markers.to_numpy()
    rest = frame["y"].to_numpy() - X @ fit.coef + X[:, lead] * fit.coef.iloc[lead]
    rest, X = rest - Q @ (Q.T @ rest), X - Q @ (Q.T @ X)
    logs = np.empty(12)
    for k in range(12):
        V = np.eye(60) + 0.5 * np.outer(X[:, k], X[:, k])
        logs[k] = -0.5 * np.linalg.slogdet(V)[1] - 0.5 * rest @ np.linalg.solve(V, rest)
    expected = np.exp(logs - logs.max())
    np.testing.assert_allclose(prob[0], expected / expected.sum(), atol=1e-10)


def test_grid_averages():
    """Weights sum to one, and the averages are those of the points."""
    frame, markers, _ = data()
    fit = sg.sparse_lmm("y ~ 1 + sex + age", frame, markers=markers, pi="grid")
    np.testing.assert_allclose(fit.grid["weight"].sum(), 1.0)
    assert list(fit.grid.columns) == ["log_odds", "pi", "elbo", "weight", "residual_var", "prior_var", "sweeps"]
    assert (fit.pip[["snp10", "snp60", "snp110"]] > 0.99).all()
    em = sg.sparse_lmm("y ~ 1 + sex + age", frame, markers=markers)
    assert np.abs(fit.coef - em.coef).max() < 0.05
    assert em.grid is None


def test_prior_log_odds():
    """Offsets are relative to pi; with pi = 0.5 they are the log odds; a Series is matched by name."""
    frame, markers, _ = data()
    weak = sg.sparse_lmm("y ~ 1", frame, markers=markers, pi=0.02)
    same = sg.sparse_lmm("y ~ 1", frame, markers=markers, pi=0.5, log_odds=np.full(150, np.log(0.02 / 0.98)))
    assert np.abs(weak.pip - same.pip).max() < 1e-3
    favour = pd.Series(0.0, index=markers.columns[::-1])
    favour["snp20"] = 8.0
    fit = sg.sparse_lmm("y ~ 1", frame, markers=markers, log_odds=favour)
    assert fit.pip["snp20"] > 5 * sg.sparse_lmm("y ~ 1", frame, markers=markers).pip["snp20"]
    with pytest.raises(DataError, match=r"log_odds lacks 1 of 150 markers: 'snp20'"):
        sg.sparse_lmm("y ~ 1", frame, markers=markers, log_odds=favour.drop("snp20"))
    with pytest.raises(DataError, match=r"log_odds has shape \(3,\)"):
        sg.sparse_lmm("y ~ 1", frame, markers=markers, log_odds=[1.0, 2.0, 3.0])
    with pytest.raises(DataError, match="must be finite"):
        sg.sparse_lmm("y ~ 1", frame, markers=markers, log_odds=np.full(150, -np.inf))


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("formula", ["y ~ 1 + sex", "y ~ 1 + sex + (1 | group)"])
def test_missing_responses_are_predicted(formula, packed, tmp_path):
    """A row without a response takes no part in the fit, the means of genotypes included, and is predicted."""
    frame, markers, _ = data()
    gaps = frame.copy()
    gaps["group"] = [f"g{k % 39}" for k in range(len(gaps))]
    markers = markers.mask(np.random.default_rng(0).random(markers.shape) < 0.02)
    if packed:
        markers = bed_columns(markers.to_numpy(), tmp_path)
        gaps.index = markers.labels
    gaps.loc[gaps.index[::10], "y"] = np.nan
    one = sg.sparse_lmm(formula, gaps, markers=markers)
    seen = gaps.dropna()
    two = sg.sparse_lmm(formula, seen, markers=markers)
    np.testing.assert_allclose(one.pip, two.pip, atol=1e-10)
    unseen = gaps[gaps["y"].isna()]
    np.testing.assert_allclose(one.fitted().loc[seen.index], two.fitted(), atol=1e-8)
    np.testing.assert_allclose(one.fitted().loc[unseen.index], two.predict(unseen, markers=markers), atol=1e-6)
    assert any("30 row(s) without a response are predicted" in note for note in one.notes)


def several(frame, markers):
    """Three responses: the first two in all rows, the third not in the first twenty."""
    noise = np.random.default_rng(7).standard_normal((len(frame), 2))
    Y = pd.DataFrame({"a": frame["y"], "b": markers["snp10"] + noise[:, 0], "c": 2 - frame["y"] + noise[:, 1]})
    Y.iloc[:20, 2] = np.nan
    return Y


@pytest.mark.parametrize("n_jobs", [1, 2])
@pytest.mark.parametrize("source", ["frame", "bed", "weights", "random"])
def test_several_responses_are_fits_of_one_each(source, n_jobs, tmp_path):
    """Whatever is shared between responses, each comes out to the bit as it does alone."""
    frame, markers, _ = data(m=60)
    Y = several(frame, markers)
    options, formula = {}, "~ 1 + sex"
    if source == "bed":
        write_plink(tmp_path / "m.bed", [markers.to_numpy()], frame.index, markers.columns)
        options["markers"] = tmp_path / "m.bed"
    else:
        options["markers"] = markers
    if source == "weights":
        options["weights"] = 1 + np.arange(len(frame)) % 3
    if source == "random":
        frame["line"] = np.arange(len(frame)) % 40
        formula += " + (1 | line)"
    fits = sg.sparse_lmm(formula, frame, Y=Y, n_jobs=n_jobs, **options)
    assert list(fits) == ["a", "b", "c"]
    for trait in Y:
        alone = sg.sparse_lmm(formula, frame, Y=Y[[trait]], n_threads=1, **options)
        np.testing.assert_array_equal(fits.pip[trait], alone.pip)
        np.testing.assert_array_equal(fits.coef[trait], alone.coef)
        np.testing.assert_array_equal(fits.fitted()[trait], alone.fitted()[trait])
        np.testing.assert_array_equal(fits[trait].elbo, alone.elbo)
        np.testing.assert_array_equal(fits.fixef().xs(trait, level="trait"), alone.fixef())
        np.testing.assert_allclose(fits.pve().loc[trait, "mean"], alone.pve()["mean"], atol=0.05)


def test_several_responses_by_formula(tmp_path):
    """Labels of everything, prediction, a saved copy, binary responses and what is not there."""
    frame, markers, _ = data(m=60)
    frame = frame.join(several(frame, markers))
    fits = sg.sparse_lmm("a + b + c ~ 1 + sex", frame, markers=markers, seed=1)
    assert fits.coef.shape == fits.coef_sd.shape == (60, 3)
    assert list(fits.varcorr().index) == [("Residual", trait) for trait in "abc"]
    np.testing.assert_allclose(fits.predict(frame, markers=markers), fits.fitted(), atol=1e-10)
    table = fits.summary().to_frame()
    assert list(table.index) == ["a", "b", "c"]
    assert table.loc["b", "markers with PIP > 0.5"] == 1
    again = sg.load(fits.save(tmp_path / "fits"))
    pd.testing.assert_frame_equal(again.pip, fits.pip)
    with pytest.raises(OptionError, match="there is no response 'd'; there are 'a', 'b', 'c'"):
        fits["d"]
    with pytest.raises(OptionError, match="no random effect"):
        fits.ranef()
    binary = frame[["a", "b"]] > frame[["a", "b"]].median()
    cases = sg.sparse_lmm("~ 1 + sex", frame, Y=binary.astype(float), markers=markers, family="binomial", n_jobs=2)
    alone = sg.sparse_lmm("~ 1 + sex", frame, Y=binary[["b"]].astype(float), markers=markers, family="binomial")
    np.testing.assert_array_equal(cases.pip["b"], alone.pip)
    with pytest.warns(ConvergenceWarning, match=r"in 2 sweeps for 'a', 'b', 'c'; raise max_iter"):
        sg.sparse_lmm("a + b + c ~ 1 + sex", frame, markers=markers, max_iter=2)


@pytest.mark.parametrize("n_jobs", [1, 2])
@pytest.mark.parametrize("packed", [False, True])
def test_cross_validation(packed, n_jobs, tmp_path):
    """Both fitters predict what was masked, several responses at once, and from a .bed as from a table."""
    frame, markers, _ = data()
    Y = several(frame, markers)
    markers = markers.mask(np.random.default_rng(3).random(markers.shape) < 0.02)
    if packed:
        # Not in the order of the data: rows are found by their ids.
        turned = markers.iloc[::-1]
        write_plink(tmp_path / "m.bed", [turned.to_numpy()], turned.index, turned.columns)
    source = tmp_path / "m.bed" if packed else markers
    for fitter in (sg.sparse_lmm, sg.mr_mash):
        cv = sg.cross_validate(
            fitter, "~ 1 + sex + age", frame, Y=Y, markers=source, folds=3, by="rows", n_jobs=n_jobs, seed=2
        )
        assert cv.summary()["n"].tolist() == [300, 300, 280]
        assert (cv.summary()["correlation"] > 0.45).all()
        masked = Y.mask(cv.folds == 1)
        fit = fitter("~ 1 + sex + age", frame, Y=masked, markers=markers)
        np.testing.assert_allclose(cv.predictions[cv.folds == 1], fit.fitted()[cv.folds == 1], atol=1e-5)


def test_offset():
    """A known part of the response is taken off, and put back by predict."""
    frame, markers, _ = data()
    one = sg.sparse_lmm("y ~ 1 + sex + offset(3 * age)", frame, markers=markers)
    two = sg.sparse_lmm("y ~ 1 + sex", frame.assign(y=frame["y"] - 3 * frame["age"]), markers=markers)
    np.testing.assert_allclose(one.pip, two.pip, atol=1e-8)
    np.testing.assert_allclose(one.fitted()["y"], two.fitted()["y"] + 3 * frame["age"], atol=1e-8)
    np.testing.assert_allclose(one.predict(frame, markers=markers), one.fitted(), atol=1e-8)


# -- binomial --------------------------------------------------------------------------------------------------------


def test_binomial():
    """A logistic regression finds the large effects and gives probabilities."""
    frame, markers, beta = data(n=600)
    rng = np.random.default_rng(5)
    eta = 2.0 * (markers.to_numpy() - 0.6) @ beta
    frame["case"] = (rng.random(600) < 1 / (1 + np.exp(-eta))).astype(float)
    fit = sg.sparse_lmm("case ~ 1 + sex", frame, markers=markers, family="binomial")
    assert (fit.pip[["snp10", "snp60"]] > 0.9).all()
    probability = fit.predict()["case"]
    assert probability.between(0, 1).all()
    assert np.corrcoef(probability, frame["case"])[0, 1] > 0.5
    link = fit.predict(scale="link")
    np.testing.assert_allclose(1 / (1 + np.exp(-link["case"])), probability)
    np.testing.assert_allclose(fit.predict(frame, markers=markers), probability.to_frame(), atol=1e-8)
    assert 0 < fit.pve(seed=0)["mean"] < 1
    assert len(fit.credible_set()) >= 2
    packed = sg.sparse_lmm("case ~ 1 + sex", frame, markers=markers.to_numpy().astype(np.int8), family="binomial")
    np.testing.assert_allclose(packed.pip.to_numpy(), fit.pip.to_numpy(), atol=1e-8)


def cases(n=200, m=30, seed=0):
    """Shares of successes in one to five trials, and the same trials one by one."""
    rng = np.random.default_rng(seed)
    G = rng.binomial(2, 0.3, (n, m)).astype(float)
    x = rng.standard_normal(n)
    trials = rng.integers(1, 6, n)
    successes = rng.binomial(trials, 1 / (1 + np.exp(0.5 - 1.2 * G[:, 4] - 0.5 * x)))
    together = pd.DataFrame({"y": successes / trials, "x": x, "trials": trials})
    row = np.repeat(np.arange(n), trials)
    first = np.concatenate([np.arange(t) for t in trials])
    apart = pd.DataFrame({"y": (first < successes[row]).astype(float), "x": x[row]})
    return together, G, apart, G[row]


@pytest.mark.parametrize("options", [{"pi": 0.05, "prior_var": 0.5}, {}, {"pi": "grid"}])
def test_binomial_trials(options):
    """A share of successes with the number of trials says what the trials say one by one."""
    together, G, apart, G_apart = cases()
    fixed = {"family": "binomial", "tol": 1e-7, "n_threads": 1, **options}
    one = sg.sparse_lmm("y ~ x", together, markers=G, weights="trials", **fixed)
    two = sg.sparse_lmm("y ~ x", apart, markers=G_apart, **fixed)
    if "pi" in options:
        np.testing.assert_allclose(one.pip, two.pip, atol=1e-6)
        np.testing.assert_allclose(one.coef, two.coef, atol=1e-6)
        np.testing.assert_allclose(one.fixef(), two.fixef(), atol=1e-6)
    if options.get("prior_var"):
        assert one.elbo[-1] == pytest.approx(two.elbo[-1], abs=1e-6)
    assert one.pip.idxmax() == two.pip.idxmax() == 4


def test_binomial_standardized():
    """The fit to columns divided by their standard deviations, back on the scale of dosages."""
    _, _, frame, G = cases()
    sd = G.std(axis=0, ddof=1)
    fixed = {"family": "binomial", "pi": 0.05, "prior_var": 0.3, "tol": 1e-8}
    fit = sg.sparse_lmm("y ~ 1", frame, markers=G, standardize=True, **fixed)
    by_hand = sg.sparse_lmm("y ~ 1", frame, markers=G / sd, **fixed)
    np.testing.assert_allclose(fit.pip, by_hand.pip, atol=1e-9)
    np.testing.assert_allclose(fit.coef * sd, by_hand.coef, atol=1e-9)
    np.testing.assert_allclose(fit.elbo, by_hand.elbo, rtol=1e-12)
    np.testing.assert_allclose(fit.fitted(), by_hand.fitted(), atol=1e-9)
    pd.testing.assert_series_equal(fit.pve(seed=0), by_hand.pve(seed=0), rtol=1e-9)
    pd.testing.assert_frame_equal(fit.credible_set(), by_hand.credible_set(), rtol=1e-6)


def test_binomial_grid_averages():
    """Weights from the bounds, every point fitted; any number of threads gives the same."""
    _, _, frame, G = cases()
    fit = sg.sparse_lmm("y ~ x", frame, markers=G, family="binomial", pi="grid", n_threads=1)
    two = sg.sparse_lmm("y ~ x", frame, markers=G, family="binomial", pi="grid", n_threads=2)
    np.testing.assert_array_equal(fit.pip, two.pip)
    grid = fit.grid
    np.testing.assert_allclose(grid["weight"], np.exp(grid["elbo"]) / np.exp(grid["elbo"]).sum(), rtol=1e-9)
    single = sg.sparse_lmm("y ~ x", frame, markers=G, family="binomial", pi=float(grid["pi"].iloc[9]))
    assert single.elbo[-1] == pytest.approx(grid["elbo"].iloc[9], abs=0.01)
    em = sg.sparse_lmm("y ~ x", frame, markers=G, family="binomial")
    assert abs(fit.coef[4] - em.coef[4]) < 0.05


def test_binomial_offset():
    """An offset that is a multiple of a covariate changes that covariate's effect, and nothing else."""
    _, _, frame, G = cases()
    fixed = {"markers": G, "family": "binomial", "tol": 1e-8}
    one = sg.sparse_lmm("y ~ 1 + x", frame, **fixed)
    two = sg.sparse_lmm("y ~ 1 + x + offset(0.7 * x)", frame, **fixed)
    np.testing.assert_allclose(two.pip, one.pip, atol=1e-6)
    np.testing.assert_allclose(two.fitted(), one.fitted(), atol=1e-6)
    np.testing.assert_allclose(one.fixef()["mean"] - two.fixef()["mean"], [0.0, 0.7], atol=1e-6)
    np.testing.assert_allclose(two.elbo[-1], one.elbo[-1], rtol=1e-9)


def test_binomial_refuses_what_are_no_trials():
    """A share that is not a whole number of successes."""
    together, G, _, _ = cases()
    with pytest.raises(DataError, match=r"takes a response of 0 and 1, or shares of successes with weights="):
        sg.sparse_lmm("y ~ x", together, markers=G, family="binomial")
    with pytest.raises(DataError, match=r"row 0 of 'y' has a share of 0.25 of 3 trials"):
        sg.sparse_lmm("y ~ x", together.assign(y=0.25, trials=3), markers=G, family="binomial", weights="trials")


# -- random effect ---------------------------------------------------------------------------------------------------


def with_lines(n=160, m=80, seed=0):
    rng = np.random.default_rng(seed)
    G = rng.binomial(2, 0.3, (n // 2, m)).astype(float)
    background = sg.kinship(pd.DataFrame(rng.binomial(2, 0.3, (n // 2, 400)).astype(float)))
    lines = [f"L{i}" for i in range(n // 2)]
    K = pd.DataFrame(background.to_numpy() + 1e-6 * np.eye(n // 2), lines, lines)
    u = np.linalg.cholesky(K.to_numpy()) @ rng.standard_normal(n // 2)
    frame = pd.DataFrame({"line": np.repeat(lines, 2), "x": rng.standard_normal(n)})
    G = np.repeat(G, 2, axis=0)
    frame["y"] = 1 + 0.5 * frame["x"] + 1.2 * G[:, 3] - 1.5 * G[:, 40] + np.repeat(u, 2) + rng.standard_normal(n)
    return frame, G, K


def test_reml_share_is_the_maximum():
    """A grid that stops beside the maximum."""
    frame, _, K = with_lines()
    Zr = pd.get_dummies(frame["line"])[K.index].to_numpy(dtype=float)
    values, vectors = np.linalg.eigh(Zr @ K.to_numpy() @ Zr.T)
    X = np.column_stack((np.ones(len(frame)), frame["x"]))
    y = frame["y"].to_numpy()

    def criterion(h):
        V = h * Zr @ K.to_numpy() @ Zr.T + (1 - h) * np.eye(len(y))
        Vi = np.linalg.inv(V)
        XVX = X.T @ Vi @ X
        P = Vi - Vi @ X @ np.linalg.solve(XVX, X.T @ Vi)
        return np.linalg.slogdet(V)[1] + np.linalg.slogdet(XVX)[1] + (len(y) - 2) * np.log(y @ P @ y)

    best = optimize.minimize_scalar(criterion, bounds=(0, 0.999), method="bounded", options={"xatol": 1e-9})
    np.testing.assert_allclose(reml_share(np.maximum(values, 0), vectors.T @ y, vectors.T @ X), best.x, atol=1e-5)


@pytest.mark.parametrize("weighted", [False, True])
def test_random_effect_is_a_rotation(weighted):
    """Against a plain fit of y, X and G multiplied by V^-1/2 by hand, with the bound's log |V|."""
    frame, G, K = with_lines()
    n = len(frame)
    w = np.linspace(0.5, 2, n) if weighted else np.ones(n)
    weights = w if weighted else None
    fit = sg.sparse_lmm("y ~ 1 + x + (1 | line)", frame, markers=G, relmat={"line": K}, weights=weights)
    Zr = pd.get_dummies(frame["line"])[K.index].to_numpy(dtype=float)
    kernel = Zr @ K.to_numpy() @ Zr.T
    V = fit.share * kernel + (1 - fit.share) * np.diag(1 / w)
    values, vectors = np.linalg.eigh(V)
    half = vectors @ np.diag(values**-0.5) @ vectors.T
    X = half @ np.column_stack((np.ones(n), frame["x"]))
    plain = pd.DataFrame({"one": X[:, 0], "x": X[:, 1], "y": half @ frame["y"]})
    by_hand = sg.sparse_lmm("y ~ 0 + one + x", plain, markers=half @ G)
    np.testing.assert_allclose(fit.pip.to_numpy(), by_hand.pip.to_numpy(), atol=1e-4)
    np.testing.assert_allclose(fit.elbo[-1], by_hand.elbo[-1] - 0.5 * np.log(values).sum(), atol=1e-3)
    np.testing.assert_allclose(fit.fixef()["mean"].to_numpy(), by_hand.fixef()["mean"].to_numpy(), atol=1e-4)
    # BLUP given the marker effects
    rest = frame["y"] - fit.design.X.to_numpy() @ fit.fixef()["mean"].to_numpy() - G @ fit.coef
    u = fit.share * K.to_numpy() @ Zr.T @ np.linalg.solve(V, rest)
    np.testing.assert_allclose(fit.ranef("line")["y"], u, atol=1e-3)
    np.testing.assert_allclose(fit.fitted()["y"], frame["y"] - rest + Zr @ u, atol=1e-3)


def test_random_effect_results():
    """Shares, predictions for known and new lines, markers on disk."""
    frame, G, K = with_lines()
    fit = sg.sparse_lmm("y ~ 1 + x + (1 | line)", frame.iloc[:150], markers=G[:150], relmat={"line": K})
    assert set(np.flatnonzero(fit.pip > 0.9)) == {3, 40}
    assert list(fit.varcorr().index) == ["line", "Residual"]
    signal = G[:150] @ fit.coef.to_numpy()
    Zr = pd.get_dummies(frame["line"].iloc[:150]).reindex(columns=K.index, fill_value=0).to_numpy(dtype=float)
    rest = fit.share * np.mean(np.diag(Zr @ K.to_numpy() @ Zr.T)) + 1 - fit.share
    expected = signal.var() / (signal.var() + fit.residual_var * rest)
    assert abs(fit.pve(seed=1)["mean"] - expected) < 0.05
    assert 0 < fit.share < 1
    assert len(fit.ranef()) == len(K)
    np.testing.assert_allclose(fit.predict(frame.iloc[:150], markers=G[:150]), fit.fitted(), atol=1e-8)
    with_u = fit.predict(frame.iloc[150:], markers=G[150:])
    without = fit.predict(frame.iloc[150:], markers=G[150:], random="none")
    u = fit.ranef()["y"][frame["line"].iloc[150:]].to_numpy()
    np.testing.assert_allclose(with_u["y"] - without["y"], u, atol=1e-10)
    np.testing.assert_allclose(
        fit.predict(random="none")["y"],
        fit.fitted()["y"] - fit.ranef()["y"][frame["line"].iloc[:150]].to_numpy(),
        atol=1e-10,
    )
    assert "share" in str(fit)


def test_random_effect_on_disk(tmp_path, monkeypatch):
    """Above the limit the size is named and a file asked for; with one the numbers are the same."""
    frame, G, K = with_lines()
    arguments = {"formula": "y ~ 1 + x + (1 | line)", "data": frame, "markers": G, "relmat": {"line": K}}
    one = sg.sparse_lmm(**arguments)
    monkeypatch.setattr("slamglmm.fitters.sparse_lmm.data.ROTATED_LIMIT", 1000)
    with pytest.raises(OptionError, match=r"needs the markers rotated, as float32: .* above the limit"):
        sg.sparse_lmm(**arguments)
    two = sg.sparse_lmm(**arguments, out=tmp_path / "rotated.f4")
    np.testing.assert_array_equal(one.pip, two.pip)
    assert (tmp_path / "rotated.f4").stat().st_size == 4 * G.size


def test_random_effect_absorbs_relatedness():
    """Markers that only mark families are not found when the families are in the model."""
    rng = np.random.default_rng(1)
    families, n = 30, 300
    family = np.repeat(np.arange(families), n // families)
    allele = rng.random((families, 200))
    G = rng.binomial(2, allele[family]).astype(float)
    y = 2 * rng.standard_normal(families)[family] + rng.standard_normal(n)
    frame = pd.DataFrame({"y": y, "family": family.astype(str)})
    plain = sg.sparse_lmm("y ~ 1", frame, markers=G)
    mixed = sg.sparse_lmm("y ~ 1 + (1 | family)", frame, markers=G)
    assert (mixed.pip > 0.5).sum() == 0
    assert plain.pip.sum() > mixed.pip.sum() + 3


# -- bad input -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"family": "poisson"}, OptionError, "family='poisson': expected 'gaussian' or 'binomial'"),
        ({"dof": "n"}, OptionError, "dof='n': expected 'ml' or 'reml'"),
        ({"pi": 1.5}, OptionError, "pi=1.5: expected 'em', 'grid' or a finite number above 0 and below 1"),
        ({"pi": None}, OptionError, "pi=None: expected 'em', 'grid' or a finite number above 0 and below 1"),
        ({"prior_var": -1}, OptionError, "prior_var=-1: expected 'em' or a finite positive number"),
        ({"residual_var": "reml"}, OptionError, "residual_var='reml': expected 'em' or a finite positive number"),
        ({"n_threads": 0}, OptionError, "n_threads=0: expected an integer of at least 1, or None"),
        ({"tol": 0}, OptionError, "tol=0: expected a finite positive number"),
        ({"family": "binomial"}, DataError, "takes a response of 0 and 1, or shares .*; 'y' has"),
        ({"formula": "~ sex"}, OptionError, "needs a response: name it on the left of '~', or pass Y="),
        ({"formula": "y ~ 1 + (1 + age | sex)"}, OptionError, "one random effect with one column"),
        ({"formula": "y ~ 1 + (1 | nobody)"}, sg.errors.FormulaError, "nobody"),
        ({"relmat": {"line": np.eye(2)}}, OptionError, "relmat has 'line', but the random terms group by none"),
    ],
)
def test_refused_options(change, error, message):
    """Each names the value that came."""
    frame, markers, _ = data(n=50, m=10)
    arguments = {"formula": "y ~ 1 + sex", "data": frame, "markers": markers, **change}
    with pytest.raises(error, match=message):
        sg.sparse_lmm(**arguments)


def test_refused_data(tmp_path):
    """No markers, too few rows, constant things, NaN and labels that do not match."""
    frame, markers, _ = data(n=50, m=10)

    def refuse(message, frame=frame, markers=markers, formula="y ~ 1 + age"):
        with pytest.raises(DataError, match=message):
            sg.sparse_lmm(formula, frame, markers=markers)

    refuse(r"markers are empty \(50 rows x 0 markers\)", markers=markers.iloc[:, :0])
    refuse(r"1 row\(s\) with a response are too few", frame=frame.iloc[:1])
    refuse("none of the 10 markers varies", markers=markers * 0 + 1)
    refuse("response 'y' is 3 in all 50 rows", frame=frame.assign(y=3.0))
    refuse("is explained exactly by the fixed effects", frame=frame.assign(y=2 * frame["age"]))
    strangers = markers.set_axis([f"x{i}" for i in range(50)])
    refuse(r"row labels of markers \('x0', .*compared with the index of data \('id000', .*none has", markers=strangers)
    refuse("markers: expected 50 rows, as data has, got 49", markers=markers.to_numpy()[1:])
    refuse("same name twice: 'snp0'", markers=markers.set_axis(["snp0"] * 2 + list(markers.columns[2:]), axis=1))
    packed = bed_columns(markers.to_numpy(), tmp_path)
    repeated = pd.concat([frame, frame]).set_axis(list(packed.labels) * 2)
    refuse("several rows for the individuals 'i0'", frame=repeated, markers=packed)
    with pytest.warns(sg.errors.DroppedRowsWarning, match="missing values in 'age'"):
        sg.sparse_lmm("y ~ 1 + age", frame.assign(age=frame["age"].mask(frame["age"] > 50)), markers=markers)


def test_records_of_a_bed_can_be_repeated_when_unpacked(tmp_path):
    """Several records of one individual."""
    frame, markers, _ = data(n=50, m=10)
    packed = bed_columns(markers.to_numpy(), tmp_path)
    repeated = pd.concat([frame, frame]).set_axis(list(packed.labels) * 2)
    fit = sg.sparse_lmm("y ~ 1 + age", repeated, markers=packed.unpacked())
    assert fit.nobs == 100


def test_duplicated_markers_are_finite():
    """Identical columns are not an error: one of them, or both together, carry the effect."""
    frame, markers, _ = data()
    markers = pd.concat([markers, markers.add_suffix("_again")], axis=1)
    fit = sg.sparse_lmm("y ~ 1 + sex + age", frame, markers=markers)
    assert np.isfinite(fit.coef).all()
    assert abs(fit.pip["snp10"] + fit.pip["snp10_again"] - 1) < 0.1


def test_warns_when_not_converged():
    """With the number of sweeps that were allowed."""
    frame, markers, _ = data()
    with pytest.warns(ConvergenceWarning, match="has not converged in 2 sweeps"):
        sg.sparse_lmm("y ~ 1", frame, markers=markers, max_iter=2)


def test_glucosinolates_known_loci():
    """MAM (chromosome 5, about 35 cM), AOP (chromosome 4, 7 to 9 cM), and chromosome 1, about 89 cM, for flavonols."""
    data = sg.datasets.load("glucosinolates")
    place = data.map.set_index("marker")
    found = {"MAM": 0, "AOP": 0, "flavonol": 0}
    for trait in data.Y:
        y = data.Y[trait]
        logged = np.log(y + 0.5 * y[y > 0].min())
        fit = sg.sparse_lmm("y ~ 1", data.frame.assign(y=logged), markers=data.markers)
        hits = place.loc[fit.pip.index[fit.pip > 0.9]]

        def near(chromosome, low, high, hits=hits):
            return ((hits["chromosome"] == chromosome) & hits["position_cM"].between(low, high)).any()

        if "hexos" in trait:
            found["flavonol"] += near("1", 84, 94)
        else:
            found["MAM"] += near("5", 30, 40)
            found["AOP"] += near("4", 2, 14)
    assert found["MAM"] >= 17
    assert found["AOP"] >= 11
    assert found["flavonol"] == 6
