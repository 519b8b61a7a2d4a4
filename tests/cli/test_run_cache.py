"""The plan of a script that `microgpt run` keeps in `__pycache__`: when it is used, and when the script is planned again."""
import os
import subprocess
import sys
from importlib.util import cache_from_source
from pathlib import Path

import pytest
from conftest import environment
from test_run import changed

from microgpt.scripting import plan_cache

#: Runs a script as the command does, and says on stderr which modules that took.
CODE = "import sys\nfrom microgpt import run\nrun.main(sys.argv[1:])\nprint(*sys.modules, file=sys.stderr)\n"
TEXT = changed(("steps = 60", "steps = 4"))


def run(path, flags=("--no-compile",), **env):
    """(what it prints, what we say of it, whether the script was planned)."""
    done = subprocess.run([sys.executable, "-c", CODE, *flags, path.name], capture_output=True, text=True, cwd=path.parent,
                          env=environment({"PYTHONDONTWRITEBYTECODE": "", **env}))  # fmt: skip
    *said, modules = done.stderr.splitlines()
    assert "microgpt.run" in modules, done.stderr
    return done.stdout, said, "microgpt.scripting.plan" in modules.split()


def printed(path):
    return subprocess.run([sys.executable, "-B", path], capture_output=True, text=True, check=True).stdout


def file_of(path):
    return Path(cache_from_source(str(path)).removesuffix(".pyc") + ".microgpt.pyc")


@pytest.fixture
def script(tmp_path):
    path = tmp_path / "script.py"
    path.write_text(TEXT, encoding="utf-8")
    return path


def test_a_second_run_takes_the_plan_of_the_first(script):
    first, second = run(script), run(script)
    assert first[2] and not second[2]
    assert first[:2] == second[:2] and first[0] == printed(script)
    assert "compiled: Value" in second[1][0] and "Adam's loop" in second[1][0]
    assert os.listdir(script.parent / "__pycache__") == [file_of(script).name]


def test_a_changed_script_is_planned_again(script):
    run(script)
    script.write_text(TEXT.replace("steps = 4", "steps = 5"), encoding="utf-8")
    out, _, is_planned = run(script)
    assert is_planned and out == printed(script)
    assert not run(script)[2]


def test_other_flags_have_another_plan(script):
    run(script)
    _, said, is_planned = run(script, flags=())
    assert is_planned and "the loss of the training loop" in said[0]


def test_a_script_in_another_folder_is_planned_again(script, tmp_path):
    """Its code has the path of the file, for tracebacks."""
    run(script)
    (tmp_path / "other").mkdir()
    script.parent.joinpath("__pycache__").rename(tmp_path / "other" / "__pycache__")
    assert run(script.rename(tmp_path / "other" / "script.py"))[2]


@pytest.mark.parametrize("damage", [lambda x: x[:-1], lambda x: b"", lambda x: x.replace(b"Adam's loop", b"Adam's lo_p"),
                                    lambda x: x[:8] + bytes(100)], ids=["cut", "empty", "a letter", "another's"])  # fmt: skip
def test_a_damaged_file_is_written_again(script, damage):
    run(script)
    whole = file_of(script).read_bytes()
    file_of(script).write_bytes(damage(whole))
    out, _, is_planned = run(script)
    assert is_planned and out == printed(script)
    assert not run(script)[2]


def test_another_state_of_the_analysis_plans_again(script):
    """The modules that plan are named: those that a plan loads."""
    code = "import sys, microgpt.scripting.plan; print(*(x for x in sys.modules if x.startswith('microgpt.scripting.')))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment()).stdout
    assert {f"microgpt.scripting.{name}" for name in plan_cache.PLANNED_BY} == set(loaded.split())
    run(script)
    cache = plan_cache.PlanCache(str(script), script.read_bytes(), False)
    assert cache.read() is not None
    source, path, may_compile, version, python, state = cache.key
    for other in ((version + "+1", python, state), (version, python + "+", state), (version, python, state[:-1])):
        cache.key = source, path, may_compile, *other
        assert cache.read() is None


@pytest.mark.parametrize("text, name", [
    (TEXT, "script.txt"),
    (TEXT.replace("import math\n", "import math\nimport helpers\n"), "script.py"),
    (TEXT + 'print("\\d")\n', "script.py"),
    (TEXT.replace("        w.grad = 0\n", "        w.data -= 0.5 * w.grad\n        w.grad = 0\n"), "script.py"),
], ids=["no module of Python's", "a file beside it", "Python warns of it", "another optimizer"])  # fmt: skip
def test_what_depends_on_more_is_planned_each_time(tmp_path, text, name):
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    (tmp_path / "helpers.py").write_text("", encoding="utf-8")
    first, second = run(path), run(path)
    assert first == second and first[2] and "compiled: Value" in first[1][-1] + first[1][0]
    assert not list(tmp_path.rglob("*.microgpt.pyc"))


def test_nothing_is_written_where_python_writes_nothing(script):
    assert run(script, PYTHONDONTWRITEBYTECODE="1")[2] and not (script.parent / "__pycache__").exists()
    (script.parent / "__pycache__").write_text("no folder")
    assert run(script)[2] and run(script)[2]


@pytest.mark.skipif(sys.platform == "win32", reason="permissions of POSIX")
def test_the_file_is_for_those_who_may_read_the_script(script):
    """It holds the script."""
    script.chmod(0o600)
    run(script)
    assert file_of(script).stat().st_mode & 0o777 == 0o600


def test_an_error_after_a_kept_plan_has_the_lines_of_the_script(script):
    script.write_text(TEXT + "print(undefined)\n", encoding="utf-8")
    first, second = run(script), run(script)
    assert not second[2] and first[:2] == second[:2]
    assert any(f'line {TEXT.count(chr(10)) + 1}' in line for line in second[1]), second


def test_a_loss_that_is_compiled_needs_the_tree_each_time(script):
    first, second = run(script, flags=()), run(script, flags=())
    assert first == second and second[2] and "the loss of the training loop" in second[1][0]
