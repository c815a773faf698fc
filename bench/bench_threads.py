"""Wall seconds of one SLAM iteration with one thread and with several; JSON on stdout.

Run ``python bench/bench_threads.py [--threads 2] [--busy] [case ...]`` on a machine that does nothing else. With
``--busy`` another process keeps a core busy all the time. Turns of one and of several threads alternate;
``serial_share`` is the part of an iteration outside the pool, with one thread.
"""

import argparse
import json
import multiprocessing
import os
import sys
import time
from contextlib import contextmanager

import numpy as np
from bench_slam import ITERATIONS, make_design
from cases import CASES
from threadpoolctl import threadpool_limits

import slamglmm as sg
from slamglmm.fitters.slam.problem import build_problem
from slamglmm.fitters.slam.state import start_state
from slamglmm.fitters.slam.sweep import sweep
from slamglmm.linalg.threads import BlockPool

ROUNDS = 5


class TimedPool(BlockPool):
    """Adds up the time spent in the pool."""

    seconds = 0.0

    def run(self, function, tasks):
        start = time.perf_counter()
        out = super().run(function, tasks)
        self.seconds += time.perf_counter() - start
        return out


def spin():
    while True:
        pass


@contextmanager
def busy_core(wanted):
    """Another process that never rests."""
    other = multiprocessing.get_context("spawn").Process(target=spin, daemon=True)
    if wanted:
        other.start()
        time.sleep(1.0)
    try:
        yield
    finally:
        if wanted:
            other.kill()


def measure(name, n_threads, busy):
    case = CASES[name]
    problem = build_problem(make_design(**case), sg.Priors(), case["k"], case.get("h2_grid", 20))
    state = start_state(problem, np.random.SeedSequence(1))
    one, several = TimedPool(1), BlockPool(n_threads)
    iterations = ITERATIONS[name]
    for _ in range(3):
        sweep(problem, state, one)
    walls = {1: [], n_threads: []}
    one.seconds = 0.0
    with busy_core(busy):
        for _ in range(ROUNDS):
            for threads, pool in ((1, one), (n_threads, several)):
                start = time.perf_counter()
                for _ in range(iterations):
                    sweep(problem, state, pool)
                walls[threads].append((time.perf_counter() - start) / iterations)
    several.close()
    best = {threads: min(values) for threads, values in walls.items()}
    return {
        "wall_seconds": walls,
        "best": best,
        "speed_up": best[1] / best[n_threads],
        "median_speed_up": float(np.median(np.array(walls[1]) / np.array(walls[n_threads]))),
        "serial_share": 1.0 - one.seconds / (ROUNDS * iterations * np.mean(walls[1])),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("cases", nargs="*", default=["slam_B"])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--busy", action="store_true", help="another process keeps a core busy")
    options = parser.parse_args()
    with threadpool_limits(1):
        cases = {name: measure(name, options.threads, options.busy) for name in options.cases}
    json.dump(
        {"cores": os.cpu_count(), "load": os.getloadavg(), "busy": options.busy, "cases": cases}, sys.stdout, indent=1
    )
    print()


if __name__ == "__main__":
    main()
