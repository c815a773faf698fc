"""The sampler's state: everything a chain needs to go on, and its start."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field

import numpy as np
import scipy.linalg

from ...linalg.threads import BLOCK, blocks, single_threaded_blas
from ...links import Parameters
from ...priors import EffectScales, LoadingScales
from .problem import Problem

# Traits whose part of the factor step is summed at a time when U is integrated out: an array of all would be as large
# as the data. Whole blocks of traits.
SUMMED_TOGETHER = 32 * BLOCK


@dataclass
class Streams:
    """Random streams, one for each fixed block of traits, rows or linked traits: threads cannot change a draw.

    What is drawn only to be kept (``kept``) has a stream of its own, so that ``store=`` cannot change the chain.
    """

    common: np.random.Generator
    traits: list[np.random.Generator]
    rows: list[np.random.Generator]
    links: list[list[np.random.Generator]]
    kept: np.random.Generator

    @classmethod
    def spawn(cls, seed: np.random.SeedSequence, problem: Problem) -> Streams:
        """Independent streams from one seed: those of links have one for each block, and one more."""
        n_traits, n_rows = sum(len(group.blocks) for group in problem.groups), len(problem.row_blocks)
        sizes = [1 + len(part.blocks) for part in problem.links]
        generators = [np.random.default_rng(s) for s in seed.spawn(1 + n_traits + n_rows + sum(sizes) + 1)]
        ends = 1 + n_traits + n_rows + np.cumsum([0, *sizes])
        return cls(
            generators[0],
            generators[1 : 1 + n_traits],
            generators[1 + n_traits : 1 + n_traits + n_rows],
            [generators[ends[i] : ends[i + 1]] for i in range(len(sizes))],
            generators[-1],
        )


@dataclass
class State:
    """State of one chain, trait-major, in the problem's trait order and basis.

    Attributes
    ----------
    y : ndarray, shape (p, n)
        Latent traits (the problem's own array when nothing is imputed).
    coef : ndarray, shape (p, b + k)
        Fixed effects and loadings of each trait.
    tau : ndarray, shape (p,)
        Total residual precision of each trait.
    g : ndarray of int, shape (p,)
        Grid point of each trait.
    factors : ndarray, shape (k, n)
    kappa : ndarray, shape (k,)
        Working precision of each factor.
    gamma : ndarray of int, shape (k,)
        Grid point of each factor.
    scales : LoadingScales
    coef_factor : ndarray, shape (k, b_F)
        Fixed effects of each factor.
    effect_scales : EffectScales
        Of the fixed effects.
    loading_effects : ndarray, shape (k, q)
        Effects of covariates of the traits on the loadings of each factor.
    loading_effect_var : ndarray, shape (k,)
        Their variance.
    weighted : ndarray, shape (p, n), or (SUMMED_TOGETHER, n) when U is integrated out
        ``tau V^-1 (y - XB - C a)``, or ``omega (y - XB - C a - ZU)`` when U is part of the chain: what the factor
        step sums.
    random : ndarray, shape (p, n), or None
        ``Z U_R`` when U is part of the chain.
    streams : Streams
    links : list of dict
        Parameters of each link.
    iteration : int
    cis : ndarray, shape (E,)
        Effects of the covariates of single traits, trait after trait.
    sums : ndarray, shape (k, n)
        ``Lambda tau V^-1 (y - XB - C a)`` of the traits drawn so far in an iteration, when U is integrated out.
    """

    y: np.ndarray
    coef: np.ndarray
    tau: np.ndarray
    g: np.ndarray
    factors: np.ndarray
    kappa: np.ndarray
    gamma: np.ndarray
    scales: LoadingScales
    coef_factor: np.ndarray
    effect_scales: EffectScales
    loading_effects: np.ndarray
    loading_effect_var: np.ndarray
    weighted: np.ndarray
    random: np.ndarray | None
    streams: Streams
    links: list[Parameters] = field(default_factory=list)
    iteration: int = 0
    cis: np.ndarray = field(default_factory=lambda: np.zeros(0))
    sums: np.ndarray = field(default_factory=lambda: np.zeros((0, 0)))

    def factor_mean(self, problem: Problem) -> np.ndarray:
        """``X_F B_F``, shape (k, n)."""
        return self.coef_factor @ problem.x_factor

    def factor_residual(self, problem: Problem) -> np.ndarray:
        """Factors without their fixed effects, shape (k, n)."""
        return self.factors - self.factor_mean(problem) if problem.n_factor_effects else self.factors

    def loading_deviations(self, problem: Problem, traits: slice = slice(None)) -> np.ndarray:
        """Loadings minus their prior means, shape (traits, k)."""
        loadings = self.coef[traits, problem.b :]
        if not problem.trait_covariates.q:
            return loadings
        return np.asarray(loadings - problem.trait_covariates.x[traits] @ self.loading_effects.T)

    def copy(self, problem: Problem) -> State:
        """An independent copy; the responses are shared unless cells are drawn, scratch arrays are new."""
        twin = copy.copy(self)
        for name in (
            "coef",
            "tau",
            "g",
            "factors",
            "kappa",
            "gamma",
            "scales",
            "coef_factor",
            "effect_scales",
            "loading_effects",
            "loading_effect_var",
            "cis",
            "streams",
            "links",
        ):
            setattr(twin, name, copy.deepcopy(getattr(self, name)))
        twin.y = self.y.copy() if problem.impute else problem.y
        twin.weighted = _room_for_weighted(problem)
        twin.random = None if problem.collapsed else np.zeros_like(problem.y)
        return twin

    def packed(self, problem: Problem) -> State:
        """Only what cannot be made again from the problem, for disk and for other processes; `copy` unpacks it."""
        slim = copy.copy(self)
        nothing = np.zeros((0, 0))
        slim.y = self.y if problem.impute else nothing
        slim.weighted, slim.sums, slim.random = nothing, nothing, None
        return slim


def _room_for_weighted(problem: Problem) -> np.ndarray:
    return np.zeros((min(problem.p, SUMMED_TOGETHER) if problem.collapsed else problem.p, problem.n))


def _leading_directions(products: np.ndarray, k: int) -> np.ndarray:
    """Eigenvectors of the k largest eigenvalues as columns, largest first; zero where an eigenvalue is.

    Rounding alone decides LAPACK's signs, and what it makes of a null space, so both are settled here: the largest
    entry is positive (the first of nearly equal ones). Chains then start alike from data that differ by rounding.
    """
    if k == 0:
        return np.zeros((len(products), 0))
    values, vectors = scipy.linalg.eigh(products, subset_by_index=[len(products) - k, len(products) - 1])
    size = np.abs(vectors)
    largest = (size >= 0.999 * size.max(axis=0)).argmax(axis=0)
    signs = np.where(vectors[largest, np.arange(k)] < 0, -1.0, 1.0)
    signs[values <= len(products) * np.finfo(float).eps * values[-1]] = 0.0
    return (vectors * signs)[:, ::-1]


def start_state(problem: Problem, seed: np.random.SeedSequence) -> State:
    """State near the mode: leading singular vectors as factors, shares of variance drawn from their priors.

    Noise on the factors and the random shares give each chain its own start.
    """
    p, n, b, k = problem.p, problem.n, problem.b, problem.n_factors
    leading = min(k, p)
    streams = Streams.spawn(seed, problem)
    rng = streams.common
    y = problem.y.copy() if problem.impute else problem.y
    with single_threaded_blas():
        # In place, and by parts below: arrays of this shape are the largest there are.
        B = y @ np.linalg.pinv(problem.x, rcond=np.finfo(float).eps * n) if b else np.zeros((p, 0))
        rest = B @ problem.x
        np.subtract(y, rest, out=rest)
        if p <= n:
            factors = _leading_directions(rest @ rest.T, leading).T @ rest
        else:
            factors = _leading_directions(rest.T @ rest, k).T.copy()
        # More factors than traits: there is nothing left for them, so they begin as noise alone.
        factors = np.concatenate((factors, np.zeros((k - leading, n))))
        factors *= np.sqrt(n) / np.maximum(np.linalg.norm(factors, axis=1, keepdims=True), 1e-8)
        loadings = rest @ factors.T / n
        rest_var = np.empty(p)
        for part in blocks(p):
            rest_var[part] = np.mean((rest[part] - loadings[part] @ factors) ** 2, axis=1)
    factors = factors + 0.3 * rng.standard_normal((k, n))
    n_points = len(problem.grid.cell)
    return State(
        y=y,
        coef=np.ascontiguousarray(np.concatenate((B, loadings), axis=1)),
        tau=1.0 / (rest_var + 0.05),
        g=rng.choice(n_points, p, p=np.exp(problem.log_prior_traits)).astype(np.intp),
        factors=np.ascontiguousarray(factors),
        kappa=np.ones(k),
        gamma=rng.choice(n_points, k, p=np.exp(problem.log_prior_factors)).astype(np.intp),
        scales=problem.priors.loadings_prior.start(p, k, n),
        coef_factor=np.zeros((k, problem.n_factor_effects)),
        effect_scales=problem.priors.fixef_prior.start(problem.covariates, p, k, n),
        loading_effects=np.zeros((k, problem.trait_covariates.q)),
        loading_effect_var=np.ones(k),
        weighted=_room_for_weighted(problem),
        random=None if problem.collapsed else np.zeros((p, n)),
        streams=streams,
        links=[part.likelihood.start_parameters() for part in problem.links],
        cis=np.zeros(problem.cis.n),
    )
