"""The C library's pow, exp and log, with the bits that Python's have (csrc)."""


cdef extern from "mg_math.h" nogil:
    double mg_pow(double x, double y)
    double mg_exp(double x)
    double mg_log(double x)
