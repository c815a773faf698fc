import subprocess
import sys

import numpy as np
import pandas as pd
import polars as pl
import pytest
from scipy import sparse

import slamglmm as sg
from slamglmm.errors import DataError, DroppedRowsWarning, FormulaError, OptionError, RelmatError


@pytest.fixture
def frame():
    rng = np.random.default_rng(7)
    n = 48
    return pd.DataFrame(
        {
            "y": rng.normal(size=n),
            "y2": rng.normal(size=n),
            "x": rng.normal(size=n),
            "z.dot": rng.random(n) + 1,
            "my var": rng.random(n) + 1,
            "f": pd.Categorical(np.resize(["lo", "mid", "hi"], n), categories=["none", "lo", "mid", "hi"]),
            "o": pd.Categorical(np.resize(list("abcd"), n), ordered=True),
            "s": np.resize(["p", "q"], n),
            "b": np.resize([True, False, False], n),
            "g": np.repeat([f"g{i}" for i in range(8)], n // 8),
            "k": np.resize([30, 4, 100], n),
            "w": rng.random(n) + 0.5,
        },
        index=[f"r{i:02d}" for i in range(n)],
    )


def kinship_like(labels):
    labels = list(labels)
    rng = np.random.default_rng(len(labels))
    root = rng.normal(size=(len(labels), len(labels)))
    return pd.DataFrame(root @ root.T / len(labels), index=labels, columns=labels)


# -- shapes and names --------------------------------------------------------------------------------


def test_the_pieces(frame):
    d = sg.design("y ~ x + f + (1 + x | g)", frame)
    assert list(d.X.columns) == ["Intercept", "x", "f[T.mid]", "f[T.hi]"]
    assert d.X.index.equals(frame.index)
    assert (d.X.dtypes == np.float64).all()
    assert d.Y.shape == (48, 1)
    assert d.n == 48
    assert list(d.traits) == ["y"]
    assert d.offset is None
    assert d.weights is None
    assert (d.n_dropped, d.dropped_because) == (0, {})
    (term,) = d.terms
    assert (term.label, term.group, term.effects, term.correlated) == ("g", "g", ("Intercept", "x"), True)
    assert list(term.levels) == [f"g{i}" for i in range(8)]
    assert term.codes.dtype == np.intp
    assert term.M.flags.c_contiguous
    assert term.K is None
    assert term.has_records.all()
    assert term.Z.shape == (48, 16)
    row = term.Z[[9]].toarray()[0]
    assert row[2] == 1
    assert row[3] == frame["x"].iloc[9]
    assert np.count_nonzero(row) == 2


def test_random_terms_in_formula_order_with_unique_labels(frame):
    d = sg.design("y ~ (0 + x | g) + (1 | g) + (x || k) + (1 | s/g)", frame)
    assert [t.label for t in d.terms] == ["x|g", "g", "k", "x|k", "s", "s:g"]
    assert [t.correlated for t in d.terms] == [True, True, False, False, True, True]
    assert [t.effects for t in d.terms][2:4] == [("Intercept",), ("x",)]
    assert d.term("x|k").effects == ("x",)
    with pytest.raises(OptionError, match=r"no random term 'nosuch'; the terms are 'x\|g', 'g'"):
        d.term("nosuch")


def test_interaction_levels_are_the_observed_ones(frame):
    d = sg.design("y ~ (1 | s:k)", frame.iloc[:4])
    assert list(d.terms[0].levels) == ["p:30", "p:100", "q:4", "q:30"]
    assert list(d.terms[0].levels[d.terms[0].codes]) == ["p:30", "q:4", "p:100", "q:30"]


def test_levels_numbers_by_value_strings_by_code_point_categories_as_given(frame):
    frame["t"] = np.resize(["b", "B", "a"], 48)
    d = sg.design("y ~ (1|k) + (1|t) + (1|f)", frame)
    assert [list(t.levels) for t in d.terms] == [[4, 30, 100], ["B", "a", "b"], ["lo", "mid", "hi"]]


def test_explicit_zeros_are_not_stored(frame):
    frame.iloc[:5, frame.columns.get_loc("x")] = 0.0
    assert sg.design("y ~ (0 + x | g)", frame).terms[0].Z.nnz == 43


def test_no_random_term_and_no_fixed_term(frame):
    assert sg.design("y ~ x", frame).terms == ()
    assert sg.design("~ 0 + (1 | g)", frame).X.shape == (48, 0)
    assert sg.design("~ 0 + (1 | g)", frame).Y is None


def test_repr_is_one_screen(frame):
    text = repr(sg.design("y ~ x + offset(w) + (x | g)", frame, weights="w"))
    assert text.splitlines() == [
        "Design of 'y ~ x + offset(w) + (x | g)'",
        "  rows    48",
        "  traits  1: 'y'",
        "  fixed   2: 'Intercept', 'x'",
        "  random  RandomTerm('g': Intercept + x | 8 levels)",
        "  with    offset and weights",
    ]


def test_package_stays_light_and_function_survives_the_submodule():
    code = (
        "import sys, slamglmm as sg; assert not {'formulaic', 'pandas', 'scipy'} & set(sys.modules), 'heavy';"
        "import pandas as pd; sg.design('~ x', pd.DataFrame({'x': [1, 2]}));"
        "import slamglmm.design.design; from slamglmm.design import design;"
        "assert callable(sg.design) and design is sg.design"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


# -- fixed effects: the traps ---------------------------------------------------------------------------


def test_unused_categories_are_no_columns(frame):
    d = sg.design("y ~ 0 + f", frame)
    assert list(d.X.columns) == ["f[lo]", "f[mid]", "f[hi]"]


def test_names_with_dots_and_spaces(frame):
    d = sg.design("y ~ z.dot + `my var` + log(`z.dot`) + log(`my var`)", frame)
    np.testing.assert_array_equal(d.X["z.dot"], frame["z.dot"])
    np.testing.assert_array_equal(d.X["log(`my var`)"], np.log(frame["my var"]))
    with pytest.raises(FormulaError, match=r"quote a name with a dot: `z.dot`"):
        sg.design("y ~ log(z.dot)", frame)


def test_contrasts(frame):
    by_call = sg.design("y ~ C(o, contr.poly)", frame).X
    by_argument = sg.design("y ~ o + (o | g)", frame, contrasts={"o": "poly"})
    assert list(by_argument.X.columns) == ["Intercept", "o[.L]", "o[.Q]", "o[.C]"]
    np.testing.assert_allclose(by_argument.X, by_call, atol=1e-15)
    assert by_argument.terms[0].effects == ("Intercept", "o[.L]", "o[.Q]", "o[.C]")
    assert list(sg.design("y ~ o", frame).X.columns) == ["Intercept", "o[T.b]", "o[T.c]", "o[T.d]"]
    sums = sg.design("y ~ `my f`", frame.rename(columns={"f": "my f"}), contrasts={"my f": "sum"}).X
    np.testing.assert_allclose(sums.iloc[:, 1:].sum(), 0, atol=1e-12)
    with pytest.raises(OptionError, match="contrasts for 'o' must be one of 'poly', 'sum', 'treatment', 'helmert'"):
        sg.design("y ~ o", frame, contrasts={"o": "polly"})
    with pytest.raises(OptionError, match="contrasts names 'f', which is not among the predictors 'o'"):
        sg.design("y ~ o", frame, contrasts={"f": "sum"})


def test_factor_and_bool(frame):
    d = sg.design("y ~ factor(k) + b + (1 | as.factor(k))", frame)
    assert list(d.X.columns) == ["Intercept", "factor(k)[T.30]", "factor(k)[T.100]", "b"]
    np.testing.assert_array_equal(d.X["b"], frame["b"].astype(float))
    assert d.terms[0].label == "k"


def test_context_is_the_only_source_of_functions(frame):
    def double(x):
        return 2 * x

    np.testing.assert_array_equal(
        sg.design("y ~ double(x)", frame, context={"double": double}).X["double(x)"], 2 * frame["x"]
    )
    with pytest.raises(FormulaError, match=r"unknown function 'double'; give it as context=\{...\}\n.*\n      \^{6}"):
        sg.design("y ~ double(x)", frame)
    with pytest.raises(FormulaError, match=r"unknown function 'ns'; write cr\(x, df=...\)"):
        sg.design("y ~ ns(x, 3)", frame)


@pytest.mark.parametrize(
    ("formula", "message", "caret"),
    [
        ("y ~ x + xx", "unknown column 'xx'; did you mean 'x'?", "        ^^"),
        ("y ~ x + (1 | nope)", "unknown column 'nope'; the columns are 'b', 'f', 'g'", "             ^^^^"),
        ("y ~ x + (yy | g)", "unknown column 'yy'; did you mean 'y", "         ^^"),
        ("log(nope) ~ x", "unknown column 'nope'", "    ^^^^"),
        ("cbind(y, nope) ~ x", "unknown column 'nope'", "         ^^^^"),
        ("y ~ offset(nope)", "unknown column 'nope'", "           ^^^^"),
        (
            "y ~ (1 | g) + x + (1 | g)",
            "the intercept for 'g' is already in an earlier random",
            "                  ^^^^^^^",
        ),
        ("y ~ (1 | g) + (x | g)", "the intercept for 'g' is already", "              ^^^^^^^"),
        ("y ~ (x | g) + (0 + x | g)", "the slope of x for 'g' is already", "              ^^^^^^^^^^^"),
        ("y ~ (1 | g:k) + (1 | k:g)", "the intercept for 'k:g' is already", "                ^^^^^^^^^"),
        ("y ~ (1 | g + k)", "right of the bar use a:b or a/b", "           ^"),
        ("y ~ (1 | 1)", "'1' is not a grouping column", "         ^"),
        ("y ~ (0 | g)", "no effect is left on this side of the bar", "     ^"),
        ("y ~ (1 | cut(x, 3))", "'cut(x, 3)' is not a grouping factor", "         ^^^^^^^^^"),
        ("y ~ (1 | gr(g))", "gr() names a relationship matrix: gr(id, cov='D')", "         ^^^^^"),
        ("y ~ (1 | gr(g, by=k))", "gr() knows the option cov=, not 'by'", "         ^^^^^^^^^^^"),
        ("y ~ x +* s", "Operator `+*` is incorrectly used", "      ^^"),
        ("y ~ x.nope()", "'.nope' is not among the methods of columns", "    ^^^^^^^^"),
    ],
)
def test_refused_with_a_caret(frame, formula, message, caret):
    with pytest.raises(FormulaError) as caught:
        sg.design(formula, frame)
    first, shown, below = str(caught.value).split("\n")
    assert message in first
    assert (shown, below) == (f"  {formula}", f"  {caret}")


def test_undefined_after_a_transform_names_the_row(frame):
    frame.iloc[3, frame.columns.get_loc("x")] = -1.0
    with pytest.raises(DataError, match=r"'log\(x\)' is not finite in \d+ of 48 rows \(first: row 'r\d+', value nan\)"):
        sg.design("y ~ log(x)", frame)


def test_infinite_covariate(frame):
    frame.loc["r03", "x"] = np.inf
    with pytest.raises(DataError, match=r"column 'x' is infinite in 1 row\(s\) \(first: row 'r03'\)"):
        sg.design("y ~ x", frame)


def test_dates_are_refused_as_covariates(frame):
    frame["d"] = pd.Timestamp("2020-01-01")
    with pytest.raises(DataError, match=r"column 'd' is datetime64.*turn it into numbers or categories"):
        sg.design("y ~ d", frame)


# -- missing values ---------------------------------------------------------------------------------------


def test_missing_predictors_drop_rows_and_say_so(frame):
    frame.loc[["r03", "r04"], "x"] = np.nan
    frame.loc[["r04", "r10"], "g"] = None
    with pytest.warns(DroppedRowsWarning, match=r"^3 of 48 rows dropped .* 'x' \(2\), 'g' \(2\)\.$") as record:
        d = sg.design("y ~ scale(x) + (1 | g)", frame)
    assert len(record) == 1
    assert record[0].filename == __file__
    assert (d.n_dropped, d.dropped_because) == (3, {"x": 2, "g": 2})
    assert set(range(48)) - set(d.rows) == {3, 4, 10}
    assert np.isfinite(d.X.to_numpy()).all()
    assert abs(d.X["scale(x)"].mean()) < 1e-12


def test_missing_response_keep_or_drop(frame):
    frame.loc["r05", "y"] = np.nan
    d = sg.design("y + y2 ~ x", frame)
    assert d.n == 48
    assert np.isnan(d.Y.loc["r05", "y"])
    with pytest.warns(DroppedRowsWarning, match=r"1 of 48 rows dropped because of missing values in 'y' \(1\)\."):
        d = sg.design("y + y2 ~ x", frame, missing="drop")
    assert "r05" not in d.Y.index
    assert d.dropped_because == {"y": 1}


def test_levels_that_lose_all_rows_are_gone(frame):
    frame.loc[frame["g"] == "g2", "x"] = np.nan
    frame.loc[frame["f"] == "lo", "x"] = np.nan
    with pytest.warns(DroppedRowsWarning):
        d = sg.design("y ~ x + f + (1|g)", frame)
    assert "g2" not in d.terms[0].levels
    assert list(d.X.columns) == ["Intercept", "x", "f[T.hi]"]


def test_nothing_left(frame):
    frame["x"] = np.nan
    with pytest.raises(DataError, match=r"no row is complete: missing values in 'x' \(48\)"):
        sg.design("y ~ x", frame)
    with pytest.raises(DataError, match="data has no rows"):
        sg.design("y ~ x", frame.iloc[:0])


def test_missing_option(frame):
    with pytest.raises(OptionError, match="missing must be 'keep', 'drop' or 'drop_empty', got 'omit'"):
        sg.design("y ~ x", frame, missing="omit")


# -- responses ---------------------------------------------------------------------------------------------


def test_several_responses_and_transforms(frame):
    d = sg.design("cbind(y, y2 - y) + log(w) ~ x", frame)
    assert list(d.Y.columns) == ["y", "y2 - y", "log(w)"]
    np.testing.assert_array_equal(d.Y["y2 - y"], frame["y2"] - frame["y"])
    np.testing.assert_array_equal(d.Y["log(w)"], np.log(frame["w"]))


def test_a_missing_response_does_not_empty_its_transform(frame):
    frame.loc["r05", "y"] = np.nan
    Y = sg.design("scale(y) ~ x", frame).Y
    assert Y.isna().sum().item() == 1
    assert abs(Y.mean().item()) < 1e-12


def test_table_of_responses(frame):
    Y = np.arange(96.0).reshape(48, 2)
    d = sg.design("~ x", frame, Y=Y)
    assert list(d.Y.columns) == ["y1", "y2"]
    assert d.Y.index.equals(frame.index)
    table = pd.DataFrame(Y, index=frame.index, columns=["a", "b"])
    shuffled = table.sample(frac=1, random_state=1)
    np.testing.assert_array_equal(sg.design("~ x", frame, Y=shuffled).Y, Y)
    np.testing.assert_array_equal(sg.design("~ x", frame, Y=table.reset_index(drop=True)).Y, Y)
    counted, other = frame.reset_index(drop=True), table.reset_index(drop=True).sample(frac=1, random_state=1)
    np.testing.assert_array_equal(sg.design("~ x", counted, Y=other).Y, Y)
    np.testing.assert_array_equal(sg.design("y ~ x", counted, weights=other["a"] + 1).weights, Y[:, 0] + 1)
    np.testing.assert_array_equal(sg.design("~ x", frame.iloc[::-1], Y=table.reset_index(drop=True)).Y, Y)
    assert sg.design("~ x", frame, Y=table["a"]).traits.tolist() == ["a"]
    assert sg.design("~ x", frame, Y=frame["b"]).Y["b"].iloc[0] == 1.0
    polars = sg.design("~ x", frame, Y=pl.DataFrame({"a": [1, None] * 24}))
    assert polars.Y["a"].isna().sum() == 24


def test_table_is_not_changed_and_not_shared(frame):
    Y = np.ones((48, 2))
    d = sg.design("~ x", frame, Y=Y)
    Y[:] = 7
    assert (d.Y.to_numpy() == 1).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda Y: Y.iloc[1:], "1 of 48 rows of data are not among the 47 rows of Y: 'r00'. Add them to Y"),
        (
            lambda Y: Y.rename(index={"r00": "q"}),
            "1 of 48 rows of data are not among the 48 rows of Y: 'r00'.*write Y.reset_index.drop=True.",
        ),
        (lambda Y: Y.assign(b="text"), r"not numeric: 'b' \(dtype '(str|object)'\). Convert with pandas.to_numeric"),
        (lambda Y: Y.assign(b=1j), r"not numeric: 'b' \(dtype 'complex128'\)"),
        (lambda Y: Y.assign(b=np.nan), r"no values at all \(all NaN\) in trait 'b'"),
        (lambda Y: Y.set_axis(["a", "a"], axis=1), "more than one trait is named 'a'"),
        (lambda Y: Y.assign(b=[np.inf] + [0.0] * 47), "response 'b' is infinite in row 'r00'"),
        (lambda Y: Y[[]], "Y has no columns"),
    ],
)
def test_bad_tables(frame, change, message):
    Y = pd.DataFrame(np.arange(96.0).reshape(48, 2), index=frame.index, columns=["a", "b"])
    with pytest.raises(DataError, match=message):
        sg.design("~ x", frame, Y=change(Y))


