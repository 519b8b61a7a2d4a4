"""What the page of `microgpt play` draws of a trained model, as plain data for JSON, and the command that repeats a run."""

import math
import os

from ..config import VAL_EVERY
from ..data import BUNDLED
from ..viz.activations import forward, tokens_of, weights
from ..viz.curves import smoothed
from ..viz.plane import plane
from .requests import DEFAULTS, TRAINING

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from typing import Any

    from .._types import Array
    from ..data import Tokenizer
    from ..trainer import Trainer
    from .requests import Request

__all__ = ["average", "command", "embeddings", "finite", "finite_pairs", "val_every", "word"]

_HEADS = 32  # whose attention is drawn
_LIKELY = 12  # tokens whose probability is listed
_EMBEDDINGS = 1000  # tokens that are drawn in the plane


def finite(values: "Iterable[float]") -> "list[float | None]":
    """Return values with None, which JSON has, for what is not finite."""
    return [x if math.isfinite(x) else None for x in values]


def finite_pairs(pairs: "Iterable[tuple[int, float]]") -> "list[tuple[int, float | None]]":
    """Return (step, value) with None for a value that is not finite."""
    return [(step, x if math.isfinite(x) else None) for step, x in pairs]


def average(losses: "Sequence[float]") -> "list[float | None]":
    """Return the moving average of the losses, rounded: it is for a curve."""
    return [round(x, 5) if math.isfinite(x) else None for x in smoothed(losses)]


def labels(tokenizer: "Tokenizer") -> "list[str]":
    """Return a visible label for each token id; · for BOS."""
    shown = {" ": "␣", "\n": "⏎"}
    return [shown.get(ch, ch if ch.isprintable() else f"U+{ord(ch):04X}") for ch in tokenizer.uchars] + ["·"]


def embeddings(trainer: "Trainer") -> "dict[str, Any] | None":
    """Return the token embeddings on their first two principal components; None if they cannot be drawn."""
    import numpy as np

    rows = weights(trainer)["wte"]
    if not np.isfinite(rows).all() or len(rows) > _EMBEDDINGS:
        return None
    with np.errstate(all="ignore"):
        places, share = plane(rows)
    if not (np.isfinite(places).all() and np.isfinite(share).all()):
        return None
    x, y = places.round(4).tolist()
    return {"labels": labels(trainer.tokenizer), "x": x, "y": y, "share": share.round(4).tolist()}


def word(trainer: "Trainer", request: "Request") -> "dict[str, Any]":
    """Return attention over a word, and the probabilities of each next token; or `error`, why the word has none."""
    import numpy as np

    try:
        tokens = tokens_of(trainer, request.word)
    except ValueError as error:
        return {"text": request.word, "error": str(error)}
    with np.errstate(all="ignore"):
        found = forward(trainer, tokens)
        drawn = _drawn(found["logits"], request)
        model = _softmax(found["logits"])
    attention = found["attention"]
    if not (np.isfinite(attention).all() and np.isfinite(model).all()):
        return {"text": request.word, "error": "the model's numbers are not finite: the run has diverged"}
    names = labels(trainer.tokenizer)
    order = np.argsort(-model, axis=1, kind="stable")[:, :_LIKELY]
    following = [
        [[int(i), round(float(model[p, i]), 5), round(float(drawn[p, i]), 5)] for i in row]
        for p, row in enumerate(order)
    ]
    maps = attention.reshape(-1, *attention.shape[2:])[:_HEADS].round(4).tolist()
    return {
        "text": request.word,
        "labels": [names[i] for i in tokens],
        "tokens": tokens,
        "vocabulary": [*trainer.tokenizer.uchars, ""],
        "names": names,
        # A row ends at its own position: a token does not attend to what follows it.
        "attention": [[row[: i + 1] for i, row in enumerate(head)] for head in maps],
        "n_head": trainer.config.n_head,
        "heads": trainer.config.n_layer * trainer.config.n_head,
        "next": following,
    }


def _softmax(logits: "Array") -> "Array":
    """Softmax of each row, for a picture: not to the script's last bit."""
    import numpy as np

    e = np.exp(logits - logits.max(axis=1, keepdims=True))
    found: Array = e / e.sum(axis=1, keepdims=True)
    return found


def _drawn(logits: "Array", request: "Request") -> "Array":
    """Return the probabilities with which samples are drawn: after temperature and top-k, [n, vocab_size]."""
    import numpy as np

    p = _softmax(logits / request.temperature)
    if request.top_k is not None and request.top_k < p.shape[1]:
        for row in p:
            row[np.argsort(-row, kind="stable")[request.top_k :]] = 0
            row /= row.sum()
    return p


def val_every(steps: int) -> int:
    """Return the steps between two measurements of the validation loss."""
    return max(1, steps // 5)


def command(request: "Request", fraction: "float | None", path: "str | None") -> "list[str]":
    """Return the lines of a shell that print the losses and samples of the page.

    fraction: the part of the documents that was held out. path: the file of --input, if `microgpt play` was given one.
    """
    config = request.config
    values = {"steps": config.num_steps, **{name: getattr(config, name) for name in TRAINING}}
    words = ["microgpt", "train"]
    if request.text == "lines":
        words += ["--input", "lines.txt"]
    elif request.text == "file" and path is not None:
        words += ["--input", path]
    elif os.path.exists("input.txt"):  # which would be read instead
        words += ["--input", BUNDLED]
    if request.split != DEFAULTS["split"]:
        words += ["--split", request.split]
    for name, value in values.items():
        if value != DEFAULTS[name]:
            words += ["--" + name.replace("_", "-"), str(value)]
    if fraction is not None:
        words += ["--val-fraction", repr(fraction)]
        if val_every(config.num_steps) != VAL_EVERY:
            words += ["--val-every", repr(val_every(config.num_steps))]
    temperature = [] if request.temperature == DEFAULTS["temperature"] else ["--temperature", repr(request.temperature)]
    if request.top_k is None:
        return [_line([*words, *temperature])]
    sample = ["microgpt", "sample", "play.safetensors", *temperature, "--top-k", repr(request.top_k)]
    return [_line([*words, "--samples", "0", "--save", "play.safetensors"]), _line(sample)]


def _line(words: "list[str]") -> str:
    if os.name == "nt":
        from subprocess import list2cmdline

        return list2cmdline(words)
    from shlex import join

    return join(words)
