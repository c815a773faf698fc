"""Fingerprints: one for each part of a design, or of an option, that can change a number.

Equal content gives equal text in another process, on another machine and in another type that says the same (12 and
``np.int64(12)``, a list and a tuple, an index of 0, 1, .. and a range). Anything else differs.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import fields, is_dataclass
from functools import partial
from numbers import Number
from os import PathLike
from types import FunctionType
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from scipy import sparse

if TYPE_CHECKING:
    from .design import Design

# How new rows are encoded: state that was worked out from the data and the formula, which are fingerprinted.
ENCODINGS = frozenset(["recipe", "encoding"])
# Numbers hashed at a time.
BLOCK = 2**20


def design_digest(design: Design) -> dict[str, str]:
    """Fingerprint of each part of a design; see `Design.digest`."""
    parts = _parts(design, "")
    terms = parts.pop("terms")
    out = {name: content_digest(value) for name, value in parts.items()}
    out["terms"] = content_digest([term.label for term in terms])
    for term in terms:
        out |= {name: content_digest(value) for name, value in _parts(term, f" of '{term.label}'").items()}
    return out


def _parts(record: Any, suffix: str) -> dict[str, Any]:
    """All fields of a dataclass by name, one that is added later too; the names in tables apart from their numbers."""
    out: dict[str, Any] = {}
    for name in (f.name for f in fields(record) if f.compare and f.name not in ENCODINGS):
        value = getattr(record, name)
        if isinstance(value, pd.DataFrame):
            out |= {f"{name}{suffix}": value.to_numpy(), f"columns of {name}{suffix}": value.columns}
            out[f"row labels of {name}{suffix}"] = value.index
        else:
            out[f"{name}{suffix}"] = value
    return out


def content_digest(value: Any) -> str:
    """Text of fixed length that is equal for equal content.

    Parameters
    ----------
    value : object
        None, a number, a string, an array (dense or sparse), a pandas object, a dataclass, a function, or a list,
        tuple, set or mapping of these; of any other object its attributes.

    Returns
    -------
    str
        SHA-256 in hexadecimal digits.
    """
    digest = hashlib.sha256()
    _add(digest.update, value)
    return digest.hexdigest()


def _add(update: Callable[[Any], None], value: Any) -> None:
    """Feed a value to a hash, each part behind its kind and length, so that no two contents make the same bytes."""
    if value is None or isinstance(value, bool | np.bool_):
        _add_text(update, "constant", repr(value if value is None else bool(value)))
    elif isinstance(value, Number):
        _add_text(update, "number", _number(value))
    elif isinstance(value, str | PathLike):
        _add_text(update, "text", str(value))
    elif isinstance(value, bytes):
        _add_text(update, "bytes", str(len(value)))
        update(value)
    elif isinstance(value, np.ndarray):
        _add_array(update, value)
    elif sparse.issparse(value):
        rows = sparse.csr_array(value)
        if not rows.has_canonical_format:
            rows = rows.copy()
            rows.sum_duplicates()
        _add_items(update, "sparse", [rows.shape, rows.indptr, rows.indices, rows.data])
    elif isinstance(value, pd.DataFrame):
        _add_items(update, "table", [value.index, value.columns, *(value.iloc[:, j] for j in range(value.shape[1]))])
    elif isinstance(value, pd.Series):
        _add_items(update, "column", [value.index, pd.Index(value)])
    elif isinstance(value, pd.CategoricalIndex | pd.Categorical):
        # The order of the categories decides how they are coded.
        _add_items(update, "categories", [np.asarray(value), value.categories, value.ordered])
    elif isinstance(value, pd.Index | pd.api.extensions.ExtensionArray):
        _add_array(update, np.asarray(value))
    elif isinstance(value, Mapping):
        # By name, in their order: the order of parts of a link, or of columns, can matter.
        _add_items(update, "mapping", [item for pair in value.items() for item in pair])
    elif isinstance(value, AbstractSet):
        _add_items(update, "set", sorted(content_digest(item) for item in value))
    elif isinstance(value, list | tuple | range):
        _add_items(update, "sequence", list(value))
    elif is_dataclass(value) and not isinstance(value, type):
        parts = [item for f in fields(value) if f.compare for item in (f.name, getattr(value, f.name))]
        _add_items(update, _class_name(type(value)), parts)
    elif callable(value):
        _add_function(update, value)
    elif isinstance(value, np.random.SeedSequence):
        _add_items(update, "seed", [value.entropy, value.spawn_key])
    elif hasattr(value, "to_pandas"):
        _add(update, value.to_pandas())
    else:
        _add_items(update, _class_name(type(value)), [vars(value) if hasattr(value, "__dict__") else repr(value)])


def _add_text(update: Callable[[Any], None], kind: str, text: str) -> None:
    coded = text.encode("utf-8", "surrogatepass")
    update(f"{kind} {len(coded)}:".encode())
    update(coded)


def _add_items(update: Callable[[Any], None], kind: str, items: list[Any]) -> None:
    _add_text(update, kind, str(len(items)))
    for item in items:
        _add(update, item)


def _number(value: Any) -> str:
    """12, 12.0 and ``np.int64(12)`` are one number."""
    try:
        return str(int(value)) if value == int(value) else float(value).hex()
    except (TypeError, ValueError, OverflowError):  # complex, NaN, infinity
        return repr(complex(value))


def _add_array(update: Callable[[Any], None], values: np.ndarray) -> None:
    kind = values.dtype.kind
    if kind not in "biufcmM":
        # Labels: the bytes of objects would be addresses, and fixed-width text depends on the widest one.
        _add_text(update, "labels", str(values.shape))
        for item in values.ravel().tolist():
            _add(update, item if _is_plain(item) else str(item))
        return
    if kind in "mM":
        _add_text(update, "times", str(values.dtype))
        values = values.view(np.int64)
    _add_text(update, "logical" if kind == "b" else "array", str(values.shape))
    flat = np.ascontiguousarray(values).reshape(-1)
    for start in range(0, flat.size, BLOCK):
        update(_plain_bytes(flat[start : start + BLOCK]))


def _plain_bytes(block: np.ndarray) -> bytes:
    """Integers and floats of one value are the same bytes, as are all kinds of NaN, and 0.0 and -0.0."""
    if block.dtype.kind in "bc":
        return block.tobytes()
    floats = block.astype(np.float64)
    if block.dtype.kind in "iu":
        # Ids beyond 2**53 are told apart by themselves.
        return floats.tobytes() if np.array_equal(floats.astype(block.dtype), block) else block.tobytes()
    floats += 0.0
    floats[np.isnan(floats)] = np.nan
    return floats.tobytes()


def _is_plain(item: Any) -> bool:
    return item is None or isinstance(item, str | bytes | Number)


def _add_function(update: Callable[[Any], None], function: Callable[..., Any]) -> None:
    """A function by what it does, its name, defaults and what it has captured; two lambdas of one module may differ."""
    if isinstance(function, partial):
        _add_items(update, "partial", [function.func, function.args, function.keywords])
        return
    name = f"{getattr(function, '__module__', '')}.{getattr(function, '__qualname__', type(function).__qualname__)}"
    if not isinstance(function, FunctionType):
        inside = None if isinstance(function, type) else getattr(function, "__dict__", None)
        _add_items(update, "callable", [name, inside])
        return
    captured = [cell.cell_contents for cell in function.__closure__ or ()]
    code = [function.__code__.co_code, function.__code__.co_names, _constants(function.__code__)]
    _add_items(update, "function", [name, code, function.__defaults__, function.__kwdefaults__, captured])


def _constants(code: Any) -> list[Any]:
    """Constants of a function, with those of the functions inside it."""
    return [[c.co_code, c.co_names, _constants(c)] if hasattr(c, "co_code") else c for c in code.co_consts]


def _class_name(kind: type) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"
