"""Draws on disk as they come, so that a killed run goes on where it was.

The folder is a saved result in the making: ``posterior.zarr`` gets its draws chunk by chunk, each chain writes its own
part and then, atomically, the state that belongs to it. The manifest comes last.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, is_dataclass
from functools import wraps
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import scipy
import xarray as xr
from threadpoolctl import threadpool_info

from ... import __version__
from ...design import Design
from ...design.digest import content_digest
from ...errors import OptionError, StorageError, StorageWarning, warn
from ...results.arrays import CheckedStore, codecs, damage_named, open_arrays
from ...results.files import (
    HERE,
    LOCK,
    MANIFEST,
    POSTERIOR,
    RESTORE,
    disk_errors,
    folder_path,
    locked,
    make_folder,
    read_json,
    read_manifest,
    read_pickle,
    write_atomically,
    write_pickle,
)

# A flush at the latest after so many seconds (the state only, during burn-in).
FLUSH_SECONDS = 20.0
CHUNK_BYTES = 8 * 2**20
RUN = "run.json"
# Version of the record of a run.
RUN_FORMAT = 1
AGAIN = "The same call goes on where it was."

Fitted = TypeVar("Fitted")


def in_its_folder(fit: Callable[..., Fitted]) -> Callable[..., Fitted]:
    """Let a fitter with an argument ``out`` have the folder for itself, and say what to do when its disk is full."""

    @wraps(fit)
    def run(*args: Any, **options: Any) -> Fitted:
        if options["out"] is None:
            return fit(*args, **options)
        folder = RunFolder.at(options["out"])
        with folder.held():
            return fit(*args, **options | {"out": folder})

    return run


@dataclass(frozen=True)
class RunFolder:
    """The folder of a streamed run.

    Attributes
    ----------
    path : Path
    """

    path: Path

    @classmethod
    def at(cls, out: Any) -> RunFolder:
        """The folder that the user named."""
        return cls(folder_path(out, f"out={str(out)!r}"))

    @property
    def call(self) -> str:
        """How messages begin."""
        return f"out={str(self.path)!r}"

    @contextmanager
    def held(self) -> Iterator[None]:
        """Hold the folder's lock; it must be new, empty or of a run.

        Raises
        ------
        OptionError
            The folder holds something else.
        StorageError
            It cannot be written, another process runs there, or its disk is full.
        """
        path = self.path
        if path.exists() and not (path.is_dir() and self._is_run_or_empty()):
            saved = " It holds a result that fit.save wrote: read it by slamglmm.load, or name another folder."
            raise OptionError(
                f"{self.call}: expected a new or empty folder, or one of a run to go on with."
                + (saved if (path / MANIFEST).exists() else "")
            )
        make_folder(path, self.call)
        with disk_errors(path, self.call, f"Make room. {AGAIN}"), locked(path, self.call):
            yield

    def _is_run_or_empty(self) -> bool:
        return (self.path / RUN).exists() or all(path.name in (LOCK, f"{RUN}.tmp") for path in self.path.iterdir())

    @property
    def finished(self) -> bool:
        """Whether the run was written to its end."""
        if not (self.path / MANIFEST).exists():
            return False
        if read_manifest(self.path, self.call).get("content", HERE) != HERE:
            raise OptionError(
                f"{self.call}: fit.save has put another result in the place of this run. Read it by slamglmm.load, or "
                "name another folder."
            )
        return True

    @property
    def begun(self) -> bool:
        """Whether a run was begun here."""
        return (self.path / RUN).exists()

    def begin(self, call: Mapping[str, Any], seed: Any) -> None:
        """Record the call of a new run.

        Parameters
        ----------
        call : mapping
            What `fingerprint` gives.
        seed : int
        """
        record = {"format": RUN_FORMAT, "made_with": made_with(), "call": {**call, "seed": seed}}
        write_atomically(self.path / RUN, json.dumps(record, indent=1).encode())

    def recognise(self, call: Mapping[str, Any], seed: int | None) -> int:
        """Compare a call with the one that began the run here; gives the seed of the run.

        Parameters
        ----------
        call : mapping
            What `fingerprint` gives.
        seed : int or None
            None for that of the run.

        Raises
        ------
        OptionError
            A run of another call, or of another version of slamglmm; the message names what differs.
        StorageError
            The record of the run is damaged.

        Warns
        -----
        StorageWarning
            Begun with another linear algebra: the rest of the draws are right, but not to the bit those of one run.
        """
        advice = "Name another folder, or delete this one."
        record = read_json(self.path / RUN, advice)
        before = record.get("call")
        if record.get("format") != RUN_FORMAT or not isinstance(before, dict):
            raise OptionError(
                f"{self.call} holds a run of another version of slamglmm, which cannot be compared with this call. If "
                f"it was finished, slamglmm.load reads it. {advice}"
            )
        if not isinstance(before.get("seed"), int | list):
            raise StorageError(f"{self.path / RUN} is damaged: it has no seed. {advice}")
        wanted = {**call, "seed": before["seed"] if seed is None else int(seed)}
        absent = object()
        names = dict.fromkeys([*wanted, *before])
        differing = [name for name in names if before.get(name, absent) != wanted.get(name, absent)]
        if differing:
            more = " For more draws: slamglmm.load(out).extend(draws)." if differing == ["draws"] else ""
            raise OptionError(f"{self.call} holds a run that differs in {', '.join(differing)}. {advice}{more}")
        if not self.finished:
            self._compare_machines(record.get("made_with", {}))
        return before["seed"]

    def _compare_machines(self, then: Mapping[str, Any]) -> None:
        now = made_with()
        if then.get("slamglmm") != now["slamglmm"]:
            raise OptionError(
                f"{self.call} holds a run that slamglmm {then.get('slamglmm')} began; this is {now['slamglmm']}, whose "
                "draws may differ. Finish it with that version, name another folder, or delete this one."
            )
        differing = [f"{name} ({then.get(name)} then, {now[name]} now)" for name in now if then.get(name) != now[name]]
        if differing:
            warn(
                f"{self.call} goes on with a run that was begun with another {', '.join(differing)}: its draws are as "
                "good, but not to the bit those of an uninterrupted run.",
                StorageWarning,
            )

    def chain(self, chain: int) -> ChainStore:
        """The part of one chain."""
        return ChainStore(self.path, chain)

    def create_arrays(self, shapes: Mapping[str, tuple[int, ...]], dtype: str, chains: int, draws: int) -> None:
        """Make room for the draws, unless a first attempt has.

        Raises
        ------
        StorageError
            What a first attempt has made is damaged.
        """
        import zarr

        path = self.path / POSTERIOR
        with damage_named(path):
            root = zarr.open_group(path, mode="a", zarr_format=2)
            there = {name: (array.shape, str(array.dtype)) for name, array in root.arrays()}
        for name, shape in shapes.items():
            whole = (chains, draws, *shape)
            if there.get(name, (whole, dtype)) != (whole, dtype):
                raise StorageError(f"{path / name} is damaged: expected {whole}, {dtype}, got {there[name]}. {RESTORE}")
            if name not in there:
                one = np.dtype(dtype).itemsize * int(np.prod(shape, dtype=np.int64))
                chunk = int(np.clip(CHUNK_BYTES // max(1, one), 1, draws))
                chunks = (1, chunk, *(max(1, length) for length in shape))
                # xarray reads the fill value of this format as missing: it must not be a number that occurs.
                root.create_array(
                    name,
                    shape=whole,
                    chunks=chunks,
                    dtype=dtype,
                    fill_value=np.nan,
                    config={"write_empty_chunks": True},
                    **codecs(np.dtype(dtype)),
                )

    def open_draws(self, dims: Mapping[str, tuple[str, ...]]) -> xr.Dataset:
        """The draws, read when looked at."""
        import zarr

        root = zarr.open_group(self.path / POSTERIOR, mode="r+", zarr_format=2)
        for name, array in root.arrays():
            if name in dims:
                array.attrs["_ARRAY_DIMENSIONS"] = list(dims[name])
        drawn = open_arrays(self.path / POSTERIOR)
        draws = drawn[[name for name in drawn.data_vars if "draw" in dims.get(str(name), ())]]
        # Labels are there when the run was killed in its very last step.
        return draws.drop_vars(list(draws.coords))


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
        """The last state written, or None; the draws before it are there and whole.

        Raises
        ------
        StorageError
            The state or a chunk of the draws is damaged or absent; the message says what to delete.
        """
        if not self._state_file.exists():
            for chunk in (self.path / POSTERIOR).glob(f"*/{self.chain}.*"):
                chunk.unlink()
            return None
        advice = f"Delete {self._state_file} and the same call draws this chain again, to the same bits."
        state = read_pickle(self._state_file, advice=advice)
        try:
            self._check_draws(state.n_draws)
        except StorageError as error:
            raise StorageError(str(error).replace(RESTORE, advice)) from error
        return state

    def _check_draws(self, n_draws: int) -> None:
        """Read the draws up to the state once, chunk by chunk."""
        import zarr

        path = self.path / POSTERIOR
        with damage_named(path):
            root = zarr.open_group(CheckedStore(path, read_only=True), mode="r", zarr_format=2)
            for _, array in root.arrays():
                # Means and labels have dimensions of their own.
                dims: Any = array.attrs.get("_ARRAY_DIMENSIONS", ["chain", "draw"])
                if dims[:2] == ["chain", "draw"] and array.size:
                    for first in range(0, n_draws, array.chunks[1]):
                        array[self.chain, first]

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
        write_pickle(self._state_file, state)
        self.flushed = time.monotonic()


def made_with() -> dict[str, str]:
    """What the bits of a draw depend on besides the call."""
    kernels = {
        f"{library['internal_api']} {library['version']} {library.get('architecture', '')}".strip()
        for library in threadpool_info()
        if library["user_api"] == "blas"
    }
    versions = {"slamglmm": __version__, "numpy": np.__version__, "scipy": scipy.__version__}
    return versions | {"BLAS": ", ".join(sorted(kernels))}


def fingerprint(design: Design, options: Mapping[str, Any]) -> dict[str, Any]:
    """What must be equal for a run to go on: every part of the data and every option that can change a number.

    Parameters
    ----------
    design : Design
    options : mapping
        By the name that a message gives them; a design or a dataclass gets one entry for each of its parts.

    Returns
    -------
    dict
        Numbers, text and None as they are, all else hashed.
    """
    out: dict[str, Any] = dict(design.digest())
    for name, value in options.items():
        if isinstance(value, Design):
            out |= {f"{part} of {name}": digest for part, digest in value.digest().items()}
        elif is_dataclass(value) and not isinstance(value, type):
            parts = {f"{name}.{f.name}": getattr(value, f.name) for f in fields(value) if f.compare}
            out |= {name: type(value).__qualname__} | {part: _readable(item) for part, item in parts.items()}
        else:
            out[name] = _readable(value)
    return out


def _readable(value: Any) -> Any:
    if isinstance(value, np.integer) or (isinstance(value, float) and value.is_integer()):
        return int(value)
    return value if value is None or type(value) in (int, str) else content_digest(value)
