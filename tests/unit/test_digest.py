"""Two designs, or two options, have one fingerprint when they are the same and only then."""

import copy
import json
import os
import pickle
import subprocess
import sys
from dataclasses import dataclass, fields, is_dataclass, replace
from functools import partial

import numpy as np
import pandas as pd
import pytest
from scipy import sparse

import slamglmm as sg
from slamglmm.design.design import Design, RandomTerm
from slamglmm.design.digest import ENCODINGS, content_digest
from slamglmm.relmat import Relmat

MAKE = """
import numpy as np, pandas as pd
from scipy import sparse
import slamglmm as sg

rng = np.random.default_rng(1)
n = 24
frame = pd.DataFrame({"x": rng.normal(size=n), "z": rng.normal(size=n), "off": rng.normal(size=n)})
frame["line"], frame["id"] = np.tile(list("abcd"), 6), np.repeat(np.arange(8), 3)
frame.index = [f"row {i}" for i in range(n)]
Y = pd.DataFrame(rng.normal(size=(n, 3)), index=frame.index, columns=["one", "two", "three"])
Y.iloc[3, 1] = np.nan
frame.loc["row 5", "x"] = np.nan
K = pd.DataFrame(np.eye(8) + 0.25, index=range(8), columns=range(8))
S = (sparse.csr_array(np.eye(4) + 0.5 * np.diag([1, 0, 0], 1) + 0.5 * np.diag([1, 0, 0], -1)), list("abcd"))
import warnings
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    made = sg.design(
        "~ x + offset(off) + (1 | line) + (0 + z | id)", frame, Y=Y, relmat={"id": K, "line": S}, weights=1 + frame.z**2
    )
"""


def make():
    names = {}
    exec(MAKE, names)
    return names["made"]


@pytest.fixture(scope="module")
def design():
    return make()


def perturbations(value):
    """The same value with one thing changed, for every thing that can be; a new kind of field must be added here."""
    if isinstance(value, bool):
        yield not value
    elif isinstance(value, int):
        yield value + 1
    elif isinstance(value, str):
        yield value + "'"
    elif value is None:
        yield np.ones(3)
    elif isinstance(value, np.ndarray):
        for at in (0, value.size // 2, value.size - 1):
            other = value.copy()
            other.flat[at] = not other.flat[at] if value.dtype == bool else other.flat[at] + 1
            yield other
        if value.ndim == 2 and value.shape[1] > 1:
            yield value[:, ::-1]
        if value.ndim == 1:
            yield value[:-1]
    elif isinstance(value, pd.Index):
        yield value.map(lambda label: f"{label}'" if label == value[-1] else label)
        yield value[::-1]
    elif isinstance(value, pd.DataFrame):
        for other in perturbations(value.to_numpy()):
            yield pd.DataFrame(other, index=value.index[: len(other)], columns=value.columns)
        yield value.set_axis(next(perturbations(value.columns)), axis=1)
        yield value.set_axis(next(perturbations(value.index)), axis=0)
    elif sparse.issparse(value):
        yield value * 1.5
        # The same numbers at other places: another pedigree.
        yield value[::-1][:, ::-1]
    elif isinstance(value, tuple):
        yield (*value, "more")
        for i, item in enumerate(value):
            for other in perturbations(item):
                yield (*value[:i], other, *value[i + 1 :])
    elif isinstance(value, dict):
        yield {**value, "more": 1}
        yield {key: item + 1 for key, item in value.items()}
    elif is_dataclass(value):
        for name in (f.name for f in fields(value) if f.name not in ENCODINGS):
            for other in perturbations(getattr(value, name)):
                yield replace(value, **{name: other})
    else:
        raise AssertionError(f"a field of a new kind, {type(value).__name__}: say here how it can change")


def differing(first, second):
    return [name for name in dict.fromkeys([*first, *second]) if first.get(name) != second.get(name)]


@pytest.mark.parametrize("field", [f.name for f in fields(Design) if f.name not in {*ENCODINGS, "terms"}])
def test_every_field_of_a_design_counts_and_is_named(design, field):
    before = design.digest()
    tried = 0
    for other in perturbations(getattr(design, field)):
        found = differing(before, replace(design, **{field: other}).digest())
        assert found, f"{field}: {other!r} is not told from {getattr(design, field)!r}"
        assert all(field in name for name in found)
        tried += 1
    assert tried


@pytest.mark.parametrize("field", [f.name for f in fields(RandomTerm) if f.name not in ENCODINGS])
@pytest.mark.parametrize("which", [0, 1])
def test_every_field_of_a_random_term_counts_and_is_named(design, which, field):
    before, term = design.digest(), design.terms[which]
    for other in perturbations(getattr(term, field)):
        terms = list(design.terms)
        terms[which] = replace(term, **{field: other})
        found = differing(before, replace(design, terms=tuple(terms)).digest())
        assert found
        if field != "label":
            assert found == [f"{field} of '{term.label}'"]


def test_terms_in_another_order_or_fewer_differ(design):
    before = design.digest()
    assert differing(before, replace(design, terms=design.terms[::-1]).digest()) == ["terms"]
    assert "terms" in differing(before, replace(design, terms=design.terms[:1]).digest())


def test_only_the_encoding_of_new_rows_is_left_out(design):
    assert set(ENCODINGS) == {"recipe", "encoding"}
    assert {f.name for f in fields(Design)} & ENCODINGS == {"recipe"}
    assert {f.name for f in fields(RandomTerm)} & ENCODINGS == {"encoding"}


def test_the_same_design_has_the_same_digest(design):
    before = design.digest()
    assert make().digest() == before
    assert pickle.loads(pickle.dumps(design)).digest() == before
    assert copy.deepcopy(design).digest() == before
    for term in design.terms:
        assert term.Z.shape  # what is computed on the way is no part of it
    assert design.digest() == before
    code = MAKE + "\nimport json\nprint(json.dumps(made.digest()))"
    for seed in ("1", "2"):
        other = {**os.environ, "PYTHONHASHSEED": seed}
        run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=other)
        assert json.loads(run.stdout) == before


