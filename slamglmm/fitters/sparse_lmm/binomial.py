"""Logistic regression with spike-and-slab effects by the bound of Jaakkola and Jordan.

Given the free parameters eta of the bound, the log likelihood is that of a weighted regression with weights
``trials slope(eta)``, response ``(y - 1/2) / slope`` and residual variance 1, so the Gaussian sweep does the work;
eq. VB-8.
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


def working_response(data: RegressionData, weights: np.ndarray) -> np.ndarray:
    """``(y - 1/2) / slope - offset`` where ``weights = trials slope``; zero in rows without trials."""
    moved = data.trials * (data.y - 0.5) - weights * data.offset
    return np.divide(moved, weights, out=np.zeros_like(weights), where=weights > 0)


class Logistic:
    """A logistic regression on its way up: the state of one problem and its weights.

    Parameters
    ----------
    data : RegressionData
        `y` is the share of successes, `weights` the numbers of trials (one unless given; zero for rows not in use).
    offset : ndarray, length m
    learn : frozenset
        "a" and "pi", or a part.
    a, theta : float
        Start of the prior variance and log odds.
    alpha : float, optional
        Start of the inclusion probabilities; the prior one unless given.
    scale : ndarray, length m, optional
        Of the columns; 1 unless given.
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
        scale: np.ndarray | None = None,
        eta: float = 1.0,
    ):
        self.data, self.scale = data, scale
        self.rows = data.trials > 0
        self.eta = np.where(self.rows, eta, 0.0)
        self.model = SpikeSlab(self._projected(), offset, 0.0, 0.0, learn, relative=False)
        self.model = replace(self.model, constant=self._constant())
        one = np.ones(1)
        self.fits: Fits = start(self.model, self._working()[None], one, one * a, one * theta, alpha)

    def _projected(self) -> ProjectedMarkers:
        self.weights = self.data.trials * slope(self.eta)
        projected = project_markers(self.data.columns, self.data.Z, self.weights)
        return projected if self.scale is None else projected.scaled_by(self.scale)

    def _working(self) -> np.ndarray:
        return working_response(self.data, self.weights)

    def _constant(self) -> float:
        eta, trials, y = self.eta[self.rows], self.data.trials[self.rows], self.data.y[self.rows]
        d = slope(eta)
        value = trials @ (-np.logaddexp(0.0, -eta) + 0.5 * eta * (d * eta - 1.0) + 0.5 * (y - 0.5) ** 2 / d)
        return float(value - 0.5 * self.model.markers.basis.logdet)

    def step(self, pool: BlockPool) -> float:
        """One sweep, then eta, then the M-steps; returns the largest change of an inclusion probability."""
        fits = self.fits
        change = float(sweep(self.model, fits, np.array([0]), pool, learn=False)[0, 1])
        self._move_eta(np.where(self.rows, np.sqrt(self._second_moment()), 0.0))
        total = sums(self.model, fits, 0)
        fits.elbo[0].append(bound(self.model, fits, 0, total))
        fits.used_a[0] = fits.a[0]
        maximise(self.model, fits, 0, total)
        return change

    def _move_eta(self, eta: np.ndarray) -> None:
        """Weights, working response and residual at other eta."""
        self.eta = eta
        self.model = replace(self.model, markers=self._projected())
        self.model = replace(self.model, constant=self._constant())
        fits = self.fits
        fits.residual = self.model.markers.project(self._working()[None])
        fits.carried = np.zeros((1, self.model.markers.basis.rank))
        self.model.markers.subtract(fits.coef, fits.residual, fits.carried)
        self.model.markers.settle(fits.residual, fits.carried)

    def begin_at(self, other: Logistic) -> None:
        """Take over the posterior of another fit to the same data."""
        for name in ("logit", "alpha", "mu"):
            getattr(self.fits, name)[:] = getattr(other.fits, name)
        self._move_eta(other.eta.copy())

    def _second_moment(self) -> np.ndarray:
        """``E[(offset_i + z_i w + g_i beta)^2]`` for each row."""
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
        mean = self.data.offset + self._working() - residual
        return np.maximum(mean**2 + np.maximum(spread, 0.0), 0.0)

    def fit(self, tol: float, max_iter: int) -> None:
        """Climb until no inclusion probability changes by more than `tol`."""
        pool = BlockPool(1)
        while self.fits.sweeps[0] < max_iter:
            if self.step(pool) < tol:
                self.fits.converged[0] = True
                return


def fit_logistic_grid(
    data: RegressionData,
    offset: np.ndarray,
    learn: frozenset[str],
    log_odds: np.ndarray,
    a: np.ndarray,
    *,
    tol: float,
    max_iter: int,
    alpha: float | None = None,
    scale: np.ndarray | None = None,
    pool: BlockPool | None = None,
) -> list[Logistic]:
    """Fit every point of a grid of prior log odds twice: from the start, then from the best of them.

    Parameters
    ----------
    data, offset, learn, alpha, scale
        As in `Logistic`; `learn` is without "pi".
    log_odds, a : ndarray, length T
        Natural log odds, and where the prior variance starts.
    tol, max_iter
        As in `Logistic.fit`.
    pool : BlockPool, optional
        Points are dealt out to its threads.
    """
    pool = pool or BlockPool(1)

    def first(t: int) -> Logistic:
        run = Logistic(data, offset, learn, float(a[t]), float(log_odds[t]), alpha, scale)
        run.fit(tol, max_iter)
        return run

    runs = pool.run(first, range(len(log_odds)))
    best = max(runs, key=lambda run: run.fits.elbo[0][-1])

    def second(t: int) -> Logistic:
        run = Logistic(data, offset, learn, float(best.fits.a[0]), float(log_odds[t]), None, scale)
        run.begin_at(best)
        run.fit(tol, max_iter)
        run.fits.sweeps += runs[t].fits.sweeps
        return run

    return pool.run(second, range(len(log_odds)))
