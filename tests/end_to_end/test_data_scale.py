"""``scale="data"`` of a fit: closed forms draw by draw, what is observed, and what is refused."""

import dataclasses

import numpy as np
import pandas as pd
import pytest
import scipy.stats

import slamglmm as sg
from slamglmm.errors import OptionError
from slamglmm.links import Censored


@pytest.fixture(scope="module")
def truth():
    return sg.simulate.slam(families=60, per_family=5, n_traits=4, n_factors=2, resid_var=0.4, seed=3)


@pytest.fixture(scope="module")
def fit(truth):
    """A probit, a censored, an ordinal (categories 1, 2, 5) and a measured trait, with a row without data."""
    centred = truth.Y - truth.Y.mean()
    cut = centred.quantile(0.1)
    Y = pd.DataFrame(
        {
            "sick": (centred["trait1"] > 0.5).astype(float),
            "toxin": centred["trait2"].clip(lower=cut["trait2"]),
            "score": np.array([1.0, 2.0, 5.0])[np.searchsorted([-0.5, 0.5], centred["trait3"])],
            "size": centred["trait4"],
        }
    )
    Y.iloc[7] = np.nan
    # Not in the order of the columns.
    link = [("probit", "sick"), ("ordinal", "score"), (Censored(left=cut["trait2"]), "toxin"), ("identity", "size")]
    return sg.slam(
        truth.formula, truth.frame, Y=Y, relmat=truth.relmat, link=link, n_factors=2, draws=150, burn=150, chains=2,
        seed=1, progress=False, store=(*sg.DEFAULT_STORE, "U"),
    )  # fmt: skip


def pooled(values):
    return values.to_numpy().reshape(-1, *values.shape[2:])


def test_h2_and_G_are_those_of_the_closed_form(fit):
    """Dempster and Lerner, draw by draw and row by row; a measured trait, whose covariate is part of the variance."""
    G, total = (pooled(fit.variance_draws(name)) for name in ("animal", "Residual"))
    total = total + G
    location = pooled(fit.posterior["B"]).transpose(0, 2, 1) @ fit.design.X.to_numpy().T
    sick, size = location[:, 0], location[:, 3]
    sd = np.sqrt(total[:, :1])
    slope = (scipy.stats.norm.pdf(sick / sd) / sd).mean(axis=1)
    p = scipy.stats.norm.cdf(sick / sd).mean(axis=1)
    h2 = fit.h2(scale="data").loc["animal"]
    np.testing.assert_allclose(h2.loc["sick", "mean"], np.mean(slope**2 * G[:, 0] / (p * (1 - p))), rtol=1e-8)
    np.testing.assert_allclose(h2.loc["size", "mean"], np.mean(G[:, 3] / (total[:, 3] + size.var(axis=1))), rtol=1e-8)
    assert np.all(h2["mean"] < fit.h2().loc["animal", "mean"])
    covariance = pooled(fit.covariance_draws("animal"))
    ours = fit.G(scale="data")
    np.testing.assert_allclose(ours.loc["sick", "sick"], np.mean(slope**2 * G[:, 0]), rtol=1e-8)
    np.testing.assert_allclose(ours.loc["sick", "size"], np.mean(slope * covariance[:, 0, 3]), rtol=1e-7, atol=1e-12)
    np.testing.assert_allclose(ours.loc["toxin", "size"], fit.G().loc["toxin", "size"], rtol=1e-8, atol=1e-12)


def test_stored_covariances_give_the_same(truth, fit):
    """G from whole matrices in place of loadings."""
    whole = fit.covariance_draws("animal").expand_dims(term=["animal"], axis=2)
    stored = fit.posterior.assign(G=(("chain", "draw", "term", "trait", "trait2"), whole.to_numpy()))
    again = dataclasses.replace(fit, posterior=stored)
    np.testing.assert_allclose(again.G(scale="data"), fit.G(scale="data"), rtol=1e-8, atol=1e-12)


def test_expected_data_are_those_observed(fit):
    """Means over rows, with all effects and with none; categories in their own numbers."""
    Y = fit.design.Y
    fitted = fit.fitted(scale="data")
    silent = fitted.index[7]
    assert fitted.loc[silent].isna().all()
    seen = fitted.drop(silent)
    assert not seen.isna().any(axis=None)
    for name in ("sick", "score", "size"):
        observed = Y[name].drop(silent)
        assert abs(seen[name].mean() - observed.mean()) < 0.05 * observed.std()
        assert np.corrcoef(seen[name], observed)[0, 1] > 0.5
        anyone = fit.predict(random="none", scale="data")[name].drop(silent)
        assert abs(anyone.mean() - observed.mean()) < 0.15 * observed.std()
    assert seen["sick"].between(0, 1).all()
    assert seen["score"].between(1, 5).all()
    latent = fit.fitted().drop(silent)
    np.testing.assert_allclose(seen[["toxin", "size"]].mean(), latent[["toxin", "size"]].mean(), atol=0.05)


