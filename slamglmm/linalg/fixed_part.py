"""What the fixed effects explain of a trait, so that its variances are measured in units of what they leave.

A variance component must not depend on how much the fixed effects explain, so no prior may be relative to the raw
spread of a trait. Its unit is the standard deviation of the residual of a regression on the fixed effects.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
import scipy.linalg

from .independent import column_basis, independent_columns

# Traits whose residuals are held at a time.
BLOCK = 256
# Singular values below this part of the largest are rounding.
TOLERANCE = 1e-9
# Ridge penalties that are tried, in units of the mean squared singular value of the columns.
PENALTIES = np.logspace(-3, 3, 25)
NEWTON_STEPS = 25
# Of a weighted Gram matrix, relative to its trace.
RIDGE = 1e-12
# Products of weights and columns that are held at a time.
WEIGHTED_CELLS = 2**22
# Change of a linear predictor in one step.
LONGEST_STEP = 3.0


@dataclass(frozen=True)
class FixedPart:
    """Columns of the fixed effects on some rows.

    Attributes
    ----------
    flat : ndarray, shape (b, n)
        Columns whose effects have a flat prior. What they explain comes off a trait.
    shrunk : ndarray, shape (c, n)
        Columns whose effects are shrunk; they count for the unit of a trait only.
    pool : ndarray, shape (m, n)
        Columns of single traits.
    own : dict of str to ndarray of int
        Which of the pool a trait has; they count for the unit of that trait.
    """

    flat: np.ndarray
    shrunk: np.ndarray
    pool: np.ndarray
    own: Mapping[str, np.ndarray] = field(default_factory=dict)

    @classmethod
    def constant(cls, n: int) -> FixedPart:
        """An intercept alone."""
        return cls(np.ones((1, n)), np.zeros((0, n)), np.zeros((0, n)))

    @cached_property
    def of_constant(self) -> np.ndarray:
        """Coefficients of the flat columns that add up to one in each row; zeros where none do; shape (b,)."""
        coef = np.linalg.lstsq(self.flat.T, np.ones(self.flat.shape[1]), rcond=None)[0]
        spans = len(coef) > 0 and np.abs(coef @ self.flat - 1.0).max() <= 1e-8
        coef[np.abs(coef) < 1e-10] = 0.0
        return coef if spans else np.zeros(self.b)

    @property
    def b(self) -> int:
        """Number of flat columns."""
        return len(self.flat)

    def with_constant(self) -> FixedPart:
        """The same with the constant as a last flat column, where the flat ones do not span it."""
        if self.of_constant.any():
            return self
        return replace(self, flat=np.concatenate((self.flat, np.ones((1, self.flat.shape[1])))))

    def take(self, rows: np.ndarray) -> FixedPart:
        """The same on some of the rows."""
        return FixedPart(self.flat[:, rows], self.shrunk[:, rows], self.pool[:, rows], self.own)

    def of(self, name: str) -> np.ndarray:
        """Columns that count for the unit of a trait besides the flat ones, shape (c, n)."""
        return np.concatenate((self.shrunk, self.pool[self.own[name]])) if name in self.own else self.shrunk

    def designs(self, names: Sequence[str]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Traits that have the same columns, and these, the flat ones first, shape (q, n).

        Columns that would leave less than half of the rows are left out, but for the flat ones.
        """
        alone = [j for j, name in enumerate(names) if name in self.own]
        together = np.setdiff1d(np.arange(len(names)), alone)
        for positions in ([together] if len(together) else []) + [np.array([j]) for j in alone]:
            others = self.of(names[positions[0]])
            if self.b + len(others) > 0.5 * self.flat.shape[1]:
                others = others[:0]
            columns = np.concatenate((self.flat, others))
            yield positions, columns

    def residual_scales(self, values: np.ndarray, names: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Least squares on each trait's own rows.

        Parameters
        ----------
        values : ndarray, shape (p, n)
            NaN where missing.
        names : sequence of str, length p

        Returns
        -------
        coef : ndarray, shape (p, b)
            Of the flat columns; zero for those that are combinations of earlier ones on a trait's rows.
        scale : ndarray, shape (p,)
            Standard deviation of what all columns leave, with its degrees of freedom; NaN where none are left.
        """
        p = len(values)
        coef, scale = np.zeros((p, self.b)), np.full(p, np.nan)
        for rows, traits in _by_rows(values):
            basis = _Basis.of(self.flat[:, rows])
            shrunk = basis.remove(self.shrunk[:, rows]) if len(self.shrunk) else self.shrunk[:, rows]
            for start in range(0, len(traits), BLOCK):
                block = traits[start : start + BLOCK]
                coef[block], rest = basis.regress(values[np.ix_(block, rows)])
                alone = [i for i, j in enumerate(block) if names[j] in self.own]
                together = np.setdiff1d(np.arange(len(block)), alone)
                scale[block[together]] = _spread(rest[together], shrunk, len(rows) - basis.rank)
                for i in alone:
                    own = basis.remove(self.pool[self.own[names[block[i]]]][:, rows])
                    columns = np.concatenate((shrunk, own))
                    scale[block[i]] = _spread(rest[i : i + 1], columns, len(rows) - basis.rank)[0]
        return coef, scale


def _by_rows(values: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    """Rows, and the traits that are seen on just these."""
    missing = np.isnan(values)
    if not missing.any():
        return [(np.arange(values.shape[1]), np.arange(len(values)))]
    patterns: dict[bytes, list[int]] = {}
    for j, cells in enumerate(missing):
        patterns.setdefault(np.packbits(cells).tobytes(), []).append(j)
    return [(np.flatnonzero(~missing[traits[0]]), np.array(traits)) for traits in patterns.values()]


@dataclass(frozen=True)
class _Basis:
    """Orthonormal columns that span some flat ones.

    Attributes
    ----------
    q : ndarray, shape (n, rank)
    root : ndarray, shape (rank, rank)
        Upper triangle with ``columns = q root``.
    estimable : ndarray of bool, shape (b,)
    """

    q: np.ndarray
    root: np.ndarray
    estimable: np.ndarray

    @classmethod
    def of(cls, columns: np.ndarray) -> _Basis:
        """From columns, shape (b, n)."""
        estimable = independent_columns(columns.T)
        q, root = column_basis(columns.T, estimable)
        return cls(q, root, estimable)

    @property
    def rank(self) -> int:
        return self.q.shape[1]

    def remove(self, values: np.ndarray) -> np.ndarray:
        """What is left of values, shape (m, n)."""
        rest = values - (values @ self.q) @ self.q.T
        rest -= (rest @ self.q) @ self.q.T  # once more against rounding
        return rest

    def regress(self, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Coefficients (m, b) and residuals (m, n) of values, shape (m, n)."""
        coef = np.zeros((len(values), len(self.estimable)))
        along = values @ self.q
        rest = values - along @ self.q.T
        again = rest @ self.q
        rest -= again @ self.q.T
        if self.rank:
            coef[:, self.estimable] = scipy.linalg.solve_triangular(self.root, (along + again).T).T
        return coef, rest


def _spread(rest: np.ndarray, columns: np.ndarray, degrees: int) -> np.ndarray:
    """Standard deviation of residuals (m, n) without what further columns (c, n) explain, shape (m,).

    Columns that leave fewer than half of the degrees of freedom are shrunk, by generalised cross-validation (Golub,
    Heath & Wahba 1979).
    """
    squares = np.einsum("ij,ij->i", rest, rest)
    if degrees <= 0:
        return np.full(len(rest), np.nan)
    norms = np.linalg.norm(columns, axis=1)
    columns = columns[norms > 0] / norms[norms > 0, None]
    if not len(columns):
        return np.sqrt(squares / degrees)
    _, values, basis = scipy.linalg.svd(columns, full_matrices=False)
    inside = values > TOLERANCE * values[0]
    along = (rest @ basis[inside].T) ** 2
    outside = np.maximum(squares - along.sum(axis=1), 0.0)
    if 2 * len(columns) <= degrees:
        return np.sqrt(outside / (degrees - np.count_nonzero(inside)))
    square = values[inside] ** 2
    left = PENALTIES[:, None] * square.mean() / (square + PENALTIES[:, None] * square.mean())
    sums = along @ (left**2).T + outside[:, None]
    freedom = degrees - (1.0 - left).sum(axis=1)
    best = np.argmin(sums / freedom**2, axis=1)
    return np.sqrt(sums[np.arange(len(rest)), best] / freedom[best])


def weighted_regression(design: np.ndarray, values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Coefficients of weighted least squares for several traits, shape (p, q).

    Parameters
    ----------
    design : ndarray, shape (q, n)
    values, weights : ndarray, shape (p, n)
        Values are not read where the weight is zero.

    Notes
    -----
    A ridge that is lost in the rounding gives short coefficients to what a trait's weights cannot tell apart.
    """
    if not len(design):
        return np.zeros((len(values), 0))
    q, root = scipy.linalg.qr(design.T, mode="economic")
    along = np.zeros((len(values), q.shape[1]))
    weighted = np.where(weights > 0, weights * np.where(weights > 0, values, 0.0), 0.0) @ q
    at_once = max(1, WEIGHTED_CELLS // q.size)
    for start in range(0, len(values), at_once):
        part = slice(start, start + at_once)
        grams = np.swapaxes(weights[part][:, :, None] * q, 1, 2) @ q
        ridge = RIDGE * np.maximum(np.trace(grams, axis1=1, axis2=2), np.finfo(float).tiny)
        grams[:, *np.diag_indices(q.shape[1])] += ridge[:, None]
        along[part] = np.linalg.solve(grams, weighted[part][:, :, None])[:, :, 0]
    return np.asarray(scipy.linalg.lstsq(root, along.T, cond=RIDGE)[0].T)


def likelihood_regression(
    design: np.ndarray,
    start: np.ndarray,
    slopes: Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]],
) -> np.ndarray:
    """Coefficients that maximise a concave likelihood of several traits, by Newton's steps, shape (p, q).

    Parameters
    ----------
    design : ndarray, shape (q, n)
    start : ndarray, shape (p, q)
    slopes : callable
        First derivative of the log likelihood of each cell by its linear predictor, and minus the second, each (p, n);
        zero where missing.
    """
    coef = start.copy()
    for _ in range(NEWTON_STEPS):
        first, second = slopes(coef @ design)
        # A working response whose regression is Newton's step.
        with np.errstate(divide="ignore", invalid="ignore"):
            response = np.where(second > 0, first / second, 0.0)
        step = weighted_regression(design, response, second)
        longest = np.abs(step @ design).max(axis=1)
        coef += step * np.minimum(1.0, LONGEST_STEP / np.maximum(longest, 1e-300))[:, None]
        if np.all(longest < 1e-6):
            break
    return coef
