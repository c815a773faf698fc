import re

import numpy as np
import pandas as pd
import polars as pl
import pytest
from scipy import sparse

import slamglmm as sg
from slamglmm import relmat
from slamglmm.errors import RelmatError, SlamWarning
from slamglmm.relmat import Relmat, as_relmat, kinship


def message(start):
    return "^" + re.escape(start)


def random_kinship(n, m=None, seed=1):
    w = np.random.default_rng(seed).standard_normal((n, m or 2 * n))
    return w @ w.T / w.shape[1]


def letters(n):
    return [f"L{i}" for i in range(n)]


@pytest.fixture
def frame():
    return pd.DataFrame(random_kinship(5), index=list("abcde"), columns=list("abcde"))


# -- what is accepted --------------------------------------------------------------------------------


def test_columns_are_put_in_the_order_of_the_index(frame):
    before = frame.copy()
    shuffled = frame[["c", "a", "e", "b", "d"]]
    k = as_relmat(shuffled, "line")
    assert list(k.labels) == list("abcde")
    assert np.array_equal(k.matrix, frame.to_numpy())
    assert k.matrix.flags.c_contiguous
    assert k.matrix.dtype == np.float64
    assert k.name == "line"
    pd.testing.assert_frame_equal(shuffled, before[["c", "a", "e", "b", "d"]])


def test_csv_with_number_labels_on_the_index_and_text_on_the_columns():
    values = random_kinship(3)
    order = [2, 0, 1]
    k = pd.DataFrame(values[:, order], index=[7, 8, 9], columns=["9", "7", "8"])
    assert np.array_equal(as_relmat(k).matrix, values)


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int8])
def test_pair_of_array_and_labels(dtype):
    values = np.diag([1, 2, 3]).astype(dtype)
    values.flags.writeable = False
    k = as_relmat((values, list("xyz")))
    assert np.array_equal(k.matrix, np.diag([1.0, 2.0, 3.0]))
    assert not np.shares_memory(k.matrix, values)


@pytest.mark.parametrize("kind", ["csr_array", "coo_matrix", "csc_array"])
def test_sparse_stays_sparse(kind):
    values = np.kron(np.eye(3), [[1.0, 0.5], [0.5, 1.0]])
    k = as_relmat((getattr(sparse, kind)(values), letters(6)), "animal")
    assert k.is_sparse
    assert k.matrix.format == "csr"
    assert np.array_equal(k.matrix.toarray(), values)
    assert np.array_equal(np.asarray(k), values)
    assert repr(k) == "Relmat('animal', 6 x 6, sparse, 12 entries)"


def test_a_relmat_passes_and_takes_the_name(frame):
    k = as_relmat(frame)
    assert as_relmat(k, "line").name == "line"
    assert as_relmat(as_relmat(k, "line")).name == "line"
    assert repr(k) == "Relmat(5 x 5, dense)"
    assert k.shape == (5, 5)
    pd.testing.assert_frame_equal(k.to_frame(), frame)


def test_rounding_asymmetry_is_evened_out_and_the_input_is_not_touched():
    values = random_kinship(4)
    values[0, 1] += 1e-12
    before = values.copy()
    k = as_relmat((values, letters(4)))
    assert np.array_equal(k.matrix, k.matrix.T)
    assert np.array_equal(values, before)


