"""`microgpt --completion SHELL`: a script that completes commands, flags and file names in a shell, made by shtab."""
import re

from ..errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__all__ = ["completion"]

_FILES, _FOLDERS = re.compile(r"FILE|MODEL|LOG|SCRIPT|\.\w+$"), re.compile("FOLDER")


def completion(shell: str, commands: "dict[str, tuple[str, Any]]") -> str:
    """Return the script of a shell (bash, zsh, fish, tcsh). commands: what each does, in words, and its ArgumentParser.

    Raises UsageError without shtab, and for a shell that it does not know.
    """
    try:
        import shtab
    except ImportError:
        raise UsageError("--completion needs shtab: pip install 'microgpt-exact[completion]'") from None
    if shell not in shtab.SUPPORTED_SHELLS:
        raise UsageError(f"--completion knows {', '.join(shtab.SUPPORTED_SHELLS)}, not {shell!r}")
    from argparse import ArgumentParser

    top = ArgumentParser(prog="microgpt")
    top.add_argument("--version", action="store_true", help="write the version")
    top.add_argument("--debug", action="store_true", help="show the traceback of an error as well")
    found = top.add_subparsers(dest="command")
    for name, (words, parser) in commands.items():
        child = found.add_parser(name, help=words, parents=[parser], add_help=False)
        for action in child._actions:
            metavar = action.metavar if isinstance(action.metavar, str) else ""
            kind = shtab.FILE if _FILES.search(metavar) else shtab.DIRECTORY if _FOLDERS.search(metavar) else None
            if kind is not None:
                action.complete = kind  # type: ignore[attr-defined]  # what shtab looks for
    return str(shtab.complete(top, shell))
