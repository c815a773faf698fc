"""Which row of a table belongs to which row of the data: one rule for every input that has one row for each."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from pandas.api import types

from ..errors import DataError, shortlist
from ..relmat import Relmat
from .columns import open_frame, row_labels, take_columns


class RowMatch(NamedTuple):
    """Where the rows of the data are in a table.

    Attributes
    ----------
    rows : ndarray of intp
        Row of the table for each row of the data that was asked for.
    note : str or None
        What the user should know of how they were found.
    """

    rows: np.ndarray
    note: str | None


class Key(NamedTuple):
    """Something that may say who the rows of the data are.

    Attributes
    ----------
    words : str
        ``"column 'line' of data"``.
    values : Index, length n
    advice : str
        What makes it the index of the data.
    """

    words: str
    values: pd.Index
    advice: str


class Reading(NamedTuple):
    """Labels of a table looked up in a `Key`.

    Attributes
    ----------
    key : Key
    at : ndarray of intp
        Row of the table for each row that was asked for, -1 where there is none.
    is_complete : bool
        Every row that was asked for has one.
    n_spare : int
        Rows of the table that no row of the data has.
    """

    key: Key
    at: np.ndarray
    is_complete: bool
    n_spare: int

    @property
    def is_one_to_one(self) -> bool:
        """Whether no two rows of the data have the same row of the table."""
        return len(np.unique(self.at)) == len(self.at)


@dataclass(frozen=True, eq=False)
class RowLabels:
    """Who the rows of the data are: by the index, or else by a column.

    Attributes
    ----------
    index : Index, length n
    frame : result of `open_frame`, or None
        Its columns may hold the labels of other tables.
    name : str
        What to call the data in messages.
    of_index : str, optional
        What to call the index; ``"the index of <name>"`` by default.
    """

    index: pd.Index
    frame: Any = None
    name: str = "data"
    of_index: str = ""

    @classmethod
    def of(cls, data: Any, name: str = "data") -> RowLabels:
        """Of a frame that a user gave.

        Parameters
        ----------
        data : DataFrame or mapping of columns
        name : str
        """
        opened = open_frame(data, name)
        return cls(row_labels(opened), opened, name)

    def match(
        self,
        labels: pd.Index | None,
        size: int,
        what: str,
        *,
        rows: np.ndarray | None = None,
        repeats: bool = False,
        by_position: str | None = None,
    ) -> RowMatch:
        """Row of a table for each row of the data, by label; by position where there are no labels.

        The labels are looked up in the index of the data. If they are not there, they have to be the values of one
        column: all of them, and nothing else in the rows that are asked for. An index of whole numbers may only be
        left over from sorting or sampling, so a column that says otherwise is asked about. Labels that count the rows,
        0 .. n-1, are none when the data counts its rows too, or has other labels.

        Parameters
        ----------
        labels : Index or None
            Of the rows of the table; None when they have no labels.
        size : int
            Rows of the table.
        what : str
            What to call the table in messages.
        rows : ndarray of int, optional
            Rows of the data that are asked for; all by default.
        repeats : bool
            Whether several rows of the data may share a row of the table, as records of one line share its markers.
        by_position : str, optional
            What to write to have the rows taken in the order they are in; ``<what>.reset_index(drop=True)`` by default.

        Returns
        -------
        RowMatch

        Raises
        ------
        DataError
            Another number of rows; labels that name no rows of the data, or not all; labels that repeat; labels that
            are found in two places in different orders.
        """
        n = len(self.index)
        rows = np.arange(n) if rows is None else rows
        counts = labels is not None and counts_rows(labels)
        if labels is None or (counts and counts_rows(self.index)):
            return self._in_order(size, what, rows)
        if len(labels) != size:
            raise DataError(f"{what}: expected one label for each row, got {len(labels)} for {size} rows.")
        if _equal(labels, self.index):
            return RowMatch(rows, None)
        if counts and not self._numbers(labels):
            return self._in_order(size, what, rows)
        if not labels.is_unique:
            return self._repeated(labels, what, rows)
        own = _read(labels, self._index, rows)
        if own is not None and own.is_complete and self._is_credible(own):
            others = [] if counts or not _is_whole(self.index) else self._columns(labels, rows)
            rivals = [other for other in others if other.is_complete and (not other.n_spare or other.is_one_to_one)]
            return self._settled([own, *rivals], size, what, rows, repeats)
        columns = [] if counts else self._columns(labels, rows)
        fits = [reading for reading in columns if reading.is_complete and not reading.n_spare]
        if fits:
            return self._settled(fits, size, what, rows, repeats)
        raise self._unmatched(labels, own, columns, what, rows, by_position)

    # -- inside ------------------------------------------------------------------------------------------

    @property
    def _index(self) -> Key:
        return Key(self.of_index or f"the index of {self.name}", self.index, f"{self.name}.index")

    def _in_order(self, size: int, what: str, rows: np.ndarray) -> RowMatch:
        if size != len(self.index):
            raise DataError(
                f"{what}: expected {len(self.index)} rows, as {self.name} has, got {size}, and no labels to match them "
                f"by. Give one row for each row of {self.name} in the same order, or the same ids as index to both."
            )
        return RowMatch(rows, None)

    def _numbers(self, counted: pd.Index) -> bool:
        """Whether labels 0, 1, 2, ... may be meant by an index of whole numbers: each of its rows has one."""
        if not _is_whole(self.index) or not self.index.isin(counted).all():
            return False
        # Frames put one below the other repeat their numbers, which then say nothing.
        return self.index.is_unique or len(counted) != len(self.index)

    def _is_credible(self, own: Reading) -> bool:
        """Whether an index in which all rows are found is that of the labels.

        Whole numbers that number the rows, or repeat, are found in any longer table: all labels have to be there.
        """
        if not _is_whole(self.index):
            return True
        numbers = np.array_equal(np.sort(np.asarray(self.index)), np.arange(len(self.index)))
        return not own.n_spare or (self.index.is_unique and not numbers)

    def _keys(self, labels: pd.Index, rows: np.ndarray) -> Iterator[Key]:
        """Columns, and levels of the index, that may hold the labels."""
        if isinstance(labels, pd.MultiIndex):
            names = list(labels.names)
            if self.frame is not None and None not in names and set(names) <= set(self.frame.columns):
                table = take_columns(self.frame, names, self.name)
                words = f"columns {shortlist(names)} of {self.name}"
                yield Key(words, pd.MultiIndex.from_frame(table), f"{self.name}.set_index({names!r}, drop=False)")
            return
        if isinstance(self.index, pd.MultiIndex):
            for i, level in enumerate(self.index.names):
                values = self.index.get_level_values(i)
                words = f"level {str(level or i)!r} of the index of {self.name}"
                yield Key(words, values, f"{self.name}.set_axis({self.name}.index.get_level_values({level or i!r}))")
        if self.frame is None:
            return
        # Most columns are nobody's labels, and their first values say so.
        known = {*labels, *(str(label) for label in labels)}
        for name, times in Counter(self.frame.columns).items():
            if times > 1:
                continue
            values = self._column(name)
            if values.dtype.kind in "biu" and 2 * len(np.unique(values)) < min(len(labels), len(rows)):
                continue  # dosages, codes of a factor
            try:
                some = any(value in known or str(value) in known for value in values[rows[:20]])
            except TypeError:  # lists and other values that cannot be labels
                continue
            if some:
                key = pd.Index(values).infer_objects()
                what_to_write = f"{self.name}.set_index({name!r}, drop=False)"
                yield Key(f"column {str(name)!r} of {self.name}", key, what_to_write)

    def _column(self, name: Any) -> np.ndarray:
        one = self.frame if isinstance(self.frame, pd.DataFrame) else take_columns(self.frame, [name], self.name)
        return np.asarray(one[name])

    def _columns(self, labels: pd.Index, rows: np.ndarray) -> list[Reading]:
        readings = (_read(labels, key, rows) for key in self._keys(labels, rows))
        return [reading for reading in readings if reading is not None]

    def _settled(self, readings: list[Reading], size: int, what: str, rows: np.ndarray, repeats: bool) -> RowMatch:
        """The one answer of all places where the labels were found."""
        first = readings[0]
        for other in readings[1:]:
            if not np.array_equal(other.at, first.at):
                by_index = first.key.words == self._index.words
                raise DataError(
                    f"the row labels of {what} are found in {first.key.words} and in {other.key.words}, in different "
                    "orders, so it is unclear which says who the rows are. For the first write "
                    f"{f'{what}.loc[{self.name}.index]' if by_index else first.key.advice}, for the second "
                    f"{other.key.advice}."
                )
        if not repeats and not first.is_one_to_one:
            twice = first.key.values[rows][pd.Index(first.at).duplicated()].unique()
            raise DataError(
                f"{what} has one row for each label, but {first.key.words} has {shortlist(twice)} more than once. Give "
                f"{what} one row for each of the {len(self.index)} rows of {self.name}, in the same order and with the "
                "same index."
            )
        spare = f"; {first.n_spare} of its {size} rows are of nobody in {self.name} and left out" * bool(first.n_spare)
        if first.key.words != self._index.words:
            return RowMatch(first.at, f"rows of {what} were matched by label to {first.key.words}{spare}")
        if spare or not np.array_equal(first.at, rows):
            order = "" if np.array_equal(first.at, rows) else ", which is in another order"
            return RowMatch(first.at, f"rows of {what} were matched by label to {first.key.words}{order}{spare}")
        return RowMatch(first.at, None)

    def _repeated(self, labels: pd.Index, what: str, rows: np.ndarray) -> RowMatch:
        """Labels that come twice are only good for saying that two tables are in the same order."""
        for key in self._keys(labels, rows):
            if _equal(labels, key.values):
                return RowMatch(rows, f"rows of {what} were matched by label to {key.words}")
        twice = labels[labels.duplicated()].unique()
        raise DataError(
            f"row labels of {what} repeat ({shortlist(twice)}), and are not those of {self.name} row by row (compared "
            f"with {self._compared(labels)}), so its rows cannot be told apart. Give it different labels, or the "
            f"same index as {self.name}."
        )

    def _compared(self, labels: pd.Index) -> str:
        """Everything the labels were held against."""
        index = f"{self._index.words} ({shortlist(self.index, 3)})"
        if self.frame is None or isinstance(labels, pd.MultiIndex):
            return index
        return f"{index} and the columns {shortlist(list(self.frame.columns), 8)}"

    def _unmatched(
        self,
        labels: pd.Index,
        own: Reading | None,
        columns: list[Reading],
        what: str,
        rows: np.ndarray,
        by_position: str | None,
    ) -> DataError:
        """The error for labels that are not found: what was compared, what comes closest, what to do."""
        message = f"row labels of {what} ({shortlist(labels, 3)}) were compared with {self._compared(labels)}; "
        order = by_position or f"{what}.reset_index(drop=True)"
        # only tables of the same length can be in the same order
        same = len(labels) == len(self.index)
        in_order = f" If row i of {what} is row i of {self.name}, write {order}." * same
        readings = [reading for reading in (own, *columns) if reading is not None and (reading.at >= 0).any()]
        if not readings:
            return DataError(
                f"{message}none has them. Make the ids the index of {self.name}, or a column of it.{in_order}"
            )
        # few values, such as 0 and 1, are found among many labels by chance
        best = max(readings, key=lambda reading: np.mean(reading.at >= 0) * (1.0 - reading.n_spare / len(labels)))
        if best.is_complete:
            return DataError(
                f"{message}all rows are found in {best.key.words}, but {best.n_spare} of the {len(labels)} labels are "
                f"not there, so it is not certain that it says who the rows are. If it does, write {best.key.advice}"
                f"{' = ids' if best.key.words == self._index.words else ''}, or leave the other rows of {what} "
                f"out.{in_order}"
            )
        absent = best.key.values[rows][best.at < 0]
        return DataError(
            f"{message}{best.key.words} comes closest, but {len(absent)} of {len(rows)} rows of {self.name} are not "
            f"among the {len(labels)} rows of {what}: {shortlist(absent)}. Add them to {what}, or drop them "
            f"from {self.name}.{in_order}"
        )


def counts_rows(index: pd.Index) -> bool:
    """Whether an index only counts, 0 .. n-1 in this order, as that of a frame without labels does.

    Parameters
    ----------
    index : Index
    """
    if isinstance(index, pd.RangeIndex):
        return index.start == 0 and index.step == 1
    return _is_whole(index) and np.array_equal(np.asarray(index), np.arange(len(index)))


def _is_whole(index: pd.Index) -> bool:
    return not isinstance(index, pd.MultiIndex) and types.is_integer_dtype(index.dtype)


def _equal(labels: pd.Index, values: pd.Index) -> bool:
    """Row by row."""
    if len(labels) != len(values) or labels.nlevels != values.nlevels:
        return False
    return labels.equals(values) or all(str(a) == str(b) for a, b in zip(labels, values, strict=True))


def _read(labels: pd.Index, key: Key, rows: np.ndarray) -> Reading | None:
    """Look labels up; None where they are of another kind."""
    if labels.nlevels != key.values.nlevels:
        return None
    everyone = Relmat(labels, None).positions(key.values)
    at = everyone[rows]
    n_spare = len(labels) - len(np.unique(everyone[everyone >= 0]))
    return Reading(key, at, bool((at >= 0).all()), n_spare)
