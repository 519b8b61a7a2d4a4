"""The parent's side of a contender: it takes a first step and n more, and reports seconds, losses and parameters."""
import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

from . import machine

#: Documents per step of the contenders that train on batches.
BATCH = 16


class Unavailable(Exception):
    """This contender cannot run here; the message is the reason."""


class Result:
    """One answer: by_clock["wall" or "cpu"], the seconds for `steps` steps; steps + 1 losses; peak, bytes of memory; digest, of
    the parameters after the last step. What is not known is None."""

    def __init__(self, steps, seconds, cpu, losses, peak, digest):
        self.steps, self.peak, self.digest = steps, peak, digest
        self.by_clock, self.losses = {"wall": seconds, "cpu": cpu}, [float.fromhex(x) for x in losses]


class Contender:
    """A contender in a child process that lives through all rounds (worker.py).

    given: what worker.py is given; python: its interpreter; package: the folder whose microgpt it imports, None for the
    interpreter's own; precision: "f64", "f32" or "?"; batch: documents per step; tolerance: how far its losses may be from the
    original's, in the check before the timing; repeat: runs per round.
    """

    def __init__(self, name, given=None, environment=None, python=None, package=machine.ROOT, precision="f64", batch=1, tolerance=1e-9):
        self.name, self.precision, self.batch, self.tolerance = name, precision, batch, tolerance
        self.given, self.environment, self.python, self.package = given, environment, python or sys.executable, package
        self.versions, self.repeat, self.process = {}, 1, None

    def start(self):
        """Start the process, or raise Unavailable."""
        command = [self.python, str(machine.HARNESS / "worker.py"), json.dumps(self.given)]
        env = machine.child_environment(self.environment, self.package)
        try:
            self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                                            env=env, encoding="utf-8")  # fmt: skip
        except OSError as error:
            raise Unavailable(f"{self.python}: {error.strerror}") from None
        self.versions = self._answer()["versions"]

    def run(self, steps):
        """Return the Result of `steps` steps after a first, untimed one."""
        self.process.stdin.write(json.dumps({"steps": steps, "repeat": self.repeat}) + "\n")
        self.process.stdin.flush()
        return Result(steps, **self._answer())

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

    def __init__(self, name, path, field, collector=True):
        super().__init__(name)
        self.folder = field.folder
        self.command = [sys.executable, str(machine.HARNESS / "run_script.py"), os.path.abspath(path),
                        "collector" if collector else "no-collector", "-" if field.core is None else str(field.core)]  # fmt: skip

    def start(self):
        """Do nothing: no process lives between two runs."""

    def run(self, steps):
        done = subprocess.run([*self.command, str(steps)], cwd=self.folder, env=machine.child_environment(),
                              capture_output=True, encoding="utf-8")  # fmt: skip
        if done.returncode:
            raise Unavailable((done.stderr.strip().splitlines() or [f"status {done.returncode}"])[-1])
        return Result(steps, **json.loads(done.stdout.splitlines()[-1]))


class Field:
    """Makes the contenders on the task in a folder, pinned to a core; keywords are those of Contender."""

    def __init__(self, folder, core):
        self.folder, self.core = Path(folder), core

    def module(self, name, file, options=None, collector=True, **kwargs):
        """Return the contender that a Python file makes with make(task, **options)."""
        given = {"file": str(file), "task": str(self.folder), "core": self.core, "options": options or {}, "collector": collector}
        return Contender(name, given, **kwargs)

    def trainer(self, name, engine, options=None, **kwargs):
        """Return an engine of microgpt, behind its public Trainer with these options."""
        return self.module(name, machine.HARNESS / "engine.py", {"engine": engine, **(options or {})}, **kwargs)

    def pytorch(self, name, python, batches, threads=1):
        """Return the PyTorch contenders in both precisions; name has the places {dtype} and {precision}."""
        contenders = []
        package = machine.ROOT if python == sys.executable else None  # PyTorch's own Python needs no microgpt
        for batch in batches:
            for dtype, precision, tolerance in (("float64", "f64", 1e-9), ("float32", "f32", 1e-3)):
                full = name.format(dtype=dtype, precision=precision) + (f", batch {batch}" if batch > 1 else "")
                options = {"dtype": dtype, "batch": batch, "threads": threads}
                contenders.append(self.module(full, machine.BENCH / "torch_gpt.py", options, python=python, package=package,
                                              precision=precision, batch=batch, tolerance=tolerance))  # fmt: skip
        return contenders

    def others(self, versions):
        """Return the fused engine of each --other version, (name, path), and unpack wheels into the task's folder."""
        contenders = []
        for i, (name, path) in enumerate(versions):
            package = Path(path).absolute()
            if package.suffix == ".whl":
                unpacked = self.folder / f"other-{i}"
                zipfile.ZipFile(package).extractall(unpacked)
                package = unpacked
            if package.is_dir():
                where = {"options": {"package": str(package)}, "package": package}
            else:  # absolute, not resolved: the link to the interpreter is what makes it an environment's
                where = {"python": str(package), "package": None}
            contenders.append(self.trainer(name, "fused", **where))
        return contenders
