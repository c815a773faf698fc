"""From a design and markers to a `MrMashResult`."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from ... import __version__
from ..._kernels.columns import add_columns
from ...design import Design
from ...design.aliasing import leave_out_aliased
from ...design.magnitudes import refuse_unusable
from ...design.row_labels import RowLabels
from ...errors import ConvergenceWarning, DataError, OptionError, SlamWarning, shortlist, warn
from ...genotypes import Markers, read_markers
from ...linalg.independent import independent_columns
from ...linalg.projection import ProjectedMarkers, covariate_effects, project_markers
from ...linalg.threads import single_threaded_blas
from ...options import Options, shown
from ...priors.mixture import MixturePrior, automatic_grid, read_covariances
from ...results.base import refuse_not_finite
from ...results.variational import MrMashResult
from .mash import Mash, MashState, constrained, fit, maximise, start
from .missing import MissingCells
from .posterior import marker_posteriors

# Responses beyond this size, or below its inverse, have squares that a computer cannot hold.
LARGEST = 1e140
# Sweeps with uncorrelated residuals before the second start.
DIAGONAL_SWEEPS = 20
RESIDUAL_KINDS = ("full", "diagonal", "spherical", "low_rank")


def fit_mr_mash(
    design: Design,
    markers: Any,
    whose: RowLabels,
    *,
    covariances: Any,
    grid: Any,
    null: bool,
    prior_weights: Any,
    residual_cov: Any,
    rank: int | None,
    standardize: bool,
    start_from: str,
    tol: float,
    max_iter: int,
) -> MrMashResult:
    """Fit mr.mash to a design, rows of `markers` being those of `whose`; arguments as in `slamglmm.mr_mash`."""
    begun = time.perf_counter()
    arguments = locals()
    options = {key: value for key, value in arguments.items() if key not in ("design", "markers", "whose", "begun")}
    if design.Y is None:
        raise OptionError("mr_mash needs responses: pass Y=, or name them on the left of '~'.")
    if design.terms:
        raise OptionError(f"mr_mash takes no random effects; found {shortlist(t.label for t in design.terms)}.")
    check = Options(options)
    check.flag("null", "standardize")
    check.number("tol", above=0)
    check.whole("max_iter", least=1)
    check.whole("rank", least=1, optional=True, advice="Rank 0 is residual_cov='spherical'.")
    if not isinstance(start_from, str) or start_from not in ("best", "total", "residual"):
        raise OptionError(f"start={shown(start_from)}: expected 'best', 'total' or 'residual'.")
    Y = design.Y.to_numpy(dtype=np.float64).T.copy()
    if design.offset is not None:
        Y -= design.offset
    p = len(Y)
    given = read_markers(markers)
    everyone, matched = whose.match(
        given.labels, given.n, "markers", rows=design.rows, repeats=True, by_position=given.by_position
    )
    kept = np.flatnonzero(~np.isnan(Y).all(axis=0))
    X = design.X.to_numpy(dtype=np.float64)
    fewest = np.count_nonzero(independent_columns(X[kept])) + 2
    if len(kept) < fewest:
        raise DataError(f"{len(kept)} row(s) with a response are too few; at least {fewest} are needed.")
    aliased = leave_out_aliased(X[kept], list(design.X.columns))[1]
    source, at, weights = _storage(given, everyone[kept])
    Z, Y_kept = np.zeros((source.n, design.X.shape[1])), np.zeros((p, source.n))
    Z[at], Y_kept[:, at] = X[kept], Y[:, kept]
    notes = [*design.notes, *([] if matched is None else [matched])]
    notes += [f"markers held as {source.kind}, {source.nbytes / 2**20:.1f} MiB", *aliased]
    if len(kept) < Y.shape[1]:
        notes.append(f"{Y.shape[1] - len(kept)} row(s) without any response are predicted, not fitted")
    with single_threaded_blas():
        used = None if weights is None else weights > 0
        columns = source.columns(used)
        projected = project_markers(columns, Z, weights, standardize)
        if not len(projected.order):
            raise DataError(f"none of the {source.m} markers varies once the covariates are accounted for.")
        _report_constant(projected, source)
        refuse_unusable(Y_kept[:, at].T, remainders(projected.basis.Q, Y_kept)[:, at].T, design.traits, LARGEST)
        effect, error, residual = univariate(projected, Y_kept)
        prior = _prior(covariances, grid, null, design.traits, effect, error)
        kind, sigma, q = _residual(residual_cov, rank, residual[:, at], design.traits)
        missing = MissingCells.of(Y_kept)
        model = Mash(projected, prior, Y_kept, missing, kind, q, isinstance(prior_weights, str))
        state, from_where = _climb(model, sigma, _start_weights(prior_weights, prior), start_from, tol, max_iter)
        notes.append(from_where)
        posterior = marker_posteriors(model, state)
        scaled = state.coef * projected.scale[:, None]
        effects = projected.fitted(np.ascontiguousarray(scaled.T))
        b = design.X.shape[1]
        covariates, covariates_sd = _covariates(projected, state.complete - effects, state.sigma, posterior.sd, b)
        notes += _hold_at_own_rows(X, Y, design, covariates, covariates_sd)
        means = source.means(used)
        from_all = np.zeros((p, given.n))
        add_columns(given.columns(fill=means), np.ascontiguousarray(scaled.T), np.empty(0), from_all)
    if not state.converged:
        warn(f"mr_mash has not converged in {max_iter} sweeps; raise max_iter or tol.", ConvergenceWarning)
    numbers = {"elbo": state.elbo, "coef": scaled, "coef_sd": posterior.sd, "lfsr": posterior.lfsr}
    refuse_not_finite("mr_mash", {**numbers, "weights": state.weights, "residual_cov": state.sigma})
    fitted = X @ np.nan_to_num(covariates) + from_all[:, everyone].T
    imputed = fitted.copy()
    imputed[kept] = state.complete[:, at].T
    if design.offset is not None:
        fitted, imputed = fitted + design.offset[:, None], imputed + design.offset[:, None]
    names, traits = source.names, design.traits

    def table(values: np.ndarray) -> pd.DataFrame:
        return pd.DataFrame(values, index=names, columns=traits)

    assert p == len(traits)
    return MrMashResult(
        design=design,
        options=options,
        version=__version__,
        seconds=time.perf_counter() - begun,
        notes=tuple(notes),
        elbo=np.array(state.elbo),
        converged=state.converged,
        covariates=covariates,
        covariates_sd=covariates_sd,
        marker_means=means,
        fitted_values=fitted,
        coef=table(scaled),
        coef_sd=table(posterior.sd * projected.scale[:, None]),
        lfsr=table(posterior.lfsr),
        null=pd.Series(posterior.null, index=names, name="null"),
        weights=pd.Series(state.weights, index=prior.labels, name="weight"),
        prior=prior,
        residual_cov=pd.DataFrame(state.sigma, index=traits, columns=traits),
        imputed=pd.DataFrame(imputed, index=design.X.index, columns=traits),
    )


def _climb(
    model: Mash, sigma: np.ndarray, weights: np.ndarray, start_from: str, tol: float, max_iter: int
) -> tuple[MashState, str]:
    """Climb from one or two places and keep the higher end.

    With the covariance of the responses as its first residual covariance, the fit may never take a large effect on many
    responses out of it again. So the other start is a fit with uncorrelated residuals, whose markers have to explain
    the correlations, and the residual covariance that it leaves.
    """
    several = model.residual_cov in ("full", "low_rank") and len(model.Y) > 1
    ends: dict[str, MashState] = {}
    if start_from != "residual" or not several:
        ends["total"] = start(model, sigma, weights)
        fit(model, ends["total"], tol=tol, max_iter=max_iter)
    if start_from != "total" and several:
        alone = replace(model, residual_cov="diagonal")
        first = start(alone, np.diag(np.diag(sigma)), weights)
        fit(alone, first, tol=tol, max_iter=DIAGONAL_SWEEPS)
        maximise(model, first)
        ends["residual"] = replace(first, elbo=[], converged=False)
        fit(model, ends["residual"], tol=tol, max_iter=max_iter)
    best = max(ends, key=lambda name: ends[name].elbo[-1])
    if len(ends) == 1:
        return ends[best], f"started from the {best} covariance"
    gap = ends["residual"].elbo[-1] - ends["total"].elbo[-1]
    return ends[best], f"best of two starts ({best} covariance); bound from residual less bound from total: {gap:.3g}"


def _storage(given: Markers, at: np.ndarray) -> tuple[Markers, np.ndarray, np.ndarray | None]:
    """Markers that hold the rows `at` of `given`, where in them these rows are, and weights that leave out others.

    A .bed stays packed, its other rows at weight zero, unless a row comes twice.
    """
    if not given.packed or len(np.unique(at)) < len(at):
        return given.unpacked().take(at), np.arange(len(at)), None
    if len(at) == given.n:
        return given, at, None
    weights = np.zeros(given.n)
    weights[at] = 1.0
    return given, at, weights


def univariate(projected: ProjectedMarkers, Y: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Simple regressions of every response on every marker, in closed form.

    Parameters
    ----------
    projected : ProjectedMarkers
    Y : ndarray, shape (p, n)
        NaN where missing, zero in rows that are not in the data. A missing cell counts as its covariates' prediction,
        and the sums are rescaled.

    Returns
    -------
    effect, error : ndarray, shape (markers that vary, p)
        On the scale of x.
    residual : ndarray, shape (p, n)
        Responses after covariates, NaN where missing.
    """
    Q = projected.basis.Q
    n, q = np.count_nonzero(projected.weights) if len(projected.weights) else len(Q), projected.basis.rank
    residual = remainders(Q, Y)
    filled = np.nan_to_num(residual)
    share = 1.0 - np.isnan(residual).sum(axis=1) / n
    gram = projected.gram[projected.order, None]
    effect = projected.products(projected.project(filled))[projected.order] / (gram * share)
    rss = np.sum(filled**2, axis=1) / share
    freedom = np.maximum(n * share - q - 1.0, 1.0) / share
    error = np.sqrt(np.maximum(rss - gram * effect**2, 1e-8 * rss) / (freedom * gram) / share)
    return effect, error, residual


