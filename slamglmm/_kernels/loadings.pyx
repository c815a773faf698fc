"""Loadings: the sequential part of the shrinkage priors, and loadings that may be zero, one after the other."""

from libc.math cimport INFINITY, exp, log, sqrt


def draw_horseshoe_rows(
    const double[::1] q,
    const double[:, ::1] gamma_delta,
    const double[::1] gamma_global,
    const double[:, ::1] exponential,
    double shape,
    double rate,
    double t0,
    double[::1] delta,
    double t2,
):
    """Sweep the global scale t^2 and the row ratios delta of the horseshoe; eq. SLAM-15.

    ``q[l] = sum_j tau_j lambda_lj^2 / (2 phi_lj^2)``. Each of the ``len(gamma_global)`` sweeps uses one row of
    standard gammas (``gamma_delta[:, h]`` of shape ``shape + p (k - h)/2`` for row h >= 1) and two exponentials.
    ``delta`` is updated in place (``delta[0]`` stays 1); returns the new t^2.
    """
    cdef Py_ssize_t sweep, h, l, k = q.shape[0]
    cdef double total, cum, xi, base = 1.0 / (t0 * t0)
    with nogil:
        for sweep in range(gamma_global.shape[0]):
            xi = (base + 1.0 / t2) / exponential[sweep, 0]
            total = 0.0
            cum = 1.0
            for l in range(k):
                cum *= delta[l]
                total += q[l] / cum
            t2 = (1.0 / xi + total) / gamma_global[sweep]
            for h in range(1, k):
                # sum_{l >= h} q_l / (Delta_l without delta_h)
                cum = 1.0
                total = 0.0
                for l in range(k):
                    if l != h:
                        cum *= delta[l]
                    if l >= h:
                        total += q[l] / cum
                delta[h] = (rate + total / t2) / gamma_delta[sweep, h]
    return t2


def draw_infinite_rows(
    const double[::1] s,
    const double[:, ::1] gamma_delta,
    double rate_first,
    double rate_rest,
    double[::1] delta,
):
    """Sweep the row ratios delta of the multiplicative gamma process; eq. SLAM-17.

    ``s[l] = sum_j tau_j phi_lj lambda_lj^2 / 2``; ``gamma_delta[sweep, h]`` are standard gammas of the full
    conditional's shape. ``delta`` is updated in place.
    """
    cdef Py_ssize_t sweep, h, l, k = s.shape[0]
    cdef double total, cum
    with nogil:
        for sweep in range(gamma_delta.shape[0]):
            for h in range(k):
                cum = 1.0
                total = 0.0
                for l in range(k):
                    if l != h:
                        cum *= delta[l]
                    if l >= h:
                        total += s[l] * cum
                delta[h] = gamma_delta[sweep, h] / ((rate_first if h == 0 else rate_rest) + total)


def draw_sites(
    const double[:, :, ::1] grams,
    const Py_ssize_t[::1] which,
    const double[:, ::1] prior_prec,
    const double[:, ::1] rhs,
    const double[::1] log_odds,
    const double[::1] tau,
    const double[:, ::1] z,
    const double[:, ::1] u,
    double[::1] work,
    double[:, ::1] coef,
):
    """Draw coefficients with a spike at zero, one after the other, in many regressions that share Grams; eq. SLAM-24.

    System j has precision ``tau[j] (grams[which[j]] + diag(prior_prec[j]))``. Coefficient l is not zero with prior
    log odds ``log_odds[l]`` (infinite: never zero). ``coef`` is updated in place; ``work`` has room for one system.
    O(m^2) for each system.
    """
    cdef Py_ssize_t j, l, i, n_systems = rhs.shape[0], m = rhs.shape[1]
    cdef double gram, lhs, right, odds, new, step
    cdef const double* row
    with nogil:
        for j in range(n_systems):
            for l in range(m):
                work[l] = rhs[j, l]
            for l in range(m):
                if coef[j, l] != 0.0:
                    row = &grams[which[j], l, 0]
                    for i in range(m):
                        work[i] -= row[i] * coef[j, l]
            for l in range(m):
                row = &grams[which[j], l, 0]
                gram = row[l]
                lhs = gram + prior_prec[j, l]
                right = work[l] + gram * coef[j, l]
                odds = log_odds[l]
                if odds < INFINITY:
                    odds += 0.5 * (tau[j] * right * right / lhs + log(prior_prec[j, l] / lhs))
                new = 0.0
                if u[j, l] * (1.0 + exp(-odds)) < 1.0:
                    new = right / lhs + z[j, l] / sqrt(tau[j] * lhs)
                step = new - coef[j, l]
                if step != 0.0:
                    for i in range(m):
                        work[i] -= row[i] * step
                    coef[j, l] = new
