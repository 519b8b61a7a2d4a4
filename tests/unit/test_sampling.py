"""Sampling options: the default path draws as the script does, and each option cuts what it says it cuts."""
import copy
import math
import pickle
import random

import numpy as np
import oracle
import pytest
from conftest import hexes

import microgpt
from microgpt import Trainer, reference
from microgpt.engines import engine_class
from microgpt.generation import Decoder, Token, decoder_of, generate, keep_likely, perplexity
from microgpt.viz.activations import forward
from microgpt.viz.notebook import gpt_html

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


@pytest.mark.parametrize("name", ["sample", "sample_one", "generate", "position_losses", "stream", "exclusively"])
def test_errors_of_calls_name_the_trainer(name):
    method = getattr(Trainer, name)
    with pytest.raises(TypeError, match=rf"^Trainer\.{name}\(\) got an unexpected keyword argument 'warmth'"):
        method(None, warmth=1)
    assert pickle.loads(pickle.dumps(method)) is method


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
    engine = engine_class(trainer.engine)
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
    "temperature must be a number greater than 0, not 'warm'": dict(temperature="warm"),
    "n must be less than 2**63": dict(n=10**30),
}


@pytest.mark.parametrize("message", BAD)
def test_option_that_cannot_be(trainer, message):
    with pytest.raises((ValueError, TypeError)) as error:
        trainer.sample(**{"n": 1, **BAD[message]})
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
def test_command(in_process, tmp_path):
    trainer = oracle.trainer(NAMES, num_steps=6, n_embd=8, n_head=2)
    saved = tmp_path / "run.safetensors"
    trainer.save(saved)
    common = [saved, "--seed", "5", "--samples", "4", "--prompt", "em"]

    def lines(*flags):
        done = in_process("sample", *common, *flags)
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
        done = in_process("sample", *common, *flags)
        assert done.returncode == 2 and part in done.stderr and "Traceback" not in done.stderr


# ---- tokens travel ----


class Marked(Token):
    """A subclass with an attribute of its own."""

    mark = "none"


def chances(token):
    return type(token), str(token), token.id, token.probability, token.model_probability, vars(token)


@pytest.mark.parametrize("kind", [Token, Marked])
@pytest.mark.parametrize("text", ["a", "", "ß", "\U0001f600"])
def test_token_keeps_its_chances_when_copied_or_pickled(kind, text):
    token = kind(text, 3, 0.25, 1e-310)
    if kind is Marked:
        token.mark = "set"
    ways = [copy.copy, copy.deepcopy]
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        ways.append(lambda x, protocol=protocol: pickle.loads(pickle.dumps(x, protocol)))
    for way in ways:
        assert chances(way(token)) == chances(token)
        assert [chances(t) for t in way([token, token])] == [chances(token)] * 2


def test_pool_returns_tokens(command):
    """An exception while a pool unpickles a result would leave the parent waiting for ever."""
    code = (
        "import multiprocessing\n"
        "from microgpt.generation import Token\n"
        "def draw(i): return [Token('a', i, 0.5, 0.25), Token('', 26, 1.0, 1.0)]\n"
        "if __name__ == '__main__':\n"
        "    with multiprocessing.Pool(1) as pool:\n"
        "        found = pool.map_async(draw, range(3)).get(60)\n"
        "    print([[(t, t.id, t.probability) for t in tokens] for tokens in found])\n"
    )
    done = command("-c", code)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{[[('a', i, 0.5), ('', 26, 1.0)] for i in range(3)]}\n"


# ---- numbers that are not Python's own ----


@pytest.mark.parametrize("whole, real", [(np.int64, np.float64), (np.uint8, np.float32), (np.array, np.array)])
def test_options_take_numpy_numbers(trainer, whole, real):
    expected = trainer.sample(4, temperature=0.75, top_k=4, top_p=0.875, max_length=6, seed=3)
    found = trainer.sample(
        4, temperature=real(0.75), top_k=whole(4), top_p=real(0.875), max_length=whole(6), seed=3
    )
    assert found == expected
    assert all(type(t.probability) is float for t in trainer.generate("", real(0.75), top_p=real(0.875), seed=3))
    ids = [2, 5]
    expected = list(generate(trainer.model, ids, 0.75, 4, 0.875, 8, rng=random.Random(4)))
    for prompt in (ids, tuple(ids), iter(ids), np.array(ids, dtype=np.uint8), map(whole, ids)):
        found = list(generate(trainer.model, prompt, real(0.75), whole(4), real(0.875), whole(8), rng=random.Random(4)))
        assert found == expected and all(type(i) is int for i in found)


def test_a_temperature_of_less_precision_does_not_make_the_draw_less_precise(trainer):
    """float * numpy.float32 is a float32: the reference would draw from other probabilities than the rest."""
    def drawn(temperature):
        found = trainer.generate("m", temperature, top_k=5, seed=3)
        return [(t.id, t.probability.hex(), t.model_probability.hex()) for t in found]

    assert drawn(np.float32(0.7)) == drawn(float(np.float32(0.7)))


