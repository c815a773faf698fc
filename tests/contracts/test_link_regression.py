"""Curves as a link: draws against dense conditionals, limits, sums, start, bad input."""

import numpy as np
import pandas as pd
import pytest

from slamglmm.errors import DataError, OptionError
from slamglmm.linalg.fixed_part import FixedPart
from slamglmm.links import cross_products
from slamglmm.links.base import Measurements
from slamglmm.links.regression import Records, Regression
from tests.reference.given import Given

N = 6


def individuals(n=N):
    return pd.DataFrame({"id": [f"i{i}" for i in range(n)]})


def measurements_of(frame):
    n = len(frame)
    return Measurements(pd.DataFrame(index=frame.index), np.zeros(n), np.arange(n), n, FixedPart.constant(n))


def long_data(rng, n=N, balanced=False, holes=True):
    """Irregular times, the last individual without any; the second trait not always measured."""
    parts = []
    for i in range(n if balanced else n - 1):
        t = np.linspace(0, 1, 4) if balanced else np.sort(rng.uniform(0, 1, 3 + i % 3))
        level = rng.standard_normal(3)
        height = 5 + 2 * t + level[0] + level[1] * t + 0.3 * rng.standard_normal(len(t))
        weight = level[0] - level[2] * t + 0.2 * rng.standard_normal(len(t))
        parts.append(pd.DataFrame({"id": f"i{i}", "t": t, "height": height, "weight": weight}))
    long = pd.concat(parts, ignore_index=True)
    if holes:
        long.loc[rng.random(len(long)) < 0.3, "weight"] = np.nan
    return long.sample(frac=1.0, random_state=1)


def prepared(rng, formula="height + weight ~ poly(t, 2)", frame=None, **options):
    frame = individuals() if frame is None else frame
    link = Regression(formula, long_data(rng, **options), individual="id").bind(frame)
    return link, link.prepare(measurements_of(frame))


def by_individual(link, trait, n=N):
    """Basis and measurements of each individual, straight from the long data."""
    data = link.data
    X = link.designs[0].X.to_numpy()
    for i in range(n):
        rows = ((data["id"] == f"i{i}") & data[trait].notna()).to_numpy()
        yield X[rows], data[trait].to_numpy()[rows]


@pytest.mark.parametrize("shared_by", [1, 3, 200])
@pytest.mark.parametrize("balanced", [True, False])
def test_coefficients_follow_the_dense_conditional(balanced, shared_by, monkeypatch):
    """Mean and covariance of the draw, which is linear in its normals, exactly; matrices shared or not."""
    monkeypatch.setattr(cross_products, "SHARED_BY", shared_by)
    rng = np.random.default_rng([1, balanced])
    link, likelihood = prepared(rng, balanced=balanced)
    p = len(likelihood.traits)
    mean, prec = rng.standard_normal((p, N)), rng.gamma(2.0, 1.0, p)
    parameters = likelihood.simulate_parameters(rng)

    def draw(place):
        eta = np.empty((p, N))
        likelihood.draw(eta, mean.copy(), prec, parameters, slice(0, p), Given(place))
        return eta

    center = draw(None)
    roots = np.array([draw(a) - center for a in range(3)])  # one coefficient of every individual and trait
    for t, trait in enumerate(["height", "weight"]):
        part = slice(3 * t, 3 * t + 3)
        phi = 1 / parameters["noise_var"][t]
        for i, (X, y) in enumerate(by_individual(link, trait)):
            P = phi * X.T @ X + np.diag(prec[part])
            expected = np.linalg.solve(P, phi * X.T @ y + prec[part] * mean[part, i])
            np.testing.assert_allclose(center[part, i], expected, rtol=1e-9, atol=1e-11)
            root = roots[:, part, i].T
            np.testing.assert_allclose(root @ root.T, np.linalg.inv(P), rtol=1e-9, atol=1e-11)


