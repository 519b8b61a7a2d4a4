"""Weight decay and clipped gradients: every engine, instruction set and batch size has the bits of the reference."""
import math
import random

import oracle
import pytest
import small_runs
from conftest import hexes
from small_runs import DOCS, check_failed_step, numbers

import microgpt
from microgpt import GPT, Adam, DivergedError, Trainer, Value, document_loss, reference
from microgpt.core.fused import FusedEngine
from microgpt.train import main
from microgpt.trainer import ENGINES

SHAPES = [*small_runs.SHAPES, dict(n_embd=20, n_head=2, n_layer=1, block_size=12)]
OPTIONS = [dict(weight_decay=0.1), dict(weight_decay=3.0, schedule="cosine", warmup=1), dict(clip=0.3),
           dict(clip=1e-3, weight_decay=0.5, schedule="constant", warmup=2)]  # fmt: skip


def expected(num_steps, **settings):
    trainer = oracle.trainer(DOCS, num_steps, **settings)
    return numbers(trainer, trainer.last_losses)


# ---- the definition ----


def updated(params, grads, lr_t, adam):
    """One update, written out: the parameters after it. adam has its moments of before."""
    if adam.clip is not None:
        norm = math.sqrt(norm_squared(grads, [len(row) for row in adam.rows]))
        grads = [grad * (adam.clip / norm) for grad in grads] if norm > adam.clip else grads
    m_scale, v_scale = 1 - adam.beta1 ** (adam.step_index + 1), 1 - adam.beta2 ** (adam.step_index + 1)
    found = []
    for data, grad, m, v in zip(params, grads, adam.m, adam.v):
        data -= lr_t * adam.weight_decay * data
        m = adam.beta1 * m + (1 - adam.beta1) * grad
        v = adam.beta2 * v + (1 - adam.beta2) * grad**2
        found.append(data - lr_t * (m / m_scale) / ((v / v_scale) ** 0.5 + adam.eps))
    return found


def norm_squared(grads, widths):
    total, grads = 0.0, iter(grads)
    for width in widths:
        row = 0.0
        for _ in range(width):
            grad = next(grads)
            row += grad * grad
        total += row
    assert next(grads, None) is None
    return total


@pytest.mark.parametrize("kept", OPTIONS, ids=str)
def test_what_is_documented_is_what_the_reference_does(kept):
    rng = random.Random(1)
    model = reference.GPT(5, n_embd=4, n_head=2, block_size=3, rng=rng)
    adam = reference.Adam(model, num_steps=9, **kept)
    for step in range(4):
        for p in model.params:
            p.grad = rng.gauss(0, 1)
        after = updated([p.data for p in model.params], [p.grad for p in model.params], adam.rate(step), adam)
        adam.step()
        assert hexes(p.data for p in model.params) == hexes(after)


def test_rows_are_those_of_the_state_dict():
    model = reference.GPT(5, n_embd=4, n_head=2, block_size=3)
    assert [len(row) for row in reference.Adam(model).rows] == [4] * (5 + 3 + 5 + 4 * 4 + 16) + [16] * 4
    assert [len(row) for row in reference.Adam(model.params).rows] == [len(model.params)]


def test_a_norm_that_is_not_larger_changes_nothing():
    for module, Leaf in ((microgpt, Value), (reference, reference.Value)):
        for grads, clip, found in (([3.0, 4.0], 5.0, [3.0, 4.0]), ([3.0, -4.0], 2.5, [1.5, -2.0]), ([0.0, -0.0], 1.0, [0.0, 0.0])):
            leaves = [Leaf(0.0), Leaf(0.0)]
            for p, grad in zip(leaves, grads):
                p.grad = grad
            # Without moments, and with an eps that outweighs the root, a step is the gradient.
            adam = module.Adam(leaves, 1e20, 0.0, 0.0, 1e20, clip=clip)
            adam.step()
            assert hexes(adam.m) == hexes(found)


