"""Saved and resumed runs: the same bits as one that was never interrupted; damaged files are refused in one line."""
import json
import os
import signal
import struct
import subprocess
import sys
import time

import numpy as np
import oracle
import pytest
from children import end_by_signal
from conftest import environment, hexes
from safetensors.numpy import load_file, save_file

from microgpt import Trainer
from microgpt.storage.checkpoint import CheckpointError
from microgpt.trainer import ENGINES

DOCS = ["emma", "olivia", "ava", "zoë", "sophia", "mia"]
SETTINGS = dict(n_embd=8, n_head=2, block_size=6, n_layer=2)
SMALLER = dict(SETTINGS, n_embd=4)
STEPS = 6


def outcome(trainer):
    data = trainer.parameters
    return hexes(data), hexes(trainer.adam.m), hexes(trainer.adam.v), trainer.step_index, trainer.sample(3)


@pytest.fixture(scope="module")
def uninterrupted():
    trainer = oracle.trainer(DOCS, num_steps=STEPS, **SMALLER)
    return hexes(trainer.last_losses), outcome(trainer)


@pytest.mark.parametrize("stop", [0, 3, STEPS, *(pytest.param(n, marks=pytest.mark.slow) for n in (1, STEPS - 1))])
@pytest.mark.parametrize("first", ENGINES)
@pytest.mark.parametrize("second", ENGINES)
@pytest.mark.usefixtures("collector_off")
def test_resumed_run_has_the_bits_of_an_uninterrupted_one(tmp_path, uninterrupted, first, second, stop):
    path = tmp_path / "run.safetensors"
    begun = Trainer(DOCS, num_steps=STEPS, engine=first, **SMALLER)
    losses = begun.run(stop)
    begun.save(path)
    resumed = Trainer.load(path, DOCS, engine=second)
    assert (resumed.step_index, resumed.num_steps, resumed.engine) == (stop, STEPS, second)
    losses += resumed.run()
    assert (hexes(losses), outcome(resumed)) == uninterrupted


@pytest.mark.parametrize("draws", [0, 1, 2, 625])
def test_whole_state_of_the_stream_is_kept(tmp_path, engine, draws):
    """The spare value that gauss keeps between two calls included: there is one after every other draw."""
    path = tmp_path / "run.safetensors"
    trainer = Trainer(DOCS, num_steps=STEPS, engine=engine, **SETTINGS)
    for _ in range(draws):
        trainer.rng.gauss(0.0, 1.0)
    trainer.save(path)
    for other in ENGINES:
        loaded = Trainer.load(path, engine=other)
        assert loaded.rng.getstate() == trainer.rng.getstate()
        assert (loaded.rng.getstate()[2] is not None) == draws % 2
    assert trainer.rng.gauss(0.0, 1.0) == loaded.rng.gauss(0.0, 1.0)


def test_file_holds_the_script_s_names_and_shapes(tmp_path):
    path = tmp_path / "run.safetensors"
    trainer = Trainer(DOCS, num_steps=STEPS, **SETTINGS)
    trainer.run(2)
    trainer.save(path)
    tensors = load_file(path)
    vocab_size = trainer.tokenizer.vocab_size
    assert tensors["wte"].shape == (vocab_size, 8) and tensors["wpe"].shape == (6, 8)
    assert tensors["layer1.mlp_fc1"].shape == (32, 8) and tensors["layer1.mlp_fc2"].shape == (8, 32)
    assert tensors["wte"].dtype == np.float64
    for name, matrix in trainer.model.state_dict.items():
        assert hexes(tensors[name].ravel()) == hexes(p.data for row in matrix for p in row)


def test_other_text_is_an_error_unless_it_is_wanted(tmp_path):
    path = tmp_path / "run.safetensors"
    Trainer(DOCS, num_steps=STEPS, **SETTINGS).save(path)
    with pytest.raises(CheckpointError, match="was trained on other text"):
        Trainer.load(path, [*DOCS, "ava"])
    other = Trainer.load(path, ["ava", "mia"], allow_other_text=True)
    assert len(other.run(2)) == 2
    with pytest.raises(ValueError, match="not in the vocabulary"):
        Trainer.load(path, ["xyz"], allow_other_text=True).run()


