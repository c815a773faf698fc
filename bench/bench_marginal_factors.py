"""Factors drawn with eta integrated out, where data have known precisions, against factors drawn given eta.

In place of omega_j (eq. SLAM-13) a cell has the precision ``omega_j w_ij / (omega_j + w_ij)``, and the data in place of
eta, so each row has a Gram matrix of its own. Both are exact, since eta is drawn next. Effective draws for 1000
iterations (the median over quantities, the mean over data sets) and CPU time; JSON on stdout. About four CPU minutes:
``python bench/bench_marginal_factors.py [case ...]``.
"""

import dataclasses
import json
import sys
import time

import numpy as np
import pandas as pd
from cases import CASES

import slamglmm as sg
from slamglmm.diagnostics import diagnose
from slamglmm.fitters.slam import blocks
from slamglmm.linalg.threads import single_threaded_blas

# Variance of the noise of the data, in variances of a trait's own part.
NOISE = {"weak": 10.0, "even": 2.5, "strong": 0.25}
GIVEN_ETA = blocks.draw_factors, blocks.move_factor_shares


def by_row(problem):
    """Every row a pattern of its own."""
    return dataclasses.replace(problem, row_pattern=np.arange(problem.n, dtype=problem.row_pattern.dtype))


def draw_factors(problem, state, random, pool):
    """`blocks.draw_factors` with the data in place of eta."""
    (part,), k, n = problem.links, problem.n_factors, problem.n
    base, scale = problem.base(slice(None)), problem.scale[problem.order, None]
    weights = part.likelihood.weights * scale**2
    data = (part.likelihood.weighted / part.likelihood.weights - base) / scale
    omega = (state.tau / problem.grid.residual_share[state.g])[:, None]
    prec = omega * weights / (omega + weights)
    loadings = np.ascontiguousarray(state.coef[:, problem.b :].T)
    row, column = np.tril_indices(k)
    precisions = np.empty((n, k, k))
    precisions[:, row, column] = precisions[:, column, row] = ((loadings[row] * loadings[column]) @ prec).T
    likelihood = blocks.FactorLikelihood(precisions, np.empty_like(state.factors))
    kept, state.weighted = state.weighted, prec * (state.weighted / omega - state.y + data)
    draw = blocks._factors_given_random(by_row(problem), state, loadings, likelihood, random)
    pool.run(draw, range(len(problem.row_blocks)))
    state.weighted = kept
    return likelihood


def move_factor_shares(problem, *rest):
    GIVEN_ETA[1](by_row(problem), *rest)


def effective(truth, Y, weights, case, seed):
    """Median effective draws of 1000 iterations by kind of quantity, and seconds of an iteration."""
    with single_threaded_blas():
        begin = time.process_time()
        fit = sg.slam(
            truth.formula, truth.frame, Y=Y, relmat=truth.relmat, link=sg.links.GaussianWeights(weights), chains=2,
            n_factors=case["k"], draws=case["draws"], burn=case["burn"], seed=seed, n_threads=1, progress=False,
        )  # fmt: skip
        spent = time.process_time() - begin
    upper = np.triu_indices(case["p"])
    draws = {name: fit.covariance_draws(term).to_numpy() for name, term in (("G", "animal"), ("R", "Residual"))}
    draws = {name: values[:, :, upper[0], upper[1]] for name, values in draws.items()}
    draws["h2"] = fit.posterior["h2"].to_numpy()[:, :, 0]
    out = {}
    for name, values in draws.items():
        ess = diagnose(values, pd.RangeIndex(values.shape[2]))["ess_bulk"]
        out[name] = float(ess.median() / (2 * case["draws"]) * 1000)
    return out | {"ms_per_iteration": 1e3 * spent / (2 * (case["draws"] + case["burn"]))}


def main(names):
    case = CASES["marginal_factors"]
    for name in names or NOISE:
        for kind, steps in (("given eta", GIVEN_ETA), ("eta integrated out", (draw_factors, move_factor_shares))):
            blocks.draw_factors, blocks.move_factor_shares = steps
            rows = []
            for seed in range(case["data_sets"]):
                truth = sg.simulate.slam(
                    families=case["families"], per_family=5, n_traits=case["p"], n_factors=3, resid_var=0.4,
                    covariate=False, seed=11 + seed,
                )  # fmt: skip
                rng = np.random.default_rng(11 + seed)
                variance = 0.4 * NOISE[name] * rng.gamma(2.0, 0.5, truth.Y.shape)
                Y = truth.Y + np.sqrt(variance) * rng.standard_normal(variance.shape)
                rows.append(effective(truth, Y, 1.0 / variance, case, seed))
            means = pd.DataFrame(rows).mean().round(2).to_dict()
            print(json.dumps({"case": name, "factors": kind} | means), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
