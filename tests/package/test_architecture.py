"""The direction of imports (the contract in pyproject.toml), and what is public between modules."""
import ast
import doctest
import importlib
import inspect
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT, environment

import microgpt
from microgpt import Trainer
from microgpt.config import DEFAULTS, SETTINGS

PACKAGE = Path(microgpt.__file__).parent
LINT = ("import sys; from importlinter.cli import lint_imports; "
        "sys.exit(lint_imports(config_filename=sys.argv[1], no_cache=True))")  # fmt: skip


def lint(folder):
    """Check the imports of folder/microgpt."""
    return subprocess.run([sys.executable, "-c", LINT, str(ROOT / "pyproject.toml")], cwd=folder, capture_output=True,
                          text=True, encoding="utf-8", env={**environment(), "PYTHONPATH": str(folder)})  # fmt: skip


def test_every_import_points_down():
    done = lint(PACKAGE.parent)
    assert done.returncode == 0 and "2 kept, 0 broken" in done.stdout, done.stdout + done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("module, line, part", [
    ("files.py", "def f():\n    from .trainer import Trainer\n", "microgpt.files is not allowed to import microgpt.trainer"),
    ("core/__init__.py", "from ..compiler import compile\n", "microgpt.core is not allowed to import microgpt.compiler"),
    ("cli/console.py", "from . import options\n", "No circle between siblings BROKEN"),
    ("compiler/structure.py", "from . import compiled\n", "No circle between siblings BROKEN"),
    ("extra.py", "", "extra"),
])  # fmt: skip
def test_import_that_points_up_is_found(tmp_path, module, line, part):
    shutil.copytree(PACKAGE, tmp_path / "microgpt", ignore=shutil.ignore_patterns("*.so", "*.c", "__pycache__"))
    with open(tmp_path / "microgpt" / module, "a", encoding="utf-8") as file:
        file.write(line)
    done = lint(tmp_path)
    assert done.returncode != 0 and part in done.stdout, done.stdout + done.stderr


#: import-linter does not read Cython. A compiled GPT has generate() as a method, for which it asks the module above it.
UPWARD = {("model", "generation")}


def test_imports_of_compiled_modules_point_down():
    below = {"core", "reference", "viz", "files", "config", "errors"}
    sources = sorted((ROOT / "microgpt" / "core").glob("*.p[yx][xdi]"))
    assert sources
    found = set()
    for source in sources:
        for line in source.read_text(encoding="utf-8").splitlines():
            words = re.match(r"\s*(?:from|import) (?:microgpt\.|\.\.)(\w+)", line)
            if words and " cimport " not in line and words[1] not in below:
                found.add((source.stem, words[1]))
    assert found <= UPWARD


def sources():
    return [path for path in sorted(PACKAGE.rglob("*.py")) if "__pycache__" not in path.parts]


def test_no_module_imports_a_private_name_of_another():
    for path in sources():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.level:
                private = [name.name for name in node.names if re.match(r"_(?!_|types$)", name.name)]
                assert not private, f"{path}: {private}"


def test_engine_of_a_trainer_is_used_by_the_trainer_alone():
    paths = [path for path in sources() if path.parent.name != "trainer"]
    paths += [path for folder in ("tests", "tools", "bench", "examples", "docs") for path in (ROOT / folder).rglob("*.*")
              if path.suffix in (".py", ".md", ".ipynb")]  # fmt: skip
    assert len(paths) > 50
    for path in paths:
        assert "._" + "engine" not in path.read_text(encoding="utf-8"), path


def test_top_of_the_package_is_small():
    files = [path for path in PACKAGE.iterdir() if path.is_file() and path.suffix in (".py", ".pyi", ".txt", ".typed")]
    files += [path for path in PACKAGE.iterdir() if path.name == "py.typed"]
    assert 15 < len(set(files)) <= 26


def test_signature_of_trainer_has_the_settings_and_defaults_of_config():
    parameters = inspect.signature(Trainer).parameters
    given = {name: parameter.default for name, parameter in parameters.items() if name not in ("docs", "engine", "threads", "comm")}
    assert given == DEFAULTS
    assert [name for name, p in parameters.items() if p.kind is p.KEYWORD_ONLY] == [*SETTINGS, "threads", "comm"]


DOCUMENTED = ["config", "data", "errors", "evaluation", "generation", "trainer", "callbacks", "storage.runlog",
              "parallel.sweeps", "reading.passages", "reading.records"]  # fmt: skip


@pytest.mark.parametrize("name", DOCUMENTED)
def test_examples_in_docstrings_run(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = doctest.testmod(importlib.import_module(f"microgpt.{name}"))
    assert found.failed == 0 and (found.attempted or name in ("callbacks", "evaluation", "storage.runlog"))


def test_examples_of_methods_that_trainer_inherits_run(tmp_path, monkeypatch):
    """doctest itself passes them over: they name microgpt.trainer as their module, and are in another."""
    monkeypatch.chdir(tmp_path)
    finder, runner = doctest.DocTestFinder(), doctest.DocTestRunner()
    for name, method in inspect.getmembers(Trainer, inspect.isfunction):
        for test in finder.find(method, name, globs={}) if name not in vars(Trainer) else ():
            runner.run(test)
    failed, attempted = runner.summarize()
    assert failed == 0 and attempted


def test_every_public_name_can_be_imported_and_is_in_the_stub():
    stub = (PACKAGE / "__init__.pyi").read_text(encoding="utf-8")
    names = re.findall(r"^from \S+ import (\w+) as \1$", stub, re.M)
    assert sorted([*names, "__version__"]) == sorted([*microgpt.__all__, "compile"])  # `import *` keeps the builtin
    assert microgpt.compile.__module__.startswith("microgpt.") and "compile" in dir(microgpt)
    for name in microgpt.__all__:
        if not name.startswith("plot_"):
            assert getattr(microgpt, name) is not None and name in dir(microgpt)
    assert set(microgpt.__all__) == set(re.findall(r'"(\w+)"', stub))
