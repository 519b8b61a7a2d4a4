"""Prove what one Linux machine can prove about the package, and print a table of it.

    python tools/prove.py [--list] [--ci] [--python PATH ...] [--keep] [PROOF ...]

Without names: everything. --ci: the part that fits into every commit's check. --python: interpreters to build wheels
for; otherwise every CPython from 3.10 on that is found on PATH or in pyenv. Each proof works in a copy of the sources
in a temporary folder, in virtual environments of its own; nothing outside that folder is changed. Exit status 1 if a
proof failed; a proof whose tool or platform is missing is skipped and says so. docs/develop/testing.md explains each.
"""
import argparse
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import time

from workshop import ROOT, Bench, Failed, Skipped, environment, find_pythons, need, sh

# ---- the proofs ----

PROOFS = {}


def proof(ci=False):
    def register(function):
        PROOFS[function.__name__] = (function, ci)
        return function

    return register


def last_line(output):
    return next((line for line in reversed(output.splitlines()) if line.strip()), "")


@proof(ci=True)
def sdist(bench):
    """the sdist builds in isolation and holds every file of the sources"""
    return last_line(sh(sys.executable, bench.source / "tools/check_dist.py", bench.sdist()))


@proof(ci=True)
def wheels(bench):
    """a wheel for each Python is built from the sdist, in isolation, with the pinned compiler's packages"""
    if not bench.pythons:
        raise Skipped("no CPython from 3.10 on was found")
    for version, python in bench.pythons:
        bench.wheel(version, python)
    return ", ".join(version for version, _ in bench.pythons)


@proof(ci=True)
def installed(bench):
    """each wheel installs where there is no compiler, and passes the exactness tests on every instruction set"""
    for version, python in bench.pythons:
        bin = bench.venv(f"bare-{version}", python=python)
        env = environment(PATH=str(bin))
        if compiler := next((name for name in ("cc", "gcc", "clang", "cython") if shutil.which(name, path=bin)), None):
            raise Failed(f"the bare environment has {compiler}")
        sh(bin / "python", "-m", "pip", "install", "-q", "--only-binary", ":all:", f"{bench.wheel(version, python)}[test]",
           env=env)  # fmt: skip
        # The tests of exactness on the last one, whole runs on all. Its suite has run on what was built from source.
        some = "--quick" if version == bench.pythons[-1][0] and not bench.ci else "--smoke"
        output = sh(bin / "python", bench.source / "tools/test_wheel.py", some, env=env, cwd=bench.folder)
    passed = re.findall(r"\d+ passed", output)
    return f"{', '.join(version for version, _ in bench.pythons)}; the last: {', '.join(passed)}"


@proof(ci=True)
def policy(bench):
    """no wheel needs a symbol or a library outside a manylinux policy"""
    tools, found = bench.tools(), {}
    for version, python in bench.pythons:
        output = sh(tools / "auditwheel", "show", bench.wheel(version, python), env=environment(PATH=f"{tools}:/usr/bin"))
        match = re.search(r'consistent with\s+the following platform tag:\s+"(\w+)"', " ".join(output.split()))
        if not match or not match[1].startswith(("manylinux", "musllinux")):
            raise Failed(f"{version}: no policy is met\n{output}")
        found[version] = match[1]
    return ", ".join(sorted(set(found.values())))


