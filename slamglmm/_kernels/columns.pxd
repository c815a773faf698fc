# Column arithmetic for the kernels that sweep over markers.
from libc.stdint cimport int32_t, int64_t


cdef extern from "columns.h":
    ctypedef struct columns_t:
        int kind
        Py_ssize_t n
        Py_ssize_t m
        Py_ssize_t stride
        const char* data
        const double* table
        const int64_t* starts
        const int32_t* rows
        const double* shift


cdef class Columns:
    cdef columns_t view
    cdef object owners


cdef double column_dot(const columns_t* x, Py_ssize_t k, const double* r) noexcept nogil
cdef void column_axpy(const columns_t* x, Py_ssize_t k, double c, const double* w, double* r) noexcept nogil
