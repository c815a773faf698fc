"""CPU seconds from a frame to a Design with ``y ~ x + (1 + x | g)``, one thread; JSON on stdout.

Run ``python bench/bench_design.py [case ...]``.
"""

import json
import sys
import time

import numpy as np
import pandas as pd
from cases import CASES
from threadpoolctl import threadpool_limits

import slamglmm as sg

FORMULA = "y ~ x + (1 + x | g)"
REPEATS = 5


def make_frame(n, n_groups, text):
    rng = np.random.default_rng(1)
    codes = rng.integers(0, n_groups, n)
    groups = pd.Series(codes).map("g{:06d}".format) if text else codes
    return pd.DataFrame({"y": rng.normal(size=n), "x": rng.normal(size=n), "g": groups})


def seconds(call):
    times = []
    for _ in range(REPEATS):
        start = time.process_time()
        call()
        times.append(time.process_time() - start)
    return {"median": float(np.median(times)), "worst": max(times)}


def main(names):
    sg.design(FORMULA, make_frame(100, 10, text=False))  # imports
    out = {}
    for name in names:
        for text in (False, True):
            frame = make_frame(**CASES[name], text=text)
            key = f"{name}_{'text' if text else 'integer'}_ids"
            out[key] = CASES[name] | {"cpu_seconds": seconds(lambda frame=frame: sg.design(FORMULA, frame))}
            out[key]["cpu_seconds_with_Z"] = seconds(lambda frame=frame: sg.design(FORMULA, frame).terms[0].Z)
    json.dump({"formula": FORMULA, "repeats": REPEATS, "cases": out}, sys.stdout, indent=1)
    print()


if __name__ == "__main__":
    with threadpool_limits(1):
        main(sys.argv[1:] or [name for name in CASES if name.startswith("design_")])
