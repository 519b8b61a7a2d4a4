"""Signals that end a run with --save: each raises an exception, which the run answers by saving."""
import signal

from ..trainer.loop import Callback, CallbackList
from . import console as cli

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import FrameType
    from typing import Any

    from ..trainer import Trainer

__all__ = ["EndingSignals"]

#: Signals that end a run, and the exit status of each.
_ENDING = {"SIGINT": cli.EXIT_INTERRUPTED, "SIGTERM": cli.EXIT_TERMINATED, "SIGHUP": cli.EXIT_HUNG_UP}


class EndingSignals(Callback):
    """A context in which each signal that ends a run raises an exception, unless it is ignored or handled already.

    The same object is the first of the run's callbacks, so it is the last to hear of an exception. From then on, and
    while the others answer it, further signals are ignored. If the process ends with the command they stay ignored:
    by the default action they would kill it before it has exited.
    """

    def __init__(self) -> None:
        self.previous: dict[int, Any] = {}
        self.answered = self.leaving = False

    def on_exception(self, trainer: "Trainer", error: BaseException) -> None:
        self.answered = True

    def __enter__(self) -> "EndingSignals":
        try:
            for name, status in _ENDING.items():
                number = getattr(signal, name, None)  # Windows has no SIGHUP
                if number is not None and signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler):
                    self.previous[number] = signal.signal(number, self._handler(name, status))
            number = getattr(signal, "SIGPIPE", None)
            if number is not None and signal.getsignal(number) == signal.SIG_DFL:
                self.previous[number] = signal.signal(number, signal.SIG_IGN)  # an error of the write, not our end
        except ValueError:
            pass  # not the main thread: signals go there, and their handlers are set there
        return self

    def __exit__(self, kind: "type[BaseException] | None", error: "BaseException | None", traceback: object) -> None:
        stays_ignored = kind is not None and cli.owns_process()
        if stays_ignored and self.previous:
            self._flush()
        for number, handler in self.previous.items():
            signal.signal(number, signal.SIG_IGN if stays_ignored else handler)

    def _flush(self) -> None:
        """Flush stdout before signals are ignored: if its reader does not read, one more signal ends the wait."""
        self.leaving = True
        try:
            try:
                self.answered = False
                cli.Output().flush()
            finally:
                self.answered = True
        except (KeyboardInterrupt, cli.Terminated, cli.OutputError):
            cli.drop_stdout()

    def _handler(self, name: str, status: int) -> "Any":
        def stop(number: int, frame: "FrameType | None") -> None:
            if self.answered:
                return
            self.answered = self.leaving
            while frame is not None:
                if frame.f_code is CallbackList.__exit__.__code__:
                    return
                frame = frame.f_back
            if name == "SIGINT":
                raise KeyboardInterrupt
            raise cli.Terminated(status)

        return stop
