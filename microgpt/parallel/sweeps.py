"""Many runs: one for each configuration of a grid, on any `concurrent.futures.Executor`.

What people do with small models is many runs: seeds, learning rates, sizes. Each run here is an ordinary `Trainer`, so
its bits do not depend on the executor, on the number of workers or on the order in which runs end.
"""
import errno
import itertools
import math
import os
import time

from ..config import DEFAULTS, Config
from ..data import check_docs, docs_digest
from ..trainer import Callback
from ..trainer.corpus import Corpus
from .results import SweepResult, as_read, open_results, record, run_key, whole_settings

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from concurrent.futures import Executor
    from typing import Any

    from .._types import Path
    from .results import ResultsFile

    Grid = Mapping[str, Any] | Iterable[Mapping[str, Any]]
    Runs = dict[str, tuple[dict[str, Any], Config | Exception]]
    Task = tuple[Config, Corpus, list[str] | None, str | None]
else:
    Runs = dict

__all__ = ["configurations", "run_sweep"]

#: Ends the runs of this process, if it is a worker: see `end_runs`.
worker_stop = Callback()

#: Runs that may wait in an executor at a time: each carries the text, which an executor of several machines copies.
MAX_PENDING = 256


def configurations(grid: "Grid") -> "list[dict[str, Any]]":
    """Return the configurations of a grid: every combination of its values, the last setting changing fastest.

    Parameters
    ----------
    grid : mapping or iterable of mappings
        Names of settings (those of `Config`) to a value or an iterable of values. Several mappings follow one another;
        a run that comes twice, in whatever words, is there once.

    Raises
    ------
    ValueError, TypeError
        For a name that is not a setting, a setting without values, or what is not a mapping.

    Examples
    --------
    >>> configurations({"seed": range(2), "n_embd": (16, 32), "num_steps": 100})[1]
    {'seed': 0, 'n_embd': 32, 'num_steps': 100}
    """
    return [settings for settings, _ in planned(grid).values()]


class Plan(Runs):
    """The runs of a grid as `configurations` has them: its settings, and their `Config` or why there is none.

    By `run_key` of all settings of the run, without an engine.
    """


def planned(grid: "Grid | Plan") -> Plan:
    """Return the runs of a grid; of a Plan itself."""
    if isinstance(grid, Plan):
        return grid
    found = Plan()
    for one in [grid] if isinstance(grid, str) or not hasattr(grid, "__iter__") or hasattr(grid, "keys") else grid:
        if not hasattr(one, "items"):
            raise TypeError(f"a grid must be a mapping of settings to their values, or several of them, not {one!r}")
        axes = []
        for name, values in one.items():
            if name not in DEFAULTS:
                raise ValueError(f"{name!r} is no setting; a grid may have {', '.join(DEFAULTS)}")
            is_one = isinstance(values, (str, bytes)) or not getattr(values, "ndim", 1)  # an array of no dimension is a number
            values = list(values) if hasattr(values, "__iter__") and not is_one else [values]
            if not values:
                raise ValueError(f"the grid has no values of {name}")
            axes.append([(name, value) for value in values])
        for chosen in itertools.product(*axes):
            settings = dict(chosen)
            try:
                config: Config | Exception = Config(**settings)
            except (TypeError, ValueError) as error:  # such as n_embd 16 with 3 heads
                config = error
            whole = whole_settings(settings, config)
            found.setdefault(run_key(whole if isinstance(config, Config) else as_read(whole), ""), (settings, config))
    return found


def run_sweep(
    docs: "Sequence[str]",
    grid: "Grid",
    executor: "Executor | None" = None,
    *,
    engine: str = "fused",
    val_docs: "Sequence[str] | None" = None,
    workers: "int | None" = None,
    out: "Path | None" = None,
    save_dir: "Path | None" = None,
) -> "Iterator[SweepResult]":
    """Train once for each configuration of a grid; yield each result as its run ends.

    A run that fails is a result with its error, and the sweep goes on.

    Parameters
    ----------
    docs : sequence of str
        The documents, as for a `Trainer`.
    grid : mapping or iterable of mappings
        See `configurations`. Settings that it does not name have the script's values.
    executor : concurrent.futures.Executor, optional
        Where the runs are computed; it stays open. By default threads of this process, since training releases the GIL.
        An executor of other processes or machines needs this package there.
    engine : {"fused", "graph", "reference"}
        All three compute the same bits.
    val_docs : sequence of str, optional
        Documents on which every model is measured at its end: see `split_docs`.
    workers : int, optional
        Threads, where there is no executor; by default one for each core that this process may use.
    out : path, optional
        A file of results as JSON lines, written as the runs end. If it exists, its runs are not run again but yielded
        first: so an interrupted sweep continues where it was.
    save_dir : path, optional
        An existing folder for a checkpoint of each run; runs of `out` whose checkpoint is not there are repeated.

    Yields
    ------
    SweepResult

    Raises
    ------
    ValueError, TypeError
        In one line, for documents, names or arguments that no sweep can have; before anything is run.
    LogError
        If `out` is not a file of results, or one of other text.
    OSError
        If `out` cannot be written.

    Examples
    --------
    >>> from microgpt.parallel.results import rank
    >>> grid = {"num_steps": 10, "learning_rate": [0.01, 0.1], "seed": range(3)}
    >>> results = list(run_sweep(["emma", "ava", "mia"], grid))
    >>> len(results), rank(results)[0].runs
    (6, 3)
    """
    from ..config import whole_number
    from ..engines import engine_class

    engine_class(engine)
    docs = check_docs(docs, "train on")
    val_docs = None if val_docs is None else check_docs(val_docs, "evaluate")
    workers = None if workers is None else whole_number("workers", workers, 1)
    if executor is not None and (isinstance(executor, type) or not hasattr(executor, "submit")):
        raise TypeError(f"executor must be a concurrent.futures.Executor, not {executor!r}")
    if save_dir is not None:
        check_folder(save_dir)
    plan = planned(grid)
    digest = docs_digest(docs if val_docs is None else [*docs, "\n", *val_docs])
    kept, file = open_results(out, digest) if out is not None else ([], None)
    return _run_sweep(docs, plan, executor, engine, val_docs, workers, kept, file, save_dir)


