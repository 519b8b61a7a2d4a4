"""The three engines behind one interface. What they compute is the same to the last bit.

    reference   plain Python throughout, the oracle of the tests
    graph       the script's loop over the scalar graph, which is built and walked in compiled code
    fused       explicit forward and backward in compiled kernels, without a graph

`Engine` says what a Trainer needs of one. An engine imports what it is made of when it is made.
"""
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from random import Random
    from typing import Any, Protocol, TypeAlias

    from ._types import Array
    from .config import Config
    from .core.mt19937 import MT19937
    from .data import Tokenizer
    from .generation import Decoder, FusedDecoder

    Stream: TypeAlias = Random | MT19937
else:
    Protocol = object  # `typing` takes longer to import than this package

__all__ = ["ENGINES", "Engine", "engine_class"]

ENGINES = ("fused", "graph", "reference")


class Engine(Protocol):
    """What a Trainer needs: a model and its optimizer, a random stream, training, and probabilities.

    Parameters
    ----------
    vocab_size : int
        BOS is the last token id.
    config : Config
        Settings of the model and of Adam.
    rng : stream
        What `seeded` returned; the parameters are drawn from it.
    """

    model: "Any"
    adam: "Any"

    #: Whether `sample_texts` has drawn nothing from the stream if it raises.
    draws_all_or_nothing: bool

    def __init__(self, vocab_size: int, config: "Config", rng: "Any") -> None: ...

    @staticmethod
    def seeded(seed: int) -> "Stream":
        """Return a new stream of random numbers: what `random.seed(seed)` gives the script."""

    @staticmethod
    def choose(rng: "Any", weights: "Sequence[float]") -> int:
        """Draw an index: `random.choices(range(n), weights=weights)[0]`."""

    def train(self, docs: "Iterable[str]", tokenizer: "Tokenizer", losses: "list[float]", batch_size: int = 1) -> None:
        """Train one step on each batch_size documents; append each loss to losses.

        If it raises, parameters, moments, gradients and losses are those after the last whole step. So gradients that the
        caller had added before the first step are there again if that step fails; after later ones they are 0.
        """

    def recover(self) -> None:
        """Undo what a step has left that was interrupted a second time while it was undone."""

    def sample_texts(
        self, rng: "Any", n: int, tokens: "list[int]", temperature: float, tokenizer: "Tokenizer", most: "int | None"
    ) -> "list[str]":
        """Draw n texts that follow tokens (BOS first), each up to BOS, the end of the block, or most tokens."""

    def decoder(self) -> "Decoder | FusedDecoder":
        """Return a forward pass that takes one token at a time: see `microgpt.generation.Decoder`."""

    def position_losses(self, tokens: "list[int]") -> "list[float]":
        """Return -log p of each next token, in nats, [n]: the numbers whose mean `document_loss` is.

        A probability of 0 costs infinity where training would raise.
        """

    def position_losses_of(self, documents: "list[list[int]]") -> "list[list[float]]":
        """Return `position_losses` of each document."""

    @property
    def threads(self) -> int:
        """How many threads the engine may use; 1 at first, and always 1 if it has no use for more."""

    def set_threads(self, threads: int) -> None:
        """Let the engine use up to so many threads. They change no bit."""

    def shares(self, positions: int) -> bool:
        """Return whether a step on documents of so many positions altogether is shared among the threads."""

    def parameters(self) -> "Array":
        """Return the parameters, float64 [num_params]: a view of the model where there is one, or a copy."""

    def set_parameters(self, values: "Array") -> None:
        """Set all parameters, [num_params]."""

    def set_moments(self, m: "Array", v: "Array") -> None:
        """Set Adam's moments, [num_params] each."""


def engine_class(name: str) -> "type[Engine]":
    """Return the class of an engine. Raises ValueError for a name that is not in ENGINES."""
    if name not in ENGINES:
        raise ValueError(f"engine must be one of {', '.join(ENGINES)}, not {name!r}")
    classes: dict[str, type[Engine]] = {"fused": Fused, "graph": Graph, "reference": Reference}
    return classes[name]


def set_each(objects: "Iterable[object]", name: str, values: "Iterable[object]") -> None:
    """Set an attribute of all objects in one call of C, which no interrupt divides."""
    from itertools import repeat

    any(map(setattr, objects, repeat(name), values))


