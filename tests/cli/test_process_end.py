"""The process of `python -m microgpt.train` ends at once where nothing waits for its end, and as usual everywhere else."""
import os
import subprocess
import sys

import pytest
from children import LIMIT
from conftest import environment

FLAGS = ["--input", "text.txt", "--n-embd", "4", "--n-head", "2", "--block-size", "6", "--steps", "20", "--samples", "1"]

#: A sitecustomize that says when the process ends at once.
SAYS_SO = """
import os
def _exit(status, really=os._exit):
    os.write(2, b"at once\\n")
    really(status)
os._exit = _exit
"""


@pytest.fixture
def run(tmp_path):
    """Run Python with these words, where a module of this text is imported first."""
    (tmp_path / "text.txt").write_text("emma\nolivia\nava\n", encoding="utf-8")

    def run(*words, first=SAYS_SO, **more):
        (tmp_path / "sitecustomize.py").write_text(first, encoding="utf-8")
        path = os.pathsep.join(filter(None, [str(tmp_path), environment().get("PYTHONPATH")]))
        return subprocess.run([sys.executable, *words], env=environment({"PYTHONPATH": path, **more}), cwd=tmp_path,
                              capture_output=True, text=True, encoding="utf-8", input="", timeout=LIMIT)  # fmt: skip

    return run


def test_process_that_nothing_waits_for_ends_at_once(run):
    done = run("-m", "microgpt.train", *FLAGS)
    assert done.returncode == 0 and "at once" in done.stderr and "20 steps" in done.stderr
    assert done.stdout.splitlines()[-1].startswith("sample  1: ") and done.stdout.count("step ") == 20
    failed = run("-m", "microgpt.train", "--steps", "x")
    assert failed.returncode == 2 and "at once" in failed.stderr and "--steps" in failed.stderr


@pytest.mark.parametrize("first, more", [
    ("import atexit; atexit.register(print, 'at exit')", {}), ("import threading", {}), ("", {"PYTHONINSPECT": "1"}),
    ("", {"PYTHONDEVMODE": "1"}),
], ids=["atexit", "threads", "inspect", "development mode"])  # fmt: skip
def test_process_that_something_waits_for_ends_as_usual(run, first, more):
    done = run("-m", "microgpt.train", *FLAGS, first=SAYS_SO + first, **more)
    assert "at once" not in done.stderr and "sample  1: " in done.stdout
    assert ("at exit" in done.stdout) == ("atexit" in first)


@pytest.mark.parametrize("words", [["-m", "cProfile", "-m"], ["-c", "import runpy, sys; sys.argv.pop(1)\ntry:\n"
                         "    runpy.run_module('microgpt.train', run_name='__main__', alter_sys=True)\n"
                         "except SystemExit as end:\n    print('function calls after', end.code)"]], ids=["cProfile", "runpy"])  # fmt: skip
def test_program_that_runs_the_module_goes_on_after_it(run, words):
    done = run(*words, "microgpt.train", *FLAGS)
    assert done.returncode == 0 and "at once" not in done.stderr
    assert "function calls" in done.stdout.split("sample  1: ")[1]
