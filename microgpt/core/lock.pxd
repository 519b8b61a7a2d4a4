# cython: language_level=3
"""The lock of the tape, with the GIL: waiting until the tape is idle, and working on it without the GIL.

begin_nogil() and end_nogil() bracket work without the GIL. Between them no Python code may run but that of a function
being traced (tape.tracing_thread). Waits that would never end raise RuntimeError (lock.pyx).
"""
from libc.stdint cimport uint32_t

from microgpt.core.tape cimport audit_tape, push_slot, release, tape


cdef extern from *:
    """
    #if PY_VERSION_HEX >= 0x030D0000
    #define mg_is_finalizing() Py_IsFinalizing()
    #else
    #define mg_is_finalizing() _Py_IsFinalizing()
    #endif
    """
    bint mg_is_finalizing() noexcept nogil


cdef int lock_acquire() except -1
cdef void lock_release() noexcept
cdef int lock_and_release() except -1
cdef int begin_nogil() except -1
cdef int end_nogil() except -1
cdef bint tracing_here() noexcept
cdef int count_waiting() noexcept


cdef inline int wait_until_idle() except -1:
    if tape.busy:
        lock_and_release()
    return 0


cdef inline void release_handle(uint32_t slot) noexcept:
    """Drop a handle's reference, or a block's; once the tape is idle."""
    if tape.busy:
        push_slot(&tape.deferred, slot)  # if even that fails the node is never freed
        return
    tape.node[slot].handle = NULL
    release(tape.node[slot].owner)
    audit_tape()
