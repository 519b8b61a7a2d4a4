"""The exceptions of this package, and text from elsewhere made safe to show.

    MicrogptError
    ├── DivergedError      (also a ValueError and an ArithmeticError)
    ├── CheckpointError    (also a ValueError)
    ├── LogError           (also a ValueError)
    ├── NoThreadError      (also a RuntimeError)
    └── UsageError         (also a ValueError)

What Python itself has a name for keeps that name: ValueError and TypeError for arguments, OSError for files,
ImportError for a missing package.
"""
import math
import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection

    from ._types import Path
    from .config import Config

__all__ = ["CheckpointError", "DivergedError", "LogError", "MicrogptError", "NoThreadError", "UsageError", "printable"]


class MicrogptError(Exception):
    """Base of the exceptions that only this package raises."""


class DivergedError(MicrogptError, ValueError, ArithmeticError):
    """The script's own arithmetic failed: the model gave a token the probability 0, or a number overflowed.

    `except ValueError` and `except ArithmeticError` catch it, because the script's own exception is one of these; it is
    `__cause__`. The trainer is in the state after the last whole step.

    Attributes
    ----------
    step : int
        The step that failed, counted from 1; if a sample failed, the last step that was done.
    """

    def __init__(self, message: str, step: int = 0) -> None:
        super().__init__(message)
        self.step = step


class CheckpointError(MicrogptError, ValueError):
    """A file is not a checkpoint, is damaged, or does not fit the run; or no file can hold the run."""


class LogError(MicrogptError, ValueError):
    """A file is not the log of a run, or not the results of a sweep."""


class NoThreadError(MicrogptError, RuntimeError):
    """The system starts no more threads."""


class UsageError(MicrogptError, ValueError):
    """A command was given arguments that it cannot carry out."""


class CrewStopped(Exception):
    """Another process of the crew has failed, or left: see `core.crew.join_crew`. Within this package alone."""


class NamingFile:
    """For a `with` around reads of an open file: gives their OSError the file's name, which the system leaves out."""

    def __init__(self, path: "Path") -> None:
        self.path = path

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: "BaseException | None", traceback: object) -> None:
        if isinstance(error, OSError) and error.filename is None and error.errno is not None:
            raise OSError(error.errno, error.strerror, os.fsdecode(self.path)) from None


def diverged_step(error: Exception, step: int, config: "Config", learning_rate: float) -> "DivergedError | None":
    """Return the DivergedError for a step (counted from 1) that failed with error; None if error is not arithmetic's."""
    if type(error) is ValueError and str(error) == NEGATIVE_V:
        words = "Adam's second moment is negative, and has no real square root: set v to numbers from 0 on"
        return DivergedError(f"the run diverged at step {step}: {words}", step)
    if type(error) is ValueError and str(error) == _log_of_zero():
        reason = "the model gave a token of the text the probability 0, which has no logarithm"
    elif type(error) is OverflowError:
        reason = "a number became too large for a double"
    elif type(error) is ZeroDivisionError:
        reason = "a division by zero"
    else:
        return None
    advice = advice_after_divergence(config, learning_rate, step)
    return DivergedError(f"the run diverged at step {step}: {reason} ({error.args[-1]}); try {advice}", step)


def advice_after_divergence(config: "Config", learning_rate: float, step: int) -> str:
    """Return which settings may have made a run diverge at a step, in words: those far from what any run learns with."""
    from .config import DEFAULTS

    init_std = f"an init_std lower than {config.init_std}"
    if step == 1:
        return init_std  # nothing has been learned yet
    found = []
    if learning_rate * config.weight_decay > 1:  # more than the whole of a parameter
        found.append(f"a weight_decay lower than {config.weight_decay}")
    if config.init_std > 1:
        found.append(init_std)
    if not found or learning_rate > DEFAULTS["learning_rate"]:
        found.insert(0, f"a learning_rate lower than {learning_rate}")
    return " or ".join(found)


#: What the engines say where Adam meets a negative second moment (core/adam.pyx says it too).
NEGATIVE_V = "v is negative: its square root is not a real number"


def is_sampling_failure(error: Exception) -> bool:
    """Return whether error is what drawing from probabilities that are not finite raises."""
    if type(error) is ValueError:
        return str(error).startswith("Total of weights")
    return type(error) in (OverflowError, ZeroDivisionError)


def _log_of_zero() -> str:
    """Return the running Python's words for the logarithm of 0."""
    try:
        math.log(0.0)
    except ValueError as error:
        return str(error)
    return ""


#: Line and paragraph separators, and the characters that change the direction of what follows them.
_STEERING = frozenset("\u2028\u2029\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


def printable(text: object, limit: "int | None" = None, own: "Collection[str]" = ()) -> str:
    r"""Return str(text) as one line in which what steers a terminal is an escape, such as \n, \x1b or \u202e.

    Escaped are control characters (C0 but for the tab, DEL, C1), line and direction controls, and lone surrogates,
    which no file in UTF-8 can hold. Joiners, spaces and marks that texts need stay. A backslash is not doubled: the
    result is for reading, not for parsing.

    Parameters
    ----------
    text : object
        Text from a file, a command line or another program.
    limit : int, optional
        Most characters of text; what is longer ends in "...".
    own : collection of str
        Characters to keep.

    Examples
    --------
    >>> print(printable("a\x1b[2J\nb"))
    a\x1b[2J\nb
    """
    found = str(text)
    if limit is not None and len(found) > limit:
        found = found[: limit - 3] + "..."
    if found.isprintable():
        return found
    return "".join(ch.encode("unicode_escape").decode() if _steers(ch) and ch not in own else ch for ch in found)


def _steers(ch: str) -> bool:
    return ch < " " and ch != "\t" or "\x7f" <= ch <= "\x9f" or "\ud800" <= ch <= "\udfff" or ch in _STEERING


def class_name(given: object, wanted: str = "Value") -> str:
    """Return the name of given's class for a message that wants another class: with its module, if it is called the same.

    >>> class_name(1.0)
    'float'
    """
    kind = type(given)
    return kind.__name__ if kind.__name__ != wanted else f"{kind.__module__}.{kind.__qualname__}"


def exit_if_command(error: ImportError) -> None:
    """Exit as a command does if the package cannot be imported because of the user's environment; else return.

    Python imports the package before the command's module, so no code of the command can catch this.
    """
    import os
    import sys

    words = sys.orig_argv
    module = words[words.index("-m") + 1] if "-m" in words[:-1] else ""
    script = os.path.basename((sys.argv or [""])[0]).removesuffix(".exe")  # of the wheel: microgpt, microgpt-train, ...
    if module.partition(".")[0] == "microgpt" or script == "microgpt" or script.startswith("microgpt-"):
        if sys.stderr is not None:
            print(f"microgpt: error: {error}", file=sys.stderr)
        raise SystemExit(2) from None
