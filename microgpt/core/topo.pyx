# cython: language_level=3, cdivision=True
"""The order of the nodes for backward.

The script sorts depth first, children from left to right, and walks the result backwards; the order decides in which
sequence contributions to one gradient are added, and so their last bits. Leaves send nothing, so they have no place in it.

A dot product is one node of the order, at the place of its last addition, and sends its contributions for the terms
n, ..., 1 there. In the script the multiplications of the terms stand between the nodes that were first visited from
those terms: reversed, term i sends, then everything first visited from term i, then term i - 1. The two sequences of
additions differ only where a node first visited from a term i >= 2 has a child that is an operand of a term j < i.
Exactly this is detected: during such visits the operands of the earlier terms are WATCHED, and each visited node checks
whether a child is. If so, the dot product is expanded into the script's explicit nodes, and the sort starts again.
No slot is watched on behalf of two dot products, because the inner one's visit has already ended the outer one's watch.

What is known to be a leaf (LEAF0, LEAF1, a_leaves, b_leaves) is not visited. It is known from when the parent was made,
and a second __init__ may have given the leaf children since. So while a rewired node lives, every child is visited.
Block.order needs no such check: its leaves belong to a model or to the block, and these cannot be initialised again.

The result of a compiled function's call is one node, too. The inner nodes of a call are reachable through its results
alone, and only leaves are shared with other graphs. So below result 0 they are contiguous in any order, and passing all of
them at its turn is the script's sequence. Where that does not hold they are written out first: a second backward (their
grads have been added to), another result, a leaf that was given children since, or a grad of -0.0, which the compiled sums
do not expect.
"""
from libc.math cimport signbit
from libc.stdint cimport uint8_t, uint32_t
from libc.stdlib cimport free, realloc
from libc.string cimport memcmp, memcpy

from microgpt.core.dots cimport dots_of, operand_bounds, slot_a, slot_b
from microgpt.core.tape cimport *


cdef struct Frame:
    uint32_t slot
    uint32_t next  # the child to look at next; of a dot product, 2 * term + side

cdef struct WatchedDot:
    uint32_t slot
    uint32_t upto  # the operands of terms below this one are watched
    bint conflict

cdef enum:
    AHEAD = 8  # slots before the one visited, of which the next ones are mostly found there

cdef Frame *frames = NULL
cdef size_t frames_capacity = 0
cdef WatchedDot *watched = NULL
cdef size_t n_watched = 0, watched_capacity = 0
cdef DotRows *last_dots = NULL


cdef int grow_frames() noexcept nogil:
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
    if tape.order.capacity > 1 << 16:
        free(tape.order.items)
        tape.order.items, tape.order.capacity = NULL, 0
    if tape.to_expand.capacity > 1 << 16:
        free(tape.to_expand.items)
        tape.to_expand.items, tape.to_expand.capacity = NULL, 0


# ---- watched dot products ----

cdef void watch_operands(WatchedDot *dot, uint32_t upto) noexcept nogil:
    """Watch the operands of the terms below upto."""
    cdef DotRows *dots = dots_of(dot.slot)
    cdef uint32_t row = dot.slot - dots.first
    while dot.upto < upto:
        tape.node[slot_a(dots, row, dot.upto)].flags |= WATCHED
        if dots.b_data != NULL:
            tape.node[slot_b(dots, row, dot.upto)].flags |= WATCHED
        dot.upto += 1


cdef void unwatch(WatchedDot *dot) noexcept nogil:
    cdef DotRows *dots = dots_of(dot.slot)
    cdef uint32_t row = dot.slot - dots.first, i
    for i in range(dot.upto):
        tape.node[slot_a(dots, row, i)].flags &= ~WATCHED
        if dots.b_data != NULL:
            tape.node[slot_b(dots, row, i)].flags &= ~WATCHED
    dot.upto = 0


