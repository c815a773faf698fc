"""Every table with one row for each row of the data: its labels say whose they are, in every function, or it refuses.

The numbers are those of the call with arrays, whose rows are in the order of the data.
"""

import warnings
from functools import cache

import numpy as np
import pandas as pd
import pytest

import slamglmm as sg
from slamglmm.errors import DataError, DroppedRowsWarning, SlamWarning
from slamglmm.genotypes import write_plink

N = 36
IDS = [f"i{k:02d}" for k in range(N)]
COUNTED, MEASURED = ["c0", "c1"], ["y", "z"]
SHORT = {"n_factors": 1, "draws": 6, "burn": 4, "chains": 1, "seed": 1}
RNG = np.random.default_rng(3)
X = RNG.standard_normal(N)
GROUP = np.repeat(list("abcdefghi"), 4)
TRAITS = 2 * X[:, None] + np.repeat(RNG.standard_normal((9, 2)), 4, axis=0) + RNG.standard_normal((N, 2))
COUNTS = RNG.poisson(5, (N, 2)).astype(float)
DOSAGES = RNG.integers(0, 3, (N, 12)).astype(float)
POSITIVE = RNG.uniform(0.5, 4.0, (N, 2))
TRIALS = COUNTS + RNG.integers(1, 5, (N, 2))
SPREAD = RNG.standard_normal((N, 3))
DISTANCE = np.sqrt(((SPREAD[:, None] - SPREAD) ** 2).sum(axis=2))


def frame():
    """Predictors and responses that stay where they are; only the table of a case moves."""
    table = pd.DataFrame({"x": X, "g": GROUP, "y": TRAITS[:, 0], "z": TRAITS[:, 1]})
    return table.assign(c0=COUNTS[:, 0], c1=COUNTS[:, 1])


def long_enough(values, data):
    """A second table of a call, in the order of the data, however many rows these have."""
    return values[np.arange(len(data)) % N]


# -- the functions -----------------------------------------------------------------------------------------


def of_design(data, **options):
    made = sg.design("~ x" if "Y" in options else "y ~ x", data, **options)
    return made.Y if "Y" in options else made.weights, made.notes


def of_slam(data, formula="~ x + (1 | g)", **options):
    fit = sg.slam(formula, data, **options, **SHORT)
    return fit.posterior["h2"], fit.notes


def of_counts(data, **options):
    return of_slam(data, "c0 + c1 ~ x + (1 | g)", **options)


def of_traits(data, **options):
    return of_slam(data, "y + z ~ x + (1 | g)", **options)


def of_he(data, formula=None, **options):
    formula = formula or ("~ x + (1 | g)" if {"Y", "distance"} & set(options) else "y ~ x + (1 | g)")
    fit = sg.he(formula, data, seed=1, **options)
    return fit.varcorr()["variance"], fit.notes


def of_sparse(data, **options):
    options = {"markers": long_enough(DOSAGES, data)} | options
    fit = sg.sparse_lmm("~ x" if "Y" in options else "y ~ x", data, **options)
    parts = list(fit.fits.values()) if "Y" in options else [fit]
    return np.column_stack([part.coef for part in parts]), fit.notes


def of_mash(data, **options):
    options = {"Y": long_enough(TRAITS, data), "markers": long_enough(DOSAGES, data)} | options
    fit = sg.mr_mash("~ x", data, **options, max_iter=20)
    return fit.coef, fit.notes


def of_folds(data, folds=3, **options):
    options = {"Y": long_enough(TRAITS, data)} | options
    out = sg.cross_validate(sg.he, "~ x + (1 | g)", data, folds=folds, by="rows", **options)
    return out.predictions, out.notes


@cache
def fits_to_predict_from():
    """`sparse_lmm`, `mr_mash` and `he` with the same markers."""
    known, markers = frame(), labelled("predict markers", range(N))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SlamWarning)
        return (
            sg.sparse_lmm("y ~ x", known, markers=markers),
            sg.mr_mash("~ x", known, Y=TRAITS, markers=markers, max_iter=20),
            sg.he("y ~ x", known, markers={"chip": markers}, seed=1),
        )


def of_prediction(data, markers):
    """New rows with markers of their own."""
    one, many, split = fits_to_predict_from()
    parts = [one.predict(data, markers=markers), many.predict(data, markers=markers)]
    return np.hstack([*parts, split.predict(data, markers={"chip": markers})]), None


def link(kind, name):
    return lambda data, **options: of_counts(data, link=kind(**options))


