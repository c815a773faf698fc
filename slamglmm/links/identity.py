"""The data are the latent traits; missing cells are drawn from the model."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from ..linalg.fixed_part import weighted_regression
from .base import Likelihood, Link, Measurements, Parameters, fill_gaps, residual_scales
from .data_scale import DataScale, IdentityScale


@dataclass(frozen=True)
class Identity(Link):
    """``y_ij = eta_ij`` where observed."""

    def prepare(self, data: Measurements) -> IdentityLikelihood:
        """Missing cells start at what the fixed effects say; an offset comes off."""
        values = data.by_column
        if data.offset.any():
            values = values - data.offset
        coef, scale = residual_scales(values, data)
        seen = ~np.isnan(values)
        if not seen.all():
            values = fill_gaps(values, _regression(values, coef, data))
        return IdentityLikelihood(data.columns, values, seen, seen, coef, scale, data.offset)


def _regression(values: np.ndarray, coef: np.ndarray, data: Measurements) -> np.ndarray:
    """What all fixed effects say of each cell, shape (p, n); only the flat ones where there are too many others.

    Where effects are shrunk, drawn cells that start without them would take a chain long to leave.
    """
    base = coef @ data.fixed.flat
    if len(data.fixed.shrunk):
        rest = np.where(np.isnan(values), 0.0, values - base)
        for traits, design in data.fixed.designs(data.columns):
            seen = (~np.isnan(values[traits])).astype(float)
            base[traits] += weighted_regression(design, rest[traits], seen) @ design
    return base


@dataclass(frozen=True)
class IdentityLikelihood(Likelihood):
    """Observed cells are known.

    Attributes
    ----------
    offset : ndarray, shape (n,)
    """

    offset: np.ndarray

    def draw(
        self,
        eta: np.ndarray,
        mean: np.ndarray,
        prec: np.ndarray,
        parameters: Parameters,
        traits: slice,
        rng: np.random.Generator,
    ) -> None:
        """Missing cells ~ N(mean, 1/prec), independent given U, F and the loadings."""
        rows, columns = np.nonzero(~self.known[traits])
        eta[rows, columns] = mean[rows, columns] + rng.standard_normal(len(rows)) / np.sqrt(prec[rows])

    def log_density(self, eta: np.ndarray, parameters: Parameters) -> np.ndarray:
        """Zero: the data add nothing to eta."""
        return np.where(self.known, 0.0, np.nan)

    def simulate(self, eta: np.ndarray, parameters: Parameters, rng: np.random.Generator) -> np.ndarray:
        """Eta itself, with the offset."""
        return np.where(self.known, eta + self.offset, np.nan)

    def with_data(self, data: np.ndarray) -> IdentityLikelihood:
        """Other observed cells."""
        return replace(self, start=np.where(self.known, data - self.offset, self.start))

    def data_scales(self) -> tuple[DataScale, ...]:
        """The latent traits themselves."""
        return (IdentityScale(),) * len(self.traits)
