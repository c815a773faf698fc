"""CPU seconds of `netgsa` on a network of 192 genes and 520 samples; one thread; JSON on stdout."""

import json
import sys
import time

import numpy as np
from cases import CASES
from threadpoolctl import threadpool_limits

import slamglmm as sg

ROUNDS = 10


def main():
    case = CASES["netgsa"]
    data = sg.simulate.netgsa(n_genes=case["p"], n_pathways=2, n_samples=case["n"], seed=1)
    arguments = (data.expression, data.groups, data.networks, data.pathways)
    sg.netgsa(*arguments)  # loads statsmodels
    seconds = {}
    for method in ("rehe", "rerehe"):
        rounds = []
        for _ in range(ROUNDS):
            start = time.process_time()
            sg.netgsa(*arguments, method=method, seed=1)
            rounds.append(time.process_time() - start)
        seconds[method] = {"cpu_seconds": min(rounds), "median_cpu_seconds": float(np.median(rounds))}
    json.dump({"netgsa": {**case, **seconds}}, sys.stdout, indent=1)
    print()


if __name__ == "__main__":
    with threadpool_limits(1):
        main()
