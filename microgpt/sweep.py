"""`python -m microgpt.sweep --grid 'learning_rate=0.003,0.01 seed=1..20'`: train a model for each point of a grid."""
import sys

from .cli import console as cli
from .cli import parsing
from .config import DEFAULTS, SCHEDULES

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from typing import Any

    from .cli import texts
    from .parallel.results import Ranked, SweepResult

SHOWN = 10  # configurations in the table
SLOW_PLAN = 100_000  # runs whose plan takes seconds, and so is announced
MOST_RUNS = 1_000_000  # a sweep has their settings and results in memory
EXECUTORS = ("threads", "processes", "dask", "mpi")


def main(argv: "Sequence[str] | None" = None) -> int:
    """Run the command; return the exit status."""

    def arguments() -> "dict[str, Any]":
        given: dict[str, Any] = vars(make_parser().parse_args(argv))
        if not "".join(given["grid"] or ()).strip():  # a variable of the shell that is not set
            raise cli.UsageError("which runs? --grid 'learning_rate=0.003,0.01 seed=1..5' names them (microgpt sweep --help)")
        return given

    return cli.run(_sweep, arguments, owns_process=argv is None)


def make_parser() -> "Any":
    """Return the argparse.ArgumentParser of the command."""
    from .cli import texts
    from .engines import ENGINES

    def in_grid(flag: str, value: str) -> str:
        name = flag.lstrip("-").replace("-", "_")
        if name not in DEFAULTS:
            return ""
        if not value or value.startswith("-"):
            value = "off" if DEFAULTS[name] is None else f"{DEFAULTS[name]}"
        return f"settings of the runs are in the grid: --grid {name}={value}"

    p = parsing.parser("sweep", "Train a model for each point of a grid of settings, several at a time, and say which is best.",
                       ["microgpt sweep --grid 'learning_rate=0.003,0.01,0.03 seed=1..5' --val-fraction 0.1",
                        "microgpt sweep --input my.txt --grid n_embd=16,32 --steps 500 --out sweep.jsonl --plot sweep.png"],
                       hint=in_grid)  # fmt: skip
    p.add_argument("--grid", metavar="'NAME=VALUES ...'", action="append", help="settings of microgpt train "
                   "with their values: learning_rate=0.003,0.01 seed=1..20 n_embd=16,32; the last changes fastest")  # fmt: skip
    p.add_argument("--steps", type=int, metavar="N", help=f"steps of every run (default: {DEFAULTS['num_steps']})")
    texts.add_flags(p, several=True)
    p.add_argument("--val-fraction", type=float, metavar="X", help="hold out this part of the documents, and compare the "
                   "models by their loss on it (without: by the mean loss of the last tenth of the steps)")  # fmt: skip
    p.add_argument("--engine", choices=ENGINES, default="fused", help="engine, all with the same bits; default: fused")
    p.add_argument("--workers", type=int, metavar="N", help="runs at a time (default: the cores that are available)")
    p.add_argument("--executor", default="threads", metavar="KIND", help="threads (default), processes, dask (on this "
                   "machine), tcp://HOST:PORT of a dask scheduler, or mpi (with mpiexec python -m mpi4py.futures)")  # fmt: skip
    p.add_argument("--out", metavar="FILE.jsonl", help="write each result as a line of JSON; the runs that an existing file "
                   "has are not run again")  # fmt: skip
    p.add_argument("--save-dir", metavar="FOLDER", help="save the model of every run in this folder")
    p.add_argument("--plot", metavar="FILE", help="draw the loss over the grid as .png, .svg or .pdf (needs matplotlib)")
    p.add_argument("--quiet", action="store_true", help="no progress bar")
    return p


def parse_grid(words: "Sequence[str]") -> "dict[str, list[Any]]":
    """Return the grid that texts such as 'learning_rate=0.003,0.01 seed=1..20' name: setting -> values.

    Names may be spelled as flags (learning-rate, steps). a..b are the whole numbers from a to b, both included.
    Raises UsageError for anything else.
    """
    grid: dict[str, list[Any]] = {}
    total = 1
    for word in " ".join(words).split():
        given, equals, values = word.partition("=")
        name = given.lstrip("-").replace("-", "_")
        name = {"steps": "num_steps"}.get(name, name)
        if name not in DEFAULTS:
            found = parsing.closest(name, DEFAULTS)
            hint = f"; did you mean {found[0]}?" if found else ""
            raise cli.UsageError(f"--grid: {given!r} is no setting{hint} (there are {', '.join(DEFAULTS)})")
        if name in grid:
            raise cli.UsageError(f"--grid: {name} is there twice")
        if not equals or not values:
            raise cli.UsageError(f"--grid: {name} has no values; write {name}={DEFAULTS[name]}")
        parts = [_values(name, part) for part in values.split(",")]
        total *= sum(map(len, parts))
        if total > MOST_RUNS:
            raise cli.UsageError(f"--grid: {total} runs are more than a sweep can have ({MOST_RUNS})")
        grid[name] = [value for part in parts for value in part]
    return grid


