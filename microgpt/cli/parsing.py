"""The parsers of the commands: argparse, with errors in one line and a guess at what a misspelt flag was meant to be."""
from .console import EXIT_ERROR, say, write

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence
    from typing import Any, NoReturn

__all__ = ["add_sampling", "closest", "parser"]


def parser(command: str, description: str, examples: "Sequence[str]" = (), sparse: bool = False,
           hint: "Callable[[str, str], str] | None" = None) -> "Any":  # fmt: skip
    """The argparse.ArgumentParser of `microgpt COMMAND`, whose errors are one line.

    examples: command lines that the help ends with. sparse: flags that are not given are absent from what it returns.
    hint: returns what to say of an unknown flag and its value, or "".
    """
    from argparse import SUPPRESS, ArgumentParser, RawDescriptionHelpFormatter
    from re import compile
    from textwrap import fill

    p = ArgumentParser(prog=f"microgpt {command}", description=fill(description, 78), allow_abbrev=False,
                       formatter_class=RawDescriptionHelpFormatter, argument_default=SUPPRESS if sparse else None,
                       epilog="\n  ".join(["examples:", *examples]) if examples else None)  # fmt: skip

    def error(message: str) -> "NoReturn":
        say(f"error: {message} ({p.prog} --help lists the flags)")
        raise SystemExit(EXIT_ERROR)

    def print_help(file: "Any" = None) -> None:
        write(p.format_help())

    def parse_args(args: "Any" = None, namespace: "Any" = None) -> "Any":
        found, rest = p.parse_known_args(args, namespace)
        if rest:
            error(f"unrecognized arguments: {' '.join(rest)}{_suggestion(rest, p._option_string_actions, hint)}")
        return found

    # Python before 3.14 takes -1e-05 for an unknown flag, and so misses the value of the one before it.
    p._negative_number_matcher = compile(r"-\.?\d")
    # Not a class of our own, which stubtest would look for in the module.
    vars(p).update(error=error, print_help=print_help, parse_args=parse_args)
    p.add_argument("--debug", action="store_true", default=SUPPRESS, help="show the traceback of an error as well")
    return p


def _suggestion(rest: "list[str]", known: "Collection[str]", hint: "Callable[[str, str], str] | None") -> str:
    """Return, in words, the flag that the first unknown one was meant to be."""
    for i, word in enumerate(rest):
        if word.startswith("-"):
            name, _, value = word.partition("=")
            name = name.replace("_", "-")
            said = "" if hint is None else hint(name, value or "".join(rest[i + 1 : i + 2]))
            if said:
                return f"; {said}"
            flags = {flag.lstrip("-"): flag for flag in known}  # two words are not alike because both begin with --
            return "".join(f"; did you mean {flags[found]}?" for found in closest(name.lstrip("-"), flags))
    return ""


def closest(word: str, known: "Collection[str]") -> "list[str]":
    """The one of known that is most like word, or nothing."""
    from difflib import get_close_matches

    return get_close_matches(word, list(known), 1)


def add_sampling(parser: "Any", defaults: "dict[str, Any]") -> None:
    """Add the flags of sampling, which two commands have."""
    parser.add_argument("--temperature", type=float, metavar="X", help="below 1 the samples are more probable, above it more "
                        f"varied; default: {defaults['temperature']}")  # fmt: skip
    parser.add_argument("--samples", type=int, metavar="N", help=f"documents to sample; default: {defaults['samples']}")