cdef int conflict(uint32_t slot) noexcept nogil:
    """A node below a watched dot product has the watched slot as a child: end that watch, the dot product must be expanded."""
    cdef size_t k = n_watched
    cdef WatchedDot *dot
    cdef DotRows *dots
    cdef uint32_t row, i
    while k:
        k -= 1
        dot = &watched[k]
        dots = dots_of(dot.slot)
        row = dot.slot - dots.first
        for i in range(dot.upto):
            if slot_a(dots, row, i) == slot or (dots.b_data != NULL and slot_b(dots, row, i) == slot):
                unwatch(dot)
                dot.conflict = True
                return push_slot(&tape.to_expand, dot.slot)
    return MG_OK


cdef bint may_be_watched(uint32_t slot) noexcept nogil:
    """Whether an operand of this dot product can be watched at all: a few comparisons instead of 2n checks."""
    cdef DotRows *dots = dots_of(slot)
    cdef DotRows *other
    cdef uint32_t low[2]
    cdef uint32_t high[2]
    cdef uint32_t other_low[2]
    cdef uint32_t other_high[2]
    cdef size_t k
    cdef int i, j
    operand_bounds(dots, slot - dots.first, low, high)
    for k in range(n_watched):
        if watched[k].upto == 0:
            continue
        other = dots_of(watched[k].slot)
        operand_bounds(other, watched[k].slot - other.first, other_low, other_high)
        for i in range(2):
            for j in range(2):
                if low[i] <= other_high[j] and other_low[j] <= high[i]:
                    return True
    return False


cdef int enter_dot(uint32_t slot) noexcept nogil:
    """Check, when a dot product is first visited, whether it or a watched one must be expanded."""
    cdef DotRows *dots = dots_of(slot)
    cdef uint32_t row = slot - dots.first, i
    if tape.node[slot].flags & BACKPROPAGATED:  # a second backward: the grads inside no longer agree with each other
        if push_slot(&tape.to_expand, slot) != MG_OK:
            return MG_NO_MEMORY
    if n_watched and may_be_watched(slot):
        for i in range(dots.n):
            if tape.node[slot_a(dots, row, i)].flags & WATCHED:
                if conflict(slot_a(dots, row, i)) != MG_OK:
                    return MG_NO_MEMORY
            if dots.b_data != NULL and tape.node[slot_b(dots, row, i)].flags & WATCHED:
                if conflict(slot_b(dots, row, i)) != MG_OK:
                    return MG_NO_MEMORY
    return MG_OK


cdef int watch_before(uint32_t slot, uint32_t term) noexcept nogil:
    """Watch the operands of the terms before `term`, from which an unvisited node is about to be visited."""
    global watched, n_watched, watched_capacity
    cdef WatchedDot *larger
    cdef size_t capacity
    if n_watched == 0 or watched[n_watched - 1].slot != slot:
        if n_watched == watched_capacity:
            capacity = 2 * watched_capacity + 64
            larger = <WatchedDot *>realloc(watched, capacity * sizeof(WatchedDot))
            if larger == NULL:
                return MG_NO_MEMORY
            watched, watched_capacity = larger, capacity
        watched[n_watched].slot = slot
        watched[n_watched].upto = 0
        watched[n_watched].conflict = False
        n_watched += 1
    if not watched[n_watched - 1].conflict:
        watch_operands(&watched[n_watched - 1], term)
    return MG_OK


# ---- results of compiled functions ----

cdef bint must_expand(uint32_t slot) noexcept nogil:
    cdef Replay *replay = replay_of(slot)
    cdef uint32_t i
    if tape.node[slot].flags & BACKPROPAGATED or slot != replay.first or replay.backward == NULL:
        return True
    if tape.grad[slot] == 0.0 and signbit(tape.grad[slot]):
        return True
    if tape.rewired.n:
        for i in range(replay.n_leaves):
            if tape.node[replay.leaves[i]].kind != LEAF:
                return True
    return False


