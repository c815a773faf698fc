"""What a formula and a frame became: `Design` and its random terms.

Nothing heavy is imported here, because ``slamglmm.design`` loads with the package.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import shortlist

if TYPE_CHECKING:
    import pandas as pd
    from scipy import sparse

    from ..relmat import Relmat
    from .encoding import Encoding


@dataclass(frozen=True, eq=False, repr=False)
class RandomTerm:
    """One random term: the columns of its left side, spread over the levels of its grouping factor.

    Attributes
    ----------
    label : str
        Unique in the design: ``"line"``, ``"a:b"``, ``"x|g"`` for effects without an intercept,
        ``"gr(id, D)"`` when one id has several matrices.
    group : str
        Grouping factor as written: ``"line"``, ``"a:b"``.
    effects : tuple of str, length e
        Names of the columns of `M`.
    levels : pandas.Index, length r
        Levels in use; with a relationship matrix all its labels, in its order.
    codes : numpy.ndarray of intp, length n
        Position in `levels` of each row; -1 only in new rows with ``new_levels="zero"``.
    M : numpy.ndarray, n x e, float64, C order
        Columns of the left side of the bar.
    correlated : bool
        False when written with ``||``.
    has_records : numpy.ndarray of bool, length r
        Whether a level has a row in the data the design was made from.
    relmat : Relmat or None
        The relationship matrix, labelled by `levels`.
    cov : str or None
        Its key in the ``relmat=`` argument.
    columns : tuple of str
        The columns of the frame that make the grouping factor.
    encoding : Encoding
        State that gives new rows their `M`.
    """

    label: str
    group: str
    effects: tuple[str, ...]
    levels: pd.Index
    codes: np.ndarray
    M: np.ndarray
    correlated: bool
    has_records: np.ndarray
    relmat: Relmat | None
    cov: str | None
    columns: tuple[str, ...]
    encoding: Encoding

    @property
    def K(self) -> Any:
        """Relationship matrix, r x r in the order of `levels` (dense or CSR), or None for identity."""
        return None if self.relmat is None else self.relmat.matrix

    @cached_property
    def Z(self) -> sparse.csr_array:
        """Design of the term, n x (r * e): levels outside, effects fastest; zeros are not stored."""
        from scipy import sparse

        n, n_effects = self.M.shape
        known = self.codes >= 0
        data = self.M * known[:, None]
        indices = np.where(known, self.codes, 0)[:, None] * n_effects + np.arange(n_effects)
        indptr = np.arange(n + 1) * n_effects
        Z = sparse.csr_array((data.ravel(), indices.ravel(), indptr), shape=(n, len(self.levels) * n_effects))
        Z.eliminate_zeros()
        return Z

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "Z"}

    def __repr__(self) -> str:
        kind = "" if self.relmat is None else f", relmat '{self.cov}'"
        bar = "|" if self.correlated else "||"
        return f"RandomTerm('{self.label}': {' + '.join(self.effects)} {bar} {len(self.levels)} levels{kind})"


@dataclass(frozen=True, eq=False, repr=False)
class Recipe:
    """What new rows need to be encoded as the rows of the fit were.

    Attributes
    ----------
    fixed : Encoding
        For X.
    offsets : tuple of Encoding
        Summed to the offset.
    schema : dict
        Column -> `ColumnKind`: whether it was numeric, and the levels it had.
    contrasts : dict
        Column -> formulaic contrasts.
    context : dict
        Extra names for the expressions of the formula.
    """

    fixed: Encoding
    offsets: tuple[Encoding, ...]
    schema: dict[str, Any]
    contrasts: dict[str, Any]
    context: Mapping[str, Any]


@dataclass(frozen=True, eq=False, repr=False)
class Design:
    """A formula turned into matrices; made by `slamglmm.design`, never changed.

    Attributes
    ----------
    formula : str
    X : pandas.DataFrame, n x b, float64
        Fixed effects of the kept rows, with the index of the data.
    Y : pandas.DataFrame, n x p, float64, or None
        Responses of the kept rows; NaN where missing.
    terms : tuple of RandomTerm
        In the order of the formula.
    offset, weights : numpy.ndarray, length n, or None
    rows : numpy.ndarray of intp, length n
        0-based positions of the kept rows in the data.
    n_dropped : int
        Rows left out.
    dropped_because : dict
        Column -> rows in which it is missing; a row counts for each of its missing columns.
    recipe : Recipe
        State for `new`.
    notes : tuple of str
        How rows of `Y` and `weights` were matched with those of the data, where that needs saying.
    """

    formula: str
    X: pd.DataFrame
    Y: pd.DataFrame | None
    terms: tuple[RandomTerm, ...]
    offset: np.ndarray | None
    weights: np.ndarray | None
    rows: np.ndarray
    n_dropped: int
    dropped_because: dict[str, int]
    recipe: Recipe = field(repr=False)
    notes: tuple[str, ...] = ()

    @property
    def n(self) -> int:
        """Number of kept rows."""
        return len(self.rows)

    @property
    def traits(self) -> pd.Index:
        """Names of the responses (empty without any)."""
        return self.X.columns[:0] if self.Y is None else self.Y.columns

    @property
    def short_names(self) -> tuple[str, ...]:
        """Names of the columns of X, ``bs(age, df=5)[2]`` as ``bs2`` as long as that tells them apart."""
        names = tuple(str(name) for name in self.X.columns)
        short = tuple(re.sub(r"(\w+)\([^\[\]]*\)\[(\d+)\]", r"\1\2", name) for name in names)
        return short if len(set(short)) == len(names) else names

    def term(self, label: str) -> RandomTerm:
        """Give the random term with this label.

        Parameters
        ----------
        label : str

        Returns
        -------
        RandomTerm

        Raises
        ------
        OptionError
            Listing the labels there are.
        """
        from ..errors import OptionError

        for term in self.terms:
            if term.label == label:
                return term
        known = f"the terms are {shortlist(t.label for t in self.terms)}" if self.terms else "the formula has none"
        raise OptionError(f"no random term {label!r}; {known}.")

    def take(self, rows: np.ndarray, traits: np.ndarray | None = None) -> Design:
        """Give the same design for some of its rows (and traits): columns and their names stay.

        Parameters
        ----------
        rows : numpy.ndarray of int
        traits : numpy.ndarray of int, optional
            Positions in `traits`; all by default.

        Returns
        -------
        Design
            A grouping factor without a relationship matrix keeps the levels that still have a row.
        """
        Y = self.Y
        if Y is not None:
            Y = Y.iloc[rows] if traits is None else Y.iloc[rows, traits]
        return replace(
            self,
            X=self.X.iloc[rows],
            Y=Y,
            terms=tuple(_take_rows(term, rows) for term in self.terms),
            offset=None if self.offset is None else self.offset[rows],
            weights=None if self.weights is None else self.weights[rows],
            rows=self.rows[rows],
            n_dropped=self.n_dropped + self.n - len(rows),
        )

    def digest(self) -> dict[str, str]:
        """Fingerprint every part that can change a number, so that two designs can be compared across sessions.

        Covered are all fields of the design and of its random terms: values, names of columns, labels of rows and
        levels, relationship matrices with their pattern, offset and weights. Left out is only how new rows are
        encoded, which follows from these.

        Returns
        -------
        dict of str to str
            Name of the part, such as ``"offset"`` or ``"codes of 'line'"`` -> hexadecimal digits.

        Examples
        --------
        >>> import pandas as pd, slamglmm as sg
        >>> frame = pd.DataFrame({"y": [1.0, 2.0, 4.0], "x": [0, 1, 2]})
        >>> first, other = sg.design("y ~ x", frame).digest(), sg.design("y ~ x", frame.assign(x=[0, 1, 3])).digest()
        >>> [part for part in first if first[part] != other[part]]
        ['X']
        """
        from .digest import design_digest

        return design_digest(self)

    def new(self, newdata: Any, new_levels: str = "error", terms: Sequence[str] | None = None) -> Design:
        """Encode new rows exactly as the rows of this design: same transforms, contrasts and levels.

        Parameters
        ----------
        newdata : DataFrame
            Must hold the predictors, and the grouping columns of `terms`; responses and weights are not needed.
        new_levels : {"error", "zero", "relmat"}
            For a level of a grouping factor that the design does not know. ``"error"`` refuses it; ``"zero"``
            gives it code -1 and a zero row of Z, so its effect is zero; ``"relmat"`` wants every unseen level to
            be a label of the term's relationship matrix (such labels are levels already, so they have an effect
            although they have no records) and refuses terms without one.
        terms : sequence of str, optional
            Labels of the random terms to encode (the columns of the others may be absent); all by default.

        Returns
        -------
        Design
            With ``Y`` and ``weights`` None and the same levels in every term.

        Raises
        ------
        DataError
            For missing columns, missing or infinite values (columns and rows named), categories of a fixed effect
            or levels of a group that were not seen.
        OptionError
            For an unknown `new_levels` or an unknown label in `terms`.
        """
        from .build import new_design

        return new_design(self, newdata, new_levels, terms)

    def __repr__(self) -> str:
        lines = [f"Design of '{self.formula}'"]
        dropped = f" ({self.n_dropped} dropped)" if self.n_dropped else ""
        lines.append(f"  rows    {self.n}{dropped}")
        if self.Y is not None:
            lines.append(f"  traits  {self.Y.shape[1]}: {shortlist(self.traits)}")
        lines.append(f"  fixed   {self.X.shape[1]}: {shortlist(self.X.columns, 8)}")
        lines += [f"  random  {term!r}" for term in self.terms]
        extra = [name for name in ("offset", "weights") if getattr(self, name) is not None]
        if extra:
            lines.append(f"  with    {' and '.join(extra)}")
        lines += [f"  note    {note}" for note in self.notes]
        return "\n".join(lines)


def _take_rows(term: RandomTerm, rows: np.ndarray) -> RandomTerm:
    codes, levels = term.codes[rows], term.levels
    used, among = np.unique(codes, return_inverse=True)
    if term.relmat is None:
        return replace(
            term, levels=levels[used], codes=among, M=term.M[rows], has_records=np.ones(len(used), dtype=bool)
        )
    has_records = np.zeros(len(levels), dtype=bool)
    has_records[used] = True
    return replace(term, codes=codes, M=term.M[rows], has_records=has_records)
