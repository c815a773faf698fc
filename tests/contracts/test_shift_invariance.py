"""What the fixed effects explain changes nothing else: ``Y + X c`` gives the variances and effects of ``Y``.

Exact but for rounding, which for a shift of 1e8 leaves eight digits of a response of size one.
"""

import numpy as np
import pandas as pd
import pytest

import slamglmm as sg
from slamglmm.errors import DataError

pytestmark = [
    pytest.mark.filterwarnings("ignore::slamglmm.errors.BoundaryWarning"),
    pytest.mark.filterwarnings("ignore:reREHE. the kinship ties all rows"),
]

SHIFTS = [30.0, 1e4, 1e6, 1e8]
C = np.array([1.0, -0.7, 0.3, 0.2, -0.4])


def rounding(shift):
    """Relative error that the digits left in y allow, with room for what a fit makes of it."""
    return 1e-10 + 1e-15 * shift


@pytest.fixture(scope="module")
def related():
    """24 related animals with 5 records each, sires across, a covariate and a factor."""
    rng = np.random.default_rng(1)
    animals = [f"a{i}" for i in range(24)]
    markers = pd.DataFrame(rng.integers(0, 3, (24, 200)).astype(float), index=animals)
    K = sg.kinship(markers)
    u = pd.Series(np.linalg.cholesky(K + 1e-6 * np.eye(24)) @ rng.normal(size=24), index=animals)
    frame = pd.DataFrame(
        {
            "x": rng.normal(size=120),
            "f": np.tile(list("abcd"), 30),
            "animal": np.repeat(animals, 5),
            "sire": rng.choice(list("pqrstuvw"), 120),
            "w": rng.gamma(5, 0.2, 120),
        }
    )
    frame["y"] = frame["x"] + frame["animal"].map(u) + frame["sire"].map(ord) % 3 * 0.4 + rng.normal(size=120)
    return frame, K


@pytest.fixture(scope="module")
def genotyped():
    """150 rows of 30 lines, 40 markers of which two act, three responses."""
    rng = np.random.default_rng(2)
    markers = pd.DataFrame(rng.integers(0, 3, (150, 40)).astype(float)).add_prefix("m")
    lines = rng.normal(size=(30, 3)).repeat(5, axis=0) * 0.6
    effects = np.zeros((40, 3))
    effects[3], effects[20] = [0.8, 0.6, 0.0], [0.0, 0.5, 0.5]
    frame = pd.DataFrame(
        {
            "x": rng.normal(size=150),
            "f": rng.choice(list("abcd"), 150),
            "line": np.repeat([f"l{i}" for i in range(30)], 5),
            "w": rng.gamma(5, 0.2, 150),
        }
    )
    Y = markers.to_numpy() @ effects + lines + rng.normal(size=(150, 3)) + frame[["x"]].to_numpy()
    return frame, pd.DataFrame(Y, columns=list("uvw")), markers


def moved(frame, y, shift):
    X = sg.design("~ x + f", frame).X.to_numpy()
    return y + shift * (X @ C)


HE = {
    "reml": {"method": "reml"},
    "ml": {"method": "ml"},
    "rehe": {"method": "rehe"},
    "he, triangle": {"method": "he", "inner": "triangle"},
    "he, jackknife": {"method": "he", "se": "jackknife"},
    "rehe, bootstrap": {"method": "rehe", "se": "bootstrap", "seed": 1},
    "rerehe": {"method": "rerehe", "se": None, "seed": 1, "subsample": {"ratio": 0.5, "times": 5}},
    "reml, weights": {"method": "reml", "weights": "w"},
    "rehe, weights": {"method": "rehe", "weights": "w"},
}


