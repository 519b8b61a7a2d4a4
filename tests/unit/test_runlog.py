"""Logs: one object a step, with the bits of the losses and tensors, and no bit of the run changed."""
import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from children import LIMIT, end_by_signal
from conftest import environment, hexes

from microgpt import Callback, LogError, RunLogger, Trainer
from microgpt.storage.runlog import read_log, tensor_digests
from microgpt.trainer.loop import CallbackList
from microgpt.viz.activations import attention

NAMES = ["emma", "olivia", "ava", "isabella", "sophia", "charlotte", "mia", "amelia", "harper", "evelyn"]
SETTINGS = dict(n_embd=4, n_head=2, n_layer=2, block_size=6)
SMALL = ["--n-embd", "4", "--n-head", "2", "--n-layer", "2", "--block-size", "6", "--samples", "3"]


@pytest.fixture
def train(in_process, tmp_path):
    (tmp_path / "text.txt").write_text("\n".join(NAMES), encoding="utf-8")
    (tmp_path / "val.txt").write_text("mila\n", encoding="utf-8")

    def run(*arguments, status=0):
        done = in_process("train", "--input", "text.txt", *arguments)
        assert done.returncode == status, done.stderr
        assert "Traceback" not in done.stderr
        return done

    return run


@pytest.mark.slow
def test_log_says_what_happened(train, engine, tmp_path):
    flags = [*SMALL, "--steps", "12", "--engine", engine]
    plain = train(*flags)
    logged = train(*flags, "--log", "run.jsonl", "--look-every", "5", "--val", "val.txt", "--val-every", "4")
    assert logged.stdout == plain.stdout
    lines = (tmp_path / "run.jsonl").read_text(encoding="utf-8").splitlines()
    records = read_log(tmp_path / "run.jsonl")
    assert [json.loads(line) for line in lines] == records
    assert [record["step"] for record in records] == list(range(1, 13))

    trainer = Trainer(NAMES, num_steps=12, engine="reference", **SETTINGS)
    for record in records:
        rate = 0.01 * (1 - trainer.step_index / 12)
        loss = trainer.step()
        assert record["loss_hex"] == loss.hex() == record["loss"].hex()
        assert record["learning_rate"].hex() == rate.hex()
        assert record["digests"] == tensor_digests(trainer)
        assert list(record["digests"]) == list(trainer.model.state_dict)
        looked = record["step"] in (5, 10, 12)
        assert ("samples" in record) == ("attention" in record) == looked
        assert ("val_loss" in record) == (record["step"] in (4, 8, 12))
        if looked:
            assert record["samples"] == trainer.sample(5, seed=42)
            text, weights = record["attention"]["text"], np.zeros((2, 2, 6, 6))
            assert text == trainer.docs[0][:5]
            for layer in range(2):
                for head in range(2):
                    for i, row in enumerate(record["attention"]["weights"][layer][head]):
                        assert len(row) == i + 1
                        weights[layer, head, i, : i + 1] = row
            n = len(text) + 1
            assert np.abs(weights[:, :, :n, :n] - attention(trainer, text)).max() <= 0.0005
    run = records[0]["run"]
    assert run["settings"] == trainer.settings and run["engine"] == engine and run["docs"] == 10
    assert run["machine"]["python"] and not any("run" in record for record in records[1:])
    seconds = [record["seconds"] for record in records]
    assert seconds == sorted(seconds)


def test_digest_tells_one_bit(engine):
    trainer = Trainer(NAMES, num_steps=2, engine=engine, **SETTINGS)
    before = tensor_digests(trainer)
    values = trainer.parameters
    values[-1] = np.nextafter(values[-1], 1)
    trainer.parameters = values
    after = tensor_digests(trainer)
    assert [name for name in before if before[name] != after[name]] == ["layer1.mlp_fc2"]


