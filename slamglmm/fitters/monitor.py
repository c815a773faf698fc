"""Progress of chains that may run in other processes, and a stop signal for all of them.

One small memory-mapped file holds a counter for each chain and a stop flag: workers write their own counter and look
at the flag, the parent shows a bar and sets the flag on Ctrl-C, so that an interrupt keeps what was drawn.
"""

from __future__ import annotations

import os
import signal
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

import numpy as np


@dataclass
class Ticker:
    """A chain's end of the monitor; pickles as a path."""

    path: str
    chain: int

    def __post_init__(self) -> None:
        self._counters = np.memmap(self.path, dtype=np.int64, mode="r+")

    def __reduce__(self) -> tuple:
        return Ticker, (self.path, self.chain)

    def tick(self, iteration: int) -> bool:
        """Report an iteration; True means stop now."""
        self._counters[1 + self.chain] = iteration
        return bool(self._counters[0])


@contextmanager
def monitor(chains: int, total: int, progress: bool | None, label: str) -> Iterator[list[Ticker]]:
    """Show a bar for ``chains`` chains of ``total`` iterations each and turn the first Ctrl-C into a stop flag.

    Parameters
    ----------
    chains, total : int
    progress : bool or None
        None shows the bar on a terminal or in a notebook only.
    label : str
        What the bar says.
    """
    handle, path = tempfile.mkstemp(prefix="slamglmm-", suffix=".progress")
    os.close(handle)
    Path(path).write_bytes(bytes(8 * (1 + chains)))
    counters = np.memmap(path, dtype=np.int64, mode="r+")
    done = threading.Event()
    show = bool(progress) or (progress is None and (sys.stderr.isatty() or "ipykernel" in sys.modules))
    watcher = threading.Thread(target=_watch, args=(counters, chains * total, label, show, done), daemon=True)
    watcher.start()
    try:
        with _stop_on_interrupt(counters):
            yield [Ticker(path, chain) for chain in range(chains)]
    finally:
        done.set()
        watcher.join()
        Path(path).unlink(missing_ok=True)


def _watch(counters: np.ndarray, total: int, label: str, show: bool, done: threading.Event) -> None:
    """Move the bar; also the thread that takes Ctrl-C from the system while the main thread blocks it."""
    if not show:
        done.wait()
        return
    from tqdm.auto import tqdm

    with tqdm(total=total, desc=label, unit="it", leave=False, mininterval=0.2) as bar:
        while not done.wait(0.2):
            bar.update(int(counters[1:].sum()) - bar.n)
        bar.update(int(counters[1:].sum()) - bar.n)


@contextmanager
def _stop_on_interrupt(counters: np.ndarray) -> Iterator[None]:
    """First SIGINT sets the flag, the second one interrupts as usual; only the main thread may install a handler.

    The main thread blocks the signal meanwhile: worker processes inherit that, so that Ctrl-C on the terminal cannot
    kill one that is still starting. The watcher thread does not block it, and Python runs the handler here.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = signal.getsignal(signal.SIGINT)

    def stop(number: int, frame: FrameType | None) -> None:
        counters[0] = 1
        signal.signal(signal.SIGINT, previous)
        sys.stderr.write("\ninterrupted: finishing the current iteration and keeping the draws so far\n")

    signal.signal(signal.SIGINT, stop)
    can_block = hasattr(signal, "pthread_sigmask")
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT}) if can_block else set()
    try:
        yield
    finally:
        if can_block:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        signal.signal(signal.SIGINT, previous)


def ignore_interrupts() -> None:
    """In a worker process: leave Ctrl-C to the parent, which sets the flag."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, signal.SIG_IGN)
