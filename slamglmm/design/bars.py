"""Split a formula string into responses, fixed effects, random terms ``( ... | ... )`` and offsets.

Formulaic's tokens say where names, calls and quotes end. Whatever is taken out is blanked by spaces in the
original string and not cut, so every position in what is left still points into the formula the user wrote.
"""

from __future__ import annotations

import keyword
import re
import unicodedata
from dataclasses import dataclass
from typing import NamedTuple

from formulaic.errors import FormulaicError
from formulaic.parser import DefaultOperatorResolver
from formulaic.parser.algos.tokenize import tokenize
from formulaic.parser.types import FormulaParser
from formulaic.parser.types import Token as FormulaicToken

from ..errors import FormulaError, clip
from .expressions import STRUCTURES, parse

# A name of ten characters for each of 10,000 columns.
LONGEST = 100_000
DEEPEST_BRACKETS = 100
MOST_RANDOM_TERMS = 200
MOST_OFFSETS = 100
MOST_RESPONSES = 1000

# Calls that R reads and Python does not: ``as`` and ``is`` are words of its grammar.
_R_CALL = re.compile(r"(as|is)\.\w+\(")
_R_ADVICE = {
    "as.numeric(": "a column of numbers needs no as.numeric: write x; for the codes of a factor make a column",
    "as.integer(": "a column of numbers needs no as.integer: write x, or np.floor(x)",
    "as.character(": "write factor(x)",
    "as.logical(": "a column of True and False counts as 1 and 0: write x",
    "is.na(": "write np.isnan(x); rows with a missing predictor are dropped, though",
}


@dataclass(frozen=True)
class Piece:
    """A stretch of the formula.

    Attributes
    ----------
    text : str
        The stretch, after as many spaces as stand before it in the formula.
    start, stop : int
        Where it lies in the formula, ``stop`` excluded.
    """

    text: str
    start: int
    stop: int


@dataclass(frozen=True)
class Bar:
    """One random term as written, before ``a/b`` and ``||`` are expanded."""

    effects: Piece
    group: Piece
    correlated: bool
    start: int
    stop: int


@dataclass(frozen=True)
class Response:
    """One trait on the left of ``~``: a column, or a Python expression over columns."""

    name: str
    piece: Piece
    is_column: bool


@dataclass(frozen=True)
class SplitFormula:
    """A formula taken apart; `fixed` is the right side with bars and offsets blanked."""

    formula: str
    responses: tuple[Response, ...]
    fixed: str
    bars: tuple[Bar, ...]
    offsets: tuple[Piece, ...]


class Token(NamedTuple):
    """A formulaic token with operators taken apart into single ones."""

    kind: str
    text: str
    start: int
    stop: int


def split_formula(formula: str) -> SplitFormula:
    """Take the random terms and offsets off a formula.

    Parameters
    ----------
    formula : str
        ``"responses ~ fixed + (effects | group) + offset(expression)"``; the left side may be empty.

    Returns
    -------
    SplitFormula

    Raises
    ------
    FormulaError
        With a caret under the place that cannot be read.
    """
    if not isinstance(formula, str):
        raise FormulaError(f"formula must be a string such as 'y ~ x + (1 | g)', got {type(formula).__name__}.")
    formula = re.sub(r"\s", " ", formula)  # one line, so that carets stand under their places
    _refuse_unreadable(formula)
    text = _same_length_cleanup(formula)
    tokens = _tokens(text)
    tildes = [i for i, token in enumerate(tokens) if token.kind == "operator" and token.text == "~"]
    if not tildes:
        raise FormulaError("formula lacks a '~'. With responses given as Y=..., write '~ 1 + x + (1 | g)'", formula)
    if len(tildes) > 1:
        raise FormulaError("formula has a second '~'", formula, tokens[tildes[1]].start)
    at = tildes[0]
    reader = _Reader(formula, text, tokens)
    responses = reader.responses(at)
    reader.blank_range(0, tokens[at].stop)
    reader.walk(at + 1, len(tokens), additive=True)
    return SplitFormula(formula, responses, "".join(reader.left), tuple(reader.bars), tuple(reader.offsets))


