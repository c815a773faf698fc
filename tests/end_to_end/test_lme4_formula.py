"""The formula front end against lme4: X, y, Z, offset and dropped rows, by fingerprints of every column."""

import json
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import slamglmm as sg
from slamglmm.errors import DroppedRowsWarning, FormulaError

ROOT = Path(__file__).parents[2]
FULL = ROOT.parent / "shared" / "reference" / "lme4_formula"
GOLDEN = json.loads((ROOT / "tests" / "golden" / "lme4_formula.json").read_text())["cases"]
CASES = json.loads((FULL / "cases.json").read_text())["cases"] if FULL.exists() else []


def full_frame(name):
    schema = json.loads((FULL / "schema.json").read_text())[name]
    labels = {column: str for column, entry in schema.items() if entry["type"] in ("factor", "ordered", "string")}
    frame = pd.read_csv(FULL / "data" / f"{name}.csv", dtype=labels)
    for column, entry in schema.items():
        if entry["type"] in ("factor", "ordered"):
            ordered = entry["type"] == "ordered"
            frame[column] = pd.Categorical(frame[column], categories=entry["levels"], ordered=ordered)
    return frame


def fingerprint(values):
    values = np.asarray(values, dtype=float).reshape(len(values), -1)
    weight = np.arange(1, len(values) + 1) / len(values)
    return {"sum": values.sum(axis=0), "sumsq": (values**2).sum(axis=0), "dot": weight @ values}


def assert_fingerprint(values, expected, what):
    for key, found in fingerprint(values).items():
        np.testing.assert_allclose(found, np.ravel(expected[key]), rtol=1e-8, atol=1e-8, err_msg=f"{what}: {key}")


def assert_term(term, expected, n):
    """Columns of Z agree once levels are matched by name, the parts of which lme4 may write in another order."""
    place = [expected["group_factors"].index(column) for column in term.columns]
    theirs = {":".join(level.split(":")[i] for i in place): j for j, level in enumerate(expected["levels"])}
    assert set(theirs) == {str(level) for level in term.levels}
    n_effects = len(term.effects)
    assert list(term.Z.shape) == expected["Z_shape"] == [n, len(theirs) * n_effects]
    assert term.Z.nnz == expected["nnz"]
    Z = term.Z.toarray()
    columns = [theirs[str(level)] * n_effects + effect for level in term.levels for effect in range(n_effects)]
    np.testing.assert_allclose(Z.sum(axis=0), np.array(expected["col_sum"])[columns], rtol=1e-8, atol=1e-8)
    dot = (np.arange(1, n + 1) / n) @ Z
    np.testing.assert_allclose(dot, np.array(expected["col_dot"])[columns], rtol=1e-8, atol=1e-8)


def assert_as_lme4(design, lme4, n_rows):
    assert design.n == lme4["n"]
    assert sorted(set(range(n_rows)) - set(design.rows.tolist())) == lme4["dropped_rows"]
    assert list(design.X.shape) == lme4["X"]["shape"]
    assert np.linalg.matrix_rank(design.X.to_numpy()) == lme4["X"]["rank"]
    assert_fingerprint(design.X.to_numpy(), lme4["X"], "X")
    assert_fingerprint(design.Y.to_numpy(), lme4["y"], "y")
    for name in ("offset", "weights"):
        if name in lme4:
            assert_fingerprint(getattr(design, name), lme4[name], name)
    left = list(design.terms)
    for expected in lme4["terms"]:
        n_effects = len(expected["effects"])
        # terms on one group differ in what they measure: compare the sums of their first effects
        fits = [
            term
            for term in left
            if set(term.columns) == set(expected["group_factors"])
            and len(term.effects) == n_effects
            and np.isclose(term.M.sum(), np.sum(expected["col_sum"]))
        ]
        assert len(fits) == 1, (expected["group_factors"], [term.label for term in left])
        assert_term(fits[0], expected, design.n)
        left.remove(fits[0])
    assert not left


@pytest.mark.parametrize("case", GOLDEN, ids=lambda case: case["id"])
def test_golden(case):
    frame = sg.datasets.load(case["data"]).frame
    assert_as_lme4(sg.design(case["formula"], frame, missing="drop"), case["lme4"], len(frame))


@pytest.mark.skipif(not CASES, reason="the full set of lme4 cases is not here")
def test_all_cases_are_here():
    assert len(CASES) == 30


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["id"])
def test_lme4(case):
    frame = full_frame(case["data"])
    formula = case["formula"] + (f" + offset({case['offset']})" if "offset" in case else "")
    if case["want"] == "refuse":
        with pytest.raises(FormulaError, match=r"unknown column 'nosuch'(.|\n)*\n      \^{6}$"):
            sg.design(formula, frame, missing="drop")
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore" if case["lme4"].get("dropped_rows") else "error", DroppedRowsWarning)
        design = sg.design(formula, frame, missing="drop", weights=case.get("weights"))
    if case["want"] == "accept":
        assert design.terms == ()
        assert design.X.shape == (len(frame), 2)
        return
    assert_as_lme4(design, case["lme4"], len(frame))
