"""`--val`, `--val-fraction`: the loss on documents that are not trained on, the best model kept, an early stop.

Validation computes probabilities alone. It draws nothing from the run's random stream and writes no parameter, moment
or gradient, so a run with `--val FILE` has the bits of one without.
"""
import hashlib
import math
import os

from ..checkpoint import CheckpointError, docs_digest, read_about
from ..eval import evaluate
from . import console as cli
from .train_flags import VAL_EVERY
from .watching import Watcher

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from ..trainer import Trainer

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


def prepare(
    given: "dict[str, Any]", docs: "list[str]", source: str = "the text"
) -> "tuple[list[str], list[str] | None, float | None]":
    """(documents to train on, documents to validate on or None, the fraction held out or None).

    A resumed run goes on with the fraction that it was begun with, and with its --val, --val-every and --patience
    unless given has others: those are put into given. source: what docs are, in words.
    """
    fraction = given.get("val_fraction")
    if "resume" in given:
        path = given["resume"]
        notes = read_about(path)["notes"]
        saved = _saved_fraction(path, notes)
        if fraction not in (None, saved):
            begun = "without --val-fraction" if saved is None else f"with --val-fraction {saved}"
            raise cli.UsageError(f"{path} was begun {begun}; it cannot go on with {fraction}")
        fraction = saved
        _add_saved_flags(given, path, notes)
    val_docs = None
    if fraction is not None:
        try:
            docs, val_docs = split(docs, fraction)
        except ValueError as error:
            if "resume" not in given:
                raise
            raise CheckpointError(f"{path} was trained on other text than {source}: {error}") from None
    if "val" in given:
        val_docs, _ = cli.read_docs(given["val"])
    return docs, val_docs, fraction


def _saved_fraction(path, notes):
    fraction = notes.get("val_fraction")
    if fraction is not None and not (isinstance(fraction, float) and 0 < fraction < 1):
        raise CheckpointError(f"{path} is damaged or no checkpoint: its --val-fraction is {fraction!r}")
    return fraction


def _add_saved_flags(given, path, notes):
    """Put the flags of the validation that a run was saved with into given, where it has none of its own."""
    state = _checked_state(notes.get("validation"))
    if "val" not in given and state.get("val") is not None:
        if not os.path.isfile(state["val"]):  # nor anything else that a file from elsewhere may name, such as a device
            raise cli.UsageError(f"{path} was begun with --val {state['val']}, which is no file here: give --val again")
        given["val"] = state["val"]
    found = [f"--val {given['val']}"] if "val" in given else []
    for name in ("val_every", "patience"):
        if name not in given and state.get(name) is not None:
            given[name] = state[name]
        if name in given:
            found.append(f"{cli.flag(name)} {given[name]}")
    if found and notes.get("validation") is not None:
        cli.say(f"validation goes on with {' '.join(found)}")


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
        val: "str | None" = None,
    ) -> None:
        self.trainer, self.docs, self.every, self.patience, self.best = trainer, docs, every, patience, best
        for doc in docs:
            trainer.tokenizer.encode(doc)  # an unknown character is an error now, not after some steps
        #: (step, loss) of each measurement of this process.
        self.measured: list[tuple[int, float]] = []
        digest = docs_digest(docs)
        self.state = _checked_state(trainer.notes.get("validation"))
        if self.state["docs_sha256"] != digest:
            if self.state["docs_sha256"] is not None:
                cli.say("validation documents differ from those before: the best loss so far is forgotten")
            self.state = {"docs_sha256": digest, "best_loss": None, "best_step": None, "checks_since_best": 0}
        # With the run, so that it is resumed as it was begun: otherwise its patience would have no end.
        self.state = trainer.notes["validation"] = {**self.state, "val": val, "val_every": every, "patience": patience}

    def due(self) -> bool:
        return super().due() or self.trainer.step_index == self.trainer.num_steps

    def look(self, record: "dict[str, Any]") -> None:
        """Measure, keep the best, and add "val_loss" to the record of this step."""
        step, loss = self.trainer.step_index, evaluate(self.trainer, self.docs).loss
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
        self.trainer.notes["validation"] = self.state = state
        cli.say(f"step {step}: validation loss {loss:.4f}{' (best so far)' if is_best else ''}")
        if is_best and self.best:
            self.trainer.save(self.best)
        if self.patience is not None and state["checks_since_best"] >= self.patience:
            self.stop = (
                f"stopped after step {step}: validation loss has not fallen "
                f"for {state['checks_since_best']} measurements"
            )

    def finish(self) -> None:
        state = self.state
        if state["best_loss"] is not None:
            cli.say(
                f"lowest validation loss {float.fromhex(state['best_loss']):.4f} at step {state['best_step']}"
                + (f", kept in {self.best}" if self._is_kept() else "")
            )

    def __enter__(self) -> "Validation":
        return self

    def __exit__(self, kind: "type[BaseException] | None", *exception: "Any") -> None:
        if kind is not None:
            self.finish()

    def _is_kept(self):
        """Whether best holds the run of the best step: this process or, before a resume, another may have saved it."""
        if not self.best:
            return False
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


def _count(value, least):
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise TypeError
    return value
