"""What observes a run: checkpoints, validation with an early stop, a log, a plot, a progress bar.

    trainer.run(callbacks=[Validator(held_out, patience=5), Checkpointer("run.safetensors", every=1000), Progress()])

None of them changes a bit of the run. They write their files and are otherwise silent: give `say`, for example
`say=print`, to have each message as one line. Order matters where one adds to what another writes: a Validator before a
RunLogger that logs its losses, a Checkpointer after those whose state it saves. `Callback` is the base of your own.
"""
import os
import sys
import time

from ..config import whole_number
from ..trainer import Callback
from .base import silent, steps_with_rates
from .run_logger import RunLogger
from .validator import Validator

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, TextIO

    from ..trainer import Trainer
    from .base import Say

__all__ = ["Callback", "Checkpointer", "LossPlot", "Progress", "RunLogger", "Validator"]

RECENT = 100  # steps whose mean loss a progress bar shows


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
        self.path, self.say = os.fspath(path), say or silent
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
        self.path, self.validator, self.say = os.fspath(path), validator, say or silent
        self.steps: list[tuple[int, float, float]] = []  # (step, loss, learning rate)
        self.failure: OSError | None = None  # of the drawing

    def on_train_begin(self, trainer: "Trainer") -> None:
        from ..viz.plots import need_matplotlib

        need_matplotlib()
        self.first_step = trainer.step_index + 1
        self.steps, self.failure = [], None

    def on_steps(self, trainer: "Trainer", first: int, losses: "list[float]") -> None:
        self.steps += steps_with_rates(trainer, first, losses)

    def on_train_end(self, trainer: "Trainer") -> None:
        from ..viz.plots import plot_loss

        last = self.first_step - 1 + len(self.steps)
        self.steps += steps_with_rates(trainer, last, trainer.losses_after(last))  # not reported: an interrupt came
        if not self.steps:
            return
        c = trainer.config
        _, losses, rates = zip(*self.steps)
        title = f"n_embd {c.n_embd}, n_head {c.n_head}, n_layer {c.n_layer}, block_size {c.block_size}"
        measured = self.validator.measured if self.validator else []
        try:
            plot_loss(losses, measured, rates, self.first_step, self.path, f"{title}, {len(trainer.docs)} documents")
        except OSError as failure:
            self.failure = failure
            raise
        self.say(f"drew {self.path}")

    def on_exception(self, trainer: "Trainer", error: BaseException) -> None:
        if error is self.failure:
            return
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
