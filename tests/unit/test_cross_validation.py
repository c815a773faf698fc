"""Folds are what they say, predictions never see what they are compared with."""

import os

import numpy as np
import pandas as pd
import pytest

import slamglmm as sg
from slamglmm.errors import DataError, OptionError

N = 30


class Echo:
    """A fitter that predicts each trait by the mean of what it was shown."""

    def __init__(self, formula, data, *, Y, seed):
        self.Y, self.seed = Y, seed

    def fitted(self):
        return pd.DataFrame(np.tile(self.Y.mean().to_numpy(), (len(self.Y), 1)), self.Y.index, self.Y.columns)


@pytest.fixture
def data():
    rng = np.random.default_rng(1)
    frame = pd.DataFrame({"line": np.repeat([f"L{i}" for i in range(10)], 3)})
    Y = pd.DataFrame(rng.standard_normal((N, 2)), columns=["a", "b"])
    Y.loc[4, "a"] = np.nan
    return frame, Y


def test_cells_are_shared_out_evenly_within_each_trait(data):
    frame, Y = data
    cv = sg.cross_validate(Echo, "~ 1", frame, Y=Y, folds=4)
    assert cv.folds.loc[4, "a"] == 0
    for trait, n in (("a", 29), ("b", 30)):
        counts = np.bincount(cv.folds[trait], minlength=5)[1:]
        assert counts.sum() == n
        assert counts.max() - counts.min() <= 1


def test_predictions_are_made_without_the_fold(data):
    frame, Y = data
    cv = sg.cross_validate(Echo, "~ 1", frame, Y=Y, folds=3)
    for trait in Y:
        for f in (1, 2, 3):
            inside = cv.folds[trait] == f
            np.testing.assert_allclose(cv.predictions.loc[inside, trait], Y.loc[~inside, trait].mean())
    table = cv.by_fold()
    inside = cv.folds["b"] == 2
    rmse = np.sqrt(np.mean((Y.loc[inside, "b"] - Y.loc[~inside, "b"].mean()) ** 2))
    assert table.loc[("b", 2), "rmse"] == pytest.approx(rmse)
    # A constant prediction has no correlation, and says so.
    assert table["correlation"].isna().all()
    assert cv.summary()["n"].tolist() == [29, 30]


def test_responses_in_the_formula(data):
    """The same as Y=, expressions too; without any, what is missing is said."""
    frame, Y = data
    one = sg.cross_validate(Echo, "~ 1", frame, Y=Y, folds=3)
    two = sg.cross_validate(Echo, "a + b ~ 1", frame.join(Y), folds=3)
    pd.testing.assert_frame_equal(one.predictions, two.predictions)
    three = sg.cross_validate(Echo, "np.exp(b) ~ 1 + line", frame.join(Y), folds=3)
    np.testing.assert_allclose(three.observed.iloc[:, 0], np.exp(Y["b"]))
    with pytest.raises(OptionError, match="cross_validate needs responses: name them on the left of '~', or pass Y="):
        sg.cross_validate(Echo, "~ 1", frame)


def test_rows_and_groups_stay_together(data):
    frame, Y = data
    rows = sg.cross_validate(Echo, "~ 1", frame, Y=Y, folds=5, by="rows").folds
    assert (rows["b"] == rows["a"])[rows["a"] > 0].all()
    lines = sg.cross_validate(Echo, "~ 1", frame, Y=Y, folds=5, by="line").folds
    of_line = lines["b"].groupby(frame["line"])
    assert (of_line.min() == of_line.max()).all()
    assert sorted(lines["b"].unique()) == [1, 2, 3, 4, 5]


def test_each_group_is_left_out_in_turn(data):
    """Folds bear the names of what is left out."""
    frame, Y = data
    cv = sg.cross_validate(Echo, "~ 1", frame, Y=Y, folds="leave-one-out", by="line")
    table = cv.by_fold()
    assert list(table.loc["b"].index) == [f"L{i}" for i in range(10)]
    assert table.loc[("a", "L1"), "n"] == 2  # one of the three is missing
    for line, rows in frame.groupby("line").groups.items():
        np.testing.assert_allclose(cv.predictions.loc[rows, "b"], Y["b"].drop(rows).mean())
        assert table.loc[("b", line), "n"] == 3
    frame.loc[3, "line"] = None
    with pytest.raises(DataError, match="by='line': the column is missing in 1 row"):
        sg.cross_validate(Echo, "~ 1", frame, Y=Y, folds="leave-one-out", by="line")


