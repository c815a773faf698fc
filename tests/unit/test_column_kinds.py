"""Kinds of columns in every role: the same numbers as the plain kind, or a refusal that says what to do."""

from decimal import Decimal

import numpy as np
import pandas as pd
import polars as pl
import pytest

import slamglmm as sg
from slamglmm.errors import DataError, DroppedRowsWarning, RelmatError

try:
    import pyarrow as pa
except ModuleNotFoundError:  # an optional dependency of pandas
    pa = None

needs_arrow = pytest.mark.skipif(pa is None, reason="pyarrow is not installed")

N = 24
NUMBERS = np.resize([3, 1, 4, 1, 5, 9, 2, 6], N)
WORDS = np.resize(["b", "a", "c"], N)
TRUTHS = np.resize([True, False, False, True, False], N)

WHOLE = {
    "int8": lambda v: v.astype("int8"),
    "uint64": lambda v: v.astype("uint64"),
    "Int64": lambda v: v.astype("Int64"),
    "UInt8": lambda v: v.astype("UInt8"),
    "convert_dtypes": lambda v: v.convert_dtypes(),
    "object": lambda v: v.astype(object),
    "sparse": lambda v: v.astype(pd.SparseDtype("int64")),
    "int64[pyarrow]": lambda v: v.astype("int64[pyarrow]"),
}
REAL = {
    "float32": lambda v: v.astype("float32"),
    "Float64": lambda v: v.astype("Float64"),
    "object": lambda v: v.astype(object),
    "Decimal": lambda v: v.map(lambda x: Decimal(int(x))).astype(object),
    "double[pyarrow]": lambda v: v.astype("double[pyarrow]"),
    "decimal[pyarrow]": lambda v: pd.Series([Decimal(int(x)) for x in v], dtype=pd.ArrowDtype(pa.decimal128(5, 2))),
}
TEXT = {
    "object": lambda v: v.astype(object),
    "string[python]": lambda v: v.astype("string[python]"),
    "string[pyarrow]": lambda v: v.astype("string[pyarrow]"),
    "convert_dtypes": lambda v: v.convert_dtypes(),
    "numpy_nullable": lambda v: v.to_frame("c").convert_dtypes(dtype_backend="numpy_nullable")["c"],
    "pyarrow backend": lambda v: v.to_frame("c").convert_dtypes(dtype_backend="pyarrow")["c"],
    "category of string": lambda v: v.astype("string").astype("category"),
    "dictionary[pyarrow]": lambda v: pd.Series(pd.arrays.ArrowExtensionArray(pa.array(list(v)).dictionary_encode())),
}
LOGICAL = {
    "object": lambda v: v.astype(object),
    "boolean": lambda v: v.astype("boolean"),
    "bool[pyarrow]": lambda v: v.astype("bool[pyarrow]"),
    "convert_dtypes": lambda v: v.convert_dtypes(),
}
KINDS = [
    pytest.param(values, change, id=f"{what} {name}", marks=needs_arrow if "arrow" in name else ())
    for what, values, changes in (
        ("whole numbers", NUMBERS, WHOLE),
        ("numbers", NUMBERS.astype(float), REAL),
        ("words", WORDS, TEXT),
        ("truths", TRUTHS, LOGICAL),
    )
    for name, change in changes.items()
]


def frame_with(column):
    rng = np.random.default_rng(5)
    return pd.DataFrame(
        {"y": rng.normal(size=N), "x": rng.normal(size=N), "g": np.resize(list("pqrs"), N), "c": column}
    )


def same(ours, theirs):
    """Two designs are equal in every number and every name."""
    assert list(ours.X.columns) == list(theirs.X.columns)
    np.testing.assert_array_equal(ours.X, theirs.X)
    np.testing.assert_array_equal(ours.rows, theirs.rows)
    for name in ("offset", "weights"):
        np.testing.assert_array_equal(getattr(ours, name), getattr(theirs, name))
    assert len(ours.terms) == len(theirs.terms)
    for a, b in zip(ours.terms, theirs.terms, strict=True):
        assert [str(level) for level in a.levels] == [str(level) for level in b.levels]
        assert a.effects == b.effects
        assert (a.Z != b.Z).nnz == 0
    if theirs.Y is not None:
        assert ours.Y.dtypes.eq(float).all()
        np.testing.assert_array_equal(ours.Y, theirs.Y)


