"""What the fused engine remembers between samples never outlives what it was computed from, and changes no bit.

Weights, keys and values, and distributions by prefix are used again as long as the parameters are the same. Each test here
changes something between two samples and compares with the reference, or with an engine that has nothing to remember.
"""
import math
import random
import signal
from contextlib import nullcontext

import oracle
import pytest
from conftest import hexes
from pairs import Pair, document, shape
from test_flushing import flushing

from microgpt import GPT, Adam, Trainer, reference
from microgpt.core.fused import FusedEngine
from microgpt.core.mt19937 import MT19937
from microgpt.generation import generate

CONFIG = shape(6, 4, 2, 2, 7)
NAMES = ["emma", "olivia", "ava", "isabella", "sophia", "charlotte", "mia", "amelia", "harper", "evelyn"]


class Drawing:
    """An engine beside the reference, both with one stream."""

    def __init__(self, config=CONFIG, init_std=0.5):
        self.pair = Pair(config, init_std=init_std)
        self.stream, self.rng = MT19937(3), random.Random(3)

    def check(self, times=3, temperature=0.8, prompt=()):
        for _ in range(times):
            expected = oracle.sample(self.pair.twin, self.rng, temperature, prompt=prompt)
            assert self.pair.engine.sample(self.stream, temperature, prompt=prompt) == expected
        assert self.stream.getstate() == self.rng.getstate()

    def check_probabilities(self, tokens, temperature=1.0):
        expected = oracle.probabilities(self.pair.twin, tokens, temperature)
        assert hexes(self.pair.engine.probabilities(tokens, temperature)) == hexes(expected[-1])


def alone(model, stream, n, temperature=0.8, prompt=()):
    """n samples, each by an engine that has nothing to remember; stream moves on."""
    return [FusedEngine(model).sample(stream, temperature, prompt=prompt) for _ in range(n)]


def characters(model):
    return [chr(0x100 + i) for i in range(model.vocab_size - 1)]


@pytest.mark.parametrize("config", [CONFIG, shape(5, 3, 3, 0, 9), shape(9, 6, 2, 1, 10), shape(1, 2, 1, 1, 4)])
def test_texts_with_common_beginnings(isa, config):
    drawing = Drawing(config)
    prompt = [0] if config["vocab_size"] > 1 else []
    for temperature, given in [(0.8, []), (0.3, []), (0.8, prompt), (1.7, prompt * 2), (0.8, [])]:
        drawing.check(8, temperature, given)
    chars = characters(drawing.pair.model)
    expected = [oracle.sample(drawing.pair.twin, drawing.rng, 0.8, prompt=prompt) for _ in range(40)]
    found = drawing.pair.engine.sample_texts(drawing.stream, 40, chars, 0.8, prompt)
    assert found == ["".join(chars[i] for i in ids) for ids in expected]
    assert drawing.stream.getstate() == drawing.rng.getstate()


def test_prompt_before_anything_else(isa):
    """Its prefixes are in the tree before their keys and values are."""
    for prompt in ([0], [0, 3], [2, 3, 1, 1]):
        Drawing().check(4, prompt=prompt)


def test_probabilities_of_tokens_that_share_a_beginning(isa):
    drawing = Drawing()
    for tokens in ([5, 1, 2, 3], [5, 1, 2, 3], [5, 1, 2], [5, 1, 2, 3, 4], [5, 1, 0, 3, 4], [5], [5, 1, 0, 3, 4, 4, 4]):
        for temperature in (1.0, 0.5, 1.0):
            drawing.check_probabilities(tokens, temperature)
        drawing.check(1)  # in between, the keys and values of other tokens


@pytest.mark.parametrize("name", ["wte", "wpe", "lm_head", *(f"layer1.{name}" for name in (
    "attn_wq", "attn_wk", "attn_wv", "attn_wo", "mlp_fc1", "mlp_fc2"))])  # fmt: skip
@pytest.mark.parametrize("by_value", [False, True])
def test_parameter_that_the_user_sets(isa, name, by_value):
    """Through a NumPy view that was there before, or through a Value."""
    drawing = Drawing()
    pair, tokens = drawing.pair, [5, 1, 2, 3]
    data, at = pair.model.data, pair.offset(name, 1, 1)
    for value in (3.5, -3.5, 3.5):
        drawing.check(1)
        drawing.check_probabilities(tokens)
        if by_value:
            pair.model.params[at].data = value
        else:
            data[at] = value
        pair.twin.params[at].data = value
        drawing.check_probabilities(tokens)
        drawing.check(1)


