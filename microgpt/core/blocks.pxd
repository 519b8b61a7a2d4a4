# cython: language_level=3
"""Blocks: nodes that are made together and freed together (Block in tape.pxd). Once per layer, so nothing here is hot.

All functions need an idle tape or the lock.
"""
from libc.stdint cimport uint32_t
from libc.stdlib cimport calloc, free, malloc, realloc

from microgpt.core.tape cimport BLOCK, Block, MG_NO_MEMORY, MG_OK, Node, block_of, run_alloc, tape


cdef inline uint32_t make_block(uint32_t n, size_t memory_size, void **memory) noexcept nogil:
    """Return the header of a new block, or 0. Its n nodes follow it, not yet filled in; *memory is memory_size bytes.

    The caller holds one reference, to be released when the Values that it hands out have been made.
    """
    cdef Block *block = <Block *>calloc(1, sizeof(Block))
    cdef uint32_t base
    cdef Node *header
    if block == NULL:
        return 0
    block.memory = malloc(memory_size if memory_size else 1)
    base = run_alloc(n + 1) if block.memory != NULL else 0
    if base == 0:
        free(block.memory)
        free(block)
        return 0
    block.base, block.n = base, n + 1
    header = &tape.node[base]
    header.kind, header.flags = BLOCK, 0
    header.payload.pointer = block
    header.owner = base
    header.refs = 1
    memory[0] = block.memory
    return base


cdef inline int hold_external(uint32_t owner, uint32_t slot) noexcept nogil:
    """Let the block `owner` hold a reference to the node slot, one of its operands."""
    cdef Block *block = block_of(owner)
    cdef uint32_t external = tape.node[slot].owner, capacity
    cdef uint32_t *larger
    if external == owner or (block.n_held and block.held[block.n_held - 1] == external):
        return MG_OK  # the operands of a layer mostly belong to one block
    if block.n_held == block.held_capacity:
        capacity = 2 * block.held_capacity + 4
        larger = <uint32_t *>realloc(block.held, <size_t>capacity * sizeof(uint32_t))
        if larger == NULL:
            return MG_NO_MEMORY
        block.held, block.held_capacity = larger, capacity
    block.held[block.n_held] = external
    block.n_held += 1
    tape.node[external].refs += 1
    return MG_OK


cdef inline uint32_t extend_block(uint32_t owner, uint32_t n) noexcept nogil:
    """Return the first of n more slots that are freed with the block, or 0."""
    cdef Block *block = block_of(owner)
    cdef uint32_t *larger
    cdef uint32_t base, capacity
    if block.n_runs == block.runs_capacity:
        capacity = 2 * block.runs_capacity + 4
        larger = <uint32_t *>realloc(block.runs, 2 * <size_t>capacity * sizeof(uint32_t))
        if larger == NULL:
            return 0
        block.runs, block.runs_capacity = larger, capacity
    base = run_alloc(n)
    if base:
        block.runs[2 * block.n_runs], block.runs[2 * block.n_runs + 1] = base, n
        block.n_runs += 1
    return base


cdef inline void set_cached_order(uint32_t owner, uint32_t *order, uint32_t n) noexcept nogil:
    cdef Block *block = block_of(owner)
    block.order, block.n_order = order, n


cdef inline void drop_cached_order(uint32_t slot) noexcept nogil:
    """The inside of this node's block becomes visible, so that its nodes may be visited in another order."""
    cdef Node *owner = &tape.node[tape.node[slot].owner]
    if owner.kind == BLOCK:
        (<Block *>owner.payload.pointer).order = NULL
