"""Spike-and-slab regression: seconds per marker of a sweep, of a whole fit, and the paper's headline size.

    python bench/bench_sparse_lmm.py [kernels] [fit] [headline] [headline_small] [scenarios]

JSON on standard output. "kernels" (the best of some rounds, by storage, for every instruction set the processor has:
`Columns.simd("avx2")` asks for one) and "fit" give CPU seconds of one thread. "headline" runs two processes on one
mapped file and gives wall and CPU minutes, and the peak memory of all processes together. "scenarios" runs the paper's
nine scenarios by five-fold cross-validation against tuned lasso, on the stored inputs.
"""

import json
import os
import resource
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pandas as pd
from cases import CASES
from memory import PeakMemory
from slamglmm._kernels.columns import SIMD, Columns
from slamglmm._kernels.spike_slab import sweep_spike_slab
from threadpoolctl import threadpool_limits

import slamglmm as sg
from slamglmm.genotypes import open_plink, read_markers, write_plink
from slamglmm.linalg.projection import project_markers

ROUNDS = 6
REFERENCE = Path(__file__).parents[2] / "shared" / "reference"


def seconds_of_a_sweep(markers, y):
    """CPU seconds of one sweep in the middle of a fit."""
    projected = project_markers(markers.columns(), np.ones((markers.n, 1)))
    residual, carried = projected.project(y), np.zeros((1, 1))
    state = [np.zeros((1, markers.m)) for _ in range(3)]
    base = np.full((1, markers.m), -7.0)
    begun = time.process_time()
    sweep_spike_slab(
        projected.columns, projected.order, np.array([0]), projected.projections, projected.scale, projected.gram,
        projected.weights, base, np.full(1, 10.0), np.ones(1), *state, residual, carried, np.zeros(1),
    )  # fmt: skip
    return time.process_time() - begun


