"""Data with known truth: one generator a model, under the name of its fitter."""

from __future__ import annotations

from .ace import ace
from .curves import SimulatedCurves, curves
from .markers import SimulatedMarkers
from .microbiome import SimulatedCommunities, microbiome
from .mr_mash import mr_mash
from .netgsa import SimulatedExpression, netgsa
from .probes import SimulatedProbes, probes
from .simulated import Simulated
from .slam import slam
from .sparse_lmm import sparse_lmm
from .trio import trio

__all__ = [
    "Simulated",
    "SimulatedCommunities",
    "SimulatedCurves",
    "SimulatedExpression",
    "SimulatedMarkers",
    "SimulatedProbes",
    "ace",
    "curves",
    "microbiome",
    "mr_mash",
    "netgsa",
    "probes",
    "slam",
    "sparse_lmm",
    "trio",
]


def __dir__() -> list[str]:
    return sorted(__all__)
