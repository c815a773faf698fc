"""Priors of the SLAM model: `Priors` is what a user passes, `PRIORS` names the loadings priors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ..errors import OptionError
from ..options import Options, is_number, shown
from .fixef import Covariates, EffectScales, FixefPrior, flat_columns, lay_out_covariates
from .fixef_horseshoe import HorseshoeEffects
from .fixef_shared import FlatEffects, SharedEffects
from .h2_grid import H2Prior, ShareGrid, check_masses, prior_masses, share_grid
from .implied import simulate_priors
from .loadings import LoadingScales, LoadingsPrior
from .loadings_horseshoe import Horseshoe
from .loadings_infinite import Infinite
from .loadings_spike_slab import SpikeSlab
from .loadings_tpb import ThreeParameterBeta
from .variance_components import TraitPrecisions, VarianceComponents

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PRIORS: dict[str, type[LoadingsPrior]] = {
    "horseshoe": Horseshoe,
    "infinite": Infinite,
    "spike_slab": SpikeSlab,
    "tpb": ThreeParameterBeta,
}
FIXEF: dict[str, type[FixefPrior]] = {
    "flat": FlatEffects,
    "horseshoe": HorseshoeEffects,
    "shared": SharedEffects,
}

__all__ = [
    "FIXEF",
    "PRIORS",
    "Covariates",
    "EffectScales",
    "FixefPrior",
    "FlatEffects",
    "Horseshoe",
    "HorseshoeEffects",
    "Infinite",
    "LoadingScales",
    "LoadingsPrior",
    "PrecisionPrior",
    "Priors",
    "ShareGrid",
    "SharedEffects",
    "SpikeSlab",
    "ThreeParameterBeta",
    "TraitPrecisions",
    "VarianceComponents",
    "flat_columns",
    "lay_out_covariates",
    "prior_masses",
    "share_grid",
]


@dataclass(frozen=True)
class PrecisionPrior:
    """Gamma prior of a precision, ``Ga(nu - 1, nu V)``, in MegaLMM's words.

    Parameters
    ----------
    V : float
        Scale: the prior mean of the variance is ``nu V / (nu - 2)``.
    nu : float
        Degrees of freedom, more than 1.
    """

    V: float
    nu: float

    def __post_init__(self) -> None:
        if not (is_number(self.V) and is_number(self.nu) and 0 < self.V < np.inf and 1 < self.nu < np.inf):
            raise OptionError(
                f"PrecisionPrior(V={shown(self.V)}, nu={shown(self.nu)}): expected V > 0 and nu > 1, both finite."
            )

    @property
    def shape(self) -> float:
        """Shape of the gamma distribution."""
        return self.nu - 1.0

    @property
    def rate(self) -> float:
        """Rate of the gamma distribution."""
        return self.nu * self.V


def _unknown_prior(name: str, value: object, registry: Mapping[str, type]) -> OptionError:
    """The error for a prior that is neither a name of the registry nor an instance."""
    names = ", ".join(map(repr, registry))
    if isinstance(value, type) and value in registry.values():
        return OptionError(
            f"Priors({name}={value.__name__}): expected a name or an instance, got the class itself. Write "
            f"{name}={value.__name__}()."
        )
    kind = "unknown prior" if isinstance(value, str) else f"expected a name or an instance, got {type(value).__name__}"
    return OptionError(f"Priors({name}={shown(value)}): {kind}. Choose one of {names}, or pass an instance.")


@dataclass(frozen=True)
class Priors:
    """Priors of `slam`; traits are centred and scaled before they apply, and every output is scaled back.

    Parameters
    ----------
    h2 : "uniform", "spike", callable or array
        Prior of the variance shares of the trait-specific part, on ``fit.grid``
        (see `slamglmm.priors.h2_grid.prior_masses`).
    h2_factors : same
        Prior of the variance shares of the factors.
    loadings : str or LoadingsPrior
        ``"horseshoe"``, ``"infinite"``, ``"spike_slab"``, ``"tpb"``, or an instance such as
        ``Horseshoe(prop_0=0.3)``.
    residual : PrecisionPrior or VarianceComponents
        Prior of each trait's residual precision (trait-specific variance, genetic part included), or of the
        trait-specific variances of every random effect and of the residual, which says all about their shares too.
    factor : PrecisionPrior
        Prior of the working scale of the factors, divided out of everything saved.
    fixef : str or FixefPrior
        Prior of the fixed effects on traits: ``"flat"``; ``"shared"``, one variance for each covariate, shared by all
        traits and, with ``factor_formula``, by the factors; ``"horseshoe"``, each trait and factor with few covariates
        of its own; or an instance. Effects on factors are always shrunk.
    loading_effects : PrecisionPrior
        With ``loadings_on``: prior of the variance of its effects on the loadings, one for each factor.
    cis : float
        With ``cis``: prior variance of the effect of one standard deviation of a trait's own covariate, in units of
        its trait-specific variance.

    Raises
    ------
    OptionError
        An unknown name, or something of another kind; the message lists the known ones. Every prior checks its own
        numbers when it is made, and what a callable returns is checked when the grid is known.

    Examples
    --------
    >>> import slamglmm as sg
    >>> priors = sg.Priors(loadings="infinite", fixef="shared")
    >>> priors = sg.Priors(loadings=sg.Horseshoe(prop_0=0.3), h2=lambda shares: 1 - shares[:, 0])
    """

    h2: H2Prior = "uniform"
    h2_factors: H2Prior = "uniform"
    loadings: str | LoadingsPrior = "horseshoe"
    residual: PrecisionPrior | VarianceComponents = PrecisionPrior(V=0.5, nu=5)
    factor: PrecisionPrior = PrecisionPrior(V=0.9, nu=20)
    fixef: str | FixefPrior = "flat"
    loading_effects: PrecisionPrior = PrecisionPrior(V=0.05, nu=1.5)
    cis: float = 1.0

    def __post_init__(self) -> None:
        check = Options(vars(self), "Priors")
        for name, registry, base in (("loadings", PRIORS, LoadingsPrior), ("fixef", FIXEF, FixefPrior)):
            value = getattr(self, name)
            if isinstance(value, str) and value in registry:
                object.__setattr__(self, name, registry[value]())
            elif not isinstance(value, base):
                raise _unknown_prior(name, value, registry)
        precision = "slamglmm.PrecisionPrior(V, nu)"
        check.kind(
            "residual", PrecisionPrior | VarianceComponents, f"{precision} or slamglmm.VarianceComponents(V, nu)"
        )
        check.kind("factor", PrecisionPrior, precision)
        check.kind("loading_effects", PrecisionPrior, precision)
        check_masses(self.h2, "h2")
        check_masses(self.h2_factors, "h2_factors")
        if isinstance(self.residual, VarianceComponents) and not (isinstance(self.h2, str) and self.h2 == "uniform"):
            raise OptionError(
                "Priors(h2=..., residual=VarianceComponents(...)): priors of the variances leave no room for one of "
                "their shares. Leave h2 out, or give residual=PrecisionPrior(V, nu)."
            )
        if not (is_number(self.cis) and 0 < self.cis < np.inf):
            raise check.refuse("cis", "a positive variance")

    @property
    def loadings_prior(self) -> LoadingsPrior:
        """The loadings prior as an instance."""
        assert isinstance(self.loadings, LoadingsPrior)
        return self.loadings

    def plot(
        self,
        n_factors: int = 10,
        n_traits: int = 50,
        n_rows: int = 200,
        h2_grid: int = 20,
        draws: int = 500,
        seed: int | None = 0,
        axes: Sequence[Axes] | None = None,
    ) -> tuple[Axes, Axes]:
        """Draw what these priors say: heritabilities of traits, and how many factors are used.

        Parameters
        ----------
        n_factors, n_traits, n_rows : int
            Size of the data you have in mind; the horseshoe depends on the number of rows.
        h2_grid : int
            As in `slam`; there is one random effect.
        draws : int
            From the prior.
        seed : int, optional
        axes : sequence of two Axes, optional
            New ones by default; needs matplotlib (extra ``plot``).

        Returns
        -------
        tuple of Axes
            Histogram of the h2 of all traits, factors included, and bars of the number of factors that carry 99 % of
            the shared variance, a measure the summary of a fit has too.
        """
        from ..plots import implied_prior

        return implied_prior(simulate_priors(self, n_factors, n_traits, n_rows, h2_grid, draws, seed), axes)

    @property
    def fixef_prior(self) -> FixefPrior:
        """The prior of the fixed effects as an instance."""
        assert isinstance(self.fixef, FixefPrior)
        return self.fixef
