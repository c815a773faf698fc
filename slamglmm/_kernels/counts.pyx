"""Latent traits of counts: exact draws from log-concave densities, and the likelihood of the dispersion."""

from libc.math cimport exp, fabs, fmin, log, log1p, sqrt

# The part of minus the log likelihood that is not linear in t, with its first two derivatives.
ctypedef double (*Cumulant)(double t, double size, double *slope, double *curvature) noexcept nogil
# Where the whole density is highest.
ctypedef double (*Mode)(double y, double size, double mean, double prec) noexcept nogil

cdef double SQRT2 = 1.4142135623730951
cdef double TOLERANCE = 1e-9


cdef double poisson_cumulant(double t, double size, double *slope, double *curvature) noexcept nogil:
    slope[0] = curvature[0] = exp(t)
    return slope[0]


cdef double poisson_mode(double y, double size, double mean, double prec) noexcept nogil:
    """``t = log prec + v`` with ``e^v + v = mean + y / prec - log prec``: Newton from the right of a convex function."""
    cdef double log_prec = log(prec), x = mean + y / prec - log_prec
    cdef double v = log(x) if x > 1.0 else x, power, step
    cdef int i
    for i in range(50):
        power = exp(v)
        step = (power + v - x) / (power + 1.0)
        v -= step
        if fabs(step) < TOLERANCE:
            break
    return log_prec + v


cdef double binomial_cumulant(double t, double size, double *slope, double *curvature) noexcept nogil:
    cdef double small = exp(-fabs(t)), share = 1.0 / (1.0 + small)
    curvature[0] = size * small * share * share
    if t < 0.0:
        slope[0] = size * small * share
        return size * log1p(small)
    slope[0] = size * share
    return size * (t + log1p(small))


cdef double binomial_mode(double y, double size, double mean, double prec) noexcept nogil:
    """Newton, halving the bracket where it would leave it."""
    cdef double low = mean + (y - size) / prec, high = mean + y / prec
    cdef double info = (y + 0.5) * (size - y + 0.5) / (size + 1.0)
    cdef double t = (info * log((y + 0.5) / (size - y + 0.5)) + prec * mean) / (info + prec)
    cdef double share, score, step
    cdef int i
    for i in range(100):
        if not low <= t <= high:
            t = 0.5 * (low + high)
        share = 1.0 / (1.0 + exp(-t))
        score = y - size * share - prec * (t - mean)
        if score > 0.0:
            low = t
        else:
            high = t
        step = score / (size * share * (1.0 - share) + prec)
        t += step
        if fabs(step) < TOLERANCE:
            break
    return t


cdef double tangent_point(
    Cumulant cumulant, double size, double t, double base, double linear, double prec, double start, double side,
    double *drop, double *slope,
) noexcept nogil:
    """Distance from t at which the log density has dropped by about one; any distance makes a valid envelope."""
    cdef double distance = start, there, curvature
    cdef int i
    for i in range(4):
        there = cumulant(t + side * distance, size, slope, &curvature)
        drop[0] = 0.5 * prec * distance * distance + side * linear * distance + there - base
        slope[0] = prec * distance + linear * side + side * slope[0]
        if 0.6 < drop[0] < 1.7:
            break
        if i < 3:
            distance += (1.0 - drop[0]) / slope[0]
    return distance


cdef Py_ssize_t draw_log_concave(
    Cumulant cumulant, Mode mode, const double[:, ::1] y, const double[:, :] size, const double[:, :] offset,
    const double[:, ::1] mean, const double[::1] prec, Py_ssize_t[::1] pending, const double[::1] u,
    const double[::1] e, double[:, ::1] eta,
) noexcept nogil:
    """One round of rejection under a plateau and two exponential tails (Devroye 1986, VII.2.6); eq. LINK-5."""
    cdef Py_ssize_t i, j, s, n = y.shape[1], left = 0
    cdef double omega, t, linear, h, base, slope, start, top, delta, place, bound, curvature
    cdef double far_left, far_right, drop_left, drop_right, slope_left, slope_right, flat_left, flat_right
    cdef double tail_left, tail_right
    for s in range(pending.shape[0]):
        j = pending[s] // n
        i = pending[s] % n
        omega = prec[j]
        h = size[j, i]
        t = mode(y[j, i], h, mean[j, i] + offset[j, i], omega)
        base = cumulant(t, h, &slope, &curvature)
        linear = omega * (t - mean[j, i] - offset[j, i]) - y[j, i]
        # t is the mode up to rounding; the density exceeds its value there by no more than this.
        top = 0.5 * (linear + slope) * (linear + slope) / omega
        start = SQRT2 / sqrt(omega + curvature)
        far_left = tangent_point(cumulant, h, t, base, linear, omega, start, -1.0, &drop_left, &slope_left)
        if start > 2.0:
            # An exponential grows by one long before that.
            start = fmin(start, log1p(1.0 / slope) + 1.0)
        far_right = tangent_point(cumulant, h, t, base, linear, omega, start, 1.0, &drop_right, &slope_right)
        # Where the tangents meet the plateau, and the mass beyond.
        flat_left = far_left - (drop_left + top) / slope_left
        flat_right = far_right - (drop_right + top) / slope_right
        tail_left = 1.0 / slope_left
        tail_right = 1.0 / slope_right
        place = u[s] * (flat_left + flat_right + tail_left + tail_right)
        bound = top
        if place < tail_left:
            bound += log(place * slope_left)
            delta = -flat_left + (bound - top) * tail_left
        elif place < tail_left + flat_left + flat_right:
            delta = place - tail_left - flat_left
        else:
            bound += log((place - tail_left - flat_left - flat_right) * slope_right)
            delta = flat_right - (bound - top) * tail_right
        if base - cumulant(t + delta, h, &slope, &curvature) - delta * (linear + 0.5 * omega * delta) >= bound - e[s]:
            eta[j, i] = t + delta - offset[j, i]
        else:
            pending[left] = pending[s]
            left += 1
    return left


