from typing import Any, TypeAlias

#: What was read from outside: kind, holder, name, value.
Guard: TypeAlias = tuple[str, Any, Any, Any]

class TraceError(TypeError):
    raised: int
    def __init__(self, *arguments: object) -> None: ...

class Recorder:
    int_names: list[str]
    bounds: list[int | None]
    derived: list[Any]
    guards: dict[Any, Guard]
    outside: list[Any]
    reads: dict[Any, tuple[Any, Any]]
    captured: set[int]
    created: set[int]
    roots: list[tuple[str, Any]]
    whole: set[int]
    careful: bool
    needs_care: bool
    unrecorded: int
    functions: dict[Any, Any]
    keep: list[Any]
    @property
    def n_nodes(self) -> int: ...

class Symbol: ...