def test_fewer_digests(train, tmp_path):
    train(*SMALL, "--steps", "10", "--log", "run.jsonl", "--digest-every", "4")
    assert [record["step"] for record in read_log(tmp_path / "run.jsonl") if "digests" in record] == [4, 8, 10]


def essence(path):
    """A log without what differs from run to run: when, how long, and which process."""
    return [{key: value for key, value in record.items() if key not in ("seconds", "run")} for record in read_log(path)]


@pytest.mark.slow
def test_resumed_run_continues_its_log(train, tmp_path):
    """The checkpoint is at step 5, the log already at step 9 and in the middle of 10."""
    train(*SMALL, "--steps", "20", "--log", "whole.jsonl", "--look-every", "4")
    begun = Trainer(NAMES, num_steps=20, engine="reference", **SETTINGS)
    begun.run(5)
    begun.save(tmp_path / "run.safetensors")
    lines = (tmp_path / "whole.jsonl").read_text(encoding="utf-8").splitlines(True)
    (tmp_path / "run.jsonl").write_text("".join(lines[:9]) + lines[9][:40], encoding="utf-8")
    train("--resume", "run.safetensors", "--log", "run.jsonl", "--look-every", "4")
    assert essence(tmp_path / "run.jsonl") == essence(tmp_path / "whole.jsonl")
    assert [record["step"] for record in read_log(tmp_path / "run.jsonl") if "run" in record] == [1, 6]
    train("--resume", "run.safetensors", "--log", "new.jsonl", "--look-every", "4")
    assert essence(tmp_path / "new.jsonl") == essence(tmp_path / "whole.jsonl")[5:]


@pytest.mark.slow
def test_file_that_is_no_log_is_not_continued(train, tmp_path):
    begun = Trainer(NAMES, num_steps=20, engine="reference", **SETTINGS)
    begun.run(5)
    begun.save(tmp_path / "run.safetensors")
    for content in (b"precious\n", b"{}\n", b'{"step": true, "loss_hex": "0x1p0"}\n', b'{"step": 1, "loss_hex": 1}\n',
                    b"\xff\n", b"[" * 100000 + b"\n", b'{"step":1,"loss_hex":"0x1p0"}\nprecious\n'):  # fmt: skip
        (tmp_path / "notes.txt").write_bytes(content)
        done = train("--resume", "run.safetensors", "--log", "notes.txt", status=2)
        assert "notes.txt is not the log of a run: line" in done.stderr
        assert (tmp_path / "notes.txt").read_bytes() == content


@pytest.mark.skipif(os.name != "posix", reason="signals, limits and permissions of POSIX")
def test_two_runs_do_not_write_one_log(tmp_path):
    path, held = tmp_path / "run.jsonl", []

    class Other(Callback):
        """Begins another run while the first is under way."""

        def steps_until_due(self, trainer):
            return 2

        def is_due(self, trainer):
            return True

        def on_check(self, trainer, record):
            with pytest.raises(OSError, match="Another run writes to it") as caught:
                Trainer(NAMES, num_steps=3, **SETTINGS).run(callbacks=[RunLogger(path)])
            assert caught.value.filename == str(path)
            held.append(os.dup(logger.file.fileno()))  # as a forked process does

    logger = RunLogger(path)
    Trainer(NAMES, num_steps=6, **SETTINGS).run(callbacks=[logger, Other()])
    assert [record["step"] for record in read_log(path)] == [1, 2, 3, 4, 5, 6] and held
    Trainer(NAMES, num_steps=3, **SETTINGS).run(callbacks=[RunLogger(path)])
    assert len(read_log(path)) == 3
    for descriptor in held:
        os.close(descriptor)


