"""The fused engine against the readable reference, bit for bit: losses, gradients, parameters, samples, and errors."""
import _thread
import itertools
import math
import random
import threading
from functools import cache

import numpy as np
import pytest

from microgpt import reference, simd
from microgpt.adam import Adam
from microgpt.fused import FusedEngine
from microgpt.model import GPT
from microgpt.stream import Stream

ISAS = simd.simd_info()["supported"]


def hexes(numbers):
    return [float(number).hex() for number in numbers]


class Pair:
    """A model, and the reference with the same parameters."""

    def __init__(self, shape, seed=1, init_std=0.5):
        self.model = GPT(**shape, init_std=init_std, rng=random.Random(seed))
        self.twin = reference.GPT(**shape, init_std=init_std, rng=random.Random(seed))
        self.engine = FusedEngine(self.model)
        self.check_data()

    def set(self, index, value):
        self.model.data[index] = value
        self.twin.params[index].data = value

    def check_data(self):
        assert hexes(self.model.data) == hexes(p.data for p in self.twin.params)

    def check_grad(self):
        assert hexes(self.model.grad) == hexes(p.grad for p in self.twin.params)

    def loss_and_grad(self, tokens):
        """Both sides; the loss, compared, and the gradients."""
        loss = self.engine.loss_and_grad(tokens)
        expected = reference.document_loss(tokens, self.twin)
        expected.backward()
        assert loss.hex() == expected.data.hex()
        self.check_grad()
        return loss

    def offset(self, name, o=0, i=0):
        at = 0
        for key, matrix in self.twin.state_dict.items():
            if key == name:
                return at + o * len(matrix[0]) + i
            at += len(matrix) * len(matrix[0])
        raise KeyError(name)


def document(rng, vocab_size, length):
    bos = vocab_size - 1
    return [bos, *(rng.randrange(vocab_size) for _ in range(length)), bos]


def shape(vocab_size, n_embd, n_head, n_layer, block_size):
    return dict(vocab_size=vocab_size, n_embd=n_embd, n_head=n_head, n_layer=n_layer, block_size=block_size)


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


def ids(shape):
    return "-".join(map(str, shape.values()))


@cache
def expected_gradient(index, length):
    """The reference's loss and gradients for a document of that length, the same for every instruction set."""
    config = SHAPES[index]
    tokens = document(random.Random(100 * index + length), config["vocab_size"], length)
    twin = reference.GPT(**config, init_std=0.5, rng=random.Random(1))
    loss = reference.document_loss(tokens, twin)
    loss.backward()
    return tokens, loss.data.hex(), hexes(p.grad for p in twin.params)


@pytest.mark.parametrize("index", range(len(SHAPES)), ids=lambda index: ids(SHAPES[index]))
def test_gradients_of_every_document_length(isa, index):
    config = SHAPES[index]
    block_size = config["block_size"]
    lengths = {0, 1, 3, 6, 7, 8, block_size - 1, block_size + 2} if block_size <= 16 else {block_size - 1}
    model = GPT(**config, init_std=0.5, rng=random.Random(1))
    engine = FusedEngine(model)
    for length in sorted(length for length in lengths if length <= block_size + 2):
        tokens, loss, grad = expected_gradient(index, length)
        model.grad[:] = 0.0
        assert engine.loss_and_grad(tokens).hex() == loss
        assert hexes(model.grad) == grad


@pytest.mark.parametrize("seed", range(6))
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
        loss = reference.document_loss(tokens, pair.twin)
        loss.backward()
        twin_adam.step()
        expected.append(loss.data)
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


def quiet(config, seed=1):
    """A model most of whose MLP rows are 0 at every position, so that the engine passes over them.

    Every position's embedding is nearly the same, so what relu makes 0 it makes 0 everywhere.
    """
    pair = Pair(config, seed)
    for o in range(config["block_size"]):
        for i in range(config["n_embd"]):
            pair.set(pair.offset("wpe", o, i), 30.0 * (i % 3 - 1) + 0.5)
    return pair