def test_shared_and_own_matrices_give_the_same_draw(monkeypatch):
    """The same normals, whether individuals share a Cholesky or not, up to rounding."""
    rng = np.random.default_rng(2)
    records = Records(np.tile(rng.standard_normal((4, 3)), (5, 1)), np.repeat(np.arange(5), 4), 6)
    grams, which = records.grams()
    assert (len(grams), list(which)) == (2, [0, 0, 0, 0, 0, 1])
    rhs, z, prec = rng.standard_normal((3, 6)), rng.standard_normal((3, 6)), np.array([0.5, 1.0, 2.0])
    moments = []
    for shared_by in (1, 2, 100):
        monkeypatch.setattr(cross_products, "SHARED_BY", shared_by)
        products = cross_products.CrossProducts.of(grams, which)
        assert len(products.shared) == {1: 2, 2: 1, 100: 0}[shared_by]
        moments.append((products.draw(1.7, prec, rhs, z), products.form(rhs)))
    for draw, form in moments[1:]:
        np.testing.assert_allclose(draw, moments[0][0], rtol=1e-12)
        np.testing.assert_allclose(form, moments[0][1], rtol=1e-12)
    np.testing.assert_allclose(moments[0][1], sum(rhs[:, i] @ grams[which[i]] @ rhs[:, i] for i in range(6)))


def test_order_of_the_records_does_not_matter():
    rng = np.random.default_rng(3)
    X, codes = rng.standard_normal((8, 2)), np.array([0, 0, 0, 1, 1, 1, 2, 2])
    X[3:6] = X[[2, 0, 1]]
    grams, which = Records(X, codes, 3).grams()
    assert len(grams) == 2
    assert which[0] == which[1]
    shuffle = rng.permutation(8)
    again, which_again = Records(X[shuffle], codes[shuffle], 3).grams()
    np.testing.assert_allclose(again[which_again], grams[which], rtol=1e-12)


def test_sum_of_squares_is_that_of_the_residuals():
    rng = np.random.default_rng(4)
    link, likelihood = prepared(rng)
    eta = 100 * rng.standard_normal((6, N))
    for t, trait in enumerate(["height", "weight"]):
        part = eta[3 * t : 3 * t + 3]
        slow = sum(np.sum((y - X @ part[:, i]) ** 2) for i, (X, y) in enumerate(by_individual(link, trait)))
        np.testing.assert_allclose(likelihood.curves[t].sum_of_squares(part), slow, rtol=1e-10)


def test_noise_follows_its_gamma():
    """Mean of the precision, and of its logarithm; |z| < 5."""
    from scipy.special import digamma, polygamma

    rng = np.random.default_rng(5)
    _, likelihood = prepared(rng)
    eta = likelihood.start
    parameters = likelihood.start_parameters()
    drawn = np.empty((5000, 2))
    for kept in drawn:
        likelihood.draw_shared(eta, parameters, rng)
        kept[:] = 1 / parameters["noise_var"]
    for t, curves in enumerate(likelihood.curves):
        shape = 2.0 + 0.5 * curves.seen.sum()
        rate = likelihood.noise_rate[t] + 0.5 * curves.sum_of_squares(eta[3 * t : 3 * t + 3])
        z = (drawn[:, t].mean() - shape / rate) / (np.sqrt(shape) / rate) * np.sqrt(len(drawn))
        assert abs(z) < 5
        log = np.log(drawn[:, t]).mean() - (digamma(shape) - np.log(rate))
        assert abs(log / np.sqrt(polygamma(1, shape)) * np.sqrt(len(drawn))) < 5


def test_limits_of_the_noise():
    """Infinite noise leaves the model's law, no noise the least-squares fit of each individual."""
    rng = np.random.default_rng(6)
    link, likelihood = prepared(rng, "height ~ t", holes=False)
    mean, prec = rng.standard_normal((2, N)), np.array([0.5, 2.0])
    eta = np.empty((2, N))
    likelihood.draw(eta, mean.copy(), prec, {"noise_var": np.array([1e-14])}, slice(0, 2), rng)
    for i, (X, y) in enumerate(list(by_individual(link, "height"))[:-1]):
        np.testing.assert_allclose(eta[:, i], np.linalg.lstsq(X, y, rcond=None)[0], atol=1e-4)
    silent = {"noise_var": np.array([1e14])}
    likelihood.draw(eta, mean.copy(), prec, silent, slice(0, 2), Given())
    np.testing.assert_allclose(eta, mean, atol=1e-10)
    for a in range(2):
        likelihood.draw(eta, mean.copy(), prec, silent, slice(0, 2), Given(a))
        np.testing.assert_allclose(eta[a] - mean[a], 1 / np.sqrt(prec[a]))


