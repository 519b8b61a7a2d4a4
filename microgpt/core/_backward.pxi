# backward(): the order of the nodes, the folded chains in it, and the accumulation. Part of value.pyx.
#
# The script sorts depth first, children from left to right, and walks the result backwards; the order decides in which
# sequence contributions to one gradient are added, and so their last bits. Leaves send nothing, so they need no place.
#
# A folded chain stands in the order as one node, at the head's place, and sends its contributions for the terms
# n, ..., 1 there. In the script the multiplications of the terms stand between the nodes that were first visited from
# those terms: reversed, term i sends, then everything first visited from term i, then term i - 1. The two sequences of
# additions differ only where a node first visited from a term i >= 2 has a child that is an operand of a term j < i.
# Exactly this is detected: while such visits go on, the operands of the terms before are OPEN, and whoever is visited
# looks whether a child is. If so, the chain is unfolded into the script's explicit nodes, and the sort starts again.
# No slot is open on behalf of two chains, because the inner one's visit has already closed the outer one.

cdef struct Frame:
    uint32_t slot
    uint32_t next  # the child to look at next; of a chain, 2 * term + side

cdef struct OpenChain:
    uint32_t slot
    uint32_t upto  # the operands of terms below this one are open
    bint conflict

cdef Frame *frames = NULL
cdef size_t frames_capacity = 0
cdef OpenChain *open_chains = NULL
cdef size_t n_open = 0, open_capacity = 0
cdef Slots order, to_unfold
cdef uint64_t n_sorts = 0
cdef uint32_t sort_number = 0  # its low 32 bits, never 0

# What is known to be a leaf (LEAF0, LEAF1, a_leaves, b_leaves) is not visited. It is known from when the parent was made,
# and a second __init__ may have given the leaf children since. So while a rewired node lives, every child is visited.
# Region.order needs no such check: its leaves belong to a model or to the region, and these cannot be initialised again.


cdef int more_frames() noexcept nogil:
    global frames, frames_capacity
    cdef size_t capacity = 2 * frames_capacity + 1024
    cdef Frame *larger = <Frame *>realloc(frames, capacity * sizeof(Frame))
    if larger == NULL:
        return MG_NO_MEMORY
    frames, frames_capacity = larger, capacity
    return MG_OK


cdef void trim_stacks() noexcept nogil:
    """Give back what only a very deep or large graph needed."""
    global frames, frames_capacity
    if frames_capacity > 1 << 16:
        free(frames)
        frames, frames_capacity = NULL, 0
    if order.capacity > 1 << 16:
        free(order.items)
        order.items, order.capacity = NULL, 0
    if to_unfold.capacity > 1 << 16:
        free(to_unfold.items)
        to_unfold.items, to_unfold.capacity = NULL, 0


# ---- open chains ----

cdef void mark_operands(OpenChain *chain, uint32_t upto) noexcept nogil:
    """Open the operands of the terms below upto."""
    cdef Fold *fold = fold_of(chain.slot)
    cdef uint32_t row = chain.slot - fold.first
    while chain.upto < upto:
        tape.node[slot_a(fold, row, chain.upto)].flags |= OPEN
        if fold.b_data != NULL:
            tape.node[slot_b(fold, row, chain.upto)].flags |= OPEN
        chain.upto += 1


cdef void close_chain(OpenChain *chain) noexcept nogil:
    cdef Fold *fold = fold_of(chain.slot)
    cdef uint32_t row = chain.slot - fold.first, i
    for i in range(chain.upto):
        tape.node[slot_a(fold, row, i)].flags &= ~OPEN
        if fold.b_data != NULL:
            tape.node[slot_b(fold, row, i)].flags &= ~OPEN
    chain.upto = 0


cdef int conflict(uint32_t slot) noexcept nogil:
    """A node below an open chain has the open slot as a child: close that chain, it will have to be unfolded."""
    cdef size_t k = n_open
    cdef OpenChain *chain
    cdef Fold *fold
    cdef uint32_t row, i
    while k:
        k -= 1
        chain = &open_chains[k]
        fold = fold_of(chain.slot)
        row = chain.slot - fold.first
        for i in range(chain.upto):
            if slot_a(fold, row, i) == slot or (fold.b_data != NULL and slot_b(fold, row, i) == slot):
                close_chain(chain)
                chain.conflict = True
                return push_slot(&to_unfold, chain.slot)
    return MG_OK


cdef void hull(Fold *fold, uint32_t row, uint32_t *low, uint32_t *high) noexcept nogil:
    """Bounds of the operands' slots: low[0] to high[0] for a, [1] for b."""
    if fold.a_slots == NULL:
        low[0] = slot_a(fold, row, 0)
        high[0] = slot_a(fold, row, fold.n - 1)
    else:
        low[0], high[0] = fold.a_low, fold.a_high
    if fold.b_data == NULL:
        low[1], high[1] = low[0], high[0]
    elif fold.b_slots == NULL:
        low[1] = slot_b(fold, row, 0)
        high[1] = slot_b(fold, row, fold.n - 1)
    else:
        low[1], high[1] = fold.b_low, fold.b_high