def draw_poisson_eta(
    const double[:, ::1] y,
    const double[:, :] offset,
    const double[:, ::1] mean,
    const double[::1] prec,
    Py_ssize_t[::1] pending,
    const double[::1] u,
    const double[::1] e,
    double[:, ::1] eta,
):
    """Try to draw the cells in ``pending``: density ``exp(y t - e^t - prec (t - mean - offset)^2 / 2)`` of
    ``t = eta + offset``; eq. LINK-3.

    ``pending`` holds flat positions in ``y``; those that were rejected come to its front, and their number is returned.
    ``u`` are uniforms, ``e`` standard exponentials, one for each cell in ``pending``.
    """
    cdef Py_ssize_t left
    with nogil:
        # The Poisson functions do not look at sizes.
        left = draw_log_concave(poisson_cumulant, poisson_mode, y, y, offset, mean, prec, pending, u, e, eta)
    return left


def draw_binomial_eta(
    const double[:, ::1] y,
    const double[:, :] size,
    const double[:, :] offset,
    const double[:, ::1] mean,
    const double[::1] prec,
    Py_ssize_t[::1] pending,
    const double[::1] u,
    const double[::1] e,
    double[:, ::1] eta,
):
    """The same for ``exp(y t - size log(1 + e^t) - prec (t - mean - offset)^2 / 2)``; eq. LINK-4."""
    cdef Py_ssize_t left
    with nogil:
        left = draw_log_concave(binomial_cumulant, binomial_mode, y, size, offset, mean, prec, pending, u, e, eta)
    return left


cdef inline double log_gamma(double x) noexcept nogil:
    """Stirling's series, shifted beyond 16 (absolute error below 1e-12)."""
    cdef double shift = 1.0, inverse
    while x < 16.0:
        shift *= x
        x += 1.0
    inverse = 1.0 / x
    return (
        (x - 0.5) * log(x) - x + 0.9189385332046727 - log(shift)
        + inverse * (1.0 / 12 - inverse * inverse * (1.0 / 360 - inverse * inverse * (1.0 / 1260)))
    )


cdef inline double log_rising(double r, double log_gamma_r, double y) noexcept nogil:
    """``log Gamma(r + y) - log Gamma(r)`` for an integer y."""
    cdef double product = 1.0
    cdef int k
    if y >= 16.0:
        return log_gamma(r + y) - log_gamma_r
    for k in range(<int> y):
        product *= r + k
    return log(product)


def sum_negative_binomial(
    const double[:, ::1] y, const double[:, ::1] log_mean, const double[:, ::1] shape, double[:, ::1] out
):
    """``out[j, c] = sum_i log NB(y_ji; mean, shape[j, c])`` up to what has no shape in it, over cells that are not NaN.

    The variance is ``mean + mean^2 / shape``; eq. LINK-7.
    """
    cdef Py_ssize_t i, j, c, n = y.shape[1]
    cdef double mean, r, total, log_gamma_r
    with nogil:
        for j in range(y.shape[0]):
            for c in range(shape.shape[1]):
                out[j, c] = 0.0
            total = 0.0
            for i in range(n):
                if y[j, i] != y[j, i]:
                    continue
                total += y[j, i]
                mean = exp(log_mean[j, i])
                for c in range(shape.shape[1]):
                    r = shape[j, c]
                    out[j, c] -= (y[j, i] + r) * log(1.0 + mean / r)
            for c in range(shape.shape[1]):
                r = shape[j, c]
                out[j, c] -= total * log(r)
                log_gamma_r = log_gamma(r)
                for i in range(n):
                    if y[j, i] == y[j, i]:
                        out[j, c] += log_rising(r, log_gamma_r, y[j, i])
