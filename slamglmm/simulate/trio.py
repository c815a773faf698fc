"""Families of three, as in the simulations of REHE."""

from __future__ import annotations

import numpy as np
import pandas as pd
from scipy import sparse

from ..options import Options
from ..relmat import Relmat
from .simulated import Simulated

# Kinship of the three members under the conditions of the REHE paper: close, distant, mixed.
KINSHIPS = {
    1: [[1.0, 0.8, 0.2], [0.8, 1.0, 0.4], [0.2, 0.4, 1.0]],
    2: [[1.0, 0.05, 0.05], [0.05, 1.0, 0.1], [0.05, 0.1, 1.0]],
    3: [[1.0, 0.1, 0.05], [0.1, 1.0, 0.3], [0.05, 0.3, 1.0]],
}
# Relationships between families under condition 3, so that the kinship is dense.
BACKGROUND = 0.001


def trio(
    *,
    families: int = 100,
    condition: int = 1,
    kinship_var: float = 0.1,
    residual: float = 0.1,
    n_traits: int = 1,
    seed: int | np.random.Generator | None = None,
) -> Simulated:
    """Families of three without fixed effects: ``y = u + e`` with ``u ~ N(0, kinship_var K)``.

    Parameters
    ----------
    families : int
        n is three times as many.
    condition : {1, 2, 3}
        Close relatives, distant relatives, or mixed relatives with small random relationships between families (K is
        then dense).
    kinship_var, residual : float
        Variances.
    n_traits : int
        Independent traits on the same people.
    seed : int, numpy.random.Generator or None
        The same seed gives the same data.

    Returns
    -------
    Simulated
        `frame` has id and family; `truth` holds variances (Series: id, Residual).

    Raises
    ------
    OptionError
        For a size, condition or variance that cannot be.

    References
    ----------
    Yue, K. et al. (2021). REHE: fast variance components estimation for linear mixed models. Genetic Epidemiology 45,
    891-905.
    """
    check = Options(locals(), "simulate.trio")
    check.whole("families", least=2)
    check.whole("condition", least=min(KINSHIPS), most=max(KINSHIPS))
    check.whole("n_traits", least=1)
    check.number("kinship_var", "residual", least=0)
    check.seed(generator=True)
    rng = np.random.default_rng(seed)
    n = 3 * families
    ids = pd.Index([f"p{i + 1:0{len(str(n))}d}" for i in range(n)])
    block = np.array(KINSHIPS[condition])
    if condition == 3:
        noise = rng.uniform(-BACKGROUND, BACKGROUND, (n, n))
        same = np.arange(n)[:, None] // 3 == np.arange(n) // 3
        K = np.where(same, np.kron(np.eye(families), block), (noise + noise.T) / 2)
        u = np.linalg.cholesky(K) @ rng.standard_normal((n, n_traits))
        relmat = Relmat(ids, K, "id")
    else:
        u = np.linalg.cholesky(block) @ rng.standard_normal((families, 3, n_traits))
        u = u.reshape(n, n_traits)
        relmat = Relmat(ids, sparse.csr_array(sparse.kron(sparse.eye_array(families), block, format="csr")), "id")
    y = np.sqrt(kinship_var) * u + np.sqrt(residual) * rng.standard_normal((n, n_traits))
    frame = pd.DataFrame({"id": ids, "family": np.repeat([f"f{i + 1}" for i in range(families)], 3)})
    truth = {"variances": pd.Series({"id": kinship_var, "Residual": residual})}
    traits = [f"trait{j + 1}" for j in range(n_traits)]
    return Simulated(frame, pd.DataFrame(y, columns=traits), {"id": relmat}, "~ 0 + (1 | id)", truth)
