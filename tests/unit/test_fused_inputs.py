"""What the fused engine is given: documents of an iterator that fails, characters, texts and numbers of other types. It
takes what the graph takes, and never believes a length."""
import random
import sys
import types

import numpy as np
import pytest
from conftest import hexes
from lying_lists import Lying
from pairs import Pair, shape

from microgpt import GPT, Adam, Tokenizer, document_loss
from microgpt.core.fused import FusedEngine
from microgpt.core.mt19937 import MT19937

CONFIG = shape(6, 8, 2, 1, 8)
DOCUMENTS = [[5, k % 5, (k * k) % 5, 5] for k in range(300)]
AT_ONCE = 256  # documents that are asked for before the first is trained on


class Stopped(Exception):
    pass


class Exhausted(StopIteration):
    pass


def graph_run(documents, model, losses):
    """What the graph does: each document is trained on before the next one is asked for."""
    adam = Adam(model, num_steps=300)
    for tokens in documents:
        loss = document_loss(tokens, model)
        loss.backward()
        losses.append(loss.data)
        del loss
        adam.step()


def fused_run(documents, model, losses):
    FusedEngine(model).train(documents, Adam(model, num_steps=300), losses)


def failing(n, error):
    """n documents, then this error, from an iterator's __next__ itself."""

    class Iterator:
        def __init__(self):
            self.left = n

        def __iter__(self):
            return self

        def __next__(self):
            if self.left == 0:
                raise error
            self.left -= 1
            return DOCUMENTS[self.left]

    return Iterator()


ERRORS = [Stopped("x"), KeyboardInterrupt(), SystemExit(3), MemoryError(), StopIteration(), Exhausted(), GeneratorExit(),
          StopAsyncIteration(), RuntimeError("generator raised StopIteration")]  # fmt: skip


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("n", [0, 1, 5, AT_ONCE - 1, AT_ONCE, AT_ONCE + 1])
def test_documents_given_before_the_iterator_raises_are_trained_on(n, error):
    results = []
    for run in (graph_run, fused_run):
        model, losses, caught = GPT(**CONFIG), [], None
        try:
            run(failing(n, error), model, losses)
        except BaseException as raised:
            caught = raised
        assert caught is (None if isinstance(error, StopIteration) else error)
        assert not model.grad.any()
        results.append((hexes(losses), model.data.tobytes()))
    assert results[0] == results[1] and len(results[0][0]) == n


BAD = {
    "an id beyond the vocabulary": [5, 6, 5],
    "text": "ab",
    "nothing": None,
    "a token": [5],
    "no tokens": [],
    "raises": type("Raises", (list,), {"__getitem__": lambda self, index: 1 / 0})([5, 1, 5]),
    "raises StopIteration": type("Stops", (list,), {"__getitem__": lambda self, i: next(iter(()))})([5, 1, 5]),
}


@pytest.mark.parametrize("bad", BAD)
@pytest.mark.parametrize("n", [0, 3, AT_ONCE, AT_ONCE + 6])
def test_documents_before_a_bad_one_are_trained_on(n, bad):
    results = []
    for run in (graph_run, fused_run):
        model, losses = GPT(**CONFIG), []
        documents = iter([*DOCUMENTS[:n], BAD[bad], *DOCUMENTS[:3]])
        with pytest.raises((ArithmeticError, AttributeError, LookupError, StopIteration, TypeError, ValueError)):
            run(documents, model, losses)
        results.append((hexes(losses), model.data.tobytes()))
    assert results[0] == results[1] and len(results[0][0]) == n


def test_an_error_in_training_comes_before_a_later_one_of_the_iterator():
    """A probability of 0 in the third document: the graph would not have asked for the fourth."""
    for run in (graph_run, fused_run):
        model, losses = GPT(**{**CONFIG, "n_layer": 0}), []
        model.data[:] = 0.1
        lm_head = model.data[-6 * 8 :].reshape(6, 8)
        lm_head[4], lm_head[3] = -1e5, 1e5  # token 3 follows whatever comes, token 4 never

        def documents():
            yield [5, 3]
            yield [5, 3]
            yield [5, 4]
            raise Stopped

        with pytest.raises(ValueError, match="math domain error|expected a positive input"):
            run(documents(), model, losses)
        assert len(losses) == 2


def test_an_iterator_that_uses_the_engine_is_refused_and_loses_nothing():
    pair, alone = Pair(CONFIG), Pair(CONFIG)
    adam, losses, expected = Adam(pair.model, num_steps=300), [], []

    def documents():
        yield from DOCUMENTS[:3]
        pair.engine.loss_and_grad(DOCUMENTS[3])

    with pytest.raises(RuntimeError, match="this engine is at work"):
        pair.engine.train(documents(), adam, losses)
    alone.engine.train(DOCUMENTS[:3], Adam(alone.model, num_steps=300), expected)
    assert hexes(losses) == hexes(expected) and len(losses) == 3 == adam.step_index
    assert pair.model.data.tobytes() == alone.model.data.tobytes()
    assert pair.engine.loss_and_grad(DOCUMENTS[3]) == alone.engine.loss_and_grad(DOCUMENTS[3])


