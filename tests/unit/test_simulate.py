import re

import numpy as np
import pandas as pd
import pytest

from slamglmm import simulate
from slamglmm.errors import OptionError
from slamglmm.relmat import as_relmat


def test_default_design():
    sim = simulate.slam(seed=1)
    assert sim.formula == "~ x + (1 | animal)"
    assert list(sim.frame.columns) == ["animal", "sire", "x"]
    assert sim.Y.shape == (500, 20)
    assert not sim.Y.isna().any(axis=None)
    k = sim.relmat["animal"]
    same_sire = sim.frame["sire"].to_numpy()[:, None] == sim.frame["sire"].to_numpy()
    assert np.array_equal(k, np.where(same_sire, 0.25, 0) + 0.75 * np.eye(500))
    assert list(k.index) == list(sim.frame["animal"])
    as_relmat(k, "animal")
    assert repr(sim) == "Simulated('~ x + (1 | animal)': 500 rows, 20 traits, 0 cells missing)"
    assert ((sim.truth["Lambda"] != 0).sum(axis=1) == 6).all()
    assert np.allclose(sim.truth["h2_factor"], [[0.8, 0.5, 0.2]])


@pytest.mark.parametrize("second", [None, "block"])
def test_truth_is_consistent(second):
    rng = np.random.default_rng(2)
    resid_h2, resid_var = rng.uniform(0, 0.8, 7), rng.uniform(0.2, 2, 7)
    sim = simulate.slam(
        families=6,
        per_family=3,
        n_traits=7,
        n_factors=2,
        factor_h2=[0.7, 0.1],
        resid_h2=resid_h2,
        resid_var=resid_var,
        second=second,
        second_h2=0.2,
        seed=3,
    )
    truth = sim.truth
    lam = truth["Lambda"].to_numpy()
    expected = {"animal": lam.T @ np.diag([0.7, 0.1]) @ lam + np.diag(resid_h2 * resid_var)}
    rest, rest_traits = np.array([0.3, 0.9]), 1 - resid_h2
    if second:
        expected["block"] = 0.2 * (lam.T @ lam + np.diag(resid_var))
        rest, rest_traits = rest - 0.2, rest_traits - 0.2
        assert sim.formula == "~ x + (1 | animal) + (1 | block)"
    assert list(truth["G"]) == list(expected) == list(truth["h2"].index) == list(truth["h2_factor"].index)
    r = lam.T @ np.diag(rest) @ lam + np.diag(rest_traits * resid_var)
    assert np.allclose(truth["R"], r)
    total = np.diag(lam.T @ lam) + resid_var
    for term, g in expected.items():
        assert np.allclose(truth["G"][term], g)
        assert np.allclose(truth["h2"].loc[term], np.diag(g) / total)
    for frame in (truth["R"], truth["G"]["animal"]):
        assert list(frame.index) == list(frame.columns) == list(sim.Y.columns)


def fixed_part(sim):
    x = np.column_stack([np.ones(len(sim.frame)), sim.frame["x"]])
    assert list(sim.truth["B"].index) == ["Intercept", "x"]
    return x @ sim.truth["B"].to_numpy()


def test_y_is_fixed_plus_random_effects_when_they_take_all_the_variance():
    sim = simulate.slam(
        families=4, per_family=2, records=3, n_traits=5, factor_h2=0.6, resid_h2=0.6, second="b", second_h2=0.4, seed=4
    )
    random = sum(u.loc[sim.frame[term]].to_numpy() for term, u in sim.truth["U"].items())
    assert np.allclose(sim.Y, fixed_part(sim) + random)
    assert np.allclose(sim.truth["R"], 0)


def test_y_is_fixed_plus_factors_when_they_leave_nothing():
    sim = simulate.slam(families=4, per_family=2, n_traits=5, resid_var=1e-30, seed=4)
    assert sim.truth["F"].shape == (8, 3)
    assert np.allclose(sim.Y, fixed_part(sim) + sim.truth["F"].to_numpy() @ sim.truth["Lambda"].to_numpy())


