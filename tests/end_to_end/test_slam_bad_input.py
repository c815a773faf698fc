"""Every mistake gets a message that names the culprit; the text is part of the interface."""

import numpy as np
import pandas as pd
import pytest

import slamglmm as sg
from slamglmm.errors import DataError, DroppedRowsWarning, FormulaError, OptionError, RelmatError

N = 12
LINES = [f"L{i:02d}" for i in range(N)]


@pytest.fixture
def frame():
    return pd.DataFrame({"line": LINES, "x": np.linspace(-1, 1, N), "group": ["a", "b", "c"] * 4, "one": "only"})


@pytest.fixture
def Y():
    return pd.DataFrame(np.random.default_rng(0).standard_normal((N, 3)), columns=["t1", "t2", "t3"])


@pytest.fixture
def K():
    W = np.random.default_rng(1).standard_normal((N, 40))
    return pd.DataFrame(W @ W.T / 40, LINES, LINES)


def fit(frame, Y, K, formula="~ 1 + (1 | line)", **options):
    settings = {"n_factors": 1, "draws": 4, "burn": 2, "chains": 1, "seed": 1} | options
    relmat = {"line": K} if K is not None and "line" in formula else None
    return sg.slam(formula, frame, Y=Y, relmat=relmat, **settings)


def test_text_among_the_traits(frame, Y, K):
    with pytest.raises(DataError, match="t2"):
        fit(frame, Y.assign(t2="high"), K)


def test_all_missing_trait(frame, Y, K):
    with pytest.raises(DataError, match="t3"):
        fit(frame, Y.assign(t3=np.nan), K)


def test_constant_trait(frame, Y, K):
    with pytest.raises(DataError, match=r"trait\(s\) 't2' are constant over their observed rows"):
        fit(frame, Y.assign(t2=7.0), K)


def test_trait_with_one_value(frame, Y, K):
    Y.loc[1:, "t1"] = np.nan
    with pytest.raises(DataError, match=r"'t1' are constant"):
        fit(frame, Y, K)


def test_duplicate_trait_names(frame, Y, K):
    with pytest.raises(DataError, match="t1"):
        fit(frame, Y.set_axis(["t1", "t1", "t3"], axis=1), K)


def test_infinite_response(frame, Y, K):
    Y.loc[4, "t1"] = np.inf
    with pytest.raises(DataError, match="t1"):
        fit(frame, Y, K)


def test_duplicate_labels_of_a_relationship_matrix(frame, Y, K):
    labels = [LINES[0], *LINES[:-1]]
    with pytest.raises(RelmatError, match="L00"):
        fit(frame, Y, K.set_axis(labels).set_axis(labels, axis=1))


def test_indefinite_relationship_matrix_names_the_eigenvalue(frame, Y, K):
    bad = K - 2.0 * np.eye(N)
    smallest = np.linalg.eigvalsh(bad)[0]
    with pytest.raises(RelmatError, match=f"{smallest:.3g}"[:4]):
        fit(frame, Y, bad)


def test_asymmetric_relationship_matrix_names_the_pair(frame, Y, K):
    bad = K.copy()
    bad.loc["L02", "L05"] += 0.5
    with pytest.raises(RelmatError, match=r"L02.*L05|L05.*L02"):
        fit(frame, Y, bad)


def test_relationship_matrix_lacks_levels(frame, Y, K):
    with pytest.raises(RelmatError, match=r"relmat for group 'line' lacks 2 of 12 levels \(first: 'L10', 'L11'\)"):
        fit(frame, Y, K.iloc[:10, :10])


@pytest.mark.parametrize("k", [7, -1, 2.5])
def test_number_of_factors(frame, Y, K, k):
    with pytest.raises(
        OptionError, match=r"n_factors=.*0 to 6, the smaller of the rows with data \(12\) and 2 covariances"
    ):
        fit(frame, Y, K, n_factors=k)


def test_unknown_prior_lists_the_known():
    with pytest.raises(OptionError, match=r"unknown prior. Choose one of 'horseshoe', 'infinite'"):
        sg.Priors(loadings="lasso")
    with pytest.raises(OptionError, match="expected 'uniform', 'spike', a callable density or an array"):
        fit(
            pd.DataFrame({"g": list("aabbccddeeff")}),
            np.eye(12)[:, :3],
            None,
            "~ 1 + (1 | g)",
            priors=sg.Priors(h2="flat"),
        )


def test_prior_masses_of_the_wrong_length(frame, Y, K):
    with pytest.raises(OptionError, match=r"expected 21 masses.*got 3"):
        fit(frame, Y, 0.5 * (K + np.eye(N)), priors=sg.Priors(h2=[0.2, 0.3, 0.5]))


@pytest.mark.parametrize(("name", "value"), [("draws", -5), ("draws", 0), ("burn", -1), ("thin", 0), ("chains", 0)])
def test_schedule(frame, Y, K, name, value):
    with pytest.raises(OptionError, match=f"{name}={value}: expected an integer of at least"):
        fit(frame, Y, K, **{name: value})


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("priors", "horseshoe", r"priors='horseshoe': expected slamglmm.Priors\(\.\.\.\)"),
        ("priors", {"loadings": "infinite"}, r"priors={'loadings': 'infinite'}: expected slamglmm.Priors"),
        ("seed", "one", "seed='one': expected an integer of at least 0, or None"),
        ("seed", -1, "seed=-1: expected"),
        ("n_jobs", 0, "n_jobs=0: expected the number of chains at the same time, or -1"),
        ("n_threads", 0, "n_threads=0: expected an integer of at least 1"),
    ],
)
def test_options_of_a_wrong_kind(frame, Y, K, name, value, text):
    with pytest.raises(OptionError, match=text):
        fit(frame, Y, K, **{name: value})


