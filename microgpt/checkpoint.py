"""A run in one file: weights, moments, step, random stream, vocabulary and settings, as .safetensors.

Tensors, float64: every weight under the script's own name with its shape [nout, nin], and Adam's moments under
`adam.m.NAME` and `adam.v.NAME`; uint32: `rng.state`, the 625 words of the Mersenne Twister. All else stands as JSON in
the metadata entry `microgpt`. NumPy and safetensors are imported here, and only when a file is written or read.

A file that is read may come from anywhere: nothing in it is believed before it is checked, nothing is sized by what it
claims before that has been compared with the size of the file, and nothing in it is ever executed.
"""
import hashlib
import json
import os
import stat

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from .trainer import Trainer

__all__ = ["CheckpointError", "docs_digest", "load", "read_about", "save", "shapes"]

FORMAT = 1
MAX_HEADER = 8 * 2**20  # bytes: some thousand layers, or any vocabulary


class CheckpointError(ValueError):
    """A file that is no checkpoint, is damaged, or does not fit what it is to continue."""


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

    Raises OSError where the file cannot be written; what stood there before is then untouched.
    """
    import numpy as np
    from safetensors.numpy import save as serialize

    tensors, first = {}, 0
    flat = {
        "": trainer._engine.get_data(),
        "adam.m.": np.asarray(trainer.adam.m, dtype=np.float64),
        "adam.v.": np.asarray(trainer.adam.v, dtype=np.float64),
    }
    for name, (nout, nin) in shapes(trainer.tokenizer.vocab_size, trainer.settings).items():
        for prefix, values in flat.items():
            tensors[prefix + name] = values[first : first + nout * nin].reshape(nout, nin)
        first += nout * nin
    _, state, gauss_next = trainer.rng.getstate()
    tensors["rng.state"] = np.array(state, dtype=np.uint32)
    if trainer._docs_sha256 is None:
        trainer._docs_sha256 = docs_digest(trainer.docs)
    about = {
        "format": FORMAT,
        "num_steps": trainer.num_steps,
        "step_index": trainer.step_index,
        "seed": str(trainer.seed),  # a seed may be any int; not every JSON reader takes those
        "settings": trainer.settings,
        "uchars": "".join(trainer.tokenizer.uchars),
        "docs_sha256": trainer._docs_sha256,
        "gauss_next": None if gauss_next is None else gauss_next.hex(),
        "notes": trainer.notes,
    }
    content = serialize(tensors, metadata={"microgpt": json.dumps(about, sort_keys=True)})
    if int.from_bytes(content[:8], "little") > MAX_HEADER:
        raise CheckpointError(f"a model of so many layers cannot be saved: its header exceeds {MAX_HEADER} bytes")
    write_atomically(path, content)


def write_atomically(path: "str | os.PathLike[str]", content: bytes) -> None:
    """A new file beside the old one, flushed to the disk, moved over it, and the folder's entry flushed as well."""
    path = os.fspath(path)
    target = os.path.realpath(path)
    mode = None
    if os.path.exists(target):
        mode = os.stat(target).st_mode
        if not stat.S_ISREG(mode):  # moving a file over /dev/null would be the end of it
            raise OSError(22, "Not a regular file", path)
    _remove_leftovers(target)
    temporary = f"{target}.{_host()}-{os.getpid()}.tmp"
    try:
        with open(temporary, "wb") as file:
            if mode is not None:
                os.chmod(temporary, stat.S_IMODE(mode))
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, target)
    except BaseException as error:
        try:
            os.unlink(temporary)
        except OSError:
            pass
        if isinstance(error, OSError) and error.errno:  # say which file was meant, not how it is written
            raise OSError(error.errno, error.strerror, path) from None
        raise
    if os.name == "posix":
        folder = os.open(os.path.dirname(target), os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def _host():
    return "".join(ch for ch in (os.uname().nodename if os.name == "posix" else "") if ch.isalnum())


def _remove_leftovers(target):
    """Remove what a process of this machine left half-written beside target when it was killed."""
    if os.name != "posix":
        return
    folder, name = os.path.split(target)
    start = f"{name}.{_host()}-"
    try:
        found = [entry for entry in os.listdir(folder) if entry.startswith(start) and entry.endswith(".tmp")]
    except OSError:
        return
    for entry in found:
        pid = entry[len(start) : -len(".tmp")]
        try:
            if pid.isdecimal():
                os.kill(int(pid), 0)
        except ProcessLookupError:
            try:
                os.unlink(os.path.join(folder, entry))
            except OSError:
                pass
        except (OSError, OverflowError):
            pass  # it lives, and belongs to someone else; or it is no process id


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
    about, arrays = _read(path)
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
            hint = f", without the part that --val-fraction {about['notes']['val_fraction']} holds out"
        raise CheckpointError(
            f"{path} was trained on other text{hint} "
            "(--allow-other-text or allow_other_text=True continues all the same)"
        )
    trainer.notes = about["notes"]
    trainer._engine.set_data(arrays[""])
    trainer.adam.m[:] = arrays["adam.m."]
    trainer.adam.v[:] = arrays["adam.v."]
    trainer.adam.step_index = about["step_index"]
    trainer.rng.setstate((3, tuple(arrays["rng.state"].tolist()), about["gauss_next"]))
    return trainer


def read_about(path: "str | os.PathLike[str]") -> "dict[str, Any]":
    """What a checkpoint says of itself, checked: num_steps, step_index, seed, settings, uchars, docs_sha256, notes, ...

    Raises CheckpointError for a file that is damaged or no checkpoint, OSError where it cannot be read.
    """
    path = os.fspath(path)
    try:
        with open(path, "rb") as file:  # an OSError here speaks for itself
            return _read_header(file)
    except CheckpointError as error:
        raise _damaged(path, error) from None


def _damaged(path, error):
    return CheckpointError(f"{path} is damaged or no checkpoint: {' '.join(str(error).split())[:500]}")


def _read(path):
    """(what the metadata says, {prefix: flat float64 array}), every part of it checked before it is believed."""
    about = read_about(path)

    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="np") as file:
            return about, _read_tensors(file, about)
    except (CheckpointError, SafetensorError, UnicodeError, OSError, ValueError) as error:
        raise _damaged(path, error) from None


