"""Moves of whole factors when the random effects are part of the chain."""

from libc.math cimport exp, sqrt, INFINITY


def move_shares(
    const double[:, :, ::1] precisions,
    const Py_ssize_t[::1] which,
    const double[:, ::1] linear,
    const double[::1] totals,
    const Py_ssize_t[::1] ray,
    const double[::1] log_prior,
    const double[::1] uniforms,
    double[::1] slope,
    double[::1] mass,
    double[:, ::1] random,
    double[:, ::1] factors,
    Py_ssize_t[::1] points,
):
    """Move each factor along its ray with its standardised parts held; eq. SLAM-23.

    Row i of the factors has log-likelihood ``linear[:, i]' f - f' precisions[which[i]] f / 2``. A factor at total
    share t > 0 is ``f = sqrt(t) a + sqrt(1 - t) e`` with ``sqrt(t) a = random``; t is drawn anew from the points of
    the same ray (t > 0) given a and e, by inverse cdf with one uniform each. ``random``, ``factors`` and ``points`` are
    updated in place; ``slope`` (n,) and ``mass`` (n_points,) are scratch.
    """
    cdef Py_ssize_t l, m, i, g, chosen, k = factors.shape[0], n = factors.shape[1], n_points = totals.shape[0]
    cdef double t, a, e, d, aa, ae, ee, ba, be, c1, c2, value, largest, total, target, old_a, old_e
    with nogil:
        for l in range(k):
            t = totals[points[l]]
            if t == 0.0:
                continue
            old_a, old_e = 1.0 / sqrt(t), 1.0 / sqrt(1.0 - t)
            for i in range(n):
                slope[i] = linear[l, i]
            for m in range(k):
                if m != l:
                    for i in range(n):
                        slope[i] -= precisions[which[i], l, m] * factors[m, i]
            aa = ae = ee = ba = be = 0.0
            for i in range(n):
                a = random[l, i] * old_a
                e = (factors[l, i] - random[l, i]) * old_e
                d = precisions[which[i], l, l]
                aa += d * a * a
                ae += d * a * e
                ee += d * e * e
                ba += slope[i] * a
                be += slope[i] * e
            largest = -INFINITY
            for g in range(n_points):
                mass[g] = -INFINITY
                if ray[g] == ray[points[l]] and totals[g] > 0.0:
                    c1, c2 = sqrt(totals[g]), sqrt(1.0 - totals[g])
                    value = log_prior[g] - 0.5 * (c1 * c1 * aa + 2.0 * c1 * c2 * ae + c2 * c2 * ee) + c1 * ba + c2 * be
                    mass[g] = value
                    if value > largest:
                        largest = value
            total = 0.0
            for g in range(n_points):
                mass[g] = exp(mass[g] - largest)
                total += mass[g]
            # 1 - u lies in (0, 1]: a point without mass is never drawn.
            target = (1.0 - uniforms[l]) * total
            chosen, value = points[l], 0.0
            for g in range(n_points):
                value += mass[g]
                if mass[g] > 0.0 and value >= target:
                    chosen = g
                    break
            if chosen != points[l]:
                c1, c2 = sqrt(totals[chosen]), sqrt(1.0 - totals[chosen])
                for i in range(n):
                    a = random[l, i] * old_a
                    e = (factors[l, i] - random[l, i]) * old_e
                    random[l, i] = c1 * a
                    factors[l, i] = c1 * a + c2 * e
                points[l] = chosen
