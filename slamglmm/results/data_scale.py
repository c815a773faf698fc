"""From latent traits to the scale of the data, draw by draw; eq. LINK-36 to LINK-42."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

# Draws that are taken to the scale of the data, evenly spread over the chains.
MOST_DRAWS = 1000
# Rows x draws that are in memory at a time.
CHUNK = 2_000_000


class Moments(Protocol):
    """What a link says of its data: mean, slope and variance (`slamglmm.links.data_scale.DataMoments`)."""

    mean: np.ndarray
    slope: np.ndarray
    variance: np.ndarray

    def over_rows(self, weights: np.ndarray) -> Moments:
        """Over the last axis."""


class Scale(Protocol):
    """How the data of one trait follow from its latent trait (`slamglmm.links.data_scale.DataScale`)."""

    def moments(self, location: np.ndarray, variance: np.ndarray, parameters: Mapping[str, np.ndarray]) -> Any:
        """Moments of y for normal latent traits."""


@dataclass(frozen=True)
class TraitScale:
    """The scale of one trait.

    Attributes
    ----------
    scale : Scale
    variables : dict of str to (str, int)
        Parameters of its link: the variable of the posterior, and the trait's position there.
    """

    scale: Scale
    variables: Mapping[str, tuple[str, int]]


def distinct_rows(columns: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Distinct rows and their shares; fixed effects are often the same for many."""
    rows, counts = np.unique(columns, axis=0, return_counts=True)
    return rows, counts / counts.sum()


def moments_over_rows(
    of: TraitScale,
    effects: np.ndarray,
    rows: np.ndarray,
    weights: np.ndarray,
    variance: np.ndarray,
    parameters: Mapping[str, np.ndarray],
) -> tuple[np.ndarray, np.ndarray]:
    """Slope and variance of the data of one trait over rows, for each draw.

    Parameters
    ----------
    of : TraitScale
    effects : ndarray, shape (draws, b)
        Fixed effects.
    rows : ndarray, shape (rows, b + 1)
        Columns of the fixed effects, then the offset.
    weights : ndarray, shape (rows,)
    variance : ndarray, shape (draws,)
        Of the latent trait.
    parameters : mapping of str to ndarray, shape (draws, ...)

    Returns
    -------
    slope, variance : ndarray, shape (draws,)
    """
    slope, total = np.empty(len(effects)), np.empty(len(effects))
    step = max(1, CHUNK // max(1, len(rows)))
    for start in range(0, len(effects), step):
        part = slice(start, start + step)
        location = effects[part] @ rows[:, :-1].T + rows[:, -1]
        own = {key: values[part, None] for key, values in parameters.items()}
        moments = of.scale.moments(location, variance[part, None], own).over_rows(weights)
        slope[part], total[part] = moments.slope, moments.variance
    return slope, total
