"""Variational EM of the spike-and-slab regression, several problems over the same markers at a time.

``y = Zw + X beta + e``, ``e ~ N(0, v)``, ``beta_k`` zero or ``N(0, v a)`` with prior odds ``exp(theta + offset_k)``.
Equations VB-1 to VB-6 of docs/models/sparse_lmm.md.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import expit

from ..._kernels.spike_slab import sweep_spike_slab
from ...linalg.projection import ProjectedMarkers
from ...linalg.threads import BlockPool

# Longest extrapolation of SQUAREM.
LONGEST_STEP = 32.0
# Farthest that it may take a log variance or log odds.
FARTHEST = 100.0
# Rounds in which the prior is taken further between sweeps.
ROUNDS_AHEAD = 2
# A fit also ends when three sweeps in a row raise the bound by no more than this share of `tol` each. Not relative to
# the bound, whose zero depends on the units of y.
SMALL_GAIN = 0.1
# The prior share pi is not taken below this many markers.
FEWEST_CAUSAL = 1e-2


@dataclass(frozen=True)
class SpikeSlab:
    """What stays the same while a spike-and-slab regression is fitted.

    Attributes
    ----------
    markers : ProjectedMarkers
    offset : ndarray, length m
        Added to the log odds ``theta`` of each marker.
    n_eff : float
        The m of the bound: rows, or rows less covariates ("reml").
    constant : float
        Terms of the bound that no update changes.
    learn : frozenset
        Which of "v", "a", "pi" are learned.
    relative : bool
        The prior variance is ``v a``; False makes it ``a`` itself.
    prior_a : tuple of float
        (strength, value) of a scaled inverse chi-square prior of a, as varbvs has it; strength 0 for none. It is not
        part of the bound, which may then fall, and the fit depends on the units of y: for comparisons only.
    """

    markers: ProjectedMarkers
    offset: np.ndarray
    n_eff: float
    constant: float
    learn: frozenset[str] = frozenset({"v", "a", "pi"})
    relative: bool = True
    prior_a: tuple[float, float] = (0.0, 1.0)

    @property
    def m(self) -> int:
        """Markers that vary."""
        return len(self.markers.order)


@dataclass
class Fits:
    """State of T problems; row t of every array is problem t.

    Attributes
    ----------
    logit, alpha, mu : ndarray, shape (T, m)
        Posterior log odds, inclusion probability, and mean of the slab.
    residual : ndarray, shape (T, n)
        Multiplied by the observation weights; `carried` (T, q) is its part along the covariates.
    v, a, theta : ndarray, length T
        Residual variance, prior variance of an effect in units of v, prior log odds.
    used_v, used_a : ndarray, length T
        The values the last sweep used, which the posterior variances belong to.
    elbo : list of list of float
        Bound after each accepted sweep.
    converged : ndarray of bool, length T
    """

    logit: np.ndarray
    alpha: np.ndarray
    mu: np.ndarray
    residual: np.ndarray
    carried: np.ndarray
    v: np.ndarray
    a: np.ndarray
    theta: np.ndarray
    used_v: np.ndarray = field(init=False)
    used_a: np.ndarray = field(init=False)
    elbo: list[list[float]] = field(init=False)
    sweeps: np.ndarray = field(init=False)
    converged: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        self.used_v, self.used_a = self.v.copy(), self.a.copy()
        self.elbo = [[] for _ in self.v]
        self.sweeps = np.zeros(len(self.v), dtype=int)
        self.converged = np.zeros(len(self.v), dtype=bool)

    @property
    def coef(self) -> np.ndarray:
        """Posterior means on the scale of x, shape (T, m)."""
        return self.alpha * self.mu


def slab_variance(model: SpikeSlab, fits: Fits, t: int) -> np.ndarray:
    """Posterior variance ``s_k`` of the slab of problem t, length m; eq. VB-3."""
    v, a = fits.used_v[t], fits.used_a[t]
    return v / (model.markers.gram + 1.0 / (a if model.relative else a / v))


def start(
    model: SpikeSlab, Y: np.ndarray, v: ArrayLike, a: ArrayLike, theta: ArrayLike, alpha: float | None = None
) -> Fits:
    """Begin with no effects: mu = 0.

    Parameters
    ----------
    model : SpikeSlab
    Y : ndarray, shape (T, n)
    v, a, theta : length T
    alpha : float, optional
        Inclusion probability of every marker; the prior one unless given.
    """
    T, m = len(Y), model.markers.m
    theta = np.array(theta, dtype=float)
    logit = theta[:, None] + model.offset if alpha is None else np.full((T, m), np.log(alpha / (1 - alpha)))
    logit = np.array(np.broadcast_to(logit, (T, m)), order="C")
    inclusion = expit(logit)
    inclusion[:, model.markers.constant] = 0.0
    return Fits(
        logit,
        inclusion,
        np.zeros((T, m)),
        model.markers.project(Y),
        np.zeros((T, model.markers.basis.rank)),
        np.array(v, dtype=float),
        np.array(a, dtype=float),
        theta,
    )


@dataclass(frozen=True)
class Sums:
    """Sums over the markers after a sweep, of which the bound and all M-steps are made (see `sums`)."""

    rss: float
    included: float
    shrink: float
    square: float
    gram_shrink: float
    gram_square: float
    entropy: float
    slab: float


def softplus(x: np.ndarray) -> np.ndarray:
    """``log(1 + e^x)``."""
    return np.maximum(x, 0.0) + np.log1p(np.exp(-np.abs(x)))


def relative_a(model: SpikeSlab, v: float, a: float) -> float:
    """The prior variance in units of v."""
    return a if model.relative else a / v


def sums(model: SpikeSlab, fits: Fits, t: int) -> Sums:
    """Everything about problem t that does not depend on v; the posterior variance is ``s_k = v shrink_k``."""
    order = model.markers.order
    at: slice | np.ndarray = slice(None) if len(order) == model.markers.m else order
    gram, alpha, mu, logit = model.markers.gram[at], fits.alpha[t][at], fits.mu[t][at], fits.logit[t][at]
    prior = fits.theta[t] + model.offset[at]
    a = relative_a(model, fits.v[t], fits.a[t])
    shrink = a / (a * gram + 1.0)
    included_square = alpha * mu**2
    shrunk = alpha * shrink
    return Sums(
        rss=float(model.markers.inner(fits.residual[t : t + 1])[0, 0]),
        included=float(alpha.sum()),
        shrink=float(shrunk.sum()),
        square=float(included_square.sum()),
        gram_shrink=float(gram @ shrunk),
        gram_square=float(gram @ (included_square * (1.0 - alpha))),
        entropy=float(np.sum(alpha * (prior - logit) + softplus(logit) - softplus(prior))),
        slab=float(np.sum(alpha * (1.0 - np.log1p(a * gram)))),
    )


def bound(model: SpikeSlab, fits: Fits, t: int, total: Sums) -> float:
    """Lower bound of the log marginal likelihood, for the parameters of the sweep; eq. VB-4."""
    v, a = fits.v[t], relative_a(model, fits.v[t], fits.a[t])
    value = model.constant - 0.5 * model.n_eff * np.log(2 * np.pi * v) - 0.5 * total.rss / v
    value -= 0.5 * (total.gram_shrink + total.gram_square / v)
    value += total.entropy + 0.5 * (total.slab - (total.shrink + total.square / v) / a)
    return float(value)


def maximise(model: SpikeSlab, fits: Fits, t: int, total: Sums) -> None:
    """M-steps of problem t: v, then a, then pi; eq. VB-5. Between them ``s_k = v shrink_k`` follows v."""
    v, a = fits.v[t], fits.a[t]
    if "v" in model.learn:
        if model.relative:
            spread = v * total.gram_shrink + total.gram_square
            fits.v[t] = (total.rss + spread + (v * total.shrink + total.square) / a) / (model.n_eff + total.included)
        else:
            fits.v[t] = (total.rss + v * total.gram_shrink + total.gram_square) / model.n_eff
    if "a" in model.learn and total.included > 0:
        unit = fits.v[t] if model.relative else 1.0
        inside = (fits.v[t] if model.relative else v) * total.shrink + total.square
        strength, prior_value = model.prior_a
        fits.a[t] = (strength * prior_value + inside) / (strength + unit * total.included)
    if "pi" in model.learn:
        fits.theta[t] = prior_log_odds(total.included, model.offset[model.markers.order])


def prior_log_odds(included: float, offset: np.ndarray) -> float:
    """Log odds theta at which the expected number of included markers, ``sum expit(theta + offset)``, is `included`."""
    m = len(offset)
    share = min(max(included, FEWEST_CAUSAL) / m, 1.0 - 1e-9)
    theta = float(np.log(share / (1.0 - share)))
    if not np.any(offset):
        return theta
    low, high = theta - offset.max() - 1.0, theta - offset.min() + 1.0
    for _ in range(200):
        p = expit(theta + offset)
        excess = p.sum() - share * m
        low, high = (low, theta) if excess > 0 else (theta, high)
        slope = (p * (1.0 - p)).sum()
        step = theta - excess / slope if slope > 0 else low
        new = step if low < step < high else 0.5 * (low + high)
        if abs(new - theta) < 1e-13 * max(1.0, abs(theta)):
            return float(new)
        theta = float(new)
    return theta


def sweep(model: SpikeSlab, fits: Fits, problems: np.ndarray, pool: BlockPool, learn: bool = True) -> np.ndarray:
    """One sweep and M-step of the listed problems; returns their bounds, and leaves the largest change of alpha.

    Returns
    -------
    ndarray, shape (len(problems), 2)
        Bound (for the parameters before the M-step) and largest change of an inclusion probability.
    """
    markers = model.markers
    T = len(fits.v)
    base = np.zeros((T, markers.m))
    prior_prec = np.ones(T)
    for t in problems:
        a = relative_a(model, fits.v[t], fits.a[t])
        prior_prec[t] = 1.0 / a
        base[t] = fits.theta[t] + model.offset - 0.5 * np.log1p(a * markers.gram)
    change = np.zeros(T)

    def one(part: np.ndarray) -> None:
        sweep_spike_slab(
            markers.columns, markers.order, part, markers.projections, markers.scale, markers.gram, markers.weights,
            base, prior_prec, fits.v, fits.logit, fits.alpha, fits.mu, fits.residual, fits.carried, change,
        )  # fmt: skip

    pool.run(one, [part for part in np.array_split(problems, pool.n_threads) if len(part)])
    out = np.empty((len(problems), 2))
    for i, t in enumerate(problems):
        at = slice(t, t + 1)
        markers.settle(fits.residual[at], fits.carried[at])
        total = sums(model, fits, t)
        out[i] = bound(model, fits, t, total), change[t]
        fits.used_v[t], fits.used_a[t] = fits.v[t], fits.a[t]
        fits.sweeps[t] += 1
        if learn:
            maximise(model, fits, t, total)
    return out


def look_ahead(model: SpikeSlab, fits: Fits, t: int) -> None:
    """Take the prior of problem t further than one M-step does, without another look at the genotypes.

    With ``x_k'R`` as the last sweep saw it, markers are independent: rounds of their E-step and of the M-steps for a
    and pi cost little beside a sweep. Where many small effects share the signal, EM alone crawls. The bound may fall,
    so `fit` takes this back when it does.
    """
    order = model.markers.order
    gram, offset, v = model.markers.gram[order], model.offset[order], fits.v[t]
    unit = v if model.relative else 1.0
    reach = fits.mu[t][order] * (gram + 1.0 / relative_a(model, fits.used_v[t], fits.used_a[t]))
    for _ in range(ROUNDS_AHEAD):
        a = relative_a(model, v, fits.a[t])
        shrink = 1.0 / (gram + 1.0 / a)
        mu = shrink * reach
        alpha = expit(fits.theta[t] + offset - 0.5 * np.log1p(a * gram) + 0.5 * mu * reach / v)
        included = float(alpha.sum())
        if "a" in model.learn and included > 0:
            fits.a[t] = float(alpha @ (v * shrink + mu**2)) / (unit * included)
        if "pi" in model.learn:
            fits.theta[t] = prior_log_odds(included, offset)


@dataclass
class Point:
    """A place on the path of one problem that an extrapolation may start from or go back to."""

    logit: np.ndarray
    mu: np.ndarray
    alpha: np.ndarray
    log_parameters: np.ndarray
    residual: np.ndarray
    used: tuple[float, float]


def _point(fits: Fits, t: int) -> Point:
    return Point(
        fits.logit[t].copy(),
        fits.mu[t].copy(),
        fits.alpha[t].copy(),
        np.array([np.log(fits.v[t]), np.log(fits.a[t]), fits.theta[t]]),
        fits.residual[t].copy(),
        (fits.used_v[t], fits.used_a[t]),
    )


def _set_parameters(fits: Fits, t: int, log_parameters: np.ndarray) -> None:
    fits.v[t], fits.a[t] = np.exp(log_parameters[:2])
    fits.theta[t] = log_parameters[2]


def _extrapolate(model: SpikeSlab, fits: Fits, t: int, first: Point, second: Point, third: Point) -> bool:
    """Move problem t along SQUAREM's parabola through three points; False when it has nowhere to go."""
    unit = np.sqrt(model.markers.gram) * np.exp(-0.5 * third.log_parameters[0])
    steps, bends = 0.0, 0.0
    parts = []
    for name, scale in (("logit", 1.0), ("mu", unit), ("log_parameters", 1.0)):
        x0, x1, x2 = (getattr(point, name) for point in (first, second, third))
        r = x1 - x0
        bend = (x2 - x1) - r
        steps += float(np.sum((r * scale) ** 2))
        bends += float(np.sum((bend * scale) ** 2))
        parts.append((x0, r, bend))
    if bends <= 0.0:
        return False
    length = min(max(np.sqrt(steps / bends), 1.0), LONGEST_STEP)
    if length <= 1.0:
        return False
    logit, mu, log_parameters = (x0 + 2.0 * length * r + length**2 * bend for x0, r, bend in parts)
    away = np.abs(log_parameters - third.log_parameters).max()
    if not (np.isfinite(logit).all() and np.isfinite(mu).all() and away < FARTHEST):
        return False
    before = fits.alpha[t] * fits.mu[t]
    fits.logit[t], fits.mu[t] = logit, mu
    fits.alpha[t, model.markers.order] = expit(logit[model.markers.order])
    _set_parameters(fits, t, log_parameters)
    at = slice(t, t + 1)
    moved = (fits.alpha[t] * mu - before)[None]
    model.markers.subtract(moved, fits.residual[at], fits.carried[at])
    model.markers.settle(fits.residual[at], fits.carried[at])
    return True


