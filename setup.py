"""Builds the C kernels, once per instruction set, and the Cython modules over them. All metadata is in pyproject.toml.

Everything about compilation is in the tables below; tests/package/test_build.py inspects what comes out of it.

MICROGPT_BUILD names variants of the build, for finding mistakes and never for use (docs/develop/testing.md), comma separated:
sanitize (AddressSanitizer and UndefinedBehaviorSanitizer), debug (checked indices, and the tape walks its invariants),
refnanny (Cython's counting of references), symbols (as always, but with what valgrind and profilers read).
"""
import copy
import os
import platform
import re
import subprocess
import sys
import sysconfig
from concurrent.futures import ThreadPoolExecutor
from glob import glob
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_clib import build_clib
from setuptools.command.build_ext import build_ext

WINDOWS, MACOS = sys.platform == "win32", sys.platform == "darwin"

VARIANTS = set(filter(None, os.environ.get("MICROGPT_BUILD", "").split(",")))
if unknown := VARIANTS - {"sanitize", "debug", "refnanny", "symbols"}:
    raise SystemExit(f"MICROGPT_BUILD: unknown variant {sorted(unknown)[0]!r}")

# Flags that keep the bits, on every C file and every Cython module. `a*b + c` must round twice (no fused
# multiply-add), and pow, exp, log, cos and sin must be calls of the C library (a compiler folds pow(x, 2.0) into x*x,
# which rounds differently), because that is what CPython's own arithmetic does. They come after the flags of Python's own
# build and of the environment (CC, CFLAGS), and the last one counts: whatever is asked for there, these hold. What they
# cannot undo, csrc/base/require.h refuses.
NO_FAST_MATH = ["-fno-fast-math", "-fno-unsafe-math-optimizations", "-fno-associative-math", "-fno-reciprocal-math",
                "-fno-finite-math-only", "-fsigned-zeros"]  # fmt: skip
NO_BUILTIN = ["-fno-builtin-pow", "-fno-builtin-exp", "-fno-builtin-log", "-fno-builtin-cos", "-fno-builtin-sin"]
if WINDOWS:
    # clang-cl, not cl: the kernels use vector extensions that MSVC lacks. It takes GCC's flags behind /clang:.
    EXACT = ["/O2", "/fp:precise", *(f"/clang:{flag}" for flag in [*NO_FAST_MATH, "-ffp-contract=off", *NO_BUILTIN])]
    WARN, VISIBILITY = ["/W3"], []
else:
    # Link-time optimisation would optimise once more, with flags that are merged from all files.
    EXACT = ["-O3", "-std=gnu11", *NO_FAST_MATH, "-ffp-contract=off", "-fno-math-errno", "-fno-lto", *NO_BUILTIN]
    WARN, VISIBILITY = ["-Wall", "-Wextra"], ["-fvisibility=hidden", "-fPIC"]

# Flags of a variant, and otherwise: no debugging symbols, which would hold the path of this folder, so that the same
# sources give the same bytes wherever they are built.
if WINDOWS:
    VARIANT_FLAGS, LINK = [], ["/Brepro"]
else:
    VARIANT_FLAGS = ["-g", "-fno-omit-frame-pointer"] if VARIANTS else ["-g0"]
    # Linking with -Ofast or -ffast-math, which CFLAGS may hold, adds code that makes the whole process flush subnormal
    # numbers to zero as soon as the module is loaded.
    LINK = ["-O3", *NO_FAST_MATH, "-lm", "-pthread"]
if "sanitize" in VARIANTS:
    # Python's own -fwrapv would make overflows of signed integers legal.
    VARIANT_FLAGS += ["-O1", "-fno-wrapv", "-fsanitize=address,undefined", "-fno-sanitize-recover=undefined"]
    LINK += ["-fsanitize=address,undefined"]
if "debug" in VARIANTS:
    VARIANT_FLAGS += ["-O1", "-UNDEBUG", "-DMG_DEBUG=1"]
if "refnanny" in VARIANTS:
    VARIANT_FLAGS += ["-DCYTHON_REFNANNY=1"]


