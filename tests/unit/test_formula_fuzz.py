"""Random formulas, seeded: each gives a design or an own error within a few seconds, and leaves the frame alone."""

import time
import warnings

import numpy as np
import pandas as pd
import pytest

import slamglmm as sg
from slamglmm.design import Design
from slamglmm.errors import SlamError

N = 20
SECONDS = 5.0

COLUMNS = ["x", "z", "w", "k", "b", "f", "g", "h", "`my var`", "z.dot", "`z.dot`"]
CALLS = """
log({}) exp({}) sqrt({}) abs({}) I({}**2) I({}+{}) I({}*{}) I({}>{}) scale({}) center({}) poly({},2) poly({},{})
bs({},df=4) bs_diff({},df=4) cr({},df=3) factor({}) C({},contr.sum) C({},contr.{}) as.factor({}) np.log({})
np.where({}>0,{},{}) min({}) round({},{}) offset({}) offset({},{}) hashed({},levels={}) {}.mean() {}.clip({},{})
{}.isin([{}]) {}.astype({}) {}.str.lower() {}.cat.codes {}[{}] as.numeric({}) is.na({}) us({}) gr({},cov='D') s({})
ns({},{}) cut({},{}) open({}) exec({}) __import__({}) {}.__class__ {}.to_csv({}) np.save({},{}) lag({}) cbind({},{})
{{{}+{}}} {}**{} I({}^{}) I(-{}) I('{}') f({}) double({}) contr.{}({}) lambda:{}
"""
ATOMS = [
    "0",
    "1",
    "2",
    "1.5",
    "-1",
    "10",
    "10**9",
    "'a'",
    '"b"',
    "True",
    "TRUE",
    "nope",
    ".",
    "y",
    "np",
    "",
    "é",
    "中",
    "_x",
]
OPERATORS = ["+", "+", "+", "*", ":", "/", "-", "**", "^", "%in%", "|", "||", "~", ",", " "]
NOISE = list("()[]{}`'\"~|+-*/:^%.,=<>!@#$&;?\\ \t\n0123456789xyzfgäß中\u200b\x00\ud800_")
IDIOMS = [
    "y ~ x + (1 | g)",
    "cbind(y, y2) ~ x*f + (1 + x || g/h)",
    "log(w) ~ poly(x, 2) + f:g + (0 + x | g:h) + offset(log(w))",
    "~ 0 + f + (x | g) - 1",
    "y + y2 ~ (x + z + w)**3 + (1 | gr(g, cov='D'))",
    "y ~ C(f, contr.poly) + I(x**2) + `my var`*z.dot + (f | h)",
]


def frame():
    rng = np.random.default_rng(11)
    numbers = {name: rng.normal(size=N) for name in ("y", "y2", "x", "z", "my var")}
    words = {name: np.resize(list(letters), N) for name, letters in (("f", "abc"), ("g", "pqrst"), ("h", "uv"))}
    rest = {
        "w": rng.random(N) + 1,
        "z.dot": rng.random(N),
        "k": np.resize([1, 2, 3], N),
        "b": np.resize([True, False], N),
    }
    return pd.DataFrame(numbers | words | rest)


class Grammar:
    """Formulas by a grammar that is larger than what is allowed, and mutations of them."""

    def __init__(self, seed):
        self.rng = np.random.default_rng(seed)

    def pick(self, options):
        return options[self.rng.integers(len(options))]

    def expression(self, depth):
        chance = self.rng.random()
        if depth == 0 or chance < 0.45:
            return self.pick(COLUMNS) if chance < 0.42 else self.pick(ATOMS)
        if chance < 0.75:
            call = self.pick(CALLS.split())
            holes = call.replace("{{", "").replace("}}", "").count("{}")
            return call.format(*(self.expression(depth - 1) for _ in range(holes)))
        if chance < 0.85:
            return f"({self.expression(depth - 1)})"
        return self.expression(depth - 1) + self.pick(OPERATORS) + self.expression(depth - 1)

    def random_term(self):
        bar = self.pick(["|", "|", "||", "|||"])
        group = self.pick(["g", "h", "g:h", "g/h", "f*g", "factor(k)", "gr(g, cov='D')", self.expression(1)])
        return f"({self.expression(2)} {bar} {group})"

    def formula(self):
        kind = self.rng.random()
        if kind < 0.1:
            return "".join(self.pick(NOISE) for _ in range(self.rng.integers(40)))
        if kind < 0.3:
            return self.mutated(self.pick(IDIOMS))
        left = self.pick(["y", "y", "", "y + y2", "cbind(y, y2)", "log(w)", self.expression(2)])
        terms = [
            self.random_term() if self.rng.random() < 0.3 else self.expression(3)
            for _ in range(self.pick([1, 2, 3, 8]))
        ]
        whole = (
            f"{left} ~ " + "".join(term + self.pick([" + ", " + ", " - ", "*", ""]) for term in terms[:-1]) + terms[-1]
        )
        return self.mutated(whole) if kind < 0.4 else whole

    def mutated(self, formula):
        for _ in range(self.rng.integers(1, 4)):
            at = int(self.rng.integers(len(formula) + 1))
            change = self.rng.random()
            if change < 0.4:
                formula = formula[:at] + self.pick(NOISE) + formula[at:]
            elif change < 0.7:
                formula = formula[:at] + formula[at + int(self.rng.integers(1, 4)) :]
            else:
                other = int(self.rng.integers(len(formula) + 1))
                formula = formula[:at] + formula[min(at, other) : max(at, other)] + formula[at:]
        return formula


def outcome_of(formula, data):
    """A design or an own error; anything else fails, with the formula."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return sg.design(formula, data, context={"double": lambda x: 2 * x})
    except SlamError as error:
        return error
    except BaseException as error:
        raise AssertionError(f"{formula!r} raised {type(error).__name__}: {error}") from error


def attack(seed, count):
    """Try formulas; numbers of designs and refusals."""
    grammar, data = Grammar(seed), frame()
    before = data.copy()
    designs = refusals = 0
    for _ in range(count):
        formula = grammar.formula()
        start = time.process_time()
        outcome = outcome_of(formula, data)
        assert time.process_time() - start < SECONDS, formula
        if isinstance(outcome, Design):
            designs += 1
            assert np.isfinite(outcome.X.to_numpy()).all(), formula
        else:
            refusals += 1
            assert 10 < len(str(outcome)) < 3000, formula
    pd.testing.assert_frame_equal(data, before)
    return designs, refusals


@pytest.fixture(autouse=True)
def nothing_is_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    yield
    assert not list(tmp_path.iterdir())


def test_formulas_by_the_thousand():
    designs, refusals = attack(seed=2026, count=2000)
    assert designs > 150  # the grammar is no nonsense
    assert refusals > 500


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(6))
def test_formulas_by_the_ten_thousand(seed):
    designs, refusals = attack(seed=seed, count=5000)
    assert designs + refusals == 5000
