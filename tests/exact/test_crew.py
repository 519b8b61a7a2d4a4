"""Processes that share memory, here threads with an engine each: the bits of one engine, and what ends them all."""
import threading

import pytest
import small_runs
from conftest import hexes
from small_runs import DOCS

from microgpt import GPT, Adam, Tokenizer, Trainer
from microgpt.core.crew import crew_bytes, join_crew, leave_crew, read_crew, stop_crew
from microgpt.core.fused import FusedEngine
from microgpt.core.mt19937 import MT19937
from microgpt.errors import CrewStopped

STEPS = 4
SHAPES = [*small_runs.SHAPES, pytest.param(dict(n_embd=72, n_head=2, n_layer=2, block_size=12), marks=pytest.mark.slow)]

pytestmark = pytest.mark.usefixtures("share_all")


class Process:
    """What one process has, and does in a thread."""

    def __init__(self, shape, threads=1, docs=DOCS, **settings):
        rng, docs = MT19937(42), list(docs)
        rng.shuffle(docs)
        self.docs, self.tokenizer = docs, Tokenizer(docs)
        self.model = GPT(self.tokenizer.vocab_size, **shape, rng=rng)
        self.adam, self.engine = Adam(self.model, num_steps=STEPS, **settings), FusedEngine(self.model)
        self.engine.set_threads(threads)
        self.losses, self.error = [], None

    def train(self, batch_size, steps=STEPS, change=lambda docs: docs):
        docs = [self.docs[i % len(self.docs)] for i in range(batch_size * steps)]
        try:
            self.engine.train(change(docs), self.adam, self.losses, self.tokenizer.ids, batch_size)
        except BaseException as error:
            self.error = error
            stop_crew(self.engine)
        read_crew(self.engine, self.adam)

    def seen(self):
        return [hexes(x) for x in (self.losses, self.model.data, self.adam.m, self.adam.v, self.model.grad)]


def join(processes, batch_size, check=None):
    memory = bytearray(crew_bytes(processes[0].model, batch_size))
    for rank, one in enumerate(processes):
        join_crew(one.engine, memory, rank, len(processes), batch_size, one.adam, check)


def together(processes, batch_size, changes=(), **options):
    """Train in a crew; changes: of the documents of the first processes."""
    join(processes, batch_size)
    arguments = [dict(options, change=change) for change in changes] + [options] * (len(processes) - len(changes))
    threads = [threading.Thread(target=one.train, args=(batch_size,), kwargs=own) for one, own in zip(processes, arguments)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for one in processes:
        leave_crew(one.engine)


def whole(shape, batch_size, docs=DOCS, **settings):
    trainer = Trainer(docs, num_steps=STEPS, batch_size=batch_size, **shape, **settings)
    losses = trainer.run()
    return [hexes(x) for x in (losses, trainer.parameters, trainer.adam.m, trainer.adam.v, trainer.model.grad)]


def check_crew(shape, count, threads, batch_size):
    processes = [Process(shape, threads) for _ in range(count)]
    together(processes, batch_size)
    expected = whole(shape, batch_size)
    for one in processes:
        assert one.error is None and one.seen() == expected


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_a_crew_has_the_bits_of_one_process(isa, shape):
    check_crew(shape, 2, 1, 5)


@pytest.mark.parametrize("count, threads, batch_size", [(1, 1, 1), (2, 1, 2), (2, 3, 5), (3, 1, 2), (3, 1, 1)])
def test_crews_of_any_size(count, threads, batch_size):
    check_crew(SHAPES[1], count, threads, batch_size)


def test_weight_decay_and_clipping():
    settings = dict(weight_decay=0.1, clip=0.3, schedule="cosine", warmup=1)
    processes = [Process(small_runs.SHAPES[0], **settings) for _ in range(3)]
    together(processes, 5)
    assert [one.seen() for one in processes] == [whole(small_runs.SHAPES[0], 5, **settings)] * 3


def test_documents_of_very_different_lengths():
    docs, shape = [("ab" * 20)[:n] for n in (1, 40, 2, 39, 4, 5, 38, 3, 6)], dict(n_embd=8, block_size=64)
    processes = [Process(shape, docs=docs) for _ in range(3)]
    together(processes, len(docs))
    assert [one.seen() for one in processes] == [whole(shape, len(docs), docs)] * 3


def failing_at(index):
    def change(docs):
        yield from docs[:index]
        raise KeyError("no more")

    return change


@pytest.mark.parametrize("batch_size, index, steps_done", [(2, 5, 2), (3, 6, 2), (5, 0, 0)])
def test_an_error_of_one_process_ends_the_step_of_all(batch_size, index, steps_done):
    processes = [Process(small_runs.SHAPES[0]) for _ in range(3)]
    together(processes, batch_size, changes=[failing_at(index)])
    assert isinstance(processes[0].error, KeyError)
    assert all(isinstance(one.error, CrewStopped) for one in processes[1:])
    twin = Process(small_runs.SHAPES[0])
    twin.train(batch_size, steps_done)
    assert [one.seen() for one in processes] == [twin.seen()] * 3
    for one in processes:
        one.error = None
    together(processes, batch_size, steps=STEPS - steps_done)  # and a new crew goes on from there
    assert all(one.error is None for one in processes)
    assert [one.seen()[1] for one in processes] == [processes[0].seen()[1]] * 3


def test_what_check_raises_ends_the_step():
    """The others never come: only `check` can end the wait."""
    one, asked = Process(small_runs.SHAPES[0]), []

    def check():
        asked.append(len(asked))
        if len(asked) == 3:
            raise TimeoutError("enough")

    join_crew(one.engine, bytearray(crew_bytes(one.model, 2)), 0, 2, 2, one.adam, check)
    before = one.seen()
    one.train(2)
    leave_crew(one.engine)
    assert isinstance(one.error, TimeoutError) and one.seen() == before
    one.error = None
    one.train(2)
    assert one.error is None and len(one.losses) == STEPS


def test_adam_fails_for_all():
    processes = [Process(small_runs.SHAPES[0], eps=0.0) for _ in range(2)]
    for one in processes:
        one.model.data[:] = 0.0
    before = processes[0].seen()
    together(processes, 2)
    assert {type(one.error) for one in processes} == {ZeroDivisionError}
    assert [one.seen() for one in processes] == [before] * 2


def test_arguments_that_no_crew_has():
    one = Process(small_runs.SHAPES[0])
    size = crew_bytes(one.model, 2)
    with pytest.raises(ValueError, match="bytes of memory are too few"):
        join_crew(one.engine, bytearray(size - 1), 0, 1, 2, one.adam)
    with pytest.raises((BufferError, TypeError)):
        join_crew(one.engine, bytes(size), 0, 1, 2, one.adam)
    with pytest.raises(ValueError, match="belongs to another model"):
        join_crew(one.engine, bytearray(size), 0, 1, 2, Process(small_runs.SHAPES[0]).adam)
    memory = bytearray(size)
    join_crew(one.engine, memory, 0, 1, 2, one.adam)
    with pytest.raises(ValueError, match="this engine's crew takes steps on 2 documents, not 3"):
        one.engine.train(one.docs, one.adam, [], one.tokenizer.ids, 3)
    with pytest.raises(BufferError):
        memory.append(0)
    leave_crew(one.engine)
    memory.append(0)
    leave_crew(one.engine)
    stop_crew(one.engine)
    read_crew(one.engine, one.adam)
