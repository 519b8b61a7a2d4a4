"""Test an installed wheel: print what it runs on, then its tests, then those of exactness once per instruction set.

    python tools/test_wheel.py [--quick]

Runs from any folder, against the installed package only; cibuildwheel calls it. --quick leaves the first round out.
"""
import os
import subprocess
import sys
import tempfile
from pathlib import Path

TESTS = Path(__file__).resolve().parent.parent / "tests"
# Tests of the sources and of what came out of the compiler, which need the repository and binutils.
OF_SOURCES = ["test_build.py"]
# Every bit that an instruction set can change.
EXACT = ["test_fused.py", "test_adam.py", "test_golden.py", "test_model.py", "test_trainer.py"]


def pytest(files, isa=None):
    env = dict(os.environ)
    env.pop("MICROGPT_SIMD", None)
    if isa:
        env["MICROGPT_SIMD"] = isa
    print(f"-- {isa or 'default'}", flush=True)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *files]
    with tempfile.TemporaryDirectory() as folder:  # so that no folder but the installed one offers a microgpt
        return subprocess.run(command, env=env, cwd=folder).returncode


def main():
    import microgpt
    from microgpt import simd_info

    if Path(microgpt.__file__).resolve().parent.parent == TESTS.parent:
        sys.exit("this is the package in the repository, not an installed one: call it from another folder")
    if missing := [name for name in EXACT + OF_SOURCES if not (TESTS / name).exists()]:
        sys.exit(f"no such tests: {missing}")
    info = simd_info()
    print(f"Python {sys.version}\n{microgpt.__file__}\n{info}", flush=True)
    failed = False
    if "--quick" not in sys.argv:
        everything = [p for p in sorted(TESTS.glob("test_*.py")) if p.name not in OF_SOURCES]
        failed = pytest(everything) != 0
    for isa in info["supported"]:
        failed |= pytest([TESTS / name for name in EXACT], isa) != 0
    sys.exit(failed)


if __name__ == "__main__":
    main()
