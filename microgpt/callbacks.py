"""What observes a run: checkpoints, validation with an early stop, a log, a plot, a progress bar.

    trainer.run(callbacks=[Validator(held_out, patience=5), Checkpointer("run.safetensors", every=1000), Progress()])

None of them changes a bit of the run. They write their files and are otherwise silent: give `say`, for example
`say=print`, to have each message as one line. Order matters where one adds to what another writes: a Validator before a
RunLogger that logs its losses, a Checkpointer after those whose state it saves. `Callback` is the base of your own.
"""
import math
import os
import sys
import time

from .config import whole_number
from .errors import CheckpointError
from .trainer import Callback

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any, TextIO, TypeAlias

    from .trainer import Trainer

    Say: TypeAlias = "Callable[[str], object]"

__all__ = ["Callback", "Checkpointer", "LossPlot", "Progress", "RunLogger", "Validator"]

VAL_EVERY = 100
SAMPLES, ATTENTION_TOKENS, ATTENTION_HEADS = 5, 24, 64  # most that a log keeps of each
_SECONDS_DIGITS = 6
RECENT = 100  # steps whose mean loss a progress bar shows


def _silent(message: str) -> None:
    pass


def _steps_with_rates(trainer: "Trainer", first: int, losses: "list[float]") -> "list[tuple[int, float, float]]":
    """Return (step, loss, learning rate) of the steps after step first."""
    from .storage.runlog import learning_rate

    return [(step, loss, learning_rate(trainer, step)) for step, loss in enumerate(losses, first + 1)]


class Checkpointer(Callback):
    """Saves the run to a file every `every` steps, at the end of `run`, and when an exception ends it.

    Parameters
    ----------
    path : str
        A .safetensors file: see `Trainer.save`.
    every : int, optional
        Steps between two saves.
    say : callable, optional
        Takes each message.
    """

    def __init__(self, path: "str | os.PathLike[str]", every: "int | None" = None, *, say: "Say | None" = None) -> None:
        self.path, self.say = os.fspath(path), say or _silent
        self.every = None if every is None else whole_number("every", every, 1)

    def on_train_begin(self, trainer: "Trainer") -> None:
        trainer.check_savable()  # now rather than after the training

    def on_check(self, trainer: "Trainer", record: "dict[str, Any]") -> None:
        trainer.save(self.path)

    def on_train_end(self, trainer: "Trainer") -> None:
        trainer.save(self.path)
        self.say(f"saved step {trainer.step_index} to {self.path}")

    def on_exception(self, trainer: "Trainer", error: BaseException) -> None:
        """Save. If that fails too, it is the error after an interrupt, and else a message beside the first error."""
        try:
            self.on_train_end(trainer)
        except OSError as failure:
            if not isinstance(error, Exception):  # an interrupt
                raise
            if isinstance(error, OSError) and (error.errno, error.filename) == (failure.errno, failure.filename):
                return  # it was a save that failed, and will be reported
            self.say(f"step {trainer.step_index} could not be saved: {failure.filename}: {failure.strerror}")


