"""What this core can do at most, measured: the two limits that a share of the peak refers to.

python peak.py CORE|-      prints {"flops": per second, "bytes": per second}
"""
import json
import os
import subprocess
import sys
import time


def measure(core):
    """{"flops": double operations a second in NumPy's own matrix product, "bytes": read and written by a large copy}.

    A matrix product of a tuned BLAS comes within some per cent of what the processor's vector units can do, and
    counts two operations for each fused multiply-add. Exact doubles must round a product and a sum separately, two
    instructions for what takes one there, so half of this figure is the most that any exact engine can reach. None
    without NumPy.
    """
    from . import machine

    words = [sys.executable, os.path.abspath(__file__), "-" if core is None else str(core)]
    done = subprocess.run(words, capture_output=True, text=True, env=machine.child_environment())
    return json.loads(done.stdout) if done.returncode == 0 else None


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
    print(json.dumps({"flops": flops, "bytes": moved}))


if __name__ == "__main__":
    main(sys.argv[1])
