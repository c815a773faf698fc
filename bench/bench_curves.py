"""CPU seconds of one draw of all coefficients of curves: times shared by all individuals, or of their own; one thread.

Run ``python bench/bench_curves.py``; JSON on stdout. ``cholesky_each`` is the shared case without sharing.
"""

import json
import time

import numpy as np
from cases import CASES
from threadpoolctl import threadpool_limits

from slamglmm.links import cross_products
from slamglmm.links.regression import Records

ROUNDS = 30


def best(function):
    seconds = []
    for _ in range(ROUNDS):
        begin = time.process_time()
        function()
        seconds.append(time.process_time() - begin)
    return min(seconds)


def draw_seconds(records, rng, shared_by):
    """Seconds of a draw, and how many matrices are factored in it."""
    cross_products.SHARED_BY = shared_by
    grams, which = records.grams()
    products = cross_products.CrossProducts.of(grams, which)
    b, n = records.X.shape[1], records.n
    rhs, z, prec = rng.standard_normal((b, n)), rng.standard_normal((b, n)), np.ones(b)
    return best(lambda: products.draw(2.0, prec, rhs, z)), len(products.shared) + products.packed.shape[1]


def main():
    rng, default = np.random.default_rng(1), cross_products.SHARED_BY
    for name in ("curves_small", "curves_large"):
        n, times, b = (CASES[name][key] for key in ("n", "times", "b"))
        basis = rng.standard_normal((times, b))
        codes = np.repeat(np.arange(n), times)
        balanced = Records(np.tile(basis, (n, 1)), codes, n)
        irregular = Records(rng.standard_normal((n * times, b)), codes, n)
        out = {"case": name, "n": n, "times": times, "b": b}
        with threadpool_limits(1):
            for label, records, shared_by in (
                ("balanced", balanced, default),
                ("cholesky_each", balanced, n + 1),
                ("irregular", irregular, default),
            ):
                seconds, factored = draw_seconds(records, rng, shared_by)
                out[label] = {"seconds": seconds, "factored": factored}
        print(json.dumps(out))


if __name__ == "__main__":
    main()
