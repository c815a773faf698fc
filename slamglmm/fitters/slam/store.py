"""Draws on disk as they come, so that a killed run goes on where it was.

The folder is a saved result in the making: ``posterior.zarr`` gets its draws chunk by chunk, each chain writes its own
part and then, atomically, the state that belongs to it. The manifest comes last.
"""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from ...design import Design
from ...errors import OptionError
from ...results.base import MANIFEST

# A flush at the latest after so many seconds (the state only, during burn-in).
FLUSH_SECONDS = 20.0
CHUNK_BYTES = 8 * 2**20
RUN = "run.json"
POSTERIOR = "posterior.zarr"


@dataclass(frozen=True)
class RunFolder:
    """The folder of a streamed run.

    Attributes
    ----------
    path : Path
    """

    path: Path

    @property
    def finished(self) -> bool:
        """Whether the run was written to its end."""
        return (self.path / MANIFEST).exists()

    def claim(self, call: Mapping[str, Any], seed: int | None) -> int:
        """Start a run here, or recognise the one that was started; gives its seed.

        Raises
        ------
        OptionError
            The folder holds something else, or a run of another call; the message names what differs.
        """
        record = self.path / RUN
        if record.exists():
            before = json.loads(record.read_text())
            wanted = dict(call) if seed is None else {**call, "seed": seed}
            differing = [name for name in wanted if before.get(name) != wanted[name]]
            if differing:
                more = " For more draws: slamglmm.load(out).extend(draws)." if differing == ["draws"] else ""
                raise OptionError(
                    f"out={str(self.path)!r} holds a run that differs in {', '.join(differing)}. Name another folder, "
                    f"or delete this one.{more}"
                )
            return before["seed"]
        if self.path.exists() and (not self.path.is_dir() or any(self.path.iterdir())):
            raise OptionError(f"out={str(self.path)!r}: expected a new or empty folder, or one of a run to go on with.")
        self.path.mkdir(parents=True, exist_ok=True)
        started = {**call, "seed": np.random.SeedSequence(seed).entropy}
        _write_atomically(record, json.dumps(started, indent=1).encode())
        return started["seed"]

    def chain(self, chain: int) -> ChainStore:
        """The part of one chain."""
        return ChainStore(self.path, chain)

    def create_arrays(self, shapes: Mapping[str, tuple[int, ...]], dtype: str, chains: int, draws: int) -> None:
        """Make room for the draws, unless a first attempt has."""
        import zarr

        root = zarr.open_group(self.path / POSTERIOR, mode="a", zarr_format=2)
        for name, shape in shapes.items():
            if name not in root:
                one = np.dtype(dtype).itemsize * int(np.prod(shape, dtype=np.int64))
                chunk = int(np.clip(CHUNK_BYTES // max(1, one), 1, draws))
                chunks = (1, chunk, *(max(1, length) for length in shape))
                # xarray reads the fill value of this format as missing: it must not be a number that occurs.
                root.create_array(name, shape=(chains, draws, *shape), chunks=chunks, dtype=dtype, fill_value=np.nan)

    def open_draws(self, dims: Mapping[str, tuple[str, ...]]) -> xr.Dataset:
        """The draws, read when looked at."""
        import zarr

        root = zarr.open_group(self.path / POSTERIOR, mode="r+", zarr_format=2)
        for name, array in root.arrays():
            if name in dims:
                array.attrs["_ARRAY_DIMENSIONS"] = list(dims[name])
        drawn = xr.open_zarr(self.path / POSTERIOR, chunks=None, consolidated=False)
        return drawn[[name for name in drawn.data_vars if name in dims and "draw" in dims[name]]].drop_vars(
            list(drawn.coords)
        )


@dataclass
class ChainStore:
    """One chain's draws and state on disk; pickles as a path, so that workers can write."""

    path: Path
    chain: int
    flushed: float = field(default_factory=time.monotonic)

    @property
    def _state_file(self) -> Path:
        return self.path / f"chain-{self.chain}.pickle"

    def read(self) -> Any:
        """The last state written, or None."""
        return pickle.loads(self._state_file.read_bytes()) if self._state_file.exists() else None

    def is_due(self) -> bool:
        """Whether it is time to write again."""
        return time.monotonic() - self.flushed > FLUSH_SECONDS

    def write(self, drawn: Mapping[str, np.ndarray], first: int, state: Any) -> None:
        """Write draws ``first``, ``first + 1``, ... and then the state that follows them."""
        import zarr

        if drawn:
            for name, values in drawn.items():
                array = zarr.open_array(self.path / POSTERIOR / name, mode="r+", zarr_format=2)
                if len(values):
                    array[self.chain, first : first + len(values)] = values
        _write_atomically(self._state_file, pickle.dumps(state))
        self.flushed = time.monotonic()


def fingerprint(design: Design, options: Mapping[str, Any]) -> dict[str, Any]:
    """What must be equal for a run to go on: the data (hashed) and every option that moves a bit."""
    data = hashlib.sha256()
    responses = () if design.Y is None else (design.Y.to_numpy(),)
    for array in (*responses, design.X.to_numpy(), *(term.codes for term in design.terms)):
        data.update(np.ascontiguousarray(array).tobytes())
    for term in design.terms:
        if term.K is not None:
            data.update(np.ascontiguousarray(term.K if isinstance(term.K, np.ndarray) else term.K.data).tobytes())
    return {
        "formula": design.formula,
        "data": data.hexdigest(),
        "traits": len(design.traits),
        **{name: _describe(value) for name, value in options.items()},
    }


def _describe(value: Any) -> Any:
    """Text that is equal in another process for equal options (functions by name, arrays by content)."""
    if isinstance(value, int | str | None):
        return value
    if isinstance(value, np.ndarray):
        if value.dtype == object:
            value = np.array([str(item) for item in value.ravel()])  # its bytes would be addresses
        return hashlib.sha256(np.ascontiguousarray(value).tobytes()).hexdigest()
    if is_dataclass(value):
        return {"class": type(value).__name__, **{f.name: _describe(getattr(value, f.name)) for f in fields(value)}}
    if isinstance(value, Mapping):
        return {str(name): _describe(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_describe(item) for item in value]
    if hasattr(value, "to_numpy"):
        return [[str(name) for name in getattr(value, "columns", ())], _describe(value.to_numpy())]
    if callable(value):
        return f"{value.__module__}.{value.__qualname__}"
    return repr(value)


def _write_atomically(path: Path, content: bytes) -> None:
    temporary = path.with_suffix(path.suffix + ".tmp")
    with temporary.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
