"""How long does a whole process take?

    python bench/bench_startup.py --json bench/results/startup.json

pyperf times Python alone, the import, the command without a step, and the default run of 1,000 steps and 20 samples.
All options of pyperf work, --fast and --rigorous among them. `python -X importtime -m microgpt.train` lists the imports.
"""
import os
import sys
import tempfile

import tables
from harness import cli, machine, micro

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
    args, before = runner.parse_args(), machine.warnings_before()
    with tempfile.TemporaryDirectory() as folder:
        if not args.worker:
            os.chdir(folder)  # without an input.txt, the command reads the bundled names
        made = {name: runner.bench_command(name, [sys.executable, *words]) for name, words in COMMANDS.items()}
        os.chdir(machine.ROOT)
    if not args.worker:
        notes = [f"Medians of {args.processes} × {args.values} processes."]
        micro.finish("startup", args, [tables.startup], notes, before, micro.rows(made, "python -c pass"))


if __name__ == "__main__":
    cli.run(main)
