"""Learning rates that do not fall linearly: `reference.scheduled_rate`, and every engine with its bits."""
import json
import math
import random

import pytest
from conftest import hexes
from small_runs import DOCS, SHAPES, expected_numbers, numbers

from microgpt import GPT, Adam, Trainer, Value, reference, run_sweep
from microgpt.config import SCHEDULES, Config
from microgpt.errors import CheckpointError
from microgpt.storage.checkpoint import read_about
from microgpt.storage.runlog import learning_rate, read_log
from microgpt.train import main

RATES = [dict(schedule="constant"), dict(schedule="cosine"), dict(warmup=2), dict(schedule="constant", warmup=3),
         dict(schedule="cosine", warmup=1)]  # fmt: skip


def expected(num_steps, batch_size, shape, rates):
    return expected_numbers(num_steps, batch_size, tuple(RATES[rates].items()), **SHAPES[shape])


# ---- the definition ----


def test_rates_are_those_of_the_docstring():
    rate, pi = reference.scheduled_rate, math.pi
    for step in range(10):
        assert rate(step, 0.01, 10) == rate(step, 0.01, 10, "linear", 0) == 0.01 * (1 - step / 10)
        assert rate(step, 0.01, 10, "constant") == rate(step, 0.01, None) == 0.01
        assert rate(step, 0.01, 10, "cosine") == 0.01 * (0.5 * (1 + math.cos(pi * (step / 10))))
    for schedule in SCHEDULES:
        assert [rate(step, 0.3, 9, schedule, 3) for step in range(4)] == [0.3 * (k / 4) for k in (1, 2, 3)] + [0.3]
    assert [rate(step, 0.3, 9, "linear", 3) for step in (4, 8)] == [0.3 * (1 - 1 / 6), 0.3 * (1 - 5 / 6)]
    assert rate(6, 0.3, 9, "cosine", 3) == 0.3 * (0.5 * (1 + math.cos(pi * 0.5)))
    with pytest.raises(ValueError, match="there is no schedule 'cosinus'"):
        rate(0, 0.3, 9, "cosinus")


def test_an_adam_has_the_rates_of_its_reference():
    for kept in [{}, *RATES]:
        one, other = Adam(GPT(3), num_steps=12, **kept), reference.Adam(reference.GPT(3), num_steps=12, **kept)
        assert [one.rate(i) for i in range(12)] == [other.rate(i) for i in range(12)]
    adams = [Adam(GPT(3), num_steps=12, **kept) for kept in [{}, *RATES]]
    assert len({tuple(map(adam.rate, range(12))) for adam in adams}) == 6


# ---- the engines ----


@pytest.mark.parametrize("rates", range(len(RATES)), ids=lambda i: str(RATES[i]))
@pytest.mark.parametrize("batch_size", [1, 3])
def test_every_engine_has_the_bits_of_the_reference(engine, rates, batch_size):
    trainer = Trainer(DOCS, 4, engine=engine, batch_size=batch_size, **SHAPES[0], **RATES[rates])
    assert numbers(trainer, trainer.run()) == expected(4, batch_size, 0, rates)


@pytest.mark.slow
@pytest.mark.parametrize("shape", [1, 2])
@pytest.mark.parametrize("rates", range(len(RATES)))
def test_other_shapes(compiled_engine, shape, rates):
    trainer = Trainer(DOCS, 4, engine=compiled_engine, **SHAPES[shape], **RATES[rates])
    assert numbers(trainer, trainer.run()) == expected(4, 1, shape, rates)


@pytest.mark.slow
@pytest.mark.parametrize("batch_size", [1, 2])
def test_every_instruction_set(isa, batch_size):
    for rates in range(len(RATES)):
        trainer = Trainer(DOCS, 5, batch_size=batch_size, **SHAPES[1], **RATES[rates])
        assert numbers(trainer, trainer.run()) == expected(5, batch_size, 1, rates)


@pytest.mark.parametrize("rates", RATES, ids=str)
def test_many_steps_in_one_call_are_as_many_calls(rates):
    """More than the fused engine hands to C at a time, in the optimistic way and not."""
    fused, graph, steps = (Trainer(DOCS, 150, engine=name, **SHAPES[0], **rates) for name in ("fused", "graph", "fused"))
    expected = numbers(graph, graph.run())
    assert numbers(fused, fused.run()) == expected
    assert numbers(steps, [*steps.run(70), *(steps.step() for _ in range(9)), *steps.run()]) == expected


