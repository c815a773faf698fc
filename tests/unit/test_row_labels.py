"""The rule by which rows of tables find those of the data, case by case."""

import numpy as np
import pandas as pd
import pytest

import slamglmm as sg
from slamglmm.design.row_labels import RowLabels, counts_rows
from slamglmm.errors import DataError

LETTERS = list("abcdef")
ORDER = [3, 0, 5, 1, 4, 2]


def match(data, labels, size=None, what="Y", **options):
    index = None if labels is None else labels if isinstance(labels, pd.Index) else pd.Index(labels)
    return RowLabels.of(data).match(index, len(index) if size is None else size, what, **options)


def data(index=None, **columns):
    columns = {"x": np.arange(6) * 0.5, **columns}
    return pd.DataFrame(columns, index=index)


def test_what_only_counts():
    """0 .. n-1 in this order, whatever the class of the index."""
    for index in (range(3), [0, 1, 2], np.arange(3, dtype=np.int8)):
        assert counts_rows(pd.Index(index))
    for index in ([1, 2, 3], [0, 2, 1], range(0, 6, 2), list("012"), [0.0, 1.0], pd.MultiIndex.from_tuples([(0, 1)])):
        assert not counts_rows(pd.Index(index) if not isinstance(index, pd.Index) else index)


@pytest.mark.parametrize(
    ("frame", "labels", "rows", "note"),
    [
        (data(LETTERS), LETTERS, range(6), None),
        (data(LETTERS), None, range(6), None),
        (data(LETTERS), range(6), range(6), None),
        (data(), range(6), range(6), None),
        # the index that a user set goes before a column
        (data(LETTERS, sire=LETTERS[::-1]), LETTERS, range(6), None),
        (data(LETTERS, sire=LETTERS[::-1]), LETTERS[::-1], range(5, -1, -1), "the index of data, which is in another"),
        # an index that does not fit does not keep a column from fitting
        (data(list("ABCDEF"), who=LETTERS), LETTERS, range(6), "column 'who' of data"),
        # left over from sorting, of one table or the other
        (data(ORDER), range(6), ORDER, "the index of data, which is in another order"),
        (data(), ORDER, np.argsort(ORDER), "the index of data, which is in another order"),
        (data(ORDER), ORDER, range(6), None),
        # left over from taking some rows of a longer table
        (data([9, 2, 5, 1, 11, 3]), range(12), [9, 2, 5, 1, 11, 3], "6 of its 12 rows are of nobody in data and left"),
        # a column of few values is no rival, although a longer table has them all
        (data([9, 2, 5, 1, 11, 3], plot=[1, 2, 3] * 2), range(11, -1, -1), [2, 9, 6, 10, 0, 8], "6 of its 12 rows"),
        # a table that counts its rows, beside numbers that it has not got, or not once each: two frames, one below
        # the other
        (data([9, 2, 5, 1, 11, 3]), range(6), range(6), None),
        (data([0, 1, 2, 0, 1, 2]), range(6), range(6), None),
        # numbers of rows from 1, as R writes them
        (data(range(1, 7)), range(6), range(6), None),
        (data(id=[4, 1, 6, 2, 5, 3]), [1, 2, 3, 4, 5, 6], [3, 0, 5, 1, 4, 2], "column 'id' of data"),
        # numbers and text
        (data(id=list("412653")), [1, 2, 3, 4, 5, 6], [3, 0, 1, 5, 4, 2], "column 'id' of data"),
        (data(id=pd.Categorical(LETTERS)), LETTERS[::-1], range(5, -1, -1), "column 'id' of data"),
        (data(id=pd.array([4, 1, 6, 2, 5, 3], dtype="Int64")), range(1, 7), [3, 0, 5, 1, 4, 2], "column 'id' of data"),
        (data(id=pd.array(LETTERS, dtype="string")), LETTERS[::-1], range(5, -1, -1), "column 'id' of data"),
        # two columns that say the same
        (data(id=LETTERS, name=LETTERS), LETTERS[::-1], range(5, -1, -1), "column 'id' of data"),
        # the same labels row by row, although they repeat
        (data(id=list("aabbcc")), list("aabbcc"), range(6), "column 'id' of data"),
        (data(list("aabbcc")), list("aabbcc"), range(6), None),
        # several labels to a row
        (
            data(line=list("aabbcc"), year=[1, 2] * 3),
            pd.MultiIndex.from_product([[2, 1], list("abc")], names=["year", "line"]),
            [3, 0, 4, 1, 5, 2],
            "columns 'year', 'line' of data",
        ),
        (
            data(pd.MultiIndex.from_product([list("abc"), [1, 2]])),
            pd.MultiIndex.from_product([list("abc"), [2, 1]]),
            [1, 0, 3, 2, 5, 4],
            "the index of data, which is in another order",
        ),
    ],
)
def test_rows_found(frame, labels, rows, note):
    """Row of the table for each row of the data, and what is said about it."""
    found = match(frame, labels, size=6 if labels is None else None)
    np.testing.assert_array_equal(found.rows, rows)
    assert (note is None and found.note is None) or note in found.note


