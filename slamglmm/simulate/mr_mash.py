"""Data from the model that `slamglmm.mr_mash` fits."""

from __future__ import annotations

from typing import Literal

import numpy as np
import pandas as pd

from ..errors import OptionError
from ..options import Options
from .markers import SimulatedMarkers, draw_markers, refuse


def mr_mash(
    *,
    n: int = 500,
    n_markers: int = 500,
    n_traits: int = 5,
    causal: int = 10,
    pattern: Literal["shared", "independent", "single", "mixed"] = "mixed",
    h2: float = 0.3,
    residual_correlation: float = 0.3,
    covariates: int = 1,
    ld: float = 0.0,
    ld_block: int = 20,
    missing: float = 0.0,
    missing_responses: float = 0.0,
    seed: int | np.random.Generator | None = None,
) -> SimulatedMarkers:
    """Many responses to a few causal markers whose effects are alike, unrelated, or on one response only.

    Parameters
    ----------
    n, n_markers, n_traits : int
    causal : int
        Markers with an effect.
    pattern : {"shared", "independent", "single", "mixed"}
        Effects of a marker across responses: equal, independent, on one response, or one of these at random.
    h2 : float
        Mean over responses of the variance share of the markers, after covariates.
    residual_correlation : float
        Of all pairs of responses, -1 / (n_traits - 1) < r < 1.
    covariates : int
        Standard normal columns x1, x2, ... of the frame.
    ld, ld_block, missing
        As in `simulate.sparse_lmm`.
    missing_responses : float
        Share of the cells of Y made NaN.
    seed : int, numpy.random.Generator or None

    Returns
    -------
    SimulatedMarkers
        `truth`: beta (DataFrame, marker x trait), covariates (DataFrame, fixef x trait), R (DataFrame, trait x trait),
        pattern (Series, causal marker to its kind), signal (DataFrame, n x trait), Y (complete responses).

    Raises
    ------
    OptionError
        For a size, share or pattern that cannot be.
    """
    refuse("mr_mash", locals())
    kinds = ["shared", "independent", "single"]
    check = Options(locals(), "simulate.mr_mash")
    check.choice("pattern", (*kinds, "mixed"))
    check.number("residual_correlation", above=-1, below=1)
    check.number("missing_responses", least=0, below=1)
    R = (1.0 - residual_correlation) * np.eye(n_traits) + residual_correlation
    if n_traits > 1 and not np.linalg.eigvalsh(R)[0] > 0:
        raise OptionError(
            f"simulate.mr_mash: residual_correlation {residual_correlation} is impossible for {n_traits} responses."
        )
    rng = np.random.default_rng(seed)
    ids = pd.Index([f"i{k + 1}" for k in range(n)])
    traits = pd.Index([f"y{j + 1}" for j in range(n_traits)])
    chosen = np.sort(rng.choice(n_markers, causal, replace=False)).astype(np.intp)
    markers, dosages = draw_markers(
        n, n_markers, chosen, rng, ids=ids, ld=ld, ld_block=ld_block, missing=missing, bed=None
    )
    kind = rng.choice(kinds, causal) if pattern == "mixed" else np.full(causal, pattern)
    effects = np.zeros((causal, n_traits))
    for k in range(causal):
        if kind[k] == "shared":
            effects[k] = rng.standard_normal()
        elif kind[k] == "independent":
            effects[k] = rng.standard_normal(n_traits)
        else:
            effects[k, rng.integers(n_traits)] = rng.standard_normal() * np.sqrt(n_traits)
    signal = (dosages - dosages.mean(axis=0)) @ effects
    size = float(signal.var(axis=0).mean())
    scale = np.sqrt(h2 / (1.0 - h2) / size) if size > 0 else 0.0
    effects, signal = effects * scale, signal * scale
    X = rng.standard_normal((n, covariates))
    fixed = rng.standard_normal((covariates + 1, n_traits))
    noise = rng.standard_normal((n, n_traits)) @ np.linalg.cholesky(R).T
    complete = fixed[0] + X @ fixed[1:] + signal + noise
    observed = np.where(rng.random(complete.shape) < missing_responses, np.nan, complete)
    beta = np.zeros((n_markers, n_traits))
    beta[chosen] = effects
    names = [f"x{k + 1}" for k in range(covariates)]
    all_markers = pd.Index([f"m{k + 1}" for k in range(n_markers)])
    return SimulatedMarkers(
        frame=pd.DataFrame(X, index=ids, columns=names) if covariates else pd.DataFrame({"id": ids}, index=ids),
        Y=pd.DataFrame(observed, index=ids, columns=traits),
        relmat={},
        formula="~ " + " + ".join(["1", *names]),
        truth={
            "beta": pd.DataFrame(beta, index=all_markers, columns=traits),
            "covariates": pd.DataFrame(fixed, index=["Intercept", *names], columns=traits),
            "R": pd.DataFrame(R, index=traits, columns=traits),
            "pattern": pd.Series(kind, index=all_markers[chosen]),
            "signal": pd.DataFrame(signal, index=ids, columns=traits),
            "Y": pd.DataFrame(complete, index=ids, columns=traits),
        },
        markers=markers,
    )
