"""Every marker kernel equals its NumPy twin, for each storage, instruction set and odd shape."""

import inspect
import re
from pathlib import Path

import numpy as np
import pytest
from scipy import sparse
from slamglmm._kernels.columns import Columns

import slamglmm._kernels
from slamglmm._kernels import columns as kernel
from slamglmm._kernels import mash, spike_slab
from slamglmm.genotypes import read_markers
from slamglmm.linalg.projection import project_markers
from tests.reference import markers as twin

STORAGES = ["int8", "int8 missing", "bed", "bed missing", "float32", "float64", "csc"]
# Lengths around the widths of the vector loops (4, 8, 16, 32).
ROWS = [1, 3, 8, 31, 32, 33, 70, 130]
CLOSE = {"rtol": 1e-12, "atol": 1e-11}
pytestmark = pytest.mark.timeout(120, method="thread")


def make(storage, n, m, folder, seed=0):
    rng = np.random.default_rng([seed, n, m])
    G = rng.integers(0, 3, (n, m)).astype(float)
    if "missing" in storage:
        G[rng.random((n, m)) < 0.2] = np.nan
    if storage.startswith("bed"):
        return twin.bed_columns(G, folder)
    if storage.startswith("float"):
        return read_markers((G + rng.standard_normal((n, m))).astype(storage))
    if storage == "csc":
        return read_markers(sparse.csr_array(G * (G == 2)))
    return read_markers(G)


@pytest.fixture(params=twin.simd_levels())
def simd(request):
    before = Columns.simd()
    yield Columns.simd(request.param)
    Columns.simd(before)


def test_twins_take_the_arguments_of_the_kernels():
    """A twin whose arguments drifted from the kernel's."""
    found = 0
    for module in (kernel, mash, spike_slab):
        source = Path(slamglmm._kernels.__file__).with_name(module.__name__.split(".")[-1] + ".pyx")
        for name, arguments in re.findall(r"^def (\w+)\((.*?)\):", source.read_text(), re.M | re.S):
            plain = re.sub(r"\[.*?\]", "", arguments)
            names = [piece.split("=")[0].split()[-1] for piece in plain.split(",") if piece.strip()]
            assert list(inspect.signature(getattr(twin, name)).parameters) == names
            found += 1
    assert found == 6


