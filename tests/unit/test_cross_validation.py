"""Folds are what they say, predictions never see what they are compared with."""

import numpy as np
import pandas as pd
import pytest

import slamglmm as sg
from slamglmm.errors import OptionError

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


def test_rows_and_groups_stay_together(data):
    frame, Y = data
    rows = sg.cross_validate(Echo, "~ 1", frame, Y=Y, folds=5, by="rows").folds
    assert (rows["b"] == rows["a"])[rows["a"] > 0].all()
    lines = sg.cross_validate(Echo, "~ 1", frame, Y=Y, folds=5, by="line").folds
    of_line = lines["b"].groupby(frame["line"])
    assert (of_line.min() == of_line.max()).all()
    assert sorted(lines["b"].unique()) == [1, 2, 3, 4, 5]


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
        ({"folds": np.ones(7)}, r"shape \(30,\) or \(30, 2\); got \(7,\)"),
    ],
)
def test_bad_folds(data, options, text):
    frame, Y = data
    with pytest.raises(OptionError, match=text):
        sg.cross_validate(Echo, "~ 1", frame, Y=Y, **options)


def test_jobs_change_nothing():
    d = sg.simulate.slam(families=8, n_traits=3, seed=1)
    settings = {"relmat": d.relmat, "folds": 2, "by": "rows", "n_factors": 2, "draws": 10, "burn": 10, "chains": 1}
    one = sg.cross_validate(sg.slam, d.formula, d.frame, Y=d.Y, **settings)
    two = sg.cross_validate(sg.slam, d.formula, d.frame, Y=d.Y, n_jobs=2, **settings)
    pd.testing.assert_frame_equal(one.predictions, two.predictions)
