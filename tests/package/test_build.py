"""What goes into the compiler and what comes out: no fused multiply-add where a result is kept, and pow, exp and log
still called, whatever the compiler's version and the flags of the environment."""
import importlib.util
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections import Counter
from importlib import import_module
from pathlib import Path

import pytest
from conftest import ROOT

MODULES = ["simd", "documents", "encoded", "mt19937", "tape", "lock", "topo", "backward", "rewiring", "value", "audit", "layers",
           "functions", "gpt", "model", "adam", "optim", "elementwise", "transfer", "fused", "part", "crew",
           "recorder", "symbols", "traced", "tracing", "guards", "outside", "strays", "operators", "reading", "twins", "stand_ins",
           "hooks", "calls",
           "replay", "dispatch", "probes"]  # fmt: skip
FUSED_MULTIPLY_ADD = re.compile(r"\bv?fn?m(add|sub|la|ls)\w*\b")
# The only compiled functions with fused multiply-adds, which decide there (docs/explain/exactness.md), by name and in full. That
# none of theirs is a result that is kept: tools/targets.py, where those of the sources are calls, and FUSED_IN_SOURCES.
MAY_DECIDE = {"fused": {
    "adam_part", "adam_resolve_queue", "adam_update", "adam_update_or_undo", "adam_update_early", "adam_update_unit_m",
    "adam_update_unit", "adam_update_unit_m_subnormals", "adam_update_unit_subnormals", "libm_check",
    "adam_update_early_by_instruction", "adam_update_unit_m_by_instruction", "adam_update_unit_by_instruction",
    "adam_update_unit_m_subnormals_by_instruction", "adam_update_unit_subnormals_by_instruction",
    "adam_update_in_range", "adam_update_early_in_range", "adam_update_unit_m_in_range", "adam_update_unit_in_range",
    "adam_update_unit_m_subnormals_in_range", "adam_update_unit_subnormals_in_range",
    "narrow_resolve", "narrow_rest", "exp_chunk", "exp_by_passes", "pow_2_array", "pow_05_array", "pow_m05_array", "pow_m1_array",
    "pow_m15_array", "pow_m2_array",
    "pow_m05_and_pow_m15_array", "pow_m1_and_pow_m2_array",
}}  # fmt: skip

on_linux = pytest.mark.skipif(sys.platform != "linux", reason="reads ELF files; the flags are the same elsewhere")


def files():
    """The names of the modules whose files hold all modules."""
    return sorted({built(name).name.partition(".")[0] for name in MODULES})


def built(name):
    return Path(import_module(f"microgpt.core.{name}").__file__)


def tool(name, *arguments):
    assert shutil.which(name), f"{name} (binutils) is needed to look into the built modules"
    return subprocess.run([name, *map(str, arguments)], capture_output=True, text=True, check=True).stdout


@pytest.mark.slow
@on_linux
@pytest.mark.parametrize("name", files())
def test_no_fused_multiply_add_where_a_result_is_kept(name):
    function, found, seen = None, set(), 0
    for line in tool("objdump", "-d", "--no-show-raw-insn", built(name)).splitlines():
        if line.endswith(">:"):
            function = line.split("<")[1][:-2]
        elif "\t" in line:
            seen += 1
            if FUSED_MULTIPLY_ADD.search(line.split("\t")[1]):
                found.add(re.sub(r"\.(constprop|isra|part|cold)\b.*", "", function))  # a compiler's own copies
    assert seen > 500, "nothing was disassembled"
    assert found <= MAY_DECIDE.get(name, set())


# The sources' own fused multiply-adds: function of csrc/kernels -> calls in it of vec_fma, fma_of and fma_or_mul_add (which is one
# where the processor has it). Each decides, or is proved to give the bits of the script's operation (docs/explain/exactness.md);
# a new one needs such an argument, and a line here.
FUSED_IN_SOURCES = Counter(
    product_error=1, square_residual=1, fma_or_mul_add=1, divide_by_constant=2, root_near=4, root_of_near=3,  # exact
    square_of=2, root_of=2,
    round_sum_by=1, exact_pow_2=1, exp_reduce=1, exp_of_reduced=10,  # math
    decay=1, adam_moments=1, narrow_moments=1, adam_other=1, adam_resolve_v=1, adam_resolve_data=1,  # adam_*
)  # fmt: skip


FUSED_CALL = re.compile(r"\b(?:vec_fma|fma_of|fma_or_mul_add|\w*_fn?m(?:add|sub)\w*|vfm\w+|\w*fmaf?)\(")


