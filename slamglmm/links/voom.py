"""Log-counts and their precisions from RNA-seq counts, as limma's voom computes them (Law et al. 2014)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from ..design.row_labels import RowLabels
from ..errors import DataError, OptionError, shortlist
from ..options import Options, shown
from .gaussian_weights import GaussianWeights


@dataclass(frozen=True, eq=False)
class Voom:
    """What `voom` makes of counts: responses, and the link that goes with them.

    Attributes
    ----------
    log_cpm : DataFrame, shape (n, p)
        ``log2((count + 0.5) / (library size + 1) * 1e6)``.
    weights : DataFrame, shape (n, p)
        Precision of each value.
    trend : DataFrame
        The curve behind the weights: mean log2 count of each gene, square root of its residual standard deviation,
        and the smoothed one.
    """

    log_cpm: pd.DataFrame
    weights: pd.DataFrame
    trend: pd.DataFrame

    @property
    def link(self) -> GaussianWeights:
        """For ``slam(..., Y=v.log_cpm, link=v.link)``."""
        return GaussianWeights(self.weights)


def voom(counts: Any, design: Any = None, lib_size: Any = None, *, span: float = 0.5) -> Voom:
    """Log2 counts per million with a precision for each value, from the trend of variance on mean.

    Parameters
    ----------
    counts : DataFrame or array, n × p
        Samples × genes.
    design : DataFrame or array, n × b, optional
        Fixed effects of the samples, such as ``slamglmm.design(formula, frame).X``; a common mean unless given. Samples
        go by label, if both have labels.
    lib_size : array or Series of length n, optional
        Library size of each sample, possibly times a normalisation factor; the row sums of the counts unless given.
    span : float
        Share of the genes that each point of the trend looks at.

    Returns
    -------
    Voom

    Raises
    ------
    DataError
        Counts that are missing, negative or of fewer than two genes; no degrees of freedom left.
    OptionError
        A design or library sizes of another length, or zero libraries.
    """
    Options({"span": span}, "voom").number("span", above=0, most=1)
    y = _numbers("counts", counts, 2)
    table = counts if isinstance(counts, pd.DataFrame) else pd.DataFrame(y)
    n, p = y.shape
    if p < 2:
        raise DataError(f"voom: expected at least two genes (columns) for a trend, got {p}.")
    if not (np.isfinite(y).all() and (y >= 0).all()):
        bad = table.columns[~(y >= 0).all(axis=0) | ~np.isfinite(y).all(axis=0)]
        raise DataError(f"voom: counts must be at least 0 and not missing; see {shortlist(bad)}.")
    samples = RowLabels(table.index, None, "counts") if isinstance(counts, pd.DataFrame) else None
    X = np.ones((n, 1)) if design is None else _numbers("design", _lined_up(design, samples, "design"), 2)
    sizes = y.sum(axis=1) if lib_size is None else _numbers("lib_size", _lined_up(lib_size, samples, "lib_size"), 1)
    if X.shape[:1] != (n,) or sizes.shape != (n,):
        raise OptionError(
            f"voom: expected {n} rows of design and {n} library sizes, as the counts have; got {X.shape[:1]} and "
            f"{sizes.shape}."
        )
    if not (sizes > 0).all():
        raise OptionError(f"voom: library sizes must be above 0; sample {np.flatnonzero(~(sizes > 0))[0]} has none.")
    coef, _, rank, _ = np.linalg.lstsq(X, log_cpm := np.log2((y + 0.5) / (sizes[:, None] + 1) * 1e6), rcond=None)
    if rank >= n:
        raise DataError(f"voom: {n} samples and {rank} fixed effects leave nothing to estimate a variance from.")
    fitted = X @ coef
    sigma = np.sqrt(np.sum((log_cpm - fitted) ** 2, axis=0) / (n - rank))
    to_count = np.log2(sizes + 1) - np.log2(1e6)
    seen = y.sum(axis=0) > 0
    trend = _trend(log_cpm.mean(axis=0)[seen] + to_count.mean(), np.sqrt(sigma[seen]), span)
    at = fitted + to_count[:, None]
    weights = np.interp(at, trend["log2_count"], trend["smoothed"]) ** -4
    labels = {"index": table.index, "columns": table.columns}
    trend.index = table.columns[seen][trend.index]
    return Voom(pd.DataFrame(log_cpm, **labels), pd.DataFrame(weights, **labels), trend)


def _numbers(name: str, value: Any, n_dimensions: int) -> np.ndarray:
    """An argument as an array of so many dimensions."""
    try:
        numbers = np.asarray(value, dtype=float)
    except (TypeError, ValueError):
        numbers = np.empty(())
    if numbers.ndim != n_dimensions:
        shape = "samples × genes" if name == "counts" else "one row for each sample"
        raise OptionError(f"voom({name}={shown(value)}): expected numbers, {shape}.")
    return numbers


def _lined_up(table: Any, samples: RowLabels | None, name: str) -> Any:
    """A labelled table in the order of the samples; others as they are."""
    if samples is None or not isinstance(table, pd.DataFrame | pd.Series):
        return table
    return table.iloc[samples.match(table.index, len(table), name).rows]


def _trend(means: np.ndarray, root_sd: np.ndarray, span: float) -> pd.DataFrame:
    """Lowess with R's defaults: three robust passes, points closer than 1 % of the range interpolated."""
    from statsmodels.nonparametric.smoothers_lowess import lowess

    order = np.argsort(means, kind="stable")
    x, y = means[order], root_sd[order]
    smoothed = lowess(y, x, frac=span, it=3, delta=0.01 * np.ptp(x), is_sorted=True, return_sorted=False)
    return pd.DataFrame({"log2_count": x, "root_sd": y, "smoothed": smoothed}, index=order)
