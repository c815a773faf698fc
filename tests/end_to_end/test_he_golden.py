"""`he` and `netgsa` against numbers of other programs that travel with the package."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import sparse

import slamglmm as sg

GOLDEN = Path(__file__).parents[1] / "golden"


@pytest.fixture(scope="module")
def trio():
    return json.loads((GOLDEN / "rehe_trio.json").read_text())


@pytest.mark.parametrize("form", ["sparse", "dense", "frame"])
def test_rehe_of_families(trio, form):
    y = np.array(trio["y"])
    n = len(y)
    K = sparse.kron(sparse.eye_array(n // 3), np.array(trio["kinship"]), format="csr")
    ids = [f"p{i}" for i in range(n)]
    relmat = {
        "sparse": (K, ids),
        "dense": (K.toarray(), ids),
        "frame": pd.DataFrame(K.toarray(), ids, ids).iloc[::-1, ::-1],
    }[form]
    frame = pd.DataFrame({"y": y, "id": ids})
    fit = sg.he("y ~ 0 + (1 | id)", frame, relmat={"id": relmat}, se=None)
    np.testing.assert_allclose(fit.theta[:, 0, 0], trio["rehe_r"]["rehe"], atol=1e-8)
    reml = sg.he("y ~ 1 + (1 | id)", frame, relmat={"id": relmat}, method="reml", se=None)
    # AI-REML stops at a tolerance of 1e-6
    np.testing.assert_allclose(reml.theta[::-1, 0, 0], trio["aireml"]["reml"], atol=1e-6)
    assert reml.loglik[0] == pytest.approx(trio["aireml"]["logLikR"], abs=1e-8)


def test_netgsa_of_one_condition():
    golden = json.loads((GOLDEN / "netgsa_one_sample.json").read_text())
    x = np.array(golden["x"])
    genes = [f"g{i}" for i in range(len(x))]
    edges = pd.DataFrame(
        [(genes[a], genes[b], w) for a, b, w in golden["edges"]], columns=["source", "target", "weight"]
    )
    pathways = {f"set {k}": [genes[i] for i in members] for k, members in enumerate(golden["pathways"])}
    fit = sg.netgsa(pd.DataFrame(x, index=genes), ["a"] * x.shape[1], edges, pathways, compat="netgsa")
    want = golden["netgsa"]
    assert fit.sigma2_epsilon == pytest.approx(want["s2_epsilon"], abs=1e-8)
    assert fit.sigma2_gamma == pytest.approx(want["s2_gamma"], abs=1e-8)
    np.testing.assert_allclose(fit.table["statistic"], want["teststat"], rtol=1e-8)
    np.testing.assert_allclose(fit.table["df"], want["df"], rtol=1e-8)
    np.testing.assert_allclose(fit.table["p"], want["p_value"], rtol=1e-8, atol=1e-15)
