"""The compiled passes over tiles of a kinship equal their NumPy twins."""

import numpy as np
import pytest

from slamglmm._kernels import kinship
from tests.reference import kinship as twin

SHAPES = [(0, 0, 0), (1, 1, 0), (1, 1, 1), (3, 5, 2), (4, 16, 1), (5, 17, 3), (9, 511, 2), (6, 513, 4), (13, 1100, 7)]


pytestmark = pytest.mark.timeout(120, method="thread")


@pytest.mark.parametrize(("rows", "n", "c"), SHAPES)
@pytest.mark.parametrize(("kind", "rtol"), [("single", 2e-5), ("double", 1e-12)])
def test_multiply_tile(kind, rtol, rows, n, c):
    dtype = np.float32 if kind == "single" else np.float64
    rng = np.random.default_rng([rows, n, c])
    tile, columns = rng.standard_normal((rows, n)).astype(dtype), rng.standard_normal((c, n)).astype(dtype)
    z = rng.standard_normal(rows).astype(dtype)
    results = []
    for module in (kinship, twin):
        out, squares, back = np.ones((rows, c)), np.ones(rows), np.ones(n)
        getattr(module, f"multiply_tile_{kind}")(tile, columns, z, out, squares, back)
        results.append((out, squares, back))
    for ours, theirs in zip(*results, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=rtol, atol=rtol * np.sqrt(max(n, 1)))


@pytest.mark.parametrize(("rows", "n", "c"), SHAPES)
@pytest.mark.parametrize(("kind", "rtol"), [("single", 2e-5), ("double", 1e-12)])
def test_inner_product(kind, rtol, rows, n, c):
    dtype = np.float32 if kind == "single" else np.float64
    rng = np.random.default_rng([rows, n, c])
    first, second = rng.standard_normal((2, rows, n)).astype(dtype)
    ours, theirs = (getattr(module, f"inner_product_{kind}")(first, second) for module in (kinship, twin))
    assert ours == pytest.approx(theirs, abs=rtol * max(1.0, np.sqrt(rows * n)))


@pytest.mark.parametrize(("rows", "n", "c"), [*SHAPES, (7, 1040, 3)])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_sums_are_those_of_the_lanes_to_the_bit(dtype, rows, n, c):
    """One answer on every machine: no fused multiplication, 16 lanes, float32 sums that go to double each 512."""
    kind = "single" if dtype is np.float32 else "double"
    rng = np.random.default_rng([rows, n, c, 1])
    tile, other = rng.standard_normal((2, rows, n)).astype(dtype)
    columns, z = rng.standard_normal((c, n)).astype(dtype), rng.standard_normal(rows).astype(dtype)
    results = []
    for multiply in (getattr(kinship, f"multiply_tile_{kind}"), twin.multiply_by_lanes):
        out, squares, back = np.zeros((rows, c)), np.zeros(rows), np.zeros(n)
        multiply(tile, columns, z, out, squares, back)
        results.append((out, squares, back))
    for ours, theirs in zip(*results, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert getattr(kinship, f"inner_product_{kind}")(tile, other) == twin.inner_by_lanes(tile, other)


def test_inputs_may_be_read_only():
    tile = np.ones((4, 20))
    tile.flags.writeable = False
    assert kinship.inner_product_double(tile, tile) == 80
