# cython: language_level=3, cdivision=True, auto_pickle=False
"""Compiled programs and their calls: frames, the snapshot of the leaves, results on the tape, and the way back.

A Program is one shape of one function. A call copies the leaves' numbers into a frame, runs the forward instructions there
and puts a node on the tape for each result; backward copies the leaves' grads into the frame, runs the backward
instructions, and copies them back. Several calls may be alive at once, each with a frame of its own.
"""
cimport cython
from cpython.mem cimport PyMem_RawCalloc, PyMem_RawFree, PyMem_RawMalloc
from cpython.object cimport PyObject
from libc.math cimport isfinite
from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t, uintptr_t
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memcpy, memset

from microgpt.core._csrc cimport MG_NO_MEMORY, MG_OK, mg_kernels
from microgpt.core.simd cimport kernels
from microgpt.core.tracing cimport *
from microgpt.core.backward cimport probe_backward
from microgpt.core.blocks cimport hold_external as keep, make_block as make_region
from microgpt.core.lock cimport (
    begin_nogil as begin, end_nogil as end, release_handle as let_go, wait_until_idle as wait_for_tape,
)
from microgpt.core.tape cimport LEAF, PROGRAM, Node, Replay, block_of as region_of, tape
from microgpt.core.value cimport Value, handle


cdef extern from "compiler/program.h" nogil:
    ctypedef struct mg_program:
        int32_t n_forward, n_backward, n_tiles, n_lists, n_out, n_leaves, n_ints, n_floats
        int64_t frame_size, leaf_data, leaf_grad, constants, n_constants, root_grad
        double *constant_data
        int64_t *out
        int64_t *float_slots
        int64_t n_nodes, n_uses, n_values, n_grads
        const char *dynamic
    ctypedef struct mg_chunk:
        pass
    int mg_compile(const void *graph, int32_t n_roots, const int32_t *roots, bint with_grad, const int32_t *bounds,
                   mg_chunk **memory, mg_program *program)
    void mg_free_chunks(mg_chunk *chunks)
    void mg_program_free(mg_program *program)
    void mg_program_damage(mg_program *program, int which)


cdef extern from *:
    """
    #include "kernels.h"
    #define mg_replay(k, program, backward, frame, leaf_grads, ints) \
        ((k)->replay((program), (backward), (frame), (leaf_grads), (ints)))
    """
    int mg_replay(const mg_kernels *k, const mg_program *program, bint backward, double *frame, double *leaf_grads,
                  const int32_t *ints) nogil


# The memory of one call: doubles, int inputs, the leaves' slots. Frames are kept for the next call, whatever its shape: the
# one that was used last is still in the processor's caches.
cdef struct Frame:
    Frame *next
    double *data  # within `memory`, aligned
    int32_t *ints
    uint32_t *leaves  # by leaf: its slot, arguments filled in
    void *memory
    size_t size
    uint64_t prepared_for  # the number of the shape whose constants are in it

cdef struct LeafRun:  # leaves that are neighbours on the tape
    uint32_t slot, n
    int32_t leaf

# One shape of a function, and what its calls need when the Program is gone. Counted: the Program and each call.
cdef struct Shape:
    int64_t refs
    uint64_t number
    mg_program program
    mg_graph graph
    int32_t n_roots
    int32_t *roots
    uint32_t *leaves  # by leaf: its slot, 0 for an argument
    uint32_t *used  # the slots that the program reads, if `direct`: there leaves are numbered by slot, gaps included
    int32_t n_used
    bint direct  # the leaves are one run: gradients are added where they are on the tape
    LeafRun *runs
    int32_t n_runs, n_argument_leaves
    int32_t *argument_leaves
    uint32_t holder  # the header of a region that keeps the leaves

cdef struct Call:
    Replay replay
    Shape *shape
    Frame *frame
    uint32_t owner
    void *nary  # of the graph that was written out

cdef enum:
    MOST_FRAMES = 4  # free ones that are kept

