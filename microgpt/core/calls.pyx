# cython: language_level=3, cdivision=True
"""Calls of compiled programs: their frames, their way over the tape, and the graph that is written out on demand.

A call copies the leaves' numbers into a frame and runs the forward instructions there; backward copies the leaves' grads
into the frame, runs the backward instructions, and copies them back.
"""
from libc.stdint cimport int32_t, uint8_t, uint32_t, uintptr_t
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memcpy

from microgpt.core._csrc cimport MG_NO_MEMORY, MG_OK, mg_kernels
from microgpt.core.blocks cimport extend_block as extend_region, hold_external as keep
from microgpt.core.recorder cimport *
from microgpt.core.simd cimport kernels
from microgpt.core.tape cimport BINARY, LEAF, NARY, PROGRAM, UNARY, Nary, Node, Replay, tape


cdef extern from *:
    """
    #include "kernels/kernels.h"
    #define mg_replay(k, program, backward, frame, leaf_grads, ints) \
        ((k)->replay((program), (backward), (frame), (leaf_grads), (ints)))
    """
    int mg_replay(const mg_kernels *k, const mg_program *program, bint backward, double *frame, double *leaf_grads,
                  const int32_t *ints) nogil


cdef enum:
    MOST_FRAMES = 4  # free ones that are kept

cdef Frame *free_frames = NULL  # read and written with the tape at rest or taken
cdef int n_free_frames = 0


# ---- shapes and frames ----

cdef void free_frame(Frame *frame) noexcept nogil:
    free(frame.memory)
    free(frame)


cdef void drop_shape(Shape *shape) noexcept nogil:
    shape.refs -= 1
    if shape.refs:
        return
    mg_program_free(&shape.program)
    mg_graph_free(&shape.graph)
    free(shape.roots)
    free(shape.leaves)
    free(shape.used)
    free(shape.runs)
    free(shape.argument_leaves)
    free(shape)


cdef Frame *new_frame(size_t size) noexcept nogil:
    cdef Frame *frame = <Frame *>malloc(sizeof(Frame))
    if frame == NULL:
        return NULL
    frame.size = size + (size >> 3)
    frame.memory = calloc(1, frame.size + 64)
    if frame.memory == NULL:
        free(frame)
        return NULL
    frame.data = <double *>((<uintptr_t>frame.memory + 63) & ~<uintptr_t>63)
    frame.prepared_for = 0
    return frame


cdef Frame *take_frame(Shape *shape) noexcept nogil:
    global free_frames, n_free_frames
    cdef mg_program *p = &shape.program
    cdef size_t doubles = <size_t>p.frame_size * sizeof(double)
    cdef size_t size = doubles + (p.n_ints + (p.n_leaves if shape.n_argument_leaves else 0) + 4) * sizeof(int32_t)
    cdef Frame **link = &free_frames
    cdef Frame *frame
    while link[0] != NULL and (link[0].size < size or link[0].size > 8 * size + (1 << 20)):
        link = &link[0].next
    frame = link[0]
    if frame != NULL:
        link[0] = frame.next
        n_free_frames -= 1
    else:
        frame = new_frame(size)
        if frame == NULL:
            return NULL
    if frame.prepared_for != shape.number:
        frame.prepared_for = shape.number
        frame.ints = <int32_t *>(<char *>frame.data + doubles)
        memcpy(frame.data + p.constants, p.constant_data, p.n_constants * sizeof(double))
        frame.leaves = shape.leaves
        if shape.n_argument_leaves:
            frame.leaves = <uint32_t *>(frame.ints + p.n_ints + 1)
            memcpy(frame.leaves, shape.leaves, p.n_leaves * sizeof(uint32_t))
    return frame


cdef void give_frame(Frame *frame) noexcept nogil:
    global free_frames, n_free_frames
    cdef Frame *last = free_frames
    if n_free_frames >= MOST_FRAMES:  # the one that has not been used for longest goes
        while last.next.next != NULL:
            last = last.next
        free_frame(last.next)
        last.next = NULL
        n_free_frames -= 1
    frame.next = free_frames
    free_frames = frame
    n_free_frames += 1


