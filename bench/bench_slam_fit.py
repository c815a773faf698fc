"""Whole `slam` calls, each in a process of its own: peak memory, and CPU seconds an iteration; JSON on stdout.

Run ``python bench/bench_slam_fit.py [case ...]``. ``slam_C`` keeps variances and breeding values only; ``sparse_trial``
has a line's records in a few environments drawn at random, so that every environment has rows of its own.
"""

import json
import os
import resource
import subprocess
import sys
import time
import warnings

import numpy as np
import pandas as pd
from bench_slam import make_design
from cases import CASES

import slamglmm as sg
from slamglmm.fitters.slam.problem import build_problem
from slamglmm.fitters.slam.state import start_state
from slamglmm.fitters.slam.sweep import sweep
from slamglmm.linalg.threads import BlockPool

STORES = {
    "lean": ("h2", "G_diag", "U_mean"),
    "with variances of U": ("h2", "G_diag", "U_mean", "U_var"),
    "default, float32": sg.DEFAULT_STORE,
}
DRAWS = 10


def peak_MiB():
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


def fit_large(name, store):
    """Peak memory of making the data, and of the call; the draws of a short run are a small part of it."""
    case = CASES[name]
    design = make_design(**case)
    data = peak_MiB()
    frame = design.X.assign(id=design.terms[0].levels[design.terms[0].codes])
    K = pd.DataFrame(design.terms[0].K, design.terms[0].levels, design.terms[0].levels)
    Y = design.Y
    del design
    start = time.process_time()
    fit = sg.slam(
        "~ x + (1 | id)",
        frame,
        Y=Y,
        relmat={"id": K},
        n_factors=case["k"],
        draws=DRAWS,
        burn=DRAWS,
        chains=1,
        n_threads=1,
        store=STORES[store],
        store_dtype="float32" if "float32" in store else "float64",
        progress=False,
        seed=1,
    )
    seconds = (time.process_time() - start) / (2 * DRAWS)
    kept = {name: round(v.nbytes / 2**20, 1) for name, v in fit.posterior.items()}
    return {
        "cpu_seconds_per_iteration": round(seconds, 3),
        "kept_MiB": kept,
        "peak_MiB_before_the_call": data,
        "peak_MiB": peak_MiB(),
    }


def sparse_trial(lines, environments, per_line, k):
    """Lines with random relationships, each in a few environments."""
    rng = np.random.default_rng(1)
    ids = [f"L{i:04d}" for i in range(lines)]
    K = sg.kinship(pd.DataFrame(rng.binomial(2, 0.3, (lines, 2000)), ids), method="standardized")
    factors = np.linalg.cholesky(K.to_numpy() + 1e-6 * np.eye(lines)) @ rng.standard_normal((lines, 4))
    Y = factors @ rng.standard_normal((4, environments)) * 0.5 + rng.standard_normal((lines, environments))
    absent = rng.permuted(np.tile(np.arange(environments) >= per_line, (lines, 1)), axis=1)
    return sg.design("~ 1 + (1 | line)", pd.DataFrame({"line": ids}), Y=np.where(absent, np.nan, Y), relmat={"line": K})


def fit_sparse(name):
    case = CASES[name]
    design = sparse_trial(**case)
    data, start = peak_MiB(), time.process_time()
    problem = build_problem(design, sg.Priors(), case["k"], 20)
    setup = time.process_time() - start
    state, pool = start_state(problem, np.random.SeedSequence(1)), BlockPool(1)
    for _ in range(5):
        sweep(problem, state, pool)
    rounds = []
    for _ in range(5):
        start = time.process_time()
        for _ in range(20):
            sweep(problem, state, pool)
        rounds.append((time.process_time() - start) / 20)
    return {
        **case,
        "notes": problem.notes,
        "setup_cpu_seconds": round(setup, 2),
        "cpu_seconds_per_iteration": round(min(rounds), 4),
        "peak_MiB_before_the_set_up": data,
        "peak_MiB": peak_MiB(),
    }


RUNS = {
    **{f"slam_C, {store}": lambda store=store: fit_large("slam_C", store) for store in STORES},
    "sparse_trial": lambda: fit_sparse("sparse_trial"),
}


def main(names):
    if len(names) == 1:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            json.dump({names[0]: RUNS[names[0]]()}, sys.stdout, indent=1)
        print()
        return
    # A process each: the peak of one run must not hide that of the next.
    for name in names:
        subprocess.run([sys.executable, __file__, name], check=True)


if __name__ == "__main__":
    os.environ["OPENBLAS_NUM_THREADS"] = "1"
    main(sys.argv[1:] or list(RUNS))
