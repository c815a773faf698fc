"""Draws on disk: a killed run goes on where it was, to the bit."""

import os
import signal
import subprocess
import sys
import tempfile
import time

import numpy as np
import pytest

import slamglmm as sg
from slamglmm.errors import FitError, OptionError, StorageError, StorageWarning
from slamglmm.fitters.slam import draws as buffers
from slamglmm.fitters.slam import fit as fitting
from slamglmm.fitters.slam import store

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
    with pytest.raises(OptionError, match=r"differs in X, Y\."):
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


# -- a run that cannot go on -----------------------------------------------------------------------------------


def not_finished(folder):
    """Make a finished run one that was killed in its last step."""
    (folder / "slamglmm.json").unlink()
    return folder


@pytest.mark.parametrize("damaged", [b"", b"nonsense", None, "flipped", "cut"])
def test_damage_is_noticed_on_resume(data, tmp_path, monkeypatch, damaged):
    monkeypatch.setattr(store, "CHUNK_BYTES", 2000)
    whole = fit(data, out=tmp_path / "run", draws=12).posterior.load()
    run = not_finished(tmp_path / "run")
    chunks = sorted((run / "posterior.zarr" / "Lambda").glob("1.*"))
    assert len(chunks) == 3
    tried = [chunks[0], chunks[-1]] + ([] if damaged is None else [run / "chain-1.pickle"])
    for path in tried:
        content = path.read_bytes()
        if damaged is None:
            path.unlink()
        elif isinstance(damaged, bytes):
            path.write_bytes(damaged)
        elif damaged == "cut":
            path.write_bytes(content[: len(content) // 2])
        else:
            path.write_bytes(bytes([*content[:40], content[40] ^ 1, *content[41:]]))
        with pytest.raises(StorageError, match=r"damaged|absent") as caught:
            fit(data, out=run, draws=12)
        state = run / "chain-1.pickle"
        assert str(path) in str(caught.value)
        assert f"Delete {state} and the same call draws this chain again, to the same bits." in str(caught.value)
        # And so it is.
        state.unlink()
        assert whole.equals(fit(data, out=run, draws=12).posterior.load())
        not_finished(run)


@pytest.mark.parametrize("path", [".zgroup", "Lambda/.zarray"])
@pytest.mark.parametrize("damaged", [b"", b"{", b"[]", "wrong"])
def test_damaged_descriptions_are_noticed_on_resume(data, tmp_path, path, damaged):
    fit(data, out=tmp_path / "run", draws=4)
    file = not_finished(tmp_path / "run") / "posterior.zarr" / path
    if damaged == "wrong":
        damaged = file.read_bytes().replace(b'"zarr_format": 2', b'"zarr_format": 7').replace(b"20", b"21")
    file.write_bytes(damaged)
    with pytest.raises(StorageError, match=r"posterior\.zarr.* is damaged.*Restore the folder from a copy"):
        fit(data, out=tmp_path / "run", draws=4)


@pytest.mark.parametrize("record", [b"", b"{", b"\xff", b"[]", b'{"format": 1, "call": {}}'])
def test_a_damaged_record_of_a_run_is_an_error(data, tmp_path, record):
    (tmp_path / "run.json").write_bytes(record)
    with pytest.raises(StorageError, match=r"run\.json is damaged.*[Dd]elete"):
        fit(data, out=tmp_path)


def test_killed_worker_says_that_the_same_call_goes_on(data, tmp_path, monkeypatch):
    def die(*args):
        os._exit(1)

    die.__module__ = "__main__"  # goes to the worker by value
    with monkeypatch.context() as patched:
        patched.setattr(fitting, "_run_in_worker", die)
        with pytest.raises(FitError, match=r"was killed or crashed.*The same call goes on where it was\. A smaller"):
            fit(data, out=tmp_path / "run", draws=4, n_jobs=2)
        with pytest.raises(FitError, match=r"was killed or crashed.*Give out='folder'"):
            fit(data, draws=4, n_jobs=2)
    assert_same(fit(data, draws=4), fit(data, out=tmp_path / "run", draws=4, n_jobs=2))


@pytest.mark.parametrize("n_jobs", [1, 2])
def test_full_disk_says_that_the_same_call_goes_on(data, tmp_path, monkeypatch, n_jobs):
    def full(*args):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        if n_jobs == 1:
            patched.setattr(store.ChainStore, "write", full)
        else:
            full.__module__ = "__main__"
            patched.setattr(fitting, "_run_in_worker", full)
        with pytest.raises(StorageError, match=r"No space left on device \(.* GiB are free\)\. Make room\. The same"):
            fit(data, out=tmp_path / "run", draws=4, n_jobs=n_jobs)
    assert_same(fit(data, draws=4), fit(data, out=tmp_path / "run", draws=4, n_jobs=n_jobs))


def test_other_errors_of_a_run_stay_what_they_are(data, tmp_path, monkeypatch):
    def absent(*args):
        raise FileNotFoundError(2, "No such file")

    monkeypatch.setattr(store.ChainStore, "write", absent)
    with pytest.raises(FileNotFoundError):
        fit(data, out=tmp_path / "run", draws=4)


def test_second_process_is_refused_while_the_first_runs(data, tmp_path):
    run = tmp_path / "run"
    process = subprocess.Popen([sys.executable, "-c", SCRIPT, run, "slow"])
    try:
        while not (run / "chain-0.pickle").exists() and process.poll() is None:
            time.sleep(0.01)
        with pytest.raises(StorageError, match=rf"is in use by process {process.pid} on "):
            fit(data, out=run)
    finally:
        process.kill()
        process.wait()
    assert_same(fit(data), fit(data, out=run))


@pytest.mark.skipif(os.name == "nt", reason="SIGKILL")
def test_worker_stops_when_its_parent_is_gone(data, tmp_path):
    """Otherwise it writes its chain to the end, into the folder that the next call has taken over."""
    begin = """
import sys, time
import slamglmm as sg
data = sg.simulate.slam(families=8, n_traits=20, n_factors=2, missing=0.05, seed=2)
options = SETTINGS | {"draws": 10**6, "n_jobs": 2, "store": ("h2",)}
sg.slam(data.formula, data.frame, Y=data.Y, relmat=data.relmat, out=sys.argv[1], **options)
""".replace("SETTINGS", repr(SETTINGS))
    (tmp_path / "tmp").mkdir()
    environment = {**os.environ, "TMPDIR": str(tmp_path / "tmp")}
    process = subprocess.Popen([sys.executable, "-c", begin, tmp_path / "run"], start_new_session=True, env=environment)

    def iterations():
        return [np.fromfile(path, dtype=np.int64).tolist() for path in (tmp_path / "tmp").glob("*.progress")]

    def wait_until(reached):
        limit = time.monotonic() + 60
        while not reached() and time.monotonic() < limit:
            time.sleep(0.1)
        assert reached()

    def stand_still():
        before = iterations()
        time.sleep(1.0)
        return before == iterations()

    try:
        wait_until(lambda: iterations() and min(iterations()[0][1:]) > 0)
        process.kill()
        process.wait()
        wait_until(stand_still)
    finally:
        os.killpg(process.pid, signal.SIGKILL)


def test_no_place_for_temporary_files(data, monkeypatch, tmp_path):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "not there"))
    with pytest.raises(StorageError, match="Set the environment variable TMPDIR to a folder that can be written"):
        fit(data, draws=2)


