"""Compile csrc for every target of the wheel table, and run its tests wherever this machine can.

    python tools/targets.py [NAME ...]
    python tools/targets.py --flags [COMPILER ...]    # every compiler with whatever a user may have in CFLAGS

A target is a compiler and the triple it compiles for. For each: every C file compiles without a warning; the assembly
has no fused multiply-add but those that the sources ask for, and still calls pow, exp and log; where the program runs (natively, or
under qemu-user for another processor), csrc/tests passes: all instruction sets give the bits of the script's arithmetic
node by node. Digests of the C libraries' elementary functions are compared where a relation is known. A compiler or an
emulator that is not installed is reported as skipped. AVX-512 also runs on an emulated PC (emulated_pc.py), for processors that
have none. Exit status 1 if anything failed.

--flags: for each compiler (default: every gcc and clang on PATH), the same with the flags of FLAG_SETS, in the order in
which setup.py's build has them, and once more with the baseline's flags last. All must give the same bits.

Needs, all optional: gcc, clang, musl-gcc (musl-tools), aarch64-linux-gnu-gcc, s390x-linux-gnu-gcc and their qemu
(gcc-aarch64-linux-gnu, libc6-dev-arm64-cross, gcc-s390x-linux-gnu, libc6-dev-s390x-cross, qemu-user),
x86_64-w64-mingw32-gcc (gcc-mingw-w64-x86-64) and wine, what emulated_pc.py names, and the package ziglang for macOS, Windows and
the C libraries of the wheels.
"""
import operator
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from glob import glob
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import emulated_pc
from setuptools import Distribution
from setuptools.errors import CompileError

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
os.chdir(ROOT)
import setup as build  # noqa: E402  (setup.py: the tables of flags)

FLAGS = [*build.EXACT, "-g0", "-Icsrc"]
WARN = ["-Wall", "-Wextra", "-Werror"]
SOURCES = sorted({*build.C_SOURCES} - {*glob("csrc/kernels/isa/*.c")})
TESTS = sorted(glob("csrc/tests/*.c"))

FUSED_MULTIPLY_ADD = re.compile(r"^\s+v?fn?m(?:add|sub|la|ls)\w*\s", re.M)


class Target(NamedTuple):
    name: str
    compiler: list  # command
    machine: str
    run: list | None  # prefix of a command that runs its programs; None: they do not run here
    link: list = []
    env: dict = {}
    isas: tuple = ()  # those alone
    as_built: bool = False  # the kernels by setup.py's own command, so that a compiler's cache that has seen the build has them
    reads_assembly: bool = True  # False: another target does, of the same compiler