cdef int enter_program(uint32_t slot) noexcept nogil:
    """Check, when a result is first visited, whether it must be written out or a watched dot product expanded."""
    cdef Replay *replay = replay_of(slot)
    cdef uint32_t i
    if must_expand(slot):
        return push_slot(&tape.to_expand, slot)
    if n_watched:
        for i in range(replay.n_leaves):
            if tape.node[replay.leaves[i]].flags & WATCHED and conflict(replay.leaves[i]) != MG_OK:
                return MG_NO_MEMORY
    return MG_OK


# ---- the sort ----

cdef inline bint unvisited(uint32_t slot) noexcept nogil:
    return tape.node[slot].kind != LEAF and tape.node[slot].mark != tape.mark


cdef bint are_last_operands(DotRows *dots) noexcept nogil:
    """Whether the dot product whose operands were all visited last has the same ones on side b."""
    return (last_dots != NULL and last_dots.b_sort == tape.n_sorts and dots.n == last_dots.n and dots.capacity and last_dots.capacity
            and memcmp(dots.b_slots, last_dots.b_slots, dots.n * sizeof(uint32_t)) == 0)


cdef uint32_t next_operand(Frame *frame) noexcept nogil:
    """Return the next unvisited operand, or 0 after the last. Rows that share a side check it once."""
    global last_dots
    cdef DotRows *dots = dots_of(frame.slot)
    cdef uint32_t row = frame.slot - dots.first, slot
    cdef bint skip_a = (dots.a_leaves and tape.rewired.n == 0) or (dots.a_row == 0 and dots.a_sort == tape.n_sorts)
    cdef bint skip_b = (dots.b_data == NULL or (dots.b_leaves and tape.rewired.n == 0)
                        or (dots.b_row == 0 and dots.b_sort == tape.n_sorts) or (frame.next == 0 and are_last_operands(dots)))
    if not (skip_a and skip_b):
        while frame.next < 2 * dots.n:
            frame.next += 1
            if frame.next & 1:
                if skip_a:
                    continue
                slot = slot_a(dots, row, (frame.next - 1) >> 1)
            else:
                if skip_b:
                    continue
                slot = slot_b(dots, row, (frame.next - 1) >> 1)
            if unvisited(slot):
                return slot
    if dots.a_row == 0:
        dots.a_sort = tape.n_sorts
    if dots.b_row == 0:
        dots.b_sort = tape.n_sorts
    last_dots = dots
    return 0


cdef Block *cached_order_at(uint32_t slot) noexcept nogil:
    """Return the block whose order is cached and which is entered at this slot, its last node; or NULL."""
    cdef Node *owner = &tape.node[tape.node[slot].owner]
    cdef Block *block
    cdef size_t k
    if owner.kind != BLOCK:
        return NULL
    block = <Block *>owner.payload.pointer
    if block.order == NULL or block.order[block.n_order - 1] != slot:
        return NULL
    for k in range(n_watched):
        if watched[k].upto:  # each of its nodes must be checked for a watched child
            return NULL
    return block


cdef int append_cached_order(Block *block) noexcept nogil:
    cdef uint32_t *larger
    cdef size_t capacity = tape.order.n + block.n_order
    if capacity > tape.order.capacity:
        larger = <uint32_t *>realloc(tape.order.items, 2 * capacity * sizeof(uint32_t))
        if larger == NULL:
            return MG_NO_MEMORY
        tape.order.items, tape.order.capacity = larger, 2 * capacity
    memcpy(tape.order.items + tape.order.n, block.order, block.n_order * sizeof(uint32_t))
    tape.order.n = capacity
    return MG_OK


cdef inline bint must_visit(Node *parent, uint8_t leaf_flag, uint32_t child) noexcept nogil:
    """Whether a child of a node made by an operator is to be visited. A leaf is not read, which would often be a cache miss."""
    return not parent.flags & leaf_flag and unvisited(child)