def machine():
    """The processor that is compiled for: "x86_64", "aarch64", or another's name."""
    if MACOS:
        # python.org's Pythons would compile for both kinds of Mac at once, and each kernel is for one of them.
        flags = os.environ.setdefault("ARCHFLAGS", f"-arch {platform.machine()}").split()
        name = flags[flags.index("-arch") + 1] if "-arch" in flags else platform.machine()
    else:
        name = sysconfig.get_platform().rpartition("-")[2]
    return {"amd64": "x86_64", "arm64": "aarch64"}.get(name.lower(), name.lower())


# Instruction set -> the flags of its one file, csrc/kernels/isa/NAME.c. All but scalar are chosen at run time. What a
# name means does not depend on CFLAGS (-march=native, -march=x86-64-v3, -mavx2): whatever they may have added beyond
# it is taken away, for scalar all that came after SSE2, which every x86-64 has. (-mno-sse3 and then -mavx2 would do for
# GCC and Clang, but zig cc takes away last, wherever the flag is.)
MACHINE_ISAS = {
    "x86_64": {
        "scalar": ["-mno-sse3"],
        "avx2": ["-mno-avx512f", "-mno-fma4", "-mavx2", "-mfma"],
        "avx512": ["-mno-fma4", "-mavx512f", "-mavx512vl", "-mavx512dq", "-mfma", "-mprefer-vector-width=512"],
    },
    "aarch64": {"scalar": [], "neon": []},
}


def isas(machine):
    """The instruction sets of a processor and their flags. Of one without a line of its own: the scalar kernels."""
    return MACHINE_ISAS.get(machine, {"scalar": []})


ISAS = isas(machine())
if WINDOWS:
    ISAS = {isa: [f"/clang:{flag}" for flag in flags] for isa, flags in ISAS.items()}

HEADERS = sorted(path for path in glob("csrc/**/*.h", recursive=True) if "tests" not in Path(path).parts)
C_SOURCES = sorted(path for path in glob("csrc/**/*.c", recursive=True) if "tests" not in Path(path).parts)

# One static library per instruction set, because flags go by library in setuptools. Only microgpt.core.simd uses them. The widest
# takes longest and is the first to be compiled.
LIBRARIES = [
    (f"mg_isa_{isa}", {
        "sources": [f"csrc/kernels/isa/{isa}.c"],
        "obj_deps": {"": HEADERS},
        "include_dirs": ["csrc"],
        "cflags": EXACT + WARN + VISIBILITY + VARIANT_FLAGS + flags,
    })
    for isa, flags in reversed(ISAS.items())
]

# Compiled module -> its C sources beside the .pyx.
MODULES = {
    "simd": ["csrc/kernels/dispatch.c", "csrc/compiler/functions.c"],
    "documents": [],
    "encoded": [],
    "mt19937": ["csrc/rng/mt19937.c"],
    "tape": ["csrc/base/vmem.c"],
    "lock": [],
    "topo": [],
    "backward": [],
    "rewiring": [],
    "value": [],
    "audit": [],
    "layers": [],
    "functions": [],
    "gpt": [],
    "model": [],
    "adam": ["csrc/base/vmem.c", "csrc/fused/adam.c", "csrc/fused/clip.c"],
    "optim": ["csrc/fused/adam.c"],
    "elementwise": [],
    "transfer": [],
    "recorder": ["csrc/compiler/graph.c"],
    "symbols": [],
    "traced": [],
    "tracing": [],
    "guards": [],
    "outside": [],
    "strays": [],
    "operators": [],
    "reading": [],
    "twins": [],
    "stand_ins": [],
    "hooks": [],
    "calls": ["csrc/compiler/graph.c", "csrc/compiler/functions.c", "csrc/compiler/program.c"],
    "replay": sorted(glob("csrc/compiler/*.c")),
    "dispatch": [],
    "probes": [],
    "part": [],
    "crew": [],
    "fused": [*sorted(glob("csrc/fused/*.c")), "csrc/base/arena.c", "csrc/base/counter.c", "csrc/base/poll.c",
              "csrc/base/pool.c", "csrc/model/layout.c", "csrc/rng/mt19937.c"],
}