# ---- a call on the tape ----

cdef void release_call(Replay *replay) noexcept nogil:
    cdef Call *call = call_of(replay)
    free(call.nary)
    give_frame(call.frame)
    drop_shape(call.shape)


cdef void backward_call(Replay *replay, double grad) noexcept nogil:
    cdef Call *call = call_of(replay)
    cdef Shape *shape = call.shape
    cdef double *frame = call.frame.data
    cdef double *grads = frame + shape.program.leaf_grad
    cdef int32_t k
    frame[shape.program.root_grad] = grad
    if shape.direct:
        mg_replay(kernels(), &shape.program, True, frame, tape.grad + shape.runs[0].slot - shape.program.leaf_grad,
                  call.frame.ints)
        return
    for k in range(shape.n_runs):
        memcpy(grads + shape.runs[k].leaf, tape.grad + shape.runs[k].slot, shape.runs[k].n * sizeof(double))
    for k in range(shape.n_argument_leaves):
        grads[shape.argument_leaves[k]] = tape.grad[call.frame.leaves[shape.argument_leaves[k]]]
    mg_replay(kernels(), &shape.program, True, frame, frame, call.frame.ints)
    for k in range(shape.n_runs):
        memcpy(tape.grad + shape.runs[k].slot, grads + shape.runs[k].leaf, shape.runs[k].n * sizeof(double))
    for k in range(shape.n_argument_leaves):
        tape.grad[call.frame.leaves[shape.argument_leaves[k]]] = grads[shape.argument_leaves[k]]


cdef int forward_call(Shape *shape, Frame *frame) noexcept nogil:
    """Whether Python might have raised an error."""
    cdef double *leaves = frame.data + shape.program.leaf_data
    cdef int32_t k
    for k in range(shape.n_runs):
        memcpy(leaves + shape.runs[k].leaf, tape.data + shape.runs[k].slot, shape.runs[k].n * sizeof(double))
    for k in range(shape.n_argument_leaves):
        leaves[shape.argument_leaves[k]] = tape.data[frame.leaves[shape.argument_leaves[k]]]
    return mg_replay(kernels(), &shape.program, False, frame.data, frame.data, frame.ints)


# ---- the graph of a call, written out ----

cdef int evaluate(Call *call, double *numbers) noexcept nogil:
    """Every node's number, as the forward pass found it: the frame still has the leaves and the inputs."""
    cdef mg_graph *g = &call.shape.graph
    cdef mg_program *p = &call.shape.program
    cdef double *frame = call.frame.data
    cdef int32_t *items
    cdef int32_t i, k, a, b
    cdef int op, odd = 0
    cdef double x
    for i in range(g.n):
        op, a, b = g.op[i], g.a[i], g.b[i]
        if op == MG_LEAF:
            x = frame[p.leaf_data + a]
        elif op == MG_CONST:
            x = g.numbers[a]
        elif op == MG_FLOAT:
            x = frame[p.float_slots[a]] if p.float_slots[a] >= 0 else 0.0
        elif op == MG_INT:
            x = call.frame.ints[a]
        elif op == MG_TABLE:
            x = g.numbers[b + call.frame.ints[a]]
        elif op == MG_ADD or op == MG_NUM_ADD:
            x = numbers[a] + numbers[b]
        elif op == MG_MUL or op == MG_NUM_MUL:
            x = numbers[a] * numbers[b]
        elif op == MG_NUM_DIV:
            x = numbers[a] / numbers[b]
        elif op == MG_POW:
            x = mg_python_pow(numbers[a], g.numbers[b], &odd)
        elif op == MG_NUM_POW:
            x = mg_python_pow(numbers[a], numbers[b], &odd)
        elif op == MG_LOG:
            x = mg_call_function(1, numbers[a], &odd)
        elif op == MG_EXP:
            x = mg_call_function(0, numbers[a], &odd)
        elif op == MG_RELU:
            x = numbers[a] if numbers[a] > 0.0 else 0.0
        elif op == MG_NUM_NEG:
            x = -numbers[a]
        elif op == MG_NUM_CALL:
            x = mg_call_function(b, numbers[a], &odd)
        elif op == MG_NUM_MAX or op == MG_NUM_MIN:
            items = g.lists + b
            x = numbers[items[1]]
            for k in range(2, items[0] + 1):
                if numbers[items[k]] > x if op == MG_NUM_MAX else numbers[items[k]] < x:
                    x = numbers[items[k]]
        elif op == MG_GATHER:
            x = numbers[g.lists[b + 1 + call.frame.ints[a]]]
        else:  # MG_CUSTOM, MG_NUM_VALUE
            x = numbers[a]
        numbers[i] = x
    return MG_OK