def _refuse_unreadable(formula: str) -> None:
    """Refuse what would trip or stall the readers further on."""
    if len(formula) > LONGEST:
        raise FormulaError(
            f"a formula has at most {LONGEST} characters, got {len(formula)}. Give many traits as Y=, many markers as "
            "markers="
        )
    for position, char in enumerate(formula):
        if unicodedata.category(char) in ("Cc", "Cs"):
            shown = "".join("?" if unicodedata.category(c) in ("Cc", "Cs") else c for c in formula)
            raise FormulaError(f"character U+{ord(char):04X} is not text", shown, position)
    empty = next((match for match in re.finditer("`([^`]*)`", formula) if not match[1].strip()), None)
    if empty is not None:
        raise FormulaError("there is no name between these backquotes", formula, empty.start(), len(empty[0]))
    depth = 0
    for position, char in enumerate(formula):
        depth += (char in "([{") - (char in ")]}")
        if depth > DEEPEST_BRACKETS:
            raise FormulaError(f"brackets stand more than {DEEPEST_BRACKETS} deep", formula, position)


def _same_length_cleanup(formula: str) -> str:
    """Spellings formulaic stumbles over, replaced without moving any character."""
    text = re.sub(r"(?<![\w.`])as\.factor(?=\()", "as_factor", formula)

    def unquote(match: re.Match[str]) -> str:
        name = match[1]
        return f" {name} " if name.isidentifier() and not keyword.iskeyword(name) else match[0]

    return re.sub(r"`([^`]*)`", unquote, text)


def _tokens(text: str) -> list[Token]:
    parser = FormulaParser(DefaultOperatorResolver())
    try:
        found = list(parser.get_tokens(text))
    except FormulaicError as error:
        raise formula_error(error, text) from None
    except (SyntaxError, ValueError, IndexError, RecursionError, MemoryError):
        raise _bad_call(text) from None
    out: list[Token] = []
    for token in found:
        kind = token.kind.value if token.kind else ""
        start, stop = token.source_start or 0, (token.source_end or 0) + 1
        if text[start] in "`{" and stop < len(text):
            stop += 1  # formulaic leaves the closing quote out
        if kind == "operator" and not token.token.startswith("%"):
            out += [Token(kind, m[0], start + m.start(), start + m.end()) for m in _operators(text[start:stop])]
        else:
            out.append(Token(kind, _token_text(token, kind, text[start:stop]), start, stop))
    return out


def _bad_call(text: str) -> FormulaError:
    """Find the call that Python cannot read, which formulaic does not tell."""
    for token in tokenize(text):
        start, stop = token.source_start or 0, (token.source_end or 0) + 1
        if token.kind is FormulaicToken.Kind.PYTHON:
            called = _R_CALL.match(text, start)
            if called:
                advice = _R_ADVICE.get(called[0], "make a column of it first")
                return FormulaError(f"{called[0]}...) is R and not Python; {advice}", text, start, stop - start)
            if parse(token.token) is None:
                return FormulaError("this is not a Python expression that can be read", text, start, stop - start)
    return FormulaError("the formula holds something that is not a Python expression", text)


def _operators(text: str) -> list[re.Match[str]]:
    return list(re.finditer(r"\|\||\*\*|\S", text))


def _token_text(token: FormulaicToken, kind: str, source: str) -> str:
    # formulaic rewrites Python tokens; what the user wrote is better in messages and to search in
    return source if kind == "python" else token.token


def formula_error(error: FormulaicError, formula: str, shift: int = 0) -> FormulaError:
    """Turn formulaic's message, which marks the place inside the text, into ours with a caret.

    Parameters
    ----------
    error : FormulaicError
    formula : str
    shift : int
        Position in the formula of the text that formulaic read.
    """
    message, _, marked = str(error).partition("\n\n")
    message = clip(message, 300)
    start, stop = marked.find("⧛"), marked.find("\x1b[0m⧚")
    if start < 0:
        return FormulaError(message, formula)
    return FormulaError(message, formula, start + shift, stop - start - len("⧛\x1b[1;31m"))


