"""What several callbacks share."""
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeAlias

    from ..trainer import Trainer

    Say: TypeAlias = "Callable[[str], object]"


def silent(message: str) -> None:
    """Say nothing: the default for `say`."""


def steps_with_rates(trainer: "Trainer", first: int, losses: "list[float]") -> "list[tuple[int, float, float]]":
    """Return (step, loss, learning rate) of the steps after step first."""
    from ..storage.runlog import learning_rate

    return [(step, loss, learning_rate(trainer, step)) for step, loss in enumerate(losses, first + 1)]
