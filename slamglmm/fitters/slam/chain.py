"""One chain: from its start, from an earlier run, or from what a killed run left on disk."""

from __future__ import annotations

import copy
import time
from dataclasses import dataclass

import numpy as np

from ...errors import OptionError
from ...linalg.threads import BlockPool, single_threaded_blas
from ...options import Options
from ..monitor import Ticker
from .adaptation import adapt_factors, with_factors_of
from .draws import DTYPES, MOMENTS, STORABLE, DrawBuffer, RunningMeans, buffer_length
from .problem import Problem
from .state import State, start_state
from .store import ChainStore
from .sweep import sweep


@dataclass(frozen=True)
class Schedule:
    """How long chains run and what is kept; checked on creation."""

    draws: int
    burn: int
    thin: int
    store: tuple[str, ...]
    store_dtype: str = "float64"
    n_threads: int | None = None
    n_jobs: int = 1

    def __post_init__(self) -> None:
        check = Options(vars(self))
        check.whole("draws", "thin", least=1)
        check.whole("burn", least=0)
        unknown = [name for name in self.store if name not in STORABLE]
        if unknown:
            raise OptionError(f"store={self.store!r}: unknown {unknown}. Choose from {', '.join(STORABLE)}.")
        check.choice("store_dtype", DTYPES)

    @property
    def iterations(self) -> int:
        """Iterations of one chain."""
        return self.burn + self.draws * self.thin


@dataclass
class ChainRun:
    """One chain: the draws of this run, running means over all runs, and the state it can go on from (packed).

    Attributes
    ----------
    chain : int
    drawn : dict of str to ndarray
        Draws in memory; empty when they went to disk.
    n_draws : int
        Draws kept in this run, on disk or in memory.
    running : RunningMeans or None
    state : State
    seconds : float
        Of all runs.
    iterations : int
        Of this run.
    """

    chain: int
    drawn: dict[str, np.ndarray]
    n_draws: int
    running: RunningMeans | None
    state: State
    seconds: float
    iterations: int


def run_chain(
    problem: Problem,
    schedule: Schedule,
    seed: np.random.SeedSequence | None,
    previous: ChainRun | None,
    store: ChainStore | None,
    ticker: Ticker,
    threads: int,
) -> ChainRun:
    """Run one chain from a seed, go on after ``previous`` without burn-in, or resume what ``store`` has of this run."""
    begin = time.perf_counter()
    seconds, iterations, n_draws = 0.0, 0, 0
    saved = None if store is None else store.read()
    burn = 0 if previous is not None else schedule.burn
    if saved is not None:
        problem = with_factors_of(problem, saved.state)
        state, running = saved.state.copy(problem), saved.running
        seconds, iterations, n_draws = saved.seconds, saved.iterations, saved.n_draws
    elif previous is not None:
        # An earlier result keeps its own state: extending it twice gives the same draws twice.
        problem = with_factors_of(problem, previous.state)
        state, running = previous.state.copy(problem), copy.deepcopy(previous.running)
        seconds = previous.seconds
    else:
        assert seed is not None
        state = start_state(problem, seed)
        running = RunningMeans(problem, schedule.store) if set(MOMENTS) & set(schedule.store) else None
    length = schedule.draws
    if store is not None:
        length = buffer_length(problem, schedule.store, schedule.store_dtype, schedule.draws)
    buffer = DrawBuffer(problem, schedule.store, length, schedule.store_dtype)

    def stand(drawn: dict[str, np.ndarray]) -> ChainRun:
        elapsed = seconds + time.perf_counter() - begin
        return ChainRun(ticker.chain, drawn, n_draws, running, state.packed(problem), elapsed, iterations)

    def flush() -> None:
        assert store is not None
        store.write(buffer.drawn(), n_draws - buffer.n, stand({}))
        buffer.n = 0

    pool = BlockPool(threads)
    try:
        with single_threaded_blas():
            while iterations < burn + schedule.draws * schedule.thin:
                after_burn = iterations - burn + 1
                keep = after_burn > 0 and after_burn % schedule.thin == 0
                due = keep and running is not None and running.is_due(schedule.thin)
                sweep(problem, state, pool, running if due else None)
                iterations += 1
                if problem.adaptive and iterations <= burn:
                    problem = adapt_factors(problem, state, burn)
                if keep:
                    buffer.add(problem, state)
                    n_draws += 1
                stopped = ticker.tick(iterations)
                if store is not None and (buffer.n == length or store.is_due()):
                    flush()
                if stopped:
                    break
    finally:
        pool.close()
    if store is not None:
        flush()
    return stand(buffer.drawn() if store is None else {})
