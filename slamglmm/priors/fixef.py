"""What every prior of the fixed effects has in common; one file and one line in `FIXEF` make a new one.

Effects on traits are ``b_qj ~ N(0, 1 / (tau_j prec_qj))``, flat where the precision is zero; those on factors are
``N(0, 1 / (kappa_l prec_ql))`` and never flat (eq. SLAM-28). A prior says how the precisions come about.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import numpy as np


@dataclass(frozen=True)
class Covariates:
    """Columns of the fixed effects on traits and on factors, and the variances they have in common.

    Attributes
    ----------
    names : tuple of str, length q
        Covariates with a variance.
    trait, factor : ndarray of int, shapes (b,) and (b_F,)
        Which of them a column is; -1 for a flat one.
    trait_square, factor_square : ndarray
        Mean square deviation of each column.
    """

    names: tuple[str, ...]
    trait: np.ndarray
    factor: np.ndarray
    trait_square: np.ndarray
    factor_square: np.ndarray

    @cached_property
    def flat(self) -> np.ndarray:
        """Columns with flat effects on traits, shape (b,)."""
        return self.trait < 0

    @cached_property
    def n_shrunk(self) -> int:
        """Number of columns whose effects on traits are shrunk."""
        return int(np.sum(self.trait >= 0))


@dataclass
class EffectScales:
    """Scales of the fixed effects; mutable, part of the sampler's state.

    Attributes
    ----------
    variance : ndarray, shape (q,)
        Of the effects of each covariate, of one standard deviation of it; ones where nothing is shared.
    local_factor : ndarray, shape (k, b_F)
        Local precision of each effect on a factor.
    local_trait : ndarray, shape (p, b), or None
        Local precision of each effect on a trait; None where the traits differ in nothing but tau.
    global_trait, global_factor : ndarray, shapes (p,) and (k,)
        Squared scale of all effects on a trait or a factor.
    """

    variance: np.ndarray
    local_factor: np.ndarray
    local_trait: np.ndarray | None
    global_trait: np.ndarray
    global_factor: np.ndarray

    def trait_prec(self, columns: Covariates, traits: slice = slice(None)) -> np.ndarray:
        """Prior precision of the effects on traits, in units of tau, zero where flat; shape (b,) or (traits, b)."""
        prec = np.zeros(len(columns.trait))
        if not columns.n_shrunk:
            return prec
        shrunk = ~columns.flat
        prec[shrunk] = columns.trait_square[shrunk] / self.variance[columns.trait[shrunk]]
        if self.local_trait is None:
            return prec
        return np.asarray(prec * (self.local_trait[traits] / self.global_trait[traits, None]))

    def factor_prec(self, columns: Covariates) -> np.ndarray:
        """Prior precision of the effects on factors, in units of kappa, shape (k, b_F)."""
        shared = columns.factor_square / self.variance[columns.factor]
        return np.asarray(self.local_factor / self.global_factor[:, None] * shared)

    def permute(self, order: np.ndarray) -> None:
        """Give each factor what belongs to another."""
        self.local_factor[:] = self.local_factor[order]
        self.global_factor[:] = self.global_factor[order]


class FixefPrior(ABC):
    """A prior of the fixed effects: its start, its draws, and its law (for joint-distribution tests)."""

    #: Whether effects on traits are shrunk (all but those of a constant column).
    shrinks_traits: ClassVar[bool] = True

    @abstractmethod
    def start(self, columns: Covariates, n_traits: int, n_factors: int, n_rows: int) -> EffectScales:
        """Scales a chain begins with."""

    @abstractmethod
    def simulate(
        self, columns: Covariates, n_traits: int, n_factors: int, n_rows: int, rng: np.random.Generator
    ) -> EffectScales:
        """Scales drawn from the prior."""

    @abstractmethod
    def draw(
        self,
        columns: Covariates,
        scales: EffectScales,
        on_traits: np.ndarray,
        on_factors: np.ndarray,
        n_rows: int,
        rng: np.random.Generator,
    ) -> None:
        """Update the scales given standardised squares ``tau s^2 b^2`` (p, b) and ``kappa s^2 b_F^2`` (k, b_F)."""


def flat_columns(x: np.ndarray, prior: FixefPrior) -> np.ndarray:
    """Which columns of ``x`` (b, n) have flat effects on traits, shape (b,); a constant one is their intercept."""
    constant = x.var(axis=1) <= 1e-20 * np.mean(x * x, axis=1)
    return np.asarray(constant | (not prior.shrinks_traits))


def lay_out_covariates(
    x: np.ndarray, names: list[str], x_factor: np.ndarray, factor_names: list[str], prior: FixefPrior
) -> Covariates:
    """Match the columns of both designs by name.

    Parameters
    ----------
    x, x_factor : ndarray, shapes (b, n) and (b_F, n)
    names, factor_names : list of str
    prior : FixefPrior
    """
    trait_square, factor_square = x.var(axis=1), x_factor.var(axis=1)
    shrunk = [name for name, yes in zip(names, flat_columns(x, prior), strict=True) if not yes]
    known = list(dict.fromkeys([*shrunk, *factor_names]))
    trait = [known.index(name) if name in shrunk else -1 for name in names]
    factor = [known.index(name) for name in factor_names]
    return Covariates(
        tuple(known), np.array(trait, dtype=np.intp), np.array(factor, dtype=np.intp), trait_square, factor_square
    )
