"""Output files: replaced as a whole, tried before a run, never an input or each other; temporary files that cannot be planted."""
import errno
import os
import stat
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest
from conftest import environment, in_threads

from microgpt import Trainer, Value, files, load_docs, load_values
from microgpt.files import check_writable, find_overlap, identity, open_in_place, write_atomically
from microgpt.parallel.results import read_results
from microgpt.storage.runlog import read_log

on_posix = pytest.mark.skipif(os.name != "posix", reason="links, modes and locks of POSIX")
SMALL = ["--steps", "2", "--n-embd", "4", "--n-head", "2", "--samples", "1"]


def overlap(*paths):
    return find_overlap([("output", path) for path in paths[1:]], [("input", paths[0])]) is not None


@pytest.mark.skipif(sys.platform != "linux", reason="needs a file that opens and cannot be read")
@pytest.mark.parametrize("read", [load_docs, Trainer.load, read_log, read_results, lambda path: load_values(path, {"w": [Value(1.0)]})])
def test_error_while_reading_names_the_file(read):
    with pytest.raises(OSError) as caught:
        read("/proc/self/mem")
    assert caught.value.errno == errno.EIO and caught.value.filename == "/proc/self/mem"


@on_posix
@pytest.mark.parametrize("exists", [True, False], ids=["existing", "not yet existing"])
def test_two_spellings_of_a_path_are_one_file(tmp_path, monkeypatch, exists):
    (tmp_path / "folder").mkdir()
    (tmp_path / "to_folder").symlink_to("folder")
    path = tmp_path / "folder" / "a.txt"
    if exists:
        path.write_text("text", encoding="utf-8")
        os.link(path, tmp_path / "hard")
    (tmp_path / "link").symlink_to(path)
    (tmp_path / "relative").symlink_to("folder/../to_folder/a.txt")
    (tmp_path / "chain").symlink_to("link")
    monkeypatch.chdir(tmp_path)
    spellings = ["folder/a.txt", "./folder//a.txt", "to_folder/a.txt", "folder/../folder/a.txt", "link", "relative",
                 "chain", str(path), path, *(["hard"] if exists else [])]  # fmt: skip
    for one in spellings:
        for other in spellings:
            assert overlap(one, other), (one, other)
            assert overlap("elsewhere", one, other)
        for other in ("a.txt", "folder/b.txt", "folder/A.txt", "to_folder"):
            assert not overlap(one, other) or files._ignores_case("folder"), (one, other)


@on_posix
def test_descriptor_spelling_is_the_file_it_is_open_on(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("text", encoding="utf-8")
    with open(path, "rb") as file:
        assert identity(file.fileno()) == identity(path)
        if os.path.exists(f"/proc/self/fd/{file.fileno()}"):
            assert overlap(path, f"/proc/self/fd/{file.fileno()}") and overlap(path, f"/dev/fd/{file.fileno()}")


def test_names_that_differ_in_case_are_one_file_where_the_folder_says_so(tmp_path, monkeypatch):
    pairs = [("Run.st", "RUN.ST"), ("zo\u00eb", "zoe\u0308"), ("ZO\u00cb", "zoe\u0308")]
    for ignores in (True, False):
        monkeypatch.setattr(files, "_ignores_case", lambda folder, ignores=ignores: ignores)
        for one, other in pairs:
            assert overlap(tmp_path / one, tmp_path / other) == ignores
        assert not overlap(tmp_path / "a", tmp_path / "b")
    monkeypatch.undo()
    (tmp_path / "aa").touch()
    assert files._ignores_case(str(tmp_path)) == (tmp_path / "AA").exists()
    assert os.listdir(tmp_path) == ["aa"]


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "text.txt").write_text("emma\nolivia\nava\n", encoding="utf-8")
    (tmp_path / "val.txt").write_text("mia\nava\n", encoding="utf-8")
    Trainer(["emma", "olivia", "ava"], num_steps=2, n_embd=4, n_head=2).save(tmp_path / "run.safetensors")
    return tmp_path


