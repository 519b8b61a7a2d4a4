# cython: language_level=3
"""The tape's invariants, walked after every operation in a debug build (MICROGPT_BUILD=debug, setup.py), and what tests
see of the tape.

Every slot up to tape.end is exactly one of: single and free, in a free run, in the rest of the slab, a node, a header.
A node's owner is itself or the header of the block in whose run it is. What an owner's refs should be is counted
again: handles, children of single nodes, what blocks hold. Whatever a block's node refers to is in the block or is
held by it. At rest nothing is WATCHED.
"""
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdio cimport fprintf, stderr
from libc.stdlib cimport abort, calloc, free

from microgpt.core.backward cimport sort
from microgpt.core.dots cimport slot_a, slot_b
from microgpt.core.lock cimport begin_nogil, count_waiting, end_nogil, wait_until_idle
from microgpt.core.tape cimport *
from microgpt.core.value cimport Value


cdef enum Use:
    NODE = 0
    FREE_SINGLE = 1
    FREE_RUN = 2
    SLAB_REST = 3

cdef struct Audit:
    uint8_t *use
    uint32_t *counted  # references found, by owner
    uint32_t *held_by  # the last block that was seen to hold this owner
    uint64_t work

cdef uint64_t n_audits = 0, unaudited = 0, patience = 0


cdef void broken(const char *what, uint32_t slot) noexcept nogil:
    fprintf(stderr, "microgpt: the tape is broken at slot %u: %s\n", slot, what)
    abort()


cdef void claim(Audit *audit, uint32_t base, uint32_t n, uint8_t use) noexcept nogil:
    cdef uint32_t i
    if base == 0 or base >= tape.end or n > tape.end - base:
        broken("a free slot is outside the tape", base)
    for i in range(base, base + n):
        if audit.use[i] != NODE:
            broken("free twice over", i)
        audit.use[i] = use


cdef void claim_free(Audit *audit) noexcept nogil:
    cdef size_t k
    cdef uint32_t n, base
    for k in range(tape.free_slots.n):
        claim(audit, tape.free_slots.items[k], 1, FREE_SINGLE)
    for n in range(1, <uint32_t>SMALL_RUN):
        base = tape.small_runs[n]
        while base:
            claim(audit, base, n, FREE_RUN)
            base = tape.node[base].child0
    for k in range(tape.n_large_runs):
        claim(audit, tape.large_runs[k].base, tape.large_runs[k].n, FREE_RUN)
        if k and tape.large_runs[k - 1].base + tape.large_runs[k - 1].n >= tape.large_runs[k].base:
            broken("freed runs touch or are out of order", tape.large_runs[k].base)
    if tape.slab_next < tape.slab_end:
        claim(audit, tape.slab_next, tape.slab_end - tape.slab_next, SLAB_REST)
    if tape.freed.n:
        broken("a graph is still being freed", tape.freed.items[0])


cdef bint in_block(Block *block, uint32_t slot) noexcept nogil:
    cdef uint32_t i
    if slot - block.base < block.n:
        return True
    for i in range(block.n_runs):
        if slot - block.runs[2 * i] < block.runs[2 * i + 1]:
            return True
    return False


cdef void refer(Audit *audit, uint32_t slot, uint32_t child) noexcept nogil:
    """Check and count the reference of a node to a child."""
    cdef uint32_t owner = tape.node[slot].owner, child_owner
    audit.work += 1
    if child == 0 or child >= tape.end or audit.use[child] != NODE or tape.node[child].kind == BLOCK:
        broken("a child is not a node", slot)
    child_owner = tape.node[child].owner
    if owner == slot:
        audit.counted[child_owner] += 1
    elif child_owner != owner and audit.held_by[child_owner] != owner:
        broken("a block does not hold what its nodes refer to", slot)


cdef void audit_block(Audit *audit, uint32_t slot) noexcept nogil:
    cdef Block *block = <Block *>tape.node[slot].payload.pointer
    cdef uint32_t i, k
    if block.base != slot or tape.node[slot].owner != slot:
        broken("a header is not its block's", slot)
    for i in range(block.n_held):
        if block.held[i] >= tape.end or audit.use[block.held[i]] != NODE:
            broken("a block holds what is free", slot)
        audit.counted[block.held[i]] += 1
        audit.held_by[block.held[i]] = slot
    for i in range(slot + 1, slot + block.n):
        audit_node(audit, i)
    for k in range(block.n_runs):
        for i in range(block.runs[2 * k], block.runs[2 * k] + block.runs[2 * k + 1]):
            audit_node(audit, i)