@pytest.mark.parametrize(("values", "change"), KINDS)
@pytest.mark.parametrize("formula", ["y ~ c", "y ~ 0 + c:g", "y ~ (c | g) + (1 | c)", "y ~ (1 | c:g)", "y ~ factor(c)"])
def test_predictors_and_groups(values, change, formula):
    plain = pd.Series(values)
    same(sg.design(formula, frame_with(change(plain))), sg.design(formula, frame_with(plain)))


@pytest.mark.parametrize(("values", "change"), KINDS)
def test_a_missing_value_drops_the_row(values, change):
    plain = pd.Series(values).astype(object)
    plain[3] = None
    expected = frame_with(pd.Series(values)).drop(index=3)
    changed = change(pd.Series(values))
    if isinstance(changed.dtype, pd.SparseDtype | np.dtype) and changed.dtype != object:
        pytest.skip("a kind without missing values")
    changed[3] = None
    for formula in ("y ~ c + x", "y ~ (1 | c)"):
        with pytest.warns(DroppedRowsWarning, match=r"^1 of 24 rows .* 'c' \(1\)\.$"):
            ours = sg.design(formula, frame_with(changed))
        theirs = sg.design(formula, expected)
        np.testing.assert_array_equal(ours.X, theirs.X)
        assert [str(level) for term in ours.terms for level in term.levels] == [
            str(level) for term in theirs.terms for level in term.levels
        ]


@pytest.mark.parametrize(("values", "change"), [kind for kind in KINDS if "words" not in kind.id])
def test_responses_offsets_and_weights(values, change):
    plain = pd.Series(values)
    changed = change(plain)
    for formula in ("c ~ x", "cbind(y, c) ~ x", "I(c / 2) ~ x", "y ~ offset(c)"):
        same(sg.design(formula, frame_with(changed)), sg.design(formula, frame_with(plain)))
    frame = frame_with(plain)
    for Y in (changed, pd.DataFrame({"a": plain, "c": changed})):
        np.testing.assert_array_equal(sg.design("~ x", frame, Y=Y).Y.iloc[:, -1], plain.astype(float))
    if values.dtype != bool:
        np.testing.assert_array_equal(sg.design("y ~ x", frame_with(changed), weights="c").weights, plain)
        np.testing.assert_array_equal(sg.design("y ~ x", frame, weights=changed).weights, plain)


@pytest.mark.parametrize(("values", "change"), KINDS)
def test_new_rows_may_be_of_another_kind(values, change):
    plain, changed = pd.Series(values), change(pd.Series(values))
    for fitted, new in ((plain, changed), (changed, plain)):
        d = sg.design("y ~ c + (1 | c)", frame_with(fitted))
        rows = d.new(frame_with(new))
        np.testing.assert_array_equal(rows.X, d.X)
        np.testing.assert_array_equal(rows.terms[0].codes, d.terms[0].codes)


@pytest.mark.parametrize(("values", "change"), [kind for kind in KINDS if "truths" not in kind.id])
def test_labels_of_a_relationship_matrix(values, change):
    labels = pd.Index(values).unique()
    K = pd.DataFrame(np.eye(len(labels)) + 0.5, index=labels, columns=labels)
    plain = sg.design("y ~ (1 | c)", frame_with(pd.Series(values)), relmat={"c": K})
    same(sg.design("y ~ (1 | c)", frame_with(change(pd.Series(values))), relmat={"c": K}), plain)


