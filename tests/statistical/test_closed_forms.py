"""Posteriors and full conditionals known in closed form, against many draws of the sampler's own functions.

Every test compares z statistics with a bound passed once in 10 000 runs of this file if the sampler is right
(Bonferroni over all statistics); seeds are fixed.
"""

import dataclasses

import numpy as np
import pytest
import scipy.linalg
import scipy.stats

from slamglmm.fitters.slam import blocks
from slamglmm.fitters.slam import problem as problem_module
from slamglmm.fitters.slam.draws import EffectSampler
from slamglmm.fitters.slam.state import start_state
from slamglmm.fitters.slam.sweep import sweep
from slamglmm.linalg.threads import BlockPool, single_threaded_blas
from slamglmm.priors import Priors
from tests.reference.dense import Dense, basis, level_covariance, whitened_z
from tests.reference.problems import tiny_problem, uncollapsed

N_TESTS = 60
FALSE_ALARM = 1e-4
POOL = BlockPool(1)

ONE, TWO = "~ x + (1 | g)", "~ x + (1 | g) + (1 | h)"
# Two traits share a pattern, so they come first: the sampler's order of traits is 1, 2, 0.
SCATTERED = [([0, 3], 0), ([5, 6, 7], 1), ([5, 6, 7], 2)]
LAYOUTS = {
    "one effect": {"formula": ONE},
    "singular K, repeated records": {"formula": ONE, "n": 12, "levels": 8, "rank": 5},
    "levels without records": {"formula": ONE, "n": 9, "levels": 12},
    "two effects on rays": {"formula": TWO, "rank": 6},
    "patterns": {"formula": ONE, "missing": SCATTERED},
    "patterns on rays": {"formula": TWO, "rank": 7, "missing": SCATTERED},
    "imputed on rays": {"formula": TWO, "missing": SCATTERED, "impute": True},
}


@pytest.fixture(autouse=True)
def _one_thread():
    with single_threaded_blas():
        yield


def make(layout, monkeypatch, **options):
    options = (LAYOUTS | CIS)[layout] | options
    if options.pop("impute", False):
        monkeypatch.setattr(problem_module, "PATTERN_BYTES", 0)
    return tiny_problem(priors=Priors(cis=0.6), **options)


def frozen_state(problem, seed=3):
    """A state with every quantity away from its start: a few iterations, then fixed."""
    state = start_state(problem, np.random.SeedSequence(seed))
    for _ in range(5):
        sweep(problem, state, POOL)
    return state


def check(z):
    z = np.ravel(z)
    bound = scipy.stats.norm.isf(FALSE_ALARM / (2 * N_TESTS * len(z)))
    assert np.abs(z).max() < bound, f"|z| = {np.abs(z).max():.1f} of {len(z)}, bound {bound:.1f}"


def check_p(p):
    p = np.ravel(p)
    assert p.min() > FALSE_ALARM / (N_TESTS * len(p)), f"p = {p.min():.1e} of {len(p)}"


def share_posterior(y, X, V, log_prior, prior):
    """P(g | y) of one trait without factors: B flat and tau integrated out, dense."""
    log_mass = np.empty(len(V))
    for g in range(len(V)):
        inverse = np.linalg.inv(V[g])
        information = X.T @ inverse @ X
        centred = y - X @ np.linalg.solve(information, X.T @ inverse @ y)
        rate = prior.rate + 0.5 * centred @ inverse @ centred
        log_mass[g] = (
            log_prior[g]
            - 0.5 * np.linalg.slogdet(V[g])[1]
            - 0.5 * np.linalg.slogdet(information)[1]
            - (prior.shape + 0.5 * (len(y) - X.shape[1])) * np.log(rate)
        )
    mass = np.exp(log_mass - log_mass.max())
    return mass / mass.sum()