def test_bad_responses_in_the_formula(frame):
    with pytest.raises(DataError, match="not numeric: 's'"):
        sg.design("s ~ x", frame)
    with pytest.raises(DataError, match=r"no values at all \(all NaN\) in trait 'y'"):
        sg.design("y ~ x", frame.assign(y=np.nan))
    with pytest.raises(DataError, match="response 'y' is infinite in row 'r00'"):
        sg.design("y ~ x", frame.assign(y=np.inf))
    with pytest.raises(FormulaError, match="responses are given twice"):
        sg.design("y ~ x", frame, Y=np.ones(48))
    with pytest.raises(DataError, match="more than one trait is named 'y'"):
        sg.design("y + y ~ x", frame)


def test_many_traits_are_quick():
    import time

    rng = np.random.default_rng(1)
    Y = rng.normal(size=(300, 5000))
    frame = pd.DataFrame({"x": rng.normal(size=300)})
    sg.design("~ x", frame.head(3), Y=Y[:3, :1])
    start = time.process_time()
    assert sg.design("~ x", frame, Y=Y).Y.shape == (300, 5000)
    assert time.process_time() - start < 1.0


# -- offset and weights --------------------------------------------------------------------------------------


def test_offsets_add_up(frame):
    d = sg.design("y ~ x + offset(log(w)) + offset(y2)", frame)
    np.testing.assert_allclose(d.offset, np.log(frame["w"]) + frame["y2"])
    assert list(d.X.columns) == ["Intercept", "x"]
    with pytest.raises(DataError, match="an offset gives 2 columns"):
        sg.design("y ~ offset(s)", frame)


