"""Work without the GIL: other threads wait for the tape, and what they drop meanwhile is freed later."""
import os
import random
import threading

import children
import pytest
from children import LIMIT
from conftest import in_threads
from graphs import bits

import microgpt
from microgpt import GPT, document_loss, reference
from microgpt.core.audit import audits, tape_state
from microgpt.core.dispatch import plainly
from microgpt.core.value import Value


def together(*functions):
    for error in in_threads(*functions):
        raise error


def test_comparing_in_two_threads_at_once_leaves_neither_of_them_plain():
    """The first to begin is the first to end: what the other remembers of it must not come back."""
    compiled, x = microgpt.compile(lambda x: x * x), Value(3.0)
    for _ in range(2):
        compiled(x)
    (entry,) = compiled.entries.values()
    first_began, second_began, first_ended, second_ended = [threading.Event() for _ in range(4)]

    def first():
        def as_written():
            first_began.set()
            assert second_began.wait(LIMIT)
            compiled(x)

        plainly(as_written, ())
        assert entry.replays == 0
        first_ended.set()
        assert second_ended.wait(LIMIT)
        compiled(x)
        assert entry.replays == 1

    def second():
        def as_written():
            second_began.set()
            assert first_ended.wait(LIMIT)
            compiled(x)

        assert first_began.wait(LIMIT)
        plainly(as_written, ())
        assert entry.replays == 0
        second_ended.set()

    together(first, second)


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
    together(*[lambda seed=seed: train(seed, microgpt, ours) for seed in range(4)])
    train(2, reference, theirs)
    alone = {}
    for seed in range(4):
        train(seed, microgpt, alone)
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
            (y,) = microgpt.linear(microgpt.linear(x, [x, x]), [x])
            y.backward()
            y._children[1]._children  # noqa: B018
            assert abs(sum(p.data for p in microgpt.softmax(microgpt.rmsnorm(x))) - 1) < 1e-12

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
            microgpt.softmax(held)
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
        while thread.is_alive() and not tape_state()[0]:
            pass
        del victim
        busy, n_deferred, _ = tape_state()
        thread.join()
        assert tape_state() == (False, 0, 0)
        if busy:
            assert n_deferred == 1
            return
    raise AssertionError("never saw the tape taken")


def test_who_waited_longest_comes_next():
    """Three threads wait for a long backward to end, and then take their turns in the order in which they came."""
    gradients = [1.0, -1e16, 3.0]  # added to 1e16 in this order they make 3.0, in any other 4.0 or 5.0
    long = Value(1.0)
    for _ in range(500_000 if audits() is None else 100_000):
        long = long + 1.0
    for _ in range(200):
        a = Value(1.0)
        a.grad = 1e16
        threads = [threading.Thread(target=long.backward), *(threading.Thread(target=(a * g).backward) for g in gradients)]
        seen = []
        for n, thread in enumerate(threads):
            thread.start()
            while thread.is_alive() and tape_state()[::2] != (True, n):
                pass
            seen.append(tape_state()[::2])
        for thread in threads:
            thread.join(LIMIT)
        assert not any(thread.is_alive() for thread in threads) and tape_state() == (False, 0, 0)
        if seen == [(True, n) for n in range(4)]:
            assert a.grad == 3.0
            return
    raise AssertionError("never saw three threads wait")


# ---- what never waits: the end of the program, and the thread that has the tape ----

USES = {
    "operators": "(Value(1.0) + 1.0).data",
    "backward": "root.backward()",
    "linear": "linear([root], [[root]])",
    "softmax": "softmax([root, root])",
    "rmsnorm": "rmsnorm([root])",
    "gpt": "gpt(0, 0, [[]], [[]], model)",
    "document_loss": "document_loss([4, 1, 2, 4], model).backward()",
    "children": "layer._children",
    "data": "setattr(root, 'data', root.grad)",
    "init again": "Value.__init__(leaf, 2.0, (other,), (3.0,))",
    "repr and hash": "repr(root), hash(root)",
    "a model": "GPT(5, n_embd=4, n_head=2, block_size=4)",
    "a trainer": "Trainer(['ab', 'ba'], num_steps=2, n_embd=4, n_head=2, block_size=4, engine='graph').run()",
    "Adam": "Adam(model).step()",
}
SETUP = """
import gc, os, signal, sys, threading, warnings
warnings.simplefilter("ignore", DeprecationWarning)  # Python warns of any fork beside threads
use, state = compile(sys.argv[1], "use", "eval"), {}
def run():
    if state:
        eval(use, state)
def set_up():
    import microgpt.core.value
    exec("from microgpt import *", state)
    leaf, other = state["Value"](2.0), state["Value"](3.0)
    (layer,) = state["linear"]([leaf, other], [[leaf, other]])
    state.update(leaf=leaf, other=other, layer=layer, root=layer * 1.0, model=state["GPT"](5, 4, 2, 1, 4))
"""


