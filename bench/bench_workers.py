"""How much faster is a step on several threads than on one, beside what independent processes reach here?

    python bench/bench_workers.py --threads 2 --json bench/results/workers.json

The threads of one trainer against one, in turns. The ceiling: as many processes of one thread each, all at once and each on a
core of its own, against one of them alone.
"""
import argparse
import os
import subprocess
import sys
import time
from functools import partial

import tables
from bench_shapes import text_documents
from harness import cli, machine, measure

machine.find_package()

BIG = {"n_embd": 128, "n_layer": 4, "block_size": 64}
WORK = {
    "n_embd 16, batch 16": {"batch_size": 16},
    "n_embd 64, batch 16": {"n_embd": 64, "batch_size": 16},
    "n_embd 128, 4 layers, block 64, text, batch 8": {**BIG, "batch_size": 8},
    "the same, batch 1": BIG,
}
ROUNDS = 7


def main():
    p = argparse.ArgumentParser(prog="python bench/bench_workers.py", description=__doc__.splitlines()[0])
    p.add_argument("--threads", type=cli.positive, default=2, metavar="N", help="threads against one (default: 2)")
    p.add_argument("--process", nargs=2, help=argparse.SUPPRESS)  # one of the ceiling: the work's name and its core
    cli.add_options(p, ROUNDS)
    args = p.parse_args()
    if args.process:
        return process(*args.process)
    pace, warning, rows = cli.pace(args, ROUNDS), machine.load_warning(), []
    progress = cli.progress("workers", len(WORK) * 3 * pace.rounds)
    for name in WORK:
        trainers = {threads: trainer(name, threads) for threads in (1, args.threads)}
        count = max(1, round(pace.least / [timed(one, 1) for one in trainers.values()][0]))  # both have done as many
        runs = {threads: partial(timed, one, count) for threads, one in trainers.items()}
        times = measure.interleave(runs, pace.rounds, lambda threads, name=name: progress(f"{name}, {threads} threads"))
        same = trainers[1].parameters.tobytes() == trainers[args.threads].parameters.tobytes()
        progress(f"{name}: ceiling")
        rows.append({
            "name": name, "bits": same, "ceiling": ceiling(name, args.threads),
            "documents": WORK[name].get("batch_size", 1), "spread": measure.spread(times[args.threads]),
            "seconds": {str(threads): measure.median(found) / count for threads, found in times.items()},
            "speedup": measure.ratio(times[1], times[args.threads]),
        })  # fmt: skip
    progress(None)
    warnings = measure.distrust({row["name"]: row["spread"] for row in rows})
    notes = ["Medians of rounds in which one thread and several take turns. The ceiling is measured after them."]
    cli.finish("workers", args, machine.describe(None), [warning] * bool(warning) + warnings, [tables.workers], notes, {},
               rows=rows, threads=args.threads)  # fmt: skip


def trainer(name, threads):
    """Return a warm trainer of this work."""
    from microgpt import Trainer, load_docs

    docs = text_documents(64) if "text" in name or "same" in name else load_docs()
    made = Trainer(docs, num_steps=10**9, threads=threads, **WORK[name])
    made.run(2)
    return made


def timed(made, steps):
    """Return the seconds that these steps take."""
    start = time.perf_counter()
    made.run(steps)
    return time.perf_counter() - start


def process(name, core):
    """Train on a core for a second, once another line comes on stdin; write the steps per second."""
    machine.pin(int(core))
    made = trainer(name, 1)
    print("ready", flush=True)
    sys.stdin.readline()
    steps, start = 0, time.perf_counter()
    while (seconds := time.perf_counter() - start) < 1.0:
        made.run(4)
        steps += 4
    print(steps / seconds)


def ceiling(name, count):
    """Return how many times the steps of one process alone that many processes at once do."""
    cores = sorted(os.sched_getaffinity(0))[:count]
    alone, together = rates(name, cores[:1]), rates(name, cores)
    return sum(together) / alone[0]


def rates(name, cores):
    """Return the steps per second of processes that work at the same time."""
    command = [sys.executable, __file__, "--process", name]
    jobs = [subprocess.Popen([*command, str(core)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
                             env=machine.child_environment()) for core in cores]  # fmt: skip
    for job in jobs:
        job.stdout.readline()
    for job in jobs:
        job.stdin.write("\n")
        job.stdin.flush()
    return [float(job.communicate()[0]) for job in jobs]


if __name__ == "__main__":
    cli.run(main)
