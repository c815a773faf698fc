"""Every word of a `slam` result, recomputed by plain loops from draws that are known.

The layout is the worst there is: traits in units that differ by 10^4 and permuted by missing patterns, an offset, a
random slope, two grouping factors, fixed effects through factors, loadings that follow covariates of the traits,
covariates of single traits, rows without data. The draws are replaced by arrays of our own whose three chains lie in
different places, and whose factors come in another order and with other signs in every draw.
"""

import dataclasses
import warnings

import numpy as np
import pandas as pd
import pytest
import xarray as xr

import slamglmm as sg
from slamglmm.errors import OptionError
from tests.reference import tables

TRAITS = ["tall", "wide", "old", "red", "big"]
UNIT = np.array([1.0, 30.0, 0.02, 5.0, 200.0])
TERMS = ["line", "x|line", "field"]
CHAINS, DRAWS, K = 3, 60, 3
SILENT = [3, 17, 28, 33, 40, 45]
# Where the draws of each chain lie.
PLACE = np.array([0.0, 1.5, -1.0])
EVERYTHING = (*sg.DEFAULT_STORE, "U", "U_var", "G", "R", "G_diag", "R_diag", "Eta")
PARTS = ("Lambda", "h2_factor", "h2_residual", "residual_var")


def layout(seed=1, n=48):
    """Frame, responses, relationship matrix and covariates of the traits."""
    rng = np.random.default_rng(seed)
    lines = [f"l{i:02d}" for i in range(14)]  # the last two have no records
    frame = pd.DataFrame(
        {
            "line": [lines[i % 12] for i in range(n)],
            "field": [f"f{i % 7}" for i in range(n)],
            "x": 1 + rng.standard_normal(n),
            "w": rng.standard_normal(n),
            "o": 3 * rng.standard_normal(n),
            "c1": rng.binomial(2, 0.4, n).astype(float),
            "c2": rng.standard_normal(n),
        },
        index=[f"r{i:02d}" for i in range(n)],
    )
    root = rng.standard_normal((14, 18))
    K_lines = root @ root.T / 18
    shuffled = rng.permutation(14)
    through = np.outer(1.5 * frame["w"] + rng.standard_normal(n), [1.0, -0.8, 0.7, 0.9, 1.2])
    Y = pd.DataFrame(through + rng.standard_normal((n, 5)), frame.index, TRAITS)
    Y = Y * UNIT + [0.0, 1000.0, -3.0, 7.0, 50.0] + frame[["o"]].to_numpy()
    Y.iloc[SILENT] = np.nan
    Y.loc[frame.index[5:15], ["tall", "red"]] = np.nan
    Y.loc[frame.index[20:26], ["old"]] = np.nan
    trait_data = pd.DataFrame({"z": [10.0, 30.0, 20.0, 50.0, 5.0]}, index=TRAITS)
    return frame, Y, {"line": pd.DataFrame(K_lines, lines, lines).iloc[shuffled, shuffled]}, trait_data


def run(frame, Y, relmat, trait_data, **options):
    settings = {"n_factors": K, "draws": 12, "burn": 6, "thin": 2, "chains": CHAINS, "seed": 1, "h2_grid": 4}
    with warnings.catch_warnings():
        # What the fit says of a short run with a slope is not what is asked here.
        warnings.simplefilter("ignore", sg.errors.SlamWarning)
        return sg.slam(
            "~ 1 + x + offset(o) + (1 + x | line) + (1 | field)",
            frame,
            Y=Y,
            relmat=relmat,
            factor_formula="~ x + w",
            loadings_on="~ z",
            trait_data=trait_data,
            cis={"red": ["c1", "c2"], "wide": ["c2"]},
            progress=False,
            **(settings | options),
        )


@pytest.fixture(scope="module")
def data():
    return layout()


@pytest.fixture(scope="module")
def sampled(data):
    """What the sampler made of the layout."""
    return run(*data, store=EVERYTHING)


@pytest.fixture(scope="module")
def long(data):
    """Draws enough for their moments."""
    return run(*data, store=("B", "B_factor", "Lambda", "cis", "Eta_mean", "U", "U_mean", "U_var"), draws=150, chains=2)