@proof()
def released_policy(bench):
    """a wheel compiled for the glibc of the released wheels (2.28) meets manylinux_2_28 and gives the same bits"""
    version, python = bench.pythons[-1]
    zig = bench.venv("zig", "--require-hashes", "-r", ROOT / "tools/requirements/targets.txt")
    script = bench.folder / "zig-cc"
    # What compiles csrc in tools/targets.py, for the wheel. It knows no -Wl options of some Pythons' configuration.
    script.write_text(f'#!/bin/sh\nexec "{zig / "python"}" -m ziglang cc -target {platform.machine()}-linux-gnu.2.28 "$@"\n')
    script.chmod(0o755)
    wheel = bench.build_wheel(python, "wheel-zig", CC=str(script), LDSHARED=f"{script} -shared")
    tools = bench.tools()
    output = " ".join(sh(tools / "auditwheel", "show", wheel, env=environment(PATH=f"{tools}:/usr/bin")).split())
    match = re.search(r'the following platform tag: "manylinux_2_(\d+)_', output)
    if not match or int(match[1]) > 28:
        raise Failed(output)
    bin = bench.venv("zig-bare", python=python)
    env = environment(PATH=str(bin))
    sh(bin / "python", "-m", "pip", "install", "-q", "--only-binary", ":all:", f"{wheel}[test]", env=env)
    output = sh(bin / "python", bench.source / "tools/test_wheel.py", "--smoke", env=env, cwd=bench.folder)
    return f"manylinux_2_{match[1]}; {', '.join(re.findall(r'[0-9]+ passed', output))}"


@proof(ci=True)
def contents(bench):
    """each wheel holds what the sources call for and nothing else; its metadata are sound"""
    files = [bench.repaired(version, python) for version, python in bench.pythons]
    output = sh(sys.executable, bench.source / "tools/check_dist.py", *files)
    tools = bench.tools()
    sh(tools / "twine", "check", "--strict", *files, bench.sdist(), env=environment())
    sh(tools / "check-wheel-contents", *files)
    return last_line(output).split(": ", 1)[1]


@proof()
def reproducible(bench):
    """a wheel that is built twice, in two folders at two times, has the same bytes"""
    version, python = bench.pythons[-1]
    first = bench.wheel(version, python).read_bytes()
    second = bench.build_wheel(python, "again/somewhere/else", CCACHE_RECACHE="1").read_bytes()  # not what ccache kept
    if first != second:
        raise Failed("the two differ")
    return f"{len(first) // 1024} kB, Python {version}"


@proof()
def from_source(bench):
    """pip installs the sdist where there is a compiler and nothing else, and the script runs"""
    version, python = bench.pythons[0]
    compiler = bench.folder / "compiler"
    compiler.mkdir()
    for name in ("gcc", "cc", "as", "ld", "ar", "ranlib"):
        if found := shutil.which(name):
            (compiler / name).symlink_to(found)
    if not (compiler / "gcc").exists():
        raise Skipped("gcc is not installed")
    bin = bench.venv("from-source", python=python)
    env = environment(PATH=f"{bin}{os.pathsep}{compiler}")
    sh(bin / "python", "-m", "pip", "install", "-q", bench.sdist(), env=env)
    printed = sh(bin / "python", "-m", "microgpt.train", "--steps", "5", "--quiet", "--samples", "3", cwd=bin.parent, env=env)
    return f"Python {version}: {printed.split()[-1]}"


@proof()
def targets(bench):
    """csrc compiles for every target of the wheel table, and gives the script's bits wherever it can run"""
    bin = bench.venv("zig", "--require-hashes", "-r", ROOT / "tools/requirements/targets.txt")
    sh(bin / "python", "-m", "pip", "install", "-q", "-r", bench.test_requirements(), env=environment())
    output = sh(bin / "python", bench.source / "tools/targets.py", env=environment(PATH=f"{bin}{os.pathsep}{os.environ['PATH']}"))
    print(output)
    ran, compiled = output.count("compiled and ran"), output.count("do not run here")
    return f"{ran} compiled and ran, {compiled} compiled only, {output.count(' skipped ')} skipped"


@proof(ci=True)
def processors(bench):
    """the part of it that needs no download and no emulator: this processor, with and without FMA, and musl"""
    return targets_ok(bench, "gcc", "gcc, glibc without FMA", "gcc, musl")


@proof()
def emulated(bench):
    """csrc and its tests on other processors, NEON and a big-endian one, under an emulator (minutes)"""
    return targets_ok(bench, "gcc, aarch64", "gcc, s390x")


def targets_ok(bench, *names):
    bin = bench.venv("tests", "-r", bench.test_requirements())
    output = sh(bin / "python", bench.source / "tools/targets.py", *names)
    if " ok " not in output:
        raise Skipped("no compiler")
    return "; ".join(re.findall(r"^(\S.*?) +ok", output, re.M))


