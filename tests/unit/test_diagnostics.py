"""ESS and R-hat of series whose answers are known."""

import numpy as np
import pandas as pd
import pytest

from slamglmm.diagnostics import diagnose


def autoregressive(rng, chains, draws, rho):
    x = np.empty((chains, draws))
    x[:, 0] = rng.standard_normal(chains)
    for t in range(1, draws):
        x[:, t] = rho * x[:, t - 1] + np.sqrt(1 - rho**2) * rng.standard_normal(chains)
    return x


def test_effective_sample_size_of_an_autoregression():
    """N (1 - rho) / (1 + rho) draws count; R-hat is near one; the Monte Carlo error follows."""
    x = autoregressive(np.random.default_rng(1), 4, 5000, 0.6)
    table = diagnose(x[..., None], pd.Index(["x"])).loc["x"]
    assert table["ess_bulk"] == pytest.approx(20_000 * 0.4 / 1.6, rel=0.15)
    assert table["r_hat"] == pytest.approx(1.0, abs=0.01)
    assert table["mcse"] == pytest.approx(table["sd"] / np.sqrt(table["ess_bulk"]), rel=0.1)


def test_chains_that_disagree_are_seen():
    x = np.random.default_rng(2).standard_normal((2, 500)) + np.array([[0.0], [1.5]])
    assert diagnose(x[..., None], pd.Index(["x"]))["r_hat"].iloc[0] > 1.2


def test_one_chain_is_compared_with_itself():
    """A drift shows in a single chain too."""
    rng = np.random.default_rng(3)
    steady, drifting = rng.standard_normal((2, 1, 400))
    drifting = drifting + np.linspace(0, 3, 400)
    table = diagnose(np.stack([steady, drifting], axis=-1), pd.Index(["steady", "drifting"]))
    assert table.loc["steady", "r_hat"] < 1.02
    assert table.loc["drifting", "r_hat"] > 1.2


def test_constant_and_short_series_have_no_diagnostics():
    constant = diagnose(np.full((2, 50, 1), 3.0), pd.Index(["c"])).loc["c"]
    assert (constant["mean"], constant["sd"]) == (3.0, 0.0)
    assert constant[["mcse", "ess_bulk", "ess_tail", "r_hat"]].isna().all()
    short = diagnose(np.random.default_rng(4).standard_normal((2, 3, 1)), pd.Index(["s"])).loc["s"]
    assert short[["mcse", "ess_bulk", "ess_tail", "r_hat"]].isna().all()
