"""Trainer: the three engines are one program, and each is the live reference written out by hand."""
import pickle
import random
import threading

import numpy as np
import oracle
import pytest
from conftest import COMPILED, hexes

from microgpt import DivergedError, Trainer, evaluate, reference
from microgpt.trainer import ENGINES

NAMES = ["emma", "olivia", "ava", "isabella", "sophia", "charlotte", "mia", "amelia", "harper", "evelyn"]
NON_ASCII = ["zoë", "håkon", "αθηνά", "łucja", "안나", "😀a", "e\u0301", "é"]
LONG = ["abcabcbacbcabbacbacbcabca" * 3, "a", "cab"]


CONFIGURATIONS = {
    "default": (NAMES, {}),
    "two layers": (NAMES, dict(n_layer=2, n_embd=8, n_head=2)),
    "three layers, one head, odd": (NAMES, dict(n_layer=3, n_embd=5, n_head=1)),
    "head_dim 1": (NAMES, dict(n_embd=6, n_head=6)),
    "head_dim 3": (NAMES, dict(n_embd=9, n_head=3, block_size=7)),
    "no layers": (NAMES, dict(n_layer=0, n_embd=8)),
    "n_embd 1": (NAMES, dict(n_embd=1, n_head=1)),
    "one letter": (["a", "aa", "aaaa"], dict(n_embd=8, n_head=2)),
    "non-ascii": (NON_ASCII, dict(n_embd=8, n_head=4)),
    "longer than the block": (LONG, dict(n_embd=8, n_head=2, block_size=5)),
    "block_size 1": (NAMES, dict(n_embd=8, n_head=2, block_size=1)),
    "block of 33": (LONG, dict(n_embd=4, n_head=2, block_size=33)),
    "other optimizer": (NAMES, dict(learning_rate=0.1, beta1=0.9, beta2=0.999, eps_adam=1e-4, init_std=0.5)),
    "no momentum": (NAMES, dict(beta1=0.0, beta2=0.0, n_embd=8)),
}


def engines_and_seeds():
    """Other seeds with three: what a seed is does not depend on the model.

    In the quick round: one seed, and of the reference, whose functions the script's are, what its Trainer adds.
    """
    for engine in ENGINES:
        for name in CONFIGURATIONS:
            for seed in (42, -7, 2**80 + 1) if engine in COMPILED and name in ("default", "one letter", "non-ascii") else (42,):
                quick = seed == 42 and (engine in COMPILED or name in ("no layers", "one letter", "longer than the block"))
                yield pytest.param(engine, name, seed, marks=() if quick else pytest.mark.slow)


@pytest.mark.parametrize("engine, name, seed", [*engines_and_seeds()], indirect=["engine"])
def test_engine_is_the_script_written_out(engine, name, seed):
    docs, settings = CONFIGURATIONS[name]
    steps = 3 if seed == 42 else 1  # the seed decides where the run begins
    script = oracle.run(docs, steps, seed, **settings)
    trainer = Trainer(docs, num_steps=steps, seed=seed, engine=engine, **settings)
    assert hexes(trainer.run()) == hexes(script.losses)
    assert hexes(p.data for p in trainer.model.params) == hexes(script.params)
    assert hexes(trainer.adam.m) == hexes(script.m)
    assert hexes(trainer.adam.v) == hexes(script.v)
    assert trainer.sample(2) == list(script.written)


def test_steps_one_by_one_are_the_run(engine):
    whole = Trainer(NAMES, num_steps=5, engine=engine, n_embd=8)
    single = Trainer(NAMES, num_steps=5, engine=engine, n_embd=8)
    assert hexes(whole.run()) == hexes(single.step() for _ in range(5))
    assert whole.step_index == single.step_index == 5
    assert whole.run() == [] and whole.run(3) == []
    with pytest.raises(ValueError, match="all 5 steps"):
        whole.step()


def test_documents_are_copied_and_repeat(engine):
    docs = ["ab", "ba"]
    trainer = Trainer(docs, num_steps=5, engine=engine, n_embd=4)
    assert docs == ["ab", "ba"]
    losses = trainer.run()
    assert len(losses) == 5 and len(set(hexes(losses))) == 5


