from collections.abc import Callable
from typing import Any

rewrite: Callable[[Any, bool], Any] | None
rewritten_codes: Any
is_user_code: Callable[[Any], bool] | None

def function_for(f: Any) -> Any: ...
def is_users(f: Any) -> bool: ...
