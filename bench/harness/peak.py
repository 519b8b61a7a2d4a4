"""Measure the limit that shares of a peak refer to."""
import os
import shlex
import subprocess
import tempfile
from pathlib import Path

from . import machine


def measure(core):
    """Return {"exact_flops": multiplications and additions per second on a core}; None without a C compiler.

    Each operation is rounded on its own, as exact doubles must be: a fused multiply-add rounds once where the
    original rounds twice. peak.c is compiled here for this processor, because how separate operations compare with
    fused ones depends on the processor: half where one pipe executes either, equal where sums have pipes of their
    own (Zen 4, Zen 5).
    """
    compiler = shlex.split(os.environ.get("CC", "cc"))
    with tempfile.TemporaryDirectory() as folder:
        program = str(Path(folder, "peak"))
        for flags in (["-march=native", "-mprefer-vector-width=512"], ["-mcpu=native"], []):  # x86-64, ARM, others
            command = [*compiler, "-O2", "-std=gnu11", "-ffp-contract=off", *flags, str(machine.HARNESS / "peak.c")]
            try:
                if subprocess.run([*command, "-o", program], capture_output=True).returncode == 0:
                    pinned = None if core is None else lambda: machine.pin(core)
                    done = subprocess.run([program], capture_output=True, text=True, check=True, preexec_fn=pinned)
                    return {"exact_flops": float(done.stdout)}
            except (OSError, subprocess.CalledProcessError):
                return None
    return None