class _Decoding:
    """What follows from the model alone; an engine with a faster way overrides it."""

    model: "Any"
    draws_all_or_nothing = False
    threads = 1

    def recover(self) -> None:
        pass

    def set_threads(self, threads: int) -> None:
        pass

    def shares(self, positions: int) -> bool:
        return False

    def position_losses_of(self, documents: "list[list[int]]") -> "list[list[float]]":
        return [self.position_losses(tokens) for tokens in documents]

    def decoder(self) -> "Decoder | FusedDecoder":
        from .generation import Decoder

        return Decoder(self.model)

    def position_losses(self, tokens: "list[int]") -> "list[float]":
        from .generation import position_losses

        return position_losses(tokens, self.decoder(), self.model.block_size)


class _ScriptLoop(_Decoding):
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


class Reference(_ScriptLoop):
    """Plain Python throughout, with Python's own random.Random."""

    def __init__(self, vocab_size: int, config: "Config", rng: "Any") -> None:
        from . import reference

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
            from .errors import NEGATIVE_V

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


class _Compiled(_Decoding):
    """What the two compiled engines share: where parameters, moments and the stream are."""

    def __init__(self, vocab_size: int, config: "Config", rng: "Any") -> None:
        from .core.adam import Adam
        from .core.model import GPT

        self.model = GPT(vocab_size, **config.model_arguments, rng=rng)
        self.adam = Adam(self.model, **config.adam_arguments)

    @staticmethod
    def seeded(seed: int) -> "Stream":
        from .core.mt19937 import MT19937

        return MT19937(seed)

    @staticmethod
    def choose(rng: "Any", weights: "Sequence[float]") -> int:
        return rng.choice_index(weights)  # type: ignore[no-any-return]  # rng is Any

    def parameters(self) -> "Array":
        return self.model.data  # type: ignore[no-any-return]  # model is Any

    def set_parameters(self, values: "Array") -> None:
        self.model.data[:] = values

    def set_moments(self, m: "Array", v: "Array") -> None:
        self.adam.m[:], self.adam.v[:] = m, v


class Graph(_Compiled, _ScriptLoop):
    """The script's loop over the scalar graph, which is built and walked in compiled code."""

    def __init__(self, vocab_size: int, config: "Config", rng: "Any") -> None:
        super().__init__(vocab_size, config, rng)
        from .core.functions import softmax
        from .core.gpt import document_loss, gpt

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


class Fused(_Compiled):
    """Explicit forward and backward in compiled kernels."""

    draws_all_or_nothing = True

    def __init__(self, vocab_size: int, config: "Config", rng: "Any") -> None:
        super().__init__(vocab_size, config, rng)
        from .core.fused import FusedEngine

        self.kernels = FusedEngine(self.model)

    def train(self, docs: "Iterable[str]", tokenizer: "Tokenizer", losses: "list[float]", batch_size: int = 1) -> None:
        self.kernels.train(docs, self.adam, losses, tokenizer.ids, batch_size)

    def sample_texts(
        self, rng: "Any", n: int, tokens: "list[int]", temperature: float, tokenizer: "Tokenizer", most: "int | None"
    ) -> "list[str]":
        return self.kernels.sample_texts(rng, n, tokenizer.uchars, temperature, tokens[1:], most)

    def decoder(self) -> "Decoder | FusedDecoder":
        from .generation import FusedDecoder

        return FusedDecoder(self.kernels)

    def position_losses(self, tokens: "list[int]") -> "list[float]":
        try:
            return self.kernels.position_losses(tokens)
        except ValueError:  # a probability of 0, or a token that is not in the vocabulary: the decoder says which
            return super().position_losses(tokens)

    def position_losses_of(self, documents: "list[list[int]]") -> "list[list[float]]":
        if self.threads > 1:
            try:
                return self.kernels.position_losses_of(documents)
            except ValueError:  # as above, in one of them
                pass
        return super().position_losses_of(documents)

    @property
    def threads(self) -> int:  # type: ignore[override]  # of a class where it is always 1
        return self.kernels.threads

    def set_threads(self, threads: int) -> None:
        self.kernels.set_threads(threads)

    def shares(self, positions: int) -> bool:
        return self.kernels.shares(positions)
