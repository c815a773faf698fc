"""Checks of options by kind and range, so that every function refuses a wrong value in the same words."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from .errors import DataError, OptionError

# A longer value is cut in a message.
LONGEST = 80


def shown(value: object) -> str:
    """A value as a message names it: short, and arrays and tables by their shape."""
    shape = getattr(value, "shape", None)
    if isinstance(shape, tuple) and shape:
        return f"<{type(value).__name__} of shape {shape}>"
    if isinstance(shape, tuple) and hasattr(value, "item"):
        return repr(value.item())  # a number in an array of no dimensions
    text = value.__name__ if isinstance(value, type) else repr(value)
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 3]}..."


def is_whole(value: object) -> bool:
    """Whether a value is an integer; True and False are not."""
    return isinstance(value, int | np.integer) and not isinstance(value, bool)


def is_number(value: object) -> bool:
    """Whether a value is an integer or a float; True, False, text, fractions and arrays are not."""
    return isinstance(value, int | float | np.integer | np.floating) and not isinstance(value, bool)


@dataclass(frozen=True)
class Range:
    """Bounds of a number, each of them optional."""

    above: float | None = None
    least: float | None = None
    below: float | None = None
    most: float | None = None

    def holds(self, values: Any) -> bool:
        """Whether all values are finite and within the bounds."""
        values = np.asarray(values, dtype=float)
        inside = np.isfinite(values)
        for bound, compare in (
            (self.above, np.greater),
            (self.least, np.greater_equal),
            (self.below, np.less),
            (self.most, np.less_equal),
        ):
            if bound is not None:
                inside &= compare(values, bound)
        return bool(inside.all())

    def of(self, noun: str) -> str:
        """Such a number in words: "finite positive number", "finite number of at least 0 and below 1"."""
        if self == Range(above=0):
            return f"finite positive {noun}"
        bounds = (("above", self.above), ("of at least", self.least), ("below", self.below), ("of at most", self.most))
        inside = " and ".join(f"{word} {bound:g}" for word, bound in bounds if bound is not None)
        return f"finite {noun} {inside}".rstrip()


@dataclass(frozen=True)
class Options:
    """The options of one call, and checks of them by name.

    Parameters
    ----------
    given : mapping
        Name -> value, such as ``locals()`` or ``vars(self)``; more names than are checked do no harm.
    of : str
        Function or class for the message, ``"simulate.ace"``; the options of a fitter go without.

    Raises
    ------
    OptionError
        By every check: the name, what came and what was expected.
    """

    given: Mapping[str, Any]
    of: str = ""

    def refuse(self, name: str, expected: str, advice: str = "") -> OptionError:
        """The error for an option that is not what was expected."""
        what = f"{name}={shown(self.given[name])}"
        where = f"{self.of}({what})" if self.of else what
        return OptionError(f"{where}: expected {expected}.{' ' + advice if advice else ''}")

    def whole(
        self, *names: str, least: int = 0, most: int | None = None, optional: bool = False, advice: str = ""
    ) -> None:
        """Integers from `least` to `most`; None too if `optional`."""
        for name in names:
            value = self.given[name]
            if (optional and value is None) or (is_whole(value) and Range(least=least, most=most).holds(value)):
                continue
            expected = f"an integer of at least {least}" if most is None else f"an integer from {least} to {most}"
            raise self.refuse(name, expected + (", or None" if optional else ""), advice)

    def number(
        self,
        *names: str,
        words: tuple[str, ...] = (),
        advice: str = "",
        **bounds: float,
    ) -> None:
        """Finite numbers within the bounds of a `Range`, or one of some words."""
        wanted = Range(**bounds)
        for name in names:
            value = self.given[name]
            if isinstance(value, str) and value in words:
                continue
            if is_number(value) and wanted.holds(value):
                continue
            alternatives = f"{', '.join(map(repr, words))} or " if words else ""
            raise self.refuse(name, f"{alternatives}a {wanted.of('number')}", advice)

    def share(self, *names: str) -> None:
        """Numbers strictly between 0 and 1."""
        for name in names:
            value = self.given[name]
            if not (is_number(value) and 0 < value < 1):
                raise self.refuse(name, "a share between 0 and 1")

    def numbers(self, *names: str, length: int, single: bool = False, advice: str = "", **bounds: float) -> None:
        """So many finite numbers within the bounds of a `Range`, as a tuple, list or array; one for all if `single`."""
        wanted = Range(**bounds)
        for name in names:
            value = self.given[name]
            shapes = {(length,), ()} if single else {(length,)}
            if _shape_of_numbers(value) in shapes and wanted.holds(value):
                continue
            count = "two" if length == 2 else length
            many = f"a {wanted.of('number')}, or {count} of them" if single else f"{count} {wanted.of('numbers')}"
            raise self.refuse(name, many, advice)

    def span(self, name: str) -> tuple[int, int]:
        """A number of things from 1, or a range of such numbers; gives the range."""
        value = self.given[name]
        ends = (value, value) if is_whole(value) else value
        if _shape_of_numbers(ends) != (2,) or not all(is_whole(end) for end in ends) or not 1 <= ends[0] <= ends[1]:
            raise self.refuse(name, "an integer of at least 1, or a range of such integers (least, most)")
        return int(ends[0]), int(ends[1])

    def flag(self, *names: str, optional: bool = False) -> None:
        """True or False; None too if `optional`."""
        for name in names:
            value = self.given[name]
            if not (isinstance(value, bool | np.bool_) or (optional and value is None)):
                raise self.refuse(name, "True, False or None" if optional else "True or False")

    def choice(self, name: str, allowed: Iterable[object], advice: str = "") -> None:
        """One of a few values."""
        listed, value = tuple(allowed), self.given[name]
        # Not `in`: an array has no single truth value when it is compared.
        if not isinstance(value, str | None) or value not in listed:
            words = ", ".join(map(repr, listed[:-1]))
            raise self.refuse(name, f"{words} or {listed[-1]!r}" if words else repr(listed[0]), advice)

    def kind(self, name: str, types: Any, expected: str, advice: str = "") -> None:
        """An instance of what ``isinstance`` takes; `expected` says what that is in words."""
        if not isinstance(self.given[name], types):
            raise self.refuse(name, expected, advice)

    def text(self, name: str, expected: str, optional: bool = False) -> None:
        """Text that is not empty; `expected` says what it is."""
        value = self.given[name]
        if not ((isinstance(value, str) and value.strip()) or (optional and value is None)):
            raise self.refuse(name, expected + (", or None" if optional else ""))

    def path(self, name: str) -> None:
        """A file or folder by name, or None."""
        if not isinstance(self.given[name], str | os.PathLike | None) or self.given[name] == "":
            raise self.refuse(name, "the path of a file or folder, or None")

    def seed(self, name: str = "seed", generator: bool = False) -> None:
        """An integer of at least 0 or None; a numpy Generator too where data are simulated."""
        value = self.given[name]
        if generator and isinstance(value, np.random.Generator):
            return
        if value is not None and not (is_whole(value) and value >= 0):
            more = ", a numpy.random.Generator" if generator else ""
            raise self.refuse(name, f"an integer of at least 0{more}, or None")

    def jobs(self, name: str = "n_jobs", of_what: str = "jobs") -> None:
        """A number of things done at the same time, as joblib counts them."""
        value = self.given[name]
        if not is_whole(value) or value == 0:
            raise self.refuse(name, f"the number of {of_what} at the same time, or -1 for all cores")


def _shape_of_numbers(value: Any) -> tuple[int, ...] | None:
    """Shape of an array of finite numbers; None for anything else."""
    try:
        array = np.asarray(value)
    except ValueError:  # rows of different lengths
        return None
    return array.shape if array.dtype.kind in "iuf" and bool(np.isfinite(array).all()) else None


def by_group(name: str, value: Any, what: str) -> dict[str, Any]:
    """A dict from grouping factors to matrices or tables, as ``relmat=`` and ``markers=`` are given; {} for None.

    Parameters
    ----------
    name : str
        Of the option.
    value : Any
    what : str
        What stands in the dict, for the message: "matrix".

    Raises
    ------
    OptionError
        Anything but a dict; the message says what to write.
    """
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise OptionError(
            f"{name} must be a dict {{'group': {what}}}, got {type(value).__name__}. Write {name}={{'line': ...}} with "
            "the grouping factor of the random effect, here that of (1 | line)."
        )
    wrong = [key for key in value if not isinstance(key, str)]
    if wrong:
        raise OptionError(f"{name} has the key {shown(wrong[0])}: expected names of grouping factors, such as 'line'.")
    return dict(value)


def entries(name: str, value: Any, known: Iterable[str], example: str) -> dict[str, Any]:
    """An option that is itself a dict of a few options, such as ``subsample=``; {} for None.

    Parameters
    ----------
    name : str
        Of the option.
    value : Any
    known : iterable of str
        What the dict may hold.
    example : str
        A dict, for the message.

    Raises
    ------
    OptionError
        Anything but a dict, or one with another key.
    """
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise OptionError(f"{name}={shown(value)}: expected a dict such as {example}.")
    known = tuple(known)
    unknown = [key for key in value if key not in known]
    if unknown:
        raise OptionError(f"{name} has {shown(unknown[0])}; it knows {', '.join(known)}.")
    return dict(value)


def membership(name: str, table: Any) -> np.ndarray:
    """A table of 0 and 1, or of False and True, as booleans: which things belong to which sets.

    Raises
    ------
    DataError
        Any other entry: a missing one would count as a member.
    """
    try:
        values = np.asarray(table, dtype=float)
    except (TypeError, ValueError):
        raise DataError(f"{name}={shown(table)}: expected a table of 0 and 1 (1: belongs to it).") from None
    wrong = values[(values != 0) & (values != 1)]
    if wrong.size:
        raise DataError(
            f"{name} holds {wrong[0]:g} ({wrong.size} of {values.size} entries are neither 0 nor 1): expected 1 where "
            "it belongs to the set and 0 elsewhere."
        )
    return values == 1


def probability(value: Any, name: str = "prob") -> float:
    """Mass of an interval, strictly between 0 and 1.

    Raises
    ------
    OptionError
    """
    if not (is_number(value) and 0 < value < 1):
        raise OptionError(f"{name}={shown(value)}: expected a probability between 0 and 1, such as 0.95.")
    return float(value)
