# cython: language_level=3
"""Values of a traced computation, for the modules that record with them."""
from libc.stdint cimport int32_t

from microgpt.core.recorder cimport Symbol, current


cdef class Traced(Symbol):
    cdef int32_t node


cdef int32_t node_of_value(object value) except -1
cdef object custom(object data, object children, object local_grads)
cdef int exchange_operators(object kind, bint on) except -1


cdef inline Traced new_traced(int32_t i):
    cdef Traced value = Traced.__new__(Traced)
    value.node, value.serial, value.is_value = i, current().serial, True
    return value
