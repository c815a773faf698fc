"""Moments of every kind of kinship and term against n x n matrices; tiles, cohorts, files, clusters."""

import pickle

import numpy as np
import pandas as pd
import pytest
from scipy import sparse

import slamglmm as sg
from slamglmm.errors import OptionError, RelmatError
from slamglmm.fitters.he.moments import Moments, compute_moments
from slamglmm.fitters.he.problem import build_problem
from slamglmm.fitters.he.sources import ArraySource, FileSource, PackedSource, as_source, read_streamed
from slamglmm.fitters.he.spread import families, multiply
from slamglmm.fitters.he.streaming import Request, TileSums, stream
from slamglmm.linalg.nnls import nonnegative_least_squares, solve_symmetric
from slamglmm.linalg.psd_cone import cone_least_squares
from tests.reference import kinship as slow

INNER = ("full", "triangle", "offdiag")
pytestmark = pytest.mark.filterwarnings("ignore::slamglmm.errors.BoundaryWarning")


def random_kinship(rng, r):
    W = rng.standard_normal((r, 2 * r))
    return W @ W.T / (2 * r)


def random_family_kinship(rng, r):
    blocks, left = [], r
    while left:
        size = min(left, int(rng.integers(1, 5)))
        blocks.append(random_kinship(rng, size))
        left -= size
    return sparse.csr_array(sparse.block_diag(blocks, format="csr"))


def example(seed=0, n=60):
    """Repeated ids in another order than the kinship, groups, a slope, weights, two traits."""
    rng = np.random.default_rng(seed)
    ids = [f"i{k:02d}" for k in range(25)]
    frame = pd.DataFrame(
        {
            "id": rng.choice(ids[:-3], n),
            "g": rng.choice(list("abcdef"), n),
            "h": rng.choice(list("uvwxyz"), n),
            "x": rng.standard_normal(n),
            "w": rng.uniform(0.5, 2.0, n),
            "home": np.arange(n) // 2,
        }
    )
    Y = pd.DataFrame(rng.standard_normal((n, 2)), columns=["a", "b"])
    relmat = {
        "K": (random_kinship(rng, 25), ids),
        "D": (random_kinship(rng, 25), ids),
        "A": (random_family_kinship(rng, 25), ids),
        "h": (random_kinship(rng, 6), list("uvwxyz")),
    }
    return frame, Y, relmat


TERMS = {
    "dense": "(1 | gr(id, cov='K'))",
    "two dense": "(1 | gr(id, cov='K')) + (1 | gr(id, cov='D'))",
    "sparse": "(1 | gr(id, cov='A'))",
    "sparse and dense": "(1 | gr(id, cov='A')) + (1 | gr(id, cov='K'))",
    "groups": "(1 | g) + (1 | h0)",
    "dense and its groups": "(1 | gr(id, cov='K')) + (1 | g)",
    "dense and households": "(1 | gr(id, cov='K')) + (1 + x | home)",
    "dense and its own identity": "(1 | gr(id, cov='K')) + (1 | id)",
    "two dense on different levels": "(1 | gr(id, cov='K')) + (1 | h)",
    "slope": "(1 + x | g)",
    "slope on dense": "(1 + x | gr(id, cov='K')) + (1 | g)",
    "slope on sparse and dense": "(1 + x | gr(id, cov='A')) + (1 | gr(id, cov='K'))",
    "uncorrelated": "(1 + x || g) + (1 | gr(id, cov='A'))",
}


def problem_of(terms, weights=None, seed=0):
    frame, Y, relmat = example(seed)
    frame["h0"] = frame["h"]
    used = {key: value for key, value in relmat.items() if f"cov='{key}'" in terms or f"| {key})" in terms}
    return build_problem(sg.design(f"~ x + {terms}", frame, Y=Y, relmat=used, weights=weights))


@pytest.mark.parametrize("weights", [None, "w"])
@pytest.mark.parametrize("name", TERMS)
def test_moments_are_those_of_n_by_n_matrices(name, weights):
    problem = problem_of(TERMS[name], weights)
    moments = compute_moments(problem)
    K = slow.dense_components(problem)
    for inner in INNER:
        for project in (True, False):
            found = moments.equations(inner, project)
            S, c = slow.equations(K, problem.x, problem.y, inner, project)
            np.testing.assert_allclose(found.S, S, rtol=1e-10, atol=1e-9)
            np.testing.assert_allclose(found.c, c, rtol=1e-10, atol=1e-9)