def test_prompt_begins_every_sample(engine):
    trainer = Trainer(NAMES, num_steps=3, engine=engine, n_embd=8)
    trainer.run()
    other = oracle.trainer(NAMES, num_steps=3, n_embd=8)
    samples = trainer.sample(4, temperature=0.8, prompt="ol")
    assert samples == other.sample(4, temperature=0.8, prompt="ol")
    assert all(sample.startswith("ol") for sample in samples)
    assert all(len(sample) <= 16 for sample in samples)


def test_prompt_that_cannot_be(engine):
    trainer = Trainer(NAMES, num_steps=1, engine=engine, n_embd=8, block_size=4)
    with pytest.raises(ValueError, match="character 'X' .* is not in the vocabulary"):
        trainer.sample(prompt="aX")
    with pytest.raises(ValueError, match="the prompt has 4 characters; with block_size 4 it may have 3"):
        trainer.sample(prompt="emma")
    assert len(trainer.sample_one(prompt="emm")) in (3, 4)


@pytest.mark.parametrize("temperature", [0, -1, float("nan"), float("inf")])
def test_temperature_that_cannot_be(engine, temperature):
    with pytest.raises(ValueError, match="temperature must be a number greater than 0"):
        Trainer(NAMES, num_steps=1, engine=engine, n_embd=4).sample(1, temperature=temperature)


BAD_SETTINGS = {
    "n_embd (16) must be a multiple of n_head (3)": dict(n_head=3),
    "n_embd must be at least 1, not 0": dict(n_embd=0),
    "n_head must be at least 1, not -1": dict(n_head=-1),
    "n_layer must be at least 0, not -1": dict(n_layer=-1),
    "block_size must be at least 1, not 0": dict(block_size=0),
    "num_steps must be at least 0, not -1": dict(num_steps=-1),
    "beta1 must be at least 0 and less than 1, not 1": dict(beta1=1),
    "eps_adam must be greater than 0, not 0.0": dict(eps_adam=0.0),
    "learning_rate must be finite, not nan": dict(learning_rate=float("nan")),
    "learning_rate must be at least 0, not -1": dict(learning_rate=-1),
    "engine must be one of fused, graph, reference, not 'gpu'": dict(engine="gpu"),
}


@pytest.mark.parametrize("message", BAD_SETTINGS)
def test_setting_that_cannot_be(message):
    with pytest.raises(ValueError) as error:
        Trainer(NAMES, **BAD_SETTINGS[message])
    assert str(error.value) == message


@pytest.mark.parametrize("settings", [dict(n_embd=1.5), dict(seed="x"), dict(n_layers=2), dict(beta1="x"), dict(n_embd=True),
     dict(beta1=np.True_),
     dict(n_layer=np.True_), dict(n_head=np.float64(2)), dict(beta1=np.array([0.5])), dict(beta1=1j), dict(seed=1.0)])
def test_setting_of_another_type(settings):
    with pytest.raises(TypeError):
        Trainer(NAMES, **settings)


