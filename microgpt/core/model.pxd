# cython: language_level=3
"""The parameters, for the modules that update them or compute with them directly."""
from cpython.buffer cimport PyBUF_FORMAT, PyBUF_ND, PyBUF_STRIDES
from libc.stdint cimport uint32_t

from microgpt.core._csrc cimport mg_config


cdef class GPT:
    cdef readonly Py_ssize_t vocab_size, n_embd, n_head, n_layer, block_size, head_dim, num_params
    cdef readonly double init_std
    cdef double *params_data  # [num_params], contiguous, in the script's order
    cdef double *params_grad  # [num_params]
    cdef uint32_t block  # the header of the parameters' slots
    cdef uint32_t first  # the slot of params[0]
    cdef object matrices  # state_dict and params, once they were asked for
    cdef list values

    cdef int ready(self) except -1
    cdef mg_config config(self) noexcept


cdef inline void lend_doubles(Py_buffer *buffer, int flags, object owner, double *start, Py_ssize_t *n, Py_ssize_t *stride):
    """Fill the buffer of *n doubles, which may be written; the shape and the stride are the owner's."""
    buffer.buf, buffer.obj = start, owner
    buffer.itemsize = sizeof(double)
    buffer.len = n[0] * sizeof(double)
    buffer.ndim, buffer.readonly, buffer.suboffsets, buffer.internal = 1, 0, NULL, NULL
    buffer.format = <char *>"d" if flags & PyBUF_FORMAT else NULL
    buffer.shape = n if flags & PyBUF_ND else NULL
    buffer.strides = stride if flags & PyBUF_STRIDES == PyBUF_STRIDES else NULL
