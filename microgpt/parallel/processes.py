"""Processes for the runs of a sweep, each with a thread that waits for it."""
import signal
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import Pipe, get_context
from queue import SimpleQueue

from .sweeps import end_runs, worker_stop

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Future
    from multiprocessing.connection import Connection
    from typing import Any

__all__ = ["Processes", "ignore_interrupts"]


class Processes(ThreadPoolExecutor):
    """As ProcessPoolExecutor, but what kills its process, for want of memory for example, fails alone: the next gets a new one.

    And a shutdown ends the runs that are under way: a process that is still importing is killed, one that computes is
    interrupted, so that none lives longer than this and none leaves half a file.
    """

    def __init__(self, workers: int) -> None:
        super().__init__(workers, "microgpt-sweep", _hold_interrupts)
        if hasattr(signal, "pthread_sigmask"):
            from multiprocessing.resource_tracker import ensure_running

            ensure_running()  # in a thread that holds interrupts, it would let them through again
        self._ending, self._end = Pipe(duplex=False)  # an Event would wait for workers that were killed
        self._idle: SimpleQueue[_Worker | None] = SimpleQueue()
        for _ in range(workers):
            self._idle.put(None)  # a process that is not there yet

    def submit(self, function: "Callable[..., Any]", /, *args: "Any", **kwargs: "Any") -> "Future[Any]":
        return super().submit(self._run, function, *args, **kwargs)

    def _run(self, function: "Callable[..., Any]", /, *args: "Any", **kwargs: "Any") -> "Any":
        worker = self._idle.get()
        try:
            if worker is None:
                worker = _Worker(self._ending)
            return worker.call(function, args, kwargs)
        except BrokenProcessPool:
            worker = None
            raise
        finally:
            self._idle.put(worker)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """As every executor's, but runs that are under way end before their time."""
        self._end.send(None)
        super().shutdown(wait, cancel_futures=cancel_futures)
        while not self._idle.empty():
            worker = self._idle.get()
            if worker is not None:
                worker.close()
        if wait:
            _end_tracker()


class _Worker:
    """A process that carries out one task after another. It is spawned: a fork would copy locks that other threads hold."""

    def __init__(self, ending: "Connection") -> None:
        """ending: can be read when no result is needed any more, after Ctrl-C for example."""
        context = get_context("spawn")
        self.tasks, theirs = context.Pipe()
        self.ending, self.is_ready = ending, False
        self.process = context.Process(target=work, args=(theirs, ending), daemon=True)
        self.process.start()
        theirs.close()  # the process alone has it, so we read its end

    def call(self, function: "Callable[..., Any]", args: "tuple[Any, ...]", kwargs: "dict[str, Any]") -> "Any":
        """Return function(*args, **kwargs) of the process, or raise what it raises. Raises BrokenProcessPool if it has ended."""
        from multiprocessing.connection import wait

        try:
            if not self.is_ready:
                if self.tasks not in wait([self.tasks, self.ending]):
                    self.process.kill()  # it imports, which nothing can interrupt
                self.is_ready = self.tasks.recv()
            self.tasks.send((function, args, kwargs))
            is_well, found = self.tasks.recv()
        except (EOFError, OSError):
            self.close()
            raise BrokenProcessPool("the process of this run has ended before it") from None
        if not is_well:
            raise found
        return found

    def close(self) -> None:
        """Let the process end, and wait for that."""
        self.tasks.close()
        self.process.join()
        self.process.close()


def _hold_interrupts() -> None:
    """Hold back Ctrl-C in a thread, and so in the processes that it starts: they cannot ignore it before they have begun."""
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])


def _end_tracker() -> None:
    """End the process that multiprocessing has beside those that it spawns, which else outlives this one for a moment."""
    from multiprocessing import resource_tracker

    stop = getattr(getattr(resource_tracker, "_resource_tracker", None), "_stop", None)
    if stop is not None:
        stop()


def work(tasks: "Connection", ending: "Connection") -> None:
    """Carry out the tasks of `_Worker.call` in a process, until there are no more or the sweep ends, however that ends.

    A terminal sends Ctrl-C to the process, too, which does not answer it: its parent does.
    """
    from threading import Thread

    is_running = False

    def interrupt(number: int, frame: object) -> None:
        if is_running and worker_stop.stop:  # `_watch` sent it
            raise KeyboardInterrupt

    signal.signal(signal.SIGINT, interrupt)
    Thread(target=_watch, args=(ending,), daemon=True).start()
    try:
        tasks.send(True)
        while True:
            function, args, kwargs = tasks.recv()
            is_running = True  # before stop is read: the interrupt that comes with it is raised from here on
            if worker_stop.stop:
                return
            try:
                answer = True, function(*args, **kwargs)
            except Exception as error:
                answer = False, error
            finally:
                is_running = False
            try:
                tasks.send(answer)
            except (EOFError, OSError):
                raise
            except Exception as error:  # it cannot be pickled
                tasks.send((False, TypeError(f"what the run gave cannot be sent: {error!r}, {answer[1]!r}")))
    except (EOFError, OSError, KeyboardInterrupt):
        pass  # the parent has closed the pipe, was killed, or ends the sweep


def _watch(ending: "Connection") -> None:
    """Interrupt the main thread when ending can be read, or the parent has ended, which writes nothing if it is killed."""
    from _thread import interrupt_main
    from multiprocessing import parent_process
    from multiprocessing.connection import wait

    parent = parent_process()
    if parent is not None:
        wait([ending, parent.sentinel])
        end_runs()
        interrupt_main()


def ignore_interrupts() -> None:
    """Let Ctrl-C end this process through its parent alone, which says what there is to say."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
