# cython: language_level=3, cdivision=True
"""The tape's memory: slots, runs of slots, references and freeing. tape.pxd says what a slot is, and holds what is inlined.

Slots for single nodes come from a last-in first-out list; when it is empty, from a slab. Runs of fewer than SMALL_RUN
slots are kept by size when freed and also come from slabs, so that neither fragments the space of the large runs, whose
freed neighbours are joined again. The handle of a recycled slot is NULL.
"""
from libc.stdint cimport int32_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, realloc
from libc.string cimport memmove

from microgpt.core.vmem cimport mg_vmem, mg_vmem_commit, mg_vmem_release, mg_vmem_reserve


cdef enum:
    SORTED_FROM = 512
    FEWEST_SLOTS = 1 << 16

cdef mg_vmem data_range, grad_range, node_range


cdef int grow(Slots *slots) noexcept nogil:
    cdef size_t capacity = 2 * slots.capacity + 1024
    cdef uint32_t *larger = <uint32_t *>realloc(slots.items, capacity * sizeof(uint32_t))
    if larger == NULL:
        return MG_NO_MEMORY
    slots.items, slots.capacity = larger, capacity
    return MG_OK


cdef int reserve_tape() noexcept nogil:
    cdef uint32_t n = MOST_SLOTS
    if reserve_ranges(n) != MG_OK:
        # A limit on address space (ulimit -v, a small machine). Half of what there is must do: lists of slots, the
        # memory of layers and the rest of the program need some, too.
        n >>= 1
        while reserve_ranges(n) != MG_OK:
            n >>= 1
            if n < FEWEST_SLOTS:
                return MG_NO_MEMORY
        if n > FEWEST_SLOTS:
            release_ranges()
            n >>= 1
            if reserve_ranges(n) != MG_OK:
                return MG_NO_MEMORY
    tape.data = <double *>data_range.start
    tape.grad = <double *>grad_range.start
    tape.node = <Node *>node_range.start
    tape.limit = n
    tape.end = tape.peak = 1
    return commit(1)


cdef int reserve_ranges(size_t n) noexcept nogil:
    if (mg_vmem_reserve(&data_range, n * sizeof(double)) == MG_OK
            and mg_vmem_reserve(&grad_range, n * sizeof(double)) == MG_OK
            and mg_vmem_reserve(&node_range, n * sizeof(Node)) == MG_OK):
        return MG_OK
    release_ranges()
    return MG_NO_MEMORY


cdef void release_ranges() noexcept nogil:
    mg_vmem_release(&data_range)
    mg_vmem_release(&grad_range)
    mg_vmem_release(&node_range)


cdef int commit(size_t n) noexcept nogil:
    """Back the first n slots with memory."""
    if n > tape.limit or mg_vmem_commit(&data_range, n * sizeof(double)) != MG_OK:
        return MG_NO_MEMORY
    if mg_vmem_commit(&grad_range, n * sizeof(double)) != MG_OK:
        return MG_NO_MEMORY
    return mg_vmem_commit(&node_range, n * sizeof(Node))


cdef uint32_t fresh_run(uint32_t n) noexcept nogil:
    cdef uint32_t base = tape.end
    if n > tape.limit - base or commit(<size_t>base + n) != MG_OK:
        return 0
    tape.end += n
    tape.peak = max(tape.peak, tape.end)
    return base


cdef uint32_t slab_run(uint32_t n) noexcept nogil:
    """Return n < SMALL_RUN slots from the slab; what is left of an exhausted one serves single nodes."""
    cdef uint32_t base
    if n > tape.slab_end - tape.slab_next:
        base = fresh_run(SLAB)
        if base == 0:
            return last_run(n)
        while tape.slab_next < tape.slab_end:
            slot_free(tape.slab_next)
            tape.slab_next += 1
        tape.slab_next, tape.slab_end = base, base + SLAB
    base = tape.slab_next
    tape.slab_next += n
    return base


cdef void small_run_free(uint32_t base, uint32_t n) noexcept nogil:
    """Free n < SMALL_RUN slots. Takes no memory."""
    tape.node[base].child0 = tape.small_runs[n]
    tape.small_runs[n] = base


cdef uint32_t run_alloc(uint32_t n) noexcept nogil:
    """Return the first of n contiguous slots, or 0."""
    cdef uint32_t base
    if n < SMALL_RUN:
        base = tape.small_runs[n]
        if base == 0:
            return slab_run(n)
        tape.small_runs[n] = tape.node[base].child0
        return base
    base = large_run(n)
    if base == 0:
        base = fresh_run(n)
    return base if base else last_run(n)


cdef uint32_t large_run(uint32_t n) noexcept nogil:
    """Return the first of n slots from the freed large runs, or 0."""
    cdef uint32_t base
    cdef size_t i
    for i in range(tape.n_large_runs):
        if tape.large_runs[i].n >= n:
            base = tape.large_runs[i].base
            tape.large_runs[i].base += n
            tape.large_runs[i].n -= n
            if tape.large_runs[i].n == 0:
                remove_large_run(i)
            return base
    return 0


