"""`netgsa`: every form of network, group and pathway; errors; several conditions; subsamples."""

import re

import networkx
import numpy as np
import pandas as pd
import pytest
from scipy import sparse, stats

import slamglmm as sg
from slamglmm.errors import BoundaryWarning, DataError, OptionError
from slamglmm.fitters.netgsa.networks import read_networks

GENES = ["a", "b", "c", "d"]
WEIGHTS = np.array([[0, 0.3, 0, 0], [0.3, 0, -0.2, 0], [0, -0.2, 0, 0.4], [0, 0, 0.4, 0]])
EDGES = pd.DataFrame({"source": list("abc"), "target": list("bcd"), "weight": [0.3, -0.2, 0.4]})


def one(network, **options):
    return read_networks(network, ["only"], GENES, options.get("directed"))[0]


def fit(data, **options):
    return sg.netgsa(data.expression, data.groups, data.networks, data.pathways, **options)


# -- networks ---------------------------------------------------------------------------------------------


def graph(kind=networkx.Graph):
    out = kind()
    out.add_nodes_from([*GENES, "unmeasured"])
    out.add_weighted_edges_from(EDGES.itertuples(index=False, name=None))
    out.add_edge("d", "unmeasured", weight=0.9)
    return out


@pytest.mark.parametrize(
    "form",
    [
        EDGES,
        EDGES.rename(columns=str.upper),
        EDGES.iloc[::-1, [1, 0, 2]].set_axis(["source", "target", "weight"], axis=1),
        graph(),
        WEIGHTS,
        sparse.csr_array(WEIGHTS),
        pd.DataFrame(WEIGHTS, GENES, GENES).iloc[::-1],
        {"only": EDGES},
        [EDGES],
    ],
    ids=["edges", "upper", "reversed", "networkx", "array", "sparse", "frame", "dict", "list"],
)
def test_forms_of_an_undirected_network(form):
    network = one(form)
    assert not network.directed
    np.testing.assert_allclose(network.covariance, np.linalg.inv(np.eye(4) - WEIGHTS), rtol=1e-12)
    np.testing.assert_allclose(network.D @ network.D.T, network.covariance, rtol=1e-12)
    assert np.allclose(network.D, np.tril(network.D))
    U = np.random.default_rng(0).standard_normal((4, 2))
    np.testing.assert_allclose(network.D @ network.solve(U), U, atol=1e-12)
    np.testing.assert_allclose(network.D.T @ network.solve(U, transposed=True), U, atol=1e-12)


@pytest.mark.parametrize("form", [graph(networkx.DiGraph), np.tril(WEIGHTS)], ids=["networkx", "array"])
def test_directed_networks(form):
    """a -> b -> c -> d: what acts on d stands in its row."""
    network = one(form)
    assert network.directed
    expected = np.linalg.inv(np.eye(4) - np.tril(WEIGHTS))
    np.testing.assert_allclose(network.D, expected)
    assert network.D[3, 0] == pytest.approx(0.3 * -0.2 * 0.4)
    np.testing.assert_allclose(one(EDGES, directed=True).D, expected)
    U = np.random.default_rng(0).standard_normal((4, 2))
    np.testing.assert_allclose(network.D.T @ network.solve(U, transposed=True), U, atol=1e-12)


@pytest.mark.parametrize("directed", [False, True])
def test_edges_without_weights(directed):
    network = one(EDGES[["source", "target"]], directed=directed)
    assert network.unweighted
    assert np.linalg.eigvalsh(network.covariance)[0] > 0
    data = sg.simulate.netgsa(n_genes=16, n_pathways=2, seed=1)
    edges = data.networks["condition1"][["source", "target"]]
    found = sg.netgsa(data.expression, data.groups, edges, data.pathways)
    assert any("edges have no weights" in note for note in found.notes)