def test_adam_over_a_list_of_values():
    for kept in [{}, *RATES]:
        ours, theirs = [Value(0.5 + i) for i in range(20)], [reference.Value(0.5 + i) for i in range(20)]
        one, other = Adam(ours, num_steps=9, **kept), reference.Adam(theirs, num_steps=9, **kept)
        for step in range(9):
            for a, b in zip(ours, theirs):
                a.grad = b.grad = 0.1 * (step - a.data)
            one.step()
            other.step()
        assert hexes(p.data for p in ours) == hexes(p.data for p in theirs)


def test_a_constant_rate_of_no_number_of_steps_trains_in_the_fused_engine():
    from microgpt.core.fused import FusedEngine

    found = []
    for kept in (dict(num_steps=None), dict(num_steps=7, schedule="constant")):
        model = GPT(5, rng=random.Random(1))
        losses = []
        FusedEngine(model).train([[4, 0, 1, 4], [4, 2, 3, 4]], Adam(model, **kept), losses)
        found.append(hexes(losses) + hexes(model.data))
    assert found[0] == found[1]


# ---- settings ----


@pytest.mark.parametrize("kept, error, words", [
    (dict(schedule="step"), ValueError, "schedule must be one of linear, constant, cosine, not 'step'"),
    (dict(schedule=None), ValueError, "schedule must be one of"),
    (dict(warmup=-1), ValueError, "warmup must be at least 0, not -1"),
    (dict(warmup=0.5), TypeError, "warmup must be a whole number"),
    (dict(warmup=9, num_steps=9), ValueError, r"warmup \(9\) must be less than num_steps \(9\)"),
])  # fmt: skip
def test_settings_that_no_run_has(kept, error, words):
    with pytest.raises(error, match=words):
        Trainer(DOCS, **kept)


def test_settings_of_adam():
    adam = Adam(GPT(3), schedule="cosine", warmup=4)
    assert (adam.schedule, adam.warmup) == ("cosine", 4) and "schedule='cosine', warmup=4, step_index=0" in repr(adam)
    adam.schedule, adam.warmup = "constant", 0
    assert adam.rate(500) == 0.01 and "warmup" not in repr(adam)
    for name, value in (("schedule", "step"), ("warmup", -1)):
        with pytest.raises(ValueError, match=name):
            setattr(adam, name, value)
    for module, leaf in ((reference, reference.Value(1.0)), (None, Value(1.0))):
        with pytest.raises(ValueError, match="the cosine schedule needs num_steps"):
            (module or __import__("microgpt")).Adam([leaf], schedule="cosine")


def test_what_is_off_is_not_named():
    assert Config().settings.keys() == Trainer(DOCS, 1, **SHAPES[2]).settings.keys()
    assert not Config().settings.keys() & {"batch_size", "schedule", "warmup"}
    assert Config(schedule="cosine", warmup=2).settings["schedule"] == "cosine"


# ---- saved runs ----


@pytest.mark.parametrize("first, second", [("fused", "graph"), ("graph", "reference"), ("reference", "fused")])
@pytest.mark.parametrize("rates", [1, 4])
def test_a_run_resumes_in_another_engine(tmp_path, first, second, rates):
    trainer = Trainer(DOCS, 4, engine=first, **SHAPES[0], **RATES[rates])
    losses = trainer.run(2)
    trainer.save(tmp_path / "run")
    resumed = Trainer.load(tmp_path / "run", DOCS, second)
    assert {name: resumed.settings[name] for name in RATES[rates]} == RATES[rates]
    assert numbers(resumed, losses + resumed.run()) == expected(4, 1, 0, rates)


@pytest.mark.parametrize("began", [{}, dict(schedule="cosine", warmup=2)], ids=str)
@pytest.mark.parametrize("changed", [dict(schedule="constant"), dict(schedule="linear"), dict(warmup=3), dict(warmup=0)], ids=str)
def test_what_was_changed_on_adam_is_saved(tmp_path, engine, began, changed):
    trainer = Trainer(DOCS, 6, engine=engine, **SHAPES[2], **began)
    for name, value in changed.items():
        setattr(trainer.adam, name, value)
    trainer.run(1)
    trainer.save(tmp_path / "run")
    resumed = Trainer.load(tmp_path / "run", DOCS, engine)
    assert resumed.config == trainer.config
    assert [resumed.adam.rate(i) for i in range(6)] == [trainer.adam.rate(i) for i in range(6)]


