"""Curves of related individuals, measured at times of their own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from ..design import design
from ..errors import OptionError
from ..options import Options, is_whole
from .simulated import Simulated, renamed
from .slam import slam


@dataclass(frozen=True, eq=False, repr=False)
class SimulatedCurves(Simulated):
    """Arguments of ``slam(formula, frame, relmat=relmat, link=Regression(curve, long, individual=individual))``.

    Attributes
    ----------
    long : pandas.DataFrame
        One row for each individual and time.
    curve : str
        Formula of the curves.
    individual : str
        Column of `frame` and `long`.
    """

    long: pd.DataFrame
    curve: str
    individual: str

    def __repr__(self) -> str:
        return f"SimulatedCurves({self.curve!r}: {len(self.frame)} individuals, {len(self.long)} times)"


def curves(
    *,
    traits: Sequence[str] = ("height", "weight"),
    basis: str = "bs(time, df=4)",
    times: int | tuple[int, int] = (5, 12),
    span: tuple[float, float] = (0.0, 10.0),
    noise: Any = 0.3,
    missing: float = 0.0,
    seed: int | np.random.Generator | None = None,
    **individuals: Any,
) -> SimulatedCurves:
    """Repeated measurements ``y_it = X_i eta_it + e``; the coefficients eta are traits of `slamglmm.simulate.slam`.

    Parameters
    ----------
    traits : sequence of str
        Measured traits.
    basis : str
        Right side of the formula of the curves, in terms of ``time``.
    times : int or (int, int)
        Times of each individual: that many, the same for all and evenly spaced over `span`; or a number drawn from
        this range, both ends included, at times uniform over `span`.
    span : (float, float)
    noise : float or array, one for each measured trait
        Standard deviation of e.
    missing : float
        Share of the measurements made NaN at random.
    seed : int, numpy.random.Generator or None
    **individuals
        As in `slamglmm.simulate.slam`: families, lines, n_factors, factor_h2, ...; not n_traits or missing.

    Returns
    -------
    SimulatedCurves
        `truth` is that of `slamglmm.simulate.slam` for the coefficients, called ``"height[bs1]"``, and has besides: Eta
        (n × coefficients), noise_var (Series) and curves (a DataFrame like `long`, without noise and gaps).

    Raises
    ------
    OptionError
        For a number, share or size that cannot be.
    """
    check = Options(locals(), "simulate.curves")
    if isinstance(traits, str) or not (isinstance(traits, Sequence) and traits and all(type(t) is str for t in traits)):
        raise check.refuse("traits", "names of measured traits, such as ('height', 'weight')")
    check.text("basis", "the right side of a formula in terms of time, such as 'bs(time, df=4)'")
    fixed, (least, most) = is_whole(times), check.span("times")
    check.numbers("span", length=2)
    if not span[0] < span[1]:
        raise check.refuse("span", "the first and the last time, the earlier one first")
    check.number("missing", least=0, below=1)
    check.numbers("noise", length=len(traits), single=True, least=0)
    check.seed(generator=True)
    sd = np.asarray(noise, dtype=float)
    rng = np.random.default_rng(seed)
    n_columns = design(f"~ {basis}", {"time": np.linspace(*span, 100)}).X.shape[1]
    coefficients = slam(n_traits=n_columns * len(traits), seed=rng, **individuals)
    frame = coefficients.frame
    (individual, *_) = coefficients.relmat
    if frame[individual].duplicated().any():
        raise OptionError("simulate.curves: records must be 1; an individual is measured at several times instead.")
    n = len(frame)
    counts = rng.integers(least, most + 1, n)
    codes = np.repeat(np.arange(n), counts)
    at = np.tile(np.linspace(*span, least), n) if fixed else rng.uniform(*span, len(codes))
    long = pd.DataFrame({individual: frame[individual].to_numpy()[codes], "time": at})
    long = long.iloc[np.lexsort((at, codes))].reset_index(drop=True)

    made = design(f"~ {basis}", long)
    X = made.X.to_numpy()
    names = [f"{trait}[{column}]" for trait in traits for column in made.short_names]
    eta = coefficients.Y.to_numpy()
    clean = pd.DataFrame(
        {
            trait: np.einsum("ib,ib->i", X, eta[codes, t * n_columns : (t + 1) * n_columns])
            for t, trait in enumerate(traits)
        }
    )
    measured = clean + rng.standard_normal(clean.shape) * sd
    measured = measured.mask(rng.random(clean.shape) < missing) if missing else measured
    mapping = dict(zip(coefficients.Y.columns, names, strict=True))
    truth = renamed(coefficients.truth, mapping)
    truth["Eta"] = coefficients.Y.rename(columns=mapping)
    truth["noise_var"] = pd.Series(np.broadcast_to(sd**2, len(traits)).copy(), index=list(traits))
    truth["curves"] = long.join(clean)
    return SimulatedCurves(
        frame=frame,
        Y=truth["Eta"],
        relmat=coefficients.relmat,
        formula=coefficients.formula,
        truth=truth,
        long=long.join(measured),
        curve=f"{' + '.join(traits)} ~ {basis}",
        individual=individual,
    )
