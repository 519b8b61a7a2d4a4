# cython: language_level=3
"""The class Value, for modules that read or make them."""
from libc.stdint cimport uint32_t

from microgpt.core.tape cimport tape


cdef class Value:
    cdef uint32_t slot  # 0: never initialised, or not settled (handles.pxd)


cdef inline uint32_t settled_slot(Value value) noexcept:
    """The slot of a Value, 0 if it was never initialised."""
    if value.slot == 0 and tape.settle != NULL:
        tape.settle()
    return value.slot


cdef int no_node() except -1
cdef object handle(uint32_t slot)
