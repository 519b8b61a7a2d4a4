from microgpt._csrc cimport mg_stream


cdef class Stream:
    cdef mg_stream state

    cdef mg_stream *ready(self) except NULL
    cdef void fill_gauss(self, double *out, Py_ssize_t n, double mu, double sigma) noexcept nogil