# Module -> modules that are in its file: those that every run of the fused engine loads, and part and crew, which call the same C;
# those that the graph needs beside Value. A file of its own costs each of them 0.1 ms at the start. microgpt/core/__init__.py finds
# them, by the same table.
TOGETHER = {
    "fused": ["simd", "documents", "encoded", "mt19937", "tape", "lock", "model", "adam", "part", "crew"],
    "functions": ["layers", "gpt", "topo", "backward", "rewiring", "transfer"],
}


# What stands around the operators while microgpt.compile traces a shape. GCC needs three times as long for these with -O3 as
# with -O1, a fifth of the whole build, and a trace gains nothing by it.
AROUND_TRACES = {"hooks", "outside", "probes", "reading", "stand_ins", "strays", "tracing", "twins"}


def extension(name, together=()):
    """The extension of a module, and of the modules that are in its file."""
    names = [name, *together]
    return Extension(
        f"microgpt.core.{name}",
        [*(f"microgpt/core/{each}.pyx" for each in names), *sorted({source for each in names for source in MODULES[each]})],
        include_dirs=["csrc"],
        # Touching a header, a kernel, a declaration or these tables rebuilds every module.
        depends=["setup.py", *HEADERS, *C_SOURCES, *sorted(glob("microgpt/core/*.pxd"))],
        define_macros=[(f"MG_HAVE_{isa.upper()}", "1") for isa in ISAS],
        extra_compile_args=[*EXACT, *(["-O1"] if name in AROUND_TRACES and not WINDOWS else []), *VISIBILITY, *VARIANT_FLAGS],
        extra_link_args=LINK,
        export_symbols=[f"PyInit_{each}" for each in names],
    )


# The largest first: they are compiled at the same time.
EXTENSIONS = [extension(name, others) for name, others in TOGETHER.items()]
EXTENSIONS += [extension(name) for name in MODULES if name not in {*TOGETHER, *sum(TOGETHER.values(), [])}]


def use_clang_cl(compiler):
    """Let setuptools' MSVC compiler call clang-cl (of LLVM, or of Visual Studio's C++ Clang component) for C files.

    The linker, the headers and the libraries stay Microsoft's, and with them the C library whose pow, exp and log
    CPython calls.
    """
    if not WINDOWS:
        return
    import shutil

    if not compiler.initialized:
        compiler.initialize()
    folders = os.pathsep.join([os.environ["PATH"], compiler._paths, r"C:\Program Files\LLVM\bin"])
    clang_cl = shutil.which(os.environ.get("CLANG_CL", "clang-cl"), path=folders)
    if not clang_cl:
        raise SystemExit("clang-cl is needed to compile microgpt: winget install LLVM.LLVM, or set CLANG_CL to its path")
    compiler.cc = clang_cl
    target = "--target=aarch64-pc-windows-msvc" if machine() == "aarch64" else "--target=x86_64-pc-windows-msvc"
    # /GL is for Microsoft's own whole-program optimisation.
    compiler.compile_options = [option for option in compiler.compile_options if option != "/GL"] + [target]


