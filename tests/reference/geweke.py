"""Joint-distribution tests (Geweke 2004, JASA 99:799) of the whole SLAM iteration.

Parameters and data have one joint law, and it can be drawn in two ways: directly (parameters from the prior, data
given them), or by a chain that alternates one iteration of the sampler with new data given its state. Every chain here
starts with a direct draw, so it is stationary from the first step if the sampler is right: the mean of a statistic
over a chain then has exactly the prior expectation, whatever the mixing, and chains are independent. A plain t test
of the chain means against direct draws needs no estimate of an autocorrelation.
"""

import dataclasses

import numpy as np
import scipy.stats

from slamglmm.fitters.slam.state import State, Streams
from slamglmm.fitters.slam.sweep import sweep
from slamglmm.linalg.threads import BlockPool, single_threaded_blas
from slamglmm.priors import Horseshoe
from slamglmm.priors.loadings_horseshoe import draw_horseshoe_rows

from .dense import Dense, basis, cis_part

RECORDED = ("y", "coef", "tau", "g", "factors", "kappa", "gamma", "coef_factor")
RECORDED += ("loading_effects", "loading_effect_var", "cis")
EFFECT_SCALES = ("variance", "local_factor", "global_factor", "global_trait")


class FixedGlobal(Horseshoe):
    """The horseshoe with its two half-Cauchy scales held fixed, so that no statistic has long tails.

    The compiled row sweep still draws delta: its gamma for t^2 is chosen so that t^2 stays.
    """

    def simulate(self, n_traits, n_factors, n_rows, rng):
        scales = self.start(n_traits, n_factors, n_rows)
        scales.local[:] = np.linspace(0.5, 2.0, scales.local.size).reshape(scales.local.shape)
        # Swaps carry local scales along: which column comes first is random, as for independent scales.
        scales.local[:] = scales.local[:, rng.permutation(n_factors)]
        scales.t2 = 0.8
        scales.delta[1:] = self.delta_rate / rng.standard_gamma(self.delta_shape, max(n_factors - 1, 0))
        scales.row[:] = 1.0 / (scales.t2 * np.cumprod(scales.delta))
        return scales

    def draw_local(self, scaled, scales, block, rng):
        pass

    def draw_rows(self, q, scales, n_rows, rng):
        n_traits, k = scales.local.shape
        t0, t2 = self.global_scale(n_rows), scales.t2
        shapes = self.delta_shape + 0.5 * n_traits * (k - np.arange(k))
        for _ in range(self.n_sweeps):
            xi = 1 / t0**2 + 1 / t2  # with an exponential of one
            holds_t2 = (1 / xi + np.sum(q / np.cumprod(scales.delta))) / t2
            draw_horseshoe_rows(
                q,
                rng.standard_gamma(shapes, (1, k)),
                np.array([holds_t2]),
                np.ones((1, 1)),
                self.delta_shape,
                self.delta_rate,
                t0,
                scales.delta,
                t2,
            )
        scales.row[:] = 1.0 / (t2 * np.cumprod(scales.delta))


