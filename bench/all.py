"""Measure every table again, and write them and the picture into the pages: one command, an hour on an idle machine.

    python bench/all.py --script microgpt.py --torch-python PYTHON
    python bench/all.py --quick      # some minutes: runs everything, changes nothing

With --only WORD, other tables keep their figures. Exit status 1 if a script fails; then no page is changed.
"""
import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import render
from harness import cli, machine

#: Report -> (script, the options that it takes besides --json).
SCRIPTS = {
    "compare": ("compare.py", "script torch quick"),
    "user_code": ("bench_user_code.py", "script quick"),
    "shapes": ("bench_shapes.py", "torch quick"),
    "breakdown": ("bench_breakdown.py", "quick"),
    "value": ("bench_value.py", "script pyperf"),
    "sampling": ("bench_sampling.py", "pyperf"),
    "startup": ("bench_startup.py", "pyperf"),
}
ONE_PROCESS = ("--processes", "1", "--values", "1", "--warmups", "0", "--loops", "1")


def main():
    p = argparse.ArgumentParser(prog="python bench/all.py", description=__doc__.splitlines()[0])
    p.add_argument("--script", metavar="PATH", help="your copy of the original microgpt.py (needed without --quick)")
    p.add_argument("--torch-python", metavar="PYTHON", help="the Python that has PyTorch")
    p.add_argument("--only", default="", metavar="WORD", help="only the reports whose names contain this word")
    p.add_argument("--quick", action="store_true", help="short runs into a temporary folder; no page is changed")
    args = p.parse_args()
    cli.check_files(p, args.script, args.torch_python)
    if not args.script and not args.quick:
        p.error("--script is needed: the tables compare with the original")
    given = {
        "script": ["--script", str(Path(args.script).absolute())] if args.script else [],
        "torch": ["--torch-python", str(Path(args.torch_python).absolute())] if args.torch_python else [],
        "quick": ["--quick"] if args.quick else [],
        "pyperf": ONE_PROCESS if args.quick else [],
    }
    failed = []
    with tempfile.TemporaryDirectory() as scratch:
        results = Path(scratch) if args.quick else Path("bench", "results")
        for name, (script, takes) in SCRIPTS.items():
            if args.only not in name:
                continue
            options = [word for kind in takes.split() for word in given[kind]]
            command = [sys.executable, f"bench/{script}", *options, "--json", str(results / f"{name}.json")]
            started = time.monotonic()
            done = subprocess.run(command, cwd=machine.ROOT)
            print(f"\n{script}: status {done.returncode}, {time.monotonic() - started:.0f} s\n", flush=True)
            failed += [script] * (done.returncode != 0)
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")
    return 0 if args.quick else render.main([])


if __name__ == "__main__":
    cli.run(main)
