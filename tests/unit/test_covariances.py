"""Every grid point's V^-1, log|V| and residual share against dense matrices."""

import numpy as np
import pytest
import scipy.sparse as sp

from slamglmm.errors import DataError
from slamglmm.linalg.covariances import find_joint_basis
from slamglmm.linalg.families import RandomEffect, find_families, kernel_root
from slamglmm.linalg.rotation import all_commute, joint_eigenbasis, symmetric_eigen
from slamglmm.linalg.threads import BlockPool
from slamglmm.priors import share_grid


def random_kernels(rng, n, ranks):
    roots = [rng.standard_normal((n, r)) for r in ranks]
    return [root @ root.T / r for root, r in zip(roots, ranks, strict=True)]


def covariances_of(kernels, grid, n):
    """With one record for each level, so that ``Z K Z'`` is the kernel."""
    effects = [RandomEffect(np.arange(n), np.ones(n), kernel) for kernel in kernels]
    return find_joint_basis(effects, n).covariances(grid.shares, grid.ray, grid.directions)


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
    compare(covariances_of(kernels, grid, n), kernels, grid, rng)


@pytest.mark.parametrize("n_effects", [2, 3])
def test_commuting_kernels_share_one_basis(n_effects):
    """A balanced design: one rotation, t = 1 included where V stays invertible."""
    rng = np.random.default_rng(5)
    kernels = balanced_kernels(rng, 4, 3)[:n_effects]
    kernels[0] = kernels[0] + 0.1 * np.eye(12)
    grid = share_grid(n_effects, 4)
    cov = covariances_of(kernels, grid, 12)
    assert cov.kind == "diagonal"
    assert not cov.inner
    compare(cov, kernels, grid, rng)
    unbalanced = [kernel[1:, 1:] for kernel in kernels]
    cov = covariances_of(unbalanced, grid, 11)
    assert cov.kind == "rays"
    compare(cov, unbalanced, grid, rng)


def compare(cov, kernels, grid, rng):
    n = cov.n
    points = np.repeat(np.arange(len(grid.cell)), 2)
    data = rng.standard_normal((len(points), n))
    common = cov.enter(data)
    np.testing.assert_allclose(cov.leave(common), data, rtol=1e-8, atol=1e-10)
    rows = cov.turn(common, points)
    coordinates = rows.coordinates
    close = {"rtol": 1e-8, "atol": 1e-10}
    np.testing.assert_allclose(cov.from_coordinates(coordinates, points), common[:, : cov.rank], **close)
    forms, solved = cov.quadratic_forms(common), cov.leave(rows.solve())
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
        diagonal += np.sum(common[at_g, cov.rank :] ** 2, axis=1) / cov.residual_share[g]
        np.testing.assert_allclose(diagonal, forms[at_g, g], **close)

    # Gram matrices, as the loadings step reads them.
    design = cov.enter(rng.standard_normal((4, n)))
    every = np.arange(len(grid.cell))
    by_basis = {int(a): cov.in_basis(design, int(a)) for a in np.unique(cov.basis)}
    solved = [cov.turn(design, np.full(4, g)).solve() for g in every]
    np.testing.assert_allclose(
        cov.grams(design, by_basis, every, BlockPool(1)), design @ np.swapaxes(solved, 1, 2), **close
    )
    compare_on_rays(cov, rows, forms, rng)


def compare_on_rays(cov, rows, forms, rng):
    """Forms on some rays and each row's own; coordinates at points of these rays, from what the search left behind."""
    rays = np.sort(rng.permutation(len(cov.inner))[:2])
    found = rows.forms(rays)
    asked = np.isin(cov.basis, rays) | (cov.basis == cov.basis[rows.points][:, None]) if cov.inner else True
    assert np.array_equal(np.isfinite(found), np.broadcast_to(asked, found.shape))
    np.testing.assert_allclose(found[np.isfinite(found)], forms[np.isfinite(found)], rtol=1e-8, atol=1e-10)
    points = np.array([rng.choice(np.flatnonzero(row)) for row in np.isfinite(found)])
    moved, anew = rows.at(points), cov.turn(rows.common, points)
    np.testing.assert_allclose(moved.coordinates, anew.coordinates, rtol=1e-8, atol=1e-10)
    doubled = moved.scaled(np.full(len(points), 2.0))
    np.testing.assert_allclose(doubled.solve(), 2.0 * anew.solve(), rtol=1e-8, atol=1e-10)


