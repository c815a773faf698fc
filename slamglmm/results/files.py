"""Folders of results: written so that an interrupt loses nothing, read so that damage is never taken for data.

A saved result is a folder with a manifest, ``slamglmm.json``, that names the format, the class and the place of the
content. A new content is written beside the old one, then the manifest is replaced in one step.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import pickle
import re
import shutil
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any, BinaryIO

from .. import __version__
from ..errors import DataError, OptionError, SlamError, StorageError, StorageWarning, warn

# Version of the layout below; folders without one were written before there were several.
FORMAT = 1
MANIFEST = "slamglmm.json"
LOCK = "slamglmm.lock"
FIT = "fit.pickle"
POSTERIOR = "posterior.zarr"
# Short name in the manifest -> the class that reads the content.
CLASSES = {
    "slam": "posterior:SlamResult",
    "he": "varcomp:HeResult",
    "sparse_lmm": "variational:SparseLmmResult",
    "sparse_lmm_fits": "variational:SparseLmmFits",
    "mr_mash": "variational:MrMashResult",
}
# Content written by `save`; that of a streamed run, and of the first format, is the folder itself.
SAVED = re.compile(r"saved-(\d+)")
HERE = "."
RESTORE = "Restore the folder from a copy, or delete it and fit again."
# What a full or failing disk says.
DISK_ERRORS = {errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS}


def folder_path(path: Any, call: str) -> Path:
    """The user's path, or an error that says what a path is; `call` is how the message begins."""
    if not isinstance(path, str | os.PathLike) or "\0" in str(path) or not str(path):
        raise OptionError(f"{call}: expected the name of a folder (str or Path), got {path!r}.")
    return Path(path)


def make_folder(folder: Path, call: str) -> None:
    """Make a folder and those above it.

    Raises
    ------
    StorageError
        It cannot be made, or nothing can be written there.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, "no permission to write there")
    except OSError as error:
        raise StorageError(
            f"{call}: the folder cannot be made or written to ({error.strerror or error}). Name one in a place where "
            "you may write."
        ) from error


@contextmanager
def disk_errors(folder: Path, call: str, advice: str) -> Iterator[None]:
    """Say what to do when the disk is full or fails."""
    try:
        yield
    except OSError as error:
        if isinstance(error, SlamError) or error.errno not in DISK_ERRORS:
            raise
        raise StorageError(f"{call}: {error.strerror or error} ({free_space(folder)}). {advice}") from error


def free_space(folder: Path) -> str:
    """How full the disk of a folder is, for a message."""
    try:
        disk = shutil.disk_usage(folder)
    except OSError:
        return "its disk does not say how full it is"
    return f"{disk.free / 2**30:.2f} of {disk.total / 2**30:.1f} GiB are free"


# -- one process at a time --------------------------------------------------------------------------------------


@contextmanager
def locked(folder: Path, call: str) -> Iterator[None]:
    """Hold the lock file of a folder; the system lets go of it when the process ends, however it ends.

    Parameters
    ----------
    folder : Path
        Exists.
    call : str
        How messages begin, such as ``"out='run'"``.

    Raises
    ------
    StorageError
        Another process holds it; the message says which.

    Warns
    -----
    StorageWarning
        The file system has no locks.
    """
    with (folder / LOCK).open("a+b") as file:
        try:
            _lock(file)
        except BlockingIOError as error:
            file.seek(0)
            holder = file.read().decode(errors="replace").strip() or "another process"
            raise StorageError(
                f"{call} is in use by {holder}. Wait until it has finished or end it, or name another folder."
            ) from error
        except OSError as error:
            warn(
                f"{call}: its file system has no locks ({error.strerror or error}). See to it that no other process "
                "writes to the folder.",
                StorageWarning,
            )
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}\n".encode())
        file.flush()
        yield


def _lock(file: BinaryIO) -> None:
    """Take an exclusive lock without waiting, or raise BlockingIOError."""
    try:
        import fcntl
    except ImportError:  # Windows
        import msvcrt

        # Far behind the text, which others may read meanwhile.
        file.seek(2**30)
        try:
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined]
        except OSError as error:
            raise BlockingIOError(*error.args) from error
    else:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


# -- small files ------------------------------------------------------------------------------------------------


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file so that a reader, or a killed writer, never sees half of it."""
    temporary = path.with_suffix(path.suffix + ".tmp")
    with temporary.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def write_pickle(path: Path, value: Any) -> None:
    """Pickle a value, followed by the SHA-256 of the bytes before it.

    Raises
    ------
    DataError
        Part of it cannot be pickled.
    """
    try:
        content = pickle.dumps(value)
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise DataError(
            f"save: part of the fit cannot be pickled ({error}). A prior given as a lambda is the usual reason: "
            "define it as a function in a module, or pass an array of masses."
        ) from error
    write_atomically(path, content + hashlib.sha256(content).digest())