def _go_back(fits: Fits, t: int, point: Point) -> None:
    fits.logit[t], fits.mu[t], fits.alpha[t], fits.residual[t] = point.logit, point.mu, point.alpha, point.residual
    fits.used_v[t], fits.used_a[t] = point.used
    _set_parameters(fits, t, point.log_parameters)


def fit(
    model: SpikeSlab,
    fits: Fits,
    *,
    tol: float,
    max_iter: int,
    accelerate: bool = True,
    pool: BlockPool | None = None,
) -> None:
    """Climb the bound until every problem has converged; `fits` is updated in place.

    Parameters
    ----------
    model : SpikeSlab
    fits : Fits
    tol : float
        A problem ends when no inclusion probability changes by more than this in a sweep, or when three sweeps in a
        row raise the bound by no more than a tenth of it each.
    max_iter : int
        Sweeps, those taken back included.
    accelerate : bool
        The prior is taken further after each sweep (`look_ahead`), and SQUAREM: two sweeps, an extrapolation, a sweep
        from there. Either is taken back if the bound fell.
    pool : BlockPool, optional
        Problems are dealt out to its threads; each problem's numbers do not depend on how.
    """
    pool = pool or BlockPool(1)
    slow = np.zeros(len(fits.v), dtype=int)

    def finished(t: int, change: float) -> bool:
        trace = fits.elbo[t]
        gained = len(trace) < 2 or abs(trace[-1] - trace[-2]) > SMALL_GAIN * tol
        slow[t] = 0 if gained else slow[t] + 1
        fits.converged[t] = change < tol or slow[t] >= 3
        return bool(fits.converged[t]) or fits.sweeps[t] >= max_iter

    # What the M-steps alone made of a and pi, for when looking ahead went too far.
    safe = np.column_stack((fits.a, fits.theta))

    def go_on(t: int) -> None:
        safe[t] = fits.a[t], fits.theta[t]
        if accelerate:
            look_ahead(model, fits, t)

    def plain(problems: Sequence[int], points: Mapping[int, Point]) -> list[int]:
        """Sweep from the points, record, and give the problems that go on."""
        outcome = dict(zip(problems, sweep(model, fits, np.array(problems, dtype=np.intp), pool), strict=True))
        fell = [t for t in points if outcome[t][0] < fits.elbo[t][-1]] if accelerate else []
        for t in fell:
            _go_back(fits, t, points[t])
            fits.a[t], fits.theta[t] = safe[t]
        if fell:
            outcome |= dict(zip(fell, sweep(model, fits, np.array(fell, dtype=np.intp), pool), strict=True))
        for t, (value, _) in outcome.items():
            fits.elbo[t].append(float(value))
        going = [t for t, (_, change) in outcome.items() if not finished(t, change)]
        for t in going:
            go_on(t)
        return going

    def here(problems: Sequence[int]) -> dict[int, Point]:
        return {t: _point(fits, t) for t in problems}

    going = plain(range(len(fits.v)), {})
    while going:
        if not accelerate:
            going = plain(going, {})
            continue
        first = here(going)
        going = plain(going, first)
        second = here(going)
        going = plain(going, second)
        third = here(going)
        moved = [t for t in going if _extrapolate(model, fits, t, first[t], second[t], third[t])]
        if not moved:
            continue
        outcome = sweep(model, fits, np.array(moved, dtype=np.intp), pool)
        for t, (value, change) in zip(moved, outcome, strict=True):
            if value >= fits.elbo[t][-1]:
                fits.elbo[t].append(float(value))
                if finished(t, change):
                    going.remove(t)
                else:
                    go_on(t)
            else:
                _go_back(fits, t, third[t])
                if fits.sweeps[t] >= max_iter:
                    going.remove(t)
