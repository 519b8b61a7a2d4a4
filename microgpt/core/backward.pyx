# cython: language_level=3, cdivision=True
"""backward(): expanding dot products and compiled functions' results into the script's nodes, and the accumulation.

topo.pyx finds the order of the nodes. Here everything runs without the GIL and holds the lock.
"""
from libc.stdint cimport uint32_t
from libc.stdlib cimport free, malloc, realloc

from microgpt.core.blocks cimport drop_cached_order, extend_block
from microgpt.core.dots cimport dots_of, slot_a, slot_b
from microgpt.core.tape cimport *
from microgpt.core.topo cimport sort_once, trim_stacks


# ---- dot products ----

cdef inline void set_binary(uint32_t slot, double data, double grad, uint32_t child0, uint32_t child1,
                            double local_grad0, double local_grad1) noexcept nogil:
    cdef Node *node = &tape.node[slot]
    tape.data[slot] = data
    tape.grad[slot] = grad
    node.local_grad0 = local_grad0
    node.payload.local_grad = local_grad1
    node.child0, node.child1 = child0, child1
    node.kind, node.flags = BINARY, node.flags & HASHED


cdef int expand_dot(uint32_t head) noexcept nogil:
    """Replace a dot product by the script's nodes: products, and prefix sums from the constant 0 on.

    After one backward the grad of each is what flowed through the head then (whose grad may have been changed
    since); before, 0.
    """
    cdef DotRows *dots = dots_of(head)
    cdef Node *node = &tape.node[head]
    cdef uint32_t row = head - dots.first, n = dots.n, owner = node.owner, i, term, add, previous, fresh, a, b
    cdef uint32_t count = 2 * n if dots.b_data != NULL else n
    cdef double flowed = node.local_grad0 if node.flags & BACKPROPAGATED else 0.0
    cdef double total = 0.0, x, y, product
    drop_cached_order(head)
    fresh = run_alloc(count) if owner == head else extend_block(owner, count)
    if fresh == 0:
        return MG_NO_MEMORY
    for i in range(count):
        tape.node[fresh + i].owner = fresh + i if owner == head else owner
        tape.node[fresh + i].refs = 1  # only what is not in a block is counted
    previous = fresh
    tape.data[fresh], tape.grad[fresh] = 0.0, flowed
    tape.node[fresh].kind, tape.node[fresh].flags = LEAF, 0
    fresh += 1
    for i in range(n):
        a = slot_a(dots, row, i)
        x = dots.a_data[<size_t>row * dots.a_row + <size_t>i * dots.a_step]
        if dots.b_data != NULL:
            b = slot_b(dots, row, i)
            y = dots.b_data[<size_t>row * dots.b_row + <size_t>i * dots.b_step]
            term, product = fresh, x * y
            fresh += 1
            set_binary(term, product, flowed, a, b, y, x)
        else:
            term, product = a, x
        total = total + product
        if i + 1 < n:
            add = fresh
            fresh += 1
        else:
            add = head
        if i == 0:  # the script's sum() starts as mul + 0, the later ones are add + mul
            set_binary(add, tape.data[head] if add == head else total,
                       tape.grad[head] if add == head else flowed, term, previous, 1.0, 1.0)
        else:
            set_binary(add, tape.data[head] if add == head else total,
                       tape.grad[head] if add == head else flowed, previous, term, 1.0, 1.0)
        previous = add
    if owner == head:
        free(dots)
    return MG_OK


cdef void accumulate_dot(uint32_t head) noexcept nogil:
    """Do what the dot product's additions and multiplications would do, from the last term to the first."""
    cdef DotRows *dots = dots_of(head)
    cdef uint32_t row = head - dots.first, n = dots.n, i
    cdef double *grad = tape.grad
    cdef double *a_grad
    cdef double *b_grad
    cdef double *a_data = dots.a_data + <size_t>row * dots.a_row
    cdef double *b_data
    # The grads inside start at 0 and have this added to them, which makes a -0.0 a 0.0.
    cdef double flowed = 0.0 + grad[head]
    tape.node[head].local_grad0 = flowed
    tape.node[head].flags |= BACKPROPAGATED
    drop_cached_order(head)  # the next backward must find this dot product, to expand it
    if dots.b_data == NULL:
        i = n
        while i:
            i -= 1
            grad[slot_a(dots, row, i)] += flowed
        return
    b_data = dots.b_data + <size_t>row * dots.b_row
    if dots.distinct and dots.a_step == 1 and dots.b_step == 1:
        # No gradient is touched twice, so the terms may go in any order, and several at once.
        a_grad = grad + slot_a(dots, row, 0)
        b_grad = grad + slot_b(dots, row, 0)
        for i in range(n):
            a_grad[i] += b_data[i] * flowed
        for i in range(n):
            b_grad[i] += a_data[i] * flowed
        return
    i = n
    while i:
        i -= 1
        grad[slot_a(dots, row, i)] += b_data[<size_t>i * dots.b_step] * flowed
        grad[slot_b(dots, row, i)] += a_data[<size_t>i * dots.a_step] * flowed


# ---- results of compiled functions ----

cdef void accumulate_program(uint32_t slot) noexcept nogil:
    cdef Replay *replay = replay_of(slot)
    tape.node[slot].local_grad0 = tape.grad[slot]
    tape.node[slot].flags |= BACKPROPAGATED
    replay.backward(replay, tape.grad[slot])


