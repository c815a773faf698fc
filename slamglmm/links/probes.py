"""Genes seen through several probes, each with a level and a precision of its own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import scipy.sparse as sp
from scipy.sparse.csgraph import connected_components
from scipy.sparse.linalg import splu

from ..errors import DataError, OptionError, shortlist
from ..options import Options
from .base import Likelihood, Link, Measurements, Parameters, residual_scales
from .cross_products import CrossProducts
from .pseudo import draw_given_pseudo


@dataclass(frozen=True, eq=False)
class Probes(Link):
    """``y_iq = m_q + sum_j W_qj eta_ij + e``, ``e ~ N(0, 1/phi_q)``: the data are probes, the latent traits genes.

    Parameters
    ----------
    genes : Series, dict or DataFrame
        Gene of each probe, by the names of the data columns; or a table of weights, probe × gene, for probes that see
        several genes.
    noise_V, noise_nu : float
        Prior of the noise: ``phi_q s_q^2 ~ Ga(noise_nu - 1, noise_nu noise_V)``, with ``s_q^2`` the variance of the
        probe beyond the fixed effects.
    """

    genes: Any = field(repr=False)
    noise_V: float = 0.5
    noise_nu: float = 3.0

    example: ClassVar[str] = "Probes(genes), the gene of each column of Y"

    def __post_init__(self) -> None:
        check = Options(vars(self), "Probes")
        check.number("noise_V", above=0)
        check.number("noise_nu", above=1)

    def prepare(self, data: Measurements) -> ProbeLikelihood:
        """Find the genes that share probes; start at each gene's least squares over its probes."""
        weights, genes = self._incidence(data.columns)
        values = data.by_column
        if data.offset.any():
            values = values - np.outer(weights.sum(axis=1), data.offset)
        seen = ~np.isnan(values)
        counts = seen.sum(axis=1)
        # Every probe has a level of its own.
        fixed = data.fixed.with_constant()
        coef, sd = residual_scales(values, replace(data, fixed=fixed), "probe")
        variance = sd**2
        rest = np.where(seen, values - coef @ fixed.flat, 0.0)
        sets = _gene_sets(weights, seen, genes)
        solve = splu((weights.T @ weights).tocsc()).solve
        # What the fixed effects do to each gene, and what is particular to each row; a probe's level is what is left.
        of_gene = solve(weights.T @ coef[:, : data.fixed.b])
        base = of_gene @ data.fixed.flat
        level = np.where(seen, values - weights @ base, 0.0).sum(axis=1) / counts
        deviations = solve(np.ascontiguousarray(weights.T @ rest))
        spread = np.sqrt((deviations**2).sum(axis=1) / max(1, rest.shape[1] - fixed.b))
        noise = ((rest - np.where(seen, weights @ deviations, 0.0)) ** 2).sum(axis=1) / counts
        return ProbeLikelihood(
            traits=genes,
            start=base + deviations,
            known=np.zeros(deviations.shape, dtype=bool),
            informative=(abs(weights).T @ seen.astype(float)) > 0,
            base_coef=of_gene,
            scale=np.maximum(spread, 0.05 * np.sqrt(abs(weights).T @ variance)),
            probes=data.columns,
            weights=weights,
            offset=data.offset,
            values=np.where(seen, values, 0.0),
            seen=seen,
            sets=sets,
            noise_shape=self.noise_nu - 1.0,
            noise_rate=self.noise_nu * self.noise_V * variance,
            first_mean=level - weights @ solve(weights.T @ level),
            first_noise=np.maximum(noise, 0.1 * variance),
        )

    def _incidence(self, probes: tuple[str, ...]) -> tuple[sp.csr_array, tuple[str, ...]]:
        """Weights of the data columns, probe × gene, and the genes in their order of appearance."""
        if isinstance(self.genes, pd.DataFrame):
            table = self.genes
            known = {str(name): i for i, name in enumerate(table.index)}
        elif isinstance(self.genes, Mapping | pd.Series):
            known = {str(name): gene for name, gene in self.genes.items()}
        else:
            raise OptionError(
                "Probes: expected a Series or dict probe -> gene, or a DataFrame probe × gene of weights, got "
                f"{type(self.genes).__name__}."
            )
        if not isinstance(self.genes, pd.DataFrame):
            known = {probe: gene for probe, gene in known.items() if not pd.isna(gene)}
        lost = [probe for probe in probes if probe not in known]
        if lost:
            raise OptionError(f"Probes: no gene for probe(s) {shortlist(lost)}. Add them, or drop their columns of Y.")
        if isinstance(self.genes, pd.DataFrame):
            dense = table.to_numpy(dtype=float, na_value=0.0)[[known[probe] for probe in probes]]
            used = np.flatnonzero((dense != 0).any(axis=0))
            weights = sp.csr_array(dense[:, used])
            genes = tuple(str(table.columns[j]) for j in used)
        else:
            codes, names = pd.factorize(np.array([str(known[probe]) for probe in probes], dtype=object))
            weights = sp.csr_array((np.ones(len(probes)), (np.arange(len(probes)), codes)))
            genes = tuple(str(name) for name in names)
        blind = np.flatnonzero(np.diff(weights.indptr) == 0)
        if len(blind) or not np.all(np.isfinite(weights.data)):
            raise OptionError(
                f"Probes: probe(s) {shortlist(probes[q] for q in blind)} see no gene, or weights are not finite. Give "
                "each probe the weights of its genes, or drop its column of Y."
            )
        return weights, genes