def test_fused_multiply_adds_of_the_sources_are_those_that_decide():
    found, function = Counter(), None
    for path in sorted((ROOT / "csrc").rglob("*.[ch]")):
        text = re.sub(r"/\*.*?\*/", "", path.read_text(encoding="utf-8"), flags=re.S)
        for line in text.splitlines():
            if header := re.match(r"[A-Za-z][\w *()]*?\b(\w+)\((?!\()", line):  # a definition begins in the first column
                function, line = header[1], line[header.end() :]
            found[function] += len(FUSED_CALL.findall(line))
    for holder in ("vec_fma", "fma_of"):  # of the instruction
        assert found.pop(holder)
    assert +found == FUSED_IN_SOURCES


def c_compiler():
    command = shlex.split(os.environ.get("CC", "cc"))
    return command if shutil.which(command[0]) else pytest.skip("no C compiler")


def kernels_compiled(isa, *more, before=(), exact=True, source=None):
    """The result of compiling one instruction set's kernels with the flags of setup.py, or without those for the bits."""
    tables = setup_tables()
    flags = tables.EXACT if exact else ["-std=gnu11"]
    return subprocess.run([*c_compiler(), *before, *flags, *tables.ISAS[isa], "-Icsrc", *more,
                           source or f"csrc/kernels/isa/{isa}.c"], cwd=ROOT, capture_output=True, text=True)  # fmt: skip


def assembly(folder, source, *more, **options):
    """A source compiled for an instruction set that has fused multiply-adds."""
    isa = next((isa for isa in ("avx2", "neon") if isa in setup_tables().ISAS), None)
    if not isa:
        pytest.skip("this processor's kernels know no fused multiply-add")
    done = kernels_compiled(isa, "-O2", *more, "-S", "-o", str(folder / "a.s"), source=str(source), **options)
    assert not done.returncode, done.stderr
    return (folder / "a.s").read_text()


@on_linux
@pytest.mark.parametrize("may_fuse", [False, True])
def test_instruction_of_a_compiler_that_may_fuse_is_found(may_fuse, tmp_path):
    """The other side of the tests above: the same search finds what the flags for the bits prevent."""
    (tmp_path / "a.c").write_text("double f(double a, double b, double c) { return a * b + c; }\n", encoding="utf-8")
    more = ["-ffp-contract=fast"] if may_fuse else []
    made = assembly(tmp_path, tmp_path / "a.c", *more, exact=not may_fuse)
    assert bool(FUSED_MULTIPLY_ADD.search(made)) is may_fuse


# ---- the user's compilers and flags ----

if sys.platform == "linux" and os.uname().machine == "x86_64":
    BASELINES = ["-march=x86-64-v3", "-march=x86-64-v4", "-march=native"]
else:
    BASELINES = ["-mcpu=native"]


@pytest.mark.slow
@on_linux
@pytest.mark.parametrize("isa", ["scalar", "avx2"] if "x86" in str(BASELINES) else ["scalar"])
@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("baseline", BASELINES)
def test_kernels_compile_whatever_the_baseline(baseline, last, isa):
    """What a file's name says is what it is made for, wherever the baseline's flags stand. (Bits: tools/targets.py.)"""
    flags = baseline.split()
    done = kernels_compiled(isa, "-fsyntax-only", *(flags if last else []), before=[] if last else flags)
    assert not done.returncode, done.stderr


@on_linux
@pytest.mark.parametrize("isa, absent", [("scalar", {"AVX", "FMA", "SSE3"}), ("avx2", {"AVX512F", "FMA4"})])
@pytest.mark.parametrize("flags", ["-march=x86-64-v4", "-mavx512f -mfma4", "-march=native"])
def test_what_an_instruction_set_is_made_for_does_not_depend_on_flags(flags, isa, absent):
    if "x86" not in str(BASELINES):
        pytest.skip("x86-64 only")
    macros = kernels_compiled(isa, "-dM", "-E", before=flags.split()).stdout
    assert "__SSE2__" in macros
    assert not {name for name in absent if f"#define __{name}__ " in macros}


FAST = ["-ffast-math", "-Ofast", "-funsafe-math-optimizations", "-ffinite-math-only", "-freciprocal-math -fno-signed-zeros",
        "-fassociative-math -fno-signed-zeros -fno-trapping-math"]  # fmt: skip