@pytest.mark.parametrize(
    "options",
    [
        {"formula": ONE, "n": 30, "p": 1},
        {"formula": ONE, "n": 30, "p": 1, "levels": 12, "rank": 6},
        {"formula": TWO, "n": 24, "p": 1},
        {"formula": ONE, "n": 30, "p": 2, "missing": [(range(4, 12), 1)]},
        {"formula": TWO, "n": 24, "p": 2, "missing": [(range(4, 12), 1), ([1], 0)]},
    ],
    ids=["t = 1 on the grid", "singular K", "two effects", "a missing pattern", "two patterns on rays"],
)
def test_shares_without_factors(options, monkeypatch):
    """Frequencies of h2 of a trait on its own: any wrong power of |V|, tau's rate, or the flat B in either."""
    monkeypatch.setattr(problem_module, "COST_OF_RANDOM", 0.0)  # traits with missing cells keep rows of their own
    priors = Priors(h2=lambda h: 2.0 - h.sum(axis=1))
    problem = tiny_problem(k=0, priors=priors, grid=5, **options)
    assert (problem.grid.residual_share.min() < 1e-12) == ("levels" not in options and problem.collapsed)
    state, iterations, n_batches = start_state(problem, np.random.SeedSequence(8)), 8000, 80
    g = np.empty((iterations, problem.p), dtype=int)
    for i in range(iterations):
        sweep(problem, state, POOL)
        g[i] = state.g
    dense, z = Dense(problem), []
    for s, group in enumerate(problem.groups):
        for j in range(group.traits.start, group.traits.stop):
            expected = share_posterior(
                problem.y[j, group.rows],
                problem.x[:, group.rows].T,
                dense.V[s],
                problem.log_prior_traits,
                problem.priors.residual,
            )
            hits = (g[:, j, None] == np.arange(len(expected))).reshape(n_batches, -1, len(expected)).mean(axis=1)
            error = hits.std(axis=0, ddof=1) / np.sqrt(n_batches)
            assert error.max() < 0.012
            often = expected > 0.01
            assert expected[often].sum() > 0.95
            z.append((hits.mean(axis=0) - expected)[often] / error[often])
    # Batch means have 79 degrees of freedom: to normal scores.
    check(scipy.stats.norm.ppf(scipy.stats.t.cdf(np.concatenate(z), n_batches - 1)))


# Covariates of two traits of their own; on rays, and with rows left out, in coordinates of each trait's own.
CIS = {
    "cis": {"formula": ONE, "rank": 6, "cis": {"y1": ["z"], "y3": ["w", "z"]}},
    "cis, patterns on rays": {**LAYOUTS["patterns on rays"], "cis": {"y1": ["z"], "y3": ["w", "x"]}},
}


def own_columns(problem, j):
    """Covariates of one trait in the sampler's basis, shape (c, n)."""
    if not problem.cis.n:
        return np.zeros((0, problem.n))
    return problem.cis.columns[problem.cis.column[problem.cis.starts[j] : problem.cis.starts[j + 1]]]


# Without the first level of h, its other two columns add up to the intercept on the rows of the second trait.
ALIASED = {"formula": "~ h + (1 | g)", "n": 12, "missing": [([0, 3, 6, 9], 1)]}