def read_pickle(path: Path, checksum: bool = True, advice: str = RESTORE) -> Any:
    """Read what `write_pickle` wrote.

    Parameters
    ----------
    path : Path
    checksum : bool
        False for a file of before there was one.
    advice : str
        What to do when it is damaged.

    Raises
    ------
    StorageError
        The file is absent, or is not what was written.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise StorageError(f"{path} cannot be read ({error.strerror or error}). {advice}") from error
    size = hashlib.sha256().digest_size
    if checksum and hashlib.sha256(content[:-size]).digest() != content[-size:]:
        raise StorageError(f"{path} is damaged: its checksum does not match. {advice}")
    try:
        return pickle.loads(content)
    except Exception as error:  # bytes of anything, or classes of another version, can raise anything
        raise StorageError(
            f"{path} cannot be read as a result of slamglmm {__version__} ({type(error).__name__}: {error}). {advice}"
        ) from error


def read_json(path: Path, advice: str) -> dict[str, Any]:
    """Read a small record.

    Raises
    ------
    StorageError
        It is no record.
    """
    try:
        record = json.loads(path.read_bytes())
        if isinstance(record, dict):
            return record
        problem = f"it holds a {type(record).__name__}"
    except (OSError, ValueError) as error:
        problem = str(error)
    raise StorageError(f"{path} is damaged, or no file of slamglmm ({problem}). {advice}")


# -- results ----------------------------------------------------------------------------------------------------


def read_manifest(folder: Path, call: str) -> dict[str, Any]:
    """The manifest of a saved result.

    Raises
    ------
    DataError
        There is none.
    StorageError
        It is damaged, or of a later version.
    """
    path = folder / MANIFEST
    if not path.exists():
        raise DataError(f"{call}: no saved result there (expected a folder with {MANIFEST}).")
    manifest = read_json(path, RESTORE)
    version = manifest.get("format", 0)
    if not isinstance(version, int) or version > FORMAT:
        raise StorageError(
            f"{call}: format {version!r}, written by slamglmm {manifest.get('version')}; this is slamglmm "
            f"{__version__}, which reads formats up to {FORMAT}. Update slamglmm to load it."
        )
    return manifest


def class_of(manifest: Mapping[str, Any], call: str) -> Any:
    """The class that reads the content.

    Raises
    ------
    DataError
        There is no such class of results.
    """
    named = manifest.get("class")
    # The first format had the place of the class, "slamglmm.results.posterior:SlamResult".
    home = str(named).removeprefix("slamglmm.results.") if "format" not in manifest else CLASSES.get(str(named))
    if home not in CLASSES.values():
        raise DataError(f"{call}: {named} is not a slamglmm result. Expected one of {', '.join(CLASSES)}.")
    module, name = str(home).split(":")
    return getattr(import_module(f"{__package__}.{module}"), name)


def content_folder(folder: Path, manifest: Mapping[str, Any]) -> Path:
    """Where the content is.

    Raises
    ------
    StorageError
        The manifest names no place inside the folder.
    """
    place = manifest.get("content", HERE)
    if place != HERE and not (isinstance(place, str) and SAVED.fullmatch(place)):
        raise StorageError(f"{folder / MANIFEST} is damaged: content {place!r}. {RESTORE}")
    return folder / place


def write_manifest(folder: Path, result: type, content: str) -> None:
    """Make a content that is whole the one of the folder, in one step."""
    home = f"{result.__module__.rsplit('.', 1)[-1]}:{result.__qualname__}"
    name = next(name for name, other in CLASSES.items() if other == home)
    manifest = {"format": FORMAT, "class": name, "version": __version__, "content": content}
    manifest["files"] = _small_files(folder / content)
    write_atomically(folder / MANIFEST, json.dumps(manifest, indent=1).encode())


def check_files(content: Path, manifest: Mapping[str, Any]) -> None:
    """Compare the files that describe arrays with their checksums in the manifest.

    Raises
    ------
    StorageError
        One is absent or differs.
    """
    found, expected = _small_files(content), manifest.get("files", {})
    for name, checksum in expected.items():
        if name not in found:
            raise StorageError(f"{content / name} is absent. {RESTORE}")
        if found[name] != checksum:
            raise StorageError(f"{content / name} is damaged: its checksum does not match. {RESTORE}")


def _small_files(content: Path) -> dict[str, str]:
    """Checksum of each file that describes arrays; chunks and pickles have theirs inside."""
    metadata = [path for path in (content / POSTERIOR).rglob(".z*") if path.is_file()]
    names = {path.relative_to(content).as_posix(): path for path in sorted(metadata)}
    return {name: hashlib.sha256(path.read_bytes()).hexdigest()[:16] for name, path in names.items()}


def check_replaceable(folder: Path, call: str) -> None:
    """Refuse a folder with anything in it that no `save` has left there.

    Raises
    ------
    DataError
    """
    leftovers = (LOCK, f"{MANIFEST}.tmp")
    fine = not folder.exists() or (
        folder.is_dir()
        and (
            (folder / MANIFEST).exists()
            or all(SAVED.fullmatch(path.name) or path.name in leftovers for path in folder.iterdir())
        )
    )
    if not fine:
        raise DataError(f"{call}: expected a new or empty folder, or a saved result to replace.")


def current_content(folder: Path) -> Path | None:
    """Where the content of a folder is that may hold a saved result; None when it holds none that can be read."""
    try:
        return content_folder(folder, read_manifest(folder, "save"))
    except (DataError, StorageError):
        return None


def new_place(folder: Path) -> str:
    """A name for new content, beside all that is there."""
    numbers = [int(found[1]) for path in folder.iterdir() if (found := SAVED.fullmatch(path.name))]
    return f"saved-{1 + max(numbers, default=0)}"


def remove_unused(folder: Path) -> None:
    """Remove content that the manifest does not name: replaced, or left by an interrupted `save`."""
    (folder / f"{MANIFEST}.tmp").unlink(missing_ok=True)
    used = current_content(folder)
    if used is None and (folder / MANIFEST).exists():
        return  # nobody can tell what is used
    for path in folder.iterdir():
        if SAVED.fullmatch(path.name) and path != used:
            shutil.rmtree(path, ignore_errors=True)
    if used not in (None, folder):
        shutil.rmtree(folder / POSTERIOR, ignore_errors=True)
        for path in (folder / FIT, folder / "run.json", *folder.glob("chain-*.pickle")):
            path.unlink(missing_ok=True)
