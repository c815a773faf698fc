"""Options of `he`, checked once."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from ...errors import OptionError
from .moments import INNER
from .subsampling import Subsampling

METHODS = ("rehe", "he", "rerehe", "reml", "ml")
ERRORS = ("sandwich", "jackknife", "bootstrap", None)
JACKKNIFE_UNITS = ("family", "individual")


@dataclass(frozen=True)
class HeOptions:
    """Everything `fit_he` needs to know beside the data.

    Attributes
    ----------
    method : {"rehe", "he", "rerehe", "reml", "ml"}
    inner : {"full", "triangle", "offdiag"}
    project : bool
    se : {"sandwich", "jackknife", "bootstrap", None}
    subsample : Subsampling
    jackknife_unit : {"family", "individual"}
    n_probes : int or None
        Random columns: for the trace of marker components (10) and for the sandwich of large problems (50).
    n_blocks : int
        Blocks of markers that the jackknife leaves out.
    n_draws : int
        Of the bootstrap.
    permutations : int
        Of a distance response.
    backend : {None, "dask"}
    seed : int or None
    """

    method: str = "rehe"
    inner: str = "full"
    project: bool = True
    se: str | None = "sandwich"
    subsample: Subsampling = field(default_factory=Subsampling)
    jackknife_unit: str = "family"
    n_probes: int | None = None
    n_blocks: int = 100
    n_draws: int = 100
    permutations: int = 199
    backend: str | None = None
    seed: int | None = None

    def __post_init__(self) -> None:
        choices = {
            "method": METHODS,
            "inner": INNER,
            "se": ERRORS,
            "jackknife_unit": JACKKNIFE_UNITS,
            "backend": (None, "dask"),
        }
        for name, allowed in choices.items():
            value = getattr(self, name)
            if not isinstance(value, str | None) or value not in allowed:
                raise OptionError(f"{name}={value!r}: expected one of {', '.join(map(repr, allowed))}.")
        if not isinstance(self.project, bool | np.bool_):
            raise OptionError(f"project={self.project!r}: expected True or False.")
        least = {"n_blocks": 2, "n_draws": 2, "permutations": 0, "n_probes": 2, "seed": 0}
        for name, minimum in least.items():
            value, optional = getattr(self, name), name in ("n_probes", "seed")
            if optional and value is None:
                continue
            if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < minimum:
                expected = f"an integer of at least {minimum}" + (", or None" if optional else "")
                raise OptionError(f"{name}={value!r}: expected {expected}.")

    @property
    def is_likelihood(self) -> bool:
        """Whether the method is REML or ML."""
        return self.method in ("reml", "ml")
