"""Traits that lack different rows: each is fitted on its own rows, covariances on the rows that both traits have."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from ...design import Design
from ...linalg.threads import single_threaded_blas
from ...results.varcomp import MarkerEffects, TraitCovariances, Uncertainty


@dataclass(frozen=True, eq=False)
class Pattern:
    """Traits that are known in the same rows.

    Attributes
    ----------
    traits : ndarray of int
        Positions among the traits of the design.
    known : ndarray of bool, length n
        Rows of the design.
    """

    traits: np.ndarray
    known: np.ndarray


def trait_patterns(design: Design) -> list[Pattern]:
    """Traits by the rows they are known in, in the order of the first of each."""
    if design.Y is None:
        return []
    known = design.Y.notna().to_numpy()
    found: dict[bytes, list[int]] = {}
    for j, column in enumerate(known.T):
        found.setdefault(column.tobytes(), []).append(j)
    return [Pattern(np.array(traits), known[:, traits[0]]) for traits in found.values()]


@dataclass(frozen=True, eq=False)
class PairFit:
    """Traits of two patterns on the rows that all of them have.

    Attributes
    ----------
    traits : ndarray of int
        Positions among the traits of the design.
    theta : ndarray, (q+1) x t x t
    make_uncertainty : callable
        Called with `arguments` when an uncertainty is first asked for: it costs far more than the estimates.
    arguments : tuple
    """

    traits: np.ndarray
    theta: np.ndarray
    make_uncertainty: Callable[..., Any]
    arguments: tuple[Any, ...]

    @cached_property
    def uncertainty(self) -> Uncertainty | None:
        """Of the estimates."""
        with single_threaded_blas():
            found: Uncertainty | None = self.make_uncertainty(*self.arguments)
        return found


@dataclass(frozen=True, eq=False)
class Pairwise:
    """Fits of the pairs of patterns; what a result needs for genetic correlations.

    Attributes
    ----------
    pattern : ndarray of int, length t
        Of each trait.
    fits : mapping of (int, int) -> PairFit or None
        None when too few rows have both.
    """

    pattern: np.ndarray
    fits: Mapping[tuple[int, int], PairFit | None]

    def of(self, u: int, v: int) -> tuple[np.ndarray, Any, tuple[int, int]] | None:
        """Estimates, uncertainty, and where the two traits stand in them; None if they share too few rows."""
        a, b = sorted((int(self.pattern[u]), int(self.pattern[v])))
        fit = self.fits[a, b]
        if fit is None:
            return None
        first, second = (int(np.flatnonzero(fit.traits == j)[0]) for j in (u, v))
        return fit.theta, fit.uncertainty, (first, second)

    def covers(self, u: int, v: int) -> bool:
        """Whether two traits are known in different rows."""
        return bool(self.pattern[u] != self.pattern[v])


@dataclass(frozen=True, eq=False)
class PatternUncertainty:
    """Of traits that were fitted on different rows; nothing is known across patterns (see `Pairwise`).

    Attributes
    ----------
    patterns : tuple of ndarray of int
        Traits of each.
    parts : tuple of Uncertainty
    """

    patterns: tuple[np.ndarray, ...]
    parts: tuple[Uncertainty, ...]

    def covariance(self, first: tuple[int, int], second: tuple[int, int]) -> np.ndarray:
        """Covariance of all components of two pairs of traits, (q+1) x (q+1)."""
        for traits, part in zip(self.patterns, self.parts, strict=True):
            where = {int(j): i for i, j in enumerate(traits)}
            if all(j in where for j in (*first, *second)):
                return part.covariance((where[first[0]], where[first[1]]), (where[second[0]], where[second[1]]))
        size = len(self.parts[0].covariance((0, 0), (0, 0)))
        return np.full((size, size), np.nan)


@dataclass(frozen=True, eq=False)
class PatternModel:
    """Fixed effects and BLUPs of all patterns together.

    Attributes
    ----------
    design : Design
        All rows.
    patterns : tuple of ndarray of int
    designs : tuple of Design
        The rows of each pattern.
    models : tuple of HeModel
    """

    design: Design
    patterns: tuple[np.ndarray, ...]
    designs: tuple[Design, ...]
    models: tuple[Any, ...]

    def coefficients(self) -> tuple[np.ndarray, np.ndarray]:
        """Fixed effects (t x b) and their covariances (t x b x b)."""
        parts = [model.coefficients() for model in self.models]
        return self._in_order([coef for coef, _ in parts]), self._in_order([covariance for _, covariance in parts])

    def random_effects(self, t: int) -> np.ndarray:
        """BLUPs of term t, traits x levels x effects; zero at a level without a record of the trait."""
        term = self.design.terms[t]
        parts = []
        for own, model in zip(self.designs, self.models, strict=True):
            found = model.random_effects(t)
            whole = np.zeros((len(found), len(term.levels), found.shape[2]))
            whole[:, term.levels.get_indexer(own.terms[t].levels)] = found
            parts.append(whole)
        return self._in_order(parts)

    @property
    def marker_effects(self) -> Sequence[MarkerEffects]:
        """None: with markers all traits are fitted on the same rows."""
        return ()

    def _in_order(self, parts: Sequence[np.ndarray]) -> np.ndarray:
        return np.concatenate(parts)[np.argsort(np.concatenate(self.patterns))]


def combine_uncertainties(patterns: Sequence[Pattern], parts: Sequence[Any]) -> Any:
    """One uncertainty of all traits: by trait where nothing is known across traits."""
    if any(part is None for part in parts):
        return None
    if all(isinstance(part, TraitCovariances) for part in parts):
        order = np.argsort(np.concatenate([pattern.traits for pattern in patterns]))
        draws = None if parts[0].draws is None else np.concatenate([part.draws for part in parts])[order]
        return TraitCovariances(np.concatenate([part.values for part in parts])[order], parts[0].kind, draws)
    return PatternUncertainty(tuple(pattern.traits for pattern in patterns), tuple(parts))


def combine_thetas(patterns: Sequence[Pattern], thetas: Sequence[np.ndarray], pairs: Pairwise | None) -> np.ndarray:
    """Variances of each trait on its own rows; covariances on the rows of both, (q+1) x t x t, NaN if unknown."""
    t = sum(len(pattern.traits) for pattern in patterns)
    out = np.full((len(thetas[0]), t, t), np.nan)
    for fit in () if pairs is None else pairs.fits.values():
        if fit is not None:
            out[:, fit.traits[:, None], fit.traits] = fit.theta
    for pattern, theta in zip(patterns, thetas, strict=True):
        out[:, pattern.traits[:, None], pattern.traits] = theta
    return out