def test_without_documents_it_samples_but_does_not_train(tmp_path):
    path = tmp_path / "run.safetensors"
    trainer = Trainer(DOCS, num_steps=STEPS, **SETTINGS)
    trainer.run()
    trainer.save(path)
    loaded = Trainer.load(path)
    assert loaded.sample(5) == trainer.sample(5)
    loaded.save(tmp_path / "again.safetensors")
    assert Trainer.load(tmp_path / "again.safetensors", DOCS).step_index == STEPS
    with pytest.raises(ValueError, match="without documents"):
        Trainer.load(path).run()


def rewrite(path, change):
    """Apply change(metadata, tensors) to a good file."""
    with open(path, "rb") as file:
        header = json.loads(file.read(struct.unpack("<Q", file.read(8))[0]))
    about, tensors = json.loads(header["__metadata__"]["microgpt"]), load_file(path)
    change(about, tensors)
    save_file(tensors, path, metadata={"microgpt": about if isinstance(about, str) else json.dumps(about)})


def put(key, value):
    return lambda about, tensors: about.__setitem__(key, value)


def put_setting(key, value):
    return lambda about, tensors: about["settings"].__setitem__(key, value)


DAMAGES = {
    "format": put("format", 99),
    "no format": lambda about, tensors: about.pop("format"),
    "settings missing": lambda about, tensors: about["settings"].pop("n_head"),
    "settings impossible": put_setting("n_head", 3),
    "settings huge": put_setting("n_layer", 10**15),
    "embedding huge": put_setting("n_embd", 2**40),
    "settings of another type": put_setting("n_layer", 2.0),
    "settings null": put("settings", None),
    "steps": put("step_index", STEPS + 1),
    "step true": put("step_index", True),
    "step null": put("step_index", None),
    "seed": put("seed", "forty-two"),
    "vocabulary shorter": put("uchars", "abc"),
    "vocabulary unsorted": lambda about, tensors: about.__setitem__("uchars", about["uchars"][::-1]),
    "vocabulary list": put("uchars", [1, 2]),
    "spare normal": put("gauss_next", 1),
    "digest": put("docs_sha256", None),
    "tensor missing": lambda about, tensors: tensors.pop("wpe"),
    "tensor extra": lambda about, tensors: tensors.__setitem__("extra", np.zeros(1)),
    "tensor renamed": lambda about, tensors: tensors.__setitem__("wpe2", tensors.pop("wpe")),
    "shape": lambda about, tensors: tensors.__setitem__("wpe", tensors["wpe"].T.copy()),
    "float32": lambda about, tensors: tensors.__setitem__("wpe", tensors["wpe"].astype(np.float32)),
    "stream position": lambda about, tensors: tensors["rng.state"].__setitem__(624, 625),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_content_is_refused(tmp_path, damage):
    path = tmp_path / "run.safetensors"
    Trainer(DOCS, num_steps=STEPS, **SETTINGS).save(path)
    Trainer.load(path)
    rewrite(path, DAMAGES[damage])
    with pytest.raises(CheckpointError, match="damaged or not a checkpoint") as error:
        Trainer.load(path)
    assert "\n" not in str(error.value)


def with_header(good, change):
    """A file whose header change has altered; its tensors stay where they are."""
    length = struct.unpack("<Q", good[:8])[0]
    header = json.loads(good[8 : 8 + length])
    change(header)
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + good[8 + length :]


@pytest.mark.parametrize("offsets", [[0, 8], [8, 0], [-8, 0], [0.0, 256], [False, 256], None, [0], [0, 256, 512], "[0, 256]",
                                     [0, 2**64], "of another"], ids=str)  # fmt: skip
def test_tensors_that_overlap_or_leave_a_gap_are_refused(tmp_path, offsets):
    path = tmp_path / "run.safetensors"
    Trainer(DOCS, num_steps=STEPS, **SETTINGS).save(path)

    def change(header):
        first = next(name for name in header if header[name].get("data_offsets", [1])[0] == 0)
        other = next(name for name in header if name != first and header[name].get("shape") == header[first]["shape"])
        header[first]["data_offsets"] = header[other]["data_offsets"] if offsets == "of another" else offsets

    path.write_bytes(with_header(path.read_bytes(), change))
    with pytest.raises(CheckpointError, match="damaged or not a checkpoint"):
        Trainer.load(path)


def test_tensors_may_stand_in_any_order(tmp_path):
    """The format leaves it open, and other programs write theirs."""
    path = tmp_path / "run.safetensors"
    trainer = Trainer(DOCS, num_steps=STEPS, **SETTINGS)
    trainer.save(path)
    names = ("layer0.attn_wq", "layer1.attn_wo")

    def change(header):
        one, other = (header[name] for name in names)
        one["data_offsets"], other["data_offsets"] = other["data_offsets"], one["data_offsets"]

    path.write_bytes(with_header(path.read_bytes(), change))
    loaded, tensors = Trainer.load(path), load_file(path)
    for name, matrix in loaded.model.state_dict.items():
        other = dict(zip(names, names[::-1])).get(name, name)
        values = hexes(p.data for row in matrix for p in row)
        assert values == hexes(tensors[name].ravel())
        assert values == hexes(p.data for row in trainer.model.state_dict[other] for p in row)


@pytest.mark.parametrize("content", [b"", b"short", b"\xff" * 64, b"\x10" + b"\0" * 7 + b"{}" * 8,
                                     b"\x02" + b"\0" * 7 + b"{}", (2**33).to_bytes(8, "little") + b"{}"])  # fmt: skip
def test_file_that_is_no_checkpoint_is_refused(tmp_path, content):
    path = tmp_path / "run.safetensors"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match="damaged or not a checkpoint"):
        Trainer.load(path)


