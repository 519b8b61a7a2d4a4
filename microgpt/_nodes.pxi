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


cdef int set_children(uint32_t slot, tuple children, tuple local_grads) except -1:
    """Make a fresh leaf the parent of children, all of which are Values and initialised."""
    cdef uint32_t n_children = <uint32_t>len(children), n_local_grads = <uint32_t>len(local_grads), i
    cdef Node *node = &tape.node[slot]
    cdef Nary *nary
    cdef size_t size = sizeof(Nary) + n_local_grads * sizeof(double) + n_children * sizeof(uint32_t)
    nary = <Nary *>malloc(size)
    if nary == NULL:
        raise MemoryError()
    nary.n_children, nary.n_local_grads = n_children, n_local_grads
    nary.local_grads = <double *>(nary + 1)
    nary.children = <uint32_t *>(nary.local_grads + n_local_grads)
    try:
        for i in range(n_local_grads):
            nary.local_grads[i] = PyFloat_AsDouble(local_grads[i])
        wait_for_tape()
    except BaseException:
        free(nary)
        raise
    for i in range(n_children):
        nary.children[i] = (<Value>children[i]).slot
        retain(nary.children[i])
    if n_children == n_local_grads and n_children <= 2:
        node.kind = <uint8_t>n_children
        if n_children:
            node.child0, node.local_grad0 = nary.children[0], nary.local_grads[0]
        if n_children == 2:
            node.child1, node.payload.local_grad = nary.children[1], nary.local_grads[1]
        free(nary)
    else:
        node.kind = NARY
        node.payload.pointer = nary
    return 0
