"""Variances do not depend on what the fixed effects explain, nor on the units of a slope's covariate.

A user may rely on this: adding to Y any combination of the columns whose effects have a flat prior changes their
effects by just that and nothing else, whatever path the sampler takes.
"""

import numpy as np
import pandas as pd
import pytest

import slamglmm as sg
from slamglmm.linalg.fixed_part import FixedPart
from slamglmm.links import (
    Bernoulli,
    Binomial,
    Censored,
    GaussianWeights,
    Identity,
    NegativeBinomial,
    Ordinal,
    Poisson,
    Probit,
)
from slamglmm.links.base import Measurements

N, P = 80, 6
STORE = ("h2", "h2_factor", "Lambda", "residual_var", "h2_residual", "B", "U", "G", "R", "Eta", "U_mean", "Eta_mean")


def make_frame():
    """A covariate far from zero, a factor, an offset, a slope's covariate."""
    rng = np.random.default_rng(0)
    return pd.DataFrame(
        {
            "g": [f"g{i}" for i in np.repeat(np.arange(20), 4)],
            "x": rng.normal(size=N) + 3.0,
            "s": rng.choice(list("abc"), N),
            "z": rng.normal(size=N),
            "w": rng.normal(size=N),
            "off": 5.0 * rng.normal(size=N),
        }
    )


def make_traits(missing=None):
    rng = np.random.default_rng(1)
    effects = rng.normal(size=(20, 2)) @ rng.normal(size=(2, P))
    Y = pd.DataFrame(np.repeat(effects, 4, axis=0) + rng.normal(size=(N, P)), columns=[f"t{j}" for j in range(P)])
    if missing == "scattered":
        Y = Y.mask(rng.random(Y.shape) < 0.05)
    if missing == "a row":
        Y.iloc[7] = np.nan
    if missing == "patterns":
        Y.iloc[:30, :3] = np.nan
        Y.iloc[50:, 3:5] = np.nan
    return Y


FLAT = "~ x + s + (1 | g)"
LAYOUTS = {
    "complete": {},
    "one trait": {"columns": ["t0"], "n_factors": 0},
    "scattered": {"missing": "scattered"},
    "patterns": {"missing": "patterns"},
    "imputed inside": {"missing": "patterns", "missing_memory": 0},
    "rays": {"formula": "~ x + s + (1 | g) + (0 + z | g)"},
    "rays, patterns": {"formula": "~ x + s + (1 | g) + (0 + z | g)", "missing": "patterns"},
    "offset": {"formula": "~ x + s + offset(off) + (1 | g)", "missing": "patterns"},
    "no intercept": {"formula": "~ 0 + s + x + (1 | g)"},
    "cis": {"cis": {"t1": ["w"], "t4": ["w", "z"]}, "missing": "patterns"},
    "factor effects": {"factor_formula": "~ z"},
    "infinite": {"priors": sg.Priors(loadings="infinite")},
    "tpb": {"priors": sg.Priors(loadings="tpb")},
    "spike and slab": {"priors": sg.Priors(loadings="spike_slab")},
    "variance components": {"priors": sg.Priors(residual=sg.VarianceComponents(1.0, 2.0))},
    "known precisions": {"link": GaussianWeights(np.inf)},
    "weights": {"link": GaussianWeights(3.0), "missing": "patterns"},
    "links": {"link": {"gaussian": ["t0", "t1", "t2", "t3"], "probit": ["t4"], "poisson": ["t5"]}},
}


def fit(frame, Y, formula=FLAT, **options):
    options = {"draws": 15, "burn": 15, "chains": 2, "seed": 1, "n_factors": 2, "store": STORE} | options
    return sg.slam(formula, frame, Y=Y, **options)


