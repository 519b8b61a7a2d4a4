"""The log of a run, as it trains: what `microgpt report` shows."""
import os
import time

from ..config import whole_number
from ..trainer import Callback
from .base import steps_with_rates

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from ..trainer import Trainer

SAMPLES, ATTENTION_TOKENS, ATTENTION_HEADS = 5, 24, 64  # most that a log keeps of each
_SECONDS_DIGITS = 6


class RunLogger(Callback):
    """Writes a log of the run, one JSON object per step: see `microgpt.storage.runlog`. `microgpt report` shows it.

    The log of a resumed run is continued, from the step where the run resumes.

    Parameters
    ----------
    path : str
        The file.
    look_every : int, optional
        Steps between two records of samples and attention; by default a tenth of the run.
    digest_every : int
        Steps between two records of the digests of all tensors.
    source : str, optional
        Where the text is from, in words.
    """

    def __init__(
        self,
        path: "str | os.PathLike[str]",
        look_every: "int | None" = None,
        digest_every: int = 1,
        *,
        source: str = "documents of a program",
    ) -> None:
        self.path, self.source = os.fspath(path), source
        self.look_every = None if look_every is None else whole_number("look_every", look_every, 1)
        self.digest_every = whole_number("digest_every", digest_every, 1)
        self.file: Any = None

    def on_train_begin(self, trainer: "Trainer") -> None:
        from ..files import open_in_place
        from ..storage.runlog import describe_run, length_until, machine

        self.pending: list[tuple[int, float, float]] = []
        self.started = time.perf_counter()
        self.about = describe_run(trainer, self.source, machine(), time.strftime("%Y-%m-%dT%H:%M:%S%z"))
        self.first = trainer.step_index + 1
        self.record: tuple[int, dict[str, Any]] = (0, {})  # what a step's line says beside its loss
        self.word = ""  # whose attention is logged
        self._close()  # of a run whose end was interrupted
        self.file = open(open_in_place(self.path, alone=True), "a", encoding="utf-8", newline="\n")
        try:
            kept = length_until(self.path, trainer.step_index) if trainer.step_index else 0
            self.file.truncate(kept)
        except BaseException:
            self._close()
            raise
        #: The bytes of the file that are whole lines, and the step of the last. One attribute, because an interrupt may
        #: come between any two; whatever the file holds beyond it is written again.
        self.kept = kept, trainer.step_index

    def _look_every(self, trainer: "Trainer") -> int:
        return self.look_every or max(1, trainer.num_steps // 10)

    def steps_until_due(self, trainer: "Trainer") -> int:
        step, look_every = trainer.step_index, self._look_every(trainer)
        return min(look_every - step % look_every, self.digest_every - step % self.digest_every)

    def is_due(self, trainer: "Trainer") -> bool:
        return True

    def on_steps(self, trainer: "Trainer", first: int, losses: "list[float]") -> None:
        self.pending += steps_with_rates(trainer, first, losses)

    def on_check(self, trainer: "Trainer", record: "dict[str, Any]") -> None:
        from ..storage.runlog import tensor_digests

        step, last = trainer.step_index, trainer.num_steps
        if step % self.digest_every == 0 or step == last:
            record["digests"] = tensor_digests(trainer)
        if step % self._look_every(trainer) == 0 or step == last:
            for name, find in (("samples", self._samples), ("attention", self._attention)):
                try:
                    record[name] = find(trainer)
                except (ValueError, ArithmeticError):  # a diverged model has none; a log may not end its run
                    record[name] = None

    def _samples(self, trainer: "Trainer") -> "list[str]":
        # The same random numbers every time, from a separate stream, so that what differs is the model.
        return trainer.sample(SAMPLES, seed=trainer.seed)

    def _attention(self, trainer: "Trainer") -> "dict[str, Any] | None":
        import numpy as np

        from ..viz.activations import attention

        config = trainer.config
        if config.n_layer * config.n_head > ATTENTION_HEADS:
            return None
        # The same in every run on this text, whatever its seed: a document of a middling length.
        self.word = self.word or min(trainer.docs, key=lambda doc: (abs(len(doc) - 6), doc))
        text = self.word[: min(ATTENTION_TOKENS, config.block_size) - 1]
        with np.errstate(all="ignore"):
            found = attention(trainer, text)
        if not np.isfinite(found).all():
            return None  # JSON has no nan
        weights = found.round(3).tolist()
        # A row ends at its own position: a token does not attend to what follows it.
        triangles = [[[row[: i + 1] for i, row in enumerate(head)] for head in layer] for layer in weights]
        return {"text": text, "weights": triangles}

    def flush(self, trainer: "Trainer", record: "dict[str, Any]") -> None:
        from ..storage.runlog import format_step

        last = self.pending[-1][0] if self.pending else self.kept[1]
        self.pending += steps_with_rates(trainer, last, trainer.losses_after(last))  # not reported: an interrupt came
        if record:
            self.record = trainer.step_index, record
        size, last = self.kept
        seconds, lines = round(time.perf_counter() - self.started, _SECONDS_DIGITS), []
        for step, loss, rate in self.pending:
            if step > last:
                extra = {"run": self.about} if step == self.first else {}
                extra.update(self.record[1] if step == self.record[0] else {})
                lines.append(format_step(step, loss, rate, seconds, extra))
        if lines:
            self._put(self.file.truncate, size)
            self._put(self.file.write, "".join(lines))
            self._put(self.file.flush)
            self.kept = os.fstat(self.file.fileno()).st_size, self.pending[-1][0]
        self.pending.clear()

    def on_train_end(self, trainer: "Trainer") -> None:
        try:
            self.flush(trainer, {})
        finally:
            self._put(self._close)

    def on_exception(self, trainer: "Trainer", error: BaseException) -> None:
        if not self.file.closed:
            self.on_train_end(trainer)

    def _close(self) -> None:
        from ..files import release

        if self.file is not None and not self.file.closed:
            release(self.file.fileno())
            self.file.close()

    def _put(self, action: "Callable[..., Any]", *arguments: "str | int") -> None:
        try:
            action(*arguments)
        except OSError as error:  # say which file: a disk that is full may be one of several
            raise OSError(error.errno, error.strerror, self.path) from None
