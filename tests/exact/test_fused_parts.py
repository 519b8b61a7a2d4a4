"""A batch in parts, as several ranks compute it, here one after the other in one process: the bits of the whole batch."""
import pytest
import small_runs
from conftest import hexes
from small_runs import DOCS

from microgpt import GPT, Adam, Tokenizer, Trainer
from microgpt.config import Config
from microgpt.core.fused import FusedEngine
from microgpt.core.mt19937 import MT19937
from microgpt.core.part import BatchPart
from microgpt.distributed.parts import part_of
from microgpt.engines import Fused
from microgpt.engines.script_loop import Graph

SHAPES = [*small_runs.SHAPES, pytest.param(dict(n_embd=72, n_head=2, n_layer=2, block_size=12), marks=pytest.mark.slow)]

pytestmark = pytest.mark.usefixtures("share_all")


def in_parts(cuts, slices_at_once, steps, shape, threads=1):
    """Train on DOCS as one batch of which each part has some; return losses, parameters and moments."""
    rng, docs = MT19937(42), list(DOCS)
    rng.shuffle(docs)
    tokenizer = Tokenizer(docs)
    model = GPT(tokenizer.vocab_size, **shape, rng=rng)
    adam, engine, losses = Adam(model, num_steps=steps), FusedEngine(model), []
    bounds, part = [0, *cuts, len(docs)], BatchPart(engine, len(cuts) + 1)
    count = len(part.starts) - 1
    engine.set_threads(threads)
    for _ in range(steps):
        values = []
        for first, end in reversed([*zip(bounds, bounds[1:])]):
            values = part.losses(docs[first:end], tokenizer.ids, len(docs)) + values
            for i in range(0, count, slices_at_once):
                part.add_gradients(i, min(i + slices_at_once, count))
        adam.step()
        total = 0.0
        for value in values:
            total += value
        losses.append(total * (1 / len(docs)))
    return [hexes(x) for x in (losses, model.data, adam.m, adam.v)]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("cuts, slices_at_once", [([], 1), ([3], 2), ([0, 2, 2, 5, 7], 1000)])
def test_parts_continue_the_sums_of_those_after_them(isa, shape, cuts, slices_at_once):
    trainer = Trainer(DOCS, num_steps=3, batch_size=len(DOCS), **shape)
    whole = [hexes(x) for x in (trainer.run(), trainer.parameters, trainer.adam.m, trainer.adam.v)]
    assert in_parts(cuts, slices_at_once, 3, shape) == whole


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("threads", [2, 3])
def test_threads_share_a_part(shape, threads):
    assert in_parts([3], 2, 3, shape, threads) == in_parts([], 1, 3, shape)


def test_slices_are_all_parameters_in_order():
    model = GPT(27, n_embd=128, n_layer=2)
    engine = FusedEngine(model)
    slices = [BatchPart(engine, processes).starts for processes in (1, 5, 1)]
    for starts in slices:
        assert starts == sorted(set(starts)) and starts[0] == 0 and starts[-1] == model.num_params
    assert len(slices[1]) > len(slices[0]) and slices[0] == slices[2]


def test_parts_for_other_numbers_of_processes_share_an_engine():
    """Each cuts the parameters as it did before, whatever another one made of the engine meanwhile."""
    docs, grads = ["ab", "ba"], []
    tokenizer = Tokenizer(docs)
    for others in ((), (1, 64)):
        model = GPT(tokenizer.vocab_size, n_embd=64, rng=MT19937(1))
        engine = FusedEngine(model)
        part = BatchPart(engine, 5)
        part.losses(docs, tokenizer.ids, 2)
        for processes in others:
            BatchPart(engine, processes)
        for i in range(len(part.starts) - 1):
            part.add_gradients(i, i + 1)
        grads.append(hexes(model.grad))
    assert grads[0] == grads[1] and any(model.grad)


def test_gradients_are_added_right_after_their_losses():
    """What they are made of is where other work of the engine puts its own numbers."""
    tokenizer, model = Tokenizer(["ab", "ba"]), GPT(3)
    engine = FusedEngine(model)
    part = BatchPart(engine, 2)
    for work in (lambda: None, lambda: engine.position_losses([2, 0, 1, 2]), lambda: part.losses(["ax"], tokenizer.ids, 2)):
        try:
            work()
        except ValueError:
            pass
        with pytest.raises(RuntimeError, match="losses comes right before"):
            part.add_gradients(0, 1)
        assert not model.grad.any()
        part.losses(["ab", "ba"], tokenizer.ids, 2)
        engine.shares(3)


def test_arguments_that_no_part_has():
    docs = ["ab", "ba"]
    tokenizer, model = Tokenizer(docs), GPT(3)
    part = BatchPart(FusedEngine(model), 2)
    count = len(part.starts) - 1
    assert part.losses([], tokenizer.ids, 2) == []
    part.add_gradients(0, count)
    assert not model.grad.any() and part.capacity > 100
    for first, end in ((-1, 1), (2, 1), (0, count + 1)):
        with pytest.raises(ValueError, match="first and end must be from 0 to"):
            part.add_gradients(first, end)
    with pytest.raises(ValueError, match="is not in the vocabulary"):
        part.losses(["ax"], tokenizer.ids, 2)

    def check():
        raise KeyError("stop")

    large = GPT(3, n_embd=64, block_size=512)
    with pytest.raises(KeyError):
        BatchPart(FusedEngine(large), 1).losses(["ab" * 300] * 40, tokenizer.ids, 40, check)
    assert not large.grad.any()


@pytest.mark.parametrize("kept", [{}, dict(weight_decay=0.5)], ids=str)
@pytest.mark.parametrize("kind", [Fused, Graph])
def test_an_update_that_fails_midway_is_undone(kind, kept):
    tokenizer = Tokenizer(DOCS)
    engine = kind(tokenizer.vocab_size, Config(num_steps=9, **SHAPES[0], **kept), kind.seeded(1))
    engine.adam.v[-1] = -1.0  # of which Adam takes the root when all other parameters are updated
    before, part = [hexes(x) for x in (engine.parameters(), engine.adam.m, engine.adam.v)], part_of(engine, 1)
    part.begin(True)
    part.losses(DOCS, tokenizer, len(DOCS), lambda: None)
    for chunk in range(len(part.chunks)):
        part.add(chunk)
    with pytest.raises(ValueError, match="v is negative"):
        part.update()
    part.clear()
    assert [hexes(x) for x in (engine.parameters(), engine.adam.m, engine.adam.v)] == before
