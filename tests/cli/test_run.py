"""`microgpt run SCRIPT`: the output of the script as Python runs it, and what was replaced."""
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from children import LIMIT
from conftest import environment

SCRIPT = (Path(__file__).parents[1] / "support" / "run_script.py").read_text(encoding="utf-8")


def python(folder, *arguments, **given):
    return subprocess.run([sys.executable, *map(str, arguments)], capture_output=True, text=True, cwd=folder,
                          env=environment(), **given)  # fmt: skip


def changed(*changes):
    text = SCRIPT
    for old, new in changes:
        assert old in text, old
        text = text.replace(old, new)
    return text


def both(folder, text, *arguments, name="script.py", flags=()):
    """(as Python runs it, as we run it); stdout and the exit status are the same."""
    path = folder / name
    path.write_text(text, encoding="utf-8")
    plain = python(folder, path, *arguments)
    ours = python(folder, "-m", "microgpt.run", *flags, path, *arguments)
    assert ours.stdout == plain.stdout, ours.stderr
    assert ours.returncode == plain.returncode
    return plain, ours


LAST = 'print(f"{sum(p.data'
TRAIN = 'print(f"{step} {word}'
CHANGES = {
    "bias": [("parameters = [p for", "bias = [Value(0.0) for _ in range(size)]\nparameters = bias + [p for"),
             ('weights["out"]), hidden', 'weights["out"]), [h + bias[0] for h in hidden]')],
    "layernorm": [("square = sum(a * a for a in x) / len(x)",
                   "mean = sum(x) / len(x)\n    x = [a - mean for a in x]\n    square = sum(a * a for a in x) / len(x)")],
    "method of its own": [("    def __neg__", "    def tanh(self):\n        t = math.tanh(self.data)\n        return Value(t, "
                           "(self,), (1 - t * t,))\n\n    def __neg__"), ("h.relu()", "h.tanh()")],
    "other loss": [("-softmax(logits)[tokens[i + 1]].log()", "(1 - softmax(logits)[tokens[i + 1]]) ** 2")],
    "int that steers": [("    for i in range(n):\n", "    for i in range(n):\n        if i == 2 and n > 4:\n            continue\n")],
    "other optimizer": [("        m_hat = first[k] / (1 - decay1 ** (step + 1))", "        m_hat = first[k]")],
    "moments shown": [(TRAIN, 'print(f"{sum(first):.17g} {max(second):.17g} {m_hat:.17g} {k}")\n    ' + TRAIN)],
    "gradients shown": [("    now = rate", '    print(f"{sum(p.grad for p in parameters):.17g}")\n    now = rate')],
    "names of the loss read later": [(TRAIN, 'print(" ".join(f"{z.data:.17g}" for z in losses), len(losses), i, n)\n    ' + TRAIN)],
    "a running mean": [("    loss.backward()", "    mean = 0.9 * mean + 0.1 * loss.data if step else loss.data\n    loss.backward()"),
                       (TRAIN, 'print(f"{mean:.17g}")\n    ' + TRAIN)],
    "a list of losses": [("steps = 60", "steps, history = 60, []"), ("    loss.backward()", "    history.append(loss.data)\n"
                         "    loss.backward()"), (LAST, 'print(f"{sum(history):.17g}")\n' + LAST)],
    "in a function": [("steps = 60\nfor step", "steps = 60\ndef train():\n  for step"),
                      (SCRIPT[SCRIPT.index("    word = words"):SCRIPT.index("\nprint(f\"{sum")],
                       SCRIPT[SCRIPT.index("    word = words"):SCRIPT.index("\nprint(f\"{sum")] + "train()\n")],
}  # fmt: skip


QUICK = ("bias", "other loss", "int that steers", "in a function")


@pytest.mark.parametrize("changes", [pytest.param(changes, id=name, marks=() if name in QUICK else pytest.mark.slow)
                                     for name, changes in CHANGES.items()])  # fmt: skip
def test_a_changed_script_is_compiled_with_the_same_output(tmp_path, changes):
    _, ours = both(tmp_path, changed(*changes), flags=["--explain"])
    assert "compiled: Value" in ours.stderr and "the loss of the training loop" in ours.stderr
    assert "traced in" in ours.stderr, ours.stderr
    assert ours.stderr.count("traced in") <= 4, ours.stderr  # one shape for each length of a word


def test_the_script_is_recognised(tmp_path):
    _, ours = both(tmp_path, SCRIPT)
    for part in ("Value", "linear", "softmax", "rmsnorm", "Adam's loop", "the loss of the training loop"):
        assert part in ours.stderr
    assert ours.stderr.count("\n") <= 2
    _, ours = both(tmp_path, SCRIPT, flags=["--no-compile"])
    assert "Adam's loop" in ours.stderr and "the loss" not in ours.stderr


