"""Probes as a link: draws against dense conditionals, constraint on the levels, limits, start, bad input."""

import numpy as np
import pandas as pd
import pytest

from slamglmm.errors import DataError, OptionError
from slamglmm.linalg.fixed_part import FixedPart
from slamglmm.links import cross_products
from slamglmm.links.base import Measurements
from slamglmm.links.probes import Probes
from tests.reference.given import Given

N = 7
OWN = pd.Series({"q0": "a", "q1": "b", "q2": "a", "q3": "b", "q4": "a", "q5": "c"})
SHARED = pd.DataFrame(
    {"a": [1, 0, 1, 0.5, 1, 0, 0], "b": [0, 1, 0, 1, 0, 0, 1], "c": [0, 0, 0, 0, 0, 1, 0]},
    index=[f"q{q}" for q in range(7)],
)


def measurements(values):
    n = len(values)
    return Measurements(values, np.zeros(n), np.arange(n), n, FixedPart.constant(n))


def table(genes, rng, holes=True, n=N):
    probes = list(genes.index)
    values = pd.DataFrame(rng.standard_normal((n, len(probes))) + 3 * np.arange(len(probes)), columns=probes)
    if holes:
        values.iloc[[1, 4], 0] = values.iloc[2, 1:4] = values.iloc[3, 3] = np.nan
        values.loc[5, "q5"] = np.nan  # all there is of gene c in this row
    return values


def prepared(genes, seed=1, **options):
    rng = np.random.default_rng(seed)
    values = table(genes, rng, **options)
    return Probes(genes).prepare(measurements(values)), values.to_numpy().T, rng


def linear_map(draw, shape):
    """Value without noise, and one column for each normal: ``draw(place)`` puts a one there."""
    center = draw(None)
    return center, np.array([draw(place) - center for place in np.ndindex(shape)])