@pytest.mark.filterwarnings("ignore:1 fixed effect:slamglmm.errors.SlamWarning")
@pytest.mark.parametrize("layout", [*LAYOUTS, *CIS, "a column that one trait cannot estimate"])
def test_loadings_step_is_normal_gamma(layout, monkeypatch):
    """(B, Lambda, a, tau) given factors and one grid point: independent draws from the closed-form posterior."""
    problem = make(layout, monkeypatch) if layout in LAYOUTS | CIS else tiny_problem(**ALIASED)
    state, N, b = frozen_state(problem), 6000, problem.b
    rng = np.random.default_rng(1)
    dense, prior = Dense(problem), problem.priors.residual
    for s, group in enumerate(problem.groups):
        shared = blocks.prepare_regressors(problem, group, state, POOL)
        coef, tau, cis = np.empty((N, problem.p, b + 2)), np.empty((N, problem.p)), np.empty((N, problem.cis.n))
        for i in range(N):
            blocks.draw_loadings(problem, group, shared, state, group.blocks[0], rng)
            coef[i], tau[i], cis[i] = state.coef, state.tau, state.cis
        for j in range(group.traits.start, group.traits.stop):
            own = own_columns(problem, j)
            first = problem.cis.starts[j] if problem.cis.n else 0
            told = group.estimable & ~group.held[j - group.traits.start]
            free = np.concatenate((told, np.ones(problem.n_factors, dtype=bool)))
            assert not coef[:, j, ~free].any()
            D = np.concatenate((np.concatenate((problem.x, state.factors))[free], own))[:, group.rows]
            W = dense.inverse[s][state.g[j]]
            y = state.y[j, group.rows]
            prior_prec = np.concatenate((np.zeros(b), state.scales.local[j] * state.scales.row))[free]
            prior_prec = np.concatenate((prior_prec, np.full(len(own), 1.0 / problem.priors.cis)))
            C = D @ W @ D.T + np.diag(prior_prec)
            mean = np.linalg.solve(C, D @ W @ y)
            shape = prior.shape + 0.5 * (len(y) - told.sum())
            rate = prior.rate + 0.5 * (y @ W @ y - mean @ C @ mean)
            check_p(scipy.stats.kstest(tau[:, j], scipy.stats.gamma(shape, scale=1 / rate).cdf).pvalue)
            drawn = np.column_stack((coef[:, j][:, free], cis[:, first : first + len(own)]))
            standard = (drawn - mean) * np.sqrt(tau[:, j])[:, None]
            check(whitened_z(standard, np.zeros(len(C)), np.linalg.inv(C)))
            # and independent of tau
            check(np.sqrt(N) * np.corrcoef(np.abs(standard).T, np.log(tau[:, j]))[-1, :-1])


@pytest.mark.parametrize("layout", [*LAYOUTS, *CIS])
def test_shares_and_precision_of_traits_given_the_rest(layout, monkeypatch):
    """(g, tau) jointly: masses with tau integrated out, and tau given g."""
    problem = make(layout, monkeypatch)
    state, N, b, k = frozen_state(problem), 8000, problem.b, problem.n_factors
    rng, prior, dense = np.random.default_rng(2), problem.priors.residual, Dense(problem)
    for s, group in enumerate(problem.groups):
        start = dataclasses.replace(state, g=state.g.copy(), tau=state.tau.copy())
        D = np.concatenate((problem.x, state.factors))[:, group.rows]
        e = state.y[group.traits][:, group.rows] - state.coef[group.traits] @ D
        effects = np.split(state.cis, problem.cis.starts[1:-1]) if problem.cis.n else [np.zeros(0)] * problem.p
        for i, j in enumerate(range(group.traits.start, group.traits.stop)):
            e[i] -= effects[j] @ own_columns(problem, j)[:, group.rows]
        common = group.cov.enter(e)
        g, tau = np.empty((N, problem.p), dtype=int), np.empty((N, problem.p))
        for i in range(N):
            start.g[:], start.tau[:] = state.g, state.tau
            residual, every = group.cov.turn(common, start.g[group.traits]), np.arange(len(group.cov.inner))
            blocks.draw_trait_shares(problem, group, start, group.blocks[0], residual, every, rng)
            g[i], tau[i] = start.g, start.tau
        for i, j in enumerate(range(group.traits.start, group.traits.stop)):
            penalty = state.coef[j, b:] ** 2 @ (state.scales.local[j] * state.scales.row)
            penalty += np.sum(effects[j] ** 2) / problem.priors.cis
            rates = prior.rate + 0.5 * (np.einsum("a,gab,b->g", e[i], dense.inverse[s], e[i]) + penalty)
            shape = prior.shape + 0.5 * (len(group.rows) + k + len(effects[j]))
            log_mass = problem.log_prior_traits - 0.5 * np.linalg.slogdet(dense.V[s])[1] - shape * np.log(rates)
            mass = np.exp(log_mass - log_mass.max())
            check_p(_chi_square(g[:, j], mass / mass.sum()))
            check_p(scipy.stats.kstest(tau[:, j] * rates[g[:, j]], scipy.stats.gamma(shape).cdf).pvalue)


