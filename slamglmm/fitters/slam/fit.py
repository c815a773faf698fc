"""Run the chains: in this process or in others, from the start or from where they stopped."""

from __future__ import annotations

import copy
import os
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from ... import __version__
from ...design import Design
from ...errors import ConvergenceWarning, OptionError, SlamWarning
from ...linalg.threads import BlockPool, single_threaded_blas
from ...links import Link
from ...priors import Priors
from ...results.posterior import ComponentLabel, SlamResult
from ..monitor import Ticker, ignore_interrupts, interrupts_ignored, monitor
from .draws import DEFAULT_STORE, MEANS, STORABLE, DrawBuffer, RunningMeans
from .problem import Problem, build_problem
from .state import State, start_state
from .sweep import sweep


@dataclass(frozen=True)
class Schedule:
    """How long chains run and what is kept; checked on creation."""

    draws: int
    burn: int
    thin: int
    store: tuple[str, ...]
    n_threads: int | None = None
    n_jobs: int = 1

    def __post_init__(self) -> None:
        for name, least in (("draws", 1), ("burn", 0), ("thin", 1)):
            value = getattr(self, name)
            if not isinstance(value, int | np.integer) or value < least:
                raise OptionError(f"{name}={value!r}: expected an integer of at least {least}.")
        unknown = [name for name in self.store if name not in STORABLE]
        if unknown:
            raise OptionError(f"store={self.store!r}: unknown {unknown}. Choose from {', '.join(STORABLE)}.")

    @property
    def iterations(self) -> int:
        """Iterations of one chain."""
        return self.burn + self.draws * self.thin


@dataclass
class ChainRun:
    """One chain: the draws of this run, running means over all runs, and the state it can go on from (packed)."""

    drawn: dict[str, np.ndarray]
    running: RunningMeans | None
    state: State
    seconds: float
    iterations: int

    @property
    def n_draws(self) -> int:
        """Number of draws kept in this run."""
        return len(next(iter(self.drawn.values()))) if self.drawn else 0


def run_chain(
    problem: Problem,
    schedule: Schedule,
    seed: np.random.SeedSequence | None,
    previous: ChainRun | None,
    ticker: Ticker,
    threads: int,
) -> ChainRun:
    """Run one chain from a seed, or continue ``previous`` without burn-in."""
    begin = time.perf_counter()
    pool = BlockPool(threads)
    wants_means = any(name in schedule.store for name in MEANS)
    with single_threaded_blas():
        if previous is None:
            assert seed is not None
            state, running, burn = (
                start_state(problem, seed),
                RunningMeans(problem) if wants_means else None,
                schedule.burn,
            )
        else:
            # An earlier result keeps its own state: extending it twice gives the same draws twice.
            state, running, burn = previous.state.copy(problem), copy.deepcopy(previous.running), 0
        buffer = DrawBuffer(problem, schedule.store, schedule.draws)
        iterations = 0
        try:
            for iteration in range(burn + schedule.draws * schedule.thin):
                after_burn = iteration - burn + 1
                keep = after_burn > 0 and after_burn % schedule.thin == 0
                due = keep and running is not None and running.is_due(schedule.thin)
                sweep(problem, state, pool, running if due else None)
                if keep:
                    buffer.add(problem, state)
                iterations += 1
                if ticker.tick(iterations):
                    break
        finally:
            pool.close()
    seconds = time.perf_counter() - begin
    if previous is not None:
        iterations, seconds = iterations + previous.iterations, seconds + previous.seconds
    return ChainRun(buffer.drawn(), running, state.packed(problem), seconds, iterations)


def _run_in_worker(*args: object) -> ChainRun:
    ignore_interrupts()
    return run_chain(*args)  # type: ignore[arg-type]


