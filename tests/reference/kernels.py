"""Slow, plain twins of the compiled kernels: same names, same arguments, same noise."""

import numpy as np


def is_positive_definite(precision):
    """By eigenvalues: `numpy.linalg.cholesky` lets a pivot through that is NaN."""
    return bool(np.isfinite(precision).all() and (np.linalg.eigvalsh(precision) > 0).all())


def draw_regressions(grams, which, prior_prec, rhs, yy, z, gamma, rate, order, work, coef, tau):
    for j in order:
        precision = grams[which[j]] + np.diag(prior_prec[j])
        if not is_positive_definite(precision):
            return j
        root = np.linalg.cholesky(precision)
        mean = np.linalg.solve(precision, rhs[j])
        explained = rhs[j] @ mean
        tau[j] = gamma[j] / (rate + 0.5 * max(yy[j] - explained, 0.0))
        coef[j] = mean + np.linalg.solve(root.T, z[j]) / np.sqrt(tau[j])
    return -1


def draw_gaussians(precisions, which, rhs, z, work, out):
    for i in range(len(rhs)):
        precision = precisions[which[i]]
        if not is_positive_definite(precision):
            return i
        root = np.linalg.cholesky(precision)
        out[i] = np.linalg.solve(precision, rhs[i]) + np.linalg.solve(root.T, z[i])
    return -1


def draw_rows(packed, diagonal, rhs, z, work, out):
    k, n_rows = rhs.shape
    for i in range(n_rows):
        precision = np.zeros((k, k))
        precision[np.tril_indices(k)] = packed[:, i]
        precision += np.tril(precision, -1).T + np.diag(diagonal[:, i])
        if not is_positive_definite(precision):
            return i
        root = np.linalg.cholesky(precision)
        out[:, i] = np.linalg.solve(precision, rhs[:, i]) + np.linalg.solve(root.T, z[:, i])
    return -1


def draw_horseshoe_rows(q, gamma_delta, gamma_global, exponential, shape, rate, t0, delta, t2):
    k = len(q)
    for sweep in range(len(gamma_global)):
        xi = (1 / t0**2 + 1 / t2) / exponential[sweep, 0]
        t2 = (1 / xi + np.sum(q / np.cumprod(delta))) / gamma_global[sweep]
        for h in range(1, k):
            others = delta.copy()
            others[h] = 1.0
            delta[h] = (rate + np.sum((q / np.cumprod(others))[h:]) / t2) / gamma_delta[sweep, h]
    return t2


def draw_infinite_rows(s, gamma_delta, rate_first, rate_rest, delta):
    for sweep in range(len(gamma_delta)):
        for h in range(len(s)):
            others = delta.copy()
            others[h] = 1.0
            rate = rate_first if h == 0 else rate_rest
            delta[h] = gamma_delta[sweep, h] / (rate + np.sum((s * np.cumprod(others))[h:]))


def draw_sites(grams, which, prior_prec, rhs, log_odds, tau, z, u, work, coef):
    for j in range(len(rhs)):
        gram = grams[which[j]]
        for site in range(rhs.shape[1]):
            others = coef[j].copy()
            others[site] = 0.0
            prior = tau[j] * prior_prec[j, site]
            precision = tau[j] * gram[site, site] + prior
            mean = tau[j] * (rhs[j, site] - gram[site] @ others) / precision
            # Bayes factor of a normal with prior precision `prior` against zero.
            inside = np.isinf(log_odds[site])
            if not inside:
                odds = np.exp(log_odds[site] + 0.5 * precision * mean**2) * np.sqrt(prior / precision)
                inside = u[j, site] * (1 + odds) < odds
            coef[j, site] = mean + z[j, site] / np.sqrt(precision) if inside else 0.0


def move_shares(precisions, which, linear, totals, ray, log_prior, uniforms, slope, mass, random, factors, points):
    for f in range(len(factors)):
        t = totals[points[f]]
        if t == 0:
            continue
        a, e = random[f] / np.sqrt(t), (factors[f] - random[f]) / np.sqrt(1 - t)
        candidates = np.flatnonzero((ray == ray[points[f]]) & (totals > 0))
        value = np.empty(len(candidates))
        for c, g in enumerate(candidates):
            trial = factors.copy()
            trial[f] = np.sqrt(totals[g]) * a + np.sqrt(1 - totals[g]) * e
            rows = trial.T
            quadratic = np.einsum("ia,iab,ib->", rows, precisions[which], rows)
            value[c] = log_prior[g] + np.sum(linear * trial) - 0.5 * quadratic
        cumulative = np.cumsum(np.exp(value - value.max()))
        g = candidates[np.sum(cumulative < (1 - uniforms[f]) * cumulative[-1])]
        random[f], factors[f], points[f] = (
            np.sqrt(totals[g]) * a,
            np.sqrt(totals[g]) * a + np.sqrt(1 - totals[g]) * e,
            g,
        )
