"""Convergence diagnostics: a thin wrapper over arviz-stats."""

from __future__ import annotations

import numpy as np
import pandas as pd


def diagnose(draws: np.ndarray, index: pd.Index) -> pd.DataFrame:
    """ESS, R-hat and Monte Carlo error of scalar quantities.

    Parameters
    ----------
    draws : ndarray, shape (chains, draws, quantities)
    index : pandas.Index
        Names of the quantities.

    Returns
    -------
    DataFrame
        Columns ``mean``, ``sd``, ``mcse``, ``ess_bulk``, ``ess_tail``, ``r_hat``. With one chain R-hat compares its
        halves. Fewer than four draws, or a constant quantity, have NaN in all but the mean and sd.

    References
    ----------
    Vehtari, A. et al. (2021). Rank-normalization, folding, and localization: an improved R-hat.
    Bayesian Analysis 16, 667-718.
    """
    from arviz_stats.base import array_stats

    n_draws = draws.shape[1]
    columns = {"mean": draws.mean(axis=(0, 1)), "sd": draws.std(axis=(0, 1), ddof=min(1, draws[..., :1].size - 1))}
    varies = np.ptp(draws, axis=(0, 1)) > 0 if n_draws >= 4 else np.zeros(draws.shape[2], dtype=bool)
    axes = {"chain_axis": 0, "draw_axis": 1}
    for name, statistic in (
        ("mcse", lambda x: array_stats.mcse(x, method="mean", **axes)),
        ("ess_bulk", lambda x: array_stats.ess(x, method="bulk", **axes)),
        ("ess_tail", lambda x: array_stats.ess(x, method="tail", prob=(0.05, 0.95), **axes)),
        ("r_hat", lambda x: array_stats.rhat(x if len(x) > 1 else _halves(x), **axes)),
    ):
        columns[name] = np.full(draws.shape[2], np.nan)
        if varies.any():
            with np.errstate(invalid="ignore", divide="ignore"):
                columns[name][varies] = statistic(draws[..., varies])
    return pd.DataFrame(columns, index=index)


def _halves(draws: np.ndarray) -> np.ndarray:
    """One chain as two."""
    half = draws.shape[1] // 2
    return np.concatenate((draws[:, :half], draws[:, -half:]))
