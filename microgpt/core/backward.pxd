# cython: language_level=3
"""Sorting, expanding and differentiating a graph. All functions need the lock; without memory they return MG_NO_MEMORY."""
from libc.stdint cimport uint32_t


cdef int run_backward(uint32_t root) noexcept nogil
# Fill tape.order, with everything expanded that backward cannot pass as it is.
cdef int sort(uint32_t root) noexcept nogil
# Give a DOT or PROGRAM the children that the script's node has. Needs an idle tape or the lock.
cdef int expand(uint32_t slot) noexcept nogil
# backward of root, for comparison: the grads of the n slots into out; every grad is as before afterwards.
cdef int probe_backward(uint32_t root, uint32_t n, const uint32_t *slots, double *out) noexcept nogil
