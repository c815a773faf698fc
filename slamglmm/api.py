"""The public fitters: each parses the formula into a Design, hands it to one fitter and returns its result."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from .design import design
from .links import Link
from .priors import Priors
from .results.posterior import SlamResult


def slam(
    formula: str,
    data: Any,
    *,
    Y: Any = None,
    relmat: Mapping[str, Any] | None = None,
    n_factors: int | None = None,
    link: str | Link = "identity",
    priors: Priors | None = None,
    h2_grid: int = 20,
    missing: Literal["keep", "drop"] = "keep",
    draws: int = 1000,
    burn: int = 1000,
    thin: int = 1,
    chains: int = 2,
    seed: int | None = None,
    n_threads: int | None = None,
    n_jobs: int = 1,
    store: Sequence[str] | None = None,
    progress: bool | None = None,
) -> SlamResult:
    """Fit the Bayesian sparse-factor mixed model to many traits of related individuals.

    ``Y = XB + F Lambda + sum_m Z_m U_m + E``, where the factors F have random effects and a residual of their own, all
    variances are split by discrete shares h2, and the loadings are shrunk. Random effects are integrated out of the
    updates of loadings, shares and, with complete data, factors.

    Parameters
    ----------
    formula : str
        lme4's grammar: ``"~ sex + (1 | line)"`` with `Y`, or ``"y1 + y2 ~ sex + (1 | line)"``. A slope
        ``(1 + x | g)`` gets one variance share for each column.
    data : DataFrame
        pandas, polars or anything narwhals reads; n rows.
    Y : DataFrame or array, n × p, optional
        Traits; NaN where missing.
    relmat : dict, optional
        Relationship matrix of each grouping factor, labelled by its levels. Levels without records are predicted.
    n_factors : int, optional
        Number of factors, more than you expect: unneeded ones shrink away. Default ``min(n - 1, p, 15 + p // 50)``, at
        most 100.
    link : str or Link
        Distribution of the data given the latent traits: ``"identity"``.
    priors : Priors, optional
    h2_grid : int
        Steps of the grid of variance shares: 20 gives 0, 0.05 .. 0.95.
    missing : {"keep", "drop"}
        Rows with missing traits: kept (missing cells are integrated out or drawn), or dropped.
    draws, burn, thin, chains : int
        Kept draws of each chain, iterations before them, iterations between two kept draws, number of chains.
    seed : int, optional
        Same seed, same bits, whatever the number of threads or jobs.
    n_threads : int, optional
        Threads inside a chain; by default as many as pay.
    n_jobs : int
        Chains run at the same time, each in a process of its own (joblib; -1 for all cores).
    store : sequence of str, optional
        What is kept; the default is `slamglmm.DEFAULT_STORE`. Add ``"U"`` for draws of the random effects
        (needed for prediction intervals), ``"G"`` or ``"R"`` for draws of the covariances.
    progress : bool, optional
        Show a progress bar; by default on a terminal or in a notebook. Ctrl-C keeps the draws so far.

    Returns
    -------
    SlamResult

    Raises
    ------
    FormulaError, DataError, RelmatError, OptionError
        The message says what was expected, what came, and what to do.

    References
    ----------
    Runcie, D. & Mukherjee, S. (2013). Dissecting high-dimensional phenotypes with Bayesian sparse factor analysis of
    genetic covariance matrices. Genetics 194, 753-767.
    Runcie, D. et al. (2021). MegaLMM: mega-scale linear mixed models for genomic predictions with thousands of traits.
    Genome Biology 22, 213.

    Examples
    --------
    >>> import slamglmm as sg
    >>> data = sg.datasets.load("glucosinolates")
    >>> K = sg.kinship(data.markers)
    >>> fit = sg.slam("~ 1 + (1 | line)", data.frame, Y=data.Y, relmat={"line": K},
    ...               n_factors=4, draws=20, burn=20, chains=1, seed=1)
    >>> fit.h2().shape
    (24, 4)
    """
    from .fitters.slam.fit import fit_slam

    return fit_slam(
        design(formula, data, Y=Y, relmat=relmat, missing=missing),
        priors=priors or Priors(),
        n_factors=n_factors,
        link=link,
        h2_grid=h2_grid,
        draws=draws,
        burn=burn,
        thin=thin,
        chains=chains,
        seed=seed,
        n_threads=n_threads,
        n_jobs=n_jobs,
        store=None if store is None else tuple(store),
        progress=progress,
    )