def shares(rng, parts, *shape):
    """Random shares of `parts` effects and of the residual, which is left out; the second axis from the end."""
    drawn = rng.dirichlet(np.full(parts + 1, 2.0), shape)[..., :parts]
    return np.moveaxis(drawn, -1, -2)


@pytest.fixture(scope="module")
def known(sampled):
    """Arrays for every variable of the posterior, and the factors before they were shuffled."""
    rng = np.random.default_rng(7)
    cd = (CHAINS, DRAWS)
    place = PLACE[:, None, None, None]

    def wobble(*shape, size=0.3):
        return size * rng.standard_normal((*cd, *shape))

    base = np.array([[2.0, 2.5, -1.0, 0.5, -2.2], [-1.5, 1.0, 0.3, -0.8, 1.0], [0.2, -0.4, 0.5, 0.6, 0.2]]) * UNIT
    factors = {
        "Lambda": base * (1.0 + 0.2 * place) * (1 + wobble(K, 5, size=0.05)),
        "h2_factor": shares(rng, 3, *cd, K),
        "B_factor": np.array([[0.5, -1.0, 2.0], [1.5, 0.3, -0.7]]) * (1.0 + 0.2 * place) + wobble(2, K),
        "loading_effects": np.array([[0.7, -0.4, 0.2], [0.02, 0.05, -0.01]]) * (1 + 0.1 * place)
        + wobble(2, K, size=0.01),
    }
    out, orders, signs = {}, np.empty((*cd, K), int), np.empty((*cd, K))
    for c in range(CHAINS):
        for d in range(DRAWS):
            orders[c, d], signs[c, d] = rng.permutation(K), rng.choice([-1.0, 1.0], K)
    for name, values in factors.items():
        out[name] = np.empty_like(values)
        for c in range(CHAINS):
            for d in range(DRAWS):
                order, sign = orders[c, d], signs[c, d]
                if name == "Lambda":
                    out[name][c, d] = values[c, d][order] * sign[:, None]
                else:
                    out[name][c, d] = values[c, d][:, order] * (1.0 if name == "h2_factor" else sign)
    out["h2_residual"] = shares(rng, 3, *cd, 5)
    out["residual_var"] = np.exp(0.2 * PLACE[:, None, None] + wobble(5)) * UNIT**2
    out["B"] = (place + wobble(2, 5) + [[1.0], [-0.5]]) * UNIT
    out["cis"] = 2.0 + PLACE[:, None, None] + wobble(3)
    parts, whole = parts_and_variances(sampled, (out, factors))
    out["G"], out["R"] = np.moveaxis(whole[:-1], 0, 2), whole[-1]
    diagonals = np.einsum("mcdjj->mcdj", whole)
    out["G_diag"], out["R_diag"] = np.moveaxis(diagonals[:-1], 0, 2), diagonals[-1]
    diagonals = np.einsum("mcdjj->mcdj", parts)
    out["h2"] = np.moveaxis(diagonals[:-1] / diagonals.sum(axis=0), 0, 2)
    for label in TERMS:
        levels = sampled.posterior[f"U_{label}"].shape[2]
        out[f"U_{label}"] = (place + wobble(levels, 5, size=1.0)) * UNIT
        # Not the moments of these draws: what comes from where must show.
        out[f"U_mean_{label}"] = (PLACE[:, None, None] + rng.standard_normal((CHAINS, levels, 5))) * UNIT
        out[f"U_var_{label}"] = rng.uniform(0.5, 2.0, (CHAINS, levels, 5)) * UNIT**2
    out["Eta"] = (place + wobble(48, 5)) * UNIT
    out["Eta_mean"] = (PLACE[:, None, None] + rng.standard_normal((CHAINS, 48, 5))) * UNIT
    assert set(out) == set(sampled.posterior), "a variable of the posterior without known draws"
    return out, factors


@pytest.fixture(scope="module")
def fit(sampled, known):
    """The result with the known draws, covariances from their parts."""
    return with_draws(sampled, known, [name for name in known[0] if name not in ("G", "R", "G_diag", "R_diag")])


def with_draws(sampled, known, names):
    labels = sampled.posterior.drop_dims("draw").coords
    values = {name: (sampled.posterior[name].dims, known[0][name]) for name in names}
    posterior = xr.Dataset(values, coords={**labels, "draw": np.arange(DRAWS)})
    return dataclasses.replace(sampled, posterior=posterior)


