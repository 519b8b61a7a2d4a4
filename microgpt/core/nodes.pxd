# cython: language_level=3
"""Node constructors: one for each operator of Value.

Each returns a slot that nothing refers to yet, or 0 when memory has run out; a child that was made for it is then freed
again.
"""
from libc.stdint cimport uint8_t, uint32_t
from libc.stdlib cimport free

from microgpt.core.tape cimport BINARY, LEAF, LEAF0, LEAF1, NARY, Nary, Node, UNARY, release, retain, slot_alloc, tape


cdef extern from *:
    bint likely(bint condition) noexcept nogil  # Cython's own macros
    bint unlikely(bint condition) noexcept nogil


cdef inline uint32_t new_node(double data, uint8_t kind) noexcept:
    cdef uint32_t slot = slot_alloc()
    cdef Node *node = &tape.node[slot]
    if slot:
        tape.data[slot], tape.grad[slot] = data, 0.0
        node.owner, node.refs = slot, 0
        node.kind, node.flags = kind, 0
    return slot


cdef inline uint32_t new_constant(double data) noexcept:
    return new_node(data, LEAF)


cdef inline void discard(uint32_t slot) noexcept:
    if slot and tape.node[slot].owner == slot and tape.node[slot].refs == 0:
        tape.node[slot].refs = 1
        release(slot)


cdef inline uint32_t new_unary(double data, uint32_t child, double local_grad) noexcept:
    cdef uint32_t slot = new_node(data, UNARY) if child else 0
    if slot == 0:
        discard(child)
        return 0
    tape.node[slot].child0 = child
    tape.node[slot].local_grad0 = local_grad
    retain(child)
    return slot


cdef inline uint32_t new_binary(double data, uint32_t child0, uint32_t child1,
                                double local_grad0, double local_grad1) noexcept:
    cdef uint32_t slot = slot_alloc() if child0 and child1 else 0
    cdef Node *node = &tape.node[slot]
    if unlikely(slot == 0):
        discard(child0)
        discard(child1)
        return 0
    tape.data[slot], tape.grad[slot] = data, 0.0
    node.owner, node.refs, node.kind = slot, 0, BINARY
    node.child0, node.child1 = child0, child1
    node.local_grad0, node.payload.local_grad = local_grad0, local_grad1
    node.flags = <uint8_t>((LEAF0 if tape.node[child0].kind == LEAF else 0)
                           | (LEAF1 if tape.node[child1].kind == LEAF else 0))
    retain(child0)
    retain(child1)
    return slot


cdef inline uint32_t new_sum(uint32_t a, uint32_t b) noexcept:
    return new_binary(tape.data[a] + tape.data[b], a, b, 1.0, 1.0)


cdef inline uint32_t new_product(uint32_t a, uint32_t b) noexcept:
    return new_binary(tape.data[a] * tape.data[b], a, b, tape.data[b], tape.data[a])


cdef inline uint32_t new_negative(uint32_t a) noexcept:
    return new_product(a, new_constant(-1.0))  # -x is x * -1


cdef inline void set_children(uint32_t slot, Nary *nary) noexcept:
    """Make a leaf that nothing refers to yet the parent of these children."""
    cdef Node *node = &tape.node[slot]
    cdef uint32_t n = nary.n_children, i
    for i in range(n):
        retain(nary.children[i])
    if n == nary.n_local_grads and n <= 2:
        node.kind = <uint8_t>n
        if n:
            node.child0, node.local_grad0 = nary.children[0], nary.local_grads[0]
        if n == 2:
            node.child1, node.payload.local_grad = nary.children[1], nary.local_grads[1]
        free(nary)
    else:
        node.kind = NARY
        node.payload.pointer = nary