# (CC, CFLAGS) of a build, whose tests of exactness must pass on every instruction set. tools/targets.py --flags has more
# flags, for csrc alone.
BUILDS = [(compiler, flags) for compiler in ("gcc", "gcc-11", "clang")
          for flags in ("-march=x86-64-v2", "-march=x86-64-v3", "-march=x86-64-v4", "-march=native",
                        "-Ofast -ffast-math -ffp-contract=fast -march=native -flto")]  # fmt: skip
BUILD_TESTS = ["tests/package/test_build.py", "tests/exact"]


@proof()
def compilers(bench):
    """csrc and the package, by every compiler that is installed, with whatever a user may have in CFLAGS"""
    python = bench.venv("tests", "-r", bench.test_requirements()) / "python"
    print(sh(python, bench.source / "tools/targets.py", "--flags", cwd=bench.source, env=environment(), limit=100, timeout=None))
    passed = []
    for compiler, flags in BUILDS:
        if not shutil.which(compiler):
            print(f"{compiler} is not installed")
            continue
        if "x86-64" in flags and platform.machine() != "x86_64":
            continue
        env = {"CC": compiler, "CFLAGS": flags}
        folder = bench.build_in_place(f"{compiler} {flags}", **env)
        output = sh(python, "-m", "pytest", "-q", "-p", "no:cacheprovider", *BUILD_TESTS, cwd=folder, env=environment(**env))
        shutil.rmtree(folder)
        passed.append(last_line(output))
        print(f"{compiler:8} {flags:60} {passed[-1]}", flush=True)
    return f"{len(passed)} builds; the last: {passed[-1] if passed else 'none'}"


@proof(ci=True)
def lint(bench):
    """ruff, and the workflows by zizmor and actionlint"""
    bin = bench.venv("lint", "--require-hashes", "-r", ROOT / "tools/requirements/lint.txt")
    sh(bin / "ruff", "check", "--no-cache", ".", cwd=bench.source)
    sh(bin / "zizmor", "--offline", "-q", ".github/workflows", cwd=bench.source)
    if not shutil.which("npm"):
        return "ruff, zizmor; npm is not installed"
    folder = bench.copy("lint")
    sh("npm", "ci", "--ignore-scripts", cwd=folder / "tools/lint", env=environment())
    return "ruff, zizmor, " + last_line(sh("node", "workflows.mjs", cwd=folder / "tools/lint"))


@proof(ci=True)
def types(bench):
    """mypy's strictest rules over every module of the package"""
    bin = bench.venv("tests", "-r", bench.test_requirements())
    return last_line(sh(bin / "python", "-m", "mypy", "-p", "microgpt", cwd=bench.source, env=environment()))


@proof()
def sbom(bench):
    """the list of what a release is made of is valid CycloneDX"""
    for version, python in bench.pythons:
        shutil.copy(bench.repaired(version, python), bench.sdist().parent)
    file = bench.folder / "microgpt-exact.cdx.json"
    printed = sh(sys.executable, bench.source / "tools/make_sbom.py", "--dist", bench.sdist().parent, "--output", file)
    bin = bench.venv("sbom", "cyclonedx-python-lib[json-validation]")
    check = ("import sys; from cyclonedx.validation.json import JsonStrictValidator as V; "
             "from cyclonedx.schema import SchemaVersion as S; e = V(S.V1_6).validate_str(open(sys.argv[1]).read()); "
             "sys.exit(str(e) if e else 0)")  # fmt: skip
    sh(bin / "python", "-c", check, file)
    return printed.split(": ")[-1].strip()


# ---- sanitizers ----


def run_tests(bench, variant, *arguments, python_options=(), **env):
    folder, python = bench.inplace(variant)
    output = sh(python, *python_options, "-m", "pytest", "-q", "-p", "no:cacheprovider", *arguments, cwd=folder,
                env=environment(**env), limit=120)  # fmt: skip
    return output