@pytest.mark.parametrize(
    ("form", "options", "message"),
    [
        (WEIGHTS[:3, :3], {}, r"network 'network' has shape \(3, 3\), but there are 4 genes"),
        (WEIGHTS * 4, {}, r"I - A must be positive definite, but the largest eigenvalue of the weights A is 1\."),
        (WEIGHTS + np.eye(4), {}, r"ties gene 'a' to itself"),
        (WEIGHTS * np.nan, {}, r"missing or infinite weights"),
        (np.tril(WEIGHTS), {"directed": False}, r"is asymmetric, but directed=False"),
        (WEIGHTS, {"directed": True}, r"is directed and has a cycle"),
        (pd.DataFrame(WEIGHTS[:3, :3], GENES[:3], GENES[:3]), {}, r"lacks 1 of 4 genes \(first: 'd'\)"),
        (pd.DataFrame(WEIGHTS, GENES, list("wxyz")), {}, r"must have columns source and target, or the same genes"),
        (EDGES.assign(weight=[0.1, np.nan, 0.2]), {}, r"1 of 3 edges have no weight"),
        (
            pd.concat([EDGES, EDGES.rename(columns={"source": "target", "target": "source"}) * [1, 1, 2]]),
            {},
            r"an undirected edge is listed twice with two weights",
        ),
        ({"other": EDGES}, {}, r"networks lack condition 'only'; there are 'other'"),
        ([EDGES, EDGES], {}, r"2 networks for 1 conditions"),
    ],
)
def test_refused_networks(form, options, message):
    with pytest.raises((DataError, OptionError), match=message):
        one(form, **options)


# -- tests of pathways ---------------------------------------------------------------------------------------


def test_forms_of_groups_and_pathways():
    data = sg.simulate.netgsa(seed=1)
    base = fit(data)
    indicator = pd.DataFrame(
        [[gene in members for gene in data.expression.index] for members in data.pathways.values()],
        index=list(data.pathways),
        columns=data.expression.index,
    ).astype(int)
    assert list(base.table.columns) == ["size", "statistic", "df", "p", "q"]
    forms = (
        sg.netgsa(data.expression, data.groups.sample(frac=1, random_state=1), data.networks, indicator),
        sg.netgsa(data.expression, data.groups.to_list(), data.networks, indicator.to_numpy()),
        sg.netgsa(data.expression, data.groups, list(data.networks.values()), indicator.iloc[:, ::-1]),
    )
    for found in forms:
        np.testing.assert_allclose(found.table["statistic"], base.table["statistic"])
    order = np.random.default_rng(1).permutation(len(data.expression))
    found = sg.netgsa(data.expression.iloc[order], data.groups, data.networks, data.pathways)
    # variances do not depend on the order of the genes; the Cholesky factor D does
    assert found.sigma2_gamma == pytest.approx(base.sigma2_gamma)
    assert found.sigma2_epsilon == pytest.approx(base.sigma2_epsilon)


def test_finds_what_was_changed():
    found = fit(sg.simulate.netgsa(n_samples=(150, 150), shift=0.8, seed=2))
    assert found.table["q"].iloc[0] < 1e-6
    assert found.table["q"].iloc[1:].min() > 0.01
    assert found.sigma2_gamma == pytest.approx(1.0, abs=0.1)
    assert found.sigma2_epsilon == pytest.approx(0.5, abs=0.1)
    np.testing.assert_allclose(found.fixef().mean().abs(), [0, 0.1], atol=0.15)
    assert found.varcorr()["share"].sum() == pytest.approx(1.0)


@pytest.mark.filterwarnings("ignore::slamglmm.errors.BoundaryWarning")
def test_p_values_are_uniform_without_change():
    p = np.concatenate(
        [fit(sg.simulate.netgsa(n_genes=24, shift=0.0, seed=seed)).table["p"].to_numpy() for seed in range(50)]
    )
    assert stats.kstest(p, "uniform").pvalue > 0.01


