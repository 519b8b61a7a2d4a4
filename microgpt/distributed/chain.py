"""One chain of additions for the gradient of every parameter, through all ranks.

In the graph of a batch, documents reach a parameter from the last to the first. So rank 0 has the last documents of the
batch and the last rank the first; each adds the gradients of its own to the sums of the ranks before it, and sends them on.
Parameters go in chunks, so that ranks work on different chunks at the same time. The last rank has the gradients, and
broadcasts them: every rank then makes the same update.

A batch that does not fit into the memory of all ranks is done in rounds, from its last documents to its first.
"""
import time

from mpi4py import MPI

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from .parts import Part

__all__ = ["Chain", "own_part", "rounds_of", "wait_for"]

#: How often a request is looked at before its rank sleeps, and the seconds that it sleeps between two looks: the longer it has
#: waited, the more.
SPINS, SHORTEST_NAP, LONGEST_NAP = 200, 5e-5, 1e-3


def own_part(lengths: "list[int]", rank: int, size: int) -> "tuple[int, int]":
    """Return (first, end) of the documents of a rank: consecutive, the last ones for rank 0, about equal in length.

    lengths: of the documents, in characters.
    """
    work = [length + 1 for length in lengths]
    total, bounds, done = sum(work), [0], 0
    for i, amount in enumerate(work):
        # The cut nearest to a multiple of total / size, in whole numbers, so that every rank finds the same.
        while len(bounds) < size and (2 * done + amount) * size >= 2 * total * len(bounds):
            bounds.append(i)
        done += amount
    bounds += [len(work)] * (size + 1 - len(bounds))
    return bounds[size - 1 - rank], bounds[size - rank]


def rounds_of(documents: int, most: int) -> "list[tuple[int, int]]":
    """Return (first, end) of the documents of each round, at most this many, the last ones first."""
    return [(max(0, end - most), end) for end in range(documents, 0, -most)]


class Chain:
    """The chain as one rank sees it."""

    def __init__(self, part: "Part", comm: "Any") -> None:
        self.part, self.comm, self.rank, self.size = part, comm, comm.Get_rank(), comm.Get_size()

    def pass_on(self, is_last: bool) -> None:
        """Add the gradients of this round. Every rank has all of them after the last round, rank 0 after each."""
        part, comm, rank, last = self.part, self.comm, self.rank, self.size - 1
        grad = part.gradients()
        buffers = [grad[first:end] for first, end in part.chunks]
        received = [comm.Irecv(buffer, rank - 1) for buffer in buffers] if rank else []
        pending: list[Any] = []
        for i, buffer in enumerate(buffers):
            if received:
                wait_for(received[i])
            part.add(i)
            if rank < last:
                pending.append(comm.Isend(buffer, rank + 1))
            elif is_last:
                pending.append(comm.Ibcast(buffer, last))
            elif rank:
                pending.append(comm.Isend(buffer, 0))
            MPI.Request.Testall(pending)  # MPI moves data only while it is called
        if rank < last:
            for i, buffer in enumerate(buffers):
                wait_for(pending[i])  # it has left, and may be overwritten
                if is_last:
                    pending[i] = comm.Ibcast(buffer, last)
                elif not rank:
                    pending[i] = comm.Irecv(buffer, last)
        for request in pending:
            wait_for(request)


def wait_for(request: "Any") -> None:
    """Wait until a request is done, and leave the processor to others: MPI's own functions never sleep."""
    for _ in range(SPINS):
        if request.Test():
            return
    start = time.perf_counter()
    while not request.Test():
        time.sleep(min(LONGEST_NAP, SHORTEST_NAP + (time.perf_counter() - start) / 20))