@pytest.mark.parametrize("storage", STORAGES)
@pytest.mark.parametrize("n", ROWS)
def test_column_arithmetic(storage, n, simd, tmp_path):
    """A vector loop that misses its tail, a two-bit code in the wrong lane, a missing genotype not at its mean."""
    m = 5
    markers = make(storage, n, m, tmp_path)
    columns = markers.columns()
    rng = np.random.default_rng(n)
    weights = rng.random(n) + 0.5
    weights[:: max(1, n // 3)] = 0.0
    r, coef = rng.standard_normal((2, n)), rng.standard_normal((2, m))
    G = np.concatenate([block for _, block in markers.blocks(2)], axis=1)
    np.testing.assert_allclose(twin.dense(columns), G, rtol=1e-7, atol=1e-7)
    for start, stop in ((0, m), (2, 4), (3, 3)):
        got, expected = np.empty((stop - start, 2)), np.empty((stop - start, 2))
        kernel.column_products(columns, r, start, stop, got)
        twin.column_products(columns, r, start, stop, expected)
        np.testing.assert_allclose(got, expected, **CLOSE)
        got, expected = np.empty(stop - start), np.empty(stop - start)
        kernel.column_squares(columns, weights, start, stop, np.empty(n), got)
        twin.column_squares(columns, weights, start, stop, None, expected)
        np.testing.assert_allclose(got, expected, **CLOSE)
    for w in (np.empty(0), weights):
        got, expected = r.copy(), r.copy()
        kernel.add_columns(columns, coef, w, got)
        twin.add_columns(columns, coef, w, expected)
        np.testing.assert_allclose(got, expected, **CLOSE)
    got, expected = r[0].copy(), r[0].copy()
    kernel.add_squares(columns, coef[0], np.empty(n), got)
    twin.add_squares(columns, coef[0], None, expected)
    np.testing.assert_allclose(got, expected, **CLOSE)


@pytest.mark.parametrize("storage", STORAGES)
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("standardize", [False, True])
@pytest.mark.parametrize(("n", "m", "T"), [(12, 1, 1), (37, 9, 3)])
def test_sweep_spike_slab(storage, weighted, standardize, n, m, T, simd, tmp_path):
    """A residual that forgets weights, covariates or the scale, or a problem that writes into its neighbour."""
    rng = np.random.default_rng([n, m, T])
    columns = make(storage, n, m, tmp_path).columns()
    Z = np.column_stack((np.ones(n), rng.standard_normal(n)))
    weights = rng.integers(0, 3, n) / 2.0 if weighted else None
    markers = project_markers(columns, Z, weights, standardize)
    results = []
    for module in (spike_slab, twin):
        rng = np.random.default_rng(1)
        alpha, mu = rng.random((T, m)), rng.standard_normal((T, m))
        logit, change = np.zeros((T, m)), np.zeros(T)
        residual, carried = markers.project(rng.standard_normal((T, n))), np.zeros((T, 2))
        markers.subtract(alpha * mu, residual, carried)
        module.sweep_spike_slab(
            columns, markers.order, np.arange(0, T, 2), markers.projections, markers.scale, markers.gram,
            markers.weights, rng.standard_normal((T, m)), 1 + rng.random(T), 1 + rng.random(T),
            logit, alpha, mu, residual, carried, change,
        )  # fmt: skip
        results.append((logit, alpha, mu, residual, carried, change))
    for got, expected in zip(*results, strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("standardize", [False, True])
@pytest.mark.parametrize(("n", "m", "p", "sizes"), [(15, 1, 1, [1]), (40, 6, 3, [0, 1, 3, 2]), (25, 4, 5, [5, 0, 1])])
def test_sweep_mash(n, m, p, sizes, standardize, weighted):
    """The rotated, inverse-free update against explicit matrices for every component."""
    rng = np.random.default_rng([n, m, p])
    columns = read_markers(rng.standard_normal((n, m))).columns()
    weights = np.arange(n) % 4 > 0 if weighted else None
    markers = project_markers(columns, np.ones((n, 1)), weights, standardize)
    sizes = np.array(sizes)
    L = 3
    vectors = np.concatenate([np.linalg.qr(rng.standard_normal((p, p)))[0][:, :size] for size in sizes], axis=1)
    values = rng.random(vectors.shape[1]) + 0.1
    first_value = np.concatenate(([0], np.cumsum(sizes)))
    first_component = L * np.arange(len(sizes) + 1)
    grid = np.tile([0.01, 0.3, 5.0], len(sizes))
    shrinks = np.repeat(sizes, L)
    first_shrink = np.concatenate(([0], np.cumsum(shrinks)[:-1]))
    first_moment = np.concatenate(([0], np.cumsum(sizes**2)[:-1]))
    log_weights = np.log(rng.dirichlet(np.ones(len(grid))))
    results = []
    for module in (mash, twin):
        rng = np.random.default_rng(2)
        coef, cross = 0.1 * rng.standard_normal((m, p)), np.zeros((m, p))
        residual, carried = markers.project(rng.standard_normal((p, n))), np.zeros((p, 1))
        weight_sum, moments = np.zeros(len(grid)), np.zeros(int((sizes**2).sum()))
        evidence = module.sweep_mash(
            columns, markers.order, markers.projections, markers.scale, markers.gram, markers.weights,
            np.ascontiguousarray(vectors), np.ascontiguousarray(vectors.T), values, first_value, first_component,
            grid, log_weights, first_shrink, first_moment, np.empty(max(1, shrinks.sum())), np.empty(len(grid)),
            np.empty((3, len(values) + p)), np.empty(len(grid)), coef, cross, residual, carried, weight_sum, moments,
        )  # fmt: skip
        results.append((evidence, coef, cross, residual, carried, weight_sum, moments))
    for got, expected in zip(*results, strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-9, atol=1e-10)
