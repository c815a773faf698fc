"""`VarianceComponents`: the law of the variances, a posterior in closed form, and MCMCglmm's on the same data."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import scipy.stats

import slamglmm as sg
from slamglmm.errors import OptionError
from slamglmm.fitters.slam.state import start_state
from slamglmm.fitters.slam.sweep import sweep
from slamglmm.linalg.threads import BlockPool, single_threaded_blas
from slamglmm.priors import Priors, VarianceComponents, share_grid
from tests.reference.dense import Dense
from tests.reference.problems import tiny_problem

SHARED = Path(__file__).parents[3] / "shared"


def test_shares_and_precision_are_those_of_the_variances():
    """Variances drawn from their inverse gammas against the grid's law: shares, then the precision given a share."""
    V, nu = {"g": 0.4, "Residual": 1.5}, {"g": 3.0, "Residual": 5.0}
    grid, rng = share_grid(1, 100), np.random.default_rng(1)
    precisions, masses = VarianceComponents(V, nu).on_grid(["g"], grid, np.array([2.0]), np.ones(1))
    variance = {name: nu[name] * V[name] / rng.chisquare(nu[name], 200_000) for name in V}
    total = variance["g"] + variance["Residual"]
    share = variance["g"] / total
    edges = grid.shares[:-1, 0] + 0.005
    empirical = np.searchsorted(np.sort(share), edges) / len(share)
    assert np.abs(np.cumsum(masses)[:-1] - empirical).max() < 0.006
    assert masses[0] == 0.0
    near = np.abs(share - 0.3) < 0.005
    law = scipy.stats.gamma(precisions.shape[0], scale=1 / precisions.rate[0, 30])
    # Traits were divided by 2: precisions are 4 times those of the data.
    assert scipy.stats.kstest(4.0 / total[near], law.cdf).pvalue > 1e-4


def test_posterior_in_closed_form():
    """One trait, no factors: frequencies of grid points and the mean of tau against the exact posterior."""
    V, nu, n = {"g": 0.3, "Residual": 0.6}, {"g": 2.0, "Residual": 3.0}, 30
    priors = Priors(residual=VarianceComponents(V, nu))
    problem = tiny_problem("~ x + (1 | g)", n=n, p=1, k=0, grid=10, priors=priors, levels=10)
    dense, x, y, scale2 = Dense(problem), problem.x, problem.y[0], problem.scale[0] ** 2
    h = problem.grid.shares[:, 0]
    log_mass, mean_tau = np.full(len(h), -np.inf), np.zeros(len(h))
    for g in np.flatnonzero((h > 0) & (h < 1)):
        inverse = dense.inverse_factor[g]
        information = x @ inverse @ x.T
        rest = y @ inverse @ y - (x @ inverse @ y) @ np.linalg.solve(information, x @ inverse @ y)
        rate = (nu["g"] * V["g"] / (2 * h[g]) + nu["Residual"] * V["Residual"] / (2 * (1 - h[g]))) / scale2
        shape = 0.5 * sum(nu.values()) + 0.5 * (n - len(x))
        log_mass[g] = -(nu["g"] / 2 + 1) * np.log(h[g]) - (nu["Residual"] / 2 + 1) * np.log(1 - h[g])
        log_mass[g] -= 0.5 * np.linalg.slogdet(dense.V_factor[g])[1] + 0.5 * np.linalg.slogdet(information)[1]
        log_mass[g] -= shape * np.log(rate + 0.5 * rest)
        mean_tau[g] = shape / (rate + 0.5 * rest)
    mass = np.exp(log_mass - log_mass.max()) * problem.grid.cell
    mass /= mass.sum()
    state, pool = start_state(problem, np.random.SeedSequence(1)), BlockPool(1)
    points, tau = np.empty(12_000, dtype=int), np.empty(12_000)
    with single_threaded_blas():
        for i in range(len(points)):
            sweep(problem, state, pool)
            points[i], tau[i] = state.g[0], state.tau[0]
    seen = np.eye(len(h))[points].reshape(60, 200, -1).mean(axis=1)
    error = seen.std(axis=0, ddof=1) / np.sqrt(60)
    likely = mass > 0.01
    z = (seen.mean(axis=0) - mass)[likely] / error[likely]
    assert np.abs(z).max() < 4.5
    by_batch = tau.reshape(60, 200).mean(axis=1)
    assert abs(by_batch.mean() - mass @ mean_tau) < 4.5 * by_batch.std(ddof=1) / np.sqrt(60)


