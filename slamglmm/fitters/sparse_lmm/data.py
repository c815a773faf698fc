"""From a design and markers to numbers: which rows, what response, which covariates, what is rotated."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.optimize import brentq, minimize_scalar

from ..._kernels.columns import Columns
from ...design import Design
from ...errors import DataError, OptionError, shortlist
from ...genotypes import Markers
from ...linalg.identifiability import confounding, refusal
from ...linalg.independent import independent_columns, orthonormal_basis
from ...linalg.projection import covariate_basis
from ...linalg.rotation import symmetric_eigen

# Rotated markers larger than this many bytes in memory are refused unless they go to a file.
ROTATED_LIMIT = 4 * 2**30
ROTATION_BLOCK = 2048


@dataclass(frozen=True, eq=False)
class Polygenic:
    """The random effect ``u ~ N(0, v h K)`` beside residuals ``N(0, v (1 - h) / w)``; ``V = U diag(d) U'``.

    Attributes
    ----------
    label : str
    share : float
        h, by REML without markers.
    levels : pandas.Index, length r
    back : ndarray, shape (r, n)
        ``û = back @ R`` for the rotated residual R.
    Z : ndarray, shape (n, b)
        Covariates before the rotation.
    mean_variance : float
        Mean of the diagonal of V.
    """

    label: str
    share: float
    levels: pd.Index
    back: np.ndarray
    Z: np.ndarray
    mean_variance: float


@dataclass(frozen=True, eq=False)
class RegressionData:
    """What the regression is fitted to, in the rows of the marker storage.

    Attributes
    ----------
    markers : Markers
        After picking rows (unless packed), and rotated when there is a random effect.
    source : Markers
        The same before the rotation.
    columns : Columns
    y : ndarray, length n
    Z : ndarray, shape (n, b)
    weights : ndarray, length n, or None
        Zero for rows that are not in the data.
    n_obs : int
        Rows of the design with a response.
    given : Markers
        As the user gave them; row ``everyone[i]`` of it is row i of the design.
    everyone : ndarray of int
    constant : float
        Terms of the bound: ``(sum log w - log |V|) / 2``.
    polygenic : Polygenic or None
    given_offset : ndarray, length n, or None
        Of the linear predictor (binomial family; otherwise y is without it).
    ones : ndarray, length n, or None
        What a column of ones became by the rotation.
    """

    markers: Markers
    source: Markers
    columns: Columns
    y: np.ndarray
    Z: np.ndarray
    weights: np.ndarray | None
    n_obs: int
    given: Markers
    everyone: np.ndarray
    constant: float
    polygenic: Polygenic | None
    given_offset: np.ndarray | None = None
    ones: np.ndarray | None = None

    @property
    def offset(self) -> np.ndarray:
        """Offset of the linear predictor, zeros unless given; length n."""
        return np.zeros(len(self.y)) if self.given_offset is None else self.given_offset

    @property
    def trials(self) -> np.ndarray:
        """Number of trials of each row (binomial family), zero for rows that are not in the data; length n."""
        return np.ones(len(self.y)) if self.weights is None else self.weights

    @property
    def used(self) -> np.ndarray | None:
        """Which rows of the storage are in the data; None for all."""
        return None if self.weights is None or not self.markers.packed else self.weights > 0

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "columns": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self.__dict__["columns"] = self.markers.columns(self.used)


def regression_data(
    design: Design,
    given: Markers,
    everyone: np.ndarray,
    out: str | Path | None,
    family: str,
    copies: int = 1,
    like: RegressionData | None = None,
) -> RegressionData:
    """Take the rows of the design that have a response to the rows of the markers' storage.

    Parameters
    ----------
    design : Design
        With one response.
    given : Markers
    everyone : ndarray of int
        Row of `given` for each row of the design.
    out : path, optional
        File for rotated markers; in memory unless given.
    family : str
    copies : int
        How many responses rotate the markers, each its own way.
    like : RegressionData, optional
        Of another response in the same rows: everything but y is taken from it.

    Raises
    ------
    DataError, OptionError
    """
    assert design.Y is not None
    y = design.Y.to_numpy(dtype=np.float64)[:, 0]
    seen = np.flatnonzero(~np.isnan(y))
    y, Z = y[seen].copy(), design.X.to_numpy(dtype=np.float64)[seen]
    n, b = Z.shape
    if n < np.count_nonzero(independent_columns(Z)) + 2:
        raise DataError(
            f"{n} row(s) with a response are too few for {b} covariate(s) and markers; at least {b + 2} are needed."
        )
    if family == "binomial":
        _check_successes(design, y, None if design.weights is None else design.weights[seen])
    if np.ptp(y) == 0:
        raise DataError(f"response '{design.traits[0]}' is {y[0]:g} in all {n} rows; there is nothing to explain.")
    offset = None if design.offset is None else design.offset[seen]
    if offset is not None and family == "gaussian":
        y, offset = y - offset, None
    at = everyone[seen]
    weights = None if design.weights is None else design.weights[seen]
    if design.terms:
        if family == "binomial":
            raise OptionError("family='binomial' with a random effect is not supported; leave the random effect out.")
        return _rotated(design, given, everyone, seen, y, Z, weights, out, copies)
    constant = 0.0 if weights is None else 0.5 * float(np.log(weights).sum())
    if like is not None:
        placed = np.zeros(given.n) if given.packed else np.empty(n)
        placed[at if given.packed else slice(None)] = y
        return replace(like, y=placed)
    if not given.packed:
        picked = given.take(at)
        return RegressionData(
            picked, picked, picked.columns(), y, Z, weights, n, given, everyone, constant, None, offset
        )
    if len(np.unique(at)) < n:
        assert given.labels is not None
        twice = given.labels[at[pd.Index(at).duplicated()]]
        raise DataError(
            f"data has several rows for the individuals {shortlist(twice.unique())} of the .bed file. Repeated records "
            "need unpacked markers: pass sg.genotypes.open_plink(path).unpacked()."
        )
    whole = np.zeros(given.n)
    whole[at] = 1.0 if weights is None else weights
    spread_y, spread_Z, spread_offset = np.zeros(given.n), np.zeros((given.n, b)), np.zeros(given.n)
    spread_y[at], spread_Z[at], spread_offset[at] = y, Z, 0.0 if offset is None else offset
    plain = n == given.n and weights is None
    columns = given.columns(None if plain else whole > 0)
    return RegressionData(
        given,
        given,
        columns,
        spread_y,
        spread_Z,
        None if plain else whole,
        n,
        given,
        everyone,
        constant,
        None,
        None if offset is None else spread_offset,
    )


def _check_successes(design: Design, y: np.ndarray, trials: np.ndarray | None) -> None:
    """Shares of successes: 0 or 1, or whole successes of whole trials."""
    name = design.traits[0]
    if trials is None:
        if not np.isin(y, (0.0, 1.0)).all():
            raise DataError(
                f"family='binomial' takes a response of 0 and 1, or shares of successes with weights= numbers of "
                f"trials; '{name}' has {shortlist(np.unique(y))}."
            )
        return
    successes = y * trials
    whole = (np.abs(successes - np.rint(successes)) < 1e-6) & (np.rint(trials) == trials)
    if not (whole & (y >= 0) & (y <= 1)).all():
        first = int(np.argmin(whole & (y >= 0) & (y <= 1)))
        raise DataError(
            f"family='binomial' with weights takes shares of successes and numbers of trials; row {first} of "
            f"'{name}' has a share of {y[first]:g} of {trials[first]:g} trials."
        )


def _rotated(
    design: Design,
    given: Markers,
    everyone: np.ndarray,
    seen: np.ndarray,
    y: np.ndarray,
    Z: np.ndarray,
    weights: np.ndarray | None,
    out: str | Path | None,
    copies: int,
) -> RegressionData:
    """Rotate away the random effect: after ``diag(d)^-1/2 U'`` rows are independent again; eq. VB-7."""
    if len(design.terms) > 1 or len(design.terms[0].effects) > 1:
        raise OptionError(
            "sparse_lmm takes one random effect with one column, such as (1 | line); found "
            f"{shortlist(term.label for term in design.terms)}."
        )
    term = design.terms[0]
    n, m = len(y), given.m
    size = 4 * n * m * copies
    if size > ROTATED_LIMIT and out is None:
        raise OptionError(
            f"a random effect needs the markers rotated, as float32: {size / 2**30:.1f} GiB, above the limit of "
            f"{ROTATED_LIMIT / 2**30:.0f} GiB. Give out='file' to keep them on disk, or leave the random effect out."
        )
    root = np.ones(n) if weights is None else np.sqrt(weights)
    loads = term.Z[seen] * root[:, None]
    covariance = loads if term.K is None else loads @ term.K
    product = covariance @ loads.T
    kernel = np.asarray(product.todense() if hasattr(product, "todense") else product)
    found = confounding(
        [kernel.__matmul__], [float(np.diag(kernel).mean())], orthonormal_basis(root[:, None] * Z, root)
    )
    if found.unidentified[0]:
        raise refusal(term.label, absorbed=bool(found.absorbed[0]))
    values, U = symmetric_eigen(kernel)
    y_rotated, Z_rotated = U.T @ (root * y), U.T @ (root[:, None] * Z)
    ones = U.T @ root
    # Least squares first: with a large mean or trend the likelihood would have no digits left.
    Q = covariate_basis(Z_rotated, constant=ones).Q
    rest = y_rotated - Q @ (Q.T @ y_rotated)
    share = reml_share(values, rest - Q @ (Q.T @ rest), Q)
    d = share * values + 1.0 - share
    shrink = 1.0 / np.sqrt(d)
    basis = (U * shrink).T * root
    rotated: np.ndarray = (
        np.empty((m, n), dtype=np.float32)
        if out is None
        else np.memmap(Path(out), dtype=np.float32, mode="w+", shape=(m, n))
    )
    picked = given.unpacked().take(everyone[seen])
    for part, dosages in picked.blocks(ROTATION_BLOCK):
        rotated[part] = (basis @ dosages).T
    back = share * np.asarray(covariance.T @ (U * shrink))
    constant = -0.5 * float(np.log(d).sum()) + float(np.log(root).sum())
    mean_variance = float(np.mean(((U * U) @ d) / root**2))
    polygenic = Polygenic(term.label, share, term.levels, back, Z, mean_variance)
    markers = Markers("float32", n, m, given.names, None, rotated)
    return RegressionData(
        markers, picked, markers.columns(), shrink * y_rotated, shrink[:, None] * Z_rotated, None, n, given,
        everyone, constant, polygenic, ones=shrink * ones,
    )  # fmt: skip


