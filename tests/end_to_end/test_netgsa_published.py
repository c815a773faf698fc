"""`netgsa` against the R package, on its own inputs and results."""

import numpy as np
import pytest

import slamglmm as sg
from slamglmm.fitters.netgsa.fit import Condition, normal_equations
from slamglmm.fitters.netgsa.networks import read_networks
from slamglmm.linalg.nnls import nonnegative_least_squares, solve_symmetric
from tests.reference import published

CASES = published.names("netgsa")
pytestmark = [
    pytest.mark.skipif(not CASES, reason="the reference folder is not here"),
    pytest.mark.filterwarnings("ignore::slamglmm.errors.BoundaryWarning"),
]


def networks(stored):
    return [stored[key] for key in sorted(stored) if key.startswith("A")]


def fit(name, **options):
    stored = published.arrays("netgsa", name)
    return sg.netgsa(stored["x"], stored["group"], networks(stored), stored["pathways"], **options)


@pytest.mark.parametrize("name", CASES)
def test_influence_matrices(name):
    stored = published.arrays("netgsa", name)
    genes = [f"g{i}" for i in range(len(stored["x"]))]
    for k, network in enumerate(read_networks(networks(stored), list(range(len(networks(stored)))), genes, None)):
        np.testing.assert_allclose(network.D, stored[f"D{k + 1}"], atol=1e-10)


@pytest.mark.parametrize("name", CASES)
def test_gram_rhs_and_variances(name):
    stored, expected = published.arrays("netgsa", name), published.expected("netgsa", name)
    genes = [f"g{i}" for i in range(len(stored["x"]))]
    labels = sorted(set(stored["group"].tolist()))
    conditions = []
    for label, network in zip(labels, read_networks(networks(stored), labels, genes, None), strict=True):
        part = stored["x"][:, stored["group"] == label]
        mean = part.mean(axis=1)
        conditions.append(Condition(network, part.shape[1], mean, part - mean[:, None]))
    checked = 0
    for short, inner in (("tri", "triangle"), ("full", "full")):
        for count, exact in (("n", False), ("n-1", True)):
            want = expected.get(f"he_{short}_mult_{count}")
            if want is None:
                continue
            S, c = normal_equations(conditions, inner, exact)
            np.testing.assert_allclose(S, want["gram"], rtol=1e-10)
            np.testing.assert_allclose(c, want["rhs"], rtol=1e-10)
            np.testing.assert_allclose(solve_symmetric(S, c), want["he"], atol=1e-8)
            np.testing.assert_allclose(nonnegative_least_squares(S, c), want["rehe"], atol=1e-8)
            checked += 1
    assert checked


@pytest.mark.parametrize("name", CASES)
def test_the_r_package(name):
    found, expected = fit(name, compat="netgsa"), published.expected("netgsa", name)
    raw = expected["netgsa_r"]["REHE"]
    assert found.sigma2_epsilon == pytest.approx(raw["s2_epsilon"], abs=1e-8)
    assert found.sigma2_gamma == pytest.approx(raw["s2_gamma"], abs=1e-8)
    np.testing.assert_allclose(found.table["statistic"], raw["teststat"], rtol=1e-8)
    if len(found.conditions) <= 2:
        np.testing.assert_allclose(found.table["df"], raw["df"], rtol=1e-8)
        np.testing.assert_allclose(found.table["p"], raw["p_value"], rtol=1e-8, atol=1e-15)  # R: 1 - pt(...)


@pytest.mark.parametrize("name", [n for n in CASES if "three" not in n])
def test_degrees_of_freedom_of_all_samples(name):
    """The same variances, but an information that counts every sample."""
    stored = published.arrays("netgsa", name)
    want = published.expected("netgsa", name)["test_at_R_REHE"]
    from slamglmm.fitters.netgsa.fit import pathway_tests

    base = fit(name, compat="netgsa")
    labels = list(range(len(base.conditions)))
    genes = list(base.genes)
    conditions = [
        Condition(network, n, np.zeros(len(genes)), np.zeros((len(genes), n)))
        for network, n in zip(read_networks(networks(stored), labels, genes, None), base.n_samples, strict=True)
    ]
    theta = np.array([base.sigma2_epsilon, base.sigma2_gamma])
    table = pathway_tests(conditions, base.beta, stored["pathways"] != 0, theta, True)
    np.testing.assert_allclose(table["statistic"], want["teststat"], rtol=1e-8)
    np.testing.assert_allclose(table["df"], want["df_with_nk_minus_1"], rtol=1e-8)


@pytest.mark.parametrize("name", CASES)
def test_defaults_are_the_exact_expectation(name):
    expected = published.expected("netgsa", name).get("he_full_mult_n-1")
    if expected:
        found = fit(name)
        np.testing.assert_allclose([found.sigma2_epsilon, found.sigma2_gamma], expected["rehe"], atol=1e-8)
