"""Known truth and real predictions, against what MegaLMM reached on the same data (shared reference files)."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import slamglmm as sg
from slamglmm.errors import SlamWarning

SHARED = Path(__file__).parents[3] / "shared"
MEGALMM = SHARED / "reference" / "megalmm"

pytestmark = pytest.mark.skipif(not MEGALMM.exists(), reason="shared reference files are not here")


def rmse(estimate, truth):
    return float(np.sqrt(np.mean((np.asarray(estimate) - truth) ** 2)))


def test_half_sib_simulation_w2():
    """n=500, p=100: MegaLMM reached .085, .064, .098 for G, R, h2; single-trait REML .129 for h2."""
    data = np.load(MEGALMM / "W2_input.npz")
    n, p = data["Y"].shape
    ids = [f"i{i}" for i in range(n)]
    same = data["sire"][:, None] == data["sire"]
    K = pd.DataFrame(0.25 * same + 0.75 * np.eye(n), ids, ids)
    frame = pd.DataFrame({"id": ids, "x": data["x"]})
    Y = pd.DataFrame(data["Y"].astype(float), columns=[f"t{j}" for j in range(p)])
    fit = sg.slam(
        "~ x + (1 | id)", frame, Y=Y, relmat={"id": K}, n_factors=15, draws=2000, burn=1000, chains=1, seed=20261120
    )
    Lambda, share = data["Lambda"], data["factor_h2"]
    own, own_share = data["resid_var"], data["resid_h2"]
    G = (Lambda.T * share) @ Lambda + np.diag(own_share * own)
    R = (Lambda.T * (1 - share)) @ Lambda + np.diag((1 - own_share) * own)
    h2 = np.diag(G) / np.diag(G + R)
    table = fit.h2(prob=0.9)
    covered = np.mean((table["lower"] <= h2) & (h2 <= table["upper"]))
    print(
        f"rmse G {rmse(fit.G(), G):.4f} R {rmse(fit.R(), R):.4f} h2 {rmse(table['mean'], h2):.4f} cover {covered:.2f}"
    )
    assert rmse(fit.G(), G) <= 0.089
    assert rmse(fit.R(), R) <= 0.068
    assert rmse(table["mean"], h2) <= 0.103
    assert 0.82 <= covered <= 0.96


def test_bsfg_simulation_1():
    """n=250, p=100, ten factors: off-diagonals of G and R follow the truth."""
    data = np.load(SHARED / "data" / "bsfg_Sim_1.npz")
    n, p = data["Y"].shape
    ids = [f"i{i}" for i in range(data["A"].shape[0])]
    codes = np.asarray(data["Z_1"]).reshape(n, -1).argmax(axis=1)
    frame = pd.DataFrame({"animal": np.array(ids)[codes]})
    fit = sg.slam(
        "~ 1 + (1 | animal)",
        frame,
        Y=pd.DataFrame(data["Y"], columns=[f"t{j}" for j in range(p)]),
        relmat={"animal": pd.DataFrame(data["A"], ids, ids)},
        draws=1000,
        burn=1000,
        chains=1,
        seed=20261120,
    )
    upper = np.triu_indices(p, 1)
    correlations = [
        np.corrcoef(estimate.to_numpy()[upper], data[name][upper])[0, 1]
        for name, estimate in (("G", fit.G()), ("R", fit.R()))
    ]
    print("correlation of off-diagonals with truth, G and R:", np.round(correlations, 3))
    assert correlations[0] > 0.8
    assert correlations[1] > 0.8


def test_maize_trial_predicts_masked_cells():
    """W1, fold 1 masked, 65 % of cells missing: MegaLMM .349/.252 by default, .388/.328 with hand-chosen groups."""
    Y = pd.read_csv(MEGALMM / "W1_Y.csv.gz")
    folds = pd.read_csv(MEGALMM / "W1_folds.csv.gz").drop(columns="Line").to_numpy()
    kinship = np.load(SHARED / "data" / "maize_K.npz")
    frame = Y[["Line", "Population"]].astype({"Population": str})
    yields = Y.drop(columns=["Line", "Population"])
    masked = folds == 1
    truth = yields.to_numpy()
    K = pd.DataFrame(kinship["K"], kinship["ids"], kinship["ids"])
    rows = frame["Line"].to_numpy()

    def score(prediction):
        chosen = [masked[:, j] & ~np.isnan(truth[:, j]) for j in range(truth.shape[1])]
        return np.mean([np.corrcoef(prediction[c, j], truth[c, j])[0, 1] for j, c in enumerate(chosen)])

    fitted, genetic = [], []
    for seed in (1, 2, 3, 4):
        with pytest.warns(sg.errors.SlamWarning, match="cannot be told from the rows where a trait has data"):
            fit = sg.slam(
                "~ Population + (1 | Line)", frame, Y=yields.mask(masked), relmat={"Line": K}, chains=1, seed=seed
            )
        fitted.append(fit.fitted().to_numpy())
        genetic.append(fit.ranef("Line").loc[rows].to_numpy())
        print(f"seed {seed}: fitted {score(fitted[-1]):.3f}, ranef {score(genetic[-1]):.3f}")
    print(f"mean of chains: fitted {score(np.mean(fitted, 0)):.3f}, ranef {score(np.mean(genetic, 0)):.3f}")
    assert score(np.mean(fitted, axis=0)) >= 0.375
    assert score(np.mean(genetic, axis=0)) >= 0.305


def test_a_grid_too_coarse_is_said():
    """A residual of 1 % of the variance where the grid has no share below 5 %: overestimated without a word."""
    rng = np.random.default_rng(5)
    frame = pd.DataFrame({"g": np.repeat([f"g{i}" for i in range(12)], 4)})
    small = np.repeat(rng.standard_normal(12), 4) + 0.1 * rng.standard_normal(48)
    large = np.repeat(rng.standard_normal(12), 4) + rng.standard_normal(48)
    Y = pd.DataFrame({"small": small, "large": large})
    options = {"n_factors": 0, "draws": 60, "burn": 30, "chains": 2, "seed": 1}
    with pytest.warns(SlamWarning, match="residual of 'small': its share is the smallest on the grid"):
        coarse = sg.slam("~ 1 + (1 | g)", frame, Y=Y, **options)
    line = "residual of 'small': its share is the smallest on the grid (0.05) in most draws"
    assert coarse.notes[0].startswith(line)
    assert coarse.notes[0].endswith("h2_grid=100")
    assert line in str(coarse.summary())
    fine = sg.slam("~ 1 + (1 | g)", frame, Y=Y, h2_grid=200, **options)
    assert not any("smallest on the grid" in note for note in fine.notes)
    assert coarse.R().loc["small", "small"] > 0.015
    assert 0.007 < fine.R().loc["small", "small"] < 0.013