@on_linux
@pytest.mark.parametrize("flags", FAST)
def test_flags_of_the_environment_do_not_make_arithmetic_inexact(flags, tmp_path):
    tables = setup_tables()
    command = [*c_compiler(), *flags.split()]
    tables.check_compiler(command)  # not refused, for it is undone
    # nor at linking, where it would bring code along that flushes subnormal numbers in the whole process
    (tmp_path / "a.c").write_text("int a;")
    done = subprocess.run([*command, "-shared", "-fPIC", "a.c", "-o", "a.so", *tables.LINK, "-###"], cwd=tmp_path,
                          capture_output=True, text=True, check=True)  # fmt: skip
    assert "collect2" in done.stderr or "ld" in done.stderr
    assert "crtfastmath" not in done.stderr


@on_linux
@pytest.mark.parametrize("name", files())
def test_modules_do_not_flush_subnormal_numbers(name):
    assert b"set_fast_math" not in built(name).read_bytes()


@on_linux
@pytest.mark.parametrize("flags, says", [
    ("-U__GNUC__ -D__GNUC__=10 -U__clang_major__ -D__clang_major__=13",
     "is too old: microgpt needs (GCC 11 or later, or Clang 14|Clang 14 or later, or GCC 11)"),
    ("-U__GNUC__ -U__clang__", "microgpt needs GCC 11 or later, or Clang 14 or later"),
    ("-U__SIZEOF_POINTER__ -D__SIZEOF_POINTER__=4", "microgpt needs a 64-bit target"),
    ("-D__FAST_MATH__", "microgpt cannot be compiled with -ffast-math"),
    ("-U__BYTE_ORDER__ -D__BYTE_ORDER__=3412", "little-endian or big-endian"),
    ("-U__DBL_MANT_DIG__ -D__DBL_MANT_DIG__=64", "doubles of IEEE 754"),
    ("-mdaz-ftz", "microgpt cannot be compiled with -mdaz-ftz"),
    ("--no-such-flag", "microgpt: .*--no-such-flag"),
])  # fmt: skip
def test_compiler_that_will_not_do_is_refused_in_words(flags, says):
    with pytest.raises(SystemExit, match=says) as error:
        setup_tables().check_compiler([*c_compiler(), *flags.split()])
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("command, says", [(["/nowhere/cc"], "needs a C compiler, and '/nowhere/cc' cannot be run"),
                                           ([str(ROOT)], "needs a C compiler"), (["false"], "ends with status 1")])  # fmt: skip
def test_missing_compiler_is_said_in_words(command, says):
    if command == ["false"] and not shutil.which("false"):
        pytest.skip("no such command")
    with pytest.raises(SystemExit, match=f"^microgpt.*{says}"):
        setup_tables().check_compiler(command)


# ---- csrc ----


def test_statuses_are_one_enumeration_of_different_numbers():
    text = "".join(path.read_text(encoding="utf-8") for path in sorted((ROOT / "csrc").rglob("*.h"))
                   if path.parent.name != "compiler")  # whose enumerations are kinds of nodes and instructions
    enumerations = [body for body in re.findall(r"enum \w* ?\{(.*?)\}", text, re.S) if re.search(r"MG_\w+ = -?\d+,", body)]
    assert len(enumerations) == 1
    statuses = dict(re.findall(r"(MG_\w+) = (-?\d+)", enumerations[0]))
    assert len(statuses) >= 13
    assert len(set(statuses.values())) == len(statuses)


def csrc_includes():
    """{unit: units that it includes}. A unit is a path in csrc without .h and .c."""
    graph = {}
    for path in (ROOT / "csrc").rglob("*.[ch]"):
        unit = path.relative_to(ROOT / "csrc").with_suffix("").as_posix()
        included = {name.removesuffix(".h") for name in re.findall(r'#include "(.+?)"', path.read_text(encoding="utf-8"))}
        graph.setdefault(unit, set()).update(included - {unit})
    return graph


def circles(graph):
    """The units from which a way leads back to them."""
    reach = {unit: set(included) for unit, included in graph.items()}
    while True:
        more = {unit: far | set().union(*(reach[near] for near in far)) for unit, far in reach.items()}
        if more == reach:
            return sorted(unit for unit, far in reach.items() if unit in far)
        reach = more


def test_c_files_include_each_other_without_circles():
    graph = csrc_includes()
    assert len(graph) > 30
    assert set().union(*graph.values()) <= set(graph), "an include is not spelled from csrc"
    assert circles(graph) == []
    assert circles({"a": {"b"}, "b": {"a"}, "c": {"a"}}) == ["a", "b"]  # the check can fail


# Each folder of csrc may include itself and the folders before it (csrc/README.md).
LAYERS = ["base", "rng", "model", "microgpt", "compiler", "kernels", "fused", "tests"]


