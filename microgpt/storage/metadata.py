"""The metadata entry `microgpt` of a checkpoint: JSON that describes a run, written, and checked before it is used.

Format 1 is what the first version wrote, and is still written wherever it can say everything. Format 2 can say more: a
vocabulary as code points, a seed in hexadecimal, an optimizer whose settings were changed, a step beyond the last.
"""
import json
import math

from ..config import (
    DECIMAL_BITS,
    DEFAULTS,
    OPTIONAL,
    SETTINGS,
    Config,
    check_clip,
    check_schedule,
    seed_text,
    whole_number,
)
from ..errors import CheckpointError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from .checkpoint import State

__all__ = ["ADAM_SETTINGS", "check_extra", "decode_uchars", "describe", "encode_uchars", "parse"]

FORMATS = (1, 2)
MAX_DEPTH = 100  # of the extra data
MAX_PLAIN = 2**16  # characters: a longer vocabulary is written as ranges of code points

#: The settings of an Adam, by its names. Those that the script does not have are left out of a file where they are off.
ADAM_SETTINGS = ("learning_rate", "beta1", "beta2", "eps", "num_steps", "schedule", "warmup", "weight_decay", "clip")


def describe(state: "State") -> str:
    """Return the JSON of a run. Raises TypeError or ValueError, in one line, for what could not be read back as it is."""
    check_extra(state.extra)
    config, changed, gauss_next = state.config, _changed_settings(state), state.rng[2]
    about: dict[str, Any] = {
        "format": 1,
        "num_steps": config.num_steps,
        "step_index": state.step_index,
        "seed": seed_text(config.seed),
        "settings": config.settings,
        "uchars": encode_uchars(state.uchars),
        "docs_sha256": state.docs_sha256,
        "gauss_next": None if gauss_next is None else gauss_next.hex(),
        "notes": state.extra,  # the name that every file has had
    }
    if changed:
        about["adam"] = changed
    plain = isinstance(about["uchars"], str) and "x" not in about["seed"]
    if changed or not plain or not 0 <= state.step_index <= config.num_steps:
        about["format"] = 2
    try:
        text = json.dumps(about, sort_keys=True)
        parse(text)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"this run cannot be saved: {error}") from None
    return text


def _changed_settings(state: "State") -> "dict[str, Any]":
    """Return Adam's settings, floats as float.hex, if any differs from what the run began with; else nothing."""
    began = state.config.adam_arguments
    found = {name: _encode_setting(name, value) for name, value in state.adam.items()}
    if all(value == _encode_setting(name, began[name]) for name, value in found.items()):
        return {}
    off = {name: _encode_setting(name, DEFAULTS[name]) for name in found if name in OPTIONAL}
    return {name: value for name, value in found.items() if name not in off or value != off[name]}


def _encode_setting(name: str, value: "Any") -> "str | int | None":
    """Return a setting of an Adam as JSON holds it. Raises TypeError or ValueError for what it cannot hold."""
    if name in OPTIONAL and (value is None or isinstance(value, str)):
        return value
    if isinstance(value, bool) or not isinstance(value, (int, float)) and not hasattr(value, "__index__"):
        raise TypeError(f"adam.{name} must be a float or int to be saved, not {type(value).__name__}")
    if name not in ("num_steps", "warmup"):
        return float(value).hex()
    if isinstance(value, float) and not value.is_integer():
        raise ValueError(f"adam.{name} must be a whole number to be saved, not {value}")
    return int(value)


def encode_uchars(uchars: "Sequence[str]") -> "str | list[int | list[int]]":
    """Return a str or, if JSON could not hold that, code points: one, or [first, last] of three or more."""
    text = "".join(uchars)
    # JSON joins two lone surrogates that follow each other.
    if len(text) <= MAX_PLAIN and (text.isascii() or not any("\ud800" <= ch <= "\udfff" for ch in text)):
        return text
    points, i = list(map(ord, text)), 0
    found: list[int | list[int]] = []
    while i < len(points):
        j = i
        while j + 1 < len(points) and points[j + 1] == points[j] + 1:
            j += 1
        found += points[i : j + 1] if j < i + 2 else [[points[i], points[j]]]
        i = j + 1
    return found


def decode_uchars(found: object) -> str:
    """Return the characters that `encode_uchars` encoded. Raises CheckpointError for anything else."""
    if isinstance(found, str):
        if sorted(set(found)) != list(found):
            raise CheckpointError("its vocabulary is not a sorted list of characters")
        return found
    parts, last = [], -1
    for entry in found if isinstance(found, list) else [None]:
        first, end = entry if isinstance(entry, list) and len(entry) == 2 else (entry, entry)
        if type(first) is not int or type(end) is not int or not last < first <= end <= 0x10FFFF:
            raise CheckpointError("its vocabulary is not a sorted list of characters")
        parts.append(chr(first) if first == end else "".join(map(chr, range(first, end + 1))))
        last = end
    return "".join(parts)


