"""What the pictures show: artists, labels and their order."""

import subprocess
import sys

import matplotlib
import numpy as np
import pandas as pd
import pytest

import slamglmm as sg
from slamglmm import plots
from slamglmm.errors import OptionError

matplotlib.use("agg")
import matplotlib.pyplot as plt


@pytest.fixture(autouse=True)
def _close():
    yield
    plt.close("all")


@pytest.fixture(scope="module")
def fit():
    data = sg.simulate.slam(families=10, per_family=4, n_traits=9, n_factors=2, seed=1)
    return sg.slam(
        data.formula, data.frame, Y=data.Y, relmat=data.relmat, n_factors=3, draws=30, burn=30, chains=2, seed=1
    )


@pytest.fixture(scope="module")
def two_effects():
    data = sg.simulate.slam(families=8, per_family=4, n_traits=4, n_factors=1, second="field", n_second=5, seed=2)
    options = {"n_factors": 1, "h2_grid": 5, "draws": 10, "burn": 10, "chains": 1, "seed": 1}
    return sg.slam(data.formula, data.frame, Y=data.Y, relmat=data.relmat, **options)


def labels(axis):
    return [tick.get_text() for tick in axis.get_ticklabels()]


def test_h2_sorts_and_draws_each_interval(fit):
    """Labels beside the wrong interval, or an interval that is not the table's."""
    ax = fit.plot.h2(prob=0.5)
    table = fit.h2(0.5).loc["animal"].sort_values("mean", ascending=False)
    shown = dict(zip(labels(ax.yaxis), ax.get_yticks(), strict=True))
    assert list(shown) == list(table.index)
    assert list(shown.values()) == sorted(shown.values(), reverse=True)  # largest on top
    (points,) = ax.lines
    np.testing.assert_allclose(points.get_xdata(), table["mean"])
    np.testing.assert_allclose(points.get_ydata(), list(shown.values()))
    (segments,) = (collection.get_segments() for collection in ax.collections)
    np.testing.assert_allclose([s[:, 0] for s in segments], table[["lower", "upper"]].to_numpy())
    assert "50%" in ax.get_title()
    assert "'animal'" in ax.get_xlabel()


def test_h2_in_the_order_of_the_data(fit):
    """sort=False that sorts."""
    assert labels(fit.plot.h2(sort=False).yaxis) == list(fit.design.traits)


def test_h2_of_several_effects(two_effects):
    """Effects drawn over each other, or a legend in another order."""
    ax = two_effects.plot.h2()
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["animal", "field"]
    first, second = (line.get_ydata() for line in ax.lines)
    assert (first > second).all()
    assert len(two_effects.plot.h2(term="field").lines) == 1
    with pytest.raises(OptionError, match="expected one of 'animal', 'field'"):
        two_effects.plot.h2(term="line")


def test_heat_map_of_correlations_is_clustered(fit):
    """Rows and columns in different orders, values of another cell, colours not centred at zero."""
    ax = fit.plot.G()
    correlation = fit.correlation("animal")
    shown = labels(ax.yaxis)
    assert labels(ax.xaxis) == shown
    assert sorted(shown) == sorted(correlation.index)
    (image,) = ax.images
    np.testing.assert_allclose(image.get_array(), correlation.loc[shown, shown])
    assert image.get_clim() == (-1, 1)
    assert image.colorbar.ax.get_ylabel() == "posterior mean correlation"
    order = plots.clustered_order(correlation.to_numpy())
    assert shown == list(correlation.index[order])


def test_heat_map_of_covariances_keeps_the_order(fit):
    """The residual under the name of a random effect, or covariances in an order of their own."""
    covariances = fit.plot.G("Residual", correlation=False)
    assert labels(covariances.yaxis) == labels(fit.plot.G("Residual").yaxis)
    (image,) = covariances.images
    shown = labels(covariances.yaxis)
    np.testing.assert_allclose(image.get_array(), fit.R().loc[shown, shown])
    low, high = image.get_clim()
    assert -low == high == np.abs(fit.R().to_numpy()).max()
    assert "residual" in covariances.get_title()


def test_loadings_share_the_order_of_the_traits(fit):
    """Loadings that belong to the trait next door."""
    ax = fit.plot.loadings()
    assert labels(ax.xaxis) == labels(fit.plot.G().xaxis)
    assert labels(ax.yaxis) == ["factor 1", "factor 2", "factor 3"]
    total = fit.varcorr().groupby("trait")["mean"].sum()
    expected = (fit.loadings() / np.sqrt(total[fit.design.traits]))[labels(ax.xaxis)]
    np.testing.assert_allclose(ax.images[0].get_array(), expected)


def test_trace_strips(fit):
    """A strip with the draws of another quantity or chain."""
    ax = fit.plot.trace(traits=["trait3", "trait1"])
    assert [label.split("\n")[0] for label in labels(ax.yaxis)] == ["trait3", "trait1"]
    draws = fit.posterior["h2"].sel(term="animal", trait="trait1")
    curves = [line for line in ax.lines if len(line.get_xdata()) == fit.posterior.sizes["draw"]]
    assert len(curves) == 4
    for chain, curve in enumerate(curves[2:]):  # the lower strip
        assert np.corrcoef(curve.get_ydata(), draws[chain])[0, 1] == pytest.approx(1)
        assert min(curve.get_ydata()) > 0
        assert max(curve.get_ydata()) < 1


