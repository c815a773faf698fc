"""`fit_he`: from a design to a result, one method at a time."""

from __future__ import annotations

import copy
import time
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property, partial
from typing import Any

import numpy as np

from ... import __version__
from ...design import Design
from ...errors import BoundaryWarning, DataError, DroppedRowsWarning, OptionError, SlamWarning, shortlist, warn
from ...linalg.identifiability import confounding, refusal
from ...linalg.threads import single_threaded_blas
from ...results.base import refuse_not_finite
from ...results.varcomp import HeResult, MarkerEffects, TraitCovariances
from . import inference
from .distance import DistanceResponse, distance_equations, permutation_p
from .distributed import stream_on_dask
from .effects import Effects, blups, effects, is_singular, term_covariance
from .markers import MarkerTerm, marker_effects, take_rows
from .moments import Moments, NormalEquations, compute_moments
from .options import HeOptions
from .patterns import PairFit, Pairwise, Pattern, PatternModel, combine_thetas, combine_uncertainties, trait_patterns
from .problem import Problem, build_problem
from .reml import fit_reml
from .solvers import condition, estimate_map, solve_equations
from .spread import component_product, cones_of, mean_diagonal
from .streaming import stream
from .subsampling import fit_subsamples

COLLINEAR = 1e8
TRACE_PROBES = 10
SANDWICH_PROBES = 50


@dataclass(frozen=True, eq=False)
class HeModel:
    """What a result asks for later: fixed effects and BLUPs, computed when first wanted.

    Attributes
    ----------
    problem : Problem
    variances : ndarray, t x (q+1)
        Not below zero.
    moments : Moments or None
    """

    problem: Problem
    variances: np.ndarray
    moments: Moments | None

    @cached_property
    def effects(self) -> list[Effects]:
        """Of every trait."""
        with single_threaded_blas():
            found = effects(self.problem, list(self.variances))
        # an aliased column has NaN, by design
        kept = self.problem.kept
        numbers = {
            "fixed effects": [e.coef[kept] for e in found],
            "variances of fixed effects": [np.diag(e.covariance)[kept] for e in found],
            "weighted residuals": [e.weighted_residual for e in found],
        }
        refuse_not_finite("he", numbers)
        return found

    def coefficients(self) -> tuple[np.ndarray, np.ndarray]:
        """Fixed effects (t x b) and their covariances (t x b x b)."""
        return np.array([e.coef for e in self.effects]), np.array([e.covariance for e in self.effects])

    def random_effects(self, t: int) -> np.ndarray:
        """BLUPs of term t, traits x levels x effects."""
        found = np.array(
            [blups(self.problem, t, values, e) for values, e in zip(self.variances, self.effects, strict=True)]
        )
        refuse_not_finite("he", {f"random effects of '{self.problem.terms[t].label}'": found})
        return found

    @cached_property
    def marker_effects(self) -> list[MarkerEffects]:
        """BLUPs of every component of markers."""
        rests = np.column_stack([e.weighted_residual for e in self.effects])
        variances = self.variances[:, 1 + len(self.problem.components) :].T
        with single_threaded_blas():
            found = marker_effects(self.problem.markers, rests, variances)
        refuse_not_finite("he", {f"marker effects of '{effect.table}'": effect.coef for effect in found})
        return found


