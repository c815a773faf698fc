"""Covariates of single traits (genotypes near a gene): which traits have which columns, and their values by row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from ..errors import DataError, OptionError, shortlist
from .columns import numbers_of, open_frame, take_columns


@dataclass(frozen=True)
class CisColumns:
    """What ``cis=`` named: E effects, trait after trait, on m distinct columns of the data.

    Attributes
    ----------
    of_trait : dict of str to tuple of str
        Columns of each trait that has any.
    values : DataFrame, rows of the fit × m
    """

    of_trait: Mapping[str, tuple[str, ...]]
    values: pd.DataFrame

    @cached_property
    def effects(self) -> pd.MultiIndex:
        """(trait, covariate) of each effect."""
        pairs = [(trait, name) for trait, names in self.of_trait.items() for name in names]
        return pd.MultiIndex.from_tuples(pairs, names=["trait", "covariate"])

    @cached_property
    def column(self) -> np.ndarray:
        """Column of `values` of each effect, shape (E,)."""
        return self.values.columns.get_indexer(self.effects.get_level_values("covariate"))

    @cached_property
    def spans(self) -> dict[str, slice]:
        """Effects of each trait."""
        ends = np.cumsum([0, *(len(names) for names in self.of_trait.values())])
        return {trait: slice(int(ends[i]), int(ends[i + 1])) for i, trait in enumerate(self.of_trait)}

    def of_rows(self, newdata: Any = None) -> np.ndarray:
        """Values on the rows of the fit, or on new rows, row × m."""
        if newdata is None:
            return self.values.to_numpy()
        return _read_values(self.of_trait, newdata, None, "newdata").to_numpy()

    def add(self, out: np.ndarray, effects: np.ndarray, values: np.ndarray, traits: Sequence[str]) -> None:
        """Add ``C_j a_j`` to predictions (..., row, trait), in place.

        Parameters
        ----------
        out : ndarray, shape (..., row, trait)
        effects : ndarray, shape (..., E)
        values : ndarray, row × m
        traits : sequence of str
            Names of the last axis of `out`.
        """
        for j, trait in enumerate(traits):
            if trait in self.spans:
                own = self.spans[trait]
                out[..., j] += effects[..., own] @ values[:, self.column[own]].T


def read_cis_columns(cis: Any, data: Any, rows: np.ndarray) -> CisColumns | None:
    """Read what ``cis=`` names from the user's frame; None when it names nothing.

    Parameters
    ----------
    cis : mapping
        Trait -> name or names of columns of `data`.
    data : DataFrame
    rows : ndarray of int
        Rows that a design kept.

    Raises
    ------
    OptionError
        Not such a mapping, or a column named twice for a trait.
    DataError
        Columns that are absent, no numbers, or not complete on these rows.
    """
    if not isinstance(cis, Mapping):
        raise OptionError(
            f"cis: expected a mapping of traits to columns of the data, such as {{'gene1': ['rs1', 'rs2']}}; got "
            f"{type(cis).__name__}."
        )
    of_trait: dict[str, tuple[str, ...]] = {}
    for trait, names in cis.items():
        chosen = (names,) if isinstance(names, str) else tuple(names)
        if len(set(chosen)) < len(chosen):
            twice = sorted({str(name) for name in chosen if chosen.count(name) > 1})
            raise OptionError(f"cis[{str(trait)!r}] names {shortlist(twice)} more than once.")
        if chosen:
            of_trait[str(trait)] = chosen
    return CisColumns(of_trait, _read_values(of_trait, data, rows, "data")) if of_trait else None


def _read_values(
    of_trait: Mapping[str, tuple[str, ...]], data: Any, rows: np.ndarray | None, name: str
) -> pd.DataFrame:
    """The named columns as numbers on some rows (all rows: None); complete, or refused."""
    users: dict[str, str] = {}
    for trait, names in of_trait.items():
        for column in names:
            users.setdefault(column, trait)
    frame = open_frame(data, name)
    known = frozenset(frame.columns)
    absent = [column for column in users if column not in known]
    if absent:
        raise DataError(
            f"cis: {name} lacks {shortlist(absent)} (first needed by trait {users[absent[0]]!r}). Covariates of single "
            "traits are columns of the data: join dosages to it, data.join(dosages)."
        )
    table = take_columns(frame, list(users), name)
    table = table if rows is None else table.iloc[rows]
    read: dict[str, np.ndarray] = {}
    for column, user in users.items():
        values = numbers_of(table[column])
        if values is None:
            dtype = table[column].dtype
            raise DataError(f"cis: column {column!r} (trait {user!r}) is {dtype}; expected numbers, such as dosages.")
        read[column] = values
    numbers = pd.DataFrame(read, index=table.index)
    complete = np.isfinite(numbers.to_numpy())
    if not complete.all():
        at = int(np.flatnonzero(~complete.all(axis=0))[0])
        column, lost = numbers.columns[at], np.flatnonzero(~complete[:, at])
        raise DataError(
            f"cis: column {column!r} (trait {users[column]!r}) is missing or infinite in {len(lost)} row(s) of {name} "
            f"(first: row {str(numbers.index[lost[0]])!r}). Fill it in, with the mean of the column for example, or "
            "leave these rows out."
        )
    return numbers
