"""What a fit says against itself: every warning where it is true, and silence where it is not."""

import warnings

import numpy as np
import pandas as pd
import pytest
from numpy.polynomial.hermite_e import hermegauss
from scipy.special import expit

import slamglmm as sg
from slamglmm.errors import DataError, FewTraitsWarning, OptionError, SlamWarning

SHORT = {"draws": 10, "burn": 10, "chains": 1, "seed": 1}


def groups(n_groups, records, share, seed=0, traits=1):
    """A frame with a group, a covariate and traits ``y1``, ... of a given share, no two alike."""
    rng = np.random.default_rng([seed, n_groups, records])
    g = np.repeat(np.arange(n_groups), records)
    frame = pd.DataFrame({"g": [f"g{i:04d}" for i in g], "x": rng.standard_normal(len(g))})
    for j in range(traits):
        u = np.sqrt(share) * rng.standard_normal(n_groups)
        frame[f"y{j + 1}"] = u[g] + np.sqrt(1 - share) * rng.standard_normal(len(g))
    return frame


def silent(*arguments, **options):
    """A fit that must not warn."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", SlamWarning)
        return sg.slam(*arguments, **options)


# -- independent slopes --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("bars", "left"), [("(1 + x | g)", "1 + x"), ("(x | g)", "1 + x"), ("(0 + x + z | g)", "x + z")]
)
def test_one_bar_is_said_to_mean_two(bars, left):
    """A correlation that the bar stands for, and that slam has not."""
    frame = groups(8, 4, 0.5).assign(z=lambda f: f["x"] ** 2)
    with pytest.warns(SlamWarning, match=rf"\({left.replace('+', '.')} \| g\): slam gives these effects of 'g' indep"):
        fit = sg.slam(f"y1 ~ x + {bars}", frame, **SHORT)
    assert any("Write '||'" in note and "slamglmm.he(..., method='reml')" in note for note in fit.notes)
    assert "without the correlation" in str(fit.summary())


@pytest.mark.parametrize("bars", ["(1 + x || g)", "(0 + x | g)", "(1 | g)"])
def test_two_bars_and_single_effects_say_nothing(bars):
    fit = silent(f"y1 ~ x + {bars}", groups(8, 4, 0.5), **SHORT)
    assert not any("correlation" in note for note in fit.notes)


@pytest.mark.parametrize("bars", ["(1 + z || g)", "(1 | g) + (0 + z | g)"])
def test_a_slope_beside_an_intercept_wants_a_covariate_near_zero(bars):
    """Years of 2000: the variance of slopes fell from .19 to 2e-7, the residual doubled, and all was "good"."""
    frame = groups(8, 4, 0.5).assign(z=lambda f: f["x"] + 2000.0)
    with pytest.warns(SlamWarning, match=r"slope of 'z' on 'g': 'z' is far from zero \(mean 2000, .* Center it"):
        fit = sg.slam(f"y1 ~ x + {bars}", frame, **SHORT)
    assert any("far from zero" in note for note in fit.notes)
    silent("y1 ~ x + (0 + z | g)", frame, **SHORT)


# -- few traits ----------------------------------------------------------------------------------------------------

FEW = {
    "loadings": sg.Infinite(df=50, delta_1=(2, 4), delta_rest=(50, 50)),
    "residual": sg.PrecisionPrior(V=0.2, nu=3),
}


@pytest.mark.parametrize("p", [2, 5])
def test_few_traits_with_the_default_prior_are_told(p):
    """A confident zero of a correlation that is -.6."""
    frame = groups(10, 4, 0.5, traits=p)
    Y = frame.filter(like="y")
    with pytest.warns(FewTraitsWarning, match=f"{p} traits with the default prior .* drawn to zero"):
        fit = sg.slam("~ 1 + (1 | g)", frame, Y=Y, **SHORT)
    # What it says to write can be written.
    (said,) = (note for note in fit.notes if "default prior" in note)
    written = (
        said.split("priors=")[1].split(" (")[0].replace("slamglmm.", "sg.").replace(" with n_factors", ", n_factors")
    )
    options = eval(f"dict(priors={written})", {"sg": sg})
    assert options == {"priors": sg.Priors(**FEW), "n_factors": p}
    fit = silent("~ 1 + (1 | g)", frame, Y=Y, **options, **SHORT)
    assert not any("default prior" in note for note in fit.notes)


@pytest.mark.parametrize(
    ("p", "options"),
    [(1, {}), (6, {}), (2, {"n_factors": 0}), (2, {"priors": sg.Priors(loadings="infinite")})],
)
def test_nothing_is_said_of_few_traits_otherwise(p, options):
    frame = groups(10, 4, 0.5, traits=p)
    silent("~ 1 + (1 | g)", frame, Y=frame.filter(like="y"), **options, **SHORT)


def test_as_many_factors_as_covariances_have_ranks():
    """Two covariances of two traits: up to four factors, kept, extended and aligned as ever."""
    frame = groups(15, 4, 0.5, traits=2)
    options = {"Y": frame.filter(like="y"), "priors": sg.Priors(**FEW), "draws": 30, "burn": 20, "seed": 1}
    fit = sg.slam("~ 1 + (1 | g)", frame, n_factors=4, **options)
    assert fit.loadings().shape == (4, 2)
    assert np.isfinite(fit.correlation("g").to_numpy()).all()
    part = sg.slam("~ 1 + (1 | g)", frame, n_factors=4, **(options | {"draws": 10})).extend(20)
    assert part.posterior["Lambda"].equals(fit.posterior["Lambda"])
    with pytest.raises(OptionError, match=r"from 0 to 4, the smaller of the rows with data \(60\) and 2 covariances"):
        sg.slam("~ 1 + (1 | g)", frame, n_factors=5, **options)


# -- grids -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("share", [0.0, 0.15])
def test_a_posterior_narrower_than_the_grid_is_told(share):
    """An interval without width, a share that is zero in every draw among them; the remedy that is named works."""
    frame = groups(2000, 25, share)
    options = {"draws": 200, "burn": 50, "seed": 1}
    steps, rounds = 20, 0
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        while not rounds or told:
            told.clear()
            fit = sg.slam("y1 ~ 1 + (1 | g)", frame, h2_grid=steps, **options)
            if told:
                (message,) = (str(one.message) for one in told)
                assert "all draws of the share of 'g' in 'y1' are on" in message
                assert message in fit.notes
                steps = int(message.rsplit("h2_grid=", 1)[1])
            rounds += 1
    assert 2 <= rounds <= (2 if share else 3)
    found = fit.h2().iloc[0]
    assert found["upper"] > found["lower"]
    # The standard error of an intraclass correlation (Fisher 1925), where it is not at its boundary.
    if share:
        h = found["mean"]
        error = np.sqrt(2 * (1 - h) ** 2 * (1 + 24 * h) ** 2 / (25 * 24 * 2000))
        assert found["sd"] == pytest.approx(error, rel=0.25)


@pytest.mark.parametrize(("share", "traits"), [(0.0, 1), (0.3, 1), (0.8, 1), (0.2, 8)])
def test_ordinary_fits_hear_nothing_of_grids(share, traits):
    """60 groups of 5: every posterior is wider than a step of 1/20."""
    frame = groups(60, 5, share, traits=traits, seed=3)
    silent("~ 1 + (1 | g)", frame, Y=frame.filter(like="y"), draws=300, burn=200, seed=1)


def test_a_prior_on_few_points_is_the_users_own():
    masses = np.zeros(20)
    masses[[3, 4]] = 0.5
    frame = groups(60, 5, 0.2)
    silent("y1 ~ 1 + (1 | g)", frame, priors=sg.Priors(h2=masses), draws=300, burn=50, seed=1)


def test_more_draws_unsay_a_warning():
    """`extend` looks at all draws; the line of the first ones must not stay."""
    frame = groups(700, 5, 0.5)
    options = {"burn": 100, "seed": 1, "chains": 2}
    with pytest.warns(SlamWarning, match="are on 3 of the grid's points"):
        fit = sg.slam("y1 ~ 1 + (1 | g)", frame, h2_grid=28, draws=100, **options)
    assert any("are on 3" in note for note in fit.notes)
    more = fit.extend(2000)
    assert not any("of the grid's points" in note for note in more.notes)
    assert [note for note in fit.notes if "of the grid's points" not in note] == list(more.notes)


# -- verdict -------------------------------------------------------------------------------------------------------


def verdict(fit):
    return dict(fit.summary().facts)["convergence"]


def test_good_asks_for_all_that_is_printed():
    """R-hat 1.034 and 59 effective draws were "good"."""
    frame = groups(40, 5, 0.4)
    short = sg.slam("y1 ~ 1 + (1 | g)", frame, draws=150, burn=100, seed=2)
    table = short.diagnostics()
    assert table[["ess_bulk", "ess_tail"]].min(axis=None) < 400
    assert "good" not in verdict(short).replace("good as", "")
    more = int(verdict(short).split("fit.extend(")[1].split(")")[0])
    # The figure that is named does it.
    enough = short.extend(int(1.3 * more))
    assert enough.diagnostics()["r_hat"].max() < 1.01
    assert enough.diagnostics()[["ess_bulk", "ess_tail"]].min(axis=None) >= 400
    assert verdict(enough).endswith(": good")


def test_one_chain_is_not_good():
    fit = sg.slam("y1 ~ 1 + (1 | g)", groups(40, 5, 0.4), draws=1500, burn=100, chains=1, seed=2)
    assert fit.diagnostics()[["ess_bulk", "ess_tail"]].min(axis=None) >= 400
    assert "no verdict, as one chain cannot show" in verdict(fit)


def test_chains_in_different_places_are_told_to_burn_in_longer():
    fit = sg.slam("y1 ~ 1 + (1 | g)", groups(40, 5, 0.4), draws=20, burn=30, seed=2)
    posterior = fit.posterior.copy(deep=True)
    posterior["h2"][1] += 0.3
    moved = fit.with_draws(posterior, fit.chains, 1.0, 20)
    assert "chains disagree" in verdict(moved)
    assert "burn=60" in verdict(moved)


def test_a_quantity_that_never_moved_is_not_good():
    frame = groups(3000, 30, 0.5)
    with pytest.warns(SlamWarning, match="on 1 of the grid's points"):
        fit = sg.slam("y1 ~ 1 + (1 | g)", frame, draws=500, burn=50, seed=1)
    assert "one value in all draws (first: h2 g y1)" in verdict(fit)


# -- prior only ------------------------------------------------------------------------------------------------------


def test_a_trait_with_one_record_a_group_is_marked():
    """The noise ``once`` had h2 .47 [.04, .90] without a word beside traits with three records."""
    frame = groups(30, 3, 0.5, traits=3)
    frame["once"] = np.where(np.arange(90) % 3 == 1, np.random.default_rng(1).standard_normal(90), np.nan)
    Y = frame[["y1", "once", "y2", "y3"]]
    options = SHORT | {"n_factors": 0}
    with pytest.warns(SlamWarning, match="prior only: 'g' of 'once'. Their rows have one record"):
        fit = sg.slam("~ 1 + (1 | g)", frame, Y=Y, **options)
    assert fit.prior_only == (("g", "once"),)
    assert any(note.startswith("prior only: 'g' of 'once'") for note in fit.notes)
    assert fit.summary().to_frame()["remark"].tolist() == ["", "prior only", "", ""]
    assert "prior only" in fit.summary()._repr_html_()
    # Alone it is refused, as ever; a second record of one group, or relatives, are something.
    with pytest.raises(DataError, match="cannot be told from the residual"):
        sg.slam("once ~ 1 + (1 | g)", frame, **SHORT)
    frame.loc[0, "once"] = 0.3
    assert silent("~ 1 + (1 | g)", frame, Y=Y.assign(once=frame["once"]), **options).prior_only == ()
    K = pd.DataFrame(0.8 * np.eye(30), *2 * (sorted(set(frame["g"])),))
    K.iloc[:15, :15] += 0.2
    K.iloc[15:, 15:] += 0.2
    assert silent("~ 1 + (1 | g)", frame, Y=Y, relmat={"g": K}, **options).prior_only == ()


def test_a_trait_is_judged_on_its_own_rows_and_links():
    """Where a category or a count is missing, and with the fixed effects that its rows have left."""
    frame = groups(12, 4, 0.5, traits=1)
    row = np.arange(48)
    frame["hit"] = np.where(row % 4 == 0, (row // 4) % 2, np.nan)
    with pytest.warns(SlamWarning, match="prior only: 'g' of 'hit'"):
        fit = sg.slam("y1 + hit ~ 1 + (1 | g)", frame, link={"identity": ["y1"], "probit": ["hit"]}, **SHORT)
    assert fit.prior_only == (("g", "hit"),)
    # Two records of each group, but a covariate for each group among them.
    frame["few"] = frame["y1"].where(frame["g"].isin(["g0000", "g0001", "g0002"]) & (row % 4 < 2))
    frame["a"], frame["b"] = (frame["g"] == "g0000") * 1.0, (frame["g"] == "g0001") * 1.0
    with pytest.warns(SlamWarning, match="prior only: 'g' of 'few'"):
        fit = sg.slam("y1 + few ~ 1 + a + b + (1 | g)", frame, **SHORT)
    assert fit.prior_only == (("g", "few"),)


ALIKE = pd.DataFrame(np.ones((12, 12)), *2 * ([f"g{i:04d}" for i in range(12)],))
REFUSED = {
    "K of ones, which is the intercept": ("y1 ~ 1 + (1 | g)", {"g": ALIKE}, "from the fixed effects"),
    "levels equally related, one record each": ("y1 ~ 1 + (1 | r)", None, "from the residual"),
    "a group among the fixed effects": ("y1 ~ g + (1 | g)", None, "from the fixed effects"),
}


@pytest.mark.parametrize("case", REFUSED)
@pytest.mark.parametrize("fitter", ["slam", "reml", "ml", "sparse_lmm"])
def test_models_that_repeat_the_prior_are_refused(case, fitter):
    """A share of .22, of exactly .5, or of .51 from data that say nothing about it."""
    formula, relmat, message = REFUSED[case]
    frame = groups(12, 3, 0.5)
    frame["r"] = [f"r{i:02d}" for i in range(36)]
    if "r)" in formula:
        relmat = {"r": pd.DataFrame(0.4 * np.eye(36) + 0.6, frame["r"], frame["r"])}
    fit, options = {
        "slam": (sg.slam, SHORT),
        "sparse_lmm": (sg.sparse_lmm, {"markers": np.random.default_rng(0).integers(0, 3, (36, 5))}),
    }.get(fitter, (sg.he, {"method": fitter}))
    with pytest.raises(DataError, match=message):
        fit(formula, frame, relmat=relmat, **options)


def test_fixed_effects_that_explain_every_row_are_refused():
    """Categories have no unit to fail at: their variances would be the prior's."""
    frame = groups(6, 2, 0.5).assign(r=[f"r{i:02d}" for i in range(12)])
    frame["hit"] = (frame["y1"] > 0).astype(float)
    with pytest.raises(DataError, match="12 independent columns for 12 rows with data: they explain every row"):
        sg.slam("hit ~ factor(r) + (1 | g)", frame, link="probit", **SHORT)
    with pytest.raises(DataError, match="they explain every row"):
        sg.slam("hit ~ factor(r)", frame, link="bernoulli", **SHORT)
    with pytest.raises(DataError, match="no more observed rows than fixed effects"):
        sg.slam("y1 ~ factor(r) + (1 | g)", frame, **SHORT)


