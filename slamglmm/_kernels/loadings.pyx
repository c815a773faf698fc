"""Row scales of the loadings: the sequential part of the shrinkage priors."""


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
