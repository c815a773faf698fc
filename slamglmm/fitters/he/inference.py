"""How sure: the Gaussian sandwich (exact or by probes), the jackknife over families, the parametric bootstrap."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.linalg
from scipy import sparse

from ...errors import FitError, OptionError
from ...linalg.nnls import solve_symmetric
from .markers import jackknife_blocks
from .moments import Moments, NormalEquations
from .problem import RESIDUAL, Problem
from .solvers import estimate_map, solve_equations
from .spread import SPARSE_LIMIT, Spread, component_product, cones_of, row_matrix, sparse_size

# Rows up to which n x n matrices are formed for exact standard errors, and the share of entries up to which they are
# kept sparse instead.
DENSE_LIMIT = 2000
SPARSE_SHARE = 0.05
JACKKNIFE_LIMIT = 5000
MAX_UNITS = 1000
# Numbers in the largest array of random columns; more probes come in batches.
PROBE_NUMBERS = 50_000_000


@dataclass(frozen=True, eq=False)
class GroupMatrix:
    """``a I + Z diag(d) Z'`` for one grouping factor: sums and products stay of this form, whatever the size of groups.

    Attributes
    ----------
    a : float
    d : ndarray, length r
    term : Spread
        With one effect and no relationship matrix.
    counts : ndarray, length r
        Diagonal of ``Z'Z``.
    """

    a: float
    d: np.ndarray
    term: Spread
    counts: np.ndarray

    def __matmul__(self, other: Any) -> Any:
        if isinstance(other, GroupMatrix):
            d = self.a * other.d + other.a * self.d + self.d * self.counts * other.d
            return GroupMatrix(self.a * other.a, d, self.term, self.counts)
        return self.a * other + self.term.to_rows(self.d[:, None] * self.term.to_levels(other, 0), 0)

    def __mul__(self, by: float) -> GroupMatrix:
        return GroupMatrix(self.a * by, self.d * by, self.term, self.counts)

    def __add__(self, other: GroupMatrix) -> GroupMatrix:
        return GroupMatrix(self.a + other.a, self.d + other.d, self.term, self.counts)

    def trace(self) -> float:
        """Sum of the diagonal."""
        return self.a * len(self.term.codes) + float(self.counts @ self.d)


@dataclass(frozen=True, eq=False)
class RowMatrix:
    """A symmetric n x n matrix: a dense or sparse base plus ``left right'`` of low rank.

    Attributes
    ----------
    base : ndarray, csr_array or GroupMatrix, n x n
    left, right : ndarray, n x k
    """

    base: Any
    left: np.ndarray
    right: np.ndarray

    def __matmul__(self, U: np.ndarray) -> np.ndarray:
        return np.asarray(self.base @ U) + self.left @ (self.right.T @ U)

    def scaled(self, by: float) -> RowMatrix:
        """A multiple."""
        return RowMatrix(self.base * by, self.left * by, self.right)

    def plus_diagonal(self, diagonal: np.ndarray) -> RowMatrix:
        """With something added to the diagonal."""
        if sparse.issparse(self.base):
            return RowMatrix(sparse.csr_array(self.base + sparse.diags_array(diagonal)), self.left, self.right)
        return RowMatrix(self.base + np.diag(diagonal), self.left, self.right)

    def diagonal(self) -> np.ndarray:
        """Diagonal, length n."""
        return self.base.diagonal() + np.einsum("nk,nk->n", self.left, self.right)

    def times(self, other: RowMatrix) -> RowMatrix:
        """Product of two."""
        # (B + L R')(C + M N') = BC + (BM) N' + L (C R)' + L (R'M) N', the second matrix being symmetric
        left = np.column_stack([np.asarray(self.base @ other.left), self.left])
        right = np.column_stack([other.right, other @ self.right])
        return RowMatrix(self.base @ other.base, left, right)

    def trace_with(self, other: RowMatrix) -> float:
        """``tr(A B)``."""
        if isinstance(self.base, GroupMatrix):
            total = (self.base @ other.base).trace()
        elif sparse.issparse(self.base):
            total = float(self.base.multiply(other.base.T).sum())
        else:
            total = float(np.einsum("ab,ba->", self.base, other.base))
        total += float(np.sum(np.asarray(other.base @ self.left) * self.right))
        total += float(np.sum(np.asarray(self.base @ other.left) * other.right))
        return total + float(np.sum((self.right.T @ other.left) * (other.right.T @ self.left).T))


def row_matrices(problem: Problem, project: bool, inner: str) -> list[RowMatrix] | None:
    """All ``P K_i P`` (or ``K_i``), residual first; None where they would be too large."""
    if problem.markers:
        return None
    if inner == "full" and len(problem.components) == 1 and problem.terms[0].kernel is None:
        term = problem.terms[0]
        counts, none = term.squares(0, 0), np.zeros(term.r)
        one = GroupMatrix(1.0, none, term, counts)
        return _projected(problem, project, [one, GroupMatrix(0.0, none + 1.0, term, counts)], False)
    dense = _prefers_dense(problem, DENSE_LIMIT) and problem.n <= DENSE_LIMIT
    if not dense and sparse_size(problem.terms) > SPARSE_LIMIT:
        return None
    return form_row_matrices(problem, project, dense)


def _prefers_dense(problem: Problem, limit: int) -> bool:
    size = sparse_size(problem.terms)
    if size <= min(SPARSE_LIMIT, SPARSE_SHARE * problem.n**2):
        return False
    return problem.n <= limit or size > SPARSE_LIMIT


def form_row_matrices(problem: Problem, project: bool, dense: bool) -> list[RowMatrix]:
    """All ``P K_i P`` (or ``K_i``), residual first, as dense arrays or as sparse ones plus low rank."""
    n = problem.n
    bases: list[Any] = [np.eye(n) if dense else sparse.eye_array(n, format="csr")]
    bases += [row_matrix(problem.terms[c.term], c, dense) for c in problem.components]
    return _projected(problem, project, bases, dense)


def _projected(problem: Problem, project: bool, bases: list[Any], dense: bool) -> list[RowMatrix]:
    basis = problem.basis
    none = np.zeros((problem.n, 0))
    if not project or not problem.m:
        return [RowMatrix(base, none, none) for base in bases]
    out = []
    for base in bases:
        on_basis = np.asarray(base @ basis)
        rest = on_basis - basis @ (basis.T @ on_basis) / 2
        left, right = np.column_stack([-basis, -rest]), np.column_stack([rest, basis])
        out.append(RowMatrix(base + left @ right.T, none, none) if dense else RowMatrix(base, left, right))
    return out


def weighted(matrix: RowMatrix, inner: str) -> RowMatrix:
    """M with ``<K, rr'> = r'M r`` for the inner product."""
    if inner == "full":
        return matrix
    half = matrix.scaled(0.5)
    return half.plus_diagonal(matrix.diagonal() * (0.5 if inner == "triangle" else -0.5))


# -- sandwich -----------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class SandwichTraces:
    """``T[i, a, j, b] = tr(M_i R_a M_j R_b)``, from which every covariance of moments follows; eq. HE-8.

    Attributes
    ----------
    traces : ndarray, (q+1) x f x (q+1) x f
    weights : ndarray, f x t x t
        ``Cov(r_t, r_u) = sum_a weights[a, t, u] R_a``.
    map : ndarray, (q+1) x (q+1)
        ``s = map c``.
    n_probes : int
        0 when exact.
    error : float
        Largest relative Monte Carlo error of a standard error (0 when exact).
    """

    traces: np.ndarray
    weights: np.ndarray
    map: np.ndarray
    n_probes: int = 0
    error: float = 0.0

    def covariance(self, first: tuple[int, int], second: tuple[int, int]) -> np.ndarray:
        """Covariance of the estimates of two trait pairs, (q+1) x (q+1)."""
        (t, u), (v, w) = first, second
        g = self.weights
        outer = np.einsum("a,b->ab", g[:, t, v], g[:, u, w]) + np.einsum("a,b->ab", g[:, t, w], g[:, u, v])
        of_moments = np.einsum("ab,iajb->ij", outer, self.traces)
        return self.map @ of_moments @ self.map.T


def sandwich(
    problem: Problem,
    equations: NormalEquations,
    theta: np.ndarray,
    inner: str,
    project: bool,
    n_probes: int,
    rng: np.random.Generator,
) -> SandwichTraces:
    """Sandwich covariance ``S^-1 C S^-1`` with V at `theta`; eq. HE-8.

    Parameters
    ----------
    problem : Problem
    equations : NormalEquations
    theta : ndarray, (q+1) x t x t
        REHE estimate.
    inner, project :
        As the equations were made.
    n_probes : int
        Random columns where n x n matrices would be too large.
    rng : Generator
    """
    single = problem.t == 1
    weights = np.ones((1, 1, 1)) if single else theta
    mapping = estimate_map(equations)
    projected = row_matrices(problem, True, inner)
    if projected is None:
        return _sandwich_by_probes(problem, theta, weights, mapping, inner, project, n_probes, rng)
    left = projected if project else row_matrices(problem, False, inner)
    assert left is not None
    left = [weighted(matrix, "full" if inner == "offdiag" and i == 0 else inner) for i, matrix in enumerate(left)]
    right = [_combined(projected, theta[:, 0, 0])] if single else projected
    products = [[m.times(r) for r in right] for m in left]
    q, f = len(left), len(right)
    traces = np.empty((q, f, q, f))
    for i in range(q):
        for a in range(f):
            for j in range(q):
                for b in range(f):
                    if (j, b) >= (i, a):
                        traces[i, a, j, b] = traces[j, b, i, a] = products[i][a].trace_with(products[j][b])
    return SandwichTraces(traces, weights, mapping)


def _combined(matrices: Sequence[RowMatrix], weights: np.ndarray) -> RowMatrix:
    base = sum(
        (m.base * w for m, w in zip(matrices[1:], weights[1:], strict=True)), start=matrices[0].base * weights[0]
    )
    left = np.column_stack([m.left * w for m, w in zip(matrices, weights, strict=True)])
    return RowMatrix(base, left, np.column_stack([m.right for m in matrices]))


def apply_components(problem: Problem, U: np.ndarray) -> list[np.ndarray]:
    """``K_i U`` for every component, residual first."""
    out = [U] + [component_product(problem.terms[c.term], c, U) for c in problem.components]
    if problem.markers:
        for products, _, counts in jackknife_blocks(problem.markers, U, 1):
            out.append(products[0] / counts[0])
    return out


def _sandwich_by_probes(
    problem: Problem,
    theta: np.ndarray,
    weights: np.ndarray,
    mapping: np.ndarray,
    inner: str,
    project: bool,
    n_probes: int,
    rng: np.random.Generator,
) -> SandwichTraces:
    if inner != "full":
        raise OptionError(
            f"se='sandwich' with inner={inner!r} needs n <= {DENSE_LIMIT} or sparse kinships; here n = {problem.n}. "
            "Use inner='full' or se=None."
        )

    def project_off(U: np.ndarray) -> np.ndarray:
        return U - problem.basis @ (problem.basis.T @ U)

    single = problem.t == 1
    q, f = len(theta), 1 if single else len(theta)

    def left(U: np.ndarray) -> list[np.ndarray]:
        if not project:
            return apply_components(problem, U)
        return [project_off(V) for V in apply_components(problem, project_off(U))]

    def right(U: np.ndarray) -> list[np.ndarray]:
        parts = [project_off(V) for V in apply_components(problem, project_off(U))]
        return [np.einsum("i,inb->nb", theta[:, 0, 0], np.array(parts))] if single else parts

    by_probe = np.empty((n_probes, q, f, q, f))
    size = max(1, PROBE_NUMBERS // (problem.n * q * f))
    for start in range(0, n_probes, size):
        batch = slice(start, min(start + size, n_probes))
        z = rng.choice([-1.0, 1.0], size=(problem.n, batch.stop - start))
        right_left = [right(U) for U in left(z)]  # R_a M_i z
        left_right = [left(U) for U in right(z)]  # M_j R_b z at [b][j]
        for i in range(q):
            for a in range(f):
                for j in range(q):
                    for b in range(f):
                        by_probe[batch, i, a, j, b] = np.einsum("nz,nz->z", right_left[i][a], left_right[b][j])
    by_probe = (by_probe + by_probe.transpose(0, 3, 4, 1, 2)) / 2
    traces = by_probe.mean(axis=0)
    result = SandwichTraces(traces, weights, mapping, n_probes)
    variances = np.array(
        [np.diag(SandwichTraces(part, weights, mapping).covariance((0, 0), (0, 0))) for part in by_probe]
    )
    error = variances.std(axis=0, ddof=1) / np.sqrt(n_probes) / np.abs(2 * variances.mean(axis=0))
    return SandwichTraces(result.traces, weights, mapping, n_probes, float(error.max()))


# -- jackknife ----------------------------------------------------------------------------------------


def jackknife(
    problem: Problem,
    moments: Moments,
    equations: NormalEquations,
    inner: str,
    project: bool,
    unit: str,
    rng: np.random.Generator,
) -> tuple[np.ndarray, str]:
    """Covariance of the HE estimates of each trait from leaving out one unit at a time; eq. HE-9.

    Parameters
    ----------
    problem, moments, equations :
    inner, project :
        As the equations were made.
    unit : {"family", "individual"}
    rng : Generator
        Deals families to groups when there are more than 1000.

    Returns
    -------
    covariances : ndarray, t x (q+1) x (q+1)
    note : str

    Notes
    -----
    Fixed effects are those of all rows. Sums over the rows of a unit and within it are taken off the moments; nothing
    is fitted anew.
    """
    dense = _prefers_dense(problem, JACKKNIFE_LIMIT)
    if problem.markers or (dense and problem.n > JACKKNIFE_LIMIT):
        raise OptionError(
            f"se='jackknife' over individuals needs n <= {JACKKNIFE_LIMIT} or sparse kinships, and no markers; here "
            f"n = {problem.n}. Use se='sandwich'."
        )
    units = np.arange(problem.n) if unit == "individual" else problem.families
    n_units = int(units.max()) + 1
    if unit == "family" and n_units < 10:
        units, n_units = np.arange(problem.n), problem.n
        note = "jackknife over individuals: all rows are related, so there are no families to leave out"
    elif n_units > MAX_UNITS and not dense:
        units = rng.permutation(np.arange(n_units) % MAX_UNITS)[units]
        note, n_units = f"jackknife over {MAX_UNITS} random groups of the {n_units} {unit} units", MAX_UNITS
    else:
        note = f"jackknife over {n_units} {'families' if unit == 'family' else 'individuals'}"
    matrices = form_row_matrices(problem, project, dense)
    order = np.argsort(units, kind="stable")
    edges = np.concatenate([[0], np.cumsum(np.bincount(units, minlength=n_units))])
    q, t = len(matrices), problem.t
    residuals = problem.residuals
    # weights of all pairs and of the diagonal in the inner product
    all_pairs, on_diagonal = {"full": (1.0, 0.0), "triangle": (0.5, 0.5), "offdiag": (0.5, -0.5)}[inner]
    diagonals = np.array([matrix.diagonal() for matrix in matrices])
    on_residuals = np.array([matrix @ residuals for matrix in matrices])
    row_sums = np.empty((q, q, problem.n))
    for i in range(q):
        for j in range(i, q):
            row_sums[i, j] = row_sums[j, i] = _row_sums(matrices[i], matrices[j])
    estimates = np.empty((n_units, t, q))
    start = 1 if inner == "offdiag" else 0
    for g in range(n_units):
        rows = order[edges[g] : edges[g + 1]]
        inside = [_block(matrix, rows) for matrix in matrices]
        gram_loss = 2 * row_sums[:, :, rows].sum(axis=2)
        gram_loss -= np.einsum("iab,jab->ij", inside, inside)
        gram_loss = all_pairs * gram_loss + on_diagonal * diagonals[:, rows] @ diagonals[:, rows].T
        S = equations.S - gram_loss[start:, start:]
        for j in range(t):
            r = residuals[rows, j]
            loss = 2 * on_residuals[:, rows, j] @ r - np.einsum("a,iab,b->i", r, inside, r)
            loss = all_pairs * loss + on_diagonal * diagonals[:, rows] @ r**2
            s = solve_symmetric(S, equations.c[:, j, j] - loss[start:])
            if start:
                squares, traces, df = equations.leftover
                traces = traces - diagonals[1:, rows].sum(axis=1)
                residual = (squares[j, j] - r @ r - traces @ s) / (df - diagonals[0, rows].sum())
                s = np.concatenate([[residual], s])
            estimates[g, j] = s
    centred = estimates - estimates.mean(axis=0)
    return (n_units - 1) / n_units * np.einsum("gti,gtj->tij", centred, centred), note


def _row_sums(first: RowMatrix, second: RowMatrix) -> np.ndarray:
    """``sum_b A_ab B_ab``, the diagonal of AB."""
    if sparse.issparse(first.base):
        total = np.asarray(first.base.multiply(second.base).sum(axis=1)).ravel()
    else:
        total = np.einsum("ab,ab->a", first.base, second.base)
    total = total + np.einsum("nk,nk->n", np.asarray(first.base @ second.left), second.right)
    total += np.einsum("nk,nk->n", np.asarray(second.base @ first.left), first.right)
    return total + np.einsum("nk,kl,nl->n", first.left, first.right.T @ second.left, second.right)


def _block(matrix: RowMatrix, rows: np.ndarray) -> np.ndarray:
    base = matrix.base[rows][:, rows]
    if sparse.issparse(base):
        base = base.toarray()
    return base + matrix.left[rows] @ matrix.right[rows].T


def marker_jackknife(
    problem: Problem, moments: Moments, probes: np.ndarray, project: bool, n_blocks: int
) -> np.ndarray:
    """Covariance of the HE estimates from leaving out one block of markers at a time, t x (q+1) x (q+1)."""
    columns = np.column_stack([problem.basis, problem.residuals, probes])
    bytes_needed = 4 * n_blocks * columns.size * len(problem.markers)
    if bytes_needed > 4 * 2**30:
        raise OptionError(
            f"the jackknife over {n_blocks} blocks of markers needs {bytes_needed / 2**30:.1f} GiB; "
            "use fewer n_blocks or n_probes."
        )
    sums = jackknife_blocks(problem.markers, columns, n_blocks)
    m, t, n_terms = problem.m, problem.t, len(problem.components)
    estimates = []
    for j in range(n_blocks):
        on_basis, on_residuals = moments.on_basis.copy(), moments.on_residuals.copy()
        assert moments.random is not None
        random, diagonals = moments.random.copy(), moments.diagonals.copy()
        for k, (products, sizes, counts) in enumerate(sums):
            left = int(counts.sum() - counts[j])
            if left == 0:
                raise OptionError(
                    f"markers '{problem.markers[k].label}' all lie in one jackknife block; use more n_blocks."
                )
            product = (products.sum(axis=0, dtype=np.float64) - products[j]) / left
            i = n_terms + k
            on_basis[i], on_residuals[i], random[i] = product[:, :m], product[:, m : m + t], product[:, m + t :]
            diagonals[i] = (sizes.sum() - sizes[j]) / left / problem.n
        part = Moments(
            moments.names,
            moments.fingerprint,
            moments.basis,
            moments.residuals,
            moments.cross,
            diagonals,
            on_basis,
            on_residuals,
            random,
        )
        equations = part.equations("full", project)
        estimates.append([solve_symmetric(equations.S, equations.c[:, u, u]) for u in range(t)])
    centred = np.array(estimates) - np.mean(estimates, axis=0)
    return (n_blocks - 1) / n_blocks * np.einsum("gti,gtj->tij", centred, centred)


# -- bootstrap ----------------------------------------------------------------------------------------


def covariance_root(problem: Problem, theta: np.ndarray) -> np.ndarray:
    """Lower Cholesky factor of V at the variances `theta` (length q+1), n x n.

    Raises
    ------
    OptionError
        n is too large.
    FitError
        V is not positive definite.
    """
    if problem.n > JACKKNIFE_LIMIT or problem.markers:
        raise OptionError(
            f"se='bootstrap' draws from an n x n covariance, for n <= {JACKKNIFE_LIMIT} and without markers; here "
            f"n = {problem.n}. Use se='sandwich'."
        )
    V = theta[0] * np.eye(problem.n)
    for s, component in zip(theta[1:], problem.components, strict=True):
        if s:
            V += s * row_matrix(problem.terms[component.term], component, True)
    try:
        return scipy.linalg.cholesky(V, lower=True, overwrite_a=True, check_finite=False)
    except scipy.linalg.LinAlgError:
        raise FitError(
            "the covariance at the estimate is singular (residual variance zero), so no bootstrap data can be drawn; "
            "use se='sandwich'."
        ) from None


def bootstrap(
    problem: Problem,
    equations: NormalEquations,
    diagonals: np.ndarray,
    draws: np.ndarray,
    method: str,
    inner: str,
    project: bool,
) -> np.ndarray:
    """Estimates from simulated residuals with the same Gram matrix; eq. HE-10.

    Parameters
    ----------
    problem : Problem
    equations : NormalEquations
    diagonals : ndarray, q x n
        Of the kinships as the equations were made.
    draws : ndarray, n x n_draws
        From N(0, V).
    method, inner, project :
        As in the fit.

    Returns
    -------
    ndarray, n_draws x (q+1)
    """
    if project:
        draws = draws - problem.basis @ (problem.basis.T @ draws)
    products = apply_components(problem, draws)
    forms = np.array([np.einsum("nb,nb->b", draws, product) for product in products])
    squares = forms[0].copy()
    if inner != "full":
        sign = 1 if inner == "triangle" else -1
        forms = (forms + sign * diagonals @ draws**2) / 2
    cones = cones_of(problem.components, problem.terms)
    out = []
    for b in range(draws.shape[1]):
        c = forms[:, b] if equations.names[0] == RESIDUAL else forms[1:, b]
        _, traces, df = equations.leftover
        part = NormalEquations(equations.names, equations.S, c[:, None, None], (squares[b].reshape(1, 1), traces, df))
        out.append(solve_equations(part, method, cones)[:, 0, 0])
    return np.array(out)
