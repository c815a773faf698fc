"""A formula may come from a web form: whatever it says, the answer is a design or an own error, soon, and no deed."""

import time

import numpy as np
import pandas as pd
import pytest
from formulaic import Formula
from formulaic.parser import DefaultFormulaParser

import slamglmm as sg
from slamglmm.design.algebra import MOST_COLUMNS, formula_parser
from slamglmm.errors import DataError, FormulaError, SlamError

N = 60
NUMERIC = [f"v{i}" for i in range(16)]
TWO_LEVELS = [f"b{i}" for i in range(16)]


@pytest.fixture(scope="module")
def frame():
    rng = np.random.default_rng(3)
    columns = {name: rng.normal(size=N) for name in ("y", "x", *NUMERIC)}
    columns |= {name: np.array(["p", "q"])[rng.integers(0, 2, N)] for name in TWO_LEVELS}
    return pd.DataFrame(
        columns
        | {
            "z": rng.random(N) + 1,
            "k": np.resize([1, 2, 3], N),
            "f": np.resize(list("abc"), N),
            "g": np.resize(list("pqrstu"), N),
            "my var": rng.normal(size=N),
            "my_var": rng.normal(size=N),
        }
    )


def refusal(formula, frame, seconds=3.0, **options):
    """First line of the error, which is an own one, comes soon and is short."""
    start = time.process_time()
    with pytest.raises(SlamError) as caught:
        sg.design(formula, frame, **options)
    assert time.process_time() - start < seconds
    assert len(str(caught.value)) < 2500
    return str(caught.value).splitlines()[0]


# -- nothing is run that is not on the list ------------------------------------------------------------


@pytest.mark.parametrize(
    "expression",
    [
        "I(exit())",
        "I(quit(3))",
        "I(breakpoint())",
        "I(__import__('os').system('true'))",
        "I(exec('1'))",
        "I(eval('1'))",
        "I(globals())",
        "I(getattr(x, 'values'))",
        "x.map(exit)",
        "x.pipe(exit)",
        "x.apply(print)",
        "x.eval('1')",
        "I(x.__class__)",
        "I(x._mgr)",
        "I(x.values)",
        "I(x.values.tofile('PATH'))",
        "I(().__class__)",
        "I('{0.__class__}'.format(x))",
        "np.save('PATH', x)",
        "np.load('PATH')",
        "np.fromfile('PATH')",
        "np.memmap('PATH')",
        "np.lib.format.open_memmap('PATH')",
        "np.random.seed(1)",
        "np.f2py.compile('1')",
        "I(np.ctypeslib)",
        "np.log(z, x)",
        "log(z, x)",
        "log(z, out=x)",
        "np.hypot(x, z, x)",
        "round(x, 2, x)",
        "I(open('PATH', 'w'))",
        "x.to_csv('PATH')",
        "I(x.to_pickle('PATH'))",
        "I(x.sub(1).to_csv('PATH'))",
        "I(double(x).to_csv('PATH'))",
        "bs.__globals__",
        "I(contr.__init__)",
        "C(f, contr.mro())",
        "poly(x, 2, _state=3)",
        "poly(x, 2, _context=3)",
        "hashed(f, 3, hash_func=exit)",
        "I(lambda: 1)",
        "I([a for a in x])",
        "I(f'{x}')",
        "I(x := 1)",
        "poly(*x)",
        "poly(**x)",
        "I(x)(1)",
        "I(x if True else z)",
        "poly(x, 2)[1]",
        "I(x.loc[0])",
        "`exit`()",
        "poly(x, 1, '(a\" , print(1)) #')",
        "I('`' + exec(\"1\") + '`')",
    ],
)
@pytest.mark.parametrize("place", ["y ~ {}", "{} ~ x", "y ~ offset({})", "y ~ ({} | g)"])
def test_unlisted_code_is_refused_everywhere(frame, expression, place, tmp_path):
    path = tmp_path / "written"
    formula = place.format(expression.replace("PATH", str(path)))
    before = frame.copy()
    context = {"double": lambda x: 2 * x}
    assert refusal(formula, frame, context=context)
    assert not path.exists()
    pd.testing.assert_frame_equal(frame, before)


