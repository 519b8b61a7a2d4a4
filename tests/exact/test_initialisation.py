"""Objects whose __init__ did not run, failed, or is called again: an exception, never a crash, never another object."""
import copy
import inspect
import math
import pickle
import random

import numpy as np
import pytest

from microgpt import GPT, Adam, document_loss, gpt, reference
from microgpt.core.adam import Moments
from microgpt.core.crew import crew_bytes, join_crew, leave_crew, read_crew, stop_crew
from microgpt.core.documents import TextLines
from microgpt.core.fused import FusedEngine
from microgpt.core.mt19937 import MT19937
from microgpt.core.part import BatchPart


def model():
    return GPT(3, n_embd=4, n_head=2, block_size=4)


ARGUMENTS = {GPT: (3, 4, 2), MT19937: (5,), TextLines: ("a\nb\nc",)}

USES = {
    GPT: [
        lambda m: m.params,
        lambda m: m.state_dict,
        lambda m: m._matrices(),
        lambda m: m.data,
        lambda m: m.grad,
        lambda m: m.generate(),
        lambda m: m._repr_html_(),
        lambda m: document_loss([2, 2], m),
        lambda m: gpt(0, 0, [[]], [[]], m),
        lambda m: Adam(m),
        lambda m: FusedEngine(m),
        lambda m: crew_bytes(m, 1),
    ],
    Adam: [
        lambda a: a.step(),
        lambda a: a._step(True),
        lambda a: a.m,
        lambda a: a.v,
        lambda a: FusedEngine(model()).train([[2, 2]], a, []),
    ],
    FusedEngine: [
        lambda e: e.loss_and_grad([2, 2]),
        lambda e: e.position_losses([2, 2]),
        lambda e: e.train([[2, 2]], Adam(model()), []),
        lambda e: e.train(["a"], Adam(model()), [], {"a": 0}),
        lambda e: e.probabilities([2]),
        lambda e: e.sample(MT19937(1)),
        lambda e: e._sparse_layers(),
        lambda e: BatchPart(e, 2),
        lambda e: join_crew(e, bytearray(99999), 0, 1, 1, Adam(model())),
        lambda e: read_crew(e, Adam(model())),
        stop_crew,
        leave_crew,
    ],
    BatchPart: [lambda p: p.capacity, lambda p: p.losses(["a"], {"a": 0}, 1), lambda p: p.add_gradients(0, 1)],
    MT19937: [
        lambda s: s.random(),
        lambda s: s.gauss(),
        lambda s: s.shuffle([1, 2, 3]),
        lambda s: s.shuffle(TextLines("a\nb")),
        lambda s: s.choice_index([1.0, 2.0]),
        lambda s: s.getstate(),
        lambda s: FusedEngine(model()).sample(s),
        lambda s: GPT(3, rng=s),
        lambda s: copy.copy(s),
    ],
    TextLines: [len, list, lambda x: next(iter(x)), lambda x: x[0], lambda x: x.copy(), lambda x: MT19937(1).shuffle(x)],
}
CLASSES = pytest.mark.parametrize("cls", USES, ids=lambda cls: cls.__name__)


def new(cls):
    return cls.__new__(cls)


def subclass_that_forgets(cls):
    return type("Mine", (cls,), {"__init__": lambda self: None})()


def first_init_failed(cls):
    self = cls.__new__(cls)
    for arguments in ((None,), ("a b",), (math.nan,), (object(),)):  # none of which is right for any class
        with pytest.raises((TypeError, ValueError)):
            self.__init__(*arguments)
    return self


@CLASSES
@pytest.mark.parametrize("make", [new, subclass_that_forgets, first_init_failed])
def test_uninitialised_object_raises(cls, make):
    for use in USES[cls]:
        with pytest.raises(RuntimeError, match=f"^{cls.__name__}.__init__ has not been called$"):
            use(make(cls))


