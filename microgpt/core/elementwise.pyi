from collections.abc import Mapping, Sequence

from .value import Value

class Elementwise:
    def __init__(
        self,
        params: list[Value] | tuple[Value, ...],
        lists: Sequence[list[float]],
        n_scalars: int,
        code: Sequence[tuple[str, tuple[str, int], tuple[str, int]]],
        stored: Mapping[tuple[str, int], tuple[str, int]],
    ) -> None: ...
    def step(self, scalars: Sequence[float]) -> bool: ...
    def get_list(self, k: int) -> list[float]: ...
    def set_list(self, k: int, numbers: list[float]) -> None: ...
    def last(self, operand: tuple[str, int]) -> float: ...
