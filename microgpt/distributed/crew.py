"""Ranks that are all on one machine: they take steps together in memory that all of them see, without messages.

Each rank takes the next document of the batch as soon as it has done one, adds to the same gradients, in the order of the
documents, and updates its share of the parameters: see csrc/fused/crew.c. What needs words, an error or the end of a run,
goes through `Ranks`.
"""
import mmap
import os
import tempfile

from mpi4py import MPI

from ..core.crew import crew_bytes, join_crew, leave_crew, read_crew, stop_crew
from ..engines import Fused
from ..errors import CrewStopped

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any

    from ..data import Tokenizer

__all__ = ["Crew", "crew_of"]

#: Whether ranks of one machine share memory; tests of messages turn it off, on all ranks.
SHARES_MEMORY = True

#: Where files are memory, on Linux.
_MEMORY_FOLDER = "/dev/shm"


def crew_of(engine: "Any", comm: "Any", batch_size: int) -> "Crew | None":
    """Return the crew of all ranks of comm, which all call this; None if they do not share memory, or the engine has no use for it."""
    if not SHARES_MEMORY or not isinstance(engine, Fused):
        return None
    on_this_machine = comm.Split_type(MPI.COMM_TYPE_SHARED)
    together = on_this_machine.Get_size() == comm.Get_size()
    on_this_machine.Free()
    memory = _shared(comm, crew_bytes(engine.model, batch_size)) if together else None
    return None if memory is None else Crew(engine, comm, memory)


def _shared(comm: "Any", size: int) -> "mmap.mmap | None":
    """Return memory of this many bytes that all ranks of comm see; None if one of them gets none. It is free when none needs it."""
    for new_file in _nameless_file, _named_file:
        found = _map(comm, size, new_file)
        if found is not None:
            return found
    return None


def _map(comm: "Any", size: int, new_file: "Callable[[], tuple[int, str]]") -> "mmap.mmap | None":
    """Return the memory of a file that rank 0 makes and all others open by its path; None on all ranks if it fails on one."""
    file, place, found = None, None, None
    try:
        if comm.Get_rank() == 0:
            try:
                file, path = new_file()
                place = path, os.fstat(file).st_dev, os.fstat(file).st_ino
                _fill(file, size)
            except OSError:
                place = None
        place = comm.bcast(place)
        if place is not None:
            try:
                with open(place[0], "r+b") as opened:
                    about = os.fstat(opened.fileno())
                    if (about.st_dev, about.st_ino) == place[1:]:  # a container counts processes in its own way
                        found = mmap.mmap(opened.fileno(), size)
            except (OSError, ValueError):
                pass
        return found if all(comm.allgather(found is not None)) else None
    finally:
        if file is not None:
            os.close(file)
            if new_file is _named_file:
                os.unlink(path)  # the memory stays


def _folder() -> str:
    return _MEMORY_FOLDER if os.path.isdir(_MEMORY_FOLDER) else tempfile.gettempdir()


def _nameless_file() -> "tuple[int, str]":
    """Return the descriptor and the path of a new file that is gone with the processes that have it open, even if they are killed.

    Raises OSError where there are no such files: elsewhere than on Linux, and on some file systems.
    """
    if not hasattr(os, "O_TMPFILE"):
        raise OSError
    file = os.open(_folder(), os.O_TMPFILE | os.O_RDWR, 0o600)
    return file, f"/proc/{os.getpid()}/fd/{file}"


def _named_file() -> "tuple[int, str]":
    return tempfile.mkstemp(prefix="microgpt-", dir=_folder())


def _fill(file: int, size: int) -> None:
    """Write zeros. Raises OSError if there is no room: a file with holes would be a crash later."""
    zeros = bytes(min(size, 1 << 20))
    for first in range(0, size, len(zeros)):
        os.write(file, zeros[: size - first])


class Crew:
    """The ranks of one machine, as one of them sees them."""

    def __init__(self, engine: Fused, comm: "Any", memory: "mmap.mmap") -> None:
        self.engine, self.rank, self.size, self.memory = engine, comm.Get_rank(), comm.Get_size(), memory

    def join(self, batch_size: int, check: "Callable[[], None]") -> None:
        """Share this rank's state. Once all ranks have, each may train. check: see `join_crew`."""
        engine = self.engine
        join_crew(engine.kernels, self.memory, self.rank, self.size, batch_size, engine.adam, check)

    def leave(self) -> None:
        """End what the other ranks do together with this one."""
        leave_crew(self.engine.kernels)

    def train(self, docs: "Iterable[str]", tokenizer: "Tokenizer", losses: "list[float]", batch_size: int) -> None:
        """Train as `Engine.train` does, together. Raises CrewStopped if another rank has failed or left.

        The engine's state is that after the last whole step, however it ends.
        """
        engine = self.engine
        try:
            engine.train(docs, tokenizer, losses, batch_size)
        except CrewStopped:
            raise
        except BaseException:
            stop_crew(engine.kernels)
            raise
        finally:
            read_crew(engine.kernels, engine.adam)
