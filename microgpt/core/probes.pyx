# cython: language_level=3, cdivision=True, auto_pickle=False
"""The gradients of the leaves of a program, by its eager graph and by its replay, for the comparison before it is used."""
from libc.stdint cimport int32_t, uint32_t
from libc.stdlib cimport free, malloc

from microgpt.core._csrc cimport MG_OK
from microgpt.core.backward cimport probe_backward
from microgpt.core.calls cimport Call, Shape, backward_call, call_of
from microgpt.core.lock cimport begin_nogil, end_nogil
from microgpt.core.replay cimport Program
from microgpt.core.tape cimport PROGRAM, Replay, tape
from microgpt.core.value cimport Value, handle


cdef int find_values(object x, list found) except -1:
    if type(x) is list or type(x) is tuple:
        for y in x:
            find_values(y, found)
    elif isinstance(x, Value):
        found.append(x)
    return 0


def leaf_values(arguments):
    """The Values in (nested lists of) arguments, in order."""
    found = []
    find_values(arguments, found)
    return found


def probe(Value root, Program program, list values):
    """d(root)/d(leaf) added to the grad of every leaf of a program (arguments: values), as a list; nothing is changed."""
    cdef int32_t n = program.shape.n_used, k = 0, i
    cdef uint32_t *slots
    cdef double *out
    cdef int code
    cdef uint32_t slot
    begin_nogil()
    slot = root.slot
    out = <double *>malloc((n + 1) * 16)
    if out == NULL:
        end_nogil()
        raise MemoryError()
    slots = <uint32_t *>(out + n)
    for i in range(n):
        slots[i] = program.shape.used[i]
        if slots[i] == 0:
            slots[i] = (<Value>values[k]).slot
            k += 1
    with nogil:
        code = probe_backward(slot, n, slots, out)
    end_nogil()
    result = [out[i] for i in range(n)] if code == MG_OK else None
    free(out)
    return result


def probe_replay(Value root, Program program):
    """The same for a result of the program itself."""
    cdef Replay *replay = <Replay *>tape.node[root.slot].payload.pointer
    cdef Call *call
    cdef Shape *shape = program.shape
    cdef int32_t n = shape.n_used, i
    cdef double *before
    if tape.node[root.slot].kind != PROGRAM or replay.backward == NULL:
        return probe_expanded(root, program)
    call = call_of(replay)
    before = <double *>malloc((n + 1) * sizeof(double))
    if before == NULL:
        raise MemoryError()
    begin_nogil()
    for i in range(n):
        before[i] = tape.grad[replay.leaves[i]]
    backward_call(replay, 1.0)
    result = []
    for i in range(n):
        result.append(tape.grad[replay.leaves[i]])
        tape.grad[replay.leaves[i]] = before[i]
    end_nogil()
    free(before)
    return result


cdef object probe_expanded(Value root, Program program):
    cdef Replay *replay = <Replay *>tape.node[root.slot].payload.pointer
    cdef Call *call = call_of(replay)
    root._children  # written out
    leaves = [handle(replay.leaves[i]) for i in range(program.shape.n_used) if program.shape.used[i] == 0]
    return probe(root, program, leaves)