def test_weights(frame):
    by_name = sg.design("y ~ x", frame, weights="w").weights
    np.testing.assert_array_equal(by_name, frame["w"])
    np.testing.assert_array_equal(sg.design("y ~ x", frame, weights=frame["w"][::-1]).weights, by_name)
    np.testing.assert_array_equal(sg.design("y ~ x", frame, weights=frame["w"].to_numpy()).weights, by_name)
    frame.loc["r01", "w"] = np.nan
    with pytest.warns(DroppedRowsWarning, match=r"1 of 48 rows .* 'w' \(1\)"):
        assert len(sg.design("y ~ x", frame, weights="w").weights) == 47
    frame.loc["r01", "w"] = 0.0
    with pytest.raises(DataError, match=r"weights must be positive and finite; row 'r01' has 0\.0"):
        sg.design("y ~ x", frame, weights="w")
    with pytest.raises(OptionError, match="weights names 'nope', which is not a column"):
        sg.design("y ~ x", frame, weights="nope")
    with pytest.raises(DataError, match="weights: expected 48 rows, as data has, got 3"):
        sg.design("y ~ x", frame, weights=[1, 2, 3])


# -- other frames ----------------------------------------------------------------------------------------------


def test_polars_gives_the_same(frame):
    polars = pl.DataFrame(
        {
            "y": frame["y"].to_list(),
            "x": frame["x"].to_list(),
            "b": frame["b"].to_list(),
            "s": frame["s"].to_list(),
            "k": frame["k"].to_list(),
            "f": pl.Series(frame["f"].to_list(), dtype=pl.Enum(["none", "lo", "mid", "hi"])),
            "c": pl.Series(frame["g"].to_list(), dtype=pl.Categorical),
        }
    )
    formula = "y ~ x*s + b + f + (x | c) + (1 | k)"
    ours = sg.design(formula, frame.rename(columns={"g": "c"}))
    theirs = sg.design(formula, polars)
    assert list(ours.X.columns) == list(theirs.X.columns)
    np.testing.assert_array_equal(ours.X, theirs.X)
    for a, b in zip(ours.terms, theirs.terms, strict=True):
        assert list(a.levels) == list(b.levels)
        assert (a.Z != b.Z).nnz == 0
    with pytest.warns(DroppedRowsWarning, match=r"1 of 48 rows .* 'k' \(1\)"):
        holes = sg.design("y ~ k + (1|k)", polars.with_columns(k=pl.Series([None, *frame["k"].to_list()[1:]])))
    assert list(holes.terms[0].levels) == [4, 30, 100]


