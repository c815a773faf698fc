"""The compiled kernels of the SLAM sampler equal their NumPy twins in tests/reference/kernels.py."""

import inspect
import re
from pathlib import Path

import numpy as np
import pytest

import slamglmm._kernels
from slamglmm._kernels import factors, gaussian, loadings
from tests.reference import kernels as twin

SHAPES = [
    *((0, 0), (0, 3), (1, 0), (4, 0), (1, 1), (1, 6), (7, 1), (8, 3), (9, 4), (17, 8)),
    *((9, 10), (13, 12), (11, 20), (30, 17)),  # beyond the tiles of the factorisation
]
# A loop in a kernel that does not end is not interrupted by a signal: the whole run is ended.
pytestmark = pytest.mark.timeout(120, method="thread")


def simd_levels():
    """Instruction sets this processor has."""
    best = gaussian.simd()
    return list(gaussian.SIMD[: gaussian.SIMD.index(best) + 1])


@pytest.fixture(params=simd_levels())
def simd(request):
    before = gaussian.simd()
    yield gaussian.simd(request.param)
    gaussian.simd(before)


def random_precisions(rng, count, size):
    roots = rng.standard_normal((count, size, size + 2))
    return roots @ roots.transpose(0, 2, 1) + 0.5 * np.eye(size)


def close(ours, theirs):
    np.testing.assert_allclose(ours, theirs, rtol=1e-11, atol=1e-12)


def test_every_kernel_has_a_twin_with_its_arguments():
    """A kernel without a twin, or with other arguments, cannot be checked."""
    found = 0
    for module in (factors, gaussian, loadings):
        source = Path(slamglmm._kernels.__file__).with_name(module.__name__.split(".")[-1] + ".pyx")
        for name, arguments in re.findall(r"^def (\w+)\((.*?)\):", source.read_text(), re.M | re.S):
            if "[" not in arguments:
                continue  # no array: not a kernel
            plain = re.sub(r"\[.*?\]", "", arguments)  # the commas of memoryview types
            names = [piece.split("=")[0].split()[-1] for piece in plain.split(",") if piece.strip()]
            assert list(inspect.signature(getattr(twin, name)).parameters) == names
            found += 1
    assert found == 7


def random_regressions(rng, systems, size):
    return (
        random_precisions(rng, 3, size),
        rng.integers(0, 3, systems),
        rng.standard_exponential((systems, size)),
        rng.standard_normal((systems, size)),
        rng.standard_normal(systems) ** 2 + size,
        rng.standard_normal((systems, size)),
        rng.standard_gamma(2.0, systems),
        0.7,
    )


def run_regressions(module, arguments, order, work=None):
    systems, size = arguments[3].shape
    coef, tau = np.full((systems, size), np.nan), np.full(systems, np.nan)
    work = np.empty(gaussian.work_size(size)) if work is None else work
    bad = module.draw_regressions(*arguments, order, work, coef, tau)
    return bad, coef, tau


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(("systems", "size"), SHAPES)
def test_draw_regressions(systems, size, seed, simd):
    """A wrong triangle, scratch not refreshed, a half-filled round of lanes, or the wrong gamma for tau."""
    rng = np.random.default_rng([seed, systems, size])
    arguments = random_regressions(rng, systems, size)
    order = np.argsort(arguments[1], kind="stable")
    ours = run_regressions(gaussian, arguments, order)
    theirs = run_regressions(twin, arguments, order)
    assert ours[0] == theirs[0] == -1
    close(ours[1], theirs[1])
    close(ours[2], theirs[2])


@pytest.mark.parametrize(("systems", "size"), [(7, 1), (8, 3), (30, 17)])
def test_order_of_regressions_changes_no_bit(systems, size, simd):
    """A system's draw must not depend on its neighbours in the lanes, nor on their number."""
    rng = np.random.default_rng([systems, size])
    arguments = random_regressions(rng, systems, size)
    _, coef, tau = run_regressions(gaussian, arguments, np.arange(systems))
    for _ in range(5):
        _, again, tau_again = run_regressions(gaussian, arguments, rng.permutation(systems))
        assert np.array_equal(coef, again)
        assert np.array_equal(tau, tau_again)
    grams, *rest, rate = arguments
    _, first, _ = run_regressions(gaussian, (grams, *(part[:5] for part in rest), rate), np.arange(5))
    assert np.array_equal(first, coef[:5])


