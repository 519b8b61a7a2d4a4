"""A Trainer that is interrupted, at any time and more than once, has the bits of one that was not."""
import _thread
import contextlib
import ctypes
import itertools
import random
import signal
import threading
import time

import pytest
from children import LIMIT
from conftest import hexes

from microgpt import GPT, Adam, Trainer, evaluate
from microgpt.core.fused import FusedEngine
from microgpt.core.mt19937 import MT19937

NAMES = ["emma", "olivia", "ava", "isabella", "sophia", "charlotte", "mia", "amelia", "harper", "evelyn"]


class Interrupts:
    """Raises KeyboardInterrupt in work() after a random time, once, wherever it is then."""

    def __init__(self, most):
        self.random, self.most, self.armed = random.Random(1), most, False

    def interrupt(self, number, frame):
        if self.armed:
            self.armed = False
            raise KeyboardInterrupt

    def __enter__(self):
        self.previous = signal.signal(signal.SIGALRM, self.interrupt)
        return self

    def __exit__(self, *exception):
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, self.previous)

    def __call__(self, work):
        try:
            self.armed = True
            signal.setitimer(signal.ITIMER_REAL, 1e-5 + self.random.random() * self.most)
            while True:
                work()
        except KeyboardInterrupt:
            pass


def assert_same_run(trainer):
    """The trainer has the bits of one that was never interrupted, and goes on with them."""
    settings = dict(trainer.settings)
    twin = Trainer(NAMES, num_steps=trainer.num_steps, engine=trainer.engine, **settings)
    trainer.run(0)  # what two interrupts have left is undone by the next call
    twin.run(trainer.step_index)
    for _ in range(2):
        for one, other in ((trainer.parameters, twin.parameters), (trainer.adam.m, twin.adam.m),
                           (trainer.adam.v, twin.adam.v)):  # fmt: skip
            assert hexes(one) == hexes(other)
        assert hexes(trainer.run(3)) == hexes(twin.run(3))


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="interrupts by a timer of POSIX")
@pytest.mark.parametrize("kept", [{}, dict(batch_size=2, schedule="constant", warmup=9, weight_decay=0.1, clip=0.5)], ids=str)
def test_interrupt_anywhere_leaves_a_trainer_that_can_save_and_go_on(engine, tmp_path, kept):
    # As small as a model with two heads can be: an interrupt comes within the time of a few steps.
    trainer = Trainer(NAMES, num_steps=10**6, engine=engine, n_embd=2, n_head=2, block_size=3, **kept)
    works = [trainer.step, lambda: trainer.run(1), lambda: trainer.sample(1), lambda: list(trainer.generate(top_k=3)),
             lambda: trainer.run(5), lambda: trainer.sample_one(top_p=0.9), lambda: evaluate(trainer, NAMES[:2])]  # fmt: skip
    for work in works:
        work()  # what is imported at first use is imported before the interrupts
    most = {"fused": 0.0005, "graph": 0.001, "reference": 0.008}[engine] * (2 if kept else 1)  # a step takes longer
    with Interrupts(most) as interrupts:
        for count in itertools.count():
            interrupts(works[0 if count % 2 else count % len(works)])
            trainer.save(tmp_path / "run.safetensors") if count % 8 == 0 else trainer.run(0)
            if count >= 400 and trainer.step_index > 20:
                break
            if count % 20 == 0 and trainer.step_index < count // 20:  # on a busy machine few steps end before their interrupt
                interrupts.most *= 1.5
    assert_same_run(trainer)


@pytest.mark.parametrize("arguments", [{}, {"prompt": "em"}, {"top_k": 3}], ids=str)
def test_interrupt_that_takes_the_drawn_texts_restores_the_stream(engine, arguments, monkeypatch):
    """Ctrl-C since the last time that compiled code asked for it is answered once that has returned."""
    trainer = Trainer(NAMES, num_steps=1, engine=engine, n_embd=2, n_head=2, block_size=3)
    made = trainer._sampler.engine

    def interrupted(draw):
        def draw_then_interrupt(*given):
            drawn = draw(*given)
            _thread.interrupt_main()
            return drawn

        return draw_then_interrupt

    expected, seeded = trainer.sample(3, **arguments, seed=5), made.seeded(5)
    before = trainer.rng.getstate()
    for name in ("sample_texts", "choose"):
        monkeypatch.setattr(made, name, interrupted(getattr(made, name)))
    for draw in (lambda: trainer.sample(3, **arguments), lambda: trainer.sample_one(**arguments)):
        with pytest.raises(KeyboardInterrupt):
            draw()
        assert trainer.rng.getstate() == before
    monkeypatch.undo()
    assert [trainer.sample_one(**arguments, rng=seeded) for _ in range(3)] == expected


