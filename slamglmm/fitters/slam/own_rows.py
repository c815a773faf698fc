"""Layout of traits that each keep rows of their own and are drawn together.

Where every trait has its own missing pattern (environments of a sparse trial), every group has one trait, and a loop
over groups would spend its time on calls, not on numbers. Here the kept cells of many such traits lie side by side in
one long vector, in the common coordinates of their groups.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from ...linalg.covariances import Covariances
from ...linalg.threads import BLOCK

if TYPE_CHECKING:
    from .problem import TraitGroup

# Numbers in the regressors of one trait; beyond, its own products are worth a call each.
LARGEST_DESIGN = 20_000


@dataclass(frozen=True)
class OwnRows:
    """Traits of consecutive groups of one; ``N`` kept cells in all.

    Attributes
    ----------
    groups, traits : slice
    covs : tuple of Covariances
        Of the groups.
    trait, row : ndarray of int, shape (N,)
        Trait (counted from the first of these) and row of each cell.
    spans : tuple of slice
        Cells of each trait.
    x, x_rows : ndarray, shape (b, N)
        Fixed-effect columns in common coordinates and on the rows; those that cannot be estimated are zero.
    weights : ndarray, shape (n_points, N)
    logdet : ndarray, shape (c, n_points)
    estimable : ndarray of bool, shape (c, b)
    """

    groups: slice
    traits: slice
    covs: tuple[Covariances, ...]
    trait: np.ndarray
    row: np.ndarray
    spans: tuple[slice, ...]
    x: np.ndarray
    x_rows: np.ndarray
    weights: np.ndarray
    logdet: np.ndarray
    estimable: np.ndarray

    @cached_property
    def n_rows(self) -> np.ndarray:
        """Rows of each trait, shape (c,)."""
        return np.array([span.stop - span.start for span in self.spans])

    def gather(self, values: np.ndarray) -> np.ndarray:
        """Cells of these traits in an array (p, n), shape (N,)."""
        return values[self.traits][self.trait, self.row]

    def enter(self, values: np.ndarray, out: np.ndarray) -> None:
        """Rows of ``values`` (c, N) in common coordinates."""
        for cov, span in zip(self.covs, self.spans, strict=True):
            out[:, span] = cov.enter(values[:, span])

    def leave(self, values: np.ndarray) -> np.ndarray:
        """Inverse of `enter` for one vector, shape (N,)."""
        return np.concatenate(
            [cov.leave(values[None, span])[0] for cov, span in zip(self.covs, self.spans, strict=True)]
        )

    def sums(self, values: np.ndarray) -> np.ndarray:
        """Sums over the cells of each trait along the last axis."""
        return np.add.reduceat(values, [span.start for span in self.spans], axis=-1)

    def weights_of(self, points: np.ndarray) -> np.ndarray:
        """Weight of each cell at the grid point of its trait, shape (N,)."""
        return self.weights[points[self.trait], np.arange(len(self.trait))]


def lay_out_own_rows(groups: Sequence[TraitGroup], x: np.ndarray, n_factors: int) -> tuple[OwnRows, ...]:
    """Runs of consecutive groups of one small trait each, at most a block of them together.

    Groups with cells to draw, or with several bases, stay alone.
    """
    fits = [
        len(group.imputed) == 1
        and not group.imputed.any()
        and not group.cov.inner
        and len(group.rows) * (len(x) + n_factors) <= LARGEST_DESIGN
        for group in groups
    ]
    runs: list[list[int]] = []
    for s in np.flatnonzero(fits):
        if runs and runs[-1][-1] == s - 1 and len(runs[-1]) < BLOCK:
            runs[-1].append(int(s))
        else:
            runs.append([int(s)])
    return tuple(_lay_out(slice(run[0], run[-1] + 1), groups, x) for run in runs if len(run) > 1)


def _lay_out(run: slice, groups: Sequence[TraitGroup], x: np.ndarray) -> OwnRows:
    chosen = groups[run]
    ends = np.cumsum([0, *(len(group.rows) for group in chosen)])
    x_rows = [x[:, group.rows] * group.estimable[:, None] for group in chosen]
    return OwnRows(
        groups=run,
        traits=slice(chosen[0].traits.start, chosen[-1].traits.stop),
        covs=tuple(group.cov for group in chosen),
        trait=np.repeat(np.arange(len(chosen)), np.diff(ends)),
        row=np.concatenate([group.rows for group in chosen]),
        spans=tuple(slice(int(a), int(b)) for a, b in pairwise(ends)),
        x=np.concatenate([group.cov.enter(part) for group, part in zip(chosen, x_rows, strict=True)], axis=1),
        x_rows=np.concatenate(x_rows, axis=1),
        weights=np.concatenate(
            [np.array([group.cov.all_weights(g) for g in range(len(group.cov.logdet))]) for group in chosen], axis=1
        ),
        logdet=np.array([group.cov.logdet for group in chosen]),
        estimable=np.array([group.estimable for group in chosen]),
    )
