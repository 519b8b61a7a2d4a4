# cython: embedsignature=False
"""The documents of a run: those of a plain text without the strings, each made when it is asked for; the order of training;
and their tokens, as the C library reads them.

The script's default run uses 1,000 of the names it reads. To make strings of the others takes a tenth of a process that
trains on them, and to take these apart again nearly as long.
"""
cimport cython
from cpython.dict cimport PyDict_Next
from cpython.mem cimport PyMem_Free, PyMem_Realloc
from cpython.object cimport PyObject
from libc.stdint cimport INT32_MAX, int32_t, int64_t


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
