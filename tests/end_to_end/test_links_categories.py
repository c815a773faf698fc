"""Fits of categories and censored values: truth, other programs' estimates, and bits unchanged by how it is run."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import slamglmm as sg
from slamglmm.links import Censored, Ordinal

GOLDEN = json.loads((Path(__file__).parents[1] / "golden/glmer_counts.json").read_text())
SHORT = {"n_factors": 2, "draws": 12, "burn": 10, "chains": 1, "seed": 5, "progress": False}


@pytest.fixture(scope="module")
def truth():
    return sg.simulate.slam(families=60, per_family=5, n_traits=6, n_factors=2, resid_var=0.4, seed=3)


def categories(truth):
    """Two traits with two categories, two with three, two with five; scattered missing cells."""
    rng = np.random.default_rng(1)
    liability = truth.Y.to_numpy() - truth.Y.to_numpy().mean(axis=0)
    sd = liability.std(axis=0)
    cuts = [[0.0], [0.6], [-0.4, 0.5], [-0.4, 0.5], [-1.0, -0.3, 0.3, 1.0], [-1.0, -0.3, 0.3, 1.0]]
    codes = np.column_stack(
        [np.searchsorted(np.array(c) * s, y) for c, s, y in zip(cuts, sd, liability.T, strict=True)]
    )
    values = np.where(rng.random(codes.shape) < 0.05, np.nan, codes + 1)
    return pd.DataFrame(values, truth.Y.index, truth.Y.columns), cuts


def fit(truth, Y, link, **options):
    return sg.slam(truth.formula, truth.frame, Y=Y, relmat=truth.relmat, link=link, **(SHORT | options))


def test_liabilities_are_recovered(truth):
    """Correlations of G and R, and cut points, from categories; the latent traits themselves set the standard."""
    Y, cuts = categories(truth)
    ours = fit(truth, Y, "ordinal", n_factors=3, draws=300, burn=300)
    G, R = truth.truth["G"]["animal"].to_numpy(), truth.truth["R"].to_numpy()
    upper = np.triu_indices(6, 1)

    def correlations(matrix):
        sd = np.sqrt(np.diag(matrix))
        return (matrix / sd / sd[:, None])[upper]

    exact = fit(truth, truth.Y, "identity", n_factors=3, draws=300, burn=300)
    for label, matrix in (("animal", G), ("Residual", R)):
        error = ours.correlation(label).to_numpy()[upper] - correlations(matrix)
        standard = exact.correlation(label).to_numpy()[upper] - correlations(matrix)
        assert np.sqrt(np.mean(error**2)) < 2.0 * np.sqrt(np.mean(standard**2)) + 0.05
    # In standard deviations of what the covariate leaves.
    unit = truth.Y.std(ddof=0).to_numpy() / np.sqrt(np.diag(G) + np.diag(R))
    total = ours.covariance_draws("animal").to_numpy() + ours.covariance_draws("Residual").to_numpy()
    sd = np.sqrt(np.diagonal(total, axis1=2, axis2=3))
    estimated = ours.posterior["cuts"].to_numpy()
    for j in range(2, 6):
        gaps = np.diff(estimated[:, :, j, : len(cuts[j])]) / sd[:, :, j, None]
        z = (gaps.mean(axis=(0, 1)) - np.diff(cuts[j]) * unit[j]) / gaps.std(axis=(0, 1))
        assert np.abs(z).max() < 3.5
    assert np.isinf(estimated[:, :, 0, 1:]).all()


def test_probit_as_glmer():
    """cbpp animal by animal: effects over the residual standard deviation within half a standard error of glmer's."""
    herds = sg.datasets.load("cbpp").frame
    rows = herds.loc[herds.index.repeat(herds["size"].astype(int))].reset_index(drop=True)
    first = rows.groupby(["herd", "period"], observed=True).cumcount()
    rows["case"] = (first < rows["incidence"]).astype(float)
    ours = sg.slam(
        "case ~ period + (1 | herd)", rows, link="probit", n_factors=0, draws=1000, burn=200, seed=2, progress=False
    )
    theirs = next(fit for fit in GOLDEN["fits"] if fit["id"] == "cbpp_probit")
    share = ours.posterior["h2"].to_numpy()[:, :, 0, 0]
    effects = ours.posterior["B"].to_numpy()[..., 0] / np.sqrt(1 - share)[..., None]
    for i, name in enumerate(ours.fixef().index):
        golden = "(Intercept)" if name == "Intercept" else f"period{name[-2]}"
        assert abs(np.median(effects[..., i]) - theirs["fixef"][golden]) < 0.5 * theirs["se"][golden], name
    herd = np.sqrt(share / (1 - share))
    assert np.quantile(herd, 0.1) < theirs["sd"]["herd"] < np.quantile(herd, 0.9)


