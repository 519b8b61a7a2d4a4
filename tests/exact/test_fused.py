"""The fused engine against the readable reference, bit for bit: losses, gradients, parameters, samples, and bad calls."""
import _thread
import itertools
import math
import random
import threading
import time
from functools import cache

import numpy as np
import oracle
import pytest
from children import LIMIT
from conftest import hexes
from pairs import Pair, document, ids, shape

from microgpt import reference
from microgpt.core import simd
from microgpt.core.adam import Adam
from microgpt.core.fused import FusedEngine
from microgpt.core.model import GPT
from microgpt.core.mt19937 import MT19937

ISAS = simd.simd_info()["supported"]

SHAPES = [
    shape(27, 16, 4, 1, 16),   # the script's
    shape(27, 16, 4, 2, 16),
    shape(2, 1, 1, 1, 1),      # one letter, one number, one position
    shape(1, 2, 1, 1, 4),      # nothing but BOS
    shape(5, 3, 3, 1, 7),      # head_dim 1
    shape(11, 6, 2, 3, 9),     # head_dim 3, three layers
    shape(30, 15, 3, 1, 20),   # head_dim 5, nothing a multiple of anything
    shape(33, 20, 1, 1, 17),   # one head
    shape(9, 8, 2, 0, 5),      # no layer at all
    shape(70, 18, 2, 1, 40),   # head_dim 9, more panels of positions than a tile takes
    shape(6, 32, 4, 1, 35),
]

SLOW_SHAPES = (0, 1, 6, 7, 9, 10)  # half a second of the reference or more; the script's own: test_golden.py
BY_SHAPE = pytest.mark.parametrize(
    "index",
    [pytest.param(i, marks=pytest.mark.slow if i in SLOW_SHAPES else (), id=ids(s)) for i, s in enumerate(SHAPES)],
)


@cache
def expected_gradient(index, length):
    """The reference's loss and gradients for a document of that length, the same for every instruction set."""
    config = SHAPES[index]
    tokens = document(random.Random(100 * index + length), config["vocab_size"], length)
    twin = reference.GPT(**config, init_std=0.5, rng=random.Random(1))
    loss = oracle.loss_and_grad(twin, tokens)
    return tokens, loss.hex(), hexes(p.grad for p in twin.params)


@BY_SHAPE
def test_gradients_of_every_document_length(isa, index):
    config = SHAPES[index]
    block_size = config["block_size"]
    lengths = {0, 1, 3, 6, 7, 8, block_size - 1, block_size + 2} if block_size <= 16 else {block_size - 1}
    if index == 1:  # as the one before it, but for the layers
        lengths = {0, 7, block_size - 1}
    model = GPT(**config, init_std=0.5, rng=random.Random(1))
    engine = FusedEngine(model)
    for length in sorted(length for length in lengths if length <= block_size + 2):
        tokens, loss, grad = expected_gradient(index, length)
        model.grad[:] = 0.0
        assert engine.loss_and_grad(tokens).hex() == loss
        assert hexes(model.grad) == grad


@pytest.mark.parametrize("seed", [0, 1, 2, 3, 4, pytest.param(5, marks=pytest.mark.slow)])
def test_training_random_configurations(isa, seed):
    rng = random.Random(seed)
    n_head = rng.choice([1, 2, 3, 4])
    config = shape(rng.randint(2, 40), n_head * rng.randint(1, 6), n_head, rng.randint(1, 2), rng.randint(1, 20))
    pair = Pair(config, seed, init_std=0.3)
    steps = 4
    adam = Adam(pair.model, num_steps=steps)
    twin_adam = reference.Adam(pair.twin, num_steps=steps)
    documents = [document(rng, config["vocab_size"], rng.randint(0, 12)) for _ in range(steps)]
    losses, expected = [], []
    pair.engine.train(documents, adam, losses)
    for tokens in documents:
        expected.append(oracle.loss_and_grad(pair.twin, tokens))
        twin_adam.step()
    assert hexes(losses) == hexes(expected)
    pair.check_data()
    assert not pair.model.grad.any()


