"""Curves of individuals: repeated measurements as a linear model in a basis, with coefficients as latent traits."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
import pandas as pd

from ..design import Design, design
from ..design.columns import open_frame, take_columns
from ..errors import DataError, OptionError, shortlist
from ..linalg.fixed_part import FixedPart
from ..options import Options
from .base import Likelihood, Link, Measurements, Parameters
from .cross_products import CrossProducts

START_ITERATIONS = 30


@dataclass(frozen=True, eq=False)
class Regression(Link):
    """Each individual's curve is a linear model in a basis; its coefficients are the latent traits.

    ``y_it = X_i eta_it + e`` for the measurements of trait t on individual i, at times of its own, with ``e ~ N(0,
    1/phi_t)``. The formula of the model is about individuals, that of the link about their measurements.

    Parameters
    ----------
    formula : str or sequence of str
        Measured traits, and the basis of their curves: ``"height + weight ~ bs(age, df=5)"``, or ``["height ~ bs(age,
        df=5)", "teeth ~ age"]``. Any fixed effects of the grammar; `bs_diff` gives splines whose roughness is shrunk,
        ``0 + cc(day, df=5)`` and ``bs_diff(day, df=5, periodic=True)`` periodic ones.
    data : DataFrame
        Long format: one row for each time an individual was measured; NaN in a trait that was not.
    individual : str
        Column of `data` that says whose the measurements are, and of the frame of individuals (or the name of its
        index).
    noise_V, noise_nu : float
        Prior of the measurement noise: ``phi_t s_t^2 ~ Ga(noise_nu - 1, noise_nu noise_V)``, where ``s_t^2`` is the
        variance of the measurements around one curve for all.
    individuals : Index, optional
        Individuals of the rows of the frame; `slamglmm.slam` looks them up.
    """

    formula: str | Sequence[str]
    data: Any = field(repr=False)
    individual: str
    noise_V: float = 0.05
    noise_nu: float = 3.0
    individuals: pd.Index | None = field(default=None, repr=False)

    brings_data: ClassVar[bool] = True
    keeps: ClassVar[tuple[str, ...]] = ("Eta",)
    example: ClassVar[str] = "Regression('height ~ bs(age, df=5)', long, individual='id')"

    def __post_init__(self) -> None:
        check = Options(vars(self), "Regression")
        check.number("noise_V", above=0)
        check.number("noise_nu", above=1)
        twice = [name for name, count in Counter(self._measured).items() if count > 1]
        if twice:
            raise OptionError(
                f"Regression: more than one formula measures {shortlist(twice)}. Give each trait one basis."
            )

    @cached_property
    def designs(self) -> tuple[Design, ...]:
        """Basis and measured traits of each formula, one row for each row of `data` with a time."""
        formulas = (self.formula,) if isinstance(self.formula, str) else tuple(self.formula)
        return tuple(_read_formula(formula, self.data) for formula in formulas)

    @property
    def _measured(self) -> list[str]:
        return [str(name) for made in self.designs for name in made.traits]

    @cached_property
    def _owners(self) -> np.ndarray:
        """Individual of each row of `data`."""
        owners = take_columns(open_frame(self.data), [self.individual], "measurements")[self.individual]
        used = np.unique(np.concatenate([made.rows for made in self.designs]))
        nobody = int(owners.iloc[used].isna().sum())
        if nobody:
            raise DataError(
                f"Regression: column '{self.individual}' is missing in {nobody} row(s) of the measurements. Say whose "
                "they are, or drop them."
            )
        return np.asarray(owners)

    def times(self, made: Design) -> pd.DataFrame:
        """Individual and predictors of each row of one of the designs, individuals together.

        Parameters
        ----------
        made : Design
        """
        wanted = list(dict.fromkeys((self.individual, *made.recipe.fixed.needed)))
        table = take_columns(open_frame(self.data), wanted, "measurements").iloc[made.rows]
        return table.assign(**{self.individual: self._owners[made.rows]}).sort_values(wanted, ignore_index=True)

    def bind(self, frame: Any) -> Regression:
        """Look up the individuals of the frame that the model's formula is about.

        Parameters
        ----------
        frame : DataFrame

        Raises
        ------
        DataError
            No such column, an individual twice, or measurements of individuals that are not there.
        """
        opened = open_frame(frame)
        if self.individual in opened.columns:
            labels = pd.Index(np.asarray(take_columns(opened, [self.individual])[self.individual]))
        elif isinstance(opened, pd.DataFrame) and opened.index.name == self.individual:
            labels = opened.index
        else:
            raise DataError(
                f"Regression: data has no column '{self.individual}', so its rows cannot be matched with the "
                f"measurements; it has {shortlist(opened.columns)}."
            )
        if not labels.is_unique:
            raise DataError(
                f"Regression: data has more than one row for {shortlist(labels[labels.duplicated()].unique())} of "
                f"'{self.individual}'. Give one row for each individual; repeated measurements go into the link."
            )
        lost = pd.Index(self._owners[np.concatenate([made.rows for made in self.designs])]).unique().difference(labels)
        if len(lost):
            raise DataError(
                f"Regression: {len(lost)} individual(s) with measurements are not in data: {shortlist(lost)} (data has "
                f"{shortlist(labels, 3)}). Add them there, or drop their measurements."
            )
        return replace(self, individuals=labels)

    def prepare(self, data: Measurements) -> CurveLikelihood:
        """Cross products of every individual's basis; start by an empirical Bayes fit of the curves.

        An individual without measurements is drawn from the model.
        """
        if self.individuals is None:
            raise OptionError("Regression: the individuals are not known yet; call bind(frame) first.")
        if data.columns:
            raise OptionError(
                f"Regression brings its own measurements, but there are responses besides: {shortlist(data.columns)}. "
                "Leave them out, or give them a link: link=[(Regression(...), []), ('gaussian', [...])]."
            )
        if data.offset.any():
            raise OptionError("Regression: an offset would act on every coefficient. Leave it out.")
        codes = self.individuals[data.rows].get_indexer(pd.Index(self._owners))
        values, traits = [], []
        curves: list[Curves] = []
        starts: list[CurveStart] = []
        for made in self.designs:
            assert made.Y is not None
            for name, column in made.Y.items():
                y = np.full(len(codes), np.nan)
                y[made.rows] = np.where(codes[made.rows] >= 0, column.to_numpy(), np.nan)
                seen = ~np.isnan(y)
                records = Records(made.X.to_numpy()[seen[made.rows]], codes[seen].astype(np.intp), len(data.rows))
                _check_basis(str(name), records.X, list(made.X.columns))
                grams, which = records.grams()
                starts.append(start_curves(records, grams, which, y[seen], data.fixed, str(name)))
                products = CrossProducts.of(grams, which)
                curves.append(Curves.around(records, seen, products, starts[-1].eta, y[seen]))
                values.append(y)
                traits += [f"{name}[{part}]" for part in made.short_names]
        eta = np.concatenate([start.eta for start in starts])
        return CurveLikelihood(
            traits=tuple(traits),
            start=eta,
            known=np.zeros(eta.shape, dtype=bool),
            informative=np.ones(eta.shape, dtype=bool),
            base_coef=np.concatenate([start.coef for start in starts]),
            scale=np.concatenate([start.scale for start in starts]),
            measured=tuple(self._measured),
            values=np.array(values),
            curves=tuple(curves),
            noise_shape=self.noise_nu - 1.0,
            noise_rate=np.array([self.noise_nu * self.noise_V * start.spread for start in starts]),
            first_noise=np.array([start.noise_var for start in starts]),
        )


def _read_formula(formula: str, data: Any) -> Design:
    made = design(formula, data)
    if made.terms or made.offset is not None:
        raise OptionError(
            f"Regression({formula!r}): expected a basis only, such as 'height ~ bs(age, df=5)'. Random effects and "
            "offsets belong in the formula of the model, where they act on the coefficients."
        )
    if made.Y is None:
        raise OptionError(
            f"Regression({formula!r}): no measured trait. Write it left of '~', as in 'height ~ bs(age, df=5)'."
        )
    return made


def _check_basis(trait: str, X: np.ndarray, names: Sequence[str]) -> None:
    rank = np.linalg.matrix_rank(X / np.maximum(np.linalg.norm(X, axis=0), 1e-300)) if len(X) else 0
    if rank < len(names):
        raise DataError(
            f"Regression: the {len(names)} columns of the basis ({shortlist(names)}) have rank {rank} over the "
            f"{len(X)} measurements of '{trait}'. Take fewer columns; cc() and cr() span the intercept, so write "
            "'0 + cc(...)'."
        )


# -- what the measurements say about the coefficients ---------------------------------------------------------------


@dataclass(frozen=True)
class Records:
    """Rows of a basis and whose they are.

    Attributes
    ----------
    X : ndarray, shape (N, b)
    codes : ndarray of int, shape (N,)
        Individual.
    n : int
        Individuals, with or without records.
    """

    X: np.ndarray
    codes: np.ndarray
    n: int

    def sums(self, values: np.ndarray) -> np.ndarray:
        """``X_i' v_i`` of each individual, shape (b, n)."""
        return np.array([np.bincount(self.codes, column * values, self.n) for column in self.X.T])

    def curves(self, eta: np.ndarray) -> np.ndarray:
        """``X_i eta_i`` at every record, shape (N,), from coefficients (b, n)."""
        out = np.zeros(len(self.X))
        for column, coefficient in zip(self.X.T, eta, strict=True):
            out += column * coefficient[self.codes]
        return out

    def grams(self) -> tuple[np.ndarray, np.ndarray]:
        """Distinct ``X_i'X_i``, shape (m, b, b), and which each individual has, shape (n,).

        Individuals with the same rows of the basis, in whatever order, have the same one.
        """
        order = np.lexsort((*self.X.T, self.codes))
        X, stops = self.X[order], np.cumsum(np.bincount(self.codes, minlength=self.n))
        position: dict[bytes, int] = {}
        grams: list[np.ndarray] = []
        which = np.empty(self.n, dtype=np.intp)
        for i, (start, stop) in enumerate(zip(np.r_[0, stops[:-1]], stops, strict=True)):
            rows = X[start:stop]
            which[i] = position.setdefault(rows.tobytes(), len(grams))
            if which[i] == len(grams):
                grams.append(rows.T @ rows)
        return np.array(grams), which


