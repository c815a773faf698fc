"""Links between data and latent traits: one file and one line here make a new one."""

from __future__ import annotations

from .base import Likelihood, Link, Measurements, Parameters
from .combined import LinkChoice, LinkedColumns, assign_links, bind_links, kept_by_links
from .gaussian_weights import GaussianWeights
from .identity import Identity
from .probes import Probes
from .regression import Regression
from .voom import Voom, voom

LINKS: dict[str, type[Link]] = {
    "identity": Identity,
    "gaussian": Identity,
    "gaussian_weights": GaussianWeights,
    "probes": Probes,
    "regression": Regression,
}

__all__ = [
    "LINKS",
    "GaussianWeights",
    "Identity",
    "Likelihood",
    "Link",
    "LinkChoice",
    "LinkedColumns",
    "Measurements",
    "Parameters",
    "Probes",
    "Regression",
    "Voom",
    "assign_links",
    "bind_links",
    "kept_by_links",
    "voom",
]
