"""Twins: additive genes, shared household, own environment."""

from __future__ import annotations

import numpy as np
import pandas as pd
from scipy import sparse

from ..options import Options
from ..relmat import Relmat
from .simulated import Simulated


def ace(
    *,
    pairs: int = 150,
    identical: float = 0.5,
    additive: float = 0.4,
    common: float = 0.2,
    residual: float = 0.4,
    n_traits: int = 1,
    seed: int | np.random.Generator | None = None,
) -> Simulated:
    """Pairs of twins, each pair a household: ``y = Xb + a + c + e``.

    Parameters
    ----------
    pairs : int
        Pairs of twins; n is twice as many.
    identical : float
        Share of identical pairs (relationship 1), the first ones; the others share half their genes.
    additive, common, residual : float
        Variances of genes A, household C and residual E, in every trait.
    n_traits : int
        Independent traits.
    seed : int, numpy.random.Generator or None
        The same seed gives the same data.

    Returns
    -------
    Simulated
        `frame` has id, household, age (shared by a pair) and sex; `relmat` the sparse A of the ids. `truth` holds
        variances (Series: id, household, Residual) and B (fixef x trait).

    Raises
    ------
    OptionError
        For a size, share or variance that cannot be.
    """
    check = Options(locals(), "simulate.ace")
    check.whole("pairs", least=2)
    check.whole("n_traits", least=1)
    check.number("identical", least=0, most=1)
    check.number("additive", "common", "residual", least=0)
    check.seed(generator=True)
    rng = np.random.default_rng(seed)
    n = 2 * pairs
    shared = np.where(np.arange(pairs) < round(identical * pairs), 1.0, 0.5)
    ids = np.array([f"p{i + 1:0{len(str(n))}d}" for i in range(n)])
    A = sparse.block_diag([np.array([[1.0, s], [s, 1.0]]) for s in shared], format="csr")
    frame = pd.DataFrame(
        {
            "id": ids,
            "household": np.repeat([f"h{i + 1:0{len(str(pairs))}d}" for i in range(pairs)], 2),
            "age": np.repeat(rng.standard_normal(pairs), 2),
            "sex": rng.choice(["f", "m"], n),
        }
    )
    X = np.column_stack([np.ones(n), frame["age"], frame["sex"] == "m"])
    B = rng.standard_normal((3, n_traits)) * np.array([[1.0], [0.4], [0.3]])
    # a second twin shares the genes of the first in part, and draws the rest
    first, second = rng.standard_normal((2, pairs, n_traits))
    genes = np.empty((n, n_traits))
    genes[::2] = first
    genes[1::2] = shared[:, None] * first + np.sqrt(1 - shared**2)[:, None] * second
    homes = np.repeat(rng.standard_normal((pairs, n_traits)), 2, axis=0)
    y = X @ B + np.sqrt(additive) * genes + np.sqrt(common) * homes
    y += np.sqrt(residual) * rng.standard_normal((n, n_traits))
    traits = [f"trait{j + 1}" for j in range(n_traits)]
    truth = {
        "variances": pd.Series({"id": additive, "household": common, "Residual": residual}),
        "B": pd.DataFrame(B, index=["Intercept", "age", "sex[T.m]"], columns=traits),
    }
    relmat = {"id": Relmat(pd.Index(ids), sparse.csr_array(A), "id")}
    formula = "~ age + sex + (1 | id) + (1 | household)"
    return Simulated(frame, pd.DataFrame(y, columns=traits), relmat, formula, truth)
