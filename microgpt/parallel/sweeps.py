"""Many runs: one for each configuration of a grid, on any `concurrent.futures.Executor`.

What people do with small models is many runs: seeds, learning rates, sizes. Each run here is an ordinary `Trainer`, so
its bits do not depend on the executor, on the number of workers or on the order in which runs end.
"""
import itertools
import json
import math
import os
import time

from ..config import DEFAULTS, OPTIONAL, Config, seed_text
from ..data import check_docs, docs_digest
from ..errors import LogError
from ..trainer import Callback, Trainer

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from concurrent.futures import Executor
    from typing import Any

    from .._types import Path

    Grid = Mapping[str, Any] | Iterable[Mapping[str, Any]]
    Task = tuple[Config, str, Any, "list[str] | None", "str | None"]

__all__ = ["Ranked", "SweepResult", "configurations", "rank", "read_results", "run_sweep"]

FORMAT = 1
#: Runs that may wait in an executor at a time: each carries the text, which an executor of several machines copies.
MAX_PENDING = 256
#: Errors that a run has again whenever it is run; a resumed sweep keeps these, and repeats what failed by anything else.
OWN_ERRORS = ("DivergedError", "OverflowError", "TypeError", "ValueError", "ZeroDivisionError")


class SweepResult:
    """What became of one run of a sweep.

    Attributes
    ----------
    settings : dict
        All settings of the run by name, num_steps and seed included.
    engine : str
    final_loss : float
        The loss of the last step, in nats; nan if there was none.
    loss : float
        The mean loss of the last tenth of the steps.
    val_loss : float or None
        The mean loss of the validation documents, if there are any.
    seconds : float
        The time that the run took in its worker.
    path : str or None
        The checkpoint, if one was asked for.
    error : str or None
        If the run failed: the exception's class and message. Then the losses are nan.
    """

    def __init__(
        self,
        settings: "dict[str, Any]",
        engine: str,
        final_loss: float = math.nan,
        loss: float = math.nan,
        val_loss: "float | None" = None,
        seconds: float = 0.0,
        path: "str | None" = None,
        error: "str | None" = None,
    ) -> None:
        self.settings, self.engine, self.path, self.error = settings, engine, path, error
        self.final_loss, self.loss, self.val_loss, self.seconds = final_loss, loss, val_loss, seconds

    @property
    def score(self) -> float:
        """What runs are compared by, lower is better: val_loss, without validation documents loss; nan after an error."""
        return self.loss if self.val_loss is None else self.val_loss

    def as_row(self) -> "dict[str, Any]":
        """Return what a line of the results' file holds. Losses are in it in decimal and, exactly, as float.hex."""
        row = _about(self.settings, self.engine)
        for name in ("final_loss", "loss", "val_loss"):
            value = getattr(self, name)
            if value is not None:
                row[name], row[f"{name}_hex"] = value if math.isfinite(value) else None, value.hex()
        return {**row, "seconds": round(self.seconds, 6), "path": self.path, "error": self.error}

    @classmethod
    def from_row(cls, row: "dict[str, Any]") -> "SweepResult":
        """Return the result of a line. Raises KeyError, TypeError or ValueError for one that `as_row` did not make."""
        # Of a file written before these were settings, they are off.
        settings = {name: row.get(name, DEFAULTS[name]) if name in OPTIONAL else row[name] for name in DEFAULTS}
        if isinstance(row["seed"], str):
            settings["seed"] = int(row["seed"], 0)
        final_loss, loss = (float.fromhex(row[f"{name}_hex"]) for name in ("final_loss", "loss"))
        val_loss = float.fromhex(row["val_loss_hex"]) if "val_loss_hex" in row else None
        return cls(settings, row["engine"], final_loss, loss, val_loss, row["seconds"], row["path"], row["error"])

    def __repr__(self) -> str:
        changed = ", ".join(f"{name}={value}" for name, value in self.settings.items() if value != DEFAULTS[name])
        return f"<SweepResult: {changed or 'default settings'}: {self.error or f'{self.score:.4f}'}>"


def configurations(grid: "Grid") -> "list[dict[str, Any]]":
    """Return the configurations of a grid: every combination of its values, the last setting changing fastest.

    Parameters
    ----------
    grid : mapping or iterable of mappings
        Names of settings (those of `Config`) to a value or an iterable of values. Several mappings follow one another;
        a configuration that comes twice is there once.

    Raises
    ------
    ValueError
        For a name that is no setting, or a setting without values.

    Examples
    --------
    >>> configurations({"seed": range(2), "n_embd": (16, 32), "num_steps": 100})[1]
    {'seed': 0, 'n_embd': 32, 'num_steps': 100}
    """
    found: dict[Any, dict[str, Any]] = {}
    for one in [grid] if hasattr(grid, "keys") else grid:
        axes = []
        for name, values in one.items():  # type: ignore[union-attr]  # a mapping, of either kind of grid
            if name not in DEFAULTS:
                raise ValueError(f"{name!r} is no setting; a grid may have {', '.join(DEFAULTS)}")
            values = list(values) if hasattr(values, "__iter__") and not isinstance(values, str) else [values]
            if not values:
                raise ValueError(f"the grid has no values of {name}")
            axes.append([(name, value) for value in values])
        for chosen in itertools.product(*axes):
            found.setdefault(repr(sorted(chosen, key=lambda pair: pair[0])), dict(chosen))
    return list(found.values())


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
        An existing folder for a checkpoint of each run.

    Yields
    ------
    SweepResult

    Raises
    ------
    ValueError, TypeError
        In one line, for documents, names or arguments that no sweep can have; before anything is run.
    LogError
        If `out` is no file of results, or one of other text.
    OSError
        If `out` cannot be written.

    Examples
    --------
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
    if save_dir is not None and not os.path.isdir(save_dir):
        raise NotADirectoryError(20, "Not a directory", os.fsdecode(save_dir))
    chosen = configurations(grid)
    digest = docs_digest(docs if val_docs is None else [*docs, "\n", *val_docs])
    kept, file = _open_results(out, digest) if out is not None else ([], None)
    return _run_sweep(docs, chosen, executor, engine, val_docs, workers, kept, file, save_dir)


