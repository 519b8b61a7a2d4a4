# cython: language_level=3
"""Traced calls, for the hooks that record what a rewritten function does."""
from microgpt.core.recorder cimport Recorder
from microgpt.core.symbols cimport SymFloat, SymInt


cdef class Trace(Recorder):
    pass


cdef object look_up(object items, SymInt index)
cdef SymFloat data_of_value(object value)
cdef list linear_rows(object x, object w)
