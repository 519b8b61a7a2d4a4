"""What the commands share: the console, the flags of train, and what they ask for."""
TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import FrameType
    from typing import NoReturn


def rest_collector() -> None:
    """Let the garbage collector run seldom, in a process of the command's own.

    A run makes few cycles, and the collector would spend a fiftieth of a short one on the modules that are imported.
    """
    import gc

    gc.set_threshold(100_000)


def spare_collector() -> None:
    """Spare the garbage collector the objects that there are, at the end of a process of the command's own.

    Python collects twice while it exits, and visits all that modules have made. Nothing of a command waits for that: files
    are closed when their work is done.
    """
    import gc

    gc.freeze()


def end(status: int) -> "NoReturn":
    """End the process as `sys.exit(status)` does; at once, if nothing waits for the interpreter to be taken apart.

    That takes a twentieth of the time of a default run. For `if __name__ == "__main__"` of a module.
    """
    import os
    import sys

    if not _is_awaited(sys._getframe(1)):
        try:
            for stream in (sys.stdout, sys.stderr):
                if stream is not None:
                    stream.flush()
        except (OSError, ValueError):
            pass  # to say so is left to the interpreter
        else:
            os._exit(status)
    sys.exit(status)


def _is_awaited(module: "FrameType") -> bool:
    """Return whether something of another's may happen after the module of this frame, or at the end of the process."""
    import sys

    frames, frame = [], module  # type: list[str], FrameType | None
    while frame is not None:
        frames.append(frame.f_code.co_name)
        frame = frame.f_back
    # `python -m` alone has these frames: a profiler, a debugger or a notebook that runs the module has more. mpi4py ends MPI by a
    # callback of C, without which mpiexec may lose the status.
    return (frames != ["<module>", "_run_code", "_run_module_as_main"] or bool(sys.flags.inspect) or sys.flags.dev_mode
            or "threading" in sys.modules or "mpi4py" in sys.modules or _are_callbacks_left())  # fmt: skip


def _are_callbacks_left() -> bool:
    """Return whether something was given to `atexit.register`."""
    import sys

    module = sys.modules.get("atexit")
    return module is not None and module._ncallbacks() > 0
