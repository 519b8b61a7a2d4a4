"""A run in one file: weights, moments, step, random stream, vocabulary and settings, as .safetensors.

Tensors, float64: every weight under the script's own name with its shape [nout, nin], and Adam's moments under
`adam.m.NAME` and `adam.v.NAME`; uint32: `rng.state`, the 625 words of the Mersenne Twister. All else is JSON in the
metadata entry `microgpt`: see metadata.py. NumPy and safetensors are imported here only when a file is read or written.

A file that is read may come from anywhere: nothing in it is believed before it is checked, nothing is sized by what it
claims before that has been compared with the size of the file, and nothing in it is ever executed. It is opened once:
another process may replace it at any time, and header and tensors must be those of one save.
"""
import hashlib
import json
import os

from .files import write_atomically
from .metadata import CheckpointError, describe, parse
from .text import printable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from .trainer import Trainer

__all__ = ["CheckpointError", "check_savable", "docs_digest", "load", "read_about", "save", "shapes"]

MAX_HEADER = 8 * 2**20  # bytes: some thousand layers, or any vocabulary


def docs_digest(docs: "Sequence[str]") -> str:
    """SHA-256 of the documents as shuffled, in hexadecimal: which text a run trains on, and in which order."""
    lengths = ",".join(map(str, map(len, docs)))  # so that ["ab"] is not ["a", "b"]
    return hashlib.sha256(f"{lengths}\n{''.join(docs)}".encode("utf-8", "surrogatepass")).hexdigest()


def shapes(vocab_size: int, settings: "dict[str, Any]") -> "dict[str, tuple[int, int]]":
    """The script's state_dict as name -> (nout, nin), in its order."""
    n_embd = settings["n_embd"]
    found = {"wte": (vocab_size, n_embd), "wpe": (settings["block_size"], n_embd), "lm_head": (vocab_size, n_embd)}
    for i in range(settings["n_layer"]):
        for name in ("attn_wq", "attn_wk", "attn_wv", "attn_wo"):
            found[f"layer{i}.{name}"] = (n_embd, n_embd)
        found[f"layer{i}.mlp_fc1"] = (4 * n_embd, n_embd)
        found[f"layer{i}.mlp_fc2"] = (n_embd, 4 * n_embd)
    return found


def save(trainer: "Trainer", path: "str | os.PathLike[str]") -> None:
    """Write the whole run to path, atomically: at any moment path holds either its old content or all of the new.

    What is saved is what trains: settings changed on `trainer.adam` are those that the loaded run goes on with.
    Raises OSError where the file cannot be written, TypeError or ValueError for notes or settings that a file cannot
    hold; what stood there before is then untouched.
    """
    import numpy as np
    from safetensors.numpy import save as serialize

    _, state, gauss_next = trainer.rng.getstate()
    about = _describe(trainer, gauss_next)
    tensors, first, adam = {}, 0, trainer._engine.adam
    flat = {
        "": trainer._engine.get_data(),
        "adam.m.": np.asarray(adam.m, dtype=np.float64),
        "adam.v.": np.asarray(adam.v, dtype=np.float64),
    }
    for name, (nout, nin) in shapes(trainer.tokenizer.vocab_size, trainer.settings).items():
        for prefix, values in flat.items():
            tensors[prefix + name] = values[first : first + nout * nin].reshape(nout, nin)
        first += nout * nin
    tensors["rng.state"] = np.array(state, dtype=np.uint32)
    write_atomically(path, serialize(tensors, metadata={"microgpt": about}))


def check_savable(trainer: "Trainer") -> None:
    """Raise TypeError or ValueError, in one line, if no file could hold this run: before it trains, not after."""
    _describe(trainer, None)


def _describe(trainer, gauss_next):
    """The metadata of a run whose header is short enough to be read again."""
    if trainer._docs_sha256 is None:
        trainer._docs_sha256 = docs_digest(trainer.docs)
    about = describe(trainer, trainer._docs_sha256, gauss_next)
    names = shapes(trainer.tokenizer.vocab_size, trainer.settings)
    entry = {"dtype": "F64", "shape": [trainer.model.num_params] * 2, "data_offsets": [24 * trainer.model.num_params] * 2}
    # At least what it will be: names and offsets are no longer than these.
    tensors = 3 * sum(len(name) + len("adam.m.") + len(json.dumps(entry)) + 4 for name in names)
    metadata = len(json.dumps(about)) + 100
    if metadata + tensors > MAX_HEADER:
        cause = "it has too many layers" if tensors > metadata else "its notes are too long"
        raise CheckpointError(f"this run cannot be saved: {cause} for a header of {MAX_HEADER} bytes")
    return about


