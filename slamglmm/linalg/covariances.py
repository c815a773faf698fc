"""The covariances ``V_g`` of one set of rows at every grid point, each diagonal in the basis of its ray."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np

from ..errors import DataError
from .families import RandomEffect, find_families
from .replicates import compress_replicates
from .rotation import Blocks, Permutation, Rotation, Step, joint_eigenbasis, symmetric_eigen
from .threads import BlockPool, memory_size

# Relative size below which an eigenvalue counts as zero.
RANK_TOLERANCE = 1e-10


@dataclass(frozen=True)
class Covariances:
    """``V_g = sum_m h_gm Z_m K_m Z_m' + (1 - s_g) I = Q_a diag(v_g) Q_a'``, ``a`` the ray of ``g``; eq. SLAM-3.

    All bases begin with the same rotation, `outer`: rows that it has turned are in *common* coordinates, and every
    method but `enter` and `leave` works there. The first `rank` of them are *inside*: with one basis they are its own
    coordinates, with several each basis turns them further. Outside, every V_g is the residual share times the
    identity; eq. SLAM-31.

    Attributes
    ----------
    n : int
        Number of rows.
    outer : Rotation
    inner : tuple of Blocks
        What each basis does inside after `outer`; empty when there is one basis.
    basis : ndarray of int, shape (n_points,)
        Basis in which a grid point is diagonal.
    weights : ndarray, shape (n_points, rank)
        ``1 / v_g`` in that basis, inside.
    logdet : ndarray, shape (n_points,)
    residual_share : ndarray, shape (n_points,)
        ``1 - s_g``.
    kind : str
        How the bases were found: "diagonal", "rays" or "independent".
    """

    n: int
    outer: Rotation
    inner: tuple[Blocks, ...]
    basis: np.ndarray
    weights: np.ndarray
    logdet: np.ndarray
    residual_share: np.ndarray
    kind: str

    @property
    def rank(self) -> int:
        """Number of coordinates inside."""
        return self.weights.shape[1]

    @property
    def nbytes(self) -> int:
        """Memory of the bases and weights."""
        return self.weights.nbytes + self.outer.nbytes + sum(blocks.nbytes for blocks in self.inner)

    def without_outer(self) -> Covariances:
        """The same covariances for data that are in common coordinates from the start."""
        return replace(self, outer=Rotation())

    def enter(self, data: np.ndarray) -> np.ndarray:
        """Rows of ``data`` (c, n) in common coordinates."""
        return self.outer.forward(data)

    def leave(self, common: np.ndarray) -> np.ndarray:
        """Inverse of `enter`."""
        return self.outer.back(common)

    def in_basis(self, common: np.ndarray, basis: int) -> np.ndarray:
        """All rows in one basis, inside."""
        inside = common[:, : self.rank]
        return self.inner[basis].forward(inside) if self.inner else inside

    def all_weights(self, point: int) -> np.ndarray:
        """``1 / v_g`` inside and outside, shape (n,)."""
        outside = np.full(self.n - self.rank, 1.0 / self.residual_share[point]) if self.rank < self.n else ()
        return np.concatenate((self.weights[point], outside))

    def turn(self, common: np.ndarray, points: np.ndarray) -> TurnedRows:
        """Each row in the basis of its grid point."""
        return TurnedRows(self, common, points, self._turn_inside(common[:, : self.rank], points, inverse=False))

    def from_coordinates(self, coordinates: np.ndarray, points: np.ndarray) -> np.ndarray:
        """From the basis of each row's grid point to common coordinates, inside; shape (c, rank)."""
        return self._turn_inside(coordinates, points, inverse=True)

    @cached_property
    def points_of(self) -> tuple[np.ndarray, ...]:
        """Grid points of each basis."""
        return tuple(np.flatnonzero(self.basis == a) for a in range(max(1, len(self.inner))))

    def quadratic_forms(self, common: np.ndarray) -> np.ndarray:
        """``e' V_g^-1 e`` of each row at every grid point, shape (c, n_points); one matrix product per basis."""
        out = np.empty((len(common), len(self.basis)))
        for a, points in enumerate(self.points_of):
            out[:, points] = self.forms_inside(self.in_basis(common, a), points)
        return self.add_outside(common, out)

    def forms_inside(self, coordinates: np.ndarray, points: np.ndarray) -> np.ndarray:
        """Quadratic forms of coordinates in one basis at grid points of this basis."""
        return (coordinates * coordinates) @ self.weights[points].T

    def add_outside(self, common: np.ndarray, forms: np.ndarray) -> np.ndarray:
        """Add to quadratic forms at all grid points, in place, what lies outside."""
        if self.rank < self.n:
            forms += np.divide.outer(self.sum_outside(common, common), self.residual_share)
        return forms

    def grams(
        self, common: np.ndarray, by_basis: dict[int, np.ndarray], points: np.ndarray, pool: BlockPool
    ) -> np.ndarray:
        """``D V_g^-1 D'`` at some grid points, shape (len(points), c, c), from D = ``common`` and its `in_basis`."""
        out = np.empty((len(points), len(common), len(common)))

        def form(i: int) -> None:
            g = points[i]
            scaled = by_basis[int(self.basis[g])] * np.sqrt(self.weights[g])
            np.matmul(scaled, scaled.T, out=out[i])

        pool.run(form, range(len(points)))
        if self.rank < self.n:
            outside = common[:, self.rank :]
            out += (outside @ outside.T) / self.residual_share[points][:, None, None]
        return out

    def sum_outside(self, first: np.ndarray, second: np.ndarray) -> np.ndarray:
        """Products of rows of two arrays, summed outside, shape (c,)."""
        return np.einsum("ij,ij->i", first[:, self.rank :], second[:, self.rank :])

    def _turn_inside(self, rows: np.ndarray, points: np.ndarray, inverse: bool) -> np.ndarray:
        if not self.inner:
            return rows
        out = np.empty(rows.shape)
        bases = self.basis[points]
        for a in np.unique(bases):
            members = np.flatnonzero(bases == a)
            turn = self.inner[a].back if inverse else self.inner[a].forward
            out[members] = turn(rows[members])
        return out


