# cython: embedsignature=False
"""The tokens of documents, as the C library reads them."""
cimport cython
from cpython.dict cimport PyDict_Next
from cpython.mem cimport PyMem_Free, PyMem_Realloc
from cpython.object cimport PyObject
from libc.stdint cimport int32_t, int64_t

from microgpt.core.documents cimport exact_str


cdef extern from "Python.h":
    PyObject *PyList_GET_ITEM(list items, Py_ssize_t i)
    Py_ssize_t PyList_GET_SIZE(list items)


@cython.final
cdef class Encoded:
    # The first line is the signature, in the form in which Python reads it: inspect.signature(Encoded).
    """Encoded(vocab_size, block_size)\n--\n
Token ids of documents, one after the other, and where each begins. Its owner makes sure that one thread at a time uses it.
"""

    def __cinit__(self, int64_t vocab_size, int64_t block_size):
        self.vocab_size, self.block_size = vocab_size, block_size
        self.reserve_starts(64)
        self.starts[0] = 0

    def __dealloc__(self):
        PyMem_Free(self.tokens)
        PyMem_Free(self.starts)

    def __reduce_ex__(self, protocol):
        raise TypeError("an Encoded cannot be copied or pickled")

    cdef int reserve(self, Py_ssize_t count) except -1:
        """Reserve memory for count tokens."""
        if count > self.tokens_capacity:
            grown = PyMem_Realloc(self.tokens, 2 * count * sizeof(int32_t))
            if grown == NULL:
                raise MemoryError()
            self.tokens = <int32_t *>grown
            self.tokens_capacity = 2 * count
        return 0

    cdef int reserve_starts(self, Py_ssize_t count) except -1:
        """Reserve memory for the starts of count documents and the end of the last."""
        if count >= self.starts_capacity:
            grown = PyMem_Realloc(self.starts, (2 * count + 1) * sizeof(int64_t))
            if grown == NULL:
                raise MemoryError()
            self.starts = <int64_t *>grown
            self.starts_capacity = 2 * count + 1
        return 0

    cdef Py_ssize_t put(self, tokens, Py_ssize_t n, Py_ssize_t at) except -1:
        """Put n token ids at self.tokens[at:]; the index after them."""
        cdef Py_ssize_t i, token
        self.reserve(at + n)
        for i in range(n):
            token = tokens[i]
            if not 0 <= token < self.vocab_size:
                raise ValueError(f"token {token} is not in the vocabulary (0 to {self.vocab_size - 1})")
            self.tokens[at + i] = <int32_t>token
        return at + n

    cdef Py_ssize_t put_prompt(self, prompt, Py_ssize_t at) except -1:
        """Put a prompt at self.tokens[at:], of which the block must hold all; the index after it."""
        cdef Py_ssize_t n = len(prompt)
        if n > self.block_size - at:
            raise ValueError(f"{<object>at + n} tokens do not fit the block of {self.block_size}")
        return self.put(prompt, n, at)

    cdef Py_ssize_t put_text(self, document, Py_ssize_t at) except -1:
        """Put BOS, the characters of a str by self.ids, and BOS, as far as the block holds them; the index after them."""
        cdef str text = exact_str(document)
        cdef Py_ssize_t i = at, length = len(text), n = min(length, self.block_size), token
        cdef int32_t bos = <int32_t>(self.vocab_size - 1)
        cdef Py_UCS4 ch
        self.reserve(at + n + 2)
        self.tokens[at] = bos
        for ch in text:
            token = self.char_table[ch] if ch < 256 else self.ids.get(chr(ch), -1)
            if not 0 <= token < bos:
                raise ValueError(f"character {chr(ch)!r} (U+{<long>ch:04X}) at index {i - at} is not in the vocabulary")
            i += 1
            if i - at <= n:
                self.tokens[i] = <int32_t>token
        if n < self.block_size:
            n += 1
            self.tokens[at + n] = bos
        return at + n + 1

    cdef bint knows(self, dict ids) noexcept:
        """Whether the table was filled from exactly these characters and token ids."""
        cdef Py_ssize_t position = 0, i = 0
        cdef PyObject *ch
        cdef PyObject *token
        if self.entries is None or PyList_GET_SIZE(self.entries) != 2 * len(ids):
            return False
        while PyDict_Next(ids, &position, &ch, &token):
            if PyList_GET_ITEM(self.entries, i) != ch or PyList_GET_ITEM(self.entries, i + 1) != token:
                return False
            i += 2
        return True

    cdef int use_characters(self, dict ids) except -1:
        """Fill the table of the first 256 characters' token ids, -1 for those that are not in ids."""
        cdef Py_ssize_t token
        if self.knows(ids):
            return 0
        self.entries, self.ids = None, ids.copy()
        for code in range(256):
            token = self.ids.get(chr(code), -1)
            if not -1 <= token < self.vocab_size - 1:
                raise ValueError(f"token {token} is not in the vocabulary (0 to {self.vocab_size - 1})")
            self.char_table[code] = <int32_t>token
        self.entries = [part for item in self.ids.items() for part in item]
        return 0

    cdef void clear(self) noexcept:
        """Forget the documents: the next one is the first."""
        self.count = 0

    cdef Py_ssize_t add(self, document, dict ids) except -1:
        """Add a document, no more of it than the block holds; its number of positions.

        ids: if given, the document is a str, and the last call of use_characters had these ids.
        """
        cdef Py_ssize_t at = self.starts[self.count], end, n
        self.reserve_starts(self.count + 1)
        if ids is not None:
            end = self.put_text(document, at)
        else:
            n = len(document) - 1
            if n == 0:
                raise ZeroDivisionError("division by zero")  # the script's 1 / n
            if n < 0:
                raise ValueError("a document needs two tokens at least: BOS on both sides")
            end = self.put(document, min(n, self.block_size) + 1, at)
        self.count += 1
        self.starts[self.count] = end
        return end - at - 1
