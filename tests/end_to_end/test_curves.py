"""Fits of curves and of probes: truth comes back, bands cover, runs go on to the bit, and what users may ask."""

import numpy as np
import pandas as pd
import pytest

import slamglmm as sg
from slamglmm.errors import DataError, FormulaError, OptionError

SHORT = {"n_factors": 2, "draws": 12, "burn": 10, "chains": 1, "seed": 5, "progress": False}


def fit(data, **options):
    link = sg.links.Regression(data.curve, data.long, individual=data.individual)
    return sg.slam(data.formula, data.frame, relmat=data.relmat, link=link, **(SHORT | options))


@pytest.fixture(scope="module")
def small():
    return sg.simulate.curves(families=8, per_family=4, seed=2, missing=0.1, basis="poly(time, 2)")


@pytest.fixture(scope="module")
def fitted(small):
    return fit(small)


def coverage(data, result):
    """Share of the true curves inside the bands, by trait."""
    table = result.curves(prob=0.9)
    truth = data.truth["curves"].melt(id_vars=[data.individual, "time"], var_name="trait", value_name="true")
    table = table.merge(truth, on=["trait", data.individual, "time"])
    assert len(table) == 2 * len(data.long)
    inside = (table["lower"] <= table["true"]) & (table["true"] <= table["upper"])
    return inside.groupby(table["trait"]).mean(), table


def test_bands_cover_the_curves():
    """300 individuals, 5 to 12 irregular times, two traits: pointwise 90 % bands, and what they are drawn from."""
    data = sg.simulate.curves(families=60, per_family=5, n_factors=3, noise=0.5, seed=1)
    result = fit(data, n_factors=4, draws=200, burn=200)
    covered, table = coverage(data, result)
    assert covered.between(0.85, 0.95).all(), covered
    assert np.corrcoef(table["mean"], table["true"])[0, 1] > 0.95
    noise = result.posterior["noise_var"].mean(("chain", "draw")).to_pandas()
    np.testing.assert_allclose(noise, data.truth["noise_var"][noise.index], rtol=0.2)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
def test_bands_cover_the_curves_long(seed):
    """Other data, more draws, gaps and smooth bases; between the grid of times too."""
    basis = ["bs(time, df=4)", "bs_diff(time, df=4)", "time + I(time**2 / 10)", "0 + cc(time, df=4)"][seed]
    data = sg.simulate.curves(families=60, per_family=5, n_factors=3, noise=0.5, missing=0.1, basis=basis, seed=seed)
    result = fit(data, n_factors=5, draws=1000, burn=500, chains=2)
    covered, _ = coverage(data, result)
    assert covered.between(0.85, 0.95).all(), covered
    h2 = result.h2()
    truth = data.truth["h2"].to_numpy().ravel()
    assert np.mean((h2["lower"] <= truth) & (truth <= h2["upper"])) >= 0.7


def same(first, second):
    assert set(first.posterior) == set(second.posterior)
    for name in first.posterior:
        np.testing.assert_array_equal(first.posterior[name], second.posterior[name], err_msg=name)


def test_threads_disk_and_extension_change_no_bit(small, fitted, tmp_path):
    same(fitted, fit(small, n_threads=2))
    first = fit(small, draws=5, store=tuple(n for n in fitted.options["store"] if "mean" not in n))
    longer = first.extend(7, progress=False)
    np.testing.assert_array_equal(longer.posterior["Eta"], fitted.posterior["Eta"])
    streamed = fit(small, out=tmp_path / "run")
    same(fitted, streamed)
    again = sg.load(streamed.save(tmp_path / "copy"))
    pd.testing.assert_frame_equal(again.curves(), fitted.curves())
    same(fitted, fit(small, out=tmp_path / "run"))  # found, not run again


def test_curves_are_the_basis_times_the_draws(small, fitted):
    times = pd.DataFrame({"time": [1.0, 4.5, 8.0]})
    table = fitted.curves(times, prob=0.5)
    assert list(table.columns) == ["trait", small.individual, "time", "mean", "sd", "lower", "upper"]
    assert len(table) == 2 * 32 * 3
    link = sg.links.Regression(small.curve, small.long, individual=small.individual)
    X = link.designs[0].new(times).X.to_numpy()
    names = [f"weight[{name}]" for name in ("Intercept", "poly1", "poly2")]
    eta = fitted.posterior["Eta"].sel(trait=names).to_numpy().reshape(12, 32, 3)
    who = small.frame[small.individual].iloc[7]
    rows = table[(table["trait"] == "weight") & (table[small.individual] == who)]
    points = eta[:, 7] @ X.T
    np.testing.assert_allclose(rows["mean"], points.mean(axis=0))
    np.testing.assert_allclose(rows["lower"], np.quantile(points, 0.25, axis=0))
    assert list(rows["time"]) == [1.0, 4.5, 8.0]
    few = fitted.curves(times, individuals=[who], prob=0.5)
    pd.testing.assert_frame_equal(few[few["trait"] == "weight"].reset_index(drop=True), rows.reset_index(drop=True))
    points = times.assign(**{small.individual: [who, small.frame[small.individual].iloc[0], who]})
    named = fitted.curves(points, prob=0.5)
    assert len(named) == 6
    np.testing.assert_allclose(named["mean"].iloc[3], rows["mean"].iloc[0])