def test_c_folders_include_lower_layers_only():
    table = re.findall(r"^\| `(\w+)(?:/|\.h)` \|", (ROOT / "csrc" / "README.md").read_text(encoding="utf-8"), re.M)
    assert table == LAYERS and {path.name for path in (ROOT / "csrc").iterdir() if path.is_dir()} <= set(LAYERS)
    for unit, included in csrc_includes().items():
        here, *_ = unit.split("/")
        if here in LAYERS:
            lower = LAYERS[: LAYERS.index(here) + 1]
            assert {other.split("/")[0] for other in included} <= set(lower), unit


def test_addresses_to_prefetch_are_integers():
    """An address beyond an array may be prefetched, but not computed as a pointer: vec.h has the functions for it.

    weights.c prefetches the numbers of an array, and none beyond.
    """
    calls = [path.name for path in (ROOT / "csrc").rglob("*.[ch]") for _ in re.findall("__builtin_prefetch", path.read_text())]
    assert sorted(calls) == ["vec.h", "vec.h", "weights.c"]


def test_wheel_holds_no_sources():
    """A .pxd that names headers which no wheel holds cannot be used; none is shipped."""
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    data = re.findall(r'^"?(microgpt[.\w]*)"? = \[(.*)\]', text.split("[tool.setuptools.package-data]")[1].split("\n[")[0], re.M)
    assert len(data) == 3
    shipped = {path.suffix for package, patterns in data for pattern in re.findall(r'"(.+?)"', patterns)
               for path in (ROOT / package.replace(".", "/")).glob(pattern)}
    assert ".pyi" in shipped
    assert not shipped & {".pxd", ".pyx", ".pxi", ".c", ".h"}


@on_linux
@pytest.mark.parametrize("name, calls", [("value", {"pow", "exp", "log"}), ("layers", {"pow", "exp"}), ("gpt", {"pow", "log"}),
                                         ("mt19937", {"log", "cos", "sin"}), ("adam", {"pow"}), ("optim", {"pow"}),
                                         ("simd", {"pow", "exp", "tanh", "erf"}), ("fused", {"log"}),
                                         ("calls", {"pow", "exp", "log"})])  # fmt: skip
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
    assert len(flags) >= len(files()) + 1
    for given in flags:
        assert set(tables.EXACT) <= set(given)
        assert not {"-ffast-math", "-Ofast", "-funsafe-math-optimizations", "-march=native"} & set(given)
    if sys.platform != "win32":
        assert {"-ffp-contract=off", "-fno-builtin-pow", "-fno-builtin-exp", "-fno-builtin-log"} <= set(tables.EXACT)


def test_touching_a_header_rebuilds_every_module():
    tables = setup_tables()
    headers = {str(path.relative_to(ROOT)) for path in ROOT.glob("csrc/**/*.h") if "tests" not in path.parts[len(ROOT.parts):]}
    assert len(headers) >= 3
    for extension in tables.EXTENSIONS:
        assert headers <= set(map(str, map(Path, extension.depends)))
    for _, options in tables.LIBRARIES:
        assert headers <= set(map(str, map(Path, options["obj_deps"][""])))


def test_all_modules_are_listed():
    tables = setup_tables()
    sources = [Path(source).stem for extension in tables.EXTENSIONS for source in extension.sources if source.endswith(".pyx")]
    assert sorted(sources) == sorted(tables.MODULES) == sorted(MODULES)
    assert {path.stem for path in ROOT.glob("microgpt/core/*.pyx")} == set(MODULES)
    assert {extension.name for extension in tables.EXTENSIONS} == {f"microgpt.core.{name}" for name in files()}


def test_modules_that_share_a_file_are_those_of_the_table():
    found = {}
    for name in MODULES:
        found.setdefault(built(name).name.partition(".")[0], {name}).add(name)
    assert {name: names for name, names in found.items() if len(names) > 1} == {
        name: {name, *others} for name, others in setup_tables().TOGETHER.items()}  # fmt: skip


def test_modules_that_share_a_c_file_compile_it_in_folders_of_their_own(monkeypatch):
    """Several are compiled at once, and two compilers must not write the same object."""
    from setuptools import Distribution

    tables, folders = setup_tables(), []
    shared = Counter(source for extension in tables.EXTENSIONS for source in set(extension.sources))
    assert max(shared.values()) > 1
    monkeypatch.setattr(tables.build_ext, "build_extension", lambda self, ext: folders.append(self.build_temp))
    builder = tables.BuildExtensions(Distribution())
    builder.build_temp = "temp"
    for extension in tables.EXTENSIONS:
        builder.build_extension(extension)
    assert len(set(folders)) == len(tables.EXTENSIONS) and builder.build_temp == "temp"