def test_new_environments_of_a_trial():
    """Long format: an environment without records has its lines' effects, and those correlate with the truth."""
    rng = np.random.default_rng(3)
    lines = np.arange(40)
    value = rng.standard_normal(40)
    env = np.repeat(["E1", "E2", "E3", "E4"], 25)
    line = np.concatenate([rng.choice(lines, 25, replace=False) for _ in range(4)])
    y = value[line] + np.repeat([0.0, 2.0, -1.0, 1.0], 25) + 0.3 * rng.standard_normal(100)
    frame = pd.DataFrame({"line": [f"L{i}" for i in line], "env": env})
    cv = sg.cross_validate(
        sg.slam,
        "~ 1 + (1 | line) + (1 | env)",
        frame,
        Y=pd.DataFrame({"yield": y}),
        folds="leave-one-out",
        by="env",
        **{"n_factors": 0, "h2_grid": 8, "draws": 60, "burn": 60, "chains": 1},
    )
    table = cv.by_fold().loc["yield"]
    assert list(table.index) == ["E1", "E2", "E3", "E4"]
    assert table["correlation"].min() > 0.6


def test_own_folds_by_row_and_by_cell(data):
    frame, Y = data
    by_row = np.where(np.arange(N) < 10, 1, np.where(np.arange(N) < 15, 0, 2))
    cv = sg.cross_validate(Echo, "~ 1", frame, Y=Y, folds=by_row)
    assert cv.predictions.iloc[10:15].isna().all().all()
    by_cell = np.zeros((N, 2))
    by_cell[:5, 0] = 1
    cv = sg.cross_validate(Echo, "~ 1", frame, Y=Y, folds=by_cell)
    assert cv.predictions["a"].notna().sum() == 4  # one of the five had no response
    assert cv.predictions["b"].isna().all()


def test_seeds_are_given_by_fold_or_by_the_user(data):
    frame, Y = data
    seen = []

    class Spy(Echo):
        def __init__(self, *args, **options):
            super().__init__(*args, **options)
            seen.append(self.seed)

    sg.cross_validate(Spy, "~ 1", frame, Y=Y, folds=3, seed=10)
    sg.cross_validate(Spy, "~ 1", frame, Y=Y, folds=2, **{"seed": 10}, predict=lambda fit: fit.fitted())
    assert seen == [11, 12, 13, 11, 12]


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"folds": 1}, "expected at least 2"),
        ({"folds": 11, "by": "line"}, "only 10 units"),
        ({"by": "plot"}, "expected 'cells', 'rows' or a column"),
        ({"folds": np.ones(7)}, r"folds=<ndarray of shape \(7,\)>: .* of shape \(30,\) or \(30, 2\)"),
        ({"folds": "all", "by": "line"}, r"folds='all', by='line': .* or 'leave-one-out' with by='rows' or a column"),
        ({"fitter": "slam"}, "fitter='slam': expected a function, such as slamglmm.slam"),
        ({"folds": "leave-one-out"}, "folds='leave-one-out', by='cells': expected"),
    ],
)
def test_bad_folds(data, options, text):
    frame, Y = data
    with pytest.raises(OptionError, match=text):
        sg.cross_validate(**({"fitter": Echo, "formula": "~ 1", "data": frame, "Y": Y} | options))


def test_rows_are_matched_by_label(data):
    """Predictions in the order of the data, compared with responses in another."""
    frame, Y = (table.set_axis([f"r{i}" for i in range(N)]) for table in data)
    options = {"folds": 3, "by": "line", "seed": 1}
    ordered = sg.cross_validate(sg.slam, "~ (1 | line)", frame, Y=Y, n_factors=0, draws=5, burn=0, chains=1, **options)
    mixed = Y.sample(frac=1, random_state=2)
    shuffled = sg.cross_validate(
        sg.slam, "~ (1 | line)", frame, Y=mixed, n_factors=0, draws=5, burn=0, chains=1, **options
    )
    pd.testing.assert_frame_equal(shuffled.observed, ordered.observed)
    pd.testing.assert_frame_equal(shuffled.folds, ordered.folds)
    pd.testing.assert_frame_equal(shuffled.predictions, ordered.predictions)