@pytest.mark.parametrize("n", [2, 50, 300])
def test_centred_kinship_of_rank_below_n_passes(n):
    w = np.random.default_rng(n).standard_normal((n, n // 2 + 1))
    w -= w.mean(axis=0)
    as_relmat((w @ w.T, letters(n)))
    as_relmat((np.round(w @ w.T / n, 6), letters(n)))


def test_zero_matrix_and_all_ones_pass():
    as_relmat((np.zeros((3, 3)), letters(3)))
    as_relmat((np.ones((3, 3)), letters(3)))


def test_large_sparse_blocks():
    n = relmat.DENSE_BLOCK + 100
    path = sparse.diags_array(
        [-np.ones(n - 1), np.r_[1.0, np.full(n - 2, 2.0), 1.0], -np.ones(n - 1)], offsets=[-1, 0, 1]
    )
    with pytest.warns(SlamWarning, match="looks like the inverse"):  # as a Laplacian is, of a walk's covariances
        as_relmat((path, range(n)))  # smallest eigenvalue 0
    with pytest.raises(
        RelmatError, match=message("relmat must be positive semi-definite; its smallest eigenvalue is -1 ")
    ):
        as_relmat((path - sparse.eye_array(n), range(n)))


# -- what is refused ---------------------------------------------------------------------------------


def test_unlabelled_array_says_how_to_label_it():
    with pytest.raises(RelmatError, match=message("relmat for group 'line' is unlabelled (a numpy.ndarray), so")) as e:
        as_relmat(np.eye(3), "line")
    assert "Give a pandas DataFrame with the labels as index and columns, or a tuple (matrix, labels)." in str(e.value)


def test_polars_has_no_index():
    with pytest.raises(RelmatError, match=r"^relmat is unlabelled \(a polars\.DataFrame\)"):
        as_relmat(pl.DataFrame({"a": [1.0]}))


@pytest.mark.parametrize(
    ("value", "start"),
    [
        (pd.DataFrame(np.ones((2, 3))), "relmat for group 'g' must be square, got 2 x 3. If it was read from a file"),
        ((np.ones((2, 3)), ["a", "b"]), "relmat for group 'g' must be square, got shape (2, 3)."),
        ((np.eye(3), ["a", "b"]), "relmat for group 'g' has 3 rows but 2 labels."),
        ((np.eye(3), ["a", "b", "a"]), "relmat for group 'g' has labels more than once: 'a'."),
        ((np.eye(3), ["a", None, "b"]), "relmat for group 'g' has a missing label at position 1."),
        (([["x"]], ["a"]), "relmat for group 'g' must be numeric; the matrix of (matrix, labels) is list."),
        ((pd.DataFrame(np.eye(2)), ["a", "b"]), "relmat for group 'g': a DataFrame brings its own labels"),
        (
            pd.DataFrame(np.eye(2), index=["a", "b"], columns=["a", "c"]),
            "relmat for group 'g' must have the same labels as index and columns; not among the columns: 'b'.",
        ),
        (
            pd.DataFrame({"a": ["1", "0"], "b": [0.0, 1.0]}, index=["a", "b"]),
            "relmat for group 'g' must be numeric; column 'a' is ",
        ),
        (
            (np.array([[1.0, np.nan], [np.nan, 1.0]]), ["a", "b"]),
            "relmat for group 'g' must be finite; entry ('a', 'b') is nan.",
        ),
        (
            (sparse.csr_array([[1.0, 0.0], [0.0, np.inf]]), ["a", "b"]),
            "relmat for group 'g' must be finite; entry ('b', 'b') is inf.",
        ),
        (
            (np.array([[1, 0.2, 0], [0.3, 1, 0], [0, 0.01, 1]]), ["a", "b", "c"]),
            "relmat for group 'g' must be symmetric; entry ('a', 'b') is 0.2 but ('b', 'a') is 0.3.",
        ),
        (
            (sparse.csr_array([[1, 0.0, 0], [0.0, 1, 0], [0, 0.5, 1]]), ["a", "b", "c"]),
            "relmat for group 'g' must be symmetric; entry ('b', 'c') is 0 but ('c', 'b') is 0.5.",
        ),
        (
            (np.array([[1.0, 2.0], [2.0, 1.0]]), ["a", "b"]),
            "relmat for group 'g' must be positive semi-definite; its smallest eigenvalue is -1 (allowed",
        ),
        (
            (sparse.block_diag([np.eye(2), [[1.0, 1.5], [1.5, 1.0]]]), list("abcd")),
            "relmat for group 'g' must be positive semi-definite; its smallest eigenvalue is -0.5 (allowed",
        ),
        (
            (sparse.diags_array([1.0, -0.25, 1.0]), list("abc")),
            "relmat for group 'g' must be positive semi-definite; its smallest eigenvalue is -0.25 (allowed",
        ),
    ],
)
def test_refusals(value, start):
    with pytest.raises(RelmatError, match=message(start)):
        as_relmat(value, "g")


# -- lining up with levels ---------------------------------------------------------------------------


@pytest.mark.parametrize("as_sparse", [False, True])
def test_take_lines_up_both_axes(frame, as_sparse):
    value = (sparse.csr_array(frame.to_numpy()), list("abcde")) if as_sparse else frame
    taken = as_relmat(value).take(["d", "a", "c"])
    assert sparse.issparse(taken) == as_sparse
    dense = taken.toarray() if as_sparse else taken
    assert np.array_equal(dense, frame.loc[["d", "a", "c"], ["d", "a", "c"]].to_numpy())


def test_take_is_a_copy(frame):
    k = as_relmat(frame)
    k.take(k.labels)[0, 0] = -9.0
    assert k.matrix[0, 0] == frame.iloc[0, 0]


def test_take_names_the_levels_that_are_lacking(frame):
    k = as_relmat(frame, "line")
    with pytest.raises(RelmatError) as e:
        k.take(["a", "A17", "b", "A18"])
    assert str(e.value) == (
        "relmat for group 'line' lacks 2 of 4 levels (first: 'A17', 'A18'). Add them or drop these rows."
    )
    with pytest.raises(RelmatError, match=r"^relmat for group 'a:b' lacks 1 of 1 levels"):
        k.take(["z"], name="a:b")


@pytest.mark.parametrize(
    ("labels", "levels", "expected"),
    [
        ([10, 20, 30], ["30", "10"], [2, 0]),
        (["10", "20"], [20, 99], [1, -1]),
        ([10, 20], [20.0, 10.0], [1, 0]),
        (["10", "20"], [20.0, 10.0], [1, 0]),
        (["a", "b"], pd.Categorical(["b", "a"]), [1, 0]),
        (["a", "b"], pd.Series(pd.Categorical(["b", "x"])), [1, -1]),
        (["a", "b"], np.array(["b"]), [1]),
        (["a", "b"], [], []),
        ([1, "1"], [1.0, "1"], [0, 1]),
        # one direct match is enough to trust the types: '2' is then another individual than 2
        (pd.Index([1, "2"], dtype=object), [1, 2], [0, -1]),
    ],
)
def test_positions(labels, levels, expected):
    k = Relmat(pd.Index(labels), np.eye(len(labels)))
    where = k.positions(levels)
    assert where.dtype == np.intp
    assert list(where) == expected


def test_relmat_is_frozen(frame):
    with pytest.raises(AttributeError):
        as_relmat(frame).name = "other"


# -- kinship -----------------------------------------------------------------------------------------


def dosages(n=40, m=90, seed=3):
    g = np.random.default_rng(seed)
    return pd.DataFrame(g.binomial(2, g.uniform(0.2, 0.8, m), (n, m)), index=letters(n)).add_prefix("m")


def test_vanraden_is_its_formula():
    markers = dosages()
    w = markers.to_numpy(float)
    p = w.mean(axis=0) / 2
    expected = (w - 2 * p) @ (w - 2 * p).T / (2 * (p * (1 - p)).sum())
    k = kinship(markers)
    assert np.allclose(k, expected, rtol=0, atol=1e-12)
    assert list(k.index) == list(k.columns) == letters(40)
    assert np.abs(k.sum(axis=1)).max() < 1e-10
    as_relmat(k, "line")


def test_standardized_has_mean_diagonal_one_for_any_coding():
    markers = dosages()
    z = (markers - markers.mean()) / markers.std(ddof=0)
    k = kinship(markers, method="standardized")
    assert np.allclose(k, z @ z.T / 90, rtol=0, atol=1e-12)
    assert np.trace(k) / 40 == pytest.approx(1)
    assert np.allclose(kinship(5 - 3 * markers, method="standardized"), k)


def test_inbred_lines_have_diagonal_near_two_with_vanraden():
    lines = pd.DataFrame(2 * np.random.default_rng(1).binomial(1, 0.5, (60, 400)))
    assert np.trace(kinship(lines)) / 60 == pytest.approx(2, abs=1e-12)


@pytest.mark.parametrize("method", ["vanraden", "standardized"])
def test_blocks_of_markers_do_not_show(method, monkeypatch):
    markers = dosages()
    whole = kinship(markers, method)
    monkeypatch.setattr(relmat, "MARKER_BLOCK", 7)
    assert np.allclose(kinship(markers, method), whole, rtol=0, atol=1e-12)


def test_missing_genotypes_take_the_mean_of_the_marker():
    markers = dosages().astype(float)
    markers.iloc[3, 5] = markers.iloc[8, 5] = markers.iloc[0, 0] = np.nan
    w = markers.fillna(markers.mean()).to_numpy()
    p = w.mean(axis=0) / 2
    assert np.allclose(kinship(markers), (w - 2 * p) @ (w - 2 * p).T / (2 * (p * (1 - p)).sum()))
    nullable = markers.astype("Int64")
    assert np.allclose(kinship(nullable), kinship(markers))


def test_int8_arrays_do_not_overflow():
    markers = dosages(n=200, m=300)
    k = kinship(markers.to_numpy(np.int8))
    assert np.allclose(k, kinship(markers).to_numpy())
    assert list(k.index) == list(range(200))


def test_constant_and_unseen_markers_are_named_and_left_out():
    markers = dosages().astype(float)
    expected = kinship(markers)
    markers.insert(2, "fixed", 2.0)
    markers["blank"] = np.nan
    markers["once"] = [1.0] + [np.nan] * 39
    text = (
        "kinship: 3 of 93 markers say nothing and are left out "
        "(monomorphic: 'fixed', 'once'; without any genotype: 'blank')."
    )
    with pytest.warns(SlamWarning, match=message(text)):
        k = kinship(markers)
    assert np.allclose(k, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("markers", "method", "start"),
    [
        (np.ones((3, 4)), "vanraden", "kinship: none of the 4 markers varies among the 3 rows"),
        (np.full((3, 2), np.nan), "vanraden", "kinship: none of the 2 markers varies"),
        (np.array([[0, 1], [3, 1]]), "vanraden", "kinship: dosages must lie between 0 and 2; recode them, or use"),
        (np.array([[0, -1], [2, 1]]), "vanraden", "kinship: dosages must lie between 0 and 2; recode them, or use"),
        (np.array([[0, np.inf], [2, 1]]), "standardized", "kinship: dosages must be finite or NaN. Marker '1' has inf"),
        (np.eye(2), "gcta", "kinship: method must be 'vanraden' or 'standardized', got 'gcta'."),
        (np.array([["AA", "AB"]]), "vanraden", "kinship: markers must be a two-dimensional numeric array"),
        (np.arange(3), "vanraden", "kinship: markers must be a two-dimensional numeric array"),
        (np.empty((3, 0)), "vanraden", "kinship: markers are empty (3 rows x 0 markers)."),
        (
            pd.DataFrame({"line": ["x", "y"], "m1": [0, 2]}),
            "vanraden",
            "kinship: markers must be numeric dosages; column 'line' is ",
        ),
        (
            pd.DataFrame({"m1": [0, 2, 1]}, index=["x", "y", "x"]),
            "vanraden",
            "kinship: the marker table has labels more than once: 'x'.",
        ),
    ],
)
def test_kinship_refusals(markers, method, start):
    with pytest.raises(RelmatError, match=message(start)):
        kinship(markers, method)


def test_bad_dosage_is_placed():
    markers = dosages()
    markers.loc["L3", "m5"] = 9
    with pytest.raises(RelmatError, match=r"Marker 'm5' has 9 in row 'L3'\.$"):
        kinship(markers)


def test_markers_are_not_touched():
    markers = dosages().astype(float)
    markers.iloc[0, 0] = np.nan
    before = markers.copy()
    kinship(markers)
    pd.testing.assert_frame_equal(markers, before)


@pytest.mark.parametrize(
    ("arguments", "came"),
    [
        ((np.eye(2), pd.Index(["a", "b"])), "got ndarray, then Index"),
        ((["a", "b"], np.eye(2)), "got list, then ndarray"),
        ((pd.Index(["a", "b"]), pd.DataFrame(np.eye(2))), "got Index, then DataFrame"),
    ],
)
def test_arguments_of_relmat(arguments, came):
    """Swapped, or of other kinds: refused at once, not when it is printed or used."""
    with pytest.raises(RelmatError, match=r"Relmat: expected labels \(a pandas Index\), then the matrix .*" + came):
        Relmat(*arguments)


@pytest.mark.filterwarnings("error")
def test_kinships_are_not_taken_for_inverses(frame):
    """Centred, so that entries are negative on the whole; sparse, with few of them; one label only."""
    as_relmat(kinship(dosages()))
    as_relmat(frame)
    as_relmat(
        (
            sparse.csr_array(np.eye(6) + np.diag([0.5, 0, -0.25, 0, 0], 1) + np.diag([0.5, 0, -0.25, 0, 0], -1)),
            letters(6),
        )
    )
    as_relmat((np.eye(1), ["a"]))
    rng = np.random.default_rng(1)
    loadings = rng.standard_normal((40, 10)) * (rng.random((40, 10)) < 0.1)
    covariances = loadings @ loadings.T + 0.2 * np.eye(40)
    assert np.mean(covariances == 0) > 0.5
    as_relmat((covariances, range(40)))


def test_a_matrix_is_factorised_once(monkeypatch):
    """By each call that is given a table; never when the call is given a `Relmat`, which was checked."""
    calls = []
    check = relmat._negative_eigenvalue_dense
    monkeypatch.setattr(relmat, "_negative_eigenvalue_dense", lambda *given: calls.append(1) or check(*given))
    labels = [f"i{i}" for i in range(30)]
    K = pd.DataFrame(random_kinship(30), labels, labels)
    frame = pd.DataFrame({"id": np.repeat(labels, 2), "y": np.random.default_rng(1).normal(size=60)})
    for method in ("rehe", "reml"):
        calls.clear()
        fit = sg.he("y ~ 1 + (1 | id)", frame, relmat={"id": K}, method=method)
        fit.ranef()
        fit.predict(frame.iloc[:3])
        assert len(calls) == 1
        again = sg.he("y ~ 1 + (1 | id)", frame, relmat={"id": fit.design.term("id").relmat}, method=method)
        assert len(calls) == 1
        pd.testing.assert_frame_equal(again.varcorr(), fit.varcorr())


@pytest.mark.parametrize("size", [1, 255, 256, 257, 600])
def test_asymmetry_is_found_in_any_block(size):
    K = random_kinship(size, 2 * size + 2)
    assert relmat._asymmetry(K) == np.abs(K - K.T).max()
    if size > 1:
        K[size - 1, 0] += 0.5
        assert relmat._asymmetry(K) == np.abs(K - K.T).max() >= 0.4
        with pytest.raises(RelmatError, match="must be symmetric; entry"):
            as_relmat((K, range(size)))