cdef mg_chunk *compiler_memory = NULL  # the compiler's scratch memory, up to 32 MiB
cdef Frame *free_frames = NULL  # read and written with the tape at rest or taken
cdef int n_free_frames = 0
cdef uint64_t n_shapes = 0


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
    cdef size_t size = doubles + (p.n_ints + p.n_leaves + 4) * sizeof(int32_t)
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
        frame.leaves = <uint32_t *>(frame.ints + p.n_ints + 1)
        memcpy(frame.data + p.constants, p.constant_data, p.n_constants * sizeof(double))
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

cdef inline Call *call_of(Replay *replay) noexcept nogil:
    return <Call *>replay


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


include "_expand.pxi"


# ---- the Python side ----

class Unsupported(Exception):
    """This trace cannot be compiled at all."""


cdef class Program:
    """One shape of a function, compiled. Program(trace, results, roots, with_grad): results are traced Values, or numbers
    that are not known yet, roots their nodes; with_grad: results[0] can be differentiated."""
    cdef Shape *shape
    cdef readonly bint with_grad
    cdef readonly list bounds
    cdef readonly str dynamic  # why backward sorts in every call, or None

    def __cinit__(self, Trace trace, list results, list roots, bint with_grad):
        global compiler_memory, n_shapes
        cdef mg_chunk *chunks
        cdef int32_t *bounds
        cdef int32_t i, n = <int32_t>len(results)
        cdef int code
        cdef Shape *shape = <Shape *>calloc(1, sizeof(Shape))
        if shape == NULL:
            raise MemoryError()
        self.shape, self.with_grad, self.bounds = shape, with_grad, trace.bounds
        n_shapes += 1
        shape.refs, shape.number, shape.n_roots = 1, n_shapes, n
        shape.roots = <int32_t *>malloc((n + 1) * sizeof(int32_t))
        bounds = <int32_t *>malloc((trace.graph.n_ints + 1) * sizeof(int32_t))
        if shape.roots == NULL or bounds == NULL:
            free(bounds)
            raise MemoryError()
        for i in range(n):
            shape.roots[i] = roots[i]
        for i in range(trace.graph.n_ints):
            bounds[i] = 1 << 30 if trace.bounds[i] is None else trace.bounds[i]
        if with_grad and (n == 0 or not mg_op_is_inner(trace.graph.op[shape.roots[0]])):
            free(bounds)
            raise Unsupported("its result is not computed: it is an argument, a parameter, a constant or what a lookup finds")
        for i in range(n if with_grad else 0):
            if type(results[i]) is Traced and not mg_op_is_inner(trace.graph.op[shape.roots[i]]) and not (
                    trace.graph.op[shape.roots[i]] == MG_LEAF and trace.leaf_slots[trace.graph.a[shape.roots[i]]]):
                free(bounds)
                raise Unsupported("one of its results is not computed: it is an argument, a constant or what a lookup finds")
        shape.graph = trace.graph
        memset(&trace.graph, 0, sizeof(trace.graph))
        order_leaves(trace, shape)
        chunks, compiler_memory = compiler_memory, NULL  # another thread that compiles meanwhile takes memory of its own
        with nogil:
            code = mg_compile(&shape.graph, n, shape.roots, with_grad, bounds, &chunks, &shape.program)
        free(bounds)
        if compiler_memory != NULL:
            mg_free_chunks(compiler_memory)
        compiler_memory = chunks
        if code != MG_OK:
            raise MemoryError("no memory to compile this function")
        self.dynamic = shape.program.dynamic.decode() if shape.program.dynamic != NULL else None
        self.hold_leaves()

    cdef int hold_leaves(self) except -1:
        cdef void *memory
        cdef int32_t i
        cdef int code = MG_OK
        wait_for_tape()
        self.shape.holder = make_region(0, 0, &memory)
        if self.shape.holder == 0:
            raise MemoryError()
        for i in range(self.shape.n_used):
            if self.shape.used[i] and code == MG_OK:
                code = keep(self.shape.holder, self.shape.used[i])
        if code != MG_OK:
            raise MemoryError()
        return 0

    def __dealloc__(self):
        cdef uint32_t holder
        if self.shape != NULL:
            holder = self.shape.holder
            drop_shape(self.shape)
            if holder:
                let_go(holder)

    @property
    def info(self):
        """Sizes, for explain() and for tests."""
        cdef mg_program *p = &self.shape.program
        return {"nodes": p.n_nodes, "direct": self.shape.direct, "instructions": (p.n_forward, p.n_backward), "tiles": p.n_tiles, "values": p.n_values,
                "uses": p.n_uses, "gradients": p.n_grads, "leaves": self.shape.n_used, "leaf_runs": self.shape.n_runs,
                "bytes": p.n_tiles * 24 + (p.n_forward + p.n_backward) * 56 + p.n_lists * 4 + self.shape.graph.n * 9,
                "frame_bytes": p.frame_size * 8}

    def leaf_runs(self):
        """The leaves from outside as runs of neighbouring slots: [(slot, count), ...]."""
        slots, runs = sorted([self.shape.used[i] for i in range(self.shape.n_used) if self.shape.used[i]]), []
        for slot in slots:
            if runs and slot == runs[-1][0] + runs[-1][1]:
                runs[-1][1] += 1
            else:
                runs.append([slot, 1])
        return [tuple(run) for run in runs]

    def _damage(self, which):
        """For tests: a wrong order in the backward pass, as a mistake in the compiler would make it."""
        mg_program_damage(&self.shape.program, which)

    cdef Frame *start(self, const int32_t *ints, const double *floats) except NULL:
        """A frame with the inputs in it."""
        cdef Shape *shape = self.shape
        cdef Frame *frame = take_frame(shape)
        cdef int32_t k
        if frame == NULL:
            raise MemoryError()
        memcpy(frame.ints, ints, shape.program.n_ints * sizeof(int32_t))
        for k in range(shape.program.n_floats):
            if shape.program.float_slots[k] >= 0:
                frame.data[shape.program.float_slots[k]] = floats[k]
        return frame

    cdef tuple run(self, const int32_t *ints, const double *floats, tuple leaves):
        """The results as Values (those that are numbers as floats), or None if Python might have raised an error."""
        cdef Shape *shape = self.shape
        cdef Frame *frame
        cdef Call *call
        cdef void *memory = NULL
        cdef uint32_t owner = 0, slot
        cdef int32_t k, n = 0
        cdef int odd = True
        cdef list results
        begin()
        frame = NULL
        try:
            frame = self.start(ints, floats)
            for k in range(shape.n_argument_leaves):
                frame.leaves[shape.argument_leaves[k]] = (<Value>leaves[k]).slot
            if shape.program.n_forward > 400 or shape.program.n_tiles > 4000:
                with nogil:
                    odd = forward_call(shape, frame)
            else:
                odd = forward_call(shape, frame)
            if not odd and self.with_grad:
                owner = make_region(<uint32_t>shape.n_roots, sizeof(Call), &memory)
                if owner == 0:
                    raise MemoryError()
                call = <Call *>memory
                call.shape, call.frame, call.owner, call.nary = shape, frame, owner, NULL
                shape.refs += 1
                frame = NULL  # the call's now
                call.replay.first, call.replay.n_leaves = owner + 1, shape.n_used
                call.replay.leaves = shape.used if shape.direct else call.frame.leaves
                call.replay.backward = backward_call
                if self.dynamic is not None:
                    call.replay.backward = NULL
                call.replay.expand, call.replay.release = expand_call, release_call
                region_of(owner).replay = &call.replay
                for k in range(shape.n_roots):
                    put_result(call, owner + 1 + k, call.frame.data[shape.program.out[k]])
                if keep(owner, shape.holder) != MG_OK:
                    raise MemoryError()
                for k in range(shape.n_argument_leaves):
                    if keep(owner, call.frame.leaves[shape.argument_leaves[k]]) != MG_OK:
                        raise MemoryError()
        finally:
            if not self.with_grad and frame != NULL and not odd:
                floats_out = tuple([frame.data[shape.program.out[k]] for k in range(shape.n_roots)])
            if frame != NULL:
                give_frame(frame)
            end()
        if odd:
            return None
        if not self.with_grad:
            return floats_out
        try:
            if shape.n_roots == 1:
                return (handle(owner + 1),)
            results = []
            for k in range(shape.n_roots):
                results.append(self.result(owner + 1 + k, k))
            return tuple(results)
        finally:
            let_go(owner)

    cdef object result(self, uint32_t slot, int32_t k):
        """Of several results, one that is computed is a node; others are what they are."""
        cdef Shape *shape = self.shape
        cdef int32_t root = shape.roots[k]
        if mg_op_is_inner(shape.graph.op[root]):
            return handle(slot)
        if shape.graph.op[root] == MG_LEAF and shape.leaves[shape.graph.a[root]]:
            return handle(shape.leaves[shape.graph.a[root]])
        return tape.data[slot]


