"""How the objects show themselves: a line, and in a notebook a well-formed table."""

import pytest
from html_pages import WellFormed

import microgpt
from microgpt import Trainer, reference
from microgpt.viz.notebook import gpt_html, trainer_html, value_html

NAMES = ["emma", "olivia", "<b>&amp;", "zoë"]


@pytest.mark.parametrize("Value", [microgpt.Value, reference.Value])
def test_value(Value):
    x = Value(2.0)
    y = x * 3
    y.backward()
    text = " ".join(WellFormed(value_html(y)).text)
    assert "computed by * from" in text and "2 (local gradient 3), 3 (local gradient 2)" in text
    assert "computed" not in value_html(x)


@pytest.mark.parametrize("module", [microgpt, reference])
def test_gpt(module):
    model = module.GPT(7, n_embd=4, n_head=2, n_layer=2, block_size=3)
    text = WellFormed(gpt_html(model)).text
    for name, matrix in model.state_dict.items():
        assert text[text.index(name) + 1] == f"{len(matrix)} × {len(matrix[0])}"
    deep = module.GPT(7, n_embd=2, n_head=2, n_layer=9, block_size=3)
    assert "42 more matrices" in gpt_html(deep) and "layer8.mlp_fc2" in gpt_html(deep)


def test_trainer():
    trainer = Trainer(NAMES, num_steps=20, engine="reference", n_embd=4, n_head=2)
    before = trainer_html(trainer)
    WellFormed(before)
    assert "16: &amp;;&lt;&gt;abe" in before  # the vocabulary is text, whatever it looks like
    assert "<svg" not in before and "0 of 20 (0%)" in before
    trainer.run(10)
    page = WellFormed(trainer._repr_html_())
    text = " ".join(page.text)
    assert "10 of 20 (50%)" in text and "reference" in text and f"{trainer.last_losses[-1]:.4f}" in text
    assert "smoothed loss of the last 10 steps" in text and ("b", {}) not in page.tags
    WellFormed(trainer_html(Trainer(NAMES, num_steps=0, engine="reference", n_embd=4)))


def test_compiled_classes():
    x = microgpt.Value(2.0)
    assert "2.0" in repr(x) and x._repr_html_() == value_html(x)
    model = microgpt.GPT(5, n_embd=4)
    assert "n_embd=4" in repr(model) and model._repr_html_() == gpt_html(model)


@pytest.mark.parametrize("Value", [microgpt.Value, reference.Value])
def test_repr_of_a_value(Value):
    x = Value(2.5)
    (x * 3.0).backward()
    assert eval(repr(x), {"Value": lambda data, grad: (data, grad)}) == (2.5, 3.0)


def test_reference_objects_show_themselves_as_the_compiled_ones():
    ours, theirs = microgpt.GPT(5, 4, 2, 3, 7), reference.GPT(5, 4, 2, 3, 7)
    assert repr(theirs) == repr(ours) == "GPT(vocab_size=5, n_embd=4, n_head=2, n_layer=3, block_size=7)"
    settings = dict(learning_rate=0.5, beta1=0.25, beta2=0.75, eps=1e-6, num_steps=9)
    adams = [microgpt.Adam(ours, **settings), reference.Adam(theirs, **settings)]
    for adam in adams:
        adam.step()
    assert repr(adams[1]) == repr(adams[0]) and "step_index=1" in repr(adams[1])

    class Mine(reference.GPT):
        pass

    assert repr(Mine(5, n_embd=4)).startswith("Mine(vocab_size=5, ")
    assert len(repr(theirs)) < 100 and len(repr([reference.Value(1.0)] * 3)) < 120  # nothing below is written out