class Validator(Callback):
    """Measures the loss on documents that are not trained on; keeps the best model; stops a run that no longer improves.

    Its state is part of `trainer.extra["validation"]`, and so is saved and resumed with the run.

    Parameters
    ----------
    docs : sequence of str
        The documents: see `microgpt.split_docs`.
    every : int
        Steps between two measurements; the last step is measured as well.
    patience : int, optional
        Stop when the loss has not fallen for so many measurements.
    best : str, optional
        File that keeps the run as it was when the loss was lowest.
    source : str, optional
        The file that docs are from, which is saved with the run.
    say : callable, optional
        Takes each message.

    Attributes
    ----------
    measured : list of (int, float)
        Step and loss of each measurement.
    state : dict
        `best_loss` (as float.hex), `best_step`, `checks_since_best` and the arguments.
    """

    every: int

    def __init__(
        self,
        docs: "Sequence[str]",
        every: int = VAL_EVERY,
        patience: "int | None" = None,
        best: "str | os.PathLike[str] | None" = None,
        *,
        source: "str | None" = None,
        say: "Say | None" = None,
    ) -> None:
        self.docs, self.every = list(docs), whole_number("every", every, 1)
        self.patience = None if patience is None else whole_number("patience", patience, 1)
        self.best, self.source, self.say = None if best is None else os.fspath(best), source, say or _silent
        self.measured: list[tuple[int, float]] = []
        self.state: dict[str, Any] = {}

    def on_train_begin(self, trainer: "Trainer") -> None:
        from .data import docs_digest

        for doc in self.docs:
            trainer.tokenizer.encode(doc)  # an unknown character is an error now, not after some steps
        self.stop, digest = None, docs_digest(self.docs)
        state = check_validation_state(trainer.extra.get("validation"))
        if state["docs_sha256"] != digest:
            if state["docs_sha256"] is not None:
                self.say("validation documents differ from those before: the best loss so far is forgotten")
            state = {"docs_sha256": digest, "best_loss": None, "best_step": None, "checks_since_best": 0}
        # With the run, so that it is resumed as it was begun: otherwise its patience would have no end.
        arguments = {"val": self.source, "val_every": self.every, "patience": self.patience}
        self.state = trainer.extra["validation"] = {**state, **arguments}

    def is_due(self, trainer: "Trainer") -> bool:
        return super().is_due(trainer) or trainer.step_index == trainer.num_steps

    def on_check(self, trainer: "Trainer", record: "dict[str, Any]") -> None:
        """Measure, keep the best, and add "val_loss" to the record of this step."""
        step, loss = trainer.step_index, trainer.evaluate(self.docs).loss
        self.measured.append((step, loss))
        record["val_loss"] = loss
        state = dict(self.state)
        # A loss that is not finite is never the best, not even the first.
        is_best = math.isfinite(loss) and (state["best_loss"] is None or loss < float.fromhex(state["best_loss"]))
        if is_best:
            state.update(best_loss=loss.hex(), best_step=step, checks_since_best=0)
        else:
            state["checks_since_best"] += 1
        # Replaced as a whole: an interrupt leaves either the old state or the new one.
        trainer.extra["validation"] = self.state = state
        self.say(f"step {step}: validation loss {loss:.4f}{' (best so far)' if is_best else ''}")
        if is_best and self.best:
            trainer.save(self.best)
        if self.patience is not None and state["checks_since_best"] >= self.patience:
            self.stop = (
                f"stopped after step {step}: validation loss has not fallen "
                f"for {state['checks_since_best']} measurements"
            )
            self.say(self.stop)

    def on_train_end(self, trainer: "Trainer") -> None:
        state = self.state
        if state["best_loss"] is not None:
            self.say(
                f"lowest validation loss {float.fromhex(state['best_loss']):.4f} at step {state['best_step']}"
                + (f", kept in {self.best}" if self._is_kept() else "")
            )

    def on_exception(self, trainer: "Trainer", error: BaseException) -> None:
        self.on_train_end(trainer)

    def _is_kept(self) -> bool:
        """Return whether best holds the run of the best step, saved by this process or, before a resume, by another."""
        if not self.best:
            return False
        from .storage.checkpoint import read_about

        try:
            about = read_about(self.best)
            state = check_validation_state(about["extra"].get("validation"))
        except (CheckpointError, OSError):
            return False
        return about["step_index"] == self.state["best_step"] and all(
            state.get(name) == self.state[name] for name in ("best_loss", "best_step", "docs_sha256")
        )


def check_validation_state(state: "Any") -> "dict[str, Any]":
    """Return the state of a Validator that a file held, checked, or an empty one for None.

    Raises CheckpointError for what no Validator wrote.
    """
    if state is None:
        return {"docs_sha256": None}
    try:
        found = {"docs_sha256": str(state["docs_sha256"]), "best_loss": None, "best_step": None}
        found["checks_since_best"] = _count(state["checks_since_best"], 0)
        if state["best_loss"] is not None or state["best_step"] is not None:
            best_loss = float.fromhex(state["best_loss"])
            if not math.isfinite(best_loss):
                raise ValueError("best_loss")
            found.update(best_loss=best_loss.hex(), best_step=_count(state["best_step"], 0))
        for name in ("val_every", "patience"):
            found[name] = None if state.get(name) is None else _count(state[name], 1)
        found["val"] = state.get("val")
        if not isinstance(found["val"], (str, type(None))) or "\0" in (found["val"] or ""):
            raise TypeError("val")
        return found
    except (ValueError, TypeError, LookupError, OverflowError, AttributeError):
        raise CheckpointError("what the checkpoint says of its validation cannot be read") from None


def _count(value: "Any", least: int) -> "Any":
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise TypeError
    return value


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
        from .files import open_in_place
        from .storage.runlog import describe_run, length_until, machine

        self.pending: list[tuple[int, float, float]] = []
        self.started = time.perf_counter()
        self.about = describe_run(trainer, self.source, machine(), time.strftime("%Y-%m-%dT%H:%M:%S%z"))
        self.first = trainer.step_index + 1
        self.record: tuple[int, dict[str, Any]] = (0, {})  # what a step's line says beside its loss
        self.word = ""  # whose attention is logged
        kept = length_until(self.path, trainer.step_index) if trainer.step_index and os.path.exists(self.path) else 0
        self.file = open(open_in_place(self.path), "a", encoding="utf-8", newline="\n")
        self.file.truncate(kept)
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
        self.pending += _steps_with_rates(trainer, first, losses)

    def on_check(self, trainer: "Trainer", record: "dict[str, Any]") -> None:
        from .storage.runlog import tensor_digests

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

        from .viz.activations import attention

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
        from .storage.runlog import format_step

        last = self.pending[-1][0] if self.pending else self.kept[1]
        self.pending += _steps_with_rates(trainer, last, trainer.losses_after(last))  # not reported: an interrupt came
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
            self._put(self.file.close)

    def on_exception(self, trainer: "Trainer", error: BaseException) -> None:
        if not self.file.closed:
            self.on_train_end(trainer)

    def _put(self, action: "Callable[..., Any]", *arguments: "str | int") -> None:
        try:
            action(*arguments)
        except OSError as error:  # say which file: a disk that is full may be one of several
            raise OSError(error.errno, error.strerror, self.path) from None


