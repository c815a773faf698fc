"""Coordinate ascent of the spike-and-slab regression: one sweep over the markers, several problems at a time."""

from libc.math cimport exp, fabs

from slamglmm._kernels.columns cimport Columns, column_axpy, column_dot


def sweep_spike_slab(
    Columns columns,
    const Py_ssize_t[::1] order,
    const Py_ssize_t[::1] problems,
    const double[:, ::1] projections,
    const double[::1] scale,
    const double[::1] gram,
    const double[::1] weights,
    const double[:, ::1] base,
    const double[::1] prior_prec,
    const double[::1] residual_var,
    double[:, ::1] logit,
    double[:, ::1] alpha,
    double[:, ::1] mu,
    double[:, ::1] residual,
    double[:, ::1] carried,
    double[::1] change,
):
    """Update alpha, mu and the residual of each listed problem, marker by marker; eq. VB-3.

    Marker k of the model is ``scale_k (g_k - Q a_k)`` with ``a_k = projections[k]``: the residual is kept without the
    projection (`residual`, already multiplied by the observation weights) and its part along Q apart (`carried`).
    ``base[t, k]`` is the prior log odds minus ``log(1 + gram_k / prior_prec_t) / 2``. ``change[t]`` is the largest
    change of an inclusion probability. Markers outside `order`, and problems not listed, keep their values.
    """
    cdef Py_ssize_t i, j, k, a, t, n_cov = projections.shape[1]
    cdef const double* w = &weights[0] if weights.shape[0] else NULL
    cdef double c, precision, before, now, delta, odds, p
    with nogil:
        for i in range(order.shape[0]):
            k = order[i]
            for j in range(problems.shape[0]):
                t = problems[j]
                c = column_dot(&columns.view, k, &residual[t, 0])
                for a in range(n_cov):
                    c += projections[k, a] * carried[t, a]
                before = alpha[t, k] * mu[t, k]
                precision = gram[k] + prior_prec[t]
                now = (scale[k] * c + gram[k] * before) / precision
                odds = base[t, k] + 0.5 * now * now * precision / residual_var[t]
                p = 1.0 / (1.0 + exp(-odds))
                change[t] = max(change[t], fabs(p - alpha[t, k]))
                logit[t, k], alpha[t, k], mu[t, k] = odds, p, now
                delta = scale[k] * (p * now - before)
                if delta != 0.0:
                    column_axpy(&columns.view, k, -delta, w, &residual[t, 0])
                    for a in range(n_cov):
                        carried[t, a] += delta * projections[k, a]
