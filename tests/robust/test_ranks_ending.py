"""Ranks that fail, are interrupted, disagree or are killed: all of them end, with one message, and nothing hangs."""
import signal
import subprocess
import sys

import numpy as np
import pytest
from children import LIMIT
from conftest import environment
from mpi_jobs import digest, mpiexec, run_ranks, run_tasks

from microgpt import Trainer
from microgpt.storage.checkpoint import read_about

pytestmark = [pytest.mark.slow, pytest.mark.skipif(sys.platform != "linux", reason="MPI is tested on Linux")]

DOCS = ["emma", "olivia", "ava", "isabella", "sophia", "mia", "amelia"]
SETTINGS = dict(n_embd=8, n_head=2, n_layer=1, block_size=5, num_steps=6, batch_size=4)
TRAIN = ["-m", "microgpt.train", "--mpi", "--batch-size", "4", "--n-embd", "8"]


@pytest.mark.parametrize("engine, messages", [("fused", False), ("fused", True), ("graph", False)])
def test_what_ends_the_run_of_one_rank_ends_that_of_all(tmp_path, engine, messages):
    """A callback of rank 0 stops, or raises; a model diverges; and then the same ranks train on."""
    common = dict(docs=DOCS, settings=SETTINGS, engine=engine, messages=messages)
    tasks = [dict(common, stop=[2]), dict(common, stop=[3, "disk full"]), dict(common, scale=2000.0),
             dict(common, stop=[2], again=2)]  # fmt: skip
    stopped, raised, diverged, again = run_tasks(tmp_path, 3, tasks)
    twin = Trainer(DOCS, **SETTINGS)
    losses = [loss.hex() for loss in twin.run()]
    for rank in range(3):
        assert stopped[rank]["step"] == 2 and stopped[rank]["losses"] == losses[:2]
        assert raised[rank]["step"] == 3 and raised[rank]["params"] == raised[0]["params"]
        assert diverged[rank]["step"] == 0 and diverged[rank]["grad"] == [(0.0).hex()]
        assert diverged[rank]["error"].startswith("DivergedError: the run diverged at step 1: the model gave a token")
        assert again[rank]["again"] == losses[2:4]
    assert raised[0]["error"] == "OSError: disk full"
    assert {raised[rank]["error"] for rank in (1, 2)} == {"RuntimeError: rank 0 failed: OSError: disk full"}


def test_ranks_that_disagree_are_told_so(tmp_path):
    common = dict(docs=DOCS, settings=SETTINGS)
    tasks = [dict(common, rank_settings={"1": {"learning_rate": 0.5}}), dict(common, rank_settings={"1": {"seed": 1}})]
    rate, seed = run_tasks(tmp_path, 2, tasks)
    for rank in (0, 1):
        assert rate[rank]["error"].startswith("ValueError: the ranks disagree on learning_rate: ")
        assert seed[rank]["error"].startswith("ValueError: the ranks disagree on seed: ")
        assert rate[rank]["step"] == seed[rank]["step"] == 0


def test_a_checksum_tells_apart_what_ranks_may_disagree_on():
    from microgpt.distributed.ranks import _checksum

    values = np.arange(1.0, 9.0)
    others = [values[[1, 0, *range(2, 8)]], values * [-1, -1, 1, 1, 1, 1, 1, 1], np.nextafter(values, values > 7), np.zeros(8), -values]
    assert len({_checksum(array) for array in (values, *others)}) == 1 + len(others)
    assert _checksum(values) == _checksum(values.copy())


@pytest.mark.parametrize("messages", [False, True])
@pytest.mark.parametrize("rank", [0, 1])
def test_an_interrupt_on_any_rank_ends_the_run_of_all(tmp_path, rank, messages):
    settings = dict(SETTINGS, num_steps=10**6)
    found = run_tasks(tmp_path, 2, [dict(docs=DOCS, settings=settings, interrupt=rank, again=3, messages=messages)])[0]
    assert [f["error"].split(":")[0] for f in found] == ["KeyboardInterrupt"] * 2
    assert found[0]["step"] == found[1]["step"] > 0
    assert found[0]["params"] == found[1]["params"] and found[0]["again"] == found[1]["again"]
    twin = Trainer(DOCS, **settings)
    twin.run(found[0]["step"])
    assert digest(twin.parameters) == found[0]["params"]


