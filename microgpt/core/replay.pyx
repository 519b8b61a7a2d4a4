# cython: language_level=3, cdivision=True, auto_pickle=False
"""Compiled programs: one shape of one function each, made from a trace, called with a snapshot of its leaves.

A call puts a node on the tape for each result. Several calls may be alive at once, each with a frame of its own.
"""
cimport cython
from libc.stdint cimport int32_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memcpy, memset

from microgpt.core._csrc cimport MG_OK
from microgpt.core.blocks cimport hold_external as keep, make_block as make_region
from microgpt.core.calls cimport *
from microgpt.core.lock cimport begin_nogil, end_nogil, release_handle, wait_until_idle
from microgpt.core.recorder cimport MG_LEAF, mg_op_is_inner
from microgpt.core.tape cimport PROGRAM, Node, block_of as region_of, tape
from microgpt.core.traced cimport Traced
from microgpt.core.tracing cimport Trace
from microgpt.core.value cimport Value, handle


cdef mg_chunk *compiler_memory = NULL  # the compiler's scratch memory, up to 48 MiB
cdef uint64_t n_shapes = 0


class Unsupported(Exception):
    """This trace cannot be compiled at all."""


@cython.no_gc_clear  # without derived, a call would take other numbers
cdef class Program:
    """One shape of a function, compiled. Program(trace, results, roots, with_grad): results are traced Values, or numbers
    that are not known yet, roots their nodes; with_grad: results[0] can be differentiated."""

    def __cinit__(self, Trace trace, list results, list roots, bint with_grad):
        global compiler_memory, n_shapes
        cdef mg_chunk *chunks
        cdef int32_t *bounds
        cdef int32_t i, n = <int32_t>len(results)
        cdef int code
        cdef Shape *shape = <Shape *>calloc(1, sizeof(Shape))
        if shape == NULL:
            raise MemoryError()
        self.shape, self.with_grad, self.bounds, self.derived = shape, with_grad, trace.bounds, trace.derived
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
        wait_until_idle()
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
                release_handle(holder)

    @property
    def info(self):
        """Sizes, for explain() and for tests."""
        cdef mg_program *p = &self.shape.program
        return {"nodes": p.n_nodes, "direct": self.shape.direct, "written_out": self.shape.written_out,
                "instructions": (p.n_forward, p.n_backward), "tiles": p.n_tiles, "values": p.n_values,
                "uses": p.n_uses, "gradients": p.n_grads, "leaves": self.shape.n_used, "leaf_runs": self.shape.n_runs,
                "bytes": p.n_tiles * 24 + (p.n_forward + p.n_backward) * 56 + p.n_lists * 4 + self.shape.graph.n * 9,
                "frame_bytes": p.frame_size * 8}

    def leaf_runs(self):
        """The leaves from outside as runs of neighbouring slots: [(slot, count), ...]."""
        cdef uint32_t first = 0, n = 0
        runs = []
        for slot in sorted([self.shape.used[i] for i in range(self.shape.n_used) if self.shape.used[i]]):
            if n and slot == first + n:
                n += 1
                continue
            if n:
                runs.append((first, n))
            first, n = slot, 1
        return [*runs, (first, n)] if n else []

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

    cdef tuple run(self, const int32_t *ints, const double *floats, list leaves):
        """The results as Values (those that are numbers as floats), or None if Python might have raised an error."""
        cdef Shape *shape = self.shape
        cdef Frame *frame
        cdef Call *call
        cdef void *memory = NULL
        cdef uint32_t owner = 0, slot
        cdef int32_t k, n = 0
        cdef int odd = True
        cdef list results
        begin_nogil()
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
            end_nogil()
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
            release_handle(owner)

    cdef object result(self, unsigned int slot, int32_t k):
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