# -- room ------------------------------------------------------------------------------------------------------


def test_draws_that_have_no_room_are_refused_with_figures(data, tmp_path):
    with pytest.raises(
        OptionError, match=r"draws=10{12} of 2 chain\(s\) will take .* TiB of memory, and .* TiB when "
    ) as said:
        fit(data, draws=10**12)
    assert "this machine has" in str(said.value)
    assert "name fewer in store= (" in str(said.value)
    assert "Draws stream to disk with out='folder'" in str(said.value)
    with pytest.raises(OptionError, match=r"TiB on disk; this machine has .* of disk\. Take fewer draws"):
        fit(data, draws=10**12, out=tmp_path / "run")
    fit(data, draws=2, out=tmp_path / "run")  # nothing was left there
    with pytest.raises(OptionError, match=r"draws=10{12} of 2 chain"):
        fit(data, draws=2).extend(10**12)


def test_peak_is_twice_what_is_kept_for_several_chains(data, tmp_path, monkeypatch):
    kept = []

    def record(*args):
        kept.append(buffers.draw_bytes(*args))
        return kept[-1]

    monkeypatch.setattr(fitting, "draw_bytes", record)
    drawn = fit(data, draws=10).posterior
    total = sum(drawn[name].nbytes for name in drawn if "draw" in drawn[name].dims)
    assert sum(kept[-1].values()) * 10 * 2 == total
    monkeypatch.setattr(fitting, "memory_size", lambda: 1.5 * total)
    with pytest.raises(OptionError, match="when they are put together"):
        fit(data, draws=10)
    fit(data, draws=20, chains=1)  # as many draws, without a copy
    fit(data, draws=10, out=tmp_path / "run")
    monkeypatch.setattr(fitting, "memory_size", lambda: 2.0 * total)
    whole = fit(data, draws=10)
    for larger in (lambda: whole.extend(10), lambda: fit(data, draws=10, n_jobs=2)):
        with pytest.raises(OptionError, match="when they are put together"):
            larger()


def test_memory_of_a_container_or_a_limit_counts(tmp_path, monkeypatch):
    from slamglmm.linalg import threads

    whole = threads.memory_size()
    assert 2**28 < whole < 2**50
    monkeypatch.setattr(threads, "CONTAINER_LIMIT", tmp_path / "memory.max")
    (tmp_path / "memory.max").write_text("12345678\n")
    assert threads.memory_size() == 12345678
    (tmp_path / "memory.max").write_text("max\n")
    assert threads.memory_size() >= whole
    code = "import resource; resource.setrlimit(resource.RLIMIT_AS, (2**32, 2**32)); "
    code += f"from slamglmm.linalg import threads; print(threads.memory_size() == min(2**32, {whole}))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout == "True\n"
