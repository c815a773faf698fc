"""Which variance components data can tell apart from the fixed effects, the residual and each other.

With M the projection that takes the fixed effects off, data know a component only by ``M Z K Z' M`` (restricted
likelihood). It says nothing when that matrix is zero (the fixed effects have absorbed the component), a multiple of M
(it is the residual again), or a combination of the others: then its share of the variance repeats its prior, or where
the search began. The matrices are compared by what they make of a few random vectors, so none of them is formed: a
combination that is not zero almost surely does not send these to zero.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from ..errors import DataError

# Random vectors; with at most so many rows all of them are tried one by one.
PROBES, FEW_ROWS = 3, 32
# Sine of the angle below which two matrices count as one; those that are differ by rounding only.
TOLERANCE = 1e-6

# ``V -> Z K Z' V`` for V (n, c).
Product = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Confounding:
    """What is wrong with each component, shape (n_components,) each; at most one of the three.

    Attributes
    ----------
    absorbed : ndarray of bool
        Nothing is left once the fixed effects are taken off.
    as_residual : ndarray of bool
        A multiple of the residual's.
    tied : ndarray of bool
        A combination of other components (and the residual).
    """

    absorbed: np.ndarray
    as_residual: np.ndarray
    tied: np.ndarray

    @property
    def unidentified(self) -> np.ndarray:
        """Components whose variance the data do not determine, shape (n_components,)."""
        return self.absorbed | self.as_residual | self.tied


def refusal(label: str, absorbed: bool) -> DataError:
    """What to say of a random term that data cannot tell from the fixed effects, or from the residual."""
    if absorbed:
        return DataError(
            f"random term '{label}' cannot be told from the fixed effects: with them taken off nothing of Z K Z' is "
            "left (its group is among them, or all pairs of its levels are equally related), so the data say nothing "
            "about its variance. Leave it out, or leave its group out of the fixed effects."
        )
    return DataError(
        f"random term '{label}' cannot be told from the residual: with the fixed effects taken off Z K Z' is a "
        "multiple of the residual's (one record for each level, and levels equally related), so the data say nothing "
        "about its share of the variance. Add records or relationships, or leave the term out."
    )


def confounding(products: Sequence[Product], diagonals: Sequence[float], basis: np.ndarray) -> Confounding:
    """Judge the components of one set of rows.

    Parameters
    ----------
    products : sequence of callable
    diagonals : sequence of float
        Mean diagonal of each ``Z K Z'``: what counts as zero is relative to it.
    basis : ndarray, shape (n, q)
        Orthonormal, of the fixed effects.
    """
    n = len(basis)
    rows = np.ones((1, n), dtype=bool)
    return confounding_by_pattern(products, np.broadcast_to(diagonals, (1, len(products))), rows, [basis])[0]


def confounding_by_pattern(
    products: Sequence[Product], diagonals: np.ndarray, kept: np.ndarray, bases: Sequence[np.ndarray]
) -> list[Confounding]:
    """Judge the components on several sets of rows, with one product of each kernel for all of them.

    Parameters
    ----------
    products : sequence of callable
        On all n rows.
    diagonals : ndarray, shape (patterns, n_components)
        Mean diagonal of each ``Z K Z'`` on the rows of each pattern.
    kept : ndarray of bool, shape (patterns, n)
    bases : sequence of ndarray, each (rows kept, q)
    """
    n = kept.shape[1]
    size = n if n <= FEW_ROWS else PROBES
    drawn = np.eye(n) if size == n else np.random.default_rng(0).standard_normal((n, size))
    probes = np.zeros((n, len(kept), size))
    for s, (rows, basis) in enumerate(zip(kept, bases, strict=True)):
        probes[rows, s] = _project(drawn[rows], basis)
    images = np.empty((len(products) + 1, *probes.shape))
    images[0] = probes
    for image, product in zip(images[1:], products, strict=True):
        made = product(probes.reshape(n, -1)).reshape(probes.shape)
        image[:] = 0.0
        for s, (rows, basis) in enumerate(zip(kept, bases, strict=True)):
            image[rows, s] = _project(made[rows, s], basis)
    return [_judge(images[:, :, s].reshape(len(images), -1), diagonals[s]) for s in range(len(kept))]


def _project(vectors: np.ndarray, basis: np.ndarray) -> np.ndarray:
    for _ in range(2):  # once more against rounding
        vectors = vectors - basis @ (basis.T @ vectors)
    return vectors


def _judge(images: np.ndarray, diagonals: np.ndarray) -> Confounding:
    """Compare what the residual (first) and the components make of the random vectors, shape (1 + n_components, .)."""
    sizes = np.linalg.norm(images, axis=1)
    m = len(images) - 1
    absorbed = sizes[1:] <= TOLERANCE * diagonals * sizes[0]
    # A random vector keeps a length near one for each row that the fixed effects leave.
    if sizes[0] <= TOLERANCE:
        absorbed[:] = True
    as_residual, tied = np.zeros(m, dtype=bool), np.zeros(m, dtype=bool)
    if absorbed.all():
        return Confounding(absorbed, as_residual, tied)
    units = images / np.where(sizes > 0, sizes, 1.0)[:, None]
    apart = np.linalg.norm(units[1:] - (units[1:] @ units[0])[:, None] * units[0], axis=1)
    as_residual = ~absorbed & (apart <= TOLERANCE)
    left = np.flatnonzero(~absorbed & ~as_residual)
    if len(left) > 1:
        _, values, right = np.linalg.svd(units[np.append(left + 1, 0)].T, full_matrices=False)
        null = right[values <= TOLERANCE, :-1]
        tied[left] = np.any(np.abs(null) > 1e3 * TOLERANCE, axis=0)
    return Confounding(absorbed, as_residual, tied)
