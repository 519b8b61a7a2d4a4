"""Processes for the runs of a sweep, each with a thread that waits for it."""
import os
import signal
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import Pipe, get_context
from queue import SimpleQueue

from .sweeps import worker_stop

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Future
    from multiprocessing.connection import Connection
    from typing import Any

__all__ = ["Processes", "begin_worker", "ignore_interrupts"]


class Processes(ThreadPoolExecutor):
    """As ProcessPoolExecutor, but what kills its process, for want of memory for example, fails alone: the next gets a new one.

    Processes are spawned. A fork would copy locks that other threads hold.
    """

    def __init__(self, workers: int) -> None:
        super().__init__(workers, "microgpt-sweep", _hold_interrupts)
        if hasattr(signal, "pthread_sigmask"):
            from multiprocessing.resource_tracker import ensure_running

            ensure_running()  # in a thread that holds interrupts, it would let them through again
        self._ending, self._end = Pipe(duplex=False)  # an Event would wait for workers that were killed
        self._idle: SimpleQueue[ProcessPoolExecutor | None] = SimpleQueue()
        for _ in range(workers):
            self._idle.put(None)  # a process that is not there yet

    def submit(self, function: "Callable[..., Any]", /, *args: "Any", **kwargs: "Any") -> "Future[Any]":
        return super().submit(self._run, function, *args, **kwargs)

    def _run(self, function: "Callable[..., Any]", /, *args: "Any", **kwargs: "Any") -> "Any":
        pool = self._idle.get()
        try:
            if pool is None:
                pool = ProcessPoolExecutor(1, get_context("spawn"), begin_worker, (self._ending,))
            return pool.submit(function, *args, **kwargs).result()
        except BrokenProcessPool:
            pool = None
            raise
        finally:
            self._idle.put(pool)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """As every executor's, but runs that are under way end before their time."""
        self._end.send(None)
        super().shutdown(wait, cancel_futures=cancel_futures)
        while not self._idle.empty():
            pool = self._idle.get()
            if pool is not None:
                pool.shutdown(wait)


def _hold_interrupts() -> None:
    """Hold back Ctrl-C in a thread, and so in the processes that it starts: they cannot ignore it before they have begun."""
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])


def begin_worker(ending: "Connection") -> None:
    """Prepare a process of workers, which ends with the sweep, however that ends.

    ending: can be read when no result is needed any more, after Ctrl-C for example. The workers, to which a terminal sends that
    too, do not answer it: one that dies leaves a pool that may wait for ever. A parent that is killed writes nothing, and ends no
    worker: the pipe of their tasks stays open, as each worker holds it.
    """
    from threading import Thread

    ignore_interrupts()
    Thread(target=_end_with_parent, args=(ending,), daemon=True).start()


def _end_with_parent(ending: "Connection") -> None:
    from multiprocessing import parent_process
    from multiprocessing.connection import wait

    parent = parent_process()
    if parent is not None:
        wait([ending, parent.sentinel])
        worker_stop.stop = "the sweep was ended"
        parent.join()
        os._exit(1)


def ignore_interrupts() -> None:
    """Let Ctrl-C end this process through its parent alone, which says what there is to say."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
