"""The public fitters: each parses the formula into a Design, hands it to one fitter and returns its result."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import pandas as pd

from .design import Design, design
from .design.cis import read_cis_columns
from .design.row_labels import RowLabels
from .errors import DroppedRowsWarning, OptionError, shortlist
from .keywords import explains_calls
from .links import LinkChoice, bind_links
from .options import by_group
from .priors import Priors
from .relmat import kinship
from .results.posterior import SlamResult
from .results.varcomp import HeResult, NetgsaResult
from .results.variational import MrMashResult, SparseLmmFits, SparseLmmResult


@explains_calls
def slam(
    formula: str,
    data: Any,
    *,
    Y: Any = None,
    relmat: Mapping[str, Any] | None = None,
    markers: Mapping[str, Any] | None = None,
    markers_on: Literal["both", "factors", "traits"] = "both",
    n_factors: int | Literal["adaptive"] | None = None,
    factor_formula: str | None = None,
    loadings_on: str | None = None,
    trait_data: Any = None,
    cis: Mapping[str, Sequence[str]] | None = None,
    link: LinkChoice = "identity",
    priors: Priors | None = None,
    h2_grid: int = 20,
    missing: Literal["keep", "drop"] = "keep",
    missing_memory: float = 2**30,
    draws: int = 1000,
    burn: int = 1000,
    thin: int = 1,
    chains: int = 2,
    seed: int | None = None,
    n_threads: int | None = None,
    n_jobs: int = 1,
    store: Sequence[str] | None = None,
    store_dtype: Literal["float64", "float32"] = "float64",
    out: str | Path | None = None,
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
        Traits; NaN where missing. Rows with labels are found in the index of `data`, or in the one column with the
        same labels (then `fit.notes` says so); those of an array are in the order of `data`.
    relmat : dict, optional
        Relationship matrix of each grouping factor, labelled by its levels. Levels without records are predicted.
    markers : dict, optional
        Grouping factor -> marker dosages of its levels (DataFrame, levels × markers), in place of its relationship
        matrix: all markers have normal effects of one variance for each trait and factor, however many they are.
        `fit.marker_effects()` has them.
    markers_on : {"both", "factors", "traits"}
        Where the effects of `markers` act: on factors and so on many traits at once, on single traits, or both.
    n_factors : int or "adaptive", optional
        Number of factors, more than you expect: unneeded ones shrink away. Default ``min(n - 1, p, 15 + p // 50)``, at
        most 100, and none for one trait. "adaptive" drops unused factors and adds new ones during burn-in.
    factor_formula : str, optional
        Fixed effects of the factors, such as ``"~ sex"``: what acts on many traits at once. Factors have no
        intercept; with ``Priors(fixef="shared")`` a covariate named in both formulas has one variance of its effects.
    loadings_on : str, optional
        What the loadings of all factors depend on, such as ``"~ temperature"`` when traits are environments: their
        prior means are a regression on covariates of the traits. `fit.loading_effects()` has the coefficients.
    trait_data : DataFrame, optional
        Covariates of the traits for `loadings_on`, indexed by trait.
    cis : dict, optional
        Trait -> columns of `data` that are covariates of this trait only, such as the dosages of markers near a gene
        for its expression: ``{"gene1": ["rs1", "rs7"], ...}``. Their effects are shrunk (``Priors(cis=)``);
        `fit.cis()` has them.
    link : str, Link, dict or list
        Distribution of the data given the latent traits: a name (``"identity"``), a link with options
        (``slamglmm.links.GaussianWeights(weights)``), or links with their columns, ``{"gaussian": ["height"], ...}`` or
        ``[(link, columns), ...]``.
    priors : Priors, optional
    h2_grid : int
        Steps of the grid of variance shares: 20 gives 0, 0.05 .. 0.95. Take more when residuals are small beside random
        effects; `fit.notes` says when draws pile up at the end of the grid.
    missing : {"keep", "drop"}
        Rows with missing traits: kept (missing cells are integrated out or drawn), or dropped.
    missing_memory : float
        Bytes that eigenbases of missing patterns may take: within it traits with the same missing cells form a group
        whose cells are integrated out exactly; beyond it cells are drawn. A line of ``fit.notes`` says which. Few
        scattered cells are drawn with the random effects integrated out where that is less work.
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
        (needed for prediction intervals), ``"U_var"`` for their posterior variances without the draws, ``"G"`` or
        ``"R"`` for draws of the covariances, ``"Eta"`` for draws of the latent traits. With very many traits name
        less: ``("h2", "G_diag", "R_diag", "U_mean")`` has no loadings, only variances by trait; methods say what they
        miss.
    store_dtype : {"float64", "float32"}
        Precision of what is kept, in memory and on disk; the chain itself always runs in float64.
    out : str or Path, optional
        Folder that gets the draws as they come and becomes a saved result. The same call goes on with a run that was
        killed (from the last write; to the bit with equal versions and BLAS kernel) and returns one that was finished.
        Any other call is refused and told what differs; so is a second process at the same time.
    progress : bool, optional
        Show a progress bar; by default on a terminal or in a notebook. Ctrl-C keeps the draws so far.

    Returns
    -------
    SlamResult

    Raises
    ------
    FormulaError, DataError, RelmatError, OptionError
        The message says what was expected, what came, and what to do.
    StorageError
        `out` cannot be written, is in use by another process, or holds damaged files; its disk is full.

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
    >>> K = sg.kinship(data.markers, method="standardized")
    >>> fit = sg.slam("~ 1 + (1 | line)", data.frame, Y=data.Y, relmat={"line": K},
    ...               n_factors=4, draws=20, burn=20, chains=1, seed=1)
    >>> fit.h2().shape
    (24, 4)
    """
    from .fitters.slam.fit import fit_slam

    related = by_group("relmat", relmat, "matrix")
    tables = _marker_tables(markers, related)
    related |= {name: kinship(table, "standardized") for name, table in tables.items()}
    made = design(formula, data, Y=Y, relmat=related, missing=missing)
    bound, notes = bind_links(link, data)
    return fit_slam(
        replace(made, notes=(*made.notes, *notes)),
        priors=Priors() if priors is None else priors,
        n_factors=n_factors,
        factor_design=None if factor_formula is None else _factor_design(factor_formula, data),
        markers=tables,
        markers_on=markers_on,
        loadings_on=loadings_on,
        trait_data=trait_data,
        cis=None if cis is None else read_cis_columns(cis, data, made.rows),
        link=bound,
        h2_grid=h2_grid,
        missing_memory=missing_memory,
        draws=draws,
        burn=burn,
        thin=thin,
        chains=chains,
        seed=seed,
        n_threads=n_threads,
        n_jobs=n_jobs,
        store=store,
        store_dtype=store_dtype,
        out=out,
        progress=progress,
    )


