"""Every grid point's V^-1, log|V| and residual share against dense matrices."""

import numpy as np
import pytest

from slamglmm.linalg.covariances import build_covariances
from slamglmm.linalg.rotation import all_commute, joint_eigenbasis, range_basis, symmetric_eigen
from slamglmm.priors import share_grid


def random_kernels(rng, n, ranks):
    roots = [rng.standard_normal((n, r)) for r in ranks]
    return [root @ root.T / r for root, r in zip(roots, ranks, strict=True)]


def balanced_kernels(rng, lines, environments):
    """Lines (related) and line by environment: these commute."""
    (K,) = random_kernels(rng, lines, [lines])
    ones = np.ones((environments, environments))
    return [np.kron(K, ones), np.kron(K, np.eye(environments)), np.kron(np.eye(lines), ones)]


CASES = {
    "R = 0": (6, []),
    "R = 1, r < n": (12, [5]),
    "R = 1, r > n": (7, [20]),
    "R = 2, r < n": (15, [4, 5]),
    "R = 2, r > n": (8, [6, 11]),
    "R = 3, r < n": (14, [3, 4, 2]),
    "R = 3, r > n": (6, [5, 9, 3]),
    "R = 2, one kernel in the range of the other": (10, [10, 2]),
    "n = 1": (1, [1, 2]),
    "n = 0": (0, [3]),
}


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("case", CASES)
def test_inverse_and_log_determinant(case, seed):
    """A basis, an eigenvalue or a weight of the wrong ray."""
    n, ranks = CASES[case]
    rng = np.random.default_rng([seed, n])
    kernels = random_kernels(rng, n, ranks)
    grid = share_grid(len(kernels), 4)
    compare(build_covariances(kernels, grid.shares, grid.ray, grid.directions, n), kernels, grid, rng)


@pytest.mark.parametrize("n_effects", [2, 3])
def test_commuting_kernels_share_one_basis(n_effects):
    """A balanced design: one rotation, t = 1 included where V stays invertible."""
    rng = np.random.default_rng(5)
    kernels = balanced_kernels(rng, 4, 3)[:n_effects]
    kernels[0] = kernels[0] + 0.1 * np.eye(12)
    grid = share_grid(n_effects, 4)
    cov = build_covariances(kernels, grid.shares, grid.ray, grid.directions, 12)
    assert cov.kind == "diagonal"
    assert not cov.inner
    compare(cov, kernels, grid, rng)
    unbalanced = [kernel[1:, 1:] for kernel in kernels]
    cov = build_covariances(unbalanced, grid.shares, grid.ray, grid.directions, 11)
    assert cov.kind == "rays"
    compare(cov, unbalanced, grid, rng)


def compare(cov, kernels, grid, rng):
    n = cov.n
    points = np.repeat(np.arange(len(grid.cell)), 2)
    data = rng.standard_normal((len(points), n))
    common = cov.enter(data)
    np.testing.assert_allclose(cov.leave(common), data, rtol=1e-8, atol=1e-10)
    coordinates = cov.coordinates(common, points)
    close = {"rtol": 1e-8, "atol": 1e-10}
    np.testing.assert_allclose(cov.from_coordinates(coordinates, points), common, **close)
    forms, solved = cov.quadratic_forms(common), cov.leave(cov.solve(common, points))
    for g, shares in enumerate(grid.shares):
        V = (1.0 - shares.sum()) * np.eye(n) + sum(
            (share * kernel for share, kernel in zip(shares, kernels, strict=True)), np.zeros((n, n))
        )
        inverse = np.linalg.inv(V)
        assert cov.logdet[g] == pytest.approx(np.linalg.slogdet(V)[1], abs=1e-9)
        assert cov.residual_share[g] == pytest.approx(1.0 - shares.sum(), abs=1e-15)
        np.testing.assert_allclose(forms[:, g], np.einsum("ca,ab,cb->c", data, inverse, data), **close)
        np.testing.assert_allclose(solved[points == g], data[points == g] @ inverse, **close)
        # In its own basis V^-1 is diagonal.
        at_g = np.flatnonzero(points == g)
        diagonal = np.sum(coordinates[at_g] ** 2 * cov.weights[g], axis=1)
        np.testing.assert_allclose(diagonal, forms[at_g, g], **close)


def test_h2_of_zero_has_unit_weights_exactly():
    """h = 0 must not leave rounding behind: U of such a trait is exactly zero."""
    rng = np.random.default_rng(2)
    for ranks in ([5], [3, 4]):
        grid = share_grid(len(ranks), 3)
        cov = build_covariances(random_kernels(rng, 9, ranks), grid.shares, grid.ray, grid.directions, 9)
        assert np.array_equal(cov.weights[0], np.ones(9))
        assert cov.logdet[0] == 0.0


def test_joint_rank_is_split_off():
    """Outside the joint column space every V is a multiple of the identity: inner bases have the rank's size only."""
    rng = np.random.default_rng(3)
    grid = share_grid(2, 4)
    cov = build_covariances(random_kernels(rng, 30, [4, 3]), grid.shares, grid.ray, grid.directions, 30)
    assert (cov.kind, cov.rank) == ("rays", 7)
    assert {turn.shape for turn in cov.inner} == {(7, 7)}


def test_symmetric_eigen_has_fixed_signs():
    """Eigenvectors must not flip between calls with equal input, and no eigenvalue may be negative."""
    rng = np.random.default_rng(4)
    (K,) = random_kernels(rng, 12, [5])
    values, vectors = symmetric_eigen(K)
    assert np.all(np.diff(values) <= 0)
    assert values.min() >= 0
    np.testing.assert_allclose(vectors * values @ vectors.T, K, atol=1e-12)
    assert np.all(vectors[np.argmax(np.abs(vectors), axis=0), np.arange(12)] > 0)
    for again in (symmetric_eigen(K.copy()), symmetric_eigen(np.asfortranarray(K))):
        assert np.array_equal(again[1], vectors)


def test_commutation():
    """Kernels that nearly commute must not pass for commuting."""
    rng = np.random.default_rng(6)
    lines, both, plain = balanced_kernels(rng, 4, 3)
    assert all_commute([lines, both])
    assert all_commute([both, lines, plain])
    nudge = 1e-6 * random_kernels(rng, 12, [12])[0]
    assert not all_commute([lines, both + nudge])
    assert joint_eigenbasis([lines, both + nudge]) is None
    values, vectors = joint_eigenbasis([lines, both])
    for value, kernel in zip(values, (lines, both), strict=True):
        np.testing.assert_allclose(vectors * value @ vectors.T, kernel, atol=1e-10)


def test_joint_basis_of_repeated_kernels():
    """Equal kernels, the identity, and spectra full of ties."""
    rng = np.random.default_rng(7)
    (K,) = random_kernels(rng, 9, [4])
    block = np.kron(np.eye(3), np.ones((3, 3)))
    for kernels in ([K, K], [K, np.eye(9)], [block, np.eye(9), 2 * block], [block, np.zeros((9, 9))]):
        values, vectors = joint_eigenbasis(kernels)
        np.testing.assert_allclose(vectors.T @ vectors, np.eye(9), atol=1e-12)
        for value, kernel in zip(values, kernels, strict=True):
            np.testing.assert_allclose(vectors * value @ vectors.T, kernel, atol=1e-10)


def test_range_basis():
    rng = np.random.default_rng(8)
    kernels = random_kernels(rng, 11, [3, 2])
    vectors, rank = range_basis(sum(kernels))
    assert rank == 5
    for kernel in kernels:
        assert np.abs(vectors[:, rank:].T @ kernel).max() < 1e-9
