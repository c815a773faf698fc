"""What every result has: the call it came from, a summary, a place on disk."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from ..errors import FitError
from .files import (
    check_files,
    check_replaceable,
    class_of,
    content_folder,
    current_content,
    disk_errors,
    folder_path,
    locked,
    make_folder,
    new_place,
    read_manifest,
    remove_unused,
    write_manifest,
)

if TYPE_CHECKING:
    import pandas as pd

    from ..design import Design
    from .show import Summary


@dataclass(frozen=True, eq=False, repr=False)
class Result(ABC):
    """A finished fit.

    Attributes
    ----------
    design : Design
        What the formula and the data became.
    options : Mapping
        Arguments of the call, defaults filled in.
    version : str
        Version of slamglmm that made the fit.
    seconds : float
        Wall time of the fit.
    notes : tuple of str
        One line for each choice made on the user's behalf.
    """

    design: Design
    options: Mapping[str, Any]
    version: str
    seconds: float
    notes: tuple[str, ...]

    # Folder with what of this very object is read when it is looked at; no field, so that changed copies have none.
    _home: ClassVar[Path | None] = None

    @property
    def formula(self) -> str:
        """The formula of the call."""
        return self.design.formula

    @property
    def nobs(self) -> int:
        """Number of rows kept."""
        return self.design.n

    @abstractmethod
    def summary(self) -> Summary:
        """Printable summary with ``to_frame()``."""

    @abstractmethod
    def varcorr(self) -> pd.DataFrame:
        """Variance components."""

    @abstractmethod
    def fixef(self) -> pd.DataFrame:
        """Fixed effects."""

    @abstractmethod
    def ranef(self, label: str) -> pd.DataFrame:
        """Random effects of one term."""

    def to_frame(self) -> pd.DataFrame:
        """The summary's table."""
        return self.summary().to_frame()

    def __repr__(self) -> str:
        return str(self.summary())

    def _repr_html_(self) -> str:
        return self.summary()._repr_html_()

    def save(self, path: str | Path) -> Path:
        """Write the result to a folder; `slamglmm.load` reads it back.

        Parameters
        ----------
        path : str or Path
            A new or empty folder, or one that holds a saved result. That one is replaced in one step when the new one
            is whole: interrupted at any moment, the old or the new result can be loaded.

        Returns
        -------
        Path

        Raises
        ------
        DataError
            The folder holds something else, or part of the fit cannot be pickled.
        StorageError
            The folder cannot be written, its disk is full, or another process is writing there.
        OptionError
            `path` is no path.
        """
        call = f"save({str(path)!r})"
        folder = folder_path(path, call)
        check_replaceable(folder, call)
        if self._home is not None and self._home == current_content(folder):
            return folder  # it is what the folder holds
        make_folder(folder, call)
        again = "Make room and save again; what was there before is untouched."
        with disk_errors(folder, call, again), locked(folder, call):
            content = new_place(folder)
            try:
                (folder / content).mkdir()
                self._write(folder / content)
                write_manifest(folder, type(self), content)
            finally:
                # Of the old and the new content the one that the manifest does not name.
                remove_unused(folder)
        return folder

    @abstractmethod
    def _write(self, folder: Path) -> None:
        """Write everything but the manifest."""

    @classmethod
    @abstractmethod
    def _read(cls, folder: Path, checksum: bool) -> Result:
        """Read what `_write` wrote; `slamglmm.load` finds the class, and knows whether there are checksums."""


def refuse_not_finite(fitter: str, numbers: Mapping[str, Any], advice: str = "") -> None:
    """Stop a fit whose numbers are not numbers: better no answer than one that is none.

    Parameters
    ----------
    fitter : str
    numbers : mapping
        Quantity -> values, all of which must be finite.
    advice : str
        What else may be the reason.

    Raises
    ------
    FitError
    """
    for name, given in numbers.items():
        values = np.asarray(given)
        with np.errstate(over="ignore", invalid="ignore"):
            # One pass without an array of its own: what is not finite stays so in a sum.
            if np.isfinite(np.sum(values)):
                continue
        bad = int(np.sum(~np.isfinite(values)))
        if bad:
            raise FitError(
                f"{fitter} broke down: {bad} of {values.size} values of {name} are NaN or infinite, so there is no "
                "result. Look for extreme values or units among responses, covariates, weights and matrices "
                f"(data.describe()), and rescale them.{' ' + advice if advice else ''} Report it if they are ordinary."
            )


def load(path: str | Path) -> Any:
    """Read a result that was saved with ``fit.save(path)``.

    Parameters
    ----------
    path : str or Path

    Returns
    -------
    Result
        Of the class that was saved.

    Raises
    ------
    DataError
        Not a folder with a saved result.
    StorageError
        A file is absent or damaged, or was written by a later version; the message names it. Draws of more than 512 MB
        stay on disk until they are looked at, and are checked then.
    OptionError
        `path` is no path.

    Notes
    -----
    Part of the folder is a Python pickle: load only what you, or people you trust, have saved.

    Examples
    --------
    >>> import slamglmm as sg
    >>> d = sg.datasets.load("penicillin")
    >>> fit = sg.he("diameter ~ 1 + (1 | plate) + (1 | sample)", d.frame)
    >>> folder = fit.save("my_fit")
    >>> sg.load("my_fit").varcorr().equals(fit.varcorr())
    True
    """
    call = f"load({str(path)!r})"
    folder = folder_path(path, call)
    manifest = read_manifest(folder, call)
    made = class_of(manifest, call)
    content = content_folder(folder, manifest)
    check_files(content, manifest)
    return made._read(content, checksum="format" in manifest)
