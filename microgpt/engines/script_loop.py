"""The engines that follow the script's loops, training and sampling, node by node: the graph engine and the reference."""
from .base import Compiled, Decoding, set_each

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from typing import Any

    from .._types import Array
    from ..config import Config
    from ..data import Tokenizer
    from . import Stream

__all__ = ["Graph", "Reference"]


class ScriptLoop(Decoding):
    """The script's training and sampling loops, over `model`, `adam` and three functions."""

    adam: "Any"
    document_loss: "Callable[..., Any]"
    gpt: "Callable[..., Any]"
    softmax: "Callable[..., Any]"

    #: Whether a step has begun that neither ended nor was undone; the steps done when it began; if the engine needs it,
    #: a copy of what Adam changes; and the gradients before the first step of a call, None after it: all are 0 then.
    unfinished, done = False, 0
    before: "Any" = None
    grad_before: "Any" = None

    def choose(self, rng: "Any", weights: "Sequence[float]") -> int:
        raise NotImplementedError

    def update(self) -> None:
        raise NotImplementedError

    def undo_update(self) -> None:
        raise NotImplementedError

    def gradients(self) -> "Any":
        """Return a copy of all gradients, for `set_gradients`."""
        raise NotImplementedError

    def set_gradients(self, values: "Any") -> None:
        """Set all gradients in one call of C; None: to 0."""
        raise NotImplementedError

    def backward(self, batch: "list[list[int]]") -> float:
        """Add the gradients of the batch's loss; return the loss. batch: token ids of each document."""
        raise NotImplementedError

    def train(self, docs: "Iterable[str]", tokenizer: "Tokenizer", losses: "list[float]", batch_size: int = 1) -> None:
        done = len(losses) - self.adam.step_index
        self.grad_before = self.gradients()
        docs = iter(docs)
        for doc in docs:
            try:
                batch = [tokenizer.encode(doc)]
                while len(batch) < batch_size:
                    batch.append(tokenizer.encode(next(docs)))
                self.done, self.unfinished = self.adam.step_index, True
                losses.append(self.backward(batch))
                self.update()
                self.unfinished, self.grad_before = False, None
            except BaseException:
                # An interrupt may come between any two of these; the optimizer knows which steps are whole.
                self.recover()
                del losses[done + self.adam.step_index :]
                raise

    def recover(self) -> None:
        if self.unfinished:
            self.undo_update()
            self.set_gradients(self.grad_before if self.adam.step_index == self.done else None)
            self.unfinished, self.grad_before = False, None

    def sample_texts(
        self, rng: "Any", n: int, tokens: "list[int]", temperature: float, tokenizer: "Tokenizer", most: "int | None"
    ) -> "list[str]":
        most = self.model.block_size if most is None else most
        return [tokenizer.decode(self.sample(rng, tokens, temperature, most)) for _ in range(n)]

    def sample(self, rng: "Any", tokens: "list[int]", temperature: float, most: int) -> "list[int]":
        model, bos, sampled = self.model, tokens[0], []
        keys: list[list[Any]] = [[] for _ in range(model.n_layer)]
        values: list[list[Any]] = [[] for _ in range(model.n_layer)]
        token_id = bos
        for pos_id in range(min(model.block_size, len(tokens) - 1 + most)):
            logits = self.gpt(token_id, pos_id, keys, values, model)
            if pos_id + 1 < len(tokens):
                token_id = tokens[pos_id + 1]
                continue
            probs = self.softmax([logit / temperature for logit in logits])
            token_id = self.choose(rng, [p.data for p in probs])
            if token_id == bos:
                break
            sampled.append(token_id)
        return sampled