def kernels():
    """Best of some sweeps, microseconds per marker, float64 residual."""
    case = CASES["vb_kernel"]
    n, m = case["n"], case["m"]
    rng = np.random.default_rng(0)
    genotypes = rng.integers(0, 3, (m, n), dtype=np.int8)
    y = rng.standard_normal((1, n))
    out = dict(case)
    with tempfile.TemporaryDirectory() as folder:
        blocks = (genotypes[start : start + 4000].T for start in range(0, m, 4000))
        write_plink(Path(folder) / "g.bed", blocks, range(n), range(m))
        sources = {
            "int8": read_markers(genotypes.T),
            "two_bits": open_plink(Path(folder) / "g.bed"),
            "float32": read_markers((genotypes[: m // 8] + np.float32(0.5)).T),
        }
        fastest = Columns.simd()
        levels = ("avx512", "avx2", "generic")[2 - SIMD.index(fastest) :]
        best = {}
        # Storages and instruction sets take turns, so that other work on the machine hits all of them.
        for _ in range(ROUNDS):
            for level in levels:
                Columns.simd(level)
                for name, markers in sources.items():
                    key = f"{name}_{level}_us_per_marker"
                    best[key] = min(best.get(key, np.inf), 1e6 * seconds_of_a_sweep(markers, y) / markers.m)
        Columns.simd(fastest)
    return out | {key: round(value, 3) for key, value in best.items()}


def one_fit():
    """The size of one fold of the paper's experiment; three starts, EM over pi."""
    case = CASES["vb_fit"]
    rng = np.random.default_rng(0)
    G = rng.binomial(2, rng.uniform(0.05, 0.5, case["m"]), (case["n"], case["m"])).astype(np.int8)
    beta = np.zeros(case["m"])
    beta[rng.choice(case["m"], case["causal"], replace=False)] = rng.standard_normal(case["causal"])
    signal = G @ beta
    X = rng.standard_normal((case["n"], 3))
    y = X.sum(axis=1) + signal + rng.standard_normal(case["n"]) * signal.std()
    frame = pd.DataFrame(X, columns=["a", "b", "c"]).assign(y=y)
    markers = read_markers(np.asfortranarray(G))
    seconds = []
    for _ in range(3):
        begun = time.process_time()
        fit = sg.sparse_lmm("y ~ a + b + c", frame, markers=markers, n_threads=1)
        seconds.append(time.process_time() - begun)
    return {**case, "cpu_seconds": round(min(seconds), 3), "sweeps": [int(s) for s in fit.starts["sweeps"]]}


def _open_headline(path):
    """Once in each process, which all map the same file."""
    global headline_markers
    headline_markers = open_plink(path)


def _headline_fit(task):
    """Fit one phenotype without one fold, and predict the individuals of that fold."""
    frame, fold, phenotype = task
    train, test = frame[frame["fold"] != fold], frame[frame["fold"] == fold]
    formula = f"{phenotype} ~ " + " + ".join(c for c in frame.columns if c.startswith("x"))
    wall, cpu = time.perf_counter(), time.process_time()
    fit = sg.sparse_lmm(formula, train, markers=headline_markers, n_threads=1)
    predicted = fit.predict(test, markers=headline_markers)[phenotype]
    return {
        "fold": int(fold),
        "phenotype": phenotype,
        "wall_seconds": round(time.perf_counter() - wall, 1),
        "cpu_seconds": round(time.process_time() - cpu, 1),
        "sweeps": [int(s) for s in fit.starts["sweeps"]],
        "r2": round(float(np.corrcoef(predicted, test[phenotype])[0, 1] ** 2), 3),
        "sum_pip": round(float(fit.pip.sum()), 1),
    }


def cpu_seconds_of_all():
    """Of this process and of those it started that have ended."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(u.ru_utime + u.ru_stime for u in used)


def headline(case="vb_headline"):
    """Individuals, markers in LD and phenotypes of the paper; folds are rows left out of the data, the file is one."""
    case = CASES[case]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "headline.bed"
        begun = time.perf_counter()
        made = sg.simulate.sparse_lmm(
            n=case["n"], n_markers=case["m"], causal=case["causal"], h2=case["h2"], covariates=case["covariates"] - 1,
            ld_block=case["ld_block"], ld=case["ld"], n_traits=case["phenotypes"], bed=path, seed=1,
        )  # fmt: skip
        simulated = time.perf_counter() - begun
        frame = made.frame.copy()
        frame["fold"] = np.random.default_rng(2).permutation(np.arange(case["n"]) % case["folds"])
        tasks = [(frame, fold, phenotype) for fold in range(case["folds"]) for phenotype in made.Y.columns]
        begun, cpu = time.perf_counter(), cpu_seconds_of_all()
        with (
            PeakMemory(os.getpid()) as memory,
            ProcessPoolExecutor(2, get_context("spawn"), initializer=_open_headline, initargs=(path,)) as pool,
        ):
            fits = list(pool.map(_headline_fit, tasks))
        wall = time.perf_counter() - begun
        return {
            **case,
            "fits": fits,
            "n_fits": len(fits),
            "simulation_seconds": round(simulated, 1),
            "file_MiB": round(os.path.getsize(path) / 2**20),
            "wall_minutes_of_all_fits": round(wall / 60, 2),
            "cpu_minutes_of_all_processes": round((cpu_seconds_of_all() - cpu) / 60, 2),
            # the mapped file included, once in the first figure and once for each process in the second
            "peak_PSS_MiB_of_all_processes": round(memory.peak_pss_mib),
            "peak_RSS_MiB_of_all_processes": round(memory.peak_rss_mib),
        }


def headline_small():
    """The same on a tenth of the individuals and a thirtieth of the markers, to see that it works."""
    return headline("vb_headline_small")


def scenario_inputs():
    """Covariates, genotypes, nine responses and folds of the stored experiment."""
    with np.load(REFERENCE / "varbvs" / "v1_inputs.npz") as stored:
        packed, Z, Y, fold = (stored[key] for key in ("X2bit", "Z", "Y", "fold"))
    G = np.empty((4 * len(packed), packed.shape[1]), dtype=np.int8)
    for s in range(4):
        G[s::4] = (packed >> (2 * s)) & 3
    return Z, G, Y, fold


def scenario_fold(inputs, scenario, k):
    """One fold: share of what the covariates leave that is predicted, by us and by tuned lasso."""
    from sklearn.linear_model import LassoCV

    Z, G, Y, fold = inputs
    y, train, test = Y[:, scenario - 1], fold != k, fold == k
    X = np.column_stack((np.ones(len(Z)), Z))
    only = X @ np.linalg.lstsq(X[train], y[train], rcond=None)[0]
    rest = np.sum((y - only)[test] ** 2)
    frame = pd.DataFrame(Z, columns=["a", "b", "c"]).assign(y=np.where(train, y, np.nan))
    begun = time.process_time()
    fit = sg.sparse_lmm("y ~ a + b + c", frame, markers=G, n_threads=1)
    seconds = time.process_time() - begun
    ours = 1 - np.sum((y - fit.fitted()["y"].to_numpy())[test] ** 2) / rest
    # lasso after projecting response and markers off the covariates of the training fold
    loads = np.linalg.lstsq(X[train], np.column_stack((y[train], G[train])), rcond=None)[0]
    projected = np.column_stack((y, G)) - X @ loads
    begun = time.process_time()
    lasso = LassoCV(cv=5, alphas=50, fit_intercept=False, n_jobs=1, max_iter=2000, random_state=0)
    lasso.fit(np.asfortranarray(projected[train, 1:], dtype=np.float32), projected[train, 0])
    lasso_seconds = time.process_time() - begun
    residual = projected[test, 0] - projected[test, 1:] @ lasso.coef_
    return {
        "scenario": scenario,
        "ours": float(ours),
        "lasso_sklearn": float(1 - np.sum(residual**2) / rest),
        "seconds": seconds,
        "lasso_seconds": lasso_seconds,
        "sum_pip": float(fit.pip.sum()),
    }


def scenarios():
    """Means over five folds, with the stored results of other programs beside them."""
    inputs = scenario_inputs()
    rows = []
    for scenario in range(1, 10):
        for k in range(5):
            rows.append(scenario_fold(inputs, scenario, k))
            print(json.dumps(rows[-1]), file=sys.stderr, flush=True)
    mean = pd.DataFrame(rows).groupby("scenario").mean()
    stored = pd.read_csv(REFERENCE / "varbvs" / "v1_cv.csv")
    other = stored.pivot_table(index="scenario", columns="method", values="partial_r2", aggfunc="mean")
    table = mean.join(other[["slmm_emul", "varbvs_equiv", "glmnet_cv_lambda.min"]])
    return json.loads(table.round(4).reset_index().to_json(orient="records"))


PARTS = {
    "kernels": kernels,
    "fit": one_fit,
    "headline": headline,
    "headline_small": headline_small,
    "scenarios": scenarios,
}

if __name__ == "__main__":
    with threadpool_limits(1):
        json.dump({name: PARTS[name]() for name in sys.argv[1:] or ["kernels", "fit"]}, sys.stdout, indent=1)
    print()
