"""One task for every contender: the same text, documents, initial parameters and settings, in a folder.

input.txt   the documents, one per line: read by the script and the trainers
task.json   settings, and the tokens of the training documents, in order
params.f64  the initial parameters as doubles, in the script's order: read by contenders that cannot draw them

Reading a task needs the standard library only, so that a contender may run in another environment, such as PyTorch's.
"""
import json
from array import array
from pathlib import Path

SIZES, ADAM = ("n_embd", "n_head", "n_layer", "block_size"), ("learning_rate", "beta1", "beta2", "eps_adam")


class Task:
    """A task, read from its folder: docs (not shuffled), num_steps, seed, settings, vocab_size, adam (the optimizer's settings);
    tokens: the token ids of each step's document, BOS on both sides."""

    def __init__(self, folder):
        self.folder = Path(folder)
        self.__dict__.update(json.loads((self.folder / "task.json").read_text(encoding="utf-8")))

    @property
    def docs(self):
        return (self.folder / "input.txt").read_text(encoding="utf-8").split("\n")

    def params(self):
        """Return the initial parameters, an array of doubles: the matrices of `shapes`, (name, nout, nin), in the script's order."""
        return array("d", (self.folder / "params.f64").read_bytes())


def write(folder, docs, documents, num_steps=1000, seed=42, **settings):
    """Write the task of training on `documents` documents and return it: the state in which a Trainer begins."""
    from microgpt import Trainer

    folder, trainer = Path(folder), Trainer(docs, num_steps, seed, **settings)
    encode, shuffled, vocab_size = trainer.tokenizer.encode, trainer.docs, trainer.tokenizer.vocab_size
    sizes, adam = ({name: getattr(trainer.config, name) for name in names} for names in (SIZES, ADAM))
    (folder / "params.f64").write_bytes(trainer.model.data.tobytes())
    (folder / "input.txt").write_text("\n".join(docs), encoding="utf-8", newline="\n")
    task = {"num_steps": num_steps, "seed": seed, "settings": sizes, "adam": adam, "vocab_size": vocab_size,
            "shapes": [(name, *shape) for name, shape in trainer.config.shapes(vocab_size).items()],
            "tokens": [encode(shuffled[i % len(shuffled)]) for i in range(documents)]}  # fmt: skip
    (folder / "task.json").write_text(json.dumps(task), encoding="utf-8")
    return Task(folder)
