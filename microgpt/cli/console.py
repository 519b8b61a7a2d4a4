"""What the commands share: exit statuses, errors in one line, messages, stdout."""
import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence
    from typing import Any, NoReturn

    from ..callbacks import Progress
    from ..errors import UsageError as UsageError
    from ..errors import printable as printable
    from ..trainer import Trainer

__all__ = ["EXIT_DIVERGED", "EXIT_ERROR", "EXIT_HUNG_UP", "EXIT_INTERRUPTED", "EXIT_TERMINATED", "Output", "OutputError",
           "Terminated", "UsageError", "check_sampling", "drop_stdout", "flag", "is_terminal", "launched", "needs_escapes",
           "owns_process", "printable", "run", "say", "say_beyond_block", "show_progress", "write", "write_samples"]  # fmt: skip

EXIT_ERROR, EXIT_DIVERGED, EXIT_HUNG_UP, EXIT_INTERRUPTED, EXIT_TERMINATED = 2, 3, 129, 130, 143

#: How Python says that the system starts no more threads: in a RuntimeError, which may mean anything. The engine has NoThreadError.
_NO_THREAD = "can't start new thread"

#: Whether an error shows its traceback as well (--debug); whether the process ends with the command; the progress bar.
_debug = _owns_process = False
_progress: "Progress | None" = None


