"""Where stdout and stderr are closed, full, gone or no files, and texts that would steer a terminal."""
import contextlib
import io
import json
import os
import signal
import subprocess
import sys
import threading
import time

import pytest
from children import LIMIT, run_child
from conftest import environment

from microgpt import Trainer, train
from microgpt.cli import console as cli
from microgpt.errors import NoThreadError, printable

DOCS = ["emma", "olivia", "ava", "zoë", "sophia", "mia"]
SMALL = ["--n-embd", "4", "--n-head", "2", "--block-size", "6", "--steps", "30", "--samples", "2"]
on_posix = pytest.mark.skipif(os.name != "posix", reason="a shell, signals and devices of POSIX")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.txt").write_text("\n".join(DOCS), encoding="utf-8")
    return tmp_path


@pytest.fixture
def expected(folder, command):
    """stdout of the run, to which streams make no difference."""
    done = command("-m", "microgpt.train", "--input", "text.txt", *SMALL)
    assert done.returncode == 0, done.stderr
    return done.stdout


def shell(line, **kwargs):
    """A line of a shell, in which $T trains and $M is the package."""
    commands = {"T": f"{sys.executable} -m microgpt.train --input text.txt", "M": f"{sys.executable} -m microgpt"}
    env = environment({"PYTHONUNBUFFERED": "", **commands})
    return subprocess.run(["bash", "-c", line], env=env, capture_output=True, text=True, encoding="utf-8", timeout=LIMIT,
                          **kwargs)  # fmt: skip


def saved(path="p.safetensors"):
    return Trainer.load(path).step_index


@pytest.mark.slow
@on_posix
@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&-", "<&- >&- 2>&-"])
def test_closed_streams_are_written_to_by_nobody(folder, expected, closed):
    """As print() does: what has nowhere to go goes nowhere. Messages of ours never take stdout instead."""
    done = shell(f"$T {' '.join(SMALL)} --save p.safetensors --val text.txt {closed}; echo status $? >status")
    assert (folder / "status").read_text() == "status 0\n"
    assert done.stdout == ("" if ">&-" in closed.replace("2>&-", "") else expected)
    assert "Traceback" not in done.stderr and "Exception" not in done.stderr
    assert saved() == 30
    for words in ("sample p.safetensors", "eval p.safetensors --input text.txt", "info", "--help", "train --help", "",
                  "train --sparkle", "sample none", "foo"):  # fmt: skip
        done = shell(f"$M {words} {closed}; echo status $? >status")
        wrong = words in ("train --sparkle", "sample none", "foo")
        assert (folder / "status").read_text() == f"status {2 if wrong else 0}\n", words
        assert "Traceback" not in done.stderr and "microgpt: error" not in done.stdout


def test_streams_that_are_none_or_no_files(folder, expected):
    """pythonw has None; redirect_stdout and notebooks have objects with a write and little else."""

    class Bare:
        def __init__(self):
            self.text = ""

        def write(self, text):
            self.text += text

    for make, read in ((io.StringIO, lambda s: s.getvalue()), (Bare, lambda s: s.text), (lambda: None, lambda s: expected)):
        out, err = make(), make()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            status = train.main(["--input", "text.txt", *SMALL, "--save", "p.safetensors"])
            wrong = train.main(["--sparkle"])
        assert (status, wrong) == (0, 2) and read(out) == expected and saved() == 30
        assert err is None or "saved step 30" in read(err)
        os.unlink("p.safetensors")


def test_stdout_that_cannot_hold_the_text_is_no_traceback(folder, expected):
    out = io.TextIOWrapper(io.BytesIO(), encoding="ascii", newline="\n")

    class Ascii:  # cannot be made UTF-8
        encoding = "ascii"
        write, flush = out.write, out.flush

    Trainer(["ü"], num_steps=1, n_embd=4).save("p.safetensors")
    from microgpt import sample

    with contextlib.redirect_stdout(Ascii()):
        assert sample.main(["p.safetensors", "--prompt", "ü", "--samples", "1"]) == 0
    out.seek(0)
    assert out.read().startswith("sample  1: \\xfc")


