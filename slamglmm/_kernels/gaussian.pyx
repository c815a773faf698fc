"""Gaussian draws from canonical form, many small systems at a time.

Each system is ``C x = r`` with C symmetric positive definite. With ``C = L L'`` a draw from
``N(C^-1 r, C^-1 / tau)`` is ``L'^-1 (L^-1 r + z / sqrt(tau))`` for standard normal ``z``.
Systems go through the factorisation side by side, one in each SIMD lane (lanes.h); without GCC's vectors one after the
other through LAPACK. Symmetric matrices are read as stored, so C and Fortran order agree.
"""

from libc.math cimport sqrt
from libc.string cimport memcpy

from slamglmm._kernels._blas cimport dpotrf, dtrsv


cdef extern from "lanes.h" nogil:
    enum: LANES_LAPACK, MOST_LANES
    int lanes_in_use
    int lanes_best()
    Py_ssize_t regressions(
        const double* grams, const Py_ssize_t* which, const Py_ssize_t* order, const double* prior_prec, const double* rhs,
        const double* yy, const double* z, const double* gamma, double rate, double* work, double* coef, double* tau,
        Py_ssize_t n, Py_ssize_t m)
    Py_ssize_t rows(
        const double* packed, const double* diagonal, const double* rhs, const double* z, double* work, double* out,
        Py_ssize_t n, Py_ssize_t k)


SIMD = ("lapack", "generic", "avx2", "avx512")


def simd(str level=None):
    """Instruction set in use by `draw_regressions` and `draw_rows`; with an argument, choose a lower one.

    "avx512" takes eight systems at a time, "avx2" and "generic" four, "lapack" one. For tests and benches.
    """
    global lanes_in_use
    if level is not None:
        if level not in SIMD or SIMD.index(level) > lanes_best():
            raise ValueError(f"this processor has {', '.join(SIMD[:lanes_best() + 1])}, not {level!r}.")
        lanes_in_use = SIMD.index(level)
    return SIMD[lanes_in_use]


simd(SIMD[lanes_best()])


cdef int factor(double* c, int m) noexcept nogil:
    """Cholesky factor in place; not zero where the matrix is not positive definite or holds NaN."""
    cdef int info = 0, a
    dpotrf("L", &m, c, &m, &info)
    # Some builds of LAPACK go on from a pivot that is NaN.
    for a in range(m):
        if not c[a * m + a] > 0.0:
            return a + 1
    return info


cdef void solve_lower(double* c, double* x, int m) noexcept nogil:
    cdef int one = 1
    dtrsv("L", "N", "N", &m, c, &m, x, &one)


cdef void solve_lower_transposed(double* c, double* x, int m) noexcept nogil:
    cdef int one = 1
    dtrsv("L", "T", "N", &m, c, &m, x, &one)


def work_size(Py_ssize_t m):
    """Number of doubles of scratch that systems of size m need: the lanes of the widest, and room to align them."""
    return MOST_LANES * ((m + 1) * m + m) + MOST_LANES