def check_extra(extra: object) -> None:
    """Raise TypeError or ValueError, in one line, for extra data that JSON would return as something else."""
    if type(extra) is not dict:
        raise TypeError(f"extra must be a dict, not {type(extra).__name__}")
    stack: list[tuple[Any, str, int]] = [(extra, "extra", 0)]
    while stack:
        value, where, depth = stack.pop()
        kind = type(value)
        if kind is dict or kind is list:
            if depth >= MAX_DEPTH:
                raise ValueError(f"extra cannot be saved: it is nested more than {MAX_DEPTH} deep")
            if kind is list:
                stack += [(x, f"{where}[{i}]", depth + 1) for i, x in enumerate(value)]
                continue
            for key, x in value.items():
                if type(key) is not str:
                    raise TypeError(f"{where} cannot be saved: its key {key!r:.50} is a {type(key).__name__}, not a str")
                _check_string(key, f"a key of {where}")
                stack.append((x, f"{where}[{key!r:.50}]", depth + 1))
        elif kind is str:
            _check_string(value, where)
        elif kind is float:
            if not math.isfinite(value):
                raise ValueError(f"{where} cannot be saved: JSON has no {value}")
        elif kind is int:
            if value.bit_length() > DECIMAL_BITS:
                raise ValueError(f"{where} cannot be saved: it is an int of too many digits")
        elif kind is not bool and value is not None:
            raise TypeError(f"{where} cannot be saved: it is a {kind.__name__}, which JSON does not have")


def _check_string(text: str, where: str) -> None:
    # JSON joins two lone surrogates that follow each other.
    if not text.isascii() and text.encode("utf-16", "surrogatepass").decode("utf-16", "surrogatepass") != text:
        raise ValueError(f"{where} cannot be saved: it holds two surrogates that JSON would join")


def parse(text: "Any") -> "dict[str, Any]":
    """Return what `describe` wrote, checked. Raises CheckpointError for anything else.

    seed is an int, uchars a str, gauss_next a float or None; config is the Config of num_steps, seed and settings; adam
    is present if Adam's settings differ from it, and has them by name.
    """
    if not isinstance(text, str):
        raise CheckpointError("it has no metadata entry 'microgpt'")
    try:
        about: dict[str, Any] = json.loads(text)
        number = about["format"]
        if isinstance(number, bool) or number not in FORMATS:
            raise CheckpointError(f"its format is {number!r}; this version reads {' and '.join(map(str, FORMATS))}")
        seed = about["seed"]
        if not isinstance(seed, str):
            raise CheckpointError("its seed is not text")
        about["seed"] = int(seed, 16 if number > 1 and "x" in seed else 10)
        settings = about["settings"]
        if {*OPTIONAL, *settings} != set(SETTINGS) or any(settings.get(name, ...) == DEFAULTS[name] for name in OPTIONAL):
            raise CheckpointError("its settings are not those of this program")
        about["config"] = Config(about["num_steps"], about["seed"], **about["settings"])
        step_index = about["step_index"]
        if isinstance(step_index, bool) or not isinstance(step_index, int) or not -(2**63) <= step_index < 2**63:
            raise CheckpointError("its step is not a whole number")
        if number == 1 and not 0 <= step_index <= about["num_steps"]:
            raise CheckpointError(f"it is at step {step_index} of {about['num_steps']}")
        if number == 1 and not isinstance(about["uchars"], str):
            raise CheckpointError("its vocabulary is not a sorted list of characters")
        about["uchars"] = decode_uchars(about["uchars"])
        if not isinstance(about["docs_sha256"], str):
            raise CheckpointError("it has no digest of its text")
        if about["gauss_next"] is not None:
            about["gauss_next"] = float.fromhex(about["gauss_next"])
        about["extra"] = about.pop("notes", {})
        if not isinstance(about["extra"], dict):
            raise CheckpointError("its extra data is not an object")
        if number == 1:
            about.pop("adam", None)
        elif "adam" in about:
            about["adam"] = _parse_adam(about["adam"])
    except CheckpointError:
        raise
    except (ValueError, TypeError, LookupError, AttributeError, OverflowError, RecursionError) as error:
        raise CheckpointError(f"its metadata cannot be read ({error})") from None
    return about


def _parse_adam(found: "Any") -> "dict[str, Any]":
    off = {name: DEFAULTS[name] for name in ADAM_SETTINGS if name in OPTIONAL}
    if not {*ADAM_SETTINGS} - {*off} <= {*found} <= {*ADAM_SETTINGS}:
        raise CheckpointError("the settings of its optimizer are not those of this program")
    num_steps = found["num_steps"]
    if type(num_steps) is not int or not -(2**63) <= num_steps < 2**63:
        raise CheckpointError("the steps of its optimizer are not a whole number")
    extra = {**off, **{name: found[name] for name in off if name in found}}
    check_schedule(extra["schedule"])
    if whole_number("warmup", extra["warmup"], 0) >= 2**63:
        raise CheckpointError("the warmup of its optimizer is not a number of steps")
    check_clip(float.fromhex(found["clip"]) if "clip" in found else None)
    whole = {"num_steps": num_steps, "schedule": extra["schedule"], "warmup": extra["warmup"]}
    return {**off, **whole, **{name: float.fromhex(value) for name, value in found.items() if name not in whole}}