def test_tiles_add_up_to_the_whole():
    problem = problem_of(TERMS["dense"])
    K = problem.terms[0].kernel.array
    tiles = []
    for rows in (slice(0, 11), slice(11, 25)):
        for columns in (slice(0, 7), slice(7, 25)):
            part = np.zeros_like(K)
            part[rows, columns] = K[rows, columns]
            tiles.append(part)
    whole = compute_moments(problem)
    # a tile alone is not symmetric, so it comes without that test
    parts = [_moments_of(problem, part) for part in tiles]
    total = (parts[0] + parts[3]) + (parts[2] + parts[1])
    for inner in INNER:
        np.testing.assert_allclose(total.equations(inner).S, whole.equations(inner).S, rtol=1e-10)
        np.testing.assert_allclose(total.equations(inner).c, whole.equations(inner).c, rtol=1e-10)


def _moments_of(problem, part):
    from dataclasses import replace

    from slamglmm.fitters.he.moments import assemble, plan_streams

    term = replace(problem.terms[0], kernel=ArraySource(part))
    tile = replace(problem, terms=(term,))
    plan = plan_streams(tile, None, 0)
    sums = {space: stream(request) for space, request in plan.requests.items()}
    sums = {s: replace(t, forward=t.forward[:, :0], backward=t.backward[:, :0]) for s, t in sums.items()}
    return assemble(tile, plan, sums, None)


def test_moments_of_other_data_do_not_add_up():
    first, second = compute_moments(problem_of(TERMS["groups"])), compute_moments(problem_of(TERMS["groups"], seed=1))
    with pytest.raises(OptionError, match=r"only moments of tiles of one data set add up.*Moments\.pool"):
        first + second
    with pytest.raises(OptionError, match="moments of different models"):
        first.equations() + first.equations("offdiag")


def test_pool_is_the_block_diagonal_problem():
    """Two cohorts, each with its own fixed effects, are one data set with fixed effects in each."""
    t = [sg.simulate.trio(families=20, seed=s) for s in (1, 2)]
    parts = [compute_moments(build_problem(sg.design("~ 1 + (1 | id)", u.frame, Y=u.Y, relmat=u.relmat))) for u in t]
    frame = pd.concat([u.frame.assign(id=u.frame["id"] + str(k), cohort=str(k)) for k, u in enumerate(t)])
    labels = [f"{i}{k}" for k, u in enumerate(t) for i in u.frame["id"]]
    K = sparse.block_diag([u.relmat["id"].matrix for u in t], format="csr")
    Y = pd.concat([u.Y for u in t], ignore_index=True)
    frame = frame.reset_index(drop=True)
    both = compute_moments(build_problem(sg.design("~ 0 + cohort + (1 | id)", frame, Y=Y, relmat={"id": (K, labels)})))
    for inner in INNER:
        pooled = Moments.pool(parts, inner)
        np.testing.assert_allclose(pooled.S, both.equations(inner).S, rtol=1e-10)
        np.testing.assert_allclose(pooled.c, both.equations(inner).c, rtol=1e-10)


# -- kinds of kinship -------------------------------------------------------------------------------------


def packed(K):
    return K[np.tril_indices(len(K))]


@pytest.fixture
def files(tmp_path):
    """One kinship as float64, float32 and packed float32 files."""
    K = random_kinship(np.random.default_rng(5), 70).astype(np.float32).astype(float)
    K.tofile(tmp_path / "k.f64")
    K.astype(np.float32).tofile(tmp_path / "k.f32")
    packed(K).astype(np.float32).tofile(tmp_path / "k.grm.bin")
    (tmp_path / "k.grm.id").write_text("".join(f"fam{i} p{i}\n" for i in range(70)))
    return K, tmp_path


def streamed_forms(K, folder):
    ids = [f"p{i}" for i in range(len(K))]
    return {
        "memory map": (np.memmap(folder / "k.f64", dtype=np.float64, mode="r", shape=K.shape), ids),
        "single": (np.memmap(folder / "k.f32", dtype=np.float32, mode="r", shape=K.shape), ids),
        "part of a map": (np.memmap(folder / "k.f64", dtype=np.float64, mode="r", shape=K.shape)[:, :], ids),
        "grm": str(folder / "k.grm.bin"),
        "path": folder / "k.grm.bin",
    }