@pytest.mark.parametrize("layout", ["one effect", "two effects on rays", "patterns on rays"])
def test_shares_and_precision_of_factors_given_the_rest(layout, monkeypatch):
    """(gamma, kappa): all rows count, and no loading does."""
    problem = make(layout, monkeypatch)
    state, N, rng, dense = frozen_state(problem), 8000, np.random.default_rng(3), Dense(problem)
    prior = problem.priors.factor
    gamma, kappa = np.empty((N, 2), dtype=int), np.empty((N, 2))
    for i in range(N):
        factors = problem.factor_cov.turn(problem.factor_cov.enter(state.factors), state.gamma)
        blocks.draw_factor_shares(problem, state, factors, rng)
        gamma[i], kappa[i] = state.gamma, state.kappa
    for ell, f in enumerate(state.factors):
        rates = prior.rate + 0.5 * np.einsum("a,gab,b->g", f, dense.inverse_factor, f)
        shape = prior.shape + 0.5 * problem.n
        log_mass = problem.log_prior_factors - 0.5 * np.linalg.slogdet(dense.V_factor)[1] - shape * np.log(rates)
        mass = np.exp(log_mass - log_mass.max())
        check_p(_chi_square(gamma[:, ell], mass / mass.sum()))
        check_p(scipy.stats.kstest(kappa[:, ell] * rates[gamma[:, ell]], scipy.stats.gamma(shape).cdf).pvalue)


def _chi_square(points, mass):
    expected = mass * len(points)
    rare = expected < 10
    counts = np.bincount(points, minlength=len(mass))
    observed = np.append(counts[~rare], counts[rare].sum())
    expected = np.append(expected[~rare], expected[rare].sum())
    some = expected > 0
    assert observed[~some].sum() == 0
    return scipy.stats.chisquare(observed[some], expected[some] * len(points) / expected[some].sum()).pvalue


@pytest.mark.parametrize("layout", LAYOUTS)
def test_random_rows_against_the_dense_conditional(layout, monkeypatch):
    """Z U given residuals, at every grid point: h2 = 0, singular K, rays and kept rows included."""
    problem = make(layout, monkeypatch, grid=3)
    rng, N, prec = np.random.default_rng(4), 4000, 1.7
    dense = Dense(problem)
    for s, group in enumerate(problem.groups):
        e = rng.standard_normal(len(group.rows))
        for g, left in enumerate(problem.grid.residual_share):
            if left <= 0:
                continue
            points = np.full(N, g)
            common = group.cov.enter(np.tile(e, (N, 1)))
            drawn = group.cov.leave(blocks.draw_random_rows(group.cov.turn(common, points), np.full(N, prec), rng))
            A = dense.V[s][g] - left * np.eye(len(e))
            if left == 1.0:
                assert np.abs(drawn).max() == 0.0
                continue
            solve = A @ dense.inverse[s][g]
            check(whitened_z(drawn, solve @ e, (A - solve @ A) / prec))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_factor_step_against_the_dense_conditional(layout, monkeypatch):
    """F of all rows at once, U integrated out or given: the full Gaussian with its covariances between rows."""
    problem = make(layout, monkeypatch)
    state, N, dense = frozen_state(problem), 4000, Dense(problem)
    n, k, b = problem.n, problem.n_factors, problem.b
    loadings = state.coef[:, b:]
    xb = state.coef[:, :b] @ problem.x
    random = None
    if problem.collapsed:
        precision = scipy.linalg.block_diag(*(state.kappa[:, None, None] * dense.inverse_factor[state.gamma]))
        state.sums = np.zeros((k, n))
        for j in range(problem.p):
            W = state.tau[j] * dense.inverse[0][state.g[j]]
            precision += np.kron(np.outer(loadings[j], loadings[j]), W)
            state.sums += np.outer(loadings[j], W @ (state.y[j] - xb[j]))
        shift = state.sums.ravel()
    else:
        random = np.random.default_rng(6).standard_normal((k, n))
        left, left_factor = problem.grid.residual_share[state.g], problem.grid.residual_share[state.gamma]
        prior_prec = state.kappa / left_factor
        precision = np.kron(np.diag(prior_prec), np.eye(n))
        shift = (prior_prec[:, None] * random).ravel()
        for group in problem.groups:
            kept = np.isin(np.arange(n), group.rows).astype(float)
            for j in range(group.traits.start, group.traits.stop):
                omega = state.tau[j] / left[j]
                state.weighted[j] = omega * kept * (state.y[j] - xb[j] - state.random[j])
                precision += np.kron(np.outer(loadings[j], loadings[j]), omega * np.diag(kept))
                shift += np.kron(loadings[j], state.weighted[j])
    drawn = np.empty((N, k * n))
    for i in range(N):
        blocks.draw_factors(problem, state, random, POOL)
        drawn[i] = state.factors.ravel()
    cov = np.linalg.inv(precision)
    check(whitened_z(drawn, cov @ shift, cov))


