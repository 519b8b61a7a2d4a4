"""Starts programs under the mpiexec that the extra `mpi` brings."""
import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
from children import LIMIT, SUPPORT, environment


def mpiexec(ranks, *arguments, simd=()):
    """Return the command that starts `python ARGUMENTS` on so many ranks. simd: instruction sets of the first ranks."""
    program, words = [sys.executable, *map(str, arguments)], [os.path.join(os.path.dirname(sys.executable), "mpiexec")]
    for name in simd:
        words += ["-n", "1", "-env", "MICROGPT_SIMD", name, *program, ":"]
    return [*words, "-n", str(ranks - len(simd)), *program]


def run_ranks(ranks, *arguments, timeout=LIMIT, simd=(), **options):
    """Run `python ARGUMENTS` on so many ranks; return the finished process. A job that hangs is an error."""
    return subprocess.run(mpiexec(ranks, *arguments, simd=simd), capture_output=True, text=True, encoding="utf-8",
                          env=environment(), timeout=timeout, **options)  # fmt: skip


def digest(values):
    """Return a digest of the bits of numbers, which is shorter than they are."""
    return hashlib.sha256(np.asarray(values, dtype=np.float64).tobytes()).hexdigest()


def run_tasks(folder, ranks, tasks, simd=()):
    """Return what each rank saw of each task of rank_program.py: found[task][rank]."""
    path = Path(folder) / f"tasks{ranks}.json"
    path.write_text(json.dumps(tasks), encoding="utf-8")
    done = run_ranks(ranks, SUPPORT / "rank_program.py", path, path.with_suffix(".out"), simd=simd)
    assert done.returncode == 0, done.stderr
    found = [json.loads(Path(f"{path.with_suffix('.out')}.{rank}").read_text(encoding="utf-8")) for rank in range(ranks)]
    return list(zip(*found))
