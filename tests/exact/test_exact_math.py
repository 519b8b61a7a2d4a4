"""The vector exp and powers of every instruction set: CPython's own bits, whatever the C library.

The campaign that draws a hundred times as many numbers is tools/prove_math.py.
"""
import ctypes
import math
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
from conftest import environment
from kernels import vector_math

from microgpt import simd_info
from microgpt.core import simd

DRAWS = 200_000  # of each function and kind

# kernel: the script's expression, the range in which it is used, the range for which the vectors answer
FUNCTIONS = {
    "exp": (math.exp, (-20.0, 0.0), (-700.0, 700.0)),
    "pow_2": (lambda x: x**2, (1e-8, 1.0), (2.0**-150, 2.0**70)),
    "pow_05": (lambda x: x**0.5, (1e-16, 1.0), (2.0**-200, 2.0**140)),
    "pow_m05": (lambda x: x**-0.5, (1e-5, 100.0), (2.0**-100, 2.0**100)),
    "pow_m1": (lambda x: x**-1, (1.0, 100.0), (2.0**-100, 2.0**100)),
    "pow_m15": (lambda x: x**-1.5, (1e-5, 100.0), (2.0**-60, 2.0**60)),
    "pow_m2": (lambda x: x**-2, (1.0, 100.0), (2.0**-50, 2.0**50)),
}

SPECIAL = [0.0, -0.0, 1.0, -1.0, 2.0, 0.25, 5e-324, -5e-324, 2.2250738585072014e-308, 1e-310, 1e-200, 1e-154, 1e-103,
           1e-100, 1e-31, 1e-30, 1e-16, -1e-16, 1e15, 1e30, 1e31, 1e77, 1e100, 1e103, 1e154, 1.4e154, 1e200, 1.7e308,
           -1e15, -1e200, math.inf, -math.inf, math.nan, 0.5, -0.5, 3.0, -3.0, 699.9, 700.1, 709.78, 709.79, 745.0,
           -699.9, -700.1, -708.3, -708.5, -744.4, -745.1, -745.2, -746.0, -799.9, -800.0, -800.1, -1e10]  # fmt: skip


def value_in_c(name, x):
    """What the C library returns: as Python, but where that raises or becomes complex."""
    if name in ("pow_05", "pow_m05", "pow_m15") and -math.inf < x < 0.0:
        return math.nan
    try:
        return FUNCTIONS[name][0](x)
    except (ZeroDivisionError, OverflowError):
        return math.copysign(math.inf, x) if name == "pow_m1" else math.inf