def load(
    trainer_class: "type[Trainer]",
    path: "str | os.PathLike[str]",
    docs: "Sequence[str] | None",
    engine: str,
    allow_other_text: bool,
) -> "Trainer":
    """A Trainer that stands where the saved one stood.

    docs: the text the run was trained on, in its original order, or None for a trainer that only samples. Other text
    raises CheckpointError unless allow_other_text. engine: any, whatever engine saved the file.
    Raises CheckpointError for a file that is damaged or no checkpoint, OSError where it cannot be read.
    """
    from .data import Tokenizer
    from .trainer import _check_docs, check_settings

    path = os.fspath(path)
    about, arrays = _read(path, _read_whole)
    check_settings(about["num_steps"], about["seed"], engine, about["settings"])
    trainer = trainer_class.__new__(trainer_class)
    docs = None if docs is None else _check_docs(docs)
    tokenizer = Tokenizer.from_uchars(about["uchars"])
    trainer._set_up(docs, tokenizer, about["num_steps"], about["seed"], engine, about["settings"])
    if docs is None:
        trainer._docs_sha256 = about["docs_sha256"]
    elif not allow_other_text and docs_digest(trainer.docs) != about["docs_sha256"]:
        hint = ""
        if "val_fraction" in about["notes"]:
            fraction = printable(about["notes"]["val_fraction"], 50)
            hint = f", without the part that --val-fraction {fraction} holds out"
        raise CheckpointError(
            f"{path} was trained on other text{hint} "
            "(--allow-other-text or allow_other_text=True continues all the same)"
        )
    trainer.notes = about["notes"]
    trainer._engine.set_data(arrays[""])
    adam = trainer._engine.adam
    for moments, values in ((adam.m, arrays["adam.m."]), (adam.v, arrays["adam.v."])):
        # The reference engine computes with Python's floats: NumPy's would warn where those raise.
        moments[:] = values.tolist() if isinstance(moments, list) else values
    adam.step_index = about["step_index"]
    for name, value in about.get("adam", {}).items():
        setattr(adam, name, value)
    trainer.rng.setstate((3, tuple(arrays["rng.state"].tolist()), about["gauss_next"]))
    return trainer


def read_about(path: "str | os.PathLike[str]") -> "dict[str, Any]":
    """What a checkpoint says of itself, checked: num_steps, step_index, seed, settings, uchars, docs_sha256, notes, ...

    Raises CheckpointError for a file that is damaged or no checkpoint, OSError where it cannot be read.
    """
    return _read(os.fspath(path), _read_header)[0]


def _damaged(path, error):
    return CheckpointError(f"{path} is damaged or no checkpoint: {printable(' '.join(str(error).split()), 500)}")


def _read(path, part):
    """part(file) of the open file; an error names the path."""
    with open(path, "rb") as file:  # an OSError here speaks for itself
        try:
            return part(file)
        except CheckpointError as error:
            raise _damaged(path, error) from None


def _read_header(file):
    """(the checked metadata, the entries of the tensors) of an open file whose size is what the metadata makes it."""
    size = os.fstat(file.fileno()).st_size
    length = int.from_bytes(file.read(8), "little")
    if size < 8 or length > min(size - 8, MAX_HEADER):
        raise CheckpointError("its header does not fit the file")
    try:
        header = json.loads(file.read(length))
    except (ValueError, RecursionError):
        raise CheckpointError("its header is no JSON") from None
    metadata = header.pop("__metadata__", None) if isinstance(header, dict) else None
    about = parse(metadata.get("microgpt") if isinstance(metadata, dict) else None)
    # Before anything is sized by n_layer: a file that claims many layers must hold as many tensors.
    if len(header) != 1 + 3 * (3 + 6 * about["settings"]["n_layer"]):
        raise CheckpointError("it does not hold the tensors of its settings")
    num_params = sum(nout * nin for nout, nin in shapes(len(about["uchars"]) + 1, about["settings"]).values())
    if size != 8 + length + 3 * 8 * num_params + 4 * 625:
        raise CheckpointError("its size is not that of its tensors")
    return about, header


def _read_whole(file):
    """(the checked metadata, {prefix: flat float64 array}), every part checked before it is believed."""
    import numpy as np

    about, entries = _read_header(file)
    names = shapes(len(about["uchars"]) + 1, about["settings"])
    num_params, first = sum(nout * nin for nout, nin in names.values()), 0
    arrays = {prefix: np.empty(num_params, "<f8") for prefix in ("", "adam.m.", "adam.v.")}
    arrays["rng.state"] = np.empty(625, "<u4")
    places = [_place(entries, "rng.state", "U32", [625], arrays["rng.state"])]
    for name, (nout, nin) in names.items():
        for prefix in ("", "adam.m.", "adam.v."):
            part = arrays[prefix][first : first + nout * nin]
            places.append(_place(entries, prefix + name, "F64", [nout, nin], part))
        first += nout * nin
    end = 0
    for (begin, last), part in sorted(places, key=lambda place: place[0]):
        if begin != end:
            raise CheckpointError("its tensors overlap or leave a gap")
        if file.readinto(memoryview(part).cast("B")) != part.nbytes:
            raise CheckpointError("it ends before its last tensor does")
        end = last
    if not 1 <= arrays["rng.state"][624] <= 624:
        raise CheckpointError("the state of its random stream is impossible")
    return about, {prefix: found.astype(found.dtype.newbyteorder("="), copy=False) for prefix, found in arrays.items()}


def _place(entries, name, dtype, shape, part):
    """((begin, end) of a tensor's bytes, the array that they fill), if its entry is what it has to be."""
    if name not in entries:
        raise CheckpointError(f"there is no tensor {name}")
    entry = entries[name]
    found = (entry.get("dtype"), entry.get("shape"), entry.get("data_offsets")) if isinstance(entry, dict) else (None,) * 3
    if found[:2] != (dtype, shape) or any(type(n) is not int for n in found[1]):
        raise CheckpointError(f"{name} is {found[0]} {found[1]}, not {dtype} {shape}")
    offsets = found[2]
    if not isinstance(offsets, list) or len(offsets) != 2 or any(type(n) is not int for n in offsets):
        raise CheckpointError(f"{name} has no place in the file")
    if offsets[1] - offsets[0] != part.nbytes:
        raise CheckpointError(f"{name} takes {offsets[1] - offsets[0]} bytes, not {part.nbytes}")
    return tuple(offsets), part
