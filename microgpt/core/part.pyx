# cython: embedsignature=False
"""A part of a batch, of which other processes have the rest: its losses, and its gradients added to those of the parts after it."""
from cpython.mem cimport PyMem_Free
from libc.stdint cimport int64_t

from microgpt.core._csrc cimport (
    mg_part_capacity,
    mg_part_gradients,
    mg_part_losses,
    mg_part_slice_start,
    mg_part_slices,
)
from microgpt.core.fused cimport FusedEngine, new_doubles


cdef class BatchPart:
    # The first line is the signature, in the form in which Python reads it: inspect.signature(BatchPart).
    """BatchPart(engine, processes)\n--\n
The part of each batch that falls to one of several processes, which have a `FusedEngine` of the same model each.

`losses` first, then `add_gradients` for all slices of the parameters, from the first to the last.

Attributes
----------
starts : list of int
    The indices at which the slices of the parameters begin, and the number of parameters.
capacity : int
    How many documents as long as the block one call of `losses` should have at most, for the sake of memory.
"""

    cdef FusedEngine engine
    cdef readonly list starts
    cdef int64_t processes

    def __init__(self, FusedEngine engine not None, int64_t processes):
        cdef int64_t i, num_slices
        if self.engine is not None:
            raise TypeError("a BatchPart is initialised once")
        engine.take()
        try:
            self.processes = processes
            num_slices = self.cut(engine)
            self.starts = [mg_part_slice_start(engine.engine, i) for i in range(num_slices + 1)]
            self.engine = engine
        finally:
            engine.lock.release()

    cdef int64_t cut(self, FusedEngine engine) except -1:
        """Let the engine cut the parameters into slices for these processes, unless they are those it has; their number."""
        cdef int64_t num_slices
        engine.check_status(mg_part_slices(engine.engine, self.processes, &num_slices))
        return num_slices

    cdef FusedEngine ready(self):
        """Return the engine. Raises RuntimeError where __init__ has not run to its end."""
        if self.engine is None:
            raise RuntimeError("BatchPart.__init__ has not been called")
        return self.engine

    def __reduce_ex__(self, protocol):
        raise TypeError("a BatchPart cannot be copied or pickled")

    @property
    def capacity(self):
        cdef FusedEngine engine = self.ready()
        return mg_part_capacity(engine.engine, engine.model.block_size)

    def losses(self, documents, dict ids not None, int64_t batch_size, check=None):
        """The losses of the part's documents, a list of floats.

        documents, ids: as for `FusedEngine.train`. check: called now and then; what it raises ends the call.
        """
        cdef FusedEngine engine = self.ready()
        cdef double *losses = NULL
        cdef int64_t count, i
        cdef int status
        engine.enter()
        try:
            engine.documents.use_characters(ids)
            engine.documents.clear()
            for document in documents:
                engine.documents.add(document, ids)
            count = engine.documents.count
            losses = new_doubles(count)
            engine.check = check
            with nogil:
                status = mg_part_losses(engine.engine, engine.model.params_data, engine.model.params_grad,
                                        engine.documents.tokens, engine.documents.starts, count, batch_size, &engine.poll, losses)
            engine.check_status(status)
            engine.kept = count
            return [losses[i] for i in range(count)]
        finally:
            engine.check = None
            PyMem_Free(losses)
            engine.lock.release()

    def add_gradients(self, int64_t first, int64_t end):
        """Add the gradients of the documents of `losses`, the last first, to `model.grad`, for the slices from first to end.

        Cannot be interrupted. Raises RuntimeError if the engine has done other work since `losses`.
        """
        cdef FusedEngine engine = self.ready()
        cdef int64_t num_slices
        cdef int status
        engine.take()
        try:
            num_slices = self.cut(engine)
            if not 0 <= first <= end <= num_slices:
                raise ValueError(f"first and end must be from 0 to {num_slices}, not {first} and {end}")
            if engine.kept < 0:
                raise RuntimeError("there are no gradients to add: losses comes right before add_gradients")
            with nogil:
                status = mg_part_gradients(engine.engine, engine.kept, first, end, engine.model.params_grad)
            engine.check_status(status)
        finally:
            engine.lock.release()