cdef bint may_be_open(uint32_t slot) noexcept nogil:
    """Whether an operand of this chain can be open at all: a few comparisons instead of 2n looks."""
    cdef Fold *fold = fold_of(slot)
    cdef Fold *other
    cdef uint32_t low[2]
    cdef uint32_t high[2]
    cdef uint32_t other_low[2]
    cdef uint32_t other_high[2]
    cdef size_t k
    cdef int i, j
    hull(fold, slot - fold.first, low, high)
    for k in range(n_open):
        if open_chains[k].upto == 0:
            continue
        other = fold_of(open_chains[k].slot)
        hull(other, open_chains[k].slot - other.first, other_low, other_high)
        for i in range(2):
            for j in range(2):
                if low[i] <= other_high[j] and other_low[j] <= high[i]:
                    return True
    return False


cdef int enter_chain(uint32_t slot) noexcept nogil:
    """What a chain owes the sort when it is first visited: see whether it, or an open one, must be unfolded."""
    cdef Fold *fold = fold_of(slot)
    cdef uint32_t row = slot - fold.first, i
    if tape.node[slot].flags & FLOWED:  # a second backward: the grads inside no longer agree with each other
        if push_slot(&to_unfold, slot) != MG_OK:
            return MG_NO_MEMORY
    if n_open and may_be_open(slot):
        for i in range(fold.n):
            if tape.node[slot_a(fold, row, i)].flags & OPEN:
                if conflict(slot_a(fold, row, i)) != MG_OK:
                    return MG_NO_MEMORY
            if fold.b_data != NULL and tape.node[slot_b(fold, row, i)].flags & OPEN:
                if conflict(slot_b(fold, row, i)) != MG_OK:
                    return MG_NO_MEMORY
    return MG_OK


cdef int open_before(uint32_t slot, uint32_t term) noexcept nogil:
    """Open the operands of this chain's terms before `term`, from which an unvisited node is about to be visited."""
    global open_chains, n_open, open_capacity
    cdef OpenChain *larger
    cdef size_t capacity
    if n_open == 0 or open_chains[n_open - 1].slot != slot:
        if n_open == open_capacity:
            capacity = 2 * open_capacity + 64
            larger = <OpenChain *>realloc(open_chains, capacity * sizeof(OpenChain))
            if larger == NULL:
                return MG_NO_MEMORY
            open_chains, open_capacity = larger, capacity
        open_chains[n_open].slot = slot
        open_chains[n_open].upto = 0
        open_chains[n_open].conflict = False
        n_open += 1
    if not open_chains[n_open - 1].conflict:
        mark_operands(&open_chains[n_open - 1], term)
    return MG_OK


# ---- the sort ----

cdef void next_sort_number() noexcept nogil:
    """Make sort_number a number that no slot is marked with."""
    global n_sorts, sort_number
    n_sorts += 1
    sort_number = <uint32_t>n_sorts
    if sort_number == 0:  # the numbers begin anew, so no mark may stay, not even on slots that are not in use now
        forget_marks()
        n_sorts += 1
        sort_number = 1


cdef void forget_marks() noexcept nogil:
    cdef uint32_t slot
    for slot in range(1, tape_peak):
        tape.node[slot].mark = 0


cdef inline bint unvisited(uint32_t slot) noexcept nogil:
    return tape.node[slot].kind != LEAF and tape.node[slot].mark != sort_number


cdef uint32_t next_of_chain(Frame *frame) noexcept nogil:
    """The next unvisited operand, or 0 when the chain is done. Rows that share a side look at it once."""
    cdef Fold *fold = fold_of(frame.slot)
    cdef uint32_t row = frame.slot - fold.first, slot
    cdef bint skip_a = (fold.a_leaves and rewired.n == 0) or (fold.a_row == 0 and fold.a_sort == n_sorts)
    cdef bint skip_b = (fold.b_data == NULL or (fold.b_leaves and rewired.n == 0)
                        or (fold.b_row == 0 and fold.b_sort == n_sorts))
    if not (skip_a and skip_b):
        while frame.next < 2 * fold.n:
            frame.next += 1
            if frame.next & 1:
                if skip_a:
                    continue
                slot = slot_a(fold, row, (frame.next - 1) >> 1)
            else:
                if skip_b:
                    continue
                slot = slot_b(fold, row, (frame.next - 1) >> 1)
            if unvisited(slot):
                return slot
    if fold.a_row == 0:
        fold.a_sort = n_sorts
    if fold.b_row == 0:
        fold.b_sort = n_sorts
    return 0


cdef Region *known_order(uint32_t slot) noexcept nogil:
    """The region whose order is known and which is entered here, through its last node, as only it can be; or NULL."""
    cdef Node *owner = &tape.node[tape.node[slot].owner]
    cdef Region *region
    cdef size_t k
    if owner.kind != REGION:
        return NULL
    region = <Region *>owner.payload.pointer
    if region.order == NULL or region.order[region.n_order - 1] != slot:
        return NULL
    for k in range(n_open):
        if open_chains[k].upto:  # somebody has to look which of its nodes has an open child
            return NULL
    return region


