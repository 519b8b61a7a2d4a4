from collections.abc import Iterator, Mapping, Sequence
from random import Random

from numpy import float64
from numpy.typing import NDArray

from microgpt.core.mt19937 import MT19937
from microgpt.core.value import Value

class GPT:
    """The parameters of the model."""

    @property
    def vocab_size(self) -> int: ...
    @property
    def n_embd(self) -> int: ...
    @property
    def n_head(self) -> int: ...
    @property
    def n_layer(self) -> int: ...
    @property
    def block_size(self) -> int: ...
    @property
    def head_dim(self) -> int: ...
    @property
    def num_params(self) -> int: ...
    @property
    def init_std(self) -> float: ...
    def __init__(
        self,
        vocab_size: int,
        n_embd: int = 16,
        n_head: int = 4,
        n_layer: int = 1,
        block_size: int = 16,
        init_std: float = 0.08,
        rng: Random | None = None,
    ) -> None: ...
    @property
    def params(self) -> list[Value]: ...
    @property
    def state_dict(self) -> Mapping[str, tuple[tuple[Value, ...], ...]]: ...
    @property
    def data(self) -> NDArray[float64]: ...
    @property
    def grad(self) -> NDArray[float64]: ...
    def generate(
        self,
        prompt: Sequence[int] = (),
        temperature: float = 0.5,
        top_k: int | None = None,
        top_p: float | None = None,
        max_length: int | None = None,
        rng: Random | MT19937 | None = None,
    ) -> Iterator[int]: ...
    def zero_grad(self) -> None: ...
    def _repr_html_(self) -> str: ...
