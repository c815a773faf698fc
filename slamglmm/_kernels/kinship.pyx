"""One reading of a tile of a kinship: its products with a few columns, its squares, its transposed product.

Tiles stay in the precision they are stored in (kinships are kept as float32 files of many gigabytes, so these two are
the only kernels that take float32). Lanes are fixed at 16 numbers whatever the processor, every 512 columns are summed
into doubles, and multiplication and addition are never fused (``-ffp-contract=off``, set in _build.py): one answer on
every machine.
"""

cdef extern from *:
    """
    #include <stddef.h>
    #include <string.h>

    /* The loader picks a clone by an ifunc, which glibc has and musl has not. */
    #if defined(__GNUC__) && !defined(__clang__) && defined(__x86_64__) && defined(__linux__) && defined(__GLIBC__)
      #define SG_CLONES __attribute__((target_clones("avx512f", "avx2", "default")))
    #else
      #define SG_CLONES
    #endif
    #if defined(__GNUC__)
      #define SG_INLINE static inline __attribute__((always_inline))
    #else
      #define SG_INLINE static __inline
    #endif
    #define SG_LANES 16
    #define SG_CHUNK 512

    /* R rows at once: a column is loaded once for all of them. */
    #define SG_DEFINE(T, NAME)                                                                                     \\
    SG_INLINE void NAME##_dot(const T* const* k, const T* u, ptrdiff_t len, int R, double* sums)                   \\
    {                                                                                                              \\
        T acc[4][SG_LANES];                                                                                        \\
        ptrdiff_t j = 0; int r, l; double s;                                                                       \\
        for (r = 0; r < R; r++) for (l = 0; l < SG_LANES; l++) acc[r][l] = 0;                                      \\
        for (; j + SG_LANES <= len; j += SG_LANES)                                                                 \\
            for (r = 0; r < R; r++)                                                                                \\
                for (l = 0; l < SG_LANES; l++) acc[r][l] += k[r][j + l] * u[j + l];                                \\
        for (r = 0; r < R; r++) {                                                                                  \\
            s = 0;                                                                                                 \\
            for (l = 0; l < SG_LANES; l++) s += acc[r][l];                                                         \\
            sums[r] += s;                                                                                          \\
        }                                                                                                          \\
        for (; j < len; j++) for (r = 0; r < R; r++) sums[r] += (double) k[r][j] * u[j];                           \\
    }                                                                                                              \\
    SG_INLINE void NAME##_rows(const T* tile, ptrdiff_t n, const T* u, ptrdiff_t c, const T* z, int R,             \\
                               double* out, double* squares, double* back)                                         \\
    {                                                                                                              \\
        const T* k[4]; double sums[4]; ptrdiff_t start, len, a, j; int r;                                          \\
        for (start = 0; start < n; start += SG_CHUNK) {                                                            \\
            len = n - start < SG_CHUNK ? n - start : SG_CHUNK;                                                     \\
            for (r = 0; r < R; r++) k[r] = tile + r * n + start;                                                   \\
            for (a = 0; a < c; a++) {                                                                              \\
                for (r = 0; r < R; r++) sums[r] = 0;                                                               \\
                NAME##_dot(k, u + a * n + start, len, R, sums);                                                    \\
                for (r = 0; r < R; r++) out[r * c + a] += sums[r];                                                 \\
            }                                                                                                      \\
            for (r = 0; r < R; r++) NAME##_dot(k + r, k[r], len, 1, squares + r);                                  \\
            if (R == 4)                                                                                            \\
                for (j = 0; j < len; j++)                                                                          \\
                    back[start + j] += z[0] * k[0][j] + z[1] * k[1][j] + (z[2] * k[2][j] + z[3] * k[3][j]);        \\
            else                                                                                                   \\
                for (j = 0; j < len; j++) back[start + j] += z[0] * k[0][j];                                       \\
        }                                                                                                          \\
    }                                                                                                              \\
    SG_CLONES static void NAME##_multiply(const T* tile, ptrdiff_t rows, ptrdiff_t n, const T* u, ptrdiff_t c,     \\
                                          const T* z, double* out, double* squares, double* back)                  \\
    {                                                                                                              \\
        ptrdiff_t i = 0;                                                                                           \\
        for (; i + 4 <= rows; i += 4) NAME##_rows(tile + i * n, n, u, c, z + i, 4, out + i * c, squares + i, back); \\
        for (; i < rows; i++) NAME##_rows(tile + i * n, n, u, c, z + i, 1, out + i * c, squares + i, back);        \\
    }                                                                                                              \\
    SG_CLONES static double NAME##_inner(const T* a, const T* b, ptrdiff_t len)                                    \\
    {                                                                                                              \\
        double sum = 0; ptrdiff_t start; const T* k;                                                               \\
        for (start = 0; start < len; start += SG_CHUNK) {                                                          \\
            k = a + start;                                                                                         \\
            NAME##_dot(&k, b + start, len - start < SG_CHUNK ? len - start : SG_CHUNK, 1, &sum);                   \\
        }                                                                                                          \\
        return sum;                                                                                                \\
    }

    SG_DEFINE(float, sg_single)
    SG_DEFINE(double, sg_double)
    """
    void sg_single_multiply(const float*, Py_ssize_t, Py_ssize_t, const float*, Py_ssize_t, const float*, double*, double*, double*) noexcept nogil
    void sg_double_multiply(const double*, Py_ssize_t, Py_ssize_t, const double*, Py_ssize_t, const double*, double*, double*, double*) noexcept nogil
    double sg_single_inner(const float*, const float*, Py_ssize_t) noexcept nogil
    double sg_double_inner(const double*, const double*, Py_ssize_t) noexcept nogil


