"""`--log FILE`: a run as JSON Lines, one object a step; and such a file read back, for reports and plots.

Every object has `step`, `loss` (decimal, null if it is no number), `loss_hex` (its bits, as float.hex), `learning_rate`
and `seconds` since the command began. Some have more: `run` (settings and machine; the first object that a command
writes), `val_loss`, `digests` (of every tensor after the step), `samples` and `attention`.
"""
import hashlib
import json
import math
import os
import time

from .checkpoint import docs_digest, shapes
from .cli.watching import Watcher
from .files import open_in_place
from .metadata import seed_text

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

    from .trainer import Trainer

__all__ = ["LogError", "RunLog", "learning_rate", "read_log", "tensor_digests"]

FORMAT = 1
SAMPLES, ATTENTION_TOKENS, ATTENTION_HEADS = 5, 24, 64  # what a look keeps, at most
_MAX_LINE = 64 * 2**20  # bytes


class LogError(ValueError):
    """A file that is no log of a run."""


def learning_rate(trainer: "Trainer", step: int) -> float:
    """The rate of the update that makes step (counted from 1), as Adam computes it now."""
    adam = trainer.adam
    rate: float = adam.learning_rate * (1 - (step - 1) / adam.num_steps)
    return rate


def noted(trainer: "Trainer", first: int, losses: "list[float]") -> "list[tuple[int, float, float]]":
    """(step, loss, learning rate) of the steps after step `first`, which have just been done."""
    return [(step, loss, learning_rate(trainer, step)) for step, loss in enumerate(losses, first + 1)]


def missed(trainer: "Trainer", last: int) -> "list[tuple[int, float, float]]":
    """What `noted` gives for the steps after step `last` that are done: an interrupt may have come before they were."""
    count = trainer.step_index - last
    return noted(trainer, last, trainer.last_losses[-count:]) if count > 0 else []


def tensor_digests(trainer: "Trainer") -> "dict[str, str]":
    """name -> 16 hexadecimal digits that change when any bit of that weight does."""
    values, first, found = trainer._engine.get_data(), 0, {}
    for name, (nout, nin) in shapes(trainer.tokenizer.vocab_size, trainer.settings).items():
        found[name] = hashlib.blake2b(values[first : first + nout * nin], digest_size=8).hexdigest()
        first += nout * nin
    return found


