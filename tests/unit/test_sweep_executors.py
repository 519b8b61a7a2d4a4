"""The executors that compute the runs of a sweep: threads, processes, dask, MPI, and some that fail."""
import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor

import pytest
from children import LIMIT, environment
from small_sweeps import DOCS, GRID, by_settings, run_main

from microgpt import Trainer, run_sweep
from microgpt.cli import console
from microgpt.parallel.results import read_results
from microgpt.sweep import make_executor

on_linux = pytest.mark.skipif(sys.platform != "linux", reason="MPI is tested on Linux")
on_posix = pytest.mark.skipif(sys.platform == "win32", reason="no signals to send")


@pytest.fixture
def names(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "names.txt").write_text("\n".join(DOCS))


@pytest.mark.parametrize("docs", [DOCS, [*DOCS, "zoë", "a b"]])
def test_threads_and_processes_have_the_same_bits(docs):
    with ThreadPoolExecutor(3) as threads, ProcessPoolExecutor(2) as processes:
        found = [by_settings(run_sweep(docs, GRID, executor, val_docs=docs[:2])) for executor in (None, threads, processes)]
        assert found[0] == found[1] == found[2]
        assert threads.submit(int, 1).result() == processes.submit(int, 1).result() == 1  # they stay open


class PromptExecutor:
    """Has computed every run before it is asked."""

    def submit(self, function, *arguments):
        future = Future()
        future.set_result(function(*arguments))
        return future


def test_runs_that_have_ended_come_in_the_order_of_the_grid():
    results = run_sweep(DOCS, {"num_steps": 1, "seed": range(20)}, PromptExecutor())
    assert [result.settings["seed"] for result in results] == list(range(20))


class DeadExecutor:
    """An executor that accepts two tasks, computes the first, and has lost its workers after that."""

    tasks = 0

    def submit(self, function, *arguments):
        self.tasks += 1
        future = Future()
        if self.tasks == 1:
            future.set_result(function(*arguments))
        elif self.tasks == 2:
            future.set_exception(OSError("a worker has died"))
        else:
            raise RuntimeError("there is no worker")
        return future


def test_an_executor_that_dies_gives_results_with_errors(tmp_path):
    out = tmp_path / "runs.jsonl"
    results = list(run_sweep(DOCS, GRID, DeadExecutor(), out=out))
    assert sorted(r.error or "" for r in results) == ["", "OSError: a worker has died", *4 * ["RuntimeError: there is no worker"]]
    # These are not the runs' own errors: the next sweep repeats them.
    again = list(run_sweep(DOCS, GRID, out=out))
    assert [r.error for r in again] == 6 * [None] and out.read_text().count("\n") == 1 + 11
    assert by_settings(read_results(out)) == by_settings(again) and len(read_results(out)) == 6  # the last of each


def kill_this_process(*arguments):
    os.kill(os.getpid(), signal.SIGKILL)


@on_posix
def test_a_killed_worker_does_not_hang_the_sweep():
    with ProcessPoolExecutor(1) as executor:  # one worker: what is submitted later waits until it is dead
        executor.submit(kill_this_process)
        results = list(run_sweep(DOCS, GRID, executor))
    assert len(results) == 6 and all(r.error and r.error.startswith("BrokenProcessPool") for r in results)


def test_a_sweep_that_is_given_up_ends_its_threads():
    before = {*threading.enumerate()}
    results = run_sweep(DOCS, {"num_steps": 10**9, "seed": range(4)}, workers=2)
    short = run_sweep(DOCS, [{"num_steps": 1}, {"num_steps": 10**9}], workers=2)
    assert next(short).settings["num_steps"] == 1
    short.close()
    results.close()  # before its first run
    assert before.issuperset(threading.enumerate())


def test_a_sweep_that_is_given_up_saves_no_run_that_has_not_ended(tmp_path, monkeypatch):
    begun, run = threading.Event(), Trainer.run

    def begins(trainer, *arguments, **keywords):
        if trainer.num_steps > 1:
            begun.set()
        return run(trainer, *arguments, **keywords)

    monkeypatch.setattr(Trainer, "run", begins)
    sweep = run_sweep(DOCS, {"num_steps": [1, 10**9]}, workers=2, save_dir=tmp_path)
    done = next(sweep)
    assert begun.wait(LIMIT)
    sweep.close()
    assert [str(path) for path in tmp_path.iterdir()] == [done.path]


