"""What is kept of a run: variances without loadings, single precision, variances of U without its draws."""

import numpy as np
import pytest

import slamglmm as sg
from slamglmm.errors import OptionError

SETTINGS = {"n_factors": 3, "draws": 30, "burn": 10, "chains": 2, "seed": 5, "h2_grid": 4}
LEAN = ("h2", "G_diag", "R_diag", "U_mean")


@pytest.fixture(scope="module")
def data():
    return sg.simulate.slam(families=5, n_traits=6, n_factors=2, missing=0.02, second="field", seed=2)


def fit(data, **options):
    return sg.slam(data.formula, data.frame, Y=data.Y, relmat=data.relmat, **(SETTINGS | options))


@pytest.fixture(scope="module")
def full(data):
    return fit(data, store=(*sg.DEFAULT_STORE, "U", "U_var", "G_diag", "R_diag", "G", "R"))


@pytest.fixture(scope="module")
def lean(data):
    return fit(data, store=LEAN)


def test_diagonals_are_those_of_the_covariances(full):
    draws = full.posterior
    np.testing.assert_allclose(draws["G_diag"], np.einsum("cdmtt->cdmt", draws["G"]), rtol=1e-12)
    np.testing.assert_allclose(draws["R_diag"], np.einsum("cdtt->cdt", draws["R"]), rtol=1e-12)
    total = draws["G_diag"].sum("term") + draws["R_diag"]
    np.testing.assert_allclose(draws["h2"], (draws["G_diag"] / total).transpose(*draws["h2"].dims), rtol=1e-12)


def test_what_is_kept_does_not_change_the_chain(data, full):
    """Draws of U come from a stream of their own."""
    plain = fit(data)
    for name, values in plain.posterior.items():
        np.testing.assert_array_equal(values, full.posterior[name], err_msg=name)


