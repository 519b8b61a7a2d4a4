# cython: language_level=3
"""Builder: fills one block with the nodes of a layer, of gpt or of a whole document's loss.

What a layer takes is not counted by hand: the code that builds runs twice. In the dry run the builder counts slots, bytes
and visits, and nothing is written; start_block() then allocates what was counted, and the second run fills it. A second run
that takes something else is a fault of ours: one that would write outside its block ends the process, one that leaves
something unused makes finish_block() fail.

Every vector of nodes is contiguous in the block, and its data are stored a second time in the block's memory: they are the
local gradients of what is computed from it, whatever becomes of the Values' .data.
"""
from libc.stdint cimport uint8_t, uint32_t, uintptr_t
from libc.stdio cimport fprintf, stderr
from libc.stdlib cimport abort

from microgpt.core.blocks cimport make_block, set_cached_order
from microgpt.core.tape cimport BINARY, MG_NO_MEMORY, MG_OK, MOST_SLOTS, Node, UNARY, release, tape


cdef enum:
    MG_MISCOUNTED = 1000  # the second run took less than the dry run: a fault of ours


cdef struct Builder:
    bint dry
    bint ordered  # the whole graph below one node is built: record its order for backward (Block.order)
    uint32_t owner  # the block
    size_t next, end  # the next slot that is not yet filled in, and the one after the last
    char *memory
    size_t used, size  # bytes of it
    double *data  # the tape's
    double *grad
    Node *node
    uint32_t *order
    size_t n_order, order_size


# n nodes as operands. slots: NULL if they are base, base + 1, ... . data: their numbers.
cdef struct Vector:
    uint32_t base
    uint32_t *slots
    double *data
    uint32_t low, high  # bounds of the slots
    bint leaves  # whether all are leaves


cdef inline void start_dry_run(Builder *b, bint ordered) noexcept nogil:
    b.dry, b.ordered, b.owner = True, ordered, 0
    b.next, b.end = 1, <size_t>-1
    b.memory = <char *><uintptr_t>64  # an address to compute with, never read or written
    b.used, b.size = 0, <size_t>-1
    b.data, b.grad, b.node = tape.data, tape.grad, tape.node
    b.order, b.n_order, b.order_size = NULL, 0, <size_t>-1


cdef inline int start_block(Builder *b) noexcept nogil:
    """Allocate what the dry run has counted. The caller holds one reference to the block."""
    cdef size_t n = b.next - 1, order_bytes = b.n_order * sizeof(uint32_t)
    cdef void *memory = NULL
    b.dry = False
    b.owner = make_block(<uint32_t>n, b.used + order_bytes, &memory) if n < MOST_SLOTS else 0
    if b.owner == 0:
        return MG_NO_MEMORY
    b.next, b.end = <size_t>b.owner + 1, <size_t>b.owner + 1 + n
    b.memory, b.size, b.used = <char *>memory, b.used, 0
    b.order, b.order_size, b.n_order = <uint32_t *>(b.memory + b.size), b.n_order, 0
    return MG_OK


cdef inline int finish_block(Builder *b, int code) noexcept nogil:
    """Return code. A block whose nodes are not all filled in is freed, and b.owner is 0."""
    if code == MG_OK and (b.next != b.end or b.used != b.size or b.n_order != b.order_size):
        code = MG_MISCOUNTED
    if code == MG_OK and b.ordered:
        set_cached_order(b.owner, b.order, <uint32_t>b.n_order)
    if code != MG_OK and b.owner:
        release(b.owner)
        b.owner = 0
    return code


cdef inline void overrun(const char *what) noexcept nogil:
    fprintf(stderr, "microgpt: a layer takes more %s than its dry run counted\n", what)
    abort()


cdef inline uint32_t builder_slots(Builder *b, size_t n) noexcept nogil:
    """Return the first of n slots."""
    cdef size_t first = b.next
    if n > b.end - first:
        overrun("slots")
    b.next = first + n
    return <uint32_t>first


cdef inline void *builder_bytes(Builder *b, size_t n) noexcept nogil:
    """Return n bytes of the block's memory, aligned for doubles and pointers."""
    cdef char *start = b.memory + b.used
    n = (n + 7) & ~<size_t>7
    if n > b.size - b.used:
        overrun("memory")
    b.used += n
    return start


cdef inline double *builder_doubles(Builder *b, size_t n) noexcept nogil:
    return <double *>builder_bytes(b, n * sizeof(double))


# ---- nodes; not in a dry run ----

cdef inline void set_leaf(Builder *b, uint32_t slot, double data, uint8_t kind) noexcept nogil:
    b.data[slot] = data
    b.grad[slot] = 0.0
    b.node[slot].owner = b.owner
    b.node[slot].kind, b.node[slot].flags = kind, 0


cdef inline void set_unary(Builder *b, uint32_t slot, double data, uint32_t child, double local_grad) noexcept nogil:
    set_leaf(b, slot, data, UNARY)
    b.node[slot].child0 = child
    b.node[slot].local_grad0 = local_grad


cdef inline void set_binary(Builder *b, uint32_t slot, double data, uint32_t child0, uint32_t child1,
                            double local_grad0, double local_grad1) noexcept nogil:
    set_leaf(b, slot, data, BINARY)
    b.node[slot].child0, b.node[slot].child1 = child0, child1
    b.node[slot].local_grad0, b.node[slot].payload.local_grad = local_grad0, local_grad1


# ---- operands ----

cdef inline Vector vector(uint32_t base, double *data, size_t n) noexcept nogil:
    """Return n contiguous nodes as operands."""
    cdef Vector x
    x.base, x.slots, x.data, x.leaves = base, NULL, data, False
    x.low, x.high = base, <uint32_t>(base + n - 1)
    return x


cdef inline uint32_t slot_at(Vector *x, size_t i) noexcept nogil:
    return x.slots[i] if x.slots != NULL else <uint32_t>(x.base + i)


# ---- the order of the nodes for backward; counted in a dry run ----

cdef inline uint32_t *builder_visits(Builder *b, size_t n) noexcept nogil:
    """Return the next n places in the order, or NULL where there is nothing to record: in a dry run, or without an order."""
    cdef size_t first = b.n_order
    if not b.ordered:
        return NULL
    if n > b.order_size - first:
        overrun("visits")
    b.n_order = first + n
    return NULL if b.dry else b.order + first


cdef inline void record_visit(Builder *b, uint32_t slot) noexcept nogil:
    """Record that slot comes next in the order."""
    cdef uint32_t *order = builder_visits(b, 1)
    if order != NULL:
        order[0] = slot


cdef inline void record_run(Builder *b, uint32_t slot, uint32_t n) noexcept nogil:
    """Record n nodes from slot on."""
    cdef uint32_t *order = builder_visits(b, n)
    cdef uint32_t i
    if order != NULL:
        for i in range(n):
            order[i] = slot + i


cdef inline void record_pairs(Builder *b, uint32_t first, uint32_t second, uint32_t n) noexcept nogil:
    """Record n pairs: each node from `first` on is first visited from the node at the same distance from `second`."""
    cdef uint32_t *order = builder_visits(b, 2 * <size_t>n)
    cdef uint32_t i
    if order != NULL:
        for i in range(n):
            order[2 * i], order[2 * i + 1] = first + i, second + i
