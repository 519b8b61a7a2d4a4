"""The package that is measured, the machine it runs on, and the core it is pinned to."""
import importlib.metadata
import importlib.util
import os
import re
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

HARNESS = Path(__file__).resolve().parent
BENCH = HARNESS.parent
ROOT = BENCH.parent

#: One thread for every contender: each has one core, and a thread pool on one core only costs time.
ONE_THREAD = {name: "1" for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")}


def find_package():
    """Put the measured package on sys.path: the one built in place beside bench/, else the installed one."""
    if built_in_place(ROOT):
        sys.path.insert(0, str(ROOT))
    elif importlib.util.find_spec("microgpt") is None:
        sys.exit("microgpt is not installed: run pip install '.[bench]' in the project's folder first")


def built_in_place(folder):
    """Return whether a folder holds a compiled microgpt, of this version's layout or of an older one."""
    return any(path.suffix in (".so", ".pyd") for place in ("microgpt", "microgpt/core") for path in Path(folder, place).glob("*"))


def child_environment(extra=None, package=ROOT):
    """Return the environment of a contender: one thread, UTF-8 and, if built in place, the package in a folder."""
    env = {**os.environ, **ONE_THREAD, "PYTHONUTF8": "1", "PYTHONHASHSEED": "0", **(extra or {})}
    if package is None:
        env.pop("PYTHONPATH", None)
    elif built_in_place(package):
        env["PYTHONPATH"] = os.pathsep.join(filter(None, [str(package), env.get("PYTHONPATH")]))
    return env


def choose_core():
    """Return the last core that this process may use, since the first takes most interrupts; None if unknown here."""
    return max(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None


def pin(core):
    """Pin this process to a core, where the system can."""
    if core is not None:
        os.sched_setaffinity(0, {core})


def peak_memory():
    """Return the most resident memory of this process so far in bytes; None where there is no /proc."""
    file = Path("/proc/self/status")
    found = re.search(r"VmHWM:\s+(\d+) kB", file.read_text()) if file.exists() else None
    return found and int(found[1]) * 1024


def describe(core, torch=None):
    """Return what figures depend on: what `microgpt info` prints, NumPy, PyTorch (its version in the contenders), and the core."""
    from microgpt.storage import runlog

    known = runlog.machine()
    return {**known, "libc": known["libm"], "cores": os.cpu_count(), "pinned_to_core": core,
            "numpy": importlib.metadata.version("numpy"), "torch": torch}  # fmt: skip


def warnings_before():
    """Return what makes figures doubtful before anything is measured, as sentences: a busy machine, no choice of a core."""
    found, load, cores = [], os.getloadavg()[0] if hasattr(os, "getloadavg") else 0, os.cpu_count() or 1
    if load > 0.5 * cores:
        found.append(f"the machine was busy before the start: load {load:.1f} on {cores} core{'s' * (cores > 1)}")
    if choose_core() is None:
        found.append("this system does not let a process choose its core: contenders were not pinned")
    return found


def exact_peak(core):
    """Return the multiplications and additions per second on a core; None without a C compiler.

    Each operation is rounded on its own, as exact doubles must be: a fused multiply-add rounds once where the
    original rounds twice. peak.c is compiled here for this processor, because how separate operations compare with
    fused ones depends on the processor: half where one pipe executes either, equal where sums have pipes of their
    own (Zen 4, Zen 5).
    """
    pinned = None if core is None else lambda: pin(core)
    with tempfile.TemporaryDirectory() as folder:
        for flags in (["-march=native", "-mprefer-vector-width=512"], ["-mcpu=native"], []):  # x86-64, ARM, others
            command = [*shlex.split(os.environ.get("CC", "cc")), "-O2", "-std=gnu11", "-ffp-contract=off", *flags]
            try:
                if subprocess.run([*command, str(HARNESS / "peak.c"), "-o", f"{folder}/peak"], capture_output=True).returncode == 0:
                    return float(subprocess.run([f"{folder}/peak"], capture_output=True, check=True, preexec_fn=pinned).stdout)
            except (OSError, subprocess.CalledProcessError):
                break
    return None