def test_no_random_effects_to_ask_for(frame, Y):
    plain = fit(frame, Y, None, "~ x")
    with pytest.raises(OptionError, match="label=None: the formula '~ x' has no random effects"):
        plain.ranef()
    assert "Residual variances, posterior mean" in str(plain.summary())
    assert plain.to_frame()["mean"].equals(plain.varcorr()["mean"])


def test_interval_is_called_interval(frame, Y, K):
    with pytest.raises(OptionError, match="interval=95: expected a probability"):
        fit(frame, Y, K).predict(frame, random="none", interval=95)


@pytest.mark.parametrize("call", [fit, lambda frame, Y, K, formula: sg.he(formula, frame, Y=Y, relmat={"line": K})])
@pytest.mark.filterwarnings("ignore::slamglmm.errors.BoundaryWarning")
def test_warnings_point_at_the_call(frame, Y, K, call):
    """A line inside the package, which nobody can do anything about."""
    frame.loc[2, "x"] = np.nan
    with pytest.warns(DroppedRowsWarning) as seen:
        call(frame, Y, K, "~ x + (1 | line)")
    assert {warning.filename for warning in seen} == {__file__}


def test_unknown_quantity_to_store(frame, Y, K):
    with pytest.raises(OptionError, match=r"unknown \['heritability'\].*Choose from h2"):
        fit(frame, Y, K, store=["heritability"])
    assert "h2" in fit(frame, Y, K, store="h2").posterior


def test_unknown_link(frame, Y, K):
    with pytest.raises(OptionError, match=r"unknown link. Choose one of 'identity'"):
        fit(frame, Y, K, link="logit")


def test_group_with_one_level(frame, Y, K):
    with pytest.raises(DataError, match=r"random term 'one' has a single level \('only'\)"):
        fit(frame, Y, K, "~ 1 + (1 | one)")


def test_missing_covariate_drops_its_row_with_a_warning(frame, Y, K):
    frame.loc[3, "x"] = np.nan
    with pytest.warns(DroppedRowsWarning, match="1 .*x"):
        result = fit(frame, Y, K, "~ x + (1 | line)")
    assert result.nobs == N - 1
    assert "1 dropped: x missing in 1" in str(result)


def test_same_random_term_twice(frame, Y, K):
    with pytest.raises(FormulaError, match=r"\^"):
        fit(frame, Y, K, "~ 1 + (1 | group) + (1 | group)")


def test_one_record_for_each_level_and_no_relmat(frame, Y):
    with pytest.raises(DataError, match=r"cannot be told from the residual.*relmat=\{'line': K\}"):
        fit(frame, Y, None)


def test_identity_relmat_with_one_record_each(frame, Y):
    with pytest.raises(DataError, match="cannot be told from the residual"):
        fit(frame, Y, pd.DataFrame(np.eye(N), LINES, LINES))


def test_no_responses(frame, K):
    with pytest.raises(DataError, match="slam\\(\\) needs responses"):
        fit(frame, None, K)


def test_row_without_data_is_kept_and_predicted(frame, Y, K):
    Y.loc[5] = np.nan
    result = fit(frame, Y, K, draws=50, burn=20)
    assert "1 row(s) have no observed trait and are predicted only: '5'" in result.notes
    assert "predicted only" in str(result)
    row = result.fitted().loc[5]
    expected = result.fixef().loc["Intercept"] + result.ranef("line").loc["L05"]
    # Fixed effects are averaged over the same iterations as U here, over all draws there.
    np.testing.assert_allclose(row, expected, atol=0.5)
    assert np.all(np.abs(result.ranef("line").loc["L05"]) > 0)


def test_relationship_matrix_on_another_scale(frame, Y, K):
    with pytest.warns(sg.errors.ScaleWarning, match="mean diagonal of Z K Z' is"):
        fit(frame, Y, 3 * K)


def test_interval_needs_stored_effects(frame, Y, K):
    with pytest.raises(OptionError, match=r'Refit with store=\(\*slamglmm.DEFAULT_STORE, "U"\)'):
        fit(frame, Y, K).predict(frame, interval=0.9)


def test_what_was_not_stored_is_named(frame, Y, K):
    with pytest.raises(OptionError, match=r"'Lambda', 'h2_factor'.* not stored. Refit with store= naming .* or 'G'"):
        fit(frame, Y, K, store=["h2"]).G()


def test_load_refuses_other_folders(tmp_path):
    with pytest.raises(DataError, match="no saved result there"):
        sg.load(tmp_path)


def test_save_refuses_a_folder_of_other_things(frame, Y, K, tmp_path):
    (tmp_path / "thesis.tex").write_text("")
    with pytest.raises(DataError, match="expected a new or empty folder"):
        fit(frame, Y, K).save(tmp_path)
    assert (tmp_path / "thesis.tex").exists()


def test_markers_are_a_dict(frame, Y, K):
    with pytest.raises(OptionError, match=r"markers must be a dict \{'group': dosages\}, got DataFrame"):
        sg.slam("~ 1 + (1 | line)", frame, Y=Y, markers=K)
