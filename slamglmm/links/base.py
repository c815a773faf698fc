"""What a link must do for the sampler."""

from __future__ import annotations

from typing import Protocol

import numpy as np


class Link(Protocol):
    """A distribution of the data given the latent traits; it sees only its own columns, trait-major."""

    def start(self, data: np.ndarray) -> np.ndarray:
        """First latent traits, shape (p, n), from data of the same shape with NaN where missing."""

    def draw(
        self, eta: np.ndarray, cells: np.ndarray, mean: np.ndarray, prec: np.ndarray, rng: np.random.Generator
    ) -> None:
        """Update ``eta[cells]`` given the model's mean (p, n) and each trait's precision (p,); eq. SLAM-20."""