# ---- the engines ----


@pytest.mark.parametrize("kept", OPTIONS, ids=str)
@pytest.mark.parametrize("batch_size", [1, 3])
@pytest.mark.parametrize("shape", [0, pytest.param(1, marks=pytest.mark.slow), pytest.param(2, marks=pytest.mark.slow)])
def test_every_engine_has_the_bits_of_the_reference(compiled_engine, kept, batch_size, shape):
    settings = dict(batch_size=batch_size, **SHAPES[shape], **kept)
    trainer = Trainer(DOCS, 4, engine=compiled_engine, **settings)
    assert numbers(trainer, trainer.run()) == expected(4, **settings) != expected(4, batch_size=batch_size, **SHAPES[shape])


@pytest.mark.parametrize("batch_size", [1, 2])
def test_a_limit_that_no_gradient_reaches_is_none(engine, batch_size):
    found = []
    for kept in ({}, dict(clip=1e6)):
        trainer = Trainer(DOCS, 4, engine=engine, batch_size=batch_size, **SHAPES[0], **kept)
        found.append(numbers(trainer, trainer.run()))
    assert found[0] == found[1]


def test_a_limit_that_some_gradients_reach():
    """Between the norms that the steps have, so that both ways are taken in one run."""
    shape, steps = SHAPES[0], 40
    runs = [Trainer(DOCS, steps, engine=name, **shape, clip=1.9) for name in ("fused", "graph")]
    found = [numbers(run, run.run()) for run in runs]
    assert found[0] == found[1]
    free, reached = Trainer(DOCS, steps, engine="graph", **shape, clip=1.9), 0
    adam = free.adam
    for step in range(steps):
        document_loss(free.tokenizer.encode(free.docs[step % len(DOCS)]), free.model).backward()
        reached += float((free.model.grad**2).sum()) ** 0.5 > adam.clip
        adam.step()
    assert 5 < reached < steps - 5
    assert hexes(free.parameters) == found[0][1]


@pytest.mark.slow
@pytest.mark.parametrize("batch_size", [1, 3])
@pytest.mark.parametrize("shape", [1, 3])
def test_every_instruction_set(isa, batch_size, shape):
    steps = 4 if shape == 1 else 3  # the reference takes 15 times as long for the other
    for kept in OPTIONS if (batch_size, shape) != (3, 3) else OPTIONS[-1:]:
        settings = dict(batch_size=batch_size, **SHAPES[shape], **kept)
        trainer = Trainer(DOCS, steps, **settings)
        assert numbers(trainer, trainer.run()) == expected(steps, **settings)


@pytest.mark.slow
@pytest.mark.parametrize("kept", OPTIONS, ids=str)
@pytest.mark.parametrize("shape", [0, dict(n_embd=80, n_head=8), dict(n_embd=8, n_head=2, block_size=9000)], ids=str)
def test_many_steps_in_one_call_are_as_many_calls(kept, shape):
    """Models that Adam updates at once, matrix by matrix, and without the embeddings of positions that no document has."""
    steps, settings = 24, {**(SHAPES[shape] if shape == 0 else shape), **kept}
    fused, graph, calls = (Trainer(DOCS, steps, engine=name, **settings) for name in ("fused", "graph", "fused"))
    found = numbers(graph, graph.run())
    assert numbers(fused, fused.run()) == found
    assert numbers(calls, [*calls.run(17), *(calls.step() for _ in range(3)), *calls.run()]) == found


@pytest.mark.parametrize("kept", OPTIONS, ids=str)
@pytest.mark.parametrize("batch_size", [1, 4])
def test_threads_share_the_work(kept, batch_size, share_all):
    rng, found = random.Random(4), []
    documents = [[11, *(rng.randrange(11) for _ in range(9)), 11] for _ in range(12)]
    for threads in (1, 3):
        model, losses = GPT(12, rng=random.Random(5), **SHAPES[3]), []
        adam, engine = Adam(model, num_steps=20, **kept), FusedEngine(model)
        engine.set_threads(threads)
        engine.train(documents, adam, losses, batch_size=batch_size)
        found.append([hexes(x) for x in (losses, model.data, adam.m, adam.v)])
        assert engine.shares(10) == (threads > 1)
    assert found[0] == found[1]


