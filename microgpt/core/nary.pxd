# cython: language_level=3
"""Children and local gradients: of every node, and the lists of those that have any number of them, as
`Value(data, children, local_grads)` makes them.

The memory of a list is allocated before the node is read: an allocation may run the garbage collector, whose callbacks
may be anything, a second __init__ of this very Value, too. What follows until the list is complete runs no Python code.
So both functions that make a tuple return None where the node is of another kind by then.
"""
from cpython.float cimport PyFloat_AsDouble
from libc.stdint cimport uint32_t
from libc.stdlib cimport free, malloc

from microgpt.core.backward cimport expand
from microgpt.core.blocks cimport drop_cached_order
from microgpt.core.lock cimport wait_until_idle
from microgpt.core.tape cimport BINARY, DOT, MG_OK, NARY, Nary, Node, PROGRAM, UNARY, tape
from microgpt.core.value cimport Value, no_node, settled_slot


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


cdef inline Nary *new_nary(tuple children, tuple local_grads) except NULL:
    """Check children and local gradients. Runs Python code, and so touches no node."""
    cdef Nary *nary
    cdef uint32_t i
    for child in children:
        if not isinstance(child, Value):
            raise TypeError(f"children must be Values, not {type(child).__name__!r}")
        if settled_slot(<Value>child) == 0:
            no_node()
    nary = alloc_nary(<uint32_t>len(children), local_grads)
    for i in range(nary.n_children):
        nary.children[i] = settled_slot(<Value>children[i])
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


cdef inline tuple children_of(uint32_t slot):
    cdef Node *node = &tape.node[slot]
    drop_cached_order(slot)
    if (node.kind == DOT or node.kind == PROGRAM) and expand(slot) != MG_OK:
        raise MemoryError()
    if node.kind == BINARY:
        return (tape.handle_of(node.child0), tape.handle_of(node.child1))
    if node.kind == UNARY:
        return (tape.handle_of(node.child0),)
    if node.kind == NARY:
        children = nary_children(slot)
        return children_of(slot) if children is None else children
    return ()


cdef inline tuple local_grads_of(uint32_t slot):
    cdef Node *node = &tape.node[slot]
    if node.kind == PROGRAM and expand(slot) != MG_OK:
        raise MemoryError()
    if node.kind == DOT:
        return (1.0, 1.0)
    if node.kind == BINARY:
        return (node.local_grad0, node.payload.local_grad)
    if node.kind == UNARY:
        return (node.local_grad0,)
    if node.kind == NARY:
        local_grads = nary_local_grads(slot)
        return local_grads_of(slot) if local_grads is None else local_grads
    return ()