def fit_he(
    design: Design,
    options: HeOptions,
    markers: tuple[MarkerTerm, ...] = (),
    distance: DistanceResponse | None = None,
) -> HeResult:
    """Fit variance components.

    Parameters
    ----------
    design : Design
        No row without any response.
    options : HeOptions
    markers : tuple of MarkerTerm
    distance : DistanceResponse, optional

    Returns
    -------
    HeResult
    """
    start = time.perf_counter()
    with single_threaded_blas():
        if distance is not None:
            _check_distance(design, options, markers)
        notes: list[str] = []
        patterns = trait_patterns(design)
        if len(patterns) > 1 and markers:
            complete = _complete_rows(design, notes)
            markers = take_rows(markers, np.searchsorted(design.rows, complete.rows))
            design, patterns = complete, []
        if len(patterns) > 1:
            problem, parts = _by_pattern(design, patterns, options, notes)
        else:
            problem = build_problem(design, markers, response=distance is None)
            notes += problem.notes
            parts = _estimate(problem, options, distance, notes)
    matched = [*design.notes, *(note for marker in markers for note in marker.genotypes.notes)]
    if distance is not None:
        matched += distance.notes
    # the bins of one table have its notes in common
    notes = [*dict.fromkeys(matched), *notes]
    traits = problem.traits if design.Y is None else tuple(map(str, design.Y.columns))
    _warn_about(problem, traits, parts["theta"], options, notes)
    return HeResult(
        design=design,
        options=asdict(options),
        version=__version__,
        seconds=time.perf_counter() - start,
        notes=tuple(notes),
        names=problem.names,
        traits=traits,
        is_variance=(True, *(c.a == c.b for c in problem.components), *(True for _ in markers)),
        term_of=(None, *(problem.terms[c.term].label for c in problem.components), *(m.label for m in markers)),
        **parts,
    )


def _estimate(
    problem: Problem, options: HeOptions, distance: DistanceResponse | None, notes: list[str]
) -> dict[str, Any]:
    """Fit traits that are known in the same rows: the parts of a result that depend on the method."""
    if options.is_likelihood:
        check_identified(problem, notes)
        parts = _by_likelihood(problem, options)
        # NaN: covariances among traits, which are fitted one by one, and standard errors of variances at zero
        refuse_not_finite("he", {"variances": np.einsum("itt->it", parts["theta"]), "loglik": parts["loglik"]})
        return parts
    if not problem.components and not problem.markers:
        raise DataError(
            "the formula has no random term, so there is no variance to split. Add one such as (1 | id), with "
            "relmat={'id': K}, or markers=."
        )
    return _by_moments(problem, options, distance, notes)


# -- traits that lack different rows ----------------------------------------------------------------------


def _complete_rows(design: Design, notes: list[str]) -> Design:
    """Rows in which no response is missing; said in a note and a warning."""
    assert design.Y is not None
    complete = design.Y.notna().all(axis=1).to_numpy()
    if not complete.any():
        raise DataError("with markers= traits are fitted on the rows that have all of them, and no row has.")
    notes.append(
        f"markers= are read once for all traits, so {int((~complete).sum())} of {design.n} rows, in which some trait "
        f"is missing, are left out ({_missing_by_trait(design)}). Fit traits one by one to use all their rows"
    )
    warn(notes[-1], DroppedRowsWarning)
    return design.take(np.flatnonzero(complete))


def _missing_by_trait(design: Design) -> str:
    assert design.Y is not None
    counts = design.Y.isna().sum()
    return ", ".join(f"'{name}' {count}" for name, count in counts[counts > 0].items())


def _by_pattern(
    design: Design, patterns: Sequence[Pattern], options: HeOptions, notes: list[str]
) -> tuple[Problem, dict[str, Any]]:
    """Each trait on its own rows, covariances on the rows of both; the first problem stands for its terms."""
    notes.append(
        f"each trait is fitted on the rows where it is known (missing in {design.n}: {_missing_by_trait(design)})"
        + ("" if options.is_likelihood else "; covariances and correlations among traits on the rows of both")
    )
    designs = [design.take(np.flatnonzero(pattern.known), pattern.traits) for pattern in patterns]
    problems, parts = [], []
    for own in designs:
        where = f"{shortlist(own.traits)}: "
        problem = build_problem(own, where=where)
        found: list[str] = []
        parts.append(_estimate(problem, options, None, found))
        notes += [*problem.notes, *(note if note in notes else where + note for note in found)]
        problems.append(problem)
    pairs = None if options.is_likelihood else _pairs(design, patterns, options, notes)
    traits = tuple(pattern.traits for pattern in patterns)
    order = np.argsort(np.concatenate(traits))
    in_order: dict[str, Any] = {
        name: tuple([value for part in parts for value in part[name]][i] for i in order)
        for name in ("loglik", "factors")
        if name in parts[0]
    }
    thetas, unconstrained = (
        combine_thetas(patterns, [part[name] for part in parts], pairs) for name in ("theta", "unconstrained")
    )
    return problems[0], {
        **in_order,
        "theta": thetas,
        "unconstrained": unconstrained,
        "uncertainty": combine_uncertainties(patterns, [part["uncertainty"] for part in parts]),
        "moments": None,
        "model": PatternModel(design, traits, tuple(designs), tuple(part["model"] for part in parts)),
        "pairwise": pairs,
        "n_skipped": sum(part.get("n_skipped", 0) for part in parts),
    }


