# Making nodes: one for each operator, and Value(data, children, local_grads). Part of value.pyx.
#
# Each of these returns a slot that nothing refers to yet, or 0 when memory has run out; a child that was made for it is
# then freed again.

cdef inline uint32_t new_node(double data, uint8_t kind) noexcept:
    cdef uint32_t slot = take_slot()
    cdef Node *node = &tape.node[slot]
    if slot:
        tape.data[slot], tape.grad[slot] = data, 0.0
        node.owner, node.refs = slot, 0
        node.kind, node.flags = kind, 0
    return slot


cdef inline uint32_t new_constant(double data) noexcept:
    return new_node(data, LEAF)


cdef void discard(uint32_t slot) noexcept:
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
    cdef uint32_t slot = new_node(data, BINARY) if child0 and child1 else 0
    cdef Node *node = &tape.node[slot]
    if slot == 0:
        discard(child0)
        discard(child1)
        return 0
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


# ---- Value(data, children, local_grads) ----

cdef Nary *new_nary(tuple children, tuple local_grads) except NULL:
    """Children and local gradients, checked. Runs Python code, and so touches no node."""
    cdef uint32_t n_children = <uint32_t>len(children), n_local_grads = <uint32_t>len(local_grads), i
    cdef Nary *nary
    for child in children:
        if not isinstance(child, Value):
            raise TypeError(f"children must be Values, not {type(child).__name__!r}")
        if (<Value>child).slot == 0:
            no_node()
    nary = <Nary *>malloc(sizeof(Nary) + n_local_grads * sizeof(double) + n_children * sizeof(uint32_t))
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
    for i in range(n_children):
        nary.children[i] = (<Value>children[i]).slot
    return nary


cdef void set_children(uint32_t slot, Nary *nary) noexcept:
    """Make a leaf that nobody refers to yet the parent of these children."""
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


cdef int init_again(uint32_t slot, double data, Nary *nary) except -1:
    """The second __init__ of a Value: other data, other children (none: NULL), and a grad of 0."""
    cdef Node *node = &tape.node[slot]
    cdef uint32_t i
    cdef Node old = node[0]
    if old.owner != slot:
        free(nary)
        raise TypeError("this Value is a node of a compiled layer: it cannot be initialised again")
    if nary != NULL and rewired.n == rewired.capacity and grow(&rewired) != MG_OK:
        free(nary)
        raise MemoryError()
    if old.kind == NARY and (<Nary *>old.payload.pointer).place:
        unlist(<Nary *>old.payload.pointer)
    tape.data[slot], tape.grad[slot] = data, 0.0
    node.kind, node.flags = LEAF, 0
    if nary != NULL:  # an Nary for any number of children: only where one is freed must the list be thought of
        node.kind, node.payload.pointer = NARY, nary
        push_slot(&rewired, slot)
        nary.place = rewired.n
        for i in range(nary.n_children):
            retain(nary.children[i])
    # The old children are released last: they may be among the new ones.
    if old.kind == BINARY:
        release(tape.node[old.child1].owner)
    if old.kind == BINARY or old.kind == UNARY:
        release(tape.node[old.child0].owner)
    elif old.kind == NARY:
        for i in range((<Nary *>old.payload.pointer).n_children):
            release(tape.node[(<Nary *>old.payload.pointer).children[i]].owner)
        free(old.payload.pointer)
    if nary != NULL:
        count_rewiring()
    if MG_DEBUG:
        audit_now()
    return 0