#: For a thread of a rank: Ctrl-C, and once that was heard, again. mpiexec would pass on the first, and kill at the second.
INTERRUPTS = """
import os, signal, threading, time

def interrupt_twice(own):
    os.kill(os.getpid(), signal.SIGINT)
    while own.interrupt is None:
        time.sleep(0.01)
    time.sleep(0.1)
    os.kill(os.getpid(), signal.SIGINT)
"""

NEVER_COMES = INTERRUPTS + """
from mpi4py import MPI
from microgpt import Trainer
comm = MPI.COMM_WORLD
trainer = Trainer(["emma", "ava"], comm=comm)
if comm.Get_rank():
    time.sleep(1000)
own = trainer._ranks
begin = own._begin

def begins(*arguments):
    threading.Thread(target=interrupt_twice, args=(own,), daemon=True).start()
    begin(*arguments)

own._begin = begins
trainer.run()
"""


def test_an_interrupted_rank_does_not_wait_for_one_that_never_comes():
    done = run_ranks(2, "-c", NEVER_COMES)
    assert done.returncode != 0 and "left the others, so all end: KeyboardInterrupt" in done.stderr, done


BREAKS = """
from mpi4py import MPI
from microgpt import Trainer
from microgpt.distributed import crew
crew.SHARES_MEMORY = False
trainer = Trainer(["emma", "ava"], comm=MPI.COMM_WORLD, batch_size=2)

def fail(chunk):
    raise MemoryError("in the middle of a step")

if MPI.COMM_WORLD.Get_rank():
    trainer._ranks.chain.part.add = fail
trainer.run()
"""


def test_a_rank_that_fails_where_the_others_wait_for_it_ends_the_job():
    done = run_ranks(3, "-c", BREAKS)
    assert done.returncode != 0
    assert "left the others, so all end: MemoryError: in the middle of a step" in done.stderr


LAST_WORDS = """
from types import SimpleNamespace
import sys
from microgpt.distributed import ranks

def sleep(seconds):
    print("waits", seconds > 0)
    raise KeyboardInterrupt

ranks.time = SimpleNamespace(sleep=sleep)
sys.stderr = SimpleNamespace(write=print, flush=lambda: print("flushes"))
comm = SimpleNamespace(Abort=lambda status: print("ends with", status))
try:
    ranks.Ranks._abort(SimpleNamespace(rank=1, comm=comm), MemoryError("none is left"))
except KeyboardInterrupt:
    print("interrupted")
sys.stderr = sys.__stderr__
"""


def test_a_rank_that_ends_the_job_waits_after_its_last_words():
    """The launcher needs time to read them. A second interrupt shortens the wait, and the job ends all the same."""
    said, _, *others = run_ranks(1, "-c", LAST_WORDS).stdout.splitlines()
    assert said.endswith("left the others, so all end: MemoryError: none is left")
    assert others == ["flushes", "waits True", "ends with 1", "interrupted"]


STOPS = INTERRUPTS + """
from mpi4py import MPI
from microgpt import Callback, Checkpointer, Trainer
from microgpt.distributed import ranks
ranks.PATIENCE = 2.0
trainer = Trainer(["emma", "olivia", "ava", "isabella", "sophia"], comm=MPI.COMM_WORLD, batch_size=3, num_steps=10**6)

neighbour = MPI.COMM_WORLD.bcast(os.getpid(), 1)

def stop():
    os.kill(neighbour, signal.SIGSTOP)
    own, before = trainer._ranks, None
    while before is None or before != own.before:  # until this rank waits in the middle of a step
        before = own.before
        time.sleep(0.2)
    interrupt_twice(own)

class Stop(Callback):
    every = 1

    def on_check(self, trainer, record):
        if trainer.step_index == 50:
            threading.Thread(target=stop, daemon=True).start()

trainer.run(callbacks=[Stop(), Checkpointer("run.safetensors")])
"""


def test_a_rank_whose_neighbour_has_stopped_saves_a_whole_step(tmp_path):
    """The other rank does not even run; in the memory that both share, its part of a step is missing."""
    with subprocess.Popen(mpiexec(2, "-c", STOPS), stderr=subprocess.PIPE, text=True, env=environment(), cwd=tmp_path) as process:
        try:
            _, err = process.communicate(timeout=LIMIT)
        finally:
            process.kill()
    assert "left the others, so all end: KeyboardInterrupt" in err, err
    saved = Trainer.load(tmp_path / "run.safetensors")
    twin = Trainer(["emma", "olivia", "ava", "isabella", "sophia"], batch_size=3, num_steps=10**6)
    twin.run(saved.step_index)
    assert saved.step_index >= 50 and digest(saved.parameters) == digest(twin.parameters)
    assert digest(saved.adam.m) == digest(twin.adam.m)