def test_the_context_is_the_door(frame):
    class Tools:
        secret = 3

        @staticmethod
        def shift(x):
            return x + 1

    d = sg.design("y ~ tools.shift(x) + open(z)", frame, context={"tools": Tools, "open": np.log})
    np.testing.assert_array_equal(d.X.iloc[:, 1], frame["x"] + 1)
    np.testing.assert_array_equal(d.X.iloc[:, 2], np.log(frame["z"]))
    for degree in (2, np.int64(2)):
        assert sg.design("y ~ poly(x, degree)", frame, context={"degree": degree}).X.shape == (N, 3)
    assert "at most 100, got degree" in refusal("y ~ poly(x, degree)", frame, context={"degree": 10**6})
    assert "np.save is not among" in refusal("y ~ np.save('written', x)", frame.assign(np=1.0))
    for formula in ("y ~ tools.__init__(x)", "y ~ I(x * tools.__dict__)", "y ~ I(x + tools._secret)"):
        assert "begins with '_'" in refusal(formula, frame, context={"tools": Tools})
    assert "context={'name': function}" in refusal("y ~ x.nope()", frame)


def test_what_a_formula_can_say(frame):
    def column(expression):
        return sg.design(f"y ~ 0 + {expression}", frame).X.iloc[:, 0].to_numpy()

    x, z, f = (frame[name] for name in "xzf")
    for expression, expected in {
        "I(abs(x) + z**2 / 3 - 2 * x)": x.abs() + z**2 / 3 - 2 * x,
        "np.where(x > 0, x, 0)": np.where(x > 0, x, 0),
        "I((x > 0) & ~(z > 1.5))": (x > 0) & ~(z > 1.5),
        "I(x - min(x))": x - x.min(),
        "I((x - np.mean(x)) / np.std(x, ddof=1))": (x - x.mean()) / x.std(),
        "I(x / len(x))": x / N,
        "I((f == 'a') * x)": (f == "a") * x,
        "f.isin(['a', 'b'])": f.isin(["a", "b"]),
        "f.map({'a': 1, 'b': 2, 'c': 3})": f.map({"a": 1, "b": 2, "c": 3}),
        "x.clip(-1, 1)": x.clip(-1, 1),
        "x.astype(int)": x.astype(int),
        "np.minimum(x, z)": np.minimum(x, z),
        "I(np.log(z) / np.log(2))": np.log2(z),
        "round(x, 1)": x.round(1),
        "exp10(z)": 10**z,
        "np.power(z, 3)": z**3,
        "I(sum(z) - z)": z.sum() - z,
        "I(`my var` + my_var)": frame["my var"] + frame["my_var"],
    }.items():
        np.testing.assert_allclose(column(expression), expected, rtol=1e-13, err_msg=expression)
    words = sg.design("y ~ np.where(x > 0, 'up', 'down') + f.str.upper()", frame).X
    assert list(words.columns) == [
        "Intercept",
        "np.where(x > 0, 'up', 'down')[T.up]",
        "f.str.upper()[T.B]",
        "f.str.upper()[T.C]",
    ]
    np.testing.assert_array_equal(words.iloc[:, 1], x > 0)


