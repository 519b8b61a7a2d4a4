"""Texts that several threads draw are those that one thread draws, and leave the random stream where it leaves it."""
import random
from functools import cache

import oracle
import pytest
from pairs import Pair, shape

from microgpt import Trainer
from microgpt.core.fused import FusedEngine
from microgpt.core.mt19937 import MT19937

CONFIG = shape(6, 4, 2, 2, 7)
CHARACTERS = "abcde"
TEXTS = 250
THREADS = [2, 3, 5]
NAMES = ["emma", "olivia", "ava", "isabella", "sophia", "charlotte", "mia", "amelia", "harper", "evelyn"]


@cache
def expected(prompt, temperature):
    """The texts of the reference, and the state of its stream."""
    rng, twin = random.Random(4), Pair(CONFIG, init_std=0.5).twin
    texts = [oracle.sample(twin, rng, temperature, prompt=prompt) for _ in range(TEXTS)]
    return ["".join(CHARACTERS[i] for i in ids) for ids in texts], rng.getstate()


@pytest.mark.parametrize("threads", THREADS)
@pytest.mark.parametrize(("prompt", "temperature"), [((), 0.9), ((2, 1), 1.5)])
def test_threads_draw_what_the_script_draws(share_all, isa, prompt, temperature, threads):
    engine, stream = FusedEngine(Pair(CONFIG, init_std=0.5).model), MT19937(4)
    engine.set_threads(threads)
    assert (engine.sample_texts(stream, TEXTS, CHARACTERS, temperature, prompt), stream.getstate()) == expected(prompt, temperature)


@pytest.mark.parametrize("max_tokens", [0, 1, 3, 7])
def test_short_texts(share_all, max_tokens):
    def drawn(threads):
        engine, stream = FusedEngine(Pair(CONFIG, init_std=0.5).model), MT19937(4)
        engine.set_threads(threads)
        texts = engine.sample_texts(stream, TEXTS, CHARACTERS, 0.9, (), max_tokens)
        return texts, stream.getstate()

    alone = drawn(1)
    assert max(map(len, alone[0])) == min(max_tokens, 7)
    assert all(drawn(threads) == alone for threads in THREADS)


def test_parameters_that_change_between_calls(share_all):
    """What a thread remembers of texts belongs to the parameters of its last call."""
    def drawn(threads):
        trainer = Trainer(NAMES, num_steps=20, n_embd=8, n_head=2, block_size=8)
        trainer.threads = threads
        texts = []
        for _ in range(3):
            trainer.run(3)
            texts += trainer.sample(TEXTS), trainer.sample(3), trainer.sample(TEXTS, 0.8, max_length=4)
        trainer.threads = 1
        return [*texts, trainer.sample(5), trainer.rng.getstate()]

    alone = drawn(1)
    assert all(drawn(threads) == alone for threads in THREADS)


def test_error_leaves_the_stream_as_it_was(share_all):
    engine, stream = FusedEngine(Pair(CONFIG, init_std=0.5).model), MT19937(4)
    engine.set_threads(2)
    before = stream.getstate()
    engine.model.data[4] = float("nan")  # of token 1: the texts before the first that has it can be drawn
    with pytest.raises(ValueError, match="^Total of weights must be finite$"):
        engine.sample_texts(stream, TEXTS, CHARACTERS, 0.9)
    assert stream.getstate() == before