def reml_share(values: np.ndarray, y: np.ndarray, Z: np.ndarray) -> float:
    """REML estimate of h in ``V = h K + (1 - h) I`` from data in K's eigenbasis.

    Parameters
    ----------
    values : ndarray, length n
        Eigenvalues of K.
    y : ndarray, length n
    Z : ndarray, shape (n, b)

    Returns
    -------
    float
        Between 0 and 0.999.
    """
    if Z.shape[1]:
        # An orthonormal basis of the covariates: same criterion up to a constant, and any rank.
        left, sizes, _ = np.linalg.svd(Z, full_matrices=False)
        Z = left[:, sizes > 1e-10 * sizes[0]]
    n, q = Z.shape

    def criterion(h: float) -> float:
        d = h * values + 1.0 - h
        weighted = Z / d[:, None]
        gram = weighted.T @ Z
        cross = weighted.T @ y
        rss = float(y @ (y / d) - cross @ np.linalg.solve(gram, cross)) if q else float(y @ (y / d))
        return float(np.log(d).sum() + np.linalg.slogdet(gram)[1] + (n - q) * np.log(max(rss, 1e-300)))

    def slope(h: float) -> float:
        """Derivative of the criterion, whose zero has more digits than the minimum of the criterion."""
        d, by_h = h * values + 1.0 - h, values - 1.0
        weighted = Z / d[:, None]
        solved, of_gram = y / d, 0.0
        if q:
            gram = weighted.T @ Z
            solved = solved - weighted @ np.linalg.solve(gram, weighted.T @ y)
            of_gram = float(np.trace(np.linalg.solve(gram, (weighted * by_h[:, None]).T @ weighted)))
        squares = max(float(y @ solved), 1e-300)
        return float(np.sum(by_h / d)) - of_gram - (n - q) * float(solved @ (by_h * solved)) / squares

    points = np.concatenate(([0.0], np.linspace(0.02, 0.98, 25), [0.999]))
    heights = [criterion(h) for h in points]
    best = int(np.argmin(heights))
    low, high = points[max(best - 1, 0)], points[min(best + 1, len(points) - 1)]
    if slope(low) < 0.0 < slope(high):
        return float(brentq(slope, low, high, xtol=1e-13))
    found = minimize_scalar(criterion, bounds=(low, high), method="bounded", options={"xatol": 1e-8})
    return float(found.x) if found.fun < heights[best] else float(points[best])
