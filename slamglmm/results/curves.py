"""Curves of individuals from draws of their coefficients."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from ..design.columns import open_frame, take_columns
from ..errors import DataError, OptionError, shortlist

if TYPE_CHECKING:
    from ..design import Design


@dataclass(frozen=True, eq=False)
class CurveBasis:
    """What turns coefficients into curves.

    Attributes
    ----------
    design : Design
        Of the measurements: the basis, and how to evaluate it at other times.
    individual : str
        Column that names the individual.
    individuals : pandas.Index
        Individual of each row of the fit.
    times : DataFrame
        When they were measured: the individual, and the predictors of the basis.
    """

    design: Design
    individual: str
    individuals: pd.Index
    times: pd.DataFrame

    @property
    def measured(self) -> list[str]:
        """Measured traits."""
        assert self.design.Y is not None
        return [str(name) for name in self.design.Y.columns]

    def coefficients(self, trait: str) -> list[str]:
        """Latent traits of a measured trait, in the order of the columns of the basis."""
        return [f"{trait}[{name}]" for name in self.design.short_names]

    def read(self, newdata: Any) -> pd.DataFrame:
        """Predictors of the basis at new times, and the individual where that is named.

        Raises
        ------
        DataError
            A predictor that is not there.
        """
        opened = open_frame(newdata, "newdata")
        names = [name for name in self.times.columns if name != self.individual or name in opened.columns]
        return take_columns(opened, names, "newdata")

    def at(self, times: pd.DataFrame) -> np.ndarray:
        """The basis, shape (times, b)."""
        return self.design.new(times).X.to_numpy()

    def pairs(self, newdata: pd.DataFrame, individuals: Sequence[Any] | None) -> tuple[np.ndarray, np.ndarray]:
        """Individual (row of the fit) and time (row of ``newdata``) of each point of the curves.

        Raises
        ------
        DataError
            Individuals that the fit does not know.
        OptionError
            Individuals named twice over.
        """
        named = self.individual in newdata.columns
        if named and individuals is not None:
            raise OptionError(f"curves: newdata has a column '{self.individual}'; give individuals= or that, not both.")
        wanted = pd.Index(
            newdata[self.individual] if named else self.individuals if individuals is None else individuals
        )
        codes = self.individuals.get_indexer(wanted)
        if (codes < 0).any():
            raise DataError(
                f"curves: the fit has no individual {shortlist(wanted[codes < 0].unique())}. New individuals have the "
                "curve of their predicted coefficients: fit.predict(newdata) times fit.curve_bases[0].at(times)."
            )
        if named:
            return codes, np.arange(len(newdata))
        return np.repeat(codes, len(newdata)), np.tile(np.arange(len(newdata)), len(codes))


def curve_table(
    draws: np.ndarray, basis: np.ndarray, codes: np.ndarray, rows: np.ndarray, tails: Sequence[float]
) -> pd.DataFrame:
    """Posterior mean, standard deviation and interval of points of curves.

    Parameters
    ----------
    draws : ndarray, shape (S, n, b)
        Coefficients.
    basis : ndarray, shape (times, b)
    codes, rows : ndarray of int, shape (points,)
        Individual and time of each point, individuals in runs.
    tails : (float, float)

    Returns
    -------
    DataFrame
        One row for each point; columns mean, sd, lower, upper.
    """
    out = np.empty((len(codes), 4))
    starts = np.flatnonzero(np.diff(codes, prepend=-1))
    for start, stop in zip(starts, np.append(starts[1:], len(codes)), strict=True):
        points = draws[:, codes[start]].astype(float) @ basis[rows[start:stop]].T
        out[start:stop, 0], out[start:stop, 1] = points.mean(axis=0), points.std(axis=0)
        out[start:stop, 2:] = np.quantile(points, tails, axis=0).T
    return pd.DataFrame(out, columns=["mean", "sd", "lower", "upper"])
