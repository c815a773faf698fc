"""Names for the numbers: draws and means of all chains as one labelled Dataset."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import xarray as xr

from ...design import Design
from ...design.cis import CisColumns
from .chain import ChainRun
from .problem import Problem, factor_columns
from .store import RunFolder


def posterior_dataset(
    problem: Problem,
    design: Design,
    runs: Sequence[ChainRun],
    store: Sequence[str],
    dtype: str,
    folder: RunFolder | None = None,
    factor_design: Design | None = None,
    cis: CisColumns | None = None,
) -> xr.Dataset:
    """Label the draws and means of all chains; draws in a folder stay there until they are looked at."""
    n_kept = min(run.n_draws for run in runs)
    labels = [component.label for component in problem.components]
    traits = list(problem.traits)
    dims = {
        "h2": ("term", "trait"),
        "h2_factor": ("term", "factor"),
        "Lambda": ("factor", "trait"),
        "residual_var": ("trait",),
        "h2_residual": ("term", "trait"),
        "B": ("fixef", "trait"),
        "B_factor": ("fixef_factor", "factor"),
        "cis": ("cis_effect",),
        "loading_effects": ("trait_covariate", "factor"),
        "G_diag": ("term", "trait"),
        "R_diag": ("trait",),
        "Eta": ("row", "trait"),
        "G": ("term", "trait", "trait2"),
        "R": ("trait", "trait2"),
    }
    coords: dict[str, Any] = {
        "chain": np.arange(len(runs)),
        "draw": np.arange(n_kept),
        "term": labels,
        "trait": traits,
        "factor": np.arange(1, problem.most_factors + 1),
        "fixef": list(design.X.columns),
    }
    if problem.trait_covariates.q:
        coords["trait_covariate"] = list(problem.trait_covariates.names)
    if cis is not None and "cis" in store:
        coords["cis_effect"] = [f"{trait}: {covariate}" for trait, covariate in cis.effects]
    x_factor = np.zeros((design.n, 0))
    if factor_design is not None and problem.n_factor_effects:
        names = factor_columns(factor_design, [])
        coords["fixef_factor"] = names
        # Rows without data may lack the covariates of the factors.
        x_factor = factor_design.X[names].set_axis(factor_design.rows).reindex(design.rows).to_numpy()
    if {"Eta", "Eta_mean", "Data_mean"} & set(store):
        coords["row"] = np.asarray(design.X.index)
    if {"G", "R"} & set(store):
        coords["trait2"] = traits
    for variable in problem.link_variables if "links" in store else ():
        dims[variable.name] = tuple(dim for dim, _ in variable.dims)
        coords |= {dim: list(of) for dim, of in variable.dims if dim != "trait"}
    data: dict[str, Any] = {}
    level_dims = {}
    for component in problem.components:
        dim = "level" if len(problem.components) == 1 else f"level_{component.label}"
        level_dims[component.label] = dim
        if {"U", "U_mean", "U_var"} & set(store):
            coords[dim] = np.asarray(design.terms[component.term].levels)
        dims[f"U_{component.label}"] = (dim, "trait")
    if folder is not None:
        on_disk = folder.open_draws({name: ("chain", "draw", *of) for name, of in dims.items()})
        # An interrupt may have left chains that are not kept.
        kept = on_disk.isel(chain=[run.chain for run in runs], draw=slice(n_kept))
        data |= {str(name): values for name, values in kept.items()}
    for name in runs[0].drawn:
        values = _one_after_the_other([run.drawn[name][:n_kept] for run in runs])
        data[name] = (("chain", "draw", *dims[name]), values)
    means = [run.running for run in runs if run.running is not None]
    if means and {"U_mean", "Eta_mean"} & set(store):
        effects = [running.effects(problem) for running in means]
        if "Eta_mean" in store:
            rows = [_fitted_rows(problem, design, x_factor, cis, *pair) for pair in zip(runs, effects, strict=True)]
            data["Eta_mean"] = (("chain", "row", "trait"), _one_after_the_other(rows).astype(dtype, copy=False))
        if "U_mean" in store:
            data |= _by_level("U_mean", labels, level_dims, effects, dtype)
    if means and means[0].data is not None:
        expected = np.full((len(means), design.n, problem.p), np.nan, dtype=dtype)
        expected[:, problem.active] = [running.expected_data(problem) for running in means]
        data["Data_mean"] = (("chain", "row", "trait"), expected)
    if means and "U_var" in store:
        spread = [running.effect_variances(problem) for running in means]
        data |= _by_level("U_var", labels, level_dims, spread, dtype)
    used = max(len(run.state.kappa) for run in runs)
    return xr.Dataset(data, coords=coords).isel(factor=slice(used))


def _one_after_the_other(chains: Sequence[np.ndarray]) -> np.ndarray:
    """Stack the chains, one without a copy."""
    return chains[0][None] if len(chains) == 1 else np.stack(chains)


def _by_level(
    name: str,
    labels: Sequence[str],
    level_dims: Mapping[str, str],
    chains: Sequence[Sequence[np.ndarray]],
    dtype: str,
) -> dict[str, Any]:
    """Posterior means or variances of every component, (chain, level, trait)."""
    return {
        f"{name}_{label}": (
            ("chain", level_dims[label], "trait"),
            _one_after_the_other([of_chain[m] for of_chain in chains]).astype(dtype, copy=False),
        )
        for m, label in enumerate(labels)
    }


def _fitted_rows(
    problem: Problem,
    design: Design,
    x_factor: np.ndarray,
    cis: CisColumns | None,
    run: ChainRun,
    effects: Sequence[np.ndarray],
) -> np.ndarray:
    """Posterior mean of the fitted values of all rows of the design, shape (rows, p)."""
    assert run.running is not None
    X = design.X.to_numpy()
    fitted = np.empty((len(X), problem.p))
    fitted[problem.active] = run.running.fitted(problem)
    silent = np.setdiff1d(np.arange(len(X)), problem.active)
    if len(silent):
        # Rows without data have no factor residual to learn about: fixed and random effects only.
        fitted[silent] = X[silent] @ run.running.fixed_effects(problem)
        if problem.n_factor_effects:
            fitted[silent] += x_factor[silent] @ run.running.factor_fixed_effects(problem)
        if cis is not None:
            rest = np.zeros((len(silent), problem.p))
            cis.add(rest, run.running.cis_effects(problem), cis.of_rows()[silent], problem.traits)
            fitted[silent] += rest
        for component, effect in zip(problem.components, effects, strict=True):
            term = design.terms[component.term]
            fitted[silent] += term.M[silent, component.effect, None] * effect[term.codes[silent]]
    return fitted if design.offset is None else fitted + design.offset[:, None]