def _values(name: str, text: str) -> "Sequence[Any]":
    """Return the values of one part of a grid: a number, a word, or a..b."""
    if isinstance(DEFAULTS[name], str):
        if text not in SCHEDULES:
            raise cli.UsageError(f"--grid: the values of {name} are {', '.join(SCHEDULES)}, not {text!r}")
        return [text]
    if DEFAULTS[name] is None and text == "off":
        return [None]
    first, dots, last = text.partition("..")
    is_whole = isinstance(DEFAULTS[name], int)
    try:
        if not dots:
            value = int(text) if is_whole else float(text)
            if value - value == 0:
                return [value]
        elif is_whole:
            found = range(int(first), int(last) + 1)
            if found.stop - found.start > MOST_RUNS:
                raise cli.UsageError(f"--grid: {name}={text} is more runs than a sweep can have ({MOST_RUNS})")
            if found:
                return found
            raise cli.UsageError(f"--grid: {name}={text} is an empty range")
    except cli.UsageError:
        raise
    except ValueError:
        pass
    kind = "whole numbers such as 1,2,5 or 1..20" if is_whole else "numbers such as 0.003,0.01"
    raise cli.UsageError(f"--grid: the values of {name} are {kind}, not {text!r}")


def _sweep(given: "dict[str, Any]") -> int:
    from contextlib import contextmanager
    from math import prod

    from .cli.options import check_fraction
    from .data import split_docs
    from .parallel.results import whole_settings
    from .parallel.sweeps import available_cores, planned, run_sweep

    grid = parse_grid(given["grid"])
    if given["steps"] is not None:
        if "num_steps" in grid:
            raise cli.UsageError("--steps and the grid both say how many steps a run has")
        grid["num_steps"] = [given["steps"]]
    _check_launcher(given["executor"] == "mpi")
    if given["workers"] is not None and given["workers"] < 1:
        raise cli.UsageError(f"--workers must be at least 1, not {given['workers']}")
    check_fraction(given["val_fraction"])
    _check_files(given)
    text = _read_text(given, grid)
    docs, source = text.docs, text.source
    val_docs = None
    if given["val_fraction"] is not None:
        try:
            docs, val_docs = split_docs(docs, given["val_fraction"])
        except ValueError as error:
            raise cli.UsageError(str(error).replace("a fraction of", "--val-fraction", 1)) from None
    most = prod(map(len, grid.values()))
    if most >= SLOW_PLAN:
        cli.say(f"planning {most} runs")
    plan = planned(grid)
    places = {(*whole_settings(*run).values(),): i for i, run in enumerate(plan.values())}
    total, workers = len(places), given["workers"] or available_cores()
    with contextmanager(make_executor)(given["executor"], min(workers, total)) as executor:
        cli.say(f"{total} run{'s' * (total != 1)} on {source}, {given['engine']} engine, executor {given['executor']}")
        results = run_sweep(docs, plan, executor, engine=given["engine"], val_docs=val_docs, workers=workers,
                            out=given["out"], save_dir=given["save_dir"])  # fmt: skip
        found = list(_with_progress(results, total, given["quiet"]))
    found.sort(key=lambda result: places[(*result.settings.values(),)])  # not in the order in which they ended
    return _report(found, given)


def _read_text(given: "dict[str, Any]", grid: "dict[str, list[Any]]") -> "texts.Text":
    from .cli import texts

    sizes = grid.get("block_size", [DEFAULTS["block_size"]])
    if given["split"] == "chunks" and len(set(sizes)) > 1:
        raise cli.UsageError("--split chunks cuts the text at one block_size, and the grid has several")
    return texts.Text(given["input"], texts.form_of(given), sizes[0])


