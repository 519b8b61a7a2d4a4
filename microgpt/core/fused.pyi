from collections.abc import Iterable, Sequence
from typing import overload

from .adam import Adam
from .model import GPT
from .mt19937 import MT19937

LEAST_SHARED_WORK: float

class FusedEngine:
    def __init__(self, model: GPT) -> None: ...
    @property
    def model(self) -> GPT: ...
    @property
    def threads(self) -> int: ...
    def set_threads(self, threads: int) -> None: ...
    def shares(self, positions: int) -> bool: ...
    def position_losses_of(self, documents: Iterable[Sequence[int]]) -> list[list[float]]: ...
    def loss_and_grad(self, tokens: Sequence[int]) -> float: ...
    def position_losses(self, tokens: Sequence[int]) -> list[float]: ...
    @overload
    def train(
        self, documents: Iterable[Sequence[int]], adam: Adam, losses: list[float], ids: None = None, batch_size: int = 1
    ) -> None: ...
    @overload
    def train(
        self, documents: Iterable[str], adam: Adam, losses: list[float], ids: dict[str, int], batch_size: int = 1
    ) -> None: ...
    def probabilities(self, tokens: Sequence[int], temperature: float = 1.0) -> list[float]: ...
    def sample(
        self,
        stream: MT19937,
        temperature: float = 0.5,
        max_tokens: int | None = None,
        prompt: Sequence[int] = (),
    ) -> list[int]: ...
    def sample_texts(
        self,
        stream: MT19937,
        n: int,
        uchars: Sequence[str],
        temperature: float = 0.5,
        prompt: Sequence[int] = (),
        max_tokens: int | None = None,
    ) -> list[str]: ...
