"""Covariances and correlations among traits, from draws of the factor model.

With unit-variance factors, ``G_m = Lambda' diag(h_m) Lambda + diag(h_m,j v_j)`` and the residual takes what the shares
leave (eq. SLAM-6).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np

# Draws multiplied at a time: stacks of k x p loadings of about this many numbers.
CHUNK = 4_000_000


def mean_covariance(loadings: np.ndarray, factor_share: np.ndarray, own_variance: np.ndarray) -> np.ndarray:
    """Posterior mean of one covariance matrix.

    Parameters
    ----------
    loadings : ndarray, shape (draws, k, p)
    factor_share : ndarray, shape (draws, k)
        Share of this effect in each factor.
    own_variance : ndarray, shape (draws, p)
        Its part of the trait-specific variance.

    Returns
    -------
    ndarray, shape (p, p)
    """
    draws, k, p = loadings.shape
    total = np.zeros((p, p))
    step = max(1, CHUNK // max(1, k * p))
    for start in range(0, draws, step):
        part = slice(start, start + step)
        scaled = (loadings[part] * np.sqrt(factor_share[part])[:, :, None]).reshape(-1, p)
        total += scaled.T @ scaled
    total /= draws
    total[np.diag_indices(p)] += own_variance.mean(axis=0)
    return total


def covariance_draws(loadings: np.ndarray, factor_share: np.ndarray, own_variance: np.ndarray) -> Iterator[np.ndarray]:
    """Each draw's covariance matrix, shape (p, p)."""
    diagonal = np.diag_indices(loadings.shape[2])
    for Lambda, share, own in zip(loadings, factor_share, own_variance, strict=True):
        matrix = (Lambda.T * share) @ Lambda
        matrix[diagonal] += own
        yield matrix


def mean_correlation(loadings: np.ndarray, factor_share: np.ndarray, own_variance: np.ndarray) -> np.ndarray:
    """Posterior mean of one correlation matrix, shape (p, p); a trait without variance in a draw counts as zero."""
    return mean_of_correlations(covariance_draws(loadings, factor_share, own_variance))


def mean_of_correlations(matrices: Iterable[np.ndarray]) -> np.ndarray:
    """Mean of the correlation matrices of covariance matrices; a trait without variance counts as zero."""
    total: np.ndarray | float = 0.0
    count = 0
    for matrix in matrices:
        sd = np.sqrt(np.diag(matrix))
        scale = np.divide(1.0, sd, out=np.zeros_like(sd), where=sd > 0)
        total = total + matrix * scale[:, None] * scale
        count += 1
    mean = np.asarray(total / count)
    mean[np.diag_indices(len(mean))] = 1.0
    return mean


def variances(loadings: np.ndarray, factor_share: np.ndarray, own_variance: np.ndarray) -> np.ndarray:
    """Diagonal of the covariance matrix, for arrays with any leading dimensions, shape (..., p)."""
    return np.einsum("...kp,...kp,...k->...p", loadings, loadings, factor_share) + own_variance


def covariance_elements(
    loadings: np.ndarray, factor_share: np.ndarray, own_variance: np.ndarray, first: np.ndarray, second: np.ndarray
) -> np.ndarray:
    """Chosen elements of the covariance matrix, shape (..., len(first))."""
    values = np.einsum("...kp,...kp,...k->...p", loadings[..., first], loadings[..., second], factor_share)
    return values + np.where(first == second, own_variance[..., first], 0.0)
