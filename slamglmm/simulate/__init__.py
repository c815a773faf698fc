"""Data with known truth: one generator a model, under the name of its fitter."""

from __future__ import annotations

from .simulated import Simulated
from .slam import slam

__all__ = ["Simulated", "slam"]