# -- nothing takes for ever -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("formula", "message"),
    [
        ("y ~ offset(\ud800x)", "character U+D800 is not text"),
        ("y ~ x\0", "character U+0000 is not text"),
        ("x[1:3] ~ f", "square brackets (a row or an item of a column) cannot stand in a formula"),
        ("y ~ (1 | factor(h``))", "there is no name between these backquotes"),
        ("y ~ ( (]f*x||g)", "']' closes a '('"),
        ("y ~ (x-x)/z", "Nothing is left on the left side of '/'"),
        ("y ~ x**(x-x)", "The right-hand argument of `**` must be a positive integer"),
        ("y ~ " + "(" * 1000 + "x" + ")" * 1000, "brackets stand more than 100 deep"),
        ("y ~ I(" + "-" * 5000 + "x)", "not a Python expression that can be read"),
        ("y ~ I(" + "+".join(["x"] * 5000) + ")", "not a Python expression that can be read"),
        ("y ~ I(x + [" + "1," * 6000 + "])", "not a Python expression that can be read"),
        ("y ~ hashed(f, levels=10**9)", "hashed(): levels must be a whole number of at most 1000, got 10 ** 9"),
        ("y ~ poly(x, 10**6)", "poly(): degree must be a whole number of at most 100, got 10 ** 6"),
        ("y ~ poly(x, max(k) * 1000000)", "poly(): degree must be a whole number"),
        ("y ~ poly(x, k)", "poly(): degree must be a whole number of at most 100, got k"),
        ("y ~ bs_diff(x, df=10**6)", "bs_diff(): df must be a whole number of at most 1000, got 10 ** 6"),
        ("y ~ bs(x, 10**6)", "bs(): df must be a whole number of at most 1000"),
        ("y ~ bs(x, df=9, degree=10**6)", "bs(): degree must be a whole number of at most 100"),
        ("y ~ round(x, 10**15)", "round(): decimals must be a whole number of at most 300, got 10 ** 15"),
        ("y ~ x.round(10**15)", "round(): decimals must be a whole number of at most 300"),
        ("y ~ np.around(x, decimals=10**15)", "round(): decimals must be a whole number of at most 300"),
        ("y ~ cr(x, knots=[" + "1," * 2000 + "])", "a list in a formula has at most 1000 entries, got 2000"),
        ("y ~ f.replace('(a+)+$', 'b', regex=True)", "'.replace' is not among the methods"),
        ("y ~ f.mul(10**9)", "'.mul' is not among the methods"),
        ("y ~ np.multiply(f, 10**9)", "np.multiply is not among the functions"),
        ("y ~ I(C(data=f) * 10**9)", "words cannot be multiplied"),
        ("y ~ I(10**10**8 + x)", "10 ** 10 ** 8 is not a number below 2**63"),
        ("y ~ I(x * 2**100)", "2 ** 100 is not a number below 2**63"),
        ("y ~ I(x * 10000000000000000000)", "whole numbers go to 2**63"),
        ("y ~ I(x + ((3 > 2) * 2**62)**((3 > 2) * 10**9))", "is not a number below 2**63"),
        ("y ~ I(x + (-1)**0.5)", "(-1) ** 0.5 is not a number"),
        ("y ~ I(x + 1 / 0)", "1 / 0 is not a number"),
        ("y ~ I(x + (1 << 10**9))", "'<<' cannot stand in a formula"),
        ("y ~ I(sum(range(10**9)))", "unknown function 'range'"),
        ("y ~ I('a' * 10**9)", "no arithmetic with words and lists"),
        ("y ~ I([0] * 10**9)", "no arithmetic with words and lists"),
        ("y ~ I('%999999999d' % k)", "no arithmetic with words and lists"),
        ("y ~ I(f * 10**9)", "words cannot be multiplied; compare them, as in I((f == 'a') * x)"),
        ("y ~ I(f.str.lower() * 10**9)", "words cannot be multiplied"),
        ("y ~ I(x.astype(str) * 10**9)", "words cannot be multiplied"),
        ("y ~ I(np.where(x > 0, 'a', 'b') * 10**9)", "words cannot be multiplied"),
        ("y ~ I(C(f) * 10**9)", "words cannot be multiplied"),
        ("y ~ f.str.contains('(a+)+$')", "'.contains' is not among the methods"),
        ("y ~ " + "*".join(NUMERIC), "makes more than 4096 terms"),
        ("y ~ (" + "*".join(NUMERIC) + " | g)", "makes more than 4096 terms"),
        ("y ~ (1 | " + "*".join(NUMERIC) + ")", "makes more than 4096 terms"),
        ("y ~ (" + "+".join(NUMERIC) + ")**6", "makes more than 4096 terms"),
        ("y ~ " + "*".join(TWO_LEVELS[:12]), "take too long to code"),
        ("y ~ " + ":".join(TWO_LEVELS), "(16) take too long to code"),
        ("y ~ " + "+".join(":".join(TWO_LEVELS[i : i + 8]) for i in range(8)), "(8) take too long to code"),
        ("y ~ " + "+".join(f"(0 + {NUMERIC[i % 16]} | g)" for i in range(2000)), "at most 200 random terms"),
        ("y ~ (" + "*".join(NUMERIC[:9]) + " || g)", "at most 200 random terms"),
        ("+".join(["y"] * 30000) + " ~ x", "at most 1000 responses; give more as Y="),
        ("cbind(" + ",".join(["y"] * 10000) + ") ~ x", "at most 1000 responses"),
        ("y ~ " + "offset(x) + " * 8000 + "x", "at most 100 offsets"),
        ("y ~ " + "q" * 10**6, "at most 100000 characters, got 1000004"),
        ("y ~ " + "q" * 90_000, "unknown column 'qqqqq"),
        ("y ~ log(" + "q" * 90_000 + ")", "unknown column 'qqqqq"),
        ("y ~ (1 | " + "q" * 90_000 + ")", "unknown column 'qqqqq"),
        ("y ~ (1 | f(" + "q" * 90_000 + "))", "is not a grouping factor"),
        ("q" * 90_000 + "() ~ x", "unknown function 'qqqqq"),
        ("y ~ " + "x + " * 20_000 + "nope", "unknown column 'nope'"),
    ],
    ids=lambda value: value[:40].encode("ascii", "replace").decode(),
)
def test_refused_soon_and_in_short(frame, formula, message):
    assert message in refusal(formula, frame)


