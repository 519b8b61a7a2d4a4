"""The fused engine where numbers are special: zeros that are passed over, both signs of them, infinities, nan, overflows,
and documents that fail. What spreads how far, and what is raised, is the reference's to say, bit for bit."""
import math
import random

import numpy as np
import oracle
import pytest
from conftest import hexes
from pairs import Pair, document, ids, shape

from microgpt.core.adam import Adam
from microgpt.core.fused import FusedEngine
from microgpt.core.model import GPT


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


@pytest.mark.parametrize("config", [*(pytest.param(c, marks=pytest.mark.slow) for c in (QUIET[0], QUIET[1], QUIET[3])), QUIET[2]], ids=ids)
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
                pair.outcome(tokens)


def test_zeros_meet_what_was_made_infinite_between_two_runs(isa):
    """What Adam's updates told of mlp_fc2 does not hold once others may have changed it."""
    model = GPT(**shape(27, 72, 4, 1, 16), init_std=0.1, rng=random.Random(1))  # updated matrix by matrix
    fc2 = model.num_params - 4 * 72 * 72
    at = 27 * 72
    model.data[at : at + 16 * 72] = np.tile(30.0 * (np.arange(72) % 3 - 1) + 0.5, 16)  # wpe: see quiet
    engine, adam, losses = FusedEngine(model), Adam(model, num_steps=100), []
    tokens = [26, 1, 2, 0, 3, 1, 1, 2, 26]
    engine.train([tokens] * 20, adam, losses)
    assert engine._sparse_layers() == 1
    before = FusedEngine(model).loss_and_grad(tokens)
    for i in range(4 * 72):
        kept, model.data[fc2 + i] = model.data[fc2 + i], model.data[fc2 + i] + 1.0
        if FusedEngine(model).loss_and_grad(tokens) == before:
            break  # relu makes this one 0
        model.data[fc2 + i] = kept
    model.grad[:] = 0.0
    model.data[fc2 + i] = math.inf
    engine.train([tokens], adam, losses)
    assert not any(map(math.isnan, losses[:-1])) and math.isnan(losses[-1])


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
        pair.outcome(tokens)


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
        oracle.loss_and_grad(pair.twin, tokens)
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
    # And it continues as if nothing had happened.
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