def test_weights_left_by_the_trait_step(monkeypatch):
    """``weighted`` has omega (y - XB - C a - ZU) of the state that the factor step reads, and zero on dropped rows.

    With U integrated out, ``sums`` has Lambda tau V^-1 (y - XB - C a).
    """
    for layout in LAYOUTS | CIS:
        with monkeypatch.context() as patch:
            problem = make(layout, patch)
        seen = {}

        def spy(problem, state, random, pool, right=blocks.draw_factors, seen=seen):
            xb = state.coef[:, : problem.b] @ problem.x
            for j in range(problem.p) if problem.cis.n else ():
                xb[j] += state.cis[problem.cis.starts[j] : problem.cis.starts[j + 1]] @ own_columns(problem, j)
            sums = np.zeros_like(state.factors)
            for s, group in enumerate(problem.groups):
                for j in range(group.traits.start, group.traits.stop):
                    expected = np.zeros(problem.n)
                    seen[j] = True
                    if problem.collapsed:
                        W = Dense(problem).inverse[s][state.g[j]]
                        sums += np.outer(state.coef[j, problem.b :], state.tau[j] * W @ (state.y[j] - xb[j]))
                        continue
                    omega = state.tau[j] / problem.grid.residual_share[state.g[j]]
                    expected[group.rows] = (omega * (state.y[j] - xb[j] - state.random[j]))[group.rows]
                    np.testing.assert_allclose(state.weighted[j], expected, rtol=1e-8, atol=1e-9)
            if problem.collapsed:
                np.testing.assert_allclose(state.sums, sums, rtol=1e-8, atol=1e-8)
            return right(problem, state, random, pool)

        state = start_state(problem, np.random.SeedSequence(1))
        with monkeypatch.context() as patch:
            patch.setattr(blocks, "draw_factors", spy)
            for _ in range(3):
                sweep(problem, state, POOL)
        assert len(seen) == problem.p


def test_imputed_cells(monkeypatch):
    """Missing cells given U, F and the loadings; observed cells and other groups' cells never move."""
    problem = make("imputed on rays", monkeypatch)
    state = frozen_state(problem)
    before, N, rng = state.y.copy(), 8000, np.random.default_rng(7)
    imputed = np.zeros_like(state.y, dtype=bool)
    for group in problem.groups:
        imputed[group.traits] = group.imputed
    drawn = np.empty((N, *state.y.shape))
    for i in range(N):
        blocks.draw_missing(problem, state, rng)
        drawn[i] = state.y
    assert imputed.sum() == 8
    assert np.array_equal(drawn[:, ~imputed], np.broadcast_to(before[~imputed], (N, (~imputed).sum())))
    mean = state.coef @ np.concatenate((problem.x, state.factors)) + state.random
    left = problem.grid.residual_share[state.g]
    var = np.broadcast_to((left / state.tau)[:, None], state.y.shape)
    check(whitened_z(drawn[:, imputed], mean[imputed], np.diag(var[imputed])))