@pytest.mark.slow
@pytest.mark.parametrize("kept", OPTIONS, ids=str)
@pytest.mark.parametrize("batch_size", [1, 2])
@pytest.mark.usefixtures("collector_off")
def test_gradients_that_were_there_are_added_to(kept, batch_size):
    found = []
    for name in ENGINES:
        trainer = Trainer(DOCS, 3, engine=name, batch_size=batch_size, **SHAPES[0], **kept)
        for i, p in enumerate(trainer.model.params):
            p.grad = (-0.0, 0.25, 0.0)[i % 3]
        found.append(numbers(trainer, trainer.run()))
    assert found[0] == found[1] == found[2]


SPECIAL = [0.0, -0.0, 5e-324, -1e-310, 1e-200, 1.0, -1e300, float("inf"), -float("inf"), float("nan")]


@pytest.mark.parametrize("kept", [*OPTIONS, dict(weight_decay=1.0, learning_rate=0.0), dict(weight_decay=-1e-3),
                                  dict(weight_decay=1e300, learning_rate=1e10), dict(clip=1e-310), dict(clip=1e300)], ids=str)  # fmt: skip
def test_special_numbers(isa, kept):
    """Signed zeros, subnormal numbers, infinities and nan, in an Adam over a model and over a list of Values."""
    rng = random.Random(2)
    sizes = dict(n_embd=8, n_head=2, n_layer=1, block_size=4)
    ours, theirs = GPT(5, **sizes), reference.GPT(5, **sizes)
    for p in theirs.params:
        p.data = rng.choice(SPECIAL) if rng.random() < 0.2 else rng.gauss(0, 1)
    ours.data[:] = [p.data for p in theirs.params]
    values = [Value(p.data) for p in theirs.params]
    others = [reference.Value(p.data) for p in theirs.params]
    adams = [module.Adam(params, num_steps=9, **kept)
             for module, params in ((microgpt, ours), (reference, theirs), (microgpt, values),
                                    (reference, others))]  # fmt: skip
    for step in range(4):
        # Squares that overflow, and in the last step what is not finite, can only be where they are clipped away.
        special = [*SPECIAL[:6], *([1e200, -1e308] if "clip" in kept else []), *(SPECIAL[7:] if kept.get("clip") and step == 3 else [])]
        grads = [rng.choice(special) if rng.random() < 0.2 else rng.gauss(0, 1) for _ in theirs.params]
        ours.grad[:] = grads
        for params in (theirs.params, values, others):
            for p, grad in zip(params, grads):
                p.grad = grad
        errors = [error_of(adam.step) for adam in adams]
        assert errors[0] == errors[1] and errors[2] == errors[3]
        assert hexes(ours.data) == hexes(p.data for p in theirs.params)
        assert hexes(p.data for p in values) == hexes(p.data for p in others)


def error_of(step):
    try:
        step()
    except ArithmeticError as error:
        return type(error), error.args
    return None


@pytest.mark.parametrize("kept", OPTIONS, ids=str)
def test_a_list_of_values_one_of_which_is_there_twice(kept):
    found = []
    for Leaf, Optimizer in ((Value, Adam), (reference.Value, reference.Adam)):
        values = [Leaf(0.5 * i - 3) for i in range(40)]
        params = [*values[:18], values[3], *values[25:], values[3]]
        adam = Optimizer(params, num_steps=9, **kept)
        for step in range(4):
            for i, p in enumerate(values):
                p.grad = 0.1 * (step - i)
            adam.step()
        found.append(hexes(p.data for p in values) + hexes(adam.m) + hexes(adam.v))
    assert found[0] == found[1]