cdef int append_order(Region *region) noexcept nogil:
    cdef uint32_t *larger
    cdef size_t capacity = order.n + region.n_order
    if capacity > order.capacity:
        larger = <uint32_t *>realloc(order.items, 2 * capacity * sizeof(uint32_t))
        if larger == NULL:
            return MG_NO_MEMORY
        order.items, order.capacity = larger, 2 * capacity
    memcpy(order.items + order.n, region.order, region.n_order * sizeof(uint32_t))
    order.n = capacity
    return MG_OK


cdef int sort_once(uint32_t root) noexcept nogil:
    """Fill order with the nodes below root that have children, children before parents, in the script's sequence."""
    global n_open
    cdef Node *node = tape.node
    cdef Node *parent
    cdef Nary *nary
    cdef Frame *frame
    cdef Region *region
    cdef size_t depth = 0
    cdef uint32_t child
    next_sort_number()
    order.n = 0
    n_open = 0
    child = root if node[root].kind != LEAF else 0
    while True:
        if child:  # visit it
            node[child].mark = sort_number
            region = known_order(child) if node[child].kind == BINARY else NULL
            if region != NULL:
                if append_order(region) != MG_OK:
                    return MG_NO_MEMORY
                child = 0
        if child:
            if depth == frames_capacity and more_frames() != MG_OK:
                return MG_NO_MEMORY
            frames[depth].slot, frames[depth].next = child, 0
            if child > 10:
                MG_PREFETCH(&node[child - 10].mark)
            depth += 1
            if node[child].kind == CHAIN and enter_chain(child) != MG_OK:
                return MG_NO_MEMORY
            if node[child].kind == PROGRAM and enter_program(child) != MG_OK:
                return MG_NO_MEMORY
        if depth == 0:
            return MG_OK
        frame = &frames[depth - 1]
        parent = &node[frame.slot]
        child = 0
        if parent.kind == CHAIN:
            child = next_of_chain(frame)
            if child:
                if frame.next > 2 and open_before(frame.slot, (frame.next - 1) >> 1) != MG_OK:
                    return MG_NO_MEMORY
                continue
            if n_open and open_chains[n_open - 1].slot == frame.slot:
                close_chain(&open_chains[n_open - 1])
                n_open -= 1
        elif parent.kind == NARY:
            nary = <Nary *>parent.payload.pointer
            while frame.next < nary.n_children and child == 0:
                child = nary.children[frame.next]
                frame.next += 1
                if node[child].flags & OPEN and conflict(child) != MG_OK:
                    return MG_NO_MEMORY
                if not unvisited(child):
                    child = 0
            if child:
                continue
        elif parent.kind != PROGRAM:
            # A child that was a leaf when its parent was made need not be looked at, which often means a cache miss.
            if frame.next == 0:
                frame.next = 1
                child = parent.child0
                if parent.kind == BINARY:
                    MG_PREFETCH(&node[parent.child1].mark)
                if n_open or rewired.n or not parent.flags & LEAF0:
                    if node[child].flags & OPEN and conflict(child) != MG_OK:
                        return MG_NO_MEMORY
                    if unvisited(child):
                        continue
            if frame.next == 1 and parent.kind == BINARY:
                frame.next = 2
                child = parent.child1
                if n_open or rewired.n or not parent.flags & LEAF1:
                    if node[child].flags & OPEN and conflict(child) != MG_OK:
                        return MG_NO_MEMORY
                    if unvisited(child):
                        continue
            child = 0
        if push_slot(&order, frame.slot) != MG_OK:
            return MG_NO_MEMORY
        depth -= 1


cdef int sort(uint32_t root) noexcept nogil:
    """Fill order, unfolding what must be unfolded on the way."""
    global n_open
    cdef int code
    cdef size_t k
    while True:
        to_unfold.n = 0
        code = sort_once(root)
        while n_open:  # only after a failure
            n_open -= 1
            close_chain(&open_chains[n_open])
        for k in range(to_unfold.n):
            if code == MG_OK and tape.node[to_unfold.items[k]].kind == CHAIN:
                code = unfold(to_unfold.items[k])
            elif code == MG_OK and tape.node[to_unfold.items[k]].kind == PROGRAM:
                code = expand_program(to_unfold.items[k])
        if code != MG_OK or to_unfold.n == 0:
            return code


# ---- the accumulation ----

cdef void accumulate() noexcept nogil:
    cdef Node *nodes = tape.node
    cdef Node *node
    cdef double *grad = tape.grad
    cdef double flowed
    cdef Nary *nary
    cdef uint32_t slot, i
    cdef size_t k = order.n
    while k:
        k -= 1
        slot = order.items[k]
        node = &nodes[slot]
        if k >= 16:
            MG_PREFETCH(&nodes[order.items[k - 16]])
        if node.kind == BINARY:
            grad[node.child0] += node.local_grad0 * grad[slot]
            grad[node.child1] += node.payload.local_grad * grad[slot]
        elif node.kind == UNARY:
            grad[node.child0] += node.local_grad0 * grad[slot]
        elif node.kind == CHAIN:
            accumulate_chain(slot)
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
