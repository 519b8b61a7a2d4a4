# cython: language_level=3
"""Folding: sums of products that operators made become dot products, one node instead of two for each term.

sum(w * x for ...) makes two nodes for a term: a product, and a sum to which the next term is added. Both lose their
handles at once, and then nothing but the next sum refers to them. When that one is added to, it takes over their place: it
becomes a DOT with one term more, and the slots of the two are free for the next term, while they are still in the cache.
Sorting, accumulating and freeing then meet one node for all terms. Where the script's own nodes are needed, `expand` writes
them out.

Where both operands have handles with one reference each, that of the operator's caller, as in sum(), it is done at once, and
the sum needs no node of its own: it takes over the one of the folded sum, or of the first product. handles.pxd says what
becomes of handles that live on.

So nothing is folded that expand would not write out again bit for bit: data, local gradients and grads are compared. What is
not as an operator has left it, because the program set its data, say, stays as it is.
"""
from libc.stdint cimport uint32_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy

from microgpt.core.dots cimport dots_of
from microgpt.core.nodes cimport likely, unlikely
from microgpt.core.tape cimport BINARY, DOT, DotRows, HASHED, LEAF, LEAF0, LEAF1, Node, slot_free, tape

cdef extern from *:
    """
    #include <stdint.h>
    #include <string.h>
    static inline int mg_same_bits(double a, double b) {
        uint64_t x, y;
        memcpy(&x, &a, sizeof x);
        memcpy(&y, &b, sizeof y);
        return x == y;
    }
    """
    bint mg_same_bits(double a, double b) noexcept nogil

cdef enum:
    FEWEST_TERMS = 16

# The sum made last that may take the place of its operands. 0: none, or its handle is gone, so that it may be freed.
# A sum with a handle is what the operator has made, unless its kind tells that it was initialised again.
cdef struct Pending:
    uint32_t sum


cdef inline void fold_pending(Pending *pending) noexcept:
    """Fold the operands of the pending sum into it if nothing else refers to them. The tape is idle."""
    cdef uint32_t slot = pending.sum
    cdef Node *node = &tape.node[slot]
    pending.sum = 0
    if slot and node.kind == BINARY:
        if tape.node[node.child0].kind == DOT:
            fold_next(slot, node.child0, node.child1)
        else:
            fold_first(slot, node.child0, node.child1)


cdef inline bint is_untouched(uint32_t slot, double data) noexcept:
    """Whether a node has one reference, of a parent or a handle, its data is still this, and its grad is 0."""
    cdef Node *node = &tape.node[slot]
    return (node.refs == 1 and node.owner == slot and mg_same_bits(tape.grad[slot], 0.0)
            and mg_same_bits(tape.data[slot], data))


cdef inline bint is_product(uint32_t slot) noexcept:
    cdef Node *node = &tape.node[slot]
    return node.kind == BINARY and not node.flags & HASHED and is_untouched(slot, node.payload.local_grad * node.local_grad0)


cdef inline bint is_folded(uint32_t slot) noexcept:
    """Whether a node is a folded sum, and has room for a term that takes its place."""
    cdef Node *node = &tape.node[slot]
    cdef DotRows *dots = dots_of(slot)
    if node.kind != DOT or node.flags or not is_untouched(slot, dots.total):
        return False
    return likely(dots.n < dots.capacity) or grow_folded(slot)


cdef inline bint extend_folded(uint32_t folded, uint32_t product) noexcept:
    """Make folded + product of two nodes with a handle each, in the place of the first; the other is free then. Or return False."""
    if folded == 0 or product == 0 or not (is_folded(folded) and is_product(product)):
        return False
    add_term(dots_of(folded), product)
    tape.data[folded] = dots_of(folded).total
    tape.node[product].handle = NULL
    slot_free(product)
    return True


cdef inline bint fold_at_once(uint32_t product, double number) noexcept:
    """Make product + number in the place of the product, if number is 0, with which the script's sum() begins. Or return False."""
    if not mg_same_bits(number, 0.0) or not is_product(product) or not begin_folded(product, product):
        return False
    tape.data[product] = dots_of(product).total
    return True


