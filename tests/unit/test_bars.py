import pytest

from slamglmm.design.bars import split_formula
from slamglmm.errors import FormulaError


def bars(formula):
    return [(b.effects.text.strip(), b.group.text.strip(), b.correlated) for b in split_formula(formula).bars]


@pytest.mark.parametrize(
    ("formula", "fixed", "expected"),
    [
        ("y ~ x", "x", []),
        ("y ~ x + (1|g)", "x", [("1", "g", True)]),
        ("y ~ (1|g)", "", [("1", "g", True)]),
        ("y ~ (1|g) + x", "x", [("1", "g", True)]),
        ("y~x+(0+x|g)+z", "x +z", [("0+x", "g", True)]),
        ("y ~ (x||g) - 1", "- 1", [("x", "g", False)]),
        ("~ -1 + (1|g)", "-1", [("1", "g", True)]),
        ("~ 0 + (1|g) + x", "0 + x", [("1", "g", True)]),
        ("y ~ ((1|a/b))", "", [("1", "a/b", True)]),
        ("y ~ (x + (1|g))", "(x )", [("1", "g", True)]),
        ("y ~ (x1*x2|a:b) + (1|gr(id, cov='D'))", "", [("x1*x2", "a:b", True), ("1", "gr(id, cov='D')", True)]),
        ("y ~ I((x > 1) | (z > 1)) + (1|g)", "I((x > 1) | (z > 1))", [("1", "g", True)]),
        ("y ~ `a|b` + (1|`my group`)", "`a|b`", [("1", "`my group`", True)]),
    ],
)
def test_split(formula, fixed, expected):
    split = split_formula(formula)
    assert split.fixed.replace(" ", "") == fixed.replace(" ", "")
    assert bars(formula) == expected


def test_what_is_left_keeps_its_position():
    formula = "y ~ (1|g) + x + offset(log(z)) + w"
    split = split_formula(formula)
    assert len(split.fixed) == len(formula)
    assert [split.fixed.index(name) for name in "xw"] == [formula.index(name) for name in "xw"]
    assert split.bars[0].group.text.index("g") == formula.index("g")
    (offset,) = split.offsets
    assert offset.text.index("log") == formula.index("log")
    assert offset.text.strip() == "{log(z)}"


@pytest.mark.parametrize(
    ("formula", "names"),
    [
        ("~ x", []),
        ("y ~ x", ["y"]),
        ("y1 + y2 + log(y3) ~ x", ["y1", "y2", "log(y3)"]),
        ("cbind(incidence, size - incidence) ~ x", ["incidence", "size - incidence"]),
        ("cbind(`my y`, f(a, b)) + z ~ x", ["my y", "f(a, b)", "z"]),
    ],
)
def test_responses(formula, names):
    assert [response.name for response in split_formula(formula).responses] == names


@pytest.mark.parametrize(
    ("formula", "message", "caret"),
    [
        ("y ~ x + 1|g", "put parentheses around the random term: (1 | g)", "         ^"),
        ("y ~ 1||g", "put parentheses around the random term", "     ^^"),
        ("y ~ x ~ z", "formula has a second '~'", "      ^"),
        ("y ~ (1|g", "this parenthesis is never closed", "    ^"),
        ("y ~ x + g)", "')' closes nothing", "         ^"),
        ("y ~ (|g)", "nothing stands left of the bar", "     ^"),
        ("y ~ (1|)", "a grouping column is missing", "      ^"),
        ("y ~ (1|g|h)", "a random term has one bar", "        ^"),
        ("y ~ ((1|g)|h)", "a random term cannot stand inside another", "       ^"),
        ("y ~ x*(1|g)", "a random term can only be added with '+'", "      ^"),
        ("y ~ x - (1|g)", "a random term can only be added with '+'", "        ^"),
        ("y ~ (x + (1|g)):z", "a random term can only be added with '+'", "         ^"),
        (
            "y ~ diag(x|g)",
            "structured covariances such as diag(...) are not supported; write (f || g)",
            "    ^^^^^^^^^",
        ),
        ("y ~ x + ar1(0 + t|g)", "structured covariances such as ar1(...) are not", "        ^^^^^^^^^^^^"),
        ("y ~ cs(1|g)", "structured covariances such as cs(...) are not", "    ^^^^^^^"),
        ("y ~ I(x^2)", "for a power use '**', as in I(x**2)", "       ^"),
        ("y ~ log(x", "Formula ended before quote context was closed", "    ^^^^^"),
        ("y ~ I(x +)", "this is not a Python expression", "    ^^^^^^"),
        ("y ~ .", "'.' is not supported: name the columns", "    ^"),
        ("y ~ x:offset(z)", "offset(...) can only be added with '+'", "      ^^^^^^^^^"),
        ("y ~ offset()", "offset() is empty", "    ^^^^^^^^"),
        ("y ~ (offset(x)|g)", "offset(...) cannot stand inside a random term", "     ^^^^^^^^^"),
        ("y / 2 ~ x", "or a call such as I(y / 100)", "  ^"),
        ("y | z ~ x", "left of '~' write y, y1 + y2, cbind(y1, y2)", "  ^"),
        ("y + ~ x", "a response is missing after this '+'", "  ^"),
        ("1 ~ x", "left of '~' a column or a call such as log(y) was expected", "^"),
        ("cbind(y, ) ~ x", "cbind() has an empty argument", "^^^^^^^^^^"),
    ],
)
def test_refused_with_a_caret(formula, message, caret):
    with pytest.raises(FormulaError) as caught:
        split_formula(formula)
    first, shown, below = str(caught.value).split("\n")
    assert message in first
    assert shown == f"  {formula}"
    assert below == f"  {caret}"


def test_no_tilde():
    with pytest.raises(FormulaError, match=r"lacks a '~'.*write '~ 1 \+ x \+ \(1 \| g\)'"):
        split_formula("x + (1|g)")


def test_not_a_string():
    with pytest.raises(FormulaError, match=r"formula must be a string such as .* got int"):
        split_formula(3)


def test_lines_are_joined_so_that_carets_fit():
    with pytest.raises(FormulaError) as caught:
        split_formula("y ~ x\n  + 1|g")
    assert str(caught.value).split("\n")[1:] == ["  y ~ x   + 1|g", "             ^"]
