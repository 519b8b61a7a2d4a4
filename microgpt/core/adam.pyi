from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

from .model import GPT
from .value import Value

OFF: dict[str, str | float | None]

class Adam:
    learning_rate: float
    beta1: float
    beta2: float
    eps: float
    num_steps: int | None
    schedule: str
    warmup: int
    weight_decay: float
    clip: float | None
    step_index: int
    def __init__(
        self,
        params: GPT | Iterable[Value],
        learning_rate: float = 0.01,
        beta1: float = 0.85,
        beta2: float = 0.99,
        eps: float = 1e-8,
        num_steps: int | None = ...,
        schedule: str = "linear",
        warmup: int = 0,
        weight_decay: float = 0.0,
        clip: float | None = None,
    ) -> None: ...
    @property
    def model(self) -> GPT: ...  # None over a sequence of Values
    @property
    def params(self) -> list[Value]: ...
    @property
    def m(self) -> npt.NDArray[np.float64]: ...
    @property
    def v(self) -> npt.NDArray[np.float64]: ...
    def rate(self, step_index: int) -> float: ...
    def step(self) -> None: ...
    def may_stop_midway(self) -> bool: ...
