"""A folder of ``out=`` gives back the run of its own call: any other call is refused, and told what differs."""

import inspect
import json
import warnings

import numpy as np
import pandas as pd
import pytest
from scipy import sparse

import slamglmm as sg
from slamglmm.errors import OptionError, StorageWarning

N = 24
# Where and how fast, but not what, is computed; `data`, `Y`, `missing` and the rest of the design are tried below.
NOT_THE_RUN = {"n_threads": 2, "n_jobs": 2, "out": None, "progress": False}


def flat(shares):
    return np.ones(len(shares))


def steep(shares):
    return np.ones(len(shares)) + (shares[:, 0] == 0.5)


steep.__qualname__ = flat.__qualname__  # as two lambdas of one module have one name


def call():
    """A call with every argument in use."""
    rng = np.random.default_rng(4)
    frame = pd.DataFrame(rng.normal(size=(N, 4)), columns=["x", "z", "w", "off"])
    frame["rs1"], frame["rs2"] = rng.integers(0, 3, size=(2, N))
    frame["line"], frame["id"] = np.tile(list("abcdef"), 4), np.repeat([f"i{i}" for i in range(8)], 3)
    Y = pd.DataFrame(rng.normal(size=(N, 4)), columns=["one", "two", "three", "four"])
    tied = 0.4 * (np.eye(8, k=1) + np.eye(8, k=-1)) * np.array([1, 0, 1, 0, 1, 0, 1, 0])[:, None]
    return {
        "formula": "~ x + offset(off) + (1 | line) + (0 + z | id)",
        "data": frame,
        "Y": Y,
        "relmat": {"id": (sparse.csr_array(np.eye(8) + np.maximum(tied, tied.T)), sorted(set(frame["id"])))},
        "markers": {"line": pd.DataFrame(rng.integers(0, 3, size=(6, 9)), index=list("abcdef"))},
        "markers_on": "both",
        "n_factors": 2,
        "factor_formula": "~ w",
        "loadings_on": "~ temperature",
        "trait_data": pd.DataFrame({"temperature": [1.0, 2.0, 4.0, 3.0]}, index=Y.columns),
        "cis": {"two": ["rs1"]},
        "link": sg.links.GaussianWeights(1.0 + rng.uniform(size=(N, 4))),
        "priors": sg.Priors(h2=flat),
        "h2_grid": 4,
        "missing": "keep",
        "missing_memory": 2**30,
        "draws": 2,
        "burn": 2,
        "thin": 1,
        "chains": 1,
        "seed": 3,
        "n_threads": 1,
        "n_jobs": 1,
        "store": ("h2", "Lambda"),
        "store_dtype": "float64",
        "progress": None,
    }


def run(folder, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return sg.slam(**{**call(), **options}, out=folder)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("calls") / "run"
    run(path)
    return path


def changed(name, **columns):
    return call()[name].assign(**columns)


def other_pattern():
    matrix, labels = call()["relmat"]["id"]
    order = [1, 2, 3, 4, 5, 6, 7, 0]
    moved = sparse.csr_array(matrix.toarray()[np.ix_(order, order)])
    np.testing.assert_array_equal(np.sort(moved.data), np.sort(matrix.data))
    return {"id": (moved, labels)}


def one_changed(table):
    table = table.copy()
    table.iloc[-1, -1] += 1
    return table


# Argument -> other values of it, with what the message has to name.
OPTIONS = {
    "formula": [("~ offset(off) + (1 | line) + (0 + z | id)", "formula, X, columns of X")],
    "data": [
        (changed("data", x=call()["data"]["x"] + 1), "X"),
        (changed("data", off=call()["data"]["off"] * 50), "offset"),
        (changed("data", z=call()["data"]["z"] * 2), "M of 'z|id'"),
        (changed("data", w=call()["data"]["w"] * 2), "X of factor_formula"),
        (changed("data", rs1=2 - call()["data"]["rs1"]), "cis.values"),
        (changed("data", line=np.roll(call()["data"]["line"], 1)), "codes of 'line'"),
        (call()["data"].set_axis([f"r{i}" for i in range(N)]), "row labels of X"),
    ],
    "Y": [
        (one_changed(call()["Y"]), "Y"),
        (call()["Y"].rename(columns={"one": "uno"}), "columns of Y"),
        (call()["Y"][["two", "one", "three", "four"]], "Y, columns of Y"),
        (call()["Y"].mask(call()["Y"] == call()["Y"].iloc[2, 1]), "Y"),
    ],
    "relmat": [
        (other_pattern(), "relmat of 'z|id'"),
        ({"id": (call()["relmat"]["id"][0] * 1.0000001, call()["relmat"]["id"][1])}, "relmat of 'z|id'"),
    ],
    "markers": [
        ({"line": one_changed(call()["markers"]["line"])}, "relmat of 'line', markers"),
        # The same relationships up to rounding, but the effects are of other alleles.
        ({"line": 2 - call()["markers"]["line"]}, "relmat of 'line', markers"),
        ({"line": call()["markers"]["line"].rename(columns={0: "rs9"})}, "markers"),
    ],
    "markers_on": [("factors", "markers_on")],
    "n_factors": [(3, "n_factors"), (None, "n_factors"), ("adaptive", "n_factors")],
    "factor_formula": [("~ x", "formula of factor_formula"), (None, "formula of factor_formula")],
    "loadings_on": [("~ 0 + temperature", "loadings_on"), (None, "loadings_on")],
    "trait_data": [(one_changed(call()["trait_data"]), "trait_data")],
    "cis": [({"one": ["rs1"]}, "cis.of_trait"), ({"two": ["rs1", "rs2"]}, "cis.of_trait, cis.values"), (None, "cis")],
    "link": [("identity", "link"), (sg.links.GaussianWeights(np.full((N, 4), 2.0)), "link.weights")],
    "priors": [
        (sg.Priors(h2=steep), "priors.h2"),
        (sg.Priors(h2=flat, h2_factors="spike"), "priors.h2_factors"),
        (sg.Priors(h2=flat, loadings="infinite"), "priors.loadings"),
        (sg.Priors(h2=flat, loadings=sg.Horseshoe(prop_0=0.11)), "priors.loadings"),
        (sg.Priors(h2=flat, residual=sg.PrecisionPrior(0.5, 6)), "priors.residual"),
        (sg.Priors(h2=flat, factor=sg.PrecisionPrior(0.9, 21)), "priors.factor"),
        (sg.Priors(h2=flat, fixef="shared"), "priors.fixef"),
        (sg.Priors(h2=flat, loading_effects=sg.PrecisionPrior(0.06, 1.5)), "priors.loading_effects"),
        (sg.Priors(h2=flat, cis=2.0), "priors.cis"),
    ],
    "h2_grid": [(5, "priors.h2, h2_grid")],
    "missing_memory": [(2**29, "missing_memory")],
    "draws": [(3, "draws")],
    "burn": [(3, "burn")],
    "thin": [(2, "thin")],
    "chains": [(2, "chains")],
    "seed": [(4, "seed")],
    "store": [(("h2",), "store"), (None, "store")],
    "store_dtype": [("float32", "store_dtype")],
}


def test_every_argument_is_tried():
    """An argument of `slam` that is new here, or one that this test forgot."""
    arguments = set(inspect.signature(sg.slam).parameters)
    assert arguments == set(OPTIONS) | set(NOT_THE_RUN) | {"missing"}
    assert set(call()) == arguments - {"out"}


@pytest.mark.parametrize("prior", list(inspect.signature(sg.Priors).parameters))
def test_every_prior_is_tried(prior):
    assert f"priors.{prior}" in [expected for _, expected in OPTIONS["priors"]]


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [pytest.param(name, *pair, id=f"{name}-{i}") for name in OPTIONS for i, pair in enumerate(OPTIONS[name])],
)
def test_any_other_call_is_refused_by_name(folder, name, value, expected):
    with pytest.raises(OptionError, match="holds a run that differs in ") as caught:
        run(folder, **{name: value})
    differing = str(caught.value).split("differs in ")[1].split(". Name another folder")[0].split(", ")
    assert set(expected.split(", ")) <= set(differing)
    # Nothing else but what hangs on it.
    if name not in ("formula", "data", "factor_formula", "cis", "link"):
        assert ", ".join(differing) == expected


