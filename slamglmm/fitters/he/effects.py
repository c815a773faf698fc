"""Fixed effects by generalised least squares, and BLUPs, at given variances; eqs. HE-12 and HE-13."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import scipy.linalg

from ...linalg.psd_cone import nearest_psd
from .mixed import mixed_system
from .problem import Problem

# Relative to the total variance: below it the residual variance is raised, for V to be invertible.
MIN_RESIDUAL = 1e-6


@dataclass(frozen=True, eq=False)
class Effects:
    """One trait at its variances.

    Attributes
    ----------
    coef : ndarray, length b
        NaN for a column that is a combination of earlier ones.
    covariance : ndarray, b x b
    weighted_residual : ndarray, length n
        ``V^-1 (y - X coef)`` for the whitened rows.
    """

    coef: np.ndarray
    covariance: np.ndarray
    weighted_residual: np.ndarray


def term_covariances(problem: Problem, variances: np.ndarray) -> list[np.ndarray]:
    """One e x e matrix for each term, then 1 x 1 for each marker component; made positive semi-definite."""
    out = [nearest_psd(term_covariance(problem, variances, t)) for t in range(len(problem.terms))]
    first_marker = 1 + len(problem.components)
    return out + [np.array([[max(v, 0.0)]]) for v in variances[first_marker:]]


def term_covariance(problem: Problem, variances: np.ndarray, t: int) -> np.ndarray:
    """Covariance matrix of the effects of term t, e x e, as estimated."""
    matrix = np.zeros((problem.terms[t].n_effects,) * 2)
    for i, c in enumerate(problem.components):
        if c.term == t:
            matrix[c.a, c.b] = matrix[c.b, c.a] = variances[i + 1]
    return matrix


def is_singular(covariance: np.ndarray) -> bool:
    """Whether some combination of the effects does not vary, in units of their standard deviations."""
    sd = np.sqrt(np.diag(covariance).clip(min=0.0))
    if (sd <= 0).any():
        return False  # a variance at zero has its own message
    return bool(np.linalg.eigvalsh(covariance / np.outer(sd, sd))[0] <= 1e-6)


def effects(problem: Problem, variances: Sequence[np.ndarray]) -> list[Effects]:
    """Fixed effects and weighted residuals of every trait.

    Parameters
    ----------
    problem : Problem
    variances : sequence of ndarray, each of length q+1
        For each trait: residual, then components.
    """
    system = mixed_system(problem)
    residuals = [max(float(values[0]), MIN_RESIDUAL * float(np.abs(values).sum())) for values in variances]
    relatives = [
        [covariance / residual for covariance in term_covariances(problem, values)]
        for values, residual in zip(variances, residuals, strict=True)
    ]
    rights = [np.column_stack([problem.basis, problem.residuals[:, j]]) for j in range(problem.t)]
    all_solved = system.solve_each(relatives, rights)
    return [
        _effects(problem, j, solved, residual)
        for j, (solved, residual) in enumerate(zip(all_solved, residuals, strict=True))
    ]


def _effects(problem: Problem, j: int, solved: np.ndarray, residual: float) -> Effects:
    """From ``V^-1 [Q r]`` per unit of residual variance, with ``X = Q triangle`` and r the least-squares residual.

    Least squares first, then what generalised least squares make of its residual: a large mean costs no digits.
    """
    kept, basis, triangle = problem.kept, problem.basis, problem.triangle
    b, p = len(kept), problem.m
    coef, covariance = np.full(b, np.nan), np.full((b, b), np.nan)
    rest = solved[:, p]
    if p:
        inverse = np.linalg.inv(basis.T @ solved[:, :p])
        on_basis = inverse @ (solved[:, :p].T @ problem.residuals[:, j])
        back = scipy.linalg.solve_triangular(triangle, np.eye(p))
        coef[kept] = back @ (basis.T @ problem.y[:, j] + on_basis)
        covariance[np.ix_(kept, kept)] = residual * back @ inverse @ back.T
        rest = rest - solved[:, :p] @ on_basis
    return Effects(coef, covariance, rest / residual)


def blups(problem: Problem, t: int, values: np.ndarray, fitted: Effects) -> np.ndarray:
    """Random effects of term t, r x e: ``(G x K) Z' V^-1 (y - X b)``."""
    term = problem.terms[t]
    covariance = term_covariances(problem, values)[t]
    on_levels = np.column_stack([term.to_levels(fitted.weighted_residual[:, None], a) for a in range(term.n_effects)])
    return term.apply(on_levels @ covariance)