def test_sizes_are_checked_before_anything_is_made_of_them(tmp_path, monkeypatch):
    """Refused by the header alone: neither NumPy nor safetensors is asked."""
    path = tmp_path / "run.safetensors"
    Trainer(DOCS, num_steps=STEPS, **SETTINGS).save(path)
    good = path.read_bytes()
    monkeypatch.setitem(sys.modules, "safetensors", None)
    for content, part in [
        (good + b"\0", "its size is not that of its tensors"),
        (good[:-1], "its size is not that of its tensors"),
        (struct.pack("<Q", 9 * 2**20) + b" " * 9 * 2**20 + b"{}", "its header does not fit the file"),
        (struct.pack("<Q", 7 * 2**20) + b" " * 7 * 2**20 + b"{}", "its header is not JSON"),
        (good[:8] + b"[" + good[9:], "its header is not JSON"),
        (struct.pack("<Q", 21) + b'{"__metadata__":null}', "it has no metadata entry 'microgpt'"),
    ]:
        path.write_bytes(content)
        with pytest.raises(CheckpointError, match=part):
            Trainer.load(path)
    path.write_bytes(good)
    os.truncate(path, 2**40)
    with pytest.raises(CheckpointError, match="its size is not that of its tensors"):
        Trainer.load(path)


def test_truncated_and_flipped_files_are_refused_or_load(tmp_path):
    """A flipped bit inside a weight cannot be seen; anywhere else, and every truncation, is refused."""
    path = tmp_path / "run.safetensors"
    Trainer(DOCS, num_steps=STEPS, n_embd=2, n_head=1, block_size=2).save(path)
    good = path.read_bytes()
    for length in range(0, len(good), 37):
        path.write_bytes(good[:length])
        with pytest.raises(CheckpointError):
            Trainer.load(path)
    refused = 0
    header = struct.unpack("<Q", good[:8])[0] + 8
    for place in range(0, header, 5):
        path.write_bytes(good[:place] + bytes([good[place] ^ 4]) + good[place + 1 :])
        try:
            Trainer.load(path)
        except CheckpointError:
            refused += 1
    assert refused > header // 5 * 3 // 4


def test_failed_save_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "run.safetensors"
    trainer = Trainer(DOCS, num_steps=STEPS, **SETTINGS)
    trainer.save(path)
    before = path.read_bytes()
    trainer.run(1)

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        trainer.save(path)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["run.safetensors"]


