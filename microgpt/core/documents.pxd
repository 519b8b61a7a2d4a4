cimport cython
from libc.stdint cimport int32_t, int64_t


cdef class TextLines:
    cdef object source  # a plain str or bytes; None before __init__ has run
    cdef const unsigned char *characters  # of source, and a 0
    cdef int32_t size
    cdef int32_t *starts  # [count]: where each line begins; it ends before a newline, or with the text
    cdef Py_ssize_t count
    cdef int32_t longest  # characters of a line
    cdef unsigned char occurs[128]  # which characters are in the lines

    cdef int split(self) except -1
    cdef int grow(self, Py_ssize_t room) except -1
    cdef int ready(self) except -1
    cdef int32_t length(self, int32_t start) noexcept


cdef str exact_str(object text)
