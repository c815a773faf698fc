"""Links between data and latent traits: one file and one line here make a new one."""

from __future__ import annotations

from .base import Likelihood, Link, Measurements, Parameters
from .binomial import Bernoulli, Binomial
from .censored import Censored
from .combined import LinkChoice, LinkedColumns, assign_links, bind_links, kept_by_links
from .counts import NegativeBinomial, Poisson
from .data_scale import DataMoments, DataScale, ThresholdScale
from .gaussian_weights import GaussianWeights
from .identity import Identity
from .probes import Probes
from .regression import Regression
from .thresholds import Ordinal, Probit
from .voom import Voom, voom

LINKS: dict[str, type[Link]] = {
    "identity": Identity,
    "gaussian": Identity,
    "gaussian_weights": GaussianWeights,
    "probes": Probes,
    "regression": Regression,
    "probit": Probit,
    "ordinal": Ordinal,
    "censored": Censored,
    "poisson": Poisson,
    "negative_binomial": NegativeBinomial,
    "binomial": Binomial,
    "bernoulli": Bernoulli,
}

__all__ = [
    "LINKS",
    "Bernoulli",
    "Binomial",
    "Censored",
    "DataMoments",
    "DataScale",
    "GaussianWeights",
    "Identity",
    "Likelihood",
    "Link",
    "LinkChoice",
    "LinkedColumns",
    "Measurements",
    "NegativeBinomial",
    "Ordinal",
    "Parameters",
    "Poisson",
    "Probes",
    "Probit",
    "Regression",
    "ThresholdScale",
    "Voom",
    "assign_links",
    "bind_links",
    "kept_by_links",
    "voom",
]


def __dir__() -> list[str]:
    return sorted(__all__)