class Reference(ScriptLoop):
    """Plain Python throughout, with Python's own random.Random."""

    def __init__(self, vocab_size: int, config: "Config", rng: "Any") -> None:
        from .. import reference

        self.document_loss, self.gpt, self.softmax = reference.document_loss, reference.gpt, reference.softmax
        self.batch_loss = reference.batch_loss
        self.model = reference.GPT(vocab_size, **config.model_arguments, rng=rng)
        self.adam = reference.Adam(self.model, **config.adam_arguments)

    def backward(self, batch: "list[list[int]]") -> float:
        loss = self.document_loss(batch[0], self.model) if len(batch) == 1 else self.batch_loss(batch, self.model)
        loss.backward()
        return float(loss.data)

    def update(self) -> None:
        adam = self.adam
        self.before = [p.data for p in adam.params], adam.m[:], adam.v[:], adam.step_index
        try:
            adam.step()
        except ArithmeticError:
            self.check_numbers()
            raise
        self.check_numbers()
        self.before = None

    def check_numbers(self) -> None:
        """Raise what the other engines raise at a negative v, with which the script goes on in complex numbers."""
        if any(isinstance(p.data, complex) for p in self.adam.params):
            from ..errors import NEGATIVE_V

            raise ValueError(NEGATIVE_V)

    def undo_update(self) -> None:
        if self.before is not None:
            adam = self.adam
            data, adam.m, adam.v, adam.step_index = self.before
            set_each(adam.params, "data", data)
            self.before = None

    @staticmethod
    def seeded(seed: int) -> "Stream":
        from random import Random

        return Random(seed)

    @staticmethod
    def choose(rng: "Any", weights: "Sequence[float]") -> int:
        return rng.choices(range(len(weights)), weights=weights)[0]  # type: ignore[no-any-return]  # rng is Any

    def gradients(self) -> "Any":
        return [p.grad for p in self.model.params]

    def set_gradients(self, values: "Any") -> None:
        from itertools import repeat

        set_each(self.model.params, "grad", repeat(0) if values is None else values)

    def parameters(self) -> "Array":
        import numpy as np

        return np.array([p.data for p in self.model.params], dtype=np.float64)

    def set_parameters(self, values: "Array") -> None:
        for p, value in zip(self.model.params, values.tolist()):
            p.data = value

    def set_moments(self, m: "Array", v: "Array") -> None:
        # Lists of Python's floats: NumPy's would warn where those raise.
        self.adam.m, self.adam.v = m.tolist(), v.tolist()


class Graph(Compiled, ScriptLoop):
    """The script's loop over the scalar graph, which is built and walked in compiled code."""

    def __init__(self, vocab_size: int, config: "Config", rng: "Any") -> None:
        super().__init__(vocab_size, config, rng)
        from ..core.functions import softmax
        from ..core.gpt import document_loss, gpt

        self.document_loss, self.gpt, self.softmax = document_loss, gpt, softmax

    def backward(self, batch: "list[list[int]]") -> float:
        if len(batch) == 1:
            loss = self.document_loss(batch[0], self.model)
            loss.backward()
            return float(loss.data)
        # In the graph of the whole batch, documents reach the parameters from the last to the first, each with the gradient
        # 1 / n of its loss. So each can have a graph of its own, and memory holds one.
        seed, losses = 1 / len(batch), []
        for tokens in reversed(batch):
            loss = self.document_loss(tokens, self.model)
            losses.append(float(loss.data))
            (loss * seed).backward()
            del loss
        total = 0.0
        for value in reversed(losses):  # not sum(), which compensates from Python 3.12 on
            total += value
        return total * seed

    def update(self) -> None:
        """Do Adam's step, after a copy if it may fail at one parameter with those before it updated."""
        adam = self.adam
        if not adam.may_stop_midway():
            adam.step()  # one call of C, which no interrupt divides
            return
        self.before = self.model.data.copy(), adam.m.copy(), adam.v.copy()
        adam.step()
        self.before = None

    def undo_update(self) -> None:
        if self.before is not None and self.adam.step_index == self.done:
            self.model.data[:], self.adam.m[:], self.adam.v[:] = self.before
        self.before = None

    def gradients(self) -> "Any":
        return self.model.grad_bytes()

    def set_gradients(self, values: "Any") -> None:
        if values is None:
            self.model.zero_grad()
        else:
            self.model.set_grad_bytes(values)
