# cython: embedsignature=False
"""The documents of a run: those of a plain text without the strings, each made when it is asked for; and the order of
training. And the lines that a run prints.

The script's default run uses 1,000 of the names it reads. To make strings of the others takes a tenth of a process that
trains on them, and to take these apart again nearly as long.
"""
cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from cpython.mem cimport PyMem_Free, PyMem_Realloc
from cpython.object cimport PyObject
from libc.stdint cimport INT32_MAX, int32_t, int64_t, uint64_t
from libc.string cimport memcpy, memset


cdef extern from "Python.h":
    const char *PyUnicode_AsUTF8AndSize(object text, Py_ssize_t *size) except NULL
    str PyUnicode_FromObject(object text)
    str PyUnicode_FromKindAndData(int kind, const void *characters, Py_ssize_t size)
    str PyUnicode_New(Py_ssize_t size, Py_UCS4 largest)
    void *PyUnicode_DATA(object text)
    int PyUnicode_1BYTE_KIND
    PyObject *PyList_GET_ITEM(list items, Py_ssize_t i)
    Py_ssize_t PyList_GET_SIZE(list items)
    Py_ssize_t PY_SSIZE_T_MAX

cdef extern from "base/decimal.h":
    enum:
        MG_DECIMAL4
    int mg_decimal4(double x, char *out) noexcept

cdef extern from "base/marks.h":
    enum:
        MG_MARKS_BLOCK
    uint64_t mg_marks(const unsigned char *text, uint64_t *beyond) noexcept

cdef extern from *:
    """
    #define MG_LOWEST_BIT(word) __builtin_ctzll(word)
    #if defined(__GNUC__) || defined(__clang__)
    #define MG_FETCH(address) __builtin_prefetch(address)
    #else
    #define MG_FETCH(address) ((void)(address))
    #endif
    """
    void MG_FETCH(const void *address)
    int MG_LOWEST_BIT(uint64_t word)

cdef enum:
    AHEAD = 8  # documents: they are read and encoded in less time than one comes from memory
    CACHE_LINE = 64

cdef str NOT_ASCII = "not an ASCII text, or one of 2**31 characters or more"


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

