from collections.abc import Callable, Iterable
from typing import Any, final

from .recorder import Guard
from .replay import Program

@final
class Entry:
    program: Program | None
    guards: tuple[Guard, ...]
    results: Any
    calls: int
    why: str | None
    kept: tuple[Any, ...]
    timing: tuple[float, float]
    verified: bool
    replays: int
    retraced: int
    traced: int
    broken: str | None
    missed: dict[str, int]
    @property
    def compared(self) -> int: ...
    @property
    def used(self) -> int: ...
    def miss(self, why: str) -> None: ...
    def check_guards(self) -> Guard | None: ...

class Dispatcher:
    function: Callable[..., Any]
    entries: dict[bytes, Entry]
    with_grad: bool
    static: frozenset[int]
    always_verify: bool
    def __init__(self, function: Callable[..., Any], static: Iterable[int], with_grad: bool) -> None: ...
    def __call__(self, *arguments: Any, **named: Any) -> Any: ...
    def replay_now(self, entry: Entry, arguments: tuple[Any, ...]) -> tuple[Any, ...] | None: ...
    def evict(self, most: int) -> list[Entry]: ...
    def touch(self, entry: Entry) -> None: ...

def plainly(function: Callable[..., Any], arguments: tuple[Any, ...]) -> Any: ...
