"""Running means and variances against dense ones at each state they saw, snapshots against their definition."""

import copy

import numpy as np
import pytest

from slamglmm.fitters.slam import problem as problem_module
from slamglmm.fitters.slam.draws import RunningMeans, Snapshot
from slamglmm.fitters.slam.state import start_state
from slamglmm.fitters.slam.sweep import sweep
from slamglmm.linalg.threads import BlockPool
from tests.reference.dense import Dense, basis, cis_part, level_covariance
from tests.reference.problems import tiny_frame, tiny_problem, tiny_z, uncollapsed

ONE, TWO = "~ x + (1 | g)", "~ x + (1 | g) + (1 | h)"
# Two traits share a pattern, so they come first: the sampler's order of traits is 1, 2, 0.
SCATTERED = [([0, 3], 0), ([5, 6, 7], 1), ([5, 6, 7], 2)]
LAYOUTS = {
    "U integrated out": {"formula": ONE},
    "U integrated out, levels without records": {"formula": ONE, "n": 9, "levels": 12},
    "U integrated out, two effects that commute": {"formula": TWO, "n": 9, "levels": 3},
    "U in the chain": {"formula": ONE, "rank": 6, "uncollapse": True},
    "two effects on rays": {"formula": TWO, "rank": 6},
    "patterns": {"formula": ONE, "n": 12, "levels": 8, "missing": SCATTERED},
    "patterns on rays": {"formula": TWO, "missing": SCATTERED},
    "imputed on rays": {"formula": TWO, "missing": SCATTERED, "impute": True},
    "U integrated out, cells drawn": {"formula": ONE, "missing": SCATTERED, "scatter": np.inf},
    "no fixed effects": {"formula": "~ 0 + (1 | g)"},
    "U integrated out, covariates of one trait": {"formula": ONE, "cis": {"y3": ["z", "w"], "y1": ["w"]}},
    "patterns on rays, covariates of one trait": {"formula": TWO, "missing": SCATTERED, "cis": {"y2": ["z"]}},
    "no fixed effects, covariates of one trait": {"formula": "~ 0 + (1 | g)", "cis": {"y2": ["z", "w"]}},
}


def make(layout, monkeypatch):
    options = dict(LAYOUTS[layout])
    uncollapse = options.pop("uncollapse", False)
    if options.pop("impute", False):
        monkeypatch.setattr(problem_module, "PATTERN_BYTES", 0)
    # Missing cells are drawn with U integrated out where a case says so, and nowhere else.
    monkeypatch.setattr(problem_module, "COST_OF_RANDOM", options.pop("scatter", 0.0))
    responses = 4.0 + 3.0 * np.random.default_rng(9).standard_normal((options.get("n", 10), 3))
    problem = tiny_problem(responses=responses, grid=3, **options)
    assert problem.collapsed == (layout.startswith(("U int", "no fixed effects")) or uncollapse)
    return uncollapsed(problem) if uncollapse else problem


class Witness(RunningMeans):
    """Keeps what each block was added from."""

    def __init__(self, problem):
        super().__init__(problem, ("U_mean", "U_var", "Eta_mean"))
        self.seen = []

    def add_block(self, problem, group, state, block, residual):
        super().add_block(problem, group, state, block, residual)
        self._look(group, state, block)

    def add_own_rows(self, problem, own, state, residual):
        super().add_own_rows(problem, own, state, residual)
        for group in problem.groups[own.groups]:
            self._look(group, state, group.traits)

    def _look(self, group, state, block):
        names = ("y", "coef", "tau", "g", "factors", "gamma", "kappa", "cis")
        self.seen.append((group, block, {name: copy.deepcopy(getattr(state, name)) for name in names}))


def dense_means(problem, dense, group, block, state):
    """E[U_m | rest] of each component and E[XB + C a + F Lambda + Z U_R | rest] of a block of traits."""
    Q, shares, b = basis(problem), problem.grid.shares, problem.b
    s = next(i for i, other in enumerate(problem.groups) if other is group)
    fixed = state["coef"] @ np.concatenate((problem.x, state["factors"])) + cis_part(problem, state["cis"])
    e = state["y"] - fixed
    effects = [np.zeros((c.Z.shape[1], problem.p)) for c in problem.components]
    fitted = np.zeros((problem.n, problem.p))
    for j in range(block.start, block.stop):
        g = state["g"][j]
        fitted[:, j] = Q @ fixed[j]
        for m, component in enumerate(problem.components):
            Z, K = component.Z.toarray(), level_covariance(component)
            own = shares[g, m] * K @ (Q.T @ Z)[group.rows].T @ dense.inverse[s][g] @ e[j, group.rows]
            effects[m][:, j] += own
            fitted[:, j] += Z @ own
            for ell, gamma in enumerate(state["gamma"]):
                solved = dense.inverse_factor[gamma] @ state["factors"][ell]
                effects[m][:, j] += state["coef"][j, b + ell] * shares[gamma, m] * K @ (Q.T @ Z).T @ solved
    return effects, fitted


def dense_conditional_variances(problem, dense, group, block, state):
    """Var(U_m | rest) of the total effects of a block of traits, from n x n matrices."""
    Q, shares, b = basis(problem), problem.grid.shares, problem.b
    s = next(i for i, other in enumerate(problem.groups) if other is group)

    def diagonal(KZ, K, share, inverse):
        return np.diag(share * K - share**2 * KZ @ inverse @ KZ.T)

    out = [np.zeros((c.Z.shape[1], problem.p)) for c in problem.components]
    for m, component in enumerate(problem.components):
        K = level_covariance(component)
        KZ = K @ component.Z.toarray().T @ Q
        for j in range(block.start, block.stop):
            g = state["g"][j]
            own = diagonal(KZ[:, group.rows], K, shares[g, m], dense.inverse[s][g])
            out[m][:, j] += own / state["tau"][j]
            for ell, gamma in enumerate(state["gamma"]):
                of_factor = diagonal(KZ, K, shares[gamma, m], dense.inverse_factor[gamma])
                out[m][:, j] += state["coef"][j, b + ell] ** 2 * of_factor / state["kappa"][ell]
    return out


