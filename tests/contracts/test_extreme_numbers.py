"""A fit gives numbers or an error, whatever the unit of the data; never NaN."""

import pkgutil
import warnings
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

import slamglmm as sg
from slamglmm.design import magnitudes
from slamglmm.errors import DataError, FitError, SlamError
from slamglmm.results.base import refuse_not_finite

N = 24
LINES = [f"L{i:02d}" for i in range(N)]


def data():
    """Traits in no order of size, a covariate, related lines and markers."""
    rng = np.random.default_rng(3)
    markers = pd.DataFrame(rng.integers(0, 3, (N, 30)), columns=[f"m{j}" for j in range(30)])
    frame = pd.DataFrame({"line": LINES, "x": rng.standard_normal(N)})
    Y = pd.DataFrame(rng.standard_normal((N, 3)) * [1.0, 5.0, 0.2] + 2.0, columns=["t1", "t2", "t3"])
    Y["t1"] += markers["m4"]
    return frame, Y, markers, sg.kinship(markers.set_axis(LINES), "standardized")


FRAME, Y, MARKERS, K = data()
SLAM = {"relmat": {"line": K}, "n_factors": 2, "draws": 6, "burn": 4, "chains": 1, "seed": 1}
COUNTS = pd.DataFrame(np.random.default_rng(1).poisson(5, (N, 3)), columns=["t1", "t2", "t3"])
# Fitter -> what it says of traits in any unit.
FITS = {
    "slam": lambda Y: sg.slam("~ x + (1 | line)", FRAME, Y=Y, **SLAM).h2()["mean"],
    "slam, gaps": lambda Y: sg.slam("~ x + (1 | line)", FRAME, Y=Y.mask(GAPS), **SLAM).h2()["mean"],
    "slam, weights": lambda Y: sg.slam(
        "~ x + (1 | line)", FRAME, Y=Y, link=sg.links.GaussianWeights(np.inf), **SLAM
    ).h2()["mean"],
    "sparse_lmm": lambda Y: sg.sparse_lmm("~ x", FRAME, Y=Y, markers=MARKERS, max_iter=200)["t1"].pip,
    "sparse_lmm, random": lambda Y: (
        sg.sparse_lmm("~ x + (1 | line)", FRAME, Y=Y[["t1"]], markers=MARKERS, relmat={"line": K}, max_iter=200).pip
    ),
    "mr_mash": lambda Y: sg.mr_mash("~ x", FRAME, Y=Y, markers=MARKERS, max_iter=30).lfsr["t1"],
}
GAPS = np.random.default_rng(4).random((N, 3)) < 0.1


def numbers(name, values):
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        return np.asarray(FITS[name](values), dtype=float)


