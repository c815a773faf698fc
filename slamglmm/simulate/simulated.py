"""What every generator returns: the arguments of a fit, and the truth to hold it against."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pandas as pd


@dataclass(frozen=True, eq=False)
class Simulated:
    """Simulated data, ready for ``fitter(formula, frame, Y=Y, relmat=relmat)``.

    Attributes
    ----------
    frame : pandas.DataFrame, n rows
        Covariates and grouping factors.
    Y : pandas.DataFrame, n x p
        Responses, NaN where missing; the index is that of `frame`.
    relmat : dict of str to pandas.DataFrame or Relmat
        Grouping factor to its labelled relationship matrix.
    formula : str
        One-sided, in terms of `frame`.
    truth : dict
        The parameters and random effects that made the data; the generator says which.
    """

    frame: pd.DataFrame
    Y: pd.DataFrame
    relmat: dict[str, Any]
    formula: str
    truth: dict[str, Any]

    def __repr__(self) -> str:
        n, p = self.Y.shape
        return f"Simulated({self.formula!r}: {n} rows, {p} traits, {int(self.Y.isna().sum().sum())} cells missing)"


def renamed(truth: dict[str, Any], names: dict[Any, str]) -> dict[str, Any]:
    """The same truth with other names of the traits, wherever these label rows or columns.

    Parameters
    ----------
    truth : dict
    names : dict
        Old name -> new name.
    """
    return {
        key: renamed(value, names) if isinstance(value, dict) else value.rename(index=names, columns=names)
        for key, value in truth.items()
    }
