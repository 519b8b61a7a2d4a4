"""Which instruction set runs: chosen once, by what the processor and its operating system offer, or by MICROGPT_SIMD.

This module alone holds the kernels; the others ask it for the table. All instruction sets give the same bits.
"""
from os import environ

from microgpt.core._csrc cimport (
    MG_UNKNOWN_ISA,
    mg_compiled_isa,
    mg_compiler,
    mg_kernel,
    mg_kernels,
    mg_kernels_half_units,
    mg_kernels_lanes,
    mg_kernels_name,
    mg_kernels_square_root,
    mg_kernels_vector_math,
    mg_select_kernels,
    mg_status,
    mg_supports_isa,
)

cdef const mg_kernels *_table = NULL


cdef const mg_kernels *kernels() noexcept nogil:
    return _table


def simd_info():
    """The instruction sets: {"compiled": [...], "supported": [...], "in_use": name, "math": how, "square_root": how,
    "units": how wide}, the best last.

    compiled: those of this build. supported: those of them that run here. in_use: the best of these, or what
    MICROGPT_SIMD names. math: "vector" if exp and ** are computed in vectors, "libm" if the C library is called for each
    of them, because it is not one that rounds as closely as the proofs in docs/explain/exactness.md need. square_root:
    "instruction" if Adam takes roots by the processor's own instruction, "estimate" where correcting its estimate is faster
    (AVX-512 but on AMD's processors). units: "half" if matrix products are arranged for a processor that executes an instruction on a vector
    in two halves (AVX-512 on Zen 4), else "whole".
    """
    compiled, supported = [], []
    cdef int i = 0
    while mg_compiled_isa(i) != NULL:
        name = mg_compiled_isa(i).decode()
        compiled.append(name)
        if mg_supports_isa(i):
            supported.append(name)
        i += 1
    math = "vector" if mg_kernels_vector_math(_table) else "libm"
    return {"compiled": compiled, "supported": supported, "in_use": in_use(), "math": math,
            "square_root": "instruction" if mg_kernels_square_root(_table) else "estimate",
            "units": "half" if mg_kernels_half_units(_table) else "whole"}


def in_use():
    """`simd_info()["in_use"]`, without a question to the processor."""
    return mg_kernels_name(_table).decode()


def build_info():
    """How this package was built: {"compiler": name and version}."""
    return {"compiler": mg_compiler().decode()}


cdef const mg_kernels *_select(name) except NULL:
    """The table for a name, or the best for None."""
    cdef mg_status status
    cdef bytes encoded = b"" if name is None else name.encode()
    cdef const char *wanted = NULL
    if name is not None:
        wanted = encoded
    cdef const mg_kernels *table = mg_select_kernels(wanted, &status)
    if table == NULL:
        if status == MG_UNKNOWN_ISA:
            raise ValueError(f"unknown instruction set {name!r} (known: scalar, avx2, avx512, neon)")
        raise ValueError(f"instruction set {name!r} was not compiled or does not run on this processor")
    return table


def _use(name):
    """Make `name` (None: the best) the instruction set of engines made from now on; what was in use. For tests."""
    global _table
    before = mg_kernels_name(_table).decode()
    _table = _select(name)
    return before


def _kernels(name):
    """Every kernel of an instruction set by its address, and "lanes". For tests, which call them through ctypes."""
    cdef const mg_kernels *table = _select(name)
    cdef const void *address
    cdef const char *kernel
    cdef int i = 0
    found = {"lanes": mg_kernels_lanes(table)}
    while True:
        kernel = mg_kernel(table, i, &address)
        if kernel == NULL:
            return found
        found[kernel.decode()] = <size_t>address
        i += 1


try:
    _table = _select(environ.get("MICROGPT_SIMD") or None)
except ValueError as error:
    raise ImportError(f"MICROGPT_SIMD: {error}") from None