def test_nullable_and_object_columns(frame):
    frame["k"] = frame["k"].astype("Int64")
    frame["x"] = frame["x"].astype("Float64")
    frame["b"] = frame["b"].astype("boolean")
    frame["s"] = frame["s"].astype(object)
    frame.loc["r00", ["k", "b"]] = pd.NA
    with pytest.warns(DroppedRowsWarning):
        d = sg.design("y ~ x + k + b + s + (1|k)", frame)
    assert list(d.X.columns) == ["Intercept", "x", "k", "b", "s[T.q]"]
    assert list(d.terms[0].levels) == [4, 30, 100]


def test_dict_and_nonsense(frame):
    assert sg.design("y ~ x", {"y": [1.0, 2], "x": [0, 1]}).n == 2
    with pytest.raises(DataError, match=r"data must be a data frame .* got ndarray"):
        sg.design("y ~ x", np.ones((3, 2)))
    twice = pd.concat([frame[["y", "x"]], frame[["x"]]], axis=1)
    with pytest.raises(DataError, match="more than one column named 'x'"):
        sg.design("y ~ x", twice)


# -- relationship matrices ----------------------------------------------------------------------------------------


def test_all_labels_become_levels(frame):
    K = kinship_like(["extra", *[f"g{i}" for i in reversed(range(8))]])
    (term,) = sg.design("y ~ (1 | g)", frame, relmat={"g": K}).terms
    assert list(term.levels) == list(K.index)
    assert list(term.levels[term.codes]) == list(frame["g"])
    assert term.has_records.tolist() == [False] + [True] * 8
    np.testing.assert_allclose(term.K, K)
    assert term.cov == "g"
    assert term.Z.shape == (48, 9)


