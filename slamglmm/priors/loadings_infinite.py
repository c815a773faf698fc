"""The infinite factor prior of Bhattacharya & Dunson (2011, Biometrika 98:291), as in BSFG."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .._kernels.loadings import draw_infinite_rows
from ..options import Options
from .loadings import LoadingScales, LoadingsPrior


@dataclass(frozen=True)
class Infinite(LoadingsPrior):
    """``precision = phi_lj theta_l``, ``phi ~ Ga(df/2, df/2)``, ``theta_l = prod delta_h``; eq. SLAM-16.

    Parameters
    ----------
    df : float
        Degrees of freedom of the loadings' t distribution, positive.
    delta_1, delta_rest : tuple of float
        Shape and rate, both positive, of the gamma priors of the first and of the later ratios (not truncated).
    n_sweeps : int
        Inner sweeps of the row scales in each iteration, at least 1.
    """

    df: float = 3.0
    delta_1: tuple[float, float] = (2.0, 1.0)
    delta_rest: tuple[float, float] = (3.0, 1.0)
    n_sweeps: int = 20

    def __post_init__(self) -> None:
        check = Options(vars(self), "Infinite")
        check.number("df", above=0)
        check.numbers("delta_1", "delta_rest", length=2, above=0)
        check.whole("n_sweeps", least=1)

    def start(self, n_traits: int, n_factors: int, n_rows: int) -> LoadingScales:
        """Unit scales."""
        return LoadingScales(np.ones((n_traits, n_factors)), np.ones(n_factors), np.ones(n_factors))

    def simulate(self, n_traits: int, n_factors: int, n_rows: int, rng: np.random.Generator) -> LoadingScales:
        """Scales drawn from the prior."""
        local = rng.standard_gamma(0.5 * self.df, (n_traits, n_factors)) / (0.5 * self.df)
        delta = rng.standard_gamma(self.delta_rest[0], n_factors) / self.delta_rest[1]
        if n_factors:
            delta[0] = rng.standard_gamma(self.delta_1[0]) / self.delta_1[1]
        return LoadingScales(local, np.cumprod(delta), delta)

    def draw_local(self, scaled: np.ndarray, scales: LoadingScales, block: slice, rng: np.random.Generator) -> None:
        """``phi ~ Ga((df+1)/2, (df + theta_l tau_j lambda_lj^2)/2)``."""
        local = scales.local[block]
        noise = rng.standard_gamma(0.5 * (self.df + 1.0), local.shape)
        np.divide(noise, 0.5 * (self.df + scales.row * scaled), out=local)

    def draw_rows(self, q: np.ndarray, scales: LoadingScales, n_rows: int, rng: np.random.Generator) -> None:
        """Sweep delta."""
        n_traits, k = scales.local.shape
        if k == 0:
            return
        shapes = self.delta_rest[0] + 0.5 * n_traits * (k - np.arange(k))
        shapes[0] += self.delta_1[0] - self.delta_rest[0]
        noise = rng.standard_gamma(shapes, (self.n_sweeps, k))
        draw_infinite_rows(q, noise, self.delta_1[1], self.delta_rest[1], scales.delta)
        scales.row[:] = np.cumprod(scales.delta)
