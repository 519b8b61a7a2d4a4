# cython: language_level=3
"""Rewiring: a second __init__ of a Value, and the cycles that it can close.

References are counted, which frees no cycle; and a second __init__ can close one: x.__init__(1.0, (y,), (2.0,)) where y
was computed from x. No operator can, because children are made before their parents. So every cycle leads through a
rewired node, one that a second __init__ has given children. These are listed (tape.rewired), and what can be reached from
them is collected from time to time: at a second __init__, never elsewhere.
"""
from libc.stdint cimport uint32_t
from libc.stdlib cimport free, malloc

from microgpt.core.tape cimport *

cdef size_t n_rewirings = 0, rewirings_allowed = 256  # since the last collection, and until the next one
cdef size_t in_use_allowed = 1 << 17  # slots, until the next one


cdef int rewire(uint32_t slot, double data, Nary *nary) except -1:
    """Give a node other data, other children (none: NULL), and a grad of 0."""
    cdef Node *node = &tape.node[slot]
    cdef uint32_t i
    cdef Node old = node[0]
    cdef DotRows *dots
    if old.owner != slot:
        free(nary)
        raise TypeError("this Value is a node of a compiled layer: it cannot be initialised again")
    if nary != NULL and tape.rewired.n == tape.rewired.capacity and grow(&tape.rewired) != MG_OK:
        free(nary)
        raise MemoryError()
    if old.kind == NARY and (<Nary *>old.payload.pointer).place:
        unlist(<Nary *>old.payload.pointer)
    tape.data[slot], tape.grad[slot] = data, 0.0
    node.kind, node.flags = LEAF, 0
    if nary != NULL:  # an Nary for any number of children: only free_nary() must take it out of the list
        node.kind, node.payload.pointer = NARY, nary
        push_slot(&tape.rewired, slot)
        nary.place = tape.rewired.n
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
    elif old.kind == DOT:
        dots = <DotRows *>old.payload.pointer
        for i in range(dots.n):
            release(tape.node[dots.b_slots[i]].owner)
            release(tape.node[dots.a_slots[i]].owner)
        free(dots)
    if nary != NULL:
        count_rewiring()
    audit_tape()
    return 0


# ---- cycles ----

cdef void count_rewiring() noexcept:
    """Collect, after enough rewirings, or enough growth, that the cost of each stays small."""
    global n_rewirings
    n_rewirings += 1
    if n_rewirings >= rewirings_allowed or tape.end - tape.free_slots.n > in_use_allowed:
        collect_cycles()


cdef inline uint32_t referred(uint32_t owner, uint32_t i) noexcept nogil:
    """The owner that reference number i of this one is counted for; 0: it has no more."""
    cdef Node *node = &tape.node[owner]
    cdef DotRows *dots
    if node.kind == BINARY and i < 2:
        return tape.node[node.child1 if i else node.child0].owner
    if node.kind == UNARY and i < 1:
        return tape.node[node.child0].owner
    if node.kind == NARY and i < (<Nary *>node.payload.pointer).n_children:
        return tape.node[(<Nary *>node.payload.pointer).children[i]].owner
    if node.kind == DOT and i < 2 * (<DotRows *>node.payload.pointer).n:
        dots = <DotRows *>node.payload.pointer
        return tape.node[dots.b_slots[i >> 1] if i & 1 else dots.a_slots[i >> 1]].owner
    if node.kind == BLOCK and i < (<Block *>node.payload.pointer).n_held:
        return (<Block *>node.payload.pointer).held[i]
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
    in_use_allowed = 2 * (tape.end - tape.free_slots.n) + (1 << 17)
    free(stack)
    free(found.items)


cdef int find_reachable(Slots *found) noexcept:
    """Find all owners that rewired nodes lead to."""
    cdef uint32_t owner, i
    cdef size_t k
    next_mark()
    for k in range(tape.rewired.n):
        tape.node[tape.rewired.items[k]].mark = tape.mark
        if push_slot(found, tape.rewired.items[k]) != MG_OK:
            return MG_NO_MEMORY
    k = 0
    while k < found.n:
        i = 0
        owner = referred(found.items[k], 0)
        while owner:
            if tape.node[owner].mark != tape.mark:
                tape.node[owner].mark = tape.mark
                if push_slot(found, owner) != MG_OK:
                    return MG_NO_MEMORY
            i += 1
            owner = referred(found.items[k], i)
        k += 1
    return MG_OK


cdef void free_unreferred(Slots *found, uint32_t *stack) noexcept:
    """Free the owners found that no reference from outside leads to. stack: as many slots as were found."""
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
    next_mark()
    for k in range(found.n):
        owner = found.items[k]
        if node[owner].refs > 0 and node[owner].mark != tape.mark:
            node[owner].mark = tape.mark
            stack[n] = owner
            n += 1
        while n:
            n -= 1
            top = stack[n]
            i = 0
            owner = referred(top, 0)
            while owner:
                node[owner].refs += 1
                if node[owner].mark != tape.mark:
                    node[owner].mark = tape.mark
                    stack[n] = owner
                    n += 1
                i += 1
                owner = referred(top, i)
    # The rest is referred to by itself alone. Its references to what lives have been taken away already.
    for k in range(found.n):
        owner = found.items[k]
        if node[owner].mark == tape.mark:
            continue
        if node[owner].kind == BLOCK:
            free_block(<Block *>node[owner].payload.pointer)
            continue
        if node[owner].kind == NARY:
            free_nary(<Nary *>node[owner].payload.pointer)
        if node[owner].kind == DOT:
            free(node[owner].payload.pointer)
        if push_slot(&tape.freed, owner) != MG_OK:
            slot_free(owner)
    if tape.freed.n:
        free_collected()