def test_an_individual_without_measurements_follows_the_model():
    rng = np.random.default_rng(7)
    _, likelihood = prepared(rng)
    assert likelihood.informative.all()
    mean, prec = rng.standard_normal((6, N)), rng.gamma(2.0, 1.0, 6)
    eta, moved = np.empty((6, N)), np.empty((6, N))
    likelihood.draw(eta, mean.copy(), prec, likelihood.start_parameters(), slice(0, 6), Given())
    np.testing.assert_allclose(eta[:, -1], mean[:, -1], rtol=1e-12)
    likelihood.draw(moved, mean.copy(), prec, likelihood.start_parameters(), slice(0, 6), Given(1))
    np.testing.assert_allclose((moved - eta)[:, -1], [0, prec[1] ** -0.5, 0, 0, prec[4] ** -0.5, 0], atol=1e-12)


def test_simulated_data_have_the_log_density():
    """E exp(log p(y | eta') - log p(y | eta)) = 1 for data simulated given eta; |z| < 5 in every cell."""
    rng = np.random.default_rng(8)
    _, likelihood = prepared(rng)
    eta, parameters = likelihood.start, likelihood.start_parameters()
    other = eta + 0.1 * rng.standard_normal(eta.shape)
    ratio = []
    for _ in range(2000):
        again = likelihood.with_data(likelihood.simulate(eta, parameters, rng))
        ratio.append(np.exp(again.log_density(other, parameters) - again.log_density(eta, parameters)))
    ratio = np.array(ratio)
    seen = ~np.isnan(likelihood.values)
    assert np.array_equal(~np.isnan(ratio[0]), seen)
    z = (ratio.mean(axis=0) - 1)[seen] / (ratio.std(axis=0)[seen] / np.sqrt(len(ratio)))
    assert np.abs(z).max() < 5.0


def test_start_finds_the_variance_among_individuals():
    """Few measurements each: least squares would give coefficients many times too variable."""
    rng = np.random.default_rng(9)
    n, records = 2000, 4
    sd = np.array([1.5, 0.8, 0.4])
    eta = np.array([10.0, 3.0, -1.0])[:, None] + sd[:, None] * rng.standard_normal((3, n))
    t = rng.uniform(0, 1, n * records)
    codes = np.repeat(np.arange(n), records)
    y = eta[0, codes] + eta[1, codes] * t + eta[2, codes] * t**2 + 0.3 * rng.standard_normal(n * records)
    long = pd.DataFrame({"id": [f"i{i}" for i in codes], "t": t, "y": y})
    frame = individuals(n)
    likelihood = Regression("y ~ t + I(t**2)", long, individual="id").bind(frame).prepare(measurements_of(frame))
    np.testing.assert_allclose(likelihood.base_coef[:, 0], [10.0, 3.0, -1.0], atol=0.25)
    assert 0.7 < likelihood.scale[0] / sd[0] < 1.2
    assert np.all(likelihood.scale[1:] < 4 * sd[1:])
    assert 0.2**2 < likelihood.first_noise[0] < 0.4**2


def test_names_of_the_latent_traits():
    rng = np.random.default_rng(10)
    assert prepared(rng)[1].traits == (
        "height[Intercept]",
        "height[poly1]",
        "height[poly2]",
        "weight[Intercept]",
        "weight[poly1]",
        "weight[poly2]",
    )
    link = Regression("height ~ bs(t, df=3)", long_data(rng), individual="id")
    assert link.designs[0].short_names == ("Intercept", "bs1", "bs2", "bs3")
    two = Regression("height ~ 0 + poly(t, 2) + poly(log(t + 1), 2)", long_data(rng), individual="id")
    assert two.designs[0].short_names[0] == "poly(t, 2)[1]"  # short names would not be unique


