"""Fits with links: what was simulated comes back, and runs go on to the bit."""

import numpy as np
import pandas as pd
import pytest

import slamglmm as sg
from slamglmm.links import Binomial, GaussianWeights, NegativeBinomial, Poisson

SHORT = {"n_factors": 2, "draws": 12, "burn": 10, "chains": 1, "seed": 5, "progress": False}


@pytest.fixture(scope="module")
def truth():
    return sg.simulate.slam(families=60, per_family=5, n_traits=8, n_factors=2, resid_var=0.4, seed=3)


def noisy(truth, seed=1):
    """Each cell with its own precision, some of them missing or exact."""
    rng = np.random.default_rng(seed)
    weights = rng.gamma(1.0, 2.0, truth.Y.shape)
    weights[rng.random(weights.shape) < 0.02] = np.inf
    weights[rng.random(weights.shape) < 0.1] = 0.0
    with np.errstate(divide="ignore"):
        sd = np.where(weights > 0, 1 / np.sqrt(weights), np.nan)
    return truth.Y + sd * rng.standard_normal(weights.shape), weights


def fit(truth, Y, link, formula=None, **options):
    return sg.slam(formula or truth.formula, truth.frame, Y=Y, relmat=truth.relmat, link=link, **(SHORT | options))


def off_diagonal(matrix):
    return np.asarray(matrix)[np.triu_indices(len(matrix), 1)]


def test_weighted_data_recover_the_truth(truth):
    """Known precisions take the noise of the data out of R; without them it stays in."""
    Y, weights = noisy(truth)
    result = fit(truth, Y, GaussianWeights(weights), n_factors=4, draws=300, burn=300)
    R = result.R()
    assert np.corrcoef(off_diagonal(result.G()), off_diagonal(truth.truth["G"]["animal"]))[0, 1] > 0.9
    assert np.corrcoef(off_diagonal(R), off_diagonal(truth.truth["R"]))[0, 1] > 0.9
    np.testing.assert_allclose(np.trace(R), np.trace(truth.truth["R"]), rtol=0.25)
    seen = ~np.isnan(Y.to_numpy())
    error = (result.fitted() - truth.Y).to_numpy()
    noise = np.nanmean((Y - truth.Y).to_numpy() ** 2)
    assert np.mean(error[seen] ** 2) < 0.5 * noise
    assert np.corrcoef(result.fitted().to_numpy()[~seen], truth.Y.to_numpy()[~seen])[0, 1] > 0.5


def counts_of(truth, seed=2, dispersion=None):
    """Counts around exp(1.5 + Y), with unequal effort."""
    rng = np.random.default_rng(seed)
    effort = rng.uniform(0.5, 2.0, len(truth.Y))
    mean = effort[:, None] * np.exp(1.5 + truth.Y.to_numpy() - truth.Y.to_numpy().mean(axis=0))
    noise = 1.0 if dispersion is None else rng.gamma(1 / dispersion, dispersion, mean.shape)
    return pd.DataFrame(rng.poisson(mean * noise), columns=truth.Y.columns).astype(float), effort


@pytest.mark.parametrize("kind", ["poisson", "negative_binomial", "binomial"])
def test_counts_recover_the_truth(truth, kind):
    rng = np.random.default_rng(4)
    if kind == "binomial":
        trials = rng.integers(5, 40, truth.Y.shape)
        centred = (truth.Y - truth.Y.mean()).to_numpy()
        Y = pd.DataFrame(rng.binomial(trials, 1 / (1 + np.exp(-centred))), columns=truth.Y.columns)
        link = Binomial(trials)
    else:
        Y, effort = counts_of(truth, dispersion=0.1 if kind == "negative_binomial" else None)
        link = Poisson(effort) if kind == "poisson" else NegativeBinomial(effort)
    result = fit(truth, Y, link, n_factors=4, draws=300, burn=300)
    assert np.corrcoef(off_diagonal(result.G()), off_diagonal(truth.truth["G"]["animal"]))[0, 1] > 0.9
    assert np.corrcoef(off_diagonal(result.R()), off_diagonal(truth.truth["R"]))[0, 1] > 0.9
    latent = truth.Y - truth.Y.mean()
    fitted = result.fitted() - result.fitted().mean()
    assert np.corrcoef(fitted.to_numpy().ravel(), latent.to_numpy().ravel())[0, 1] > 0.85
    np.testing.assert_allclose(result.fixef().loc["x"], truth.truth["B"].loc["x"], atol=0.25)
    if kind == "negative_binomial":
        assert result.posterior["dispersion"].dims == ("chain", "draw", "trait")


def test_kinds_in_another_order(truth):
    """Gaussian and counts in one model: the columns of a kind, and the kinds, in another order."""
    counts, effort = counts_of(truth)
    Y = truth.Y.copy()
    few = [f"trait{j}" for j in (2, 5, 6, 7)]
    Y[few] = counts[few]
    rest = [name for name in Y if name not in few]
    options = {"n_factors": 4, "draws": 300, "burn": 300}
    first = fit(truth, Y, [("gaussian", rest), (Poisson(effort), few)], **options)
    second = fit(truth, Y[[*few[::-1], *rest]], [(Poisson(effort), few[::-1]), ("gaussian", rest)], **options)
    assert list(first.traits) == list(Y.columns)
    assert list(second.traits) == [*few[::-1], *rest]
    G = first.G()
    assert np.corrcoef(off_diagonal(G), off_diagonal(truth.truth["G"]["animal"]))[0, 1] > 0.9
    # Chains of their own: equal up to Monte Carlo error.
    np.testing.assert_allclose(second.G().loc[Y.columns, Y.columns], G, atol=0.35 * np.abs(G.to_numpy()).max())
    assert np.corrcoef(off_diagonal(second.G().loc[Y.columns, Y.columns]), off_diagonal(G))[0, 1] > 0.98
    # Intercepts share their level with the factors and mix slowly; what is fitted does not.
    np.testing.assert_allclose(second.fixef().loc["x", Y.columns], first.fixef().loc["x"], atol=0.1)
    both = np.corrcoef(second.fitted()[Y.columns].to_numpy().ravel(), first.fitted().to_numpy().ravel())
    assert both[0, 1] > 0.99