def child(code, *arguments):
    return children.child(SETUP + code, *arguments)


@pytest.mark.slow
@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("use", USES)
def test_a_finalizer_at_the_end_does_not_wait_for_a_daemon_thread(use, threads):
    """It gets an error, or a result if the thread was not at work; the program ends either way."""
    out = child("""
from microgpt.core.audit import tape_state
from microgpt.core.value import Value
set_up()
run()  # so that all is imported
def work(x):
    while True:
        x.backward()
roots = []
for _ in range(int(sys.argv[2])):
    x = Value(1.0)
    for _ in range(30_000):
        x = x + 1.0
    roots.append(x)
for x in roots:
    threading.Thread(target=work, args=(x,), daemon=True).start()
class AtEnd:
    def __del__(self, write=os.write):
        for _ in range(3):
            try:
                run()
                dropped = state["Value"](1.0) * 2.0
            except Exception as error:
                write(1, f"{error}\\n".encode())
            else:
                write(1, b"worked\\n")
sys.at_end = AtEnd()
while not tape_state()[0]:
    pass
""", USES[use], str(threads))
    refused = "the graph cannot be used any more: a thread was at work on it when the process ended"
    assert len(out.splitlines()) == 3
    if use not in ("gpt", "document_loss", "a trainer"):  # which may miss modules that Python has cleared already
        assert set(out.splitlines()) <= {refused, "worked"}


HOOKS = {
    "hook": "run()",
    "finalizer": "Finalizer()",
    "garbage": "make_garbage(); gc.collect()",
    "callback of gc": "gc.callbacks.append(lambda *_: run()); gc.collect(); gc.callbacks.clear()",
    "signal handler": "signal.raise_signal(signal.SIGUSR1)",
    "a fork in a hook": "fork()",
}


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
@pytest.mark.parametrize("others", [False, True], ids=["alone", "beside threads"])
@pytest.mark.parametrize("use", ["operators", "backward", "linear", "document_loss", "init again", "a trainer"])
def test_the_thread_that_forks_does_not_wait_for_itself(use, others):
    """Whatever runs while it has the tape may work on it: registered before our import, so with the tape held."""
    out = child("""
counted = [0]
class Finalizer:
    def __del__(self):
        run()
def make_garbage():
    a, b = Finalizer(), []
    a.b = b
    b.append(a)
def fork():
    if state and counted[0] == 0:
        counted[0] = 1
        wait(os.fork())
def wait(pid):
    if pid == 0:
        run()
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0
def hook():
    if state:
        exec(code)
        run()
signal.signal(signal.SIGUSR1, lambda *_: run())
os.register_at_fork(before=hook, after_in_parent=hook, after_in_child=hook)
set_up()
stop = threading.Event()
def work():
    x = state["Value"](1.0)
    for _ in range(3000):
        x = x + 1.0
    while not stop.is_set():
        x.backward()
        y = x + 1.0
threads = [threading.Thread(target=work) for _ in range(3 * (sys.argv[2] == "True"))]
for thread in threads:
    thread.start()
for code in sys.argv[3:]:
    print(code, flush=True)
    for _ in range(5):
        counted[0] = 0
        pid = os.fork()
        if pid == 0:
            signal.alarm(300)
        wait(pid)
stop.set()
for thread in threads:
    thread.join()
run()
from microgpt.core.audit import tape_state
assert tape_state() == (False, 0, 0)
print("done")
""", USES[use], str(others), *HOOKS.values())
    assert out.splitlines() == [*HOOKS.values(), "done"]


def test_nobody_can_take_the_tape_for_good():
    """What the module does at a fork cannot be called at another time."""
    import microgpt.core.lock

    assert not [name for name in vars(microgpt.core.lock) if "fork" in name]
