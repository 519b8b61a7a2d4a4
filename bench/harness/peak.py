"""What this core can do at most, measured: the limits that a share of a peak refers to.

python peak.py CORE|-      prints {"flops": per second, "exact_flops": per second or null, "bytes": per second}
"""
import json
import os
import shlex
import subprocess
import sys
import tempfile
import time


def measure(core):
    """Measured limits of a core, or None without NumPy.

    "flops": double operations a second in NumPy's own matrix product. A tuned BLAS uses fused multiply-adds, each of which
    counts for two.
    "exact_flops": products and sums a second that are rounded one by one, as exact doubles must be (peak.c); None without
    a C compiler. How it compares with "flops" depends on the processor: where a pipe takes either a fused multiply-add or one
    of the two it is about half of what fused ones could reach; where sums have pipes of their own (Zen 4, Zen 5) it is
    as much.
    "bytes": read and written by a large copy.
    """
    from . import machine

    words = [sys.executable, os.path.abspath(__file__), "-" if core is None else str(core)]
    done = subprocess.run(words, capture_output=True, text=True, env=machine.child_environment())
    return json.loads(done.stdout) if done.returncode == 0 else None


def exact_flops():
    """What peak.c, compiled here for this processor, says; None if there is no compiler."""
    source = os.path.join(os.path.dirname(os.path.abspath(__file__)), "peak.c")
    compiler = shlex.split(os.environ.get("CC", "cc"))
    with tempfile.TemporaryDirectory() as folder:
        program = os.path.join(folder, "peak")
        for flags in (["-march=native", "-mprefer-vector-width=512"], ["-mcpu=native"], []):  # x86-64, ARM, others
            command = [*compiler, "-O2", "-std=gnu11", "-ffp-contract=off", *flags, source, "-o", program]
            try:
                if subprocess.run(command, capture_output=True).returncode == 0:
                    return float(subprocess.run([program], capture_output=True, text=True, check=True).stdout)
            except (OSError, subprocess.CalledProcessError):
                return None
    return None


def main(core):
    if core != "-":
        os.sched_setaffinity(0, {int(core)})
    import numpy as np

    # The best of many short tries, by the processor's own time: what other work disturbed does not count.
    n, clock = 384, time.process_time
    a, b, c = (np.ones((n, n)) for _ in range(3))
    big, copy = np.ones(2**23), np.empty(2**23)  # 64 MB each: more than most caches
    flops, moved = 0.0, 0.0
    for _ in range(200):
        started = clock()
        np.matmul(a, b, out=c)
        flops = max(flops, 2 * n**3 / (clock() - started))
    for _ in range(20):
        started = clock()
        np.copyto(copy, big)
        moved = max(moved, 2 * big.nbytes / (clock() - started))
    print(json.dumps({"flops": flops, "exact_flops": exact_flops(), "bytes": moved}))


if __name__ == "__main__":
    main(sys.argv[1])
