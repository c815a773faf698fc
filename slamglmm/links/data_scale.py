"""Moments on the scale of the data when the latent trait is normal, as de Villemereuil et al. (2016) define them.

For a latent trait ``l ~ N(location, variance)``, ``E[y | l] = g(l)``: the mean ``E[g]``, the slope ``Psi = E[g']`` that
takes additive effects from the latent scale to that of the data, and the variance of y.

References
----------
de Villemereuil, P., Schielzeth, H., Nakagawa, S. and Morrissey, M. (2016). General methods for evolutionary
quantitative genetic inference from generalized mixed models. Genetics 204, 1281-1294.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.special

# Standard normal nodes for laws without closed forms. The trapezoidal rule beats Gauss and Hermite's on a logistic
# curve, whose poles at +-i pi ruin high polynomials: error 1e-8 at a latent standard deviation of 4.
NODES = np.linspace(-8.0, 8.0, 65)


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
        """Moments over rows with these weights (they sum to one), along the last axis."""
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
    """Counts with log link: Poisson, or negative binomial with variance ``m + overdispersion m^2``.

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
    """One trial with logit link, by the trapezoidal rule.

    Parameters
    ----------
    location, variance : ndarray

    Returns
    -------
    DataMoments
    """
    masses = np.exp(-0.5 * NODES**2)
    masses /= masses.sum()
    location, sd = np.broadcast_arrays(location, np.sqrt(variance))
    mean, slope = np.zeros(location.shape), np.zeros(location.shape)
    for node, mass in zip(NODES, masses, strict=True):
        chance = scipy.special.expit(location + node * sd)
        mean += mass * chance
        slope += mass * chance * (1.0 - chance)
    return DataMoments(mean, slope, mean * (1.0 - mean))


def threshold_moments(location: np.ndarray, variance: np.ndarray, cuts: np.ndarray) -> DataMoments:
    """Number of cut points below the latent trait: 0/1 for one cut, the category's number for more.

    Parameters
    ----------
    location, variance : ndarray
        Of one shape, or broadcasting.
    cuts : ndarray, shape (..., n_cuts)
        Increasing; leading dimensions broadcast with `location`, infinite where a trait has fewer.

    Returns
    -------
    DataMoments
    """
    sd = np.sqrt(variance)[..., None]
    z = (np.asarray(location)[..., None] - cuts) / sd
    above = scipy.special.ndtr(z)
    mean = above.sum(axis=-1)
    slope = (np.exp(-0.5 * z**2) / (np.sqrt(2.0 * np.pi) * sd)).sum(axis=-1)
    second = above @ (2.0 * np.arange(1, cuts.shape[-1] + 1) - 1.0)
    return DataMoments(mean, slope, second - mean**2)


def category_probabilities(location: np.ndarray, variance: np.ndarray, cuts: np.ndarray) -> np.ndarray:
    """Probability of each category.

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
