"""Saving under fire: kills, full disks, read-only folders; and resuming in new processes, from engine to engine."""
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import oracle
import pytest
from children import LIMIT, run_child
from conftest import ROOT, environment, hexes

from microgpt import Trainer, load_docs
from microgpt.data import BUNDLED
from microgpt.trainer import ENGINES

DOCS = ["emma", "olivia", "ava", "zoë", "sophia", "mia"]
SETTINGS = dict(n_embd=8, n_head=2, block_size=6, n_layer=2)
STEPS = 4

on_posix = pytest.mark.skipif(os.name != "posix", reason="signals, limits and permissions of POSIX")


RESUME = f"""
import gc, sys
from microgpt import Trainer
engine, *paths = sys.argv[1:]
gc.disable()  # as in oracle.py
for path in paths:
    trainer = Trainer.load(path, {DOCS!r}, engine=engine)
    losses = trainer.run()
    for numbers in (losses, trainer.parameters, trainer.adam.m, trainer.adam.v):
        print(*(float(x).hex() for x in numbers))
    print(trainer.sample(3), trainer.sample(2, temperature=1.0, prompt="em"))
"""


@pytest.mark.parametrize("first", ENGINES)
@pytest.mark.parametrize("second", ENGINES)
@pytest.mark.usefixtures("collector_off")
@pytest.mark.slow
def test_resumed_in_a_new_process(tmp_path, first, second):
    small = dict(SETTINGS, n_embd=4, n_layer=1)
    whole = oracle.trainer(DOCS, num_steps=STEPS, **small)
    losses = hexes(whole.last_losses)
    expected = [" ".join(hexes(x)) for x in (whole.parameters, whole.adam.m, whole.adam.v)]
    expected.append(f"{whole.sample(3)} {whole.sample(2, temperature=1.0, prompt='em')}")
    begun, paths = Trainer(DOCS, num_steps=STEPS, engine=first, **small), []
    for stop in range(STEPS + 1):
        begun.run(stop - begun.step_index)
        paths.append(tmp_path / f"{stop}.safetensors")
        begun.save(paths[-1])
    done = run_child(RESUME, second, *paths)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    for stop in range(STEPS + 1):
        assert lines[5 * stop : 5 * stop + 5] == [" ".join(losses[stop:]), *expected]


@on_posix
@pytest.mark.slow
def test_killed_while_saving():
    """Twelve kills; `python tests/isolated/kill_while_saving.py 200` does more."""
    script = ROOT / "tests" / "isolated" / "kill_while_saving.py"
    done = subprocess.run([sys.executable, str(script), "12"], env=environment(), capture_output=True, text=True,
                          timeout=LIMIT)  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "12 kills" in done.stdout


@pytest.mark.slow
@on_posix
@pytest.mark.parametrize("number, status", [("SIGINT", 130), ("SIGTERM", 143)])
@pytest.mark.parametrize("save", [1, 2, 3])
def test_told_to_stop_in_the_midst_of_a_save(tmp_path, number, status, save):
    """It saves once more; in the last save of a run, too. The first three writes to the disk here are three saves."""
    code = f"""
import os, signal, sys
from microgpt import train
calls, fsync = [], os.fsync
def interrupted(fd):
    import stat
    calls.append(stat.S_ISREG(os.fstat(fd).st_mode))
    if calls.count(True) == {save} and calls[-1]:
        os.kill(os.getpid(), signal.{number})
    fsync(fd)
os.fsync = interrupted
sys.exit(train.main(["--steps", "4", "--n-embd", "4", "--save", sys.argv[1], "--save-every", "2"]))
"""
    path = tmp_path / "run.safetensors"
    done = run_child(code, path)
    step = {1: 2, 2: 4, 3: 4}[save]
    assert done.returncode == status and "Traceback" not in done.stderr, done.stderr
    assert f"saved step {step} to {path}" in done.stderr and os.listdir(tmp_path) == [path.name]
    whole = Trainer(load_docs(BUNDLED), num_steps=4, n_embd=4)
    whole.run(step)
    whole.save(tmp_path / "whole")
    assert (tmp_path / "whole").read_bytes() == path.read_bytes()