text: str, or the bytes of one. `MT19937.shuffle` shuffles the lines as it would the list. Raises ValueError for any other text.
"""

    def __init__(self, text not None):
        cdef Py_ssize_t size
        text = text if isinstance(text, bytes) else exact_str(text)
        if self.source is not None:
            raise TypeError("a TextLines is initialised once")
        if type(text) is str:
            if not text.isascii():
                raise ValueError(NOT_ASCII)
            self.characters = <const unsigned char *>PyUnicode_AsUTF8AndSize(text, &size)
        else:
            self.characters, size = <const unsigned char *>PyBytes_AS_STRING(text), PyBytes_GET_SIZE(text)
        if size >= INT32_MAX:
            raise ValueError(NOT_ASCII)
        self.size = <int32_t>size
        try:
            self.split()
        except BaseException:
            self.count = 0
            raise
        self.source = text

    cdef int split(self) except -1:
        """Find the lines."""
        cdef Py_ssize_t room = self.size // 4 + MG_MARKS_BLOCK
        cdef const unsigned char *block
        cdef unsigned char tail[MG_MARKS_BLOCK]
        cdef uint64_t marks, beyond
        cdef Py_ssize_t start = 0, first, at, count = 0, longest = 0
        cdef unsigned char ch
        cdef int i
        memset(self.occurs, 0, sizeof(self.occurs))
        PyMem_Free(self.starts)  # of an attempt that failed
        self.starts = NULL
        self.grow(room)
        for first in range(0, self.size + 1, MG_MARKS_BLOCK):
            block = self.characters + first
            if first + MG_MARKS_BLOCK > self.size:
                memset(tail, c"\n", MG_MARKS_BLOCK)
                memcpy(tail, block, self.size - first)
                block = tail
            marks = mg_marks(block, &beyond)
            if beyond:
                raise ValueError(NOT_ASCII)
            if count + MG_MARKS_BLOCK > room:
                room *= 2
                self.grow(room)
            for i in range(MG_MARKS_BLOCK):
                self.occurs[block[i]] = True
            while marks:
                i = MG_LOWEST_BIT(marks)
                marks &= marks - 1
                ch = block[i]
                if ch == c"\n" or ch == c"\r":
                    at = first + i
                    self.starts[count] = <int32_t>start
                    count += at > start
                    longest = max(longest, at - start)
                    start = at + 1
                elif 9 <= ch <= 12 or 28 <= ch:
                    raise ValueError("there is white space within a line")
        self.occurs[<int>c"\n"] = self.occurs[<int>c"\r"] = False
        self.count, self.longest = count, <int32_t>longest
        return 0

    cdef int grow(self, Py_ssize_t room) except -1:
        # Memory that is not written to costs nothing; memory that moves costs its pages once more.
        grown = PyMem_Realloc(self.starts, room * sizeof(int32_t))
        if grown == NULL:
            raise MemoryError()
        self.starts = <int32_t *>grown
        return 0

    cdef int ready(self) except -1:
        """Raise RuntimeError where __init__ has not run to its end: a subclass may forget it."""
        if self.source is None:
            raise RuntimeError("TextLines.__init__ has not been called")
        return 0

    cdef int32_t length(self, int32_t start) noexcept:
        """The length of the line that begins at start."""
        cdef int32_t end = start
        while end < self.size and self.characters[end] != c"\n" and self.characters[end] != c"\r":
            end += 1
        return end - start

    def __dealloc__(self):
        PyMem_Free(self.starts)

    def __reduce_ex__(self, protocol):
        raise TypeError("a TextLines cannot be pickled: list(lines) can; copy() copies it")

    @property
    def text(self):
        """The whole text, a str."""
        self.ready()
        return self.source if type(self.source) is str else self.source.decode("ascii")

    def copy(self):
        """Return the same lines in the same order, which can be shuffled apart."""
        cdef TextLines found = TextLines.__new__(TextLines)
        self.ready()
        found.characters, found.size, found.longest, found.count = self.characters, self.size, self.longest, self.count
        memcpy(found.occurs, self.occurs, sizeof(self.occurs))
        found.grow(max(1, self.count))
        memcpy(found.starts, self.starts, self.count * sizeof(int32_t))
        found.source = self.source
        return found

    def uchars(self):
        """Return the sorted list of the characters of all lines."""
        cdef int code
        self.ready()
        return [chr(code) for code in range(128) if self.occurs[code]]

    def beyond(self, Py_ssize_t length):
        """(how many documents are longer than length, how many characters they have beyond it), without their strings."""
        cdef Py_ssize_t i, documents = 0, characters = 0
        cdef int32_t found
        self.ready()
        if length >= self.longest:
            return 0, 0
        for i in range(self.count):
            found = self.length(self.starts[i])
            if found > length:
                documents += 1
                characters += found - length
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
        cdef int32_t start = self.starts[index]
        return PyUnicode_FromKindAndData(PyUnicode_1BYTE_KIND, self.characters + start, self.length(start))

    def __iter__(self):
        cdef Py_ssize_t index
        self.ready()
        for index in range(self.count):
            yield self[index]


def step_lines(Py_ssize_t first, num_steps, losses):
    """Return the lines that the script prints for steps from number first on: a list of str.

    losses: of each step, float.
    """
    cdef bytes middle = f" / {num_steps:4d} | loss ".encode("ascii")
    cdef Py_ssize_t step = first, length, middle_length = len(middle)
    cdef char digits[24]
    cdef char decimal[MG_DECIMAL4]
    cdef int n_digits, n_decimal, width
    cdef char *out
    cdef list lines = []
    for loss in losses:
        n_decimal = mg_decimal4(loss, decimal) if type(loss) is float else 0
        if n_decimal == 0 or step < 0:
            lines.append(f"step {step:4d} / {num_steps:4d} | loss {loss:.4f}\n")
        else:
            n_digits = decimal_digits(step, digits)
            width = max(n_digits, 4)
            length = 5 + width + middle_length + n_decimal + 1
            line = PyUnicode_New(length, 127)
            out = <char *>PyUnicode_DATA(line)
            memcpy(out, b"step     ", 9)
            out += 5 + width
            memcpy(out - n_digits, digits + sizeof(digits) - n_digits, n_digits)
            memcpy(out, <const char *>middle, middle_length)
            out += middle_length
            memcpy(out, decimal, n_decimal)
            out[n_decimal] = c"\n"
            lines.append(line)
        step += 1
    return lines


cdef int decimal_digits(Py_ssize_t number, char *digits) noexcept:
    """Write a number of 0 or more to the end of digits[24]; return how many digits it has."""
    cdef int n = 0
    while True:
        n += 1
        digits[24 - n] = <char>(c"0" + number % 10)
        number //= 10
        if number == 0:
            return n


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
