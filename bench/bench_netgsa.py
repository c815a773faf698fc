"""CPU seconds of `netgsa` on a network of 192 genes and 520 samples; one thread; JSON on stdout.

The genes, networks and resampled samples of the breast cancer case where the reference folder is beside the checkout,
a simulated network of that size elsewhere.
"""

import json
import sys
import time
from pathlib import Path

import numpy as np
from cases import CASES
from threadpoolctl import threadpool_limits

import slamglmm as sg

ROUNDS = 10
BREAST_CANCER = Path(__file__).parents[2] / "shared" / "reference" / "netgsa" / "n5_brca_erbb_jakstat" / "inputs.npz"


def arguments_of(case):
    if not BREAST_CANCER.exists():
        data = sg.simulate.netgsa(n_genes=case["p"], n_pathways=2, n_samples=case["n"], seed=1)
        return "simulated", (data.expression, data.groups, data.networks, data.pathways)
    stored = np.load(BREAST_CANCER)
    rng = np.random.default_rng(1)
    labels = np.unique(stored["group"])
    columns = [
        rng.choice(np.flatnonzero(stored["group"] == label), size)
        for label, size in zip(labels, case["n"], strict=True)
    ]
    groups = np.repeat(labels, case["n"])
    return "breast cancer", (
        stored["x"][:, np.concatenate(columns)],
        groups,
        [stored["A1"], stored["A2"]],
        stored["pathways"],
    )


def main():
    case = CASES["netgsa"]
    source, arguments = arguments_of(case)
    sg.netgsa(*arguments)  # loads statsmodels
    seconds = {}
    for method in ("rehe", "rerehe"):
        rounds = []
        for _ in range(ROUNDS):
            start = time.process_time()
            sg.netgsa(*arguments, method=method, seed=1)
            rounds.append(time.process_time() - start)
        seconds[method] = {"cpu_seconds": min(rounds), "median_cpu_seconds": float(np.median(rounds))}
    json.dump({"netgsa": {**case, "data": source, **seconds}}, sys.stdout, indent=1)
    print()


if __name__ == "__main__":
    with threadpool_limits(1):
        main()
