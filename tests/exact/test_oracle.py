"""The oracle gives what the reference computes, remembers it by all that it depends on, and shares nothing."""
import gc
import random

import oracle
import pytest
from conftest import MARKERS, hexes

from microgpt import Trainer, reference

NAMES = ["emma", "olivia", "ava", "mia"]
SMALL = dict(n_embd=4, n_head=2, block_size=5)
TOKENS = [4, 1, 2, 0, 4]


def model(seed=1):
    return reference.GPT(5, **SMALL, init_std=0.5, rng=random.Random(seed))


def by_hand(twin, tokens=TOKENS):
    loss = reference.document_loss(tokens, twin)
    loss.backward()
    return loss.data.hex(), hexes(p.grad for p in twin.params)


def by_oracle(twin, tokens=TOKENS):
    return oracle.loss_and_grad(twin, tokens).hex(), hexes(p.grad for p in twin.params)


CHANGES = {
    "nothing": lambda twin: None,
    "a parameter by one bit": lambda twin: setattr(twin.params[7], "data", -twin.params[7].data),
    "a gradient": lambda twin: setattr(twin.params[7], "grad", 0.25),
    "the sign of a zero": lambda twin: setattr(twin.params[7], "data", -0.0),
    "the number of heads": lambda twin: (setattr(twin, "n_head", 1), setattr(twin, "head_dim", 4)),
    "the block": lambda twin: setattr(twin, "block_size", 2),
}


@pytest.mark.parametrize("change", CHANGES)
def test_loss_and_gradients_are_the_reference_s_after_any_change(change):
    by_oracle(model())
    for _ in range(2):  # computed, and remembered
        ours, theirs = model(), model()
        CHANGES[change](ours)
        CHANGES[change](theirs)
        assert by_oracle(ours) == by_hand(theirs)
        assert by_oracle(ours) == by_hand(theirs), "added to what is there"


def test_other_tokens_are_another_document():
    assert by_oracle(model(), [4, 1, 4]) == by_hand(model(), [4, 1, 4]) != by_oracle(model(), TOKENS)


def test_error_is_raised_each_time_and_leaves_the_gradients():
    for _ in range(2):
        twin = model()
        twin.params[0].grad = 3.0
        with pytest.raises(IndexError):
            oracle.loss_and_grad(twin, [4, 9, 4])
        assert twin.params[0].grad == 3.0 and twin.params[1].grad == 0


def test_samples_and_stream_move_on_as_in_the_script():
    rng, again = random.Random(3), random.Random(3)
    first = [oracle.sample(model(), rng, 0.9) for _ in range(4)]
    assert [oracle.sample(model(), again, 0.9) for _ in range(4)] == first
    assert rng.getstate() == again.getstate() != random.Random(3).getstate()
    first[0].append(99)
    assert 99 not in oracle.sample(model(), random.Random(3), 0.9)
    assert oracle.sample(model(), random.Random(3), 0.9, prompt=(1, 2)) != oracle.sample(model(), random.Random(3), 9.0)


@pytest.mark.parametrize("steps", [0, 2, 4])
def test_trainer_stands_where_one_that_ran_would_stand(steps):
    ran = Trainer(NAMES, 4, engine="reference", **SMALL)
    losses = ran.run(steps)
    for _ in range(2):
        made = oracle.trainer(NAMES, 4, steps, **SMALL)
        assert hexes(made.last_losses) == hexes(losses) and made.step_index == steps
        for ours, theirs in [(p.data for p in made.model.params), (p.data for p in ran.model.params)], [made.adam.m, ran.adam.m], [
            made.adam.v, ran.adam.v
        ]:  # fmt: skip
            assert hexes(ours) == hexes(theirs)
        assert made.rng.getstate() == ran.rng.getstate()
        made.run()
        made.sample(1)
        assert made.step_index == 4


def test_run_depends_on_every_setting():
    settings = dict(seed=1, samples=1, temperature=2.0, n_embd=8, n_head=1, n_layer=2, block_size=3, init_std=0.2,
                    learning_rate=0.1, beta1=0.5, beta2=0.6, eps_adam=1e-3)  # fmt: skip
    plain = oracle.run(NAMES, 2, **SMALL)
    assert all(oracle.run(NAMES, 2, **{**SMALL, name: value}) != plain for name, value in settings.items())
    assert oracle.run(NAMES, 2, **SMALL) is plain != oracle.run(NAMES[:-1], 2, **SMALL)
    assert plain != oracle.run(NAMES, 3, **SMALL)
    with pytest.raises(AttributeError):
        plain.losses = ()


def test_collector_is_off_within_and_afterwards_as_before():
    assert gc.isenabled()
    with oracle.collector_off():
        with oracle.collector_off():
            pass
        assert not gc.isenabled()
    with pytest.raises(KeyError), oracle.collector_off():
        raise KeyError
    assert gc.isenabled()


def test_folder_gives_its_marker(request):
    assert [name for name in MARKERS if request.node.get_closest_marker(name)] == ["exact"]


def test_collector_is_off_for_the_reference_alone(engine):
    assert gc.isenabled() == (engine != "reference")