@pytest.mark.parametrize("name", FITS)
@pytest.mark.parametrize("scale", [2.0**-300, 2.0**300])
def test_units_do_not_matter(name, scale):
    """Shares and probabilities in a unit 1e90 times larger or smaller; powers of two, so that data are equal."""
    expected = numbers(name, Y)
    assert np.isfinite(expected).all()
    np.testing.assert_allclose(numbers(name, Y * scale), expected, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("name", [name for name in FITS if name.startswith("slam")])
@pytest.mark.parametrize(("scale", "size"), [(1e160, "large"), (1e300, "large"), (1e-160, "small"), (1e-300, "small")])
def test_extreme_responses_are_refused(name, scale, size):
    """Their squares are infinite or zero: what came, and what to do."""
    with pytest.raises(DataError, match=rf"response 't1' has values up to .*e.*too {size} for variances.*divide by"):
        numbers(name, Y * scale)


@pytest.mark.parametrize("name", FITS)
@pytest.mark.parametrize("scale", [1e160, 1e300, 1e-160, 1e-300])
def test_no_fit_returns_what_is_not_a_number(name, scale):
    """An own error, or numbers."""
    try:
        got = numbers(name, Y * scale)
    except SlamError:
        return
    assert np.isfinite(got).all()


@pytest.mark.parametrize("name", [name for name in FITS if name.startswith("slam")])
@pytest.mark.parametrize("scale", [1e160, 1e300, 1e-160, 1e-300])
def test_no_chain_returns_it_were_sizes_not_looked_at(name, scale, monkeypatch):
    """The check of the draws alone; scipy refuses infinite numbers in the words of a ValueError."""
    monkeypatch.setattr(magnitudes, "LARGEST_VALUE", np.inf)
    monkeypatch.setattr(magnitudes, "SMALLEST_VALUE", 0.0)
    try:
        got = numbers(name, Y * scale)
    except (SlamError, ValueError):
        return
    assert np.isfinite(got).all()


def test_a_chain_that_breaks_down_is_stopped(monkeypatch):
    """At the first draw, with what to do; the same on disk."""
    from slamglmm.fitters.slam.draws import Snapshot

    whole = Snapshot.residual_variance
    monkeypatch.setattr(Snapshot, "residual_variance", lambda self: whole(self) * [1.0, np.nan, 1.0])
    with pytest.raises(FitError, match=r"slam broke down: 1 of 3 values of residual_var .* rescale them. Report it"):
        sg.slam("~ x + (1 | line)", FRAME, Y=Y, **SLAM)


def test_numbers_that_float32_cannot_hold():
    """Kept draws, not the chain: variances of 1e40 in float32 would be infinite."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(FitError, match=r"float32 holds numbers up to 3e38: store_dtype='float64'"):
            sg.slam("~ x + (1 | line)", FRAME, Y=Y * 1e30, store_dtype="float32", **SLAM)


def test_linear_algebra_that_fails(monkeypatch):
    """One place for what no check has foreseen: an own error, with the original one behind it."""
    from slamglmm.fitters.mr_mash import fit as module

    def fail(*_, **__):
        raise np.linalg.LinAlgError("Eigenvalues did not converge")

    monkeypatch.setattr(module, "marker_posteriors", fail)
    with pytest.raises(FitError, match=r"mr_mash broke down in its linear algebra: Eigenvalues did not") as caught:
        numbers("mr_mash", Y)
    assert isinstance(caught.value.__cause__, np.linalg.LinAlgError)


# What must be named -> the function whose last number becomes NaN, the call, and the word that asks for it.
HALVES = {"method": "rerehe", "subsample": {"ratio": 0.8}}
T3 = {"formula": "~ x + (1 | line)", "Y": Y[["t3"]]}
BROKEN = {
    "variances": ("he.fit.solve_equations", {}, None),
    "variances of several": ("he.fit.solve_equations", {"formula": "~ x + (1 | line)", "Y": Y}, None),
    "variances of subsamples": ("he.subsampling.solve_equations", HALVES, None),
    "variances on own rows": ("he.fit.solve_equations", {"formula": "~ x + (1 | line)", "Y": Y.mask(GAPS)}, None),
    "the covariance of the estimates \\(sandwich\\)": ("he.inference.estimate_map", {}, None),
    "the covariance of the estimates \\(jackknife\\)": ("he.inference.jackknife", {"se": "jackknife"}, None),
    "the covariance of the estimates \\(bootstrap\\)": ("he.inference.bootstrap", T3 | {"se": "bootstrap"}, None),
    "loglik": ("he.fit.fit_reml", {"method": "reml"}, None),
    "random effects of 'line'": ("he.fit.blups", {}, "ranef"),
    "fixed effects": ("he.effects.scipy.linalg.solve_triangular", {}, "fixef"),
    "marker effects of 'chip'": ("he.fit.marker_effects", {"formula": "y ~ x", "markers": {"chip": MARKERS}}, "ranef"),
    "baseline effects": ("netgsa.fit.Network.solve", {}, None),
    "pathway tests": ("netgsa.fit.pathway_tests", {}, None),
}


def spoiled(value):
    """The same with the last number NaN, wherever that stands."""
    if isinstance(value, tuple):
        return (spoiled(value[0]), *value[1:])
    if isinstance(value, list):
        return [*value[:-1], spoiled(value[-1])]
    if isinstance(value, pd.DataFrame):
        return value.assign(p=[*value["p"][:-1], np.nan])
    if isinstance(value, float):
        return np.nan
    if not isinstance(value, np.ndarray):
        name = "loglik" if hasattr(value, "loglik") else "coef"
        return replace(value, **{name: spoiled(getattr(value, name))})
    value = value.astype(float)
    value.flat[-1] = np.nan
    return value


def of_he(**changes):
    call = {"formula": "y ~ x + (1 | line)", "data": FRAME.assign(y=Y["t1"]), "relmat": {"line": K}, "seed": 1}
    call |= {"relmat": None} if "markers" in changes else {}
    return sg.he(**(call | changes))


def of_netgsa():
    genes = sg.simulate.netgsa(n_genes=8, n_pathways=2, n_samples=(5, 4), seed=1)
    return sg.netgsa(genes.expression, genes.groups, genes.networks, genes.pathways)


@pytest.mark.filterwarnings("ignore::slamglmm.errors.SlamWarning")
@pytest.mark.parametrize("what", BROKEN)
def test_moments_and_tests_that_break_down(what, monkeypatch):
    """`he` and `netgsa`: refused when fitted, or when first asked for; never printed."""
    place, changes, word = BROKEN[what]
    fitter, quantity = place.split(".")[0], what.split(" of s")[0].split(" on own")[0]
    owner, name = f"slamglmm.fitters.{place}".rsplit(".", 1)
    owner = pkgutil.resolve_name(owner)
    whole = getattr(owner, name)
    monkeypatch.setattr(owner, name, lambda *a, **k: spoiled(whole(*a, **k)))

    def asked():
        fit = of_he(**changes) if fitter == "he" else of_netgsa()
        return getattr(fit, word or "summary")()

    said = rf"{fitter} broke down: \d+ of \d+ values of {quantity} are NaN"
    with np.errstate(all="ignore"), pytest.raises(FitError, match=said):
        asked()


@pytest.mark.filterwarnings("ignore::slamglmm.errors.SlamWarning")
def test_what_may_be_not_a_number():
    """An aliased fixed effect, a covariance by REML, an error at the boundary, the p value of the residual."""
    twice = FRAME.assign(y=Y["t1"], x2=2 * FRAME["x"])
    assert of_he(formula="y ~ x + x2 + (1 | line)", data=twice).fixef().isna().to_numpy().sum() == 1
    by_reml = of_he(formula="~ x + (1 | line)", Y=Y.mask(GAPS), method="reml")
    assert by_reml.G("line").isna().to_numpy().sum() == 6
    flat = of_he(
        data=FRAME.assign(y=np.resize([1.0, -1.0], N), line=np.repeat(LINES[::2], 2)), relmat=None, method="reml"
    )
    assert flat.varcorr()["se"].isna().tolist() == [True, False]
    apart = np.abs(np.subtract.outer(FRAME["x"].to_numpy(), FRAME["x"].to_numpy()))
    assert of_he(formula="~ 1 + (1 | line)", distance=apart, permutations=5).varcorr()["p"].isna().sum() == 1


def test_refusal_counts_and_names():
    refuse_not_finite("he", {"variances": np.array([1.0, 2.0]), "nothing": []})
    with pytest.raises(FitError, match=r"he broke down: 2 of 3 values of variances are NaN or infinite"):
        refuse_not_finite("he", {"share": 0.5, "variances": [1.0, np.nan, np.inf]})


@pytest.mark.parametrize("kind", ["equal", "copied", "heritable"])
def test_degenerate_but_allowed(kind):
    """Traits that are all the same, one the negative of another, or without a residual: they run, and are finite."""
    rng = np.random.default_rng(6)
    genes = pd.DataFrame(np.linalg.cholesky(K + 1e-8 * np.eye(N)) @ rng.standard_normal((N, 3)), columns=Y.columns)
    values = {
        "equal": pd.DataFrame(dict.fromkeys(Y, Y["t1"])),
        "copied": Y.assign(t3=-Y["t1"]),
        "heritable": genes,
    }[kind]
    fit = sg.slam("~ x + (1 | line)", FRAME, Y=values, **(SLAM | {"draws": 50, "burn": 50}))
    for table in (fit.h2(), fit.G("line"), fit.R(), fit.fixef()):
        assert np.isfinite(table.to_numpy()).all()