def test_numbers_and_texts_of_numpy_are_pythons_own(engine, tmp_path):
    docs = np.array(NAMES)
    assert type(docs[0]) is not str
    numpy = Trainer(
        docs, num_steps=np.int64(4), seed=np.uint8(200), engine=np.str_(engine), n_embd=np.uint8(4), n_head=np.int16(2),
        n_layer=np.int64(1), block_size=np.uint8(8), learning_rate=np.float32(0.25), beta1=np.float64(0.5), beta2=0,
        eps_adam=np.array(0.5), init_std=1,
    )  # fmt: skip
    plain = Trainer(NAMES, num_steps=4, seed=200, engine=engine, n_embd=4, n_head=2, n_layer=1, block_size=8,
                    learning_rate=0.25, beta1=0.5, beta2=0.0, eps_adam=0.5, init_std=1.0)  # fmt: skip
    assert {type(doc) for doc in numpy.docs} == {str} and numpy.docs == plain.docs
    assert {type(x) for x in (*numpy.settings.values(), numpy.num_steps, numpy.seed)} == {int, float}
    assert hexes(numpy.run(np.int32(3))) == hexes(plain.run(3))
    for one, other in ((numpy, plain), (plain, numpy)):
        assert one.sample(np.int8(2), np.float32(0.5), np.str_("e"), seed=np.int64(3), top_k=np.int8(4),
                          max_length=np.int64(5), top_p=np.float64(0.9)) == other.sample(
            2, 0.5, "e", seed=3, top_k=4, max_length=5, top_p=0.9)  # fmt: skip
    assert [*numpy.generate(np.str_("e"), np.float64(1), seed=np.int8(1))] == [*plain.generate("e", 1, seed=1)]
    assert evaluate(numpy, docs).loss == evaluate(plain, NAMES).loss
    numpy.save(tmp_path / "numpy")
    plain.save(tmp_path / "plain")
    assert (tmp_path / "numpy").read_bytes() == (tmp_path / "plain").read_bytes()
    assert Trainer.load(tmp_path / "numpy", docs, engine=engine).run() == plain.run()


def test_text_that_lies_about_itself_is_taken_by_its_characters(engine):
    class Liar(str):
        def __len__(self):
            return 10**6

        def __str__(self):
            return "other"

        def __iter__(self):
            return iter("lies")

    docs = [Liar(name) for name in NAMES]
    assert hexes(Trainer(docs, num_steps=3, engine=engine, n_embd=4).run()) == hexes(
        Trainer(NAMES, num_steps=3, engine=engine, n_embd=4).run()
    )


def test_counts_below_zero_are_refused(engine):
    trainer = Trainer(NAMES, num_steps=1, engine=engine, n_embd=4)
    for call in (trainer.run, trainer.sample):
        with pytest.raises(ValueError, match="n must be at least 0, not -1"):
            call(-1)


@pytest.mark.parametrize("docs, error", [([], ValueError), ("emma", TypeError), (["a", 1], TypeError)])
def test_documents_that_cannot_be(docs, error):
    with pytest.raises(error):
        Trainer(docs)


def script_failure(docs, settings, num_steps):
    """(the exception of the script's arithmetic, the steps before it), from the live reference."""
    rng = random.Random(42)
    docs = list(docs)
    rng.shuffle(docs)
    uchars = sorted(set("".join(docs)))
    bos = len(uchars)
    rate = settings.pop("learning_rate")
    model = reference.GPT(bos + 1, **settings, rng=rng)
    adam = reference.Adam(model, learning_rate=rate, num_steps=num_steps)
    for step in range(num_steps):
        try:
            tokens = [bos] + [uchars.index(ch) for ch in docs[step % len(docs)]] + [bos]
            loss = reference.document_loss(tokens, model)
            loss.backward()
            adam.step()
        except (ValueError, ArithmeticError) as error:
            return error, step
    return None, num_steps


def test_diverged_run_names_step_cause_and_advice(engine, tmp_path):
    """A learning rate this high ends in a probability of 0, whose logarithm Python refuses to compute."""
    kind, settings = ValueError, dict(n_embd=4, n_head=2, learning_rate=1e3)
    expected, done = script_failure(NAMES, dict(settings), 60)
    assert type(expected) is kind and done > 0, "the case no longer shows what it is here for"
    trainer = Trainer(NAMES, num_steps=60, engine=engine, **settings)
    for failing in (trainer.run, trainer.step):
        with pytest.raises(DivergedError) as caught:
            failing()
        error = caught.value
        assert isinstance(error, ValueError) and isinstance(error, ArithmeticError)
        assert error.step == done + 1 and trainer.step_index == done
        assert (type(error.__cause__), str(error.__cause__)) == (kind, str(expected))
        assert f"diverged at step {done + 1}" in str(error) and str(expected.args[-1]) in str(error)
        assert f"a learning_rate lower than {settings['learning_rate']}" in str(error) and "\n" not in str(error)
    twin = Trainer(NAMES, num_steps=60, engine="reference", **settings)
    twin.run(done)
    assert hexes(trainer.parameters) == hexes(twin.parameters)
    assert not any(hexes([p.grad])[0] != "0x0.0p+0" for p in trainer.model.params)
    trainer.save(tmp_path / "run.safetensors")
    with pytest.raises(DivergedError) as caught:
        Trainer.load(tmp_path / "run.safetensors", NAMES, engine=engine).run()
    assert caught.value.step == done + 1
    again = pickle.loads(pickle.dumps(caught.value))
    assert (type(again), str(again), again.step) == (DivergedError, str(caught.value), done + 1)