@pytest.mark.slow
@on_posix
def test_reader_that_leaves_costs_no_step(folder):
    done = shell(f"$T {' '.join(SMALL)} --steps 1000000 --save p.safetensors | head -3; echo ${{PIPESTATUS[0]}}")
    assert done.stdout.splitlines()[-1] == "2" and done.stdout.startswith("num docs: 6\n")
    assert "Traceback" not in done.stderr and "Exception" not in done.stderr
    assert saved() > 0 and f"saved step {saved()} to p.safetensors" in done.stderr


@pytest.mark.slow
@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="this system has no /dev/full")
@pytest.mark.parametrize("flags", ["", "--quiet"])
def test_full_device_costs_no_step(folder, flags):
    done = shell(f"$T {' '.join(SMALL)} {flags} --save p.safetensors >/dev/full")
    assert done.returncode == 2 and "Traceback" not in done.stderr and "Exception" not in done.stderr
    assert done.stderr.splitlines()[-1] == "microgpt: error: standard output: No space left on device"
    assert saved() == (30 if flags else saved()) > 0
    done = shell(f"$T {' '.join(SMALL)} --save q.safetensors 2>/dev/full")
    assert done.returncode == 0 and saved("q.safetensors") == 30
    for words in ("info", "--help", "train --help", "sample q.safetensors"):
        done = shell(f"$M {words} >/dev/full")
        assert done.returncode in (2, 0) and "Traceback" not in done.stderr and "Exception" not in done.stderr, words


def begin(*arguments, **kwargs):
    """A run of a million steps that has begun."""
    child = subprocess.Popen(
        [sys.executable, "-m", "microgpt.train", "--input", "text.txt", *SMALL, "--steps", "1000000", *arguments],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment(), text=True, **kwargs,
    )  # fmt: skip
    for _ in range(5):
        child.stdout.readline()
    return child


@pytest.mark.slow
@on_posix
@pytest.mark.parametrize("name, status", [("SIGHUP", 129), ("SIGINT", 130), ("SIGTERM", 143)])
def test_signals_save_however_often_they_come(folder, name, status):
    child = begin("--save", "p.safetensors")
    errors, reader = [], threading.Thread(target=lambda: errors.append(child.communicate(timeout=LIMIT)[1]))
    reader.start()
    while child.returncode is None and reader.is_alive():  # to the very end: once answered, it stays ignored
        child.send_signal(getattr(signal, name))
        time.sleep(0.0002)
    reader.join()
    errors = errors[0]
    assert child.returncode == status and "Traceback" not in errors, errors
    assert f"saved step {saved()} to p.safetensors" in errors and saved() > 0


@pytest.mark.slow
@on_posix
@pytest.mark.parametrize("owner", ["command", "program"])
def test_answered_signal_stays_ignored_only_if_the_process_ends_with_the_command(folder, owner):
    """By its default action it would kill a process that was about to exit; a program gets its handlers back."""
    code = f"""
import os, signal, sys
from microgpt import train, trainer
save = trainer.Trainer.save
def interrupted(self, path):
    save(self, path)
    if self.step_index == 3:
        os.kill(os.getpid(), signal.SIGTERM)
trainer.Trainer.save = interrupted
arguments = ["--input", "text.txt", "--steps", "9", "--save", "p.safetensors", "--save-every", "3"]
before = [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)]
sys.argv[1:] = arguments
status = train.main({'None' if owner == 'command' else 'arguments'})
after = [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)]
print(status, after == before, set(after) == {{signal.SIG_IGN}}, file=sys.stderr)
"""
    done = subprocess.run([sys.executable, "-c", code], env=environment(), capture_output=True, text=True, timeout=LIMIT)
    expected = "143 False True" if owner == "command" else "143 True False"
    assert done.stderr.splitlines()[-1] == expected, done.stderr
    assert saved() == 3


