"""Shares of variance that the data say nothing about, by trait: they are refused, or marked as the prior's."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import scipy.sparse as sp

from ...errors import DataError, SlamWarning, shortlist, warn
from ...linalg.families import RandomEffect
from ...linalg.identifiability import FEW_ROWS, Product, confounding_by_pattern, refusal
from ...linalg.independent import orthonormal_basis
from ...linalg.threads import blocks

# Numbers in the arrays of the patterns that are compared at a time.
COMPARED_TOGETHER = 2**22


def find_prior_only(
    labels: Sequence[str],
    effects: Sequence[RandomEffect],
    x: np.ndarray,
    seen: np.ndarray,
    traits: Sequence[str],
    on_traits: np.ndarray,
    notes: list[str],
) -> np.ndarray:
    """Mark the shares that only repeat their prior; add a note on them.

    Parameters
    ----------
    labels : sequence of str
        Of the random effects.
    effects : sequence of RandomEffect
        On the n rows with data.
    x : ndarray, shape (b, n)
        Flat fixed effects.
    seen : ndarray of bool, shape (p, n)
        Cells with data.
    traits : sequence of str
    on_traits : ndarray of bool, shape (n_effects,)
        Random effects that traits have for themselves, and not only through factors.
    notes : list of str

    Returns
    -------
    ndarray of bool, shape (n_effects, p)

    Raises
    ------
    DataError
        No trait tells a random effect from the fixed effects or from the residual, or fixed effects leave no trait a
        residual.

    Warns
    -----
    SlamWarning
        Some traits do not, or random effects cannot be told from each other.
    """
    _, first, of_trait = np.unique(np.packbits(seen, axis=1), axis=0, return_index=True, return_inverse=True)
    patterns, of_trait = seen[first], of_trait.reshape(-1)
    ranks, judged = _judge_patterns(effects, patterns, x)
    _check_residual(patterns, ranks)
    if not effects:
        return np.zeros((0, len(traits)), dtype=bool)
    absorbed, as_residual, tied = judged[:, :, of_trait]
    for label, none_left, residual, own in zip(labels, absorbed, as_residual, on_traits, strict=True):
        if np.all(none_left | residual):
            raise refusal(label, absorbed=bool(none_left.any()))
        bad = none_left | residual
        if own and bad.any():
            notes.append(
                f"prior only: '{label}' of {shortlist(np.array(traits)[bad])}. Their rows have one record for each "
                "level and no relatives (or fixed effects that explain the levels), so the share of their own variance "
                "that h2 gives to this effect repeats the prior. Add records or relationships, or leave them out"
            )
            warn(notes[-1], SlamWarning)
    if tied.any():
        members, of = tied.any(axis=1), tied.any(axis=0)
        every = "" if of.all() else f" of {shortlist(np.array(traits)[of])}"
        notes.append(
            f"prior only: how the variance{every} is split between {shortlist(np.array(labels)[members])}. Their "
            "covariances are combinations of each other on the rows with data, so only the prior tells them apart. "
            "Leave one out"
        )
        warn(notes[-1], SlamWarning)
    return np.asarray((absorbed | as_residual | tied) & on_traits[:, None])


def _check_residual(patterns: np.ndarray, ranks: np.ndarray) -> None:
    """Refuse fixed effects that leave no trait any residual."""
    sizes = patterns.sum(axis=1)
    if np.all(ranks == sizes):
        raise DataError(
            f"the fixed effects have {ranks.max()} independent columns for "
            f"{sizes.max()} rows with data: they explain every row, and variances would only repeat the prior. "
            "Leave columns out, or shrink them by Priors(fixef='shared')."
        )


def _judge_patterns(
    effects: Sequence[RandomEffect], patterns: np.ndarray, x: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Rank of the fixed effects (b, n) on the rows of each pattern, and which effects are not told there.

    The second is bool, shape (3, n_effects, patterns): absorbed, as the residual, or tied.
    """
    n = patterns.shape[1]
    products = [_product(effect) for effect in effects]
    own = np.array([effect.diagonal() for effect in effects]).reshape(len(effects), n)
    diagonals = (patterns @ own.T) / np.maximum(patterns.sum(axis=1), 1)[:, None]
    at_once = max(1, COMPARED_TOGETHER // (n * min(n, FEW_ROWS) * (len(effects) + 1)))
    ranks, found = [], []
    for part in blocks(len(patterns), at_once):
        bases = [orthonormal_basis(x[:, rows].T) for rows in patterns[part]]
        ranks += [basis.shape[1] for basis in bases]
        found += confounding_by_pattern(products, diagonals[part], patterns[part], bases)
    judged = np.array([[one.absorbed, one.as_residual, one.tied] for one in found]).transpose(1, 2, 0)
    return np.array(ranks), judged


def _product(effect: RandomEffect) -> Product:
    """``V -> Z K Z' V``, among the levels with records only."""
    n = len(effect.codes)
    present, codes = np.unique(effect.codes, return_inverse=True)
    Z = sp.csr_array((effect.values, codes.reshape(-1), np.arange(n + 1)), shape=(n, len(present)))
    if effect.K is None:
        return lambda V: np.asarray(Z @ (Z.T @ V))
    K = effect.K if len(present) == effect.K.shape[0] else effect.K[present][:, present]
    return lambda V: np.asarray(Z @ (K @ (Z.T @ V)))
