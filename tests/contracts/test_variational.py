"""What holds for the variational fitters whatever the data: bounds that climb, scales, orders, one model in another."""

import warnings

import numpy as np
import pandas as pd
import pytest

import slamglmm as sg
from slamglmm.errors import SlamWarning
from slamglmm.fitters.mr_mash import mash
from slamglmm.fitters.sparse_lmm import spike_slab
from slamglmm.genotypes import read_markers
from slamglmm.linalg.projection import project_markers
from slamglmm.linalg.threads import BlockPool
from slamglmm.priors.mixture import MixturePrior, canonical_covariances
from tests.reference import markers as twin


def data(n=200, m=60, causal=4, seed=0, p=1, h2=0.5):
    rng = np.random.default_rng(seed)
    G = rng.binomial(2, rng.uniform(0.1, 0.5, m), (n, m)).astype(float)
    B = np.zeros((m, p))
    B[:causal] = rng.standard_normal((causal, p))
    signal = (G - G.mean(axis=0)) @ B
    x = rng.standard_normal(n)
    Y = 3 + x[:, None] + signal + rng.standard_normal((n, p)) * signal.std(axis=0) * np.sqrt((1 - h2) / h2)
    frame = pd.DataFrame({"x": x, "y": Y[:, 0]})
    return G, frame, Y


def fit(G, frame, formula="y ~ x", **options):
    return sg.sparse_lmm(formula, frame, markers=G, **options)


def falls(elbo):
    """The largest fall of a bound, relative to its size."""
    return max(0.0, -np.diff(elbo).min(initial=0.0)) / abs(elbo[-1])


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"dof": "reml"},
        {"pi": 0.05},
        {"pi": "grid"},
        {"prior_var": 0.1},
        {"residual_var": 1.0},
        {"standardize": True},
        {"log_odds": np.linspace(-1, 1, 60)},
        {"weights": np.linspace(0.5, 2, 200)},
    ],
    ids=str,
)
@pytest.mark.parametrize("seed", range(2))
def test_bound_never_falls(options, seed):
    """An M-step that is not the maximum, an extrapolation kept though it lowered the bound."""
    G, frame, _ = data(seed=seed)
    assert falls(fit(G, frame, tol=1e-8, **options).elbo) < 1e-9


@pytest.mark.parametrize(
    "options",
    [{}, {"pi": 0.05}, {"prior_var": 1.0}, {"standardize": True}, {"weights": np.arange(200) % 4 + 1}],
    ids=str,
)
def test_binomial_bound_never_falls(options):
    """The bound of Jaakkola and Jordan with its own eta."""
    G, frame, Y = data()
    frame["y"] = (Y[:, 0] > np.median(Y[:, 0])).astype(float)
    assert falls(fit(G, frame, family="binomial", tol=1e-6, **options).elbo) < 1e-9


@pytest.mark.parametrize("residual_cov", ["full", "diagonal", "spherical", "low_rank"])
@pytest.mark.parametrize("missing", [False, True])
@pytest.mark.parametrize("standardize", [False, True])
def test_mr_mash_bound_never_falls(residual_cov, missing, standardize):
    """Scatter without the posterior's share, stale whitening, missing cells from an old covariance."""
    G, frame, Y = data(p=4, m=30)
    if missing:
        Y[np.random.default_rng(1).random(Y.shape) < 0.2] = np.nan
    got = sg.mr_mash("~ x", frame, Y=Y, markers=G, residual_cov=residual_cov, standardize=standardize, max_iter=2000)
    assert falls(got.elbo) < 1e-9


@pytest.mark.parametrize("push", [-8.0, 0.0, 8.0])
def test_bound_never_falls_when_looking_ahead_goes_too_far(push, monkeypatch):
    """Prior odds pushed far off after each sweep: taken back, and the climb ends at the same height."""
    G, frame, _ = data()
    honest = fit(G, frame)
    ahead = spike_slab.look_ahead
    calls = []

    def too_far(model, fits, t):
        calls.append(t)
        ahead(model, fits, t)
        fits.theta[t] += push

    monkeypatch.setattr(spike_slab, "look_ahead", too_far)
    other = fit(G, frame)
    assert calls
    assert falls(other.elbo) < 1e-9
    assert other.converged
    assert abs(other.elbo[-1] - honest.elbo[-1]) < 1e-3
    assert (other.starts["sweeps"].sum() > honest.starts["sweeps"].sum()) == (push != 0.0)


