"""From a Design to the arrays the sampler works on: scaling, components, grid, row groups."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Literal

import numpy as np
import pandas as pd
import scipy.sparse as sp

from ...design import Design
from ...design.aliasing import leave_out_aliased
from ...design.cis import CisColumns
from ...design.magnitudes import refuse_huge_columns
from ...errors import DataError, OptionError, ScaleWarning, SlamWarning, shortlist, warn
from ...linalg.covariances import Covariances, JointBasis, find_joint_basis
from ...linalg.families import RandomEffect
from ...linalg.fixed_part import FixedPart
from ...linalg.independent import independent_columns
from ...linalg.rotation import Rotation
from ...linalg.threads import BLOCK, blocks, single_threaded_blas
from ...links import LINKS, DataScale, Identity, Likelihood, LinkChoice, LinkedColumns, Measurements, assign_links
from ...options import is_number, is_whole, shown
from ...priors import (
    Covariates,
    FixefPrior,
    PrecisionPrior,
    Priors,
    ShareGrid,
    SpikeSlab,
    TraitPrecisions,
    VarianceComponents,
    flat_columns,
    lay_out_covariates,
    prior_masses,
    share_grid,
)
from .cis import CisEffects, lay_out_cis
from .own_rows import OwnRows, lay_out_own_rows
from .prior_only import find_prior_only
from .trait_covariates import TraitCovariates, read_trait_covariates

# Distinct missing patterns keep their own eigenbases within these bounds (the first is the default of
# `missing_memory`); beyond, patterns share rows and cells are imputed.
PATTERN_BYTES = 2**30
PATTERN_FLOPS = 1e12
# An iteration with U in the chain is worth 0.8 of one without for the median trait, a third for the worst
# (bench/bench_missing.py); the worst is what a run waits for.
COST_OF_RANDOM = 3.0
# Columns whose mean is so many times their standard deviation are centred, and those beyond the second are constant.
FAR, CONSTANT = 1e3, 1e-10
# A total share of one needs covariances that stay invertible without the residual.
MIN_RELATIVE_EIGENVALUE = 1e-3
# A gamma prior with this shape holds a precision at its mean to 1e-4, and all steps stay as they are.
HELD_SHAPE = 1e8


@dataclass(frozen=True)
class Component:
    """One variance share: a column of a random term.

    Attributes
    ----------
    label : str
        ``"g"`` for an intercept, ``"x|g"`` for a slope.
    term, effect : int
        Position of its term in the design, and of its column there.
    Z : scipy CSR, shape (n, r)
        Rows with data only, divided by `unit`.
    K : ndarray or scipy sparse, shape (r, r), or None
    unit : float
        Root mean square of the effect's column over these rows, so that shares do not depend on its units: the
        sampler's effects are of one unit, its variances of unit^2.
    """

    label: str
    term: int
    effect: int
    Z: sp.csr_array
    K: np.ndarray | sp.csr_array | None
    unit: float = 1.0

    @property
    def random_effect(self) -> RandomEffect:
        """Level and multiplier of each row."""
        return RandomEffect(self.Z.indices, self.Z.data, self.K)

    def levels_from_rows(self, alpha: np.ndarray) -> np.ndarray:
        """``K Z' alpha`` for each row of ``alpha`` (c, n), shape (c, r)."""
        by_level = np.asarray(alpha @ self.Z)
        return by_level if self.K is None else np.asarray(by_level @ self.K)


@dataclass(frozen=True)
class TraitGroup:
    """Traits that share the rows they are kept on.

    Attributes
    ----------
    rows : ndarray of int, shape (n_s,)
    traits : slice
        Positions in the problem's trait order.
    cov : Covariances
        Of these rows.
    estimable : ndarray of bool, shape (b,)
        Fixed-effect columns that these rows can tell apart; the others are left out: zero in the chain.
    held : ndarray of bool, shape (traits, b)
        Columns that these rows can tell apart, but not those of them where the trait has data; left out likewise.
    imputed : ndarray of bool, shape (traits, n_s)
        Cells to draw.
    blocks : tuple of slice
        Blocks of traits, each with its own random stream.
    """

    rows: np.ndarray
    traits: slice
    cov: Covariances
    estimable: np.ndarray
    held: np.ndarray
    imputed: np.ndarray
    blocks: tuple[slice, ...]


@dataclass(frozen=True)
class LinkedTraits:
    """Latent traits of one link.

    Attributes
    ----------
    link : LinkedColumns
    likelihood : Likelihood
    traits : slice
        Positions in the problem's trait order.
    blocks : tuple of slice
        Latent traits of the likelihood that are drawn together, each block with its own random stream.
    """

    link: LinkedColumns
    likelihood: Likelihood
    traits: slice
    blocks: tuple[slice, ...]

    @cached_property
    def data_scales(self) -> tuple[DataScale, ...]:
        """How the data of each latent trait follow from it; empty when the link does not say."""
        return self.likelihood.data_scales()

    @cached_property
    def parameters_by_trait(self) -> tuple[str, ...]:
        """Parameters that each latent trait has for itself."""
        return tuple(key for key, dims in self.likelihood.labels().items() if dims[0][0] == "trait")


@dataclass(frozen=True)
class LinkVariable:
    """A parameter of a link as users see it: a variable of the posterior.

    Attributes
    ----------
    name : str
    part : int
        Position of its link in `Problem.links`.
    key : str
        Its name inside the link.
    dims : tuple of (str, tuple of str)
        Dimensions and their labels.
    """

    name: str
    part: int
    key: str
    dims: tuple[tuple[str, tuple[str, ...]], ...]


