"""Batches: (1 / B) * sum(losses) of B documents, one backward pass, one update, in all engines."""

import pytest
from small_runs import DOCS, SHAPES, check_failed_step, expected_numbers, numbers

from microgpt import Trainer
from microgpt.train import main


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("batch_size", [2, 3, pytest.param(9, marks=pytest.mark.slow)])
def test_a_batch_is_the_script_one_level_up(engine, shape, batch_size):
    trainer = Trainer(DOCS, num_steps=2, engine=engine, batch_size=batch_size, **shape)
    losses = trainer.run()
    assert numbers(trainer, losses) == expected_numbers(2, batch_size, **shape)


@pytest.mark.slow
def test_every_instruction_set(isa):
    shape = dict(n_embd=20, n_head=2, n_layer=1, block_size=12)
    trainer = Trainer(DOCS, num_steps=2, batch_size=6, **shape)
    assert numbers(trainer, trainer.run()) == expected_numbers(2, 6, **shape)


def test_a_batch_of_one_is_the_script(engine):
    ours, theirs = (Trainer(DOCS, num_steps=4, engine=engine, **SHAPES[0], **size) for size in ({"batch_size": 1}, {}))
    assert numbers(ours, ours.run()) == numbers(theirs, theirs.run())


def test_steps_and_runs_of_any_length_are_one_run(engine):
    whole = Trainer(DOCS, num_steps=6, engine=engine, batch_size=3, **SHAPES[0])
    parts = Trainer(DOCS, num_steps=6, engine=engine, batch_size=3, **SHAPES[0])
    losses = [parts.step(), *parts.run(2), *parts.run(0), *parts.run()]
    assert numbers(parts, losses) == numbers(whole, whole.run())


@pytest.mark.slow
@pytest.mark.parametrize("first, second", [("fused", "graph"), ("graph", "reference"), ("reference", "fused")])
def test_a_run_resumes_in_another_engine(tmp_path, first, second):
    path = tmp_path / "run.safetensors"
    trainer = Trainer(DOCS, num_steps=5, engine=first, batch_size=4, **SHAPES[1])
    losses = trainer.run(2)
    trainer.save(path)
    resumed = Trainer.load(path, DOCS, engine=second)
    assert resumed.config.batch_size == 4 and resumed.settings["batch_size"] == 4
    whole = Trainer(DOCS, num_steps=5, batch_size=4, **SHAPES[1])
    assert numbers(resumed, losses + resumed.run()) == numbers(whole, whole.run())


def test_gradients_that_were_there_are_added_to(compiled_engine):
    """As without batches: a step takes what the caller has put into grad along, -0.0 included."""
    found = []
    for name in (compiled_engine, "reference"):
        trainer = Trainer(DOCS, num_steps=3, engine=name, batch_size=3, **SHAPES[0])
        for i, p in enumerate(trainer.model.params):
            p.grad = (-0.0, 0.25, 0.0)[i % 3]
        found.append(numbers(trainer, trainer.run()))
    assert found[0] == found[1]


def test_a_batch_that_fails_has_no_effect(engine):
    trainer = Trainer(DOCS, num_steps=9, engine=engine, batch_size=3, **SHAPES[0])
    twin = Trainer(DOCS, num_steps=9, engine=engine, batch_size=3, **SHAPES[0])
    check_failed_step(trainer, twin, 1)


@pytest.mark.parametrize("value, error", [(0, ValueError), (-1, ValueError), (1.5, TypeError), (True, TypeError), ("2", TypeError)])
def test_sizes_that_no_batch_has(value, error):
    with pytest.raises(error, match="batch_size must be"):
        Trainer(DOCS, batch_size=value)


# ---- the command ----


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "input.txt").write_text("\n".join(DOCS))
    return tmp_path


FLAGS = ["--steps", "4", "--n-embd", "8", "--n-head", "2", "--block-size", "6", "--samples", "2", "--batch-size", "3"]


def test_every_engine_prints_the_same(folder, capfd):
    printed = set()
    for name in ("fused", "graph", "reference"):
        assert main([*FLAGS, "--engine", name]) == 0
        printed.add(capfd.readouterr().out)
    assert len(printed) == 1 and "step    4 /    4 | loss " in printed.pop()


def test_a_resumed_run_keeps_its_batch_size(folder, capfd):
    assert main([*FLAGS, "--save", "whole.safetensors"]) == 0
    assert main([*FLAGS, "--save", "run.safetensors", "--patience", "1", "--val", "input.txt", "--val-every", "1"]) == 0
    capfd.readouterr()
    for given in ("1", "2"):
        assert main(["--resume", "whole.safetensors", "--batch-size", given]) == 2
        assert f"was begun with --batch-size 3; it cannot continue with {given}" in capfd.readouterr().err
    assert main(["--resume", "whole.safetensors", "--batch-size", "3"]) == 0
    assert main(["--batch-size", "0"]) == 2
    assert "batch_size must be at least 1, not 0" in capfd.readouterr().err


def test_a_file_without_a_batch_size_is_of_one(tmp_path):
    from microgpt.storage.checkpoint import read_about

    trainer = Trainer(DOCS, num_steps=2, batch_size=1, **SHAPES[0])
    trainer.save(tmp_path / "one")
    assert "batch_size" not in read_about(tmp_path / "one")["settings"]
    assert Trainer.load(tmp_path / "one").config.batch_size == 1
