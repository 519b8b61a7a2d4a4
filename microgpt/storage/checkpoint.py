"""A run in one file: plain state to .safetensors and back. This module knows no Trainer.

Tensors, float64: every weight under the script's own name with its shape [nout, nin], and Adam's moments under
`adam.m.NAME` and `adam.v.NAME`; uint32: `rng.state`, the 625 words of the Mersenne Twister. All else is JSON in the
metadata entry `microgpt`: see metadata.py. NumPy and safetensors are imported only when a file is read or written.

A file may come from anywhere: nothing in it is used before it is checked, nothing is sized by what it claims before
that has been compared with the size of the file, and nothing in it is ever executed. It is opened once: another process
may replace it at any time, and header and tensors must be those of one save.
"""
import json
import os
import sys

from ..config import split_parameters
from ..errors import CheckpointError, NamingFile, printable
from ..files import write_atomically
from .metadata import describe, parse

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, BinaryIO

    from .._types import Array, Path
    from ..config import Config

    Entries = dict[str, Any]

__all__ = ["CheckpointError", "State", "check_savable", "import_arrays", "load", "read_about", "save"]

MAX_HEADER = 8 * 2**20  # bytes: some thousand layers, or any vocabulary


class State:
    """A run as plain data, from which `Trainer.from_state` continues it.

    Attributes
    ----------
    config : Config
        The settings that the run began with.
    step_index : int
        The steps done so far.
    uchars : list of str
        The vocabulary.
    docs_sha256 : str
        Digest of the documents as shuffled: see `microgpt.data.docs_digest`.
    extra : dict
        What JSON can hold.
    adam : dict
        Adam's settings as they are now: learning_rate, beta1, beta2, eps, num_steps.
    params, m, v : float64 arrays [num_params]
        Parameters and Adam's moments, in the order of the script's state dict.
    rng : tuple
        (version, the 625 words of the Mersenne Twister, gauss_next), as `random.Random.getstate()` returns it.
    """

    def __init__(
        self,
        config: "Config",
        step_index: int,
        uchars: "list[str]",
        docs_sha256: str,
        extra: "dict[str, Any]",
        adam: "dict[str, Any]",
        params: "Array",
        m: "Array",
        v: "Array",
        rng: "tuple[int, tuple[int, ...], float | None]",
    ) -> None:
        self.config, self.step_index, self.uchars, self.docs_sha256 = config, step_index, uchars, docs_sha256
        self.extra, self.adam, self.params, self.m, self.v, self.rng = extra, adam, params, m, v, rng

    @property
    def vocab_size(self) -> int:
        """The characters and BOS."""
        return len(self.uchars) + 1

    def copy(self) -> "State":
        """Return a State that shares no array and no dict with this one."""
        from copy import deepcopy

        return State(self.config, self.step_index, [*self.uchars], self.docs_sha256, deepcopy(self.extra),
                     {**self.adam}, self.params.copy(), self.m.copy(), self.v.copy(), self.rng)  # fmt: skip

    def __repr__(self) -> str:
        return f"<State: step {self.step_index} of {self.config.num_steps}, {self.params.size} parameters>"


