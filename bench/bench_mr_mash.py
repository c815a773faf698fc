"""mr.mash: microseconds per variable and sweep, with all multiples of a covariance sharing a rotation.

    python bench/bench_mr_mash.py

JSON on standard output; CPU seconds of one thread.
"""

import json
import sys
import time

import numpy as np
from cases import CASES
from threadpoolctl import threadpool_limits

from slamglmm.fitters.mr_mash.mash import Mash, maximise, start, sweep
from slamglmm.genotypes import read_markers
from slamglmm.linalg.projection import project_markers
from slamglmm.priors.mixture import MixturePrior, canonical_covariances

SWEEPS = 6


def measure(case):
    n, m, p, points = (case[key] for key in ("n", "m", "p", "grid_points"))
    rng = np.random.default_rng(0)
    X = rng.standard_normal((n, m))
    B = np.zeros((m, p))
    B[:10] = rng.standard_normal((10, 1)) * 0.5
    Y = X @ B + rng.standard_normal((n, p)) + rng.standard_normal((n, 1))
    U = canonical_covariances(p)
    prior = MixturePrior(tuple(U), np.array(list(U.values())), 4.0 ** np.arange(-points + 1, 1) / 4, True)
    out = {**case, "n_mix": prior.n_mix}
    for standardize in (True, False):
        markers = project_markers(read_markers(X).columns(), np.ones((n, 1)), None, standardize)
        model = Mash(markers, prior, np.ascontiguousarray(Y.T), None, "full", 0, True)
        state = start(model, np.cov(Y.T), np.full(prior.n_mix, 1 / prior.n_mix))
        seconds = []
        for _ in range(SWEEPS):
            begun = time.process_time()
            sweep(model, state)
            maximise(model, state)
            seconds.append(time.process_time() - begun)
        key = "standardized" if standardize else "as_given"
        out[f"us_per_variable_{key}"] = round(1e6 * float(np.median(seconds)) / m, 2)
    return out


if __name__ == "__main__":
    with threadpool_limits(1):
        names = sys.argv[1:] or ["mash_5", "mash_20", "mash_50"]
        json.dump({name: measure(CASES[name]) for name in names}, sys.stdout, indent=1)
    print()