class _Reader:
    """Walks over the tokens once, collecting bars and offsets and blanking them in `left`."""

    def __init__(self, formula: str, text: str, tokens: list[Token]):
        self.formula, self.text, self.tokens = formula, text, tokens
        self.left = list(text)
        self.bars: list[Bar] = []
        self.offsets: list[Piece] = []
        self.closes = self._match_parentheses()

    def fail(self, message: str, token: Token) -> FormulaError:
        return FormulaError(message, self.formula, token.start, token.stop - token.start)

    def piece(self, first: int, last: int) -> Piece:
        start, stop = self.tokens[first].start, self.tokens[last].stop
        return Piece(" " * start + self.text[start:stop], start, stop)

    def _match_parentheses(self) -> dict[int, int]:
        opened: list[int] = []
        closes: dict[int, int] = {}
        for i, token in enumerate(self.tokens):
            if token.kind != "context":
                continue
            if token.text in "([":
                opened.append(i)
            elif not opened:
                raise self.fail(f"'{token.text}' closes nothing", token)
            elif self.tokens[opened[-1]].text + token.text not in ("()", "[]"):
                raise self.fail(f"'{token.text}' closes a '{self.tokens[opened[-1]].text}'", token)
            else:
                closes[opened.pop()] = i
        if opened:
            raise self.fail("this parenthesis is never closed", self.tokens[opened[-1]])
        return closes

    # -- left of the tilde ---------------------------------------------------------------------

    def responses(self, tilde: int) -> tuple[Response, ...]:
        out: list[Response] = []
        for i, token in enumerate(self.tokens[:tilde]):
            if i % 2 == 1:
                if token.text != "+":
                    raise self.fail("left of '~' write y, y1 + y2, cbind(y1, y2) or a call such as I(y / 100)", token)
            elif token.kind == "name":
                out.append(Response(token.text, self.piece(i, i), is_column=True))
            elif token.kind == "python" and token.text.startswith("cbind("):
                out += self._cbind(token)
            elif token.kind == "python":
                self._check_call(token)
                out.append(self._computed(token.start, token.stop))
            elif token.text == "(":
                raise self.fail("left of '~' parentheses are not read: write y ~ ..., or y1 + y2 ~ ...", token)
            else:
                raise self.fail("left of '~' a column or a call such as log(y) was expected", token)
            if len(out) > MOST_RESPONSES:
                raise self.fail(f"a formula has at most {MOST_RESPONSES} responses; give more as Y=, a table", token)
        if tilde and tilde % 2 == 0:
            raise self.fail("a response is missing after this '+'", self.tokens[tilde - 1])
        return tuple(out)

    def _cbind(self, token: Token) -> list[Response]:
        out, start, stop = [], token.start + len("cbind("), token.stop - 1
        for low, high in _arguments(self.text, start, stop):
            argument = self.text[low:high].strip()
            low += len(self.text[low:high]) - len(self.text[low:high].lstrip())
            if not argument:
                raise self.fail("cbind() has an empty argument", token)
            quoted = argument[0] == argument[-1] == "`" and argument.count("`") == 2
            if quoted or re.fullmatch(r"[A-Za-z_.][\w.]*", argument):
                piece = Piece(" " * low + argument, low, low + len(argument))
                out.append(Response(argument.strip("`"), piece, is_column=True))
            else:
                out.append(self._computed(low, low + len(argument)))
        return out

    def _computed(self, start: int, stop: int) -> Response:
        expression = self.text[start:stop]
        return Response(expression, Piece(" " * start + expression, start, stop), is_column=False)

    # -- right of the tilde --------------------------------------------------------------------

    def walk(self, low: int, high: int, additive: bool) -> None:
        """Read tokens ``low .. high - 1``; random terms are allowed where `additive`."""
        i = low
        while i < high:
            token = self.tokens[i]
            if token.kind == "context" and i in self.closes:
                close = self.closes[i]
                joined = additive and token.text == "(" and self._is_added(i, close, low, high)
                if self._bars_at(i + 1, close):
                    if not joined:
                        raise self.fail("a random term can only be added with '+'", token)
                    self._bar(i, close)
                    self._blank(i, close, low, high)
                else:
                    self.walk(i + 1, close, joined)
                    if i + 1 < close and not "".join(self.left[token.stop : self.tokens[close].start]).strip():
                        self._blank(i, close, low, high)
                i = close + 1
                continue
            if token.kind == "operator" and "|" in token.text:
                raise self.fail("put parentheses around the random term: (1 | g)", token)
            self._check_token(token)
            if token.kind == "python" and token.text.startswith("offset("):
                if not (additive and self._is_added(i, i, low, high)):
                    raise self.fail("offset(...) can only be added with '+'", token)
                self._offset(token)
                self._blank(i, i, low, high)
            i += 1

    def _check_token(self, token: Token) -> None:
        if token.text == ".":
            raise self.fail("'.' is not supported: name the columns", token)
        if token.kind == "operator" and token.text == "%":
            raise self.fail("'%in%' and its like are not read: for x %in% g write x:g, for main effects g/x", token)
        if token.kind == "python":
            self._check_call(token)

    def _check_call(self, token: Token) -> None:
        name = token.text.partition("(")[0]
        if name in STRUCTURES and "|" in token.text:
            raise self.fail(
                f"structured covariances such as {name}(...) are not supported; write (f || g) for independent "
                "effects or (f | g) for correlated ones",
                token,
            )
        power = token.text.find("^")
        if power >= 0:
            raise FormulaError(
                "inside a call '^' is Python's exclusive or; for a power use '**', as in I(x**2)",
                self.formula,
                token.start + power,
            )

    def _is_added(self, first: int, last: int, low: int, high: int) -> bool:
        before = self.tokens[first - 1].text if first > low else "+"
        after = self.tokens[last + 1].text if last + 1 < high else "+"
        return before == "+" and after in ("+", "-")

    def _bars_at(self, low: int, high: int) -> list[int]:
        """Positions of ``|`` and ``||`` that are not inside further parentheses."""
        out, i = [], low
        while i < high:
            if i in self.closes:
                i = self.closes[i]
            elif self.tokens[i].kind == "operator" and "|" in self.tokens[i].text:
                out.append(i)
            i += 1
        return out

    def _bar(self, first: int, last: int) -> None:
        at, *more = self._bars_at(first + 1, last)
        if more:
            raise self.fail("a random term has one bar: (effects | group)", self.tokens[more[0]])
        for i in range(first + 1, last):
            token = self.tokens[i]
            if i != at and token.kind == "operator" and "|" in token.text:
                raise self.fail("a random term cannot stand inside another", token)
            self._check_token(token)
            if token.kind == "python" and token.text.startswith("offset("):
                raise self.fail("offset(...) cannot stand inside a random term", token)
        if at == first + 1:
            raise self.fail("nothing stands left of the bar; write (1 | g) for an intercept", self.tokens[at])
        if at == last - 1:
            raise self.fail("a grouping column is missing right of the bar", self.tokens[at])
        if len(self.bars) == MOST_RANDOM_TERMS:
            raise self.fail(f"a formula has at most {MOST_RANDOM_TERMS} random terms", self.tokens[first])
        self.bars.append(
            Bar(
                effects=self.piece(first + 1, at - 1),
                group=self.piece(at + 1, last - 1),
                correlated=self.tokens[at].text == "|",
                start=self.tokens[first].start,
                stop=self.tokens[last].stop,
            )
        )

    def _offset(self, token: Token) -> None:
        low, high = token.start + len("offset("), token.stop - 1
        expression = self.text[low:high]
        if len(_arguments(self.text, low, high)) > 1:
            raise self.fail("offset() takes one expression; offsets add up: offset(x) + offset(z)", token)
        if not expression.strip():
            raise self.fail("offset() is empty", token)
        if len(self.offsets) == MOST_OFFSETS:
            raise self.fail(f"a formula has at most {MOST_OFFSETS} offsets; add them up in a column", token)
        # braces mark a Python expression for formulaic, and keep every position
        self.offsets.append(Piece(" " * (low - 1) + "{" + expression + "}", low - 1, token.stop))

    def _blank(self, first: int, last: int, low: int, high: int) -> None:
        """Blank tokens ``first .. last`` and one ``+`` that joined them to the rest."""
        self.blank_range(self.tokens[first].start, self.tokens[last].stop)
        before = self.tokens[first - 1].start if first > low else None
        after = self.tokens[last + 1].start if last + 1 < high else None
        if before is not None and self.left[before] == "+":
            self.left[before] = " "
        elif after is not None and self.left[after] == "+":
            self.left[after] = " "

    def blank_range(self, start: int, stop: int) -> None:
        self.left[start:stop] = " " * (stop - start)


def _arguments(text: str, start: int, stop: int) -> list[tuple[int, int]]:
    """Spans of the arguments of a call, split at commas outside brackets and quotes."""
    spans, low, depth, quote = [], start, 0, ""
    for i in range(start, stop):
        char = text[i]
        if quote:
            quote = "" if char == quote else quote
        elif char in "`'\"":
            quote = char
        elif char in "([{":
            depth += 1
        elif char in ")]}":
            depth -= 1
        elif char == "," and depth == 0:
            spans.append((low, i))
            low = i + 1
    return [*spans, (low, stop)]