def test_each_accessor_takes_what_is_there(data, full):
    """The same tables from loadings, from whole matrices, and from their diagonals."""
    plain, whole = fit(data), fit(data, store=("G", "R"))
    diagonals = fit(data, store=("G_diag", "R_diag"))
    for other in (whole, diagonals, full):
        np.testing.assert_allclose(other.h2(), plain.h2(), rtol=1e-9)
        np.testing.assert_allclose(other.varcorr(), plain.varcorr(), rtol=1e-9)
        assert other.summary().to_frame().index.equals(plain.summary().to_frame().index)
    for label in ("animal", "Residual"):
        np.testing.assert_allclose(whole.correlation(label), plain.correlation(label), rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(whole.covariance_draws(label), plain.covariance_draws(label), rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(whole.G("animal"), plain.G("animal"), rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(whole.R(), plain.R(), rtol=1e-9, atol=1e-12)
    # Ranks of draws that are equal, or nearly so, depend on rounding: only moments are compared.
    wanted = plain.diagnostics()[["mean", "sd"]]
    np.testing.assert_allclose(whole.diagnostics().loc[wanted.index, ["mean", "sd"]], wanted, rtol=1e-9)
    # Diagonals say nothing of pairs of traits.
    variances = wanted[~wanted.index.get_level_values("trait").str.contains("~")]
    np.testing.assert_allclose(diagonals.diagnostics().loc[variances.index, ["mean", "sd"]], variances, rtol=1e-9)
    assert len(diagonals.diagnostics()) == len(variances)
    np.testing.assert_allclose(
        plain.plot._variance("G"), diagonals.posterior["G_diag"].transpose("term", ...), rtol=1e-9
    )


def test_lean_store_keeps_little_and_says_what_is_missing(data, lean):
    assert {name for name in lean.posterior if not name.startswith("U_mean")} == {"h2", "G_diag", "R_diag"}
    np.testing.assert_array_equal(lean.ranef("animal"), fit(data).ranef("animal"))
    assert "convergence" in str(lean.summary())
    for ask, text in (
        (lean.R, r"R\(\): 'Lambda', 'h2_factor', 'h2_residual', 'residual_var' not stored\. Refit .*, or 'R'"),
        (lambda: lean.G("animal"), r"G\(\): 'Lambda', .* or 'G' \(now: \('h2', 'G_diag'"),
        (lean.loadings, "'Lambda' was not stored"),
        (lean.fixef, "'B' was not stored"),
        (lean.fitted, "'Eta_mean' was not stored"),
        (lambda: lean.ranef_sd("animal"), r"'U_var' was not stored. Refit with it in store="),
    ):
        with pytest.raises(OptionError, match=text):
            ask()


def test_draws_serve_where_means_were_not_kept(data):
    """Draws of U have their means in them; latent traits are no fitted values, as their residuals are in them."""
    drawn = fit(data, store=("U", "U_var", "Eta"))
    plain = fit(data, store=("U", "U_mean"))
    np.testing.assert_allclose(drawn.ranef("animal"), plain._values("U_animal").mean(axis=(0, 1)))
    np.testing.assert_allclose(drawn.ranef_sd("animal"), plain.ranef_sd("animal"))
    with pytest.raises(OptionError, match=r"'Eta_mean' was not stored\. Refit with it in store="):
        drawn.fitted()


def test_names_of_the_axes(full):
    """What csv files and plots say of rows."""
    assert full.ranef("field").index.name == "field"
    assert full.ranef_sd("animal").index.name == "animal"
    for table in (full.G("animal"), full.R(), full.correlation("animal")):
        assert table.index.name == "trait"


def test_one_standard_deviation(full):
    """Tables and diagnostics of the same draws."""
    np.testing.assert_allclose(full.h2()["sd"], full.diagnostics().loc["h2"]["sd"], rtol=1e-9)


def test_fit_without_any_variance_prints(data):
    bare = fit(data, store=("U_mean",), draws=4)
    assert "What was kept" in str(bare)
    assert "h2(): 'h2' not stored. Refit with store= naming 'h2', or 'G_diag' and 'R_diag'" in str(bare)
    with pytest.raises(OptionError, match=r"diagnostics\(\): 'h2' not stored"):
        bare.diagnostics()
    with pytest.raises(OptionError, match=r"variances: .*'G_diag' or 'G'"):
        bare.varcorr()


def test_single_precision_is_the_same_chain_rounded(data, full, tmp_path):
    """In memory, on disk and after more draws; the sampler itself does not change."""
    store = full.options["store"]
    single = fit(data, store=store, store_dtype="float32")
    for name, values in full.posterior.items():
        assert single.posterior[name].dtype == np.float32
        np.testing.assert_array_equal(single.posterior[name], values.astype("float32"), err_msg=name)
    streamed = fit(data, store=store, store_dtype="float32", out=tmp_path / "run")
    for other in (streamed, sg.load(tmp_path / "run")):
        for name, values in single.posterior.items():
            assert other.posterior[name].dtype == np.float32
            np.testing.assert_array_equal(other.posterior[name], values, err_msg=name)
    longer = single.extend(5)
    assert longer.posterior["Lambda"].dtype == np.float32
    np.testing.assert_array_equal(longer.posterior["h2"], full.extend(5).posterior["h2"].astype("float32"))
    for ours, theirs in ((single.h2(), full.h2()), (single.G("animal"), full.G("animal")), (single.R(), full.R())):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)
    assert all(dtype == np.float64 for dtype in single.h2().dtypes)
    with pytest.raises(OptionError, match="holds a run that differs in store_dtype"):
        fit(data, store=store, out=tmp_path / "run")


def test_unknown_precision_is_refused(data):
    with pytest.raises(OptionError, match="store_dtype='half': expected 'float64' or 'float32'"):
        fit(data, store_dtype="half")


@pytest.mark.parametrize("missing", [0.0, pytest.param(0.05, marks=pytest.mark.slow)])
def test_variances_of_effects_are_those_of_their_draws(missing):
    """U integrated out of the factor step, and in the chain; some animals without records."""
    data = sg.simulate.slam(families=6, n_traits=4, n_factors=2, missing=missing, seed=4)
    Y = data.Y.copy()
    Y.iloc[::7] = np.nan
    options = SETTINGS | {"draws": 6000, "store": ("U", "U_mean", "U_var")}
    found = sg.slam(data.formula, data.frame, Y=Y, relmat=data.relmat, **options)
    draws = found.posterior["U_animal"].to_numpy().std(axis=(0, 1))
    ratio = found.ranef_sd().to_numpy() / draws
    # With 3,000 draws the mean scattered by 0.5 % over seeds (the mean of six was 1.0007); here by half of that.
    assert abs(ratio.mean() - 1.0) < 0.01
    assert np.abs(ratio - 1.0).max() < 0.15
