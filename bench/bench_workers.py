"""How much faster are several threads than one, beside what independent processes reach here?

    python bench/bench_workers.py --torch-python PYTHON --json bench/results/workers.json

The threads of one trainer against one, and PyTorch on as many threads, in turns. The ceiling: as many processes of one thread each,
all at once and each on a core of its own, against one of them alone. Then samples that threads share, and `microgpt sweep`, whose
workers are threads, too, with a run each.
"""
import os
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor

import tables
from bench_shapes import text_documents
from harness import cli, machine, measure, task
from harness.contender import Field
from harness.contest import Contest

BIG = {"n_embd": 128, "n_layer": 4, "block_size": 64}
#: Name -> documents per step, the model.
WORK = {
    "n_embd 16, batch 16": (16, {}),
    "n_embd 64, batch 16": (16, {"n_embd": 64}),
    "n_embd 128, 4 layers, block 64, text, batch 8": (8, BIG),
    "the same, batch 16": (16, BIG),
    "the same, batch 1": (1, BIG),
}
#: Name -> samples, steps of training before, the model.
SAMPLES = {
    "1,000 samples of the default model": (1000, 500, {}),
    "300 samples, n_embd 128, 4 layers, block 64": (300, 50, BIG),
}
RUNS = 100
STEPS, ROUNDS = 8, 7


def main():
    p = cli.parser(__doc__, ROUNDS)
    p.add_argument("--threads", type=cli.positive, default=2, metavar="N", help="threads against one (default: 2)")
    cli.add_torch_option(p)
    args = cli.parse(p)
    contest = Contest(args, None)

    def play(name, field):
        from microgpt import load_docs

        batch, model = WORK[name]
        the_task = task.write(field.folder, text_documents(64) if model is BIG else load_docs(), (STEPS + 1) * batch, **model)
        threads = [field.trainer(f"{n} threads", "fused", {"threads": n, "batch_size": batch}) for n in (1, args.threads)]
        others = field.pytorch("PyTorch {dtype}", args.torch_python, (batch,), args.threads)
        one, several, *pytorch = contest.play([*threads, *others], threads[0], the_task, STEPS)
        return [{"name": name, "documents": batch, "bits": several["bits"], "spread": several["spread"],
                 "seconds": {"1": one["seconds_per_document"], str(args.threads): several["seconds_per_document"]},
                 "speedup": measure.ratio(one["rounds"], several["rounds"]),
                 "pytorch": {row["name"].partition(",")[0]: row["seconds_per_document"] * batch for row in pytorch},
                 "ceiling": ceiling(field.folder, args.threads, batch, args.rounds, one["runs_per_round"])}]  # fmt: skip

    rows = contest.each(list(WORK)[: 2 if args.quick else None], play)
    others = [sampling(name, args.threads, args.rounds) for name in list(SAMPLES)[: 1 if args.quick else None]]
    if not args.quick:
        others.append(sweep(args.threads, args.rounds))
    contest.warnings += measure.distrust({row["name"]: row["spread"] for row in others}, [])
    rows += others
    notes = [f"Medians of rounds in which one thread, {args.threads} and PyTorch on {args.threads} take turns. The ceiling is measured "
             "after them."]  # fmt: skip
    contest.finish("workers", [tables.workers], notes, rows=rows, threads=args.threads)


def ceiling(folder, count, batch, rounds, repeat):
    """Return how many times the steps of one process alone that many processes at once do, each on a core of its own."""
    cores = sorted(os.sched_getaffinity(0))[:count]
    processes = [Field(folder, core).trainer(f"core {core}", "fused", {"batch_size": batch}) for core in cores]

    def seconds(process):
        return process.run(STEPS).by_clock["wall"]

    for process in processes:
        process.start()
        process.repeat = repeat
    with ThreadPoolExecutor(count) as pool:
        times = [(seconds(processes[0]), [*pool.map(seconds, processes)]) for _ in range(rounds)]
    for process in processes:
        process.stop()
    return measure.median(sum(alone / one for one in together) for alone, together in times)


def sampling(name, threads, rounds):
    """Return the row of samples drawn by one thread and by several, in turns. Nothing is known of earlier ones."""
    from microgpt import Trainer, load_docs

    samples, steps, model = SAMPLES[name]
    docs = text_documents(64) if model is BIG else load_docs()
    trainers = {n: Trainer(docs, steps + rounds, threads=n, **model) for n in (1, threads)}
    times, drawn = {n: [] for n in trainers}, {n: [] for n in trainers}
    for trainer in trainers.values():
        trainer.run(steps)
    for _, n in measure.turns([*trainers], rounds):
        trainers[n].run(1)  # with other parameters all is forgotten
        started = time.perf_counter()
        drawn[n].append(trainers[n].sample(samples))
        times[n].append(time.perf_counter() - started)
    return row_of(name, times, threads, drawn[1] == drawn[threads])


def sweep(workers, rounds):
    """Return the row of `microgpt sweep` with one worker and with several, whole processes in turns."""
    times, printed, environment = {1: [], workers: []}, set(), machine.child_environment()
    with tempfile.TemporaryDirectory() as folder:  # without an input.txt, the command reads the bundled names
        for _, count in measure.turns([*times], rounds):
            command = [sys.executable, "-m", "microgpt.sweep", "--grid", f"seed=1..{RUNS}", "--workers", str(count)]
            started = time.perf_counter()
            printed.add(subprocess.run(command, env=environment, cwd=folder, capture_output=True, check=True).stdout)
            times[count].append(time.perf_counter() - started)
    return row_of(f"{RUNS} default runs by a sweep", times, workers, len(printed) == 1)


def row_of(name, times, threads, same):
    """Return the row of other work than steps. times: number of threads -> the seconds of each round."""
    return {"name": name, "documents": 1, "bits": same, "spread": measure.spread(times[threads]),
            "seconds": {str(n): measure.median(found) for n, found in times.items()},
            "speedup": measure.ratio(times[1], times[threads]), "pytorch": {}, "ceiling": None}  # fmt: skip


if __name__ == "__main__":
    cli.run(main)