cdef void remove_large_run(size_t i) noexcept nogil:
    tape.n_large_runs -= 1
    memmove(&tape.large_runs[i], &tape.large_runs[i + 1], (tape.n_large_runs - i) * sizeof(Run))


cdef void run_free(uint32_t base, uint32_t n) noexcept nogil:
    """Free n slots that nothing refers to, taken as one run."""
    cdef size_t low = 0, high = tape.n_large_runs, middle
    cdef Run *larger
    if n < SMALL_RUN:
        small_run_free(base, n)
        return
    while low < high:
        middle = (low + high) >> 1
        if tape.large_runs[middle].base < base:
            low = middle + 1
        else:
            high = middle
    # low: the first freed run behind this one. Join it and the one before, where they touch.
    if low < tape.n_large_runs and base + n == tape.large_runs[low].base:
        n += tape.large_runs[low].n
        remove_large_run(low)
    if low > 0 and tape.large_runs[low - 1].base + tape.large_runs[low - 1].n == base:
        low -= 1
        base = tape.large_runs[low].base
        n += tape.large_runs[low].n
        remove_large_run(low)
    if base + n == tape.end:
        tape.end = base
        return
    if tape.n_large_runs == tape.large_runs_capacity:
        larger = <Run *>realloc(tape.large_runs, (2 * tape.large_runs_capacity + 16) * sizeof(Run))
        if larger == NULL:  # so it becomes small ones
            while n >= SMALL_RUN:
                n -= SMALL_RUN - 1
                small_run_free(base + n, SMALL_RUN - 1)
            small_run_free(base, n)
            return
        tape.large_runs = larger
        tape.large_runs_capacity = 2 * tape.large_runs_capacity + 16
    memmove(&tape.large_runs[low + 1], &tape.large_runs[low], (tape.n_large_runs - low) * sizeof(Run))
    tape.large_runs[low].base, tape.large_runs[low].n = base, n
    tape.n_large_runs += 1


# ---- when the tape cannot grow ----
#
# Free slots are kept by what they were used for, and do not become anything else. When there are no fresh ones to be
# had, the free ones are joined and sorted again, so that the nodes of a graph make room for a layer, or the other way.

cdef uint32_t last_run(uint32_t n) noexcept nogil:
    """Return the first of n contiguous slots out of all that are free, or 0."""
    cdef uint32_t base = any_run(n)
    if base == 0:
        base = fresh_run(n)
    if base == 0 and n > 1:  # a single one would have been found
        join_free_slots()
        base = any_run(n)
        if base == 0:
            base = fresh_run(n)  # free slots at the end of the tape are fresh ones now
    return base


cdef uint32_t any_run(uint32_t n) noexcept nogil:
    """Return the first of n contiguous slots from any list of free ones, or 0."""
    cdef uint32_t base, size
    if n == 1 and tape.free_slots.n:
        return slot_alloc()
    for size in range(n, <uint32_t>SMALL_RUN):
        base = tape.small_runs[size]
        if base:
            tape.small_runs[size] = tape.node[base].child0
            stretch_free(base + n, size - n)
            return base
    if n == 1 and tape.slab_next < tape.slab_end:
        return slab_run(1)
    return large_run(n)


cdef void stretch_free(uint32_t base, uint32_t n) noexcept nogil:
    """Free n slots, of any number."""
    if n == 1:
        slot_free(base)
    elif n > 1:
        run_free(base, n)


cdef void join_free_slots() noexcept nogil:
    """Sort all free slots into runs that no free slot touches. Takes no memory: the free slots are marked."""
    cdef Node *node = tape.node
    cdef uint32_t slot, n, i, end = tape.end
    cdef size_t k
    next_mark()
    for k in range(tape.free_slots.n):
        node[tape.free_slots.items[k]].mark = tape.mark
    for n in range(1, <uint32_t>SMALL_RUN):
        slot = tape.small_runs[n]
        while slot:
            for i in range(n):
                node[slot + i].mark = tape.mark
            slot = node[slot].child0
        tape.small_runs[n] = 0
    for k in range(tape.n_large_runs):
        for i in range(tape.large_runs[k].n):
            node[tape.large_runs[k].base + i].mark = tape.mark
    while tape.slab_next < tape.slab_end:
        node[tape.slab_next].mark = tape.mark
        tape.slab_next += 1
    tape.free_slots.n = tape.n_large_runs = tape.slab_next = tape.slab_end = 0
    while end > 1:  # the highest first, so that of the single ones the lowest are taken first
        n = 0
        while end - n > 1 and node[end - n - 1].mark == tape.mark:
            n += 1
        stretch_free(end - n, n)
        end -= n if n else 1