def test_ordinal_as_maximum_likelihood():
    """No random effects: cut points and slope against statsmodels' ordered probit, within half a standard error."""
    from statsmodels.miscmodels.ordinal_model import OrderedModel

    rng = np.random.default_rng(4)
    x = rng.standard_normal(600)
    y = np.searchsorted([0.0, 0.7, 1.2], 0.3 + 0.8 * x + rng.standard_normal(600)).astype(float)
    frame = pd.DataFrame({"x": x, "y": y})
    ours = sg.slam("y ~ x", frame, link="ordinal", n_factors=0, draws=1500, burn=200, seed=3, progress=False)
    model = OrderedModel(y, x[:, None], distr="probit")
    theirs = model.fit(method="bfgs", disp=False)
    thresholds = model.transform_threshold_params(theirs.params)[1:-1]
    expected = np.array([-thresholds[0], theirs.params[0], *(thresholds[1:] - thresholds[0])])
    draws = np.concatenate(
        (ours.posterior["B"].to_numpy()[..., 0], ours.posterior["cuts"].to_numpy()[:, :, 0, 1:]), axis=2
    )
    draws = draws.reshape(-1, 4)
    assert np.abs((draws.mean(axis=0) - expected) / draws.std(axis=0)).max() < 0.5
    np.testing.assert_allclose(draws[:, 1].std(), theirs.bse[0], rtol=0.2)


def test_censored_values_are_recovered(truth):
    """A quarter below the limit of detection: variances are those of the whole data, not of the cut ones."""
    limit = truth.Y.quantile(0.25)
    cut = truth.Y.clip(lower=limit, axis=1)
    options = {"n_factors": 3, "draws": 200, "burn": 200}
    whole, ours = fit(truth, truth.Y, "identity", **options), fit(truth, cut, Censored(left=limit), **options)
    naive = fit(truth, cut, "identity", **options)

    def variances(result):
        return np.diag(result.G("animal")) + np.diag(result.R())

    np.testing.assert_allclose(variances(ours), variances(whole), rtol=0.15)
    assert np.all(variances(naive) < 0.85 * variances(whole))
    below = (cut > truth.Y).to_numpy()
    error = np.mean((ours.fitted() - truth.Y).to_numpy()[below] ** 2)
    assert error < np.mean((cut - truth.Y).to_numpy()[below] ** 2)


def same(first, second):
    assert set(first.posterior) == set(second.posterior)
    for name in first.posterior:
        np.testing.assert_array_equal(first.posterior[name], second.posterior[name], err_msg=name)


def combined(truth):
    """Two probit, two ordinal, one censored and one measured trait."""
    Y, _ = categories(truth)
    Y = Y.copy()
    Y.iloc[:, :2] -= 1
    Y.iloc[:, 4:] = truth.Y.iloc[:, 4:]
    names = list(Y.columns)
    link = [
        ("probit", names[:2]),
        (Ordinal(range(1, 5)), names[2:4]),
        (Censored(left=-0.5), names[4:5]),
        ("identity", names[5:]),
    ]
    return Y, link


def test_one_run_extended_saved_and_threaded(truth, tmp_path):
    Y, link = combined(truth)
    whole = fit(truth, Y, link)
    part = fit(truth, Y, link, draws=5, n_threads=2)
    part.save(tmp_path / "part")
    same(whole, sg.load(tmp_path / "part").extend(7))
    same(whole, fit(truth, Y, link, out=tmp_path / "run"))
    with pytest.raises(sg.errors.OptionError, match="differs in link"):
        fit(
            truth,
            Y,
            [(Ordinal(range(1, 6)) if isinstance(of, Ordinal) else of, names) for of, names in link],
            out=tmp_path / "run",
        )


def test_scale_is_held_for_categories_only(truth):
    Y, link = combined(truth)
    result = fit(truth, Y, link)
    variance = result.posterior["residual_var"].to_numpy()
    np.testing.assert_allclose(variance[..., :4], 1.0, rtol=1e-3)
    assert np.all(variance[..., 4:].std(axis=1) > 1e-3)
    assert any("variance of 4 latent trait(s) is held at 1" in note for note in result.notes)
    # Priors of variances take the place of the convention.
    priors = sg.Priors(
        residual=sg.VarianceComponents(V={"animal": 1.0, "Residual": 1.0}, nu={"animal": 2.0, "Residual": 1e7})
    )
    own = fit(truth, Y, link, priors=priors)
    residual = (own.posterior["residual_var"] * (1 - own.posterior["h2_residual"].sum("term"))).to_numpy()
    np.testing.assert_allclose(residual[..., :4], 1.0, rtol=2e-3)