cdef void audit_node(Audit *audit, uint32_t slot) noexcept nogil:
    cdef Node *node = &tape.node[slot]
    cdef Node *owner
    cdef Nary *nary
    cdef DotRows *dots
    cdef uint32_t i
    if audit.use[slot] != NODE or node.kind == BLOCK or node.kind > PROGRAM:
        broken("a free slot is in use", slot)
    if node.owner == 0 or node.owner >= tape.end or audit.use[node.owner] != NODE:
        broken("its owner is free", slot)
    owner = &tape.node[node.owner]
    if node.owner != slot and (owner.kind != BLOCK or not in_block(<Block *>owner.payload.pointer, slot)):
        broken("it is not its owner's", slot)
    if node.flags & WATCHED:
        broken("it was left watched", slot)
    if node.handle != NULL:
        audit.counted[node.owner] += 1
        if (<Value>node.handle).slot != slot:
            broken("its handle is another's", slot)
    if node.kind == BINARY:
        refer(audit, slot, node.child0)
        refer(audit, slot, node.child1)
        if tape.rewired.n == 0 and (node.flags & LEAF0 and tape.node[node.child0].kind != LEAF
                                or node.flags & LEAF1 and tape.node[node.child1].kind != LEAF):
            broken("a child is not a leaf", slot)
    elif node.kind == UNARY:
        refer(audit, slot, node.child0)
    elif node.kind == NARY:
        nary = <Nary *>node.payload.pointer
        for i in range(nary.n_children):
            refer(audit, slot, nary.children[i])
        if nary.place and (nary.place > tape.rewired.n or tape.rewired.items[nary.place - 1] != slot):
            broken("it is rewired, and not listed", slot)
    elif node.kind == DOT:
        dots = <DotRows *>node.payload.pointer
        if slot - dots.first >= dots.rows or (node.flags & ~(BACKPROPAGATED | HASHED)):
            broken("a dot product outside its rows", slot)
        if (node.owner == slot) != (dots.capacity > 0) or dots.n > dots.capacity > 0:
            broken("the memory of a dot product is not its own, or its block's", slot)
        for i in range(dots.n):
            refer(audit, slot, slot_a(dots, slot - dots.first, i))
            if dots.b_data != NULL:
                refer(audit, slot, slot_b(dots, slot - dots.first, i))


cdef void walk() noexcept nogil:
    """Walk everything; abort with a sentence where an invariant is broken. The tape is idle."""
    global n_audits, unaudited, patience
    cdef Audit audit
    cdef uint32_t slot, missing
    cdef Node *node
    audit.use = <uint8_t *>calloc(tape.end, sizeof(uint8_t))
    audit.counted = <uint32_t *>calloc(tape.end, sizeof(uint32_t))
    audit.held_by = <uint32_t *>calloc(tape.end, sizeof(uint32_t))
    if audit.use == NULL or audit.counted == NULL or audit.held_by == NULL:
        broken("no memory to walk it", 0)
    audit.work = tape.end
    claim_free(&audit)
    for slot in range(1, tape.end):
        node = &tape.node[slot]
        if audit.use[slot] != NODE:
            # Other flags stay, of what it was; slot_alloc's caller clears them.
            if audit.use[slot] == FREE_SINGLE and (node.handle != NULL or node.flags & WATCHED):
                broken("a free slot has a handle or is watched", slot)
        elif node.kind == BLOCK:
            audit_block(&audit, slot)
        elif node.owner == slot:
            audit_node(&audit, slot)
        elif node.owner == 0 or node.owner >= tape.end or tape.node[node.owner].kind != BLOCK:
            broken("no node owns it", slot)  # what does belong to a block is checked with the block
        elif not in_block(<Block *>tape.node[node.owner].payload.pointer, slot):
            broken("it is not its block's", slot)
    for slot in range(1, tape.end):
        node = &tape.node[slot]
        if audit.use[slot] != NODE or node.owner != slot:
            continue
        missing = <uint32_t>node.refs - audit.counted[slot]
        # A model, or the call that makes it, holds one reference to a block that the walk does not see.
        if missing > (1 if node.kind == BLOCK else 0):
            fprintf(stderr, "refs %d, counted %u\n", node.refs, audit.counted[slot])
            broken("its references were miscounted", slot)
        if node.refs <= 0:
            broken("nothing refers to it, and it is not free", slot)
    free(audit.use)
    free(audit.counted)
    free(audit.held_by)
    n_audits += 1
    unaudited, patience = 0, (audit.work - SLAB) >> 11 if audit.work > SLAB else 0


cdef void audit_now() noexcept:
    """After an operation: every time while the graphs are small, then less often, so that tests come to an end."""
    global unaudited
    unaudited += 1
    if not tape.busy and tape.deferred.n == 0 and unaudited > patience:
        walk()


# ---- for tests ----

def audits():
    """Return how often the invariants were walked; None where this is not a debug build."""
    return n_audits if MG_DEBUG else None


def audit():
    """Walk the invariants now, in any build. Aborts the process where one is broken."""
    wait_until_idle()
    walk()


def tape_state():
    """Return (whether a thread works without the GIL, dead Values that wait for its end, threads that wait for it)."""
    return bool(tape.busy), tape.deferred.n, count_waiting()


def sorts_until_wrap(uint32_t n):
    """Let the number by which sorts mark nodes, 32 bits of it, wrap around after n more sorts."""
    tape.n_sorts |= 0xFFFFFFFF
    tape.n_sorts -= n


def sorted_slots(Value root, bint cached=True):
    """Return the order in which backward would visit, as hashes; cached=False: without the order that a builder knew."""
    cdef Block *block = NULL
    cdef uint32_t *order = NULL
    cdef uint32_t slot, owner
    cdef int code
    begin_nogil()
    slot = root.slot
    owner = tape.node[slot].owner
    if tape.node[owner].kind == BLOCK and not cached:
        block = block_of(owner)
        order, block.order = block.order, NULL
    code = sort(slot)
    if order != NULL:
        block.order = order
    end_nogil()
    if code != MG_OK:
        raise MemoryError()
    return [tape.order.items[k] for k in range(tape.order.n)]


if MG_DEBUG:
    tape.audit = audit_now
