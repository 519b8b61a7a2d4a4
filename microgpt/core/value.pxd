# cython: language_level=3
"""The tape: where the nodes of every graph live. `model.pyx` builds whole layers on it through these declarations.

A node is a *slot*, a 32-bit index into three arrays that never move: data, grad (so that parameters are contiguous
doubles) and node (everything else). Together a slot is 64 bytes. Slot 0 is no node.
"""
from cpython.object cimport PyObject
from libc.stdint cimport int32_t, uint8_t, uint16_t, uint32_t, uint64_t


cdef enum Kind:
    LEAF = 0  # no children
    UNARY = 1  # one child
    BINARY = 2  # two children
    NARY = 3  # any numbers of children and local gradients, in an Nary of its own
    CHAIN = 4  # the last addition of a sum whose other nodes are folded away: one row of a Fold
    REGION = 5  # no node: the header of a region
    PROGRAM = 6  # a result of a compiled function's call, whose graph is not written out: a Replay


cdef enum Flag:
    OPEN = 1  # sorting: an operand of a term already passed, of a chain whose later term is being visited
    FLOWED = 2  # a chain that one backward has passed; local_grad0 is the gradient that flowed through it
    LEAF0 = 4  # of a binary node made by an operator: child0 was a leaf, and still is unless a node is rewired
    LEAF1 = 8  # the same of child1


cdef union Payload:
    double local_grad
    void *pointer  # NARY: Nary*, CHAIN: Fold*, REGION: Region*, PROGRAM: Replay*


# Three groups of 16 bytes, none of which a cache line's end can divide: what accumulates, what is sorted, what is counted.
cdef struct Node:
    double local_grad0
    Payload payload  # local_grad1, where there is a second child
    uint32_t child0, child1
    uint32_t mark  # the number of the last sort that visited this node, its low 32 bits
    uint8_t kind, flags
    uint16_t unused
    uint32_t owner  # the slot whose refs count for this one: itself, or the header of its region
    int32_t refs  # parents and handles of all the nodes that this slot owns
    PyObject *handle  # the one living Value of this node, borrowed, or NULL


cdef struct Nary:
    uint32_t n_children, n_local_grads
    uint64_t place  # in the list of rewired nodes, from 1 on; 0: not in it. Only a second __init__ rewires a node
    uint32_t *children
    double *local_grads


# `rows` sums of n products each, sum(a * b), or of n plain terms, sum(a), if b_data is NULL. In the script's graph each
# is n multiplications, n additions and a constant 0; folded, it is one slot, and the operands' data as they were when
# it was built, which are the local gradients of the multiplications. Term i of a row has operand number
# row * a_row + i * a_step of a, and the like of b.
cdef struct Fold:
    uint32_t n, rows
    uint32_t first  # the slot of row 0; the rows follow one another
    uint32_t a_base, b_base  # operand number k is slot base + k ...
    uint32_t *a_slots  # ... or slots[k], where this is not NULL
    uint32_t *b_slots
    uint32_t a_row, a_step, b_row, b_step
    double *a_data  # by operand number
    double *b_data
    uint32_t a_low, a_high, b_low, b_high  # every operand's slot lies within these
    bint a_leaves, b_leaves  # all operands of this side were leaves, and still are unless a node is rewired
    bint distinct  # within a row no slot occurs twice, on either side
    uint64_t a_sort, b_sort  # the last sort that has visited all operands of a side that the rows share


# One call of a compiled function (replay.pyx): what the tape does with its results, which are nodes first, first + 1, ...
# of a region. Result 0 can be passed by backward without writing out the graph below it, once; else `expand` writes it.
ctypedef struct Replay:
    uint32_t first
    uint32_t n_leaves
    uint32_t *leaves  # the slots of the leaves below
    void (*backward)(Replay *replay, double grad) noexcept nogil  # NULL: always expand
    int (*expand)(Replay *replay) noexcept nogil
    void (*release)(Replay *replay) noexcept nogil  # the region is being freed


# The nodes of one call of linear, gpt, document_loss... They are made together, contiguous after the header, and
# counted together, in the header's refs: nothing is counted node by node, and they are freed together when nothing
# outside refers to any of them.
cdef struct Region:
    uint32_t base, n  # the header and the nodes
    void *memory  # operand data and Folds of the region, one block
    uint32_t *kept  # owners outside, each of which this region holds one reference to
    uint32_t n_kept, kept_capacity
    uint32_t *runs  # pairs (base, n): nodes unfolded later
    uint32_t n_runs, runs_capacity
    # The order in which backward visits the region from its last node, where the builder knows it: as sort would find
    # it, leaves left out. NULL from the moment that anybody has looked inside, or that one backward has passed.
    uint32_t *order
    uint32_t n_order
    Replay *replay  # of a compiled function's results, else NULL


cdef struct Tape:
    double *data
    double *grad
    Node *node
    bint busy  # somebody works on the tape without the GIL


cdef Tape tape
cdef unsigned long tracing_thread  # which thread traces a function and holds the tape for that time, or 0

# All of these need the tape to be at rest or taken (begin/end). When memory runs out they return 0 or MG_NO_MEMORY.
cdef uint32_t make_region(uint32_t n, size_t memory_size, void **memory) noexcept nogil
cdef int keep(uint32_t region, uint32_t slot) noexcept nogil
cdef void know_order(uint32_t region, uint32_t *order, uint32_t n) noexcept nogil
cdef void release(uint32_t owner) noexcept nogil
cdef uint32_t extend_region(uint32_t owner, uint32_t n) noexcept nogil
cdef Region *region_of(uint32_t owner) noexcept nogil
# backward of root, for comparison: the grads of the n slots into out; every grad is as before afterwards.
cdef int probe_backward(uint32_t root, uint32_t n, const uint32_t *slots, double *out) noexcept nogil

# The GIL's side. wait_for_tape: until nobody works on the tape. begin/end bracket work without the GIL; between them no
# Python code may run but that of a function being traced (tracing_thread). The waits raise RuntimeError where they would never end (_turns.pxi).
cdef int wait_for_tape() except -1
cdef int begin() except -1
cdef int end() except -1
cdef void let_go(uint32_t slot) noexcept  # drop a handle's reference, or a region's; once the tape is at rest


cdef class Value:
    cdef uint32_t slot


cdef Value handle(uint32_t slot)
