# cython: language_level=3
"""The class Value, for modules that read or make them."""
from libc.stdint cimport uint32_t


cdef class Value:
    cdef uint32_t slot


cdef Value handle(uint32_t slot)
