"""Covariates of the traits, on which loadings may depend: what `loadings_on` becomes."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from ...design import Design, design
from ...errors import DataError, DroppedRowsWarning, OptionError, shortlist


@dataclass(frozen=True)
class TraitCovariates:
    """Standardised covariates of the traits, q of them (0 without `loadings_on`).

    Attributes
    ----------
    names : tuple of str
    x : ndarray, shape (p, q)
        In the problem's trait order; all but a constant column have mean square one, and mean zero if there is one.
    back : ndarray, shape (q, q)
        Coefficients of the user's columns are ``back`` times those of `x`.
    design : Design or None
        Of the covariates, in the user's order.
    """

    names: tuple[str, ...]
    x: np.ndarray
    back: np.ndarray
    design: Design | None = None

    @property
    def q(self) -> int:
        """Number of columns."""
        return self.x.shape[1]


def read_trait_covariates(
    formula: str | None, trait_data: pd.DataFrame | None, traits: Sequence[str], order: np.ndarray
) -> TraitCovariates:
    """Standardised columns of a formula over `trait_data`; none without a formula.

    Parameters
    ----------
    formula : str or None
    trait_data : DataFrame or None
    traits : sequence of str
        In the user's order.
    order : ndarray of int, shape (p,)
        Trait at each position of the problem.

    Raises
    ------
    DataError
        Traits without a row, or with missing covariates.
    OptionError
        Anything but fixed effects.
    """
    if formula is None:
        if trait_data is not None:
            raise OptionError("trait_data= needs loadings_on=, the formula of what the loadings depend on.")
        return TraitCovariates((), np.zeros((len(order), 0)), np.zeros((0, 0)))
    made = _design_traits(formula, trait_data, pd.Index(traits))
    x = made.X.to_numpy(dtype=float)
    varies = np.ptp(x, axis=0) > 1e-12 * np.abs(x).max(axis=0)
    constant = np.flatnonzero(~varies & (np.abs(x[0]) > 0))
    back = np.eye(x.shape[1])
    mean = x.mean(axis=0) if len(constant) else np.zeros(x.shape[1])
    for c in np.flatnonzero(varies):
        size = np.sqrt(np.mean((x[:, c] - mean[c]) ** 2))
        back[c, c] = 1.0 / size
        if len(constant):
            back[constant[0], c] = -mean[c] / (size * x[0, constant[0]])
    return TraitCovariates(tuple(map(str, made.X.columns)), np.ascontiguousarray((x @ back)[order]), back, made)


def _what_to_do(trait_data: pd.DataFrame, traits: pd.Index) -> str:
    """Make the column that names the traits the index, if there is one, or add what is not there."""
    for name, column in trait_data.items():
        if traits.isin(column.astype(str)).all():
            return f"write trait_data.set_index({name!r})"
    return "add these rows"


def _design_traits(formula: str, trait_data: Any, traits: pd.Index) -> Design:
    """The design of the covariates, one row for each trait of the fit."""
    if not isinstance(trait_data, pd.DataFrame):
        raise OptionError(
            f"loadings_on={formula!r} needs trait_data=, a pandas DataFrame indexed by trait, one row each; got "
            f"{type(trait_data).__name__}."
        )
    named = trait_data.set_axis(trait_data.index.map(str))
    twice = named.index[named.index.duplicated()]
    if len(twice):
        raise DataError(f"trait_data has more than one row for {shortlist(twice)}.")
    missing = traits.difference(named.index, sort=False)
    if len(missing):
        raise DataError(
            f"trait_data lacks {len(missing)} of {len(traits)} traits ({shortlist(missing)}). Its index names the "
            f"traits; {_what_to_do(trait_data, traits)}."
        )
    frame = named.loc[traits]
    with warnings.catch_warnings():
        # A trait without covariates is an error below.
        warnings.simplefilter("ignore", DroppedRowsWarning)
        made = design(formula, frame)
    if made.terms or made.Y is not None or made.offset is not None:
        raise OptionError(f"loadings_on={formula!r}: expected fixed effects only, such as '~ temperature'.")
    if made.n < len(frame):
        lost = traits[np.setdiff1d(np.arange(len(frame)), made.rows)]
        raise DataError(f"trait_data: covariates are missing for {shortlist(lost)}. Fill them in or leave these out.")
    return made