def remainders(Q: np.ndarray, Y: np.ndarray) -> np.ndarray:
    """Responses (p, n) less what least squares on the columns of Q explain of their cells that are not missing."""
    out = np.array(Y)
    for rest in out:
        seen = ~np.isnan(rest)
        for _ in range(2):  # once more, so that a large mean leaves no trace
            rest -= Q @ np.linalg.lstsq(Q[seen], rest[seen], rcond=None)[0]
    return out


def _prior(
    covariances: Any, grid: Any, null: bool, traits: pd.Index, effect: np.ndarray, error: np.ndarray
) -> MixturePrior:
    named = read_covariances(covariances, len(traits), traits, effect / error)
    if isinstance(grid, str):
        if grid != "auto":
            raise OptionError(f"grid must be 'auto' or variances, got {grid!r}.")
        values = automatic_grid(effect, error)
    else:
        try:
            values = np.empty(0) if isinstance(grid, bool) else np.atleast_1d(np.asarray(grid, dtype=np.float64))
        except (TypeError, ValueError):
            values = np.empty(0)
        if values.ndim != 1 or not len(values) or not (np.isfinite(values).all() and (values > 0).all()):
            raise OptionError(f"grid must be positive variances, or 'auto', got {shown(grid)}.")
    return MixturePrior(tuple(named), np.array(list(named.values())), values, bool(null))


