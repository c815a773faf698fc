"""Loadings that depend on covariates of the traits: recovery, labels, streams, messages."""

import numpy as np
import pandas as pd
import pytest

import slamglmm as sg
from slamglmm.errors import DataError, OptionError


def environments(seed=1, n=120, p=16):
    """One factor whose loadings rise with temperature; lines with records in every environment."""
    rng = np.random.default_rng(seed)
    lines = [f"l{i}" for i in range(n)]
    K = 0.5 * np.eye(n) + 0.5 * np.kron(np.eye(n // 6), np.ones((6, 6)))
    root = np.linalg.cholesky(K)
    names = [f"e{j:02d}" for j in range(p)]
    temperature = pd.DataFrame({"temperature": rng.uniform(10, 30, p)}, index=names)
    loadings = 0.6 + 0.08 * (temperature["temperature"].to_numpy() - 20) + 0.05 * rng.standard_normal(p)
    factor = np.sqrt(0.7) * root @ rng.standard_normal(n) + np.sqrt(0.3) * rng.standard_normal(n)
    Y = np.outer(factor, loadings) + 0.7 * rng.standard_normal((n, p))
    frame = pd.DataFrame({"line": lines})
    return frame, pd.DataFrame(Y, columns=names), {"line": pd.DataFrame(K, lines, lines)}, temperature


def fit(frame, Y, relmat, trait_data, **options):
    settings = {"n_factors": 2, "draws": 200, "burn": 200, "chains": 1, "seed": 1, "progress": False} | options
    return sg.slam(
        "~ 1 + (1 | line)", frame, Y=Y, relmat=relmat, loadings_on="~ temperature", trait_data=trait_data, **settings
    )


def test_a_slope_is_found_and_new_environments_follow_it():
    """Loadings of four environments left out are predicted from temperature alone."""
    frame, Y, relmat, temperature = environments()
    left_out = Y.columns[::4]
    kept = Y.drop(columns=left_out)
    result = fit(frame, kept, relmat, temperature.sample(frac=1, random_state=1))  # rows in any order
    effects = result.loading_effects()
    assert list(effects.index) == ["Intercept", "temperature"]
    assert list(effects.columns) == [1, 2]
    predicted = result.predict_loadings(temperature.loc[left_out])
    assert list(predicted.columns) == list(left_out)
    # In standard deviations of a trait: sd of trait j is about sqrt(loading^2 + 0.49).
    slope = 0.6 + 0.08 * (temperature.loc[left_out, "temperature"] - 20)
    expected = slope / np.sqrt(slope**2 + 0.49)
    assert np.corrcoef(predicted.loc[1], expected)[0, 1] ** 2 > 0.9
    np.testing.assert_allclose(np.abs(predicted.loc[1]), np.abs(expected), atol=0.2)


@pytest.fixture(scope="module")
def small():
    frame, Y, relmat, temperature = environments(n=36, p=7)
    Y.iloc[:3, 1] = np.nan
    Y.iloc[5:9, 4] = np.nan
    options = {"draws": 12, "burn": 8, "chains": 2}
    return frame, Y, relmat, temperature, options, fit(frame, Y, relmat, temperature, **options)


def test_one_run_extended_saved_and_threaded(small, tmp_path):
    frame, Y, relmat, temperature, options, result = small
    assert result.posterior["loading_effects"].dims == ("chain", "draw", "trait_covariate", "factor")
    part = fit(frame, Y, relmat, temperature, **(options | {"draws": 5, "n_threads": 2}))
    part.save(tmp_path / "part")
    again = sg.load(tmp_path / "part").extend(7)
    streamed = fit(frame, Y, relmat, temperature, out=tmp_path / "run", **options)
    for name in result.posterior:
        np.testing.assert_array_equal(result.posterior[name], again.posterior[name], err_msg=name)
        np.testing.assert_array_equal(result.posterior[name], streamed.posterior[name], err_msg=name)
    with pytest.raises(OptionError, match="differs in trait_data"):
        fit(frame, Y, relmat, temperature + np.arange(7)[:, None], out=tmp_path / "run", **options)


def test_units_of_a_covariate_do_not_matter(small):
    """Fahrenheit: the same draws of everything else, and the slope divided by 1.8."""
    frame, Y, relmat, temperature, options, result = small
    other = fit(frame, Y, relmat, 32 + 1.8 * temperature, **options)
    np.testing.assert_allclose(other.posterior["h2"], result.posterior["h2"], rtol=1e-8)
    slopes = [r.posterior["loading_effects"].sel(trait_covariate="temperature") for r in (other, result)]
    np.testing.assert_allclose(1.8 * slopes[0], slopes[1], rtol=1e-6)


def test_messages(small):
    frame, Y, relmat, temperature, options, _ = small
    with pytest.raises(DataError, match=r"trait_data lacks 2 of 7 traits \('e00', 'e03'\)"):
        fit(frame, Y, relmat, temperature.drop(["e00", "e03"]), **options)
    with pytest.raises(
        DataError, match=r"lacks 7 of 7 .* Its index names the traits; write trait_data.set_index\('env'\)"
    ):
        fit(frame, Y, relmat, temperature.reset_index(names="env"), **options)
    holes = temperature.copy()
    holes.iloc[2] = np.nan
    with pytest.raises(DataError, match=r"covariates are missing for 'e02'"):
        fit(frame, Y, relmat, holes, **options)
    with pytest.raises(DataError, match="more than one row for 'e01'"):
        fit(frame, Y, relmat, temperature.iloc[[0, 1, 1, 2, 3, 4, 5, 6]], **options)
    with pytest.raises(OptionError, match="needs trait_data="):
        fit(frame, Y, relmat, None, **options)
    with pytest.raises(OptionError, match="a loading that may be zero has no mean"):
        fit(frame, Y, relmat, temperature, priors=sg.Priors(loadings="spike_slab"), **options)
    with pytest.raises(OptionError, match="needs loadings_on="):
        sg.slam("~ 1 + (1 | line)", frame, Y=Y, relmat=relmat, trait_data=temperature)
    plain = sg.slam("~ 1 + (1 | line)", frame, Y=Y, relmat=relmat, n_factors=1, draws=2, burn=1, chains=1)
    with pytest.raises(OptionError, match="predict_loadings: fit with loadings_on= and trait_data= first"):
        plain.predict_loadings(temperature)
    with pytest.raises(OptionError, match="loading_effects: fit with loadings_on= and trait_data= first"):
        plain.loading_effects()
    with pytest.raises(OptionError, match="loadings_on= acts through factors, and n_factors=0 gives none"):
        fit(frame, Y, relmat, temperature, **{**options, "n_factors": 0})
