"""slamglmm: mixed models for many traits and related individuals, from one lme4-like formula and a data frame.

The public names load on first use, so that ``import slamglmm`` stays light.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .design import design  # rebinds the package's name to the function; the package is light

__version__ = "0.1.0"

# public name -> module that defines it (None: the name is itself a submodule)
_HOMES: dict[str, str | None] = {
    "slam": "api",
    "sparse_lmm": "api",
    "mr_mash": "api",
    "he": "api",
    "netgsa": "api",
    "load": "results",
    "cross_validate": "cross_validation",
    "Priors": "priors",
    "PrecisionPrior": "priors",
    "Horseshoe": "priors",
    "Infinite": "priors",
    "FlatEffects": "priors",
    "HorseshoeEffects": "priors",
    "SharedEffects": "priors",
    "SpikeSlab": "priors",
    "ThreeParameterBeta": "priors",
    "VarianceComponents": "priors",
    "DEFAULT_STORE": "fitters.slam.draws",
    "kinship": "relmat",
    "pedigree_relmat": "relmat",
    "Relmat": "relmat",
    "datasets": None,
    "genotypes": None,
    "links": None,
    "simulate": None,
    "errors": None,
    "plots": None,
}

__all__ = [
    "DEFAULT_STORE",
    "FlatEffects",
    "Horseshoe",
    "HorseshoeEffects",
    "Infinite",
    "PrecisionPrior",
    "Priors",
    "Relmat",
    "SharedEffects",
    "SpikeSlab",
    "ThreeParameterBeta",
    "VarianceComponents",
    "__version__",
    "cross_validate",
    "datasets",
    "design",
    "errors",
    "genotypes",
    "he",
    "kinship",
    "links",
    "load",
    "mr_mash",
    "netgsa",
    "pedigree_relmat",
    "plots",
    "simulate",
    "slam",
    "sparse_lmm",
]

if TYPE_CHECKING:
    from . import datasets, errors, genotypes, links, plots, simulate
    from .api import he, mr_mash, netgsa, slam, sparse_lmm
    from .cross_validation import cross_validate
    from .fitters.slam.draws import DEFAULT_STORE
    from .priors import (
        FlatEffects,
        Horseshoe,
        HorseshoeEffects,
        Infinite,
        PrecisionPrior,
        Priors,
        SharedEffects,
        SpikeSlab,
        ThreeParameterBeta,
        VarianceComponents,
    )
    from .relmat import Relmat, kinship, pedigree_relmat
    from .results import load


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'slamglmm' has no attribute {name!r}")
    home = _HOMES[name]
    value = import_module(f".{name}", __name__) if home is None else getattr(import_module(f".{home}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*__all__, *(name for name in globals() if name.startswith("__"))})
