# cython: language_level=3
"""Handles: the Values of the program, the objects, without what they can do (value.pyx).

Most handles live for a moment, as operands of the next operator. So they are kept for reuse: cython.freelist does the same,
but its tp_dealloc saves and restores the current exception around every __dealloc__.

A sum that folds while it is made (folding.pxd) takes over the node of one operand, and the other's becomes a term. Both have
one reference, which belongs to what calls the operator: usually it drops them at once. A handle whose node was taken over
has no slot, and is `left` or `right` while it lives. Should it live on (a program in C may keep it), it gets its node back
before anything can see the difference: when it is used, when a handle of any node is asked for, when another sum folds, when
the sum is initialised again or loses its handle, and before the tape is busy.
"""
from cpython.object cimport PyObject, PyTypeObject
from libc.stdint cimport uint32_t

from microgpt.core.backward cimport expand
from microgpt.core.nodes cimport unlikely
from microgpt.core.tape cimport DOT, MG_DEBUG, MG_OK, Node, audit_tape, retain, tape
from microgpt.core.value cimport Value


cdef extern from *:
    """
    static inline PyObject *mg_revive(PyObject *o) {
        _Py_NewReference(o);
        return o;
    }
    """
    object mg_revive(PyObject *o)  # what is returned is the one reference to it
    PyObject *Py_TYPE "(PyObject *)Py_TYPE"(PyObject *o)
    Py_ssize_t Py_REFCNT(object o)
    void Py_DECREF(PyObject *o)

cdef enum:
    MOST_SPARE = 1024

cdef struct Handles:
    PyObject *spare[MOST_SPARE]
    int n_spare
    uint32_t head  # the sum folded last while it was made
    PyObject *left  # the handles of its operands, while they live
    PyObject *right


cdef inline bint keep(Handles *handles, PyObject *o) noexcept:
    """Keep a handle that nothing refers to any more; False if there are enough, and it must be freed."""
    if handles.n_spare >= MOST_SPARE:
        return False
    handles.spare[handles.n_spare] = o
    handles.n_spare += 1
    return True


cdef inline object new_handle(Handles *handles, uint32_t slot):
    cdef PyObject *o
    if unlikely(handles.n_spare == 0):
        return first_handle(slot)
    handles.n_spare -= 1
    o = handles.spare[handles.n_spare]
    (<Value>o).slot = slot
    tape.node[slot].handle = o
    return mg_revive(o)


cdef inline object first_handle(uint32_t slot):
    cdef Value value = Value.__new__(Value)
    value.slot = slot
    tape.node[slot].handle = <PyObject *>value
    return value


cdef inline object audited(object value):
    audit_tape()
    return value


# ---- handles whose nodes were taken over ----

cdef inline bint is_temporary(object value) noexcept:
    """Whether the program seems to hold no reference to a Value, only what calls the operator."""
    return Py_REFCNT(value) == 1 and type(value) is Value


cdef inline object take_over(Handles *handles, uint32_t slot, object left, object right):
    """Return the new handle of a sum that has taken over the nodes of its operands. right: None, or the other operand."""
    handles.head = slot
    handles.left, handles.right = <PyObject *>left, NULL
    (<Value>left).slot = 0
    if right is not None:
        handles.right = <PyObject *>right
        (<Value>right).slot = 0
    return audited(new_handle(handles, slot)) if MG_DEBUG else new_handle(handles, slot)


cdef inline bint forget(Handles *handles, PyObject *o) noexcept:
    """Whether a handle that dies is one whose node was taken over."""
    if o == handles.left:
        handles.left = NULL
        return True
    if o == handles.right:
        handles.right = NULL
        return True
    return False


cdef inline bint is_unsettled(Handles *handles) noexcept:
    return handles.left != NULL or handles.right != NULL


cdef inline void settle_handles(Handles *handles) noexcept:
    """Give the operands their nodes back. If there is no memory for that, they are as if never initialised."""
    cdef PyObject *left = handles.left
    cdef PyObject *right = handles.right
    cdef Node *node = &tape.node[handles.head]
    handles.left = handles.right = NULL
    if node.kind == DOT and expand(handles.head) != MG_OK:
        return
    if left != NULL:
        give_back(left, node.child0)
    if right != NULL:
        give_back(right, node.child1)
    audit_tape()


cdef inline void give_back(PyObject *o, uint32_t slot) noexcept:
    (<Value>o).slot = slot
    tape.node[slot].handle = o
    retain(slot)