@pytest.mark.skipif(os.name != "posix", reason="a folder cannot be opened elsewhere")
def test_saved_file_is_on_the_disk_before_it_takes_the_old_one_s_place(tmp_path, monkeypatch):
    """The content is flushed, then it is moved, then the folder is flushed: in this order a power cut loses nothing."""
    done, fsync, replace = [], os.fsync, os.replace
    path = tmp_path / "run.safetensors"

    def flushed(descriptor):
        found = os.fstat(descriptor)
        done.append("folder" if os.path.samestat(found, os.stat(tmp_path)) else f"{found.st_size} bytes")
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", flushed)
    monkeypatch.setattr(os, "replace", lambda old, new: (done.append("moved"), replace(old, new)))
    Trainer(DOCS, num_steps=STEPS, **SETTINGS).save(path)
    assert done == [f"{path.stat().st_size} bytes", "moved", "folder"]


@pytest.mark.slow
def test_commands_save_resume_and_sample(tmp_path, in_process):
    text = tmp_path / "text.txt"
    text.write_text("\n".join(DOCS), encoding="utf-8")
    small = ["--input", text, "--n-embd", 8, "--n-head", 2, "--steps", 9, "--samples", 4]
    saved, halfway = tmp_path / "whole.safetensors", tmp_path / "half.safetensors"
    whole = in_process("train", *small, "--save", saved)
    assert whole.returncode == 0 and f"saved step 9 to {saved}" in whole.stderr

    halves = Trainer(DOCS, num_steps=9, n_embd=8, n_head=2)
    halves.run(4)
    halves.save(halfway)
    resumed = in_process("train", "--input", text, "--resume", halfway, "--samples", 4)
    assert resumed.returncode == 0, resumed.stderr
    head, tail = whole.stdout.splitlines()[:3], whole.stdout.splitlines()[7:]
    assert resumed.stdout.splitlines() == head + tail

    sample = in_process("sample", saved, "--samples", 4)
    assert sample.stdout.splitlines() == whole.stdout.splitlines()[-4:]

    other = in_process("train", "--input", text, "--resume", halfway, "--n-embd", 16)
    assert other.returncode == 2
    assert "was begun with --n-embd 8; it cannot continue with 16" in other.stderr


@pytest.mark.slow
def test_sample_command_refuses_in_one_line(in_process, tmp_path):
    saved = tmp_path / "run.safetensors"
    Trainer(DOCS, num_steps=1, **SETTINGS).save(saved)
    (tmp_path / "bad.safetensors").write_bytes(b"no checkpoint at all")
    for arguments, part in [
        ([saved, "--prompt", "X"], "character 'X' (U+0058) at index 0 is not in the vocabulary"),
        ([saved, "--prompt", "emmaemma"], "the prompt has 8 characters"),
        ([saved, "--temperature", "-1"], "--temperature"),
        ([tmp_path / "none.safetensors"], "No such file"),
        ([tmp_path / "bad.safetensors"], "damaged or not a checkpoint"),
    ]:
        done = in_process("sample", *arguments)
        assert done.returncode == 2 and part in done.stderr.splitlines()[-1], done.stderr
        assert "Traceback" not in done.stderr
    good = in_process("sample", saved, "--prompt", "em", "--samples", "3", "--seed", "5")
    again = in_process("sample", saved, "--prompt", "em", "--samples", "3", "--seed", "5")
    assert good.returncode == 0 and good.stdout == again.stdout and good.stdout.count(": em") == 3


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="sends signals")
@pytest.mark.parametrize("number, status", [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_interrupted_run_saves_a_whole_step(tmp_path, engine, number, status):
    text, path = tmp_path / "text.txt", tmp_path / "run.safetensors"
    text.write_text("\n".join(DOCS), encoding="utf-8")
    # Into a file: an interrupt during a write to a full pipe would cost the lines of that write.
    with open(tmp_path / "stdout", "wb") as stdout:
        child = subprocess.Popen(
            [sys.executable, "-m", "microgpt.train", "--input", str(text), "--engine", engine, "--steps", "1000000",
             "--save", str(path)],
            stdout=stdout, stderr=subprocess.PIPE, env=environment(), text=True,
        )  # fmt: skip
        while (tmp_path / "stdout").read_bytes().count(b"\n") < 5:
            assert child.poll() is None
            time.sleep(0.01)
        end_by_signal(child, number, status)
    steps = (tmp_path / "stdout").read_text(encoding="utf-8").count("step ")
    interrupted = Trainer.load(path, DOCS, engine="fused")
    assert interrupted.step_index == steps
    whole = Trainer(DOCS, num_steps=1000000)
    whole.run(steps)
    assert outcome(interrupted) == outcome(whole)