def test_fitters_that_drop_masked_rows_predict_them():
    """Relatives of a row that was left out say what it should be; without them, the mean of what was seen."""
    d = sg.simulate.slam(families=20, n_traits=1, seed=4)
    cv = sg.cross_validate(sg.he, d.formula, d.frame, Y=d.Y, relmat=d.relmat, folds=2, by="rows")
    assert cv.predictions.notna().to_numpy().all()
    inside = (cv.folds != 1).to_numpy()[:, 0]
    by_hand = sg.he(d.formula, d.frame[inside], Y=d.Y[inside], relmat=d.relmat).predict(d.frame[~inside])
    np.testing.assert_allclose(cv.predictions[~inside], by_hand, rtol=1e-8)
    with pytest.raises(DataError, match=r"fold 1: \d+ of \d+ rows were predicted. Drop rows with missing predictors"):
        sg.cross_validate(sg.he, d.formula, d.frame.assign(x=d.frame["x"].where(d.frame.index != d.frame.index[3])),
                          Y=d.Y, relmat=d.relmat, folds=2, by="rows")  # fmt: skip


def test_markers_of_masked_rows_are_in_their_predictions():
    rng = np.random.default_rng(1)
    G = rng.binomial(2, 0.3, (300, 50)).astype(np.int8)
    frame = pd.DataFrame({"y": G @ rng.standard_normal(50) + 4.5 * rng.standard_normal(300)})
    cv = sg.cross_validate(sg.he, "y ~ 1", frame, folds=2, by="rows", seed=1, markers={"chip": G}, se=None)
    inside = (cv.folds != 1).to_numpy()[:, 0]
    by_hand = sg.he("y ~ 1", frame[inside], markers={"chip": G[inside]}, se=None, seed=2)
    expected = by_hand.predict(frame[~inside], markers={"chip": G[~inside]})
    assert by_hand.h2("chip") > 0.1
    assert expected["y"].std() > 0.1
    np.testing.assert_allclose(cv.predictions[~inside], expected, rtol=1e-6)


def cross_validate_simulated(**options):
    d = sg.simulate.slam(families=8, n_traits=3, seed=1)
    settings = {"relmat": d.relmat, "folds": 4, "by": "rows", "n_factors": 2, "draws": 10, "burn": 10, "chains": 1}
    return sg.cross_validate(sg.slam, d.formula, d.frame, Y=d.Y, **settings, **options)


def test_jobs_change_nothing():
    one, two = cross_validate_simulated(), cross_validate_simulated(n_jobs=2)
    pd.testing.assert_frame_equal(one.predictions, two.predictions)


def test_folds_go_to_a_cluster(tmp_path):
    """Two workers of a dask cluster fit the folds, and give the numbers of this process."""
    distributed = pytest.importorskip("distributed")
    import joblib

    def fitted(fit):
        (tmp_path / str(os.getpid())).touch()
        return fit.fitted()

    one = cross_validate_simulated()
    with (
        distributed.LocalCluster(
            n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None, memory_limit=0
        ) as cluster,
        distributed.Client(cluster) as client,
        joblib.parallel_config(backend="dask"),
    ):
        workers = set(client.run(os.getpid).values())
        two = cross_validate_simulated(n_jobs=-1, predict=fitted)
    assert {int(path.name) for path in tmp_path.iterdir()} == workers
    assert len(workers) == 2
    pd.testing.assert_frame_equal(one.predictions, two.predictions)
    pd.testing.assert_frame_equal(one.folds, two.folds)


def test_links_are_compared_on_the_scale_of_the_data():
    """Counts against expected counts in place of their logarithm; genes are no predictions of probes."""
    rng = np.random.default_rng(2)
    data = sg.simulate.slam(
        families=20, per_family=5, n_traits=3, n_factors=0, link="poisson", intercept=2.0, seed=3, resid_var=0.2
    )
    short = {"n_factors": 0, "draws": 40, "burn": 40, "chains": 1, "progress": False}
    latent, counts, rows = (
        sg.cross_validate(
            sg.slam, data.formula, data.frame, Y=data.Y, relmat=data.relmat, link="poisson", folds=2, **short, **more
        ).summary()
        for more in (
            {},
            {"predict": lambda fit: fit.fitted(scale="data")},
            {
                "predict": lambda fit: fit.predict(data.frame, scale="data"),
                "store": (*sg.DEFAULT_STORE, "U"),
                "by": "rows",
            },
        )
    )
    assert (counts["rmse"] < 0.9 * latent["rmse"]).all()
    assert (rows["correlation"] > 0.1).all()
    probes = rng.standard_normal((100, 4))
    with pytest.raises(DataError, match=r"2 columns were predicted for 4 traits, as by links whose .* Give predict="):
        sg.cross_validate(
            sg.slam, data.formula, data.frame, Y=pd.DataFrame(probes, columns=list("abcd")), relmat=data.relmat,
            link=sg.links.Probes(dict(zip("abcd", "xxyy", strict=True))), folds=2, **short,
        )  # fmt: skip