def multiply_tile_single(
    const float[:, ::1] tile,
    const float[:, ::1] columns,
    const float[::1] z,
    double[:, ::1] out,
    double[::1] squares,
    double[::1] back,
):
    """Add ``tile @ columns.T`` to ``out``, row sums of squares to ``squares``, ``tile.T @ z`` to ``back``; float32."""
    cdef Py_ssize_t rows = tile.shape[0], n = tile.shape[1], c = columns.shape[0]
    if rows == 0 or n == 0:
        return
    with nogil:
        sg_single_multiply(
            &tile[0, 0], rows, n, &columns[0, 0] if c > 0 else NULL, c, &z[0],
            &out[0, 0] if c > 0 else NULL, &squares[0], &back[0],
        )


def multiply_tile_double(
    const double[:, ::1] tile,
    const double[:, ::1] columns,
    const double[::1] z,
    double[:, ::1] out,
    double[::1] squares,
    double[::1] back,
):
    """Add ``tile @ columns.T`` to ``out``, row sums of squares to ``squares``, ``tile.T @ z`` to ``back``."""
    cdef Py_ssize_t rows = tile.shape[0], n = tile.shape[1], c = columns.shape[0]
    if rows == 0 or n == 0:
        return
    with nogil:
        sg_double_multiply(
            &tile[0, 0], rows, n, &columns[0, 0] if c > 0 else NULL, c, &z[0],
            &out[0, 0] if c > 0 else NULL, &squares[0], &back[0],
        )


def inner_product_single(const float[:, ::1] first, const float[:, ::1] second):
    """Sum of the products of the entries of two tiles of one shape; float32."""
    cdef double total = 0.0
    cdef Py_ssize_t size = first.shape[0] * first.shape[1]
    if size > 0:
        with nogil:
            total = sg_single_inner(&first[0, 0], &second[0, 0], size)
    return total


def inner_product_double(const double[:, ::1] first, const double[:, ::1] second):
    """Sum of the products of the entries of two tiles of one shape."""
    cdef double total = 0.0
    cdef Py_ssize_t size = first.shape[0] * first.shape[1]
    if size > 0:
        with nogil:
            total = sg_double_inner(&first[0, 0], &second[0, 0], size)
    return total
