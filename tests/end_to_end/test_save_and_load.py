"""A saved result is the old one or the new one, whole, or an error that names the file."""

import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import slamglmm as sg
from slamglmm.errors import DataError, OptionError, StorageError, StorageWarning
from slamglmm.results import base, files, posterior

N = 24


def frame():
    rng = np.random.default_rng(2)
    table = pd.DataFrame({"line": np.tile(list("abcdef"), 4), "x": rng.normal(size=N)})
    effect = table["line"].map(dict(zip("abcdef", rng.normal(size=6), strict=True)))
    return table.assign(one=effect + rng.normal(size=N), two=rng.normal(size=N))


def slam(seed=1, **options):
    options = {"n_factors": 1, "draws": 3, "burn": 2, "chains": 2, "store": ("h2", "Lambda", "U_mean", "Eta")} | options
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return sg.slam("one + two ~ x + (1 | line)", frame(), seed=seed, **options)


def markers():
    return pd.DataFrame(np.random.default_rng(0).integers(0, 3, size=(N, 5)))


def fits(kind, other=False):
    """A fit of each class, and another one to tell from it."""
    table = frame().drop(columns="x") if other else frame()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if kind == "slam":
            return slam(seed=2 if other else 1)
        if kind == "he":
            return sg.he("one ~ 1 + (1 | line)" if other else "one ~ x + (1 | line)", table)
        one = "one ~ 1" if other else "one ~ 1 + x"
        if kind == "sparse_lmm":
            return sg.sparse_lmm(one, table, markers=markers())
        if kind == "sparse_lmm_fits":
            return sg.sparse_lmm(one.replace("one", "one + two"), table, markers=markers())
        return sg.mr_mash(one.replace("one", "one + two"), table, markers=markers())


def same(first, second):
    if type(first) is not type(second):
        return False
    if isinstance(first, posterior.SlamResult):
        return first.options["seed"] == second.options["seed"] and first.posterior.equals(second.posterior)
    return repr(first.fixef()) == repr(second.fixef()) and first.formula == second.formula


@pytest.fixture(scope="module")
def old():
    return slam(seed=1)


@pytest.fixture(scope="module")
def new():
    return slam(seed=2)


# -- replacing --------------------------------------------------------------------------------------------------


class Killed(BaseException):
    """What happens to a process: nothing is cleaned up after it."""


@pytest.fixture
def kill_at(monkeypatch):
    """Kill `save` at its k-th step on disk; all later steps fail as well, as those of a dead process do."""
    steps = {"taken": 0, "last": None, "inside": False}

    def dies(function, half=None):
        def step(*args, **options):
            if steps["last"] is None or steps["inside"]:  # what zarr does is one step, which may be half done
                return function(*args, **options)
            steps["taken"] += 1
            steps["inside"] = half is not None
            try:
                if steps["taken"] >= steps["last"]:
                    if half is not None and steps["taken"] == steps["last"]:
                        half(*args, **options)
                    raise Killed
                return function(*args, **options)
            finally:
                steps["inside"] = False

        return step

    def half_written(values, path, mode="w"):
        write_arrays(values, path, mode)
        for part in list(path.rglob("*"))[::2]:
            if part.is_file():
                os.remove(part)

    write_arrays = posterior.write_arrays
    monkeypatch.setattr(posterior, "write_arrays", dies(write_arrays, half_written))
    for owner, name in ((Path, "mkdir"), (Path, "replace"), (Path, "unlink"), (os, "fsync"), (shutil, "rmtree")):
        monkeypatch.setattr(owner, name, dies(getattr(owner, name)))

    def start(last):
        steps.update(taken=0, last=last)

    return start


def streamed(folder):
    slam(seed=1, out=folder)


def of_first_format(folder):
    """As folders were laid out before there was a format: no checksums, all in one place."""
    fit = slam(seed=1)
    folder.mkdir(parents=True)
    rest = {
        name: value for name, value in fit.__dict__.items() if name in fit.__dataclass_fields__ and name != "posterior"
    }
    (folder / "fit.pickle").write_bytes(pickle.dumps(rest))
    coords = {
        name: [str(v) for v in c.to_numpy()] for name, c in fit.posterior.coords.items() if c.dtype.kind not in "iuf"
    }
    fit.posterior.assign_coords(coords).to_zarr(folder / "posterior.zarr", mode="w", zarr_format=2, consolidated=False)
    manifest = {"class": "slamglmm.results.posterior:SlamResult", "version": "0.1.0"}
    (folder / "slamglmm.json").write_text(json.dumps(manifest))


