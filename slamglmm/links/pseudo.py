"""The one step that all links share whose data amount to a noisy sight of eta: ``z ~ N(eta, 1 / w)``."""

from __future__ import annotations

import numpy as np


def draw_given_pseudo(
    eta: np.ndarray,
    weighted: np.ndarray,
    weights: np.ndarray,
    mean: np.ndarray,
    prec: np.ndarray,
    rng: np.random.Generator,
) -> None:
    """``eta ~ N((w z + omega mu) / (w + omega), 1 / (w + omega))``, in place; eq. LINK-2.

    Parameters
    ----------
    eta : ndarray, shape (c, n)
        Receives the draw.
    weighted : ndarray, shape (c, n)
        ``w z``: zero in cells without data.
    weights : ndarray, shape (c, n)
        ``w``: zero in cells without data.
    mean : ndarray, shape (c, n)
        ``mu``; overwritten.
    prec : ndarray, shape (c,)
        ``omega``.
    rng : Generator
    """
    omega = prec[:, None]
    total = weights + omega
    mean *= omega
    mean += weighted
    mean /= total
    rng.standard_normal(out=eta) if eta.flags.c_contiguous else np.copyto(eta, rng.standard_normal(eta.shape))
    np.sqrt(total, out=total)
    eta /= total
    eta += mean
