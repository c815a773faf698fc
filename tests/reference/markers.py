"""Slow NumPy twins of the marker kernels, and dense mr.mash and spike-and-slab written straight from the equations."""

import numpy as np
import slamglmm._kernels.columns as kernel
from slamglmm._kernels.columns import Columns

from slamglmm.genotypes import open_plink, write_plink


def dense(columns):
    """The (n, m) matrix behind `Columns`, float64, by asking for one column at a time with unit vectors."""
    n, m = columns.shape
    out = np.zeros((m, n))
    for k in range(m):
        coef = np.zeros((1, m))
        coef[0, k] = 1.0
        kernel.add_columns(columns, coef, np.empty(0), out[k : k + 1])
    return out.T


def column_products(columns, r, start, stop, out):
    out[:] = dense(columns)[:, start:stop].T @ r.T


def column_squares(columns, weights, start, stop, work, out):
    out[:] = (dense(columns)[:, start:stop] ** 2).T @ weights


def add_columns(columns, coef, weights, r):
    r += (coef @ dense(columns).T) * (weights if len(weights) else 1.0)


def add_squares(columns, coef, work, out):
    out += dense(columns) ** 2 @ coef


def sweep_spike_slab(
    columns,
    order,
    problems,
    projections,
    scale,
    gram,
    weights,
    base,
    prior_prec,
    residual_var,
    logit,
    alpha,
    mu,
    residual,
    carried,
    change,
):
    G = dense(columns)
    w = weights if len(weights) else np.ones(len(G))
    for k in order:
        for t in problems:
            c = scale[k] * (G[:, k] @ residual[t] + projections[k] @ carried[t])
            before = alpha[t, k] * mu[t, k]
            precision = gram[k] + prior_prec[t]
            mu[t, k] = (c + gram[k] * before) / precision
            logit[t, k] = base[t, k] + 0.5 * mu[t, k] ** 2 * precision / residual_var[t]
            new = 1.0 / (1.0 + np.exp(-logit[t, k]))
            change[t] = max(change[t], abs(new - alpha[t, k]))
            alpha[t, k] = new
            delta = scale[k] * (new * mu[t, k] - before)
            residual[t] -= delta * w * G[:, k]
            carried[t] += delta * projections[k]


def sweep_mash(
    columns,
    order,
    projections,
    scale,
    gram,
    weights,
    vectors,
    vectors_t,
    values,
    first_value,
    first_component,
    grid,
    log_weights,
    first_shrink,
    first_moment,
    shrink,
    logdet,
    work,
    responsibility,
    coef,
    cross,
    residual,
    carried,
    weight_sum,
    moments,
):
    G = dense(columns)
    p = len(residual)
    n_covariances = len(first_value) - 1
    evidence = 0.0
    for i in order:
        d = gram[i]
        cross[i] = scale[i] * (residual @ G[:, i] + carried @ projections[i]) + d * coef[i]
        logs, means, covariances = [], [], []
        for k in range(n_covariances):
            part = slice(first_value[k], first_value[k + 1])
            U = (vectors[:, part] * values[part]) @ vectors[:, part].T
            for t in range(first_component[k], first_component[k + 1]):
                V = grid[t] * U
                S = V - V @ np.linalg.solve(V + np.eye(p) / d, V)
                mean = S @ cross[i]
                logs.append(log_weights[t] + 0.5 * cross[i] @ mean - 0.5 * np.linalg.slogdet(np.eye(p) + d * V)[1])
                means.append(mean)
                covariances.append(S)
        logs = np.array(logs)
        top = logs.max()
        total = np.log(np.exp(logs - top).sum()) + top
        share = np.exp(logs - total)
        responsibility[:] = share
        weight_sum += share
        for k in range(n_covariances):
            part = slice(first_value[k], first_value[k + 1])
            Q = vectors[:, part]
            size = part.stop - part.start
            block = np.zeros((size, size))
            for t in range(first_component[k], first_component[k + 1]):
                block += share[t] * d * (Q.T @ (covariances[t] + np.outer(means[t], means[t])) @ Q)
            moments[first_moment[k] : first_moment[k] + size**2] += np.tril(block).ravel()
        new = share @ np.array(means)
        evidence += total - new @ cross[i] + 0.5 * d * new @ new
        delta = scale[i] * (new - coef[i])
        coef[i] = new
        residual -= np.outer(delta, G[:, i] * (weights if len(weights) else 1.0))
        carried += np.outer(delta, projections[i])
    return evidence


def spike_slab_bound(y, X, Z, alpha, mu, s, v, a, log_odds, n_eff):
    """Bound of the spike-and-slab regression from dense, unprojected matrices, term by term."""
    Q, _ = np.linalg.qr(Z) if Z.shape[1] else (np.zeros((len(y), 0)), None)
    y, X = y - Q @ (Q.T @ y), X - Q @ (Q.T @ X)
    d = (X**2).sum(axis=0)
    r = alpha * mu
    residual = y - X @ r
    variance = alpha * (s + mu**2) - r**2
    pi = 1 / (1 + np.exp(-log_odds))
    value = -n_eff / 2 * np.log(2 * np.pi * v) - residual @ residual / (2 * v) - d @ variance / (2 * v)
    if Z.shape[1]:
        value -= 0.5 * np.linalg.slogdet(Z.T @ Z)[1]
    value += np.sum(alpha * np.log(pi) + (1 - alpha) * np.log1p(-pi))
    value += 0.5 * np.sum(alpha * (1 + np.log(s / (a * v)) - (s + mu**2) / (a * v)))
    inside = alpha[(alpha > 0) & (alpha < 1)]
    return value - np.sum(inside * np.log(inside) + (1 - inside) * np.log1p(-inside))


def bed_columns(genotypes, folder):
    """The same genotypes through a .bed file."""
    n, m = genotypes.shape
    write_plink(folder / "twin.bed", [genotypes], [f"i{i}" for i in range(n)], [f"m{k}" for k in range(m)])
    return open_plink(folder / "twin.bed")


def simd_levels():
    """Instruction sets this processor has."""
    levels = []
    now = Columns.simd()
    for level in ("generic", "avx2", "avx512"):
        try:
            levels.append(Columns.simd(level))
        except ValueError:
            break
    Columns.simd(now)
    return levels