def saved(folder):
    slam(seed=1).save(folder)


@pytest.mark.parametrize("before", [saved, streamed, of_first_format])
def test_an_interrupted_save_leaves_the_old_or_the_new_result(before, old, new, tmp_path, kill_at):
    kill_at(None)
    before(tmp_path / "before")
    assert same(old, sg.load(tmp_path / "before"))
    step, seen = 0, []
    while True:
        step += 1
        folder = tmp_path / f"step-{step}" / "fit"
        shutil.copytree(tmp_path / "before", folder)
        kill_at(step)
        try:
            new.save(folder)
        except Killed:
            kill_at(None)
            found = sg.load(folder)
            assert same(found, old) or same(found, new)
            seen.append(same(found, new))
            new.save(folder)  # and a save after that is as if nothing had been
            assert same(new, sg.load(folder))
            assert sorted(path.name for path in folder.iterdir() if path.name.startswith("saved")) == [
                json.loads((folder / "slamglmm.json").read_text())["content"]
            ]
        else:
            break
    kill_at(None)
    assert same(new, sg.load(folder))
    # It is a switch: old, old, ..., new, new.
    assert seen == sorted(seen)
    assert (len(seen) >= 8, seen[0], seen[-1]) == (True, False, True)


def test_an_interrupted_first_save_can_be_repeated(old, tmp_path, kill_at):
    for step in range(1, 9):
        folder = tmp_path / f"step-{step}" / "fit"
        kill_at(step)
        with pytest.raises(Killed):
            old.save(folder)
        kill_at(None)
        if (folder / "slamglmm.json").exists():
            assert same(old, sg.load(folder))
        else:
            with pytest.raises(DataError, match="no saved result there"):
                sg.load(folder)
        old.save(folder)
        assert same(old, sg.load(folder))


@pytest.mark.parametrize("kind", list(files.CLASSES))
def test_every_class_is_saved_replaced_and_loaded(kind, tmp_path):
    first, other = fits(kind), fits(kind, other=True)
    assert not same(first, other)
    assert same(first, sg.load(first.save(tmp_path / "fit")))
    assert same(other, sg.load(other.save(tmp_path / "fit")))
    manifest = json.loads((tmp_path / "fit" / "slamglmm.json").read_text())
    assert (manifest["format"], manifest["class"], manifest["version"]) == (1, kind, sg.__version__)
    assert sorted(p.name for p in (tmp_path / "fit").iterdir()) == ["saved-2", "slamglmm.json", "slamglmm.lock"]


def test_every_result_class_has_a_key():
    """A new class of results that `load` would not know."""
    classes = [base.Result]
    for made in classes:
        classes += made.__subclasses__()
    keys = {f"{made.__module__.split('.')[-1]}:{made.__qualname__}" for made in classes if not made.__abstractmethods__}
    assert keys == set(files.CLASSES.values())


def test_folders_of_the_first_format_are_read(old, tmp_path):
    of_first_format(tmp_path / "fit")
    found = sg.load(tmp_path / "fit")
    assert same(old, found)
    with pytest.raises(OptionError, match=r"extend: .*saved by an early .* fit again"):
        found.extend(2)


def test_chains_of_another_version_do_not_go_on(old, tmp_path, monkeypatch):
    """Their states may be in other units: the draws would be of nothing."""
    old.save(tmp_path / "fit")
    assert same(old.extend(2), sg.load(tmp_path / "fit").extend(2))
    monkeypatch.setattr(posterior, "__version__", "0.9")
    found = sg.load(tmp_path / "fit")
    assert same(old, found)
    with pytest.raises(OptionError, match=r"saved by .*, this is 0\.9\), whose sampler may count in other units"):
        found.extend(2)