def test_covariance_over_many_replicates():
    """Var(vec Y) = G_animal (x) K + G_block (x) Z Z' + R (x) I, entry by entry at 4 Monte Carlo errors."""
    options = {
        "families": 2,
        "per_family": 2,
        "n_traits": 2,
        "n_factors": 1,
        "density": 1.0,
        "factor_h2": 0.6,
        "resid_h2": [0.7, 0.2],
        "resid_var": [0.5, 1.5],
        "second": "block",
        "n_second": 2,
        "second_h2": 0.25,
        "covariate": False,
    }
    draws = []
    for seed in range(1500):
        sim = simulate.slam(**options, seed=seed)
        truth = sim.truth
        block = sim.frame["block"].to_numpy()
        v = (
            np.kron(truth["G"]["animal"], sim.relmat["animal"])
            + np.kron(truth["G"]["block"], block[:, None] == block)
            + np.kron(truth["R"], np.eye(4))
        )
        # Loadings and blocks differ between replicates, so whiten by each one's own truth.
        y = (sim.Y - truth["B"].to_numpy()).to_numpy().T.ravel()
        draws.append(np.linalg.solve(np.linalg.cholesky(v), y))
    z = np.array(draws)
    n_draws = len(z)
    products = np.einsum("ri,rj->rij", z, z)
    error = products.std(axis=0) / np.sqrt(n_draws)
    # 36 distinct entries: 4 standard errors are exceeded by chance once in about 440 runs, and the seeds are fixed.
    assert (np.abs(products.mean(axis=0) - np.eye(8)) < 4 * error).all()
    assert (np.abs(z.mean(axis=0)) < 4 / np.sqrt(n_draws)).all()


def test_random_effects_have_their_covariance():
    sim = simulate.slam(families=2000, per_family=1, n_traits=4, n_factors=2, density=1.0, seed=6)
    u, g = sim.truth["U"]["animal"].to_numpy(), sim.truth["G"]["animal"].to_numpy()
    error = np.sqrt((g**2 + np.outer(np.diag(g), np.diag(g))) / 2000)
    assert (np.abs(u.T @ u / 2000 - g) < 4 * error).all()


def test_lines_with_records():
    sim = simulate.slam(lines=30, records=4, n_traits=3, seed=5)
    assert sim.formula == "~ x + (1 | line)"
    assert len(sim.frame) == 120
    assert (sim.frame["line"].value_counts() == 4).all()
    k = sim.relmat["line"]
    assert np.trace(k) / 30 == pytest.approx(1)
    assert np.linalg.matrix_rank(k) == 29


def test_given_relmat_singular_and_in_its_own_order():
    k = pd.DataFrame(np.ones((3, 3)), index=list("cab"), columns=list("abc"))
    sim = simulate.slam(relmat={"plant": k}, n_traits=2, resid_h2=0.5, seed=1)
    assert list(sim.frame["plant"]) == list("cab")
    assert list(sim.relmat) == ["plant"]
    u = sim.truth["U"]["plant"]
    assert np.allclose(u, u.iloc[0])


def test_missing_cells():
    sim = simulate.slam(families=5, per_family=4, n_traits=10, missing=0.15, seed=1)
    assert sim.Y.isna().sum().sum() == 30
    full = simulate.slam(families=5, per_family=4, n_traits=10, seed=1)
    seen = sim.Y.notna().to_numpy()
    assert np.array_equal(sim.Y.to_numpy()[seen], full.Y.to_numpy()[seen])


def test_covariances_can_be_left_out():
    sim = simulate.slam(families=3, per_family=2, covariances=False, seed=1)
    assert not {"G", "R"} & set(sim.truth)
    pd.testing.assert_frame_equal(sim.truth["h2"], simulate.slam(families=3, per_family=2, seed=1).truth["h2"])


def test_seeds():
    def run(seed):
        return simulate.slam(families=3, per_family=2, second="block", seed=seed).Y.to_numpy()

    assert np.array_equal(run(1), run(1))
    assert np.array_equal(run(1), run(np.random.default_rng(1)))
    assert not np.array_equal(run(1), run(2))
    assert not np.array_equal(run(None), run(None))


