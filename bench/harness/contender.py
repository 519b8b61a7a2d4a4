"""The parent's side: a contender takes a first step and n more, and says how long those n took and all its losses."""
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
    """This contender cannot run here; the message says why."""


class Result:
    """One answer: seconds (by the clock) and cpu (of the processor) for `steps` steps; losses, one more than that, or
    None; peak: bytes of memory; digest: of the parameters after the last step, or None."""

    def __init__(self, steps, seconds, cpu, losses, peak, digest=None):
        self.steps, self.seconds, self.cpu, self.peak, self.digest = steps, seconds, cpu, peak, digest
        self.by_clock = {"wall": seconds, "cpu": cpu}
        self.losses = None if losses is None else [float.fromhex(x) for x in losses]


class Contender:
    """What compare.py shows of a contender, and the state of its process.

    name; precision ("f64", "f32", "?"); batch: documents a step; tolerance: how far its losses may lie from the
    original's and still count as the same model, for the check before the clock starts.
    """

    def __init__(self, name, precision="f64", batch=1, tolerance=1e-9):
        self.name, self.precision, self.batch, self.tolerance = name, precision, batch, tolerance
        self.versions, self.repeat = {}, 1

    def start(self):
        """Begin; raises Unavailable."""

    def run(self, steps):
        """A Result for `steps` steps, which follow a first one that is not timed. It begins anew each time."""
        raise NotImplementedError

    def stop(self):
        pass


class Worker(Contender):
    """A contender in a child process that stays alive between rounds (worker.py)."""

    def __init__(self, name, specification, environment=None, python=None, **kwargs):
        super().__init__(name, **kwargs)
        self.specification, self.environment, self.python = specification, environment, python or sys.executable
        self.process = self.memory_before = None

    def start(self):
        try:
            self.process = subprocess.Popen(
                [self.python, str(machine.HARNESS / "worker.py"), json.dumps(self.specification)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env=machine.child_environment(self.environment, own_python=self.python == sys.executable),
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
        n = len(answer["seconds"])
        seconds, cpu = sum(answer["seconds"]) / n, sum(answer["cpu"]) / n
        return Result(steps, seconds, cpu, answer["losses"], answer["peak"], answer["digest"])

    def ask(self, **request):
        """The worker's answer to a request: see worker.py."""
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
    """The user's own microgpt.py, in a new process each time (run_script.py).

    value: None, or "module:Class" of the class that takes the place of its own.
    """

    def __init__(self, name, path, folder, core, collector=True, value=None):
        super().__init__(name)
        self.path, self.folder = str(path), folder
        collector = "collector" if collector else "no-collector"
        self.options = [collector, value or "-", "-" if core is None else str(core)]

    def run(self, steps):
        answer = self.answer(steps)
        seconds, cpu = answer["seconds"][0], answer["cpu"][0]
        return Result(steps, seconds, cpu, answer["losses"], answer["peak"], answer["digest"])

    def answer(self, steps="all"):
        """What run_script.py says: a dict with "seconds", "cpu", "losses", "stdout", "peak"."""
        done = subprocess.run(
            [sys.executable, str(machine.HARNESS / "run_script.py"), self.path, str(steps), *self.options],
            cwd=self.folder,
            env=machine.child_environment(),
            capture_output=True,
            encoding="utf-8",
        )
        if done.returncode:
            raise Unavailable((done.stderr.strip().splitlines() or [f"status {done.returncode}"])[-1])
        return json.loads(done.stdout.splitlines()[-1])


class Command(Contender):
    """Any program, timed as a process at two step counts, so that what it does before its first step cancels.

    template: a command line in which {steps} stands for the number of steps and {input} for the text's file.
    """

    ENOUGH, LONGEST = (
        0.5,
        20.0,
    )  # seconds: the difference to reach between the counts; what a run for its losses may take

    def __init__(self, name, template, core, input_file):
        super().__init__(name, precision="?", tolerance=math.inf)
        if "{steps}" not in template:
            raise Unavailable("its command line does not say {steps}, where the number of steps belongs")
        self.template, self.core, self.input_file, self.counts = template, core, str(input_file), None

    def _seconds(self, steps, keep=False):
        """(seconds by the clock, seconds of the processor, what it printed if that is to be kept)"""
        words = [
            w.replace("{steps}", str(steps)).replace("{input}", self.input_file) for w in shlex.split(self.template)
        ]
        with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as errors:
            before, started = os.times(), time.perf_counter()
            try:
                status = subprocess.run(
                    words,
                    stdin=subprocess.DEVNULL,
                    stdout=output if keep else subprocess.DEVNULL,
                    stderr=errors,
                    env=machine.child_environment(),
                    preexec_fn=None if self.core is None else lambda: machine.pin(self.core),
                ).returncode
            except OSError as error:
                raise Unavailable(f"{words[0]}: {error.strerror}") from None
            seconds, after = time.perf_counter() - started, os.times()
            cpu = after.children_user + after.children_system - before.children_user - before.children_system
            if status:
                raise Unavailable(f"{' '.join(words)} ended with status {status}: {_text(errors).strip()[-200:]}")
            return seconds, cpu, _text(output)

    def calibrate(self, steps):
        """Find the two counts: `steps` and one so much larger that the clock can tell them apart."""
        low, high = steps, 2 * steps
        base = self._seconds(low)[0]
        while self._seconds(high)[0] - base < self.ENOUGH and high < 10**7:
            high *= 4
        self.counts = low, high

    def printed_losses(self, num_steps):
        """The losses it prints in a run of num_steps, if that run is short enough, read off lines like the script's."""
        low, high = self.counts
        seconds = self._seconds(high)[0]
        if seconds / high * num_steps > self.LONGEST:
            return None
        return read_losses(self._seconds(num_steps, keep=True)[2])

    def run(self, steps):
        low, high = self.counts
        many, few = self._seconds(high), self._seconds(low)
        seconds, cpu = ((many[i] - few[i]) / (high - low) for i in (0, 1))
        if seconds <= 0:
            raise Unavailable(f"{high} steps took no longer than {low}")
        return Result(1, seconds, cpu if cpu > 0 else seconds, None, None)  # not every system counts a child's time


def _text(file):
    file.seek(0)
    return file.read().decode("utf-8", "replace")


def read_losses(output):
    """The losses in a program's output: of every line with 'step' and 'loss' and a number after each."""
    found = re.findall(r"step\D*(\d+)\b.*?loss\D*?(-?\d+\.\d+)", output)
    return [float(loss) for _, loss in found] or None
