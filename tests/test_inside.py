"""The NumPy forward pass that shows attention: its logits have the bits of gpt's."""
import numpy as np
import oracle
import pytest
from conftest import hexes

from microgpt import Trainer
from microgpt.inside import attention, forward, weights

NAMES = ["emma", "olivia", "ava", "isabella", "sophia", "charlotte", "mia", "amelia", "harper", "evelyn"]


@pytest.mark.parametrize("settings", [{}, dict(n_embd=8, n_head=2, n_layer=3), dict(n_embd=9, n_head=3, block_size=7),
                                      dict(n_embd=5, n_head=5), dict(n_embd=1, n_head=1), dict(n_layer=0)])  # fmt: skip
@pytest.mark.parametrize("init_std", [0.08, 0.5])
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
    trainer = Trainer(NAMES, num_steps=3, engine=engine, n_layer=2)
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
    before = hexes(trainer._engine.get_data())
    found["wte"][:] = 0
    assert hexes(trainer._engine.get_data()) == before
