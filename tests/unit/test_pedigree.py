import importlib.util
import pathlib
import re

import numpy as np
import pandas as pd
import polars as pl
import pytest

from slamglmm.errors import PedigreeError, SlamWarning
from slamglmm.relmat import Relmat, as_relmat, pedigree_relmat

_spec = importlib.util.spec_from_file_location(
    "tabular", pathlib.Path(__file__).parents[1] / "reference" / "tabular.py"
)
tabular = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(tabular)


def random_pedigree(n, seed, window=25, unknown=0.15, selfing=0.1):
    """Parents among the last `window` individuals; -1 for unknown."""
    rng = np.random.default_rng(seed)
    dam, sire = np.full(n, -1), np.full(n, -1)
    for i in range(1, n):
        dam[i], sire[i] = rng.integers(max(0, i - window), i, 2)
        if rng.random() < selfing:
            sire[i] = dam[i]
        if rng.random() < unknown:
            dam[i] = -1
        if rng.random() < unknown:
            sire[i] = -1
    return dam, sire


def as_frame(dam, sire, ids):
    ids = np.array(ids, dtype=object)
    frame = pd.DataFrame({"id": ids})
    for role, code in (("dam", dam), ("sire", sire)):
        frame[role] = [None if c < 0 else ids[c] for c in code]
    return frame


def from_rows(*rows):
    return pd.DataFrame(rows, columns=["id", "dam", "sire"])


@pytest.mark.parametrize("seed", range(15))
def test_agrees_with_the_tabular_method(seed):
    n = 2 + 9 * seed
    dam, sire = random_pedigree(n, seed, window=5 + seed)
    ids = [f"a{i}" for i in range(n)]
    expected = tabular.tabular_a(dam, sire)
    shuffle = np.random.default_rng(seed).permutation(n)
    a = pedigree_relmat(as_frame(dam, sire, ids).iloc[shuffle], "animal")
    assert list(a.labels) == [ids[i] for i in shuffle]
    assert np.abs(a.take(ids) - expected).max() < 1e-12
    assert np.abs((a.matrix @ a.inverse).toarray() - np.eye(n)).max() < 1e-10
    assert np.abs(a.inbreeding[ids] - (np.diag(expected) - 1)).max() < 1e-12
    assert (a.matrix != a.matrix.T).nnz == 0
    assert a.matrix.format == "csr"
    assert a.inverse.format == "csc"


def test_passes_the_check_of_given_matrices():
    dam, sire = random_pedigree(80, 1)
    a = pedigree_relmat(as_frame(dam, sire, range(80)))
    as_relmat((a.matrix, a.labels), "animal")


def test_known_values():
    a = pedigree_relmat(
        from_rows(
            ("full1", "d", "s"),
            ("full2", "d", "s"),
            ("half", None, "s"),
            ("inbred", "full1", "full2"),
            ("self", "d", "d"),
        )
    )
    assert list(a.labels) == ["d", "s", "full1", "full2", "half", "inbred", "self"]
    k = a.to_frame()
    assert k.loc["full1", "full2"] == 0.5
    assert k.loc["full1", "half"] == 0.25
    assert k.loc["inbred", "inbred"] == 1.25
    assert k.loc["self", "self"] == 1.5
    assert k.loc["d", "s"] == 0
    assert a.inbreeding["inbred"] == 0.25
    assert repr(a) == f"Relmat(7 x 7, sparse, {np.count_nonzero(k)} entries, with inverse)"


def test_many_generations_of_selfing():
    def lines(generations):
        return from_rows(("g0", None, None), *((f"g{i}", f"g{i - 1}", f"g{i - 1}") for i in range(1, generations + 1)))

    a = pedigree_relmat(lines(20))
    assert a.inbreeding["g20"] == 1 - 2.0**-20
    a = pedigree_relmat(lines(60))
    assert a.inverse is None
    assert a.to_frame().loc["g60", "g60"] == 2.0


def test_founders_only():
    a = pedigree_relmat(from_rows(("x", None, None), ("y", np.nan, "")))
    assert np.array_equal(np.asarray(a), np.eye(2))


@pytest.mark.parametrize("unknown", [None, np.nan, "", pd.NA, "0", 0, "NA", "*", "."])
def test_unknown_parents(unknown):
    a = pedigree_relmat(from_rows(("x", unknown, unknown), ("y", "x", unknown)))
    assert list(a.labels) == ["x", "y"]


