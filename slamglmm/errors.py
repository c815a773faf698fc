"""Errors and warnings: one subclass of `SlamError` for each stage a user can go wrong in.

Every message says what was expected, what came (name, value, first offending label) and what to do.
"""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Iterable
from pathlib import Path

_PACKAGE = f"{Path(__file__).parent}{os.sep}"


class SlamError(Exception):
    """Base of all errors raised on purpose by slamglmm."""


class FormulaError(SlamError, ValueError):
    """The formula cannot be read; the message shows it with a caret under the place."""

    def __init__(self, message: str, formula: str | None = None, position: int | None = None, length: int = 1):
        self.formula, self.position = formula, position
        message = clip(message, 1000)
        if formula is not None:
            shown, at, length = _around(formula, position, length)
            caret = "" if at is None else "\n  " + " " * at + "^" * max(1, length)
            message = f"{message}\n  {shown}{caret}"
        super().__init__(message)


class DataError(SlamError, ValueError):
    """The data frame, the responses or new data do not fit the model."""


class RelmatError(SlamError, ValueError):
    """A relationship matrix is unlabelled, incomplete, asymmetric or indefinite."""


class PedigreeError(SlamError, ValueError):
    """A pedigree has a loop, an individual twice, or a parent of the wrong kind."""


class OptionError(SlamError, ValueError):
    """An argument of a fitter has a value it cannot take."""


class KeywordError(OptionError, TypeError):
    """A call names an option that the function does not have, or lacks one that it needs."""


class FitError(SlamError, RuntimeError):
    """A fit broke down numerically."""


class StorageError(SlamError, OSError):
    """A file or folder cannot be written, is in use by another process, or is damaged."""


class SlamWarning(UserWarning):
    """Base of all warnings issued by slamglmm."""


class DroppedRowsWarning(SlamWarning):
    """Rows were left out; the message says how many and because of which columns."""


class ScaleWarning(SlamWarning):
    """A relationship matrix is on an unusual scale, so h2 is per unit of that matrix."""


class BoundaryWarning(SlamWarning):
    """A variance is estimated at zero or below, or a share above one."""


class ConvergenceWarning(SlamWarning):
    """A fit has not converged, or its chains disagree."""


class FewTraitsWarning(SlamWarning):
    """Few traits are fitted with a prior that is made for many."""


class StorageWarning(SlamWarning):
    """What a run will keep is large, or its folder is on a file system or machine where less can be promised."""


def shortlist(items: Iterable[object], limit: int = 5) -> str:
    """First few items, quoted, for a message: ``'A17', 'A18', ... (12 in all)``."""
    listed = list(items)
    shown = ", ".join(repr(clip(str(item))) for item in listed[:limit])
    return shown if len(listed) <= limit else f"{shown}, ... ({len(listed)} in all)"


def clip(text: str, most: int = 100) -> str:
    """Shorten a name or an expression for a message: its beginning, and how long it is."""
    return text if len(text) <= most else f"{text[:most]}... ({len(text)} characters)"


def _around(formula: str, position: int | None, length: int, most: int = 400) -> tuple[str, int | None, int]:
    """A long formula cut to the neighbourhood of a place, the place in it, and how much of the place is shown."""
    if len(formula) <= most:
        return formula, position, length
    low = max(0, min((position or 0) - most // 4, len(formula) - most))
    before, after = "... " if low else "", " ..." if low + most < len(formula) else ""
    at = None if position is None else position - low + len(before)
    return before + formula[low : low + most] + after, at, min(length, low + most - (position or 0))


def warn(message: str, category: type[SlamWarning]) -> None:
    """Issue a warning at the user's own line: that of the call that led into the package.

    Parameters
    ----------
    message : str
    category : subclass of SlamWarning
    """
    level = outermost = 1
    frame = sys._getframe()
    while frame is not None:
        if frame.f_code.co_filename.startswith(_PACKAGE):
            outermost = level
        frame, level = frame.f_back, level + 1  # type: ignore[assignment]
    warnings.warn(message, category, stacklevel=outermost + 1)


def __dir__() -> list[str]:
    """Errors and warnings only: what users catch and silence."""
    return [name for name, value in globals().items() if isinstance(value, type) and value.__module__ == __name__]
