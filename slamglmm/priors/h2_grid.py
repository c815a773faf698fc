"""The grid of variance shares and the discrete priors on it.

Shares ``h`` of the random effects are laid out as rays ``h = t a``: a direction ``a`` on the simplex and a total
share ``t``. On one ray every total is diagonal in the same eigenbasis, which is what makes the grid cheap.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import combinations
from math import comb, factorial
from typing import Any

import numpy as np

from ..errors import OptionError
from ..options import shown

H2Prior = str | Callable[[np.ndarray], np.ndarray] | np.ndarray
# More directions than this cost more eigenbases than they are worth (R = 3: 55, R = 4: 56).
MAX_DIRECTIONS = 60


@dataclass(frozen=True)
class ShareGrid:
    """Grid points of the variance shares; eq. SLAM-4.

    Attributes
    ----------
    shares : ndarray, shape (n_points, n_effects)
        Share of each random effect; the rest, ``1 - shares.sum(axis=1)``, is the residual's.
    ray : ndarray of int, shape (n_points,)
        Direction a point lies on.
    cell : ndarray, shape (n_points,)
        Volume of the cell a point stands for, summing to 1: the uniform prior.
    directions : ndarray, shape (n_rays, n_effects)
    """

    shares: np.ndarray
    ray: np.ndarray
    cell: np.ndarray
    directions: np.ndarray

    @property
    def residual_share(self) -> np.ndarray:
        """Share left to the residual at each point, shape (n_points,)."""
        return 1.0 - self.shares.sum(axis=1)


def simplex_lattice(n_effects: int, steps: int) -> np.ndarray:
    """All points of the simplex whose coordinates are multiples of 1/steps, shape (n_rays, n_effects)."""
    bars = combinations(range(steps + n_effects - 1), n_effects - 1)
    edges = np.array([(-1, *bar, steps + n_effects - 1) for bar in bars])
    return (np.diff(edges, axis=1) - 1)[::-1] / steps


def share_grid(n_effects: int, divisions: int, include_one: bool = False) -> ShareGrid:
    """Grid with totals 0, 1/d .. (d-1)/d (and 1 if asked) on each direction.

    Parameters
    ----------
    n_effects : int
        Number of variance shares (0 gives the single point "all residual").
    divisions : int
        d; two effects get d+1 directions, more get a coarser lattice of at most 60.
    include_one : bool
        Whether a total share of 1 is a point.
    """
    if n_effects == 0:
        return ShareGrid(np.zeros((1, 0)), np.zeros(1, dtype=np.intp), np.ones(1), np.zeros((1, 0)))
    if n_effects <= 2:
        steps = divisions if n_effects == 2 else 1
    else:
        steps = max(s for s in range(1, 61) if s == 1 or comb(s + n_effects - 1, s) <= MAX_DIRECTIONS)
    directions = np.ones((1, 1)) if n_effects == 1 else simplex_lattice(n_effects, steps)
    # A direction on a face of the simplex has a cut cell (exact for two and three effects).
    direction_cell = np.array([1.0 / factorial(1 + int(np.sum(a == 0.0))) for a in directions])
    direction_cell /= direction_cell.sum()

    totals = np.arange(1, divisions + (1 if include_one else 0)) / divisions
    half = 0.5 / divisions
    outer, inner = np.minimum(totals + half, 1.0), totals - half
    # Equal weights on a line (spec of one effect); shells of the simplex for more effects.
    shell = np.ones_like(totals) if n_effects == 1 else outer**n_effects - inner**n_effects
    origin = 1.0 if n_effects == 1 else half**n_effects

    shares = np.concatenate(
        [np.zeros((1, n_effects)), (directions[:, None, :] * totals[:, None]).reshape(-1, n_effects)]
    )
    ray = np.concatenate([[0], np.repeat(np.arange(len(directions)), len(totals))]).astype(np.intp)
    cell = np.concatenate([[origin], np.outer(direction_cell, shell).ravel()])
    return ShareGrid(shares, ray, cell / cell.sum(), directions)


def prior_masses(prior: H2Prior, grid: ShareGrid, name: str = "h2") -> np.ndarray:
    """Prior probability of each grid point, shape (n_points,).

    Parameters
    ----------
    prior : "uniform", "spike", callable or array
        ``"uniform"`` on the simplex of shares; ``"spike"`` puts half the mass on zero and spreads the rest; a callable
        is a density ``f(shares)`` taking the (n_points, n_effects) shares and returning (n_points,) values, times the
        cell volumes; an array gives the masses on the grid itself.
    grid : ShareGrid
    name : str
        Name of the argument, for messages.

    Raises
    ------
    OptionError
        Unknown name, wrong length, negative or all-zero masses.
    """
    check_masses(prior, name)
    if isinstance(prior, str):
        masses = grid.cell.copy()
        if prior == "spike" and len(masses) > 1:
            masses[1:] *= 0.5 / masses[1:].sum()
            masses[0] = 0.5
    elif callable(prior):
        masses = _density(prior, grid.shares, name)
        if masses.shape == grid.cell.shape:
            masses = masses * grid.cell
    else:
        masses = np.array(prior, dtype=float).reshape(-1)
    if masses.shape != grid.cell.shape:
        raise OptionError(
            f"Priors({name}=...): expected {len(grid.cell)} masses, one for each grid point of "
            f"{grid.shares.shape[1]} variance share(s), got {masses.size}. The points are the rows of fit.grid; "
            "a callable receives them as an array (points × effects)."
        )
    bad = ~np.isfinite(masses) | (masses < 0)
    with np.errstate(over="ignore", invalid="ignore"):
        total = masses.sum()
    if bad.any() or not 0 < total < np.inf:
        first = int(np.flatnonzero(bad)[0]) if bad.any() else 0
        raise OptionError(
            f"Priors({name}=...): masses must be finite, not negative and not all zero; they sum to {total:g}, and "
            f"that of the shares {grid.shares[first].tolist()} is {masses[first]:g}."
        )
    return np.asarray(masses / total)


def check_masses(prior: Any, name: str) -> None:
    """Refuse what can be no prior of variance shares, whatever the grid.

    Raises
    ------
    OptionError
        Neither "uniform" or "spike", nor a callable, nor numbers.
    """
    if (isinstance(prior, str) and prior in ("uniform", "spike")) or (callable(prior) and not isinstance(prior, type)):
        return
    if not isinstance(prior, str):
        try:
            if np.asarray(prior).dtype.kind in "iuf" and np.ndim(prior) > 0:
                return
        except ValueError:  # rows of different lengths
            pass
    raise OptionError(
        f"Priors({name}={shown(prior)}): expected 'uniform', 'spike', a callable density or an array of masses (one "
        "for each row of fit.grid)."
    )


def _density(prior: Callable[[np.ndarray], np.ndarray], shares: np.ndarray, name: str) -> np.ndarray:
    """Values of a user's density at the grid points."""
    try:
        values = np.asarray(prior(shares.copy()))
    except Exception as error:
        raise OptionError(
            f"Priors({name}=...): the callable failed with {type(error).__name__}: {error}. It gets the points of the "
            f"grid as an array of shape {shares.shape} (points × effects) and returns one value for each point."
        ) from error
    if values.dtype.kind not in "biuf":
        raise OptionError(
            f"Priors({name}=...): the callable returned {shown(values)}: expected {len(shares)} numbers, one for each "
            "grid point."
        )
    return values.astype(float).reshape(-1)
