"""Microbial counts of twins, and the distances between their communities."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from ..options import Options
from .ace import ace


@dataclass(frozen=True, eq=False)
class SimulatedCommunities:
    """Counts of taxa, distances, and the truth.

    Attributes
    ----------
    frame : pandas.DataFrame, n rows
        id (also the index), household, age, sex.
    counts : pandas.DataFrame, n x taxa
    distances : dict of str to pandas.DataFrame, n x n
        "bray_curtis" and "aitchison", labelled by id.
    relmat : dict
        Group -> relationship matrix.
    formula : str
        One-sided.
    truth : dict
        variances (Series) on the scale of latent log ratios.
    """

    frame: pd.DataFrame
    counts: pd.DataFrame
    distances: dict[str, pd.DataFrame]
    relmat: dict[str, Any]
    formula: str
    truth: dict[str, Any]

    def __repr__(self) -> str:
        n, taxa = self.counts.shape
        return f"SimulatedCommunities({n} samples x {taxa} taxa)"


def microbiome(
    *,
    pairs: int = 100,
    n_taxa: int = 60,
    depth: int = 5000,
    additive: float = 0.4,
    common: float = 0.2,
    residual: float = 0.4,
    seed: int | np.random.Generator | None = None,
) -> SimulatedCommunities:
    """Twins whose log abundances have genetic, household and residual variance, sampled as multinomial counts.

    Parameters
    ----------
    pairs : int
        Pairs of twins, as in `slamglmm.simulate.ace`.
    n_taxa : int
    depth : int
        Reads of each sample.
    additive, common, residual : float
        Variances of the log abundance of every taxon.
    seed : int, numpy.random.Generator or None
        The same seed gives the same data.

    Returns
    -------
    SimulatedCommunities

    Raises
    ------
    OptionError
        For a size or variance that cannot be.
    """
    check = Options(locals(), "simulate.microbiome")
    check.whole("pairs", least=2)
    check.whole("n_taxa", "depth", least=1)
    check.number("additive", "common", "residual", least=0)
    check.seed(generator=True)
    rng = np.random.default_rng(seed)
    twins = ace(pairs=pairs, additive=additive, common=common, residual=residual, n_traits=n_taxa, seed=rng)
    log_abundance = twins.Y.to_numpy() + rng.normal(0, 1.5, n_taxa)
    share = np.exp(log_abundance - log_abundance.max(axis=1, keepdims=True))
    share /= share.sum(axis=1, keepdims=True)
    counts = rng.multinomial(depth, share)
    ids = twins.frame["id"].to_numpy()
    relative = counts / counts.sum(axis=1, keepdims=True)
    bray_curtis = np.array([np.abs(relative - row).sum(axis=1) / 2 for row in relative])
    centred = np.log(counts + 0.5)
    centred -= centred.mean(axis=1, keepdims=True)
    squares = (centred**2).sum(axis=1)
    squared = squares[:, None] + squares - 2 * centred @ centred.T
    np.fill_diagonal(squared, 0.0)
    distances = {
        "bray_curtis": pd.DataFrame(bray_curtis, index=ids, columns=ids),
        "aitchison": pd.DataFrame(np.sqrt(squared.clip(min=0.0)), index=ids, columns=ids),
    }
    return SimulatedCommunities(
        twins.frame.set_index("id", drop=False).rename_axis(None),
        pd.DataFrame(counts, index=ids, columns=[f"taxon{j + 1}" for j in range(n_taxa)]),
        distances,
        twins.relmat,
        twins.formula,
        {"variances": twins.truth["variances"]},
    )
