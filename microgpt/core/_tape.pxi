# The tape's memory: single slots, runs of slots, regions, and the counting of references. Part of value.pyx.
#
# Slots for single nodes come from a last-in first-out list; when it is empty, from a slab. Runs of fewer than SMALL_RUN
# slots are kept by size when freed and also come from slabs, so that neither cuts up the space of the large runs, whose
# freed neighbours are joined again. The handle of a recycled slot is NULL.

cdef extern from "base/vmem.h" nogil:
    ctypedef struct mg_vmem:
        char *start
    int mg_vmem_reserve(mg_vmem *range, size_t size)
    int mg_vmem_commit(mg_vmem *range, size_t size)
    void mg_vmem_release(mg_vmem *range)

cdef extern from "microgpt.h":
    enum:
        MG_OK
        MG_NO_MEMORY

cdef extern from *:
    """
    #if defined(__GNUC__) || defined(__clang__)
    #define MG_PREFETCH(address) __builtin_prefetch(address)
    #else
    #define MG_PREFETCH(address) ((void)0)
    #endif
    """
    void MG_PREFETCH(const void *address) nogil

cdef enum:
    SMALL_RUN = 512
    SLAB = 4096
    SORTED_FROM = 512
    FEWEST_SLOTS = 1 << 16
    MOST_SLOTS = 1 << 28

cdef struct Slots:  # a growing array
    uint32_t *items
    size_t n, capacity

cdef struct Run:
    uint32_t base, n

cdef Tape tape
cdef mg_vmem data_range, grad_range, node_range
cdef uint32_t tape_limit = 0  # slots reserved
cdef uint32_t tape_end = 1  # no slot from here on was ever used, or all that were are free again
cdef uint32_t tape_peak = 1  # the largest that tape_end has been: no slot from here on was ever used
cdef Slots free_slots  # single ones; a list of its own, so that freeing and taking a slot need not touch the node
cdef uint32_t slab_next = 0, slab_end = 0
cdef uint32_t small_runs[SMALL_RUN]  # by size: freed runs, linked through the first slot's child0. Single slots are
# among them only where there was no memory for a longer free_slots.
cdef Run *large_runs = NULL  # freed runs in the order of their addresses, no two of them touching
cdef size_t n_large_runs = 0, large_runs_capacity = 0
cdef Slots freed  # of the graph that is being freed


cdef inline int push_slot(Slots *slots, uint32_t slot) noexcept nogil:
    if slots.n == slots.capacity and grow(slots) != MG_OK:
        return MG_NO_MEMORY
    slots.items[slots.n] = slot
    slots.n += 1
    return MG_OK


cdef int grow(Slots *slots) noexcept nogil:
    cdef size_t capacity = 2 * slots.capacity + 1024
    cdef uint32_t *larger = <uint32_t *>realloc(slots.items, capacity * sizeof(uint32_t))
    if larger == NULL:
        return MG_NO_MEMORY
    slots.items, slots.capacity = larger, capacity
    return MG_OK


cdef int reserve_tape() noexcept nogil:
    global tape_limit
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
    tape_limit = n
    memset(small_runs, 0, sizeof(small_runs))
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
    if n > tape_limit or mg_vmem_commit(&data_range, n * sizeof(double)) != MG_OK:
        return MG_NO_MEMORY
    if mg_vmem_commit(&grad_range, n * sizeof(double)) != MG_OK:
        return MG_NO_MEMORY
    return mg_vmem_commit(&node_range, n * sizeof(Node))


cdef uint32_t fresh_run(uint32_t n) noexcept nogil:
    global tape_end, tape_peak
    cdef uint32_t base = tape_end
    if n > tape_limit - base or commit(<size_t>base + n) != MG_OK:
        return 0
    tape_end += n
    tape_peak = max(tape_peak, tape_end)
    return base


