"""What may be shared between threads, processes and interpreters (docs/explain/threads.md): it works, or says that it does not."""
import copy
import gc
import os
import pickle
import subprocess
import sys
import threading
import time

import pytest
from children import LIMIT, child
from conftest import environment, hexes, in_threads

from microgpt import GPT, Adam, Trainer, Value, evaluate
from microgpt.core.fused import FusedEngine
from microgpt.core.mt19937 import MT19937
from microgpt.engines import engine_class
from microgpt.viz.activations import attention

DOCS = ["emma", "olivia", "ava", "isabella", "sophia", "mia"]
SETTINGS = dict(n_embd=8, n_head=2, n_layer=1, block_size=8)


# ---- threads ----


@pytest.mark.parametrize("engine", ["fused", "graph"])
def test_many_trainers_in_many_threads(engine):
    """Each gives what it gives alone."""
    def run(seed, results):
        trainer = Trainer(DOCS, num_steps=40, seed=seed, engine=engine, **SETTINGS)
        results[seed] = hexes(trainer.run()) + trainer.sample(5)

    alone, together = {}, {}
    for seed in range(8):
        run(seed, alone)
    assert not in_threads(*[lambda seed=seed: run(seed, together) for seed in range(8)])
    assert together == alone


def test_many_threads_on_one_engine():
    """A call that comes while another works is refused, and leaves everything as it was; the rest add up."""
    model = GPT(9, n_embd=64, n_head=4, block_size=16)
    engine = FusedEngine(model)
    tokens = [8, *range(8), *range(7), 8]
    done, refused, lock = [], [], threading.Lock()

    def work():
        for _ in range(15):
            try:
                loss = engine.loss_and_grad(tokens)
            except RuntimeError as error:
                assert str(error) == "this engine is at work in another thread"
                with lock:
                    refused.append(error)
            else:
                with lock:
                    done.append(loss)

    assert not in_threads(*[work] * 6)
    assert len(done) + len(refused) == 90 and len(set(done)) == 1
    other = GPT(9, n_embd=64, n_head=4, block_size=16)
    alone = FusedEngine(other)
    for _ in done:
        alone.loss_and_grad(tokens)
    assert hexes(model.grad) == hexes(other.grad)


def test_many_threads_on_one_trainer():
    """Steps that are taken are whole steps; what is refused changes nothing: the losses are those of one thread."""
    trainer = Trainer(DOCS, num_steps=60, **SETTINGS)
    refused = []

    def work():
        while trainer.step_index < 60:
            try:
                trainer.run(1)
            except RuntimeError as error:
                assert str(error) == "this trainer is at work in another thread"
                refused.append(error)

    assert not in_threads(*[work] * 4)
    expected = Trainer(DOCS, num_steps=60, **SETTINGS)
    expected.run()
    assert trainer.step_index == 60 and hexes(trainer.model.data) == hexes(expected.model.data)


def test_owner_may_end_while_a_call_looks_who_it_is():
    """Whatever object is made may start a collection, and what that runs may let the other thread end its call."""
    said, threshold = set(), gc.get_threshold()
    for first in range(1, 30):
        trainer = Trainer(DOCS, num_steps=4, **SETTINGS)
        begun, end = threading.Event(), threading.Event()

        def work(begun=begun, end=end):
            begun.set()
            end.wait(LIMIT)

        thread = threading.Thread(target=trainer.exclusively, args=(work,))
        thread.start()
        begun.wait(LIMIT)

        def let_end(phase, info, thread=thread, end=end):
            end.set()
            thread.join(LIMIT)

        gc.collect()  # empties the free lists too: objects from there start no collection
        gc.callbacks.append(let_end)
        gc.set_threshold(first, 1000, 1000)
        try:
            trainer.run(0)
            said.add("worked")
        except RuntimeError as error:
            said.add(str(error))
        finally:
            gc.set_threshold(*threshold)
            gc.callbacks.remove(let_end)
            end.set()
            thread.join(LIMIT)
    assert said == {"this trainer is at work in another thread", "worked"}