class LossPlot(Callback):
    """Draws the losses and the learning rate when the run ends, and when an exception ends it. Needs matplotlib.

    Parameters
    ----------
    path : str
        A .png, .svg or .pdf file.
    validator : Validator, optional
        Its losses are drawn as well.
    say : callable, optional
        Takes each message.
    """

    def __init__(
        self, path: "str | os.PathLike[str]", validator: "Validator | None" = None, *, say: "Say | None" = None
    ) -> None:
        self.path, self.validator, self.say = os.fspath(path), validator, say or _silent
        self.steps: list[tuple[int, float, float]] = []  # (step, loss, learning rate)

    def on_train_begin(self, trainer: "Trainer") -> None:
        from .viz.plots import need_matplotlib

        need_matplotlib()
        self.first_step = trainer.step_index + 1
        self.steps = []

    def on_steps(self, trainer: "Trainer", first: int, losses: "list[float]") -> None:
        self.steps += _steps_with_rates(trainer, first, losses)

    def on_train_end(self, trainer: "Trainer") -> None:
        from .viz.plots import plot_loss

        last = self.first_step - 1 + len(self.steps)
        self.steps += _steps_with_rates(trainer, last, trainer.losses_after(last))  # not reported: an interrupt came
        if not self.steps:
            return
        c = trainer.config
        _, losses, rates = zip(*self.steps)
        title = f"n_embd {c.n_embd}, n_head {c.n_head}, n_layer {c.n_layer}, block_size {c.block_size}"
        measured = self.validator.measured if self.validator else []
        plot_loss(losses, measured, rates, self.first_step, self.path, f"{title}, {len(trainer.docs)} documents")
        self.say(f"drew {self.path}")

    def on_exception(self, trainer: "Trainer", error: BaseException) -> None:
        try:
            self.on_train_end(trainer)
        except OSError as failure:  # the error that ended the run is the one that is reported
            self.say(f"the losses could not be drawn: {failure.filename}: {failure.strerror}")


class Progress(Callback):
    """Shows a progress bar (tqdm) while a run trains: in a terminal, or in a notebook as a widget where there are widgets.

    Beside the steps it shows the mean loss of the last 100 steps, the tokens trained on per second, and the time that is
    left. With a batch_size above 1 it counts documents.

    Parameters
    ----------
    file : text file, optional
        Write the bar there, as text; by default to stderr or the notebook.

    Attributes
    ----------
    bar : tqdm or None
        The bar while a run trains.

    Messages of other callbacks stay above the bar if they go through its `say`:

        progress = Progress()
        trainer.run(callbacks=[progress, Validator(held_out, say=progress.say)])
    """

    bar: "Any" = None

    def __init__(self, file: "TextIO | None" = None) -> None:
        self.file = file

    def on_train_begin(self, trainer: "Trainer") -> None:
        if self.file is None and "ipykernel" in sys.modules:
            from tqdm.auto import tqdm  # imports much more
        else:
            from tqdm import tqdm
        size = self.batch_size = trainer.config.batch_size
        self.recent: list[float] = []
        self.tokens, self.started = 0, time.perf_counter()
        file = sys.stderr if self.file is None else self.file
        self.bar = tqdm(total=trainer.num_steps * size, initial=trainer.step_index * size, file=file, dynamic_ncols=True,
                        unit="step" if size == 1 else "doc")  # fmt: skip

    def on_steps(self, trainer: "Trainer", first: int, losses: "list[float]") -> None:
        if not losses:
            return
        size, docs, block_size = self.batch_size, trainer.docs, trainer.config.block_size
        for i in range(first * size, (first + len(losses)) * size):
            self.tokens += min(len(docs[i % len(docs)]) + 1, block_size)
        self.recent = [*self.recent, *losses][-RECENT:]
        rate = self.tokens / max(time.perf_counter() - self.started, 1e-9)
        shown = f"loss {sum(self.recent) / len(self.recent):.4f}, {self.bar.format_sizeof(rate)} tokens/s"
        self.bar.set_postfix_str(shown, refresh=False)
        self.bar.update(len(losses) * size)

    def say(self, message: str) -> None:
        """Print a line above the bar."""
        if self.bar is None:
            print(message)
        else:
            self.bar.write(message)

    def on_train_end(self, trainer: "Trainer") -> None:
        bar, self.bar = self.bar, None
        if bar is not None:
            bar.refresh()
            bar.close()

    def on_exception(self, trainer: "Trainer", error: BaseException) -> None:
        self.on_train_end(trainer)
