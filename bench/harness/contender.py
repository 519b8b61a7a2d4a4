"""The parent's side of a contender: it takes a first step and n more, and reports seconds, losses and parameters."""
import json
import os
import subprocess
import sys

from . import machine


class Unavailable(Exception):
    """This contender cannot run here; the message is the reason."""


class Result:
    """One answer.

    by_clock: {"wall", "cpu"}: seconds for `steps` steps; losses: steps + 1 floats; peak: bytes of memory, or None;
    digest: of the parameters after the last step, or None.
    """

    def __init__(self, steps, seconds, cpu, losses, peak, digest):
        self.steps, self.peak, self.digest = steps, peak, digest
        self.by_clock = {"wall": seconds, "cpu": cpu}
        self.losses = [float.fromhex(x) for x in losses]


class Contender:
    """A name, and the state of its process. run(steps) returns the Result of `steps` steps after a first, untimed one.

    precision: "f64", "f32" or "?"; batch: documents per step; tolerance: how far its losses may be from the
    original's, in the check before the timing; repeat: runs per round.
    """

    def __init__(self, name, precision="f64", batch=1, tolerance=1e-9):
        self.name, self.precision, self.batch, self.tolerance = name, precision, batch, tolerance
        self.versions, self.repeat = {}, 1

    def start(self):
        """Start. Raises Unavailable."""

    def stop(self):
        """Stop."""


class Worker(Contender):
    """A contender in a child process that lives through all rounds (worker.py).

    python: its interpreter; package: the folder whose microgpt it imports, None for the interpreter's own.
    """

    def __init__(self, name, specification, environment=None, python=None, package=machine.ROOT, **kwargs):
        super().__init__(name, **kwargs)
        self.specification, self.environment = specification, environment
        self.python, self.package = python or sys.executable, package
        self.process = None

    def start(self):
        try:
            self.process = subprocess.Popen(
                [self.python, str(machine.HARNESS / "worker.py"), json.dumps(self.specification)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env=machine.child_environment(self.environment, self.package),
                encoding="utf-8",
            )
        except OSError as error:
            raise Unavailable(f"{self.python}: {error.strerror}") from None
        try:
            self.versions = self._answer()["versions"]
        except Unavailable:
            self.stop()
            raise

    def run(self, steps):
        self.process.stdin.write(json.dumps({"steps": steps, "repeat": self.repeat}) + "\n")
        self.process.stdin.flush()
        answer = self._answer()
        seconds, cpu = (sum(answer[clock]) / len(answer[clock]) for clock in ("seconds", "cpu"))
        return Result(steps, seconds, cpu, answer["losses"], answer["peak"], answer["digest"])

    def _answer(self):
        line = self.process.stdout.readline()
        if not line:
            raise Unavailable(f"its process ended with status {self.process.wait()}")
        answer = json.loads(line)
        if "error" in answer:
            raise Unavailable(answer["error"])
        return answer

    def stop(self):
        if self.process is not None:
            self.process.stdin.close()
            self.process.stdout.close()
            self.process.wait()
            self.process = None


class Script(Contender):
    """The user's own microgpt.py, in a new process for each run (run_script.py)."""

    def __init__(self, name, path, folder, core, collector=True):
        super().__init__(name)
        self.path, self.folder = os.path.abspath(path), folder
        collector = "collector" if collector else "no-collector"
        self.options = [collector, "-" if core is None else str(core)]

    def run(self, steps):
        done = subprocess.run(
            [sys.executable, str(machine.HARNESS / "run_script.py"), self.path, str(steps), *self.options],
            cwd=self.folder,
            env=machine.child_environment(),
            capture_output=True,
            encoding="utf-8",
        )
        if done.returncode:
            raise Unavailable((done.stderr.strip().splitlines() or [f"status {done.returncode}"])[-1])
        return Result(steps, **json.loads(done.stdout.splitlines()[-1]))
