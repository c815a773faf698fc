"""Labelled arrays on disk: chunks that carry a checksum, so that an absent or damaged one is an error, not data."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import numpy as np
import xarray as xr
import zarr
from numcodecs import Shuffle, Zstd
from zarr.storage import LocalStore

from ..errors import StorageError
from .files import DISK_ERRORS, RESTORE


def codecs(dtype: np.dtype) -> dict[str, Any]:
    """How chunks are packed: each holds its checksum, which is verified whenever it is read."""
    # Bytes of equal rank side by side: numbers take less room.
    filters = [Shuffle(dtype.itemsize)] if dtype.kind in "iuf" and dtype.itemsize > 1 else None
    return {"compressors": [Zstd(level=1, checksum=True)], "filters": filters}


class CheckedStore(LocalStore):
    """A folder of arrays, to read: a chunk that is absent or damaged is an error instead of missing values."""

    async def get(self, key: str, *args: Any, **options: Any) -> Any:
        """Content of a file; None only where there may be none."""
        content = await super().get(key, *args, **options)
        if key.rsplit("/", 1)[-1][:1].isdigit():
            path = self.root / key
            if content is None:
                raise StorageError(f"{path} is absent: part of the draws was lost. {RESTORE}")
            try:
                Zstd().decode(content.to_bytes())
            except RuntimeError as error:
                raise StorageError(f"{path} is damaged: its checksum does not match. {RESTORE}") from error
        return content


def write_arrays(values: xr.Dataset, path: Path, mode: Literal["w", "a"] = "w") -> None:
    """Write labelled arrays; with ``mode="a"`` beside those there are, in place of any of the same name."""
    text = {
        name: np.array([str(v) for v in c.to_numpy()])
        for name, c in values.coords.items()
        if c.dtype.kind not in "iufb"
    }
    values = values.assign_coords(text).drop_encoding()
    for name in values.variables if mode == "a" else ():
        shutil.rmtree(path / str(name), ignore_errors=True)
    encoding = {name: codecs(v.dtype) for name, v in values.variables.items()}
    # Chunks of missing values are written too, so that all that is absent is lost; not by xarray's own option, which
    # its older versions pass on to what zarr no longer takes.
    with zarr.config.set({"array.write_empty_chunks": True}):
        values.to_zarr(path, mode=mode, zarr_format=2, consolidated=False, encoding=encoding)


def open_arrays(path: Path, checksum: bool = True) -> xr.Dataset:
    """Labelled arrays that are read, and checked, when they are looked at.

    Parameters
    ----------
    path : Path
    checksum : bool
        False for arrays of before there were checksums.

    Raises
    ------
    StorageError
        They cannot be opened.
    """
    store = CheckedStore(path, read_only=True) if checksum else LocalStore(path, read_only=True)
    with damage_named(path):
        return xr.open_zarr(store, chunks=None, consolidated=False)


@contextmanager
def damage_named(path: Path) -> Iterator[None]:
    """Name the folder of arrays whatever goes wrong with what is in it; a full disk is no damage."""
    try:
        yield
    except (StorageError, MemoryError):
        raise
    except Exception as error:  # bytes of anything can raise anything
        if isinstance(error, OSError) and error.errno in DISK_ERRORS:
            raise
        raise StorageError(
            f"{path} is damaged, or holds no arrays ({type(error).__name__}: {error}). {RESTORE}"
        ) from error
