"""What every result has: the call it came from, a summary, a place on disk."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import __version__
from ..errors import DataError, FitError

if TYPE_CHECKING:
    import pandas as pd

    from ..design import Design
    from .show import Summary

# File in a saved folder that says which class reads the rest.
MANIFEST = "slamglmm.json"


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
            A new or empty folder, or one that holds a saved result (which is replaced).

        Returns
        -------
        Path

        Raises
        ------
        DataError
            The folder holds something else.
        """
        folder = Path(path)
        if folder.exists() and (not folder.is_dir() or (any(folder.iterdir()) and not (folder / MANIFEST).exists())):
            raise DataError(f"save({str(path)!r}): expected a new or empty folder, or a saved result to replace.")
        folder.mkdir(parents=True, exist_ok=True)
        # The manifest goes first and comes back last, so a folder without one was not written to the end.
        (folder / MANIFEST).unlink(missing_ok=True)
        self._write(folder)
        self._write_manifest(folder)
        return folder

    def _write_manifest(self, folder: Path) -> None:
        manifest = {"class": f"{type(self).__module__}:{type(self).__qualname__}", "version": __version__}
        (folder / MANIFEST).write_text(json.dumps(manifest, indent=1))

    @abstractmethod
    def _write(self, folder: Path) -> None:
        """Write everything but the manifest."""

    @classmethod
    @abstractmethod
    def _read(cls, folder: Path) -> Result:
        """Read a folder that `save` wrote; `slamglmm.load` finds the class."""


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
    manifest = Path(path) / MANIFEST
    if not manifest.exists():
        raise DataError(f"load({str(path)!r}): no saved result there (expected a folder with {MANIFEST}).")
    module, name = json.loads(manifest.read_text())["class"].split(":")
    if not module.startswith("slamglmm."):
        raise DataError(f"load({str(path)!r}): {module}:{name} is not a slamglmm result.")
    return getattr(import_module(module), name)._read(Path(path))