def test_a_failed_save_leaves_what_was_there(old, tmp_path):
    old.save(tmp_path / "fit")
    bad = slam(priors=sg.Priors(h2=lambda shares: np.ones(len(shares))))
    with pytest.raises(DataError, match=r"cannot be pickled .* A prior given as a lambda"):
        bad.save(tmp_path / "fit")
    assert same(old, sg.load(tmp_path / "fit"))


def test_a_fit_that_reads_from_its_folder_is_saved_there_already(old, tmp_path, monkeypatch):
    monkeypatch.setattr(posterior, "LAZY_BYTES", 0)
    streamed(tmp_path / "run")
    fit = slam(seed=1, out=tmp_path / "run")
    for lazy in (fit, sg.load(tmp_path / "run"), sg.load(fit.save(tmp_path / "copy"))):
        home = tmp_path / ("copy" if "saved-1" in str(lazy._home) else "run")
        assert lazy.save(home) == home
        assert same(lazy, old)
        assert same(old, sg.load(home))
    # A longer one takes its place.
    longer = sg.load(tmp_path / "run").extend(2)
    assert sg.load(longer.save(tmp_path / "run")).posterior.sizes["draw"] == 5
    with pytest.raises(OptionError, match=r"expected a new or empty folder.*read it by slamglmm.load"):
        slam(seed=1, out=tmp_path / "run")


# -- damage -----------------------------------------------------------------------------------------------------


