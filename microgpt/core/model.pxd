# cython: language_level=3
"""The parameters, for the modules that update them or compute with them directly."""
from libc.stdint cimport uint32_t


cdef class GPT:
    cdef readonly Py_ssize_t vocab_size, n_embd, n_head, n_layer, block_size, head_dim, num_params
    cdef readonly double init_std
    cdef double *params_data  # [num_params], contiguous, in the script's order
    cdef double *params_grad  # [num_params]
    cdef uint32_t region  # the header of the parameters' slots
    cdef uint32_t first  # the slot of params[0]
    cdef object matrices  # state_dict and params, once somebody has asked for them
    cdef list values

    cdef int ready(self) except -1