def test_parameter_that_becomes_minus_zero_or_nan():
    """-0.0 == 0.0, and yet another number; nan != nan, and yet the same."""
    drawing = Drawing(shape(3, 1, 1, 0, 2))
    for i in range(drawing.pair.model.num_params):
        drawing.pair.set(i, 0.0)
    for value in (0.0, -0.0, math.nan, math.nan, 1.0):
        drawing.pair.set(drawing.pair.offset("lm_head", 2, 0), value)
        drawing.pair.set(drawing.pair.offset("wte", 2, 0), value)
        for temperature in (1.0, 0.5):
            drawing.check_probabilities([2], temperature)


def test_training_between_samples(isa):
    drawing, rng = Drawing(), random.Random(1)
    pair = drawing.pair
    adam, twin_adam = Adam(pair.model, num_steps=4), reference.Adam(pair.twin, num_steps=4)
    for step in range(4):
        drawing.check()
        drawing.check_probabilities([5, 1, 2])
        tokens = document(rng, 6, 5)
        oracle.loss_and_grad(pair.twin, tokens)
        twin_adam.step()
        if step % 2:
            pair.engine.train([tokens], adam, [])
        else:
            pair.engine.loss_and_grad(tokens)
            adam.step()
        drawing.check_probabilities([5, 1, 2])
    drawing.check()


def test_run_that_goes_back_to_earlier_parameters(tmp_path):
    trainer = Trainer(NAMES, num_steps=6, n_embd=8, n_head=2)
    first = trainer.sample(5, seed=1)
    saved = trainer.model.data.copy()
    trainer.run()
    after = trainer.sample(5, seed=1)
    trainer.model.data[:] = saved
    assert trainer.sample(5, seed=1) == first != after
    trainer.save(tmp_path / "run.safetensors")
    assert Trainer.load(tmp_path / "run.safetensors").sample(5, seed=1) == first


def test_subnormal_numbers_flushed_between_samples(isa):
    """The same parameters give other probabilities while another library has them flushed to zero."""
    drawing = Drawing(shape(3, 1, 1, 0, 3))
    for i in range(drawing.pair.model.num_params):
        drawing.pair.set(i, 5e-324)
    drawing.pair.set(drawing.pair.offset("lm_head", 1, 0), 1e308)
    seen = set()
    for flushed in (False, True, False, True):
        with flushing() if flushed else nullcontext():
            fresh = FusedEngine(drawing.pair.model).probabilities([2, 1], 1e-17)
            found = drawing.pair.engine.probabilities([2, 1], 1e-17)
            texts = drawing.pair.engine.sample_texts(MT19937(1), 9, "ab", 1e-17)
            assert texts == FusedEngine(drawing.pair.model).sample_texts(MT19937(1), 9, "ab", 1e-17)
        assert hexes(found) == hexes(fresh)
        seen.add(tuple(hexes(found)))
    assert len(seen) == 2


@pytest.mark.parametrize("cuts", [{}, dict(top_k=3), dict(top_p=0.7), dict(max_length=5)])
def test_interleaved_iterators_share_one_decoder(engine, cuts):
    """Each goes on after its own tokens, whatever the other one, or a whole sample, has put into the cache meanwhile."""
    def make():
        trainer = Trainer(NAMES, num_steps=3, engine=engine, n_embd=8, n_head=2, block_size=9)
        trainer.run()
        return trainer

    trainer, expected = make(), make()
    arguments = [("e", 0.9, 5), ("ol", 1.4, 6), ("", 0.9, 7)]
    alone = [list(expected.generate(prompt, warmth, seed=seed, **cuts)) for prompt, warmth, seed in arguments]
    iterators = [trainer.generate(prompt, warmth, seed=seed, **cuts) for prompt, warmth, seed in arguments]
    found = [[] for _ in iterators]
    for _ in range(12):
        for tokens, iterator in zip(found, iterators):
            tokens.extend([token for token in [next(iterator, None)] if token is not None])
        trainer.sample(1, seed=1)
    def chances(texts):
        return [[(t, t.id, t.probability.hex(), t.model_probability.hex()) for t in text] for text in texts]

    assert chances(found) == chances(alone)


