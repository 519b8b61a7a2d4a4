"""`microgpt train --mpi`: rank 0 runs the command, the others train with it and are silent."""
import signal

from ..trainer import Trainer
from . import console as cli

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

__all__ = ["lead", "run_on_ranks"]

#: Whether rank 0 has sent the others what they need to train.
_has_led = False


def run_on_ranks(command: "Callable[[], int]") -> int:
    """Return the exit status of command() on rank 0; the other ranks follow it, and end with 0 or with the whole job."""
    global _has_led
    try:
        from mpi4py import MPI
    except (ImportError, RuntimeError):  # RuntimeError: mpi4py finds no MPI library
        cli.say("error: --mpi needs mpi4py and an MPI library: pip install 'microgpt-exact[mpi]'")
        return cli.EXIT_ERROR
    comm = MPI.COMM_WORLD
    if comm.Get_rank():
        return _follow(comm)
    _has_led = False
    try:
        return command()
    finally:
        if not _has_led:
            comm.bcast(None)  # an error, or --help: there is nothing to train


def lead(trainer: Trainer, docs: "list[str]", threads: int) -> Trainer:
    """Return a trainer like this one, which trains together with those of the other ranks.

    docs: as read. threads: of each rank; 0: as many as its machine has processors.
    """
    global _has_led
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
    _has_led = True
    return Trainer.from_state(state, docs, trainer.engine, allow_other_text=True, threads=threads, comm=comm)


def _follow(comm: "Any") -> int:
    """Train with rank 0, which alone reads, prints, saves and answers signals."""
    from ..distributed.ranks import end_job  # it needs mpi4py

    names = ("SIGINT", "SIGTERM", "SIGHUP")
    numbers = [getattr(signal, name) for name in names if hasattr(signal, name)]  # Windows has no SIGHUP
    before = {number: signal.signal(number, signal.SIG_IGN) for number in numbers}
    try:
        found = comm.bcast(None)
        if found is None:
            return 0
        try:
            state, docs, engine, threads = found
            trainer = Trainer.from_state(state, docs, engine, allow_other_text=True, threads=threads, comm=comm)
        except BaseException as error:
            cli.say(f"error: rank {comm.Get_rank()} cannot train: {type(error).__name__}: {error}")
            end_job(comm, cli.EXIT_ERROR)
        try:
            trainer.run()
        except (Exception, KeyboardInterrupt):
            pass  # all ranks have raised it, and rank 0 says it
        return 0
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
