"""`netgsa`'s table recomputed by dense matrices from the definitions (NETGSA-2 to NETGSA-5)."""

import numpy as np
import pytest
import scipy.stats

import slamglmm as sg


def dense_table(data, result):
    """Size, effects, variances and gradients of every pathway, and the covariance of the variances."""
    genes = list(data.expression.index)
    names = list(dict.fromkeys(data.groups))
    theta = np.array([result.sigma2_epsilon, result.sigma2_gamma])
    D, means, counts = [], [], []
    information = np.zeros((2, 2))
    for name in names:
        A = np.zeros((len(genes), len(genes)))
        for edge in data.networks[name].itertuples():
            i, j = genes.index(edge.source), genes.index(edge.target)
            A[i, j] = A[j, i] = edge.weight
        D.append(np.linalg.cholesky(np.linalg.inv(np.eye(len(genes)) - A)))
        samples = data.expression.loc[:, (data.groups == name).to_numpy()].to_numpy()
        means.append(samples.mean(axis=1))
        counts.append(samples.shape[1])
        parts = [np.eye(len(genes)), D[-1] @ D[-1].T]
        inverse = np.linalg.inv(theta[0] * parts[0] + theta[1] * parts[1])
        information += (
            0.5 * (counts[-1] - 1) * np.array([[np.trace(inverse @ a @ inverse @ b) for b in parts] for a in parts])
        )
    of_estimates = np.linalg.inv(information)
    rows = []
    for members in data.pathways.values():
        inside = np.array([gene in members for gene in genes], dtype=float)
        effects, variances, gradients = [], [], []
        for D_k, mean, n in zip(D, means, counts, strict=True):
            contrast = (inside @ D_k) * inside
            on_means = contrast @ np.linalg.inv(D_k)
            effects.append(on_means @ mean)
            gradients.append(np.array([on_means @ on_means, on_means @ D_k @ D_k.T @ on_means]) / n)
            variances.append(gradients[-1] @ theta)
        rows.append((int(inside.sum()), np.array(effects), np.array(variances), np.array(gradients)))
    return rows, of_estimates


def test_variances_solve_their_equations():
    """Moments of all samples: traces and products of scatters, expectations counted n - 1 times."""
    data = sg.simulate.netgsa(n_genes=24, n_samples=(9, 14, 7), epsilon=1.0, seed=4)
    result = sg.netgsa(data.expression, data.groups, data.networks, data.pathways)
    S, c = np.zeros((2, 2)), np.zeros(2)
    genes = list(data.expression.index)
    for name in dict.fromkeys(data.groups):
        A = np.zeros((24, 24))
        for edge in data.networks[name].itertuples():
            i, j = genes.index(edge.source), genes.index(edge.target)
            A[i, j] = A[j, i] = edge.weight
        covariance = np.linalg.inv(np.eye(24) - A)
        samples = data.expression.loc[:, (data.groups == name).to_numpy()].to_numpy()
        scatter = np.cov(samples) * (samples.shape[1] - 1)
        parts = [np.eye(24), covariance]
        S += (samples.shape[1] - 1) * np.array([[np.trace(a @ b) for b in parts] for a in parts])
        c += [np.trace(scatter @ part) for part in parts]
    expected = np.linalg.solve(S, c)
    np.testing.assert_allclose([result.sigma2_epsilon, result.sigma2_gamma], expected, rtol=1e-8)
    table = result.varcorr()
    np.testing.assert_allclose(table["variance"], expected[::-1], rtol=1e-8)
    np.testing.assert_allclose(table["share"], expected[::-1] / expected.sum(), rtol=1e-8)


@pytest.mark.parametrize("n_samples", [(12, 8), (15,)])
def test_t_tests(n_samples):
    """Statistic, Satterthwaite's degrees of freedom and the two-sided p."""
    data = sg.simulate.netgsa(n_genes=20, n_pathways=4, n_samples=n_samples, shift=0.2, epsilon=1.0, seed=5)
    result = sg.netgsa(data.expression, data.groups, data.networks, data.pathways)
    rows, of_estimates = dense_table(data, result)
    for (_, ours), (size, effects, variances, gradients) in zip(result.table.iterrows(), rows, strict=True):
        v, gradient = variances.sum(), gradients.sum(axis=0)
        t = (effects[1] - effects[0] if len(n_samples) == 2 else effects[0]) / np.sqrt(v)
        df = 2 * v**2 / (gradient @ of_estimates @ gradient)
        p = 2 * scipy.stats.t.cdf(-abs(t), df)
        np.testing.assert_allclose(ours[["size", "statistic", "df", "p"]].to_numpy(float), [size, t, df, p], rtol=1e-7)


def test_f_tests():
    """Consecutive differences together; Fai and Cornelius: E F of the principal contrasts fixes the denominator."""
    data = sg.simulate.netgsa(n_genes=12, n_pathways=3, n_samples=(4, 3, 5, 3), shift=0.2, epsilon=1.5, seed=9)
    result = sg.netgsa(data.expression, data.groups, data.networks, data.pathways)
    rows, of_estimates = dense_table(data, result)
    C = np.array([[-1.0, 1, 0, 0], [0, -1, 1, 0], [0, 0, -1, 1]])
    for (_, ours), (size, effects, variances, gradients) in zip(result.table.iterrows(), rows, strict=True):
        covariance = C @ np.diag(variances) @ C.T
        difference = C @ effects
        F = difference @ np.linalg.inv(covariance) @ difference / 3
        values, vectors = np.linalg.eigh(covariance)
        total = 0.0
        for value, vector in zip(values, vectors.T, strict=True):
            gradient = (vector @ C) ** 2 @ gradients
            nu = 2 * value**2 / (gradient @ of_estimates @ gradient)
            total += nu / (nu - 2)  # the mean of F(1, nu)
        df2 = 2 * total / (total - 3)  # of F(3, df2) the mean is total / 3
        np.testing.assert_allclose(total / 3, df2 / (df2 - 2), rtol=1e-9)
        assert df2 < 300, "so many that their number does not matter"
        p = scipy.stats.f.sf(F, 3, df2)
        np.testing.assert_allclose(
            ours[["size", "statistic", "df1", "df2", "p"]].to_numpy(float), [size, F, 3, df2, p], rtol=1e-6
        )


def test_q_values():
    """Benjamini and Hochberg: the smallest of p m / rank from here up."""
    data = sg.simulate.netgsa(n_genes=40, n_pathways=8, n_samples=(12, 9), shift=0.3, seed=7)
    table = sg.netgsa(data.expression, data.groups, data.networks, data.pathways).table
    p = table["p"].to_numpy()
    ordered = np.sort(p)
    expected = [min(q * 8 / (i + 1) for i, q in enumerate(ordered) if q >= own) for own in p]
    np.testing.assert_allclose(table["q"], np.minimum(expected, 1.0), rtol=1e-12)
