"""CPU seconds of one SLAM iteration, with and without saving, set-up and peak memory; one thread; JSON on stdout.

Run ``python bench/bench_slam.py [case ...]``; every case has a process of its own. Horseshoe loadings, complete data,
20 grid points and a dense kinship unless the case says otherwise.
"""

import json
import multiprocessing
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

ITERATIONS = {
    "slam_A": 300,
    "slam_B": 20,
    "slam_C": 4,
    "slam_D_25": 50,
    "slam_D_64": 50,
    "slam_D_rays": 20,
    "slam_two_effects": 50,
    "slam_E": 10,
    "slam_E_families": 10,
}
ROUNDS = 5


def sires(n, rng):
    """Half-sib families of ten."""
    sire = np.repeat(np.arange(n // 10), 10)
    ids = [f"i{i}" for i in range(n)]
    K = pd.DataFrame(0.25 * (sire[:, None] == sire) + 0.75 * np.eye(n), ids, ids)
    return pd.DataFrame({"id": ids}), "(1 | id)", {"id": K}, sire


def kinship(levels, rng):
    """A dense kinship from markers, its mean diagonal one."""
    return sg.kinship(pd.DataFrame(rng.binomial(2, 0.4, (len(levels), 3000)), levels))


def trial(n, rng):
    """600 lines in 4 environments; (line, K) and (line by environment, K x I)."""
    lines, environments = [f"l{i}" for i in range(n // 4)], list("abcd")
    frame = pd.DataFrame({"line": np.repeat(lines, 4), "env": np.tile(environments, n // 4)})
    K = kinship(lines, rng)
    cells = [f"{line}{env}" for line in lines for env in environments]
    both = pd.DataFrame(np.kron(K.to_numpy(), np.eye(4)), cells, cells)
    frame["cell"] = frame.line + frame.env
    return frame, "env + (1 | line) + (1 | cell)", {"line": K, "cell": both}, np.arange(n) // 4


def trial_unbalanced(n, rng):
    """A tenth of the rows lost; (line, K) and (line, I)."""
    frame, _, relmat, line = trial(n, rng)
    kept = np.sort(rng.choice(n, n - n // 10, replace=False))
    frame = frame.assign(same=frame.line).iloc[kept].reset_index(drop=True)
    return frame, "env + (1 | line) + (1 | same)", {"line": relmat["line"]}, line[kept]


def families_and_blocks(n, rng):
    """A dense kinship and 50 blocks."""
    ids = [f"i{i}" for i in range(n)]
    frame = pd.DataFrame({"id": ids, "block": [f"b{i}" for i in rng.integers(50, size=n)]})
    return frame, "(1 | id) + (1 | block)", {"id": kinship(ids, rng)}, np.arange(n) // 10


def records(n, rng):
    """Records of 2000 lines, 10 to 90 each."""
    lines = np.array([f"l{i}" for i in range(2000)])
    line = np.concatenate((np.repeat(np.arange(2000), 10), rng.integers(2000, size=n - 20_000)))
    return pd.DataFrame({"line": lines[line]}), "(1 | line)", {"line": kinship(lines, rng)}, line


def pedigree(n, rng):
    """Two parents and up to 18 children each, all with records."""
    sizes = rng.integers(3, 21, size=n)
    sizes = sizes[: np.searchsorted(np.cumsum(sizes), n)]
    sizes = np.append(sizes, n - sizes.sum())
    family = np.repeat(np.arange(len(sizes)), sizes)
    first = (np.cumsum(sizes) - sizes)[family]
    ids = np.array([f"i{i}" for i in range(n)], dtype=object)
    child = np.arange(n) - first > 1
    ped = {"id": ids, "dam": np.where(child, ids[first], None), "sire": np.where(child, ids[first + child], None)}
    return pd.DataFrame({"id": ids}), "(1 | id)", {"id": sg.pedigree_relmat(pd.DataFrame(ped))}, family


def make_design(n, p, k, layout="sires", h2_grid=20):
    rng = np.random.default_rng(1)
    frame, terms, relmat, group = globals()[layout](n, rng)
    n = len(frame)
    factors = rng.standard_normal((n, 20)) + rng.standard_normal((group.max() + 1, 20))[group]
    Y = factors @ rng.standard_normal((20, p)) * 0.3 + rng.standard_normal((n, p))
    return sg.design(f"~ x + {terms}", frame.assign(x=rng.standard_normal(n)), Y=Y, relmat=relmat)


def measure(name):
    case = CASES[name]
    start = time.process_time()
    design = make_design(**case)
    middle = time.process_time()
    problem = build_problem(design, sg.Priors(), case["k"], case.get("h2_grid", 20))
    out = {
        **case,
        "notes": problem.notes,
        "design_cpu_seconds": round(middle - start, 3),
        "setup_cpu_seconds": round(time.process_time() - middle, 3),
    }
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


def measure_alone(name):
    with threadpool_limits(1):
        return measure(name)


def main(names):
    kernels = sorted({info.get("architecture", "?") for info in threadpool_info() if info["user_api"] == "blas"})
    cases = {}
    for name in names:
        # Peak memory is that of a process.
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            cases[name] = pool.apply(measure_alone, (name,))
    json.dump({"blas_kernels": kernels, "cases": cases}, sys.stdout, indent=1)
    print()


if __name__ == "__main__":
    main(sys.argv[1:] or ["slam_A", "slam_B"])
