"""Several links in one model: which columns belong to which."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from ..design.row_labels import RowLabels
from ..errors import OptionError, shortlist
from ..options import shown
from .base import Link

# What users may write: a name or a link for all columns; {name or link: columns}; [(name or link, columns), ...].
Columns: TypeAlias = str | Sequence[str]
# The keys of a mapping are invariant to type checkers.
ByLink: TypeAlias = Mapping[str, Columns] | Mapping[Link, Columns] | Mapping[str | Link, Columns]
LinkChoice: TypeAlias = str | Link | ByLink | Sequence[tuple[str | Link, Columns]]


@dataclass(frozen=True)
class LinkedColumns:
    """A link and its data columns (none for a link that brings its own data)."""

    link: Link
    columns: tuple[str, ...]


def assign_links(choice: LinkChoice, columns: Sequence[str], known: Mapping[str, Any]) -> tuple[LinkedColumns, ...]:
    """Give every data column its link.

    Parameters
    ----------
    choice : str, Link, dict or list
        As in ``slam(link=)``.
    columns : sequence of str
        All data columns.
    known : mapping
        Name -> class of a link.

    Raises
    ------
    OptionError
        An unknown link, or columns that are unknown, twice, or left over.
    """
    if isinstance(choice, str | Link):
        return (LinkedColumns(_one(choice, known), tuple(columns)),)
    parts = []
    for link, of in _pairs(choice):
        names = tuple([of] if isinstance(of, str) else of)
        unknown = [name for name in names if name not in columns]
        if unknown:
            raise OptionError(f"link: no trait {shortlist(unknown)}. The traits are {shortlist(columns)}.")
        parts.append(LinkedColumns(_one(link, known), names))
    named = [name for part in parts for name in part.columns]
    twice = sorted({name for name in named if named.count(name) > 1})
    if twice:
        raise OptionError(f"link: {shortlist(twice)} have two links. Give each trait one.")
    left = [name for name in columns if name not in set(named)]
    if left:
        raise OptionError(f"link: {shortlist(left)} have no link. Add them, for example under 'gaussian'.")
    return tuple(parts)


def bind_links(choice: LinkChoice, frame: Any) -> tuple[LinkChoice, list[str]]:
    """Let every link have a look at the user's frame, and line its options up with the rows.

    Parameters
    ----------
    choice : str, Link, dict or list
        As in ``slam(link=)``.
    frame : DataFrame

    Returns
    -------
    str, Link, dict or list
        The same with links that know the frame.
    list of str
        How rows of options were matched, where that needs saying.

    Raises
    ------
    DataError
        Options whose row labels are not those of the frame.
    """
    if isinstance(choice, str):
        return choice, []
    whose = RowLabels.of(frame)
    if isinstance(choice, Link):
        return choice.bind(frame).line_up(whose)
    bound, notes = [], []
    for link, columns in _pairs(choice):
        if isinstance(link, Link):
            link, of_link = link.bind(frame).line_up(whose)
            notes += of_link
        bound.append((link, columns))
    return (dict(bound) if isinstance(choice, Mapping) else bound), notes


def kept_by_links(choice: LinkChoice) -> tuple[str, ...]:
    """What links want kept besides the default of ``store=``."""
    links = [choice] if isinstance(choice, str | Link) else [link for link, _ in _pairs(choice)]
    return tuple(dict.fromkeys(name for link in links if isinstance(link, Link) for name in link.keeps))


def _pairs(choice: Any) -> list[tuple[Any, Any]]:
    _refuse_class(choice)
    pairs = list(choice.items()) if isinstance(choice, Mapping) else choice
    if not isinstance(pairs, Sequence) or not pairs or any(not _is_pair(pair) for pair in pairs):
        raise OptionError(
            f"link={shown(choice)}: expected a name, a link, a dict {{name: columns}} or a list of (link, columns)."
        )
    return list(pairs)


def _refuse_class(link: Any) -> None:
    if isinstance(link, type) and issubclass(link, Link):
        raise OptionError(
            f"link={link.__name__}: expected a name or a link, got the class itself. Write "
            f"link=slamglmm.links.{link.example or f'{link.__name__}()'}."
        )


def _is_pair(item: Any) -> bool:
    return isinstance(item, tuple) and len(item) == 2


def _one(link: str | Link, known: Mapping[str, Any]) -> Link:
    if isinstance(link, Link):
        return link
    _refuse_class(link)
    if not isinstance(link, str) or link not in known:
        raise OptionError(f"link={shown(link)}: unknown link. Choose one of {', '.join(map(repr, known))}.")
    if known[link].example:
        raise OptionError(f"link={link!r} needs options: write link=slamglmm.links.{known[link].example}.")
    return known[link]()
