from microgpt.core._csrc cimport mg_kernels

cdef const mg_kernels *kernels() noexcept nogil
