"""Links between data and latent traits: one file and one line here make a new one."""

from __future__ import annotations

from .base import Link
from .identity import Identity

LINKS: dict[str, type[Link]] = {
    "identity": Identity,
}

__all__ = ["LINKS", "Identity", "Link"]
