"""What an evaluated part of a formula says, read before it is run: its columns, and that it does nothing else.

A formula may come from a web form. So nothing is evaluated but arithmetic, comparisons and calls of listed functions
(`functions`) over columns, numbers and plain words; names and attributes that begin with ``_`` are closed, and numbers
are kept in bounds, since ``10**10**8`` would run for ever. What a program wants beyond this it gives as ``context=``.
"""

from __future__ import annotations

import ast
import builtins
import difflib
import inspect
import operator
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from numbers import Real
from typing import Any

from formulaic.transforms import TRANSFORMS
from formulaic.utils.code import sanitize_variable_names

from ..errors import FormulaError, clip, shortlist
from .functions import (
    ARGUMENTS,
    BASES,
    COLUMN_METHODS,
    CONTRAST_NAMES,
    CONTRASTS,
    FACTORS,
    FORMULAIC_FUNCTIONS,
    LARGEST_ARGUMENT,
    NUMPY_CONSTANTS,
    NUMPY_FUNCTIONS,
    OUR_FUNCTIONS,
    OVER_ROWS,
    TEXT_METHODS,
    TYPE_NAMES,
    TYPES,
)

# What R or patsy users write, and what to write here.
REPLACEMENTS = {
    "ns": "write cr(x, df=...)",
    "ordered": "use contrasts={...: 'poly'}",
    "relevel": "write C(f, contr.treatment(...))",
    "ifelse": "write np.where(test, a, b)",
    "Q": "put a name that is no identifier in backquotes: `my var`",
    "lag": "it depends on the order of the rows: make the lagged values a column of data",
}
R_CONSTANTS = {"TRUE": "True", "FALSE": "False", "T": "True", "F": "False", "NULL": "None"}
MORE_ARGUMENTS = {
    "log": "; log2(x) and log10(x) have other bases, and log(x) / np.log(base) any",
    "min": "; the smaller of two columns is np.minimum(a, b)",
    "max": "; the larger of two columns is np.maximum(a, b)",
    "sum": "; the sum of two columns is a + b",
}
DOOR = "functions of your own come by context={'name': function}"

# Covariance structures of other packages.
STRUCTURES = frozenset(
    ["us", "diag", "cs", "ar1", "ou", "toep", "hetar1", "homdiag", "homcs", "rr", "mm", "idh", "vsr"]
)
STRUCTURES_ADVICE = (
    "are not supported; with several traits (1 | id) has the covariances of us(trait):id, and us(1 + x):id is "
    "(1 + x | id)"
)

# Deeper expressions exhaust Python's parser or its stack; more parts take long to check.
DEEPEST = 300
MOST_PARTS = 5000
LONGEST_LIST = 1000
LARGEST_NUMBER = 2**63

_PLAIN_NODES = (
    ast.Expression,
    ast.Name,
    ast.Attribute,
    ast.Call,
    ast.keyword,
    ast.Constant,
    ast.BinOp,
    ast.UnaryOp,
    ast.Compare,
    ast.List,
    ast.Tuple,
    ast.Dict,
    ast.expr_context,
    ast.operator,
    ast.unaryop,
    ast.cmpop,
)
_NO_OPERATORS = (ast.LShift, ast.RShift, ast.MatMult, ast.BitXor, ast.Not, ast.Is, ast.IsNot, ast.In, ast.NotIn)
_WHAT_IT_IS: dict[type[ast.AST], str] = {
    ast.Subscript: "square brackets (a row or an item of a column)",
    ast.Lambda: "lambda",
    ast.JoinedStr: "an f-string",
    ast.NamedExpr: "an assignment",
    ast.Starred: "an argument with a star",
    ast.LShift: "'<<'",
    ast.RShift: "'>>'",
    ast.MatMult: "'@'",
    ast.BitXor: "'^'",
    ast.Not: "'not' (for columns it is ~)",
    ast.BoolOp: "'and' or 'or' (for columns they are & and |)",
    ast.IfExp: "'if' (for columns it is np.where(test, a, b))",
    ast.In: "'in' (for columns it is x.isin([...]))",
}
_OPERATIONS: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.Pow: operator.pow,
}
# Keywords that listed functions of numpy may have.
_KEYWORDS = frozenset(["ddof", "decimals", "q"])


