"""Run the chains: in this process or in others, from the start or from where they stopped."""

from __future__ import annotations

import os
import shutil
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import pandas as pd
import xarray as xr

from ... import __version__
from ...design import Design
from ...design.cis import CisColumns
from ...design.magnitudes import refuse_extreme_responses
from ...errors import (
    ConvergenceWarning,
    FewTraitsWarning,
    FitError,
    OptionError,
    SlamWarning,
    StorageWarning,
    warn,
)
from ...linalg.threads import memory_size
from ...links import LinkChoice, Regression, kept_by_links
from ...options import Options
from ...priors import Priors, share_grid
from ...results import load
from ...results.base import refuse_not_finite
from ...results.curves import CurveBasis
from ...results.data_scale import TraitScale
from ...results.posterior import ComponentLabel, SlamResult
from ..monitor import ignore_interrupts, interrupts_ignored, monitor
from .chain import ChainRun, Schedule, run_chain
from .draws import DEFAULT_STORE, draw_bytes, draw_shapes
from .labelling import posterior_dataset
from .problem import Problem, build_problem
from .remarks import factors_in_use, on_few_traits, on_independent_slopes, on_slopes_far_from_zero, remarks_on_draws
from .store import AGAIN, RunFolder, fingerprint, in_its_folder

# Draws of more than this are announced before the run.
LARGE_BYTES = 2**30


def _run_in_worker(*args: object) -> ChainRun:
    ignore_interrupts()
    return run_chain(*args)  # type: ignore[arg-type]


def run_chains(
    problem: Problem,
    schedule: Schedule,
    seeds: Sequence[np.random.SeedSequence] | None,
    previous: Sequence[ChainRun] | None,
    progress: bool | None,
    folder: RunFolder | None = None,
) -> list[ChainRun]:
    """Run all chains; bits do not depend on ``n_jobs`` or ``n_threads``.

    Warns
    -----
    ConvergenceWarning
        The run was interrupted; the draws so far are kept, chains cut to the same length.
    """
    chains = len(seeds or previous or [])
    n_jobs = _jobs(schedule, chains)
    threads = schedule.n_threads or _default_threads(problem, n_jobs)
    total = schedule.iterations if previous is None else schedule.draws * schedule.thin

    def run_all(run: Callable[[list[tuple]], list[ChainRun]]) -> list[ChainRun]:
        with monitor(chains, total, progress, f"slam, {chains} chain(s)") as tickers:
            first = seeds if seeds is not None else [None] * chains
            before = previous if previous is not None else [None] * chains
            stores = [None if folder is None else folder.chain(c) for c in range(chains)]
            return run(
                [(problem, schedule, first[c], before[c], stores[c], tickers[c], threads) for c in range(chains)]
            )

    if n_jobs == 1:
        runs = run_all(lambda tasks: [run_chain(*task) for task in tasks])
    else:
        from joblib import Parallel, delayed

        try:
            with Parallel(n_jobs=n_jobs) as parallel:
                with interrupts_ignored():
                    parallel(delayed(ignore_interrupts)() for _ in range(n_jobs))
                runs = run_all(lambda tasks: parallel(delayed(_run_in_worker)(*task) for task in tasks))
        except BrokenProcessPool as error:
            raise FitError(
                f"a process that ran a chain was killed or crashed, most often because memory ran out (n_jobs={n_jobs} "
                "chains at the same time). "
                + (
                    "Give out='folder', so that draws stream to disk and the same call goes on where it was, or a "
                    "smaller n_jobs."
                    if folder is None
                    else f"{AGAIN} A smaller n_jobs takes less memory and gives the same draws."
                )
            ) from error
    kept = _longest_rectangle([run.n_draws for run in runs])
    if not kept:
        raise KeyboardInterrupt("interrupted before the first kept draw")
    runs = [runs[c] for c in kept]
    shortest = min(run.n_draws for run in runs)
    if len(runs) < chains or shortest < schedule.draws:
        warn(
            f"interrupted: {shortest} of {schedule.draws} draws kept in {len(runs)} of {chains} chain(s). "
            + ("fit.extend(draws) goes on from here." if folder is None else "The same call goes on from here."),
            ConvergenceWarning,
        )
    return runs


def _jobs(schedule: Schedule, chains: int) -> int:
    """Chains that run at the same time."""
    return min(schedule.n_jobs if schedule.n_jobs > 0 else os.cpu_count() or 1, chains)


