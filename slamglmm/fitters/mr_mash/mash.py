"""Variational EM of the multivariate regression with a mixture of covariances.

``Y = Z W + X B + E``, rows of E ``N(0, Sigma)``, row k of B ``sum_t w_t N(0, V_t)``. Equations VB-10 to VB-14 of
docs/models/mr_mash.md. The sweep runs in whitened space, where every covariance of the prior is diagonal in a basis of
its own, so that all multiples of one covariance share the work.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import scipy.linalg

from ..._kernels.mash import sweep_mash
from ...errors import FitError
from ...linalg.projection import ProjectedMarkers
from ...priors.mixture import RANK_TOLERANCE, MixturePrior
from .missing import MissingCells

# Added to weights under the logarithm, as mr.mash does: a weight of zero stays at zero.
TINY = 2.2e-16
# A fit also ends when three sweeps in a row raise the bound by no more than this share of `tol` each.
SMALL_GAIN = 0.1


@dataclass(frozen=True)
class Basis:
    """The prior in the whitened space of one residual covariance.

    Attributes
    ----------
    root : ndarray, shape (p, p)
        Lower triangle, ``Sigma = root root'``.
    vectors : ndarray, shape (p, v)
        Eigenvectors of all ``root^-1 U_k root^-T`` side by side; `values` (v) their eigenvalues.
    first_value : ndarray of int, length K + 1
    """

    root: np.ndarray
    vectors: np.ndarray
    values: np.ndarray
    first_value: np.ndarray

    @property
    def logdet(self) -> float:
        """``log |Sigma|``."""
        return 2.0 * float(np.log(np.diag(self.root)).sum())

    def whiten(self, rows: np.ndarray) -> np.ndarray:
        """``root^-1 rows`` for (p, ...) arrays."""
        return np.ascontiguousarray(scipy.linalg.solve_triangular(self.root, rows, lower=True, check_finite=False))


def whitened_basis(prior: MixturePrior, sigma: np.ndarray) -> Basis:
    """Diagonalise every covariance of the prior together with Sigma; eq. VB-11."""
    try:
        root = np.linalg.cholesky(sigma)
    except np.linalg.LinAlgError as error:
        raise FitError(
            "the residual covariance has become singular: a response is a combination of others, or there are too few "
            "rows for so many responses. Leave one out, or take residual_cov='diagonal' or 'low_rank'."
        ) from error
    vectors, values, first = [], [], [0]
    if prior.null:
        first.append(0)
    for U in prior.covariances:
        half = scipy.linalg.solve_triangular(root, U, lower=True)
        inside = scipy.linalg.solve_triangular(root, half.T, lower=True)
        lam, Q = np.linalg.eigh(0.5 * (inside + inside.T))
        kept = lam > RANK_TOLERANCE * max(lam[-1], 1e-300)
        vectors.append(Q[:, kept])
        values.append(lam[kept])
        first.append(first[-1] + int(kept.sum()))
    return Basis(
        root,
        np.ascontiguousarray(np.concatenate(vectors, axis=1)),
        np.ascontiguousarray(np.concatenate(values)),
        np.array(first, dtype=np.intp),
    )


@dataclass(frozen=True)
class Components:
    """How components are laid out for the kernel: the null (if any), then covariance by covariance."""

    grid: np.ndarray
    first_component: np.ndarray
    null: bool

    @staticmethod
    def of(prior: MixturePrior) -> Components:
        """From a prior."""
        K, L = len(prior.names), len(prior.grid)
        null = [1.0] if prior.null else []
        first = np.concatenate(([0], np.full(int(prior.null), 1), int(prior.null) + L * np.arange(1, K + 1)))
        return Components(np.concatenate((null, np.tile(prior.grid, K))), first.astype(np.intp), prior.null)


@dataclass
class MashState:
    """Where the climb is; p responses, m markers, n rows.

    Attributes
    ----------
    sigma : ndarray, shape (p, p)
    weights : ndarray, length n_mix
    coef : ndarray, shape (m, p)
        Posterior means on the scale of x.
    cross : ndarray, shape (m, p)
        ``root^-1 c`` of the last sweep, which (with `used`) gives back every marker's posterior.
    used : Basis
        Of the last sweep; `used_weights` its weights.
    complete : ndarray, shape (p, n)
        Responses less covariates, missing cells at their expectation.
    elbo : list of float
    """

    sigma: np.ndarray
    weights: np.ndarray
    coef: np.ndarray
    cross: np.ndarray
    complete: np.ndarray
    covariates: np.ndarray
    used: Basis | None = None
    used_weights: np.ndarray | None = None
    scatter: np.ndarray | None = None
    responsibility_sum: np.ndarray | None = None
    elbo: list[float] = field(default_factory=list)
    converged: bool = False


@dataclass(frozen=True)
class Mash:
    """What stays the same during a fit.

    Attributes
    ----------
    markers : ProjectedMarkers
    prior : MixturePrior
    Y : ndarray, shape (p, n)
        NaN where missing; zero in rows of weight zero, which are not in the data.
    missing : MissingCells or None
    residual_cov : {"full", "diagonal", "spherical", "low_rank", "known"}
    rank : int
        Of the low-rank part.
    learn_weights : bool
    """

    markers: ProjectedMarkers
    prior: MixturePrior
    Y: np.ndarray
    missing: MissingCells | None
    residual_cov: str
    rank: int
    learn_weights: bool

    @property
    def n_obs(self) -> int:
        """Rows in the data."""
        weights = self.markers.weights
        return int(np.count_nonzero(weights)) if len(weights) else self.Y.shape[1]


def start(model: Mash, sigma: np.ndarray, weights: np.ndarray) -> MashState:
    """Begin with no effects; missing cells are filled by the first sweep."""
    p, m = len(model.Y), model.markers.m
    covariates = np.zeros((p, model.markers.basis.rank))
    complete = model.Y
    if model.missing is not None:
        complete = np.where(np.isnan(model.Y), 0.0, model.Y)
        Q = model.markers.basis.Q
        for j, y in enumerate(model.Y):
            seen = ~np.isnan(y)
            covariates[j] = np.linalg.lstsq(Q[seen], y[seen], rcond=None)[0]
    return MashState(sigma.copy(), weights.copy(), np.zeros((m, p)), np.zeros((m, p)), complete, covariates)


def sweep(model: Mash, state: MashState) -> float:
    """Fill missing cells, update covariates and every marker once; appends the bound and returns the largest change.

    Returns
    -------
    float
        Largest change of a posterior mean, on the scale of x.
    """
    markers, prior = model.markers, model.prior
    n, p = model.n_obs, len(model.Y)
    components = Components.of(prior)
    basis = whitened_basis(prior, state.sigma)
    fitted = np.zeros(model.Y.shape)
    carried = np.zeros((p, markers.basis.rank))
    # R = Y - ZW - XB without the missing cells: minus the fitted values first.
    markers.subtract(np.ascontiguousarray(state.coef.T), fitted, carried)
    markers.settle(fitted, carried)
    fitted *= -1.0
    entropy, extra = 0.0, None
    if model.missing is not None:
        mean = fitted + state.covariates @ markers.basis.Q.T
        state.complete, extra, entropy = model.missing.fill(model.Y, mean, state.sigma)
        state.covariates = state.complete @ markers.basis.Q
    residual = markers.project(state.complete) - fitted
    residual = basis.whiten(residual)
    coef = basis.whiten(state.coef.T).T.copy()
    before = state.coef
    cross = np.zeros_like(coef)
    carried = np.zeros((p, markers.basis.rank))
    sizes = np.diff(basis.first_value)
    per_component = np.repeat(sizes, np.diff(components.first_component))
    first_shrink = np.concatenate(([0], np.cumsum(per_component)[:-1])).astype(np.intp)
    first_moment = np.concatenate(([0], np.cumsum(sizes**2)[:-1])).astype(np.intp)
    n_mix, v = len(components.grid), len(basis.values)
    weight_sum = np.zeros(n_mix)
    moments = np.zeros(int(np.sum(sizes**2)))
    evidence = sweep_mash(
        markers.columns, markers.order, markers.projections, markers.scale, markers.gram, markers.weights,
        basis.vectors, np.ascontiguousarray(basis.vectors.T), basis.values, basis.first_value,
        components.first_component, components.grid, np.log(state.weights + TINY), first_shrink, first_moment,
        np.empty(int(per_component.sum())), np.empty(n_mix), np.empty((3, v + p)), np.empty(n_mix),
        coef, cross, residual, carried, weight_sum, moments,
    )  # fmt: skip
    markers.settle(residual, carried)
    # Sums of squares and second moments, back on the scale of the responses.
    inner = residual @ residual.T
    spread = -(coef * markers.gram[:, None]).T @ coef
    for k, size in enumerate(sizes):
        part = slice(basis.first_value[k], basis.first_value[k + 1])
        block = moments[first_moment[k] : first_moment[k] + size**2].reshape(size, size)
        block = np.tril(block) + np.tril(block, -1).T
        spread += basis.vectors[:, part] @ block @ basis.vectors[:, part].T
    quadratic = float(np.trace(inner))
    if extra is not None:
        quadratic += float(np.trace(np.linalg.solve(state.sigma, extra)))
    value = -0.5 * n * p * np.log(2 * np.pi) - 0.5 * n * basis.logdet - 0.5 * quadratic + entropy + evidence
    state.elbo.append(float(value))
    state.coef = coef @ basis.root.T
    state.cross = cross
    state.used, state.used_weights = basis, state.weights.copy()
    state.scatter = basis.root @ (inner + spread) @ basis.root.T + (0.0 if extra is None else extra)
    state.responsibility_sum = weight_sum
    return float(np.abs(state.coef - before).max(initial=0.0))


def maximise(model: Mash, state: MashState) -> None:
    """M-steps: weights, then the residual covariance; eq. VB-13."""
    assert state.responsibility_sum is not None
    assert state.scatter is not None
    if model.learn_weights:
        state.weights = state.responsibility_sum / len(model.markers.order)
    if model.residual_cov != "known":
        scatter = 0.5 * (state.scatter + state.scatter.T)
        state.sigma = constrained(scatter / model.n_obs, model.residual_cov, model.rank)


def constrained(T: np.ndarray, kind: str, rank: int) -> np.ndarray:
    """The covariance of a kind that maximises the likelihood of scatter T (p, p); eq. VB-13.

    Parameters
    ----------
    T : ndarray, shape (p, p)
    kind : {"full", "diagonal", "spherical", "low_rank"}
    rank : int
        q of ``sigma^2 I + W W'`` with W p × q.
    """
    if kind == "full":
        return T
    if kind == "diagonal":
        return np.diag(np.diag(T))
    p = len(T)
    if kind == "spherical":
        return np.eye(p) * np.trace(T) / p
    values, vectors = np.linalg.eigh(T)
    noise = float(values[: p - rank].mean())
    top = vectors[:, p - rank :]
    return noise * np.eye(p) + (top * np.maximum(values[p - rank :] - noise, 0.0)) @ top.T


def fit(model: Mash, state: MashState, *, tol: float, max_iter: int) -> None:
    """Climb until no posterior mean changes by more than `tol` (in units of `scale`); `state` is updated in place.

    Parameters
    ----------
    model : Mash
    state : MashState
    tol : float
        Largest change of a posterior mean, relative to the residual standard deviation over the root of x'x; or three
        sweeps in a row that raise the bound by no more than a tenth of it each.
    max_iter : int
    """
    slow = 0
    gram = model.markers.gram[model.markers.order]
    unit = np.sqrt(np.trace(state.sigma) / len(state.sigma) / np.median(gram)) if len(gram) else 1.0
    for _ in range(max_iter):
        change = sweep(model, state)
        gain = np.inf if len(state.elbo) < 2 else state.elbo[-1] - state.elbo[-2]
        slow = slow + 1 if gain <= SMALL_GAIN * tol else 0
        if change < tol * unit or slow >= 3:
            state.converged = True
            return
        maximise(model, state)
