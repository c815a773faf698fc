"""Categories in an order: thresholds cut the latent trait, and between two of them lies a category."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import scipy.special

from ..errors import DataError, OptionError, shortlist
from ..linalg.fixed_part import FixedPart
from ..linalg.truncated_normal import draw_truncated_normal, log_interval_probability
from ..options import Options
from .base import Likelihood, Link, Measurements, Parameters
from .data_scale import DataScale, ThresholdScale

# Steps of the walks of the cut points, in standard deviations: Metropolis' best in one dimension.
STEP = 2.4
LARGEST_STEP = 2.0


@dataclass(frozen=True)
class Ordinal(Link):
    """``y_ij = c`` when ``eta_ij`` lies between the cut points of category c; eq. LINK-30.

    Parameters
    ----------
    categories : sequence of int, optional
        All categories in their order, seen or not. Each trait's own values unless given.
    cut_sd : float
        Scale of the cut points' prior (ordered half-normals), in standard deviations of the latent trait. Those are
        trait-specific standard deviations, times what the fixed effects add to them by a regression of normal scores.
    """

    categories: Sequence[int] | None = None
    cut_sd: float = 5.0

    def __post_init__(self) -> None:
        check = Options(vars(self), "Ordinal")
        check.number("cut_sd", above=0)
        if self.categories is not None:
            levels = np.asarray(self.categories) if np.ndim(self.categories) == 1 else np.empty(0)
            whole = levels.dtype.kind in "iuf" and np.array_equal(levels, np.round(levels))
            if len(levels) < 2 or not whole or np.any(np.diff(levels) <= 0):
                raise check.refuse("categories", "at least two integers in increasing order")

    def prepare(self, data: Measurements) -> ThresholdLikelihood:
        """Number the categories, and start at normal scores."""
        _check_no_offset(data)
        values = data.by_column
        _check_integers(values, data, "ordinal")
        levels = [self._levels(row, name) for row, name in zip(values, data.columns, strict=True)]
        return build_thresholds(data.columns, values, levels, self.cut_sd, data.fixed)

    def _levels(self, values: np.ndarray, name: str) -> np.ndarray:
        seen = np.unique(values[~np.isnan(values)])
        if len(seen) < 2:
            raise DataError(f"trait '{name}': one category ({shortlist(seen.astype(int))}) in all rows. Leave it out.")
        if self.categories is None:
            return seen
        levels = np.asarray(self.categories, dtype=float)
        unknown = np.setdiff1d(seen, levels)
        if len(unknown):
            raise DataError(
                f"trait '{name}': {shortlist(unknown.astype(int))} not among categories={levels.astype(int).tolist()}."
            )
        return levels


@dataclass(frozen=True)
class Probit(Link):
    """``y_ij = 1`` when ``eta_ij > 0``, and 0 otherwise; eq. LINK-30."""

    def prepare(self, data: Measurements) -> ThresholdLikelihood:
        """Two categories, one threshold at zero."""
        _check_no_offset(data)
        values = data.by_column
        wrong = ~np.isnan(values) & (values != 0) & (values != 1)
        if wrong.any():
            j, i = np.argwhere(wrong)[0]
            raise DataError(
                f"probit: expected 0 and 1, got {values[j, i]:g} for '{data.columns[j]}' in row {data.rows[i]} "
                f"(counted from 0), and {int(wrong.sum()) - 1} more like it. Use 'ordinal' for more than two "
                "categories and 'binomial' for counts of successes."
            )
        for row, name in zip(values, data.columns, strict=True):
            if len(np.unique(row[~np.isnan(row)])) < 2:
                raise DataError(f"trait '{name}': the same value in all rows. Leave it out.")
        return build_thresholds(data.columns, values, [np.array([0.0, 1.0])] * len(values), 1.0, data.fixed)


def _check_no_offset(data: Measurements) -> None:
    if data.offset.any():
        raise OptionError("offset(): categories have thresholds of their own; leave the offset out of the formula.")


def _check_integers(values: np.ndarray, data: Measurements, link: str) -> None:
    wrong = ~np.isnan(values) & (values != np.round(values))
    if wrong.any():
        j, i = np.argwhere(wrong)[0]
        raise DataError(
            f"{link}: expected whole numbers, got {values[j, i]:g} for '{data.columns[j]}' in row {data.rows[i]} "
            f"(counted from 0), and {int(wrong.sum()) - 1} more like it. Number the categories in their order."
        )


def build_thresholds(
    names: tuple[str, ...], values: np.ndarray, levels: Sequence[np.ndarray], cut_sd: float, fixed: FixedPart
) -> ThresholdLikelihood:
    """Lay out categories.

    Parameters
    ----------
    names : tuple of str
    values : ndarray, shape (p, n)
    levels : sequence of ndarray
        Of each trait, increasing.
    cut_sd : float
    fixed : FixedPart

    Returns
    -------
    ThresholdLikelihood
    """
    p, most = len(names), max(len(level) for level in levels)
    table = np.full((p, most), np.nan)
    cuts, steps = np.full((p, most - 1), np.inf), np.zeros((p, most - 1))
    start = np.zeros(values.shape)
    for j, level in enumerate(levels):
        table[j, : len(level)] = level
        seen = values[j][~np.isnan(values[j])]
        counts = np.array([np.sum(seen == value) for value in level], dtype=float)
        z, steps[j, : len(level) - 1] = _normal_scores(counts)
        cuts[j, : len(level) - 1] = z - z[0]
        edges = np.concatenate(([-np.inf], z, [np.inf]))
        density = np.exp(-0.5 * edges**2) / np.sqrt(2 * np.pi)
        scores = -np.diff(density) / np.maximum(np.diff(scipy.special.ndtr(edges)), 1e-12)
        # Strictly between its thresholds even where rounding is not.
        scores = np.clip(scores, edges[:-1] + 1e-6, edges[1:] - 1e-6) - z[0]
        for c, value in enumerate(level):
            start[j, values[j] == value] = scores[c]
    codes = _codes(values, table)
    seen = codes >= 0
    known, base_coef = np.zeros_like(seen), np.zeros((p, fixed.b))
    cut_sds = cut_sd * _total_over_residual(np.where(seen, start, np.nan), fixed, names)
    return ThresholdLikelihood(names, start, known, seen, base_coef, np.ones(p), codes, table, cuts, steps, cut_sds)


def _total_over_residual(scores: np.ndarray, fixed: FixedPart, names: tuple[str, ...]) -> np.ndarray:
    """Standard deviation of normal scores over that of what the fixed effects leave of them, at least one, (p,)."""
    _, residual = fixed.residual_scales(scores, names)
    _, total = FixedPart.constant(scores.shape[1]).residual_scales(scores, names)
    told = residual > 1e-6 * total
    return np.where(told, np.maximum(total / np.where(told, residual, 1.0), 1.0), 1.0)


def _normal_scores(counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Thresholds of a standard normal with these counts, and steps for their walks from the counts' information."""
    chance = np.maximum(counts, 0.5)
    chance = chance / chance.sum()
    z = scipy.special.ndtri(np.cumsum(chance)[:-1])
    density = np.exp(-0.5 * z**2) / np.sqrt(2 * np.pi)
    sd = 1.0 / (density * np.sqrt(counts.sum() * (1.0 / chance[:-1] + 1.0 / chance[1:])))
    below = np.diff(z, prepend=np.nan)
    above = np.append(below[1:], np.inf)
    # d log(below / above) / dz inside, d log(below) / dz for the last.
    return z, np.fmin(STEP * sd * (1.0 / below + 1.0 / above), LARGEST_STEP)


