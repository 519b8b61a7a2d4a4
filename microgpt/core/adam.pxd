from microgpt.core._csrc cimport mg_adam_config
from microgpt.core.model cimport GPT


cdef class Moments:
    cdef double *data  # [n], aligned to 64 bytes
    cdef void *memory
    cdef Py_ssize_t n, stride


cdef class Adam:
    cdef readonly GPT model
    cdef mg_adam_config config
    cdef Py_ssize_t steps  # step_index
    cdef Moments m_moments, v_moments
    cdef double *m_data  # [num_params]: the moments' numbers
    cdef double *v_data

    cdef int ready(self) except -1


cdef int raise_adam(int status) except -1
