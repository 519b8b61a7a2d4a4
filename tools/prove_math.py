"""Builds tools/prove_math.c for every instruction set of this processor and runs it: the tables of docs/exactness.md.

    python tools/prove_math.py [DRAWS [SEED [NAME ...]]]      (10**7 draws take a minute; 10**8 are those of the tables)

Exit status 1 if one result differs from the C library's.
"""
import os
import platform
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
os.chdir(ROOT)

import setup as tables  # noqa: E402  (the flags of each instruction set)

LANES = {"scalar": 2, "neon": 2, "avx2": 4, "avx512": 8}


def main():
    draws = sys.argv[1] if len(sys.argv) > 1 else "10000000"
    seed = sys.argv[2] if len(sys.argv) > 2 else "1"
    from microgpt import simd_info

    print(f"{platform.machine()}, {' '.join(platform.libc_ver())}, {draws} draws, seed {seed}", flush=True)
    failed = False
    with tempfile.TemporaryDirectory() as folder:
        for isa in simd_info()["supported"]:
            program = Path(folder) / f"prove_{isa}"
            command = [os.environ.get("CC", "cc"), *tables.EXACT, *tables.WARN, *tables.ISAS[isa], f"-DMG_NAME={isa}",
                       f"-DMG_LANES={LANES[isa]}", "-Icsrc", "-Icsrc/kernels", "tools/prove_math.c",
                       "-o", program, "-lm"]  # fmt: skip
            subprocess.run(command, check=True)
            failed |= subprocess.run([program, draws, seed, *sys.argv[3:]]).returncode != 0
    return failed


if __name__ == "__main__":
    sys.exit(main())
