"""Loadings across draws and chains: factors have no names and no signs until they are matched."""

from __future__ import annotations

import numpy as np
from scipy.optimize import linear_sum_assignment


def factors_carrying(loadings: np.ndarray, share: float = 0.99) -> np.ndarray:
    """How many factors it takes to explain a share of what all factors explain, in each draw.

    Parameters
    ----------
    loadings : ndarray, shape (..., k, p)
    share : float

    Returns
    -------
    ndarray of int, shape (...)
        0 where all loadings are zero.
    """
    sizes = np.sort(np.sum(loadings**2, axis=-1), axis=-1)[..., ::-1]
    if sizes.shape[-1] == 0:
        return np.zeros(sizes.shape[:-1], dtype=int)
    carried = np.cumsum(sizes, axis=-1)
    enough = 1 + np.sum(carried < share * carried[..., -1:], axis=-1)
    return np.where(carried[..., -1] > 0.0, enough, 0)


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