@pytest.mark.filterwarnings("ignore::slamglmm.errors.SlamWarning")
@pytest.mark.parametrize("layout", LAYOUTS)
def test_what_flat_effects_explain_changes_nothing_else(layout):
    """``Y + X c``: the same draws of G, R, h2, U and the loadings; B moves by c, Eta by X c."""
    options = dict(LAYOUTS[layout])
    frame, Y = make_frame(), make_traits(options.pop("missing", None))
    Y = Y[options.pop("columns", list(Y.columns))]
    moved = list(Y.columns)
    if layout == "links":
        Y["t4"], Y["t5"] = (Y["t4"] > 0).astype(float), np.round(np.exp(Y["t5"] / 2))
        moved = moved[:4]
    X = sg.design(options.get("formula", FLAT).split(" + (1")[0], frame).X
    c = pd.DataFrame(0.0, index=X.columns, columns=Y.columns)
    c[moved] = np.random.default_rng(2).normal(size=(len(X.columns), len(moved))) * 1e3
    before, after = fit(frame, Y, **options), fit(frame, Y + X.to_numpy() @ c.to_numpy(), **options)
    assert list(before.posterior) == list(after.posterior)
    for name, draws in before.posterior.items():
        other = after.posterior[name].to_numpy()
        if name == "B":
            other = other - c.to_numpy()
        elif name in ("Eta", "Eta_mean"):
            other = other - X.to_numpy() @ c.to_numpy()
        size = np.nanmax(np.abs(draws.to_numpy()), initial=0.0)
        np.testing.assert_allclose(other, draws, rtol=0, atol=1e-8 * max(size, 1e-6), err_msg=name)


FAR = {
    **LAYOUTS,
    "a row without data": {"missing": "a row"},
    "shared": {"priors": sg.Priors(fixef="shared"), "missing": "patterns"},
    "horseshoe": {"priors": sg.Priors(fixef="horseshoe")},
    "aliased": {"formula": "~ x + I(2 * x) + s + (1 | g)", "missing": "patterns"},
}


@pytest.mark.filterwarnings("ignore::slamglmm.errors.SlamWarning")
@pytest.mark.parametrize("layout", FAR)
def test_a_covariate_far_from_zero_moves_the_intercept_alone(layout):
    """``x + 1e8``, whose products with itself leave no digits of what varies: the constant moves by 1e8 slopes."""
    options = dict(FAR[layout])
    frame, Y = make_frame(), make_traits(options.pop("missing", None))
    Y = Y[options.pop("columns", list(Y.columns))]
    if layout == "links":
        Y["t4"], Y["t5"] = (Y["t4"] > 0).astype(float), np.round(np.exp(Y["t5"] / 2))
    frame["x"] = np.round(frame["x"] * 2**20) / 2**20  # so that x + 1e8 has the same digits
    before, after = fit(frame, Y, **options), fit(frame.assign(x=frame["x"] + 1e8), Y, **options)
    slope = after.posterior["B"].sel(fixef=["x"]).to_numpy()
    for name, draws in before.posterior.items():
        first, other = draws.to_numpy(), after.posterior[name].to_numpy()
        if name == "B":
            constant = ["s[a]", "s[b]", "s[c]"] if layout == "no intercept" else ["Intercept"]
            moved = draws["fixef"].isin(constant).to_numpy()
            axis = draws.get_axis_num("fixef")
            levels = np.compress(moved, other, axis) + 1e8 * slope
            np.testing.assert_allclose(levels, np.compress(moved, first, axis), atol=1e-5)
            first, other = np.compress(~moved, first, axis), np.compress(~moved, other, axis)
        size = np.nanmax(np.abs(first), initial=0.0)
        np.testing.assert_allclose(other, first, rtol=0, atol=1e-6 * max(size, 1e-6), err_msg=name)


