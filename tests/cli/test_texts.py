"""Texts of every form on the command line: the script's bytes for their documents, hints on stderr, one line for errors."""
import io
import json
import sys

import oracle
import pytest
from children import LIMIT, environment
from test_cli import SMALL, one_line_error

from microgpt import Trainer, load_docs

POEM = "roses are red\nviolets are blue\n\nsugar is sweet\n\nand so are you\n"
TABLE = "id,name\n1,emma\n2,ava\n3,mia\n4,zoe\n"


@pytest.fixture(autouse=True)
def files(tmp_path):
    (tmp_path / "poem.txt").write_text(POEM, encoding="utf-8")
    (tmp_path / "names.csv").write_text(TABLE, encoding="utf-8")
    (tmp_path / "names.jsonl").write_text("".join(f'{{"name": "{name}"}}\n' for name in ("emma", "ava")), encoding="utf-8")


def script_output(docs):
    return oracle.run(docs, 7, samples=3, n_embd=8, n_head=2, block_size=6).printed(len(docs))


@pytest.mark.parametrize("flags, arguments", [
    (["poem.txt", "--split", "lines"], dict()),
    (["poem.txt", "--split", "paragraphs"], dict(split="paragraphs")),
    (["poem.txt", "--split", "chunks"], dict(split="chunks", block_size=6)),
    (["poem.txt", "names.csv", "--input", "names.jsonl"], dict()),
    (["names.csv", "--csv-column", "name"], dict(csv_column="name")),
    (["names.jsonl", "--json-field", "name", "--split", "chunks"], dict(json_field="name", split="chunks", block_size=6)),
], ids=lambda x: " ".join(x))  # fmt: skip
def test_stdout_is_the_script_s_for_these_documents(in_process, tmp_path, flags, arguments):
    paths = [tmp_path / word for word in flags if "." in word]
    docs = load_docs(paths, **arguments)
    done = in_process("train", "--input", *flags, *SMALL)
    assert done.returncode == 0, done.stderr
    assert done.stdout == script_output(docs)
    assert flags[0] in done.stderr


def test_standard_input(in_process, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO(POEM))
    done = in_process("train", "--input", "-", *SMALL)
    assert done.stdout == script_output(POEM.split("\n\n")[0].split("\n") + ["sugar is sweet", "and so are you"])
    assert "engine" in done.stderr.splitlines()[0] and "standard input" in done.stderr
    monkeypatch.setattr(sys, "stdin", io.StringIO(" "))
    one_line_error(in_process("train", "--input", "-"), "standard input holds no documents")


def test_standard_input_is_not_written_over(tmp_path):
    import subprocess

    with open(tmp_path / "poem.txt", encoding="utf-8") as file:
        done = subprocess.run([sys.executable, "-m", "microgpt.train", "--input", "-", "--log", "poem.txt"], stdin=file,
                              capture_output=True, text=True, cwd=tmp_path, env=environment(), timeout=LIMIT)  # fmt: skip
    one_line_error(done, "--log poem.txt would overwrite --input")
    assert (tmp_path / "poem.txt").read_text(encoding="utf-8") == POEM


def test_hints_for_a_text_that_is_given(in_process, tmp_path):
    flags = [*SMALL[:4], "--steps", "1", "--samples", "0"]
    done = in_process("train", "--input", "names.csv", "poem.txt", *flags, "--block-size", "14")
    engine, *said = done.stderr.splitlines()
    assert "engine" in engine and said[:3] == [
        "microgpt: 1 of 9 documents is longer than the block of 14: 2 of 85 characters (2.4%) are beyond it and not trained on",
        f"microgpt: the vocabulary has {len(set(POEM + TABLE) - set(chr(10)))} characters",
        "microgpt: names.csv looks like CSV, and is read as plain text; --csv-column NAME takes one column of it",
    ]
    for name, format in (("names.jsonl", "JSON"), ("page.html", "HTML")):
        (tmp_path / "page.html").write_text("<html>\n<p>a\n</html>\n", encoding="utf-8")
        assert f"{name} looks like {format}," in in_process("train", "--input", name, *flags).stderr
    advice = "covers the longest document; --split chunks covers all of a running text\n"
    for split, size, is_advised in (("lines", "10", True), ("lines", "11", False), ("paragraphs", "11", True), ("chunks", "5", False)):
        done = in_process("train", "--input", "poem.txt", *flags, "--block-size", size, "--split", split)
        assert (advice in done.stderr) == is_advised, (split, size, done.stderr)
    longest = max(map(len, POEM.splitlines())) + 1
    assert f"microgpt: --block-size {longest} {advice}" in in_process("train", "--input", "poem.txt", *flags, "--block-size", "10").stderr
    (tmp_path / "long.txt").write_text("one line\n" * 2 + "ab " * 300, encoding="utf-8")
    assert "microgpt: --split chunks covers all" in in_process("train", "--input", "long.txt", *flags).stderr
    assert "looks like" not in in_process("train", "--input", "names.csv", "--csv-column", "name", *flags).stderr
    quiet = in_process("train", "--input", "names.csv", "--quiet", "--block-size", "2", "--val", "names.csv", *flags)
    assert "looks like" not in quiet.stderr and "vocabulary" not in quiet.stderr and "beyond" not in quiet.stderr
    (tmp_path / "input.txt").write_text(TABLE, encoding="utf-8")
    own = in_process("train", *flags)
    assert "looks like" not in own.stderr and "vocabulary" not in own.stderr


