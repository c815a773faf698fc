"""What a set of priors says, by simulation, about the quantities users report."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from .h2_grid import prior_masses, share_grid
from .variance_components import VarianceComponents

if TYPE_CHECKING:
    from . import Priors


@dataclass(frozen=True)
class ImpliedPrior:
    """Draws from the prior, for one random effect and centred and scaled traits.

    Attributes
    ----------
    h2 : ndarray, shape (draws, n_traits)
        Heritability of each trait, factors included; eq. SLAM-9.
    n_used : ndarray of int, shape (draws,)
        Factors that carry 99 % of the shared variance.
    """

    h2: np.ndarray
    n_used: np.ndarray


def simulate_priors(
    priors: Priors, n_factors: int, n_traits: int, n_rows: int, h2_grid: int, draws: int, seed: int | None
) -> ImpliedPrior:
    """Draw loadings, shares and precisions from their priors; arguments as in `Priors.plot`."""
    rng, grid = np.random.default_rng(seed), share_grid(1, h2_grid)
    share = grid.shares[:, 0]
    if isinstance(priors.residual, VarianceComponents):
        # Their labels are not known here: the random effect is whichever is not the residual.
        labels = [name for name in _labels(priors.residual) if name != "Residual"][:1] or ["g"]
        residual, masses = priors.residual.on_grid(labels, grid, np.ones(1), np.ones(len(labels)))
        shape, rate = float(residual.shape[0]), residual.rate[0]
    else:
        shape, rate = priors.residual.shape, np.full(len(share), priors.residual.rate)
        masses = prior_masses(priors.h2, grid, "h2")
    factor_masses = prior_masses(priors.h2_factors, grid, "h2_factors")
    h2, n_used = np.empty((draws, n_traits)), np.zeros(draws, dtype=int)
    for i in range(draws):
        g = rng.choice(len(share), n_traits, p=masses)
        tau = rng.standard_gamma(shape, n_traits) / rate[g]
        kappa = rng.standard_gamma(priors.factor.shape, n_factors) / priors.factor.rate
        loadings = priors.loadings_prior.simulate(n_traits, n_factors, n_rows, rng).simulate_loadings(tau, rng)
        squared = loadings**2 / kappa
        gamma = rng.choice(len(share), n_factors, p=factor_masses)
        h2[i] = (squared @ share[gamma] + share[g] / tau) / (squared.sum(axis=1) + 1.0 / tau)
        if n_factors:
            carried = np.cumsum(np.sort(squared.sum(axis=0))[::-1])
            n_used[i] = (1 + np.sum(carried < 0.99 * carried[-1])) if carried[-1] > 0 else 0
    return ImpliedPrior(h2, n_used)


def _labels(prior: VarianceComponents) -> list[str]:
    return [name for value in (prior.V, prior.nu) if not isinstance(value, float | int) for name in value]