def test_sparse_matrix_and_labels_of_another_type(frame):
    K = sparse.csr_array(np.diag([1.0, 2.0, 3.0]))
    (term,) = sg.design("y ~ (1 | k)", frame, relmat={"k": (K, ["100", "30", "4"])}).terms
    assert sparse.issparse(term.K)
    assert list(term.levels) == ["100", "30", "4"]
    assert term.codes[:3].tolist() == [1, 2, 0]


def test_interaction_and_several_matrices(frame):
    cells = [f"{s}:{k}" for s in "pq" for k in (4, 30, 100)]
    d = sg.design("y ~ (1 | s:k)", frame, relmat={"s:k": kinship_like(cells)})
    assert list(d.terms[0].levels) == cells
    A, D = kinship_like(frame["g"].unique()), kinship_like(frame["g"].unique()) + np.eye(8)
    d = sg.design("y ~ (1 | g) + (1 | gr(g, cov='D'))", frame, relmat={"g": A, "D": D})
    assert [t.label for t in d.terms] == ["g", "gr(g, D)"]
    assert [t.group for t in d.terms] == ["g", "g"]
    np.testing.assert_allclose(d.terms[1].K, D)
    alone = sg.design("y ~ (1 | gr(g, cov=D))", frame, relmat={"D": D})
    assert [(t.label, t.cov) for t in alone.terms] == [("g", "D")]
    both = sg.design("y ~ (1 | gr(g, cov='A')) + (1 | gr(g, cov='D'))", frame, relmat={"A": A, "D": D})
    assert [t.label for t in both.terms] == ["gr(g, A)", "gr(g, D)"]
    with pytest.raises(FormulaError, match="already in an earlier random term"):
        sg.design("y ~ (1 | g) + (1 | gr(g, cov='g'))", frame, relmat={"g": A})


def test_relmat_errors(frame):
    K = kinship_like([f"g{i}" for i in range(5)])
    with pytest.raises(RelmatError, match=r"relmat for group 'g' lacks 3 of 8 levels \(first: 'g5', 'g6', 'g7'\). Add"):
        sg.design("y ~ (1 | g)", frame, relmat={"g": K})
    with pytest.raises(OptionError, match=r"relmat has 'd', but .* group by 'g' and ask for the matrix 'D'"):
        sg.design("y ~ (1 | gr(g, cov='D'))", frame, relmat={"d": K})
    with pytest.raises(OptionError, match="relmat has 'h', but the random terms group by 'g', 'k'"):
        sg.design("y ~ (1 | g) + (x | k)", frame, relmat={"h": K})
    with pytest.raises(OptionError, match="the formula asks for the matrix 'D', relmat has none"):
        sg.design("y ~ (1 | gr(g, cov='D'))", frame)
    with pytest.raises(OptionError, match=r"relmat must be a dict \{'group': matrix\}, got DataFrame"):
        sg.design("y ~ (1 | g)", frame, relmat=K)
    with pytest.raises(RelmatError, match="unlabelled"):
        sg.design("y ~ (1 | g)", frame, relmat={"g": np.eye(8)})
