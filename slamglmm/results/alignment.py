"""Loadings across draws and chains: factors have no names and no signs until they are matched."""

from __future__ import annotations

import numpy as np
from scipy.optimize import linear_sum_assignment


def align_loadings(loadings: np.ndarray, rounds: int = 3) -> tuple[np.ndarray, np.ndarray]:
    """Match the factors of every draw to a common reference, with signs.

    Parameters
    ----------
    loadings : ndarray, shape (draws, k, p)
    rounds : int
        The reference starts as the last draw and is replaced by the mean of the matched draws in each round.

    Returns
    -------
    order : ndarray of int, shape (draws, k)
        ``loadings[d, order[d]] * sign[d][:, None]`` is matched; factors with the largest mean loadings come first and
        their largest mean loading is positive.
    sign : ndarray, shape (draws, k)
    """
    draws, k, _ = loadings.shape
    order = np.tile(np.arange(k), (draws, 1))
    sign = np.ones((draws, k))
    if k == 0:
        return order, sign
    reference = loadings[-1]
    for _ in range(rounds):
        inner = reference @ np.swapaxes(loadings, 1, 2)  # draws × reference × factor
        for d in range(draws):
            _, order[d] = linear_sum_assignment(-np.abs(inner[d]))
        sign = np.where(np.take_along_axis(inner, order[:, :, None], axis=2)[:, :, 0] < 0, -1.0, 1.0)
        reference = (np.take_along_axis(loadings, order[:, :, None], axis=1) * sign[:, :, None]).mean(axis=0)
    largest = reference[np.arange(k), np.argmax(np.abs(reference), axis=1)]
    sorting = np.argsort(-np.sum(reference**2, axis=1), kind="stable")
    return order[:, sorting], (sign * np.where(largest < 0, -1.0, 1.0))[:, sorting]
