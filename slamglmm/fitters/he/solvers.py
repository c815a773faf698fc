"""From normal equations to variances: HE as they fall, REHE not below zero."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ...linalg.nnls import nonnegative_least_squares, solve_symmetric
from ...linalg.psd_cone import cone_least_squares
from .moments import NormalEquations
from .problem import RESIDUAL


def solve_equations(
    equations: NormalEquations, method: str, cones: Sequence[np.ndarray], n_markers: int = 0
) -> np.ndarray:
    """Variances and covariances of all components, residual first.

    Parameters
    ----------
    equations : NormalEquations
    method : {"he", "rehe"}
        Unconstrained; or every covariance matrix of effects positive semi-definite (variances at least zero). With
        several traits the constraint is on each trait; covariances among traits are those of HE.
    cones : sequence of ndarray of int
        Where the entries of each covariance matrix stand among the components (residual and markers not counted).
    n_markers : int
        Marker components at the end.

    Returns
    -------
    ndarray, (q + 1) x t x t
    """
    q, t = len(equations.S), equations.c.shape[1]
    s = solve_symmetric(equations.S, equations.c.reshape(q, t * t)).reshape(q, t, t)
    with_residual = equations.names[0] == RESIDUAL
    if method == "rehe":
        shift = 1 if with_residual else 0
        blocks = [cone + shift for cone in cones]
        n_terms = sum(len(np.unique(cone)) for cone in cones)
        blocks += [np.array([[n_terms + shift + k]]) for k in range(n_markers)]
        if with_residual:
            blocks.insert(0, np.array([[0]]))
        for j in range(t):
            s[:, j, j] = _constrained(equations.S, equations.c[:, j, j], s[:, j, j], blocks)
    if not with_residual:
        squares, traces, df = equations.leftover
        residual = (squares - np.einsum("i,itu->tu", traces, s)) / df
        if method == "rehe":
            np.fill_diagonal(residual, np.diag(residual).clip(min=0.0))
        s = np.concatenate([residual[None], s])
    return s


def _constrained(S: np.ndarray, c: np.ndarray, free: np.ndarray, blocks: Sequence[np.ndarray]) -> np.ndarray:
    if all(len(block) == 1 for block in blocks):
        return nonnegative_least_squares(S, c)
    if all(np.linalg.eigvalsh(free[block])[0] >= 0 for block in blocks):
        return free
    scale = np.empty(len(c))
    for block in blocks:
        size = np.diag(S)[np.diag(block)] ** -0.25
        scale[block] = np.outer(size, size)
    return cone_least_squares(S, c, blocks, scale)


def estimate_map(equations: NormalEquations) -> np.ndarray:
    """Matrix A with ``s = A c`` for HE, where c starts with the sum of squares; (q + 1) x (q + 1)."""
    if equations.names[0] == RESIDUAL:
        return solve_symmetric(equations.S, np.eye(len(equations.S)))
    q = len(equations.S)
    inverse = solve_symmetric(equations.S, np.eye(q))
    _, traces, df = equations.leftover
    out = np.zeros((q + 1, q + 1))
    out[1:, 1:] = inverse
    out[0, 0] = 1 / df
    out[0, 1:] = -(traces @ inverse) / df
    return out


def condition(S: np.ndarray) -> float:
    """Condition number of S scaled to a unit diagonal."""
    diagonal = np.diag(S)
    if (diagonal <= 0).any():
        return np.inf
    values = np.linalg.eigvalsh(S / np.sqrt(np.outer(diagonal, diagonal)))
    return float(np.inf if values[0] <= 0 else values[-1] / values[0])
