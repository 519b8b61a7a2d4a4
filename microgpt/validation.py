"""`--val`, `--val-fraction`: the loss on documents that are not trained on, the best model kept, an early stop.

Validation computes probabilities alone. It draws nothing from the run's random stream and writes no parameter, moment
or gradient, so a run with `--val FILE` has the bits of one without.
"""
import hashlib
import math

from . import cli
from .checkpoint import CheckpointError, docs_digest, read_about
from .eval import evaluate
from .flags import VAL_EVERY
from .watching import Watcher

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from .trainer import Trainer

__all__ = ["Validation", "best_path", "split"]

def split(docs: "Sequence[str]", fraction: float) -> "tuple[list[str], list[str]]":
    """(documents to train on, documents held out), both in their order in docs.

    Of the n distinct documents, ordered by the SHA-256 of their UTF-8 text, the first round(fraction * n), at least
    one, are held out with all their copies: so the choice depends on neither the seed, the order nor the machine, no
    document stands on both sides, and most keep their side when a text grows. A document with a character that no
    document on the training side has goes back there, since the vocabulary is made of that side alone.
    Raises ValueError if either side comes out empty.
    """
    distinct = sorted(set(docs), key=lambda doc: (hashlib.sha256(doc.encode("utf-8", "surrogatepass")).digest(), doc))
    held_out = set(distinct[: max(1, round(fraction * len(distinct)))])
    known = set("".join(doc for doc in distinct if doc not in held_out))
    held_out = {doc for doc in held_out if known.issuperset(doc)}
    train = [doc for doc in docs if doc not in held_out]
    if not held_out or not train:
        raise ValueError(
            f"--val-fraction {fraction} of {len(distinct)} different documents leaves none to "
            f"{'train on' if held_out else 'validate on'}"
        )
    return train, [doc for doc in docs if doc in held_out]


def prepare(given: "dict[str, Any]", docs: "list[str]") -> "tuple[list[str], list[str] | None, float | None]":
    """(documents to train on, documents to validate on or None, the fraction held out or None).

    A resumed run goes on with the fraction that it was begun with.
    """
    fraction = given.get("val_fraction")
    if "resume" in given:
        saved = _saved_fraction(given["resume"])
        if fraction not in (None, saved):
            begun = "without --val-fraction" if saved is None else f"with --val-fraction {saved}"
            raise cli.UsageError(f"{given['resume']} was begun {begun}; it cannot go on with {fraction}")
        fraction = saved
    val_docs = None
    if fraction is not None:
        docs, val_docs = split(docs, fraction)
    if "val" in given:
        val_docs, _ = cli.read_docs(given["val"])
    return docs, val_docs, fraction


def _saved_fraction(path):
    fraction = read_about(path)["notes"].get("val_fraction")
    if fraction is not None and not (isinstance(fraction, float) and 0 < fraction < 1):
        raise CheckpointError(f"{path} is damaged or no checkpoint: its --val-fraction is {fraction!r}")
    return fraction


def best_path(path: str) -> str:
    """Where the best model goes beside path: run.safetensors -> run.best.safetensors."""
    stem = path.removesuffix(".safetensors")
    return f"{stem}.best{path[len(stem):]}"


class Validation(Watcher):
    """Measures the loss on docs every `every` steps; keeps the best run in best; says when patience is at an end.

    What it remembers stands in `trainer.notes["validation"]` and so is saved and resumed with the run.
    """

    def __init__(
        self,
        trainer: "Trainer",
        docs: "Sequence[str]",
        every: int = VAL_EVERY,
        patience: "int | None" = None,
        best: "str | None" = None,
    ) -> None:
        self.trainer, self.docs, self.every, self.patience, self.best = trainer, docs, every, patience, best
        for doc in docs:
            trainer.tokenizer.encode(doc)  # an unknown character is an error now, not after some steps
        #: (step, loss) of each measurement of this process.
        self.measured: list[tuple[int, float]] = []
        digest = docs_digest(docs)
        self.is_kept = False  # whether this process has saved to best
        self.state = _checked_state(trainer.notes.get("validation"))
        if self.state["docs_sha256"] != digest:
            if self.state["docs_sha256"] is not None:
                cli.say("validation documents differ from those before: the best loss so far is forgotten")
            self.state = {"docs_sha256": digest, "best_loss": None, "best_step": None, "checks_since_best": 0}

    def due(self) -> bool:
        return super().due() or self.trainer.step_index == self.trainer.num_steps

    def look(self, record: "dict[str, Any]") -> None:
        """Measure, keep the best, and add "val_loss" to the record of this step."""
        step, loss = self.trainer.step_index, evaluate(self.trainer, self.docs).loss
        self.measured.append((step, loss))
        record["val_loss"] = loss
        state = dict(self.state)
        # No loss that is infinite or nan is the best of anything.
        is_best = math.isfinite(loss) and (state["best_loss"] is None or loss < float.fromhex(state["best_loss"]))
        if is_best:
            state.update(best_loss=loss.hex(), best_step=step, checks_since_best=0)
        else:
            state["checks_since_best"] += 1
        # Replaced as a whole: an interrupt leaves either the old state or the new one.
        self.trainer.notes["validation"] = self.state = state
        cli.say(f"step {step}: validation loss {loss:.4f}{' (best so far)' if is_best else ''}")
        if is_best and self.best:
            self.trainer.save(self.best)
            self.is_kept = True
        if self.patience is not None and state["checks_since_best"] >= self.patience:
            self.stop = (
                f"stopped after step {step}: validation loss has not fallen "
                f"for {state['checks_since_best']} measurements"
            )

    def finish(self) -> None:
        state = self.state
        if state["best_loss"] is not None:
            kept = f", kept in {self.best}" if self.best and (self.is_kept or self._was_kept()) else ""
            cli.say(f"lowest validation loss {float.fromhex(state['best_loss']):.4f} at step {state['best_step']}{kept}")

    def _was_kept(self):
        """Whether best holds that model from before this run was resumed."""
        try:
            about = read_about(self.best)
            state = _checked_state(about["notes"].get("validation"))
        except (CheckpointError, OSError):
            return False
        return about["step_index"] == self.state["best_step"] and all(
            state.get(name) == self.state[name] for name in ("best_loss", "best_step", "docs_sha256")
        )


def _checked_state(state):
    """What a file remembered of an earlier validation, or nothing; CheckpointError if it cannot be that."""
    if state is None:
        return {"docs_sha256": None}
    try:
        best = {"best_loss": state["best_loss"], "docs_sha256": str(state["docs_sha256"])}
        numbers = ["best_step", "checks_since_best"]
        if best["best_loss"] is None and state["best_step"] is None:  # none was finite so far
            best["best_step"] = None
            numbers.remove("best_step")
        else:
            best["best_loss"] = float.fromhex(best["best_loss"]).hex()
        for name in numbers:
            if isinstance(state[name], bool) or not isinstance(state[name], int):
                raise TypeError(name)
            best[name] = state[name]
        return best
    except (ValueError, TypeError, LookupError, OverflowError):
        raise CheckpointError("what the checkpoint says of its validation cannot be read") from None