@pytest.mark.skipif(os.name != "posix", reason="a limit of POSIX")
def test_disk_that_fills_up(command, tmp_path):
    """Here by a limit on the file's size: one line that names the file; what was written of it can be read."""
    code = ("import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000)); "
            "from microgpt import train; "
            "sys.exit(train.main(['--steps', '30', '--n-embd', '4', '--log', 'run.jsonl']))")  # fmt: skip
    done = command("-c", code)
    assert done.returncode == 2 and done.stderr.splitlines()[-1] == "microgpt: error: run.jsonl: File too large"
    assert 0 < len(read_log(tmp_path / "run.jsonl")) < 30


def test_log_of_a_diverging_run_is_valid_json(train, tmp_path):
    train(*SMALL, "--steps", "60", "--learning-rate", "1e3", "--log", "run.jsonl", status=3)

    def refuse(constant):
        raise AssertionError(constant)

    for line in (tmp_path / "run.jsonl").read_text(encoding="utf-8").splitlines():
        json.loads(line, parse_constant=refuse)


@pytest.mark.parametrize("flags", [["--learning-rate", "1e308"],
                                   *(pytest.param(["--init-std", std], marks=pytest.mark.slow) for std in ("1e308", "1e200"))])
def test_log_does_not_end_a_run_whose_loss_is_nan(train, tmp_path, flags, engine):
    """The model can no longer be sampled from, and has no attention: the log says null, and stdout stays as it is."""
    flags = [*SMALL[:-1], "0", "--steps", "12", "--engine", engine, *flags]
    plain = train(*flags, "--save", "plain.safetensors")
    assert "loss nan" in plain.stdout
    looked = train(*flags, "--save", "looked.safetensors", "--log", "run.jsonl", "--look-every", "3")
    assert looked.stdout == plain.stdout and "Warning" not in looked.stderr
    plain, looked = (Trainer.load(tmp_path / f"{name}.safetensors") for name in ("plain", "looked"))
    assert hexes(looked.model.data) == hexes(plain.model.data) and looked.rng.getstate() == plain.rng.getstate()
    records = [json.loads(line, parse_constant=pytest.fail) for line in (tmp_path / "run.jsonl").read_text().splitlines()]
    assert [record["step"] for record in records] == list(range(1, 13))
    for record in records:
        assert (record["loss"] is None) == (record["loss_hex"] == "nan")
    looks = [record for record in records if "samples" in record]
    assert len(looks) == 4 and looks[-1]["samples"] is looks[-1]["attention"] is None


