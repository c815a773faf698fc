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
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np

from ..errors import StorageError


@dataclass
class Ticker:
    """A chain's end of the monitor; pickles as a path."""

    path: str
    chain: int
    parent: int | None = None

    def __post_init__(self) -> None:
        self._counters = np.memmap(self.path, dtype=np.int64, mode="r+")

    def __reduce__(self) -> tuple:
        return _in_worker, (self.path, self.chain)

    def tick(self, iteration: int) -> bool:
        """Report an iteration; True means stop now."""
        self._counters[1 + self.chain] = iteration
        # A worker whose parent was killed must not go on writing where the next call does.
        orphaned = self.parent is not None and os.getppid() != self.parent
        return orphaned or bool(self._counters[0])


def _in_worker(path: str, chain: int) -> Ticker:
    return Ticker(path, chain, os.getppid())


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

    Raises
    ------
    StorageError
        There is no place for temporary files.
    """
    path = _progress_file(chains)
    counters = np.memmap(path, dtype=np.int64, mode="r+")
    done = threading.Event()
    shower = None
    if progress or (progress is None and (sys.stderr.isatty() or "ipykernel" in sys.modules)):
        shower = threading.Thread(target=_show, args=(counters, chains * total, label, done), daemon=True)
        shower.start()
    try:
        with _stop_on_interrupt(counters):
            yield [Ticker(path, chain) for chain in range(chains)]
    finally:
        done.set()
        if shower is not None:
            shower.join()
        Path(path).unlink(missing_ok=True)


def _progress_file(chains: int) -> str:
    path = None
    try:
        handle, path = tempfile.mkstemp(prefix="slamglmm-", suffix=".progress")
        os.close(handle)
        Path(path).write_bytes(bytes(8 * (1 + chains)))
    except OSError as error:
        if path is not None:
            Path(path).unlink(missing_ok=True)
        raise StorageError(
            f"chains need a place for a small temporary file, and there is none ({error.strerror or error}; TMPDIR is "
            f"{os.environ.get('TMPDIR')!r}). Set the environment variable TMPDIR to a folder that can be written, then "
            "start Python again."
        ) from error
    return path


def _show(counters: np.ndarray, total: int, label: str, done: threading.Event) -> None:
    # tqdm.auto picks the widget in a notebook even where there are no widgets, and then floods it with warnings.
    widgets = "ipykernel" in sys.modules and find_spec("ipywidgets") is not None
    tqdm: Any = import_module("tqdm.notebook" if widgets else "tqdm").tqdm
    with tqdm(total=total, desc=label, unit="it", leave=False, mininterval=0.2) as bar:
        while not done.wait(0.2):
            bar.update(int(counters[1:].sum()) - bar.n)
        bar.update(int(counters[1:].sum()) - bar.n)


@contextmanager
def _stop_on_interrupt(counters: np.ndarray) -> Iterator[None]:
    """First SIGINT sets the flag, the second one interrupts as usual; only the main thread may install a handler."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = signal.getsignal(signal.SIGINT)

    def stop(number: int, frame: FrameType | None) -> None:
        counters[0] = 1
        signal.signal(signal.SIGINT, previous)
        sys.stderr.write("\ninterrupted: finishing the current iteration and keeping the draws so far\n")

    signal.signal(signal.SIGINT, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, previous)


@contextmanager
def interrupts_ignored() -> Iterator[None]:
    """Ignore Ctrl-C while worker processes start: they inherit that, and leave the signal to the parent's flag."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, previous)


def ignore_interrupts() -> None:
    """In a worker process that was there before: leave Ctrl-C to the parent's flag."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, signal.SIG_IGN)
