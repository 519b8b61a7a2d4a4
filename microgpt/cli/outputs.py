"""Output files, checked before anything is computed: none is an input, another output or a standard stream; all can be written."""
import os

from .. import files
from ..data import BUNDLED
from ..errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

__all__ = ["check_outputs"]


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