def import_arrays() -> None:
    """Import what reading and writing a checkpoint needs, and answer Ctrl-C only when that is done.

    NumPy turns an interrupt into an ImportError, and cannot be imported a second time by the save that answers it.
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


def save(path: "Path", state: State) -> None:
    """Write a run to path, atomically: at any moment path holds either its old content or all of the new.

    Raises OSError if the file cannot be written, TypeError or ValueError for extra data or settings that a file cannot hold;
    the old file is then untouched.
    """
    import_arrays()
    import numpy as np
    from safetensors.numpy import save as serialize

    about, names, tensors = check_savable(state), state.config.shapes(state.vocab_size), {}
    parts = {prefix: split_parameters(flat, names) for prefix, flat in _flat(state)}
    for name in names:
        for prefix, matrices in parts.items():
            tensors[prefix + name] = matrices[name]
    tensors["rng.state"] = np.array(state.rng[1], dtype=np.uint32)
    write_atomically(path, serialize(tensors, metadata={"microgpt": about}))


def _flat(state: State) -> "list[tuple[str, Array]]":
    return [("", state.params), ("adam.m.", state.m), ("adam.v.", state.v)]


def check_savable(state: State) -> str:
    """Return the metadata of a run. Raises TypeError or ValueError, in one line, if no file could hold the run."""
    about = describe(state)
    names, num_params = state.config.shapes(state.vocab_size), state.config.num_params(state.vocab_size)
    entry = {"dtype": "F64", "shape": [num_params] * 2, "data_offsets": [24 * num_params] * 2}
    # At least what it will be: names and offsets are no longer than these.
    tensors = 3 * sum(len(name) + len("adam.m.") + len(json.dumps(entry)) + 4 for name in names)
    metadata = len(json.dumps(about)) + 100
    if metadata + tensors > MAX_HEADER:
        cause = "it has too many layers" if tensors > metadata else "its extra data is too long"
        raise CheckpointError(f"this run cannot be saved: {cause} for a header of {MAX_HEADER} bytes")
    return about


def load(path: "Path") -> State:
    """Return the run that a file holds.

    Raises CheckpointError for a file that is damaged or not a checkpoint, OSError if it cannot be read.
    """
    about, arrays = _read(os.fspath(path), _read_whole)
    config = about["config"]
    rng = 3, tuple(arrays["rng.state"].tolist()), about["gauss_next"]
    return State(config, about["step_index"], list(about["uchars"]), about["docs_sha256"], about["extra"],
                 about.get("adam", config.adam_arguments), arrays[""], arrays["adam.m."], arrays["adam.v."], rng)  # fmt: skip


def read_about(path: "Path") -> "dict[str, Any]":
    """Return the metadata of a file, checked, without its tensors: see `microgpt.storage.metadata.parse`.

    Raises CheckpointError for a file that is damaged or not a checkpoint, OSError if it cannot be read.
    """
    return _read(os.fspath(path), _read_header)[0]


def _damaged(path: str, error: Exception) -> CheckpointError:
    return CheckpointError(f"{path} is damaged or not a checkpoint: {printable(' '.join(str(error).split()), 500)}")


def _read(
    path: str, part: "Callable[[BinaryIO], tuple[dict[str, Any], dict[str, Any]]]"
) -> "tuple[dict[str, Any], dict[str, Any]]":
    """Return part(file) of the open file; an error names the path."""
    with open(path, "rb") as file, NamingFile(path):
        try:
            return part(file)
        except CheckpointError as error:
            raise _damaged(path, error) from None


def _read_header(file: "BinaryIO") -> "tuple[dict[str, Any], Entries]":
    """Return the checked metadata, and the tensors' entries, of a file whose size is what the metadata makes it."""
    size = os.fstat(file.fileno()).st_size
    length = int.from_bytes(file.read(8), "little")
    if size < 8 or length > min(size - 8, MAX_HEADER):
        raise CheckpointError("its header does not fit the file")
    try:
        header = json.loads(file.read(length))
    except (ValueError, RecursionError):
        raise CheckpointError("its header is not JSON") from None
    metadata = header.pop("__metadata__", None) if isinstance(header, dict) else None
    about = parse(metadata.get("microgpt") if isinstance(metadata, dict) else None)
    # Before anything is sized by n_layer: a file that claims many layers must hold as many tensors.
    if len(header) != 1 + 3 * (3 + 6 * about["config"].n_layer):
        raise CheckpointError("it does not hold the tensors of its settings")
    num_params = about["config"].num_params(len(about["uchars"]) + 1)
    if size != 8 + length + 3 * 8 * num_params + 4 * 625:
        raise CheckpointError("its size is not that of its tensors")
    return about, header


def _read_whole(file: "BinaryIO") -> "tuple[dict[str, Any], dict[str, Any]]":
    """Return the checked metadata, and {prefix: flat float64 array}; every part is checked before it is used."""
    about, entries = _read_header(file)
    import_arrays()
    import numpy as np

    vocab_size, config = len(about["uchars"]) + 1, about["config"]
    arrays: dict[str, Any] = {
        prefix: np.empty(config.num_params(vocab_size), "<f8") for prefix in ("", "adam.m.", "adam.v.")
    }
    stream = np.empty(625, "<u4")
    places = [_place(entries, "rng.state", "U32", stream)]
    for prefix, flat in arrays.items():
        for name, matrix in split_parameters(flat, config.shapes(vocab_size)).items():
            places.append(_place(entries, prefix + name, "F64", matrix))
    arrays["rng.state"] = stream
    end = 0
    for (begin, last), part in sorted(places, key=lambda place: place[0]):
        if begin != end:
            raise CheckpointError("its tensors overlap or leave a gap")
        if file.readinto(memoryview(part).cast("B")) != part.nbytes:  # type: ignore[attr-defined]  # of a BufferedReader
            raise CheckpointError("it ends before its last tensor does")
        end = last
    if not 1 <= arrays["rng.state"][624] <= 624:
        raise CheckpointError("the state of its random stream is impossible")
    return about, {prefix: found.astype(found.dtype.newbyteorder("="), copy=False) for prefix, found in arrays.items()}


def _place(entries: "Entries", name: str, dtype: str, part: "Any") -> "tuple[tuple[int, int], Any]":
    """Return ((begin, end) of a tensor's bytes, the array that they fill). Raises CheckpointError for a wrong entry."""
    shape = list(part.shape)
    if name not in entries:
        raise CheckpointError(f"there is no tensor {name}")
    entry = entries[name]
    found: tuple[Any, ...] = (None,) * 3
    if isinstance(entry, dict):
        found = entry.get("dtype"), entry.get("shape"), entry.get("data_offsets")
    if found[:2] != (dtype, shape) or any(type(n) is not int for n in found[1]):
        raise CheckpointError(f"{name} is {found[0]} {found[1]}, not {dtype} {shape}")
    offsets = found[2]
    if not isinstance(offsets, list) or len(offsets) != 2 or any(type(n) is not int for n in offsets):
        raise CheckpointError(f"{name} has no place in the file")
    if offsets[1] - offsets[0] != part.nbytes:
        raise CheckpointError(f"{name} takes {offsets[1] - offsets[0]} bytes, not {part.nbytes}")
    return (offsets[0], offsets[1]), part
