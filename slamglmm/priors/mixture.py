"""The mixture prior of `mr_mash`: covariances of an effect across responses, and a grid of their sizes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from ..errors import OptionError
from ..options import shown

# Correlations among all responses of the canonical covariances, besides one response at a time.
CANONICAL_CORRELATIONS = (0.0, 0.25, 0.5, 0.75, 1.0)
# Eigenvalues below this share of the largest count as zero.
RANK_TOLERANCE = 1e-13


@dataclass(frozen=True, eq=False)
class MixturePrior:
    """``beta ~ sum_t w_t N(0, grid_l U_k)``, with or without a component that is zero.

    Attributes
    ----------
    names : tuple of str
        Of the covariances.
    covariances : ndarray, shape (K, p, p)
    grid : ndarray, length L
        Multiples of each covariance.
    null : bool
        Whether there is a component without an effect.
    """

    names: tuple[str, ...]
    covariances: np.ndarray
    grid: np.ndarray
    null: bool

    @property
    def labels(self) -> pd.Index:
        """Of the components: "null", then "name" or "name × variance", covariance by covariance."""
        parts = [
            name if len(self.grid) == 1 and self.grid[0] == 1.0 else f"{name} × {scale:.3g}"
            for name in self.names
            for scale in self.grid
        ]
        return pd.Index(["null", *parts] if self.null else parts, name="component")

    @property
    def n_mix(self) -> int:
        """Number of components."""
        return len(self.names) * len(self.grid) + int(self.null)


def canonical_covariances(p: int, traits: Sequence[Any] | None = None) -> dict[str, np.ndarray]:
    """One response at a time, and equal correlations of 0, 0.25, 0.5, 0.75 and 1 among all.

    Parameters
    ----------
    p : int
    traits : sequence, optional
        Names of the responses.

    Returns
    -------
    dict of str to ndarray (p, p), each with unit maximum on the diagonal
    """
    names = [f"only {trait}" for trait in (range(1, p + 1) if traits is None else traits)]
    out = {name: np.diag((np.arange(p) == j).astype(float)) for j, name in enumerate(names)}
    if p == 1:
        return {"all": np.ones((1, 1))}
    for r in CANONICAL_CORRELATIONS:
        out[f"correlation {r:g}"] = (1.0 - r) * np.eye(p) + r
    return out


def pca_covariances(Z: np.ndarray, components: int = 3) -> dict[str, np.ndarray]:
    """Covariances from the strongest univariate z scores: each principal component alone, and their sum.

    Parameters
    ----------
    Z : ndarray, shape (m, p)
        z scores of every marker for every response.
    components : int
    """
    strong = Z[np.abs(Z).max(axis=1) > 2.0]
    strong = strong if len(strong) > 2 * components else Z
    _, sizes, axes = np.linalg.svd(strong, full_matrices=False)
    rank = min(components, int(np.sum(sizes > RANK_TOLERANCE * sizes[0])))
    out = {f"PC {j + 1}": np.outer(axes[j], axes[j]) for j in range(rank)}
    if rank > 1:
        out["PCs"] = (axes[:rank].T * sizes[:rank] ** 2) @ axes[:rank]
    empirical = strong.T @ strong / len(strong)
    out["empirical"] = empirical
    return {name: U / np.diag(U).max() for name, U in out.items()}


def automatic_grid(effect: np.ndarray, error: np.ndarray, ratio: float = 2.0) -> np.ndarray:
    """Variances from a tenth of the smallest standard error to twice the largest excess of an effect.

    Parameters
    ----------
    effect, error : ndarray, shape (m, p)
        Univariate estimates and their standard errors.
    ratio : float
        Of neighbouring standard deviations.
    """
    smallest = float(error.min()) / 10.0
    excess = float((effect**2 - error**2).max())
    largest = 2.0 * np.sqrt(excess) if excess > 0 else 8.0 * smallest
    steps = int(np.ceil(np.log2(max(largest / smallest, 1.0)) / np.log2(ratio)))
    return (largest * ratio ** np.arange(-steps, 1.0)) ** 2


def read_covariances(covariances: Any, p: int, traits: pd.Index, scores: np.ndarray) -> dict[str, np.ndarray]:
    """The prior covariances a user asked for, checked.

    Parameters
    ----------
    covariances : "canonical", "pca", "canonical+pca", dict of matrices, or list of matrices
    p : int
    traits : pandas.Index, length p
        Labelled matrices are put in this order.
    scores : ndarray, shape (m, p)
        z scores of the markers.
    """
    if isinstance(covariances, str):
        parts = covariances.split("+")
        if not set(parts) <= {"canonical", "pca"}:
            raise OptionError(
                f"covariances must be 'canonical', 'pca', 'canonical+pca', a dict or a list; got {covariances!r}."
            )
        out: dict[str, np.ndarray] = {}
        for part in parts:
            out |= canonical_covariances(p, list(traits)) if part == "canonical" else pca_covariances(scores)
        return out
    if isinstance(covariances, Mapping):
        given = {str(name): matrix for name, matrix in covariances.items()}
    elif isinstance(covariances, Sequence | np.ndarray):
        given = {f"U{i + 1}": matrix for i, matrix in enumerate(covariances)}
    else:
        raise OptionError(f"covariances must be a name, a dict or a list; got {type(covariances).__name__}.")
    if not given:
        raise OptionError("covariances are empty; give at least one matrix.")
    return {name: _checked(name, matrix, p, traits) for name, matrix in given.items()}


def _checked(name: str, matrix: Any, p: int, traits: pd.Index) -> np.ndarray:
    if isinstance(matrix, pd.DataFrame):
        absent = traits.difference(matrix.index).union(traits.difference(matrix.columns))
        if len(absent):
            raise OptionError(f"covariance {name!r} has no row or column for the response {str(absent[0])!r}.")
        matrix = matrix.loc[traits, traits]
    try:
        values = np.array(matrix, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise OptionError(
            f"covariance {name!r} is {shown(matrix)}: expected a {p} x {p} matrix, one row for each response."
        ) from error
    if values.shape != (p, p):
        raise OptionError(f"covariance {name!r} has shape {values.shape}; there are {p} responses.")
    size = np.abs(values).max(initial=0.0)
    if not np.isfinite(values).all() or np.abs(values - values.T).max() > 1e-8 * size:
        raise OptionError(f"covariance {name!r} must be finite and symmetric.")
    lowest = float(np.linalg.eigvalsh(values)[0])
    if lowest < -1e-8 * max(size, 1e-300):
        raise OptionError(
            f"covariance {name!r} is not positive semi-definite: its smallest eigenvalue is {lowest:.3g}."
        )
    return 0.5 * (values + values.T)
