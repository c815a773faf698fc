"""What is kept of a chain: draws of the small quantities, running means of the large ones."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from ...linalg.covariances import TurnedRows
from ...linalg.families import kernel_root
from ...linalg.threads import BLOCK, blocks
from ...links import Parameters
from ...results.base import refuse_not_finite
from .blocks import draw_effects
from .effect_variances import EffectVariances
from .own_rows import OwnRows
from .problem import LinkedTraits, Problem, TraitGroup
from .state import State

# Kept draw by draw, on the scale of the data, traits in the user's order; "links" are parameters of links. From
# "G_diag" on only when asked for.
DRAWN = (
    *("h2", "h2_factor", "Lambda", "residual_var", "h2_residual", "B", "B_factor", "cis", "loading_effects"),
    *("links", "G_diag", "R_diag", "Eta", "U", "G", "R"),
)
# Their last axis, as they are kept, is one of factors; unused places of an adaptive number are zero.
BY_FACTOR = ("h2_factor", "Lambda", "B_factor", "loading_effects")
# Posterior means and variances gathered as the chain goes.
MOMENTS = ("U_mean", "U_var", "Eta_mean", "Data_mean")
STORABLE = (*DRAWN, *MOMENTS)
DTYPES = ("float64", "float32")
# Draws held in memory when they stream to disk.
BUFFER_BYTES = 32 * 2**20
# Conditional means of successive iterations say nearly the same.
MEANS_EVERY = 4
DEFAULT_STORE = (
    *("h2", "h2_factor", "Lambda", "residual_var", "h2_residual", "B", "B_factor", "cis", "loading_effects"),
    *("links", "U_mean", "Eta_mean", "Data_mean"),
)


@dataclass
class Snapshot:
    """The current state on the scale of the data; each quantity is computed when first asked for."""

    problem: Problem
    state: State
    loadings: np.ndarray = field(init=False)
    residual_var: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        problem, state = self.problem, self.state
        scale = problem.scale[problem.order]
        self.loadings = (state.coef[:, problem.b :] / np.sqrt(state.kappa)) * scale[:, None]
        self.residual_var = scale**2 / state.tau

    def _user_order(self, values: np.ndarray) -> np.ndarray:
        if self.problem.in_order:
            return values
        out = np.empty_like(values)
        out[..., self.problem.order] = values
        return out

    def Lambda(self) -> np.ndarray:
        """Loadings of unit-variance factors, trait-major as in the state (a transposed copy costs): shape (p, k)."""
        return self._user_order(self.loadings.T).T

    def h2_factor(self) -> np.ndarray:
        """Variance shares of the factors, shape (n_components, k)."""
        return self.problem.grid.shares[self.state.gamma].T

    def h2_residual(self) -> np.ndarray:
        """Variance shares of the trait-specific part, shape (n_components, p)."""
        return self._user_order(self.problem.grid.shares[self.state.g].T)

    def residual_variance(self) -> np.ndarray:
        """Variance of the trait-specific part, all shares together, shape (p,)."""
        return self._user_order(self.residual_var)

    @cached_property
    def variances(self) -> np.ndarray:
        """Part of each random effect, then of the residual, in the variance, shape (n_components + 1, p).

        Of a slope at the root mean square of its covariate.
        """
        grid = self.problem.grid
        shares = np.column_stack((grid.shares, grid.residual_share))
        own = shares[self.state.g] * self.residual_var[:, None]
        return self._user_order((self.loadings**2 @ shares[self.state.gamma] + own).T)

    def G_diag(self) -> np.ndarray:
        """Variance of each random effect, shape (n_components, p)."""
        return self.variances[:-1] / self.problem.units[:, None] ** 2

    def R_diag(self) -> np.ndarray:
        """Variance of the residual, shape (p,)."""
        return self.variances[-1]

    def h2(self) -> np.ndarray:
        """Share of each random effect in the variance of a trait, shape (n_components, p)."""
        return self.variances[:-1] / self.variances.sum(axis=0)

    def Eta(self) -> np.ndarray:
        """Latent traits, shape (rows of the design, p); NaN in rows that take no part."""
        problem = self.problem
        values = np.full((problem.n_rows, problem.p), np.nan)
        scaled = self.state.y * problem.scale[problem.order][:, None] + problem.base(slice(None))
        values[problem.active] = self._user_order(problem.rotation.back(scaled).T)
        return values

    def B(self) -> np.ndarray:
        """Fixed effects, shape (b, p); NaN where the data of a trait cannot tell one."""
        problem = self.problem
        natural = self._user_order(self.state.coef[:, : problem.b].T) * problem.scale + problem.base_coef.T
        if problem.cis.n:
            natural += problem.center_coefs * problem.cis.at_zero(self.state.cis, problem.scale)
        natural = problem.of_given_columns(natural)
        natural[~problem.estimable] = np.nan
        return natural

    def cis(self) -> np.ndarray:
        """Effects of one unit of the covariates of single traits, shape (E,)."""
        return self.problem.cis.natural(self.state.cis, self.problem.scale)

    def B_factor(self) -> np.ndarray:
        """Fixed effects of unit-variance factors, shape (b_F, k)."""
        return (self.state.coef_factor * np.sqrt(self.state.kappa)[:, None]).T

    def loading_effects(self) -> np.ndarray:
        """Effects of covariates of the traits on loadings, in standard deviations of a trait, shape (q, k)."""
        return self.problem.trait_covariates.back @ (self.state.loading_effects / np.sqrt(self.state.kappa)[:, None]).T

    def covariances(self) -> np.ndarray:
        """Covariance among traits of each random effect, then of the residual, shape (n_components + 1, p, p)."""
        grid = self.problem.grid
        factor = np.column_stack((grid.shares, grid.residual_share))[self.state.gamma]
        own = np.column_stack((grid.shares, grid.residual_share))[self.state.g] * self.residual_var[:, None]
        out = np.empty((factor.shape[1], self.problem.p, self.problem.p))
        order = self.problem.order
        for m in range(len(out)):
            matrix = (self.loadings * factor[:, m]) @ self.loadings.T
            matrix[np.diag_indices(len(matrix))] += own[:, m]
            out[m][np.ix_(order, order)] = matrix
        out[:-1] /= self.problem.units[:, None, None] ** 2
        return out


class EffectSampler:
    """Draws of all random effects, factor part included; keeps the roots of K."""

    def __init__(self, problem: Problem):
        self.roots = [None if component.K is None else kernel_root(component.K) for component in problem.components]

    def __call__(self, problem: Problem, state: State) -> list[np.ndarray]:
        """``U_R + U_F Lambda`` of each component, shape (r_m, p), on the scale of the data."""
        rng, b = state.streams.kept, problem.b
        design = np.concatenate((problem.x, state.factors))
        factor_effects = draw_effects(
            problem,
            self.roots,
            problem.factor_cov,
            np.arange(problem.n),
            state.factor_residual(problem),
            state.gamma,
            state.kappa,
            rng,
        )
        totals = [effect.T @ state.coef[:, b:].T for effect in factor_effects]
        for group in problem.groups:
            members = group.traits
            residual = state.y[members][:, group.rows] - state.coef[members] @ design[:, group.rows]
            if problem.cis.n:
                residual -= problem.cis.values(state.cis, members)[:, group.rows]
            own = draw_effects(
                problem, self.roots, group.cov, group.rows, residual, state.g[members], state.tau[members], rng
            )
            for total, effect in zip(totals, own, strict=True):
                total[:, members] += effect.T
        out = []
        for total, unit in zip(totals, problem.units, strict=True):
            ordered = np.empty_like(total)
            ordered[:, problem.order] = total
            out.append(ordered * (problem.scale / unit))
        return out


class DrawBuffer:
    """Arrays that hold the draws named in ``store``, as numbers of type ``dtype``."""

    def __init__(self, problem: Problem, store: tuple[str, ...], n_draws: int, dtype: str = "float64"):
        self.values: dict[str, np.ndarray] = {}
        self.n = 0
        self._n_draws = n_draws
        self._most_factors = problem.most_factors
        self._active = problem.active
        self._dtype = dtype
        self._readers: dict[str, Callable[[Snapshot], np.ndarray]] = {
            "h2": Snapshot.h2,
            "h2_factor": Snapshot.h2_factor,
            "Lambda": Snapshot.Lambda,
            "residual_var": Snapshot.residual_variance,
            "h2_residual": Snapshot.h2_residual,
            "B": Snapshot.B,
            "G_diag": Snapshot.G_diag,
            "R_diag": Snapshot.R_diag,
            "Eta": Snapshot.Eta,
        }
        if problem.n_factor_effects:
            self._readers["B_factor"] = Snapshot.B_factor
        if problem.cis.n:
            self._readers["cis"] = Snapshot.cis
        if problem.trait_covariates.q:
            self._readers["loading_effects"] = Snapshot.loading_effects
        self._store = store
        self._of_links = {variable.name for variable in problem.link_variables}
        self._effects = EffectSampler(problem) if "U" in store else None

    def add(self, problem: Problem, state: State) -> None:
        """Keep the current state."""
        snapshot = Snapshot(problem, state)
        for name, read in self._readers.items():
            if name in self._store:
                self._put(name, read(snapshot))
        if "G" in self._store or "R" in self._store:
            covariances = snapshot.covariances()
            if "G" in self._store:
                self._put("G", covariances[:-1])
            if "R" in self._store:
                self._put("R", covariances[-1])
        if "links" in self._store:
            for variable in problem.link_variables:
                self._put(variable.name, state.links[variable.part][variable.key])
        if self._effects is not None:
            for component, effects in zip(problem.components, self._effects(problem, state), strict=True):
                self._put(f"U_{component.label}", effects)
        self.n += 1

    def _put(self, name: str, value: np.ndarray) -> None:
        if name in BY_FACTOR and value.shape[-1] < self._most_factors:
            value = np.pad(value, ((0, 0), (0, self._most_factors - value.shape[-1])))
        if name not in self.values:
            self.values[name] = np.empty((self._n_draws, *value.shape), self._dtype)
        self.values[name][self.n] = value
        # Effects of columns that cannot be estimated may be NaN; everything else is a number or the chain is lost.
        if name != "B":
            float32 = "float32 holds numbers up to 3e38: store_dtype='float64' up to 1e308."
            kept = self.values[name][self.n]
            # Rows without data take no part in the chain and have no latent traits.
            kept = kept[self._active] if name == "Eta" else kept
            # The last category of an ordinal trait has no upper cut point.
            kept = kept[~np.isposinf(kept)] if name in self._of_links else kept
            refuse_not_finite("slam", {name: kept}, float32 if self._dtype == "float32" else "")

    def drawn(self) -> dict[str, np.ndarray]:
        """The draws so far, loadings as (draw, factor, trait)."""
        drawn = {name: values[: self.n] for name, values in self.values.items()}
        if "Lambda" in drawn:
            drawn["Lambda"] = np.swapaxes(drawn["Lambda"], 1, 2)
        return drawn


def draw_shapes(problem: Problem, store: tuple[str, ...]) -> dict[str, tuple[int, ...]]:
    """Shape of one draw of each quantity in ``store``, as `DrawBuffer.drawn` gives it."""
    p, k, r = problem.p, problem.most_factors, len(problem.components)
    shapes: dict[str, tuple[int, ...]] = {
        "h2": (r, p),
        "h2_factor": (r, k),
        "Lambda": (k, p),
        "residual_var": (p,),
        "h2_residual": (r, p),
        "B": (problem.b, p),
        "B_factor": (problem.n_factor_effects, k),
        "cis": (problem.cis.n,),
        "loading_effects": (problem.trait_covariates.q, k),
        "G_diag": (r, p),
        "R_diag": (p,),
        "Eta": (problem.n_rows, p),
        "G": (r, p, p),
        "R": (p, p),
    }
    if not problem.n_factor_effects:
        del shapes["B_factor"]
    if not problem.cis.n:
        del shapes["cis"]
    if not problem.trait_covariates.q:
        del shapes["loading_effects"]
    shapes = {name: shape for name, shape in shapes.items() if name in store}
    if "links" in store:
        shapes |= {v.name: tuple(len(labels) for _, labels in v.dims) for v in problem.link_variables}
    if "U" in store:
        shapes |= {f"U_{c.label}": (c.Z.shape[1], p) for c in problem.components}
    return shapes


def draw_bytes(problem: Problem, store: tuple[str, ...], dtype: str) -> dict[str, int]:
    """Room that one draw of each quantity in ``store`` takes."""
    size = np.dtype(dtype).itemsize
    return {name: size * int(np.prod(s, dtype=np.int64)) for name, s in draw_shapes(problem, store).items()}


def buffer_length(problem: Problem, store: tuple[str, ...], dtype: str, draws: int) -> int:
    """Draws held before they go to disk."""
    one = sum(draw_bytes(problem, store, dtype).values())
    return int(np.clip(BUFFER_BYTES // max(1, one), 1, draws))


class RunningMeans:
    """Sums of conditional means of U and of the fitted values, in the basis of the chain; eq. SLAM-22.

    ``E[U_m | rest] = K_m Z_m' alpha_m`` with ``alpha_m = h_m V^-1 e`` (plus the factors' part), so only ``alpha`` is
    summed and the levels are computed once, at the end.

    Attributes
    ----------
    n, offered : int
        Number of terms in the sums, and of draws that could have been.
    eta : ndarray, shape (p, n), or None
        Fitted values without ``Z U_R``; with U integrated out, minus the conditional mean of the residual. None when
        they are not wanted.
    alpha, own : ndarray, shape (n_components, p, n)
        With U in the chain `own` has the traits' own parts, apart because they reach rows where a trait is not kept.
    spread : EffectVariances or None
        Sums for the variances of U, if they are wanted.
    data : ndarray, shape (p, n), or None
        Expected data given the latent mean and precision, for links; eq. LINK-42.
    """

    def __init__(self, problem: Problem, store: tuple[str, ...] = ("U_mean", "Eta_mean")):
        p, n, n_components = problem.p, problem.n, len(problem.components)
        self.n = 0
        self.offered = 0
        self.eta = np.zeros((p, n)) if "Eta_mean" in store else None
        self.coef = np.zeros((p, problem.b))
        self.coef_factor = np.zeros((p, problem.n_factor_effects))
        self.cis = np.zeros(problem.cis.n)
        self.alpha = np.zeros((n_components, p, n))
        self.own = None if problem.collapsed else np.zeros((n_components, p, n))
        self.spread = EffectVariances(problem) if "U_var" in store else None
        wanted = "Data_mean" in store and any(part.data_scales for part in problem.links)
        self.data = np.zeros((p, n)) if wanted else None
        self._solved_factors = np.zeros((0, n))

    def is_due(self, thin: int) -> bool:
        """Whether the next kept draw goes into the sums: all, or every fourth one when nothing is thinned."""
        self.offered += 1
        return thin > 1 or self.offered % MEANS_EVERY == 1

    def start_draw(self, problem: Problem, state: State) -> None:
        """Prepare the factors' part, shared by all blocks."""
        cov = problem.factor_cov
        self._solved_factors = cov.leave(cov.turn(cov.enter(state.factor_residual(problem)), state.gamma).solve())
        self.n += 1

    def add_block(
        self,
        problem: Problem,
        group: TraitGroup,
        state: State,
        block: slice,
        residual: TurnedRows,
    ) -> None:
        """Add one block of traits (blocks never overlap, so threads do not meet here)."""
        cov, g = group.cov, state.g[block]
        shares = problem.grid.shares[g].T[:, :, None]
        solved = residual.solve()
        if problem.collapsed:
            if self.eta is not None:
                # y - E[residual]: data are constant, so only the residual's mean is summed.
                self.eta[block] -= cov.residual_share[g][:, None] * solved
                if problem.impute:
                    self.eta[block] += state.y[block]
            self._add(problem, state, block, solved, shares, (slice(None), slice(None)))
        else:
            self._add(problem, state, block, cov.leave(solved), shares, (slice(None), group.rows))

    def add_own_rows(self, problem: Problem, own: OwnRows, state: State, residual: np.ndarray) -> None:
        """Add traits that are drawn together, given their residuals in common coordinates, shape (N,)."""
        g = state.g[own.traits]
        solved = own.leave(own.weights_of(g) * residual)
        self._add(problem, state, own.traits, solved, problem.grid.shares[g].T[:, own.trait], (own.trait, own.row))

    def _add(
        self,
        problem: Problem,
        state: State,
        block: slice,
        solved: np.ndarray,
        shares: np.ndarray,
        at: tuple[slice | np.ndarray, slice | np.ndarray],
    ) -> None:
        """Add traits whose ``V^-1 e`` and shares are given for the cells ``at`` of the block."""
        b = problem.b
        self.coef[block] += state.coef[block, :b]
        if problem.cis.n:
            own = problem.cis.of(block)
            self.cis[own] += state.cis[own]
        if problem.n_factor_effects:
            self.coef_factor[block] += state.coef[block, b:] @ state.coef_factor
        if self.eta is not None and not problem.collapsed:
            self.eta[block] += state.coef[block] @ np.concatenate((problem.x, state.factors))
            if problem.cis.n:
                self.eta[block] += problem.cis.values(state.cis, block)
        if self.spread is not None:
            self.spread.add_block(problem, state, block)
        for m in range(len(problem.components)):
            own = shares[m] * solved
            total = (state.coef[block, b:] * problem.grid.shares[state.gamma, m]) @ self._solved_factors
            if self.own is None:
                total += own
                self.alpha[m, block] += total
            else:
                self.own[m, block][at] += own
                self.alpha[m, block] += total
                total[at] += own
            if self.spread is not None:
                self.spread.add_means(problem, m, block, total)

    def add_data(
        self,
        problem: Problem,
        part: LinkedTraits,
        own: slice,
        mean: np.ndarray,
        prec: np.ndarray,
        parameters: Parameters,
    ) -> None:
        """Add the expected data of some traits of a link, given their latent mean and precision in natural units."""
        if self.data is None:
            return
        first = part.traits.start
        if not part.data_scales:
            self.data[first + own.start : first + own.stop] = np.nan
            return
        for i, j in enumerate(range(own.start, own.stop)):
            of_trait = {key: parameters[key][j] for key in part.parameters_by_trait}
            moments = part.data_scales[j].moments(mean[i] + problem.offset, 1.0 / prec[i], of_trait)
            self.data[first + j] += moments.mean

    def expected_data(self, problem: Problem) -> np.ndarray:
        """Posterior mean of the expected data on rows with data, shape (n, p)."""
        assert self.data is not None
        out = np.empty_like(self.data)
        out[problem.order] = self.data / max(self.n, 1)
        return out.T

    def effects(self, problem: Problem) -> list[np.ndarray]:
        """Posterior mean of the effects of each component, shape (r_m, p), on the scale of the data."""
        out = [np.empty((component.Z.shape[1], problem.p)) for component in problem.components]
        # Blocks of traits, because whole matrices would be there several times.
        for block in blocks(problem.p, BLOCK):
            to, scale = problem.order[block], problem.scale[problem.order[block]]
            for m, values in enumerate(out):
                values[:, to] = self._block_effects(problem, m, block).T * (scale / problem.units[m])
        return out

    def effect_variances(self, problem: Problem) -> list[np.ndarray]:
        """Posterior variance of the effects of each component, shape (r_m, p), on the scale of the data."""
        assert self.spread is not None
        out = []
        for m, component in enumerate(problem.components):
            values = np.empty((component.Z.shape[1], problem.p))
            conditional = self.spread.conditional(problem, m, max(self.n, 1))
            for block in blocks(problem.p, BLOCK):
                to, scale = problem.order[block], problem.scale[problem.order[block]]
                means = self._block_effects(problem, m, block)
                of_means = np.maximum(self.spread.squares[m][block] / max(self.n, 1) - means**2, 0.0)
                values[:, to] = (conditional[block] + of_means).T * (scale / component.unit) ** 2
            out.append(values)
        return out

    def _block_effects(self, problem: Problem, m: int, block: slice) -> np.ndarray:
        """Mean effects of a component on a block of traits, shape (block, r_m), on the scale of the sampler."""
        alpha = self.alpha[m, block] if self.own is None else self.alpha[m, block] + self.own[m, block]
        return problem.components[m].levels_from_rows(problem.rotation.back(alpha / max(self.n, 1)))

    def fitted(self, problem: Problem) -> np.ndarray:
        """Posterior mean of ``XB + F Lambda + Z U_R`` on rows with data, shape (n, p), on the scale of the data."""
        assert self.eta is not None
        eta = self.eta / max(self.n, 1)
        if problem.collapsed and not problem.impute:
            eta += problem.y
        eta = problem.rotation.back(eta)
        if self.own is not None:
            for m, component in enumerate(problem.components):
                own = problem.rotation.back(self.own[m] / max(self.n, 1))
                eta += component.levels_from_rows(own) @ component.Z.T
        out, x = self._to_user(problem, eta), problem.rotation.back(problem.x)
        for part in blocks(problem.p, BLOCK):
            out[part] += problem.base_coef[part] @ x
        return out.T

    def fixed_effects(self, problem: Problem) -> np.ndarray:
        """Posterior mean of the fixed effects, shape (b, p), on the scale of the data; zero where one is left out."""
        natural = self._to_user(problem, self.coef / max(self.n, 1)).T + problem.base_coef.T
        if problem.cis.n:
            natural += problem.center_coefs * problem.cis.at_zero(self.cis / max(self.n, 1), problem.scale)
        return problem.of_given_columns(natural) * problem.estimable

    def cis_effects(self, problem: Problem) -> np.ndarray:
        """Posterior mean of the effects of one unit of the covariates of single traits, shape (E,)."""
        return problem.cis.natural(self.cis / max(self.n, 1), problem.scale)

    def factor_fixed_effects(self, problem: Problem) -> np.ndarray:
        """Posterior mean of the fixed effects that act through factors, shape (b_F, p), on the scale of the data."""
        return self._to_user(problem, self.coef_factor / max(self.n, 1)).T

    @staticmethod
    def _to_user(problem: Problem, values: np.ndarray) -> np.ndarray:
        out = np.empty_like(values)
        out[problem.order] = values
        return out * problem.scale[:, None]