def draw_regressions(
    const double[:, :, ::1] grams,
    const Py_ssize_t[::1] which,
    const double[:, ::1] prior_prec,
    const double[:, ::1] rhs,
    const double[::1] yy,
    const double[:, ::1] z,
    const double[::1] gamma,
    double rate,
    const Py_ssize_t[::1] order,
    double[::1] work,
    double[:, ::1] coef,
    double[::1] tau,
):
    """Draw (tau, coef) of many weighted regressions that share Gram matrices; eq. SLAM-7.

    System j has ``C = grams[which[j]] + diag(prior_prec[j])`` and weighted sum of squares ``yy[j]``:
    ``tau ~ gamma[j] / (rate + (yy - r' C^-1 r)/2)``, then ``coef ~ N(C^-1 r, C^-1 / tau)``.
    ``order`` is a permutation of the systems that makes equal ``which`` neighbours; it changes the speed only.
    Returns -1, or the first system in ``order`` that is not positive definite.
    """
    cdef Py_ssize_t i, j, a, n_systems = rhs.shape[0]
    cdef int m = <int>rhs.shape[1]
    cdef double explained, rest, sd
    cdef double* c
    cdef double* x
    if n_systems == 0:
        return -1
    if m > 0 and lanes_in_use != LANES_LAPACK:
        with nogil:
            j = regressions(
                &grams[0, 0, 0], &which[0], &order[0], &prior_prec[0, 0], &rhs[0, 0],
                &yy[0], &z[0, 0], &gamma[0], rate, &work[0], &coef[0, 0], &tau[0], n_systems, m)
        return j
    c = &work[0]
    with nogil:
        for i in range(n_systems):
            j = order[i]
            explained = 0.0
            if m > 0:
                memcpy(c, &grams[which[j], 0, 0], <size_t>m * m * sizeof(double))
                for a in range(m):
                    c[a * m + a] += prior_prec[j, a]
                if factor(c, m) != 0:
                    with gil:
                        return j
                x = &coef[j, 0]
                memcpy(x, &rhs[j, 0], m * sizeof(double))
                solve_lower(c, x, m)
                for a in range(m):
                    explained += x[a] * x[a]
            # The difference cancels for an over-fitted trait: never below zero.
            rest = yy[j] - explained
            tau[j] = gamma[j] / (rate + 0.5 * (rest if rest > 0.0 else 0.0))
            if m > 0:
                sd = 1.0 / sqrt(tau[j])
                for a in range(m):
                    x[a] += sd * z[j, a]
                solve_lower_transposed(c, x, m)
    return -1


def draw_rows(
    const double[:, ::1] packed,
    const double[:, ::1] diagonal,
    const double[:, ::1] rhs,
    const double[:, ::1] z,
    double[::1] work,
    double[:, ::1] out,
):
    """Draw ``out[:, i] ~ N(P_i^-1 rhs[:, i], P_i^-1)``, a precision for each column; eq. SLAM-12.

    ``packed[:, i]`` is the lower triangle of ``P_i - diag(diagonal[:, i])``, row after row. Returns -1, or the first
    column whose precision is not positive definite.
    """
    cdef Py_ssize_t i, a, b, entry, n_rows = rhs.shape[1]
    cdef int k = <int>rhs.shape[0]
    cdef double* c
    cdef double* x
    if k == 0 or n_rows == 0:
        return -1
    if lanes_in_use != LANES_LAPACK:
        with nogil:
            i = rows(&packed[0, 0], &diagonal[0, 0], &rhs[0, 0], &z[0, 0], &work[0], &out[0, 0], n_rows, k)
        return i
    c = &work[0]
    x = c + k * k
    with nogil:
        for i in range(n_rows):
            entry = 0
            for a in range(k):
                for b in range(a + 1):
                    c[b * k + a] = packed[entry, i]
                    entry += 1
                c[a * k + a] += diagonal[a, i]
                x[a] = rhs[a, i]
            if factor(c, k) != 0:
                with gil:
                    return i
            solve_lower(c, x, k)
            for a in range(k):
                x[a] += z[a, i]
            solve_lower_transposed(c, x, k)
            for a in range(k):
                out[a, i] = x[a]
    return -1


def draw_gaussians(
    const double[:, :, ::1] precisions,
    const Py_ssize_t[::1] which,
    const double[:, ::1] rhs,
    const double[:, ::1] z,
    double[::1] work,
    double[:, ::1] out,
):
    """Draw ``out[i] ~ N(P^-1 rhs[i], P^-1)`` with ``P = precisions[which[i]]``; eq. SLAM-13.

    A run of equal ``which`` is factored once. Returns -1, or the first row whose precision is not positive definite.
    """
    cdef Py_ssize_t i, a, last = -1, n_rows = rhs.shape[0]
    cdef int k = <int>rhs.shape[1]
    cdef double* c
    cdef double* x
    if k == 0:
        return -1
    c = &work[0]
    with nogil:
        for i in range(n_rows):
            if which[i] != last:
                last = which[i]
                memcpy(c, &precisions[last, 0, 0], <size_t>k * k * sizeof(double))
                if factor(c, k) != 0:
                    with gil:
                        return i
            x = &out[i, 0]
            memcpy(x, &rhs[i, 0], k * sizeof(double))
            solve_lower(c, x, k)
            for a in range(k):
                x[a] += z[i, a]
            solve_lower_transposed(c, x, k)
    return -1