@pytest.mark.slow
def test_a_result_that_cannot_be_sent_is_an_error_and_the_process_stays():
    with contextlib.contextmanager(make_executor)("processes", 1) as executor:
        process = executor.submit(os.getpid).result(LIMIT)
        with pytest.raises(TypeError, match="cannot be sent"):
            executor.submit(eval, "lambda: 0").result(LIMIT)
        assert executor.submit(os.getpid).result(LIMIT) == process


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["dask", pytest.param("mpi", marks=on_linux)])
def test_executors_of_several_machines_have_the_same_bits(names, kind):
    launcher = [os.path.join(os.path.dirname(sys.executable), "mpiexec"), "-n", "3"] if kind == "mpi" else []
    module = ["-m", "mpi4py.futures", "-m", "microgpt.sweep"] if kind == "mpi" else ["-m", "microgpt.sweep"]
    command = [*launcher, sys.executable, *module, "--input", "names.txt", "--grid", "steps=12 seed=1..4", "--executor", kind,
               "--workers", "2", "--out", "runs.jsonl"]  # fmt: skip
    with socket.socket() as taken:  # the port of dask's dashboards, by another sweep for example
        with contextlib.suppress(OSError):
            taken.bind(("", 8787))
            taken.listen()
        done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT, env=environment())
    assert done.returncode == 0 and "8787" not in done.stderr, done.stderr
    assert by_settings(read_results("runs.jsonl")) == by_settings(run_sweep(DOCS, {"num_steps": 12, "seed": range(1, 5)}))


@pytest.mark.slow
@on_posix
def test_workers_of_dask_that_replace_killed_ones_leave_interrupts_to_the_command():
    import dask
    import distributed  # noqa: F401  # its settings, which would else be forgotten with this one

    tries = dask.config.set({"distributed.scheduler.allowed-failures": 0})
    with tries, contextlib.contextmanager(make_executor)("dask", 1) as executor:
        killed = executor.submit(os._exit, 1)
        assert type(killed.exception(LIMIT)).__name__ == "KilledWorker"
        assert executor.submit(lambda: signal.getsignal(signal.SIGINT) == signal.SIG_IGN).result(LIMIT)


@pytest.mark.slow
def test_a_scheduler_without_workers_is_said(names, capfd, monkeypatch):
    from distributed import LocalCluster

    say = console.say

    def then_scale(message):
        say(message)
        if cluster.scheduler_address in message:  # that it has no workers; that the runs begin
            cluster.scale(1)

    monkeypatch.setattr(console, "say", then_scale)
    port = {"dashboard_address": "127.0.0.1:0"}
    with LocalCluster(n_workers=0, processes=False, dashboard_address=None, scheduler_kwargs=port) as cluster:
        status, _, err = run_main(capfd, "--input", "names.txt", "--grid", "seed=1", "--steps", "1",
                                  "--executor", cluster.scheduler_address)  # fmt: skip
    assert status == 0 and f"{cluster.scheduler_address} has no workers yet; the runs wait for them\n" in err


def test_a_run_that_its_executor_loses_without_words():
    class Losing(ThreadPoolExecutor):
        def submit(self, *arguments):
            lost = Future()
            lost.cancel()
            lost.set_running_or_notify_cancel()
            return lost

    assert [r.error for r in run_sweep(DOCS, {"seed": 1}, Losing(1))] == ["CancelledError: the executor lost this run"]


@pytest.mark.parametrize("executor, started_by, rank, status, message", [
    ("mpi", "python -m microgpt.sweep", "0", 2, "error: --executor mpi needs workers: mpiexec -n 4 python -m mpi4py.futures"),
    ("mpi", "python -m microgpt.sweep", "1", 2, ""),
    ("threads", "python -m microgpt.sweep", "0", 0, "hint: mpiexec has started 3 processes, each of which makes all runs;"),
    ("threads", "python -m microgpt.sweep", "2", 0, ""),
    ("threads", "python -m mpi4py.futures -m microgpt.sweep", "0", 0, "3 processes, of which --executor mpi would use all")])  # fmt: skip
def test_processes_of_mpiexec_that_share_no_runs_are_told_once(names, capfd, monkeypatch, executor, started_by, rank, status, message):
    monkeypatch.setattr(sys, "orig_argv", started_by.split())
    monkeypatch.setenv("PMI_RANK", rank)
    monkeypatch.setenv("PMI_SIZE", "3")
    found, _, err = run_main(capfd, "--input", "names.txt", "--grid", "seed=1", "--steps", "1", "--executor", executor)
    assert found == status and (message in err if message else "mpiexec" not in err)


@pytest.mark.slow
@on_linux
def test_the_mpi_executor_without_mpiexec_says_how_to_start_it(names):
    done = subprocess.run([sys.executable, "-m", "microgpt.sweep", "--input", "names.txt", "--grid", "seed=1", "--executor", "mpi"],
                          capture_output=True, text=True, timeout=LIMIT, env=environment())  # fmt: skip
    assert done.returncode == 2 and "mpiexec -n 4 python -m mpi4py.futures" in done.stderr.splitlines()[-1]