@dataclass(frozen=True)
class GeneSet:
    """Genes that probes tie together.

    Attributes
    ----------
    genes, probes : ndarray of int
    weights : ndarray, shape (probes, genes)
    patterns : ndarray, shape (m, probes)
        Distinct sets of probes that are not missing, as 0 and 1.
    which : ndarray of int, shape (n,)
        That of each row.
    """

    genes: np.ndarray
    probes: np.ndarray
    weights: np.ndarray
    patterns: np.ndarray
    which: np.ndarray

    def products(self, noise_prec: np.ndarray) -> CrossProducts:
        """``W' diag(phi) W`` over the probes that each row has."""
        scaled = self.patterns * noise_prec[self.probes]
        return CrossProducts.of(np.einsum("qa,mq,qb->mab", self.weights, scaled, self.weights), self.which)


def _gene_sets(weights: sp.csr_array, seen: np.ndarray, genes: tuple[str, ...]) -> tuple[GeneSet, ...]:
    """Sets of two genes and more; genes with probes of their own need none.

    Raises
    ------
    DataError
        Genes that the probes cannot tell apart.
    """
    n_sets, member = connected_components(weights.T @ weights, directed=False)
    by_gene = weights.tocsc()
    sets = []
    for s in np.flatnonzero(np.bincount(member, minlength=n_sets) > 1):
        own = np.flatnonzero(member == s)
        probes = np.unique(by_gene[:, own].nonzero()[0])
        block = weights[probes][:, own].toarray()
        if np.linalg.matrix_rank(block) < len(own):
            raise DataError(
                f"Probes: genes {shortlist(np.array(genes)[own])} cannot be told apart by their {len(probes)} probe(s)."
                " Merge them into one, or leave some out."
            )
        patterns, which = np.unique(seen[probes].T, axis=0, return_inverse=True)
        sets.append(GeneSet(own, probes, block, patterns.astype(float), which.reshape(-1).astype(np.intp)))
    return tuple(sets)


