"""Data with known truth: one generator a model, under the name of its fitter."""

from __future__ import annotations

from .ace import ace
from .microbiome import SimulatedCommunities, microbiome
from .netgsa import SimulatedExpression, netgsa
from .simulated import Simulated
from .slam import slam
from .trio import trio

__all__ = [
    "Simulated",
    "SimulatedCommunities",
    "SimulatedExpression",
    "ace",
    "microbiome",
    "netgsa",
    "slam",
    "trio",
]
