"""python kill_while_saving.py KILLS [ENGINE]: train and save every step, killed (SIGKILL) at random moments.

After each kill the checkpoint must load, hold the bits of the step it names and continue with the bits of a run that
was never interrupted; the next process then resumes it. Prints one line and exits with 0, or fails with a traceback.
"""
import hashlib
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from microgpt import Trainer

DOCS = ["emma", "olivia", "ava", "isabella", "sophia", "mia"]
STEPS, AHEAD = 1_000_000, 3
SPAN = {"fused": 0.05, "graph": 0.05, "reference": 0.5}  # seconds in which the kill comes: some saves of each engine


def state(trainer):
    digest = hashlib.sha256()
    for numbers in (trainer.parameters, trainer.adam.m, trainer.adam.v):
        digest.update("".join(float(x).hex() for x in numbers).encode())
    digest.update(repr(trainer.rng.getstate()).encode())
    return digest.hexdigest()


class Uninterrupted:
    """The same run without a kill: the loss of each step, and the state after it."""

    def __init__(self):
        self.trainer = Trainer(DOCS, num_steps=STEPS)
        self.losses, self.states = [], [state(self.trainer)]

    def until(self, step):
        while len(self.losses) < step:
            self.losses.append(self.trainer.step().hex())
            self.states.append(state(self.trainer))


def written(path):
    """What changes when the file is written; None if there is none."""
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return found.st_ino, found.st_mtime_ns


def killed_child(folder, path, engine, rng):
    """Train from path, or from the beginning, and kill it at a random moment after it has saved once."""
    command = [sys.executable, "-m", "microgpt.train", "--input", str(folder / "text.txt"), "--steps", str(STEPS),
               "--quiet", "--engine", engine, "--save", str(path), "--save-every", "1"]  # fmt: skip
    if path.exists():
        command += ["--resume", str(path)]
    before = written(path)
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    while written(path) in (None, before):
        assert child.poll() is None, child.stderr.read().decode()
        time.sleep(0.0005)
    time.sleep(rng.uniform(0, SPAN[engine]))
    child.kill()
    child.stderr.close()
    child.wait()


def main(kills, engine="fused", seed=1):
    rng, whole, half_written, steps = random.Random(seed), Uninterrupted(), 0, 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "text.txt").write_text("\n".join(DOCS), encoding="utf-8")
        path = folder / "run.safetensors"
        for _ in range(kills):
            killed_child(folder, path, engine, rng)
            left = [entry for entry in os.listdir(folder) if entry.endswith(".tmp")]
            assert len(left) <= 1, left  # what an earlier kill left, the next save has removed
            half_written += len(left)
            trainer = Trainer.load(path, DOCS)
            step = trainer.step_index
            assert step >= steps, "a kill has brought back an older checkpoint"
            steps = step
            whole.until(step + AHEAD)
            assert state(trainer) == whole.states[step], f"step {step} was saved with other bits"
            assert [loss.hex() for loss in trainer.run(AHEAD)] == whole.losses[step : step + AHEAD]
            assert state(trainer) == whole.states[step + AHEAD]
    print(f"{kills} kills, {half_written} in the middle of a file, {steps} steps saved: every checkpoint was whole")
    return half_written


if __name__ == "__main__":
    main(int(sys.argv[1]), *sys.argv[2:])
