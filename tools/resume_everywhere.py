"""python tools/resume_everywhere.py [STEPS]: stop the default run and go on with it, by every engine from every engine.

Each engine trains the whole run in a process of its own and saves it at steps 0, 1, half-way, last - 1 and last. The
files of the engines must be the same to the byte, so that it does not matter whose is taken. Then each engine resumes
each of the five in a new process: losses, parameters, moments and samples must have the bits of the uninterrupted run.
The reference engine takes most of the time (some minutes for the default, 1000 steps).
"""
import gc
import hashlib
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from microgpt import Trainer, load_docs
from microgpt.data import BUNDLED
from microgpt.trainer import ENGINES


def run(trainer, until):
    """Train up to a step; returns the losses. The collector costs the reference most of its time, so it comes rarely."""
    losses = []
    while trainer.step_index < until:
        losses += trainer.run(min(20, until - trainer.step_index))
        gc.collect()
    return losses


def show(trainer, losses):
    """A line for the losses, one each for parameters, moments and stream (hashed), one for the samples."""
    print(*(loss.hex() for loss in losses))
    for numbers in (trainer.parameters, trainer.adam.m, trainer.adam.v):
        print(hashlib.sha256(" ".join(float(x).hex() for x in numbers).encode()).hexdigest())
    print(hashlib.sha256(repr(trainer.rng.getstate()).encode()).hexdigest())
    print(trainer.sample(20), trainer.sample(5, temperature=1.0, prompt="ka"))


def stops(steps):
    return sorted({0, min(1, steps), steps // 2, max(0, steps - 1), steps})


def begin(engine, steps, folder):
    """In a process of its own: the whole run, saved at every stop."""
    trainer, losses = Trainer(load_docs(BUNDLED), num_steps=int(steps), engine=engine), []
    for stop in stops(int(steps)):
        losses += run(trainer, stop)
        trainer.save(Path(folder) / f"{stop}.safetensors")
    show(trainer, losses)


def resume(engine, path):
    """In a process of its own: what remains of a saved run."""
    trainer = Trainer.load(path, load_docs(BUNDLED), engine=engine)
    show(trainer, run(trainer, trainer.num_steps))


def child(*arguments):
    code = "import gc, sys; gc.disable(); sys.path.insert(0, sys.argv[1]); import resume_everywhere as here; "
    code += "getattr(here, sys.argv[2])(*sys.argv[3:])"
    done = subprocess.run([sys.executable, "-c", code, str(Path(__file__).parent), *map(str, arguments)],
                          stdout=subprocess.PIPE, encoding="utf-8", check=True)  # fmt: skip
    return done.stdout.splitlines()


def main(steps=1000):
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as name:
        whole = {}
        for engine in ENGINES:
            (Path(name) / engine).mkdir()
            whole[engine] = child("begin", engine, steps, Path(name) / engine)
            assert whole[engine] == whole["fused"], f"{engine} differs from fused"
            for stop in stops(steps):
                one, other = (Path(name) / which / f"{stop}.safetensors" for which in ("fused", engine))
                assert one.read_bytes() == other.read_bytes(), f"{engine} saved step {stop} with other bits than fused"
        losses, *rest = whole["fused"]
        for engine in ENGINES:
            for stop in stops(steps):
                found = child("resume", engine, Path(name) / "fused" / f"{stop}.safetensors")
                assert found[0].split() == losses.split()[stop:], f"{engine}, resumed at step {stop}: other losses"
                assert found[1:] == rest, f"{engine}, resumed at step {stop}: other bits at the end"
    print(f"{steps} steps, stopped at {stops(steps)}, from {len(ENGINES)} engines to {len(ENGINES)}: "
          f"the same bits, in {time.perf_counter() - started:.0f} s")  # fmt: skip


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
