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
#: Way -> what is imported.
WAYS = {
    "Value": ("Value",),
    "Value, linear, softmax, rmsnorm, Adam": ("Value", "linear", "softmax", "rmsnorm", "Adam"),
    COMPILED: ("Value", "Adam"),
}


class User:
    """A model, its optimizer and its documents."""

    def __init__(self, task, way):
        copy = Path(task.folder, f"user_{list(WAYS).index(way)}.py")
        self.task, self.program = task, edited.load(edited.with_imports(reference.__file__, WAYS[way], copy))
        self.model = self.program.GPT(task.vocab_size, **task.settings)
        self.loss = self.program.document_loss
        if way == COMPILED:  # two calls of a length run as written; the third is replayed
            self.loss = microgpt.compile(self.loss)
            for tokens in {len(tokens): tokens for tokens in task.tokens}.values():
                for _ in range(3):
                    self.loss(tokens, self.model).backward()

    def restart(self):
        """Go back to the initial parameters and a new optimizer."""
        initial = [x for _, _, flat in self.task.state_dict().values() for x in flat]
        for p, x in zip(self.model.params, initial):
            p.data, p.grad = x, 0
        rate, beta1, beta2, eps = self.task.adam.values()
        self.adam = self.program.Adam(self.model.params, rate, beta1, beta2, eps, self.task.num_steps)

    def run(self, n):
        return [self.step() for _ in range(n)]

    def step(self):
        loss = self.loss(self.task.tokens[self.adam.step_index], self.model)
        loss.backward()
        self.adam.step()
        return loss.data


user_of = functools.cache(User)  # of one task in one process, so that a new run goes on with what is compiled


def make(task, way):
    """Return a new run of the task, with .run(n) -> the losses of its next n steps."""
    user = user_of(task, way)
    user.restart()
    return user
