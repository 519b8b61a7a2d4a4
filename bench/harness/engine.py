"""An engine of microgpt as a contender: its public Trainer on a task. Another version of the package may run here."""
from pathlib import Path

import microgpt
from microgpt import Trainer, load_docs


def make(task, package=None, **options):
    """Return a new Trainer with these options; package: the folder that microgpt must come from."""
    if package and Path(package).resolve() not in Path(microgpt.__file__).resolve().parents:
        raise ImportError(f"{package} has no microgpt that was built in place")
    docs = load_docs(task.folder / "input.txt")
    return Trainer(docs, num_steps=task.num_steps, seed=task.seed, **options, **task.settings)