def test_variances_of_curves(small, fitted):
    """x'Gx and x'Rx from draws of the whole matrices."""
    times = pd.DataFrame({"time": [2.0, 7.0]})
    table = fitted.curve_variances(times, prob=0.8).set_index(["trait", "term"])
    X = sg.links.Regression(small.curve, small.long, individual=small.individual).designs[0].new(times).X.to_numpy()
    of_terms = {}
    for term in (small.individual, "Residual"):
        whole = fitted.covariance_draws(term).to_numpy().reshape(12, 6, 6)[:, 3:, 3:]
        of_terms[term] = np.einsum("ta,sab,tb->st", X, whole, X)
    for term, draws in of_terms.items():
        rows = table.loc[[("weight", term)]]
        np.testing.assert_allclose(rows["mean"], draws.mean(axis=0))
        np.testing.assert_allclose(rows["upper"], np.quantile(draws, 0.9, axis=0))
        np.testing.assert_allclose(rows["share"], (draws / sum(of_terms.values())).mean(axis=0))


def test_an_individual_without_measurements_has_wider_bands(small):
    """Its curve comes from the model; a relative's tells little."""
    who = small.frame[small.individual].iloc[0]
    rest = small.long[small.long[small.individual] != who]
    link = sg.links.Regression(small.curve, rest, individual=small.individual)
    result = sg.slam(small.formula, small.frame, relmat=small.relmat, link=link, **(SHORT | {"draws": 100}))
    sd = result.curves(pd.DataFrame({"time": [5.0]})).query("trait == 'height'").set_index(small.individual)["sd"]
    assert sd[who] > 2 * sd.drop(who).median()


def test_curves_beside_other_traits(small, tmp_path):
    """A link that brings its data with one that does not."""
    frame = small.frame.assign(litter=np.random.default_rng(1).standard_normal(len(small.frame)))
    link = sg.links.Regression(small.curve, small.long, individual=small.individual)
    result = sg.slam(
        "litter " + small.formula, frame, relmat=small.relmat, link=[(link, []), ("identity", ["litter"])], **SHORT
    )
    assert len(result.traits) == 7
    assert set(result.curves()["trait"]) == {"height", "weight"}
    np.testing.assert_allclose(result.posterior["Eta"].sel(trait="litter")[0, 0], frame["litter"])
    of_dict = {link: [], "identity": ["litter"]}
    same(result, sg.slam("litter " + small.formula, frame, relmat=small.relmat, link=of_dict, **SHORT))
    streamed = {"out": tmp_path / "run", **SHORT}
    for _ in range(2):  # The second finds the first.
        same(result, sg.slam("litter " + small.formula, frame, relmat=small.relmat, link=of_dict, **streamed))
    with pytest.raises(OptionError, match="brings its own measurements, but there are responses besides: 'litter'"):
        sg.slam("litter " + small.formula, frame, relmat=small.relmat, link=link, **SHORT)


def test_a_basis_for_each_trait(small):
    """Several formulas in a link, or links with long data of their own whose parameters keep their labels."""
    formulas = ["height ~ poly(time, 2)", "weight ~ 0 + time"]
    one = sg.links.Regression(formulas, small.long, individual=small.individual)
    two = [(sg.links.Regression(formula, small.long, individual=small.individual), []) for formula in formulas]
    together, apart = (
        sg.slam(small.formula, small.frame, relmat=small.relmat, link=link, **SHORT) for link in (one, two)
    )
    for result in (together, apart):
        assert list(result.traits) == ["height[Intercept]", "height[poly1]", "height[poly2]", "weight[time]"]
        assert set(result.curves({"time": [3.0]})["trait"]) == {"height", "weight"}
    assert list(together.posterior["measured"]) == ["height", "weight"]
    assert list(apart.posterior["measured"]) == ["height"]
    assert list(apart.posterior["measured_noise_var_2"]) == ["weight"]
    with pytest.raises(OptionError, match="more than one formula measures 'height'"):
        sg.links.Regression(formulas[:1] * 2, small.long, individual=small.individual)


