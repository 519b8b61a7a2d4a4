# cython: language_level=3
"""Guards: what a program read from outside."""
from cpython.object cimport PyObject

cdef enum:
    OF_CELL, OF_ATTRIBUTE, OF_DICT, OF_CLASS, OF_FUNCTION, OF_SUBSCRIPT, OF_CACHED, OF_LIST, OF_ITEMS, OF_KEYS, OF_ENTRIES, OF_BYTES

# All references are borrowed from Guards.watched.
cdef struct Guard:
    int kind
    PyObject *holder
    PyObject *name
    PyObject *value
    PyObject **items  # of a dict: n pointers, those of value
    Py_ssize_t n

cdef struct ListGuard:  # a list and its n items
    PyObject *list
    PyObject **items
    Py_ssize_t n

cdef class Guards:
    cdef readonly tuple watched  # (kind, holder, name, value) for each guard
    cdef readonly Py_ssize_t n_items  # of lists and dicts
    cdef Guard *watches
    cdef PyObject **items
    cdef ListGuard *lists
    cdef Py_ssize_t n_watches, n_lists  # watched has those of lists behind the others
    cdef Py_ssize_t broken(self) except -2

cdef bint same_value(object now, object value)
