"""The parent's side of a contender: it takes a first step and n more, and reports seconds, losses and parameters."""
import json
import math
import os
import re
import shlex
import subprocess
import sys
import tempfile
import time

from . import machine


class Unavailable(Exception):
    """This contender cannot run here; the message is the reason."""


class Result:
    """One answer.

    steps; by_clock: {"wall", "cpu"}: seconds for these steps; losses: steps + 1 floats, or None; peak: bytes of
    memory; digest: of the parameters after the last step, or None.
    """

    def __init__(self, steps, seconds, cpu, losses=None, peak=None, digest=None):
        self.steps, self.peak, self.digest = steps, peak, digest
        self.by_clock = {"wall": seconds, "cpu": cpu}
        self.losses = None if losses is None else [float.fromhex(x) for x in losses]


class Contender:
    """A name, and the state of its process.

    precision: "f64", "f32" or "?"; batch: documents per step; tolerance: how far its losses may be from the
    original's, in the check before the timing; repeat: runs per round; printed: losses read from its output.
    """

    def __init__(self, name, precision="f64", batch=1, tolerance=1e-9):
        self.name, self.precision, self.batch, self.tolerance = name, precision, batch, tolerance
        self.versions, self.repeat, self.printed = {}, 1, None

    def start(self):
        """Start. Raises Unavailable."""

    def run(self, steps):
        """Return the Result of `steps` steps after a first one that is not timed, from the initial parameters."""
        raise NotImplementedError

    def stop(self):
        pass


class Worker(Contender):
    """A contender in a child process that lives through all rounds (worker.py).

    python: its interpreter; package: the folder whose microgpt it imports, None for the interpreter's own.
    """

    def __init__(self, name, specification, environment=None, python=None, package=machine.ROOT, **kwargs):
        super().__init__(name, **kwargs)
        self.specification, self.environment = specification, environment
        self.python, self.package = python or sys.executable, package
        self.process = self.memory_before = None

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
            answer = self._answer()
            self.versions, self.memory_before = answer["versions"], answer["before"]
        except Unavailable:
            self.stop()
            raise

    def run(self, steps):
        answer = self.ask(steps=steps, repeat=self.repeat)
        seconds, cpu = (sum(answer[clock]) / len(answer[clock]) for clock in ("seconds", "cpu"))
        return Result(steps, seconds, cpu, answer["losses"], answer["peak"], answer["digest"])

    def ask(self, **request):
        """Return the worker's answer to a request (worker.py)."""
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        return self._answer()

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
    """The user's own microgpt.py, in a new process for each run (run_script.py).

    value: None, or the "module:Class" that replaces its class Value.
    """

    def __init__(self, name, path, folder, core, collector=True, value=None):
        super().__init__(name)
        self.path, self.folder = os.path.abspath(path), folder
        collector = "collector" if collector else "no-collector"
        self.options = [collector, value or "-", "-" if core is None else str(core)]

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


class Command(Contender):
    """Any program, timed as a process at two step counts, so that the time before its first step cancels.

    template: a command line in which {steps} is the number of steps and {input} the text's file.
    """

    ENOUGH = 0.5  # seconds that the larger count must take longer
    LONGEST = 20.0  # seconds that the run for its losses may take

    def __init__(self, name, template, core, input_file, steps):
        super().__init__(name, precision="?", tolerance=math.inf)
        self.template, self.core, self.input_file, self.steps = template, core, str(input_file), steps

    def start(self):
        if "{steps}" not in self.template:
            raise Unavailable("its command line does not contain {steps}, the number of steps")
        self.low, self.high = self.steps, 2 * self.steps
        base = self._process(self.low)[0]
        while self._process(self.high)[0] - base < self.ENOUGH and self.high < 10**7:
            self.high *= 4
        if self._process(self.high)[0] / self.high * self.steps <= self.LONGEST:
            self.printed = read_losses(self._process(self.steps + 1, keep=True)[2])

    def run(self, steps):
        many, few = self._process(self.high), self._process(self.low)
        seconds, cpu = ((many[i] - few[i]) / (self.high - self.low) for i in (0, 1))
        if seconds <= 0:
            raise Unavailable(f"{self.high} steps took no longer than {self.low}")
        return Result(1, seconds, cpu if cpu > 0 else seconds)  # not every system counts a child's time

    def _process(self, steps, keep=False):
        """Return (wall seconds, processor seconds, its output if kept) of one process."""
        words = shlex.split(self.template)
        words = [w.replace("{steps}", str(steps)).replace("{input}", self.input_file) for w in words]
        with tempfile.TemporaryFile() as output:
            before, started = os.times(), time.perf_counter()
            try:
                done = subprocess.run(
                    words,
                    stdin=subprocess.DEVNULL,
                    stdout=output if keep else subprocess.DEVNULL,
                    stderr=subprocess.PIPE,
                    env=machine.child_environment(),
                    preexec_fn=None if self.core is None else lambda: machine.pin(self.core),
                )
            except OSError as error:
                raise Unavailable(f"{words[0]}: {error.strerror}") from None
            seconds, after = time.perf_counter() - started, os.times()
            cpu = after.children_user + after.children_system - before.children_user - before.children_system
            if done.returncode:
                reason = done.stderr.decode("utf-8", "replace").strip()[-200:]
                raise Unavailable(f"{' '.join(words)} ended with status {done.returncode}: {reason}")
            output.seek(0)
            return seconds, cpu, output.read().decode("utf-8", "replace")


def read_losses(output):
    """Return the losses in a program's output: of each line with 'step' and 'loss' and a number after each."""
    found = re.findall(r"step\D*(\d+)\b.*?loss\D*?(-?\d+\.\d+)", output)
    return [float(loss) for _, loss in found] or None
