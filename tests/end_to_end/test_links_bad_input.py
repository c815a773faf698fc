"""Data that no link can have made, individuals without any, categories that a fit has not seen: as users meet them."""

import numpy as np
import pandas as pd
import pytest

import slamglmm as sg
from slamglmm.errors import DataError, OptionError

SHORT = {"n_factors": 0, "draws": 20, "burn": 20, "chains": 1, "seed": 1, "progress": False}


@pytest.fixture
def herds():
    return sg.datasets.load("cbpp").frame


@pytest.fixture
def chicks():
    return sg.datasets.load("grouseticks").frame


def fit(response, frame, link, **options):
    return sg.slam(f"{response} ~ 1 + (1 | {frame.columns[0]})", frame, link=link, **(SHORT | options))


@pytest.mark.parametrize("link", ["poisson", "negative_binomial", sg.links.Binomial(trials=100)])
def test_counts_that_are_none(herds, link):
    herds.loc[[4, 7], "incidence"] = -1.0
    with pytest.raises(DataError, match=r"2 are negative \(first: -1 for 'incidence' in row 4, counted from 0\)"):
        fit("incidence", herds, link)
    herds.loc[[4, 7], "incidence"] = [0.5, 2.0]
    with pytest.raises(DataError, match=r"1 are not whole \(first: 0.5 .* Use link='identity' for measurements"):
        fit("incidence", herds, link)


def test_more_cases_than_animals(herds):
    herds.loc[1, "size"] = herds.loc[1, "incidence"] - 1
    with pytest.raises(DataError, match=r"1 cell\(s\) have more successes than trials .* in row 1, counted from 0"):
        fit("incidence", herds, sg.links.Binomial(trials=herds["size"]))
    with pytest.raises(OptionError, match=r"trials: expected a number, 56 numbers .* got shape \(55,\)"):
        fit("incidence", herds, sg.links.Binomial(trials=herds["size"].to_numpy()[1:]))
    with pytest.raises(DataError, match=r"1 of 56 rows of data are not among the 55 rows of trials: '0'"):
        fit("incidence", herds, sg.links.Binomial(trials=herds["size"][1:]))


def test_no_weight_anywhere(herds):
    with pytest.raises(DataError, match="'incidence' have zero weight in every row with a value"):
        fit("incidence", herds, sg.links.GaussianWeights(0.0))


def test_categories_that_are_no_numbers(chicks):
    """What to do is in the message, and works."""
    chicks["score"] = pd.cut(chicks["TICKS"], [-1, 0, 5, 100], labels=["none", "few", "many"])
    frame = chicks[["BROOD", "score"]]
    with pytest.raises(DataError, match=r"not numeric: 'score' .* use .* frame\[name\].cat.codes"):
        fit("score", frame, "ordinal")
    result = fit("score", frame.assign(score=frame["score"].cat.codes), "ordinal")
    assert result.fitted(scale="data").to_numpy().max() < 2


def test_categories_that_the_fit_has_not_seen(chicks):
    """Of the response: named beforehand they have a cut point; of covariates and groups: refused, or without effect."""
    chicks["score"] = np.minimum(chicks["TICKS"], 2.0)
    with pytest.raises(DataError, match=r"trait 'score': '2' not among categories=\[0, 1\]"):
        sg.slam("score ~ YEAR + (1 | BROOD)", chicks, link=sg.links.Ordinal(categories=[0, 1]), **SHORT)
    link = sg.links.Ordinal(categories=[0, 1, 2, 3])
    result = sg.slam("score ~ YEAR + (1 | BROOD)", chicks, link=link, store=(*sg.DEFAULT_STORE, "U"), **SHORT)
    assert np.isfinite(result.posterior["cuts"]).all()
    new = chicks.iloc[:2].copy()
    assert result.predict(new, scale="data")["score"].between(0, 3).all()
    new["BROOD"] = ["none of these", new["BROOD"].iloc[1]]
    with pytest.raises(DataError, match="none of these"):
        result.predict(new, scale="data")
    known, unknown = result.predict(new, new_levels="zero"), result.predict(new, random="none")
    assert known["score"].iloc[0] == pytest.approx(unknown["score"].iloc[0])
    assert known["score"].iloc[1] != unknown["score"].iloc[1]
    new["YEAR"] = "98"
    with pytest.raises(DataError, match=r"YEAR.*98"):
        result.predict(new, random="none", scale="data")


@pytest.mark.parametrize("link", ["poisson", "negative_binomial", "bernoulli", "probit", "ordinal", "censored"])
def test_an_individual_without_observations(chicks, link):
    """It takes no part, is predicted by its covariates and its group, and changes nothing for the others."""
    chicks["y"] = chicks["TICKS"] if link in ("poisson", "negative_binomial", "censored") else np.sign(chicks["TICKS"])
    link = sg.links.Censored(left=0.0) if link == "censored" else link
    chicks.loc[5, "y"] = np.nan
    options = SHORT | {"store": (*sg.DEFAULT_STORE, "U")}
    result = sg.slam("y ~ cHEIGHT + (1 | BROOD)", chicks, link=link, **options)
    assert any("1 row(s) have no observed trait" in note for note in result.notes)
    # A chick of the same brood at the same height has data, and the same expectation.
    assert list(chicks.loc[5, ["BROOD", "cHEIGHT"]]) == list(chicks.loc[6, ["BROOD", "cHEIGHT"]])
    fitted = result.fitted()["y"]
    assert fitted[5] == pytest.approx(fitted[6])
    assert result.predict(chicks.iloc[[5]])["y"].item() == pytest.approx(fitted[5], abs=0.5 * fitted.std())
    alone = sg.slam("y ~ cHEIGHT + (1 | BROOD)", chicks.drop(index=5), link=link, **options)
    np.testing.assert_allclose(alone.posterior["B"], result.posterior["B"])
    on_data = result.predict(chicks.iloc[[5]], scale="data")["y"]
    assert np.isfinite(on_data).all()
