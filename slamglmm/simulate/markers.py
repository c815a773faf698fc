"""Genotypes in linkage disequilibrium, block by block, in memory or straight into a .bed file."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.special import ndtri

from ..genotypes import write_plink
from ..options import Options
from .simulated import Simulated

# Markers simulated at a time.
CHUNK = 2000


@dataclass(frozen=True, eq=False, repr=False)
class SimulatedMarkers(Simulated):
    """Simulated data with markers, ready for ``fitter(formula, frame, markers=markers)``.

    Attributes
    ----------
    markers : pandas.DataFrame (n x m, int8, -128 where missing) or pathlib.Path of a .bed file
    """

    markers: Any


def genotype_blocks(
    n: int, m: int, rng: np.random.Generator, ld: float, ld_block: int, missing: float
) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """First marker, dosages (n, markers) and observed genotypes (int8, -128 where missing), chunk by chunk.

    Two haplotypes each: a Gaussian chain with correlation `ld` between neighbours of a block, cut at the allele's
    frequency, which is uniform between 0.05 and 0.5.
    """
    per_chunk = max(ld_block, CHUNK // ld_block * ld_block)
    innovation = np.float32(np.sqrt(1.0 - ld**2))
    for start in range(0, m, per_chunk):
        size = min(per_chunk, m - start)
        cut = ndtri(rng.uniform(0.05, 0.5, size)).astype(np.float32)
        dosage = np.empty((size, n), dtype=np.int8)
        chain = np.empty(2 * n, dtype=np.float32)
        for k in range(size):
            noise = rng.standard_normal(2 * n, dtype=np.float32)
            if (start + k) % ld_block == 0:
                chain = noise
            else:
                chain *= np.float32(ld)
                chain += innovation * noise
            carries = chain < cut[k]
            dosage[k] = carries[:n].view(np.int8) + carries[n:].view(np.int8)
        observed = dosage
        if missing:
            observed = np.where(rng.random((size, n)) < missing, np.int8(-128), dosage)
        yield start, dosage.T, observed.T


def draw_markers(
    n: int,
    m: int,
    causal: np.ndarray,
    rng: np.random.Generator,
    *,
    ids: pd.Index,
    ld: float,
    ld_block: int,
    missing: float,
    bed: str | Path | None,
) -> tuple[Any, np.ndarray]:
    """Markers as a DataFrame or a .bed file, and the complete dosages (n, causal) of some of them."""
    names = pd.Index([f"m{k + 1}" for k in range(m)])
    kept = np.empty((n, len(causal)))

    def observed() -> Iterator[np.ndarray]:
        for start, dosage, seen in genotype_blocks(n, m, rng, ld, ld_block, missing):
            here = np.flatnonzero((causal >= start) & (causal < start + dosage.shape[1]))
            kept[:, here] = dosage[:, causal[here] - start]
            yield seen

    if bed is not None:
        write_plink(bed, observed(), ids, names)
        return Path(bed), kept
    table = np.empty((n, m), dtype=np.int8, order="F")
    filled = 0
    for block in observed():
        table[:, filled : filled + block.shape[1]] = block
        filled += block.shape[1]
    return pd.DataFrame(table, index=ids, columns=names, copy=False), kept


def refuse(fitter: str, given: dict[str, Any]) -> None:
    """Options that cannot be, one message each."""
    check = Options(given, f"simulate.{fitter}")
    check.whole("n", least=2)
    check.whole("n_markers", "n_traits", "ld_block", least=1)
    check.whole("covariates")
    check.whole("causal", most=int(given["n_markers"]), advice="They are among the n_markers markers.")
    check.number("h2", "ld", "missing", least=0, below=1)
    check.seed(generator=True)