def contents(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def refused(in_process, folder, *arguments, part="would overwrite"):
    before = contents(folder)
    done = in_process("train", *arguments, cwd=folder)
    assert done.returncode == 2 and "num docs" not in done.stdout, (arguments, done.stderr)
    assert part in done.stderr.splitlines()[-1] and "Traceback" not in done.stderr, done.stderr
    assert contents(folder) == before


VAL = ["--val", "val.txt", "--val-every", "1"]


@pytest.mark.parametrize("flag", ["--save", "--log", "--plot", "--save-best"])
@pytest.mark.parametrize("spelling", ["itself", "other spelling", "link", "hard link"])
def test_output_that_is_an_input_is_refused(in_process, folder, flag, spelling):
    for name in ("text.txt", "val.txt"):
        output = {"itself": name, "other spelling": f"./{name}"}.get(spelling, f"out-{name}.png")
        if spelling == "link":
            (folder / output).symlink_to(name)
        elif spelling == "hard link":
            os.link(folder / name, folder / output)
        refused(in_process, folder, "--input", "text.txt", *VAL, flag, output, *SMALL)


def test_default_input_and_bundled_names_are_inputs(in_process, folder):
    os.rename(folder / "text.txt", folder / "input.txt")
    refused(in_process, folder, "--log", "input.txt", *SMALL)
    refused(in_process, folder, "--save", "./input.txt", *SMALL)
    from microgpt.data import BUNDLED

    before = Path(BUNDLED).read_bytes()
    for flag in ("--log", "--save"):
        refused(in_process, folder, flag, BUNDLED, *SMALL)
        refused(in_process, folder, "--input", "input.txt", flag, BUNDLED, *SMALL)
    assert Path(BUNDLED).read_bytes() == before


@pytest.mark.parametrize("arguments", [
    ["--save", "a", "--log", "./a"], ["--save", "a.png", "--plot", "a.png"], ["--log", "a.png", "--plot", "a.png"],
    [*VAL, "--save", "a", "--save-best", "a"], [*VAL, "--save", "a.st", "--log", "a.st.best"],
    [*VAL, "--save", "a.safetensors", "--log", "a.best.safetensors"], ["--save", "dangling", "--log", "target"],
    ["--resume", "run.safetensors", "--log", "run.safetensors"],
    ["--resume", "run.safetensors", "--save", "run.safetensors", "--log", "./run.safetensors"],
], ids=" ".join)  # fmt: skip
def test_two_outputs_on_one_path_are_refused(in_process, folder, arguments):
    if os.name == "posix":
        (folder / "dangling").symlink_to("target")
    elif "dangling" in arguments:
        return
    small = [] if "--resume" in arguments else SMALL
    refused(in_process, folder, "--input", "text.txt", *arguments, *small)


@on_posix
def test_output_that_is_where_stdout_goes_is_refused(folder):
    for flag in ("--log", "--save"):
        with open(folder / "out", "wb") as file:
            done = subprocess.run([sys.executable, "-m", "microgpt.train", "--input", "text.txt", flag, "out", *SMALL],
                                  stdout=file, stderr=subprocess.PIPE, cwd=folder, env=environment(), text=True)  # fmt: skip
        assert done.returncode == 2 and "would overwrite stdout" in done.stderr
        assert (folder / "out").read_bytes() == b""


@on_posix
@pytest.mark.parametrize("words", [["export", "run.safetensors", "--c", "out"], ["export", "run.safetensors", "--json", "out"],
                                   ["sweep", "--grid", "seed=1", "--steps", "1", "--out", "out"],
                                   ["report", "run.jsonl", "-o", "out"]], ids=" ".join)  # fmt: skip
def test_output_of_every_command_is_checked_like_those_of_train(in_process, folder, words):
    in_process("train", "--input", "text.txt", "--log", "run.jsonl", *SMALL, cwd=folder)
    (folder / "input.txt").write_text("emma\nava\n", encoding="utf-8")
    with open(folder / "out", "wb") as file:
        done = subprocess.run([sys.executable, "-m", "microgpt", *words], stdout=file, stderr=subprocess.PIPE, cwd=folder,
                              env=environment(), text=True)  # fmt: skip
    flag = "--output" if words[-2] == "-o" else words[-2]
    assert done.returncode == 2 and f"{flag} out would overwrite stdout" in done.stderr
    assert (folder / "out").read_bytes() == b""
    from microgpt.data import BUNDLED

    before = Path(BUNDLED).read_bytes()
    for output in (BUNDLED, ""):
        done = in_process(*words[:-1], output, cwd=folder)
        assert done.returncode == 2 and ("would overwrite the bundled" if output else "needs the name") in done.stderr
    assert Path(BUNDLED).read_bytes() == before


def test_run_may_be_saved_over_the_checkpoint_it_continues(in_process, folder):
    os.link(folder / "run.safetensors", folder / "hard.safetensors")
    for save in ("run.safetensors", "./run.safetensors", "hard.safetensors"):
        done = in_process("train", "--input", "text.txt", "--resume", "run.safetensors", "--save", save,
                       cwd=folder)  # fmt: skip
        assert done.returncode == 0, done.stderr
    # From the best model on, which a better one then replaces.
    os.rename(folder / "run.safetensors", folder / "run.best.safetensors")
    done = in_process("train", "--input", "text.txt", "--resume", "run.best.safetensors", *VAL,
                   "--save", "run.safetensors", cwd=folder)  # fmt: skip
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("flag", ["--save", "--log", "--plot", "--save-best"])
@pytest.mark.parametrize("path, part", [
    ("", "needs the name of a file"), ("out/", "No such folder"), ("out/a.png", "No such folder"), (".", "Is a directory"),
    ("full", "Is a directory"), ("full/", "Is a directory"), ("n" * 256 + ".png", "File name too long"),
    ("text.txt/a.png", ""), ("loop.png", ""), ("into/nothing.png", "No such folder"),
])  # fmt: skip
def test_output_that_cannot_be_written_is_refused_before_the_training(in_process, folder, flag, path, part):
    if os.name != "posix" and part in ("File name too long", ""):
        return
    (folder / "full").mkdir()
    (folder / "full" / "file").touch()
    if os.name == "posix":
        (folder / "loop.png").symlink_to("loop.png")
    refused(in_process, folder, "--input", "text.txt", *VAL, flag, path, *SMALL, part=part)


@on_posix
def test_default_best_file_is_tried_too(in_process, folder):
    name = "n" * 240 + ".safetensors"  # with ".best" it is too long
    refused(in_process, folder, "--input", "text.txt", *VAL, "--save", name, *SMALL, part="File name too long")
    (folder / "run.best.safetensors").mkdir()
    refused(in_process, folder, "--input", "text.txt", *VAL, "--save", "run.safetensors", *SMALL, part="Is a directory")


@on_posix
def test_longest_name_can_be_saved(folder):
    trainer = Trainer(["ab"], num_steps=1, n_embd=4, n_head=2)
    for length in (220, 223, 224, 230, 255):
        path = folder / ("n" * length)
        check_writable(path)
        trainer.save(path)
        assert Trainer.load(path).step_index == 0
    with pytest.raises(OSError, match="File name too long"):
        check_writable(folder / ("n" * 256))
    assert not [name for name in os.listdir(folder) if name.endswith(".tmp")]


def test_save_under_another_suffix_says_which_format_it_writes(in_process, folder):
    for name, said in (("x.pt", True), ("x.safetensors", False), ("x", False)):
        done = in_process("train", "--input", "text.txt", "--save", name, *SMALL, cwd=folder)
        assert done.returncode == 0 and ("will be a safetensors file" in done.stderr) == said


@on_posix
@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOTSUP, errno.EACCES, errno.EPERM, errno.ENOSYS])
def test_folder_that_cannot_be_flushed_does_not_fail_a_save(tmp_path, monkeypatch, number):
    fsync = os.fsync

    def refusing(descriptor):
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(number, os.strerror(number))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", refusing)
    write_atomically(tmp_path / "a", b"content")
    assert (tmp_path / "a").read_bytes() == b"content" and os.listdir(tmp_path) == ["a"]


