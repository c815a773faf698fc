"""Every word of a `he` result (moments, REML, ML) recomputed by dense matrices.

The worst layout there is: an offset, a correlated random slope whose relationship matrix lists its levels in another
order than the data (two of them without records), a second grouping factor, traits in units that differ by 1000.
"""

import warnings
from statistics import NormalDist

import numpy as np
import pandas as pd
import pytest

import slamglmm as sg
from tests.reference import tables
from tests.reference.moments import DenseModel, gradient

TRAITS = ["heavy", "light"]
UNIT = np.array([50.0, 0.05])
COMPONENTS = ["Intercept|line", "Intercept:x|line", "x|line", "field"]
NAMES = [*COMPONENTS, "Residual"]
IS_VARIANCE = np.array([True, True, False, True, True])  # residual first, as theta
FORMULA = "~ 1 + x + offset(o) + (1 + x | line) + (1 | field)"


class Layout:
    """Data with strong effects, so that all estimates lie inside their bounds, and the dense model of them."""

    def __init__(self, seed=3, n=160):
        rng = np.random.default_rng(seed)
        self.levels = [f"l{i:02d}" for i in rng.permutation(26)]
        codes = np.arange(n) % 24
        fields = rng.integers(0, 12, n)
        x = 0.5 + rng.standard_normal(n)
        self.frame = pd.DataFrame(
            {
                "line": [self.levels[c] for c in codes],
                "field": [f"f{i:02d}" for i in fields],
                "x": x,
                "o": 3 * rng.standard_normal(n),
            },
            index=[f"r{i:03d}" for i in range(n)],
        )
        root = rng.standard_normal((26, 60))
        self.K = root @ root.T / 60
        Z = np.eye(26)[codes]
        self.Z, self.F = Z, np.eye(12)[fields]
        self.M = [Z, x[:, None] * Z]
        slopes = np.linalg.cholesky(self.K) @ rng.standard_normal((26, 4))
        G_half = np.array([[1.0, 0.3], [0.0, 0.8]])
        common = np.array([[1.0, 0.5], [0.0, 0.9]])
        u = np.stack([slopes[:, :2] @ common, slopes[:, 2:] @ common])  # effect, level, trait
        u = np.einsum("ef,elt->flt", G_half, u)
        field_effects = 0.9 * rng.standard_normal((12, 2)) @ common
        y = self.M[0] @ u[0] + self.M[1] @ u[1] + self.F @ field_effects + rng.standard_normal((n, 2)) @ common
        fixed = np.outer(np.ones(n), [2.0, 1.0]) + np.outer(x, [-1.0, 3.0])
        self.response = (y + fixed) * UNIT  # after the offset
        self.Y = pd.DataFrame(self.response + self.frame[["o"]].to_numpy(), self.frame.index, TRAITS)
        self.relmat = {"line": pd.DataFrame(self.K, self.levels, self.levels)}
        a, b = self.M
        kernels = [a @ self.K @ a.T, a @ self.K @ b.T + b @ self.K @ a.T, b @ self.K @ b.T, self.F @ self.F.T]
        self.model = DenseModel(np.column_stack((np.ones(n), x)), kernels)

    def fit(self, trait=None, **options):
        Y = self.Y if trait is None else self.Y[[trait]]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", sg.errors.SlamWarning)
            return sg.he(FORMULA, self.frame, Y=Y, relmat=self.relmat, **options)


@pytest.fixture(scope="module")
def data():
    return Layout()


@pytest.fixture(scope="module")
def moments(data):
    """Both traits by REHE, and the estimates by dense matrices (component, trait, trait)."""
    y = data.response
    theta = np.array([[data.model.moments(y[:, t], y[:, u]) for u in range(2)] for t in range(2)]).transpose(2, 0, 1)
    assert (np.einsum("itt->it", theta)[IS_VARIANCE] > 0).all()
    return data.fit(), theta


def same(ours, expected, **options):
    np.testing.assert_allclose(ours, expected, **({"rtol": 1e-7, "atol": 1e-12} | options))


def in_table_order(values):
    """Residual first to residual last."""
    return np.concatenate((values[1:], values[:1]))


def shares_of(values):
    return values / values[IS_VARIANCE].sum()


# -- moments ------------------------------------------------------------------------------------------------


def test_variances_errors_and_shares(data, moments):
    fit, theta = moments
    varcorr, h2 = fit.varcorr(), fit.h2()
    for t, trait in enumerate(TRAITS):
        table = varcorr.xs(trait, level="trait")
        assert list(table.index) == NAMES
        same(table["variance"], in_table_order(theta[:, t, t]))
        covariance = data.model.sandwich(theta, (t, t), (t, t))
        same(table["se"], in_table_order(np.sqrt(np.diag(covariance))))
        shares = shares_of(theta[:, t, t])
        same(table["share"], in_table_order(np.where(IS_VARIANCE, shares, np.nan)))
        same(h2[trait].loc[["Intercept|line", "x|line", "field"]], shares[[1, 3, 4]])


