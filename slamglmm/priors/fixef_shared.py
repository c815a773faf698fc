"""Fixed effects with one variance for each covariate: on factors only, or shared by traits and factors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ..options import Options
from .fixef import Covariates, EffectScales, FixefPrior


@dataclass(frozen=True)
class FlatEffects(FixefPrior):
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
        Options(vars(self), type(self).__name__).number("V", "nu", "df", above=0)

    def start(self, columns: Covariates, n_traits: int, n_factors: int, n_rows: int) -> EffectScales:
        """Variances at V."""
        return EffectScales(
            np.full(len(columns.names), self.V),
            np.ones((n_factors, len(columns.factor))),
            None,
            np.ones(n_traits),
            np.ones(n_factors),
        )

    def simulate(
        self, columns: Covariates, n_traits: int, n_factors: int, n_rows: int, rng: np.random.Generator
    ) -> EffectScales:
        """Scales drawn from the prior."""
        scales = self.start(columns, n_traits, n_factors, n_rows)
        scales.variance[:] = self.nu * self.V / rng.chisquare(self.nu, len(scales.variance))
        scales.local_factor[:] = rng.chisquare(self.df, scales.local_factor.shape) / self.df
        return scales

    def draw(
        self,
        columns: Covariates,
        scales: EffectScales,
        on_traits: np.ndarray,
        on_factors: np.ndarray,
        n_rows: int,
        rng: np.random.Generator,
    ) -> None:
        """Draw the variance of each covariate's effects, then the local scales of those on factors; eq. SLAM-30."""
        counts, squares = np.zeros(len(columns.names)), np.zeros(len(columns.names))
        shrunk = ~columns.flat
        np.add.at(squares, columns.trait[shrunk], on_traits.sum(axis=0)[shrunk])
        np.add.at(squares, columns.factor, np.sum(on_factors * scales.local_factor, axis=0))
        np.add.at(counts, columns.trait[shrunk], len(on_traits))
        np.add.at(counts, columns.factor, len(on_factors))
        scales.variance[:] = self.draw_variance(counts, squares, rng)
        of_normal = on_factors / scales.variance[columns.factor]
        noise = rng.standard_gamma(0.5 * (self.df + 1.0), of_normal.shape)
        scales.local_factor[:] = noise / (0.5 * (self.df + of_normal))

    def draw_variance(self, counts: np.ndarray, squares: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Variances given how many effects each covariate has and the sum of their standardised squares."""
        return np.asarray((0.5 * self.nu * self.V + 0.5 * squares) / rng.standard_gamma(0.5 * (self.nu + counts)))


@dataclass(frozen=True)
class SharedEffects(FlatEffects):
    """One variance for all effects of a covariate, on traits and on factors; the intercept is flat; eq. SLAM-28.

    Parameters
    ----------
    V, nu, df : float
        As for `FlatEffects`.
    """

    shrinks_traits: ClassVar[bool] = True
