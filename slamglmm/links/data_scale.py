"""Moments on the scale of the data when the latent trait is normal, as de Villemereuil et al. (2016) define them.

For a latent trait ``l ~ N(location, variance)``, ``E[y | l] = g(l)``: the mean ``E[g]``, the slope ``Psi = E[g']`` that
takes additive effects from the latent scale to that of the data, and the variance of y; eq. LINK-36.

References
----------
de Villemereuil, P., Schielzeth, H., Nakagawa, S. and Morrissey, M. (2016). General methods for evolutionary
quantitative genetic inference from generalized mixed models. Genetics 204, 1281-1294.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import scipy.special

# The trapezoidal rule on standard normal nodes up to this; the next node holds 1e-10 of the mass.
REACH = 6.5


@dataclass(frozen=True)
class DataMoments:
    """Moments of y over the law of its latent trait; arrays of one shape.

    Attributes
    ----------
    mean, slope, variance : ndarray
        ``E[y]``, ``Psi`` and ``Var[y]``.
    """

    mean: np.ndarray
    slope: np.ndarray
    variance: np.ndarray

    def over_rows(self, weights: np.ndarray) -> DataMoments:
        """Moments over rows with these weights (they sum to one), along the last axis; eq. LINK-37."""
        mean = self.mean @ weights
        between = (self.mean - mean[..., None]) ** 2 @ weights
        return DataMoments(mean, self.slope @ weights, self.variance @ weights + between)


def identity_moments(location: np.ndarray, variance: np.ndarray) -> DataMoments:
    """The latent trait itself.

    Parameters
    ----------
    location, variance : ndarray
        Mean and variance of the latent trait; they broadcast.

    Returns
    -------
    DataMoments
    """
    mean, spread = np.broadcast_arrays(location, variance)
    return DataMoments(mean, np.ones(mean.shape), spread)


def count_moments(location: np.ndarray, variance: np.ndarray, overdispersion: np.ndarray | float = 0.0) -> DataMoments:
    """Counts with log link: Poisson, or negative binomial with variance ``m + overdispersion m^2``; eq. LINK-38.

    Parameters
    ----------
    location, variance : ndarray
    overdispersion : ndarray or float
        Zero for Poisson.

    Returns
    -------
    DataMoments
    """
    mean = np.exp(location + 0.5 * np.asarray(variance))
    return DataMoments(mean, mean, mean + mean**2 * (np.exp(variance) * (1.0 + overdispersion) - 1.0))


def logit_moments(location: np.ndarray, variance: np.ndarray) -> DataMoments:
    """One trial with logit link, by the trapezoidal rule; eq. LINK-39.

    The rule beats Gauss and Hermite's on a logistic curve, whose poles at ``+-i pi`` ruin high polynomials: with a step
    of two thirds of a latent unit, or of a standard deviation if that is less, the error is below 1e-8.

    Parameters
    ----------
    location, variance : ndarray

    Returns
    -------
    DataMoments
    """
    location, sd = np.broadcast_arrays(location, np.sqrt(variance))
    n_steps = int(np.ceil(1.5 * REACH * max(1.0, sd.max(initial=0.0))))
    nodes = np.linspace(-REACH, REACH, 2 * n_steps + 1)
    masses = np.exp(-0.5 * nodes**2)
    masses /= masses.sum()
    mean, slope = np.zeros(location.shape), np.zeros(location.shape)
    for node, mass in zip(nodes, masses, strict=True):
        chance = scipy.special.expit(location + node * sd)
        mean += mass * chance
        slope += mass * chance * (1.0 - chance)
    return DataMoments(mean, slope, mean * (1.0 - mean))


def threshold_moments(
    location: np.ndarray, variance: np.ndarray, cuts: np.ndarray, levels: np.ndarray | None = None
) -> DataMoments:
    """Value of the category that the latent trait lies in; eq. LINK-40.

    Parameters
    ----------
    location, variance : ndarray
        They broadcast.
    cuts : ndarray, shape (..., n_cuts)
        Increasing; leading dimensions broadcast with `location`.
    levels : ndarray, shape (n_cuts + 1,), optional
        Values of the categories; 0, 1, .. unless given.

    Returns
    -------
    DataMoments
    """
    levels = np.arange(cuts.shape[-1] + 1.0) if levels is None else levels
    steps, squares = np.diff(levels), np.diff((levels - levels[0]) ** 2)
    sd = np.sqrt(variance)[..., None]
    z = (np.asarray(location)[..., None] - cuts) / sd
    above = scipy.special.ndtr(z)
    mean = above @ steps
    slope = (np.exp(-0.5 * z**2) / (np.sqrt(2.0 * np.pi) * sd)) @ steps
    return DataMoments(levels[0] + mean, slope, above @ squares - mean**2)


def category_probabilities(location: np.ndarray, variance: np.ndarray, cuts: np.ndarray) -> np.ndarray:
    """Probability of each category; eq. LINK-31.

    Parameters
    ----------
    location, variance : ndarray
    cuts : ndarray, shape (..., n_cuts)

    Returns
    -------
    ndarray, shape (..., n_cuts + 1)
    """
    above = scipy.special.ndtr((np.asarray(location)[..., None] - cuts) / np.sqrt(variance)[..., None])
    shape = (*above.shape[:-1], 1)
    return -np.diff(above, axis=-1, prepend=np.ones(shape), append=np.zeros(shape))


class DataScale(ABC):
    """How the data of one trait follow from its latent trait, without the data: what a result keeps of a link."""

    @abstractmethod
    def moments(self, location: np.ndarray, variance: np.ndarray, parameters: Mapping[str, np.ndarray]) -> DataMoments:
        """Moments of y for normal latent traits.

        Parameters
        ----------
        location, variance : ndarray
            They broadcast.
        parameters : mapping of str to ndarray
            The link's own, of this trait: leading dimensions broadcast with `location`, then their own.
        """


@dataclass(frozen=True)
class IdentityScale(DataScale):
    """The data are the latent trait (before rounding, censoring or known noise)."""

    def moments(self, location: np.ndarray, variance: np.ndarray, parameters: Mapping[str, np.ndarray]) -> DataMoments:
        """See `identity_moments`."""
        return identity_moments(location, variance)


@dataclass(frozen=True)
class CountScale(DataScale):
    """Counts with log link.

    Attributes
    ----------
    dispersion : str or float
        Parameter that is the dispersion of a negative binomial, or its value; 0 is Poisson.
    """

    dispersion: str | float = 0.0

    def moments(self, location: np.ndarray, variance: np.ndarray, parameters: Mapping[str, np.ndarray]) -> DataMoments:
        """See `count_moments`."""
        dispersion = self.dispersion
        return count_moments(location, variance, parameters[dispersion] if isinstance(dispersion, str) else dispersion)


@dataclass(frozen=True)
class LogitScale(DataScale):
    """One trial with logit link: the proportion."""

    def moments(self, location: np.ndarray, variance: np.ndarray, parameters: Mapping[str, np.ndarray]) -> DataMoments:
        """See `logit_moments`."""
        return logit_moments(location, variance)


@dataclass(frozen=True)
class ThresholdScale(DataScale):
    """Values of categories.

    Attributes
    ----------
    levels : tuple of float
        Increasing.
    """

    levels: tuple[float, ...]

    def moments(self, location: np.ndarray, variance: np.ndarray, parameters: Mapping[str, np.ndarray]) -> DataMoments:
        """See `threshold_moments`."""
        return threshold_moments(location, variance, self._cuts(parameters), np.array(self.levels))

    def probabilities(
        self, location: np.ndarray, variance: np.ndarray, parameters: Mapping[str, np.ndarray]
    ) -> np.ndarray:
        """Probability of each category, in a last dimension of its own."""
        return category_probabilities(location, variance, self._cuts(parameters))

    def _cuts(self, parameters: Mapping[str, np.ndarray]) -> np.ndarray:
        # Two categories have no parameters: their one cut point is zero.
        n_cuts = len(self.levels) - 1
        return parameters["cuts"][..., :n_cuts] if "cuts" in parameters else np.zeros(1)