@pytest.mark.parametrize("level", [0.8, 0.95])
def test_intervals_of_variances_and_of_shares(data, moments, level):
    """The delta method of a share has two parts: its own variance, and the total it is divided by."""
    fit, theta = moments
    z = NormalDist().inv_cdf(0.5 + level / 2)
    variances, shares = fit.conf_int(level), fit.conf_int(level, of="share")
    assert "Intercept:x|line" not in shares.index.get_level_values("term")
    for t, trait in enumerate(TRAITS):
        at = theta[:, t, t]
        covariance = data.model.sandwich(theta, (t, t), (t, t))
        for i, name in zip([1, 2, 3, 4, 0], NAMES, strict=True):
            half = z * np.sqrt(covariance[i, i])
            same(variances.loc[(name, trait)], [at[i], at[i] - half, at[i] + half])
            if IS_VARIANCE[i]:
                slope = gradient(lambda v, i=i: shares_of(v)[i], at)
                half, share = z * np.sqrt(slope @ covariance @ slope), shares_of(at)[i]
                same(shares.loc[(name, trait)], [share, share - half, share + half], rtol=1e-5)


def test_intervals_where_an_estimate_is_held_at_zero(data):
    """They are centred at the estimate that may be negative, and their errors are those at the data's own variances."""
    rng = np.random.default_rng(5)
    z, n = NormalDist().inv_cdf(0.95), len(data.frame)
    for _ in range(50):
        field = rng.integers(0, 30, n)
        F = np.eye(30)[field]
        M = [data.M[0] @ data.K @ data.M[0].T, F @ F.T]
        model, y = DenseModel(data.model.X, M), data.response[:, 1]
        free = model.moments(y, y)
        if free[2] < -0.05 * free[0]:
            break
    assert free[2] < 0 < free[1]
    frame = data.frame.assign(field=[f"f{i:02d}" for i in field], y=data.Y["light"])
    formula = "y ~ 1 + x + offset(o) + (1 | line) + (1 | field)"
    with pytest.warns(sg.errors.BoundaryWarning):
        fit = sg.he(formula, frame, relmat=data.relmat)
    held = fit.theta[:, 0, 0]
    assert held[2] == 0
    covariance = model.sandwich(held[:, None, None])
    variances, shares = (fit.conf_int(0.9, of=of).droplevel("trait") for of in ("variance", "share"))
    for i, name in zip([1, 2, 0], ["line", "field", "Residual"], strict=True):
        half = z * np.sqrt(covariance[i, i])
        same(variances.loc[name], [held[i], free[i] - half, free[i] + half])
        slope = gradient(lambda v, i=i: v[i] / v.sum(), free)
        half, share = z * np.sqrt(slope @ covariance @ slope), free[i] / free.sum()
        same(shares.loc[name], [held[i] / held.sum(), share - half, share + half], rtol=1e-5)


def test_covariances_and_correlations_among_traits(data, moments):
    fit, theta = moments
    for i, name in zip([1, 3, 4], ["Intercept|line", "x|line", "field"], strict=True):
        same(fit.G(name), theta[i])
        row = fit.rg(name, level=0.9).loc[(name, *TRAITS)]
        pairs = [(0, 0), (1, 1), (0, 1)]

        def rg(v):
            return v[2] / np.sqrt(v[0] * v[1])

        at = np.array([theta[i][pair] for pair in pairs])
        covariance = np.array([[data.model.sandwich(theta, a, b)[i, i] for b in pairs] for a in pairs])
        slope = gradient(rg, at)
        se = np.sqrt(slope @ covariance @ slope)
        z = NormalDist().inv_cdf(0.95)
        same(row[["rg", "se", "lower", "upper"]], [rg(at), se, rg(at) - z * se, rg(at) + z * se], rtol=1e-5)
    same(fit.R(), theta[0])
    for t, trait in enumerate(TRAITS):
        same(fit.covariance("line", trait), [[theta[1, t, t], theta[2, t, t]], [theta[2, t, t], theta[3, t, t]]])


