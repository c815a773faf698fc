"""`fit_netgsa`: variances by moments from p x p scatters, then one test for each pathway; eqs. NETGSA-1 to NETGSA-5."""

from __future__ import annotations

import time
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd
import scipy.linalg

from ... import __version__
from ...design.magnitudes import refuse_extreme
from ...design.row_labels import RowLabels
from ...errors import BoundaryWarning, DataError, shortlist, warn
from ...linalg.nnls import nonnegative_least_squares, solve_symmetric
from ...linalg.threads import single_threaded_blas
from ...options import Options, entries, shown
from ...results.base import refuse_not_finite
from ...results.varcomp import NetgsaResult
from .networks import Network, read_networks, read_pathways

METHODS = ("rehe", "he", "rerehe")
INNER = ("full", "triangle")
# What `fdr=` is, for messages.
FDR = "a method of statsmodels' multipletests, such as 'fdr_bh'"
# Entries of `subsample=`, and the options they are.
SUBSAMPLE = {"samples": "sample_ratio", "genes": "gene_ratio", "times": "times"}
# Expression beyond this size, or below its inverse, has squared variances that a computer cannot hold.
LARGEST = 1e70


@dataclass(frozen=True)
class NetgsaOptions:
    """Everything `fit_netgsa` needs to know beside the data.

    Attributes
    ----------
    method : {"rehe", "he", "rerehe"}
    inner : {"full", "triangle"}
    exact : bool
        Whether the expectation of a scatter is ``(n_k - 1) Sigma`` and the information counts ``n_k - 1`` samples; the
        R package takes ``n_k`` and 1.
    fdr : str
        Method of `statsmodels.stats.multitest.multipletests`.
    sample_ratio, gene_ratio : float
        reREHE: shares of the samples and of the genes in a subsample.
    times : int
        reREHE: subsamples.
    seed : int or None
    """

    method: str = "rehe"
    inner: str = "full"
    exact: bool = True
    fdr: str = "fdr_bh"
    sample_ratio: float = 0.2
    gene_ratio: float = 0.75
    times: int = 50
    seed: int | None = None

    def __post_init__(self) -> None:
        check = Options(vars(self))
        check.choice("method", METHODS)
        check.choice("inner", INNER)
        check.text("fdr", FDR)
        check.seed()
        subsample = Options({f"subsample[{key!r}]": getattr(self, name) for key, name in SUBSAMPLE.items()})
        subsample.number("subsample['samples']", "subsample['genes']", above=0, most=1)
        subsample.whole("subsample['times']", least=1)


@dataclass(frozen=True, eq=False)
class Condition:
    """One condition's samples.

    Attributes
    ----------
    network : Network
    n : int
    mean : ndarray, length p
    residuals : ndarray, p x n
    """

    network: Network
    n: int
    mean: np.ndarray
    residuals: np.ndarray


def fit_netgsa(
    expression: Any,
    groups: Any,
    networks: Any,
    pathways: Any,
    directed: bool | None,
    options: NetgsaOptions,
) -> NetgsaResult:
    """Test pathways; see `slamglmm.netgsa` for the arguments."""
    start = time.perf_counter()
    Options({"directed": directed}).flag("directed", optional=True)
    values, genes, samples = _expression(expression)
    notes: list[str] = []
    labels = _groups(groups, samples if isinstance(expression, pd.DataFrame) else None, values.shape, notes)
    names = list(dict.fromkeys(labels))
    with single_threaded_blas():
        found = read_networks(networks, names, genes, directed)
        if any(network.unweighted for network in found):
            notes.append("edges have no weights: a normalised adjacency matrix stands for the partial correlations")
        pathway_names, member = read_pathways(pathways, genes)
        _refuse_constant(values, genes, labels)
        conditions = []
        for name, network in zip(names, found, strict=True):
            part = values[:, [label == name for label in labels]]
            if part.shape[1] < 2:
                raise DataError(f"condition '{name}' has {part.shape[1]} sample; at least 2 are needed.")
            mean = part.mean(axis=1)
            conditions.append(Condition(network, part.shape[1], mean, part - mean[:, None]))
        S, c = normal_equations(conditions, options.inner, options.exact)
        if options.method == "rerehe":
            S, c = _pooled_subsamples(conditions, options, notes)
        if 1 - S[0, 1] ** 2 / (S[0, 0] * S[1, 1]) < 1e-10:
            raise DataError(
                "the networks tie no measured genes together, so gene effects cannot be told from noise. Do genes of "
                "the network and of expression have the same names?"
            )
        theta = solve_symmetric(S, c) if options.method == "he" else nonnegative_least_squares(S, c)
        _warn_at_boundary(theta, notes)
        beta = np.array([condition.network.solve(condition.mean) for condition in conditions])
        table = pathway_tests(conditions, beta, member, np.maximum(theta, 0.0), options.exact)
    table.index = pd.Index(pathway_names, name="pathway")
    numbers = {"variances": theta, "baseline effects": beta, "pathway tests": table.to_numpy(dtype=float)}
    refuse_not_finite("netgsa", numbers)
    table["q"] = _fdr(table["p"].to_numpy(), options.fdr)
    return NetgsaResult(
        options=asdict(options),
        version=__version__,
        seconds=time.perf_counter() - start,
        notes=tuple(notes),
        genes=tuple(genes),
        conditions=tuple(map(str, names)),
        pathways=tuple(pathway_names),
        n_samples=tuple(condition.n for condition in conditions),
        sigma2_epsilon=float(theta[0]),
        sigma2_gamma=float(theta[1]),
        S=S,
        c=c,
        beta=beta,
        table=table,
    )


