"""`microgpt train --init-from`: a new run with the weights of a file, on a text with other characters."""
import pytest
from test_cli import SMALL, one_line_error

from microgpt import Trainer, load_docs

SIZES = ["--n-embd", "8", "--n-head", "2", "--block-size", "6"]


@pytest.fixture(autouse=True)
def files(tmp_path, in_process):
    (tmp_path / "old.txt").write_text("emma\nolivia\nava\n", encoding="utf-8")
    (tmp_path / "new.txt").write_text("zoë\nXenia\nava\n", encoding="utf-8")
    done = in_process("train", "--input", "old.txt", *SMALL, "--save", "old.safetensors")
    assert done.returncode == 0, done.stderr


def expected(tmp_path, docs, steps, **settings):
    trainer = Trainer.init_from(tmp_path / "old.safetensors", docs, steps, **settings)
    losses = trainer.run()
    lines = [f"step {i:4d} / {steps:4d} | loss {loss:.4f}" for i, loss in enumerate(losses, 1)]
    return lines, [f"sample {i:2d}: {text}" for i, text in enumerate(trainer.sample(2), 1)], trainer


def test_run_is_that_of_init_from(in_process, engine, tmp_path):
    docs = load_docs(tmp_path / "new.txt")
    lines, samples, trainer = expected(tmp_path, docs, 5, seed=7, learning_rate=0.02, engine=engine)
    flags = ["--steps", "5", "--seed", "7", "--learning-rate", "0.02", "--samples", "2", "--engine", engine]
    done = in_process("train", "--input", "new.txt", "--init-from", "old.safetensors", *flags, "--save", "new.safetensors")
    assert done.returncode == 0, done.stderr
    head = ["num docs: 3", f"vocab size: {trainer.tokenizer.vocab_size}", f"num params: {trainer.model.num_params}"]
    assert done.stdout.splitlines() == [*head, *lines, "", "--- inference (new, hallucinated names) ---", *samples]
    assert "old.safetensors: a new run begins with its weights of step 7; 4 new characters: 'X' 'n' 'z' 'ë'" in done.stderr
    resumed = Trainer.load(tmp_path / "new.safetensors", docs)
    assert resumed.step_index == 5 and "init_from" not in resumed.extra


def test_same_characters(in_process):
    done = in_process("train", "--input", "old.txt", "--init-from", "old.safetensors", "--steps", "1", *SIZES)
    assert done.returncode == 0 and "weights of step 7; no new characters" in done.stderr, done.stderr


def test_chunks_are_as_long_as_the_block_of_the_weights(in_process):
    done = in_process("train", "--input", "new.txt", "--init-from", "old.safetensors", "--split", "chunks", "--steps", "1")
    assert done.stdout.startswith("num docs: 3\n") and "beyond" not in done.stderr  # 13 characters in blocks of 6


@pytest.mark.parametrize("flags, parts", [
    (["--init-from", "nowhere.safetensors"], ["nowhere.safetensors: No such file"]),
    (["--init-from", "old.txt"], ["old.txt is damaged or not a checkpoint"]),
    (["--init-from", "old.safetensors", "--n-embd", "16"],
     ["old.safetensors has n_embd 8; a run with --n-embd 16 cannot begin with it"]),
    (["--init-from", "old.safetensors", "--resume", "old.safetensors"], ["not allowed with"]),
    (["--init-from", "old.safetensors", "--save", "old.safetensors"],
     ["--save old.safetensors would overwrite --init-from: it is the same file"]),
])  # fmt: skip
def test_what_cannot_be_is_said_in_one_line(in_process, tmp_path, flags, parts):
    before = (tmp_path / "old.safetensors").read_bytes()
    one_line_error(in_process("train", "--input", "new.txt", *flags), *parts)
    assert (tmp_path / "old.safetensors").read_bytes() == before
