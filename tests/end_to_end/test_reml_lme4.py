"""REML and ML against lme4: theta, sigma, fixed effects, BLUPs, likelihood; golden numbers on the bundled data."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import slamglmm as sg
from tests.reference.published import FOLDER

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "lme4_fits.json").read_text())["fits"]
FULL = FOLDER / "lme4_fits"
FITS = json.loads((FULL / "fits.json").read_text())["fits"] if FULL.exists() else []
BUNDLED = {"Penicillin": "penicillin", "Pastes": "pastes", "sleepstudy": "sleepstudy"}

pytestmark = pytest.mark.filterwarnings("ignore::slamglmm.errors.BoundaryWarning")


def close(found, expected):
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def frame_of(name):
    folder = FULL if (FULL / "data" / f"{name}.csv").exists() else FOLDER / "lme4_formula"
    frame = pd.read_csv(folder / "data" / f"{name}.csv")
    schema = json.loads((folder / "schema.json").read_text()).get(name, {})
    for column, entry in schema.items():
        if entry["type"] in ("factor", "ordered"):
            frame[column] = pd.Categorical(
                frame[column].astype(str), categories=entry["levels"], ordered=entry["type"] == "ordered"
            )
    return frame


def fit_as(case, frame, method):
    formula, options = case["f"], {"method": method, "se": None}
    if "offset" in case:
        formula += f" + offset({case['offset']})"
    if "weights" in case:
        options["weights"] = case["weights"]
    if "relmat" in case:
        pedigree = pd.read_csv(FULL / "data" / "animal_pedigree.csv")
        sire = pedigree["sire"].to_numpy()
        A = np.where(sire[:, None] == sire, 0.25, 0.0)
        np.fill_diagonal(A, 1.0)
        options["relmat"] = {"id": (A, pedigree["id"].to_numpy())}
    ordered = [c for c in frame if isinstance(frame[c].dtype, pd.CategoricalDtype) and frame[c].cat.ordered]
    used = [c for c in ordered if c in formula.split("(")[0]]
    if used:
        options["contrasts"] = dict.fromkeys(used, "poly")
    return sg.he(formula, frame, **options)


def sorted_theta(case, fit, expected):
    """lme4 orders terms by their number of levels, we by the formula; the values tell them apart."""
    if len(fit.design.terms) == 1:
        return fit.factors[0], expected["theta"]
    return np.sort(fit.factors[0]), np.sort(expected["theta"])


def compare(case, fit, expected):
    close(*sorted_theta(case, fit, expected))
    table = fit.varcorr()["variance"]
    close(np.sqrt(table["Residual"].iloc[0]), expected["sigma"])
    close(fit.fixef().to_numpy()[:, 0], expected["fixef"])
    close(fit.fixef(0.95)["se"], expected["se"])
    close(fit.loglik[0], expected["logLik"])
    if "AIC" in expected:
        close([fit.aic, fit.bic], [expected["AIC"], expected["BIC"]])
    if "varcorr" in expected:
        mine = sorted(np.trace(fit.covariance(term.label)) for term in fit.design.terms)
        groups = expected["varcorr"].values()
        if all(len(term.effects) == 1 for term in fit.design.terms) and all(len(m) == 1 for m in groups):
            close(mine, sorted(m[0][0] for m in groups))
        elif len(fit.design.terms) == 1:
            close(fit.covariance(fit.design.terms[0].label), next(iter(groups)))
    if "fitted_dot" in expected:
        fitted = fit.fitted().to_numpy()[:, 0]
        close(fitted @ np.arange(1, fit.nobs + 1) / fit.nobs, expected["fitted_dot"])


def compare_ranef(fit, expected):
    for group, stored in expected.get("ranef", {}).items():
        terms = [t for t in fit.design.terms if set(t.columns) == set(group.split(":"))]
        if len(terms) != 1:
            continue
        values = fit.ranef(terms[0].label)
        if stored.get("values") is None:
            u = values.to_numpy()
            close([u.sum(), (u**2).sum()], [np.sum(stored["sum"]), np.sum(stored["sumsq"])])
            continue
        if len(terms[0].columns) == 1:
            values.index = values.index.astype(str)
            close(values.loc[stored["levels"]].to_numpy(), stored["values"])
        else:
            close(np.sort(values.to_numpy()[:, 0]), np.sort(np.ravel(stored["values"])))


@pytest.mark.parametrize("method", ["reml", "ml"])
@pytest.mark.parametrize("case", GOLDEN, ids=lambda case: case["id"])
def test_bundled_data(case, method):
    frame = sg.datasets.load(BUNDLED[case["data"]]).frame
    fit = fit_as(case, frame, method)
    compare(case, fit, case[method.upper()])


@pytest.mark.parametrize("method", ["reml", "ml"])
@pytest.mark.parametrize("case", FITS, ids=lambda case: case["id"])
def test_every_stored_fit(case, method):
    if method.upper() not in case:
        pytest.skip("not stored")
    frame = frame_of(case["data"])
    fit = fit_as(case, frame, method)
    expected = case[method.upper()]
    compare(case, fit, expected)
    compare_ranef(fit, expected)
    if "u_id" in expected:
        close(fit.ranef("id").loc[expected["u_id"]["levels"]].to_numpy()[:, 0], expected["u_id"]["values"])
        assert fit.h2("id") == pytest.approx(expected["h2"], rel=1e-4)
