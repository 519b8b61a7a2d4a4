"""The threads of a trainer: started when needed, ended with it, gone and back in a forked process."""
import gc
import os
import sys
import threading
import time
from pathlib import Path

import pytest
from children import LIMIT, child
from conftest import hexes

from microgpt import Trainer

DOCS = ["emma", "olivia", "ava", "isabella"]
pytestmark = pytest.mark.usefixtures("share_all")

SHAPE = dict(num_steps=10**6, batch_size=4, n_embd=8, n_head=2, block_size=8)


def trainer_with(threads):
    return Trainer(DOCS, threads=threads, **SHAPE)


class NewThreads:
    """Those that this process has started since. Others, of earlier tests, may end meanwhile."""

    def __init__(self):
        self.others = {*os.listdir("/proc/self/task")}

    def __call__(self):
        return {*os.listdir("/proc/self/task")} - self.others

    def assert_running(self, count):
        """The system lists a thread for a moment after it was joined."""
        deadline = time.monotonic() + LIMIT
        while len(self()) > count and time.monotonic() < deadline:
            time.sleep(0.001)
        assert len(self()) == count

    def fields(self):
        """What the system says of each, from its state on."""
        return [Path(f"/proc/self/task/{thread}/stat").read_text().rpartition(")")[2].split() for thread in self()]

    def ticks(self):
        """Their processor time, usually in hundredths of a second."""
        return sum(int(fields[11]) + int(fields[12]) for fields in self.fields())


needs_proc = pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="reads /proc")


@needs_proc
def test_threads_start_with_work_and_end_with_the_trainer():
    new = NewThreads()
    trainer = trainer_with(4)
    new.assert_running(0)  # none is taken before there is work
    trainer.run(1)
    new.assert_running(3)
    trainer.threads = 2
    new.assert_running(0)
    trainer.run(1)
    new.assert_running(1)
    del trainer
    gc.collect()
    new.assert_running(0)


@needs_proc
def test_many_samples_are_work_for_threads():
    new, trainer = NewThreads(), trainer_with(3)
    trainer.sample(20)
    new.assert_running(0)
    trainer.sample(400)
    new.assert_running(2)


@needs_proc
@pytest.mark.slow
@pytest.mark.measures_memory
def test_a_thousand_pools_leave_nothing():
    def resident():
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    def use(count):
        for _ in range(count):
            trainer_with(3).run(1)
        gc.collect()

    new = NewThreads()
    use(200)
    warm = resident()
    use(1000)
    new.assert_running(0)
    assert resident() - warm < 4 << 20


@needs_proc
def test_idle_threads_sleep():
    new, trainer = NewThreads(), trainer_with(3)
    trainer.run(5)
    while {fields[0] for fields in new.fields()} != {"S"}:  # they spin at first, for much less
        assert new.ticks() < 100
        time.sleep(0.001)
    before = new.ticks()
    time.sleep(0.3)
    new.assert_running(2)
    assert new.ticks() - before <= 5


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_forked_process_starts_threads_of_its_own():
    trainer = trainer_with(3)
    trainer.run(2)
    twin = trainer_with(1)
    twin.run(2)
    expected = hexes(twin.run(3))
    read, write = os.pipe()
    child = os.fork()
    if not child:
        try:
            os.write(write, ",".join(hexes(trainer.run(3))).encode())
        finally:
            os._exit(0)
    os.close(write)
    with os.fdopen(read) as found:
        assert found.read() == ",".join(expected)
    assert os.waitpid(child, 0)[1] == 0
    assert hexes(trainer.run(3)) == expected  # and the parent's are as before


def test_trainers_with_threads_in_threads():
    expected = hexes(trainer_with(1).run(20))
    found = {}

    def work(i):
        found[i] = hexes(trainer_with(2).run(20))

    workers = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [found[i] for i in range(4)] == [expected] * 4


@pytest.mark.parametrize("threads", [-1, 1.5, "two", None, 4097, 10**30])
def test_what_is_no_number_of_threads(threads):
    with pytest.raises((ValueError, TypeError), match="threads"):
        Trainer(DOCS, num_steps=1, threads=threads)


def test_all_processors():
    trainer = Trainer(DOCS, num_steps=1, threads=0)
    assert trainer.threads == len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else trainer.threads >= 1


NO_ROOM = """
import resource
from microgpt import NoThreadError, Trainer
from microgpt.core import fused
fused.LEAST_SHARED_WORK = 0.0
trainer = Trainer(["emma", "ava"], threads=100, num_steps=1, batch_size=200, n_embd=8, n_head=2, block_size=8)
pages = int(open("/proc/self/statm").read().split()[0])
room = pages * resource.getpagesize() + (64 << 20)  # not for the stacks of a hundred threads
resource.setrlimit(resource.RLIMIT_AS, (room, room))
try:
    trainer.run()
except NoThreadError as error:
    print(error)
"""


@pytest.mark.slow
@pytest.mark.measures_memory
@pytest.mark.skipif(sys.platform != "linux", reason="limits address space")
def test_threads_that_do_not_start_are_an_error_of_their_own():
    assert child(NO_ROOM) == "the system starts no more threads: use fewer\n"