NEVER_ENDS = """
import os, signal, time
from mpi4py import MPI
from microgpt import Trainer
from microgpt.distributed import ranks
ranks.PATIENCE = 0.3
trainer = Trainer(["emma", "ava"], comm=MPI.COMM_WORLD, batch_size=2, num_steps=100)
losses = trainer.run(3)
own = trainer._ranks
if not MPI.COMM_WORLD.Get_rank():
    def train(docs, tokenizer, losses, batch_size):  # as if another rank did not end the update of the third step
        own.engine.adam.step_index += 2
        losses += [1.0, 2.0]
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(100)

    own.crew.train, own._abort = train, lambda error: None
    before = bytes(trainer.parameters)
    try:
        trainer.run()
    except KeyboardInterrupt:
        with open("seen.txt", "w") as file:  # the launcher may end before it has read what a rank printed
            print(trainer.step_index, trainer.last_losses == [], bytes(trainer.parameters) == before, file=file)
    MPI.COMM_WORLD.Abort(7)
trainer.run()
"""


def test_a_rank_that_waits_for_an_update_in_vain_goes_back(tmp_path):
    done = run_ranks(2, "-c", NEVER_ENDS, cwd=tmp_path)
    assert done.returncode == 7, done
    assert (tmp_path / "seen.txt").read_text(encoding="utf-8").split() == ["3", "True", "True"], done


def test_memory_that_there_is_no_room_for_is_not_shared(tmp_path):
    code = ("import errno, os; from mpi4py import MPI; from microgpt import Trainer\n"
            "def write(*arguments): raise OSError(errno.ENOSPC, 'no space')\n"
            "trainer = Trainer(['emma', 'ava'], comm=MPI.COMM_WORLD, batch_size=2, num_steps=2); real, os.write = os.write, write\n"
            "losses = trainer.run(); os.write = real\n"
            "print(trainer._ranks.crew, losses == Trainer(['emma', 'ava'], batch_size=2, num_steps=2).run())\n")  # fmt: skip
    done = run_ranks(2, "-c", code)
    assert done.stdout.count("None") == done.stdout.count("True") == 2, done  # the lines of two ranks, perhaps in each other


def test_objects_that_are_no_communicator():
    code = ("from mpi4py import MPI; from microgpt import Trainer\n"
            "for comm in (1, 'world', MPI.COMM_NULL, MPI.COMM_WORLD.Get_group()):\n"
            "    try: Trainer(['emma'], comm=comm)\n"
            "    except TypeError as error: print(error)\n")  # fmt: skip
    done = run_ranks(1, "-c", code)
    assert done.stdout.count("comm must be an intracommunicator of mpi4py, such as MPI.COMM_WORLD, not ") == 4, done


# ---- the command ----


def start(tmp_path, *flags, ranks=2):
    return subprocess.Popen(mpiexec(ranks, *TRAIN, *flags), cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                            env=environment())  # fmt: skip


def wait_for_steps(process, count=20):
    for line in process.stdout:
        if line.startswith(f"step {count:4d} "):
            return
    raise AssertionError(process.stderr.read())


