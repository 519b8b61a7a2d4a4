"""Builds tools/prove_math.c for every instruction set of this processor and runs it: the tables of docs/explain/exactness.md.

    python tools/prove_math.py [DRAWS [SEED [NAME ...]]]

Exit status 1 if one result differs from the C library's.
"""
import argparse
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
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("draws", nargs="?", type=int, default=10**7,
                        help="10**7, the default, take two minutes; 10**8 are those of the tables")  # fmt: skip
    parser.add_argument("seed", nargs="?", type=int, default=1)
    parser.add_argument("name", nargs="*", help="of a function, as in the tables; all of them")
    args = parser.parse_args()
    if args.draws < 1:
        parser.error("draws must be positive")
    from microgpt import simd_info

    print(f"{platform.machine()}, {' '.join(platform.libc_ver())}, {args.draws} draws, seed {args.seed}", flush=True)
    failed = False
    with tempfile.TemporaryDirectory() as folder:
        for isa in simd_info()["supported"]:
            program = Path(folder) / f"prove_{isa}"
            command = [os.environ.get("CC", "cc"), *tables.EXACT, *tables.WARN, *tables.ISAS[isa], f"-DMG_NAME={isa}",
                       f"-DMG_LANES={LANES[isa]}", "-Icsrc", "tools/prove_math.c", "csrc/compiler/functions.c",
                       "-o", program, "-lm"]  # fmt: skip
            subprocess.run(command, check=True)
            failed |= subprocess.run([program, str(args.draws), str(args.seed), *args.name]).returncode != 0
    return failed


if __name__ == "__main__":
    sys.exit(main())
