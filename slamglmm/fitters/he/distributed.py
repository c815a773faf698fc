"""The same sums on a dask cluster: tiles go to the workers, which open the files themselves; only sums come back."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from operator import add
from typing import Any

from ...errors import OptionError
from .sources import ArraySource, DaskSource, FileSource
from .streaming import Request, TileSums, stream, stream_tile

# Bytes of a file that one task reads.
TASK_BYTES = 100 * 1024 * 1024


def stream_on_dask(request: Request) -> TileSums:
    """`streaming.stream` over dask tasks: on the current `distributed` client, or on local threads.

    Parameters
    ----------
    request : Request
        Its sources must be files (each task gets path and offset) or dask arrays.

    Raises
    ------
    OptionError
        dask is not installed, or a matrix is held in memory.
    """
    try:
        import dask
    except ImportError:
        raise OptionError("backend='dask' needs dask: pip install 'slamglmm[distributed]'.") from None
    if any(isinstance(source, ArraySource) for source in request.sources):
        raise OptionError(
            "backend='dask' works on files and dask arrays, so that nothing of size n x n is sent; this relmat is in "
            "memory. Give (numpy.memmap(...), labels) or (dask array, labels), or leave backend=None."
        )
    total = sum_graph(request, _share(request))
    return dask.compute(total)[0]


def _share(request: Request) -> Any:
    """The request where the workers can reach it: sent once to each, and not inside the graph."""
    try:
        from distributed import get_client

        client = get_client()
    except (ImportError, ValueError):
        return request
    sources = tuple(None if isinstance(source, DaskSource) else source for source in request.sources)
    light = Request(sources, request.inputs, request.pairs, request.gathers, request.z)  # type: ignore[arg-type]
    return client.scatter(light, broadcast=True)


def sum_graph(request: Request, shared: Any) -> Any:
    """Graph of tile tasks and of the tree that adds their results.

    Parameters
    ----------
    request : Request
        To cut into tasks.
    shared : Request or Future
        What the tasks receive.

    Returns
    -------
    dask Delayed
    """
    from dask import delayed

    # pure=False: names by counting; hashing the request for a name would cost more than the task
    if all(isinstance(source, FileSource) for source in request.sources):
        size = len(request.z)
        widest = max(source.dtype.itemsize for source in request.sources)
        height = max(1, TASK_BYTES // (size * widest))
        run = delayed(stream, pure=False, traverse=False)
        parts = [run(shared, start, min(start + height, size)) for start in range(0, size, height)]
    elif all(isinstance(source, DaskSource) for source in request.sources):
        parts = _array_tasks(request, shared)
    else:
        raise OptionError("backend='dask': give all matrices of one grouping factor as files, or all as dask arrays.")
    join: Callable[..., Any] = delayed(add, pure=False, traverse=False)
    while len(parts) > 1:
        parts = [join(*parts[i : i + 2]) if i + 1 < len(parts) else parts[i] for i in range(0, len(parts), 2)]
    return parts[0]


def _array_tasks(request: Request, shared: Any) -> list[Any]:
    from dask import delayed

    arrays = [source.array for source in request.sources]  # type: ignore[attr-defined]
    arrays = [arrays[0], *(array.rechunk(arrays[0].chunks) for array in arrays[1:])]
    chunks = [array.to_delayed() for array in arrays]
    heights, widths = arrays[0].chunks
    run = delayed(_tile, pure=False)
    parts, row = [], 0
    for i, height in enumerate(heights):
        column = 0
        for j, width in enumerate(widths):
            parts.append(run(shared, row, column, *[chunk[i, j] for chunk in chunks]))
            column += width
        row += height
    return parts


def _tile(request: Request, row: int, column: int, *tiles: Sequence[Any]) -> TileSums:
    return stream_tile(request, tiles, row, column)  # type: ignore[arg-type]
