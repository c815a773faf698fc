"""The horseshoe on loadings (Carvalho et al. 2010), with each factor's row a priori smaller than the one before.

Half-Cauchy scales are mixtures of inverse gammas (Makalic & Schmidt 2016, IEEE Signal Process. Lett. 23:179); the
global scale follows Piironen & Vehtari (2017, Electron. J. Statist. 11:5018).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .._kernels.loadings import draw_horseshoe_rows
from ..options import Options
from .loadings import LoadingScales, LoadingsPrior


@dataclass(frozen=True)
class Horseshoe(LoadingsPrior):
    """``1/precision = t^2 phi_lj^2 Delta_l``, half-Cauchy phi and t, ``Delta_l = prod delta_h``; eq. SLAM-14.

    Parameters
    ----------
    prop_0 : float
        Expected share of loadings that are not near zero; sets the scale of t.
    delta_shape, delta_rate : float
        Positive; ``delta_h ~ IG(shape, rate)`` for h >= 2: 3 and 1 halve the loading variance from factor to factor.
    n_sweeps : int
        Inner sweeps of the row scales in each iteration, at least 1.
    """

    prop_0: float = 0.1
    delta_shape: float = 3.0
    delta_rate: float = 1.0
    n_sweeps: int = 20

    def __post_init__(self) -> None:
        check = Options(vars(self), "Horseshoe")
        check.share("prop_0")
        check.number("delta_shape", "delta_rate", above=0)
        check.whole("n_sweeps", least=1)

    def global_scale(self, n_rows: int) -> float:
        """Scale of the half-Cauchy prior of t."""
        return self.prop_0 / (1.0 - self.prop_0) / np.sqrt(n_rows)

    def start(self, n_traits: int, n_factors: int, n_rows: int) -> LoadingScales:
        """Unit local scales; t at one, so that the first draws follow the data."""
        return LoadingScales(np.ones((n_traits, n_factors)), np.ones(n_factors), np.ones(n_factors), 1.0)

    def simulate(self, n_traits: int, n_factors: int, n_rows: int, rng: np.random.Generator) -> LoadingScales:
        """Scales drawn from the prior."""
        phi = np.tan(0.5 * np.pi * rng.random((n_traits, n_factors)))
        t = self.global_scale(n_rows) * np.tan(0.5 * np.pi * rng.random())
        delta = np.ones(n_factors)
        delta[1:] = self.delta_rate / rng.standard_gamma(self.delta_shape, max(n_factors - 1, 0))
        return LoadingScales(1.0 / phi**2, 1.0 / (t**2 * np.cumprod(delta)), delta, t**2)

    def draw_local(self, scaled: np.ndarray, scales: LoadingScales, block: slice, rng: np.random.Generator) -> None:
        """Draw ``nu | phi`` and ``phi | nu``: both IG(1, b), that is b / Exp(1)."""
        local = scales.local[block]
        noise = rng.standard_exponential((2, *local.shape))
        inverse_nu = noise[0] / (1.0 + local)
        np.divide(noise[1], inverse_nu + 0.5 * scaled * scales.row, out=local)

    def draw_rows(self, q: np.ndarray, scales: LoadingScales, n_rows: int, rng: np.random.Generator) -> None:
        """Sweep t and delta."""
        n_traits, k = scales.local.shape
        if k == 0:
            return
        shapes = self.delta_shape + 0.5 * n_traits * (k - np.arange(k))
        scales.t2 = draw_horseshoe_rows(
            q,
            rng.standard_gamma(shapes, (self.n_sweeps, k)),
            rng.standard_gamma(0.5 * (n_traits * k + 1), self.n_sweeps),
            rng.standard_exponential((self.n_sweeps, 1)),
            self.delta_shape,
            self.delta_rate,
            self.global_scale(n_rows),
            scales.delta,
            scales.t2,
        )
        scales.row[:] = 1.0 / (scales.t2 * np.cumprod(scales.delta))
