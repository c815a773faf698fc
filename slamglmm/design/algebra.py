"""How ``*``, ``/``, ``:`` and ``**`` multiply the terms of a formula, and how many terms a formula may make."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import combinations
from math import prod

from formulaic.errors import FormulaSyntaxError
from formulaic.parser import DefaultFormulaParser, DefaultOperatorResolver
from formulaic.parser.types import Factor, Operator, OrderedSet, Term, Token
from formulaic.parser.utils import exc_for_token

from ..errors import FormulaError

# Twelve variables joined by '*' make 4096 terms, in a second.
MOST_TERMS = 4096
MOST_PRODUCTS = 100_000

MOST_COLUMNS = 10_000
# Steps of coding: 4**k for a term of k factors without its lower-order terms (8 take a second), 3**k for ``a*b*...``.
MOST_FACTORS = 12
MOST_CODING = 100_000


class Algebra(DefaultOperatorResolver):
    """Formulaic's operators, such that no formula takes for ever: products stop at `MOST_TERMS`, sums do not copy."""

    @property
    def operators(self) -> list[Operator]:
        """Operators of the right side of a formula."""
        ours = {"+": add, "-": remove, "*": cross, "/": nest, ":": interact, "**": power, "^": power}
        out = []
        for operator in super().operators:
            if operator.symbol == "in":
                continue
            if operator.symbol in ours and operator.arity == 2:
                operator = Operator(
                    operator.symbol,
                    arity=operator.arity,
                    precedence=operator.precedence,
                    associativity=operator.associativity,
                    to_terms=ours[operator.symbol],
                )
            out.append(operator)
        return out


def formula_parser(include_intercept: bool = True) -> DefaultFormulaParser:
    """Parser of one-sided formulas.

    Parameters
    ----------
    include_intercept : bool
        Whether an intercept is implied.
    """
    return DefaultFormulaParser(Algebra(), include_intercept=include_intercept, feature_flags=set())


def add(left: OrderedSet[Term], right: OrderedSet[Term]) -> OrderedSet[Term]:
    """``left + right``; `left` is a result on the way, which nobody else holds, and is added to."""
    left.values.update(right.values)
    return left


def remove(left: OrderedSet[Term], right: OrderedSet[Term]) -> OrderedSet[Term]:
    """``left - right``, taken from `left` itself."""
    for term in right:
        left.values.pop(term, None)
    return left


def interact(left: OrderedSet[Term], right: OrderedSet[Term]) -> OrderedSet[Term]:
    """``left:right``, every product of a term with a term."""
    if len(left) * len(right) > MOST_PRODUCTS:
        raise _too_many()
    return _collected(a * b for a in left for b in right)


def cross(left: OrderedSet[Term], right: OrderedSet[Term]) -> OrderedSet[Term]:
    """``left*right``, the terms and their products."""
    return _collected([*left, *right, *interact(left, right)])


def nest(outer: OrderedSet[Term], inner: OrderedSet[Term]) -> OrderedSet[Term]:
    """``outer/inner``, the terms outside and their product with every term inside."""
    if not outer:
        raise FormulaSyntaxError("Nothing is left on the left side of '/'.")
    common, *others = outer
    for term in others:
        common = common * term
    return _collected([*outer, *(common * term for term in inner)])


def power(terms: OrderedSet[Term], exponent: OrderedSet[Term]) -> OrderedSet[Term]:
    """``(terms)**k``, products of up to k terms; beyond the number of terms nothing is added."""
    factors: Sequence[Factor] = next(iter(exponent)).factors if len(exponent) == 1 else ()
    text = factors[0].expr if len(factors) == 1 else ""
    if not (text.isascii() and text.isdecimal() and text.strip("0")):
        place = factors[0].token if factors and factors[0].token is not None else Token()
        raise exc_for_token(place, "The right-hand argument of `**` must be a positive integer.")
    out = terms
    highest = len(terms) if len(text.lstrip("0")) > 9 else min(int(text), len(terms))
    for _ in range(highest - 1):
        longer = interact(out, terms)
        if len(longer) == len(out):
            break
        out = longer
    return out


def _collected(terms: Iterable[Term]) -> OrderedSet[Term]:
    return OrderedSet(_limited(terms))


def _limited(terms: Iterable[Term]) -> Iterator[Term]:
    seen: set[Term] = set()
    for term in terms:
        seen.add(term)
        if len(seen) > MOST_TERMS:
            raise _too_many()
        yield term


def _too_many() -> FormulaSyntaxError:
    return FormulaSyntaxError(
        f"This makes more than {MOST_TERMS} terms, which is the most a formula can have. Write out those that matter."
    )


def refuse_wide(terms: Sequence[Term], width: Callable[[Factor], tuple[int, bool]], formula: str) -> None:
    """Refuse terms that would make more than `MOST_COLUMNS` columns, or take minutes to code.

    Parameters
    ----------
    terms : sequence of Term
    width : callable
        Gives for a factor in formulaic's sense the number of its levels and True if it is categorical, else of its
        columns and False.
    formula : str

    Raises
    ------
    FormulaError
    """
    columns = steps = 0
    spanned: set[tuple[frozenset[str], frozenset[str]]] = set()
    for term in terms:
        widths = {factor.expr: width(factor) for factor in term.factors}
        categorical = [name for name, (_, is_factor) in widths.items() if is_factor]
        columns += prod(max(1, n - is_factor) for n, is_factor in widths.values())
        if columns > MOST_COLUMNS:
            raise FormulaError(
                f"one side of the formula makes at least {columns} columns (up to the term {term!s:.80}), and "
                f"{MOST_COLUMNS} is the most. Use fewer interactions, or a random effect (1 | group) for a factor of "
                "many levels",
                formula,
            )
        if len(categorical) <= MOST_FACTORS:
            rest = frozenset(widths) - frozenset(categorical)
            subsets = {
                (frozenset(chosen), rest)
                for k in range(len(categorical) + 1)
                for chosen in combinations(categorical, k)
            }
            steps += len(subsets) + len(subsets - spanned) ** 2
            spanned |= subsets
        if len(categorical) > MOST_FACTORS or steps > MOST_CODING:
            raise FormulaError(
                f"interactions of as many factors as in {term!s:.80} ({len(categorical)}) take too long to code. Make "
                "one column of their combinations, or write fewer interactions",
                formula,
            )
