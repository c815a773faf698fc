"""``scale="data"`` recomputed by loops from known draws: counts of two laws beside a measured trait, permuted inside.

An offset, a covariate of one trait, two grouping factors, three chains in different places; the links name their
traits in another order than Y.
"""

import dataclasses
import warnings

import numpy as np
import pandas as pd
import pytest
import xarray as xr

import slamglmm as sg
from tests.reference import tables

TRAITS = ["size", "few", "rare", "many"]
CHAINS, DRAWS, N = 3, 20, 40
PARTS = ("Lambda", "h2_factor", "h2_residual", "residual_var")
UNIT = np.array([50.0, 0.5, 0.4, 0.6])


@pytest.fixture(scope="module")
def frame():
    rng = np.random.default_rng(1)
    return pd.DataFrame(
        {
            "line": [f"l{i % 10}" for i in range(N)],
            "field": [f"f{i % 7}" for i in range(N)],
            "x": np.round(rng.standard_normal(N), 1),
            "o": np.round(0.5 * rng.standard_normal(N), 1),
            "c": rng.binomial(2, 0.4, N).astype(float),
        }
    )


@pytest.fixture(scope="module")
def known(frame):
    """A fit whose draws are replaced, and these draws."""
    rng = np.random.default_rng(2)
    counts = rng.poisson([2.0, 1.0, 9.0], (N, 3)).astype(float)
    Y = pd.DataFrame(np.column_stack((50 * rng.standard_normal(N), counts)), columns=TRAITS)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", sg.errors.SlamWarning)
        fit = sg.slam(
            "~ x + offset(o) + (1 | line) + (1 | field)", frame, Y=Y, n_factors=2, draws=4, burn=4, seed=1,
            chains=CHAINS, link=[("negative_binomial", ["many", "few"]), ("identity", ["size"]), ("poisson", ["rare"])],
            store=(*sg.DEFAULT_STORE, "U", "G", "R"), h2_grid=4, progress=False,
            cis={"few": ["c"]},
        )  # fmt: skip
    assert list(fit.chains.problem.order) != [0, 1, 2, 3]
    cd, place = (CHAINS, DRAWS), np.array([0.0, 0.4, -0.3])[:, None, None]
    draws = {
        "Lambda": UNIT * (rng.standard_normal((2, 4)) + 0.2 * rng.standard_normal((*cd, 2, 4))),
        "h2_factor": np.moveaxis(rng.dirichlet([2, 2, 2], (*cd, 2))[..., :2], -1, -2),
        "h2_residual": np.moveaxis(rng.dirichlet([2, 2, 2], (*cd, 4))[..., :2], -1, -2),
        "residual_var": np.exp(0.2 * rng.standard_normal((*cd, 4)) + place) * UNIT**2,
        "B": (place[..., None] + 0.3 * rng.standard_normal((*cd, 2, 4)) + [[1.0], [0.5]]) * UNIT,
        "cis": 0.6 + place + 0.1 * rng.standard_normal((*cd, 1)),
        "dispersion": np.exp(0.2 * rng.standard_normal((*cd, 2)) + place + [np.log(0.3), np.log(1.5)]),
        "U_line": (place[..., None] + 0.7 * rng.standard_normal((*cd, 10, 4))) * UNIT,
        "U_field": (place[..., None] + 0.7 * rng.standard_normal((*cd, 7, 4))) * UNIT,
    }
    whole = tables.covariance_draws(*(draws[name] for name in PARTS))
    draws["G"], draws["R"] = np.moveaxis(whole[:-1], 0, 2), whole[-1]
    draws["Data_mean"] = np.exp(rng.standard_normal((CHAINS, N, 4)))
    assert list(fit.posterior["trait_dispersion"].values) == ["few", "many"]
    return fit, draws, whole


def result(known, names):
    fit, draws, _ = known
    coords = {**fit.posterior.drop_dims("draw").coords, "draw": np.arange(DRAWS)}
    coords["trait2"] = fit.posterior["trait2"]
    posterior = xr.Dataset({name: (fit.posterior[name].dims, draws[name]) for name in names}, coords=coords)
    return dataclasses.replace(fit, posterior=posterior)


