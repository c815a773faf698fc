"""Pictures of the variational fits: what they show, not how they look."""

import numpy as np
import pandas as pd
import pytest

import slamglmm as sg
from slamglmm.errors import OptionError
from slamglmm.plots import _pushed_apart

plt = pytest.importorskip("matplotlib.pyplot")


@pytest.fixture(scope="module")
def fits():
    rng = np.random.default_rng(0)
    G = pd.DataFrame(rng.binomial(2, 0.3, (120, 30)).astype(float), columns=[f"m{k}" for k in range(30)])
    Y = pd.DataFrame(rng.standard_normal((120, 2)) + G[["m3"]].to_numpy(), columns=["a", "b"])
    frame = Y.copy()
    chromosomes = pd.DataFrame(
        {"marker": G.columns, "chromosome": ["1"] * 20 + ["X"] * 10, "position": np.arange(30) % 20}
    )
    one = sg.sparse_lmm("a ~ 1", frame, markers=G)
    return one, sg.mr_mash("~ 1", frame, Y=Y, markers=G), chromosomes


@pytest.fixture(autouse=True)
def close():
    yield
    plt.close("all")


def test_elbo(fits):
    """One point a sweep but the last, falling."""
    for fit in fits[:2]:
        rest = fit.plot.elbo().lines[0].get_ydata()
        assert len(rest) == len(fit.elbo) - 1
        assert (np.diff(rest) <= 0).all()


def test_fit(fits):
    """Observed against fitted, one response or all."""
    one, two, _ = fits
    line = one.plot.fit().lines[0]
    np.testing.assert_allclose(line.get_xdata(), one.fitted()["a"])
    np.testing.assert_allclose(line.get_ydata(), one.design.Y["a"])
    both = two.plot.fit()
    assert len(both.lines) == 3
    assert [text.get_text() for text in both.get_legend().get_texts()] == ["a", "b"]
    assert len(two.plot.fit("b").lines) == 2
    with pytest.raises(OptionError, match="no response 'c'; the responses are 'a', 'b'"):
        two.plot.fit("c")


def test_manhattan(fits):
    """Every marker at its place, chromosomes after one another, sure ones named."""
    one, two, chromosomes = fits
    for fit in (one, two):
        ax = fit.plot.manhattan(chromosomes)
        points = np.concatenate([line.get_xdata() for line in ax.lines if line.get_marker() == "."])
        assert len(points) == 30
        assert points[20:].min() > points[:20].max()
        assert [label.get_text() for label in ax.get_xticklabels()] == ["1", "X"]
        named = [label.get_text() for label in ax.child_axes[0].get_xticklabels()]
        assert "m3" in named
        # a line from each name to its point
        assert len([line for line in ax.lines if line.get_marker() != "."]) == len(named)
    height = np.concatenate([line.get_ydata() for line in one.plot.manhattan().lines if line.get_marker() == "."])
    np.testing.assert_allclose(height, one.pip)
    assert not one.plot.manhattan(name_above=1.0).child_axes
    with pytest.raises(OptionError, match="map lacks 29 markers"):
        one.plot.manhattan(chromosomes.head(1))
    with pytest.raises(OptionError, match="map needs the columns"):
        one.plot.manhattan(chromosomes[["marker"]])


def test_manhattan_of_several_responses(fits):
    """One picture a response, each that of its own fit."""
    _, two, chromosomes = fits
    Y = two.design.Y
    rng = np.random.default_rng(0)
    markers = pd.DataFrame(rng.binomial(2, 0.3, (120, 30)).astype(float), columns=[f"m{k}" for k in range(30)])
    many = sg.sparse_lmm("a + b ~ 1", Y, markers=markers)
    axes = many.plot.manhattan(chromosomes)
    assert [ax.get_ylabel() for ax in axes] == ["PIP, a", "PIP, b"]
    for trait, ax in zip("ab", axes, strict=True):
        height = np.concatenate([line.get_ydata() for line in ax.lines if line.get_marker() == "."])
        np.testing.assert_allclose(height, many[trait].pip)
    with pytest.raises(OptionError, match="expected 2 axes, one a response, got 1"):
        many.plot.manhattan(axes=axes[:1])


def test_names_do_not_touch():
    """In order, apart, between the ends, and not moved without need; closer together where there is no room."""
    at = np.array([0.0, 5.0, 5.1, 5.2, 9.9])
    moved = _pushed_apart(at, 1.0, 0.5, 9.5)
    assert np.diff(moved).min() > 1.0 - 1e-12
    np.testing.assert_allclose(moved, [0.5, 4.1, 5.1, 6.1, 9.5])
    crowded = _pushed_apart(np.full(21, 3.0), 1.0, 0.0, 10.0)
    np.testing.assert_allclose(crowded, np.linspace(0.0, 10.0, 21))
    np.testing.assert_allclose(_pushed_apart(np.array([4.0]), 1.0, 0.0, 10.0), [4.0])


def test_weights_and_effects(fits):
    """Largest weight on top; only markers with a sure sign; refused where there is no mixture."""
    one, two, _ = fits
    bars = two.plot.weights().patches
    np.testing.assert_allclose(bars[-1].get_width(), two.covariance_weights.max())
    ax = two.plot.effects()
    shown = [label.get_text() for label in ax.get_yticklabels()]
    assert shown == list(two.lfsr.index[(two.lfsr < 0.05).any(axis=1)])
    for name in ("weights", "effects"):
        with pytest.raises(OptionError, match=rf"plot.{name}\(\) is for fits of mr_mash"):
            getattr(one.plot, name)()
