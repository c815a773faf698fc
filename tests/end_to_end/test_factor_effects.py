"""Fixed effects that act through factors: recovery, prediction, streams, messages."""

import numpy as np
import pandas as pd
import pytest

import slamglmm as sg
from slamglmm.errors import DataError, OptionError


def through_factors(seed, n=100, p=200, k=8):
    """A covariate that moves 2 of 8 factors; families of five."""
    rng = np.random.default_rng(seed)
    family, ids = np.repeat(np.arange(n // 5), 5), [f"i{i}" for i in range(n)]
    K = 0.5 * (family[:, None] == family) + 0.5 * np.eye(n)
    root = np.linalg.cholesky(K)
    frame = pd.DataFrame({"id": ids, "x": rng.standard_normal(n), "z": rng.standard_normal(n)})
    effect = np.zeros(k)
    effect[:2] = 1.0, -0.8
    F = np.outer(frame["x"], effect) + np.sqrt(0.5) * (root @ rng.standard_normal((n, k)) + rng.standard_normal((n, k)))
    loadings = 0.6 * rng.standard_normal((k, p)) * (rng.random((k, p)) < 0.3)
    Y = F @ loadings + np.sqrt(0.3) * root @ rng.standard_normal((n, p)) + np.sqrt(0.7) * rng.standard_normal((n, p))
    names = [f"t{j}" for j in range(p)]
    return frame, pd.DataFrame(Y, columns=names), {"id": pd.DataFrame(K, ids, ids)}, effect @ loadings


def fit(frame, Y, relmat, formula="~ x + (1 | id)", **options):
    settings = {"n_factors": 8, "draws": 250, "burn": 250, "chains": 1, "seed": 1, "progress": False} | options
    return sg.slam(formula, frame, Y=Y, relmat=relmat, **settings)


def squared_errors(seed):
    frame, Y, relmat, truth = through_factors(seed)
    shared = {"factor_formula": "~ x", "priors": sg.Priors(fixef="shared")}
    return [
        float(np.sum((fit(frame, Y, relmat, **options).fixef(total=True).loc["x"] - truth) ** 2))
        for options in ({}, shared)
    ]


@pytest.mark.parametrize("seeds", [range(4), pytest.param(range(4, 24), marks=pytest.mark.slow)], ids=["4", "20"])
def test_shared_effects_beat_flat_ones(seeds):
    """Squared error of the total effect of the covariate over all traits: smaller in sum and nearly always."""
    flat, shared = np.transpose([squared_errors(seed) for seed in seeds])
    print(f"flat {flat.mean():.2f}, shared {shared.mean():.2f}, better in {np.mean(shared < flat):.0%}")
    assert shared.sum() < 0.9 * flat.sum()
    assert np.mean(shared < flat) >= 0.75


@pytest.fixture(scope="module")
def small():
    frame, Y, relmat, _ = through_factors(1, n=40, p=12, k=3)
    Y.iloc[3] = np.nan  # predicted only
    options = {"n_factors": 3, "draws": 12, "burn": 8, "factor_formula": "~ x + z", "chains": 2}
    return frame, Y, relmat, options, fit(frame, Y, relmat, **options)


def test_total_is_direct_plus_through_factors(small):
    frame, _, _, _, result = small
    posterior = result.posterior
    assert posterior["B_factor"].dims == ("chain", "draw", "fixef_factor", "factor")
    assert list(posterior["fixef_factor"].values) == ["x", "z"]
    through = np.einsum("cdqk,cdkp->qp", posterior["B_factor"], posterior["Lambda"]) / 24
    total = result.fixef(total=True)
    assert list(total.index) == ["Intercept", "x", "z"]
    np.testing.assert_allclose(total.loc["x"], result.fixef().loc["x"] + through[0], rtol=1e-10)
    np.testing.assert_allclose(total.loc["z"], through[1], rtol=1e-10)
    assert set(result.fixef(0.9, total=True).columns) == {"mean", "sd", "lower", "upper"}
    X = np.column_stack((np.ones(40), frame["x"], frame["z"]))
    np.testing.assert_allclose(result.predict(random="none"), X @ total.to_numpy(), rtol=1e-9)
    new = frame.iloc[[7, 2]].drop(columns="id")
    np.testing.assert_allclose(result.predict(new, random="none"), X[[7, 2]] @ total.to_numpy(), rtol=1e-9)
    interval = result.predict(new, random="none", interval=0.9)
    np.testing.assert_allclose(interval.xs("mean", axis=1, level=1), X[[7, 2]] @ total.to_numpy(), rtol=1e-9)
    # A row without data has its fixed effects, through factors too.
    expected = X[3] @ total.to_numpy() + result.ranef().iloc[3]
    assert np.corrcoef(result.fitted().iloc[3], expected)[0, 1] > 0.9


def test_one_run_extended_saved_and_threaded(small, tmp_path):
    frame, Y, relmat, options, result = small
    part = fit(frame, Y, relmat, **(options | {"draws": 5, "n_threads": 2}))
    part.save(tmp_path / "part")
    again = sg.load(tmp_path / "part").extend(7)
    streamed = fit(frame, Y, relmat, out=tmp_path / "run", **options)
    for name in result.posterior:
        np.testing.assert_array_equal(result.posterior[name], again.posterior[name], err_msg=name)
        np.testing.assert_array_equal(result.posterior[name], streamed.posterior[name], err_msg=name)
    with pytest.raises(OptionError, match="differs in formula of factor_formula"):
        fit(frame, Y, relmat, out=tmp_path / "run", **(options | {"factor_formula": "~ x"}))


def test_more_columns_than_rows():
    """Shrunk covariates may be more than the rows."""
    frame, Y, relmat, _ = through_factors(2, n=40, p=6, k=2)
    wide = np.random.default_rng(3).standard_normal((40, 60))
    frame = frame.assign(**{f"m{i}": wide[:, i] for i in range(60)})
    formula = "~ " + " + ".join(f"m{i}" for i in range(60)) + " + (1 | id)"
    result = fit(frame, Y, relmat, formula, n_factors=2, draws=20, burn=20, priors=sg.Priors(fixef="shared"))
    assert np.isfinite(result.fixef().to_numpy()).all()


def test_horseshoe_finds_the_few_effects_of_each_trait():
    """Two of 30 covariates act on each trait: smaller errors than flat effects make, and than shared variances do."""
    rng = np.random.default_rng(5)
    n, p, b = 60, 12, 30
    names = [f"m{i}" for i in range(b)]
    frame = pd.DataFrame(rng.standard_normal((n, b)), columns=names).assign(id=[f"i{i}" for i in range(n)])
    truth = np.zeros((b, p))
    for j in range(p):
        truth[rng.choice(b, 2, replace=False), j] = rng.choice([-1.0, 1.0], 2)
    Y = frame[names].to_numpy() @ truth + rng.standard_normal((n, p))
    families = 0.5 * np.eye(n) + 0.5 * np.kron(np.eye(n // 5), np.ones((5, 5)))
    relmat = {"id": pd.DataFrame(families, frame["id"], frame["id"])}
    error = {}
    for fixef in ("flat", "shared", "horseshoe"):
        priors = sg.Priors(fixef=fixef)
        found = fit(frame, Y, relmat, f"~ {' + '.join(names)} + (1 | id)", n_factors=2, priors=priors).fixef()
        error[fixef] = float(np.sum((found.loc[names].to_numpy() - truth) ** 2))
    assert error["horseshoe"] < 0.5 * min(error["flat"], error["shared"]), error


def test_messages(small):
    frame, Y, relmat, _, _ = small
    with pytest.raises(OptionError, match="expected fixed effects only"):
        fit(frame, Y, relmat, factor_formula="~ x + (1 | id)", n_factors=3)
    holes = frame.assign(w=np.where(np.arange(40) == 5, np.nan, 1.0 * np.arange(40)))
    with pytest.raises(DataError, match=r"covariates are missing in 1 row\(s\) with data"):
        fit(holes, Y, relmat, factor_formula="~ w", n_factors=3)
    assert any("left out; factors have no intercept" in note for note in fit(
        frame.assign(one=1.0), Y, relmat, factor_formula="~ x + one", n_factors=3, draws=2, burn=2
    ).notes)  # fmt: skip
    with pytest.raises(OptionError, match=r"SharedEffects\(V=0\): expected a finite positive number"):
        sg.SharedEffects(V=0)


def test_one_trait_has_a_factor_when_effects_need_it(small):
    """An effect left out because a single trait has no factor by default."""
    frame, Y, relmat = small[:3]
    one = fit(frame, Y.iloc[:, [0]], relmat, "~ 1 + (1 | id)", factor_formula="~ x", n_factors=None, draws=5, burn=5)
    assert one.posterior.sizes["factor"] == 1
    assert one.fixef(total=True).loc["x"].abs().item() > 0
    plain = fit(frame, Y.iloc[:, [0]], relmat, n_factors=None, draws=5, burn=5)
    assert plain.posterior.sizes["factor"] == 0
    with pytest.raises(OptionError, match="factor_formula= acts through factors, and n_factors=0 gives none here"):
        fit(frame, Y, relmat, factor_formula="~ x", n_factors=0)