class RunLog(Watcher):
    """Writes the log. A resumed run continues the file, from the step where it resumes."""

    def __init__(
        self,
        trainer: "Trainer",
        path: str,
        source: str,
        look_every: "int | None" = None,
        digest_every: int = 1,
    ) -> None:
        self.trainer, self.path = trainer, path
        self.look_every = look_every or max(1, trainer.num_steps // 10)
        self.digest_every = digest_every
        self.pending: list[tuple[int, float, float]] = []
        self.started = time.perf_counter()
        self.about, self.first = _about(trainer, source), trainer.step_index + 1
        self.record: tuple[int, dict[str, Any]] = (0, {})  # what a step's line says beside its loss
        kept = _length_until(path, trainer.step_index) if trainer.step_index and os.path.exists(path) else 0
        self.file = open(open_in_place(path), "a", encoding="utf-8", newline="\n")
        self.file.truncate(kept)
        #: The bytes of the file that are whole lines, and the step of the last. One attribute, because an interrupt may
        #: come between any two; whatever the file holds beyond it is written again.
        self.kept = kept, trainer.step_index

    def __enter__(self) -> "RunLog":
        return self

    def __exit__(self, *exception: "Any") -> None:
        try:
            self.write({})
        finally:
            self._put(self.file.close)

    def until_next(self) -> int:
        step = self.trainer.step_index
        return min(self.look_every - step % self.look_every, self.digest_every - step % self.digest_every)

    def due(self) -> bool:
        return True

    def note(self, first: int, losses: "list[float]") -> None:
        self.pending += noted(self.trainer, first, losses)

    def look(self, record: "dict[str, Any]") -> None:
        step, last = self.trainer.step_index, self.trainer.num_steps
        if step % self.digest_every == 0 or step == last:
            record["digests"] = tensor_digests(self.trainer)
        if step % self.look_every == 0 or step == last:
            for name, find in (("samples", self._samples), ("attention", self._attention)):
                try:
                    record[name] = find()
                except (ValueError, ArithmeticError):  # a diverged model has none; a log may not end its run
                    record[name] = None

    def _samples(self):
        # The same draws at every look, from a stream of their own, so that what differs is the model.
        return self.trainer.sample(SAMPLES, seed=self.trainer.seed)

    def _attention(self):
        import numpy as np

        from .viz.activations import attention

        trainer = self.trainer
        if trainer.settings["n_layer"] * trainer.settings["n_head"] > ATTENTION_HEADS:
            return None
        text = trainer.docs[0][: min(ATTENTION_TOKENS, trainer.settings["block_size"]) - 1]
        with np.errstate(all="ignore"):
            found = attention(trainer, text)
        if not np.isfinite(found).all():
            return None  # JSON has no nan
        weights = found.round(3).tolist()
        # Rows stop at their own position: a token does not look at what follows it.
        triangles = [[[row[: i + 1] for i, row in enumerate(head)] for head in layer] for layer in weights]
        return {"text": text, "weights": triangles}

    def write(self, record: "dict[str, Any]") -> None:
        self.pending += missed(self.trainer, self.pending[-1][0] if self.pending else self.kept[1])
        if record:
            self.record = self.trainer.step_index, record
        size, last = self.kept
        seconds, lines = round(time.perf_counter() - self.started, 6), []
        for step, loss, rate in self.pending:
            if step <= last:
                continue
            line: dict[str, Any] = {
                "step": step,
                "loss": _number(loss),
                "loss_hex": loss.hex(),
                "learning_rate": _number(rate),
                "seconds": seconds,
            }
            if step == self.first:
                line["run"] = self.about
            if step == self.record[0]:
                line.update(self.record[1])
                if "val_loss" in line:
                    line.update(val_loss=_number(line["val_loss"]), val_loss_hex=line["val_loss"].hex())
            lines.append(json.dumps(line, separators=(",", ":")) + "\n")
        if lines:
            self._put(self.file.truncate, size)
            self._put(self.file.write, "".join(lines))
            self._put(self.file.flush)
            self.kept = os.fstat(self.file.fileno()).st_size, self.pending[-1][0]
        self.pending.clear()

    def _put(self, action: "Callable[..., Any]", *arguments: "str | int") -> None:
        try:
            action(*arguments)
        except OSError as error:  # say which file: a disk that is full may be one of several
            raise OSError(error.errno, error.strerror, self.path) from None


def _number(x):
    return x if math.isfinite(x) else None  # JSON has no nan


def _about(trainer, source):
    from .info import rows

    return {
        "format": FORMAT,
        "began": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "engine": trainer.engine,
        "num_steps": trainer.num_steps,
        "seed": seed_text(trainer.seed),
        "settings": trainer.settings,
        "text": source,
        "docs": len(trainer.docs),
        "docs_sha256": docs_digest(trainer.docs),
        "vocab_size": trainer.tokenizer.vocab_size,
        "num_params": trainer.model.num_params,
        "machine": rows(),
    }


def _length_until(path, step):
    """The bytes of an earlier part of this run, up to step: what a killed run wrote beyond its checkpoint goes."""
    length = 0
    for end, record in _records(path):
        if record["step"] > step:
            break
        length = end
    return length


def _records(path: str) -> "Iterator[tuple[int, dict[str, Any]]]":
    """(where its line ends, the object) for each whole line; a last line that was cut short is left out."""
    with open(path, "rb") as file:
        number = end = 0
        while line := file.readline(_MAX_LINE):
            number += 1
            try:
                record = json.loads(line)
                valid = isinstance(record, dict) and type(record["step"]) is int and isinstance(record["loss_hex"], str)
                float.fromhex(record["loss_hex"])
            except (ValueError, LookupError, RecursionError, TypeError, OverflowError):
                valid = False
            if not valid:
                if number > 1 and not line.endswith(b"\n"):
                    return
                raise LogError(f"{path} is no log of a run: line {number} is no step")
            end += len(line)
            yield end, record


def read_log(path: str) -> "list[dict[str, Any]]":
    """The objects of a log, one a step, in order. Raises LogError for another file, OSError if it cannot be read."""
    found = [record for _, record in _records(path)]
    if not found or not isinstance(found[0].get("run"), dict):
        reason = "its first step does not say which run" if found else "it is empty"
        raise LogError(f"{path} is no log of a run: {reason}")
    return found


def watchers(trainer: "Trainer", given: "dict[str, Any]", source: str, validation: "Any") -> "list[Watcher]":
    """Those that --log and --plot ask for."""
    found: list[Watcher] = []
    if "log" in given:
        found.append(RunLog(trainer, given["log"], source, given.get("look_every"), given.get("digest_every", 1)))
    if "plot" in given:
        from .viz.plots import LossPlot

        found.append(LossPlot(trainer, given["plot"], validation))
    return found
