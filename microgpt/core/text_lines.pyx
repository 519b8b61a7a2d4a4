# cython: embedsignature=False
"""The documents of a run: those of a plain text without the strings, each made when it is asked for; and the order of training.

The script's default run uses 1,000 of the names it reads. To make strings of the others takes a tenth of a process that
trains on them, and to take these apart again nearly as long.
"""
cimport cython
from cpython.mem cimport PyMem_Free, PyMem_Realloc
from cpython.object cimport PyObject
from libc.stdint cimport INT32_MAX, int32_t


cdef extern from "Python.h":
    const char *PyUnicode_AsUTF8AndSize(object text, Py_ssize_t *size) except NULL
    str PyUnicode_FromObject(object text)
    PyObject *PyList_GET_ITEM(list items, Py_ssize_t i)
    Py_ssize_t PyList_GET_SIZE(list items)
    Py_ssize_t PY_SSIZE_T_MAX

cdef extern from *:
    """
    #if defined(__GNUC__) || defined(__clang__)
    #define MG_FETCH(address) __builtin_prefetch(address)
    #else
    #define MG_FETCH(address) ((void)(address))
    #endif
    """
    void MG_FETCH(const void *address)

cdef enum:
    AHEAD = 8  # documents: they are read and encoded in less time than one comes from memory
    CACHE_LINE = 64


cdef str exact_str(object text):
    """The characters of a str or an object of a subclass, such as numpy.str_, whose own methods are not asked."""
    if type(text) is str:
        return <str>text
    if not isinstance(text, str):
        raise TypeError(f"a text must be a str, not {type(text).__name__}")
    return PyUnicode_FromObject(text)


cdef class TextLines:
    # The first line is the signature, in the form in which Python reads it: inspect.signature(TextLines).
    """TextLines(text)\n--\n
The list text.split(), for an ASCII text whose only white space is newlines: a sequence of str that can be shuffled.

`MT19937.shuffle` shuffles it as it would the list. Raises ValueError for any other text.
"""

    def __init__(self, text not None):
        cdef str exact = exact_str(text)
        if self.text is not None:
            raise TypeError("a TextLines is initialised once")
        if not exact.isascii() or len(exact) >= INT32_MAX:
            raise ValueError("not an ASCII text, or one of 2**31 characters or more")
        try:
            self.split(exact)
        except BaseException:
            self.count = 0
            raise
        self.text = exact

    cdef int split(self, str text) except -1:
        """Find the lines of an ASCII text."""
        cdef Py_ssize_t size, i, room = 0
        cdef int32_t start = 0
        cdef const char *characters = PyUnicode_AsUTF8AndSize(text, &size)
        cdef unsigned char ch
        PyMem_Free(self.lines)  # of an attempt that failed
        self.lines = NULL
        for i in range(size + 1):
            ch = <unsigned char>characters[i] if i < size else c"\n"
            if ch > 32:
                continue
            if ch == c"\n" or ch == c"\r":
                if i > start:
                    if self.count == room:
                        room = 2 * room + size // 8 + 1
                        self.grow(room)
                    self.lines[self.count] = Line(start, <int32_t>i - start)
                    self.count += 1
                start = <int32_t>i + 1
            elif 9 <= ch <= 12 or 28 <= ch:
                raise ValueError("there is white space within a line")
        return 0

    cdef int grow(self, Py_ssize_t room) except -1:
        grown = PyMem_Realloc(self.lines, room * sizeof(Line))
        if grown == NULL:
            raise MemoryError()
        self.lines = <Line *>grown
        return 0

    cdef int ready(self) except -1:
        """Raise RuntimeError where __init__ has not run to its end: a subclass may forget it."""
        if self.text is None:
            raise RuntimeError("TextLines.__init__ has not been called")
        return 0

    def __dealloc__(self):
        PyMem_Free(self.lines)

    def __reduce_ex__(self, protocol):
        raise TypeError("a TextLines cannot be copied or pickled: list(lines) can")

    def beyond(self, Py_ssize_t length):
        """(how many documents are longer than length, how many characters they have beyond it), without their strings."""
        cdef Py_ssize_t i, documents = 0, characters = 0
        self.ready()
        for i in range(self.count):
            if self.lines[i].length > length:
                documents += 1
                characters += self.lines[i].length - length
        return documents, characters

    def __len__(self):
        self.ready()
        return self.count

    def __getitem__(self, Py_ssize_t index):
        self.ready()
        if index < 0:
            index += self.count
        if not 0 <= index < self.count:
            raise IndexError("there is no such document")
        cdef Line line = self.lines[index]
        return self.text[line.start : line.start + line.length]

    def __iter__(self):
        cdef Py_ssize_t index
        self.ready()
        for index in range(self.count):
            yield self[index]


@cython.final
cdef class Rounds:
    # The first line is the signature, in the form in which Python reads it: inspect.signature(Rounds).
    """Rounds(docs, first, count)\n--\n
An iterator over docs[i % len(docs)] for count numbers i from first on.

Shuffled strings are anywhere in memory: those of a list are fetched into the cache before it is their turn.
"""
    cdef object docs
    cdef list items  # docs, if it is a list
    cdef object first
    cdef Py_ssize_t count, left
    cdef Py_ssize_t size, next  # i % size, for as long as len(docs) is size

    def __init__(self, docs not None, first, count):
        self.docs, self.items = docs, docs if type(docs) is list else None
        self.first, self.count = first, min(count, PY_SSIZE_T_MAX)
        self.left, self.size, self.next = self.count, -1, 0

    def __iter__(self):
        return self

    def __next__(self):
        cdef Py_ssize_t size, ahead
        cdef const char *document
        if self.left <= 0:
            raise StopIteration
        size = len(self.docs) if self.items is None else PyList_GET_SIZE(self.items)
        if size != self.size:  # at the first document, and where the list was changed
            if size == 0:
                raise IndexError("there are no documents")
            self.size, self.next = size, (self.first + (self.count - self.left)) % size
        elif self.next == size:
            self.next = 0
        found = self.docs[self.next]
        if self.items is not None:
            ahead = self.next + AHEAD
            if ahead >= size:
                ahead -= size
            if ahead < size:
                document = <const char *>PyList_GET_ITEM(self.items, ahead)
                MG_FETCH(document)
                MG_FETCH(document + CACHE_LINE - 1)  # an object need not begin where a line does
        self.next += 1
        self.left -= 1
        return found