def test_instruction_sets_agree_on_a_larger_model():
    """Against each other, since the reference takes too long: several panels, blocks of rows, a big vocabulary."""
    config = shape(601, 48, 3, 2, 150)
    rng = random.Random(5)
    documents = [document(rng, 601, length) for length in (200, 149, 64, 9)]
    results = []
    for isa in ISAS:
        before = simd._use(isa)
        try:
            model = GPT(**config, rng=random.Random(3))
            engine = FusedEngine(model)
            losses = [engine.loss_and_grad(tokens) for tokens in documents]
            results.append((hexes(losses), model.grad.tobytes()))
        finally:
            simd._use(before)
    assert all(result == results[0] for result in results)


def test_gradients_are_added(isa):
    pair = Pair(shape(8, 6, 2, 1, 8))
    first, second = [7, 1, 2, 2, 7], [7, 0, 7]
    pair.loss_and_grad(first)
    pair.loss_and_grad(second)
    # The sum begins at a gradient set by the user, whatever its sign of zero.
    pair.model.grad[:] = -0.0
    for p in pair.twin.params:
        p.grad = -0.0
    pair.loss_and_grad(first)


def test_data_changed_between_calls_counts(isa):
    pair = Pair(shape(8, 8, 2, 1, 8))
    tokens = [7, 1, 2, 7]
    before = pair.loss_and_grad(tokens)
    for index in range(0, pair.model.num_params, 3):
        pair.set(index, index % 13 / 13 - 0.5)
    assert pair.loss_and_grad(tokens) != before


def test_long_documents_are_cut_to_the_block(isa):
    pair = Pair(shape(6, 4, 2, 1, 4))
    pair.loss_and_grad([5, 0, 1, 2, 3, 4, 4, 4, 5])


