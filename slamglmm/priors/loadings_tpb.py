"""Three-parameter beta loadings (Armagan, Dunson & Clyde 2011, NIPS 24:523), rows as in the infinite factor prior."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .._kernels.loadings import draw_infinite_rows
from ..linalg.gig import draw_gig
from ..options import Options
from .loadings import LoadingScales, LoadingsPrior


@dataclass(frozen=True)
class ThreeParameterBeta(LoadingsPrior):
    """``1/precision = psi_lj / theta_l``, ``psi ~ Ga(a, zeta)``, ``zeta ~ Ga(b, 1)``; eq. SLAM-26.

    Parameters
    ----------
    a : float
        How much mass there is near zero: 1/2 is the horseshoe's infinite peak, more than 1/2 a bounded density.
    b : float
        Weight of the tails: 1/2 is the horseshoe's, more is lighter.
    delta_1, delta_rest : tuple of float
        Shape and rate, both positive, of the gamma priors of the first and of the later ratios, ``theta_l = prod
        delta_h``.
    n_sweeps : int
        Inner sweeps of the row scales in each iteration, at least 1.
    """

    a: float = 0.5
    b: float = 0.5
    delta_1: tuple[float, float] = (2.0, 1.0)
    delta_rest: tuple[float, float] = (3.0, 1.0)
    n_sweeps: int = 20

    def __post_init__(self) -> None:
        check = Options(vars(self), "ThreeParameterBeta")
        check.number("a", "b", above=0)
        check.numbers("delta_1", "delta_rest", length=2, above=0)
        check.whole("n_sweeps", least=1)

    def start(self, n_traits: int, n_factors: int, n_rows: int) -> LoadingScales:
        """Unit scales."""
        return LoadingScales(np.ones((n_traits, n_factors)), np.ones(n_factors), np.ones(n_factors))

    def simulate(self, n_traits: int, n_factors: int, n_rows: int, rng: np.random.Generator) -> LoadingScales:
        """Scales drawn from the prior."""
        shape = (n_traits, n_factors)
        local = rng.standard_gamma(self.b, shape) / rng.standard_gamma(self.a, shape)
        delta = rng.standard_gamma(self.delta_rest[0], n_factors) / self.delta_rest[1]
        if n_factors:
            delta[0] = rng.standard_gamma(self.delta_1[0]) / self.delta_1[1]
        return LoadingScales(local, np.cumprod(delta), delta)

    def draw_local(self, scaled: np.ndarray, scales: LoadingScales, block: slice, rng: np.random.Generator) -> None:
        """``zeta | psi`` is gamma, ``psi | zeta, lambda`` generalised inverse Gaussian."""
        local = scales.local[block]
        zeta = rng.standard_gamma(self.a + self.b, local.shape) / (1.0 + 1.0 / local)
        chi = (scaled * scales.row).ravel()
        psi = draw_gig(np.full(local.size, self.a - 0.5), chi, 2.0 * zeta.ravel(), rng)
        np.divide(1.0, psi.reshape(local.shape), out=local)

    def draw_rows(self, q: np.ndarray, scales: LoadingScales, n_rows: int, rng: np.random.Generator) -> None:
        """Sweep delta, as in the infinite prior."""
        n_traits, k = scales.local.shape
        if k == 0:
            return
        shapes = self.delta_rest[0] + 0.5 * n_traits * (k - np.arange(k))
        shapes[0] += self.delta_1[0] - self.delta_rest[0]
        noise = rng.standard_gamma(shapes, (self.n_sweeps, k))
        draw_infinite_rows(q, noise, self.delta_1[1], self.delta_rest[1], scales.delta)
        scales.row[:] = np.cumprod(scales.delta)