class Joint:
    """Direct draws from the joint law of a problem, and new data given a state.

    With links the data are part of the problem: `problem` changes with every draw of them.

    Fixed effects have a flat prior: the state starts with zeros there, and only what a shift of the data along X
    leaves alone (``y - XB`` and everything but B) has a law to test.
    """

    def __init__(self, problem):
        self.problem, self.dense = problem, Dense(problem)
        self.prior_traits = np.exp(problem.log_prior_traits)
        self.prior_factors = np.exp(problem.log_prior_factors)

    def draw(self, rng):
        """Parameters from the prior, then the data."""
        problem = self.problem
        p, n, b, k = problem.p, problem.n, problem.b, problem.n_factors
        residual, factor = problem.trait_precisions, problem.priors.factor
        scales = problem.priors.loadings_prior.simulate(p, k, n, rng)
        g = rng.choice(len(self.prior_traits), p, p=self.prior_traits).astype(np.intp)
        rate = residual.rate if np.ndim(residual.rate) == 0 else residual.rate[np.arange(p), g]
        tau = rng.gamma(residual.shape, 1 / rate, p)
        kappa = rng.gamma(factor.shape, 1 / factor.rate, k)
        gamma = rng.choice(len(self.prior_factors), k, p=self.prior_factors)
        loadings = scales.simulate_loadings(tau, rng)
        on = problem.priors.loading_effects
        loading_effect_var = 1.0 / rng.gamma(on.shape, 1 / on.rate, k)
        loading_effects = rng.standard_normal((k, problem.trait_covariates.q)) * np.sqrt(loading_effect_var)[:, None]
        loadings += problem.trait_covariates.x @ loading_effects.T
        roots = self.dense.root_factor[gamma]
        factors = np.einsum("lij,lj->li", roots, rng.standard_normal((k, n))) / np.sqrt(kappa)[:, None]
        columns = problem.covariates
        effects = problem.priors.fixef_prior.simulate(columns, p, k, n, rng)
        factor_prec = kappa[:, None] * effects.factor_prec(columns)
        coef_factor = rng.standard_normal(factor_prec.shape) / np.sqrt(factor_prec)
        factors += coef_factor @ problem.x_factor
        coef = np.zeros((p, b))
        shrunk = ~columns.flat
        trait_prec = tau[:, None] * effects.trait_prec(columns)
        coef[:, shrunk] = rng.standard_normal((p, shrunk.sum())) / np.sqrt(trait_prec[:, shrunk])
        own = rng.standard_normal(problem.cis.n)
        own /= np.sqrt(problem.cis.prec * np.repeat(tau, np.diff(problem.cis.starts)) if problem.cis.n else 1.0)
        state = State(
            y=problem.y.copy(),
            coef=np.concatenate((coef, loadings), axis=1),
            tau=tau,
            g=g,
            factors=factors,
            kappa=kappa,
            gamma=gamma.astype(np.intp),
            scales=scales,
            coef_factor=coef_factor,
            effect_scales=effects,
            loading_effects=loading_effects,
            loading_effect_var=loading_effect_var,
            weighted=np.zeros((p, n)),
            random=None if problem.collapsed else np.zeros((p, n)),
            streams=Streams.spawn(np.random.SeedSequence(int(rng.integers(2**63))), problem),
            links=[part.likelihood.simulate_parameters(rng) for part in problem.links],
            cis=own,
        )
        for s in range(len(problem.groups)):
            self._redraw_group(state, s, rng)
        if problem.links:
            self._redraw_linked(state, rng)
        return state

    def redraw(self, state, rng):
        """New observed data given everything else; U is integrated out unless cells are imputed."""
        if self.problem.links:
            self._redraw_latent(state, rng)
            self._redraw_linked(state, rng)
            return
        for s, group in enumerate(self.problem.groups):
            if group.imputed.any() and self.problem.collapsed:
                self._redraw_given_missing(state, rng)
            elif group.imputed.any():
                self._redraw_given_random(state, s, rng, group.imputed)
            else:
                self._redraw_group(state, s, rng)

    def _mean(self, state, group):
        mean = state.coef[group.traits] @ np.concatenate((self.problem.x, state.factors))
        return (mean + cis_part(self.problem, state.cis)[group.traits])[:, group.rows]

    def _redraw_group(self, state, s, rng):
        group = self.problem.groups[s]
        g, tau = state.g[group.traits], state.tau[group.traits]
        noise = np.einsum("jik,jk->ji", self.dense.root[s][g], rng.standard_normal((len(g), len(group.rows))))
        state.y[group.traits, :][:, group.rows] = self._mean(state, group) + noise / np.sqrt(tau)[:, None]

    def _redraw_given_random(self, state, s, rng, kept_cells):
        group = self.problem.groups[s]
        left = 1 - self.problem.grid.shares[state.g[group.traits]].sum(axis=1)
        eta = self._mean(state, group) + state.random[group.traits][:, group.rows]
        eta += rng.standard_normal(eta.shape) * np.sqrt(left / state.tau[group.traits])[:, None]
        kept = state.y[group.traits][:, group.rows]
        state.y[group.traits, :][:, group.rows] = np.where(kept_cells, kept, eta)

    def _redraw_latent(self, state, rng):
        """Latent traits that the data fix, which are data themselves, and half of the others: drawn given U.

        Data that are a function of eta would never change if eta did not change with them.
        """
        imputed = self.problem.groups[0].imputed
        self._redraw_given_random(state, 0, rng, imputed & (rng.random(imputed.shape) < 0.5))

    def _redraw_given_missing(self, state, rng):
        """Observed cells given the missing ones, U integrated out: a draw of all, corrected for what it misses."""
        (group,), rotation, Q = self.problem.groups, self.problem.rotation, basis(self.problem)
        before = rotation.back(state.y)
        self._redraw_group(state, 0, rng)
        fresh = rotation.back(state.y)
        for j, cells in enumerate(group.imputed):
            V = Q @ self.dense.V[0][state.g[j]] @ Q.T
            missed = before[j, cells] - fresh[j, cells]
            fresh[j] += V[:, cells] @ np.linalg.solve(V[np.ix_(cells, cells)], missed)
        state.y[:] = rotation.forward(fresh)

    def _redraw_linked(self, state, rng):
        problem, links = self.problem, []
        for part, parameters in zip(problem.links, state.links, strict=True):
            block, likelihood = part.traits, part.likelihood
            order = problem.order[block]
            eta = problem.base_coef[order] @ problem.x + problem.scale[order, None] * state.y[block]
            data = likelihood.simulate(eta, parameters, rng)
            links.append(dataclasses.replace(part, likelihood=likelihood.with_data(data)))
        self.problem = dataclasses.replace(problem, links=tuple(links))