cdef inline int32_t looked_up(Call *call, int32_t i) noexcept nogil:
    cdef mg_graph *g = &call.shape.graph
    while g.op[i] == MG_GATHER:
        i = g.lists[g.b[i] + 1 + call.frame.ints[g.a[i]]]
    return i


# What writing takes: the nodes that are needed, and slots for them, one after the other.
cdef struct Writer:
    Call *call
    double *numbers
    uint32_t *slots  # by node, 0: none yet
    uint32_t next, end
    char *nary
    size_t nary_size


cdef inline bint shared_leaf(mg_graph *g, int32_t i) noexcept nogil:
    """Value(number) as the function wrote it is one node; a number that meets a Value becomes a new one each time."""
    return (g.op[i] == MG_CONST or g.op[i] == MG_NUM_VALUE) and g.b[i] == 0


cdef void write_leaf(Writer *w, uint32_t slot, double data) noexcept nogil:
    tape.data[slot], tape.grad[slot] = data, 0.0
    tape.node[slot].owner, tape.node[slot].kind, tape.node[slot].flags = w.call.owner, LEAF, 0


cdef uint32_t child_slot(Writer *w, int32_t i) noexcept nogil:
    """The slot of an operand."""
    cdef mg_graph *g = &w.call.shape.graph
    cdef uint32_t slot
    i = looked_up(w.call, i)
    if g.op[i] == MG_LEAF:
        return w.call.frame.leaves[g.a[i]]
    if w.slots[i]:
        return w.slots[i]
    slot = w.next
    w.next += 1
    write_leaf(w, slot, w.numbers[i])
    if shared_leaf(g, i):
        w.slots[i] = slot
    return slot


cdef void write_node(Writer *w, int32_t i, uint32_t slot) noexcept nogil:
    cdef mg_graph *g = &w.call.shape.graph
    cdef Node *node = &tape.node[slot]
    cdef double *numbers = w.numbers
    cdef int32_t a = g.a[i], b = g.b[i], k, n
    cdef int op = g.op[i], odd = 0
    cdef Nary *nary
    node.owner, node.flags = w.call.owner, 0
    if op == MG_ADD or op == MG_MUL:
        node.kind = BINARY
        node.child0, node.child1 = child_slot(w, a), child_slot(w, b)
        node.local_grad0 = 1.0 if op == MG_ADD else numbers[b]
        node.payload.local_grad = 1.0 if op == MG_ADD else numbers[a]
        return
    if op == MG_CUSTOM:
        n = g.lists[b] >> 1
        nary = <Nary *>w.nary
        nary.local_grads = <double *>(nary + 1)
        nary.children = <uint32_t *>(nary.local_grads + n)
        w.nary = <char *>(nary.children + n + (n & 1))
        nary.n_children = nary.n_local_grads = n
        nary.place = 0
        for k in range(n):
            nary.children[k] = child_slot(w, g.lists[b + 1 + 2 * k])
            nary.local_grads[k] = numbers[g.lists[b + 2 + 2 * k]]
        node.kind = NARY
        node.payload.pointer = nary
        return
    node.kind = UNARY
    node.child0 = child_slot(w, a)
    if op == MG_POW:
        node.local_grad0 = g.numbers[b] * mg_python_pow(numbers[a], g.numbers[b] - 1.0, &odd)
    elif op == MG_LOG:
        node.local_grad0 = 1.0 / numbers[a]
    elif op == MG_EXP:
        node.local_grad0 = numbers[i]
    else:
        node.local_grad0 = 1.0 if numbers[a] > 0.0 else 0.0


