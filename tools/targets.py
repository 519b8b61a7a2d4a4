"""Compile csrc for every target of the wheel table, and run its tests wherever this machine can.

    python tools/targets.py [NAME ...]

A target is a compiler and the triple it compiles for. For each: every C file compiles without a warning; the assembly
has no fused multiply-add where a result is kept, and still calls pow, exp and log; where the program runs (natively, or
under qemu-user for another processor), csrc/tests passes: all instruction sets give the bits of the script's arithmetic
node by node. Digests of the C libraries' elementary functions are compared where a relation is known. A compiler or an
emulator that is not installed is reported as skipped. Exit status 1 if anything failed.

Needs, all optional: gcc, clang, musl-gcc (musl-tools), aarch64-linux-gnu-gcc and qemu-aarch64 (gcc-aarch64-linux-gnu,
libc6-dev-arm64-cross, qemu-user), and the package ziglang for macOS, Windows and the C libraries of the wheels.
"""
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from glob import glob
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
os.chdir(ROOT)
import setup as build  # noqa: E402  (setup.py: the tables of flags)

FLAGS = ["-O3", "-std=gnu11", "-fno-fast-math", "-ffp-contract=off", "-fno-math-errno", *build.NO_BUILTIN,
         "-g0", "-Wall", "-Wextra", "-Werror", "-Icsrc", "-Icsrc/kernels", "-Icsrc/tests"]  # fmt: skip
SOURCES = sorted(glob("csrc/*.c") + glob("csrc/compiler/*.c"))
TESTS = sorted(glob("csrc/tests/*.c"))

FUSED_MULTIPLY_ADD = re.compile(r"^\s+v?fn?m(?:add|sub|la|ls)\w*\s")
# Functions in which one may decide something (docs/exactness.md); tests/test_build.py has the same list.
MAY_DECIDE = re.compile(r"adam|exact|_array")


class Target(NamedTuple):
    name: str
    compiler: list  # command
    machine: str
    run: list | None  # prefix of a command that runs its programs; None: they do not run here
    link: list = []
    env: dict = {}


ZIG = [sys.executable, "-m", "ziglang", "cc", "-Wno-unused-command-line-argument", "-target"]
QEMU = ["qemu-aarch64", "-L", "/usr/aarch64-linux-gnu"]
NO_FMA = {"GLIBC_TUNABLES": "glibc.cpu.hwcaps=-FMA,-AVX2,-FMA_Usable,-AVX2_Usable"}
TARGETS = [
    Target("gcc", ["gcc"], build.machine(), [], ["-lm"]),
    Target("gcc, glibc without FMA", ["gcc"], build.machine(), [], ["-lm"], NO_FMA),
    Target("clang", ["clang"], build.machine(), [], ["-lm"]),
    Target("gcc, musl", ["musl-gcc"], build.machine(), [], ["-static", "-lm"]),
    Target("gcc, aarch64", ["aarch64-linux-gnu-gcc"], "aarch64", QEMU, ["-lm"]),
    # The wheel table, name for name.
    Target("manylinux x86_64", [*ZIG, "x86_64-linux-gnu.2.28"], "x86_64", [], ["-lm"]),
    Target("manylinux aarch64", [*ZIG, "aarch64-linux-gnu.2.28"], "aarch64", QEMU, ["-lm"]),
    Target("musllinux x86_64", [*ZIG, "x86_64-linux-musl"], "x86_64", [], ["-static", "-lm"]),
    Target("musllinux aarch64", [*ZIG, "aarch64-linux-musl"], "aarch64", ["qemu-aarch64"], ["-static", "-lm"]),
    Target("macosx arm64", [*ZIG, "aarch64-macos"], "aarch64", None),
    Target("macosx x86_64", [*ZIG, "x86_64-macos"], "x86_64", None),
    Target("win amd64", [*ZIG, "x86_64-windows-gnu"], "x86_64", ["wine"]),
    Target("win arm64", [*ZIG, "aarch64-windows-gnu"], "aarch64", None),
]
# Pairs whose C libraries have the same exp, log and pow: glibc's and musl's are the same code, compiled with fused
# multiply-adds where the processor has them (glibc looks when it runs, musl's is compiled for the baseline).
SAME_LIBM = [
    ("gcc", "clang"),
    ("gcc", "manylinux x86_64"),
    ("gcc, musl", "gcc, glibc without FMA"),
    ("gcc, aarch64", "manylinux aarch64"),
    # The musl that zig brings has an exp of its own; it asks no processor what it can do.
    ("musllinux x86_64", "musllinux aarch64"),
]


