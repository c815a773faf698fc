"""Genes of related individuals, seen through several probes each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from ..options import Options
from .simulated import Simulated, renamed
from .slam import slam


@dataclass(frozen=True, eq=False, repr=False)
class SimulatedProbes(Simulated):
    """Arguments of ``slam(formula, frame, Y=Y, relmat=relmat, link=Probes(genes))``; the columns of `Y` are probes.

    Attributes
    ----------
    genes : pandas.Series or DataFrame
        Gene of each probe, or weights, probe × gene.
    """

    genes: pd.Series | pd.DataFrame

    def __repr__(self) -> str:
        n, q = self.Y.shape
        return f"SimulatedProbes({n} rows, {q} probes of {len(self.truth['Eta'].columns)} genes)"


def probes(
    *,
    n_genes: int = 20,
    per_gene: int | tuple[int, int] = (2, 5),
    shared: float = 0.0,
    noise: tuple[float, float] = (0.3, 1.0),
    missing: float = 0.0,
    seed: int | np.random.Generator | None = None,
    **individuals: Any,
) -> SimulatedProbes:
    """Probes ``y_iq = m_q + sum_j W_qj eta_ij + e`` of genes that are the traits of `slamglmm.simulate.slam`.

    Parameters
    ----------
    n_genes : int
    per_gene : int or (int, int)
        Probes of each gene, or the range their number is drawn from.
    shared : float
        Share of the probes that also see the next gene, with weight 1/2.
    noise : (float, float)
        Standard deviations of e are uniform between these.
    missing : float
        Share of the cells made NaN at random.
    seed : int, numpy.random.Generator or None
    **individuals
        As in `slamglmm.simulate.slam`: families, lines, n_factors, factor_h2, ...; not n_traits or missing.

    Returns
    -------
    SimulatedProbes
        `truth` is that of `slamglmm.simulate.slam` for the genes, and has besides: Eta (n × genes), probe_mean and
        noise_var (Series). What the levels of a gene's probes have in common is the gene's, so ``W' probe_mean = 0``.

    Raises
    ------
    OptionError
        For a number or share that cannot be.
    """
    check = Options(locals(), "simulate.probes")
    check.whole("n_genes", least=1)
    least, most = check.span("per_gene")
    check.number("missing", least=0, below=1)
    check.number("shared", least=0, most=1)
    check.numbers("noise", length=2, least=0)
    if noise[0] > noise[1]:
        raise check.refuse("noise", "two standard deviations, the smaller one first")
    check.seed(generator=True)
    rng = np.random.default_rng(seed)
    of_genes = slam(n_traits=n_genes, seed=rng, **individuals)
    names = [f"gene{column.removeprefix('trait')}" for column in of_genes.Y.columns]
    codes = np.repeat(np.arange(n_genes), rng.integers(least, most + 1, n_genes))
    width = len(str(len(codes)))
    labels = [f"probe{q:0{width}d}" for q in range(1, len(codes) + 1)]
    weights = np.eye(n_genes)[codes]
    also = np.flatnonzero((rng.random(len(codes)) < shared) & (codes < n_genes - 1))
    weights[also, codes[also] + 1] = 0.5
    level = 2.0 * rng.standard_normal(len(codes))
    level -= weights @ np.linalg.lstsq(weights, level, rcond=None)[0]
    sd = rng.uniform(*noise, len(codes))
    values = of_genes.Y.to_numpy() @ weights.T + level
    values += sd * rng.standard_normal(values.shape)
    values[rng.random(values.shape) < missing] = np.nan
    mapping = dict(zip(of_genes.Y.columns, names, strict=True))
    truth = renamed(of_genes.truth, mapping)
    truth["Eta"] = of_genes.Y.rename(columns=mapping)
    truth["probe_mean"], truth["noise_var"] = pd.Series(level, labels), pd.Series(sd**2, labels)
    several = pd.DataFrame(weights, index=labels, columns=names)
    return SimulatedProbes(
        frame=of_genes.frame,
        Y=pd.DataFrame(values, columns=labels),
        relmat=of_genes.relmat,
        formula=of_genes.formula,
        truth=truth,
        genes=several if len(also) else pd.Series(np.array(names)[codes], index=labels),
    )