def test_draw_regressions_residual_never_below_zero(simd):
    """An over-fitted trait: the sum of squares cancels below zero and tau must stay gamma / rate."""
    one = np.zeros(1, dtype=np.intp)
    arguments = (np.eye(2)[None], one, np.zeros((1, 2)), np.array([[3.0, 4.0]]), np.array([24.9]), np.zeros((1, 2)))
    for module in (gaussian, twin):
        _, _, tau = run_regressions(module, (*arguments, np.array([1.5]), 0.5), one)
        assert tau[0] == 3.0


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(("rows", "size"), SHAPES)
@pytest.mark.parametrize("distinct", [1, 3, None])
def test_draw_gaussians(rows, size, distinct, seed):
    """A factor kept for a row of another pattern: runs of equal, alternating and all different systems."""
    rng = np.random.default_rng([seed, rows, size])
    which = np.arange(rows) if distinct is None else np.sort(rng.integers(0, distinct, rows))
    if distinct == 3:
        rng.shuffle(which)
    precisions = random_precisions(rng, max(rows, 3), size)
    rhs, z = rng.standard_normal((2, rows, size))
    results = []
    for module in (gaussian, twin):
        out, work = np.full((rows, size), np.nan), np.empty(gaussian.work_size(size))
        assert module.draw_gaussians(precisions, which.astype(np.intp), rhs, z, work, out) == -1
        results.append(out)
    close(*results)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(("rows", "size"), SHAPES)
def test_draw_rows(rows, size, seed, simd):
    """A triangle unpacked in the wrong order, or a diagonal of another row."""
    rng = np.random.default_rng([seed, rows, size])
    arguments = random_rows(rng, rows, size)
    ours, theirs = run_rows(gaussian, arguments), run_rows(twin, arguments)
    assert ours[0] == theirs[0] == -1
    close(ours[1], theirs[1])


def random_rows(rng, rows, size):
    packed = np.ascontiguousarray(random_precisions(rng, rows, size)[:, *np.tril_indices(size)].T)
    return packed, rng.standard_exponential((size, rows)), *rng.standard_normal((2, size, rows))


def run_rows(module, arguments, work=None):
    out = np.full_like(arguments[1], np.nan)
    work = np.empty(gaussian.work_size(len(out))) if work is None else work
    return module.draw_rows(*arguments, work, out), out


def test_an_instruction_set_that_is_not_there_is_refused():
    with pytest.raises(ValueError, match=r"this processor has lapack.*, not 'avx1024'"):
        gaussian.simd("avx1024")
    assert gaussian.simd() == simd_levels()[-1]


@pytest.mark.skipif("avx512" not in simd_levels(), reason="one width with fused multiply-add")
@pytest.mark.parametrize(("systems", "size"), [(7, 1), (9, 4), (17, 8), (9, 10), (13, 12), (11, 20), (30, 17)])
def test_widths_with_fused_multiply_add_agree_to_the_bit(systems, size):
    """Eight lanes and four give the same draws, so that a chain does not depend on which of them it ran on."""
    rng = np.random.default_rng([systems, size])
    regressions, rows, order = (
        random_regressions(rng, systems, size),
        random_rows(rng, systems, size),
        np.arange(systems),
    )
    results = []
    for level in ("avx2", "avx512"):
        gaussian.simd(level)
        results.append((*run_regressions(gaussian, regressions, order)[1:], run_rows(gaussian, rows)[1]))
    assert gaussian.simd() == simd_levels()[-1]
    for narrow, wide in zip(*results, strict=True):
        assert np.array_equal(narrow, wide)


BROKEN = {
    "negative": (1, 1, -1.0),
    "zero": (1, 1, 0.0),
    "zero, the last": (2, 2, 0.0),  # nothing comes after it that would turn NaN
    "nan": (1, 1, np.nan),
    "nan, the last": (2, 2, np.nan),
    "nan beside the diagonal": (2, 0, np.nan),
}


@pytest.mark.parametrize("entry", BROKEN)
@pytest.mark.parametrize("others", [(), (0,), (4,), (0, 4, 7)])
def test_systems_that_are_not_positive_definite_are_named(entry, others, simd):
    """The index that comes back is that of the first broken system in the caller's order, lanes or LAPACK."""
    i, j, value = BROKEN[entry]
    grams = np.stack([np.eye(3), np.eye(3)])
    grams[1, i, j] = grams[1, j, i] = value
    n = 9
    which = np.zeros(n, dtype=np.intp)
    which[[5, *others]] = 1
    ones, order = np.ones((n, 3)), np.array([8, 5, 7, 0, 4, 3, 2, 1, 6])
    arguments = (grams, which, np.zeros((n, 3)), ones, np.ones(n), ones, np.ones(n), 1.0)
    packed = np.array([[grams[w][a, b] for w in which] for a in range(3) for b in range(a + 1)])
    by_rows = (packed, np.zeros((3, n)), *np.ones((2, 3, n)))
    first = min(5, *others) if others else 5
    for module in (gaussian, twin):
        assert run_regressions(module, arguments, order)[0] == 5
        assert run_rows(module, by_rows)[0] == first
        work = np.empty(gaussian.work_size(3))
        assert module.draw_gaussians(grams, which, ones, ones, work, ones.copy()) == first