@pytest.mark.parametrize("genes", [OWN, SHARED], ids=["probes of one gene", "probes of several"])
@pytest.mark.parametrize("shared_by", [1, 200])
def test_genes_follow_the_dense_conditional(genes, shared_by, monkeypatch):
    """Mean and covariance of the draw of every row, exactly, with missing probes."""
    monkeypatch.setattr(cross_products, "SHARED_BY", shared_by)
    likelihood, y, rng = prepared(genes)
    assert len(likelihood.sets) == (genes is SHARED)
    parameters = likelihood.simulate_parameters(rng)
    parameters["probe_mean"] = rng.standard_normal(len(y))
    mean, prec = rng.standard_normal((3, N)), np.array([0.5, 1.0, 3.0])

    def draw(place):
        eta = np.empty((3, N))
        likelihood.draw(eta, mean.copy(), prec, parameters, slice(0, 3), Given(place))
        return eta

    W = likelihood.weights.toarray()
    assert likelihood.traits == ("a", "b", "c")
    seen = ~np.isnan(y)
    for i in range(N):
        center, moved = linear_map(lambda place, i=i: draw(None if place is None else (*place, i)), (2,))
        moved = np.concatenate((moved, [draw((2, i)) - center])) if genes is OWN else moved
        D = np.diag(np.where(seen[:, i], 1 / parameters["noise_var"], 0.0))
        P = W.T @ D @ W + np.diag(prec)
        rest = np.nan_to_num(y[:, i] - parameters["probe_mean"])
        np.testing.assert_allclose(center[:, i], np.linalg.solve(P, W.T @ D @ rest + prec * mean[:, i]), rtol=1e-9)
        cov = moved[:, :, i].T @ moved[:, :, i]
        # Genes with probes of their own have normals of their own, the set of two its two.
        both = slice(0, 3) if genes is OWN else slice(0, 2)
        np.testing.assert_allclose(cov[both, both], np.linalg.inv(P)[both, both], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("genes", [OWN, SHARED], ids=["probes of one gene", "probes of several"])
def test_levels_follow_the_dense_conditional(genes):
    """N(m, diag(v)) given W'm = 0, exactly; v = noise / number of values."""
    likelihood, y, rng = prepared(genes, 2)
    eta = rng.standard_normal((3, N))
    first = likelihood.simulate_parameters(rng)

    class Levels(Given):
        def standard_gamma(self, shape):
            return np.ones_like(shape)

    def draw(place):
        parameters = {name: values.copy() for name, values in first.items()}
        likelihood.draw_shared(eta, parameters, Levels(place))
        return parameters["probe_mean"]

    center, moved = linear_map(draw, (len(y),))
    W, seen = likelihood.weights.toarray(), ~np.isnan(y)
    free = np.nanmean(np.where(seen, y, np.nan) - W @ eta, axis=1)
    D = np.diag(first["noise_var"] / seen.sum(axis=1))
    gain = D @ W @ np.linalg.inv(W.T @ D @ W)
    np.testing.assert_allclose(center, free - gain @ (W.T @ free), rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(moved.T @ moved, D - gain @ W.T @ D, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(W.T @ (center + moved.sum(axis=0)), 0.0, atol=1e-10)


def test_noise_follows_its_gamma():
    """Mean of the precision given the level that was drawn with it; |z| < 5."""
    likelihood, y, rng = prepared(OWN, 3)
    eta, parameters = likelihood.start, likelihood.start_parameters()
    pivots = np.empty((4000, len(y)))
    for kept in pivots:
        likelihood.draw_shared(eta, parameters, rng)
        rest = np.nan_to_num(y - likelihood.weights @ eta - parameters["probe_mean"][:, None])
        kept[:] = (likelihood.noise_rate + 0.5 * (rest**2).sum(axis=1)) / parameters["noise_var"]
    shape = 2.0 + 0.5 * (~np.isnan(y)).sum(axis=1)
    z = (pivots.mean(axis=0) - shape) / np.sqrt(shape / len(pivots))
    assert np.abs(z).max() < 5
    z = (pivots.var(axis=0) / shape - 1) / np.sqrt((2 + 6 / shape) / len(pivots))
    assert np.abs(z).max() < 5


def test_limits_of_the_noise():
    """Infinite noise leaves the model's law; one probe a gene and no noise is the identity link."""
    genes = pd.Series({"q0": "a", "q1": "b"})
    rng = np.random.default_rng(4)
    values = pd.DataFrame(rng.standard_normal((N, 2)), columns=["q0", "q1"])
    likelihood = Probes(genes).prepare(measurements(values))
    mean, prec, eta = rng.standard_normal((2, N)), np.array([0.5, 2.0]), np.empty((2, N))
    zero = np.zeros(2)
    likelihood.draw(eta, mean.copy(), prec, {"probe_mean": zero, "noise_var": zero + 1e-15}, slice(0, 2), Given(0))
    np.testing.assert_allclose(eta, values.T, atol=1e-6)
    likelihood.draw(eta, mean.copy(), prec, {"probe_mean": zero, "noise_var": zero + 1e15}, slice(0, 2), Given())
    np.testing.assert_allclose(eta, mean, atol=1e-10)
    parameters = likelihood.start_parameters()
    likelihood.draw_shared(values.to_numpy().T, parameters, rng)
    np.testing.assert_allclose(parameters["probe_mean"], 0.0, atol=1e-12)


def test_cells_without_probes_follow_the_model():
    likelihood, _, rng = prepared(OWN, 5)
    assert not likelihood.informative[2, 5]
    assert likelihood.informative.sum() == 3 * N - 2
    mean, prec = rng.standard_normal((3, N)), np.array([0.5, 1.0, 3.0])
    parameters, eta = likelihood.start_parameters(), np.empty((3, N))
    likelihood.draw(eta, mean.copy(), prec, parameters, slice(0, 3), Given())
    np.testing.assert_allclose(eta[2, 5], mean[2, 5], rtol=1e-12)
    likelihood.draw(eta, mean.copy(), prec, parameters, slice(0, 3), Given((2, 5)))
    np.testing.assert_allclose(eta[2, 5] - mean[2, 5], prec[2] ** -0.5, rtol=1e-12)


@pytest.mark.parametrize("genes", [OWN, SHARED], ids=["probes of one gene", "probes of several"])
def test_simulated_data_have_the_log_density(genes):
    """E exp(log p(y | eta') - log p(y | eta)) = 1; |z| < 5 in every cell."""
    likelihood, y, rng = prepared(genes, 6)
    eta, parameters = likelihood.start, likelihood.start_parameters()
    other = eta + 0.1 * rng.standard_normal(eta.shape)
    ratio = []
    for _ in range(2000):
        again = likelihood.with_data(likelihood.simulate(eta, parameters, rng))
        ratio.append(np.exp(again.log_density(other, parameters) - again.log_density(eta, parameters)))
    ratio, seen = np.array(ratio), ~np.isnan(y)
    assert np.array_equal(~np.isnan(ratio[0]), seen)
    z = (ratio.mean(axis=0) - 1)[seen] / (ratio.std(axis=0)[seen] / np.sqrt(len(ratio)))
    assert np.abs(z).max() < 5.0


def test_start_separates_genes_from_probes():
    rng = np.random.default_rng(7)
    n, genes = 400, pd.Series({f"q{q}": f"g{q % 3}" for q in range(12)})
    eta = np.array([5.0, 0.0, -5.0]) + rng.standard_normal((n, 3)) * [1.0, 0.5, 2.0]
    levels = rng.standard_normal(12)
    levels -= np.tile(levels.reshape(4, 3).mean(axis=0), 4)
    y = eta[:, np.arange(12) % 3] + levels + 0.3 * rng.standard_normal((n, 12))
    likelihood = Probes(genes).prepare(measurements(pd.DataFrame(y, columns=genes.index)))
    np.testing.assert_allclose(likelihood.first_mean, levels, atol=0.1)
    np.testing.assert_allclose(likelihood.base_coef[:, 0], eta.mean(axis=0), atol=0.1)
    np.testing.assert_allclose(likelihood.scale, [1.0, 0.5, 2.0], rtol=0.15)
    assert np.corrcoef(likelihood.start[1], eta[:, 1])[0, 1] > 0.9


def test_an_offset_acts_on_the_genes():
    rng = np.random.default_rng(8)
    values, offset = table(SHARED, rng), rng.standard_normal(N)
    plain = Probes(SHARED).prepare(measurements(values))
    moved = values + np.outer(offset, SHARED.sum(axis=1))
    shifted = Probes(SHARED).prepare(Measurements(moved, offset, np.arange(N), N, FixedPart.constant(N)))
    np.testing.assert_allclose(shifted.start, plain.start, atol=1e-12)
    eta, parameters = plain.start, plain.start_parameters()
    with np.errstate(invalid="ignore"):
        difference = shifted.simulate(eta, parameters, Given()) - plain.simulate(eta, parameters, Given())
    np.testing.assert_allclose(difference, np.where(plain.seen, np.outer(SHARED.sum(axis=1), offset), np.nan))


def test_incidence_as_a_table_or_by_name():
    rng = np.random.default_rng(9)
    values = table(OWN, rng)
    one = Probes(OWN).prepare(measurements(values))
    two = Probes(dict(OWN)).prepare(measurements(values))
    three = Probes(pd.get_dummies(OWN).astype(float).iloc[::-1]).prepare(measurements(values))
    for other in (two, three):
        assert other.traits == one.traits
        np.testing.assert_array_equal(other.weights.toarray(), one.weights.toarray())


def test_bad_input():
    rng = np.random.default_rng(10)
    values = table(OWN, rng)
    with pytest.raises(OptionError, match=r"expected a Series or dict probe -> gene, or a DataFrame.*got list"):
        Probes(["a", "b"]).prepare(measurements(values))
    with pytest.raises(OptionError, match=r"no gene for probe.s. 'q5'. Add them, or drop their columns of Y"):
        Probes(OWN.drop("q5")).prepare(measurements(values))
    with pytest.raises(OptionError, match="'q1' see no gene"):
        Probes(pd.DataFrame(SHARED).assign(b=0.0)).prepare(measurements(values))
    with pytest.raises(OptionError, match=r"no gene for probe.s. 'q0'"):
        Probes({**OWN, "q0": None}).prepare(measurements(values))
    with pytest.raises(DataError, match="genes 'a', 'd' cannot be told apart by their 3 probe"):
        Probes(pd.get_dummies(OWN).astype(float).assign(d=[1, 0, 1, 0, 1, 0])).prepare(measurements(values))
    with pytest.raises(DataError, match=r"probe.s. 'q2' are constant"):
        Probes(OWN).prepare(measurements(values.assign(q2=1.0)))
    with pytest.raises(OptionError, match=r"Probes\(noise_nu=1\): expected a finite number above 1"):
        Probes(OWN, noise_nu=1)