@pytest.mark.filterwarnings("ignore::slamglmm.errors.SlamWarning")
@pytest.mark.parametrize(("p", "copied", "k"), [(2, False, 2), (6, False, 6), (6, True, 6), (70, False, 60)])
def test_chains_start_alike_whatever_the_fixed_effects_explain(p, copied, k):
    """Several data sets, as it is rounding that would choose the signs of factors, or factors where there are none."""
    levels = [f"g{i}" for i in range(20)]
    for seed in range(8):
        rng = np.random.default_rng(seed)
        frame = pd.DataFrame({"g": np.repeat(levels, 3), "x": rng.normal(size=60) + 3.0})
        markers = pd.DataFrame(rng.binomial(2, 0.4, (20, 60)).astype(float), levels)
        Y = rng.normal(size=(60, p))
        if p == 6:
            Y[:20, 0] = np.nan
        if copied:
            Y[:, -1] = Y[:, -2]
        before, after = (
            fit(
                frame,
                moved,
                "~ x + (1 | g)",
                relmat={"g": sg.kinship(markers)},
                draws=1,
                burn=1,
                n_factors=k,
                store=("Lambda",),
            ).posterior["Lambda"]
            for moved in (Y, Y + 1.0 + frame[["x"]].to_numpy() * 10.0)
        )
        np.testing.assert_allclose(after, before, rtol=0, atol=1e-8, err_msg=f"data set {seed}")


@pytest.mark.filterwarnings("ignore::slamglmm.errors.SlamWarning")
@pytest.mark.parametrize("layout", ["complete", "patterns", "offset", "cis", "infinite"])
def test_scaled_traits_scale(layout):
    """``s Y`` (and the offset) under strong covariates: variances by s^2, effects by s, shares as they were."""
    options = dict(LAYOUTS[layout])
    frame, Y = make_frame(), make_traits(options.pop("missing", None))
    Y = Y.add(50.0 * frame["x"], axis=0)
    before = fit(frame, Y, **options)
    after = fit(frame.assign(off=frame["off"] * 1e4), Y * 1e4, **options)
    power = {"G": 2, "R": 2, "residual_var": 2, "B": 1, "Lambda": 1, "U_g": 1, "Eta": 1, "U_mean_g": 1, "cis": 1}
    for name, draws in before.posterior.items():
        expected = draws.to_numpy() * 1e4 ** power.get(name, 1 if name == "Eta_mean" else 0)
        size = np.nanmax(np.abs(expected), initial=0.0)
        np.testing.assert_allclose(after.posterior[name], expected, rtol=0, atol=1e-8 * size, err_msg=name)


@pytest.mark.filterwarnings("ignore::slamglmm.errors.SlamWarning")
@pytest.mark.parametrize("missing", [None, "patterns"])
def test_units_of_a_slope_change_nothing(missing):
    """A slope's variance is of one unit of its covariate, and nothing else knows the unit."""
    frame, Y = make_frame(), make_traits(missing)
    formula, unit = "~ x + s + (1 | g) + (0 + z | g)", 1000.0
    before, after = fit(frame, Y, formula), fit(frame.assign(z=frame["z"] * unit), Y, formula)
    for name, draws in before.posterior.items():
        expected = draws.to_numpy().copy()
        if name == "G":
            expected[:, :, 1] /= unit**2
        if name in ("U_z|g", "U_mean_z|g"):
            expected /= unit
        size = np.nanmax(np.abs(expected), initial=0.0)
        np.testing.assert_allclose(after.posterior[name], expected, rtol=1e-8, atol=1e-9 * size, err_msg=name)
    ours, theirs = before.varcorr(), after.varcorr()
    np.testing.assert_allclose(theirs["share"], ours["share"], rtol=1e-8)
    np.testing.assert_allclose(theirs.loc["z|g", "mean"] * unit**2, ours.loc["z|g", "mean"], rtol=1e-8)
    new = frame.iloc[::7]
    np.testing.assert_allclose(after.predict(new.assign(z=new["z"] * unit)), before.predict(new), rtol=1e-7, atol=1e-9)


