# Cycles. References are counted, which frees no cycle; and a second __init__ can close one: x.__init__(1.0, (y,), (2.0,))
# where y was computed from x. No operator can, because children are made before their parents. So every cycle leads
# through a rewired node, one that a second __init__ has given children; these are listed, and what can be reached from
# them is collected from time to time: at a second __init__, never elsewhere. Part of value.pyx.

cdef Slots rewired  # alive, in no order; Nary.place says where
cdef size_t n_rewirings = 0, rewirings_allowed = 256  # since the last collection, and until the next one
cdef size_t in_use_allowed = 1 << 17  # slots, until the next one


cdef void unlist(Nary *nary) noexcept nogil:
    """Take a rewired node, whose payload this still is, out of the list. The last of the list takes its place."""
    cdef uint32_t last
    rewired.n -= 1
    last = rewired.items[rewired.n]
    rewired.items[nary.place - 1] = last
    (<Nary *>tape.node[last].payload.pointer).place = nary.place
    nary.place = 0


cdef void free_nary(Nary *nary) noexcept nogil:
    if nary.place:
        unlist(nary)
    free(nary)


cdef void count_rewiring() noexcept:
    """Collect, after so many rewirings or so much growth that the cost of each of them stays small."""
    global n_rewirings
    n_rewirings += 1
    if n_rewirings >= rewirings_allowed or tape_end - free_slots.n > in_use_allowed:
        collect_cycles()


cdef inline uint32_t referred(uint32_t owner, uint32_t i) noexcept nogil:
    """The owner that reference number i of this one is counted for; 0: it has no more."""
    cdef Node *node = &tape.node[owner]
    if node.kind == BINARY and i < 2:
        return tape.node[node.child1 if i else node.child0].owner
    if node.kind == UNARY and i < 1:
        return tape.node[node.child0].owner
    if node.kind == NARY and i < (<Nary *>node.payload.pointer).n_children:
        return tape.node[(<Nary *>node.payload.pointer).children[i]].owner
    if node.kind == REGION and i < (<Region *>node.payload.pointer).n_kept:
        return (<Region *>node.payload.pointer).kept[i]
    return 0


cdef void collect_cycles() noexcept:
    """Free what only cycles refer to. Without the memory to find out, free nothing."""
    global n_rewirings, rewirings_allowed, in_use_allowed
    cdef Slots found
    cdef uint32_t *stack = NULL
    found.items, found.n, found.capacity = NULL, 0, 0
    if find_reachable(&found) == MG_OK:
        stack = <uint32_t *>malloc(found.n * sizeof(uint32_t) + 1)
    if stack != NULL:
        free_unreferred(&found, stack)
    n_rewirings, rewirings_allowed = 0, max(<size_t>256, found.n >> 4)
    in_use_allowed = 2 * (tape_end - free_slots.n) + (1 << 17)
    free(stack)
    free(found.items)


cdef int find_reachable(Slots *found) noexcept:
    """All owners that rewired nodes lead to."""
    cdef uint32_t owner, i
    cdef size_t k
    next_sort_number()
    for k in range(rewired.n):
        tape.node[rewired.items[k]].mark = sort_number
        if push_slot(found, rewired.items[k]) != MG_OK:
            return MG_NO_MEMORY
    k = 0
    while k < found.n:
        i = 0
        owner = referred(found.items[k], 0)
        while owner:
            if tape.node[owner].mark != sort_number:
                tape.node[owner].mark = sort_number
                if push_slot(found, owner) != MG_OK:
                    return MG_NO_MEMORY
            i += 1
            owner = referred(found.items[k], i)
        k += 1
    return MG_OK


cdef void free_unreferred(Slots *found, uint32_t *stack) noexcept:
    """Of the owners found, free those that no handle and nobody else leads to. stack: room for as many slots."""
    cdef Node *node = tape.node
    cdef uint32_t owner, top, i
    cdef size_t k, n = 0
    # Take away the references among the owners found: what is left comes from outside.
    for k in range(found.n):
        i = 0
        owner = referred(found.items[k], 0)
        while owner:
            node[owner].refs -= 1
            i += 1
            owner = referred(found.items[k], i)
    # Give back those of whatever is referred to from outside, and of all below it.
    next_sort_number()
    for k in range(found.n):
        owner = found.items[k]
        if node[owner].refs > 0 and node[owner].mark != sort_number:
            node[owner].mark = sort_number
            stack[n] = owner
            n += 1
        while n:
            n -= 1
            top = stack[n]
            i = 0
            owner = referred(top, 0)
            while owner:
                node[owner].refs += 1
                if node[owner].mark != sort_number:
                    node[owner].mark = sort_number
                    stack[n] = owner
                    n += 1
                i += 1
                owner = referred(top, i)
    # The rest is referred to by itself alone. Its references to what lives have been taken away already.
    for k in range(found.n):
        owner = found.items[k]
        if node[owner].mark == sort_number:
            continue
        if node[owner].kind == REGION:
            free_region(<Region *>node[owner].payload.pointer)
            continue
        if node[owner].kind == NARY:
            free_nary(<Nary *>node[owner].payload.pointer)
        if push_slot(&freed, owner) != MG_OK:
            give_slot(owner)
    if freed.n:
        give_freed()