def test_no_factors_and_one_trait():
    sim = simulate.slam(families=3, per_family=2, n_traits=1, n_factors=0, covariate=False, seed=1)
    assert sim.formula == "~ 1 + (1 | animal)"
    assert sim.truth["Lambda"].shape == (0, 1)
    assert sim.truth["h2"].to_numpy() == pytest.approx(0.3)


def test_shares_at_the_edges():
    sim = simulate.slam(families=3, per_family=2, factor_h2=1.0, resid_h2=[0.0, 1.0], n_traits=2, density=1, seed=1)
    assert np.allclose(sim.truth["R"], np.diag([0.5, 0.0]))
    simulate.slam(families=3, per_family=2, factor_h2=0.9, resid_h2=0.9, second="b", second_h2=0.1, seed=1)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"lines": 3, "relmat": {"a": np.eye(2)}}, ": give lines or relmat, not both."),
        ({"relmat": {}}, ": relmat must hold one grouping factor, got 0."),
        ({"families": 0}, "(families=0): expected an integer of at least 1."),
        ({"n_factors": -1}, "(n_factors=-1): expected an integer of at least 0."),
        ({"missing": 1.0}, "(missing=1.0): expected a finite number of at least 0 and below 1."),
        ({"density": 0}, "(density=0): expected a finite number above 0 and of at most 1."),
        ({"factor_h2": [0.1, 0.2]}, "(factor_h2=[0.1, 0.2]): expected a finite number, or 3 of them."),
        ({"second_h2": [0.1] * 20}, "(second_h2=[0.1, 0.1, 0.1, 0.1, 0.1"),
        ({"resid_var": 0.0}, "(resid_var=0.0): expected a finite positive number, or 20 of them."),
        ({"second": "sire"}, ": two columns would be called 'sire'; rename the second grouping factor or the group"),
        ({"second": "x"}, ": two columns would be called 'x'; rename"),
        ({"relmat": {"x": (np.eye(2), ["a", "b"])}}, ": two columns would be called 'x'; rename"),
        ({"resid_h2": 1.2}, ": variance shares must be at least 0 and sum to at most 1; resid_h2 with second_h2 gives"),
        (
            {"factor_h2": 0.95, "second": "b"},
            ": variance shares must be at least 0 and sum to at most 1; factor_h2 with",
        ),
    ],
)
def test_refusals(options, text):
    with pytest.raises(OptionError, match="^" + re.escape(f"simulate.slam{text}")):
        simulate.slam(**options, seed=1)


@pytest.mark.parametrize("link", ["poisson", "negative_binomial", "binomial"])
def test_counts_around_the_latent_traits(link):
    """Moments of 12,000 standardised counts given H: mean 0 and variance 1, |z| < 5 with the fourth moments drawn."""
    sizes = np.linspace(0.5, 2.0, 600)
    options = {"link": link, "dispersion": 0.4, "trials": 7, "intercept": 1.0, "seed": 1}
    options |= {} if link == "binomial" else {"size_factors": sizes}
    d = simulate.slam(families=60, per_family=10, n_traits=20, resid_var=0.1, density=0.2, missing=0.05, **options)
    H, y = d.truth["H"].to_numpy(), d.Y.to_numpy()
    assert not np.isnan(H).any()
    if link == "binomial":
        share = 1 / (1 + np.exp(-H))
        mean, variance = 7 * share, 7 * share * (1 - share)
    else:
        mean = sizes[:, None] * np.exp(H)
        variance = mean + (0.4 * mean**2 if link == "negative_binomial" else 0.0)
    z = ((y - mean) / np.sqrt(variance))[~np.isnan(y)]
    for values, expected in ((z, 0.0), (z**2, 1.0)):
        assert abs(values.mean() - expected) < 5 * values.std() / np.sqrt(len(values))
    assert abs(d.truth["B"].loc["Intercept"].mean() - 1.0) < 1.0
    with pytest.raises(OptionError, match=r"link='probit'\): expected 'identity', 'poisson'"):
        simulate.slam(link="probit")