@on_posix
@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC, errno.EDQUOT])
@pytest.mark.parametrize("kind", [stat.S_ISDIR, stat.S_ISREG])
def test_flush_that_fails_is_an_error(tmp_path, monkeypatch, number, kind):
    def failing(descriptor):
        if kind(os.fstat(descriptor).st_mode):
            raise OSError(number, os.strerror(number))

    (tmp_path / "a").write_bytes(b"old")
    monkeypatch.setattr(os, "fsync", failing)
    with pytest.raises(OSError) as error:
        write_atomically(tmp_path / "a", b"content")
    assert (error.value.errno, error.value.filename) == (number, str(tmp_path / "a"))
    assert (tmp_path / "a").read_bytes() == (b"content" if kind is stat.S_ISDIR else b"old")
    assert os.listdir(tmp_path) == ["a"]


@on_posix
def test_folder_that_cannot_be_read_can_be_saved_into(tmp_path):
    """0333: root may read it all the same, so another user tries."""
    tmp_path.chmod(0o755)
    folder = tmp_path / "drop"
    folder.mkdir()
    folder.chmod(0o333)
    code = ("import os, sys; from microgpt.files import *; import hashlib, fcntl, time, unicodedata;"
            "os.chdir(sys.argv[1]); os.geteuid() == 0 and os.setresuid(65534, 65534, 65534);"
            "check_writable('a'); write_atomically('a', b'x'); write_atomically('a', b'y'); print(open('a').read())")  # fmt: skip
    done = subprocess.run([sys.executable, "-c", code, folder], env=environment(), capture_output=True, text=True)
    folder.chmod(0o755)
    assert done.stdout == "y\n", done.stderr
    assert os.listdir(folder) == ["a"]


