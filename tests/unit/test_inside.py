"""The NumPy forward pass that shows attention: its logits have the bits of gpt's."""
import numpy as np
import oracle
import pytest
from conftest import hexes

import microgpt
from microgpt import Trainer, reference
from microgpt.viz.activations import attention, forward, weights

NAMES = ["emma", "olivia", "ava", "isabella", "sophia", "charlotte", "mia", "amelia", "harper", "evelyn"]


@pytest.mark.parametrize("settings", [{}, dict(n_embd=8, n_head=2, n_layer=3), dict(n_embd=9, n_head=3, block_size=7),
                                      dict(n_embd=5, n_head=5), dict(n_embd=1, n_head=1), dict(n_layer=0)])  # fmt: skip
@pytest.mark.parametrize("init_std", [0.08, pytest.param(0.5, marks=pytest.mark.slow)])
def test_logits_have_the_bits_of_the_script(engine, settings, init_std):
    trainer = Trainer(NAMES, num_steps=3, engine=engine, init_std=init_std, **settings)
    trainer.run(2)
    tokens = trainer.tokenizer.encode("olivia")[:-1]
    model = oracle.twin(trainer)
    found = forward(trainer.model, tokens)
    for row, expected in zip(found["logits"], oracle.logits(model, tokens), strict=True):
        assert hexes(row) == hexes(expected)
    n = len(tokens)
    assert found["attention"].shape == (model.n_layer, model.n_head, n, n)
    assert found["residual"].shape == (model.n_layer + 1, n, model.n_embd)


def test_attention_rows_are_probabilities_of_what_came_before(engine):
    trainer = Trainer(NAMES, num_steps=3, engine=engine, n_layer=2, n_embd=8)
    trainer.run()
    looks = attention(trainer, "emma")
    assert looks.shape == (2, 4, 5, 5)
    assert np.abs(looks.sum(axis=-1) - 1).max() < 1e-12
    assert (np.triu(looks, 1) == 0).all() and (looks[..., 0, 0] == 1).all()
    with pytest.raises(ValueError, match="not in the vocabulary"):
        attention(trainer, "XX")
    with pytest.raises(ValueError, match="the text has 16 characters; with block_size 16 it may have 15"):
        attention(trainer, "e" * 16)
    assert attention(trainer, "e" * 15).shape == (2, 4, 16, 16)


def test_weights_are_a_copy(engine):
    trainer = Trainer(NAMES, num_steps=1, engine=engine)
    found = weights(trainer.model)
    assert list(found) == list(trainer.model.state_dict) and found["wte"].shape == (trainer.tokenizer.vocab_size, 16)
    before = hexes(trainer.parameters)
    found["wte"][:] = 0
    assert hexes(trainer.parameters) == before


class Mine(microgpt.GPT):
    pass


@pytest.mark.parametrize("kind", [microgpt.GPT, Mine])
def test_weights_make_no_values(kind):
    """A Value for each parameter, which a model keeps once it is asked for them, takes seven times its number."""
    import tracemalloc

    model = kind(27, n_embd=64, n_head=4)  # 53,696 parameters, 430 kB
    weights(kind(5, n_embd=4)), forward(kind(5, n_embd=4), [4, 0])  # what is imported and cached once
    tracemalloc.start()
    try:
        found = weights(model)
        forward(model, [26, 0, 1])
        del found
        kept, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert kept < 20_000 and peak < 3 * 8 * model.num_params


@pytest.mark.parametrize("module", [microgpt, reference])
def test_weights_are_those_of_state_dict(module):
    model = module.GPT(7, n_embd=6, n_head=2, n_layer=3, block_size=5)
    found = weights(model)
    assert list(found) == list(model.state_dict)
    for name, matrix in model.state_dict.items():
        assert found[name].dtype == np.float64 and found[name].flags.owndata and found[name].flags.c_contiguous
        assert [hexes(row) for row in found[name]] == [hexes(p.data for p in row) for row in matrix]


def test_weights_of_a_class_with_a_state_dict_of_its_own():
    class Tied(microgpt.GPT):
        @property
        def state_dict(self):
            return {"tied": super().state_dict["wte"]}

    model = Tied(5, n_embd=4)
    assert list(weights(model)) == ["tied"] and (weights(model)["tied"].ravel() == model.data[:20]).all()


def test_attention_of_a_bare_model_takes_token_ids(engine):
    trainer = Trainer(NAMES, num_steps=3, engine=engine, n_layer=2, n_embd=8)
    trainer.run()
    expected = attention(trainer, "emma")
    ids = trainer.tokenizer.encode("emma")[1:-1]
    for model in (trainer.model, trainer):
        for given in (ids, tuple(ids), np.array(ids), iter(ids)):
            assert (attention(model, given) == expected).all()
    assert (forward(trainer, [trainer.tokenizer.BOS, *ids])["attention"] == expected).all()
    assert weights(trainer).keys() == weights(trainer.model).keys()
    with pytest.raises(TypeError, match="a GPT knows no characters: give its Trainer, or token ids instead of a text"):
        attention(trainer.model, "emma")
    for what, shown in (("emma", "str"), (None, "NoneType"), (trainer.tokenizer, "Tokenizer")):
        for look in (lambda x: attention(x, "emma"), weights, lambda x: forward(x, [0])):
            with pytest.raises(TypeError, match=f"expected a Trainer or a GPT, not {shown}"):
                look(what)
    with pytest.raises(ValueError, match="token id 99 is not in the vocabulary"):
        attention(trainer.model, [99])
    with pytest.raises(ValueError, match="token id -1 is not in the vocabulary"):
        attention(trainer, [-1])
    with pytest.raises(TypeError, match="a token id must be a whole number, not 1.5"):
        attention(trainer.model, [1.5])
    with pytest.raises(ValueError, match="16 tokens; with block_size 16 it may have 15"):
        attention(trainer.model, [0] * 16)
