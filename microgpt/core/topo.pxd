# cython: language_level=3
"""The order of the nodes for backward. Both functions need the lock."""
from libc.stdint cimport uint32_t


cdef int sort_once(uint32_t root) noexcept nogil
cdef void trim_stacks() noexcept nogil