def _read_header(file):
    """The checked metadata of an open file whose size is what that metadata makes it."""
    size = os.fstat(file.fileno()).st_size
    length = int.from_bytes(file.read(8), "little")
    if size < 8 or length > min(size - 8, MAX_HEADER):
        raise CheckpointError("its header does not fit the file")
    try:
        header = json.loads(file.read(length))
    except (ValueError, RecursionError):
        raise CheckpointError("its header is no JSON") from None
    metadata = header.get("__metadata__") if isinstance(header, dict) else None
    about = _check_metadata(metadata.get("microgpt") if isinstance(metadata, dict) else None)
    # Before anything is sized by n_layer: a file that claims many layers must hold as many tensors.
    if len(header) != 2 + 3 * (3 + 6 * about["settings"]["n_layer"]):
        raise CheckpointError("it does not hold the tensors of its settings")
    num_params = sum(nout * nin for nout, nin in shapes(len(about["uchars"]) + 1, about["settings"]).values())
    if size != 8 + length + 3 * 8 * num_params + 4 * 625:
        raise CheckpointError("its size is not that of its tensors")
    return about


def _read_tensors(file, about):
    import numpy as np

    names, present = shapes(len(about["uchars"]) + 1, about["settings"]), set(file.keys())

    def tensor(name, dtype, shape):
        if name not in present:
            raise CheckpointError(f"there is no tensor {name}")
        found = file.get_slice(name)
        if (found.get_dtype(), tuple(found.get_shape())) != (dtype, shape):
            raise CheckpointError(f"{name} is {found.get_dtype()} {found.get_shape()}, not {dtype} {list(shape)}")
        return file.get_tensor(name)

    arrays = {
        prefix: np.concatenate([tensor(prefix + name, "F64", shape).ravel() for name, shape in names.items()])
        for prefix in ("", "adam.m.", "adam.v.")
    }
    arrays["rng.state"] = tensor("rng.state", "U32", (625,))
    if not 1 <= arrays["rng.state"][624] <= 624:
        raise CheckpointError("the state of its random stream is impossible")
    return arrays


def _check_metadata(text):
    from .trainer import SETTINGS, check_settings

    if not isinstance(text, str):
        raise CheckpointError("it has no metadata entry 'microgpt'")
    try:
        about = json.loads(text)
        if about["format"] != FORMAT:
            raise CheckpointError(f"its format is {about['format']!r}; this version reads {FORMAT}")
        if not isinstance(about["seed"], str):
            raise CheckpointError("its seed is no text")
        about["seed"] = int(about["seed"])
        uchars, step_index = about["uchars"], about["step_index"]
        if set(about["settings"]) != set(SETTINGS):
            raise CheckpointError("its settings are not those of this program")
        check_settings(about["num_steps"], about["seed"], "reference", about["settings"])
        if isinstance(step_index, bool) or not isinstance(step_index, int):
            raise CheckpointError("its step is no whole number")
        if not 0 <= step_index <= about["num_steps"]:
            raise CheckpointError(f"it stands at step {step_index} of {about['num_steps']}")
        if not isinstance(uchars, str) or sorted(set(uchars)) != list(uchars):
            raise CheckpointError("its vocabulary is no sorted list of characters")
        if not isinstance(about["docs_sha256"], str):
            raise CheckpointError("it has no digest of its text")
        if about["gauss_next"] is not None:
            about["gauss_next"] = float.fromhex(about["gauss_next"])
        if not isinstance(about.setdefault("notes", {}), dict):
            raise CheckpointError("its notes are no object")
    except CheckpointError:
        raise
    except (ValueError, TypeError, LookupError, AttributeError, OverflowError, RecursionError) as error:
        raise CheckpointError(f"its metadata cannot be read ({error})") from None
    return about
