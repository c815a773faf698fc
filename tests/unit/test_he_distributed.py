"""`backend="dask"`: tiles on a cluster of two workers, nothing of size n x n on the wire."""

import pickle

import numpy as np
import pandas as pd
import pytest

import slamglmm as sg
from slamglmm.errors import OptionError, RelmatError
from slamglmm.fitters.he import distributed as ours
from slamglmm.fitters.he.moments import plan_streams
from slamglmm.fitters.he.problem import build_problem
from slamglmm.fitters.he.sources import read_streamed

dask = pytest.importorskip("dask")
pytestmark = [
    pytest.mark.filterwarnings("ignore::slamglmm.errors.BoundaryWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]

N = 600


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    rng = np.random.default_rng(1)
    folder = tmp_path_factory.mktemp("kinships")
    ids = [f"p{i}" for i in range(N)]
    kinships = {}
    for name in "KD":
        W = rng.standard_normal((N, 300))
        K = W @ W.T / 300
        K.tofile(folder / f"{name}.f64")
        kinships[name] = K
    frame = pd.DataFrame({"id": rng.permutation(ids), "x": rng.standard_normal(N), "y": rng.standard_normal(N)})
    return frame, ids, kinships, folder


FORMULA = "y ~ x + (1 | gr(id, cov='K')) + (1 | gr(id, cov='D'))"


def mapped(data):
    _, ids, kinships, folder = data
    return {
        name: (np.memmap(folder / f"{name}.f64", dtype=np.float64, mode="r", shape=(N, N)), ids) for name in kinships
    }


def arrays(data):
    import dask.array as da

    _, ids, kinships, _ = data
    return {
        "K": (da.from_array(kinships["K"], chunks=(250, 200)), ids),
        "D": (da.from_array(kinships["D"], chunks=(100, 600)), ids),
    }


@pytest.fixture(scope="module")
def cluster():
    distributed = pytest.importorskip("distributed")
    with (
        distributed.LocalCluster(
            n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None, memory_limit=0
        ) as local,
        distributed.Client(local) as client,
    ):
        yield client


@pytest.fixture(autouse=True)
def small_tasks(monkeypatch):
    monkeypatch.setattr(ours, "TASK_BYTES", N * 8 * 100)  # six tasks a file


@pytest.mark.parametrize("form", [mapped, arrays])
def test_threads_give_the_same_moments(data, form):
    frame, ids, kinships, _ = data
    plain = sg.he(FORMULA, frame, relmat={k: (v, ids) for k, v in kinships.items()}, method="he", se=None)
    found = sg.he(FORMULA, frame, relmat=form(data), method="he", se=None, backend="dask")
    np.testing.assert_allclose(found.moments.S, plain.moments.S, rtol=1e-10)
    np.testing.assert_allclose(found.moments.c, plain.moments.c, rtol=1e-10)
    np.testing.assert_allclose(found.theta, plain.theta, rtol=1e-8)
    here = sg.he(FORMULA, frame, relmat=form(data), method="he", se=None)
    np.testing.assert_allclose(here.theta, plain.theta, rtol=1e-8)


@pytest.mark.parametrize("form", [mapped, arrays])
def test_cluster_of_two_workers(data, form, cluster):
    frame, ids, kinships, _ = data
    plain = sg.he(FORMULA, frame, relmat={k: (v, ids) for k, v in kinships.items()}, method="he", se=None)
    found = sg.he(FORMULA, frame, relmat=form(data), method="he", se=None, backend="dask")
    np.testing.assert_allclose(found.moments.S, plain.moments.S, rtol=1e-10)
    np.testing.assert_allclose(found.theta, plain.theta, rtol=1e-8)


def test_packed_triangles(data):
    frame, ids, kinships, folder = data
    relmat = {}
    for name, K in kinships.items():
        K[np.tril_indices(N)].astype(np.float32).tofile(folder / f"{name}.grm.bin")
        (folder / f"{name}.grm.id").write_text("".join(f"0 {i}\n" for i in ids))
        relmat[name] = folder / f"{name}.grm.bin"
    plain = sg.he(FORMULA, frame, relmat=relmat, method="he", se=None)
    found = sg.he(FORMULA, frame, relmat=relmat, method="he", se=None, backend="dask")
    np.testing.assert_allclose(found.moments.S, plain.moments.S, rtol=1e-6)
    np.testing.assert_allclose(found.theta, plain.theta, rtol=1e-4)


def request_of(data):
    frame, *_ = data
    problem = build_problem(sg.design(FORMULA, frame, relmat=read_streamed(mapped(data))))
    plan = plan_streams(problem, None, 1)
    return problem, next(iter(plan.requests.values()))


def test_nothing_large_moves(data, cluster):
    """The graph holds paths and offsets; a task returns its rows of the products and one vector for symmetry."""
    problem, request = request_of(data)
    shared = ours._share(request)
    graph = ours.sum_graph(request, shared)
    size = len(pickle.dumps(dict(graph.__dask_graph__())))
    assert size < 1_000_000
    assert size < N * N * 8 / 10
    assert len(pickle.dumps(request.sources)) < 1000
    tile = ours.stream(request, 0, 100)
    n_sources, columns = 2, problem.m + problem.t
    assert len(pickle.dumps(tile)) < n_sources * 8 * N * columns
    workers = {w for who in cluster.who_has().values() for w in who}
    assert len(cluster.scheduler_info()["workers"]) == 2
    assert workers <= set(cluster.scheduler_info()["workers"])


def transfers(dask_worker):
    """Sizes of all messages that have come from the other worker."""
    return [log["total"] for log in dask_worker.transfer_incoming_log]


def test_workers_open_the_files_themselves(data, cluster):
    """Only sums travel between workers: no message comes near the size of a task's part of a file."""
    frame, *_ = data
    before = {worker: len(sizes) for worker, sizes in cluster.run(transfers).items()}
    sg.he(FORMULA, frame, relmat=mapped(data), method="he", se=None, backend="dask")
    after = cluster.run(transfers)
    sent = [size for worker, sizes in after.items() for size in sizes[before[worker] :]]
    columns, n_sources = 3, 2
    inputs = N * (n_sources * (columns + 1) + 1) * 8
    assert max(sent, default=0) < 2 * inputs < ours.TASK_BYTES


def test_asymmetric_dask_array_is_refused(data):
    import dask.array as da

    frame, ids, kinships, _ = data
    crooked = kinships["K"].copy()
    crooked[5, 77] += 1
    relmat = {"K": (da.from_array(crooked, chunks=200), ids), "D": arrays(data)["D"]}
    with pytest.raises(RelmatError, match="must be symmetric"):
        sg.he(FORMULA, frame, relmat=relmat, se=None, backend="dask")


def test_matrices_in_memory_are_not_sent(data):
    frame, ids, kinships, _ = data
    with pytest.raises(OptionError, match=r"backend='dask' works on files and dask arrays"):
        sg.he(FORMULA, frame, relmat={k: (v, ids) for k, v in kinships.items()}, se=None, backend="dask")
    with pytest.raises(OptionError, match="give all matrices of one grouping factor as files, or all as dask arrays"):
        sg.he(FORMULA, frame, relmat={"K": mapped(data)["K"], "D": arrays(data)["D"]}, se=None, backend="dask")
