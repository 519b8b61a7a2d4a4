# cython: language_level=3
"""Objects of a class kept for reuse, for a class whose objects mostly live for a moment, as operands of the next operator.

cython.freelist does the same, but its tp_dealloc saves and restores the current exception around every __dealloc__.
"""
from cpython.object cimport PyObject


cdef extern from *:
    """
    static inline PyObject *mg_revive(PyObject *o) {
        _Py_NewReference(o);
        return o;
    }
    """
    object mg_revive(PyObject *o)  # what is returned is the one reference to it
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
    spare.n -= 1
    return mg_revive(spare.object[spare.n])
