"""Log-counts and weights against limma's."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import slamglmm as sg
from slamglmm.links import voom

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "voom.json").read_text())
COUNTS = pd.DataFrame(GOLDEN["counts"], columns=[f"gene{j}" for j in range(40)])


@pytest.mark.parametrize(
    ("case", "options"),
    [
        ("plain", {}),
        ("with_design", {"design": GOLDEN["design"]}),
        ("lib_size_span", {"design": GOLDEN["design"], "lib_size": GOLDEN["lib_size"], "span": 0.8}),
    ],
)
def test_limma(case, options):
    """One gene without counts and two columns of covariates among them."""
    result = voom(COUNTS, **options)
    np.testing.assert_allclose(result.log_cpm, GOLDEN[case]["log_cpm"], rtol=1e-9)
    np.testing.assert_allclose(result.weights, GOLDEN[case]["weights"], rtol=1e-7)
    assert list(result.weights.columns) == list(COUNTS.columns)
    assert "gene6" not in result.trend.index
    assert len(result.trend) == 39


def test_weights_reach_the_link():
    result = voom(COUNTS)
    assert result.link.weights is result.weights


def test_messages():
    with pytest.raises(sg.errors.DataError, match=r"at least 0 and not missing; see 'gene3'"):
        voom(COUNTS.assign(gene3=-1))
    with pytest.raises(sg.errors.DataError, match="at least two genes"):
        voom(COUNTS[["gene1"]])
    with pytest.raises(sg.errors.OptionError, match="expected 10 rows of design"):
        voom(COUNTS, np.ones((9, 1)))
    with pytest.raises(sg.errors.OptionError, match="sample 2 has none"):
        voom(COUNTS, lib_size=[1, 1, 0, *[1] * 7])
    with pytest.raises(sg.errors.DataError, match="10 samples and 10 fixed effects"):
        voom(COUNTS, np.eye(10))
