import pickle

import numpy as np
import pandas as pd
import pytest

import slamglmm as sg
from slamglmm.errors import DataError, OptionError


@pytest.fixture
def frame():
    rng = np.random.default_rng(11)
    n = 60
    return pd.DataFrame(
        {
            "y": rng.normal(size=n),
            "x": rng.normal(size=n),
            "t": rng.uniform(1, 9, n),
            "f": pd.Categorical(np.resize(["lo", "mid", "hi"], n), categories=["lo", "mid", "hi", "never"]),
            "s": np.resize(["p", "q"], n),
            "k": np.resize([1, 2, 3, 4], n),
            "g": np.repeat([f"g{i}" for i in range(6)], n // 6),
        }
    )


FORMULA = (
    "y ~ poly(x, 2) + bs(t, df=4) + scale(x) + center(t) + f*s + factor(k) "
    "+ offset(scale(t)) + (scale(x) || g) + (f|s:k)"
)


@pytest.mark.parametrize("pickled", [False, True])
def test_rows_of_the_fit_come_out_the_same(frame, pickled):
    fitted = sg.design(FORMULA, frame, contrasts={"f": "helmert"})
    design = pickle.loads(pickle.dumps(fitted)) if pickled else fitted
    some = [3, 17, 42, 5]
    new = design.new(frame.drop(columns="y").iloc[some])
    pd.testing.assert_frame_equal(new.X, fitted.X.iloc[some], rtol=1e-12)
    np.testing.assert_allclose(new.offset, fitted.offset[some], rtol=1e-12)
    assert new.Y is None
    assert new.weights is None
    assert new.rows.tolist() == [0, 1, 2, 3]
    for a, b in zip(new.terms, fitted.terms, strict=True):
        assert a.levels.equals(b.levels)
        assert (a.label, a.effects) == (b.label, b.effects)
        np.testing.assert_allclose(a.Z.toarray(), b.Z.toarray()[some], rtol=1e-12)


def test_values_worked_out_by_hand(frame):
    design = sg.design("y ~ scale(x) + f", frame)
    new = design.new({"x": [frame["x"].mean() + frame["x"].std()], "f": ["hi"]})
    np.testing.assert_allclose(new.X, [[1, 1, 0, 1]], atol=1e-12)


def test_one_new_row_of_one_category_keeps_all_columns(frame):
    new = sg.design("y ~ s * f + (0 + f | g)", frame).new(frame.iloc[[4]].astype({"f": str}))
    assert new.X.shape == (1, 6)
    assert new.terms[0].M.tolist() == [[0, 1, 0]]


def test_unseen_category(frame):
    design = sg.design("y ~ s + f + factor(k)", frame)
    with pytest.raises(DataError, match=r"newdata has categories of 's' that the fit has not seen: 'z'\. .*'p', 'q'"):
        design.new({"s": ["p", "z"], "f": ["lo", "lo"], "k": [1, 1]})
    with pytest.raises(DataError, match="categories of 'f' that the fit has not seen: 'never'"):
        design.new({"s": ["p"], "f": ["never"], "k": [1]})
    with pytest.raises(DataError, match=r"unseen categories in a fixed effect\. .*77"):
        design.new({"s": ["p"], "f": ["lo"], "k": [77]})
    with pytest.raises(DataError, match="column 'k' was numeric in the fit, newdata has"):
        design.new({"s": ["p"], "f": ["lo"], "k": ["one"]})


def test_unseen_level(frame):
    design = sg.design("y ~ x + (x | g) + (1 | s:k)", frame)
    rows = pd.DataFrame({"x": [1.0, 2.0], "g": ["g3", "g9"], "s": ["p", "p"], "k": [1, 1]})
    with pytest.raises(DataError, match=r"1 unknown level\(s\) of 'g': 'g9'\. Use new_levels='zero'"):
        design.new(rows)
    new = design.new(rows, new_levels="zero")
    assert new.terms[0].codes.tolist() == [3, -1]
    assert new.terms[0].Z.toarray()[1].tolist() == [0.0] * 12
    assert new.terms[0].Z.toarray()[0, 6:8].tolist() == [1.0, 1.0]
    with pytest.raises(DataError, match="new_levels='relmat' needs a relationship matrix for 'g'"):
        design.new(rows, new_levels="relmat")
    with pytest.raises(DataError, match=r"1 unknown level\(s\) of 's:k': 'p:4'"):
        design.new(pd.DataFrame({"x": [1.0], "g": ["g3"], "s": ["p"], "k": [4]}))
    with pytest.raises(OptionError, match="new_levels must be 'error', 'zero' or 'relmat', got 'drop'"):
        design.new(rows, new_levels="drop")


def test_level_known_to_the_matrix_only(frame):
    labels = [*[f"g{i}" for i in range(6)], "young"]
    K = pd.DataFrame(np.eye(7) + 0.2, index=labels, columns=labels)
    design = sg.design("y ~ x + (1 | g)", frame, relmat={"g": K})
    rows = pd.DataFrame({"x": [0.0, 1.0], "g": ["young", "g1"]})
    for how in ("relmat", "error"):
        assert design.new(rows, new_levels=how).terms[0].codes.tolist() == [6, 1]
    rows["g"] = ["young", "stranger"]
    with pytest.raises(DataError, match=r"of 'g': 'stranger'\. They are not labels of its relationship matrix"):
        design.new(rows, new_levels="relmat")
    assert design.new(rows, new_levels="zero").terms[0].codes.tolist() == [6, -1]


def test_ids_that_turned_into_text(frame):
    design = sg.design("y ~ (1 | k)", frame)
    assert design.new({"k": ["3", "1"]}).terms[0].codes.tolist() == [2, 0]


def test_missing_values_and_columns(frame):
    design = sg.design("y ~ x + (1 | g)", frame)
    with pytest.raises(DataError, match=r"newdata has missing values in 'x' \(1\), 'g' \(1\); rows '0', '2'"):
        design.new({"x": [np.nan, 1, 2], "g": ["g1", "g1", None]})
    with pytest.raises(DataError, match=r"newdata lacks the column\(s\) 'g'; it has 'x'"):
        design.new({"x": [1.0]})
    with pytest.raises(DataError, match="newdata column 'x' is infinite"):
        design.new({"x": [np.inf], "g": ["g1"]})


def test_only_some_terms(frame):
    design = sg.design("y ~ x + (1 | g) + (1 | s)", frame)
    assert design.new({"x": [1.0]}, terms=[]).terms == ()
    assert [t.label for t in design.new({"x": [1.0], "s": ["q"]}, terms=["s"]).terms] == ["s"]
    with pytest.raises(OptionError, match="no random term 'nope'"):
        design.new({"x": [1.0]}, terms=["nope"])


def test_new_rows_keep_their_labels_and_the_old_design(frame):
    design = sg.design("y ~ x + (1 | g)", frame)
    before = design.terms[0].codes.copy()
    new = design.new(pd.DataFrame({"x": [1.0], "g": ["g5"]}, index=["tomorrow"]))
    assert list(new.X.index) == ["tomorrow"]
    np.testing.assert_array_equal(design.terms[0].codes, before)
