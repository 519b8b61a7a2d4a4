# cython: embedsignature=False
"""A crew: processes that take their steps together in memory that all of them see. Each has a `FusedEngine` of the same model."""
cimport cython
from cpython.buffer cimport PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer
from libc.stdint cimport int64_t, uintptr_t
from libc.string cimport memset

from microgpt.core._csrc cimport (
    mg_config,
    mg_crew,
    mg_crew_bytes,
    mg_crew_join,
    mg_crew_leave,
    mg_crew_read,
    mg_crew_stop,
)
from microgpt.core.adam cimport Adam
from microgpt.core.fused cimport FusedEngine
from microgpt.core.model cimport GPT


cdef enum:
    ALIGN = 64  # of the memory that processes share


@cython.final
@cython.no_gc_clear  # crew points into the memory
cdef class Membership:
    """What a process has of a crew: C's struct, and its hold on the memory. `FusedEngine.membership` alone refers to it."""

    cdef mg_crew *crew
    cdef Py_buffer memory

    def __dealloc__(self):
        mg_crew_leave(self.crew)
        PyBuffer_Release(&self.memory)


def crew_bytes(GPT model not None, int64_t batch_size):
    """Return how many bytes of memory the processes of a crew share that trains such a model: see `join_crew`."""
    cdef mg_config config
    model.ready()
    config = model.config()
    return mg_crew_bytes(&config, batch_size) + ALIGN


def join_crew(FusedEngine engine not None, memory, int64_t rank, int64_t processes, int64_t batch_size,
              Adam adam not None, check=None):
    """Let `engine.train` take its steps together with other processes, which have engines of the same model.

    memory: of crew_bytes, and the same for all. rank: which of the processes this is, from 0 up; it first writes the state
    into the memory, and only then may the others train. check: called now and then while the engine works; what it raises
    ends the step for all. All processes give `train` the same documents; if one of them raises, or leaves, `train` raises
    CrewStopped on the others, and all must leave.

    The model and adam change only by `read_crew`.
    """
    cdef Membership found = Membership()
    cdef uintptr_t start
    adam.ready()
    engine.enter()
    try:
        engine.check_adam(adam)
        leave(engine)
        PyObject_GetBuffer(memory, &found.memory, PyBUF_WRITABLE)
        if found.memory.len < crew_bytes(engine.model, batch_size):
            raise ValueError(f"{found.memory.len} bytes of memory are too few")
        start = (<uintptr_t>found.memory.buf + ALIGN - 1) // ALIGN * ALIGN
        found.crew = mg_crew_join(engine.engine, <void *>start, rank, processes, batch_size, engine.model.params_data,
                                  engine.model.params_grad, adam.m_data, adam.v_data)
        if found.crew == NULL:
            raise MemoryError()
        engine.membership, engine.crew, engine.check = found, found.crew, check
        engine.crew_batch, engine.crew_steps = batch_size, 0
    finally:
        engine.lock.release()


def read_crew(FusedEngine engine not None, Adam adam not None):
    """Set the engine's model and adam to the state after the last step of the crew that `train` has returned from."""
    adam.ready()
    engine.enter()
    try:
        engine.check_adam(adam)
        if engine.crew != NULL and engine.crew_steps:
            with nogil:
                mg_crew_read(engine.engine, engine.crew, engine.model.params_data, adam.m_data, adam.v_data)
                memset(engine.model.params_grad, 0, engine.model.num_params * sizeof(double))
    finally:
        engine.lock.release()


def stop_crew(FusedEngine engine not None):
    """End the step that is under way for all processes, unless it can no longer fail."""
    engine.enter()
    try:
        if engine.crew != NULL:
            mg_crew_stop(engine.crew)
    finally:
        engine.lock.release()


def leave_crew(FusedEngine engine not None):
    """Stop the step that other processes may have begun, and let the engine train alone from now on."""
    engine.enter()
    try:
        leave(engine)
    finally:
        engine.lock.release()


cdef void leave(FusedEngine engine) noexcept:
    if engine.crew != NULL:
        engine.crew, engine.membership, engine.check = NULL, None, None