@pytest.mark.parametrize("form", ["memory map", "single", "part of a map", "grm", "path"])
def test_streamed_kinships(files, form, monkeypatch):
    monkeypatch.setattr("slamglmm.fitters.he.sources.BLOCK_BYTES", 70 * 8 * 5)
    K, folder = files
    rng = np.random.default_rng(1)
    frame = pd.DataFrame({"id": rng.permutation([f"p{i}" for i in range(70)])[:50], "x": rng.standard_normal(50)})
    frame["y"] = rng.standard_normal(50)
    plain = sg.he("y ~ x + (1 | id)", frame, relmat={"id": (K, [f"p{i}" for i in range(70)])}, method="he")
    fit = sg.he("y ~ x + (1 | id)", frame, relmat={"id": streamed_forms(K, folder)[form]}, method="he")
    tolerance = 1e-10 if form in ("memory map", "part of a map") else 1e-5
    np.testing.assert_allclose(fit.moments.S, plain.moments.S, rtol=tolerance)
    np.testing.assert_allclose(fit.moments.c, plain.moments.c, rtol=tolerance, atol=tolerance)
    np.testing.assert_allclose(fit.theta, plain.theta, rtol=100 * tolerance)
    np.testing.assert_allclose(fit.varcorr()["se"], plain.varcorr()["se"], rtol=100 * tolerance)
    np.testing.assert_allclose(fit.ranef("id"), plain.ranef("id"), rtol=1e-3, atol=1e-5)


def test_packed_beside_square(files):
    K, folder = files
    ids = [f"p{i}" for i in range(70)]
    D = random_kinship(np.random.default_rng(2), 70)
    frame = pd.DataFrame({"id": ids, "y": np.random.default_rng(3).standard_normal(70)})
    formula = "y ~ 1 + (1 | gr(id, cov='K')) + (1 | gr(id, cov='D')) + (1 | gr(id, cov='A'))"
    A = (sparse.csr_array(np.kron(np.eye(35), [[1, 0.5], [0.5, 1]])), ids)
    fits = [
        sg.he(formula, frame, relmat={"K": k, "D": (D, ids), "A": A}, method="he", se=None)
        for k in ((K, ids), str(folder / "k.grm.bin"))
    ]
    np.testing.assert_allclose(fits[1].moments.S, fits[0].moments.S, rtol=1e-5)
    np.testing.assert_allclose(fits[1].theta, fits[0].theta, rtol=1e-3)


@pytest.mark.parametrize("make", [ArraySource, "file", "packed"])
def test_source_parts(files, make):
    K, folder = files
    source = {
        "file": lambda: FileSource(folder / "k.f64", 70, np.float64),
        "packed": lambda: PackedSource(folder / "k.grm.bin", 70),
    }.get(make, lambda: ArraySource(K))()
    levels = np.array([5, 3, 60, 0])
    np.testing.assert_allclose(source.toarray(), K, rtol=1e-6)
    np.testing.assert_allclose(source.diagonal(), np.diag(K), rtol=1e-6)
    np.testing.assert_allclose(source.submatrix(levels), K[np.ix_(levels, levels)], rtol=1e-6)
    U = np.random.default_rng(1).standard_normal((70, 3))
    np.testing.assert_allclose(multiply(source, U), K @ U, rtol=1e-5, atol=1e-6)
    again = pickle.loads(pickle.dumps(source))
    np.testing.assert_array_equal(again.toarray(), source.toarray())


def test_asymmetric_file_is_refused(tmp_path):
    K = random_kinship(np.random.default_rng(1), 40)
    K[3, 30] += 0.5
    K.tofile(tmp_path / "k.f64")
    mapped = np.memmap(tmp_path / "k.f64", dtype=np.float64, mode="r", shape=(40, 40))
    frame = pd.DataFrame({"id": range(40), "y": np.arange(40.0) ** 0.5})
    with pytest.raises(RelmatError, match=r"relmat for group 'id' must be symmetric.*row 3"):
        sg.he("y ~ 1 + (1 | id)", frame, relmat={"id": (mapped, range(40))}, se=None)


def test_refused_files(tmp_path):
    np.zeros(10).tofile(tmp_path / "short")
    with pytest.raises(RelmatError, match=r"holds 80 bytes; a 4 x 4 matrix of float64 needs 128"):
        FileSource(tmp_path / "short", 4, np.float64)
    with pytest.raises(RelmatError, match="must be square"):
        as_source(np.memmap(tmp_path / "short", mode="r", shape=(2, 3)))
    with pytest.raises(OptionError, match=r"is not a GCTA \.grm\.bin file"):
        read_streamed({"id": "kinship.csv"})
    with pytest.raises(RelmatError, match=r"'k\.grm\.id' is missing beside 'k\.grm\.bin'"):
        read_streamed({"id": tmp_path / "k.grm.bin"})
    mapped = np.memmap(tmp_path / "short", dtype=np.float64, mode="r", shape=(3, 3))
    with pytest.raises(RelmatError, match="has 3 rows but 2 labels"):
        read_streamed({"id": (mapped, ["a", "b"])})
    with pytest.raises(RelmatError, match="has the label 'a' twice"):
        read_streamed({"id": (mapped, ["a", "b", "a"])})


# -- families ---------------------------------------------------------------------------------------------