@dataclass(frozen=True)
class ProbeLikelihood(Likelihood):
    """Probes given genes.

    A shift of a gene is a shift of its probes, so the levels of the probes are held to ``W'm = 0``: what they have in
    common is the gene's.

    Attributes
    ----------
    probes : tuple of str
    weights : scipy CSR, shape (probes, genes)
    offset : ndarray, shape (n,)
    values : ndarray, shape (probes, n)
        Zero where missing.
    seen : ndarray of bool, shape (probes, n)
    sets : tuple of GeneSet
    noise_shape : float
    noise_rate : ndarray, shape (probes,)
        Prior of the precision of the noise: a gamma.
    first_mean, first_noise : ndarray, shape (probes,)
    """

    probes: tuple[str, ...]
    weights: sp.csr_array
    offset: np.ndarray
    values: np.ndarray
    seen: np.ndarray
    sets: tuple[GeneSet, ...]
    noise_shape: float
    noise_rate: np.ndarray
    first_mean: np.ndarray
    first_noise: np.ndarray

    has_shared: ClassVar[bool] = True
    separable: ClassVar[bool] = False
    flat: ClassVar[tuple[str, ...]] = ("probe_mean",)

    def labels(self) -> Mapping[str, tuple[tuple[str, tuple[str, ...]], ...]]:
        """Level and variance of the noise of each probe."""
        return {"probe_mean": (("probe", self.probes),), "noise_var": (("probe", self.probes),)}

    def start_parameters(self) -> Parameters:
        """From least squares."""
        return {"probe_mean": self.first_mean.copy(), "noise_var": self.first_noise.copy()}

    def simulate_parameters(self, rng: np.random.Generator) -> Parameters:
        """Gamma precisions; levels, whose prior is flat, at zero."""
        noise_var = self.noise_rate / rng.standard_gamma(self.noise_shape, len(self.noise_rate))
        return {"probe_mean": np.zeros(len(self.probes)), "noise_var": noise_var}

    def draw(
        self,
        eta: np.ndarray,
        mean: np.ndarray,
        prec: np.ndarray,
        parameters: Parameters,
        traits: slice,
        rng: np.random.Generator,
    ) -> None:
        """Genes with probes of their own cell by cell, others jointly within each row; eq. LINK-24."""
        noise_prec = 1.0 / parameters["noise_var"]
        scaled = self.weights.multiply(noise_prec[:, None]).tocsr()
        rest = np.where(self.seen, self.values - parameters["probe_mean"][:, None], 0.0)
        weighted = np.ascontiguousarray(scaled.T @ rest)
        total = np.ascontiguousarray(scaled.multiply(self.weights).T @ self.seen.astype(float))
        joint = [(s, weighted[s.genes] + prec[s.genes, None] * mean[s.genes]) for s in self.sets]
        draw_given_pseudo(eta, weighted, total, mean, prec, rng)
        for s, rhs in joint:
            z = rng.standard_normal(rhs.shape)
            eta[s.genes] = s.products(noise_prec).draw(1.0, prec[s.genes], rhs, z)

    def draw_shared(self, eta: np.ndarray, parameters: Parameters, rng: np.random.Generator) -> None:
        """Levels of the probes on ``W'm = 0``, then the variances of their noise; eq. LINK-25 and LINK-26."""
        counts = self.seen.sum(axis=1)
        rest = np.where(self.seen, self.values - self.weights @ eta, 0.0)
        variance = parameters["noise_var"] / counts
        level = rest.sum(axis=1) / counts + rng.standard_normal(len(counts)) * np.sqrt(variance)
        spread = self.weights.multiply(variance[:, None]).tocsr()
        level -= spread @ splu((self.weights.T @ spread).tocsc()).solve(self.weights.T @ level)
        parameters["probe_mean"][:] = level
        rest = np.where(self.seen, rest - level[:, None], 0.0)
        rate = self.noise_rate + 0.5 * np.einsum("qi,qi->q", rest, rest)
        parameters["noise_var"][:] = rate / rng.standard_gamma(self.noise_shape + 0.5 * counts)

    def log_density(self, eta: np.ndarray, parameters: Parameters) -> np.ndarray:
        """Normal log density."""
        variance = parameters["noise_var"][:, None]
        rest = self.values - self.weights @ eta - parameters["probe_mean"][:, None]
        return np.where(self.seen, -0.5 * np.log(2 * np.pi * variance) - 0.5 * rest**2 / variance, np.nan)

    def simulate(self, eta: np.ndarray, parameters: Parameters, rng: np.random.Generator) -> np.ndarray:
        """Genes through their probes, with levels, noise and the offset."""
        values = self.weights @ eta + parameters["probe_mean"][:, None]
        values += rng.standard_normal(values.shape) * np.sqrt(parameters["noise_var"])[:, None]
        values += np.outer(self.weights.sum(axis=1), self.offset)
        return np.where(self.seen, values, np.nan)

    def with_data(self, data: np.ndarray) -> ProbeLikelihood:
        """Other values of the same probes."""
        values = data - np.outer(self.weights.sum(axis=1), self.offset)
        return replace(self, values=np.where(self.seen, values, 0.0))
