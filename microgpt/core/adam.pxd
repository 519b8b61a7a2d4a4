from microgpt.core._csrc cimport mg_adam_coefs, mg_adam_config
from microgpt.core.model cimport GPT
from microgpt.core.vmem cimport mg_vmem


cdef class Moments:
    cdef double *data  # [n]; one of them is aligned to 64 bytes
    cdef mg_vmem memory
    cdef Py_ssize_t n, stride


cdef class Adam:
    cdef readonly GPT model  # None over a list of Values
    cdef object leaves  # optim.Leaves over a list of Values, else None
    cdef bint constant  # num_steps is None: the rate does not fall
    cdef mg_adam_config config  # without rates
    cdef str schedule_name
    cdef Py_ssize_t warmup_steps
    cdef Py_ssize_t steps  # step_index
    cdef Moments m_moments, v_moments
    cdef double *m_data  # [num_params]: the moments' numbers
    cdef double *v_data

    cdef bint ready_is_known(self)
    cdef int _set_num_steps(self, value) except -1
    cdef int ready(self) except -1
    cdef int plan(self, mg_adam_config *config, double *rates, Py_ssize_t count) except -1
    cdef int prepare(self, mg_adam_coefs *coefs) except -1


cdef int raise_adam(int status) except -1