def square_units(fit):
    """Squared value of the covariate at which the share of each random effect is; then one for the residual."""
    return np.array([*(component.unit**2 for component in fit.components), 1.0])


def parts_and_variances(fit, known):
    """Part of each random effect, then of the residual, in the covariance of the traits; and for one unit of a slope.

    Both (terms + 1, chain, draw, trait, trait): shares are of the parts.
    """
    parts = tables.covariance_draws(*(known[0][name] for name in PARTS))
    return parts, parts / square_units(fit)[:, None, None, None, None]


def same(ours, expected, **options):
    np.testing.assert_allclose(ours, expected, **({"rtol": 1e-9, "atol": 1e-12} | options))


def test_the_layout_is_as_bad_as_it_says(sampled):
    """Traits in another order inside; rows without data; levels without records."""
    order = sampled.chains.problem.order
    assert not np.array_equal(np.argsort(order), order), "the permutation is its own inverse: a reversal would not show"
    assert len(sampled.chains.problem.active) == 48 - len(SILENT)
    assert [c.label for c in sampled.components] == TERMS
    lines = list(sampled.posterior["level_line"].values)
    assert lines != sorted(lines), "levels in the order of the relationship matrix"


# -- variances --------------------------------------------------------------------------------------------------------


def test_variances_and_shares(fit, known):
    parts, variances = (np.einsum("mcdjj->mcdj", whole) for whole in parts_and_variances(fit, known))
    total = parts.sum(axis=0)
    varcorr, h2 = fit.varcorr(prob=0.8), fit.h2(prob=0.8)
    assert list(varcorr.index.get_level_values("term").unique()) == [*TERMS, "Residual"]
    assert list(h2.index.get_level_values("term").unique()) == TERMS
    for m, term in enumerate([*TERMS, "Residual"]):
        for name, expected in tables.summary(variances[m], 0.8).items():
            same(varcorr.loc[term, name].loc[TRAITS], expected)
        same(varcorr.loc[term, "share"].loc[TRAITS], tables.pooled(parts[m] / total).mean(axis=0))
        same(fit.variance_draws(term), variances[m])
        if term != "Residual":
            for name, expected in tables.summary(parts[m] / total, 0.8).items():
                same(h2.loc[term, name].loc[TRAITS], expected)


def test_shares_without_stored_ones(sampled, known):
    """From the diagonals of G and R, and from their whole matrices."""
    expected = tables.summary(known[0]["h2"], 0.5)
    for names in (["G_diag", "R_diag"], ["G", "R"]):
        h2 = with_draws(sampled, known, names).h2(prob=0.5)
        for name, values in expected.items():
            same(h2[name], values.ravel())


@pytest.mark.parametrize("stored", ["parts", "whole"])
def test_covariances_and_correlations(sampled, fit, known, stored):
    """Means of matrices and of correlations (a ratio of means is another number), trait by trait."""
    result = fit if stored == "parts" else with_draws(sampled, known, ["G", "R"])
    _, whole = parts_and_variances(fit, known)
    for m, term in enumerate([*TERMS, "Residual"]):
        mean = tables.pooled(whole[m]).mean(axis=0)
        table = result.R() if term == "Residual" else result.G(term)
        assert list(table.index) == list(table.columns) == TRAITS
        same(table, mean)
        correlation = tables.pooled(tables.correlations(whole[m])).mean(axis=0)
        same(result.correlation(term), correlation)
        sd = np.sqrt(np.diag(mean))
        assert np.abs(correlation - mean / np.outer(sd, sd)).max() > 0.01
        same(result.covariance_draws(term), whole[m])


