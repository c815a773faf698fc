"""Exact REML and ML for the same design: the yardstick of the moment estimators; eq. HE-11."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import scipy.linalg
from scipy import optimize

from ...errors import DataError, FitError, shortlist
from .effects import is_singular, term_covariance
from .mixed import MixedSystem, mixed_system
from .problem import Problem, project

FINAL_RADIUS = 1e-7
# Share of the sum of squares that a residual cannot fall below but by rounding.
NOTHING_LEFT = 1e-13
MAX_EVALUATIONS = 5000


@dataclass(frozen=True, eq=False)
class RemlFit:
    """One trait fitted by (restricted) maximum likelihood.

    Attributes
    ----------
    theta : ndarray
        Relative covariance factors as lme4 stores them: lower triangles, column by column, term by term.
    sigma2 : float
        Residual variance.
    variances : ndarray, length q+1
        Residual, then the components.
    loglik : float
        Restricted or full log likelihood.
    deviance : float
        ``-2 loglik``: lme4's criterion.
    covariance : ndarray, (q+1) x (q+1)
        Inverse of the observed information; NaN for variances at zero.
    n_evaluations : int
    """

    theta: np.ndarray
    sigma2: float
    variances: np.ndarray
    loglik: float
    deviance: float
    covariance: np.ndarray
    n_evaluations: int


def fit_reml(problem: Problem, restricted: bool = True, with_covariance: bool = True) -> list[RemlFit]:
    """Fit each trait.

    Parameters
    ----------
    problem : Problem
    restricted : bool
        REML, or ML.
    with_covariance : bool
        Whether the observed information is wanted (some tens of evaluations more).

    Raises
    ------
    DataError
        A response that the random effects explain exactly.
    FitError
        The optimiser gives up.
    """
    system = mixed_system(problem, with_logdet=True)
    return [_fit_one(problem, system, j, restricted, with_covariance) for j in range(problem.t)]


def _fit_one(problem: Problem, system: MixedSystem, j: int, restricted: bool, with_covariance: bool) -> RemlFit:
    n, p = problem.n, problem.m
    nu = n - p if restricted else n
    # The likelihoods of y and of its least-squares residual are equal; those of a large mean have no digits left.
    # Projected by itself, so that a trait has the same bits whatever traits are beside it.
    right = np.column_stack([problem.basis, project(problem.basis, problem.y[:, [j]])])
    of_triangle = 2 * float(np.log(np.abs(np.diag(problem.triangle))).sum())
    size = float(right[:, p] @ right[:, p])
    count = 0

    def parts(relative: list[np.ndarray]) -> tuple[float, float, float]:
        """log|V|, log|X'V^-1X| and the weighted residual sum of squares."""
        nonlocal count
        count += 1
        factor = system.factor(relative)
        gram = right.T @ factor.solve(right)
        if p == 0:
            of_x, squares = 0.0, float(gram[0, 0])
        else:
            try:
                lower = scipy.linalg.cholesky((gram[:p, :p] + gram[:p, :p].T) / 2, lower=True)
            except (scipy.linalg.LinAlgError, ValueError):
                raise _no_residual(problem, j) from None
            half = scipy.linalg.solve_triangular(lower, gram[:p, p], lower=True)
            of_x, squares = 2 * float(np.log(np.diag(lower)).sum()), float(gram[p, p] - half @ half)
        if not squares > NOTHING_LEFT * size:
            raise _no_residual(problem, j)
        return factor.logdet, of_x + of_triangle, squares

    # Searched in units that do not know the size of the weights.
    unit = 1.0 / float(np.sqrt(np.mean(problem.root**2)))

    def criterion(theta: np.ndarray) -> float:
        logdet, of_x, squares = parts(relative_covariances(problem, unit * theta))
        return (
            logdet + (of_x if restricted else 0.0) + nu * (1 + np.log(2 * np.pi * squares / nu)) - problem.log_weights
        )

    theta, deviance = _minimise(problem, criterion)
    theta = unit * theta
    relative = relative_covariances(problem, theta)
    _, _, squares = parts(relative)
    sigma2 = squares / nu
    variances = np.array([sigma2, *(sigma2 * relative[c.term][c.a, c.b] for c in problem.components)])
    covariance = np.full((len(variances),) * 2, np.nan)
    if with_covariance:
        covariance = _observed_covariance(problem, parts, variances, restricted, n, p)
    return RemlFit(theta, sigma2, variances, -deviance / 2, deviance, covariance, count)


def _no_residual(problem: Problem, j: int) -> DataError:
    terms = shortlist(term.label for term in problem.terms)
    return DataError(
        f"response '{problem.traits[j]}' is explained exactly by the fixed effects and {terms}: the likelihood grows "
        "without end as the residual variance goes to zero. Is the response the same in all records of a level? Then "
        "keep one record a level, or use method='rehe'."
    )