def _pairs(design: Design, patterns: Sequence[Pattern], options: HeOptions, notes: list[str]) -> Pairwise:
    """Fits of the traits of every two patterns together."""
    fits: dict[tuple[int, int], PairFit | None] = {}
    few: list[str] = []
    pattern_of = np.empty(len(design.traits), dtype=np.intp)
    for a, first in enumerate(patterns):
        pattern_of[first.traits] = a
        for b, second in enumerate(patterns[a + 1 :], a + 1):
            rows = np.flatnonzero(first.known & second.known)
            traits = np.concatenate((first.traits, second.traits))
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore", SlamWarning)  # the fits on own rows have said it
                    problem = build_problem(design.take(rows, traits))
                    parts = _estimate(problem, replace(options, se=None), None, [])
            except DataError:
                few += [f"{design.traits[u]} with {design.traits[v]}" for u in first.traits for v in second.traits]
                fits[a, b] = None
                continue
            arguments = (problem, parts["moments"], parts["model"], options)
            fits[a, b] = PairFit(traits, parts["theta"], _uncertainty_of_pair, arguments)
    if few:
        notes.append(f"too few rows have both: no covariance of {shortlist(few)}")
        warn(notes[-1], SlamWarning)
    return Pairwise(pattern_of, fits)


def _uncertainty_of_pair(problem: Problem, equations: NormalEquations, model: HeModel, options: HeOptions) -> Any:
    if options.se != "sandwich" or options.method == "rerehe":
        return None
    theta = solve_equations(equations, "rehe", cones_of(problem.components, problem.terms))
    assert model.moments is not None
    return _uncertainty(
        problem, model.moments, equations, theta, options, None, [], np.random.default_rng(options.seed)
    )


# -- likelihood -----------------------------------------------------------------------------------------


def _by_likelihood(problem: Problem, options: HeOptions) -> dict[str, Any]:
    if problem.markers:
        raise OptionError(f"method={options.method!r} needs formed kinships: give relmat= instead of markers=.")
    fits = fit_reml(problem, options.method == "reml", options.se is not None)
    t = problem.t
    theta = np.full((len(problem.names), t, t), np.nan)
    for j, fit in enumerate(fits):
        theta[:, j, j] = fit.variances
    variances = np.array([fit.variances for fit in fits])
    return {
        "theta": theta,
        "unconstrained": theta,
        "uncertainty": None
        if options.se is None
        else TraitCovariances(np.array([fit.covariance for fit in fits]), "observed information"),
        "moments": None,
        "model": HeModel(problem, variances, None),
        "loglik": tuple(float(fit.loglik) for fit in fits),
        "factors": tuple(fit.theta for fit in fits),
    }


# -- moments --------------------------------------------------------------------------------------------


