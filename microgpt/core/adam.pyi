import numpy as np
import numpy.typing as npt

from .model import GPT

class Adam:
    learning_rate: float
    beta1: float
    beta2: float
    eps: float
    num_steps: int
    step_index: int
    def __init__(
        self,
        model: GPT,
        learning_rate: float = 0.01,
        beta1: float = 0.85,
        beta2: float = 0.99,
        eps: float = 1e-8,
        num_steps: int = 1000,
    ) -> None: ...
    @property
    def model(self) -> GPT: ...
    @property
    def m(self) -> npt.NDArray[np.float64]: ...
    @property
    def v(self) -> npt.NDArray[np.float64]: ...
    def step(self) -> None: ...
    def _squares_are_finite(self) -> bool: ...