@pytest.mark.parametrize(
    ("frame", "labels", "message"),
    [
        (data(), LETTERS, r"row labels of Y \('a', 'b', 'c', ... \(6 in all\)\) were compared with the index of data"),
        (data(), LETTERS, r"and the columns 'x'; none has them.*is row i of data, write Y.reset_index\(drop=True\)"),
        (data(), range(7), r"Y: expected 6 rows, as data has, got 7, and no labels to match them by"),
        (data(id=LETTERS), LETTERS[:5], r"column 'id' of data comes closest, but 1 of 6 rows .* the 5 rows of Y: 'f'"),
        (
            data(id=LETTERS),
            [*LETTERS, "g"],
            r"all rows are found in column 'id'.*but 1 of the 7 labels.*set_index\('id'",
        ),
        (data(sex=[0, 1] * 3), [3, 0, 1, 2, 5, 7], r"index of data comes closest, but 1 of 6 rows .* of Y: '4'"),
        # numbers of rows prove nothing about a longer table with numbers of its own
        (
            data(),
            [5, 3, 1, 2, 0, 4, 6],
            r"all rows are found in the index of data, but 1 of the 7 labels are not there",
        ),
        (
            data(list("aabbcc")),
            list("abc"),
            r"Y has one row for each label, but the index of data has 'a', 'b', 'c' more",
        ),
        (
            data(id=list("aabbcc")),
            list("ccbbaa"),
            r"row labels of Y repeat \('c', 'b', 'a'\), and are not those of data",
        ),
        (
            data(id=LETTERS, dam=LETTERS[::-1]),
            LETTERS,
            r"column 'id' of data and in column 'dam' of data, in different",
        ),
        (
            data([9, 2, 5, 1, 11, 3], id=[0, 4, 6, 7, 8, 10]),
            range(11, -1, -1),
            r"the index of data and in column 'id' of",
        ),
        (data(ORDER, id=ORDER[::-1]), ORDER[1:] + ORDER[:1], r"in the index of data and in column 'id' of data"),
        (
            data(line=list("aabbcc")),
            pd.MultiIndex.from_product([[2, 1], list("abc")], names=["year", "line"]),
            r"row labels of Y \(\"\(2, 'a'\)\", .* were compared with the index of data \('0', '1', '2'",
        ),
    ],
)
def test_rows_refused(frame, labels, message):
    """What was compared, what came closest, and what to write."""
    with pytest.raises(DataError, match=message):
        match(frame, labels)


def test_some_rows_of_the_data_are_asked_for():
    """Rows that were dropped need none in the table; a column may be missing there."""
    frame = data(id=["a", "b", None, "d", "e", "f"])
    kept = np.array([0, 1, 3, 4, 5])
    np.testing.assert_array_equal(match(frame, list("fedba"), rows=kept).rows, [4, 3, 2, 1, 0])
    with pytest.raises(DataError, match="1 of 6 rows of data are not among the 5 rows of Y"):
        match(frame, list("fedba"))
    np.testing.assert_array_equal(match(data(LETTERS), None, size=6, rows=kept).rows, kept)


def test_records_share_a_row_where_they_may():
    """As the records of a line share its markers."""
    frame = data(line=list("cabbca"))
    np.testing.assert_array_equal(match(frame, list("abc"), repeats=True).rows, [2, 0, 1, 1, 2, 0])
    np.testing.assert_array_equal(match(frame.set_index("line"), list("abcd"), repeats=True).rows, [2, 0, 1, 1, 2, 0])
    with pytest.raises(DataError, match=r"all rows are found in column 'line' of data, but 1 of the 4 labels"):
        match(frame, list("abcd"), repeats=True)


def test_many_columns_are_quick_to_rule_out():
    """Ten thousand columns of dosages beside one of ids."""
    frame = pd.DataFrame(np.zeros((6, 10_000), dtype=np.int8)).add_prefix("m").assign(id=LETTERS)
    np.testing.assert_array_equal(match(frame, LETTERS[::-1]).rows, range(5, -1, -1))


