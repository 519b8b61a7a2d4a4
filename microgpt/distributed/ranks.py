"""The ranks of an MPI job that train one model together.

Every rank holds the whole state: parameters, moments, documents. Of a batch each computes its own part, and then all
sum the gradients along one chain, so that every rank makes the same update: see `chain.py`.

Ranks act together: what one decides, all must hear of, or the others wait for ever. So a step has two halves. In the first,
each rank computes its losses; whatever goes wrong there is kept. Then all exchange one word each: its losses, or that it
failed, or that its run has ended. Only if all are well does the second half begin, which nothing interrupts: it runs in a
thread of its own, and signal handlers run in the main thread. A rank that does not keep to this, because it was interrupted
twice or MPI itself failed, ends the whole job by MPI_Abort.

Ranks of one machine share memory, and need no words as long as all are well: see `crew.py`. A rank that fails, or ends, stops
the step for all of them, and then they exchange those words.
"""
import sys
import threading
import time
from itertools import islice

from ..errors import CrewStopped
from .chain import Chain, own_part, rounds_of, wait_for
from .crew import Crew, crew_of
from .parts import part_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any, TypeVar

    from .._types import Array
    from ..data import Tokenizer
    from ..engines import Engine
    from ..storage.checkpoint import State

    Result = TypeVar("Result")

__all__ = ["Ranks", "end_job", "ranks_of"]

#: Seconds after which an interrupted rank no longer waits for the others to end the step with it.
PATIENCE = 10.0

#: Seconds before MPI_Abort. MPICH's launcher ends at once then, and what it has not yet read of stderr is lost.
LAST_WORDS = 1.0

#: Exceptions that mean the same on another rank; of any other, the others hear in words.
_PORTABLE = (ValueError, OverflowError, ZeroDivisionError, MemoryError, KeyboardInterrupt)


def ranks_of(engine: "Engine", comm: "Any") -> "Ranks | None":
    """Return the ranks of comm as an engine; None if there is one rank, which trains alone.

    Raises TypeError for what is not an intracommunicator of mpi4py, RuntimeError if MPI was initialised without threads.
    """
    from mpi4py import MPI

    if not isinstance(comm, MPI.Intracomm) or comm == MPI.COMM_NULL:
        raise TypeError(f"comm must be an intracommunicator of mpi4py, such as MPI.COMM_WORLD, not {comm!r}")
    if MPI.Query_thread() < MPI.THREAD_SERIALIZED:
        raise RuntimeError("this MPI was initialised without threads: comm needs MPI_THREAD_SERIALIZED or more")
    return Ranks(engine, comm) if comm.Get_size() > 1 else None