def test_engines_in_threads_give_the_bits_they_give_alone():
    config = shape(27, 16, 4, 1, 16)
    rng = random.Random(8)
    documents = [document(rng, 27, rng.randint(1, 14)) for _ in range(300)]

    def run(results, index):
        model = GPT(**config, rng=random.Random(index))
        losses = []
        FusedEngine(model).train(documents, Adam(model, num_steps=300), losses)
        results[index] = hexes(losses), model.data.tobytes()

    alone, together = {}, {}
    for index in range(3):
        run(alone, index)
    threads = [threading.Thread(target=run, args=(together, index)) for index in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert together == alone and len(together) == 3


def test_one_engine_in_two_threads_is_refused():
    model = GPT(20, n_embd=64, n_head=4, n_layer=4, block_size=256)
    engine = FusedEngine(model)
    tokens = document(random.Random(0), 20, 255)
    refused, inside, was_refused = [], threading.Event(), threading.Event()

    class Tokens(list):
        def __getitem__(self, index):
            inside.set()
            assert was_refused.wait(LIMIT)  # also where this thread would be done before the other one is given a processor
            return list.__getitem__(self, index)

    thread = threading.Thread(target=engine.loss_and_grad, args=(Tokens(tokens),))
    thread.start()
    inside.wait()
    while thread.is_alive():
        try:
            engine.loss_and_grad([19, 19])
        except RuntimeError as error:
            refused.append(str(error))
            was_refused.set()
    thread.join()
    assert refused and set(refused) == {"this engine is at work in another thread"}


def interrupted(call, has_begun=lambda: True):
    """Run a call that takes long, and press Ctrl-C soon, but not before it has begun."""

    def interrupt():
        time.sleep(0.1)
        while not has_begun():
            time.sleep(0.01)
        _thread.interrupt_main()

    thread = threading.Thread(target=interrupt)
    with pytest.raises(KeyboardInterrupt):
        thread.start()
        call()
    thread.join()


def test_ctrl_c_between_documents():
    config = shape(27, 16, 4, 1, 16)
    pair, alone = Pair(config), Pair(config)
    rng = random.Random(2)
    documents = [document(rng, 27, rng.randint(1, 14)) for _ in range(50)]
    adam, losses = Adam(pair.model, learning_rate=1e-7, num_steps=10**9), []
    interrupted(lambda: pair.engine.train(itertools.cycle(documents), adam, losses), lambda: adam.step_index)
    assert len(losses) == adam.step_index > 0
    twin_adam, twin_losses = Adam(alone.model, learning_rate=1e-7, num_steps=10**9), []
    alone.engine.train(itertools.islice(itertools.cycle(documents), len(losses)), twin_adam, twin_losses)
    assert losses == twin_losses
    assert pair.model.data.tobytes() == alone.model.data.tobytes()
    assert adam.m.tobytes() == twin_adam.m.tobytes() and adam.v.tobytes() == twin_adam.v.tobytes()
    assert not pair.model.grad.any()


@pytest.mark.slow
@pytest.mark.parametrize("grad", [0.0, 2.5])
def test_ctrl_c_within_a_document(grad):
    model = GPT(50, n_embd=128, n_head=2, n_layer=12, block_size=1024)
    engine, adam = FusedEngine(model), Adam(model)
    tokens = document(random.Random(4), 50, 1023)
    model.grad[:] = grad
    data, losses = model.data.tobytes(), []
    for call in (
        lambda: engine.train(itertools.repeat(tokens), adam, losses),
        lambda: [engine.loss_and_grad(tokens) for _ in itertools.count()],
        lambda: [engine.sample(MT19937(1), max_tokens=1023) for _ in itertools.count()],
        lambda: [engine.probabilities(tokens[:1024]) for _ in itertools.count()],
    ):
        before = model.grad.tobytes()
        interrupted(call)
        assert losses == [] and adam.step_index == 0
        assert model.data.tobytes() == data and model.grad.tobytes() == before
        assert not adam.m.any() and not adam.v.any()


# ---- sampling ----


@BY_SHAPE
def test_samples(isa, index):
    shape = SHAPES[index]
    pair = Pair(shape, init_std=0.2)
    stream, rng = MT19937(3), random.Random(3)
    prompt = [0] if shape["vocab_size"] > 1 and shape["block_size"] > 2 else []
    for temperature, max_tokens, given in [(0.5, None, []), (1, 3, prompt), (2.5, None, prompt * 2), (0.01, 0, [])]:
        for _ in range(2):
            ours = pair.engine.sample(stream, temperature, max_tokens, given)
            assert ours == oracle.sample(pair.twin, rng, temperature, max_tokens, given)
    assert stream.getstate() == rng.getstate()


def test_probabilities(isa):
    pair = Pair(shape(11, 6, 2, 2, 20))
    tokens = [10, 1, 2, 3, 3, 9, 0, 0, 5, 10, 2]
    keys, values = [[], []], [[], []]
    for pos_id, token_id in enumerate(tokens):
        logits = reference.gpt(token_id, pos_id, keys, values, pair.twin)
        expected = reference.softmax(logits)
        assert hexes(pair.engine.probabilities(tokens[: pos_id + 1])) == hexes(p.data for p in expected)
        expected = reference.softmax([l / 0.3 for l in logits])
        assert hexes(pair.engine.probabilities(tokens[: pos_id + 1], 0.3)) == hexes(p.data for p in expected)


def test_sampling_errors():
    pair = Pair(shape(6, 4, 2, 1, 4))
    stream = MT19937(1)
    with pytest.raises(ZeroDivisionError):
        pair.engine.sample(stream, 0.0)
    with pytest.raises(ValueError, match="5 tokens do not fit the block of 4"):
        pair.engine.sample(stream, 0.5, prompt=[0, 1, 2, 3])
    with pytest.raises(ValueError, match="token 6 is not in the vocabulary"):
        pair.engine.sample(stream, 0.5, prompt=[6])
    with pytest.raises(ValueError, match="no tokens"):
        pair.engine.probabilities([])
    # nan from the second position on: whatever the first draw took from the stream goes back into it.
    for i in range(4):
        pair.set(pair.offset("lm_head", 5, i), 0.0)
        pair.set(pair.offset("wpe", 1, i), math.nan)
    for seed in range(20):
        stream = MT19937(seed)
        state = stream.getstate()
        try:
            pair.engine.sample(stream, 0.5)
        except ValueError as error:
            assert str(error) == "Total of weights must be finite"
            assert stream.getstate() == state
            return
    raise AssertionError("no first draw was anything but BOS")


def test_model_is_kept_alive():
    engine = FusedEngine(GPT(5, n_embd=4, n_head=2))
    assert isinstance(engine.loss_and_grad([4, 1, 4]), float)
    assert engine.model.vocab_size == 5
    with pytest.raises(TypeError):
        FusedEngine(None)
    assert isinstance(engine.model.data, np.ndarray)
