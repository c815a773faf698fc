"""Least squares over numbers and small positive semi-definite matrices, from normal equations."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

MAX_ITERATIONS = 50_000
TOLERANCE = 1e-12


def nearest_psd(matrix: np.ndarray) -> np.ndarray:
    """Nearest positive semi-definite matrix in the Frobenius norm: negative eigenvalues become zero."""
    values, vectors = np.linalg.eigh((matrix + matrix.T) / 2)
    return (vectors * values.clip(min=0.0)) @ vectors.T


def cone_least_squares(
    gram: np.ndarray, rhs: np.ndarray, cones: Sequence[np.ndarray], scale: np.ndarray | None = None
) -> np.ndarray:
    """Minimise ``s'S s - 2 s'c`` with every cone positive semi-definite.

    Parameters
    ----------
    gram : ndarray, shape (q, q)
        S, positive definite.
    rhs : ndarray, shape (q,)
    cones : sequence of ndarray of int, each (e, e)
        Symmetric: where in s the entries of one covariance matrix stand; a variance alone is 1 x 1.
    scale : ndarray, shape (q,), optional
        Sizes of the unknowns, of the form ``d_a d_b`` for entry (a, b) of a cone (so that scaling keeps the cone).

    Returns
    -------
    ndarray, shape (q,)

    Notes
    -----
    Alternating directions: a linear solve, a projection on the cones, and the running sum of their disagreement.
    The solve is factorised once, so an iteration costs microseconds.
    """
    size = np.ones(len(rhs)) if scale is None else scale
    gram, rhs = gram * size[:, None] * size, rhs * size
    # An off-diagonal unknown stands twice in its matrix, so it weighs twice in the Frobenius distance.
    multiplicity = np.zeros(len(rhs))
    for cone in cones:
        np.add.at(multiplicity, cone.ravel(), 1.0)
    # Mean curvature as step: within a small factor of the best for the conditioning seen here.
    values = np.linalg.eigvalsh(gram / np.sqrt(np.outer(multiplicity, multiplicity)))
    step = np.sqrt(max(values[0], values[-1] * 1e-8) * values[-1])
    inverse = np.linalg.inv(gram + step * np.diag(multiplicity))
    z, u = np.zeros(len(rhs)), np.zeros(len(rhs))
    for _ in range(MAX_ITERATIONS):
        s = inverse @ (rhs + step * multiplicity * (z - u))
        relaxed = 1.6 * s - 0.6 * z
        before, z = z, _project(relaxed + u, cones)
        u += relaxed - z
        largest = max(1e-300, np.abs(z).max(), np.abs(s).max())
        if np.abs(s - z).max() <= TOLERANCE * largest and np.abs(z - before).max() <= TOLERANCE * largest:
            break
    return z * size


def _project(s: np.ndarray, cones: Sequence[np.ndarray]) -> np.ndarray:
    out = np.empty_like(s)
    for cone in cones:
        if len(cone) == 1:
            out[cone[0, 0]] = max(s[cone[0, 0]], 0.0)
        else:
            out[cone] = nearest_psd(s[cone])
    return out
