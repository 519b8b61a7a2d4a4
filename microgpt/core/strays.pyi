from collections.abc import Callable
from types import TracebackType
from typing import Any, final

from .recorder import TraceError

is_users_code: Callable[[Any], bool] | None
CHANGING_MODULES: frozenset[str]
FIXED: frozenset[str]

class Stray(TraceError): ...

class NeedsCare(TraceError): ...

RECORDED: frozenset[str]

def needs_care() -> None: ...
def check_class(kind: type) -> None: ...

@final
class Watch:
    def __enter__(self) -> Watch: ...
    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> bool: ...

def check_c_function(module: Any, f: Any) -> None: ...