@pytest.mark.parametrize("layout", LAYOUTS)
def test_effects_their_variances_and_fitted_values(layout, monkeypatch):
    """A stale grid point, a wrong basis, a factor part on the kept rows only, or traits out of the user's order."""
    problem = make(layout, monkeypatch)
    state, running, pool = start_state(problem, np.random.SeedSequence(5)), Witness(problem), BlockPool(1)
    n_draws = 6
    coef, cis = np.zeros((problem.p, problem.b)), np.zeros(problem.cis.n)
    for _ in range(n_draws):
        sweep(problem, state, pool, running)
        coef += state.coef[:, : problem.b] / n_draws
        cis += state.cis / n_draws
    dense = Dense(problem)
    effects = [np.zeros((c.Z.shape[1], problem.p)) for c in problem.components]
    fitted = np.zeros((problem.n, problem.p))
    squares, within = copy.deepcopy(effects), copy.deepcopy(effects)
    for group, block, seen in running.seen:
        more, more_fitted = dense_means(problem, dense, group, block, seen)
        fitted += more_fitted / n_draws
        effects = [effect + part / n_draws for effect, part in zip(effects, more, strict=True)]
        squares = [square + part**2 / n_draws for square, part in zip(squares, more, strict=True)]
        conditional = dense_conditional_variances(problem, dense, group, block, seen)
        within = [inside + part / n_draws for inside, part in zip(within, conditional, strict=True)]
    order, scale = problem.order, problem.scale
    for m, ours in enumerate(running.effects(problem)):
        expected = np.empty_like(effects[m])
        expected[:, order] = effects[m]
        unit = problem.components[m].unit
        np.testing.assert_allclose(ours, expected * scale / unit, rtol=1e-8, atol=1e-9)
    for m, ours in enumerate(running.effect_variances(problem)):
        expected = np.empty_like(effects[m])
        expected[:, order] = within[m] + squares[m] - effects[m] ** 2
        unit = problem.components[m].unit
        np.testing.assert_allclose(ours, expected * (scale / unit) ** 2, rtol=1e-7, atol=1e-9)
    expected = np.empty_like(fitted)
    expected[:, order] = fitted
    taken_off = problem.rotation.back(problem.x).T @ problem.base_coef.T
    np.testing.assert_allclose(running.fitted(problem), taken_off + scale * expected, rtol=1e-8, atol=1e-9)
    own = running.cis_effects(problem)
    check_fixed_part(layout, problem, coef, cis, running.fixed_effects(problem), own)


def check_fixed_part(layout, problem, coef, cis, B, effects):
    """X B and the covariates as they came times their effects, on the user's scale: X base_coef + scale (X b + C a)."""
    X = problem.rotation.back(problem.x).T
    expected = np.empty((problem.n, problem.p))
    expected[:, problem.order] = X @ coef.T + problem.rotation.back(cis_part(problem, cis)).T
    fixed = X @ B
    values = {"w": tiny_frame(problem.n, problem.p)[0]["w"].to_numpy(), "z": tiny_z(problem.n)}
    named = [(trait, name) for trait, names in LAYOUTS[layout].get("cis", {}).items() for name in names]
    for (trait, name), effect in zip(named, effects, strict=True):
        fixed[:, problem.traits.index(trait)] += effect * values[name]
    np.testing.assert_allclose(fixed, X @ problem.base_coef.T + problem.scale * expected, rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_snapshot(layout, monkeypatch):
    """kappa divided out, scaling undone, traits in the user's order, G + R equal to the implied covariance."""
    problem = make(layout, monkeypatch)
    state, pool = start_state(problem, np.random.SeedSequence(6)), BlockPool(1)
    for _ in range(4):
        sweep(problem, state, pool)
    snapshot = Snapshot(problem, state)
    back = np.argsort(problem.order)  # positions of the user's traits
    scale, b, grid = problem.scale, problem.b, problem.grid.shares
    Lambda = ((state.coef[:, b:] / np.sqrt(state.kappa))[back] * scale[:, None]).T
    np.testing.assert_allclose(snapshot.Lambda(), Lambda.T)
    variance = scale**2 / state.tau[back]
    np.testing.assert_allclose(snapshot.residual_variance(), variance)
    # Of one unit of a slope's covariate; shares are at its root mean square.
    squares = np.append([component.unit**2 for component in problem.components], 1.0)
    covariances = snapshot.covariances() * squares[:, None, None]
    for m in range(len(problem.components)):
        G = Lambda.T @ np.diag(grid[state.gamma, m]) @ Lambda + np.diag(grid[state.g[back], m] * variance)
        np.testing.assert_allclose(covariances[m], G, rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(covariances.sum(axis=0), Lambda.T @ Lambda + np.diag(variance), rtol=1e-10)
    total = np.diag(covariances.sum(axis=0))
    np.testing.assert_allclose(snapshot.h2(), [np.diag(G) / total for G in covariances[:-1]], rtol=1e-10)
    np.testing.assert_allclose(snapshot.h2_residual(), grid[state.g[back]].T)
    np.testing.assert_allclose(snapshot.h2_factor(), grid[state.gamma].T)
    check_fixed_part(layout, problem, state.coef[:, :b], state.cis, snapshot.B(), snapshot.cis())
