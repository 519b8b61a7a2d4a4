"""What the flags of `microgpt train` ask for: documents to train and to validate on, and callbacks."""
import os

from ..callbacks import Checkpointer, LossPlot, RunLogger, Validator
from ..callbacks.validator import check_validation_state
from ..config import VAL_EVERY
from ..data import split_docs
from ..storage.checkpoint import CheckpointError, read_about
from . import console as cli
from .options import best_path
from .texts import Text

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from ..trainer import Callback, Trainer

    Given = dict[str, Any]

__all__ = ["callbacks", "prepare"]


def prepare(given: "Given", text: Text) -> "tuple[list[str], Text | list[str] | None, float | None]":
    """Return (documents to train on, text or documents to validate on or None, the fraction held out or None).

    A resumed run continues with the fraction that it was begun with, and with its --val, --val-every and --patience
    unless given has others: those are put into given. The text to validate on is read as the text to train on.
    """
    docs = text.docs
    fraction = given.get("val_fraction")
    if "resume" in given:
        path = given["resume"]
        extra = read_about(path)["extra"]
        saved = _saved_fraction(path, extra)
        if fraction not in (None, saved):
            begun = "without --val-fraction" if saved is None else f"with --val-fraction {saved}"
            raise cli.UsageError(f"{path} was begun {begun}; it cannot continue with {fraction}")
        fraction = saved
        _add_saved_flags(given, path, extra)
    val: Text | list[str] | None = None
    if fraction is not None:
        try:
            docs, val = split_docs(docs, fraction)
        except ValueError as error:
            message = str(error).replace("a fraction of", "--val-fraction", 1)
            if "resume" not in given:
                raise cli.UsageError(message) from None
            raise CheckpointError(f"{path} was trained on other text than {text.source}: {message}") from None
    if "val" in given:
        val = Text([given["val"]], text.form, text.block_size)
    return docs, val, fraction


def _saved_fraction(path: str, extra: "dict[str, Any]") -> "float | None":
    fraction = extra.get("val_fraction")
    if fraction is None or isinstance(fraction, float) and 0 < fraction < 1:
        return fraction
    raise CheckpointError(f"{path} is damaged or not a checkpoint: its --val-fraction is {fraction!r}")


def _add_saved_flags(given: "Given", path: str, extra: "dict[str, Any]") -> None:
    """Put the flags of the validation that a run was saved with into given, unless it has others."""
    state = check_validation_state(extra.get("validation"))
    if "val" not in given and state.get("val") is not None:
        if not os.path.isfile(state["val"]):  # nor anything else that a file from elsewhere may name, such as a device
            raise cli.UsageError(f"{path} was begun with --val {state['val']}, which is not a file here: give --val again")
        given["val"] = state["val"]
    found = [f"--val {given['val']}"] if "val" in given else []
    for name in ("val_every", "patience"):
        if name not in given and state.get(name) is not None:
            given[name] = state[name]
        if name in given:
            found.append(f"{cli.flag(name)} {given[name]}")
    if found and extra.get("validation") is not None:
        cli.say(f"validation continues with {' '.join(found)}")


def callbacks(
    trainer: "Trainer", given: "Given", source: str, val: "Text | list[str] | None", fraction: "float | None"
) -> "list[Callback]":
    """Return the callbacks that the flags ask for; a Checkpointer is last, so that it saves what the others note."""
    found: list[Callback] = []
    if fraction is not None:
        trainer.extra["val_fraction"] = fraction
    validator = None
    if val is not None:
        val_docs = val.docs if isinstance(val, Text) else val
        if fraction is not None:
            cli.say(f"{len(val_docs)} document{'s' * (len(val_docs) != 1)} held out for validation")
        if isinstance(val, Text):
            val.check_characters(trainer, "the vocabulary")
        if "quiet" not in given:
            cli.say_beyond_block(val_docs, trainer.config.block_size, "not measured")
        best = given.get("save_best") or (best_path(given["save"]) if "save" in given else None)
        every, patience = given.get("val_every", VAL_EVERY), given.get("patience")
        validator = Validator(val_docs, every, patience, best, source=given.get("val"), say=cli.say)
        found.append(validator)
    if "log" in given:
        found.append(RunLogger(given["log"], given.get("look_every"), given.get("digest_every", 1), source=source))
    if "plot" in given:
        found.append(LossPlot(given["plot"], validator, say=cli.say))
    if "save" in given:
        found.append(Checkpointer(given["save"], given.get("save_every"), say=cli.say))
    return found
