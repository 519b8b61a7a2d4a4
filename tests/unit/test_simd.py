"""Which instruction set runs, and MICROGPT_SIMD: in fresh processes, since it is read once, at import."""
import subprocess
import sys

import pytest
from conftest import environment

from microgpt import simd_info
from microgpt.core import simd


def run(code, value=None, flag="-c"):
    env = environment({"MICROGPT_SIMD": value} if value is not None else None)
    if value is None:
        env.pop("MICROGPT_SIMD", None)
    return subprocess.run([sys.executable, flag, code], env=env, capture_output=True, text=True)


IN_USE = "import microgpt; print(microgpt.simd_info()['in_use'])"


def test_info():
    info = simd_info()
    assert list(info) == ["compiled", "supported", "in_use", "math", "square_root", "units"]
    assert info["compiled"][0] == "scalar" and "scalar" in info["supported"]
    assert set(info["supported"]) <= set(info["compiled"]) <= {"scalar", "avx2", "avx512", "neon"}
    assert info["in_use"] in info["supported"] and info["square_root"] in ("instruction", "estimate")
    assert info["units"] in (("half", "whole") if info["in_use"] == "avx512" else ("whole",))


def test_the_best_is_the_default():
    for value in (None, ""):
        result = run(IN_USE, value)
        assert (result.stdout, result.stderr) == (simd_info()["supported"][-1] + "\n", "")


@pytest.mark.parametrize("name", simd_info()["supported"])
def test_forced(name):
    result = run(IN_USE, name)
    assert (result.stdout, result.stderr) == (name + "\n", "")


def test_an_unknown_name_is_an_error_at_import():
    for name in ("sse9", "AVX2", "avx512 "):
        result = run("import microgpt", name)
        assert result.returncode == 1
        assert result.stderr.splitlines()[-1] == (
            f"ImportError: MICROGPT_SIMD: unknown instruction set {name!r} (known: scalar, avx2, avx512, neon)"
        )


def test_a_command_says_so_in_one_line():
    for command in ("train", "sample", "info"):
        result = run(f"microgpt.{command}", "sse9", "-m")
        assert (result.returncode, result.stdout) == (2, "")
        assert result.stderr == (
            "microgpt: error: MICROGPT_SIMD: unknown instruction set 'sse9' (known: scalar, avx2, avx512, neon)\n"
        )


def test_an_unsupported_one_is_an_error_at_import():
    unsupported = {"scalar", "avx2", "avx512", "neon"} - set(simd_info()["supported"])
    assert unsupported  # no processor has both AVX and NEON
    for name in unsupported:
        result = run("import microgpt", name)
        assert result.returncode == 1
        assert result.stderr.splitlines()[-1] == (
            f"ImportError: MICROGPT_SIMD: instruction set {name!r} was not compiled or does not run on this processor"
        )


def test_use_forces_and_restores():
    before = simd_info()["in_use"]
    for name in simd_info()["supported"]:
        assert simd._use(name) == before
        assert simd_info()["in_use"] == name
        with pytest.raises(ValueError, match="unknown instruction set 'mmx'"):
            simd._use("mmx")
        assert simd._use(before) == name
    assert simd_info()["in_use"] == before


def test_script_of_the_same_name_as_the_package_gets_the_exception(tmp_path):
    """Only a command of this package ends in one line; microgpt.py is the user's own program."""
    (tmp_path / "microgpt.py").write_text("import sys; sys.path.pop(0); import microgpt\n", encoding="utf-8")
    result = run(str(tmp_path / "microgpt.py"), "sse9", "-B")
    assert result.returncode == 1 and "Traceback" in result.stderr
    assert result.stderr.splitlines()[-1].startswith("ImportError: MICROGPT_SIMD: unknown instruction set 'sse9'")