@dataclass
class TurnedRows:
    """Rows, each with its coordinates in the basis of a grid point of its own.

    Attributes
    ----------
    cov : Covariances
    common : ndarray, shape (c, n)
        In common coordinates.
    points : ndarray of int, shape (c,)
        Grid points.
    coordinates : ndarray, shape (c, rank)
        In the bases of these points, inside.
    """

    cov: Covariances
    common: np.ndarray
    points: np.ndarray
    coordinates: np.ndarray
    _tried: dict[int, np.ndarray] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        # Not the state's own array, which is about to change.
        self.points = self.points.copy()

    def forms(self, rays: np.ndarray) -> np.ndarray:
        """``e' V_g^-1 e`` at the grid points of some rays and of each row's own, infinite at others, (c, n_points).

        With one basis at every grid point, whatever the rays.
        """
        cov = self.cov
        if not cov.inner:
            return cov.quadratic_forms(self.common)
        out = np.full((len(self.common), len(cov.basis)), np.inf)
        for a in rays:
            self._tried[a] = cov.in_basis(self.common, a)
            out[:, cov.points_of[a]] = cov.forms_inside(self._tried[a], cov.points_of[a])
        own = cov.basis[self.points]
        for a in np.setdiff1d(own, rays):
            members = np.flatnonzero(own == a)
            out[np.ix_(members, cov.points_of[a])] = cov.forms_inside(self.coordinates[members], cov.points_of[a])
        return cov.add_outside(self.common, out)

    def at(self, points: np.ndarray) -> TurnedRows:
        """The same rows at other grid points, on the ray they are on or on one whose forms were asked for."""
        if not self.cov.inner:
            return replace(self, points=points)
        coordinates, bases = self.coordinates.copy(), self.cov.basis[points]
        for a, turned in self._tried.items():
            members = np.flatnonzero(bases == a)
            coordinates[members] = turned[members]
        return TurnedRows(self.cov, self.common, points, coordinates)

    def scaled(self, c: np.ndarray) -> TurnedRows:
        """Each row times a number."""
        return TurnedRows(self.cov, self.common * c[:, None], self.points, self.coordinates * c[:, None])

    def solve(self) -> np.ndarray:
        """``V_g^-1 e`` of each row at its own grid point, in common coordinates, shape (c, n)."""
        cov, points = self.cov, self.points
        inside = cov.from_coordinates(self.coordinates * cov.weights[points], points)
        if cov.rank == cov.n:
            return inside
        out = self.common / cov.residual_share[points][:, None]
        out[:, : cov.rank] = inside
        return out


