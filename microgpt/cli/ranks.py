"""`microgpt train --mpi`: rank 0 runs the command, the others train with it and are silent.

Whatever ends the command before the run, an error or Ctrl-C, must reach the others, which wait for rank 0: one that is not
told waits for ever, and so does rank 0 at its end, in MPI_Finalize.
"""
import signal

from ..trainer import Trainer
from . import console as cli

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

__all__ = ["lead", "let_train", "run_on_ranks"]

#: Whether rank 0 has let the others train, and its trainer.
_have_begun = False
_trainer: "Trainer | None" = None


def run_on_ranks(command: "Callable[[], int]", owns_process: bool = False) -> int:
    """Return the exit status of command() on rank 0; the other ranks follow it, and end with 0 or with the whole job.

    owns_process: the process ends with the command.
    """
    global _have_begun, _trainer
    signals, interrupts = _Signals(), []  # type: _Signals, list[int]
    # The others would not miss a rank that ends while MPI begins, or between that and `_follow`.
    signals.handle(lambda number, frame: interrupts.append(number), "SIGINT")
    try:
        from mpi4py import MPI
    except (ImportError, RuntimeError):  # RuntimeError: mpi4py finds no MPI library
        signals.restore()
        cli.say("error: --mpi needs mpi4py and an MPI library: pip install 'microgpt-exact[mpi]'")
        return cli.EXIT_ERROR
    comm = MPI.COMM_WORLD
    if comm.Get_rank():
        signals.handle(signal.SIG_IGN, "SIGINT", "SIGTERM", "SIGHUP")
        try:
            return _follow(comm)
        finally:
            if not owns_process:  # else it waits in MPI_Finalize for rank 0, which still samples
                signals.restore()
    _have_begun, _trainer, status = False, None, cli.EXIT_ERROR
    try:
        signals.restore()
        status = cli.run(_interrupt, None, owns_process) if interrupts else command()
        return status
    finally:
        if not _have_begun:
            comm.bcast(None)  # an error, Ctrl-C or --help: there is nothing to train
        elif _trainer is not None and _trainer._ranks is not None and not _trainer._ranks.have_met:
            from ..distributed.ranks import end_job

            end_job(comm, status)


def _interrupt(_: object) -> None:
    raise KeyboardInterrupt


class _Signals:
    """Signals that are handled in another way for a while; not those that are ignored, nor outside of the main thread."""

    def __init__(self) -> None:
        self.before: dict[int, Any] = {}

    def handle(self, handler: "Any", *names: str) -> None:
        """Handle signals by handler from here on."""
        try:
            for name in names:
                number = getattr(signal, name, None)  # Windows has no SIGHUP
                if number is not None and signal.getsignal(number) != signal.SIG_IGN:
                    self.before.setdefault(number, signal.signal(number, handler))
        except ValueError:
            pass  # not the main thread, to which signals go

    def restore(self) -> None:
        """Handle them as before."""
        for number, handler in self.before.items():
            signal.signal(number, handler)


def lead(trainer: Trainer, docs: "list[str]", threads: int) -> Trainer:
    """Return a trainer like this one, which trains together with those of the other ranks.

    docs: as read. threads: of each rank; 0: as many as its machine has processors.
    """
    global _trainer
    from mpi4py import MPI

    comm, state = MPI.COMM_WORLD, trainer.state()
    size, batch_size = comm.Get_size(), state.config.batch_size
    if size == 1:
        cli.say("--mpi with 1 rank; more are started by mpiexec -n N python -m microgpt.train --mpi ...")
    elif batch_size < size:
        cli.say(f"{size} MPI ranks, of which {batch_size} work: no more than the documents of a step (--batch-size)")
    else:
        cli.say(f"{size} MPI ranks")
    comm.bcast((state, docs, trainer.engine, threads))
    _trainer = Trainer.from_state(state, docs, trainer.engine, allow_other_text=True, threads=threads, comm=comm)
    return _trainer


def let_train() -> None:
    """Let the other ranks begin their run: from here on it is the run that tells them of whatever goes wrong."""
    global _have_begun
    from mpi4py import MPI

    _have_begun = True  # before they are told: after an interrupt between the two, the job is ended
    MPI.COMM_WORLD.bcast(True)


def _follow(comm: "Any") -> int:
    """Train with rank 0, which alone reads, prints, saves and answers signals."""
    from ..distributed.ranks import end_job  # it needs mpi4py

    found = comm.bcast(None)
    if found is None:
        return 0
    try:
        state, docs, engine, threads = found
        trainer = Trainer.from_state(state, docs, engine, allow_other_text=True, threads=threads, comm=comm)
    except BaseException as error:
        cli.say(f"error: rank {comm.Get_rank()} cannot train: {type(error).__name__}: {error}")
        end_job(comm, cli.EXIT_ERROR)
    if comm.bcast(None) is None:
        return 0
    try:
        trainer.run()
    except (Exception, KeyboardInterrupt):
        pass  # all ranks have raised it, and rank 0 says it
    return 0