def pedigree_like(rng, sizes, scrambled=True):
    """A sparse K in families of the given sizes, its levels in any order."""
    K = sp.block_diag([random_kernels(rng, size, [size + 2])[0] for size in sizes], format="csr")
    order = rng.permutation(K.shape[0]) if scrambled else np.arange(K.shape[0])
    return sp.csr_array(K)[order][:, order]


def records(rng, levels, n, slope=False):
    """Rows in any order, at least one for each level while there are enough."""
    codes = rng.permutation(np.concatenate((np.arange(levels)[:n], rng.integers(levels, size=max(n - levels, 0)))))
    return codes, rng.standard_normal(n) if slope else np.ones(n)


def layouts(rng):
    """Effects of each structure, their number of rows, and the rank and number of families they must come to."""
    (K,) = random_kernels(rng, 6, [9])
    codes, ones = records(rng, 6, 25)
    _, x = records(rng, 6, 25, slope=True)
    families = pedigree_like(rng, [3, 1, 4, 3, 2, 1])
    each = rng.permutation(14)
    sire = rng.integers(3, size=25)
    line, environment = np.repeat(np.arange(5), 4), np.tile(np.arange(4), 5)
    (lines,) = random_kernels(rng, 5, [8])
    kept = np.sort(rng.permutation(20)[:17])
    deficient = random_kernels(rng, 6, [4])[0]
    member = records(rng, 14, 40)
    return {
        "replicates": ([RandomEffect(codes, ones, K)], 6, [(1, 6)]),
        "replicates, singular K": ([RandomEffect(codes, ones, deficient)], 4, [(1, 6)]),
        "replicates of unrelated levels": ([RandomEffect(codes, ones, None)], 6, [(6, 1)]),
        "families": ([RandomEffect(each, np.ones(14), families)], 14, [(1, 4), (2, 3), (1, 2), (2, 1)]),
        "families, K dense": (
            [RandomEffect(each, np.ones(14), families.toarray())],
            14,
            [(1, 4), (2, 3), (1, 2), (2, 1)],
        ),
        "replicates in families": ([RandomEffect(*member, families)], 14, [(1, 4), (2, 3), (1, 2), (2, 1)]),
        "a slope": ([RandomEffect(codes, x, K)], 6, [(1, 6)]),
        "intercept and slope": ([RandomEffect(codes, ones, K), RandomEffect(codes, x, K)], None, None),
        "intercept and slope in families": (
            [
                RandomEffect(member[0], np.ones(40), families),
                RandomEffect(member[0], rng.standard_normal(40), families),
            ],
            None,
            None,
        ),
        "a slope that is zero somewhere": ([RandomEffect(codes, x * (codes > 2), K)], 3, None),
        "two matrices on the same lines": (
            [RandomEffect(codes, ones, K), RandomEffect(codes, ones, None)],
            6,
            [(1, 6)],
        ),
        "two that do not commute": (
            [RandomEffect(codes, ones, K), RandomEffect(codes, ones, random_kernels(rng, 6, [2])[0])],
            6,
            [(1, 6)],
        ),
        "singular sum": (
            [RandomEffect(codes, ones, random_kernels(rng, 6, [2])[0]), RandomEffect(codes, ones, deficient)],
            6,
            [(1, 6)],
        ),
        "crossed": ([RandomEffect(codes, ones, K), RandomEffect(sire, ones, None)], None, None),
        "families that do not commute": (
            [
                RandomEffect(*member, families),
                RandomEffect(*member, pedigree_like(rng, [14]).multiply(families != 0).tocsr()),
            ],
            None,
            None,
        ),
        "families of different rank": (
            [
                RandomEffect(np.arange(12) // 2, np.ones(12), None),
                RandomEffect(np.arange(12) // 4, rng.standard_normal(12), None),
            ],
            None,
            None,
        ),
        "balanced trial": (
            [
                RandomEffect(line, np.ones(20), lines),
                RandomEffect(np.arange(20), np.ones(20), sp.csr_array(np.kron(lines, np.eye(4)))),
            ],
            20,
            [(1, 20)],
        ),
        "unbalanced trial": (
            [RandomEffect(line, np.ones(20), lines).on(kept), RandomEffect(environment, np.ones(20), None).on(kept)],
            None,
            None,
        ),
    }


@pytest.mark.parametrize("case", layouts(np.random.default_rng(0)))
def test_structure_changes_nothing(case):
    """Replicates, families and null spaces split off, against dense matrices at every grid point."""
    rng = np.random.default_rng([11, len(case)])
    effects, rank, families = layouts(rng)[case]
    n = len(effects[0].codes)
    grid = share_grid(len(effects), 3)
    joint = find_joint_basis(effects, n)
    assert rank is None or joint.rank == rank
    assert families is None or list(joint.families) == families
    compare(joint.covariances(grid.shares, grid.ray, grid.directions), [dense(effect) for effect in effects], grid, rng)


def dense(effect):
    """``Z K Z'``."""
    r = effect.codes.max() + 1 if effect.K is None else effect.K.shape[0]
    Z = np.zeros((len(effect.codes), r))
    Z[np.arange(len(Z)), effect.codes] = effect.values
    K = np.eye(r) if effect.K is None else effect.K.toarray() if sp.issparse(effect.K) else effect.K
    return Z @ K @ Z.T


def test_structure_is_used():
    """Two intercept and slope effects of 20 levels in 5000 rows: two coordinates a level, and nothing of n × n."""
    rng = np.random.default_rng(1)
    codes, x = records(rng, 20, 5000, slope=True)
    K = pedigree_like(rng, [4] * 5)
    joint = find_joint_basis([RandomEffect(codes, np.ones(5000), K), RandomEffect(codes, x, K)], 5000)
    assert joint.rank == joint.n_cells == 40
    assert joint.families == ((5, 8),)
    grid = share_grid(2, 4)
    cov = joint.covariances(grid.shares, grid.ray, grid.directions)
    assert (cov.kind, cov.weights.shape) == ("rays", (len(grid.cell), 40))
    assert cov.nbytes < 4 * 5000 * 2 * 24
    # Only a null space that replicates leave is free: a slope in a cell of one row adds no coordinate.
    one = find_joint_basis([RandomEffect(codes[:20], np.ones(20), K), RandomEffect(codes[:20], x[:20], K)], 20)
    assert one.rank <= 20


def test_families_are_connected_components():
    """Levels tied through K or through a second effect; a level without records ties nobody."""
    K = np.eye(5)
    K[0, 1] = K[1, 0] = K[1, 2] = K[2, 1] = 0.5
    rows = np.array([0, 2, 3, 4, 3])
    apart = find_families([RandomEffect(rows, np.ones(5), K)])
    assert [sorted(family) for stack in apart for family in stack.tolist()] == [[2, 4], [0], [1], [3]]
    second = RandomEffect(np.array([0, 1, 2, 2, 3]), np.ones(5), sp.csr_array(np.eye(4)))
    both = find_families([RandomEffect(rows, np.ones(5), K), second])
    assert [sorted(family) for stack in both for family in stack.tolist()] == [[2, 3, 4], [0], [1]]


def test_a_family_beyond_memory_is_refused():
    """Before its kernels are filled: a chain of relatives."""
    n = 300_000
    K = sp.diags_array([np.full(n - 1, 0.1), np.ones(n), np.full(n - 1, 0.1)], offsets=[-1, 0, 1], format="csr")
    with pytest.raises(DataError, match=r"tie 300000 of 300000 rows to each other, and their eigenbasis needs \d+"):
        find_joint_basis([RandomEffect(np.arange(n), np.ones(n), K)], n)


def test_kernel_root():
    rng = np.random.default_rng(9)
    for K in (pedigree_like(rng, [3, 1, 3, 2]), random_kernels(rng, 7, [4])[0], sp.csr_array(np.diag([1.0, 0.0, 2.0]))):
        root = kernel_root(K)
        assert sp.issparse(root) == sp.issparse(K)
        np.testing.assert_allclose((root @ root.T - K).sum(axis=0), 0.0, atol=1e-12)
        np.testing.assert_allclose(np.asarray(abs(root @ root.T - K).max()), 0.0, atol=1e-12)


def test_h2_of_zero_has_unit_weights_exactly():
    """h = 0 must not leave rounding behind: U of such a trait is exactly zero."""
    rng = np.random.default_rng(2)
    for ranks in ([5], [3, 4]):
        grid = share_grid(len(ranks), 3)
        cov = covariances_of(random_kernels(rng, 9, ranks), grid, 9)
        assert np.array_equal(cov.weights[0], np.ones(cov.rank))
        assert cov.logdet[0] == 0.0


def test_joint_rank_is_split_off():
    """Outside the joint column space every V is a multiple of the identity: inner bases have the rank's size only."""
    rng = np.random.default_rng(3)
    grid = share_grid(2, 4)
    cov = covariances_of(random_kernels(rng, 30, [4, 3]), grid, 30)
    assert (cov.kind, cov.rank) == ("rays", 7)
    assert {matrix.shape for turn in cov.inner for matrix in turn.matrices} == {(1, 7, 7)}


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