def test_trace_of_what_mixes_worst(fit):
    """Quantities chosen for good mixing."""
    ax = fit.plot.trace(["h2", "G", "R"])
    ess = fit.diagnostics()["ess_bulk"].sort_index()
    parts = [ess.loc["h2", "animal"], ess.loc["G", "animal"], ess.loc["R", "Residual"]]
    pooled = pd.concat([part.loc[list(fit.design.traits)] for part in parts], keys=["h2", "G", "R"])
    worst = [" ".join(key) for key in pooled.sort_values().index[: plots.TRACED]]
    assert [label.split("\n")[0] for label in labels(ax.yaxis)] == worst


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"variables": "U"}, r"variables='U'.*expected one of 'h2'.*'G', 'R'"),
        ({"traits": ["trait1", "height"]}, "no trait is called 'height'"),
    ],
)
def test_trace_of_what_is_not_there(fit, arguments, message):
    """A bare KeyError."""
    with pytest.raises(OptionError, match=message):
        fit.plot.trace(**arguments)


def test_given_axes_are_used(fit):
    """A second figure beside the user's own."""
    _, axes = plt.subplots(2, 2)
    drawn = [
        fit.plot.trace(ax=axes[0, 0]),
        fit.plot.h2(ax=axes[0, 1]),
        fit.plot.G(ax=axes[1, 0]),
        fit.plot.loadings(ax=axes[1, 1]),
    ]
    assert drawn == list(axes.flat)
    assert len(plt.get_fignums()) == 1


def test_many_traits_have_no_labels():
    """Hundreds of names on top of each other."""
    names = [f"gene{i}" for i in range(300)]
    ax = plots.heatmap(pd.DataFrame(np.eye(300), names, names), square=True)
    assert labels(ax.xaxis) == labels(ax.yaxis) == []
    assert ax.get_xlabel() == "300 traits"
    assert max(ax.figure.get_size_inches()) <= 16


def test_long_names_keep_both_ends():
    """Names cut where they differ."""
    names = ["a" * 30 + str(i) + "b" * 30 + str(i) for i in range(2)]
    shown = labels(plots.heatmap(pd.DataFrame(np.eye(2), names, names)).yaxis)
    assert all(len(name) <= plots.LONGEST_LABEL for name in shown)
    assert shown[0] != shown[1]


@pytest.mark.parametrize("p", [1, 2, 3, 20])
def test_clustered_order_is_a_permutation(p):
    """Too few traits for a tree."""
    assert sorted(plots.clustered_order(np.eye(p))) == list(range(p))


def test_clusters_are_together():
    """An order that does not follow the correlations."""
    block = np.arange(12) % 3
    order = plots.clustered_order((block[:, None] == block).astype(float))
    assert np.sum(np.diff(block[order]) != 0) == 2


def test_no_random_effects_and_no_factors():
    """An empty picture instead of a reason."""
    frame = pd.DataFrame({"x": np.arange(12.0)})
    Y = pd.DataFrame(np.random.default_rng(1).standard_normal((12, 2)), columns=["a", "b"])
    fit = sg.slam("~ x", frame, Y=Y, n_factors=0, draws=5, burn=5, chains=1, seed=1)
    with pytest.raises(OptionError, match="no random effects"):
        fit.plot.h2()
    with pytest.raises(OptionError, match="n_factors=0"):
        fit.plot.loadings()
    assert labels(fit.plot.G("Residual").xaxis) == ["a", "b"]


def test_without_matplotlib_the_message_says_what_to_install():
    """A bare ModuleNotFoundError from deep inside."""
    code = (
        "import sys; sys.modules['matplotlib'] = None\n"
        "import pandas as pd, slamglmm\n"
        "try: slamglmm.plots.heatmap(pd.DataFrame([[1.0]]))\n"
        "except ImportError as error: print(error)"
    )
    out = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert 'pip install "slamglmm[plot]"' in out


def test_priors_show_what_they_imply():
    """Heights of the histogram and the bars against the draws; a spike shows at zero."""
    left, right = sg.Priors(h2="spike", h2_factors="spike").plot(n_factors=3, n_traits=40, n_rows=100, draws=200)
    heights = np.array([patch.get_height() for patch in left.patches])
    assert heights.sum() / 20 == pytest.approx(1.0)
    assert heights[0] > 3 * heights[10]
    bars = [patch.get_height() for patch in right.patches]
    assert sum(bars) == pytest.approx(1.0)
    assert len(bars) <= 4
    assert left.get_xlabel() == "h2 of a trait"


@pytest.mark.parametrize("loadings", ["horseshoe", "infinite", "spike_slab", "tpb"])
def test_implied_h2_without_factors_is_the_prior_of_the_shares(loadings):
    """No factors: h2 is the trait's own share, from either kind of residual prior."""
    from slamglmm.priors.implied import simulate_priors

    for residual in (sg.PrecisionPrior(0.5, 5), sg.VarianceComponents(V={"id": 1.0, "Residual": 1.0}, nu=2)):
        priors = sg.Priors(loadings=loadings, residual=residual)
        implied = simulate_priors(priors, 0, 40, 50, 20, 200, 1)
        assert implied.h2.mean() == pytest.approx(np.mean(np.arange(20) / 20), abs=0.03)
        assert np.all(implied.n_used == 0)
        assert np.all(simulate_priors(priors, 4, 10, 50, 20, 20, 1).n_used <= 4)


def test_priors_drawn_on_axes_of_ones_own():
    axes = plt.subplots(1, 2)[1]
    assert sg.Priors().plot(draws=5, axes=axes) == (axes[0], axes[1])
