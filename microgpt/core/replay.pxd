# cython: language_level=3
"""Compiled programs, for the dispatcher that calls them."""
from libc.stdint cimport int32_t

from microgpt.core.calls cimport Frame, Shape


cdef class Program:
    cdef Shape *shape
    cdef readonly bint with_grad
    cdef readonly list bounds, derived
    cdef readonly str dynamic  # why backward sorts in every call, or None

    cdef int hold_leaves(self) except -1
    cdef Frame *start(self, const int32_t *ints, const double *floats) except NULL
    cdef tuple run(self, const int32_t *ints, const double *floats, list leaves)
    cdef object result(self, unsigned int slot, int32_t k)
