# The tape's invariants, walked after every operation in a debug build (MICROGPT_BUILD=debug, setup.py), else compiled
# away. Part of value.pyx.
#
# Every slot up to tape_end is exactly one of: single and free, in a free run, in the rest of the slab, a node, a header.
# A node's owner is itself or the header of the region in whose run it lies. What an owner's refs should be is counted
# anew: handles, children of single nodes, what regions keep. Whatever a region's node refers to is in the region or is
# kept by it. At rest nothing is OPEN.

from libc.stdio cimport fprintf, stderr
from libc.stdlib cimport abort

cdef extern from *:
    """
    #ifndef MG_DEBUG
    #define MG_DEBUG 0
    #endif
    """
    enum:
        MG_DEBUG

cdef enum Use:
    NODE = 0
    FREE_SINGLE = 1
    FREE_RUN = 2
    SLAB_REST = 3

cdef struct Audit:
    uint8_t *use
    uint32_t *counted  # references found, by owner
    uint32_t *kept_by  # the last region that was seen to keep this owner
    uint64_t work

cdef uint64_t n_audits = 0, unaudited = 0, patience = 0


cdef void broken(const char *what, uint32_t slot) noexcept nogil:
    fprintf(stderr, "microgpt: the tape is broken at slot %u: %s\n", slot, what)
    abort()


cdef void claim(Audit *audit, uint32_t base, uint32_t n, uint8_t use) noexcept nogil:
    cdef uint32_t i
    if base == 0 or base >= tape_end or n > tape_end - base:
        broken("a free slot lies outside the tape", base)
    for i in range(base, base + n):
        if audit.use[i] != NODE:
            broken("free twice over", i)
        audit.use[i] = use


cdef void claim_free(Audit *audit) noexcept nogil:
    cdef size_t k
    cdef uint32_t n, base
    for k in range(free_slots.n):
        claim(audit, free_slots.items[k], 1, FREE_SINGLE)
    for n in range(1, <uint32_t>SMALL_RUN):
        base = small_runs[n]
        while base:
            claim(audit, base, n, FREE_RUN)
            base = tape.node[base].child0
    for k in range(n_large_runs):
        claim(audit, large_runs[k].base, large_runs[k].n, FREE_RUN)
        if k and large_runs[k - 1].base + large_runs[k - 1].n >= large_runs[k].base:
            broken("freed runs touch or are out of order", large_runs[k].base)
    if slab_next < slab_end:
        claim(audit, slab_next, slab_end - slab_next, SLAB_REST)
    if freed.n:
        broken("a graph is still being freed", freed.items[0])


cdef bint in_region(Region *region, uint32_t slot) noexcept nogil:
    cdef uint32_t i
    if slot - region.base < region.n:
        return True
    for i in range(region.n_runs):
        if slot - region.runs[2 * i] < region.runs[2 * i + 1]:
            return True
    return False


cdef void refer(Audit *audit, uint32_t slot, uint32_t child) noexcept nogil:
    """A node refers to a child."""
    cdef uint32_t owner = tape.node[slot].owner, child_owner
    audit.work += 1
    if child == 0 or child >= tape_end or audit.use[child] != NODE or tape.node[child].kind == REGION:
        broken("a child is no node", slot)
    child_owner = tape.node[child].owner
    if owner == slot:
        audit.counted[child_owner] += 1
    elif child_owner != owner and audit.kept_by[child_owner] != owner:
        broken("a region does not keep what its nodes refer to", slot)


cdef void audit_region(Audit *audit, uint32_t slot) noexcept nogil:
    cdef Region *region = <Region *>tape.node[slot].payload.pointer
    cdef uint32_t i, k
    if region.base != slot or tape.node[slot].owner != slot:
        broken("a header is not its region's", slot)
    for i in range(region.n_kept):
        if region.kept[i] >= tape_end or audit.use[region.kept[i]] != NODE:
            broken("a region keeps what is free", slot)
        audit.counted[region.kept[i]] += 1
        audit.kept_by[region.kept[i]] = slot
    for i in range(slot + 1, slot + region.n):
        audit_node(audit, i)
    for k in range(region.n_runs):
        for i in range(region.runs[2 * k], region.runs[2 * k] + region.runs[2 * k + 1]):
            audit_node(audit, i)


