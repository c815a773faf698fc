"""Least squares over non-negative numbers, from normal equations: the exact active-set solution."""

from __future__ import annotations

import numpy as np
import scipy.linalg

# Relative to the largest gradient: below it a Kuhn-Tucker condition counts as met.
DUAL_TOLERANCE = 1e-12


def solve_symmetric(gram: np.ndarray, rhs: np.ndarray) -> np.ndarray:
    """Solution of ``S s = c`` for symmetric positive semi-definite S; the shortest one (after scaling) if singular.

    Parameters
    ----------
    gram : ndarray, shape (q, q)
    rhs : ndarray, shape (q,) or (q, k)

    Returns
    -------
    ndarray, shape of ``rhs``
    """
    scale = _scale(gram)
    scaled = gram * scale[:, None] * scale
    right = (rhs.T * scale).T
    try:
        solution = scipy.linalg.cho_solve(scipy.linalg.cho_factor(scaled, lower=True), right)
        # one step of refinement: kinships are often nearly collinear
        solution += scipy.linalg.cho_solve(scipy.linalg.cho_factor(scaled, lower=True), right - scaled @ solution)
    except scipy.linalg.LinAlgError:
        solution = scipy.linalg.lstsq(scaled, right, cond=1e-13)[0]
    return (solution.T * scale).T


def nonnegative_least_squares(gram: np.ndarray, rhs: np.ndarray) -> np.ndarray:
    """Minimise ``s'S s - 2 s'c`` over ``s >= 0`` by the active-set method of Lawson and Hanson.

    Parameters
    ----------
    gram : ndarray, shape (q, q)
        S, positive semi-definite.
    rhs : ndarray, shape (q,)
        c.

    Returns
    -------
    ndarray, shape (q,)
        Exact up to rounding: entries on the boundary are 0.0, the others solve their own normal equations.

    References
    ----------
    Lawson CL, Hanson RJ (1974) Solving least squares problems, chapter 23.
    """
    scale = _scale(gram)
    gram, rhs = gram * scale[:, None] * scale, rhs * scale
    q = len(rhs)
    solution = np.zeros(q)
    free = np.zeros(q, dtype=bool)
    tolerance = DUAL_TOLERANCE * max(1e-300, np.abs(rhs).max(initial=0.0))
    for _ in range(10 * q + 10):
        gradient = rhs - gram @ solution
        candidates = ~free & (gradient > tolerance)
        if not candidates.any():
            break
        free[np.argmax(np.where(candidates, gradient, -np.inf))] = True
        while free.any():
            trial = np.zeros(q)
            trial[free] = solve_symmetric(gram[np.ix_(free, free)], rhs[free])
            if (trial[free] > 0).all():
                solution = trial
                break
            blocking = free & (trial <= 0)
            step = np.min(solution[blocking] / (solution[blocking] - trial[blocking]))
            solution = solution + step * (trial - solution)
            free &= solution > 1e-15 * np.abs(solution).max(initial=0.0)
            solution[~free] = 0.0
    return solution * scale


def _scale(gram: np.ndarray) -> np.ndarray:
    diagonal = np.diag(gram)
    return np.where(diagonal > 0, 1 / np.sqrt(np.where(diagonal > 0, diagonal, 1.0)), 1.0)
