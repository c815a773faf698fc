"""What every prior on the loadings has in common; one file and one line in `PRIORS` make a new one.

All have the form ``lambda_lj ~ N(0, 1 / (tau_j local_lj row_l))`` (eq. SLAM-5): a local precision for each loading
and one for each factor's row, scaled by the trait's residual precision. A prior with a spike adds which loadings are
not zero (`LoadingScales.included`); the sampler then draws them one after the other.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np


@dataclass
class LoadingScales:
    """Scales of the loadings; mutable, part of the sampler's state.

    Attributes
    ----------
    local : ndarray, shape (p, k)
        Local precisions, trait-major.
    row : ndarray, shape (k,)
        Row precisions, the product that `delta` (and `t2`) make.
    delta : ndarray, shape (k,)
        Ratios of successive rows.
    t2 : float
        Squared global scale (horseshoe; 1 elsewhere).
    included : ndarray of bool, shape (p, k), or None
        Loadings that are not zero; None for a prior without a spike.
    inclusion : ndarray, shape (k,), or None
        Probability that a loading of a factor is not zero.
    """

    local: np.ndarray
    row: np.ndarray
    delta: np.ndarray
    t2: float = 1.0
    included: np.ndarray | None = None
    inclusion: np.ndarray | None = None

    @property
    def n_active(self) -> np.ndarray:
        """Loadings of each factor that are not zero, shape (k,)."""
        p, k = self.local.shape
        return np.full(k, float(p)) if self.included is None else self.included.sum(axis=0, dtype=float)

    def permute(self, order: np.ndarray) -> None:
        """Give each factor what belongs to another; the row precisions stay."""
        self.local[:] = self.local[:, order]
        if self.included is not None and self.inclusion is not None:
            self.included[:], self.inclusion[:] = self.included[:, order], self.inclusion[order]

    def simulate_loadings(self, tau: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Loadings given the scales and the precisions of the traits, shape (p, k)."""
        loadings = rng.standard_normal(self.local.shape) / np.sqrt(tau[:, None] * self.local * self.row)
        return loadings if self.included is None else loadings * self.included


class LoadingsPrior(ABC):
    """A prior on the loadings: its start, its draws, and its law (for joint-distribution tests)."""

    @abstractmethod
    def start(self, n_traits: int, n_factors: int, n_rows: int) -> LoadingScales:
        """Scales a chain begins with."""

    @abstractmethod
    def simulate(self, n_traits: int, n_factors: int, n_rows: int, rng: np.random.Generator) -> LoadingScales:
        """Scales drawn from the prior."""

    @abstractmethod
    def draw_local(self, scaled: np.ndarray, scales: LoadingScales, block: slice, rng: np.random.Generator) -> None:
        """Update ``scales.local[block]`` given ``scaled = tau_j lambda_lj^2``, shape (block, k)."""

    @abstractmethod
    def draw_rows(self, q: np.ndarray, scales: LoadingScales, n_rows: int, rng: np.random.Generator) -> None:
        """Update the row scales given ``q[l] = sum_j tau_j local_lj lambda_lj^2 / 2``, shape (k,)."""

    def describe(self) -> str:
        """One line for the summary."""
        return type(self).__name__
