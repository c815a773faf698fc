"""Effective samples of h2 and of G's off-diagonals, for each scheme of the SLAM sampler; JSON on stdout.

Run ``PYTHONPATH=. python bench/bench_mixing.py [--reference DIR] [--schemes all] [case ...]`` from the root of the
repository. W1 (maize, 65 % missing) and W2 (half sibs) need the reference files in DIR; ``wide`` and ``tall`` are
simulated. Effective samples are those within chains (bulk, mean over chains); CPU seconds are those of sampling after
burn-in, one thread.

Schemes are the sampler of this package with steps taken out, for this comparison only: nothing of it is an option.
The plain scheme is that of MegaLMM: factors given U, shares given tau, no moves of scales or neighbours.
"""

import argparse
import json
import sys
import time
import warnings
from contextlib import ExitStack
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pandas as pd
from cases import CASES
from threadpoolctl import threadpool_limits

import slamglmm as sg
from slamglmm.diagnostics import diagnose
from slamglmm.errors import SlamWarning
from slamglmm.fitters.slam import blocks
from slamglmm.fitters.slam import problem as problem_module
from slamglmm.fitters.slam.draws import DEFAULT_STORE, DrawBuffer, RunningMeans, Snapshot
from slamglmm.fitters.slam.problem import build_problem
from slamglmm.fitters.slam.state import start_state
from slamglmm.fitters.slam.sweep import sweep
from slamglmm.linalg.threads import BlockPool
from tests.reference.problems import uncollapsed

N_PAIRS = 300


# ---- data -----------------------------------------------------------------------------------------------------------


def maize(reference):
    """W1: 502 lines, 19 environments, fold 1 masked."""
    folder = reference / "reference" / "megalmm"
    Y = pd.read_csv(folder / "W1_Y.csv.gz")
    folds = pd.read_csv(folder / "W1_folds.csv.gz").drop(columns="Line").to_numpy()
    kinship = np.load(reference / "data" / "maize_K.npz")
    frame = Y[["Line", "Population"]].astype({"Population": str})
    K = pd.DataFrame(kinship["K"], kinship["ids"], kinship["ids"])
    yields = Y.drop(columns=["Line", "Population"]).mask(folds == 1)
    return sg.design("~ Population + (1 | Line)", frame, Y=yields, relmat={"Line": K})


def half_sibs(reference):
    """W2: 500 half sibs, 100 traits."""
    data = np.load(reference / "reference" / "megalmm" / "W2_input.npz")
    ids = [f"i{i}" for i in range(len(data["sire"]))]
    K = pd.DataFrame(0.25 * (data["sire"][:, None] == data["sire"]) + 0.75 * np.eye(len(ids)), ids, ids)
    frame = pd.DataFrame({"id": ids, "x": data["x"]})
    return sg.design("~ x + (1 | id)", frame, Y=data["Y"].astype(float), relmat={"id": K})


def simulated(records, individuals, n_traits, factor_h2):
    """Half sibs in families of ten, some with several records."""
    data = sg.simulate.slam(
        families=individuals // 10,
        per_family=10,
        records=records,
        n_traits=n_traits,
        n_factors=len(factor_h2),
        factor_h2=np.array(factor_h2),
        seed=1,
    )
    return sg.design(data.formula, data.frame, Y=data.Y, relmat=data.relmat)


# ---- schemes --------------------------------------------------------------------------------------------------------


def shares_given_tau(problem, state, block, forms, logdet, n_rows, rng):
    """Shares of traits given tau, which stays."""
    tau = state.tau[block]
    return _points(problem.log_prior_traits - 0.5 * logdet - 0.5 * tau[:, None] * forms, rng), tau


def factor_shares_given_kappa(problem, state, residual, rng):
    """kappa given the share, then the share given kappa."""
    cov, prior = problem.factor_cov, problem.priors.factor
    forms = cov.quadratic_forms(residual.common)
    rows = np.arange(len(forms))
    rate = prior.rate + 0.5 * forms[rows, state.gamma]
    state.kappa[:] = rng.standard_gamma(prior.shape + 0.5 * cov.n, len(rows)) / rate
    state.gamma[:] = _points(problem.log_prior_factors - 0.5 * cov.logdet - 0.5 * state.kappa[:, None] * forms, rng)
    return cov.turn(residual.common, state.gamma), forms[rows, state.gamma]


def _points(log_mass, rng):
    cumulative = np.cumsum(np.exp(log_mass - log_mass.max(axis=1, keepdims=True)), axis=1)
    targets = (1.0 - rng.random(len(log_mass))) * cumulative[:, -1]
    return np.sum(cumulative < targets[:, None], axis=1).astype(np.intp)


def no_scale(problem, state, *_):
    """Scales of factors stay."""
    return np.ones(problem.n_factors)


def nothing(*_):
    """No move."""


