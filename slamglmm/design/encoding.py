"""Formulaic at work: formula text to terms, terms to columns, and the same columns for new rows."""

from __future__ import annotations

import ast
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

from ..errors import DataError, FormulaError, OptionError, SlamError, clip, shortlist
from ..options import shown
from .algebra import formula_parser, refuse_wide
from .bars import Piece, formula_error
from .columns import is_number
from .expressions import Scope, columns_of, over_rows, parse
from .functions import BASES, CONTRASTS, FACTORS, OUR_FUNCTIONS, TYPES, contrasts_called
from .materializer import CheckedMaterializer


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
    return _parse(text, formula, formula_parser())


def read_group(text: str, formula: str) -> list[Term]:
    """Terms of a grouping expression in the order written: ``a/b`` is a, a:b."""
    return _parse(text, formula, formula_parser(include_intercept=False), ordering="none")


def _parse(text: str, formula: str, parser: DefaultFormulaParser, ordering: str = "degree") -> list[Term]:
    start = len(text) - len(text.lstrip())  # formulaic reads every character, blanks too: many bars would be slow
    try:
        terms = list(Formula(text[start:], _parser=parser, _ordering=ordering))
    except FormulaicError as error:
        raise formula_error(error, formula, start) from None
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        raise FormulaError("this is not a Python expression", formula, start) from None
    tokens = {id(factor.token): factor.token for term in terms for factor in term.factors if factor.token is not None}
    for token in tokens.values():
        if token.source_start is not None and token.source_end is not None:
            token.source_start, token.source_end = token.source_start + start, token.source_end + start
    return terms


def expression_term(piece: Piece, formula: str) -> Term:
    """Make one Python expression, such as ``log(y)``, a term of its own."""
    text = piece.text.strip()
    bare = text[1:-1] if text[0] == "{" else text
    if parse(bare.strip()) is None:
        message = f"{clip(bare.strip())!r} is not a Python expression that can be read"
        raise FormulaError(message, formula, piece.start, piece.stop - piece.start)
    return Term([Factor(bare.strip(), eval_method="python")])


# -- which columns the terms read --------------------------------------------------------------------


def needed_columns(terms: Iterable[Term], scope: Scope, start: int = 0) -> list[str]:
    """Columns of the frame that these terms read, in order of appearance, once their expressions are checked.

    Parameters
    ----------
    terms : iterable of Term
    scope : Scope
        What the names can mean.
    start : int
        Position in the formula from which a name is searched for the caret.

    Returns
    -------
    list of str

    Raises
    ------
    FormulaError
        For a name that is neither a column nor anything known, with a caret under it, and for an expression that
        a formula cannot hold.
    """
    out: dict[str, None] = {}
    for term in terms:
        for factor in term.factors:
            token_start = factor.token.source_start if factor.token is not None else None
            at = start if token_start is None else token_start
            if factor.eval_method is Factor.EvalMethod.LOOKUP:
                scope.require(factor.expr, at)
                out[factor.expr] = None
            elif factor.eval_method is Factor.EvalMethod.PYTHON:
                out |= dict.fromkeys(columns_of(factor.expr, scope, at))
    return list(out)


# -- contrasts -----------------------------------------------------------------------------------------


