cimport cython
from libc.stdint cimport int32_t, int64_t


@cython.final
cdef class Encoded:
    cdef int32_t *tokens
    cdef int64_t *starts    # of count + 1 documents: starts[count] is where the next one begins
    cdef Py_ssize_t count
    cdef Py_ssize_t tokens_capacity, starts_capacity
    cdef Py_ssize_t vocab_size, block_size
    cdef dict ids           # the token ids of characters: a copy of what the last use_characters was given
    cdef list entries       # the same, character and token id in turn; None while the table is not filled
    cdef int32_t char_table[256] # the same for the first 256 characters; -1: none

    cdef int reserve(self, Py_ssize_t count) except -1
    cdef int reserve_starts(self, Py_ssize_t count) except -1
    cdef Py_ssize_t put(self, tokens, Py_ssize_t n, Py_ssize_t at) except -1
    cdef Py_ssize_t put_prompt(self, prompt, Py_ssize_t at) except -1
    cdef Py_ssize_t put_text(self, document, Py_ssize_t at) except -1
    cdef bint knows(self, dict ids) noexcept
    cdef int use_characters(self, dict ids) except -1
    cdef void clear(self) noexcept
    cdef Py_ssize_t add(self, document, dict ids) except -1
