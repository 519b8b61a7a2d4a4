"""A user's own parameters in a file: `save_values` and `load_values`, names to Values and back, with an optimizer's state.

One .safetensors file: a float64 tensor for each name, with the shape of the nested lists; `optimizer.m` and
`optimizer.v`; in the metadata entry `microgpt_values`, as JSON, the optimizer's kind and step.
"""
import json
import os

from ..core.value import Value
from ..errors import CheckpointError, NamingFile, class_name, printable
from ..files import write_atomically

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from .._types import Path
    from ..core.adam import Adam
    from ..core.optim import SGD

__all__ = ["load_values", "save_values"]

ENTRY, PREFIX, MAX_HEADER = "microgpt_values", "optimizer.", 8 * 2**20


def save_values(path: "Path", named: "Mapping[str, Any]", optimizer: "Adam | SGD | None" = None) -> None:
    """Write Values to path, atomically: at any moment path holds either its old content or all of the new.

    Parameters
    ----------
    path : str or path
        The file; by custom it ends in .safetensors.
    named : mapping
        Names, each with a Value or with lists of Values, nested as deep as you like and rectangular. A model's
        `state_dict` is one.
    optimizer : Adam or SGD, optional
        Its moments and its step are written too, its settings are not.

    Raises
    ------
    TypeError, ValueError
        Something cannot be saved: what is not a Value, lists of unequal lengths, a name that begins with `optimizer.`.
    OSError
        The file cannot be written; the old one is untouched.
    """
    from .checkpoint import import_arrays

    import_arrays()
    import numpy as np
    from safetensors.numpy import save as serialize

    tensors = {}
    for name, values, shape in _flat(named):
        tensors[name] = np.array([value.data for value in values], dtype="<f8").reshape(shape)
    about: dict[str, Any] = {"format": 1, "optimizer": None}
    if optimizer is not None:
        moments = _moments(optimizer)
        about["optimizer"] = {"kind": _kind(optimizer), "step_index": optimizer.step_index}
        tensors.update({PREFIX + part: np.array(array, dtype="<f8") for part, array in moments.items()})
    write_atomically(path, serialize(tensors, metadata={ENTRY: json.dumps(about)}))


def load_values(path: "Path", named: "Mapping[str, Any]", optimizer: "Adam | SGD | None" = None) -> None:
    """Read what `save_values` wrote into the Values in named, in place; their gradients stay as they are.

    Parameters
    ----------
    path : str or path
        The file.
    named : mapping
        The same names and shapes as when it was saved.
    optimizer : Adam or SGD, optional
        Gets the moments and the step in the file. It must be of the kind that was saved, over as many Values. Its settings
        stay as they are.

    Raises
    ------
    CheckpointError
        The file is damaged, or holds other names, shapes or another optimizer. Nothing has changed then.
    OSError
        The file cannot be read.
    TypeError, ValueError
        As for `save_values`.
    """
    from ..engines.base import set_each
    from .checkpoint import import_arrays

    import_arrays()
    wanted = _flat(named)
    moments = {} if optimizer is None else _moments(optimizer)
    path = os.fspath(path)
    with open(path, "rb") as file, NamingFile(path):
        content = file.read()
    tensors, about = _parse(path, content)
    found = {name: array for name, array in tensors.items() if not name.startswith(PREFIX)}
    missing = [name for name, _, _ in wanted if name not in found]
    unknown = found.keys() - {name for name, _, _ in wanted}
    if missing:
        raise _unfit(path, f"it holds no {missing[0]!r}")
    if unknown:
        raise _unfit(path, f"it holds {min(unknown)!r}, for which there are no Values")
    for name, _, shape in wanted:
        _check(path, name, found[name], shape)
    if optimizer is not None:
        saved = about["optimizer"]
        if saved is None:
            raise _unfit(path, "it was saved without an optimizer")
        if saved["kind"] != _kind(optimizer):
            raise _unfit(path, f"it was saved with {printable(saved['kind'])}, not with {_kind(optimizer)}")
        for part, array in moments.items():
            if PREFIX + part not in tensors:
                raise _unfit(path, f"it holds no {PREFIX + part!r}")
            _check(path, PREFIX + part, tensors[PREFIX + part], array.shape)
    for name, values, _ in wanted:
        set_each(values, "data", found[name].ravel().tolist())
    if optimizer is not None:
        for part, array in moments.items():
            array[:] = tensors[PREFIX + part]
        optimizer.step_index = about["optimizer"]["step_index"]


def _kind(optimizer: "Any") -> str:
    from ..core.adam import Adam
    from ..core.optim import SGD

    for kind in (Adam, SGD):
        if isinstance(optimizer, kind):
            return kind.__name__
    raise TypeError(f"optimizer must be a microgpt.Adam or a microgpt.SGD, not {type(optimizer).__name__}")


def _moments(optimizer: "Any") -> "dict[str, Any]":
    return {"m": optimizer.m, "v": optimizer.v} if _kind(optimizer) == "Adam" else {"m": optimizer.m}


def _flat(named: "Mapping[str, Any]") -> "list[tuple[str, list[Value], tuple[int, ...]]]":
    """Return (name, its Values, their shape) for each name."""
    flat = []
    for name, given in named.items():
        if not isinstance(name, str):
            raise TypeError(f"names must be str, not {name!r}")
        if name.startswith(PREFIX) or name == "__metadata__":
            raise ValueError(f"{name!r} cannot be a name: it is used for the optimizer and the metadata")
        values: list[Value] = []
        flat.append((name, values, _collect(name, given, values)))
    return flat


def _collect(name: str, given: "Any", values: "list[Value]") -> "tuple[int, ...]":
    if isinstance(given, Value):
        values.append(given)
        return ()
    if not isinstance(given, (list, tuple)):
        raise TypeError(f"{name} must be a Value or lists of Values, not {class_name(given)}")
    shapes = {_collect(name, item, values) for item in given}
    if len(shapes) > 1:
        raise ValueError(f"the lists of {name} must be of equal lengths")
    return (len(given), *(shapes.pop() if shapes else ()))


def _unfit(path: str, why: str) -> CheckpointError:
    return CheckpointError(f"{path} does not fit: {why}")


def _check(path: str, name: str, array: "Any", shape: "tuple[int, ...]") -> None:
    if array.dtype != "<f8" or array.shape != shape:
        raise _unfit(path, f"{name} is {array.dtype} {list(array.shape)}, not float64 {list(shape)}")


def _parse(path: str, content: bytes) -> "tuple[dict[str, Any], dict[str, Any]]":
    """Return the tensors and the metadata, checked."""
    from safetensors import SafetensorError
    from safetensors.numpy import load

    def damaged(why: object) -> CheckpointError:
        return CheckpointError(f"{path} is damaged or was not written by save_values: {printable(' '.join(str(why).split()), 500)}")

    length = int.from_bytes(content[:8], "little")
    if len(content) < 8 or length > min(len(content) - 8, MAX_HEADER):
        raise damaged("its header does not fit the file")
    try:
        about = json.loads(json.loads(content[8 : 8 + length])["__metadata__"][ENTRY])
        optimizer = about["optimizer"]
        sound = about["format"] == 1
        if optimizer is not None:
            sound = sound and isinstance(optimizer["kind"], str) and type(optimizer["step_index"]) is int
            sound = sound and 0 <= optimizer["step_index"] <= 2**62
    except (ValueError, KeyError, TypeError, RecursionError):
        sound = False
    if not sound:
        raise damaged(f"its metadata has no proper entry {ENTRY}")
    try:
        return load(content), about
    except (SafetensorError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise damaged(error) from None
