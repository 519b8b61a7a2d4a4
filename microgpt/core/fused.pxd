from libc.stdint cimport int32_t, int64_t

from microgpt.core._csrc cimport mg_crew, mg_engine, mg_poll
from microgpt.core.adam cimport Adam
from microgpt.core.model cimport GPT
from microgpt.core.mt19937 cimport MT19937


cdef class FusedEngine:
    cdef readonly GPT model
    cdef readonly int threads
    cdef mg_engine *engine
    cdef mg_poll poll
    cdef object lock        # held while the engine works: one call at a time
    cdef object interrupt   # the exception that a signal handler raised meanwhile
    cdef object check       # what to call now and then beside signal handlers, or None
    cdef int64_t part       # documents of which part_losses has kept what gradients are made of
    cdef int64_t num_slices # that part_slices has made
    cdef mg_crew *crew      # of processes that train together; NULL: this one trains alone
    cdef Py_buffer crew_memory
    cdef int64_t crew_batch, crew_steps # documents of its steps; steps taken
    cdef int32_t *tokens    # documents in hand
    cdef Py_ssize_t tokens_capacity
    cdef dict ids           # the token ids of characters: a copy of what the last call that was given any was given
    cdef list entries       # the same, character and token id in turn; None while the table is not filled
    cdef int32_t char_table[256] # the same for the first 256 characters; -1: none

    cdef int enter(self) except -1
    cdef int reserve(self, Py_ssize_t count) except -1
    cdef Py_ssize_t encode_document(self, document, Py_ssize_t at) except -1
    cdef bint knows(self, dict ids) noexcept
    cdef int build_char_table(self, dict ids) except -1
    cdef Py_ssize_t encode_text(self, document, Py_ssize_t at) except -1
    cdef Py_ssize_t encode(self, document, bint is_text, Py_ssize_t at) except -1
    cdef Py_ssize_t encode_prompt(self, prompt, Py_ssize_t at) except -1
    cdef list draw(self, MT19937 stream, Py_ssize_t n, double factor, max_tokens, prompt, tuple characters)
    cdef raise_status(self, int status)
    cdef void end_crew(self) noexcept
    cdef int check_adam(self, Adam adam) except -1
    cdef train_steps(self, int64_t *starts, int64_t steps, int64_t size, Adam adam, list losses)