def _run_sweep(
    docs: "list[str]",
    plan: Plan,
    executor: "Executor | None",
    engine: str,
    val_docs: "list[str] | None",
    workers: "int | None",
    kept: "list[SweepResult]",
    file: "ResultsFile | None",
    save_dir: "Path | None",
) -> "Iterator[SweepResult]":
    """The generator of `run_sweep`, whose arguments are checked."""
    known = {run_key(result.settings, ""): result for result in kept if result.engine == engine and result.is_final}
    own = None
    stop = Callback()  # ends the runs of threads of our own, which no signal can reach
    try:
        todo: list[Config] = []
        for key, (settings, config) in plan.items():
            if isinstance(config, Exception):
                result = SweepResult(whole_settings(settings, config), engine, error=_words(config))
                yield result if key in known else record(file, result)
                continue
            done = known.get(key)
            path = _checkpoint(save_dir, config)
            if done is not None and (path is None or done.error is not None or os.path.exists(path)):
                yield done
            else:
                todo.append(config)
        if not todo:
            return
        if executor is None:
            from concurrent.futures import ThreadPoolExecutor

            executor = own = ThreadPoolExecutor(min(workers or available_cores(), len(todo)), "microgpt-sweep")
        corpus = Corpus(docs, engine)
        tasks = [(config, corpus, val_docs, _checkpoint(save_dir, config)) for config in todo]
        for result in _results(executor, tasks, stop if own else None):
            yield record(file, result)
    finally:
        stop.stop = "the sweep was ended"
        if own is not None:
            own.shutdown(cancel_futures=True)
        if file is not None:
            file.close()


def _results(executor: "Executor", tasks: "list[Task]", stop: "Callback | None") -> "Iterator[SweepResult]":
    """Yield the results of tasks as they end, a few hundred in the executor at a time."""
    from queue import SimpleQueue

    waiting = iter(tasks)
    pending: dict[Any, Task] = {}  # by Future
    ended: SimpleQueue[Any] = SimpleQueue()  # wait() would look at each that is pending, for each result
    extra = () if stop is None else (stop,)
    try:
        while True:
            for task in itertools.islice(waiting, MAX_PENDING - len(pending)):
                try:
                    future = executor.submit(run_task, *task, *extra)
                except Exception as error:  # the executor's own: it is broken or shut down
                    yield _failed(task, error)
                else:
                    pending[future] = task
                    future.add_done_callback(ended.put)
            if not pending:
                return
            future = ended.get()
            task = pending.pop(future)
            try:
                result = future.result()
            except Exception as error:  # such as a worker that was killed
                result = _failed(task, error)
            yield result
    finally:
        for future in pending:
            future.cancel()


def run_task(
    config: Config,
    corpus: Corpus,
    val_docs: "list[str] | None",
    path: "str | None",
    stop: "Callback | None" = None,
) -> SweepResult:
    """Train one run in a worker; return its result, also of one that fails.

    path: where to save the run. stop: ends it early; then nothing is measured or saved, and the result is dropped.
    """
    stop, started, engine = stop or worker_stop, time.perf_counter(), corpus.engine
    try:
        trainer = corpus.trainer(config)
        losses = trainer.run(callbacks=[stop])
        if stop.stop:
            raise RuntimeError(stop.stop)
        val_loss = None if val_docs is None else trainer.evaluate(val_docs).loss
        if path is not None:
            trainer.save(path)
    except Exception as error:
        return SweepResult(config.as_dict(), engine, seconds=time.perf_counter() - started, error=_words(error))
    last = losses[-max(1, len(losses) // 10) :] or [math.nan]
    loss, seconds = sum(last) / len(last), time.perf_counter() - started
    return SweepResult(config.as_dict(), engine, last[-1], loss, val_loss, seconds, path)


def end_runs() -> None:
    """End the runs of this process, a worker of a sweep that has ended, each after the step that it computes."""
    worker_stop.stop = "the sweep was ended"


def available_cores() -> int:
    """Return the number of cores that this process may use."""
    if hasattr(os, "process_cpu_count"):
        return os.process_cpu_count() or 1
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def check_folder(save_dir: "Path") -> None:
    """Raise OSError for a folder in which no checkpoint can be written."""
    from ..files import check_writable

    if not os.path.isdir(save_dir):
        why = "Not a directory" if os.path.exists(save_dir) else "No such folder"
        raise NotADirectoryError(errno.ENOTDIR, why, os.fsdecode(save_dir))
    check_writable(_checkpoint(save_dir, Config()) or "")


def _checkpoint(save_dir: "Path | None", config: Config) -> "str | None":
    """Return the path of the checkpoint of a configuration: the same whatever else a grid holds."""
    if save_dir is None:
        return None
    from hashlib import blake2b

    name = blake2b(repr(config).encode(), digest_size=6).hexdigest()
    return os.path.join(os.fsdecode(save_dir), f"{name}.safetensors")


def _words(error: Exception) -> str:
    """Return an exception as one line: its class and its message."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}".removesuffix(": ")


def _failed(task: "Task", error: Exception) -> SweepResult:
    """Return the result of a run that its executor has lost, which may have no words for it."""
    words = _words(error) if str(error) else f"{type(error).__name__}: the executor lost this run"
    return SweepResult(task[0].as_dict(), task[1].engine, error=words)