def check_compiler(command):
    """Exit with one sentence if there is no compiler, or if it or its flags are not what csrc/base/require.h asks for.

    command: the compiler and the flags that it is called with before those of this file.
    """
    if "-mdaz-ftz" in command:
        raise SystemExit("microgpt cannot be compiled with -mdaz-ftz: results must have the script's bits. Take it out of CFLAGS")
    # zig cc, in nox's session released_policy, fails with -fsyntax-only.
    only_check = ["/Zs", "/TC"] if WINDOWS else ["-S", "-o", os.devnull, "-x", "c"]
    try:
        done = subprocess.run([*command, *EXACT, *only_check, "csrc/base/require.h"], capture_output=True, text=True, errors="replace",
                              stdin=subprocess.DEVNULL)  # fmt: skip
    except OSError as error:
        raise SystemExit(f"microgpt needs a C compiler, and {command[0]!r} cannot be run ({error.strerror}): install GCC 11 or "
                         "later, or Clang 14 or later, or name one with CC") from None  # fmt: skip
    if not done.returncode:
        return
    # The words of an #error or of a _Static_assert, or else the compiler's own, of an option that it does not know.
    words = re.search(r'error: (?:.*?")?((?:microgpt|this) .*?)"', done.stderr) or re.search(r"^.*\berror\b.*$", done.stderr, re.M)
    reason = words[words.lastindex or 0] if words else f"the C compiler ends with status {done.returncode}"
    raise SystemExit(f"{'' if 'microgpt' in reason else 'microgpt: '}{reason} (the compiler and its flags, from CC and CFLAGS: "
                     f"{' '.join(command)})")  # fmt: skip


class BuildLibraries(build_clib):
    """The kernels. BuildExtensions compiles them, beside the modules: each takes so long that a processor would wait for the last."""

    def run(self):
        pass

    def compile(self):
        super().run()

    def build_libraries(self, libraries):
        use_clang_cl(self.compiler)
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            list(pool.map(lambda library: build_clib.build_libraries(self, [library]), libraries))


class BuildExtensions(build_ext):
    """Translates the Cython modules, then compiles several at once, and the kernels.

    Only here, where a compiler is about to run: an sdist and metadata need no C.
    """

    def finalize_options(self):
        super().finalize_options()
        self.parallel = self.parallel or os.cpu_count()

    def build_extensions(self):
        use_clang_cl(self.compiler)
        check_compiler([self.compiler.cc, *self.compiler.compile_options] if WINDOWS else self.compiler.compiler_so)
        from Cython.Build import cythonize

        directives = {
            "language_level": "3",
            "embedsignature": True,
            "binding": True,
            "boundscheck": "debug" in VARIANTS,
            "wraparound": False,
            "initializedcheck": "debug" in VARIANTS,
        }
        # Cython translates one module of an extension. force: a variant changes no source, and would not be noticed. cache:
        # translations are kept, by the content of what they are made of, where this variable of Cython's says (not those of variants).
        translated = {its.name.rpartition(".")[2]: its for its in cythonize(
            [extension(name) for name in MODULES], compiler_directives=directives, force=bool(VARIANTS),
            cache="CYTHON_CACHE_DIR" in os.environ, nthreads=os.cpu_count() or 1)}  # fmt: skip
        for each in self.extensions:
            name, c_files = each.name.rpartition(".")[2], []
            for its in (translated[other] for other in (name, *TOGETHER.get(name, ()))):
                assert its.define_macros == translated[name].define_macros, "a file of several modules is compiled with one set of macros"
                c_files += its.sources
            vars(each).update(vars(translated[name]), sources=sorted({*c_files}), export_symbols=each.export_symbols)
            if "simd" in (name, *TOGETHER.get(name, ())):
                each.libraries = self.compiler.libraries
        self.compiler.set_libraries([])  # of the other modules, which need not wait for the kernels
        link = self.compiler.link_shared_object

        def link_after_kernels(*arguments, libraries=(), **options):
            if {name for name, _ in LIBRARIES} & {*libraries}:
                kernels.result()
            link(*arguments, libraries=libraries, **options)

        self.compiler.link_shared_object = link_after_kernels
        with ThreadPoolExecutor(1) as pool:  # only now: Cython forks, which a process of several threads should not
            kernels = pool.submit(self.get_finalized_command("build_clib").compile)
            super().build_extensions()

    def build_extension(self, ext):
        one = copy.copy(self)  # its own folder: modules that share a C file would write the same object at the same time
        one.build_temp = os.path.join(self.build_temp, ext.name)
        build_ext.build_extension(one, ext)


if __name__ == "__main__":
    setup(libraries=LIBRARIES, ext_modules=EXTENSIONS, cmdclass={"build_clib": BuildLibraries, "build_ext": BuildExtensions})