QUIET = [shape(27, 16, 4, 1, 16), shape(5, 8, 2, 2, 20), shape(9, 7, 1, 1, 11), shape(6, 20, 2, 1, 9)]


@pytest.mark.parametrize("config", QUIET, ids=ids)
def test_zeros_passed_over(isa, config):
    rng = random.Random(7)
    for length in {5, config["block_size"] - 1}:
        pair = quiet(config)
        tokens = document(rng, config["vocab_size"], length)
        pair.loss_and_grad(tokens)
        assert pair.engine._sparse_layers() == config["n_layer"]
        pair.loss_and_grad(tokens)  # onto gradients that are there
        pair.model.grad[:] = -0.0  # to which even 0.0 is something to add
        for p in pair.twin.params:
            p.grad = -0.0
        pair.loss_and_grad(tokens)


def test_zeros_meet_what_is_not_finite(isa):
    """A 0 from relu times inf or nan is nan: then nothing may be passed over."""
    config = shape(5, 8, 2, 1, 12)
    tokens = [4, 1, 2, 0, 3, 1, 1, 2, 4]
    for name in ("layer0.mlp_fc1", "layer0.mlp_fc2"):
        for value in (math.inf, math.nan, 1e300):
            for o, i in [(0, 0), (3, 5), (7, 7)]:
                pair = quiet(config)
                pair.set(pair.offset(name, o, i), value)
                try:
                    reference.document_loss(tokens, pair.twin)
                except ValueError as error:
                    with pytest.raises(ValueError, match=str(error)):
                        pair.engine.loss_and_grad(tokens)
                else:
                    pair.loss_and_grad(tokens)


def test_zeros_meet_an_overflow_on_the_way_back(isa):
    """Where relu gave 0 the gradient from above is multiplied by 0.0, and that is nan if it has overflowed."""
    tokens = [4, 1, 2, 0, 3, 1, 1, 2, 4]
    for weight in (1.0, 1e140):
        pair = quiet(shape(5, 8, 2, 1, 12))
        i = 1  # this number of x is 0 at every position, so that lm_head's huge weights for it move no logit
        for name, rows in (("wte", 5), ("wpe", 12)):
            for o in range(rows):
                pair.set(pair.offset(name, o, i), 0.0)
        for index in range(pair.offset("layer0.attn_wo"), pair.offset("layer0.mlp_fc1")):
            pair.set(index, 0.0)
        for u in range(32):
            pair.set(pair.offset("layer0.mlp_fc2", i, u), weight if u % 2 else 0.0)
            for c in range(8):
                pair.set(pair.offset("layer0.mlp_fc1", u, c), float((c % 3 - 1) * (-1) ** u))  # odd rows: relu gives 0
        for o in range(5):
            pair.set(pair.offset("lm_head", o, i), 1e200 * o)
        assert math.isfinite(pair.loss_and_grad(tokens))
        assert pair.engine._sparse_layers() == 1
        assert np.isnan(pair.model.grad).any() == (weight > 1.0)


def test_gradients_are_added(isa):
    pair = Pair(shape(8, 6, 2, 1, 8))
    first, second = [7, 1, 2, 2, 7], [7, 0, 7]
    pair.loss_and_grad(first)
    pair.loss_and_grad(second)
    # A gradient that somebody set is where the sum begins, whatever its sign of zero.
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


NASTY = [math.inf, -math.inf, math.nan, -0.0, 1e200, -1e200, 5e-324]


MATRICES = ["wte", "wpe", "lm_head", "attn_wq", "attn_wk", "attn_wv", "attn_wo", "mlp_fc1", "mlp_fc2"]


