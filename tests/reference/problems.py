"""Tiny problems for tests of the SLAM sampler, made through the public formula."""

import dataclasses

import numpy as np
import pandas as pd

import slamglmm as sg
from slamglmm.design.cis import read_cis_columns
from slamglmm.fitters.slam.problem import build_problem
from slamglmm.linalg.rotation import Rotation
from slamglmm.priors import Priors


def relationship(levels, rank=None, seed=0):
    """A random relationship matrix with unit mean diagonal, singular when ``rank < levels``."""
    root = np.random.default_rng([seed, levels]).standard_normal((levels, levels + 4 if rank is None else rank))
    matrix = root @ root.T
    return matrix / np.mean(np.diag(matrix))


def tiny_frame(n=10, p=3, levels=None, seed=0):
    """The covariates of `tiny_design`, the labels of ``g``, and the generator for its responses."""
    rng = np.random.default_rng([seed, n, p])
    levels = n if levels is None else levels
    labels = [f"i{i:03d}" for i in range(levels)]
    frame = pd.DataFrame(
        {
            "g": [labels[i % levels] for i in range(n)],
            "h": [f"b{i % 3}" for i in range(n)],
            "x": rng.standard_normal(n),
            "w": rng.standard_normal(n),
        }
    )
    return frame, labels, rng


def tiny_design(formula="~ 0 + (1 | g)", n=10, p=3, *, levels=None, rank=None, missing=None, seed=0, responses=None):
    """A design with n rows; ``g`` has a relationship matrix, ``h`` has three levels and none, ``x`` is normal.

    Parameters
    ----------
    levels : int, optional
        Levels of ``g`` (n unless given); more than n leaves some without records.
    rank : int, optional
        Rank of the relationship matrix.
    missing : list of tuple
        (rows, trait) whose cells are missing.
    """
    frame, labels, rng = tiny_frame(n, p, levels, seed)
    levels = len(labels)
    Y = rng.standard_normal((n, p)) if responses is None else np.array(responses, dtype=float)
    for rows, trait in missing or []:
        Y[rows, trait] = np.nan
    K = pd.DataFrame(relationship(levels, rank, seed), labels, labels)
    return sg.design(formula, frame, Y=Y, relmat={"g": K} if "| g" in formula else None)


def tiny_z(n):
    """Dosages, for `tiny_problem`."""
    return np.tile([0.0, 1.0, 2.0, 0.0, 1.0], n)[:n]


def tiny_problem(
    formula="~ 0 + (1 | g)",
    n=10,
    p=3,
    k=2,
    grid=4,
    priors=None,
    factor_formula=None,
    link="identity",
    loadings_on=None,
    cis=None,
    **options,
):
    """`build_problem` of `tiny_design`.

    `factor_formula` and `cis` may name its covariates, `loadings_on` ``t`` of traits; `cis` knows a column ``z``
    besides.
    """
    frame = tiny_frame(n, p, options.get("levels"), options.get("seed", 0))[0]
    factor_design = None if factor_formula is None else sg.design(factor_formula, frame)
    design = tiny_design(formula, n, p, **options)
    trait_data = None if loadings_on is None else pd.DataFrame({"t": 10.0 + np.arange(p) ** 1.5}, index=design.traits)
    frame["z"] = tiny_z(n)
    own = None if cis is None else read_cis_columns(cis, frame, design.rows)
    priors = priors or Priors()
    return build_problem(design, priors, k, grid, link, factor_design, loadings_on, trait_data, cis=own)


def uncollapsed(problem):
    """The same problem with U in the chain: the other scheme, which must give the same posterior."""
    assert problem.collapsed
    assert np.all(problem.grid.residual_share > 0), "a total share of one leaves no residual to condition on"
    assert not problem.cis.n

    def unrotate(cov):
        return dataclasses.replace(cov, outer=problem.rotation)

    return dataclasses.replace(
        problem,
        y=problem.rotation.back(problem.y),
        x=problem.rotation.back(problem.x),
        x_factor=problem.rotation.back(problem.x_factor),
        groups=tuple(dataclasses.replace(group, cov=unrotate(group.cov)) for group in problem.groups),
        factor_cov=unrotate(problem.factor_cov),
        collapsed=False,
        rotation=Rotation(),
    )