@dataclass(frozen=True)
class Problem:
    """Everything the sampler needs and never changes; traits in the order of the groups.

    Attributes
    ----------
    y : ndarray, shape (p, n)
        Responses without ``base_coef x``, scaled, in the basis of `rotation`; start values in missing cells.
    x : ndarray, shape (b, n)
        Fixed-effect columns in the basis of `rotation`.
    x_factor : ndarray, shape (b_F, n)
        Columns of the factors' own fixed effects, likewise.
    covariates : Covariates
        Which columns share the variance of their effects.
    trait_covariates : TraitCovariates
        What the prior means of the loadings depend on.
    traits : tuple of str
        Names of the latent traits, in the user's order.
    order : ndarray of int, shape (p,)
        Trait of the user at each position.
    base_coef : ndarray, shape (p, b)
        Effects of the flat columns by least squares, zero for the others: ``response = base_coef x + scale y``. With
        them off the responses, nothing that the flat effects explain reaches the sampler.
    scale : ndarray, shape (p,)
        Standard deviation of what all fixed effects leave.
    center_coef : ndarray, shape (b,)
        Coefficients with ``X center_coef = 1`` (zeros when the columns of X do not span the constant).
    center_coefs : ndarray, shape (b, p)
        The same for each trait, of the effects that its data can tell, user's order.
    x_shift : ndarray, shape (b,)
        What was taken off the columns of X because they are far from zero; zeros as a rule.
    active : ndarray of int
        Rows of the design with any data.
    n_rows : int
        Rows of the design.
    trait_precisions : PrecisionPrior or TraitPrecisions
        Prior of tau.
    collapsed : bool
        Whether U is integrated out of every step: one common basis, all rows kept for all traits, and few enough
        missing cells to draw them without U.
    rotation : Rotation
        Of `y`, `x` and the factors: data on all rows live in the coordinates that all bases of the grid share.
    factor_cov : Covariances
        Of all active rows.
    row_pattern : ndarray of int, shape (n,)
        Which groups keep a row, as a row of `pattern_groups` (bool, patterns × groups).
    links : tuple of LinkedTraits
        Empty when the data are the latent traits (identity), which needs no step of its own but for missing cells.
    offset : ndarray, shape (n,)
        The formula's, which comes to the latent traits before data are made of them.
    cis : CisEffects
        Covariates of single traits.
    prior_only : ndarray of bool, shape (n_components, p)
        Shares of the traits' own variance that the data say nothing about; traits in the user's order.
    n_factors, most_factors : int
        Factors of a chain's state, and how many they may become if their number is `adaptive`.
    notes : tuple of str
        One line for each choice made on the user's behalf.
    """

    y: np.ndarray
    x: np.ndarray
    x_factor: np.ndarray
    covariates: Covariates
    trait_covariates: TraitCovariates
    traits: tuple[str, ...]
    order: np.ndarray
    base_coef: np.ndarray
    scale: np.ndarray
    center_coef: np.ndarray
    center_coefs: np.ndarray
    x_shift: np.ndarray
    active: np.ndarray
    n_rows: int
    components: tuple[Component, ...]
    grid: ShareGrid
    log_prior_traits: np.ndarray
    trait_precisions: PrecisionPrior | TraitPrecisions
    log_prior_factors: np.ndarray
    groups: tuple[TraitGroup, ...]
    factor_cov: Covariances
    collapsed: bool
    rotation: Rotation
    row_pattern: np.ndarray
    pattern_groups: np.ndarray
    n_factors: int
    most_factors: int
    adaptive: bool
    priors: Priors
    links: tuple[LinkedTraits, ...]
    offset: np.ndarray
    row_blocks: tuple[slice, ...]
    notes: tuple[str, ...] = field(default=())
    cis: CisEffects = field(default_factory=CisEffects)
    prior_only: np.ndarray = field(default_factory=lambda: np.zeros((0, 0), dtype=bool))

    @property
    def p(self) -> int:
        """Number of traits."""
        return self.y.shape[0]

    @property
    def n(self) -> int:
        """Number of rows with data."""
        return self.y.shape[1]

    @property
    def b(self) -> int:
        """Number of fixed-effect columns."""
        return self.x.shape[0]

    @property
    def n_factor_effects(self) -> int:
        """Number of fixed-effect columns of the factors."""
        return self.x_factor.shape[0]

    def base(self, traits: slice) -> np.ndarray:
        """``base_coef x`` of consecutive traits (positions in this order), in the basis of `rotation`, (traits, n)."""
        return np.asarray(self.base_coef[self.order[traits]] @ self.x)

    @cached_property
    def units(self) -> np.ndarray:
        """`Component.unit` of each component, shape (n_components,)."""
        return np.array([component.unit for component in self.components])

    @property
    def impute(self) -> bool:
        """Whether any cell has to be drawn."""
        return any(group.imputed.any() for group in self.groups)

    @property
    def in_order(self) -> bool:
        """Whether the traits are in the user's order."""
        return bool(np.all(np.diff(self.order) > 0))

    @cached_property
    def link_variables(self) -> tuple[LinkVariable, ...]:
        """Parameters of the links, by names that do not collide."""
        found = [(i, key, dims) for i, part in enumerate(self.links) for key, dims in part.likelihood.labels().items()]
        keys = [key for _, key, _ in found]
        variables = []
        of_dim: dict[str, tuple[str, ...]] = {"trait": self.traits}
        for i, key, dims in found:
            name = key if keys.count(key) == 1 else f"{key}_{i + 1}"
            own = tuple(
                (dim if of_dim.setdefault(dim, labels) == labels else f"{dim}_{name}", labels) for dim, labels in dims
            )
            variables.append(LinkVariable(name, i, key, own))
        return tuple(variables)

    @cached_property
    def estimable(self) -> np.ndarray:
        """Fixed effects that the data of a trait can tell apart, user's order of traits, shape (b, p)."""
        out = np.empty((self.b, self.p), dtype=bool)
        for group in self.groups:
            out[:, self.order[group.traits]] = (group.estimable & ~group.held).T
        return out

    def of_given_columns(self, coef: np.ndarray) -> np.ndarray:
        """Fixed effects (b, p), user's order, of the columns of X as they were given, from those of `x`."""
        if not self.x_shift.any():
            return coef
        return coef - self.center_coefs * (self.x_shift @ np.where(self.estimable, coef, 0.0))

    @cached_property
    def basis(self) -> np.ndarray:
        """`rotation` as a matrix, shape (n, n): a row's unit vector in the sampler's coordinates is its row."""
        return self.rotation.forward(np.eye(self.n))

    @cached_property
    def own_rows(self) -> tuple[OwnRows, ...]:
        """Runs of groups of one trait each, drawn together because each alone is too small to be worth a call."""
        if self.collapsed:
            return ()
        return lay_out_own_rows(self.groups, self.x, self.n_factors)