def test_dropped_rows_count(tmp_path):
    Y = call()["Y"]
    Y.iloc[5] = np.nan
    run(tmp_path / "run", Y=Y, draws=1)
    with pytest.raises(OptionError, match=r"differs in X, row labels of X, Y, .*rows, n_dropped"):
        run(tmp_path / "run", Y=Y, draws=1, missing="drop")


def test_the_same_call_said_otherwise_is_the_same(folder):
    whole = ("draws", "burn", "thin", "chains", "seed", "n_factors", "h2_grid")
    numbers = {name: np.int64(call()[name]) for name in whole}
    lists = {"store": ["h2", "Lambda"], "cis": {"two": "rs1"}, "missing_memory": 2.0**30}
    first = run(folder)
    for options in (numbers, lists, {"seed": None}, {"priors": sg.Priors(h2=lambda shares: np.ones(len(shares)))}):
        np.testing.assert_array_equal(first.posterior["h2"], run(folder, **options).posterior["h2"])
    for name, value in NOT_THE_RUN.items():
        if name != "out":
            run(folder, **{name: value})


def test_a_refused_call_leaves_nothing_behind(tmp_path):
    with pytest.raises(OptionError, match="n_factors=99"):
        run(tmp_path / "run", n_factors=99)
    run(tmp_path / "run")


def unfinished(folder, **changes):
    """Make a finished run one that was killed before its last step, with another record of how it was made."""
    (folder / "slamglmm.json").unlink()
    record = json.loads((folder / "run.json").read_text())
    record["made_with"] |= changes
    (folder / "run.json").write_text(json.dumps(record))


def test_another_machine_or_version_is_said(tmp_path):
    first = run(tmp_path / "run")
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert record["made_with"]["slamglmm"] == sg.__version__
    assert record["made_with"]["BLAS"]
    unfinished(tmp_path / "run", BLAS="openblas 0.3 Z80")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        again = sg.slam(**call(), out=tmp_path / "run")
    [said] = [str(w.message) for w in caught if w.category is StorageWarning]
    assert "begun with another BLAS (openblas 0.3 Z80 then, " in said
    assert "not to the bit" in said
    np.testing.assert_array_equal(first.posterior["h2"], again.posterior["h2"])
    # A run that is finished is read, whatever reads it.
    unfinished(tmp_path / "run", slamglmm="0.0.7")
    with pytest.raises(OptionError, match=r"a run that slamglmm 0\.0\.7 began; this is .* Finish it with that version"):
        run(tmp_path / "run")


def test_run_of_an_earlier_format_is_refused(tmp_path):
    run(tmp_path / "run")
    (tmp_path / "run" / "run.json").write_text(json.dumps({"formula": "~ 1", "data": "12ab", "draws": 2, "seed": 1}))
    with pytest.raises(OptionError, match=r"a run of another version of slamglmm.*If it was finished, slamglmm.load"):
        run(tmp_path / "run")
    assert sg.load(tmp_path / "run").options["draws"] == 2