def test_keep_likely_takes_numpy_numbers_and_iterators():
    probs = [0.1, 0.4, 0.1, 0.25, 0.15]
    for given in (probs, tuple(probs), np.array(probs), iter(probs)):
        found = keep_likely(given, np.int64(3), np.float64(0.9))
        assert found == [0, 0.4, 0, 0.25, 0.15] and all(type(p) is float for p in found)


@pytest.mark.parametrize("options, message", [
    (dict(top_k=0), "top_k must be at least 1, not 0"),
    (dict(top_k=-1), "top_k must be at least 1, not -1"),
    (dict(top_k=2.0), "top_k must be a whole number, not 2.0"),
    (dict(top_k=np.float64(2)), "top_k must be a whole number, not 2.0"),
    (dict(top_k=np.True_), "top_k must be a whole number, not True"),
    (dict(top_p=0.0), "top_p must be greater than 0 and at most 1, not 0.0"),
    (dict(top_p=math.nan), "top_p must be greater than 0 and at most 1, not nan"),
    (dict(top_p="0.9"), "top_p must be a number, not '0.9'"),
    (dict(top_p=True), "top_p must be a number, not True"),
])  # fmt: skip
def test_keep_likely_rejects_what_it_cannot_keep(options, message):
    """top_k=-1 dropped the least likely token and top_k=0 all of them, without a word."""
    with pytest.raises((TypeError, ValueError)) as error:
        keep_likely([0.5, 0.3, 0.2], **options)
    assert message in str(error.value).replace("np.float64(2.0)", "2.0").replace("np.True_", "True")


def test_generate_rejects_prompts_and_streams_that_cannot_be(trainer):
    for prompt, shown in (([1.0], "1.0"), (["a"], "'a'"), ("a", "'a'")):
        with pytest.raises(TypeError, match=f"a token id must be a whole number, not {shown}"):
            generate(trainer.model, prompt)
    with pytest.raises(TypeError, match="rng must be a random.Random, not Generator"):
        generate(trainer.model, rng=np.random.default_rng(1))
    with pytest.raises(TypeError, match="temperature must be a number, not '1'"):
        generate(trainer.model, temperature="1")
    with pytest.raises(TypeError, match="model must be a GPT, not Trainer"):
        generate(trainer)


def test_perplexity_beyond_all_floats_is_infinite():
    assert perplexity([1e-310]) == math.inf == perplexity([5e-324] * 9)
    assert perplexity([1e-300]) == pytest.approx(1e300)
    assert perplexity([5e-324, 1.0]) == pytest.approx(5e-324**-0.5)
    assert math.isnan(perplexity([math.nan])) and math.isnan(perplexity([0.5, math.nan]))
    assert math.isnan(perplexity([math.nan, 0.5])) and math.isnan(perplexity([math.nan, 0.0]))
    assert perplexity(np.array([0.25, 0.25])) == pytest.approx(4) == perplexity(iter([0.25] * 3))
    assert math.isnan(perplexity(np.array([]))) and math.isnan(perplexity(iter([])))


# ---- subclasses of GPT ----


class MyGPT(microgpt.GPT):
    pass


class Mine(MyGPT):
    """Two classes below GPT, with an attribute and a method of its own."""

    def __init__(self, *arguments, **settings):
        super().__init__(*arguments, **settings)
        self.note = "mine"


class MyReference(reference.GPT):
    pass


@pytest.mark.parametrize("base, kind", [(microgpt.GPT, MyGPT), (microgpt.GPT, Mine), (reference.GPT, MyReference)])
def test_subclass_of_gpt_generates_and_shows_itself(base, kind):
    plain, model = base(7, 8, 2, 2, 9), kind(7, 8, 2, 2, 9)
    for options in ({}, dict(top_k=3), dict(top_p=0.5, max_length=4)):
        expected = list(generate(plain, [2], 0.7, rng=random.Random(4), **options))
        assert list(generate(model, [2], 0.7, rng=random.Random(4), **options)) == expected
        if base is microgpt.GPT:
            assert list(model.generate([2], 0.7, rng=random.Random(4), **options)) == expected
    ours, theirs = Decoder(model), Decoder(plain)
    for token_id in (6, 2, 2):
        ours.feed(token_id)
        theirs.feed(token_id)
        assert hexes(ours.probabilities(0.9)) == hexes(theirs.probabilities(0.9))
    assert type(decoder_of(model)) is type(decoder_of(plain))
    assert gpt_html(model) == gpt_html(plain).replace("GPT", kind.__name__)
    for name, array in forward(plain, [6, 2, 3]).items():
        assert (forward(model, [6, 2, 3])[name] == array).all()
