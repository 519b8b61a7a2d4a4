"""A step that fails changes nothing, on every engine: not the caller's own gradients, and not at a negative second moment."""
import numpy as np
import pytest
from conftest import hexes

from microgpt import DivergedError, Tokenizer, Trainer
from microgpt.config import Config
from microgpt.distributed.parts import part_of
from microgpt.engines import engine_class

NAMES = ["emma", "olivia", "ava", "mia", "zoe"]


def trained(engine, steps=0, **settings):
    trainer = Trainer(NAMES, num_steps=9, engine=engine, n_embd=4, n_head=2, **settings)
    trainer.run(steps)
    return trainer


def set_gradients(trainer):
    for i, p in enumerate(trainer.model.params):
        p.grad = (i % 5 - 2.5) / 8 if i % 3 else -0.0


def gradients(trainer):
    return hexes(p.grad for p in trainer.model.params)


def spoil_forward(trainer):
    trainer.model.state_dict["lm_head"][0][0].data = 1e300
    trainer.model.state_dict["wte"][0][0].data = -1e300


def spoil_adam(trainer):
    trainer.model.params[5].grad = 1e200  # its square overflows when some parameters are updated


def spoil_moment(trainer):
    trainer.adam.v[7] = -1.0


def spoil_rate(trainer):
    trainer.adam.beta1 = 1.0  # 1 - beta1 ** (step + 1) is 0


def spoil_document(trainer):
    trainer.docs[:] = ["?"] * len(trainer.docs)


SPOILED = [spoil_forward, spoil_adam, spoil_moment, spoil_rate, spoil_document]


@pytest.mark.parametrize("batch_size", [1, 2])
@pytest.mark.parametrize("spoil", SPOILED, ids=lambda f: f.__name__)
def test_a_step_that_fails_leaves_the_callers_gradients(engine, spoil, batch_size):
    trainer = trained(engine, 2, batch_size=batch_size)
    set_gradients(trainer)
    spoil(trainer)
    before, params = gradients(trainer), hexes(p.data for p in trainer.model.params)
    m, v = hexes(trainer.adam.m), hexes(trainer.adam.v)
    for _ in range(2):  # trying again does not add to it either
        with pytest.raises((DivergedError, ValueError)):
            trainer.run()
        assert gradients(trainer) == before and hexes(p.data for p in trainer.model.params) == params
        assert hexes(trainer.adam.m) == m and hexes(trainer.adam.v) == v and trainer.step_index == 2


def test_a_later_step_that_fails_leaves_none(engine):
    trainer = trained(engine)
    set_gradients(trainer)
    trainer.docs[2] = "?"
    with pytest.raises(ValueError, match="vocabulary"):
        trainer.run()
    assert trainer.step_index == 2 and not any(p.grad for p in trainer.model.params)


def test_gradients_of_the_caller_are_part_of_the_first_step(engine):
    one, other = trained(engine), trained("reference")
    for trainer in (one, other):
        set_gradients(trainer)
    assert hexes(one.run(3)) == hexes(other.run(3))
    assert hexes(p.data for p in one.model.params) == hexes(p.data for p in other.model.params)


@pytest.mark.parametrize("step", [1 / 8, -0.0])  # -0.0: gradients that are all 0, but not by their bits
def test_a_rank_whose_step_fails_keeps_the_callers_gradients(engine, step):
    kind, tokenizer = engine_class(engine), Tokenizer(NAMES)
    rank = kind(tokenizer.vocab_size, Config(n_embd=4, n_head=2), kind.seeded(1))
    params = rank.model.params
    for i, p in enumerate(params):
        p.grad = i * step
    before = hexes(p.grad for p in params)
    part = part_of(rank, 1)
    for is_first, expected in ((True, before), (False, hexes([0.0] * len(before)))):
        part.begin(is_first)
        part.losses(["ava"], tokenizer, 1, lambda: None)
        part.gradients()
        part.add(0)
        part.clear()
        assert hexes(p.grad for p in params) == expected


@pytest.mark.parametrize("v", [-1.0, -5e-324, -1e300])
def test_negative_second_moment_is_the_same_error_on_every_engine(engine, v, tmp_path):
    messages = set()
    for name in (engine, "fused"):
        trainer = trained(name, 3)
        trainer.adam.v[2] = v
        trainer.save(tmp_path / "run.safetensors")  # nothing but the step itself says that it is of no use
        loaded = Trainer.load(tmp_path / "run.safetensors", docs=NAMES, engine=name)
        for each in (trainer, loaded):
            with pytest.raises(DivergedError, match="second moment is negative.*set v") as error:
                each.run()
            assert error.value.step == 4 and "probability" not in str(error.value)
            assert all(type(p.data) is float for p in each.model.params) and each.step_index == 3
            messages.add((str(error.value), str(error.value.__cause__), type(error.value.__cause__)))
            each.adam.v[2] = np.float64(0.0) if name != "reference" else 0.0
            each.run(1)
    assert len(messages) == 1


def test_negative_second_moment_comes_before_a_later_overflow(engine):
    trainer = trained(engine, 1)
    trainer.adam.v[2] = -1.0
    trainer.model.params[9].grad = 1e200
    with pytest.raises(DivergedError, match="second moment is negative"):
        trainer.run()
    trainer.adam.v[2], trainer.adam.v[12] = 0.0, -1.0
    with pytest.raises(DivergedError, match="too large"):
        trainer.run()
