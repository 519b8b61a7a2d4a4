"""The documents of a plain text without the strings: each is made when it is asked for.

The script's default run uses 1,000 of the names it reads. To make strings of the others takes a tenth of a process that
trains on them, and to take these apart again nearly as long.
"""
from cpython.mem cimport PyMem_Free, PyMem_Realloc
from libc.stdint cimport INT32_MAX, int32_t


cdef extern from "Python.h":
    const char *PyUnicode_AsUTF8AndSize(object text, Py_ssize_t *size) except NULL
    str PyUnicode_FromObject(object text)


cdef str exact_str(object text):
    """The characters of a str or an object of a subclass, such as numpy.str_, whose own methods are not asked."""
    if type(text) is str:
        return <str>text
    if not isinstance(text, str):
        raise TypeError(f"a text must be a str, not {type(text).__name__}")
    return PyUnicode_FromObject(text)


cdef class TextLines:
    """text.split(), for an ASCII text whose only white space are newlines: a sequence of str that can be shuffled.

    `MT19937.shuffle` shuffles it as it would the list. text: as given. Raises ValueError for any other text.
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