@dataclass(frozen=True)
class JointBasis:
    """Where the random effects of one set of rows live, whatever their shares.

    Attributes
    ----------
    n : int
        Number of rows.
    outer : Rotation
        Leading coordinates hold all random effects.
    values : ndarray, shape (n_effects, rank), or None
        Diagonals of all kernels in the basis of `outer`; None when they do not commute.
    inside : tuple of ndarray, each (n_effects, f, s, s)
        If so, the kernels on the leading coordinates: f consecutive blocks of s.
    n_cells : int
        Coordinates left by the compression of replicates.
    families : tuple of (int, int)
        Number and size of the families among them.
    """

    n: int
    outer: Rotation
    values: np.ndarray | None
    inside: tuple[np.ndarray, ...]
    n_cells: int
    families: tuple[tuple[int, int], ...]

    @property
    def rank(self) -> int:
        """Number of leading coordinates."""
        if self.values is not None:
            return self.values.shape[1]
        return sum(kernels.shape[1] * kernels.shape[2] for kernels in self.inside)

    def covariances(self, shares: np.ndarray, ray: np.ndarray, directions: np.ndarray) -> Covariances:
        """Covariances on a grid.

        Parameters
        ----------
        shares : ndarray, shape (n_points, n_effects)
        ray : ndarray of int, shape (n_points,)
        directions : ndarray, shape (n_rays, n_effects)
        """
        left = 1.0 - shares.sum(axis=1)
        v = np.repeat(left[:, None], self.rank, axis=1)
        inner: list[Blocks] = []
        if self.values is not None:
            v += shares @ self.values
        else:
            for a, direction in enumerate(directions):
                parts = [symmetric_eigen(np.tensordot(direction, kernels, axes=1)) for kernels in self.inside]
                inner.append(Blocks(tuple(turn for _, turn in parts)))
                on_ray = np.flatnonzero(ray == a)
                values = np.concatenate([values.ravel() for values, _ in parts])
                v[on_ray] += np.outer(shares[on_ray].sum(axis=1), values)
        logdet = np.log(v).sum(axis=1)
        if self.rank < self.n:
            logdet += (self.n - self.rank) * np.log(left)
        kind = "rays" if inner else "diagonal" if shares.shape[1] else "independent"
        basis = np.asarray(ray if inner else np.zeros_like(ray), dtype=np.intp)
        return Covariances(self.n, self.outer, tuple(inner), basis, 1.0 / v, logdet, left, kind)