def present(target):
    """Why the target cannot be compiled for here; empty if it can."""
    if "ziglang" in target.compiler:
        return "" if find_spec("ziglang") else "the package ziglang is not installed"
    if not shutil.which(target.compiler[0]):
        return f"{target.compiler[0]} is not installed"
    return "" if target.machine != "unknown" else "unknown processor"


def sh(command, **kwargs):
    result = subprocess.run(command, capture_output=True, text=True, **kwargs)
    if result.returncode:
        raise RuntimeError(f"{' '.join(map(str, command))}\n{result.stdout}{result.stderr}".rstrip())
    return result.stdout


def isas(target):
    return {"scalar": [], **build.MACHINE_ISAS.get(target.machine, {})}


def check_assembly(text, source):
    """No fused multiply-add outside the functions where it may decide.

    Labels are `name:`, with or without a _ before, or with what a compiler calls its copies behind (`name.constprop.0`).
    """
    function, found = "", set()
    for line in text.splitlines():
        if match := re.match(r'^"?_?([A-Za-z][\w.$]*)"?:', line):
            if not match[1].startswith(("L", "BB")):
                function = match[1]
        elif FUSED_MULTIPLY_ADD.match(line) and not MAY_DECIDE.search(function):
            found.add(function)
    if found:
        raise RuntimeError(f"{source}: fused multiply-add in {', '.join(sorted(found))}")


def compile_all(target, folder):
    """Assembly and objects of every C file; the objects."""
    macros = ["-DMG_LARGE=2000", *(f"-DMG_HAVE_{isa.upper()}" for isa in isas(target))]
    kernels = [(f"csrc/kernels/kernels_{isa}.c", flags) for isa, flags in isas(target).items()]
    objects, calls = [], set()
    for source, flags in kernels + [(source, macros) for source in SOURCES + TESTS]:
        stem = os.path.join(folder, Path(source).stem)
        sh([*target.compiler, *FLAGS, *flags, "-S", source, "-o", stem + ".s"])
        sh([*target.compiler, "-c", stem + ".s", "-o", stem + ".o", *flags])
        objects.append(stem + ".o")
        text = Path(stem + ".s").read_text()
        check_assembly(text, source)
        calls |= set(re.findall(r"\b(?:call\w*|jmp\w*|bl?)\s+_?(pow|exp|log)\b", text))
    if calls != {"pow", "exp", "log"}:
        raise RuntimeError(f"of pow, exp and log only {sorted(calls)} are called")
    return objects


def prove(target, folder):
    """What was seen: (ran, digests of libm by name, output)."""
    program = os.path.join(folder, "test_csrc.exe" if target.name.startswith("win") else "test_csrc")
    if not os.path.exists(program):
        sh([*target.compiler, *compile_all(target, folder), "-o", program, *target.link])
    if target.run is None or not all(map(shutil.which, target.run[:1])):
        return False, {}, ""
    output = sh([*target.run, program], env={**os.environ, **target.env})
    return True, dict(re.findall(r"(\S+)=([0-9a-f]{8})", output)), output


def main(scratch):
    chosen = sys.argv[1:] or [target.name for target in TARGETS]
    if unknown := set(chosen) - {target.name for target in TARGETS}:
        sys.exit(f"no such target: {', '.join(sorted(unknown))}")
    failed, libm = 0, {}
    for target in TARGETS:
        if target.name not in chosen:
            continue
        if reason := present(target):
            print(f"{target.name:24} skipped   {reason}")
            continue
        start = time.monotonic()
        # Targets that differ only in where they run share what was compiled.
        alike = next(t for t in TARGETS if (t.compiler, t.link) == (target.compiler, target.link))
        folder = os.path.join(scratch, alike.name)
        os.makedirs(folder, exist_ok=True)
        try:
            ran, libm[target.name], output = prove(target, folder)
        except RuntimeError as error:
            failed += 1
            print(f"{target.name:24} FAILED\n{error}")
            continue
        names = re.findall(r"isa (\w+): lanes", output)
        what = f"compiled and ran: {', '.join(names)}" if ran else "compiled; its programs do not run here"
        print(f"{target.name:24} ok {time.monotonic() - start:5.1f} s   {what}", flush=True)
    for a, b in SAME_LIBM:
        if libm.get(a) and libm.get(b):
            same = libm[a] == libm[b]
            failed += not same
            print(f"libm of {a!r} and of {b!r}: {'the same bits' if same else f'DIFFER: {libm[a]} {libm[b]}'}")
    sys.exit(failed > 0)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as scratch:
        main(scratch)