KEPT = {
    "ints shown": ([(LAST, 'print(parameters[0].grad, Value(3).data)\n' + LAST)], "keeps ints"),
    "a number in text": ([(LAST, 'print("%s" % parameters[0].grad)\n' + LAST)], "keeps ints"),
    "a Value shown": ([("    def __neg__", '    def __repr__(self):\n        return f"V({self.data})"\n\n    def __neg__'),
                       (LAST, "print(Value(2) + 1)\n" + LAST)], "keeps ints"),
    "the sign of a 0": ([(LAST, 'import math\nprint(math.copysign(1, -Value(-1.0).relu().data))\n' + LAST)], "math.copysign() gets"),
    "the negative of a 0": ([(LAST, 'print(f"{-parameters[0].grad:.4f}")\n' + LAST)], "the negative of a Value's number"),
    "fractions": ([(LAST, "from fractions import Fraction\nprint(f'{(Value(1) * Fraction(1, 3) * 3).data:.20f}')\n" + LAST)],
                  "it uses Fraction"),
    "another exp": ([("math.exp(self.data), (self,)", "math.exp(self.data) * 1.0, (self,)")], "Value.exp is not the original's"),
    "evaluated": ([(LAST, 'exec("print(1)")\n' + LAST)], "it uses exec()"),
}  # fmt: skip
KEPT["another sum"] = ([("def linear", "def sum(xs):\n    r = 0\n    for x in xs:\n        r = r + x\n    return r\n\n\ndef linear")],
                       "it has another sum")  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("changes, why", KEPT.values(), ids=KEPT)
def test_what_could_show_runs_as_written(tmp_path, changes, why):
    _, ours = both(tmp_path, changed(*changes))
    assert "runs as written" in ours.stderr and why in ours.stderr


@pytest.mark.parametrize("text", ["print('hello')\n", "", "import sys\nprint(sys.argv[1:], __name__)\nsys.exit(3)\n",
                                  "raise SystemExit('no')\n", "class Value: pass\nprint(Value.__name__)\n",
                                  "import sys, os\nprint(sys.path[0] == os.path.dirname(os.path.abspath(__file__)))\n"])  # fmt: skip
def test_other_scripts_run_as_written(tmp_path, text):
    both(tmp_path, text, "a", "--explain")


def test_errors_have_the_scripts_own_lines(tmp_path):
    plain, ours = both(tmp_path, changed((LAST, "print([][step])\n" + LAST)))
    assert ours.stderr.endswith(plain.stderr)
    plain, ours = both(tmp_path, changed(("rate, decay1", "words[3] = 'x'\nrate, decay1")))
    assert plain.stderr.splitlines()[-1] == ours.stderr.splitlines()[-1]
    plain, ours = both(tmp_path, "x = (\n")
    assert ours.stderr == plain.stderr  # none of ours, in which Python reads it


def test_a_failing_logarithm_in_the_loss(tmp_path):
    text = changed(("    loss = (1 / n)", "    if step == 40:\n        losses[0] = losses[0] - losses[0]\n    loss = (1 / n)"),
                   ("* sum(losses)", "* sum(losses) + 0 * losses[0].log()"))  # fmt: skip
    plain, ours = both(tmp_path, text)
    assert plain.returncode == 1 and "math domain error" in plain.stderr
    assert ours.stderr.splitlines()[-1] == plain.stderr.splitlines()[-1]


def test_the_analysis_needs_no_heavy_modules(tmp_path):
    """What `ast`, `copy` and NumPy import takes longer than the script's training."""
    (tmp_path / "script.py").write_text(SCRIPT, encoding="utf-8")
    code = ("import atexit, sys; atexit.register(lambda: print(*sys.modules, file=sys.stderr))\n"
            "from microgpt.run import main; main(['--no-compile', 'script.py'])")  # fmt: skip
    done = python(tmp_path, "-c", code)
    loaded = done.stderr.splitlines()[-1].split()
    assert "microgpt.core.value" in loaded and "microgpt.scripting.plan" in loaded
    for heavy in ("ast", "copy", "enum", "inspect", "dataclasses", "typing", "numpy", "re", "hashlib", "microgpt.compiler"):
        assert heavy not in loaded


def test_a_script_called_microgpt(tmp_path):
    path = tmp_path / "microgpt.py"
    path.write_text(SCRIPT, encoding="utf-8")
    plain = python(tmp_path, path)
    if sys.version_info >= (3, 11):
        ours = python(tmp_path, "-P", "-m", "microgpt.run", path)
        assert ours.stdout == plain.stdout and "Adam's loop" in ours.stderr


@pytest.mark.parametrize("text", ["import microgpt\nprint(microgpt.WORD)\n", "from microgpt import WORD as w\nprint(w)\n",
                                  "def f():\n    import microgpt\n    return microgpt\nprint(f().__file__ == microgpt_py)\n"])  # fmt: skip
