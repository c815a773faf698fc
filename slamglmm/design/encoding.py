"""Formulaic at work: formula text to terms, terms to columns, and the same columns for new rows."""

from __future__ import annotations

import ast
import builtins
import difflib
import re
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from formulaic import Formula, SimpleFormula
from formulaic.errors import DataMismatchWarning, FormulaicError
from formulaic.parser import DefaultFormulaParser
from formulaic.parser.types import Factor, Term
from formulaic.transforms import TRANSFORMS, C, ContrastsRegistry

from ..errors import DataError, FormulaError, OptionError, shortlist
from ..options import shown
from .bars import Piece, formula_error
from .bases import bs_diff

# Names R users write and formulaic does not know.
OUR_FUNCTIONS: dict[str, Any] = {"factor": C, "as_factor": C, "sqrt": np.sqrt, "bs_diff": bs_diff}
REPLACEMENTS = {"ns": "cr(x, df=...)", "ordered": "contrasts={...: 'poly'}", "relevel": "C(f, contr.treatment(...))"}
CONTRASTS = {
    "poly": ContrastsRegistry.poly,
    "sum": ContrastsRegistry.sum,
    "treatment": ContrastsRegistry.treatment,
    "helmert": ContrastsRegistry.helmert,
}


@dataclass(frozen=True, eq=False)
class Encoding:
    """How one side of a bar, or of the formula, becomes columns.

    Attributes
    ----------
    spec : formulaic.ModelSpec
        Terms with the state of their transforms and contrasts.
    names : tuple of str
        Names of the columns.
    needed : tuple of str
        Columns of the frame that are read.
    """

    spec: Any
    names: tuple[str, ...]
    needed: tuple[str, ...]


# -- from text to terms ------------------------------------------------------------------------------


def read_terms(text: str, formula: str) -> list[Term]:
    """Terms of a one-sided formula, with the implicit intercept.

    Parameters
    ----------
    text : str
        In the positions it has within `formula`.
    formula : str
        The whole, for messages.

    Returns
    -------
    list of formulaic.parser.types.Term

    Raises
    ------
    FormulaError
    """
    return _parse(text, formula, DefaultFormulaParser(feature_flags=set()))


def read_group(text: str, formula: str) -> list[Term]:
    """Terms of a grouping expression in the order written: ``a/b`` is a, a:b."""
    parser = DefaultFormulaParser(include_intercept=False, feature_flags=set())
    return _parse(text, formula, parser, ordering="none")


def _parse(text: str, formula: str, parser: DefaultFormulaParser, ordering: str = "degree") -> list[Term]:
    try:
        return list(Formula(text, _parser=parser, _ordering=ordering))
    except FormulaicError as error:
        raise formula_error(error, formula) from None
    except SyntaxError:
        raise FormulaError("this is not a Python expression", formula, len(text) - len(text.lstrip())) from None


def expression_term(piece: Piece, formula: str) -> Term:
    """Make one Python expression, such as ``log(y)``, a term of its own."""
    text = piece.text.strip()
    bare = text[1:-1] if text[0] == "{" else text
    try:
        ast.parse(_placeholders(bare).strip(), mode="eval")
    except SyntaxError:
        message = f"{bare.strip()!r} is not a Python expression"
        raise FormulaError(message, formula, piece.start, piece.stop - piece.start) from None
    return Term([Factor(bare.strip(), eval_method="python")])


# -- which columns the terms read --------------------------------------------------------------------


def needed_columns(
    terms: Iterable[Term], columns: Sequence[str], context: Mapping[str, Any], formula: str, start: int = 0
) -> list[str]:
    """Columns of the frame that these terms read, in order of appearance.

    Parameters
    ----------
    terms : iterable of Term
    columns : sequence of str
        All columns of the frame.
    context : mapping
        Names the user gave beside the frame.
    formula : str
    start : int
        Position in the formula from which a name is searched for the caret.

    Returns
    -------
    list of str

    Raises
    ------
    FormulaError
        For a name that is neither a column nor anything known, with a caret under it.
    """
    known = set(columns)
    out: dict[str, None] = {}
    for term in terms:
        for factor in term.factors:
            token_start = factor.token.source_start if factor.token is not None else None
            at = start if token_start is None else token_start
            if factor.eval_method is Factor.EvalMethod.LOOKUP:
                _require(factor.expr, known, formula, at)
                out[factor.expr] = None
            elif factor.eval_method is Factor.EvalMethod.PYTHON:
                out |= dict.fromkeys(_names_in_expression(factor.expr, known, context, formula, at))
    return list(out)


