"""The three engines behind one interface. What they compute is the same to the last bit.

    reference   plain Python throughout, the oracle of the tests
    graph       the script's loop over the scalar graph, which is built and walked in compiled code
    fused       explicit forward and backward in compiled kernels, without a graph

`Engine` says what a Trainer needs of one. An engine imports what it is made of when it is made; the two that follow the
script's loop are in `script_loop.py`.
"""
from .base import Compiled

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from random import Random
    from typing import Any, Protocol, TypeAlias

    from .._types import Array
    from ..config import Config
    from ..core.mt19937 import MT19937
    from ..data import Tokenizer
    from ..generation import Decoder, FusedDecoder

    Stream: TypeAlias = Random | MT19937
else:
    Protocol = object  # `typing` takes longer to import than this package

__all__ = ["ENGINES", "Engine", "Fused", "engine_class"]

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
        """Let the engine use up to this many threads. They change no bit."""

    def shares(self, positions: int) -> bool:
        """Return whether a step on documents of this many positions altogether is shared among the threads."""

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
    if name == "fused":
        return Fused
    from .script_loop import Graph, Reference

    return Graph if name == "graph" else Reference


class Fused(Compiled):
    """Explicit forward and backward in compiled kernels."""

    def __init__(self, vocab_size: int, config: "Config", rng: "Any") -> None:
        super().__init__(vocab_size, config, rng)
        from ..core.fused import FusedEngine

        self.kernels = FusedEngine(self.model)

    def train(self, docs: "Iterable[str]", tokenizer: "Tokenizer", losses: "list[float]", batch_size: int = 1) -> None:
        self.kernels.train(docs, self.adam, losses, tokenizer.ids, batch_size)

    def sample_texts(
        self, rng: "Any", n: int, tokens: "list[int]", temperature: float, tokenizer: "Tokenizer", most: "int | None"
    ) -> "list[str]":
        return self.kernels.sample_texts(rng, n, tokenizer.uchars, temperature, tokens[1:], most)

    def decoder(self) -> "Decoder | FusedDecoder":
        from ..generation import FusedDecoder

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