def _run_sweep(
    docs: "list[str]",
    chosen: "list[dict[str, Any]]",
    executor: "Executor | None",
    engine: str,
    val_docs: "list[str] | None",
    workers: "int | None",
    kept: "list[SweepResult]",
    file: "Any",
    save_dir: "Path | None",
) -> "Iterator[SweepResult]":
    """The generator of `run_sweep`, whose arguments are checked."""
    known = {_key(result.settings, result.engine): result for result in kept if _is_final(result)}
    own = None
    stop = Callback()  # ends the runs of threads of our own, which no signal can reach
    try:
        todo: list[Config] = []
        for settings in chosen:
            try:
                config = Config(**settings)
            except (TypeError, ValueError) as error:  # such as n_embd 16 with 3 heads
                result = SweepResult({**DEFAULTS, **settings}, engine, error=_words(error))
                yield result if _key(result.settings, engine) in known else _record(file, result)
                continue
            key = _key(config.as_dict(), engine)
            if key in known:
                yield known[key]
            else:
                todo.append(config)
        if not todo:
            return
        if executor is None:
            from concurrent.futures import ThreadPoolExecutor

            executor = own = ThreadPoolExecutor(min(workers or available_cores(), len(todo)), "microgpt-sweep")
        text = _as_text(docs) if engine == "fused" else docs
        tasks = [(config, engine, text, val_docs, _checkpoint(save_dir, config)) for config in todo]
        for result in _results(executor, tasks, stop if own else None):
            yield _record(file, result)
    finally:
        stop.stop = "the sweep was ended"
        if own is not None:
            own.shutdown(cancel_futures=True)
        if file is not None:
            file.close()