def test_reading(tmp_path):
    path = tmp_path / "run.jsonl"
    first = b'{"step":1,"loss":1.0,"loss_hex":"0x1p0","run":{}}\n'
    path.write_bytes(first + b'{"step":2,"lo')
    assert [record["step"] for record in read_log(path)] == [1]
    for content, part in [(b"", "it is empty"), (b'{"step":1,"loss_hex":"0x1p0"}\n', "does not say which run"),
                          (first + b"\n" + first, "line 2")]:  # fmt: skip
        path.write_bytes(content)
        with pytest.raises(LogError, match=part):
            read_log(path)


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="sends signals")
@pytest.mark.parametrize("number, status", [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_interrupted_run_has_logged_every_step(train, tmp_path, number, status, engine):
    child = subprocess.Popen(
        [sys.executable, "-m", "microgpt.train", "--input", "text.txt", *SMALL, "--steps", "1000000", "--engine",
         engine, "--log", "run.jsonl", "--save", "run.safetensors"],
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=environment(), text=True, cwd=tmp_path,
    )  # fmt: skip
    while not (tmp_path / "run.jsonl").exists() or not (tmp_path / "run.jsonl").stat().st_size:
        time.sleep(0.01)
    end_by_signal(child, number, status)
    records = read_log(tmp_path / "run.jsonl")
    saved = Trainer.load(tmp_path / "run.safetensors", NAMES)
    assert [record["step"] for record in records] == list(range(1, saved.step_index + 1))
    whole = Trainer(NAMES, num_steps=1000000, **SETTINGS)
    assert [record["loss_hex"] for record in records] == hexes(whole.run(len(records)))


@pytest.mark.parametrize("place", ["before steps are reported", "before a write", "in a write", "in a flush", "after a flush",
                                   "after all"])  # fmt: skip
def test_no_step_is_lost_wherever_an_interrupt_comes(tmp_path, monkeypatch, place):
    trainer, path = Trainer(NAMES, num_steps=20, **SETTINGS), tmp_path / "run.jsonl"
    interrupted = []

    def interrupt(*arguments):
        if not interrupted:
            interrupted.append(place)
            raise KeyboardInterrupt

    class File:
        def __init__(self, file):
            self.file = file

        def __getattr__(self, name):
            return getattr(self.file, name)

        def write(self, text):
            if place == "in a write" and not interrupted:
                self.file.write(text[: len(text) // 2])
                interrupt()
            self.file.write(text)

        def flush(self):
            if place == "in a flush":
                interrupt()
            self.file.flush()

        def fileno(self):
            if place == "after a flush":
                interrupt()
            return self.file.fileno()

    losses = []
    log = RunLogger(path, source="names")
    with pytest.raises(KeyboardInterrupt), CallbackList(trainer, [log]):
        for first in range(0, 20, 4):
            losses += trainer.run(4)
            if first == 8:
                log.file = File(log.file)
                if place == "before steps are reported":
                    interrupt()
            log.on_steps(trainer, first, trainer.last_losses)
            if first == 8 and place == "before a write":
                interrupt()
            log.flush(trainer, {"samples": [str(first)]})
        interrupt()
    records = read_log(path)
    assert [record["step"] for record in records] == list(range(1, len(losses) + 1))
    assert hexes(losses) == [record["loss_hex"] for record in records]
    assert ["run" in record for record in records] == [True] + [False] * (len(losses) - 1)
    looked = [record["samples"] for record in records if "samples" in record]
    assert looked == [["0"], ["4"], ["8"], ["12"], ["16"]][: 2 if place.startswith("before") else len(losses) // 4]


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="sends signals")
def test_interrupt_while_nobody_reads_costs_the_log_no_step(train, tmp_path):
    """The child is writing to a full pipe; those steps are done, saved, and must be logged."""
    child = subprocess.Popen(
        [sys.executable, "-m", "microgpt.train", "--input", "text.txt", *SMALL, "--steps", "1000000",
         "--log", "run.jsonl", "--digest-every", "1000000", "--save", "run.safetensors"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment(), text=True, cwd=tmp_path,
    )  # fmt: skip
    sizes = [0]
    while sizes[-1] == 0 or sizes[-1] != sizes[max(0, len(sizes) - 20)]:
        time.sleep(0.05)
        sizes.append((tmp_path / "run.jsonl").stat().st_size if (tmp_path / "run.jsonl").exists() else 0)
    child.send_signal(signal.SIGINT)
    child.stdout.close()
    errors = child.stderr.read()
    child.stderr.close()
    assert child.wait(LIMIT) == 130, errors
    steps = Trainer.load(tmp_path / "run.safetensors").step_index
    assert [record["step"] for record in read_log(tmp_path / "run.jsonl")] == list(range(1, steps + 1))


BAD = [
    (["--look-every", "5"], "--look-every needs --log"),
    (["--digest-every", "5"], "--digest-every needs --log"),
    (["--log", "x.jsonl", "--look-every", "0"], "--look-every must be at least 1"),
    (["--log", "no/folder/x.jsonl"], "no/folder"),
    (["--log", "."], "Is a directory"),
    (["--log", "text.txt"], "would overwrite --input"),
]


@pytest.mark.parametrize("arguments, part", BAD, ids=lambda x: " ".join(x)[:40] if isinstance(x, list) else "")
def test_bad_arguments_end_in_one_line(train, arguments, part):
    done = train(*SMALL, *arguments, status=2)
    assert part in done.stderr.strip().splitlines()[-1] and done.stdout == ""
