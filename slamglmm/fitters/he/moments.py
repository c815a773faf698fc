"""`Moments`: what one reading of the kinships leaves, and the normal equations of every inner product from it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import sparse

from ...errors import OptionError
from .markers import marker_sums
from .problem import RESIDUAL, Problem
from .sources import Source
from .spread import Component, Spread
from .streaming import Request, TileSums, stream

INNER = ("full", "triangle", "offdiag")


@dataclass(frozen=True, eq=False)
class NormalEquations:
    """``S s = c``; ``+`` pools disjoint cohorts, each projected on its own X.

    Attributes
    ----------
    names : tuple of str, length q
    S : ndarray, q x q
    c : ndarray, q x t x t
        Symmetric in the traits.
    leftover : tuple
        For ``inner="offdiag"``, where the residual drops out: (sum of squares t x t, traces q, degrees of freedom).
    """

    names: tuple[str, ...]
    S: np.ndarray
    c: np.ndarray
    leftover: tuple[np.ndarray, np.ndarray, float]

    def __add__(self, other: NormalEquations) -> NormalEquations:
        if self.names != other.names:
            raise OptionError(f"moments of different models do not add up: {self.names} and {other.names}.")
        return NormalEquations(
            self.names,
            self.S + other.S,
            self.c + other.c,
            (
                self.leftover[0] + other.leftover[0],
                self.leftover[1] + other.leftover[1],
                self.leftover[2] + other.leftover[2],
            ),
        )


@dataclass(frozen=True, eq=False)
class Moments:
    """Sums over the entries of the kinships ``K_1 .. K_q`` (the residual's are known); eq. HE-3.

    ``+`` joins the moments of tiles: matrices that are zero outside disjoint sets of entries.

    Attributes
    ----------
    names : tuple of str, length q
    fingerprint : str
        Of `basis` and `residuals`, which tiles must share.
    basis : ndarray, n x m
        Q.
    residuals : ndarray, n x t
        r = Py.
    cross : ndarray, q x q
        ``tr(K_i K_j)``; NaN for a pair with markers, where `random` takes its place.
    diagonals : ndarray, q x n
    on_basis : ndarray, q x n x m
        ``K_i Q``.
    on_residuals : ndarray, q x n x t
        ``K_i r``.
    random : ndarray, q x n x B, or None
        ``K_i P z`` for the random probes z, when there are markers.
    """

    names: tuple[str, ...]
    fingerprint: str
    basis: np.ndarray
    residuals: np.ndarray
    cross: np.ndarray
    diagonals: np.ndarray
    on_basis: np.ndarray
    on_residuals: np.ndarray
    random: np.ndarray | None = None

    @property
    def n(self) -> int:
        """Number of rows."""
        return len(self.basis)

    def __add__(self, other: Moments) -> Moments:
        if self.names != other.names or self.fingerprint != other.fingerprint:
            raise OptionError(
                "only moments of tiles of one data set add up (same components, fixed effects and responses). "
                "For separate cohorts use Moments.pool([...])."
            )
        return Moments(
            self.names,
            self.fingerprint,
            self.basis,
            self.residuals,
            self.cross + other.cross,
            self.diagonals + other.diagonals,
            self.on_basis + other.on_basis,
            self.on_residuals + other.on_residuals,
            None if self.random is None or other.random is None else self.random + other.random,
        )

    @staticmethod
    def pool(parts: Sequence[Moments], inner: str = "full", project: bool = True) -> NormalEquations:
        """Normal equations of several cohorts without people in common.

        Parameters
        ----------
        parts : sequence of Moments
        inner, project :
            As in `equations`.

        Returns
        -------
        NormalEquations
        """
        first, *others = [part.equations(inner, project) for part in parts]
        return sum(others, start=first)

    def equations(self, inner: str = "full", project: bool = True) -> NormalEquations:
        """Normal equations for one inner product; eqs. HE-4 to HE-6.

        Parameters
        ----------
        inner : {"full", "triangle", "offdiag"}
            All pairs; the upper triangle with its diagonal; pairs of different individuals only.
        project : bool
            Whether the expectation is that of the residuals (exact), or of the data.

        Returns
        -------
        NormalEquations
            Residual first, unless ``inner="offdiag"``.
        """
        n, m, q = self.n, self.basis.shape[1] if project else 0, len(self.names)
        basis = self.basis[:, :m]
        on_basis = self.on_basis[:, :, :m]
        H = np.einsum("na,inb->iab", basis, on_basis)
        traces = self.diagonals.sum(axis=1) - np.einsum("iaa->i", H)
        gram = np.empty((q + 1, q + 1))
        gram[0, 0] = n - m
        gram[0, 1:] = gram[1:, 0] = traces
        gram[1:, 1:] = self.cross - 2 * np.einsum("ina,jna->ij", on_basis, on_basis) + np.einsum("iab,jba->ij", H, H)
        if self.random is not None:
            by_probes = self._random_gram(project)
            gram[1:, 1:] = np.where(np.isnan(self.cross), by_probes, gram[1:, 1:])
        rhs = np.concatenate(
            [
                (self.residuals.T @ self.residuals)[None],
                np.einsum("nt,inu->itu", self.residuals, self.on_residuals),
            ]
        )
        rhs = (rhs + rhs.transpose(0, 2, 1)) / 2
        leftover = (rhs[0].copy(), traces, float(n - m))
        names = (RESIDUAL, *self.names)
        if inner != "full":
            diagonals = np.empty((q + 1, n))
            diagonals[0] = 1 - np.einsum("na,na->n", basis, basis)
            for i in range(q):
                diagonals[i + 1] = self.diagonals[i] + np.einsum("na,na->n", basis @ H[i] - 2 * on_basis[i], basis)
            of_diagonal = diagonals @ diagonals.T
            rhs_diagonal = np.einsum("in,nt,nu->itu", diagonals, self.residuals, self.residuals)
            sign = 1 if inner == "triangle" else -1
            gram, rhs = (gram + sign * of_diagonal) / 2, (rhs + sign * rhs_diagonal) / 2
        if inner == "offdiag":
            return NormalEquations(names[1:], gram[1:, 1:], rhs[1:], leftover)
        return NormalEquations(names, gram, rhs, leftover)

    def _random_gram(self, project: bool) -> np.ndarray:
        assert self.random is not None
        products = self.random
        if project:
            products = products - np.einsum("na,iab->inb", self.basis, np.einsum("na,inb->iab", self.basis, products))
        return np.einsum("inb,jnb->ij", products, products) / products.shape[2]


def compute_moments(
    problem: Problem,
    probes: np.ndarray | None = None,
    seed: int = 0,
    run: Callable[[Request], TileSums] = stream,
) -> Moments:
    """One reading of every kernel.

    Parameters
    ----------
    problem : Problem
    probes : ndarray, n x B, optional
        Random columns z, needed with markers.
    seed : int
        Of the column that tests symmetry.
    run : callable
        How a request is carried out: here, or by `distributed.stream_on_dask` on other machines.

    Returns
    -------
    Moments

    Raises
    ------
    RelmatError
        A streamed kernel is not symmetric.
    """
    plan = plan_streams(problem, probes, seed)
    sums = {space: run(request) for space, request in plan.requests.items()}
    return assemble(problem, plan, sums, probes)


@dataclass(frozen=True, eq=False)
class Plan:
    """What each space is asked for, and where the answers go.

    Attributes
    ----------
    requests : dict
        Space -> Request.
    members : dict
        Space -> terms (positions) whose kernels are its sources.
    pair_targets : dict
        Space -> for each pair: the two terms, and the component pair (i, j) each sum is added to.
    gather_targets : dict
        Space -> for each gather: its component pair (i, j).
    column_targets : dict
        Space -> (i, j, source, first column, B): ``sum(K U o B)`` over extra columns U is added to (i, j).
    """

    requests: dict[int, Request]
    members: dict[int, list[int]]
    pair_targets: dict[int, list[tuple[int, int, list[tuple[int, int]]]]]
    gather_targets: dict[int, list[tuple[int, int]]]
    column_targets: dict[int, list[tuple[int, int, int, int, np.ndarray]]]


def _columns(problem: Problem, probes: np.ndarray | None) -> np.ndarray:
    parts = [problem.basis, problem.residuals]
    if probes is not None:
        parts.append(probes)
    return np.column_stack(parts)


def plan_streams(problem: Problem, probes: np.ndarray | None, seed: int) -> Plan:
    """Sort what the moments need by the kernels it is read from."""
    columns = _columns(problem, probes)
    terms, components = problem.terms, problem.components
    members: dict[int, list[int]] = {}
    for t, term in enumerate(terms):
        if isinstance(term.kernel, Source):
            members.setdefault(term.space, []).append(t)
    requests, pair_targets, gather_targets, column_targets = {}, {}, {}, {}
    rng = np.random.default_rng(seed)
    for space, inside in members.items():
        inputs = [np.column_stack([terms[t].to_levels(columns, a) for a in range(terms[t].n_effects)]) for t in inside]
        pairs, targets = [], []
        for s, first in enumerate(inside):
            for u in range(s, len(inside)):
                left, right, where = _pair_weights(terms, components, first, inside[u])
                plain = left.shape[1] == 1 and bool((left == 1).all() and (right == 1).all())
                pairs.append((s, u, None if plain else left, None if plain else right))
                targets.append((first, inside[u], where))
        gathers, gathered, by_columns = [], [], []
        for i, component in enumerate(components):
            if component.term not in inside:
                continue
            for j, other in enumerate(components):
                if isinstance(terms[other.term].kernel, Source):
                    continue
                if _has_few_levels(terms[component.term], terms[other.term]):
                    s = inside.index(component.term)
                    for extra, weights in _tables(terms[component.term], component, terms[other.term], other):
                        by_columns.append((i, j, s, inputs[s].shape[1], weights))
                        inputs[s] = np.column_stack([inputs[s], extra])
                    continue
                pattern = _pattern(terms[component.term], component, terms[other.term], other)
                gathers.append((inside.index(component.term), pattern))
                gathered.append((i, j))
        requests[space] = Request(
            tuple(terms[t].kernel for t in inside),
            tuple(inputs),
            tuple(pairs),
            tuple(gathers),
            rng.standard_normal(terms[inside[0]].r),
        )
        pair_targets[space], gather_targets[space], column_targets[space] = targets, gathered, by_columns
    return Plan(requests, members, pair_targets, gather_targets, column_targets)


def _has_few_levels(term: Spread, other: Spread) -> bool:
    """Whether the pattern of `other` on the levels of `term` holds more entries than a table levels x levels."""
    if term.space == other.space:
        return False
    counts = np.bincount(other.codes, minlength=other.r).astype(float)
    return float(counts @ counts) > float(term.r) * other.r


def _tables(
    term: Spread, component: Component, other: Spread, second: Component
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """U and B, both levels x levels of the other term, with ``tr(K_i K_j) = sum(G_i U o B)``."""
    for a, b in component.sides:
        for c, d in second.sides:
            to_d = term.Z[a].T @ other.Z[d]
            weights = to_d if other.kernel is None else to_d @ other.kernel
            yield (term.Z[b].T @ other.Z[c]).toarray(), weights.toarray()


def _pair_weights(
    terms: Sequence[Spread], components: Sequence[Component], first: int, second: int
) -> tuple[np.ndarray, np.ndarray, list[tuple[int, int]]]:
    """Weights of ``tr(Z_a G Z_b' Z_c H Z_d')`` on one set of levels, one column for each product of sides."""
    left, right, where = [], [], []
    for i, component in enumerate(components):
        for j, other in enumerate(components):
            if component.term != first or other.term != second:
                continue
            for a, b in component.sides:
                for c, d in other.sides:
                    left.append(_between(terms[first], a, terms[second], d))
                    right.append(_between(terms[first], b, terms[second], c))
                    where.append((i, j))
    return np.column_stack(left), np.column_stack(right), where


def _between(term: Spread, a: int, other: Spread, b: int) -> np.ndarray:
    """Diagonal of ``Z_a' Z_b`` for two terms on one set of levels."""
    if term.is_rows and other.is_rows:
        return np.ones(term.r)
    return np.bincount(term.codes, weights=term.M[:, a] * other.M[:, b], minlength=term.r)


def _pattern(term: Spread, component: Component, other: Spread, second: Component) -> sparse.csr_array:
    """E with ``tr(K_i K_j) = sum(G_i o E)``, for a sparse or identity kernel of the other term."""
    total = None
    for a, b in component.sides:
        for c, d in second.sides:
            if term.space == other.space:
                left = _between(term, a, other, d)
                right = _between(term, b, other, c)
                middle = sparse.eye_array(term.r, format="csr") if other.kernel is None else other.kernel
                part = sparse.diags_array(left) @ middle @ sparse.diags_array(right)
            else:
                to_d = sparse.csr_array(term.Z[a].T @ other.Z[d])
                to_c = sparse.csr_array(term.Z[b].T @ other.Z[c])
                part = (to_d if other.kernel is None else to_d @ other.kernel) @ to_c.T
            total = part if total is None else total + part
    return sparse.csr_array(total)


def assemble(problem: Problem, plan: Plan, sums: dict[int, TileSums], probes: np.ndarray | None) -> Moments:
    """Moments from the sums of all spaces, and from the kernels that need no streaming."""
    terms, components = problem.terms, problem.components
    columns = _columns(problem, probes)
    q, n_markers = len(components), len(problem.markers)
    cross = np.full((q + n_markers, q + n_markers), np.nan)
    products = np.empty((q + n_markers, problem.n, columns.shape[1]))
    diagonals = np.empty((q + n_markers, problem.n))
    level_products: dict[int, list[np.ndarray]] = {}
    level_diagonals: dict[int, np.ndarray] = {}
    width = columns.shape[1]
    for space, tiles in sums.items():
        inside = plan.members[space]
        tiles.check_symmetry(plan.requests[space].sources, [terms[t].group for t in inside])
        for s, t in enumerate(inside):
            product = tiles.products[s]
            level_products[t] = [product[:, a * width : (a + 1) * width] for a in range(terms[t].n_effects)]
            level_diagonals[t] = tiles.diagonals[s]
        cross_sums, known = np.zeros((q, q)), np.zeros((q, q), dtype=bool)
        for values, (first, second, where) in zip(tiles.pairs, plan.pair_targets[space], strict=True):
            part = np.zeros((q, q))
            values = np.broadcast_to(values, len(where))
            for value, (i, j) in zip(values, where, strict=True):
                part[i, j] += value
                known[i, j] = known[j, i] = True
            cross_sums += part if first == second else part + part.T
        for value, (i, j) in zip(tiles.gathers, plan.gather_targets[space], strict=True):
            cross_sums[i, j] += value
            cross_sums[j, i] += value
            known[i, j] = known[j, i] = True
        for i, j, s, first_column, weights in plan.column_targets[space]:
            value = float(np.sum(tiles.products[s][:, first_column : first_column + weights.shape[1]] * weights))
            cross_sums[i, j] += value
            cross_sums[j, i] += value
            known[i, j] = known[j, i] = True
        cross[:q, :q][known] = cross_sums[known]
    for t, term in enumerate(terms):
        if t not in level_products:
            level_products[t] = [term.apply(term.to_levels(columns, a)) for a in range(term.n_effects)]
            level_diagonals[t] = np.ones(term.r) if term.kernel is None else term.kernel.diagonal()
    for i, component in enumerate(components):
        term = terms[component.term]
        parts = [term.to_rows(level_products[component.term][b], a) for a, b in component.sides]
        products[i] = parts[0] if len(parts) == 1 else parts[0] + parts[1]
        on_rows = level_diagonals[component.term][term.codes]
        diagonals[i] = len(parts) * on_rows * term.M[:, component.a] * term.M[:, component.b]
        for j in range(i, q):
            if np.isnan(cross[i, j]):
                cross[i, j] = cross[j, i] = _trace(terms, component, components[j])
    if n_markers:
        assert probes is not None
        sums_by_marker = marker_sums(problem.markers, columns)
        for k, (product, diagonal) in enumerate(sums_by_marker):
            products[q + k], diagonals[q + k] = product, diagonal
    m, t = problem.m, problem.t
    return Moments(
        problem.names[1:],
        problem.fingerprint,
        problem.basis,
        problem.residuals,
        cross,
        diagonals,
        products[:, :, :m],
        products[:, :, m : m + t],
        products[:, :, m + t :] if probes is not None else None,
    )


def _trace(terms: Sequence[Spread], component: Component, other: Component) -> float:
    """``tr(K_i K_j)`` of two kernels that are sparse, identity, or streamed on different levels."""
    first, second = terms[component.term], terms[other.term]
    same = first.space == second.space
    total = 0.0
    for a, b in component.sides:
        for c, d in other.sides:
            if same:
                left, right = _between(first, a, second, d), _between(first, b, second, c)
                if first.kernel is None or second.kernel is None:
                    on = [np.ones(first.r) if k is None else k.diagonal() for k in (first.kernel, second.kernel)]
                    total += float((left * right * on[0]) @ on[1])
                else:
                    total += float(left @ (first.kernel.multiply(second.kernel) @ right))
            else:
                to_c = sparse.csr_array(first.Z[b].T @ second.Z[c])
                to_d = sparse.csr_array(first.Z[a].T @ second.Z[d])
                total += _inner(_times(first, to_c), _times(second, sparse.csr_array(to_d.T)).T)
    return total


def _times(term: Spread, table: sparse.csr_array) -> Any:
    """``G C`` for a sparse table of levels x levels."""
    return term.apply(table.toarray()) if isinstance(term.kernel, Source) else term.apply(table)


def _inner(first: Any, second: Any) -> float:
    if sparse.issparse(first) and sparse.issparse(second):
        return float(first.multiply(second).sum())
    return float(np.sum(np.asarray(first) * np.asarray(second)))
