"""What came out of the compiler: no fused multiply-add where a result is kept, and pow, exp and log still called."""
import importlib.util
import re
import shutil
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest
from conftest import ROOT

MODULES = ["simd", "lines", "stream", "value", "model", "adam", "fused", "tracing", "hooks", "replay"]
FUSED_MULTIPLY_ADD = re.compile(r"\bv?fn?m(add|sub|la|ls)\w*\b")
# A fused multiply-add may decide, in the functions whose results are proved or else asked of libm (docs/exactness.md).
MAY_DECIDE = re.compile(r"adam|exact|_array")

on_linux = pytest.mark.skipif(sys.platform != "linux", reason="reads ELF files; the flags are the same elsewhere")


def built(name):
    return Path(import_module(f"microgpt.{name}").__file__)


def tool(name, *arguments):
    assert shutil.which(name), f"{name} (binutils) is needed to look into the built modules"
    return subprocess.run([name, *map(str, arguments)], capture_output=True, text=True, check=True).stdout


@on_linux
@pytest.mark.parametrize("name", MODULES)
def test_no_fused_multiply_add_where_a_result_is_kept(name):
    function, found, seen = None, set(), 0
    for line in tool("objdump", "-d", "--no-show-raw-insn", built(name)).splitlines():
        if line.endswith(">:"):
            function = line.split("<")[1][:-2]
        elif "\t" in line:
            seen += 1
            if FUSED_MULTIPLY_ADD.search(line.split("\t")[1]) and not MAY_DECIDE.search(function):
                found.add(function)
    assert seen > 500, "nothing was disassembled"
    assert not found


@on_linux
@pytest.mark.parametrize("name, calls", [("value", {"pow", "exp", "log"}), ("model", {"pow", "exp", "log"}),
                                         ("stream", {"log", "cos", "sin"}), ("adam", {"pow"}),
                                         ("simd", {"pow", "exp", "tanh", "erf"}), ("fused", {"log"}),
                                         ("replay", {"pow", "exp", "log"})])  # fmt: skip
def test_libm_is_called(name, calls):
    lines = tool("nm", "-D", "--undefined-only", built(name)).splitlines()
    undefined = {line.split()[-1].split("@")[0] for line in lines}
    assert calls <= undefined


def test_pow_is_not_folded():
    """Squares, inverses and roots whose last bit tells libm's pow from x*x, 1/x and sqrt(x)."""
    import math
    import random

    from microgpt import Value

    rng = random.Random(1)
    told_apart = {2: 0, -1: 0, 0.5: 0}
    folded = {2: lambda x: x * x, -1: lambda x: 1 / x, 0.5: math.sqrt}
    for _ in range(20000):
        x = rng.uniform(0.1, 10)
        for exponent, fold in folded.items():
            assert (Value(x) ** exponent).data.hex() == (x**exponent).hex()
            told_apart[exponent] += fold(x) != x**exponent
    assert all(told_apart.values()), f"these draws cannot tell: {told_apart}"


def setup_tables():
    spec = importlib.util.spec_from_file_location("setup_tables", ROOT / "setup.py")
    module = importlib.util.module_from_spec(spec)
    here = Path.cwd()
    try:
        import os

        os.chdir(ROOT)
        spec.loader.exec_module(module)
    finally:
        os.chdir(here)
    return module


def test_every_file_is_compiled_with_the_flags_that_keep_the_bits():
    tables = setup_tables()
    flags = [extension.extra_compile_args for extension in tables.EXTENSIONS]
    flags += [options["cflags"] for _, options in tables.LIBRARIES]
    assert len(flags) >= len(MODULES) + 1
    for given in flags:
        assert set(tables.EXACT) <= set(given)
        assert not {"-ffast-math", "-Ofast", "-funsafe-math-optimizations", "-march=native"} & set(given)
    if sys.platform != "win32":
        assert {"-ffp-contract=off", "-fno-builtin-pow", "-fno-builtin-exp", "-fno-builtin-log"} <= set(tables.EXACT)


def test_touching_a_header_rebuilds_every_module():
    tables = setup_tables()
    headers = {str(path.relative_to(ROOT)) for path in ROOT.glob("csrc/**/*.h") if path.parent.name != "tests"}
    assert len(headers) >= 3
    for extension in tables.EXTENSIONS:
        assert headers <= set(map(str, map(Path, extension.depends)))
    for _, options in tables.LIBRARIES:
        assert headers <= set(map(str, map(Path, options["obj_deps"][""])))


def test_all_modules_are_listed():
    assert {extension.name for extension in setup_tables().EXTENSIONS} == {f"microgpt.{name}" for name in MODULES}
    assert {path.stem for path in ROOT.glob("microgpt/*.pyx")} == set(MODULES)