def test_an_iterator_that_changes_losses_and_settings_does_no_harm():
    model = GPT(**CONFIG)
    adam, losses = Adam(model, num_steps=300), []

    def documents():
        for tokens in DOCUMENTS:
            losses.clear()
            adam.num_steps = adam.num_steps + 1
            model.params.clear()
            tokens = list(tokens)
            yield tokens
            tokens.clear()

    FusedEngine(model).train(documents(), adam, losses)
    assert adam.step_index == 300 and adam.num_steps == 600 and 0 < len(losses) <= AT_ONCE


# ---- characters ----


def text_losses(ids, texts, engine=None, model=None):
    model = model or GPT(**CONFIG)
    losses = []
    (engine or FusedEngine(model)).train(texts, Adam(model, num_steps=10), losses, ids)
    return hexes(losses)


@pytest.mark.parametrize("change", [
    lambda ids: ids.update(a=1, b=0), lambda ids: ids.update(é=2, a=3), lambda ids: ids.update({"\u0394": 0}),
    lambda ids: (ids.clear(), ids.update({"b": 0, "a": 1, "é": 2, "\u0394": 3})), lambda ids: ids.update(z=4),
])  # fmt: skip
def test_a_dict_of_characters_that_has_changed_counts(change):
    texts = ["ab", "ba\u0394", "éa"]
    ids = {"a": 0, "b": 1, "é": 2, "\u0394": 3}
    model = GPT(**CONFIG)
    engine = FusedEngine(model)
    data = model.data.copy()
    assert text_losses(ids, texts, engine, model) == text_losses(dict(ids), texts)
    change(ids)
    model.data[:] = data
    assert text_losses(ids, texts, engine, model) == text_losses(dict(ids), texts)
    del ids["a"]
    with pytest.raises(ValueError, match=r"character 'a' \(U\+0061\) at index 0 is not in the vocabulary"):
        text_losses(ids, texts, engine, model)


def test_another_dict_at_the_same_address_counts():
    model = GPT(**CONFIG)
    engine = FusedEngine(model)
    for k in range(50):  # each is freed before the next is made
        data = model.data.copy()
        ids = dict(zip("abcde", [(k + i) % 5 for i in range(5)]))
        assert text_losses(ids, ["ab", "cde"], engine, model) == text_losses(ids, ["ab", "cde"])
        del ids
        model.data[:] = data * 0 + GPT(**CONFIG).data


def test_token_ids_in_a_dict_of_any_whole_type():
    expected = text_losses({"a": 0, "b": 1, "\u0394": 2}, ["ab\u0394"])
    for as_type in (np.uint8, np.int64, np.int8):
        assert text_losses({"a": as_type(0), "b": as_type(1), "\u0394": as_type(2)}, ["ab\u0394"]) == expected
    for wrong in (1.0, "1", None, 2**70):
        for ch in "a\u0394":
            with pytest.raises((TypeError, OverflowError)):
                text_losses({"a": 0, "b": 1, ch: wrong}, ["ab\u0394"])
    for wrong in (5, 6, -2, 2**62):  # 5 is BOS
        for ch in "a\u0394":
            with pytest.raises(ValueError, match="is not in the vocabulary"):
                text_losses({"b": 1, ch: wrong}, ["\u0394a"])


class Text(str):
    """Its own methods lie; the characters are what they are."""

    def __len__(self):
        return sys.maxsize

    def __str__(self):
        return "b"

    def __getitem__(self, index):
        return "b"


@pytest.mark.parametrize("as_type", [np.str_, Text, type("Plain", (str,), {})])
def test_documents_of_subclasses_of_str(as_type):
    texts = ["abba", "", "c\u0394", "abcabcabcabc"]
    tokenizer = Tokenizer(texts)
    config = {**CONFIG, "vocab_size": tokenizer.vocab_size}
    given = [as_type(text) for text in texts]
    results = []
    for docs in (texts, given):
        model, losses = GPT(**config), []
        FusedEngine(model).train(docs, Adam(model, num_steps=300), losses, tokenizer.ids)
        results.append(hexes(losses))
    model, losses = GPT(**config), []
    graph_run([tokenizer.encode(doc) for doc in given], model, losses)
    assert results[0] == results[1] == hexes(losses)
    assert text_losses({"a": 0}, np.array(["a", "aa"])) == text_losses({"a": 0}, ["a", "aa"])


@pytest.mark.parametrize("wrong", [b"ab", 3, None, ["a"], np.array("ab")])
def test_documents_are_str_where_there_are_characters(wrong):
    with pytest.raises(TypeError, match="a text must be a str, not"):
        text_losses({"a": 0}, [wrong])