@pytest.mark.slow
def test_every_call_is_refused_while_another_thread_trains(monkeypatch):
    """Samples and measurements of a model in the middle of a step would be of no model at all."""
    for engine in ("fused", "graph", "reference"):
        trainer = Trainer(DOCS, num_steps=9, engine=engine, **SETTINGS)
        trainer.run(2)
        begun = trainer.generate("e")
        inside, leave, train = threading.Event(), threading.Event(), engine_class(engine).train

        def waiting_train(*arguments, inside=inside, leave=leave, train=train):
            inside.set()
            assert leave.wait(LIMIT)
            train(*arguments)

        monkeypatch.setattr(engine_class(engine), "train", waiting_train)
        thread = threading.Thread(target=trainer.run)
        thread.start()
        assert inside.wait(LIMIT)
        state = trainer.rng.getstate()
        try:
            for call in (
                lambda t: t.step(), lambda t: t.run(1), lambda t: t.sample(1), lambda t: t.sample(1, top_k=2),
                lambda t: t.sample(1, seed=1), lambda t: t.sample_one(top_p=0.5), lambda t: next(t.generate()),
                lambda t: next(begun), lambda t: evaluate(t, DOCS), lambda t: attention(t, "emma"),
                lambda t: t.save("nowhere.safetensors"),
            ):  # fmt: skip
                with pytest.raises(RuntimeError, match="^this trainer is at work in another thread$"):
                    call(trainer)
        finally:
            leave.set()
            thread.join(LIMIT)
        assert trainer.step_index == 9 and trainer.rng.getstate() == state
        twin = Trainer(DOCS, num_steps=9, engine=engine, **SETTINGS)
        twin.run()
        assert trainer.sample(3, top_k=4) == twin.sample(3, top_k=4)


def test_text_begun_before_a_training_step_is_not_continued_after_it():
    """Its first tokens would be one model's, its last another's, and each engine would mix them in its own way."""
    for engine in ("fused", "graph", "reference"):
        trainer = Trainer(DOCS, num_steps=9, engine=engine, **SETTINGS)
        tokens = trainer.generate("e", temperature=2.0)
        trainer.run(2)
        assert next(tokens) is not None
        trainer.sample(1)
        evaluate(trainer, DOCS)
        trainer.step()
        with pytest.raises(RuntimeError, match="the model was trained while generate"):
            next(tokens)


def test_a_trainer_passed_from_thread_to_thread():
    trainer = Trainer(DOCS, num_steps=12, **SETTINGS)
    losses = []
    for _ in range(4):
        assert not in_threads(lambda: losses.extend(trainer.run(3)))
    assert hexes(losses) == hexes(Trainer(DOCS, num_steps=12, **SETTINGS).run())


def test_the_gil_is_free_while_it_computes():
    """A second thread runs Python during one long call: the first in which it is given a processor, too."""
    model = GPT(60, n_embd=128, n_head=4, block_size=64)
    engine = FusedEngine(model)
    tokens, counted, in_a_call, finished = [59, *range(59), 59], 0, [], threading.Event()

    def work():
        while len(in_a_call) < 100 and max(in_a_call, default=0) <= 10:
            before = counted
            engine.loss_and_grad(tokens)
            in_a_call.append(counted - before)
        finished.set()

    switch = sys.getswitchinterval()
    sys.setswitchinterval(1000)  # no thread is asked to release the GIL, so only a thread that releases it shares it
    try:
        thread = threading.Thread(target=work)
        thread.start()
        while not finished.is_set():
            time.sleep(0)  # lets go, and takes it back where the other thread does not hold it
            counted += 1
    finally:
        sys.setswitchinterval(switch)
    thread.join()
    assert max(in_a_call) > 10


# ---- processes ----

needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
FORK = """
import os, sys, warnings
warnings.simplefilter("ignore", DeprecationWarning)  # Python warns of any fork beside threads
def in_child(work):
    pid = os.fork()
    if pid == 0:
        import signal
        signal.alarm(300)
        try:
            work()
        except BaseException as error:
            print(repr(error), file=sys.stderr)
            os._exit(1)
        os._exit(0)
    status = os.waitpid(pid, 0)[1]
    assert status == 0, f"the child ended with {status}"
"""


@needs_fork
def test_fork():
    """A forked child goes on with its copy of everything, the parent with its own."""
    child(FORK + """
from microgpt import Trainer, Value
docs, settings = ["emma", "olivia", "ava"], dict(num_steps=9, n_embd=8, n_head=2, block_size=8)
expected = Trainer(docs, **settings).run()
for engine in ("fused", "graph"):
    trainer, a = Trainer(docs, engine=engine, **settings), Value(2.0)
    losses, b = trainer.run(4), a * 3.0
    def work():
        assert losses + trainer.run(5) == expected
        b.backward()
        assert a.grad == 3.0
    in_child(work)
    assert a.grad == 0.0
    work()
""")


