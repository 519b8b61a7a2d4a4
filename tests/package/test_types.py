"""Type checkers see what there is: stubs against the modules, and the examples under mypy's strictest rules."""
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT, environment

import microgpt

pytestmark = pytest.mark.slow
PACKAGE = Path(microgpt.__file__).parent


def run_module(*arguments):
    # Where the package is, in place or installed; mypy finds both by this.
    env = environment({"MYPYPATH": str(PACKAGE.parent)} if PACKAGE.parent == ROOT else {})
    env.pop("PYTHONPATH", None)
    command = [sys.executable, "-m", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=env)


@pytest.fixture(scope="module")
def mypy(tmp_path_factory):
    """Run mypy with the settings of pyproject.toml; the runs share what they know of NumPy and of the package."""
    cache = tmp_path_factory.mktemp("mypy")

    def run(*arguments):
        return run_module("mypy", "--config-file", "pyproject.toml", "--cache-dir", cache, *arguments)

    return run


#: Without the types of other packages, which take two thirds of the time and are no subject of the stubs.
STUBTEST = """[mypy]
[mypy-numpy.*,matplotlib.*,graphviz.*,tqdm.*,IPython.*,dask.*,distributed.*,mpi4py.*]
follow_imports = skip
follow_imports_for_stubs = True
ignore_missing_imports = True
"""


def test_stubs_are_those_of_the_modules(tmp_path):
    (tmp_path / "mypy.ini").write_text(STUBTEST, encoding="utf-8")
    done = run_module("mypy.stubtest", "microgpt", "--mypy-config-file", tmp_path / "mypy.ini", "--allowlist",
                      "tests/package/stubtest_allowlist.txt", "--ignore-unused-allowlist")  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr


def test_package_is_strict(mypy):
    """Every module, against the stubs of the compiled ones; the settings are in pyproject.toml."""
    done = mypy("-p", "microgpt")
    assert done.returncode == 0, done.stdout + done.stderr
    checked = int(done.stdout.split("no issues found in ")[1].split()[0])
    assert checked == len([*PACKAGE.rglob("*.py"), *PACKAGE.rglob("*.pyi")]) - 1  # of __init__ there are both


def test_ignored_type_errors_say_which_and_why():
    found = [line for path in PACKAGE.rglob("*.py*") if path.suffix in (".py", ".pyi") and path.name != "console.py"
             for line in path.read_text(encoding="utf-8").splitlines() if "type: ignore" in line]  # fmt: skip
    assert found
    for line in found:
        assert re.search(r"# type: ignore\[[\w, -]+\]  # \w", line), line


def test_examples_are_strict(mypy):
    examples = sorted((ROOT / "examples").glob("*.py"))
    assert len(examples) >= 5
    done = mypy(*examples)
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_wrong_use_is_seen(mypy, tmp_path):
    """The other side of the check above: names and types come from the stubs, not from Any."""
    (tmp_path / "wrong.py").write_text(
        "from microgpt import GPT, Trainer, Value, compile, linear, nothing\n"
        "x: str = Value(1.0)\ny: int = linear([Value(1.0)], [[Value(2.0)]])\nGPT('x')\n"
        "z: int = Trainer(['a']).run()\nTrainer(['a']).sample(top_k='x')\nVal\ncompile(linear)([], 1)\n", encoding="utf-8"
    )  # fmt: skip
    done = mypy(tmp_path / "wrong.py")
    errors = [line for line in done.stdout.splitlines() if " error: " in line]
    assert [int(line.split("wrong.py:")[1].split(":")[0]) for line in errors] == [1, 2, 3, 4, 5, 6, 7, 8]


def test_every_compiled_module_has_a_stub():
    compiled = {path.name.split(".")[0] for path in (PACKAGE / "core").iterdir() if path.suffix in (".so", ".pyd")}
    assert len(compiled) >= 6
    assert compiled <= {path.stem for path in (PACKAGE / "core").glob("*.pyi")} and (PACKAGE / "py.typed").exists()
    assert os.listdir(PACKAGE).count("__init__.pyi") == 1