def test_three_conditions():
    data = sg.simulate.netgsa(n_samples=(30, 25, 20), seed=1)
    found = fit(data)
    assert list(found.table.columns) == ["size", "statistic", "df1", "df2", "p", "q"]
    assert (found.table["df1"] == 2).all()
    # F of two equal contrasts does not depend on which differences are taken
    order = ["condition3", "condition1", "condition2"]
    samples = np.concatenate([np.flatnonzero(data.groups == name) for name in order])
    again = sg.netgsa(data.expression.iloc[:, samples], data.groups.iloc[samples], data.networks, data.pathways)
    np.testing.assert_allclose(again.table["statistic"], found.table["statistic"], rtol=1e-8)


def test_two_conditions_as_a_special_case_of_f():
    data = sg.simulate.netgsa(seed=3)
    found = fit(data)
    swapped = sg.netgsa(data.expression.iloc[:, ::-1], data.groups.iloc[::-1], data.networks, data.pathways)
    np.testing.assert_allclose(swapped.table["statistic"], -found.table["statistic"], rtol=1e-8)


def test_q_values_are_those_of_statsmodels():
    from statsmodels.stats.multitest import multipletests

    found = fit(sg.simulate.netgsa(seed=1), fdr="holm")
    np.testing.assert_allclose(found.table["q"], multipletests(found.table["p"], method="holm")[1])
    with pytest.raises(OptionError, match="fdr='bogus': expected a method"):
        fit(sg.simulate.netgsa(seed=1), fdr="bogus")


def test_subsamples_are_pooled_and_unbiased():
    data = sg.simulate.netgsa(n_samples=(120, 100), seed=4)
    full, found = fit(data), fit(data, method="rerehe", seed=1)
    assert found.sigma2_gamma == pytest.approx(full.sigma2_gamma, rel=0.15)
    assert found.sigma2_epsilon == pytest.approx(full.sigma2_epsilon, rel=0.25)
    assert "reREHE: moments of 50 subsamples pooled" in found.notes[0]
    again = fit(data, method="rerehe", seed=1)
    assert again.sigma2_gamma == found.sigma2_gamma


def test_boundary():
    data = sg.simulate.netgsa(epsilon=0.0, n_samples=(20, 20), seed=0)
    with pytest.warns(BoundaryWarning, match=r"variance of the noise is estimated at zero \(boundary\)"):
        found = fit(data)
    assert np.isfinite(found.table["p"]).all()
    with pytest.warns(BoundaryWarning, match=r"variance of the noise is estimated below zero \(-0\.\d+\)"):
        fit(data, method="he")


def test_summary():
    found = fit(sg.simulate.netgsa(seed=1))
    assert str(found).startswith("NetGSA: pathway tests on networks")
    assert "condition1 (40), condition2 (30)" in str(found)
    assert "<table" in found._repr_html_()
    pd.testing.assert_frame_equal(found.to_frame(), found.table)


def test_refused_data():
    data = sg.simulate.netgsa(n_genes=16, n_pathways=2, seed=1)
    x, groups, networks, pathways = data.expression, data.groups, data.networks, data.pathways
    with pytest.raises(DataError, match=r"groups has 69 entries, expression has 70 samples"):
        sg.netgsa(x, groups.to_list()[1:], networks, pathways)
    with pytest.raises(DataError, match=r"Is expression samples x genes\? Then pass its transpose"):
        sg.netgsa(x.T, groups.to_list(), networks, pathways)
    with pytest.raises(DataError, match=r"expression of gene 'g01' in sample 's1' is nan"):
        sg.netgsa(x.mask(x == x.iloc[0, 0]), groups, networks, pathways)
    with pytest.raises(DataError, match=r"no measured gene belongs to pathway 'x'"):
        sg.netgsa(x, groups, networks, {"x": ["TP53"]})
    labels = [*groups.to_list()[:-1], "lonely"]
    with pytest.raises(DataError, match=r"condition 'lonely' has 1 sample"):
        sg.netgsa(x, labels, networks["condition1"], pathways)
    with pytest.raises(DataError, match="groups has missing entries"):
        sg.netgsa(x, groups.where(groups.index != "s3").to_list(), networks, pathways)
    with pytest.raises(DataError, match=r"expression has genes more than once: 'g01'"):
        sg.netgsa(pd.concat([x, x.iloc[:1]]), groups, networks, pathways)
    with pytest.raises(DataError, match=r"pathways have 3 columns, but there are 16 genes"):
        sg.netgsa(x, groups, networks, np.ones((2, 3)))
    with pytest.raises(DataError, match="the networks tie no measured genes together"):
        sg.netgsa(x, groups, np.zeros((16, 16)), pathways)
    with pytest.raises(OptionError, match=r"method='reml': expected 'rehe', 'he' or 'rerehe'"):
        fit(data, method="reml")
    with pytest.raises(OptionError, match=r"compat='R': expected 'netgsa' or None"):
        fit(data, compat="R")
    with pytest.raises(OptionError, match=r"subsample has 'people'; it knows samples, genes, times"):
        fit(data, subsample={"people": 0.1})
    with pytest.raises(OptionError, match=r"subsample\['samples'\]=0: expected a finite number above 0 and of"):
        fit(data, subsample={"samples": 0})