class Record:
    """States one after the other, as arrays."""

    def __init__(self, problem, size):
        p, n, b, k = problem.p, problem.n, problem.b, problem.n_factors
        shapes = {
            "y": (p, n),
            "coef": (p, b + k),
            "tau": (p,),
            "g": (p,),
            "factors": (k, n),
            "kappa": (k,),
            "gamma": (k,),
            "coef_factor": (k, problem.n_factor_effects),
            "loading_effects": (k, problem.trait_covariates.q),
            "loading_effect_var": (k,),
            "cis": (problem.cis.n,),
            "variance": (len(problem.covariates.names),),
            "local_factor": (k, problem.n_factor_effects),
            "local_trait": (p, b),
            "global_factor": (k,),
            "global_trait": (p,),
        }
        shapes |= {"local": (p, k), "row": (k,), "delta": (k,), "t2": (), "n_active": (k,), "inclusion": (k,)}
        self.link_variables = problem.link_variables
        shapes |= {v.name: tuple(len(labels) for _, labels in v.dims) for v in self.link_variables}
        self.values = {
            name: np.empty((size, *shape), dtype=np.intp if name in ("g", "gamma") else float)
            for name, shape in shapes.items()
        }
        self.n = 0

    def add(self, state):
        for name in RECORDED:
            self.values[name][self.n] = getattr(state, name)
        for name in EFFECT_SCALES:
            self.values[name][self.n] = getattr(state.effect_scales, name)
        own = state.effect_scales.local_trait
        self.values["local_trait"][self.n] = 1.0 if own is None else own
        scales = state.scales
        for name in ("local", "row", "delta", "t2", "n_active"):
            self.values[name][self.n] = getattr(scales, name)
        for variable in self.link_variables:
            self.values[variable.name][self.n] = state.links[variable.part][variable.key]
        self.values["inclusion"][self.n] = 1.0 if scales.inclusion is None else scales.inclusion
        if scales.included is not None:
            loadings = state.coef[:, -scales.local.shape[1] :]
            assert np.array_equal(scales.included, loadings != 0)
        self.n += 1


