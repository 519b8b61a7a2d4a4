# cython: language_level=3
"""Shapes of compiled functions, the frames of their calls, and what backward and the tape do with a call."""
from libc.stdint cimport int32_t, int64_t, uint32_t, uint64_t

from microgpt.core.recorder cimport mg_graph
from microgpt.core.tape cimport Replay


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


# The memory of one call: doubles, int inputs, the leaves' slots. Frames are kept for the next call, whatever its shape: the
# one that was used last is still in the processor's caches.
cdef struct Frame:
    Frame *next
    double *data  # within `memory`, aligned
    int32_t *ints
    uint32_t *leaves  # by leaf: its slot; the shape's, or a copy with arguments filled in
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
    uint64_t written_out  # calls whose graph was written out

cdef struct Call:
    Replay replay
    Shape *shape
    Frame *frame
    uint32_t owner
    void *nary  # of the graph that was written out


cdef Frame *take_frame(Shape *shape) noexcept nogil
cdef void give_frame(Frame *frame) noexcept nogil
cdef void drop_shape(Shape *shape) noexcept nogil
cdef int forward_call(Shape *shape, Frame *frame) noexcept nogil
cdef void backward_call(Replay *replay, double grad) noexcept nogil
cdef int expand_call(Replay *replay) noexcept nogil
cdef void release_call(Replay *replay) noexcept nogil


cdef inline Call *call_of(Replay *replay) noexcept nogil:
    return <Call *>replay
