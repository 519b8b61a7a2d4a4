"""Where does the time of a training step go: forward, backward, Adam, exp and powers, and the rest?

    python bench/bench_breakdown.py --json bench/results/breakdown.json

perf samples whole processes that begin the default run of 1,000 steps many times: once they stop after a few steps, then
they run to the end. The difference is the time of the steps.
"""
import argparse
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

from harness import arithmetic, cli, field, machine, measure, peak, report, task

machine.find_package()

PARTS = ("forward", "backward", "Adam", "exp and powers", "the engine's own work", "Python and the rest")
#: (library, function) patterns -> part; the first that matches counts.
RULES = (
    (r"libm\b|libm[.-]", r".*", "exp and powers"),
    (r".*", r"_*(exp|pow|log)(_|@|$)|mg_(exp|pow|log)", "exp and powers"),
    (r".*", r".*adam", "Adam"),
    (r".*", r".*backward|panels_to_rows", "backward"),
    (r".*", r".*(forward|document_loss)", "forward"),
    (r".*/?(fused|simd|adam|model|value|mt19937)\.", r"(?!_*Py)", "the engine's own work"),
    (r".*", r".*", "Python and the rest"),
)
RUN = """
import sys
from microgpt import Trainer
from microgpt.data import BUNDLED, load_docs
docs = load_docs(BUNDLED)
for _ in range(int(sys.argv[1])):
    Trainer(docs, num_steps=1000).run(int(sys.argv[2]))
"""
FEW, ALL, ROUNDS = 10, 1000, 7


def main():
    p = argparse.ArgumentParser(prog="python bench/bench_breakdown.py", description=__doc__.splitlines()[0])
    cli.add_options(p, ROUNDS, clock=False)
    args = p.parse_args()
    if shutil.which("perf") is None:
        sys.exit("bench_breakdown needs perf, which is not installed")
    core, warnings = cli.choose_core(args)
    values, flops = time_steps(args, core)
    warnings += measure.distrust({"the time per step": measure.spread(values)})
    seconds = measure.median(values)
    runs = max(1, round((1.0 if args.quick else 5.0) / (ALL * seconds)))
    few, many = (samples(core, runs, steps) for steps in (FEW, ALL))
    times = Counter()
    for key in many:
        times[part_of(*key)] += max(0, many[key] - few[key])
    total = times.total()
    parts = [{"name": part, "seconds": times[part] / total * seconds, "flops": flops.get(part)} for part in PARTS]
    new = report.build("breakdown", machine.describe(core), warnings, seconds=seconds, parts=parts,
                       peak=peak.measure(core), absent={})  # fmt: skip
    from tables import breakdown

    cli.finish(new, args, [breakdown(new)], ["Limit: the operations of a part at the measured exact peak (harness/peak.c)."])


def time_steps(args, core):
    """Return ([seconds per step of each run of 1,000], {part: operations per step})."""
    from microgpt.data import BUNDLED, load_docs

    with tempfile.TemporaryDirectory() as folder:
        the_task = task.write(folder, load_docs(BUNDLED), ALL)
        worker = field.trainer("fused", "fused", folder, core)
        worker.start()
        rounds = args.repeats or (2 if args.quick else ROUNDS)
        values = [worker.run(ALL - 1).by_clock["wall"] / (ALL - 1) for _ in range(rounds)]
        worker.stop()
    adam = arithmetic.flops(0, **the_task.shape)
    passes = statistics.fmean(arithmetic.flops(n, **the_task.shape) for n in the_task.positions(ALL)) - adam
    return values, {"forward": passes / 3, "backward": passes * 2 / 3, "Adam": adam}


def part_of(library, function):
    """Return which of PARTS a function belongs to; library is a file's name."""
    return next(part for lib, name, part in RULES if re.match(lib, library) and re.match(name, function, re.IGNORECASE))


def samples(core, runs, steps):
    """Return a Counter of (library, function): samples in a process that takes `steps` steps `runs` times."""
    with tempfile.TemporaryDirectory() as folder:
        data = str(Path(folder, "perf.data"))
        command = ["perf", "record", "-q", "-o", data, "-e", "cpu-clock", "-F", "5000"]
        command += [sys.executable, "-c", RUN, str(runs), str(steps)]
        done = subprocess.run(command, capture_output=True, text=True, env=machine.child_environment(), cwd=folder,
                              preexec_fn=lambda: machine.pin(core))  # fmt: skip
        if done.returncode:
            sys.exit(f"perf record ended with status {done.returncode}: {done.stderr.strip()[-300:]}")
        command = ["perf", "report", "-i", data, "--stdio", "--no-children", "-F", "sample,dso,sym", "-t", ";"]
        output = subprocess.run(command, check=True, capture_output=True).stdout.decode(errors="replace")
    found = Counter()
    for line in output.splitlines():
        if not line.startswith("#") and line.count(";") >= 2:
            count, library, function = line.split(";")[:3]
            found[library.strip(), re.sub(r"^\[.\] ", "", function.strip()).split()[0]] += int(count)
    return found


if __name__ == "__main__":
    cli.run(main)