WRONG = {
    "seed below zero": ({"seed": -1}, "seed=-1: expected an integer of at least 0, or None."),
    "seed of text": ({"seed": "a"}, "seed='a': expected an integer of at least 0, or None."),
    "no pathways": ({"pathways": {}}, "there are no pathways; give pathways={name: [genes, ...]}, at least one."),
    "an empty table": ({"pathways": pd.DataFrame()}, "there are no pathways; give pathways="),
    "a pathway of one name": ({"pathways": {"a": "g01"}}, "pathway 'a' is 'g01': expected a list of genes."),
    "subsample of a number": ({"subsample": 3}, "subsample=3: expected a dict such as {'samples': 0.2, 'times': 50}."),
    "times of a half": ({"subsample": {"times": 1.5}}, "subsample['times']=1.5: expected an integer of at least 1."),
    "fdr of a number": ({"fdr": 3}, "fdr=3: expected a method of statsmodels' multipletests"),
    "directed of text": ({"directed": "a"}, "directed='a': expected True, False or None."),
    "groups of a number": ({"groups": 3}, "groups=3: expected the condition of each sample, a Series or a list."),
    "expression of text": ({"expression": "a"}, "expression must be numbers, genes x samples, got str of <U1."),
}


@pytest.mark.parametrize(("given", "message"), WRONG.values(), ids=WRONG)
def test_refused_arguments(given, message):
    data = sg.simulate.netgsa(n_genes=16, n_pathways=2, seed=1)
    usual = {name: getattr(data, name) for name in ("expression", "groups", "networks", "pathways")}
    with pytest.raises((DataError, OptionError), match=re.escape(message)):
        sg.netgsa(**(usual | given))


@pytest.mark.parametrize("method", ["rehe", "he", "rerehe"])
def test_genes_that_do_not_vary_are_named(method):
    """Within conditions: a gene that only differs between them has no noise either."""
    data = sg.simulate.netgsa(n_genes=16, n_pathways=2, seed=1)
    x = data.expression.copy()
    x.iloc[2] = 1.5
    x.iloc[4] = np.where(data.groups == data.groups.iloc[0], 1.0, 2.0)
    with pytest.raises(DataError, match=r"2 of 16 genes do not vary within any condition: 'g03', 'g05'\. They would"):
        sg.netgsa(x, data.groups, data.networks, data.pathways, method=method)
    # One that varies in one of the conditions is kept.
    x.iloc[[2, 4]] = np.where(data.groups == data.groups.iloc[0], data.expression.iloc[[2, 4]], 2.0)
    assert np.isfinite(sg.netgsa(x, data.groups, data.networks, data.pathways, method=method, seed=1).table).all(
        axis=None
    )


@pytest.mark.parametrize("unit", [1e160, 1e-160])
def test_units_whose_squares_overflow(unit):
    data = sg.simulate.netgsa(n_genes=16, n_pathways=2, seed=1)
    with pytest.raises(
        DataError, match=r"expression varies within conditions by .*e.*, too (large|small) for variances"
    ):
        sg.netgsa(data.expression * unit, data.groups, data.networks, data.pathways)