TAU_GIVEN = {"draw_shares_of_traits": shares_given_tau, "draw_factor_shares": factor_shares_given_kappa}
# Name -> (functions of `blocks` replaced, whether U is in the factor step).
SCHEMES = {
    "all moves": ({}, False),
    "no scale move": ({"move_scales": no_scale}, False),
    "no swap": ({"swap_neighbours": nothing}, False),
    "h2 given tau": (TAU_GIVEN, False),
    "F given U": ({}, True),
    "F given U, no SLAM-23": ({"move_factor_shares": nothing}, True),
    "plain": (
        TAU_GIVEN | {"move_scales": no_scale, "swap_neighbours": nothing, "move_factor_shares": nothing},
        True,
    ),
}


# ---- measuring ------------------------------------------------------------------------------------------------------


def run(problem, case, saving):
    """h2 (chains, draws, p), some of G's off-diagonals, and CPU seconds of a draw."""
    chains, draws, p = case["chains"], case["draws"], problem.p
    rng = np.random.default_rng(1)
    first, second = np.triu_indices(p, 1)
    chosen = rng.permutation(len(first))[:N_PAIRS]
    i, j = first[chosen], second[chosen]
    h2, G, seconds = np.empty((chains, draws, p)), np.empty((chains, draws, len(i))), 0.0
    for c in range(chains):
        state, pool = start_state(problem, np.random.SeedSequence([1, c])), BlockPool(1)
        for _ in range(case["burn"]):
            sweep(problem, state, pool)
        running = RunningMeans(problem) if saving else None
        buffer = DrawBuffer(problem, DEFAULT_STORE, draws)
        for d in range(draws):
            start = time.process_time()
            sweep(problem, state, pool, running if running is not None and running.is_due(thin=1) else None)
            if saving:
                buffer.add(problem, state)
            seconds += time.process_time() - start
            snapshot = Snapshot(problem, state)
            h2[c, d] = snapshot.h2()[0]
            share = problem.grid.shares[state.gamma, 0]
            loadings = snapshot.Lambda()
            G[c, d] = np.einsum("al,al,l->a", loadings[i], loadings[j], share)
    return h2, G, seconds / (chains * draws)


def within_chains(values):
    """Bulk effective samples for each draw, mean over chains, and for all chains together."""
    index = pd.RangeIndex(values.shape[2])
    one = np.mean([diagnose(chain[None], index)["ess_bulk"] for chain in values], axis=0) / values.shape[1]
    return one, diagnose(values, index)["ess_bulk"].to_numpy() / values[:, :, 0].size


def measure(name, scheme, reference, saving):
    case = CASES[name]
    design = {"mixing_W1": maize, "mixing_W2": half_sibs}.get(name)
    design = simulated(**case["data"]) if design is None else design(reference)
    # A total share of one cannot be conditioned on: none of the schemes has it.
    with patch.object(problem_module, "_stays_invertible", lambda *_: False):
        problem = build_problem(design, sg.Priors(loadings=case.get("loadings", "horseshoe")), case["k"], 20)
    replaced, given_u = SCHEMES[scheme]
    if given_u and problem.collapsed:
        problem = uncollapsed(problem)
    with ExitStack() as stack:
        for function, other in replaced.items():
            stack.enter_context(patch.object(blocks, function, other))
        h2, G, seconds = run(problem, case, saving)
    out = {"cpu_ms_per_draw": 1e3 * seconds}
    for quantity, values in (("h2", h2), ("G_off_diagonal", G)):
        one, together = within_chains(values)
        out[quantity] = {
            "median": np.median(one),
            "worst_decile": np.quantile(one, 0.1),
            "worst": one.min(),
            "all_chains_median": np.median(together),
            "per_cpu_second_median": np.median(one) / seconds,
            "per_cpu_second_worst_decile": np.quantile(one, 0.1) / seconds,
        }
    print(
        f"{name} {scheme}: {1e3 * seconds:.2f} ms; ESS per draw of h2 {out['h2']['median']:.3f} "
        f"(worst {out['h2']['worst']:.3f}), of G {out['G_off_diagonal']['median']:.3f} "
        f"(worst {out['G_off_diagonal']['worst']:.3f}); per CPU second {out['h2']['per_cpu_second_median']:.0f}",
        file=sys.stderr,
    )
    return json.loads(json.dumps(out, default=float))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("cases", nargs="*", default=["mixing_tall", "mixing_wide"])
    parser.add_argument("--reference", type=Path, default=Path("../shared"))
    parser.add_argument("--schemes", nargs="+", default=["all moves"], choices=["all", *SCHEMES])
    parser.add_argument("--saving", action="store_true", help="store what a fit stores by default")
    options = parser.parse_args()
    schemes = list(SCHEMES) if "all" in options.schemes else options.schemes
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SlamWarning)
        results = {
            name: {scheme: measure(name, scheme, options.reference, options.saving) for scheme in schemes}
            for name in options.cases
        }
    json.dump(results, sys.stdout, indent=1)
    print()


if __name__ == "__main__":
    with threadpool_limits(1):
        main()
