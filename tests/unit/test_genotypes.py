"""Markers in their own packing: what is read, what is refused, and how rows are matched."""

import pickle
import sys

import bed_reader
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from slamglmm.errors import DataError
from slamglmm.genotypes import open_plink, read_markers, write_plink
from tests.reference.markers import bed_columns, dense

GENOTYPES = np.array([[0, 1, 2, 2], [1, np.nan, 0, 2], [2, 1, 1, 2], [0, 0, np.nan, 2], [1, 2, 0, 2]])
FILLED = np.array([[0, 1, 2, 2], [1, 1, 0, 2], [2, 1, 1, 2], [0, 0, 0.75, 2], [1, 2, 0, 2]])


def test_whole_numbers_become_int8():
    """Dosages in a float table take eight times the memory they need."""
    for table in (GENOTYPES, pd.DataFrame(GENOTYPES), np.float32(GENOTYPES)):
        markers = read_markers(table)
        assert (markers.kind, markers.n, markers.m) == ("int8", 5, 4)
        np.testing.assert_allclose(dense(markers.columns()), FILLED, atol=1e-7)
    assert read_markers(np.array([[0, 300], [1, 2]])).kind == "float64"
    assert read_markers(np.array([[True, False], [False, True]])).kind == "int8"
    assert read_markers(pd.DataFrame(GENOTYPES).astype("Int64")).kind == "int8"


def test_polars():
    """Another library's frame keeps its names; it has no row labels."""
    polars = pytest.importorskip("polars")
    markers = read_markers(polars.DataFrame({"a": [0, 1], "b": [2, 2]}))
    assert list(markers.names) == ["a", "b"]
    assert markers.labels is None


def test_fractions_stay_as_they_are():
    """Imputed dosages; a missing one is the mean of its marker."""
    for dtype in ("float32", "float64"):
        markers = read_markers((GENOTYPES + 0.25).astype(dtype))
        assert markers.kind == dtype
        np.testing.assert_allclose(dense(markers.columns()), FILLED + 0.25, rtol=1e-6)


def test_column_major_arrays_are_not_copied(tmp_path):
    """A memory map must not be read into memory, nor written to."""
    file = np.memmap(tmp_path / "g.bin", dtype=np.int8, mode="w+", shape=(4, 5))
    file[:] = np.nan_to_num(GENOTYPES, nan=-128).T
    markers = read_markers(file.T)
    assert np.shares_memory(markers.values, file)
    np.testing.assert_allclose(dense(markers.columns()), FILLED, atol=1e-7)
    floats = np.asfortranarray(np.where(np.isnan(GENOTYPES), 0.5, GENOTYPES))
    assert np.shares_memory(read_markers(floats).values, floats)
    gaps = np.asfortranarray(GENOTYPES + 0.5)
    read_markers(gaps)
    assert np.isnan(gaps).sum() == 2


@pytest.mark.parametrize("code", [-128, -127])
def test_missing_int8(code):
    """Our code, and the one of bed-reader."""
    table = np.where(np.isnan(GENOTYPES), code, GENOTYPES).astype(np.int8)
    np.testing.assert_allclose(dense(read_markers(table).columns()), FILLED, atol=1e-7)


def test_bed_round_trip(tmp_path):
    """Any number of individuals modulo four, missing genotypes, and the file's own labels."""
    for n in (1, 2, 3, 4, 5):
        markers = bed_columns(GENOTYPES[:n], tmp_path)
        assert markers.kind == "bed"
        assert list(markers.labels) == [f"i{i}" for i in range(n)]
        assert list(markers.names) == ["m0", "m1", "m2", "m3"]
        expected = dense(read_markers(GENOTYPES[:n]).columns())
        np.testing.assert_allclose(dense(markers.columns()), expected, atol=1e-12)
        np.testing.assert_allclose(dense(markers.unpacked().columns()), expected, atol=1e-12)
        np.testing.assert_allclose(markers.dosages(slice(0, 4)), expected, atol=1e-12)


def test_mean_over_the_rows_in_use(tmp_path):
    """Held-out individuals must not move the mean that stands for missing genotypes."""
    markers = bed_columns(GENOTYPES, tmp_path)
    used = np.array([True, True, True, True, False])
    np.testing.assert_allclose(dense(markers.columns(used))[1, 1], 2 / 3, atol=1e-12)
    np.testing.assert_allclose(markers.means(used)[1], 2 / 3, atol=1e-12)
    np.testing.assert_allclose(dense(markers.columns(fill=np.full(4, 0.25)))[1, 1], 0.25)


def test_markers_can_be_pickled(tmp_path):
    """A mapped file is found again by its path."""
    for markers in (bed_columns(GENOTYPES, tmp_path), read_markers(GENOTYPES), read_markers(GENOTYPES + 0.5)):
        again = pickle.loads(pickle.dumps(markers))
        np.testing.assert_array_equal(dense(again.columns()), dense(markers.columns()))


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (np.zeros((0, 3)), r"markers are empty \(0 rows x 3 markers\)"),
        (np.zeros((3, 0)), r"markers are empty \(3 rows x 0 markers\)"),
        (np.zeros(3), r"must be a matrix, individuals in rows; got 1 dimension"),
        (np.array([["a"]]), r"must be numeric dosages; got an array of"),
        (pd.DataFrame({"m1": [0, 1], "m2": ["A", "B"]}), r"column 'm2' is"),
        (pd.DataFrame([[0, 1]], columns=["m", "m"]), r"same name twice: 'm'"),
        (np.array([[0.5, np.inf], [1.0, 1.0]]), r"marker '1' is infinite in row 0"),
        (sparse.csr_array([[np.nan, 1.0]]), r"sparse markers must be finite"),
        (np.array([[0, -9]], dtype=np.int8), r"hold -9, which PLINK writes for missing"),
    ],
)
def test_refused_tables(table, message):
    """Each with what came and what to do."""
    with pytest.raises(DataError, match=message):
        read_markers(table)