@on_posix
@pytest.mark.parametrize("write", ["replace", "log"])
def test_mode_of_a_new_file_is_the_umask_s_and_of_an_old_one_its_own(tmp_path, write):
    def put(path):
        if write == "log":
            os.close(open_in_place(path))
        else:
            write_atomically(path, b"x")
        return stat.S_IMODE(path.stat().st_mode)

    before = os.umask(0o027)
    try:
        assert put(tmp_path / "new") == 0o640
        for mode in (0o600, 0o666, 0o444 if write != "log" else 0o644):
            (tmp_path / "old").touch()
            (tmp_path / "old").chmod(mode)
            assert put(tmp_path / "old") == mode
    finally:
        os.umask(before)


def test_temporary_name_cannot_be_known_and_what_stands_there_is_not_opened(tmp_path, monkeypatch):
    names, replace = [], os.replace
    monkeypatch.setattr(os, "replace", lambda old, new: (names.append(old), replace(old, new)))
    for _ in range(20):
        write_atomically(tmp_path / "a", b"x")
    assert len(set(names)) == 20
    # Even known, a name that is taken is passed over, whatever is there.
    (tmp_path / "victim").write_bytes(b"precious")
    tokens = iter([b"\0" * 8, b"\1" * 8, b"\2" * 8])
    monkeypatch.setattr(os, "urandom", lambda n: next(tokens))
    monkeypatch.setattr(files, "_remove_leftovers", lambda target: None)
    first = tmp_path / f"a.{files._host()}-{'00' * 8}.tmp"
    second = tmp_path / f"a.{files._host()}-{'01' * 8}.tmp"
    first.symlink_to(tmp_path / "victim")
    second.symlink_to(tmp_path / "dangling")
    write_atomically(tmp_path / "a", b"new")
    assert (tmp_path / "victim").read_bytes() == b"precious" and not (tmp_path / "dangling").exists()
    assert (tmp_path / "a").read_bytes() == b"new" and first.is_symlink() and second.is_symlink()


def test_link_of_another_user_in_a_folder_for_everybody_is_not_followed(tmp_path, monkeypatch):
    def case(link, folder, mode, user):
        return files._may_follow(SimpleNamespace(st_uid=link), SimpleNamespace(st_uid=folder, st_mode=mode), user)

    assert case(7, 8, 0o40755, 9) and case(9, 8, 0o41777, 9) and case(8, 8, 0o41777, 9) and case(0, 8, 0o41777, 9)
    assert not case(7, 8, 0o41777, 9) and not case(7, 0, 0o40777, 0)
    if os.name == "posix":
        monkeypatch.setattr(files, "_may_follow", lambda *_: False)
        (tmp_path / "victim").write_bytes(b"precious")
        (tmp_path / "link").symlink_to("victim")
        for write in (lambda path: write_atomically(path, b"x"), open_in_place, check_writable):
            with pytest.raises(PermissionError, match="another user"):
                write(tmp_path / "link")
        assert (tmp_path / "victim").read_bytes() == b"precious"


def test_file_of_another_user_in_a_sticky_folder_is_refused_beforehand(tmp_path, monkeypatch):
    def case(old, folder, mode, user):
        return files._may_replace(SimpleNamespace(st_uid=old), SimpleNamespace(st_uid=folder, st_mode=mode), user)

    assert case(7, 8, 0o40777, 9) and case(9, 8, 0o41777, 9) and case(7, 9, 0o41777, 9) and case(7, 8, 0o41777, 0)
    assert not case(7, 8, 0o41777, 9)
    if os.name == "posix":
        monkeypatch.setattr(files, "_may_replace", lambda *_: False)
        (tmp_path / "a").touch()
        with pytest.raises(PermissionError):
            check_writable(tmp_path / "a")


