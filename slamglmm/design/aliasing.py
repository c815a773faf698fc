"""Words for fixed effects that are combinations of earlier ones: the same in every fitter."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..errors import SlamWarning, shortlist, warn
from ..linalg.independent import combinations, independent_columns
from .design import Design

# New rows follow the rule of the rows of the fit within this share of their size.
FOLLOWS = 1e-6


def leave_out_aliased(X: np.ndarray, names: Sequence[str], where: str = "") -> tuple[np.ndarray, list[str]]:
    """Columns that can be estimated; a note and a warning name the others, as a message of lme4 does.

    Parameters
    ----------
    X : ndarray, shape (n, b)
        Rows of the fit.
    names : sequence of str, length b
    where : str
        Of which trait, for a start of the note such as ``"'height': "``.

    Returns
    -------
    kept : ndarray of bool, shape (b,)
    notes : list of str
        One line, or none.

    Warns
    -----
    SlamWarning
    """
    kept = independent_columns(np.asarray(X, dtype=float))
    notes = [] if kept.all() else [where + describe_aliased(X, names, kept)]
    for note in notes:
        warn(note, SlamWarning)
    return kept, notes


def describe_aliased(X: np.ndarray, names: Sequence[str], kept: np.ndarray) -> str:
    """Say which columns are left out, and why the first of them is.

    Parameters
    ----------
    X : ndarray, shape (n, b)
    names : sequence of str, length b
    kept : ndarray of bool, shape (b,)
    """
    dropped = np.flatnonzero(~kept)
    first = int(dropped[0])
    sizes = np.abs(X).max(axis=0, initial=0.0)
    if sizes[first] == 0:
        why = f"'{names[first]}' is zero in every row with data"
    else:
        before = kept & (np.arange(len(kept)) < first)
        alone = before.copy()
        alone[first] = True
        weights = combinations(X[:, alone], before[alone])[:, 0]
        parts = np.abs(weights) * sizes[before]
        made_of = np.asarray(names, dtype=object)[before][parts > 1e-6 * max(sizes[first], parts.max(initial=0.0))]
        why = f"'{names[first]}' is a combination of {shortlist(made_of)}"
    if len(dropped) == 1:
        return f"fixed effects are collinear: {why}; it is left out, and its effect is NaN"
    which = shortlist(names[i] for i in dropped.tolist())
    return f"fixed effects are collinear: {why}. Left out, with effects NaN: {which}"


def fixed_part(design: Design, new: Design, coef: np.ndarray) -> np.ndarray:
    """Fixed effects times the columns of new rows, effects that were left out taken as zero.

    Parameters
    ----------
    design, new : Design
        Of the fit, and of the rows to predict.
    coef : ndarray, shape (b, p)
        NaN where an effect was left out.

    Returns
    -------
    ndarray, shape (n_new, p)

    Warns
    -----
    SlamWarning
        A new row needs an effect that was left out.
    """
    warn_not_estimable(design, new, np.isnan(coef))
    return np.asarray(new.X.to_numpy(dtype=float) @ np.nan_to_num(coef))


def warn_not_estimable(design: Design, new: Design, left_out: np.ndarray) -> None:
    """Warn of new rows that do not follow the combination for which an effect was left out.

    Parameters
    ----------
    design, new : Design
    left_out : ndarray of bool, shape (b, p)

    Warns
    -----
    SlamWarning
    """
    if new is design or not left_out.any():
        return
    names = np.asarray(design.X.columns, dtype=object)
    fitted, asked = design.X.to_numpy(dtype=float), new.X.to_numpy(dtype=float)
    for pattern in np.unique(left_out[:, left_out.any(axis=0)], axis=1).T:
        traits = np.flatnonzero((left_out == pattern[:, None]).all(axis=0))
        own = np.ones(len(fitted), dtype=bool)
        if design.Y is not None and design.Y.shape[1] == left_out.shape[1]:
            own = design.Y.iloc[:, traits[0]].notna().to_numpy()
        follows = asked[:, ~pattern] @ combinations(fitted[own], ~pattern)
        size = np.maximum(np.abs(fitted[own][:, pattern]).max(axis=0, initial=0.0), np.abs(asked[:, pattern]))
        away = np.abs(asked[:, pattern] - follows) > FOLLOWS * size
        rows = np.flatnonzero(away.any(axis=1))
        if len(rows):
            of = "" if len(traits) == left_out.shape[1] else f" on {shortlist(design.traits[traits])}"
            warn(
                f"predict: {len(rows)} row(s) (first: {str(new.X.index[rows[0]])!r}) need the effect of "
                f"{shortlist(names[pattern][away.any(axis=0)])}{of}, which the rows of the fit cannot tell: it is NaN "
                "in fixef(), and is taken as zero here.",
                SlamWarning,
            )