def find_joint_basis(effects: Sequence[RandomEffect], n: int) -> JointBasis:
    """Find where the random effects of n rows live, never forming an n × n matrix when structure allows.

    Rows that share all levels are compressed first; what is left falls into families, which are decomposed one by one.
    Effects that commute in every family share one basis. Otherwise the joint column space of each family is split off.

    Raises
    ------
    DataError
        A family too large for the memory of this machine.
    """
    if not effects or n == 0:
        return JointBasis(n, Rotation(), np.zeros((len(effects), 0)), (), 0, ())
    codes = np.column_stack([effect.codes for effect in effects])
    values = np.column_stack([effect.values for effect in effects])
    compression, codes, values = compress_replicates(codes, values)
    if not len(codes):
        return JointBasis(n, Rotation(), np.zeros((len(effects), 0)), (), 0, ())
    cells = [RandomEffect(codes[:, m], values[:, m], effect.K) for m, effect in enumerate(effects)]
    members = find_families(cells)
    _check_room(max(rows.shape[1] for rows in members), len(effects), n)
    stacks = zip(*(cell.blocks(members) for cell in cells), strict=True)
    kernels = [np.stack(stack) for stack in stacks]
    order = np.concatenate([rows.ravel() for rows in members])
    steps: list[Step] = [*compression, *_leading(order, n)]
    shape = (len(order), tuple(rows.shape for rows in members))
    joint = _joint_values(kernels)
    if joint is not None:
        eigenvalues, vectors = joint
        total = eigenvalues.sum(axis=0)
        alive = total > RANK_TOLERANCE * total.max()
        steps += [vectors, *_leading(np.argsort(~alive, kind="stable"), n)]
        return JointBasis(n, Rotation(tuple(steps)), eigenvalues[:, alive], (), *shape)
    blocks, inside, order = _split_null_space(kernels)
    if blocks is not None:
        steps += [blocks, *_leading(order, n)]
    return JointBasis(n, Rotation(tuple(steps)), None, inside, *shape)


def _check_room(size: int, n_effects: int, n: int) -> None:
    """Refuse a family whose eigenbasis cannot be computed here, before anything is filled."""
    need, have = 8 * size**2 * (n_effects + 3), memory_size()
    if need > have:
        raise DataError(
            f"random effects tie {size} of {n} rows to each other, and their eigenbasis needs {need / 2**30:.1f} GiB "
            f"of memory where this machine has {have / 2**30:.1f} GiB. Leave out the term that ties families together, "
            "set relationships between them to zero, or split variances by slamglmm.he, which needs no eigenbasis."
        )


def _leading(order: np.ndarray, n: int) -> list[Step]:
    """Reorder the leading coordinates; nothing to do when they are in order."""
    if np.array_equal(order, np.arange(len(order))):
        return []
    return [Permutation(np.concatenate((order, np.arange(len(order), n))))]


def _joint_values(kernels: Sequence[np.ndarray]) -> tuple[np.ndarray, Blocks] | None:
    parts = []
    for stack in kernels:
        part = joint_eigenbasis(list(stack))
        if part is None:
            return None
        parts.append(part)
    values = np.concatenate([values.reshape(len(values), -1) for values, _ in parts], axis=1)
    return values, Blocks(tuple(vectors for _, vectors in parts))


def _split_null_space(kernels: Sequence[np.ndarray]) -> tuple[Blocks | None, tuple[np.ndarray, ...], np.ndarray]:
    """Turn each family so that its first coordinates span the range of its kernels.

    Returns
    -------
    blocks : Blocks or None
        None if no family has a null space.
    inside : tuple of ndarray, each (n_effects, f, rank, rank)
        Kernels on the range, families of equal rank together.
    order : ndarray of int
        Brings their coordinates to the front.
    """
    parts = [symmetric_eigen(stack.sum(axis=0)) for stack in kernels]
    bound = RANK_TOLERANCE * max(values.max() for values, _ in parts)
    ranks = [np.sum(values > bound, axis=1) for values, _ in parts]
    if all(np.all(rank == values.shape[1]) for rank, (values, _) in zip(ranks, parts, strict=True)):
        return None, tuple(kernels), np.arange(0)
    inside, leading, trailing, start = [], [], [], 0
    for stack, rank, (values, vectors) in zip(kernels, ranks, parts, strict=True):
        at = start + np.arange(values.size).reshape(values.shape)
        start += values.size
        for r in np.unique(rank):
            here = rank == r
            turn = vectors[here, :, :r]
            if r:
                inside.append(turn.swapaxes(1, 2) @ stack[:, here] @ turn)
            leading.append(at[here, :r].ravel())
            trailing.append(at[here, r:].ravel())
    return Blocks(tuple(vectors for _, vectors in parts)), tuple(inside), np.concatenate((*leading, *trailing))