CASES = {
    "design Y": (of_design, "Y", TRAITS),
    "design weights": (of_design, "weights", POSITIVE[:, 0]),
    "slam Y": (of_slam, "Y", TRAITS),
    "poisson size_factors": (link(sg.links.Poisson, "size_factors"), "size_factors", POSITIVE[:, 0]),
    "poisson size_factors by cell": (link(sg.links.Poisson, "size_factors"), "size_factors", POSITIVE),
    "negative binomial size_factors": (link(sg.links.NegativeBinomial, "size_factors"), "size_factors", POSITIVE[:, 0]),
    "binomial trials": (link(sg.links.Binomial, "trials"), "trials", TRIALS.max(axis=1)),
    "binomial trials by cell": (link(sg.links.Binomial, "trials"), "trials", TRIALS),
    "gaussian weights": (
        lambda data, weights: of_traits(data, link=sg.links.GaussianWeights(weights)), "weights", POSITIVE,
    ),
    "censored left": (
        lambda data, left: of_traits(data, link=sg.links.Censored(left=left)), "left", TRAITS - 1.0 + (POSITIVE > 3),
    ),
    "censored upper": (
        lambda data, upper: of_traits(data, link=sg.links.Censored(upper=upper)), "upper", TRAITS + POSITIVE,
    ),
    "link of some columns": (
        lambda data, size_factors: of_slam(
            data, "c0 + y ~ x + (1 | g)", link=[(sg.links.Poisson(size_factors), ["c0"]), ("identity", ["y"])]
        ),
        "size_factors", POSITIVE[:, 0],
    ),
    "he Y": (of_he, "Y", TRAITS),
    "he weights": (of_he, "weights", POSITIVE[:, 0]),
    "he markers": (lambda data, markers: of_he(data, "y ~ x", markers={"chip": markers}), "markers", DOSAGES),
    "he distance": (lambda data, distance: of_he(data, distance=distance, permutations=9), "distance", DISTANCE),
    "sparse_lmm Y": (of_sparse, "Y", TRAITS),
    "sparse_lmm weights": (of_sparse, "weights", POSITIVE[:, 0]),
    "sparse_lmm markers": (of_sparse, "markers", DOSAGES),
    "mr_mash Y": (of_mash, "Y", TRAITS),
    "mr_mash markers": (of_mash, "markers", DOSAGES),
    "cross_validate Y": (of_folds, "Y", TRAITS),
    "cross_validate folds": (of_folds, "folds", np.arange(N) % 3 + 1),
    "predict markers": (of_prediction, "markers", DOSAGES),
}  # fmt: skip


def labelled(case, index):
    """The table of a case as a pandas object with row labels."""
    _, option, values = CASES[case]
    if values is DISTANCE:
        return pd.DataFrame(values, index=index, columns=index)
    if values.ndim == 1:
        return pd.Series(values, index=index)
    # options of links find their traits by name
    names = {"Y": ["a", "b"], "size_factors": COUNTED, "trials": COUNTED, "markers": [f"m{j}" for j in range(12)]}
    return pd.DataFrame(values, index=index, columns=names.get(option, MEASURED))


def shuffled(table):
    order = np.random.default_rng(11).permutation(N)
    return table.iloc[order, order] if table.shape == (N, N) else table.iloc[order]


def in_rows(values, order):
    """The array of a case for rows of data in another order."""
    return values[np.ix_(order, order)] if values is DISTANCE else values[order]


def call(case, data, table):
    fit, option, _ = CASES[case]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SlamWarning)
        warnings.simplefilter("ignore", DroppedRowsWarning)
        numbers, notes = fit(data, **{option: table})
    return np.asarray(numbers, dtype=float), notes


def index_ids(case):
    """Ids in the index of the data."""
    return frame().set_axis(IDS), shuffled(labelled(case, IDS)), np.arange(N), "the index of data, which is in an"


def column_ids(case):
    """Ids in a column of the data, whose index counts its rows."""
    return frame().assign(who=IDS), shuffled(labelled(case, IDS)), np.arange(N), "column 'who' of data"


def column_order(case):
    """The table is already in the order of the column."""
    return frame().assign(who=IDS), labelled(case, IDS), np.arange(N), "column 'who' of data"


def counted_data(case):
    """A table that was sorted after it had numbered its rows, beside data that have not been."""
    return frame(), shuffled(labelled(case, range(N))), np.arange(N), "the index of data, which is in another order"


def counted_table(case):
    """Data that were sorted after they had numbered their rows, beside a table that has not been."""
    data = frame().sort_values("x")
    return data, labelled(case, range(N)), data.index.to_numpy(), "the index of data, which is in another order"


def numbers_and_text(case):
    """Ids that are numbers in one table and text in the other."""
    data = frame().assign(who=[str(100 + k) for k in range(N)])
    return data, shuffled(labelled(case, range(100, 100 + N))), np.arange(N), "column 'who' of data"


def polars_data(case):
    """A frame without an index."""
    pl = pytest.importorskip("polars")
    data = frame().assign(who=IDS)
    return pl.DataFrame(data.to_dict("list")), shuffled(labelled(case, IDS)), np.arange(N), "column 'who' of data"