@pytest.mark.parametrize("name", MATRICES)
@pytest.mark.parametrize("value", NASTY, ids=str)
def test_special_values(isa, name, value):
    """Whatever a parameter holds, nan and the infinities spread exactly as far as they do in the script."""
    config = shape(5, 4, 2, 1, 12)
    tokens = [4, 1, 2, 0, 3, 1, 1, 2, 4, 0, 4]
    key = name if name in ("wte", "wpe", "lm_head") else f"layer0.{name}"
    for o, i in [(0, 0), (3, 3)]:
        pair = Pair(config)
        pair.set(pair.offset(key, o, i), value)
        try:
            reference.document_loss(tokens, pair.twin)
        except Exception as error:
            with pytest.raises(type(error), match=str(error)):
                pair.engine.loss_and_grad(tokens)
            assert not pair.model.grad.any()
        else:
            pair.loss_and_grad(tokens)


def test_zeros_of_both_signs(isa):
    """All parameters zero, then all -0.0: every sum begins at +0.0, as sum() does."""
    for zero in (0.0, -0.0):
        pair = Pair(shape(5, 8, 2, 1, 12))
        for index in range(pair.model.num_params):
            pair.set(index, zero)
        pair.loss_and_grad([4, 1, 2, 0, 3, 4])


def test_a_vanished_probability_is_a_domain_error(isa):
    pair = Pair(shape(4, 4, 1, 0, 4))
    for i in range(4):
        pair.set(pair.offset("lm_head", 1, i), 1e6 if i == 0 else 0.0)
        pair.set(pair.offset("wte", 3, i), -1.0)
        pair.set(pair.offset("wpe", 0, i), 0.0)
        for o in (0, 2, 3):
            pair.set(pair.offset("lm_head", o, i), 0.0)
    tokens = [3, 1, 3]
    with pytest.raises(ValueError) as expected:
        reference.document_loss(tokens, pair.twin)
    with pytest.raises(ValueError) as ours:
        pair.engine.loss_and_grad(tokens)
    assert str(ours.value) == str(expected.value)
    assert not pair.model.grad.any()


def test_failed_document_leaves_those_before_it(isa):
    config = shape(6, 8, 2, 1, 8)
    good, bad = [[5, 1, 2, 5], [5, 0, 5]], [5, 6, 5]
    pair, alone = Pair(config), Pair(config)
    adam, adam_alone = Adam(pair.model, num_steps=9), Adam(alone.model, num_steps=9)
    losses, losses_alone = [], []
    with pytest.raises(ValueError, match=r"token 6 is not in the vocabulary \(0 to 5\)"):
        pair.engine.train([*good, bad, good[0]], adam, losses)
    alone.engine.train(good, adam_alone, losses_alone)
    assert hexes(losses) == hexes(losses_alone) and len(losses) == 2
    assert pair.model.data.tobytes() == alone.model.data.tobytes()
    assert adam.step_index == 2
    # And it goes on as if nothing had been.
    pair.engine.train(good, adam, losses)
    alone.engine.train(good, adam_alone, losses_alone)
    assert pair.model.data.tobytes() == alone.model.data.tobytes()


def test_overflow_in_adam_leaves_the_document_undone(isa):
    pair = Pair(shape(6, 8, 2, 1, 8))
    adam = Adam(pair.model, num_steps=9)
    pair.model.grad[3] = 1e200  # its square is beyond a double
    grad, data = pair.model.grad.tobytes(), pair.model.data.tobytes()
    losses = []
    with pytest.raises(OverflowError):
        pair.engine.train([[5, 1, 5]], adam, losses)
    assert losses == [] and adam.step_index == 0
    assert pair.model.grad.tobytes() == grad and pair.model.data.tobytes() == data