def test_loadings_and_what_acts_on_them(fit, known, data):
    """Factors matched in order and sign: largest first, their largest loading positive; effects move with them."""
    factors = known[1]
    mean = tables.pooled(factors["Lambda"]).mean(axis=0)
    order = np.argsort([-np.sum(row**2) for row in mean])
    sign = np.array([np.sign(row[np.argmax(np.abs(row))]) for row in mean])
    assert (sign < 0).any()
    assert list(fit.loadings().columns) == TRAITS
    same(fit.loadings(), (mean * sign[:, None])[order])
    effects = (tables.pooled(factors["loading_effects"]).mean(axis=0) * sign)[:, order]
    table = fit.loading_effects()
    assert list(table.index) == ["Intercept", "z"]
    same(table, effects)
    new = pd.DataFrame({"z": [12.0, 40.0]}, index=["cold", "hot"])
    predicted = fit.predict_loadings(new)
    for trait, z in new["z"].items():
        same(predicted[trait], effects[0] + z * effects[1])
    used = fit.n_factors_used(prob=0.9)
    needed = tables.factors_needed(known[0]["Lambda"])
    assert set(needed.ravel()) == {2, 3}
    same(used["mean"], needed.mean(axis=1))
    same(used["lower"], [tables.quantile(chain, 0.05) for chain in needed])
    same(used["upper"], [tables.quantile(chain, 0.95) for chain in needed])
    assert any(tables.quantile(chain, 0.95) < chain.max() for chain in needed)


# -- effects ----------------------------------------------------------------------------------------------------------


def total_effects(known):
    """``B + B_F Lambda`` of every draw: rows Intercept, x, w."""
    draws = known[0]
    out = np.zeros((CHAINS, DRAWS, 3, 5))
    for c in range(CHAINS):
        for d in range(DRAWS):
            through = draws["B_factor"][c, d] @ draws["Lambda"][c, d]
            out[c, d, 0] = draws["B"][c, d, 0]
            out[c, d, 1] = draws["B"][c, d, 1] + through[0]
            out[c, d, 2] = through[1]
    return out


def test_fixed_effects(fit, known):
    for draws, names, options in (
        (known[0]["B"], ["Intercept", "x"], {}),
        (total_effects(known), ["Intercept", "x", "w"], {"total": True}),
    ):
        table, long = fit.fixef(**options), fit.fixef(prob=0.7, **options)
        assert list(table.index) == names
        same(table[TRAITS], tables.pooled(draws).mean(axis=0))
        for i, name in enumerate(names):
            for column, expected in tables.summary(draws[:, :, i], 0.7).items():
                same(long.loc[name, column].loc[TRAITS], expected)
    own = fit.cis(prob=0.7)
    assert list(own.index) == [("red", "c1"), ("red", "c2"), ("wide", "c2")]
    for column, expected in tables.summary(known[0]["cis"], 0.7).items():
        same(own[column], expected)


def test_random_effects_and_how_far_they_may_be_off(sampled, fit, known):
    """From means and variances by chain: the variance within chains plus that between their means."""
    for label in TERMS:
        means, variances = known[0][f"U_mean_{label}"], known[0][f"U_var_{label}"]
        same(fit.ranef(label), sum(means) / CHAINS)
        between = sum((mean - sum(means) / CHAINS) ** 2 for mean in means) / CHAINS
        same(fit.ranef_sd(label), np.sqrt(sum(variances) / CHAINS + between))
        assert list(fit.ranef(label).columns) == TRAITS
        assert list(fit.ranef(label).index) == list(fit.posterior[f"level_{label}"].values)
        drawn = with_draws(sampled, known, [f"U_{label}"])
        same(drawn.ranef(label), tables.pooled(known[0][f"U_{label}"]).mean(axis=0))
        same(drawn.ranef_sd(label), tables.summary(known[0][f"U_{label}"], 0.9)["sd"], rtol=0.02)
    assert list(fit.ranef("field").index) == [f"f{i}" for i in range(7)]


def linear_predictor(fit, known, frame, labels):
    """Draws of ``offset + X (B + B_F Lambda) + C a + sum of M U`` of rows of a frame; unknown levels count zero."""
    draws, total = known[0], total_effects(known)
    levels = {label: list(fit.posterior[f"level_{label}"].values) for label in TERMS}
    out = np.zeros((CHAINS, DRAWS, len(frame), 5))
    for i, row in enumerate(frame.itertuples()):
        for j, trait in enumerate(TRAITS):
            out[:, :, i, j] = row.o + total[:, :, 0, j] + row.x * total[:, :, 1, j] + row.w * total[:, :, 2, j]
            if trait == "red":
                out[:, :, i, j] += row.c1 * draws["cis"][:, :, 0] + row.c2 * draws["cis"][:, :, 1]
            if trait == "wide":
                out[:, :, i, j] += row.c2 * draws["cis"][:, :, 2]
            for label in labels:
                level = getattr(row, label.split("|")[-1])
                if level in levels[label]:
                    effect = draws[f"U_{label}"][:, :, levels[label].index(level), j]
                    out[:, :, i, j] += effect * (row.x if label == "x|line" else 1.0)
    return out