def run_chains(
    problem: Problem,
    schedule: Schedule,
    seeds: Sequence[np.random.SeedSequence] | None,
    previous: Sequence[ChainRun] | None,
    progress: bool | None,
) -> list[ChainRun]:
    """Run all chains; bits do not depend on ``n_jobs`` or ``n_threads``.

    Warns
    -----
    ConvergenceWarning
        The run was interrupted; the draws so far are kept, chains cut to the same length.
    """
    chains = len(seeds or previous or [])
    n_jobs = min(schedule.n_jobs if schedule.n_jobs > 0 else os.cpu_count() or 1, chains)
    threads = schedule.n_threads or _default_threads(problem, n_jobs)
    total = schedule.iterations if previous is None else schedule.draws * schedule.thin

    def run_all(run: Callable[[list[tuple]], list[ChainRun]]) -> list[ChainRun]:
        with monitor(chains, total, progress, f"slam, {chains} chain(s)") as tickers:
            first = seeds if seeds is not None else [None] * chains
            before = previous if previous is not None else [None] * chains
            return run([(problem, schedule, first[c], before[c], tickers[c], threads) for c in range(chains)])

    if n_jobs == 1:
        runs = run_all(lambda tasks: [run_chain(*task) for task in tasks])
    else:
        from joblib import Parallel, delayed

        with Parallel(n_jobs=n_jobs) as parallel:
            with interrupts_ignored():
                parallel(delayed(ignore_interrupts)() for _ in range(n_jobs))
            runs = run_all(lambda tasks: parallel(delayed(_run_in_worker)(*task) for task in tasks))
    kept = _longest_rectangle([run.n_draws for run in runs])
    if not kept:
        raise KeyboardInterrupt("interrupted before the first kept draw")
    runs = [runs[c] for c in kept]
    shortest = min(run.n_draws for run in runs)
    if len(runs) < chains or shortest < schedule.draws:
        warnings.warn(
            f"interrupted: {shortest} of {schedule.draws} draws kept in {len(runs)} of {chains} chain(s). "
            "fit.extend(draws) goes on from here.",
            ConvergenceWarning,
            stacklevel=3,
        )
    return runs


def _longest_rectangle(lengths: Sequence[int]) -> list[int]:
    """Chains to keep after an interrupt: most draws in all when chains are cut to the same length."""
    best, kept = 0, []
    for length in lengths:
        chosen = [c for c, other in enumerate(lengths) if other >= length]
        if length * len(chosen) > best:
            best, kept = length * len(chosen), chosen
    return kept


def _default_threads(problem: Problem, n_jobs: int) -> int:
    """Threads pay only when there are blocks enough to share; chains in parallel come first."""
    cores = os.cpu_count() or 1
    work = problem.p * problem.n * (problem.b + problem.n_factors)
    return max(1, cores // n_jobs) if work > 2e7 else 1


@dataclass
class Chains:
    """Where the chains stand, so that a result can go on; the problem is built again after loading from disk."""

    design: Design
    model: dict[str, Any]
    schedule: Schedule
    runs: list[ChainRun]
    problem: Problem | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "problem": None}

    def extend(self, result: SlamResult, draws: int, progress: bool | None = None) -> SlamResult:
        """A new result with ``draws`` more draws from each chain."""
        schedule = replace(self.schedule, draws=draws)
        problem = self.problem
        if problem is None:
            with warnings.catch_warnings():
                # The first fit has said what there is to say about these data.
                warnings.simplefilter("ignore", SlamWarning)
                problem = build_problem(self.design, **self.model)
        runs = run_chains(problem, schedule, None, self.runs, progress)
        more = posterior_dataset(problem, self.design, runs, schedule.store)
        old = result.posterior
        more["draw"] = np.arange(old.sizes["draw"], old.sizes["draw"] + more.sizes["draw"])
        drawn = [name for name, values in more.items() if "draw" in values.dims]
        joined = xr.concat([old[drawn], more[drawn]], dim="draw", join="exact")
        joined = joined.assign({name: values for name, values in more.items() if name not in drawn})
        chains = Chains(self.design, self.model, self.schedule, _without_draws(runs), problem)
        return result.with_draws(joined, chains, max(run.seconds for run in runs), joined.sizes["draw"])