@pytest.mark.parametrize("formula", [ONE, "~ (1 | g) + (1 | h)"])
def test_scattered_cells(formula, monkeypatch):
    """Missing cells with U integrated out: their law given the observed ones, which never move; eq. SLAM-35."""
    monkeypatch.setattr(problem_module, "COST_OF_RANDOM", np.inf)
    problem = tiny_problem(formula, n=9, levels=9 if formula == ONE else 3, missing=SCATTERED)
    assert problem.collapsed
    (group,), Q = problem.groups, basis(problem)
    state, N, rng, dense = frozen_state(problem), 8000, np.random.default_rng(7), Dense(problem)
    before = state.y @ Q.T
    drawn = np.empty((N, *state.y.shape))
    for i in range(N):
        blocks.draw_scattered(problem, group, state, group.traits, rng)
        drawn[i] = state.y @ Q.T
    assert group.imputed.sum() == 8
    np.testing.assert_allclose(drawn[:, ~group.imputed], np.broadcast_to(before[~group.imputed], (N, 19)), atol=1e-10)
    mean = state.coef @ np.concatenate((problem.x, state.factors)) @ Q.T
    for j, m in enumerate(group.imputed):
        V = Q @ dense.V[0][state.g[j]] @ Q.T / state.tau[j]
        gain = V[np.ix_(m, ~m)] @ np.linalg.inv(V[np.ix_(~m, ~m)])
        law = V[np.ix_(m, m)] - gain @ V[np.ix_(~m, m)]
        check(whitened_z(drawn[:, j, m], mean[j, m] + gain @ (before[j, ~m] - mean[j, ~m]), law))


def effects_conditional(problem, residual, point, prec, rows):
    """Mean and covariance of all components' effects (stacked) given residuals on some rows."""
    Q = basis(problem)
    Z = np.hstack([c.Z.toarray() for c in problem.components])
    K = np.zeros((Z.shape[1], Z.shape[1]))
    at = 0
    for share, component in zip(problem.grid.shares[point], problem.components, strict=True):
        r = component.Z.shape[1]
        K[at : at + r, at : at + r] = share * level_covariance(component)
        at += r
    Z = (Q.T @ Z)[rows]
    gain = K @ Z.T @ np.linalg.inv(Z @ K @ Z.T + (1 - problem.grid.shares[point].sum()) * np.eye(len(Z)))
    return gain @ residual, (K - gain @ Z @ K) / prec


@pytest.mark.parametrize(
    ("layout", "uncollapse"), [(layout, False) for layout in LAYOUTS] + [("singular K, repeated records", True)]
)
def test_effects_against_the_dense_conditional(layout, uncollapse, monkeypatch):
    """U_R + U_F Lambda of every level and component: mean, and covariances across levels, components and traits."""
    problem = make(layout, monkeypatch, n=LAYOUTS[layout].get("n", 8), grid=3)
    if uncollapse:
        problem = uncollapsed(problem)
    state = frozen_state(problem)
    state.g[:] = [1, len(problem.grid.cell) - 1, 2]
    state.gamma[:] = [2, 1]
    loadings = state.coef[:, problem.b :]
    sampler, N = EffectSampler(problem), 4000
    sizes = [component.Z.shape[1] for component in problem.components]
    r, p = sum(sizes), problem.p
    drawn = np.empty((N, p, r))
    for i in range(N):
        out = np.concatenate(sampler(problem, state))  # (r, p), on the scale of the data, traits as the user has them
        drawn[i] = (out / problem.scale).T[problem.order]
    mean, cov = np.zeros((p, r)), np.zeros((p, r, p, r))
    for ell in range(problem.n_factors):
        m, C = effects_conditional(
            problem, state.factors[ell], state.gamma[ell], state.kappa[ell], np.arange(problem.n)
        )
        mean += np.outer(loadings[:, ell], m)
        cov += np.einsum("i,j,rs->irjs", loadings[:, ell], loadings[:, ell], C)
    e = state.y - state.coef @ np.concatenate((problem.x, state.factors))
    for group in problem.groups:
        for j in range(group.traits.start, group.traits.stop):
            m, C = effects_conditional(problem, e[j, group.rows], state.g[j], state.tau[j], group.rows)
            mean[j] += m
            cov[j, :, j] += C
    check(whitened_z(drawn.reshape(N, -1), mean.ravel(), cov.reshape(p * r, p * r)))


def test_effects_vanish_exactly_where_the_share_is_zero():
    """U of a trait is zero if and only if its own h2 and its factors' are (a defect of the published code)."""
    problem = tiny_problem(ONE, rank=6, k=0)
    state = frozen_state(problem)
    state.g[:] = [0, 2, 0]
    (effects,) = EffectSampler(problem)(problem, state)
    assert np.array_equal(np.abs(effects).max(axis=0) == 0.0, [True, False, True])
