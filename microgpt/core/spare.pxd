# cython: language_level=3
"""Objects of a class kept for reuse, for a class whose objects mostly live for a moment, as operands of the next operator.

cython.freelist does the same, but its tp_dealloc saves and restores the current exception around every __dealloc__.
"""
from cpython.object cimport PyObject


cdef extern from "Python.h":
    void _Py_NewReference(PyObject *o)
    void Py_DECREF(PyObject *o)

cdef enum:
    MOST_SPARE = 1024

cdef struct Spare:
    PyObject *object[MOST_SPARE]
    int n


cdef inline bint spare_keep(Spare *spare, PyObject *o) noexcept:
    """Keep an object that nothing refers to any more; False if there are enough, and it must be freed."""
    if spare.n >= MOST_SPARE:
        return False
    spare.object[spare.n] = o
    spare.n += 1
    return True


cdef inline object spare_take(Spare *spare):
    """Return one of the objects kept, of which there is at least one."""
    cdef PyObject *o
    spare.n -= 1
    o = spare.object[spare.n]
    _Py_NewReference(o)
    taken = <object>o
    Py_DECREF(o)  # the reference that _Py_NewReference made: taken has its own
    return taken