def test_bound_is_the_one_of_the_text():
    """Sums gathered marker by marker against the bound from dense matrices."""
    G, frame, _ = data()
    y, Z = frame["y"].to_numpy(), np.column_stack((np.ones(len(frame)), frame["x"]))
    markers = project_markers(read_markers(G).columns(), Z)
    offset = np.linspace(-1, 1, G.shape[1])
    model = spike_slab.SpikeSlab(markers, offset, float(len(y)), -0.5 * markers.basis.logdet)
    fits = spike_slab.start(model, y[None], [1.0], [0.5], [-2.0])
    for _ in range(4):
        v, a, theta = fits.v[0], fits.a[0], fits.theta[0]
        value = spike_slab.sweep(model, fits, np.array([0]), BlockPool(1))[0, 0]
        s = v / (markers.gram + 1 / a)
        expected = twin.spike_slab_bound(y, G, Z, fits.alpha[0], fits.mu[0], s, v, a, theta + offset, len(y))
        np.testing.assert_allclose(value, expected, rtol=1e-11)


@pytest.mark.parametrize("family", ["gaussian", "binomial"])
def test_scaling_markers(family):
    """All columns times a constant: the same inclusion, effects divided by it."""
    G, frame, Y = data()
    if family == "binomial":
        frame["y"] = (Y[:, 0] > np.median(Y[:, 0])).astype(float)
    one, ten = fit(G, frame, family=family), fit(10.0 * G, frame, family=family)
    np.testing.assert_allclose(ten.pip, one.pip, atol=1e-8)
    np.testing.assert_allclose(10 * ten.coef, one.coef, atol=1e-8)
    np.testing.assert_allclose(ten.elbo[-1], one.elbo[-1], rtol=1e-9)


def test_scaling_the_response():
    """Units of y: everything follows, the bound by n log c."""
    G, frame, _ = data()
    one, ten = fit(G, frame), fit(G, frame.assign(y=10 * frame["y"]))
    np.testing.assert_allclose(ten.pip, one.pip, atol=1e-8)
    np.testing.assert_allclose(ten.coef, 10 * one.coef, atol=1e-7)
    np.testing.assert_allclose(ten.residual_var, 100 * one.residual_var, rtol=1e-8)
    np.testing.assert_allclose(ten.prior_var, one.prior_var, rtol=1e-7)
    np.testing.assert_allclose(ten.elbo[-1], one.elbo[-1] - len(frame) * np.log(10), rtol=1e-9)


def test_units_of_the_response_do_not_end_the_climb():
    """Many small effects climb slowly; in units that make the bound huge, a relative gain would end them early."""
    rng = np.random.default_rng(3)
    G = rng.binomial(2, 0.3, (150, 300))
    y = 0.1 * G @ rng.standard_normal(300) + 0.5 * rng.standard_normal(150)
    one, two = (fit(G, pd.DataFrame({"y": c * y}), formula="y ~ 1") for c in (1.0, 2.0**300))
    assert abs(two.elbo[-1]) > 100 * abs(one.elbo[-1])
    assert one.starts["sweeps"].max() > 40
    np.testing.assert_array_equal(two.starts["sweeps"], one.starts["sweeps"])


def test_scaling_one_marker():
    """With standardize=True the units of a single column do not matter."""
    G, frame, _ = data()
    scaled = G.copy()
    scaled[:, 1] *= 7
    one, two = fit(G, frame, standardize=True), fit(scaled, frame, standardize=True)
    np.testing.assert_allclose(two.pip, one.pip, atol=1e-8)
    np.testing.assert_allclose(two.coef[1] * 7, one.coef[1], atol=1e-8)


def test_permutations():
    """Individuals in another order: the same numbers. Columns: the same bound within 1e-3 on low-LD data."""
    G, frame, _ = data(n=400)
    rng = np.random.default_rng(3)
    rows, columns = rng.permutation(len(G)), rng.permutation(G.shape[1])
    one = fit(G, frame)
    two = fit(G[rows], frame.iloc[rows].reset_index(drop=True))
    np.testing.assert_allclose(two.pip, one.pip, atol=1e-8)
    three = fit(G[:, columns], frame)
    assert abs(three.elbo[-1] - one.elbo[-1]) < 1e-3
    np.testing.assert_allclose(three.pip.to_numpy(), one.pip.to_numpy()[columns], atol=2e-3)


