"""Formula and frame to `Design`, and new rows to a `Design` with the same encoding."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
from formulaic.parser.types import Factor, Term

from ..errors import DataError, DroppedRowsWarning, FormulaError, OptionError, clip, shortlist, warn
from ..relmat import Relmat
from .algebra import MOST_TERMS
from .bars import MOST_RANDOM_TERMS, Bar, SplitFormula, split_formula
from .columns import (
    as_fitted,
    column_names,
    kinds_of,
    missing_rows,
    numbers_of,
    open_frame,
    row_labels,
    take_columns,
    tidy,
)
from .design import Design, RandomTerm, Recipe
from .encoding import encode, encode_again, expression_term, needed_columns, read_contrasts, read_terms
from .expressions import Scope
from .grouping import Group, align, codes_in, groups_of, levels_and_codes, read_relmats
from .responses import aligned_vector, from_formula, from_table, refuse_empty_traits
from .row_labels import RowLabels


@dataclass(frozen=True)
class Component:
    """A random term after ``a/b`` and ``||`` are expanded: what becomes one `RandomTerm`."""

    terms: list[Term]
    group: Group
    bar: Bar


def build_design(
    formula: str,
    data: Any,
    *,
    Y: Any = None,
    relmat: Mapping[str, Any] | None = None,
    missing: str = "keep",
    contrasts: Mapping[str, Any] | None = None,
    context: Mapping[str, Any] | None = None,
    weights: Any = None,
) -> Design:
    """Make a `Design`; see `slamglmm.design` for the arguments and errors."""
    if not isinstance(missing, str) or missing not in ("keep", "drop", "drop_empty"):
        raise OptionError(f"missing must be 'keep', 'drop' or 'drop_empty', got {missing!r}.")
    if context is not None and not isinstance(context, Mapping):
        raise OptionError(f"context must be a dict of names, got {type(context).__name__}.")
    context = dict(context or {})
    parts = split_formula(formula)
    formula = parts.formula
    if Y is not None and parts.responses:
        first = parts.responses[0].piece
        raise FormulaError(
            "responses are given twice: left of '~' and as Y=", formula, first.start, first.stop - first.start
        )
    opened = open_frame(data)
    names, holds_words = column_names(opened)
    scope = Scope(frozenset(names), context, formula, holds_words)
    index = row_labels(opened)
    if not len(index):
        raise DataError("data has no rows.")

    # which columns does each part read
    def reads(terms: Sequence[Term], start: int = 0) -> list[str]:
        return needed_columns(terms, scope, start)

    fixed_terms = read_terms(parts.fixed, formula)
    offset_terms = [expression_term(piece, formula) for piece in parts.offsets]
    components = _components(parts, scope)
    fixed_reads = reads(fixed_terms)
    offset_reads = [reads([term], piece.start) for term, piece in zip(offset_terms, parts.offsets, strict=True)]
    effect_reads = [reads(component.terms, component.bar.start) for component in components]
    response_reads = _response_reads(parts, reads)
    predictors = _unique(fixed_reads, *offset_reads, *effect_reads)
    group_columns = _unique(*(component.group.columns for component in components))
    _refuse_response_on_the_right(parts, predictors + group_columns, [*fixed_terms, *offset_terms], components)
    coded = read_contrasts(contrasts, _unique(fixed_reads, *effect_reads))
    relmats = read_relmats(relmat, [component.group for component in components])
    _refuse_repeats(components, relmats, formula)

    # which rows are kept
    frame = take_columns(opened, _unique(predictors, group_columns))
    whose = RowLabels(index, opened)
    table, note_on_Y = (None, None) if Y is None else from_table(Y, whose)
    weight, note_on_weights = _read_weights(weights, opened, whose)
    to_check: dict[str, Any] = {str(name): column for name, column in frame.items()}
    if weight is not None:
        to_check.setdefault(weights if isinstance(weights, str) else "weights", weight)
    dropped, because = missing_rows(to_check, len(index))
    rows = np.flatnonzero(~dropped)
    if parts.responses:
        kept = _kept(take_columns(opened, _unique(*response_reads)), rows)
        part = from_formula(parts.responses, response_reads, kept, formula, context)
    else:
        part = None if table is None else _kept(table, rows)
    if part is not None and missing != "keep":
        unknown = np.isnan(part.to_numpy())
        gone = unknown.any(axis=1) if missing == "drop" else unknown.all(axis=1)
        counts = unknown[gone].sum(axis=0)
        for j in np.flatnonzero(counts):
            name = str(part.columns[j])
            because[name] = because.get(name, 0) + int(counts[j])
        rows, part = rows[~gone], _kept(part, np.flatnonzero(~gone))
    n_dropped = len(index) - len(rows)
    _report_dropped(n_dropped, len(index), because)
    if part is not None:
        refuse_empty_traits(part)
    if table is not None and part is not None:
        _refuse_response_among_columns(part, frame.iloc[rows], parts.formula)

    # matrices
    frame = tidy(_kept(frame, rows))
    schema = kinds_of(frame, predictors)
    X, fixed = encode(fixed_terms, frame, fixed_reads, formula, coded, context)
    offsets = [
        encode([term], frame, needed, formula, {}, context)
        for term, needed in zip(offset_terms, offset_reads, strict=True)
    ]
    recipe = Recipe(fixed, tuple(encoding for _, encoding in offsets), schema, coded, context)
    labels = _labels(components, relmats)
    terms = tuple(
        _random_term(component, label, needed, frame, relmats, formula, coded, context)
        for component, label, needed in zip(components, labels, effect_reads, strict=True)
    )
    return Design(
        formula=formula,
        X=pd.DataFrame(X, index=index[rows], columns=list(fixed.names), copy=False),
        Y=part,
        terms=terms,
        offset=_sum_offsets([values for values, _ in offsets]),
        weights=None if weight is None else weight[rows],
        rows=rows,
        n_dropped=n_dropped,
        dropped_because=because,
        recipe=recipe,
        notes=tuple(note for note in (note_on_Y, note_on_weights) if note is not None),
    )


def _unique(*names: Sequence[str]) -> list[str]:
    return list(dict.fromkeys(name for part in names for name in part))


def _kept(frame: pd.DataFrame, rows: np.ndarray) -> pd.DataFrame:
    return frame if len(rows) == len(frame) else frame.iloc[rows]


def _response_reads(parts: SplitFormula, reads: Callable[..., list[str]]) -> list[list[str]]:
    out = []
    for response in parts.responses:
        if response.is_column:
            term = Term([Factor(response.name, eval_method="lookup")])
        else:
            term = expression_term(response.piece, parts.formula)
        out.append(reads([term], response.piece.start))
        if not out[-1]:
            place = (response.piece.start, response.piece.stop - response.piece.start)
            raise FormulaError("this response uses no column", parts.formula, *place)
    return out


def _refuse_response_on_the_right(
    parts: SplitFormula, read: Sequence[str], terms: Sequence[Term], components: Sequence[Component]
) -> None:
    """A trait that explains itself: R drops it with a warning, and who wrote it meant something else."""
    written = {str(term) for term in (*terms, *(term for component in components for term in component.terms))}
    for response in parts.responses:
        if (response.is_column and response.name in read) or response.name in written:
            place = (response.piece.start, response.piece.stop - response.piece.start)
            raise FormulaError(
                f"the response '{clip(response.name)}' stands on both sides of '~'. Leave it out on the right; for a "
                "change from a baseline write I(after - before) ~ before",
                parts.formula,
                *place,
            )


def _refuse_response_among_columns(Y: pd.DataFrame, frame: pd.DataFrame, formula: str) -> None:
    """The same for responses given as ``Y=``: a column of the same name and the same values."""
    for name in Y.columns.intersection(frame.columns):
        values = numbers_of(frame[name])
        if values is not None and np.array_equal(values, Y[name].to_numpy(), equal_nan=True):
            raise FormulaError(
                f"the trait {str(name)!r} of Y is also a predictor. Leave it out of the formula", formula
            )


def _read_weights(weights: Any, opened: Any, rows: RowLabels) -> tuple[np.ndarray | None, str | None]:
    if weights is None:
        return None, None
    if isinstance(weights, str):
        if weights not in list(opened.columns):
            raise OptionError(f"weights names '{weights}', which is not a column of data.")
        weights = take_columns(opened, [weights])[weights]
        name = str(weights.name)
    else:
        name = "weights"
    values, note = aligned_vector(weights, rows, name)
    bad = (values <= 0) | np.isinf(values)
    if bad.any():
        first = int(np.argmax(bad))
        raise DataError(
            f"weights must be positive and finite; row {str(rows.index[first])!r} has {values[first]}. Drop such rows."
        )
    return values, note


def _report_dropped(n_dropped: int, n: int, because: Mapping[str, int]) -> None:
    if not n_dropped:
        return
    causes = [f"'{name}' ({count})" for name, count in list(because.items())[:8]]
    more = f" and {len(because) - 8} more columns" if len(because) > 8 else ""
    if n_dropped == n:
        raise DataError(f"no row is complete: missing values in {', '.join(causes)}{more}.")
    warn(
        f"{n_dropped} of {n} rows dropped because of missing values in {', '.join(causes)}{more}.",
        DroppedRowsWarning,
    )


def _sum_offsets(offsets: Sequence[np.ndarray]) -> np.ndarray | None:
    for values in offsets:
        if values.shape[1] != 1:
            raise DataError(f"an offset gives {values.shape[1]} columns instead of one numeric column.")
    return np.sum([values[:, 0] for values in offsets], axis=0) if offsets else None


# -- random terms --------------------------------------------------------------------------------------


def _components(parts: SplitFormula, scope: Scope) -> list[Component]:
    out: list[Component] = []
    n_terms = 0
    for bar in parts.bars:
        terms = read_terms(bar.effects.text, parts.formula)
        if not terms:
            place = (bar.effects.start, bar.effects.stop - bar.effects.start)
            raise FormulaError("no effect is left on this side of the bar", parts.formula, *place)
        for group in groups_of(bar, scope):
            sides = [terms] if bar.correlated else [[term] for term in terms]
            out += [Component(side, group, bar) for side in sides]
            n_terms += len(terms)
            if len(out) > MOST_RANDOM_TERMS or n_terms > MOST_TERMS:
                place = (bar.start, bar.stop - bar.start)
                message = f"a formula has at most {MOST_RANDOM_TERMS} random terms and {MOST_TERMS} effects in them"
                raise FormulaError(message, parts.formula, *place)
    return out


def _refuse_repeats(components: Sequence[Component], relmats: Mapping[str, Relmat], formula: str) -> None:
    seen: set[tuple[frozenset[str], str | None, str]] = set()
    for component in components:
        for term in component.terms:
            key = (frozenset(component.group.columns), _cov(component.group, relmats), str(term))
            if key in seen:
                what = "intercept" if str(term) == "1" else f"slope of {term}"
                raise FormulaError(
                    f"the {what} for '{component.group.name}' is already in an earlier random term",
                    formula,
                    component.bar.start,
                    component.bar.stop - component.bar.start,
                )
            seen.add(key)


def _cov(group: Group, relmats: Mapping[str, Relmat]) -> str | None:
    key = group.cov or group.name
    return key if key in relmats else None


def _labels(components: Sequence[Component], relmats: Mapping[str, Relmat]) -> list[str]:
    """Unique names: the group, with the effects where there is no intercept, with gr() where one id has several."""
    covs: dict[str, set[str | None]] = {}
    for component in components:
        covs.setdefault(component.group.name, set()).add(_cov(component.group, relmats))
    out = []
    for component in components:
        group = component.group
        several = group.cov is not None and len(covs[group.name]) > 1
        name = f"gr({group.name}, {group.cov})" if several else group.name
        effects = [str(term) for term in component.terms]
        out.append(name if "1" in effects else f"{'+'.join(effects)}|{name}")
    if max(Counter(out).values(), default=1) > 1:  # a column named like another term's label
        raise OptionError(f"random terms cannot be told apart by their labels {shortlist(out)}. Rename the columns.")
    return out


def _random_term(
    component: Component,
    label: str,
    needed: Sequence[str],
    frame: pd.DataFrame,
    relmats: Mapping[str, Relmat],
    formula: str,
    contrasts: Mapping[str, Any],
    context: Mapping[str, Any],
) -> RandomTerm:
    M, encoding = encode(component.terms, frame, needed, formula, contrasts, context)
    group = component.group
    observed, codes = levels_and_codes(frame, group.columns)
    cov = _cov(group, relmats)
    relmat = None if cov is None else relmats[cov]
    levels, codes, has_records = align(relmat, group.name, observed, codes)
    return RandomTerm(
        label=label,
        group=group.name,
        effects=encoding.names,
        levels=levels,
        codes=codes,
        M=M,
        correlated=component.bar.correlated,
        has_records=has_records,
        relmat=relmat,
        cov=cov,
        columns=group.columns,
        encoding=encoding,
    )


# -- new rows ------------------------------------------------------------------------------------------


def new_design(design: Design, newdata: Any, new_levels: str, terms: Sequence[str] | None) -> Design:
    """Encode new rows; see `Design.new` for the arguments and errors."""
    if new_levels not in ("error", "zero", "relmat"):
        raise OptionError(f"new_levels must be 'error', 'zero' or 'relmat', got {new_levels!r}.")
    chosen = design.terms if terms is None else tuple(design.term(label) for label in terms)
    recipe = design.recipe
    encodings = [recipe.fixed, *recipe.offsets, *(term.encoding for term in chosen)]
    predictors = _unique(*(encoding.needed for encoding in encodings))
    opened = open_frame(newdata, "newdata")
    frame = take_columns(opened, _unique(predictors, *(term.columns for term in chosen)), "newdata")
    _refuse_missing(frame)
    frame = as_fitted(tidy(frame), {name: recipe.schema[name] for name in predictors})

    def again(encoding: Any, contrasts: Mapping[str, Any]) -> np.ndarray:
        return encode_again(encoding, frame, design.formula, contrasts, recipe.context)

    X = again(recipe.fixed, recipe.contrasts)
    offsets = [again(encoding, {}) for encoding in recipe.offsets]
    new_terms = []
    for term in chosen:
        codes, unseen = codes_in(frame, term.columns, term.levels)
        if len(unseen) and new_levels != "zero":
            raise _unseen_error(term, unseen, new_levels)
        new_terms.append(replace(term, codes=codes, M=again(term.encoding, recipe.contrasts)))
    return Design(
        formula=design.formula,
        X=pd.DataFrame(X, index=frame.index, columns=design.X.columns, copy=False),
        Y=None,
        terms=tuple(new_terms),
        offset=_sum_offsets(offsets),
        weights=None,
        rows=np.arange(len(frame)),
        n_dropped=0,
        dropped_because={},
        recipe=recipe,
    )


def _refuse_missing(frame: pd.DataFrame) -> None:
    missing, counts = missing_rows({str(name): column for name, column in frame.items()}, len(frame))
    if missing.any():
        raise DataError(
            f"newdata has missing values in {', '.join(f'{name!r} ({count})' for name, count in counts.items())}; "
            f"rows {shortlist(frame.index[missing])}. Fill them or drop these rows."
        )


def _unseen_error(term: RandomTerm, unseen: pd.Index, new_levels: str) -> DataError:
    message = f"newdata has {len(unseen)} unknown level(s) of '{term.group}': {shortlist(unseen)}."
    if new_levels == "relmat" and term.relmat is None:
        return DataError(f"{message} new_levels='relmat' needs a relationship matrix for '{term.group}'.")
    if term.relmat is not None:
        return DataError(f"{message} They are not labels of its relationship matrix; new_levels='zero' sets them to 0.")
    return DataError(f"{message} Use new_levels='zero' to give them an effect of zero.")