ZIG = [sys.executable, "-m", "ziglang", "cc", "-Wno-unused-command-line-argument", "-target"]
QEMU = ["qemu-aarch64", "-L", "/usr/aarch64-linux-gnu"]
EMULATED_PC = [sys.executable, "tools/emulated_pc.py"]
QEMU_S390X = ["qemu-s390x", "-L", "/usr/s390x-linux-gnu"]
NO_FMA = {"GLIBC_TUNABLES": "glibc.cpu.hwcaps=-FMA,-AVX2,-FMA_Usable,-AVX2_Usable"}
TARGETS = [
    Target("gcc", ["gcc"], build.machine(), [], ["-lm", "-pthread"], as_built=True),
    Target("gcc, glibc without FMA", ["gcc"], build.machine(), [], ["-lm", "-pthread"], NO_FMA, as_built=True),
    # As for a processor that has no line in setup.py.
    Target("gcc, scalar alone", ["gcc", "-Wno-unused-function"], "any other", [], ["-lm", "-pthread"]),
    Target("gcc, thread sanitizer", ["gcc", "-fsanitize=thread", "-g"], build.machine(), [], ["-lm", "-pthread"], reads_assembly=False),
    Target("clang", ["clang"], build.machine(), [], ["-lm", "-pthread"]),
    Target("gcc, musl", ["musl-gcc"], build.machine(), [], ["-static", "-lm", "-pthread"]),
    Target("gcc, aarch64", ["aarch64-linux-gnu-gcc"], "aarch64", QEMU, ["-lm", "-pthread"]),
    Target("gcc, s390x", ["s390x-linux-gnu-gcc"], "s390x", QEMU_S390X, ["-lm", "-pthread"]),  # big-endian
    # For processors without AVX-512. The emulator takes as long for each instruction set.
    Target("gcc, avx512 emulated", ["gcc", "-Wno-unused-function"], build.machine(), EMULATED_PC,
           ["-static", "-lm", "-pthread"], isas=("avx512",)),  # fmt: skip
    Target("win amd64, gcc", ["x86_64-w64-mingw32-gcc"], "x86_64", ["wine"], ["-static"]),
    # The wheel table, name for name.
    Target("manylinux x86_64", [*ZIG, "x86_64-linux-gnu.2.28"], "x86_64", [], ["-lm", "-pthread"]),
    Target("manylinux aarch64", [*ZIG, "aarch64-linux-gnu.2.28"], "aarch64", QEMU, ["-lm", "-pthread"]),
    Target("musllinux x86_64", [*ZIG, "x86_64-linux-musl"], "x86_64", [], ["-static", "-lm", "-pthread"]),
    Target("musllinux aarch64", [*ZIG, "aarch64-linux-musl"], "aarch64", ["qemu-aarch64"], ["-static", "-lm", "-pthread"]),
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
    if set(target.isas) - set(build.isas(target.machine)):
        return "not for this processor"
    return "" if target.machine != "unknown" else "unknown processor"


def runs(target):
    """Whether this machine can run the target's programs."""
    if target.run is EMULATED_PC:
        return not emulated_pc.missing()
    return target.run is not None and all(map(shutil.which, target.run[:1]))


def sh(command, **kwargs):
    result = subprocess.run(command, capture_output=True, text=True, **kwargs)
    if result.returncode:
        raise RuntimeError(f"{' '.join(map(str, command))}\n{result.stdout}{result.stderr}".rstrip())
    return result.stdout


def check_assembly(text, source):
    """No fused multiply-add at all: the kernels are compiled with MG_FMA_CALLS, where those that are meant are calls.

    Labels are `name:`, with or without a _ before, or with what a compiler calls its copies behind (`name.constprop.0`).
    """
    function, found = "", set()
    for line in text.splitlines():
        if match := re.match(r'^"?_?([A-Za-z][\w.$]*)"?:', line):
            if not match[1].startswith(("L", "BB")):
                function = match[1]
        elif FUSED_MULTIPLY_ADD.match(line):
            found.add(function)
    if found:
        raise RuntimeError(f"{source}: fused multiply-add in {', '.join(sorted(found))}")


def kernels_as_built(folder):
    """Source -> object of the kernels as setup.py compiles them, if it does with GCC.

    What is fused in them, tests/package/test_build.py sees in what is built.
    """
    if "gcc" not in (os.environ.get("CC") or sysconfig.get_config_var("CC") or ""):
        return {}
    command = build.BuildLibraries(Distribution({"libraries": build.LIBRARIES}))
    command.build_clib = command.build_temp = folder
    command.ensure_finalized()
    try:
        command.compile()
    except CompileError as error:
        raise RuntimeError(error) from None
    return {source: os.path.join(folder, source.removesuffix(".c") + ".o") for _, made in build.LIBRARIES for source in made["sources"]}


CALL = re.compile(r"\b(?:call\w*|jmp\w*|bl?|jg|brasl\s+%r14,)\s*_?(pow|exp|log)\b")


def compile_all(target, folder, before=(), after=(), warn=WARN):
    """Objects of every C file. before, after: more flags, in front of ours and behind them."""
    isas = {isa: flags for isa, flags in build.isas(target.machine).items() if not target.isas or isa in target.isas}
    macros = ["-DMG_BY_MATRIX_PARAMS=2000", "-DMG_FETCH_AHEAD_PARAMS=2000", "-DMG_GROUP_BYTES=20000",
              "-DMG_FAIL_ALLOCATIONS", *(f"-DMG_HAVE_{isa.upper()}" for isa in isas)]  # fmt: skip
    kernels = [(f"csrc/kernels/isa/{isa}.c", flags) for isa, flags in reversed(isas.items())]  # what takes longest first

    def compile_one(source, flags):
        """The object of a C file, and the functions of libm that it calls."""
        stem = os.path.join(folder, source.replace("/", "_").removesuffix(".c"))
        compile = [*target.compiler, *before, *FLAGS, *warn, *flags, *after]
        if made := as_built.get(source):
            text, calls, fused = "", {*sh(["nm", "-u", made]).split()} & {"pow", "exp", "log"}, "-mfma" in flags
        else:
            made = stem + ".o"
            sh([*compile, "-S", source, "-o", stem + ".s"])
            sh([*compile, "-Wno-unused-command-line-argument", "-c", stem + ".s", "-o", made])
            text = Path(stem + ".s").read_text()
            calls, fused = set(CALL.findall(text)), FUSED_MULTIPLY_ADD.search(text)
        if not target.reads_assembly:
            return made, calls
        if source.startswith("csrc/kernels/isa/") and fused:  # are they those that are meant?
            # GCC fuses where it optimises expensively, and with -O1 besides takes half the time.
            less = ["-O1", "-fexpensive-optimizations"] if "gcc" in target.compiler[0] else []
            sh([*compile, *less, "-DMG_FMA_CALLS", "-S", source, "-o", stem + ".s"])
            text = Path(stem + ".s").read_text()
        check_assembly(text, source)
        return made, calls

    as_built = kernels_as_built(folder) if target.as_built else {}
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        made = list(pool.map(compile_one, *zip(*kernels, *((source, macros) for source in SOURCES + TESTS))))
    calls = set().union(*(called for _, called in made))
    if calls != {"pow", "exp", "log"}:
        raise RuntimeError(f"of pow, exp and log only {sorted(calls)} are called")
    return [name for name, _ in made]


def prove(target, folder):
    """What was seen: (ran, digests of libm by name, output)."""
    program = os.path.join(folder, "test_csrc.exe" if target.name.startswith("win") else "test_csrc")
    if not os.path.exists(program):
        sh([*target.compiler, *compile_all(target, folder), "-o", program, *target.link])
    if not runs(target):
        return False, {}, ""
    output = sh([*target.run, program], env={**os.environ, **target.env})
    return True, dict(re.findall(r"(\S+)=([0-9a-f]{8})", output)), output


# ---- what a user may have in CFLAGS ----

# Each must give the bits of the first. "last:" puts the flags behind ours, as other build systems do: then the kernels
# are compiled for more than their instruction set.
FLAG_SETS = [
    "", "-march=x86-64-v2", "-march=x86-64-v3", "-march=x86-64-v4", "-march=native", "-mavx512f -mfma4",
    "last: -mavx2 -mfma", "last: -march=x86-64-v4", "-Ofast -march=native -flto", "-ffast-math -ffp-contract=fast -mfma",
    "-funsafe-math-optimizations -fassociative-math -freciprocal-math -fno-signed-zeros -fno-trapping-math",
    "-O0 -frounding-math", "-Os -std=c99 -fwrapv -march=native",
    "last: -march=native -O1 -fsanitize=address,undefined -fno-sanitize-recover=undefined",
]  # fmt: skip
# The machines on which a set means something, where it is not all of them.
ONLY_X86 = re.compile(r"x86-64|-mavx|-mfma")


def compilers():
    """Every gcc and clang that is installed, the newest name of each first."""
    found = {}
    for name in ["gcc", "clang", *(f"{kind}-{n}" for kind in ("gcc", "clang") for n in range(25, 10, -1))]:
        if path := shutil.which(name):
            found.setdefault(os.path.realpath(path), name)
    return list(found.values())


def flags_matrix(scratch, chosen):
    machine, failed = build.machine(), 0
    for compiler in chosen or compilers():
        target, results = Target(compiler, compiler.split(), machine, [], ["-lm", "-pthread"]), {}
        for number, name in enumerate(FLAG_SETS):
            if ONLY_X86.search(name) and machine != "x86_64":
                continue
            start = time.monotonic()
            folder = os.path.join(scratch, f"{Path(compiler).name}-{number}")
            os.makedirs(folder)
            last, given = name.startswith("last: "), name.removeprefix("last: ").split()
            around = {"after": given} if last else {"before": given}
            try:
                program = os.path.join(folder, "test_csrc")
                objects = compile_all(target, folder, warn=[], **around)
                sh([*target.compiler, *given, *objects, "-o", program, *build.LINK])
                output = sh([program], env={**os.environ, "ASAN_OPTIONS": "detect_leaks=0"})
                results[name] = set(re.findall(r"results (\w+)", output))
                if results[name] != results[""] or len(results[name]) != 1:
                    raise RuntimeError(f"{name}: results differ: {results[name]}, without flags {results['']}")
                what = f"ok {time.monotonic() - start:5.1f} s   {', '.join(re.findall(r'isa (.+): lanes', output))}"
            except RuntimeError as error:
                failed += 1
                what = f"FAILED\n{error}"
            print(f"{compiler:10} {name or '(none)':75} {what}", flush=True)
    return failed


def main(scratch):
    if sys.argv[1:2] == ["--flags"]:
        sys.exit(flags_matrix(scratch, sys.argv[2:]) > 0)
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
        compiled = operator.attrgetter("compiler", "machine", "link", "isas", "as_built")
        alike = next(t for t in TARGETS if compiled(t) == compiled(target))
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
