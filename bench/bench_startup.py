"""How long does a whole process take, and what does it import?

    python bench/bench_startup.py --json bench/results/startup.json

pyperf times Python alone, the import, the command without a step, and the default run of 1,000 steps and 20 samples.
All options of pyperf work, --fast and --rigorous among them. The cost of imports is Python's own account (-X importtime).
"""
import os
import re
import subprocess
import sys
import tempfile

from harness import cli, machine, measure, micro

machine.find_package()

TRAIN = ("-m", "microgpt.train")
COMMANDS = {
    "python -c pass": ("-c", "pass"),
    "python -c 'import microgpt'": ("-c", "import microgpt"),
    "python -c 'import numpy'": ("-c", "import numpy"),
    "microgpt.train --steps 0 --samples 0": (*TRAIN, "--steps", "0", "--samples", "0"),
    "microgpt.train: 1,000 steps, 20 samples": TRAIN,
}


def main():
    runner = micro.runner(processes=10)
    args, load = runner.parse_args(), machine.load_warning()
    for option in ("json", "output", "append"):
        if getattr(args, option):
            setattr(args, option, os.path.abspath(getattr(args, option)))
    with tempfile.TemporaryDirectory() as folder:
        if not args.worker:
            os.chdir(folder)  # without an input.txt, the command reads the bundled names
        made = {name: runner.bench_command(name, [sys.executable, *words]) for name, words in COMMANDS.items()}
        if args.worker:
            return
        imported = modules()
        os.chdir(machine.ROOT)
    values = {name: bench.get_values() for name, bench in made.items()}
    alone = measure.median(values["python -c pass"])
    rows = [
        {
            "name": name,
            "seconds": measure.median(seconds),
            "spread": measure.spread(seconds),
            "times_python": measure.median(seconds) / alone,
        }
        for name, seconds in values.items()
    ]
    from tables import startup, startup_modules

    spreads = {row["name"]: row["spread"] for row in rows}
    notes = [f"Medians of {args.processes} × {args.values} processes."]
    micro.finish("startup", args, [startup_modules, startup], spreads, notes, load, rows=rows, modules=imported)


def modules():
    """Return [{"module", "self": seconds, "python": whether Python alone imports it}] of the command, slowest first."""
    plain = {name for name, _ in importtime("-c", "pass")}
    found = sorted(importtime(*TRAIN), key=lambda item: -item[1])
    return [{"module": name, "self": seconds, "python": name in plain} for name, seconds in found]


def importtime(*words):
    done = subprocess.run([sys.executable, "-X", "importtime", *words], capture_output=True, text=True, check=True)
    found = re.findall(r"import time:\s+(\d+) \|\s+\d+ \|\s+(\S+)", done.stderr)
    return [(name, int(microseconds) / 1e6) for microseconds, name in found]


if __name__ == "__main__":
    cli.run(main)
