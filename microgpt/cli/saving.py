"""`--save`, `--save-every`: a run kept in a file, every so many steps, at the end, and whatever else ends it."""
import signal

from . import console as cli
from .watching import Watcher, Watchers

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from ..trainer import Trainer

__all__ = ["Saver"]

#: Signals that end a run, and the exit status of each.
_ENDING = {"SIGINT": cli.EXIT_INTERRUPTED, "SIGTERM": cli.EXIT_TERMINATED, "SIGHUP": cli.EXIT_HUNG_UP}


class Saver(Watcher):
    """Saves a run to path every `every` steps, and inside `with` also when an exception or a signal ends it."""

    def __init__(self, trainer: "Trainer", path: str, every: "int | None") -> None:
        from ..checkpoint import check_savable

        check_savable(trainer)  # now rather than after the training
        self.trainer, self.path, self.every = trainer, path, every
        self.previous: dict[int, Any] = {}

    def look(self, record) -> None:
        self.trainer.save(self.path)

    def finish(self) -> None:
        """Save the run as it stands, and say so."""
        self.trainer.save(self.path)
        cli.say(f"saved step {self.trainer.step_index} to {self.path}")

    def __enter__(self):
        """Let each signal that ends a run raise an exception, unless it is ignored or somebody else handles it."""
        try:
            for name, status in _ENDING.items():
                number = getattr(signal, name, None)  # Windows has no SIGHUP
                if number is not None and signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler):
                    self.previous[number] = signal.signal(number, _raising(name, status))
            number = getattr(signal, "SIGPIPE", None)
            if number is not None and signal.getsignal(number) == signal.SIG_DFL:
                self.previous[number] = signal.signal(number, signal.SIG_IGN)  # an error of the write, not our end
        except ValueError:
            pass  # not the main thread: signals go there, and their handlers are set there
        return self

    def __exit__(self, kind, error, traceback):
        try:
            if kind is not None:
                self._save_after(error)
        finally:
            for number, handler in self.previous.items():
                signal.signal(number, handler)

    def _save_after(self, error):
        """Save after an exception. If that fails as well: after a signal it is the error, else the second thing to say."""
        try:
            self.finish()
        except OSError as failure:
            if isinstance(error, (KeyboardInterrupt, cli.Terminated)):
                raise
            if isinstance(error, OSError) and (error.errno, error.filename) == (failure.errno, failure.filename):
                return  # it was a save that failed, and will be reported
            cli.say(f"step {self.trainer.step_index} could not be saved: {failure.filename}: {failure.strerror}")


def _raising(name, status):
    def stop(number, frame):
        # A signal that comes while the run is being saved on its way out must not end that.
        while frame is not None:
            if frame.f_code is Watchers.__exit__.__code__:
                return
            frame = frame.f_back
        if name == "SIGINT":
            raise KeyboardInterrupt
        raise cli.Terminated(status)

    return stop
