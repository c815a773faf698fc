"""A number of factors that adapts during burn-in: what it finds, that it stays, streams and labels."""

import numpy as np
import pytest

import slamglmm as sg
from slamglmm.errors import OptionError
from slamglmm.fitters.slam import problem as problem_module


def simulated(n_factors=3, n_traits=40, seed=2, **options):
    return sg.simulate.slam(families=15, per_family=6, n_traits=n_traits, n_factors=n_factors, seed=seed, **options)


def fit(sim, **options):
    settings = {"n_factors": "adaptive", "draws": 60, "burn": 200, "chains": 2, "seed": 1, "progress": False} | options
    return sg.slam(sim.formula, sim.frame, Y=sim.Y, relmat=sim.relmat, **settings)


def test_unused_factors_are_dropped_and_covariances_kept():
    """Fifteen to begin with, three in truth: a handful is left, G as with a fixed number."""
    sim = simulated()
    adaptive, fixed = fit(sim, burn=600), fit(sim, n_factors=15)
    used = adaptive.n_factors_used()
    assert list(used.columns) == ["mean", "lower", "upper", "n_factors"]
    assert used.index.name == "chain"
    # 5 to 8 over ten chains of other seeds.
    assert used["n_factors"].between(3, 9).all()
    assert used["mean"].between(2, 6).all()
    assert adaptive.posterior.sizes["factor"] == used["n_factors"].max() == adaptive.options["n_factors"]
    assert any("n_factors='adaptive': 15 to begin with" in note for note in adaptive.notes)
    truth = sim.truth["G"]["animal"].to_numpy()
    errors = [np.sqrt(np.mean((result.G().to_numpy() - truth) ** 2)) for result in (adaptive, fixed)]
    assert errors[0] < 1.1 * errors[1]


def test_more_factors_are_added_when_all_are_used():
    sim = simulated(n_factors=8, n_traits=16, density=0.6, resid_var=0.3)
    names = [f"t{j}" for j in range(16)]
    Y = sim.Y.set_axis(names, axis=1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(problem_module, "default_n_factors", lambda n, p: 4)
        result = sg.slam(
            sim.formula, sim.frame, Y=Y, relmat=sim.relmat, n_factors="adaptive", draws=5, burn=300, chains=1, seed=3
        )
    assert 4 < result.posterior.sizes["factor"] <= 8


@pytest.fixture(scope="module")
def small():
    sim = simulated(n_traits=12, missing=0.1)
    options = {"draws": 12, "burn": 60}
    return sim, options, fit(sim, **options)


@pytest.mark.parametrize("loadings", ["horseshoe", "infinite", "spike_slab", "tpb"])
def test_every_loadings_prior(loadings, small):
    sim, options, _ = small
    result = fit(sim, priors=sg.Priors(loadings=loadings, fixef="shared"), factor_formula=None, **options)
    assert np.isfinite(result.h2().to_numpy()).all()


def test_one_run_extended_saved_threaded_and_resumed(small, tmp_path):
    sim, options, result = small
    part = fit(sim, **(options | {"draws": 5, "n_threads": 2}))
    part.save(tmp_path / "part")
    again = sg.load(tmp_path / "part").extend(7)
    streamed = fit(sim, out=tmp_path / "run", n_jobs=2, **options)
    for name in result.posterior:
        np.testing.assert_array_equal(result.posterior[name], again.posterior[name], err_msg=name)
        np.testing.assert_array_equal(result.posterior[name], streamed.posterior[name], err_msg=name)


def test_chains_with_different_numbers_agree_in_what_is_saved(small):
    """Factors that a chain does not have carry nothing."""
    _, _, result = small
    used = result.n_factors_used()["n_factors"]
    for chain, k in enumerate(used):
        rest = result.posterior.isel(chain=chain, factor=slice(k, None))
        assert not rest["Lambda"].any()
        assert not rest["h2_factor"].any()
    G = result.covariance_draws().to_numpy()
    R = result.covariance_draws("Residual").to_numpy()
    h2 = result.posterior["h2"].to_numpy()[:, :, 0]
    diagonal = np.einsum("cdii->cdi", G)
    np.testing.assert_allclose(diagonal / (diagonal + np.einsum("cdii->cdi", R)), h2, rtol=1e-9)


def test_message(small):
    sim, options, _ = small
    with pytest.raises(OptionError, match=r"n_factors='many': expected 'adaptive' or an integer from 0 to"):
        fit(sim, **(options | {"n_factors": "many"}))


def test_one_trait_has_no_factors(small):
    """Nothing is said about what is dropped and added when there is nothing to drop."""
    sim, options, _ = small
    alone = sg.slam(sim.formula, sim.frame, Y=sim.Y.iloc[:, :1], relmat=sim.relmat, n_factors="adaptive", **options)
    assert "n_factors='adaptive': no factors, as for one trait its own variances say everything" in alone.notes
    assert alone.posterior.sizes["factor"] == 0