def test_interrupt_before_the_first_is_answered_is_no_traceback(capsys):
    """Python asks for signals at the beginning of every function, that which answers them included."""
    def interrupt(frame, event, argument):
        if frame.f_code.co_name == "_interrupted":
            sys.settrace(None)
            raise KeyboardInterrupt

    def command(arguments):
        sys.settrace(interrupt)
        raise KeyboardInterrupt

    before = sys.gettrace()
    try:
        assert cli.run(command, {}) == 130
    finally:
        sys.settrace(before)
    assert capsys.readouterr().err == "microgpt: interrupted\n"


@on_posix
def test_interrupts_of_a_run_that_saves_nothing_end_it_however_often_they_come(folder):
    child = begin()
    out = threading.Thread(target=child.stdout.read)
    out.start()
    while child.poll() is None:
        child.send_signal(signal.SIGINT)
        time.sleep(0.0005)
    out.join()
    assert child.returncode == 130 and "Traceback" not in child.stderr.read()
    child.stdout.close()
    child.stderr.close()


@pytest.mark.slow
@on_posix
def test_ignored_hang_up_stays_ignored(folder):
    """As under nohup."""
    child = begin("--save", "p.safetensors", preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN))
    child.send_signal(signal.SIGHUP)
    for _ in range(1000):
        assert child.stdout.readline()
    child.send_signal(signal.SIGINT)
    child.communicate(timeout=LIMIT)
    assert child.returncode == 130


@pytest.mark.slow
@on_posix
def test_signal_in_the_save_that_answers_a_signal_does_not_end_it(folder):
    code = """
import os, signal, sys
from microgpt import train, trainer
from microgpt.storage import checkpoint
save, calls = trainer.Trainer.save, []
def interrupted(self, path):
    calls.append(self.step_index)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        os.kill(os.getpid(), number)
    save(self, path)
trainer.Trainer.save = interrupted
sys.exit(train.main(["--input", "text.txt", "--steps", "9", "--save", "p.safetensors"]))
"""
    done = subprocess.run([sys.executable, "-c", code], env=environment(), capture_output=True, text=True, timeout=LIMIT)
    assert done.returncode == 130 and "Traceback" not in done.stderr, done.stderr
    assert saved() == 9 and "saved step 9 to p.safetensors" in done.stderr


def test_main_from_another_thread_saves(folder, expected):
    """Signals are the main thread's; elsewhere a run goes without them."""
    found, out = [], io.StringIO()

    def work():
        with contextlib.redirect_stdout(out):
            found.append(train.main(["--input", "text.txt", *SMALL, "--save", "p.safetensors", "--save-every", "7"]))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join(LIMIT)
    assert found == [0] and out.getvalue() == expected and saved() == 30


# ---- what steers a terminal ----

EVIL = "\x1b]0;owned\x07\x9b\x7f\u202e"


def test_printable_escapes_what_steers_a_terminal_only():
    assert printable("a\x1b[2J\r\n\x00\x7f\x9b\u2028\u202e\u2066\ud800z") == (
        "a\\x1b[2J\\r\\n\\x00\\x7f\\x9b\\u2028\\u202e\\u2066\\ud800z"
    )
    honest = "Zoë 안나 \u4e2d\u200d\u200c\xa0\u3000👩\u200d👩\tא\u200f\\"
    assert printable(honest) == honest and printable("\x1b\x07", own="\x1b") == "\x1b\\x07"
    assert printable(Exception("a" * 50), 10) == "aaaaaaa..."


def test_samples_of_a_checkpoint_from_elsewhere_are_escaped(folder, in_process):
    trainer = Trainer([EVIL] * 3, num_steps=300, n_embd=8, n_head=2)
    trainer.run()
    trainer.save("evil.safetensors")
    for flags in ((), ("--logprobs",), ("--prompt", "\x1b"), ("--top-k", "3")):
        done = in_process("sample", "evil.safetensors", "--samples", "2", *flags)
        assert done.returncode == 0, done.stderr
        assert not any(ch in done.stdout + done.stderr for ch in EVIL if not ch.isprintable()) and "\\x1b" in done.stdout