def same(first, second):
    assert set(first.posterior) == set(second.posterior)
    for name in first.posterior:
        np.testing.assert_array_equal(first.posterior[name], second.posterior[name], err_msg=name)


def link_of(kind, weights):
    genes = [f"trait{j}" for j in range(1, 5)]
    part = pd.DataFrame(weights[:, :4], columns=genes)
    return {
        "gaussian_weights": GaussianWeights(weights),
        "negative_binomial": NegativeBinomial(0.1 + weights.mean(axis=1)),
        "combined": [(GaussianWeights(part), genes), ("gaussian", [f"trait{j}" for j in range(5, 9)])],
    }[kind]


@pytest.mark.parametrize("kind", ["gaussian_weights", "negative_binomial", "combined"])
def test_one_run_extended_saved_and_threaded(truth, tmp_path, kind):
    Y, weights = noisy(truth)
    weights[np.isinf(weights)] = 3.0
    if kind == "negative_binomial":
        Y = counts_of(truth)[0].where(Y.notna())
    link = link_of(kind, weights)
    whole = fit(truth, Y, link)
    part = fit(truth, Y, link, draws=5, n_threads=2)
    part.save(tmp_path / "part")
    same(whole, sg.load(tmp_path / "part").extend(7))
    same(whole, fit(truth, Y, link, out=tmp_path / "run"))
    # A finished run comes back; other weights are another run.
    same(whole, fit(truth, Y, link, out=tmp_path / "run"))
    with pytest.raises(sg.errors.OptionError, match="differs in link"):
        fit(truth, Y, link_of(kind, 2 * weights), out=tmp_path / "run")


def test_links_that_cannot_be(truth):
    def refused(link, message):
        with pytest.raises(sg.errors.OptionError, match=message):
            fit(truth, truth.Y, link)

    names = list(truth.Y.columns)
    refused("poison", "unknown link. Choose one of 'identity'")
    refused("gaussian_weights", r"needs options: write link=slamglmm.links.GaussianWeights\(weights\)")
    refused({"gaussian": names[:-1]}, "'trait8' have no link")
    refused({"gaussian": names, "identity": names[2]}, "'trait3' have two links")
    refused({"gaussian": [*names, "trait9"]}, "no trait 'trait9'")
    refused(7, "expected a name, a link, a dict")


def test_a_row_without_data_is_predicted(truth):
    Y, weights = noisy(truth)
    weights[3] = 0.0
    result = fit(truth, Y, GaussianWeights(weights))
    assert any("1 row(s) have no observed trait" in note for note in result.notes)
    expected = result.predict(truth.frame.iloc[[3]])
    # Means over other draws of U: traits have a standard deviation of about one.
    np.testing.assert_allclose(result.fitted().iloc[3], expected.iloc[0], rtol=0, atol=0.1)
    assert np.all(np.isfinite(result.fitted().to_numpy()))


def test_three_kinds_in_one_model():
    """10 Gaussian, 20 Poisson and 5 ordinal traits: genetic correlations within and across kinds, in any order."""
    truth = sg.simulate.slam(families=60, per_family=5, n_traits=35, n_factors=3, resid_var=0.4, density=0.5, seed=11)
    centred = truth.Y - truth.Y.mean()
    names = list(centred)
    kinds = {"gaussian": names[:10], "poisson": names[10:30], "ordinal": names[30:]}
    Y = centred.copy()
    Y[kinds["poisson"]] = np.random.default_rng(1).poisson(np.exp(1.5 + centred[kinds["poisson"]]))
    liability = centred[kinds["ordinal"]].to_numpy()
    Y[kinds["ordinal"]] = 1.0 + (liability > -0.7) + (liability > 0.6)
    options = {"n_factors": 6, "draws": 400, "burn": 400}
    found = fit(truth, Y, kinds, **options).correlation("animal")
    G = truth.truth["G"]["animal"]
    true = G / np.sqrt(np.outer(np.diag(G), np.diag(G)))
    for first, rows in kinds.items():
        for second, columns in kinds.items():
            pairs = [(r, c) for r in rows for c in columns if r < c]
            if pairs:
                both = [(found.loc[pair], true.loc[pair]) for pair in pairs]
                assert np.corrcoef(np.transpose(both))[0, 1] > 0.9, (first, second)
    # A list, links with options, kinds and columns the other way round: the same up to Monte Carlo error.
    turned = [("ordinal", kinds["ordinal"][::-1]), (Poisson(1.0), kinds["poisson"][::-1]), ("gaussian", names[9::-1])]
    again = fit(truth, Y[names[::-1]], turned, **options).correlation("animal").loc[names, names]
    assert np.corrcoef(off_diagonal(again), off_diagonal(found))[0, 1] > 0.98
    assert np.abs(off_diagonal(again) - off_diagonal(found)).max() < 0.35
