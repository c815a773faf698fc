"""Exact draws of latent traits cell by cell, where the density of a cell is log-concave: rejection in rounds."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ..errors import FitError

# Six of seven proposals are accepted: so many rounds mean that none can be.
MOST_ROUNDS = 1000


def draw_cells(
    attempt: Callable[..., int],
    data: tuple[np.ndarray, ...],
    informative: np.ndarray,
    eta: np.ndarray,
    mean: np.ndarray,
    prec: np.ndarray,
    rng: np.random.Generator,
) -> None:
    """Draw every cell, in place: those with data by rejection, the others from the model; eq. LINK-5.

    Parameters
    ----------
    attempt : callable
        Kernel that tries the cells it is told to, and says how many were rejected.
    data : tuple of ndarray, shape (c, n)
        Its first arguments.
    informative : ndarray of bool, shape (c, n)
    eta, mean : ndarray, shape (c, n)
    prec : ndarray, shape (c,)
    rng : Generator

    Raises
    ------
    FitError
        A mean or a precision that is not finite.
    """
    traits, rows = np.nonzero(~informative)
    eta[traits, rows] = mean[traits, rows] + rng.standard_normal(len(rows)) / np.sqrt(prec[traits])
    pending = np.flatnonzero(informative)
    for _ in range(MOST_ROUNDS):
        if not len(pending):
            return
        left = attempt(
            *data, mean, prec, pending, rng.random(len(pending)), rng.standard_exponential(len(pending)), eta
        )
        pending = pending[:left]
    raise FitError(
        f"{len(pending)} latent count(s) could not be drawn: their mean or precision given the model is not finite "
        f"(first: mean {mean.ravel()[pending[0]]}). Check covariates and size factors for extreme values."
    )
