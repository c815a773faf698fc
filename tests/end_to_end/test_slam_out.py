"""Draws on disk: a killed run goes on where it was, to the bit."""

import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

import slamglmm as sg
from slamglmm.errors import OptionError, StorageWarning

SETTINGS = {"n_factors": 3, "draws": 60, "burn": 20, "chains": 2, "seed": 5, "thin": 1}
SCRIPT = """
import sys, time
import slamglmm as sg
from slamglmm.fitters.slam import chain, draws, store

# Small writes, often, so that kills fall everywhere.
draws.BUFFER_BYTES = 20_000
store.FLUSH_SECONDS = 0.02
if sys.argv[2] == "slow":
    sweep = chain.sweep
    chain.sweep = lambda *args: (sweep(*args), time.sleep(0.05))
data = sg.simulate.slam(families=8, n_traits=20, n_factors=2, missing=0.05, seed=2)
sg.slam(data.formula, data.frame, Y=data.Y, relmat=data.relmat, out=sys.argv[1], **SETTINGS)
""".replace("SETTINGS", repr(SETTINGS))


@pytest.fixture(scope="module")
def data():
    return sg.simulate.slam(families=8, n_traits=20, n_factors=2, missing=0.05, seed=2)


def fit(data, **options):
    return sg.slam(data.formula, data.frame, Y=data.Y, relmat=data.relmat, **(SETTINGS | options))


def assert_same(first, second):
    assert set(first.posterior) == set(second.posterior)
    for name in first.posterior:
        assert first.posterior[name].dims == second.posterior[name].dims
        np.testing.assert_array_equal(first.posterior[name], second.posterior[name], err_msg=name)


def kill_and_resume(folder, n_kills, seed):
    """Start the run in another process, kill it after random times, and let it finish."""
    rng = np.random.default_rng(seed)
    killed, to_start = 0, None
    while killed < n_kills:
        begin = time.monotonic()
        process = subprocess.Popen([sys.executable, "-c", SCRIPT, folder, "slow"], start_new_session=True)
        while not (folder / "run.json").exists() and process.poll() is None:
            time.sleep(0.01)
        # The first start tells how long imports take; a whole run takes about 8 s more.
        to_start = to_start or time.monotonic() - begin
        time.sleep(max(0.0, begin + to_start + rng.uniform(0.0, 0.7) - time.monotonic()))
        if process.poll() is not None:
            break
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        killed += 1
    subprocess.run([sys.executable, "-c", SCRIPT, folder, "fast"], check=True)
    return killed


@pytest.mark.skipif(os.name == "nt", reason="SIGKILL")
@pytest.mark.parametrize("n_kills", [3, pytest.param(20, marks=pytest.mark.slow)])
def test_killed_runs_resume_to_the_bit(data, tmp_path, n_kills):
    killed = kill_and_resume(tmp_path / "run", n_kills, seed=n_kills)
    assert killed >= n_kills // 2
    assert_same(fit(data), sg.load(tmp_path / "run"))


def test_streamed_run_equals_one_in_memory(data, tmp_path):
    plain, streamed = fit(data), fit(data, out=tmp_path / "run")
    assert_same(plain, streamed)
    assert_same(plain, sg.load(tmp_path / "run"))
    assert_same(plain.extend(5), sg.load(tmp_path / "run").extend(5))
    assert_same(plain, fit(data, out=tmp_path / "run", n_jobs=2))  # finished: read, not run


def test_chains_in_processes_stream_too(data, tmp_path):
    assert_same(fit(data), fit(data, out=tmp_path / "run", n_jobs=2))


def test_another_call_is_refused_by_name(data, tmp_path):
    fit(data, out=tmp_path / "run", draws=4)
    with pytest.raises(OptionError, match=r"holds a run that differs in n_factors, draws\."):
        fit(data, out=tmp_path / "run", n_factors=2)
    with pytest.raises(OptionError, match=r"differs in draws\..*For more draws: slamglmm.load\(out\).extend"):
        fit(data, out=tmp_path / "run", draws=9)
    with pytest.raises(OptionError, match="differs in seed"):
        fit(data, out=tmp_path / "run", draws=4, seed=6)
    other = sg.simulate.slam(families=8, n_traits=20, n_factors=2, missing=0.05, seed=3)
    with pytest.raises(OptionError, match="differs in data"):
        fit(other, out=tmp_path / "run", draws=4)


def test_folder_of_other_things_is_refused(data, tmp_path):
    (tmp_path / "notes.txt").write_text("")
    with pytest.raises(OptionError, match="expected a new or empty folder"):
        fit(data, out=tmp_path)


def test_run_without_seed_resumes_with_its_own(data, tmp_path):
    first = fit(data, out=tmp_path / "run", seed=None, draws=4)
    assert_same(first, fit(data, out=tmp_path / "run", seed=None, draws=4))


def test_size_is_announced(data, monkeypatch):
    monkeypatch.setattr("slamglmm.fitters.slam.fit.LARGE_BYTES", 1000)
    with pytest.warns(StorageWarning, match=r"the draws will take .* GiB of memory: .*out='folder'.*Lambda"):
        fit(data, draws=4)
