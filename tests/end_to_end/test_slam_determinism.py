"""Same seed, same bits: whatever the threads, the jobs, and the interruptions."""

import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

import slamglmm as sg

OPTIONS = {"n_factors": 4, "chains": 2, "seed": 11, "thin": 1}


def simulated(missing=0.0, second=None):
    """Enough traits and rows for several blocks of each."""
    return sg.simulate.slam(
        families=15, per_family=10, n_traits=130, n_factors=3, missing=missing, second=second, n_second=6, seed=3
    )


def fit(data, **options):
    settings = OPTIONS | {"draws": 12, "burn": 6} | options
    return sg.slam(data.formula, data.frame, Y=data.Y, relmat=data.relmat, **settings)


def assert_same(first, second):
    assert set(first.posterior) == set(second.posterior)
    for name in first.posterior:
        np.testing.assert_array_equal(first.posterior[name], second.posterior[name], err_msg=name)


@pytest.mark.parametrize("kind", [{}, {"missing": 0.3}, {"missing": 0.02}, {"second": "block"}])
def test_threads_do_not_change_a_bit(kind):
    data = simulated(**kind)
    assert_same(fit(data, n_threads=1, chains=1), fit(data, n_threads=2, chains=1))


def test_jobs_do_not_change_a_bit():
    data = simulated()
    assert_same(fit(data, n_jobs=1), fit(data, n_jobs=2))


def test_chains_differ_and_seeds_matter():
    data = simulated()
    result, other = fit(data), fit(data, seed=12)
    h2 = result.posterior["h2_residual"]
    assert (h2[0] != h2[1]).mean() > 0.3
    assert (h2 != other.posterior["h2_residual"]).mean() > 0.3


@pytest.mark.parametrize("kind", [{}, {"missing": 0.3}])
@pytest.mark.parametrize("thin", [1, 2])
def test_extension_equals_one_run(kind, thin, tmp_path):
    data = simulated(**kind)
    whole = fit(data, draws=25, thin=thin)
    part = fit(data, draws=11, thin=thin)
    before = part.posterior.copy(deep=True)
    assert_same(whole, part.extend(14))
    # The extended result is new, and extending twice gives the same again.
    xr_equal = all(np.array_equal(part.posterior[name], before[name]) for name in before)
    assert xr_equal
    assert_same(whole, part.extend(14))
    # Saved, loaded in another process, extended there.
    part.save(tmp_path / "part")
    code = "import sys, slamglmm as sg\nsg.load(sys.argv[1]).extend(14).save(sys.argv[2])\n"
    subprocess.run([sys.executable, "-c", code, tmp_path / "part", tmp_path / "whole"], check=True)
    assert_same(whole, sg.load(tmp_path / "whole"))


def test_save_and_load_keep_everything(tmp_path):
    data = simulated(missing=0.05)
    result = fit(data)
    again = sg.load(result.save(tmp_path / "fit"))
    assert_same(result, again)
    pd.testing.assert_frame_equal(result.ranef("animal"), again.ranef("animal"))
    pd.testing.assert_frame_equal(result.varcorr(), again.varcorr())
    assert str(result) == str(again)


@pytest.mark.parametrize(
    ("missing", "memory", "note"),
    [(0.2, 0, "cell(s) inside them are drawn"), (0.02, 2**30, "cell(s) are drawn, random effects integrated out")],
)
def test_imputed_cells_go_on_from_where_they_were(missing, memory, note, tmp_path):
    """Without memory for patterns, or where cells are few, missing cells are part of the state."""
    data = simulated(missing=missing)
    whole, part = (fit(data, draws=draws, missing_memory=memory) for draws in (10, 4))
    assert note in " ".join(whole.notes)
    part.save(tmp_path / "part")
    assert_same(whole, sg.load(tmp_path / "part").extend(6))