def _longest_rectangle(lengths: Sequence[int]) -> list[int]:
    """Chains to keep after an interrupt: most draws in all when chains are cut to the same length."""
    best, kept = 0, []
    for length in lengths:
        chosen = [c for c, other in enumerate(lengths) if other >= length]
        if length * len(chosen) > best:
            best, kept = length * len(chosen), chosen
    return kept


def _default_threads(problem: Problem, n_jobs: int) -> int:
    """Threads pay only when there are blocks enough to share; chains in parallel come first."""
    cores = os.cpu_count() or 1
    work = problem.p * problem.n * (problem.b + problem.n_factors)
    return max(1, cores // n_jobs) if work > 2e7 else 1


@dataclass
class Chains:
    """Where the chains stand, so that a result can go on; the problem is built again after loading from disk."""

    design: Design
    model: dict[str, Any]
    schedule: Schedule
    runs: list[ChainRun]
    problem: Problem | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "problem": None}

    def extend(self, result: SlamResult, draws: int, progress: bool | None = None) -> SlamResult:
        """A new result with ``draws`` more draws from each chain."""
        schedule = replace(self.schedule, draws=draws)
        problem = self.problem
        if problem is None:
            with warnings.catch_warnings():
                # The first fit has said what there is to say about these data.
                warnings.simplefilter("ignore", SlamWarning)
                problem = build_problem(self.design, **self.model)
        _check_size(problem, schedule, len(self.runs), None, result.posterior.nbytes)
        runs = run_chains(problem, schedule, None, self.runs, progress)
        others = (self.model.get("factor_design"), self.model.get("cis"))
        more = posterior_dataset(problem, self.design, runs, schedule.store, schedule.store_dtype, None, *others)
        old = result.posterior
        more["draw"] = np.arange(old.sizes["draw"], old.sizes["draw"] + more.sizes["draw"])
        drawn = [name for name, values in more.items() if "draw" in values.dims]
        joined = xr.concat([old[drawn], more[drawn]], dim="draw", join="exact")
        joined = joined.assign({name: values for name, values in more.items() if name not in drawn})
        chains = Chains(self.design, self.model, self.schedule, _without_draws(runs), problem)
        extended = result.with_draws(joined, chains, max(run.seconds for run in runs), joined.sizes["draw"])
        # What the first draws showed may not hold of all of them.
        steps = self.model["h2_grid"]
        before = (*remarks_on_draws(old, problem, steps), *factors_in_use(old, problem))
        now = remarks_on_draws(joined, problem, steps)
        _warn(now)
        kept = [note for note in result.notes if note not in before]
        return replace(extended, notes=(*now, *factors_in_use(joined, problem), *kept))


