"""reREHE: moments of many small subsamples, pooled by default; eq. HE-7."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import pandas as pd
from scipy import sparse
from scipy.sparse import csgraph

from ...errors import FitError, OptionError, SlamWarning, warn
from ...options import Options, entries
from .moments import NormalEquations, compute_moments
from .problem import RESIDUAL, Problem
from .solvers import condition, solve_equations
from .sources import ArraySource
from .spread import Component, Spread, cones_of

RULES = ("pooled", "mean", "median")
UNITS = ("auto", "family", "individual")
# Gram matrices beyond this condition say nothing about some component.
SINGULAR = 1e10
# Relatives closer than this share of the mean diagonal belong to one family when a kinship is dense.
RELATED = 0.025


@dataclass(frozen=True)
class Subsampling:
    """How reREHE samples.

    Attributes
    ----------
    ratio : float
        Share of the rows in a subsample.
    times : int
        Number of subsamples.
    rule : {"pooled", "mean", "median"}
        Add up the moments and solve once; or average the non-negative estimates, as the papers do.
    unit : {"auto", "family", "individual"}
        What is drawn.
    replace : bool
        Draw with replacement (the papers' code does, individuals); else all units come equally often.
    """

    ratio: float = 0.1
    times: int = 50
    rule: str = "pooled"
    unit: str = "auto"
    replace: bool = False

    @staticmethod
    def read(given: Mapping[str, Any] | None) -> Subsampling:
        """Check the ``subsample=`` argument.

        Raises
        ------
        OptionError
        """
        known = [f.name for f in fields(Subsampling)]
        out = Subsampling(**entries("subsample", given, known, "{'ratio': 0.1, 'times': 50}"))
        check = Options({f"subsample[{name!r}]": getattr(out, name) for name in known})
        check.number("subsample['ratio']", above=0, most=1)
        check.whole("subsample['times']", least=1)
        check.choice("subsample['rule']", RULES)
        check.choice("subsample['unit']", UNITS)
        check.flag("subsample['replace']")
        return out


@dataclass(frozen=True, eq=False)
class SubsampleFit:
    """What the subsamples gave.

    Attributes
    ----------
    estimates : ndarray, used x (q+1) x t x t
        REHE of each subsample that could be solved.
    pooled : NormalEquations
        Their sum.
    theta : ndarray, (q+1) x t x t
        By the chosen rule.
    n_skipped : int
        Subsamples whose Gram matrix was singular.
    unit : str
        What was drawn.
    """

    estimates: np.ndarray
    pooled: NormalEquations
    theta: np.ndarray
    n_skipped: int
    unit: str


def draw_rows(problem: Problem, plan: Subsampling, rng: np.random.Generator) -> tuple[list[np.ndarray], str]:
    """Rows of each subsample, and the unit they were drawn by."""
    families, unit = np.arange(problem.n), "individual"
    if plan.unit != "individual":
        families = close_families(problem)
        n_families = int(families.max()) + 1
        unit = "family"
        if n_families < 10:
            if plan.unit == "auto":
                warn(
                    "reREHE: the kinship ties all rows together, so individuals are drawn instead of families; a small "
                    "variance is then estimated less well than by method='rehe', which reads the same kinship once.",
                    SlamWarning,
                )
            families, unit = np.arange(problem.n), "individual"
    n_units = int(families.max()) + 1
    size = max(2, round(plan.ratio * n_units))
    order = np.argsort(families, kind="stable")
    edges = np.concatenate([[0], np.cumsum(np.bincount(families))])
    if plan.replace:
        chosen = [rng.choice(n_units, size) for _ in range(plan.times)]
    else:
        chosen = balanced_draws(n_units, min(size, n_units), plan.times, rng)
    out = [np.concatenate([order[edges[g] : edges[g + 1]] for g in np.sort(draw)]) for draw in chosen]
    return out, unit


def balanced_draws(n_units: int, size: int, times: int, rng: np.random.Generator) -> list[np.ndarray]:
    """Subsets without repeats in which all units come equally often, give or take one.

    Pooled moments then weigh families alike; drawn independently, some would count twice as much as others.
    """
    waiting = rng.permutation(n_units)
    out = []
    for _ in range(times):
        draw, waiting = waiting[:size], waiting[size:]
        if len(draw) < size:
            again = rng.permutation(n_units)
            repeated = np.isin(again, draw)
            fresh = again[~repeated]
            more = size - len(draw)
            draw, waiting = np.concatenate([draw, fresh[:more]]), np.concatenate([fresh[more:], again[repeated]])
        out.append(draw)
    return out


def close_families(problem: Problem) -> np.ndarray:
    """Families by sparse kinships and grouping factors; in a dense kinship, by pairs that are clearly related."""
    families = problem.families
    if families.max() > 0 or problem.markers or problem.n == 1:
        return families
    graph = sparse.csr_array((problem.n, problem.n), dtype=np.int8)
    for term in problem.terms:
        if term.kernel is None:
            kinship: Any = sparse.eye_array(term.r, format="csr")
        elif isinstance(term.kernel, ArraySource):
            array = term.kernel.array
            kinship = sparse.csr_array(np.abs(array) > RELATED * np.diagonal(array).mean())
        elif sparse.issparse(term.kernel):
            kinship = term.kernel
        else:
            return families
        indicator = sparse.csr_array(
            (np.ones(problem.n), term.codes, np.arange(problem.n + 1)), shape=(problem.n, term.r)
        )
        graph = graph + (indicator @ kinship.astype(float) @ indicator.T != 0)
    return csgraph.connected_components(graph, directed=False)[1]


def fit_subsamples(
    problem: Problem, plan: Subsampling, inner: str, project: bool, rng: np.random.Generator
) -> SubsampleFit:
    """Draw, project and solve every subsample.

    Parameters
    ----------
    problem : Problem
    plan : Subsampling
    inner, project :
        As for `Moments.equations`.
    rng : Generator

    Raises
    ------
    FitError
        Every subsample is singular.
    OptionError
        With markers.
    """
    if plan.replace and inner == "offdiag":
        raise OptionError("subsample: with replace=True a person meets itself, so inner='offdiag' is not defined.")
    if problem.markers:
        raise OptionError("method='rerehe' draws individuals from formed kinships; use method='rehe' with markers=.")
    drawn, unit = draw_rows(problem, plan, rng)
    parts = []
    for rows in drawn:
        if len(rows) <= problem.m + 1:
            continue
        parts.append(subsample_equations(problem, rows, inner, project))
    return combine(problem, parts, len(drawn), plan.rule, unit)


def subsample_equations(
    problem: Problem, rows: np.ndarray, inner: str, project: bool, residuals: np.ndarray | None = None
) -> NormalEquations:
    """Normal equations of some rows, which may repeat.

    A person drawn twice has one residual, so the residual's matrix is ``I[rows, rows]``: a random effect of the person.

    Parameters
    ----------
    problem : Problem
    rows : ndarray of int
    inner, project :
        As for `Moments.equations`.
    residuals : ndarray, rows x t, optional
        Of a fit to all rows; fitted anew unless given.
    """
    part = problem.take(rows, residuals)
    people, codes = np.unique(rows, return_inverse=True)
    if len(people) == len(rows):
        return compute_moments(part).equations(inner, project)
    person = Spread(
        "person", "person", ("Intercept",), pd.Index(people), codes, np.ones((len(rows), 1)), None, True, -1
    )
    terms = (person, *part.terms)
    components = (Component("person", 0, 0, 0), *(replace(c, term=c.term + 1) for c in part.components))
    equations = compute_moments(replace(part, terms=terms, components=components)).equations(inner, project)
    squares, traces, df = equations.leftover
    return NormalEquations(
        (RESIDUAL, *equations.names[2:]), equations.S[1:, 1:], equations.c[1:], (squares, traces[1:], df)
    )


def combine(problem: Problem, parts: list[NormalEquations], n_drawn: int, rule: str, unit: str) -> SubsampleFit:
    """Estimates of each subsample, and one by the chosen rule; singular subsamples are left out and counted."""
    cones = cones_of(problem.components, problem.terms)
    usable = [part for part in parts if condition(part.S) < SINGULAR]
    n_skipped = n_drawn - len(usable)
    if not usable:
        raise FitError(
            f"reREHE: none of the {n_drawn} subsamples can tell the components apart (their Gram matrices are "
            "singular). Raise subsample={'ratio': ...}, or use method='rehe'."
        )
    estimates = np.array([solve_equations(part, "rehe", cones) for part in usable])
    pooled = sum(usable[1:], start=usable[0])
    if rule == "pooled":
        theta = solve_equations(pooled, "rehe", cones)
    else:
        theta = estimates.mean(axis=0) if rule == "mean" else np.median(estimates, axis=0)
    return SubsampleFit(estimates, pooled, theta, n_skipped, unit)