def test_effects_that_are_each_other_are_marked():
    """Two names of one grouping: how the variance is split between them is the prior's, or the search's."""
    frame = groups(12, 4, 0.5).assign(twin=lambda f: "t" + f["g"], other=[f"o{i % 6}" for i in range(48)])
    with pytest.warns(SlamWarning, match="prior only: how the variance is split between 'g', 'twin'"):
        fit = sg.slam("y1 ~ 1 + (1 | g) + (1 | other) + (1 | twin)", frame, **SHORT)
    assert fit.prior_only == (("g", "y1"), ("twin", "y1"))
    with pytest.warns(SlamWarning, match="components 'g', 'twin' are combinations of each other"):
        he = sg.he("y1 ~ 1 + (1 | g) + (1 | twin)", frame, method="reml", se=None)
    assert any("combinations of each other" in note for note in he.notes)


# -- 0/1 data ----------------------------------------------------------------------------------------------------------


def people_and_items(persons, items, person_var, item_var, seed):
    """Every person answers every item once, as in VerbAgg."""
    rng = np.random.default_rng(seed)
    frame = pd.DataFrame(
        [(f"p{i:03d}", f"i{j:02d}") for i in range(persons) for j in range(items)], columns=["id", "item"]
    )
    eta = np.sqrt(person_var) * rng.standard_normal(persons)[:, None] + np.sqrt(item_var) * rng.standard_normal(items)
    frame["y"] = (rng.random((persons, items)) < expit(eta)).astype(int).ravel()
    return frame