def test_rows_without_covariates_drop_out(small):
    """Their measurements are not used; the basis stays that of all measurements."""
    frame = small.frame.copy()
    frame.loc[3, "x"] = np.nan
    link = sg.links.Regression(small.curve, small.long, individual=small.individual)
    with pytest.warns(UserWarning, match="1 of 32 rows"):
        result = sg.slam(small.formula, frame, relmat=small.relmat, link=link, **SHORT)
    assert frame[small.individual][3] not in set(result.curves()[small.individual])
    with pytest.raises(DataError, match="the fit has no individual"):
        result.curves({"time": [1.0]}, individuals=[frame[small.individual][3]])


def test_bad_questions(small, fitted):
    with pytest.raises(DataError, match=r"newdata lacks the column.s. 'time'"):
        fitted.curves({"age": [1.0]})
    with pytest.raises(DataError, match="the fit has no individual 'nobody'"):
        fitted.curves({"time": [1.0]}, individuals=["nobody"])
    with pytest.raises(OptionError, match="give individuals= or that, not both"):
        fitted.curves({"time": [1.0], small.individual: ["animal01"]}, individuals=["animal01"])
    with pytest.raises(DataError, match="newdata has missing values in 'time'"):
        fitted.curves({"time": [np.nan]})
    for ask in (fitted.h2, fitted.G, fitted.fitted, fitted.predict):
        with pytest.raises(OptionError, match=r"'height\[Intercept\]', .* without data of their own"):
            ask(scale="data")
    without = fit(small, store=("h2", "Lambda"))
    with pytest.raises(OptionError, match=r"curves..: 'Eta' not stored. Refit with store= naming 'Eta' .now"):
        without.curves()
    with pytest.raises(OptionError, match=r"curve_variances..: .* not stored"):
        without.curve_variances({"time": [1.0]})
    plain = sg.slam("y ~ x", small.frame.assign(y=np.arange(32.0) ** 2), **SHORT | {"n_factors": 0})
    with pytest.raises(OptionError, match=r"is for fits with link=slamglmm.links.Regression"):
        plain.curves()
    splines = fit(sg.simulate.curves(families=8, per_family=4, seed=3))
    with pytest.raises(FormulaError, match="beyond upper and/or lower bounds"):
        splines.curves({"time": [11.0]})


def weighted_least_squares(data):
    """Genes from the probes that each row has, knowing their levels and precisions, but no other row or gene."""
    genes, truth = data.genes, data.truth
    W = (genes if isinstance(genes, pd.DataFrame) else pd.get_dummies(genes).astype(float)).to_numpy()
    out = np.empty((len(data.Y), W.shape[1]))
    for i, y in enumerate((data.Y - truth["probe_mean"]).to_numpy()):
        root = np.where(np.isnan(y), 0.0, 1 / np.sqrt(truth["noise_var"]))
        out[i] = np.linalg.lstsq(W * root[:, None], np.nan_to_num(y) * root, rcond=None)[0]
    return out


@pytest.mark.parametrize("shared", [0.0, 0.2])
def test_genes_come_back_from_their_probes(shared):
    data = sg.simulate.probes(
        families=40, per_family=5, n_genes=10, n_factors=2, shared=shared, missing=0.05, noise=(0.3, 1.2), seed=4
    )
    link = sg.links.Probes(data.genes)
    options = SHORT | {"n_factors": 3, "draws": 150, "burn": 150}
    result = sg.slam(data.formula, data.frame, Y=data.Y, relmat=data.relmat, link=link, store=ETA, **options)
    assert set(result.traits) == set(data.truth["Eta"].columns)
    eta = result.posterior["Eta"].mean(("chain", "draw")).sel(trait=list(data.truth["Eta"].columns)).to_numpy()
    true = data.truth["Eta"].to_numpy()
    assert np.mean((eta - true) ** 2) < np.mean((weighted_least_squares(data) - true) ** 2)
    means = {name: result.posterior[name].mean(("chain", "draw")).to_pandas() for name in ("probe_mean", "noise_var")}
    level = means["probe_mean"] - data.truth["probe_mean"]
    assert level.abs().max() < 0.3
    assert np.corrcoef(np.log(means["noise_var"]), np.log(data.truth["noise_var"]))[0, 1] > 0.95
    pairs = np.triu_indices(10, 1)
    G = result.G().loc[data.truth["G"]["animal"].index, data.truth["G"]["animal"].index].to_numpy()
    assert np.corrcoef(G[pairs], data.truth["G"]["animal"].to_numpy()[pairs])[0, 1] > 0.9


ETA = (*sg.DEFAULT_STORE, "Eta")
