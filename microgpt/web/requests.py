"""What the page of `microgpt play` may ask for: JSON, read and checked against limits before anything is computed."""

import json
import math
from http import HTTPStatus

from ..config import SCHEDULES, Config, real_number, whole_number
from ..reading.passages import SPLITS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__all__ = ["AUTO", "DEFAULTS", "LIMITS", "MAX_WORK", "TRAINING", "Request", "RequestError"]

#: A setting -> the least and the most that a request may ask for.
LIMITS: "dict[str, tuple[float, float]]" = {
    "steps": (1, 20_000),
    "seed": (-(2**53) + 1, 2**53 - 1),  # JavaScript's whole numbers
    "learning_rate": (0.0, 10.0),
    "warmup": (0, 19_999),
    "weight_decay": (0.0, 1000.0),
    "clip": (1e-6, 1e6),
    "n_embd": (1, 256),
    "n_head": (1, 64),
    "n_layer": (0, 8),
    "block_size": (1, 256),
    "temperature": (0.01, 100.0),
    "top_k": (1, 10_000),
    "val_fraction": (1e-6, 0.9),
}
#: Most parameters times positions of a step: about a tenth of a second, in which no newer request can cancel it.
MAX_WORK = 2**25
#: Settings of the training that have the names of Config's; `steps` is its num_steps.
TRAINING = ("seed", "n_embd", "n_head", "n_layer", "block_size", "learning_rate", "schedule", "warmup", "weight_decay", "clip")
_OPTIONAL = {"top_k", "val_fraction", "clip"}
_WHOLE = {"steps", "seed", "warmup", "n_embd", "n_head", "n_layer", "block_size", "top_k"}
_SCRIPT = Config()
DEFAULTS: "dict[str, Any]" = {
    "steps": _SCRIPT.num_steps,
    **{name: getattr(_SCRIPT, name) for name in TRAINING},
    "temperature": 0.5,
    "top_k": None,
    "val_fraction": None,
    "text": "names",
    "lines": "",
    "split": "lines",
    "word": "emma",
}
TEXTS = ("names", "file", "lines")
#: A val_fraction that holds out about this many documents, but not more than a tenth; none of a text of less than ten.
AUTO, _HELD_OUT = "auto", 100


class RequestError(Exception):
    """A request that cannot be carried out, in one line; status: HTTP's."""

    def __init__(self, message: str, status: HTTPStatus = HTTPStatus.BAD_REQUEST) -> None:
        super().__init__(message)
        self.status = status


class Request:
    """The settings of a run that the page asks for.

    Attributes
    ----------
    config : Config
        Of the training.
    temperature, top_k : float, int or None
        Of the samples.
    val_fraction : float, "auto" or None
        Part of the documents to hold out: see `fraction`.
    text : {"names", "file", "lines"}
        Which text; lines: the text itself, if it is "lines".
    split : {"lines", "paragraphs", "chunks"}
        What a document of the text is; of the names always a line.
    word : str
        What attention and next-token probabilities are shown for.
    """

    def __init__(self, body: bytes) -> None:
        given = _parsed(body)
        values = {**DEFAULTS, **given}
        for name, (least, most) in LIMITS.items():
            if (values[name] is not None or name not in _OPTIONAL) and (name, values[name]) != ("val_fraction", AUTO):
                values[name] = _number(name, values[name], least, most)
        for name in ("text", "lines", "split", "word", "schedule"):
            _check_text(name, values[name])
        for name, known in (("text", TEXTS), ("split", SPLITS), ("schedule", SCHEDULES)):
            if values[name] not in known:
                raise RequestError(f"{name} must be one of {', '.join(known)}")
        try:
            self.config = Config(num_steps=values["steps"], **{name: values[name] for name in TRAINING})
        except (ValueError, TypeError) as error:
            raise RequestError(str(error)) from None
        self.temperature: float = values["temperature"]
        self.top_k: int | None = values["top_k"]
        self.val_fraction: float | str | None = values["val_fraction"]
        self.text: str = values["text"]
        self.lines: str = values["lines"] if self.text == "lines" else ""
        self.split: str = "lines" if self.text == "names" else values["split"]
        self.word: str = values["word"]

    def fraction(self, documents: int) -> "float | None":
        """Return the share of this many documents to hold out; None: nothing."""
        if not isinstance(self.val_fraction, str):
            return self.val_fraction
        return min(0.1, float(f"{_HELD_OUT / documents:.0e}")) if documents >= 10 else None

    def check_size(self, vocab_size: int) -> None:
        """Raise RequestError for a model of which a step would take too long to cancel."""
        c = self.config
        params = c.num_params(vocab_size)
        if params * c.block_size > MAX_WORK:
            raise RequestError(f"a model of {params:,} parameters with block_size {c.block_size} is too large for this page: "
                               f"their product may be {MAX_WORK:,}")  # fmt: skip


def _parsed(body: bytes) -> "dict[str, Any]":
    def refuse(word: str) -> None:
        raise ValueError(f"{word} is not a number of JSON")

    try:
        given = json.loads(body.decode("utf-8"), parse_constant=refuse)
    except (ValueError, RecursionError):
        raise RequestError("the request is not JSON in UTF-8") from None
    if not isinstance(given, dict):
        raise RequestError("the request must be an object of JSON")
    for name in given:
        if name not in DEFAULTS:
            raise RequestError(f"there is no setting {ascii(name)[:60]}; there are {', '.join(DEFAULTS)}")
    return given


def _number(name: str, value: "Any", least: float, most: float) -> "int | float":
    found: int | float
    try:
        found = whole_number(name, value) if name in _WHOLE else real_number(name, value)
    except TypeError:
        kind = "whole number" if name in _WHOLE else "number"
        raise RequestError(f"{name} must be a {kind}, not {ascii(value)[:60]}") from None
    if not least <= found <= most or math.isnan(found):
        raise RequestError(f"{name} must be between {least:,} and {most:,}")
    return found


def _check_text(name: str, value: "Any") -> None:
    if not isinstance(value, str):
        raise RequestError(f"{name} must be text, not {ascii(value)[:60]}")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        raise RequestError(f"{name} has half of a surrogate pair, which no text in UTF-8 can hold") from None
