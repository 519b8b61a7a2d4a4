"""What engines share: what follows from a model alone, and where the two compiled ones keep their numbers."""
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from typing import Any

    from .._types import Array
    from ..config import Config
    from ..generation import Decoder, FusedDecoder
    from . import Stream

__all__ = ["Compiled", "Decoding", "set_each"]


def set_each(objects: "Iterable[object]", name: str, values: "Iterable[object]") -> None:
    """Set an attribute of all objects in one call of C, which no interrupt divides."""
    from itertools import repeat

    any(map(setattr, objects, repeat(name), values))


class Decoding:
    """What follows from the model alone; an engine with a faster way overrides it."""

    model: "Any"
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
        from ..generation import Decoder

        return Decoder(self.model)

    def position_losses(self, tokens: "list[int]") -> "list[float]":
        from ..generation import position_losses

        return position_losses(tokens, self.decoder(), self.model.block_size)


class Compiled(Decoding):
    """What the two compiled engines share: where parameters, moments and the stream are."""

    def __init__(self, vocab_size: int, config: "Config", rng: "Any") -> None:
        from ..core.adam import Adam
        from ..core.model import GPT

        self.model = GPT(vocab_size, **config.model_arguments, rng=rng)
        self.adam = Adam(self.model, **config.adam_arguments)

    @staticmethod
    def seeded(seed: int) -> "Stream":
        from ..core.mt19937 import MT19937

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
