from libc.stdint cimport int32_t


cdef struct Line:
    int32_t start, length


cdef class TextLines:
    cdef readonly str text
    cdef Line *lines
    cdef Py_ssize_t count

    cdef int split(self, str text) except -1
    cdef int grow(self, Py_ssize_t room) except -1
    cdef int ready(self) except -1


cdef str exact_str(object text)