INTERRUPTING = """
import os, signal, sys
class Interrupting:
    done = False
    def find_spec(self, name, *_):
        if name.startswith("numpy.") and not self.done:
            self.done = True
            os.kill(os.getpid(), signal.SIGINT)
            print("interrupted", "numpy" in sys.modules, flush=True)
sys.meta_path.insert(0, Interrupting())
"""


@pytest.mark.slow
@on_posix
@pytest.mark.parametrize("module", ["train", "sample", "eval"])
def test_interrupted_import_of_numpy(tmp_path, module):
    """NumPy would make an ImportError of it, and then no save could import it: the interrupt has to wait."""
    Trainer(load_docs(BUNDLED), num_steps=2).save(tmp_path / "run.safetensors")
    flags = ["--resume"] if module == "train" else []
    done = run_child(f"{INTERRUPTING}from microgpt import {module}; sys.exit({module}.main(sys.argv[1:]))",
                 *flags, tmp_path / "run.safetensors")  # fmt: skip
    assert (done.returncode, done.stdout) == (130, "interrupted True\n"), done.stderr
    assert done.stderr == "microgpt: interrupted\n"


@on_posix
def test_ignored_interrupt_stays_ignored():
    """As in a background job of a shell."""
    done = run_child(f"{INTERRUPTING}signal.signal(signal.SIGINT, signal.SIG_IGN)\nfrom microgpt.storage import checkpoint\n"
                 "checkpoint.import_arrays(); print('alive')")  # fmt: skip
    assert done.stdout == "interrupted True\nalive\n", done.stderr


@on_posix
def test_mode_and_link_of_the_old_file_stay(tmp_path):
    trainer = Trainer(DOCS, num_steps=1, **SETTINGS)
    real, link = tmp_path / "real.safetensors", tmp_path / "link.safetensors"
    trainer.save(real)
    real.chmod(0o600)
    link.symlink_to(real)
    trainer.save(link)
    assert link.is_symlink() and real.stat().st_mode & 0o777 == 0o600


@pytest.mark.slow
@on_posix
def test_device_is_not_replaced(tmp_path, in_process):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with pytest.raises(OSError, match="Not a regular file"):
        Trainer(DOCS, num_steps=1, **SETTINGS).save(pipe)
    for name in ("pipe", "/dev/null"):
        done = in_process("train", "--steps", "1", "--save", name)
        assert done.returncode == 2 and f"{name}: Not a regular file" in done.stderr
    assert Path("/dev/null").is_char_device() and pipe.is_fifo()


def limited(size):
    def limit():
        import resource

        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))

    return limit


@pytest.mark.slow
@on_posix
def test_disk_that_fills_up(tmp_path):
    """The write itself fails half-way (by a limit on the file's size): one line, the old file whole, nothing left."""
    (tmp_path / "text.txt").write_text("\n".join(DOCS), encoding="utf-8")
    path = tmp_path / "run.safetensors"
    trainer = Trainer(DOCS, num_steps=50, **SETTINGS)
    trainer.run(3)
    trainer.save(path)
    before, files = path.read_bytes(), sorted(os.listdir(tmp_path))
    for limit, flags in ((0, []), (4096, ["--save-every", "1"]), (len(before) - 1, [])):
        done = subprocess.run(
            [sys.executable, "-m", "microgpt.train", "--input", "text.txt", "--resume", str(path), "--save", str(path),
             *flags],
            capture_output=True, text=True, env=environment(), cwd=tmp_path, preexec_fn=limited(limit), timeout=LIMIT,
        )  # fmt: skip
        assert done.returncode == 2
        assert done.stderr.splitlines()[-1] == f"microgpt: error: {path}: File too large"
        assert path.read_bytes() == before and sorted(os.listdir(tmp_path)) == files
    assert Trainer.load(path, DOCS).step_index == 3


