"""Missing cells drawn with U integrated out against groups of traits with rows of their own; JSON on stdout.

Run ``PYTHONPATH=. python bench/bench_missing.py [--lines 400] [--traits 40] [masked:fraction ...]`` from the root of
the repository: ``1:0.25`` masks a quarter of the rows of one trait. Both ways fit the same data with the same numbers
of draws. Effective samples (bulk) are those within chains for each draw; CPU seconds are those of sampling after
burn-in, one thread. The rule between the two ways (`LARGEST_LOSS` and `COST_OF_RANDOM` of
``slamglmm/fitters/slam/problem.py``) was set with this file.
"""

import argparse
import json
import sys
import time
from unittest.mock import patch

import numpy as np
import pandas as pd
from threadpoolctl import threadpool_limits

import slamglmm as sg
from slamglmm.diagnostics import diagnose
from slamglmm.fitters.slam import problem as problem_module
from slamglmm.fitters.slam.draws import Snapshot
from slamglmm.fitters.slam.problem import build_problem
from slamglmm.fitters.slam.state import start_state
from slamglmm.fitters.slam.sweep import sweep
from slamglmm.linalg.threads import BlockPool

N_PAIRS = 300


def masked_design(lines, traits, masked, fraction):
    """Inbred lines with a dense kinship; each of the first `masked` traits misses its own rows."""
    data = sg.simulate.slam(lines=lines, n_traits=traits, n_factors=5, seed=1)
    Y, rng = data.Y.copy(), np.random.default_rng(2)
    for j in range(masked):
        Y.iloc[rng.permutation(lines)[: round(fraction * lines)], j] = np.nan
    return sg.design(data.formula, data.frame, Y=Y, relmat=data.relmat)


def run(problem, burn, draws, chains):
    """h2 (chains, draws, p) in the user's order, off-diagonals of G, and CPU seconds of a draw."""
    p, rng = problem.p, np.random.default_rng(1)
    first, second = np.triu_indices(p, 1)
    chosen = rng.permutation(len(first))[:N_PAIRS]
    i, j = first[chosen], second[chosen]
    h2, G, seconds = np.empty((chains, draws, p)), np.empty((chains, draws, len(i))), 0.0
    for c in range(chains):
        state, pool = start_state(problem, np.random.SeedSequence([1, c])), BlockPool(1)
        for _ in range(burn):
            sweep(problem, state, pool)
        for d in range(draws):
            start = time.process_time()
            sweep(problem, state, pool)
            seconds += time.process_time() - start
            snapshot = Snapshot(problem, state)
            h2[c, d] = snapshot.h2()[0]
            share, loadings = problem.grid.shares[state.gamma, 0], snapshot.Lambda()
            G[c, d] = np.einsum("al,al,l->a", loadings[i], loadings[j], share)
    return h2, G, seconds / (chains * draws)


def within_chains(values):
    """Bulk effective samples for each draw, mean over chains."""
    index = pd.RangeIndex(values.shape[2])
    return np.mean([diagnose(chain[None], index)["ess_bulk"] for chain in values], axis=0) / values.shape[1]


def measure(design, masked, options):
    out, means = {}, {}
    for way, drawn in (("groups", False), ("drawn", True)):
        with patch.object(problem_module, "_is_scattered", lambda *_, drawn=drawn: drawn):
            problem = build_problem(design, sg.Priors(), options.factors, 20)
        assert problem.collapsed == drawn
        h2, G, seconds = run(problem, options.burn, options.draws, options.chains)
        effective, pairs = within_chains(h2), within_chains(G)
        means[way] = h2.mean(axis=(0, 1))
        out[way] = {
            "cpu_ms_per_draw": 1e3 * seconds,
            "h2_masked_worst": effective[:masked].min(),
            "h2_masked_median": np.median(effective[:masked]),
            "h2_others_median": np.median(effective[masked:]) if masked < problem.p else np.nan,
            "G_median": np.median(pairs),
            "G_worst_decile": np.quantile(pairs, 0.1),
        }
    slow, fast = out["groups"], out["drawn"]
    out["gain_per_cpu_second"] = {
        name: fast[name] / fast["cpu_ms_per_draw"] / (slow[name] / slow["cpu_ms_per_draw"])
        for name in slow
        if name != "cpu_ms_per_draw"
    }
    out["largest_difference_of_mean_h2"] = np.abs(means["groups"] - means["drawn"]).max()
    out["chosen"] = "drawn" if build_problem(design, sg.Priors(), options.factors, 20).collapsed else "groups"
    return out


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("cases", nargs="*", default=["1:0.1", "1:0.25", "1:0.5", "5:0.25", "5:0.5"])
    parser.add_argument("--lines", type=int, default=400)
    parser.add_argument("--traits", type=int, default=40)
    parser.add_argument("--factors", type=int, default=10)
    parser.add_argument("--burn", type=int, default=300)
    parser.add_argument("--draws", type=int, default=1000)
    parser.add_argument("--chains", type=int, default=2)
    options = parser.parse_args()
    results = {}
    for case in options.cases:
        masked, fraction = case.split(":")
        design = masked_design(options.lines, options.traits, int(masked), float(fraction))
        result = results[case] = measure(design, int(masked), options)
        slow, fast = result["groups"], result["drawn"]
        print(
            f"{options.lines} x {options.traits}, {case}: {slow['cpu_ms_per_draw']:.1f} -> "
            f"{fast['cpu_ms_per_draw']:.1f} ms; gain for each CPU second: "
            + ", ".join(f"{name} {gain:.2f}" for name, gain in result["gain_per_cpu_second"].items())
            + f"; chosen {result['chosen']}",
            file=sys.stderr,
        )
    json.dump(json.loads(json.dumps(results, default=float)), sys.stdout, indent=1)
    print()


if __name__ == "__main__":
    with threadpool_limits(1):
        main()