def _names_in_expression(
    expression: str, known: set[str], context: Mapping[str, Any], formula: str, at: int
) -> list[str]:
    quoted = re.findall("`([^`]+)`", expression)
    for name in quoted:
        _require(name, known, formula, at)
    try:
        tree = ast.parse(_placeholders(expression), mode="eval")
    except SyntaxError:
        raise FormulaError(f"{expression!r} is not a Python expression", formula, at, len(expression)) from None
    called = {id(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
    roots = {id(node.value): node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    out = list(quoted)
    for node in ast.walk(tree):
        if not isinstance(node, ast.Name) or node.id.startswith("_quoted_"):
            continue
        name = node.id
        elsewhere = name in context or name in OUR_FUNCTIONS or name in TRANSFORMS or hasattr(builtins, name)
        if elsewhere and (id(node) in called or id(node) in roots or name not in known):
            continue
        if id(node) in called:
            hint = f"; write {REPLACEMENTS[name]}" if name in REPLACEMENTS else "; give it as context={...}"
            raise FormulaError(f"unknown function '{name}'{hint}", formula, *_place(name, formula, at))
        dotted = f"{name}.{roots.get(id(node), '')}"
        if name not in known and dotted in known:
            message = f"inside a call, quote a name with a dot: `{dotted}`"
            raise FormulaError(message, formula, *_place(dotted, formula, at))
        _require(name, known, formula, at)
        out.append(name)
    return out


def _placeholders(expression: str) -> str:
    return re.sub("`[^`]+`", "_quoted_", expression)


def _require(name: str, known: set[str], formula: str, at: int) -> None:
    if name in known:
        return
    close = difflib.get_close_matches(name, known, n=1)
    hint = f"; did you mean '{close[0]}'?" if close else f"; the columns are {shortlist(sorted(known), 8)}"
    raise FormulaError(f"unknown column '{name}'{hint}", formula, *_place(name, formula, at))


def _place(name: str, formula: str, at: int) -> tuple[int | None, int]:
    found = re.compile(rf"(?<![\w.]){re.escape(name)}(?![\w.])").search(formula, at)
    return (found.start(), len(name)) if found else (None, 1)


# -- contrasts -----------------------------------------------------------------------------------------


def read_contrasts(contrasts: Mapping[str, Any] | None, used: Iterable[str]) -> dict[str, Any]:
    """Column -> formulaic contrasts.

    Parameters
    ----------
    contrasts : mapping or None
        Column -> ``"poly"``, ``"sum"``, ``"treatment"``, ``"helmert"`` or a formulaic contrasts object.
    used : iterable of str
        Columns that the formula reads.

    Returns
    -------
    dict

    Raises
    ------
    OptionError
        For an unknown name, or a column that the formula does not use.
    """
    if contrasts is not None and not isinstance(contrasts, Mapping):
        raise OptionError(
            f"contrasts={shown(contrasts)}: expected a dict from columns to 'poly', 'sum', 'treatment' or 'helmert', "
            "such as {'diet': 'sum'}."
        )
    out, used = {}, set(used)
    for column, value in (contrasts or {}).items():
        if column not in used:
            raise OptionError(f"contrasts names '{column}', which is not among the predictors {shortlist(used)}.")
        if isinstance(value, str) and value not in CONTRASTS:
            raise OptionError(
                f"contrasts for '{column}' must be one of {shortlist(CONTRASTS)} or a formulaic object, got {value!r}."
            )
        out[column] = CONTRASTS[value] if isinstance(value, str) else value
    return out


def _with_contrasts(terms: Iterable[Term], contrasts: Mapping[str, Any]) -> list[Term]:
    # Only a call can carry contrasts, and a call cannot name every column (`my var`), hence the aliases.
    calls = {column: f"C(_column_{i}, _contrasts_{i})" for i, column in enumerate(contrasts)}

    def coded(factor: Factor) -> Factor:
        if factor.eval_method is Factor.EvalMethod.LOOKUP and factor.expr in calls:
            return Factor(calls[factor.expr], eval_method="python", token=factor.token)
        return factor

    return [Term([coded(factor) for factor in term.factors]) for term in terms]


def _aliased(frame: pd.DataFrame, contrasts: Mapping[str, Any]) -> pd.DataFrame:
    here = {f"_column_{i}": frame[column] for i, column in enumerate(contrasts) if column in frame.columns}
    return frame.assign(**here) if here else frame


def _namespace(context: Mapping[str, Any], contrasts: Mapping[str, Any]) -> dict[str, Any]:
    return OUR_FUNCTIONS | dict(context) | {f"_contrasts_{i}": value for i, value in enumerate(contrasts.values())}


# -- from terms to columns -----------------------------------------------------------------------------


def encode(
    terms: Sequence[Term],
    frame: pd.DataFrame,
    needed: Sequence[str],
    formula: str,
    contrasts: Mapping[str, Any],
    context: Mapping[str, Any],
) -> tuple[np.ndarray, Encoding]:
    """Columns of the terms, and what is needed to make them again.

    Parameters
    ----------
    terms : sequence of Term
    frame : pandas.DataFrame, n rows
        Without missing values in the columns the terms read.
    needed : sequence of str
        The columns they read.
    formula : str
    contrasts, context : mapping

    Returns
    -------
    numpy.ndarray (n x columns, float64, C order), Encoding

    Raises
    ------
    FormulaError
        When an expression cannot be evaluated.
    DataError
        When a column is not numeric or not finite after evaluation.
    """
    spec = SimpleFormula(_with_contrasts(terms, contrasts), _ordering="none")
    matrix = _materialise(spec, frame, formula, contrasts, context)
    names = tuple(_plain_name(name, contrasts) for name in matrix.model_spec.column_names)
    values = _float_matrix(matrix, names, len(frame))
    require_finite(values, names, frame.index)
    return values, Encoding(matrix.model_spec, names, tuple(needed))


def encode_again(
    encoding: Encoding, frame: pd.DataFrame, formula: str, contrasts: Mapping[str, Any], context: Mapping[str, Any]
) -> np.ndarray:
    """Columns of new rows by the state of an `Encoding`; see `encode` for shapes and errors."""
    matrix = _materialise(encoding.spec, frame, formula, contrasts, context)
    values = _float_matrix(matrix, encoding.names, len(frame))
    require_finite(values, encoding.names, frame.index)
    return values


def _materialise(
    spec: Any, frame: pd.DataFrame, formula: str, contrasts: Mapping[str, Any], context: Mapping[str, Any]
) -> Any:
    try:
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("error", DataMismatchWarning)
            warnings.filterwarnings("ignore", category=RuntimeWarning)  # log(-1): the check below names the row
            return spec.get_model_matrix(
                _aliased(frame, contrasts),
                context=_namespace(context, contrasts),
                na_action="ignore",
                output="numpy",
            )
    except DataMismatchWarning as error:
        raise DataError(f"unseen categories in a fixed effect. {error}") from None
    except FormulaicError as error:
        raise _evaluation_error(error, spec, formula) from None
    except (ValueError, TypeError, KeyError, IndexError, np.linalg.LinAlgError) as error:
        raise DataError(f"the terms of '{formula}' cannot be computed: {error}") from error


def _evaluation_error(error: FormulaicError, spec: Any, formula: str) -> FormulaError:
    message = str(error)
    for factor in {factor for term in getattr(spec, "formula", spec) for factor in term.factors}:
        if factor.token is not None and f"`{factor}`" in message and factor.token.source_start is not None:
            start, stop = factor.token.source_start, factor.token.source_end or factor.token.source_start
            return FormulaError(message, formula, start, stop - start + 1)
    return FormulaError(message, formula)


def _plain_name(name: str, contrasts: Mapping[str, Any]) -> str:
    for i, column in enumerate(contrasts):
        name = name.replace(f"C(_column_{i}, _contrasts_{i})", column)
    return name


def _float_matrix(matrix: Any, names: tuple[str, ...], n: int) -> np.ndarray:
    if not names:
        return np.empty((n, 0))
    try:
        return np.array(matrix, dtype=np.float64, order="C")
    except (TypeError, ValueError) as error:
        raise DataError(f"columns {shortlist(names)} are not numeric: {error}") from None


def require_finite(values: np.ndarray, names: Sequence[str], index: pd.Index) -> None:
    """Refuse NaN and Inf, naming column and row.

    Parameters
    ----------
    values : numpy.ndarray, n x c
    names : sequence of str, length c
    index : pandas.Index, length n

    Raises
    ------
    DataError
    """
    bad = ~np.isfinite(values)
    if not bad.any():
        return
    column = int(np.argmax(bad.any(axis=0)))
    row = int(np.argmax(bad[:, column]))
    raise DataError(
        f"'{names[column]}' is not finite in {int(bad[:, column].sum())} of {len(values)} rows (first: row "
        f"{str(index[row])!r}, value {values[row, column]}). Correct them, set them to NaN in the data so that these "
        "rows are dropped, or use another transform."
    )
