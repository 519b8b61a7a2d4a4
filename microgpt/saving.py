"""`--save`, `--save-every`: a run kept in a file, every so many steps, at the end, and when it is told to stop."""
import signal

from . import cli
from .watching import Watcher

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .trainer import Trainer

__all__ = ["Saver"]


class Saver(Watcher):
    """Saves a run to path every `every` steps, and inside `with` also when it is interrupted or terminated."""

    def __init__(self, trainer: "Trainer", path: str, every: "int | None") -> None:
        from .checkpoint import check_savable

        check_savable(trainer)  # now rather than after the training
        self.trainer, self.path, self.every = trainer, path, every

    def look(self, record) -> None:
        self.trainer.save(self.path)

    def finish(self) -> None:
        """Save the run as it stands, and say so."""
        self.trainer.save(self.path)
        cli.say(f"saved step {self.trainer.step_index} to {self.path}")

    def __enter__(self):
        def terminate(number, frame):
            raise cli.Terminated

        self.previous = signal.signal(signal.SIGTERM, terminate)
        return self

    def __exit__(self, kind, error, traceback):
        signal.signal(signal.SIGTERM, self.previous)
        if kind is not None and issubclass(kind, (KeyboardInterrupt, cli.Terminated)):
            self.finish()