def call(isa, name, x):
    kernel_type = ctypes.CFUNCTYPE(None, ctypes.c_int64, ctypes.c_void_p, ctypes.c_void_p)
    kernel = kernel_type(simd._kernels(isa)[f"{name}_array"])
    padded = np.ones(-(-len(x) // 8) * 8)  # a multiple of every width
    padded[: len(x)] = x
    out = np.full_like(padded, 7.0)
    kernel(len(padded), padded.ctypes.data, out.ctypes.data)
    in_place = padded.copy()
    kernel(len(padded), in_place.ctypes.data, in_place.ctypes.data)
    assert same_bits(in_place, out).all()
    return out[: len(x)]


def same_bits(a, b):
    return (a.view(np.int64) == b.view(np.int64)) | (np.isnan(a) & np.isnan(b))


def check(isa, name, x, expected):
    found = call(isa, name, x)
    wrong = np.flatnonzero(~same_bits(found, expected))
    assert not len(wrong), [(float(x[i]).hex(), found[i].hex(), expected[i].hex()) for i in wrong[:5]]


@pytest.fixture
def both_ways(isa):
    """Vectors even where the trial of the C library has refused them: then these tests say what is wrong with it."""
    before = vector_math(isa, -1)
    yield isa
    vector_math(isa, before)


@pytest.fixture(scope="module")
def draws():
    """name -> numbers, what CPython makes of them, and which of these differ from plain rounding to nearest."""
    rng = np.random.default_rng(1)
    found = {}
    for name, (function, used, whole) in FUNCTIONS.items():
        x = []
        for low, high in (used, whole):
            if name == "exp":
                x.append(rng.uniform(low, high, DRAWS))
            else:
                x.append(np.clip(np.exp2(rng.uniform(math.log2(low), math.log2(high), DRAWS)), low, high))
        x = np.concatenate(x)
        found[name] = x, np.array([function(float(xi)) for xi in x])
    return found


@pytest.mark.parametrize("name", FUNCTIONS)
def test_draws(both_ways, draws, name):
    x, expected = draws[name]
    for choice in (1, 0):
        vector_math(both_ways, choice)
        check(both_ways, name, x, expected)


@pytest.mark.parametrize("name", ["pow_2", "pow_05", "pow_m1"])
def test_draws_where_libm_is_not_rounded_to_nearest(both_ways, draws, name):
    x, expected = draws[name]
    nearest = {"pow_2": lambda x: x * x, "pow_05": np.sqrt, "pow_m1": lambda x: 1.0 / x}[name](x)
    apart = nearest != expected
    assert 10 < apart.sum() < 0.01 * len(x)
    vector_math(both_ways, 1)
    check(both_ways, name, x[apart], expected[apart])


@pytest.mark.parametrize("name", FUNCTIONS)
def test_special_values(both_ways, name):
    x = np.array([*SPECIAL, *(y for s in SPECIAL for y in (math.nextafter(s, 9e9), math.nextafter(s, -9e9)))]
                 if hasattr(math, "nextafter") else SPECIAL)  # fmt: skip
    expected = np.array([value_in_c(name, float(xi)) for xi in x])
    for choice in (1, 0):
        vector_math(both_ways, choice)
        check(both_ways, name, x, expected)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_lengths(both_ways, draws, name):
    x, expected = draws[name]
    for n in (0, 8, 16, 248, 256, 264, 512, 1000):
        check(both_ways, name, x[:n], expected[:n])


def test_exact_results(both_ways):
    """Where the result is a double there is nothing to round: 1, powers of two, squares of short numbers."""
    short = np.array([k * 2.0**e for k in range(1, 2000, 7) for e in (-12, 0, 9)])
    twos = np.array([2.0**e for e in range(-45, 46)])
    check(both_ways, "pow_2", short, short * short)
    check(both_ways, "pow_05", short * short, short)
    check(both_ways, "pow_m1", twos, 1.0 / twos)
    check(both_ways, "pow_m2", twos, 1.0 / (twos * twos))
    check(both_ways, "pow_m05", twos * twos, 1.0 / twos)
    check(both_ways, "pow_m15", twos[10:-10] ** 2, 1.0 / twos[10:-10] ** 3)
    check(both_ways, "exp", np.zeros(8), np.ones(8))


def test_info_says_how(isa):
    before = vector_math(isa, -1)
    for choice, word in ((1, "vector"), (0, "libm")):
        vector_math(isa, choice)
        assert simd_info()["math"] == word
    vector_math(isa, before)


@pytest.mark.slow
def test_another_c_library_is_not_trusted(tmp_path):
    """With a pow that is often one unit off, vectors are not used."""
    if sys.platform != "linux":
        pytest.skip("replaces pow through LD_PRELOAD")
    compiler = os.environ.get("CC", "cc")
    if not shutil.which(compiler):
        pytest.skip("no C compiler")
    source = tmp_path / "other.c"
    source.write_text("""
        #define _GNU_SOURCE
        #include <dlfcn.h>
        #include <math.h>
        double pow(double x, double y)
        {
            static double (*real)(double, double);
            static unsigned calls;
            if (!real) *(void **)&real = dlsym(RTLD_NEXT, "pow");
            double z = real(x, y);
            return ++calls % 50 ? z : nextafter(z, 0.0);
        }
    """)
    library = tmp_path / "other.so"
    subprocess.run([compiler, "-O1", "-fno-builtin", "-shared", "-fPIC", "-o", library, source, "-ldl"], check=True)
    code = "from microgpt import simd_info; print(simd_info()['math'])"
    preloaded = os.environ.get("LD_PRELOAD", "")  # a sanitizer's library has to stay the first
    for isa in simd_info()["supported"]:
        env = environment({"LD_PRELOAD": f"{preloaded} {library}", "MICROGPT_SIMD": isa})
        result = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
        assert result.stdout == "libm\n"
        env["LD_PRELOAD"] = preloaded
        result = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
        assert result.stdout == f"{simd_info()['math']}\n"
