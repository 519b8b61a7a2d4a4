"""Indices beyond an int, in kernels of every instruction set. The memory is addresses alone, of which a few pages are used."""
import subprocess
import sys

import pytest
from conftest import environment

# Runs in a process of its own, which a wrong address ends.
CODE = """
import ctypes, mmap, sys
import numpy as np
from kernels import Kernels, aligned

isa = sys.argv[1]
k = Kernels(isa)
far = 2**31 // k.lanes  # far * lanes is one more than the greatest int

def sparse(count):
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | 0x4000  # MAP_NORESERVE, which has no name before Python 3.11
    return np.frombuffer(mmap.mmap(-1, count * 8, flags=flags), np.float64)

logits = sparse((far + 1) * k.lanes)
targets = np.full(k.lanes, far, np.int32)
inverse, prob, total, dtarget, power, dy = (aligned(k.lanes) for _ in range(6))
dy[:] = 1.0
lanes = np.arange(1.0, k.lanes + 1)

logits[-k.lanes:] = lanes
k.loss_forward(1, 1, logits[: k.lanes], targets, total, inverse, power, prob)
assert (prob == lanes * inverse).all()
power[:] = 1.0
k.loss_backward(1, logits[: k.lanes], targets, inverse, power, prob, 1.0, dtarget)
assert (logits[-k.lanes:] == 0.0).all() and dtarget[0] == 0.0

w = sparse(far + 16)
w[far] = 3.0
active = np.array([far], np.int32)
k.linear_backward_input_active(1, 1, active, w, far + 1, dy, logits)
assert (logits[-k.lanes:] == 3.0).all()
print("right")
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reserves addresses as Linux does")
def test_kernels_with_more_numbers_than_an_int_counts(isa):
    done = subprocess.run([sys.executable, "-c", CODE, isa], capture_output=True, text=True,
                          env=environment())  # fmt: skip
    assert (done.returncode, done.stdout) == (0, "right\n"), done.stderr