def test_prediction_of_new_rows(truth, fit):
    """By hand from the draws: the residual is integrated over, U is added; intervals hold the mean."""
    new = truth.frame.iloc[:6]
    table = fit.predict(new, scale="data", interval=0.9)
    assert np.all(table.xs("lower", axis=1, level=1) <= table.xs("upper", axis=1, level=1))
    U = pooled(fit.posterior["U_animal"])
    levels = fit.posterior["level"].to_numpy()
    position = [list(levels).index(name) for name in new["animal"]]
    X = fit.design.new(new, terms=["animal"]).X.to_numpy()
    location = np.einsum("nb,db->dn", X, pooled(fit.posterior["B"])[:, :, 0]) + U[:, position, 0]
    sd = np.sqrt(pooled(fit.variance_draws("Residual"))[:, :1])
    expected = scipy.stats.norm.cdf(location / sd)
    np.testing.assert_allclose(table["sick", "mean"], expected.mean(axis=0), rtol=1e-8)
    np.testing.assert_allclose(table["sick", "upper"], np.quantile(expected, 0.95, axis=0), rtol=1e-8)
    np.testing.assert_allclose(fit.predict(new, scale="data")["sick"], expected.mean(axis=0), rtol=1e-8)
    np.testing.assert_allclose(fit.predict(new, scale="data")["size"], fit.predict(new, interval=0.9)["size", "mean"])


def test_counts_and_proportions():
    """Ticks: the variance of a Poisson mixture row by row, offset included; cases of herds: proportions."""
    short = {"n_factors": 0, "draws": 300, "burn": 200, "chains": 1, "seed": 1, "progress": False}
    chicks, herds = sg.datasets.load("grouseticks").frame, sg.datasets.load("cbpp").frame
    chicks = chicks.assign(effort=np.log(np.linspace(1.0, 2.0, len(chicks))))
    ticks = sg.slam("TICKS ~ YEAR + offset(effort) + (1 | BROOD)", chicks, link="poisson", **short)
    G, R = (pooled(ticks.variance_draws(name))[:, 0] for name in ("BROOD", "Residual"))
    location = pooled(ticks.posterior["B"])[:, :, 0] @ ticks.design.X.to_numpy().T + chicks["effort"].to_numpy()
    V = (G + R)[:, None]
    mean = np.exp(location + V / 2)
    variance = (mean + mean**2 * np.expm1(V)).mean(axis=1) + mean.var(axis=1)
    h2 = ticks.h2(scale="data").loc[("BROOD", "TICKS"), "mean"]
    np.testing.assert_allclose(h2, np.mean(mean.mean(axis=1) ** 2 * G / variance), rtol=1e-8)
    assert abs(ticks.fitted(scale="data")["TICKS"].mean() / chicks["TICKS"].mean() - 1) < 0.1
    cases = sg.slam("incidence ~ period + (1 | herd)", herds, link=sg.links.Binomial(trials=herds["size"]), **short)
    fitted = cases.fitted(scale="data")["incidence"]
    assert abs((fitted * herds["size"]).sum() - herds["incidence"].sum()) < 8
    by_period = herds.assign(fitted=fitted * herds["size"]).groupby("period", observed=True)[
        ["fitted", "incidence", "size"]
    ]
    sums = by_period.sum()
    np.testing.assert_allclose(sums["fitted"] / sums["size"], sums["incidence"] / sums["size"], atol=0.03)
    anyone = cases.predict(random="none", scale="data")["incidence"]
    assert anyone.groupby(herds["period"], observed=True).nunique().eq(1).all()


def test_latent_is_data_without_links(truth):
    fit = sg.slam(
        truth.formula, truth.frame, Y=truth.Y, relmat=truth.relmat, n_factors=1, draws=10, burn=5, chains=1, seed=1,
        progress=False,
    )  # fmt: skip
    pd.testing.assert_frame_equal(fit.h2(scale="data"), fit.h2())
    pd.testing.assert_frame_equal(fit.G(scale="data"), fit.G())
    pd.testing.assert_frame_equal(fit.R(scale="data"), fit.R())
    pd.testing.assert_frame_equal(fit.fitted(scale="data"), fit.fitted())
    pd.testing.assert_frame_equal(fit.predict(truth.frame, scale="data"), fit.predict(truth.frame))
    assert "Data_mean" not in fit.posterior


def test_what_is_refused(truth, fit):
    with pytest.raises(OptionError, match=r'R\(scale="data"\): what random effects leave'):
        fit.R(scale="data")
    with pytest.raises(OptionError, match="scale='observed': expected 'latent' or 'data'"):
        fit.h2(scale="observed")
    lean = dataclasses.replace(fit, posterior=fit.posterior.drop_vars("U_animal"))
    with pytest.raises(OptionError, match=r'predict\(scale="data"\): the draws of U for \'animal\' were not stored'):
        lean.predict(truth.frame, scale="data")
    curves = dataclasses.replace(fit, data_scales=(None, *fit.data_scales[1:]))
    with pytest.raises(OptionError, match="'sick' are latent traits without data of their own"):
        curves.h2(scale="data")