def _marker_tables(markers: Any, relmat: Mapping[str, Any]) -> dict[str, pd.DataFrame]:
    """Markers by grouping factor, as labelled frames."""
    tables = by_group("markers", markers, "dosages")
    both = [name for name in tables if name in relmat]
    if both:
        raise OptionError(
            f"markers and relmat both have {shortlist(both)}: markers take the place of a relationship matrix. For a "
            "polygenic effect besides, write (1 | gr(line, cov='chip')) and markers={'chip': dosages}."
        )
    wrong = [name for name, table in tables.items() if not isinstance(table, pd.DataFrame)]
    if wrong:
        raise OptionError(f"markers[{wrong[0]!r}]: expected a DataFrame, levels × markers, labelled by level.")
    return tables


def _factor_design(formula: str, data: Any) -> Design:
    with warnings.catch_warnings():
        # Rows without covariates are an error later if they have data, and do not matter otherwise.
        warnings.simplefilter("ignore", DroppedRowsWarning)
        return design(formula, data)


@explains_calls
def he(
    formula: str,
    data: Any,
    *,
    Y: Any = None,
    relmat: Mapping[str, Any] | None = None,
    markers: Mapping[str, Any] | None = None,
    annotation: Any = None,
    distance: Any = None,
    correction: Literal["sqrt", "lingoes"] | None = None,
    method: Literal["rehe", "he", "rerehe", "reml", "ml"] = "rehe",
    inner: Literal["full", "triangle", "offdiag"] = "full",
    project: bool = True,
    weights: Any = None,
    backend: Literal["dask"] | None = None,
    se: Literal["sandwich", "jackknife", "bootstrap"] | None = "sandwich",
    subsample: Mapping[str, Any] | None = None,
    jackknife_unit: Literal["family", "individual"] = "family",
    n_probes: int | None = None,
    n_blocks: int = 100,
    n_draws: int = 100,
    permutations: int = 199,
    contrasts: Mapping[str, Any] | None = None,
    seed: int | None = None,
) -> HeResult:
    """Variance components by moments (Haseman-Elston), at any number of rows; or by exact REML.

    ``y = Xb + sum_i Z_i u_i + e`` with ``Cov(y) = V = sum_i s_i K_i + s_0 I``: the variances s are those for which V
    comes closest to the products of residuals. Every kinship is read once; no n x n matrix is needed.

    Parameters
    ----------
    formula : str
        lme4's grammar: ``"y ~ age + (1 | id) + (1 | household)"``. ``(1 + x | g)`` estimates a covariance matrix
        (positive semi-definite with REHE), ``||`` variances only.
    data : DataFrame
        pandas, polars or anything narwhals reads; n rows. Rows without any response are dropped.
    Y : DataFrame or array, n x p, optional
        Several traits. Each is fitted on the rows where it is known, so that its variances are those of a fit by
        itself; by moments also the covariances among traits, on the rows where both are known. Traits with the same
        rows share one pass over the kinships. With `markers` all traits are fitted on the rows that have all of them.
        Rows with labels are found in the index or in a column of `data`; so are those of `weights`, `markers` and
        `distance`.
    relmat : dict, optional
        Relationship matrix of each grouping factor, labelled by its levels. Beside what `design` takes:
        ``(numpy.memmap, labels)``, ``(dask array, labels)`` or the path of a GCTA ``.grm.bin``; these are streamed.
    markers : dict, optional
        Label -> n x m dosages (DataFrame, array, int8, memory map) or a PLINK .bed path: adds a component ``W W'/m``
        of the standardized markers W, which is never formed. Traces are estimated by random probes; `HeResult.predict`
        takes the markers of new rows.
    annotation : DataFrame or array of bool, m x bins, optional
        Splits the markers of one table into one component for each column; rows of a DataFrame go by marker.
    distance : labelled DataFrame, (array, labels), array or scikit-bio DistanceMatrix, n x n, optional
        Takes the place of the response (write a one-sided formula).
    correction : {"sqrt", "lingoes"}, optional
        Makes a distance Euclidean.
    method : {"rehe", "he", "rerehe", "reml", "ml"}
        Moments with variances not below zero; unconstrained; from subsamples; (restricted) maximum likelihood.
    inner : {"full", "triangle", "offdiag"}
        Which pairs of rows count: all (n^2), the upper triangle with the diagonal, different rows only.
    project : bool
        Whether the expectation is that of residuals (exact), or of the data (as REHE's and netgsa's code).
    weights : str or array of length n, optional
        Observation weights: the residual variance is ``s_0 / w``.
    backend : {None, "dask"}
        Where the kinships are read: here, or by the tasks of the current dask client.
    se : {"sandwich", "jackknife", "bootstrap", None}
        Standard errors: Gaussian sandwich; leaving out families (or blocks of markers); parametric bootstrap.
    subsample : dict, optional
        For reREHE: ``ratio`` (0.1), ``times`` (50), ``rule`` ("pooled", "mean", "median"), ``unit`` ("auto",
        "family", "individual"), ``replace`` (False).
    jackknife_unit : {"family", "individual"}
        What the jackknife leaves out.
    n_probes : int, optional
        Random columns: 10 for traces of markers and 50 for sandwich errors of large problems unless given.
    n_blocks : int
        Blocks of markers the jackknife leaves out one by one.
    n_draws : int
        Bootstrap draws.
    permutations : int
        For the p values of a distance response.
    contrasts : dict, optional
        As in `design`.
    seed : int, optional
        Of probes, draws, subsamples and permutations.

    Returns
    -------
    HeResult

    Raises
    ------
    FormulaError, DataError, RelmatError, OptionError, FitError
        The message says what was expected, what came, and what to do.

    Warns
    -----
    BoundaryWarning
        A variance is estimated at zero or below, or a share above one.
    SlamWarning
        Kinships or fixed effects are collinear; a distance is not Euclidean; reREHE finds no families; two traits have
        too few rows in common.
    DroppedRowsWarning
        Rows without any response; with `markers` also rows in which a trait is missing.

    References
    ----------
    Haseman, J. & Elston, R. (1972). The investigation of linkage between a quantitative trait and a marker locus.
    Behavior Genetics 2, 3-19.
    Yue, K. et al. (2021). REHE: fast variance components estimation for linear mixed models. Genetic Epidemiology 45,
    891-905.
    Pazokitoroudi, A. et al. (2020). Efficient variance components analysis across millions of genomes. Nature
    Communications 11, 4020.

    Examples
    --------
    >>> import slamglmm as sg
    >>> data = sg.datasets.load("glucosinolates")
    >>> K = sg.kinship(data.markers, method="standardized")
    >>> fit = sg.he("~ 1 + (1 | line)", data.frame, Y=data.Y.iloc[:, :2], relmat={"line": K})
    >>> fit.varcorr().shape
    (4, 3)
    """
    from .fitters.he.distance import check_correction, read_distance
    from .fitters.he.fit import fit_he
    from .fitters.he.markers import read_markers
    from .fitters.he.options import HeOptions
    from .fitters.he.sources import read_streamed
    from .fitters.he.subsampling import Subsampling

    options = HeOptions(
        method=method,
        inner=inner,
        project=project,
        se=se,
        subsample=Subsampling.read(subsample),
        jackknife_unit=jackknife_unit,
        n_probes=n_probes,
        n_blocks=n_blocks,
        n_draws=n_draws,
        permutations=permutations,
        backend=backend,
        seed=seed,
    )
    check_correction(correction)
    if correction is not None and distance is None:
        raise OptionError(f"correction={correction!r} is of a distance, and there is none; give distance= too.")
    made = design(
        formula,
        data,
        Y=Y,
        relmat=read_streamed(relmat),
        missing="drop_empty",
        contrasts=contrasts,
        weights=weights,
    )
    whose = RowLabels.of(data)
    return fit_he(
        made,
        options,
        markers=read_markers(markers, annotation, made, whose),
        distance=None if distance is None else read_distance(distance, made, whose, correction),
    )


