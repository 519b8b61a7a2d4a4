from collections.abc import Callable
from typing import Any

from .adam import Adam
from .fused import FusedEngine
from .model import GPT

def crew_bytes(model: GPT, batch_size: int) -> int: ...
def join_crew(
    engine: FusedEngine,
    memory: Any,
    rank: int,
    processes: int,
    batch_size: int,
    adam: Adam,
    check: Callable[[], None] | None = None,
) -> None: ...
def read_crew(engine: FusedEngine, adam: Adam) -> None: ...
def stop_crew(engine: FusedEngine) -> None: ...
def leave_crew(engine: FusedEngine) -> None: ...
