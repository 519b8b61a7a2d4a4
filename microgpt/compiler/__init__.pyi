from collections.abc import Callable, Iterable
from typing import Any, Generic, Literal, ParamSpec, TypeVar, overload

_P = ParamSpec("_P")
_R = TypeVar("_R")

class CompileError(TypeError): ...

class Compiled(Generic[_P, _R]):
    __name__: str
    __wrapped__: Callable[_P, _R]
    def __call__(self, *arguments: _P.args, **named: _P.kwargs) -> _R: ...
    def __get__(self, instance: object, owner: type | None = None) -> Any: ...
    def explain(self) -> str: ...

@overload
def compile(
    function: Callable[_P, _R],
    *,
    static: str | Iterable[str | int] = (),
    verify: Literal["first", "always", False] = "first",
    fallback: Literal["eager", "error"] = "eager",
    grad: bool = True,
) -> Compiled[_P, _R]: ...
@overload
def compile(
    function: None = None,
    *,
    static: str | Iterable[str | int] = (),
    verify: Literal["first", "always", False] = "first",
    fallback: Literal["eager", "error"] = "eager",
    grad: bool = True,
) -> Callable[[Callable[_P, _R]], Compiled[_P, _R]]: ...

__all__ = ["CompileError", "Compiled", "compile"]
