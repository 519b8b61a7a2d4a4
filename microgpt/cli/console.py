"""What the commands share: errors in one line, exit statuses, messages, samples and progress."""
import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence
    from typing import Any

EXIT_ERROR, EXIT_DIVERGED, EXIT_HUNG_UP, EXIT_INTERRUPTED, EXIT_TERMINATED = 2, 3, 129, 130, 143

#: Whether an error shows its traceback as well (--debug), and the progress bar that is shown.
_debug, _bar = False, None  # type: bool, Any


class UsageError(ValueError):
    """Arguments that cannot be carried out."""


class OutputError(Exception):
    """Standard output could not be written; `__cause__` says why."""


class Terminated(BaseException):
    """SIGTERM or SIGHUP arrived."""

    def __init__(self, status: int = EXIT_TERMINATED) -> None:
        self.status = status


def printable(text: str) -> str:
    """text without what would steer a terminal: see `microgpt.text`."""
    if text.isprintable():
        return text
    from ..text import printable

    return printable(text)


def say(message: str) -> None:
    """A line for the person at the terminal, on stderr or, where there is none, nowhere; stdout is the script's alone."""
    stream = sys.stderr
    if stream is None:
        return
    try:
        if _bar:
            _bar.clear()
        line = f"microgpt: {printable(message)}\n"
        try:
            stream.write(line)
        except UnicodeEncodeError:
            stream.write(line.encode("ascii", "backslashreplace").decode())
        _flush(stream)
        if _bar:
            _bar.refresh()
    except (OSError, ValueError):
        _drop(stream, sys.__stderr__)  # a terminal that is gone, a full disk, a closed file: no reason to end a run


def _flush(stream):
    if hasattr(stream, "flush"):  # print() does not ask for one either
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


def run(command: "Callable[[Any], None]", arguments: "Any") -> int:
    """Carry out command(arguments); returns the exit status. What a user can cause ends in one line, no traceback.

    arguments: what the command takes, or a function that parses it.
    """
    try:
        return _run(command, arguments)
    except KeyboardInterrupt:  # a second one, while the first was answered
        return EXIT_INTERRUPTED


def _run(command, arguments):
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
        command(arguments)
        Output().flush()
        return 0
    except SystemExit as end:  # argparse, after --help and after an error
        try:
            Output().flush()
        except OutputError:
            _drop(sys.stdout, sys.__stdout__)
        return end.code if isinstance(end.code, int) else 0 if end.code is None else EXIT_ERROR
    except OutputError as error:
        _traceback()
        _drop(sys.stdout, sys.__stdout__)
        cause = error.__cause__
        if not isinstance(cause, BrokenPipeError):  # a reader that leaves has seen what it wanted
            say(f"error: standard output: {getattr(cause, 'strerror', None) or cause}")
    except KeyboardInterrupt:
        say("interrupted")
        return EXIT_INTERRUPTED
    except Terminated as end:
        say("hung up" if end.status == EXIT_HUNG_UP else "terminated")
        return end.status
    except OSError as error:
        _traceback()
        name = os.fsdecode(error.filename) if isinstance(error.filename, (str, bytes)) else error.filename
        say(f"error: {name}: {error.strerror}" if name else f"error: {error}")
    except MemoryError:
        _traceback()
        say("error: not enough memory for a model of this size")
    except (ValueError, TypeError, ArithmeticError) as error:
        _traceback()
        from ..errors import DivergedError

        if isinstance(error, DivergedError):
            say(str(error).replace("learning_rate", "--learning-rate").replace("init_std", "--init-std"))
            return EXIT_DIVERGED
        say(f"error: {error}")
    finally:
        _debug = debug
    return EXIT_ERROR


def _traceback():
    if _debug and sys.stderr is not None:
        from traceback import print_exc

        print_exc()


def _drop(stream, original):
    """Point a stream of the process at nothing, or the interpreter tries once more at exit what has failed, and complains."""
    if stream is None or stream is not original:
        return
    try:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)
        stream.flush()
    except (OSError, ValueError):
        pass


def parser(command: str, description: str, sparse: bool = False) -> "Any":
    """The argparse.ArgumentParser of `microgpt COMMAND`, whose errors are one line.

    sparse: flags that are not given are absent from what it returns.
    """
    from argparse import SUPPRESS, ArgumentParser

    p = ArgumentParser(prog=f"microgpt {command}", description=description, allow_abbrev=False,
                       argument_default=SUPPRESS if sparse else None)  # fmt: skip

    def error(message: str) -> None:
        say(f"error: {message} ({p.prog} --help lists the flags)")
        raise SystemExit(EXIT_ERROR)

    def print_help(file: "Any" = None) -> None:
        write(p.format_help())

    def parse_args(args: "Any" = None, namespace: "Any" = None) -> "Any":
        found, rest = p.parse_known_args(args, namespace)
        if rest:
            error(f"unrecognized arguments: {' '.join(rest)}{_suggestion(rest, p._option_string_actions)}")
        return found

    # Not a class of our own, which stubtest would look for in the module.
    p.error, p.print_help, p.parse_args = error, print_help, parse_args  # type: ignore[method-assign, assignment]
    p.add_argument("--debug", action="store_true", default=SUPPRESS, help="show the traceback of an error as well")
    return p


