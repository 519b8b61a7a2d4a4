"""Where another library of the process has switched on that subnormal numbers are flushed to zero, CPython's arithmetic
does so, and so must every kernel."""
import ctypes
import platform
import random
import sys
from contextlib import contextmanager

import pytest
from conftest import hexes

from microgpt import GPT, Adam, reference
from microgpt.core.fused import FusedEngine

# The control word in C's fenv_t: its offset in bytes, and the bits that flush results and operands.
CONTROL = {"x86_64": (28, 0x8040), "aarch64": (0, 1 << 24)}
pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or platform.machine() not in CONTROL, reason="the layout of fenv_t is only known on Linux"
)


@contextmanager
def flushing():
    libm = ctypes.CDLL("libm.so.6")
    offset, flags = CONTROL[platform.machine()]
    before, changed = ctypes.create_string_buffer(256), ctypes.create_string_buffer(256)
    libm.fegetenv(before)
    libm.fegetenv(changed)
    ctypes.c_uint32.from_buffer(changed, offset).value |= flags
    libm.fesetenv(changed)
    try:
        yield
    finally:
        libm.fesetenv(before)


def test_the_switch_is_the_right_one():
    tiny = [5e-324, 2.2250738585072014e-308]
    with flushing():
        results = [tiny[0] + tiny[0] == 0.0, tiny[1] * 0.5 == 0.0]
    assert results == [True, True]
    assert tiny[0] + tiny[0] != 0.0 and tiny[1] * 0.5 != 0.0


def train(step_index, seed, fused):
    """Three steps from moments and parameters that are tiny: losses, parameters and moments."""
    rng = random.Random(seed)
    std = rng.choice([0.08, 0.5, 1e-155, 1e-160])
    model = (GPT if fused else reference.GPT)(5, 4, 2, 1, 8, init_std=std, rng=random.Random(seed))
    adam = (Adam if fused else reference.Adam)(model, num_steps=10**6)
    adam.step_index = step_index
    for i, p in enumerate(model.params):
        adam.m[i] = rng.choice([5e-324, 1e-310, 2.3e-308, -1e-308, -3e-308, 1e-300, 0.0])
        adam.v[i] = rng.choice([5e-324, 1e-310, 2.3e-308, 3e-308, 1e-300, 1e-200, 0.0])
        if rng.random() < 0.1:
            p.data = adam.m[i]
    losses, documents = [], [[4, 1, 2, 4], [4, 3, 4], [4, 0, 0, 1, 4]]
    engine = FusedEngine(model) if fused else None
    with flushing():
        if fused:
            engine.train(documents, adam, losses)
        else:
            for tokens in documents:
                loss = reference.document_loss(tokens, model)
                loss.backward()
                losses.append(loss.data)
                adam.step()
    return [hexes(x) for x in (losses, [p.data for p in model.params], adam.m, adam.v)]


@pytest.mark.slow
@pytest.mark.parametrize("step_index", [0, 6000])
def test_flushed_numbers_are_the_same_in_every_kernel(isa, step_index):
    for seed in range(25):
        assert train(step_index, seed, True) == train(step_index, seed, False), seed