def test_many_columns_are_counted_before_they_are_made(frame):
    many = pd.DataFrame({"y": 0.0, "a": np.arange(300) % 120, "b": np.arange(300) % 110, "c": np.arange(300.0)})
    many = many.assign(a=many["a"].astype(str), b=many["b"].astype(str))
    message = refusal("y ~ a*b", many)
    assert "makes at least 13200 columns (up to the term a:b), and 10000 is the most" in message
    assert "(1 | group)" in message
    assert MOST_COLUMNS == 10_000
    assert "at least" in refusal("y ~ factor(c):a:b", many)
    assert "at least" in refusal("y ~ (factor(c):a | b)", many)
    assert sg.design("y ~ a", many).X.shape == (300, 120)


@pytest.mark.parametrize(
    ("formula", "columns"),
    [
        ("y ~ (x + z)**20", 4),
        ("y ~ (x + z)**1000000000", 4),
        ("y ~ x**1000000000", 2),
        ("y ~ (" + "+".join(NUMERIC) + ")**2", 137),
        ("y ~ " + "*".join(NUMERIC[:8]), 256),
        ("y ~ " + "*".join(TWO_LEVELS[:6]), 64),
        ("y ~ " + "x + " * 20_000 + "z", 3),
        ("y ~ " + "x:" * 2_000 + "z", 2),
        ("y ~ I(" + " + ".join(["x"] * 250) + ")", 2),
        ("y ~ " + "(" * 90 + "x" + ")" * 90, 2),
    ],
    ids=lambda value: str(value)[:30],
)
def test_large_but_sound(frame, formula, columns):
    start = time.process_time()
    assert sg.design(formula, frame).X.shape == (N, columns)
    assert time.process_time() - start < 4


@pytest.mark.parametrize(
    "text",
    [
        "(a + b + c)**3",
        "(a + b + c + d)**2 - a:b",
        "a*b*c - 1",
        "(a + b)/c",
        "a/(b + c)/d",
        "(a*b):c + d",
        "a + b - b + 0",
        "(c + b:a)**2",
        "a*(b + c) - a:c + 2:d",
        "(d + a)*(c/b)",
        "-a + b",
        "(a + b + c)^2",
        "a + (b - (c - d))",
        "a*a + b:a + a:b",
    ],
)
def test_operators_give_the_terms_of_formulaic(text):
    ours = [str(term) for term in Formula(text, _parser=formula_parser())]
    assert ours == [str(term) for term in Formula(text, _parser=DefaultFormulaParser(feature_flags=set()))]


