# Results of compiled functions' calls in the sort and the accumulation (Replay in value.pxd). Part of value.pyx.
#
# The inner nodes of a call are reachable through its results alone, and only leaves are shared with other graphs. So below
# result 0 they are contiguous in any order, and passing all of them at its turn is the script's sequence. Where that does
# not hold they are written out first: a second backward (their grads have been added to), another result, a leaf that was
# given children since, or a grad of -0.0, which the compiled sums do not expect.

from libc.math cimport signbit


cdef inline Replay *replay_of(uint32_t slot) noexcept nogil:
    return <Replay *>tape.node[slot].payload.pointer


cdef bint must_expand(uint32_t slot) noexcept nogil:
    cdef Replay *replay = replay_of(slot)
    cdef uint32_t i
    if tape.node[slot].flags & FLOWED or slot != replay.first or replay.backward == NULL:
        return True
    if tape.grad[slot] == 0.0 and signbit(tape.grad[slot]):
        return True
    if rewired.n:
        for i in range(replay.n_leaves):
            if tape.node[replay.leaves[i]].kind != LEAF:
                return True
    return False


cdef int enter_program(uint32_t slot) noexcept nogil:
    """What a result owes the sort when it is first visited: see whether it, or an open chain, must be written out."""
    cdef Replay *replay = replay_of(slot)
    cdef uint32_t i
    if must_expand(slot):
        return push_slot(&to_unfold, slot)
    if n_open:
        for i in range(replay.n_leaves):
            if tape.node[replay.leaves[i]].flags & OPEN and conflict(replay.leaves[i]) != MG_OK:
                return MG_NO_MEMORY
    return MG_OK


cdef void accumulate_program(uint32_t slot) noexcept nogil:
    cdef Replay *replay = replay_of(slot)
    tape.node[slot].local_grad0 = tape.grad[slot]
    tape.node[slot].flags |= FLOWED
    replay.backward(replay, tape.grad[slot])


cdef int expand_program(uint32_t slot) noexcept nogil:
    """Write out the graph below the results of this call. What one backward has left in it is there, too."""
    cdef Replay *replay = replay_of(slot)
    cdef uint32_t first = replay.first, n = replay.n_leaves, i
    cdef bint flowed = tape.node[first].kind == PROGRAM and tape.node[first].flags & FLOWED
    cdef double grad = tape.grad[first], flowed_grad = tape.node[first].local_grad0
    cdef double *leaf_grads = NULL
    cdef uint32_t *leaves = NULL
    cdef int code
    if flowed:
        leaf_grads = <double *>malloc((n + 1) * (sizeof(double) + sizeof(uint32_t)))
        if leaf_grads == NULL:
            return MG_NO_MEMORY
        leaves = <uint32_t *>(leaf_grads + n)
        for i in range(n):
            leaves[i] = replay.leaves[i]
            leaf_grads[i] = tape.grad[leaves[i]]
    code = replay.expand(replay)
    if code == MG_OK and flowed:
        code = sort_once(first)
        if code == MG_OK:
            tape.grad[first] = flowed_grad
            accumulate()
        tape.grad[first] = grad
        for i in range(n):
            tape.grad[leaves[i]] = leaf_grads[i]
    free(leaf_grads)
    return code
