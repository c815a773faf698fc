"""The horseshoe on fixed effects: each trait and each factor has few covariates that matter, which ones is its own."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..options import Options
from .fixef import Covariates, EffectScales, FixefPrior

# Precisions stay finite however far a half-Cauchy scale goes.
SMALLEST, LARGEST = 1e-100, 1e100


@dataclass(frozen=True)
class HorseshoeEffects(FixefPrior):
    """``b_qj ~ N(0, phi_qj^2 t_j^2 / (tau_j s_q^2))``, half-Cauchy phi and t; the intercept is flat; eq. SLAM-40.

    Parameters
    ----------
    prop_0 : float
        Expected share of covariates that act on a trait (or a factor); sets the scale of t.
    """

    prop_0: float = 0.1

    def __post_init__(self) -> None:
        Options(vars(self), "HorseshoeEffects").share("prop_0")

    def global_scale(self, n_rows: int) -> float:
        """Scale of the half-Cauchy prior of t."""
        return float(self.prop_0 / (1.0 - self.prop_0) / np.sqrt(n_rows))

    def start(self, columns: Covariates, n_traits: int, n_factors: int, n_rows: int) -> EffectScales:
        """Unit scales, so that the first draws follow the data."""
        return EffectScales(
            np.ones(len(columns.names)),
            np.ones((n_factors, len(columns.factor))),
            np.ones((n_traits, len(columns.trait))),
            np.ones(n_traits),
            np.ones(n_factors),
        )

    def simulate(
        self, columns: Covariates, n_traits: int, n_factors: int, n_rows: int, rng: np.random.Generator
    ) -> EffectScales:
        """Scales drawn from the prior."""
        scales = self.start(columns, n_traits, n_factors, n_rows)
        assert scales.local_trait is not None
        for local, total in (
            (scales.local_trait, scales.global_trait),
            (scales.local_factor, scales.global_factor),
        ):
            local[:] = np.tan(0.5 * np.pi * rng.random(local.shape)) ** -2.0
            total[:] = (self.global_scale(n_rows) * np.tan(0.5 * np.pi * rng.random(total.shape))) ** 2
        return scales

    def draw(
        self,
        columns: Covariates,
        scales: EffectScales,
        on_traits: np.ndarray,
        on_factors: np.ndarray,
        n_rows: int,
        rng: np.random.Generator,
    ) -> None:
        """Draw local, then global scales of each trait and of each factor; eq. SLAM-41."""
        assert scales.local_trait is not None
        shrunk = ~columns.flat
        if shrunk.any():
            local = scales.local_trait[:, shrunk]
            self._draw_scales(on_traits[:, shrunk], local, scales.global_trait, n_rows, rng)
            scales.local_trait[:, shrunk] = local
        if len(columns.factor):
            self._draw_scales(on_factors, scales.local_factor, scales.global_factor, n_rows, rng)

    def _draw_scales(
        self, squares: np.ndarray, local: np.ndarray, total: np.ndarray, n_rows: int, rng: np.random.Generator
    ) -> None:
        """Half-Cauchy scales are mixtures of inverse gammas; IG(1, b) is b / Exp(1)."""
        noise = rng.standard_exponential((2, *local.shape))
        inverse_nu = noise[0] / (1.0 + local)
        local[:] = np.clip(noise[1] / (inverse_nu + 0.5 * squares / total[:, None]), SMALLEST, LARGEST)
        inverse_xi = rng.standard_exponential(len(total)) / (self.global_scale(n_rows) ** -2.0 + 1.0 / total)
        rate = inverse_xi + 0.5 * np.sum(squares * local, axis=1)
        total[:] = np.clip(rate / rng.standard_gamma(0.5 * (local.shape[1] + 1), len(total)), SMALLEST, LARGEST)