def test_the_residual_of_single_trials_is_held():
    """Free, it wandered off: R-hat 2.25 after 400 iterations. Binomial data of several trials keep theirs."""
    frame = people_and_items(40, 12, 1.0, 0.3, seed=2)
    fit = sg.slam("y ~ 1 + (1 | id) + (1 | item)", frame, link="bernoulli", draws=150, burn=150, seed=1)
    assert fit.R().iloc[0, 0] == pytest.approx(1.0, abs=1e-3)
    assert any("residual variance of 'y' is held at 1 on the logit scale" in note for note in fit.notes)
    assert any("link='probit'" in note for note in fit.notes)
    assert fit.diagnostics().loc["h2", "r_hat"].max() < 1.2
    trials = np.where(np.arange(len(frame)) < 200, 2, 1)
    free = sg.slam("y ~ 1 + (1 | id)", frame, link=sg.links.Binomial(trials), **SHORT)
    assert not any("held" in note for note in free.notes)
    assert free.R().iloc[0, 0] != pytest.approx(1.0, abs=1e-3)
    one = sg.slam("y ~ 1 + (1 | id)", frame, link=sg.links.Binomial(1), **SHORT)
    assert any("held at 1" in note for note in one.notes)
    # Other kinds of traits beside it keep theirs, and priors of the variances take its place.
    frame["z"] = np.random.default_rng(0).standard_normal(len(frame))
    mixed = sg.slam("z + y ~ 1 + (1 | id)", frame, link={"bernoulli": ["y"], "identity": ["z"]}, n_factors=0, **SHORT)
    assert mixed.R().loc["y", "y"] == pytest.approx(1.0, abs=1e-3)
    assert mixed.R().loc["z", "z"] != pytest.approx(1.0, abs=1e-3)
    own = sg.Priors(residual=sg.VarianceComponents(V=1.0, nu=3))
    free = sg.slam("y ~ 1 + (1 | id)", frame, link="bernoulli", priors=own, **SHORT)
    assert free.R().iloc[0, 0] != pytest.approx(1.0, abs=1e-3)


