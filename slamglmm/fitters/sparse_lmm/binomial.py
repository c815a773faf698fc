"""Logistic regression with spike-and-slab effects by the bound of Jaakkola and Jordan.

Given the free parameters eta of the bound, the log likelihood is that of a weighted regression with weights
``slope(eta)``, response ``(y - 1/2) / slope`` and residual variance 1, so the Gaussian sweep does the work; eq. VB-8.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from ...linalg.projection import ProjectedMarkers, project_markers
from ...linalg.threads import BlockPool
from .data import RegressionData
from .spike_slab import Fits, SpikeSlab, bound, maximise, slab_variance, start, sums, sweep


def slope(eta: np.ndarray) -> np.ndarray:
    """``(sigmoid(eta) - 1/2) / eta``, which is 1/4 at zero."""
    small = np.abs(eta) < 1e-4
    safe = np.where(small, 1.0, eta)
    return np.where(small, 0.25 - eta**2 / 48.0, 0.5 * np.tanh(safe / 2.0) / safe)


class Logistic:
    """A logistic regression on its way up: the state of one problem and its weights.

    Parameters
    ----------
    data : RegressionData
        `y` is 0 or 1; `weights` may only mark the rows in use.
    offset : ndarray, length m
    learn : frozenset
        "a" and "pi", or a part.
    a, theta : float
        Start of the prior variance and log odds.
    alpha : float, optional
        Start of the inclusion probabilities; the prior one unless given.
    eta : float
        Start of eta.
    """

    def __init__(
        self,
        data: RegressionData,
        offset: np.ndarray,
        learn: frozenset[str],
        a: float,
        theta: float,
        alpha: float | None = None,
        eta: float = 1.0,
    ):
        self.data = data
        self.rows = np.ones(len(data.y), dtype=bool) if data.weights is None else data.weights > 0
        self.eta = np.where(self.rows, eta, 0.0)
        self.model = SpikeSlab(self._projected(), offset, 0.0, 0.0, learn, relative=False)
        self.model = replace(self.model, constant=self._constant())
        one = np.ones(1)
        self.fits: Fits = start(self.model, self._working()[None], one, one * a, one * theta, alpha)

    def _projected(self) -> ProjectedMarkers:
        self.weights = np.where(self.rows, slope(self.eta), 0.0)
        return project_markers(self.data.columns, self.data.Z, self.weights)

    def _working(self) -> np.ndarray:
        half = np.where(self.rows, self.data.y - 0.5, 0.0)
        return np.divide(half, self.weights, out=np.zeros_like(half), where=self.rows)

    def _constant(self) -> float:
        eta, d = self.eta[self.rows], self.weights[self.rows]
        value = -np.logaddexp(0.0, -eta).sum() + 0.5 * eta @ (d * eta - 1.0) + 0.125 * np.sum(1.0 / d)
        return float(value - 0.5 * self.model.markers.basis.logdet)

    def step(self, pool: BlockPool) -> float:
        """One sweep, then eta, then the M-steps; returns the largest change of an inclusion probability."""
        fits = self.fits
        change = float(sweep(self.model, fits, np.array([0]), pool, learn=False)[0, 1])
        self.eta = np.where(self.rows, np.sqrt(self._second_moment()), 0.0)
        self.model = replace(self.model, markers=self._projected())
        self.model = replace(self.model, constant=self._constant())
        fits.residual = self.model.markers.project(self._working()[None])
        fits.carried = np.zeros((1, self.model.markers.basis.rank))
        self.model.markers.subtract(fits.coef, fits.residual, fits.carried)
        self.model.markers.settle(fits.residual, fits.carried)
        total = sums(self.model, fits, 0)
        fits.elbo[0].append(bound(self.model, fits, 0, total))
        fits.used_a[0] = fits.a[0]
        maximise(self.model, fits, 0, total)
        return change

    def _second_moment(self) -> np.ndarray:
        """``E[(z_i w + g_i beta)^2]`` for each row."""
        markers, fits = self.model.markers, self.fits
        s = slab_variance(self.model, fits, 0)
        alpha, mu = fits.alpha[0], fits.mu[0]
        variance = (alpha * (s + mu**2) - (alpha * mu) ** 2) * markers.scale**2
        root = np.sqrt(self.weights)
        q = np.divide(markers.basis.Q, root[:, None], out=np.zeros_like(markers.basis.Q), where=root[:, None] > 0)
        along = np.ascontiguousarray((markers.projections * variance[:, None]).T)
        crossed = np.einsum("iq,qi->i", q, markers.fitted(along))
        inner = markers.projections.T @ (markers.projections * variance[:, None]) + np.eye(q.shape[1])
        spread = markers.weighted_squares(variance) - 2.0 * crossed + np.einsum("iq,qr,ir->i", q, inner, q)
        residual = np.divide(fits.residual[0], self.weights, out=np.zeros_like(root), where=self.rows)
        mean = self._working() - residual
        return np.maximum(mean**2 + np.maximum(spread, 0.0), 0.0)

    def fit(self, tol: float, max_iter: int, pool: BlockPool) -> None:
        """Climb until no inclusion probability changes by more than `tol`."""
        while self.fits.sweeps[0] < max_iter:
            if self.step(pool) < tol:
                self.fits.converged[0] = True
                return