def test_rows_are_matched_by_individual():
    """Rows of the frame that the design leaves out, in another order, or known by the index only."""
    rng = np.random.default_rng(11)
    long = long_data(rng)
    link = Regression("height ~ t", long, individual="id")
    frame = individuals()
    whole = link.bind(frame).prepare(measurements_of(frame))
    backwards = frame.iloc[::-1].reset_index(drop=True)
    turned = link.bind(backwards).prepare(measurements_of(backwards))
    np.testing.assert_allclose(turned.start, whole.start[:, ::-1], rtol=1e-9)
    by_index = link.bind(frame.set_index("id")).prepare(measurements_of(frame))
    np.testing.assert_array_equal(by_index.start, whole.start)
    some = Measurements(pd.DataFrame(index=[0, 1]), np.zeros(2), np.array([3, 1]), N, FixedPart.constant(2))
    part = link.bind(frame).prepare(some)
    assert part.start.shape == (2, 2)
    assert len(part.curves[0].records.codes) == ((long["id"] == "i3") | (long["id"] == "i1")).sum()


def test_bad_input():
    rng = np.random.default_rng(12)
    long, frame = long_data(rng), individuals()
    with pytest.raises(OptionError, match=r"no measured trait. Write it left of '~'"):
        Regression("~ t", long, individual="id")
    with pytest.raises(OptionError, match="expected a basis only"):
        Regression("height ~ t + (1 | id)", long, individual="id")
    with pytest.raises(OptionError, match=r"Regression\(noise_V=0\): expected a finite positive number"):
        Regression("height ~ t", long, individual="id", noise_V=0, noise_nu=3)
    with pytest.raises(ValueError, match="unknown column 'hight'; did you mean 'height'"):
        Regression("hight ~ t", long, individual="id")
    with pytest.raises(ValueError, match="unknown column 'time'"):
        Regression("height ~ time", long, individual="id")
    with pytest.raises(DataError, match="data has no column 'who'"):
        Regression("height ~ t", long, individual="who").bind(frame)
    with pytest.raises(DataError, match=r"measurements lacks the column.*'who'"):
        Regression("height ~ t", long, individual="who").bind(frame.rename(columns={"id": "who"}))
    link = Regression("height ~ t", long, individual="id")
    with pytest.raises(DataError, match=r"1 individual.s. with measurements are not in data: 'i0' .data has 'i1'"):
        link.bind(frame.iloc[1:])
    with pytest.raises(DataError, match="more than one row for 'i2' of 'id'"):
        link.bind(frame.iloc[[0, 1, 2, 2, 3, 4, 5]])
    with pytest.raises(DataError, match="data has no column 'id'"):
        link.bind(frame.rename(columns={"id": "name"}))
    with pytest.raises(DataError, match="'id' is missing in 1 row"):
        Regression("height ~ t", long.assign(id=long["id"].where(np.arange(len(long)) > 0)), individual="id").bind(
            frame
        )
    many = individuals(60)
    link = Regression("height ~ cc(t, df=5)", long_data(rng, n=60), individual="id").bind(many)
    with pytest.raises(DataError, match=r"have rank 5 over .* so write '0 . cc"):
        link.prepare(measurements_of(many))
    link = Regression("line ~ t", long.assign(line=2 * long["t"]), individual="id").bind(frame)
    with pytest.raises(DataError, match="the fixed effects and one curve for all fit 'line' exactly"):
        link.prepare(measurements_of(frame))
    with pytest.raises(OptionError, match="call bind"):
        Regression("height ~ t", long, individual="id").prepare(measurements_of(frame))
    with pytest.warns(UserWarning, match=r"'t' is missing in 2|t"):
        Regression("height ~ t", long.assign(t=long["t"].where(np.arange(len(long)) > 1)), individual="id")
