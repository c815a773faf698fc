"""From a design and markers to a `SparseLmmResult`."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.special import expit, softmax

from ... import __version__
from ..._kernels.columns import add_columns
from ...design import Design
from ...design.aliasing import leave_out_aliased
from ...design.magnitudes import refuse_unusable
from ...design.row_labels import RowLabels
from ...errors import ConvergenceWarning, DataError, OptionError, SlamWarning, shortlist, warn
from ...genotypes import Markers, read_markers
from ...linalg.projection import ProjectedMarkers, covariate_effects, project_markers
from ...linalg.threads import BlockPool, single_threaded_blas
from ...options import Options, shown
from ...results.base import refuse_not_finite
from ...results.variational import SparseLmmFits, SparseLmmResult
from .binomial import Logistic, fit_logistic_grid, working_response
from .data import RegressionData, regression_data
from .posterior import LOGISTIC_VAR, Estimate, FittedRegression, estimate_of
from .spike_slab import Fits, SpikeSlab, fit, start

# Expected numbers of causal markers that the climb starts from.
STARTS = (2.0, 20.0, 200.0)
# Share of the variance that markers explain at the start.
START_PVE = 0.5
# Points of the grid, evenly spaced in log odds from one causal marker to a tenth of them.
GRID_POINTS = 20
# Responses beyond this size, or below its inverse, have squares that a computer cannot hold.
LARGEST = 1e140
# Below this many genotypes a second thread costs more than it brings.
THREADS_PAY = 20_000_000


def fit_sparse_lmm(
    design: Design,
    markers: Any,
    whose: RowLabels,
    *,
    family: str,
    log_odds: Any,
    pi: str | float,
    prior_var: str | float,
    residual_var: str | float,
    dof: str,
    standardize: bool,
    out: str | Path | None,
    tol: float,
    max_iter: int,
    seed: int | None,
    n_threads: int | None,
    n_jobs: int,
) -> SparseLmmResult | SparseLmmFits:
    """Fit to a design, rows of `markers` being those of `whose`; arguments as in `slamglmm.sparse_lmm`."""
    begun = time.perf_counter()
    given = locals()
    options = {key: value for key, value in given.items() if key not in ("design", "markers", "whose", "begun")}
    from joblib import Parallel, delayed

    _check_options(options)
    traits = [] if design.Y is None else list(design.traits)
    if not traits:
        raise OptionError("sparse_lmm needs a response: name it on the left of '~', or pass Y=.")
    source = read_markers(markers)
    offset = _offsets(log_odds, source.names)
    everyone, note = whose.match(
        source.labels, source.n, "markers", rows=design.rows, repeats=True, by_position=source.by_position
    )
    if note is not None:
        design = replace(design, notes=(*design.notes, note))
    with single_threaded_blas():
        shared = _shared(design, source, everyone, options)

        def one(j: int) -> SparseLmmResult:
            same_rows = shared.get(_pattern(design, j))
            return _fit_trait(_of_trait(design, j), source, everyone, offset, options, same_rows, len(traits), j)

        # Threads, not processes: sweeps do not hold the interpreter, and the genotypes stay one copy.
        fits = Parallel(n_jobs if len(traits) > 1 else 1, require="sharedmem")(
            delayed(one)(j) for j in range(len(traits))
        )
    aliased = _aliased(design)
    fits = [replace(fit, notes=(*fit.notes, *aliased[_pattern(design, j)])) for j, fit in enumerate(fits)]
    unfinished = [trait for trait, fit in zip(traits, fits, strict=True) if not fit.converged]
    if unfinished:
        which = f" for {shortlist(unfinished)}" if len(traits) > 1 else ""
        warn(f"sparse_lmm has not converged in {max_iter} sweeps{which}; raise max_iter or tol.", ConvergenceWarning)
    if len(traits) == 1:
        return fits[0]
    return SparseLmmFits(
        design=design,
        options=options,
        version=__version__,
        seconds=time.perf_counter() - begun,
        # those that all responses have in common, and those of collinear covariates
        notes=(*fits[0].notes[: len(design.notes) + 1], *(note for notes in aliased.values() for note in notes)),
        fits=dict(zip(traits, fits, strict=True)),
    )


@dataclass(frozen=True)
class Shared:
    """What responses that are seen in the same rows have in common."""

    data: RegressionData
    projected: ProjectedMarkers


def _of_trait(design: Design, j: int) -> Design:
    assert design.Y is not None
    return design if design.Y.shape[1] == 1 else replace(design, Y=design.Y.iloc[:, [j]])


def _pattern(design: Design, j: int) -> bytes:
    """Which rows have response j."""
    assert design.Y is not None
    return design.Y.iloc[:, j].notna().to_numpy().tobytes()


def _aliased(design: Design) -> dict[bytes, list[str]]:
    """Notes on collinear covariates, for each pattern of missing responses."""
    assert design.Y is not None
    X, out = design.X.to_numpy(dtype=np.float64), dict[bytes, list[str]]()
    for j, trait in enumerate(design.traits):
        pattern = _pattern(design, j)
        if pattern not in out:
            where = "" if design.Y.shape[1] == 1 else f"response '{trait}': "
            seen = design.Y.iloc[:, j].notna().to_numpy()
            out[pattern] = leave_out_aliased(X[seen], list(design.X.columns), where)[1]
    return out


def _shared(design: Design, source: Markers, everyone: np.ndarray, options: Mapping[str, Any]) -> dict[bytes, Shared]:
    """Markers lined up and projected once for each pattern of missing responses that comes twice."""
    from joblib import effective_n_jobs

    assert design.Y is not None
    if design.terms or options["family"] != "gaussian":
        return {}
    patterns = [_pattern(design, j) for j in range(design.Y.shape[1])]
    out = {}
    with BlockPool(effective_n_jobs(options["n_jobs"])) as pool:
        for j, pattern in enumerate(patterns):
            if pattern not in out and patterns.count(pattern) > 1:
                data = regression_data(_of_trait(design, j), source, everyone, None, options["family"])
                out[pattern] = Shared(data, _project(data, options, pool))
    return out


def _project(data: RegressionData, options: Mapping[str, Any], pool: BlockPool) -> ProjectedMarkers:
    projected = project_markers(data.columns, data.Z, data.weights, options["standardize"], pool, data.ones)
    _report_constant(projected, data.source)
    return projected


def _fit_trait(
    design: Design,
    source: Markers,
    everyone: np.ndarray,
    offset: np.ndarray,
    options: Mapping[str, Any],
    shared: Shared | None,
    n_traits: int,
    j: int,
) -> SparseLmmResult:
    """Fit one response, the j-th of `n_traits`."""
    begun = time.perf_counter()
    out = options["out"]
    if out is not None and n_traits > 1:
        out = Path(out).with_name(f"{Path(out).stem}_{j + 1}{Path(out).suffix}")
    like = None if shared is None else shared.data
    data = regression_data(design, source, everyone, out, options["family"], n_traits, like)
    n_threads = options["n_threads"]
    if n_threads is None:
        alone = n_traits == 1 or options["n_jobs"] == 1
        pays = alone and data.markers.n * data.markers.m > THREADS_PAY
        n_threads = min(os.cpu_count() or 1, len(STARTS)) if pays else 1
    with BlockPool(n_threads) as pool:
        if options["family"] == "binomial":
            estimate, projected, starts, grid = _binomial(data, offset, options, pool)
        else:
            projected = _project(data, options, pool) if shared is None else shared.projected
            estimate, starts, grid = _gaussian(data, projected, offset, options, pool, str(design.traits[0]))
    notes = (*design.notes, *_notes(data, starts))
    return _result(design, data, projected, estimate, offset, starts, grid, options, notes, time.perf_counter() - begun)


def _check_options(options: Mapping[str, Any]) -> None:
    check = Options(options)
    check.choice("family", ("gaussian", "binomial"), "For counts and categories see slamglmm.slam(link=).")
    check.choice("dof", ("ml", "reml"))
    check.number("pi", above=0, below=1, words=("em", "grid"))
    check.number("prior_var", "residual_var", above=0, words=("em",))
    check.number("tol", above=0)
    check.whole("max_iter", least=1)
    check.flag("standardize")
    check.path("out")
    check.seed()
    check.whole("n_threads", least=1, optional=True)
    check.jobs("n_jobs", "responses")
    if options["family"] == "binomial" and options["residual_var"] != "em":
        raise OptionError("residual_var has no meaning for family='binomial'; leave it out.")


def _offsets(log_odds: Any, names: pd.Index) -> np.ndarray:
    """Prior log odds of each marker relative to pi."""
    if log_odds is None:
        return np.zeros(len(names))
    if isinstance(log_odds, pd.Series):
        absent = names.difference(log_odds.index)
        if len(absent):
            raise DataError(f"log_odds lacks {len(absent)} of {len(names)} markers: {shortlist(absent)}.")
        log_odds = log_odds.reindex(names).to_numpy()
    try:
        values = np.asarray(None if isinstance(log_odds, bool) else log_odds, dtype=np.float64)
    except (TypeError, ValueError):
        values = np.full((), np.nan)
    if values.ndim == 0 and not np.isfinite(values):
        raise OptionError(
            f"log_odds={shown(log_odds)}: expected a finite number, or one for each marker ({len(names)})."
        )
    if values.shape not in ((), (len(names),)):
        raise DataError(f"log_odds has shape {values.shape}; expected one number a marker ({len(names)}).")
    if not np.isfinite(values).all():
        raise DataError("log_odds must be finite; leave a marker out to give it no prior probability.")
    return np.array(np.broadcast_to(values, len(names)), dtype=np.float64)


def _logit(share: float) -> float:
    return float(np.log(share / (1.0 - share)))


def _starting_shares(m: int, pi: str | float) -> list[float]:
    if not isinstance(pi, str):
        return [float(pi)]
    return list(dict.fromkeys(min(0.5, count / m) for count in STARTS))


def _starting_a(share: float, mean_square: float, m: int) -> float:
    """Relative prior variance at which markers explain START_PVE of the variance."""
    return START_PVE / (1.0 - START_PVE) / max(share * m * mean_square, 1e-300)


def _gaussian(
    data: RegressionData,
    projected: ProjectedMarkers,
    offset: np.ndarray,
    options: Mapping[str, Any],
    pool: BlockPool,
    trait: str,
) -> tuple[Estimate, pd.DataFrame, pd.DataFrame | None]:
    m = len(projected.order)
    if m == 0:
        raise DataError(f"none of the {data.markers.m} markers varies once the covariates are accounted for.")
    n_eff = float(data.n_obs - (projected.basis.rank if options["dof"] == "reml" else 0))
    learn = {name for name, key in (("v", "residual_var"), ("a", "prior_var"), ("pi", "pi")) if options[key] == "em"}
    constant = data.constant - 0.5 * projected.basis.logdet
    model = SpikeSlab(projected, offset, n_eff, constant, frozenset(learn))
    residual = projected.project(data.y[None])
    whole = data.y if data.weights is None else data.y * data.weights  # as the residual is
    refuse_unusable(whole[:, None], residual.T, [trait], LARGEST, data.weights is not None)
    rss = float(projected.inner(residual)[0, 0])
    v = (1.0 - START_PVE) * rss / data.n_obs if options["residual_var"] == "em" else float(options["residual_var"])
    mean_square = float(projected.gram.sum()) / (m * data.n_obs)

    def slab(share: float) -> float:
        fixed = options["prior_var"]
        return _starting_a(share, mean_square, m) if fixed == "em" else float(fixed)

    if options["pi"] == "grid":
        return _over_grid(model, data, v, slab, options, pool)
    shares = _starting_shares(m, options["pi"])
    fits = start(
        model,
        np.tile(data.y, (len(shares), 1)),
        np.full(len(shares), v),
        np.array([slab(share) for share in shares]),
        np.array([_logit(share) for share in shares]),
    )
    fit(model, fits, tol=options["tol"], max_iter=options["max_iter"], pool=pool)
    starts = _starts_table(shares, fits)
    best = int(starts["elbo"].to_numpy().argmax())
    return estimate_of(model, fits, best), starts, None


def _starts_table(shares: list[float], fits: Fits) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "start_pi": shares,
            "elbo": [trace[-1] for trace in fits.elbo],
            "sweeps": fits.sweeps,
            "pi": expit(fits.theta),
            "converged": fits.converged,
        }
    )


def fit_grid(
    model: SpikeSlab,
    y: np.ndarray,
    log_odds: np.ndarray,
    v: np.ndarray,
    a: np.ndarray,
    *,
    tol: float,
    max_iter: int,
    alpha: float | None = None,
    accelerate: bool = True,
    pool: BlockPool | None = None,
) -> Fits:
    """Fit every point of a grid of prior log odds twice: from the start, then from the best of them.

    Parameters
    ----------
    model : SpikeSlab
        Its `learn` is without "pi".
    y : ndarray, length n
    log_odds, v, a : ndarray, length T
        Natural log odds, and where v and a start.
    tol, max_iter, alpha, accelerate, pool
        As in `spike_slab.fit` and `spike_slab.start`.
    """
    Y = np.tile(y, (len(log_odds), 1))
    first = start(model, Y, v, a, log_odds, alpha)
    fit(model, first, tol=tol, max_iter=max_iter, accelerate=accelerate, pool=pool)
    best = int(np.argmax([trace[-1] for trace in first.elbo]))
    T = len(log_odds)
    again = start(model, Y, np.full(T, first.v[best]), np.full(T, first.a[best]), log_odds, alpha)
    again.alpha[:], again.mu[:], again.logit[:] = first.alpha[best], first.mu[best], first.logit[best]
    again.residual[:], again.carried[:] = first.residual[best], 0.0
    fit(model, again, tol=tol, max_iter=max_iter, accelerate=accelerate, pool=pool)
    again.sweeps += first.sweeps
    return again


def _grid_log_odds(m: int) -> np.ndarray:
    return np.linspace(_logit(1.0 / max(m, 3)), _logit(0.1 if m > 20 else 0.5), GRID_POINTS)


def _over_grid(
    model: SpikeSlab, data: RegressionData, v: float, slab: Any, options: Mapping[str, Any], pool: BlockPool
) -> tuple[Estimate, pd.DataFrame, pd.DataFrame]:
    m = len(model.markers.order)
    log_odds = _grid_log_odds(m)
    shares = expit(log_odds)
    fits = fit_grid(
        model,
        data.y,
        log_odds,
        np.full(GRID_POINTS, v),
        np.array([slab(share) for share in shares]),
        tol=options["tol"],
        max_iter=options["max_iter"],
        pool=pool,
    )
    points = [estimate_of(model, fits, t) for t in range(GRID_POINTS)]
    averaged, grid = _averaged(points, log_odds, fits.sweeps)
    return averaged, _starts_table(list(shares), fits), grid


def _averaged(points: list[Estimate], log_odds: np.ndarray, sweeps: np.ndarray) -> tuple[Estimate, pd.DataFrame]:
    """The posterior averaged over prior log odds with weights from the bounds, and the table of them."""
    height = np.array([point.elbo[-1] for point in points])
    weight = softmax(height)
    v, a = (np.array([getattr(point, name) for point in points]) for name in ("v", "a"))
    best = points[int(height.argmax())]
    coef = weight @ np.array([point.coef for point in points])
    square = weight @ np.array([point.variance + point.coef**2 for point in points])
    shares = expit(log_odds)
    grid = pd.DataFrame(
        {
            "log_odds": log_odds,
            "pi": shares,
            "elbo": height,
            "weight": weight,
            "residual_var": v,
            "prior_var": a,
            "sweeps": sweeps,
        }
    )
    averaged = replace(
        best,
        pip=weight @ np.array([point.pip for point in points]),
        coef=coef,
        variance=np.maximum(square - coef**2, 0.0),
        v=float(weight @ v),
        a=float(weight @ a),
        theta=_logit(float(weight @ shares)),
        converged=all(point.converged for point, w in zip(points, weight, strict=True) if w > 1e-3),
    )
    return averaged, grid


def _binomial(
    data: RegressionData, offset: np.ndarray, options: Mapping[str, Any], pool: BlockPool
) -> tuple[Estimate, ProjectedMarkers, pd.DataFrame, pd.DataFrame | None]:
    rows = None if data.weights is None else (data.weights > 0).astype(float)
    plain = project_markers(data.columns, data.Z, rows, options["standardize"], pool)
    m = len(plain.order)
    if m == 0:
        raise DataError(f"none of the {data.markers.m} markers varies once the covariates are accounted for.")
    _report_constant(plain, data.source)
    scale = plain.scale if options["standardize"] else None
    mean_square = float(plain.gram.sum()) / (m * data.n_obs)
    learn = frozenset(name for name, key in (("a", "prior_var"), ("pi", "pi")) if options[key] == "em")
    tol, max_iter = options["tol"], options["max_iter"]

    def slab(share: float) -> float:
        fixed = options["prior_var"]
        return _starting_a(share, mean_square, m) * LOGISTIC_VAR if fixed == "em" else float(fixed)

    def run(share: float) -> Logistic:
        made = Logistic(data, offset, learn, slab(share), _logit(share), scale=scale)
        made.fit(tol, max_iter)
        return made

    if options["pi"] == "grid":
        log_odds = _grid_log_odds(m)
        shares = list(expit(log_odds))
        slabs = np.array([slab(share) for share in shares])
        runs = fit_logistic_grid(
            data, offset, learn, log_odds, slabs, tol=tol, max_iter=max_iter, scale=scale, pool=pool
        )
    else:
        shares = _starting_shares(m, options["pi"])
        runs = pool.run(run, shares)
    starts = pd.concat([_starts_table([share], run.fits) for share, run in zip(shares, runs, strict=True)])
    starts = starts.reset_index(drop=True)
    points = [estimate_of(run.model, run.fits, 0) for run in runs]
    best = int(starts["elbo"].to_numpy().argmax())
    if options["pi"] != "grid":
        return points[best], runs[best].model.markers, starts, None
    averaged, grid = _averaged(points, log_odds, starts["sweeps"].to_numpy())
    return averaged, runs[best].model.markers, starts, grid


def _report_constant(projected: ProjectedMarkers, source: Markers) -> None:
    constant = projected.constant
    if 0 < len(constant) < projected.m:
        warn(
            f"{len(constant)} of {projected.m} markers do not vary beyond the covariates in the rows of the fit "
            f"({shortlist(source.names[constant[:6]])}); their PIP is 0.",
            SlamWarning,
        )


def _notes(data: RegressionData, starts: pd.DataFrame) -> tuple[str, ...]:
    notes = [f"markers held as {data.markers.kind}, {data.markers.nbytes / 2**20:.1f} MiB"]
    unseen = len(data.everyone) - data.n_obs
    if unseen:
        notes.append(f"{unseen} row(s) without a response are predicted, not fitted")
    if data.polygenic is not None:
        notes.append(f"share of '{data.polygenic.label}' by REML without markers; markers rotated to float32")
    spread = float(starts["elbo"].max() - starts["elbo"].min())
    if len(starts) > 1 and "log_odds" not in starts:
        notes.append(f"best of {len(starts)} starts, whose bounds differ by {spread:.3g}")
    return tuple(notes)


def _result(
    design: Design,
    data: RegressionData,
    projected: ProjectedMarkers,
    estimate: Estimate,
    offset: np.ndarray,
    starts: pd.DataFrame,
    grid: pd.DataFrame | None,
    options: Mapping[str, Any],
    notes: tuple[str, ...],
    seconds: float,
) -> SparseLmmResult:
    numbers = {"elbo": estimate.elbo, "pip": estimate.pip, "coef": estimate.coef, "coef_sd": estimate.variance}
    refuse_not_finite("sparse_lmm", {**numbers, "residual_var": estimate.v, "prior_var": estimate.a})
    binomial = options["family"] == "binomial"
    names = data.source.names
    regression = FittedRegression(data, projected.scale, projected.weights if binomial else None, offset, estimate)
    scaled = estimate.coef * projected.scale
    target = data.y - projected.fitted(scaled[None])[0]
    if binomial:
        target += working_response(data, projected.weights) - data.y
    covariates, covariates_sd = _covariates(projected, estimate, target, design.X.shape[1])
    means = data.source.means(data.used)
    effects = np.zeros((1, data.given.n))
    add_columns(data.given.columns(fill=means), scaled[None], np.empty(0), effects)
    fitted = design.X.to_numpy(dtype=np.float64) @ np.nan_to_num(covariates) + effects[0, data.everyone]
    random = None
    if data.polygenic is not None:
        values = data.polygenic.back @ (target - data.Z @ np.nan_to_num(covariates))
        random = pd.Series(values, index=data.polygenic.levels, name=data.polygenic.label)
        fitted += values[design.terms[0].codes]
    if design.offset is not None:
        fitted = fitted + design.offset
    return SparseLmmResult(
        design=design,
        options=dict(options),
        version=__version__,
        seconds=seconds,
        notes=notes,
        elbo=estimate.elbo,
        converged=estimate.converged,
        covariates=covariates[:, None],
        covariates_sd=covariates_sd[:, None],
        marker_means=means,
        fitted_values=fitted[:, None],
        pip=pd.Series(estimate.pip, index=names, name="pip"),
        coef=pd.Series(scaled, index=names, name="coef"),
        coef_sd=pd.Series(np.sqrt(estimate.variance) * projected.scale, index=names, name="coef_sd"),
        residual_var=1.0 if binomial else estimate.v,
        prior_var=estimate.a,
        pi=float(expit(estimate.theta)),
        grid=grid,
        starts=starts,
        random=random,
        share=None if data.polygenic is None else data.polygenic.share,
        family=options["family"],
        regression=regression,
    )


def _covariates(
    projected: ProjectedMarkers, estimate: Estimate, target: np.ndarray, b: int
) -> tuple[np.ndarray, np.ndarray]:
    """Posterior mean and standard deviation of the effects of the b columns of Z; eq. VB-6."""
    basis = projected.basis
    mean, sd = np.full(b, np.nan), np.full(b, np.nan)
    mean[basis.kept] = covariate_effects(basis, target[None], projected.root_weights)[0]
    inverse = np.linalg.inv(basis.triangle) if basis.rank else np.zeros((0, 0))
    on_markers = projected.projections @ inverse.T * projected.scale[:, None]
    covariance = estimate.v * inverse @ inverse.T + (on_markers.T * estimate.variance) @ on_markers
    sd[basis.kept] = np.sqrt(np.diag(covariance))
    return mean, sd