@dataclass(frozen=True)
class Scope:
    """What names in a formula can mean.

    Attributes
    ----------
    columns : set of str
    holds_words : callable
        Whether a column holds words and not numbers.
    context : mapping
        What the user gave beside the frame.
    formula : str
        For messages.
    """

    columns: Collection[str]
    context: Mapping[str, Any]
    formula: str
    holds_words: Callable[[str], bool] = lambda name: False

    def require(self, name: str, at: int) -> None:
        """Refuse a name that is no column.

        Parameters
        ----------
        name : str
        at : int
            Position in the formula from which the name is searched for the caret.

        Raises
        ------
        FormulaError
        """
        if name in self.columns:
            return
        if name in R_CONSTANTS:
            hint = f"; for R's {name} write {R_CONSTANTS[name]}"
        else:
            close = difflib.get_close_matches(name, self.columns, n=1) if len(name) <= 100 else []
            known = shortlist(sorted(self.columns), 8)
            hint = f"; did you mean '{clip(close[0])}'?" if close else f"; the columns are {known}"
        raise FormulaError(f"unknown column '{clip(name)}'{hint}", self.formula, *self.place(name, at))

    def place(self, name: str, at: int) -> tuple[int | None, int]:
        """Where a name stands in the formula, from a position on, and its length."""
        found = re.compile(rf"(?<![\w.]){re.escape(name)}(?![\w.])").search(self.formula, at)
        return (found.start(), len(name)) if found else (None, 1)


def parse(expression: str) -> tuple[ast.Expression, dict[str, str]] | None:
    """Syntax tree of a Python expression with names in backquotes, by the rules by which formulaic evaluates it.

    Parameters
    ----------
    expression : str

    Returns
    -------
    tuple of ast.Expression and dict, or None
        The tree and the columns that backquotes stand for, by their names in the tree; None if it is no expression.
    """
    aliases: dict[str, str] = {}
    try:
        tree = ast.parse(sanitize_variable_names(expression, {}, aliases, template="_quoted_{}"), mode="eval")
    except (SyntaxError, ValueError, IndexError, RecursionError, MemoryError):
        return None
    return (tree, aliases) if _is_small(tree) else None


def _is_small(tree: ast.AST) -> bool:
    level: list[ast.AST] = [tree]
    n_parts = 0
    for _ in range(DEEPEST):
        n_parts += len(level)
        if n_parts > MOST_PARTS:
            return False
        level = [child for node in level for child in ast.iter_child_nodes(node)]
        if not level:
            return True
    return False


def columns_of(expression: str, scope: Scope, at: int) -> list[str]:
    """Columns that an expression reads, in order, once it is clear that it may be evaluated.

    Parameters
    ----------
    expression : str
    scope : Scope
    at : int
        Position of the expression in the formula.

    Returns
    -------
    list of str

    Raises
    ------
    FormulaError
        For what cannot be read, for an unknown name, and for anything that is not on the list.
    """
    parsed = parse(expression)
    if parsed is None:
        message = f"{clip(expression)!r} is not a Python expression that can be read"
        raise FormulaError(message, scope.formula, at, len(expression))
    return _Reader(expression, *parsed, scope, at).columns()


def over_rows(expression: str) -> str | None:
    """Name a function that takes one value over all rows, such as ``mean``, if the expression calls one.

    Parameters
    ----------
    expression : str
    """
    parsed = parse(expression)
    for node in ast.walk(parsed[0]) if parsed else ():
        if isinstance(node, ast.Call):
            if isinstance(node.func, ast.Name) and node.func.id in (*OVER_ROWS, "len"):
                return node.func.id
            if isinstance(node.func, ast.Attribute) and node.func.attr in OVER_ROWS:  # f.str.len() is one for each row
                return node.func.attr
    return None


