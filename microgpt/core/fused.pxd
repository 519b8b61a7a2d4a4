from libc.stdint cimport int64_t

from microgpt.core._csrc cimport mg_crew, mg_engine, mg_poll
from microgpt.core.adam cimport Adam
from microgpt.core.encoded cimport Encoded
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
    cdef mg_crew *crew      # of processes that train together (crew.pyx); NULL: this one trains alone
    cdef object membership  # owns crew
    cdef int64_t crew_batch, crew_steps # documents of its steps; steps taken
    cdef int64_t kept       # documents of which BatchPart.losses has kept what gradients are made of; -1: none, or other work came after it
    cdef Encoded documents  # those in hand

    cdef int enter(self) except -1
    cdef int take(self) except -1
    cdef Py_ssize_t one_document(self, tokens) except -1
    cdef list draw(self, MT19937 stream, Py_ssize_t n, double factor, max_tokens, prompt, tuple characters)
    cdef int ask(self) except -1
    cdef int check_status(self, int status) except -1
    cdef int check_adam(self, Adam adam) except -1
    cdef train_steps(self, int64_t size, Adam adam, list losses)


cdef double *new_doubles(Py_ssize_t count) except NULL