@CLASSES
def test_uninitialised_object_has_a_repr_and_plain_attributes(cls):
    for make in (new, subclass_that_forgets):
        thing = make(cls)
        assert type(thing).__name__ in repr(thing)
        assert thing == thing and isinstance(hash(thing), int)
        for name in dir(cls):
            if not callable(getattr(cls, name)):
                try:
                    getattr(thing, name)
                except RuntimeError:
                    pass


@CLASSES
def test_uninitialised_object_is_neither_copied_nor_pickled(cls):
    for make in (new, subclass_that_forgets):
        for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
            with pytest.raises((TypeError, RuntimeError, pickle.PicklingError)):
                pickle.dumps(make(cls), protocol)
        for duplicate in (copy.copy, copy.deepcopy):
            with pytest.raises((TypeError, RuntimeError)):
                duplicate(make(cls))


def initialised(cls):
    made = {Adam: lambda: (model(),), FusedEngine: lambda: (model(),), BatchPart: lambda: (FusedEngine(model()), 2)}
    arguments = made.get(cls, lambda: ARGUMENTS[cls])()
    return cls(*arguments), arguments


@CLASSES
def test_second_init_is_refused_and_changes_nothing(cls):
    thing, arguments = initialised(cls)
    described = repr(thing)
    small = GPT(2, 1, 1, 0, 1)
    other = {GPT: (9,), Adam: (small,), FusedEngine: (small,), BatchPart: (FusedEngine(small), 1), MT19937: (6,), TextLines: ("d",)}[cls]
    state = {GPT: lambda: thing.data.tolist(), MT19937: lambda: thing.getstate(), TextLines: lambda: list(thing),
             BatchPart: lambda: thing.starts}  # fmt: skip
    before = state.get(cls, lambda: thing.model)()
    for again in (arguments, other):
        with pytest.raises(TypeError, match=f"^an? {cls.__name__} is initialised once$"):
            thing.__init__(*again)
    assert repr(thing) == described and state.get(cls, lambda: thing.model)() == before


@CLASSES
def test_subclass_may_have_arguments_of_its_own(cls):
    class Mine(cls):
        def __init__(self, nothing, *, name):
            super().__init__(*initialised(cls)[1])
            self.name = name

    thing = Mine(None, name="x")
    assert thing.name == "x"
    for use in USES[cls]:
        try:
            use(thing)
        except (TypeError, ValueError) as error:
            assert "has not been called" not in str(error)  # a copy needs arguments; another model's Adam is refused


def test_adam_is_not_exchanged_while_it_trains():
    """The documents' iterator runs during training: what it does to the Adam must not free its moments."""
    m = GPT(27, 64)
    engine, adam, small = FusedEngine(m), Adam(m), GPT(2, 1, 1, 0, 1)
    refused = []

    def documents():
        for _ in range(3):
            yield [26, 1, 26]
            try:
                adam.__init__(small)
            except TypeError as error:
                refused.append(str(error))

    losses = []
    engine.train(documents(), adam, losses)
    assert len(losses) == adam.step_index == 3 and len(refused) == 3
    assert adam.model is m and len(adam.m) == m.num_params


class Drawing:
    """An rng that runs this before each draw."""

    def __init__(self, before):
        self.before, self.rng = before, random.Random(42)

    def gauss(self, mu, sigma):
        self.before()
        return self.rng.gauss(mu, sigma)


def test_a_model_is_not_seen_before_it_is_whole():
    m = GPT.__new__(GPT)
    seen = []

    def look():
        try:
            assert m.data is None
        except RuntimeError as error:
            seen.append(str(error))

    m.__init__(3, 4, 2, rng=Drawing(look))
    assert set(seen) == {"GPT.__init__ has not been called"} and len(seen) == m.num_params
    assert m.data.tolist() == GPT(3, 4, 2).data.tolist()


