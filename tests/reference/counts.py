"""NumPy twins of the kernels of counts: one cell at a time, from the definitions."""

import numpy as np
from scipy.optimize import brentq
from scipy.special import expit, gammaln


def poisson_cumulant(t, size):
    return (np.exp(min(t, 700.0)),) * 3


def binomial_cumulant(t, size):
    share = expit(t)
    return size * np.logaddexp(0.0, t), size * share, size * share * (1 - share)


def draw_poisson_eta(y, offset, mean, prec, pending, u, e, eta):
    return draw_log_concave(poisson_cumulant, y, np.full_like(y, np.inf), offset, mean, prec, pending, u, e, eta)


def draw_binomial_eta(y, size, offset, mean, prec, pending, u, e, eta):
    return draw_log_concave(binomial_cumulant, y, size, offset, mean, prec, pending, u, e, eta)


def tangent_point(log_density, slope_of, t, start, side):
    """Distance at which the log density is about one lower, the drop there, and its slope; Newton as in the kernel."""
    distance = start
    for i in range(4):
        drop = log_density(t) - log_density(t + side * distance)
        slope = -side * slope_of(t + side * distance)
        if 0.6 < drop < 1.7:
            break
        if i < 3:
            distance += (1 - drop) / slope
    return distance, drop, slope


def draw_log_concave(cumulant, y, sizes, offset, mean, prec, pending, u, e, eta):
    """A plateau between two tangents; accepted cells go to eta, the others to the front of `pending`."""
    n, rejected = y.shape[1], []
    for s, cell in enumerate(pending):
        j, i = divmod(int(cell), n)
        t, threshold = propose(cumulant, y[j, i], sizes[j, i], mean[j, i] + offset[j, i], prec[j], u[s])
        if e[s] >= threshold:
            eta[j, i] = t - offset[j, i]
        else:
            rejected.append(cell)
    pending[: len(rejected)] = rejected
    return len(rejected)


def propose(cumulant, y, size, m, omega, u):
    """Proposal from the envelope at `u`, and the exponential from which it is accepted: log envelope minus density."""

    def log_density(t):
        return y * t - cumulant(t, size)[0] - omega * (t - m) ** 2 / 2

    def slope_of(t):
        return y - cumulant(t, size)[1] - omega * (t - m)

    low = m - 1.0
    while slope_of(low) < 0:
        low -= 2 * (m - low)
    t = brentq(slope_of, low, m + y / omega + 1e-9, xtol=1e-13)
    _, slope, curvature = cumulant(t, size)
    start = np.sqrt(2 / (omega + curvature))
    far_left, drop_left, slope_left = tangent_point(log_density, slope_of, t, start, -1)
    if start > 2:
        start = min(start, np.log1p(1 / slope) + 1)
    far_right, drop_right, slope_right = tangent_point(log_density, slope_of, t, start, 1)
    flat_left, flat_right = far_left - drop_left / slope_left, far_right - drop_right / slope_right
    masses = np.cumsum([1 / slope_left, flat_left + flat_right, 1 / slope_right])
    place, bound = u * masses[-1], 0.0
    if place < masses[0]:
        bound = np.log(place * slope_left)
        delta = -flat_left + bound / slope_left
    elif place < masses[1]:
        delta = place - masses[0] - flat_left
    else:
        bound = np.log((place - masses[1]) * slope_right)
        delta = flat_right - bound / slope_right
    return t + delta, bound - (log_density(t + delta) - log_density(t))


def sum_negative_binomial(y, log_mean, shape, out):
    for j, c in np.ndindex(*shape.shape):
        r, seen = shape[j, c], ~np.isnan(y[j])
        counts, mean = y[j, seen], np.exp(log_mean[j, seen])
        out[j, c] = np.sum(gammaln(counts + r) - gammaln(r) + r * np.log(r) - (counts + r) * np.log(r + mean))
