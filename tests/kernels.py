"""Every kernel of an instruction set as a Python function on NumPy arrays, through ctypes. For test_kernels.py."""
import ctypes

import numpy as np

from microgpt.core import simd

I64, INT, F64, PTR = ctypes.c_int64, ctypes.c_int, ctypes.c_double, ctypes.c_void_p

# As in csrc/kernels/kernels.h: i an int64, n an int, d a double, p a pointer; then the result.
SIGNATURES = {
    "linear_forward": "iiippippi",
    "linear_forward_active": "iippippp",
    "relu_forward": "iippp:i",
    "sum_of_magnitudes": "ip:d",
    "or_of_bits": "ip:i",
    "linear_backward_input": "iiipippipi",
    "linear_backward_input_active": "iippipp",
    "relu_backward": "ippp",
    "linear_backward_input_first": "iipppp",
    "linear_backward_target": "ipppp",
    "linear_backward_weight": "iiipipip",
    "linear_backward_weight_active": "iipipipp",
    "linear_backward_weight_sparse": "iiipipipp",
    "embed_forward": "iipppp",
    "embed_backward": "iipppp",
    "panels_to_rows": "iipipi",
    "rmsnorm_forward": "idpppp",
    "rmsnorm_backward": "idppppp",
    "attention_forward": "iiiidpppippppp",
    "attention_backward": "iiiidpppipppppppp",
    "loss_forward": "ippppp",
    "loss_backward": "ipppppdp",
    "transpose_weights": "iippi",
    "linear_decode": "iippipp",
    "softmax_decode": "idp",
    "attention_decode": "iiidppppp",
    "exp_array": "ipp",
    "pow_2_array": "ipp",
    "pow_05_array": "ipp",
    "pow_m05_array": "ipp",
    "pow_m1_array": "ipp",
    "pow_m15_array": "ipp",
    "pow_m2_array": "ipp",
}
ELSEWHERE = {"vector_math", "adam_update", "adam_update_libm"}  # tested by test_adam.py and with exp and **
TYPES = {"i": I64, "n": INT, "d": F64, "p": PTR}


def aligned(count, dtype=np.float64):
    """An array of zeros at an address that is a multiple of 64, with a vector's worth of room behind it."""
    raw = np.zeros(count * np.dtype(dtype).itemsize + 64 + 8 * 64, np.uint8)
    start = -raw.ctypes.data % 64
    return raw[start : start + count * np.dtype(dtype).itemsize].view(dtype)


class Kernels:
    def __init__(self, name):
        table = simd._kernels(name)
        self.name = name
        self.lanes = table.pop("lanes")
        assert set(table) == set(SIGNATURES) | ELSEWHERE
        for kernel, signature in SIGNATURES.items():
            arguments, _, result = signature.partition(":")
            prototype = ctypes.CFUNCTYPE(TYPES.get(result), *(TYPES[letter] for letter in arguments))
            setattr(self, kernel, self._wrap(prototype(table[kernel])))

    @staticmethod
    def _wrap(function):
        def call(*arguments):
            return function(*(a.ctypes.data if isinstance(a, np.ndarray) else a for a in arguments))

        return call

    # ---- panels (csrc/kernels/kernels.h) ----

    def panels_of(self, n):
        return -(-n // self.lanes)

    def panels(self, x, fill=0.0):
        """Rows x, [n][size], as panels; fill in the lanes that stand for no position."""
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


def vector_math(isa, choice):
    """Whether exp and powers are computed in vectors: 1, or 0 to ask the C library for all; -1 to see. Returns what is so then."""
    return ctypes.CFUNCTYPE(INT, INT)(simd._kernels(isa)["vector_math"])(choice)