def __getattr__(name: str) -> "Any":
    """Return what is imported when it is first used: most runs have no error and no text that steers a terminal."""
    if name not in ("UsageError", "printable"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from .. import errors

    return getattr(errors, name)


class OutputError(Exception):
    """Standard output could not be written; `__cause__` says why."""


class Terminated(BaseException):
    """SIGTERM or SIGHUP arrived."""

    def __init__(self, status: int = EXIT_TERMINATED) -> None:
        self.status = status


def owns_process() -> bool:
    """Return whether the process ends with the command: it was started as one, rather than called by a program."""
    return _owns_process


def show_progress(progress: "Progress | None") -> None:
    """Let `say` take the bar of progress away while it writes; None: there is no bar."""
    global _progress
    _progress = progress


def say(message: str) -> None:
    """Write a line to stderr, if there is one; stdout is for what the script prints."""
    stream = sys.stderr
    if stream is None:
        return
    bar = None if _progress is None else _progress.bar
    try:
        if bar is not None:
            bar.clear()
        if not message.isprintable():
            from ..errors import printable

            message = printable(message)
        line = f"microgpt: {message}\n"
        try:
            stream.write(line)
        except UnicodeEncodeError:
            stream.write(line.encode("ascii", "backslashreplace").decode())
        _flush(stream)
        if bar is not None:
            bar.refresh()
    except (OSError, ValueError):
        _drop(stream, sys.__stderr__)  # a terminal that is gone, a full disk, a closed file: no reason to end a run


def _flush(stream: "Any") -> None:
    if hasattr(stream, "flush"):  # print() does not need one either
        stream.flush()


class Output:
    """Standard output as it is now: None, a file, or anything with a `write`, as `print` would write to it."""

    def __init__(self) -> None:
        self.stream = sys.stdout

    def write(self, text: str) -> None:
        """Write text; nowhere if there is no stdout, as the script does. Raises OutputError if it cannot be written."""
        if self.stream is None:
            return
        try:
            try:
                self.stream.write(text)
            except UnicodeEncodeError:  # a stream that cannot be made UTF-8
                encoding = getattr(self.stream, "encoding", None) or "ascii"
                self.stream.write(text.encode(encoding, "backslashreplace").decode(encoding))
        except (OSError, ValueError) as error:  # ValueError: it is closed
            raise OutputError from error

    def pop_lines(self, queue: "list[Any]") -> None:
        """Take lines off the end of queue, down to a None, and write each; an interrupt loses none and repeats none."""
        lines = iter(queue.pop, None)
        try:
            if self.stream is None:
                queue.clear()
            elif hasattr(self.stream, "writelines"):
                self.stream.writelines(lines)
            else:
                for line in lines:
                    self.stream.write(line)
        except (OSError, ValueError) as error:
            raise OutputError from error
        self.flush()

    def flush(self) -> None:
        """Hand over what the stream still holds. Raises OutputError if it cannot be written."""
        try:
            if self.stream is not None:
                _flush(self.stream)
        except (OSError, ValueError) as error:
            raise OutputError from error


def write(text: str) -> None:
    """Write text to stdout: see `Output.write`."""
    Output().write(text)


def flag(name: str) -> str:
    """The flag of a setting: n_embd -> --n-embd."""
    return "--" + name.replace("_", "-")


def run(command: "Callable[[Any], int | None]", arguments: "Any", owns_process: bool = False) -> int:
    """Carry out command(arguments); return the exit status. What a user can cause ends in one line, no traceback.

    command: returns None or the exit status. arguments: what it takes, or a function that parses it. owns_process: the
    process ends with the command, so a signal that was answered is ignored from then on; otherwise the caller gets its
    handlers back.
    """
    global _owns_process
    before, _owns_process = _owns_process, _owns_process or owns_process
    try:
        try:
            try:
                return _run(command, arguments)
            except KeyboardInterrupt:
                return _interrupted()
        except KeyboardInterrupt:  # one more, before _interrupted was ready for it
            return _interrupted()
    finally:
        _owns_process = before
        if owns_process:
            from . import spare_collector

            spare_collector()


def _interrupted() -> int:
    """Say that Ctrl-C ended the command, however often it comes; return the exit status."""
    is_said, is_flushing = False, False

    def hold(number: int, frame: object) -> None:
        nonlocal is_flushing
        if is_flushing:  # the reader does not read: one more ends the wait
            is_flushing = False
            raise KeyboardInterrupt

    while True:
        try:
            if _owns_process:
                # What `signal` wraps: `signal` would import `enum`, and leave time for another interrupt.
                from _signal import (  # type: ignore[import-not-found]  # typeshed has no built-in module of this name
                    SIG_IGN,
                    SIGINT,
                    default_int_handler,
                    getsignal,
                    signal,
                )

                if getsignal(SIGINT) is default_int_handler:
                    signal(SIGINT, hold)
            if not is_said:
                is_said = True
                say("interrupted")
            if _owns_process and getsignal(SIGINT) is hold:
                try:
                    is_flushing = True
                    Output().flush()
                except (KeyboardInterrupt, OutputError):
                    drop_stdout()
                is_flushing = False
                signal(SIGINT, SIG_IGN)
            return EXIT_INTERRUPTED
        except KeyboardInterrupt:
            pass


def drop_stdout() -> None:
    """Point the process's stdout at nothing."""
    _drop(sys.stdout, sys.__stdout__)


def _run(command: "Callable[[Any], int | None]", arguments: "Any") -> int:
    global _debug
    encoding = getattr(sys.stdout, "encoding", None)
    if encoding and encoding.lower().replace("-", "") != "utf8" and hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(encoding="utf-8")
    debug = _debug
    try:
        if callable(arguments):
            arguments = arguments()
        if isinstance(arguments, dict) and arguments.pop("debug", False):
            _debug = True
        status = command(arguments)
        if not status:
            Output().flush()
        return status or 0
    except OutputError as error:
        _traceback()
        drop_stdout()
        cause = error.__cause__
        if not isinstance(cause, BrokenPipeError):  # a reader that leaves has seen what it wanted
            say(f"error: standard output: {getattr(cause, 'strerror', None) or cause}")
    except Terminated as end:
        say("hung up" if end.status == EXIT_HUNG_UP else "terminated")
        return end.status
    except MemoryError:
        _traceback()
        say("error: not enough memory for a model of this size")
    except (Exception, SystemExit) as error:
        status = _explain(error)
        if status is None:
            raise
        return status
    finally:
        _debug = debug
    return EXIT_ERROR


def _explain(error: "Exception | SystemExit") -> "int | None":
    """Say in one line what error means; return the exit status. None: it is a fault of ours, whose traceback is needed."""
    is_known = isinstance(error, (OSError, ValueError, ArithmeticError, SystemExit))
    try:
        from .hiding import explain_hiding

        hidden = explain_hiding(error, may_be_elsewhere=not is_known)
    except (ImportError, OSError):  # the package can no longer be read, or the current folder is gone
        hidden = None
    if hidden is not None:
        _traceback()
        say(f"error: {hidden}")
    elif isinstance(error, SystemExit):  # argparse, after --help and after an error
        try:
            Output().flush()
        except OutputError:
            drop_stdout()
        if error.code is None or isinstance(error.code, int):
            return error.code or 0
        say(f"error: {error.code}")
    elif isinstance(error, OSError):
        _traceback()
        name = os.fsdecode(error.filename) if isinstance(error.filename, (str, bytes)) else error.filename
        say(f"error: {error}" if name is None else f"error: {name or repr(name)}: {error.strerror}")
    elif is_known or isinstance(error, TypeError):
        _traceback()
        from ..errors import DivergedError

        if isinstance(error, DivergedError):
            words = str(error)
            for name in ("learning_rate", "init_std", "weight_decay"):
                words = words.replace(name, flag(name))
            say(words)
            return EXIT_DIVERGED
        say(f"error: {error}")
    elif isinstance(error, RuntimeError):
        from ..errors import NoThreadError

        if not isinstance(error, NoThreadError) and str(error) != _NO_THREAD:
            return None
        _traceback()
        say(f"error: {error}")
    else:
        return None
    return EXIT_ERROR


def _traceback() -> None:
    if _debug and sys.stderr is not None:
        sys.__excepthook__(*sys.exc_info())  # unlike print_exc, imports nothing


def _drop(stream: "Any", original: "Any") -> None:
    """Point a stream of the process at nothing; else the interpreter tries again at exit what has failed, and complains."""
    if stream is None or stream is not original:
        return
    try:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)
        stream.flush()
    except (OSError, ValueError):
        pass


