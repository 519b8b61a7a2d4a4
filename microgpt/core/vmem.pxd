"""csrc/base/vmem.h: memory of the tape and of Adam's moments."""


cdef extern from "base/vmem.h" nogil:
    ctypedef struct mg_vmem:
        char *start

    int mg_vmem_reserve(mg_vmem *range, size_t size)
    int mg_vmem_commit(mg_vmem *range, size_t size)
    void mg_vmem_release(mg_vmem *range)
