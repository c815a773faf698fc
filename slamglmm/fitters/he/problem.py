"""From a `Design` to what the moments are taken of: whitened rows, a basis of X, residuals, spread terms."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
from scipy import sparse

from ...design import Design
from ...design.aliasing import leave_out_aliased
from ...design.magnitudes import refuse_unusable
from ...errors import DataError, shortlist
from ...linalg.independent import column_basis, independent_columns
from .markers import MarkerTerm
from .sources import ArraySource, Source
from .spread import Component, Spread, components_of, families

RESIDUAL = "Residual"
# Responses beyond this size, or below its inverse, have squared variances that a computer cannot hold.
LARGEST = 1e70


@dataclass(frozen=True, eq=False)
class Problem:
    """Everything a method needs, rows multiplied by the square root of their weights.

    Attributes
    ----------
    y : ndarray, n x t
    x : ndarray, n x b
    kept : ndarray of bool, length b
        Columns of x that are not combinations of earlier ones.
    basis : ndarray, n x m
        Q, orthonormal, spanning the columns of x; ``x[:, kept] = Q triangle``.
    triangle : ndarray, m x m
    root : ndarray, length n
        Square roots of the weights.
    residuals : ndarray, n x t
        ``(I - QQ') y``.
    terms : tuple of Spread
    components : tuple of Component
        Unknowns of the terms; markers and the residual are not among them.
    markers : tuple of MarkerTerm
        Components ``W W'/m`` that are never formed.
    traits : tuple of str
    x_names : tuple of str
    log_weights : float
        Sum of the logarithms of the observation weights.
    """

    y: np.ndarray
    x: np.ndarray
    kept: np.ndarray
    basis: np.ndarray
    triangle: np.ndarray
    root: np.ndarray
    residuals: np.ndarray
    terms: tuple[Spread, ...]
    components: tuple[Component, ...]
    traits: tuple[str, ...]
    x_names: tuple[str, ...]
    markers: tuple[MarkerTerm, ...] = ()
    log_weights: float = 0.0
    notes: tuple[str, ...] = field(default=())

    @property
    def n(self) -> int:
        """Number of rows."""
        return len(self.x)

    @property
    def m(self) -> int:
        """Rank of X."""
        return self.basis.shape[1]

    @property
    def t(self) -> int:
        """Number of traits."""
        return self.y.shape[1]

    @property
    def names(self) -> tuple[str, ...]:
        """Residual first, then the components, then the markers."""
        return (RESIDUAL, *(c.label for c in self.components), *(m.label for m in self.markers))

    @cached_property
    def fingerprint(self) -> str:
        """Of basis and residuals: moments add up only when these agree."""
        digest = hashlib.blake2b(self.basis.tobytes(), digest_size=12)
        digest.update(self.residuals.tobytes())
        return digest.hexdigest()

    @cached_property
    def families(self) -> np.ndarray:
        """Family of each row."""
        if self.markers:
            return np.zeros(self.n, dtype=np.intp)
        return families(self.terms, self.n)

    def take(self, rows: np.ndarray, residuals: np.ndarray | None = None) -> Problem:
        """The same model for some rows, projected anew.

        Parameters
        ----------
        rows : ndarray of int
        residuals : ndarray, rows x t, optional
            Use these with an empty basis instead (residuals of a fit to all rows).
        """
        y, x, root = self.y[rows], self.x[rows], self.root[rows]
        kept = np.zeros(x.shape[1], dtype=bool) if residuals is not None else independent_columns(x, root)
        basis, triangle = column_basis(x, kept, root)
        return Problem(
            y=y,
            x=x,
            kept=kept,
            basis=basis,
            triangle=triangle,
            root=root,
            residuals=project(basis, y) if residuals is None else residuals,
            terms=tuple(term.take(rows) for term in self.terms),
            components=self.components,
            traits=self.traits,
            x_names=self.x_names,
        )


def build_problem(
    design: Design, markers: tuple[MarkerTerm, ...] = (), response: bool = True, where: str = ""
) -> Problem:
    """Lay out a design.

    Parameters
    ----------
    design : Design
        Without missing responses: of traits that are known in the same rows.
    markers : tuple of MarkerTerm
    response : bool
        False when a distance takes the place of the response.
    where : str
        Of which traits, for the start of notes.

    Raises
    ------
    DataError
        No response, fewer rows than fixed effects, or a response that the fixed effects explain exactly.
    """
    if design.Y is None:
        if response:
            raise DataError(
                "he() needs a response: write it left of '~', or pass Y= (rows of the frame x traits) or distance=."
            )
        y = np.zeros((design.n, 0))
        traits: tuple[str, ...] = ("distance",)
    else:
        y = design.Y.to_numpy(dtype=float)
        traits = tuple(map(str, design.Y.columns))
    if design.offset is not None:
        y = y - design.offset[:, None]
    x = design.X.to_numpy(dtype=float)
    x_names = tuple(map(str, design.X.columns))
    if design.n <= x.shape[1]:
        raise DataError(
            f"{design.n} rows cannot estimate {x.shape[1]} fixed effects and a variance; "
            "more rows than fixed effects are needed."
        )
    kept, notes = leave_out_aliased(x, x_names, where)
    root = np.ones(design.n) if design.weights is None else np.sqrt(design.weights)
    if design.weights is not None:
        y, x = y * root[:, None], x * root[:, None]
    basis, triangle = column_basis(x, kept, root)
    residuals = project(basis, y)
    refuse_unusable(y, residuals, traits[: y.shape[1]], LARGEST, design.weights is not None)
    terms = _spreads(design, root)
    return Problem(
        y=y,
        x=x,
        kept=kept,
        basis=basis,
        triangle=triangle,
        root=root,
        residuals=residuals,
        terms=terms,
        components=components_of(terms),
        traits=traits,
        x_names=x_names,
        markers=markers,
        log_weights=0.0 if design.weights is None else float(np.log(design.weights).sum()),
        notes=tuple(notes),
    )


def project(basis: np.ndarray, y: np.ndarray) -> np.ndarray:
    """``(I - QQ') y``, twice, so that a large mean leaves no trace."""
    for _ in range(2):
        y = y - basis @ (basis.T @ y)
    return np.ascontiguousarray(y)


def _spreads(design: Design, root: np.ndarray) -> tuple[Spread, ...]:
    out: list[Spread] = []
    for term in design.terms:
        codes = np.asarray(term.codes, dtype=np.intp)
        kernel: Any = term.K
        if isinstance(kernel, np.ndarray):
            kernel = ArraySource(kernel)
        elif kernel is not None and not isinstance(kernel, Source):
            kernel = sparse.csr_array(kernel)
        levels = term.levels
        if kernel is None and len(np.unique(codes)) < 2:
            raise DataError(
                f"random term '{term.label}' has a single level ({shortlist(levels)}): its variance cannot be "
                "estimated. Leave the term out."
            )
        space = next(
            (s.space for s in out if len(s.levels) == len(levels) and np.array_equal(s.codes, codes)), len(out)
        )
        out.append(
            Spread(
                term.label,
                term.group,
                term.effects,
                pd.Index(levels),
                codes,
                np.ascontiguousarray(term.M * root[:, None]),
                kernel,
                term.correlated,
                space,
            )
        )
    return tuple(out)