@pytest.mark.parametrize(
    "tokens, error, message",
    [
        ([5], ZeroDivisionError, "division by zero"),
        ([], ValueError, "two tokens"),
        ([5, -1, 5], ValueError, "token -1 is not in the vocabulary"),
        ([5, "a", 5], TypeError, "."),
        ([5, 2**70, 5], OverflowError, "."),
        (None, TypeError, "."),
    ],
)
def test_bad_documents(tokens, error, message):
    pair = Pair(shape(6, 4, 2, 1, 8))
    with pytest.raises(error, match=message):
        pair.engine.loss_and_grad(tokens)
    assert not pair.model.grad.any()
    pair.loss_and_grad([5, 1, 5])


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
    refused, inside = [], threading.Event()

    class Tokens(list):
        def __getitem__(self, index):
            inside.set()
            return list.__getitem__(self, index)

    thread = threading.Thread(target=engine.loss_and_grad, args=(Tokens(tokens),))
    thread.start()
    inside.wait()
    while thread.is_alive():
        try:
            engine.loss_and_grad([19, 19])
        except RuntimeError as error:
            refused.append(str(error))
    thread.join()
    assert refused and set(refused) == {"this engine is at work in another thread"}


def interrupted(call):
    """Run a call that takes long, and press Ctrl-C soon."""
    timer = threading.Timer(0.1, _thread.interrupt_main)
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        call()
    timer.join()


def test_ctrl_c_between_documents():
    config = shape(27, 16, 4, 1, 16)
    pair, alone = Pair(config), Pair(config)
    rng = random.Random(2)
    documents = [document(rng, 27, rng.randint(1, 14)) for _ in range(50)]
    adam, losses = Adam(pair.model, learning_rate=1e-7, num_steps=10**9), []
    interrupted(lambda: pair.engine.train(itertools.cycle(documents), adam, losses))
    assert len(losses) == adam.step_index > 0
    twin_adam, twin_losses = Adam(alone.model, learning_rate=1e-7, num_steps=10**9), []
    alone.engine.train(itertools.islice(itertools.cycle(documents), len(losses)), twin_adam, twin_losses)
    assert losses == twin_losses
    assert pair.model.data.tobytes() == alone.model.data.tobytes()
    assert adam.m.tobytes() == twin_adam.m.tobytes() and adam.v.tobytes() == twin_adam.v.tobytes()
    assert not pair.model.grad.any()


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
        lambda: [engine.sample(Stream(1), max_tokens=1023) for _ in itertools.count()],
        lambda: [engine.probabilities(tokens[:1024]) for _ in itertools.count()],
    ):
        before = model.grad.tobytes()
        interrupted(call)
        assert losses == [] and adam.step_index == 0
        assert model.data.tobytes() == data and model.grad.tobytes() == before
        assert not adam.m.any() and not adam.v.any()


# ---- sampling ----


def sample_reference(twin, rng, temperature, max_tokens, prompt):
    """The script's inference loop."""
    bos = twin.vocab_size - 1
    keys, values = [[] for _ in range(twin.n_layer)], [[] for _ in range(twin.n_layer)]
    token_id, drawn, given = bos, [], list(prompt)
    for pos_id in range(twin.block_size):
        logits = reference.gpt(token_id, pos_id, keys, values, twin)
        if given:
            token_id = given.pop(0)
            continue
        if len(drawn) == max_tokens:
            break
        probs = reference.softmax([l / temperature for l in logits])
        token_id = rng.choices(range(twin.vocab_size), weights=[p.data for p in probs])[0]
        if token_id == bos:
            break
        drawn.append(token_id)
    return drawn


@pytest.mark.parametrize("shape", SHAPES, ids=ids)
def test_samples(isa, shape):
    pair = Pair(shape, init_std=0.2)
    stream, rng = Stream(3), random.Random(3)
    prompt = [0] if shape["vocab_size"] > 1 and shape["block_size"] > 2 else []
    for temperature, max_tokens, given in [(0.5, None, []), (1, 3, prompt), (2.5, None, prompt * 2), (0.01, 0, [])]:
        for _ in range(2):
            ours = pair.engine.sample(stream, temperature, max_tokens, given)
            assert ours == sample_reference(pair.twin, rng, temperature, max_tokens, given)
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
    stream = Stream(1)
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
        stream = Stream(seed)
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
