"""The covariances ``V_g`` of one set of rows at every grid point, each diagonal in the basis of its ray."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .rotation import Rotation, joint_eigenbasis, range_basis, symmetric_eigen


@dataclass(frozen=True)
class Covariances:
    """``V_g = sum_m h_gm Z_m K_m Z_m' + (1 - s_g) I = Q_a diag(v_g) Q_a'``, ``a`` the ray of ``g``; eq. SLAM-3.

    Attributes
    ----------
    rotations : tuple of Rotation
        One for each basis.
    basis : ndarray of int, shape (n_points,)
        Basis in which a grid point is diagonal.
    weights : ndarray, shape (n_points, n)
        ``1 / v_g`` in that basis.
    logdet : ndarray, shape (n_points,)
    residual_share : ndarray, shape (n_points,)
        ``1 - s_g``.
    kind : str
        How the bases were found: "diagonal", "rays" or "independent".
    rank : int
        Dimension of the joint column space of the random effects in these rows.
    """

    rotations: tuple[Rotation, ...]
    basis: np.ndarray
    weights: np.ndarray
    logdet: np.ndarray
    residual_share: np.ndarray
    kind: str
    rank: int

    @property
    def n(self) -> int:
        """Number of rows."""
        return self.weights.shape[1]

    def rotated(self) -> Covariances:
        """The same covariances for data already rotated into their single basis."""
        assert len(self.rotations) == 1
        return Covariances(
            (Rotation(),), self.basis, self.weights, self.logdet, self.residual_share, self.kind, self.rank
        )

    def coordinates(self, data: np.ndarray, points: np.ndarray) -> np.ndarray:
        """Each row of ``data`` (c, n) in the basis of its grid point."""
        if len(self.rotations) == 1:
            return self.rotations[0].forward(data)
        out = np.empty_like(data)
        for a, members in self._by_basis(points):
            out[members] = self.rotations[a].forward(data[members])
        return out

    def from_coordinates(self, coordinates: np.ndarray, points: np.ndarray) -> np.ndarray:
        """Inverse of `coordinates`."""
        if len(self.rotations) == 1:
            return self.rotations[0].back(coordinates)
        out = np.empty_like(coordinates)
        for a, members in self._by_basis(points):
            out[members] = self.rotations[a].back(coordinates[members])
        return out

    def quadratic_forms(self, coordinates: np.ndarray, points: np.ndarray) -> np.ndarray:
        """``e' V_g^-1 e`` of each row at every grid point, shape (c, n_points); one matrix product per basis."""
        if len(self.rotations) == 1:
            return (coordinates * coordinates) @ self.weights.T
        data = self.from_coordinates(coordinates, points)
        out = np.empty((len(data), len(self.basis)))
        for a, rotation in enumerate(self.rotations):
            on_basis = np.flatnonzero(self.basis == a)
            out[:, on_basis] = rotation.forward(data) ** 2 @ self.weights[on_basis].T
        return out

    def solve(self, data: np.ndarray, points: np.ndarray) -> np.ndarray:
        """``V_g^-1 e`` of each row at its own grid point, shape (c, n)."""
        return self.from_coordinates(self.coordinates(data, points) * self.weights[points], points)

    def _by_basis(self, points: np.ndarray) -> list[tuple[int, np.ndarray]]:
        bases = self.basis[points]
        return [(int(a), np.flatnonzero(bases == a)) for a in np.unique(bases)]

    @property
    def nbytes(self) -> int:
        """Memory of the bases and weights."""
        arrays = [part for r in self.rotations for part in (r.matrix, r.inner) if part is not None]
        return self.weights.nbytes + sum({id(part): part.nbytes for part in arrays}.values())


def build_covariances(
    kernels: Sequence[np.ndarray],
    shares: np.ndarray,
    ray: np.ndarray,
    directions: np.ndarray,
    n: int,
    joint: tuple[np.ndarray, np.ndarray] | None = None,
) -> Covariances:
    """Find the cheapest bases for a grid of covariances.

    Parameters
    ----------
    kernels : sequence of ndarray, each (n, n)
        ``Z_m K_m Z_m'`` of each random effect.
    shares : ndarray, shape (n_points, n_effects)
    ray : ndarray of int, shape (n_points,)
    directions : ndarray, shape (n_rays, n_effects)
    n : int
        Number of rows.
    joint : tuple of ndarray, optional
        What `joint_eigenbasis` says of these kernels, if it has been asked.

    Notes
    -----
    Effects that commute share one basis. Otherwise the joint column space is split off first (outside it every V_g is
    a multiple of the identity), and inside it each ray of the grid has one basis.
    """
    residual_share = 1.0 - shares.sum(axis=1)
    if not kernels or n == 0:
        return _assemble((Rotation(),), np.zeros_like(ray), np.ones((len(shares), n)), residual_share, "independent", 0)
    joint = joint or joint_eigenbasis(kernels)
    if joint is not None:
        values, vectors = joint
        v = shares @ values + residual_share[:, None]
        rank = int(np.sum(values.sum(axis=0) > 1e-10 * values.sum(axis=0).max(initial=0.0)))
        return _assemble((Rotation(vectors),), np.zeros_like(ray), v, residual_share, "diagonal", rank)
    outer, rank = range_basis(np.sum(kernels, axis=0))
    inside = [outer[:, :rank].T @ kernel @ outer[:, :rank] for kernel in kernels]
    v = np.repeat(residual_share[:, None], n, axis=1)
    rotations = []
    for a, direction in enumerate(directions):
        values, vectors = symmetric_eigen(np.tensordot(direction, inside, axes=1))
        rotations.append(Rotation(outer, vectors))
        on_ray = ray == a
        v[np.ix_(on_ray, np.arange(rank))] += np.outer(shares[on_ray].sum(axis=1), values)
    return _assemble(tuple(rotations), ray, v, residual_share, "rays", rank)


def _assemble(
    rotations: tuple[Rotation, ...],
    basis: np.ndarray,
    v: np.ndarray,
    residual_share: np.ndarray,
    kind: str,
    rank: int,
) -> Covariances:
    return Covariances(rotations, basis.astype(np.intp), 1.0 / v, np.log(v).sum(axis=1), residual_share, kind, rank)
