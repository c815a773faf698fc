"""Run the chains: in this process or in others, from the start or from where they stopped."""

from __future__ import annotations

import os
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ...errors import ConvergenceWarning, OptionError
from ...linalg.threads import BlockPool, single_threaded_blas
from ..monitor import Ticker, ignore_interrupts, monitor
from .draws import MEANS, STORABLE, DrawBuffer, RunningMeans
from .problem import Problem
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
    """One chain: its draws, running means, and the state it can go on from."""

    drawn: dict[str, np.ndarray]
    running: RunningMeans | None
    state: State
    seconds: float
    iterations: int

    @property
    def n_draws(self) -> int:
        """Number of kept draws."""
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
            state, running, burn = start_state(problem, seed), RunningMeans(problem) if wants_means else None, schedule.burn
        else:
            state, running, burn = previous.state, previous.running, 0
        buffer = DrawBuffer(problem, schedule.store, schedule.draws)
        iterations = 0
        try:
            for iteration in range(burn + schedule.draws * schedule.thin):
                after_burn = iteration - burn + 1
                keep = after_burn > 0 and after_burn % schedule.thin == 0
                sweep(problem, state, pool, running if keep else None)
                if keep:
                    buffer.add(problem, state)
                iterations += 1
                if ticker.tick(iterations):
                    break
        finally:
            pool.close()
    drawn = buffer.drawn()
    if previous is not None:
        drawn = {name: np.concatenate((previous.drawn[name], values)) for name, values in drawn.items()}
        iterations += previous.iterations
    seconds = time.perf_counter() - begin + (previous.seconds if previous is not None else 0.0)
    return ChainRun(drawn, running, state, seconds, iterations)


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
        The run was interrupted; draws so far are kept, cut to the shortest chain.
    """
    chains = len(seeds or previous or [])
    n_jobs = min(schedule.n_jobs if schedule.n_jobs > 0 else os.cpu_count() or 1, chains)
    threads = schedule.n_threads or _default_threads(problem, n_jobs)
    total = schedule.iterations if previous is None else schedule.draws * schedule.thin
    with monitor(chains, total, progress, f"slam, {chains} chain(s)") as tickers:
        tasks = [
            (
                problem,
                schedule,
                seeds[c] if seeds is not None else None,
                previous[c] if previous is not None else None,
                tickers[c],
                threads,
            )
            for c in range(chains)
        ]
        if n_jobs == 1:
            runs = [run_chain(*task) for task in tasks]
        else:
            from joblib import Parallel, delayed

            runs = Parallel(n_jobs=n_jobs)(delayed(_run_in_worker)(*task) for task in tasks)
    shortest = min(run.n_draws for run in runs)
    wanted = schedule.draws + (previous[0].n_draws if previous else 0)
    if shortest < wanted:
        if shortest == 0:
            raise KeyboardInterrupt("interrupted before the first kept draw")
        warnings.warn(
            f"interrupted: {shortest} of {wanted} draws kept in each of {chains} chain(s). "
            "fit.extend(draws) goes on from here.",
            ConvergenceWarning,
            stacklevel=3,
        )
    return runs


def _default_threads(problem: Problem, n_jobs: int) -> int:
    """Threads pay only when there are blocks enough to share; chains in parallel come first."""
    cores = os.cpu_count() or 1
    work = problem.p * problem.n * (problem.b + problem.n_factors)
    return max(1, cores // n_jobs) if work > 2e7 else 1
