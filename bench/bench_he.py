"""CPU seconds and memory of `he`: kinships on disk, families, groups, 2-bit markers; one thread; JSON on stdout.

Run ``python bench/bench_he.py [case ...]``. Each case runs in a process of its own. ``se=None``; kinships are aligned
with the rows, and what is timed is the reading of the kinship and the solution, except for he_groups, which times the
whole call from formula and frame.
"""

import json
import os
import resource
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
from cases import CASES
from scipy import sparse
from threadpoolctl import threadpool_limits

import slamglmm as sg
from slamglmm.fitters.he.fit import fit_he
from slamglmm.fitters.he.options import HeOptions
from slamglmm.fitters.he.sources import read_streamed
from slamglmm.genotypes import write_plink
from slamglmm.relmat import Relmat

ROUNDS = 5
OPTIONS = HeOptions(se=None, seed=1)


def timed(function, rounds=ROUNDS):
    """Least CPU and wall seconds of some rounds; the first fills caches."""
    cpu, wall = [], []
    for _ in range(rounds):
        start, clock = time.process_time(), time.perf_counter()
        function()
        cpu.append(time.process_time() - start)
        wall.append(time.perf_counter() - clock)
    return {"cpu_seconds": min(cpu), "wall_seconds": min(wall), "median_cpu_seconds": float(np.median(cpu))}


