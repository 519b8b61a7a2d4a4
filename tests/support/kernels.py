"""Every kernel of an instruction set as a Python function on NumPy arrays, through ctypes; what tests of them share.

The signatures and the argument structs are read from csrc/kernels/kernel_list.h and kernels.h, so a new kernel needs no
change here.
"""
import ctypes
import math
import re

import numpy as np
from children import ROOT

from microgpt.core import simd

TYPES = {"void": None, "int": ctypes.c_int, "int64_t": ctypes.c_int64, "uint64_t": ctypes.c_uint64, "double": ctypes.c_double,
         "mg_status": ctypes.c_int}  # fmt: skip


def source(name):
    return re.sub(r"/\*.*?\*/", "", (ROOT / "csrc/kernels" / name).read_text(encoding="utf-8"), flags=re.S)


def type_of(declaration):
    """The ctypes type of a declaration such as `const double *x`: every pointer is an address."""
    return ctypes.c_void_p if "*" in declaration else TYPES[declaration.split()[0]]


def argument_structs():
    """{name: ctypes.Structure} of the argument structs in kernels.h."""
    found = {}
    for body, name in re.findall(r"typedef struct \{(.*?)\} (mg_\w+);", source("kernels.h"), re.S):
        fields = []
        for declaration in filter(None, map(str.strip, body.split(";"))):
            kind = type_of(declaration)
            fields += [(re.search(r"\w+$", item.strip())[0], kind) for item in declaration.split(",")]
        found[name] = type(name, (ctypes.Structure,), {"_fields_": fields})
    return found


def signatures():
    """{kernel: (result, [argument, ...])}, ctypes types, from kernel_list.h."""
    return {
        name: (TYPES[result], [type_of(parameter.strip()) for parameter in parameters.split(",")])
        for result, name, parameters in re.findall(r"KERNEL\((\w+), (\w+), \((.*?)\)\)", source("kernel_list.h"), re.S)
    }


STRUCTS = argument_structs()
SIGNATURES = signatures()


def aligned(count, dtype=np.float64):
    """An array of zeros at an address that is a multiple of 64, with one vector of padding behind it."""
    raw = np.zeros(count * np.dtype(dtype).itemsize + 64 + 8 * 64, np.uint8)
    start = -raw.ctypes.data % 64
    return raw[start : start + count * np.dtype(dtype).itemsize].view(dtype)


def args(struct, **fields):
    """An argument struct: args("mg_linear_forward_args", nout=3, w=array, ...). Fields not given are 0 or NULL."""
    made = STRUCTS[struct]()
    for name, value in fields.items():
        assert hasattr(made, name), f"{struct} has no field {name}"
        setattr(made, name, value.ctypes.data if isinstance(value, np.ndarray) else value)
    made.arrays = fields  # keeps them alive
    return made


class Kernels:
    """`kernels.NAME(...)` calls the kernel. Arrays and argument structs are passed by address."""

    def __init__(self, name):
        table = simd._kernels(name)
        self.name = name
        self.lanes = table.pop("lanes")
        assert set(table) == set(SIGNATURES)
        for kernel, (result, arguments) in SIGNATURES.items():
            setattr(self, kernel, self._wrap(ctypes.CFUNCTYPE(result, *arguments)(table[kernel])))

    @staticmethod
    def _wrap(function):
        def address(x):
            if isinstance(x, np.ndarray):
                return x.ctypes.data
            return ctypes.addressof(x) if isinstance(x, ctypes.Structure) else x

        def call(*arguments):
            return function(*map(address, arguments))

        return call

    # ---- panels (csrc/kernels/kernels.h) ----

    def panels_of(self, n):
        return -(-n // self.lanes)

    def panels(self, x, fill=0.0):
        """Rows x, [n][size], as panels; `fill` in the lanes without a position."""
        n, size = x.shape
        lanes = self.lanes
        count = self.panels_of(n)
        out = aligned(count * size * lanes + lanes * lanes)
        view = out[: count * size * lanes].reshape(count, size, lanes)
        view[:] = fill
        for p in range(n):
            view[p // lanes, :, p % lanes] = x[p]
        return out

    def rows(self, panels, n, size):
        """Panels as rows, [n][size]."""
        lanes = self.lanes
        view = panels[: self.panels_of(n) * size * lanes].reshape(-1, size, lanes)
        return np.array([view[p // lanes, :, p % lanes] for p in range(n)])


def square_root(isa, choice):
    """Set whether Adam takes roots by the processor's instruction (1) or from its estimate (0); -1 changes nothing. Return it."""
    return ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int)(simd._kernels(isa)["adam_square_root"])(choice)


def half_units(isa, choice):
    """Set whether products are arranged for units half as wide as a vector (1) or whole ones (0); -1 changes nothing. Return it."""
    return ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int)(simd._kernels(isa)["half_units"])(choice)


def vector_math(isa, choice):
    """Set whether exp and powers are computed in vectors (1) or by the C library (0); -1 changes nothing. Return it."""
    return ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int)(simd._kernels(isa)["vector_math"])(choice)


def random_rows(rng, n, size):
    return np.array([[rng.gauss(0, 1) for _ in range(size)] for _ in range(n)]).reshape(n, size)


def same(ours, expected):
    ours, expected = np.asarray(ours, float).ravel(), np.asarray(expected, float).ravel()
    assert [x.hex() for x in ours.tolist()] == [x.hex() for x in expected.tolist()]


def array_of(values, dtype=np.float64):
    out = aligned(len(values), dtype)
    out[:] = values
    return out


def unaligned(matrix):
    """A matrix of weights aligned to 8 bytes only, as in the model, with nan on both sides."""
    room = aligned(matrix.size + 3)
    room[:] = math.nan
    room[1 : 1 + matrix.size] = matrix.ravel()
    return room[1 : 1 + matrix.size]


def dot(a, b, indices):
    total = 0.0
    for i in indices:
        total = total + float(a[i]) * float(b[i])
    return total