def _residual(
    residual_cov: Any, rank: int | None, residual: np.ndarray, traits: pd.Index
) -> tuple[str, np.ndarray, int]:
    """Kind of residual covariance, where it starts, and the rank of its low-rank part."""
    p = len(traits)
    if not isinstance(residual_cov, str):
        frame = residual_cov
        if isinstance(frame, pd.DataFrame):
            absent = traits.difference(frame.index).union(traits.difference(frame.columns))
            if len(absent):
                raise OptionError(f"residual_cov has no row or column for the response {str(absent[0])!r}.")
            frame = frame.loc[traits, traits]
        try:
            known = np.array(frame, dtype=np.float64)
        except (TypeError, ValueError) as error:
            raise OptionError(
                f"residual_cov={shown(residual_cov)}: expected {', '.join(map(repr, RESIDUAL_KINDS))} or a positive "
                f"definite {p} x {p} matrix."
            ) from error
        if not np.isfinite(known).all():
            raise OptionError("residual_cov must be finite; it has NaN or infinite entries.")
        if known.shape != (p, p) or not np.allclose(known, known.T) or np.linalg.eigvalsh(known)[0] <= 0:
            raise OptionError(f"residual_cov must be a positive definite {p} x {p} matrix, got shape {known.shape}.")
        return "known", known, 0
    if residual_cov not in RESIDUAL_KINDS:
        raise OptionError(
            f"residual_cov must be {', '.join(map(repr, RESIDUAL_KINDS))} or a matrix, got {residual_cov!r}."
        )
    if rank is not None and residual_cov != "low_rank":
        raise OptionError("rank is for residual_cov='low_rank' only.")
    q = max(1, min(5, p // 3)) if rank is None else int(rank)
    if residual_cov == "low_rank" and q >= p:
        raise OptionError(
            f"rank={rank!r}: expected an integer from 1 to {p - 1}, below the number of responses ({p})."
            if p > 1
            else "residual_cov='low_rank' needs at least two responses; for one write residual_cov='full'."
        )
    sigma = np.array(pd.DataFrame(residual.T).cov())
    sigma[np.isnan(sigma)] = 0.0
    if residual.shape[1] < 2 * p or np.isnan(residual).any():
        sigma = 0.8 * sigma + 0.2 * np.diag(np.diag(sigma))
        values, vectors = np.linalg.eigh(sigma)
        sigma = (vectors * np.maximum(values, 1e-3 * values.mean())) @ vectors.T
    # The first M-step must not leave the family the bound is maximised over.
    return residual_cov, constrained(sigma, residual_cov, q), q


def _start_weights(prior_weights: Any, prior: MixturePrior) -> np.ndarray:
    if isinstance(prior_weights, str):
        if prior_weights != "em":
            raise OptionError(f"prior_weights must be 'em' or probabilities, got {prior_weights!r}.")
        return np.full(prior.n_mix, 1.0 / prior.n_mix)
    if isinstance(prior_weights, Mapping | pd.Series):
        prior_weights = pd.Series(prior_weights).reindex(prior.labels).to_numpy()
    try:
        values = np.asarray(prior_weights, dtype=np.float64)
    except (TypeError, ValueError):
        values = np.empty(0)
    if values.shape != (prior.n_mix,) or not (values >= 0).all() or not np.isclose(values.sum(), 1.0):
        raise OptionError(f"prior_weights must be {prior.n_mix} probabilities that sum to 1, one for each component.")
    return values


def _covariates(
    projected: ProjectedMarkers, target: np.ndarray, sigma: np.ndarray, sd: np.ndarray, b: int
) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of the effects of the b columns of Z on p responses, shape (b, p)."""
    basis, p = projected.basis, len(target)
    mean, spread = np.full((b, p), np.nan), np.full((b, p), np.nan)
    mean[basis.kept] = covariate_effects(basis, target, None).T
    inverse = np.linalg.inv(basis.triangle) if basis.rank else np.zeros((0, 0))
    on_markers = projected.projections @ inverse.T * projected.scale[:, None]
    variance = np.outer(np.sum(inverse**2, axis=1), np.diag(sigma)) + (on_markers**2).T @ sd**2
    spread[basis.kept] = np.sqrt(variance)
    return mean, spread


def _hold_at_own_rows(
    X: np.ndarray, Y: np.ndarray, design: Design, covariates: np.ndarray, spread: np.ndarray
) -> list[str]:
    """Leave out, in place, effects on a response that the rows where it is known cannot tell; one note for all.

    Such as that of a level none of whose rows has the response. What its other effects say of these rows stays.
    """
    held: list[tuple[str, str]] = []
    patterns: dict[bytes, np.ndarray] = {}
    for j, y in enumerate(Y):
        seen = ~np.isnan(y)
        if seen.tobytes() not in patterns:
            patterns[seen.tobytes()] = independent_columns(X[seen])
        own, given = patterns[seen.tobytes()], ~np.isnan(covariates[:, j])
        lost = given & ~own
        if not lost.any():
            continue
        mean = X[seen][:, given] @ covariates[given, j]
        covariates[:, j] = np.nan
        covariates[own, j] = np.linalg.lstsq(X[seen][:, own], mean, rcond=None)[0]
        spread[~own, j] = np.nan
        held += [(str(design.X.columns[c]), str(design.traits[j])) for c in np.flatnonzero(lost)]
    if not held:
        return []
    note = (
        f"{len(held)} fixed effect(s) cannot be told from the rows where a response is known; they are left out, and "
        f"are NaN (first: '{held[0][0]}' on '{held[0][1]}')"
    )
    warn(note, SlamWarning)
    return [note]


def _report_constant(projected: ProjectedMarkers, source: Markers) -> None:
    constant = projected.constant
    if len(constant):
        warn(
            f"{len(constant)} of {projected.m} markers do not vary beyond the covariates in the rows of the fit "
            f"({shortlist(source.names[constant[:6]])}); their effects are 0.",
            SlamWarning,
        )