def sanitizer_environment():
    """What lets the sanitizers' library be loaded first, and see Python's own allocations."""
    library = sh(need("gcc"), "-print-file-name=libasan.so").strip()
    if not os.path.isabs(library):
        raise Skipped("gcc has no libasan")
    return {"LD_PRELOAD": library, "PYTHONMALLOC": "malloc", "UBSAN_OPTIONS": "print_stacktrace=1:halt_on_error=1",
            "ASAN_OPTIONS": "detect_leaks=0:allocator_may_return_null=1:detect_stack_use_after_return=0"}  # fmt: skip


# Without the tests that speak of the flags of a build, or limit or count memory, of which a sanitizer takes much for
# itself; without mypy; and without those of the reference engine alone, which runs nothing that was compiled, and that slowly. What a
# sanitizer writes before it ends the process must not go where pytest would have shown it later.
NOT_SANITIZED = ["--ignore", "tests/package/test_build.py", "--ignore", "tests/exact/test_golden_reference.py",
                 "--ignore", "tests/package/test_types.py",
                 "--deselect", "tests/robust/test_value_memory.py", "--deselect", "tests/robust/test_leaks.py", "-k", "not [reference",
                 "--capture=sys", "-x"]  # fmt: skip


@proof()
def sanitize(bench):
    """the suite under AddressSanitizer and UndefinedBehaviorSanitizer"""
    return last_line(run_tests(bench, "sanitize", *NOT_SANITIZED, *bench.only, **sanitizer_environment()))


@proof()
def debug(bench):
    """the suite with checked indices, the tape's invariants walked, PYTHONMALLOC=debug and Python's development mode"""
    moons = "tests/docs/test_examples.py::test_two_moons"  # so many operations that to walk the tape after each takes minutes
    return last_line(run_tests(bench, "debug", *NOT_SANITIZED, "--deselect", moons, *bench.only,
                               python_options=["-X", "dev"], PYTHONMALLOC="debug"))  # fmt: skip


REFNANNY_TESTS = [f"tests/{name}.py" for name in (
    "exact/test_value", "exact/test_model", "exact/test_fused", "exact/test_adam", "exact/test_mt19937",
    "unit/test_value_errors", "unit/test_simd", "unit/test_trainer", "robust/test_threads")]  # fmt: skip


@proof()
def refnanny(bench):
    """Cython counts the references of every function"""
    imports = "tests/exact/test_value.py::test_importing_brings_nothing_along"  # the nanny is in Cython, and brings it along
    output = run_tests(bench, "refnanny", "-s", "--deselect", imports, *(bench.only or REFNANNY_TESTS))
    if bad := re.search(r"^.*(References leaked|Too many decrefs|NULL argument|Acquired on lines).*$", output, re.M):
        raise Failed(f"{bad[0]}\n{output[max(0, bad.start() - 2000) : bad.end() + 2000]}")
    return last_line(output)


@proof()
def valgrind(bench):
    """memcheck of a short run of every engine: no read of memory that was never written"""
    need("valgrind")
    folder, python = bench.inplace("symbols")
    output = sh("valgrind", "-q", "--error-exitcode=9", f"--suppressions={bench.source / 'tools/valgrind.supp'}", python,
                "tools/short_run.py", cwd=folder, env=environment(PYTHONMALLOC="malloc", PYTHONPATH=str(folder)), limit=120)  # fmt: skip
    return last_line(output)


@proof()
def fuzz(bench):
    """random programs on Value, documents and runs of the fused engine, damaged checkpoints; under the sanitizers"""
    folder, python = bench.inplace("sanitize")
    seconds = os.environ.get("PROVE_SECONDS") or "60"
    env = environment(**sanitizer_environment(), PYTHONPATH=str(folder))
    return last_line(sh(python, "tools/fuzz.py", "--seconds", seconds, cwd=folder, env=env, timeout=None))


