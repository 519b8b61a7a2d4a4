"""Sampling options: the default path draws as the script does, and each option cuts what it says it cuts."""
import math
import random

import oracle
import pytest
from conftest import hexes

from microgpt import Trainer
from microgpt.sampling import Token, generate, keep_likely, perplexity

NAMES = ["emma", "olivia", "ava", "isabella", "sophia", "charlotte", "mia", "amelia", "harper", "evelyn"]


@pytest.fixture
def trainer(engine):
    settings = dict(num_steps=6, n_embd=8, n_head=2, block_size=9)
    if engine == "reference":
        return oracle.trainer(NAMES, **settings)
    trainer = Trainer(NAMES, engine=engine, **settings)
    trainer.run()
    return trainer


@pytest.fixture
def twin():
    """The same run by the reference engine."""
    with oracle.collector_off():
        yield oracle.trainer(NAMES, num_steps=6, n_embd=8, n_head=2, block_size=9)


def probabilities(trainer, text, temperature=1.0):
    """Those of what follows text, from the live reference."""
    return oracle.probabilities(oracle.twin(trainer), trainer.tokenizer.encode(text)[:-1], temperature)[-1]


def test_streamed_is_what_sample_writes(trainer, twin):
    for prompt, temperature in [("", 0.5), ("ol", 0.8), ("", 1.0), ("emmaemma", 2.0)]:
        streamed = "".join(trainer.generate(prompt, temperature))
        assert prompt + streamed == twin.sample(1, temperature, prompt)[0]
    assert trainer.rng.getstate() == twin.rng.getstate()


def test_options_that_cut_nothing_change_nothing(trainer, twin):
    expected = twin.sample(8, temperature=0.9)
    size = twin.tokenizer.vocab_size
    assert [trainer.sample_one(0.9, "", size, 1.0, 9) for _ in range(8)] == expected


def test_each_token_knows_its_chances(trainer):
    for options in ({}, dict(top_k=3), dict(top_p=0.4), dict(top_k=5, top_p=0.7)):
        text = "m"
        for token in trainer.generate("m", 0.7, seed=3, **options):
            assert isinstance(token, Token)
            shaped = keep_likely(probabilities(trainer, text, 0.7), **options)
            assert hexes([token.probability]) == hexes([shaped[token.id] / math.fsum(shaped)])
            assert hexes([token.model_probability]) == hexes([probabilities(trainer, text)[token.id]])
            assert token == trainer.tokenizer.decode([token.id])
            text += token


def test_generation_is_lazy_and_its_arguments_are_checked_at_once(trainer):
    before = trainer.rng.getstate()
    tokens = trainer.generate()
    assert trainer.rng.getstate() == before
    next(tokens)
    assert trainer.rng.getstate() != before
    with pytest.raises(ValueError, match="not in the vocabulary"):
        trainer.generate("XX")


def test_top_k_of_one_is_the_most_probable(trainer):
    text = ""
    written = trainer.sample(1, top_k=1, seed=9)[0]
    for ch in written:
        probs = probabilities(trainer, text)
        text += trainer.tokenizer.decode([probs.index(max(probs))])
        assert text[-1] == ch
    assert trainer.sample(3, temperature=5.0, top_k=1, seed=1) == [written] * 3


def test_max_length(trainer, twin):
    long = twin.sample(30, temperature=3.0, seed=5)
    assert any(len(sample) > 4 for sample in long)
    assert all(len(sample) <= 4 for sample in trainer.sample(30, temperature=3.0, seed=5, max_length=4))
    first = trainer.sample(1, temperature=3.0, seed=5, max_length=4)[0]
    assert long[0].startswith(first)
    assert trainer.sample(2, prompt="emma", max_length=4) == ["emma"] * 2
    assert len(trainer.sample(1, temperature=99.0, seed=5, max_length=1000)[0]) <= 9


def test_seed_leaves_the_run_s_stream_alone(trainer):
    before = trainer.rng.getstate()
    assert trainer.sample(4, seed=7) == trainer.sample(4, seed=7) != trainer.sample(4, seed=8)
    assert trainer.sample(2, seed=7, top_k=4) == trainer.sample(2, seed=7, top_k=4)
    assert trainer.rng.getstate() == before


def test_keep_likely():
    probs = [0.1, 0.4, 0.1, 0.25, 0.15]
    assert keep_likely(probs, top_k=1) == [0, 0.4, 0, 0, 0]
    assert keep_likely(probs, top_k=2) == [0, 0.4, 0, 0.25, 0]
    assert keep_likely(probs, top_k=4) == [0.1, 0.4, 0, 0.25, 0.15]  # of equals the lower id stays
    assert keep_likely(probs, top_k=99) == keep_likely(probs) == keep_likely(probs, top_p=1.0) == probs
    assert keep_likely(probs, top_p=0.4) == [0, 0.4, 0, 0, 0]
    assert keep_likely(probs, top_p=0.41) == [0, 0.4, 0, 0.25, 0]
    assert keep_likely(probs, top_p=1e-9) == [0, 0.4, 0, 0, 0]
    assert keep_likely(probs, top_k=3, top_p=0.9) == [0, 0.4, 0, 0.25, 0.15]