cdef void mark_needed(Call *call, uint8_t *needed, uint32_t *n_slots, size_t *nary_size) noexcept nogil:
    """The inner nodes below the results, and how much room they take."""
    cdef mg_graph *g = &call.shape.graph
    cdef int32_t i, k, n
    cdef uint32_t slots = 0
    cdef size_t size = 0
    for i in range(call.shape.n_roots):
        needed[looked_up(call, call.shape.roots[i])] = True
    for i in range(g.n - 1, -1, -1):
        if not needed[i] or not mg_op_is_inner(g.op[i]):
            continue
        slots += 3  # itself, and at most two numbers
        if g.op[i] == MG_CUSTOM:
            n = g.lists[g.b[i]] >> 1
            slots += n
            size += sizeof(Nary) + n * sizeof(double) + (n + 1) * sizeof(uint32_t) + 8
            for k in range(n):
                needed[looked_up(call, g.lists[g.b[i] + 1 + 2 * k])] = True
            continue
        needed[looked_up(call, g.a[i])] = True
        if g.op[i] == MG_ADD or g.op[i] == MG_MUL:
            needed[looked_up(call, g.b[i])] = True
    n_slots[0], nary_size[0] = slots, size


cdef int expand_call(Replay *replay) noexcept nogil:
    cdef Call *call = call_of(replay)
    cdef mg_graph *g = &call.shape.graph
    cdef Writer w
    cdef uint8_t *needed = <uint8_t *>calloc(g.n + 1, 1)
    cdef uint32_t n_slots = 0, slot
    cdef size_t nary_size = 0
    cdef int32_t i, r
    cdef int code = MG_NO_MEMORY
    call.shape.written_out += 1
    w.call = call
    w.numbers = <double *>malloc((g.n + 1) * sizeof(double))
    w.slots = <uint32_t *>calloc(g.n + 1, sizeof(uint32_t))
    if needed != NULL and w.numbers != NULL and w.slots != NULL:
        mark_needed(call, needed, &n_slots, &nary_size)
        call.nary = malloc(nary_size + 8)
        w.nary = <char *>call.nary
        w.next = extend_region(call.owner, n_slots + 1) if call.nary != NULL else 0
        w.end = w.next + n_slots + 1
        if w.next:
            code = MG_OK
    for i in range(<int32_t>replay.n_leaves):
        if code == MG_OK:
            code = keep(call.owner, replay.leaves[i])
    if code == MG_OK:
        evaluate(call, w.numbers)
        for r in range(call.shape.n_roots):  # results have their slots already; equal ones share the first
            i = call.shape.roots[r]
            if mg_op_is_inner(g.op[i]) and w.slots[i] == 0:
                w.slots[i] = replay.first + r
        for i in range(g.n):
            if needed[i] and mg_op_is_inner(g.op[i]):
                slot = w.slots[i]
                if slot == 0:
                    slot = w.next
                    w.next += 1
                    w.slots[i] = slot
                    tape.data[slot], tape.grad[slot] = w.numbers[i], 0.0
                write_node(&w, i, slot)
        for r in range(call.shape.n_roots):
            if tape.node[replay.first + r].kind == PROGRAM:  # unused: a second name, or no inner node
                write_leaf(&w, replay.first + r, tape.data[replay.first + r])
        while w.next < w.end:
            write_leaf(&w, w.next, 0.0)
            w.next += 1
    free(needed)
    free(w.numbers)
    free(w.slots)
    return code
