"""Covariates of single traits (`cis`): their layout for the sampler, and their part of the loadings step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from scipy.linalg import lapack

from ...design.cis import CisColumns
from ...errors import DataError, FitError, shortlist
from ...linalg.covariances import Covariances
from ...linalg.rotation import Rotation

if TYPE_CHECKING:
    from .problem import TraitGroup


def _none() -> np.ndarray:
    return np.zeros(0)


def _no_index() -> np.ndarray:
    return np.zeros(0, dtype=np.intp)


@dataclass(frozen=True)
class CisEffects:
    """Standardised covariates of single traits: E effects on m distinct columns, none without `cis`.

    Attributes
    ----------
    prec : float
        Prior precision of an effect, in units of tau.
    starts : ndarray of int, shape (p + 1,)
        Where the effects of each trait begin, in the problem's order.
    column, local : ndarray of int, shape (E,)
        Column of each effect, and where its group of traits has it.
    columns : ndarray, shape (m, n)
        In the basis of the problem's rotation; of mean zero where the fixed effects span the constant.
    entered : dict of int to ndarray, shape (m_s, n_s)
        Columns of the traits of each group (by the group's first trait) on its rows, in its common coordinates.
    mean, sd : ndarray, shape (m,)
        ``column = (values - mean) / sd``.
    user : ndarray of int, shape (E,)
        Each effect's position in the user's order.
    trait : ndarray of int, shape (E,)
        User's trait of each effect.
    """

    prec: float = 1.0
    starts: np.ndarray = field(default_factory=_no_index)
    column: np.ndarray = field(default_factory=_no_index)
    local: np.ndarray = field(default_factory=_no_index)
    columns: np.ndarray = field(default_factory=_none)
    entered: Mapping[int, np.ndarray] = field(default_factory=dict)
    mean: np.ndarray = field(default_factory=_none)
    sd: np.ndarray = field(default_factory=_none)
    user: np.ndarray = field(default_factory=_no_index)
    trait: np.ndarray = field(default_factory=_no_index)

    @property
    def n(self) -> int:
        """Number of effects, all traits together."""
        return len(self.column)

    def of(self, traits: slice) -> slice:
        """Effects of consecutive traits."""
        return slice(int(self.starts[traits.start]), int(self.starts[traits.stop]))

    def having(self, traits: slice) -> list[tuple[int, slice]]:
        """Traits that have effects, counted from the first of these, and their effects."""
        starts = self.starts[traits.start : traits.stop + 1]
        return [(int(i), slice(int(starts[i]), int(starts[i + 1]))) for i in np.flatnonzero(np.diff(starts))]

    def values(self, effects: np.ndarray, traits: slice, group: TraitGroup | None = None) -> np.ndarray:
        """``C_j a_j`` of some traits, shape (traits, n); or on a group's rows, in its common coordinates."""
        columns, at = (self.columns, self.column) if group is None else (self.entered[group.traits.start], self.local)
        out = np.zeros((traits.stop - traits.start, columns.shape[1]))
        for i, own in self.having(traits):
            out[i] = effects[own] @ columns[at[own]]
        return out

    def penalty(self, effects: np.ndarray, traits: slice) -> tuple[np.ndarray, np.ndarray]:
        """Number of effects of each trait, and their quadratic form in units of tau; eq. SLAM-52."""
        counts = np.diff(self.starts[traits.start : traits.stop + 1])
        owner = np.repeat(np.arange(len(counts)), counts)
        squares = np.bincount(owner, weights=effects[self.of(traits)] ** 2, minlength=len(counts))
        return counts, self.prec * squares

    def natural(self, effects: np.ndarray, scale: np.ndarray) -> np.ndarray:
        """Effects of one unit of a covariate in units of the data, in the user's order, shape (E,)."""
        out = np.empty(self.n)
        out[self.user] = effects * scale[self.trait] / self.sd[self.column]
        return out

    def at_zero(self, effects: np.ndarray, scale: np.ndarray) -> np.ndarray:
        """What the constant of each trait changes by when covariates are not centred, user's order, shape (p,)."""
        shift = effects * scale[self.trait] * (self.mean / self.sd)[self.column]
        return -np.bincount(self.trait, weights=shift, minlength=len(scale))


def lay_out_cis(
    cis: CisColumns | None,
    variance: float,
    traits: Sequence[str],
    order: np.ndarray,
    active: np.ndarray,
    centred: bool,
    groups: Sequence[TraitGroup],
    rotation: Rotation,
) -> CisEffects:
    """Standardise the columns and bring them into the coordinates in which each group needs them.

    Parameters
    ----------
    cis : CisColumns or None
    variance : float
        Prior variance of the effect of one standard deviation, in units of the trait-specific variance.
    traits : sequence of str
        In the user's order.
    order : ndarray of int, shape (p,)
        Trait at each position of the problem.
    active : ndarray of int
        Rows with data.
    centred : bool
        Whether the fixed effects span the constant.
    groups : sequence of TraitGroup
    rotation : Rotation

    Raises
    ------
    DataError
        Traits that are not there; a column that does not vary on the rows with data.
    """
    if cis is None:
        return CisEffects()
    unknown = sorted(set(cis.of_trait) - set(traits))
    if unknown:
        raise DataError(f"cis names {shortlist(unknown)}, which are not among the traits ({shortlist(traits)}).")
    values = cis.values.to_numpy()[active].T
    mean, sd = values.mean(axis=1), values.std(axis=1)
    constant = np.flatnonzero(sd <= 1e-12 * np.abs(values).max(axis=1))
    if len(constant):
        flat = cis.values.columns[constant[0]]
        name = next(trait for trait, names in cis.of_trait.items() if flat in names)
        raise DataError(
            f"cis: column {flat!r} (trait {name!r}) does not vary on the {len(active)} rows with data: it has no "
            "effect to estimate. Leave it out."
        )
    mean = mean if centred else np.zeros_like(mean)
    on_rows = (values - mean[:, None]) / sd[:, None]
    spans = [cis.spans.get(traits[j], slice(0, 0)) for j in order]
    starts = np.cumsum([0, *(own.stop - own.start for own in spans)])
    user = np.concatenate([np.arange(own.start, own.stop) for own in spans])
    column = cis.column[user]
    local, entered = np.empty_like(column), {}
    columns = rotation.forward(on_rows)
    for group in groups:
        mine = slice(starts[group.traits.start], starts[group.traits.stop])
        used, local[mine] = np.unique(column[mine], return_inverse=True)
        every = len(used) == len(columns) and len(group.rows) == columns.shape[1]
        part = columns if every else np.ascontiguousarray(columns[used][:, group.rows])
        entered[group.traits.start] = group.cov.enter(part)
    trait = np.repeat(order, np.diff(starts))
    return CisEffects(1.0 / variance, starts, column, local, columns, entered, mean, sd, user, trait)


@dataclass(frozen=True)
class CisPart:
    """What integrating out the effects of one trait leaves, to draw them afterwards; eq. SLAM-51.

    Attributes
    ----------
    trait : int
        Counted from the first of its block.
    effects : slice
    root : ndarray, shape (c, c)
        Lower Cholesky factor L of ``C' W C + prec I``.
    half : ndarray, shape (c, b + k + 1)
        ``L^-1 C' W [X, F, y]``.
    """

    trait: int
    effects: slice
    root: np.ndarray
    half: np.ndarray

    @property
    def explained(self) -> np.ndarray:
        """What the effects take out of the sums of ``[X, F, y]``, shape (b + k + 1, b + k + 1)."""
        return np.asarray(self.half.T @ self.half)

    def draw(self, effects: np.ndarray, coef: np.ndarray, tau: float, rng: np.random.Generator) -> None:
        """Draw the effects given tau and the other coefficients."""
        rest = self.half[:, -1] - self.half[:, :-1] @ coef
        rest += rng.standard_normal(len(rest)) / np.sqrt(tau)
        effects[self.effects] = lapack.dtrtrs(self.root, rest, lower=True, trans=1)[0]


def integrate_out(trait: int, effects: slice, square: np.ndarray, cross: np.ndarray, prec: float) -> CisPart:
    """From the sums ``C' W C`` (overwritten) and ``C' W [X, F, y]`` of one trait; eq. SLAM-51."""
    square[np.diag_indices(len(square))] += prec
    root, bad = lapack.dpotrf(square, lower=True)
    if bad:
        raise FitError(
            "the precision of cis effects is not positive definite. Report this with the data; rescaling extreme "
            "covariates may help."
        )
    return CisPart(trait, effects, root, lapack.dtrtrs(root, cross, lower=True)[0])


def integrate_out_of_block(
    cis: CisEffects,
    group: TraitGroup,
    traits: slice,
    g: np.ndarray,
    common: np.ndarray,
    by_basis: Mapping[int, np.ndarray],
    y: np.ndarray,
    coordinates: np.ndarray,
) -> list[CisPart]:
    """`CisPart` of each trait of a block that has effects.

    Parameters
    ----------
    cis : CisEffects
    group : TraitGroup
    traits : slice
    g : ndarray of int, shape (block,)
        Grid points.
    common, by_basis : ndarray, dict of int to ndarray
        As in `Regressors`.
    y, coordinates : ndarray, shapes (block, n_s) and (block, rank)
        In common coordinates, and inside in the basis of each trait's grid point.
    """
    cov: Covariances = group.cov
    columns, parts = cis.entered[group.traits.start], []
    for i, own in cis.having(traits):
        point = int(g[i])
        mine = columns[cis.local[own]]
        inside = cov.in_basis(mine, int(cov.basis[point]))
        weighted = inside * cov.weights[point]
        square = weighted @ inside.T
        cross = np.column_stack((weighted @ by_basis[int(cov.basis[point])].T, weighted @ coordinates[i]))
        if cov.rank < cov.n:
            outside = mine[:, cov.rank :]
            scaled = outside / cov.residual_share[point]
            square += scaled @ outside.T
            cross += np.column_stack((scaled @ common[:, cov.rank :].T, scaled @ y[i, cov.rank :]))
        parts.append(integrate_out(i, own, square, cross, cis.prec))
    return parts


def take_out(
    parts: Sequence[CisPart], grams: np.ndarray, which: np.ndarray, rhs: np.ndarray, yy: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Sums of the data with the effects integrated out: ``rhs`` and ``yy`` in place.

    Returns
    -------
    grams : ndarray, shape (n_grams + len(parts), b + k, b + k)
        One more for each trait that has effects.
    which : ndarray of int, shape (block,)
    """
    n, which = len(grams), which.copy()
    out = np.concatenate((grams, np.empty((len(parts), *grams.shape[1:]))))
    for i, part in enumerate(parts):
        explained = part.explained
        out[n + i] = grams[which[part.trait]] - explained[:-1, :-1]
        rhs[part.trait] -= explained[-1, :-1]
        yy[part.trait] -= explained[-1, -1]
        which[part.trait] = n + i
    return out, which