def _codes(values: np.ndarray, levels: np.ndarray) -> np.ndarray:
    """Position of each value among its trait's levels, -1 where missing."""
    codes = np.full(values.shape, -1, dtype=np.intp)
    for j, level in enumerate(levels):
        seen = ~np.isnan(values[j])
        known = level[~np.isnan(level)]
        unseen = np.setdiff1d(values[j, seen], known)
        if len(unseen):
            raise DataError(f"categories {shortlist(unseen)} were not among the {shortlist(known)} of the fit.")
        codes[j, seen] = np.searchsorted(known, values[j, seen])
    return codes


@dataclass(frozen=True)
class ThresholdLikelihood(Likelihood):
    """Categories between cut points; the first cut point is zero.

    Attributes
    ----------
    codes : ndarray of int, shape (p, n)
        Category of each cell, counted from 0; -1 where missing.
    levels : ndarray, shape (p, n_categories)
        Values of the categories; NaN where a trait has fewer.
    start_cuts : ndarray, shape (p, n_categories - 1)
        First cut points; infinite where a trait has fewer.
    steps : ndarray, shape (p, n_categories - 1)
        Of the cut points' walks.
    cut_sd : ndarray, shape (p,)
        Scale of the cut points' prior.
    """

    codes: np.ndarray
    levels: np.ndarray
    start_cuts: np.ndarray
    steps: np.ndarray
    cut_sd: np.ndarray

    unit_precision: ClassVar[bool] = True

    @property
    def n_cuts(self) -> np.ndarray:
        """Number of cut points of each trait, shape (p,)."""
        return np.sum(np.isfinite(self.levels), axis=1) - 1

    @property
    def _moves(self) -> bool:
        return self.start_cuts.shape[1] > 1

    def labels(self) -> Mapping[str, tuple[tuple[str, tuple[str, ...]], ...]]:
        """The cut points, when there is more than the one at zero."""
        if not self._moves:
            return {}
        cuts = tuple(str(c) for c in range(1, self.start_cuts.shape[1] + 1))
        return {"cuts": (("trait", self.traits), ("cut", cuts))}

    def start_parameters(self) -> Parameters:
        """Cut points of a normal law with the same counts."""
        return {"cuts": self.start_cuts.copy()} if self._moves else {}

    def simulate_parameters(self, rng: np.random.Generator) -> Parameters:
        """Ordered half-normals above zero; eq. LINK-32."""
        if not self._moves:
            return {}
        cuts = np.abs(rng.standard_normal(self.start_cuts.shape)) * self.cut_sd[:, None]
        cuts[:, 0] = 0.0
        cuts[np.isinf(self.start_cuts)] = np.inf
        return {"cuts": np.sort(cuts, axis=1)}

    def cuts(self, parameters: Parameters, traits: slice = slice(None)) -> np.ndarray:
        """Cut points of some traits, shape (c, n_categories - 1)."""
        return (parameters["cuts"] if self._moves else self.start_cuts)[traits]

    def draw(
        self,
        eta: np.ndarray,
        mean: np.ndarray,
        prec: np.ndarray,
        parameters: Parameters,
        traits: slice,
        rng: np.random.Generator,
    ) -> None:
        """Cut points with eta integrated out, then eta between them; eq. LINK-33, LINK-34."""
        codes, cuts = self.codes[traits], self.cuts(parameters, traits)
        sd = 1.0 / np.sqrt(prec)
        for i, count in enumerate(self.n_cuts[traits]):
            if count > 1:
                seen, steps, prior_sd = codes[i] >= 0, self.steps[traits][i], float(self.cut_sd[traits][i])
                move_cuts(cuts[i, :count], codes[i, seen], mean[i, seen], sd[i], steps, prior_sd, rng)
        lower, upper = _bounds(codes, cuts)
        lower -= mean
        upper -= mean
        lower /= sd[:, None]
        upper /= sd[:, None]
        drawn = draw_truncated_normal(lower, upper, rng)
        drawn *= sd[:, None]
        drawn += mean
        eta[:] = drawn

    def log_density(self, eta: np.ndarray, parameters: Parameters) -> np.ndarray:
        """Zero between the category's cut points, minus infinity outside."""
        lower, upper = _bounds(self.codes, self.cuts(parameters))
        inside = np.where((lower < eta) & (eta <= upper), 0.0, -np.inf)
        return np.where(self.codes >= 0, inside, np.nan)

    def simulate(self, eta: np.ndarray, parameters: Parameters, rng: np.random.Generator) -> np.ndarray:
        """The category that eta lies in."""
        codes = np.sum(eta[:, :, None] > self.cuts(parameters)[:, None, :], axis=2)
        return np.where(self.codes >= 0, np.take_along_axis(self.levels, codes, axis=1), np.nan)

    def with_data(self, data: np.ndarray) -> ThresholdLikelihood:
        """Other categories, of the same levels."""
        return replace(self, codes=np.where(self.codes >= 0, _codes(data, self.levels), -1))

    def data_scales(self) -> tuple[DataScale, ...]:
        """Values of the categories."""
        return tuple(ThresholdScale(tuple(level[np.isfinite(level)])) for level in self.levels)


