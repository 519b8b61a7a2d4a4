# cython: language_level=3
"""The tape: where the nodes of every graph are stored. All compiled modules of the graph engine share it through this file.

A node is a *slot*, a 32-bit index into three arrays that never move: data, grad (so that parameters are contiguous
doubles) and node (everything else). Together a slot is 64 bytes. Slot 0 is not a node.

The state is one struct, `tape`, which tape.pyx owns. Whatever happens once per node is a `cdef inline` body here or in
nodes.pxd, dots.pxd, numbers.pxd and lock.pxd: a call of another compiled module costs more than twice as much as one
within a module. The rest is in a .pyx of its own subject:

    tape        memory of slots, references, freeing         topo        the order of the nodes for backward
    lock        who may work on the tape; fork               backward    expansion, accumulation
    rewiring    a second __init__ of a Value; cycles         value       the class Value
    blocks.pxd  nodes that are made and freed together       folding.pxd sums of products that become one node
    audit       invariants, walked in debug builds
"""
from cpython.object cimport PyObject
from libc.stdint cimport int32_t, uint8_t, uint16_t, uint32_t, uint64_t


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
    #ifndef MG_DEBUG
    #define MG_DEBUG 0
    #endif
    """
    enum:
        MG_DEBUG
    void MG_PREFETCH(const void *address) nogil


cdef enum Kind:
    LEAF = 0  # no children
    UNARY = 1  # one child
    BINARY = 2  # two children
    NARY = 3  # any numbers of children and local gradients, in a separate Nary
    DOT = 4  # the last addition of a sum whose other nodes have no slots: one row of a DotRows, of a block or its own
    BLOCK = 5  # no node: the header of a block
    PROGRAM = 6  # a result of a compiled function's call, whose graph is not written out: a Replay


cdef enum Flag:
    WATCHED = 1  # during a sort: an operand of an earlier term of a dot product whose later term is being visited
    BACKPROPAGATED = 2  # a DOT that one backward has passed; local_grad0 is the gradient that flowed through it
    LEAF0 = 4  # of a binary node made by an operator: child0 was a leaf, and still is unless a node is rewired
    LEAF1 = 8  # the same of child1
    HASHED = 16  # its handle's hash was asked for, which is this slot: folding must not give it another one


cdef union Payload:
    double local_grad
    void *pointer  # NARY: Nary*, DOT: DotRows*, BLOCK: Block*, PROGRAM: Replay*


# Three groups of 16 bytes, none of which crosses a cache line: what is accumulated, what is sorted, what is counted.
cdef struct Node:
    double local_grad0
    Payload payload  # local_grad1, where there is a second child
    uint32_t child0, child1
    uint32_t mark  # the number of the last sort that visited this node, its low 32 bits
    uint8_t kind, flags
    uint16_t unused
    uint32_t owner  # the slot whose refs count for this one: itself, or the header of its block
    int32_t refs  # parents and handles of all the nodes that this slot owns
    PyObject *handle  # the one living Value of this node, borrowed, or NULL


cdef struct Nary:
    uint32_t n_children, n_local_grads
    uint64_t place  # in the list of rewired nodes, from 1 on; 0: not in it. Only a second __init__ rewires a node
    uint32_t *children
    double *local_grads


# `rows` sums of n products each, sum(a * b), or of n plain terms, sum(a), if b_data is NULL. In the script's graph each
# is n multiplications, n additions and a constant 0. Here it is one slot, and the operands' data as they were when
# it was built, which are the local gradients of the multiplications. Term i of a row has operand number
# row * a_row + i * a_step of a, and likewise of b.
cdef struct DotRows:
    uint32_t n, rows
    uint32_t first  # the slot of row 0; the other rows follow it
    uint32_t a_base, b_base  # operand number k is slot base + k ...
    uint32_t *a_slots  # ... or slots[k], where this is not NULL
    uint32_t *b_slots
    uint32_t a_row, a_step, b_row, b_step
    double *a_data  # by operand number
    double *b_data
    uint32_t a_low, a_high, b_low, b_high  # bounds of the operands' slots, both included
    bint a_leaves, b_leaves  # all operands of this side were leaves, and still are unless a node is rewired
    bint distinct  # within a row no slot occurs twice, on either side
    uint64_t a_sort, b_sort  # the last sort that has visited all operands of a side that the rows share
    # Of a node that is not in a block (folding.pxd), whose operands the node refers to and whose memory is its own:
    uint32_t capacity  # terms for which there is memory
    double total  # what its data is, unless the program has set it


# One call of a compiled function (replay.pyx): what the tape does with its results, which are nodes first, first + 1, ...
# of a block. Result 0 can be passed by backward without writing out the graph below it, once; else `expand` writes it.
ctypedef struct Replay:
    uint32_t first
    uint32_t n_leaves
    uint32_t *leaves  # the slots of the leaves below
    void (*backward)(Replay *replay, double grad) noexcept nogil  # NULL: always expand
    int (*expand)(Replay *replay) noexcept nogil
    void (*release)(Replay *replay) noexcept nogil  # the block is being freed


# The nodes of one call of linear, gpt, document_loss ... They are made together, contiguous after the header, and
# counted together, in the header's refs: nothing is counted node by node, and they are freed together when nothing
# outside refers to any of them.
cdef struct Block:
    uint32_t base, n  # the header and the nodes
    void *memory  # operand data and DotRows of the block, one allocation
    uint32_t *held  # owners outside, each of which this block holds one reference to
    uint32_t n_held, held_capacity
    uint32_t *runs  # pairs (base, n): nodes expanded later
    uint32_t n_runs, runs_capacity
    # The order in which backward visits the block from its last node, where the builder knows it: as sort would find
    # it, without leaves. NULL as soon as the inside of the block was read, or after one backward.
    uint32_t *order
    uint32_t n_order
    Replay *replay  # of a compiled function's results, else NULL


cdef struct Slots:  # a growing array
    uint32_t *items
    size_t n, capacity

cdef struct Run:
    uint32_t base, n

cdef enum:
    SMALL_RUN = 512  # slots: shorter runs are kept by size
    SLAB = 4096
    MOST_SLOTS = 1 << 28


# The state of the graph engine. What is declared under "lock" is read and written under the GIL; everything else by
# the thread that holds the lock, or under the GIL while the tape is idle.
cdef struct Tape:
    double *data
    double *grad
    Node *node
    bint busy  # a thread works on the tape without the GIL
    unsigned long tracing_thread  # which thread traces a function and holds the lock for that time, or 0

    # free slots
    uint32_t slab_next, slab_end
    Slots free_slots  # single ones; a separate list, so that alloc and free need not touch the node
    uint32_t limit  # slots reserved
    uint32_t end  # no slot from here on was ever used, or all that were are free again
    uint32_t peak  # the largest that `end` has been: no slot from here on was ever used
    uint32_t small_runs[SMALL_RUN]  # by size: freed runs, linked through the first slot's child0. Single slots are
    # among them only where there was no memory for a longer free_slots.
    Run *large_runs  # freed runs in the order of their addresses, no two of them touching
    size_t n_large_runs, large_runs_capacity
    Slots freed  # of the graph that is being freed

    # sorting
    uint64_t n_sorts
    uint32_t mark  # the number of the running sort: the low 32 bits of n_sorts, never 0
    Slots order  # what the last sort has found
    Slots to_expand  # what the sort needs written out before it can begin again
    # Nodes that a second __init__ has given children, alive, in no order; Nary.place is the index. While there is one,
    # what a node knew of its children when it was made (LEAF0, LEAF1, a_leaves, b_leaves) may be stale.
    Slots rewired

    # lock
    Slots deferred  # nodes whose handle died while the tape was busy

    void (*audit)() noexcept  # walks the invariants in debug builds, else NULL
    object (*handle_of)(uint32_t slot)  # the Value of a node, once value.pyx is loaded
    void (*settle)() noexcept  # gives Values back the nodes that folding has taken from them too early (handles.pxd)


cdef Tape tape

# All of these need an idle tape or the lock (begin_nogil/end_nogil). When memory runs out they return 0 or MG_NO_MEMORY.
cdef int grow(Slots *slots) noexcept nogil
cdef uint32_t slab_run(uint32_t n) noexcept nogil
cdef void small_run_free(uint32_t base, uint32_t n) noexcept nogil
cdef uint32_t run_alloc(uint32_t n) noexcept nogil
cdef void run_free(uint32_t base, uint32_t n) noexcept nogil
cdef void free_owner(uint32_t owner) noexcept nogil
cdef void free_block(Block *block) noexcept nogil
cdef void free_nary(Nary *nary) noexcept nogil
cdef void unlist(Nary *nary) noexcept nogil
cdef void free_collected() noexcept nogil
cdef void next_mark() noexcept nogil


# ---- single slots ----

cdef inline int push_slot(Slots *slots, uint32_t slot) noexcept nogil:
    if slots.n == slots.capacity and grow(slots) != MG_OK:
        return MG_NO_MEMORY
    slots.items[slots.n] = slot
    slots.n += 1
    return MG_OK


cdef inline void slot_free(uint32_t slot) noexcept nogil:
    if push_slot(&tape.free_slots, slot) != MG_OK:
        small_run_free(slot, 1)


cdef inline uint32_t slot_alloc() noexcept nogil:
    """Return a slot for a single node, or 0. Its handle is NULL."""
    if tape.free_slots.n == 0:
        return slab_run(1)
    tape.free_slots.n -= 1
    return tape.free_slots.items[tape.free_slots.n]


# ---- references ----

cdef inline void retain(uint32_t slot) noexcept nogil:
    tape.node[tape.node[slot].owner].refs += 1


cdef inline void release(uint32_t owner) noexcept nogil:
    """Drop one reference. What nothing refers to any more is freed, at any depth, without recursion."""
    cdef Node *node = &tape.node[owner]
    node.refs -= 1
    if node.refs == 0:
        free_owner(owner)


cdef inline void prefetch_payload(Node *node, int n_lines) noexcept nogil:
    cdef int i
    for i in range(n_lines):
        MG_PREFETCH(<char *>node.payload.pointer + 64 * i)


cdef inline Block *block_of(uint32_t owner) noexcept nogil:
    return <Block *>tape.node[owner].payload.pointer


cdef inline Replay *replay_of(uint32_t slot) noexcept nogil:
    return <Replay *>tape.node[slot].payload.pointer


cdef inline void audit_tape() noexcept:
    """In a debug build, walk the invariants of an idle tape."""
    if MG_DEBUG and tape.audit != NULL:
        tape.audit()
