"""What a link is made of: options (`Link`), what it sees of the data (`Measurements`), and the two together.

The sampler talks to a `Likelihood` only: natural units, one row for each latent trait, one column for each row of the
data.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, TypeAlias

import numpy as np
import pandas as pd

from ..design.row_labels import RowLabels
from ..errors import DataError, OptionError, shortlist
from ..linalg.fixed_part import FixedPart
from .data_scale import DataScale

Parameters: TypeAlias = dict[str, np.ndarray]


@dataclass(frozen=True)
class Measurements:
    """What a link sees: its own columns on the rows of the design.

    Attributes
    ----------
    values : DataFrame, shape (n, q)
        NaN where missing.
    offset : ndarray, shape (n,)
        The formula's ``offset()``, on the scale of the latent traits.
    rows : ndarray of int, shape (n,)
        Positions of these rows in the user's frame.
    n_frame : int
        Rows of that frame.
    fixed : FixedPart
        Columns of the fixed effects on these rows.
    """

    values: pd.DataFrame
    offset: np.ndarray
    rows: np.ndarray
    n_frame: int
    fixed: FixedPart

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the data columns."""
        return tuple(str(name) for name in self.values.columns)

    @property
    def by_column(self) -> np.ndarray:
        """The values, shape (q, n)."""
        return np.ascontiguousarray(self.values.to_numpy(dtype=float).T)

    def take(self, positions: np.ndarray) -> Measurements:
        """The same on some of the rows."""
        return replace(
            self,
            values=self.values.iloc[positions],
            offset=self.offset[positions],
            rows=self.rows[positions],
            fixed=self.fixed.take(positions),
        )

    def by_cell(self, name: str, option: Any) -> np.ndarray:
        """An option of a link as one number for each cell, shape (q, n).

        Parameters
        ----------
        name : str
            Of the option, for messages.
        option : number, array or DataFrame
            One number, one for each row of the user's frame, or one for each row and column; a DataFrame is matched
            to the columns by their names, and its rows are those of the frame (`Link.line_up`).

        Raises
        ------
        OptionError
            Another shape, or columns that are not there.
        """
        q, n_frame = len(self.columns), self.n_frame
        if isinstance(option, pd.DataFrame):
            lacking = [column for column in self.values.columns if column not in option.columns]
            if lacking:
                raise OptionError(
                    f"{name}: no column {shortlist(lacking)}. Give one column for each trait of this link."
                )
            option = option[list(self.values.columns)]
        try:
            values = np.asarray(option, dtype=float)
        except (TypeError, ValueError) as error:
            raise OptionError(f"{name}: expected numbers, got {type(option).__name__} ({error}).") from error
        if values.shape not in ((), (n_frame,), (n_frame, q)):
            raise OptionError(
                f"{name}: expected a number, {n_frame} numbers (one for each row of the data) or an array of shape "
                f"({n_frame}, {q}), got shape {values.shape}."
            )
        if values.ndim == 0:
            return np.full((q, len(self.rows)), float(values))
        kept = values[self.rows]
        return np.ascontiguousarray(np.broadcast_to(kept, (q, len(kept))) if kept.ndim == 1 else kept.T)


@dataclass(frozen=True)
class Likelihood(ABC):
    """The distribution of some data columns given their latent traits eta; the sampler's side of a link.

    Attributes
    ----------
    traits : tuple of str
        Names of the latent traits, which need not be the data columns.
    start : ndarray, shape (p, n)
        First latent traits, every cell filled.
    known : ndarray of bool, shape (p, n)
        Cells of eta that the data fix: never drawn.
    informative : ndarray of bool, shape (p, n)
        Cells that the data say something about; rows without any are predicted only.
    base_coef : ndarray, shape (p, b)
        Effects of the flat columns of `Measurements.fixed` on each latent trait, about: the sampler works with what is
        left.
    scale : ndarray, shape (p,)
        Spread of each latent trait beyond the fixed effects: priors of variances are relative to it.
    """

    traits: tuple[str, ...]
    start: np.ndarray
    known: np.ndarray
    informative: np.ndarray
    base_coef: np.ndarray
    scale: np.ndarray

    # Parameters that all latent traits share are drawn after all of them.
    has_shared: ClassVar[bool] = False
    # Latent traits that are drawn one by one can be dealt out to blocks; otherwise one call draws all.
    separable: ClassVar[bool] = True
    # Parameters with a flat prior; nothing can be simulated from that.
    flat: ClassVar[tuple[str, ...]] = ()
    # Data that set no scale for their latent traits: tau is held at one.
    unit_precision: ClassVar[bool] = False

    @property
    def residual_unseen(self) -> np.ndarray:
        """Traits whose residual the data say nothing about: its variance is held at one, shape (p,)."""
        return np.zeros(len(self.traits), dtype=bool)

    def labels(self) -> Mapping[str, tuple[tuple[str, tuple[str, ...]], ...]]:
        """Parameters to save: name -> its dimensions as (dimension, labels); ``"trait"`` is a dimension."""
        return {}

    def start_parameters(self) -> Parameters:
        """First values of the parameters, one array each."""
        return {}

    def simulate_parameters(self, rng: np.random.Generator) -> Parameters:
        """Parameters from their prior."""
        return {}

    @abstractmethod
    def draw(
        self,
        eta: np.ndarray,
        mean: np.ndarray,
        prec: np.ndarray,
        parameters: Parameters,
        traits: slice,
        rng: np.random.Generator,
    ) -> None:
        """Draw some latent traits and the parameters that belong to them, in place; eq. LINK-1.

        Parameters
        ----------
        eta, mean : ndarray, shape (c, n)
            Latent traits (cells that are `known` are ignored afterwards) and their mean given the model; `mean` may be
            overwritten.
        prec : ndarray, shape (c,)
            Their precision given the model.
        parameters : dict
            Of all latent traits; only the part of `traits` may change.
        traits : slice
            Which they are.
        rng : Generator
        """

    def draw_shared(self, eta: np.ndarray, parameters: Parameters, rng: np.random.Generator) -> None:
        """Draw what all latent traits share, in place; called after `draw` when `has_shared`."""
        raise NotImplementedError

    @abstractmethod
    def log_density(self, eta: np.ndarray, parameters: Parameters) -> np.ndarray:
        """Log density of each data cell given eta, data columns × rows; NaN where missing, 0 where known."""

    @abstractmethod
    def simulate(self, eta: np.ndarray, parameters: Parameters, rng: np.random.Generator) -> np.ndarray:
        """New data given eta, shaped as the data columns; NaN where the data are missing."""

    @abstractmethod
    def with_data(self, data: np.ndarray) -> Likelihood:
        """The same with other data (shaped as the data columns), same missing cells, base_coef and scale."""

    def data_scales(self) -> tuple[DataScale, ...]:
        """How the data of each latent trait follow from it; empty where they have no one-to-one columns."""
        return ()


