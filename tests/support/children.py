"""Child processes that import the package under test, wherever they start."""
import os
import subprocess
import sys
import time
from pathlib import Path

import microgpt

#: Seconds after which a process or a thread hangs: many times what any takes on a machine that is busy with other work.
LIMIT = 600

SUPPORT = Path(__file__).resolve().parent
ROOT = SUPPORT.parents[1]


def environment(extra=None):
    """Return the environment of a child process: it finds the package under test, and the modules of this folder."""
    env = {**os.environ, "PYTHONUTF8": "1", **(extra or {})}
    paths = [Path(microgpt.__file__).parent.parent, SUPPORT, env.get("PYTHONPATH", "")]
    env["PYTHONPATH"] = os.pathsep.join(map(str, paths))
    return env


def run_child(code, *arguments, timeout=LIMIT, **options):
    """Run Python code in a process of its own; return the finished process. A process that hangs is an error."""
    return subprocess.run([sys.executable, "-c", code, *map(str, arguments)], capture_output=True, text=True,
                          encoding="utf-8", env=environment(), timeout=timeout, **options)  # fmt: skip


def child(code, *arguments, timeout=LIMIT):
    """Run Python code in a process of its own, which must succeed; return what it printed."""
    done = run_child(code, *arguments, timeout=timeout)
    assert done.returncode == 0, (done.returncode, done.stdout, done.stderr)
    return done.stdout


def end_by_signal(process, number, status):
    """Send a signal to a process that trains, a moment from now; it must end with this status. Its stderr is a pipe."""
    time.sleep(0.1)
    process.send_signal(number)
    errors = process.stderr.read()
    process.stderr.close()
    assert process.wait(LIMIT) == status, errors