def test_fixed_and_random_effects_and_predictions(data, moments):
    fit, theta = moments
    table, z = fit.fixef(prob=0.9), NormalDist().inv_cdf(0.95)
    new = data.frame.iloc[[5, 77, 100, 3]].copy()
    new["x"], new["o"] = [2.0, -1.0, 0.3, 4.0], [10.0, 0.0, -3.0, 1.0]
    new["line"] = [data.levels[25], data.levels[3], "nobody", data.levels[0]]  # without records, known, unknown, known
    for t, trait in enumerate(TRAITS):
        at, y = theta[:, t, t], data.response[:, t]
        coef, covariance = data.model.fixed_effects(y, at)
        same(fit.fixef()[trait], coef)
        for b, name in enumerate(["Intercept", "x"]):
            se = np.sqrt(covariance[b, b])
            same(
                table.loc[(name, trait), ["estimate", "se", "lower", "upper"]],
                [coef[b], se, coef[b] - z * se, coef[b] + z * se],
            )
        rest = data.model.weighted_residual(y, at)
        on_levels = np.column_stack([data.K @ M.T @ rest for M in data.M])
        u = on_levels @ np.array([[at[1], at[2]], [at[2], at[3]]])
        line = fit.ranef("line")[trait].loc[data.levels]
        same(line[["Intercept", "x"]], u)
        same(fit.ranef("x|line")[trait].loc[data.levels], u[:, 1])
        of_fields = at[4] * data.F.T @ rest
        fields = [f"f{i:02d}" for i in range(12)]
        same(fit.ranef("field")[trait].loc[fields], of_fields)
        whole = data.frame["o"] + data.model.X @ coef + data.M[0] @ u[:, 0] + data.M[1] @ u[:, 1] + data.F @ of_fields
        same(fit.fitted()[trait], whole)
        known = pd.DataFrame(u, data.levels).reindex(new["line"]).fillna(0.0).to_numpy()
        ours = fit.predict(new, new_levels="zero")[trait]
        fixed = new["o"] + coef[0] + coef[1] * new["x"]
        own = pd.Series(of_fields, fields).loc[new["field"]].to_numpy()
        same(ours, fixed + known[:, 0] + new["x"] * known[:, 1] + own)
        same(fit.predict(new, random="none")[trait], fixed)
        same(fit.predict(new, random=["field"])[trait], fixed + own)


@pytest.mark.parametrize("of", ["variance", "share"])
def test_percentiles_of_the_bootstrap(data, of):
    """The ends that leave half of the rest on either side, of the estimates or of their shares."""
    fit = data.fit("light", se="bootstrap", n_draws=40, seed=1)
    draws = fit.uncertainty.draws[0]
    if of == "share":
        draws = np.array([shares_of(draw) for draw in draws])
    for level in (0.5, 0.95):
        table = fit.conf_int(level, of=of, kind="quantile").droplevel("trait")
        for i, name in zip([1, 2, 3, 4, 0], NAMES, strict=True):
            if of == "variance" or IS_VARIANCE[i]:
                tails = [tables.quantile(draws[:, i], q) for q in ((1 - level) / 2, (1 + level) / 2)]
                same(table.loc[name, ["lower", "upper"]], tails)
    covariance = np.cov(fit.uncertainty.draws[0].T)
    same(fit.varcorr()["se"], in_table_order(np.sqrt(np.diag(covariance))), rtol=0.02)


# -- likelihood -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["reml", "ml"])
def test_likelihood_fits(data, method):
    """The estimate is the top, its errors those of the observed information, and the criteria count all parameters."""
    restricted = method == "reml"
    for t, trait in enumerate(TRAITS):
        fit, y = data.fit(trait, method=method), data.response[:, t]
        theta = fit.theta[:, 0, 0]
        top = data.model.log_likelihood(y, theta, restricted)
        same(fit.loglik[0], top, rtol=1e-8)
        for i in range(5):
            for factor in (0.97, 1.03):
                moved = theta.copy()
                moved[i] *= factor
                assert data.model.log_likelihood(y, moved, restricted) < top
        covariance = np.linalg.inv(data.model.information(y, theta, restricted))
        table = fit.varcorr().droplevel("trait")
        same(table["se"].loc[NAMES], in_table_order(np.sqrt(np.diag(covariance))), rtol=1e-3)
        shares = fit.conf_int(0.9, of="share").droplevel("trait")
        z = NormalDist().inv_cdf(0.95)
        for i, name in zip([1, 3, 4, 0], ["Intercept|line", "x|line", "field", "Residual"], strict=True):
            slope = gradient(lambda v, i=i: shares_of(v)[i], theta)
            half, share = z * np.sqrt(slope @ covariance @ slope), shares_of(theta)[i]
            same(shares.loc[name], [share, share - half, share + half], rtol=1e-3)
        # Two fixed effects, three parameters of the slope, one of the field, the residual.
        same(fit.aic, -2 * top + 2 * 7, rtol=1e-8)
        same(fit.bic, -2 * top + np.log(160) * 7, rtol=1e-8)
        same(fit.fixef()[trait], data.model.fixed_effects(y, theta)[0], rtol=1e-6)


def test_criteria_do_not_count_a_column_that_says_nothing_new(data):
    """A combination of other columns has no parameter of its own."""
    frame = data.frame.assign(twice=2 * data.frame["x"] - 1, y=data.Y["light"])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", sg.errors.SlamWarning)
        plain, more = (
            sg.he(f"y ~ 1 + x {extra} + offset(o) + (1 | field)", frame, method="ml", se=None)
            for extra in ("", "+ twice")
        )
    same(more.aic, plain.aic)
    same(more.bic, plain.bic)
