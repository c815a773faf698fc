"""Priors of the fixed effects on traits and on factors."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import numpy as np

from ..errors import OptionError


@dataclass(frozen=True)
class FlatEffects:
    """Flat effects on traits; effects on factors share a variance for each covariate; eq. SLAM-28.

    Parameters
    ----------
    V, nu : float
        Prior of the variance of a covariate's effects, ``nu V / variance`` being chi-squared with nu degrees of
        freedom: effects of one standard deviation of the covariate, in units of the residual or factor variance.
    df : float
        Degrees of freedom of the t distribution of the effects on factors: a few of them may be large where the
        covariate does little else.
    """

    V: float = 0.1
    nu: float = 1.0
    df: float = 3.0
    shrinks_traits: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if not all(0 < value < np.inf for value in (self.V, self.nu, self.df)):
            raise OptionError(
                f"{type(self).__name__}(V={self.V!r}, nu={self.nu!r}, df={self.df!r}): expected positive numbers."
            )

    def draw(self, counts: np.ndarray, squares: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Variances given how many effects each covariate has and the sum of their standardised squares."""
        return (0.5 * self.nu * self.V + 0.5 * squares) / rng.standard_gamma(0.5 * (self.nu + counts))

    def draw_local(self, squares: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Local precisions of the effects on factors given their squares over the variance of normal effects."""
        return rng.standard_gamma(0.5 * (self.df + 1.0), squares.shape) / (0.5 * (self.df + squares))


@dataclass(frozen=True)
class SharedEffects(FlatEffects):
    """One variance for all effects of a covariate, on traits and on factors; the intercept is flat; eq. SLAM-28.

    Parameters
    ----------
    V, nu, df : float
        As for `FlatEffects`.
    """

    shrinks_traits: ClassVar[bool] = True


FIXEF: dict[str, type[FlatEffects]] = {"flat": FlatEffects, "shared": SharedEffects}


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

    def trait_prec(self, variance: np.ndarray) -> np.ndarray:
        """Prior precision of the effects on traits, in units of tau; zero where flat."""
        prec = np.zeros(len(self.trait))
        if not self.n_shrunk:
            return prec
        shrunk = ~self.flat
        prec[shrunk] = self.trait_square[shrunk] / variance[self.trait[shrunk]]
        return prec

    def factor_prec(self, variance: np.ndarray) -> np.ndarray:
        """Prior precision of the effects on factors, in units of kappa times their local precision."""
        return self.factor_square / variance[self.factor]


def lay_out_covariates(
    x: np.ndarray, names: list[str], x_factor: np.ndarray, factor_names: list[str], prior: FlatEffects
) -> Covariates:
    """Match the columns of both designs by name.

    Parameters
    ----------
    x, x_factor : ndarray, shapes (b, n) and (b_F, n)
    names, factor_names : list of str
    prior : FlatEffects
    """
    trait_square, factor_square = x.var(axis=1), x_factor.var(axis=1)
    # A constant column is the traits' intercept.
    varies = trait_square > 1e-20 * np.mean(x * x, axis=1)
    shrunk = [name for name, yes in zip(names, varies, strict=True) if yes and prior.shrinks_traits]
    known = list(dict.fromkeys([*shrunk, *factor_names]))
    trait = [known.index(name) if name in shrunk else -1 for name in names]
    factor = [known.index(name) for name in factor_names]
    return Covariates(
        tuple(known), np.array(trait, dtype=np.intp), np.array(factor, dtype=np.intp), trait_square, factor_square
    )