@explains_calls
def netgsa(
    expression: Any,
    groups: Any,
    networks: Any,
    pathways: Any,
    *,
    method: Literal["rehe", "he", "rerehe"] = "rehe",
    compat: Literal["netgsa"] | None = None,
    directed: bool | None = None,
    subsample: Mapping[str, Any] | None = None,
    fdr: str = "fdr_bh",
    seed: int | None = None,
) -> NetgsaResult:
    """Test pathways, or any sets of genes, knowing which gene acts on which (NetGSA).

    Sample i of condition k is ``x_ik = D_k (mu_k + g_ik) + e_ik`` with ``g ~ N(0, s_g I)`` and ``e ~ N(0, s_e I)``; the
    influence matrix ``D_k`` comes from the network, so a change in a gene counts with all it does downstream.

    Parameters
    ----------
    expression : DataFrame or array, genes x samples
    groups : Series or sequence, one entry for each sample
        Conditions, in the order of their first appearance: one (is a pathway active?), two (t tests of the second
        against the first) or more (F tests). Labels of a Series are looked up in the columns of `expression`.
    networks : network, dict of condition -> network, or list of networks
        A DataFrame of edges with columns source, target and perhaps weight; a networkx graph; a matrix of genes x
        genes, labelled or in the order of `expression`. Undirected weights are partial correlations; directed weights
        are effects, with that of gene j on gene i in row i, without cycles.
    pathways : dict of name -> genes, or 0/1 DataFrame (pathways x genes), or 0/1 array
    method : {"rehe", "he", "rerehe"}
        Variances by moments: not below zero, unconstrained, from subsamples.
    compat : {None, "netgsa"}
        "netgsa": the R package's inner product (upper triangle), scatters counted n_k times instead of n_k - 1, and an
        information of one sample a condition, which makes its degrees of freedom much too few.
    directed : bool, optional
        How to read networks; by default edges are undirected, graphs are what they say, and matrices are directed when
        asymmetric.
    subsample : dict, optional
        For reREHE: ``samples`` (0.2) and ``genes`` (0.75), the shares drawn, and ``times`` (50).
    fdr : str
        Method of `statsmodels.stats.multitest.multipletests` for the q values.
    seed : int, optional
        For reREHE.

    Returns
    -------
    NetgsaResult

    Raises
    ------
    DataError, OptionError
        The message says what was expected, what came, and what to do.

    Warns
    -----
    BoundaryWarning
        A variance is estimated at zero or below.

    References
    ----------
    Shojaie, A. & Michailidis, G. (2009). Analysis of gene sets based on the underlying regulatory network. Journal of
    Computational Biology 16, 407-426.
    Hellstern, M. et al. (2021). netgsa: Fast computation and interactive visualization for topology-based pathway
    enrichment analysis. PLoS Computational Biology 17, e1008979.

    Examples
    --------
    >>> import slamglmm as sg
    >>> data = sg.simulate.netgsa(n_genes=16, n_pathways=2, seed=1)
    >>> sg.netgsa(data.expression, data.groups, data.networks, data.pathways).table.shape
    (2, 5)
    """
    from .fitters.netgsa.fit import fit_netgsa, read_options

    options = read_options(method, compat, subsample, fdr, seed)
    return fit_netgsa(expression, groups, networks, pathways, directed, options)