def test_model_changed_under_a_bare_iterator():
    """`generate(model)` reads the parameters at each token, whatever has written to them."""
    model, fresh = GPT(**CONFIG, init_std=0.5), GPT(**CONFIG, init_std=0.5)
    tokens, rng = [5], random.Random(4)
    for token_id in generate(model, temperature=3.0, rng=random.Random(4)):
        weights = FusedEngine(fresh).probabilities(tokens, 3.0)
        assert rng.choices(range(6), weights=weights)[0] == token_id
        tokens.append(token_id)
        for changed in (model, fresh):  # of the tokens, whose keys and values are in the cache already
            changed.data[: 6 * 4] *= -1.5
    assert len(tokens) > 4


def test_error_within_texts_gives_back_the_whole_stream():
    drawing = Drawing()
    pair = drawing.pair
    for i in range(4):
        pair.set(pair.offset("wpe", 4, i), math.nan)
    failed = 0
    for seed in range(30):
        stream, rng = MT19937(seed), random.Random(seed)
        try:
            expected = [oracle.sample(pair.twin, rng, 0.8) for _ in range(8)]
        except ValueError as error:
            failed += 1
            state = stream.getstate()
            with pytest.raises(ValueError, match=str(error)):
                pair.engine.sample_texts(stream, 8, "abcde", 0.8)
            assert stream.getstate() == state
        else:
            assert pair.engine.sample_texts(stream, 8, "abcde", 0.8) == ["".join("abcde"[i] for i in ids) for ids in expected]
            assert stream.getstate() == rng.getstate()
    assert 0 < failed


@pytest.mark.parametrize("vocab_size, n", [(30_000, 60), pytest.param(1_500_000, 1, marks=pytest.mark.slow)])
def test_more_prefixes_than_are_kept(vocab_size, n):
    """Of the first size only some dozens fit, of the second none, and neither fits the table of first inputs."""
    model = GPT(vocab_size, 1, 1, 1, 9, init_std=0.5)
    model.data[2 * vocab_size + 9 :] *= 3.0
    for i in range(8):  # a few likely tokens, so that prefixes come again
        model.data[vocab_size + 9 + i * 1000] = 18.0
    engine, stream, twin_stream = FusedEngine(model), MT19937(5), MT19937(5)
    found = [engine.sample(stream, 1.0, 9) for _ in range(n)]
    assert found == alone(model, twin_stream, n, 1.0)
    assert stream.getstate() == twin_stream.getstate()


def test_model_of_several_layers_and_wide_rows(isa):
    """Against engines that have nothing to remember; the reference would take too long."""
    model = GPT(40, 72, 4, 3, 70, init_std=0.1)
    engine, stream, twin_stream = FusedEngine(model), MT19937(5), MT19937(5)
    for temperature in (0.5, 0.05):
        found = [engine.sample(stream, temperature) for _ in range(6)]
        assert found == alone(model, twin_stream, 6, temperature)
    tokens = [39, *range(38), *range(30)]
    for n in (69, 3, 40, 41, 42, 69, 68):
        assert hexes(engine.probabilities(tokens[:n])) == hexes(FusedEngine(model).probabilities(tokens[:n]))


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="a timer of POSIX")
def test_interrupted_texts_have_drawn_nothing(engine):
    """And what the interrupted call has left in the caches is right."""
    trainer = Trainer(NAMES, num_steps=4, engine=engine, n_embd=4)
    state = trainer.rng.getstate()
    expected = Trainer(NAMES, num_steps=4, engine="fused", n_embd=4).sample(2)

    def interrupt(*_):
        raise KeyboardInterrupt

    previous = signal.signal(signal.SIGALRM, interrupt)
    try:
        with pytest.raises(KeyboardInterrupt):
            signal.setitimer(signal.ITIMER_REAL, 0.05)
            trainer.sample(10**8)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)
    assert trainer.rng.getstate() == state
    assert trainer.sample(2) == expected


def test_texts_need_a_character_for_each_token():
    engine = FusedEngine(GPT(**CONFIG))
    with pytest.raises(ValueError, match="4 characters are too few for 5 token ids"):
        engine.sample_texts(MT19937(1), 1, "abcd")
    assert engine.sample_texts(MT19937(1), 0, "abcde") == engine.sample_texts(MT19937(1), -1, "abcde") == []
