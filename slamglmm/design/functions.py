"""What an evaluated part of a formula may call: a written-out list, so that a formula cannot run other code.

Whatever is not listed comes by ``context=``: the program that calls the package decides what a formula can reach, not
whoever wrote the formula. A function belongs here if row i of its result depends on row i of its arguments alone, on
numbers taken over all rows (`OVER_ROWS`), or on state that new rows reuse.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from formulaic.transforms import TRANSFORMS, ContrastsRegistry
from formulaic.transforms import C as formulaic_C
from formulaic.utils.stateful_transforms import stateful_transform

from ..errors import FormulaError, shortlist
from .bases import bs_diff

CONTRASTS = {
    "poly": ContrastsRegistry.poly,
    "sum": ContrastsRegistry.sum,
    "treatment": ContrastsRegistry.treatment,
    "helmert": ContrastsRegistry.helmert,
}
CONTRAST_NAMES = frozenset(name for name in vars(ContrastsRegistry) if not name.startswith("_"))


def contrasts_called(name: str) -> Any:
    """Contrasts by name, ``"sum"`` or as R spells it ``"contr.sum"``; None for a name there is not."""
    return CONTRASTS.get(name.removeprefix("contr."))


def C(data: Any, contrasts: Any = None, *, levels: Any = None, spans_intercept: bool = True) -> Any:
    """Make a column a factor; see formulaic's ``C``. Contrasts may be named by a string as well.

    Parameters
    ----------
    data : column
    contrasts : contrasts, str or array, optional
    levels : list, optional
    spans_intercept : bool
    """
    if isinstance(contrasts, str):
        named = contrasts_called(contrasts)
        if named is None:
            raise FormulaError(f"contrasts are {shortlist(CONTRASTS)}, got {contrasts!r}; write C(f, contr.sum)")
        contrasts = named
    return formulaic_C(data, contrasts, levels=levels, spans_intercept=spans_intercept)


@stateful_transform
def poly(x: Any, degree: int = 1, raw: bool = False, _state: dict[str, Any] = {}) -> Any:  # noqa: B006 (as in bases.py)
    """Orthogonal polynomials; see formulaic's ``poly``. As in R the degree is below the number of distinct values.

    Parameters
    ----------
    x : column
    degree : int
    raw : bool
    """
    x = np.asarray(x, dtype=float)
    if "fitted" not in _state:  # new rows may be few
        distinct = len(np.unique(x))
        if not 1 <= degree < distinct:
            raise ValueError(f"degree {degree}: expected 1 to {distinct - 1}; there are {distinct} distinct values")
        _state["fitted"] = True
    return TRANSFORMS["poly"](x, degree, raw, _state=_state)


def exp10(x: Any) -> Any:
    """Ten to the power of x (what formulaic calls by this name is ``x**10``)."""
    return np.power(10.0, x)


def length(x: Any) -> Any:
    """Number of rows; a float, as powers of Python's own whole numbers have no end."""
    return np.float64(len(x))


# Names that every formula knows, beside columns and `context`; they stand before formulaic's own.
OUR_FUNCTIONS: dict[str, Any] = {
    "C": C,
    "factor": C,
    "as_factor": C,
    "bs_diff": bs_diff,
    "poly": poly,
    "sqrt": np.sqrt,
    "exp10": exp10,
    # Python's own names, but for columns, and without their endless whole numbers
    "abs": np.abs,
    "round": np.round,
    "min": np.min,
    "max": np.max,
    "sum": np.sum,
    "len": length,
}

_FORMULAIC = (
    "np log log10 log2 exp exp2 bs cc cr cs center scale standardize contr I hashed Treatment Poly Sum Helmert Diff"
)
FORMULAIC_FUNCTIONS = frozenset(_FORMULAIC.split())

# Types, for the argument of astype() only.
TYPES = {"int": int, "float": float, "bool": bool, "str": str}
TYPE_NAMES = frozenset(["int", "float", "bool", "str", "int64", "float64", "category"])

# numpy by number of arguments: of the elementwise functions no further one (it would be ``out``).
_ONE = (
    "abs absolute fabs sqrt cbrt square reciprocal negative sign exp exp2 expm1 log log2 log10 log1p sin cos tan "
    "arcsin arccos arctan sinh cosh tanh arcsinh arccosh arctanh floor ceil trunc rint degrees radians deg2rad rad2deg "
    "isnan isfinite isinf logical_not"
)
_TWO = (
    "power minimum maximum fmin fmax hypot arctan2 "
    "logaddexp logical_and logical_or logical_xor equal not_equal less less_equal greater greater_equal isin round "
    "around digitize"
)
_REDUCING = {"mean": 1, "median": 1, "min": 1, "max": 1, "sum": 1, "std": 1, "var": 1, "ptp": 1}
NUMPY_FUNCTIONS: dict[str, int] = {
    **dict.fromkeys(_ONE.split(), 1),
    **dict.fromkeys(_TWO.split(), 2),
    **_REDUCING,
    "quantile": 2,
    "percentile": 2,
    "where": 3,
    "clip": 3,
}
NUMPY_CONSTANTS = frozenset(["pi", "e", "inf"])

# The same for the functions without ``np.``.
ARGUMENTS = {
    **dict.fromkeys(
        ["log", "log2", "log10", "exp", "exp2", "exp10", "sqrt", "abs", "I", "min", "max", "sum", "len"], 1
    ),
    "round": 2,
}

_METHODS = (
    "abs eq ne lt le gt ge round clip astype isin between map fillna isna notna where mask mean median min max sum std "
    "var quantile rank"
)
COLUMN_METHODS = frozenset(_METHODS.split())
TEXT_METHODS = frozenset(["lower", "upper", "strip", "len", "startswith", "endswith"])

# Values taken over all rows without a state: new rows would silently get others.
OVER_ROWS = frozenset([*_REDUCING, "quantile", "percentile", "rank"])

# Transforms whose arguments set the number of columns or the work, and the largest value of these.
BASES = frozenset(["poly", "bs", "cr", "cs", "cc", "bs_diff", "hashed"])
LARGEST_ARGUMENT = {"df": 1000, "levels": 1000, "degree": 100, "differences": 100, "decimals": 300}
FACTORS = frozenset(["C", "factor", "as_factor"])
