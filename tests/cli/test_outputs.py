"""Outputs replace what commands have written, and no file of another kind: a mistyped flag would destroy it."""
import pytest

from microgpt import RunLogger, Trainer

DOCS = ["emma", "olivia", "ava"]
TRAIN = ["train", "--input", "text.txt", "--steps", "2", "--samples", "0", "--n-embd", "4", "--n-head", "2"]
SWEEP = ["sweep", "--input", "text.txt", "--steps", "1", "--grid", "n_embd=4"]


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "text.txt").write_text("\n".join(DOCS), encoding="utf-8")
    trainer = Trainer(DOCS, num_steps=2, n_embd=4, n_head=2)
    trainer.run(callbacks=[RunLogger(tmp_path / "run.jsonl")])
    trainer.save(tmp_path / "run.safetensors")
    return tmp_path


@pytest.mark.parametrize("words, name, kind", [
    ([*TRAIN, "--save"], "notes", "no checkpoint"),
    ([*TRAIN, "--val", "text.txt", "--save-best"], "notes", "no checkpoint"),
    ([*TRAIN, "--val", "text.txt", "--save"], "notes.safetensors", "no checkpoint"),
    ([*TRAIN, "--log"], "notes", "line 1 is no step"),
    ([*TRAIN, "--plot"], "notes.png", "no picture"),
    (["export", "run.safetensors", "--c"], "notes.c", "no C program of microgpt export"),
    (["export", "run.safetensors", "--json"], "notes.json", "no model of microgpt export"),
    (["report", "run.jsonl", "-o"], "notes.html", "no report"),
    ([*SWEEP, "--out"], "notes", "line 1: not a line of a sweep's results"),
    ([*SWEEP, "--plot"], "notes.svg", "no picture"),
], ids=lambda x: x[-1] if isinstance(x, list) else x)  # fmt: skip
def test_another_file_is_not_replaced(in_process, folder, words, name, kind):
    if words[-1] == "--plot":
        pytest.importorskip("matplotlib")
    output = folder / name
    for content in (b"my notes\n", b"\0\0\0\0", b"{}", (folder / "text.txt").read_bytes()):
        output.write_bytes(content)
        before = sorted(folder.iterdir())
        done = in_process(*words, name)
        assert done.returncode == 2 and "num docs" not in done.stdout and "Traceback" not in done.stderr
        assert name in (said := done.stderr.splitlines()[-1]) and kind in said
        assert output.read_bytes() == content and sorted(folder.iterdir()) == before
    output.write_bytes(b"")
    for _ in "new", "again":  # what it has written itself it replaces
        done = in_process(*words, name)
        assert done.returncode == 0, done.stderr
        assert output.stat().st_size


def test_best_model_beside_a_save_replaces_no_other_file(in_process, folder):
    (folder / "a.best.safetensors").write_bytes(b"precious")
    done = in_process(*TRAIN, "--val", "text.txt", "--save", "a.safetensors")
    assert done.returncode == 2 and "a.best.safetensors would replace a file that is no checkpoint" in done.stderr
    assert (folder / "a.best.safetensors").read_bytes() == b"precious" and not (folder / "a.safetensors").exists()
