"""The data are the latent traits; missing cells are drawn from the model."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Identity:
    """``y_ij = eta_ij`` where observed."""

    def start(self, data: np.ndarray) -> np.ndarray:
        """Missing cells at the trait's mean."""
        filled = data.copy()
        means = np.nanmean(data, axis=1)
        rows, columns = np.nonzero(np.isnan(data))
        filled[rows, columns] = means[rows]
        return filled

    def draw(
        self, eta: np.ndarray, cells: np.ndarray, mean: np.ndarray, prec: np.ndarray, rng: np.random.Generator
    ) -> None:
        """Missing cells ~ N(mean, 1/prec), independent given U, F and the loadings."""
        rows, columns = np.nonzero(cells)
        eta[rows, columns] = mean[rows, columns] + rng.standard_normal(len(rows)) / np.sqrt(prec[rows])