def make_executor(kind: str, workers: int) -> "Iterator[Any]":
    """Yield once, for a context manager: the executor of --executor; None for threads, which `run_sweep` itself makes and stops."""
    if kind == "threads":
        yield None
    elif kind == "processes":
        from .cli.signals import EndingSignals
        from .parallel.processes import Processes

        with EndingSignals(), Processes(workers) as processes:
            yield processes
    elif kind == "dask":
        distributed = _need_dask()
        # Without a dashboard, too, the scheduler serves HTTP: on any port, or a second sweep would warn of that of the first.
        port = {"dashboard_address": "127.0.0.1:0"}
        with distributed.LocalCluster(n_workers=workers, threads_per_worker=1, dashboard_address=None, scheduler_kwargs=port) as cluster:
            with distributed.Client(cluster) as client, client.get_executor() as executor:
                from .parallel.processes import ignore_interrupts
                from .parallel.sweeps import end_runs

                class _Quiet(distributed.WorkerPlugin):  # type: ignore[name-defined, misc]  # a module that is Any
                    """For workers that replace killed ones, too."""

                    def setup(self, worker: object) -> None:
                        ignore_interrupts()

                client.register_plugin(_Quiet(), name="microgpt-interrupts")
                try:
                    yield executor
                finally:
                    _run_on_workers(client, end_runs)  # a worker that computes is killed only after seconds
    elif "://" in kind:
        with _need_dask().Client(kind) as client, client.get_executor() as executor:
            if not client.scheduler_info()["workers"]:
                cli.say(f"{kind} has no workers yet; the runs wait for them")
            yield executor
    elif kind == "mpi":
        with _need_mpi4py("futures").MPIPoolExecutor(workers) as ranks:
            yield ranks
    else:
        found = parsing.closest(kind, EXECUTORS)
        hint = f"; did you mean {found[0]}?" if found else ""
        known = f"{', '.join(EXECUTORS)} or the address of a dask scheduler"
        raise cli.UsageError(f"--executor must be one of {known}, not {kind!r}{hint}")


def _run_on_workers(client: "Any", function: "Callable[[], None]") -> None:
    """Call a function on every worker of dask; a worker that does not answer, because it is stopped or lost, is not waited for."""
    from contextlib import suppress
    from threading import Thread

    def run() -> None:
        with suppress(Exception):  # the client is closed meanwhile
            client.run(function, on_error="ignore")

    thread = Thread(target=run, daemon=True)
    thread.start()
    thread.join(2.0)


def _need_dask() -> "Any":
    try:
        import distributed
    except ImportError:
        raise cli.UsageError("--executor dask needs dask.distributed: pip install 'microgpt-exact[dask]'") from None
    return distributed


def _need_mpi4py(module: str = "") -> "Any":
    """Return mpi4py, which starts no MPI, or a module of it, which does."""
    from importlib import import_module

    try:
        return import_module(f"mpi4py.{module}".rstrip("."))
    except (ImportError, RuntimeError):
        raise cli.UsageError("--executor mpi needs mpi4py and an MPI library: pip install 'microgpt-exact[mpi]'") from None


def _check_launcher(uses_ranks: bool) -> None:
    """Raise UsageError for --executor mpi without workers; say how processes of an MPI launcher that do not share the runs would."""
    import os

    how = "python -m mpi4py.futures -m microgpt.sweep ... --executor mpi"
    rank, size = cli.launched()
    is_one = "mpi4py.futures" in sys.orig_argv  # only rank 0 comes here, and the others wait for its runs
    if uses_ranks:
        _need_mpi4py()
        is_launched = any(name.startswith(("PMI_", "PMIX_", "OMPI_")) for name in os.environ)  # MPI would wait for ever otherwise
        if is_launched and (is_one or size == 1):
            return
        if rank:
            raise SystemExit(cli.EXIT_ERROR)  # the first one says it
        raise cli.UsageError(f"--executor mpi needs workers: mpiexec -n {max(size, 4)} {how}")
    if size > 1 and not rank:
        what = "of which --executor mpi would use all" if is_one else f"each of which makes all runs; {how} shares them out"
        cli.say(f"hint: mpiexec has started {size} processes, {what}")


def _check_files(given: "dict[str, Any]") -> None:
    """Raise, before anything is trained, for outputs that cannot be written or are the same file as another."""
    from .cli.outputs import check_outputs
    from .cli.texts import input_files

    outputs = [(f"--{name}", given[name]) for name in ("out", "plot") if given[name] is not None]
    check_outputs(outputs, input_files(given["input"]), ["--out"])
    if given["plot"] is not None:
        from .cli.options import check_plot

        check_plot(given["plot"])
    if given["save_dir"] is not None:
        from .parallel.sweeps import check_folder

        check_folder(given["save_dir"])


