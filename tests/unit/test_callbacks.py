"""Callbacks from Python: what the flags of the command give, without a bit of the run changed."""
import io
import os
import pickle
import re
import sys

import numpy as np
import pytest
from conftest import hexes

import microgpt
from microgpt import (
    Callback,
    Checkpointer,
    CheckpointError,
    Config,
    LossPlot,
    Progress,
    RunLogger,
    Trainer,
    Validator,
    train,
)
from microgpt.storage import checkpoint
from microgpt.storage.runlog import compare, read_log

DOCS = ["emma", "olivia", "ava", "isabella", "sophia", "mia", "amelia"]
SETTINGS = dict(n_embd=4, n_head=2, block_size=6)


def trainer_of(engine="fused", num_steps=12, **settings):
    return Trainer(DOCS, num_steps, engine=engine, **{**SETTINGS, **settings})


def outcome(trainer):
    return hexes(trainer.parameters), hexes(trainer.adam.m), hexes(trainer.adam.v), trainer.rng.getstate()


def test_callbacks_change_no_bit(engine, tmp_path):
    plain, watched = trainer_of(engine), trainer_of(engine)
    callbacks = [
        Validator(["emma", "mia"], every=4, best=tmp_path / "best.safetensors"), RunLogger(tmp_path / "run.jsonl", 5),
        LossPlot(tmp_path / "loss.svg"), Checkpointer(tmp_path / "run.safetensors", every=3), Progress(io.StringIO()),
    ]  # fmt: skip
    losses = watched.run(5, callbacks) + watched.run(callbacks=callbacks)
    assert hexes(losses) == hexes(plain.run()) and outcome(watched) == outcome(plain)
    assert [step for step, _ in callbacks[0].measured] == [4, 8, 12]
    assert [record["loss_hex"] for record in read_log(tmp_path / "run.jsonl")] == hexes(losses)
    assert outcome(Trainer.load(tmp_path / "run.safetensors", DOCS)) == outcome(plain)
    assert (tmp_path / "loss.svg").stat().st_size > 1000
    assert watched.run(callbacks=callbacks) == []  # all steps are done


def test_a_picture_that_cannot_be_written_is_one_error(tmp_path):
    said = []
    with pytest.raises(OSError):
        trainer_of().run(callbacks=[LossPlot(tmp_path / "nowhere" / "loss.svg", say=said.append)])
    assert said == []


