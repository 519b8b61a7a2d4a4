from typing import final

from .recorder import Symbol

FUNCTIONS: dict[str, int]

@final
class SymFloat(Symbol): ...

@final
class SymInt(Symbol): ...