@pytest.mark.filterwarnings("ignore::slamglmm.errors.SlamWarning")
def test_the_share_of_a_slope_is_of_the_variance_over_the_rows():
    """h2 = mean over rows of z_i^2 G / (that of all terms + R), recomputed from draws of G and R."""
    frame, Y = make_frame(), make_traits("patterns")
    fitted = fit(frame.assign(z=frame["z"] * 7.0), Y, "~ x + s + (1 | g) + (0 + z | g)")
    G, R = fitted.posterior["G"].to_numpy(), fitted.posterior["R"].to_numpy()
    square = np.array([1.0, np.mean((7.0 * frame["z"]) ** 2)])
    parts = np.einsum("cdmtt,m->cdmt", G, square)
    total = parts.sum(axis=2) + np.einsum("cdtt->cdt", R)
    np.testing.assert_allclose(fitted.posterior["h2"], parts / total[:, :, None], rtol=1e-9)
    shares = np.array([fitted.varcorr().loc[term, "share"][list(Y.columns)] for term in ("g", "z|g")])
    np.testing.assert_allclose(shares, (parts / total[:, :, None]).mean(axis=(0, 1)), rtol=1e-9)


@pytest.mark.filterwarnings("ignore::slamglmm.errors.SlamWarning")
def test_variances_of_dietox_are_those_of_reml():
    """Time explains .92 of the weights; REML has 40.4 among pigs and 11.4 left."""
    frame = sg.datasets.load("dietox").frame
    ours = sg.slam("Weight ~ Time + (1 | Pig)", frame, seed=1, h2_grid=100, draws=2000).varcorr()["mean"]
    reml = sg.he("Weight ~ Time + (1 | Pig)", frame, method="reml").varcorr()["variance"]
    np.testing.assert_allclose(ours.to_numpy(), reml.to_numpy(), rtol=0.05)


@pytest.mark.filterwarnings("ignore::slamglmm.errors.SlamWarning")
@pytest.mark.parametrize("fixef", ["shared", "horseshoe"])
def test_strong_shrunk_effects_are_there_from_the_start_in_drawn_cells(fixef):
    """Drawn cells that began without them held the effect at 41 of 60, and residual variances at 600, for .8."""
    frame, Y = make_frame(), make_traits("patterns")
    options = {"priors": sg.Priors(fixef=fixef), "missing_memory": 0, "chains": 1, "draws": 150, "burn": 50}
    fitted = fit(frame, Y.add(60.0 * frame["x"], axis=0), **options)
    assert fitted.R().to_numpy().diagonal().max() < 3.0
    np.testing.assert_allclose(fitted.fixef().loc["x"], 60.0, atol=1.0)


def simulate(link, eta, rng):
    """Data of one latent trait by a link, by hand."""
    if isinstance(link, Poisson):
        return rng.poisson(np.exp(eta))
    if isinstance(link, NegativeBinomial):
        return rng.poisson(np.exp(eta) * rng.gamma(5.0, 0.2, eta.shape))
    if isinstance(link, Binomial):
        return rng.binomial(30, 1 / (1 + np.exp(-eta)))
    if isinstance(link, Bernoulli | Probit):
        return (eta + rng.standard_normal(eta.shape) > 0).astype(float)
    if isinstance(link, Ordinal):
        return np.digitize(eta, [0.0, 1.5, 3.0])
    if isinstance(link, GaussianWeights):
        return eta + 0.5 * rng.standard_normal(eta.shape)
    return eta


UNITS = {
    "identity": (Identity(), 0.01),
    "gaussian_weights": (GaussianWeights(4.0), 0.1),
    "poisson": (Poisson(), 0.25),
    "negative_binomial": (NegativeBinomial(dispersion=0.2), 0.25),
    "binomial": (Binomial(30), 0.25),
    "bernoulli": (Bernoulli(), 0.01),
    "probit": (Probit(), 0.01),
    "ordinal": (Ordinal(), 0.01),
    "censored": (Censored(right=1e6), 0.01),
}


