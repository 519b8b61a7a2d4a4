# cython: language_level=3
"""Nodes with any number of children and local gradients, as `Value(data, children, local_grads)` makes them.

The memory of a list is allocated before the node is read: an allocation may run the garbage collector, whose callbacks
may be anything, a second __init__ of this very Value, too. What follows until the list is complete runs no Python code.
So both functions that make a tuple return None where the node is of another kind by then.
"""
from cpython.float cimport PyFloat_AsDouble
from libc.stdint cimport uint32_t
from libc.stdlib cimport free, malloc

from microgpt.core.lock cimport wait_until_idle
from microgpt.core.tape cimport NARY, Nary, tape


cdef inline Nary *alloc_nary(uint32_t n_children, tuple local_grads) except NULL:
    """Return a Nary that is complete but for the slots of its children. Runs Python code."""
    cdef uint32_t n_local_grads = <uint32_t>len(local_grads), i
    cdef Nary *nary = <Nary *>malloc(sizeof(Nary) + n_local_grads * sizeof(double) + n_children * sizeof(uint32_t))
    if nary == NULL:
        raise MemoryError()
    nary.n_children, nary.n_local_grads, nary.place = n_children, n_local_grads, 0
    nary.local_grads = <double *>(nary + 1)
    nary.children = <uint32_t *>(nary.local_grads + n_local_grads)
    try:
        for i in range(n_local_grads):
            nary.local_grads[i] = PyFloat_AsDouble(local_grads[i])
    except BaseException:
        free(nary)
        raise
    return nary


cdef inline Nary *nary_of(uint32_t slot) except? NULL:
    """Return the Nary of a node when it is idle; NULL for a node of another kind."""
    wait_until_idle()
    return <Nary *>tape.node[slot].payload.pointer if tape.node[slot].kind == NARY else NULL


cdef inline tuple nary_children(uint32_t slot):
    cdef list children = []
    cdef Nary *nary = nary_of(slot)
    cdef uint32_t i
    if nary == NULL:
        return None
    for i in range(nary.n_children):
        children.append(tape.handle_of(nary.children[i]))
    return tuple(children)


cdef inline tuple nary_local_grads(uint32_t slot):
    cdef list local_grads = []
    cdef Nary *nary = nary_of(slot)
    cdef uint32_t i
    if nary == NULL:
        return None
    for i in range(nary.n_local_grads):
        local_grads.append(nary.local_grads[i])
    return tuple(local_grads)