@pytest.mark.parametrize("offset", range(8))
@pytest.mark.parametrize("size", [1, 2, 3, 8, 17])
def test_scratch_of_exact_size_is_enough_wherever_it_begins(size, offset, simd):
    """A kernel that writes before or behind its scratch: `work_size` too small for some alignment."""
    rng, guard, length = np.random.default_rng(size), 1234.5, gaussian.work_size(size)
    regressions, rows = random_regressions(rng, 9, size), random_rows(rng, 9, size)
    room = np.empty(length + 256)
    begin = 64 + (offset - room.ctypes.data // 8) % 8  # doubles to the start of a cache line: `offset`
    work = room[begin : begin + length]
    assert work.ctypes.data % 64 == 8 * offset
    systems = np.arange(9)
    for run, expected in (
        (lambda: run_regressions(gaussian, regressions, systems, work), run_regressions(twin, regressions, systems)),
        (lambda: run_rows(gaussian, rows, work), run_rows(twin, rows)),
    ):
        room[:] = guard
        for ours, theirs in zip(run(), expected, strict=True):
            close(ours, theirs)
        assert np.all(room[:begin] == guard)
        assert np.all(room[begin + length :] == guard)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("k", [1, 2, 7])
@pytest.mark.parametrize("sweeps", [0, 1, 20])
def test_row_scales(k, sweeps, seed):
    """A cumulative product that keeps or drops the wrong ratio."""
    rng = np.random.default_rng([seed, k, sweeps])
    q, delta = rng.standard_exponential(k), rng.standard_exponential(k) + 0.1
    delta[0] = 1.0
    gammas = rng.standard_gamma(3.0, (sweeps, k))
    noise = (gammas, rng.standard_gamma(2.0, sweeps), rng.standard_exponential((sweeps, 1)))
    ours, theirs = delta.copy(), delta.copy()
    t2 = loadings.draw_horseshoe_rows(q, *noise, 3.0, 1.0, 0.2, ours, 0.9)
    assert t2 == pytest.approx(twin.draw_horseshoe_rows(q, *noise, 3.0, 1.0, 0.2, theirs, 0.9), rel=1e-12)
    np.testing.assert_allclose(ours, theirs, rtol=1e-11)
    ours, theirs = delta.copy(), delta.copy()
    loadings.draw_infinite_rows(q, gammas, 1.0, 2.0, ours)
    twin.draw_infinite_rows(q, gammas, 1.0, 2.0, theirs)
    np.testing.assert_allclose(ours, theirs, rtol=1e-11)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(("systems", "size"), SHAPES)
def test_draw_sites(systems, size, seed):
    """A residual not kept up to date, tau in one place of two, or a coefficient without a spike set to zero."""
    rng = np.random.default_rng([seed, systems, size])
    tau, log_odds = rng.standard_gamma(3.0, systems), rng.standard_normal(size)
    log_odds[: size // 3] = np.inf
    prior_prec = rng.standard_exponential((systems, size))
    prior_prec[:, : size // 4] = 0.0
    which = rng.integers(0, 3, systems)
    rhs, z = rng.standard_normal((2, systems, size))
    u, start = rng.random((systems, size)), rng.standard_normal((systems, size)) * rng.integers(0, 2, (systems, size))
    results = []
    for module in (loadings, twin):
        coef = start.copy()
        grams = random_precisions(np.random.default_rng(size), 3, size)
        module.draw_sites(grams, which, prior_prec, rhs, log_odds, tau, z, u, np.empty(size), coef)
        results.append(coef)
    close(*results)
    assert np.array_equal(results[0] == 0, results[1] == 0)
    assert np.all(results[0][:, : size // 3] != 0)
    if results[0].size > 100:
        assert np.any(results[0] == 0)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize(("rows", "k"), [(1, 1), (5, 1), (6, 3), (20, 4), (9, 0)])
def test_move_shares(rows, k, seed):
    """A cross term with another factor, a ray or the share of zero not respected, or parts not kept standardised."""
    rng = np.random.default_rng([seed, rows, k])
    totals, ray = np.array([0.0, 0.3, 0.6, 0.9, 0.3, 0.6, 0.9]), np.array([0, 0, 0, 0, 1, 1, 1], dtype=np.intp)
    log_prior = np.log(rng.dirichlet(np.ones(7)))
    log_prior[2] = -np.inf
    points = rng.choice([0, 1, 3, 4, 5, 6], k).astype(np.intp)
    random, scores, linear = rng.standard_normal((3, k, rows))
    random[totals[points] == 0] = 0.0
    which = rng.integers(0, 2, rows)
    precisions = random_precisions(rng, 2, k)
    uniforms = rng.random(k)
    results = []
    for module in (factors, twin):
        state = [random.copy(), scores.copy(), points.copy()]
        scratch = np.empty(rows), np.empty(7)
        module.move_shares(precisions, which, linear, totals, ray, log_prior, uniforms, *scratch, *state)
        results.append(state)
    for ours, theirs in zip(*results, strict=True):
        close(ours, theirs)
    moved, _, now = results[0]
    assert np.array_equal(ray[now[totals[points] > 0]], ray[points[totals[points] > 0]])
    assert np.array_equal(now[points == 0], points[points == 0])
    scaled = totals[now] > 0
    np.testing.assert_allclose(
        moved[scaled] / np.sqrt(totals[now[scaled]])[:, None],
        random[scaled] / np.sqrt(totals[points[scaled]])[:, None],
    )
