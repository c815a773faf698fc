"""Networks of genes, in any of the usual forms, to influence matrices D with ``Cov = s_g D D' + s_e I``."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import scipy.linalg
from scipy import sparse
from scipy.sparse import csgraph

from ...errors import DataError, OptionError, shortlist
from ...options import membership, shown

# Spectral radius that unweighted undirected edges get: strong enough to matter, and I - A stays well conditioned.
UNWEIGHTED_RADIUS = 0.5


@dataclass(frozen=True, eq=False)
class Network:
    """One condition's network.

    Attributes
    ----------
    D : ndarray, p x p
        Influence matrix: ``D D' = (I - A)^-1`` by Cholesky (undirected), or ``D = (I - A)^-1`` (directed).
    covariance : ndarray, p x p
        ``D D'``.
    directed : bool
    unweighted : bool
        Whether weights had to be made up.
    """

    D: np.ndarray
    covariance: np.ndarray
    directed: bool
    unweighted: bool

    def solve(self, U: np.ndarray, transposed: bool = False) -> np.ndarray:
        """``D^-1 U``, or ``D'^-1 U``."""
        if self.directed:
            return np.linalg.solve(self.D.T if transposed else self.D, U)
        return scipy.linalg.solve_triangular(self.D, U, lower=True, trans=1 if transposed else 0, check_finite=False)


def read_networks(
    networks: Any, conditions: Sequence[str], genes: Sequence[str], directed: bool | None
) -> list[Network]:
    """One network for each condition.

    Parameters
    ----------
    networks : network, or mapping of condition -> network, or sequence of networks in the order of the conditions
        A network is a DataFrame of edges (columns source, target and perhaps weight), a networkx graph, a labelled
        p x p DataFrame, or a p x p array or sparse matrix in the order of the genes.
    conditions, genes : sequence of str
    directed : bool or None
        None: edges are undirected, graphs are as they say, matrices are directed when asymmetric.

    Raises
    ------
    DataError, OptionError
    """
    if isinstance(networks, Mapping):
        absent = [name for name in conditions if name not in networks]
        if absent:
            raise DataError(f"networks lack condition {shortlist(absent)}; there are {shortlist(networks)}.")
        given = [networks[name] for name in conditions]
    elif isinstance(networks, list | tuple):
        if len(networks) != len(conditions):
            raise DataError(f"{len(networks)} networks for {len(conditions)} conditions ({shortlist(conditions)}).")
        given = list(networks)
    else:
        shared = _network(networks, "network", genes, directed)
        return [shared] * len(conditions)
    return [_network(value, str(name), genes, directed) for value, name in zip(given, conditions, strict=True)]


def _network(value: Any, name: str, genes: Sequence[str], directed: bool | None) -> Network:
    A, is_directed, unweighted = _adjacency(value, name, genes, directed)
    if not np.isfinite(A).all():
        raise DataError(f"network '{name}' has missing or infinite weights.")
    if np.abs(np.diag(A)).max(initial=0.0) > 0:
        gene = genes[int(np.argmax(np.abs(np.diag(A))))]
        raise DataError(f"network '{name}' ties gene '{gene}' to itself. Set the diagonal to zero.")
    p = len(genes)
    if is_directed:
        n_strong, _ = csgraph.connected_components(sparse.csr_array(A), connection="strong")
        if n_strong < p:
            raise DataError(
                f"network '{name}' is directed and has a cycle. Take an edge out, or pass directed=False to treat "
                "edges as mutual."
            )
        D = np.linalg.inv(np.eye(p) - A)
        return Network(D, D @ D.T, True, unweighted)
    if unweighted:
        degree = np.maximum(A.sum(axis=1), 1.0)
        A = UNWEIGHTED_RADIUS * A / np.sqrt(np.outer(degree, degree))
    try:
        lower = scipy.linalg.cho_factor(np.eye(p) - A, lower=True)
    except scipy.linalg.LinAlgError:
        largest = float(np.linalg.eigvalsh(A)[-1])
        raise DataError(
            f"network '{name}': I - A must be positive definite, but the largest eigenvalue of the weights A is "
            f"{largest:.4g}. Weights are partial correlations; scale them down, or leave them out."
        ) from None
    covariance = scipy.linalg.cho_solve(lower, np.eye(p))
    covariance = (covariance + covariance.T) / 2
    return Network(np.linalg.cholesky(covariance), covariance, False, unweighted)