def _by_moments(
    problem: Problem, options: HeOptions, distance: DistanceResponse | None, notes: list[str]
) -> dict[str, Any]:
    rng = np.random.default_rng(options.seed)
    cones = cones_of(problem.components, problem.terms)
    probes = _probes(problem, options, rng)
    if options.method == "rerehe":
        return _by_subsamples(problem, options, notes, rng)
    run = stream if options.backend is None else stream_on_dask
    moments = compute_moments(problem, probes, int(rng.integers(2**31)), run)
    if distance is None:
        equations = moments.equations(options.inner, options.project)
    else:
        equations = distance_equations(problem, moments, distance, options.inner, options.project)
        notes += _distance_notes(distance)
    _check_gram(problem, moments, equations, notes)
    n_markers = len(problem.markers)
    unconstrained = solve_equations(equations, "he", cones, n_markers)
    constrained = solve_equations(equations, "rehe", cones, n_markers)
    refuse_not_finite("he", {"variances": constrained, "unconstrained variances": unconstrained})
    theta = constrained if options.method == "rehe" else unconstrained
    variances = np.einsum("itt->ti", constrained).copy()
    parts = {
        "theta": theta,
        "unconstrained": unconstrained,
        "moments": equations,
        "model": HeModel(problem, variances, moments),
    }
    if distance is not None:
        mapping = estimate_map(equations)
        p = permutation_p(
            problem,
            moments,
            distance,
            equations,
            options.inner,
            options.project,
            unconstrained[:, 0, 0],
            mapping,
            options.permutations,
            rng,
        )
        return {**parts, "uncertainty": None, "p_values": p}
    return {
        **parts,
        "uncertainty": _uncertainty(problem, moments, equations, constrained, options, probes, notes, rng),
    }


def _probes(problem: Problem, options: HeOptions, rng: np.random.Generator) -> np.ndarray | None:
    if not problem.markers:
        return None
    if options.inner != "full":
        raise OptionError(
            f"markers= need inner='full' (random probes estimate the full trace only), got {options.inner!r}."
        )
    z = rng.choice([-1.0, 1.0], size=(problem.n, options.n_probes or TRACE_PROBES))
    return z - problem.basis @ (problem.basis.T @ z) if options.project else z


def _by_subsamples(problem: Problem, options: HeOptions, notes: list[str], rng: np.random.Generator) -> dict[str, Any]:
    plan = options.subsample
    fit = fit_subsamples(problem, plan, options.inner, options.project, rng)
    refuse_not_finite("he", {"variances": fit.theta})
    what = {"family": "families", "individual": "individuals"}[fit.unit]
    notes.append(f"reREHE: {plan.times} subsamples of {plan.ratio:.0%} of the {what}, {plan.rule}")
    if fit.n_skipped:
        notes.append(
            f"{fit.n_skipped} of {plan.times} subsamples were skipped: their Gram matrix was singular (too few "
            "relatives among the people drawn)"
        )
    if options.se is not None:
        notes.append("no standard errors with reREHE; method='rehe' reads every kinship once and has them")
    variances = np.einsum("itt->ti", fit.theta).clip(min=0.0)
    return {
        "theta": fit.theta,
        "unconstrained": fit.theta,
        "uncertainty": None,
        "moments": fit.pooled,
        "model": HeModel(problem, variances, None),
        "n_skipped": fit.n_skipped,
    }


def _uncertainty(
    problem: Problem,
    moments: Moments,
    equations: NormalEquations,
    theta: np.ndarray,
    options: HeOptions,
    probes: np.ndarray | None,
    notes: list[str],
    rng: np.random.Generator,
) -> Any:
    if options.se is None:
        return None
    found: Any
    if options.se == "sandwich":
        found = inference.sandwich(
            problem,
            equations,
            theta,
            options.inner,
            options.project,
            options.n_probes or SANDWICH_PROBES,
            rng,
        )
        if found.n_probes:
            notes.append(
                f"sandwich standard errors from {found.n_probes} random probes (seed {options.seed}); Monte Carlo "
                f"error up to {found.error:.1%} of a standard error"
            )
    elif options.se == "jackknife":
        if problem.markers:
            assert probes is not None
            values = inference.marker_jackknife(problem, moments, probes, options.project, options.n_blocks)
            notes.append(f"jackknife over {options.n_blocks} blocks of markers")
        else:
            values, note = inference.jackknife(
                problem, moments, equations, options.inner, options.project, options.jackknife_unit, rng
            )
            notes.append(note)
        found = TraitCovariances(values, "jackknife")
    else:
        found = _bootstrap(problem, moments, equations, theta, options, notes, rng)
    own = [found.covariance((j, j), (j, j)) for j in range(problem.t)]
    refuse_not_finite("he", {f"the covariance of the estimates ({options.se})": own})
    return found