cdef void free_owner(uint32_t owner) noexcept nogil:
    cdef Node *nodes = tape.node
    cdef Node *node
    # Owners without references wait in a queue, linked through refs, which they no longer need: first come, first served,
    # so that the memory of a node's children has time to arrive before its turn.
    cdef uint32_t last = owner, slot = owner, following, i
    cdef Nary *nary
    cdef DotRows *dots
    cdef Block *block
    while True:
        node = &nodes[slot]
        block = NULL
        if node.kind == BINARY:
            drop(nodes[node.child1].owner, &last)
            drop(nodes[node.child0].owner, &last)
        elif node.kind == UNARY:
            drop(nodes[node.child0].owner, &last)
        elif node.kind == NARY:
            nary = <Nary *>node.payload.pointer
            for i in range(nary.n_children):
                drop(nodes[nary.children[i]].owner, &last)
            free_nary(nary)
        elif node.kind == DOT:
            dots = <DotRows *>node.payload.pointer
            for i in range(dots.n):
                drop(nodes[dots.b_slots[i]].owner, &last)
                drop(nodes[dots.a_slots[i]].owner, &last)
            free(dots)
        elif node.kind == BLOCK:
            block = <Block *>node.payload.pointer
            for i in range(block.n_held):
                drop(block.held[i], &last)
        following = <uint32_t>node.refs
        if block != NULL:
            free_block(block)
        elif following == 0 and tape.freed.n == 0:  # the most frequent case: one node, its children live on
            slot_free(slot)
        elif push_slot(&tape.freed, slot) != MG_OK:
            slot_free(slot)
        if following == 0:
            break
        slot = following
    if tape.freed.n:
        free_collected()


cdef inline void drop(uint32_t owner, uint32_t *last) noexcept nogil:
    cdef Node *node = &tape.node[owner]
    node.refs -= 1
    if node.refs != 0:
        return
    tape.node[last[0]].refs = <int32_t>owner
    last[0] = owner
    if node.kind == BINARY:
        MG_PREFETCH(&tape.node[node.child0].owner)
        MG_PREFETCH(&tape.node[node.child1].owner)
    elif node.kind == DOT:
        prefetch_payload(node, 5)  # to the end of 16 terms' slots


cdef void free_block(Block *block) noexcept nogil:
    cdef uint32_t i
    if block.replay != NULL:
        block.replay.release(block.replay)
    for i in range(block.n_runs):
        run_free(block.runs[2 * i], block.runs[2 * i + 1])
    run_free(block.base, block.n)
    free(block.held)
    free(block.runs)
    free(block.memory)
    free(block)


cdef void free_collected() noexcept nogil:
    """Put the slots of a graph on the free list, the lowest first if they are many.

    A graph is freed in another order than it was built in. Left like that, the free slots of a training loop would be
    shuffled a little more every step, until every access to a node misses the caches.
    """
    cdef uint32_t low = 0xFFFFFFFF, high = 0, word_index
    cdef uint64_t *bits
    cdef size_t k
    if tape.freed.n >= SORTED_FROM:
        for k in range(tape.freed.n):
            low, high = min(low, tape.freed.items[k]), max(high, tape.freed.items[k])
        bits = <uint64_t *>calloc(((high - low) >> 6) + 1, 8) if (high - low) >> 8 <= tape.freed.n else NULL
        if bits != NULL:
            for k in range(tape.freed.n):
                bits[(tape.freed.items[k] - low) >> 6] |= <uint64_t>1 << ((tape.freed.items[k] - low) & 63)
            word_index = ((high - low) >> 6) + 1
            while word_index:
                word_index -= 1
                if bits[word_index]:
                    k = 64
                    while k:
                        k -= 1
                        if bits[word_index] >> k & 1:
                            slot_free(low + (word_index << 6) + <uint32_t>k)
            free(bits)
            tape.freed.n = 0
    while tape.freed.n:
        tape.freed.n -= 1
        slot_free(tape.freed.items[tape.freed.n])
    if tape.freed.capacity > 1 << 20:
        free(tape.freed.items)
        tape.freed.items, tape.freed.capacity = NULL, 0


# ---- rewired nodes and the numbers of sorts ----

cdef void unlist(Nary *nary) noexcept nogil:
    """Take a rewired node, whose payload this still is, out of the list. The last of the list takes its place."""
    cdef uint32_t last
    tape.rewired.n -= 1
    last = tape.rewired.items[tape.rewired.n]
    tape.rewired.items[nary.place - 1] = last
    (<Nary *>tape.node[last].payload.pointer).place = nary.place
    nary.place = 0


cdef void free_nary(Nary *nary) noexcept nogil:
    if nary.place:
        unlist(nary)
    free(nary)


cdef void next_mark() noexcept nogil:
    """Make tape.mark a number that no slot is marked with."""
    cdef uint32_t slot
    tape.n_sorts += 1
    tape.mark = <uint32_t>tape.n_sorts
    if tape.mark == 0:  # the numbers wrap around, so no mark may stay, not even on slots that are not in use now
        for slot in range(1, tape.peak):
            tape.node[slot].mark = 0
        tape.n_sorts += 1
        tape.mark = 1


if reserve_tape() != MG_OK:
    raise MemoryError("no address space for the nodes of the graph")