def test_what_has_no_labels():
    """Lists, arrays, polars, and columns in a dict go by position, whatever the data are called."""
    pl = pytest.importorskip("polars")
    frame, y = data(ORDER), np.arange(6.0)
    for Y in (list(y), y, y[:, None], {"y1": y}, pl.DataFrame({"y1": y})):
        np.testing.assert_array_equal(sg.design("~ x", frame, Y=Y).Y.to_numpy()[:, 0], y)
    for weights in (list(y + 1), y + 1, pl.Series(y + 1)):
        np.testing.assert_array_equal(sg.design("~ x", frame, Y=y, weights=weights).weights, y + 1)
    named = {"y1": pd.Series(y, index=LETTERS)}
    np.testing.assert_array_equal(sg.design("~ x", data(LETTERS[::-1]), Y=named).Y["y1"], y[::-1])


def test_a_design_says_how_rows_were_matched():
    """Also when it is printed."""
    Y = pd.DataFrame({"y": np.arange(6.0)}, index=LETTERS[::-1])
    made = sg.design("~ x", data(who=LETTERS), Y=Y, weights=Y["y"] + 1)
    assert made.notes == tuple(
        f"rows of {what} were matched by label to column 'who' of data" for what in ("Y", "weights")
    )
    assert "  note    rows of Y were matched by label to column 'who' of data" in repr(made)
    assert sg.design("~ x", data()).notes == ()


def test_groups_of_samples():
    """Samples of `netgsa` are columns of the expression."""
    made = sg.simulate.netgsa(n_genes=16, n_pathways=2, seed=1)
    groups = pd.Series(list(made.groups), index=made.expression.columns)
    rest = (made.networks, made.pathways)
    expected = sg.netgsa(made.expression, groups.to_numpy(), *rest)
    counted = made.expression.set_axis(range(made.expression.shape[1]), axis=1)
    for expression, own in ((made.expression, groups), (counted, groups.reset_index(drop=True))):
        first = own.sample(frac=1, random_state=1)
        # the condition that appears first is the reference, so it stays first
        fit = sg.netgsa(expression, first, *rest)
        pd.testing.assert_frame_equal(fit.table, expected.table)
        assert "rows of groups were matched by label to the columns of expression, which is in another" in fit.notes[0]
    with pytest.raises(DataError, match=r"row labels of groups .* were compared with the columns of expression \("):
        sg.netgsa(made.expression, groups.add_prefix("other"), *rest)


def test_samples_of_voom():
    """Design and library sizes."""
    rng = np.random.default_rng(1)
    counts = pd.DataFrame(rng.poisson(30, (6, 8)), index=LETTERS).add_prefix("g")
    X = pd.DataFrame({"one": 1.0, "x": rng.standard_normal(6)}, index=LETTERS)
    sizes = counts.sum(axis=1) * rng.uniform(0.8, 1.2, 6)
    expected = sg.links.voom(counts, X.to_numpy(), sizes.to_numpy())
    found = sg.links.voom(counts, X.iloc[::-1], sizes.sample(frac=1, random_state=2))
    pd.testing.assert_frame_equal(found.weights, expected.weights)
    with pytest.raises(DataError, match="row labels of lib_size"):
        sg.links.voom(counts, X, sizes.add_prefix("s"))


@pytest.mark.filterwarnings("ignore::slamglmm.errors.BoundaryWarning")
def test_bins_of_markers_go_by_name():
    """`annotation` has one row for each marker."""
    rng = np.random.default_rng(1)
    n, m = 60, 20
    W = pd.DataFrame(rng.integers(0, 3, (n, m))).add_prefix("m")
    frame = pd.DataFrame({"y": rng.standard_normal(n)})
    bins = pd.DataFrame({"left": np.arange(m) < 7, "right": np.arange(m) >= 7}, index=W.columns)

    def variances(annotation):
        return sg.he("y ~ 1", frame, markers={"chip": W}, annotation=annotation, method="he", se=None, seed=1)

    expected = variances(bins.to_numpy()).varcorr()["variance"]
    fit = variances(bins.sample(frac=1, random_state=3))
    np.testing.assert_allclose(fit.varcorr()["variance"], expected, rtol=1e-12)
    assert (
        "rows of annotation were matched by label to the names of markers['chip'], which is in another" in fit.notes[0]
    )
    with pytest.raises(DataError, match="row labels of annotation"):
        variances(bins.set_axis([f"snp{j}" for j in range(m)]))