# -- words of other grammars --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("formula", "message"),
    [
        ("y ~ C(f, sum)", "contrasts are written contr.sum: C(f, contr.sum)"),
        ("y ~ C(f, helmert)", "contrasts are written contr.helmert"),
        ("y ~ C(f, contr.sum(3))", "contr.sum(...) takes no number of levels here; write C(f, contr.sum)"),
        ("y ~ C(f, contr.nope)", "contrasts are 'contr.poly', 'contr.sum', 'contr.treatment', 'contr.helmert'; not"),
        ("y ~ C(f, 'nope')", "contrasts are 'poly', 'sum', 'treatment', 'helmert', got 'nope'; write C(f, contr.sum)"),
        ("y ~ log(z, 2)", "log() takes 1 argument in a formula; log2(x) and log10(x) have other bases"),
        ("y ~ log(z, base=2)", "log() does not take 'base' in a formula; log2(x) and log10(x)"),
        ("y ~ min(x)", "'min(x)' gives one value for all rows, where a column was expected, as in I(x - min(x))"),
        ("y ~ min(x, z)", "min() takes 1 argument in a formula; the smaller of two columns is np.minimum(a, b)"),
        ("y ~ poly(x, 2, raw=TRUE)", "unknown column 'TRUE'; for R's TRUE write True"),
        ("(y) ~ x", "left of '~' parentheses are not read: write y ~ ..."),
        ("y ~ as.numeric(f)", "as.numeric(...) is R and not Python; a column of numbers needs no as.numeric"),
        ("y ~ as.Date(f)", "as.Date(...) is R and not Python; make a column of it first"),
        ("y ~ is.na(x)", "is.na(...) is R and not Python; write np.isnan(x)"),
        ("y ~ ifelse(x > 0, 1, 0)", "unknown function 'ifelse'; write np.where(test, a, b)"),
        ("y ~ us(f):g", "structured covariances such as us(...) are not supported; with several traits (1 | id) has"),
        ("y ~ us(trait):g", "structured covariances such as us(...) are not supported"),
        ("y ~ us(1 + x):g", "us(1 + x):id is (1 + x | id)"),
        ("y ~ (1 | us(f):g)", "structured covariances such as us(...) are not supported"),
        ("y ~ us(1 + x | g)", "structured covariances such as us(...) are not supported; write (f || g)"),
        ("y ~ x %in% g", "for x %in% g write x:g, for main effects g/x"),
        ("y ~ (x %in% f | g)", "for x %in% g write x:g"),
        ("y ~ I(x > 0 and z > 1)", "'and' or 'or' (for columns they are & and |) cannot stand in a formula"),
        ("y ~ I(not x)", "'not' (for columns it is ~) cannot stand in a formula"),
        ("y ~ I(x in [1])", "'in' (for columns it is x.isin([...])) cannot stand"),
        ("y ~ Q('my var')", "unknown function 'Q'; put a name that is no identifier in backquotes"),
        ("y ~ poly(k, 3)", "degree 3: expected 1 to 2; there are 3 distinct values"),
        ("y ~ I(1)", "'I(1)' gives one value for all rows"),
        ("y ~ I(None)", "'I(None)' gives NoneType, where a column was expected"),
        ("y ~ np.where(x > 0)", "gives tuple, where a column was expected"),
        ("y ~ I(x * 1j)", "1j is not a number, a word, True, False or None"),
        ("y ~ I(log)", "'I(log)' gives ufunc, where a column was expected"),
    ],
)
def test_what_to_write_instead(frame, formula, message):
    assert message in refusal(formula, frame)


@pytest.mark.parametrize("name", ["sum", "treatment", "helmert", "poly"])
def test_contrasts_by_the_names_of_r(frame, name):
    """Matrices of R's contr.*(3), poly up to rounding."""
    matrix = {
        "treatment": [[0, 0], [1, 0], [0, 1]],
        "sum": [[1, 0], [0, 1], [-1, -1]],
        "helmert": [[-1, -1], [1, -1], [0, 2]],
        "poly": [[-(0.5**0.5), 6**-0.5], [0, -2 * 6**-0.5], [0.5**0.5, 6**-0.5]],
    }[name]
    expected = np.array(matrix)[pd.Categorical(frame["f"]).codes]
    for X in (
        sg.design(f"y ~ C(f, contr.{name})", frame).X,
        sg.design(f"y ~ C(f, 'contr.{name}')", frame).X,
        sg.design(f"y ~ C(f, '{name}')", frame).X,
        sg.design("y ~ f", frame, contrasts={"f": name}).X,
        sg.design("y ~ f", frame, contrasts={"f": f"contr.{name}"}).X,
    ):
        np.testing.assert_allclose(X.iloc[:, 1:], expected, atol=1e-14)
    based = sg.design("y ~ C(f, contr.treatment('b'))", frame).X
    assert list(based.columns) == ["Intercept", "C(f, contr.treatment('b'))[T.a]", "C(f, contr.treatment('b'))[T.c]"]


# -- numbers that would be silently wrong ------------------------------------------------------------------------


