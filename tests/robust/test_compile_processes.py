"""Compiled functions in threads, forks and pickles; nothing is left behind; a wrong program is caught."""
import gc
import os
import pickle
import sys
import warnings
import weakref

import architectures
import pytest
from compiled_functions import leaves, replayed, warm
from conftest import in_threads

import microgpt
from microgpt import Value, linear

pytestmark = pytest.mark.usefixtures("no_warnings")


def test_a_wrong_program_is_caught_and_not_used():
    params, loss, arguments = architectures.plain(Value, lambda f: microgpt.compile(f))
    caught = 0
    for which in range(6):
        loss.entries.clear()
        tokens = arguments(3)
        loss(*tokens)

        class Damaged(type(loss)):
            pass

        before = loss._compile

        def damaged(entry, signature, args, before=before, which=which):
            done = before(entry, signature, args)
            done.program._damage(which)
            return done

        loss._compile = damaged
        with warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter("always")
            loss(*tokens)
        del loss._compile
        if seen:
            caught += 1
            assert "differs from the function as written" in str(seen[0].message)
            assert not replayed(loss) and "differs" in loss.explain()
    assert caught >= 5


def test_threads_share_a_compiled_function():
    w = leaves(8)
    f = microgpt.compile(lambda i, x: w[i] * x + w[0] * w[1])
    warm(f, 1, 0.5)
    expected = [[(w[i] * x + w[0] * w[1]).data for i in range(8)] for x in (0.5, 1.5)]

    def work():
        for _ in range(300):
            for k, x in enumerate((0.5, 1.5)):
                assert [f(i, x).data for i in range(8)] == expected[k]

    assert in_threads(work, work, work) == []


def test_other_threads_wait_while_a_function_is_traced():
    w = leaves(300)
    v = leaves(20, seed=3)
    expected = (v[0] * v[1] + v[2]).data

    def trace():
        for n in range(2, 30):
            f = microgpt.compile(lambda x: sum(a * b for a in w[:n] for b in w[:n]) * x)
            warm(f, 0.5)

    def compute():
        for _ in range(20000):
            assert (v[0] * v[1] + v[2]).data == expected

    assert in_threads(trace, compute) == []


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_a_forked_child_replays():
    w = leaves(3)
    f = microgpt.compile(lambda x: w[0] * x + w[1])
    warm(f, 0.5)
    before = f(2.0)
    child = os.fork()
    if child == 0:
        try:
            before.backward()
            ok = f(2.0).data == w[0].data * 2.0 + w[1].data and w[0].grad == 2.0
        finally:
            os._exit(0 if ok else 1)
    assert os.waitpid(child, 0)[1] == 0


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_a_child_forked_while_another_thread_traces_goes_on():
    """It can replay, trace and compile, and the tape is not held by a thread that the child does not have."""
    w, shared = leaves(40), leaves(3, seed=4)
    f = microgpt.compile(lambda x: shared[0] * x + shared[1])
    warm(f, 0.5)
    expected, stop, failed = f(2.0).data, [], []

    def trace():
        while not stop:
            warm(microgpt.compile(lambda x: sum(a * b for a in w for b in w) * x), 0.5)

    def fork():
        try:
            for _ in range(10):
                child = os.fork()
                if child == 0:
                    ok = False
                    try:
                        g = warm(microgpt.compile(lambda x: shared[0] * x * x), 0.5)
                        ok = f(2.0).data == expected and g(2.0).data == (shared[0] * 2.0 * 2.0).data
                    finally:
                        os._exit(0 if ok else 1)
                failed.append(os.waitpid(child, 0)[1])
        finally:
            stop.append(True)

    assert in_threads(trace, fork) == []
    assert failed == [0] * 10


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_a_function_that_forks_is_not_traced():
    w = leaves(2)
    parent = os.getpid()

    @microgpt.compile
    def f(x):
        child = os.fork()
        if child == 0:
            os._exit(0)
        os.waitpid(child, 0)
        return w[0] * x

    for _ in range(4):
        assert f(0.5).data == w[0].data * 0.5 and os.getpid() == parent
    assert "fork() in" in f.explain() or "a fork" in f.explain(), f.explain()


def test_pickling_is_by_name_like_a_functions():
    assert pickle.loads(pickle.dumps(compiled_at_top_level)) is compiled_at_top_level
    with pytest.raises((pickle.PicklingError, AttributeError)):
        pickle.dumps(microgpt.compile(lambda x: x))


@microgpt.compile
def compiled_at_top_level(x):
    return Value(x) * 2


@pytest.mark.measures_memory
def test_compilations_leave_nothing_behind():
    class Model:
        def __init__(self):
            self.w = leaves(4)

    def once():
        model = Model()
        f = microgpt.compile(lambda i, x: model.w[i] * x + model.w[0].exp())
        for _ in range(3):
            f(1, 0.5).backward()
        assert replayed(f)
        return weakref.ref(model)

    models = [once() for _ in range(5)]
    gc.collect()
    assert [model() for model in models] == [None] * 5
    for _ in range(500):
        once()
    before = resident()
    for _ in range(1500):
        once()
    assert resident() - before < 400


def resident():
    """The most memory that this process has held, KiB."""
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // (1024 if sys.platform == "darwin" else 1)


def test_threads_replay_while_another_changes_what_the_function_reads():
    """A program that is being replayed is kept until then; a comparison that such a change disturbs is no difference."""
    class Settings:
        scale = 1.0

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for _ in range(4):
            settings, w = Settings(), leaves(40)
            settings.scale = 1.0

            @microgpt.compile
            def f(x):
                total = x * w[0]
                for _ in range(30):
                    total = linear([total * a for a in w], [w])[0] * settings.scale
                return total

            for _ in range(4):
                f(0.5)
            stop = []

            def replay():
                while not stop:
                    f(0.5)

            def change():
                try:
                    for step in range(12):
                        settings.scale = 1.0 + step / 64
                        f(0.5)
                finally:
                    stop.append(True)

            assert in_threads(change, replay, replay) == []
            assert f(0.5).data == f.__wrapped__(0.5).data
    finally:
        sys.setswitchinterval(interval)