def test_zero_can_be_an_individual():
    a = pedigree_relmat(from_rows((0, None, None), (1, 0, None)))
    assert list(a.labels) == [0, 1]
    assert a.to_frame().loc[0, 1] == 0.5


def test_integer_ids_survive_the_floats_of_missing_parents():
    ped = pd.DataFrame({"id": [1, 2, 3], "dam": [np.nan, 1, 1], "sire": [np.nan, np.nan, 9]})
    a = pedigree_relmat(ped)
    assert list(a.labels) == [9, 1, 2, 3]
    assert a.labels.dtype == np.int64


def test_text_beside_numbers_is_compared_as_text():
    a = pedigree_relmat(from_rows(("1", None, None), ("2", 1.0, None)))
    assert a.to_frame().loc["1", "2"] == 0.5


@pytest.mark.parametrize(
    "columns", [("ID", "Dam", "SIRE"), ("animal", "mother", "father"), ("label", "dam", "sire"), (" Id", "dam", "sire")]
)
def test_column_names(columns):
    ped = from_rows(("x", None, None), ("y", "x", None)).set_axis(columns, axis=1)
    ped["weight"] = 1.0
    assert pedigree_relmat(ped).to_frame().loc["x", "y"] == 0.5


def test_polars_and_categorical_columns():
    ped = from_rows(("x", None, "s"), ("y", "x", "s"))
    expected = pedigree_relmat(ped).to_frame()
    pd.testing.assert_frame_equal(
        pedigree_relmat(pl.DataFrame({"id": ["x", "y"], "dam": [None, "x"], "sire": ["s", "s"]})).to_frame(), expected
    )
    pd.testing.assert_frame_equal(pedigree_relmat(ped.astype("category")).to_frame(), expected)


def test_input_is_not_touched():
    ped = from_rows(("x", None, None), ("y", "x", ""))
    before = ped.copy()
    pedigree_relmat(ped)
    pd.testing.assert_frame_equal(ped, before)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("n", [30, 300])
@pytest.mark.parametrize("form", ["pair", "frame", "relmat"])
def test_the_inverse_is_told_from_the_matrix(n, form):
    """Whoever gives what MCMCglmm's ``ginverse`` takes is told so, however it comes; A itself passes."""
    a = pedigree_relmat(as_frame(*random_pedigree(n, seed=3), range(n)))
    forms = {
        "pair": lambda matrix: (matrix, a.labels),
        "frame": lambda matrix: pd.DataFrame(matrix.toarray(), a.labels, a.labels),
        "relmat": lambda matrix: Relmat(a.labels, matrix),
    }
    as_relmat(forms[form](a.matrix), "animal")
    with pytest.warns(SlamWarning, match=r"relmat for group 'animal' looks like the inverse of a relationship matrix"):
        as_relmat(forms[form](a.inverse), "animal")


@pytest.mark.parametrize(
    ("ped", "text"),
    [
        (
            from_rows(("A", "B", None), ("B", "x", "A"), ("C", "A", "B")),
            "pedigree has a loop, each the child of the next: 'A' -> 'B' -> 'A'. Nobody can be his own ancestor.",
        ),
        (
            from_rows(("kid", "p", "q"), ("p", "r", None), ("r", None, "q"), ("q", "p", None)),
            "pedigree has a loop, each the child of the next: 'p' -> 'r' -> 'q' -> 'p'. Nobody",
        ),
        (from_rows(("A", "A", None)), "pedigree has a loop, each the child of the next: 'A' -> 'A'."),
        (
            from_rows(("A", None, None), ("B", None, None), ("A", "B", None)),
            "pedigree has individuals more than once: 'A'. Keep one row for each.",
        ),
        (from_rows(("A", None, None), (None, None, None)), "pedigree has no id in row 1 (counted from 0)."),
        (from_rows(), "pedigree has no rows."),
        (
            pd.DataFrame({"id": ["a"], "dam": [None]}),
            "pedigree has no column for the sire (called 'sire', 'father'); columns are 'id', 'dam'.",
        ),
        (
            pd.DataFrame({"id": ["a"], "dam": [None], "mother": [None], "sire": [None]}),
            "pedigree has 2 columns for the dam (called 'dam', 'mother'); columns are 'id', 'dam', 'mother', 'sire'.",
        ),
        ([1, 2], "pedigree must be a data frame with columns id, dam, sire; got list."),
    ],
)
def test_refusals(ped, text):
    with pytest.raises(PedigreeError, match="^" + re.escape(text)):
        pedigree_relmat(ped)
