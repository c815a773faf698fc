"""What tables of a posterior say, from the draws alone: loops over draws, no line of the package."""

import numpy as np
from scipy.stats import norm, rankdata


def pooled(draws):
    """Draws of all chains one after the other: (chain, draw, ...) to (S, ...)."""
    return np.array([one for chain in draws for one in chain])


def quantile(draws, q):
    """Linear interpolation between order statistics, along the first axis."""
    ordered = np.sort(draws, axis=0)
    place = q * (len(ordered) - 1)
    low = int(np.floor(place))
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (place - low) * (ordered[high] - ordered[low])


def summary(draws, prob):
    """Mean, sd of a sample, and the ends of the equal-tailed interval of draws (chain, draw, ...)."""
    flat = pooled(draws)
    mean = sum(flat) / len(flat)
    sd = np.sqrt(sum((one - mean) ** 2 for one in flat) / (len(flat) - 1))
    tail = (1.0 - prob) / 2.0
    return {"mean": mean, "sd": sd, "lower": quantile(flat, tail), "upper": quantile(flat, 1.0 - tail)}


def covariance_draws(Lambda, h2_factor, h2_residual, residual_var):
    """G of every random effect, then R, of every draw: ``sum_l h_l lambda_l lambda_l' + diag(h_j v_j)``.

    Parameters
    ----------
    Lambda : ndarray, shape (chain, draw, k, p)
    h2_factor : ndarray, shape (chain, draw, terms, k)
    h2_residual : ndarray, shape (chain, draw, terms, p)
    residual_var : ndarray, shape (chain, draw, p)

    Returns
    -------
    ndarray, shape (terms + 1, chain, draw, p, p)
    """
    chains, draws, terms, k = h2_factor.shape
    p = Lambda.shape[3]
    out = np.zeros((terms + 1, chains, draws, p, p))
    for c in range(chains):
        for d in range(draws):
            for m in range(terms + 1):
                of_factor = h2_factor[c, d, m] if m < terms else 1.0 - h2_factor[c, d].sum(axis=0)
                own = h2_residual[c, d, m] if m < terms else 1.0 - h2_residual[c, d].sum(axis=0)
                for ell in range(k):
                    out[m, c, d] += of_factor[ell] * np.outer(Lambda[c, d, ell], Lambda[c, d, ell])
                out[m, c, d] += np.diag(own * residual_var[c, d])
    return out


def correlations(matrices):
    """Correlation matrix of every covariance matrix (..., p, p)."""
    sd = np.sqrt(np.diagonal(matrices, axis1=-2, axis2=-1))
    return matrices / (sd[..., :, None] * sd[..., None, :])


def factors_needed(Lambda, share=0.99):
    """Fewest factors that carry a share of the squared loadings, of every draw."""
    out = np.zeros(Lambda.shape[:2])
    for c, chain in enumerate(Lambda):
        for d, loadings in enumerate(chain):
            sizes = sorted((float(np.sum(row**2)) for row in loadings), reverse=True)
            while sum(sizes[: int(out[c, d])]) < share * sum(sizes):
                out[c, d] += 1
    return out


# -- convergence: Vehtari et al. (2021), Bayesian Analysis 16, 667-718 -------------------------------------------------


def _split(x):
    half = x.shape[1] // 2
    return np.array([part for chain in x for part in (chain[:half], chain[-half:])])


def _z_scale(x):
    ranks = rankdata(x, method="average").reshape(x.shape)
    return norm.ppf((ranks - 0.375) / (x.size + 0.25))


def _rhat(x):
    n = x.shape[1]
    within = np.mean([np.var(chain, ddof=1) for chain in x])
    between = n * np.var([chain.mean() for chain in x], ddof=1)
    return np.sqrt((n - 1) / n + between / (n * within))


def rhat(x):
    """Larger one of the rank-normalised R-hat and the folded one, of draws (chain, draw)."""
    halves = _split(x)
    folded = np.abs(halves - np.median(halves))
    return max(_rhat(_z_scale(halves)), _rhat(_z_scale(folded)))


def _ess(x):
    """Geyer's initial monotone sequence over chains (m, n); chains that disagree count for little."""
    m, n = x.shape
    centred = x - x.mean(axis=1, keepdims=True)
    autocovariance = np.array([[c[: n - t] @ c[t:] / n for t in range(n)] for c in centred])
    within = np.mean(autocovariance[:, 0]) * n / (n - 1)
    total = within * (n - 1) / n + (np.var(x.mean(axis=1), ddof=1) if m > 1 else 0.0)
    rho = 1.0 - (within - autocovariance.mean(axis=0)) / total
    rho[0] = 1.0
    pairs, smallest, t = [], np.inf, 0
    while t < n - 2 and rho[t] + rho[t + 1] > 0:
        smallest = min(smallest, rho[t] + rho[t + 1])
        pairs.append(smallest)
        t += 2
    return m * n / max(2.0 * sum(pairs) - 1.0 + max(rho[t], 0.0), 1.0 / np.log10(m * n))


def ess_bulk(x):
    """Effective number of draws for the centre, of draws (chain, draw)."""
    return _ess(_z_scale(_split(x)))


def ess_mean(x):
    """Effective number of draws for the mean, of draws (chain, draw)."""
    return _ess(_split(x))


def ess_tail(x, prob=0.9):
    """The smaller of the effective numbers for the two ends of the 90 % interval."""
    ends = [quantile(x.ravel(), (1 - prob) / 2), quantile(x.ravel(), (1 + prob) / 2)]
    return min(_ess(_split((x <= end).astype(float))) for end in ends)
