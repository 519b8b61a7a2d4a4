"""The script's architecture as a user of the package would write it, in three ways.

The program is microgpt/reference.py, the script's classes and functions, with some of them replaced by imports. In the last
way the loss of a document is under @microgpt.compile.
"""
import functools
from pathlib import Path

from harness import edited

import microgpt
from microgpt import reference

COMPILED = "@microgpt.compile, Adam"
AS_WRITTEN = "as written"
#: Way -> what is imported.
WAYS = {
    "Value": ("Value",),
    "Value, linear, softmax, rmsnorm, Adam": ("Value", "linear", "softmax", "rmsnorm", "Adam"),
    COMPILED: ("Value", "Adam"),
}

#: A change of the architecture -> what it replaces in reference.py by what.
CHANGES = {
    "GELU": ("[xi.relu() for xi in x]", "[xi * (1 / (1 + (xi * -1.702).exp())) for xi in x]"),
    "LayerNorm": ("        x_residual = x\n", "        mean = sum(x) / len(x)\n        x_residual = x = [xi - mean for xi in x]\n"),
    "tied embeddings": ('weights["lm_head"]', 'weights["wte"]'),
    "label smoothing": ("        losses.append(-probs[tokens[pos_id + 1]].log())",
                        "        smooth = sum(p.log() for p in probs) * (-0.1 / len(probs))\n"
                        "        losses.append(smooth - 0.9 * probs[tokens[pos_id + 1]].log())"),
}  # fmt: skip


def program(folder, way, change=None):
    """Write the user's program into a folder, and return it as a module."""
    path = Path(reference.__file__)
    if change:
        path = edited.replaced(path, *CHANGES[change], Path(folder, "changed.py"))
    if way != AS_WRITTEN:
        path = edited.with_imports(path, WAYS[way], Path(folder, f"user_{list(WAYS).index(way)}.py"))
    return edited.load(path)


class Run:
    """A run of a task by a user's program; each step() returns its loss."""

    def __init__(self, task, program, model, loss):
        self.task, self.model, self.loss = task, model, loss
        for p, x in zip(model.params, task.params()):
            p.data, p.grad = x, 0
        rate, beta1, beta2, eps = task.adam.values()
        self.adam = program.Adam(model.params, rate, beta1, beta2, eps, task.num_steps)

    def step(self):
        loss = self.loss(self.task.tokens[self.adam.step_index], self.model)
        loss.backward()
        self.adam.step()
        return loss.data


@functools.cache
def prepared(task, way, change):
    """Return the program, its model and its loss, which all runs of a process share with what is compiled."""
    user = program(task.folder, way, change)
    model, loss = user.GPT(task.vocab_size, **task.settings), user.document_loss
    if way == COMPILED:  # two calls of a length run as written; the third is replayed
        loss = microgpt.compile(loss)
        for tokens in {len(tokens): tokens for tokens in task.tokens}.values():
            for _ in range(3):
                loss(tokens, model).backward()
    return user, model, loss


def make(task, way, change=None):
    return Run(task, *prepared(task, way, change))