@pytest.mark.parametrize(
    "formula",
    [
        "y ~ y + (1 | g)",
        "cbind(x, y) ~ y",
        "y ~ log(y)",
        "y ~ (y | g)",
        "y ~ (1 | y)",
        "y ~ offset(y)",
        "log(z) ~ log(z)",
    ],
)
def test_a_trait_cannot_explain_itself(frame, formula):
    with pytest.raises(
        FormulaError, match=r"the response '.*' stands on both sides of '~'\. Leave it out on the right"
    ):
        sg.design(formula, frame)


def test_a_change_from_a_baseline_can_be_explained_by_it(frame):
    assert list(sg.design("I(y - x) ~ x", frame).X.columns) == ["Intercept", "x"]
    with pytest.raises(FormulaError, match="the trait 'y' of Y is also a predictor"):
        sg.design("~ y + (1 | g)", frame, Y=frame[["x", "y"]].rename(columns={"x": "w"}))
    assert sg.design("~ x", frame, Y=frame[["y"]].rename(columns={"y": "x"})).X.shape == (N, 2)


def test_an_offset_is_one_column(frame):
    with pytest.raises(
        FormulaError, match=r"offset\(\) takes one expression; offsets add up: offset\(x\) \+ offset\(z\)"
    ):
        sg.design("y ~ offset(x, z)", frame)
    np.testing.assert_allclose(
        sg.design("y ~ offset(np.minimum(x, z))", frame).offset, np.minimum(frame["x"], frame["z"])
    )


@pytest.mark.parametrize(
    "expression",
    [
        "k.map(x)",
        "I(x[::-1])",
        "I(x.sort_values())",
        "I(x.sample(frac=1))",
        "np.sort(x)",
        "np.flip(x)",
        "np.cumsum(x)",
        "x.shift()",
        "lag(x)",
    ],
)
def test_what_moves_rows_is_refused(frame, expression):
    assert refusal(f"y ~ {expression}", frame)
    assert refusal(f"{expression} ~ z", frame)


@pytest.mark.parametrize("index", [None, "shuffled"])
def test_functions_of_the_context_keep_the_rows(frame, index):
    if index:
        frame = frame.sample(frac=1, random_state=1)
    for function in (lambda x: x[::-1], lambda x: x.sort_values()):
        with pytest.raises(
            FormulaError, match=r"'move\(x\)' gives the rows in another order; entry i of a term belongs"
        ):
            sg.design("y ~ move(x)", frame, context={"move": function})
    for function, message in {
        (lambda x: x[:5]): "gives 5 values for 60 rows",
        (lambda x: 1j * x): "gives complex numbers",
        (lambda x: pd.to_datetime(x)): "gives dates or durations",
        (lambda x: None): "gives NoneType",
        (lambda x: 1 / 0): "division by zero",
    }.items():
        with pytest.raises(SlamError, match=message):
            sg.design("y ~ move(x)", frame, context={"move": function})
    kept = sg.design("y ~ move(x)", frame, context={"move": lambda x: pd.Series(x.to_numpy() + 1)})
    np.testing.assert_array_equal(kept.X.iloc[:, 1], frame["x"] + 1)


@pytest.mark.parametrize(
    "expression", ["I(x - min(x))", "I(x - x.mean())", "I(x / np.std(x))", "x.rank()", "I(x / len(x))"]
)
def test_values_over_all_rows_are_not_taken_over_new_ones(frame, expression):
    d = sg.design(f"y ~ {expression} + center(z)", frame)
    with pytest.raises(
        DataError, match=r"takes \w+\(\) over all rows, and over new rows .*Write center\(x\) or scale\(x\)"
    ):
        d.new(frame.iloc[:5])
    d = sg.design("y ~ center(x) + scale(z) + poly(x, 2) + poly(x, 2, raw=True) + f.str.len()", frame)
    np.testing.assert_allclose(d.new(frame.iloc[[3]]).X, d.X.iloc[[3]], atol=1e-14)
    np.testing.assert_allclose(d.new(frame.iloc[:5]).X, d.X.iloc[:5], atol=1e-14)


def test_ten_to_the_power(frame):
    np.testing.assert_allclose(sg.design("exp10(x) ~ 1", frame).Y.iloc[:, 0], 10 ** frame["x"])