def test_a_change_of_units_changes_only_the_units():
    """V in squared units of the data follows them; relative V needs no change."""
    data = sg.simulate.slam(families=8, per_family=5, n_traits=4, n_factors=1, seed=2)
    options = {"relmat": data.relmat, "n_factors": 1, "draws": 10, "burn": 5, "chains": 1, "seed": 3}

    def variance(factor, **prior):
        priors = Priors(residual=VarianceComponents(**prior))
        fit = sg.slam(data.formula, data.frame, Y=data.Y * factor, priors=priors, **options)
        return fit.posterior["residual_var"].to_numpy() / factor**2

    first = variance(1.0, V=0.5, nu=3)
    np.testing.assert_allclose(variance(8.0, V=32.0, nu=3), first, rtol=1e-6)
    assert np.abs(variance(8.0, V=0.5, nu=3) / first - 1).max() > 0.01
    relative = variance(1.0, V=0.5, nu=3, relative=True)
    np.testing.assert_allclose(variance(8.0, V=0.5, nu=3, relative=True), relative, rtol=1e-6)


def test_messages():
    with pytest.raises(OptionError, match=r"VarianceComponents\(V=0\): expected positive numbers"):
        VarianceComponents(V=0, nu=1)
    with pytest.raises(OptionError, match="leave no room for one of their shares"):
        Priors(h2="spike", residual=VarianceComponents(V=1, nu=1))
    with pytest.raises(OptionError, match=r"one number for each of 'g', 'Residual'; 'units' does not match"):
        tiny_problem(priors=Priors(residual=VarianceComponents(V={"g": 1.0, "units": 1.0, "Residual": 1}, nu=1)))


@pytest.mark.slow
@pytest.mark.skipif(not (SHARED / "data/mcmcglmm_BTdata.csv.gz").exists(), reason="needs ../shared/data")
def test_blue_tits_as_mcmcglmm():
    """Tarsus of blue tits, animal and fosternest: medians of the three variances within .15 posterior SD."""
    frame = pd.read_csv(SHARED / "data/mcmcglmm_BTdata.csv.gz")
    A = sg.pedigree_relmat(pd.read_csv(SHARED / "data/mcmcglmm_BTped.csv.gz"))
    chains = [json.loads((SHARED / f"reference/mcmcglmm/bt_tarsus_seed{seed}.json").read_text()) for seed in (1, 2)]
    prior = chains[0]["prior"]
    labels = {"animal": "animal", "fosternest": "fosternest", "Residual": "units"}
    V = dict(zip(labels, (prior[name]["V"] for name in ("G1", "G2", "R")), strict=True))
    nu = dict(zip(labels, (prior[name]["nu"] for name in ("G1", "G2", "R")), strict=True))
    fit = sg.slam(
        "tarsus ~ sex + hatchdate + (1 | animal) + (1 | fosternest)", frame, relmat={"animal": A}, n_factors=0,
        priors=Priors(residual=VarianceComponents(V, nu)), h2_grid=20, draws=2500, burn=300, chains=2, seed=1,
        store=("h2", "residual_var"),
    )  # fmt: skip
    total = fit.posterior["residual_var"].to_numpy()[..., 0]
    share = fit.posterior["h2"].to_numpy()[..., 0]
    ours = {term: share[..., i] * total for i, term in enumerate(fit.posterior["term"].values)}
    ours["Residual"] = total - sum(ours.values())
    for term, name in labels.items():
        rows = [next(row for row in chain["vcv"] if row["param"] == name) for chain in chains]
        theirs, sd = np.mean([row["q50"] for row in rows]), np.mean([row["sd"] for row in rows])
        assert abs(np.median(ours[term]) - theirs) < 0.15 * sd, (term, np.median(ours[term]), theirs, sd)
        print(term, np.median(ours[term]), theirs, sd)