@pytest.mark.parametrize("kind", [OverflowError, ZeroDivisionError])
def test_other_arithmetic_errors_are_divergence_too(engine, kind):
    trainer = Trainer(NAMES, num_steps=60, engine=engine, n_embd=4, n_head=2)
    trainer.run(3)
    before = hexes(trainer.parameters)
    if kind is OverflowError:
        trainer.model.params[5].grad = 1e200  # its square overflows in Adam
    else:
        trainer.adam.beta1 = 1.0
    with pytest.raises(DivergedError, match="diverged at step 4") as caught:
        trainer.run()
    assert type(caught.value.__cause__) is kind and caught.value.step == 4 and trainer.step_index == 3
    assert hexes(trainer.parameters) == before


def test_sample_of_a_diverged_model_says_so(engine):
    trainer = Trainer(NAMES, num_steps=3, engine=engine, n_embd=4)
    trainer.run(2)
    trainer.parameters *= 20
    state = trainer.rng.getstate()
    with pytest.raises(ValueError, match="temperature 1e-307 is too low") as caught:
        trainer.sample(1, temperature=1e-307)
    assert not isinstance(caught.value, DivergedError)
    with pytest.raises(ValueError, match="temperature 5e-324 is too low"):
        trainer.sample(1, temperature=5e-324)
    trainer.parameters *= float("nan")
    for sampling in (trainer.sample, trainer.sample_one, lambda: trainer.sample(top_k=2), lambda: [*trainer.generate()]):
        with pytest.raises(DivergedError, match="the model of step 2 cannot be sampled.*not finite") as caught:
            sampling()
        assert caught.value.step == 2
    assert trainer.rng.getstate() == state


def test_error_of_a_handler_is_not_called_divergence(engine):
    """ValueError is what a handler may raise, too."""
    trainer = Trainer(NAMES, num_steps=10, engine=engine, n_embd=4)

    class Documents(list):
        def __getitem__(self, index):
            raise ValueError("handler")

    trainer.docs = Documents(trainer.docs)
    with pytest.raises(ValueError, match="^handler$") as caught:
        trainer.run()
    assert type(caught.value) is ValueError


def test_trainers_in_threads_give_the_bits_they_give_alone(engine):
    seeds = range(4)
    alone = [hexes(Trainer(NAMES, num_steps=3, seed=seed, engine=engine, n_embd=4).run()) for seed in seeds]
    together = {}

    def work(seed):
        together[seed] = hexes(Trainer(NAMES, num_steps=3, seed=seed, engine=engine, n_embd=4).run())

    threads = [threading.Thread(target=work, args=(seed,)) for seed in seeds]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [together[seed] for seed in seeds] == alone


def test_repr_says_where_the_run_stands():
    trainer = Trainer(NAMES, num_steps=7, engine="reference", n_embd=4)
    trainer.run(2)
    assert "reference engine, step 2 of 7" in repr(trainer)
    assert ENGINES[0] == "fused"


@pytest.mark.parametrize("doc", ["xa", "a\u00e9b", "a\u4e2db", "a" * 40 + "X"])
def test_a_document_changed_afterwards_is_refused_in_the_tokenizers_words(engine, doc):
    trainer = Trainer(["ab", "ba"] * 3, num_steps=6, engine=engine, n_embd=4, n_head=2, block_size=4)
    trainer.docs[3] = doc
    with pytest.raises(ValueError) as expected:
        trainer.tokenizer.encode(doc)
    with pytest.raises(ValueError) as caught:
        trainer.run()
    assert str(caught.value) == str(expected.value)
    assert trainer.step_index == len(trainer.last_losses) == 3
