# backward() for comparison: what it would add to some grads, with nothing changed. Part of value.pyx.

cdef struct Saved:
    uint32_t slot
    double grad

cdef Saved *saved_grads = NULL
cdef size_t n_saved = 0, saved_capacity = 0


cdef int save_grad(uint32_t slot) noexcept nogil:
    global saved_grads, n_saved, saved_capacity
    cdef Saved *larger
    if n_saved == saved_capacity:
        larger = <Saved *>realloc(saved_grads, (2 * saved_capacity + 1024) * sizeof(Saved))
        if larger == NULL:
            return MG_NO_MEMORY
        saved_grads, saved_capacity = larger, 2 * saved_capacity + 1024
    saved_grads[n_saved].slot, saved_grads[n_saved].grad = slot, tape.grad[slot]
    n_saved += 1
    return MG_OK


cdef int save_grads(uint32_t slot) noexcept nogil:
    """Of a node and its children."""
    cdef Node *node = &tape.node[slot]
    cdef Nary *nary
    cdef Fold *fold
    cdef uint32_t i, row
    cdef int code = save_grad(slot)
    if node.kind == BINARY or node.kind == UNARY:
        code |= save_grad(node.child0)
        if node.kind == BINARY:
            code |= save_grad(node.child1)
    elif node.kind == NARY:
        nary = <Nary *>node.payload.pointer
        for i in range(nary.n_children):
            code |= save_grad(nary.children[i])
    elif node.kind == CHAIN:
        fold = fold_of(slot)
        row = slot - fold.first
        for i in range(fold.n):
            code |= save_grad(slot_a(fold, row, i))
            if fold.b_data != NULL:
                code |= save_grad(slot_b(fold, row, i))
    return code


cdef int probe_backward(uint32_t root, uint32_t n, const uint32_t *slots, double *out) noexcept nogil:
    """What run_backward would make of the grads of these slots, with every grad and mark of the graph left as it was."""
    global saved_grads, n_saved, saved_capacity
    cdef int code = sort(root)
    cdef size_t k
    cdef uint32_t i
    cdef Node *node
    n_saved = 0
    if code == MG_OK:
        code = save_grad(root)
    for k in range(order.n):
        if code == MG_OK:
            if tape.node[order.items[k]].kind == PROGRAM:
                code = MG_NO_MEMORY  # another compiled function's result: its leaves are not saved here
            else:
                code = save_grads(order.items[k])
    if code == MG_OK:
        tape.grad[root] = 1.0
        accumulate()
        for i in range(n):
            out[i] = tape.grad[slots[i]]
        for k in range(order.n):
            node = &tape.node[order.items[k]]
            if node.kind == CHAIN:
                node.flags &= ~FLOWED
                node.local_grad0 = 0.0
        while n_saved:  # what was saved first is the original
            n_saved -= 1
            tape.grad[saved_grads[n_saved].slot] = saved_grads[n_saved].grad
    free(saved_grads)
    saved_grads, n_saved, saved_capacity = NULL, 0, 0
    trim_stacks()
    return code