cdef void audit_node(Audit *audit, uint32_t slot) noexcept nogil:
    cdef Node *node = &tape.node[slot]
    cdef Node *owner
    cdef Nary *nary
    cdef Fold *fold
    cdef uint32_t i
    if audit.use[slot] != NODE or node.kind == REGION or node.kind > PROGRAM:
        broken("a free slot is in use", slot)
    if node.owner == 0 or node.owner >= tape_end or audit.use[node.owner] != NODE:
        broken("its owner is free", slot)
    owner = &tape.node[node.owner]
    if node.owner != slot and (owner.kind != REGION or not in_region(<Region *>owner.payload.pointer, slot)):
        broken("it is not its owner's", slot)
    if node.flags & OPEN:
        broken("it was left open", slot)
    if node.handle != NULL:
        audit.counted[node.owner] += 1
        if (<Value>node.handle).slot != slot:
            broken("its handle is another's", slot)
    if node.kind == BINARY:
        refer(audit, slot, node.child0)
        refer(audit, slot, node.child1)
        if rewired.n == 0 and (node.flags & LEAF0 and tape.node[node.child0].kind != LEAF
                                or node.flags & LEAF1 and tape.node[node.child1].kind != LEAF):
            broken("a child is no leaf", slot)
    elif node.kind == UNARY:
        refer(audit, slot, node.child0)
    elif node.kind == NARY:
        nary = <Nary *>node.payload.pointer
        for i in range(nary.n_children):
            refer(audit, slot, nary.children[i])
        if nary.place and (nary.place > rewired.n or rewired.items[nary.place - 1] != slot):
            broken("it is rewired, and not listed", slot)
    elif node.kind == CHAIN:
        fold = <Fold *>node.payload.pointer
        if node.owner == slot or slot - fold.first >= fold.rows or (node.flags & ~FLOWED):
            broken("a chain outside its region or rows", slot)
        for i in range(fold.n):
            refer(audit, slot, slot_a(fold, slot - fold.first, i))
            if fold.b_data != NULL:
                refer(audit, slot, slot_b(fold, slot - fold.first, i))


cdef int audit_tape() noexcept nogil:
    """Walk everything; abort with a sentence where an invariant is broken. The tape is at rest."""
    global n_audits, unaudited, patience
    cdef Audit audit
    cdef uint32_t slot, missing
    cdef Node *node
    audit.use = <uint8_t *>calloc(tape_end, sizeof(uint8_t))
    audit.counted = <uint32_t *>calloc(tape_end, sizeof(uint32_t))
    audit.kept_by = <uint32_t *>calloc(tape_end, sizeof(uint32_t))
    if audit.use == NULL or audit.counted == NULL or audit.kept_by == NULL:
        broken("no memory to walk it", 0)
    audit.work = tape_end
    claim_free(&audit)
    for slot in range(1, tape_end):
        node = &tape.node[slot]
        if audit.use[slot] != NODE:
            # Other flags stay, of what it was; whoever takes the slot clears them.
            if audit.use[slot] == FREE_SINGLE and (node.handle != NULL or node.flags & OPEN):
                broken("a free slot has a handle or is open", slot)
        elif node.kind == REGION:
            audit_region(&audit, slot)
        elif node.owner == slot:
            audit_node(&audit, slot)
        elif node.owner == 0 or node.owner >= tape_end or tape.node[node.owner].kind != REGION:
            broken("nobody owns it", slot)  # what does belong to a region is looked at with the region
        elif not in_region(<Region *>tape.node[node.owner].payload.pointer, slot):
            broken("it is not its region's", slot)
    for slot in range(1, tape_end):
        node = &tape.node[slot]
        if audit.use[slot] != NODE or node.owner != slot:
            continue
        missing = <uint32_t>node.refs - audit.counted[slot]
        # A model, or the call that makes it, holds one reference to a region that the walk does not see.
        if missing > (1 if node.kind == REGION else 0):
            fprintf(stderr, "refs %d, counted %u\n", node.refs, audit.counted[slot])
            broken("its references were miscounted", slot)
        if node.refs <= 0:
            broken("nothing refers to it, and it is not free", slot)
    free(audit.use)
    free(audit.counted)
    free(audit.kept_by)
    n_audits += 1
    unaudited, patience = 0, (audit.work - SLAB) >> 11 if audit.work > SLAB else 0
    return MG_OK


cdef void audit_now() noexcept:
    """After an operation: every time while the graphs are small, then less often, so that tests come to an end."""
    global unaudited
    unaudited += 1
    if not tape.busy and deferred.n == 0 and unaudited > patience:
        audit_tape()


def _audits():
    """How often the invariants were walked; None where this is no debug build. For tests."""
    return n_audits if MG_DEBUG else None