cdef int expand_program(uint32_t slot) noexcept nogil:
    """Write out the graph below the results of this call, with the grads that one backward has left in it."""
    cdef Replay *replay = replay_of(slot)
    cdef uint32_t first = replay.first, n = replay.n_leaves, i
    cdef bint flowed = tape.node[first].kind == PROGRAM and tape.node[first].flags & BACKPROPAGATED
    cdef double grad = tape.grad[first], flowed_grad = tape.node[first].local_grad0
    cdef double *leaf_grads = NULL
    cdef uint32_t *leaves = NULL
    cdef int code
    if flowed:
        leaf_grads = <double *>malloc((n + 1) * (sizeof(double) + sizeof(uint32_t)))
        if leaf_grads == NULL:
            return MG_NO_MEMORY
        leaves = <uint32_t *>(leaf_grads + n)
        for i in range(n):
            leaves[i] = replay.leaves[i]
            leaf_grads[i] = tape.grad[leaves[i]]
    code = replay.expand(replay)
    if code == MG_OK and flowed:
        code = sort_once(first)
        if code == MG_OK:
            tape.grad[first] = flowed_grad
            accumulate()
        tape.grad[first] = grad
        for i in range(n):
            tape.grad[leaves[i]] = leaf_grads[i]
    free(leaf_grads)
    return code


cdef int expand(uint32_t slot) noexcept nogil:
    if tape.node[slot].kind == DOT:
        return expand_dot(slot)
    if tape.node[slot].kind == PROGRAM:
        return expand_program(slot)
    return MG_OK  # expanded together with another result of the same call


# ---- the sort ----

cdef int sort(uint32_t root) noexcept nogil:
    cdef int code
    cdef size_t k
    while True:
        tape.to_expand.n = 0
        code = sort_once(root)
        for k in range(tape.to_expand.n):
            if code == MG_OK:
                code = expand(tape.to_expand.items[k])
        if code != MG_OK or tape.to_expand.n == 0:
            return code


# ---- the accumulation ----

cdef void accumulate() noexcept nogil:
    cdef Node *nodes = tape.node
    cdef Node *node
    cdef double *grad = tape.grad
    cdef Nary *nary
    cdef uint32_t *order = tape.order.items
    cdef uint32_t slot, i
    cdef size_t k = tape.order.n
    while k:
        k -= 1
        slot = order[k]
        node = &nodes[slot]
        if k >= 16:
            MG_PREFETCH(&nodes[order[k - 16]])
        if k >= 4 and nodes[order[k - 4]].kind == DOT and nodes[order[k - 4]].owner == order[k - 4]:
            prefetch_payload(&nodes[order[k - 4]], 9)  # 16 terms
        if node.kind == BINARY:
            grad[node.child0] += node.local_grad0 * grad[slot]
            grad[node.child1] += node.payload.local_grad * grad[slot]
        elif node.kind == UNARY:
            grad[node.child0] += node.local_grad0 * grad[slot]
        elif node.kind == DOT:
            accumulate_dot(slot)
        elif node.kind == PROGRAM:
            accumulate_program(slot)
        else:
            nary = <Nary *>node.payload.pointer
            for i in range(min(nary.n_children, nary.n_local_grads)):
                grad[nary.children[i]] += nary.local_grads[i] * grad[slot]


cdef int run_backward(uint32_t root) noexcept nogil:
    cdef int code = sort(root)
    if code == MG_OK:
        tape.grad[root] = 1.0  # after the sort, as in the script
        accumulate()
    trim_stacks()
    return code


# ---- the same for comparison ----

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
    """Save the grads of a node and its children."""
    cdef Node *node = &tape.node[slot]
    cdef Nary *nary
    cdef DotRows *dots
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
    elif node.kind == DOT:
        dots = dots_of(slot)
        row = slot - dots.first
        for i in range(dots.n):
            code |= save_grad(slot_a(dots, row, i))
            if dots.b_data != NULL:
                code |= save_grad(slot_b(dots, row, i))
    return code


cdef int probe_backward(uint32_t root, uint32_t n, const uint32_t *slots, double *out) noexcept nogil:
    """What run_backward would make of the grads of these slots, with every grad of the graph left as it was."""
    global saved_grads, n_saved, saved_capacity
    cdef int code = sort(root)
    cdef size_t k
    cdef uint32_t i
    cdef Node *node
    n_saved = 0
    if code == MG_OK:
        code = save_grad(root)
    for k in range(tape.order.n):
        if code == MG_OK:
            if tape.node[tape.order.items[k]].kind == PROGRAM:
                code = MG_NO_MEMORY  # another compiled function's result: its leaves are not saved here
            else:
                code = save_grads(tape.order.items[k])
    if code == MG_OK:
        tape.grad[root] = 1.0
        accumulate()
        for i in range(n):
            out[i] = tape.grad[slots[i]]
        for k in range(tape.order.n):
            node = &tape.node[tape.order.items[k]]
            if node.kind == DOT:
                node.flags &= ~BACKPROPAGATED
                node.local_grad0 = 0.0
        while n_saved:  # what was saved first is the original
            n_saved -= 1
            tape.grad[saved_grads[n_saved].slot] = saved_grads[n_saved].grad
    free(saved_grads)
    saved_grads, n_saved, saved_capacity = NULL, 0, 0
    trim_stacks()
    return code