def default_n_factors(n: int, p: int) -> int:
    """``min(n - 1, p, 15 + p // 50)``, at most 100; none for one trait, whose factor would be a second residual."""
    return 0 if p == 1 else max(0, min(n - 1, p, 15 + p // 50, 100))


def build_problem(
    design: Design,
    priors: Priors,
    n_factors: int | Literal["adaptive"] | None,
    h2_grid: int,
    link: LinkChoice = "identity",
    factor_design: Design | None = None,
    loadings_on: str | None = None,
    trait_data: pd.DataFrame | None = None,
    missing_memory: float | None = None,
    only_on: Mapping[str, str] | None = None,
    cis: CisColumns | None = None,
) -> Problem:
    """Check a design and lay it out for the sampler; ``missing_memory`` is `PATTERN_BYTES` unless given.

    Raises
    ------
    DataError
        No responses or responses that a link refuses, a constant trait, huge fixed-effect columns, a group with one
        level, a random term that cannot be told from the residual; `cis` of unknown traits or of constant columns.
    OptionError
        ``n_factors``, ``h2_grid``, ``missing_memory`` or ``link`` out of range.
    """
    if missing_memory is not None and not (is_number(missing_memory) and missing_memory >= 0):
        raise OptionError(f"missing_memory={shown(missing_memory)}: expected bytes, 0 or more.")
    budget = PATTERN_BYTES if missing_memory is None else missing_memory
    if not is_whole(h2_grid) or h2_grid < 2:
        raise OptionError(
            f"h2_grid={shown(h2_grid)}: expected an integer of at least 2, the number of steps from 0 to 1."
        )
    notes: list[str] = []
    refuse_huge_columns(design.X.to_numpy(dtype=float), list(design.X.columns))
    design, x_shift = _near_zero(design, priors.fixef_prior)
    latent, values = _lay_out_traits(design, link, priors.fixef_prior, cis)
    if latent.silent:
        notes.append(
            f"{len(latent.silent)} row(s) have no observed trait and are predicted only: {shortlist(latent.silent)}"
        )
    active, observed = latent.active, latent.known
    x = np.ascontiguousarray(design.X.to_numpy(dtype=float)[active].T)
    p, n = values.shape
    adaptive = isinstance(n_factors, str) and n_factors == "adaptive"
    k = default_n_factors(n, p) if n_factors is None or adaptive else n_factors
    acts_on_factors = {"factor_formula": factor_design is not None, "loadings_on": loadings_on is not None}
    asked = [name for name, given in acts_on_factors.items() if given]
    if asked and n_factors is None:
        k = max(k, min(n - 1, 1))
    most_factors = min(n, p, 2 * default_n_factors(n, p)) if adaptive else k
    if adaptive and not most_factors:
        notes.append("n_factors='adaptive': no factors, as for one trait its own variances say everything")
    elif adaptive:
        notes.append(
            f"n_factors='adaptive': {k} to begin with, at most {most_factors}; in the first three quarters of burn-in "
            "unused factors are dropped (but one) and new ones added when all are used, then the number stays"
        )
    # Each covariance among the traits, of a random effect or of the residual, has at most rank p.
    parts = 1 + len(design.terms)
    most = min(n, parts * p)
    if isinstance(k, str) or not is_whole(k) or not 0 <= k <= most:
        raise OptionError(
            f"n_factors={shown(n_factors)}: expected 'adaptive' or an integer from 0 to {most}, the smaller of the "
            f"rows with data ({n}) and {parts} covariances (random effects and residual) times {p} trait(s)."
        )
    if asked and k == 0:
        raise OptionError(f"{asked[0]}= acts through factors, and n_factors={n_factors!r} gives none here.")
    if loadings_on is not None and isinstance(priors.loadings_prior, SpikeSlab):
        raise OptionError(
            "loadings_on= with loadings='spike_slab': a loading that may be zero has no mean to depend on covariates. "
            "Choose 'horseshoe', 'infinite' or 'tpb'."
        )
    columns = list(design.X.columns)
    x_factor, factor_columns = _factor_columns(factor_design, design, active, notes)
    covariates = lay_out_covariates(x, columns, x_factor, factor_columns, priors.fixef_prior)
    flat = covariates.flat
    independent, aliased = leave_out_aliased(x[flat].T, [name for name, yes in zip(columns, flat, strict=True) if yes])
    notes += aliased
    in_use = flat.copy()
    in_use[flat] = independent
    components = _components(design, active)
    told, center_coef = _told(x, in_use, latent.informative), _constant_coefficients(x, in_use)
    base_coef, scale = np.zeros((p, len(x))), latent.scale
    base_coef[:, flat] = latent.base_coef
    base_coef = _by_told_effects(base_coef, x, told & in_use, latent.informative)
    centred = center_coef is not None
    if center_coef is None:
        center_coef = np.zeros(len(x))
    # The largest arrays: none of them is kept a step longer than it is needed.
    Y = np.array(values)
    del values
    for part in blocks(p):
        Y[part] -= base_coef[part] @ x
    Y /= scale[:, None]

    with single_threaded_blas():
        effects = [component.random_effect for component in components]
        _check_effects(components)
        on_traits = np.array([not _is_only_on("factors", component, design, only_on or {}) for component in components])
        prior_only = find_prior_only(
            [c.label for c in components], effects, x[flat], latent.informative, latent.traits, on_traits, notes
        )
        complete = bool(observed.all()) and not latent.links
        joint = find_joint_basis(effects, n)
        scattered = (
            not complete
            and not latent.links
            and joint.values is not None
            and _is_scattered(observed, joint, int(k), budget)
        )
        on_all_rows = complete or scattered
        collapsed = on_all_rows and joint.values is not None
        include_one = collapsed and _stays_invertible(joint)
        grid = share_grid(len(components), int(h2_grid), include_one)
        if len(components) == 1 and not include_one:
            reason = "Z K Z' is singular" if collapsed else "the random effects are part of the chain"
            notes.append(f"h2 = 1 is not on the grid ({reason}); the last point is {grid.shares.max():.3g}")
        factor_cov = joint.covariances(grid.shares, grid.ray, grid.directions)
        patterns = (
            [(np.ones(n, dtype=bool), latent.order)]
            if on_all_rows or latent.links
            else group_patterns(
                observed, joint, max(1, len(grid.directions) if factor_cov.kind == "rays" else 1), budget
            )
        )
        order = np.concatenate([traits for _, traits in patterns])
        groups, start = [], 0
        for mask, traits in patterns:
            rows = np.flatnonzero(mask)
            whole = len(rows) == n
            cov = (
                factor_cov
                if whole
                else find_joint_basis([effect.on(rows) for effect in effects], len(rows)).covariances(
                    grid.shares, grid.ray, grid.directions
                )
            )
            members = slice(start, start + len(traits))
            # Every block of traits reads the basis of every ray.
            trait_block = 2 * BLOCK if cov.inner else BLOCK
            groups.append(
                TraitGroup(
                    rows,
                    members,
                    cov.without_outer() if on_all_rows else cov,
                    estimable := _estimable_of(x[:, rows], flat),
                    estimable & ~told[traits],
                    ~observed[np.ix_(traits, rows)],
                    tuple(slice(start + s.start, start + s.stop) for s in blocks(len(traits), trait_block)),
                )
            )
            start = members.stop
        if not np.array_equal(order, np.arange(p)):
            Y = Y[order]
        rotation = factor_cov.outer if on_all_rows else Rotation()
        own = lay_out_cis(cis, priors.cis, latent.traits, order, active, centred, groups, rotation)
        if own.n:
            notes.append(
                f"cis: {own.n} effect(s) of {len(own.columns)} column(s) on {len(np.unique(own.trait))} trait(s)"
            )
        if components:
            notes.append(_describe_bases(joint, factor_cov))
        notes += _describe_groups(groups, factor_cov, columns, latent, order, scattered, in_use | ~flat)
        membership = np.zeros((n, len(groups)), dtype=bool)
        for s, group in enumerate(groups):
            membership[group.rows, s] = True
        pattern_groups, row_pattern = np.unique(membership, axis=0, return_inverse=True)
        with np.errstate(divide="ignore"):
            trait_precisions: PrecisionPrior | TraitPrecisions
            if isinstance(priors.residual, VarianceComponents):
                labels = [component.label for component in components]
                units = np.array([component.unit for component in components])
                trait_precisions, masses = priors.residual.on_grid(labels, grid, scale[order], units)
            else:
                trait_precisions, masses = priors.residual, prior_masses(priors.h2, grid, "h2")
                held, unseen = latent.unit_precision, latent.residual_unseen
                if held.any() or unseen.any():
                    trait_precisions = _hold(priors.residual, held, unseen, scale[order], grid.residual_share)
                if held.any():
                    notes.append(
                        f"the trait-specific variance of {held.sum()} latent trait(s) is held at 1: categories set no "
                        "scale"
                    )
                if unseen.any():
                    names = np.array(latent.traits)[order[unseen]]
                    notes.append(
                        f"the residual variance of {shortlist(names)} is held at 1 on the logit scale: single 0/1 "
                        "records say nothing about it, so fixed effects and variances are those at this value, and "
                        "h2 is a share of what is beside the logistic law's own 3.29. link='probit' has one scale, "
                        "that of the liability"
                    )
            of_factors = prior_masses(priors.h2_factors, grid, "h2_factors")
            log_prior_traits = np.log(_without(masses, grid, components, design, only_on or {}, "factors"))
            log_prior_factors = np.log(_without(of_factors, grid, components, design, only_on or {}, "traits"))
        return Problem(
            y=rotation.forward(Y),
            x=rotation.forward(x),
            x_factor=rotation.forward(x_factor),
            covariates=covariates,
            trait_covariates=read_trait_covariates(loadings_on, trait_data, latent.traits, order),
            traits=latent.traits,
            order=order,
            base_coef=base_coef,
            scale=scale,
            center_coef=center_coef,
            center_coefs=_by_told_effects(np.tile(center_coef, (p, 1)), x, told & in_use, latent.informative).T,
            x_shift=x_shift,
            active=active,
            n_rows=design.n,
            components=components,
            grid=grid,
            log_prior_traits=log_prior_traits,
            trait_precisions=trait_precisions,
            log_prior_factors=log_prior_factors,
            groups=tuple(groups),
            factor_cov=factor_cov.without_outer() if on_all_rows else factor_cov,
            collapsed=collapsed,
            rotation=rotation,
            row_pattern=row_pattern.reshape(-1).astype(np.intp),
            pattern_groups=pattern_groups,
            n_factors=int(k),
            most_factors=int(most_factors),
            adaptive=adaptive,
            priors=priors,
            links=latent.links,
            offset=np.zeros(n) if design.offset is None else design.offset[active],
            row_blocks=row_blocks(n, factor_cov.rank if collapsed else n),
            notes=tuple(notes),
            cis=own,
            prior_only=prior_only,
        )


def _near_zero(design: Design, prior: FixefPrior) -> tuple[Design, np.ndarray]:
    """Take their means off columns far from zero, if other flat columns span the constant and can be given them back.

    It is the same model, but for rounding: the products of a column of 1e8 with itself leave no digits of what varies.

    Returns
    -------
    Design
    ndarray, shape (b,)
        What was taken off each column.
    """
    x = design.X.to_numpy(dtype=float).T
    mean, sd = x.mean(axis=1), x.std(axis=1)
    far = (np.abs(mean) > FAR * sd) & (sd > CONSTANT * np.abs(mean))
    if not far.any() or _constant_coefficients(x, flat_columns(x, prior) & ~far) is None:
        return design, np.zeros(len(x))
    shift = np.where(far, mean, 0.0)
    return replace(design, X=design.X - shift), shift


def row_blocks(n: int, rank: int) -> tuple[slice, ...]:
    """Blocks of rows with a random stream each, of a size that depends on n only; none straddles the rank."""
    inside = BLOCK * int(np.clip(n // (64 * BLOCK), 1, 16))
    outside = blocks(n - rank, 32 * BLOCK)
    return (*blocks(rank, inside), *(slice(rank + rows.start, rank + rows.stop) for rows in outside))


def _without(
    masses: np.ndarray,
    grid: ShareGrid,
    components: Sequence[Component],
    design: Design,
    only_on: Mapping[str, str],
    others: str,
) -> np.ndarray:
    """Masses of the shares of traits (or factors) without the random effects that are only on the `others`."""
    left_out = [m for m, c in enumerate(components) if _is_only_on(others, c, design, only_on)]
    kept = np.where(np.any(grid.shares[:, left_out] > 0, axis=1), 0.0, masses)
    if kept.sum() == 0.0:
        raise OptionError(
            f"markers_on='{others}' leaves shares of zero only, which the prior of the shares gives no mass. Choose "
            "h2='uniform' or 'spike', and a PrecisionPrior for residual."
        )
    return kept / kept.sum()


def _is_only_on(part: str, component: Component, design: Design, only_on: Mapping[str, str]) -> bool:
    """Whether a random effect is only on "factors", or only on "traits"."""
    return only_on.get(design.terms[component.term].cov or "") == part


def group_patterns(
    observed: np.ndarray, joint: JointBasis, n_bases: int, budget: float | None = None
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Groups of traits that share kept rows, as (row mask, traits).

    Every distinct missing pattern is its own group while eigenbases fit the budget. Beyond it, the patterns of most
    traits keep theirs, and each other trait joins the kept pattern (or all rows) that covers its rows with the fewest
    cells to impute.

    Parameters
    ----------
    observed : ndarray of bool, shape (p, n)
    joint : JointBasis
        Of all rows.
    n_bases : int
        Eigenbases for each group.
    budget : float, optional
        Bytes they may take in all.
    """
    budget = PATTERN_BYTES if budget is None else budget
    p, n = observed.shape

    def cost(size: int) -> tuple[float, float]:
        """Bytes and operations of the bases of a group; families shrink with its rows, replicates need not."""
        squares, cubes = (sum(f * s**power for f, s in joint.families) for power in (2, 3))
        if joint.n_cells < n:
            return 8.0 * squares * n_bases, 9.0 * cubes * n_bases
        return 8.0 * squares * size**2 / n**2 * n_bases, 9.0 * cubes * size**3 / n**3 * n_bases

    by_pattern: dict[bytes, list[int]] = {}
    for j in range(p):
        by_pattern.setdefault(np.packbits(observed[j]).tobytes(), []).append(j)
    candidates = sorted(by_pattern.values(), key=lambda traits: (-len(traits), traits[0]))
    kept: list[tuple[np.ndarray, list[int]]] = []
    left_over: list[int] = []
    everything = np.ones(n, dtype=bool)
    bytes_used, flops = cost(n)
    for traits in candidates:
        mask = observed[traits[0]]
        size = int(mask.sum())
        more_bytes, more_flops = cost(size)
        if size == n or (bytes_used + more_bytes <= budget and flops + more_flops <= PATTERN_FLOPS):
            kept.append((mask, list(traits)))
            if size < n:  # all rows are counted from the start
                bytes_used, flops = bytes_used + more_bytes, flops + more_flops
        else:
            left_over.extend(traits)
    if left_over:
        if not any(mask.all() for mask, _ in kept):
            kept.append((everything, []))
        for j in left_over:
            covering = [group for group in kept if not np.any(observed[j] & ~group[0])]
            min(covering, key=lambda group: int(group[0].sum()))[1].append(j)
    return [(mask, np.array(sorted(traits))) for mask, traits in kept if traits]


def _is_scattered(observed: np.ndarray, joint: JointBasis, k: int, budget: float) -> bool:
    """Whether it pays to keep all rows for all traits and draw the missing cells with U integrated out; eq. SLAM-35.

    Against groups of their own rows, which integrate the cells out but need U in the chain: the work of what the two
    do differently, in an iteration, for each effective draw of the trait that mixes worst. Drawn cells hold a trait
    where it is: with a share f of them missing its draws are worth (1 - f) / (1 + f).
    """
    n = observed.shape[1]
    missing = np.sum(~observed, axis=1, dtype=float)
    if 8.0 * n * n > max(budget, PATTERN_BYTES):
        return False
    drawn = np.sum(n * missing**2 + missing**3 / 3 + 4.0 * n * missing)
    in_groups = 4.0 * k * n * n
    for mask, traits in group_patterns(observed, joint, 1, budget):
        size = float(mask.sum())
        in_groups += 2.0 * (k + 2 * len(traits)) * size * size
    worst = missing.max()
    return bool(drawn * (n + worst) <= COST_OF_RANDOM * in_groups * (n - worst))


@dataclass(frozen=True)
class LatentTraits:
    """What the links make of the data, on the rows that say anything; traits in the user's order.

    Attributes
    ----------
    traits : tuple of str
    order : ndarray of int, shape (p,)
        User's position of each trait in the order of the links.
    known : ndarray of bool, shape (p, n)
        Cells whose latent value is the data.
    informative : ndarray of bool, shape (p, n)
        Cells of which the data say something.
    base_coef : ndarray, shape (p, flat columns)
    scale : ndarray, shape (p,)
    active : ndarray of int
        Rows of the design.
    silent : list
        Labels of the other rows.
    links : tuple of LinkedTraits
        Empty when all are the identity.
    """

    traits: tuple[str, ...]
    order: np.ndarray
    known: np.ndarray
    informative: np.ndarray
    base_coef: np.ndarray
    scale: np.ndarray
    active: np.ndarray
    silent: list[str]
    links: tuple[LinkedTraits, ...]

    @property
    def unit_precision(self) -> np.ndarray:
        """Traits whose tau is held at one, in the order of the links, shape (p,)."""
        held = np.zeros(len(self.traits), dtype=bool)
        for part in self.links:
            held[part.traits] = part.likelihood.unit_precision
        return held

    @property
    def residual_unseen(self) -> np.ndarray:
        """Traits whose residual variance is held at one, in the order of the links, shape (p,)."""
        unseen = np.zeros(len(self.traits), dtype=bool)
        for part in self.links:
            unseen[part.traits] = part.likelihood.residual_unseen
        return unseen


def _fixed_part(x: np.ndarray, prior: FixefPrior, cis: CisColumns | None, rows: np.ndarray) -> FixedPart:
    """What the fixed effects (b, n) and the covariates of single traits may explain, on some rows of the design."""
    flat, n = flat_columns(x[:, rows], prior), len(rows)
    if cis is None:
        return FixedPart(x[flat][:, rows], x[~flat][:, rows], np.zeros((0, n)))
    own = {name: cis.column[span] for name, span in cis.spans.items()}
    return FixedPart(x[flat][:, rows], x[~flat][:, rows], cis.values.to_numpy(dtype=float)[rows].T, own)


def _lay_out_traits(
    design: Design, choice: LinkChoice, prior: FixefPrior, cis: CisColumns | None
) -> tuple[LatentTraits, np.ndarray]:
    """Give each link its columns, and put together what comes back; with the start values, shape (p, n)."""
    parts = assign_links(choice, [str(name) for name in design.traits], LINKS)
    if design.Y is None and not any(part.link.brings_data for part in parts):
        raise DataError("slam() needs responses: write them left of '~' or pass Y= (rows of the frame × traits).")
    values = pd.DataFrame(index=design.X.index) if design.Y is None else design.Y
    offset = np.zeros(design.n) if design.offset is None else design.offset
    x = design.X.to_numpy(dtype=float).T
    measured = []
    fixed = _fixed_part(x, prior, cis, np.arange(design.n))
    for part in parts:
        mine = set(part.columns)
        columns = [i for i, name in enumerate(values.columns) if str(name) in mine]
        own = values if len(columns) == values.shape[1] else values.iloc[:, columns]
        measured.append(Measurements(own, offset, design.rows, design.n + design.n_dropped, fixed))
    likelihoods = [part.link.prepare(of) for part, of in zip(parts, measured, strict=True)]
    says = np.concatenate([likelihood.informative for likelihood in likelihoods]).any(axis=0)
    active = np.flatnonzero(says)
    if not says.all():
        # Units are those of the rows that count.
        fixed = _fixed_part(x, prior, cis, active)
        measured = [replace(of.take(active), fixed=fixed) for of in measured]
        likelihoods = [part.link.prepare(of) for part, of in zip(parts, measured, strict=True)]
    names = [name for likelihood in likelihoods for name in likelihood.traits]
    twice = sorted(name for name, count in Counter(names).items() if count > 1)
    if twice:
        raise DataError(f"link: two latent traits are called {shortlist(twice)}. Rename their columns.")
    wanted = [str(name) for name in values.columns]
    traits = wanted if sorted(wanted) == sorted(names) else names
    position = {name: i for i, name in enumerate(traits)}
    order = np.array([position[name] for name in names], dtype=np.intp)
    linked, first = [], 0
    for part, likelihood in zip(parts, likelihoods, strict=True):
        size = len(likelihood.traits)
        of_part = tuple(blocks(size, BLOCK)) if likelihood.separable else (slice(0, size),)
        linked.append(LinkedTraits(part, likelihood, slice(first, first + size), of_part))
        first += size
    if all(isinstance(part.link, Identity) for part in parts):
        linked = []

    def gather(name: str) -> np.ndarray:
        arrays = [getattr(likelihood, name) for likelihood in likelihoods]
        whole = arrays[0] if len(arrays) == 1 else np.concatenate(arrays)
        return whole if np.array_equal(order, np.arange(len(order))) else whole[np.argsort(order)]

    latent = LatentTraits(
        tuple(traits),
        order,
        gather("known"),
        gather("informative"),
        gather("base_coef"),
        gather("scale"),
        active,
        [str(label) for label in design.X.index[~says]],
        tuple(linked),
    )
    return latent, gather("start")


def _hold(
    prior: PrecisionPrior, unit: np.ndarray, unseen: np.ndarray, scale: np.ndarray, residual_share: np.ndarray
) -> TraitPrecisions:
    """The prior of tau, with some variances held at one: of all that is a trait's own, or of its residual.

    Parameters
    ----------
    prior : PrecisionPrior
        Of the other traits.
    unit, unseen : ndarray of bool, shape (p,)
        Traits with ``1/tau = 1``, and traits with ``(1 - s_g)/tau = 1`` in natural units.
    scale : ndarray, shape (p,)
        Natural units of the traits.
    residual_share : ndarray, shape (n_points,)
    """
    shape = np.where(unit | unseen, HELD_SHAPE, prior.shape)
    rate = np.repeat(np.where(unit, HELD_SHAPE, prior.rate)[:, None], len(residual_share), axis=1)
    rate[unseen] = HELD_SHAPE / np.outer(scale[unseen] ** 2, residual_share)
    return TraitPrecisions(shape, rate)


def _components(design: Design, active: np.ndarray) -> tuple[Component, ...]:
    components = []
    for t, term in enumerate(design.terms):
        group = term.label.split("|")[-1]  # "gr(id, D)" keeps its matrix
        present = term.levels[np.unique(term.codes[active])]
        if len(present) < 2:
            raise DataError(
                f"random term '{term.label}' has a single level ({shortlist(present)}) in the rows with data: "
                "its variance cannot be estimated. Leave the term out."
            )
        for c, effect in enumerate(term.effects):
            label = term.label if len(term.effects) == 1 else group if effect == "Intercept" else f"{effect}|{group}"
            rows, column = np.arange(len(active)), term.M[active, c]
            # A column of zeros is refused with the other checks.
            unit = float(np.sqrt(np.mean(column**2))) or 1.0
            Z = sp.csr_array(
                (column / unit, (rows, term.codes[active])), shape=(len(active), len(term.levels)), dtype=float
            )
            components.append(Component(label, t, c, Z, term.K, unit))
    return tuple(components)


def _check_effects(components: Sequence[Component]) -> None:
    for component in components:
        diagonal = component.random_effect.diagonal()
        mean = diagonal.mean()
        if mean <= 0:
            raise DataError(f"random term '{component.label}': Z K Z' is zero on the rows with data.")
        if np.abs(diagonal - mean).max() <= 1e-8 * mean and _unrelated(component.random_effect, mean):
            raise DataError(
                f"random term '{component.label}' has one record for each level and no relationships between levels, "
                f"so it cannot be told from the residual (its h2 would only repeat the prior). {_advice(component)}, "
                "or leave the term out."
            )
        if component.K is not None and not 0.8 <= mean <= 1.25:
            warn(
                f"relmat for '{component.label}': mean diagonal of Z K Z' is {mean:.3g}. K is used as given, so h2 is "
                "the share at one unit of K, not at the average individual; divide K by this number if you want that.",
                ScaleWarning,
            )


def _advice(component: Component) -> str:
    """What to do about a component whose levels with records are not related."""
    if component.K is not None:
        return "In its relationship matrix these are zero (is it an inverse, or of other individuals?). Correct it"
    return f"Pass a relationship matrix, relmat={{'{component.label}': K}}, for example K = slamglmm.kinship(markers)"


def _unrelated(effect: RandomEffect, mean: float) -> bool:
    """Whether a ``Z K Z'`` of constant diagonal has nothing beside it."""
    present = np.unique(effect.codes)
    if len(present) < len(effect.codes):
        return False
    if effect.K is None:
        return True
    among = effect.K[present][:, present].copy()
    if sp.issparse(among):
        among -= sp.diags_array(among.diagonal())
    else:
        np.fill_diagonal(among, 0.0)
    return bool(abs(among).max() <= 1e-8 * mean)


def _stays_invertible(joint: JointBasis) -> bool:
    values = joint.values
    if values is None or not len(values) or joint.rank < joint.n:
        return False
    return bool(np.all(values.min(axis=1) >= MIN_RELATIVE_EIGENVALUE * values.mean(axis=1)))


def _estimable_of(x: np.ndarray, flat: np.ndarray) -> np.ndarray:
    """Columns (rows of ``x``) that are shrunk, or not combinations of earlier flat ones."""
    estimable = np.ones(len(x), dtype=bool)
    estimable[flat] = independent_columns(x[flat].T)
    return estimable


def _told(x: np.ndarray, flat: np.ndarray, informative: np.ndarray) -> np.ndarray:
    """Columns that the rows with data of each trait can tell apart, shape (p, b)."""
    if informative.all():
        return np.tile(_estimable_of(x, flat), (len(informative), 1))
    patterns, which = np.unique(informative, axis=0, return_inverse=True)
    told = np.ones((len(patterns), len(x)), dtype=bool)
    for i in np.flatnonzero(~_far_from_collinear(x[flat], patterns)):
        told[i] = _estimable_of(x[:, patterns[i]], flat)
    return told[which.ravel()]


def _by_told_effects(coef: np.ndarray, x: np.ndarray, told: np.ndarray, informative: np.ndarray) -> np.ndarray:
    """Coefficients (p, b) that say the same of the rows with data of each trait, by columns that these can tell."""
    out = coef.copy()
    for j in np.flatnonzero(((coef != 0) & ~told).any(axis=1)):
        rows = x[:, informative[j]]
        out[j] = 0.0
        out[j, told[j]] = np.linalg.lstsq(rows[told[j]].T, coef[j] @ rows, rcond=None)[0]
    return out


def _far_from_collinear(x: np.ndarray, patterns: np.ndarray) -> np.ndarray:
    """Sets of rows (patterns × n) on which the columns are so far from collinear that their correlations show it.

    A look at all sets at a time, because thousands of traits may each lack cells of their own.
    """
    b = len(x)
    grams = np.empty((len(patterns), b, b))
    for i, column in enumerate(x):
        grams[:, i] = patterns @ (column * x).T
    sizes = np.sqrt(np.einsum("sbb->sb", grams))
    told = (sizes > 0).all(axis=1)
    grams[told] /= sizes[told, :, None] * sizes[told, None, :]
    told[told] = np.linalg.eigvalsh(grams[told]).min(axis=1, initial=1.0) > 1e-4
    return told


def factor_columns(factor_design: Design, notes: list[str]) -> list[str]:
    """Columns of the factors' fixed effects that are not an intercept."""
    kept = [name for name, column in factor_design.X.items() if np.ptp(column.to_numpy()) > 0]
    dropped = [str(name) for name in factor_design.X.columns if name not in kept]
    if dropped and dropped != ["Intercept"]:
        notes.append(f"factor_formula: {shortlist(dropped)} left out; factors have no intercept")
    return [str(name) for name in kept]


def _factor_columns(
    factor_design: Design | None, design: Design, active: np.ndarray, notes: list[str]
) -> tuple[np.ndarray, list[str]]:
    """Rows with data of the factors' fixed effects, shape (b_F, n), and their names."""
    if factor_design is None:
        return np.zeros((0, len(active))), []
    if factor_design.terms or factor_design.Y is not None or factor_design.offset is not None:
        raise OptionError(
            f"factor_formula={factor_design.formula!r}: expected fixed effects only, such as '~ sex'. Factors have the "
            "random effects of the traits."
        )
    wanted = design.rows[active]
    lost = np.setdiff1d(wanted, factor_design.rows)
    if len(lost):
        raise DataError(
            f"factor_formula={factor_design.formula!r}: covariates are missing in {len(lost)} row(s) with data "
            f"({shortlist(lost)}, counted from 0). Fill them in or drop these rows."
        )
    names = factor_columns(factor_design, notes)
    position = np.searchsorted(factor_design.rows, wanted)
    return np.ascontiguousarray(factor_design.X[names].to_numpy(dtype=float)[position].T), names


def _constant_coefficients(x: np.ndarray, flat: np.ndarray) -> np.ndarray | None:
    """Coefficients of flat fixed effects that add up to the constant, or None when none do."""
    one = np.ones(x.shape[1])
    coef = np.zeros(len(x))
    if flat.any():
        coef[flat] = np.linalg.lstsq(x[flat].T, one, rcond=None)[0]
    if len(x) == 0 or np.abs(coef @ x - one).max() > 1e-8:
        return None
    coef[np.abs(coef) < 1e-10] = 0.0
    return coef


def _describe_bases(joint: JointBasis, cov: Covariances) -> str:
    """What was found in the random effects, and what the chain works with."""
    rows = f"{joint.n} rows"
    if joint.n_cells < joint.n:
        rows += f" with {joint.n_cells} distinct combinations of random effects"
    count = sum(f for f, _ in joint.families)
    if count > 1:
        rows += f", in {count} families of at most {max(s for _, s in joint.families)}"
    basis = "eigenbasis" if count == 1 else "eigenbases of the families"
    if cov.kind == "rays":
        how = f"variance shares that do not commute: {basis} for each of {len(cov.inner)} directions"
    else:
        how = f"one {basis}" if count == 1 else basis
        if len(joint.values if joint.values is not None else ()) > 1:
            how = f"variance shares that commute: {how}"
    return f"{rows}; {how}, rank {cov.rank} ({cov.nbytes / 2**20:.3g} MiB)"


def _describe_groups(
    groups: Sequence[TraitGroup],
    cov: Covariances,
    columns: list[str],
    latent: LatentTraits,
    order: np.ndarray,
    scattered: bool,
    independent: np.ndarray,
) -> list[str]:
    lines = []
    n_imputed = sum(int(group.imputed.sum()) for group in groups)
    n_rows = max(len(group.rows) for group in groups)
    if latent.links:
        kinds = ", ".join(f"{type(part.link.link).__name__} ({len(part.likelihood.traits)})" for part in latent.links)
        lines.append(f"links: {kinds}; {n_imputed} cell(s) of the latent traits are drawn in each iteration")
    elif scattered:
        lines.append(f"missing cells: {n_imputed} cell(s) are drawn, random effects integrated out")
    elif len(groups) > 1 or n_imputed or n_rows < cov.n:
        memory = sum(group.cov.nbytes for group in groups) / 2**20
        lines.append(
            f"missing cells: {len(groups)} group(s) of traits with common rows ({memory:.0f} MiB); "
            f"{n_imputed} cell(s) inside them are drawn, the others are integrated out"
        )
    aliased = [
        (group.traits.start + j, c)
        for group in groups
        for j, held in enumerate(group.held)
        for c in np.flatnonzero((~group.estimable | held) & independent)
    ]
    if aliased:
        j, c = aliased[0]
        lines.append(
            f"{len(aliased)} fixed effect(s) cannot be told from the rows where a trait has data; they are left out, "
            f"and are NaN (first: '{columns[c]}' on '{latent.traits[order[j]]}')"
        )
        warn(lines[-1], SlamWarning)
    return lines