@pytest.mark.parametrize("shift", SHIFTS)
@pytest.mark.parametrize("options", HE.values(), ids=HE)
def test_he(related, options, shift):
    frame, K = related
    formula = "y ~ x + f + (1 | animal) + (1 | sire)"
    fits = [
        sg.he(formula, frame.assign(y=moved(frame, frame["y"], s)), relmat={"animal": K}, **options)
        for s in (0.0, shift)
    ]
    # COBYQA ends within 1e-7 of the optimum, whatever the digits.
    rtol = rounding(shift) * 10 + (1e-6 if options["method"] in ("reml", "ml") else 0.0)
    plain, other = (fit.varcorr() for fit in fits)
    np.testing.assert_allclose(other["variance"], plain["variance"], rtol=rtol, atol=rtol)
    np.testing.assert_allclose(other["se"], plain["se"], rtol=10 * rtol)
    plain, other = (fit.fixef().to_numpy().ravel() for fit in fits)
    np.testing.assert_allclose(other - shift * C, plain, atol=1e-6 + rtol + 1e-15 * shift)
    np.testing.assert_allclose(fits[1].ranef("animal"), fits[0].ranef("animal"), atol=1e-6 + 10 * rtol)
    if fits[0].loglik:
        np.testing.assert_allclose(fits[1].loglik, fits[0].loglik, rtol=1e-9 + rounding(shift))


@pytest.mark.parametrize("formula", ["y ~ 1 + (1 | animal)", "y ~ 1 + (1 | sire)"])
@pytest.mark.parametrize("method", ["reml", "ml"])
def test_likelihoods_keep_their_digits_with_a_large_mean(related, method, formula):
    frame, K = related
    relmat = {"animal": K} if "animal" in formula else None
    shares = [
        sg.he(formula, frame.assign(y=frame["y"] + mean), relmat=relmat, method=method).varcorr()["share"].iloc[0]
        for mean in (0.0, *SHIFTS)
    ]
    np.testing.assert_allclose(shares, shares[0], rtol=2e-6)