@dataclass(frozen=True)
class Choice:
    value: object = 0.1


@dataclass(frozen=True)
class Other:
    value: object = 0.1


class Plain:
    def __init__(self, value):
        self.value = value


def power(exponent):
    return lambda shares: shares[:, 0] ** exponent


NEGATIVE_NAN = np.array([0xFFF8000000000001], dtype=np.uint64).view(float)
EQUAL = [
    (12, np.int64(12)),
    (12, 12.0),
    (0.5, np.float32(0.5)),
    (True, np.True_),
    ([1, "a"], (1, "a")),
    (np.arange(3), np.arange(3.0)),
    (np.arange(3, dtype=np.int8), np.arange(3)),
    (np.array([0.0, np.nan]), np.array([-0.0, NEGATIVE_NAN[0]])),
    (np.arange(6).reshape(2, 3), np.asfortranarray(np.arange(6).reshape(2, 3))),
    (pd.RangeIndex(3), pd.Index([0, 1, 2])),
    (np.array(["a", "bb"]), np.array(["a", "bb"], dtype=object)),
    (pd.Series([1, 2], index=["a", "b"]), pd.Series([1.0, 2.0], index=["a", "b"])),
    (pd.DataFrame({"a": [1, 2], "b": [3, 4]}), pd.DataFrame(np.array([[1.0, 3.0], [2.0, 4.0]]), columns=["a", "b"])),
    (sparse.csr_array(np.eye(2)), sparse.coo_array(np.eye(2))),
    ({"a", "b", "c"}, {"c", "b", "a"}),
    (power(2), power(2)),
    (Choice(np.arange(2)), Choice(np.arange(2.0))),
    (Plain(3), Plain(3)),
    (sg.Priors(), sg.Priors()),
    (sg.links.Poisson(), sg.links.Poisson()),
]
DIFFERENT = [
    (12, 13),
    (1, True),
    (0, None),
    (0, False),
    (12, "12"),
    (0.1, np.nextafter(0.1, 1)),
    (float("nan"), float("inf")),
    (["ab", "c"], ["a", "bc"]),
    ([[1], 2], [[1, 2]]),
    (np.arange(3), np.arange(4)),
    (np.arange(6).reshape(2, 3), np.arange(6).reshape(3, 2)),
    (np.array([2**60]), np.array([2**60 + 1])),
    (np.array(["1"]), np.array([1])),
    (np.array([True]), np.array([1])),
    (np.array([1 + 1j]), np.array([1 + 2j])),
    (np.array(["2020-01-01"], dtype="M8[D]"), np.array(["2020-01-02"], dtype="M8[D]")),
    (pd.Series([1, 2], index=["a", "b"]), pd.Series([1, 2], index=["b", "a"])),
    (pd.Categorical(["a", "b"], ["a", "b"]), pd.Categorical(["a", "b"], ["b", "a"])),
    (pd.DataFrame({"a": [1]}), pd.DataFrame({"b": [1]})),
    (sparse.csr_array([[1.0, 0], [0, 2]]), sparse.csr_array([[0, 1.0], [2, 0]])),
    ({"a": 1}, {"a": 2}),
    ({"a": 1, "b": 2}, {"b": 2, "a": 1}),
    (Choice(1), Choice(2)),
    (Choice(1), Other(1)),
    (Plain(3), Plain(4)),
    (lambda shares: shares, lambda shares: 2 * shares),
    (power(2), power(3)),
    (partial(pow, 2), partial(pow, 3)),
    (np.exp, np.log),
    (sg.Priors(), sg.Priors(cis=2.0)),
    (sg.links.Poisson(), sg.links.Poisson(size_factors=np.arange(1.0, 4.0))),
    (Relmat(pd.Index(["a"]), np.eye(1)), Relmat(pd.Index(["b"]), np.eye(1))),
]


@pytest.mark.parametrize(("first", "second"), EQUAL, ids=str)
def test_what_says_the_same_is_the_same(first, second):
    assert content_digest(first) == content_digest(second)


@pytest.mark.parametrize(("first", "second"), DIFFERENT, ids=str)
def test_what_differs_differs(first, second):
    assert content_digest(first) != content_digest(second)


def test_arrays_beyond_one_block():
    values = np.zeros(2**20 + 5)
    other = values.copy()
    other[-1] = 1
    assert content_digest(values) != content_digest(other)