# ---- errors ----


@pytest.mark.parametrize("kept", [{}, dict(weight_decay=0.5)], ids=str)
def test_a_negative_second_moment_undoes_what_adam_has_done_before_it(compiled_engine, kept):
    """Written by hand, as beta2 above 1 would make it: the last parameter's root fails when all others are updated."""
    trainer = Trainer(DOCS, 9, engine=compiled_engine, **SHAPES[0], **kept)
    trainer.run(2)
    trainer.adam.v[-1] = -1.0
    before = numbers(trainer, [])
    with pytest.raises(DivergedError):
        trainer.run(1)
    assert numbers(trainer, []) == before and trainer.step_index == 2


@pytest.mark.parametrize("kept", OPTIONS, ids=str)
@pytest.mark.parametrize("batch_size", [1, pytest.param(3, marks=pytest.mark.slow)])
def test_a_step_that_fails_has_no_effect(engine, kept, batch_size):
    trainer, twin = (Trainer(DOCS, 9, engine=engine, batch_size=batch_size, **SHAPES[0], **kept) for _ in range(2))
    check_failed_step(trainer, twin, None)


@pytest.mark.parametrize("batch_size", [1, 2])
def test_an_overflow_in_adam_undoes_the_decay(engine, batch_size):
    """A gradient beyond all bounds, which was there before: its square overflows at a parameter in the middle."""
    trainer = Trainer(DOCS, 9, engine=engine, batch_size=batch_size, **SHAPES[0], weight_decay=0.1)
    trainer.run(1)
    before = numbers(trainer, [])
    trainer.model.params[50].grad = 1e200
    with pytest.raises(ArithmeticError):
        trainer.run(1)
    assert numbers(trainer, []) == before and trainer.step_index == 1


def test_a_lone_adam_stops_where_the_reference_stops():
    """As without weight decay: the parameters before the one at fault are updated, those after it are not, all are decayed."""
    found = []
    for module in (microgpt, reference):
        model = module.GPT(5, n_embd=4, n_head=2, block_size=3, rng=random.Random(3))
        adam = module.Adam(model, weight_decay=0.5)
        for i, p in enumerate(model.params):
            p.grad = 1e200 if i == 70 else 0.5
        with pytest.raises(OverflowError):
            adam.step()
        found.append(hexes(p.data for p in model.params) + hexes(adam.m) + hexes(adam.v) + [adam.step_index])
    assert found[0] == found[1]


# ---- settings, files, the command ----


@pytest.mark.parametrize("name, value, error", [
    ("weight_decay", -0.1, ValueError), ("weight_decay", float("inf"), ValueError), ("weight_decay", "x", TypeError),
    ("clip", 0, ValueError), ("clip", -1.0, ValueError), ("clip", float("nan"), ValueError), ("clip", "off", TypeError),
])  # fmt: skip
def test_settings_that_no_run_has(name, value, error):
    kept = {name: value}
    with pytest.raises(error, match=f"{name} must be"):
        Trainer(DOCS, **kept)


def test_settings_of_adam():
    adam = Adam(GPT(3), weight_decay=0.25, clip=2)
    assert (adam.weight_decay, adam.clip) == (0.25, 2.0) and "weight_decay=0.25, clip=2.0, step_index=0" in repr(adam)
    adam.weight_decay, adam.clip = 0, None
    assert (adam.weight_decay, adam.clip) == (0.0, None) and "weight_decay" not in repr(adam) and "clip" not in repr(adam)
    with pytest.raises(ValueError, match="clip must be greater than 0, not -1"):
        adam.clip = -1


