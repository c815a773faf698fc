"""Which columns of a design say something new, an orthonormal basis of them, and what the others are made of.

The one rule of collinear fixed effects, for all fitters. Columns are taken in their order, as R's `lm` does, and a
column is left out when less than 1e-7 of it remains after those before it. Where the constant is in the span of the
columns they are centred for this: ``x + 1e8`` beside an intercept says as much as x does.
"""

from __future__ import annotations

import numpy as np

# R's tolerance: a column whose remainder is below this share of it is a combination of earlier columns.
COLLINEAR = 1e-7
# The constant is in the span when no more of it is left than rounding leaves.
SPANNED = 1e-11
# Relative rounding of a number that was stored in double precision and worked with a little.
ROUNDING = 4 * np.finfo(float).eps


def independent_columns(X: np.ndarray, constant: np.ndarray | None = None) -> np.ndarray:
    """Columns that are not combinations of earlier ones.

    Parameters
    ----------
    X : ndarray, shape (n, b)
    constant : ndarray, shape (n,), optional
        What a column of ones became, when the rows of X were multiplied by something; ones by default.

    Returns
    -------
    ndarray of bool, shape (b,)
    """
    columns, _ = _scaled(X)
    unit = _unit(len(X), constant)
    centred = _spans(columns, unit)
    sizes = np.linalg.norm(columns, axis=0)
    heights = np.zeros(columns.shape[1])
    if centred:
        for _ in range(2):  # once more against rounding
            more = unit @ columns
            columns = columns - np.outer(unit, more)
            heights += more
    kept = np.zeros(columns.shape[1], dtype=bool)
    Q = np.empty((len(X), min(columns.shape)))
    # Of each vector of the basis: how much of the constant its columns bring along, and its rounding error.
    along, error = np.empty(Q.shape[1]), np.empty(Q.shape[1])
    rank, constant_is_free = 0, centred
    for j, column in enumerate(columns.T):
        rest, loads = _remainder(column, Q[:, :rank])
        left, size = float(np.linalg.norm(rest)), float(np.linalg.norm(column))
        noise = ROUNDING * sizes[j] + np.abs(loads) @ error[:rank]
        if left > max(COLLINEAR * size, noise) and rank < Q.shape[1]:
            kept[j] = True
            Q[:, rank] = rest / left
            along[rank] = (heights[j] - loads @ along[:rank]) / left
            error[rank] = noise / left
            rank += 1
        elif constant_is_free:
            # Centred it is a combination of earlier columns; as it stands it may be what brings the constant.
            of_constant = heights[j] - loads @ along[:rank]
            if abs(of_constant) > 16 * ROUNDING * (abs(heights[j]) + np.abs(loads) @ np.abs(along[:rank])):
                kept[j], constant_is_free = True, False
    return kept


def column_basis(X: np.ndarray, kept: np.ndarray, constant: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Orthonormal basis of the kept columns, in their order.

    Parameters
    ----------
    X : ndarray, shape (n, b)
    kept : ndarray of bool, shape (b,)
        Of `independent_columns`.
    constant : ndarray, shape (n,), optional
        As there.

    Returns
    -------
    Q : ndarray, shape (n, q), C order
    triangle : ndarray, shape (q, q)
        Upper triangular: ``X[:, kept] = Q triangle``.
    """
    columns, exponents = _scaled(X[:, kept])
    unit = _unit(len(X), constant)
    Q = np.empty(columns.shape)
    triangle = np.zeros((columns.shape[1],) * 2)
    spanned = False
    for j, column in enumerate(columns.T):
        before = Q[:, :j]
        if spanned:
            # The constant is worked off first and exactly: with a large mean the rest would lose its digits.
            height = unit @ column
            column = column - height * unit
            triangle[:j, j] = height * (before.T @ unit)
        rest, loads = _remainder(column, before)
        left = float(np.linalg.norm(rest))
        triangle[:j, j] += loads
        triangle[j, j] = left
        Q[:, j] = rest / left
        spanned = spanned or float(np.linalg.norm(_remainder(unit, Q[:, : j + 1])[0])) < SPANNED
    return np.ascontiguousarray(Q), np.ldexp(triangle, exponents)


def orthonormal_basis(X: np.ndarray, constant: np.ndarray | None = None) -> np.ndarray:
    """Orthonormal basis of the span of the columns of X (n, b), whatever their scales and rank, shape (n, rank)."""
    return column_basis(X, independent_columns(X, constant), constant)[0]


def combinations(X: np.ndarray, kept: np.ndarray) -> np.ndarray:
    """What the columns left out are made of.

    Parameters
    ----------
    X : ndarray, shape (n, b)
    kept : ndarray of bool, shape (b,)

    Returns
    -------
    ndarray, shape (q, b - q)
        ``X[:, ~kept] = X[:, kept] @ combinations``.
    """
    columns, exponents = _scaled(X)
    found = np.linalg.lstsq(columns[:, kept], columns[:, ~kept], rcond=None)[0]
    return np.ldexp(found, exponents[~kept] - exponents[kept][:, None])


def _scaled(X: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Columns divided by a power of two that brings their largest number to one, so that no square overflows."""
    exponents = np.frexp(np.abs(X).max(axis=0, initial=0.0))[1]
    return np.ldexp(np.asarray(X, dtype=float), -exponents), exponents


def _unit(n: int, constant: np.ndarray | None) -> np.ndarray:
    one = np.ones(n) if constant is None else _scaled(constant[:, None])[0][:, 0]
    size = float(np.linalg.norm(one))
    return one / size if size else one


def _spans(columns: np.ndarray, unit: np.ndarray) -> bool:
    """Whether the constant is a combination of the columns."""
    if not columns.size or not unit.any():
        return False
    away = np.linalg.norm(columns - np.outer(unit, unit @ columns), axis=0)
    if (away < SPANNED * np.linalg.norm(columns, axis=0)).any():
        return True
    weights = np.linalg.lstsq(columns, unit, rcond=None)[0]
    return float(np.linalg.norm(columns @ weights - unit)) < SPANNED


def _remainder(column: np.ndarray, Q: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """``column`` without its part along Q, and that part."""
    loads = Q.T @ column
    rest = column - Q @ loads
    more = Q.T @ rest  # once more against rounding
    return rest - Q @ more, loads + more