def _adjacency(value: Any, name: str, genes: Sequence[str], directed: bool | None) -> tuple[np.ndarray, bool, bool]:
    """Weights with the effect of gene j on gene i in row i, whether directed, whether unweighted."""
    if hasattr(value, "edges") and hasattr(value, "is_directed"):
        edges = [(a, b, data.get("weight", np.nan)) for a, b, data in value.edges(data=True)]
        table = pd.DataFrame(edges, columns=["source", "target", "weight"])
        return _from_edges(table, name, genes, value.is_directed() if directed is None else directed)
    if isinstance(value, pd.DataFrame):
        columns = {str(c).lower(): c for c in value.columns}
        if "source" in columns and "target" in columns:
            weight = value[columns["weight"]] if "weight" in columns else np.nan
            table = pd.DataFrame(
                {"source": value[columns["source"]], "target": value[columns["target"]], "weight": weight}
            )
            return _from_edges(table, name, genes, bool(directed))
        labels = pd.Index([str(c) for c in value.columns])
        if set(labels) != {str(i) for i in value.index}:
            raise DataError(
                f"network '{name}' must have columns source and target, or the same genes as index and columns."
            )
        frame = value.copy()
        frame.index, frame.columns = pd.Index([str(i) for i in value.index]), labels
        absent = [gene for gene in genes if gene not in labels]
        if absent:
            raise DataError(f"network '{name}' lacks {len(absent)} of {len(genes)} genes (first: {shortlist(absent)}).")
        matrix = _numbers(frame.loc[list(genes), list(genes)].to_numpy(), name)
    else:
        matrix = _numbers(value, name)
    if matrix.shape != (len(genes), len(genes)):
        raise DataError(f"network '{name}' has shape {matrix.shape}, but there are {len(genes)} genes.")
    symmetric = np.abs(matrix - matrix.T).max(initial=0.0) <= 1e-10 * max(1.0, np.abs(matrix).max(initial=0.0))
    if directed is False and not symmetric:
        raise OptionError(f"network '{name}' is asymmetric, but directed=False. Give (A + A.T) / 2.")
    return matrix, bool(directed) if directed is not None else not symmetric, False


def _numbers(value: Any, name: str) -> np.ndarray:
    """Weights of edges as floats, of a network called `name`."""
    try:
        found = value.toarray() if sparse.issparse(value) else np.asarray(value)
        if found.dtype.kind != "c":
            return np.array(found, dtype=float)
    except (TypeError, ValueError):
        pass
    raise DataError(
        f"network '{name}' must hold numbers, got {shown(value)}. Give a DataFrame of edges (columns source, target "
        "and perhaps weight), a networkx graph, or a matrix of genes x genes."
    )


def _from_edges(table: pd.DataFrame, name: str, genes: Sequence[str], directed: bool) -> tuple[np.ndarray, bool, bool]:
    position = {gene: i for i, gene in enumerate(genes)}
    source = table["source"].map(lambda g: position.get(str(g), -1)).to_numpy(dtype=int)
    target = table["target"].map(lambda g: position.get(str(g), -1)).to_numpy(dtype=int)
    # edges to genes that were not measured say nothing here
    inside = (source >= 0) & (target >= 0)
    weight = _numbers(table["weight"].to_numpy(), name)[inside]
    source, target = source[inside], target[inside]
    unknown = np.isnan(weight)
    if unknown.any() and not unknown.all():
        raise DataError(
            f"network '{name}': {int(unknown.sum())} of {len(unknown)} edges have no weight. Give all or none."
        )
    unweighted = bool(unknown.any())
    A = np.zeros((len(genes), len(genes)))
    A[target, source] = np.where(unknown, 1.0, weight)
    if not directed:
        mirrored = A.T
        A = np.where(A != 0, A, mirrored)
        if np.abs(A - A.T).max(initial=0.0) > 0:
            raise DataError(f"network '{name}': an undirected edge is listed twice with two weights.")
    if directed and unweighted:
        # the total effect on a gene is shared by those that act on it
        A = A / np.maximum(A.sum(axis=1, keepdims=True), 1.0)
    return A, directed, unweighted


def read_pathways(pathways: Any, genes: Sequence[str]) -> tuple[list[str], np.ndarray]:
    """Names of the pathways, and which genes each holds (pathways x genes).

    Parameters
    ----------
    pathways : mapping of name -> genes, or 0/1 DataFrame (pathways x genes), or 0/1 array in the order of the genes
    genes : sequence of str

    Raises
    ------
    DataError
        No pathway, or one without a measured gene.
    """
    position = {gene: i for i, gene in enumerate(genes)}
    if isinstance(pathways, Mapping):
        names = [str(name) for name in pathways]
        member = np.zeros((len(names), len(genes)), dtype=bool)
        for k, (name, members) in enumerate(pathways.items()):
            if isinstance(members, str) or not isinstance(members, Iterable):
                raise DataError(f"pathway '{name}' is {members!r}: expected a list of genes.")
            found = [position[str(gene)] for gene in members if str(gene) in position]
            member[k, found] = True
    elif isinstance(pathways, pd.DataFrame):
        names = [str(name) for name in pathways.index]
        columns = [str(c) for c in pathways.columns]
        kept = [j for j, c in enumerate(columns) if c in position]
        member = np.zeros((len(names), len(genes)), dtype=bool)
        member[:, [position[columns[j]] for j in kept]] = membership("pathways", pathways)[:, kept]
    elif pathways is None:
        names, member = [], np.zeros((0, len(genes)), dtype=bool)
    else:
        member = np.atleast_2d(membership("pathways", pathways))
        if member.shape[1:] != (len(genes),):
            raise DataError(f"pathways have {member.shape[1]} columns, but there are {len(genes)} genes.")
        names = [f"pathway{k + 1}" for k in range(len(member))]
    if not names:
        raise DataError("there are no pathways; give pathways={name: [genes, ...]}, at least one.")
    empty = [name for name, row in zip(names, member, strict=True) if not row.any()]
    if empty:
        raise DataError(
            f"no measured gene belongs to pathway {shortlist(empty)}. Are gene names spelled as in expression?"
        )
    return names, member