def fit_slam(
    design: Design,
    *,
    priors: Priors,
    n_factors: int | None,
    link: str | Link,
    h2_grid: int,
    draws: int,
    burn: int,
    thin: int,
    chains: int,
    seed: int | None,
    n_threads: int | None,
    n_jobs: int,
    store: tuple[str, ...] | None,
    progress: bool | None,
) -> SlamResult:
    """Fit the model to a design; arguments as in `slamglmm.slam`."""
    if not isinstance(chains, int | np.integer) or chains < 1:
        raise OptionError(f"chains={chains!r}: expected an integer of at least 1.")
    schedule = Schedule(draws, burn, thin, store or DEFAULT_STORE, n_threads, n_jobs)
    begin = time.perf_counter()
    model: dict[str, Any] = {"priors": priors, "n_factors": n_factors, "h2_grid": h2_grid, "link": link}
    problem = build_problem(design, **model)
    root = np.random.SeedSequence(seed)
    runs = run_chains(problem, schedule, root.spawn(chains), None, progress)
    components = tuple(ComponentLabel(c.label, design.terms[c.term].label, c.effect) for c in problem.components)
    grid = pd.DataFrame(problem.grid.shares, columns=[c.label for c in problem.components])
    grid["prior_traits"] = np.exp(problem.log_prior_traits)
    grid["prior_factors"] = np.exp(problem.log_prior_factors)
    n_kept = min(run.n_draws for run in runs)
    options = {
        **model,
        "n_factors": problem.n_factors,
        "draws": n_kept,
        "burn": burn,
        "thin": thin,
        "chains": chains,
        "seed": root.entropy,
        "store": schedule.store,
    }
    posterior = posterior_dataset(problem, design, runs, schedule.store)
    return SlamResult(
        design=design,
        options=options,
        version=__version__,
        seconds=time.perf_counter() - begin,
        notes=problem.notes,
        posterior=posterior,
        grid=grid,
        components=components,
        chains=Chains(design, model, schedule, _without_draws(runs), problem),
    )


def posterior_dataset(problem: Problem, design: Design, runs: Sequence[ChainRun], store: Sequence[str]) -> xr.Dataset:
    """Label the draws and means of all chains."""
    n_kept = min(run.n_draws for run in runs)
    labels = [component.label for component in problem.components]
    traits = list(design.traits)
    dims = {
        "h2": ("term", "trait"),
        "h2_factor": ("term", "factor"),
        "Lambda": ("factor", "trait"),
        "residual_var": ("trait",),
        "h2_residual": ("term", "trait"),
        "B": ("fixef", "trait"),
        "G": ("term", "trait", "trait2"),
        "R": ("trait", "trait2"),
    }
    coords: dict[str, Any] = {
        "chain": np.arange(len(runs)),
        "draw": np.arange(n_kept),
        "term": labels,
        "trait": traits,
        "factor": np.arange(1, problem.n_factors + 1),
        "fixef": list(design.X.columns),
    }
    if {"G", "R"} & set(store):
        coords["trait2"] = traits
    data: dict[str, Any] = {}
    level_dims = {}
    for component in problem.components:
        dim = "level" if len(problem.components) == 1 else f"level_{component.label}"
        level_dims[component.label] = dim
        if {"U", "U_mean"} & set(store):
            coords[dim] = np.asarray(design.terms[component.term].levels)
        dims[f"U_{component.label}"] = (dim, "trait")
    for name in runs[0].drawn:
        values = np.stack([run.drawn[name][:n_kept] for run in runs])
        if name == "Lambda":
            values = np.ascontiguousarray(np.swapaxes(values, 2, 3))
        data[name] = (("chain", "draw", *dims[name]), values)
    means = [run.running for run in runs if run.running is not None]
    if means:
        effects = [running.effects(problem) for running in means]
        if "U_mean" in store:
            for m, label in enumerate(labels):
                stacked = np.stack([of_chain[m] for of_chain in effects])
                data[f"U_mean_{label}"] = (("chain", level_dims[label], "trait"), stacked)
        if "Eta_mean" in store:
            coords["row"] = np.asarray(design.X.index)
            data["Eta_mean"] = (
                ("chain", "row", "trait"),
                np.stack(
                    [_fitted_rows(problem, design, run, of_chain) for run, of_chain in zip(runs, effects, strict=True)]
                ),
            )
    return xr.Dataset(data, coords=coords)


def _fitted_rows(problem: Problem, design: Design, run: ChainRun, effects: Sequence[np.ndarray]) -> np.ndarray:
    """Posterior mean of the fitted values of all rows of the design, shape (rows, p)."""
    assert run.running is not None
    X = design.X.to_numpy()
    fitted = np.empty((len(X), problem.p))
    fitted[problem.active] = run.running.fitted(problem)
    silent = np.setdiff1d(np.arange(len(X)), problem.active)
    if len(silent):
        # Rows without data have no factor residual to learn about: fixed and random effects only.
        fitted[silent] = X[silent] @ run.running.fixed_effects(problem)
        for component, effect in zip(problem.components, effects, strict=True):
            term = design.terms[component.term]
            fitted[silent] += term.M[silent, component.effect, None] * effect[term.codes[silent]]
    return fitted if design.offset is None else fitted + design.offset[:, None]


def _without_draws(runs: Sequence[ChainRun]) -> list[ChainRun]:
    return [replace(run, drawn={}) for run in runs]