@pytest.mark.parametrize("change", [("settings", "schedule", "linear"), ("settings", "warmup", 0), ("settings", "warmup", 6),
                                    ("settings", "schedule", "x"), ("adam", "schedule", 1), ("adam", "warmup", -1),
                                    ("adam", "batch_size", 2), ("adam", "warmup", 1.5)], ids=str)  # fmt: skip
def test_a_file_with_impossible_rates_is_refused(tmp_path, change):
    from microgpt.storage.metadata import parse

    trainer = Trainer(DOCS, 6, **SHAPES[2], schedule="cosine", warmup=2)
    trainer.adam.learning_rate = 0.5
    trainer.save(tmp_path / "run")
    raw = (tmp_path / "run").read_bytes()
    about = json.loads(json.loads(raw[8 : 8 + int.from_bytes(raw[:8], "little")])["__metadata__"]["microgpt"])
    assert parse(json.dumps(about))["adam"]["schedule"] == "cosine"
    part, name, value = change
    about[part][name] = value
    with pytest.raises(CheckpointError):
        parse(json.dumps(about))


# ---- the command ----


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "input.txt").write_text("\n".join(DOCS))
    return tmp_path


FLAGS = ["--n-embd", "8", "--n-head", "2", "--block-size", "6", "--samples", "2"]


def test_every_engine_prints_the_same(folder, capfd):
    printed = set()
    for name in ("fused", "graph", "reference"):
        assert main([*FLAGS, "--steps", "4", "--schedule", "cosine", "--warmup", "2", "--engine", name]) == 0
        printed.add(capfd.readouterr().out)
    assert len(printed) == 1 and "step    4 /    4 | loss " in printed.pop()


def test_the_default_schedule_given_is_the_script(folder, capfd):
    assert main([*FLAGS, "--steps", "9"]) == 0
    script = capfd.readouterr().out
    assert main([*FLAGS, "--steps", "9", "--schedule", "linear", "--warmup", "0"]) == 0
    assert capfd.readouterr().out == script
    assert main([*FLAGS, "--steps", "9", "--schedule", "constant"]) == 0
    assert capfd.readouterr().out != script


def test_a_resumed_run_must_agree(folder, capfd):
    assert main([*FLAGS, "--steps", "4", "--schedule", "cosine", "--warmup", "2", "--save", "run"]) == 0
    for flag, value, begun in (("--schedule", "linear", "cosine"), ("--warmup", "1", "2")):
        assert main(["--resume", "run", flag, value]) == 2
        assert f"run was begun with {flag} {begun}; it cannot continue with {value}" in capfd.readouterr().err
    assert main(["--resume", "run", "--schedule", "cosine", "--warmup", "2"]) == 0


@pytest.mark.parametrize("other", ["fused", "graph"])
def test_a_constant_rate_goes_on_for_more_steps(folder, capfd, other):
    """To the file of a run that was begun with so many."""
    constant = [*FLAGS, "--schedule", "constant", "--warmup", "3"]
    assert main([*constant, "--steps", "9", "--save", "whole"]) == 0
    whole = capfd.readouterr().out
    assert main([*constant, "--steps", "5", "--samples", "0", "--save", "run"]) == 0
    capfd.readouterr()
    assert main(["--resume", "run", "--steps", "9", "--samples", "2", "--save", "run", "--engine", other]) == 0
    said = capfd.readouterr()
    assert (folder / "run").read_bytes() == (folder / "whole").read_bytes()
    assert "run continues after step 5 of 9" in said.err and said.out.splitlines()[-2:] == whole.splitlines()[-2:]
    assert main(["--resume", "run", "--steps", "8"]) == 2
    assert "run was begun with --steps 9; it cannot continue with 8, because it is at step 9 already" in capfd.readouterr().err


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_a_rate_that_falls_over_the_steps_keeps_them(folder, capfd, schedule):
    assert main([*FLAGS, "--schedule", schedule, "--steps", "5", "--save", "run"]) == 0
    before = (folder / "run").read_bytes()
    capfd.readouterr()
    for steps in ("4", "9"):
        assert main(["--resume", "run", "--steps", steps, "--save", "run"]) == 2
        said = capfd.readouterr()
        assert f"begun with --steps 5; it cannot continue with {steps}, because its learning rate falls over all steps" in said.err
        assert said.out == ""
    assert (folder / "run").read_bytes() == before


