"""What the commands share: errors in one line, exit statuses, messages, samples and progress."""
import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

EXIT_ERROR, EXIT_INTERRUPTED, EXIT_TERMINATED = 2, 130, 143


class UsageError(ValueError):
    """Arguments that cannot be carried out."""


class Terminated(BaseException):
    """SIGTERM arrived."""


def say(message: str) -> None:
    """A line for the person at the terminal; stdout is the script's alone."""
    print(f"microgpt: {message}", file=sys.stderr, flush=True)


def flag(name: str) -> str:
    """The flag of a setting: n_embd -> --n-embd."""
    return "--" + name.replace("_", "-")


def run(command: "Callable[[Any], None]", arguments: "Any") -> int:
    """Carry out command(arguments); returns the exit status. What a user can cause ends in one line, no traceback."""
    if sys.stdout.encoding.lower().replace("-", "") != "utf8":
        sys.stdout.reconfigure(encoding="utf-8")  # type: ignore[union-attr]
    try:
        command(arguments)
        sys.stdout.flush()
        return 0
    except BrokenPipeError:
        # Whoever read our stdout has gone. Point it at nothing, or the interpreter complains again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_ERROR
    except KeyboardInterrupt:
        say("interrupted")
        return EXIT_INTERRUPTED
    except Terminated:
        say("terminated")
        return EXIT_TERMINATED
    except OSError as error:
        say(f"error: {error.filename}: {error.strerror}" if error.filename else f"error: {error}")
    except MemoryError:
        say("error: not enough memory for a model of this size")
    except (ValueError, TypeError, ArithmeticError) as error:
        say(f"error: {error}")
    return EXIT_ERROR


def parser(command: str, description: str, sparse: bool = False) -> "Any":
    """The argparse.ArgumentParser of `python -m microgpt.COMMAND`, whose errors are one line.

    sparse: flags that are not given are absent from what it returns.
    """
    from argparse import SUPPRESS, ArgumentParser

    p = ArgumentParser(prog=f"python -m microgpt.{command}", description=description,
                       argument_default=SUPPRESS if sparse else None)  # fmt: skip

    def error(message: str) -> None:
        say(f"error: {message} ({p.prog} --help lists the flags)")
        raise SystemExit(EXIT_ERROR)

    # Not a class of our own, which stubtest would look for in the module.
    p.error = error  # type: ignore[method-assign, assignment]
    return p


def import_arrays() -> None:
    """Import what reading and writing a checkpoint needs, and answer Ctrl-C only when that is done.

    NumPy makes an ImportError of an interrupt, and cannot be imported a second time by the save that answers it.
    """
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
    from .data import describe_source, load_docs, load_lines

    return (load_lines if lines else load_docs)(path), describe_source(path)


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


def write_samples(trainer, options):
    """Write the script's line for each sample to stdout."""
    for i in range(options["samples"]):
        cuts = options.get("top_k"), options.get("top_p"), options.get("max_length")
        text = trainer.sample_one(options["temperature"], options.get("prompt", ""), *cuts)
        sys.stdout.write(f"sample {i + 1:2d}: {text}\n")


class progress:
    """A context whose value is called with the number of steps just done: a bar on a terminal with --quiet."""

    def __init__(self, total, initial, quiet):
        self.bar = None
        if quiet and sys.stderr.isatty():
            from tqdm import tqdm

            self.bar = tqdm(total=total, initial=initial, unit="step", file=sys.stderr)

    def __enter__(self):
        return self.bar.update if self.bar else (lambda n: None)

    def __exit__(self, *exception):
        if self.bar:
            self.bar.close()