def statistics(joint, values):
    """Bounded or light-tailed functions of the recorded states, name -> (number of states,)."""
    problem, dense = joint.problem, joint.dense
    b, k, p = problem.b, problem.n_factors, problem.p
    shares, total = problem.grid.shares, problem.grid.shares.sum(axis=1)
    tau, g, kappa, gamma, f = (values[name] for name in ("tau", "g", "kappa", "gamma", "factors"))
    loadings, row, local = values["coef"][:, :, b:], values["row"], values["local"]
    rest = values["y"] - values["coef"][:, :, :b] @ problem.x - cis_part(problem, values["cis"])
    own_factors = f - values["coef_factor"] @ problem.x_factor
    out = {}

    def squash(x):
        return x / (1 + np.abs(x))

    for e in range(problem.cis.n):
        j = int(np.searchsorted(problem.cis.starts, e, side="right") - 1)
        effect, column = values["cis"][:, e], problem.cis.columns[problem.cis.column[e]]
        rows = _rows_of_trait(problem, j)
        seen = values["y"][:, j] - values["coef"][:, j, :b] @ problem.x
        out[f"standardised cis effect {e}"] = squash(problem.cis.prec * tau[:, j] * effect**2)
        out[f"log cis effect {e}"] = squash(np.log(np.abs(effect)))
        out[f"cis effect {e} with tau"] = squash(np.log(np.abs(effect))) * np.log(tau[:, j])
        out[f"cis effect {e} with share"] = squash(np.log(np.abs(effect))) * total[g[:, j]]
        out[f"cis effect {e} along the data"] = squash(effect * (seen[:, rows] @ column[rows]))

    columns = problem.covariates
    for q, name in enumerate(columns.names):
        out[f"variance of effects of {name}"] = np.log(values["variance"][:, q])
    for i in np.flatnonzero(~columns.flat):
        effects = values["coef"][:, :, i]
        out[f"size of effects {i}"] = squash(tau * effects**2 * columns.trait_square[i]).mean(axis=1)
        own = values["local_trait"][:, :, i] / values["global_trait"]
        out[f"standardised effects {i}"] = squash(tau * effects**2 * own * columns.trait_square[i]).mean(axis=1)
        out[f"local precision of effects {i} on traits"] = squash(np.log(values["local_trait"][:, :, i])).mean(axis=1)
        out[f"log size of effects {i}"] = squash(np.log(np.abs(effects))).mean(axis=1)
        for j in range(p):
            rows = _rows_of_trait(problem, j)
            seen = values["y"][:, j] - values["coef"][:, j, :b][:, columns.flat] @ problem.x[columns.flat]
            out[f"effect {i} along the data {j}"] = squash(effects[:, j] * (seen[:, rows] @ problem.x[i, rows]))
    out["global scales of effects on traits"] = squash(np.log(values["global_trait"])).mean(axis=1)
    for ell in range(k):
        out[f"global scale of effects on factor {ell}"] = squash(np.log(values["global_factor"][:, ell]))
    for i in range(problem.n_factor_effects):
        effects = values["coef_factor"][:, :, i]
        prior = kappa * columns.factor_square[i] / values["variance"][:, columns.factor[i], None]
        own = values["local_factor"][:, :, i] / values["global_factor"]
        out[f"standardised effects on factors {i}"] = squash(effects**2 * prior * own).mean(axis=1)
        out[f"local precision of effects {i}"] = squash(np.log(own)).mean(axis=1)
        out[f"log size of effects on factors {i}"] = squash(np.log(np.abs(effects))).mean(axis=1)
        out[f"effects {i} along factors"] = squash(effects * (f @ problem.x_factor[i])).mean(axis=1)

    for variable in problem.link_variables:
        if variable.key in problem.links[variable.part].likelihood.flat:
            continue
        for position in np.ndindex(values[variable.name].shape[1:]):
            drawn = values[variable.name][:, *position]
            if np.ptp(drawn) == 0:
                continue
            out[f"{variable.name} {position}"] = squash(drawn)
            out[f"log {variable.name} {position}"] = squash(np.log(np.abs(drawn)))
            size = np.log(np.mean(rest[:, position[0] % p] ** 2, axis=1))
            out[f"{variable.name} {position} with scatter of data"] = squash(np.log(np.abs(drawn))) * squash(size)

    for j in range(p):
        out[f"share of trait {j}"] = total[g[:, j]]
        out[f"share of trait {j} is zero"] = (total[g[:, j]] == 0).astype(float)
        for m in range(1, shares.shape[1]):
            out[f"share {m} of trait {j}"] = shares[g[:, j], m]
        out[f"log tau {j}"] = np.log(tau[:, j])
        out[f"share times log tau {j}"] = total[g[:, j]] * np.log(tau[:, j])
    on_rows, fitted_rows = rest @ basis(problem).T, (loadings @ f) @ basis(problem).T
    # Pivots: chi squares over their degrees of freedom.
    for s, group in enumerate(problem.groups):
        e = (rest - loadings @ f)[:, group.traits][:, :, group.rows]
        for i, j in enumerate(range(group.traits.start, group.traits.stop)):
            form = np.einsum("ti,tik,tk->t", e[:, i], dense.inverse[s][g[:, j]], e[:, i])
            out[f"standardised residual {j}"] = tau[:, j] * form / len(group.rows)
            out[f"residual form {j}"] = np.log(form)
            out[f"scatter of data {j}"] = np.log(np.mean(rest[:, j][:, group.rows] ** 2, axis=1))
            if group.imputed[i].any() and not group.imputed[i].all():
                cells = group.rows[group.imputed[i]]
                drawn, seen = on_rows[:, j][:, cells], on_rows[:, j][:, np.setdiff1d(group.rows, cells)]
                out[f"imputed scatter {j}"] = squash(np.mean(drawn**2, axis=1))
                out[f"imputed times seen {j}"] = squash(drawn.mean(axis=1) * seen.mean(axis=1))
                fitted = fitted_rows[:, j][:, cells]
                out[f"imputed times fitted {j}"] = squash(np.mean(drawn * fitted, axis=1))
    for ell in range(k):
        form = np.einsum("ti,tik,tk->t", own_factors[:, ell], dense.inverse_factor[gamma[:, ell]], own_factors[:, ell])
        out[f"share of factor {ell}"] = total[gamma[:, ell]]
        out[f"share of factor {ell} is zero"] = (total[gamma[:, ell]] == 0).astype(float)
        for m in range(1, shares.shape[1]):
            out[f"share {m} of factor {ell}"] = shares[gamma[:, ell], m]
        out[f"log kappa {ell}"] = np.log(kappa[:, ell])
        out[f"standardised factor {ell}"] = kappa[:, ell] * form / problem.n
        out[f"scatter of factor {ell}"] = np.log(np.mean(f[:, ell] ** 2, axis=1))
        out[f"share times scatter of factor {ell}"] = total[gamma[:, ell]] * np.log(np.mean(f[:, ell] ** 2, axis=1))
        on_covariates = values["loading_effects"][:, ell] @ problem.trait_covariates.x.T
        scaled = tau * local[:, :, ell] * (loadings[:, :, ell] - on_covariates) ** 2 * row[:, ell][:, None]
        for i in range(problem.trait_covariates.q):
            effect, size = values["loading_effects"][:, ell, i], values["loading_effect_var"][:, ell]
            out[f"standardised loading effect {i}, {ell}"] = effect**2 / size
            out[f"log loading effect {i}, {ell}"] = squash(np.log(np.abs(effect)))
            along = loadings[:, :, ell] @ problem.trait_covariates.x[:, i]
            out[f"loading effect {i} along loadings {ell}"] = squash(effect * along)
        if problem.trait_covariates.q:
            out[f"log variance of loading effects {ell}"] = np.log(values["loading_effect_var"][:, ell])
        out[f"standardised loadings {ell}"] = scaled.mean(axis=1)
        out[f"row precision {ell}"] = squash(np.log(row[:, ell]))
        out[f"share of loadings {ell}"] = values["inclusion"][:, ell]
        out[f"number of loadings {ell}"] = values["n_active"][:, ell]
        out[f"share times number of loadings {ell}"] = values["inclusion"][:, ell] * values["n_active"][:, ell]
        out[f"loadings times row precision {ell}"] = values["n_active"][:, ell] * squash(np.log(row[:, ell]))
        out[f"local precision {ell}"] = squash(np.log(local[:, :, ell])).mean(axis=1)
        for j in range(p):
            out[f"size of loading {ell}, {j}"] = squash(np.log(np.maximum(np.abs(loadings[:, j, ell]), 1e-300)))
            out[f"loading {ell}, {j} in"] = (loadings[:, j, ell] != 0).astype(float)
            cross = rest[:, j] * f[:, ell]
            rows = _rows_of_trait(problem, j)
            out[f"data {j} along factor {ell}"] = squash(loadings[:, j, ell] * np.mean(cross[:, rows], axis=1))
    if k > 1:
        size = np.sum(tau[:, :, None] * loadings**2, axis=1)
        out["first row smaller"] = (row[:, 0] < row[:, 1]).astype(float)
        out["first factor larger"] = (size[:, 0] > size[:, 1]).astype(float)
        out["delta"] = squash(np.log(values["delta"][:, 1]))
        out["product of loadings"] = squash(loadings[:, 0, 0] * loadings[:, 0, 1] * np.mean(f[:, 0] * f[:, 1], axis=1))
    out["global scale"] = squash(np.log(values["t2"]))
    if p > 1:
        shared = np.intersect1d(_rows_of_trait(problem, 0), _rows_of_trait(problem, 1))
        product = np.mean((rest[:, 0] * rest[:, 1])[:, shared], axis=1)
        out["data 0 with data 1"] = squash(product * np.sum(loadings[:, 0] * loadings[:, 1], axis=1))
    return {name: value for name, value in out.items() if np.ptp(value) > 0}


