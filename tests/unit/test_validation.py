"""Validation beside training: what is held out and kept, when it stops, and that no bit of the training changes."""
import os
import shutil

import pytest
from conftest import hexes

from microgpt import Checkpointer, CheckpointError, Trainer, Validator, evaluate, split_docs
from microgpt.cli.options import best_path

pytestmark = pytest.mark.usefixtures("collector_off")  # most of them run the reference

NAMES = ["emma", "olivia", "ava", "isabella", "sophia", "charlotte", "mia", "amelia", "harper", "evelyn", "emma",
         "ella"]  # fmt: skip
SMALL = ["--n-embd", "4", "--n-head", "2", "--block-size", "6", "--steps", "12", "--samples", "4"]


@pytest.fixture
def text(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text("\n".join(NAMES), encoding="utf-8")
    return path


@pytest.fixture
def val(tmp_path):
    path = tmp_path / "val.txt"
    path.write_text("mila\nharvey\n", encoding="utf-8")
    return path


@pytest.fixture
def train(in_process):
    def run(*arguments, status=0):
        done = in_process("train", *arguments)
        assert done.returncode == status, done.stderr
        assert "Traceback" not in done.stderr
        return done

    return run


def test_split_keeps_every_document_on_one_side():
    docs = [f"{a}{b}" for a in "abcd" for b in "abcd"] * 2
    for fraction in (0.01, 0.2, 0.5, 0.7):
        learned, held_out = split_docs(docs, fraction)
        assert sorted(learned + held_out) == sorted(docs)
        assert not set(learned) & set(held_out)
        assert learned == [doc for doc in docs if doc in learned]
        assert set("".join(held_out)) <= set("".join(learned))


def test_split_depends_on_the_documents_alone():
    docs = [f"{a}{b}" for a in "abcdefgh" for b in "abcdefgh"]
    learned, held_out = split_docs(docs, 0.25)
    assert len(held_out) == 16
    assert split_docs(docs[::-1], 0.25) == (learned[::-1], held_out[::-1])
    assert split_docs(docs * 2, 0.25) == (learned * 2, held_out * 2)
    # A text that grows by one document moves at most one other across.
    grown = set(split_docs([*docs, "zz"], 0.25)[1])
    assert len(set(held_out) ^ grown) <= 2
    # The very ones, so that another version of this package holds out the same.
    assert held_out == ["bc", "bf", "bh", "cb", "cd", "cg", "ec", "ee", "eh", "fa", "fe", "ff", "gb", "gd", "ge", "gf"]


def test_split_does_not_hold_out_the_only_document_with_a_character():
    docs = [*("ab" * n for n in range(1, 30)), "x", "y", "z"]
    for fraction in (0.1, 0.5, 0.9):
        learned, _ = split_docs(docs, fraction)
        assert {"x", "y", "z"} <= set(learned)


@pytest.mark.parametrize("docs", [["a"], ["a", "a"], ["a", "b"]])
def test_split_that_cannot_be(docs):
    with pytest.raises(ValueError, match="a fraction of 0.5 of [12] different documents? ?leaves none to"):
        split_docs(docs, 0.5)


@pytest.mark.slow
@pytest.mark.parametrize("steps", [1, 5, 12])
def test_validation_file_changes_no_bit_of_the_run(train, engine, text, val, tmp_path, steps):
    """stdout and the checkpoint are those of a run without it, but for what the checkpoint notes of the validation."""
    common = ["--input", text, "--engine", engine, *SMALL]
    plain = train(*common, "--save", "plain.safetensors")
    watched = train(*common, "--save", "watched.safetensors", "--val", val, "--val-every", steps, "--log", "run.jsonl")
    assert watched.stdout == plain.stdout
    one = Trainer.load(tmp_path / "plain.safetensors", NAMES, engine="reference")
    two = Trainer.load(tmp_path / "watched.safetensors", NAMES, engine="reference")
    assert two.extra.pop("validation")["best_step"] <= 12 and one.extra == two.extra == {}
    one.save(tmp_path / "one")
    two.save(tmp_path / "two")
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


def test_fraction_is_a_run_on_the_other_documents(train, text, tmp_path):
    learned, held_out = split_docs(NAMES, 0.3)
    (tmp_path / "learned.txt").write_text("\n".join(learned), encoding="utf-8")
    whole = train("--input", text, *SMALL, "--val-fraction", "0.3", "--val-every", "4")
    part = train("--input", "learned.txt", *SMALL)
    assert whole.stdout == part.stdout and f"num docs: {len(learned)}" in whole.stdout
    assert len(held_out) == 1 and "1 document held out" in whole.stderr

    trainer = Trainer(learned, num_steps=12, engine="reference", n_embd=4, n_head=2, block_size=6)
    for step in (4, 8, 12):
        trainer.run(4)
        assert f"step {step}: validation loss {evaluate(trainer, held_out).loss:.4f}" in whole.stderr


def test_best_model_is_kept(tmp_path):
    """With a rate this high the loss soon rises again."""
    trainer = Trainer(NAMES, num_steps=30, engine="reference", n_embd=4, n_head=2, block_size=6, learning_rate=0.3)
    validation = Validator(["mila"], every=2, best=tmp_path / "best.safetensors")
    trainer.run(callbacks=[validation])
    assert [step for step, _ in validation.measured] == list(range(2, 31, 2))
    lowest = min(loss for _, loss in validation.measured)
    step = next(step for step, loss in validation.measured if loss == lowest)
    assert 2 <= step < 30, "the case no longer shows what it is here for"
    kept = Trainer.load(tmp_path / "best.safetensors", NAMES, engine="reference")
    assert kept.step_index == step
    assert hexes([evaluate(kept, ["mila"]).loss]) == hexes([lowest])


def test_patience_stops_the_run(train, text, val, tmp_path):
    flags = ["--input", text, *SMALL, "--steps", "400", "--learning-rate", "0.3", "--val", val, "--val-every", "5"]
    done = train(*flags, "--patience", "3", "--save", "run.safetensors")
    steps = sum(line.startswith("step ") for line in done.stdout.splitlines())
    saved, best = Trainer.load(tmp_path / "run.safetensors"), Trainer.load(tmp_path / "run.best.safetensors")
    assert steps < 400 and saved.step_index == steps and best.step_index == steps - 15
    assert f"stopped after step {steps}: validation loss has not fallen for 3 measurements" in done.stderr
    assert f"at step {best.step_index}, kept in run.best.safetensors" in done.stderr
    unlimited = train(*flags)
    assert unlimited.stdout.startswith(done.stdout.split("\n\n")[0])


@pytest.mark.slow
def test_resumed_validation_goes_on_where_it_was(train, text, tmp_path):
    """Killed between two measurements and resumed: the same stop, the same best, the same bytes."""
    flags = ["--steps", "200", "--learning-rate", "0.3", "--val-every", "5", "--patience", "4"]
    flags = ["--input", text, *SMALL, *flags]
    whole = train(*flags, "--val-fraction", "0.3", "--save", "whole.safetensors")
    steps = sum(line.startswith("step ") for line in whole.stdout.splitlines())
    best = Trainer.load(tmp_path / "whole.best.safetensors").step_index
    assert steps == best + 20 < 200, "the case no longer shows what it is here for"
    stop = best + 7  # one measurement without a better loss has been made by then

    learned, held_out = split_docs(NAMES, 0.3)
    settings = dict(n_embd=4, n_head=2, block_size=6, learning_rate=0.3)
    begun = Trainer(learned, num_steps=200, engine="reference", **settings)
    begun.extra["val_fraction"] = 0.3
    begun.run(stop, callbacks=[Validator(held_out, every=5, patience=4, best=tmp_path / "half.best.safetensors")])
    begun.save(tmp_path / "half.safetensors")
    resumed = train("--input", text, "--resume", "half.safetensors", "--save", "half.safetensors", "--samples", "4",
                    "--val-every", "5", "--patience", "4")  # fmt: skip
    assert resumed.stdout.splitlines()[3:] == whole.stdout.splitlines()[3 + stop :]
    assert (tmp_path / "half.safetensors").read_bytes() == (tmp_path / "whole.safetensors").read_bytes()
    assert (tmp_path / "half.best.safetensors").read_bytes() == (tmp_path / "whole.best.safetensors").read_bytes()

    shutil.copy(tmp_path / "half.safetensors", tmp_path / "copy.safetensors")
    other = train("--input", text, "--resume", "copy.safetensors", "--val-fraction", "0.2", status=2)
    assert "was begun with --val-fraction 0.3; it cannot continue with 0.2" in other.stderr
    with pytest.raises(CheckpointError, match="without the part that --val-fraction 0.3 holds out"):
        Trainer.load(tmp_path / "copy.safetensors", NAMES)


def test_resumed_run_goes_on_with_the_flags_of_its_validation(train, text, val, tmp_path):
    """--val, --val-every and --patience are saved in the file; one given again counts."""
    flags = ["--input", text, *SMALL, "--steps", "400", "--learning-rate", "0.3"]
    validation = ["--val", val, "--val-every", "5", "--patience", "3"]
    whole = train(*flags, *validation)
    steps = sum(line.startswith("step ") for line in whole.stdout.splitlines())
    assert steps < 400, "the case no longer shows what it is here for"
    trainer = Trainer(NAMES, num_steps=400, engine="reference", n_embd=4, n_head=2, block_size=6, learning_rate=0.3)
    trainer.run(3, callbacks=[Validator(["mila", "harvey"], every=5, patience=3, source=str(val))])
    trainer.save(tmp_path / "begun.safetensors")
    resume = ["--input", text, "--resume", "begun.safetensors", "--samples", "4"]
    done = train(*resume)
    assert done.stdout.splitlines()[3:] == whole.stdout.splitlines()[6:]
    assert f"validation continues with --val {val} --val-every 5 --patience 3" in done.stderr
    assert "begun.safetensors continues after step 3 of 400" in done.stderr
    assert "has not fallen for 3 measurements" in done.stderr
    more = train(*resume, "--patience", "6", "--val-every", "10")
    assert "has not fallen for 6 measurements" in more.stderr and "step 5: validation" not in more.stderr

    os.rename(val, tmp_path / "elsewhere.txt")
    missing = train(*resume, status=2)
    assert f"begun with --val {val}, which is not a file here: give --val again" in missing.stderr
    assert "step 5: validation" in train(*resume, "--val", "elsewhere.txt").stderr


def test_best_model_that_is_not_there_is_not_spoken_of(train, text, val, tmp_path):
    """Resumed with another --save: the best is in the file beside the first, if nothing better came."""
    flags = ["--input", text, *SMALL, "--steps", "40", "--learning-rate", "0.3"]
    train(*flags, "--val", val, "--val-every", "1", "--patience", "8", "--save", "a.safetensors")
    first = Trainer.load(tmp_path / "a.safetensors")
    assert 0 < first.step_index < 40
    done = train("--input", text, "--resume", "a.safetensors", "--save", "b.safetensors", "--patience", "9")
    assert f"at step {first.step_index - 8}\n" in done.stderr and "kept in" not in done.stderr
    assert not (tmp_path / "b.best.safetensors").exists()
    done = train("--input", text, "--resume", "a.safetensors", "--save", "a.safetensors", "--patience", "10")
    assert "kept in a.best.safetensors" in done.stderr


def test_resume_says_where_it_stands_and_what_is_not_saved(train, text, tmp_path):
    train("--input", text, *SMALL, "--save", "done.safetensors")
    done = train("--input", text, "--resume", "done.safetensors")
    assert "done.safetensors is finished: all its 12 steps are done" in done.stderr and "--init-from" in done.stderr
    assert "warning" not in done.stderr
    begun = Trainer(NAMES, num_steps=12, engine="reference", n_embd=4, n_head=2, block_size=6)
    begun.run(5)
    begun.save(tmp_path / "begun.safetensors")
    done = train("--input", text, "--resume", "begun.safetensors")
    assert "continues after step 5 of 12" in done.stderr and "warning: --resume without --save" in done.stderr
    done = train("--input", text, "--resume", "begun.safetensors", "--save", "begun.safetensors")
    assert "warning" not in done.stderr


def test_wrong_text_of_a_run_that_holds_out_documents_is_called_that(train, text, tmp_path):
    train("--input", text, *SMALL, "--val-fraction", "0.3", "--save", "run.safetensors")
    (tmp_path / "one.txt").write_text("emma\n", encoding="utf-8")
    for other in ([], ["--allow-other-text"]):
        done = train("--input", "one.txt", "--resume", "run.safetensors", *other, status=2)
        assert "run.safetensors was trained on other text than one.txt" in done.stderr.splitlines()[-1]


def test_saved_step_includes_its_measurement(tmp_path):
    """Both are due at step 4: were the save first, a kill right after it would forget what was measured."""
    trainer = Trainer(NAMES, num_steps=12, engine="reference", n_embd=4, n_head=2)
    path, steps = str(tmp_path / "run.safetensors"), []

    class Read(Validator):
        """Reads the file after each step."""

        def on_steps(self, trainer, first, losses):
            if os.path.exists(path):
                steps.append(Trainer.load(path).extra["validation"]["best_step"])

    trainer.run(5, callbacks=[Read(["mila"], every=4), Checkpointer(path, every=4)])
    assert steps == [4]


def test_other_validation_documents_begin_anew(train, text, val, tmp_path):
    train("--input", text, *SMALL, "--steps", "4", "--val", val, "--save", "run.safetensors")
    (tmp_path / "other.txt").write_text("ella\n", encoding="utf-8")
    done = train("--input", text, "--resume", "run.safetensors", "--val", "other.txt")
    assert "the best loss so far is forgotten" in done.stderr


@pytest.mark.parametrize("state", [1, [], {"best_loss": "x"}, {"best_loss": None, "docs_sha256": "", "best_step": 1},
                                   {"best_loss": "0x1p0", "docs_sha256": "", "best_step": "1", "checks_since_best": 0},
                                   {"best_loss": "0x1p0", "docs_sha256": "", "best_step": 1, "checks_since_best": True},
                                   {"best_loss": None, "best_step": None, "docs_sha256": "", "checks_since_best": 0, "val": 1},
                                   {"best_loss": "nan", "best_step": 1, "docs_sha256": "", "checks_since_best": 0},
                                   {"best_loss": None, "best_step": None, "docs_sha256": "", "checks_since_best": 0,
                                    "patience": 0},
                                   ])  # fmt: skip
def test_damaged_notes_are_refused(tmp_path, state):
    trainer = Trainer(NAMES, num_steps=2, engine="reference", n_embd=4, n_head=2)
    trainer.extra["validation"] = state
    trainer.save(tmp_path / "run.safetensors")
    with pytest.raises(CheckpointError, match="of its validation cannot be read"):
        Trainer.load(tmp_path / "run.safetensors", NAMES, engine="reference").run(callbacks=[Validator(["emma"])])


@pytest.mark.slow
def test_damaged_fraction_is_refused(train, text, tmp_path):
    trainer = Trainer(NAMES, num_steps=2, engine="reference", n_embd=4, n_head=2)
    for fraction in ("x", 2, True, 1.5):
        trainer.extra["val_fraction"] = fraction
        trainer.save(tmp_path / "run.safetensors")
        done = train("--input", text, "--resume", "run.safetensors", status=2)
        assert "damaged or not a checkpoint: its --val-fraction is" in done.stderr


BAD = [
    (["--val-every", "5"], "--val-every needs --val or --val-fraction"),
    (["--patience", "5"], "--patience needs --val or --val-fraction"),
    (["--save-best", "x.safetensors"], "--save-best needs --val or --val-fraction"),
    (["--val-fraction", "0"], "--val-fraction must be greater than 0 and less than 1"),
    (["--val-fraction", "nan"], "--val-fraction must be greater than 0 and less than 1"),
    (["--val-fraction", "0.1", "--val-every", "0"], "--val-every must be at least 1"),
    (["--val-fraction", "0.1", "--patience", "0"], "--patience must be at least 1"),
    (["--val-fraction", "0.1", "--val", "val.txt"], "not allowed with"),
    (["--val", "nowhere.txt"], "nowhere.txt: No such file"),
    (["--val", "unknown.txt"], "character 'X' (U+0058) at index 0 is not in the vocabulary"),
    (["--val", "val.txt", "--save-best", "no/folder/x.safetensors"], "no/folder"),
]


@pytest.mark.parametrize("arguments, part", BAD, ids=lambda x: " ".join(x)[:40] if isinstance(x, list) else "")
def test_bad_arguments_end_in_one_line(train, text, val, tmp_path, arguments, part):
    (tmp_path / "unknown.txt").write_text("Xenia\n", encoding="utf-8")
    before = sorted(os.listdir(tmp_path))
    done = train("--input", text, *SMALL, *arguments, status=2)
    assert part in done.stderr.strip().splitlines()[-1]
    assert done.stdout == "" and sorted(os.listdir(tmp_path)) == before


@pytest.mark.parametrize("flags", [["--learning-rate", "1e308"], ["--init-std", "1e308"]])
def test_loss_that_is_nan_is_never_the_best(train, text, val, tmp_path, engine, flags):
    flags = ["--input", text, *SMALL, "--samples", "0", "--engine", engine, *flags, "--val", val, "--val-every", "2"]
    done = train(*flags, "--save", "run.safetensors", "--patience", "3")
    assert "validation loss nan\n" in done.stderr and "nan (best so far)" not in done.stderr
    assert "lowest validation loss" not in done.stderr and not (tmp_path / "run.best.safetensors").exists()
    assert "stopped after step 6: validation loss has not fallen for 3 measurements" in done.stderr
    # Resumed, it goes on with the same state: none was the best.
    resumed = train("--input", text, "--resume", "run.safetensors", "--val", val, "--val-every", "2", "--samples", "0",
                    "--patience", "5")  # fmt: skip
    assert "stopped after step 10: validation loss has not fallen for 5 measurements" in resumed.stderr


def test_best_file_is_named_only_where_it_holds_the_best_model(train, text, tmp_path):
    begun = Trainer(NAMES, num_steps=12, n_embd=4, n_head=2, block_size=6)
    begun.run(4)
    begun.run(0, callbacks=[validator := Validator(["mila", "harvey"])])
    validator.on_check(begun, {})
    begun.extra["validation"]["best_loss"] = (0.5).hex()  # which nothing after it reaches
    begun.save(tmp_path / "a.best.safetensors")
    begun.run(4)
    begun.save(tmp_path / "a.safetensors")
    (tmp_path / "val.txt").write_text("mila\nharvey\n", encoding="utf-8")

    def said(save):
        done = train("--input", text, "--resume", "a.safetensors", "--val", "val.txt", "--save", save)
        return next(line for line in done.stderr.splitlines() if "lowest" in line)

    assert said("b.safetensors") == "microgpt: lowest validation loss 0.5000 at step 4"
    assert not (tmp_path / "b.best.safetensors").exists()
    # What another run has kept there is not this one's best; what this run has kept before is.
    Trainer(NAMES, num_steps=12, n_embd=4, n_head=2).save(tmp_path / "b.best.safetensors")
    assert "kept in" not in said("b.safetensors")
    (tmp_path / "b.best.safetensors").write_bytes(b"none")
    assert "kept in" not in said("b.safetensors")
    shutil.copy(tmp_path / "a.best.safetensors", tmp_path / "c.best.safetensors")
    assert said("c.safetensors").endswith("at step 4, kept in c.best.safetensors")


def test_best_path():
    assert best_path("a/run.safetensors") == "a/run.best.safetensors"
    assert best_path("run") == "run.best"
