# cython: embedsignature=False
"""Numbers between a script's Values and a model: `microgpt run` trains a GPT in the place of the script's state_dict."""
from libc.stdint cimport uint32_t
from libc.stdlib cimport calloc, free

from microgpt.core.lock cimport wait_until_idle
from microgpt.core.model cimport GPT
from microgpt.core.tape cimport LEAF, tape
from microgpt.core.value cimport Value


cdef extern from "Python.h":
    Py_ssize_t PyList_GET_SIZE(list items)
    void *PyList_GET_ITEM(list items, Py_ssize_t i)


cdef inline uint32_t slot_at(list values, Py_ssize_t i) noexcept:
    return (<Value>PyList_GET_ITEM(values, i)).slot


def are_parameters(list values not None):
    """Return whether all items are Values, each another one, and none is computed from others."""
    cdef Py_ssize_t i, n = PyList_GET_SIZE(values)
    cdef uint32_t slot, least = 0xFFFFFFFF, most = 0
    cdef char *seen
    cdef bint are_distinct = True
    if n == 0:
        return True
    wait_until_idle()
    for i in range(n):
        if type(<object>PyList_GET_ITEM(values, i)) is not Value:
            return False
        slot = slot_at(values, i)
        if slot == 0 or tape.node[slot].kind != LEAF:
            return False
        least, most = min(least, slot), max(most, slot)
    seen = <char *>calloc(<size_t>(most - least) + 1, 1)
    if seen == NULL:
        raise MemoryError()
    for i in range(n):
        slot = slot_at(values, i)
        are_distinct &= not seen[slot - least]
        seen[slot - least] = True
    free(seen)
    return are_distinct


cdef int check(GPT model, list values) except -1:
    model.ready()
    if PyList_GET_SIZE(values) != model.num_params or not are_parameters(values):
        raise ValueError("the values are not one for each parameter")
    return 0


def to_model(list values not None, GPT model not None):
    """Set the parameters and gradients of a model to those of values, one for each parameter."""
    cdef Py_ssize_t i
    check(model, values)
    for i in range(model.num_params):
        model.params_data[i], model.params_grad[i] = tape.data[slot_at(values, i)], tape.grad[slot_at(values, i)]


def from_model(GPT model not None, list values not None):
    """Set data and grad of values, one for each parameter, to those of a model."""
    cdef Py_ssize_t i
    check(model, values)
    for i in range(model.num_params):
        tape.data[slot_at(values, i)], tape.grad[slot_at(values, i)] = model.params_data[i], model.params_grad[i]
