"""Results: frozen, labelled, and answering the same questions in lme4's words."""

from __future__ import annotations

from .base import Result, load

__all__ = ["Result", "load"]
