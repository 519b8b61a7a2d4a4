"""Work without the GIL: other threads wait for the tape, and what they drop meanwhile is freed later."""
import random
import threading

import pytest
from conftest import in_threads
from graphs import bits

from microgpt import model, reference
from microgpt.model import GPT, document_loss
from microgpt.value import Value, _audits, _tape_state


def together(*functions):
    for error in in_threads(*functions):
        raise error


@pytest.mark.slow
@pytest.mark.usefixtures("collector_off")
def test_models_in_threads_give_what_they_give_alone():
    tokens = [8, 0, 3, 3, 7, 1, 2, 8]

    def train(seed, m, results):
        gpt = m.GPT(9, rng=random.Random(seed))
        optimizer = reference.Adam(gpt, num_steps=4)
        for _ in range(4):
            m.document_loss(tokens, gpt).backward()
            optimizer.step()
        results[seed] = [bits(p.data) for p in gpt.params]

    ours, theirs = {}, {}
    together(*[lambda seed=seed: train(seed, model, ours) for seed in range(4)])
    train(2, reference, theirs)
    alone = {}
    for seed in range(4):
        train(seed, model, alone)
    assert ours == alone and ours[2] == theirs[2]


def test_operators_backward_and_layers_at_once():
    """Every kind of work in its own thread, all on one tape; each checks its own results."""
    gpt = GPT(9)
    expected = bits(document_loss([8, 1, 2, 3, 8], gpt).data)

    def operators():
        for k in range(4000):
            a = Value(float(k))
            b = (a * 2.0 + 1.0 - a) / 2.0
            assert b.data == (k + 1.0) / 2.0 and b._children[0]._children[1].data == -k

    def chains():
        for _ in range(8):
            a = x = Value(1.0)
            for _ in range(3000):
                x = x + 1.0
            x.backward()
            assert a.grad == 1.0 and x.data == 3001.0

    def layers():
        for k in range(300):
            x = [Value(k + 0.5), Value(2.0)]
            (y,) = model.linear(model.linear(x, [x, x]), [x])
            y.backward()
            y._children[1]._children  # noqa: B018
            assert abs(sum(p.data for p in model.softmax(model.rmsnorm(x))) - 1) < 1e-12

    def documents():
        for _ in range(200):
            assert bits(document_loss([8, 1, 2, 3, 8], gpt).data) == expected

    together(operators, operators, chains, layers, documents, documents)


def test_values_dropped_while_another_thread_is_at_work():
    stop = threading.Event()
    kept = []

    def work():
        a = Value(1.0)
        for _ in range(30):
            x = a
            for _ in range(20000):
                x = x * 1.0
            x.backward()
        kept.append(a.grad)
        stop.set()

    def drop():
        held = []
        while not stop.is_set():
            held = [Value(float(k)) * 2.0 for k in range(500)]
            model.softmax(held)
        assert held == [] or held[3].data == 6.0

    together(work, drop)
    assert kept == [30.0]


def test_what_dies_while_the_tape_is_taken_is_put_down_for_later():
    """One thread is in backward; here a Value dies, and its node must not be touched until the tape is at rest."""
    x = Value(1.0)
    for _ in range(300_000):
        x = x + 1.0
    for _ in range(200):
        victim = Value(5.0)
        thread = threading.Thread(target=x.backward)
        thread.start()
        while thread.is_alive() and not _tape_state()[0]:
            pass
        del victim
        busy, n_deferred, _ = _tape_state()
        thread.join()
        assert _tape_state() == (False, 0, 0)
        if busy:
            assert n_deferred == 1
            return
    raise AssertionError("never saw the tape taken")


def test_who_waited_longest_comes_next():
    """Three threads wait for a long backward to end, and then take their turns in the order in which they came."""
    gradients = [1.0, -1e16, 3.0]  # added to 1e16 in this order they make 3.0, in any other 4.0 or 5.0
    long = Value(1.0)
    for _ in range(500_000 if _audits() is None else 100_000):
        long = long + 1.0
    for _ in range(200):
        a = Value(1.0)
        a.grad = 1e16
        threads = [threading.Thread(target=long.backward), *(threading.Thread(target=(a * g).backward) for g in gradients)]
        seen = []
        for n, thread in enumerate(threads):
            thread.start()
            while thread.is_alive() and _tape_state()[::2] != (True, n):
                pass
            seen.append(_tape_state()[::2])
        for thread in threads:
            thread.join(60)
        assert not any(thread.is_alive() for thread in threads) and _tape_state() == (False, 0, 0)
        if seen == [(True, n) for n in range(4)]:
            assert a.grad == 3.0
            return
    raise AssertionError("never saw three threads wait")