def test_a_whole_frame_by_convert_dtypes():
    frame = frame_with(pd.Series(WORDS)).assign(k=NUMBERS, b=TRUTHS)
    formula = "y ~ x*c + b + k + (1 + x | g) + (1 | k)"
    expected = sg.design(formula, frame)
    same(sg.design(formula, frame.convert_dtypes()), expected)
    if pa is not None:
        same(sg.design(formula, frame.convert_dtypes(dtype_backend="pyarrow")), expected)
        same(sg.design(formula, pa.Table.from_pandas(frame)), expected)


@pytest.mark.parametrize(
    "column",
    [
        pl.Series(WORDS),
        pl.Series(WORDS, dtype=pl.Categorical),
        pl.Series(WORDS, dtype=pl.Enum(["a", "b", "c"])),
        pl.Series(NUMBERS),
        pl.Series(NUMBERS, dtype=pl.Float32),
        pl.Series([Decimal(int(v)) for v in NUMBERS]),
        pl.Series(TRUTHS),
    ],
    ids=lambda column: str(column.dtype),
)
def test_polars(column):
    plain = frame_with(pd.Series(np.asarray(column.to_list()))).assign(c=[_plain(v) for v in column.to_list()])
    frame = pl.DataFrame({name: plain[name].to_list() for name in ("y", "x", "g")}).with_columns(c=column)
    for formula in ("y ~ c", "y ~ (1 | c)", "y ~ (x | g:c)"):
        same(sg.design(formula, frame), sg.design(formula, plain))
    if column.dtype not in (pl.String, pl.Categorical, pl.Enum):
        same(sg.design("c ~ x", frame), sg.design("c ~ x", plain))
        np.testing.assert_array_equal(sg.design("~ x", plain, Y=frame.select("c")).Y["c"], plain["c"])


def _plain(value):
    return int(value) if isinstance(value, Decimal) else value


def test_long_ids_with_gaps_stay_apart():
    ids = [2**53, 2**53 + 1, None] * 8
    frame = pl.DataFrame({"y": np.arange(24.0), "id": pl.Series(ids, dtype=pl.Int64)})
    with pytest.warns(DroppedRowsWarning):
        d = sg.design("y ~ (1 | id)", frame)
    assert list(d.terms[0].levels) == [2**53, 2**53 + 1]


def test_nan_inside_a_nullable_column_is_missing():
    column = pd.Series(NUMBERS, dtype="Float64")
    column = column.where(column != 9, 0) / column.where(column != 9, 0)  # 0 / 0 is NaN, not NA
    assert column.isna().sum() in (0, 3)  # by the version of pandas
    for formula in ("y ~ c", "y ~ (1 | c)"):
        with pytest.warns(DroppedRowsWarning, match=r"'c' \(3\)"):
            assert sg.design(formula, frame_with(column)).n == 21
    assert sg.design("c ~ x", frame_with(column)).Y["c"].isna().sum() == 3
    assert sg.design("I(2 * c) ~ x", frame_with(column)).Y.iloc[:, 0].isna().sum() == 3


DAYS = pd.Series(pd.date_range("2020-01-01", periods=N))


@pytest.mark.parametrize(
    ("column", "message"),
    [
        (
            DAYS,
            r"column 'c' is datetime64\[.*turn it into numbers or categories first, such as days, .*\.dt\.days, or ",
        ),
        (DAYS.dt.tz_localize("UTC"), r"column 'c' is datetime64\[.*UTC\].*such as days"),
        (DAYS.dt.date, r"column 'c' is date: turn it into numbers or categories first, such as days"),
        (DAYS - DAYS[0], r"column 'c' is timedelta64\[.*such as frame\['c'\]\.dt\.total_seconds\(\)"),
        (DAYS.dt.to_period("D"), r"column 'c' is period\[D\].*such as frame\['c'\]\.astype\(str\)"),
        (pd.Series(NUMBERS * 1j), r"column 'c' is complex128.*such as frame\['c'\]\.abs\(\)"),
        (pd.Series([[1, 2]] * N), r"column 'c' holds list objects \(first: row '0'\); expected numbers, words or cat"),
        (pd.Series([{"a": 1}] * N), "column 'c' holds dict objects"),
        (pd.Series([object()] * N), "column 'c' holds object objects"),
        (pd.Series([b"a", b"b"] * 12), r"column 'c' holds bytes objects.*\.str\.decode\('utf-8'\)"),
        (pd.Series([2**70 + i for i in range(N)], dtype=object), "whole numbers beyond 64 bits"),
    ],
    ids=lambda value: "" if isinstance(value, str) else str(value.dtype),
)
def test_what_is_neither_number_nor_word_is_refused(column, message):
    for formula in ("y ~ c", "y ~ x:c", "y ~ (0 + c | g)", "y ~ offset(c)"):
        with pytest.raises(DataError, match=message):
            sg.design(formula, frame_with(column))
    with pytest.raises(DataError, match="'c'"):
        sg.design("c ~ x", frame_with(column))
    with pytest.raises(DataError, match="'c'"):
        sg.design("~ x", frame_with(column), Y=column.to_frame("c"))


