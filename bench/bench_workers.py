"""How much faster is a step on several threads than on one, beside what independent processes reach here?

    python bench/bench_workers.py --threads 2 --json bench/results/workers.json

The threads of one trainer against one, in turns. The ceiling: as many processes of one thread each, all at once and each on a
core of its own, against one of them alone.
"""
import os
from concurrent.futures import ThreadPoolExecutor

import tables
from bench_shapes import text_documents
from harness import cli, contest, field, machine, measure, task

machine.find_package()

BIG = {"n_embd": 128, "n_layer": 4, "block_size": 64}
#: Name -> documents per step, the model.
WORK = {
    "n_embd 16, batch 16": (16, {}),
    "n_embd 64, batch 16": (16, {"n_embd": 64}),
    "n_embd 128, 4 layers, block 64, text, batch 8": (8, BIG),
    "the same, batch 1": (1, BIG),
}
STEPS, ROUNDS = 8, 7


def main():
    p = cli.parser(__doc__, ROUNDS)
    p.add_argument("--threads", type=cli.positive, default=2, metavar="N", help="threads against one (default: 2)")
    args = p.parse_args()
    warnings, pace = machine.warnings_before(), cli.pace(args)

    def play(name, folder, progress):
        from microgpt import load_docs

        batch, model = WORK[name]
        the_task = task.write(folder, text_documents(64) if model is BIG else load_docs(), 1, **model)
        threads = [field.trainer(f"{n} threads", "fused", folder, None, options={"threads": n, "batch_size": batch})
                   for n in (1, args.threads)]  # fmt: skip
        (one, several), absent, more = contest.play(threads, threads[0], the_task, STEPS, pace, progress)
        row = {"name": name, "documents": batch, "bits": several["bits"], "spread": several["spread"],
               "seconds": {"1": one["seconds_per_document"], str(args.threads): several["seconds_per_document"]},
               "speedup": measure.ratio(one["rounds"], several["rounds"]),
               "ceiling": ceiling(folder, args.threads, batch, pace.rounds, one["runs_per_round"])}  # fmt: skip
        return [row], absent, more

    rows, absent, more = contest.each("workers", list(WORK)[: 2 if args.quick else None], 2, pace, play)
    notes = ["Medians of rounds in which one thread and several take turns. The ceiling is measured after them."]
    cli.finish("workers", args, machine.describe(None), warnings + more, [tables.workers], notes, absent,
               rows=rows, threads=args.threads)  # fmt: skip


def ceiling(folder, count, batch, rounds, repeat):
    """Return how many times the steps of one process alone that many processes at once do, each on a core of its own."""
    processes = [field.trainer(f"core {core}", "fused", folder, core, options={"batch_size": batch})
                 for core in sorted(os.sched_getaffinity(0))[:count]]  # fmt: skip

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


if __name__ == "__main__":
    cli.run(main)
