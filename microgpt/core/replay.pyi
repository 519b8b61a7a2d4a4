from typing import Any

from .tracing import Trace

class Unsupported(Exception): ...

class Program:
    with_grad: bool
    bounds: list[int | None]
    derived: list[Any]
    dynamic: str | None
    def __new__(cls, trace: Trace, results: list[Any], roots: list[int], with_grad: bool) -> Program: ...
    @property
    def info(self) -> dict[str, Any]: ...
    def leaf_runs(self) -> list[tuple[int, int]]: ...
