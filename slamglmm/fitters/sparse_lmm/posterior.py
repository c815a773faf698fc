"""The fitted posterior, and what is asked of it afterwards that needs the markers again."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.special import softmax

from ...linalg.projection import ProjectedMarkers, project_markers
from .binomial import working_response
from .data import RegressionData
from .spike_slab import Fits, SpikeSlab, slab_variance

# Variance of the logistic distribution: the residual variance of a binary response's linear predictor.
LOGISTIC_VAR = np.pi**2 / 3.0
# Draws whose fitted values are held at a time.
DRAW_BLOCK = 64


@dataclass(frozen=True, eq=False)
class Estimate:
    """Posterior of the markers on the scale of x, and the parameters it belongs to.

    Attributes
    ----------
    pip, coef, variance : ndarray, length m
        Inclusion probability, mean and variance of the effect.
    alpha, mu, s : ndarray, length m
        One (best) point of the posterior: inclusion probability, mean and variance of the slab.
    v, a, theta : float
    elbo : ndarray
    converged : bool
    """

    pip: np.ndarray
    coef: np.ndarray
    variance: np.ndarray
    alpha: np.ndarray
    mu: np.ndarray
    s: np.ndarray
    v: float
    a: float
    theta: float
    elbo: np.ndarray
    converged: bool


def estimate_of(model: SpikeSlab, fits: Fits, t: int) -> Estimate:
    """The posterior of problem t."""
    alpha, mu = fits.alpha[t], fits.mu[t]
    s = slab_variance(model, fits, t)
    mean = alpha * mu
    return Estimate(
        alpha, mean, alpha * (s + mu**2) - mean**2, alpha, mu, s,
        float(fits.v[t]), float(fits.a[t]), float(fits.theta[t]), np.array(fits.elbo[t]), bool(fits.converged[t]),
    )  # fmt: skip


@dataclass(frozen=True, eq=False)
class FittedRegression:
    """A fitted regression with its data.

    Attributes
    ----------
    data : RegressionData
    scale : ndarray, length m
        ``c_k`` of the columns; 0 for a marker that does not vary.
    slope : ndarray, length n, or None
        Weights of the logistic bound at the end, times trials (binomial family).
    offset : ndarray, length m
        Prior log odds of the markers relative to theta.
    estimate : Estimate
    """

    data: RegressionData
    scale: np.ndarray
    slope: np.ndarray | None
    offset: np.ndarray
    estimate: Estimate

    def _projected(self, slope: np.ndarray | None) -> ProjectedMarkers:
        weights = self.data.weights if slope is None else slope
        return project_markers(self.data.columns, self.data.Z, weights).scaled_by(self.scale)

    def explained_variances(self, draws: int, seed: int | None) -> np.ndarray:
        """Draws of the share of variance explained by the markers, length `draws`.

        Parameters
        ----------
        draws : int
        seed : int or None
        """
        data, rng = self.data, np.random.default_rng(seed)
        residual = self.estimate.v
        if data.polygenic is not None:
            # In the rows as they were: rotated ones have lost their variances.
            projected = project_markers(data.source.columns(), data.polygenic.Z)
            residual *= data.polygenic.mean_variance
        elif self.slope is not None:
            # On the scale of the linear predictor every row counts alike.
            projected = project_markers(data.columns, data.Z, None if data.used is None else data.used.astype(float))
            residual = LOGISTIC_VAR
        else:
            projected = project_markers(data.columns, data.Z, data.weights)
        out = np.empty(draws)
        for begin in range(0, draws, DRAW_BLOCK):
            size = min(DRAW_BLOCK, draws - begin)
            coef = self.scale * self._draw(size, rng)
            signal = np.zeros((size, projected.columns.shape[0]))
            carried = np.zeros((size, projected.basis.rank))
            projected.subtract(coef, signal, carried)
            projected.settle(signal, carried)
            out[begin : begin + size] = [projected.inner(row[None])[0, 0] for row in signal]
        explained = out / self.data.n_obs
        return explained / (explained + residual)

    def _draw(self, size: int, rng: np.random.Generator) -> np.ndarray:
        """Draws of the effects (size, m) at the best point of the posterior."""
        alpha, m = self.estimate.alpha, len(self.estimate.alpha)
        out = np.zeros((size, m))
        for row in out:
            chosen = np.flatnonzero(rng.random(m) < alpha)
            row[chosen] = self.estimate.mu[chosen] + np.sqrt(self.estimate.s[chosen]) * rng.standard_normal(len(chosen))
        return out

    def single_effects(self, leads: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Where the effect of each lead may be; eq. VB-9.

        Parameters
        ----------
        leads : ndarray of int

        Returns
        -------
        prob : ndarray, shape (leads, m)
            Probability of one effect, in place of the lead's, at each marker.
        correlation : ndarray, shape (leads, m)
            Of each marker with the lead, after covariates and weights.
        """
        estimate, markers = self.estimate, self._projected(self.slope)
        v, a = estimate.v, estimate.a if self.slope is None else estimate.a / estimate.v
        response = self.data.y
        if self.slope is not None:
            response = working_response(self.data, self.slope)
        # One row a lead: all other effects taken off; and one row a lead: the lead itself.
        rows = np.zeros((2 * len(leads), markers.columns.shape[0]))
        rows[: len(leads)] = markers.project(response[None])
        carried = np.zeros((len(rows), markers.basis.rank))
        coef = np.zeros((len(rows), markers.m))
        coef[: len(leads)] = estimate.coef
        coef[np.arange(len(leads)), leads] = 0.0
        coef[len(leads) + np.arange(len(leads)), leads] = -1.0
        markers.subtract(coef, rows, carried)
        markers.settle(rows, carried)
        products = markers.products(rows).T
        cross, inner = products[: len(leads)], products[len(leads) :]
        precision = markers.gram + 1.0 / a
        evidence = self.offset - 0.5 * np.log1p(a * markers.gram) + 0.5 * cross**2 / (v * precision)
        evidence[:, markers.gram == 0.0] = -np.inf
        size = np.sqrt(np.maximum(markers.gram, 1e-300))
        return softmax(evidence, axis=1), inner / (size * size[leads][:, None])
