"""What an expression of a formula gives, checked: a column of the rows it was given, in their order."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from formulaic.materializers import PandasMaterializer
from formulaic.materializers.types import FactorValues

from ..errors import FormulaError, clip

# Formulaic's metaclass wants methods that replace its own to be marked, by the word of its own library.
override = type(PandasMaterializer).override


class CheckedMaterializer(PandasMaterializer):
    """Formulaic's materializer for pandas; what an expression gives must be a column of these rows."""

    REGISTER_NAME = "slamglmm"
    REGISTER_INPUTS: Sequence[str] = ()  # asked for by name, never chosen for others

    @override
    def _evaluate(self, expr: str, metadata: Any, spec: Any) -> tuple[Any, set[Any]]:
        value, variables = super()._evaluate(expr, metadata, spec)
        return _checked_value(value, expr, self.data.index), variables


def _checked_value(value: Any, expression: str, index: pd.Index) -> Any:
    """Return the value if it has one entry, or one row, for each row in their order; words become a factor."""
    inner = value.__wrapped__ if isinstance(value, FactorValues) else value
    parts = (
        [part for name, part in inner.items() if not str(name).startswith("__")] if isinstance(inner, dict) else [inner]
    )
    for part in parts:
        wrong = _what_is_wrong(part, index)
        if wrong:
            raise FormulaError(f"'{clip(expression)}' gives {wrong}")
    if isinstance(inner, np.ndarray) and inner.dtype.kind == "U":
        return pd.Series(inner, index=index)
    return value


def _what_is_wrong(part: Any, index: pd.Index) -> str | None:
    shape = getattr(part, "shape", None)
    if part is None or shape is None or len(shape) == 0:
        what = "one value for all rows" if np.isscalar(part) or shape == () else type(part).__name__
        return f"{what}, where a column was expected, as in I(x - min(x))"
    if shape[0] != len(index) or len(shape) > 2:
        return f"{shape[0]} values for {len(index)} rows"
    if isinstance(part, pd.Series | pd.DataFrame) and not (part.index.equals(index) or _has_no_labels(part.index)):
        return "the rows in another order; entry i of a term belongs to row i of the data"
    for dtype in part.dtypes if isinstance(part, pd.DataFrame) else [part.dtype]:
        if pd.api.types.is_complex_dtype(dtype):
            return "complex numbers; take their size by np.abs(...)"
        if pd.api.types.is_datetime64_any_dtype(dtype) or pd.api.types.is_timedelta64_dtype(dtype):
            return "dates or durations; make them numbers, such as days, in the data"
    return None


def _has_no_labels(index: pd.Index) -> bool:
    """Whether the index is what pandas gives a Series without one; sorted row numbers are labels."""
    return isinstance(index, pd.RangeIndex) and index.start == 0 and index.step == 1
