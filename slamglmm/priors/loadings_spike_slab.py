"""Loadings that are zero or normal (BayesC; Habier et al. 2011, BMC Bioinformatics 12:186), a share of each factor."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .._kernels.loadings import draw_infinite_rows
from ..options import Options
from .loadings import LoadingScales, LoadingsPrior


@dataclass(frozen=True)
class SpikeSlab(LoadingsPrior):
    """``lambda_lj`` is not zero with probability pi_l, and then has precision ``tau_j theta_l``; eq. SLAM-24, SLAM-25.

    Parameters
    ----------
    inclusion : tuple of float
        Both positive: beta prior of pi_l, the share of the traits that load on a factor.
    delta_1 : tuple of float
        Shape and rate of the gamma prior of the first ratio: ``1/delta_1``, the slab's variance, is inverse gamma.
    delta_rest : tuple of float
        Shape and rate of the gamma priors of the later ratios, ``theta_l = prod delta_h`` (not truncated).
    n_sweeps : int
        Inner sweeps of the row scales in each iteration, at least 1.
    """

    inclusion: tuple[float, float] = (1.0, 1.0)
    delta_1: tuple[float, float] = (2.0, 1.0)
    delta_rest: tuple[float, float] = (3.0, 1.0)
    n_sweeps: int = 20

    def __post_init__(self) -> None:
        check = Options(vars(self), "SpikeSlab")
        check.numbers("inclusion", "delta_1", "delta_rest", length=2, above=0)
        check.whole("n_sweeps", least=1)

    def start(self, n_traits: int, n_factors: int, n_rows: int) -> LoadingScales:
        """Every loading in, unit scales."""
        ones = np.ones(n_factors)
        shape = (n_traits, n_factors)
        return LoadingScales(np.ones(shape), ones, ones.copy(), 1.0, np.ones(shape, dtype=bool), 0.5 * ones)

    def simulate(self, n_traits: int, n_factors: int, n_rows: int, rng: np.random.Generator) -> LoadingScales:
        """Scales, shares and places of the loadings that are not zero, drawn from the prior."""
        delta = rng.standard_gamma(self.delta_rest[0], n_factors) / self.delta_rest[1]
        if n_factors:
            delta[0] = rng.standard_gamma(self.delta_1[0]) / self.delta_1[1]
        share = rng.beta(*self.inclusion, n_factors)
        shape = (n_traits, n_factors)
        return LoadingScales(np.ones(shape), np.cumprod(delta), delta, 1.0, rng.random(shape) < share, share)

    def draw_local(self, scaled: np.ndarray, scales: LoadingScales, block: slice, rng: np.random.Generator) -> None:
        """A normal slab has no scales of its own."""

    def draw_rows(self, q: np.ndarray, scales: LoadingScales, n_rows: int, rng: np.random.Generator) -> None:
        """Draw the shares, then sweep delta: only loadings that are not zero tell of it."""
        n_traits, k = scales.local.shape
        if k == 0:
            return
        assert scales.inclusion is not None
        active = scales.n_active
        first, second = self.inclusion
        share = rng.beta(first + active, second + n_traits - active)
        scales.inclusion[:] = np.clip(share, np.finfo(float).tiny, 1.0 - np.finfo(float).epsneg)
        shapes = self.delta_rest[0] + 0.5 * np.cumsum(active[::-1])[::-1]
        shapes[0] += self.delta_1[0] - self.delta_rest[0]
        noise = rng.standard_gamma(shapes, (self.n_sweeps, k))
        draw_infinite_rows(q, noise, self.delta_1[1], self.delta_rest[1], scales.delta)
        scales.row[:] = np.cumprod(scales.delta)