@proof()
def notebook(bench):
    """examples/tour.ipynb runs under nbconvert, in a kernel of its own, and shows its pictures"""
    folder, _ = bench.inplace("")
    listed = re.search(r"^notebook = \[(.*?)\]$", (ROOT / "pyproject.toml").read_text(encoding="utf-8"), re.M)[1]
    bin = bench.venv("notebook", *re.findall(r'"(.+?)"', listed), "-r", bench.test_requirements())
    sh(bin / "python", "-m", "nbconvert", "--to", "html", "--execute", "--output-dir", bench.folder,
       folder / "examples/tour.ipynb", env=environment(PYTHONPATH=str(folder)))  # fmt: skip
    page = (bench.folder / "tour.html").read_text(encoding="utf-8")
    pictures = len(re.findall(r'<img[^>]*src="data:image/png', page))
    if pictures != 3 or "0x1." not in page:
        raise Failed(f"{pictures} pictures are shown, not 3, or no loss is")
    return f"{pictures} pictures"


@proof()
def long(bench):
    """the script's whole default run, every loss and sample of each engine against the reference"""
    folder, python = bench.inplace("")
    runs = {}
    for engine in ("reference", "graph", "fused"):
        runs[engine] = sh(python, "-m", "microgpt.train", "--engine", engine, cwd=folder.parent,
                          env=environment(PYTHONPATH=str(folder)), timeout=None)  # fmt: skip
    # What goes to stderr, here among the lines of stdout, names the engine.
    outputs = {engine: re.sub(r"^microgpt: .*\n", "", text, flags=re.M) for engine, text in runs.items()}
    if len(set(outputs.values())) != 1:
        raise Failed("the engines print different things")
    return f"{len(outputs['fused'].splitlines())} lines printed by all three"


# ---- the table ----


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("proofs", nargs="*", metavar="PROOF")
    parser.add_argument("--list", action="store_true", help="what there is to prove")
    parser.add_argument("--ci", action="store_true", help="only what is proved for every commit, for one Python")
    parser.add_argument("--python", action="append", default=[], metavar="PATH", help="an interpreter to build for")
    parser.add_argument("--keep", action="store_true", help="keep the temporary folder")
    args = parser.parse_args()
    if unknown := set(args.proofs) - set(PROOFS):
        parser.error(f"no such proof: {', '.join(sorted(unknown))}")
    chosen = [name for name, (_, ci) in PROOFS.items() if name in args.proofs or not args.proofs and (ci or not args.ci)]
    if args.list:
        for name in chosen:
            print(f"{name:16} {'ci ' if PROOFS[name][1] else '   '} {PROOFS[name][0].__doc__}")
        return
    if sys.platform != "linux":
        print("this is for Linux; what the other systems prove is in .github/workflows")
        sys.exit(not args.ci)
    folder = tempfile.mkdtemp(prefix="prove-")
    bench = Bench(folder, find_pythons(args.python), args.ci)
    if args.ci and not args.python:
        bench.pythons = find_pythons([sys.executable])
    table = []
    for name in chosen:
        start = time.monotonic()
        print(f"== {name}: {PROOFS[name][0].__doc__}", flush=True)
        try:
            result, what = "proved", PROOFS[name][0](bench)
        except Skipped as reason:
            result, what = "skipped", str(reason)
        except Failed as error:
            result, what = "FAILED", str(error).splitlines()[0]
            print(error)
        except subprocess.TimeoutExpired as error:
            result, what = "FAILED", str(error)
        table.append((name, result, time.monotonic() - start, what))
        print(f"   {result}: {what}", flush=True)
    if args.keep:
        print(f"kept: {folder}")
    else:
        shutil.rmtree(folder)
    print(f"\n{platform.platform()}, {platform.machine()}")
    for name, result, seconds, what in table:
        print(f"{name:16} {result:8} {seconds:6.0f} s  {what[:150]}")
    print("elsewhere        only by workflow: wheels and tests on macOS and Windows, musllinux and aarch64 wheels, "
          "free-threaded Pythons")  # fmt: skip
    sys.exit(any(result == "FAILED" for _, result, _, _ in table))


if __name__ == "__main__":
    main()