class Ranks:
    """An engine that trains together with those of the other ranks. Whatever it does not define is the engine's own.

    Attributes
    ----------
    rank, size : int
        Which of the ranks this is, and how many there are.
    """

    def __init__(self, engine: "Engine", comm: "Any") -> None:
        self.engine, self.comm = engine, comm
        self.rank, self.size = comm.Get_rank(), comm.Get_size()
        self.chain = Chain(part_of(engine, self.size), comm)
        self.crew: Crew | None = None  # if all ranks share memory
        self.crew_is_known = False
        self.is_together = False  # whether this run's steps are the crew's, rather than the chain's
        self.capacity = 1  # documents of each rank in a round
        self.have_met = False  # whether all ranks have begun a run together, and so hear of what becomes of each
        self.is_open = False  # whether the others expect a word from this rank
        self.is_lost = False  # whether this rank left the others without one
        self.interrupt: BaseException | None = None  # what a signal handler raised: the next word says so
        self.updating = threading.Lock()  # held during an update, and for good by a rank that is lost
        #: While the crew trains: the steps, and the losses and how many, of the engine's state, which is that from before.
        self.before: tuple[int, list[float], int] | None = None

    def __getattr__(self, name: str) -> "Any":
        return getattr(self.engine, name)

    def run(self, work: "Callable[[], Result]", state: "Callable[[], State]", engine: str, steps: "int | None") -> "Result":
        """Return work(), which trains up to this many steps from state(), once all ranks have called this.

        If work raises on one rank, it raises on all. Raises ValueError on every rank if these arguments differ.
        """
        try:
            try:
                self._wait(self._begin, state, engine, steps)
                result = work()
            except BaseException as error:
                self._end(error)
                raise
            self._end(None)
            return result
        except BaseException as error:
            if self.is_lost:
                self._abort(error)
            raise

    def _begin(self, state: "Callable[[], State]", engine: str, steps: "int | None") -> None:
        begun = state()
        facts, batch_size = _facts(begun, engine, steps, self.chain.part.gradients()), begun.config.batch_size
        found = self.comm.allgather((facts, self.chain.part.capacity, self.engine.threads))
        self.have_met = True
        self.capacity = min(capacity for _, capacity, _ in found)  # instruction sets differ in what documents take
        for rank, (others, _, _) in enumerate(found):
            for name, value in facts.items():
                if others.get(name) != value:
                    raise ValueError(f"the ranks disagree on {name}: {facts[name]} on rank {self.rank}, {others.get(name)} on rank {rank}")
        # A document of the crew has one thread. Where threads are more than documents, those of a rank share one in the chain.
        threads = [threads for _, _, threads in found]
        self.is_together = (sum(threads) <= batch_size or max(threads) == 1) and self._join_crew(batch_size)
        self.is_open = True

    def _join_crew(self, batch_size: int) -> bool:
        """Return whether all ranks have joined the crew."""
        if not self.crew_is_known:
            self.crew, self.crew_is_known = crew_of(self.engine, self.comm, batch_size), True
        if self.crew is None:
            return False
        try:
            self.crew.join(batch_size, self._check_interrupt)
            has_joined = True
        except MemoryError:
            has_joined = False
        return all(self.comm.allgather(has_joined))

    def _end(self, error: "BaseException | None") -> None:
        """Tell the others that this rank's run has ended, unless they know."""
        if self.crew is not None and not self.is_lost:
            self.crew.leave()
        if self.is_open and not self.is_lost:
            self._wait(self._exchange, ("ended", None) if error is None else ("failed", self._portable(error)))

    def _portable(self, error: BaseException) -> BaseException:
        """Return what the other ranks raise for an error of this one."""
        if type(error) in _PORTABLE:
            return type(error)(*(arg for arg in error.args if isinstance(arg, (str, int))))
        return RuntimeError(f"rank {self.rank} failed: {type(error).__name__}: {error}")

    def _exchange(self, word: "tuple[str, Any]") -> "list[Any] | None":
        """Give each rank's word to all. Return their values in the order of ranks, or None if the run of one has ended.

        Raises what another rank failed with; None if this one did, too.
        """
        try:
            wait_for(self.comm.Ibarrier())  # allgather itself would not sleep
            words = self.comm.allgather(word)
        except BaseException:
            self.is_lost = True
            raise
        failed = [value for kind, value in words if kind == "failed"]
        self.is_open = not failed and all(kind == "losses" for kind, _ in words)
        if word[0] == "failed":
            return None
        if failed:
            raise failed[0]
        return [value for _, value in words] if self.is_open else None

    def train(self, docs: "Iterable[str]", tokenizer: "Tokenizer", losses: "list[float]", batch_size: int = 1) -> None:
        """Train one step on each batch_size documents, together with the other ranks; append each loss to losses.

        Ends early if the run of another rank has ended. See `microgpt.engines.Engine.train`.
        """
        self._wait(self._train, docs, tokenizer, losses, batch_size)

    def _train(self, docs: "Iterable[str]", tokenizer: "Tokenizer", losses: "list[float]", batch_size: int) -> None:
        if self.is_together:
            self._train_together(docs, tokenizer, losses, batch_size)
            return
        docs, is_first = iter(docs), True
        while batch := [*islice(docs, batch_size)]:
            if not self._step(batch, tokenizer, losses, is_first):
                return
            is_first = False

    def _train_together(self, docs: "Iterable[str]", tokenizer: "Tokenizer", losses: "list[float]", batch_size: int) -> None:
        word: tuple[str, Any] = "losses", None
        error = None
        with self.updating:
            self.before = self.engine.adam.step_index, losses, len(losses)
            try:
                self.crew.train(docs, tokenizer, losses, batch_size)  # type: ignore[union-attr]  # they are together
                return
            except CrewStopped:
                pass  # the others say why
            except BaseException as raised:
                error, word = raised, ("failed", self._portable(raised))
            finally:
                self.before = None
        self._exchange(word)
        if error is not None:
            raise error

    def _step(self, batch: "list[str]", tokenizer: "Tokenizer", losses: "list[float]", is_first: bool) -> bool:
        """Train one step; return whether it was done, rather than ended by another rank."""
        part, values = self.chain.part, []  # type: Any, list[float]
        try:
            part.begin(is_first)
            for first, end in rounds_of(len(batch), self.capacity * self.size):
                found = self._losses(batch[first:end], tokenizer, len(batch))
                if found is None:
                    return False
                values = found + values
                try:
                    self.chain.pass_on(is_last=not first)
                except BaseException:
                    self.is_lost = True
                    raise
            total = 0.0
            for loss in values:  # not sum(), which compensates from Python 3.12 on
                total += loss
            with self.updating:
                self.is_open = False  # an error of the update is the same on every rank
                part.update()
                losses.append(total * (1 / len(batch)))
                self.is_open = True
            return True
        finally:
            part.clear()

    def _losses(self, docs: "list[str]", tokenizer: "Tokenizer", batch_size: int) -> "list[float] | None":
        """Return the losses of docs, of which each rank computes its own; None if the run of another rank has ended."""
        first, end = own_part([*map(len, docs)], self.rank, self.size)
        word: tuple[str, Any]
        error = None
        try:
            self._check_interrupt()
            word = "losses", self.chain.part.losses(docs[first:end], tokenizer, batch_size, self._check_interrupt)
        except BaseException as raised:
            error, word = raised, ("failed", self._portable(raised))
        found = self._exchange(word)
        if error is not None:
            raise error
        return None if found is None else [loss for part in reversed(found) for loss in part]

    def _check_interrupt(self) -> None:
        if self.interrupt is not None:
            raise self.interrupt

    def _wait(self, work: "Callable[..., Result]", *arguments: "Any") -> "Result":
        """Return work(*arguments), done in another thread, so that a signal handler of this one runs at once.

        What a handler raises is left to work, which says it to the other ranks. If it raises again, or work does not end, this
        rank is lost to the others.
        """
        outcome: list[tuple[bool, Any]] = []

        def call() -> None:
            try:
                outcome.append((True, work(*arguments)))
            except BaseException as error:
                outcome.append((False, error))
            finally:
                done.set()

        done, self.interrupt, deadline = threading.Event(), None, None
        thread = threading.Thread(target=call, name="microgpt ranks", daemon=True)
        try:
            thread.start()
            done.wait()
        except BaseException as error:
            self.interrupt, deadline = error, time.monotonic() + PATIENCE
        if deadline is not None:
            try:
                if not done.wait(max(0.0, deadline - time.monotonic())):
                    raise self.interrupt or KeyboardInterrupt
            except BaseException:
                self.is_lost = True
                if not self.updating.acquire(timeout=PATIENCE):  # no update from here on: the state is that after a whole step
                    self._forget_unread()
                raise
        is_well, result = outcome[0]
        if not is_well:
            raise result
        if self.interrupt is not None:
            raise self.interrupt  # it came after the last word
        return result  # type: ignore[no-any-return]  # of work

    def _forget_unread(self) -> None:
        """Forget the steps whose state only the crew's memory has: another rank will not end the update that is under way."""
        if self.before is not None:
            self.engine.adam.step_index, losses, count = self.before
            del losses[count:]

    def _abort(self, error: BaseException) -> None:
        """End the whole job: the other ranks wait for this one."""
        try:
            if sys.stderr is not None:
                sys.stderr.write(f"microgpt: rank {self.rank} left the others, so all end: {type(error).__name__}: {error}\n")
                sys.stderr.flush()
        finally:
            end_job(self.comm, 130 if isinstance(error, KeyboardInterrupt) else 1)


def end_job(comm: "Any", status: int) -> None:
    """End all ranks of the job by MPI_Abort, once the launcher has had time to pass on what this one said."""
    try:
        time.sleep(LAST_WORDS)
    finally:
        comm.Abort(status)


def _facts(state: "State", engine: str, steps: "int | None", grad: "Array") -> "dict[str, Any]":
    """Return by name what must be the same on all ranks for the bits to be those of one process."""
    from .. import __version__

    arrays = {"parameters": state.params, "Adam's m": state.m, "Adam's v": state.v, "gradients": grad}
    return {
        "the version of microgpt": __version__,
        "engine": engine,
        **state.config.as_dict(),
        **{f"adam.{name}": value for name, value in state.adam.items()},
        "step_index": state.step_index,
        "the number of steps": steps,
        "the documents": state.docs_sha256,
        "the vocabulary": "".join(state.uchars),
        **{f"the {name}": _checksum(values) for name, values in arrays.items()},
    }


def _checksum(values: "Array") -> int:
    """Return a number that differs if a bit does, two do, or numbers change places: for almost any two arrays."""
    from zlib import crc32

    return crc32(values.data)