@pytest.fixture(scope="module")
def new_rows(data):
    """Rows of other offsets and slopes, one of a line without records."""
    new = data[0].iloc[[40, 2, 7]].copy()
    new["o"], new["x"], new["w"] = [1.0, -5.0, 2.5], [2.0, -1.0, 0.5], [0.3, 3.0, -2.0]
    new["c1"], new["c2"] = [2.0, 0.0, 1.0], [-1.0, 0.7, 2.0]
    new["line"] = ["l13", "l04", "l00"]
    return new.set_axis(["a", "b", "c"])


@pytest.mark.parametrize("random", ["all", "none", ["x|line"], ["field", "line"]], ids=str)
def test_predictions_of_new_rows_and_their_intervals(fit, known, new_rows, random):
    labels = {"all": TERMS, "none": []}.get(random, random) if isinstance(random, str) else random
    draws = linear_predictor(fit, known, new_rows, labels)
    table = fit.predict(new_rows, random=random, interval=0.6)
    assert list(table.index) == ["a", "b", "c"]
    for column, expected in tables.summary(draws, 0.6).items():
        if column != "sd":
            same(table.xs(column, axis=1, level=1)[TRAITS], expected, rtol=1e-8, atol=1e-9)
    # Without an interval from the means: the same fixed part, the effects of ranef().
    plain = fit.predict(new_rows, random=random)
    expected = pd.DataFrame(
        tables.summary(linear_predictor(fit, known, new_rows, []), 0.6)["mean"], plain.index, TRAITS
    )
    for label in labels:
        group = label.split("|")[-1]
        part = fit.ranef(label).loc[new_rows[group]].to_numpy()
        expected += part * (new_rows[["x"]].to_numpy() if label == "x|line" else 1.0)
    same(plain[TRAITS], expected, rtol=1e-8, atol=1e-9)


def test_predictions_of_rows_of_the_fit(fit, known, data):
    """No new data: with an interval from the draws, without one the fitted values."""
    frame = data[0]
    draws = linear_predictor(fit, known, frame, TERMS)
    table = fit.predict(interval=0.9)
    for column in ("mean", "lower", "upper"):
        same(table.xs(column, axis=1, level=1)[TRAITS], tables.summary(draws, 0.9)[column], rtol=1e-8, atol=1e-9)
    fixed = tables.summary(linear_predictor(fit, known, frame, []), 0.9)["mean"]
    same(fit.predict(random="none")[TRAITS], fixed, rtol=1e-8, atol=1e-9)
    same(fit.fitted(), sum(known[0]["Eta_mean"]) / CHAINS)
    same(fit.predict(), fit.fitted())


def test_draws_of_latent_traits_are_the_data(sampled, data):
    """Measured cells, in their own units, less the offset; nothing in rows without data. They are no fitted values."""
    frame, Y = data[:2]
    for chain in sampled.posterior["Eta"].to_numpy():
        for draw in chain:
            measured = Y.notna().to_numpy()
            same(draw[measured], (Y - frame[["o"]].to_numpy()).to_numpy()[measured], rtol=1e-8)
            assert np.isnan(draw[SILENT]).all()
    without = dataclasses.replace(sampled, posterior=sampled.posterior.drop_vars("Eta_mean"))
    with pytest.raises(OptionError, match="'Eta_mean' was not stored"):
        without.fitted()


def test_levels_that_nobody_knows(fit, known, new_rows):
    """Zero in all their effects, the slope too; the others keep theirs."""
    strange = new_rows.assign(line=["nobody", "l04", "l00"], field=["f1", "elsewhere", "f2"])
    with pytest.raises(sg.errors.DataError):
        fit.predict(strange)
    table = fit.predict(strange, new_levels="zero", interval=0.5)
    expected = tables.summary(linear_predictor(fit, known, strange, TERMS), 0.5)
    for column in ("mean", "lower", "upper"):
        same(table.xs(column, axis=1, level=1)[TRAITS], expected[column], rtol=1e-8, atol=1e-9)
    zero = fit.predict(strange, new_levels="zero").loc["a"] - fit.predict(strange, random="none").loc["a"]
    same(zero, fit.ranef("field").loc["f1"], rtol=1e-8, atol=1e-9)


