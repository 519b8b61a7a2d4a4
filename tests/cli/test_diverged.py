"""Runs that diverge, from the command line: what is said, what is kept, and the exit status."""
import json

import pytest

from microgpt import DivergedError, Trainer, Validator

DOCS = ["emma", "olivia", "ava", "isabella", "sophia", "mia"]
SMALL = ["--input", "text.txt", "--n-embd", "4", "--n-head", "2", "--block-size", "8", "--steps", "60", "--samples", "2"]
SETTINGS = dict(n_embd=4, n_head=2, block_size=8)
TOO_HIGH = ["--learning-rate", "2"]  # ends in a probability of 0
NAN = ["--learning-rate", "1e160"]  # goes on with nan


@pytest.fixture
def train(in_process, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.txt").write_text("\n".join(DOCS), encoding="utf-8")
    (tmp_path / "val.txt").write_text("mia\n", encoding="utf-8")

    def run(*arguments, status):
        done = in_process("train", *SMALL, *arguments)
        assert done.returncode == status and "Traceback" not in done.stderr, done.stderr
        return done

    return run


def by_hand(engine, learning_rate):
    """(stdout of the steps that were whole, the DivergedError) of the same run."""
    trainer = Trainer(DOCS, num_steps=60, engine=engine, learning_rate=learning_rate, **SETTINGS)
    with pytest.raises(DivergedError) as caught:
        trainer.run()
    lines = [f"step {i:4d} /   60 | loss {loss:.4f}\n" for i, loss in enumerate(trainer.last_losses, 1)]
    head = f"num docs: 6\nvocab size: {trainer.tokenizer.vocab_size}\nnum params: {trainer.model.num_params}\n"
    return head + "".join(lines), caught.value


def test_status_3_says_step_cause_and_advice_and_keeps_the_run(train, engine, tmp_path):
    stdout, error = by_hand("reference", 2.0)
    files = ["--save", "p.safetensors", "--val", "val.txt", "--val-every", "1", "--log", "run.jsonl"]
    done = train(*TOO_HIGH, "--engine", engine, *files, status=3)
    assert done.stdout == stdout and 1 < error.step < 60
    *_, saved, best, said = done.stderr.splitlines()
    assert saved == f"microgpt: saved step {error.step - 1} to p.safetensors"
    assert best.startswith("microgpt: lowest validation loss ") and best.endswith("kept in p.best.safetensors")
    assert said.startswith(f"microgpt: the run diverged at step {error.step}: the model gave a token")
    assert said.endswith("try a --learning-rate lower than 2.0")
    assert Trainer.load("p.safetensors").step_index == error.step - 1
    assert len((tmp_path / "run.jsonl").read_text().splitlines()) == error.step - 1

    again = train("--resume", "p.safetensors", "--engine", engine, *TOO_HIGH, status=3)
    assert f"diverged at step {error.step}:" in again.stderr
    alone = train(*TOO_HIGH, "--engine", engine, status=3)
    assert alone.stdout == stdout and alone.stderr.endswith("nothing was saved, because there was no --save\n")
    quiet = train(*TOO_HIGH, "--engine", engine, "--quiet", status=3)
    assert quiet.stdout == "".join(line for line in stdout.splitlines(True) if not line.startswith("step "))


@pytest.mark.parametrize("arguments, advice", [
    (["--weight-decay", "1e6"], "try a --weight-decay lower than 1000000.0"),
    (["--weight-decay", "1e6", "--learning-rate", "2"], "try a --learning-rate lower than 2.0 or a --weight-decay lower than 1000000.0"),
    (["--weight-decay", "1", "--learning-rate", "1e3"], "try a --learning-rate lower than 1000.0 or a --weight-decay lower than 1.0"),
    (["--weight-decay", "1e-4", "--learning-rate", "1e3"], "try a --learning-rate lower than 1000.0"),
    (["--init-std", "1e5"], "try an --init-std lower than 100000.0"),
    (["--init-std", "1e300"], "train with an --init-std lower than 1e+300"),
])  # fmt: skip
def test_the_advice_names_what_was_changed(train, arguments, advice):
    said = train(*arguments, "--save", "p.safetensors", status=3).stderr.splitlines()[-1]
    assert said.endswith(advice), said


@pytest.mark.slow
def test_losses_of_a_diverged_run_are_drawn(train, tmp_path):
    done = train(*TOO_HIGH, "--plot", "p.png", status=3)
    assert "drew p.png" in done.stderr and (tmp_path / "p.png").stat().st_size > 1000


def test_loss_that_is_nan_is_warned_of_once(train, engine):
    """The script goes on, and cannot sample at the end; by then the run is saved."""
    done = train(*NAN, "--engine", engine, "--save", "p.safetensors", status=3)
    assert done.stdout.count("loss nan") > 50 and done.stdout.endswith("inference (new, hallucinated names) ---\n")
    warnings = [line for line in done.stderr.splitlines() if "warning" in line]
    assert len(warnings) == 1 and "is nan: the run has diverged" in warnings[0]
    assert "saved step 60 to p.safetensors" in done.stderr
    assert "the model of step 60 cannot be sampled" in done.stderr.splitlines()[-1]
    assert Trainer.load("p.safetensors").step_index == 60


def test_validation_never_calls_nan_the_best(train):
    done = train(*NAN, "--val", "val.txt", "--val-every", "5", "--patience", "3", "--save", "p.safetensors", status=3)
    measured = [line for line in done.stderr.splitlines() if ": validation loss" in line and "stopped" not in line]
    assert "nan" in measured[-1] and not any("nan" in line and "best" in line for line in measured)
    assert "has not fallen for 3 measurements" in done.stderr


def test_first_loss_that_is_not_finite_is_not_the_best():
    trainer = Trainer(DOCS, num_steps=60, engine="reference", **SETTINGS)
    validation = Validator(["mia"], every=1, patience=2)
    validation.on_train_begin(trainer)
    data = trainer.parameters
    trainer.parameters = data * float("nan")
    validation.on_check(trainer, {})
    assert validation.state["best_loss"] is None and validation.state["checks_since_best"] == 1
    trainer.extra["validation"] = json.loads(json.dumps(validation.state))
    again = Validator(["mia"], every=1, patience=2)
    again.on_train_begin(trainer)
    again.on_check(trainer, {})
    assert again.stop and again.state["best_step"] is None
    again.on_train_end(trainer)  # has no lowest loss to speak of
