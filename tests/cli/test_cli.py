"""The commands from outside: the script's bytes on stdout, one line for what is wrong, the right exit status."""
import importlib
import os
import re
import signal
import subprocess
import sys
import time

import oracle
import pytest
from children import LIMIT
from conftest import ROOT, environment

from microgpt import Trainer, load_docs, train

TEXT = "emma\nolivia\n\nzoë\n  ava  \nsophia\nmia\n"
SMALL = ["--n-embd", "8", "--n-head", "2", "--block-size", "6", "--steps", "7", "--samples", "3"]


def script_output(text):
    """What the script prints with the settings SMALL, from the live reference."""
    docs = [line.strip() for line in text.strip().split("\n") if line.strip()]
    return oracle.run(docs, 7, samples=3, n_embd=8, n_head=2, block_size=6).printed(len(docs))


@pytest.fixture
def text_file(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text(TEXT, encoding="utf-8")
    return path


def one_line_error(done, *parts):
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    *before, line = done.stderr.splitlines()  # before: which engine and data, where it got that far
    assert line.startswith("microgpt: error: ") and not [x for x in before if "engine" not in x], done.stderr
    for part in parts:
        assert part in line, done.stderr


def test_stdout_is_the_script_s(command, engine, text_file):
    done = command("-m", "microgpt.train", "--input", text_file, "--engine", engine, *SMALL)
    assert done.returncode == 0, done.stderr
    assert done.stdout == script_output(TEXT)
    assert f"{engine} engine" in done.stderr and str(text_file) in done.stderr


@pytest.mark.slow
def test_every_flag_reaches_the_run(in_process, text_file):
    flags = ["--steps", 8, "--seed", -9, "--n-embd", 6, "--n-head", 3, "--n-layer", 2, "--block-size", 5,
             "--learning-rate", 0.3, "--beta1", 0.8, "--beta2", 0.9, "--eps-adam", 1e-6, "--init-std", 0.1,
             "--temperature", 3.0, "--samples", 4]  # fmt: skip
    outputs = {
        engine: in_process("train", "--input", text_file, "--engine", engine, *flags).stdout
        for engine in ("fused", "graph", "reference")
    }
    assert outputs["fused"] == outputs["graph"] == outputs["reference"]
    assert outputs["fused"].count("\n") == 3 + 8 + 2 + 4
    for i in range(0, len(flags), 2):  # without any one of them the output is another
        fewer = in_process("train", "--input", text_file, *flags[:i], *flags[i + 2 :]).stdout
        # At 4 decimals eps does not show; test_trainer.py compares its bits.
        assert (fewer != outputs["fused"]) or flags[i] == "--eps-adam", flags[i]


def test_input_txt_in_this_folder_wins_over_the_bundled_names(in_process, tmp_path):
    bundled = in_process("train", "--steps", "1", "--samples", "0")
    assert bundled.returncode == 0 and "vocab size: 27" in bundled.stdout and "bundled" in bundled.stderr
    (tmp_path / "input.txt").write_text(TEXT, encoding="utf-8")
    own = in_process("train", "--steps", "1", "--samples", "0")
    assert "num docs: 6" in own.stdout and "input.txt" in own.stderr


def test_quiet_leaves_out_the_steps_only(in_process, text_file):
    loud = in_process("train", "--input", text_file, *SMALL).stdout
    quiet = in_process("train", "--input", text_file, "--quiet", *SMALL)
    assert quiet.stdout == "".join(line for line in loud.splitlines(True) if not line.startswith("step "))
    engine, result = quiet.stderr.splitlines()  # and no bar, which is for terminals
    last = oracle.run(load_docs(text_file), 7, samples=3, n_embd=8, n_head=2, block_size=6).losses[-1]
    assert re.fullmatch(rf"microgpt: 7 steps in \d+\.\d\d s; last loss {last:.4f}", result)


def test_last_line_says_what_training_came_to(in_process, text_file):
    flags = ["--input", text_file, *SMALL[:-4], "--steps", "40", "--val", text_file, "--save", "p.safetensors"]
    done = in_process("train", *flags)
    losses = oracle.run(load_docs(text_file), 40, n_embd=8, n_head=2, block_size=6).losses
    loss = Trainer.load(text_file.parent / "p.safetensors").evaluate(load_docs(text_file)).loss
    assert re.fullmatch(rf"microgpt: 40 steps in \d+\.\d\d s; mean loss of the last 4 {sum(losses[-4:]) / 4:.4f}; "
                        rf"validation loss {loss:.4f}", done.stderr.splitlines()[-1])  # fmt: skip
    assert "steps in" not in in_process("train", *flags, "--resume", "p.safetensors").stderr  # it has none left
    assert [train._duration(seconds) for seconds in (0, 59.994, 60.6, 3599.4, 3600, 36061)] == [
        "0.00 s", "59.99 s", "1:01 min", "59:59 min", "1:00:00 h", "10:01:01 h"]  # fmt: skip


@pytest.mark.skipif(os.name != "posix", reason="pseudo-terminals are a POSIX matter")
def test_quiet_on_a_terminal_shows_a_bar(text_file):
    import fcntl
    import pty
    import struct
    import termios

    parent, child = pty.openpty()
    fcntl.ioctl(child, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    done = subprocess.run(
        [sys.executable, "-m", "microgpt.train", "--input", str(text_file), "--quiet", *SMALL],
        stdout=subprocess.PIPE, stderr=child, env=environment(),
    )  # fmt: skip
    os.close(child)
    shown = b""
    try:
        while part := os.read(parent, 65536):
            shown += part
    except OSError:  # what Linux says when the other side is closed
        pass
    os.close(parent)
    shown = shown.decode()
    assert done.returncode == 0
    assert "7/7" in shown and "step" in shown


BAD_ARGUMENTS = [
    (["--input", "nowhere.txt"], ["nowhere.txt", "No such file"]),
    (["--input", "."], ["directory"]),
    (["--n-head", "3"], ["n_embd (16) must be a multiple of n_head (3)"]),
    (["--n-layer", "-1"], ["n_layer must be at least 0"]),
    (["--steps", "-1"], ["num_steps must be at least 0"]),
    (["--steps", "many"], ["--steps", "many"]),
    (["--learning-rate", "nan"], ["learning_rate must be finite"]),
    (["--beta2", "1"], ["beta2"]),
    (["--temperature", "0"], ["--temperature must be a number greater than 0"]),
    (["--temperature", "nan"], ["--temperature"]),
    (["--temperature", "1e-320"], ["--temperature 1e-320 is too low: no double holds its inverse"]),
    (["--samples", "-1"], ["--samples"]),
    (["--engine", "gpu"], ["--engine", "gpu"]),
    (["--save-every", "5"], ["--save-every needs --save"]),
    (["--save", "no/such/folder/x.safetensors"], ["no/such/folder"]),
    (["--resume", "nowhere.safetensors"], ["nowhere.safetensors", "No such file"]),
    (["--sparkle"], ["--sparkle"]),
    (["--learning-rate", "-1"], ["learning_rate must be at least 0, not -1"]),
    (["--learning-rate", "-1e-5"], ["learning_rate must be at least 0, not -1e-05"]),
    (["--threads", "9" * 30], ["threads must be at most 4096"]),
    (["--n_embd", "16"], ["unrecognized arguments: --n_embd 16", "did you mean --n-embd?"]),
    (["--n_embd=16"], ["did you mean --n-embd?"]),
    (["--stpes", "5"], ["did you mean --steps?"]),
    (["--step", "5"], ["did you mean --steps?"]),  # no prefix stands for a flag: a later version may have two of them
    (["--steps", "5", "emma"], ["unrecognized arguments: emma"]),
]


@pytest.mark.parametrize("arguments, parts", BAD_ARGUMENTS, ids=lambda x: " ".join(x)[:40])
def test_bad_arguments_end_in_one_line(in_process, text_file, arguments, parts):
    if "--input" not in arguments:
        arguments = ["--input", text_file, *arguments]
    one_line_error(in_process("train", *arguments), *parts)


BAD_TEXTS = {
    b"": "holds no documents",
    b" \n\t\n\r\n": "holds no documents",
    b"emma\n\xff\xfe\n": "UTF-8",
}


@pytest.mark.parametrize("content", BAD_TEXTS)
def test_bad_texts_end_in_one_line(in_process, tmp_path, content):
    path = tmp_path / "bad.txt"
    path.write_bytes(content)
    done = in_process("train", "--input", path)
    one_line_error(done, "bad.txt", BAD_TEXTS[content])
    assert done.stdout == ""


def test_script_output_in_a_locale_that_is_not_utf8(command, text_file):
    env = {"PYTHONUTF8": "0", "PYTHONIOENCODING": "latin-1", "LC_ALL": "C"}
    done = command("-m", "microgpt.train", "--input", text_file, *SMALL, env=env, text=False)
    assert done.stdout.decode("utf-8").replace("\r\n", "\n") == script_output(TEXT)


@pytest.mark.slow
def test_reader_that_leaves_is_no_traceback(text_file):
    child = subprocess.Popen(
        [sys.executable, "-m", "microgpt.train", "--input", str(text_file), "--steps", "200000"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment(), text=True,
    )  # fmt: skip
    child.stdout.readline()
    child.stdout.close()
    errors = child.stderr.read()
    child.wait()
    child.stderr.close()
    assert "Traceback" not in errors and "Exception ignored" not in errors
    assert child.returncode == 2


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="sends SIGINT")
@pytest.mark.parametrize("size", [[], ["--n-embd", "512", "--n-head", "8", "--n-layer", "4", "--block-size", "512"]])
def test_interrupt_ends_with_130(engine, size, tmp_path):
    if engine != "fused" and size:  # these two are interrupted between documents, or within Python's own steps
        size = ["--n-embd", "32"]
    text = tmp_path / "long.txt"
    text.write_text("".join(f"{'abcdefgh' * 64}{i}\n" for i in range(50)), encoding="utf-8")
    child = subprocess.Popen(
        [sys.executable, "-m", "microgpt.train", "--input", str(text), "--engine", engine, "--steps", "1000000", *size],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment(), text=True,
    )  # fmt: skip
    for _ in range(3):
        child.stdout.readline()
    time.sleep(0.1)
    child.send_signal(signal.SIGINT)
    _, errors = child.communicate(timeout=LIMIT)
    assert child.returncode == 130
    assert errors.splitlines()[-1] == "microgpt: interrupted"


def test_info_says_what_runs(in_process):
    done = in_process("info")
    assert done.returncode == 0, done.stderr
    for part in ("microgpt:", "compiler:", "libm:", "in use"):
        assert part in done.stdout


def test_one_command_runs_the_others(in_process, text_file, tmp_path):
    """`microgpt train ...`, which is `python -m microgpt train ...`, is `python -m microgpt.train ...`."""
    flags = ["--input", text_file, *SMALL]
    done = in_process("__main__", "train", *flags, "--save", "p.safetensors", "--log", "run.jsonl")
    assert done.returncode == 0 and done.stdout == script_output(TEXT), done.stderr
    for words, part in (
        (["sample", "p.safetensors"], "sample  1: "), (["eval", "p.safetensors", "--input", text_file], "perplexity"),
        (["info"], "compiler:"), (["report", "run.jsonl", "run.jsonl"], "the same run"), (["--version"], "microgpt 0."),
        ([], "usage: microgpt COMMAND"), (["--help"], "usage: microgpt COMMAND"), (["train", "--help"], "usage: microgpt train"),
    ):  # fmt: skip
        done = in_process("__main__", *words)
        assert done.returncode == 0 and part in done.stdout, (words, done.stderr)
    for words, parts in (
        (["foo"], ["there is no command 'foo' (microgpt --help"]), (["tarin"], ["did you mean train?"]),
        (["--trian"], ["there is no command '--trian'; did you mean train?"]), (["sample", "none"], ["No such file"]),
        (["train", "--n-head", "3"], ["multiple of n_head"]),
    ):  # fmt: skip
        one_line_error(in_process("__main__", *words), *parts)


def test_scripts_of_the_wheel_name_functions_that_are_there():
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8").partition("[project.scripts]")[2].partition("\n[")[0]
    scripts = dict(re.findall(r'^([\w-]+) = "(.+)"$', text, re.M))
    assert scripts["microgpt"] == "microgpt.__main__:main" and len(scripts) == 6
    for target in scripts.values():
        module, name = target.split(":")
        assert callable(getattr(importlib.import_module(module), name))


@pytest.mark.parametrize("words", [["__main__", "--debug", "train"], ["__main__", "train", "--debug"], ["train", "--debug"]])  # fmt: skip
def test_debug_shows_the_traceback(in_process, words):
    done = in_process(*words, "--n-head", "3")
    assert done.returncode == 2 and "Traceback" in done.stderr and "in __init__" in done.stderr
    assert done.stderr.splitlines()[-1] == "microgpt: error: n_embd (16) must be a multiple of n_head (3)"


def test_documents_longer_than_the_block_are_counted(in_process, tmp_path):
    (tmp_path / "long.txt").write_text("abcabc\nab\nabcab\n", encoding="utf-8")
    (tmp_path / "fits.txt").write_text("abca\nab\n", encoding="utf-8")
    flags = ["--block-size", "4", "--n-embd", "4", "--steps", "2", "--samples", "1"]
    said = "2 of 3 documents are longer than the block of 4: 3 of 13 characters (23.1%) are beyond it and not"
    done = in_process("train", "--input", "long.txt", *flags, "--save", "p.safetensors")
    assert f"microgpt: {said} trained on\n" in done.stderr and "beyond" not in done.stdout
    assert "beyond" not in in_process("train", "--input", "fits.txt", *flags).stderr
    done = in_process("train", "--input", "fits.txt", *flags, "--val", "long.txt")
    assert f"microgpt: {said} measured\n" in done.stderr
    assert f"microgpt: {said} measured\n" in in_process(
        "eval", "p.safetensors", "--input", "long.txt", "--json").stderr
    # without a flag, where the documents are no strings yet
    (tmp_path / "input.txt").write_text("a" * 20 + "\n" + "b" * 16 + "\n", encoding="utf-8")
    done = in_process("train")
    assert "1 of 2 documents is longer than the block of 16: 4 of 36 characters (11.1%)" in done.stderr


def test_unknown_character_is_located(in_process, tmp_path):
    (tmp_path / "text.txt").write_text("emma\nava\n", encoding="utf-8")
    (tmp_path / "other.txt").write_text("\ufeffemma\r\n\r\n  maXe  \r\nava\r\n", encoding="utf-8")
    flags = ["--n-embd", "4", "--steps", "4", "--samples", "1"]
    done = in_process("train", "--input", "text.txt", *flags, "--save", "p.safetensors")
    assert done.returncode == 0, done.stderr
    where = "other.txt, line 3: character 'X' (U+0058) at index 2 is not in the vocabulary"
    for words in (
        ["train", "--input", "text.txt", *flags, "--val", "other.txt"],
        ["train", "--input", "other.txt", "--resume", "p.safetensors", "--allow-other-text"],
        ["eval", "p.safetensors", "--input", "other.txt"],
    ):  # fmt: skip
        one_line_error(in_process(*words), where)
    one_line_error(in_process("sample", "p.safetensors", "--prompt", "eX"), "--prompt: character 'X' (U+0058) at index 1")


def test_default_run_imports_only_what_it_uses(command):
    code = (
        "import sys, microgpt.train as t; before = set(sys.modules); s = t.main([]); "
        "print(s, *sorted(sys.modules), file=sys.stderr)"
    )
    done = command("-c", code)
    loaded = done.stderr.splitlines()[-1].split()
    assert loaded[0] == "0"
    # Each costs 0.05 to 0.3 ms of the 10 that the command takes beside its steps.
    assert {name.partition(".")[2] for name in loaded if name.partition(".")[0] == "microgpt"} - {""} == {
        "cli", "cli.console", "config", "data", "engines", "engines.base", "train", "trainer", "trainer.inference", "trainer.loop", "core",
        *(f"core.{name}" for name in "adam documents encoded fused lock model mt19937 simd tape".split())}  # fmt: skip
    for heavy in ("numpy", "tqdm", "safetensors", "argparse", "random", "socket", "ssl", "urllib", "http", "hashlib",
                  "json", "typing", "dataclasses", "logging", "importlib.metadata", "signal", "matplotlib", "graphviz",
                  "microgpt.reference", "microgpt.storage.checkpoint", "microgpt.callbacks", "microgpt.cli.options", "microgpt.cli.plan",
                  "microgpt.cli.signals", "microgpt.generation"):  # fmt: skip
        assert heavy not in loaded


def test_import_alone_loads_nothing_else(command):
    done = command("-c", "import sys; before = set(sys.modules); import microgpt; print(*set(sys.modules) - before)")
    assert done.stdout.split() == ["microgpt"]


PYTHONS, A_PACKAGE = "hides Python's own module of this name: rename it, or use the command microgpt", "hides the package of this name"


@pytest.mark.parametrize("name, content, message", [
    ("json.py", "x = 1", PYTHONS), ("json.py", "x = (", PYTHONS), ("json.py", "import no_such_module", PYTHONS),
    ("random.py", "raise SystemExit", PYTHONS), ("math.py", "x = 1", PYTHONS), ("math.py", "raise SystemExit('no math')", PYTHONS),
    ("json.py", "open('no such file')", PYTHONS), ("tqdm.py", "x = 1", A_PACKAGE), ("numpy.py", "x = 1", A_PACKAGE),
    ("safetensors.py", "raise KeyError('x')", A_PACKAGE), ("numpy/__init__.py", "x = 1", A_PACKAGE)])  # fmt: skip
def test_a_file_that_hides_a_module_is_named(command, tmp_path, name, content, message):
    """`python -m` looks in the current folder first."""
    if name.removesuffix(".py") in sys.builtin_module_names:
        pytest.skip("no file hides a module that is part of the interpreter")
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text(content)
    (tmp_path / "names.txt").write_text("emma\nava\n")
    done = command("-m", "microgpt", "train", *"--input names.txt --steps 2 --samples 1 --log run.jsonl --save m.safetensors".split())
    if name == "tqdm.py":  # the bar is for terminals
        assert done.returncode == 0
        done = command("-c", "import sys; sys.path.insert(0, ''); import microgpt.__main__ as m, microgpt.callbacks as c; "
                       "sys.stderr.isatty = lambda: True; sys.exit(m.main(['train', '--steps', '2', '--quiet']))")  # fmt: skip
    assert done.returncode == 2 and message in done.stderr.splitlines()[-1] and "Traceback" not in done.stderr
    assert done.stderr.splitlines()[-1].startswith(f"microgpt: error: {name.replace('/', os.sep)} ")


def test_a_module_of_the_caller_hides_nothing(tmp_path, monkeypatch):
    """A fault of ours keeps its traceback, though a module of another's came from the current folder."""
    (tmp_path / "own_tools.py").write_text("def fail(given):\n    raise KeyError('x')\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(KeyError):
        importlib.import_module("microgpt.cli.console").run(importlib.import_module("own_tools").fail, {})


def test_commands_import_nothing_that_a_file_can_hide_before_they_can_say_so(command):
    code = (
        "import runpy, sys, microgpt.__main__ as m; before = {*sys.modules, *sys.builtin_module_names}\n"
        "from importlib import import_module\n"
        "for name in m.COMMANDS: import_module('microgpt.' + name)\n"
        "print(*(name for name in set(sys.modules) - before if name.partition('.')[0] != 'microgpt'))"
    )
    assert command("-c", code).stdout.split() == []
