"""Cross-validation by masking responses: random cells, whole rows, whole groups, each group, folds of your own."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from inspect import Parameter, signature
from typing import Any

import numpy as np
import pandas as pd

from .design import design
from .design.bars import split_formula
from .design.responses import from_table
from .design.row_labels import RowLabels
from .errors import DataError, DroppedRowsWarning, KeywordError, OptionError, SlamError
from .keywords import what_to_write
from .options import Options, is_whole, shown

LEAVE_ONE_OUT = "leave-one-out"


@dataclass(frozen=True, eq=False)
class CrossValidation:
    """Out-of-fold predictions and how good they are.

    Attributes
    ----------
    predictions : DataFrame
        Row × trait; NaN where a cell was in no fold.
    observed : DataFrame
        The responses, row × trait.
    folds : DataFrame of int
        Fold of each cell, 0 for none; row × trait.
    labels : dict
        What a fold is called in `by_fold`, if it is not its number: the group that was left out.
    notes : tuple of str
        How rows of `Y` and of the folds were matched with those of the data, where that needs saying.
    """

    predictions: pd.DataFrame
    observed: pd.DataFrame
    folds: pd.DataFrame
    labels: dict[int, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def by_fold(self) -> pd.DataFrame:
        """Accuracy in each fold.

        Returns
        -------
        DataFrame
            Index (trait, fold), a fold being its number or the group left out; columns n, correlation, rmse.
        """
        rows = {}
        for trait in self.observed.columns:
            truth, guess, fold = (table[trait].to_numpy() for table in (self.observed, self.predictions, self.folds))
            for f in np.unique(fold[fold > 0]):
                cells = (fold == f) & ~np.isnan(truth) & ~np.isnan(guess)
                rows[trait, self.labels.get(int(f), int(f))] = _accuracy(truth[cells], guess[cells])
        index = pd.MultiIndex.from_tuples(list(rows), names=["trait", "fold"])
        return pd.DataFrame(list(rows.values()), index=index)

    def summary(self) -> pd.DataFrame:
        """Mean accuracy over folds.

        Returns
        -------
        DataFrame
            Index trait; columns n (predicted cells), correlation and rmse (means over folds), correlation_sd.
        """
        table = self.by_fold()
        grouped = table.groupby(level="trait", sort=False)
        out = grouped[["correlation", "rmse"]].mean()
        out.insert(0, "n", grouped["n"].sum())
        out["correlation_sd"] = grouped["correlation"].std()
        return out

    def __repr__(self) -> str:
        title = f"Cross-validation, {int(self.folds.to_numpy().max())} folds"
        return "\n".join([title, self.summary().to_string(), *self.notes])


def cross_validate(
    fitter: Callable[..., Any],
    formula: str,
    data: Any,
    *,
    Y: Any = None,
    folds: int | str | Any = 5,
    by: str = "cells",
    predict: Callable[[Any], pd.DataFrame] | None = None,
    seed: int = 1,
    n_jobs: int = 1,
    **options: Any,
) -> CrossValidation:
    """Mask part of the responses, fit, compare the predictions with what was masked; once for each fold.

    Parameters
    ----------
    fitter : callable
        Such as `slamglmm.slam`: takes ``(formula, data, Y=..., **options)`` and returns a result with ``fitted()``, or
        with ``predict(data, new_levels="zero")`` (and ``markers=``, if given) when it drops rows with missing
        responses. Of a fitter that drops such rows, as `slamglmm.he` does, mask whole rows or groups: single cells
        would cost it nearly all of them.
    formula : str
    data : DataFrame, n rows
    Y : DataFrame or array, n × p, optional
        The responses, unless they stand on the left of the formula.
    folds : int, "leave-one-out" or array
        Number of folds; or a fold for each unit of `by` (``by="env"``: leave one environment out); or fold numbers,
        of shape (n,) for whole rows or (n, p) for cells, where 0 and NaN are never masked (rows of a Series or
        DataFrame are matched by label).
    by : str
        What stays together: ``"cells"``, ``"rows"``, or the name of a column of `data` whose groups (lines or
        environments, say) are masked whole.
    predict : callable, optional
        Takes a result and returns predictions, row × trait.
    seed : int
        Of the folds; fold f is fitted with ``seed + f`` unless `options` has a seed.
    n_jobs : int
        Folds fitted at the same time (joblib; -1 for all cores). Under ``joblib.parallel_config(backend="dask")`` they
        go to a cluster. The numbers do not depend on where they were fitted.
    **options
        For the fitter.

    Returns
    -------
    CrossValidation

    Raises
    ------
    OptionError
        No responses, folds that do not fit them, or an unknown column in `by`.
    DataError
        Rows that the fitter dropped although they are in a fold.

    Examples
    --------
    >>> import slamglmm as sg
    >>> d = sg.simulate.slam(families=10, n_traits=4, seed=1)
    >>> cv = sg.cross_validate(sg.slam, d.formula, d.frame, Y=d.Y, relmat=d.relmat, folds=2, by="rows",
    ...                        n_factors=2, draws=20, burn=20, chains=1)
    >>> cv.summary().shape
    (4, 4)
    """
    from joblib import Parallel, delayed

    parameters = _check_call(fitter, options)
    check = Options(locals(), "cross_validate")
    check.kind("predict", Callable | None, "a function from a fit to predictions, row × trait, or None")
    check.kind("by", str, "'cells', 'rows' or the name of a column of the data")
    check.whole("seed")
    check.jobs("n_jobs", "folds")
    if Y is None:
        formula, Y = _responses_apart(formula, data)
    # In the order of the data, which is that of predictions and groups.
    whose = RowLabels.of(data)
    observed, on_Y = from_table(Y, whose)
    folds, on_folds = _lined_up(folds, whose, observed.columns)
    of_cell, labels = _folds(folds, by, data, observed, seed)
    numbers = [int(f) for f in np.unique(of_cell[of_cell > 0])]
    # Variational fitters draw nothing and take no seed.
    seeded = "seed" in {*options, *parameters} or any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    seeds = {f: {"seed": options.get("seed", seed + f)} if seeded else {} for f in numbers}
    guesses = Parallel(n_jobs=n_jobs)(
        delayed(_fit_fold)(fitter, formula, data, observed.mask(of_cell == f), predict, options | seeds[f])
        for f in numbers
    )
    predictions = np.full(observed.shape, np.nan)
    for f, guess in zip(numbers, guesses, strict=True):
        if guess.shape[1:] != observed.shape[1:]:
            raise DataError(
                f"fold {f}: {guess.shape[-1]} columns were predicted for {observed.shape[1]} traits, as by links whose "
                "latent traits are not the columns of Y. Give predict=, a function from a fit to row × trait."
            )
        if guess.shape != observed.shape:
            raise DataError(
                f"fold {f}: {guess.shape[0]} of {len(observed)} rows were predicted. Drop rows with missing predictors "
                "before cross-validating."
            )
        predictions[of_cell == f] = guess[of_cell == f]
    frames = [pd.DataFrame(v, index=observed.index, columns=observed.columns) for v in (predictions, of_cell)]
    notes = tuple(note for note in (on_Y, on_folds) if note is not None)
    return CrossValidation(frames[0], observed, frames[1], labels, notes)


def _check_call(fitter: Any, options: Mapping[str, Any]) -> Mapping[str, Parameter]:
    """Parameters of a fitter that takes Y and these options by name."""
    try:
        parameters = signature(fitter).parameters
    except (TypeError, ValueError) as error:
        raise OptionError(f"fitter={shown(fitter)}: expected a function, such as slamglmm.slam.") from error
    if any(p.kind is Parameter.VAR_KEYWORD for p in parameters.values()):
        return parameters
    name = getattr(fitter, "__name__", "fitter")
    if "Y" not in parameters:
        raise OptionError(
            f"fitter={name}: expected a function of (formula, data, Y=..., **options) such as slamglmm.slam; it has no "
            "option 'Y'."
        )
    unknown = [word for word in options if word not in parameters]
    if unknown:
        raise KeywordError(
            f"{name}() has no option {unknown[0]!r}. {what_to_write(name, unknown[0], list(parameters))}"
        )
    return parameters


def _responses_apart(formula: str, data: Any) -> tuple[str, pd.DataFrame]:
    """The formula without its left side, and what stood there."""
    responses = split_formula(formula).responses
    if not responses:
        raise OptionError("cross_validate needs responses: name them on the left of '~', or pass Y=.")
    tilde = formula.index("~", responses[-1].piece.stop)
    Y = design(f"{formula[:tilde]} ~ 1", data).Y
    assert Y is not None
    return formula[tilde:], Y


def _fit_fold(
    fitter: Callable[..., Any],
    formula: str,
    data: Any,
    masked: pd.DataFrame,
    predict: Callable[[Any], pd.DataFrame] | None,
    options: dict[str, Any],
) -> np.ndarray:
    with warnings.catch_warnings():
        # Masked rows are missing on purpose; rows without predictors are an error of `cross_validate`.
        warnings.simplefilter("ignore", DroppedRowsWarning)
        result = fitter(formula, data, Y=masked, **options)
    if predict is not None:
        return _predictions(predict, result)
    if not hasattr(result, "fitted"):
        raise OptionError(
            f"the fitter returned {shown(result)}, which has no fitted(): give predict=, a function from it to "
            "predictions, row × trait."
        )
    fitted = result.fitted()
    if len(fitted) < len(masked) and set(result.design.dropped_because) <= set(masked.columns):
        markers = {"markers": options["markers"]} if "markers" in options else {}
        fitted = result.predict(data, new_levels="zero", **markers)
    return np.asarray(fitted, dtype=float)


def _predictions(predict: Callable[[Any], Any], result: Any) -> np.ndarray:
    """What `predict` makes of a fit, as numbers, row × trait."""
    try:
        given = predict(result)
    except SlamError:
        raise
    except Exception as error:
        raise OptionError(
            f"predict= failed with {type(error).__name__}: {error}. It gets a fit, here a {type(result).__name__}, and "
            "returns predictions, row × trait."
        ) from error
    try:
        values = np.asarray(given, dtype=float)
    except (TypeError, ValueError):
        values = np.empty(0)
    if values.ndim != 2:
        raise OptionError(f"predict= returned {shown(given)}: expected numbers, row × trait, such as fit.predict().")
    return values


def _lined_up(folds: Any, whose: RowLabels, traits: pd.Index) -> tuple[Any, str | None]:
    """Fold numbers with labels in the order of the data; a note of how."""
    if not isinstance(folds, pd.DataFrame | pd.Series):
        return folds, None
    at, note = whose.match(folds.index, len(folds), "folds")
    folds = folds.iloc[at]
    if isinstance(folds, pd.DataFrame) and set(folds.columns) == set(traits):
        folds = folds[list(traits)]
    return folds, note


def _folds(folds: Any, by: str, data: Any, observed: pd.DataFrame, seed: int) -> tuple[np.ndarray, dict[int, Any]]:
    """Fold of each cell, shape (n, p), and names of folds; cells without a response have none."""
    n, p = observed.shape
    seen = observed.notna().to_numpy()
    if isinstance(folds, str):
        if folds != LEAVE_ONE_OUT or by == "cells":
            raise OptionError(
                f"folds={folds!r}, by={by!r}: expected a number of folds, fold numbers, or {LEAVE_ONE_OUT!r} with by="
                "'rows' or a column of the data."
            )
        unit, names = _units(by, data, n)
        return np.where(seen, unit[:, None] + 1, 0), {i + 1: name for i, name in enumerate(names)}
    if not is_whole(folds):
        try:
            given = np.nan_to_num(np.asarray(folds, dtype=float)).astype(int)
        except (TypeError, ValueError):
            given = np.empty(())
        if given.shape not in ((n,), (n, p)):
            raise OptionError(
                f"folds={shown(folds)}: expected an integer, {LEAVE_ONE_OUT!r}, or fold numbers of shape ({n},) or "
                f"({n}, {p})."
            )
        return np.where(seen, given if given.ndim == 2 else given[:, None], 0), {}
    if folds < 2:
        raise OptionError(f"folds={folds}: expected at least 2.")
    rng = np.random.default_rng(seed)
    if by == "cells":
        out = np.zeros((n, p), dtype=int)
        for j in range(p):
            # Trait by trait, so that no fold takes most of one.
            rows = rng.permutation(np.flatnonzero(seen[:, j]))
            out[rows, j] = np.arange(len(rows)) % folds + 1
        return out, {}
    unit, names = _units(by, data, n)
    if len(names) < folds:
        raise OptionError(f"folds={folds}: there are only {len(names)} units to share out by {by!r}.")
    fold_of_unit = rng.permutation(np.arange(len(names)) % folds + 1)
    return np.where(seen, fold_of_unit[unit][:, None], 0), {}


def _units(by: str, data: Any, n: int) -> tuple[np.ndarray, list[Any]]:
    """Unit of each row that stays together, and the names of the units."""
    if by == "rows":
        return np.arange(n), list(range(n))
    if by not in list(data.columns):
        raise OptionError(f"by={by!r}: expected 'cells', 'rows' or a column of the data.")
    codes, names = pd.factorize(np.asarray(data[by]))
    if (codes < 0).any():
        raise DataError(
            f"by={by!r}: the column is missing in {int((codes < 0).sum())} row(s), so they are in no group."
        )
    return codes, list(names)


def _accuracy(truth: np.ndarray, guess: np.ndarray) -> dict[str, float]:
    varies = len(truth) > 2 and np.ptp(truth) > 0 and np.ptp(guess) > 0
    return {
        "n": len(truth),
        "correlation": float(np.corrcoef(truth, guess)[0, 1]) if varies else np.nan,
        "rmse": float(np.sqrt(np.mean((truth - guess) ** 2))) if len(truth) else np.nan,
    }
