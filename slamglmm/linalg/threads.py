"""Threads over fixed blocks, BLAS held at one thread.

Results must not depend on the number of threads, so work is cut into blocks of constant size, each with its own
random stream, and BLAS never splits a product itself.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import scipy.linalg  # noqa: F401  (the limiter below sees only libraries that are loaded: SciPy's BLAS must be)
from threadpoolctl import threadpool_limits

BLOCK = 64
# Where Linux says how much memory a container may have.
CONTAINER_LIMIT = Path("/sys/fs/cgroup/memory.max")


def blocks(n: int, size: int = BLOCK) -> list[slice]:
    """Consecutive slices of constant size (the last may be short) that cover ``range(n)``."""
    return [slice(start, min(start + size, n)) for start in range(0, n, size)]


def memory_size() -> float:
    """Bytes of memory this process may have: those of the machine, or of its container or limit if that is less.

    Infinity where the system does not say.
    """
    sizes = [float("inf")]
    with suppress(AttributeError, ValueError, OSError):
        sizes.append(float(os.sysconf("SC_PHYS_PAGES")) * os.sysconf("SC_PAGE_SIZE"))
    with suppress(ImportError, OSError):
        from resource import RLIM_INFINITY, RLIMIT_AS, getrlimit

        limit = getrlimit(RLIMIT_AS)[0]
        sizes.append(float("inf" if limit == RLIM_INFINITY else limit))
    with suppress(OSError, ValueError):  # "max" is no number
        sizes.append(float(int(CONTAINER_LIMIT.read_text())))
    return min(sizes)


@contextmanager
def single_threaded_blas() -> Iterator[None]:
    """Hold every loaded BLAS at one thread."""
    with threadpool_limits(1, user_api="blas"):
        yield


class BlockPool:
    """Run a function over blocks: in this thread, or in a pool of ``n_threads``."""

    def __init__(self, n_threads: int = 1):
        self.n_threads = n_threads
        self._executor = ThreadPoolExecutor(n_threads) if n_threads > 1 else None

    def run(self, function: Callable[..., Any], tasks: Iterable[Any]) -> list[Any]:
        """``[function(task) for task in tasks]``, in order; the first error is raised."""
        if self._executor is None:
            return [function(task) for task in tasks]
        return list(self._executor.map(function, tasks))

    def __enter__(self) -> BlockPool:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop the threads."""
        if self._executor is not None:
            self._executor.shutdown()
