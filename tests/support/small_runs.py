"""Runs on seven documents, small enough for the script's own arithmetic in each test, and what their tests share."""
import functools
import random

import oracle
import pytest
from conftest import hexes

from microgpt import DivergedError, reference

DOCS = ["emma", "olivia", "ava", "isabella", "sophia", "mia", "amelia"]
SHAPES = [dict(n_embd=8, n_head=2, n_layer=1, block_size=5), dict(n_embd=6, n_head=3, n_layer=2, block_size=16),
          dict(n_embd=4, n_head=1, n_layer=0, block_size=3)]  # fmt: skip


def numbers(trainer, losses):
    """What a run must have to the bit: its losses, parameters and moments."""
    return [hexes(x) for x in (losses, trainer.parameters, trainer.adam.m, trainer.adam.v)]


@functools.cache
@oracle.collector_off()
def expected_numbers(num_steps, batch_size, rates=None, **shape):
    """The same of the script with its loss one level up, written out. rates: of `reference.scheduled_rate`, as sorted items."""
    rng, docs = random.Random(42), list(DOCS)
    rng.shuffle(docs)
    uchars = sorted(set("".join(docs)))
    bos = len(uchars)
    model = reference.GPT(bos + 1, **shape, rng=rng)
    adam, losses = reference.Adam(model, num_steps=num_steps), []
    for step in range(num_steps):
        if rates is not None:  # as Adam's own rate falls, it is set so that nothing of it is left
            adam.num_steps, adam.learning_rate = None, reference.scheduled_rate(step, 0.01, num_steps, **dict(rates))
        batch = [docs[(step * batch_size + i) % len(docs)] for i in range(batch_size)]
        each = [reference.document_loss([bos, *map(uchars.index, doc), bos], model) for doc in batch]
        loss = each[0] if batch_size == 1 else (1 / batch_size) * sum(each)
        loss.backward()
        losses.append(loss.data)
        adam.step()
    return [hexes(x) for x in (losses, [p.data for p in model.params], adam.m, adam.v)]


def check_failed_step(trainer, twin, n):
    """A step of trainer that fails, of up to n, has no effect: afterwards it goes on as twin, a trainer of the same run."""
    trainer.run(2)
    twin.run(2)
    before = trainer.parameters
    broken = before * 2000.0  # probabilities of 0
    trainer.parameters = broken
    with pytest.raises(DivergedError):
        trainer.run(n)
    assert trainer.step_index == 2 and hexes(trainer.parameters) == hexes(broken)
    assert {float(p.grad) for p in trainer.model.params} == {0.0}
    trainer.parameters = before
    assert numbers(trainer, trainer.run(1)) == numbers(twin, twin.run(1))