def damages(path):
    """A file with a bit flipped at several places, cut, emptied, replaced and removed."""
    content = path.read_bytes()
    for at in sorted({0, len(content) // 3, len(content) // 2, len(content) - 1}):
        flipped = bytearray(content)
        flipped[at] ^= 0b100
        yield bytes(flipped)
    yield content[: len(content) // 2]
    yield b""
    yield b"\x80\x04K\x07."  # a pickle of 7
    yield None


def put(path, content):
    path.unlink() if content is None else path.write_bytes(content)


@pytest.mark.parametrize(("way", "lazy"), [("saved", False), ("streamed", True)])
def test_damage_is_an_error_that_names_the_file(old, tmp_path, monkeypatch, way, lazy):
    monkeypatch.setattr(posterior, "LAZY_BYTES", 0 if lazy else 2**29)
    folder = tmp_path / "fit"
    old.save(folder) if way == "saved" else streamed(folder)
    content = folder / ("saved-1" if way == "saved" else "")
    tried = [content / "fit.pickle", *(p for p in (content / "posterior.zarr").rglob("*") if p.is_file())]
    assert len(tried) > 30
    for path in tried:
        whole = path.read_bytes()
        for damaged in damages(path):
            put(path, damaged)
            with pytest.raises(StorageError, match=r"damaged|absent|cannot be read") as caught:
                sg.load(folder).posterior.load()
            assert str(path) in str(caught.value)
            assert "Restore the folder from a copy" in str(caught.value)
            path.write_bytes(whole)
    assert same(old, sg.load(folder))


@pytest.mark.parametrize("damaged", [b"", b"{", b"[1]", b"\xff\xfe", b'{"class": 3}', b'{"format": 1}'])
def test_a_damaged_manifest_is_an_error(old, tmp_path, damaged):
    old.save(tmp_path / "fit")
    (tmp_path / "fit" / "slamglmm.json").write_bytes(damaged)
    with pytest.raises((StorageError, DataError), match=r"slamglmm\.json is damaged|is not a slamglmm result"):
        sg.load(tmp_path / "fit")


@pytest.mark.parametrize("named", ["slamglmm.cli:main", "os:system", "slamglmm.results.posterior:Nothing", "nonsense"])
@pytest.mark.parametrize("form", [{}, {"format": 1}])
def test_a_manifest_names_a_class_of_results_or_nothing(old, tmp_path, named, form):
    old.save(tmp_path / "fit")
    path = tmp_path / "fit" / "slamglmm.json"
    path.write_text(json.dumps({"class": named, "version": "0.1.0", **form}))
    with pytest.raises(DataError, match=f"{named} is not a slamglmm result. Expected one of slam, he"):
        sg.load(tmp_path / "fit")


def test_a_manifest_points_into_its_folder(old, tmp_path):
    old.save(tmp_path / "fit")
    path = tmp_path / "fit" / "slamglmm.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"content": "../elsewhere"}))
    with pytest.raises(StorageError, match=r"content '../elsewhere'"):
        sg.load(tmp_path / "fit")


def test_a_later_format_is_refused(old, tmp_path):
    old.save(tmp_path / "fit")
    path = tmp_path / "fit" / "slamglmm.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"format": 2, "version": "9.0"}))
    with pytest.raises(StorageError, match=r"format 2, written by slamglmm 9\.0; this is .* Update slamglmm"):
        sg.load(tmp_path / "fit")


# -- places that cannot be ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", [None, 3, "", "a\0b", ["fit"]])
def test_a_path_is_a_path(old, path):
    for call, use in (("save", old.save), ("load", sg.load), ("out=", lambda path: slam(out=path))):
        if path is None and call == "out=":
            continue
        with pytest.raises(OptionError, match=r"expected the name of a folder \(str or Path\), got"):
            use(path)


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="no place where even root cannot write")
def test_a_place_that_cannot_be_written_is_named(old):
    for use in (old.save, lambda path: slam(out=path)):
        with pytest.raises(StorageError, match=r"'/proc/x'.*: the folder cannot be made or written to .* Name one"):
            use("/proc/x")


def test_a_file_in_the_way_is_named(old, tmp_path):
    (tmp_path / "thesis").write_text("")
    with pytest.raises(DataError, match="expected a new or empty folder"):
        old.save(tmp_path / "thesis")
    with pytest.raises(OptionError, match="expected a new or empty folder"):
        slam(out=tmp_path / "thesis")
    for use in (old.save, lambda path: slam(out=path)):
        with pytest.raises(StorageError, match="the folder cannot be made"):
            use(tmp_path / "thesis" / "below")


HOLD = """
import sys, time
from pathlib import Path
from slamglmm.results.files import locked
with locked(Path(sys.argv[1]), "held"):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.mark.skipif(os.name == "nt", reason="SIGKILL")
def test_one_process_at_a_time(old, new, tmp_path):
    old.save(tmp_path / "fit")
    slam(seed=1, out=tmp_path / "run")
    (tmp_path / "run" / "slamglmm.json").unlink()
    for folder, use in ((tmp_path / "fit", new.save), (tmp_path / "run", lambda path: slam(seed=1, out=path))):
        holder = subprocess.Popen([sys.executable, "-c", HOLD, folder], stdout=subprocess.PIPE, text=True)
        try:
            assert holder.stdout.readline() == "held\n"
            with pytest.raises(StorageError, match=f"is in use by process {holder.pid} on .*end it, or name another"):
                use(folder)
        finally:
            holder.send_signal(signal.SIGKILL)
            holder.wait()
        # The dead process holds nothing, though its name is still in the file.
        assert str(holder.pid) in (folder / "slamglmm.lock").read_text()
        use(folder)
        assert str(os.getpid()) in (folder / "slamglmm.lock").read_text()
    assert same(new, sg.load(tmp_path / "fit"))


def test_two_threads_of_one_process_are_told_apart(old, new, tmp_path):
    old.save(tmp_path / "fit")
    with files.locked(tmp_path / "fit", "held"), pytest.raises(StorageError, match="in use by process"):
        new.save(tmp_path / "fit")
    assert same(old, sg.load(tmp_path / "fit"))


def test_a_file_system_without_locks_is_said(old, tmp_path, monkeypatch):
    def no_locks(file):
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(files, "_lock", no_locks)
    with pytest.warns(StorageWarning, match=r"has no locks \(Function not implemented\). See to it that no"):
        old.save(tmp_path / "fit")
    assert same(old, sg.load(tmp_path / "fit"))


def test_a_full_disk_leaves_the_old_result(old, new, tmp_path, monkeypatch):
    old.save(tmp_path / "fit")

    def full(*args, **options):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(posterior, "write_arrays", full)
        with pytest.raises(StorageError, match=r"No space left .*GiB are free.*Make room and save again"):
            new.save(tmp_path / "fit")
    assert same(old, sg.load(tmp_path / "fit"))
    assert same(new, sg.load(new.save(tmp_path / "fit")))
