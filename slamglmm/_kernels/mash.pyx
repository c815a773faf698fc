"""Coordinate ascent of the regression of many responses with a mixture of covariances: one sweep over the markers.

Everything is in whitened space, where the residual covariance is the identity. Covariance k of the prior is
``sum_i values_i v_i v_i'`` over its own columns ``v_i`` of `vectors`; a component is one of them times a grid value, so
all grid values share one rotation.
"""

from libc.math cimport exp, log

from slamglmm._kernels.columns cimport Columns, column_axpy, column_dot

# exp(-NEGLIGIBLE) adds nothing to a sum of doubles that holds a one.
cdef double NEGLIGIBLE = 45.0


def sweep_mash(
    Columns columns,
    const Py_ssize_t[::1] order,
    const double[:, ::1] projections,
    const double[::1] scale,
    const double[::1] gram,
    const double[::1] weights,
    const double[:, ::1] vectors,
    const double[:, ::1] vectors_t,
    const double[::1] values,
    const Py_ssize_t[::1] first_value,
    const Py_ssize_t[::1] first_component,
    const double[::1] grid,
    const double[::1] log_weights,
    const Py_ssize_t[::1] first_shrink,
    const Py_ssize_t[::1] first_moment,
    double[::1] shrink,
    double[::1] logdet,
    double[:, ::1] work,
    double[::1] responsibility,
    double[:, ::1] coef,
    double[:, ::1] cross,
    double[:, ::1] residual,
    double[:, ::1] carried,
    double[::1] weight_sum,
    double[::1] moments,
):
    """Update the posterior mean of each marker's effects and the residual; eq. VB-11. Returns the sum of
    ``log sum_t w_t BF_t - r'c + gram r'r / 2`` over markers.

    Covariance k has the columns ``first_value[k]:first_value[k+1]`` of `vectors` (p x v) and the components
    ``first_component[k]:first_component[k+1]``, component t the multiple ``grid[t]``. ``shrink[first_shrink[t] + i]`` is
    ``g = grid D_i / (1 + gram grid D_i)`` and ``logdet[t]`` half the sum of ``log(1 + gram grid D_i)``: both are
    computed when `gram` differs from the marker before. `cross` receives ``c = R'x + gram r``, `weight_sum` the sums of
    the responsibilities, and ``moments[first_moment[k]:]`` the v_k x v_k sums of gram times second moments in the
    coordinates of `vectors`. `weights` is zero for rows that are not in the data and one for others, or empty. `work` is 3 x (v + p), `responsibility` as long as `grid`.
    """
    cdef Py_ssize_t i, e, k, a, b, j, t, lo, hi, size, offset, moment
    cdef Py_ssize_t n_cov = projections.shape[1], p = residual.shape[0], n_values = values.shape[0]
    cdef Py_ssize_t n_mix = grid.shape[0], n_cov_matrices = first_value.shape[0] - 1
    cdef double d, last = -1.0, total, top, x, r, evidence = 0.0, delta
    cdef const double* w = &weights[0] if weights.shape[0] else NULL
    cdef double* z = &work[0, 0]
    cdef double* zz = &work[1, 0]
    cdef double* h = &work[2, 0]
    cdef double* c
    with nogil:
        for e in range(order.shape[0]):
            i = order[e]
            d = gram[i]
            c = &cross[i, 0]
            for j in range(p):
                total = column_dot(&columns.view, i, &residual[j, 0])
                for a in range(n_cov):
                    total += projections[i, a] * carried[j, a]
                c[j] = scale[i] * total + d * coef[i, j]

            if d != last:
                last = d
                for k in range(n_cov_matrices):
                    lo = first_value[k]
                    size = first_value[k + 1] - lo
                    for t in range(first_component[k], first_component[k + 1]):
                        total = 0.0
                        offset = first_shrink[t]
                        for a in range(size):
                            x = grid[t] * values[lo + a]
                            shrink[offset + a] = x / (1.0 + d * x)
                            total += log(1.0 + d * x)
                        logdet[t] = 0.5 * total

            # log Bayes factors of all components
            for a in range(n_values):
                z[a] = 0.0
            for j in range(p):
                x = c[j]
                for a in range(n_values):
                    z[a] += x * vectors[j, a]
            for a in range(n_values):
                zz[a] = 0.5 * z[a] * z[a]
            top = -1e300
            for k in range(n_cov_matrices):
                lo = first_value[k]
                size = first_value[k + 1] - lo
                for t in range(first_component[k], first_component[k + 1]):
                    offset = first_shrink[t]
                    total = log_weights[t] - logdet[t]
                    for a in range(size):
                        total += zz[lo + a] * shrink[offset + a]
                    responsibility[t] = total
                    if total > top:
                        top = total
            total = 0.0
            for t in range(n_mix):
                x = responsibility[t] - top
                x = exp(x) if x > -NEGLIGIBLE else 0.0
                responsibility[t] = x
                total += x
            evidence += top + log(total)

            # posterior mean, and second moments in the coordinates of each covariance
            for a in range(n_values):
                h[a] = 0.0
            for k in range(n_cov_matrices):
                lo = first_value[k]
                size = first_value[k + 1] - lo
                moment = first_moment[k]
                for t in range(first_component[k], first_component[k + 1]):
                    r = responsibility[t] / total
                    if r == 0.0:
                        continue
                    weight_sum[t] += r
                    offset = first_shrink[t]
                    for a in range(size):
                        x = r * shrink[offset + a]
                        h[lo + a] += x * z[lo + a]
                        moments[moment + a * size + a] += d * x
                        x = d * x * z[lo + a]
                        for b in range(a + 1):
                            moments[moment + a * size + b] += x * (shrink[offset + b] * z[lo + b])
            for j in range(p):
                z[n_values + j] = 0.0
            for a in range(n_values):
                if h[a] != 0.0:
                    x = h[a]
                    for j in range(p):
                        z[n_values + j] += x * vectors_t[a, j]

            for j in range(p):
                r = z[n_values + j]
                delta = scale[i] * (r - coef[i, j])
                coef[i, j] = r
                evidence += r * (0.5 * d * r - c[j])
                if delta != 0.0:
                    column_axpy(&columns.view, i, -delta, w, &residual[j, 0])
                    for a in range(n_cov):
                        carried[j, a] += delta * projections[i, a]
    return evidence
