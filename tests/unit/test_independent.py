"""Collinear columns: which are kept, whatever their units and means; and what the others are made of."""

import numpy as np
import pytest

from slamglmm.linalg.independent import column_basis, combinations, independent_columns

N = 60
RNG = np.random.default_rng(3)
X = RNG.normal(size=N)
Z = RNG.normal(size=N)
GROUP = np.eye(3)[RNG.integers(0, 3, N)]
ONE = np.ones(N)


def kept(*columns, constant=None):
    return independent_columns(np.column_stack(columns), constant).tolist()


def test_combinations_of_earlier_columns_go():
    assert kept(ONE, X, 2 * X + 3, Z) == [True, True, False, True]
    assert kept(ONE, GROUP) == [True, True, True, False]
    assert kept(GROUP, ONE) == [True, True, True, False]
    assert kept(np.zeros(N), ONE, 5 * ONE, X) == [False, True, False, True]


@pytest.mark.parametrize("shift", [1e3, 1e6, 1e8, 1e10, 1e12])
def test_a_large_mean_is_no_collinearity(shift):
    far = X + shift
    assert kept(ONE, far) == [True, True]
    assert kept(far, ONE) == [True, True]
    assert kept(ONE, far, far**2) == [True, True, shift < 1e7]  # beyond, the curve is below R's tolerance
    assert kept(far, GROUP) == [True] * 4
    assert kept(GROUP, far, Z + 2 * shift) == [True] * 5
    assert kept(far, GROUP, ONE) == [True] * 4 + [False]


@pytest.mark.parametrize("shift", [0.0, 1.0, 1e6, 1e8, 1e10])
@pytest.mark.parametrize("other", [1.0, -2.5, 1e-4, 1e4])
def test_a_repeated_column_goes_whatever_its_mean(shift, other):
    far = X + shift
    assert kept(ONE, far, other * far) == [True, True, False]
    assert kept(ONE, far, other * far + 7) == [True, True, False]
    assert kept(ONE, far, X) == [True, True, False]
    assert kept(ONE, X, far) == [True, True, False]
    assert kept(GROUP, far, far * other) == [True, True, True, True, False]


@pytest.mark.parametrize("unit", [1e-300, 1e-8, 1e8, 1e300])
def test_units_do_not_matter(unit):
    assert kept(ONE, X * unit, Z) == [True] * 3
    assert kept(ONE, X * unit, X) == [True, True, False]
    assert kept(X * unit, X) == [True, False]


def test_without_a_constant_in_the_span_a_mean_counts():
    """Alone, x + 1e8 is a constant to eight digits, and so is another of these: as `lm` has it."""
    assert kept(X + 1e9, Z + 1e9) == [True, False]
    assert kept(X, Z) == [True, True]


def test_the_tolerance_is_that_of_r():
    assert kept(ONE, X, X + 1e-6 * Z) == [True, True, True]
    assert kept(ONE, X, X + 1e-8 * Z) == [True, True, False]


def test_more_columns_than_rows():
    few = RNG.normal(size=(4, 7))
    assert independent_columns(few).sum() == 4
    assert independent_columns(np.column_stack([np.ones(4), few])).tolist() == [True] * 4 + [False] * 4
    assert independent_columns(np.zeros((5, 0))).shape == (0,)


def test_weights_and_order_of_rows_do_not_matter():
    root = np.exp(RNG.normal(size=N))
    for shift in (0.0, 1e8):
        columns = np.column_stack([GROUP, X + shift, ONE, Z, 3 * (X + shift)])
        expected = [True, True, True, True, False, True, False]
        assert independent_columns(columns).tolist() == expected
        assert independent_columns(columns[::-1]).tolist() == expected
        assert independent_columns(columns * root[:, None], root).tolist() == expected


@pytest.mark.parametrize("shift", [0.0, 1e8])
@pytest.mark.parametrize("order", [(0, 1, 2, 3, 4), (3, 0, 1, 2, 4), (3, 4, 2, 1, 0)])
def test_the_basis_spans_the_columns(shift, order):
    columns = np.column_stack([GROUP, X + shift, Z])[:, order]
    Q, triangle = column_basis(columns, np.ones(5, dtype=bool))
    np.testing.assert_allclose(Q.T @ Q, np.eye(5), atol=1e-14)
    np.testing.assert_allclose(Q @ triangle, columns, rtol=1e-13, atol=1e-13)
    np.testing.assert_array_equal(triangle, np.triu(triangle))
    # The same space as of the plain numbers.
    plain = np.linalg.qr(np.column_stack([GROUP, (X + shift) - shift, Z]))[0]
    np.testing.assert_allclose(Q @ (Q.T @ plain), plain, atol=1e-6 if order[0] == 3 and shift else 1e-13)


def test_combinations():
    columns = np.column_stack([ONE, X, 2 * X + 3, 1e300 * Z, Z])
    found = combinations(columns, independent_columns(columns))
    np.testing.assert_allclose(found, [[3.0, 0.0], [2.0, 0.0], [0.0, 1e-300]], atol=1e-12)