# -- convergence ------------------------------------------------------------------------------------------------------


def test_diagnostics_of_chains_in_different_places(fit, known):
    """Every row by its own formulas; chains that disagree must not look well mixed."""
    parts, whole = parts_and_variances(fit, known)
    table = fit.diagnostics()
    for (variable, term, trait), row in table.iterrows():
        if variable == "cis":
            at = [("red", "c1"), ("red", "c2"), ("wide", "c2")].index((trait, term))
            draws = known[0]["cis"][..., at]
        else:
            m = [*TERMS, "Residual"].index(term)
            first, *second = (TRAITS.index(name) for name in trait.split(" ~ "))
            draws = whole[m][:, :, first, second[0] if second else first]
            if variable == "h2":
                draws = parts[m][:, :, first, first] / np.einsum("mcdjj->mcdj", parts).sum(axis=0)[..., first]
        moments = tables.summary(draws, 0.9)
        same(row[["mean", "sd"]].to_numpy(float), [moments["mean"], moments["sd"]], rtol=1e-8)
        # Ranks of values that are equal but for rounding.
        same(row["r_hat"], tables.rhat(draws), rtol=1e-3)
        # Where chains never forget, it matters how the last pair of autocorrelations is cut.
        same(row["ess_bulk"], tables.ess_bulk(draws), rtol=0.1)
        same(row["ess_tail"], tables.ess_tail(draws), rtol=0.1)
        same(row["mcse"], moments["sd"] / np.sqrt(tables.ess_mean(draws)), rtol=0.05)
    variables = table.index.get_level_values("variable")
    assert set(variables) == {"h2", "G", "R", "cis"}
    assert len(table) == 3 * 5 + 4 * (5 + 10) + 3
    stuck = table.loc["cis"]
    assert (stuck["ess_bulk"] < 12).all(), "three chains in three places"
    assert (stuck["r_hat"] > 1.5).all()


def test_the_summary_shows_these_numbers(fit, known):
    shown, h2 = fit.summary(prob=0.8).to_frame(), fit.h2(prob=0.8)
    for column in ("mean", "lower", "upper"):
        same(shown.loc[h2.index, column], h2[column])
    diagnosed = fit.diagnostics().loc["h2"]
    for column in ("ess_bulk", "r_hat"):
        if column in shown:
            same(shown.loc[diagnosed.index, column], diagnosed[column])


# -- from the sampler's state to the draws ----------------------------------------------------------------------------


def in_user_order(problem, values):
    """Rows of traits, in the sampler's order, to rows in the user's."""
    out = np.empty_like(values)
    for position, trait in enumerate(problem.order):
        out[trait] = values[position]
    return out


def test_the_last_draw_is_the_state(sampled):
    """Fixed effects through factors and effects on loadings do not depend on the scale of a factor inside."""
    problem, last = sampled.chains.problem, sampled.posterior.isel(draw=-1)
    b = problem.b
    for c, chain in enumerate(sampled.chains.runs):
        state, draw = chain.state, last.isel(chain=c)
        loadings = in_user_order(problem, state.coef[:, b:])
        through = problem.scale[:, None] * (loadings @ state.coef_factor)
        same((draw["B_factor"].to_numpy() @ draw["Lambda"].to_numpy()).T, through, rtol=1e-8, atol=1e-10)
        # Prior mean of the loadings of unit-variance factors, in units of a trait.
        prior_mean = in_user_order(problem, problem.trait_covariates.x @ state.loading_effects.T)
        columns = np.column_stack((np.ones(5), [10.0, 30.0, 20.0, 50.0, 5.0]))
        same(
            columns @ draw["loading_effects"].to_numpy() * loadings,
            prior_mean * (draw["Lambda"].to_numpy().T / problem.scale[:, None]),
            rtol=1e-8,
            atol=1e-12,
        )
        assert np.abs(state.kappa - 1.0).max() > 0.01, "nothing to see: the factors have unit variance inside too"


