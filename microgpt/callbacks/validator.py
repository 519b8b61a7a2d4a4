"""Validation while a run trains: the best model, and an early stop."""
import math
import os

from ..config import VAL_EVERY, whole_number
from ..errors import CheckpointError
from ..trainer import Callback
from .base import silent

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from ..trainer import Trainer
    from .base import Say


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
        Stop when the loss has not fallen for this many measurements.
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
        self.best, self.source, self.say = None if best is None else os.fspath(best), source, say or silent
        self.measured: list[tuple[int, float]] = []
        self.state: dict[str, Any] = {}

    def on_train_begin(self, trainer: "Trainer") -> None:
        from ..data import docs_digest

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
        from ..storage.checkpoint import read_about

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