@explains_calls
def sparse_lmm(
    formula: str,
    data: Any,
    *,
    Y: Any = None,
    markers: Any,
    relmat: Mapping[str, Any] | None = None,
    family: Literal["gaussian", "binomial"] = "gaussian",
    log_odds: Any = None,
    pi: Literal["em", "grid"] | float = "em",
    prior_var: Literal["em"] | float = "em",
    residual_var: Literal["em"] | float = "em",
    dof: Literal["ml", "reml"] = "ml",
    weights: Any = None,
    standardize: bool = False,
    out: Any = None,
    tol: float = 1e-4,
    max_iter: int = 1000,
    seed: int | None = None,
    n_threads: int | None = None,
    n_jobs: int = 1,
) -> SparseLmmResult | SparseLmmFits:
    """Find the few of many markers that have an effect: spike-and-slab regression by variational Bayes.

    ``y = Z w + G beta + u + e`` with covariates Z from the formula (flat prior), effects of markers that are zero with
    probability ``1 - pi`` and otherwise ``N(0, v a)``, residuals ``e ~ N(0, v)``, and, when the formula has a random
    effect, a polygenic background u. The covariates are projected out exactly without ever forming the projected
    markers, which stay in their own packing (two bits a genotype for a .bed file).

    Parameters
    ----------
    formula : str
        ``"y ~ 1 + sex"``, or with one random effect ``"y ~ 1 + (1 | line)"``. Its share of the variance is estimated
        by REML without markers, and markers are rotated to float32 (4 n m bytes).
    data : DataFrame
        pandas, polars or anything narwhals reads. Rows with a missing covariate are dropped; rows with a missing
        response are predicted.
    Y : DataFrame or array, n × p, optional
        The response, instead of the left side of the formula. Several, here or on the left side
        (``"y1 + y2 ~ 1"``), are fitted one by one; see `mr_mash` for all at once.
    markers : DataFrame, array, scipy sparse matrix, path of a PLINK .bed, or memory map
        n × m dosages. Rows with labels (a .bed has the ids of its .fam) are found in the index of `data`, or in the
        one column with the same labels; those of an array are in the order of `data`. int8 (missing: -128 or
        -127) stays int8. Missing genotypes count as the mean of their marker.
    relmat : dict, optional
        Relationship matrix of the grouping factor.
    family : {"gaussian", "binomial"}
        Binomial: a response of 0 and 1 (or shares of successes, see `weights`) by the bound of Jaakkola and Jordan.
    log_odds : Series or array of length m, optional
        Natural-log prior odds of each marker, relative to those of `pi`: 0 for all by default; with ``pi=0.5`` they
        are the prior log odds themselves.
    pi : "em", "grid" or float
        Prior probability of an effect: learned from 2 to 3 starts, the best kept; averaged over 20 values with weights
        from the bound; or given.
    prior_var : "em" or float
        Variance of an effect that is not zero, in units of the residual variance (binomial: as it is).
    residual_var : "em" or float
        Residual variance, learned or given, in squared units of the response.
    dof : {"ml", "reml"}
        Rows of the likelihood: n, or n less the number of covariates.
    weights : str or array of length n, optional
        Observation weights: the residual variance of row i is ``v / w_i``. Binomial: numbers of trials, the response
        being the share of successes.
    standardize : bool
        Scale every marker to unit variance first, so that `prior_var` is about standardised effects. Results are on
        the scale of the dosages either way.
    out : path, optional
        File for the rotated markers of a random effect, when they do not fit in memory.
    tol : float
        The climb ends when no inclusion probability moves by more in a sweep, or when three sweeps in a row raise the
        bound by no more than a tenth of it each.
    max_iter : int
        Sweeps of each start.
    seed : int, optional
        For the interval of `SparseLmmResult.pve`; the fit itself draws nothing.
    n_threads : int, optional
        Starts run side by side; the numbers do not depend on it.
    n_jobs : int
        Responses fitted at the same time (threads of joblib, which share the markers).

    Returns
    -------
    SparseLmmResult, or SparseLmmFits when there are several responses
        The latter maps each response to its result: ``fits["height"].pip``.

    Raises
    ------
    FormulaError, DataError, RelmatError, OptionError
        The message says what was expected, what came, and what to do.

    References
    ----------
    Carbonetto, P. & Stephens, M. (2012). Scalable variational inference for Bayesian variable selection in regression,
    and its accuracy in genetic association studies. Bayesian Analysis 7, 73-108.
    Varadhan, R. & Roland, C. (2008). Simple and globally convergent methods for accelerating the convergence of any EM
    algorithm. Scandinavian Journal of Statistics 35, 335-353.

    Examples
    --------
    >>> import numpy as np, slamglmm as sg
    >>> data = sg.datasets.load("glucosinolates")
    >>> y = np.log(data.Y.iloc[:, [0]])
    >>> fit = sg.sparse_lmm("y ~ 1", data.frame.assign(y=y), markers=data.markers)
    >>> fit.pip.shape
    (117,)
    """
    from .fitters.sparse_lmm.fit import fit_sparse_lmm

    return fit_sparse_lmm(
        design(formula, data, Y=Y, relmat=relmat, missing="keep", weights=weights),
        markers,
        RowLabels.of(data),
        family=family,
        log_odds=log_odds,
        pi=pi,
        prior_var=prior_var,
        residual_var=residual_var,
        dof=dof,
        standardize=standardize,
        out=out,
        tol=tol,
        max_iter=max_iter,
        seed=seed,
        n_threads=n_threads,
        n_jobs=n_jobs,
    )