def _suggestion(rest, known):
    """In words, the flag that the first unknown one was meant to be."""
    for word in rest:
        if word.startswith("-"):
            name = word.partition("=")[0].replace("_", "-")
            return "".join(f"; did you mean {found}?" for found in closest(name, known))
    return ""


def closest(word: str, known: "Collection[str]") -> "list[str]":
    """The one of known that is most like word, or nothing."""
    from difflib import get_close_matches

    return get_close_matches(word, list(known), 1)


def import_arrays() -> None:
    """Import what reading and writing a checkpoint needs, and answer Ctrl-C only when that is done.

    NumPy makes an ImportError of an interrupt, and cannot be imported a second time by the save that answers it.
    """
    if "numpy" in sys.modules and "safetensors.numpy" in sys.modules:
        return
    import signal

    def hold(number: int, frame: "Any") -> None:
        held.append(number)

    held: list[int] = []
    previous = signal.getsignal(signal.SIGINT)
    try:
        # What is ignored or handled in some other way stays so.
        if previous is signal.default_int_handler:
            signal.signal(signal.SIGINT, hold)
    except ValueError:
        pass  # not the main thread, to which interrupts go
    try:
        import numpy  # noqa: F401
        import safetensors.numpy  # noqa: F401
    finally:
        if signal.getsignal(signal.SIGINT) is hold:
            signal.signal(signal.SIGINT, previous)
    if held:
        raise KeyboardInterrupt


def read_docs(path: "str | None", lines: bool = False) -> "tuple[Any, str]":
    """(the documents, where they are from). lines: they need not be a list."""
    from ..data import describe_source, load_docs, load_lines

    return (load_lines if lines else load_docs)(path), describe_source(path)


def say_beyond_block(docs: "Any", block_size: int, what: str) -> None:
    """Say how much of the documents is cut off because they are longer than the block; nothing if none is."""
    if hasattr(docs, "beyond"):  # microgpt.core.text_lines.TextLines, whose strings nobody has made yet
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
    say(f"{count} of {len(docs)} documents are longer than the block of {block_size}: {beyond} of {characters} characters "
        f"({beyond / characters:.1%}) are beyond it and {what}")  # fmt: skip


def check_characters(docs: "Sequence[str]", tokenizer: "Any", path: "str | None", vocabulary: str) -> None:
    """Raise UsageError, with file, line and character, if docs (of path) have a character that is not in the vocabulary."""
    unknown = set().union(*docs).difference(tokenizer.ids)
    if not unknown:
        return
    from ..data import default_source

    path = default_source() if path is None else path
    with open(path, encoding="utf-8-sig", errors="replace") as file:  # "\r" and "\r\n" end lines, as in load_docs
        for number, line in enumerate(file, 1):
            doc = line.strip()
            for i, ch in enumerate(doc):
                if ch in unknown:
                    raise UsageError(
                        f"{path}, line {number}: character {ch!r} (U+{ord(ch):04X}) at index {i} is not in {vocabulary}"
                    )
    ch = min(unknown)  # the file has changed meanwhile
    raise UsageError(f"{path}: character {ch!r} (U+{ord(ch):04X}) is not in {vocabulary}")


def add_sampling(parser, defaults):
    """The flags of sampling, for both commands."""
    parser.add_argument("--temperature", type=float, metavar="X", help=f"default: {defaults['temperature']}")
    parser.add_argument("--samples", type=int, metavar="N", help=f"default: {defaults['samples']}")


def check_sampling(options):
    """Raise UsageError for flags that no sampling can have."""
    if not 0 < options["temperature"] < float("inf"):
        raise UsageError(f"--temperature must be a number greater than 0, not {options['temperature']}")
    if options["samples"] < 0:
        raise UsageError(f"--samples must be at least 0, not {options['samples']}")


def write_samples(trainer, options, own=()):
    """Write the script's line for each sample to stdout; own: characters that are written even if they steer a terminal."""
    out, special = Output(), _special(trainer.tokenizer.uchars)
    for i in range(options["samples"]):
        cuts = options.get("top_k"), options.get("top_p"), options.get("max_length")
        text = trainer.sample_one(options["temperature"], options.get("prompt", ""), *cuts)
        if special:
            from ..text import printable

            text = printable(text, own=own)
        out.write(f"sample {i + 1:2d}: {text}\n")


def _special(uchars):
    """Whether any of the characters may steer a terminal."""
    return not "".join(uchars).isprintable()


def is_terminal(stream: "Any") -> bool:
    """Whether stream, which may be None or anything, is a terminal."""
    try:
        return bool(stream.isatty())
    except (AttributeError, OSError, ValueError):
        return False


class progress:
    """A context whose value is called with the number of steps just done: a bar on a terminal with --quiet."""

    def __init__(self, total, initial, quiet):
        self.bar = None
        if quiet and is_terminal(sys.stderr):
            from tqdm import tqdm

            self.bar = tqdm(total=total, initial=initial, unit="step", file=sys.stderr)

    def __enter__(self):
        global _bar
        _bar = self.bar  # `say` takes it away while it writes
        return self.bar.update if self.bar else (lambda n: None)

    def __exit__(self, *exception):
        global _bar
        _bar = None
        if self.bar:
            self.bar.close()
