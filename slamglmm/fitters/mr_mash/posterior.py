"""Every marker's posterior, worked out once at the end from the statistics of the last sweep."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.special import ndtr, softmax

from .mash import TINY, Components, Mash, MashState

# Markers at a time.
MARKER_BLOCK = 1024
# A component with a smaller share of a marker adds nothing to its sign or spread that could be seen.
NEGLIGIBLE = 1e-9
# Loadings below this share of the largest are rounding.
UNREACHED = 1e-10


@dataclass(frozen=True)
class MarkerPosteriors:
    """Posterior of the effects on the scale of x.

    Attributes
    ----------
    sd : ndarray, shape (m, p)
    lfsr : ndarray, shape (m, p)
        ``1 - max(P(beta > 0), P(beta < 0))``.
    null : ndarray, length m
        Probability of the component without an effect (0 without one).
    """

    sd: np.ndarray
    lfsr: np.ndarray
    null: np.ndarray


def responsibilities(model: Mash, state: MashState, part: slice) -> np.ndarray:
    """Posterior probabilities of the components for consecutive markers, shape (markers, n_mix)."""
    assert state.used is not None
    assert state.used_weights is not None
    components, basis = Components.of(model.prior), state.used
    gram = model.markers.gram[part]
    logs = np.tile(np.log(state.used_weights + TINY), (len(gram), 1))
    for k in range(len(basis.first_value) - 1):
        columns = slice(basis.first_value[k], basis.first_value[k + 1])
        square = (state.cross[part] @ basis.vectors[:, columns]) ** 2
        for t in range(components.first_component[k], components.first_component[k + 1]):
            size = components.grid[t] * basis.values[columns]
            grown = 1.0 + gram[:, None] * size
            logs[:, t] += 0.5 * np.sum(square * size / grown - np.log(grown), axis=1)
    return softmax(logs, axis=1)


def marker_posteriors(model: Mash, state: MashState) -> MarkerPosteriors:
    """Standard deviations, local false sign rates and null probabilities; eq. VB-15."""
    assert state.used is not None
    components, basis = Components.of(model.prior), state.used
    m, p = state.coef.shape
    second, above, below = np.zeros((m, p)), np.zeros((m, p)), np.zeros((m, p))
    null = np.zeros(m)
    for begin in range(0, m, MARKER_BLOCK):
        part = slice(begin, min(m, begin + MARKER_BLOCK))
        share = responsibilities(model, state, part)
        if model.prior.null:
            null[part] = share[:, 0]
        for k in range(len(basis.first_value) - 1):
            columns = slice(basis.first_value[k], basis.first_value[k + 1])
            if columns.start == columns.stop:
                continue
            axes = basis.root @ basis.vectors[:, columns]
            # A response a covariance does not reach: whitening there and back leaves rounding, which has a sign.
            axes[np.abs(axes) < UNREACHED * np.abs(axes).max()] = 0.0
            z = state.cross[part] @ basis.vectors[:, columns]
            for t in range(components.first_component[k], components.first_component[k + 1]):
                rows = np.flatnonzero(share[:, t] > NEGLIGIBLE)
                if not len(rows):
                    continue
                size = components.grid[t] * basis.values[columns]
                shrink = size / (1.0 + model.markers.gram[part][rows, None] * size)
                mean, variance = (z[rows] * shrink) @ axes.T, shrink @ (axes**2).T
                sd = np.sqrt(variance)
                z_score = np.divide(mean, sd, out=np.zeros_like(mean), where=sd > 0)
                positive = np.where(sd > 0, ndtr(z_score), 0.0)
                at, weight = begin + rows, share[rows, t][:, None]
                second[at] += weight * (mean**2 + variance)
                above[at] += weight * positive
                below[at] += weight * np.where(sd > 0, 1.0 - positive, 0.0)
    lfsr = 1.0 - np.maximum(above, below)
    constant = model.markers.constant
    lfsr[constant], second[constant] = 1.0, 0.0
    return MarkerPosteriors(np.sqrt(np.maximum(second - state.coef**2, 0.0)), np.clip(lfsr, 0.0, 1.0), null)
