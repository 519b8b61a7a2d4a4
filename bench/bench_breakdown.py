"""Where does a training step's time go? Forward, backward, Adam, exp and powers, and the rest.

    python bench/bench_breakdown.py --json bench/results/breakdown.json

Time by function comes from `perf` (samples of the processor's clock), instructions by function from valgrind's
callgrind, which repeat to the digit where times do not. Either is left out where it is not installed. Both look at
whole processes, in which the default run of 1,000 steps is begun some times over; once it goes on for a few steps, then
to its end. The difference is the steps' own.
"""
import argparse
import os
import re
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

from harness import arithmetic, cli, machine, measure, peak, report, task
from harness.contender import Unavailable, Worker
from harness.progress import Progress

machine.find_package()

PARTS = ("forward", "backward", "Adam", "exp and powers", "the engine's own work", "Python and the rest")
#: (library, function) patterns, the first that fits: which part a function belongs to.
RULES = (
    (r"libm\b|libm[.-]", r".*", "exp and powers"),
    (r".*", r"_*(exp|pow|log)(_|@|$)|mg_(exp|pow|log)", "exp and powers"),
    (r".*", r".*adam", "Adam"),
    (r".*", r".*backward|panels_to_rows", "backward"),
    (r".*", r".*(forward|document_loss)", "forward"),
    (r".*/?(fused|simd|adam|model|value|stream)\.", r"(?!_*Py)", "the engine's own work"),
    (r".*", r".*", "Python and the rest"),
)
RUN = """
import sys
from microgpt import Trainer
from microgpt.data import BUNDLED, load_docs
docs = load_docs(BUNDLED)
for _ in range(int(sys.argv[2])):
    Trainer(docs, num_steps=1000, engine=sys.argv[1]).run(int(sys.argv[3]))
"""
FEW, ALL = 10, 1000
REPEATS = 7


def main(argv=None):
    args = _arguments(argv)
    core, warnings = cli.choose_core(args)
    absent = {}
    with Progress(4, "breakdown") as progress:
        progress.at("time a step")
        seconds, values, flops = _seconds_a_step(args, core)
        progress.advance()
        progress.at("perf")
        time_parts, time_functions = _tool(_perf, args, core, seconds, absent)
        progress.advance()
        progress.at("callgrind")
        count_parts, count_functions = _tool(_callgrind, args, core, seconds, absent)
        progress.advance()
        the_peak = peak.measure(core)
    warnings += measure.distrust({"the time a step": values})
    total = sum(time_parts.values())
    parts = [
        {
            "name": part,
            "seconds": time_parts[part] / total * seconds if total else None,
            "instructions": count_parts[part] if count_parts else None,
            "flops": flops.get(part),
        }
        for part in PARTS
    ]
    functions = {
        name: {"share": time_functions[name] / total if total else None, "instructions": count_functions.get(name)}
        for name, _ in (time_functions or count_functions).most_common(15)
    }
    new = report.build("breakdown", machine.describe(core), warnings, engine=args.engine, seconds=seconds, parts=parts,
                       functions=functions, peak=the_peak, absent=absent)  # fmt: skip
    new["machine"]["perf"], new["machine"]["valgrind"] = machine.tool("perf"), machine.tool("valgrind")
    _finish(new, args)
    return 0


def _arguments(argv):
    p = argparse.ArgumentParser(prog="python bench/bench_breakdown.py", description=__doc__.splitlines()[0])
    p.add_argument("--engine", default="fused", choices=("fused", "graph"), help="default: fused")
    cli.add_options(p, REPEATS, plot=False)
    return p.parse_args(argv)


def _seconds_a_step(args, core):
    """(median seconds a step over the run of 1,000, all of them, {part: operations of arithmetic a step})"""
    from microgpt.data import BUNDLED, load_docs

    with tempfile.TemporaryDirectory() as folder:
        the_task = task.write(folder, load_docs(BUNDLED), 1000)
        worker = Worker(args.engine, {"kind": "trainer", "engine": args.engine, "task": folder, "core": core})
        try:
            worker.start()
        except Unavailable as why:
            sys.exit(f"{args.engine}: {why}")
        values = [worker.run(999).seconds / 999 for _ in range(3 if args.quick else args.repeats or REPEATS)]
        worker.stop()
    model = {
        "vocab_size": the_task.vocab_size,
        **{k: the_task.settings[k] for k in ("n_embd", "n_layer", "block_size")},
    }
    positions = [min(model["block_size"], len(tokens) - 1) for tokens in the_task.tokens]
    adam = arithmetic.flops(0, **model)
    passes = sum(arithmetic.flops(n, **model) for n in positions) / len(positions) - adam
    return measure.median(values), values, {"forward": passes / 3, "backward": passes * 2 / 3, "Adam": adam}


