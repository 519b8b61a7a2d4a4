# Folded chains: sums of products of which only the last addition has a slot (Fold in value.pxd). What their operands
# are, how they become explicit nodes, and what they send to their operands in backward. Part of value.pyx.

cdef inline uint32_t slot_a(Fold *fold, uint32_t row, uint32_t i) noexcept nogil:
    cdef size_t k = <size_t>row * fold.a_row + <size_t>i * fold.a_step
    return fold.a_slots[k] if fold.a_slots != NULL else <uint32_t>(fold.a_base + k)


cdef inline uint32_t slot_b(Fold *fold, uint32_t row, uint32_t i) noexcept nogil:
    cdef size_t k = <size_t>row * fold.b_row + <size_t>i * fold.b_step
    return fold.b_slots[k] if fold.b_slots != NULL else <uint32_t>(fold.b_base + k)


cdef inline Fold *fold_of(uint32_t slot) noexcept nogil:
    return <Fold *>tape.node[slot].payload.pointer


cdef inline void set_binary(uint32_t slot, uint32_t owner, double data, double grad, uint32_t child0, uint32_t child1,
                            double local_grad0, double local_grad1) noexcept nogil:
    cdef Node *node = &tape.node[slot]
    tape.data[slot] = data
    tape.grad[slot] = grad
    node.local_grad0 = local_grad0
    node.payload.local_grad = local_grad1
    node.child0, node.child1 = child0, child1
    node.owner = owner
    node.kind, node.flags = BINARY, 0


cdef int unfold(uint32_t head) noexcept nogil:
    """Put the script's own nodes in the place of a folded chain: products, prefix sums from the constant 0 on.

    After one backward every one of them has as its grad what flowed through the head then (whose own grad may have
    been changed since); before, 0.
    """
    cdef Fold *fold = fold_of(head)
    cdef Node *node = &tape.node[head]
    cdef uint32_t row = head - fold.first, n = fold.n, owner = node.owner, i, term, add, previous, fresh, a, b
    cdef double flowed = node.local_grad0 if node.flags & FLOWED else 0.0
    cdef double total = 0.0, x, y, product
    forget_order(head)
    fresh = extend_region(owner, 2 * n if fold.b_data != NULL else n)
    if fresh == 0:
        return MG_NO_MEMORY
    previous = fresh
    tape.data[fresh], tape.grad[fresh] = 0.0, flowed
    tape.node[fresh].owner = owner
    tape.node[fresh].kind, tape.node[fresh].flags = LEAF, 0
    fresh += 1
    for i in range(n):
        a = slot_a(fold, row, i)
        x = fold.a_data[<size_t>row * fold.a_row + <size_t>i * fold.a_step]
        if fold.b_data != NULL:
            b = slot_b(fold, row, i)
            y = fold.b_data[<size_t>row * fold.b_row + <size_t>i * fold.b_step]
            term, product = fresh, x * y
            fresh += 1
            set_binary(term, owner, product, flowed, a, b, y, x)
        else:
            term, product = a, x
        total = total + product
        if i + 1 < n:
            add = fresh
            fresh += 1
        else:
            add = head
        if i == 0:  # the script's sum() starts as mul + 0, the later ones are add + mul
            set_binary(add, owner, tape.data[head] if add == head else total,
                       tape.grad[head] if add == head else flowed, term, previous, 1.0, 1.0)
        else:
            set_binary(add, owner, tape.data[head] if add == head else total,
                       tape.grad[head] if add == head else flowed, previous, term, 1.0, 1.0)
        previous = add
    return MG_OK


cdef void accumulate_chain(uint32_t head) noexcept nogil:
    """What the chain's additions and multiplications would do, from the last term to the first."""
    cdef Fold *fold = fold_of(head)
    cdef uint32_t row = head - fold.first, n = fold.n, i
    cdef double *grad = tape.grad
    cdef double *a_grad
    cdef double *b_grad
    cdef double *a_data = fold.a_data + <size_t>row * fold.a_row
    cdef double *b_data
    # The grads inside start at 0 and have this added to them, which makes a -0.0 a 0.0.
    cdef double flowed = 0.0 + grad[head]
    tape.node[head].local_grad0 = flowed
    tape.node[head].flags |= FLOWED
    forget_order(head)  # the next backward must find this chain, to unfold it
    if fold.b_data == NULL:
        i = n
        while i:
            i -= 1
            grad[slot_a(fold, row, i)] += flowed
        return
    b_data = fold.b_data + <size_t>row * fold.b_row
    if fold.distinct and fold.a_step == 1 and fold.b_step == 1:
        # No gradient is touched twice, so the terms may go in any order, and several at once.
        a_grad = grad + slot_a(fold, row, 0)
        b_grad = grad + slot_b(fold, row, 0)
        for i in range(n):
            a_grad[i] += b_data[i] * flowed
        for i in range(n):
            b_grad[i] += a_data[i] * flowed
        return
    i = n
    while i:
        i -= 1
        grad[slot_a(fold, row, i)] += b_data[<size_t>i * fold.b_step] * flowed
        grad[slot_b(fold, row, i)] += a_data[<size_t>i * fold.a_step] * flowed
