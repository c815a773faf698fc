"""Data with known truth: one generator a model, under the name of its fitter."""

from __future__ import annotations

from .ace import ace
from .markers import SimulatedMarkers
from .microbiome import SimulatedCommunities, microbiome
from .mr_mash import mr_mash
from .netgsa import SimulatedExpression, netgsa
from .simulated import Simulated
from .slam import slam
from .sparse_lmm import sparse_lmm
from .trio import trio

__all__ = [
    "Simulated",
    "SimulatedCommunities",
    "SimulatedExpression",
    "SimulatedMarkers",
    "ace",
    "microbiome",
    "mr_mash",
    "netgsa",
    "slam",
    "sparse_lmm",
    "trio",
]
