"""Simulation-based calibration (Talts et al. 2018, arXiv 1804.06788) of chains from their start.

Parameters are drawn from the prior and data given them; a chain that knows the data only then gives draws of the
posterior. Over many such fits the rank of each true quantity among its draws is uniform if the sampler, its start and
its burn-in are right. A case is a problem and, where it is not the Gaussian one, a way to simulate it.
"""

import dataclasses

import numpy as np
import scipy.stats

from slamglmm.fitters.slam.draws import Snapshot
from slamglmm.fitters.slam.state import start_state
from slamglmm.fitters.slam.sweep import sweep
from slamglmm.linalg.threads import BlockPool, single_threaded_blas

from .geweke import Joint


def gaussian(problem, rng):
    """Parameters from the prior and data given them: the problem with these data, and the true state."""
    truth = Joint(problem).draw(rng)
    return dataclasses.replace(problem, y=truth.y.copy()), truth


def linked(problem, rng):
    """The same with links, whose data are theirs."""
    joint = Joint(problem)
    truth = joint.draw(rng)
    return joint.problem, truth


def quantities(problem, state):
    """What is ranked, by name: numbers that do not depend on the labels and signs of factors."""
    snapshot = Snapshot(problem, state)
    *G, R = snapshot.covariances()
    h2 = snapshot.h2()
    out = {"tau 0": state.tau[0], "tau 1": state.tau[1], "R 0,0": R[0, 0], "R 0,1": R[0, 1]}
    for m, matrix in enumerate(G):
        out |= {
            f"h2 {m} of 0": h2[m, 0],
            f"h2 {m} of 1": h2[m, 1],
            f"G {m} 0,0": matrix[0, 0],
            f"G {m} 0,1": matrix[0, 1],
        }
    columns = problem.covariates
    through = state.coef[0, problem.b :] @ state.coef_factor
    for q, name in enumerate(columns.names):
        direct = state.coef[0, : problem.b][columns.trait == q].sum()
        out[f"total effect of {name} on 0"] = direct + through[columns.factor == q].sum()
    for e in range(problem.cis.n):
        out[f"cis effect {e}"] = state.cis[e]
    for variable in problem.link_variables:
        if variable.key not in problem.links[variable.part].likelihood.flat:
            values = state.links[variable.part][variable.key].flat
            # The first cut point is always zero.
            out[f"{variable.name} of the first"] = values[1 if variable.key == "cuts" else 0]
    return out


def ranks(problem, *, fits, seed, draws=59, burn=120, thin=6, simulate=gaussian):
    """Ranks of the true quantities among ``draws`` thinned draws, and effective draws of each.

    Returns
    -------
    ranks : dict of str to ndarray of int, shape (fits,)
        From 0 to ``draws``; ties are broken at random.
    """
    rng, pool, found = np.random.default_rng(seed), BlockPool(1), []
    for _ in range(fits):
        given, truth = simulate(problem, rng)
        target = quantities(given, truth)
        state = start_state(given, np.random.SeedSequence(int(rng.integers(2**63))))
        below, ties = dict.fromkeys(target, 0), dict.fromkeys(target, 0)
        with single_threaded_blas():
            for i in range(burn + draws * thin):
                sweep(given, state, pool)
                if i >= burn and (i - burn + 1) % thin == 0:
                    for name, value in quantities(given, state).items():
                        below[name] += value < target[name]
                        ties[name] += value == target[name]
        found.append({name: below[name] + rng.integers(ties[name] + 1) for name in target})
    return {name: np.array([one[name] for one in found]) for name in found[0]}


def uniformity(ranks, draws=59, bins=10):
    """p value of a chi-square test that ranks are uniform on 0 .. draws."""
    counts = np.bincount(np.asarray(ranks) * bins // (draws + 1), minlength=bins)
    return float(scipy.stats.chisquare(counts).pvalue)
