"""A trainer's whole run as plain data, and back: see `microgpt.storage.checkpoint.State`."""
from operator import index

import numpy as np

from ..data import docs_digest
from ..errors import CheckpointError, printable
from ..storage.checkpoint import State
from ..storage.metadata import ADAM_SETTINGS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..engines import Engine
    from . import Trainer
    from .loop import Training

__all__ = ["check_same_text", "collect", "restore"]


def collect(trainer: "Training", engine: "Engine", docs_sha256: str) -> State:
    """Return the state of trainer, whose engine is engine, without a copy: its arrays are views of what trains."""
    adam, moments = engine.adam, (engine.adam.m, engine.adam.v)
    m, v = (np.asarray(values, dtype=np.float64) for values in moments)
    changed = {name: getattr(adam, name) for name in ADAM_SETTINGS}
    return State(trainer.config, index(adam.step_index), trainer.tokenizer.uchars, docs_sha256, trainer.extra, changed,
                 engine.parameters(), m, v, trainer.rng.getstate())  # fmt: skip


def restore(trainer: "Trainer", engine: "Engine", state: State) -> None:
    """Set what a new trainer of the state's config, whose engine is engine, does not have from it."""
    trainer.extra = state.extra
    engine.set_parameters(state.params)
    engine.set_moments(state.m, state.v)
    engine.adam.step_index = state.step_index
    for setting, value in state.adam.items():
        setattr(engine.adam, setting, value)
    trainer.rng.setstate(state.rng)


def check_same_text(docs: "Sequence[str]", state: State, name: str) -> None:
    """Raise CheckpointError if docs, as shuffled, are not the text of the run."""
    if docs_digest(docs) == state.docs_sha256:
        return
    hint = ""
    if "val_fraction" in state.extra:
        fraction = printable(state.extra["val_fraction"], 50)
        hint = f", without the part that --val-fraction {fraction} holds out"
    if "text_form" in state.extra:
        hint = f", read with {printable(state.extra['text_form'], 200)}{hint}"
    raise CheckpointError(
        f"{name} was trained on other text{hint}: give its own (--input), or allow another (--allow-other-text, in Python "
        "allow_other_text=True)"
    )
