"""Data from the model that `slamglmm.sparse_lmm` fits."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from ..options import Options
from .markers import SimulatedMarkers, draw_markers, refuse


def sparse_lmm(
    *,
    n: int = 500,
    n_markers: int = 2000,
    causal: int = 10,
    h2: float = 0.5,
    covariates: int = 2,
    n_traits: int = 1,
    family: str = "gaussian",
    ld: float = 0.0,
    ld_block: int = 20,
    missing: float = 0.0,
    bed: str | Path | None = None,
    seed: int | np.random.Generator | None = None,
) -> SimulatedMarkers:
    """Responses to a few causal markers among many, and to covariates.

    ``y = Zw + G beta + e``: the effects of the causal markers (drawn anew for each trait) are standard normal, those of
    covariates too, and the residual variance is such that markers explain `h2` of what covariates leave.

    Parameters
    ----------
    n, n_markers : int
    causal : int
        Markers with an effect on each trait.
    h2 : float
        Share of the variance after covariates; for the binomial family of the linear predictor, the logistic
        distribution's variance being the rest.
    covariates : int
        Standard normal columns x1, x2, ... of the frame.
    n_traits : int
        Responses y1, y2, ... (y for one).
    family : {"gaussian", "binomial"}
    ld : float
        Correlation of the Gaussian chains of neighbouring markers in a block.
    ld_block : int
        Markers to a block; blocks are independent.
    missing : float
        Share of genotypes not observed.
    bed : path, optional
        Write the markers to this PLINK file instead of keeping them in memory.
    seed : int, numpy.random.Generator or None

    Returns
    -------
    SimulatedMarkers
        `frame` holds covariates and responses; `formula` has the first response on its left. `truth`: beta (DataFrame,
        causal markers x trait, zero where not causal), covariates (DataFrame, fixef x trait), residual_var (Series),
        signal (DataFrame, n x trait).

    Raises
    ------
    OptionError
        For a size or share that cannot be.
    """
    refuse("sparse_lmm", locals())
    check = Options(locals(), "simulate.sparse_lmm")
    check.choice("family", ("gaussian", "binomial"))
    check.path("bed")
    rng = np.random.default_rng(seed)
    ids = pd.Index([f"i{k + 1}" for k in range(n)])
    traits = ["y"] if n_traits == 1 else [f"y{j + 1}" for j in range(n_traits)]
    sets = [np.sort(rng.choice(n_markers, causal, replace=False)) for _ in traits]
    union = np.unique(np.concatenate(sets)).astype(np.intp)
    markers, dosages = draw_markers(
        n, n_markers, union, rng, ids=ids, ld=ld, ld_block=ld_block, missing=missing, bed=bed
    )
    beta = np.zeros((len(union), n_traits))
    for j, members in enumerate(sets):
        beta[np.searchsorted(union, members), j] = rng.standard_normal(causal)
    signal = (dosages - dosages.mean(axis=0)) @ beta
    size = signal.var(axis=0)
    if family == "binomial":
        residual = np.full(n_traits, np.pi**2 / 3.0)
        grown = np.sqrt(np.divide(h2 / (1.0 - h2) * residual, size, out=np.zeros(n_traits), where=size > 0))
        beta, signal = beta * grown, signal * grown
    else:
        residual = np.where((size > 0) & (h2 > 0), size * (1.0 - h2) / max(h2, 1e-12), 1.0)
        if h2 == 0:
            beta, signal = 0.0 * beta, 0.0 * signal
    X = rng.standard_normal((n, covariates))
    effects = rng.standard_normal((covariates + 1, n_traits))
    linear = effects[0] + X @ effects[1:] + signal
    if family == "binomial":
        Y = (rng.random((n, n_traits)) < 1.0 / (1.0 + np.exp(-linear))).astype(float)
    else:
        Y = linear + rng.standard_normal((n, n_traits)) * np.sqrt(residual)
    names = [f"x{k + 1}" for k in range(covariates)]
    responses = pd.DataFrame(Y, index=ids, columns=traits)
    return SimulatedMarkers(
        frame=pd.DataFrame(X, index=ids, columns=names).join(responses),
        Y=responses,
        relmat={},
        formula=f"{traits[0]} ~ " + " + ".join(["1", *names]),
        truth={
            "beta": pd.DataFrame(beta, index=[f"m{k + 1}" for k in union], columns=traits),
            "covariates": pd.DataFrame(effects, index=["Intercept", *names], columns=traits),
            "residual_var": pd.Series(residual, index=traits),
            "signal": pd.DataFrame(signal, index=ids, columns=traits),
        },
        markers=markers,
    )