def test_a_script_that_imports_a_microgpt_py_beside_it(tmp_path, text):
    """That file, not this package, which has the name already."""
    (tmp_path / "microgpt.py").write_text("WORD = 'mine'\n", encoding="utf-8")
    text = f"microgpt_py = {str(tmp_path / 'microgpt.py')!r}\n{text}"
    (tmp_path / "other.py").write_text(text, encoding="utf-8")
    plain = python(tmp_path, "other.py")
    if sys.version_info >= (3, 11):
        ours = python(tmp_path, "-P", "-m", "microgpt.run", "other.py")
        assert (ours.stdout, ours.returncode) == (plain.stdout, 0), ours.stderr


INPUT = [("rate, decay1", "rate = float(input('rate? '))\nprint(open('extra.txt').read())\n_, decay1"), ("= 0.05, 0.85", "= 0.0, 0.85")]


def test_input_and_files_are_those_of_the_folder_it_is_started_in(tmp_path):
    (tmp_path / "extra.txt").write_text("something", encoding="utf-8")
    (tmp_path / "scripts").mkdir()
    (tmp_path / "scripts" / "script.py").write_text(changed(*INPUT), encoding="utf-8")
    plain = python(tmp_path, "scripts/script.py", input="0.03\n")
    ours = python(tmp_path, "-m", "microgpt.run", "scripts/script.py", input="0.03\n")
    assert (ours.stdout, ours.returncode) == (plain.stdout, 0) and "rate? something" in ours.stdout
    assert "Adam's loop" in ours.stderr
    none = python(tmp_path, "-m", "microgpt.run", "scripts/script.py", input="")
    assert none.returncode == 1 and none.stderr.splitlines()[-1].startswith("EOFError")


@pytest.mark.skipif(sys.platform == "win32", reason="a shell, signals and devices of POSIX")
@pytest.mark.parametrize("n, pattern", [(1, "0 anna "), (3, "2 nan ")])
def test_a_reader_that_goes_away_ends_it_as_it_ends_python(tmp_path, n, pattern):
    text = changed(("steps = 60", "steps = 100000"), ('{loss.data:.17g}")', '{loss.data:.17g}", flush=True)'))
    (tmp_path / "script.py").write_text(text, encoding="utf-8")
    for command in (["script.py"], ["-m", "microgpt.run", "script.py"]):
        started = subprocess.Popen([sys.executable, *command], cwd=tmp_path, env=environment(), stdout=subprocess.PIPE,
                                   stderr=subprocess.PIPE, text=True)  # fmt: skip
        lines = [started.stdout.readline() for _ in range(n)]
        started.stdout.close()
        errors = started.stderr.read()
        started.stderr.close()
        assert lines[-1].startswith(pattern) and "BrokenPipeError" in errors and started.wait(LIMIT) in (1, 120), errors


def test_rejects_what_is_no_script(tmp_path):
    for arguments in [[], ["none.py"], [tmp_path], ["--nothing", "x.py"]]:
        done = python(tmp_path, "-m", "microgpt.run", *arguments)
        assert done.returncode == 2 and done.stderr.count("\n") == 1 and not done.stdout


@pytest.mark.skipif(not os.path.exists("/dev/zero"), reason="a device of POSIX")
def test_words_a_file_that_cannot_be_read_as_the_other_commands_do(tmp_path):
    for arguments in (["run"], ["train", "--input"]):
        done = python(tmp_path, "-m", "microgpt", *arguments, "/dev/zero")
        assert (done.returncode, done.stderr) == (2, "microgpt: error: /dev/zero is a device, not a text\n")


def test_is_a_command(tmp_path):
    (tmp_path / "a.py").write_text("import sys\nprint(sys.argv)\n", encoding="utf-8")
    done = python(tmp_path, "-m", "microgpt", "run", "a.py", "--help")
    assert done.stdout == "['a.py', '--help']\n"


@pytest.mark.skipif(sys.platform == "win32", reason="there are no such signals")
def test_ctrl_c_ends_with_130(tmp_path):
    path = tmp_path / "a.py"
    path.write_text(f"import time\nprint('ready', flush=True)\ntime.sleep({LIMIT})\n", encoding="utf-8")
    started = subprocess.Popen([sys.executable, "-m", "microgpt.run", path], cwd=tmp_path, env=environment(),
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)  # fmt: skip
    assert started.stdout.readline() == "ready\n"
    time.sleep(0.1)
    started.send_signal(signal.SIGINT)
    _, errors = started.communicate(timeout=LIMIT)
    assert started.returncode == 130 and "KeyboardInterrupt" in errors


def test_ctrl_c_while_the_script_is_planned_shows_no_traceback(in_process, tmp_path, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    (tmp_path / "a.py").write_text("print('never')\n", encoding="utf-8")
    monkeypatch.setattr("microgpt.run._plan", interrupted)
    done = in_process("run", "a.py")
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "microgpt: interrupted\n")