@pytest.mark.parametrize("method", ["reml", "ml", "rehe", "he"])
@pytest.mark.parametrize("change", [lambda x: x + 1e8, lambda x: x * 1e300, lambda x: x * 1e-100, lambda x: 1e6 - x])
def test_units_and_origin_of_a_covariate(related, method, change):
    frame, K = related
    formula = "y ~ x + f + (1 | animal)"
    plain = sg.he(formula, frame, relmat={"animal": K}, method=method)
    other = sg.he(formula, frame.assign(x=change(frame["x"])), relmat={"animal": K}, method=method)
    assert not any("collinear" in note for note in other.notes)
    np.testing.assert_allclose(other.varcorr(), plain.varcorr(), rtol=1e-6)
    np.testing.assert_allclose(other.fitted(), plain.fitted(), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("weight", [1e-20, 1e6, 1e20])
def test_reml_does_not_see_the_unit_of_weights(related, weight):
    frame, K = related
    fits = [
        sg.he("y ~ x + (1 | animal)", frame, relmat={"animal": K}, method="reml", weights=frame["w"] * unit)
        for unit in (1.0, weight)
    ]
    variances = np.array([fit.varcorr()["variance"].to_numpy() for fit in fits])
    np.testing.assert_allclose(variances[1] / [1.0, weight], variances[0], rtol=1e-6)
    np.testing.assert_allclose(fits[1].loglik, fits[0].loglik, rtol=1e-9)


SPARSE = {
    "em": {},
    "grid": {"pi": "grid"},
    "standardized, reml": {"standardize": True, "dof": "reml"},
    "weights": {"weights": "w"},
    "random": {"formula": "y ~ x + f + (1 | line)"},
    "random, weights": {"formula": "y ~ x + f + (1 | line)", "weights": "w"},
}


@pytest.mark.parametrize("shift", SHIFTS)
@pytest.mark.parametrize("options", SPARSE.values(), ids=SPARSE)
def test_sparse_lmm(genotyped, options, shift):
    frame, Y, markers = genotyped
    options = {"formula": "y ~ x + f", **options}
    plain, other = (
        sg.sparse_lmm(data=frame.assign(y=moved(frame, Y["u"], s)), markers=markers, **options) for s in (0.0, shift)
    )
    tolerance = 10 * rounding(shift)
    for name in ("pip", "coef", "coef_sd", "residual_var", "prior_var", "pi"):
        np.testing.assert_allclose(getattr(other, name), getattr(plain, name), rtol=tolerance, atol=tolerance)
    np.testing.assert_allclose(other.elbo, plain.elbo, rtol=tolerance)
    np.testing.assert_allclose(other.varcorr(), plain.varcorr(), rtol=tolerance)
    effects = [fit.fixef()["mean"].to_numpy() for fit in (plain, other)]
    np.testing.assert_allclose(effects[1] - shift * C, effects[0], atol=tolerance)


MASH = {
    "full": {},
    "diagonal": {"residual_cov": "diagonal"},
    "pca": {"covariances": "canonical+pca"},
    "not standardized": {"standardize": False},
}


@pytest.mark.parametrize("shift", SHIFTS)
@pytest.mark.parametrize("missing", [0.0, 0.1])
@pytest.mark.parametrize("options", MASH.values(), ids=MASH)
def test_mr_mash(genotyped, options, missing, shift):
    frame, Y, markers = genotyped
    Y = Y.mask(np.random.default_rng(3).random(Y.shape) < missing)
    plain, other = (
        sg.mr_mash("~ x + f", frame, Y=Y.apply(lambda y: moved(frame, y, s)), markers=markers, **options)  # noqa: B023
        for s in (0.0, shift)
    )
    tolerance = 10 * rounding(shift)
    for name in ("coef", "coef_sd", "lfsr", "residual_cov", "weights"):
        np.testing.assert_allclose(getattr(other, name), getattr(plain, name), rtol=tolerance, atol=tolerance)
    np.testing.assert_allclose(other.elbo, plain.elbo, rtol=tolerance)
    effects = [fit.covariates for fit in (plain, other)]
    np.testing.assert_allclose(effects[1] - shift * C[:, None], effects[0], atol=tolerance)


# -- what is left to say ---------------------------------------------------------------------------------


def fits_of(related, genotyped, change, method):
    """The call of each fitter, with a response that `change` makes of a frame with its columns y and x."""
    frame, K = related
    other, Y, markers = genotyped
    tabled = other.assign(y=Y["u"])
    return {
        "he": lambda: sg.he("y ~ x + (1 | animal)", change(frame), relmat={"animal": K}, method=method),
        "sparse_lmm": lambda: sg.sparse_lmm("y ~ x", change(tabled), markers=markers),
        "sparse_lmm, random": lambda: sg.sparse_lmm("y ~ x + (1 | line)", change(tabled), markers=markers),
        "mr_mash": lambda: sg.mr_mash("y + u ~ x", change(tabled).assign(u=Y["v"]), markers=markers),
    }


@pytest.mark.parametrize("method", ["reml", "rehe"])
@pytest.mark.parametrize("fitter", ["he", "sparse_lmm", "sparse_lmm, random", "mr_mash"])
def test_a_response_that_is_a_covariate(related, genotyped, fitter, method):
    call = fits_of(related, genotyped, lambda f: f.assign(y=2 + 3 * f["x"]), method)[fitter]
    with pytest.raises(DataError, match="response 'y' is explained exactly by the fixed effects; nothing is left"):
        call()


@pytest.mark.parametrize("size", [1e-160, 1e160, 1e300])
@pytest.mark.parametrize("method", ["reml", "ml", "rehe", "he"])
@pytest.mark.parametrize("fitter", ["he", "sparse_lmm", "mr_mash"])
def test_sizes_beyond_double_precision(related, genotyped, fitter, method, size):
    call = fits_of(related, genotyped, lambda f: f.assign(y=f["y"] * size), method)[fitter]
    with pytest.raises(
        DataError, match=r"response 'y' has a standard deviation beyond the fixed effects of .*e[+-]\d+, too"
    ):
        call()


@pytest.mark.parametrize("method", ["reml", "rehe"])
def test_weights_beyond_double_precision(related, method):
    frame, K = related
    with pytest.raises(DataError, match=r"response 'y', times the roots of its weights, has .* divide the weights by"):
        sg.he("y ~ x + (1 | animal)", frame, relmat={"animal": K}, method=method, weights=np.full(120, 1e300))


@pytest.mark.parametrize("method", ["reml", "ml"])
@pytest.mark.parametrize("group", ["animal", "sire"])
def test_a_response_that_the_random_effects_explain(related, method, group):
    frame, K = related
    relmat = {"animal": K} if group == "animal" else None
    levels = sorted(set(frame[group]))
    values = frame[group].map(dict(zip(levels, np.random.default_rng(4).normal(size=len(levels)), strict=True)))
    with pytest.raises(DataError, match=rf"response 'y' is explained exactly by the fixed effects and '{group}': the"):
        sg.he(f"y ~ x + (1 | {group})", frame.assign(y=values), relmat=relmat, method=method)
