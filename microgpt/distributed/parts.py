"""What the engines compute of a rank's part of a batch."""
import numpy as np

from ..engines import Fused
from ..engines.base import set_each
from ..engines.script_loop import Graph

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, Protocol

    from .._types import Array
    from ..data import Tokenizer

    Chunks = list[tuple[int, int]]
else:
    Protocol = object

__all__ = ["Part", "part_of"]

#: Parameters whose gradients are sent on together, about: fewer for many ranks, which wait for the first chunk one after the
#: other, but each message costs time.
SMALLEST_CHUNK, LARGEST_CHUNK = 1 << 12, 1 << 16

#: Documents of a part that the graph engines keep the graphs of.
MOST_GRAPHS = 16


class Part(Protocol):
    """A rank's part of a step: `begin`, then for each round `losses`, `gradients` and `add`, then `update`, then `clear`, also
    after an exception."""

    #: Parameters (first, end) whose gradients are sent on together.
    chunks: "Chunks"
    #: Documents that a round should have at most, for the sake of memory.
    capacity: int

    def begin(self, is_first: bool) -> None:
        """Begin a step. is_first: no step of this part was the last to change the gradients."""

    def losses(
        self, docs: "list[str]", tokenizer: "Tokenizer", batch_size: int, check: "Callable[[], None]"
    ) -> "list[float]":
        """Return the loss of each document; check is called now and then, and may raise."""

    def gradients(self) -> "Array":
        """Return the engine's gradients, [num_params], into which the sums of other ranks may be written."""

    def add(self, chunk: int) -> None:
        """Add the gradients of the documents, from the last to the first, to those of a chunk."""

    def update(self) -> None:
        """Make the step of Adam, once the gradients are those of the whole batch. If it raises, `clear` undoes it."""

    def clear(self) -> None:
        """Forget the documents; undo what was begun and not finished."""


def part_of(engine: "Any", ranks: int) -> Part:
    """Return the part of a batch that engine computes as one of this many ranks."""
    return _FusedPart(engine, ranks) if isinstance(engine, Fused) else _GraphPart(engine)


class _GraphPart:
    """A graph for each document, kept from the forward to the backward pass, which goes through all parameters at once.

    So the forward passes of all ranks are done at the same time, and the backward passes one after the other.
    """

    capacity = MOST_GRAPHS

    def __init__(self, engine: "Any") -> None:
        self.engine, self.kept, self.seed = engine, [], 1.0  # type: Any, list[Any], float
        self.has_array = isinstance(engine, Graph)
        self.grad: Array | None = None  # the gradients during a step, where the engine has no array of them
        self.chunks = [(0, engine.model.num_params)]

    def begin(self, is_first: bool) -> None:
        self.grad = None
        self.engine.grad_before = self.engine.gradients() if is_first else None  # Adam leaves 0
        self.engine.done, self.engine.unfinished = self.engine.adam.step_index, True

    def losses(
        self, docs: "list[str]", tokenizer: "Tokenizer", batch_size: int, check: "Callable[[], None]"
    ) -> "list[float]":
        self.seed = 1 / batch_size
        for doc in docs:
            check()
            self.kept.append(self.engine.document_loss(tokenizer.encode(doc), self.engine.model))
        return [float(loss.data) for loss in self.kept]

    def gradients(self) -> "Array":
        if self.has_array:
            return self.engine.model.grad  # type: ignore[no-any-return]  # a view
        if self.grad is None:
            self.grad = np.array([p.grad for p in self.engine.model.params], dtype=np.float64)
        return self.grad

    def _set_gradients(self) -> None:
        if self.grad is not None:
            set_each(self.engine.model.params, "grad", self.grad.tolist())

    def add(self, chunk: int) -> None:
        self._set_gradients()
        while self.kept:
            (self.kept.pop() * self.seed).backward()
        if self.grad is not None:
            self.grad[:] = [p.grad for p in self.engine.model.params]

    def update(self) -> None:
        self._set_gradients()
        self.engine.update()
        self.engine.unfinished = False

    def clear(self) -> None:
        self.kept.clear()
        self.grad = None
        self.engine.recover()


class _FusedPart:
    """Kernels that keep what the gradients of matrices are made of, and then go through the parameters in slices."""

    def __init__(self, engine: Fused, ranks: int) -> None:
        from ..core.part import BatchPart

        self.model, self.adam, self.part = engine.model, engine.adam, BatchPart(engine.kernels, ranks)
        self.capacity, starts = self.part.capacity, self.part.starts
        chunk = max(SMALLEST_CHUNK, min(LARGEST_CHUNK, starts[-1] // (8 * ranks)))
        self.slices, first = [], 0  # type: Chunks, int
        for i, start in enumerate(starts):
            if start - starts[first] >= chunk or i == len(starts) - 1:
                self.slices.append((first, i))
                first = i
        self.chunks = [(starts[first], starts[end]) for first, end in self.slices]
        self.unfinished = False
        self.grad: Array | None = None  # as it was before the step; None: 0
        self.before: tuple[Array, ...] | None = None  # a copy of what Adam changes, if it may fail

    def begin(self, is_first: bool) -> None:
        grad, self.unfinished = self.model.grad, True
        self.grad = grad.copy() if is_first and grad.view(np.int64).any() else None  # Adam leaves 0

    def losses(
        self, docs: "list[str]", tokenizer: "Tokenizer", batch_size: int, check: "Callable[[], None]"
    ) -> "list[float]":
        return self.part.losses(docs, tokenizer.ids, batch_size, check)

    def gradients(self) -> "Array":
        return self.model.grad  # type: ignore[no-any-return]  # a view; model is Any

    def add(self, chunk: int) -> None:
        self.part.add_gradients(*self.slices[chunk])

    def update(self) -> None:
        if self.adam.may_stop_midway():
            self.before = self.model.data.copy(), self.adam.m.copy(), self.adam.v.copy()
        self.adam.step()
        self.before, self.unfinished = None, False

    def clear(self) -> None:
        if self.unfinished:
            self.model.grad[:] = 0.0 if self.grad is None else self.grad
            self.unfinished = False
        if self.before is not None:
            self.model.data[:], self.adam.m[:], self.adam.v[:] = self.before
            self.before = None
