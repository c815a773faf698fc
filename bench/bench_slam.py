"""CPU seconds of one SLAM iteration, with and without saving, and peak memory; one thread; JSON on stdout.

Run ``python bench/bench_slam.py [case ...]``. Horseshoe loadings, 20 grid points, dense kinship, complete data.
"""

import json
import resource
import sys
import time

import numpy as np
import pandas as pd
from cases import CASES
from threadpoolctl import threadpool_info, threadpool_limits

import slamglmm as sg
from slamglmm.fitters.slam.draws import DEFAULT_STORE, DrawBuffer, RunningMeans
from slamglmm.fitters.slam.problem import build_problem
from slamglmm.fitters.slam.state import start_state
from slamglmm.fitters.slam.sweep import sweep
from slamglmm.linalg.threads import BlockPool

ITERATIONS = {"slam_A": 300, "slam_B": 20, "slam_C": 4}
ROUNDS = 5


def make_design(n, p, k):
    rng = np.random.default_rng(1)
    sire = np.repeat(np.arange(n // 10), 10)
    ids = [f"i{i}" for i in range(n)]
    K = pd.DataFrame(0.25 * (sire[:, None] == sire) + 0.75 * np.eye(n), ids, ids)
    factors = rng.standard_normal((n, 20)) + rng.standard_normal((n // 10, 20))[sire]
    Y = factors @ rng.standard_normal((20, p)) * 0.3 + rng.standard_normal((n, p))
    frame = pd.DataFrame({"id": ids, "x": rng.standard_normal(n)})
    return sg.design("~ x + (1 | id)", frame, Y=Y, relmat={"id": K})


def measure(name):
    case = CASES[name]
    start = time.process_time()
    problem = build_problem(make_design(**case), sg.Priors(), case["k"], 20)
    out = {**case, "setup_cpu_seconds": round(time.process_time() - start, 3)}
    state, pool = start_state(problem, np.random.SeedSequence(1)), BlockPool(1)
    iterations = ITERATIONS[name]
    for _ in range(max(2, iterations // 5)):
        sweep(problem, state, pool)
    plain, saving = [], []
    running = RunningMeans(problem)
    for _ in range(ROUNDS):
        # The two in turn, so that a drifting machine speed hits both.
        start = time.process_time()
        for _ in range(iterations):
            sweep(problem, state, pool)
        plain.append((time.process_time() - start) / iterations)
        buffer = DrawBuffer(problem, DEFAULT_STORE, iterations)
        start = time.process_time()
        for _ in range(iterations):
            sweep(problem, state, pool, running if running.is_due(thin=1) else None)
            buffer.add(problem, state)
        saving.append((time.process_time() - start) / iterations)
    out["cpu_seconds_per_iteration"] = float(np.median(plain))
    out["cpu_seconds_per_iteration_saving"] = float(np.median(saving))
    out["saving_adds"] = float(np.median(np.array(saving) / np.array(plain)) - 1)
    out["peak_memory_MiB"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return out


def main(names):
    kernels = sorted({info.get("architecture", "?") for info in threadpool_info() if info["user_api"] == "blas"})
    json.dump({"blas_kernels": kernels, "cases": {name: measure(name) for name in names}}, sys.stdout, indent=1)
    print()


if __name__ == "__main__":
    with threadpool_limits(1):
        main(sys.argv[1:] or ["slam_A", "slam_B"])
