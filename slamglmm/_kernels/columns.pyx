"""Markers as columns: dot products and updates of float64 vectors, whatever the columns are stored as.

`Columns` is the one class among the kernels: a column may be int8, two bits a sample, float32, float64 or sparse, and
the sweeps must not know which. The arithmetic is C with intrinsics (columns_simd.h).
"""

from libc.stdint cimport int32_t, int64_t, uint8_t
from libc.string cimport memset


cdef extern from "columns_simd.h":
    enum: COLUMNS_INT8, COLUMNS_BED, COLUMNS_FLOAT32, COLUMNS_FLOAT64, COLUMNS_CSC
    int columns_simd
    int columns_best_simd() nogil
    double columns_dot(const columns_t* x, Py_ssize_t k, const double* r) noexcept nogil
    void columns_axpy(const columns_t* x, Py_ssize_t k, double c, const double* w, double* r) noexcept nogil


KINDS = {
    "int8": COLUMNS_INT8,
    "bed": COLUMNS_BED,
    "float32": COLUMNS_FLOAT32,
    "float64": COLUMNS_FLOAT64,
    "csc": COLUMNS_CSC,
}
SIMD = ("generic", "avx2", "avx512")


cdef class Columns:
    """A read-only view of m columns of n values; it keeps the buffers alive.

    Parameters
    ----------
    kind : {"int8", "bed", "float32", "float64", "csc"}
    n, m : int
    data : buffer of bytes
        Columns one after the other, `stride` bytes apart; for csc the values (float64).
    stride : int
    table : float64, length 4 m
        bed: the value of each two-bit code.
    starts : int64, length m + 1
        csc: start of each column; int8: start of the missing rows of each column.
    rows : int32
        csc: row of each value; int8: the missing rows.
    shift : float64, length m
        int8: the imputed mean minus the code for missing.
    """

    def __init__(
        self,
        str kind,
        Py_ssize_t n,
        Py_ssize_t m,
        const uint8_t[::1] data,
        Py_ssize_t stride,
        const double[::1] table,
        const int64_t[::1] starts,
        const int32_t[::1] rows,
        const double[::1] shift,
    ):
        self.owners = (data, table, starts, rows, shift)
        self.view.kind = KINDS[kind]
        self.view.n, self.view.m, self.view.stride = n, m, stride
        self.view.data = <const char*>&data[0] if data.shape[0] else NULL
        self.view.table = &table[0] if table.shape[0] else NULL
        self.view.starts = &starts[0] if starts.shape[0] else NULL
        self.view.rows = &rows[0] if rows.shape[0] else NULL
        self.view.shift = &shift[0] if shift.shape[0] else NULL

    @property
    def shape(self):
        """(n, m)."""
        return self.view.n, self.view.m

    @staticmethod
    def simd(str level=None):
        """Instruction set in use; with `level` ("generic", "avx2", "avx512") change it, for tests and benchmarks."""
        global columns_simd
        if level is not None:
            if SIMD.index(level) > columns_best_simd():
                raise ValueError(f"this processor has {SIMD[columns_best_simd()]}, not {level}")
            columns_simd = SIMD.index(level)
        return SIMD[columns_simd]


columns_simd = columns_best_simd()


cdef double column_dot(const columns_t* x, Py_ssize_t k, const double* r) noexcept nogil:
    return columns_dot(x, k, r)


cdef void column_axpy(const columns_t* x, Py_ssize_t k, double c, const double* w, double* r) noexcept nogil:
    columns_axpy(x, k, c, w, r)


def column_products(Columns columns, const double[:, ::1] r, Py_ssize_t start, Py_ssize_t stop, double[:, ::1] out):
    """``out[k - start, t] = g_k' r_t`` for the columns from `start` to `stop`."""
    cdef Py_ssize_t k, t
    with nogil:
        for k in range(start, stop):
            for t in range(r.shape[0]):
                out[k - start, t] = columns_dot(&columns.view, k, &r[t, 0])


def column_squares(
    Columns columns,
    const double[::1] weights,
    Py_ssize_t start,
    Py_ssize_t stop,
    double[::1] work,
    double[::1] out,
):
    """``out[k - start] = sum_i w_i g_ik^2``; `work` has n elements."""
    cdef Py_ssize_t k, n = columns.view.n
    with nogil:
        for k in range(start, stop):
            memset(&work[0], 0, n * sizeof(double))
            columns_axpy(&columns.view, k, 1.0, &weights[0], &work[0])
            out[k - start] = columns_dot(&columns.view, k, &work[0])


def add_columns(
    Columns columns, const double[:, ::1] coef, const double[::1] weights, double[:, ::1] r
):
    """``r_t += w * sum_k coef[t, k] g_k``; an empty `weights` stands for ones."""
    cdef Py_ssize_t k, t
    cdef const double* w = &weights[0] if weights.shape[0] else NULL
    with nogil:
        for k in range(coef.shape[1]):
            for t in range(coef.shape[0]):
                if coef[t, k] != 0.0:
                    columns_axpy(&columns.view, k, coef[t, k], w, &r[t, 0])


def add_squares(Columns columns, const double[::1] coef, double[::1] work, double[::1] out):
    """``out_i += sum_k coef_k g_ik^2``; `work` has n elements."""
    cdef Py_ssize_t k, n = columns.view.n
    with nogil:
        for k in range(coef.shape[0]):
            if coef[k] != 0.0:
                memset(&work[0], 0, n * sizeof(double))
                columns_axpy(&columns.view, k, 1.0, NULL, &work[0])
                columns_axpy(&columns.view, k, coef[k], &work[0], &out[0])
