"""How long does a whole process take, and where does the time before the first step go?

    python bench/bench_startup.py --json bench/results/startup.json

Processes take turns: Python alone, the import, the command without a step, and the whole run of 1,000 steps and 20
samples. What is imported, and at what cost, is Python's own account (-X importtime).
"""
import argparse
import os
import re
import subprocess
import sys
import tempfile
import time

from harness import cli, machine, measure, report
from harness.progress import Progress

machine.find_package()

REPEATS, QUICK_REPEATS = 40, 5
TRAIN = ("-m", "microgpt.train")
NOTHING = ("--steps", "0", "--samples", "0")
COMMANDS = {
    "python -c pass": ("-c", "pass"),
    "python -c 'import microgpt'": ("-c", "import microgpt"),
    "python -c 'import numpy'": ("-c", "import numpy"),
    "microgpt.train --steps 0 --samples 0": (*TRAIN, *NOTHING),
    "microgpt.train: 1,000 steps, 20 samples": TRAIN,
}


def main(argv=None):
    args = _arguments(argv)
    core, warnings = cli.choose_core(args)
    commands = {name: _with_engine(words, args.engine) for name, words in COMMANDS.items()}
    if args.engine == "reference":
        commands.popitem()  # minutes a run
    repeats = args.repeats or (QUICK_REPEATS if args.quick else REPEATS)
    with tempfile.TemporaryDirectory() as folder, Progress(len(commands) * repeats, "startup") as progress:
        absent = {name: why for name, words in commands.items() if (why := _failure(words, folder, core))}
        runners = {n: _runner(words, folder, core) for n, words in commands.items() if n not in absent}
        times = measure.interleave(runners, repeats, progress)
        modules = _imports(list(commands.values())[-1], folder, core)
    warnings += measure.distrust(times)
    alone = times["python -c pass"]
    rows = [
        {
            "name": name,
            "seconds": measure.median(values),
            "spread": measure.spread(values),
            "times_python": 1 / measure.ratio(alone, values),
        }
        for name, values in times.items()
    ]
    new = report.build("startup", machine.describe(core), warnings, engine=args.engine, rounds=repeats, rows=rows,
                       modules=modules, absent=absent)  # fmt: skip
    _finish(new, args)
    return 0


def _arguments(argv):
    p = argparse.ArgumentParser(prog="python bench/bench_startup.py", description=__doc__.splitlines()[0])
    p.add_argument("--engine", default="fused", help="the engine of the command (default: fused)")
    cli.add_options(p, REPEATS, plot=False)
    return p.parse_args(argv)


def _with_engine(words, engine):
    return words if engine == "fused" or words[0] != "-m" else (*words, "--engine", engine)


def _run(words, folder, core, **kwargs):
    """In an empty folder, so that the bundled names are read; what it prints goes through a pipe, as in a shell's."""
    return subprocess.run(
        [sys.executable, *words],
        cwd=folder,
        env=machine.child_environment(),
        stdin=subprocess.DEVNULL,
        preexec_fn=None if core is None else lambda: machine.pin(core),
        capture_output=True,
        text=True,
        **kwargs,
    )


def _failure(words, folder, core):
    done = _run(words, folder, core)
    return (done.stderr.strip().splitlines() or ["it failed"])[-1] if done.returncode else None


def _runner(words, folder, core):
    def once():
        started = time.perf_counter()
        _run(words, folder, core)
        return time.perf_counter() - started

    return once


def _imports(words, folder, core):
    """[{"module", "self": seconds, "python": whether Python imports it anyway}] of the command, the dearest first."""
    plain = {name for name, _ in _importtime(("-c", "pass"), folder, core)}
    return [
        {"module": name, "self": seconds, "python": name in plain}
        for name, seconds in sorted(_importtime(words, folder, core), key=lambda item: -item[1])
    ]


def _importtime(words, folder, core):
    output = _run(("-X", "importtime", *words), folder, core).stderr
    found = re.findall(r"import time:\s+(\d+) \|\s+\d+ \|\s+(\S+)", output)
    return [(name, int(microseconds) / 1e6) for microseconds, name in found]


def _finish(new, args):
    from harness import table
    from tables import startup, startup_modules

    print()
    table.show(*startup_modules(new))
    notes = [f"{new['rounds']} processes each, in turns, medians; {new['engine']} engine."]
    notes += [f"not run: {name}: {why}" for name, why in new["absent"].items()]
    cli.finish(new, args, startup(new), "\n".join(notes))


if __name__ == "__main__":
    os.environ.pop("PYTHONPROFILEIMPORTTIME", None)
    cli.run(main)
