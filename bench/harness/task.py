"""One task for every contender: the same text, documents, initial parameters and settings, in a folder.

input.txt   the documents, one per line: read by the script and the trainers
task.json   settings, and the tokens of the training documents, in order
params.f64  the initial parameters as doubles, in the script's order: read by contenders that cannot draw them

Reading a task needs the standard library only, so that a contender may run in another environment, such as PyTorch's.
"""
import json
from array import array
from pathlib import Path

#: The script's own settings.
SETTINGS = {"n_embd": 16, "n_head": 4, "n_layer": 1, "block_size": 16}
ADAM = {"learning_rate": 0.01, "beta1": 0.85, "beta2": 0.99, "eps_adam": 1e-8}


class Task:
    """A task, read from its folder: docs (not shuffled), num_steps, seed, settings, vocab_size, adam (the optimizer's settings);
    tokens: the token ids of each step's document, BOS on both sides."""

    def __init__(self, folder):
        self.folder = Path(folder)
        self.__dict__.update(json.loads((self.folder / "task.json").read_text(encoding="utf-8")))
        self.adam = ADAM

    @property
    def docs(self):
        return (self.folder / "input.txt").read_text(encoding="utf-8").split("\n")

    def positions(self, documents):
        """Return the number of predicted tokens in each of the first documents."""
        return [min(self.settings["block_size"], len(tokens) - 1) for tokens in self.tokens[:documents]]

    def params(self):
        """Return the initial parameters, an array of doubles: the matrices of `shapes`, (name, nout, nin), in the script's order."""
        return array("d", (self.folder / "params.f64").read_bytes())


def write(folder, docs, documents, num_steps=1000, seed=42, **settings):
    """Write the task of training on `documents` documents and return it. Parameters are drawn as in the script."""
    import random

    from microgpt.config import Config
    from microgpt.data import Tokenizer

    folder, settings = Path(folder), {**SETTINGS, **settings}
    rng, shuffled = random.Random(seed), list(docs)
    rng.shuffle(shuffled)
    tokenizer = Tokenizer(shuffled)
    rows = [(name, *shape) for name, shape in Config(**settings).shapes(tokenizer.vocab_size).items()]
    params = array("d", [rng.gauss(0, 0.08) for _, nout, nin in rows for _ in range(nout * nin)])
    (folder / "params.f64").write_bytes(params.tobytes())
    (folder / "input.txt").write_text("\n".join(docs), encoding="utf-8", newline="\n")
    task = {"num_steps": num_steps, "seed": seed, "settings": settings, "vocab_size": tokenizer.vocab_size, "shapes": rows,
            "tokens": [tokenizer.encode(shuffled[i % len(shuffled)]) for i in range(documents)]}  # fmt: skip
    (folder / "task.json").write_text(json.dumps(task), encoding="utf-8")
    return Task(folder)
