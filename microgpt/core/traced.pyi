from typing import final

from .recorder import Symbol

@final
class Traced(Symbol): ...
