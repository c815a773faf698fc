"""From a formula and a data frame to matrices: the one stage every fitter starts from.

This file stays light (formulaic and pandas load on the first call), because ``slamglmm.design`` is both this
package and the public function below, and ``import slamglmm`` binds the function. For the same reason the
classes are imported here, before the function takes the name of the module ``design.py``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from .design import Design, RandomTerm

__all__ = ["Design", "RandomTerm", "design"]


def design(
    formula: str,
    data: Any,
    *,
    Y: Any = None,
    relmat: Mapping[str, Any] | None = None,
    missing: Literal["keep", "drop", "drop_empty"] = "keep",
    contrasts: Mapping[str, Any] | None = None,
    context: Mapping[str, Any] | None = None,
    weights: Any = None,
) -> Design:
    """Turn a formula and a data frame into matrices.

    Parameters
    ----------
    formula : str
        As in lme4: ``"y ~ x + (1 + x | g)"``, ``"y1 + y2 ~ ..."``, ``"cbind(y1, y2) ~ ..."``, or
        ``"~ 1 + (1 | g)"`` with the responses in `Y`. Expressions in it are Python over columns and a list of
        functions; nothing else is run.
    data : DataFrame (pandas, polars or another that narwhals reads) or mapping of columns, n rows
        The index of a pandas frame labels the rows of `Design.X` and `Design.Y`.
    Y : DataFrame, Series or array, n x p, optional
        Responses. Rows with labels are those of the index of `data` or of one of its columns with the same labels;
        rows of an array are in the order of `data`, and its columns are named y1 .. yp.
    relmat : dict, optional
        Grouping factor -> relationship matrix of its levels: a labelled DataFrame, ``(matrix, labels)`` or a
        `Relmat`. The key for ``(1 | a:b)`` is ``"a:b"``, for ``(1 | gr(id, cov="D"))`` it is ``"D"``.
    missing : {"keep", "drop", "drop_empty"}
        Rows whose response is missing: keep them (NaN in Y), drop every row in which any response is missing, or drop
        rows in which all are.
        Rows with a missing predictor, group, weight or offset are always dropped.
    contrasts : dict, optional
        Column -> ``"poly"``, ``"sum"``, ``"treatment"``, ``"helmert"`` (also as ``"contr.sum"``) or a formulaic
        contrasts object, on both sides of the bars.
    context : dict, optional
        Functions and constants the formula uses beside the listed ones; they keep the rows in order. Nothing is
        taken from the caller's variables.
    weights : str, Series or array of length n, optional
        Observation weights, positive: a column of `data`, or values (labels of a Series as those of `Y`).

    Returns
    -------
    Design

    Raises
    ------
    FormulaError
        When the formula cannot be read, names an unknown column or a function that is not on the list, has the
        response on both sides, or makes more terms or columns than there may be; a caret marks the place.
    DataError
        For responses that are not numeric, infinite, all missing or named twice; for row labels of `Y` or `weights`
        that are not those of `data`; for infinite or undefined predictors, and for dates, complex numbers and
        objects; when no row is complete.
    RelmatError
        For a relationship matrix that is unlabelled, asymmetric, indefinite or lacks levels.
    OptionError
        For an argument with a value it cannot take.

    Warns
    -----
    DroppedRowsWarning
        Says how many rows were dropped and which columns were missing there.

    Examples
    --------
    >>> import pandas as pd, slamglmm as sg
    >>> frame = pd.DataFrame({"y": [1.0, 2.0, 4.0], "x": [0, 1, 2], "g": ["a", "b", "a"]})
    >>> sg.design("y ~ x + (1 | g)", frame)
    Design of 'y ~ x + (1 | g)'
      rows    3
      traits  1: 'y'
      fixed   2: 'Intercept', 'x'
      random  RandomTerm('g': Intercept | 2 levels)
    """
    from .build import build_design

    return build_design(
        formula,
        data,
        Y=Y,
        relmat=relmat,
        missing=missing,
        contrasts=contrasts,
        context=context,
        weights=weights,
    )