LEFTOVER = """
import os, signal, sys
from microgpt import files
files._flush = lambda *_: (print(flush=True), sys.stdin.read())
files.write_atomically(sys.argv[1], b"half")
"""


@on_posix
def test_leftover_of_a_killed_process_goes_and_a_live_one_s_file_stays(tmp_path):
    children = [subprocess.Popen([sys.executable, "-c", LEFTOVER, tmp_path / name], env=environment(),
                                 stdin=subprocess.PIPE, stdout=subprocess.PIPE)
                for name in ("a", "a", "b", "n" * 255)]  # fmt: skip
    for child in children:
        child.stdout.readline()
    temporary = {name for name in os.listdir(tmp_path) if name.endswith(".tmp")}
    assert len(temporary) == 4
    write_atomically(tmp_path / "a", b"x")
    write_atomically(tmp_path / ("n" * 255), b"x")
    assert temporary <= set(os.listdir(tmp_path))
    for child in (children[0], children[3]):
        child.kill()
        child.wait()
    write_atomically(tmp_path / "b", b"x")  # others' leftovers are not its concern
    assert temporary <= set(os.listdir(tmp_path))
    write_atomically(tmp_path / "a", b"x")
    write_atomically(tmp_path / ("n" * 255), b"x")
    assert len(temporary & set(os.listdir(tmp_path))) == 2
    for child in children:
        child.communicate()
    assert [child.returncode for child in children[1:3]] == [0, 0]
    assert sorted(os.listdir(tmp_path)) == ["a", "b", "n" * 255]
    assert (tmp_path / "a").read_bytes() == b"half"


@on_posix
def test_temporary_files_of_other_kernels_go_when_a_day_old(tmp_path):
    """Their locks may not be seen here."""
    token = "0123456789abcdef"
    other, old = tmp_path / f"a.deadbeef-{token}.tmp", tmp_path / f"a.deadbeef-{token[::-1]}.tmp"
    kept = [tmp_path / name for name in ("a.tmp", "a.deadbeef.tmp", "a.deadbeef-.tmp", f"a.deadbeef-{token}.tmp2",
                                         f"ab.deadbeef-{token}.tmp", "a.notes-of-mine-in-a-file01.tmp")]  # fmt: skip
    for file in (other, old, *kept):
        file.touch()
        if file != other:
            os.utime(file, (0, 0))
    os.mkfifo(tmp_path / f"a.{files._host()}-{token}.tmp")
    (tmp_path / f"a.{files._host()}-{token[::-1]}.tmp").symlink_to(kept[0])
    write_atomically(tmp_path / "a", b"x")
    assert not old.exists() and other.exists() and all(file.exists() for file in kept)
    assert len(os.listdir(tmp_path)) == 1 + 1 + len(kept) + 2


@pytest.mark.slow
def test_many_threads_save_to_one_path(tmp_path):
    """A concurrent reader finds one of the two files, whole."""
    path, end = tmp_path / "a", threading.Event()
    contents = [bytes([i]) * 50_000 for i in range(16)]
    write_atomically(path, contents[0])

    def write(content):
        for _ in range(20):
            write_atomically(path, content)

    def read():
        while not end.is_set():
            assert path.read_bytes() in contents

    reader = threading.Thread(target=lambda: errors.extend(in_threads(*[read] * 4)))
    errors = []
    reader.start()
    found = in_threads(*[lambda content=content: write(content) for content in contents])
    end.set()
    reader.join()
    assert not found and not errors and os.listdir(tmp_path) == ["a"]


@pytest.mark.parametrize("interrupt", [KeyboardInterrupt, MemoryError])
@pytest.mark.parametrize("place", ["open", "fsync", "replace"])
def test_interrupted_write_leaves_nothing(tmp_path, monkeypatch, interrupt, place):
    (tmp_path / "a").write_bytes(b"old")
    function = getattr(os, place)

    def interrupted(*arguments, **kwargs):
        if place == "open" and not str(arguments[0]).endswith(".tmp"):
            return function(*arguments, **kwargs)
        if place == "open":
            os.close(function(*arguments, **kwargs))
        raise interrupt

    monkeypatch.setattr(os, place, interrupted)
    with pytest.raises(interrupt):
        write_atomically(tmp_path / "a", b"new")
    monkeypatch.undo()
    assert os.listdir(tmp_path) == ["a"] and (tmp_path / "a").read_bytes() == b"old"
