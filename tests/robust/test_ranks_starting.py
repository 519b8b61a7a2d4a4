"""What ends the command of rank 0 before or after the run, while the other ranks wait for it: all of them end, and nothing hangs."""
import os
import signal
import sys
import tempfile

import pytest
from children import run_child
from mpi_jobs import run_ranks

pytestmark = [pytest.mark.slow, pytest.mark.skipif(sys.platform != "linux", reason="MPI is tested on Linux")]

FLAGS = ["--mpi", "--batch-size", "4", "--n-embd", "8", "--steps", "5", "--quiet"]

#: A rank that gets Ctrl-C where `place` is: while it begins MPI, or where rank 0 calls a function of `microgpt.cli.ranks`.
INTERRUPTED = """
import os, signal, sys
from microgpt import train
from microgpt.cli import ranks

which, place = int(sys.argv.pop(1)), sys.argv.pop(1)

def interrupt():
    if os.environ["PMI_RANK"] == str(which):
        os.kill(os.getpid(), signal.SIGINT)

class Importing:
    def find_spec(self, name, *_):
        if name == place:
            interrupt()

sys.meta_path.insert(0, Importing())

def interrupting(function, is_after):
    def call(*arguments):
        if not is_after:
            interrupt()
        found = function(*arguments)
        if is_after:
            interrupt()
        return found
    return call

for module, name in ((ranks, "lead"), (ranks, "let_train"), (ranks, "_follow"), (train.cli, "write_samples")):
    if place.removesuffix(" done") == name:
        setattr(module, name, interrupting(getattr(module, name), place.endswith(" done")))
sys.exit(train.main())
"""


@pytest.mark.parametrize("place", ["mpi4py.MPI", "lead", "lead done", "let_train", "let_train done", "write_samples"])
def test_ctrl_c_outside_of_the_run_ends_all_ranks(place):
    done = run_ranks(3 if place == "lead" else 2, "-c", INTERRUPTED, 0, place, *FLAGS)
    assert done.returncode == 130 and done.stderr.count("microgpt: interrupted\n") == 1, done
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("place", ["mpi4py.MPI", "microgpt.distributed.ranks", "_follow", "_follow done"])
def test_ctrl_c_on_another_rank_is_not_answered(place):
    done = run_ranks(3 if place == "_follow" else 2, "-c", INTERRUPTED, 1, place, *FLAGS)
    assert done.returncode == 0 and "rror" not in done.stderr and "interrupt" not in done.stderr.lower(), done


def test_an_error_that_the_other_ranks_have_no_part_in_ends_them(tmp_path):
    (tmp_path / "odd.txt").write_text("él\n", encoding="utf-8")
    done = run_ranks(3, "-m", "microgpt.train", *FLAGS, "--val", "odd.txt", cwd=tmp_path)
    assert done.returncode == 2 and done.stderr.count("odd.txt, line 1: character 'é'") == 1, done
    assert done.stderr.count("rror") == 1 and "Traceback" not in done.stderr


class One:
    """A communicator of one rank. killed: it is killed while the file of the shared memory has been made, and not mapped yet."""

    def __init__(self, killed=False, elsewhere=False):
        self.killed, self.elsewhere, self.paths = killed, elsewhere, []

    def Get_rank(self):
        return 0

    def bcast(self, place):
        if self.killed:
            os.kill(os.getpid(), signal.SIGKILL)
        if place is None:
            return None
        self.paths.append(place[0])
        # In another container the same number may be another process.
        return ("/proc/self/exe", *place[1:]) if self.elsewhere and "/proc/" in place[0] else place

    def allgather(self, found):
        return [found]


def shared_files():
    folder = "/dev/shm" if os.path.isdir("/dev/shm") else tempfile.gettempdir()
    return {name for name in os.listdir(folder) if name.startswith("microgpt-")}


def test_a_killed_rank_leaves_no_file_of_shared_memory():
    before = shared_files()
    done = run_child("from test_ranks_starting import One; from microgpt.distributed.crew import _shared; _shared(One(killed=True), 4096)",
                     cwd=os.path.dirname(__file__))  # fmt: skip
    assert done.returncode == -signal.SIGKILL, done
    assert shared_files() - before == set()


@pytest.mark.parametrize("obstacle", ["none", "elsewhere", "no O_TMPFILE"])
def test_shared_memory_is_that_of_one_file(monkeypatch, obstacle):
    from microgpt.distributed.crew import _shared

    before, comm = shared_files(), One(elsewhere=obstacle == "elsewhere")
    if obstacle == "no O_TMPFILE":
        monkeypatch.delattr(os, "O_TMPFILE")
    memory = _shared(comm, 3 << 20)
    assert len(memory) == 3 << 20 and memory[:] == bytes(3 << 20)
    memory.close()
    assert [path.startswith("/proc/") for path in comm.paths] == {"none": [True], "elsewhere": [True, False]}.get(obstacle, [False])
    assert shared_files() - before == set()
