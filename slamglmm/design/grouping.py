"""The right side of a bar: which columns group the rows, their levels, and the relationship matrix of the levels."""

from __future__ import annotations

import ast
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from formulaic.parser.types import Factor, Term

from ..errors import DataError, FormulaError, OptionError, RelmatError, clip, shortlist
from ..options import by_group
from ..relmat import Relmat, as_relmat
from .bars import Bar
from .encoding import read_group
from .expressions import STRUCTURES, STRUCTURES_ADVICE, Scope, parse

# Calls that say "these are labels", which a grouping column is anyway.
LABEL_CALLS = frozenset(["factor", "as_factor", "C"])


@dataclass(frozen=True)
class Group:
    """One grouping factor.

    Attributes
    ----------
    name : str
        ``"a"`` or ``"a:b"``.
    columns : tuple of str
    cov : str or None
        Key of a relationship matrix given as ``gr(id, cov="D")``.
    """

    name: str
    columns: tuple[str, ...]
    cov: str | None = None


def groups_of(bar: Bar, scope: Scope) -> list[Group]:
    """Grouping factors of one bar: one, or several for ``a/b`` and ``a*b``.

    Parameters
    ----------
    bar : Bar
    scope : Scope
        Columns of the frame, and the formula.

    Returns
    -------
    list of Group

    Raises
    ------
    FormulaError
        For an unknown column or an expression that is no grouping factor.
    """
    formula = scope.formula
    for position, char in enumerate(bar.group.text):
        if char == "+":
            raise FormulaError("right of the bar use a:b or a/b, or two random terms", formula, position)
    terms = read_group(bar.group.text, formula)
    place = (bar.group.start, bar.group.stop - bar.group.start)
    if not terms:
        raise FormulaError("a grouping column is missing right of the bar", formula, *place)
    return [_group(term, scope, place) for term in terms]


def _group(term: Term, scope: Scope, place: tuple[int, int]) -> Group:
    formula = scope.formula
    names: list[str] = []
    cov = None
    for factor in term.factors:
        if factor.eval_method is Factor.EvalMethod.LOOKUP:
            name = factor.expr
        elif factor.eval_method is Factor.EvalMethod.PYTHON:
            name, cov = _call(factor, formula, place)
            if cov is not None and len(term.factors) > 1:
                raise FormulaError("gr(...) stands alone right of the bar", formula, *place)
        else:
            raise FormulaError(f"'{factor.expr}' is not a grouping column", formula, *place)
        scope.require(name, place[0])
        names.append(name)
    return Group(":".join(names), tuple(names), cov)


def _call(factor: Factor, formula: str, place: tuple[int, int]) -> tuple[str, str | None]:
    advice = (
        f"'{clip(factor.expr)}' is not a grouping factor: columns, a:b, a/b, factor(a) and gr(id, cov='D') are. "
        "Make a column of it first"
    )
    parsed = parse(factor.expr)
    if parsed is None:
        raise FormulaError(advice, formula, *place)
    call = parsed[0].body
    if not (isinstance(call, ast.Call) and isinstance(call.func, ast.Name)):
        raise FormulaError(advice, formula, *place)
    if call.func.id in STRUCTURES:
        raise FormulaError(f"structured covariances such as {call.func.id}(...) {STRUCTURES_ADVICE}", formula, *place)
    if len(call.args) != 1 or not isinstance(call.args[0], ast.Name):
        raise FormulaError(advice, formula, *place)
    name = parsed[1].get(call.args[0].id, call.args[0].id)
    if call.func.id in LABEL_CALLS and not call.keywords:
        return name, None
    if call.func.id != "gr":
        raise FormulaError(advice, formula, *place)
    options = {keyword.arg: keyword.value for keyword in call.keywords}
    cov = options.pop("cov", None)
    if options:
        raise FormulaError(f"gr() knows the option cov=, not {shortlist(map(str, options))}", formula, *place)
    if isinstance(cov, ast.Name):
        return name, cov.id
    if isinstance(cov, ast.Constant) and isinstance(cov.value, str):
        return name, cov.value
    raise FormulaError("gr() names a relationship matrix: gr(id, cov='D')", formula, *place)


# -- levels and codes ----------------------------------------------------------------------------------