LAYOUTS = [index_ids, column_ids, counted_data, counted_table]
# What only the rule itself sees is tried with some of its callers.
OTHERS = [
    (case, layout)
    for case in ("design Y", "binomial trials", "he markers", "sparse_lmm markers")
    for layout in (column_order, numbers_and_text, polars_data)
]


@pytest.mark.parametrize(
    ("case", "layout"),
    [(case, layout) for case in CASES for layout in LAYOUTS] + OTHERS,
    ids=lambda value: getattr(value, "__name__", value),
)
def test_rows_go_by_label(case, layout):
    """Labels in another order than the data: the numbers of arrays in the order of the data, and a note of how."""
    values = CASES[case][2]
    data, table, order, words = layout(case)
    expected, _ = call(case, data, in_rows(values, order))
    numbers, notes = call(case, data, table)
    np.testing.assert_allclose(numbers, expected, rtol=1e-12, atol=1e-14)
    if notes is not None:
        assert [note for note in notes if "were matched by label to" in note and words in note], notes


@pytest.mark.parametrize("case", CASES)
def test_arrays_go_by_position(case):
    """Whatever the data are called; so does a table that only counts its rows, beside data with names."""
    values = CASES[case][2]
    expected, _ = call(case, frame(), values)
    for data in (frame().set_axis(IDS), frame().set_axis(IDS[::-1]), frame().set_axis(np.arange(N)[::-1])):
        np.testing.assert_allclose(call(case, data, values)[0], expected, rtol=1e-12, atol=1e-14)
    for data in (frame(), frame().set_axis(IDS[::-1])):
        numbers, notes = call(case, data, labelled(case, range(N)))
        np.testing.assert_allclose(numbers, expected, rtol=1e-12, atol=1e-14)
        assert not any("by label" in note for note in notes or ())


@pytest.mark.parametrize("case", CASES)
def test_labels_that_name_nobody_are_refused(case):
    """Ids on one side only."""
    with pytest.raises(
        DataError,
        match=r"row labels of \S+ \('i\d\d', .*\) were compared with the index of (new)?data \('0', '1', '2', .* and "
        r"the columns 'x', 'g', .*; none has them\. Make the ids the index of \w+, or a column.* If row i .* write ",
    ):
        call(case, frame(), shuffled(labelled(case, IDS)))


@pytest.mark.parametrize("case", CASES)
def test_columns_that_contradict_each_other_are_refused(case):
    """Two columns with the same ids in different orders."""
    with pytest.raises(
        DataError,
        match=r"row labels of \S+ are found in column 'who' of (new)?data and in column 'whose' of (new)?data, in "
        r"different orders.*\.set_index\('who', drop=False\), for the second \w+\.set_index\('whose', drop=False\)",
    ):
        call(case, frame().assign(who=IDS, whose=IDS[::-1]), shuffled(labelled(case, IDS)))


@pytest.mark.parametrize("case", CASES)
def test_a_number_of_the_row_and_an_id_are_refused(case):
    """Ids 0 .. n-1 in a column, in another order than the rows."""
    who = np.random.default_rng(2).permutation(N)
    with pytest.raises(
        DataError,
        match=r"found in the index of (new)?data and in column 'who' of (new)?data, in different orders.*"
        r"write \S+\.loc\[(new)?data\.index\], for the second (new)?data\.set_index\('who', drop=False\)",
    ):
        call(case, frame().assign(who=who), shuffled(labelled(case, range(N))))


@pytest.mark.parametrize("case", CASES)
def test_rows_that_the_table_lacks_are_named(case):
    """By label, a row short."""
    values = CASES[case][2]
    table = labelled(case, IDS)
    table = table.iloc[1:, 1:] if values is DISTANCE else table.iloc[1:]
    for data, place in ((frame().set_axis(IDS), "the index"), (frame().assign(who=IDS), "column 'who'")):
        with pytest.raises(
            DataError,
            match=rf"{place} of \w+ comes closest, but 1 of 36 rows of \w+ are not among the 35 rows of .*: 'i00'",
        ):
            call(case, data, table)


@pytest.mark.parametrize("case", CASES)
def test_more_rows_than_data(case):
    """The index says which are meant and a note says how many are not; a column only if it has all."""
    values = CASES[case][2]
    table, kept = shuffled(labelled(case, IDS)), np.arange(2, N)
    data = frame().set_axis(IDS).iloc[kept]
    expected, _ = call(case, data, in_rows(values, kept))
    numbers, notes = call(case, data, table)
    np.testing.assert_allclose(numbers, expected, rtol=1e-12, atol=1e-14)
    if notes is not None:
        assert any("2 of its 36 rows are of nobody in data and left out" in note for note in notes), notes
    with pytest.raises(
        DataError, match=r"all rows are found in column 'who'.* 2 of the 36 labels.*set_index\('who', drop=False\)"
    ):
        call(case, data.reset_index(names="who"), table)