cdef void put_result(Call *call, uint32_t slot, double data) noexcept nogil:
    cdef Node *node = &tape.node[slot]
    tape.data[slot], tape.grad[slot] = data, 0.0
    node.owner, node.kind, node.flags = call.owner, PROGRAM, 0
    node.local_grad0 = 0.0
    node.payload.pointer = &call.replay


cdef int order_leaves(Trace trace, Shape *shape) except -1:
    """Number the leaves so that their copies are few and regular: by slot, where they were made in order and little else
    with them; else as the function came to them."""
    cdef int32_t n = shape.graph.n_leaves, i, falling = 0, arguments = 0, total = n
    cdef int32_t *rank = <int32_t *>malloc((n + 1) * sizeof(int32_t))
    cdef uint32_t before = 0, low = 0xFFFFFFFF, high = 0, slot
    if rank == NULL:
        raise MemoryError()
    for i in range(n):
        slot = trace.leaf_slots[i]
        falling += slot < before
        before = slot
        arguments += slot == 0
        low, high = min(low, slot), max(high, slot)
    shape.direct = n > 0 and arguments == 0 and high - low < <uint32_t>(n + (n >> 2) + 64)
    if shape.direct:
        total = high - low + 1
        for i in range(n):
            rank[i] = trace.leaf_slots[i] - low
    else:
        numbers = list(range(n))
        if 4 * falling < n:
            numbers.sort(key=lambda i: trace.leaf_slots[i] or 1 << 31)
        for i in range(n):
            rank[<int32_t>numbers[i]] = i
    shape.leaves = <uint32_t *>calloc(total + 1, sizeof(uint32_t))
    shape.used = <uint32_t *>calloc(n + 1, sizeof(uint32_t))
    if shape.leaves == NULL or shape.used == NULL:
        free(rank)
        raise MemoryError()
    for i in range(n):
        shape.used[i] = trace.leaf_slots[i]
        shape.leaves[rank[i]] = trace.leaf_slots[i]
    if not shape.direct:
        memcpy(shape.used, shape.leaves, n * sizeof(uint32_t))
    shape.n_used = n
    shape.graph.n_leaves = total
    for i in range(shape.graph.n):
        if shape.graph.op[i] == MG_LEAF:
            shape.graph.a[i] = rank[shape.graph.a[i]]
    free(rank)
    return find_runs(shape, low)


cdef int find_runs(Shape *shape, uint32_t low) except -1:
    cdef int32_t n = shape.graph.n_leaves, i
    cdef LeafRun *run = NULL
    shape.runs = <LeafRun *>malloc((n + 1) * sizeof(LeafRun))
    shape.argument_leaves = <int32_t *>malloc((n + 1) * sizeof(int32_t))
    if shape.runs == NULL or shape.argument_leaves == NULL:
        raise MemoryError()
    if shape.direct:
        shape.n_runs = 1
        shape.runs[0].slot, shape.runs[0].n, shape.runs[0].leaf = low, n, 0
        return 0
    for i in range(n):
        if shape.leaves[i] == 0:
            shape.argument_leaves[shape.n_argument_leaves] = i
            shape.n_argument_leaves += 1
            run = NULL
        elif run != NULL and shape.leaves[i] == run.slot + run.n:
            run.n += 1
        else:
            run = &shape.runs[shape.n_runs]
            run.slot, run.n, run.leaf = shape.leaves[i], 1, i
            shape.n_runs += 1
    return 0


include "_dispatch.pxi"
