"""Generators of markers: what they promise about shares, disequilibrium, patterns and files."""

import numpy as np
import pytest

from slamglmm import simulate
from slamglmm.errors import OptionError
from slamglmm.genotypes import open_plink
from tests.reference.markers import dense


def test_sparse_lmm_shares():
    """The response is what the truth says, and h2 its share after covariates."""
    made = simulate.sparse_lmm(n=4000, n_markers=200, causal=8, h2=0.3, covariates=2, n_traits=2, seed=1)
    for trait in made.Y:
        beta = made.truth["beta"][trait]
        assert (beta != 0).sum() == 8
        G = made.markers[beta.index].to_numpy(dtype=float)
        np.testing.assert_allclose((G - G.mean(axis=0)) @ beta, made.truth["signal"][trait], atol=1e-9)
        signal, noise = made.truth["signal"][trait].var(), made.truth["residual_var"][trait]
        np.testing.assert_allclose(signal / (signal + noise), 0.3, atol=1e-3)
        X = made.frame[["x1", "x2"]].to_numpy()
        effects = made.truth["covariates"][trait].to_numpy()
        rest = made.Y[trait] - effects[0] - X @ effects[1:] - made.truth["signal"][trait]
        np.testing.assert_allclose(rest.var(), noise, rtol=0.1)
    assert made.formula == "y1 ~ 1 + x1 + x2"


def test_binomial_and_null():
    """Responses of 0 and 1; no signal at h2 = 0."""
    made = simulate.sparse_lmm(n=300, n_markers=20, causal=5, family="binomial", seed=1)
    assert set(np.unique(made.Y)) == {0.0, 1.0}
    assert np.ptp(simulate.sparse_lmm(n=50, n_markers=20, causal=3, h2=0.0, seed=1).truth["signal"]) == 0
    assert np.ptp(simulate.sparse_lmm(n=50, n_markers=20, causal=0, seed=1).truth["signal"]) == 0


def test_disequilibrium():
    """Neighbours in a block are correlated, less so two apart; blocks are independent."""
    made = simulate.sparse_lmm(n=5000, n_markers=40, ld=0.9, ld_block=10, seed=1)
    r = np.corrcoef(made.markers.to_numpy().T)
    within = np.mean([r[k, k + 1] for k in range(39) if (k + 1) % 10])
    further = np.mean([r[k, k + 3] for k in range(37) if k % 10 < 7])
    across = np.mean([abs(r[k, k + 1]) for k in range(9, 39, 10)])
    assert within > 0.5
    assert 0.2 < further < within
    assert across < 0.05


def test_bed_file(tmp_path):
    """The same genotypes as in memory, missing ones included."""
    options = {"n": 37, "n_markers": 50, "causal": 3, "missing": 0.1, "seed": 3}
    memory = simulate.sparse_lmm(**options)
    file = simulate.sparse_lmm(**options, bed=tmp_path / "x.bed")
    markers = open_plink(file.markers)
    assert list(markers.labels) == list(memory.frame.index)
    assert list(markers.names) == list(memory.markers.columns)
    observed = memory.markers.to_numpy()
    gone = observed == -128
    assert 0.05 < gone.mean() < 0.15
    np.testing.assert_array_equal(dense(markers.columns())[~gone], observed[~gone])
    np.testing.assert_array_equal(memory.Y, file.Y)


@pytest.mark.parametrize("pattern", ["shared", "independent", "single", "mixed"])
def test_mr_mash_patterns(pattern):
    """Effects alike, unrelated or alone; shares and residual correlation as asked."""
    made = simulate.mr_mash(n=3000, n_markers=100, n_traits=4, causal=12, pattern=pattern, seed=2)
    beta = made.truth["beta"]
    active = beta[(beta != 0).any(axis=1)]
    assert len(active) == 12
    for marker, kind in made.truth["pattern"].items():
        row = beta.loc[marker].to_numpy()
        assert {"shared": np.ptp(row) == 0, "single": (row != 0).sum() == 1, "independent": np.ptp(row) > 0}[kind]
    np.testing.assert_allclose(made.truth["signal"].var(axis=0, ddof=0).mean(), 0.3 / 0.7, rtol=1e-6)
    G = made.markers.to_numpy(dtype=float)
    fixed = made.truth["covariates"]
    X = made.frame[["x1"]].to_numpy()
    rest = made.Y.to_numpy() - fixed.iloc[0].to_numpy() - X @ fixed.iloc[1:].to_numpy() - made.truth["signal"]
    np.testing.assert_allclose(np.corrcoef(rest.T)[0, 1], 0.3, atol=0.06)
    np.testing.assert_allclose((G - G.mean(axis=0)) @ beta.to_numpy(), made.truth["signal"], atol=1e-8)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: simulate.sparse_lmm(causal=3000),
            r"causal=3000\): expected an integer from 0 to 2000. They are among the n_markers",
        ),
        (
            lambda: simulate.sparse_lmm(h2=1.0),
            r"sparse_lmm\(h2=1.0\): expected a finite number of at least 0 and below 1",
        ),
        (lambda: simulate.sparse_lmm(n=1), r"\(n=1\): expected an integer of at least 2"),
        (lambda: simulate.sparse_lmm(family="poisson"), r"family='poisson'\): expected 'gaussian' or 'binomial'"),
        (
            lambda: simulate.mr_mash(pattern="odd"),
            r"pattern='odd'\): expected 'shared', 'independent', 'single' or 'mixed'",
        ),
        (lambda: simulate.mr_mash(residual_correlation=-0.5), "residual_correlation -0.5 is impossible for 5"),
        (
            lambda: simulate.mr_mash(missing_responses=1.0),
            r"missing_responses=1.0\): expected a finite number of at least 0 and below 1",
        ),
    ],
)
def test_refused(call, message):
    """Sizes and shares that cannot be."""
    with pytest.raises(OptionError, match=message):
        call()