def theta_starts(problem: Problem) -> tuple[np.ndarray, np.ndarray]:
    """Start of theta (identity factors) and its lower bounds (0 on diagonals)."""
    start: list[float] = []
    for term in problem.terms:
        for a in range(term.n_effects):
            start += [1.0] + [0.0] * (term.n_effects - a - 1 if term.correlated else 0)
    theta = np.array(start)
    return theta, np.where(theta == 1.0, 0.0, -np.inf)


def relative_covariances(problem: Problem, theta: np.ndarray) -> list[np.ndarray]:
    """One e x e matrix ``L L'`` for each term."""
    out, at = [], 0
    for term in problem.terms:
        e = term.n_effects
        lower = np.zeros((e, e))
        for a in range(e):
            size = e - a if term.correlated else 1
            lower[a : a + size, a] = theta[at : at + size]
            at += size
        out.append(lower @ lower.T)
    return out


def _minimise(problem: Problem, criterion: Callable[[np.ndarray], float]) -> tuple[np.ndarray, float]:
    start, lower = theta_starts(problem)
    if not len(start):
        return start, criterion(start)
    best = None
    # A second run from the end of the first, with a new model of the surface, removes what is left of its error.
    for radius in (0.5, 1e-3):
        result = optimize.minimize(
            criterion,
            start if best is None else best.x,
            method="COBYQA",
            bounds=optimize.Bounds(lower, np.inf),
            options={"initial_tr_radius": radius, "final_tr_radius": FINAL_RADIUS, "maxfev": MAX_EVALUATIONS},
        )
        if not np.isfinite(result.fun):
            raise FitError(f"REML did not converge: {result.message}")
        if best is None or result.fun <= best.fun:
            best = result
    # the edge of the parameter space is never hit exactly; lme4 reports it as zero too
    assert best is not None
    theta = best.x.copy()
    for i in np.flatnonzero((lower == 0.0) & (theta < 1e-4)):
        edge = theta.copy()
        edge[i] = 0.0
        if criterion(edge) <= best.fun + 1e-9 * (1 + abs(best.fun)):
            theta = edge
    return theta, criterion(theta)


def _observed_covariance(
    problem: Problem,
    parts: Callable[[list[np.ndarray]], tuple[float, float, float]],
    variances: np.ndarray,
    restricted: bool,
    n: int,
    p: int,
) -> np.ndarray:
    """Inverse information of the variances, by second differences of the deviance."""

    def deviance(values: np.ndarray) -> float:
        sigma2 = values[0]
        relative = [np.zeros((term.n_effects,) * 2) for term in problem.terms]
        for value, component in zip(values[1:], problem.components, strict=True):
            matrix = relative[component.term]
            matrix[component.a, component.b] = matrix[component.b, component.a] = value / sigma2
        logdet, of_x, squares = parts(relative)
        nu = n - p if restricted else n
        return logdet + (of_x if restricted else 0.0) + nu * np.log(sigma2) + squares / sigma2

    q = len(variances)
    is_variance = np.array([True, *(c.a == c.b for c in problem.components)])
    at_zero = np.zeros(q, dtype=bool)
    for t in range(len(problem.terms)):
        members = [i + 1 for i, c in enumerate(problem.components) if c.term == t]
        size = variances[members][is_variance[members]]
        if (size <= 1e-8 * variances[0]).any() or is_singular(term_covariance(problem, variances, t)):
            at_zero[members] = True
    free = np.flatnonzero(~at_zero)
    step = np.empty(q)
    for i in range(q):
        c = problem.components[i - 1] if i else None
        if c is None or c.a == c.b:
            step[i] = 1e-3 * variances[i]
        else:
            own = [
                k + 1 for k, d in enumerate(problem.components) if d.term == c.term and d.a == d.b and d.a in (c.a, c.b)
            ]
            step[i] = 1e-3 * np.sqrt(np.prod(variances[own]))
    center = deviance(variances)
    hessian = np.empty((len(free), len(free)))

    def moved(*shifts: tuple[int, float]) -> float:
        values = variances.copy()
        for at, by in shifts:
            values[at] += by
        return deviance(values)

    for k, i in enumerate(free.tolist()):
        for m, j in enumerate(free[: k + 1].tolist()):
            if i == j:
                value = (moved((i, step[i])) - 2 * center + moved((i, -step[i]))) / step[i] ** 2
            else:
                value = sum(a * b * moved((i, a * step[i]), (j, b * step[j])) for a in (1, -1) for b in (1, -1))
                value /= 4 * step[i] * step[j]
            hessian[k, m] = hessian[m, k] = value / 2
    out = np.full((q, q), np.nan)
    try:
        inverse = np.linalg.inv(hessian)
        if (np.diag(inverse) > 0).all():
            out[np.ix_(free, free)] = inverse
    except np.linalg.LinAlgError:
        pass
    return out