cdef inline void fold_first(uint32_t sum, uint32_t product, uint32_t zero) noexcept:
    """Fold product + 0, with which the script's sum() begins."""
    if is_product(product) and tape.node[zero].kind == LEAF and is_untouched(zero, 0.0) and begin_folded(sum, product):
        slot_free(zero)
        slot_free(product)


cdef inline void fold_next(uint32_t sum, uint32_t folded, uint32_t product) noexcept:
    """Fold a folded sum + product."""
    if is_folded(folded) and is_product(product):
        add_term(dots_of(folded), product)
        become_folded(sum, dots_of(folded))
        slot_free(product)
        slot_free(folded)


cdef inline void add_term(DotRows *dots, uint32_t product) noexcept:
    """Add a term to a folded sum, which takes over the references of the product."""
    cdef Node *node = &tape.node[product]
    cdef uint32_t a = node.child0, b = node.child1, n = dots.n
    dots.a_slots[n], dots.b_slots[n] = a, b
    dots.a_low, dots.a_high = min(dots.a_low, a), max(dots.a_high, a)
    dots.b_low, dots.b_high = min(dots.b_low, b), max(dots.b_high, b)
    dots.a_data[n], dots.b_data[n] = node.payload.local_grad, node.local_grad0
    if not node.flags & LEAF0:
        dots.a_leaves = False
    if not node.flags & LEAF1:
        dots.b_leaves = False
    dots.n = n + 1
    dots.total += tape.data[product]


cdef inline void become_folded(uint32_t slot, DotRows *dots) noexcept:
    cdef Node *node = &tape.node[slot]
    node.kind, node.flags = DOT, node.flags & HASHED
    node.local_grad0 = 0.0
    node.payload.pointer = dots
    dots.first = slot


cdef inline bint begin_folded(uint32_t slot, uint32_t product) noexcept:
    """Make a node a folded sum of one term."""
    cdef DotRows *dots = new_folded(FEWEST_TERMS)
    if unlikely(dots == NULL):
        return False
    dots.n, dots.total = 0, 0.0
    dots.a_leaves = dots.b_leaves = True
    dots.a_low = dots.b_low = 0xFFFFFFFF
    dots.a_high = dots.b_high = 0
    add_term(dots, product)
    become_folded(slot, dots)
    return True


cdef inline DotRows *new_folded(uint32_t capacity) noexcept:
    """Return a dot product of its own memory, without terms; NULL if there is none."""
    cdef DotRows *dots = <DotRows *>malloc(sizeof(DotRows) + <size_t>capacity * 2 * (sizeof(double) + sizeof(uint32_t)))
    if dots == NULL:
        return NULL
    dots.capacity = capacity
    dots.rows = 1
    dots.a_slots = <uint32_t *>(dots + 1)
    dots.b_slots = dots.a_slots + capacity
    dots.a_data = <double *>(dots.b_slots + capacity)
    dots.b_data = dots.a_data + capacity
    dots.a_base = dots.b_base = dots.a_row = dots.b_row = 0
    dots.a_step = dots.b_step = 1
    dots.distinct = False
    dots.a_sort = dots.b_sort = 0
    return dots


cdef inline bint grow_folded(uint32_t slot) noexcept:
    cdef DotRows *dots = dots_of(slot)
    cdef uint32_t n = dots.n
    cdef DotRows *larger = new_folded(2 * dots.capacity) if dots.capacity < 1 << 30 else NULL
    if unlikely(larger == NULL):
        return False
    larger.n, larger.first, larger.total = n, slot, dots.total
    larger.a_leaves, larger.b_leaves = dots.a_leaves, dots.b_leaves
    larger.a_low, larger.a_high, larger.b_low, larger.b_high = dots.a_low, dots.a_high, dots.b_low, dots.b_high
    memcpy(larger.a_data, dots.a_data, n * sizeof(double))
    memcpy(larger.b_data, dots.b_data, n * sizeof(double))
    memcpy(larger.a_slots, dots.a_slots, n * sizeof(uint32_t))
    memcpy(larger.b_slots, dots.b_slots, n * sizeof(uint32_t))
    free(dots)
    tape.node[slot].payload.pointer = larger
    return True