class Link(ABC):
    """What a user asks for: a frozen dataclass of options."""

    # Links that carry their own data (say in long format) need no responses in the formula.
    brings_data: ClassVar[bool] = False
    # A call that makes one, for links that cannot do without options.
    example: ClassVar[str] = ""
    # What is kept besides the default of ``store=``.
    keeps: ClassVar[tuple[str, ...]] = ()
    # Options that may have one number for each row of the data, or for each cell.
    by_row: ClassVar[tuple[str, ...]] = ()
    # Those of them in which a Series has one number for each trait.
    by_trait: ClassVar[tuple[str, ...]] = ()

    def bind(self, frame: Any) -> Link:
        """The same link with what it needs to know of the user's frame, before any row is left out.

        Parameters
        ----------
        frame : DataFrame
        """
        return self

    def line_up(self, whose: RowLabels) -> tuple[Link, list[str]]:
        """The same link with labelled options in the order of the rows of the data, and how they were matched.

        Parameters
        ----------
        whose : RowLabels
            Who the rows of the data are.

        Raises
        ------
        DataError
            Labels that are not those of the data.
        """
        changed, notes = {}, []
        for name in self.by_row:
            option = getattr(self, name)
            if isinstance(option, pd.DataFrame) or (isinstance(option, pd.Series) and name not in self.by_trait):
                at, note = whose.match(option.index, len(option), name)
                changed[name] = option.iloc[at]
                notes += [] if note is None else [note]
        return (replace(self, **changed) if changed else self), notes  # type: ignore[type-var]

    @abstractmethod
    def prepare(self, data: Measurements) -> Likelihood:
        """Check the data and lay them out.

        Raises
        ------
        DataError
            Data that this link cannot have made.
        OptionError
            Options that do not fit the data.
        """


def residual_scales(values: np.ndarray, data: Measurements, what: str = "trait") -> tuple[np.ndarray, np.ndarray]:
    """Effects of the flat columns on each trait, and the standard deviation of what all fixed effects leave.

    Parameters
    ----------
    values : ndarray, shape (p, n)
        NaN where missing.
    data : Measurements
    what : str
        Name of a column in messages.

    Raises
    ------
    DataError
        Traits that do not vary, or not beyond the fixed effects.
    """
    seen = ~np.isnan(values)
    counts, columns = seen.sum(axis=1), np.array(data.columns)
    size = np.sqrt(np.where(seen, values, 0.0) ** 2 @ np.ones(values.shape[1]) / np.maximum(counts, 1))
    with np.errstate(invalid="ignore"):
        low, high = np.nanmin(values, axis=1, initial=np.inf), np.nanmax(values, axis=1, initial=-np.inf)
        constant = (counts < 2) | ~(high - low > 1e-12 * np.maximum(size, np.finfo(float).tiny))
    if constant.any():
        raise DataError(
            f"{what}(s) {shortlist(columns[constant])} are constant over their observed rows. Leave them out."
        )
    coef, scale = data.fixed.residual_scales(values, data.columns)
    few = np.isnan(scale)
    if few.any():
        j = int(np.flatnonzero(few)[0])
        raise DataError(
            f"{what}(s) {shortlist(columns[few])} have no more observed rows than fixed effects (first: {counts[j]} "
            f"rows, {data.fixed.b} columns), so nothing is left to estimate variances from. Leave them out, or use "
            "fewer fixed effects."
        )
    exact = ~(scale > 1e-12 * size)
    if exact.any():
        raise DataError(
            f"{what}(s) {shortlist(columns[exact])} are explained exactly by the fixed effects, so their variances are "
            "zero. Is a trait among its own covariates?"
        )
    return coef, scale


def fill_gaps(values: np.ndarray, base: np.ndarray) -> np.ndarray:
    """Missing cells at what the fixed effects say, ``base`` (p, n)."""
    return np.where(np.isnan(values), base, values)
