# cython: language_level=3
"""What functions that take lists of Values share. Nothing here that is noexcept runs Python code."""
from libc.stdint cimport uint32_t

from microgpt.core.builder cimport Builder


cdef object sequence(object items)
cdef bint are_values(object items) noexcept
cdef int collect(uint32_t owner, object items, Py_ssize_t n, uint32_t *slots, double *data) noexcept
cdef list handles(uint32_t first, Py_ssize_t n)
cdef int check(int code) except -1
cdef list results(Builder *b, int code, uint32_t first, Py_ssize_t n)

cdef enum:
    MG_NOT_VALUES = 1001  # what a layer is given is not all Values, or not as many as it needs
