"""Options of `he`, checked once."""

from __future__ import annotations

from dataclasses import dataclass, field

from ...options import Options
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
        check = Options(vars(self))
        check.choice("method", METHODS)
        check.choice("inner", INNER)
        check.choice("se", ERRORS)
        check.choice("jackknife_unit", JACKKNIFE_UNITS)
        check.choice("backend", ("dask", None))
        check.flag("project")
        check.whole("n_blocks", "n_draws", least=2)
        check.whole("n_probes", least=2, optional=True)
        check.whole("permutations")
        check.seed()

    @property
    def is_likelihood(self) -> bool:
        """Whether the method is REML or ML."""
        return self.method in ("reml", "ml")