cdef uint32_t slab_run(uint32_t n) noexcept nogil:
    """n < SMALL_RUN slots from the slab; what is left of an exhausted one serves single nodes."""
    global slab_next, slab_end
    cdef uint32_t base
    if n > slab_end - slab_next:
        base = fresh_run(SLAB)
        if base == 0:
            return last_run(n)
        while slab_next < slab_end:
            give_slot(slab_next)
            slab_next += 1
        slab_next, slab_end = base, base + SLAB
    base = slab_next
    slab_next += n
    return base


cdef inline void give_slot(uint32_t slot) noexcept nogil:
    if push_slot(&free_slots, slot) != MG_OK:
        give_small_run(slot, 1)


cdef void give_small_run(uint32_t base, uint32_t n) noexcept nogil:
    """Free n < SMALL_RUN slots. Takes no memory."""
    tape.node[base].child0 = small_runs[n]
    small_runs[n] = base


cdef inline uint32_t take_slot() noexcept nogil:
    """A slot for a single node, or 0."""
    if free_slots.n == 0:
        return slab_run(1)
    free_slots.n -= 1
    return free_slots.items[free_slots.n]


cdef uint32_t take_run(uint32_t n) noexcept nogil:
    """The first of n contiguous slots, or 0."""
    cdef uint32_t base
    if n < SMALL_RUN:
        base = small_runs[n]
        if base == 0:
            return slab_run(n)
        small_runs[n] = tape.node[base].child0
        return base
    base = large_run(n)
    if base == 0:
        base = fresh_run(n)
    return base if base else last_run(n)


cdef uint32_t large_run(uint32_t n) noexcept nogil:
    """n slots from the freed large runs, or 0."""
    cdef uint32_t base
    cdef size_t i
    for i in range(n_large_runs):
        if large_runs[i].n >= n:
            base = large_runs[i].base
            large_runs[i].base += n
            large_runs[i].n -= n
            if large_runs[i].n == 0:
                remove_large_run(i)
            return base
    return 0


cdef void remove_large_run(size_t i) noexcept nogil:
    global n_large_runs
    n_large_runs -= 1
    memmove(&large_runs[i], &large_runs[i + 1], (n_large_runs - i) * sizeof(Run))


cdef void give_run(uint32_t base, uint32_t n) noexcept nogil:
    """Free n slots that nothing refers to, taken as one run."""
    global n_large_runs, large_runs_capacity, large_runs, tape_end
    cdef size_t low = 0, high = n_large_runs, middle
    cdef Run *larger
    if n < SMALL_RUN:
        give_small_run(base, n)
        return
    while low < high:
        middle = (low + high) >> 1
        if large_runs[middle].base < base:
            low = middle + 1
        else:
            high = middle
    # low: the first freed run behind this one. Join it and the one before, where they touch.
    if low < n_large_runs and base + n == large_runs[low].base:
        n += large_runs[low].n
        remove_large_run(low)
    if low > 0 and large_runs[low - 1].base + large_runs[low - 1].n == base:
        low -= 1
        base = large_runs[low].base
        n += large_runs[low].n
        remove_large_run(low)
    if base + n == tape_end:
        tape_end = base
        return
    if n_large_runs == large_runs_capacity:
        larger = <Run *>realloc(large_runs, (2 * large_runs_capacity + 16) * sizeof(Run))
        if larger == NULL:  # so it becomes small ones
            while n >= SMALL_RUN:
                n -= SMALL_RUN - 1
                give_small_run(base + n, SMALL_RUN - 1)
            give_small_run(base, n)
            return
        large_runs = larger
        large_runs_capacity = 2 * large_runs_capacity + 16
    memmove(&large_runs[low + 1], &large_runs[low], (n_large_runs - low) * sizeof(Run))
    large_runs[low].base, large_runs[low].n = base, n
    n_large_runs += 1


# ---- when the tape cannot grow ----
#
# Free slots are kept by what they were used for, and do not become anything else. When there are no fresh ones to be
# had, the free ones are joined and sorted anew, so that the nodes of a chain make room for a layer, or the other way.

