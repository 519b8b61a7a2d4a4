# cython: language_level=3
"""The arguments of a call of a compiled function: their structure as bytes, the signature, and the numbers in them.

Calls with one signature run one program, with the numbers as its inputs.
"""
from cpython.float cimport PyFloat_AS_DOUBLE, PyFloat_CheckExact
from cpython.list cimport PyList_CheckExact, PyList_GET_SIZE
from cpython.long cimport PyLong_CheckExact
from cpython.mem cimport PyMem_RawFree, PyMem_RawMalloc
from cpython.tuple cimport PyTuple_CheckExact, PyTuple_GET_SIZE
from cpython.unicode cimport PyUnicode_CheckExact
from libc.stdint cimport int32_t
from libc.string cimport memcpy

from microgpt.core.lock cimport wait_until_idle
from microgpt.core.tape cimport LEAF, tape
from microgpt.core.value cimport Value, settled_slot


cdef extern from "Python.h":
    long PyLong_AsLongAndOverflow(object x, int *overflow) except? -1
    const char *PyUnicode_AsUTF8AndSize(object x, Py_ssize_t *size) except NULL

cdef enum:
    SMALL = 512

cdef struct Arguments:
    char *signature
    int32_t *ints
    double *floats
    Py_ssize_t n, n_ints, n_floats, capacity
    bint odd  # something that no program can be for: an int beyond 32 bits, a Value that is not a leaf
    char small_signature[4 * SMALL]
    int32_t small_ints[SMALL]
    double small_floats[SMALL]


cdef inline void open_arguments(Arguments *a) noexcept:
    a.signature, a.ints, a.floats, a.capacity = a.small_signature, a.small_ints, a.small_floats, SMALL
    a.n = a.n_ints = a.n_floats = 0
    a.odd = False


cdef inline void close_arguments(Arguments *a) noexcept:
    if a.capacity > SMALL:
        PyMem_RawFree(a.floats)


cdef inline int more_arguments(Arguments *a) except -1:
    """Twice the room, on the heap."""
    cdef Py_ssize_t capacity = 2 * a.capacity
    cdef char *memory = <char *>PyMem_RawMalloc(capacity * (4 + sizeof(int32_t) + sizeof(double)))
    cdef char *old = a.signature if a.capacity > SMALL else NULL
    cdef double *floats = <double *>memory
    cdef int32_t *ints = <int32_t *>(floats + capacity)
    if memory == NULL:
        raise MemoryError()
    memcpy(floats, a.floats, a.n_floats * sizeof(double))
    memcpy(ints, a.ints, a.n_ints * sizeof(int32_t))
    memcpy(<char *>(ints + capacity), a.signature, a.n)
    if old != NULL:
        PyMem_RawFree(a.floats)
    a.floats, a.ints, a.signature, a.capacity = floats, ints, <char *>(ints + capacity), capacity
    return 0


cdef inline int put_code(Arguments *a, char code, const void *detail, Py_ssize_t size) except -1:
    while a.n + size + 1 > 4 * a.capacity or a.n_ints >= a.capacity or a.n_floats >= a.capacity:
        more_arguments(a)
    a.signature[a.n] = code
    if size:
        memcpy(a.signature + a.n + 1, detail, size)
    a.n += 1 + size
    return 0


cdef inline int put_static(Arguments *a, object x) except -1:
    """Numbers and text by value, all else by identity."""
    cdef long number
    cdef int overflow = 0
    cdef double real
    cdef Py_ssize_t size
    cdef const char *text
    cdef void *address
    if PyLong_CheckExact(x):
        number = PyLong_AsLongAndOverflow(x, &overflow)
        a.odd |= overflow != 0
        return put_code(a, b"I", &number, sizeof(number))
    if PyFloat_CheckExact(x):
        real = PyFloat_AS_DOUBLE(x)
        return put_code(a, b"F", &real, sizeof(real))
    if PyUnicode_CheckExact(x):
        text = PyUnicode_AsUTF8AndSize(x, &size)
        put_code(a, b"s", &size, sizeof(size))
        return put_code(a, b"=", text, size)
    address = <void *>x
    return put_code(a, b"o", &address, sizeof(address))


cdef inline bint is_other_number(object x):
    """Whether an argument is a number or an array of a library, which may be another one in every call."""
    if x is None or x is True or x is False or PyUnicode_CheckExact(x) or hasattr(x, "__dict__"):
        return False
    return hasattr(type(x), "__float__") or hasattr(type(x), "__index__")


cdef inline int put_argument(Arguments *a, object x, list values) except -1:
    """values: where Value arguments are collected, None if only their numbers count."""
    cdef long number
    cdef int overflow = 0
    cdef Py_ssize_t n, i
    if PyLong_CheckExact(x):
        number = PyLong_AsLongAndOverflow(x, &overflow)
        if overflow or number > 0x7fffffff or number < -0x7fffffff:
            a.odd = True
            number = 0
        put_code(a, b"i", NULL, 0)
        a.ints[a.n_ints] = <int32_t>number
        a.n_ints += 1
    elif PyFloat_CheckExact(x):
        put_code(a, b"f", NULL, 0)
        a.floats[a.n_floats] = PyFloat_AS_DOUBLE(x)
        a.n_floats += 1
    elif PyList_CheckExact(x):
        n = PyList_GET_SIZE(x)
        put_code(a, b"[", &n, sizeof(n))
        for i in range(n):
            put_argument(a, (<list>x)[i], values)
    elif PyTuple_CheckExact(x):
        n = PyTuple_GET_SIZE(x)
        put_code(a, b"(", &n, sizeof(n))
        for i in range(n):
            put_argument(a, (<tuple>x)[i], values)
    elif isinstance(x, Value):
        if settled_slot(<Value>x) == 0:
            a.odd = True
            return put_code(a, b"v", NULL, 0)
        if values is not None:
            if tape.busy:
                wait_until_idle()
            if tape.node[(<Value>x).slot].kind != LEAF:
                a.odd = True
            values.append(x)
            return put_code(a, b"v", NULL, 0)
        put_code(a, b"v", NULL, 0)
        if tape.busy:
            wait_until_idle()
        a.floats[a.n_floats] = tape.data[(<Value>x).slot]
        a.n_floats += 1
    else:
        a.odd |= is_other_number(x)
        put_static(a, x)
    return 0


cdef inline bint put_derived(Arguments *a, list derived) except -1:
    """The ints that a program computes from its int arguments; False where Python raises an error or they are too large."""
    for operation, (i, x), (j, y) in derived:
        try:
            result = operation(a.ints[<Py_ssize_t>i] if x is None else x, a.ints[<Py_ssize_t>j] if y is None else y)
        except ZeroDivisionError:
            return False
        if not -0x7fffffff <= result <= 0x7fffffff:
            return False
        while a.n_ints >= a.capacity:
            more_arguments(a)
        a.ints[a.n_ints] = <int32_t>result
        a.n_ints += 1
    return True