def test_covariates_of_deficient_rank():
    """An intercept given twice, or a covariate that is the sum of two others, changes nothing."""
    G, frame, _ = data()
    one = fit(G, frame)
    named = "'one' is a combination of 'Intercept'. Left out, with effects NaN: 'one', 'twice'"
    with pytest.warns(SlamWarning, match=named):
        two = fit(G, frame.assign(one=1.0, twice=2 * frame["x"] + 5), "y ~ x + one + twice")
    assert any(named in note for note in two.notes)
    assert two.fixef()["mean"].isna().tolist() == [False, False, True, True]
    np.testing.assert_allclose(two.pip, one.pip, atol=1e-8)
    np.testing.assert_allclose(two.elbo, one.elbo, rtol=1e-9)
    np.testing.assert_allclose(two.fitted(), one.fitted(), atol=1e-8)
    assert two.fixef()["sd"].isna().sum() == 2


def test_without_covariates():
    """No intercept and no covariate: the plain regression through the origin."""
    G, frame, _ = data()
    G, frame = G - G.mean(axis=0), frame.assign(y=frame["y"] - frame["y"].mean())
    got = fit(G, frame, "y ~ 0")
    assert got.design.X.shape[1] == 0
    assert (got.pip[:4] > 0.5).sum() >= 2
    np.testing.assert_allclose(got.fitted().to_numpy()[:, 0], G @ got.coef, atol=1e-10)


def test_weights_are_repetitions():
    """Weight 2 is the same as the row twice, but for the constant of the bound and the number of rows."""
    G, frame, _ = data(n=80, m=20)
    weights = np.where(np.arange(80) % 3 == 0, 2.0, 1.0)
    twice = np.repeat(np.arange(80), weights.astype(int))
    Z = np.column_stack((np.ones(80), frame["x"]))
    y = frame["y"].to_numpy()
    ends = []
    for rows, w in ((np.arange(80), weights), (twice, None)):
        markers = project_markers(read_markers(G[rows]).columns(), Z[rows], w)
        model = spike_slab.SpikeSlab(markers, np.zeros(20), 100.0, 0.0)
        fits = spike_slab.start(model, y[rows][None], [1.0], [0.5], [-2.0])
        spike_slab.fit(model, fits, tol=1e-10, max_iter=500)
        ends.append((fits.alpha[0], fits.v[0], fits.elbo[0][-1]))
    for one, two in zip(*ends, strict=True):
        np.testing.assert_allclose(one, two, rtol=1e-7, atol=1e-9)


def test_zero_weights_are_absent_rows(tmp_path):
    """Half of the individuals of a .bed: the same fit as on the file of that half."""
    G, frame, _ = data()
    whole = twin.bed_columns(G, tmp_path)
    frame.index = [f"i{i}" for i in range(len(frame))]
    some = frame.iloc[::2].sample(frac=1, random_state=1)
    packed = fit(whole, some)
    plain = fit(pd.DataFrame(G, index=frame.index), some)
    np.testing.assert_allclose(packed.pip.to_numpy(), plain.pip.to_numpy(), atol=1e-8)
    np.testing.assert_allclose(packed.elbo, plain.elbo, rtol=1e-10)
    np.testing.assert_allclose(packed.fitted(), plain.fitted(), atol=1e-8)


def test_threads_give_the_same_bits():
    """Problems are dealt out to threads; none may see another's numbers."""
    G, frame, _ = data(n=300, m=400)
    one, two = fit(G, frame, n_threads=1), fit(G, frame, n_threads=2)
    for name in ("pip", "coef", "coef_sd", "elbo"):
        np.testing.assert_array_equal(getattr(one, name), getattr(two, name))
    np.testing.assert_array_equal(one.starts, two.starts)