@needs_arrow
def test_arrow_dates_and_lists_are_refused():
    for values, message in ((list(DAYS), "datetime64"), (list(DAYS.dt.date), "is date"), ([[1]] * N, "holds list")):
        with pytest.raises(DataError, match=f"column 'c' .*{message}"):
            sg.design("y ~ c", frame_with(pd.Series(pd.arrays.ArrowExtensionArray(pa.array(values)))))


def test_complex_numbers_do_not_group_rows():
    for column in (pd.Series(NUMBERS * 1j), pd.Series(NUMBERS * 1j, dtype=object)):
        with pytest.raises(DataError, match="grouping column 'c' is complex: make its levels words or whole numbers"):
            sg.design("y ~ (1 | c)", frame_with(column))


def test_dates_group_rows():
    assert len(sg.design("y ~ (1 | c)", frame_with(pd.Series(np.resize(DAYS[:4].dt.date, N)))).terms[0].levels) == 4
    assert len(sg.design("y ~ (1 | c)", frame_with(DAYS)).terms[0].levels) == N


def test_words_are_no_response():
    for column in (pd.Series(WORDS), pd.Series(WORDS, dtype="string"), pd.Series(WORDS, dtype="category")):
        with pytest.raises(DataError, match=r"not numeric: 'c' \(dtype '.*Convert with pandas.to_numeric first"):
            sg.design("c ~ x", frame_with(column))
        with pytest.raises(DataError, match="not numeric: 'c'"):
            sg.design("~ x", frame_with(pd.Series(NUMBERS)), Y=column.to_frame("c"))


def test_complex_matrices_and_markers_are_refused():
    K = pd.DataFrame(np.eye(4) * (1 + 1j), index=list("pqrs"), columns=list("pqrs"))
    frame = frame_with(pd.Series(NUMBERS))
    with pytest.raises(RelmatError, match="relmat for group 'g' must be real; column 'p' is complex128"):
        sg.design("y ~ (1 | g)", frame, relmat={"g": K})
    with pytest.raises(RelmatError, match=r"must be real; the matrix of .* is complex"):
        sg.design("y ~ (1 | g)", frame, relmat={"g": (K.to_numpy(), list("pqrs"))})
    with pytest.raises(RelmatError, match="must be numeric dosages; column '0' is complex128"):
        sg.kinship(pd.DataFrame(np.ones((4, 3)) * 1j))
    with pytest.raises(RelmatError, match="of type complex128"):
        sg.kinship(np.ones((4, 3)) * 1j)
    with pytest.raises(DataError, match="must be numeric dosages; got an array of complex128"):
        sg.he("y ~ (1 | g)", frame, markers={"c": pd.DataFrame(np.ones((N, 3)) * 1j)})


def test_covariates_of_single_traits_are_real_numbers():
    frame = frame_with(pd.Series(NUMBERS * 1j))
    with pytest.raises(DataError, match=r"cis: column 'c' \(trait 'y'\) is complex128; expected numbers"):
        sg.slam("y ~ (1 | g)", frame, cis={"y": "c"})