@in_its_folder
def fit_slam(
    design: Design,
    *,
    priors: Priors,
    n_factors: int | Literal["adaptive"] | None,
    factor_design: Design | None,
    markers: Mapping[str, pd.DataFrame],
    markers_on: Literal["both", "factors", "traits"],
    loadings_on: str | None,
    trait_data: pd.DataFrame | None,
    cis: CisColumns | None,
    link: LinkChoice,
    h2_grid: int,
    missing_memory: float,
    draws: int,
    burn: int,
    thin: int,
    chains: int,
    seed: int | None,
    n_threads: int | None,
    n_jobs: int,
    store: str | Sequence[str] | None,
    store_dtype: str,
    out: RunFolder | None,
    progress: bool | None,
) -> SlamResult:
    """Fit the model to a design; arguments as in `slamglmm.slam`, but for ``out``, whose folder is held meanwhile."""
    _check_options(locals())
    if design.Y is not None:
        refuse_extreme_responses(design.Y)
    store = (*DEFAULT_STORE, *kept_by_links(link)) if store is None else store
    schedule = Schedule(
        draws, burn, thin, (store,) if isinstance(store, str) else tuple(store), store_dtype, n_threads, n_jobs
    )
    begin = time.perf_counter()
    options: dict[str, Any] = {"priors": priors, "n_factors": n_factors, "h2_grid": h2_grid, "link": link}
    options["missing_memory"] = missing_memory
    model = {**options, "factor_design": factor_design, "loadings_on": loadings_on, "trait_data": trait_data}
    model["cis"] = cis
    if factor_design is not None:
        options["factor_formula"] = factor_design.formula
    if loadings_on is not None:
        options["loadings_on"] = loadings_on
    if markers and markers_on != "both":
        options["markers_on"] = markers_on
        model["only_on"] = dict.fromkeys(markers, markers_on)
    call: dict[str, Any] = {}
    root = np.random.SeedSequence(seed)
    if out is not None:
        decides = {**_priors_on_the_grid(priors, design, h2_grid), "n_factors": n_factors, "h2_grid": h2_grid}
        decides |= {"link": link, "missing_memory": missing_memory, "markers": markers, "markers_on": markers_on}
        decides |= {"factor_formula": factor_design, "loadings_on": loadings_on, "trait_data": trait_data}
        decides |= {"cis": cis, "draws": draws, "burn": burn, "thin": thin, "chains": chains}
        decides |= {"store": schedule.store, "store_dtype": store_dtype}
        call = fingerprint(design, decides)
        if out.begun:
            root = np.random.SeedSequence(out.recognise(call, seed))
            if out.finished:
                return load(out.path)
    problem = build_problem(design, **model)
    refuse_not_finite("slam", {"the scale of the traits": problem.scale, "the scaled traits": problem.y})
    few, on_model = on_few_traits(problem), on_independent_slopes(design) + on_slopes_far_from_zero(design)
    _warn(few, FewTraitsWarning)
    _warn(on_model)
    _check_size(problem, schedule, chains, out)
    if out is not None:
        if not out.begun:
            out.begin(call, root.entropy)
        out.create_arrays(draw_shapes(problem, schedule.store), store_dtype, chains, draws)
    runs = run_chains(problem, schedule, root.spawn(chains), None, progress, out)
    components = tuple(
        ComponentLabel(c.label, design.terms[c.term].label, c.effect, c.unit) for c in problem.components
    )
    grid = pd.DataFrame(problem.grid.shares, columns=[c.label for c in problem.components])
    grid["prior_traits"] = np.exp(problem.log_prior_traits)
    grid["prior_factors"] = np.exp(problem.log_prior_factors)
    options = {
        **options,
        "n_factors": max(len(run.state.kappa) for run in runs),
        "draws": min(run.n_draws for run in runs),
        "burn": burn,
        "thin": thin,
        "chains": chains,
        "seed": root.entropy,
        "store": schedule.store,
        "store_dtype": store_dtype,
    }
    posterior = posterior_dataset(problem, design, runs, schedule.store, store_dtype, out, factor_design, cis)
    on_draws = remarks_on_draws(posterior, problem, h2_grid)
    _warn(on_draws)
    fit = SlamResult(
        design=design,
        options=options,
        version=__version__,
        seconds=time.perf_counter() - begin,
        notes=(*design.notes, *on_draws, *few, *on_model, *factors_in_use(posterior, problem), *problem.notes),
        posterior=posterior,
        grid=grid,
        components=components,
        chains=Chains(design, model, schedule, _without_draws(runs), problem),
        traits=pd.Index(problem.traits, dtype=design.X.columns.dtype),
        factor_design=factor_design,
        curve_bases=tuple(_curve_bases(problem, design)),
        trait_design=problem.trait_covariates.design,
        data_scales=_data_scales(problem),
        markers=markers,
        cis_columns=cis,
        prior_only=tuple((problem.components[m].label, problem.traits[j]) for m, j in np.argwhere(problem.prior_only)),
    )
    if out is not None and fit.options["draws"] == draws and len(runs) == chains:
        fit.finish(out.path)
    return fit


def _check_options(given: Mapping[str, Any]) -> None:
    """Options of a wrong kind or size; `Schedule` and `build_problem` check those that are theirs."""
    check = Options(given)
    check.kind("priors", Priors, "slamglmm.Priors(...), such as slamglmm.Priors(loadings='infinite')")
    check.whole("chains", least=1)
    check.whole("n_threads", least=1, optional=True)
    check.jobs("n_jobs", "chains")
    check.seed()
    check.choice("markers_on", ("both", "factors", "traits"))
    check.flag("progress", optional=True)
    store = given["store"]
    if store is not None and not (
        isinstance(store, str | list | tuple | set | frozenset | np.ndarray | pd.Index)
        and len(store)
        and all(isinstance(name, str) for name in store)
    ):
        raise check.refuse("store", "names of what to keep, such as ('h2', 'G_diag')", "Leave it out for the default.")