def test_a_log_has_the_rates(folder):
    assert main([*FLAGS, "--steps", "5", "--schedule", "cosine", "--warmup", "2", "--log", "run.jsonl"]) == 0
    records = read_log("run.jsonl")
    expected = [reference.scheduled_rate(i, 0.01, 5, "cosine", 2) for i in range(5)]
    assert [record["learning_rate"] for record in records] == expected
    assert records[0]["run"]["settings"]["schedule"] == "cosine" and records[0]["run"]["settings"]["warmup"] == 2
    trainer = Trainer(DOCS, 5, **SHAPES[0], schedule="cosine", warmup=2)
    assert [learning_rate(trainer, step) for step in range(1, 6)] == expected


def test_a_sweep_over_schedules(folder, capfd):
    from microgpt.parallel.results import read_results
    from microgpt.sweep import main as sweep

    grid = ["--grid", "num_steps=6 n_embd=4 schedule=linear,constant,cosine warmup=0,3 n_layer=0", "--out", "runs.jsonl"]
    assert sweep(grid) == 0
    said = capfd.readouterr()
    results = read_results("runs.jsonl")
    assert len(results) == 6 and not any(result.error for result in results)
    best = min(results, key=lambda result: result.score)
    command = said.out.splitlines()[-1]
    for name, off in (("schedule", "linear"), ("warmup", 0)):
        assert (f"--{name} {best.settings[name]}" in command) == (best.settings[name] != off)
    for result in results:
        assert Trainer(DOCS, **result.settings).run()[-1] == result.final_loss
    assert sweep(grid) == 0  # from the file
    assert capfd.readouterr().out == said.out
    assert sweep(["--grid", "schedule=cosine,step"]) == 2
    assert "the values of schedule are linear, constant, cosine, not 'step'" in capfd.readouterr().err


def test_results_of_a_file_without_the_newer_settings(folder):
    """As sweeps wrote them before there were schedules."""
    list(run_sweep(DOCS, {"num_steps": 3, **SHAPES[2]}, out="runs.jsonl"))
    head, row = (folder / "runs.jsonl").read_text().splitlines()
    row = {name: value for name, value in json.loads(row).items() if name not in ("schedule", "warmup")}
    (folder / "runs.jsonl").write_text(f"{head}\n{json.dumps(row)}\n")
    (found,) = run_sweep(DOCS, {"num_steps": 3, **SHAPES[2]}, out="runs.jsonl")
    assert found.settings["schedule"] == "linear" and len((folder / "runs.jsonl").read_text().splitlines()) == 2


HIGH = ["--steps", "1", "--samples", "0", "--n-embd", "64", "--block-size", "4"]


def test_a_rate_that_is_high_for_the_size_is_said_once(folder, capfd):
    assert main([*HIGH, "--save", "run"]) == 0
    said = capfd.readouterr()
    hint = "microgpt: hint: --learning-rate 0.01 is high for --n-embd 64; about 0.0025 should learn better"
    assert [line.startswith(hint) for line in said.err.splitlines()].count(True) == 1 and "hint" not in said.out
    for quiet in ([*HIGH, "--quiet"], [*HIGH, "--learning-rate", "0.005"], [*HIGH, "--batch-size", "8"],
                  ["--resume", "run"], ["--steps", "1", "--samples", "0", "--n-embd", "32"]):  # fmt: skip
        assert main(quiet) == 0
        assert "hint" not in capfd.readouterr().err
    assert main(["--steps", "1", "--samples", "0", "--learning-rate", "0.04"]) == 0
    assert "0.04 is high for --n-embd 16; about 0.01 should" in capfd.readouterr().err


def test_old_files_have_the_schedule_of_the_script():
    from pathlib import Path

    old = Path(__file__).parents[1] / "data" / "format-1.safetensors"
    trainer = Trainer.load(old)
    assert (trainer.adam.schedule, trainer.adam.warmup) == ("linear", 0)
    assert read_about(old)["config"].schedule == "linear"