cdef int depth_first(uint32_t root) noexcept nogil:
    """Fill tape.order with the nodes below root that have children, children before parents, in the script's sequence."""
    global n_watched, last_dots
    cdef Node *node = tape.node
    cdef Node *parent
    cdef Nary *nary
    cdef Frame *frame
    cdef Block *block
    cdef size_t depth = 0
    cdef uint32_t child, following, state = 0
    next_mark()
    last_dots = NULL
    tape.order.n = 0
    child = root if node[root].kind != LEAF else 0
    while True:
        if child:  # visit it
            parent = &node[child]
            parent.mark = tape.mark
            if child > AHEAD:
                MG_PREFETCH(&node[child - AHEAD].mark)
            if parent.kind == BINARY:
                block = cached_order_at(child) if parent.owner != child else NULL
                if block != NULL:
                    if append_cached_order(block) != MG_OK:
                        return MG_NO_MEMORY
                    child = 0
                elif n_watched == 0 and tape.rewired.n == 0:  # what is below does at once, in fewer steps
                    following = 0
                    if must_visit(parent, LEAF0, parent.child0):
                        following, state = parent.child0, 1
                    elif must_visit(parent, LEAF1, parent.child1):
                        following, state = parent.child1, 2
                    if following:
                        if depth == frames_capacity and grow_frames() != MG_OK:
                            return MG_NO_MEMORY
                        frames[depth].slot, frames[depth].next = child, state
                        depth += 1
                        child = following
                        continue
                    if push_slot(&tape.order, child) != MG_OK:
                        return MG_NO_MEMORY
                    child = 0
        if child:
            if depth == frames_capacity and grow_frames() != MG_OK:
                return MG_NO_MEMORY
            frames[depth].slot, frames[depth].next = child, 0
            depth += 1
            if node[child].kind == DOT and enter_dot(child) != MG_OK:
                return MG_NO_MEMORY
            if node[child].kind == PROGRAM and enter_program(child) != MG_OK:
                return MG_NO_MEMORY
        if depth == 0:
            return MG_OK
        frame = &frames[depth - 1]
        parent = &node[frame.slot]
        child = 0
        if parent.kind == DOT:
            child = next_operand(frame)
            if child:
                if frame.next > 2 and watch_before(frame.slot, (frame.next - 1) >> 1) != MG_OK:
                    return MG_NO_MEMORY
                continue
            if n_watched and watched[n_watched - 1].slot == frame.slot:
                unwatch(&watched[n_watched - 1])
                n_watched -= 1
        elif parent.kind == NARY:
            nary = <Nary *>parent.payload.pointer
            while frame.next < nary.n_children and child == 0:
                child = nary.children[frame.next]
                frame.next += 1
                if node[child].flags & WATCHED and conflict(child) != MG_OK:
                    return MG_NO_MEMORY
                if not unvisited(child):
                    child = 0
            if child:
                continue
        elif parent.kind != PROGRAM:
            # A child that was a leaf when its parent was made is not read, which would often be a cache miss.
            if frame.next == 0:
                frame.next = 1
                child = parent.child0
                if parent.kind == BINARY:
                    MG_PREFETCH(&node[parent.child1].mark)
                if n_watched or tape.rewired.n or not parent.flags & LEAF0:
                    if node[child].flags & WATCHED and conflict(child) != MG_OK:
                        return MG_NO_MEMORY
                    if unvisited(child):
                        continue
            if frame.next == 1 and parent.kind == BINARY:
                frame.next = 2
                child = parent.child1
                if n_watched or tape.rewired.n or not parent.flags & LEAF1:
                    if node[child].flags & WATCHED and conflict(child) != MG_OK:
                        return MG_NO_MEMORY
                    if unvisited(child):
                        continue
            child = 0
        if push_slot(&tape.order, frame.slot) != MG_OK:
            return MG_NO_MEMORY
        depth -= 1


cdef int sort_once(uint32_t root) noexcept nogil:
    """Fill tape.order, and tape.to_expand with what must be expanded before the order is right."""
    global n_watched
    cdef int code = depth_first(root)
    while n_watched:  # only after a failure
        n_watched -= 1
        unwatch(&watched[n_watched])
    return code