@pytest.mark.parametrize("name", UNITS)
def test_the_unit_of_a_link_does_not_grow_with_the_slope(name):
    """The spread that priors are relative to, for slopes that explain up to four fifths of the latent variance."""
    link, tolerance = UNITS[name]
    scales = []
    for slope in (0.0, 1.0):
        rng = np.random.default_rng(3)
        n = 4000
        x, rest = rng.standard_normal(n), rng.standard_normal((n, 3)) * 0.5
        eta = 1.0 + slope * x[:, None] + rest
        fixed = FixedPart(np.stack((np.ones(n), x)), np.zeros((0, n)), np.zeros((0, n)))
        data = pd.DataFrame(simulate(link, eta, rng), columns=["a", "b", "c"])
        likelihood = link.prepare(Measurements(data, np.zeros(n), np.arange(n), n, fixed))
        scales.append(likelihood.scale.mean())
    assert scales[1] == pytest.approx(scales[0], rel=tolerance)
    if name not in ("bernoulli", "probit", "ordinal"):
        assert scales[1] == pytest.approx(0.5, rel=tolerance + 0.02)


def test_units_by_least_squares():
    """Residual standard deviations, recomputed trait by trait: missing cells, shrunk columns, columns of one trait."""
    rng = np.random.default_rng(4)
    n, names = 60, ("a", "b", "c")
    flat = np.stack((np.ones(n), rng.normal(size=n) * 100 + 1e4))
    shrunk, pool = rng.normal(size=(3, n)), rng.normal(size=(2, n))
    values = 1e5 + rng.normal(size=(3, n)) + 50 * flat[1] + shrunk[0]
    values[0, :7] = np.nan
    values[2, 20:30] = np.nan
    fixed = FixedPart(flat, shrunk, pool, {"c": np.array([1])})
    coef, scale = fixed.residual_scales(values, names)
    for j, name in enumerate(names):
        seen = ~np.isnan(values[j])
        columns = np.concatenate((flat, shrunk, pool[[1]] if name == "c" else pool[:0]))[:, seen].T
        _, rest, rank, _ = np.linalg.lstsq(columns / np.linalg.norm(columns, axis=0), values[j, seen], rcond=None)
        assert scale[j] == pytest.approx(np.sqrt(rest[0] / (seen.sum() - rank)), rel=1e-7)
        of_flat, *_ = np.linalg.lstsq(flat[:, seen].T, values[j, seen], rcond=1e-15)
        np.testing.assert_allclose(coef[j], of_flat, rtol=1e-7)


def test_unit_with_more_shrunk_columns_than_rows():
    """A ridge says what the columns leave: near the truth, and the same whatever flat effects add."""
    rng = np.random.default_rng(5)
    n, c = 150, 400
    shrunk = rng.normal(size=(c, n))
    fixed = FixedPart(np.ones((1, n)), shrunk, np.zeros((0, n)))
    effects = rng.normal(size=(40, c)) * np.sqrt(4.0 / c)
    values = effects @ shrunk + rng.normal(size=(40, n))
    names = [str(j) for j in range(40)]
    _, scale = fixed.residual_scales(values, names)
    assert 0.7 < np.median(scale) < 1.4  # the raw spread is 2.2
    np.testing.assert_allclose(fixed.residual_scales(values + 1e3, names)[1], scale, rtol=1e-9)


def test_traits_that_the_fixed_effects_explain_are_refused():
    frame = make_frame()
    Y = make_traits()
    Y["t2"] = 3.0 * frame["x"] - 2.0
    with pytest.raises(sg.errors.DataError, match=r"trait\(s\) 't2' are explained exactly by the fixed effects"):
        sg.slam(FLAT, frame, Y=Y, draws=2, burn=2)
    Y = make_traits()
    Y.iloc[4:, 1] = np.nan
    with pytest.raises(
        sg.errors.DataError, match=r"'t1' have no more observed rows than fixed effects \(first: 4 rows"
    ):
        sg.slam(FLAT, frame, Y=Y, draws=2, burn=2)