def _priors_on_the_grid(priors: Priors, design: Design, h2_grid: int) -> dict[str, Any]:
    """The priors, where those given as functions are told by their values: two functions may have one name."""
    out: dict[str, Any] = {"priors": priors}
    if not isinstance(h2_grid, int | np.integer) or h2_grid < 2:
        return out  # refused later
    grid = share_grid(sum(len(term.effects) for term in design.terms), int(h2_grid), include_one=True)
    for name in ("h2", "h2_factors"):
        density = getattr(priors, name)
        if callable(density):
            # The last point need not be on the grid of the fit, and a function that fails on the grid is refused later.
            with np.errstate(all="ignore"), suppress(Exception):
                out[f"priors.{name}"] = np.asarray(density(grid.shares), dtype=float)
    return out


def _warn(lines: Sequence[str], category: type[SlamWarning] = SlamWarning) -> None:
    for line in lines:
        warn(line, category)


def _curve_bases(problem: Problem, design: Design) -> Iterator[CurveBasis]:
    """What turns latent traits that are coefficients into curves again."""
    for part in problem.links:
        link = part.link.link
        if isinstance(link, Regression):
            assert link.individuals is not None
            individuals = link.individuals[design.rows]
            for made in link.designs:
                times = link.times(made)
                yield CurveBasis(made, link.individual, individuals, times[times[link.individual].isin(individuals)])


def _data_scales(problem: Problem) -> tuple[TraitScale | None, ...]:
    """How the data of each trait follow from it, in the user's order."""
    scales: list[TraitScale | None] = [None] * (problem.p if problem.links else 0)
    for number, part in enumerate(problem.links):
        names = {v.key: v.name for v in problem.link_variables if v.part == number}
        for j, scale in enumerate(part.data_scales):
            variables = {key: (names[key], j) for key in part.parameters_by_trait}
            scales[problem.order[part.traits.start + j]] = TraitScale(scale, variables)
    return tuple(scales)


def _check_size(
    problem: Problem, schedule: Schedule, chains: int, out: RunFolder | None, earlier_bytes: int = 0
) -> None:
    """Say how much room the draws take before a run that needs a lot of it; refuse one that has no room at all.

    Raises
    ------
    OptionError
        More than the memory, or the disk, of this machine.
    """
    one = draw_bytes(problem, schedule.store, schedule.store_dtype)
    sizes = {name: size * int(schedule.draws) * int(chains) for name, size in one.items()}
    total = sum(sizes.values())
    largest = ", ".join(f"{name} {_room(size)}" for name, size in sizes.items() if size > 0.05 * total)
    fewer = f"name fewer in store= ({largest})" + (
        ", or halve them by store_dtype='float32'." if schedule.store_dtype == "float64" else "."
    )
    if out is None:
        # Several chains are put together while each is still there, and in the process that drew it if that is another;
        # so are earlier draws and those that extend them.
        copies = 1 if chains == 1 else 2 if _jobs(schedule, chains) == 1 else 3
        peak = total * copies + (2 * earlier_bytes + total if earlier_bytes else 0)
        have, place = memory_size(), "memory"
        need = f"{_room(total)} of memory" + (f", and {_room(peak)} when they are put together" if peak > total else "")
    else:
        peak, have, place = total, float(shutil.disk_usage(out.path).total), "disk"
        need = f"{_room(total)} on disk"
    if peak > have:
        raise OptionError(
            f"draws={schedule.draws} of {chains} chain(s) will take {need}; this machine has {_room(have)} of {place}. "
            f"Take fewer draws (thin= makes each count for more), {fewer}"
            + (" Draws stream to disk with out='folder'." if out is None else "")
        )
    if total > LARGE_BYTES:
        where = "of memory: stream them to disk with out='folder', or" if out is None else "on disk:"
        warn(f"the draws will take {_room(total)} {where} {fewer}", StorageWarning)


def _room(size: float) -> str:
    """Bytes in words."""
    return f"{size / 2**40:.1f} TiB" if size >= 2**40 else f"{size / 2**30:.1f} GiB"


def _without_draws(runs: Sequence[ChainRun]) -> list[ChainRun]:
    return [replace(run, drawn={}) for run in runs]
