"""Which variances data can tell apart: against the rank of the projected matrices, formed."""

import numpy as np
import pytest
import scipy.linalg
import scipy.sparse as sp

from slamglmm.linalg.identifiability import confounding, confounding_by_pattern
from slamglmm.linalg.independent import orthonormal_basis


def by_rank(kernels, x):
    """Flags from dense matrices: zero, a multiple of M, in a null combination of the others and M."""
    n = len(x)
    left = scipy.linalg.null_space(x.T) if x.shape[1] else np.eye(n)
    inner = [left.T @ K @ left for K in kernels]
    m = left.shape[1]
    absorbed = np.array([np.abs(A).max(initial=0) < 1e-8 for A in inner])
    residual = np.array([np.abs(A - np.eye(m) * np.trace(A) / max(m, 1)).max(initial=0) < 1e-8 for A in inner])
    residual &= ~absorbed
    others = np.flatnonzero(~absorbed & ~residual)
    tied = np.zeros(len(kernels), dtype=bool)
    if len(others) > 1:
        stacked = np.array([inner[i].ravel() / np.linalg.norm(inner[i]) for i in others] + [np.eye(m).ravel()])
        null = scipy.linalg.null_space(stacked.T, rcond=1e-9)
        tied[others] = np.abs(null[:-1]).max(axis=1, initial=0) > 1e-6
    return absorbed, residual, tied


def group(codes, K=None):
    Z = np.eye(codes.max() + 1)[codes]
    return Z @ Z.T if K is None else Z @ K @ Z.T


def layouts():
    rng = np.random.default_rng(3)
    n = 60
    one, x = np.ones((n, 1)), rng.standard_normal((n, 1))
    g, h = np.arange(n) // 3, np.arange(n) % 5
    A = rng.standard_normal((n, 2 * n))
    A = A @ A.T / (2 * n)
    dummies = np.eye(20)[g]
    ones = np.ones((n, n))
    slope = np.diag(x[:, 0]) @ group(g) @ np.diag(x[:, 0])
    relabelled = np.random.default_rng(1).permutation(20)[g]
    yield "replicates", [group(g)], one, ""
    yield "relatives", [A], np.hstack((one, x)), ""
    yield "replicates and relatives", [group(g), A], one, ""
    yield "intercept and slope", [group(g), slope], np.hstack((one, x)), ""
    yield "one record a level", [np.eye(n)], one, "r"
    yield "one record a level beside relatives", [A, np.eye(n)], one, " r"
    yield "equally related", [0.3 * np.eye(n) + 0.7 * ones], one, "r"
    yield "equally related, no intercept", [0.3 * np.eye(n) + 0.7 * ones], x, ""
    yield "all ones", [ones], one, "a"
    yield "all ones, no intercept", [ones], x, ""
    yield "all ones beside replicates", [ones, group(h)], one, "a "
    yield "group among the fixed effects", [group(g)], dummies, "a"
    yield "group among the fixed effects, and another", [group(g), group(h)], dummies, "a "
    yield "the same twice", [group(g), group(relabelled), group(h)], one, "tt "
    yield "sum is another", [group(g), A, group(g) + 2 * A], one, "ttt"
    yield "sum is the residual's", [A, 3 * np.eye(n) - A], one, "tt"
    yield "a single pair of records", [group(np.maximum(np.arange(n) - 1, 0))], one, ""
    yield "saturated", [group(g)], np.eye(n), "a"
    yield "one row left", [A], np.eye(n)[:, 1:], "r"


LAYOUTS = {name: rest for name, *rest in layouts()}


def flags(found):
    return "".join("a" if a else "r" if r else "t" if t else " " for a, r, t in zip(*found, strict=True)).rstrip()


@pytest.mark.parametrize("name", LAYOUTS)
def test_flags_are_those_of_the_formed_matrices(name):
    """A component called free that repeats its prior, or one refused that data determine."""
    kernels, x, expected = LAYOUTS[name]
    assert flags(by_rank(kernels, x)) == expected.rstrip()
    # Neither the scale of a kernel nor that of a column says anything.
    for scale in (1.0, 1e-5, 1e5):
        products = [(scale * K).__matmul__ for K in kernels]
        sizes = [scale * np.diag(K).mean() for K in kernels]
        found = confounding(products, sizes, orthonormal_basis(x * 10.0 ** np.arange(-2, 2)[np.arange(x.shape[1]) % 4]))
        assert flags((found.absorbed, found.as_residual, found.tied)) == expected.rstrip(), scale


def test_each_set_of_rows_is_judged_by_itself():
    """Rows of another pattern in the product, or the basis of another."""
    rng = np.random.default_rng(0)
    codes, x = np.repeat(np.arange(25), 2), np.column_stack((np.ones(50), rng.standard_normal(50)))
    Z = sp.csr_array(np.eye(25)[codes])
    kept = np.ones((4, 50), dtype=bool)
    kept[1, 1::2] = False  # one record for each level
    kept[2, 1:49:2] = False  # two of the last level
    kept[3] = rng.random(50) < 0.6
    kernel = group(codes)
    expected = ["", "r", "", ""]
    assert [flags(by_rank([kernel[np.ix_(rows, rows)]], x[rows])) for rows in kept] == expected
    bases = [orthonormal_basis(x[rows]) for rows in kept]
    found = confounding_by_pattern([lambda V: Z @ (Z.T @ V)], np.ones((4, 1)), kept, bases)
    assert [flags((one.absorbed, one.as_residual, one.tied)) for one in found] == expected