# -- variances ------------------------------------------------------------------------------------------


def normal_equations(
    conditions: Sequence[Condition], inner: str, exact: bool, genes: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Gram matrix and right-hand side of (noise, genes), from one p x p scatter for each condition; eq. NETGSA-2.

    Parameters
    ----------
    conditions : sequence of Condition
    inner : {"full", "triangle"}
    exact : bool
        ``n_k - 1`` or ``n_k`` scatters.
    genes : ndarray of int, optional
        Only these genes.
    """
    S, c = np.zeros((2, 2)), np.zeros(2)
    for condition in conditions:
        covariance, residuals = condition.network.covariance, condition.residuals
        if genes is not None:
            covariance, residuals = covariance[np.ix_(genes, genes)], residuals[genes]
        scatter = residuals @ residuals.T
        count = condition.n - 1 if exact else condition.n
        diagonal = np.diag(covariance)
        square, product = np.sum(covariance * covariance), np.sum(scatter * covariance)
        if inner == "triangle":
            square = (square + diagonal @ diagonal) / 2
            product = (product + np.diag(scatter) @ diagonal) / 2
        S += count * np.array([[len(covariance), diagonal.sum()], [diagonal.sum(), square]])
        c += [np.trace(scatter), product]
    return S, c


def _pooled_subsamples(
    conditions: Sequence[Condition], options: NetgsaOptions, notes: list[str]
) -> tuple[np.ndarray, np.ndarray]:
    """Moments of small sets of samples and genes, without replacement, added up."""
    rng = np.random.default_rng(options.seed)
    p = len(conditions[0].mean)
    n_genes = max(2, round(options.gene_ratio * p))
    S, c = np.zeros((2, 2)), np.zeros(2)
    for _ in range(options.times):
        genes = np.sort(rng.choice(p, n_genes, replace=False))
        parts = []
        for condition in conditions:
            size = max(2, round(options.sample_ratio * condition.n))
            part = (condition.residuals + condition.mean[:, None])[:, rng.choice(condition.n, size, replace=False)]
            mean = part.mean(axis=1)
            parts.append(Condition(condition.network, size, mean, part - mean[:, None]))
        more_S, more_c = normal_equations(parts, options.inner, options.exact, genes)
        S, c = S + more_S, c + more_c
    notes.append(
        f"reREHE: moments of {options.times} subsamples pooled ({options.sample_ratio:.0%} of the samples, "
        f"{options.gene_ratio:.0%} of the genes, without replacement)"
    )
    return S, c


def _warn_at_boundary(theta: np.ndarray, notes: list[str]) -> None:
    for value, name in zip(theta, ("noise", "latent gene effects"), strict=True):
        if value <= 0:
            where = "at zero (boundary)" if value == 0 else f"below zero ({value:.4g}); zero is used in the tests"
            notes.append(f"variance of the {name} is estimated {where}")
            warn(notes[-1], BoundaryWarning)


# -- tests ----------------------------------------------------------------------------------------------


def pathway_tests(
    conditions: Sequence[Condition], beta: np.ndarray, member: np.ndarray, theta: np.ndarray, exact: bool
) -> pd.DataFrame:
    """Tests of one or two conditions by t, and F tests of consecutive contrasts for more; eqs. NETGSA-3 to NETGSA-5.

    Parameters
    ----------
    conditions : sequence of Condition
    beta : ndarray, conditions x p
    member : ndarray of bool, pathways x p
    theta : ndarray, length 2
        Variances of noise and genes.
    exact : bool
        How many samples the information counts in each condition: ``n_k - 1``, or 1 as in the R package.

    Returns
    -------
    DataFrame
        Columns size, statistic, df (or df1, df2), p.
    """
    from scipy import stats

    K, n_pathways = len(conditions), len(member)
    effects = np.empty((K, n_pathways))
    # gradient of each condition's variance with respect to (noise, genes)
    gradients = np.empty((K, n_pathways, 2))
    information = np.zeros((2, 2))
    for k, condition in enumerate(conditions):
        contrast = (member @ condition.network.D) * member
        effects[k] = contrast @ beta[k]
        spread = condition.network.solve(contrast.T, transposed=True)
        gradients[k, :, 0] = np.einsum("gp,gp->p", spread, spread) / condition.n
        gradients[k, :, 1] = np.einsum("pg,pg->p", contrast, contrast) / condition.n
        information += (condition.n - 1 if exact else 1) * _information(condition.network.covariance, theta)
    inverse = np.linalg.inv(information)
    sizes = member.sum(axis=1)
    if K <= 2:
        gradient = gradients.sum(axis=0)
        variance = gradient @ theta
        statistic = (effects[1] - effects[0] if K == 2 else effects[0]) / np.sqrt(variance)
        df = np.maximum(2.0, 2 * variance**2 / np.einsum("pi,ij,pj->p", gradient, inverse, gradient))
        p = 2 * stats.t.sf(np.abs(statistic), df)
        return pd.DataFrame({"size": sizes, "statistic": statistic, "df": df, "p": p})
    contrasts = np.diff(np.eye(K), axis=0)
    rows = []
    for g in range(n_pathways):
        own = gradients[:, g]
        covariance = (contrasts * (own @ theta)) @ contrasts.T
        difference = contrasts @ effects[:, g]
        F = float(difference @ np.linalg.solve(covariance, difference)) / (K - 1)
        df2 = _fai_cornelius(contrasts, covariance, own, inverse)
        rows.append((sizes[g], F, K - 1, df2, float(stats.f.sf(F, K - 1, df2))))
    return pd.DataFrame(rows, columns=["size", "statistic", "df1", "df2", "p"])


def _information(covariance: np.ndarray, theta: np.ndarray) -> np.ndarray:
    """Fisher information of (noise, genes) in one sample, half the traces of ``V^-1 dV V^-1 dV``."""
    V = theta[1] * covariance
    V[np.diag_indices_from(V)] += theta[0]
    lower = scipy.linalg.cho_factor(V, lower=True, check_finite=False)
    inverse = scipy.linalg.cho_solve(lower, np.eye(len(V)), check_finite=False)
    on_genes = inverse @ covariance
    cross = np.sum(inverse * on_genes.T)
    return 0.5 * np.array([[np.sum(inverse * inverse), cross], [cross, np.sum(on_genes * on_genes.T)]])


def _fai_cornelius(contrasts: np.ndarray, covariance: np.ndarray, gradients: np.ndarray, inverse: np.ndarray) -> float:
    """Denominator degrees of freedom from those of the principal contrasts."""
    _, vectors = np.linalg.eigh(covariance)
    directions = (vectors.T @ contrasts) ** 2
    by_direction = directions @ gradients
    variances = np.diag(vectors.T @ covariance @ vectors)
    df = 2 * variances**2 / np.einsum("mi,ij,mj->m", by_direction, inverse, by_direction)
    total = float(np.sum((df / (df - 2))[df > 2]))
    q = len(df)
    return max(2.0, 2 * total / (total - q)) if total > q else 2.0


# -- what a user gives ----------------------------------------------------------------------------------


def _expression(expression: Any) -> tuple[np.ndarray, list[str], pd.Index]:
    if isinstance(expression, pd.DataFrame):
        values = _numbers(expression)
        genes, samples = [str(g) for g in expression.index], expression.columns
    else:
        values = _numbers(expression)
        if values.ndim != 2:
            raise DataError(f"expression must be genes x samples, got {values.ndim} dimensions.")
        genes, samples = [f"g{i + 1}" for i in range(len(values))], pd.RangeIndex(values.shape[1])
    if len(set(genes)) < len(genes):
        raise DataError(
            f"expression has genes more than once: {shortlist(pd.Index(genes)[pd.Index(genes).duplicated()])}."
        )
    if not np.isfinite(values).all():
        i, j = np.argwhere(~np.isfinite(values))[0]
        raise DataError(
            f"expression of gene '{genes[i]}' in sample '{samples[j]}' is {values[i, j]}. Impute or drop it."
        )
    return values, genes, samples


def _numbers(expression: Any) -> np.ndarray:
    found = expression.to_numpy() if isinstance(expression, pd.DataFrame) else np.asarray(expression)
    if found.dtype.kind in "buifO":
        try:
            return np.array(found, dtype=float)
        except (TypeError, ValueError):
            pass
    raise DataError(f"expression must be numbers, genes x samples, got {type(expression).__name__} of {found.dtype}.")


def _refuse_constant(values: np.ndarray, genes: Sequence[str], labels: Sequence[Any]) -> None:
    """Genes that do not vary within any condition, and expression in a unit whose squares overflow or vanish."""
    spread = np.zeros(len(values))
    with np.errstate(over="ignore"):
        for label in dict.fromkeys(labels):
            spread = np.maximum(spread, np.ptp(values[:, [other == label for other in labels]], axis=1))
    constant = np.asarray(genes, dtype=object)[spread == 0]
    if len(constant):
        raise DataError(
            f"{len(constant)} of {len(genes)} genes do not vary within any condition: {shortlist(constant)}. "
            "They would pass for genes without noise; leave them out of expression."
        )
    largest = float(spread.max())
    refuse_extreme("expression varies within conditions by", largest, 1 / LARGEST, LARGEST)


def _groups(groups: Any, samples: pd.Index | None, shape: tuple[int, int], notes: list[str]) -> list[Any]:
    if isinstance(groups, str) or not isinstance(groups, Iterable):
        raise DataError(f"groups={shown(groups)}: expected the condition of each sample, a Series or a list.")
    labels = list(groups)
    if len(labels) != shape[1]:
        hint = " Is expression samples x genes? Then pass its transpose." if len(labels) == shape[0] else ""
        raise DataError(f"groups has {len(labels)} entries, expression has {shape[1]} samples (columns).{hint}")
    if pd.isna(pd.Series(labels)).any():
        raise DataError("groups has missing entries. Drop these samples.")
    wrong = [label for label in labels if not isinstance(label, Hashable)]
    if wrong:
        raise DataError(f"groups has the entry {shown(wrong[0])}: expected names or numbers of conditions.")
    if samples is not None and isinstance(groups, pd.Series):
        columns = RowLabels(samples, None, "expression", "the columns of expression")
        at, note = columns.match(groups.index, len(groups), "groups", by_position="groups.to_numpy()")
        labels = [labels[i] for i in at]
        notes += [] if note is None else [note]
    return labels


def _fdr(p: np.ndarray, method: str) -> np.ndarray:
    from statsmodels.stats.multitest import multipletests

    try:
        return multipletests(p, method=method)[1]
    except ValueError:
        raise Options({"fdr": method}).refuse("fdr", FDR) from None


def read_options(
    method: str, compat: str | None, subsample: Mapping[str, Any] | None, fdr: str, seed: int | None
) -> NetgsaOptions:
    """Check the options of `slamglmm.netgsa`.

    Raises
    ------
    OptionError
    """
    Options({"compat": compat}).choice("compat", ("netgsa", None))
    given = entries("subsample", subsample, SUBSAMPLE, "{'samples': 0.2, 'times': 50}")
    chosen = {SUBSAMPLE[key]: value for key, value in given.items()}
    if compat == "netgsa":
        return NetgsaOptions(method, "triangle", False, fdr, seed=seed, **chosen)
    return NetgsaOptions(method, fdr=fdr, seed=seed, **chosen)
