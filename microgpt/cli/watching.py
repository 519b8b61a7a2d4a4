"""What may be watched while a run trains: saving, validation, a log, a plot. Imported only when a flag asks for one."""
from contextlib import AbstractContextManager, ExitStack

from . import console as cli

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from ..trainer import Trainer

__all__ = ["Watcher", "Watchers", "prepare"]


class Watcher:
    """One that looks at a run every `every` steps (None: never). A watcher that must tidy up is a context as well."""

    trainer: "Trainer"
    every: "int | None" = None
    #: In one line why the run should end now.
    stop: "str | None" = None

    def until_next(self) -> int:
        """The steps that may pass before it wants to look."""
        if not self.every:
            return self.trainer.num_steps
        return self.every - self.trainer.step_index % self.every

    def due(self) -> bool:
        """Whether it wants to look at the step just done."""
        return self.every is not None and self.trainer.step_index % self.every == 0

    def note(self, first: int, losses: "list[float]") -> None:
        """The steps after step `first` have been done, with these losses."""

    def look(self, record: "dict[str, Any]") -> None:
        """Look at the run after the step just done; may add to the record of that step."""

    def write(self, record: "dict[str, Any]") -> None:
        """Keep what was noted, and the record of the last step of it."""

    def finish(self) -> None:
        """The run has ended."""


def prepare(
    given: "dict[str, Any]", docs: "list[str]", source: str = "the text"
) -> "tuple[list[str], list[str] | None, float | None]":
    """(documents to train on, documents to validate on or None, the fraction held out or None).

    source: what docs are, in words. A resumed run goes on with the validation that it was begun with, and given gets
    its flags.
    """
    if given.keys() & {"val", "val_fraction", "resume"}:
        from .validation import prepare

        return prepare(given, docs, source)
    return docs, None, None


class Watchers:
    """Those that the flags ask for, as one."""

    def __init__(
        self,
        trainer: "Trainer",
        given: "dict[str, Any]",
        source: str,
        val_docs: "list[str] | None",
        fraction: "float | None",
    ) -> None:
        self.trainer = trainer
        self.members: list[Watcher] = []
        if fraction is not None:
            trainer.notes["val_fraction"] = fraction
        validation = None
        if val_docs is not None:
            from .train_flags import VAL_EVERY
            from .validation import Validation, best_path

            best = given.get("save_best") or (best_path(given["save"]) if "save" in given else None)
            if fraction is not None:
                cli.say(f"{len(val_docs)} documents held out for validation")
            if "val" in given:
                cli.check_characters(val_docs, trainer.tokenizer, given["val"], "the vocabulary")
            cli.say_beyond_block(val_docs, trainer.settings["block_size"], "not measured")
            every, patience = given.get("val_every", VAL_EVERY), given.get("patience")
            validation = Validation(trainer, val_docs, every, patience, best, given.get("val"))
            self.members.append(validation)
        if "log" in given or "plot" in given:
            from .. import runlog

            self.members += runlog.watchers(trainer, given, source, validation)
        if "save" in given:
            from .saving import Saver

            # Last, so that what is saved includes what the others have noted.
            self.members.append(Saver(trainer, given["save"], given.get("save_every")))

    @property
    def stop(self) -> "str | None":
        """Why the run should end now, or None."""
        return next((w.stop for w in self.members if w.stop), None)

    def until_next(self) -> int:
        return min((w.until_next() for w in self.members), default=self.trainer.num_steps)

    def note(self, first: int, losses: "list[float]") -> None:
        """The steps after step `first` have been done, with these losses."""
        for w in self.members:
            w.note(first, losses)

    def look(self, whole: bool) -> None:
        """Look at the run as it stands and keep what was noted; unless whole, an exception has cut the steps short."""
        record: dict[str, Any] = {}
        for w in self.members:
            if whole and w.due():
                w.look(record)
            w.write(record)

    def finish(self) -> None:
        if self.stop:
            cli.say(self.stop)
        for w in reversed(self.members):
            w.finish()

    def __enter__(self) -> "Watchers":
        with ExitStack() as stack:
            for w in self.members:
                if isinstance(w, AbstractContextManager):
                    stack.enter_context(w)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *exception: "Any") -> "bool | None":
        return self._stack.__exit__(*exception)