@pytest.mark.slow
def test_asynchronous_exception_in_a_thread_leaves_the_trainer_free(engine):
    """What PyThreadState_SetAsyncExc raises in a thread: `threading` tools and notebooks stop cells by it."""
    raise_in = ctypes.pythonapi.PyThreadState_SetAsyncExc
    trainer = Trainer(NAMES, num_steps=10**6, engine=engine, n_embd=2, n_head=2, block_size=4)

    class Stop(Exception):
        pass

    def work():
        with contextlib.suppress(Stop):
            begun.set()  # before, and after it was raised once, it would not be suppressed
            while True:
                trainer.step()
                trainer.sample_one(top_k=2)

    for count in range(60):
        thread, begun = threading.Thread(target=work), threading.Event()
        thread.start()
        assert begun.wait(LIMIT)
        time.sleep(0.0005 * (count % 7))
        raise_in(ctypes.c_ulong(thread.ident), ctypes.py_object(Stop))
        thread.join(LIMIT)
        assert not thread.is_alive()
        trainer.run(0)
    assert_same_run(trainer)


def test_second_interrupt_while_the_first_is_answered_changes_no_bit():
    """The reference undoes an interrupted update in Python, where another interrupt may come."""
    from microgpt.engines import script_loop

    trainer = Trainer(NAMES, num_steps=50, engine="reference", n_embd=4, n_head=2)
    trainer.run(3)
    step, set_each = trainer.adam.step, script_loop.set_each

    def interrupted_step():
        adam = trainer.adam
        adam.params[0].data, adam.m[0], adam.step_index = 7.0, 7.0, 77
        raise KeyboardInterrupt

    def interrupted_again(*arguments):
        raise KeyboardInterrupt

    for _ in range(2):
        trainer.adam.step, script_loop.set_each = interrupted_step, interrupted_again
        try:
            with pytest.raises(KeyboardInterrupt):
                trainer.step()
        finally:
            trainer.adam.step, script_loop.set_each = step, set_each
    assert_same_run(trainer)


@pytest.mark.parametrize("engine", ["graph", "reference"])  # the fused one: tests/exact/test_sampling_reuse.py
def test_interrupted_sample_has_drawn_nothing(engine):
    trainer = Trainer(NAMES, num_steps=4, engine=engine, n_embd=4)
    state, decode, count = trainer.rng.getstate(), trainer.tokenizer.decode, [0]

    def interrupted(ids):
        count[0] += 1
        if count[0] == 3:
            raise KeyboardInterrupt
        return decode(ids)

    trainer.tokenizer.decode = interrupted
    with pytest.raises(KeyboardInterrupt):
        trainer.sample(5)
    assert trainer.rng.getstate() == state and count == [3]


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="a timer of POSIX")
def test_call_from_a_signal_handler_is_refused_in_words(engine, tmp_path):
    """In the middle of a step there is no whole state to save; the step is undone, and the run may go on."""
    trainer = Trainer(NAMES, num_steps=10**6, engine=engine, n_embd=4, n_head=2, block_size=8)

    def save(*_):
        if trainer.step_index:  # under way, however long that took
            signal.setitimer(signal.ITIMER_REAL, 0)
            trainer.save(tmp_path / "run.safetensors")

    previous = signal.signal(signal.SIGALRM, save)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.02, 0.02)
        with pytest.raises(RuntimeError, match="this trainer is at work in this thread.*set a flag"):
            trainer.run()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)
    assert not list(tmp_path.iterdir())
    trainer.save(tmp_path / "run.safetensors")
    assert_same_run(trainer)


@contextlib.contextmanager
def interrupt_after(seconds, has_begun=lambda: True):
    """Ctrl-C after so many seconds, or after twice as many, and so on, once has_begun()."""
    def interrupt(*_):
        if has_begun():
            signal.setitimer(signal.ITIMER_REAL, 0)  # a second one might come after the block
            raise KeyboardInterrupt

    previous = signal.signal(signal.SIGALRM, interrupt)
    try:
        signal.setitimer(signal.ITIMER_REAL, seconds, seconds)
        with pytest.raises(KeyboardInterrupt):
            yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="a timer of POSIX")
def test_interrupt_is_answered_while_a_large_batch_is_read():
    model, numbers, batch = GPT(27, 4), itertools.count(), 20_000_000
    documents, losses = map(["a"].__getitem__, map((0).__mul__, numbers)), []  # no line of Python between two of them
    with interrupt_after(0.02, lambda: repr(numbers) != "count(0)"):
        FusedEngine(model).train(documents, Adam(model), losses, {"a": 0}, batch)
    assert 0 < next(numbers) < batch and not losses


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="a timer of POSIX")
def test_interrupt_is_answered_while_a_large_model_is_initialised():
    sizes, interrupted, whole = dict(vocab_size=27, n_embd=256, n_layer=10), MT19937(1), MT19937(1)
    with interrupt_after(0.001):
        GPT(**sizes, rng=interrupted)
    GPT(**sizes, rng=whole)
    assert interrupted.getstate() != whole.getstate()


def test_steps_of_any_batch_size_are_long_enough_to_share():
    assert Trainer(NAMES, num_steps=1, batch_size=2**63 - 1, threads=2).shares_steps()