@pytest.mark.parametrize(
    "case", ["he markers", "he distance", "sparse_lmm markers", "mr_mash markers", "predict markers"]
)
def test_records_of_one_individual_share_its_row(case):
    """Markers and distances are of individuals, of whom there may be several records."""
    values, owner = CASES[case][2], np.repeat(np.arange(N), 2)[np.random.default_rng(8).permutation(2 * N)]
    data = frame().iloc[owner].assign(y=np.random.default_rng(1).standard_normal(2 * N)).reset_index(drop=True)
    expected, _ = call(case, data, in_rows(values, owner))
    ids = np.array(IDS)[owner]
    for whose in (data.set_axis(ids), data.assign(who=ids)):
        numbers, _ = call(case, whose, shuffled(labelled(case, IDS)))
        np.testing.assert_allclose(numbers, expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("case", ["design Y", "design weights", "slam Y", "binomial trials", "cross_validate folds"])
def test_one_row_for_each_record(case):
    """A response of a line is not that of its records."""
    data = pd.concat([frame(), frame()], ignore_index=True)
    for whose in (data.set_axis(IDS * 2), data.assign(who=IDS * 2)):
        with pytest.raises(DataError, match=r"has one row for each label, but .* has 'i00', .* more than once"):
            call(case, whose, shuffled(labelled(case, IDS)))


def test_rows_of_a_bed_file(tmp_path):
    """The ids of the .fam are labels as those of a table are."""
    write_plink(tmp_path / "m.bed", [DOSAGES], IDS, [f"m{j}" for j in range(12)])
    data = frame().assign(who=IDS).sample(frac=1, random_state=1)
    for case in ("sparse_lmm markers", "he markers", "mr_mash markers", "predict markers"):
        expected, _ = call(case, data, DOSAGES[data.index.to_numpy()])
        for whose in (data, data.set_index("who"), data.reset_index(drop=True)):
            numbers, _ = call(case, whose, tmp_path / "m.bed")
            np.testing.assert_allclose(numbers, expected, rtol=1e-6, atol=1e-9)
        with pytest.raises(DataError, match=r"none has them.*write data\.set_axis\(.*open_plink\(path\)\.labels\)"):
            call(case, data.drop(columns="who"), tmp_path / "m.bed")


@pytest.mark.parametrize(
    "case", ["design Y", "slam Y", "gaussian weights", "binomial trials", "he Y", "he markers", "he distance",
             "sparse_lmm markers", "mr_mash Y", "mr_mash markers"],
)  # fmt: skip
def test_rows_that_are_dropped(case):
    """Predictors, and here and there a response, that are missing: the others keep their own rows of the table."""
    values = CASES[case][2].copy()
    if case.endswith("Y"):
        values[[3, 20], [0, 1]] = np.nan
    data = frame().assign(who=IDS)
    data.loc[[1, 7, 30], "x"] = np.nan
    data.loc[11, "y"] = np.nan
    expected, _ = call(case, data, values)
    order = np.random.default_rng(5).permutation(N)
    shown = (
        pd.DataFrame(values).set_axis(labelled(case, IDS).columns, axis=1) if values.ndim == 2 else pd.Series(values)
    )
    table = shown.set_axis(IDS).iloc[order]
    numbers, _ = call(case, data, table[table.index] if values.shape == (N, N) else table)
    np.testing.assert_allclose(numbers, expected, rtol=1e-12, atol=1e-14)


def test_dropped_responses():
    """`missing="drop"` after rows have been matched."""
    Y = TRAITS.copy()
    Y[[3, 20], [0, 1]] = np.nan
    table = pd.DataFrame(Y, index=IDS, columns=["a", "b"]).sample(frac=1, random_state=2)
    with pytest.warns(DroppedRowsWarning, match="2 of 36 rows dropped"):
        made = sg.design("~ x", frame().assign(who=IDS), Y=table, missing="drop")
    np.testing.assert_array_equal(made.rows, np.setdiff1d(np.arange(N), [3, 20]))
    np.testing.assert_array_equal(made.Y, Y[made.rows])


def test_dispersions_of_traits_go_by_name():
    """One for each trait."""
    given = pd.Series([0.3, 2.0], index=COUNTED)
    expected, _ = of_counts(frame(), link=sg.links.NegativeBinomial(dispersion=given.to_numpy()))
    found, _ = of_counts(frame(), link=sg.links.NegativeBinomial(dispersion=given[::-1]))
    np.testing.assert_array_equal(found, expected)
    with pytest.raises(sg.errors.OptionError, match="dispersion: expected one number for each of 'c0', 'c1', by name"):
        of_counts(frame(), link=sg.links.NegativeBinomial(dispersion=given.add_prefix("trait_")))
