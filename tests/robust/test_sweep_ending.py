"""How `microgpt sweep` ends when a process of it is killed or interrupted."""
import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from children import LIMIT, environment

from microgpt.parallel.results import read_results

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="no signals to send")
COMMAND = ["-m", "microgpt", "sweep", "--input", "names.txt", "--workers", "2", "--out", "runs.jsonl", "--executor"]


@pytest.fixture
def start(tmp_path, monkeypatch):
    """Starts a sweep of one run that ends at once and of others that do not, and waits for the first."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "names.txt").write_text("emma\nava\nmia\n" * 10000)  # more than a pipe holds
    started = []

    def run(kind, grid="steps=1,100000000,100000001", wait=True):
        process = subprocess.Popen([sys.executable, *COMMAND, kind, "--grid", grid], stdout=subprocess.PIPE,
                                   stderr=subprocess.PIPE, text=True, start_new_session=True, env=environment())  # fmt: skip
        started.append(process)
        while wait and (not os.path.exists("runs.jsonl") or not read_results("runs.jsonl")):
            assert process.poll() is None
            time.sleep(0.01)
        return process

    yield run
    for process in started:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def workers_of(process):
    """The processes that a sweep has spawned, without the one that multiprocessing itself has."""
    found = []
    with contextlib.suppress(OSError):  # a thread or a process has just ended
        for task in Path(f"/proc/{process.pid}/task").iterdir():
            for child in (task / "children").read_text().split():
                if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes():
                    found.append(int(child))
    return found


@pytest.mark.skipif(sys.platform != "linux", reason="finds children in /proc")
def test_a_killed_worker_loses_its_own_run_alone(start):
    process = start("processes", "steps=1,100000000,100000001,2,3")
    while len(workers := workers_of(process)) < 2:  # it may miss some while others begin or end
        time.sleep(0.01)
    os.kill(workers[0], signal.SIGKILL)
    while len(read_results("runs.jsonl")) < 4:  # what was killed, and what comes after it, in a new process
        assert process.poll() is None
        time.sleep(0.01)
    while process.poll() is None:
        for worker in workers_of(process):
            with contextlib.suppress(ProcessLookupError):
                os.kill(worker, signal.SIGKILL)
        time.sleep(0.01)
    _, err = process.communicate(timeout=LIMIT)
    assert process.returncode == 0 and "2 of 5 runs failed; the first, num_steps=10000000" in err, err
    assert "BrokenProcessPool" in err and "; the same command runs 2 of them again" in err
    assert [r.settings["num_steps"] for r in read_results("runs.jsonl") if r.error is None] == [1, 2, 3]


def test_workers_end_with_a_sweep_that_was_killed(start):
    process = start("processes")
    process.kill()
    process.communicate(timeout=LIMIT)  # which ends when no process has its pipes any more
    assert process.returncode == -signal.SIGKILL


def session_of(process):
    """The processes that a command has started, and that have not ended."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            state, _, _, session = (folder / "stat").read_text().rpartition(")")[2].split()[:4]
            if int(session) == process.pid and state not in "ZX":
                found.append((folder / "cmdline").read_text())
    return found


@pytest.mark.skipif(sys.platform != "linux", reason="finds children in /proc")
@pytest.mark.parametrize("is_early", [False, True])
@pytest.mark.parametrize("to_all", [False, True])
@pytest.mark.parametrize("number, status", [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_the_command_ends_after_its_processes(start, number, status, to_all, is_early):
    process = start("processes", "steps=1,100000000..100000040", wait=not is_early)
    assert not is_early or "executor processes" in process.stderr.readline()  # the workers start
    (os.killpg if to_all else os.kill)(process.pid, number)
    assert process.wait(LIMIT) == status and session_of(process) == []
    assert process.communicate()[1].endswith(f"microgpt: {'interrupted' if status == 130 else 'terminated'}\n")
    assert is_early or [r.settings["num_steps"] for r in read_results("runs.jsonl") if r.error is None] == [1]


@pytest.mark.parametrize("kind, waiting", [("threads", 0), ("threads", 60), ("processes", 0), ("processes", 60),
                                           pytest.param("dask", 60, marks=pytest.mark.slow)])  # fmt: skip
def test_ctrl_c_ends_the_command_and_keeps_what_is_done(start, kind, waiting):
    process = start(kind, f"steps=1,{100000000}..{100000001 + waiting}")
    os.killpg(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=LIMIT)
    assert process.returncode == 130 and err.endswith("microgpt: interrupted\n")
    assert "Traceback" not in err or kind == "dask"  # which logs that it misses its workers
    assert [r.settings["num_steps"] for r in read_results("runs.jsonl")] == [1]
