# cython: language_level=3
cdef bint is_heap_type(object kind)
