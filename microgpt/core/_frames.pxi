# Frames, shapes and calls: the memory of compiled programs, and their way over the tape. Part of replay.pyx.

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