def can_mount():
    return bool(shutil.which("unshare")) and subprocess.run(
        ["unshare", "-rm", "sh", "-c", "mount -t tmpfs -o size=64k tmpfs /mnt"], capture_output=True
    ).returncode == 0  # fmt: skip


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux" or not can_mount(), reason="may not mount a small file system")
def test_full_file_system(tmp_path):
    """A real one, of 64 KiB: the first checkpoint fits, a second beside it does not."""
    code = f"""
import os, sys
from microgpt import Trainer
trainer = Trainer({DOCS!r}, num_steps=5, **{SETTINGS!r})
trainer.save("/mnt/run.safetensors")
before = open("/mnt/run.safetensors", "rb").read()
trainer.run(1)
try:
    trainer.save("/mnt/run.safetensors")
except OSError as error:
    print(error)
assert open("/mnt/run.safetensors", "rb").read() == before
print(os.listdir("/mnt"), Trainer.load("/mnt/run.safetensors", {DOCS!r}).step_index)
"""
    size = Trainer(DOCS, num_steps=5, **SETTINGS)
    size.save(tmp_path / "x")
    kilobytes = (tmp_path / "x").stat().st_size * 3 // 2 // 1024
    done = subprocess.run(
        ["unshare", "-rm", "sh", "-c", f'mount -t tmpfs -o size={kilobytes}k tmpfs /mnt && exec "$0" -c "$1"',
         sys.executable, code],
        capture_output=True, text=True, env=environment(), timeout=LIMIT,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["[Errno 28] No space left on device: '/mnt/run.safetensors'",
                                        "['run.safetensors'] 0"]  # fmt: skip


@pytest.mark.slow
@on_posix
def test_read_only_folder(tmp_path):
    """As a user who may not write there: refused before the training, and in one line if it turns read-only later."""
    # A run before the rights are given up imports all that is needed: the interpreter itself may be root's.
    drop = ("import os, sys; from microgpt import Trainer, train; "
            "train.main(['--steps', '1', '--samples', '0', '--save', sys.argv[2]]); "
            "os.geteuid() == 0 and os.setresuid(65534, 65534, 65534); ")  # fmt: skip
    folder = Path(tempfile.mkdtemp())
    try:
        path = folder / "run.safetensors"
        Trainer(DOCS, num_steps=5, **SETTINGS).save(path)
        before = path.read_bytes()
        path.chmod(0o644)
        folder.chmod(0o555)
        again = "sys.exit(train.main(['--steps', '5', '--save', sys.argv[1]]))"
        done = run_child(drop + again, path, tmp_path / "x", cwd="/")
        assert done.returncode == 2 and done.stdout.count("num docs") == 1  # the first run's
        assert done.stderr.splitlines()[-1] == f"microgpt: error: {folder}: Permission denied"
        done = run_child(drop + f"Trainer({DOCS!r}, num_steps=5).save(sys.argv[1])", path, tmp_path / "x", cwd="/")
        assert done.stderr.splitlines()[-1] == f"PermissionError: [Errno 13] Permission denied: '{path}'"
        assert path.read_bytes() == before and os.listdir(folder) == ["run.safetensors"]
    finally:
        folder.chmod(0o755)
        shutil.rmtree(folder)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2])
def test_damaged_files_end_in_the_documented_error(seed):
    """Some hundred of them; `python tools/fuzz_checkpoint.py 100000` does more, within a limit on memory."""
    path = ROOT / "tools" / "fuzz_checkpoint.py"
    spec = importlib.util.spec_from_file_location("fuzz_checkpoint", path)
    fuzz = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(fuzz)
    counts = fuzz.fuzz(600, seed)
    assert sum(counts.values()) == 600 and counts["refused"] > 300