def test_refused_files(tmp_path):
    """Wrong magic bytes, another order, a truncated file, absent or duplicate labels."""
    bed_columns(GENOTYPES, tmp_path)
    bed = tmp_path / "twin.bed"
    whole = bed.read_bytes()
    bed.write_bytes(b"PK\x03" + whole[3:])
    with pytest.raises(DataError, match=r"is not a PLINK 1 .bed file: it starts with 50 4b 03, not 6c 1b 01"):
        open_plink(bed)
    bed.write_bytes(whole[:2] + b"\x00" + whole[3:])
    with pytest.raises(DataError, match="individual-major order; rewrite it with 'plink --make-bed'"):
        open_plink(bed)
    bed.write_bytes(whole[:-1])
    with pytest.raises(DataError, match=r"has 10 bytes, but 4 markers of 5 individuals take 11: it is truncated"):
        open_plink(bed)
    bed.write_bytes(whole)
    assert open_plink(tmp_path / "twin").m == 4
    bim = bed.with_suffix(".bim")
    whole_bim = bim.read_text()
    bim.write_text(whole_bim.replace("m1", "m0"))
    assert list(open_plink(bed).names)[:2] == ["1:1:A:B", "1:2:A:B"]
    bim.write_text(whole_bim.replace("\t", " "))
    with pytest.raises(DataError, match=r"twin.bim' cannot be read: .* a .bim six that tabs separate"):
        open_plink(bed)
    bim.write_text(whole_bim.replace("m1", "m#1"))
    with pytest.raises(DataError, match=r"twin.bim' holds a '#'"):
        open_plink(bed)
    bed.with_suffix(".fam").unlink()
    with pytest.raises(DataError, match=r"twin.fam' does not exist"):
        read_markers(str(bed))


@pytest.mark.parametrize(
    ("blocks", "ids", "names", "message"),
    [
        ([np.array([[3]])], ["a"], ["m"], "must be 0, 1, 2 or missing"),
        ([np.array([[258]])], ["a"], ["m"], "must be 0, 1, 2 or missing"),
        ([np.array([[0.5]])], ["a"], ["m"], "must be 0, 1, 2 or missing"),
        ([np.zeros((2, 1))], ["a", "a"], ["m"], "different ids"),
        ([np.zeros((2, 1))], ["a", "b c"], ["m"], "ids of individuals may not be empty or hold blanks or '#': 'b c'"),
        ([np.zeros((1, 1))], ["a"], ["m1", "m2"], "2 markers are named, but there are dosages of 1"),
        ([np.zeros((1, 1))] * 2, ["a"], ["m1"], r"dosages are \(1, 1\), expected 1 rows and at most 0 more markers"),
        ([np.zeros((3, 1))], ["a"], ["m1"], r"dosages are \(3, 1\), expected 1 rows"),
    ],
)
def test_refused_writing(tmp_path, blocks, ids, names, message):
    """And no half of a .bed is left behind."""
    with pytest.raises(DataError, match=message):
        write_plink(tmp_path / "x.bed", blocks, ids, names)
    assert not list(tmp_path.glob("*.bed*"))


def test_bed_reader_reads_what_we_write_and_we_what_it_writes(tmp_path):
    """The same dosages, ids, map and missing cells, whole numbers or not."""
    coded = np.where(np.isnan(GENOTYPES), -128, GENOTYPES).astype(np.int8)
    for blocks in ([GENOTYPES], [coded[:, :1], coded[:, 1:]]):
        write_plink(tmp_path / "ours.bed", blocks, list("abcde"), ["m1", "m2", "m3", "m4"], positions=[7, 8, 9, 12])
        with bed_reader.open_bed(tmp_path / "ours.bed") as file:
            np.testing.assert_array_equal(file.read(), GENOTYPES)
            assert (list(file.iid), list(file.sid), list(file.bp_position)) == (
                list("abcde"), ["m1", "m2", "m3", "m4"], [7, 8, 9, 12],
            )  # fmt: skip
    bed_reader.to_bed(tmp_path / "theirs.bed", GENOTYPES, {"iid": list("abcde")})
    np.testing.assert_allclose(dense(read_markers(tmp_path / "theirs.bed").columns()), FILLED, atol=1e-12)


def test_bed_without_bed_reader(tmp_path, monkeypatch):
    """What to install."""
    bed_columns(GENOTYPES, tmp_path)
    monkeypatch.setitem(sys.modules, "bed_reader", None)
    with pytest.raises(DataError, match=r"pip install 'slamglmm\[plink\]'"):
        read_markers(tmp_path / "twin.bed")