def _tool(tool, args, core, seconds, absent):
    """(Counter of parts, Counter of functions) a step, as a tool counts them; empty ones if it is not there."""
    functions = Counter()
    try:
        functions = tool(args, core, seconds)
    except Unavailable as why:
        absent[tool.__name__.strip("_")] = str(why)
    except subprocess.CalledProcessError as error:
        last = (error.stderr or b"").decode(errors="replace").strip().splitlines()[-1:]
        absent[tool.__name__.strip("_")] = f"status {error.returncode}: {''.join(last)}"
    parts, names = Counter(), Counter()
    for (library, function), count in functions.items():
        parts[part_of(library, function)] += count
        names[function] += count
    return parts, names


def part_of(library, function):
    """Which of PARTS a function belongs to; library is a file's name."""
    return next(part for lib, name, part in RULES if re.match(lib, library) and re.match(name, function, re.IGNORECASE))


def _difference(few, many, steps):
    """Counts a step: what `many` has more than `few`."""
    return Counter({key: (many[key] - few[key]) / steps for key in many if many[key] > few[key]})


def _perf(args, core, seconds):
    if machine.tool("perf") is None:
        raise Unavailable("perf is not installed")
    runs = max(1, round((1.0 if args.quick else 5.0) / (ALL * seconds)))
    return _difference(_perf_samples(args, core, runs, FEW), _perf_samples(args, core, runs, ALL), runs * (ALL - FEW))


def _perf_samples(args, core, runs, steps):
    with tempfile.TemporaryDirectory() as folder:
        data = str(Path(folder, "perf.data"))
        command = ["perf", "record", "-q", "-o", data, "-e", "cpu-clock", "-F", "5000", *_run(args, runs, steps)]
        subprocess.run(
            command, check=True, capture_output=True, env=machine.child_environment(), cwd=folder, preexec_fn=_pin(core)
        )
        command = ["perf", "report", "-i", data, "--stdio", "--no-children", "-F", "sample,dso,sym", "-t", ";"]
        output = subprocess.run(command, check=True, capture_output=True).stdout.decode(errors="replace")
    samples = Counter()
    for line in output.splitlines():
        if not line.startswith("#") and line.count(";") >= 2:
            count, library, function = line.split(";")[:3]
            samples[library.strip(), re.sub(r"^\[.\] ", "", function.strip()).split()[0]] += int(count)
    return samples


def _callgrind(args, core, seconds):
    if machine.tool("valgrind") is None:
        raise Unavailable("valgrind is not installed")
    most = 110 if args.quick else ALL
    return _difference(_callgrind_counts(args, FEW), _callgrind_counts(args, most), most - FEW)


def _callgrind_counts(args, steps):
    with tempfile.TemporaryDirectory() as folder:
        out = str(Path(folder, "callgrind.out"))
        command = ["valgrind", "-q", "--tool=callgrind", f"--callgrind-out-file={out}", "--compress-strings=no",
                   "--compress-pos=no", *_run(args, 1, steps)]  # fmt: skip
        subprocess.run(command, check=True, capture_output=True, env=machine.child_environment(), cwd=folder)
        return read_callgrind(out)


def read_callgrind(path):
    """{(library, function): instructions of its own} from callgrind's file, written without compression."""
    counts, library, function, skip = Counter(), "", "", False
    with open(path, encoding="utf-8", errors="replace") as file:
        for line in file:
            if line.startswith("ob="):
                library = os.path.basename(line[3:].strip())
            elif line.startswith("fn="):
                function = line[3:].strip().split("'")[0]
            elif line.startswith("calls="):
                skip = True  # the next line is what the called function cost, counted there
            elif line[:1].isdigit() or line[:1] in "+-*":
                if not skip:
                    counts[library, function] += int(line.split()[1])
                skip = False
    return counts


def _run(args, runs, steps):
    return [sys.executable, "-c", RUN, args.engine, str(runs), str(steps)]


def _pin(core):
    return None if core is None else lambda: machine.pin(core)


def _finish(new, args):
    from harness import table
    from tables import breakdown, breakdown_functions

    print()
    table.show(*breakdown_functions(new))
    notes = [
        "Limit: the operations of that part at half the speed of NumPy's own matrix product on this core: the most",
        "that products and sums rounded apart can reach. Instructions: as callgrind counts them; it knows no AVX-512.",
        *(f"not run: {name}: {why}" for name, why in new["absent"].items()),
    ]
    cli.finish(new, args, breakdown(new), "\n".join(notes))


if __name__ == "__main__":
    cli.run(main)
