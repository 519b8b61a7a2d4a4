"""Output files, checked before anything is computed: none is an input, another output or a standard stream; all can be written,
and none replaces a file that a command like this has not written: a mistyped flag would destroy it.
"""
import os

from .. import files
from ..data import BUNDLED
from ..errors import NamingFile, UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

__all__ = ["check_outputs"]

_BEGINNING = 512  # bytes by which a kind of file is recognised
_PICTURES = (b"\x89PNG", b"%PDF-", b"<?xml", b"<svg")


def _is_checkpoint(begin: bytes) -> bool:
    """Return whether a safetensors file begins so: the length of a JSON object, and the object."""
    return begin[8:9] == b"{" and int.from_bytes(begin[:8], "little") < 1 << 32


def _is_report(begin: bytes) -> bool:
    from ..web.report_page import GENERATOR

    return GENERATOR.encode() in begin


#: What a file that an output replaces must be, by the name of the output. Of logs and results, what writes them reads the lines.
_KINDS: "dict[str, tuple[str, Callable[[bytes], bool]]]" = {
    **dict.fromkeys(("--save", "--save-best", "the best model of --save"), ("no checkpoint", _is_checkpoint)),
    "--plot": ("no picture", lambda begin: begin.startswith(_PICTURES)),
    "--c": ("no C program of microgpt export", lambda begin: b"made by `microgpt export`" in begin),
    "--json": ("no model of microgpt export", lambda begin: begin.startswith(b'{"n_embd":')),
    "--output": ("no report", _is_report),
}


def check_outputs(
    outputs: "Sequence[tuple[str, str]]",
    inputs: "Sequence[tuple[str, str | int]]",
    in_place: "Collection[str]" = (),
    replacing: "Collection[tuple[str, str]]" = (),
) -> None:
    """Raise UsageError or OSError for an output that cannot be one; nothing is left behind.

    Parameters
    ----------
    outputs, inputs : sequence of (str, path)
        What each file is called, as a rule its flag, and the file; of an input also a descriptor.
    in_place : collection of str
        Outputs that are opened rather than replaced as a whole.
    replacing : collection of (str, str)
        Pairs of an output and an input that may be one file.
    """
    for name, path in outputs:
        if not path:
            raise UsageError(f"{name} needs the name of a file, not ''")
    if not outputs:
        return
    inputs = [*inputs, ("the bundled text", BUNDLED)]
    for output in outputs:
        _refuse(files.find_overlap([output], [entry for entry in inputs if (output[0], entry[0]) not in replacing]))
    _refuse(files.find_overlap(outputs, _standard_streams()))
    for name, path in outputs:
        files.check_writable(path, in_place=name in in_place)
        _check_kind(name, path)


def _check_kind(name: str, path: str) -> None:
    """Raise UsageError if path is a file, not an empty one, that is of another kind than the output."""
    if name not in _KINDS:
        return
    try:
        with open(path, "rb") as file, NamingFile(path):
            begin = file.read(_BEGINNING)
    except FileNotFoundError:
        return
    kind, is_of_kind = _KINDS[name]
    if begin and not is_of_kind(begin):
        raise UsageError(f"{name} {path} would replace a file that is {kind}: remove it first, or give another name")


def _refuse(overlap: "tuple[tuple[str, str], tuple[str, str | int]] | None") -> None:
    if overlap:
        (name, path), (other, other_path) = overlap
        if other_path == path or isinstance(other_path, int):
            raise UsageError(f"{name} {path} would overwrite {other}: it is the same file")
        raise UsageError(f"{name} {path} would overwrite {other} {other_path}: they are the same file")


def _standard_streams() -> "list[tuple[str, str | int]]":
    """Return the files to which stdout and stderr go, as `find_overlap` takes them."""
    import stat

    found: list[tuple[str, str | int]] = []
    for descriptor, name in ((1, "stdout"), (2, "stderr")):
        try:
            if stat.S_ISREG(os.fstat(descriptor).st_mode):
                found.append((name, descriptor))
        except OSError:
            pass
    return found