@pytest.mark.parametrize("number, status", [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_saves_once_and_ends_all_ranks(tmp_path, number, status):
    with start(tmp_path, "--steps", "1000000", "--save", "run.safetensors", ranks=3) as process:
        try:
            wait_for_steps(process)
            process.send_signal(number)
            _, err = process.communicate(timeout=LIMIT)
        finally:
            process.kill()
    assert process.returncode == status and "Traceback" not in err
    assert err.count("microgpt: saved step ") == 1
    assert err.count("interrupted") + err.count("terminated") == 1
    assert read_about(tmp_path / "run.safetensors")["step_index"] >= 20


def children_of(pid):
    """The processes below pid, by /proc."""
    found = []
    with open(f"/proc/{pid}/task/{pid}/children", encoding="ascii") as file:
        for child in map(int, file.read().split()):
            found += [child, *children_of(child)]
    return found


def is_rank(pid):
    with open(f"/proc/{pid}/cmdline", "rb") as file:
        words = file.read().split(b"\0")
    return words[:1] == [sys.executable.encode()]


@pytest.mark.parametrize("which", [0, 1])
def test_a_killed_rank_ends_the_job_and_the_last_checkpoint_stays(tmp_path, which):
    with start(tmp_path, "--steps", "1000000", "--save", "run.safetensors", "--save-every", "10") as process:
        try:
            wait_for_steps(process)
            ranks = sorted(pid for pid in children_of(process.pid) if is_rank(pid))
            assert len(ranks) == 2
            subprocess.run(["kill", "-KILL", str(ranks[which])], check=True)
            process.communicate(timeout=LIMIT)
        finally:
            process.kill()
    assert process.returncode != 0
    names = Trainer.load(tmp_path / "run.safetensors")
    assert names.step_index >= 10 and names.step_index % 10 == 0


@pytest.mark.parametrize("flags, status, message", [
    (["--steps", "x"], 2, "argument --steps: invalid int value: 'x'"),
    (["--input", "none.txt"], 2, "none.txt: No such file or directory"),
    (["--n-head", "3"], 2, "must be a multiple of n_head"),
    (["--save", "none/run.safetensors"], 2, "No such f"),
    (["--init-std", "100"], 3, "the run diverged at step 1"),
])  # fmt: skip
def test_errors_are_said_once(tmp_path, flags, status, message):
    done = run_ranks(3 if status == 3 else 2, *TRAIN, *flags, cwd=tmp_path)
    assert done.returncode == status and done.stderr.count(message) == 1, done.stderr
    assert done.stderr.count("rror") <= 1 and "Traceback" not in done.stderr


def test_the_command_prints_the_same_on_any_number_of_ranks(tmp_path, command):
    (tmp_path / "input.txt").write_text("\n".join(DOCS * 5), encoding="utf-8")
    flags = ["--steps", "12", "--batch-size", "5", "--n-embd", "8", "--val-fraction", "0.3", "--val-every", "4",
             "--patience", "1", "--learning-rate", "0.3"]  # fmt: skip
    alone = command("-m", "microgpt.train", *flags, "--save", "0.safetensors", "--log", "0.jsonl")
    assert alone.returncode == 0, alone.stderr
    for ranks in (1, 2, 3):
        done = run_ranks(ranks, "-m", "microgpt.train", "--mpi", *flags, "--threads", str(ranks), "--save", f"{ranks}.safetensors", "--log",
                         f"{ranks}.jsonl", cwd=tmp_path)  # fmt: skip
        assert (done.returncode, done.stdout) == (0, alone.stdout), done.stderr
        assert done.stderr.count("saved step") == 1
        one, many = ((tmp_path / f"{n}.safetensors").read_bytes() for n in (0, ranks))
        assert one == many
    done = run_ranks(2, "-m", "microgpt.train", "--mpi", "--resume", "0.safetensors", "--samples", "3", cwd=tmp_path)
    assert done.returncode == 0, done.stderr


def test_ranks_without_the_flag_are_told_of_it_once():
    done = run_ranks(2, "-m", "microgpt.train", "--steps", "1", "--samples", "0")
    assert done.returncode == 0 and done.stderr.count("hint: mpiexec has started 2 processes") == 1, done.stderr
    done = run_ranks(2, *TRAIN, "--steps", "1", "--samples", "0")
    assert done.returncode == 0 and "mpiexec has" not in done.stderr


@pytest.mark.parametrize("launcher", ["PMI", "OMPI_COMM_WORLD"])
@pytest.mark.parametrize("size, rank, hints", [("3", "0", 1), ("3", "2", 0), ("1", "0", 0), ("many", "0", 0), ("3", "", 0)])
def test_the_first_of_several_ranks_hints_at_the_flag(monkeypatch, in_process, launcher, size, rank, hints):
    monkeypatch.setenv(f"{launcher}_SIZE", size)
    monkeypatch.setenv(f"{launcher}_RANK", rank)
    done = in_process("train", "--steps", "1", "--samples", "0")
    assert done.returncode == 0 and done.stderr.count("hint: mpiexec") == hints


def test_without_mpi4py_the_flag_says_what_to_install(command):
    code = "import sys; sys.modules['mpi4py'] = None\nfrom microgpt.train import main\nsys.exit(main(['--mpi']))"
    done = command("-c", code)
    assert done.returncode == 2 and "pip install 'microgpt-exact[mpi]'" in done.stderr


def test_nothing_of_it_is_imported_by_default(command):
    code = ("import sys; from microgpt.train import main; main(['--steps', '1', '--batch-size', '2'])\n"
            "assert not [name for name in sys.modules if 'mpi' in name.split('.') or 'distributed' in name]")  # fmt: skip
    done = command("-c", code)
    assert done.returncode == 0, done.stderr