def levels_and_codes(frame: pd.DataFrame, columns: Sequence[str]) -> tuple[pd.Index, np.ndarray]:
    """Observed levels of a grouping factor and the level of each row.

    Parameters
    ----------
    frame : pandas.DataFrame, n rows
        Without missing values in `columns`.
    columns : sequence of str
        One column, or several for their observed combinations.

    Returns
    -------
    levels : pandas.Index
        Categories in their order, else sorted; combinations are labelled ``"a1:b1"``.
    codes : numpy.ndarray of intp, length n
    """
    levels, codes = _single(frame[columns[0]])
    for column in columns[1:]:
        more_levels, more_codes = _single(frame[column])
        codes, pairs = pd.factorize(codes.astype(np.int64) * len(more_levels) + more_codes, sort=True)
        first, second = np.divmod(pairs, max(1, len(more_levels)))
        left, right = _text(levels[first]), _text(more_levels[second])
        levels = pd.Index([f"{a}:{b}" for a, b in zip(left, right, strict=True)])
        if not levels.is_unique:
            twice = shortlist(levels[levels.duplicated()])
            raise DataError(f"levels of {':'.join(columns)} are ambiguous: {twice}. Take the ':' out of the labels.")
    return levels, codes.astype(np.intp, copy=False)


def _single(column: pd.Series) -> tuple[pd.Index, np.ndarray]:
    if isinstance(column.dtype, pd.CategoricalDtype):
        return column.cat.categories, np.asarray(column.cat.codes)
    if column.dtype.kind == "c":
        raise DataError(f"grouping column '{column.name}' is complex: make its levels words or whole numbers.")
    codes, levels = pd.factorize(_whole(column), sort=True)
    return pd.Index(levels), codes


def _whole(column: pd.Series) -> pd.Series:
    """Ids that became floats because some were missing are whole numbers again."""
    if column.dtype.kind == "f" and len(column) and (column == np.floor(column)).all() and np.isfinite(column).all():
        return column.astype(np.int64)
    return column


def _text(labels: pd.Index) -> list[str]:
    return [str(label) for label in labels]


def codes_in(frame: pd.DataFrame, columns: Sequence[str], levels: pd.Index) -> tuple[np.ndarray, pd.Index]:
    """Position of each new row among known levels.

    Parameters
    ----------
    frame : pandas.DataFrame, n rows
    columns : sequence of str
    levels : pandas.Index
        Of the design.

    Returns
    -------
    codes : numpy.ndarray of intp, length n
        -1 where the level is unknown.
    unseen : pandas.Index
        The unknown levels.
    """
    here, codes = levels_and_codes(frame, columns)
    where = Relmat(levels, None).positions(here)  # the one rule by which labels meet
    return where[codes], here[where < 0]


# -- relationship matrices -----------------------------------------------------------------------------


def read_relmats(relmat: Mapping[str, Any] | None, groups: Sequence[Group]) -> dict[str, Relmat]:
    """Check the ``relmat=`` argument against the grouping factors.

    Parameters
    ----------
    relmat : mapping or None
        Grouping factor (or the name used in ``gr(id, cov=...)``) -> matrix.
    groups : sequence of Group
        Of all random terms.

    Returns
    -------
    dict
        Key -> `Relmat`.

    Raises
    ------
    OptionError
        For a key that no random term uses, or a ``cov`` without a matrix.
    RelmatError
        For a matrix that cannot be used.
    """
    given = by_group("relmat", relmat, "matrix")
    wanted = {group.cov or group.name for group in groups}
    spare = [key for key in given if key not in wanted]
    if spare:
        names = shortlist(dict.fromkeys(group.name for group in groups)) or "none"
        covs = shortlist(dict.fromkeys(group.cov for group in groups if group.cov is not None))
        asked = f" and ask for the matrix {covs}" if covs else ""
        raise OptionError(f"relmat has {shortlist(spare)}, but the random terms group by {names}{asked}.")
    absent = [group.cov for group in groups if group.cov is not None and group.cov not in given]
    if absent:
        raise OptionError(
            f"the formula asks for the matrix {shortlist(absent)}, relmat has {shortlist(given) or 'none'}. "
            "Give relmat={name: matrix}."
        )
    return {key: as_relmat(value, name=key) for key, value in given.items()}


def align(
    relmat: Relmat | None, group: str, levels: pd.Index, codes: np.ndarray
) -> tuple[pd.Index, np.ndarray, np.ndarray]:
    """Levels and codes of a term once its relationship matrix is known.

    All labels of the matrix become levels, so that individuals without records get effects too.

    Parameters
    ----------
    relmat : Relmat or None
    group : str
        For the message.
    levels : pandas.Index
        Observed in the data.
    codes : numpy.ndarray of intp, length n

    Returns
    -------
    levels : pandas.Index, length r
    codes : numpy.ndarray of intp, length n
    has_records : numpy.ndarray of bool, length r

    Raises
    ------
    RelmatError
        When the matrix lacks an observed level.
    """
    if relmat is None:
        return levels, codes, np.ones(len(levels), dtype=bool)
    where = relmat.positions(levels)
    absent = levels[where < 0]
    if len(absent):
        raise RelmatError(
            f"relmat for group '{group}' lacks {len(absent)} of {len(levels)} levels (first: {shortlist(absent)}). "
            "Add them or drop these rows."
        )
    has_records = np.zeros(len(relmat.labels), dtype=bool)
    has_records[where] = True
    return relmat.labels, where[codes], has_records