def test_storage_does_not_matter(tmp_path):
    """int8, float64, float32, sparse and two bits hold the same genotypes."""
    from scipy import sparse

    G, frame, _ = data()
    forms = {
        "int8": G.astype(np.int8),
        "float32": read_markers(np.asarray(G + 0.5, dtype=np.float32)),
        "float64": read_markers(G + 0.5),
        "sparse": sparse.csr_array(G),
        "bed": twin.bed_columns(G, tmp_path),
    }
    one = fit(G, frame)
    for name, markers in forms.items():
        two = fit(markers, frame.set_axis(markers.labels)) if name == "bed" else fit(markers, frame)
        np.testing.assert_allclose(two.pip.to_numpy(), one.pip.to_numpy(), atol=1e-6, err_msg=name)
        np.testing.assert_allclose(two.elbo[-1], one.elbo[-1], rtol=1e-8, err_msg=name)


# -- one model in another --------------------------------------------------------------------------------------------


def mixture_sweeps(y, X, v, variances, weights, sweeps):
    """Regression with a mixture of normals on one response, plainly: means and weights after some sweeps."""
    d = (X**2).sum(axis=0)
    coef = np.zeros(X.shape[1])
    bounds, share = [], None
    for _ in range(sweeps):
        weights = weights if share is None else share.mean(axis=0)
        share = np.zeros((X.shape[1], len(variances)))
        gain = 0.0
        for k in range(X.shape[1]):
            c = X[:, k] @ (y - X @ coef) + d[k] * coef[k]
            shrink = variances / (1 + d[k] * variances / v)
            logs = np.log(weights + 2.2e-16) + 0.5 * (c / v) ** 2 * shrink - 0.5 * np.log1p(d[k] * variances / v)
            total = np.log(np.exp(logs - logs.max()).sum()) + logs.max()
            share[k] = np.exp(logs - total)
            coef[k] = share[k] @ (shrink * c / v)
            gain += total - coef[k] * c / v + 0.5 * d[k] * coef[k] ** 2 / v
        rss = np.sum((y - X @ coef) ** 2)
        bounds.append(gain - 0.5 * len(y) * np.log(2 * np.pi * v) - 0.5 * rss / v)
    return coef, weights, np.array(bounds)


def one_response(prior, v, y, X, sweeps):
    markers = project_markers(read_markers(X).columns(), np.zeros((len(y), 0)))
    model = mash.Mash(markers, prior, y[None], None, "known", 0, True)
    weights = np.full(prior.n_mix, 1 / prior.n_mix)
    state = mash.start(model, np.array([[v]]), weights)
    for t in range(sweeps):
        if t:
            mash.maximise(model, state)
        mash.sweep(model, state)
    return state


@pytest.mark.parametrize("seed", range(3))
def test_mr_mash_of_one_response_is_a_mixture_of_normals(seed):
    """J = 1, several variances, residual variance fixed."""
    G, _, Y = data(seed=seed)
    X, y = G - G.mean(axis=0), Y[:, 0] - Y[:, 0].mean()
    grid, v = np.array([0.01, 0.1, 1.0]), 1.7
    prior = MixturePrior(("all",), np.ones((1, 1, 1)), grid, True)
    state = one_response(prior, v, y, X, 6)
    coef, weights, bounds = mixture_sweeps(y, X, v, np.concatenate(([0.0], grid)), np.full(4, 0.25), 6)
    np.testing.assert_allclose(state.coef[:, 0], coef, rtol=0, atol=1e-10)
    np.testing.assert_allclose(state.used_weights, weights, rtol=0, atol=1e-10)
    np.testing.assert_allclose(state.elbo, bounds, rtol=1e-10)


@pytest.mark.parametrize("relative", [True, False])
@pytest.mark.parametrize("seed", range(3))
def test_mr_mash_of_two_components_is_spike_and_slab(seed, relative):
    """J = 1, K = 2, residual variance fixed, one prior variance: means, weights and bound of every sweep."""
    G, _, Y = data(seed=seed)
    X, y = G - G.mean(axis=0), Y[:, 0] - Y[:, 0].mean()
    v, b = 1.7, 0.4
    state = one_response(MixturePrior(("all",), np.ones((1, 1, 1)), np.array([b]), True), v, y, X, 6)
    markers = project_markers(read_markers(X).columns(), np.zeros((len(y), 0)))
    model = spike_slab.SpikeSlab(
        markers, np.zeros(X.shape[1]), float(len(y)), 0.0, frozenset({"pi"}), relative=relative
    )
    fits = spike_slab.start(model, y[None], [v], [b / v if relative else b], [0.0])
    bounds = [spike_slab.sweep(model, fits, np.array([0]), BlockPool(1))[0, 0] for _ in range(6)]
    np.testing.assert_allclose(state.coef[:, 0], fits.coef[0], rtol=0, atol=1e-10)
    np.testing.assert_allclose(state.responsibility_sum[1], fits.alpha[0].sum(), rtol=1e-10)
    np.testing.assert_allclose(state.elbo, bounds, rtol=1e-10)


