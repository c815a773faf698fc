"""Kinship and blocks in the data: what a model with one of them makes of it, and a model with both."""

import numpy as np
import pytest

import slamglmm as sg

N_REPLICATES = 6


def errors(seed):
    """Root mean square errors of the covariances among traits, for fits with both effects and with one."""
    sim = sg.simulate.slam(
        families=25, per_family=5, n_traits=12, n_factors=3, factor_h2=0.4, resid_h2=0.3, second="block", n_second=15,
        second_h2=0.3, seed=seed,
    )  # fmt: skip
    truth = {f"G_{term}": values.to_numpy() for term, values in sim.truth["G"].items()} | {
        "R": sim.truth["R"].to_numpy()
    }
    out = {}
    for name, terms in {"both": ("animal", "block"), "kinship": ("animal",), "block": ("block",)}.items():
        formula = "~ 1 + " + " + ".join(f"(1 | {term})" for term in terms)
        relmat = {term: sim.relmat[term] for term in terms if term in sim.relmat}
        fit = sg.slam(
            formula, sim.frame, Y=sim.Y, relmat=relmat, n_factors=5, h2_grid=10, draws=400, burn=300, thin=2, chains=1,
            seed=seed, progress=False,
        )  # fmt: skip
        found = {f"G_{term}": fit.G(term).to_numpy() for term in terms} | {"R": fit.R().to_numpy()}
        out[name] = {
            key: np.sqrt(np.mean((found.get(key, np.zeros_like(value)) - value) ** 2)) for key, value in truth.items()
        }
    return out


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::slamglmm.errors.ScaleWarning")
def test_both_effects_are_estimated_better_than_either_alone():
    """Kinship, block and residual covariances, over replicates: no error larger than with an effect left out."""
    replicates = [errors(seed) for seed in range(N_REPLICATES)]
    mean = {
        name: {key: float(np.mean([one[name][key] for one in replicates])) for key in replicates[0][name]}
        for name in replicates[0]
    }
    for name, of_model in mean.items():
        print(name, {key: round(value, 3) for key, value in of_model.items()})
    for key in ("G_animal", "G_block", "R"):
        for other in ("kinship", "block"):
            assert mean["both"][key] <= mean[other][key], (key, other, mean)
