from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

from .adam import Adam
from .model import GPT
from .value import Value

class Leaves:
    def __init__(self, params: GPT | Iterable[Value]) -> None: ...
    def __len__(self) -> int: ...
    @property
    def values(self) -> list[Value]: ...
    @property
    def group_sizes(self) -> list[tuple[int, bool]]: ...
    @property
    def first_aligned(self) -> int: ...
    def adam_step(self, adam: Adam, libm: bool) -> None: ...

class SGD:
    learning_rate: float
    momentum: float
    weight_decay: float
    step_index: int
    def __init__(
        self,
        params: GPT | Iterable[Value],
        learning_rate: float = 0.1,
        momentum: float = 0.0,
        weight_decay: float = 0.0,
    ) -> None: ...
    @property
    def params(self) -> list[Value]: ...
    @property
    def m(self) -> npt.NDArray[np.float64]: ...
    def step(self) -> None: ...