COMMON = ("B", "cis", "dispersion", "U_line", "U_field", "Data_mean")


def moments(trait, location, V, dispersion):
    """Mean, slope and variance of the data of rows of one draw, for a normal latent trait."""
    if trait == "size":
        return location, np.ones_like(location), np.full_like(location, V)
    mean = np.exp(location + V / 2)
    extra = {"few": dispersion[0], "many": dispersion[1], "rare": 0.0}[trait]
    return mean, mean, mean + mean**2 * ((1 + extra) * np.exp(V) - 1)


def fixed_part(draws, c, d, j, rows):
    """Offset, fixed effects and the covariate of one trait."""
    own = draws["cis"][c, d, 0] * rows["c"] if TRAITS[j] == "few" else 0.0
    return (rows["o"] + draws["B"][c, d, 0, j] + draws["B"][c, d, 1, j] * rows["x"] + own).to_numpy()


def slopes_and_totals(known, frame):
    """Of every draw and trait: mean slope over the rows, and variance of the data with that between rows."""
    _, draws, whole = known
    slope, total = np.empty((2, CHAINS, DRAWS, 4))
    for c in range(CHAINS):
        for d in range(DRAWS):
            for j, trait in enumerate(TRAITS):
                location = fixed_part(draws, c, d, j, frame)
                V = whole[:, c, d, j, j].sum()
                mean, slopes, variance = moments(trait, location, V, draws["dispersion"][c, d])
                slope[c, d, j] = slopes.mean()
                total[c, d, j] = variance.mean() + np.mean((mean - mean.mean()) ** 2)
    return slope, total


def same(ours, expected):
    np.testing.assert_allclose(ours, expected, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("stored", [PARTS, ("G", "R")], ids=["parts", "whole"])
def test_heritabilities_and_covariances(known, frame, stored):
    fit, whole = result(known, (*COMMON, *stored)), known[2]
    slope, total = slopes_and_totals(known, frame)
    h2 = fit.h2(prob=0.7, scale="data")
    for m, term in enumerate(["line", "field"]):
        additive = slope**2 * np.einsum("cdjj->cdj", whole[m])
        for column, expected in tables.summary(additive / total, 0.7).items():
            same(h2.loc[term, column].loc[TRAITS], expected)
        scaled = slope[..., :, None] * whole[m] * slope[..., None, :]
        same(fit.G(term, scale="data"), tables.pooled(scaled).mean(axis=0))


@pytest.mark.parametrize("random", ["all", "none", ["field"]], ids=str)
def test_predictions(known, frame, random):
    """Over the law of the residual and of the random effects that are left out."""
    fit, (_, draws, whole) = result(known, (*COMMON, *PARTS)), known
    new = frame.iloc[[3, 30, 12]].assign(x=[1.0, 0.0, -2.0], o=[0.3, -0.5, 0.0])
    labels = {"all": ["line", "field"], "none": []}.get(random, random) if isinstance(random, str) else random
    expected = np.empty((CHAINS, DRAWS, 3, 4))
    for c in range(CHAINS):
        for d in range(DRAWS):
            for j, trait in enumerate(TRAITS):
                location = fixed_part(draws, c, d, j, new)
                V = whole[2, c, d, j, j]
                for m, label in enumerate(["line", "field"]):
                    if label in labels:
                        location = location + draws[f"U_{label}"][c, d, [int(name[1:]) for name in new[label]], j]
                    else:
                        V = V + whole[m, c, d, j, j]
                expected[c, d, :, j] = moments(trait, location, V, draws["dispersion"][c, d])[0]
    table = fit.predict(new, random=random, interval=0.6, scale="data")
    for column, values in tables.summary(expected, 0.6).items():
        if column != "sd":
            same(table.xs(column, axis=1, level=1)[TRAITS], values)
    same(fit.predict(new, random=random, scale="data")[TRAITS], tables.summary(expected, 0.6)["mean"])
    same(fit.fitted(scale="data"), draws["Data_mean"].mean(axis=0))
