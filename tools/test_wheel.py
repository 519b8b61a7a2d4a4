"""Test an installed wheel: print what it runs on, then its tests, then traces and training once per instruction set.

    python tools/test_wheel.py [--quick | --smoke]

Runs from any folder, against the installed package only; cibuildwheel calls it. --quick: of all tests only those of
exactness. --smoke: only the traces, on each instruction set.
"""
import os
import subprocess
import sys
import tempfile
from pathlib import Path

TESTS = Path(__file__).resolve().parent.parent / "tests"
# Tests of the sources and of what came out of the compiler, which need the repository and binutils.
OF_SOURCES = ["package/test_build.py"]
# Every bit that an instruction set can change; these go through all of them by themselves.
EXACT = [f"exact/test_{name}.py" for name in ("fused", "fused_special", "adam", "exact_math", "kernels", "layers", "model")]
# Whole runs, on the instruction set that the package chose or was told to; the reference knows none.
TRACES, RUNS = ["exact/test_golden.py"], ["exact/test_golden.py", "unit/test_trainer.py"]
COMPILED = ["-k", "not [reference"]


def pytest(files, isa=None, options=()):
    env = dict(os.environ)
    env.pop("MICROGPT_SIMD", None)
    if isa:
        env["MICROGPT_SIMD"] = isa
    print(f"-- {isa or 'default'}", flush=True)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *options, *[TESTS / name for name in files]]
    with tempfile.TemporaryDirectory() as folder:  # so that no folder but the installed one offers a microgpt
        return subprocess.run(command, env=env, cwd=folder).returncode


def main():
    import microgpt
    from microgpt import simd_info

    if Path(microgpt.__file__).resolve().parent.parent == TESTS.parent:
        sys.exit("this is the package in the repository, not an installed one: call it from another folder")
    if missing := [name for name in EXACT + RUNS + OF_SOURCES if not (TESTS / name).exists()]:
        sys.exit(f"no such tests: {missing}")
    info = simd_info()
    print(f"Python {sys.version}\n{microgpt.__file__}\n{info}", flush=True)
    failed = False
    if "--quick" in sys.argv:
        failed = pytest(EXACT) != 0
    elif "--smoke" not in sys.argv:
        failed = pytest(sorted({p.relative_to(TESTS).as_posix() for p in TESTS.rglob("test_*.py")}.difference(OF_SOURCES))) != 0
    for isa in info["supported"]:
        failed |= pytest(TRACES if "--smoke" in sys.argv else RUNS, isa, COMPILED) != 0
    sys.exit(failed)


if __name__ == "__main__":
    main()