@pytest.mark.parametrize("flags, parts", [
    (["--csv-column", "nam"], ["names.csv has no column 'nam'; did you mean 'name'? (its first row is 'id', 'name')"]),
    (["--json-field", "name"], ["names.csv, line 1: not JSON"]),
    (["--json-field", "name", "--csv-column", "name"], ["not allowed with"]),
    (["--split", "words"], ["--split", "'words'"]),
    (["--split", "chunks", "--block-size", "0"], ["block_size must be at least 1, not 0"]),
    (["--input", "nowhere.txt"], ["nowhere.txt: No such file"]),
    (["--input", ""], ["error: '': No such file"]),
])  # fmt: skip
def test_what_is_wrong_is_said_in_one_line(in_process, flags, parts):
    one_line_error(in_process("train", "--input", "names.csv", *flags), *parts)


def test_resumed_run_reads_its_text_as_before(in_process, tmp_path):
    flags = ["--input", "poem.txt", "--split", "chunks", *SMALL]
    whole = in_process("train", *flags, "--save", "whole.safetensors")
    docs = load_docs(tmp_path / "poem.txt", split="chunks", block_size=6)
    half = Trainer.load(tmp_path / "whole.safetensors", docs)
    assert half.extra == {"text_form": {"split": "chunks"}}
    half = Trainer(docs, num_steps=7, n_embd=8, n_head=2, block_size=6)
    half.run(3)
    half.extra = {"text_form": {"split": "chunks"}}
    half.save(tmp_path / "half.safetensors")
    done = in_process("train", "--input", "poem.txt", "--resume", "half.safetensors", "--save", "again.safetensors", "--samples", "3")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[3:] == whole.stdout.splitlines()[6:]
    assert (tmp_path / "again.safetensors").read_bytes() == (tmp_path / "whole.safetensors").read_bytes()
    resumed = ["train", "--input", "poem.txt", "--resume", "half.safetensors"]
    one_line_error(in_process(*resumed, "--split", "lines"), "begun with --split chunks; it cannot continue with --split lines")
    assert in_process(*resumed, "--split", "lines", "--allow-other-text", "--save", "other.safetensors").returncode == 0
    assert Trainer.load(tmp_path / "other.safetensors").extra == {}
    for wrong in ({"split": "words"}, {"sieve": "x"}, {"csv_column": 1}, 7):
        half.extra = {"text_form": wrong}
        half.save(tmp_path / "half.safetensors")
        one_line_error(in_process(*resumed), "damaged or not a checkpoint: its text is read as")


def test_python_is_told_how_the_text_was_read(tmp_path):
    trainer = Trainer(["emma"], num_steps=1)
    trainer.extra = {"text_form": {"split": "chunks"}}
    trainer.save(tmp_path / "p.safetensors")
    with pytest.raises(ValueError, match=r"trained on other text, read with \{'split': 'chunks'\}"):
        Trainer.load(tmp_path / "p.safetensors", ["ava"])


def test_default_form_leaves_no_note(in_process, tmp_path):
    in_process("train", "--input", "poem.txt", "--split", "lines", *SMALL, "--save", "p.safetensors")
    assert Trainer.load(tmp_path / "p.safetensors").extra == {}


def test_validation_text_is_read_as_the_text(in_process, tmp_path):
    (tmp_path / "val.csv").write_text("name,x\nemma,1\nava,2\n", encoding="utf-8")
    flags = ["--input", "names.csv", "--csv-column", "name", *SMALL, "--save", "p.safetensors"]
    done = in_process("train", *flags, "--val", "val.csv")
    trainer = Trainer.load(tmp_path / "p.safetensors")
    assert f"validation loss {trainer.evaluate(['emma', 'ava']).loss:.4f}" in done.stderr
    (tmp_path / "val.csv").write_text('name,x\n"em\nXa",1\n', encoding="utf-8")
    one_line_error(in_process("train", *flags, "--val", "val.csv"),
                   "val.csv, line 3: character 'X' (U+0058) at index 0 is not in the vocabulary")  # fmt: skip


def test_eval_divides_a_text_as_the_model_s_was(in_process, tmp_path):
    in_process("train", "--input", "poem.txt", "--split", "chunks", *SMALL, "--save", "p.safetensors")
    trainer = Trainer.load(tmp_path / "p.safetensors")
    for flags, arguments in ((["poem.txt"], dict(split="chunks")), (["poem.txt", "--split", "paragraphs"], dict(split="paragraphs")),
                             (["names.jsonl", "--json-field", "name", "--split", "lines"], dict(json_field="name"))):  # fmt: skip
        docs = load_docs(tmp_path / flags[0], block_size=6, **arguments)
        if "json_field" in arguments:
            one_line_error(in_process("eval", "p.safetensors", "--input", *flags), "names.jsonl, line 1: character 'm'")
            continue
        done = in_process("eval", "--input", flags[0], "p.safetensors", "--json", *flags[1:])
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["loss_hex"] == trainer.evaluate(docs).loss.hex()


def test_sweep_over_chunks(in_process):
    flags = ["--input", "poem.txt", "--split", "chunks", "--steps", "2", "--quiet"]
    done = in_process("sweep", "--grid", "seed=1,2 block_size=4 n_embd=8", *flags)
    assert done.returncode == 0, done.stderr
    best = done.stdout.splitlines()[-1]
    assert best.startswith("best: microgpt train --input poem.txt --split chunks ") and "--block-size 4" in best
    one_line_error(in_process("sweep", "--grid", "block_size=4,8", *flags), "the grid has several")