def test_command_and_program_write_the_same_files(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for name, lines in (("text.txt", DOCS), ("val.txt", ["emma", "mia"])):
        (tmp_path / name).write_text("\n".join(lines), encoding="utf-8")
    flags = ["--n-embd", "4", "--n-head", "2", "--block-size", "6", "--steps", "12", "--samples", "0", "--val", "val.txt",
             "--val-every", "4", "--patience", "9", "--save", "c.safetensors", "--log", "c.jsonl", "--look-every", "5"]  # fmt: skip
    assert train.main(["--input", "text.txt", *flags]) == 0
    trainer, said = trainer_of(), []
    validator = Validator(["emma", "mia"], 4, 9, "p.best.safetensors", source="val.txt", say=said.append)
    trainer.run(callbacks=[validator, RunLogger("p.jsonl", 5), Checkpointer("p.safetensors", say=said.append)])
    for suffix in (".safetensors", ".best.safetensors"):
        assert (tmp_path / f"p{suffix}").read_bytes() == (tmp_path / f"c{suffix}").read_bytes()
    found = compare(read_log("p.jsonl"), read_log("c.jsonl"))
    assert found.same and found.common == found.digests == 12
    printed = [line.removeprefix("microgpt: ") for line in capsys.readouterr().err.splitlines()[3:]]
    assert re.fullmatch(r"12 steps in \d\.\d\d s; last loss \d\.\d{4}; validation loss \d\.\d{4}", printed.pop())
    assert [line.replace("p.", "c.") for line in said] == printed


@pytest.mark.parametrize("batch_size, unit", [(1, "step"), (3, "doc")])
def test_progress_shows_what_was_done_and_the_mean_of_the_last_losses(batch_size, unit):
    trainer = Trainer(DOCS, num_steps=150, n_embd=4, n_head=2, block_size=6, batch_size=batch_size)
    trainer.run(20)
    shown = io.StringIO()
    progress = Progress(shown)
    losses = trainer.run(callbacks=[progress])
    assert progress.bar is None
    last = shown.getvalue().rpartition("\r")[2]
    total = 150 * batch_size
    assert f"{total}/{total}" in last and f"{unit}/s" in last
    assert f"loss {sum(losses[-100:]) / 100:.4f}, " in last and "tokens/s]" in last
    tokens = [trainer.tokenizer.encode(trainer.docs[i % len(DOCS)])[1:][:6] for i in range(20 * batch_size, total)]
    assert progress.tokens == sum(map(len, tokens))


def test_message_of_progress_is_a_line_of_its_own(capsys):
    shown = io.StringIO()
    progress = Progress(shown)
    progress.say("before")
    trainer_of().run(callbacks=[progress, Validator(["emma"], 6, say=progress.say)])
    said = capsys.readouterr().out.splitlines()
    assert said[0] == "before" and [line.split(":")[0] for line in said[1:3]] == ["step 6", "step 12"]


def test_progress_in_a_notebook_is_that_of_notebooks(monkeypatch):
    import tqdm.auto

    made = []
    monkeypatch.setitem(sys.modules, "ipykernel", object())
    monkeypatch.setattr(tqdm.auto, "tqdm", lambda **arguments: made.append(arguments) or tqdm.tqdm(**arguments))
    trainer_of().run(callbacks=[Progress()])
    trainer_of().run(callbacks=[Progress(io.StringIO())])
    assert len(made) == 1


def test_callbacks_are_silent_unless_they_are_given_say(tmp_path, capfd):
    trainer_of().run(callbacks=[Validator(["emma"], 2, patience=1), Checkpointer(tmp_path / "run.safetensors"),
                                RunLogger(tmp_path / "run.jsonl")])  # fmt: skip
    assert capfd.readouterr() == ("", "")


def test_patience_ends_the_run_and_a_new_run_may_go_on():
    trainer = trainer_of(num_steps=400, learning_rate=0.3)
    validator = Validator(["mia"], every=5, patience=2)
    losses = trainer.run(callbacks=[validator])
    assert validator.stop and len(losses) == trainer.step_index < 400
    assert validator.state["checks_since_best"] == 2
    validator.patience = None
    assert len(trainer.run(7, callbacks=[validator])) == 7 and validator.stop is None


class Recorder(Callback):
    """Notes every call, and raises at one of them."""

    def __init__(self, calls, name="", every=None, at=None, error=KeyboardInterrupt):
        self.calls, self.name, self.every, self.at, self.error = calls, name, every, at, error

    def note(self, what):
        self.calls.append(f"{self.name}{what}")
        if what == self.at:
            raise self.error

    def on_train_begin(self, trainer):
        self.note("begin")

    def on_steps(self, trainer, first, losses):
        self.calls += [f"{self.name}{step}" for step, _ in enumerate(losses, first + 1)]

    def on_check(self, trainer, record):
        self.note(f"check {trainer.step_index}")

    def on_train_end(self, trainer):
        self.note("end")

    def on_exception(self, trainer, error):
        self.note(type(error).__name__)


def test_hooks_are_called_in_order(engine):
    calls = []
    trainer = trainer_of(engine, num_steps=5)
    trainer.run(callbacks=[Recorder(calls, every=2), Callback()])
    assert calls == ["begin", "1", "2", "check 2", "3", "4", "check 4", "5", "end"]
    calls.clear()
    trainer.run(callbacks=[Recorder(calls, "a "), Recorder(calls, "b ")])
    assert calls == ["a begin", "b begin", "b end", "a end"]


@pytest.mark.parametrize("at", ["begin", "check 3", "end"])
def test_exception_of_a_callback_is_answered_by_those_that_have_begun(engine, at):
    calls = []
    trainer = trainer_of(engine, num_steps=6)
    with pytest.raises(KeyboardInterrupt):
        trainer.run(callbacks=[Recorder(calls, "a "), Recorder(calls, "b ", 3, at), Recorder(calls, "c ")])
    answered = [call for call in calls if "Interrupt" in call]
    assert answered == [f"{name} KeyboardInterrupt" for name in ("cba" if at != "begin" else "a")]
    assert trainer.step_index == {"begin": 0, "check 3": 3, "end": 6}[at]
    assert hexes(trainer.run()) == hexes(trainer_of(engine, num_steps=6).run()[trainer.step_index - len(trainer.last_losses) :])


def test_exception_raised_while_another_is_answered_takes_its_place():
    calls = []
    with pytest.raises(OSError, match="disk"):
        trainer_of().run(callbacks=[Recorder(calls, "a "), Recorder(calls, "b ", at="KeyboardInterrupt", error=OSError("disk")),
                                    Recorder(calls, "c ", 2, "check 2")])  # fmt: skip
    assert calls[-3:] == ["c KeyboardInterrupt", "b KeyboardInterrupt", "a OSError"]


def test_interrupted_run_is_saved_and_resumed_to_the_same_bits(engine, tmp_path):
    trainer, path = trainer_of(engine), tmp_path / "run.safetensors"
    with pytest.raises(KeyboardInterrupt):
        trainer.run(callbacks=[Recorder([], every=5, at="check 5"), RunLogger(tmp_path / "run.jsonl"), Checkpointer(path)])
    assert [record["step"] for record in read_log(tmp_path / "run.jsonl")] == [1, 2, 3, 4, 5]
    again, whole = Trainer.load(path, DOCS, engine=engine), trainer_of(engine)
    whole.run()
    again.run(callbacks=[RunLogger(tmp_path / "run.jsonl")])
    assert outcome(again) == outcome(whole)
    assert [record["loss_hex"] for record in read_log(tmp_path / "run.jsonl")] == hexes(whole.last_losses)


def test_callback_may_use_the_trainer(engine):
    class Curious(Callback):
        every = 2
        found = ()

        def on_check(self, trainer, record):
            self.found += (trainer.step_index, trainer.sample(1, seed=1)[0], trainer.evaluate(["mia"]).loss)

    one, other = trainer_of(engine), trainer_of(engine)
    curious = Curious()
    one.run(callbacks=[curious])
    other.run()
    assert outcome(one) == outcome(other) and len(curious.found) == 18


@pytest.mark.parametrize("train", [Trainer.step, Trainer.run, lambda trainer: trainer.run(0, [Callback()])], ids=["step", "run", "more"])
@pytest.mark.parametrize("hook", ["on_train_begin", "on_steps", "is_due", "on_check", "flush", "on_train_end", "on_exception"])
def test_a_callback_cannot_train(hook, train):
    """The losses of the run would not be those of its steps, nor what the other callbacks are told of."""
    trainer, twin = trainer_of(), trainer_of()
    callback = type("Trains", (Callback,), {"every": 2, hook: lambda self, trainer, *given: train(trainer)})()
    with pytest.raises(RuntimeError, match="a run of this trainer is under way"):
        trainer.run(6, [callback, *[Recorder([], every=4, at="check 4")] * (hook == "on_exception")])
    assert trainer.last_losses == twin.run(trainer.step_index)
    assert trainer.run(2, [Callback()]) == twin.run(2)


@pytest.mark.parametrize("make", [
    lambda path: Checkpointer(path, every=0), lambda path: Validator(["a"], every=0), lambda path: Validator(["a"], patience=0),
    lambda path: RunLogger(path, look_every=0), lambda path: RunLogger(path, digest_every=0),
])  # fmt: skip
def test_rejects_intervals_below_one(tmp_path, make):
    with pytest.raises(ValueError, match="must be at least 1, not 0"):
        make(tmp_path / "x")
    assert os.listdir(tmp_path) == []


def test_intervals_of_numpy_are_whole_numbers(tmp_path):
    trainer = trainer_of()
    validator = Validator(["emma"], every=np.int64(6), patience=np.int8(3))
    trainer.run(np.int64(12), [validator, Checkpointer(tmp_path / "run.safetensors", every=np.uint8(5))])
    assert type(trainer.extra["validation"]["val_every"]) is int and trainer.step_index == 12


# ---- the state of a run as plain data ----


@pytest.mark.parametrize("other", ["fused", "graph", "reference"])
def test_run_goes_on_from_its_state(engine, other):
    trainer, whole = trainer_of(engine, seed=7), trainer_of(other, seed=7)
    whole.run()
    trainer.run(5)
    state = trainer.state()
    trainer.run()  # which changes nothing of the state
    again = Trainer.from_state(state, DOCS, engine=other)
    assert again.step_index == state.step_index == 5 and again.engine == other
    again.run()
    assert outcome(again) == outcome(whole) == outcome(trainer)
    assert Trainer.from_state(state).sample(2, seed=1) == Trainer.from_state(state, DOCS).sample(2, seed=1)
    with pytest.raises(CheckpointError, match="^the run was trained on other text"):
        Trainer.from_state(state, ["emma"])


def test_state_is_what_a_file_holds(engine, tmp_path):
    trainer = trainer_of(engine)
    trainer.run(4)
    trainer.extra["mine"] = [1, "two"]
    trainer.save(tmp_path / "one")
    checkpoint.save(tmp_path / "two", trainer.state())
    loaded = checkpoint.load(tmp_path / "one")
    checkpoint.save(tmp_path / "three", loaded)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes() == (tmp_path / "three").read_bytes()
    assert loaded.config == trainer.config and loaded.extra == {"mine": [1, "two"]}


# ---- settings ----


def test_config_is_immutable_and_compares_by_value():
    config = Config(n_embd=np.int64(8), learning_rate=np.float32(0.5))
    assert config == Config(n_embd=8, learning_rate=0.5) != Config(n_embd=8) and hash(config) == hash(config.replace())
    assert type(config.n_embd) is int and type(config.learning_rate) is float
    assert pickle.loads(pickle.dumps(config)) == config and repr(config).startswith("Config(num_steps=1000, seed=42, n_embd=8")
    for change in (lambda: setattr(config, "n_embd", 4), lambda: delattr(config, "n_embd"), lambda: setattr(config, "new", 1)):
        with pytest.raises(AttributeError, match="cannot be changed"):
            change()
    assert config.replace(seed=3).seed == 3 and config.seed == 42
    with pytest.raises(ValueError, match="multiple"):
        config.replace(n_head=3)


@pytest.mark.parametrize("settings", [{}, dict(n_layer=3, n_embd=6, n_head=3, block_size=5), dict(n_layer=0)])
def test_shapes_are_those_of_the_model(engine, settings):
    trainer = Trainer(DOCS, 1, engine=engine, **settings)
    shapes = {name: (len(rows), len(rows[0])) for name, rows in trainer.model.state_dict.items()}
    assert list(trainer.config.shapes(trainer.tokenizer.vocab_size).items()) == list(shapes.items())
    assert trainer.config.num_params(trainer.tokenizer.vocab_size) == trainer.model.num_params


def test_unknown_setting_is_a_type_error():
    with pytest.raises(TypeError, match="n_layers"):
        Trainer(DOCS, n_layers=2)


def test_exceptions_are_public_and_have_one_base():
    for name in ("DivergedError", "CheckpointError", "LogError", "UsageError"):
        kind = getattr(microgpt, name)
        assert issubclass(kind, microgpt.MicrogptError) and issubclass(kind, ValueError)
    assert issubclass(microgpt.NoThreadError, microgpt.MicrogptError) and issubclass(microgpt.NoThreadError, RuntimeError)


def test_versions_are_shown(capsys):
    microgpt.show_versions()
    out = capsys.readouterr().out
    assert out.startswith("microgpt:") and "compiler:" in out and "instruction sets:" in out
