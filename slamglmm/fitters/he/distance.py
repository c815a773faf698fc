"""A distance between individuals as response: Gower's centring, exact projection, permutations; eqs. HE-14, HE-15."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import scipy.linalg

from ...design import Design
from ...design.row_labels import RowLabels
from ...errors import DataError, OptionError, SlamWarning, warn
from ...options import Options
from .moments import Moments, NormalEquations
from .problem import RESIDUAL, Problem
from .sources import Source
from .spread import Component, Spread

CORRECTIONS = ("sqrt", "lingoes", None)
# Relative to the largest eigenvalue.
NEGATIVE = 1e-9


@dataclass(frozen=True, eq=False)
class DistanceResponse:
    """A distance turned into inner products.

    Attributes
    ----------
    M : ndarray, n x n
        ``-J D^2 J / 2``.
    n_negative : int
        Negative eigenvalues of M: none when the distance is Euclidean.
    negative_share : float
        Their part of the sum of absolute eigenvalues.
    correction : str or None
    notes : tuple of str
        How rows were matched, where that needs saying.
    """

    M: np.ndarray
    n_negative: int
    negative_share: float
    correction: str | None
    notes: tuple[str, ...] = ()


def read_distance(distance: Any, design: Design, whose: RowLabels, correction: str | None) -> DistanceResponse:
    """Check, align and centre the ``distance=`` argument.

    Parameters
    ----------
    distance : DataFrame, (array, labels), array, or an object with ``ids`` and ``data`` (scikit-bio)
        Labels are matched with the index, or a column, of the data.
    design : Design
    whose : RowLabels
        Who the rows of the data are.
    correction : {None, "sqrt", "lingoes"}
        Square root of the distances; or the smallest constant added to the squared distances that makes them
        Euclidean.

    Raises
    ------
    DataError, OptionError

    Warns
    -----
    SlamWarning
        The distance is not Euclidean and no correction was asked for.
    """
    check_correction(correction)
    values, labels = _values_and_labels(distance)
    if values.ndim != 2 or values.shape[0] != values.shape[1]:
        raise DataError(f"distance must be square, got shape {values.shape}.")
    if labels is not None and not labels.is_unique:
        raise DataError(f"distance has the label {str(labels[labels.duplicated()][0])!r} twice.")
    # several records of one individual are at distance zero
    order, note = whose.match(
        labels, len(values), "distance", rows=design.rows, repeats=True, by_position="distance.to_numpy()"
    )
    D = values[np.ix_(order, order)]
    if not np.isfinite(D).all():
        raise DataError("distance has missing or infinite entries. Drop these individuals.")
    gap = np.abs(D - D.T)
    if gap.max(initial=0.0) > 1e-8 * np.abs(D).max(initial=0.0):
        a, b = np.unravel_index(int(gap.argmax()), gap.shape)
        raise DataError(f"distance must be symmetric; rows {a} and {b} have {D[a, b]:.6g} and {D[b, a]:.6g}.")
    if D.min(initial=0.0) < 0 or np.abs(np.diag(D)).max(initial=0.0) > 1e-12 * np.abs(D).max(initial=0.0):
        raise DataError("distance must be zero on the diagonal and nowhere negative; is it a similarity?")
    if correction == "sqrt":
        D = np.sqrt(D)
    M = _gower(D**2)
    eigenvalues = scipy.linalg.eigvalsh(M, check_finite=False)
    if correction == "lingoes" and eigenvalues[0] < 0:
        off = ~np.eye(len(D), dtype=bool)
        M = _gower(D**2 + 2 * -eigenvalues[0] * off)
        eigenvalues = scipy.linalg.eigvalsh(M, check_finite=False)
    negative = eigenvalues < -NEGATIVE * np.abs(eigenvalues).max()
    share = float(np.abs(eigenvalues[negative]).sum() / np.abs(eigenvalues).sum())
    if negative.any():
        warn(
            f"the distance is not Euclidean: {int(negative.sum())} of {len(D)} eigenvalues of its centred matrix are "
            f"negative ({share:.0%} of their absolute sum). Shares of variance are still defined; correction='sqrt' "
            "or 'lingoes' makes it Euclidean.",
            SlamWarning,
        )
    return DistanceResponse(M, int(negative.sum()), share, correction, () if note is None else (note,))


def check_correction(correction: Any) -> None:
    """Refuse what is no correction of a distance.

    Raises
    ------
    OptionError
    """
    Options({"correction": correction}).choice("correction", CORRECTIONS)


def _gower(squared: np.ndarray) -> np.ndarray:
    means = squared.mean(axis=1)
    return -0.5 * (squared - means[:, None] - means + means.mean())


def _values_and_labels(distance: Any) -> tuple[np.ndarray, pd.Index | None]:
    if isinstance(distance, pd.DataFrame):
        if not distance.index.equals(distance.columns):
            if not (distance.index.is_unique and set(distance.index) == set(distance.columns)):
                raise DataError("distance must have the same labels as index and columns.")
            distance = distance[distance.index]
        return _numbers(distance), distance.index
    if hasattr(distance, "ids") and hasattr(distance, "data"):
        return _numbers(distance.data), pd.Index(list(distance.ids))
    if isinstance(distance, tuple) and len(distance) == 2 and isinstance(distance[1], Iterable):
        return _numbers(distance[0]), pd.Index(list(distance[1]))
    return _numbers(distance), None


def _numbers(distance: Any) -> np.ndarray:
    try:
        values = np.asarray(distance)
        if values.dtype.kind != "c":
            return np.array(values, dtype=float)
    except (TypeError, ValueError):
        pass
    raise DataError(
        f"distance must hold numbers, a row and a column for each row of data, got {type(distance).__name__}. Give a "
        "labelled DataFrame, (array, labels), an array or a scikit-bio DistanceMatrix."
    )


def distance_equations(
    problem: Problem, moments: Moments, response: DistanceResponse, inner: str, project: bool
) -> NormalEquations:
    """Normal equations with ``P M P`` in the place of ``r r'``.

    Raises
    ------
    OptionError
        The fixed effects hold no intercept.
    """
    n = problem.n
    ones = np.ones(n)
    if np.abs(ones - problem.basis @ (problem.basis.T @ ones)).max() > 1e-8:
        raise OptionError("a distance response needs an intercept among the fixed effects: distances know no origin.")
    equations = moments.equations(inner, project)
    c = distance_rhs(problem, moments, response.M, inner, project)
    squares = c[:1].reshape(1, 1)
    if inner == "offdiag":
        squares = distance_rhs(problem, moments, response.M, "full", project)[:1].reshape(1, 1)
        c = c[1:]
    _, traces, df = equations.leftover
    return NormalEquations(equations.names, equations.S, c[:, None, None], (squares, traces, df))


def distance_rhs(problem: Problem, moments: Moments, M: np.ndarray, inner: str, project: bool) -> np.ndarray:
    """``<P M P, K_i>`` for the residual and every component, length q+1."""
    basis = problem.basis
    on_basis = M @ basis
    rest = on_basis - basis @ (basis.T @ on_basis) / 2
    projected_diagonal = np.diag(M) - 2 * np.einsum("na,na->n", rest, basis)
    inside = basis.T @ on_basis
    q = len(problem.components)
    full = np.empty(q + 1)
    full[0] = np.trace(M) - np.trace(inside)
    for i, component in enumerate(problem.components):
        T = moments.on_basis[i]
        full[i + 1] = _inner_with(problem.terms[component.term], component, M)
        full[i + 1] += -2 * np.sum(on_basis * T) + np.sum(inside * (basis.T @ T).T)
    if inner == "full":
        return full
    diagonals = np.empty((q + 1, problem.n))
    diagonals[0] = 1 - (np.einsum("na,na->n", basis, basis) if project else 0)
    for i in range(q):
        T = moments.on_basis[i]
        diagonals[i + 1] = moments.diagonals[i]
        if project:
            diagonals[i + 1] += np.einsum("na,na->n", basis @ (basis.T @ T) - 2 * T, basis)
    sign = 1 if inner == "triangle" else -1
    return (full + sign * diagonals @ projected_diagonal) / 2


def _inner_with(term: Spread, component: Component, M: np.ndarray) -> float:
    """``tr(K_i M)`` among levels."""
    total = 0.0
    for a, b in component.sides:
        # Z_a' M Z_b, a product at a time
        N = M if term.is_rows else term.Z[b].T @ (term.Z[a].T @ M).T
        if term.kernel is None:
            total += float(np.trace(N))
        elif isinstance(term.kernel, Source):
            with term.kernel.reader() as read:
                for low, high in term.kernel.blocks():
                    tile = read(low, high)
                    part = float(np.einsum("ab,ab->", tile, N[low:high, : tile.shape[1]]))
                    if term.kernel.packed:
                        part = 2 * part - float(np.diagonal(tile[:, low:high]) @ np.diagonal(N)[low:high])
                    total += part
        else:
            total += float(term.kernel.multiply(N).sum())
    return total


def permutation_p(
    problem: Problem,
    moments: Moments,
    response: DistanceResponse,
    equations: NormalEquations,
    inner: str,
    project: bool,
    observed: np.ndarray,
    mapping: np.ndarray,
    n_permutations: int,
    rng: np.random.Generator,
) -> np.ndarray:
    """Share of permutations whose HE estimate is at least the observed one, length q+1 (residual: NaN).

    Individuals of the residual matrix ``P M P`` are permuted and projected again.
    """
    basis = problem.basis
    on_basis = response.M @ basis
    rest = on_basis - basis @ (basis.T @ on_basis) / 2
    residual = response.M - rest @ basis.T - basis @ rest.T
    exceeded = np.ones(len(observed))
    for _ in range(n_permutations):
        order = rng.permutation(problem.n)
        c = distance_rhs(problem, moments, residual[np.ix_(order, order)], inner, project)
        if equations.names[0] != RESIDUAL:
            c[0] = equations.leftover[0][0, 0]
        exceeded += mapping @ c >= observed * (1 - 1e-12)
    p = exceeded / (n_permutations + 1)
    p[0] = np.nan
    return p
