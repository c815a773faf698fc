"""Data from the factor model that `slamglmm.slam` fits."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import pandas as pd
from scipy import linalg
from scipy.special import expit

from ..errors import OptionError
from ..options import Options, by_group
from ..relmat import as_relmat, kinship
from .simulated import Simulated

HALF_SIB_COVARIANCE = 0.25


def slam(
    *,
    families: int = 50,
    per_family: int = 10,
    lines: int | None = None,
    relmat: dict[str, Any] | None = None,
    records: int = 1,
    n_traits: int = 20,
    n_factors: int = 3,
    factor_h2: Any = None,
    resid_h2: Any = 0.3,
    resid_var: Any = 0.5,
    density: float = 0.3,
    covariate: bool = True,
    second: str | None = None,
    n_second: int = 10,
    second_h2: Any = 0.1,
    missing: float = 0.0,
    covariances: bool = True,
    link: Literal["identity", "poisson", "negative_binomial", "binomial"] = "identity",
    intercept: float = 0.0,
    dispersion: float = 0.1,
    trials: int = 10,
    size_factors: Any = None,
    seed: int | np.random.Generator | None = None,
) -> Simulated:
    r"""Many traits of related individuals, some of their covariance through latent factors.

    .. math::

        Y = X B + F \Lambda + \sum_m Z_m U_{R,m} + E_R, \qquad F = \sum_m Z_m U_{F,m} + E_F,

    where column l of F has :math:`U_{F,m} \sim N(0, h_{lm} K_m)` and :math:`E_F \sim N(0, (1 - \sum_m h_{lm}) I)`, and
    trait j, with residual variance :math:`v_j`, has :math:`U_{R,m} \sim N(0, v_j h_{jm} K_m)` and
    :math:`E_R \sim N(0, v_j (1 - \sum_m h_{jm}) I)`. So random effect m has among-trait covariance
    :math:`G_m = \Lambda' \mathrm{diag}(h_{lm}) \Lambda + \mathrm{diag}(v_j h_{jm})`, and the rest
    :math:`R = \Lambda' \mathrm{diag}(1 - \sum_m h_{lm}) \Lambda + \mathrm{diag}(v_j (1 - \sum_m h_{jm}))`.

    Parameters
    ----------
    families, per_family : int
        Half-sib families (the default design): one sire each, K has 1 on the diagonal and 0.25 within a family.
        The grouping factor is ``animal``.
    lines : int, optional
        Instead: this many inbred lines with the standardized kinship of 5 random markers a line (mean diagonal 1,
        rank ``lines - 1``). The grouping factor is ``line``.
    relmat : dict, optional
        Instead: one grouping factor and its relationship matrix, in any form that `as_relmat` takes.
    records : int
        Rows for each individual or line.
    n_traits, n_factors : int
        p and k; k may be 0.
    factor_h2 : float or array of length k, optional
        Share of the first random effect in each factor; spread evenly from 0.8 down to 0.2 unless given.
    resid_h2 : float or array of length p
        Its share in what the factors leave of each trait.
    resid_var : float or array of length p
        Variance v that the factors leave of each trait.
    density : float
        Share of the traits each factor loads on (at least one trait); the loadings there are standard normal.
    covariate : bool
        Whether there is a covariate ``x``, standard normal, with effects N(0, 0.5^2).
    second : str, optional
        Name of a second grouping factor with K = I, its levels dealt out evenly at random.
    n_second : int
        Levels of `second`.
    second_h2 : float, or array of length k + p (factors, then traits)
        Share of `second`; with the first share at most 1.
    missing : float
        Share of the cells of Y made NaN at random, 0 <= missing < 1.
    covariances : bool
        Whether `truth` holds G and R; with many thousands of traits each p x p matrix takes gigabytes.
    link : str
        What is observed: Y itself, or counts around it, Poisson or negative binomial with mean ``size exp(Y)``, or
        binomial with logit Y. `truth` then is about the latent traits.
    intercept : float
        Mean of the intercepts, which are N(intercept, 1).
    dispersion : float
        d of negative binomial counts, whose variance is ``m + d m^2``.
    trials : int
        Of each binomial count.
    size_factors : array, one for each row, optional
        Sizes of counts; one unless given.
    seed : int, numpy.random.Generator or None
        The same seed gives the same data.

    Returns
    -------
    Simulated
        `truth` holds: G (dict, term -> p x p) and R (p x p) unless `covariances` is False, h2 (term x trait: diag G
        over diag of all G and R, so per unit of K), h2_factor (term x factor), Lambda (factor x trait), B (fixef x
        trait), F (n x k), U (dict, term -> level x trait: factor part and trait's own part together), H (n x p: the
        latent traits, without missing cells).

    Raises
    ------
    OptionError
        For a size, share or variance that cannot be.

    Examples
    --------
    >>> import slamglmm as sg
    >>> d = sg.simulate.slam(families=20, n_traits=6, n_factors=2, seed=1)
    >>> fit = sg.slam(d.formula, d.frame, Y=d.Y, relmat=d.relmat, draws=20, burn=20, chains=1, seed=1)
    >>> fit.G("animal").shape == d.truth["G"]["animal"].shape
    True
    """
    _refuse(locals())
    rng = np.random.default_rng(seed)
    group, k_matrix, frame = _individuals(families, per_family, lines, relmat, rng)
    columns = [*frame.columns, *([second] if second is not None else []), *(["x"] if covariate else [])]
    twice = [name for name in columns if columns.count(name) > 1]
    if twice:
        raise OptionError(
            f"simulate.slam: two columns would be called {twice[0]!r}; rename the second grouping factor or the group "
            "of relmat (x is the covariate)."
        )
    frame = frame.loc[frame.index.repeat(records)].reset_index(drop=True)
    n = len(frame)
    if size_factors is not None:
        Options(locals(), "simulate.slam").numbers("size_factors", length=n, above=0)
    traits = _numbered("trait", n_traits)
    factors = _numbered("factor", n_factors)

    roots = {group: _symmetric_root(k_matrix.to_numpy())}
    levels = {group: pd.Index(k_matrix.index)}
    if second is not None:
        levels[second] = pd.Index(_numbered(second, n_second))
        roots[second] = np.eye(n_second)
        frame[second] = rng.permutation(np.resize(levels[second].to_numpy(), n))
    terms = list(levels)

    # Row m: shares of random effect m, in the factors and in the traits.
    if factor_h2 is None:
        factor_h2 = np.linspace(0.8, 0.2, n_factors) if n_factors > 1 else 0.5
    of_second = np.broadcast_to(np.asarray(second_h2, dtype=float), n_factors + n_traits)
    in_factors = _shares(terms, "factor_h2", factor_h2, of_second[:n_factors])
    in_traits = _shares(terms, "resid_h2", resid_h2, of_second[n_factors:])
    variance = np.broadcast_to(np.asarray(resid_var, dtype=float), n_traits)

    loadings = np.zeros((n_factors, n_traits))
    n_loaded = max(1, round(density * n_traits))
    for row in loadings:
        row[rng.choice(n_traits, n_loaded, replace=False)] = rng.standard_normal(n_loaded)

    rest_factors, rest_traits = 1 - in_factors.sum(axis=0), 1 - in_traits.sum(axis=0)
    scores = np.sqrt(rest_factors) * rng.standard_normal((n, n_factors))
    y = np.sqrt(variance * rest_traits) * rng.standard_normal((n, n_traits))
    effects = {}
    for m, term in enumerate(terms):
        rows = levels[term].get_indexer(frame[term])
        r = len(levels[term])
        on_factors = roots[term] @ rng.standard_normal((r, n_factors)) * np.sqrt(in_factors[m])
        own = roots[term] @ rng.standard_normal((r, n_traits)) * np.sqrt(variance * in_traits[m])
        scores += on_factors[rows]
        y += own[rows]
        effects[term] = pd.DataFrame(on_factors @ loadings + own, index=levels[term], columns=traits)
    y += scores @ loadings

    fixef = pd.DataFrame([intercept + rng.standard_normal(n_traits)], index=["Intercept"], columns=traits)
    y += fixef.to_numpy()
    if covariate:
        frame["x"] = rng.standard_normal(n)
        fixef.loc["x"] = 0.5 * rng.standard_normal(n_traits)
        y += np.outer(frame["x"], fixef.loc["x"])

    latent = pd.DataFrame(y.copy(), columns=traits)
    y = _observe(y, link, dispersion, trials, size_factors, rng)
    y.ravel()[rng.choice(y.size, round(missing * y.size), replace=False)] = np.nan

    total = (loadings**2).sum(axis=0) + variance
    by_term = (in_factors @ loadings**2 + in_traits * variance) / total
    truth: dict[str, Any] = {
        "h2": pd.DataFrame(by_term, index=terms, columns=traits),
        "h2_factor": pd.DataFrame(in_factors, index=terms, columns=factors),
        "Lambda": pd.DataFrame(loadings, index=factors, columns=traits),
        "B": fixef,
        "F": pd.DataFrame(scores, columns=factors),
        "U": effects,
        "H": latent,
    }
    if covariances:
        truth["G"] = {
            term: _covariance(loadings, in_factors[m], variance * in_traits[m], traits) for m, term in enumerate(terms)
        }
        truth["R"] = _covariance(loadings, rest_factors, variance * rest_traits, traits)
    formula = " + ".join(["~ x" if covariate else "~ 1", *(f"(1 | {term})" for term in terms)])
    return Simulated(frame, pd.DataFrame(y, columns=traits), {group: k_matrix}, formula, truth)


def _observe(
    latent: np.ndarray, link: str, dispersion: float, trials: int, size_factors: Any, rng: np.random.Generator
) -> np.ndarray:
    """Data given the latent traits."""
    if link == "identity":
        return latent
    if link == "binomial":
        return rng.binomial(trials, expit(latent)).astype(float)
    mean = np.exp(latent)
    if size_factors is not None:
        mean *= np.asarray(size_factors, dtype=float)[:, None]
    if link == "negative_binomial":
        mean *= rng.gamma(1.0 / dispersion, dispersion, mean.shape)
    return rng.poisson(mean).astype(float)


def _individuals(
    families: int, per_family: int, lines: int | None, relmat: dict[str, Any] | None, rng: np.random.Generator
) -> tuple[str, pd.DataFrame, pd.DataFrame]:
    """Name of the grouping factor, its labelled K, and a frame with one row a level."""
    if relmat is not None:
        ((group, value),) = relmat.items()
        k = as_relmat(value, group).to_frame()
        return group, k, pd.DataFrame({group: k.index})
    if lines is not None:
        labels = _numbered("line", lines)
        # Every marker is made to vary, the first line against the last, so that none has to be left out.
        markers = 2 * rng.integers(0, 2, (lines, 5 * lines))
        markers[-1] = 2 - markers[0]
        return "line", kinship(pd.DataFrame(markers, index=labels), "standardized"), pd.DataFrame({"line": labels})
    labels = _numbered("animal", families * per_family)
    family = np.repeat(np.arange(families), per_family)
    k_values = HALF_SIB_COVARIANCE * (family[:, None] == family) + (1 - HALF_SIB_COVARIANCE) * np.eye(len(labels))
    sires = np.array(_numbered("sire", families))[family]
    return "animal", pd.DataFrame(k_values, labels, labels), pd.DataFrame({"animal": labels, "sire": sires})


def _covariance(loadings: np.ndarray, of_factors: np.ndarray, own: np.ndarray, traits: list[str]) -> pd.DataFrame:
    value = (loadings.T * of_factors) @ loadings + np.diag(own)
    return pd.DataFrame(value, index=traits, columns=traits)


def _numbered(noun: str, count: int) -> list[str]:
    """Names noun01 .. noun12, so that sorting keeps their order."""
    width = len(str(count))
    return [f"{noun}{i:0{width}d}" for i in range(1, count + 1)]


def _symmetric_root(k: np.ndarray) -> np.ndarray:
    # The symmetric root is unique, also for a singular K: the data do not depend on the signs and rotations
    # that eigenvectors come with on one machine or another.
    values, vectors = linalg.eigh(k)
    return (vectors * np.sqrt(values.clip(min=0))) @ vectors.T


def _shares(terms: list[str], name: str, first: Any, second: np.ndarray) -> np.ndarray:
    """Variance shares, term x column; the second row only when there is a second term."""
    shares = np.broadcast_to(np.asarray(first, dtype=float), second.shape)
    if len(terms) == 2:
        shares = np.vstack([shares, second])
    shares = np.atleast_2d(shares)
    if (shares < 0).any() or (shares.sum(axis=0) > 1 + 1e-12).any():
        sums = shares.sum(axis=0)
        raise OptionError(
            f"simulate.slam: variance shares must be at least 0 and sum to at most 1; {name} with second_h2 gives "
            f"sums from {sums.min():g} to {sums.max():g}."
        )
    # A sum of 1 may come out a rounding error above it, and its complement is a variance.
    return shares / np.maximum(shares.sum(axis=0), 1)


def _refuse(given: dict[str, Any]) -> None:
    """Options of `slam` that cannot be, one message each."""
    check = Options(given, "simulate.slam")
    if given["lines"] is not None and given["relmat"] is not None:
        raise OptionError("simulate.slam: give lines or relmat, not both.")
    if given["relmat"] is not None and len(by_group("relmat", given["relmat"], "matrix")) != 1:
        raise OptionError(f"simulate.slam: relmat must hold one grouping factor, got {len(given['relmat'])}.")
    check.choice("link", ("identity", "poisson", "negative_binomial", "binomial"))
    check.whole("families", "per_family", "records", "n_traits", "n_second", "trials", least=1)
    check.whole("lines", least=2, optional=True)
    check.whole("n_factors")
    check.number("dispersion", above=0)
    check.number("intercept")
    check.number("missing", least=0, below=1)
    check.number("density", above=0, most=1)
    check.flag("covariate", "covariances")
    check.text("second", "the name of a second grouping factor", optional=True)
    n_factors, n_traits = given["n_factors"], given["n_traits"]
    if given["factor_h2"] is not None:
        check.numbers("factor_h2", length=n_factors, single=True)
    check.numbers("resid_h2", length=n_traits, single=True)
    check.numbers("resid_var", length=n_traits, single=True, above=0)
    check.numbers("second_h2", length=n_factors + n_traits, single=True)
    check.seed(generator=True)