class _Reader:
    """One walk over the tree of an expression."""

    def __init__(self, expression: str, tree: ast.Expression, aliases: Mapping[str, str], scope: Scope, at: int):
        self.expression, self.tree, self.aliases, self.scope, self.at = expression, tree, aliases, scope, at
        self.called = {id(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
        self.roots = {id(node.value): node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
        self.types = {id(argument) for call in self._calls_of("astype") for argument in _arguments(call)}

    def fail(self, message: str, name: str = "") -> FormulaError:
        """Refuse, with a caret under `name`, or under the expression."""
        formula = self.scope.formula
        start, length = self.scope.place(name, self.at) if name else (self.at, len(self.expression))
        return FormulaError(message, formula, start, length)

    def columns(self) -> list[str]:
        """Check every node; the columns in order of appearance, those in backquotes first."""
        out = dict.fromkeys(name for name in self.aliases.values())
        for name in out:
            self.scope.require(name, self.at)
        nodes = list(ast.walk(self.tree))
        for node in nodes:
            self._check_kind(node)
        for node in nodes:  # before names: ``C(f, helmert)`` should be told about contr.helmert
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in FACTORS:
                self._check_contrasts(node)
        for node in nodes:
            if isinstance(node, ast.Name) and node.id not in self.aliases and self._is_column(node):
                out[node.id] = None
        for node in nodes:
            if isinstance(node, ast.Attribute):
                self._check_attribute(node)
            elif isinstance(node, ast.Constant):
                self._check_constant(node)
        for node in nodes:
            if isinstance(node, ast.Call):
                self._check_call(node)
            elif isinstance(node, ast.BinOp):
                self._check_arithmetic(node)
        return list(out)

    def _check_kind(self, node: ast.AST) -> None:
        if not isinstance(node, _PLAIN_NODES) or isinstance(node, _NO_OPERATORS):
            what = _WHAT_IT_IS.get(type(node), type(node).__name__)
            raise self.fail(f"{what} cannot stand in a formula; make it a column of data ({DOOR})")
        if isinstance(node, ast.List | ast.Tuple) and len(node.elts) > LONGEST_LIST:
            raise self.fail(f"a list in a formula has at most {LONGEST_LIST} entries, got {len(node.elts)}")

    # -- names ---------------------------------------------------------------------------------

    def _is_column(self, node: ast.Name) -> bool:
        """Whether a name is a column; False for what is known otherwise, an error for the rest."""
        name, context = node.id, self.scope.context
        is_called, attribute = id(node) in self.called, self.roots.get(id(node))
        ours = name in OUR_FUNCTIONS or name in FORMULAIC_FUNCTIONS
        if (ours or name in context) and (is_called or attribute is not None or name not in self.scope.columns):
            return False
        if name in TYPES and id(node) in self.types and name not in self.scope.columns:
            return False
        if is_called:
            raise self.fail(self._unknown_function(name), name)
        dotted = f"{name}.{attribute}"
        if name not in self.scope.columns and dotted in self.scope.columns:
            raise self.fail(f"inside a call, quote a name with a dot: `{dotted}`", dotted)
        if name not in self.scope.columns and (name.startswith("_") or hasattr(builtins, name)):
            raise self.fail(f"'{clip(name)}' is not among the names a formula can use; {DOOR}", name)
        self.scope.require(name, self.at)
        return True

    def _unknown_function(self, name: str) -> str:
        if name in REPLACEMENTS:
            return f"unknown function '{name}'; {REPLACEMENTS[name]}"
        if name in STRUCTURES:
            return f"structured covariances such as {name}(...) {STRUCTURES_ADVICE}"
        if name in self.scope.columns:
            return f"'{clip(name)}' is a column, not a function"
        return f"unknown function '{clip(name)}'; give it as context={{...}}"

    def _check_attribute(self, node: ast.Attribute) -> None:
        name, root = node.attr, node.value
        while isinstance(root, ast.Attribute):
            root = root.value
        called = id(node) in self.called
        if name.startswith("_"):
            raise self.fail(f"'.{clip(name)}' begins with '_', which is closed in formulas")
        base = node.value
        if isinstance(root, ast.Name) and root.id in self.scope.context and root.id not in self.scope.columns:
            return  # handed in by the program
        if isinstance(base, ast.Name):
            if base.id == "np":
                if name not in NUMPY_FUNCTIONS and name not in NUMPY_CONSTANTS:
                    raise self.fail(
                        f"np.{clip(name)} is not among the functions of numpy that a formula can use; {DOOR}"
                    )
                return
            if base.id == "contr":
                if name not in CONTRAST_NAMES:
                    raise self.fail(
                        f"contrasts are {shortlist(f'contr.{key}' for key in CONTRASTS)}; not contr.{clip(name)}"
                    )
                return
        if isinstance(base, ast.Attribute) and (base.attr, name) == ("cat", "codes") and not called:
            return
        if isinstance(base, ast.Attribute) and base.attr == "str" and name in TEXT_METHODS and called:
            return
        if name in ("cat", "str") and id(node) in self.roots:
            return  # what follows is checked by the lines above
        if not (called and name in COLUMN_METHODS):
            raise self.fail(
                f"'.{clip(name)}' is not among the methods of columns that a formula can use; make it a column of "
                f"data, or a function ({DOOR})"
            )

    # -- calls ---------------------------------------------------------------------------------

    def _calls_of(self, method: str) -> Iterator[ast.Call]:
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == method:
                yield node

    def _check_call(self, call: ast.Call) -> None:
        for keyword in call.keywords:
            if keyword.arg is None or keyword.arg.startswith("_") or keyword.arg in ("out", "inplace", "regex"):
                raise self.fail(f"'{keyword.arg or '**'}' cannot be given to a function in a formula")
        self._check_decimals(call)
        if isinstance(call.func, ast.Attribute):
            base = call.func.value
            if isinstance(base, ast.Name) and base.id == "np" and "np" not in self.scope.context:
                self._check_count(call, call.func.attr, NUMPY_FUNCTIONS.get(call.func.attr, 0))
            elif call.func.attr == "astype":
                self._check_type(call)
            elif call.func.attr == "map" and [type(argument) for argument in _arguments(call)] != [ast.Dict]:
                raise self.fail("map() takes a dictionary in a formula, as in f.map({'a': 1, 'b': 2})")
            elif isinstance(base, ast.Name) and base.id == "contr" and call.args and call.func.attr != "treatment":
                name = f"contr.{call.func.attr}"
                raise self.fail(f"{name}(...) takes no number of levels here; write C(f, {name})")
        elif isinstance(call.func, ast.Name):
            name = call.func.id
            if name in self.scope.context:
                return
            if name in ARGUMENTS:
                self._check_count(call, name, ARGUMENTS[name])
            if name in BASES:
                self._check_width(call, name)
        else:
            raise self.fail(f"the result of a call cannot be called in a formula; {DOOR}")

    def _check_count(self, call: ast.Call, name: str, most: int) -> None:
        if len(call.args) > most:
            message = f"{name}() takes {most} argument{'s' * (most > 1)} in a formula"
            raise self.fail(message + MORE_ARGUMENTS.get(name, ""))
        unknown = [str(keyword.arg) for keyword in call.keywords if keyword.arg not in _KEYWORDS]
        if unknown:
            raise self.fail(f"{name}() does not take {shortlist(unknown)} in a formula" + MORE_ARGUMENTS.get(name, ""))

    def _check_type(self, call: ast.Call) -> None:
        for argument in _arguments(call):
            word = argument.id if isinstance(argument, ast.Name) else getattr(argument, "value", None)
            if word not in TYPE_NAMES:
                raise self.fail(f"astype() takes {shortlist(sorted(TYPE_NAMES), 9)} in a formula")

    def _check_contrasts(self, call: ast.Call) -> None:
        for argument in call.args[1:]:
            if isinstance(argument, ast.Name) and argument.id in (*CONTRASTS, "SAS") and not self._given(argument.id):
                raise self.fail(f"contrasts are written contr.{argument.id}: C(f, contr.{argument.id})")

    def _check_width(self, call: ast.Call, name: str) -> None:
        function = OUR_FUNCTIONS.get(name) or TRANSFORMS[name]
        names = list(inspect.signature(function).parameters)
        given = [*zip(names, call.args, strict=False), *((keyword.arg, keyword.value) for keyword in call.keywords)]
        for argument, value in given:
            largest = LARGEST_ARGUMENT.get(argument or "")
            if largest is not None and not (isinstance(value, ast.Constant) and value.value is None):
                self._check_size(value, f"{name}(): {argument}", largest)

    def _check_decimals(self, call: ast.Call) -> None:
        """Numpy multiplies by ten as often as the decimals say."""
        function = call.func
        if isinstance(function, ast.Name) and function.id == "round" and "round" not in self.scope.context:
            given = call.args[1:]
        elif isinstance(function, ast.Attribute) and function.attr in ("round", "around"):
            given = call.args[1:] if isinstance(function.value, ast.Name) and function.value.id == "np" else call.args
        else:
            return
        for value in (*given, *(keyword.value for keyword in call.keywords)):
            self._check_size(value, "round(): decimals", LARGEST_ARGUMENT["decimals"])

    def _check_size(self, value: ast.expr, what: str, largest: int) -> None:
        if isinstance(value, ast.Name) and value.id in self.scope.context:
            number = self.scope.context[value.id]
        else:
            number = _folded(value)
        if not isinstance(number, Real) or not abs(float(number)) <= largest:
            shown = clip(ast.unparse(value))
            raise self.fail(f"{what} must be a whole number of at most {largest}, got {shown}")

    def _given(self, name: str) -> bool:
        return name in self.scope.columns or name in self.scope.context

    # -- numbers and words ---------------------------------------------------------------------

    def _check_constant(self, node: ast.Constant) -> None:
        value = node.value
        if isinstance(value, str):
            # formulaic copies calls into strings of its own, where quotes and backslashes would end them
            if not value.isprintable() or any(char in value for char in "'\"\\`{}"):
                raise self.fail("words in a formula cannot hold quotes, braces, backslashes or line ends")
        elif isinstance(value, int | float):
            if abs(value) >= LARGEST_NUMBER and isinstance(value, int):
                raise self.fail("whole numbers go to 2**63 in a formula; beyond it write an exponent, as in 1e20")
        elif value is not None:
            raise self.fail(f"{clip(repr(value))} is not a number, a word, True, False or None")

    def _check_arithmetic(self, node: ast.BinOp) -> None:
        sides = (node.left, node.right)
        if any(isinstance(side, ast.List | ast.Tuple | ast.Dict) or _is_word(side) for side in sides):
            raise self.fail("there is no arithmetic with words and lists in a formula")
        if not any(isinstance(part, ast.Name) for part in ast.walk(node)) and _folded(node) is None:
            raise self.fail(f"{clip(ast.unparse(node))} is not a number below 2**63; write it out")
        if isinstance(node.op, ast.Mult | ast.Mod) and any(self._is_text(side) for side in sides):
            raise self.fail("words cannot be multiplied; compare them, as in I((f == 'a') * x)")

    def _is_text(self, node: ast.AST) -> bool:
        """Whether a part may hold words: it reads words, and not only compares or counts them."""
        if isinstance(node, ast.Compare):
            return False
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            if node.func.attr in ("isin", "startswith", "endswith", "len", "isna", "notna", "eq", "ne"):
                return False
            if node.func.attr == "map" and node.args and isinstance(node.args[0], ast.Dict):
                return any(self._is_text(value) for value in node.args[0].values)
        if isinstance(node, ast.Attribute) and node.attr == "codes":
            return False
        if isinstance(node, ast.Name):
            return self._reads_words(node)
        return _is_word(node) or any(self._is_text(child) for child in ast.iter_child_nodes(node))

    def _reads_words(self, node: ast.Name) -> bool:
        if id(node) in self.types:
            return node.id == "str"
        name = self.aliases.get(node.id, node.id)
        return name in self.scope.columns and name not in self.scope.context and self.scope.holds_words(name)


def _arguments(call: ast.Call) -> list[ast.expr]:
    return [*call.args, *(keyword.value for keyword in call.keywords)]


def _is_word(node: ast.AST) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, str)


def _folded(node: ast.AST) -> int | float | None:
    """Value of arithmetic with numbers alone; None if it is none, or a whole number out of bounds."""
    if isinstance(node, ast.Constant) and isinstance(node.value, int | float):
        return node.value
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub | ast.UAdd):
        value = _folded(node.operand)
        return None if value is None else -value if isinstance(node.op, ast.USub) else value
    if isinstance(node, ast.BinOp) and type(node.op) in _OPERATIONS:
        operation, left, right = _OPERATIONS[type(node.op)], _folded(node.left), _folded(node.right)
        if left is None or right is None:
            return None
        try:
            estimate = operation(float(left), float(right))  # before whole numbers are multiplied out
        except ArithmeticError:
            return None
        whole = isinstance(left, int) and isinstance(right, int)
        if isinstance(estimate, complex) or (whole and not abs(estimate) < LARGEST_NUMBER):
            return None
        return operation(left, right)
    return None