def test_families_follow_kinship_and_groups():
    frame = pd.DataFrame({"id": list("abcdef"), "home": [1, 1, 2, 2, 3, 3], "y": [1.0, 2, 3, 4, 5, 7]})
    K = np.eye(6)
    K[1, 2] = K[2, 1] = 0.5
    relmat = {"id": (sparse.csr_array(K), list("abcdef"))}
    problem = build_problem(sg.design("y ~ 1 + (1 | id) + (1 | home)", frame, relmat=relmat))
    np.testing.assert_array_equal(families(problem.terms, 6), [0, 0, 0, 0, 1, 1])


# -- solvers ----------------------------------------------------------------------------------------------


def by_enumeration(S, c):
    """Best of all active sets."""
    best, value = np.zeros(len(c)), 0.0
    for mask in range(1, 2 ** len(c)):
        free = np.array([mask >> i & 1 for i in range(len(c))], dtype=bool)
        s = np.zeros(len(c))
        s[free] = np.linalg.solve(S[np.ix_(free, free)], c[free])
        if (s >= 0).all() and s @ S @ s - 2 * s @ c < value:
            best, value = s, s @ S @ s - 2 * s @ c
    return best


@pytest.mark.parametrize("seed", range(60))
def test_nnls_is_the_best_active_set(seed):
    rng = np.random.default_rng(seed)
    q = int(rng.integers(1, 7))
    R = rng.standard_normal((q + 2, q)) * 10.0 ** rng.uniform(-3, 3, q)
    S, c = R.T @ R, R.T @ rng.standard_normal(q + 2)
    found = nonnegative_least_squares(S, c)
    expected = by_enumeration(S, c)
    np.testing.assert_allclose(found, expected, rtol=1e-8, atol=1e-10 * np.abs(expected).max(initial=1e-300))
    assert ((found == 0) == (expected == 0)).all()


def test_nnls_of_singular_systems():
    S = np.ones((3, 3))
    found = nonnegative_least_squares(S, np.ones(3))
    assert found.sum() == pytest.approx(1.0)
    assert (found >= 0).all()
    np.testing.assert_array_equal(nonnegative_least_squares(np.eye(2), -np.ones(2)), [0, 0])
    assert nonnegative_least_squares(np.zeros((0, 0)), np.zeros(0)).shape == (0,)
    np.testing.assert_allclose(solve_symmetric(S, np.ones(3)).sum(), 1.0)


@pytest.mark.parametrize("seed", range(10))
def test_cone_solution_meets_the_optimality_conditions(seed):
    rng = np.random.default_rng(seed)
    R = rng.standard_normal((8, 7))
    S, c = R.T @ R, rng.standard_normal(7)
    cones = [np.array([[0]]), np.array([[1, 2], [2, 3]]), np.array([[4, 5], [5, 6]])]
    s = cone_least_squares(S, c, cones)
    gradient = S @ s - c
    for cone in cones:
        # the dual matrix: an off-diagonal unknown stands twice in its matrix
        dual = gradient[cone] / (2 - np.eye(len(cone)))
        assert np.linalg.eigvalsh(s[cone])[0] >= -1e-9
        assert np.linalg.eigvalsh(dual)[0] >= -1e-7
        assert abs(np.sum(dual * s[cone])) < 1e-7


def test_cones_of_one_are_nnls():
    rng = np.random.default_rng(3)
    R = rng.standard_normal((6, 4))
    S, c = R.T @ R, rng.standard_normal(4)
    found = cone_least_squares(S, c, [np.array([[i]]) for i in range(4)])
    np.testing.assert_allclose(found, nonnegative_least_squares(S, c), atol=1e-9)


# -- clusters -------------------------------------------------------------------------------------------


def test_tile_sums_join_in_any_order():
    rng = np.random.default_rng(0)
    K = random_kinship(rng, 50)
    E = sparse.csr_array(sparse.random(50, 50, 0.1, random_state=1))
    request = Request((ArraySource(K),), (rng.standard_normal((50, 3)),), ((0, 0, None, None),), ((0, E),), np.ones(50))
    whole = stream(request)
    parts = [stream(request, a, b) for a, b in ((0, 9), (9, 30), (30, 50))]
    for total in (parts[0] + parts[1] + parts[2], parts[2] + (parts[0] + parts[1])):
        assert isinstance(total, TileSums)
        np.testing.assert_allclose(total.products[0], whole.products[0])
        np.testing.assert_allclose(total.pairs[0], whole.pairs[0])
        np.testing.assert_allclose(total.gathers, whole.gathers)
        np.testing.assert_allclose(total.forward, whole.forward)
        np.testing.assert_allclose(total.backward, whole.backward)