def test_shares_of_0_1_data_are_those_of_quadrature():
    """The posterior by integrals: of the residual (variance one), the person, and a flat intercept, share by share."""
    frame = people_and_items(40, 10, 1.5, 0.0, seed=3)
    fit = sg.slam("y ~ 1 + (1 | id)", frame, link="bernoulli", draws=1500, burn=200, seed=1)
    nodes, weights = hermegauss(40)
    weights = weights / weights.sum()
    hits = frame.groupby("id")["y"].sum().to_numpy()
    intercepts = np.linspace(-5, 5, 101)
    shares = np.arange(20) / 20
    posterior = np.zeros(20)
    for m, h in enumerate(shares):
        u = np.sqrt(h / (1 - h)) * nodes
        chance = expit(intercepts[:, None, None] + u[:, None] + nodes) @ weights
        of_person = [(chance**k * (1 - chance) ** (10 - k)) @ weights for k in hits]
        posterior[m] = np.exp(np.log(of_person).sum(axis=0) + 270).sum()
    posterior /= posterior.sum()
    mean = shares @ posterior
    sd = np.sqrt(shares**2 @ posterior - mean**2)
    found = fit.h2().iloc[0]
    mcse = fit.diagnostics().loc[("h2", "id", "y"), "mcse"]
    assert mcse < 0.15 * sd
    assert found["mean"] == pytest.approx(mean, abs=4 * mcse)
    assert found["sd"] == pytest.approx(sd, rel=0.15)