# ---- lengths and numbers ----


@pytest.mark.parametrize("length", [0, 1, 2, 3, 4, 8, 9, 10**9, 2**61, 2**62 - 1, sys.maxsize])
def test_lengths_are_not_believed(length):
    pair = Pair(CONFIG)
    engine, others = pair.engine, [b"\x55" * 64 for _ in range(1000)]
    for call in (
        lambda: engine.loss_and_grad(Lying([5, 1, 5], length)),
        lambda: engine.position_losses(Lying([5, 1, 5], length)),
        lambda: engine.train([Lying([5, 1, 5], length)], Adam(pair.model), []),
        lambda: engine.probabilities(Lying([5, 1, 5], length)),
        lambda: engine.sample(MT19937(1), prompt=Lying([1, 2, 3], length)),
    ):
        try:
            call()
        except (IndexError, ValueError, ZeroDivisionError):
            pass
    if length > 8:  # 1 + sys.maxsize is negative in 64 bits, and fits every block
        with pytest.raises(ValueError, match=f"^{length + 1} tokens do not fit the block of 8$"):
            engine.sample(MT19937(1), prompt=Lying([1] * 100_000, length))
    assert others == [b"\x55" * 64] * 1000
    assert engine.sample(MT19937(1)) == Pair(CONFIG).engine.sample(MT19937(1)) or length in (2, 3)  # a step was taken


def test_numbers_of_any_type():
    pair = Pair(CONFIG)
    engine = pair.engine
    expected = engine.sample(MT19937(1), 2.0, 3, [1, 2])
    for as_type in (np.int8, np.uint8, np.uint64, int):
        prompt = [as_type(1), as_type(2)]
        assert engine.sample(MT19937(1), as_type(2), as_type(3), prompt) == expected
        assert engine.sample(MT19937(1), 2, as_type(3), np.array(prompt)) == expected
    for temperature in (np.float64(0.3), np.float32(0.3), np.float16(0.3), np.int8(2), True):
        assert engine.sample(MT19937(1), temperature) == engine.sample(MT19937(1), float(temperature))
        ours = hexes(engine.probabilities([5, 1], temperature))
        assert ours == hexes(engine.probabilities([5, 1], float(temperature)))
    for most in (-1, 0, -(2**63), -(10**30)):
        assert engine.sample(MT19937(1), max_tokens=most) == []
    for most in (8, 2**63 - 1, 2**63, 10**30):
        assert engine.sample(MT19937(1), max_tokens=most) == engine.sample(MT19937(1))
    for wrong in (2.5, 2.0, "2", np.float64(2)):
        with pytest.raises(TypeError):
            engine.sample(MT19937(1), max_tokens=wrong)
        with pytest.raises(TypeError):
            engine.loss_and_grad([5, wrong, 5])
    with pytest.raises(TypeError):
        engine.sample(MT19937(1), "0.5")


def test_a_failed_call_leaves_the_engine_free():
    pair = Pair(CONFIG)
    for call in (
        lambda: pair.engine.train(3, Adam(pair.model), []),
        lambda: pair.engine.train([[5, 1, 5]], Adam(GPT(**CONFIG)), []),
        lambda: pair.engine.train(["a"], Adam(pair.model), [], {"a": "b"}),
        lambda: pair.engine.train(types.SimpleNamespace(), Adam(pair.model), []),
        lambda: pair.engine.sample(MT19937.__new__(MT19937)),
    ):
        with pytest.raises((TypeError, ValueError, RuntimeError)):
            call()
        pair.engine.loss_and_grad([5, 1, 5])


def test_a_sample_draws_from_the_stream_as_one_step():
    """A generator shared with the prompt's own Python code keeps a state that some call left it in."""
    pair, stream = Pair(CONFIG), MT19937(4)

    class Drawing(list):
        def __getitem__(self, index):
            stream.random()
            return list.__getitem__(self, index)

    drawn = pair.engine.sample(stream, prompt=Drawing([1, 2]))
    expected = MT19937(4)
    expected.random(), expected.random()
    assert drawn == pair.engine.sample(expected, prompt=[1, 2]) and stream.getstate() == expected.getstate()


@pytest.mark.slow
def test_random_configurations_in_batches_of_work():
    """Long documents end a batch before it has AT_ONCE of them."""
    config = shape(9, 64, 4, 2, 256)
    rng = random.Random(3)
    documents = [[8, *(rng.randrange(8) for _ in range(255)), 8] for _ in range(70)]
    results = []
    for at_once in (True, False):
        model, losses = GPT(**config), []
        engine, adam = FusedEngine(model), Adam(model, num_steps=70)
        for part in [documents] if at_once else [[d] for d in documents]:
            engine.train(part, adam, losses)
        results.append((hexes(losses), model.data.tobytes()))
    assert results[0] == results[1] and len(losses) == 70
