"""The training loop: a run's steps, with callbacks or without; who is called, when, and what happens after an exception.

`Callback` is what `Trainer.run` calls; `microgpt.callbacks` has those that come with the package.
"""
import time

from ..config import whole_number
from .inference import Inference, is_part_of_trainer

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

    from ..config import Config
    from ..core.documents import TextLines
    from ..data import Tokenizer
    from ..distributed.ranks import Ranks
    from ..engines import Engine
    from ..storage.checkpoint import State
    from . import Trainer

__all__ = ["Callback", "CallbackList", "Training"]

#: Seconds that a run computes between two calls of its callbacks, unless one of them is due earlier.
REPORT_EVERY = 0.05


class Callback:
    """What `Trainer.run` calls while a run trains. A subclass overrides the methods that it needs.

    Attributes
    ----------
    every : int or None
        Steps after which the callback is due again; None: never.
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
        """Tell each that the run is done, the last of them first."""
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


@is_part_of_trainer
class Training(Inference):
    """What `Trainer` does with documents: steps over them, their losses, and the whole run as plain data.

    engine: the name of the engine that kernels is. docs: as shuffled, or None if it only samples.
    """

    def __init__(
        self,
        engine: str,
        kernels: "Engine",
        tokenizer: "Tokenizer",
        config: "Config",
        rng: "Any",
        docs: "list[str] | TextLines | None",
        comm: "Any",
    ) -> None:
        super().__init__(kernels, tokenizer, config, rng)
        self.engine = engine
        self.docs: Any = docs
        self.extra: dict[str, Any] = {}
        self._run_losses: tuple[int, list[float]] = (0, [])  # steps done before the last run; the losses of that run
        self._docs_sha256: str | None = None
        self._calls_back = False  # during a run with callbacks
        self._ranks: Ranks | None = None
        if comm is not None:
            from ..distributed.ranks import ranks_of

            self._ranks = ranks_of(kernels, comm)
        self._engine: Engine = self._ranks or kernels  # type: ignore[assignment]  # what ranks lack is the engine's

    @property
    def num_steps(self) -> int:
        """The length of the whole run; setting it leaves the rates as they are.

        So Adam's num_steps stays, unless the schedule is constant, where it is the same number and decides nothing.
        """
        return self.config.num_steps

    @num_steps.setter
    def num_steps(self, value: int) -> None:
        self._sampler.config = self.config.replace(num_steps=value)
        if self._engine.adam.schedule == "constant":
            self._engine.adam.num_steps = self.config.num_steps

    @property
    def step_index(self) -> int:
        """The number of steps done so far."""
        return self._engine.adam.step_index  # type: ignore[no-any-return]  # an int of any engine's Adam

    @property
    def last_losses(self) -> "list[float]":
        """The losses of the last `run`."""
        return self._run_losses[1]

    @last_losses.setter
    def last_losses(self, losses: "list[float]") -> None:
        self._run_losses = self.step_index - len(losses), losses

    def losses_after(self, step: int) -> "list[float]":
        """Return the losses of the steps of the last `run` that came after step and are done."""
        start, losses = self._run_losses
        return losses[max(0, step - start) : max(0, self.step_index - start)]

    def step(self) -> float:
        """Train on the next document or batch of documents; return its loss. Raises what `run` raises."""
        if self.step_index >= self.num_steps:
            raise ValueError(f"all {self.num_steps} steps of this run are done")
        return self.run(1)[0]

    def run(self, n: "int | None" = None, callbacks: "Iterable[Callback]" = ()) -> "list[float]":
        """Train n steps, each on the next document or batch_size documents, or all steps that remain.

        After an exception (KeyboardInterrupt included) the trainer is in the state after the last whole step, and may
        go on; the losses up to there are in `last_losses`. A step that fails changes nothing: gradients that you had added
        yourself before the first step are there again if it fails, where the script's loop would leave half of a sum.

        With a comm all ranks must call it, with the same n; rank 0 alone has callbacks. What ends the run of one rank ends
        that of all.

        Parameters
        ----------
        n : int, optional
            Number of steps; more than remain of num_steps are cut to those.
        callbacks : iterable of Callback
            Called about every 50 ms, and when they are due: see `microgpt.callbacks`. They change no bit of the run.

        Returns
        -------
        list of float
            The losses.

        Raises
        ------
        DivergedError
            If the script's own arithmetic fails.
        ValueError
            If the trainer was loaded without documents.
        RuntimeError
            In a callback, or in another thread, before a run with callbacks has ended.

        Examples
        --------
        >>> from microgpt import Checkpointer, Trainer, Validator
        >>> trainer = Trainer(["emma", "ava", "mia"], num_steps=10)
        >>> losses = trainer.run(callbacks=[Validator(["mia"], every=5), Checkpointer("run.safetensors")])
        """
        if self.docs is None:
            raise ValueError("this trainer was loaded without documents, so it can sample but not train")
        if self._calls_back:  # its losses would not be those of its own steps, nor what its callbacks are told of
            raise RuntimeError("a run of this trainer is under way: no callback and no other thread can train before it has ended")
        n, callbacks = n if n is None else whole_number("n", n, 0), list(callbacks)
        if self._ranks is None:
            return self._run(n, callbacks)
        return self._ranks.run(lambda: self._run(n, callbacks), lambda: self.exclusively(self._state), self.engine, n)

    def _run(self, n: "int | None", callbacks: "list[Callback]") -> "list[float]":
        if callbacks and (self._ranks is None or self._ranks.rank == 0):
            trainer: Any = self  # a Trainer, which is all that callbacks know
            try:
                self._calls_back = True
                return run_with(trainer, n, CallbackList(trainer, callbacks))
            finally:
                self._calls_back = False
        return self.exclusively(self.train_steps, n, [])

    def train_steps(self, n: "int | None", losses: "list[float]") -> "list[float]":
        """Train up to n steps; append to losses, which become `last_losses`. For `run`, which holds the trainer."""
        from ..core.documents import Rounds

        docs, start = self.docs, self.step_index
        left = self.num_steps - start
        if self._run_losses[1] is not losses:
            self._run_losses = start, losses
        size, steps = self.config.batch_size, left if n is None else min(n, left)
        chosen = Rounds(docs, start * size, steps * size)
        try:
            self._engine.train(chosen, self.tokenizer, losses, size)
        except (ValueError, ArithmeticError) as error:
            from ..errors import diverged_step

            found = diverged_step(error, self.step_index + 1, self.config, self._engine.adam.learning_rate)
            if found is None:
                raise
            raise found from error
        return losses

    def state(self) -> "State":
        """Return the whole run as plain data, which no later step changes: see `microgpt.storage.checkpoint.State`."""
        return self.exclusively(lambda: self._state().copy())

    def _state(self) -> "State":
        """Return the state without a copy: its arrays are views of what trains."""
        from .state import collect

        if self._docs_sha256 is None:
            from ..data import docs_digest

            self._docs_sha256 = docs_digest(self.docs)
        return collect(self, self._engine, self._docs_sha256)