def read_contrasts(contrasts: Mapping[str, Any] | None, used: Iterable[str]) -> dict[str, Any]:
    """Column -> formulaic contrasts.

    Parameters
    ----------
    contrasts : mapping or None
        Column -> ``"poly"``, ``"sum"``, ``"treatment"``, ``"helmert"`` (also as ``"contr.sum"``) or a formulaic
        contrasts object.
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
        named = contrasts_called(value) if isinstance(value, str) else value
        if named is None:
            raise OptionError(
                f"contrasts for '{column}' must be one of {shortlist(CONTRASTS)} or a formulaic object, got {value!r}."
            )
        out[column] = named
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
    given = {name: _without_python_integers(value) for name, value in context.items()}
    return TYPES | OUR_FUNCTIONS | given | {f"_contrasts_{i}": value for i, value in enumerate(contrasts.values())}


def _without_python_integers(value: Any) -> Any:
    """Numbers of the context as numpy's: a formula could raise Python's own to powers without end."""
    return np.int64(value) if type(value) is int and abs(value) < 2**63 else value


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
    refuse_wide(terms, lambda factor: _width(factor, frame, context), formula)
    spec = SimpleFormula(_with_contrasts(terms, contrasts), _ordering="none")
    matrix = _materialise(spec, frame, formula, contrasts, context)
    names = tuple(_plain_name(name, contrasts) for name in matrix.model_spec.column_names)
    values = _float_matrix(matrix, names, len(frame))
    require_finite(values, names, frame.index)
    return values, Encoding(matrix.model_spec, names, tuple(needed))


def _width(factor: Factor, frame: pd.DataFrame, context: Mapping[str, Any]) -> tuple[int, bool]:
    """Levels of a factor and True, or columns of anything else and False, before it is evaluated."""
    if factor.eval_method is Factor.EvalMethod.LOOKUP:
        column = frame[factor.expr]
        return (1, False) if is_number(column.dtype) else (column.nunique(), True)
    parsed = parse(factor.expr) if factor.eval_method is Factor.EvalMethod.PYTHON else None
    if parsed is None or not isinstance(parsed[0].body, ast.Call) or not isinstance(parsed[0].body.func, ast.Name):
        return 1, False
    call, aliases = parsed[0].body, parsed[1]
    function, arguments = parsed[0].body.func.id, [*call.args, *(keyword.value for keyword in call.keywords)]
    if function in context:
        return 1, False
    if function in FACTORS and call.args:
        first = call.args[0]
        name = aliases.get(first.id, first.id) if isinstance(first, ast.Name) else None
        return (frame[name].nunique() if name in frame.columns else len(frame), True)
    if function in BASES:
        numbers = [argument.value for argument in arguments if isinstance(argument, ast.Constant)]
        return max((value for value in numbers if type(value) is int), default=1), function == "hashed"
    return 1, False


def encode_again(
    encoding: Encoding, frame: pd.DataFrame, formula: str, contrasts: Mapping[str, Any], context: Mapping[str, Any]
) -> np.ndarray:
    """Columns of new rows by the state of an `Encoding`; see `encode` for shapes and errors.

    A value taken over all rows, as by ``mean(x)``, would be that of the new rows: such terms are refused.
    """
    for term in encoding.spec.formula:
        for factor in term.factors:
            name = over_rows(factor.expr) if factor.eval_method is Factor.EvalMethod.PYTHON else None
            if name is not None:
                raise DataError(
                    f"'{clip(factor.expr)}' takes {name}() over all rows, and over new rows that is another number "
                    "than in the fit. Write center(x) or scale(x), which keep theirs, or make it a column of the data."
                )
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
                materializer=CheckedMaterializer.REGISTER_NAME,
            )
    except DataMismatchWarning as error:
        raise DataError(f"unseen categories in a fixed effect. {error}") from None
    except FormulaicError as error:
        raise _evaluation_error(error, spec, formula) from None
    except SlamError:
        raise
    except Exception as error:  # whatever the functions of a formula raise
        cause = clip(str(error) or type(error).__name__, 300)
        raise DataError(f"the terms of '{clip(formula)}' cannot be computed: {cause}") from error


def _evaluation_error(error: FormulaicError, spec: Any, formula: str) -> FormulaError:
    cause = error.__cause__
    message = clip(str(cause) if isinstance(cause, SlamError) else str(error), 300)
    for factor in {factor for term in getattr(spec, "formula", spec) for factor in term.factors}:
        if factor.token is not None and f"`{factor}`" in str(error) and factor.token.source_start is not None:
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
        raise DataError(f"columns {shortlist(names)} are not numeric: {clip(str(error))}") from None


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
        f"'{clip(names[column])}' is not finite in {int(bad[:, column].sum())} of {len(values)} rows (first: row "
        f"{str(index[row])!r}, value {values[row, column]}). Correct them, set them to NaN in the data so that these "
        "rows are dropped, or use another transform."
    )