@pytest.mark.parametrize("first, second", [("fused", "graph"), ("graph", "reference"), ("reference", "fused")])
def test_a_run_resumes_in_another_engine(tmp_path, first, second):
    settings = dict(**SHAPES[0], **OPTIONS[-1])
    trainer = Trainer(DOCS, 4, engine=first, **settings)
    losses = trainer.run(2)
    trainer.save(tmp_path / "run")
    resumed = Trainer.load(tmp_path / "run", DOCS, second)
    assert {name: resumed.settings[name] for name in OPTIONS[-1]} == OPTIONS[-1]
    assert numbers(resumed, losses + resumed.run()) == expected(4, **settings)


@pytest.mark.parametrize("began", [{}, OPTIONS[-1]], ids=str)
@pytest.mark.parametrize("changed", [dict(weight_decay=0.0), dict(weight_decay=1 / 3), dict(clip=None), dict(clip=1 / 3)], ids=str)
def test_what_was_changed_on_adam_is_saved(tmp_path, engine, began, changed):
    trainer = Trainer(DOCS, 6, engine=engine, **SHAPES[2], **began)
    for name, value in changed.items():
        setattr(trainer.adam, name, value)
    trainer.save(tmp_path / "run")
    resumed = Trainer.load(tmp_path / "run", DOCS, engine)
    assert {name: getattr(resumed.adam, name) for name in changed} == changed
    assert numbers(resumed, resumed.run()) == numbers(trainer, trainer.run())


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "input.txt").write_text("\n".join(DOCS))
    return tmp_path


FLAGS = ["--steps", "4", "--n-embd", "8", "--n-head", "2", "--block-size", "6", "--samples", "2", "--weight-decay", "0.5", "--clip", "1e-8"]


def test_every_engine_prints_the_same(folder, capfd):
    printed = set()
    for name in ("fused", "graph", "reference"):
        assert main([*FLAGS, "--engine", name]) == 0
        printed.add(capfd.readouterr().out)
    assert len(printed) == 1
    for fewer in (FLAGS[:-2], FLAGS[:-4], [*FLAGS[:-4], *FLAGS[-2:]]):
        assert main(fewer) == 0
        printed.add(capfd.readouterr().out)
    assert len(printed) == 4


def test_a_resumed_run_must_agree(folder, capfd):
    assert main([*FLAGS, "--save", "run"]) == 0
    assert main(["--resume", "run", "--weight-decay", "0.1"]) == 2
    assert "run was begun with --weight-decay 0.5; it cannot continue with 0.1" in capfd.readouterr().err
    assert main(["--resume", "run", "--clip", "1"]) == 2
    assert "run was begun with --clip 1e-08; it cannot continue with 1.0" in capfd.readouterr().err
    assert main(["--resume", "run", "--weight-decay", "0.5", "--clip", "1e-8"]) == 0
    assert main([*FLAGS[:-2], "--save", "other"]) == 0
    capfd.readouterr()
    assert main(["--resume", "other", "--clip", "1"]) == 2
    assert "other was begun without --clip; it cannot continue with 1.0" in capfd.readouterr().err


def test_a_sweep_over_them(folder, capfd):
    from microgpt.parallel.results import read_results
    from microgpt.sweep import main as sweep

    assert sweep(["--grid", "num_steps=6 n_embd=4 n_layer=0 weight_decay=0.5,5 clip=off,0.2", "--out", "runs.jsonl",
                  "--plot", "loss.png"]) == 0  # fmt: skip
    said, results = capfd.readouterr().out, read_results("runs.jsonl")
    assert "--weight-decay " in said.splitlines()[-1] and len(results) == 4
    assert sorted(line.split()[1] for line in said.splitlines()[1:5]) == ["0.2", "0.2", "off", "off"]
    for result in results:
        assert Trainer(DOCS, **result.settings).run()[-1] == result.final_loss
    assert sweep(["--grid", "num_steps=6 n_embd=4 n_layer=0 clip=off,0.2", "--plot", "clip.png"]) == 0
    assert sweep(["--grid", "clip=none"]) == 2
