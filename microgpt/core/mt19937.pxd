from libc.stdint cimport int64_t

from microgpt.core._csrc cimport mg_mt19937


cdef class MT19937:
    cdef mg_mt19937 state

    cdef mg_mt19937 *ready(self) except NULL
    cdef void fill_gauss(self, double *out, Py_ssize_t n, double mu, double sigma) noexcept nogil


cdef int raise_choice(int64_t status) except -1