def test_init_that_calls_init():
    m = GPT.__new__(GPT)

    def again():
        if repr(m).startswith("<"):
            m.__init__(2, 2, 1)

    with pytest.raises(TypeError, match="a GPT is initialised once"):
        m.__init__(3, 4, 2, rng=Drawing(again))
    assert m.data.tolist() == GPT(2, 2, 1).data.tolist()


def test_init_can_be_repeated_after_it_failed():
    m, lines = GPT.__new__(GPT), TextLines.__new__(TextLines)
    with pytest.raises(ZeroDivisionError):
        m.__init__(3, 4, 2, rng=Drawing(lambda: 1 / 0))
    m.__init__(3, 4, 2)
    assert m.data.tolist() == GPT(3, 4, 2).data.tolist()
    with pytest.raises(ValueError):
        lines.__init__("a\nb c")
    lines.__init__("a\nb")
    assert list(lines) == ["a", "b"]


def test_a_state_initialises_a_stream():
    stream, rng = MT19937.__new__(MT19937), random.Random(3)
    stream.setstate(rng.getstate())
    assert stream.random() == rng.random()


def test_moments_of_impossible_sizes():
    for n in (-1, -5, -9, -(2**62)):
        with pytest.raises(ValueError):
            Moments(n)
    with pytest.raises(MemoryError):
        Moments(2**62)
    assert len(memoryview(Moments(0))) == 0


def test_numbers_of_no_model():
    doubles = type(memoryview(model().data.base).obj)
    with pytest.raises(BufferError):
        memoryview(doubles())


def test_edited_params_do_not_change_the_model():
    m = model()
    expected = [p.data for p in GPT(3, n_embd=4, n_head=2, block_size=4).params]
    m.params.clear()
    assert [p.data for matrix in m.state_dict.values() for row in matrix for p in row] == expected
    assert FusedEngine(m).loss_and_grad([2, 1, 2]) == document_loss([2, 1, 2], model()).data
    Adam(m).step()


def test_reference_and_compiled_models_are_described_alike():
    assert repr(reference.GPT(3, n_embd=4)) == repr(GPT(3, n_embd=4))

    class Mine(reference.GPT):
        pass

    assert repr(Mine(3, n_embd=4)).startswith("Mine(vocab_size=3, n_embd=4, ")


def test_step_index_stays_within_what_can_be_counted():
    adam = Adam(model())
    for wrong, error in ((2**62 + 1, ValueError), (2**63, OverflowError), (1.5, TypeError), ("1", TypeError)):
        with pytest.raises(error):
            adam.step_index = wrong
    for right in (0, -3, np.uint8(200), 2**62):
        adam.step_index = right
        assert adam.step_index == right
    adam.step()
    assert adam.step_index == 2**62 + 1


# Name -> default of every parameter; reference.py has the same for GPT and Adam.
SIGNATURES = {
    GPT: "(vocab_size, n_embd=16, n_head=4, n_layer=1, block_size=16, init_std=0.08, rng=None)",
    Adam: "(params, learning_rate=0.01, beta1=0.85, beta2=0.99, eps=1e-08, num_steps=Ellipsis, schedule='linear', warmup=0, "
          "weight_decay=0.0, clip=None)",
    FusedEngine: "(model)",
    MT19937: "(seed=42)",
    TextLines: "(text)",
}


@pytest.mark.parametrize("kind", SIGNATURES)
def test_signature_and_docstring_of_a_compiled_class(kind):
    assert str(inspect.signature(kind)) == SIGNATURES[kind]
    assert kind.__doc__.lstrip()[:2] != "--" and kind.__name__ + "(" not in kind.__doc__.split("\n")[0]


@pytest.mark.parametrize("kind, of_reference", [(GPT, reference.GPT), (Adam, reference.Adam)])
def test_signature_is_that_of_the_reference(kind, of_reference):
    ours, theirs = (
        [(p.name, p.default) for p in inspect.signature(k).parameters.values()] for k in (kind, of_reference)
    )
    assert ours == theirs