def test_surrogates_in_a_vocabulary_are_escaped(capsys):
    trainer = Trainer(["\ud800a"] * 3, num_steps=1, n_embd=4)
    trainer.run()
    cli.write_samples(trainer, {"temperature": 0.5, "samples": 3, "prompt": "\ud800"})
    assert "\\ud800" in capsys.readouterr().out


def test_training_on_my_own_text_prints_the_script_s_bytes(folder, in_process):
    """The script would print them, so the command does; but of a resumed run only those that this text has."""
    (folder / "own.txt").write_text("\x1b[1m\n" * 3, encoding="utf-8")
    flags = ["--n-embd", "8", "--n-head", "2", "--steps", "200", "--samples", "3", "--quiet"]
    done = in_process("train", "--input", "own.txt", *flags, "--save", "p.safetensors")
    assert done.stdout.count("\x1b[1m") == 3
    (folder / "other.txt").write_text("[1m\n", encoding="utf-8")
    done = in_process("train", "--input", "own.txt", "--resume", "p.safetensors", "--quiet")
    assert "\x1b[1m" in done.stdout
    done = in_process("train", "--input", "other.txt", "--resume", "p.safetensors", "--allow-other-text")
    assert done.returncode == 0 and "\x1b" not in done.stdout and "\\x1b[1m" in done.stdout


def test_messages_are_one_line_whatever_they_name(folder, in_process):
    done = in_process("train", "--input", "\x1b[2Jno\nfile")
    assert done.returncode == 2 and done.stderr == "microgpt: error: \\x1b[2Jno\\nfile: No such file or directory\n"


@on_posix
def test_message_beside_a_progress_bar_has_a_line_of_its_own(folder):
    import fcntl
    import pty
    import struct
    import termios

    parent, child = pty.openpty()
    fcntl.ioctl(child, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    done = subprocess.Popen(
        [sys.executable, "-m", "microgpt.train", "--input", "text.txt", "--quiet", *SMALL, "--val", "text.txt",
         "--val-every", "10"], stdout=subprocess.DEVNULL, stderr=child, env=environment(),
    )  # fmt: skip
    os.close(child)
    shown = b""
    with contextlib.suppress(OSError):
        while part := os.read(parent, 65536):
            shown += part
    os.close(parent)
    assert done.wait(LIMIT) == 0 and b"30/30" in shown
    for line in shown.decode().replace("\r\n", "\n").split("\n"):
        if "microgpt: step" in line:
            assert line.rpartition("\r")[2].startswith("microgpt: step"), json.dumps(line)


@on_posix
@pytest.mark.parametrize("gone", ["os.rmdir(os.getcwd())", "sys.modules['microgpt.cli.hiding'] = None"])
def test_an_error_is_told_where_no_file_can_be_looked_for(tmp_path, gone):
    """The current folder is gone; or what looks for files in it cannot be imported, as where a user's rights were given up."""
    folder = tmp_path / "folder"
    folder.mkdir()
    done = run_child(f"import os, sys; {gone}; from microgpt import train; sys.exit(train.main(['--input', '/absent/file']))",
                     cwd=folder)  # fmt: skip
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "microgpt: error: /absent/file: No such file or directory\n"


@pytest.mark.parametrize("error", [RuntimeError("can't start new thread"), NoThreadError("use fewer")])  # Python's, the engine's
def test_a_system_that_starts_no_more_threads_is_an_error_in_one_line(capfd, error):
    def command(_):
        raise error

    assert cli.run(command, {}) == 2
    assert capfd.readouterr() == ("", f"microgpt: error: {error}\n")
    error = RuntimeError("another")
    with pytest.raises(RuntimeError, match="another"):
        cli.run(command, {})