def _bootstrap(
    problem: Problem,
    moments: Moments,
    equations: NormalEquations,
    theta: np.ndarray,
    options: HeOptions,
    notes: list[str],
    rng: np.random.Generator,
) -> TraitCovariances:
    diagonals = np.vstack([np.ones(problem.n), moments.diagonals])
    if options.project and options.inner != "full":
        diagonals = np.array([m.diagonal() for m in inference.form_row_matrices(problem, True, True)])
    draws = []
    for j in range(problem.t):
        root = inference.covariance_root(problem, theta[:, j, j])
        # The same noise for every trait, so that its errors do not depend on the others.
        noise = copy.deepcopy(rng).standard_normal((problem.n, options.n_draws))
        draws.append(
            inference.bootstrap(
                problem, equations, diagonals, root @ noise, options.method, options.inner, options.project
            )
        )
    notes.append(f"parametric bootstrap, {options.n_draws} draws")
    values = np.array([np.cov(d, rowvar=False) for d in draws])
    return TraitCovariances(values, "bootstrap", np.array(draws))


# -- what may be wrong ----------------------------------------------------------------------------------


def _check_distance(design: Design, options: HeOptions, markers: tuple[MarkerTerm, ...]) -> None:
    if design.Y is not None:
        raise OptionError(
            "distance= takes the place of the response; write a one-sided formula such as '~ age + (1 | id)'."
        )
    if markers:
        raise OptionError("distance= works with relmat=, not with markers=; form the kinship with slamglmm.kinship.")
    if options.method not in ("he", "rehe"):
        raise OptionError(f"distance= is fitted by moments: method='rehe' or 'he', got {options.method!r}.")
    if design.weights is not None or design.offset is not None:
        raise OptionError("distance= cannot be combined with weights or an offset.")


def _distance_notes(distance: DistanceResponse) -> list[str]:
    if not distance.n_negative:
        return [
            "the distance is Euclidean" + (f" after correction={distance.correction!r}" if distance.correction else "")
        ]
    return [
        f"the distance is not Euclidean: {distance.n_negative} negative eigenvalues, {distance.negative_share:.1%} of "
        "the absolute sum"
    ]


def check_identified(problem: Problem, notes: list[str]) -> None:
    """Refuse, before a likelihood is climbed, variances it does not depend on; add a note on those it cannot split.

    Parameters
    ----------
    problem : Problem
    notes : list of str

    Raises
    ------
    DataError
        A random term that cannot be told from the fixed effects or from the residual.

    Warns
    -----
    SlamWarning
        Components that are combinations of each other.
    """
    components = problem.components
    if not components:
        return
    products = [partial(component_product, problem.terms[c.term], c) for c in components]
    sizes = [
        np.sqrt(mean_diagonal(problem.terms[c.term], c.a) * mean_diagonal(problem.terms[c.term], c.b))
        for c in components
    ]
    found = confounding(products, sizes, problem.basis)
    for c, absorbed, as_residual in zip(components, found.absorbed, found.as_residual, strict=True):
        if absorbed or as_residual:
            raise refusal(c.label, absorbed=bool(absorbed))
    if found.tied.any():
        names = [c.label for c, tied in zip(components, found.tied, strict=True) if tied]
        notes.append(
            f"components {shortlist(names)} are combinations of each other on these rows: their variances cannot be "
            "told apart, and the split of what they explain is arbitrary. Leave one out"
        )
        warn(notes[-1], SlamWarning)