def _with_progress(results: "Iterator[SweepResult]", total: int, quiet: bool) -> "Iterator[SweepResult]":
    """Yield results, and show on a terminal how many there are and the best so far."""
    if quiet or not cli.is_terminal(sys.stderr):
        yield from results
        return
    from tqdm import tqdm

    best = float("inf")
    with tqdm(results, total=total, unit="run", file=sys.stderr) as bar:
        for result in bar:
            if result.score < best:
                best = result.score
                bar.set_postfix_str(f"best {best:.4f}", refresh=False)
            yield result


def _report(results: "Sequence[SweepResult]", given: "dict[str, Any]") -> int:
    """Write the best configurations to stdout, and the command that trains the best of them; return the exit status."""
    from .parallel.results import rank

    ranked = rank(results)
    failed = [result for result in results if result.error is not None]
    diverged = [r for r in results if r.error is None and r.settings["num_steps"] and r.score - r.score != 0]
    untrained = [r for r in results if r.error is None and not r.settings["num_steps"] and r.score != r.score]
    has_none = len(failed) + len(diverged) + len(untrained) == len(results)
    names = [name for name in ranked[0].settings if len({group.settings[name] for group in ranked}) > 1]
    rows = [_row(group, names) for group in ranked[:SHOWN]]
    head = [*names, "runs", "val loss" if given["val_fraction"] is not None else "loss", "+-"]
    widths = [max(map(len, column)) for column in zip(head, *rows)]
    for row in [head, *rows]:
        cli.write("  ".join(f"{cell:>{width}}" for cell, width in zip(row, widths)) + "\n")
    if len(ranked) > SHOWN:
        cli.say(f"the {SHOWN} best of {len(ranked)} configurations")
    if failed:
        lost = sum(not result.is_final for result in failed)  # by a worker that died, for example
        again = f"; the same command runs {lost} of them again" if lost and given["out"] is not None else ""
        cli.say(f"{'error: ' * has_none}{len(failed)} of {len(results)} runs failed; the first, {failed[0].words}: "
                f"{failed[0].error}{again}")  # fmt: skip
    if diverged:
        cli.say(f"{'error: ' * has_none}{len(diverged)} of {len(results)} runs diverged: their loss is not finite")
    if untrained:
        cli.say(f"{'error: ' * has_none}{len(untrained)} of {len(results)} runs have no step, and so no loss "
                "unless --val-fraction measures one")  # fmt: skip
    if ranked[0].results:
        cli.write(f"best: {command(ranked[0].results[0], given)}\n")
    if given["plot"] is not None:
        from .viz.grid import plot_sweep

        if any(group.results for group in ranked):
            plot_sweep(results, path=given["plot"])
            cli.say(f"drew {given['plot']}")
    if given["out"] is not None:
        cli.say(f"{given['out']} has the results")
    if not has_none:
        return 0
    has_diverged = not untrained and all((result.error or "").startswith("DivergedError") for result in failed)
    return cli.EXIT_DIVERGED if has_diverged else cli.EXIT_ERROR


def _row(group: "Ranked", names: "Sequence[str]") -> "list[str]":
    spread = "" if group.spread != group.spread else f"{group.spread:.4f}"
    score = "failed" if group.failed else f"{group.score:.4f}"
    values = [group.settings[name] for name in names]
    return [*("off" if value is None else f"{value}" for value in values), f"{group.runs}", score, spread]


def command(result: "SweepResult", given: "dict[str, Any]") -> str:
    """Return the command that trains this run: flags for whatever is not the script's own value."""
    words = ["microgpt", "train"]
    for path in given["input"] or []:
        words.append(_with_text("--input", path))
    for name in ("split", "csv_column", "json_field", "val_fraction"):
        if given[name] is not None:
            words.append(_with_text(cli.flag(name), f"{given[name]}"))
    for name, value in result.settings.items():
        if value != DEFAULTS[name]:
            words += ["--steps" if name == "num_steps" else cli.flag(name), f"{value}"]
    return " ".join(words)


def _with_text(flag: str, text: str) -> str:
    """Return a flag and its value as a shell reads them, in characters that every terminal shows."""
    from os import fsencode
    from shlex import quote

    word = quote(text)
    if not text.isprintable():  # the name of a file may have any bytes
        octal = "".join(f"\\{byte:03o}" for byte in fsencode(text))
        word = f"\"$(printf '{octal}')\""
    return f"{flag}={word}" if text.startswith("-") and text != "-" else f"{flag} {word}"


if __name__ == "__main__":
    sys.exit(main())