@explains_calls
def mr_mash(
    formula: str,
    data: Any,
    *,
    Y: Any = None,
    markers: Any,
    covariances: Any = "canonical",
    grid: Any = "auto",
    null: bool = True,
    prior_weights: Any = "em",
    residual_cov: Any = "full",
    rank: int | None = None,
    standardize: bool = True,
    start: Literal["best", "total", "residual"] = "best",
    tol: float = 1e-3,
    max_iter: int = 1000,
) -> MrMashResult:
    """Regress many responses on many markers, sharing what markers do across responses (M&M ASH, mr.mash).

    ``Y = Z W + G B + E``, rows of E normal with covariance Sigma, and the effects of a marker on all responses drawn
    from a mixture of normals: each prior covariance times each variance of the grid, and a point at zero, with weights
    learned from the data.

    Parameters
    ----------
    formula : str
        Covariates, ``"~ 1 + sex"``. No random effects.
    data : DataFrame
        Rows with a missing covariate are dropped.
    Y : DataFrame or array, n × p, optional
        Responses, NaN where missing: such cells are integrated out given the rest of the row. May stand on the left of
        the formula instead.
    markers : DataFrame, array, scipy sparse matrix, path of a PLINK .bed, or memory map
        n × m, as in `sparse_lmm`.
    covariances : {"canonical", "pca", "canonical+pca"}, dict or list of p × p matrices
        Canonical: an effect on one response only, and equal correlations of 0, 0.25, 0.5, 0.75 and 1. "pca": principal
        components of the strongest univariate effects, and their second moments. Singular matrices are fine.
    grid : "auto" or array
        Variances each covariance is multiplied by.
    null : bool
        Whether effects may be zero altogether.
    prior_weights : "em" or array
        Mixture weights, learned or given: the null first, then covariance by covariance, grid fastest.
    residual_cov : {"full", "diagonal", "spherical", "low_rank"} or p × p matrix
        Low rank: ``sigma^2 I + W W'``, for many responses. A matrix is held fixed.
    rank : int, optional
        Columns of W; a third of the responses, at most 5, unless given.
    standardize : bool
        Scale markers to unit variance (after the covariates) first: the prior is about such effects, and a sweep is
        much faster. Results are on the scale of the dosages either way.
    start : {"best", "total", "residual"}
        First residual covariance, for "full" and "low_rank": that of the responses; what a short fit with uncorrelated
        residuals leaves; or both, and the higher bound is kept. The bound has local optima, and with strong effects on
        many responses the first start is often the lower one.
    tol : float
        The climb ends when no effect moves by more than this share of a typical standard error in a sweep, or when
        three sweeps in a row raise the bound by no more than a tenth of it each.
    max_iter : int

    Returns
    -------
    MrMashResult

    Raises
    ------
    FormulaError, DataError, OptionError
        The message says what was expected, what came, and what to do.

    References
    ----------
    Morgante, F. et al. (2023). A flexible empirical Bayes approach to multivariate multiple regression, and its
    improved accuracy in predicting multi-tissue gene expression from genotypes. PLoS Genetics 19, e1010539.

    Examples
    --------
    >>> import numpy as np, slamglmm as sg
    >>> data = sg.datasets.load("glucosinolates")
    >>> fit = sg.mr_mash("~ 1", data.frame, Y=np.log(data.Y.iloc[:, :3]), markers=data.markers, max_iter=2000)
    >>> fit.lfsr.shape
    (117, 3)
    """
    from .fitters.mr_mash.fit import fit_mr_mash

    return fit_mr_mash(
        design(formula, data, Y=Y, missing="keep"),
        markers,
        RowLabels.of(data),
        covariances=covariances,
        grid=grid,
        null=null,
        prior_weights=prior_weights,
        residual_cov=residual_cov,
        rank=rank,
        standardize=standardize,
        start_from=start,
        tol=tol,
        max_iter=max_iter,
    )