def test_what_was_cut_is_never_drawn(trainer):
    """Weights of 0 at the end of the list included: the bisection in choices must not fall on them."""
    engine = trainer._engine
    rng = engine.seeded(1)
    assert {engine.choose(rng, [0.0, 0.3, 0.0, 0.2, 0.0, 0.0]) for _ in range(2000)} == {1, 3}


def test_perplexity():
    assert perplexity([0.25] * 7) == pytest.approx(4)
    assert perplexity([1.0]) == 1 and perplexity([0.5, 0.0]) == math.inf and math.isnan(perplexity([]))


BAD = {
    "top_k must be at least 1, not 0": dict(top_k=0),
    "top_k must be a whole number, not 2.5": dict(top_k=2.5),
    "top_k must be a whole number, not True": dict(top_k=True),
    "top_p must be greater than 0 and at most 1, not 0": dict(top_p=0),
    "top_p must be greater than 0 and at most 1, not 1.5": dict(top_p=1.5),
    "top_p must be greater than 0 and at most 1, not nan": dict(top_p=float("nan")),
    "max_length must be at least 1, not -3": dict(max_length=-3),
    "the prompt has 4 characters; max_length is 3": dict(prompt="emma", max_length=3),
    "temperature must be a number greater than 0, not 0": dict(temperature=0, top_k=3),
}


@pytest.mark.parametrize("message", BAD)
def test_option_that_cannot_be(trainer, message):
    with pytest.raises((ValueError, TypeError)) as error:
        trainer.sample(1, **BAD[message])
    assert str(error.value) == message


def test_a_bare_model_writes_ids(trainer, twin):
    """generate(model) draws from a random.Random as the script does from its global one."""
    ids = list(generate(trainer.model, [2, 5], 0.7, rng=random.Random(4)))
    twin.rng = random.Random(4)
    prompt = twin.tokenizer.decode([2, 5])
    assert prompt + trainer.tokenizer.decode(ids) == twin.sample_one(0.7, prompt)
    assert trainer.tokenizer.BOS not in ids
    assert len(list(generate(trainer.model, max_length=2, temperature=50.0, rng=random.Random(1)))) <= 2
    with pytest.raises(ValueError, match="token id 99 is not in the vocabulary"):
        generate(trainer.model, [99])
    with pytest.raises(ValueError, match="the prompt has 9 tokens; it may have 8"):
        generate(trainer.model, [0] * 9)


def test_compiled_model_has_it_as_a_method():
    trainer = Trainer(NAMES, num_steps=6, engine="fused", n_embd=8, n_head=2, block_size=9)
    trainer.run()
    ids = list(trainer.model.generate([2], 0.7, top_k=5, rng=random.Random(4)))
    assert ids == list(generate(trainer.model, [2], 0.7, top_k=5, rng=random.Random(4)))


@pytest.mark.slow
def test_command(command, tmp_path):
    trainer = oracle.trainer(NAMES, num_steps=6, n_embd=8, n_head=2)
    saved = tmp_path / "run.safetensors"
    trainer.save(saved)
    common = [saved, "--seed", "5", "--samples", "4", "--prompt", "em"]

    def lines(*flags):
        done = command("-m", "microgpt.sample", *common, *flags)
        assert done.returncode == 0, done.stderr
        return done.stdout.splitlines()

    expected = trainer.sample(4, prompt="em", seed=5, top_k=3, top_p=0.9, max_length=7)
    assert lines("--top-k", "3", "--top-p", "0.9", "--max-length", "7") == [
        f"sample {i:2d}: {text}" for i, text in enumerate(expected, 1)
    ]
    plain, told = lines(), lines("--logprobs")
    assert [line for line in told if line.startswith("sample")] == plain
    tokens = list(trainer.generate("em", seed=5))
    p = tokens[0].model_probability
    assert told[1] == (f"    {tokens[0] or '(end)':5} logprob {math.log(p):8.4f}  probability {p:.4f}  "
                       f"drawn with {tokens[0].probability:.4f}")  # fmt: skip
    assert told[1 + len(tokens)] == f"    perplexity {perplexity([t.model_probability for t in tokens]):.4f}"
    for flags, part in [(["--top-k", "0"], "top_k must be"), (["--top-p", "2"], "top_p must be"),
                        (["--max-length", "1"], "the prompt has 2 characters")]:  # fmt: skip
        done = command("-m", "microgpt.sample", *common, *flags)
        assert done.returncode == 2 and part in done.stderr and "Traceback" not in done.stderr