def test_the_two_fitters_agree_by_formula():
    """The same through the public calls, at convergence."""
    G, frame, Y = data()
    v, b = 1.7, 0.4
    one = fit(G, frame, residual_var=v, prior_var=b / v, tol=1e-9)
    two = sg.mr_mash(
        "~ x", frame, Y=Y, markers=G, covariances=[[[1.0]]], grid=[b], residual_cov=[[v]], standardize=False, tol=1e-9
    )
    np.testing.assert_allclose(two.coef.to_numpy()[:, 0], one.coef, atol=1e-5)
    np.testing.assert_allclose(1 - two.null, one.pip, atol=1e-4)
    np.testing.assert_allclose(two.coef_sd.to_numpy()[:, 0], one.coef_sd, atol=1e-4)
    np.testing.assert_allclose(two.fixef()["mean"].to_numpy(), one.fixef()["mean"].to_numpy(), atol=1e-4)


def test_unrelated_responses_are_fitted_apart():
    """Diagonal residuals and effects on one response at a time: fitting two responses is fitting each."""
    G, frame, Y = data(p=2, m=30)
    grid, sigma = [0.05, 0.5], np.diag([1.3, 0.8])
    only = {name: U for name, U in canonical_covariances(2).items() if name.startswith("only")}
    # Equal and fixed weights, so that the responses share nothing but the null.
    both = sg.mr_mash(
        "~ x", frame, Y=Y, markers=G, covariances={"first": only["only 1"]}, grid=grid, residual_cov=sigma, tol=1e-9
    )
    alone = sg.mr_mash(
        "~ x", frame, Y=Y[:, :1], markers=G, covariances=[[[1.0]]], grid=grid, residual_cov=[[1.3]], tol=1e-9
    )
    np.testing.assert_allclose(both.coef.to_numpy()[:, 0], alone.coef.to_numpy()[:, 0], atol=1e-8)
    np.testing.assert_allclose(both.coef.to_numpy()[:, 1], 0.0, atol=1e-12)
    np.testing.assert_allclose(both.lfsr.to_numpy()[:, 0], alone.lfsr.to_numpy()[:, 0], atol=1e-8)


def test_permuting_responses():
    """Responses in another order: the answer in that order."""
    G, frame, Y = data(p=4, m=30)
    order = [2, 0, 3, 1]
    one = sg.mr_mash("~ x", frame, Y=Y, markers=G, residual_cov="full")
    two = sg.mr_mash("~ x", frame, Y=Y[:, order], markers=G, residual_cov="full")
    np.testing.assert_allclose(two.coef.to_numpy(), one.coef.to_numpy()[:, order], atol=1e-6)
    np.testing.assert_allclose(two.elbo[-1], one.elbo[-1], rtol=1e-8)


def test_scaling_responses_together():
    """All responses in other units: effects follow (the automatic grid and the residual covariance with them)."""
    G, frame, Y = data(p=3, m=30)
    one, two = (sg.mr_mash("~ x", frame, Y=c * Y, markers=G) for c in (1.0, 100.0))
    np.testing.assert_allclose(two.coef / 100, one.coef, atol=1e-6)
    np.testing.assert_allclose(two.lfsr, one.lfsr, atol=1e-5)


def test_constant_markers_are_left_out():
    """A marker that does not vary, or repeats a covariate, has no effect and does not dilute pi."""
    G, frame, _ = data()
    more = np.column_stack((G, np.ones(len(G)), frame["x"]))
    with pytest.warns(SlamWarning, match="2 of 62 markers do not vary beyond the covariates"):
        two = fit(more, frame)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SlamWarning)
        one = fit(G, frame)
    np.testing.assert_allclose(two.pip[:60], one.pip, atol=1e-8)
    assert (two.pip[60:] == 0).all()
    np.testing.assert_allclose(two.pi, one.pi, rtol=1e-8)
