# cython: language_level=3
"""The layers of the model as nodes on the tape. All functions need the lock; they run without the GIL, also dry."""
from libc.stdint cimport uint32_t

from microgpt.core.builder cimport Builder, Vector
from microgpt.core.tape cimport DotRows


cdef void dot_rows(const double *a, size_t stride, const double *x, double *out, size_t rows, size_t n) noexcept nogil
cdef double sum_of(const double *x, size_t n) noexcept nogil
cdef DotRows *add_dots(Builder *b, uint32_t first, uint32_t rows, uint32_t n, const double *sums, Vector *a,
                       Vector *v) noexcept nogil
cdef void linear_layer(Builder *b, Vector *w, Vector *x, uint32_t nout, uint32_t nin, uint32_t first,
                       double *out) noexcept nogil
cdef Vector add_layer(Builder *b, Vector *x, Vector *y, uint32_t n) noexcept nogil
cdef Vector rmsnorm_layer(Builder *b, Vector *x, uint32_t n) noexcept nogil
cdef Vector relu_layer(Builder *b, Vector *x, uint32_t n) noexcept nogil
cdef uint32_t exps_layer(Builder *b, Vector *x, uint32_t n, Vector *exps) noexcept nogil
cdef Vector softmax_layer(Builder *b, Vector *x, uint32_t n) noexcept nogil
