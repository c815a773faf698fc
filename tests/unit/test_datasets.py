import hashlib
from importlib import resources

import numpy as np
import pandas as pd
import pytest

from slamglmm import datasets
from slamglmm.errors import DataError

FILES = resources.files("slamglmm.datasets")


@pytest.mark.parametrize("name", datasets.names())
def test_every_data_set_loads_and_tells_its_source(name):
    data = datasets.load(name)
    assert data.name == name
    assert len(data.frame)
    assert "Source" in data.about
    assert "Licence  GPL" in data.about
    assert repr(data).startswith(f"Dataset('{name}': frame {len(data.frame)} x ")


def test_unknown_name():
    with pytest.raises(DataError, match=r"no data set is called 'iris'; there are 'glucosinolates', 'sleepstudy'"):
        datasets.load("iris")


def test_glucosinolates_traits():
    data = datasets.load("glucosinolates")
    assert data.Y.shape == (162, 24)
    assert data.Y.sum().sum() == 11_672_198
    assert data.Y.min().min() == 4
    assert data.Y.max().max() == 34_623
    at_floor = (data.Y == 4).sum()
    assert (at_floor.max(), (at_floor > 0).sum()) == (92, 14)
    empty = data.Y.index[data.Y.isna().all(axis=1)]
    assert list(empty) == ["RIL001", "RIL154", "RIL155", "RIL157"]
    assert data.Y.isna().sum().sum() == 4 * 24
    assert data.Y.columns[0] == "X3.Hydroxypropyl"


def test_glucosinolates_tables_line_up():
    data = datasets.load("glucosinolates")
    assert list(data.frame["line"]) == [f"RIL{i:03d}" for i in range(1, 163)]
    for table in (data.frame, data.Y, data.markers):
        assert list(table.index) == list(data.frame["line"])
        assert table.index.name is None
    assert list(data.map.columns) == ["marker", "chromosome", "position_cM"]
    assert list(data.map["marker"]) == list(data.markers.columns)


def test_glucosinolates_markers():
    data = datasets.load("glucosinolates")
    cells = data.markers.to_numpy()
    assert [(cells == 0).sum(), (cells == 2).sum(), np.isnan(cells).sum()] == [10_415, 8_462, 77]
    assert cells.size == 10_415 + 8_462 + 77
    assert data.map["marker"].is_unique
    assert data.map.groupby("chromosome").size().to_dict() == {"1": 28, "2": 19, "3": 25, "4": 18, "5": 27}
    for _, positions in data.map.groupby("chromosome")["position_cM"]:
        assert positions.iloc[0] == 0
        assert positions.is_monotonic_increasing
    assert data.map["position_cM"].max() == 126.083


@pytest.mark.parametrize(
    ("name", "rows", "response", "total", "levels"),
    [
        ("sleepstudy", 180, "Reaction", 53_731.4205, {"Subject": 18}),
        ("penicillin", 144, "diameter", 3_308.0, {"plate": 24, "sample": 6}),
        ("pastes", 60, "strength", 3_603.2, {"batch": 10, "cask": 3, "sample": 30}),
    ],
)
def test_lme4_tables(name, rows, response, total, levels):
    frame = datasets.load(name).frame
    assert len(frame) == rows
    assert frame[response].sum() == pytest.approx(total, abs=1e-3)
    assert frame.columns[0] == response
    assert not frame.isna().any(axis=None)
    for column, n_levels in levels.items():
        categories = frame[column].cat.categories
        assert len(categories) == n_levels
        assert list(categories) == sorted(categories)
        assert set(frame[column].value_counts()) == {rows // n_levels}


def test_counts():
    """As many cases, animals and ticks as in R, and grouping factors that are text."""
    herds, chicks = datasets.load("cbpp").frame, datasets.load("grouseticks").frame
    assert (len(herds), herds["incidence"].sum(), herds["size"].sum()) == (56, 99, 842)
    assert list(herds["period"].cat.categories) == ["1", "2", "3", "4"]
    assert herds["herd"].nunique() == 15
    assert (len(chicks), chicks["TICKS"].sum(), chicks["TICKS"].max()) == (403, 2567, 85)
    assert [chicks[name].nunique() for name in ("INDEX", "BROOD", "YEAR", "LOCATION")] == [403, 118, 3, 63]
    assert list(chicks["YEAR"].cat.categories) == ["95", "96", "97"]
    assert chicks["cHEIGHT"].sum() == pytest.approx(0.0, abs=1e-9)


def test_pigs():
    """Sums of the source; feed is missing in the first week only."""
    frame = datasets.load("dietox").frame
    assert len(frame) == 861
    assert frame["Weight"].sum() == pytest.approx(52_284.8868, abs=1e-3)
    assert frame["Feed"].isna().equals(frame["Time"] == 1)
    assert [frame[name].nunique() for name in ("Pig", "Evit", "Cu", "Litter")] == [72, 3, 3, 21]
    assert (frame["Weight"] == frame["Start"])[frame["Time"] == 1].all()


def test_airway_counts():
    """Sums of the extract, whole libraries, and the drug's best known targets among the genes."""
    data = datasets.load("airway")
    assert data.Y.shape == (8, 149)
    assert list(data.Y.index) == list(data.frame["run"])
    assert data.Y.sum().sum() == 2_519_307
    assert (data.Y.min().min(), data.Y.max().max()) == (10, 213_578)
    assert data.frame["library"].sum() == 175_516_423
    assert (data.frame["library"] > 5 * data.Y.sum(axis=1)).all()
    assert [list(data.frame[name].cat.categories) for name in ("dex", "cell")] == [
        ["untrt", "trt"],
        ["N61311", "N052611", "N080611", "N061011"],
    ]
    treated = (data.frame["dex"] == "trt").to_numpy()
    for gene in ("ENSG00000103196", "ENSG00000096060", "ENSG00000163884"):
        assert data.Y.loc[treated, gene].min() > 3 * data.Y.loc[~treated, gene].max()


def test_sleepstudy_subjects_are_text():
    frame = datasets.load("sleepstudy").frame
    assert list(frame["Subject"].cat.categories[:3]) == ["308", "309", "310"]
    assert sorted(frame["Days"].unique()) == list(range(10))


def test_each_load_is_a_fresh_copy():
    first = datasets.load("glucosinolates")
    first.Y.iloc[1, 0] = -1.0
    assert datasets.load("glucosinolates").Y.iloc[1, 0] == 942


def test_provenance_holds_every_file_and_its_checksum():
    provenance = FILES.joinpath("PROVENANCE.md").read_text(encoding="utf-8")
    files = [file for file in FILES.iterdir() if file.name.endswith(".csv")]
    listed = [line.split()[1] for line in provenance.splitlines() if line.startswith("| ") and ".csv " in line]
    assert sorted(file.name for file in files) == sorted(listed)
    for file in files:
        digest = hashlib.sha256(file.read_bytes()).hexdigest()
        line = next(line for line in provenance.splitlines() if line.startswith(f"| {file.name} "))
        assert digest in line
        assert "GPL" in line


def test_markers_are_a_usable_kinship():
    from slamglmm.relmat import as_relmat, kinship

    k = as_relmat(kinship(datasets.load("glucosinolates").markers), "line")
    # Inbred lines: the mean diagonal of method 1 is close to 1 + F = 2, a little less for mean-imputed cells.
    assert np.diag(k.matrix).mean() == pytest.approx(1.992, abs=5e-4)
    assert isinstance(k.labels, pd.Index)