def _rows_of_trait(problem, j):
    return next(group.rows for group in problem.groups if group.traits.start <= j < group.traits.stop)


def joint_test(problem, *, chains, length, draws, seed, transition=sweep, redraw=True):
    """z of every statistic: chain means of `transition` plus new data, against direct draws.

    Parameters
    ----------
    chains, length : int
        Independent chains from direct draws, and iterations of each. A length of one tests one iteration from exact
        draws: no chain, no autocorrelation, and tails do not matter to bounded statistics.
    draws : int
        Direct draws to compare with.
    transition : callable
        ``(problem, state, pool)``.

    Returns
    -------
    dict
        Name -> z, Student t with about ``chains - 1`` degrees of freedom when the sampler is right.
    """
    joint, rng, pool = Joint(problem), np.random.default_rng(seed), BlockPool(1)
    direct, chain = Record(problem, draws), Record(problem, chains * length)
    with single_threaded_blas():
        for _ in range(draws):
            direct.add(joint.draw(rng))
        for _ in range(chains):
            state = joint.draw(rng)
            for _ in range(length):
                transition(joint.problem, state, pool)
                if redraw:
                    joint.redraw(state, rng)
                chain.add(state)
    expected, moved = statistics(joint, direct.values), statistics(joint, chain.values)
    z = {}
    for name in expected.keys() & moved.keys():
        means = moved[name].reshape(chains, length).mean(axis=1)
        variance = means.var(ddof=1) / chains + expected[name].var(ddof=1) / draws
        z[name] = (means.mean() - expected[name].mean()) / np.sqrt(variance)
    return z


def threshold(n_statistics, df, alarm):
    """Bound on the largest |t| of that many statistics, exceeded with probability at most `alarm`."""
    return scipy.stats.t.isf(alarm / (2 * n_statistics), df)


def worst(z, count=4):
    """The largest |z|, for messages."""
    return ", ".join(f"{name}: {z[name]:.1f}" for name in sorted(z, key=lambda name: -abs(z[name]))[:count])
