"""Markers in place of a relationship matrix: effects of markers, on factors or traits or both."""

import numpy as np
import pandas as pd
import pytest

import slamglmm as sg
from slamglmm.errors import OptionError


def through_markers(seed=1, n=80, m=300, p=12, k=2):
    """Markers that act on two factors, one large effect on the first; lines without records at the end."""
    rng = np.random.default_rng(seed)
    W = pd.DataFrame(
        2 * rng.integers(0, 2, (n, m)), index=[f"l{i}" for i in range(n)], columns=[f"m{i}" for i in range(m)]
    )
    W["m7"] = 2  # does not vary
    standard = ((W - W.mean()) / W.std(ddof=0)).fillna(0.0).to_numpy()
    effects = rng.standard_normal((m, k)) * np.sqrt(0.5 / m)
    effects[3, 0] = 0.9
    F = standard @ effects + 0.4 * rng.standard_normal((n, k))
    loadings = rng.standard_normal((k, p))
    Y = F @ loadings + 0.5 * rng.standard_normal((n, p))
    frame = pd.DataFrame({"line": W.index})
    return frame.iloc[:-10], pd.DataFrame(Y[:-10], columns=[f"t{j}" for j in range(p)]), W, effects @ loadings


def fit(frame, Y, **options):
    settings = {"n_factors": 3, "draws": 100, "burn": 100, "chains": 1, "seed": 1, "progress": False} | options
    return sg.slam("~ 1 + (1 | line)", frame, Y=Y, **settings)


@pytest.mark.filterwarnings("ignore::slamglmm.errors.SlamWarning")
def test_effects_add_up_to_those_of_lines_and_the_large_one_is_found():
    frame, Y, W, truth = through_markers()
    result = fit(frame, Y, markers={"line": W}, markers_on="factors")
    effects = result.marker_effects()
    assert effects.shape == (300, 12)
    assert (effects.loc["m7"] == 0).all()
    # Lines without records too: what is predicted is the sum of their alleles.
    centred = (W - W.mean()).to_numpy()
    np.testing.assert_allclose(centred @ effects.to_numpy(), result.ranef().to_numpy(), atol=1e-8)
    scaled = effects.mul(W.std(ddof=0), axis=0)
    strength = (scaled**2).sum(axis=1)
    assert strength.idxmax() == "m3"
    assert np.corrcoef(scaled.loc["m3"], truth[3])[0, 1] > 0.95
    assert not result.posterior["h2_residual"].any()
    assert result.options["markers_on"] == "factors"


@pytest.mark.filterwarnings("ignore::slamglmm.errors.SlamWarning")
def test_markers_are_the_kinship_of_a_random_effect():
    """The same draws, to the bit, as with the kinship itself."""
    frame, Y, W, _ = through_markers()
    by_markers = fit(frame, Y, draws=20, burn=10, markers={"line": W})
    by_kinship = fit(frame, Y, draws=20, burn=10, relmat={"line": sg.kinship(W, "standardized")})
    for name in by_kinship.posterior:
        np.testing.assert_array_equal(by_markers.posterior[name], by_kinship.posterior[name])


@pytest.mark.filterwarnings("ignore::slamglmm.errors.SlamWarning")
def test_effects_are_those_of_ridge_regression():
    """One trait, a known share, no intercept: the posterior mean in closed form."""
    frame, Y, W, _ = through_markers(m=200)
    y = Y[["t0"]]
    result = sg.slam("~ 0 + (1 | line)", frame, Y=y, markers={"line": W}, n_factors=0, draws=4, burn=2, chains=1,
                     priors=sg.Priors(h2=lambda h: np.isclose(h[:, 0], 0.5)))  # fmt: skip
    varying = W.drop(columns="m7")
    X = ((varying - varying.mean()) / varying.std(ddof=0)).to_numpy()[:-10]
    ridge = np.linalg.solve(X.T @ X + X.shape[1] * np.eye(X.shape[1]), X.T @ y["t0"].to_numpy())
    found = result.marker_effects().drop("m7")["t0"] * varying.std(ddof=0)
    np.testing.assert_allclose(found, ridge, atol=1e-8)


@pytest.mark.filterwarnings("ignore::slamglmm.errors.SlamWarning")
def test_beside_a_polygenic_effect_and_on_traits_only():
    """Markers on factors, the pedigree on both."""
    frame, Y, W, _ = through_markers()
    K = pd.DataFrame(0.5 * np.eye(80) + 0.5 * np.kron(np.eye(16), np.ones((5, 5))), W.index, W.index)
    formula = "~ 1 + (1 | line) + (1 | gr(line, cov='chip'))"
    result = sg.slam(formula, frame, Y=Y, relmat={"line": K}, markers={"chip": W}, markers_on="traits", n_factors=2,
                     draws=10, burn=10, chains=1, h2_grid=5, seed=1)  # fmt: skip
    chip = "gr(line, chip)"
    assert chip in result.posterior["term"].values
    assert not result.posterior["h2_factor"].sel(term=chip).any()
    assert result.posterior["h2_residual"].sel(term=chip).any()
    assert result.marker_effects(chip).shape == (300, 12)
    with pytest.raises(OptionError, match="has no markers"):
        result.marker_effects(next(t for t in result.posterior["term"].values if t != chip))


@pytest.mark.filterwarnings("ignore::slamglmm.errors.SlamWarning")
def test_messages():
    frame, Y, W, _ = through_markers()
    K = sg.kinship(W, "standardized")
    with pytest.raises(OptionError, match="markers and relmat both have 'line'"):
        fit(frame, Y, markers={"line": W}, relmat={"line": K})
    with pytest.raises(OptionError, match=r"markers\['line'\]: expected a DataFrame"):
        fit(frame, Y, markers={"line": W.to_numpy()})
    with pytest.raises(OptionError, match="markers_on='lines'"):
        fit(frame, Y, markers={"line": W}, markers_on="lines")
    with pytest.raises(OptionError, match="which the prior of the shares gives no mass"):
        fit(frame, Y, markers={"line": W}, markers_on="factors",
            priors=sg.Priors(residual=sg.VarianceComponents(V=0.5, nu=2)))  # fmt: skip
