from collections.abc import Sequence

from .model import GPT
from .value import Value

def gpt(
    token_id: int,
    pos_id: int,
    keys: list[list[list[Value]]],
    values: list[list[list[Value]]],
    model: GPT,
) -> list[Value]: ...
def document_loss(tokens: Sequence[int], model: GPT) -> Value: ...