def anonymous_mib():
    """Memory that no file backs, and the peak of all memory."""
    status = Path("/proc/self/status").read_text() if Path("/proc/self/status").exists() else ""
    lines = dict(line.split(":", 1) for line in status.splitlines() if ":" in line)
    current = float(lines["RssAnon"].split()[0]) / 1024 if "RssAnon" in lines else float("nan")
    return current, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def write_kinship(path, n, seed):
    """Float32 kinship: families of four above a background of small random relationships."""
    rng = np.random.default_rng(seed)
    with open(path, "wb") as file:
        scores = rng.standard_normal((n, 40)).astype(np.float32)
        for start in range(0, n, 500):
            rows = np.arange(start, min(start + 500, n))
            block = 0.01 / 40 * scores[rows] @ scores.T
            block += 0.4 * (rows[:, None] // 4 == np.arange(n) // 4)
            block[np.arange(len(rows)), rows] = 1.0
            block.astype(np.float32).tofile(file)


def file_design(folder, n, n_kinships):
    ids = pd.RangeIndex(n)
    rng = np.random.default_rng(1)
    frame = pd.DataFrame({"id": ids, "x": rng.standard_normal(n), "y": rng.standard_normal(n)})
    relmat = {}
    for k in range(n_kinships):
        path = Path(folder) / f"kinship{k}.f32"
        write_kinship(path, n, k)
        mapped = np.memmap(path, dtype=np.float32, mode="r", shape=(n, n))
        relmat[f"K{k}"] = (mapped, ids)
    formula = "y ~ x" + "".join(f" + (1 | gr(id, cov='K{k}'))" for k in range(n_kinships))
    return sg.design(formula, frame, relmat=read_streamed(relmat))


def case_file(n, n_kinships):
    with tempfile.TemporaryDirectory() as folder:
        design = file_design(folder, n, n_kinships)
        out = timed(lambda: fit_he(design, OPTIONS))
        peak = [0.0]
        done = threading.Event()

        def watch():
            while not done.wait(0.001):
                peak[0] = max(peak[0], anonymous_mib()[0])

        watcher = threading.Thread(target=watch)
        watcher.start()
        fit_he(design, OPTIONS)
        done.set()
        watcher.join()
        return {**out, "peak_anonymous_MiB": peak[0]}


def case_evicted(n):
    def drop(path):
        with open(path, "rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)

    with tempfile.TemporaryDirectory(dir=os.environ.get("BENCH_DIR")) as folder:
        design = file_design(folder, n, 1)
        path = Path(folder) / "kinship0.f32"
        fit_he(design, OPTIONS)
        ours, plain = [], []
        for _ in range(ROUNDS):
            drop(path)
            clock = time.perf_counter()
            np.fromfile(path, dtype=np.float32)
            plain.append(time.perf_counter() - clock)
            drop(path)
            clock = time.perf_counter()
            fit_he(design, OPTIONS)
            ours.append(time.perf_counter() - clock)
        return {"wall_seconds": min(ours), "fromfile_wall_seconds": min(plain), "ratio": min(ours) / min(plain)}


def case_families(n, size):
    ids = pd.RangeIndex(n)
    rng = np.random.default_rng(1)
    block = 0.5 * np.ones((size, size)) + 0.5 * np.eye(size)
    K = sparse.csr_array(sparse.kron(sparse.eye_array(n // size), block, format="csr"))
    frame = pd.DataFrame({"id": ids, "x": rng.standard_normal(n), "y": rng.standard_normal(n)})
    design = sg.design("y ~ x + (1 | id)", frame, relmat={"id": Relmat(ids, K, "id")})
    out = timed(lambda: fit_he(design, OPTIONS))
    with_se = HeOptions(seed=1)
    out["cpu_seconds_with_sandwich"] = timed(lambda: fit_he(design, with_se), 2)["cpu_seconds"]
    return out


def case_groups(n, n_groups):
    rng = np.random.default_rng(1)
    group = rng.integers(0, n_groups, n)
    y = rng.standard_normal(n_groups)[group] + rng.standard_normal(n)
    frame = pd.DataFrame({"g": group, "x": rng.standard_normal(n), "y": y})
    out = timed(lambda: sg.he("y ~ x + (1 | g)", frame, se=None), 3)
    fit = sg.he("y ~ x + (1 | g)", frame, se=None)
    out["cpu_seconds_fixed_effects"] = timed(lambda: fit.fixef(), 1)["cpu_seconds"]
    out["estimate"] = fit.varcorr()["variance"].round(3).tolist()
    return out


def case_markers(n, m, n_probes):
    rng = np.random.default_rng(1)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "markers.bed"
        blocks = (rng.binomial(2, rng.uniform(0.05, 0.5, 1000), (n, 1000)).astype(np.int8) for _ in range(m // 1000))
        write_plink(path, blocks, range(n), [f"m{k}" for k in range(m)])
        frame = pd.DataFrame({"y": rng.standard_normal(n)})
        out = timed(
            lambda: sg.he("y ~ 1", frame, markers={"chip": path}, n_probes=n_probes, method="he", se=None, seed=1), 3
        )
        out["peak_rss_MiB"] = anonymous_mib()[1]
        return out


def case_dense(n):
    rng = np.random.default_rng(1)
    W = rng.standard_normal((n, 500))
    ids = pd.RangeIndex(n)
    frame = pd.DataFrame({"id": ids, "a": rng.standard_normal(n), "b": rng.standard_normal(n)})
    frame["y"] = W[:, :50].sum(axis=1) / 7 + rng.standard_normal(n)
    design = sg.design("y ~ a + b + (1 | id)", frame, relmat={"id": Relmat(ids, W @ W.T / 500, "id")})
    return timed(lambda: fit_he(design, OPTIONS))


RUN = {
    "he_file": case_file,
    "he_three_files": case_file,
    "he_evicted": case_evicted,
    "he_families": case_families,
    "he_groups": case_groups,
    "he_markers": case_markers,
    "he_dense": case_dense,
}


def main(names):
    if len(names) == 1:
        name = names[0]
        with threadpool_limits(1):
            warnings.simplefilter("ignore")
            json.dump({name: {**CASES[name], **RUN[name](**CASES[name])}}, sys.stdout, indent=1)
        print()
        return
    found = {}
    for name in names:
        run = subprocess.run([sys.executable, __file__, name], capture_output=True, text=True, check=True)
        found |= json.loads(run.stdout)
    json.dump(found, sys.stdout, indent=1)
    print()


if __name__ == "__main__":
    main(sys.argv[1:] or list(RUN))