def say_beyond_block(docs: "Any", block_size: int, what: str) -> None:
    """Say how much of the documents is cut off because they are longer than the block; nothing if none is."""
    if hasattr(docs, "beyond"):  # microgpt.core.documents.TextLines, of which no strings were made yet
        count, beyond = docs.beyond(block_size)
        if not count:
            return
        characters = sum(map(len, docs))
    else:
        lengths = [*map(len, docs)]
        if max(lengths) <= block_size:
            return
        count, characters = sum(n > block_size for n in lengths), sum(lengths)
        beyond = sum(n - block_size for n in lengths if n > block_size)
    say(f"{count} of {len(docs)} documents {'is' if count == 1 else 'are'} longer than the block of {block_size}: {beyond} of "
        f"{characters} characters ({beyond / characters:.1%}) {'is' if beyond == 1 else 'are'} beyond it and {what}")  # fmt: skip


def _refuse(message: str) -> "NoReturn":
    from ..errors import UsageError

    raise UsageError(message)


def check_sampling(options: "dict[str, Any]") -> None:
    """Raise UsageError for flags that no sampling can have."""
    if not 0 < options["temperature"] < float("inf"):
        _refuse(f"--temperature must be a number greater than 0, not {options['temperature']}")
    if not 1 / options["temperature"] < float("inf"):
        _refuse(f"--temperature {options['temperature']} is too low: no double holds its inverse")
    if options["samples"] < 0:
        _refuse(f"--samples must be at least 0, not {options['samples']}")


def needs_escapes(uchars: "Sequence[str]") -> bool:
    """Return whether a text of these characters may steer a terminal, so that samples are written by `printable`."""
    return not "".join(uchars).isprintable()


def write_samples(trainer: "Trainer", options: "dict[str, Any]", own: "Collection[str]" = ()) -> None:
    """Write the script's line for each sample to stdout; own: characters that are written even if they steer a terminal."""
    out, special = Output(), needs_escapes(trainer.tokenizer.uchars)
    for i in range(options["samples"]):
        cuts = options.get("top_k"), options.get("top_p"), options.get("max_length")
        text = trainer.sample_one(options["temperature"], options.get("prompt", ""), *cuts)
        if special:
            from ..errors import printable

            text = printable(text, own=own)
        out.write(f"sample {i + 1:2d}: {text}\n")


def launched() -> "tuple[int, int]":
    """Return which of how many processes of MPICH's or Open MPI's launcher this is: (rank, size). Without a launcher (0, 1)."""
    for rank, size in (("PMI_RANK", "PMI_SIZE"), ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE")):
        found = os.environ.get(rank, ""), os.environ.get(size, "")
        if all(map(str.isdecimal, found)):
            return int(found[0]), int(found[1])
    return 0, 1


def is_terminal(stream: "Any") -> bool:
    """Whether stream, which may be None or anything, is a terminal."""
    try:
        return bool(stream.isatty())
    except (AttributeError, OSError, ValueError):
        return False
