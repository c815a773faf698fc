"""Expression data on networks, for pathway tests."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from ..errors import OptionError
from ..options import Options, is_whole


@dataclass(frozen=True, eq=False)
class SimulatedExpression:
    """Arguments of `slamglmm.netgsa`, and the truth.

    Attributes
    ----------
    expression : pandas.DataFrame, genes x samples
    groups : pandas.Series
        Condition of each sample.
    networks : dict of str to pandas.DataFrame
        Condition -> edges (source, target, weight).
    pathways : dict of str to list of str
    truth : dict
        sigma2_gamma, sigma2_epsilon, mu (genes x conditions), changed (names of pathways whose mean differs).
    """

    expression: pd.DataFrame
    groups: pd.Series
    networks: dict[str, pd.DataFrame]
    pathways: dict[str, list[str]]
    truth: dict[str, Any]

    def __repr__(self) -> str:
        p, n = self.expression.shape
        return f"SimulatedExpression({p} genes x {n} samples, {len(self.pathways)} pathways)"


def netgsa(
    *,
    n_genes: int = 64,
    n_pathways: int = 4,
    n_samples: tuple[int, ...] = (40, 30),
    changed: int = 1,
    shift: float = 0.5,
    density: float = 0.3,
    strength: float = 0.7,
    rewired: float = 0.2,
    gamma: float = 1.0,
    epsilon: float = 0.5,
    seed: int | np.random.Generator | None = None,
) -> SimulatedExpression:
    """Genes in pathways of equal size, each an undirected network of partial correlations.

    Sample i of condition k is ``D_k (mu_k + g_ik) + e_ik``, with ``D_k D_k' = (I - A_k)^-1``.

    Parameters
    ----------
    n_genes, n_pathways : int
        Pathways are consecutive genes; the remainder goes to the last.
    n_samples : tuple of int
        Samples of each condition.
    changed : int
        The first this many pathways have means that rise by `shift` from one condition to the next.
    shift : float
        Size of the change in every second gene of a changed pathway.
    density, strength : float
        Share of the pairs in a pathway that are edges, and the spectral radius of the weights (below 1).
    rewired : float
        Share of the edges with another weight in each later condition.
    gamma, epsilon : float
        Variances of latent gene effects and of noise.
    seed : int, numpy.random.Generator or None
        The same seed gives the same data.

    Returns
    -------
    SimulatedExpression

    Raises
    ------
    OptionError
        For a size or share that cannot be.
    """
    check = Options(locals(), "simulate.netgsa")
    check.whole("n_genes", least=2)
    check.whole("n_pathways", least=1)
    if n_pathways > n_genes // 2:
        raise OptionError(f"simulate.netgsa: {n_genes} genes do not make {n_pathways} pathways of two or more.")
    if not (isinstance(n_samples, Sequence) and n_samples and all(is_whole(n) and n >= 1 for n in n_samples)):
        raise check.refuse("n_samples", "the number of samples of each condition, at least 1 each, such as (40, 30)")
    check.whole("changed", most=n_pathways)
    check.number("shift")
    check.number("density", "rewired", least=0, most=1)
    check.number("strength", least=0, below=1, advice="Otherwise I - A has no inverse.")
    check.number("gamma", "epsilon", least=0)
    check.seed(generator=True)
    rng = np.random.default_rng(seed)
    genes = [f"g{i + 1:0{len(str(n_genes))}d}" for i in range(n_genes)]
    parts = np.array_split(np.arange(n_genes), n_pathways)
    weights = np.zeros((n_genes, n_genes))
    for part in parts:
        a, b = np.triu_indices(len(part), 1)
        kept = rng.random(len(a)) < density
        weights[part[a[kept]], part[b[kept]]] = rng.uniform(-1, 1, int(kept.sum()))
    conditions = [f"condition{k + 1}" for k in range(len(n_samples))]
    expression, networks, means = [], {}, []
    for k, (name, n) in enumerate(zip(conditions, n_samples, strict=True)):
        if k:
            redrawn = (weights != 0) & (rng.random(weights.shape) < rewired)
            weights = np.where(redrawn, rng.uniform(-1, 1, weights.shape), weights)
        A = weights + weights.T
        A *= strength / max(np.abs(np.linalg.eigvalsh(A)).max(), 1e-300)
        mu = np.zeros(n_genes)
        for part in parts[:changed]:
            mu[part[::2]] = k * shift
        D = np.linalg.cholesky(np.linalg.inv(np.eye(n_genes) - A))
        latent = mu[:, None] + np.sqrt(gamma) * rng.standard_normal((n_genes, n))
        expression.append(D @ latent + np.sqrt(epsilon) * rng.standard_normal((n_genes, n)))
        a, b = np.nonzero(np.triu(A))
        networks[name] = pd.DataFrame(
            {"source": [genes[i] for i in a], "target": [genes[j] for j in b], "weight": A[a, b]}
        )
        means.append(mu)
    names = [f"pathway{k + 1}" for k in range(n_pathways)]
    samples = [f"s{i + 1}" for i in range(sum(n_samples))]
    return SimulatedExpression(
        pd.DataFrame(np.hstack(expression), index=genes, columns=samples),
        pd.Series(np.repeat(conditions, n_samples), index=samples, name="condition"),
        networks,
        {name: [genes[i] for i in part] for name, part in zip(names, parts, strict=True)},
        {
            "sigma2_gamma": gamma,
            "sigma2_epsilon": epsilon,
            "mu": pd.DataFrame(np.array(means).T, index=genes, columns=conditions),
            "changed": names[:changed],
        },
    )