def test_the_last_draw_has_its_own_variances(sampled, data):
    """Stored matrices, diagonals and shares follow from stored parts; a slope's share is at its root mean square."""
    seen = data[0]["x"].to_numpy()[np.setdiff1d(np.arange(48), SILENT)]
    same(square_units(sampled), [1.0, np.mean(seen**2), 1.0, 1.0])
    drawn = {name: values.to_numpy() for name, values in sampled.posterior.items()}
    parts, variances = parts_and_variances(sampled, (drawn, None))
    same(drawn["G"], np.moveaxis(variances[:-1], 0, 2))
    same(drawn["R"], variances[-1])
    same(drawn["G_diag"], np.einsum("mcdjj->cdmj", variances[:-1]))
    same(drawn["R_diag"], np.einsum("cdjj->cdj", variances[-1]))
    same(drawn["h2"], np.einsum("mcdjj->cdmj", parts[:-1]) / np.einsum("mcdjj->cdj", parts)[:, :, None])


def test_rows_without_data(long, data):
    """Without the offset, the covariates of a trait and Z U (slope times x), what is left is linear in 1, x and w."""
    frame, draws = data[0].iloc[SILENT], long.posterior
    X = np.column_stack((np.ones(len(frame)), frame["x"], frame["w"]))
    total = draws["B"].to_numpy()
    total = np.concatenate((total, np.zeros_like(total[:, :, :1])), axis=2)
    total[:, :, 1:] += draws["B_factor"].to_numpy() @ draws["Lambda"].to_numpy()
    for c in range(2):
        rest = draws["Eta_mean"][c].to_numpy()[SILENT] - frame[["o"]].to_numpy()
        cis = draws["cis"][c].mean("draw").to_numpy()
        rest[:, 3] -= frame[["c1", "c2"]].to_numpy() @ cis[:2]
        rest[:, 1] -= frame["c2"].to_numpy() * cis[2]
        for label in TERMS:
            levels = long.ranef(label).index.get_indexer(frame[label.split("|")[-1]])
            effects = draws[f"U_mean_{label}"][c].to_numpy()[levels]
            rest -= effects * (frame[["x"]].to_numpy() if label == "x|line" else 1.0)
        coef = np.linalg.lstsq(X, rest, rcond=None)[0]
        same(X @ coef, rest, rtol=1e-8, atol=1e-9 * np.abs(rest).max())
        same(coef[0], total[c, :, 0].mean(axis=0), rtol=1e-8)
        # What acts through factors is one step of the sampler behind the draws.
        same(coef[2], total[c, :, 2].mean(axis=0), rtol=0.1)


def test_draws_of_random_effects_have_the_moments_of_the_running_means(long):
    """Draws of U against their conditional means and variances, trait by trait in the trait's own units."""
    n = 150
    for label in TERMS:
        for chain in range(2):
            drawn = long.posterior[f"U_{label}"][chain].to_numpy()
            mean = long.posterior[f"U_mean_{label}"][chain].to_numpy()
            variance = long.posterior[f"U_var_{label}"][chain].to_numpy()
            # The noise given the rest is independent from draw to draw, and its variance is no more than all of it.
            z = (drawn.mean(axis=0) - mean) / np.sqrt(variance / n)
            assert np.abs(z).max() < 4.5, label
            ratio = drawn.var(axis=0) / variance
            assert 0.5 < ratio.min() < ratio.max() < 1.8, label
            assert abs(ratio.mean() - 1) < 0.1, label


def test_questions_without_an_answer(fit, sampled, known, new_rows):
    lean = with_draws(sampled, known, ["B", "B_factor", "Lambda", "cis", *(f"U_mean_{label}" for label in TERMS)])
    with pytest.raises(OptionError, match=r"predict\(interval=0.9\): the draws of U for 'line', 'x\|line', 'field'"):
        lean.predict(new_rows, interval=0.9)
    table = lean.predict(new_rows, random="none", interval=0.9)
    expected = tables.summary(linear_predictor(fit, known, new_rows, []), 0.9)["upper"]
    same(table.xs("upper", axis=1, level=1)[TRAITS], expected, rtol=1e-8, atol=1e-9)