def _results(executor: "Executor", tasks: "list[Task]", stop: "Callback | None") -> "Iterator[SweepResult]":
    """Yield the results of tasks as they end, a few hundred in the executor at a time."""
    from concurrent.futures import FIRST_COMPLETED, wait

    waiting = iter(tasks)
    pending: dict[Any, Task] = {}  # by Future
    extra = () if stop is None else (stop,)
    try:
        while True:
            for task in itertools.islice(waiting, MAX_PENDING - len(pending)):
                try:
                    pending[executor.submit(run_task, *task, *extra)] = task
                except Exception as error:  # the executor's own: it is broken or shut down
                    yield _failed(task, error)
            if not pending:
                return
            for future in wait(pending, return_when=FIRST_COMPLETED).done:
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
    engine: str,
    text: "str | list[str]",
    val_docs: "list[str] | None",
    path: "str | None",
    stop: "Callback | None" = None,
) -> SweepResult:
    """Train one run in a worker; return its result, also of one that fails.

    text: the documents, or a str of one document a line. path: where to save the run.
    """
    started = time.perf_counter()
    try:
        if isinstance(text, str):
            from ..core.text_lines import TextLines

            trainer = Trainer.from_lines(TextLines(text), config, engine)
        else:
            trainer = Trainer(text, engine=engine, **config.as_dict())
        losses = trainer.run(callbacks=() if stop is None else [stop])
        val_loss = None if val_docs is None else trainer.evaluate(val_docs).loss
        if path is not None:
            trainer.save(path)
    except Exception as error:
        return SweepResult(config.as_dict(), engine, seconds=time.perf_counter() - started, error=_words(error))
    last = losses[-max(1, len(losses) // 10) :] or [math.nan]
    loss, seconds = sum(last) / len(last), time.perf_counter() - started
    return SweepResult(config.as_dict(), engine, last[-1], loss, val_loss, seconds, path)


def available_cores() -> int:
    """Return the number of cores that this process may use."""
    if hasattr(os, "process_cpu_count"):
        return os.process_cpu_count() or 1
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _as_text(docs: "list[str]") -> "str | list[str]":
    """Return docs as one text, one document a line, if that is the same documents; else docs.

    A text is sent to another process and shuffled there in a fraction of the time that the strings take.
    """
    from ..core.text_lines import TextLines

    text = "\n".join(docs)
    try:
        return text if list(TextLines(text)) == docs else docs
    except ValueError:
        return docs


def _checkpoint(save_dir: "Path | None", config: Config) -> "str | None":
    """Return the path of the checkpoint of a configuration: the same whatever else a grid holds."""
    from hashlib import blake2b

    name = blake2b(repr(config).encode(), digest_size=6).hexdigest()
    return None if save_dir is None else os.path.join(os.fsdecode(save_dir), f"{name}.safetensors")


def _words(error: Exception) -> str:
    """Return an exception as one line: its class and its message."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}".removesuffix(": ")


def _failed(task: "Task", error: Exception) -> SweepResult:
    return SweepResult(task[0].as_dict(), task[1], error=_words(error))


def _about(settings: "dict[str, Any]", engine: str) -> "dict[str, Any]":
    """Return what says which run a line is of, as JSON can hold it."""
    seed = settings["seed"]
    return {**settings, "seed": seed_text(seed) if isinstance(seed, int) and abs(seed) >= 2**63 else seed, "engine": engine}


def _key(settings: "dict[str, Any]", engine: str) -> str:
    return json.dumps(_about(settings, engine), default=repr)


def _is_final(result: SweepResult) -> bool:
    """Return whether a run of an earlier sweep need not be repeated."""
    return result.error is None or result.error.partition(":")[0] in OWN_ERRORS


# ---- the file of results ----


def _open_results(path: "Path", digest: str) -> "tuple[list[SweepResult], Any]":
    """Return the results that a file has, and the file, open to append. Its first line says which text they are of."""
    from ..files import open_in_place

    file: Any = open(open_in_place(path), "a+", encoding="utf-8", newline="\n")
    try:
        file.seek(0)
        head = {"microgpt sweep": FORMAT, "docs_sha256": digest}
        found, length = _parse(file, os.fsdecode(path), digest)
        file.truncate(length)  # the rest is half a line, of a sweep that was killed
        if not length:
            file.write(json.dumps(head) + "\n")
            file.flush()
    except BaseException:
        file.close()
        raise
    return found, file


def _parse(file: "Any", path: str, digest: "str | None") -> "tuple[list[SweepResult], int]":
    """Return the results of an open file, and the bytes that whole lines of it take. digest: of the text it must be of."""
    found, length = [], 0
    for number, line in enumerate(iter(file.readline, ""), 1):
        if not line.endswith("\n"):
            break
        try:
            row = json.loads(line)
            if number == 1:
                if row["microgpt sweep"] != FORMAT:
                    raise ValueError
                if digest not in (None, row["docs_sha256"]):
                    raise LogError(f"{path} holds a sweep of other text; give another file")
            else:
                found.append(SweepResult.from_row(row))
        except LogError:
            raise
        except (AttributeError, KeyError, TypeError, ValueError):
            raise LogError(f"{path}, line {number}: not a line of a sweep's results") from None
        length += len(line.encode())
    return found, length


def _record(file: "Any", result: SweepResult) -> SweepResult:
    """Write a result's line, whole or, if the process is killed, not at all as `_parse` sees it; return the result."""
    if file is not None:
        file.write(json.dumps(result.as_row(), default=repr) + "\n")
        file.flush()
    return result


def read_results(path: "Path") -> "list[SweepResult]":
    """Return the results that `run_sweep` wrote to a file. Raises LogError if it is none, OSError if it cannot be read."""
    with open(path, encoding="utf-8", errors="replace", newline="\n") as file:
        return _parse(file, os.fsdecode(path), None)[0]


# ---- which configuration is the best ----


class Ranked:
    """The runs of one configuration, which differ in their seeds alone.

    Attributes
    ----------
    settings : dict
        By name, without the seed.
    results : list of SweepResult
        The best first; without those that failed.
    failed : int
        Number of runs that failed.
    score : float
        The mean of their scores; infinite if any run failed or diverged.
    spread : float
        The standard deviation of a run's score; nan for less than two runs.
    """

    def __init__(self, results: "Sequence[SweepResult]") -> None:
        self.results = sorted((r for r in results if r.error is None and r.score == r.score), key=lambda r: r.score)
        self.failed = len(results) - len(self.results)
        self.settings = {name: value for name, value in results[0].settings.items() if name != "seed"}
        scores = [result.score for result in self.results]
        mean = math.fsum(scores) / len(scores) if scores else math.inf
        self.score = math.inf if self.failed else mean
        squares = math.fsum((score - mean) ** 2 for score in scores)
        self.spread = math.sqrt(squares / (len(scores) - 1)) if len(scores) > 1 else math.nan

    @property
    def runs(self) -> int:
        """Number of runs, those that failed included."""
        return len(self.results) + self.failed


def rank(results: "Iterable[SweepResult]") -> "list[Ranked]":
    """Return the configurations, best first: by the mean score over their seeds. One that failed for a seed is last."""
    groups: dict[Any, list[SweepResult]] = {}
    for result in results:
        settings = {name: value for name, value in result.settings.items() if name != "seed"}
        groups.setdefault((repr(settings), result.engine), []).append(result)
    return sorted(map(Ranked, groups.values()), key=lambda group: group.score)
