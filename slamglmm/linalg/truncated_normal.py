"""Normal draws inside an interval, and the interval's probability, accurate far into the tails."""

from __future__ import annotations

import numpy as np
import scipy.special

# Left of this a probability is handled by its logarithm: 1e-15 of it is still far from the smallest double.
TAIL = -30.0


def draw_truncated_normal(lower: np.ndarray, upper: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Draw standard normals given that each lies between two bounds; one uniform a draw, by the inverse of the cdf.

    Parameters
    ----------
    lower, upper : ndarray, of one shape
        ``lower <= upper``, infinite where there is no bound.
    rng : Generator

    Returns
    -------
    ndarray of the same shape.
    """
    # The side where the cdf is small keeps its digits.
    flip = lower > 0
    left, right = np.where(flip, -upper, lower), np.where(flip, -lower, upper)
    u = rng.random(left.shape)
    below, above = scipy.special.ndtr(left), scipy.special.ndtr(right)
    drawn = scipy.special.ndtri(below + u * (above - below))
    far = right < TAIL
    if far.any():
        log_below, log_above = scipy.special.log_ndtr(left[far]), scipy.special.log_ndtr(right[far])
        share = np.exp(log_below - log_above)
        drawn[far] = scipy.special.ndtri_exp(log_above + np.log(share + (1.0 - u[far]) * (1.0 - share)))
    # Rounding, where an interval is narrow or has one bound in the middle of the law.
    np.clip(drawn, left, right, out=drawn)
    return np.where(flip, -drawn, drawn)


def log_interval_probability(lower: np.ndarray, upper: np.ndarray) -> np.ndarray:
    """Log probability that a standard normal lies between two bounds.

    Parameters
    ----------
    lower, upper : ndarray, of one shape
        ``lower < upper``, infinite where there is no bound.

    Returns
    -------
    ndarray of the same shape.
    """
    flip = lower > 0
    left, right = np.where(flip, -upper, lower), np.where(flip, -lower, upper)
    log_above = scipy.special.log_ndtr(right)
    with np.errstate(divide="ignore"):
        return log_above + np.log(-np.expm1(scipy.special.log_ndtr(left) - log_above))