def _check_gram(problem: Problem, moments: Moments, equations: NormalEquations, notes: list[str]) -> None:
    gram = moments.equations("full", True).S
    for i, name in enumerate(problem.names[1:], start=1):
        unprojected = moments.cross[i - 1, i - 1]
        if gram[i, i] <= 1e-12 * np.nan_to_num(unprojected):
            raise DataError(f"component '{name}' is zero once the fixed effects are taken off. Leave it out.")
        if 1 - gram[0, i] ** 2 / (gram[0, 0] * gram[i, i]) < 1e-10:
            raise DataError(
                f"random term '{name}' cannot be told from the residual: one record for each level and no "
                f"relationships between levels. {_related(problem, i - 1)}, or leave the term out."
            )
    size = condition(equations.S)
    if size > COLLINEAR:
        scale = np.sqrt(np.diag(equations.S))
        correlation = np.abs(equations.S / np.outer(scale, scale) - np.eye(len(scale)))
        first, second = np.unravel_index(int(correlation.argmax()), correlation.shape)
        notes.append(
            f"kinships are collinear: the Gram matrix of the components has condition {size:.2g}, and "
            f"'{equations.names[first]}' and '{equations.names[second]}' correlate by "
            f"{correlation[first, second]:.6f}; their variances "
            "cannot be told apart"
        )
        warn(notes[-1], SlamWarning)


def _related(problem: Problem, i: int) -> str:
    """What to do about component i, whose levels with records are not related."""
    if i < len(problem.components) and problem.terms[problem.components[i].term].kernel is not None:
        return "In its relationship matrix these are zero (is it an inverse, or of other individuals?). Correct it"
    return "Pass a relationship matrix, relmat={...}"


def _warn_about(
    problem: Problem, traits: Sequence[str], theta: np.ndarray, options: HeOptions, notes: list[str]
) -> None:
    """Estimates at or beyond the boundary: one line for each component."""
    for t, term in enumerate(problem.terms):
        if term.correlated and term.n_effects > 1 and options.method != "he":
            singular = [
                trait for j, trait in enumerate(traits) if is_singular(term_covariance(problem, theta[:, j, j], t))
            ]
            if singular:
                notes.append(
                    f"covariance matrix of '{term.label}' is estimated on the boundary (singular: a combination of "
                    f"{' and '.join(term.effects)} does not vary)"
                    + (f" for {shortlist(singular)}" if len(traits) > 1 else "")
                )
                warn(notes[-1], BoundaryWarning)
    is_variance = [True, *(c.a == c.b for c in problem.components), *(True for _ in problem.markers)]
    values = np.einsum("itt->it", theta)
    total = values[is_variance].sum(axis=0)
    for i, name in enumerate(problem.names):
        if not is_variance[i]:
            continue
        shown = "the residual" if i == 0 else f"'{name}'"
        zero = np.array(traits)[np.abs(values[i]) <= 1e-12 * np.abs(total)]
        below = np.array(traits)[values[i] < -1e-12 * np.abs(total)]
        many = len(traits) > 1
        if len(zero):
            notes.append(
                f"variance of {shown} is estimated at zero (boundary)" + (f" for {shortlist(zero)}" if many else "")
            )
            warn(notes[-1], BoundaryWarning)
        if len(below):
            size = "" if many else f" ({values[i, 0]:.4g})"
            notes.append(
                f"variance of {shown} is estimated below zero{size}"
                + (f" for {shortlist(below)}" if many else "")
                + "; method='rehe' keeps it at zero or above"
            )
            warn(notes[-1], BoundaryWarning)
        share = values[i] / total
        above = np.array(traits)[share > 1 + 1e-9]
        if i and len(above):
            notes.append(
                f"share of {shown} is above 1"
                + (f" for {shortlist(above)}" if many else f" (h2 = {share[0]:.3g})")
                + ": another variance is estimated below zero"
            )
            warn(notes[-1], BoundaryWarning)
