# cython: language_level=3
"""A second __init__ of a Value."""
from libc.stdint cimport uint32_t

from microgpt.core.tape cimport Nary


cdef int rewire(uint32_t slot, double data, Nary *nary) except -1