cdef uint32_t last_run(uint32_t n) noexcept nogil:
    """n contiguous slots out of all that are free, or 0."""
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
    """n contiguous slots from any list of free ones, or 0."""
    cdef uint32_t base, size
    if n == 1 and free_slots.n:
        return take_slot()
    for size in range(n, <uint32_t>SMALL_RUN):
        base = small_runs[size]
        if base:
            small_runs[size] = tape.node[base].child0
            give_stretch(base + n, size - n)
            return base
    if n == 1 and slab_next < slab_end:
        return slab_run(1)
    return large_run(n)


cdef void give_stretch(uint32_t base, uint32_t n) noexcept nogil:
    """Free n slots, of any number."""
    if n == 1:
        give_slot(base)
    elif n > 1:
        give_run(base, n)


cdef void join_free_slots() noexcept nogil:
    """Sort all free slots into runs that no free slot touches. Takes no memory: the free slots are marked."""
    global n_large_runs, slab_next, slab_end
    cdef Node *node = tape.node
    cdef uint32_t slot, n, i, end = tape_end
    cdef size_t k
    next_sort_number()
    for k in range(free_slots.n):
        node[free_slots.items[k]].mark = sort_number
    for n in range(1, <uint32_t>SMALL_RUN):
        slot = small_runs[n]
        while slot:
            for i in range(n):
                node[slot + i].mark = sort_number
            slot = node[slot].child0
        small_runs[n] = 0
    for k in range(n_large_runs):
        for i in range(large_runs[k].n):
            node[large_runs[k].base + i].mark = sort_number
    while slab_next < slab_end:
        node[slab_next].mark = sort_number
        slab_next += 1
    free_slots.n = n_large_runs = slab_next = slab_end = 0
    while end > 1:  # the highest first, so that of the single ones the lowest are taken first
        n = 0
        while end - n > 1 and node[end - n - 1].mark == sort_number:
            n += 1
        give_stretch(end - n, n)
        end -= n if n else 1


# ---- counting references ----

cdef inline void retain(uint32_t slot) noexcept nogil:
    tape.node[tape.node[slot].owner].refs += 1


cdef void release(uint32_t owner) noexcept nogil:
    """Drop one reference. What nothing refers to any more is freed, however deep: without recursion."""
    cdef Node *node = &tape.node[owner]
    node.refs -= 1
    if node.refs == 0:
        free_owner(owner)


cdef void free_owner(uint32_t owner) noexcept nogil:
    cdef Node *nodes = tape.node
    cdef Node *node
    # Owners without references wait in a queue, linked through refs, which they no longer need: first come, first
    # served, so that the memory of a node's children has time to arrive before its turn.
    cdef uint32_t last = owner, slot = owner, following, i
    cdef Nary *nary
    cdef Region *region
    while True:
        node = &nodes[slot]
        region = NULL
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
        elif node.kind == REGION:
            region = <Region *>node.payload.pointer
            for i in range(region.n_kept):
                drop(region.kept[i], &last)
        following = <uint32_t>node.refs
        if region != NULL:
            free_region(region)
        elif following == 0 and freed.n == 0:  # the most frequent case: one node, its children live on
            give_slot(slot)
        elif push_slot(&freed, slot) != MG_OK:
            give_slot(slot)
        if following == 0:
            break
        slot = following
    if freed.n:
        give_freed()


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


cdef void free_region(Region *region) noexcept nogil:
    cdef uint32_t i
    for i in range(region.n_runs):
        give_run(region.runs[2 * i], region.runs[2 * i + 1])
    give_run(region.base, region.n)
    free(region.kept)
    free(region.runs)
    free(region.memory)
    free(region)


