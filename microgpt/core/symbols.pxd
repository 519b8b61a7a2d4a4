# cython: language_level=3
"""Numbers that a trace does not know, for the modules that record with them."""
from libc.stdint cimport int32_t

from microgpt.core.recorder cimport Recorder, Symbol, current


cdef class SymFloat(Symbol):
    cdef int32_t node


cdef class SymInt(Symbol):
    cdef int32_t index


cdef int32_t add_int_input(Recorder recorder, object name) except -1
cdef int32_t number_node(object x) except -1
cdef SymFloat call_number(int function, object x)
cdef SymFloat extreme_of(bint largest, list items)
cdef SymFloat data_of(int32_t i)


cdef inline bint is_symbolic(object x):
    return type(x) is SymFloat or type(x) is SymInt


cdef inline SymFloat new_float(int32_t i):
    cdef SymFloat value = SymFloat.__new__(SymFloat)
    value.node, value.serial = i, current().serial
    return value


cdef inline SymInt new_int(int32_t index):
    cdef SymInt value = SymInt.__new__(SymInt)
    value.index, value.serial = index, current().serial
    return value
