"""Posterior variances of random effects from running sums, without a draw of U."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from ...linalg.covariances import Covariances
from ...linalg.threads import blocks
from .problem import Component, Problem
from .state import State

# Levels whose variances are computed together.
LEVELS = 256


class EffectVariances:
    """Sums for the variance of the total effects ``U_F Lambda + U_R`` of every level, by the law of total variance.

    ``Var U = E[Var(U | rest)] + Var(E[U | rest])``. Given the rest, a trait's own part has the variance
    ``D_g / tau`` with ``D_g = h diag(K) - h^2 diag(K Z' V_g^-1 Z K)`` at its grid point g, and a factor's part
    ``lambda^2 D_gamma / kappa``; D does not change. So the sums of ``1 / tau`` and of ``lambda^2 / kappa`` by grid
    point are enough for the first term, and the squared conditional means for the second.

    Attributes
    ----------
    own, from_factors : ndarray, shape (p, n_points)
        Sums of ``1 / tau`` and of ``lambda^2 / kappa``.
    squares : list of ndarray, each (p, r_m)
        Sums of squared conditional means of each component.
    """

    def __init__(self, problem: Problem):
        n_points = len(problem.grid.cell)
        self.own = np.zeros((problem.p, n_points))
        self.from_factors = np.zeros((problem.p, n_points))
        self.squares = [np.zeros((problem.p, component.Z.shape[1])) for component in problem.components]

    def add_block(self, problem: Problem, state: State, block: slice) -> None:
        """Add the conditional variances of one block of traits."""
        g = state.g[block]
        self.own[block][np.arange(len(g)), g] += 1.0 / state.tau[block]
        at_point = np.zeros((problem.n_factors, self.own.shape[1]))
        at_point[np.arange(problem.n_factors), state.gamma] = 1.0 / state.kappa
        self.from_factors[block] += state.coef[block, problem.b :] ** 2 @ at_point

    def add_means(self, problem: Problem, m: int, block: slice, alpha: np.ndarray) -> None:
        """Add the squares of ``K_m Z_m' alpha`` of one block of traits."""
        means = problem.components[m].levels_from_rows(problem.rotation.back(alpha))
        means *= means
        self.squares[m][block] += means

    def conditional(self, problem: Problem, m: int, n: int) -> np.ndarray:
        """Mean of the conditional variances of a component over ``n`` draws, shape (p, r_m)."""
        out = np.empty_like(self.squares[m])
        for levels, table in variance_tables(problem, m, problem.factor_cov, np.arange(problem.n)):
            out[:, levels] = (self.from_factors @ table.T) / n
        for group in problem.groups:
            for levels, table in variance_tables(problem, m, group.cov, group.rows):
                out[group.traits, levels] += (self.own[group.traits] @ table.T) / n
        return out


def variance_tables(problem: Problem, m: int, cov: Covariances, rows: np.ndarray) -> Iterator[tuple[slice, np.ndarray]]:
    """``D_g`` of the levels of a component at every grid point, from some rows: levels, and (levels, n_points)."""
    component, shares = problem.components[m], problem.grid.shares[:, m]
    for levels in blocks(component.Z.shape[1], LEVELS):
        diagonal, covariances = _level_covariances(component, levels)
        forms = cov.quadratic_forms(cov.enter(problem.rotation.forward(covariances)[:, rows]))
        yield levels, np.maximum(np.outer(diagonal, shares) - forms * shares**2, 0.0)


def _level_covariances(component: Component, levels: slice) -> tuple[np.ndarray, np.ndarray]:
    """Diagonal of K, and ``K Z'``, of some levels; shapes (levels,) and (levels, n)."""
    if component.K is None:
        return np.ones(levels.stop - levels.start), component.Z.T.tocsr()[levels].toarray()
    K = component.K[levels]
    product = K @ component.Z.T
    dense = product if isinstance(product, np.ndarray) else product.toarray()
    return component.K.diagonal()[levels], np.ascontiguousarray(dense)