@needs_fork
def test_values_in_what_others_do_at_a_fork():
    """The tape is held while a process is forked, but not against the thread that forks."""
    child(FORK + """
results = []
def at_fork():
    results.append((Value(2.0) * 3.0).data)
# Before microgpt registers what it does: so this comes last before the fork, and first after it.
os.register_at_fork(before=at_fork, after_in_parent=at_fork, after_in_child=at_fork)
from microgpt import Value
def in_the_child():
    assert results == [6.0, 6.0]
    Value(1.0).backward()
in_child(in_the_child)
assert results == [6.0, 6.0]
Value(1.0).backward()
""")


@pytest.mark.slow
@needs_fork
def test_fork_beside_threads_at_work():
    """The graph's memory is whole in the child, and no thread holds it, whatever other threads did when it was forked."""
    child(FORK + """
import threading
from microgpt import Value
stop = threading.Event()
def work():
    a = Value(1.0)
    while not stop.is_set():
        x = a
        for _ in range(20000):
            x = x + 1.0
        for _ in range(20):
            x.backward()
thread = threading.Thread(target=work)
thread.start()
def in_the_child():
    a = Value(2.0)
    b = a * 3.0 + a
    b.backward()
    assert a.grad == 4.0
try:
    for _ in range(50):
        in_child(in_the_child)
finally:
    stop.set()
thread.join()
""")


def test_a_second_interpreter_is_refused():
    """The graph's memory belongs to the process, so one interpreter may use it, and another is told so."""
    name = "_interpreters" if sys.version_info >= (3, 13) else "_xxsubinterpreters"
    output = child(f"""
import {name} as interpreters
from microgpt import Value
Value(1.0)
other = interpreters.create()
code = "try:\\n    from microgpt import Value\\nexcept ImportError as error:\\n    print('refused:', error)"
run = getattr(interpreters, "run_string")
assert run(other, code) is None
interpreters.destroy(other)
assert (Value(2.0) * 3.0).data == 6.0
""")
    assert output.startswith("refused: ") and "interpreter" in output


# ---- copies ----


@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))],
                         ids=["copy", "deepcopy", "pickle"])  # fmt: skip
def test_copies(duplicate):
    """What holds a share of the graph's memory cannot be copied, and says what to do instead; the rest can."""
    model = GPT(5, n_embd=4, n_head=2, block_size=4)
    for engine in ("fused", "graph", "reference"):
        with pytest.raises(TypeError, match=r"^a Trainer cannot be copied or pickled: use save\(\) and Trainer.load\(\)$"):
            duplicate(Trainer(DOCS, num_steps=3, engine=engine, **SETTINGS))
    with pytest.raises(TypeError, match="^a Value is a node of a graph: it cannot be copied or pickled"):
        duplicate(Value(1.0))
    for thing, name in ((model, "GPT"), (Adam(model), "Adam"), (FusedEngine(model), "FusedEngine")):
        with pytest.raises(TypeError, match=f"cannot (be copied or pickled|pickle).*{name}|{name} cannot be copied"):
            duplicate(thing)
    stream = MT19937(7)
    again = duplicate(stream)
    assert [stream.random() for _ in range(5)] == [again.random() for _ in range(5)]
    tokenizer = Trainer(DOCS, num_steps=3, **SETTINGS).tokenizer
    assert duplicate(tokenizer).uchars == tokenizer.uchars


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="needs the C library's getchar by its name")
def test_daemon_threads_that_train_outlive_the_interpreter():
    code = """if True:
        import ctypes, threading, time
        from microgpt import Trainer
        # So many that some of them do not have their turn while the interpreter ends. Seconds without the GIL each.
        for _ in range(32):
            trainer = Trainer(["emma", "olivia"], batch_size=20_000, n_embd=64)
            threading.Thread(target=trainer.run, daemon=True).start()
        time.sleep(0.5)
        # Once nothing is left of the interpreter, wait for a character while the threads go on.
        ctypes.pythonapi.Py_AtExit(ctypes.cast(ctypes.CDLL(None).getchar, ctypes.c_void_p))
        print("the end", flush=True)
    """
    process = subprocess.Popen([sys.executable, "-c", code], env=environment(), stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                               stderr=subprocess.PIPE, text=True)  # fmt: skip
    assert process.stdout.readline() == "the end\n"
    time.sleep(0.5)  # a few of the intervals after which the thread asks for signals
    assert process.poll() is None
    _, errors = process.communicate("\n", timeout=LIMIT)
    assert (process.returncode, errors) == (0, "")