@dataclass(frozen=True)
class Curves:
    """Measurements of one trait, as what they say about the coefficients.

    Attributes
    ----------
    records : Records
        Where the trait was measured.
    seen : ndarray of bool
        Which rows of the long data these are.
    products : CrossProducts
    reference : ndarray, shape (b, n)
        Coefficients near the data: sums are taken around them, so that nothing cancels.
    slope : ndarray, shape (b, n)
        ``X_i' (y_i - X_i reference_i)``.
    rss : float
        Sum of squares of ``y - X reference``.
    """

    records: Records
    seen: np.ndarray
    products: CrossProducts
    reference: np.ndarray
    slope: np.ndarray
    rss: float

    @classmethod
    def around(
        cls, records: Records, seen: np.ndarray, products: CrossProducts, reference: np.ndarray, y: np.ndarray
    ) -> Curves:
        """From the measurements y, shape (N,)."""
        rest = y - records.curves(reference)
        return cls(records, seen, products, reference, records.sums(rest), float(rest @ rest))

    def draw(self, noise_var: float, mean: np.ndarray, prec: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Coefficients (b, n) given the model's mean (b, n) and precisions (b,); eq. LINK-21."""
        rhs = self.slope / noise_var + prec[:, None] * (mean - self.reference)
        return self.reference + self.products.draw(1.0 / noise_var, prec, rhs, rng.standard_normal(rhs.shape))

    def sum_of_squares(self, eta: np.ndarray) -> float:
        """``sum_i |y_i - X_i eta_i|^2``."""
        step = eta - self.reference
        return max(0.0, self.rss - 2.0 * float(np.vdot(step, self.slope)) + self.products.form(step))


@dataclass(frozen=True)
class CurveLikelihood(Likelihood):
    """Measurements given the coefficients of curves; those of a trait are drawn jointly.

    The data are traits × rows of the long data.

    Attributes
    ----------
    measured : tuple of str
        Traits.
    values : ndarray, shape (traits, rows of the long data)
    curves : tuple of Curves
        One for each.
    noise_shape : float
    noise_rate : ndarray
        Prior of the precision of the noise of each trait: a gamma.
    first_noise : ndarray
        First variances of the noise.
    """

    measured: tuple[str, ...]
    values: np.ndarray
    curves: tuple[Curves, ...]
    noise_shape: float
    noise_rate: np.ndarray
    first_noise: np.ndarray

    has_shared: ClassVar[bool] = True
    separable: ClassVar[bool] = False

    def labels(self) -> Mapping[str, tuple[tuple[str, tuple[str, ...]], ...]]:
        """Variance of the noise of each measured trait."""
        return {"noise_var": (("measured", self.measured),)}

    def start_parameters(self) -> Parameters:
        """Those of the empirical Bayes fit."""
        return {"noise_var": self.first_noise.copy()}

    def simulate_parameters(self, rng: np.random.Generator) -> Parameters:
        """Gamma precisions."""
        return {"noise_var": self.noise_rate / rng.standard_gamma(self.noise_shape, len(self.noise_rate))}

    def draw(
        self,
        eta: np.ndarray,
        mean: np.ndarray,
        prec: np.ndarray,
        parameters: Parameters,
        traits: slice,
        rng: np.random.Generator,
    ) -> None:
        """All coefficients of each individual and trait jointly; eq. LINK-21."""
        for part, curves, noise_var in zip(self._parts(), self.curves, parameters["noise_var"], strict=True):
            eta[part] = curves.draw(noise_var, mean[part], prec[part], rng)

    def draw_shared(self, eta: np.ndarray, parameters: Parameters, rng: np.random.Generator) -> None:
        """Variances of the noise; eq. LINK-22."""
        for t, (part, curves) in enumerate(zip(self._parts(), self.curves, strict=True)):
            rate = self.noise_rate[t] + 0.5 * curves.sum_of_squares(eta[part])
            shape = self.noise_shape + 0.5 * len(curves.records.codes)
            parameters["noise_var"][t] = rate / rng.standard_gamma(shape)

    def log_density(self, eta: np.ndarray, parameters: Parameters) -> np.ndarray:
        """Normal log density of every measurement."""
        variance = parameters["noise_var"][:, None]
        return -0.5 * np.log(2 * np.pi * variance) - 0.5 * (self.values - self._fitted(eta)) ** 2 / variance

    def simulate(self, eta: np.ndarray, parameters: Parameters, rng: np.random.Generator) -> np.ndarray:
        """Points of the curves, with noise."""
        fitted = self._fitted(eta)
        return fitted + rng.standard_normal(fitted.shape) * np.sqrt(parameters["noise_var"])[:, None]

    def with_data(self, data: np.ndarray) -> CurveLikelihood:
        """Other measurements at the same times."""
        curves = tuple(
            Curves.around(of.records, of.seen, of.products, of.reference, y[of.seen])
            for of, y in zip(self.curves, data, strict=True)
        )
        return replace(self, values=data, curves=curves)

    def _fitted(self, eta: np.ndarray) -> np.ndarray:
        """Curves where they were measured, NaN elsewhere."""
        fitted = np.full(self.values.shape, np.nan)
        for row, part, of in zip(fitted, self._parts(), self.curves, strict=True):
            row[of.seen] = of.records.curves(eta[part])
        return fitted

    def _parts(self) -> list[slice]:
        """Latent traits of each measured trait."""
        stops = np.cumsum([len(of.reference) for of in self.curves])
        return [slice(int(stop) - len(of.reference), int(stop)) for of, stop in zip(self.curves, stops, strict=True)]


# -- start ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class CurveStart:
    """An empirical Bayes fit of one trait's curves.

    Attributes
    ----------
    eta : ndarray, shape (b, n)
    coef : ndarray, shape (b, columns)
        Effects of the flat fixed effects on the coefficients of the curves.
    scale : ndarray, shape (b,)
        Standard deviation of the coefficients among individuals beyond the fixed effects.
    noise_var : float
    spread : float
        Variance of the measurements around curves that only the fixed effects tell apart.
    """

    eta: np.ndarray
    coef: np.ndarray
    scale: np.ndarray
    noise_var: float
    spread: float


def start_curves(
    records: Records, grams: np.ndarray, which: np.ndarray, y: np.ndarray, fixed: FixedPart, name: str
) -> CurveStart:
    """Fit ``eta_i ~ N(coef x_i, diag(scale^2))`` by EM, a few steps of it.

    Least squares of each individual would make the coefficients far too variable where measurements are few.

    Raises
    ------
    DataError
        Measurements that curves of the fixed effects fit exactly.
    """
    N, b = records.X.shape
    flat = fixed.flat
    # Each coefficient of the curve has every fixed effect.
    crossed = (records.X[:, :, None] * flat.T[records.codes][:, None, :]).reshape(N, -1)
    joint, _, rank, _ = np.linalg.lstsq(crossed, y, rcond=None)
    coef = joint.reshape(b, len(flat))
    rest = y - crossed @ joint
    spread = float(rest @ rest) / max(1, N - rank)
    if not spread > 1e-20 * max(float(y @ y) / N, np.finfo(float).tiny):
        raise DataError(
            f"Regression: the fixed effects and one curve for all fit '{name}' exactly. Leave the trait out."
        )
    noise_var = 0.5 * spread
    counts = np.bincount(which, minlength=len(grams))
    size = np.einsum("maa,m->a", grams, counts) / N
    var = 0.5 * spread / (b * size)
    to_coef = np.linalg.pinv(flat)
    left = max(1, records.n - np.linalg.matrix_rank(flat)) / records.n if len(flat) else 1.0
    for _ in range(START_ITERATIONS):
        cov = np.linalg.inv(grams / noise_var + np.diag(1.0 / var))
        # Deviations of the coefficients from what the fixed effects say, given the data.
        step = np.einsum("iab,bi->ai", cov[which], records.sums(rest)) / noise_var
        shift = step @ to_coef
        uncertain = np.einsum("maa,m->a", cov, counts)
        noise_var = (np.sum((rest - records.curves(step)) ** 2) + np.einsum("mab,mba,m->", grams, cov, counts)) / N
        var = (np.mean((step - shift @ flat) ** 2, axis=1) + uncertain / records.n) / left
        eta = coef @ flat + step
        coef = coef + shift
        rest = y - records.curves(coef @ flat)
    return CurveStart(eta, coef, np.sqrt(var), float(noise_var), spread)