def _bounds(codes: np.ndarray, cuts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Cut points around each cell, infinite where missing."""
    ends = np.full((len(cuts), 1), np.inf)
    edges = np.concatenate((-ends, cuts, ends), axis=1)
    lower = np.take_along_axis(edges, np.maximum(codes, 0), axis=1)
    # Code -1 takes the last edge, which is infinite.
    return np.where(codes >= 0, lower, -np.inf), np.take_along_axis(edges, np.where(codes >= 0, codes + 1, -1), axis=1)


def move_cuts(
    cuts: np.ndarray,
    codes: np.ndarray,
    mean: np.ndarray,
    sd: float,
    steps: np.ndarray,
    prior_sd: float,
    rng: np.random.Generator,
) -> None:
    """Metropolis walks of the cut points of one trait, in place, eta integrated out; eq. LINK-33.

    A cut point touches the two categories it parts, so every other one moves at the same time, and each is accepted on
    its own.

    Parameters
    ----------
    cuts : ndarray, shape (n_cuts,)
        The first stays at zero.
    codes : ndarray of int, shape (n,)
    mean : ndarray, shape (n,)
        Of eta given the model.
    sd : float
        Of eta given the model.
    steps : ndarray, shape (at least n_cuts,)
    prior_sd : float
    rng : Generator
    """
    count = len(cuts)
    noise, chance = rng.standard_normal(count), rng.random(count)
    current = _log_probability(cuts, codes, mean, sd)
    for parity in (1, 0):
        moving = np.arange(2 - parity, count, 2)
        if not len(moving):
            continue
        trial = cuts.copy()
        log_ratio = np.zeros(count)
        for k in moving:
            below = cuts[k] - cuts[k - 1]
            factor = np.exp(steps[k] * noise[k])
            if k + 1 < count:
                above = cuts[k + 1] - cuts[k]
                share = below * factor / (below * factor + above)
                trial[k] = cuts[k - 1] + share * (below + above)
                jacobian = share * (1.0 - share) * (below + above) ** 2 / (below * above)
            else:
                trial[k] = cuts[k - 1] + below * factor
                jacobian = factor
            log_ratio[k] = np.log(jacobian) - 0.5 * (trial[k] ** 2 - cuts[k] ** 2) / prior_sd**2
        proposed = _log_probability(trial, codes, mean, sd)
        change = np.bincount(codes, proposed - current, minlength=count + 1)
        log_ratio[moving] += change[moving] + change[moving + 1]
        accepted = moving[np.log(chance[moving]) < log_ratio[moving]]
        cuts[accepted] = trial[accepted]
        touched = np.zeros(count + 1, dtype=bool)
        touched[accepted] = touched[accepted + 1] = True
        current = np.where(touched[codes], proposed, current)


def _log_probability(cuts: np.ndarray, codes: np.ndarray, mean: np.ndarray, sd: float) -> np.ndarray:
    """Log probability of each cell's category given its mean, shape (n,); eq. LINK-31."""
    edges = np.concatenate(([-np.inf], cuts, [np.inf]))
    return log_interval_probability((edges[codes] - mean) / sd, (edges[codes + 1] - mean) / sd)
