"""The loop of a run with callbacks: who is called, when, and what happens after an exception.

`Callback` is what `Trainer.run` calls; `microgpt.callbacks` has those that come with the package.
"""
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

    from . import Trainer

__all__ = ["Callback", "CallbackList", "run_with"]

#: Seconds that a run computes between two calls of its callbacks, unless one of them is due earlier.
REPORT_EVERY = 0.05


class Callback:
    """What `Trainer.run` calls while a run trains. A subclass overrides the methods that it needs.

    Attributes
    ----------
    every : int or None
        The callback is due every so many steps; None: never.
    stop : str or None
        Set it to end the run early: the reason, in one line.
    """

    every: "int | None" = None
    stop: "str | None" = None

    def on_train_begin(self, trainer: "Trainer") -> None:
        """Called before the first step of a `run`."""

    def steps_until_due(self, trainer: "Trainer") -> "int | None":
        """Return the steps that may pass before `is_due` must be asked; None: any number."""
        return self.every and self.every - trainer.step_index % self.every

    def on_steps(self, trainer: "Trainer", first: int, losses: "list[float]") -> None:
        """Called after every chunk of steps, also one that an exception cut short.

        losses[i] is the loss of step first + 1 + i.
        """

    def is_due(self, trainer: "Trainer") -> bool:
        """Return whether `on_check` is to be called after the step just done."""
        return self.every is not None and trainer.step_index % self.every == 0

    def on_check(self, trainer: "Trainer", record: "dict[str, Any]") -> None:
        """Called after a step at which the callback is due; may add to the record of that step."""

    def flush(self, trainer: "Trainer", record: "dict[str, Any]") -> None:
        """Called after `on_steps` and `on_check`: write what is known so far. record: of the last step, or empty."""

    def on_train_end(self, trainer: "Trainer") -> None:
        """Called when all steps of a `run` are done, or a callback has stopped it."""

    def on_exception(self, trainer: "Trainer", error: BaseException) -> None:
        """Called when an exception ends a `run`, KeyboardInterrupt included; also one that `on_train_end` raised."""


class CallbackList:
    """Several callbacks as one context: they begin in order, and end or answer an exception in reverse order."""

    def __init__(self, trainer: "Trainer", callbacks: "Iterable[Callback]") -> None:
        self.trainer, self.callbacks = trainer, list(callbacks)
        self.begun: list[Callback] = []

    @property
    def stop(self) -> "str | None":
        """Why the run should end now, or None."""
        return next((c.stop for c in self.callbacks if c.stop), None)

    def __enter__(self) -> "CallbackList":
        try:
            for callback in self.callbacks:
                callback.on_train_begin(self.trainer)
                self.begun.append(callback)
        except BaseException as error:
            self.__exit__(type(error), error, None)
            raise
        return self

    def steps_until_due(self, most: int) -> int:
        """Return the steps that may pass before a callback is due, at most most."""
        for callback in self.callbacks:
            steps = callback.steps_until_due(self.trainer)
            if steps is not None and steps < most:
                most = steps
        return most

    def after_steps(self, first: int, is_whole: bool) -> None:
        """Report the steps after step first; unless is_whole, an exception has cut them short, and nothing is checked."""
        trainer, losses = self.trainer, self.trainer.losses_after(first)
        for callback in self.callbacks:
            callback.on_steps(trainer, first, losses)
        record: dict[str, Any] = {}
        for callback in self.callbacks:
            if is_whole and callback.is_due(trainer):
                callback.on_check(trainer, record)
            callback.flush(trainer, record)

    def flush(self) -> None:
        """Let each write what it has not written yet, the last of them first."""
        for callback in reversed(self.callbacks):
            callback.flush(self.trainer, {})

    def end(self) -> None:
        for callback in reversed(self.callbacks):
            callback.on_train_end(self.trainer)

    def __exit__(self, kind: "type[BaseException] | None", error: "BaseException | None", traceback: object) -> None:
        raised = None
        while error is not None and self.begun:
            try:
                self.begun.pop().on_exception(self.trainer, error)
            except BaseException as another:  # the rest answer this one
                error = raised = another
        if raised is not None:
            raise raised


def run_with(trainer: "Trainer", n: "int | None", callbacks: CallbackList) -> "list[float]":
    """Train n steps, or all that remain, in chunks; call the callbacks after each. Return the losses."""
    losses, left = [], trainer.num_steps - trainer.step_index  # type: list[float], int
    end, chunk = trainer.step_index + (left if n is None else min(n, left)), 1
    with callbacks:
        trainer.last_losses = losses
        try:
            while trainer.step_index < end and not callbacks.stop:
                first, started, is_whole = trainer.step_index, time.perf_counter(), False
                try:
                    steps = callbacks.steps_until_due(min(chunk, end - first))
                    trainer.exclusively(trainer.train_steps, steps, losses)
                    is_whole = True
                finally:
                    callbacks.after_steps(first, is_whole)
                done, took = trainer.step_index - first, time.perf_counter() - started
                chunk = max(1, min(done * 4, int(done * REPORT_EVERY / took) if took > 0 else done * 4))
        except BaseException:
            callbacks.flush()  # an interrupt may have come before the steps were reported
            raise
        callbacks.end()  # within: interrupted in its last save, a run saves again
    return losses
