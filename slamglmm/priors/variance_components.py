"""Inverse-gamma priors of the variances themselves, in MCMCglmm's words; exact on the grid of shares."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ..errors import OptionError, shortlist
from ..options import Options, is_number
from .h2_grid import ShareGrid

RESIDUAL = "Residual"


@dataclass(frozen=True)
class TraitPrecisions:
    """Gamma priors of the precisions of traits, with a rate for each trait and grid point; eq. SLAM-27.

    Attributes
    ----------
    shape : ndarray, shape (p,)
    rate : ndarray, shape (p, n_points)
    """

    shape: np.ndarray
    rate: np.ndarray

    def of(self, traits: slice) -> TraitPrecisions:
        """Those of some traits."""
        return TraitPrecisions(self.shape[traits], self.rate[traits])


@dataclass(frozen=True)
class VarianceComponents:
    """Independent priors of a trait's variances: ``nu V / variance`` is chi-squared with nu degrees of freedom.

    That is MCMCglmm's inverse-Wishart prior of one variance, and an inverse gamma of shape ``nu/2`` and scale
    ``nu V/2``. Takes the place of the priors of the trait-specific shares and precision.

    Parameters
    ----------
    V : float or dict
        Scale of each variance: one number for all, or a number for each random effect and ``"Residual"``.
    nu : float or dict
        Degrees of freedom, the same way.
    relative : bool
        Whether V is a share of each trait's variance beyond the fixed effects; otherwise it is in squared units of the
        data. Of a slope, relative V is for one root mean square of its covariate, the other for one unit.
    """

    V: float | Mapping[str, float]
    nu: float | Mapping[str, float]
    relative: bool = False

    def __post_init__(self) -> None:
        check = Options(vars(self), "VarianceComponents")
        for name in ("V", "nu"):
            value = getattr(self, name)
            numbers = list(value.values()) if isinstance(value, Mapping) else [value]
            if not numbers or not all(is_number(number) and 0 < number < np.inf for number in numbers):
                raise check.refuse(
                    name, "positive numbers: one for all, or a dict of one for each random effect and 'Residual'"
                )
        check.flag("relative")

    def on_grid(
        self, labels: Sequence[str], grid: ShareGrid, scale: np.ndarray, units: np.ndarray
    ) -> tuple[TraitPrecisions, np.ndarray]:
        """The same prior as shares on a grid and a precision given the share.

        Parameters
        ----------
        labels : sequence of str
            Of the random effects.
        grid : ShareGrid
        scale : ndarray, shape (p,)
            What each trait was divided by.
        units : ndarray, shape (n_effects,)
            What the column of each random effect was divided by.

        Returns
        -------
        TraitPrecisions
            Of the divided traits.
        masses : ndarray, shape (n_points,)
            Marginal prior of the grid points; zero where a variance would be.
        """
        names = [*labels, RESIDUAL]
        V, nu = self._by_name("V", names), self._by_name("nu", names)
        if not self.relative:
            V = V * np.append(units, 1.0) ** 2
        shares = np.column_stack((grid.shares, grid.residual_share))
        inside = np.all(shares > 1e-12, axis=1)
        parts = np.where(inside[:, None], shares, 1.0)
        shape, rate = 0.5 * nu.sum(), np.sum(0.5 * nu * V / parts, axis=1)
        log_mass = np.log(grid.cell) - np.log(parts) @ (0.5 * nu + 1.0) - shape * np.log(rate)
        masses = np.where(inside, np.exp(log_mass - log_mass[inside].max()), 0.0)
        unit = np.ones_like(scale) if self.relative else scale
        return TraitPrecisions(np.full(len(scale), shape), rate / unit[:, None] ** 2), masses / masses.sum()

    def _by_name(self, argument: str, names: Sequence[str]) -> np.ndarray:
        value = getattr(self, argument)
        if not isinstance(value, Mapping):
            return np.full(len(names), float(value))
        wrong = [name for name in names if name not in value] + [name for name in value if name not in names]
        if wrong:
            raise OptionError(
                f"VarianceComponents({argument}={dict(value)!r}): expected one number for each of "
                f"{', '.join(map(repr, names))}; {shortlist(wrong)} does not match."
            )
        return np.array([float(value[name]) for name in names])