cdef void give_freed() noexcept nogil:
    """Put the slots of a graph on the free list, the lowest first if they are many.

    A graph is freed in another order than it was built in. Left like that, the free slots of a training loop would be
    shuffled a little more every step, until every access to a node misses the caches.
    """
    cdef uint32_t low = 0xFFFFFFFF, high = 0, word_index
    cdef uint64_t *bits
    cdef size_t k
    if freed.n >= SORTED_FROM:
        for k in range(freed.n):
            low, high = min(low, freed.items[k]), max(high, freed.items[k])
        bits = <uint64_t *>calloc(((high - low) >> 6) + 1, 8) if (high - low) >> 8 <= freed.n else NULL
        if bits != NULL:
            for k in range(freed.n):
                bits[(freed.items[k] - low) >> 6] |= <uint64_t>1 << ((freed.items[k] - low) & 63)
            word_index = ((high - low) >> 6) + 1
            while word_index:
                word_index -= 1
                if bits[word_index]:
                    k = 64
                    while k:
                        k -= 1
                        if bits[word_index] >> k & 1:
                            give_slot(low + (word_index << 6) + <uint32_t>k)
            free(bits)
            freed.n = 0
    while freed.n:
        freed.n -= 1
        give_slot(freed.items[freed.n])
    if freed.capacity > 1 << 20:
        free(freed.items)
        freed.items, freed.capacity = NULL, 0


# ---- regions ----

cdef uint32_t make_region(uint32_t n, size_t memory_size, void **memory) noexcept nogil:
    """The header of a new region, or 0. Its n nodes follow it, not yet filled in; *memory is memory_size bytes.

    The caller holds one reference, to be released when the Values that it hands out have been made.
    """
    cdef Region *region = <Region *>calloc(1, sizeof(Region))
    cdef uint32_t base
    cdef Node *header
    if region == NULL:
        return 0
    region.memory = malloc(memory_size if memory_size else 1)
    base = take_run(n + 1) if region.memory != NULL else 0
    if base == 0:
        free(region.memory)
        free(region)
        return 0
    region.base, region.n = base, n + 1
    header = &tape.node[base]
    header.kind, header.flags = REGION, 0
    header.payload.pointer = region
    header.owner = base
    header.refs = 1
    memory[0] = region.memory
    return base


cdef int append(uint32_t **items, uint32_t *n, uint32_t *capacity, uint32_t value) noexcept nogil:
    cdef uint32_t *larger
    if n[0] == capacity[0]:
        larger = <uint32_t *>realloc(items[0], (2 * <size_t>capacity[0] + 4) * sizeof(uint32_t))
        if larger == NULL:
            return MG_NO_MEMORY
        items[0] = larger
        capacity[0] = 2 * capacity[0] + 4
    items[0][n[0]] = value
    n[0] += 1
    return MG_OK


cdef void know_order(uint32_t owner, uint32_t *order, uint32_t n) noexcept nogil:
    cdef Region *region = <Region *>tape.node[owner].payload.pointer
    region.order, region.n_order = order, n


cdef inline void forget_order(uint32_t slot) noexcept nogil:
    """Somebody looks inside the region of this node, so that its nodes may be visited in other ways."""
    cdef Node *owner = &tape.node[tape.node[slot].owner]
    if owner.kind == REGION:
        (<Region *>owner.payload.pointer).order = NULL


cdef int keep(uint32_t owner, uint32_t slot) noexcept nogil:
    """Let the region `owner` hold a reference to the node slot, one of its operands."""
    cdef Region *region = <Region *>tape.node[owner].payload.pointer
    cdef uint32_t kept = tape.node[slot].owner
    if kept == owner or (region.n_kept and region.kept[region.n_kept - 1] == kept):
        return MG_OK  # the operands of a layer mostly belong to one region
    if append(&region.kept, &region.n_kept, &region.kept_capacity, kept) != MG_OK:
        return MG_NO_MEMORY
    tape.node[kept].refs += 1
    return MG_OK


cdef uint32_t extend_region(uint32_t owner, uint32_t n) noexcept nogil:
    """n more slots that are freed with the region, or 0."""
    cdef Region *region = <Region *>tape.node[owner].payload.pointer
    cdef uint32_t *larger
    cdef uint32_t base, capacity
    if region.n_runs == region.runs_capacity:
        capacity = 2 * region.runs_capacity + 4
        larger = <uint32_t *>realloc(region.runs, 2 * <size_t>capacity * sizeof(uint32_t))
        if larger == NULL:
            return 0
        region.runs, region.runs_capacity = larger, capacity
    base = take_run(n)
    if base:
        region.runs[2 * region.n_runs], region.runs[2 * region.n_runs + 1] = base, n
        region.n_runs += 1
    return base
